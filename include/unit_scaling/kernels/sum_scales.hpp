// SPDX-License-Identifier: MIT
/// @file
/// Layer kernels: the scales of operands, which the sums of a matrix product are multiplied with.
#pragma once

#include <cstddef>

#include "unit_scaling/core/target.hpp"
#include "unit_scaling/formats/rounding.hpp"
#include "unit_scaling/kernels/ieee_arithmetic.hpp"
#include "unit_scaling/kernels/lanes.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::kernels {

/// What sums are multiplied with before anything else becomes of them. The product of a sum and its
/// scales is of doubles, rounded to float once, so it is exact for powers of two. A sum that leaves
/// the range of float before it meets its scales is infinite, or zero.
struct SumScales {
  double all = 1;                     ///< of all sums
  const float* of_rows = nullptr;     ///< of those of each row, beside that; null: 1
  const float* of_columns = nullptr;  ///< the same of each column

  [[nodiscard]] bool are_ones() const {
    return all == 1 && of_rows == nullptr && of_columns == nullptr;
  }

  /// Multiplies the sums of rows from `row` and columns from `column` on: `height` rows of `width`,
  /// which are `row_stride` and `column_stride` apart.
  void apply(float* sums, std::size_t row, std::size_t column, std::size_t height,
             std::size_t width, std::size_t row_stride, std::size_t column_stride) const {
    if (of_rows == nullptr && of_columns == nullptr && column_stride == 1) {
      if (const auto scale = static_cast<float>(all); static_cast<double>(scale) == all) {
        return multiply(sums, scale, height, width, row_stride);
      }
    }
    for (std::size_t i = 0; i < height; ++i) {
      const double of_row = of_rows == nullptr ? all : all * static_cast<double>(of_rows[row + i]);
      for (std::size_t j = 0; j < width; ++j) {
        const double scale =
            of_columns == nullptr ? of_row : of_row * static_cast<double>(of_columns[column + j]);
        float& sum = sums[i * row_stride + j * column_stride];
        sum = static_cast<float>(static_cast<double>(sum) * scale);
      }
    }
  }

 private:
  /// By a float, as the product of two powers of two is one: rounded once as well.
  static void multiply(float* sums, float scale, std::size_t height, std::size_t width,
                       std::size_t row_stride) {
    for (std::size_t i = 0; i < height; ++i) {
      float* const row = sums + i * row_stride;
      for_lanes<float>(width, [&](std::size_t j, auto count) {
        store<Overflow::infinity_or_nan, float>(load<float>(row + j, count) * scale, row + j,
                                                count);
      });
    }
  }
};

}  // namespace UNIT_SCALING_NAMESPACE::kernels

UNIT_SCALING_IEEE_END
