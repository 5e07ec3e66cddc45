// SPDX-License-Identifier: MIT
/// @file
/// Layer analysis: medians and other quantiles of what was measured.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <utility>
#include <vector>

#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/target.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::analysis {

/// The value below which `share` of the values lie: 0.25 gives the lower quartile. Between two
/// values of the sorted list it is on the line through them, by definition 7 of Hyndman and Fan
/// (1996). If one of the two is infinite, it is that one; if both are, the lower one.
/// @throws DomainError without a value, for a NaN among them, and for a share that is not from 0 to
///         1.
[[nodiscard]] inline double quantile(std::vector<double> values, double share) {
  require_size("quantile", "a number of values", values.size());
  require(share >= 0 && share <= 1, "quantile", "expected a share from 0 to 1, got ", share);
  const bool has_nan = std::any_of(values.begin(), values.end(), [](double x) { return x != x; });
  require(!has_nan, "quantile", "expected numbers, got NaN among the values");
  const double place = share * static_cast<double>(values.size() - 1);
  const auto below = static_cast<std::ptrdiff_t>(std::floor(place));
  const auto lower = values.begin() + below;
  std::nth_element(values.begin(), lower, values.end());
  const double beyond = place - static_cast<double>(below);
  if (beyond == 0) return *lower;
  const double upper = *std::min_element(lower + 1, values.end());
  if (upper == *lower || std::isinf(*lower)) return *lower;
  return std::isinf(upper) ? upper : std::lerp(*lower, upper, beyond);
}

/// The middle value, or the mean of the two in the middle.
/// @throws DomainError as `quantile`.
[[nodiscard]] inline double median(std::vector<double> values) {
  return quantile(std::move(values), 0.5);
}

}  // namespace UNIT_SCALING_NAMESPACE::analysis

UNIT_SCALING_IEEE_END
