// SPDX-License-Identifier: MIT
/// @file
/// Layer: tests. One training step of each of the library's models, small.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "support/random_arrays.hpp"
#include "support/transformer_variants.hpp"
#include "unit_scaling/autograd/tape.hpp"
#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/shape.hpp"
#include "unit_scaling/nn/bert.hpp"
#include "unit_scaling/nn/bert_mlp.hpp"
#include "unit_scaling/nn/conv1d.hpp"
#include "unit_scaling/nn/depth.hpp"
#include "unit_scaling/nn/dropout.hpp"
#include "unit_scaling/nn/layer_norm.hpp"
#include "unit_scaling/nn/linear_readout.hpp"
#include "unit_scaling/nn/recurrent_highway.hpp"
#include "unit_scaling/nn/residual.hpp"
#include "unit_scaling/nn/rms_norm.hpp"
#include "unit_scaling/nn/sequential.hpp"
#include "unit_scaling/nn/swiglu.hpp"
#include "unit_scaling/nn/token_mixing.hpp"
#include "unit_scaling/nn/transformer_decoder.hpp"
#include "unit_scaling/nn/transformer_encoder.hpp"
#include "unit_scaling/ops/cross_entropy.hpp"
#include "unit_scaling/ops/gelu.hpp"
#include "unit_scaling/ops/mse_loss.hpp"
#include "unit_scaling/optim/parameter_groups.hpp"

namespace unit_scaling_test {

using Fp64 = unit_scaling::Tape<unit_scaling::precision::fp64>;
using Loss = unit_scaling::Variable<unit_scaling::precision::fp64>;

/// A model, alive as long as this is, and a step of it.
struct ModelStep {
  std::string name;
  unit_scaling::Rule rule;
  bool is_without_positions = false;
  bool is_tied = false;  ///< the table of tokens is the read-out's weight
  std::vector<unit_scaling::Parameter*> parameters;
  std::function<Loss(Fp64&)> record;
};

template <class Model>
ModelStep step_of(std::string name, const unit_scaling::Scaling& rules,
                  std::unique_ptr<Model> model, auto record) {
  const std::shared_ptr<Model> shared = std::move(model);
  return {.name = std::move(name) + " under " + std::string(to_string(rules.rule)),
          .rule = rules.rule,
          .parameters = unit_scaling::optim::parameters_of(*shared),
          .record = [shared, record](Fp64& tape) { return record(*shared, tape); }};
}

/// A step of modules one after the other, from an input without gradient to a squared error.
template <class... Modules>
ModelStep step_of_modules(std::string name, const unit_scaling::Scaling& rules,
                          const unit_scaling::Shape& shape, Modules... modules) {
  using unit_scaling::nn::Sequential;
  return step_of(std::move(name), rules,
                 std::make_unique<Sequential<Modules...>>(std::move(modules)...),
                 [rules, shape](const Sequential<Modules...>& model, Fp64& tape) {
                   const auto y = model(tape.constant(normal_array<double>(shape, 1)));
                   return unit_scaling::ops::mse_loss(
                       y, tape.constant(normal_array<double>(y.shape(), 2)), {.scaling = rules});
                 });
}

/// Small models of the modules that no whole network of the library has.
inline std::vector<ModelStep> module_steps(const unit_scaling::Scaling& rules) {
  namespace nn = unit_scaling::nn;
  std::vector<ModelStep> steps;
  nn::Initialiser initialiser(1, rules);
  const auto gelu = [rules](const auto& x) {
    return unit_scaling::ops::gelu(x, {.scaling = rules});
  };
  for (const auto placement : {nn::NormPlacement::pre, nn::NormPlacement::post}) {
    const std::string where = placement == nn::NormPlacement::pre ? ", pre" : ", post";
    steps.push_back(step_of_modules(
        "Conv1d" + where, rules, {3, 4, 6},
        nn::Conv1d(initialiser, "stem", 4, 8, 3, {.causal = true}), nn::Dropout(initialiser, 0.2),
        nn::Residual(initialiser, "block", placement, 0.3,
                     nn::Sequential(
                         nn::Conv1d(initialiser, "block.in", 8, 8, 3, {.padding = 1, .groups = 2}),
                         gelu, nn::Conv1d(initialiser, "block.out", 8, 8, 3, {.padding = 1})),
                     nn::LayerNorm(initialiser, "block.norm", 6)),
        nn::Conv1d(initialiser, "head", 8, 4, 2, {.stride = 2})));
    steps.push_back(step_of_modules(
        "DepthSequential" + where, rules, {3, 6, 8},
        nn::DepthSequential(nn::Residual(initialiser, "mixing", placement, 0.4,
                                         nn::TokenMixing(initialiser, "mixing", 6),
                                         nn::RmsNorm(initialiser, "mixing.norm", 8)),
                            nn::Residual(initialiser, "gated", placement, 0.2,
                                         nn::SwiGlu(initialiser, "gated", 8, 16),
                                         nn::RmsNorm(initialiser, "gated.norm", 8))),
        nn::LinearReadout(initialiser, "readout", 8, 5)));
  }
  steps.push_back(step_of_modules("RecurrentHighway", rules, {3, 5, 4},
                                  nn::RecurrentHighway(initialiser, "lower", 4, 8),
                                  nn::RecurrentHighway(initialiser, "upper", 8, 8),
                                  nn::LinearReadout(initialiser, "readout", 8, 5)));
  return steps;
}

/// Every model under every set of rules, with each choice that changes its graph.
inline std::vector<ModelStep> model_steps() {
  namespace nn = unit_scaling::nn;
  using unit_scaling::Scaling;
  constexpr std::uint32_t vocabulary = 11;
  std::vector<ModelStep> steps;
  for (const Scaling& rules :
       {unit_scaling::scaling::none, unit_scaling::scaling::paper, unit_scaling::scaling::umup}) {
    for (ModelStep& step : module_steps(rules)) steps.push_back(std::move(step));
    const unit_scaling::ops::CrossEntropy loss{.scaling = rules};
    for (const auto placement : {nn::NormPlacement::pre, nn::NormPlacement::post}) {
      const std::string where = placement == nn::NormPlacement::pre ? ", pre" : ", post";
      {
        nn::Initialiser initialiser(1, rules);
        steps.push_back(
            step_of("BertMlp" + where, rules,
                    std::make_unique<nn::BertMlp>(initialiser,
                                                  nn::BertMlpConfig{.vocabulary_size = vocabulary,
                                                                    .window = 6,
                                                                    .hidden_size = 8,
                                                                    .layers = 2,
                                                                    .norm = placement}),
                    [loss](const nn::BertMlp& model, Fp64& tape) {
                      return unit_scaling::ops::cross_entropy(
                          model(tape, id_array({3, 6}, vocabulary, 1), id_array({5}, 18, 2)),
                          id_array({5}, vocabulary, 3), loss);
                    }));
      }
      {
        nn::Initialiser initialiser(1, rules);
        steps.push_back(step_of(
            "TransformerEncoder" + where, rules,
            std::make_unique<nn::TransformerEncoder>(
                initialiser, vocabulary,
                nn::TransformerConfig{.hidden_size = 8,
                                      .context_length = 4,
                                      .layers = 2,
                                      .heads = 2,
                                      .norm_placement = placement},
                nn::InputEmbedding::Options{.positions = nn::PositionKind::none}),
            [rules](const nn::TransformerEncoder& model, Fp64& tape) {
              // The last two positions of the second sequence are padding.
              const unit_scaling::Array<std::int32_t> mask({2, 4}, {1, 1, 1, 1, 1, 1, 0, 0});
              const auto y = model(tape, id_array({2, 4}, vocabulary, 1), {.mask = mask});
              return unit_scaling::ops::mse_loss(
                  y, tape.constant(normal_array<double>(y.shape(), 2)), {.scaling = rules});
            }));
        steps.back().is_without_positions = true;
      }
      for (const TransformerVariant& variant : transformer_variants(placement)) {
        nn::Initialiser initialiser(1, rules);
        steps.push_back(
            step_of("TransformerDecoder" + where + ", " + variant.name, rules,
                    std::make_unique<nn::TransformerDecoder>(initialiser, vocabulary,
                                                             variant.config, variant.embedding),
                    [](const nn::TransformerDecoder& model, Fp64& tape) {
                      return model.next_token_loss(tape, id_array({2, 6}, vocabulary, 1));
                    }));
      }
      for (const bool is_tied : {true, false}) {
        nn::BertConfig config = nn::bert_config(vocabulary, 8, 2, 2);
        config.max_positions = 6;
        config.transformer.norm_placement = placement;
        config.tied_readout = is_tied;
        nn::Initialiser initialiser(1, rules);
        steps.push_back(step_of("Bert" + where + (is_tied ? ", tied" : ", untied"), rules,
                                std::make_unique<nn::Bert>(initialiser, config),
                                [loss](const nn::Bert& model, Fp64& tape) {
                                  const auto hidden = model(tape, id_array({3, 6}, vocabulary, 1),
                                                            {}, id_array({3, 6}, 2, 2));
                                  return unit_scaling::ops::cross_entropy(
                                      model.masked_token_logits(hidden, id_array({5}, 18, 3)),
                                      id_array({5}, vocabulary, 4), loss);
                                }));
        steps.back().is_tied = is_tied;
      }
    }
  }
  return steps;
}

}  // namespace unit_scaling_test
