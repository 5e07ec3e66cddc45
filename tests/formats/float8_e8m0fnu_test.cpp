// SPDX-License-Identifier: MIT
// The format of scales: powers of two without sign and zero. Its 255 numbers are 2^-127 to 2^127.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "format_oracle.hpp"
#include "unit_scaling/formats/encode.hpp"

namespace float8_e8m0fnu_test {

using namespace unit_scaling;
using unit_scaling_test::FlushSubnormals;
using unit_scaling_test::nan_bits;

float8_e8m0fnu from_code(int code) {
  return float8_e8m0fnu::from_bits(static_cast<std::uint8_t>(code));
}

TEST(E8m0, CodesAreThePowersOfTwoAndOneNan) {
  for (int code = 0; code < 255; ++code) {
    EXPECT_EQ(static_cast<double>(from_code(code)), std::ldexp(1.0, code - 127));
    EXPECT_EQ(static_cast<float>(from_code(code)), std::ldexp(1.0F, code - 127));
    EXPECT_EQ(float8_e8m0fnu(std::ldexp(1.0, code - 127)).bits(), code);
    EXPECT_TRUE(isfinite(from_code(code)));
    EXPECT_FALSE(signbit(from_code(code)));
  }
  EXPECT_TRUE(isnan(from_code(255)));
  EXPECT_TRUE(std::isnan(static_cast<float>(from_code(255))));
}

TEST(E8m0, RoundsToOneOfTheTwoPowersAround) {
  for (int code = 1; code < 254; ++code) {
    const float power = std::ldexp(1.0F, code - 127);
    const float middle = 1.5F * power;
    const float below_middle = std::nextafter(middle, 0.0F);
    const float above = std::nextafter(power, HUGE_VALF);
    const auto round = [](float value, Rounding rounding) {
      return int{float8_e8m0fnu::from_float(value, Overflow::infinity_or_nan, rounding).bits()};
    };
    for (const Rounding rounding : {Rounding::nearest_even, Rounding::nearest_away}) {
      EXPECT_EQ(round(above, rounding), code);
      EXPECT_EQ(round(below_middle, rounding), code);
      EXPECT_EQ(round(middle, rounding), code + 1);
    }
    for (const float value : {above, below_middle, middle}) {
      EXPECT_EQ(round(value, Rounding::toward_zero), code);
      EXPECT_EQ(round(value, Rounding::toward_negative), code);
      EXPECT_EQ(round(value, Rounding::toward_positive), code + 1);
    }
  }
}

TEST(E8m0, WhatHasNoPowerBecomesNanOrTheNearestEnd) {
  const float infinity = std::numeric_limits<float>::infinity();
  for (const Overflow overflow : {Overflow::saturate, Overflow::infinity_or_nan}) {
    const auto code = [&](float value) {
      return int{float8_e8m0fnu::from_float(value, overflow).bits()};
    };
    for (const float value : {0.0F, -0.0F, -1.0F, -infinity, -0x1p-149F})
      EXPECT_EQ(code(value), 255);
    for (const std::uint32_t bits : nan_bits()) EXPECT_EQ(code(std::bit_cast<float>(bits)), 255);
    const int beyond = overflow == Overflow::saturate ? 254 : 255;
    EXPECT_EQ(code(0x1.8p127F), beyond);
    EXPECT_EQ(code(std::nextafter(0x1.8p127F, 0.0F)), 254);
    EXPECT_EQ(code(infinity), beyond);
    EXPECT_EQ(code(0x1p-149F), 0);
    EXPECT_EQ(code(0x1p-127F), 0);
    // ml_dtypes: what lies between 2^-127 and 2^-126 goes up.
    EXPECT_EQ(code(std::nextafter(0x1p-127F, 1.0F)), 1);
    EXPECT_EQ(code(0x1p-126F), 1);
  }
  EXPECT_EQ(float8_e8m0fnu::from_float(0x1.8p127F, Overflow::infinity_or_nan, Rounding::toward_zero)
                .bits(),
            254);
}

TEST(E8m0, IsTheSameInBulkAndWhereSubnormalNumbersAreFlushed) {
  std::vector<float> numbers;
  for (std::uint32_t bits = 0; bits < 0x7f80'0000U; bits += 65521U) {
    numbers.push_back(std::bit_cast<float>(bits));
  }
  for (const Rounding rounding :
       {Rounding::nearest_even, Rounding::toward_zero, Rounding::toward_positive}) {
    std::vector<float8_e8m0fnu> bulk(numbers.size());
    const FlushSubnormals flush;
    const EncodeStatistics statistics =
        encode_with_statistics(std::span<const float>(numbers), std::span(bulk),
                               {.overflow = Overflow::saturate, .rounding = rounding});
    std::uint64_t beyond = 0;
    for (std::size_t i = 0; i < numbers.size(); ++i) {
      ASSERT_EQ(bulk[i].bits(),
                float8_e8m0fnu::from_float(numbers[i], Overflow::saturate, rounding).bits());
      const double limit = rounding == Rounding::toward_positive ? 0x1.000002p127 : 0x1.8p127;
      beyond += static_cast<double>(numbers[i]) >= limit ? 1U : 0U;
    }
    EXPECT_EQ(statistics.overflowed, rounding == Rounding::toward_zero ? 0U : beyond);
    EXPECT_EQ(statistics.underflowed, 0U);
  }
}

TEST(E8m0, ComputesWithItsSmallestNumberWhereSubnormalNumbersAreFlushed) {
  const FlushSubnormals flush;
  EXPECT_EQ((from_code(0) + from_code(0)).bits(), 1);
  EXPECT_EQ((from_code(0) * from_code(127)).bits(), 0);
  EXPECT_EQ(float8_e8m0fnu(1e-4000L).bits(), 0);
}

TEST(E8m0, NegativeNumbersCountAsBeyondTheRange) {
  const std::vector<float> numbers{-1, 0, 2, std::numeric_limits<float>::quiet_NaN(), -0.0F};
  std::vector<float8_e8m0fnu> codes(numbers.size());
  const EncodeStatistics statistics =
      encode_with_statistics(std::span<const float>(numbers), std::span(codes));
  EXPECT_EQ(statistics.overflowed, 1U);
  EXPECT_EQ(statistics.non_finite, 1U);
  EXPECT_EQ(statistics.underflowed, 0U);
  EXPECT_EQ(statistics.max_magnitude, 2);
}

TEST(E8m0, LimitsAreThoseOfAnUnsignedFormat) {
  using Limits = std::numeric_limits<float8_e8m0fnu>;
  EXPECT_FALSE(Limits::is_signed);
  EXPECT_EQ(static_cast<double>(Limits::min()), 0x1p-127);
  EXPECT_EQ(Limits::lowest().bits(), Limits::min().bits());
  EXPECT_EQ(Limits::denorm_min().bits(), Limits::min().bits());
  EXPECT_EQ(static_cast<double>(Limits::max()), 0x1p127);
  EXPECT_EQ(Limits::digits, 1);
  EXPECT_TRUE(isnan(-from_code(127)));
  EXPECT_TRUE(isnan(Limits::quiet_NaN()));
  EXPECT_LT(from_code(3), from_code(4));
}

}  // namespace float8_e8m0fnu_test
