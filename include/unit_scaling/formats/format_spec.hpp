// SPDX-License-Identifier: MIT
/// @file
/// Layer: formats. A description of a binary floating-point format, from which encoding, decoding
/// and the numerical limits all follow.
#pragma once

#include <cstdint>

#include "unit_scaling/core/target.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE {

/// Which codes of a format stand for something other than a finite number. The names are the
/// suffixes of the field's type names.
enum class Specials {
  /// As in IEEE 754: the largest exponent field holds infinity (zero fraction) and the NaNs.
  ieee,
  /// Finite with NaN: no infinity; the one NaN of either sign has all magnitude bits set.
  fn,
  /// Finite, NaN, unsigned zero: the code of negative zero is the only NaN; no infinity.
  fnuz,
  /// Finite numbers only: neither infinity nor NaN.
  finite,
  /// Finite with NaN, unsigned: no sign bit and no zero; the one NaN has all bits set. Such a
  /// format has powers of two only, no fraction, and scales blocks of other numbers.
  fnu,
};

/// A binary floating-point format: a sign bit (unless `specials` is fnu), an exponent field with a
/// bias, and a fraction.
///
/// A magnitude code of exponent field e and fraction field f stands for
/// (1 + f 2^-mantissa_bits) 2^(e - bias) when e > 0 and for f 2^(1 - bias - mantissa_bits)
/// otherwise, unless `specials` says that it stands for infinity or NaN. Under fnu, the code e
/// stands for 2^(e - bias) also when e = 0.
///
/// Its functions are inlined always: of a description that the compiler knows they are constants,
/// and in the loops of conversions they must be.
struct FormatSpec {
  int exponent_bits;  ///< Width of the exponent field, in bits.
  int mantissa_bits;  ///< Width of the fraction field, without the implicit leading bit, in bits.
  int bias;           ///< Subtracted from the exponent field.
  Specials specials;  ///< Which codes are infinity and NaN.

  /// Two descriptions are equal when they describe the same format.
  friend constexpr bool operator==(const FormatSpec&, const FormatSpec&) = default;

  /// A format laid out as IEEE 754 prescribes, with the bias 2^(exponent_bits - 1) - 1.
  static constexpr FormatSpec ieee(int exponent_bits, int mantissa_bits) noexcept {
    return {exponent_bits, mantissa_bits, (1 << (exponent_bits - 1)) - 1, Specials::ieee};
  }
  /// A format without infinity, with the bias of IEEE 754, 2^(exponent_bits - 1) - 1.
  static constexpr FormatSpec fn(int exponent_bits, int mantissa_bits) noexcept {
    return {exponent_bits, mantissa_bits, (1 << (exponent_bits - 1)) - 1, Specials::fn};
  }
  /// A format without infinity and negative zero, with the usual bias 2^(exponent_bits - 1).
  static constexpr FormatSpec fnuz(int exponent_bits, int mantissa_bits) noexcept {
    return fnuz(exponent_bits, mantissa_bits, 1 << (exponent_bits - 1));
  }
  /// A format without infinity and negative zero, with a bias of its own.
  static constexpr FormatSpec fnuz(int exponent_bits, int mantissa_bits, int bias) noexcept {
    return {exponent_bits, mantissa_bits, bias, Specials::fnuz};
  }
  /// A format of finite numbers only, with the bias of IEEE 754, 2^(exponent_bits - 1) - 1.
  static constexpr FormatSpec finite(int exponent_bits, int mantissa_bits) noexcept {
    return {exponent_bits, mantissa_bits, (1 << (exponent_bits - 1)) - 1, Specials::finite};
  }

  /// The integers of magnitudes up to 2^(bits - 1) - 1, for 2 bits and more: one exponent bit makes
  /// numbers that lie evenly, and the bias makes their distance 1. Codes are sign and magnitude,
  /// not two's complement, so there is a negative zero.
  static constexpr FormatSpec integer(int bits) noexcept {
    return {1, bits - 2, 3 - bits, Specials::finite};
  }

  /// An unsigned format of powers of two, with the bias of IEEE 754, 2^(exponent_bits - 1) - 1.
  static constexpr FormatSpec fnu(int exponent_bits) noexcept {
    return {exponent_bits, 0, (1 << (exponent_bits - 1)) - 1, Specials::fnu};
  }

  /// Width of a code, in bits: sign, exponent and fraction.
  [[nodiscard, gnu::always_inline]] constexpr int bits() const noexcept {
    return (has_sign() ? 1 : 0) + magnitude_bits();
  }
  /// Width of a code without its sign, in bits.
  [[nodiscard, gnu::always_inline]] constexpr int magnitude_bits() const noexcept {
    return exponent_bits + mantissa_bits;
  }
  /// The sign bit, or none.
  [[nodiscard, gnu::always_inline]] constexpr std::uint32_t sign_mask() const noexcept {
    return has_sign() ? 1U << magnitude_bits() : 0U;
  }
  /// All bits but the sign.
  [[nodiscard, gnu::always_inline]] constexpr std::uint32_t magnitude_mask() const noexcept {
    return (1U << magnitude_bits()) - 1U;
  }
  /// The bits of the fraction.
  [[nodiscard, gnu::always_inline]] constexpr std::uint32_t mantissa_mask() const noexcept {
    return (1U << mantissa_bits) - 1U;
  }
  /// Whether the numbers are those of `integer(bits())`.
  [[nodiscard, gnu::always_inline]] constexpr bool is_integer() const noexcept {
    return exponent_bits == 1 && bias == 1 - mantissa_bits && specials == Specials::finite;
  }
  /// Whether the format has negative numbers.
  [[nodiscard, gnu::always_inline]] constexpr bool has_sign() const noexcept {
    return specials != Specials::fnu;
  }
  /// Whether the format has a zero, and subnormal numbers if it has a fraction.
  [[nodiscard, gnu::always_inline]] constexpr bool has_zero() const noexcept {
    return specials != Specials::fnu;
  }
  /// Whether the format has infinities.
  [[nodiscard, gnu::always_inline]] constexpr bool has_infinity() const noexcept {
    return specials == Specials::ieee;
  }
  /// Whether the format has a NaN.
  [[nodiscard, gnu::always_inline]] constexpr bool has_nan() const noexcept {
    return specials != Specials::finite;
  }
  /// Whether the format distinguishes negative zero from positive zero.
  [[nodiscard, gnu::always_inline]] constexpr bool has_negative_zero() const noexcept {
    return specials != Specials::fnuz && specials != Specials::fnu;
  }

  /// Code of +infinity; of meaning only where has_infinity().
  [[nodiscard, gnu::always_inline]] constexpr std::uint32_t infinity_code() const noexcept {
    return magnitude_mask() & ~mantissa_mask();
  }
  /// Code of the quiet NaN that a conversion delivers (without payload; its sign is positive where
  /// NaN has a sign). A format without a NaN takes NaN to negative zero, as ml_dtypes does; this is
  /// then that code.
  [[nodiscard, gnu::always_inline]] constexpr std::uint32_t nan_code() const noexcept {
    switch (specials) {
      case Specials::ieee:
        return infinity_code() | (1U << (mantissa_bits - 1));
      case Specials::fn:
      case Specials::fnu:
        return magnitude_mask();
      case Specials::fnuz:
      case Specials::finite:
        break;
    }
    return sign_mask();
  }
  /// Code of the largest finite number.
  [[nodiscard, gnu::always_inline]] constexpr std::uint32_t max_finite_code() const noexcept {
    switch (specials) {
      case Specials::ieee:
        return infinity_code() - 1U;
      case Specials::fn:
      case Specials::fnu:
        return magnitude_mask() - 1U;
      case Specials::fnuz:
      case Specials::finite:
        break;
    }
    return magnitude_mask();
  }
  /// Code of the smallest positive normal number.
  [[nodiscard, gnu::always_inline]] constexpr std::uint32_t min_normal_code() const noexcept {
    return has_zero() ? 1U << mantissa_bits : 0U;
  }
  /// Code of the smallest positive number.
  [[nodiscard, gnu::always_inline]] constexpr std::uint32_t min_positive_code() const noexcept {
    return has_zero() ? 1U : 0U;
  }

  /// Exponent of the smallest positive normal number, a power of two.
  [[nodiscard, gnu::always_inline]] constexpr int min_normal_exponent() const noexcept {
    return (has_zero() ? 1 : 0) - bias;
  }
  /// Exponent of the smallest positive number, a power of two.
  [[nodiscard, gnu::always_inline]] constexpr int min_subnormal_exponent() const noexcept {
    return min_normal_exponent() - mantissa_bits;
  }
  /// Exponent of the largest finite number: it lies in [2^e, 2^(e+1)).
  [[nodiscard, gnu::always_inline]] constexpr int max_exponent() const noexcept {
    return static_cast<int>(max_finite_code() >> mantissa_bits) - bias;
  }

  /// Largest finite number, exactly.
  [[nodiscard]] constexpr double max_finite() const noexcept {
    const std::uint32_t significand = (max_finite_code() & mantissa_mask()) + mantissa_mask() + 1U;
    return static_cast<double>(significand) * power_of_two(max_exponent() - mantissa_bits);
  }
  /// Smallest positive normal number, exactly.
  [[nodiscard]] constexpr double min_normal() const noexcept {
    return power_of_two(min_normal_exponent());
  }
  /// Smallest positive number, exactly.
  [[nodiscard]] constexpr double min_subnormal() const noexcept {
    return power_of_two(min_subnormal_exponent());
  }
  /// Distance from 1 to the next larger number, were there no upper end of the exponent range.
  [[nodiscard]] constexpr double epsilon() const noexcept { return power_of_two(-mantissa_bits); }

  /// Whether the exponent field is that of binary32, so that the format is a binary32 number cut
  /// short and its subnormal numbers are subnormal in binary32.
  [[nodiscard, gnu::always_inline]] constexpr bool has_binary32_exponent() const noexcept {
    return exponent_bits == 8 && bias == 127;
  }
  /// Whether a code is the upper half of a binary32 number, as that of bfloat16 is.
  [[nodiscard, gnu::always_inline]] constexpr bool is_upper_half_of_binary32() const noexcept {
    return has_binary32_exponent() && mantissa_bits == 7 && specials == Specials::ieee;
  }
  /// Whether binary32 holds every number of the format, and the conversions serve it: every number
  /// but zero is normal in binary32, or the exponent field is that of binary32.
  [[nodiscard, gnu::always_inline]] constexpr bool is_within_binary32() const noexcept {
    if (exponent_bits < 1 || exponent_bits > 8 || mantissa_bits < 0 || mantissa_bits > 23) {
      return false;
    }
    if (bias < -127 || bias > 127 + 128) return false;
    if (specials == Specials::fnu) return mantissa_bits == 0 && bias == 127;
    // Without a fraction, infinity and NaN would share a code; with one exponent bit, they would
    // leave no normal number.
    if (specials == Specials::ieee && (mantissa_bits == 0 || exponent_bits == 1)) return false;
    if (has_binary32_exponent()) return specials != Specials::fnuz && max_exponent() <= 127;
    // Half the smallest number must be normal, too, or the processor might flush it.
    return min_subnormal_exponent() >= -125 && max_exponent() <= 127 &&
           min_subnormal_exponent() + 23 <= 127;
  }
  /// Whether there is a `Minifloat` of the format: a code has 3 to 16 bits, of which the fraction,
  /// in a format with a sign, has 1 to 10, so that arithmetic in binary32 rounds once.
  [[nodiscard, gnu::always_inline]] constexpr bool is_valid() const noexcept {
    return is_within_binary32() && bits() <= 16 && mantissa_bits <= 10 &&
           (mantissa_bits >= 1 || !has_sign());
  }

  /// Whether this format has every number of `other`, but perhaps its infinities: zeros of either
  /// sign and NaN among them.
  [[nodiscard]] constexpr bool holds(const FormatSpec& other) const noexcept {
    return mantissa_bits >= other.mantissa_bits &&
           min_subnormal_exponent() <= other.min_subnormal_exponent() &&
           max_finite() >= other.max_finite() && (has_sign() || !other.has_sign()) &&
           (has_nan() || !other.has_nan()) && (has_negative_zero() || !other.has_negative_zero());
  }

  /// 2^exponent, exactly, for an exponent of a normal binary64 number.
  [[nodiscard]] static constexpr double power_of_two(int exponent) noexcept {
    double power = 1.0;
    for (; exponent > 0; --exponent) power *= 2.0;
    for (; exponent < 0; ++exponent) power *= 0.5;
    return power;
  }
};

}  // namespace UNIT_SCALING_NAMESPACE

UNIT_SCALING_IEEE_END
