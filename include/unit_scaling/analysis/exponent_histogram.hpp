// SPDX-License-Identifier: MIT
/// @file
/// Layer analysis: how often each binary exponent occurs in a tensor.
#pragma once

#include <cstddef>
#include <cstdint>
#include <numeric>
#include <vector>

#include "unit_scaling/core/target.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::analysis {

/// One count for each binary exponent e: of the elements whose magnitude lies in [2^e, 2^(e+1)).
/// The exponents are those of binary32, subnormal numbers included: from -149 to 127.
struct ExponentHistogram {
  int first_exponent = 0;  ///< that of counts[0]
  /// From the smallest exponent that occurs to the largest; empty if none does.
  std::vector<std::uint64_t> counts = {};
  std::uint64_t zeros = 0;       ///< elements that are ±0
  std::uint64_t non_finite = 0;  ///< elements that are NaN or infinite

  /// Elements in [2^exponent, 2^(exponent+1)).
  [[nodiscard]] std::uint64_t count(int exponent) const {
    const std::int64_t i = std::int64_t{exponent} - first_exponent;
    if (i < 0 || i >= static_cast<std::int64_t>(counts.size())) return 0;
    return counts[static_cast<std::size_t>(i)];
  }

  /// All elements, whatever they are.
  [[nodiscard]] std::uint64_t elements() const {
    return std::accumulate(counts.begin(), counts.end(), zeros + non_finite);
  }

  friend bool operator==(const ExponentHistogram&, const ExponentHistogram&) = default;
};

}  // namespace UNIT_SCALING_NAMESPACE::analysis

UNIT_SCALING_IEEE_END
