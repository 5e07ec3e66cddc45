// SPDX-License-Identifier: MIT
#include "unit_scaling/kernels/rows.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <limits>
#include <vector>

#include "support/random_arrays.hpp"
#include "support/rounding_check.hpp"
#include "support/threads.hpp"
#include "unit_scaling/core/array.hpp"
#include "unit_scaling/formats/catalogue.hpp"
#include "unit_scaling/kernels/softmax.hpp"

namespace rows_test {

using namespace unit_scaling;
using namespace unit_scaling_test;

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float nan = std::numeric_limits<float>::quiet_NaN();

template <class T> Array<float> float_column_sums(const Array<T>& elements, float scale = 1) {
  return kernels::column_sums<float, float>(elements.data(), elements.rows(),
                                            Shape{elements.columns()}, scale, elements.resource());
}

TEST(Rows, ForRowsVisitsEveryRowOnce) {
  const ThreadCountScope scope(3);
  for (const std::size_t columns :
       {std::size_t{0}, std::size_t{1}, std::size_t{1000}, std::size_t{100000}}) {
    std::vector<std::atomic<int>> visits(40000);
    kernels::for_rows(visits.size(), columns, [&](std::size_t row) { ++visits[row]; });
    for (const std::atomic<int>& count : visits) ASSERT_EQ(count, 1);
  }
  kernels::for_rows(0, 7, [](std::size_t) { ADD_FAILURE(); });
}

TEST(Rows, TheSumOfLanesAddsHalvesPairwise) {
  const auto numbers = normal_array<float>({lanes}, 5);
  std::vector<float> pairs(numbers.span().begin(), numbers.span().end());
  for (std::size_t width = lanes / 2; width > 0; width /= 2) {
    for (std::size_t i = 0; i < width; ++i) pairs[i] += pairs[i + width];
  }
  EXPECT_EQ(
      kernels::horizontal_sum(kernels::load<float>(numbers.data(), kernels::FullLanes<float>{})),
      pairs[0]);
}

// Small integers: the sum is exact in any order.
TEST(Rows, SumLanesAddsEveryElementOnce) {
  for (std::size_t size = 0; size <= 70; ++size) {
    std::vector<float> row(size);
    float expected = 0;
    for (std::size_t i = 0; i < size; ++i) expected += row[i] = static_cast<float>(i + 1);
    EXPECT_EQ(kernels::sum_lanes<float>(size,
                                        [&](std::size_t i, auto count) {
                                          return kernels::load<float>(row.data() + i, count);
                                        }),
              expected);
    const std::vector<double> wide(row.begin(), row.end());
    EXPECT_EQ(kernels::sum_lanes<double>(size,
                                         [&](std::size_t i, auto count) {
                                           return kernels::load<double>(wide.data() + i, count);
                                         }),
              static_cast<double>(expected));
  }
}

// Integers below 2^24 / rows: exact in any order.
TEST(Rows, ColumnSumsOfIntegersAreExact) {
  for (const std::size_t rows : {std::size_t{0}, std::size_t{1}, std::size_t{63}, std::size_t{64},
                                 std::size_t{257}, std::size_t{1000}}) {
    for (const std::size_t columns :
         {std::size_t{0}, std::size_t{1}, std::size_t{16}, std::size_t{37}}) {
      const Array<std::int32_t> ids = id_array({rows, columns}, 1000, 1);
      Array<float> elements(ids.shape());
      std::vector<int> expected(columns);
      for (std::size_t i = 0; i < ids.size(); ++i) {
        elements.mutable_data()[i] = static_cast<float>(ids.data()[i]);
        expected[i % columns] += ids.data()[i];
      }
      const Array<float> sums = float_column_sums(elements, 2);
      ASSERT_EQ(sums.shape(), Shape{columns});
      for (std::size_t j = 0; j < columns; ++j) {
        EXPECT_EQ(sums.data()[j], 2.0F * static_cast<float>(expected[j]));
      }
    }
  }
}

// The order that the header promises: blocks of rows, each from zero, added up in order.
TEST(Rows, ColumnSumsAreSumsOfBlocksBitForBit) {
  const Array<float> elements = normal_array<float>({1000, 37}, 2);
  const Array<float> sums = float_column_sums(elements);
  constexpr std::size_t rows = kernels::column_sum_rows;
  for (std::size_t j = 0; j < 37; ++j) {
    float total = 0;
    for (std::size_t begin = 0; begin < 1000; begin += rows) {
      float block = 0;
      for (std::size_t i = begin; i < std::min<std::size_t>(begin + rows, 1000); ++i) {
        block += elements.row(i)[j];
      }
      total = begin == 0 ? block : total + block;
    }
    EXPECT_EQ(sums.data()[j], total) << j;
  }
}

// A sum of n terms in any order is within n units of Σ|x|; its format rounds it once more.
template <class T> void expect_column_sums_near_double() {
  const Array<T> elements = normal_array<T>({700, 21}, 3);
  const Array<T> sums =
      kernels::column_sums<float, T>(elements.data(), 700, Shape{21}, 0.5F, elements.resource());
  std::vector<Reference> references(21, Reference{0, 0});
  for (std::size_t i = 0; i < elements.size(); ++i) {
    const double value = static_cast<double>(elements.data()[i]) / 2;
    references[i % 21].value += value;
    references[i % 21].error += std::abs(value) * 700 * float_unit;
  }
  expect_rounded(sums, references);
}

TEST(Rows, ColumnSumsAreRoundedOnceInEveryFormat) {
  expect_column_sums_near_double<float>();
  expect_column_sums_near_double<float16>();
  expect_column_sums_near_double<bfloat16>();
  expect_column_sums_near_double<float8_e5m2>();
}

TEST(Rows, ThreadCountChangesNoBitOfColumnSums) {
  const Array<float> elements = normal_array<float>({1500, 129}, 4);
  const ThreadCountScope one(1);
  const Array<float> expected = float_column_sums(elements);
  for (const std::size_t threads : {std::size_t{2}, std::size_t{3}}) {
    const ThreadCountScope several(threads);
    EXPECT_EQ(float_column_sums(elements), expected) << threads << " threads";
  }
}

/// max and Σ exp(m x − max) in double.
struct RowReference {
  double max = -std::numeric_limits<double>::infinity();
  double sum = 0;
  double error = 0;  ///< bound on what arithmetic of unit roundoff 1 adds to the sum
};

// Rounding x − max and m (x − max) moves an exponential's argument by 2 |m (x − max)| units at
// most, the exponential itself is within 2.2 units, and the sum adds a unit for each of its columns
// / 16 + 5 additions (one for each column where there are no lanes).
template <class T> RowReference row_reference(const Array<T>& row, double mult, double additions) {
  RowReference result;
  for (const T x : row.span()) result.max = std::max(result.max, static_cast<double>(x));
  for (const T x : row.span()) {
    const double argument = (static_cast<double>(x) - result.max) * mult;
    const double term = std::exp(argument);
    result.sum += term;
    if (term > 0) result.error += term * (2 * std::abs(argument) + 2.2 + additions);
  }
  return result;
}

template <class T> void expect_row_near_double(const Array<T>& row, float mult) {
  const auto columns = static_cast<double>(row.size());
  const RowReference narrow = row_reference(row, mult, columns / 16 + 5);
  const auto in_float = kernels::softmax_row<float>(row.data(), row.size(), mult);
  EXPECT_EQ(in_float.max, narrow.max);
  EXPECT_NEAR(in_float.sum, narrow.sum, narrow.error * 1.001 * float_unit);
  // The reference itself is in double, so its error counts too.
  const RowReference wide = row_reference(row, mult, columns);
  const auto in_double =
      kernels::softmax_row<double>(row.data(), row.size(), static_cast<double>(mult));
  EXPECT_EQ(in_double.max, wide.max);
  EXPECT_NEAR(in_double.sum, wide.sum, 2 * wide.error * 0x1p-53);
}

TEST(SoftmaxRow, IsThatOfDoubleForEveryLength) {
  for (std::size_t columns = 1; columns <= 40; ++columns) {
    for (const float mult : {1.0F, 0.3F, 2.0F}) {
      expect_row_near_double(normal_array<float>({columns}, columns), mult);
      expect_row_near_double(normal_array<bfloat16>({columns}, columns), mult);
    }
  }
  expect_row_near_double(normal_array<float>({5000}, 5), 10);
}

TEST(SoftmaxRow, LogitsMayBeLargeOrMinusInfinity) {
  expect_row_near_double(Array<float>({3}, {1000, 999, -1000}), 1);
  expect_row_near_double(Array<float>({4}, {-infinity, 2, -infinity, 1}), 1);
  expect_row_near_double(Array<float>({17}, {-infinity, -5, -5, -5, -5, -5, -5, -5, -5, -5, -5, -5,
                                             -5, -5, -5, -5, -infinity}),
                         1);
  // Negative numbers only, in a tail: what lies beyond the end must not be the maximum.
  expect_row_near_double(Array<float>({2}, {-100, -101}), 1);
}

TEST(SoftmaxRow, NanAnywhereOrNoFiniteMaximumGivesNan) {
  for (std::size_t columns = 1; columns <= 35; ++columns) {
    for (std::size_t j = 0; j < columns; ++j) {
      for (const float bad : {nan, infinity}) {
        Array<float> row = normal_array<float>({columns}, 6);
        row.mutable_data()[j] = bad;
        EXPECT_TRUE(std::isnan(kernels::softmax_row<float>(row.data(), columns, 1.0F).sum));
        EXPECT_TRUE(std::isnan(kernels::softmax_row<double>(row.data(), columns, 1.0).sum));
      }
    }
    const auto masked = Array<float>::filled({columns}, -infinity);
    EXPECT_TRUE(std::isnan(kernels::softmax_row<float>(masked.data(), columns, 1.0F).sum));
    EXPECT_TRUE(std::isnan(kernels::softmax_row<double>(masked.data(), columns, 1.0).sum));
  }
}

}  // namespace rows_test
