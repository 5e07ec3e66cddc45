// SPDX-License-Identifier: MIT
/// @file
/// Layer: benchmarks. Medians and other quantiles of what was measured.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <utility>
#include <vector>

namespace unit_scaling_benchmarks {

/// The value below which `share`, from 0 to 1, of at least one value lies; between two values of
/// the sorted list on the line through them, as definition 7 of Hyndman and Fan (1996) has it.
[[nodiscard]] inline double quantile(std::vector<double> values, double share) {
  const double place = share * static_cast<double>(values.size() - 1);
  const auto below = static_cast<std::ptrdiff_t>(std::floor(place));
  const auto lower = values.begin() + below;
  std::nth_element(values.begin(), lower, values.end());
  const double beyond = place - static_cast<double>(below);
  if (beyond == 0) return *lower;
  return *lower + beyond * (*std::min_element(lower + 1, values.end()) - *lower);
}

/// The middle one of at least one value, or the mean of the two in the middle.
[[nodiscard]] inline double median(std::vector<double> values) {
  return quantile(std::move(values), 0.5);
}

}  // namespace unit_scaling_benchmarks
