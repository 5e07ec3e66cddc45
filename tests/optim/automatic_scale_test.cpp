// SPDX-License-Identifier: MIT
#include "unit_scaling/optim/automatic_scale.hpp"

#include <gtest/gtest.h>

#include <string>

#include "support/errors.hpp"

namespace automatic_scale_test {

using namespace unit_scaling_test;
using unit_scaling::optim::AutomaticScale;

TEST(AutomaticScale, HalvesAboveTheShareAndDoublesInAThousandStepsBelowIt) {
  AutomaticScale scale;
  EXPECT_EQ(scale.factor(), 1);
  scale.end_step(11, 1'000'000);  // 0.0011 %
  EXPECT_EQ(scale.factor(), 0.5);
  for (int step = 0; step < 1000; ++step) scale.end_step(10, 1'000'000);  // 0.001 %
  EXPECT_NEAR(scale.factor(), 1, 1e-12);
  for (int step = 0; step < 500; ++step) scale.end_step(0, 7);
  EXPECT_NEAR(scale.factor(), std::sqrt(2.0), 1e-12);
  scale.end_step(7, 7);
  EXPECT_NEAR(scale.factor(), std::sqrt(0.5), 1e-12);
}

TEST(AutomaticScale, AStepWithoutNumbersChangesNothing) {
  AutomaticScale scale;
  scale.end_step(0, 0);
  EXPECT_EQ(scale.factor(), 1);
}

TEST(AutomaticScale, StaysWithinItsBounds) {
  AutomaticScale scale({.doubling_steps = 0.25, .least = 0.3, .largest = 5});
  for (int step = 0; step < 9; ++step) scale.end_step(0, 1);
  EXPECT_EQ(scale.factor(), 5);
  for (int step = 0; step < 9; ++step) scale.end_step(1, 1);
  EXPECT_EQ(scale.factor(), 0.3);
}

TEST(AutomaticScale, ShowsItsFactorAndRefusesAnotherOutOfBounds) {
  AutomaticScale scale({.largest = 8});
  const auto set = [&](double factor) {
    scale.for_each_state([&](const std::string& name, double& state) {
      EXPECT_EQ(name, "factor");
      state = factor;
    });
  };
  set(4);
  EXPECT_EQ(scale.factor(), 4);
  expect_domain_error([&] { set(16); }, {"AutomaticScale", "16"});
  EXPECT_EQ(scale.factor(), 4);
}

TEST(AutomaticScale, RefusesOptionsWithoutMeaning) {
  const auto refuses = [](const AutomaticScale::Options& options, const char* what) {
    expect_domain_error([&] { const AutomaticScale scale(options); }, {"AutomaticScale", what});
  };
  refuses({.initial = 0}, "initial");
  refuses({.threshold = 1}, "threshold");
  refuses({.doubling_steps = 0}, "doubling_steps");
  refuses({.initial = 1, .least = 2}, "from the least to the largest");
}

}  // namespace automatic_scale_test
