// SPDX-License-Identifier: MIT
/// @file
/// Layer kernels: the maximum and the normaliser of one row of logits.
#pragma once

#include <cmath>
#include <cstddef>
#include <limits>

#include "unit_scaling/core/target.hpp"
#include "unit_scaling/kernels/elementary.hpp"
#include "unit_scaling/kernels/rows.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::kernels {

/// max_j x_j and Σ_j exp(m (x_j − max)): what softmax and cross-entropy need of a row. The
/// difference comes before the product: m·x_j − m·max, fused, would not be zero at the maximum.
template <class Compute> struct SoftmaxRow {
  Compute max;
  Compute sum;
};

/// The row's SoftmaxRow, for `columns` ≥ 1 and m > 0. NaN for a row with a NaN or +∞, or of −∞
/// only.
template <class Compute, class T>
[[nodiscard]] SoftmaxRow<Compute> softmax_row(const T* row, std::size_t columns, Compute mult) {
  constexpr Compute lowest = -std::numeric_limits<Compute>::infinity();
  auto max_lanes = broadcast<Compute>(lowest);
  for_lanes<Compute>(columns, [&](std::size_t j, auto count) {
    const auto v = fill_beyond<Compute>(load<Compute>(row + j, count), count, lowest);
    max_lanes = greater_lane(v, max_lanes);
  });
  const Compute max = horizontal_max(max_lanes);
  // −∞ − (−∞) and +∞ − (+∞) are NaN, and so is any NaN: the sum carries it to every element.
  const Compute sum = sum_lanes<Compute>(columns, [&](std::size_t j, auto count) {
    return fill_beyond<Compute>(exp_of_nonpositive((load<Compute>(row + j, count) - max) * mult),
                                count, Compute{0});
  });
  return {max, sum};
}

}  // namespace UNIT_SCALING_NAMESPACE::kernels

UNIT_SCALING_IEEE_END
