// SPDX-License-Identifier: MIT
#include "unit_scaling/ops/silu.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numbers>
#include <vector>

#include "support/errors.hpp"
#include "support/gradient_check.hpp"
#include "support/op_run.hpp"
#include "support/random_arrays.hpp"
#include "support/rounding_check.hpp"
#include "support/statistics.hpp"

namespace silu_test {

using namespace unit_scaling;
using namespace unit_scaling_test;

constexpr Scaling ideal = scaling::paper.with(constraint::none);

double gate(double x) { return 1 / (1 + std::exp(-x)); }
double slope(double x) { return gate(x) + x * gate(x) * (1 - gate(x)); }

TEST(Silu, BackwardIsTheScaledGradient) {
  for (const double mult : {1.0, 0.4, 3.0}) {
    for (const Shape& shape : {Shape{1}, Shape{3, 7}}) {
      expect_scaled_gradients_under_all_rules(ops::Silu{.mult = mult},
                                              normal_array<double>(shape, 1));
    }
  }
}

// As for Gelu: the relative standard error is below 0.015.
TEST(Silu, OutputAndGradientHaveUnitScaleForGaussianInput) {
  for (const Shape& shape : {Shape{10007}, Shape{129, 257}, Shape{4, 64, 512}}) {
    const auto run =
        run_op(precision::fp32{}, ops::Silu{.scaling = ideal}, normal_array<float>(shape, 4));
    EXPECT_NEAR(standard_deviation(run.y), 1, 0.1) << to_string(shape);
    EXPECT_NEAR(rms(std::get<0>(run.gradients)), 1, 0.1) << to_string(shape);
  }
}

// Riemann sums of smooth functions that vanish at both ends converge faster than any power of the
// step, so the sums below are the integrals to rounding.
TEST(Silu, FactorsAreTheReciprocalMomentsOfAQuadrature) {
  double first = 0;
  double second = 0;
  double square_slope = 0;
  constexpr double step = 1.0 / 64;
  for (int i = -64 * 13; i <= 64 * 13; ++i) {
    const double x = i * step;
    const double weight = step * std::exp(-x * x / 2) / std::sqrt(2 * std::numbers::pi);
    first += weight * x * gate(x);
    second += weight * x * gate(x) * x * gate(x);
    square_slope += weight * slope(x) * slope(x);
  }
  const Scales<1> s = ops::Silu{.scaling = ideal}.scales(Array<float>{});
  EXPECT_NEAR(s.forward, 1 / std::sqrt(second - first * first), 1e-12);
  EXPECT_NEAR(s.backward[0], 1 / std::sqrt(square_slope), 1e-12);
}

TEST(Silu, FactorsOfUmupDependOnTheMultiplier) {
  const ops::Silu op{.scaling = scaling::umup.with(constraint::none), .mult = 2};
  const Scales<1> s = op.scales(Array<float>{});
  // Weights 16/17 and 4/5.
  const double relu = 2 / (1 - 1 / std::numbers::pi);
  EXPECT_NEAR(s.forward, std::pow(relu, 8.0 / 17) * std::pow(2, 1.0 / 17), 1e-14);
  EXPECT_NEAR(s.backward[0], std::pow(2, 0.4) * std::pow(2, 0.2), 1e-14);
}

TEST(Silu, RuleNoneScalesNothing) {
  EXPECT_EQ(ops::Silu{.scaling = scaling::none}.scales(Array<float>{}), Scales<1>{});
}

TEST(Silu, RejectsAGradientOfAnotherShapeAndAnImpossibleMultiplier) {
  const auto x = normal_array<float>({2, 3}, 5);
  const ops::Silu op;
  const auto forward = op.forward(precision::fp32{}, op.scales(x), x);
  expect_shape_error(
      [&] {
        (void)op.backward(precision::fp32{}, op.scales(x), forward.saved,
                          normal_array<float>({3, 2}, 6));
      },
      {"silu", "(2, 3)", "(3, 2)"});
  for (const double mult : {0.0, -1.0, std::numeric_limits<double>::infinity()}) {
    expect_domain_error([&] { (void)ops::silu(x, {.mult = mult}); }, {"silu", "mult"});
  }
}

TEST(Silu, TakesEmptyArraysAndScalars) {
  for (const Shape& shape : {Shape{0}, Shape{0, 3}, Shape{3, 0}, Shape{}, Shape{1}, Shape{17}}) {
    expect_gradients_have_argument_shapes(precision::fp8{}, ops::Silu{},
                                          normal_array<float16>(shape, 7));
  }
}

TEST(Silu, SpecialValuesAreAsDocumented) {
  const float infinity = std::numeric_limits<float>::infinity();
  const Array<float> x(Shape{4},
                       {std::numeric_limits<float>::quiet_NaN(), infinity, -infinity, -0.0F});
  const Array<float> y = ops::silu(x);
  EXPECT_TRUE(std::isnan(y.data()[0]));
  EXPECT_EQ(y.data()[1], infinity);
  EXPECT_TRUE(std::isnan(y.data()[2]));
  EXPECT_EQ(y.data()[3], 0);
}

TEST(Silu, FarTailsAreFinite) {
  for (const float magnitude : {100.0F, 1e4F, 1e20F, 3e38F}) {
    const Array<float> x(Shape{2}, {magnitude, -magnitude});
    const auto run = run_op_with(
        precision::fp32{}, ops::Silu{.scaling = scaling::none}, Scales<1>{},
        [](const auto& y) { return Array<float>::filled(y.shape(), 1); }, x);
    EXPECT_EQ(run.y.data()[0], magnitude);
    EXPECT_EQ(run.y.data()[1], 0);
    EXPECT_EQ(std::get<0>(run.gradients).data()[0], 1) << magnitude;
    EXPECT_EQ(std::get<0>(run.gradients).data()[1], 0) << magnitude;
  }
}

template <class P> class SiluIn : public testing::Test {};
TYPED_TEST_SUITE(SiluIn, StoragePrecisions, PrecisionNames);

// The gate, 1 / (1 + e), has the relative error of e, an exponential within 1.1 ulp of x, hence at
// most 3 units with the sum and the quotient; the other operations are fewer than six roundings.
TYPED_TEST(SiluIn, ResultIsTheDoubleReferenceRoundedOnce) {
  using T = typename TypeParam::storage;
  const auto x = normal_array<T>({37, 29}, 8);
  const auto run = run_op(TypeParam{}, ops::Silu{.scaling = ideal}, x);
  std::vector<Reference> y;
  std::vector<Reference> dx;
  const auto [alpha, beta] = run.scales;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const auto v = static_cast<double>(x.data()[i]);
    const auto g = static_cast<double>(run.dy.data()[i]);
    const double value = alpha * v * gate(v);
    y.push_back({value, 10 * float_unit * std::abs(value)});
    // The slope is a gate times a sum whose terms are below 1 and |v|.
    const double terms = gate(v) * (1 + std::abs(v));
    dx.push_back({beta[0] * g * slope(v), std::abs(beta[0] * g) * terms * 14 * float_unit});
  }
  expect_rounded(run.y, y);
  expect_rounded(std::get<0>(run.gradients), dx);
}

TYPED_TEST(SiluIn, ThreadCountChangesNoBit) {
  constexpr ops::Silu op;
  expect_thread_count_changes_no_bit(TypeParam{}, op,
                                     normal_array<typename TypeParam::storage>({211, 233}, 10));
}

}  // namespace silu_test
