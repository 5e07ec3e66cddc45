// SPDX-License-Identifier: MIT
/// @file
/// Layer: formats. Rounding to tiles of elements that share a scale, which is found from the
/// largest magnitude of each tile.
// unit_scaling: optional (encodes formats chosen at run time, slow to compile)
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory_resource>
#include <span>
#include <string_view>
#include <utility>

#include "unit_scaling/core/arithmetic.hpp"
#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/memory.hpp"
#include "unit_scaling/core/parallel_for.hpp"
#include "unit_scaling/core/shape.hpp"
#include "unit_scaling/core/simd.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/formats/block_scales.hpp"
#include "unit_scaling/formats/catalogue.hpp"
#include "unit_scaling/formats/codec.hpp"
#include "unit_scaling/formats/convert.hpp"
#include "unit_scaling/formats/encode.hpp"
#include "unit_scaling/formats/encoded_array.hpp"
#include "unit_scaling/formats/encoded_array_codec.hpp"
#include "unit_scaling/formats/format.hpp"
#include "unit_scaling/formats/format_spec.hpp"
#include "unit_scaling/formats/scale_layout.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE {

namespace detail {

/// Calls `body(bits of the maxima, first, count)` for every sixteen.
template <class Body> void for_maxima(std::span<const float> maxima, const Body& body) {
  std::size_t i = 0;
  for (; i + lanes <= maxima.size(); i += lanes) {
    body(bit_cast_to<uint32x16>(load<float32x16>(&maxima[i])), i, lanes);
  }
  if (i == maxima.size()) return;
  float rest[lanes] = {};
  std::copy(maxima.begin() + static_cast<std::ptrdiff_t>(i), maxima.end(), rest);
  body(bit_cast_to<uint32x16>(load<float32x16>(rest)), i, maxima.size() - i);
}

/// In float8_e8m0fnu, powers of two and NaN are their exponent fields in binary32.
inline void write_powers(std::span<const float> powers, std::uint8_t* to) {
  for_maxima(powers, [&](uint32x16 bits, std::size_t first, std::size_t count) {
    const auto codes = convert_to<uint8x16>(bits >> float_mantissa_bits);
    std::memcpy(to + first, &codes, count);
  });
}

/// What is not finite becomes NaN, and zero `of_zero`.
[[nodiscard]] inline float32x16 finished(uint32x16 maxima, float32x16 scales, float of_zero) {
  const auto nan = bit_cast_to<float32x16>(splat<uint32x16>(float_infinity_bits | float_quiet_bit));
  const float32x16 or_zero = select(is_below(maxima, 1U), splat<float32x16>(of_zero), scales);
  return select(is_below(maxima, float_infinity_bits), or_zero, nan);
}

inline void write_quotients(std::span<const float> maxima, float largest, std::uint8_t* to) {
  for_maxima(maxima, [&](uint32x16 bits, std::size_t first, std::size_t count) {
    const auto scales =
        greatest(bit_cast_to<float32x16>(bits) / largest, splat<float32x16>(0x1p-126F));
    const float32x16 result = finished(bits, scales, 1);
    std::memcpy(to + first * sizeof(float), &result, count * sizeof(float));
  });
}

/// @param unit the largest number times the common scale
inline void write_shares(std::span<const float> maxima, float unit, std::uint8_t* to) {
  for_maxima(maxima, [&](uint32x16 bits, std::size_t first, std::size_t count) {
    const float32x16 least =
        splat<float32x16>(static_cast<float>(float8_e4m3fn::format.min_subnormal()));
    const auto shares = greatest(bit_cast_to<float32x16>(bits) / unit, least);
    float8_e4m3fn codes[lanes];
    store_float<Overflow::saturate>(finished(bits, shares, least[0]), codes);
    std::memcpy(to + first, codes, count);
  });
}

[[nodiscard]] inline float common_scale(std::span<const float> maxima, float largest) {
  int32x16 greatest_bits{};
  for_maxima(maxima, [&](uint32x16 bits, std::size_t /*first*/, std::size_t /*count*/) {
    const auto is_finite = is_below(bits, float_infinity_bits);
    greatest_bits = greatest(greatest_bits, is_finite & bit_cast_to<int32x16>(bits));
  });
  const auto maximum = std::bit_cast<float>(greatest_lane(greatest_bits));
  if (maximum == 0) return 1;
  const double limit = float8_e4m3fn::format.max_finite() * static_cast<double>(largest);
  return std::max(static_cast<float>(static_cast<double>(maximum) / limit), 0x1p-126F);
}

/// Writes the scales of tiles with these maxima, in the form in which they are stored. Powers of
/// two are what is given instead of maxima.
inline void write_stored_scales(std::span<const float> maxima, const FormatSpec& format,
                                ScaleFormat scale_format, std::uint8_t* to) {
  const auto largest = static_cast<float>(format.max_finite());
  float common = 1;
  if (has_common_scale(scale_format)) {
    common = common_scale(maxima, largest);
    std::memcpy(to + maxima.size(), &common, sizeof(common));
  }
  parallel_ranges(maxima.size(), convert_grain, [&](std::size_t begin, std::size_t end) {
    const auto part = maxima.subspan(begin, end - begin);
    switch (scale_format) {
      case ScaleFormat::power_of_two:
        return write_powers(part, to + begin);
      case ScaleFormat::binary32:
        return write_quotients(part, largest, to + begin * sizeof(float));
      default:
        return write_shares(part, largest * common, to + begin);
    }
  });
}

}  // namespace detail

/// @throws DomainError for a format that `encode_by_tile_maxima` does not take: one that is wider
///         than a byte, that has no zero, or whose largest number is below 2.
inline void require_tile_format(std::string_view operation, const Format& format) {
  require(format.storage_bits() <= 8 && format.spec().has_zero() && format.spec().max_finite() >= 2,
          operation, "expected a format of a byte or less with zero and numbers from 2 on, got ",
          format);
}

/// Memory for the codes and for the stored scales of an array, all of it or, as `Array::borrow` has
/// it, a part of that of another one.
struct EncodedMemory {
  Array<std::uint8_t> codes;
  Array<std::uint8_t> scale_codes;

  /// For an array of so many rows and columns.
  EncodedMemory(std::size_t rows, std::size_t columns, const Format& format,
                const ScaleLayout& layout, std::pmr::memory_resource* resource)
      : codes(Shape{format.code_bytes(rows * columns)}, resource),
        scale_codes(Shape{layout.count(rows, columns) * scale_bytes(layout.format) +
                          (has_common_scale(layout.format) ? sizeof(float) : 0)},
                    resource) {}
  EncodedMemory(Array<std::uint8_t> codes_, Array<std::uint8_t> scale_codes_)
      : codes(std::move(codes_)), scale_codes(std::move(scale_codes_)) {}
};

/// An array rounded to a format under scales that follow from the largest magnitude of each tile.
///
/// Let a be the largest magnitude of a tile and m the largest number of the format. The scale is
/// - `power_of_two`: as `ScaleRounding` says, from 2^-127 to 2^127: by OCP MX 1.0, or the smallest
///   power of two that is not below a/m. A tile of zeros has 2^-127.
/// - `binary32`: a/m, rounded to nearest in binary32, and no less than 2^-126. A tile of zeros has
///   1.
/// - `two_level`: t s. The common scale t is A/(448 m), rounded likewise and no less than 2^-126,
///   of the largest finite magnitude A of all tiles; 1 if that is zero. s is a/(m t), product and
///   quotient rounded in binary32, rounded to the nearest number of float8_e4m3fn from 2^-9 to 448.
///   So no tile is divided by zero. s may be less than that quotient, and then the largest
///   elements of the tile saturate.
///
/// Elements are divided by their scale as `EncodedArray` does, and rounded. If a tile has an
/// infinity or NaN, its scale is NaN, and so is each of its elements.
///
/// Exact, and the same bits for any number of threads.
/// @param array in binary32, or a format within it
/// @param layout what a tile is, and how its scale is stored
/// @param rounding of scales that are powers of two
/// @param encoding of the elements
/// @param memory to which it is written
/// @throws DomainError for an array in binary64, and for a layout without scales; ShapeError for
///         another size of the memory.
/// @pre `require_tile_format` takes the format
[[nodiscard]] inline EncodedArray encode_by_tile_maxima(
    const EncodedArray& array, const Format& format, const ScaleLayout& layout,
    ScaleRounding rounding, const EncodeOptions& encoding, EncodedMemory memory) {
  const DefaultArithmetic arithmetic;
  const Array<float> maxima =
      layout.format == ScaleFormat::power_of_two
          ? power_of_two_block_scales(array, layout, format, rounding, &scratch_memory())
          : largest_magnitudes(array, layout, &scratch_memory());
  detail::write_stored_scales(maxima.span(), format.spec(), layout.format,
                              memory.scale_codes.mutable_data());
  return EncodedArray::encode_under(array, format, layout, std::move(memory.scale_codes),
                                    std::move(memory.codes), encoding);
}
/// As above, in the memory of a resource; by default in that of the array.
[[nodiscard]] inline EncodedArray encode_by_tile_maxima(
    const EncodedArray& array, const Format& format, const ScaleLayout& layout,
    ScaleRounding rounding, const EncodeOptions& encoding = {},
    std::pmr::memory_resource* resource = nullptr) {
  return encode_by_tile_maxima(array, format, layout, rounding, encoding,
                               EncodedMemory(array.rows(), array.columns(), format, layout,
                                             resource != nullptr ? resource : array.resource()));
}

}  // namespace UNIT_SCALING_NAMESPACE

UNIT_SCALING_IEEE_END
