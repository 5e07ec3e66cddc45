// SPDX-License-Identifier: MIT
#include "unit_scaling/ops/silu_glu.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <numbers>
#include <vector>

#include "support/errors.hpp"
#include "support/gradient_check.hpp"
#include "support/op_run.hpp"
#include "support/random_arrays.hpp"
#include "support/rounding_check.hpp"
#include "support/statistics.hpp"

namespace silu_glu_test {

using namespace unit_scaling;
using namespace unit_scaling_test;

constexpr Scaling ideal = scaling::paper.with(constraint::none);

double gate(double x) { return 1 / (1 + std::exp(-x)); }
double slope(double x) { return gate(x) + x * gate(x) * (1 - gate(x)); }

TEST(SiluGlu, BackwardIsTheScaledGradient) {
  for (const double mult : {1.0, 0.4, 3.0}) {
    for (const Shape& shape : {Shape{1}, Shape{3, 7}}) {
      expect_scaled_gradients_under_all_rules(ops::SiluGlu{.mult = mult},
                                              normal_array<double>(shape, 1),
                                              normal_array<double>(shape, 2));
    }
  }
}

// Products of two or three normal numbers have heavy tails: the fourth moment of y is below 12,
// that of the gradients below 40, so the relative standard error for 10^4 numbers is below
// √((40 − 1) / 4·10^4) = 0.03.
TEST(SiluGlu, OutputAndGradientsHaveUnitScaleForGaussianInput) {
  for (const Shape& shape : {Shape{10007}, Shape{129, 257}, Shape{4, 64, 512}}) {
    const auto run = run_op(precision::fp32{}, ops::SiluGlu{.scaling = ideal},
                            normal_array<float>(shape, 4), normal_array<float>(shape, 5));
    EXPECT_NEAR(standard_deviation(run.y), 1, 0.1) << to_string(shape);
    EXPECT_NEAR(rms(std::get<0>(run.gradients)), 1, 0.1) << to_string(shape);
    EXPECT_NEAR(rms(std::get<1>(run.gradients)), 1, 0.1) << to_string(shape);
  }
}

TEST(SiluGlu, FactorsAreTheReciprocalMomentsOfAQuadrature) {
  double square = 0;
  double square_slope = 0;
  constexpr double step = 1.0 / 64;
  for (int i = -64 * 13; i <= 64 * 13; ++i) {
    const double x = i * step;
    const double weight = step * std::exp(-x * x / 2) / std::sqrt(2 * std::numbers::pi);
    square += weight * x * gate(x) * x * gate(x);
    square_slope += weight * slope(x) * slope(x);
  }
  const Array<float> none;
  const Scales<2> s = ops::SiluGlu{.scaling = ideal}.scales(none, none);
  EXPECT_NEAR(s.forward, 1 / std::sqrt(square), 1e-12);
  EXPECT_EQ(s.backward[0], s.forward);
  EXPECT_NEAR(s.backward[1], 1 / std::sqrt(square_slope), 1e-12);
  const Scales<2> bound = ops::SiluGlu{}.scales(none, none);
  EXPECT_NEAR(bound.forward, std::cbrt(s.forward * s.backward[0] * s.backward[1]), 1e-12);
  EXPECT_EQ(bound.backward[0], bound.forward);
  EXPECT_EQ(bound.backward[1], bound.forward);
}

TEST(SiluGlu, UmupHasOneFactorForAll) {
  const Array<float> none;
  for (const Scaling& scaling : {scaling::umup, scaling::umup.on_cut_edge()}) {
    const Scales<2> s = ops::SiluGlu{.scaling = scaling, .mult = 2}.scales(none, none);
    EXPECT_NEAR(s.forward, std::pow(2, 0.4) * std::pow(2, 0.2), 1e-14);  // weight 4/5
    EXPECT_EQ(s.backward, (std::array{s.forward, s.forward}));
  }
  EXPECT_EQ((ops::SiluGlu{.scaling = scaling::none}.scales(none, none)), Scales<2>{});
}

TEST(SiluGlu, RejectsOtherShapesAndImpossibleMultipliers) {
  const auto x = normal_array<float>({2, 3}, 5);
  const auto other = normal_array<float>({3, 2}, 6);
  expect_shape_error([&] { (void)ops::silu_glu(x, other); }, {"silu_glu", "(2, 3)", "(3, 2)"});
  const ops::SiluGlu op;
  const auto forward = op.forward(precision::fp32{}, op.scales(x, x), x, x);
  expect_shape_error(
      [&] { (void)op.backward(precision::fp32{}, op.scales(x, x), forward.saved, other); },
      {"silu_glu", "(2, 3)", "(3, 2)"});
  expect_domain_error([&] { (void)ops::silu_glu(x, x, {.mult = 0}); }, {"silu_glu", "mult"});
}

TEST(SiluGlu, TakesEmptyArraysAndScalars) {
  for (const Shape& shape : {Shape{0}, Shape{0, 3}, Shape{3, 0}, Shape{}, Shape{1}, Shape{17}}) {
    expect_gradients_have_argument_shapes(precision::fp8{}, ops::SiluGlu{},
                                          normal_array<float16>(shape, 7),
                                          normal_array<float16>(shape, 8));
  }
}

template <class P> class SiluGluIn : public testing::Test {};
TYPED_TEST_SUITE(SiluGluIn, StoragePrecisions, PrecisionNames);

// As for Silu, with a rounding more for each product with x.
TYPED_TEST(SiluGluIn, ResultIsTheDoubleReferenceRoundedOnce) {
  using T = typename TypeParam::storage;
  const auto x = normal_array<T>({37, 29}, 8);
  const auto g = normal_array<T>({37, 29}, 9);
  const auto run = run_op(TypeParam{}, ops::SiluGlu{.scaling = ideal}, x, g);
  std::vector<Reference> y;
  std::vector<Reference> dx;
  std::vector<Reference> dg;
  const auto [alpha, beta] = run.scales;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const auto v = static_cast<double>(x.data()[i]);
    const auto w = static_cast<double>(g.data()[i]);
    const auto d = static_cast<double>(run.dy.data()[i]);
    const double gated = w * gate(w);
    y.push_back({alpha * v * gated, 12 * float_unit * std::abs(alpha * v * gated)});
    dx.push_back({beta[0] * d * gated, 12 * float_unit * std::abs(beta[0] * d * gated)});
    dg.push_back({beta[1] * d * v * slope(w),
                  16 * float_unit * std::abs(beta[1] * d * v) * gate(w) * (1 + std::abs(w))});
  }
  expect_rounded(run.y, y);
  expect_rounded(std::get<0>(run.gradients), dx);
  expect_rounded(std::get<1>(run.gradients), dg);
}

TYPED_TEST(SiluGluIn, ThreadCountChangesNoBit) {
  using T = typename TypeParam::storage;
  constexpr ops::SiluGlu op;
  expect_thread_count_changes_no_bit(TypeParam{}, op, normal_array<T>({211, 233}, 10),
                                     normal_array<T>({211, 233}, 11));
}

}  // namespace silu_glu_test
