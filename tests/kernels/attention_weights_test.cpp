// SPDX-License-Identifier: MIT
#include "unit_scaling/kernels/attention_weights.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>

namespace attention_weights_test {

using namespace unit_scaling;
using namespace unit_scaling::kernels;

/// The documented rounding by the scalar conversion, which the tests of formats check.
float expected_weight(float x) {
  const auto nearest = static_cast<float>(bfloat16::from_float(x, Overflow::infinity_or_nan));
  return std::abs(nearest) < 0x1p-64F ? 0.0F : nearest;
}

void expect_same_number(float actual, float expected) {
  if (std::isnan(expected)) {
    EXPECT_TRUE(std::isnan(actual));
  } else {
    EXPECT_EQ(std::bit_cast<std::uint32_t>(actual), std::bit_cast<std::uint32_t>(expected));
  }
}

/// Calls `body(numbers)` with 16 floats at a time, of all signs and exponents and of mantissas
/// around ties.
template <class Body> void for_many_numbers(const Body& body) {
  float32x16 numbers{};
  std::size_t lane = 0;
  for (std::uint32_t upper = 0; upper < 0x1'0000U; upper += 7) {
    for (const std::uint32_t lower : {0x0000U, 0x0001U, 0x7fffU, 0x8000U, 0x8001U, 0xffffU}) {
      numbers[lane] = std::bit_cast<float>(upper << 16 | lower);
      if (++lane == lanes) {
        body(numbers);
        lane = 0;
      }
    }
  }
}

TEST(AttentionWeights, AreRoundedToTheNearestBfloat16OrToZeroBelowTheLeast) {
  for_many_numbers([](float32x16 numbers) {
    const float32x16 rounded = round_attention_weight(numbers);
    for (std::size_t i = 0; i < lanes; ++i) {
      expect_same_number(rounded[i], expected_weight(numbers[i]));
    }
  });
}

float upper_half(std::uint32_t word) { return std::bit_cast<float>(word & 0xffff'0000U); }
float lower_half(std::uint32_t word) { return std::bit_cast<float>(word << 16); }

TEST(AttentionWeights, ArePairedAlongLanesAndAlongKeysTheEarlierOneInTheUpperHalf) {
  for_many_numbers([](float32x16 numbers) {
    const kernels::detail::RoundedWeights key =
        kernels::detail::RoundedWeights(numbers, -numbers).without_small();
    const kernels::detail::RoundedWeights next =
        kernels::detail::RoundedWeights(numbers * 3.0F, numbers * 5.0F).without_small();
    const uint32x16 by_lane = key.lane_pairs();
    const uint32x16 low = key.key_pairs(next, 0);
    const uint32x16 high = key.key_pairs(next, 1);
    for (std::size_t i = 0; i < lanes; ++i) {
      const float sign = i < lanes / 2 ? 1.0F : -1.0F;
      expect_same_number(upper_half(by_lane[i]), expected_weight(sign * numbers[2 * i % lanes]));
      expect_same_number(lower_half(by_lane[i]),
                         expected_weight(sign * numbers[2 * i % lanes + 1]));
      expect_same_number(upper_half(low[i]), expected_weight(numbers[i]));
      expect_same_number(lower_half(low[i]), expected_weight(numbers[i] * 3.0F));
      expect_same_number(upper_half(high[i]), expected_weight(-numbers[i]));
      expect_same_number(lower_half(high[i]), expected_weight(numbers[i] * 5.0F));
    }
  });
}

TEST(AttentionWeights, ArePowersOfTwoWithinTheStatedErrorAndZeroFarBelow) {
  double largest_error = 0;
  for (std::size_t i = 0; i < 1'000'000; ++i) {
    const float x = -63.5F * static_cast<float>(i) / 1'000'000;
    const double expected = std::exp2(static_cast<double>(x));
    const double actual = exp2_of_nonpositive(splat<float32x16>(x))[i % lanes];
    largest_error = std::max(largest_error, std::abs(actual - expected) / expected);
  }
  EXPECT_LT(largest_error, 4e-6);
  const auto at = [](float x) { return exp2_of_nonpositive(splat<float32x16>(x))[0]; };
  EXPECT_EQ(at(0), 1);
  EXPECT_EQ(at(-0.0F), 1);
  for (const float x :
       {-63.6F, -64.0F, -127.0F, -1e6F, -1e30F, -std::numeric_limits<float>::infinity()}) {
    EXPECT_EQ(std::bit_cast<std::uint32_t>(at(x)), 0U) << x;
  }
  EXPECT_TRUE(std::isnan(at(std::numeric_limits<float>::quiet_NaN())));
}

}  // namespace attention_weights_test
