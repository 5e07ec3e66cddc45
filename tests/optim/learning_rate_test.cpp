// SPDX-License-Identifier: MIT
#include "unit_scaling/optim/learning_rate.hpp"

#include <gtest/gtest.h>

#include <cmath>

#include "optim/optimiser_support.hpp"
#include "support/errors.hpp"

namespace learning_rate_test {

using namespace unit_scaling;
using namespace unit_scaling_test;
using optim::learning_rate_factor;
using optim::sgd_learning_rate_factor;

Parameter in_stack(ParameterKind kind, const Shape& shape, std::size_t depth) {
  Parameter parameter = test_parameter(kind, shape);
  parameter.depth = depth;
  return parameter;
}

TEST(UmupLearningRate, FallsWithTheRootOfTheFanInForHiddenWeightsOnly) {
  const auto factor = [](ParameterKind kind, const Shape& shape) {
    return learning_rate_factor(Rule::umup, test_parameter(kind, shape));
  };
  EXPECT_EQ(factor(ParameterKind::weight, {5, 16}), 0.25);
  EXPECT_EQ(factor(ParameterKind::weight, {5, 8, 8}), 0.125);  // channels times kernel_size
  EXPECT_EQ(factor(ParameterKind::weight, {64}), 0.125);
  for (const auto kind : {ParameterKind::bias, ParameterKind::norm, ParameterKind::output}) {
    EXPECT_EQ(factor(kind, {64}), 1);
  }
  EXPECT_EQ(factor(ParameterKind::output, {5, 16}), 1);
}

TEST(UmupLearningRate, FallsWithTheRootOfTheDepthInsideAStack) {
  EXPECT_EQ(learning_rate_factor(Rule::umup, in_stack(ParameterKind::weight, {5, 16}, 4)), 0.125);
  EXPECT_EQ(learning_rate_factor(Rule::umup, in_stack(ParameterKind::norm, {16}, 4)), 0.5);
  EXPECT_EQ(learning_rate_factor(Rule::paper, in_stack(ParameterKind::weight, {5, 16}, 4)), 1);
}

TEST(UmupLearningRate, OfSgdDependsOnTheConstraintOfTheReadOut) {
  const auto factor = [](ParameterKind kind, const Shape& shape, bool constrained) {
    return sgd_learning_rate_factor(Rule::umup, in_stack(kind, shape, 4), constrained);
  };
  EXPECT_EQ(factor(ParameterKind::weight, {5, 16}, false), 0.125);
  EXPECT_EQ(factor(ParameterKind::weight, {5, 16}, true), 2);  // √16 / √4
  EXPECT_EQ(factor(ParameterKind::bias, {6}, true), 3);
  EXPECT_EQ(factor(ParameterKind::norm, {6}, true), 3);
  EXPECT_EQ(factor(ParameterKind::output, {5, 16}, true), 0.5);
  EXPECT_EQ(sgd_learning_rate_factor(Rule::paper, test_parameter(ParameterKind::norm, {16}), true),
            0.25);
}

TEST(UmupLearningRate, RefusesWhatHasNoFanInOrNoKind) {
  const Parameter large = test_parameter(ParameterKind::weight, {2, 2, 2, 2});
  expect_domain_error([&] { (void)learning_rate_factor(Rule::umup, large); },
                      {"learning_rate_factor", "p of (2, 2, 2, 2)"});
  const Parameter untagged = test_parameter(ParameterKind::untagged, {2});
  expect_domain_error([&] { (void)learning_rate_factor(Rule::umup, untagged); }, {"kind", "p"});
  expect_domain_error([&] { (void)sgd_learning_rate_factor(Rule::umup, untagged, true); },
                      {"kind", "p"});
  EXPECT_EQ(learning_rate_factor(Rule::none, untagged), 1);
}

}  // namespace learning_rate_test
