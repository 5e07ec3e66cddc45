// SPDX-License-Identifier: MIT
/// @file
/// Layer kernels: rows and columns of small blocks of words, exchanged.
#pragma once

#include <cstddef>
#include <cstdint>

#include "unit_scaling/core/simd.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/kernels/ieee_arithmetic.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::kernels::detail {

/// How many rows of 16 words are transposed at a time, and the vector of one word of each. All 16
/// take registers of 64 bytes: where registers are narrower, a compiler keeps them in memory.
#if defined(__AVX512F__)
using BlockColumn = uint32x16;
#else
using BlockColumn = uint32x8;
#endif
inline constexpr std::size_t block_rows = sizeof(BlockColumn) / sizeof(std::uint32_t);

/// Exchanges rows and columns of each 4 x 4 block of four vectors, by interleaving words, then
/// pairs of words.
template <SimdVector V> [[gnu::always_inline]] inline void transpose_4x4_blocks(V* row) {
  const V a = choose_of_fours<0, 4, 1, 5>(row[0], row[1]);
  const V b = choose_of_fours<2, 6, 3, 7>(row[0], row[1]);
  const V c = choose_of_fours<0, 4, 1, 5>(row[2], row[3]);
  const V d = choose_of_fours<2, 6, 3, 7>(row[2], row[3]);
  row[0] = choose_of_fours<0, 1, 4, 5>(a, c);
  row[1] = choose_of_fours<2, 3, 6, 7>(a, c);
  row[2] = choose_of_fours<0, 1, 4, 5>(b, d);
  row[3] = choose_of_fours<2, 3, 6, 7>(b, d);
}

/// column[i] = word i of each of eight rows.
[[gnu::always_inline]] inline void transpose_block(const uint32x16 (&row)[8],
                                                   uint32x8 (&column)[16]) {
  for (std::size_t half = 0; half < 16; half += 8) {
    uint32x8 words[8];
    for (std::size_t i = 0; i < 8; ++i) {
      words[i] = half == 0 ? lower_half(row[i]) : upper_half(row[i]);
    }
    transpose_4x4_blocks(words);
    transpose_4x4_blocks(words + 4);
    for (std::size_t i = 0; i < 4; ++i) {
      column[half + i] = join(lower_half(words[i]), lower_half(words[i + 4]));
      column[half + i + 4] = join(upper_half(words[i]), upper_half(words[i + 4]));
    }
  }
}
/// The same of sixteen rows.
[[gnu::always_inline]] inline void transpose_block(const uint32x16 (&row)[16],
                                                   uint32x16 (&column)[16]) {
#if defined(__AVX512F__)
  uint32x16 words[16];
  for (std::size_t i = 0; i < 16; ++i) words[i] = row[i];
  for (std::size_t i = 0; i < 16; i += 4) transpose_4x4_blocks(words + i);
  const auto even_blocks = [](uint32x16 x, uint32x16 y) __attribute__((always_inline)) {
    return __builtin_shufflevector(x, y, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27);
  };
  const auto odd_blocks = [](uint32x16 x, uint32x16 y) __attribute__((always_inline)) {
    return __builtin_shufflevector(x, y, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30,
                                   31);
  };
  for (std::size_t i = 0; i < 4; ++i) {
    const uint32x16 a = even_blocks(words[i], words[i + 4]);
    const uint32x16 b = odd_blocks(words[i], words[i + 4]);
    const uint32x16 c = even_blocks(words[i + 8], words[i + 12]);
    const uint32x16 d = odd_blocks(words[i + 8], words[i + 12]);
    column[i] = even_blocks(a, c);
    column[i + 4] = even_blocks(b, d);
    column[i + 8] = odd_blocks(a, c);
    column[i + 12] = odd_blocks(b, d);
  }
#else
  uint32x16 rows[8];
  uint32x8 lower[16];
  uint32x8 upper[16];
  for (std::size_t i = 0; i < 8; ++i) rows[i] = row[i];
  transpose_block(rows, lower);
  for (std::size_t i = 0; i < 8; ++i) rows[i] = row[8 + i];
  transpose_block(rows, upper);
  for (std::size_t i = 0; i < 16; ++i) column[i] = join(lower[i], upper[i]);
#endif
}

/// Exchanges rows and columns of sixteen vectors.
[[gnu::always_inline]] inline void transpose_16x16(uint32x16 (&row)[16]) {
  uint32x16 column[16];
  transpose_block(row, column);
  for (std::size_t i = 0; i < 16; ++i) row[i] = column[i];
}

/// As `transpose_block`, compiled once: for the ends of loops, where the call costs nothing that
/// counts.
template <class Column, std::size_t rows>
[[gnu::noinline]] void transpose_rarely(const uint32x16 (&row)[rows], Column (&column)[16]) {
  transpose_block(row, column);
}

}  // namespace UNIT_SCALING_NAMESPACE::kernels::detail

UNIT_SCALING_IEEE_END
