// SPDX-License-Identifier: MIT
#include "unit_scaling/scaling/constraint.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <numbers>
#include <stdexcept>
#include <string_view>
#include <vector>

#include "support/errors.hpp"
#include "unit_scaling/scaling/moments.hpp"
#include "unit_scaling/scaling/rule.hpp"

namespace constraint_test {

using namespace unit_scaling;
using unit_scaling_test::expect_error;

// Means are a handful of operations in double, each within a unit of 2^-53; logarithms here are
// below 3, so an exponential of them is within 3 · 5 units more.
constexpr double tolerance = 20 * 0x1p-53;

double combine(const Constraint& constraint, double forward, const std::vector<double>& backward) {
  return constraint.combine(forward, backward);
}

TEST(Constraint, MeansAreThoseComputedByHand) {
  EXPECT_NEAR(combine(constraint::gmean, 2, {8}), 4, 4 * tolerance);
  EXPECT_NEAR(combine(constraint::gmean, 2, {8, 4}), 4, 4 * tolerance);
  EXPECT_NEAR(combine(constraint::gmean, 0.25, {2, 16}), 2, 2 * tolerance);
  EXPECT_NEAR(combine(constraint::hmean, 1, {3}), 1.5, 1.5 * tolerance);
  EXPECT_NEAR(combine(constraint::hmean, 2, {4, 4}), 3, 3 * tolerance);
  EXPECT_NEAR(combine(constraint::amean, 1, {3}), 2, 2 * tolerance);
  EXPECT_NEAR(combine(constraint::amean, 1, {2, 6}), 3, 3 * tolerance);
}

TEST(Constraint, SelectorsPickTheirFactor) {
  EXPECT_EQ(combine(constraint::to_output_scale, 2, {3}), 2);
  EXPECT_EQ(combine(constraint::to_output_scale, 2, {3, 5}), 2);
  EXPECT_EQ(combine(constraint::to_grad_input_scale, 2, {3}), 3);
  EXPECT_EQ(combine(constraint::to_left_grad_scale, 2, {3, 5}), 3);
  EXPECT_EQ(combine(constraint::to_right_grad_scale, 2, {3, 5}), 5);
}

TEST(Constraint, SelectorsRejectAnotherNumberOfInputs) {
  for (const Constraint& pair : {constraint::to_left_grad_scale, constraint::to_right_grad_scale}) {
    expect_error<std::invalid_argument>([&] { (void)combine(pair, 2, {3}); }, {pair.name, "got 1"});
    EXPECT_THROW((void)constrain<1>(pair, Scales<2>{}), std::invalid_argument);
  }
  expect_error<std::invalid_argument>(
      [] {
        (void)combine(constraint::to_grad_input_scale, 2, {3, 5});
      },
      {"to_grad_input_scale", "got 2"});
}

// The product of these factors is beyond the range of double. Logarithms up to 691 are rounded to
// 2^-53 of that, a sum of three and the exponential to as much again.
TEST(Constraint, GeometricMeanDoesNotOverflow) {
  EXPECT_NEAR(combine(constraint::gmean, 1e300, {1e300, 1e300}) / 1e300, 1, 4 * 691 * 0x1p-52);
  EXPECT_NEAR(combine(constraint::gmean, 1e-300, {1e-300, 1e-300}) / 1e-300, 1, 4 * 691 * 0x1p-52);
}

TEST(Constraint, EveryMeanOfEqualFactorsIsThatFactor) {
  for (const Constraint& mean : {constraint::gmean, constraint::hmean, constraint::amean}) {
    EXPECT_NEAR(combine(mean, 0.7, {0.7, 0.7}), 0.7, 0.7 * tolerance) << mean.name;
  }
}

TEST(Constraint, MeansAreOrdered) {
  const double harmonic = combine(constraint::hmean, 0.5, {3, 2});
  const double geometric = combine(constraint::gmean, 0.5, {3, 2});
  const double arithmetic = combine(constraint::amean, 0.5, {3, 2});
  EXPECT_LT(harmonic, geometric);
  EXPECT_LT(geometric, arithmetic);
}

constexpr std::array<std::string_view, 8> names{"none",
                                                "gmean",
                                                "hmean",
                                                "amean",
                                                "to_output_scale",
                                                "to_grad_input_scale",
                                                "to_left_grad_scale",
                                                "to_right_grad_scale"};

TEST(Constraint, IsFoundByItsName) {
  ASSERT_EQ(constraint::all.size(), names.size());
  for (const std::string_view name : names) EXPECT_EQ(constraint::by_name(name).name, name);
  EXPECT_EQ(constraint::by_name("none"), constraint::none);
  EXPECT_EQ(constraint::by_name("gmean"), constraint::gmean);
  EXPECT_EQ(constraint::by_name("to_right_grad_scale"), constraint::to_right_grad_scale);
}

TEST(Constraint, AnUnknownNameIsAnErrorThatListsTheNames) {
  for (const std::string_view name : names) {
    expect_error<std::invalid_argument>([] { (void)constraint::by_name("median"); },
                                        {"'median'", name});
  }
  EXPECT_THROW((void)constraint::by_name(""), std::invalid_argument);
}

TEST(Constrain, SharesOneValueAmongAllConstrainedFactors) {
  const Scales<2> s = constrain<2>(constraint::amean, Scales<2>{.forward = 1, .backward = {2, 6}});
  EXPECT_NEAR(s.forward, 3, 3 * tolerance);
  EXPECT_EQ(s.backward[0], s.forward);
  EXPECT_EQ(s.backward[1], s.forward);
}

TEST(Constrain, LeavesTheOtherFactors) {
  const Scales<3> s =
      constrain<1>(constraint::gmean, Scales<3>{.forward = 2, .backward = {8, 5, 7}});
  EXPECT_NEAR(s.forward, 4, 4 * tolerance);
  EXPECT_EQ(s.backward[0], s.forward);
  EXPECT_EQ(s.backward[1], 5);
  EXPECT_EQ(s.backward[2], 7);
}

TEST(Constrain, NoneLeavesEveryFactor) {
  const Scales<2> s{.forward = 2, .backward = {3, 5}};
  EXPECT_EQ(constrain<2>(constraint::none, s), s);
}

TEST(Constrain, TakesAConstraintOfTheUsersOwn) {
  constexpr Constraint largest{"largest", [](double forward, std::span<const double> backward) {
                                 for (const double factor : backward) {
                                   forward = std::max(forward, factor);
                                 }
                                 return forward;
                               }};
  EXPECT_EQ(constrain<2>(largest, Scales<2>{.forward = 2, .backward = {3, 1}}),
            (Scales<2>{.forward = 3, .backward = {3, 3}}));
}

TEST(Scales, AreOneByDefault) {
  const Scales<3> s;
  EXPECT_EQ(s.forward, 1);
  for (const double factor : s.backward) EXPECT_EQ(factor, 1);
}

TEST(Scaling, EffectiveConstraintIsTheRulesOwnByDefault) {
  EXPECT_EQ(Scaling{}.effective_constraint(), constraint::gmean);
  EXPECT_EQ(scaling::paper.effective_constraint(), constraint::gmean);
  EXPECT_EQ(scaling::umup.effective_constraint(), constraint::to_output_scale);
  EXPECT_EQ(scaling::none.effective_constraint(), constraint::none);
}

TEST(Scaling, EffectiveConstraintIsTheGivenOne) {
  EXPECT_EQ(scaling::paper.with(constraint::hmean).effective_constraint(), constraint::hmean);
  EXPECT_EQ(scaling::umup.with(constraint::gmean).effective_constraint(), constraint::gmean);
  EXPECT_EQ(scaling::umup.on_cut_edge().effective_constraint(), constraint::none);
  EXPECT_EQ(scaling::umup.with(constraint::gmean).rule, Rule::umup);
  // Without scale factors there is nothing to constrain.
  EXPECT_EQ(scaling::none.with(constraint::gmean).effective_constraint(), constraint::none);
}

TEST(Scaling, RulesHaveNames) {
  EXPECT_EQ(to_string(Rule::none), "none");
  EXPECT_EQ(to_string(Rule::paper), "paper");
  EXPECT_EQ(to_string(Rule::umup), "umup");
}

// Riemann sums of smooth functions that vanish at both ends converge faster than any power of the
// step, so these are the integrals to the rounding of 1537 additions.
TEST(Moments, AreThoseOfAQuadrature) {
  constexpr double step = 1.0 / 64;
  double first = 0;
  double second = 0;
  double slope = 0;
  for (int i = -64 * 12; i <= 64 * 12; ++i) {
    const double x = i * step;
    const double cdf = std::erfc(-x / std::numbers::sqrt2) / 2;
    const double pdf = std::exp(-x * x / 2) / std::sqrt(2 * std::numbers::pi);
    first += step * pdf * x * cdf;
    second += step * pdf * (x * cdf) * (x * cdf);
    slope += step * pdf * (cdf + x * pdf) * (cdf + x * pdf);
  }
  EXPECT_NEAR(moments::gelu_variance, second - first * first, 1e-13);
  EXPECT_NEAR(moments::gelu_mean_square_slope, slope, 1e-13);
  // The factors of the paper, to half a unit of their last digit.
  EXPECT_NEAR(1 / std::sqrt(moments::gelu_variance), 1.7009, 5e-5);
  EXPECT_NEAR(1 / std::sqrt(moments::gelu_mean_square_slope), 1.4811, 5e-5);
}

TEST(Moments, LogInterpolationIsAWeightedGeometricMean) {
  EXPECT_NEAR(moments::log_interpolate(1, 3, 5), 3, 3 * tolerance);
  EXPECT_NEAR(moments::log_interpolate(0, 3, 5), 5, 5 * tolerance);
  EXPECT_NEAR(moments::log_interpolate(0.5, 2, 8), 4, 4 * tolerance);
  EXPECT_NEAR(moments::log_interpolate(0.75, 16, 1), 8, 8 * tolerance);
}

}  // namespace constraint_test
