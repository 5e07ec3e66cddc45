// SPDX-License-Identifier: MIT
/// @file
/// Layer kernels: finished sums of attention, rounded and stored in the rows of its results.
#pragma once

#include <algorithm>
#include <cstddef>
#include <type_traits>

#include "unit_scaling/core/simd.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/kernels/attention_layout.hpp"
#include "unit_scaling/kernels/lanes.hpp"
#include "unit_scaling/kernels/packing.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::kernels {

namespace detail {

template <class Compute, class Out> inline void store_one(Compute value, Out* out) {
  store<Overflow::infinity_or_nan, Compute>(broadcast<Compute>(value), out, FullLanes<double>{});
}

/// out[row] = factors[row] · column `row` of sums, for `rows` rows of `columns` elements.
template <class Layout, class Out>
inline void store_transposed(const typename Layout::Compute* sums,
                             const typename Layout::Compute* factors, std::size_t rows,
                             std::size_t columns, Out* out) {
  constexpr std::size_t panel = Layout::panel;
  if constexpr (std::is_same_v<typename Layout::Compute, double>) {
    for (std::size_t a = 0; a < rows; ++a) {
      for (std::size_t d = 0; d < columns; ++d) {
        store_one(sums[d * panel + a] * factors[a], out + a * columns + d);
      }
    }
  } else {
    for (std::size_t a = 0; a < rows; a += lanes) {
      const float32x16 factor = load_lanes(factors + a);
      for_lanes<float>(columns, [&](std::size_t d, auto count) {
        uint32x16 block[lanes] = {};
        for (std::size_t k = 0; k < count; ++k) {
          block[k] = bit_cast_to<uint32x16>(load_lanes(sums + (d + k) * panel + a) * factor);
        }
        transpose_16x16(block);
        for (std::size_t k = 0; k < std::min(lanes, rows - a); ++k) {
          store<Overflow::infinity_or_nan, float>(bit_cast_to<float32x16>(block[k]),
                                                  out + (a + k) * columns + d, count);
        }
      });
    }
  }
}

/// out = factor · sums of the keys' gradients, for `keys` rows of `columns` elements.
template <class Layout, class Out>
inline void store_rows(const typename Layout::Compute* sums, typename Layout::Compute factor,
                       std::size_t keys, std::size_t columns, Out* out) {
  using Compute = typename Layout::Compute;
  constexpr std::size_t panel = Layout::panel;
  for (std::size_t b = 0; b < keys; ++b) {
    for (std::size_t column = 0; column < columns; column += panel) {
      const Compute* from = sums + column / panel * Layout::scores + b * panel;
      for_lanes<Compute>(std::min(panel, columns - column), [&](std::size_t d, auto count) {
        store<Overflow::infinity_or_nan, Compute>(
            load<Compute>(from + d, FullLanes<Compute>{}) * factor, out + b * columns + column + d,
            count);
      });
    }
  }
}

}  // namespace detail

}  // namespace UNIT_SCALING_NAMESPACE::kernels

UNIT_SCALING_IEEE_END
