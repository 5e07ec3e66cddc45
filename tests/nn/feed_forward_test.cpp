// SPDX-License-Identifier: MIT
#include "unit_scaling/nn/feed_forward.hpp"

#include <gtest/gtest.h>

#include <cstddef>
#include <vector>

#include "support/op_run.hpp"
#include "support/random_arrays.hpp"
#include "unit_scaling/autograd/tape.hpp"
#include "unit_scaling/ops/sum.hpp"

namespace feed_forward_test {

using namespace unit_scaling;
using namespace unit_scaling_test;

/// The output and every gradient of one pass, and the bytes kept between its two halves.
template <class T> struct Pass {
  std::vector<Array<T>> arrays;
  std::size_t saved_bytes;
};

template <Precision P>
Pass<typename P::storage> pass(bool observed, const Shape& shape, std::size_t inner_size) {
  using T = typename P::storage;
  nn::Initialiser initialiser(1, scaling::paper);
  nn::FeedForward feed_forward(initialiser, "ffn", shape.columns(), inner_size);
  Tape<P> tape;
  if (observed) tape.observe_with([](const Observation&) {});
  tape.clear();
  const auto x = tape.input(normal_array<T>(shape, 2));
  const auto y = feed_forward(x);
  Pass<T> result{{Array<T>(y.shape(), y.value().span())}, tape.saved_bytes()};
  tape.backward(ops::sum(ops::sum(y)));
  const auto keep = [&](const Array<T>& gradient) {
    result.arrays.emplace_back(gradient.shape(), gradient.span());
  };
  keep(tape.gradient(x));
  feed_forward.for_each_parameter(
      [&](const Parameter& parameter) { keep(tape.gradient(parameter)); });
  return result;
}

template <Precision P> void expect_observing_changes_no_bit() {
  const auto seen = pass<P>(true, {33, 17}, 50);
  const auto unseen = pass<P>(false, {33, 17}, 50);
  ASSERT_EQ(seen.arrays.size(), 6U);
  ASSERT_EQ(unseen.arrays.size(), 6U);
  for (std::size_t i = 0; i < seen.arrays.size(); ++i) {
    EXPECT_TRUE(same_bits(seen.arrays[i], unseen.arrays[i])) << P::name << ", array " << i;
  }
}

TEST(FeedForward, GivesTheSameBitsWhetherObservedOrNot) {
  expect_observing_changes_no_bit<precision::fp32>();
  expect_observing_changes_no_bit<precision::fp16>();
  expect_observing_changes_no_bit<precision::fp8>();
}

// For each hidden number: its operand, 1 byte, and 4 of the inner ones in FP16, 8 bytes; against
// (1 + 4 + 4) · 4 bytes in FP32. Weights in FP32 are the parameters themselves.
TEST(FeedForward, KeepsAQuarterOfTheBytesUnderFp8) {
  constexpr std::size_t rows = 512, hidden = 64;
  const auto wide = pass<precision::fp32>(false, {rows, hidden}, 4 * hidden).saved_bytes;
  const auto narrow = pass<precision::fp8>(false, {rows, hidden}, 4 * hidden).saved_bytes;
  EXPECT_EQ(wide, rows * hidden * 36);
  EXPECT_EQ(narrow, rows * hidden * 9 + 2 * 4 * hidden * hidden);
  EXPECT_LE(static_cast<double>(narrow), 0.35 * static_cast<double>(wide));
}

}  // namespace feed_forward_test
