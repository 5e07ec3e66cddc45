// SPDX-License-Identifier: MIT
/// @file
/// Layer kernels: what becomes of a finished sum of a matrix product whose operands have scales.
#pragma once

#include <algorithm>
#include <cstddef>

#include "unit_scaling/core/simd.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/kernels/lanes.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::kernels {

/// As another `finish` of a product, of a sum times the scales of its row and its column. That
/// product is of doubles, rounded to float once, so it is exact for powers of two, and finite if
/// its result is.
template <class Finish> struct FinishScaled {
  Finish finish;
  double scale;                ///< of all sums
  const float* row_scales;     ///< of those of each row, beside that; null: 1
  const float* column_scales;  ///< the same of each column

  template <class Count>
  void operator()(std::size_t i, std::size_t j, float32x16 sums, Count count) const {
    const double of_row =
        row_scales == nullptr ? scale : scale * static_cast<double>(row_scales[i]);
    for (std::size_t k = 0; k < std::min(lanes, static_cast<std::size_t>(count)); ++k) {
      const double of_column =
          column_scales == nullptr ? of_row : of_row * static_cast<double>(column_scales[j + k]);
      sums[k] = static_cast<float>(static_cast<double>(sums[k]) * of_column);
    }
    finish(i, j, sums, count);
  }
};

}  // namespace UNIT_SCALING_NAMESPACE::kernels

UNIT_SCALING_IEEE_END
