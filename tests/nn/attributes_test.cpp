// SPDX-License-Identifier: MIT
// The numbers that modules are told, which they check when they are made.
#include <gtest/gtest.h>

#include <cstddef>
#include <limits>
#include <string_view>
#include <vector>

#include "support/errors.hpp"
#include "unit_scaling/nn/bert.hpp"
#include "unit_scaling/nn/bert_mlp.hpp"
#include "unit_scaling/nn/conv1d.hpp"
#include "unit_scaling/nn/dropout.hpp"
#include "unit_scaling/nn/embedding.hpp"
#include "unit_scaling/nn/input_embedding.hpp"
#include "unit_scaling/nn/layer_norm.hpp"
#include "unit_scaling/nn/linear.hpp"
#include "unit_scaling/nn/multi_head_attention.hpp"
#include "unit_scaling/nn/norm.hpp"
#include "unit_scaling/nn/recurrent_highway.hpp"
#include "unit_scaling/nn/rms_norm.hpp"
#include "unit_scaling/nn/transformer_decoder.hpp"
#include "unit_scaling/nn/transformer_encoder.hpp"
#include "unit_scaling/nn/transformer_layer.hpp"
#include "unit_scaling/nn/transformer_stack.hpp"

namespace attributes_test {

using namespace unit_scaling;
using namespace unit_scaling_test;

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr double nan = std::numeric_limits<double>::quiet_NaN();
constexpr std::size_t most = std::numeric_limits<std::size_t>::max();

/// Expects every module that takes such a number to refuse these values.
template <class Make>
void expect_refused(std::string_view op, std::string_view attribute, const Make& make,
                    const std::vector<double>& also) {
  std::vector<double> values{nan, infinity, -infinity, -1, 1e-320, 1e-40, 1e39, 1e300};
  values.insert(values.end(), also.begin(), also.end());
  for (const Rule rule : {Rule::none, Rule::paper, Rule::umup}) {
    for (const double value : values) {
      SCOPED_TRACE(testing::Message() << op << " " << attribute << " " << value);
      nn::Initialiser initialiser(1, {rule});
      expect_domain_error([&] { make(initialiser, value); }, {op, attribute});
    }
  }
}

nn::TransformerConfig config() {
  return {.hidden_size = 4, .context_length = 3, .heads = 2, .rotary_base = 10000};
}

TEST(ModuleAttributes, ThatCanOnlyEndInNaNAreRefusedWhenTheModuleIsMade) {
  using nn::Initialiser;
  expect_refused("layer_norm", "epsilon",
                 [](Initialiser& i, double e) { nn::LayerNorm(i, "n", 4, e); }, {});
  expect_refused("rms_norm", "epsilon",
                 [](Initialiser& i, double e) { nn::RmsNorm(i, "n", 4, {.epsilon = e}); }, {});
  for (const nn::NormKind kind : {nn::NormKind::layer_norm, nn::NormKind::rms_norm}) {
    expect_refused("_norm", "epsilon",
                   [&](Initialiser& i, double e) { nn::Norm(i, "n", 4, kind, e); }, {});
    expect_refused("_norm", "epsilon",
                   [&](Initialiser& i, double e) {
                     auto with = config();
                     with.norm = kind;
                     with.norm_epsilon = e;
                     nn::TransformerEncoder(i, 5, with);
                   },
                   {});
  }
  expect_refused("layer_norm", "epsilon",
                 [](Initialiser& i, double e) {
                   nn::BertMlp(
                       i, {.vocabulary_size = 5, .window = 2, .hidden_size = 4, .norm_epsilon = e});
                 },
                 {});
  expect_refused("dropout", "probability", [](Initialiser& i, double p) { nn::Dropout(i, p); },
                 {1, 2});
  expect_refused("dropout", "probability",
                 [](Initialiser& i, double p) {
                   auto with = config();
                   with.dropout = p;
                   nn::TransformerEncoder(i, 5, with);
                 },
                 {1, 2});
  const auto attention = [](Initialiser& i, const nn::MultiHeadAttention::Options& options) {
    nn::MultiHeadAttention(i, "a", 4, 2, options);
  };
  expect_refused("scaled_dot_product_attention", "mult",
                 [&](Initialiser& i, double m) { attention(i, {.mult = m}); }, {0, 1e25, 1e-25});
  expect_refused("rotary", "base",
                 [&](Initialiser& i, double b) { attention(i, {.rotary_base = b}); }, {0, 0.5});
  expect_refused("sinusoidal_positions", "max_period",
                 [&](Initialiser& i, double p) {
                   attention(i, {.relative_frequencies = 2, .relative_max_period = p});
                 },
                 {0, 0.5});
  expect_refused("recurrent_highway", "rebias",
                 [](Initialiser& i, double rebias) {
                   if (rebias == -1) rebias = nan;  // that one is in range
                   nn::RecurrentHighway(i, "r", 3, 2, rebias);
                 },
                 {});
}

TEST(ModuleAttributes, ResidualWeightsOutOfRangeAreRefusedWhenTheModuleIsMade) {
  for (const Rule rule : {Rule::paper, Rule::umup}) {
    for (const double tau : {nan, infinity, -1.0, 1e-320, 1e39, 1e300}) {
      nn::Initialiser initialiser(1, {rule});
      auto with = config();
      with.residual_rule = [tau](std::size_t, std::size_t) { return tau; };
      expect_domain_error([&] { nn::TransformerEncoder(initialiser, 5, with); },
                          {"residual", "tau"});
    }
  }
}

TEST(ModuleAttributes, SizesOfAConvolutionThatFitNoInputAreRefusedWhenTheModuleIsMade) {
  nn::Initialiser initialiser(1);
  const auto refuse = [&](std::size_t kernel_size, const nn::Conv1d::Options& options,
                          std::string_view what) {
    expect_domain_error([&] { nn::Conv1d(initialiser, "c", 4, 4, kernel_size, options); }, {what});
  };
  refuse(0, {}, "kernel_size");
  refuse(3, {.stride = 0}, "stride");
  refuse(3, {.dilation = 0}, "dilation");
  refuse(3, {.groups = 0}, "groups");
  refuse(3, {.groups = 3}, "groups");
  refuse(3, {.padding = 1, .causal = true}, "padding");
  refuse(3, {.stride = most}, "counted");
  refuse(3, {.padding = most}, "counted");
  refuse(3, {.dilation = most / 2}, "counted");
}

/// Expects that a model of such a configuration is refused, whatever the rule, by a text that names
/// the size.
template <class Make> void expect_size_refused(std::string_view size, const Make& make) {
  for (const Rule rule : {Rule::none, Rule::paper, Rule::umup}) {
    SCOPED_TRACE(size);
    nn::Initialiser initialiser(1, {rule});
    expect_domain_error([&] { make(initialiser); }, {size, "of at least 1, got 0"});
  }
}

TEST(ModuleSizes, OfZeroThatLeaveNothingToTrainAreRefusedByName) {
  using nn::Initialiser;
  // Forgotten: the default of the configuration.
  const nn::TransformerConfig without{.layers = 2};
  expect_size_refused("hidden_size",
                      [&](Initialiser& i) { nn::TransformerDecoder(i, 40, without); });
  expect_size_refused("hidden_size",
                      [&](Initialiser& i) { nn::TransformerEncoder(i, 40, without); });
  expect_size_refused("hidden_size",
                      [](Initialiser& i) { nn::TransformerDecoder(i, 40, {.layers = 0}); });
  expect_size_refused("hidden_size",
                      [&](Initialiser& i) { nn::TransformerStack(i, "s", without); });
  expect_size_refused("hidden_size",
                      [](Initialiser& i) { nn::TransformerStack(i, "s", {.layers = 0}); });
  expect_size_refused("hidden_size",
                      [&](Initialiser& i) { nn::TransformerLayer(i, "l", without, 0.5, 0.5); });
  expect_size_refused("hidden_size",
                      [](Initialiser& i) { nn::MultiHeadAttention(i, "a", 0, 2, {}); });
  expect_size_refused("hidden_size", [](Initialiser& i) { nn::Bert(i, {.vocabulary_size = 40}); });
  expect_size_refused("vocabulary_size", [](Initialiser& i) {
    nn::Bert(i, {.transformer = {.hidden_size = 4, .heads = 2}});
  });
  expect_size_refused("vocabulary_size", [](Initialiser& i) { nn::BertMlp(i, {}); });
  for (const auto positions : {nn::PositionKind::learned, nn::PositionKind::sinusoidal}) {
    expect_size_refused("max_positions", [&](Initialiser& i) {
      nn::TransformerEncoder(i, 40, config(), {.positions = positions});
    });
  }
  // Given.
  expect_size_refused("vocabulary_size",
                      [](Initialiser& i) { nn::TransformerDecoder(i, 0, config()); });
  expect_size_refused("hidden_size", [](Initialiser& i) { nn::InputEmbedding(i, "e", 40, 0, {}); });
  expect_size_refused("expansion", [](Initialiser& i) {
    nn::TransformerDecoder(
        i, 40,
        {.hidden_size = 4, .context_length = 3, .heads = 2, .expansion = 0, .rotary_base = 10000});
  });
  expect_size_refused("max_positions", [](Initialiser& i) {
    nn::Bert(i, {.vocabulary_size = 40, .max_positions = 0, .transformer = config()});
  });
  expect_size_refused("window",
                      [](Initialiser& i) { nn::BertMlp(i, {.vocabulary_size = 40, .window = 0}); });
  expect_size_refused("hidden_size", [](Initialiser& i) {
    nn::BertMlp(i, {.vocabulary_size = 40, .hidden_size = 0});
  });
  expect_size_refused(
      "expansion", [](Initialiser& i) { nn::BertMlp(i, {.vocabulary_size = 40, .expansion = 0}); });
  // No layers are a model of embeddings and a read-out, which trains.
  Initialiser initialiser(1);
  nn::TransformerDecoder(
      initialiser, 40, {.hidden_size = 4, .context_length = 3, .layers = 0, .rotary_base = 10000});
  nn::BertMlp(initialiser, {.vocabulary_size = 40, .layers = 0});
}

TEST(ModuleSizes, ThatCannotBeCountedAreRefused) {
  nn::Initialiser initialiser(1);
  for (const std::size_t size : {most, most / 2 + 1, most / 3 + 1, std::size_t{1} << 40}) {
    expect_shape_error([&] { nn::Linear(initialiser, "l", size, size); }, {"count"});
    expect_shape_error([&] { nn::Embedding(initialiser, "e", size, size); }, {"count"});
    expect_shape_error([&] { nn::MultiHeadAttention(initialiser, "a", size, 1, {}); }, {"count"});
    expect_shape_error([&] { nn::RecurrentHighway(initialiser, "r", size, size); }, {"count"});
    nn::BertMlpConfig of_mlp{.vocabulary_size = 1, .window = 1, .hidden_size = 4, .layers = 1};
    of_mlp.expansion = most / 2;
    expect_shape_error([&] { nn::BertMlp(initialiser, of_mlp); }, {"BertMlp", "count"});
    auto with = config();
    with.expansion = most / 2;
    expect_shape_error([&] { nn::TransformerEncoder(initialiser, 5, with); }, {"count"});
    with = config();
    with.layers = most / 2 + 1;
    expect_shape_error([&] { nn::TransformerEncoder(initialiser, 5, with); }, {"count"});
  }
}

}  // namespace attributes_test
