// SPDX-License-Identifier: MIT
#include "unit_scaling/ops/gelu.hpp"

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

namespace gelu_test {

using namespace unit_scaling;
using namespace unit_scaling_test;

constexpr Scaling ideal = scaling::paper.with(constraint::none);

double cdf(double x) { return std::erfc(-x / std::numbers::sqrt2) / 2; }
double pdf(double x) { return std::exp(-x * x / 2) / std::sqrt(2 * std::numbers::pi); }

/// The tanh form and its slope by the textbook formulas.
double tanh_inner(double x) { return std::sqrt(2 / std::numbers::pi) * (x + 0.044715 * x * x * x); }
double tanh_form(double x) { return x / 2 * (1 + std::tanh(tanh_inner(x))); }
double tanh_form_slope(double x) {
  const double t = std::tanh(tanh_inner(x));
  const double inner_slope = std::sqrt(2 / std::numbers::pi) * (1 + 3 * 0.044715 * x * x);
  return (1 + t) / 2 + x / 2 * (1 - t * t) * inner_slope;
}

TEST(Gelu, BackwardIsTheScaledGradient) {
  for (const Shape& shape : {Shape{1}, Shape{3, 7}}) {
    expect_scaled_gradients_under_all_rules(ops::Gelu{}, normal_array<double>(shape, 1));
  }
}

TEST(Gelu, BackwardIsTheScaledGradientWithAMultiplier) {
  expect_scaled_gradients_under_all_rules(ops::Gelu{.mult = 0.7}, normal_array<double>({3, 7}, 2));
}

TEST(Gelu, BackwardOfTheTanhFormIsTheScaledGradient) {
  expect_scaled_gradients_under_all_rules(
      ops::Gelu{.mult = 1.3, .form = ops::GeluForm::tanh_approximation},
      normal_array<double>({3, 7}, 3));
}

// The paper's claim of unit scale, to the ±0.1 of its own tests. The standard error of a standard
// deviation of 10^4 numbers is at most √(kurtosis / 4·10^4) < 0.015 for these functions.
TEST(Gelu, OutputAndGradientHaveUnitScaleForGaussianInput) {
  for (const ops::GeluForm form : {ops::GeluForm::erf, ops::GeluForm::tanh_approximation}) {
    for (const Shape& shape : {Shape{10007}, Shape{129, 257}, Shape{4, 64, 512}}) {
      const auto run = run_op(precision::fp32{}, ops::Gelu{.scaling = ideal, .form = form},
                              normal_array<float>(shape, 4));
      EXPECT_NEAR(standard_deviation(run.y), 1, 0.1) << to_string(shape);
      EXPECT_NEAR(rms(std::get<0>(run.gradients)), 1, 0.1) << to_string(shape);
    }
  }
}

// Half a unit of the last digit that the paper prints in table A.2 and in its listing.
TEST(Gelu, FactorsAreThoseOfThePaper) {
  const Array<float> x;
  const Scales<1> s = ops::Gelu{.scaling = ideal}.scales(x);
  EXPECT_NEAR(s.forward, 1.701, 5e-4);
  EXPECT_NEAR(s.backward[0], 1.481, 5e-4);
}

// Riemann sums of smooth functions that vanish at both ends converge faster than any power of the
// step, so the sums below are the integrals to rounding.
TEST(Gelu, FactorsAreTheReciprocalMomentsOfAQuadrature) {
  double first = 0;
  double second = 0;
  double slope = 0;
  constexpr double step = 1.0 / 64;
  for (int i = -64 * 12; i <= 64 * 12; ++i) {
    const double x = i * step;
    const double y = x * cdf(x);
    const double dy = cdf(x) + x * pdf(x);
    first += step * pdf(x) * y;
    second += step * pdf(x) * y * y;
    slope += step * pdf(x) * dy * dy;
  }
  const Scales<1> s = ops::Gelu{.scaling = ideal}.scales(Array<float>{});
  EXPECT_NEAR(s.forward, 1 / std::sqrt(second - first * first), 1e-13);
  EXPECT_NEAR(s.backward[0], 1 / std::sqrt(slope), 1e-13);
}

TEST(Gelu, ConstraintOfThePaperIsTheGeometricMean) {
  const Scales<1> s = ops::Gelu{}.scales(Array<float>{});
  EXPECT_EQ(s.forward, s.backward[0]);
  EXPECT_NEAR(s.forward, 1.5872, 5e-5);  // √(1.7009 · 1.4811), half a unit of the last digit
}

TEST(Gelu, ConstraintOfUmupIsTheForwardFactor) {
  const Scales<1> free =
      ops::Gelu{.scaling = scaling::umup.with(constraint::none)}.scales(Array<float>{});
  // exp(0.8 ln √(2/(1−1/π)) + 0.2 ln 2) and exp(0.8 ln √2 + 0.2 ln 2) = 2^0.6.
  EXPECT_NEAR(free.forward, std::pow(2 / (1 - 1 / std::numbers::pi), 0.4) * std::pow(2, 0.2),
              1e-14);
  EXPECT_NEAR(free.backward[0], std::pow(2, 0.6), 1e-14);
  const Scales<1> bound = ops::Gelu{.scaling = scaling::umup}.scales(Array<float>{});
  EXPECT_EQ(bound.forward, free.forward);
  EXPECT_EQ(bound.backward[0], free.forward);
}

TEST(Gelu, RuleNoneScalesNothing) {
  EXPECT_EQ(ops::Gelu{.scaling = scaling::none}.scales(Array<float>{}), Scales<1>{});
}

TEST(Gelu, RejectsAGradientOfAnotherShape) {
  const auto x = normal_array<float>({2, 3}, 5);
  const ops::Gelu op;
  const auto forward = op.forward(precision::fp32{}, op.scales(x), x);
  expect_shape_error(
      [&] {
        (void)op.backward(precision::fp32{}, op.scales(x), forward.saved,
                          normal_array<float>({3, 2}, 6));
      },
      {"gelu", "(2, 3)", "(3, 2)"});
}

TEST(Gelu, TakesEmptyArraysAndScalars) {
  for (const Shape& shape : {Shape{0}, Shape{0, 3}, Shape{3, 0}, Shape{}, Shape{1}, Shape{17}}) {
    expect_gradients_have_argument_shapes(precision::fp8{}, ops::Gelu{},
                                          normal_array<float16>(shape, 7));
  }
}

template <class T> void expect_documented_special_values(ops::GeluForm form) {
  constexpr double infinity = std::numeric_limits<double>::infinity();
  const Array<T> x(
      Shape{4}, {T(std::numeric_limits<double>::quiet_NaN()), T(infinity), T(-infinity), T(0.0)});
  const Array<T> y = ops::gelu(x, {.form = form});
  EXPECT_TRUE(std::isnan(static_cast<double>(y.data()[0])));
  EXPECT_EQ(static_cast<double>(y.data()[1]), infinity);
  EXPECT_TRUE(std::isnan(static_cast<double>(y.data()[2])));
  EXPECT_EQ(static_cast<double>(y.data()[3]), 0);
}

TEST(Gelu, SpecialValuesAreAsDocumented) {
  for (const ops::GeluForm form : {ops::GeluForm::erf, ops::GeluForm::tanh_approximation}) {
    expect_documented_special_values<double>(form);
    expect_documented_special_values<float>(form);
    expect_documented_special_values<float16>(form);
    expect_documented_special_values<bfloat16>(form);
    expect_documented_special_values<float8_e5m2>(form);
  }
}

// Far from zero the function is x or 0 and its slope 1 or 0, up to the largest finite number.
TEST(Gelu, FarTailsAreFinite) {
  for (const ops::GeluForm form : {ops::GeluForm::erf, ops::GeluForm::tanh_approximation}) {
    for (const float magnitude : {20.0F, 1e4F, 1e10F, 1e15F, 1e20F, 3e38F}) {
      const Array<float> x(Shape{2}, {magnitude, -magnitude});
      const ops::Gelu op{.scaling = scaling::none, .form = form};
      const auto run = run_op_with(
          precision::fp32{}, op, Scales<1>{},
          [](const auto& y) { return Array<float>::filled(y.shape(), 1); }, x);
      EXPECT_EQ(run.y.data()[0], magnitude);
      EXPECT_EQ(run.y.data()[1], 0);
      EXPECT_EQ(std::get<0>(run.gradients).data()[0], 1) << magnitude;
      EXPECT_EQ(std::get<0>(run.gradients).data()[1], 0) << magnitude;
    }
  }
}

template <class P> class GeluIn : public testing::Test {};
TYPED_TEST_SUITE(GeluIn, StoragePrecisions, PrecisionNames);

// kernels/elementary.hpp bounds the error of Φ by 2.1e-7, that of φ by (x²/2 + 4.3) units of φ, and
// the other operations are fewer than six roundings.
TYPED_TEST(GeluIn, ResultIsTheDoubleReferenceRoundedOnce) {
  using T = typename TypeParam::storage;
  const auto x = normal_array<T>({37, 29}, 8);
  const ops::Gelu op{.scaling = ideal};
  const auto run = run_op(TypeParam{}, op, x);
  std::vector<Reference> y;
  std::vector<Reference> dx;
  const auto [alpha, beta] = run.scales;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const auto v = static_cast<double>(x.data()[i]);
    const auto g = static_cast<double>(run.dy.data()[i]);
    const double value = alpha * v * cdf(v);
    y.push_back({value, alpha * std::abs(v) * 2.1e-7 + 6 * float_unit * std::abs(value)});
    const double slope = cdf(v) + v * pdf(v);
    const double slope_error =
        2.1e-7 + std::abs(v) * pdf(v) * (v * v / 2 + 6) * float_unit + 2 * float_unit;
    dx.push_back({beta[0] * g * slope,
                  std::abs(beta[0] * g) * (slope_error + 6 * float_unit * std::abs(slope))});
  }
  expect_rounded(run.y, y);
  expect_rounded(std::get<0>(run.gradients), dx);
}

// The gate is a sigmoid, 1 / (1 + e): its relative error is that of e, an exponential within 1.1
// ulp of an argument u with fewer than six roundings, hence (6 |u| + 2) units, times e / (1 + e).
TYPED_TEST(GeluIn, TanhFormIsTheDoubleReferenceRoundedOnce) {
  using T = typename TypeParam::storage;
  const auto x = normal_array<T>({37, 29}, 9);
  const ops::Gelu op{.scaling = ideal, .form = ops::GeluForm::tanh_approximation};
  const auto run = run_op(TypeParam{}, op, x);
  std::vector<Reference> y;
  std::vector<Reference> dx;
  const auto [alpha, beta] = run.scales;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const auto v = static_cast<double>(x.data()[i]);
    const auto g = static_cast<double>(run.dy.data()[i]);
    const double gate_error = (6 * 2 * std::abs(tanh_inner(v)) + 6) * float_unit;
    const double value = alpha * tanh_form(v);
    y.push_back({value, (gate_error + 6 * float_unit) * std::abs(value)});
    // The slope is gate + v gate (1 − gate) (2u)'; its terms are below 1 and below 2 |v|³ gate.
    const double slope = tanh_form_slope(v);
    const double terms = 1 + 2 * std::abs(v) * (1 + v * v);
    dx.push_back(
        {beta[0] * g * slope, std::abs(beta[0] * g) * terms * (gate_error + 8 * float_unit)});
  }
  expect_rounded(run.y, y);
  expect_rounded(std::get<0>(run.gradients), dx);
}

TYPED_TEST(GeluIn, ThreadCountChangesNoBit) {
  expect_thread_count_changes_no_bit(TypeParam{}, ops::Gelu{},
                                     normal_array<typename TypeParam::storage>({211, 233}, 10));
}

TEST(Gelu, FunctionObjectComputesInTheFormatOfItsArgument) {
  const auto x = normal_array<bfloat16>({5, 9}, 11);
  const ops::Gelu op;
  const auto expected = op.forward(precision::bf16{}, op.scales(x), x).output;
  EXPECT_TRUE(same_bits(ops::gelu(x), expected));
  EXPECT_TRUE(same_bits(ops::gelu(precision::bf16{}, x), expected));
}

}  // namespace gelu_test
