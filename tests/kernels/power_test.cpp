// SPDX-License-Identifier: MIT
#include "unit_scaling/kernels/power.hpp"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

namespace power_test {

using namespace unit_scaling;

/// Calls `check(x, exponent, fraction)` for sixteen numbers from x on, as `next` has them.
template <bool has_subnormals, class Check> void check_log2(float x, const Check& check) {
  const kernels::Log2 log2 = kernels::log2_in_parts<has_subnormals>(splat<float32x16>(x));
  check(x, log2.exponent[3], log2.fraction[3]);
}

TEST(Power, LogarithmIsAnIntegerAndAFractionWithinTheStatedError) {
  const auto check = [](float x, float exponent, float fraction) {
    EXPECT_EQ(exponent, std::rint(exponent)) << x;
    const double error = static_cast<double>(exponent) + static_cast<double>(fraction) -
                         std::log2(static_cast<double>(x));
    EXPECT_LT(std::abs(error), 2.5e-7) << x;
    EXPECT_LE(std::abs(fraction), 0.5F + 1e-6F) << x;
  };
  // Every 4099th float above 0, and every 127th between ½ and 2.
  for (std::uint32_t bits = 1; bits < 0x7f80'0000U; bits += 4099) {
    check_log2<true>(std::bit_cast<float>(bits), check);
    if (bits >= 0x0080'0000U) check_log2<false>(std::bit_cast<float>(bits), check);
  }
  for (std::uint32_t bits = 0x3f00'0000U; bits < 0x4000'0000U; bits += 127) {
    check_log2<true>(std::bit_cast<float>(bits), check);
  }
}

TEST(Power, LogarithmOfAPowerOfTwoIsExact) {
  for (int exponent = -149; exponent <= 127; ++exponent) {
    check_log2<true>(std::ldexp(1.0F, exponent), [&](float, float whole, float fraction) {
      EXPECT_EQ(whole, static_cast<float>(exponent));
      EXPECT_EQ(fraction, 0);
    });
  }
}

TEST(Power, PowerIsWithinTheStatedErrorAndOneAtZero) {
  for (int i = -125 * 4096; i <= 127 * 4096; i += 3) {
    const float x = static_cast<float>(i) / 4096;
    const float power = kernels::exp2_within_limits(splat<float32x16>(x))[7];
    const double expected = std::exp2(static_cast<double>(x));
    EXPECT_LT(std::abs(static_cast<double>(power) / expected - 1), 3.5e-7) << x;
  }
  EXPECT_EQ(kernels::exp2_within_limits(float32x16{})[0], 1);
  for (int n = -125; n <= 127; ++n) {
    EXPECT_EQ(kernels::exp2_within_limits(splat<float32x16>(static_cast<float>(n)))[1],
              std::ldexp(1.0F, n));
  }
}

}  // namespace power_test
