// SPDX-License-Identifier: MIT
#include "unit_scaling/ops/estimate_scales.hpp"

#include <gtest/gtest.h>

#include <cmath>

#include "support/errors.hpp"
#include "support/random_arrays.hpp"
#include "unit_scaling/ops/elementwise.hpp"
#include "unit_scaling/ops/embedding.hpp"
#include "unit_scaling/ops/gelu.hpp"
#include "unit_scaling/ops/linear.hpp"
#include "unit_scaling/ops/mul.hpp"
#include "unit_scaling/ops/sum.hpp"

namespace estimate_scales_test {

using namespace unit_scaling;
using namespace unit_scaling_test;

/// Expects an estimate within five of its standard errors, and that these are small.
template <std::size_t N>
void expect_estimate(const ops::ScaleEstimate<N>& estimate, const Scales<N>& expected) {
  const auto expect_factor = [](double got, double error, double want) {
    EXPECT_LT(error, 0.03);
    EXPECT_NEAR(got, want, 5 * error * want);
  };
  expect_factor(estimate.scales.forward, estimate.relative_error.forward, expected.forward);
  for (std::size_t i = 0; i < N; ++i) {
    expect_factor(estimate.scales.backward[i], estimate.relative_error.backward[i],
                  expected.backward[i]);
  }
}

TEST(EstimateScales, FindsThePapersFactorsOfGelu) {
  // Table A.2 of the paper, to its last digit.
  const auto estimate = ops::estimate_scales(ops::Gelu{.scaling = scaling::none}, Shape{64, 1024});
  expect_estimate(estimate, Scales<1>{.forward = 1.701, .backward = {1.481}});
}

TEST(EstimateScales, FindsTheFactorsOfALinearLayerFromItsSizes) {
  const auto estimate = ops::estimate_scales(ops::Linear{}, {.repetitions = 16}, Shape{128, 49},
                                             Shape{100, 49}, Shape{100});
  // The bias adds one to the variance of 49 products.
  expect_estimate(estimate,
                  Scales<3>{.forward = 1 / std::sqrt(50.0),
                            .backward = {0.1, 1 / std::sqrt(128.0), 1 / std::sqrt(128.0)}});
}

TEST(EstimateScales, TakesIdsAsTheyAre) {
  const auto estimate = ops::estimate_scales(ops::Embedding{}, {.repetitions = 16},
                                             id_array({1000}, 10, 1), Shape{10, 64});
  EXPECT_NEAR(estimate.scales.forward, 1, 0.1);
  EXPECT_NEAR(estimate.scales.backward[0], 0.1, 0.01);
}

TEST(EstimateScales, OfYourOwnFunctionAgreesWithItsIntegral) {
  // x²: variance E[x⁴] − E[x²]² = 2, mean square slope 4 E[x²] = 4.
  const ops::Elementwise square([](auto x) { return x * x; }, [](auto x) { return 2 * x; });
  expect_estimate(ops::estimate_scales(square, Shape{1 << 16}),
                  Scales<1>{.forward = std::sqrt(0.5), .backward = {0.5}});
}

TEST(EstimateScales, IsAFunctionOfItsSeed) {
  const auto estimate = [](std::uint64_t seed) {
    return ops::estimate_scales(ops::Gelu{}, {.seed = seed, .repetitions = 2}, Shape{100}).scales;
  };
  EXPECT_EQ(estimate(1), estimate(1));
  EXPECT_NE(estimate(1), estimate(2));
}

TEST(EstimateScales, SaysSoWhenNoFactorHelps) {
  const ops::Elementwise constant([](auto x) { return x - x; }, [](auto x) { return x; });
  expect_domain_error([&] { (void)ops::estimate_scales(constant, Shape{100}); },
                      {"estimate_scales", "constant"});
  expect_domain_error([] { (void)ops::estimate_scales(ops::Gelu{}, Shape{0}); },
                      {"estimate_scales", "empty"});
  expect_domain_error([] { (void)ops::estimate_scales(ops::Gelu{}, {.repetitions = 1}, Shape{9}); },
                      {"estimate_scales", "two repetitions"});
}

TEST(EstimateScales, MeasuresAnOutputOfOneNumberAmongTheRepetitions) {
  const auto estimate =
      ops::estimate_scales(ops::Sum{.scaling = scaling::none}, {.repetitions = 400}, Shape{100});
  EXPECT_NEAR(estimate.scales.forward, 0.1, 5 * 0.1 * estimate.relative_error.forward);
  EXPECT_LT(estimate.relative_error.forward, 0.06);
}

// Of n numbers and R repetitions the least certain estimate is that of the output of x², whose
// squared distances from the mean, 2 on average, have a variance of 56: it is off by √(56/(n R)) /
// 4, 0.019 of it if n = 1. Five times that is less than the 1/(2n) by which an estimate is off that
// takes the mean of each repetition for the true one, as long as R > 350 n.
TEST(EstimateScales, OfAnOutputOfFewNumbersAreThoseOfAnOutputOfMany) {
  const ops::EstimateOptions options{.repetitions = 10'000};
  const ops::Elementwise square([](auto x) { return x * x; }, [](auto x) { return 2 * x; });
  for (const std::size_t size : {1UL, 2UL, 3UL, 4UL, 7UL, 10UL}) {
    SCOPED_TRACE(size);
    expect_estimate(
        ops::estimate_scales(ops::Mul{.scaling = scaling::none}, options, Shape{size}, Shape{size}),
        Scales<2>{.forward = 1, .backward = {1, 1}});
    expect_estimate(
        ops::estimate_scales(ops::Linear{.scaling = scaling::none}, options, Shape{1, 16},
                             Shape{size, 16}),
        Scales<2>{.forward = 0.25, .backward = {1 / std::sqrt(static_cast<double>(size)), 1}});
    expect_estimate(
        ops::estimate_scales(ops::Sum{.scaling = scaling::none}, options, Shape{size, 9}),
        Scales<1>{.forward = 1 / 3.0, .backward = {1}});
    // Whose outputs are not about zero.
    expect_estimate(ops::estimate_scales(square, options, Shape{size}),
                    Scales<1>{.forward = std::sqrt(0.5), .backward = {0.5}});
  }
}

TEST(EstimateScales, OfNumbersThatMoveTogetherAreThoseOfOneOfThem) {
  const Array<double> ones = Array<double>::filled({5, 1}, 1);
  // y_i = x for all five i, so its variance is that of x; dx = Σ dy has five times that of dy.
  const auto estimate = ops::estimate_scales(ops::Linear{.scaling = scaling::none},
                                             {.repetitions = 4000}, Shape{1, 1}, ones);
  EXPECT_NEAR(estimate.scales.forward, 1, 5 * estimate.relative_error.forward);
  EXPECT_LT(estimate.relative_error.forward, 0.03);
  EXPECT_NEAR(estimate.scales.backward[0], 1 / std::sqrt(5.0),
              5 * estimate.relative_error.backward[0]);
}

TEST(EstimateScales, SayHowLittleTwoRepetitionsOfOneNumberTell) {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    const auto estimate =
        ops::estimate_scales(ops::Mul{}, {.seed = seed, .repetitions = 2}, Shape{1}, Shape{1});
    EXPECT_GT(estimate.relative_error.forward, 0.5) << seed;
  }
}

TEST(EstimateScales, SaySoOfAnOutputThatIsConstantThoughNotExactInBinary) {
  const ops::Elementwise tenth([](auto x) { return x - x + 0.1; }, [](auto x) { return x; });
  for (const std::size_t size : {1UL, 2UL, 3UL, 7UL, 100UL}) {
    expect_domain_error([&] { (void)ops::estimate_scales(tenth, Shape{size}); },
                        {"estimate_scales", "constant"});
  }
}

}  // namespace estimate_scales_test
