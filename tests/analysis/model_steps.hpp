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
#include "unit_scaling/autograd/tape.hpp"
#include "unit_scaling/nn/bert.hpp"
#include "unit_scaling/nn/bert_mlp.hpp"
#include "unit_scaling/nn/transformer_decoder.hpp"
#include "unit_scaling/ops/cross_entropy.hpp"
#include "unit_scaling/optim/parameter_groups.hpp"

namespace unit_scaling_test {

using Fp64 = unit_scaling::Tape<unit_scaling::precision::fp64>;
using Loss = unit_scaling::Variable<unit_scaling::precision::fp64>;

/// A model, alive as long as this is, and a step of it.
struct ModelStep {
  std::string name;
  unit_scaling::Rule rule;
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

/// Every model under every set of rules, with each choice that changes its graph.
inline std::vector<ModelStep> model_steps() {
  namespace nn = unit_scaling::nn;
  using unit_scaling::Scaling;
  constexpr std::uint32_t vocabulary = 11;
  std::vector<ModelStep> steps;
  for (const Scaling& rules :
       {unit_scaling::scaling::none, unit_scaling::scaling::paper, unit_scaling::scaling::umup}) {
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
      for (const auto mlp : {nn::MlpKind::gelu, nn::MlpKind::swiglu}) {
        for (const std::string positions : {"rotary", "relative", "learned", "sinusoidal"}) {
          nn::TransformerConfig config{
              .hidden_size = 8,
              .layers = 2,
              .heads = 2,
              .norm_placement = placement,
              .norm = mlp == nn::MlpKind::gelu ? nn::NormKind::layer_norm : nn::NormKind::rms_norm,
              .mlp = mlp,
              .dropout = positions == "learned" ? 0.2 : 0,
              .attention_mult = positions == "relative" ? 2.0 : 1.0};
          nn::InputEmbedding::Options embedding;
          if (positions == "rotary") config.rotary_base = 10000;
          if (positions == "relative") config.relative_frequencies = 4;
          if (positions == "learned") {
            embedding = {.positions = nn::PositionKind::learned, .max_positions = 6};
          }
          if (positions == "sinusoidal") {
            embedding = {.positions = nn::PositionKind::sinusoidal, .max_positions = 6};
          }
          nn::Initialiser initialiser(1, rules);
          steps.push_back(step_of(
              "TransformerDecoder" + where +
                  (mlp == nn::MlpKind::gelu ? ", gelu, " : ", swiglu, ") + positions,
              rules,
              std::make_unique<nn::TransformerDecoder>(initialiser, vocabulary, config, embedding),
              [](const nn::TransformerDecoder& model, Fp64& tape) {
                return model.next_token_loss(tape, id_array({2, 6}, vocabulary, 1));
              }));
        }
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
