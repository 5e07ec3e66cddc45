// SPDX-License-Identifier: MIT
#include "unit_scaling/kernels/hyperbolic.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

namespace hyperbolic_test {

using namespace unit_scaling;

float lane_tanh(float x) { return kernels::tanh(splat<float32x16>(x))[5]; }

TEST(Hyperbolic, TanhIsWithinThreeUlpsOfTheDoubleFunctionEverywhere) {
  double worst = 0;
  // Every 1009th positive float, which visits every binade.
  for (std::uint32_t code = 1; code < 0x7f800000U; code += 1009) {
    const auto x = std::bit_cast<float>(code);
    const double exact = std::tanh(static_cast<double>(x));
    const float got = lane_tanh(x);
    const double unit = static_cast<double>(std::nextafter(static_cast<float>(exact), 2.0F) -
                                            static_cast<float>(exact));
    worst = std::max(worst, std::abs(static_cast<double>(got) - exact) / unit);
    ASSERT_EQ(lane_tanh(-x), -got) << x;
  }
  EXPECT_LT(worst, 3);
}

TEST(Hyperbolic, TanhKeepsNaNInfinityAndTheSignOfZero) {
  constexpr float infinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(lane_tanh(infinity), 1);
  EXPECT_EQ(lane_tanh(-infinity), -1);
  EXPECT_TRUE(std::isnan(lane_tanh(std::numeric_limits<float>::quiet_NaN())));
  EXPECT_FALSE(std::signbit(lane_tanh(0.0F)));
  EXPECT_TRUE(std::signbit(lane_tanh(-0.0F)));
}

}  // namespace hyperbolic_test
