// SPDX-License-Identifier: MIT
// What was moved from is empty, and sizes that nobody can count are refused.
#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <utility>

#include "support/errors.hpp"
#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/eigen.hpp"
#include "unit_scaling/core/shape.hpp"
#include "unit_scaling/formats/catalogue.hpp"
#include "unit_scaling/formats/mx_block.hpp"
#include "unit_scaling/formats/packed.hpp"
#include "unit_scaling/formats/stochastic_rounding.hpp"

namespace moved_from_test {

using namespace unit_scaling;
using unit_scaling_test::expect_shape_error;

TEST(MovedFrom, AnArrayIsEmpty) {
  auto first = Array<float>::filled({2, 3}, 1);
  const Array<float> second = std::move(first);
  EXPECT_EQ(first, Array<float>());  // NOLINT(bugprone-use-after-move)
  EXPECT_EQ(first.shape(), Shape{0});
  auto third = Array<float>::filled({4}, 2);
  Array<float> fourth;
  fourth = std::move(third);
  EXPECT_EQ(third.shape(), Shape{0});  // NOLINT(bugprone-use-after-move)
  EXPECT_EQ(fourth, Array<float>::filled({4}, 2));
  EXPECT_EQ(second, Array<float>::filled({2, 3}, 1));
  fourth = std::move(*&fourth);
  EXPECT_EQ(fourth, Array<float>::filled({4}, 2));
}

TEST(MovedFrom, PackedAndBlockArraysAreEmpty) {
  PackedArray<float4_e2m1fn> packed(11);
  const PackedArray<float4_e2m1fn> taken = std::move(packed);
  EXPECT_EQ(packed.size(), 0U);  // NOLINT(bugprone-use-after-move)
  EXPECT_EQ(packed.bytes().size(), 0U);
  EXPECT_EQ(taken.size(), 11U);
  MxArray<float8_e4m3fn> blocks(3, 40);
  MxArray<float8_e4m3fn> other = std::move(blocks);
  EXPECT_EQ(blocks.size(), 0U);  // NOLINT(bugprone-use-after-move)
  EXPECT_EQ(other.size(), 120U);
  blocks = std::move(other);
  EXPECT_EQ(other.rows(), 0U);  // NOLINT(bugprone-use-after-move)
  EXPECT_EQ(blocks.columns(), 40U);
}

TEST(Sizes, ThatNobodyCanCountAreRefused) {
  constexpr std::size_t huge = std::size_t{1} << 59;
  expect_shape_error([] { MxArray<float8_e4m3fn>(huge, 1024); }, {"MxArray"});
  expect_shape_error([] { MxArray<float4_e2m1fn>(huge, 1024); }, {"MxArray"});
  expect_shape_error([] { MxArray<float8_e4m3fn>(std::size_t{1} << 63, 2, {}, {}); }, {"MxArray"});
  expect_shape_error([] { (void)Shape({0, std::size_t{1} << 63, 4}); }, {"Shape"});
  expect_shape_error([] { (void)size_product("op", {huge, 32, 1}); }, {"op", " * 32"});
  expect_shape_error([] { (void)size_product("op", {huge, 0, huge}); }, {"op"});
  EXPECT_EQ(size_product("op", {huge, 31}), huge * 31);
  EXPECT_EQ(size_product("op", {huge, 0}), 0U);
}

template <class A>
concept ViewsAsMatrix = requires(A&& array) {
  as_matrix(std::forward<A>(array));
};
template <class M>
concept ViewsAsArray = requires(M&& matrix) {
  as_array<float>(std::forward<M>(matrix));
};

TEST(EigenViews, OfWhatIsGoneDoNotCompile) {
  using Matrix = RowMajorMatrix<float>;
  static_assert(ViewsAsMatrix<Array<float>&> && ViewsAsMatrix<const Array<float>&>);
  static_assert(!ViewsAsMatrix<Array<float>> && !ViewsAsMatrix<const Array<float>>);
  static_assert(ViewsAsArray<Matrix&> && ViewsAsArray<const Matrix&>);
  static_assert(!ViewsAsArray<Matrix>);
  static_assert(!ViewsAsArray<decltype(std::declval<Matrix&>() * std::declval<Matrix&>())>);
  static_assert(!ViewsAsArray<decltype(std::declval<Matrix&>() + std::declval<Matrix&>())>);
}

TEST(StochasticRoundingBits, AreCheckedBeforeAnythingIsShifted) {
  for (const int bits : {0, -1, 33, 64, -2147483647}) {
    EXPECT_THROW(StochasticRounding(Random(1), bits), std::invalid_argument) << bits;
  }
}

}  // namespace moved_from_test
