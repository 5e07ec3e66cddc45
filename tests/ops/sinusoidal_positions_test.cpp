// SPDX-License-Identifier: MIT
#include "unit_scaling/ops/sinusoidal_positions.hpp"

#include <gtest/gtest.h>

#include <cmath>

#include "support/errors.hpp"
#include "support/statistics.hpp"
#include "unit_scaling/formats/catalogue.hpp"

namespace sinusoidal_positions_test {

using namespace unit_scaling;
using namespace unit_scaling_test;

TEST(SinusoidalPositions, EveryPairIsAPointOnACircleThatTurnsAtItsOwnRate) {
  const auto table = ops::sinusoidal_positions<double>(50, 6, 100);
  const double rates[] = {1, std::pow(100, -1.0 / 3), std::pow(100, -2.0 / 3)};
  for (std::size_t p = 0; p < 50; ++p) {
    for (std::size_t i = 0; i < 3; ++i) {
      const double angle = rates[i] * static_cast<double>(p);
      EXPECT_NEAR(table.row(p)[i], std::sqrt(2) * std::sin(angle), 1e-13);
      EXPECT_NEAR(table.row(p)[3 + i], std::sqrt(2) * std::cos(angle), 1e-13);
    }
  }
}

TEST(SinusoidalPositions, MayBeginBelowZero) {
  const auto table = ops::sinusoidal_positions<double>(5, 4, 100, -2);
  const auto later = ops::sinusoidal_positions<double>(3, 4, 100);
  for (std::size_t p = 0; p < 3; ++p) {
    for (std::size_t i = 0; i < 4; ++i) {
      EXPECT_EQ(table.row(2 + p)[i], later.row(p)[i]);
      // A sine is odd, a cosine even.
      EXPECT_EQ(table.row(2 - p)[i], i < 2 ? -later.row(p)[i] : later.row(p)[i]);
    }
  }
}

TEST(SinusoidalPositions, HaveUnitScaleInAnyFormat) {
  EXPECT_NEAR(rms(ops::sinusoidal_positions<double>(17, 64)), 1, 1e-14);
  // Roundings of up to 1/16 each; √2 itself, at the angles near zero, becomes 1.375.
  EXPECT_NEAR(rms(ops::sinusoidal_positions<float8_e4m3fn>(17, 64)), 1, 0.03);
}

TEST(SinusoidalPositions, RefuseOddSizesAndImpossiblePeriods) {
  expect_shape_error([] { (void)ops::sinusoidal_positions<float>(3, 5); },
                     {"sinusoidal_positions", "(3, 5)", "even"});
  expect_domain_error([] { (void)ops::sinusoidal_positions<float>(3, 4, 0.5); },
                      {"sinusoidal_positions", "max_period"});
  EXPECT_EQ(ops::sinusoidal_positions<float>(0, 4).shape(), (Shape{0, 4}));
  EXPECT_EQ(ops::sinusoidal_positions<float>(3, 0).shape(), (Shape{3, 0}));
}

}  // namespace sinusoidal_positions_test
