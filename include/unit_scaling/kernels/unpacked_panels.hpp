// SPDX-License-Identifier: MIT
/// @file
/// Layer kernels: products over the lanes of panels, which stay as they were made.
///
/// A panel that is the packed right operand of one product is the left operand of another one here,
/// with its elements spread to all lanes.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "unit_scaling/core/multiply_add.hpp"
#include "unit_scaling/core/simd.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/kernels/double_tile.hpp"
#include "unit_scaling/kernels/tile.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::kernels {

namespace detail {

/// Panels of weights as the left operand of a product over their queries: word p of row i of panel
/// c lies at `words[c * panel_stride + i * row_words + p]`.
template <class Word> struct UnpackedPanels {
  const Word* words;
  std::size_t panel_stride;
};

/// sums += left·right, `rows` rows of a tile, over `depth` words; the right operand is packed.
template <class Words, std::size_t rows>
[[gnu::flatten]] inline void multiply_unpacked(std::size_t depth,
                                               const UnpackedPanels<std::uint32_t>& left,
                                               const std::uint32_t* right, float* sums) {
  constexpr std::size_t row_words = tile_columns / Words::depth;
  register_t sum[rows][tile_registers];
  unrolled_block<rows, tile_registers>([&](std::size_t i,
                                           std::size_t j) __attribute__((always_inline)) {
    sum[i][j] = load_register(sums + i * tile_columns + j * register_floats);
  });
  const std::uint32_t* panel = left.words;
  for (std::size_t begin = 0; begin < depth; begin += row_words, panel += left.panel_stride) {
    const std::size_t count = std::min(row_words, depth - begin);
    for (std::size_t p = 0; p < count; ++p, right += tile_columns) {
      register_t column[tile_registers];
      unrolled_block<1, tile_registers>([&](std::size_t, std::size_t j) __attribute__((
          always_inline)) { column[j] = load_register(right + j * register_floats); });
      unrolled_block<rows, tile_registers>([&](std::size_t i,
                                               std::size_t j) __attribute__((always_inline)) {
        sum[i][j] = multiply_add_words<Words>(sum[i][j], panel[i * row_words + p], column[j]);
      });
    }
  }
  unrolled_block<rows, tile_registers>([&](std::size_t i,
                                           std::size_t j) __attribute__((always_inline)) {
    *reinterpret_cast<memory_register_t*>(sums + i * tile_columns + j * register_floats) =
        sum[i][j];
  });
}
template <class Words, std::size_t rows>
inline void multiply_unpacked(std::size_t depth, const UnpackedPanels<double>& left,
                              const double* right, double* sums) {
  constexpr std::size_t columns = DoubleTile::columns;
  for (std::size_t i = 0; i < rows; ++i) {
    for (std::size_t j = 0; j < columns; ++j) {
      double sum = sums[i * columns + j];
      for (std::size_t p = 0; p < depth; ++p) {
        const double weight =
            left.words[p / columns * left.panel_stride + i * columns + p % columns];
        sum = multiply_add(weight, right[p * columns + j], sum);
      }
      sums[i * columns + j] = sum;
    }
  }
}

}  // namespace detail

}  // namespace UNIT_SCALING_NAMESPACE::kernels

UNIT_SCALING_IEEE_END
