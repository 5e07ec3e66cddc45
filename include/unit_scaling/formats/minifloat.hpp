// SPDX-License-Identifier: MIT
/// @file
/// Layer: formats. A floating-point number of one or two bytes in any format of `FormatSpec`.
///
/// Encoding and decoding are each written once, without branches, for a 32-bit lane that may be a
/// scalar or a vector of sixteen, so that scalar and bulk conversions agree to the bit. They
/// classify by integer comparisons and keep every floating-point operand and result that matters
/// normal in binary32; they are therefore right whether or not the processor flushes subnormal
/// numbers (FTZ, DAZ) and under -ffast-math. They suppose the rounding direction that the processor
/// starts with, to nearest.
#pragma once

#include <array>
#include <bit>
#include <compare>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <ostream>
#include <type_traits>

#include "unit_scaling/core/simd.hpp"
#include "unit_scaling/formats/format_spec.hpp"
#include "unit_scaling/formats/rounding.hpp"

namespace unit_scaling {

namespace detail {

inline constexpr std::uint32_t float_sign_mask = 0x8000'0000U;
inline constexpr std::uint32_t float_magnitude_mask = 0x7fff'ffffU;
inline constexpr std::uint32_t float_infinity_bits = 0x7f80'0000U;
inline constexpr std::uint32_t float_quiet_bit = 0x0040'0000U;
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

/// Bits of the binary32 number 2^exponent, for the exponent of a normal number.
[[nodiscard]] constexpr std::uint32_t float_power_bits(int exponent) noexcept {
  return static_cast<std::uint32_t>(exponent + float_bias) << float_mantissa_bits;
}

/// The power of two whose last place in binary32 is the smallest number of the format. A sum with
/// it rounds a smaller number to a multiple of that last place, and its fraction counts them.
template <FormatSpec spec>
inline constexpr std::uint32_t magic_bits = float_power_bits(spec.min_subnormal_exponent() +
                                                             float_mantissa_bits);

/// Code of binary32 numbers. `U` holds the bits of the numbers; the codes come in its low bits, the
/// other bits are zero. Rounds to nearest, ties to even.
template <FormatSpec spec, Overflow overflow, class U>
[[nodiscard, gnu::always_inline]] constexpr U encode_lanes(U bits) noexcept {
  static_assert(spec.is_valid());
  using F = typename LaneTypes<U>::floating;
  constexpr int shift = float_mantissa_bits - spec.mantissa_bits;
  constexpr std::uint32_t below_half = (1U << (shift - 1)) - 1U;

  const U magnitude = bits & float_magnitude_mask;

  // Normal results: round in place, then replace one exponent bias by the other. A carry out of the
  // fraction moves to the next power of two by itself.
  constexpr std::uint32_t rebias = static_cast<std::uint32_t>(float_bias - spec.bias)
                                   << spec.mantissa_bits;
  U code = ((magnitude + below_half + ((magnitude >> shift) & 1U)) >> shift) - rebias;

  // Subnormal results. The sum is normal, hence exempt from flushing; an operand that is flushed to
  // zero before the sum is below half the smallest number of the format and becomes zero anyhow.
  if constexpr (!spec.has_binary32_exponent()) {
    constexpr float magic = std::bit_cast<float>(magic_bits<spec>);
    const U counted = bit_cast_to<U>(bit_cast_to<F>(magnitude) + magic) - magic_bits<spec>;
    constexpr std::uint32_t min_normal = float_power_bits(spec.min_normal_exponent());
    code = select(is_below(magnitude, min_normal), counted, code);
  }

  constexpr std::uint32_t max_code = spec.max_finite_code();
  constexpr std::uint32_t beyond_code =
      overflow == Overflow::saturate || !spec.has_nan()
          ? max_code
          : (spec.has_infinity() ? spec.infinity_code() : spec.nan_code());
  code = select(is_above(code, max_code), splat<U>(beyond_code), code);

  const auto is_nan = is_above(magnitude, float_infinity_bits);
  if constexpr (spec.specials == Specials::ieee) {
    // The leading bits of the payload survive, as in the conversions of the processor.
    code = select(is_nan, ((magnitude >> shift) & spec.mantissa_mask()) | spec.nan_code(), code);
  } else {
    code = select(is_nan, splat<U>(spec.nan_code()), code);
  }

  constexpr int sign_shift = 31 - spec.magnitude_bits();
  const U sign = (bits >> sign_shift) & spec.sign_mask();
  if constexpr (spec.has_negative_zero()) {
    return code | sign;
  } else {
    // Zero has no sign, and the NaN is the code that consists of the sign bit alone.
    return select((code & spec.magnitude_mask()) == U{}, code, code | sign);
  }
}

/// Bits of the binary32 numbers that codes stand for, exactly. The bits of `code` above the width
/// of the format must be zero.
template <FormatSpec spec, class U>
[[nodiscard, gnu::always_inline]] constexpr U decode_lanes(U code) noexcept {
  static_assert(spec.is_valid());
  using F = typename LaneTypes<U>::floating;
  constexpr int shift = float_mantissa_bits - spec.mantissa_bits;
  constexpr std::uint32_t rebias = static_cast<std::uint32_t>(float_bias - spec.bias)
                                   << float_mantissa_bits;

  const U magnitude = code & spec.magnitude_mask();
  U bits = (magnitude << shift) + rebias;

  // Subnormal codes: the code counts last places of the magic power of two. Both the operands and
  // the difference, unless it is zero, are normal.
  if constexpr (!spec.has_binary32_exponent()) {
    constexpr float magic = std::bit_cast<float>(magic_bits<spec>);
    const F counted = bit_cast_to<F>(magnitude + magic_bits<spec>) - magic;
    bits = select(is_below(magnitude, spec.min_normal_code()), bit_cast_to<U>(counted), bits);
  }

  if constexpr (spec.specials == Specials::ieee) {
    constexpr std::uint32_t infinity = spec.infinity_code();
    bits = select(is_above(magnitude, infinity - 1U), (magnitude << shift) | float_infinity_bits,
                  bits);
    bits = select(is_above(magnitude, infinity), bits | float_quiet_bit, bits);
  } else if constexpr (spec.specials == Specials::fn) {
    bits = select(is_above(magnitude, spec.max_finite_code()),
                  splat<U>(float_infinity_bits | float_quiet_bit), bits);
  }

  constexpr int sign_shift = 31 - spec.magnitude_bits();
  const U sign = (code & spec.sign_mask()) << sign_shift;
  if constexpr (spec.specials == Specials::fnuz) {
    return select(code == spec.nan_code(), splat<U>(float_infinity_bits | float_quiet_bit),
                  bits | sign);
  } else {
    return bits | sign;
  }
}

/// Binary32 number nearest to a binary64 number in the sense of rounding to odd: a number that is
/// not a binary32 number goes to the one of its two neighbours whose last bit is set. Rounding the
/// result to nearest in a format that is narrower by two bits or more gives what rounding the
/// binary64 number directly would (Boldo and Melquiond, "Emulation of FMA and correctly rounded
/// sums: proved algorithms using rounding to odd", IEEE Transactions on Computers 57(4), 2008).
/// A finite number never becomes an infinity. A NaN keeps its sign and the leading bits of its
/// payload and becomes quiet.
[[nodiscard]] constexpr std::uint32_t round_to_odd_float_bits(double value) noexcept {
  constexpr int dropped_bits = 52 - float_mantissa_bits;
  constexpr std::uint64_t infinity = 0x7ff0'0000'0000'0000U;
  constexpr std::uint64_t min_normal_float = static_cast<std::uint64_t>(1023 - 126) << 52;
  constexpr std::uint64_t beyond_float = static_cast<std::uint64_t>(1023 + 128) << 52;
  const auto bits = std::bit_cast<std::uint64_t>(value);
  const std::uint32_t sign = static_cast<std::uint32_t>(bits >> 32) & float_sign_mask;
  const std::uint64_t magnitude = bits & ~(std::uint64_t{1} << 63);
  if (magnitude >= infinity) {
    const auto payload = static_cast<std::uint32_t>((magnitude - infinity) >> dropped_bits);
    return sign | float_infinity_bits | payload | (magnitude > infinity ? float_quiet_bit : 0U);
  }
  if (magnitude >= beyond_float) return sign | (float_infinity_bits - 1U);
  std::uint64_t significand = magnitude;
  int shift = dropped_bits;
  if (magnitude < min_normal_float) {
    // The result is subnormal: the significand, its leading bit now explicit, moves further right.
    const int exponent = static_cast<int>(magnitude >> 52);
    constexpr int last_place_exponent = 1023 - 149;
    if (exponent < last_place_exponent) return sign | (magnitude != 0U ? 1U : 0U);
    significand = (magnitude & ((std::uint64_t{1} << 52) - 1U)) | (std::uint64_t{1} << 52);
    shift = 52 - (exponent - last_place_exponent);
  } else {
    significand -= static_cast<std::uint64_t>(1023 - float_bias) << 52;
  }
  const bool is_inexact = (significand & ((std::uint64_t{1} << shift) - 1U)) != 0U;
  return sign | static_cast<std::uint32_t>(significand >> shift) | (is_inexact ? 1U : 0U);
}

}  // namespace detail

/// A floating-point number in the format `spec`: one byte up to eight bits, otherwise two.
///
/// Conversions are explicit. A conversion to the format rounds to nearest, ties to even; a
/// conversion from it is exact. The bits of a code narrower than its storage are the low bits; the
/// others are zero.
template <FormatSpec spec> class Minifloat {
  static_assert(spec.is_valid(), "The library does not convert this format.");

 public:
  /// Unsigned integer that holds a code.
  using storage_type = std::conditional_t<spec.bits() <= 8, std::uint8_t, std::uint16_t>;
  /// Description of the format.
  static constexpr FormatSpec format = spec;

  /// Positive zero.
  constexpr Minifloat() noexcept = default;

  /// Rounds to nearest, ties to even. Beyond the largest finite number lies infinity where the
  /// format has one, otherwise NaN (Overflow::infinity_or_nan).
  constexpr explicit Minifloat(float value) noexcept
      : Minifloat(from_float(value, Overflow::infinity_or_nan)) {}
  /// As from binary32, rounding once.
  constexpr explicit Minifloat(double value) noexcept
      : Minifloat(from_double(value, Overflow::infinity_or_nan)) {}
  /// As from binary64, rounding once for an integer below 2^53 in magnitude.
  template <std::integral Integer>
  constexpr explicit Minifloat(Integer value) noexcept : Minifloat(static_cast<double>(value)) {}
  /// Rounds a number of another format, once.
  template <FormatSpec other>
  requires(other != spec) constexpr explicit Minifloat(Minifloat<other> value) noexcept
      : Minifloat(static_cast<float>(value)) {}

  /// The number that a code stands for. Bits above the width of the format are ignored.
  [[nodiscard]] static constexpr Minifloat from_bits(storage_type bits) noexcept {
    Minifloat result;
    result.bits_ = static_cast<storage_type>(bits & (spec.sign_mask() | spec.magnitude_mask()));
    return result;
  }

  /// Rounds to nearest, ties to even, with a choice of what lies beyond the largest finite number.
  [[nodiscard]] static constexpr Minifloat from_float(float value, Overflow overflow) noexcept {
    return from_float_bits(std::bit_cast<std::uint32_t>(value), overflow);
  }
  /// As from binary32, rounding once.
  [[nodiscard]] static constexpr Minifloat from_double(double value, Overflow overflow) noexcept {
    return from_float_bits(detail::round_to_odd_float_bits(value), overflow);
  }

  /// The code.
  [[nodiscard]] constexpr storage_type bits() const noexcept { return bits_; }

  /// The number in binary32, exactly. A NaN becomes quiet.
  [[nodiscard]] constexpr explicit operator float() const noexcept {
    return std::bit_cast<float>(detail::decode_lanes<spec>(std::uint32_t{bits_}));
  }
  /// The number in binary64, exactly. A NaN becomes quiet.
  [[nodiscard]] constexpr explicit operator double() const noexcept {
    if constexpr (spec.has_binary32_exponent()) {
      // Its binary32 counterpart is subnormal, which the processor may take for zero.
      if (magnitude() < spec.min_normal_code()) {
        const double value = static_cast<double>(magnitude()) * spec.min_subnormal();
        return signbit(*this) ? -value : value;
      }
    }
    return static_cast<double>(static_cast<float>(*this));
  }

  /// Whether the number is a NaN.
  [[nodiscard]] friend constexpr bool isnan(Minifloat value) noexcept {
    switch (spec.specials) {
      case Specials::ieee:
        return value.magnitude() > spec.infinity_code();
      case Specials::fn:
        return value.magnitude() == spec.nan_code();
      case Specials::fnuz:
        return value.bits_ == spec.nan_code();
      case Specials::finite:
        break;
    }
    return false;
  }
  /// Whether the number is an infinity.
  [[nodiscard]] friend constexpr bool isinf(Minifloat value) noexcept {
    return spec.has_infinity() && value.magnitude() == spec.infinity_code();
  }
  /// Whether the number is neither an infinity nor a NaN.
  [[nodiscard]] friend constexpr bool isfinite(Minifloat value) noexcept {
    return !isnan(value) && !isinf(value);
  }
  /// Whether the sign bit is set: for negative numbers, negative zero and NaNs of negative sign.
  /// The one NaN of a format without negative zero has no sign.
  [[nodiscard]] friend constexpr bool signbit(Minifloat value) noexcept {
    return (value.bits_ & spec.sign_mask()) != 0U &&
           (spec.has_negative_zero() || value.magnitude() != 0U);
  }

  /// The number itself.
  [[nodiscard]] constexpr Minifloat operator+() const noexcept { return *this; }
  /// Flips the sign. Zero and NaN remain as they are in a format without negative zero.
  [[nodiscard]] constexpr Minifloat operator-() const noexcept {
    if (!spec.has_negative_zero() && magnitude() == 0U) return *this;
    return from_bits(static_cast<storage_type>(bits_ ^ spec.sign_mask()));
  }
  /// Clears the sign. The NaN remains in a format without negative zero.
  [[nodiscard]] friend constexpr Minifloat abs(Minifloat value) noexcept {
    return signbit(value) ? -value : value;
  }

  /// Numerical equality: NaN equals nothing, negative zero equals positive zero.
  [[nodiscard]] friend constexpr bool operator==(Minifloat left, Minifloat right) noexcept {
    return (left <=> right) == std::partial_ordering::equivalent;
  }
  /// Numerical order, in which a NaN is unordered with everything. It compares codes as integers,
  /// which orders the numbers and holds for subnormal numbers that the processor would flush.
  [[nodiscard]] friend constexpr std::partial_ordering operator<=>(Minifloat left,
                                                                   Minifloat right) noexcept {
    if (isnan(left) || isnan(right)) return std::partial_ordering::unordered;
    return left.order() <=> right.order();
  }

  /// The sum, computed in binary32 and rounded to the format; a result beyond the largest finite
  /// number becomes infinity or NaN. So do the other three operations. For these formats, rounding
  /// first to binary32 and then to the format gives the correctly rounded result (S. A. Figueroa,
  /// "When is double rounding innocuous?", SIGNUM Newsletter 30(3), 1995): binary32 has at least
  /// twice as many significant bits and two more.
  [[nodiscard]] friend constexpr Minifloat operator+(Minifloat left, Minifloat right) noexcept {
    return Minifloat(static_cast<float>(left) + static_cast<float>(right));
  }
  /// The difference; see the sum.
  [[nodiscard]] friend constexpr Minifloat operator-(Minifloat left, Minifloat right) noexcept {
    return Minifloat(static_cast<float>(left) - static_cast<float>(right));
  }
  /// The product; see the sum.
  [[nodiscard]] friend constexpr Minifloat operator*(Minifloat left, Minifloat right) noexcept {
    return Minifloat(static_cast<float>(left) * static_cast<float>(right));
  }
  /// The quotient; see the sum.
  [[nodiscard]] friend constexpr Minifloat operator/(Minifloat left, Minifloat right) noexcept {
    return Minifloat(static_cast<float>(left) / static_cast<float>(right));
  }
  /// Adds in place.
  constexpr Minifloat& operator+=(Minifloat other) noexcept { return *this = *this + other; }
  /// Subtracts in place.
  constexpr Minifloat& operator-=(Minifloat other) noexcept { return *this = *this - other; }
  /// Multiplies in place.
  constexpr Minifloat& operator*=(Minifloat other) noexcept { return *this = *this * other; }
  /// Divides in place.
  constexpr Minifloat& operator/=(Minifloat other) noexcept { return *this = *this / other; }

  /// Writes the number as the stream writes the equal binary32 number.
  friend std::ostream& operator<<(std::ostream& stream, Minifloat value) {
    return stream << static_cast<float>(value);
  }

 private:
  static_assert(2 * (spec.mantissa_bits + 1) + 2 <= std::numeric_limits<float>::digits,
                "Arithmetic in binary32 would round twice.");

  [[nodiscard]] static constexpr Minifloat from_float_bits(std::uint32_t bits,
                                                           Overflow overflow) noexcept {
    Minifloat result;
    result.bits_ = static_cast<storage_type>(
        overflow == Overflow::saturate
            ? detail::encode_lanes<spec, Overflow::saturate>(bits)
            : detail::encode_lanes<spec, Overflow::infinity_or_nan>(bits));
    return result;
  }

  [[nodiscard]] constexpr std::uint32_t magnitude() const noexcept {
    return bits_ & spec.magnitude_mask();
  }
  [[nodiscard]] constexpr std::int32_t order() const noexcept {
    const auto value = static_cast<std::int32_t>(magnitude());
    return signbit(*this) ? -value : value;
  }

  storage_type bits_ = 0;
};

/// True for every `Minifloat`.
template <class T> inline constexpr bool is_minifloat_v = false;
/// @copydoc is_minifloat_v
template <FormatSpec spec> inline constexpr bool is_minifloat_v<Minifloat<spec>> = true;

/// Any `Minifloat`.
template <class T>
concept AnyMinifloat = is_minifloat_v<T>;

}  // namespace unit_scaling

/// Numerical limits of a `Minifloat`, as the C++ standard defines them for a floating-point type.
template <unit_scaling::FormatSpec spec> class std::numeric_limits<unit_scaling::Minifloat<spec>> {
  using Number = unit_scaling::Minifloat<spec>;

  static constexpr Number from_code(std::uint32_t code) noexcept {
    return Number::from_bits(static_cast<typename Number::storage_type>(code));
  }
  /// Largest n for which 10^n does not exceed `bound`.
  static constexpr int floor_log10(double bound) noexcept {
    int exponent = 0;
    for (double power = 10.0; power <= bound; power *= 10.0) ++exponent;
    return exponent;
  }

 public:
  static constexpr bool is_specialized = true;
  static constexpr bool is_signed = true;
  static constexpr bool is_integer = false;
  static constexpr bool is_exact = false;
  static constexpr bool has_infinity = spec.has_infinity();
  static constexpr bool has_quiet_NaN = spec.has_nan();
  static constexpr bool has_signaling_NaN =
      spec.specials == unit_scaling::Specials::ieee && spec.mantissa_bits > 1;
  static constexpr std::float_denorm_style has_denorm = std::denorm_present;
  static constexpr bool has_denorm_loss = false;
  static constexpr std::float_round_style round_style = std::round_to_nearest;
  /// Only binary16 is one of the formats of IEEE 754.
  static constexpr bool is_iec559 = spec == unit_scaling::FormatSpec::ieee(5, 10);
  static constexpr bool is_bounded = true;
  static constexpr bool is_modulo = false;
  static constexpr int digits = spec.mantissa_bits + 1;
  /// 0.30103 is log10(2) to more places than 16 bits can tell.
  static constexpr int digits10 = (digits - 1) * 30103 / 100000;
  static constexpr int max_digits10 = digits * 30103 / 100000 + 2;
  static constexpr int radix = 2;
  static constexpr int min_exponent = spec.min_normal_exponent() + 1;
  static constexpr int min_exponent10 = -floor_log10(1.0 / spec.min_normal());
  static constexpr int max_exponent = spec.max_exponent() + 1;
  static constexpr int max_exponent10 = floor_log10(spec.max_finite());
  static constexpr bool traps = false;
  static constexpr bool tinyness_before = false;

  /// Smallest positive normal number.
  static constexpr Number min() noexcept { return from_code(spec.min_normal_code()); }
  /// Largest finite number.
  static constexpr Number max() noexcept { return from_code(spec.max_finite_code()); }
  /// Most negative finite number.
  static constexpr Number lowest() noexcept { return -max(); }
  /// Distance from 1 to the next larger number.
  static constexpr Number epsilon() noexcept { return Number(spec.epsilon()); }
  /// Largest error of rounding, in units in the last place.
  static constexpr Number round_error() noexcept { return Number(0.5); }
  /// +infinity, or zero in a format without one.
  static constexpr Number infinity() noexcept {
    return from_code(has_infinity ? spec.infinity_code() : 0U);
  }
  /// Quiet NaN, or negative zero in a format without one.
  static constexpr Number quiet_NaN() noexcept { return from_code(spec.nan_code()); }
  /// Signalling NaN, or zero in a format without one.
  static constexpr Number signaling_NaN() noexcept {
    return from_code(has_signaling_NaN ? spec.infinity_code() | 1U : 0U);
  }
  /// Smallest positive number.
  static constexpr Number denorm_min() noexcept { return from_code(1U); }
};

/// Hash of a `Minifloat`; equal numbers, so also the two zeros, have equal hashes.
template <unit_scaling::FormatSpec spec> struct std::hash<unit_scaling::Minifloat<spec>> {
  /// Hash of `value`.
  [[nodiscard]] std::size_t operator()(unit_scaling::Minifloat<spec> value) const noexcept {
    const bool is_zero = value == unit_scaling::Minifloat<spec>();
    return std::hash<std::uint32_t>{}(is_zero ? 0U : std::uint32_t{value.bits()});
  }
};
