// SPDX-License-Identifier: MIT
/// @file
/// Layer: formats. The scales of an array: how they are stored and which elements share one.
#pragma once

#include <cstddef>
#include <limits>
#include <string>
#include <string_view>

#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/shape.hpp"
#include "unit_scaling/core/target.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE {

/// How a scale is stored.
enum class ScaleFormat {
  none,          ///< There is none.
  power_of_two,  ///< One byte in float8_e8m0fnu: 2^-127 to 2^127, or NaN.
  binary32,      ///< Four bytes: any number of binary32.
  /// One byte in float8_e4m3fn, times a number of binary32 that all scales of an array have in
  /// common. The scale is the product, rounded to binary32. So NVFP4 has them.
  two_level,
};

/// Bytes that a scale takes, without what all have in common.
[[nodiscard]] constexpr std::size_t scale_bytes(ScaleFormat format) noexcept {
  switch (format) {
    case ScaleFormat::power_of_two:
    case ScaleFormat::two_level:
      return 1;
    case ScaleFormat::binary32:
      return 4;
    case ScaleFormat::none:
      break;
  }
  return 0;
}

/// Whether the scales of an array have a factor in common, which is stored in binary32.
[[nodiscard]] constexpr bool has_common_scale(ScaleFormat format) noexcept {
  return format == ScaleFormat::two_level;
}

/// "binary32" and so on, for messages.
[[nodiscard]] constexpr std::string_view to_string(ScaleFormat format) noexcept {
  switch (format) {
    case ScaleFormat::power_of_two:
      return "power_of_two";
    case ScaleFormat::binary32:
      return "binary32";
    case ScaleFormat::two_level:
      return "two_level";
    case ScaleFormat::none:
      break;
  }
  return "no";
}

/// Which elements of an array, taken for a matrix of `rows()` x `columns()`, share a scale: those
/// of a tile. Tiles begin at row 0 and column 0; the last ones of a row or a column are cut off
/// where the matrix ends. Scales are numbered row by row of tiles, from left to right.
///
/// One form says all: a tile of all rows and columns is the tensor, one of a single row and all
/// columns is a row, one of a single row and 32 columns a block of the MX formats, and one of 32
/// rows and a single column a block of a product whose inner extent is the rows.
struct ScaleLayout {
  /// As many rows, or columns, as there are.
  static constexpr std::size_t all = std::numeric_limits<std::size_t>::max();

  ScaleFormat format = ScaleFormat::none;
  std::size_t tile_rows = all;
  std::size_t tile_columns = all;

  [[nodiscard]] static constexpr ScaleLayout per_tensor(ScaleFormat format) noexcept {
    return {format, all, all};
  }
  [[nodiscard]] static constexpr ScaleLayout per_row(ScaleFormat format) noexcept {
    return {format, 1, all};
  }
  [[nodiscard]] static constexpr ScaleLayout per_column(ScaleFormat format) noexcept {
    return {format, all, 1};
  }
  /// Of `size` elements that follow each other in a row.
  [[nodiscard]] static constexpr ScaleLayout per_block_of_columns(ScaleFormat format,
                                                                  std::size_t size) noexcept {
    return {format, 1, size};
  }
  /// Of `size` elements that follow each other in a column.
  [[nodiscard]] static constexpr ScaleLayout per_block_of_rows(ScaleFormat format,
                                                               std::size_t size) noexcept {
    return {format, size, 1};
  }

  [[nodiscard]] constexpr bool has_scales() const noexcept { return format != ScaleFormat::none; }

  /// Scales beside each other, for so many columns: one where a tile has all of them, even if there
  /// are none.
  [[nodiscard]] constexpr std::size_t tiles_across(std::size_t columns) const noexcept {
    return tiles(columns, tile_columns);
  }
  /// Scales below each other, for so many rows.
  [[nodiscard]] constexpr std::size_t tiles_down(std::size_t rows) const noexcept {
    return tiles(rows, tile_rows);
  }
  /// Number of scales of a matrix; 0 without a scale.
  /// @throws ShapeError if std::size_t cannot count them; DomainError for tiles without elements.
  [[nodiscard]] std::size_t count(std::size_t rows, std::size_t columns) const {
    if (!has_scales()) return 0;
    require(tile_rows != 0 && tile_columns != 0, "ScaleLayout", "expected tiles of at least 1 x 1");
    return size_product("ScaleLayout", {tiles_down(rows), tiles_across(columns)});
  }
  /// Which scale the element of a matrix of so many columns has.
  [[nodiscard]] constexpr std::size_t index(std::size_t row, std::size_t column,
                                            std::size_t columns) const noexcept {
    return row / tile_rows * tiles_across(columns) + column / tile_columns;
  }

  friend constexpr bool operator==(const ScaleLayout&, const ScaleLayout&) = default;

 private:
  [[nodiscard]] static constexpr std::size_t tiles(std::size_t extent, std::size_t tile) noexcept {
    return tile == all ? 1 : extent / tile + (extent % tile != 0 ? 1 : 0);
  }
};

/// "power_of_two scales of tiles of 1 x 32", for messages.
[[nodiscard]] inline std::string to_string(const ScaleLayout& layout) {
  if (!layout.has_scales()) return "no scale";
  const auto extent = [](std::size_t size) {
    return size == ScaleLayout::all ? std::string("all") : std::to_string(size);
  };
  return std::string(to_string(layout.format)) + " scales of tiles of " + extent(layout.tile_rows) +
         " x " + extent(layout.tile_columns);
}

/// @throws DomainError if a tile has no rows or no columns.
inline void require_tiles(std::string_view operation, const ScaleLayout& layout) {
  require(layout.tile_rows != 0 && layout.tile_columns != 0, operation,
          "expected tiles of at least 1 x 1 that share a scale, got ", layout);
}

}  // namespace UNIT_SCALING_NAMESPACE

UNIT_SCALING_IEEE_END
