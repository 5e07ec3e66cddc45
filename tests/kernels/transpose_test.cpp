// SPDX-License-Identifier: MIT
#include "unit_scaling/kernels/transpose.hpp"

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "unit_scaling/core/simd.hpp"

namespace {

namespace detail = unit_scaling::kernels::detail;
using unit_scaling::uint32x16;
using unit_scaling::uint32x8;

/// Word `column` of row `row`.
constexpr std::uint32_t word(std::size_t row, std::size_t column) {
  return static_cast<std::uint32_t>(100 * row + column);
}
template <std::size_t rows> void fill(uint32x16 (&block)[rows]) {
  for (std::size_t i = 0; i < rows; ++i) {
    std::uint32_t words[16];
    for (std::size_t k = 0; k < 16; ++k) words[k] = word(i, k);
    std::memcpy(&block[i], words, sizeof(words));
  }
}
template <std::size_t rows, class Column> void expect_columns(const Column (&column)[16]) {
  for (std::size_t k = 0; k < 16; ++k) {
    std::uint32_t words[rows];
    std::memcpy(words, &column[k], sizeof(words));
    for (std::size_t i = 0; i < rows; ++i) EXPECT_EQ(words[i], word(i, k)) << i << ' ' << k;
  }
}

/// Transposes `rows` rows of 16 words to 16 columns.
template <std::size_t rows, class Column> void expect_transposed() {
  uint32x16 row[rows];
  fill(row);
  Column column[16];
  detail::transpose_block(row, column);
  expect_columns<rows>(column);
}

TEST(Transpose, MakesColumnsOfEightRows) { expect_transposed<8, uint32x8>(); }

TEST(Transpose, MakesColumnsOfSixteenRows) { expect_transposed<16, uint32x16>(); }

TEST(Transpose, WorksInPlaceAndOutOfLine) {
  uint32x16 rows[16];
  fill(rows);
  uint32x16 columns[16];
  detail::transpose_rarely(rows, columns);
  expect_columns<16>(columns);
  detail::transpose_16x16(rows);
  expect_columns<16>(rows);
}

}  // namespace
