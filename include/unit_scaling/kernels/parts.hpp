// SPDX-License-Identifier: MIT
/// @file
/// Layer kernels: extents cut into parts.
#pragma once

#include <cstddef>

#include "unit_scaling/core/target.hpp"
#include "unit_scaling/kernels/ieee_arithmetic.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::kernels {

namespace detail {

constexpr std::size_t ceil_divide(std::size_t value, std::size_t divisor) {
  return (value + divisor - 1) / divisor;
}

constexpr std::size_t round_up(std::size_t value, std::size_t step) {
  return ceil_divide(value, step) * step;
}

/// The numbers in [begin, end).
struct Range {
  std::size_t begin;
  std::size_t end;
};
/// Part `index` of `parts` nearly equal parts of [0, count).
constexpr Range part_of(std::size_t count, std::size_t parts, std::size_t index) {
  return {count * index / parts, count * (index + 1) / parts};
}

}  // namespace detail

}  // namespace UNIT_SCALING_NAMESPACE::kernels

UNIT_SCALING_IEEE_END
