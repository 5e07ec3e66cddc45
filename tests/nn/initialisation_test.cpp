// SPDX-License-Identifier: MIT
// The claim of unit scaling on a whole model: every weight, activation and gradient of the first
// step has a scale near one, whatever the size, with nothing tuned and no loss scale.
#include <gtest/gtest.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <tuple>
#include <vector>

#include "support/random_arrays.hpp"
#include "unit_scaling/analysis/scale_report.hpp"
#include "unit_scaling/autograd/tape.hpp"
#include "unit_scaling/nn/bert_mlp.hpp"
#include "unit_scaling/ops/cross_entropy.hpp"
#include "unit_scaling/train/masked_batch.hpp"
#include "unit_scaling/train/text_corpus.hpp"

namespace initialisation_test {

using namespace unit_scaling;
using namespace unit_scaling_test;
using analysis::TensorScale;

constexpr std::size_t window = 16;
constexpr std::size_t windows = 16;

/// Every tensor of one training step of a fresh model.
std::vector<TensorScale> first_step(std::size_t hidden_size, nn::NormPlacement placement,
                                    std::size_t vocabulary, const train::MaskedBatch& batch) {
  nn::Initialiser initialiser(1);
  const nn::BertMlp model(initialiser, {.vocabulary_size = vocabulary,
                                        .window = window,
                                        .hidden_size = hidden_size,
                                        .layers = 4,
                                        .norm = placement});
  analysis::ScaleReport report;
  Tape<precision::fp32> tape;
  tape.observe_with(report.observer());
  tape.backward(ops::cross_entropy(model(tape, batch.ids, batch.selected), batch.labels));
  return report.tensors();
}

/// Tokens and labels that have nothing to do with each other.
train::MaskedBatch random_batch(std::uint32_t vocabulary) {
  constexpr std::size_t selected = 38;  // 15 % of 256
  train::MaskedBatch batch{id_array({windows, window}, vocabulary, 2),
                           Array<std::int32_t>(Shape{selected}),
                           id_array({selected}, vocabulary, 3)};
  // 7 and 256 have no common factor, so no position stands twice.
  for (std::size_t k = 0; k < selected; ++k) {
    batch.selected.mutable_data()[k] = static_cast<std::int32_t>(7 * k % (windows * window));
  }
  return batch;
}

train::TextCorpus source_text() {
  const std::array paths{std::filesystem::path(UNIT_SCALING_SOURCE_DIR) /
                         "include/unit_scaling/autograd/tape.hpp"};
  return {train::TextCorpus::read_files(paths), window};
}

std::string describe(const TensorScale& tensor) {
  return std::string(is_forward(tensor.role) ? "" : "gradient of ") +
         (is_parameter(tensor.role) ? "parameter " : "op ") + std::to_string(tensor.index) + ", " +
         tensor.name + " " + to_string(tensor.shape);
}

bool is_loss(const TensorScale& tensor) {
  return tensor.name == "cross_entropy" && is_forward(tensor.role);
}

bool is_bias(const TensorScale& tensor) {
  return is_parameter(tensor.role) && tensor.name.ends_with(".bias");
}

/// Expects a scale within a factor of two of one for every weight, activation and gradient.
/// The gradients of biases get a bound of their own.
void expect_unit_scale(const std::vector<TensorScale>& tensors, double largest_bias_gradient) {
  std::size_t parameters = 0;
  std::size_t parameter_gradients = 0;
  for (const TensorScale& tensor : tensors) {
    SCOPED_TRACE(describe(tensor));
    EXPECT_EQ(tensor.non_finite_share, 0);
    const bool forward = is_forward(tensor.role);
    parameters += is_parameter(tensor.role) && forward ? 1 : 0;
    parameter_gradients += is_parameter(tensor.role) && !forward ? 1 : 0;
    if (is_loss(tensor)) continue;  // a number of nats, not a tensor of the network
    if (is_bias(tensor) && forward) {
      EXPECT_EQ(tensor.rms, 0);
      continue;
    }
    EXPECT_GE(tensor.rms, 0.5);
    EXPECT_LE(tensor.rms, is_bias(tensor) ? largest_bias_gradient : 2);
  }
  // Two tables; four blocks of a weight, two linear layers and two normalisations; the last
  // normalisation and the read-out.
  EXPECT_EQ(parameters, 2U + 4U * (1 + 2 * 2 + 2 * 2) + 2U + 1U);
  EXPECT_EQ(parameter_gradients, parameters);
}

/// Expects the scale of the ops whose factors are not constrained, which is one but for the data:
/// the outputs of lookups, of their sum, of normalisations and of the read-out, and the gradient
/// that the loss sends into the read-out. The smallest of them has 38 · 66 elements.
void expect_closest_where_unconstrained(const std::vector<TensorScale>& tensors) {
  std::size_t checked = 0;
  for (const TensorScale& tensor : tensors) {
    if (is_parameter(tensor.role)) continue;
    const bool is_readout = tensor.name == "linear_readout";
    const bool is_output =
        is_forward(tensor.role) && (tensor.name == "embedding" || tensor.name == "add" ||
                                    tensor.name == "layer_norm" || is_readout);
    if (!is_output && !is_readout) continue;
    SCOPED_TRACE(describe(tensor));
    EXPECT_GE(tensor.rms, 0.9);
    EXPECT_LE(tensor.rms, 1.1);
    ++checked;
  }
  // Two lookups, their sum, nine normalisations, the read-out in both directions.
  EXPECT_EQ(checked, 2U + 1U + 9U + 2U);
}

using Case = std::tuple<nn::NormPlacement, std::size_t>;

class Initialisation : public testing::TestWithParam<Case> {};

TEST_P(Initialisation, EveryTensorHasUnitScaleOnIndependentTokensAndLabels) {
  const auto [placement, hidden_size] = GetParam();
  const auto tensors = first_step(hidden_size, placement, 66, random_batch(66));
  expect_unit_scale(tensors, 2);
  expect_closest_where_unconstrained(tensors);
}

// The rules assume that the gradients of different positions have nothing in common. A text's do:
// many labels are the same character, and many inputs the mask, so that part of each gradient is
// the same at every position. A bias sums over positions and nothing else, so it adds up that
// part: if it has a share ρ of the mean square, the scale of the sum of n terms is
// √(1 + (n − 1) ρ) instead of 1, 2.8 at most for this text (ρ = 0.18 of the n = 38 positions that
// have a loss). In the gradients of weights and gains random activations take it away.
TEST_P(Initialisation, EveryTensorButTheGradientsOfBiasesHasUnitScaleOnText) {
  const auto [placement, hidden_size] = GetParam();
  const train::TextCorpus corpus = source_text();
  const auto batch = train::MaskedBatches(corpus, window, 16).training(windows, 0);
  ASSERT_EQ(batch.labels.size(), 38U);
  const auto tensors = first_step(hidden_size, placement, corpus.vocabulary_size(), batch);
  expect_unit_scale(tensors, 4);
  expect_closest_where_unconstrained(tensors);
}

std::string case_name(const testing::TestParamInfo<Case>& info) {
  const auto [placement, hidden_size] = info.param;
  return std::string(placement == nn::NormPlacement::pre ? "pre" : "post") + "_" +
         std::to_string(hidden_size);
}

INSTANTIATE_TEST_SUITE_P(
    Sizes, Initialisation,
    testing::Combine(testing::Values(nn::NormPlacement::pre, nn::NormPlacement::post),
                     testing::Values(std::size_t{64}, std::size_t{256}, std::size_t{1024})),
    case_name);

}  // namespace initialisation_test
