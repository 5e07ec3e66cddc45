// SPDX-License-Identifier: MIT
/// @file
/// Layer: tests. Moments of the elements of an array, in double.
#pragma once

#include <cmath>
#include <cstddef>

#include "support/compiled.hpp"
#include "unit_scaling/core/array.hpp"
#include "unit_scaling/formats/catalogue.hpp"

namespace unit_scaling_test {

template <class T> [[nodiscard]] double mean(const unit_scaling::Array<T>& array) {
  double sum = 0;
  for (const T element : array.span()) sum += static_cast<double>(element);
  return sum / static_cast<double>(array.size());
}

/// √(mean of the squares).
template <class T> [[nodiscard]] double rms(const unit_scaling::Array<T>& array) {
  double sum = 0;
  for (const T element : array.span()) {
    sum += static_cast<double>(element) * static_cast<double>(element);
  }
  return std::sqrt(sum / static_cast<double>(array.size()));
}

/// √(mean of the squares of the deviations from the mean).
template <class T> [[nodiscard]] double standard_deviation(const unit_scaling::Array<T>& array) {
  const double centre = mean(array);
  double sum = 0;
  for (const T element : array.span()) {
    const double deviation = static_cast<double>(element) - centre;
    sum += deviation * deviation;
  }
  return std::sqrt(sum / static_cast<double>(array.size()));
}

#ifdef UNIT_SCALING_TEST_SUPPORT_IS_COMPILED
UNIT_SCALING_TEST_SUPPORT_OF_ALL_FORMATS(UNIT_SCALING_TEST_STATISTICS, extern);
#endif

}  // namespace unit_scaling_test
