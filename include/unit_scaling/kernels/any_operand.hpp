// SPDX-License-Identifier: MIT
/// @file
/// Layer kernels: an array whose format and scales are chosen at run time, as an operand of matrix
/// products.
///
/// It compiles the products of all formats, so it is not in the umbrella header.
// unit_scaling: optional
#pragma once

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <utility>

#if defined(__AVX512VBMI__) && defined(__AVX512BW__)
#include <immintrin.h>
#endif

#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/memory.hpp"
#include "unit_scaling/core/parallel_for.hpp"
#include "unit_scaling/core/simd.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/formats/bit_packing.hpp"
#include "unit_scaling/formats/catalogue.hpp"
#include "unit_scaling/formats/codec.hpp"
#include "unit_scaling/formats/convert.hpp"
#include "unit_scaling/formats/encoded_array.hpp"
#include "unit_scaling/formats/encoded_array_codec.hpp"
#include "unit_scaling/formats/format.hpp"
#include "unit_scaling/formats/scale_layout.hpp"
#include "unit_scaling/kernels/code_table.hpp"
#include "unit_scaling/kernels/element_kernels.hpp"
#include "unit_scaling/kernels/elements.hpp"
#include "unit_scaling/kernels/operand.hpp"
#include "unit_scaling/kernels/words.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::kernels {

inline void PreparedOperand::use_codes(const FormatSpec& format, const std::uint8_t* data) {
  data_ = data;
  element_bytes_ = 1;
  kernels_ = detail::find_code_kernels(format);
  table_ = &own_table_.emplace(format);
}

namespace detail {

/// Whether bfloat16 holds all elements of an array but those between zero and its normal range,
/// which are not read as such on AMX.
[[nodiscard]] inline bool is_held_by_bfloat16_unless_subnormal(const EncodedArray& array) {
  const Format& format = array.format();
  if (format.is_binary64() || !bfloat16::format.holds(format.spec())) return false;
  switch (array.scale_layout().format) {
    case ScaleFormat::power_of_two:
      return true;
    case ScaleFormat::two_level:
      // The product of two significands, each with its hidden bit.
      return array.common_scale() == 1 &&
             (format.spec().mantissa_bits + 1) + (float8_e4m3fn::format.mantissa_bits + 1) <=
                 bfloat16::format.mantissa_bits + 1;
    default:
      return is_held_by_bfloat16(array);
  }
}

/// Whether a number is other than zero, and below the normal range of binary32 and bfloat16.
[[nodiscard]] inline bool has_subnormal(std::span<const float> numbers) {
  constexpr std::uint32_t sign = unit_scaling::detail::float_sign_mask;
  constexpr std::uint32_t least_normal = unit_scaling::detail::float_hidden_bit;
  std::uint32_t found = 0;
  for (const float number : numbers) {
    const std::uint32_t magnitude = std::bit_cast<std::uint32_t>(number) & ~sign;
    found |= static_cast<std::uint32_t>(magnitude - 1 < least_normal - 1);  // 0 - 1 is large
  }
  return found != 0;
}

/// Whether an array may have elements below the normal range of bfloat16 other than zero.
[[nodiscard]] inline bool may_have_subnormal(const EncodedArray& array) {
  if (array.scale_layout().format != ScaleFormat::power_of_two) return array.has_scales();
  constexpr int bias = 127;
  const int lowest = bfloat16::format.min_normal_exponent() + bias -
                     array.format().spec().min_subnormal_exponent();
  int least = lowest;
  for (const std::uint8_t code : array.scale_codes()) least = std::min(least, int{code});
  return least < lowest;
}

/// Elements that are decoded at a time.
inline constexpr std::size_t decoded_chunk = 1024;

/// Codes from any whole chunk on, a byte each; in `bytes` where they are narrower in memory.
[[nodiscard]] inline const std::uint8_t* find_codes(const EncodedArray& array, std::size_t first,
                                                    std::size_t count, std::uint8_t* bytes) {
  const Format& format = array.format();
  const std::size_t at = format.code_bytes(first);
  if (format.storage_bits() == 8) return array.codes().data() + at;
  unit_scaling::detail::unpack_codes(
      format.spec().bits(), array.codes().subspan(at, format.code_bytes(first + count) - at),
      {bytes, count});
  return bytes;
}

/// Writes elements from any whole chunk on whose codes are looked up, as floats and, cut off, in
/// bfloat16.
inline void decode_codes(const EncodedArray& array, const CodeTable& table, std::size_t first,
                         const std::uint8_t* codes, std::span<float> floats, bfloat16* to) {
  const std::size_t count = floats.size();
  array.read_scales(first, floats);
  const TableElements elements(&table);
  std::size_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    const float32x16 numbers =
        elements.floats(codes + i) * unit_scaling::load<float32x16>(&floats[i]);
    unit_scaling::store(numbers, &floats[i]);
    unit_scaling::detail::store_codes(bit_cast_to<uint32x16>(numbers) >> 16, to + i);
  }
  if (i == count) return;
  const float32x16 rest = elements.floats(codes + i, count - i);
  for (std::size_t j = 0; i + j < count; ++j) {
    floats[i + j] *= rest[j];
    to[i + j] = bfloat16::from_bits(
        static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(floats[i + j]) >> 16));
  }
}

#if defined(__AVX512VBMI__) && defined(__AVX512BW__)
inline constexpr bool adds_exponents = true;

/// What powers of two add to the exponents of 32 bfloat16 numbers.
class ExponentLanes {
 public:
  /// @param codes in float8_e8m0fnu, in lanes of 16 bits.
  ExponentLanes(const FormatSpec& format, __m512i codes)
      : summands_(_mm512_slli_epi16(_mm512_sub_epi16(codes, _mm512_set1_epi16(bias)), 7)),
        are_nan_(_mm512_cmpeq_epi16_mask(codes, _mm512_set1_epi16(nan))) {
    const auto bound = [](int exponent) {
      return _mm512_set1_epi16(static_cast<std::int16_t>(exponent + bias));
    };
    are_far_ = (_mm512_cmplt_epi16_mask(codes, bound(lowest(format))) |
                _mm512_cmpgt_epi16_mask(codes, bound(highest(format)))) &
               ~are_nan_;
  }
  /// Of one power for all: nothing is to be compared in lanes.
  ExponentLanes(const FormatSpec& format, std::uint8_t code)
      : summands_(_mm512_set1_epi16(static_cast<std::int16_t>((code - bias) * 128))),
        are_nan_(code == nan ? all_lanes : 0) {
    const int exponent = code - bias;
    const bool is_far = exponent < lowest(format) || exponent > highest(format);
    are_far_ = is_far ? ~are_nan_ : 0;
  }

  /// Writes 32 codes times the powers in bfloat16.
  /// @returns whether that holds them, for all that can be told from the powers.
  [[nodiscard, gnu::always_inline]] bool decode(const TableElements& elements,
                                                const std::uint8_t* codes, bfloat16* to) const {
    // The earlier one of two is in the upper half of its word.
    const __m512i numbers = _mm512_maskz_rol_epi32(
        0xffff, reinterpret_cast<__m512i>(elements.run<Bfloat16Pairs>(codes)), 16);
    const __m512i magnitudes = _mm512_and_si512(numbers, _mm512_set1_epi16(0x7fff));
    constexpr std::int16_t infinity = 0x7f80;
    const __mmask32 have_exponent = _mm512_cmplt_epu16_mask(
        _mm512_sub_epi16(magnitudes, _mm512_set1_epi16(1)), _mm512_set1_epi16(infinity - 1));
    __m512i products = _mm512_mask_add_epi16(numbers, have_exponent, numbers, summands_);
    products = _mm512_mask_mov_epi16(products, are_nan_, _mm512_set1_epi16(infinity | 0x40));
    std::memcpy(static_cast<void*>(to), &products, sizeof(products));
    return (have_exponent & are_far_) == 0;
  }

 private:
  static constexpr std::int16_t bias = 127;
  static constexpr std::int16_t nan = 0xff;
  static constexpr __mmask32 all_lanes = 0xffff'ffffU;

  /// The exponents of the powers whose products bfloat16 holds, whatever the code.
  [[nodiscard]] static int lowest(const FormatSpec& format) {
    return bfloat16::format.min_normal_exponent() - format.min_subnormal_exponent();
  }
  [[nodiscard]] static int highest(const FormatSpec& format) {
    return bfloat16::format.max_exponent() - format.max_exponent();
  }

  __m512i summands_;
  __mmask32 are_nan_;
  __mmask32 are_far_ = 0;
};

/// Writes the elements of a part of an array from a multiple of 32 on, of codes of a byte each.
/// @returns whether bfloat16 holds them, for all that can be told from the scales.
[[nodiscard]] inline bool decode_by_exponents(const EncodedArray& array, const CodeTable& table,
                                              std::size_t first, std::size_t count,
                                              const std::uint8_t* codes, bfloat16* to) {
  const FormatSpec format = array.format().spec();
  const TableElements elements(&table);
  const std::uint8_t* const scales = array.scale_codes().data();
  const std::size_t width = array.scale_layout().tile_columns;
  bool holds = true;
  if (width != 1) {
    for (std::size_t i = 0; i < count;) {
      const ExponentLanes exponents(format, scales[(first + i) / width]);
      const std::size_t end = std::min(count, i + width - (first + i) % width);
      for (; i < end; i += 32) holds &= exponents.decode(elements, codes + i, to + i);
    }
    return holds;
  }
  const std::size_t columns = array.columns();
  const std::size_t height = std::min(array.scale_layout().tile_rows, array.rows());
  for (std::size_t i = 0; i < count;) {
    const std::size_t row = (first + i) / columns;
    const std::size_t column = (first + i) % columns;
    const std::uint8_t* const of_row = scales + row / height * columns;
    const std::size_t end = std::min(count, i + columns - column);
    for (std::size_t j = column; i < end; i += 32, j += 32) {
      __m256i of_columns;
      std::memcpy(&of_columns, of_row + j, sizeof(of_columns));
      const ExponentLanes exponents(format, _mm512_cvtepu8_epi16(of_columns));
      holds &= exponents.decode(elements, codes + i, to + i);
    }
  }
  return holds;
}
#else
inline constexpr bool adds_exponents = false;
[[nodiscard]] inline bool decode_by_exponents(const EncodedArray& /*array*/,
                                              const CodeTable& /*table*/, std::size_t /*first*/,
                                              std::size_t /*count*/, const std::uint8_t* /*codes*/,
                                              bfloat16* /*to*/) {
  return false;
}
#endif

/// Whether `decode_by_exponents` is for an array: where each 32 elements share a scale, or each has
/// one in a row of them.
[[nodiscard]] inline bool may_decode_by_exponents(const EncodedArray& array) {
  const ScaleLayout& layout = array.scale_layout();
  const std::size_t width = layout.tile_columns;
  return adds_exponents && layout.format == ScaleFormat::power_of_two &&
         has_code_table(array.format().spec()) && width != ScaleLayout::all &&
         array.columns() % 32 == 0 &&
         (width == 1 || (layout.tile_rows == 1 && width % 32 == 0 && array.columns() % width == 0));
}

/// Writes the elements of an array in bfloat16.
/// @returns whether it holds all of them.
/// @pre is_held_by_bfloat16_unless_subnormal(array)
[[nodiscard]] inline bool decode_to_bfloat16(const EncodedArray& array, bfloat16* to) {
  const Format& format = array.format();
  const bool is_looked_up = array.has_scales() && has_code_table(format.spec());
  std::optional<CodeTable> table;
  if (is_looked_up) table.emplace(format.spec());
  const bool checks = may_have_subnormal(array);
  const bool may_add = may_decode_by_exponents(array);
  std::atomic<bool> holds = true;
  parallel_ranges(array.size(), std::size_t{1} << 14, [&](std::size_t begin, std::size_t end) {
    for (std::size_t first = begin; first < end; first += decoded_chunk) {
      const std::size_t count = std::min(decoded_chunk, end - first);
      float floats[decoded_chunk];
      if (is_looked_up) {
        std::uint8_t bytes[decoded_chunk];
        const std::uint8_t* const codes = find_codes(array, first, count, bytes);
        if (may_add && decode_by_exponents(array, *table, first, count, codes, to + first)) {
          continue;
        }
        decode_codes(array, *table, first, codes, {floats, count}, to + first);
      } else {
        array.decode(first, {floats, count});
        unit_scaling::encode(std::span<const float>(floats, count), std::span(to + first, count),
                             Overflow::infinity_or_nan);
      }
      if (checks && has_subnormal({floats, count})) holds = false;
    }
  });
  return holds;
}

/// Decodes an array, scales included.
inline void prepare_decoded(const EncodedArray& array, PreparedOperand& to) {
  const std::size_t size = array.size();
  if (is_held_by_bfloat16_unless_subnormal(array)) {
    auto* numbers = to.make_room<bfloat16>(size);
    if (decode_to_bfloat16(array, numbers)) return to.use(static_cast<const bfloat16*>(numbers));
  }
  auto* floats = to.make_room<float>(size);
  array.decode({floats, size});
  to.use(static_cast<const float*>(floats));
}

/// The same, but for what all scales have in common, which sums are multiplied with: bfloat16 may
/// hold what is left.
inline void prepare_without_common_scale(const EncodedArray& array, PreparedOperand& to) {
  to.set_scale(array.common_scale());
  prepare_decoded(array.with_common_scale(1, &scratch_memory()), to);
}

/// Notes the scales of an array for its sums. False, if they differ along what is summed over, or
/// sums are not to have any.
[[nodiscard]] inline bool keep_scales(const EncodedArray& array, SummedExtent summed,
                                      PreparedOperand& to) {
  if (summed == SummedExtent::both_with_scales) return !array.has_scales();
  const ScaleLayout& layout = array.scale_layout();
  const bool one_across = layout.tiles_across(array.columns()) <= 1;
  const bool one_down = layout.tiles_down(array.rows()) <= 1;
  if (array.scale_count() == 0 || (one_across && one_down)) {
    if (array.scale_count() != 0) to.set_scale(array.scale(0));
    return true;
  }
  if (summed == SummedExtent::columns && one_across) {
    float* scales = to.make_room_for_scales(array.rows());
    for (std::size_t i = 0; i < array.rows(); ++i) scales[i] = array.scale_of(i, 0);
    return true;
  }
  if (summed == SummedExtent::rows && one_down) {
    float* scales = to.make_room_for_scales(array.columns());
    for (std::size_t j = 0; j < array.columns(); ++j) scales[j] = array.scale_of(0, j);
    return true;
  }
  return false;
}

/// As `Operand::Encode`, in any format.
inline void encode_any(const Format& format, std::span<const float> numbers,
                       std::span<std::uint8_t> codes) {
  format.encode(numbers, codes, {.overflow = Overflow::infinity_or_nan});
}

/// For any array.
inline void prepare_any(const EncodedArray& array, SummedExtent summed, PreparedOperand& to) {
  if (!keep_scales(array, summed, to)) {
    const bool may_have_common = summed != SummedExtent::both_with_scales;
    if (may_have_common && unit_scaling::has_common_scale(array.scale_layout().format)) {
      return prepare_without_common_scale(array, to);
    }
    return prepare_decoded(array, to);
  }
  const Format& format = array.format();
  const std::uint8_t* codes = array.codes().data();
  if (format.is_binary32()) return to.use(reinterpret_cast<const float*>(codes));
  if (format == Format::of<bfloat16>()) return to.use(reinterpret_cast<const bfloat16*>(codes));
  if (format == Format::of<float16>()) return to.use(reinterpret_cast<const float16*>(codes));
  if (!format.is_binary64() && has_code_table(format.spec())) {
    if (format.storage_bits() < 8) {
      auto* bytes = to.make_room<std::uint8_t>(array.size());
      unit_scaling::detail::unpack_codes(format.spec().bits(), array.codes(),
                                         {bytes, array.size()});
      codes = bytes;
    }
    return to.use_codes(format.spec(), codes);
  }
  // Without its scales, which the sums are multiplied with.
  prepare_decoded(array.without_scales(), to);
}

/// The same, of products in double. Scales are in the numbers.
inline void prepare_any_double(const EncodedArray& array, SummedExtent /*summed*/,
                               PreparedOperand& to) {
  if (array.format().is_binary64()) {
    return to.use(reinterpret_cast<const double*>(array.codes().data()));
  }
  auto* numbers = to.make_room<double>(array.size());
  const Array<float> floats = array.decode(&scratch_memory());
  for (std::size_t i = 0; i < array.size(); ++i) numbers[i] = static_cast<double>(floats.data()[i]);
  to.use(static_cast<const double*>(numbers));
}

}  // namespace detail

/// An array as an operand of any product in float. Its float64 elements are rounded to float.
/// Where scales belong to what a product does not sum over, sums are multiplied with them
/// afterwards: see `SumScales`.
[[nodiscard]] inline Operand make_operand(EncodedArray array) {
  return {
      .array = std::move(array), .prepare = &detail::prepare_any, .encode = &detail::encode_any};
}

}  // namespace UNIT_SCALING_NAMESPACE::kernels

UNIT_SCALING_IEEE_END
