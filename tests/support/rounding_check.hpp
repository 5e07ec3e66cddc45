// SPDX-License-Identifier: MIT
/// @file
/// Layer: tests. Results in a storage format against references in double.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <string>
#include <type_traits>
#include <vector>

#include "support/compiled.hpp"
#include "unit_scaling/core/array.hpp"
#include "unit_scaling/formats/catalogue.hpp"
#include "unit_scaling/formats/precision.hpp"

namespace unit_scaling_test {

/// Half the distance between neighbouring binary32 numbers in [1, 2): one rounding of the
/// arithmetic changes a number by at most this, relatively.
inline constexpr double float_unit = 0x1p-24;

/// Distance between the neighbouring numbers of format T around `value`.
template <unit_scaling::Storage T> [[nodiscard]] double ulp(double value) {
  int mantissa_bits = 0;
  int least_exponent = 0;
  if constexpr (std::is_floating_point_v<T>) {
    mantissa_bits = std::numeric_limits<T>::digits - 1;
    least_exponent = std::numeric_limits<T>::min_exponent - 1;
  } else {
    mantissa_bits = T::format.mantissa_bits;
    least_exponent = std::ilogb(T::format.min_normal());
  }
  const int exponent = value == 0 ? least_exponent : std::max(least_exponent, std::ilogb(value));
  return std::ldexp(1.0, exponent - mantissa_bits);
}

/// The largest finite number of T.
template <unit_scaling::Storage T> [[nodiscard]] constexpr double largest_finite() {
  if constexpr (std::is_floating_point_v<T>) {
    return static_cast<double>(std::numeric_limits<T>::max());
  } else {
    return T::format.max_finite();
  }
}

/// A value in exact arithmetic (well: in double) and a bound on what binary32 arithmetic may add.
struct Reference {
  double value;
  double error;
};

/// Expects every element to be its reference rounded once to T: within half an ulp of a number
/// within `error` of the reference.
template <unit_scaling::Storage T>
void expect_rounded(const unit_scaling::Array<T>& actual,
                    const std::vector<Reference>& references) {
  ASSERT_EQ(actual.size(), references.size());
  for (std::size_t i = 0; i < references.size(); ++i) {
    const auto [value, error] = references[i];
    const double tolerance = ulp<T>(std::abs(value) + error) / 2 + error;
    EXPECT_NEAR(static_cast<double>(actual.data()[i]), value, tolerance) << "element " << i;
  }
}

/// The same, but a reference that may lie beyond the range of T may also have become an infinity.
template <unit_scaling::Storage T>
void expect_rounded_or_overflowed(const unit_scaling::Array<T>& actual,
                                  std::vector<Reference> references) {
  ASSERT_EQ(actual.size(), references.size());
  const double largest = largest_finite<T>();
  std::vector<T> elements(actual.span().begin(), actual.span().end());
  for (std::size_t i = 0; i < references.size(); ++i) {
    const auto [value, error] = references[i];
    // Written so that an infinite reference is beyond it, too.
    if (std::abs(value) + error < largest) continue;
    const auto element = static_cast<double>(elements[i]);
    EXPECT_FALSE(std::isnan(element)) << "element " << i;
    if (std::abs(value) - error >= largest) {
      EXPECT_GE(std::copysign(element, element * value), largest / 2) << "element " << i;
    }
    elements[i] = T(0.0F);
    references[i] = {0, 0};
  }
  expect_rounded(unit_scaling::Array<T>(actual.shape(), elements), references);
}

#ifdef UNIT_SCALING_TEST_SUPPORT_IS_COMPILED
UNIT_SCALING_TEST_SUPPORT_OF_ALL_FORMATS(UNIT_SCALING_TEST_ROUNDING_CHECK, extern);
#endif

/// The precisions that models are trained in.
using StoragePrecisions =
    testing::Types<unit_scaling::precision::fp32, unit_scaling::precision::fp16,
                   unit_scaling::precision::bf16, unit_scaling::precision::fp8>;

/// Those with arithmetic of their own, and the one that gradients are checked in.
using AllPrecisions = testing::Types<unit_scaling::precision::fp32, unit_scaling::precision::fp16,
                                     unit_scaling::precision::bf16, unit_scaling::precision::fp64>;

/// Test names with the precision's own name in them.
struct PrecisionNames {
  template <class P> static std::string GetName(int /*index*/) { return std::string(P::name); }
};

}  // namespace unit_scaling_test
