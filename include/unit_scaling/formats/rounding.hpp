// SPDX-License-Identifier: MIT
/// @file
/// Layer: formats. How a conversion to a narrower number format rounds and overflows.
///
/// Every conversion rounds to nearest with ties to even (roundTiesToEven of IEEE 754-2019, section
/// 4.3.1) as though the exponent range had no upper end, and then looks whether the result lies
/// beyond the largest finite number of the format. So 464, which lies half-way between 448 and
/// 480, becomes 448 in float8_e4m3fn, and the next binary32 number above 464 overflows.
#pragma once

namespace unit_scaling {

/// What becomes of a number whose rounded value lies beyond the largest finite number of a format.
/// A NaN remains a NaN under both (in a format without a NaN it becomes negative zero).
/// Source: Open Compute Project, OCP 8-bit Floating Point Specification (OFP8), revision 1.0,
/// section 5.2.
enum class Overflow {
  /// The saturating mode: the largest finite number with the sign of the operand. This goes for an
  /// infinity too.
  saturate,
  /// The non-saturating mode: infinity where the format has one, otherwise NaN. In a format with
  /// neither, the largest finite number.
  infinity_or_nan,
};

}  // namespace unit_scaling
