// SPDX-License-Identifier: MIT
#include "unit_scaling/nn/generate.hpp"

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "support/errors.hpp"
#include "support/op_run.hpp"
#include "support/random_arrays.hpp"
#include "support/rounding_check.hpp"
#include "unit_scaling/core/parallel.hpp"
#include "unit_scaling/nn/transformer_decoder.hpp"

namespace generate_test {

using namespace unit_scaling;
using namespace unit_scaling_test;

constexpr std::size_t vocabulary = 19;
constexpr std::size_t context_length = 24;

nn::TransformerDecoder small_model() {
  nn::Initialiser initialiser(3, scaling::umup);
  return nn::TransformerDecoder(
      initialiser, vocabulary, {.hidden_size = 32, .context_length = context_length, .heads = 4},
      {.positions = nn::PositionKind::learned, .max_positions = context_length});
}

template <class P>
std::vector<std::int32_t> generated(const nn::TransformerDecoder& model,
                                    const std::vector<std::int32_t>& prompt,
                                    const nn::GenerateOptions& options) {
  Tape<P> tape(TapeMode::inference);
  std::vector<std::int32_t> tokens;
  nn::generate(tape, model, prompt, options, [&](std::int32_t token) { tokens.push_back(token); });
  return tokens;
}

/// The same without a cache: everything is read again for each token.
template <class P>
std::vector<std::int32_t> recomputed(const nn::TransformerDecoder& model,
                                     const std::vector<std::int32_t>& prompt,
                                     const nn::GenerateOptions& options) {
  const nn::TokenSampler sample(options.sampling);
  Tape<P> tape(TapeMode::inference);
  std::vector<std::int32_t> text = prompt;
  std::size_t first = text.size() > context_length ? text.size() - context_length : 0;
  for (std::size_t draw = 0; draw < options.tokens; ++draw) {
    if (text.size() - first > context_length) first = text.size() - context_length / 2;
    const std::span<const std::int32_t> seen = std::span<const std::int32_t>(text).subspan(first);
    tape.clear();
    const auto logits = model(tape, Array<std::int32_t>({1, seen.size()}, seen)).value();
    text.push_back(sample(logits.span().last(vocabulary), draw));
  }
  return {text.begin() + static_cast<std::ptrdiff_t>(prompt.size()), text.end()};
}

template <class P> class GenerateIn : public testing::Test {};
TYPED_TEST_SUITE(GenerateIn, StoragePrecisions, PrecisionNames);

TYPED_TEST(GenerateIn, DrawsWhatReadingEverythingAgainWouldDraw) {
  const auto model = small_model();
  for (const std::size_t length : {1U, 5U, 24U, 25U, 40U}) {
    const auto ids = id_array({1, length}, vocabulary, length);
    const std::vector<std::int32_t> prompt(ids.span().begin(), ids.span().end());
    const nn::GenerateOptions options{
        .sampling = {.top_k = 7, .seed = length}, .tokens = 60, .context_length = context_length};
    EXPECT_EQ(generated<TypeParam>(model, prompt, options),
              recomputed<TypeParam>(model, prompt, options))
        << length;
  }
}

TEST(Generate, IsTheSameForEveryNumberOfThreads) {
  const auto model = small_model();
  const nn::GenerateOptions options{.tokens = 40, .context_length = context_length};
  const std::size_t before = thread_count();
  set_thread_count(1);
  const auto expected = generated<precision::fp8>(model, {1, 2, 3}, options);
  for (const std::size_t threads : {2U, 3U, 7U}) {
    set_thread_count(threads);
    EXPECT_EQ(generated<precision::fp8>(model, {1, 2, 3}, options), expected);
  }
  set_thread_count(before);
}

TEST(Generate, StopsWhenItIsTold) {
  const auto model = small_model();
  Tape<precision::fp32> tape(TapeMode::inference);
  const std::vector<std::int32_t> prompt{4};
  std::size_t count = 0;
  nn::generate(tape, model, prompt, {.tokens = 100, .context_length = context_length},
               [&](std::int32_t /*token*/) { return ++count < 5; });
  EXPECT_EQ(count, 5U);
}

TEST(Generate, RefusesAnEmptyPromptAndNoContextLength) {
  const auto model = small_model();
  expect_domain_error(
      [&] { (void)generated<precision::fp32>(model, {}, {.context_length = context_length}); },
      {"generate", "prompt"});
  expect_domain_error([&] { (void)generated<precision::fp32>(model, {1}, {}); },
                      {"generate", "context_length"});
}

}  // namespace generate_test
