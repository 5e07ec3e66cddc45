// SPDX-License-Identifier: MIT
/// @file
/// Layer: formats. Encoding and decoding of lanes: each written once, for a lane that may be a
/// scalar or a vector of sixteen, and for a format known to the compiler or only at run time. So
/// scalar, bulk and simulated conversions agree to the bit.
///
/// They classify by integer comparisons and keep every floating-point operand and result that
/// matters normal in binary32; they are therefore right whether or not the processor flushes
/// subnormal numbers (FTZ, DAZ) and under -ffast-math. Decoding is exact, and encoding is integer
/// arithmetic, but for one sum, by which lanes round to nearest even. Where the instruction names
/// its rounding mode (sums_name_their_mode), no result depends on the mode of the thread. Elsewhere
/// whoever encodes lanes sees to it that the thread rounds to nearest.
#pragma once

#include <bit>
#include <cstdint>
#include <limits>
#include <type_traits>

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#include "unit_scaling/core/simd.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/formats/format_spec.hpp"
#include "unit_scaling/formats/round_to_odd.hpp"
#include "unit_scaling/formats/rounding.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::detail {

inline constexpr std::uint32_t float_sign_mask = 0x8000'0000U;
inline constexpr std::uint32_t float_magnitude_mask = 0x7fff'ffffU;
inline constexpr std::uint32_t float_infinity_bits = 0x7f80'0000U;
inline constexpr std::uint32_t float_quiet_bit = 0x0040'0000U;
inline constexpr std::uint32_t float_fraction_mask = 0x007f'ffffU;
inline constexpr std::uint32_t float_hidden_bit = 0x0080'0000U;
inline constexpr int float_mantissa_bits = 23;
inline constexpr int float_bias = 127;

/// The floating-point, signed and unsigned types that share the lanes of `U`.
template <class U> struct LaneTypes;
template <> struct LaneTypes<std::uint32_t> {
  using floating = float;
  using integer = std::int32_t;
};
template <> struct LaneTypes<uint32x16> {
  using floating = float32x16;
  using integer = int32x16;
};

/// Whether lanes, which are all below 2^31, are below a bound, which is so too. The comparison is
/// signed, for instruction sets before AVX-512 compare signed integers only.
template <class U>
[[nodiscard, gnu::always_inline]] constexpr auto is_below(U value, std::uint32_t bound) noexcept {
  using I = typename LaneTypes<U>::integer;
  return is_less(bit_cast_to<I>(value), splat<I>(static_cast<std::int32_t>(bound)));
}

/// Whether lanes, which are all below 2^31, are above a bound, which is so too.
template <class U>
[[nodiscard, gnu::always_inline]] constexpr auto is_above(U value, std::uint32_t bound) noexcept {
  using I = typename LaneTypes<U>::integer;
  return is_less(splat<I>(static_cast<std::int32_t>(bound)), bit_cast_to<I>(value));
}

/// The lesser of lanes, which are all below 2^31, and a number, which is so too.
template <class U>
[[nodiscard, gnu::always_inline]] constexpr U lesser(U value, std::uint32_t bound) noexcept {
  if constexpr (SimdVector<U>) {
    using I = typename LaneTypes<U>::integer;
    return bit_cast_to<U>(least(bit_cast_to<I>(value), splat<I>(static_cast<std::int32_t>(bound))));
  } else {
    return is_below(value, bound) ? value : bound;
  }
}

/// The greater of lanes, which are all below 2^31, and a number, which is so too.
template <class U>
[[nodiscard, gnu::always_inline]] constexpr U greater(U value, std::uint32_t bound) noexcept {
  if constexpr (SimdVector<U>) {
    using I = typename LaneTypes<U>::integer;
    return bit_cast_to<U>(
        greatest(bit_cast_to<I>(value), splat<I>(static_cast<std::int32_t>(bound))));
  } else {
    return is_above(value, bound) ? value : bound;
  }
}

/// Whether the sign bit of lanes is set.
template <class U> [[nodiscard, gnu::always_inline]] constexpr auto is_negative(U bits) noexcept {
  using I = typename LaneTypes<U>::integer;
  return is_less(bit_cast_to<I>(bits), splat<I>(0));
}

/// Bits of the binary32 number 2^exponent, for the exponent of a normal number.
[[nodiscard, gnu::always_inline]] constexpr std::uint32_t float_power_bits(int exponent) noexcept {
  return static_cast<std::uint32_t>(exponent + float_bias) << float_mantissa_bits;
}

/// The power of two whose last place in binary32 is the smallest number of the format. A sum with
/// it rounds a smaller number to a multiple of that last place, and its fraction counts them.
[[nodiscard, gnu::always_inline]] constexpr std::uint32_t magic_bits(FormatSpec spec) noexcept {
  return float_power_bits(spec.min_subnormal_exponent() + float_mantissa_bits);
}

/// What to subtract from a rounded magnitude, shifted to the width of the format, to replace the
/// bias of binary32 by that of the format.
[[nodiscard, gnu::always_inline]] constexpr std::uint32_t code_rebias(FormatSpec spec) noexcept {
  return static_cast<std::uint32_t>(float_bias - spec.bias) << spec.mantissa_bits;
}

/// Whether sum_to_nearest() gives the same in every mode of the thread.
#if defined(__AVX512F__)
inline constexpr bool sums_name_their_mode = true;
#else
inline constexpr bool sums_name_their_mode = false;
#endif

/// Bits of the sums of binary32 numbers, rounded to nearest, ties to even.
/// @pre The thread rounds so, or `sums_name_their_mode` says that it need not.
template <SimdVector U>
[[nodiscard, gnu::always_inline]] inline U sum_to_nearest(U left, U right) noexcept {
  using F = typename LaneTypes<U>::floating;
#if defined(__AVX512F__)
  if constexpr (sums_name_their_mode) {
    // With a mask of ones, for GCC 12 warns of the undefined operand inside the form without one.
    // Without optimisation the intrinsic is a macro, which makes a signed number of the mask.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wsign-conversion"
    __mmask16 all = 0xffff;
    return reinterpret_cast<U>(_mm512_maskz_add_round_ps(
        all, reinterpret_cast<__m512>(left), reinterpret_cast<__m512>(right),
        _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#pragma GCC diagnostic pop
  }
#endif
  return bit_cast_to<U>(bit_cast_to<F>(left) + bit_cast_to<F>(right));
}

/// Magnitude code of a scalar magnitude below the smallest normal number of a format, rounded to
/// nearest, ties to even.
[[nodiscard, gnu::always_inline]] constexpr std::uint32_t round_subnormal_to_nearest_even(
    FormatSpec spec, std::uint32_t magnitude) noexcept {
  const auto min_normal_field = static_cast<std::uint32_t>(spec.min_normal_exponent() + float_bias);
  const auto shift = static_cast<std::uint32_t>(float_mantissa_bits - spec.mantissa_bits);
  // Numbers subnormal in binary32 have no hidden bit, but with one become zero just the same.
  const std::uint32_t significand = (magnitude & float_fraction_mask) | float_hidden_bit;
  const std::uint32_t below = min_normal_field - (magnitude >> float_mantissa_bits);
  const std::uint32_t discard = lesser(shift + below, 31U);
  const std::uint32_t below_half = (1U << (discard - 1U)) - 1U;
  return (significand + below_half + ((significand >> discard) & 1U)) >> discard;
}

/// Magnitude codes of magnitudes, rounded to nearest, ties to even, as though the exponent field
/// had no upper end.
/// @pre for vectors, as sum_to_nearest() has it.
template <class U>
[[nodiscard, gnu::always_inline]] constexpr U round_to_nearest_even(FormatSpec spec,
                                                                    U magnitude) noexcept {
  const int shift = float_mantissa_bits - spec.mantissa_bits;

  // Normal results: round in place, then replace one exponent bias by the other. A carry out of the
  // fraction moves to the next power of two by itself.
  U code = magnitude;
  if (shift > 0) {
    const std::uint32_t below_half = (1U << (shift - 1)) - 1U;
    // Without a fraction, the bias decides which codes are even.
    const U last =
        spec.mantissa_bits == 0 ? (magnitude >> shift) - code_rebias(spec) : magnitude >> shift;
    code = (magnitude + below_half + (last & 1U)) >> shift;
  }
  code = code - code_rebias(spec);

  // Subnormal results.
  if (!spec.has_binary32_exponent()) {
    const auto is_subnormal = is_below(magnitude, float_power_bits(spec.min_normal_exponent()));
    if constexpr (SimdVector<U>) {
      // The sum is normal, hence exempt from flushing; an operand that is flushed to zero before
      // the sum is below half the smallest number of the format and becomes zero anyhow.
      const std::uint32_t magic = magic_bits(spec);
      const U counted = sum_to_nearest(magnitude, splat<U>(magic)) - magic;
      code = select(is_subnormal, counted, code);
    } else if (is_subnormal) {
      code = round_subnormal_to_nearest_even(spec, magnitude);
    }
  }
  return code;
}

/// Whether encode_by_sum() serves a format: the powers of two that it adds must be normal binary32
/// numbers, with room for a code in their fraction.
[[nodiscard, gnu::always_inline]] constexpr bool has_rounding_sum(FormatSpec spec) noexcept {
  return spec.has_zero() && spec.mantissa_bits > 0 && spec.bits() <= 16 &&
         !spec.has_binary32_exponent() &&
         spec.max_exponent() + 1 + float_mantissa_bits - spec.mantissa_bits <= 127;
}

/// Magnitude codes of magnitudes that are at most the number after the largest, rounded to nearest,
/// ties to even.
///
/// One sum rounds normal and subnormal results alike: with a power of two whose last place in
/// binary32 is the last place of the result. Its fraction then counts last places.
/// @pre has_rounding_sum(spec), and as sum_to_nearest() has it.
template <SimdVector U>
[[nodiscard, gnu::always_inline]] inline U encode_magnitude_by_sum(FormatSpec spec,
                                                                   U magnitude) noexcept {
  const int shift = float_mantissa_bits - spec.mantissa_bits;
  const std::uint32_t code_mask = 2U * spec.sign_mask() - 1U;
  const std::uint32_t min_normal = float_power_bits(spec.min_normal_exponent());
  const U power = greater(magnitude, min_normal) & float_infinity_bits;
  // What the exponent of the result is counted from goes into the fraction of the sum. It is even,
  // and so leaves ties where they are.
  const std::uint32_t offset = (0U - (min_normal >> shift)) & code_mask;
  const U magic = power + ((static_cast<std::uint32_t>(shift) << float_mantissa_bits) + offset);
  return (sum_to_nearest(magnitude, magic) + (power >> shift)) & code_mask;
}

/// Codes of binary32 numbers, rounded to nearest, ties to even: what encode_lanes() gives, by fewer
/// vector instructions, though for a scalar by more of them in a row.
/// @pre as encode_magnitude_by_sum() has it.
template <SimdVector U>
[[nodiscard, gnu::always_inline]] inline U encode_by_sum(FormatSpec spec, Overflow overflow,
                                                         U bits) noexcept {
  const int shift = float_mantissa_bits - spec.mantissa_bits;
  // The number after the largest has the code of infinity or NaN, if the format has either.
  const bool saturates = overflow == Overflow::saturate || !spec.has_nan();
  const std::uint32_t largest =
      ((spec.max_finite_code() << shift) +
       (static_cast<std::uint32_t>(float_bias - spec.bias) << float_mantissa_bits)) +
      (saturates ? 0U : 1U << shift);

  const U magnitude = bits & float_magnitude_mask;
  U code = encode_magnitude_by_sum(spec, lesser(magnitude, largest));

  const U sign = (bits >> (31 - spec.magnitude_bits())) & spec.sign_mask();
  const auto is_nan = is_above(magnitude, float_infinity_bits);
  if (spec.specials == Specials::ieee) {
    const U payload = (magnitude >> shift) & spec.mantissa_mask();
    return select(is_nan, payload | spec.nan_code(), code) | sign;
  }
  if (saturates) code = select(is_nan, splat<U>(spec.nan_code()), code);
  if (spec.has_negative_zero()) return code | sign;
  return select(is_below(code & spec.magnitude_mask(), 1U), code, code | sign);
}

/// Upper halves of binary32 numbers, rounded to nearest, ties to even. A NaN becomes quiet.
template <class U>
[[nodiscard, gnu::always_inline]] constexpr U encode_upper_half(Overflow overflow,
                                                                U bits) noexcept {
  constexpr std::uint32_t infinity = float_infinity_bits >> 16;
  const U rounded = bits + ((bits >> 16) & 1U) + 0x7fffU;
  const auto is_nan = is_above(bits & float_magnitude_mask, float_infinity_bits);
  U code = select(is_nan, bits | float_quiet_bit, rounded) >> 16;
  if (overflow == Overflow::saturate) {
    // Infinity is the code after that of the largest number.
    using I = typename LaneTypes<U>::integer;
    const U distance = (code & (float_magnitude_mask >> 16)) ^ infinity;
    code = code - select(is_less(bit_cast_to<I>(distance), splat<I>(1)), splat<U>(1U), U{});
  }
  return code;
}

/// What to add to significands of which the last `discard` bits will be cut off, 1 to 31 of them,
/// so that cutting rounds in the given mode. `random` is uniform over 32 bits.
template <class U>
[[nodiscard, gnu::always_inline]] constexpr U rounding_addend(Rounding rounding, U bits, U discard,
                                                              U random) noexcept {
  const U one = splat<U>(1U);
  const U all_below = (one << discard) - one;
  switch (rounding) {
    case Rounding::nearest_away:
      return one << (discard - one);
    case Rounding::toward_positive:
      return select(is_negative(bits), U{}, all_below);
    case Rounding::toward_negative:
      return select(is_negative(bits), all_below, U{});
    case Rounding::stochastic:
      return random >> (splat<U>(32U) - discard);
    case Rounding::nearest_even:
    case Rounding::toward_zero:
      break;
  }
  return U{};
}

/// Magnitude codes in any mode but nearest_even, as though the exponent field had no upper end.
template <class U>
[[nodiscard, gnu::always_inline]] constexpr U round_by_addend(FormatSpec spec, Rounding rounding,
                                                              U bits, U random) noexcept {
  // One more than there are, so that there is always something to cut off.
  const auto shift = static_cast<std::uint32_t>(float_mantissa_bits - spec.mantissa_bits) + 1U;
  const auto min_normal_field = static_cast<std::uint32_t>(spec.min_normal_exponent() + float_bias);
  const U magnitude = bits & float_magnitude_mask;
  const U field = magnitude >> float_mantissa_bits;
  // The leading bit becomes explicit. A subnormal number, whose exponent field is 0 but should be
  // 1, is doubled instead.
  U significand = ((magnitude & float_fraction_mask) + lesser(magnitude, float_hidden_bit)) << 1;
  // Subnormal results lose more bits: one for each power of two below the normal numbers.
  const U result_field = greater(field, min_normal_field);
  const U lost = (result_field - field) + shift;
  const U discard = lesser(lost, 31U);
  if (rounding == Rounding::stochastic) {
    // Probabilities go down to 2^-31; the other modes ask only whether there is something.
    significand = significand >> lesser(lost - discard, 31U);
  }
  const U rounded = (significand + rounding_addend(rounding, bits, discard, random)) >> discard;
  return rounded + (result_field << spec.mantissa_bits) - (min_normal_field << spec.mantissa_bits);
}

/// Codes in a format of powers of two, as though the exponent field had no upper end. To nearest, a
/// tie goes to the greater one: a significand of one bit is always odd. A magnitude below the
/// smallest power, 2^-127, becomes that. One between it and 2^-126, which are subnormal in
/// binary32, becomes the greater, as in ml_dtypes.
template <class U>
[[nodiscard, gnu::always_inline]] constexpr U round_to_power(Rounding rounding, U magnitude,
                                                             U random) noexcept {
  constexpr std::uint32_t half = float_hidden_bit >> 1;
  U addend = U{};
  U addend_below = U{};
  switch (rounding) {
    case Rounding::nearest_even:
    case Rounding::nearest_away:
      addend = splat<U>(half);
      addend_below = splat<U>(float_fraction_mask);
      break;
    case Rounding::toward_positive:
      addend = addend_below = splat<U>(float_fraction_mask);
      break;
    case Rounding::stochastic:
      addend = addend_below = random >> (32 - float_mantissa_bits);
      break;
    case Rounding::toward_zero:
    case Rounding::toward_negative:
      break;
  }
  // 2^-127 is half the hidden bit. Twice what lies above it reaches the hidden bit at 2^-126.
  const U excess = (greater(magnitude, half) - half) << 1;
  return select(is_above(magnitude, float_fraction_mask), magnitude + addend,
                excess + addend_below) >>
         float_mantissa_bits;
}

/// Magnitude codes in any mode, as though the exponent field had no upper end: what lies beyond the
/// largest finite number has a code above max_finite_code(). Of infinity and NaN it says nothing
/// but that, too.
template <class U>
[[nodiscard, gnu::always_inline]] constexpr U round_lanes(FormatSpec spec, Rounding rounding,
                                                          U bits, U random) noexcept {
  const U magnitude = bits & float_magnitude_mask;
  if (!spec.has_zero()) return round_to_power(rounding, magnitude, random);
  if (rounding == Rounding::nearest_even) return round_to_nearest_even(spec, magnitude);
  return round_by_addend(spec, rounding, bits, random);
}

/// What numbers beyond the largest finite one become, without their sign.
template <class U>
[[nodiscard, gnu::always_inline]] constexpr U beyond_lanes(FormatSpec spec, Overflow overflow,
                                                           Rounding rounding, U bits) noexcept {
  const U largest = splat<U>(spec.max_finite_code());
  if (overflow == Overflow::saturate || !spec.has_nan()) return largest;
  const U special = splat<U>(spec.has_infinity() ? spec.infinity_code() : spec.nan_code());
  const auto is_infinite = is_above(bits & float_magnitude_mask, float_infinity_bits - 1U);
  switch (rounding) {
    case Rounding::toward_zero:
      return select(is_infinite, special, largest);
    case Rounding::toward_positive:
      return select(is_infinite, special, select(is_negative(bits), largest, special));
    case Rounding::toward_negative:
      return select(is_infinite, special, select(is_negative(bits), special, largest));
    case Rounding::nearest_even:
    case Rounding::nearest_away:
    case Rounding::stochastic:
      break;
  }
  return special;
}

/// Codes of binary32 numbers, of which `bits` are the bits and `code` the result of round_lanes().
template <class U>
[[nodiscard, gnu::always_inline]] constexpr U finish_lanes(FormatSpec spec, Overflow overflow,
                                                           Rounding rounding, U bits,
                                                           U code) noexcept {
  const U magnitude = bits & float_magnitude_mask;
  code = select(is_above(code, spec.max_finite_code()),
                beyond_lanes(spec, overflow, rounding, bits), code);

  const auto is_nan = is_above(magnitude, float_infinity_bits);
  const U nan = splat<U>(spec.nan_code());
  if (spec.specials == Specials::ieee) {
    // The leading bits of the payload survive, as in the conversions of the processor.
    const int shift = float_mantissa_bits - spec.mantissa_bits;
    code = select(is_nan, ((magnitude >> shift) & spec.mantissa_mask()) | nan, code);
  } else {
    code = select(is_nan, nan, code);
  }

  if (!spec.has_zero()) {
    code = select(is_below(magnitude, 1U), nan, code);
    return select(is_negative(bits), nan, code);
  }
  const U sign = (bits >> (31 - spec.magnitude_bits())) & spec.sign_mask();
  if (spec.has_negative_zero()) return code | sign;
  // Zero has no sign, and the NaN is the code that consists of the sign bit alone.
  return select(is_below(code & spec.magnitude_mask(), 1U), code, code | sign);
}

/// Codes of binary32 numbers. `U` holds the bits of the numbers; the codes come in its low bits,
/// the other bits are zero. `random` matters to Rounding::stochastic alone, and is then uniform
/// over 32 bits. In a format without sign and zero, negative numbers and zero become NaN.
template <class U>
[[nodiscard, gnu::always_inline]] constexpr U encode_lanes(FormatSpec spec, Overflow overflow,
                                                           Rounding rounding, U bits,
                                                           U random = U{}) noexcept {
  if constexpr (SimdVector<U>) {
    if (rounding == Rounding::nearest_even) {
      if (spec.is_upper_half_of_binary32()) return encode_upper_half(overflow, bits);
      if (has_rounding_sum(spec)) return encode_by_sum(spec, overflow, bits);
    }
  }
  return finish_lanes(spec, overflow, rounding, bits, round_lanes(spec, rounding, bits, random));
}

/// Bits of the binary32 numbers count * 2^exponent, for counts below 2^23 and results that are zero
/// or normal: exactly, hence in any mode of the thread.
template <class U>
[[nodiscard, gnu::always_inline]] constexpr U multiples_of_power(U count, int exponent) noexcept {
  using F = typename LaneTypes<U>::floating;
  using I = typename LaneTypes<U>::integer;
  const auto power = std::bit_cast<float>(float_power_bits(exponent));
  if constexpr (SimdVector<U>) {
    return bit_cast_to<U>(convert_to<F>(bit_cast_to<I>(count)) * power);
  } else {
    return bit_cast_to<U>(static_cast<F>(static_cast<I>(count)) * power);
  }
}

/// Bits of the binary32 numbers that codes stand for, exactly. The bits of `code` above the width
/// of the format must be zero.
template <class U>
[[nodiscard, gnu::always_inline]] constexpr U decode_lanes(FormatSpec spec, U code) noexcept {
  const int shift = float_mantissa_bits - spec.mantissa_bits;
  const U nan = splat<U>(float_infinity_bits | float_quiet_bit);
  if (spec.is_upper_half_of_binary32()) {
    const U bits = code << 16;
    return select(is_above(bits & float_magnitude_mask, float_infinity_bits),
                  bits | float_quiet_bit, bits);
  }
  const U magnitude = code & spec.magnitude_mask();
  if (!spec.has_zero()) {
    const U power =
        select(is_below(magnitude, 1U), splat<U>(float_hidden_bit >> 1), magnitude << shift);
    return select(is_above(magnitude, spec.max_finite_code()), nan, power);
  }
  U bits = (magnitude << shift) +
           (static_cast<std::uint32_t>(float_bias - spec.bias) << float_mantissa_bits);

  // Subnormal codes count smallest numbers. A product, not a difference of sums: where the thread
  // rounds downward, the difference of equal numbers is negative zero.
  if (!spec.has_binary32_exponent()) {
    const U counted = multiples_of_power(magnitude, spec.min_subnormal_exponent());
    bits = select(is_below(magnitude, spec.min_normal_code()), counted, bits);
  }

  if (spec.specials == Specials::ieee) {
    const std::uint32_t infinity = spec.infinity_code();
    bits = select(is_above(magnitude, infinity - 1U), (magnitude << shift) | float_infinity_bits,
                  bits);
    bits = select(is_above(magnitude, infinity), bits | float_quiet_bit, bits);
  } else if (spec.specials == Specials::fn) {
    bits = select(is_above(magnitude, spec.max_finite_code()), nan, bits);
  }

  bits = bits | ((code & spec.sign_mask()) << (31 - spec.magnitude_bits()));
  return spec.specials == Specials::fnuz ? select(code == spec.nan_code(), nan, bits) : bits;
}

/// Binary32 number nearest to a binary64 number in the sense of rounding to odd: a number that is
/// not a binary32 number goes to the one of its two neighbours whose last bit is set. Rounding the
/// result to nearest in a format that is narrower by two bits or more gives what rounding the
/// binary64 number directly would (Boldo and Melquiond, "Emulation of FMA and correctly rounded
/// sums: proved algorithms using rounding to odd", IEEE Transactions on Computers 57(4), 2008).
/// A finite number never becomes an infinity. A NaN keeps its sign and the leading bits of its
/// payload and becomes quiet.
[[nodiscard, gnu::always_inline]] constexpr std::uint32_t round_to_odd_float_bits(
    double value) noexcept {
  constexpr int dropped_bits = 52 - float_mantissa_bits;
  constexpr std::uint64_t infinity = 0x7ff0'0000'0000'0000U;
  constexpr std::uint64_t min_normal_float = static_cast<std::uint64_t>(1023 - 126) << 52;
  constexpr std::uint64_t beyond_float = static_cast<std::uint64_t>(1023 + 128) << 52;
  constexpr std::uint64_t rebias = static_cast<std::uint64_t>(1023 - float_bias) << 52;
  const auto cut = [](std::uint64_t significand, int shift) {
    const bool is_inexact = (significand & ((std::uint64_t{1} << shift) - 1U)) != 0U;
    return static_cast<std::uint32_t>(significand >> shift) | (is_inexact ? 1U : 0U);
  };
  const auto bits = std::bit_cast<std::uint64_t>(value);
  const std::uint32_t sign = static_cast<std::uint32_t>(bits >> 32) & float_sign_mask;
  const std::uint64_t magnitude = bits & ~(std::uint64_t{1} << 63);
  // Normal in binary32: most numbers, and no more than one branch for them.
  if (magnitude - min_normal_float < beyond_float - min_normal_float) {
    return sign | cut(magnitude - rebias, dropped_bits);
  }
  if (magnitude >= infinity) {
    const auto payload = static_cast<std::uint32_t>((magnitude - infinity) >> dropped_bits);
    return sign | float_infinity_bits | payload | (magnitude > infinity ? float_quiet_bit : 0U);
  }
  if (magnitude >= beyond_float) return sign | (float_infinity_bits - 1U);
  // The result is subnormal: the significand, its leading bit now explicit, moves further right.
  const int exponent = static_cast<int>(magnitude >> 52);
  constexpr int last_place_exponent = 1023 - 149;
  if (exponent < last_place_exponent) return sign | (magnitude != 0U ? 1U : 0U);
  const std::uint64_t significand =
      (magnitude & ((std::uint64_t{1} << 52) - 1U)) | (std::uint64_t{1} << 52);
  return sign | cut(significand, 52 - (exponent - last_place_exponent));
}

/// How far a binary64 number is on the way from the number of the format next nearer to zero to the
/// one after that, in units of 2^-32, rounded down. Of no meaning for infinity and NaN.
[[nodiscard]] constexpr std::uint32_t fraction_beyond(FormatSpec spec, double value) noexcept {
  constexpr int binary64_mantissa_bits = 52;
  constexpr int binary64_bias = 1023;
  const std::uint64_t magnitude = std::bit_cast<std::uint64_t>(value) & ~(std::uint64_t{1} << 63);
  const int exponent = static_cast<int>(magnitude >> binary64_mantissa_bits) - binary64_bias;
  const bool is_below_normal = exponent < spec.min_normal_exponent();
  // Subnormal numbers of binary64, and what lies below the smallest power of two where there is no
  // zero, do not count.
  if (exponent == -binary64_bias || (is_below_normal && !spec.has_zero())) return 0;
  constexpr std::uint64_t hidden = std::uint64_t{1} << binary64_mantissa_bits;
  const std::uint64_t significand = (magnitude & (hidden - 1U)) | hidden;
  const int result_exponent = is_below_normal ? spec.min_normal_exponent() : exponent;
  // So many bits of the significand lie below the last place of the result: more than 32.
  const int below = binary64_mantissa_bits - spec.mantissa_bits + (result_exponent - exponent);
  if (below >= 32 + 53) return 0;
  const std::uint64_t part =
      below < 64 ? significand & ((std::uint64_t{1} << below) - 1U) : significand;
  return static_cast<std::uint32_t>(part >> (below - 32));
}

/// Code of a binary64 number, rounded once. `random` is as in encode_lanes().
[[nodiscard, gnu::always_inline]] constexpr std::uint32_t encode_double(
    FormatSpec spec, Overflow overflow, Rounding rounding, double value,
    std::uint32_t random) noexcept {
  const std::uint32_t bits = round_to_odd_float_bits(value);
  if (rounding != Rounding::stochastic) return encode_lanes(spec, overflow, rounding, bits);
  // The last bit of rounding to odd says only that there is something; here, how much counts.
  const bool goes_up = fraction_beyond(spec, value) > 0xffff'ffffU - random;
  const std::uint32_t toward_zero = round_lanes(spec, Rounding::toward_zero, bits, 0U);
  return finish_lanes(spec, overflow, rounding, bits, toward_zero + (goes_up ? 1U : 0U));
}

/// Binary64 number of an integer, rounded to odd if binary64 does not hold it, so that rounding the
/// result to a narrower format rounds once.
template <std::integral Integer>
[[nodiscard]] constexpr double round_to_odd_double(Integer value) noexcept {
  if constexpr (sizeof(Integer) < 8) {
    return static_cast<double>(value);
  } else {
    using Unsigned = std::make_unsigned_t<Integer>;
    const bool is_negative = value < 0;
    auto magnitude = static_cast<Unsigned>(value);
    if (is_negative) magnitude = Unsigned{0} - magnitude;
    double unit = is_negative ? -1.0 : 1.0;
    for (; magnitude >> 53 != 0; unit *= 2.0) magnitude = (magnitude >> 1) | (magnitude & 1U);
    // Signed: compilers convert unsigned numbers of 64 bits by a sum, whose zero may be negative.
    return static_cast<double>(static_cast<std::int64_t>(magnitude)) * unit;
  }
}

/// Binary64 number of a long double, rounded to odd if binary64 does not hold it.
[[nodiscard]] constexpr double round_to_odd_double(long double value) noexcept {
  const auto nearest = static_cast<double>(value);
  if (nearest == 0.0 && value != 0.0L) {
    constexpr double smallest = std::numeric_limits<double>::denorm_min();
    return value < 0.0L ? -smallest : smallest;
  }
  return round_to_odd(nearest, static_cast<double>(value - static_cast<long double>(nearest)));
}

}  // namespace UNIT_SCALING_NAMESPACE::detail

UNIT_SCALING_IEEE_END
