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
#include <memory_resource>
#include <span>

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

/// The bits of the largest number of a format, in binary32.
/// @throws DomainError for binary64.
[[nodiscard]] inline std::uint32_t largest_number_bits(const Format& format) {
  require(!format.is_binary64(), "power_of_two_scale",
          "expected a format within binary32, got float64");
  return decode_lanes(format.spec(), format.spec().max_finite_code());
}

/// Raises each of `maxima` to the bits of the magnitude of the number at its place.
inline void raise_to_magnitudes(const float* numbers, std::size_t count, std::uint32_t* maxima) {
  std::size_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    const auto magnitude = bit_cast_to<int32x16>(
        bit_cast_to<uint32x16>(load<float32x16>(numbers + i)) & float_magnitude_mask);
    const auto before = bit_cast_to<int32x16>(load<uint32x16>(maxima + i));
    const int32x16 after = select(is_less(before, magnitude), magnitude, before);
    store(bit_cast_to<uint32x16>(after), maxima + i);
  }
  for (; i < count; ++i) {
    maxima[i] =
        std::max(maxima[i], std::bit_cast<std::uint32_t>(numbers[i]) & float_magnitude_mask);
  }
}

/// The largest of some magnitudes; a quiet NaN if there is any NaN.
[[nodiscard]] inline float largest_of(const std::uint32_t* magnitudes, std::size_t count) {
  std::uint32_t largest = 0;
  std::size_t i = 0;
  if (count >= lanes) {
    int32x16 largest_lanes{};
    for (; i + lanes <= count; i += lanes) {
      const auto magnitude = bit_cast_to<int32x16>(load<uint32x16>(magnitudes + i));
      largest_lanes = select(is_less(largest_lanes, magnitude), magnitude, largest_lanes);
    }
    for (std::size_t lane = 0; lane < lanes; ++lane) {
      largest = std::max(largest, static_cast<std::uint32_t>(largest_lanes[lane]));
    }
  }
  for (; i < count; ++i) largest = std::max(largest, magnitudes[i]);
  return std::bit_cast<float>(largest > float_infinity_bits ? float_nan_bits : largest);
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
        rows(array.rows()),
        columns(array.columns()),
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
    const std::size_t first_column = rectangle % across * width;
    const std::size_t count = std::min(width, columns - first_column);
    const bool is_float = source.format().is_binary32() && !source.has_scales();
    std::uint32_t maxima[code_chunk];
    std::fill_n(maxima, count, 0U);
    for (std::size_t row = first_row; row < last_row; ++row) {
      const std::size_t first = row * columns + first_column;
      if (is_float) {
        raise_to_magnitudes(reinterpret_cast<const float*>(source.codes().data()) + first, count,
                            maxima);
      } else {
        float numbers[code_chunk];
        source.decode(first, {numbers, count});
        raise_to_magnitudes(numbers, count, maxima);
      }
    }
    std::size_t tile = first_column / tile_columns;
    float* const maxima_of_row = maxima_of_tiles + row_of_tiles * layout.tiles_across(columns);
    for (std::size_t i = 0; i < count; ++tile) {
      const std::size_t end = std::min(count, (tile + 1) * tile_columns - first_column);
      const float largest = largest_of(maxima + i, end - i);
      if (tile_is_shared) {
        raise_shared(maxima_of_row[tile], largest);
      } else {
        maxima_of_row[tile] = largest;
      }
      i = end;
    }
  }

  const EncodedArray& source;
  const ScaleLayout& layout;
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
    for (std::size_t i = begin; i < end; ++i) {
      scales[i] = detail::power_of_two_scale(std::bit_cast<std::uint32_t>(scales[i]),
                                             largest_element, rounding);
    }
  });
  return result;
}

}  // namespace UNIT_SCALING_NAMESPACE

UNIT_SCALING_IEEE_END
