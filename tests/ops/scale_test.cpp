// SPDX-License-Identifier: MIT
#include "unit_scaling/ops/scale.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <tuple>
#include <vector>

#include "support/errors.hpp"
#include "support/gradient_check.hpp"
#include "support/op_run.hpp"
#include "support/random_arrays.hpp"
#include "support/rounding_check.hpp"
#include "support/statistics.hpp"

namespace scale_test {

using namespace unit_scaling;
using namespace unit_scaling_test;

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float nan = std::numeric_limits<float>::quiet_NaN();

/// What holds for both ops: each test runs on either.
template <class Op> class Scale : public testing::Test {};
struct ScaleNames {
  template <class Op> static std::string GetName(int /*index*/) { return std::string(Op::name); }
};
using ScaleOps = testing::Types<ops::ScaleForward, ops::ScaleBackward>;
TYPED_TEST_SUITE(Scale, ScaleOps, ScaleNames);

// They take no rule, so there are no others to check them under.
TYPED_TEST(Scale, BackwardIsTheScaledGradient) {
  for (const double factor : {1.0, 0.3, -2.5}) {
    for (const Shape& shape : {Shape{1}, Shape{3, 7}}) {
      expect_scaled_gradients(TypeParam{.factor = factor}, 1, normal_array<double>(shape, 1));
    }
  }
}

TYPED_TEST(Scale, KeepsUnitScaleInBothDirectionsByDefault) {
  for (const Shape& shape : {Shape{10007}, Shape{129, 257}, Shape{4, 64, 512}}) {
    const auto run = run_op(precision::fp32{}, TypeParam{}, normal_array<float>(shape, 2));
    // The relative standard error of the rms of 10^4 normal numbers is 0.007.
    EXPECT_NEAR(standard_deviation(run.y), 1, 0.1) << to_string(shape);
    EXPECT_NEAR(rms(std::get<0>(run.gradients)), 1, 0.1) << to_string(shape);
  }
}

TYPED_TEST(Scale, RejectsAGradientOfAnotherShape) {
  const auto x = normal_array<float>({2, 3}, 3);
  expect_shape_error(
      [&] {
        (void)TypeParam{}.backward(precision::fp32{}, {}, std::tuple{x.shape()},
                                   normal_array<float>({3, 2}, 4));
      },
      {TypeParam::name, "(2, 3)", "(3, 2)"});
}

TYPED_TEST(Scale, RejectsAFactorThatIsNotFinite) {
  const auto x = normal_array<float>({2, 3}, 3);
  for (const double factor : {static_cast<double>(nan), HUGE_VAL, -HUGE_VAL}) {
    expect_domain_error([&] { (void)TypeParam{.factor = factor}.scales(x); },
                        {TypeParam::name, "factor"});
  }
}

TYPED_TEST(Scale, TakesEmptyArraysAndScalars) {
  for (const Shape& shape : {Shape{0}, Shape{0, 3}, Shape{3, 0}, Shape{}, Shape{1}, Shape{17}}) {
    for (const double factor : {1.0, 3.0}) {
      expect_gradients_have_argument_shapes(precision::fp8{}, TypeParam{.factor = factor},
                                            normal_array<float16>(shape, 5));
    }
  }
}

TYPED_TEST(Scale, ThreadCountChangesNoBit) {
  expect_thread_count_changes_no_bit(precision::fp16{}, TypeParam{.factor = 0.3},
                                     normal_array<float16>({211, 233}, 6));
}

TEST(ScaleForward, MultipliesTheOutputAndLeavesTheGradientAlone) {
  const auto x = normal_array<float>({3, 5}, 7);
  const auto run = run_op(precision::fp32{}, ops::ScaleForward{.factor = -4}, x);
  for (std::size_t i = 0; i < x.size(); ++i) EXPECT_EQ(run.y.data()[i], -4 * x.data()[i]);
  EXPECT_EQ(std::get<0>(run.gradients).data(), run.dy.data()) << "storage is shared";
  EXPECT_EQ(run.scales, (Scales<1>{.forward = -4, .backward = {1}}));
}

TEST(ScaleBackward, MultipliesTheGradientAndLeavesTheOutputAlone) {
  const auto x = normal_array<float>({3, 5}, 8);
  const auto run = run_op(precision::fp32{}, ops::ScaleBackward{.factor = -4}, x);
  EXPECT_EQ(run.y.data(), x.data()) << "storage is shared";
  const auto& dx = std::get<0>(run.gradients);
  for (std::size_t i = 0; i < x.size(); ++i) EXPECT_EQ(dx.data()[i], -4 * run.dy.data()[i]);
  EXPECT_EQ(run.scales, (Scales<1>{.forward = 1, .backward = {-4}}));
}

TEST(ScaleForward, OfASharedArrayDoesNotWriteToIt) {
  const auto x = normal_array<float>({5}, 9);
  auto y = ops::scale_fwd(x);
  EXPECT_EQ(y.data(), x.data());
  y.mutable_data()[0] = x.data()[0] + 1;
  EXPECT_EQ(x, normal_array<float>({5}, 9));
}

TEST(ScaleForward, SpecialValuesAreThoseOfIeeeArithmetic) {
  const Array<float> x(Shape{4}, {nan, infinity, -infinity, -0.0F});
  const auto y = ops::scale_fwd(x, {.factor = 2});
  EXPECT_TRUE(std::isnan(y.data()[0]));
  EXPECT_EQ(y.data()[1], infinity);
  EXPECT_EQ(y.data()[2], -infinity);
  EXPECT_EQ(y.data()[3], 0);
  EXPECT_TRUE(std::signbit(y.data()[3]));
  const auto zero = ops::scale_fwd(x, {.factor = 0});
  for (std::size_t i = 0; i < 3; ++i) EXPECT_TRUE(std::isnan(zero.data()[i])) << i;
}

TEST(ScaleBackward, SpecialValuesOfTheInputAreKept) {
  const Array<float> x(Shape{4}, {nan, infinity, -infinity, -0.0F});
  EXPECT_TRUE(same_bits(ops::scale_bwd(x, {.factor = 0}), x));
}

TEST(ScaleBackward, StopsTheGradientForAFactorOfZero) {
  const auto run =
      run_op(precision::fp32{}, ops::ScaleBackward{.factor = 0}, normal_array<float>({3, 5}, 10));
  for (const float element : std::get<0>(run.gradients).span()) EXPECT_EQ(element, 0);
}

template <class P> class ScaleIn : public testing::Test {};
TYPED_TEST_SUITE(ScaleIn, StoragePrecisions, PrecisionNames);

// The factor's rounding and the product's, and nothing where there is no factor.
TYPED_TEST(ScaleIn, ResultIsTheDoubleReferenceRoundedOnce) {
  using T = typename TypeParam::storage;
  const auto x = normal_array<float>({37, 29}, 11);
  const auto forward = run_op(TypeParam{}, ops::ScaleForward{.factor = 0.3}, x);
  const auto backward = run_op(TypeParam{}, ops::ScaleBackward{.factor = 0.3}, x);
  std::vector<Reference> scaled_x;
  std::vector<Reference> same_x;
  std::vector<Reference> scaled_dy;
  std::vector<Reference> same_dy;
  const auto times = [](double factor, double value) {
    return Reference{factor * value, factor == 1 ? 0 : 2 * float_unit * std::abs(factor * value)};
  };
  for (std::size_t i = 0; i < x.size(); ++i) {
    const auto v = static_cast<double>(x.data()[i]);
    const auto g = static_cast<double>(forward.dy.data()[i]);
    scaled_x.push_back(times(0.3, v));
    same_x.push_back(times(1, v));
    scaled_dy.push_back(times(0.3, g));
    same_dy.push_back(times(1, g));
  }
  expect_rounded<T>(forward.y, scaled_x);
  expect_rounded<T>(std::get<0>(forward.gradients), same_dy);
  expect_rounded<T>(backward.y, same_x);
  expect_rounded<T>(std::get<0>(backward.gradients), scaled_dy);
}

}  // namespace scale_test
