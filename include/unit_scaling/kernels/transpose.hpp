// SPDX-License-Identifier: MIT
/// @file
/// Layer kernels: rows and columns of small blocks of words, exchanged.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "unit_scaling/core/simd.hpp"
#include "unit_scaling/core/target.hpp"

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
[[gnu::always_inline]] inline void transpose_4x4_blocks(uint32x16* row) {
  const auto interleave_low = [](uint32x16 x, uint32x16 y) __attribute__((always_inline)) {
    return __builtin_shufflevector(x, y, 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29);
  };
  const auto interleave_high = [](uint32x16 x, uint32x16 y) __attribute__((always_inline)) {
    return __builtin_shufflevector(x, y, 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15,
                                   31);
  };
  const auto pairs_low = [](uint32x16 x, uint32x16 y) __attribute__((always_inline)) {
    return __builtin_shufflevector(x, y, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29);
  };
  const auto pairs_high = [](uint32x16 x, uint32x16 y) __attribute__((always_inline)) {
    return __builtin_shufflevector(x, y, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30,
                                   31);
  };
  const uint32x16 a = interleave_low(row[0], row[1]);
  const uint32x16 b = interleave_high(row[0], row[1]);
  const uint32x16 c = interleave_low(row[2], row[3]);
  const uint32x16 d = interleave_high(row[2], row[3]);
  row[0] = pairs_low(a, c);
  row[1] = pairs_high(a, c);
  row[2] = pairs_low(b, d);
  row[3] = pairs_high(b, d);
}
[[gnu::always_inline]] inline void transpose_4x4_blocks(uint32x8* row) {
  const uint32x8 a = __builtin_shufflevector(row[0], row[1], 0, 8, 1, 9, 4, 12, 5, 13);
  const uint32x8 b = __builtin_shufflevector(row[0], row[1], 2, 10, 3, 11, 6, 14, 7, 15);
  const uint32x8 c = __builtin_shufflevector(row[2], row[3], 0, 8, 1, 9, 4, 12, 5, 13);
  const uint32x8 d = __builtin_shufflevector(row[2], row[3], 2, 10, 3, 11, 6, 14, 7, 15);
  row[0] = __builtin_shufflevector(a, c, 0, 1, 8, 9, 4, 5, 12, 13);
  row[1] = __builtin_shufflevector(a, c, 2, 3, 10, 11, 6, 7, 14, 15);
  row[2] = __builtin_shufflevector(b, d, 0, 1, 8, 9, 4, 5, 12, 13);
  row[3] = __builtin_shufflevector(b, d, 2, 3, 10, 11, 6, 7, 14, 15);
}

/// column[i] = word i of each of eight rows.
[[gnu::always_inline]] inline void transpose_block(const uint32x16 (&row)[8],
                                                   uint32x8 (&column)[16]) {
  for (std::size_t half = 0; half < 16; half += 8) {
    uint32x8 words[8];
    for (std::size_t i = 0; i < 8; ++i) {
      std::memcpy(&words[i], reinterpret_cast<const std::uint32_t*>(&row[i]) + half,
                  sizeof(uint32x8));
    }
    transpose_4x4_blocks(words);
    transpose_4x4_blocks(words + 4);
    for (std::size_t i = 0; i < 4; ++i) {
      column[half + i] = __builtin_shufflevector(words[i], words[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);
      column[half + i + 4] =
          __builtin_shufflevector(words[i], words[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
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
  for (std::size_t half = 0; half < 16; half += 8) {
    uint32x16 rows[8];
    uint32x8 columns[16];
    for (std::size_t i = 0; i < 8; ++i) rows[i] = row[half + i];
    transpose_block(rows, columns);
    for (std::size_t i = 0; i < 16; ++i) {
      std::memcpy(reinterpret_cast<std::uint32_t*>(&column[i]) + half, &columns[i],
                  sizeof(uint32x8));
    }
  }
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
