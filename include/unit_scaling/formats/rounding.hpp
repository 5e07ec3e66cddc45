// SPDX-License-Identifier: MIT
/// @file
/// Layer: formats. How a conversion to a narrower number format rounds and overflows.
///
/// Every conversion rounds as though the exponent range had no upper end, and then looks whether
/// the result lies beyond the largest finite number of the format. So 464, which lies half-way
/// between 448 and 480, becomes 448 in float8_e4m3fn under nearest_even, and the next binary32
/// number above 464 overflows.
#pragma once

#include "unit_scaling/core/target.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE {

/// What becomes of a number whose rounded value lies beyond the largest finite number of a format.
/// A NaN remains a NaN under both (in a format without a NaN it becomes negative zero).
/// Source: Open Compute Project, OCP 8-bit Floating Point Specification (OFP8), revision 1.0,
/// section 5.2.
enum class Overflow {
  /// The saturating mode: the largest finite number with the sign of the operand. This goes for an
  /// infinity too.
  saturate,
  /// The non-saturating mode: infinity where the format has one, otherwise NaN. In a format with
  /// neither, the largest finite number. A rounding that never leads away from zero keeps a finite
  /// number finite (IEEE 754-2019, section 7.4).
  infinity_or_nan,
};

/// Which of its two neighbours in the format a number becomes that lies between them. A number of
/// the format remains what it is under every mode.
/// Source: IEEE 754-2019, section 4.3, for all but the last.
enum class Rounding {
  nearest_even,     ///< The nearer one; half-way the one whose code is even.
  nearest_away,     ///< The nearer one; half-way the one further from zero.
  toward_zero,      ///< The one nearer to zero.
  toward_positive,  ///< The upper one.
  toward_negative,  ///< The lower one.
  /// Either one at random, the probability of each being how near the number is to it, so that the
  /// mean over draws is the number itself. Takes random bits: see stochastic_rounding.hpp.
  stochastic,
};

}  // namespace UNIT_SCALING_NAMESPACE

UNIT_SCALING_IEEE_END
