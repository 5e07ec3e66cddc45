// SPDX-License-Identifier: MIT
/// @file
/// Layer analysis: what a format would lose of a tensor, judged from its exponents alone.
#pragma once

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <stdexcept>

#include "unit_scaling/analysis/exponent_histogram.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/formats/catalogue.hpp"
#include "unit_scaling/formats/format_spec.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::analysis {

/// Shares of all elements, from 0 to 1.
struct FormatLosses {
  double underflowed = 0;  ///< not zero, but rounded to zero
  double subnormal = 0;    ///< rounded to a subnormal number, hence with fewer bits
  double overflowed = 0;   ///< finite, but rounded beyond the largest number
};

/// The formats that a tensor is usually asked about: E4M3, E5M2, FP16, FP6 (E2M3, E3M2) and FP4.
inline constexpr std::array<FormatSpec, 6> narrow_formats{
    float8_e4m3fn::format, float8_e5m2::format,   float16::format,
    float6_e2m3fn::format, float6_e3m2fn::format, float4_e2m1fn::format};

/// What rounding to nearest in the format would do to a tensor with this histogram.
///
/// A bin is a power of two wide, and where it lies on one side of a threshold the result is exact.
/// Numbers up to half the smallest one underflow; that is a power of two, so the share is exact but
/// for numbers that are exactly it, which count as kept. The other two thresholds, half a last
/// place below the smallest normal number and half a last place above the largest number, divide a
/// bin; its elements are shared out as though they were spread evenly, which is an approximation.
/// It errs by no more than that one bin's share.
/// @throws std::invalid_argument for a format without zero, which scales blocks of numbers.
[[nodiscard]] inline FormatLosses format_losses(const ExponentHistogram& histogram,
                                                const FormatSpec& spec) {
  if (!spec.has_zero()) {
    throw std::invalid_argument("format_losses: expected a format with zero, got one without");
  }
  const auto elements = static_cast<double>(histogram.elements());
  if (elements == 0) return {};
  const auto below = [&](double threshold) {
    const int exponent = std::ilogb(threshold);
    double count =
        (std::ldexp(threshold, -exponent) - 1) * static_cast<double>(histogram.count(exponent));
    for (std::size_t i = 0; i < histogram.counts.size(); ++i) {
      if (histogram.first_exponent + static_cast<int>(i) >= exponent) break;
      count += static_cast<double>(histogram.counts[i]);
    }
    return count;
  };
  const double half_smallest = spec.min_subnormal() / 2;
  const double half_last_place = std::ldexp(1, spec.max_exponent() - spec.mantissa_bits - 1);
  const double underflowed = below(half_smallest);
  const double below_normal = below(spec.min_normal() - half_smallest);
  const double in_range = below(spec.max_finite() + half_last_place);
  const auto finite =
      elements - static_cast<double>(histogram.zeros) - static_cast<double>(histogram.non_finite);
  return {underflowed / elements, (below_normal - underflowed) / elements,
          (finite - in_range) / elements};
}

}  // namespace UNIT_SCALING_NAMESPACE::analysis

UNIT_SCALING_IEEE_END
