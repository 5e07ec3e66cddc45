// SPDX-License-Identifier: MIT
// What is told of figures that scatter: the middle one, and how far half of them are apart.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <stdexcept>
#include <vector>

namespace bert_mlp {

/// A quarter of the values are below `lower`, half below `median`, a quarter above `upper`.
struct Quartiles {
  double lower;
  double median;
  double upper;
};

/// Quartiles of at least one value; between two values in proportion, as NumPy's `quantile` does.
/// @throws std::invalid_argument if there is none.
[[nodiscard]] inline Quartiles quartiles(std::vector<double> values) {
  if (values.empty()) throw std::invalid_argument("quartiles: expected a value, got none");
  std::sort(values.begin(), values.end());
  const auto at = [&](double share) {
    const double position = share * static_cast<double>(values.size() - 1);
    const auto below = static_cast<std::size_t>(position);
    const std::size_t above = std::min(below + 1, values.size() - 1);
    return std::lerp(values[below], values[above], position - std::floor(position));
  };
  return {at(0.25), at(0.5), at(0.75)};
}

}  // namespace bert_mlp
