// SPDX-License-Identifier: MIT
// What a model trained at one length makes of shorter texts, with padding and without.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <numbers>
#include <string>

#include "support/words.hpp"
#include "unit_scaling/autograd/tape.hpp"
#include "unit_scaling/core/array.hpp"
#include "unit_scaling/formats/precision.hpp"
#include "unit_scaling/nn/initialiser.hpp"
#include "unit_scaling/nn/transformer_decoder.hpp"
#include "unit_scaling/ops/cross_entropy.hpp"
#include "unit_scaling/optim/adam.hpp"
#include "unit_scaling/scaling/rule.hpp"
#include "unit_scaling/train/causal_batch.hpp"
#include "unit_scaling/train/text_corpus.hpp"

namespace context_length_test {

using namespace unit_scaling;
using unit_scaling_test::words;

constexpr std::size_t trained_length = 64;
constexpr std::array<std::size_t, 5> lengths{4, 8, 16, 32, 64};

/// What is asked with a context of fewer tokens than the model was trained for.
enum class Padding { none, behind, before };

struct Trained {
  train::TextCorpus corpus{words(), trained_length + 1};
  nn::TransformerDecoder model;

  explicit Trained(const Scaling& rules) : model(make(rules, corpus.vocabulary_size())) {
    const train::CausalBatches batches(corpus, trained_length, /*seed=*/1);
    optim::AdamW adam(optim::parameters_of(model), {.weight_decay = 0x1p-13, .rule = rules.rule});
    Tape<precision::fp32> tape;
    const double rate = rules.rule == Rule::umup ? 0.5 : 0.0625;
    for (std::uint32_t step = 0; step < 60; ++step) {
      tape.clear();
      tape.backward(model.next_token_loss(tape, batches.training(4, step)));
      adam.step(tape, rate);
    }
  }

  static nn::TransformerDecoder make(const Scaling& rules, std::size_t vocabulary_size) {
    nn::Initialiser initialiser(1, rules);
    return {initialiser,
            vocabulary_size,
            {.hidden_size = 32,
             .context_length = trained_length,
             .layers = 2,
             .heads = 2,
             .rotary_base = 10000}};
  }

  /// Mean bits of the character behind `length` others, at the same places of the text for every
  /// length.
  [[nodiscard]] double bits(std::size_t length, Padding padding) const {
    constexpr std::size_t places = 16;
    const auto text = corpus.validation();
    const std::size_t columns = padding == Padding::none ? length : trained_length;
    const std::size_t first = padding == Padding::before ? columns - length : 0;
    auto ids = Array<std::int32_t>::filled({places, columns}, 0);
    Array<std::int32_t> mask;
    if (padding != Padding::none) mask = Array<std::int32_t>::filled({places, columns}, 0);
    Array<std::int32_t> labels(Shape{places});
    for (std::size_t place = 0; place < places; ++place) {
      const std::size_t end = trained_length + 37 * place;
      std::copy_n(text.begin() + static_cast<std::ptrdiff_t>(end - length), length,
                  ids.mutable_data() + place * columns + first);
      if (!mask.empty()) {
        std::fill_n(mask.mutable_data() + place * columns + first, length, 1);
      }
      labels.mutable_data()[place] = text[end];
    }
    Tape<precision::fp32> tape(TapeMode::inference);
    const auto logits = model.next_token_logits(tape, ids, {.mask = mask});
    const auto loss = ops::cross_entropy(logits, labels);
    return static_cast<double>(*loss.value().data()) / std::numbers::ln2;
  }
};

class ContextLength : public testing::TestWithParam<Rule> {};

TEST_P(ContextLength, IsNoPartOfATrainedFunctionPaddedOrNot) {
  const Trained trained(Scaling{GetParam()});
  for (const std::size_t length : lengths) {
    const double alone = trained.bits(length, Padding::none);
    EXPECT_LT(alone, 1.5) << length;  // The text has words of one bit a character or less.
    EXPECT_NEAR(trained.bits(length, Padding::behind), alone, 1e-5) << length;
    // Rotary positions are distances, so that these are the same, with other roundings.
    EXPECT_NEAR(trained.bits(length, Padding::before), alone, 1e-5) << length;
  }
}

INSTANTIATE_TEST_SUITE_P(Rules, ContextLength, testing::Values(Rule::paper, Rule::umup),
                         [](const auto& each) { return std::string(to_string(each.param)); });

}  // namespace context_length_test
