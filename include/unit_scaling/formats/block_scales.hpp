// SPDX-License-Identifier: MIT
/// @file
/// Layer: formats. The scales of tiles, from the largest magnitude of each.
// unit_scaling: optional (encodes formats chosen at run time, slow to compile)
#pragma once

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory_resource>
#include <span>
#include <type_traits>

#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/parallel_for.hpp"
#include "unit_scaling/core/shape.hpp"
#include "unit_scaling/core/simd.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/formats/codec.hpp"
#include "unit_scaling/formats/convert.hpp"
#include "unit_scaling/formats/encoded_array.hpp"
#include "unit_scaling/formats/encoded_array_codec.hpp"
#include "unit_scaling/formats/format.hpp"
#include "unit_scaling/formats/scale_layout.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE {

/// How a power of two that is a scale follows from amax, the largest magnitude of what shares it.
enum class ScaleRounding {
  /// The largest power of two that does not exceed amax, divided by the largest power of two of the
  /// element format. The largest elements may saturate: in float8_e4m3fn those of magnitudes
  /// beyond 448/256 of a power of two. Source: OCP MX 1.0, section 6.3.
  floor,
  /// The smallest power of two with which amax does not exceed the largest number of the element
  /// format, so that nothing saturates. One exception: the largest scale being 2^127, a number may
  /// saturate if the largest of the format is below 2.
  round_up,
};

namespace detail {

/// A quiet NaN in binary32.
inline constexpr std::uint32_t float_nan_bits = float_infinity_bits | float_hidden_bit >> 1;

/// The exponent of a positive finite binary32 number: it lies in [2^e, 2^(e+1)). Moves the leading
/// bit of a subnormal one to where normal ones have it.
[[nodiscard]] constexpr int exponent_of(std::uint32_t& bits) noexcept {
  constexpr int min_exponent = -149;  // of the smallest number
  if (bits >= float_hidden_bit) return static_cast<int>(bits >> float_mantissa_bits) - float_bias;
  const auto width = static_cast<int>(std::bit_width(bits));
  bits <<= float_mantissa_bits + 1 - width;
  return min_exponent + width - 1;
}

/// As `power_of_two_scale`, of the bits of amax and of the largest number of the format.
[[nodiscard]] constexpr float power_of_two_scale(std::uint32_t amax, std::uint32_t largest_element,
                                                 ScaleRounding rounding) noexcept {
  constexpr int max_scale_exponent = 127;
  if (amax >= float_infinity_bits) return std::bit_cast<float>(float_nan_bits);
  int exponent = -max_scale_exponent;
  if (amax != 0) {
    exponent = exponent_of(amax) - exponent_of(largest_element);
    const bool exceeds = (amax & float_fraction_mask) > (largest_element & float_fraction_mask);
    if (rounding == ScaleRounding::round_up && exceeds) ++exponent;
    exponent = std::clamp(exponent, -max_scale_exponent, max_scale_exponent);
  }
  // 2^-127 is subnormal.
  if (exponent == -max_scale_exponent) return std::bit_cast<float>(float_hidden_bit >> 1);
  return std::bit_cast<float>(static_cast<std::uint32_t>(exponent + float_bias)
                              << float_mantissa_bits);
}

/// `power_of_two_scale` of each of some magnitudes, in place.
/// @param largest_element the bits of the largest number of the format
inline void make_power_of_two_scales(std::span<float> magnitudes, std::uint32_t largest_element,
                                     ScaleRounding rounding) {
  std::size_t i = 0;
  std::uint32_t largest = largest_element;
  const std::int32_t exponent = exponent_of(largest);
  // Subnormal magnitudes have the least scale then, and no magnitude one beyond the largest.
  if (exponent >= 1) {
    const std::uint32_t fraction = rounding == ScaleRounding::round_up
                                       ? largest_element & float_fraction_mask
                                       : float_fraction_mask;
    for (; i + lanes <= magnitudes.size(); i += lanes) {
      const auto bits = bit_cast_to<uint32x16>(load<float32x16>(&magnitudes[i]));
      // Less a mask, which is -1 where the fraction is beyond that of the largest number.
      const int32x16 field = bit_cast_to<int32x16>(bits >> float_mantissa_bits) - exponent -
                             is_above(bits & float_fraction_mask, fraction);
      const uint32x16 power = select(is_less(field, splat<int32x16>(1)),
                                     splat<uint32x16>(float_hidden_bit >> 1),  // 2^-127
                                     bit_cast_to<uint32x16>(field) << float_mantissa_bits);
      const uint32x16 scale =
          select(is_below(bits, float_infinity_bits), power, splat<uint32x16>(float_nan_bits));
      store(bit_cast_to<float32x16>(scale), &magnitudes[i]);
    }
  }
  for (; i < magnitudes.size(); ++i) {
    magnitudes[i] =
        power_of_two_scale(std::bit_cast<std::uint32_t>(magnitudes[i]), largest_element, rounding);
  }
}

/// The bits of the largest number of a format, in binary32.
/// @throws DomainError for binary64.
[[nodiscard]] inline std::uint32_t largest_number_bits(const Format& format) {
  require(!format.is_binary64(), "power_of_two_scale",
          "expected a format within binary32, got float64");
  return decode_lanes(format.spec(), format.spec().max_finite_code());
}

/// The bits of magnitudes of sixteen numbers, which compare as integers do.
[[nodiscard, gnu::always_inline]] inline int32x16 magnitude_lanes(const float* from) noexcept {
  uint32x16 bits;
  std::memcpy(&bits, from, sizeof(bits));
  return bit_cast_to<int32x16>(bits & float_magnitude_mask);
}
/// Of the first `count`, followed by zeros.
[[nodiscard, gnu::always_inline]] inline int32x16 magnitude_lanes(const float* from,
                                                                  std::size_t count) noexcept {
  float padded[lanes] = {};
  std::memcpy(padded, from, count * sizeof(float));
  return magnitude_lanes(padded);
}

/// Raises each of `maxima` to the magnitude of the number at its place.
inline void raise_to_magnitudes(const float* numbers, std::size_t count, float* maxima) {
  std::size_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    const int32x16 raised = greatest(magnitude_lanes(maxima + i), magnitude_lanes(numbers + i));
    store(bit_cast_to<float32x16>(raised), maxima + i);
  }
  if (i == count) return;
  const int32x16 raised =
      greatest(magnitude_lanes(maxima + i, count - i), magnitude_lanes(numbers + i, count - i));
  std::memcpy(maxima + i, &raised, (count - i) * sizeof(float));
}

/// The greatest lane of each of four vectors.
struct FourMaxima {
  std::int32_t of[4];
};
[[nodiscard, gnu::always_inline]] inline FourMaxima greatest_lanes(
    const int32x16 (&values)[4]) noexcept {
  // Pairs of lanes beside each other, then fours: each quarter has a lane of each vector.
  const auto halve = [](int32x16 a, int32x16 b) __attribute__((always_inline)) {
    return greatest(choose_of_fours<0, 4, 1, 5>(a, b), choose_of_fours<2, 6, 3, 7>(a, b));
  };
  const int32x16 left = halve(values[0], values[1]);
  const int32x16 right = halve(values[2], values[3]);
  const int32x16 all =
      greatest(choose_of_fours<0, 1, 4, 5>(left, right), choose_of_fours<2, 3, 6, 7>(left, right));
  const auto eight = greatest(lower_half(all), upper_half(all));
  FourMaxima result;
  store(greatest(lower_half(eight), upper_half(eight)), result.of);
  return result;
}
/// The greatest lane.
[[nodiscard, gnu::always_inline]] inline std::int32_t greatest_lane(int32x16 values) noexcept {
  return greatest_lanes({values, values, values, values}).of[0];
}

/// The greatest magnitudes, by lanes, of a tile of a matrix with rows so far apart.
[[nodiscard, gnu::always_inline]] inline int32x16 tile_maximum(const float* from, std::size_t rows,
                                                               std::size_t width,
                                                               std::size_t stride) noexcept {
  const std::size_t whole = width / lanes * lanes;
  int32x16 largest{};
  for (std::size_t row = 0; row < rows; ++row, from += stride) {
    for (std::size_t i = 0; i < whole; i += lanes) {
      largest = greatest(largest, magnitude_lanes(from + i));
    }
    if (whole != width) {
      largest = greatest(largest, magnitude_lanes(from + whole, width - whole));
    }
  }
  return largest;
}

/// Maxima of tiles at least as wide as a vector, beside each other in all `rows`, which are
/// `stride` apart.
/// @param width of tiles, which the compiler may know
template <class Width>
void find_wide_tile_maxima(const float* from, std::size_t rows, std::size_t stride,
                           std::size_t columns, Width width, std::int32_t* maxima) {
  std::size_t column = 0;
  for (; column + 4 * width <= columns; column += 4 * width, maxima += 4) {
    int32x16 largest[4];
    for (std::size_t i = 0; i < 4; ++i) {
      largest[i] = tile_maximum(from + column + i * width, rows, width, stride);
    }
    const FourMaxima found = greatest_lanes(largest);
    std::memcpy(maxima, found.of, sizeof(found.of));
  }
  for (; column < columns; column += width) {
    const std::size_t left = std::min<std::size_t>(width, columns - column);
    *maxima++ = greatest_lane(tile_maximum(from + column, rows, left, stride));
  }
}

/// Of narrower tiles. Columns are taken in parts that a line of the cache, or several, holds.
inline void find_narrow_tile_maxima(const float* rectangle, std::size_t rows, std::size_t stride,
                                    std::size_t columns, std::size_t width, std::int32_t* maxima) {
  constexpr std::size_t vectors = 4;
  constexpr std::size_t part = vectors * lanes;
  for (std::size_t first = 0; first < columns; first += part) {
    const std::size_t in_part = std::min(part, columns - first);
    std::int32_t of_columns[part];
    if (in_part == part) {
      int32x16 largest[vectors] = {};
      for (std::size_t row = 0; row < rows; ++row) {
        const float* const from = rectangle + row * stride + first;
        for (std::size_t v = 0; v < vectors; ++v) {
          largest[v] = greatest(largest[v], magnitude_lanes(from + v * lanes));
        }
      }
      std::memcpy(of_columns, largest, sizeof(largest));
    } else {
      std::fill_n(of_columns, part, 0);
      for (std::size_t row = 0; row < rows; ++row) {
        const float* const from = rectangle + row * stride + first;
        for (std::size_t i = 0; i < in_part; ++i) {
          const auto magnitude = static_cast<std::int32_t>(std::bit_cast<std::uint32_t>(from[i]) &
                                                           float_magnitude_mask);
          of_columns[i] = std::max(of_columns[i], magnitude);
        }
      }
    }
    if (width == 1) {
      std::copy_n(of_columns, in_part, maxima + first);
      continue;
    }
    for (std::size_t i = 0; i < in_part; ++i) {
      std::int32_t& maximum = maxima[(first + i) / width];
      // A tile may begin in the part before.
      const bool is_first = (first + i) % width == 0;
      maximum = is_first ? of_columns[i] : std::max(maximum, of_columns[i]);
    }
  }
}

/// Of tiles of any width: the bits of their largest magnitudes, of which that of a NaN is above
/// infinity.
inline void find_tile_maxima(const float* from, std::size_t rows, std::size_t stride,
                             std::size_t columns, std::size_t width, std::int32_t* maxima) {
  if (width < lanes) return find_narrow_tile_maxima(from, rows, stride, columns, width, maxima);
  if (width == 32) {
    constexpr std::integral_constant<std::size_t, 32> of_mx{};
    return find_wide_tile_maxima(from, rows, stride, columns, of_mx, maxima);
  }
  find_wide_tile_maxima(from, rows, stride, columns, width, maxima);
}

/// Raises `to` to a magnitude, while other threads may do so too. NaN is above all.
inline void raise_shared(float& to, float magnitude) {
  const std::atomic_ref<float> shared(to);
  float before = shared.load(std::memory_order_relaxed);
  while (std::bit_cast<std::uint32_t>(before) < std::bit_cast<std::uint32_t>(magnitude) &&
         !shared.compare_exchange_weak(before, magnitude, std::memory_order_relaxed)) {
  }
}

/// How the elements of an array are shared out to find the largest magnitude of each tile: in
/// rectangles of some rows of one row of tiles, and of columns whose maxima fit into the cache.
struct MagnitudeSearch {
  MagnitudeSearch(const EncodedArray& array, const ScaleLayout& layout_of_tiles)
      : source(array),
        layout(layout_of_tiles),
        is_one_row(layout.tile_rows == 1 && layout.tile_columns != ScaleLayout::all &&
                   array.columns() % layout.tile_columns == 0),
        rows(is_one_row ? 1 : array.rows()),
        columns(is_one_row ? array.size() : array.columns()),
        tile_rows(std::min(layout.tile_rows, rows)),
        tile_columns(std::min(layout.tile_columns, columns)),
        width(std::min(columns, tile_columns < code_chunk ? code_chunk / tile_columns * tile_columns
                                                          : code_chunk)),
        height(std::min(tile_rows, convert_grain / width)),
        across((columns + width - 1) / width),
        down((tile_rows + height - 1) / height),
        tile_is_shared(down > 1 || (tile_columns > width)) {}

  [[nodiscard]] std::size_t rectangles() const { return layout.tiles_down(rows) * down * across; }

  /// Raises the maxima of the tiles that a rectangle meets.
  void search(std::size_t rectangle, float* maxima_of_tiles) const {
    const std::size_t row_of_tiles = rectangle / across / down;
    const std::size_t first_row = row_of_tiles * tile_rows + rectangle / across % down * height;
    const std::size_t last_row =
        std::min({first_row + height, (row_of_tiles + 1) * tile_rows, rows});
    if (first_row >= last_row) return;  // The last row of tiles is cut off.
    const std::size_t first_column = rectangle % across * width;
    const std::size_t count = std::min(width, columns - first_column);
    const std::size_t height_here = last_row - first_row;
    const std::size_t first = first_row * columns + first_column;
    float* const maxima_of_row = maxima_of_tiles + row_of_tiles * layout.tiles_across(columns);
    if (source.format().is_binary32() && !source.has_scales()) {
      const auto* const numbers = reinterpret_cast<const float*>(source.codes().data());
      return raise(numbers + first, height_here, columns, first_column, count, maxima_of_row);
    }
    float of_columns[code_chunk] = {};
    for (std::size_t row = 0; row < height_here; ++row) {
      float numbers[code_chunk];
      source.decode(first + row * columns, {numbers, count});
      raise_to_magnitudes(numbers, count, of_columns);
    }
    raise(of_columns, 1, count, first_column, count, maxima_of_row);
  }

  /// Raises the maxima of a row of tiles to those of the numbers in a rectangle.
  void raise(const float* numbers, std::size_t height_here, std::size_t stride,
             std::size_t first_column, std::size_t count, float* maxima_of_row) const {
    for (std::size_t i = 0; i < count;) {
      std::size_t tile = (first_column + i) / tile_columns;
      // A tile that is wider than a rectangle may begin in another one.
      const std::size_t end =
          tile_columns <= width ? count : std::min(count, (tile + 1) * tile_columns - first_column);
      std::int32_t maxima[code_chunk];
      find_tile_maxima(numbers + i, height_here, stride, end - i, tile_columns, maxima);
      const std::size_t tiles = (end - i + tile_columns - 1) / tile_columns;
      for (std::size_t j = 0; j < tiles; ++j, ++tile) {
        const auto bits = static_cast<std::uint32_t>(maxima[j]);
        const auto largest =
            std::bit_cast<float>(bits > float_infinity_bits ? float_nan_bits : bits);
        if (tile_is_shared) {
          raise_shared(maxima_of_row[tile], largest);
        } else {
          maxima_of_row[tile] = largest;
        }
      }
      i = end;
    }
  }

  const EncodedArray& source;
  const ScaleLayout& layout;
  /// Where no tile is cut off in a row, all rows of elements are as good as one.
  bool is_one_row;
  std::size_t rows;
  std::size_t columns;
  std::size_t tile_rows;     ///< not cut off, but at most `rows`
  std::size_t tile_columns;  ///< likewise
  std::size_t width;         ///< of a rectangle
  std::size_t height;
  std::size_t across;  ///< rectangles beside each other
  std::size_t down;    ///< rectangles below each other in a row of tiles
  bool tile_is_shared;
};

}  // namespace detail

/// The largest magnitude of each tile, numbered as the scales of `layout` are, (tiles): infinite if
/// a number is, a quiet NaN if one is NaN, and 0 for a tile without elements. Numbers of binary64
/// count as rounded to binary32.
///
/// Exact, and the same bits for any number of threads. Takes no memory but that of the result.
/// @param layout says what a tile is; how it stores scales does not matter here.
/// @param resource of the result; by default that of the array.
/// @throws DomainError for tiles of no rows or columns, and for a layout without scales.
[[nodiscard]] inline Array<float> largest_magnitudes(
    const EncodedArray& source, const ScaleLayout& layout,
    std::pmr::memory_resource* resource = nullptr) {
  require(layout.has_scales(), "largest_magnitudes", "expected tiles that share a scale, got ",
          layout);
  require_tiles("largest_magnitudes", layout);
  Array<float> result(Shape{layout.count(source.rows(), source.columns())},
                      resource != nullptr ? resource : source.resource());
  const std::span<float> maxima = result.mutable_span();
  std::fill(maxima.begin(), maxima.end(), 0.0F);
  if (source.empty()) return result;
  const detail::MagnitudeSearch search(source, layout);
  const std::size_t elements = search.width * search.height;
  parallel_ranges(search.rectangles(), std::max<std::size_t>(1, detail::convert_grain / elements),
                  [&](std::size_t begin, std::size_t end) {
                    for (std::size_t i = begin; i < end; ++i) search.search(i, maxima.data());
                  });
  return result;
}

/// The scale for elements of `format` of which `largest` is the largest magnitude: a power of two
/// from 2^-127 to 2^127, to which it is clamped, or NaN where `largest` is infinite or NaN. That of
/// zeros is 2^-127. So microxcaling and OCP MX 1.0, section 6.3, have it.
/// @throws DomainError for binary64.
[[nodiscard]] inline float power_of_two_scale(float largest, const Format& format,
                                              ScaleRounding rounding) {
  return detail::power_of_two_scale(
      std::bit_cast<std::uint32_t>(largest) & detail::float_magnitude_mask,
      detail::largest_number_bits(format), rounding);
}

/// `power_of_two_scale` of each of the `largest_magnitudes` of an array, (tiles), for
/// `EncodedArray::encode` with the same layout.
/// @throws DomainError as those two.
[[nodiscard]] inline Array<float> power_of_two_block_scales(
    const EncodedArray& source, const ScaleLayout& layout, const Format& format,
    ScaleRounding rounding = ScaleRounding::floor, std::pmr::memory_resource* resource = nullptr) {
  const std::uint32_t largest_element = detail::largest_number_bits(format);
  Array<float> result = largest_magnitudes(source, layout, resource);
  const std::span<float> scales = result.mutable_span();
  parallel_ranges(scales.size(), detail::convert_grain, [&](std::size_t begin, std::size_t end) {
    detail::make_power_of_two_scales(scales.subspan(begin, end - begin), largest_element, rounding);
  });
  return result;
}

}  // namespace UNIT_SCALING_NAMESPACE

UNIT_SCALING_IEEE_END
