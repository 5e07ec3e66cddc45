// SPDX-License-Identifier: MIT
/// @file
/// Layer: core. A vector wider than the registers of the target, as two halves.
///
/// GCC 12 has such vectors in its extensions too, but keeps them in memory, moves them there in
/// pieces that do not match, and splits comparisons and shuffles of them into scalars. It keeps
/// both halves of this class in registers.
#pragma once

#include <cstddef>
#include <type_traits>

#include "unit_scaling/core/target.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE {

/// Two vectors, `lower` with the lanes that come first in memory: of the compiler's extensions, or
/// of this class again. It lies in memory as a vector of the extensions does, aligned as one of its
/// halves, and has its operators
/// on lanes, with another vector or with a number for all lanes. Comparisons give lanes 0 or -1.
template <class Half> struct WideVector {
  /// Type of one lane.
  using Lane = std::remove_cvref_t<decltype(Half{}[0])>;
  static constexpr std::size_t half_count = sizeof(Half) / sizeof(Lane);  ///< Lanes in a half.

  /// Whether a number may be given for all lanes, converted as a `static_cast` does: not a floating
  /// one of a wider type, whose rounding would be lost.
  template <class Number>
  static constexpr bool stands_for_lanes = std::is_integral_v<Number> ||
                                           (std::is_floating_point_v<Number> &&
                                            sizeof(Number) <= sizeof(Lane));

  Half lower;
  Half upper;

  /// The lane of that number, from 0.
  [[nodiscard, gnu::always_inline]] constexpr Lane operator[](std::size_t lane) const noexcept {
    return lane < half_count ? lower[lane] : upper[lane - half_count];
  }
  /// The same to be changed. Not for inner loops: the vector then lies in memory. For the rules of
  /// aliasing, GCC takes a vector for an array of its lanes.
  [[nodiscard, gnu::always_inline]] Lane& operator[](std::size_t lane) noexcept {
    return reinterpret_cast<Lane*>(this)[lane];
  }

  // Each makes its result in place: a call more, of a constructor or a function that joins halves,
  // would be inlined for each operator of a program, and more for a compiler to remember.
  [[nodiscard, gnu::always_inline]] constexpr WideVector operator-() const noexcept {
    WideVector result;
    result.lower = -lower;
    result.upper = -upper;
    return result;
  }
  [[nodiscard, gnu::always_inline]] constexpr WideVector operator~() const noexcept {
    WideVector result;
    result.lower = ~lower;
    result.upper = ~upper;
    return result;
  }

#define UNIT_SCALING_OPERATOR_OF_HALVES(op)                                                        \
  [[nodiscard, gnu::always_inline]] constexpr auto operator op(const WideVector& right)            \
      const noexcept {                                                                             \
    WideVector<decltype(lower op right.lower)> result;                                             \
    result.lower = lower op right.lower;                                                           \
    result.upper = upper op right.upper;                                                           \
    return result;                                                                                 \
  }                                                                                                \
  template <class Number>                                                                          \
  requires(stands_for_lanes<Number>) [[nodiscard, gnu::always_inline]] constexpr auto operator op( \
      Number right) const noexcept {                                                               \
    WideVector<decltype(lower op static_cast<Lane>(right))> result;                                \
    result.lower = lower op static_cast<Lane>(right);                                              \
    result.upper = upper op static_cast<Lane>(right);                                              \
    return result;                                                                                 \
  }
#define UNIT_SCALING_OPERATOR_OF_NUMBER(op)                                                  \
  template <class Number>                                                                    \
  requires(stands_for_lanes<Number>) [[nodiscard, gnu::always_inline]] friend constexpr auto \
  operator op(Number left, const WideVector& right) noexcept {                               \
    WideVector<decltype(static_cast<Lane>(left) op right.lower)> result;                     \
    result.lower = static_cast<Lane>(left) op right.lower;                                   \
    result.upper = static_cast<Lane>(left) op right.upper;                                   \
    return result;                                                                           \
  }
#define UNIT_SCALING_ASSIGNMENT_OF_HALVES(op)                                                \
  template <class Right>                                                                     \
  [[gnu::always_inline]] constexpr WideVector& operator op##=(const Right& right) noexcept { \
    return *this = *this op right;                                                           \
  }
  UNIT_SCALING_OPERATOR_OF_HALVES(+)
  UNIT_SCALING_OPERATOR_OF_HALVES(-)
  UNIT_SCALING_OPERATOR_OF_HALVES(*)
  UNIT_SCALING_OPERATOR_OF_HALVES(/)
  UNIT_SCALING_OPERATOR_OF_HALVES(&)
  UNIT_SCALING_OPERATOR_OF_HALVES(|)
  UNIT_SCALING_OPERATOR_OF_HALVES(^)
  UNIT_SCALING_OPERATOR_OF_HALVES(<<)
  UNIT_SCALING_OPERATOR_OF_HALVES(>>)
  UNIT_SCALING_OPERATOR_OF_HALVES(==)
  UNIT_SCALING_OPERATOR_OF_HALVES(!=)
  UNIT_SCALING_OPERATOR_OF_HALVES(<)
  UNIT_SCALING_OPERATOR_OF_HALVES(>)
  UNIT_SCALING_OPERATOR_OF_HALVES(<=)
  UNIT_SCALING_OPERATOR_OF_HALVES(>=)
  // Not == and !=, of which C++20 makes these by itself where they give a bool.
  UNIT_SCALING_OPERATOR_OF_NUMBER(+)
  UNIT_SCALING_OPERATOR_OF_NUMBER(-)
  UNIT_SCALING_OPERATOR_OF_NUMBER(*)
  UNIT_SCALING_OPERATOR_OF_NUMBER(/)
  UNIT_SCALING_OPERATOR_OF_NUMBER(&)
  UNIT_SCALING_OPERATOR_OF_NUMBER(|)
  UNIT_SCALING_OPERATOR_OF_NUMBER(^)
  UNIT_SCALING_OPERATOR_OF_NUMBER(<<)
  UNIT_SCALING_OPERATOR_OF_NUMBER(>>)
  UNIT_SCALING_OPERATOR_OF_NUMBER(<)
  UNIT_SCALING_OPERATOR_OF_NUMBER(>)
  UNIT_SCALING_OPERATOR_OF_NUMBER(<=)
  UNIT_SCALING_OPERATOR_OF_NUMBER(>=)
  UNIT_SCALING_ASSIGNMENT_OF_HALVES(+)
  UNIT_SCALING_ASSIGNMENT_OF_HALVES(-)
  UNIT_SCALING_ASSIGNMENT_OF_HALVES(*)
  UNIT_SCALING_ASSIGNMENT_OF_HALVES(/)
  UNIT_SCALING_ASSIGNMENT_OF_HALVES(&)
  UNIT_SCALING_ASSIGNMENT_OF_HALVES(|)
  UNIT_SCALING_ASSIGNMENT_OF_HALVES(^)
  UNIT_SCALING_ASSIGNMENT_OF_HALVES(<<)
  UNIT_SCALING_ASSIGNMENT_OF_HALVES(>>)
#undef UNIT_SCALING_OPERATOR_OF_HALVES
#undef UNIT_SCALING_OPERATOR_OF_NUMBER
#undef UNIT_SCALING_ASSIGNMENT_OF_HALVES
};

}  // namespace UNIT_SCALING_NAMESPACE

UNIT_SCALING_IEEE_END
