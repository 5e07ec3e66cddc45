// SPDX-License-Identifier: MIT
/// @file
/// Layer: formats. Makes every `Minifloat` a scalar type of Eigen.
///
/// Matrices and maps of a `Minifloat` can be filled, assigned, compared, printed, drawn at random
/// and converted with `.cast<float>()`, and `.cast<float8_e4m3fn>()` converts back. Casts between
/// `float16` and Eigen::half, and between `bfloat16` and Eigen::bfloat16, copy codes.
///
/// Expressions, reductions and matrix products work too, but round after every operation: a sum of
/// ones in float8_e4m3fn stops at 16. Where that matters, compute in binary32:
/// `matrix.cast<float>().sum()`. It also matters to norm() and isApprox(), which add up squares.
///
/// Eigen takes as long to compile as half of the library, so this is not in the umbrella header.
// unit_scaling: optional
#pragma once

#include <Eigen/Core>
#include <cstdint>
#include <limits>

#include "unit_scaling/core/target.hpp"
#include "unit_scaling/formats/catalogue.hpp"
#include "unit_scaling/formats/math.hpp"
#include "unit_scaling/formats/minifloat.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE {

/// The same number, code for code, as the type of Eigen. A NaN keeps its payload.
[[nodiscard]] inline Eigen::half to_eigen(float16 value) noexcept {
  return Eigen::numext::bit_cast<Eigen::half>(value.bits());
}
/// As above.
[[nodiscard]] inline Eigen::bfloat16 to_eigen(bfloat16 value) noexcept {
  return Eigen::numext::bit_cast<Eigen::bfloat16>(value.bits());
}
/// The same number, code for code. A NaN keeps its payload.
[[nodiscard]] inline float16 from_eigen(Eigen::half value) noexcept {
  return float16::from_bits(Eigen::numext::bit_cast<std::uint16_t>(value));
}
/// As above.
[[nodiscard]] inline bfloat16 from_eigen(Eigen::bfloat16 value) noexcept {
  return bfloat16::from_bits(Eigen::numext::bit_cast<std::uint16_t>(value));
}

}  // namespace UNIT_SCALING_NAMESPACE

namespace Eigen {

/// Traits of a `Minifloat` for Eigen, on its numerical limits.
template <unit_scaling::FormatSpec spec>
struct NumTraits<unit_scaling::Minifloat<spec>> : GenericNumTraits<unit_scaling::Minifloat<spec>> {
  /// Type of the real part.
  using Real = unit_scaling::Minifloat<spec>;
  /// Type for results that are not integers.
  using NonInteger = Real;
  /// Type of numeric constants in expressions.
  using Literal = Real;
  /// Type for intermediate values of an expression.
  using Nested = Real;

  // An unnamed enumeration, as in Eigen's own traits, which mix these with other enumerations.
  enum {
    IsComplex = 0,
    IsInteger = 0,
    IsSigned = spec.has_sign() ? 1 : 0,
    // The constructor without arguments makes the number of code 0; leaving it out costs nothing.
    RequireInitialization = 0,
    ReadCost = 1,
    // Two conversions to binary32, the operation and a conversion back.
    AddCost = 16,
    MulCost = 16
  };

  /// Tolerance of the fuzzy comparisons: a few units in the last place.
  static constexpr Real dummy_precision() {
    return Real(4.0 * static_cast<double>(std::numeric_limits<Real>::epsilon()));
  }
  /// Largest finite number.
  static constexpr Real highest() { return std::numeric_limits<Real>::max(); }
  /// Most negative finite number.
  static constexpr Real lowest() { return std::numeric_limits<Real>::lowest(); }
  /// Distance from 1 to the next larger number.
  static constexpr Real epsilon() { return std::numeric_limits<Real>::epsilon(); }
  /// +infinity, or zero in a format without one.
  static constexpr Real infinity() { return std::numeric_limits<Real>::infinity(); }
  /// Quiet NaN, or negative zero in a format without one.
  static constexpr Real quiet_NaN() { return std::numeric_limits<Real>::quiet_NaN(); }
  /// Decimal digits that survive a conversion to the format and back.
  static constexpr int digits10() { return std::numeric_limits<Real>::digits10; }
  /// Significant bits.
  static constexpr int digits() { return std::numeric_limits<Real>::digits; }
};

namespace internal {

/// Random numbers of a `Minifloat`. Eigen's own go through RAND_MAX, which is beyond most formats.
template <unit_scaling::FormatSpec spec> struct random_impl<unit_scaling::Minifloat<spec>> {
  /// Type of the numbers.
  using Number = unit_scaling::Minifloat<spec>;

  /// Uniform between the two, drawn in binary64 and rounded once.
  static Number run(const Number& low, const Number& high) {
    return Number(random<double>(static_cast<double>(low), static_cast<double>(high)));
  }
  /// Uniform between -1, or 0 in a format without a sign, and 1.
  static Number run() { return Number(random<double>(spec.has_sign() ? -1.0 : 0.0, 1.0)); }
};

/// The logarithm to base 2, rounded once; Eigen's own is a product of two rounded numbers.
template <unit_scaling::FormatSpec spec> struct scalar_log2_op<unit_scaling::Minifloat<spec>> {
  /// The logarithm of `value`.
  unit_scaling::Minifloat<spec> operator()(const unit_scaling::Minifloat<spec>& value) const {
    return log2(value);
  }
};

/// The angle of a real number in the complex plane, 0 or π. Eigen's own takes π in long double.
template <unit_scaling::FormatSpec spec> struct arg_impl<unit_scaling::Minifloat<spec>> {
  /// The angle of `value`.
  static unit_scaling::Minifloat<spec> run(const unit_scaling::Minifloat<spec>& value) {
    return unit_scaling::Minifloat<spec>(arg_impl<double>::run(static_cast<double>(value)));
  }
};

/// Copies the code.
template <> struct cast_impl<unit_scaling::float16, half> {
  static half run(const unit_scaling::float16& value) { return unit_scaling::to_eigen(value); }
};
/// Copies the code.
template <> struct cast_impl<half, unit_scaling::float16> {
  static unit_scaling::float16 run(const half& value) { return unit_scaling::from_eigen(value); }
};
/// Copies the code.
template <> struct cast_impl<unit_scaling::bfloat16, bfloat16> {
  static bfloat16 run(const unit_scaling::bfloat16& value) { return unit_scaling::to_eigen(value); }
};
/// Copies the code.
template <> struct cast_impl<bfloat16, unit_scaling::bfloat16> {
  static unit_scaling::bfloat16 run(const bfloat16& value) {
    return unit_scaling::from_eigen(value);
  }
};

}  // namespace internal

}  // namespace Eigen

UNIT_SCALING_IEEE_END
