// SPDX-License-Identifier: MIT
#include "unit_scaling/core/array.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory_resource>
#include <span>
#include <utility>
#include <vector>

#include "support/errors.hpp"
#include "unit_scaling/core/eigen.hpp"
#include "unit_scaling/core/memory.hpp"

namespace array_test {

using namespace unit_scaling;
using unit_scaling_test::expect_shape_error;

TEST(Array, IsEmptyByDefault) {
  const Array<float> array;
  EXPECT_EQ(array.shape(), Shape{0});
  EXPECT_TRUE(array.empty());
  EXPECT_EQ(array.bytes(), 0U);
}

TEST(Array, HoldsItsValuesRowByRow) {
  const Array<float> array({2, 3}, {1, 2, 3, 4, 5, 6});
  EXPECT_EQ(array.rows(), 2U);
  EXPECT_EQ(array.columns(), 3U);
  EXPECT_EQ(array.bytes(), 24U);
  EXPECT_EQ(array.row(1)[0], 4);
  EXPECT_EQ(array.span()[5], 6);
}

TEST(Array, RejectsAnotherNumberOfValues) {
  expect_shape_error([] { (void)Array<float>({2, 3}, {1, 2}); }, {"Array", "(2, 3)", "(2)"});
}

TEST(Array, ScalarsHaveOneElement) {
  const Array<double> scalar(Shape{}, {7});
  EXPECT_EQ(scalar.size(), 1U);
  EXPECT_EQ(scalar.data()[0], 7);
}

TEST(Array, FilledHasEqualElements) {
  const auto array = Array<int>::filled({3, 2}, 9);
  for (const int element : array.span()) EXPECT_EQ(element, 9);
  EXPECT_TRUE(Array<int>::filled({3, 0}, 9).empty());
}

TEST(Array, StorageIsAlignedForVectors) {
  for (std::size_t size = 1; size < 40; ++size) {
    const Array<float> array(Shape{size});
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(array.data()) % array_alignment, 0U);
  }
}

TEST(Array, CopiesShareStorageUntilOneIsWritten) {
  Array<float> original({3}, {1, 2, 3});
  Array<float> copy = original;
  EXPECT_EQ(copy.data(), original.data());
  copy.mutable_data()[0] = 10;
  EXPECT_NE(copy.data(), original.data());
  EXPECT_EQ(original, Array<float>({3}, {1, 2, 3}));
  EXPECT_EQ(copy, Array<float>({3}, {10, 2, 3}));
  // The other is the only owner again and is written in place.
  const float* const before = original.data();
  original.mutable_span()[1] = 20;
  EXPECT_EQ(original.data(), before);
}

TEST(Array, OnlyOwnerIsWrittenInPlace) {
  Array<float> array({2}, {1, 2});
  const float* const before = array.data();
  EXPECT_EQ(array.mutable_data(), before);
  { const Array<float> gone = array; }
  EXPECT_EQ(array.mutable_data(), before);
  const Array<float> moved = std::move(array);
  EXPECT_EQ(moved.data(), before);
}

TEST(Array, BorrowedMemoryIsReadAndWrittenInPlace) {
  std::vector<float> memory{1, 2, 3, 4};
  auto array = Array<float>::borrow(std::span<float>(memory), {2, 2});
  EXPECT_EQ(array.data(), memory.data());
  memory[0] = 5;
  EXPECT_EQ(array.data()[0], 5);
  array.mutable_data()[3] = 6;
  EXPECT_EQ(memory[3], 6);
}

TEST(Array, CopyOfABorrowedArrayIsWrittenElsewhere) {
  std::vector<float> memory{1, 2};
  const auto array = Array<float>::borrow(std::span<float>(memory), {2});
  Array<float> copy = array;
  copy.mutable_data()[0] = 5;
  EXPECT_EQ(memory[0], 1);
  EXPECT_EQ(array.data()[0], 1);
}

TEST(Array, BorrowedConstantMemoryIsNeverWritten) {
  const std::vector<float> memory{1, 2};
  auto array = Array<float>::borrow(std::span<const float>(memory), {2});
  EXPECT_EQ(array.data(), memory.data());
  array.mutable_data()[0] = 5;
  EXPECT_EQ(memory[0], 1);
  EXPECT_EQ(array, Array<float>({2}, {5, 2}));
  // From then on the array has storage of its own.
  const float* const own = array.data();
  array.mutable_data()[1] = 6;
  EXPECT_EQ(array.data(), own);
  auto reshaped = Array<float>::borrow(std::span<const float>(memory), {2}).reshaped({1, 2});
  reshaped.mutable_data()[0] = 7;
  EXPECT_EQ(memory[0], 1);
}

TEST(Array, BorrowRejectsAnotherSize) {
  std::vector<float> memory(3);
  expect_shape_error(
      [&] {
        (void)Array<float>::borrow(std::span<float>(memory), {2, 2});
      },
      {"Array::borrow", "(2, 2)", "(3)"});
  EXPECT_TRUE(Array<float>::borrow(std::span<float>(), {0, 4}).empty());
}

TEST(Array, ReshapedSharesStorage) {
  const Array<float> array({2, 3}, {1, 2, 3, 4, 5, 6});
  Array<float> flat = array.reshaped({6});
  EXPECT_EQ(flat.data(), array.data());
  EXPECT_EQ(flat.shape(), Shape{6});
  flat.mutable_data()[0] = 9;
  EXPECT_EQ(array.data()[0], 1);
  expect_shape_error([&] { (void)array.reshaped({7}); }, {"reshaped", "(2, 3)", "(7)"});
}

TEST(Array, EqualityComparesShapesAndValues) {
  const Array<float> a({2}, {1, -0.0F});
  EXPECT_EQ(a, Array<float>({2}, {1, 0.0F}));
  EXPECT_FALSE(a == Array<float>({2}, {1, 2}));
  EXPECT_FALSE(a == a.reshaped({1, 2}));
  const Array<float> undefined({1}, {std::nanf("")});
  EXPECT_FALSE(undefined == undefined);
  EXPECT_EQ(Array<float>({0, 3}), Array<float>({0, 3}));
}

TEST(Array, EmptyArraysCanBeCopiedWrittenAndReshaped) {
  Array<float> array(Shape{3, 0});
  const Array<float> copy = array;
  EXPECT_TRUE(array.mutable_span().empty());
  EXPECT_EQ(copy.reshaped({0}).size(), 0U);
}

TEST(Array, CopyMadeForWritingLivesInTheSameResource) {
  std::pmr::unsynchronized_pool_resource pool;
  const std::vector<float> values{1, 2};
  const Array<float> array({2}, values, &pool);
  Array<float> copy = array;
  copy.mutable_data()[0] = 3;
  EXPECT_EQ(copy.resource(), &pool);
}

TEST(Eigen, ArrayAsAMatrixAndBackHasTheSameElements) {
  const Array<float> array({2, 3}, {1, 2, 3, 4, 5, 6});
  const auto matrix = as_matrix(array);
  EXPECT_EQ(matrix.data(), array.data());
  ASSERT_EQ(matrix.rows(), 2);
  ASSERT_EQ(matrix.cols(), 3);
  EXPECT_EQ(matrix(1, 0), 4);
  EXPECT_EQ(to_array(matrix), array);
}

TEST(Eigen, DimensionsBeforeTheLastAreRows) {
  const Array<float> array({2, 2, 3});
  EXPECT_EQ(as_matrix(array).rows(), 4);
  const Array<float> scalar(Shape{});
  EXPECT_EQ(as_matrix(scalar).size(), 1);
  const Array<float> empty({0, 3});
  EXPECT_EQ(as_matrix(empty).cols(), 3);
}

TEST(Array, OfConstantElementsIsCopiedBeforeItIsWrittenToAsBytes) {
  const std::vector<float> numbers = {1, 2, 3, 4};
  auto bytes = Array<const float>::borrow(std::span<const float>(numbers), {4})
                   .reinterpreted<std::uint8_t>({16});
  bytes.mutable_data()[3] = 0;
  EXPECT_EQ(numbers[0], 1);
}

TEST(Eigen, WritingToTheMatrixUnsharesTheArray) {
  Array<float> array({2, 2}, {1, 2, 3, 4});
  const Array<float> copy = array;
  as_mutable_matrix(array)(0, 1) = 7;
  EXPECT_EQ(array, Array<float>({2, 2}, {1, 7, 3, 4}));
  EXPECT_EQ(copy, Array<float>({2, 2}, {1, 2, 3, 4}));
}

TEST(Eigen, MatrixAsAnArrayIsNotCopiedUntilWritten) {
  RowMajorMatrix<double> matrix(2, 3);
  matrix << 1, 2, 3, 4, 5, 6;
  Array<double> array = as_array(matrix);
  EXPECT_EQ(array.data(), matrix.data());
  EXPECT_EQ(array, Array<double>({2, 3}, {1, 2, 3, 4, 5, 6}));
  array.mutable_data()[0] = 9;
  EXPECT_EQ(matrix(0, 0), 1);
}

TEST(Eigen, ExpressionsOfAnyLayoutBecomeRowMajorArrays) {
  Eigen::MatrixXf matrix(2, 3);  // column-major
  matrix << 1, 2, 3, 4, 5, 6;
  EXPECT_EQ(to_array(matrix), Array<float>({2, 3}, {1, 2, 3, 4, 5, 6}));
  EXPECT_EQ(to_array(matrix.transpose()), Array<float>({3, 2}, {1, 4, 2, 5, 3, 6}));
  EXPECT_EQ(to_array(2 * matrix.row(0)), Array<float>({1, 3}, {2, 4, 6}));
  EXPECT_EQ(to_array(matrix.array() + 1), Array<float>({2, 3}, {2, 3, 4, 5, 6, 7}));
}

}  // namespace array_test
