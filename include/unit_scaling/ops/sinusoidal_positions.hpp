// SPDX-License-Identifier: MIT
/// @file
/// Layer ops: sines and cosines that tell positions apart.
#pragma once

#include <cmath>
#include <cstddef>
#include <numbers>
#include <string_view>
#include <vector>

#include "unit_scaling/core/arithmetic.hpp"
#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/formats/precision.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::ops {

/// A table (positions, size): row p holds √2 sin(t ω_i) in its first half and √2 cos(t ω_i) in its
/// second, t = first + p, ω_i = max_period^(−2i/size). The √2 gives every row an RMS of 1.
/// Distances may be below zero, hence so may `first`.
/// @throws ShapeError if size is odd; DomainError unless max_period is finite and at least 1.
/// @see Vaswani et al. 2017, arXiv:1706.03762, section 3.5; the √2 is that of the code of Blake et
///      al. 2023, arXiv:2303.11257.
template <Storage T>
[[nodiscard]] Array<T> sinusoidal_positions(std::size_t positions, std::size_t size,
                                            double max_period = 10000, std::ptrdiff_t first = 0) {
  const DefaultArithmetic arithmetic;
  constexpr std::string_view name = "sinusoidal_positions";
  require_shape(size % 2 == 0, name, "a table (positions, size) of even size",
                Shape{positions, size});
  require_at_least(name, "max_period", 1, max_period);
  Array<T> table(Shape{positions, size});
  T* target = table.mutable_data();
  const std::size_t half = size / 2;
  std::vector<double> rates(half);
  for (std::size_t i = 0; i < half; ++i) {
    rates[i] = std::pow(max_period, -static_cast<double>(i) / static_cast<double>(half));
  }
  for (std::size_t p = 0; p < positions; ++p) {
    for (std::size_t i = 0; i < half; ++i) {
      const double angle = (static_cast<double>(first) + static_cast<double>(p)) * rates[i];
      target[p * size + i] = static_cast<T>(std::numbers::sqrt2 * std::sin(angle));
      target[p * size + half + i] = static_cast<T>(std::numbers::sqrt2 * std::cos(angle));
    }
  }
  return table;
}

}  // namespace UNIT_SCALING_NAMESPACE::ops

UNIT_SCALING_IEEE_END
