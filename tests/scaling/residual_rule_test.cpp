// SPDX-License-Identifier: MIT
#include "unit_scaling/scaling/residual_rule.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "support/errors.hpp"

namespace residual_rule_test {

using namespace unit_scaling;
using namespace unit_scaling_test;

/// Variance that each branch, and at last the input, contributes to the output of a stack of u-μP
/// residual connections with the rule's τ, all branches being independent and of unit variance.
std::vector<double> contributions(const ResidualRule& rule, std::size_t branches) {
  std::vector<double> of_branch;
  double of_input = 1;
  for (std::size_t i = 0; i < branches; ++i) {
    const double tau = rule(i, branches);
    const double skip = 1 / (1 + tau * tau);
    for (double& earlier : of_branch) earlier *= skip;
    of_input *= skip;
    of_branch.push_back(tau * tau * skip);
  }
  of_branch.push_back(of_input);
  return of_branch;
}

TEST(TransformerResidualScalingRule, BranchesOfAKindContributeAlikeWithTheRatiosAskedFor) {
  for (const double mult : {0.25, 1.0, 3.0}) {
    for (const double ratio : {0.5, 1.0, 2.0}) {
      constexpr std::size_t layers = 6;
      const auto parts = contributions(transformer_residual_scaling_rule(mult, ratio), 2 * layers);
      double attention = 0;
      double mlp = 0;
      for (std::size_t i = 0; i < layers; ++i) {
        EXPECT_NEAR(parts[2 * i], parts[0], 1e-14);
        EXPECT_NEAR(parts[2 * i + 1], parts[1], 1e-14);
        attention += parts[2 * i];
        mlp += parts[2 * i + 1];
      }
      EXPECT_NEAR(std::sqrt(attention / mlp), ratio, 1e-12);
      // The mean of the two kinds over the input.
      EXPECT_NEAR(std::sqrt((attention + mlp) / 2 / parts.back()), mult, 1e-12);
    }
  }
}

TEST(TransformerResidualScalingRule, RefusesWhatHasNoMeaning) {
  expect_domain_error([] { (void)transformer_residual_scaling_rule(0); },
                      {"transformer_residual_scaling_rule", "mult"});
  expect_domain_error(
      [] { (void)transformer_residual_scaling_rule(std::numeric_limits<double>::infinity()); },
      {"mult"});
  expect_domain_error([] { (void)transformer_residual_scaling_rule(1, -1); }, {"ratio"});
  expect_domain_error([] { (void)transformer_residual_scaling_rule()(4, 4); }, {"4 branches", "4"});
}

TEST(RunningMeanResidualRule, GivesTheInputAndEveryBranchEqualWeight) {
  // The paper's weights: branch √τ, skip √(1−τ).
  const ResidualRule rule = running_mean_residual_rule();
  double of_input = 1;
  std::vector<double> of_branch;
  for (std::size_t i = 0; i < 7; ++i) {
    const double tau = rule(i, 7);
    for (double& earlier : of_branch) earlier *= 1 - tau;
    of_input *= 1 - tau;
    of_branch.push_back(tau);
  }
  for (const double part : of_branch) EXPECT_NEAR(part, 1.0 / 8, 1e-15);
  EXPECT_NEAR(of_input, 1.0 / 8, 1e-15);
}

TEST(FixedResidualRule, IsTheSameEverywhere) {
  EXPECT_EQ(fixed_residual_rule(0.3)(0, 4), 0.3);
  EXPECT_EQ(fixed_residual_rule(0.3)(3, 4), 0.3);
}

}  // namespace residual_rule_test
