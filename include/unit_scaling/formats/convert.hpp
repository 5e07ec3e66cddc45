// SPDX-License-Identifier: MIT
/// @file
/// Layer: formats. Conversions between a storage type and binary32, sixteen elements at a time:
/// building blocks for kernels, and conversions of whole spans.
///
/// Every conversion gives, to the bit, what the scalar conversions of `Minifloat` give; that holds
/// also for the elements of a tail shorter than sixteen and for the instructions of the processor.
#pragma once

#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>

#if defined(__F16C__)
#include <immintrin.h>
#endif

#include "unit_scaling/core/parallel.hpp"
#include "unit_scaling/core/simd.hpp"
#include "unit_scaling/formats/catalogue.hpp"
#include "unit_scaling/formats/minifloat.hpp"
#include "unit_scaling/formats/rounding.hpp"

namespace unit_scaling {

/// A storage type that the vector conversions take: binary32 or any `Minifloat`.
template <class T>
concept VectorStorage = std::same_as<T, float> || AnyMinifloat<T>;

namespace detail {

/// Vector of sixteen codes of one or two bytes.
template <AnyMinifloat T> using codes_t = std::conditional_t<sizeof(T) == 1, uint8x16, uint16x16>;

template <class T>
inline constexpr bool has_native_conversion =
#if defined(__F16C__)
    std::same_as<T, float16>;
#else
    false;
#endif

#if defined(__F16C__)
#if defined(__AVX512F__)
inline constexpr __mmask16 all_lanes = 0xffff;
#endif

/// Binary32 numbers of sixteen binary16 codes, by the instruction, which ignores DAZ.
[[nodiscard, gnu::always_inline]] inline float32x16 decode_float16(uint16x16 codes) noexcept {
#if defined(__AVX512F__)
  // With a mask of ones, for GCC 12 warns of the undefined operand inside the form without a mask.
  return reinterpret_cast<float32x16>(
      _mm512_maskz_cvtph_ps(all_lanes, reinterpret_cast<__m256i>(codes)));
#else
  float32x16 result;
  __m128i halves[2];
  std::memcpy(halves, &codes, sizeof(codes));
  const __m256 floats[2] = {_mm256_cvtph_ps(halves[0]), _mm256_cvtph_ps(halves[1])};
  std::memcpy(&result, floats, sizeof(result));
  return result;
#endif
}

/// Binary16 codes of sixteen binary32 numbers, by the instruction, which ignores FTZ. Infinity lies
/// beyond the largest finite number.
[[nodiscard, gnu::always_inline]] inline uint16x16 encode_float16(float32x16 values) noexcept {
#if defined(__AVX512F__)
  return reinterpret_cast<uint16x16>(_mm512_maskz_cvtps_ph(
      all_lanes, reinterpret_cast<__m512>(values), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#else
  uint16x16 result;
  __m256 floats[2];
  std::memcpy(floats, &values, sizeof(values));
  const __m128i halves[2] = {_mm256_cvtps_ph(floats[0], _MM_FROUND_TO_NEAREST_INT),
                             _mm256_cvtps_ph(floats[1], _MM_FROUND_TO_NEAREST_INT)};
  std::memcpy(&result, halves, sizeof(result));
  return result;
#endif
}
#endif

/// Binary32 numbers of sixteen codes.
template <AnyMinifloat T>
[[nodiscard, gnu::always_inline]] inline float32x16 decode_codes(codes_t<T> codes) noexcept {
#if defined(__F16C__)
  if constexpr (has_native_conversion<T>) return decode_float16(codes);
#endif
  return bit_cast_to<float32x16>(decode_lanes(T::format, convert_to<uint32x16>(codes)));
}

/// Codes of sixteen binary32 numbers.
template <AnyMinifloat T, Overflow overflow>
[[nodiscard, gnu::always_inline]] inline codes_t<T> encode_codes(float32x16 values) noexcept {
#if defined(__F16C__)
  if constexpr (has_native_conversion<T>) {
    if constexpr (overflow == Overflow::saturate) {
      // Clamping the magnitude beforehand rounds nothing that the instruction would not round the
      // same: what lies beyond the largest finite number and is no NaN becomes that number.
      constexpr std::uint32_t max_bits =
          std::bit_cast<std::uint32_t>(static_cast<float>(T::format.max_finite()));
      const uint32x16 bits = bit_cast_to<uint32x16>(values);
      const uint32x16 magnitude = bits & float_magnitude_mask;
      const int32x16 is_beyond =
          is_above(magnitude, max_bits) & is_below(magnitude, float_infinity_bits + 1U);
      values =
          bit_cast_to<float32x16>(select(is_beyond, (bits & float_sign_mask) | max_bits, bits));
    }
    return encode_float16(values);
  }
#endif
  return convert_to<codes_t<T>>(
      encode_lanes(T::format, overflow, Rounding::nearest_even, bit_cast_to<uint32x16>(values)));
}

[[noreturn]] inline void throw_size_mismatch(std::string_view function, std::size_t in,
                                             std::size_t out) {
  throw std::invalid_argument(std::string(function) + ": the input has " + std::to_string(in) +
                              " elements and the output " + std::to_string(out));
}

inline void check_sizes(std::string_view function, std::size_t in, std::size_t out) {
  if (in != out) throw_size_mismatch(function, in, out);
}

}  // namespace detail

/// Sixteen consecutive elements, as binary32 numbers, exactly.
template <VectorStorage T>
[[nodiscard, gnu::always_inline]] inline float32x16 load_float(const T* from) noexcept {
  if constexpr (std::same_as<T, float>) {
    return load<float32x16>(from);
  } else {
    detail::codes_t<T> codes;
    std::memcpy(&codes, from, sizeof(codes));
    return detail::decode_codes<T>(codes);
  }
}

/// Rounds sixteen binary32 numbers to the storage type, to nearest, ties to even, and writes them.
/// Binary32 storage takes them unchanged, whatever `overflow` says.
template <Overflow overflow, VectorStorage T>
[[gnu::always_inline]] inline void store_float(float32x16 values, T* to) noexcept {
  if constexpr (std::same_as<T, float>) {
    store(values, to);
  } else {
    const detail::codes_t<T> codes = detail::encode_codes<T, overflow>(values);
    // Through void: a class with a constructor is still trivially copyable.
    std::memcpy(static_cast<void*>(to), &codes, sizeof(codes));
  }
}

/// The first `count` of sixteen elements, followed by positive zeros. Reads `count` elements.
/// @pre count <= lanes
template <VectorStorage T>
[[nodiscard, gnu::always_inline]] inline float32x16 load_float_partial(const T* from,
                                                                       std::size_t count) noexcept {
  T buffer[lanes] = {};
  for (std::size_t lane = 0; lane < count; ++lane) buffer[lane] = from[lane];
  return load_float(buffer);
}

/// Writes the first `count` of sixteen elements, converted as store_float() does. Writes `count`
/// elements.
/// @pre count <= lanes
template <Overflow overflow, VectorStorage T>
[[gnu::always_inline]] inline void store_float_partial(float32x16 values, T* to,
                                                       std::size_t count) noexcept {
  T buffer[lanes];
  store_float<overflow>(values, buffer);
  for (std::size_t lane = 0; lane < count; ++lane) to[lane] = buffer[lane];
}

namespace detail {

/// Elements of a piece of work for a thread; a multiple of every StochasticRounding::group_size().
inline constexpr std::size_t convert_grain = std::size_t{1} << 16;

}  // namespace detail

/// Converts every element to binary32: exactly, save that binary64 rounds to nearest, ties to even.
/// The spans must not overlap.
/// @throws std::invalid_argument if the sizes differ.
template <Storage T> void decode(std::span<const T> in, std::span<float> out) {
  detail::check_sizes("unit_scaling::decode", in.size(), out.size());
  parallel_ranges(in.size(), detail::convert_grain, [&](std::size_t begin, std::size_t end) {
    std::size_t i = begin;
    if constexpr (std::same_as<T, double>) {
      for (; i < end; ++i) out[i] = static_cast<float>(in[i]);
    } else {
      for (; i + lanes <= end; i += lanes) store(load_float(&in[i]), &out[i]);
      if (i < end) {
        store_float_partial<Overflow::infinity_or_nan>(load_float_partial(&in[i], end - i), &out[i],
                                                       end - i);
      }
    }
  });
}

/// Converts every element to binary64, exactly.
/// @throws std::invalid_argument if the sizes differ.
template <Storage T> void decode(std::span<const T> in, std::span<double> out) {
  detail::check_sizes("unit_scaling::decode", in.size(), out.size());
  parallel_ranges(in.size(), detail::convert_grain, [&](std::size_t begin, std::size_t end) {
    for (std::size_t i = begin; i < end; ++i) out[i] = static_cast<double>(in[i]);
  });
}

namespace detail {

template <Overflow overflow, VectorStorage T>
void encode_span(std::span<const float> in, std::span<T> out) {
  parallel_ranges(in.size(), convert_grain, [&](std::size_t begin, std::size_t end) {
    std::size_t i = begin;
    for (; i + lanes <= end; i += lanes) store_float<overflow>(load_float(&in[i]), &out[i]);
    if (i < end) {
      store_float_partial<overflow>(load_float_partial(&in[i], end - i), &out[i], end - i);
    }
  });
}

}  // namespace detail

/// Rounds every element to the storage type, to nearest, ties to even; encode.hpp has the other
/// modes. Binary32 and binary64 storage take the numbers unchanged, whatever `overflow` says. The
/// spans must not overlap.
/// @throws std::invalid_argument if the sizes differ.
template <Storage T> void encode(std::span<const float> in, std::span<T> out, Overflow overflow) {
  detail::check_sizes("unit_scaling::encode", in.size(), out.size());
  if constexpr (std::same_as<T, double>) {
    for (std::size_t i = 0; i < in.size(); ++i) out[i] = static_cast<double>(in[i]);
  } else if (overflow == Overflow::saturate) {
    detail::encode_span<Overflow::saturate>(in, out);
  } else {
    detail::encode_span<Overflow::infinity_or_nan>(in, out);
  }
}

/// Rounds every binary64 number to the storage type once, to nearest, ties to even; element by
/// element. Binary64 storage takes the numbers unchanged, and binary32 storage as the conversion of
/// the language does, whatever `overflow` says.
/// @throws std::invalid_argument if the sizes differ.
template <Storage T> void encode(std::span<const double> in, std::span<T> out, Overflow overflow) {
  detail::check_sizes("unit_scaling::encode", in.size(), out.size());
  parallel_ranges(in.size(), detail::convert_grain, [&](std::size_t begin, std::size_t end) {
    for (std::size_t i = begin; i < end; ++i) {
      if constexpr (AnyMinifloat<T>) {
        out[i] = T::from_double(in[i], overflow);
      } else {
        out[i] = static_cast<T>(in[i]);
      }
    }
  });
}

}  // namespace unit_scaling
