// SPDX-License-Identifier: MIT
/// @file
/// Layer: formats. Makes every `Minifloat` a scalar type of Eigen.
///
/// Matrices and maps of a `Minifloat` can be filled, assigned, compared, printed and converted with
/// `.cast<float>()`, and `.cast<float8_e4m3fn>()` converts back. Their arithmetic rounds after
/// every operation; compute in binary32 instead.
#pragma once

#include <Eigen/Core>
#include <limits>

#include "unit_scaling/formats/minifloat.hpp"

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
    IsSigned = 1,
    // The constructor without arguments makes a zero; leaving it out costs nothing.
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
};

}  // namespace Eigen
