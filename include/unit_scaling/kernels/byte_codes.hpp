// SPDX-License-Identifier: MIT
/// @file
/// Layer kernels: floats of codes of a byte, four in a word, where the target does not look up all
/// codes of a byte at once (kernels/code_table.hpp): by arithmetic on two codes in a word.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "unit_scaling/core/simd.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/formats/codec.hpp"
#include "unit_scaling/formats/format_spec.hpp"
#include "unit_scaling/formats/minifloat.hpp"
#include "unit_scaling/kernels/ieee_arithmetic.hpp"

UNIT_SCALING_IEEE_BEGIN

// Instructions on halves of words, in registers as wide as those of floats.
#if defined(__AVX512BW__) || (defined(__AVX2__) && !defined(__AVX512F__))
#define UNIT_SCALING_HAS_BYTE_CODES 1
#endif

namespace UNIT_SCALING_NAMESPACE::kernels {

/// Whether `ByteCodes` decodes a format: a sign and seven other bits, of which at most three are a
/// fraction, as in the formats of FP8; and bfloat16 holds all numbers as normal ones.
[[nodiscard]] constexpr bool has_byte_codes(const FormatSpec& format) {
#if defined(UNIT_SCALING_HAS_BYTE_CODES)
  return format.bits() == 8 && format.has_zero() && format.mantissa_bits >= 1 &&
         format.mantissa_bits <= 3 && format.min_subnormal_exponent() >= -126 &&
         format.max_exponent() <= 127;
#else
  static_cast<void>(format);
  return false;
#endif
}

/// Defined for formats that `has_byte_codes` is true of.
template <AnyMinifloat T> class ByteCodes;

#if defined(UNIT_SCALING_HAS_BYTE_CODES)

/// Decodes codes of storage type T. A bfloat16 number is made of each, in half a word, and then the
/// float with the same upper half.
template <AnyMinifloat T>
requires(has_byte_codes(T::format)) class ByteCodes<T> {
 public:
  /// 32-bit words and their halves, in a register of the target.
#if defined(__AVX512BW__)
  static constexpr std::size_t register_bytes = 64;
#else
  static constexpr std::size_t register_bytes = 32;
#endif
  using Words [[gnu::vector_size(register_bytes)]] = std::uint32_t;
  using Halves [[gnu::vector_size(register_bytes)]] = std::uint16_t;

  /// Bits of the floats of the four codes of each word, the lowest byte first.
  [[gnu::always_inline]] static void decode(Words codes, Words (&floats)[4]) {
    // Each code twice in half a word: bytes 0 and 2 of a word, and bytes 1 and 3.
    const auto even = bfloat16_of(shuffle(codes, in_register(evens_twice)));
    const auto odd = bfloat16_of(shuffle(codes, in_register(odds_twice)));
    floats[0] = reinterpret_cast<Words>(even) << 16;
    floats[1] = reinterpret_cast<Words>(odd) << 16;
    floats[2] = reinterpret_cast<Words>(even) & 0xffff'0000U;
    floats[3] = reinterpret_cast<Words>(odd) & 0xffff'0000U;
  }

 private:
  static constexpr FormatSpec format = T::format;
  using SignedHalves [[gnu::vector_size(register_bytes)]] = std::int16_t;
  using Bytes = std::array<std::uint8_t, register_bytes>;

  static constexpr int bfloat16_mantissa_bits = 7;
  static constexpr std::uint32_t infinity = 0x7f80;
  static constexpr std::uint32_t quiet_bit = 0x40;

  /// A number for each half.
  static constexpr std::uint16_t half(std::uint32_t value) {
    return static_cast<std::uint16_t>(value);
  }

  /// Bytes of each 16, by their numbers among these.
  [[gnu::always_inline]] static Halves shuffle(Words from, Words order) {
#if defined(__AVX512BW__)
    return reinterpret_cast<Halves>(
        _mm512_shuffle_epi8(reinterpret_cast<__m512i>(from), reinterpret_cast<__m512i>(order)));
#else
    return reinterpret_cast<Halves>(
        _mm256_shuffle_epi8(reinterpret_cast<__m256i>(from), reinterpret_cast<__m256i>(order)));
#endif
  }
  [[gnu::always_inline]] static Words in_register(const Bytes& bytes) {
    Words result;
    std::memcpy(&result, bytes.data(), register_bytes);
    return result;
  }

  static constexpr Bytes bytes_twice(std::size_t first) {
    Bytes bytes{};
    for (std::size_t i = 0; i < register_bytes; ++i) {
      bytes[i] = static_cast<std::uint8_t>(i % 16 / 2 * 2 + first);
    }
    return bytes;
  }
  alignas(64) static constexpr Bytes evens_twice = bytes_twice(0);
  alignas(64) static constexpr Bytes odds_twice = bytes_twice(1);

  /// Lower bytes of the bfloat16 numbers of the codes 0 to 7, and upper ones; in each 16 bytes.
  static constexpr Bytes bytes_of_small() {
    Bytes bytes{};
    for (std::size_t i = 0; i < register_bytes; ++i) {
      const std::uint32_t bits =
          unit_scaling::detail::decode_lanes(format, static_cast<std::uint32_t>(i % 8));
      bytes[i] = static_cast<std::uint8_t>(i % 16 < 8 ? bits >> 16 : bits >> 24);
    }
    return bytes;
  }
  alignas(64) static constexpr Bytes small = bytes_of_small();

  /// Of each half that holds a code in its lower and in its upper byte.
  [[gnu::always_inline]] static Halves bfloat16_of(Halves code) {
    constexpr int shift = bfloat16_mantissa_bits - format.mantissa_bits;
    const Halves shifted = (code >> (8 - shift)) & half(0x7f << shift);
    Halves bits =
        shifted + half(static_cast<std::uint32_t>(127 - format.bias) << bfloat16_mantissa_bits);
    // Subnormal numbers, of which there are at most eight magnitudes.
    const Halves order = (code & half(format.mantissa_mask() * 0x0101)) | half(0x0800);
    const Halves from_table = shuffle(in_register(small), reinterpret_cast<Words>(order));
    const Halves magnitude = code & half(0x7f00);
    bits = is_above(magnitude, format.mantissa_mask()) ? bits : from_table;
    if constexpr (format.specials == Specials::ieee) {
      const std::uint32_t of_infinity = format.infinity_code();
      bits = is_above(magnitude, of_infinity - 1) ? shifted | half(infinity) : bits;
      bits = is_above(magnitude, of_infinity) ? bits | half(quiet_bit) : bits;
    } else if constexpr (format.specials == Specials::fn) {
      bits = is_above(magnitude, format.max_finite_code()) ? Halves{} + half(infinity | quiet_bit)
                                                           : bits;
    }
    bits |= code & half(0x8000);
    if constexpr (format.specials == Specials::fnuz) {
      bits = code == half(0x8080) ? Halves{} + half(infinity | quiet_bit) : bits;
    }
    return bits;
  }

  /// Whether the magnitude in the upper byte, whose lower one is 0, is above a code.
  [[gnu::always_inline]] static auto is_above(Halves magnitude, std::uint32_t code) {
    return reinterpret_cast<SignedHalves>(magnitude) > static_cast<std::int16_t>(code << 8);
  }
};

#endif

}  // namespace UNIT_SCALING_NAMESPACE::kernels

UNIT_SCALING_IEEE_END
