// SPDX-License-Identifier: MIT
// A module of any kind that is moved between its forward and its backward pass: the tape computes
// the gradients of where it was, and optimisers say by name that it has not stayed in place. The
// sanitizers see whether anybody reads what is gone.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "support/errors.hpp"
#include "support/random_arrays.hpp"
#include "unit_scaling/autograd/tape.hpp"
#include "unit_scaling/nn/bert.hpp"
#include "unit_scaling/nn/bert_mlp.hpp"
#include "unit_scaling/nn/conv1d.hpp"
#include "unit_scaling/nn/depth.hpp"
#include "unit_scaling/nn/dropout.hpp"
#include "unit_scaling/nn/embedding.hpp"
#include "unit_scaling/nn/feed_forward.hpp"
#include "unit_scaling/nn/input_embedding.hpp"
#include "unit_scaling/nn/layer_norm.hpp"
#include "unit_scaling/nn/linear.hpp"
#include "unit_scaling/nn/linear_readout.hpp"
#include "unit_scaling/nn/multi_head_attention.hpp"
#include "unit_scaling/nn/norm.hpp"
#include "unit_scaling/nn/recurrent_highway.hpp"
#include "unit_scaling/nn/residual.hpp"
#include "unit_scaling/nn/rms_norm.hpp"
#include "unit_scaling/nn/sequential.hpp"
#include "unit_scaling/nn/swiglu.hpp"
#include "unit_scaling/nn/token_mixing.hpp"
#include "unit_scaling/nn/transformer_decoder.hpp"
#include "unit_scaling/nn/transformer_encoder.hpp"
#include "unit_scaling/nn/transformer_layer.hpp"
#include "unit_scaling/nn/transformer_stack.hpp"
#include "unit_scaling/ops/mse_loss.hpp"
#include "unit_scaling/optim/adam.hpp"
#include "unit_scaling/optim/gradient_sum.hpp"
#include "unit_scaling/optim/parameter_groups.hpp"
#include "unit_scaling/optim/sgd.hpp"

namespace moved_module_test {

using namespace unit_scaling;
using namespace unit_scaling_test;

using P = precision::fp32;
using Gradients = std::map<std::string, Array<float>>;

template <class Module> std::vector<std::string> names_of(Module& module) {
  std::vector<std::string> names;
  module.for_each_parameter([&](const Parameter& parameter) { names.push_back(parameter.name); });
  return names;
}

Variable<P> loss_of(const Variable<P>& y) {
  const auto target = y.tape().constant(normal_array<float>(y.shape(), 7));
  return ops::mse_loss(y, target);
}

/// How a module is moved.
struct Case {
  bool is_observed;
  bool is_gone;  ///< the place that it was moved from
};

/// @param make a module from an initialiser; `run` calls it on a tape.
template <class Make, class Run>
void check(const std::string& kind, const Make& make, const Run& run, const Case& with) {
  SCOPED_TRACE(testing::Message() << kind << (with.is_observed ? ", observed" : "")
                                  << (with.is_gone ? ", gone" : ""));
  const auto make_one = [&] {
    nn::Initialiser initialiser(1, scaling::umup);
    return std::make_unique<decltype(make(initialiser))>(make(initialiser));
  };
  Gradients expected;
  {
    const auto model = make_one();
    Tape<P> tape;
    tape.backward(loss_of(run(tape, *model)));
    for (const Parameter* parameter : optim::parameters_of(*model)) {
      expected[parameter->name] =
          Array<float>(tape.gradient(*parameter).shape(), tape.gradient(*parameter).span());
    }
  }

  Gradients seen;
  std::vector<std::string> paths;
  Tape<P> tape;
  if (with.is_observed) {
    tape.observe_with([&](const Observation& each) {
      paths.emplace_back(each.module);
      if (each.role == TensorRole::parameter_gradient && !each.elements.empty()) {
        seen[std::string(each.name)] = Array<float>(each.shape, each.elements);
      }
    });
  }
  auto model = make_one();
  const std::vector<Parameter*> parameters = optim::parameters_of(*model);
  const std::vector<std::string> names = names_of(*model);
  optim::AdamW optimiser(parameters);
  optim::GradientSum sum(parameters);
  const auto loss = loss_of(run(tape, *model));
  auto moved = std::make_unique<std::remove_reference_t<decltype(*model)>>(std::move(*model));
  if (with.is_gone) model.reset();
  (void)tape.saved_bytes();
  tape.backward(loss);

  // The gradients are those of the values that the forward pass saw.
  if (with.is_observed) {
    for (const auto& [name, gradient] : seen) EXPECT_EQ(gradient, expected[name]) << name;
    EXPECT_EQ(seen.size(), static_cast<std::size_t>(std::count_if(
                               expected.begin(), expected.end(),
                               [](const auto& entry) { return !entry.second.empty(); })));
    for (const std::string& path : paths) EXPECT_EQ(path.find('\0'), std::string::npos);
  }
  if (!with.is_gone) {
    for (std::size_t k = 0; k < names.size(); ++k) {
      EXPECT_EQ(tape.gradient(*parameters[k]), expected[names[k]]) << names[k];
    }
  }

  if (!names.empty()) {
    sum.add(tape);
    // Layers in a vector stay where they are when that is moved.
    const std::vector<Parameter*> now = optim::parameters_of(*moved);
    const auto moved_first = static_cast<std::size_t>(
        std::mismatch(now.begin(), now.end(), parameters.begin()).first - now.begin());
    if (moved_first < names.size()) {
      const std::string& name = names[moved_first];
      expect_domain_error([&] { optimiser.step(tape, 0.1); }, {"AdamW", "in place", name});
      expect_domain_error([&] { optimiser.step(sum, 0.1); }, {"AdamW", "in place", name});
    }
    optim::Sgd another(now);
    if (std::find_first_of(now.begin(), now.end(), parameters.begin(), parameters.end()) ==
        now.end()) {
      expect_domain_error([&] { another.step(tape, 0.1); }, {"Sgd", "in place"});
      optim::GradientSum another_sum(now);
      expect_domain_error([&] { another_sum.add(tape); }, {"GradientSum", "backward"});
    }
    // Where it is now, it is as good as new.
    tape.clear();
    tape.set_step(0);  // the same draws
    tape.backward(loss_of(run(tape, *moved)));
    for (const Parameter* parameter : now) {
      EXPECT_EQ(tape.gradient(*parameter), expected[parameter->name]) << parameter->name;
    }
    another.step(tape, 0.1);
  }
  // Where it was, there is an empty one, of which ops say so.
  if (!with.is_gone && !names.empty() && kind != "TransformerStack" && kind != "DepthModuleList") {
    tape.clear();
    expect_shape_error([&] { (void)run(tape, *model); }, {"(0)"});
  }
}

template <class Make, class Run>
void check(const std::string& kind, const Make& make, const Run& run) {
  for (const bool is_observed : {false, true}) {
    for (const bool is_gone : {false, true}) check(kind, make, run, {is_observed, is_gone});
  }
}

/// A module of x (2, 3, 4).
template <class Make> void check_of_x(const std::string& kind, const Make& make) {
  check(kind, make, [](Tape<P>& tape, const auto& module) {
    return module(tape.input(normal_array<float>({2, 3, 4}, 3)));
  });
}

// Names that a short string holds in itself, and longer ones, which move with the string.
const std::string long_name = "a name that is too long for a short string to hold";

using nn::Initialiser;

TEST(MovedModule, OfOneOpIsCorrectOrAnErrorByName) {
  for (const std::string& name : {std::string("a"), long_name}) {
    check_of_x("Linear", [&](Initialiser& i) { return nn::Linear(i, name, 4, 5); });
    check_of_x("LinearReadout", [&](Initialiser& i) { return nn::LinearReadout(i, name, 4, 5); });
    check_of_x("LayerNorm", [&](Initialiser& i) { return nn::LayerNorm(i, name, 4); });
    check_of_x("RmsNorm", [&](Initialiser& i) { return nn::RmsNorm(i, name, 4, {.gain = true}); });
    check_of_x("RmsNorm", [&](Initialiser& i) { return nn::RmsNorm(i, name, 4); });
    for (const nn::NormKind kind : {nn::NormKind::layer_norm, nn::NormKind::rms_norm}) {
      check_of_x("Norm", [&](Initialiser& i) { return nn::Norm(i, name, 4, kind); });
    }
    check_of_x("TokenMixing", [&](Initialiser& i) { return nn::TokenMixing(i, name, 3); });
    check_of_x("Conv1d", [&](Initialiser& i) { return nn::Conv1d(i, name, 3, 2, 2); });
    check_of_x("RecurrentHighway",
               [&](Initialiser& i) { return nn::RecurrentHighway(i, name, 4, 5); });
    check_of_x("Dropout", [&](Initialiser& i) { return nn::Dropout(i, 0.5); });
    check(
        "Embedding", [&](Initialiser& i) { return nn::Embedding(i, name, 6, 4); },
        [](Tape<P>& tape, const auto& module) { return module(tape, id_array(Shape{5}, 6, 1)); });
  }
}

TEST(MovedModule, OfSeveralModulesIsCorrectOrAnErrorByName) {
  for (const std::string& name : {std::string("a"), long_name}) {
    check_of_x("FeedForward", [&](Initialiser& i) { return nn::FeedForward(i, name, 4, 6); });
    check_of_x("SwiGlu", [&](Initialiser& i) { return nn::SwiGlu(i, name, 4, 6); });
    check_of_x("MultiHeadAttention",
               [&](Initialiser& i) { return nn::MultiHeadAttention(i, name, 4, 2, {}); });
    check_of_x("MultiHeadAttention", [&](Initialiser& i) {
      return nn::MultiHeadAttention(i, name, 4, 2, {.relative_frequencies = 2});
    });
    check_of_x("Sequential", [&](Initialiser& i) {
      return nn::Sequential{nn::Linear(i, name, 4, 4), nn::LayerNorm(i, name + "b", 4)};
    });
    check_of_x("DepthSequential", [&](Initialiser& i) {
      return nn::DepthSequential{nn::Linear(i, name, 4, 4), nn::LayerNorm(i, name + "b", 4)};
    });
    check_of_x("Residual", [&](Initialiser& i) {
      nn::Linear branch(i, name, 4, 4);
      return nn::Residual(i, name, nn::NormPlacement::pre, 0.5, std::move(branch),
                          nn::LayerNorm(i, name + ".norm", 4));
    });
    check_of_x("DepthModuleList", [&](Initialiser& i) {
      std::vector<nn::Linear> layers;
      layers.emplace_back(i, name, 4, 4);
      layers.emplace_back(i, name + "b", 4, 4);
      return nn::DepthModuleList(std::move(layers));
    });
    check(
        "InputEmbedding",
        [&](Initialiser& i) {
          return nn::InputEmbedding(
              i, name, 6, 4,
              {.positions = nn::PositionKind::learned, .max_positions = 5, .segments = 2});
        },
        [](Tape<P>& tape, const auto& module) {
          return module(tape, id_array({2, 3}, 6, 1), id_array({2, 3}, 2, 2));
        });
  }
}

nn::TransformerConfig config() {
  return {.hidden_size = 4, .context_length = 5, .heads = 2, .dropout = 0.25, .rotary_base = 10000};
}

TEST(MovedModule, ThatIsAModelIsCorrectOrAnErrorByName) {
  check_of_x("TransformerLayer",
             [](Initialiser& i) { return nn::TransformerLayer(i, "layer", config(), 0.5, 0.5); });
  check_of_x("TransformerStack",
             [](Initialiser& i) { return nn::TransformerStack(i, "layers", config()); });
  const auto of_ids = [](Tape<P>& tape, const auto& model) {
    return model(tape, id_array({2, 3}, 6, 1));
  };
  check(
      "TransformerEncoder", [](Initialiser& i) { return nn::TransformerEncoder(i, 6, config()); },
      of_ids);
  check(
      "TransformerDecoder", [](Initialiser& i) { return nn::TransformerDecoder(i, 6, config()); },
      of_ids);
  check(
      "BertMlp",
      [](Initialiser& i) {
        return nn::BertMlp(i, {.vocabulary_size = 6, .window = 3, .hidden_size = 4, .layers = 2});
      },
      [](Tape<P>& tape, const auto& model) {
        return model(tape, id_array({2, 3}, 6, 1), id_array(Shape{2}, 6, 2));
      });
  for (const bool is_tied : {false, true}) {
    check(
        "Bert",
        [&](Initialiser& i) {
          auto of_bert = nn::bert_config(6, 4, 1, 2);
          of_bert.tied_readout = is_tied;
          return nn::Bert(i, of_bert);
        },
        [](Tape<P>& tape, const auto& model) {
          const auto hidden = model(tape, id_array({2, 3}, 6, 1), {}, id_array({2, 3}, 2, 2));
          return model.masked_token_logits(hidden, id_array(Shape{2}, 6, 2));
        });
  }
  check_of_x("BertPooler", [](Initialiser& i) { return nn::BertPooler(i, "pooler", 4); });
  check_of_x("BertClassifier",
             [](Initialiser& i) { return nn::BertClassifier(i, "classifier", 4, 3); });
  check(
      "BertSpan", [](Initialiser& i) { return nn::BertSpan(i, "span", 4); },
      [](Tape<P>& tape, const auto& module) {
        return module(tape.input(normal_array<float>({2, 3, 4}, 3))).begin;
      });
}

TEST(MovedModule, GrowsInAVectorWhileItsStepIsRecorded) {
  Initialiser initialiser(1, scaling::umup);
  std::vector<nn::Linear> layers;
  layers.emplace_back(initialiser, "first", 4, 4);
  Tape<P> tape;
  const Variable<P> x = tape.input(normal_array<float>({3, 4}, 1));
  const Variable<P> y = layers[0](x);
  layers.reserve(layers.capacity() + 1);  // to another place
  layers.emplace_back(initialiser, "second", 4, 4);
  tape.backward(loss_of(layers[1](layers[0](y))));
  // The first was used as two parameters, of which one is gone.
  optim::Sgd(optim::parameters_of(layers[1])).step(tape, 0.1);
  EXPECT_FALSE(tape.gradient(*optim::parameters_of(layers[0])[0]).empty());
}

TEST(MovedModule, IsRefusedWhereAnotherOneStoodInTheSameStep) {
  Initialiser initialiser(1, scaling::umup);
  for (const std::size_t size : {4U, 64U}) {
    nn::Linear layer(initialiser, "first", 4, 4, {.bias = false});
    Tape<P> tape;
    const Variable<P> x = tape.input(normal_array<float>({3, 4}, 1));
    const Variable<P> y = layer(x);
    layer = nn::Linear(initialiser, "second", 4, size, {.bias = false});
    expect_error<std::invalid_argument>([&] { (void)layer(y); }, {"'second.weight'", "in place"});
    tape.clear();
    (void)layer(tape.input(normal_array<float>({3, 4}, 1)));
  }
}

}  // namespace moved_module_test
