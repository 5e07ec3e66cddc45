// SPDX-License-Identifier: MIT
/// @file
/// Layer kernels: what becomes of a finished sum of a matrix product.
#pragma once

#include <cstddef>

#include "unit_scaling/core/memory.hpp"
#include "unit_scaling/core/simd.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/kernels/lanes.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::kernels {

/// What happens to a finished sum before it is rounded to the output format:
/// `scale * (sum + bias[column])`, without the addition if `bias` is null.
template <class Compute> struct Epilogue {
  Compute scale = 1;
  const Compute* bias = nullptr;
};

/// Begins to fetch the lines of `count` elements, to be read (0) or written (1).
template <int access, class T>
[[gnu::always_inline]] inline void prefetch_lines(const T* from, std::size_t count) {
  constexpr std::size_t line = array_alignment / sizeof(T);
  for (std::size_t k = 0; k < count; k += line) __builtin_prefetch(from + k, access);
}

/// The rounding of finished sums to a row-major array of Out: `epilogue` of each, stored at
/// `out[i * stride + j]`.
template <class Out> struct StoreRows {
  /// So short that it is worth inlining behind every register of a tile.
  static constexpr bool is_short = true;

  Out* out;
  std::size_t stride;
  Epilogue<float> epilogue = {};

  /// Begins to fetch the memory that row i from column j on, `width` elements, will be written to.
  [[gnu::always_inline]] void prefetch(std::size_t i, std::size_t j, std::size_t width) const {
    prefetch_lines<1>(out + i * stride + j, width);
  }

  /// Lanes of row i from column j on; `count` as in kernels/lanes.hpp.
  template <class Count>
  [[gnu::always_inline]] void operator()(std::size_t i, std::size_t j, float32x16 sums,
                                         Count count) const {
    if (epilogue.bias != nullptr) sums += load<float>(epilogue.bias + j, count);
    store<Overflow::infinity_or_nan, float>(sums * epilogue.scale, out + i * stride + j, count);
  }
};

}  // namespace UNIT_SCALING_NAMESPACE::kernels

UNIT_SCALING_IEEE_END
