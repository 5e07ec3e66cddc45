// SPDX-License-Identifier: MIT
// The fit of the scaling law for precision, on losses that the law made.
#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <limits>
#include <optional>
#include <random>
#include <stdexcept>
#include <vector>

#include "precision_law/law.hpp"

namespace precision_law_test {

using precision_law::Law;
using precision_law::Training;

// Appendix K of the paper.
constexpr Law published{.a = 4.299e3,
                        .alpha = 0.4965,
                        .b = 1.806e4,
                        .beta = 0.4965,
                        .e = 2.7648,
                        .gamma_weights = 2.6745,
                        .gamma_activations = 2.2102};

/// Its trainings: four sizes, four budgets of tokens, bits of weights, of activations and of both.
std::vector<Training> published_runs(double noise) {
  std::mt19937 random(1);
  std::normal_distribution<double> normal;
  std::vector<Training> runs;
  const auto add = [&](double parameters, double tokens, std::optional<int> weights,
                       std::optional<int> activations) {
    Training run{.parameters = parameters,
                 .tokens = tokens,
                 .weight_bits = weights,
                 .activation_bits = activations};
    run.loss = published.loss(run) * std::exp(noise * normal(random));
    runs.push_back(run);
  };
  for (const double parameters : {30e6, 60e6, 110e6, 220e6}) {
    for (const double tokens : {1.5e9, 3.3e9, 6.5e9, 26e9}) {
      add(parameters, tokens, {}, {});
      for (const int bits : {3, 4, 6, 8}) {
        add(parameters, tokens, bits, {});
        add(parameters, tokens, {}, bits);
        add(parameters, tokens, bits, bits);
      }
    }
  }
  return runs;
}

TEST(PrecisionLaw, HasTheLossOfItsFormula) {
  const Training run{.parameters = 1e8, .tokens = 1e9, .weight_bits = 4};
  const double effective = 1e8 * (1 - std::exp(-4 / 2.6745));
  EXPECT_NEAR(published.loss(run),
              4.299e3 / std::pow(effective, 0.4965) + 1.806e4 / std::pow(1e9, 0.4965) + 2.7648,
              1e-12);
}

TEST(PrecisionLaw, IsFoundAgainFromLossesThatItMade) {
  const Law law = precision_law::fit(published_runs(0));
  EXPECT_NEAR(law.alpha, published.alpha, 1e-3);
  EXPECT_NEAR(law.beta, published.beta, 1e-3);
  EXPECT_NEAR(law.e, published.e, 1e-3);
  EXPECT_NEAR(law.gamma_weights, published.gamma_weights, 1e-3);
  EXPECT_NEAR(law.gamma_activations, published.gamma_activations, 1e-3);
}

TEST(PrecisionLaw, IsFoundWithinItsSpreadFromNoisyLosses) {
  const std::vector<Training> runs = published_runs(0.002);
  const auto validation = precision_law::cross_validate(runs, 5);
  ASSERT_EQ(validation.laws.size(), 5U);
  EXPECT_GT(validation.held_out_r_squared, 0.98);
  for (const Law& law : validation.laws) {
    EXPECT_NEAR(law.gamma_weights, published.gamma_weights, 0.25);
    EXPECT_NEAR(law.gamma_activations, published.gamma_activations, 0.25);
  }
}

TEST(PrecisionLaw, HeldOutRunsOfPureNoiseAreNotExplained) {
  std::vector<Training> runs = published_runs(0);
  std::mt19937 random(2);
  std::normal_distribution<double> normal;
  for (Training& run : runs) run.loss = 3 * std::exp(0.05 * normal(random));
  runs.resize(60);
  EXPECT_LT(precision_law::cross_validate(runs, 2).held_out_r_squared, 0.2);
}

TEST(PrecisionLaw, IsNotMovedByAnOutlier) {
  std::vector<Training> runs = published_runs(0);
  runs[20].loss *= 3;
  EXPECT_NEAR(precision_law::fit(runs).gamma_weights, published.gamma_weights, 0.05);
}

TEST(PrecisionLaw, ExplainsAllOfItsOwnLosses) {
  EXPECT_DOUBLE_EQ(precision_law::r_squared(published, published_runs(0)), 1);
}

// N_eff at a fixed product of N and P, by trying.
TEST(PrecisionLaw, NamesTheBitsThatMakeMostOfTheCompute) {
  for (const double gamma : {0.5, 2.0, 4.0}) {
    Law law = published;
    law.gamma_weights = gamma;
    double best = 0;
    double best_bits = 0;
    for (double bits = 0.01; bits < 32; bits += 0.001) {
      const double effective = -std::expm1(-bits / law.gamma_weights) *
                               -std::expm1(-bits / law.gamma_activations) / bits;
      if (effective > best) {
        best = effective;
        best_bits = bits;
      }
    }
    EXPECT_NEAR(precision_law::best_bits(law), best_bits, 2e-3) << gamma;
  }
}

TEST(PrecisionLaw, RefusesTooFewRunsAndLossesThatAreNone) {
  std::vector<Training> runs = published_runs(0);
  EXPECT_THROW((void)precision_law::fit({runs.begin(), runs.begin() + 6}), std::invalid_argument);
  for (const double loss : {0.0, -1.0, std::nan(""), std::numeric_limits<double>::infinity()}) {
    runs[3].loss = loss;
    EXPECT_THROW((void)precision_law::fit(runs), std::invalid_argument) << loss;
  }
}

}  // namespace precision_law_test
