// SPDX-License-Identifier: MIT
// What was moved from is empty, and sizes that nobody can count are refused.
#include <gtest/gtest.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <stdexcept>
#include <type_traits>
#include <utility>
#include <vector>

#include "support/errors.hpp"
#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/eigen.hpp"
#include "unit_scaling/core/shape.hpp"
#include "unit_scaling/formats/catalogue.hpp"
#include "unit_scaling/formats/encoded_array.hpp"
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

TEST(MovedFrom, EncodedArraysAreEmpty) {
  EncodedArray packed = EncodedArray::pack(Array<float4_e2m1fn>(Shape{11}));
  EncodedArray taken = std::move(packed);
  EXPECT_EQ(packed.size(), 0U);  // NOLINT(bugprone-use-after-move)
  EXPECT_EQ(packed.codes().size(), 0U);
  EXPECT_EQ(taken.size(), 11U);
  packed = std::move(taken);
  EXPECT_EQ(packed.codes().size(), 6U);
}

TEST(Sizes, ThatNobodyCanCountAreRefused) {
  constexpr std::size_t huge = std::size_t{1} << 59;
  expect_shape_error([] { (void)Shape({0, std::size_t{1} << 63, 4}); }, {"Shape"});
  expect_shape_error([] { (void)size_product("op", {huge, 32, 1}); }, {"op", " * 32"});
  expect_shape_error([] { (void)size_product("op", {huge, 0, huge}); }, {"op"});
  EXPECT_EQ(size_product("op", {huge, 31}), huge * 31);
  EXPECT_EQ(size_product("op", {huge, 0}), 0U);
  static_assert(size_product("op", {6, 7}) == 42);
  constexpr std::size_t most = std::numeric_limits<std::size_t>::max();
  EXPECT_EQ(size_product("op", {most, 1}), most);
  EXPECT_EQ(size_sum("op", {}), 0U);
  EXPECT_EQ(size_sum("op", {most, 0}), most);
  expect_shape_error([] { (void)size_sum("op", {most, 1}); }, {"op: ", "count", " + 1"});
  expect_shape_error([] { (void)size_sum("op", {1, most - 1, 1}); }, {"op: ", "count"});
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
  // Of another layout, so that it would be converted.
  static_assert(!ViewsAsArray<Eigen::MatrixXf&>);
  static_assert(!ViewsAsArray<decltype(std::declval<Matrix&>() * std::declval<Matrix&>())>);
  static_assert(!ViewsAsArray<decltype(std::declval<Matrix&>() + std::declval<Matrix&>())>);
}

template <class T>
concept HasSpan = requires {
  std::declval<T>().span();
};
template <class T>
concept HasRow = requires {
  std::declval<T>().row(0);
};
template <class T>
concept IsWritable = requires {
  std::declval<T>().mutable_data();
};
template <class T>
concept HasMutableSpan = requires {
  std::declval<T>().mutable_span();
};
template <class T>
concept CanBeBorrowed = requires {
  Array<float>::borrow(std::declval<T>(), Shape{2});
};
template <class T>
concept HasExtents = requires {
  std::declval<T>().begin();
  std::declval<T>().end();
};

TEST(Views, OfTemporaryArraysDoNotCompile) {
  using A = Array<float>;
  static_assert(HasSpan<A&> && HasSpan<const A&> && !HasSpan<A> && !HasSpan<const A>);
  static_assert(HasRow<A&> && HasRow<const A&> && !HasRow<A> && !HasRow<const A>);
  static_assert(IsWritable<A&> && !IsWritable<A>);
  static_assert(HasMutableSpan<A&> && !HasMutableSpan<A>);
  static_assert(HasExtents<Shape&> && HasExtents<const Shape&> && !HasExtents<Shape>);
  // The shape of a temporary is a value of its own.
  static_assert(std::is_same_v<decltype(std::declval<A>().shape()), Shape>);
  static_assert(std::is_same_v<decltype(std::declval<const A&>().shape()), const Shape&>);
  static_assert(CanBeBorrowed<const std::vector<float>&>);
  static_assert(CanBeBorrowed<std::span<float>> && CanBeBorrowed<std::span<const float>>);
  static_assert(CanBeBorrowed<std::span<const float, 2>>);
  static_assert(!CanBeBorrowed<std::vector<float>> && !CanBeBorrowed<const std::vector<float>>);
  static_assert(!CanBeBorrowed<std::array<float, 2>>);
}

template <class T>
concept HasCodes = requires {
  std::declval<T>().codes();
};

TEST(Views, OfTemporaryEncodedArraysDoNotCompile) {
  static_assert(HasCodes<EncodedArray&> && HasCodes<const EncodedArray&> &&
                !HasCodes<EncodedArray>);
}

TEST(MovedFrom, ABorrowedArrayIsWritableAgain) {
  const std::vector<float> memory{1, 2};
  Array<float> array = Array<float>::borrow(std::span<const float>(memory), {2});
  const Array<float> taken = std::move(array);
  array = Array<float>({2}, {3, 4});
  const float* before = array.data();
  EXPECT_EQ(array.mutable_data(), before);
}

TEST(StochasticRoundingBits, AreCheckedBeforeAnythingIsShifted) {
  for (const int bits : {0, -1, 33, 64, -2147483647}) {
    EXPECT_THROW(StochasticRounding(Random(1), bits), std::invalid_argument) << bits;
  }
}

}  // namespace moved_from_test
