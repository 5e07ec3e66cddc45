// SPDX-License-Identifier: MIT
/// @file
/// Layer: benchmarks. Medians of measured times.
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

namespace unit_scaling_benchmarks {

/// The middle one of at least one value, or the mean of the two in the middle.
[[nodiscard]] inline double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  if (values.size() % 2 == 1) return *middle;
  return (*middle + *std::max_element(values.begin(), middle)) / 2;
}

}  // namespace unit_scaling_benchmarks
