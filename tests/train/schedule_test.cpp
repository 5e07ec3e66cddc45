// SPDX-License-Identifier: MIT
/// @file
/// Layer: tests. The learning-rate schedule against values worked out by hand.

#include "unit_scaling/train/schedule.hpp"

#include <gtest/gtest.h>

#include <cstddef>
#include <functional>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

namespace unit_scaling_test {
namespace schedule_test {

using unit_scaling::train::Schedule;
using Decay = unit_scaling::train::Schedule::Decay;

void expect_factors(const Schedule& schedule, const std::vector<double>& expected) {
  for (std::size_t step = 0; step < expected.size(); ++step) {
    EXPECT_NEAR(schedule(step), expected[step], 1e-15) << "at step " << step;
  }
}

TEST(Schedule, RisesFromOneOverTheWarmUpToOne) {
  expect_factors({.warmup_steps = 4, .total_steps = 8, .decay = Decay::constant},
                 {0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 1, 1});
}

TEST(Schedule, DecaysLinearlyToZero) {
  expect_factors({.warmup_steps = 2, .total_steps = 6, .decay = Decay::linear},
                 {0.5, 1, 1, 0.75, 0.5, 0.25, 0, 0, 0});
}

TEST(Schedule, DecaysLinearlyToAFinalFactor) {
  expect_factors({.warmup_steps = 0, .total_steps = 4, .decay = Decay::linear, .final_factor = 0.2},
                 {1, 0.8, 0.6, 0.4, 0.2, 0.2});
}

TEST(Schedule, DecaysAlongACosine) {
  // Thirds of half a period: cos 0°, 60°, 120°, 180° are 1, 1/2, −1/2, −1.
  expect_factors({.warmup_steps = 1, .total_steps = 4, .decay = Decay::cosine},
                 {1, 1, 0.75, 0.25, 0, 0});
  expect_factors({.warmup_steps = 1, .total_steps = 4, .decay = Decay::cosine, .final_factor = 0.1},
                 {1, 1, 0.775, 0.325, 0.1, 0.1});
}

TEST(Schedule, ReachesItsEndsExactly) {
  for (const Decay decay : {Decay::linear, Decay::cosine}) {
    const Schedule schedule{7, 1000, decay, 0.1};
    EXPECT_EQ(schedule(0), 1.0 / 7.0);
    EXPECT_EQ(schedule(6), 1.0);
    EXPECT_EQ(schedule(7), 1.0);
    EXPECT_GT(schedule(999), 0.1);
    EXPECT_EQ(schedule(1000), 0.1);
    EXPECT_EQ(schedule(std::numeric_limits<std::size_t>::max()), 0.1);
  }
}

TEST(Schedule, HoldsForRunsWithoutAPart) {
  expect_factors({}, {1, 1});  // of unknown length, without a decay
  expect_factors({.warmup_steps = 0, .total_steps = 1, .decay = Decay::cosine}, {1, 0});
  expect_factors({.warmup_steps = 2, .total_steps = 2, .decay = Decay::linear}, {0.5, 1, 0});
}

// Where somebody forgot to set it, the rate would be 0 in every step.
TEST(Schedule, RefusesADecayOverNoSteps) {
  for (const Decay decay : {Decay::linear, Decay::cosine}) {
    for (const double final_factor : {0.0, 0.5, 1.0}) {
      const Schedule schedule{.decay = decay, .final_factor = final_factor};
      for (const auto& use : {std::function<void()>([&] { schedule.check(); }),
                              std::function<void()>([&] { static_cast<void>(schedule(7)); })}) {
        try {
          use();
          ADD_FAILURE() << to_string(decay);
        } catch (const std::invalid_argument& error) {
          EXPECT_STREQ(error.what(),
                       "Schedule: total_steps is 0, expected the number of steps over which the "
                       "rate is to decay");
        }
      }
    }
  }
}

TEST(Schedule, RefusesAWarmUpLongerThanTheRun) {
  const Schedule schedule{.warmup_steps = 5, .total_steps = 4};
  try {
    static_cast<void>(schedule(0));
    FAIL();
  } catch (const std::invalid_argument& error) {
    EXPECT_STREQ(error.what(),
                 "Schedule: warmup_steps is 5, expected at most total_steps, which is 4");
  }
}

TEST(Schedule, RefusesAFinalFactorThatIsNoFactor) {
  for (const double factor :
       {-0.1, std::numeric_limits<double>::infinity(), std::numeric_limits<double>::quiet_NaN()}) {
    const Schedule schedule{0, 4, Decay::linear, factor};
    EXPECT_THROW(schedule.check(), std::invalid_argument) << factor;
    EXPECT_THROW(static_cast<void>(schedule(0)), std::invalid_argument) << factor;
  }
}

TEST(Schedule, NamesItsDecays) {
  for (const Decay decay : {Decay::constant, Decay::linear, Decay::cosine}) {
    EXPECT_EQ(Schedule::decay_by_name(to_string(decay)), decay);
  }
  try {
    static_cast<void>(Schedule::decay_by_name("Cosine"));
    FAIL();
  } catch (const std::invalid_argument& error) {
    EXPECT_STREQ(error.what(),
                 "Schedule: unknown decay 'Cosine', expected constant, linear or cosine");
  }
}

}  // namespace schedule_test
}  // namespace unit_scaling_test
