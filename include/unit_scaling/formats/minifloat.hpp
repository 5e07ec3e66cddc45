// SPDX-License-Identifier: MIT
/// @file
/// Layer: formats. A floating-point number of one or two bytes in any format of `FormatSpec`.
#pragma once

#include <array>
#include <bit>
#include <compare>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <iosfwd>
#include <limits>
#include <string_view>
#include <type_traits>

#include "unit_scaling/core/target.hpp"
#include "unit_scaling/formats/codec.hpp"
#include "unit_scaling/formats/format_spec.hpp"
#include "unit_scaling/formats/rounding.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE {

/// A floating-point number in the format `spec`: one byte up to eight bits, otherwise two.
///
/// Conversions are explicit. A conversion to the format rounds once, to nearest, ties to even,
/// unless another mode is asked for; a conversion from it is exact. The bits of a code narrower
/// than its storage are the low bits; the others are zero.
template <FormatSpec spec> class Minifloat {
  static_assert(spec.is_valid(), "The library does not convert this format.");

 public:
  /// Unsigned integer that holds a code.
  using storage_type = std::conditional_t<spec.bits() <= 8, std::uint8_t, std::uint16_t>;
  /// Description of the format.
  static constexpr FormatSpec format = spec;

  /// The number of code 0: positive zero, or the smallest number of a format without a zero.
  constexpr Minifloat() noexcept = default;

  /// Rounds to nearest, ties to even. Beyond the largest finite number lies infinity where the
  /// format has one, otherwise NaN (Overflow::infinity_or_nan).
  constexpr explicit Minifloat(float value) noexcept
      : Minifloat(from_float(value, Overflow::infinity_or_nan)) {}
  /// As from binary32, rounding once.
  constexpr explicit Minifloat(double value) noexcept
      : Minifloat(from_double(value, Overflow::infinity_or_nan)) {}
  /// As from binary64, rounding once.
  constexpr explicit Minifloat(long double value) noexcept
      : Minifloat(detail::round_to_odd_double(value)) {}
  /// As from binary64, rounding once.
  template <std::integral Integer>
  constexpr explicit Minifloat(Integer value) noexcept
      : Minifloat(detail::round_to_odd_double(value)) {}
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

  /// Rounds with a choice of the mode and of what lies beyond the largest finite number.
  /// @param random of matter to Rounding::stochastic alone: 32 random bits, such as
  ///        StochasticRounding::word() gives.
  [[nodiscard]] static constexpr Minifloat from_float(float value, Overflow overflow,
                                                      Rounding rounding = Rounding::nearest_even,
                                                      std::uint32_t random = 0) noexcept {
    return from_code(detail::encode_lanes(spec, overflow, rounding,
                                          std::bit_cast<std::uint32_t>(value), random));
  }
  /// As from binary32, rounding once.
  [[nodiscard]] static constexpr Minifloat from_double(double value, Overflow overflow,
                                                       Rounding rounding = Rounding::nearest_even,
                                                       std::uint32_t random = 0) noexcept {
    return from_code(detail::encode_double(spec, overflow, rounding, value, random));
  }
  /// As from binary32, rounding once however many digits the integer has.
  template <std::integral Integer>
  [[nodiscard]] static constexpr Minifloat from_integer(Integer value, Overflow overflow,
                                                        Rounding rounding = Rounding::nearest_even,
                                                        std::uint32_t random = 0) noexcept {
    return from_double(detail::round_to_odd_double(value), overflow, rounding, random);
  }

  /// The code.
  [[nodiscard]] constexpr storage_type bits() const noexcept { return bits_; }

  /// The number in binary32, exactly. A NaN becomes quiet.
  [[nodiscard]] constexpr explicit operator float() const noexcept {
    return std::bit_cast<float>(detail::decode_lanes(spec, std::uint32_t{bits_}));
  }
  /// The number in binary64, exactly. A NaN becomes quiet.
  [[nodiscard]] constexpr explicit operator double() const noexcept {
    if constexpr (!spec.has_zero()) {
      if (bits_ == 0) return spec.min_normal();  // subnormal in binary32, as below
    } else if constexpr (spec.has_binary32_exponent()) {
      // Its binary32 counterpart is subnormal, which the processor may take for zero.
      if (magnitude() < spec.min_normal_code()) {
        const double value = static_cast<double>(magnitude()) * spec.min_subnormal();
        // By the bits: -fno-signed-zeros may forget the sign of a zero.
        return std::bit_cast<double>(std::bit_cast<std::uint64_t>(value) |
                                     (signbit(*this) ? std::uint64_t{1} << 63 : 0U));
      }
    }
    return static_cast<double>(static_cast<float>(*this));
  }

  /// The number in a long double, exactly. A NaN becomes quiet.
  [[nodiscard]] constexpr explicit operator long double() const noexcept {
    return static_cast<double>(*this);
  }
  /// The number without its fraction, as the language converts a binary64 number.
  template <std::integral Integer>
  [[nodiscard]] constexpr explicit operator Integer() const noexcept {
    return static_cast<Integer>(static_cast<double>(*this));
  }

  /// Whether the number is a NaN.
  [[nodiscard]] friend constexpr bool isnan(Minifloat value) noexcept {
    switch (spec.specials) {
      case Specials::ieee:
        return value.magnitude() > spec.infinity_code();
      case Specials::fn:
      case Specials::fnu:
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
  /// Flips the sign. Zero and NaN remain as they are in a format without negative zero. In a format
  /// without a sign the result is NaN.
  [[nodiscard]] constexpr Minifloat operator-() const noexcept {
    if (!spec.has_sign()) return from_bits(static_cast<storage_type>(spec.nan_code()));
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

  /// The sum, computed in binary32 (binary64 for bfloat16) and rounded to the format; a result
  /// beyond the largest finite number becomes infinity or NaN. So do the other three operations.
  /// For these formats, rounding first to binary32 and then to the format gives the correctly
  /// rounded result (S. A. Figueroa, "When is double rounding innocuous?", SIGNUM Newsletter 30(3),
  /// 1995): binary32 has at least twice as many significant bits and two more. That holds for the
  /// first rounding in any mode of the thread: a result that binary32 does not hold lies more than
  /// one of its last places away from every number half-way between two of the format.
  [[nodiscard]] friend constexpr Minifloat operator+(Minifloat left, Minifloat right) noexcept {
    return Minifloat(static_cast<Compute>(left) + static_cast<Compute>(right))
        .with_sign_of_zero(left.bits_ & right.bits_);
  }
  /// The difference; see the sum.
  [[nodiscard]] friend constexpr Minifloat operator-(Minifloat left, Minifloat right) noexcept {
    return Minifloat(static_cast<Compute>(left) - static_cast<Compute>(right))
        .with_sign_of_zero(left.bits_ & ~right.bits_);
  }
  /// The product; see the sum.
  [[nodiscard]] friend constexpr Minifloat operator*(Minifloat left, Minifloat right) noexcept {
    return Minifloat(static_cast<Compute>(left) * static_cast<Compute>(right));
  }
  /// The quotient; see the sum.
  [[nodiscard]] friend constexpr Minifloat operator/(Minifloat left, Minifloat right) noexcept {
    // Not a product with the reciprocal, which would round twice.
    return Minifloat(static_cast<Compute>(left) / detail::opaque(static_cast<Compute>(right)));
  }
  /// Adds in place.
  constexpr Minifloat& operator+=(Minifloat other) noexcept { return *this = *this + other; }
  /// Subtracts in place.
  constexpr Minifloat& operator-=(Minifloat other) noexcept { return *this = *this - other; }
  /// Multiplies in place.
  constexpr Minifloat& operator*=(Minifloat other) noexcept { return *this = *this * other; }
  /// Divides in place.
  constexpr Minifloat& operator/=(Minifloat other) noexcept { return *this = *this / other; }

  /// Writes the number as the stream writes the equal binary64 number.
  template <class Traits>
  friend std::basic_ostream<char, Traits>& operator<<(std::basic_ostream<char, Traits>& stream,
                                                      Minifloat value) {
    return stream << static_cast<double>(value);
  }

 private:
  static_assert(2 * (spec.mantissa_bits + 1) + 2 <= std::numeric_limits<float>::digits,
                "Arithmetic in binary32 would round twice.");

  [[nodiscard]] static constexpr Minifloat from_code(std::uint32_t code) noexcept {
    Minifloat result;
    result.bits_ = static_cast<storage_type>(code);
    return result;
  }

  /// The sum itself, unless it is zero: then with the sign among `bits`, as rounding to nearest has
  /// it. The sum of opposite numbers is negative zero where the thread rounds downward.
  [[nodiscard]] constexpr Minifloat with_sign_of_zero(unsigned bits) const noexcept {
    if (!spec.has_negative_zero() || magnitude() != 0U) return *this;
    return from_code(bits & spec.sign_mask());
  }

  /// Where arithmetic computes: in binary32, unless that has numbers of the format among those that
  /// the processor may flush.
  using Compute =
      std::conditional_t<spec.has_binary32_exponent() || !spec.has_zero(), double, float>;

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

}  // namespace UNIT_SCALING_NAMESPACE

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
  static constexpr bool is_signed = spec.has_sign();
  static constexpr bool is_integer = false;
  static constexpr bool is_exact = false;
  static constexpr bool has_infinity = spec.has_infinity();
  static constexpr bool has_quiet_NaN = spec.has_nan();
  static constexpr bool has_signaling_NaN =
      spec.specials == unit_scaling::Specials::ieee && spec.mantissa_bits > 1;
  static constexpr std::float_denorm_style has_denorm =
      spec.has_zero() ? std::denorm_present : std::denorm_absent;
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
  /// Least finite number.
  static constexpr Number lowest() noexcept { return is_signed ? -max() : min(); }
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
  static constexpr Number denorm_min() noexcept { return from_code(spec.min_positive_code()); }
};

// std::hash comes with <string_view>, which is quicker to compile than <functional>.
/// Hash of a `Minifloat`; equal numbers, so also the two zeros, have equal hashes.
template <unit_scaling::FormatSpec spec> struct std::hash<unit_scaling::Minifloat<spec>> {
  /// Hash of `value`.
  [[nodiscard]] std::size_t operator()(unit_scaling::Minifloat<spec> value) const noexcept {
    const bool is_zero = value == unit_scaling::Minifloat<spec>();
    return std::hash<std::uint32_t>{}(is_zero ? 0U : std::uint32_t{value.bits()});
  }
};

UNIT_SCALING_IEEE_END
