// SPDX-License-Identifier: MIT
/// @file
/// Layer: formats. The functions of `cmath` for every `Minifloat`, found by argument-dependent
/// lookup: `using std::sqrt; sqrt(x)` serves float and `float16` alike.
///
/// A function computes in binary64 and rounds once to the format, to nearest, ties to even; what
/// lies beyond the largest finite number becomes infinity or NaN (Overflow::infinity_or_nan). The
/// result is the correctly rounded one where the text says so. Elsewhere it is so wherever the
/// error of the function in binary64, about 2^-53 of the result, does not reach across a midpoint
/// of the format; the tests find no argument of any format where it does. It computes so whatever
/// the thread is told to do (core/arithmetic.hpp). `isnan`, `isinf`,
/// `isfinite`, `signbit` and `abs` are friends of `Minifloat` itself.
#pragma once

#include <cmath>
#include <concepts>
#include <limits>
#include <type_traits>

#include "unit_scaling/core/arithmetic.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/formats/format_spec.hpp"
#include "unit_scaling/formats/minifloat.hpp"
#include "unit_scaling/formats/round_to_odd.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE {

namespace detail {

/// The value of a function of binary64 numbers, which is computed in default arithmetic, rounded
/// once to the format of its arguments.
template <class Function, AnyMinifloat T, std::same_as<T>... More>
[[nodiscard]] T through_double(Function function, T first, More... more) noexcept {
  double value = 0;
  in_default_arithmetic(
      [&] { value = function(static_cast<double>(first), static_cast<double>(more)...); });
  return T(value);
}

}  // namespace detail

/// The magnitude, as abs().
template <AnyMinifloat T> [[nodiscard]] constexpr T fabs(T x) noexcept { return abs(x); }

/// The square root, correctly rounded: binary64 has more than twice the digits of every format and
/// two more (S. A. Figueroa, "When is double rounding innocuous?", SIGNUM Newsletter 30(3), 1995).
template <AnyMinifloat T> [[nodiscard]] T sqrt(T x) noexcept {
  return detail::through_double([](double v) { return std::sqrt(v); }, x);
}

/// The cube root.
template <AnyMinifloat T> [[nodiscard]] T cbrt(T x) noexcept {
  return detail::through_double([](double v) { return std::cbrt(v); }, x);
}

/// e to the power of x.
template <AnyMinifloat T> [[nodiscard]] T exp(T x) noexcept {
  return detail::through_double([](double v) { return std::exp(v); }, x);
}

/// 2 to the power of x.
template <AnyMinifloat T> [[nodiscard]] T exp2(T x) noexcept {
  return detail::through_double([](double v) { return std::exp2(v); }, x);
}

/// e to the power of x, less 1.
template <AnyMinifloat T> [[nodiscard]] T expm1(T x) noexcept {
  return detail::through_double([](double v) { return std::expm1(v); }, x);
}

/// The natural logarithm.
template <AnyMinifloat T> [[nodiscard]] T log(T x) noexcept {
  return detail::through_double([](double v) { return std::log(v); }, x);
}

/// The logarithm to base 2.
template <AnyMinifloat T> [[nodiscard]] T log2(T x) noexcept {
  return detail::through_double([](double v) { return std::log2(v); }, x);
}

/// The logarithm to base 10.
template <AnyMinifloat T> [[nodiscard]] T log10(T x) noexcept {
  return detail::through_double([](double v) { return std::log10(v); }, x);
}

/// The natural logarithm of 1 + x.
template <AnyMinifloat T> [[nodiscard]] T log1p(T x) noexcept {
  return detail::through_double([](double v) { return std::log1p(v); }, x);
}

/// The sine.
template <AnyMinifloat T> [[nodiscard]] T sin(T x) noexcept {
  return detail::through_double([](double v) { return std::sin(v); }, x);
}

/// The cosine.
template <AnyMinifloat T> [[nodiscard]] T cos(T x) noexcept {
  return detail::through_double([](double v) { return std::cos(v); }, x);
}

/// The tangent.
template <AnyMinifloat T> [[nodiscard]] T tan(T x) noexcept {
  return detail::through_double([](double v) { return std::tan(v); }, x);
}

/// The arc sine.
template <AnyMinifloat T> [[nodiscard]] T asin(T x) noexcept {
  return detail::through_double([](double v) { return std::asin(v); }, x);
}

/// The arc cosine.
template <AnyMinifloat T> [[nodiscard]] T acos(T x) noexcept {
  return detail::through_double([](double v) { return std::acos(v); }, x);
}

/// The arc tangent.
template <AnyMinifloat T> [[nodiscard]] T atan(T x) noexcept {
  return detail::through_double([](double v) { return std::atan(v); }, x);
}

/// The hyperbolic sine.
template <AnyMinifloat T> [[nodiscard]] T sinh(T x) noexcept {
  return detail::through_double([](double v) { return std::sinh(v); }, x);
}

/// The hyperbolic cosine.
template <AnyMinifloat T> [[nodiscard]] T cosh(T x) noexcept {
  return detail::through_double([](double v) { return std::cosh(v); }, x);
}

/// The hyperbolic tangent.
template <AnyMinifloat T> [[nodiscard]] T tanh(T x) noexcept {
  return detail::through_double([](double v) { return std::tanh(v); }, x);
}

/// The inverse hyperbolic sine.
template <AnyMinifloat T> [[nodiscard]] T asinh(T x) noexcept {
  return detail::through_double([](double v) { return std::asinh(v); }, x);
}

/// The inverse hyperbolic cosine.
template <AnyMinifloat T> [[nodiscard]] T acosh(T x) noexcept {
  return detail::through_double([](double v) { return std::acosh(v); }, x);
}

/// The inverse hyperbolic tangent.
template <AnyMinifloat T> [[nodiscard]] T atanh(T x) noexcept {
  return detail::through_double([](double v) { return std::atanh(v); }, x);
}

/// The error function.
template <AnyMinifloat T> [[nodiscard]] T erf(T x) noexcept {
  return detail::through_double([](double v) { return std::erf(v); }, x);
}

/// The complementary error function, 1 - erf(x).
template <AnyMinifloat T> [[nodiscard]] T erfc(T x) noexcept {
  return detail::through_double([](double v) { return std::erfc(v); }, x);
}

/// The largest integer not above x. Exact, but for an overflow.
template <AnyMinifloat T> [[nodiscard]] T floor(T x) noexcept {
  return detail::through_double([](double v) { return std::floor(v); }, x);
}

/// The smallest integer not below x. Exact, but for an overflow: the next integer may lie beyond
/// the largest finite number.
template <AnyMinifloat T> [[nodiscard]] T ceil(T x) noexcept {
  return detail::through_double([](double v) { return std::ceil(v); }, x);
}

/// The integer part of x. Exact.
template <AnyMinifloat T> [[nodiscard]] T trunc(T x) noexcept {
  return detail::through_double([](double v) { return std::trunc(v); }, x);
}

/// The nearest integer, half-way the one further from zero. Exact, but for an overflow.
template <AnyMinifloat T> [[nodiscard]] T round(T x) noexcept {
  return detail::through_double([](double v) { return std::round(v); }, x);
}

/// The nearest integer, half-way the even one. Exact, but for an overflow.
template <AnyMinifloat T> [[nodiscard]] T rint(T x) noexcept {
  return detail::through_double([](double v) { return std::rint(v); }, x);
}

/// As rint().
template <AnyMinifloat T> [[nodiscard]] T nearbyint(T x) noexcept {
  return detail::through_double([](double v) { return std::nearbyint(v); }, x);
}

/// The exponent of x as a number; minus infinity or what the format has in its place for zero.
template <AnyMinifloat T> [[nodiscard]] T logb(T x) noexcept {
  return detail::through_double([](double v) { return std::logb(v); }, x);
}

/// x to the power of y.
template <AnyMinifloat T> [[nodiscard]] T pow(T x, std::type_identity_t<T> y) noexcept {
  return detail::through_double([](double v, double w) { return std::pow(v, w); }, x, y);
}

/// The square root of x² + y².
template <AnyMinifloat T> [[nodiscard]] T hypot(T x, std::type_identity_t<T> y) noexcept {
  return detail::through_double([](double v, double w) { return std::hypot(v, w); }, x, y);
}

/// The angle of the point (x, y).
template <AnyMinifloat T> [[nodiscard]] T atan2(T y, std::type_identity_t<T> x) noexcept {
  return detail::through_double([](double v, double w) { return std::atan2(v, w); }, y, x);
}

/// The remainder of x / y with the quotient rounded towards zero. Exact in a format with a zero.
template <AnyMinifloat T> [[nodiscard]] T fmod(T x, std::type_identity_t<T> y) noexcept {
  return detail::through_double([](double v, double w) { return std::fmod(v, w); }, x, y);
}

/// x y + z, correctly rounded: the product is exact in binary64, and so is the pair of the sum and
/// its error (2Sum; D. E. Knuth, The Art of Computer Programming, vol. 2, section 4.2.2), from
/// which the sum is rounded to odd. A sum in binary64 alone would not do for bfloat16: 259/256 less
/// its smallest number is no longer half-way between 129/128 and 130/128, and binary64 cannot tell.
template <AnyMinifloat T>
[[nodiscard]] T fma(T x, std::type_identity_t<T> y, std::type_identity_t<T> z) noexcept {
  return detail::through_double(
      [](double left, double right, double term) {
        using detail::opaque;
        const double product = opaque(left * right);
        const double addend = opaque(term);
        const double sum = opaque(product + addend);
        const double added = opaque(sum - product);
        const double kept = opaque(sum - added);
        const double error = opaque(product - kept) + opaque(addend - added);
        return detail::round_to_odd(sum, error);
      },
      x, y, z);
}

/// The smaller number; negative zero is below positive zero. If one is a NaN, the other; this is
/// minimumNumber of IEEE 754-2019, section 9.6.
template <AnyMinifloat T> [[nodiscard]] constexpr T fmin(T x, std::type_identity_t<T> y) noexcept {
  if (isnan(x)) return y;
  if (isnan(y)) return x;
  return x < y || (x == y && signbit(x)) ? x : y;
}

/// The larger number; positive zero is above negative zero. If one is a NaN, the other; this is
/// maximumNumber of IEEE 754-2019, section 9.6.
template <AnyMinifloat T> [[nodiscard]] constexpr T fmax(T x, std::type_identity_t<T> y) noexcept {
  if (isnan(x)) return y;
  if (isnan(y)) return x;
  return x > y || (x == y && signbit(y)) ? x : y;
}

/// The magnitude of x with the sign of y. A zero or NaN without a sign remains as it is.
template <AnyMinifloat T>
[[nodiscard]] constexpr T copysign(T x, std::type_identity_t<T> y) noexcept {
  return signbit(x) == signbit(y) ? x : -x;
}

/// The neighbour of `from` on the way to `toward`, which is returned if the two are equal; a NaN if
/// either is one. Beyond the largest finite number lies infinity where the format has one.
template <AnyMinifloat T>
[[nodiscard]] constexpr T nextafter(T from, std::type_identity_t<T> toward) noexcept {
  using Code = typename T::storage_type;
  constexpr FormatSpec spec = T::format;
  if (isnan(from)) return from;
  if (isnan(toward) || from == toward) return toward;
  const bool is_upward = from < toward;
  if (spec.has_zero() && from == T()) {
    return T::from_bits(static_cast<Code>(is_upward ? 1U : spec.sign_mask() | 1U));
  }
  // Codes of one sign ascend with the magnitude.
  const bool is_growing = is_upward != signbit(from);
  const auto code = static_cast<Code>(is_growing ? from.bits() + 1U : from.bits() - 1U);
  // The code of negative zero may stand for a NaN.
  const bool is_zero = spec.has_zero() && (code & spec.magnitude_mask()) == 0U;
  return is_zero && !spec.has_negative_zero() ? T() : T::from_bits(code);
}

/// x 2^exponent, correctly rounded.
template <AnyMinifloat T> [[nodiscard]] T ldexp(T x, int exponent) noexcept {
  return detail::through_double([exponent](double v) { return std::ldexp(v, exponent); }, x);
}

/// As ldexp().
template <AnyMinifloat T> [[nodiscard]] T scalbn(T x, int exponent) noexcept {
  return ldexp(x, exponent);
}

/// The exponent of x, which lies in ±[2^e, 2^(e+1)); FP_ILOGB0, FP_ILOGBNAN or INT_MAX where std
/// has them.
template <AnyMinifloat T> [[nodiscard]] int ilogb(T x) noexcept {
  return std::ilogb(static_cast<double>(x));
}

/// Splits x into a fraction in ±[1/2, 1), which is returned, and a power of two. Exact. Zero,
/// infinity and NaN are returned as they are, with the exponent zero. Formats that do not hold
/// every such fraction, because 1/2 is subnormal in them, have no frexp().
template <AnyMinifloat T>
requires(T::format.min_normal_exponent() <= -1) [[nodiscard]] T frexp(T x, int* exponent) noexcept {
  *exponent = 0;
  const auto value = static_cast<double>(x);
  return isfinite(x) ? T(std::frexp(value, exponent)) : x;
}

/// Whether x is finite, not zero and not subnormal.
template <AnyMinifloat T> [[nodiscard]] constexpr bool isnormal(T x) noexcept {
  return isfinite(x) && abs(x) >= std::numeric_limits<T>::min();
}

/// FP_NAN, FP_INFINITE, FP_ZERO, FP_SUBNORMAL or FP_NORMAL of `cmath`.
template <AnyMinifloat T> [[nodiscard]] constexpr int fpclassify(T x) noexcept {
  if (isnan(x)) return FP_NAN;
  if (isinf(x)) return FP_INFINITE;
  if (isnormal(x)) return FP_NORMAL;
  return x == T() ? FP_ZERO : FP_SUBNORMAL;
}

}  // namespace UNIT_SCALING_NAMESPACE

UNIT_SCALING_IEEE_END
