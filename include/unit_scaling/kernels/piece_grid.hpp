// SPDX-License-Identifier: MIT
/// @file
/// Layer kernels: how the tiles of a matrix product are shared out among threads.
#pragma once

#include <algorithm>
#include <cstddef>

#include "unit_scaling/core/target.hpp"
#include "unit_scaling/kernels/ieee_arithmetic.hpp"
#include "unit_scaling/kernels/parts.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::kernels {

namespace detail {

/// How tiles are shared out among threads: row_groups x column_groups pieces of nearly equal size.
struct PieceGrid {
  std::size_t row_groups;
  std::size_t column_groups;
};

/// Some pieces for each thread, of such a shape that they read as little as may be.
/// @param pack_columns Whether pieces pack columns, as they pack rows. Else rows count twice.
inline PieceGrid piece_grid(std::size_t row_tiles, std::size_t tile_rows_, std::size_t panels,
                            std::size_t tile_columns_, std::size_t threads, bool pack_columns) {
  if (threads == 1) return {1, 1};
  // All wait for whoever takes the last piece. Of many threads one is likely to be slow: then there
  // are more pieces, if they are large.
  constexpr std::size_t large_piece = 128;  // tiles
  const std::size_t least_wanted = 4 * threads;
  const std::size_t wanted = std::clamp(row_tiles * panels / large_piece, least_wanted,
                                        std::max(least_wanted, threads * threads / 2));
  const std::size_t row_weight = pack_columns ? 1 : 2;
  PieceGrid best{std::min(row_tiles, wanted), 1};
  std::size_t least_read = static_cast<std::size_t>(-1);
  for (std::size_t columns = 1; columns <= std::min(panels, wanted); ++columns) {
    const std::size_t rows = std::min(row_tiles, ceil_divide(wanted, columns));
    const std::size_t read = row_weight * ceil_divide(row_tiles, rows) * tile_rows_ +
                             ceil_divide(panels, columns) * tile_columns_;
    // Fewer pieces than threads leave some of them idle.
    if (rows * columns >= std::min(threads, row_tiles * panels) && read < least_read) {
      least_read = read;
      best = {rows, columns};
    }
  }
  return best;
}

}  // namespace detail

}  // namespace UNIT_SCALING_NAMESPACE::kernels

UNIT_SCALING_IEEE_END
