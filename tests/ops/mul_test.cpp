// SPDX-License-Identifier: MIT
#include "unit_scaling/ops/mul.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <tuple>
#include <vector>

#include "support/errors.hpp"
#include "support/gradient_check.hpp"
#include "support/op_run.hpp"
#include "support/random_arrays.hpp"
#include "support/rounding_check.hpp"
#include "support/statistics.hpp"

namespace mul_test {

using namespace unit_scaling;
using namespace unit_scaling_test;

TEST(Mul, BackwardIsTheScaledGradient) {
  for (const Shape& shape : {Shape{1}, Shape{3, 7}}) {
    expect_scaled_gradients_under_all_rules(ops::Mul{}, normal_array<double>(shape, 1),
                                            normal_array<double>(shape, 2));
  }
}

TEST(Mul, ForwardAndBackwardUseTheFactorsTheyAreGiven) {
  const Array<float> a(Shape{2}, {2, -3});
  const Array<float> b(Shape{2}, {5, 7});
  const auto run = run_op_with(
      precision::fp32{}, ops::Mul{}, Scales<2>{.forward = 2, .backward = {4, 8}},
      [](const auto& y) { return Array<float>::filled(y.shape(), 1); }, a, b);
  EXPECT_EQ(run.y, (Array<float>(Shape{2}, {20, -42})));
  EXPECT_EQ(std::get<0>(run.gradients), (Array<float>(Shape{2}, {20, 28})));
  EXPECT_EQ(std::get<1>(run.gradients), (Array<float>(Shape{2}, {16, -24})));
}

// The fourth moment of a product of two normal numbers is 9: the standard error of the root mean
// square of 10^4 of them is ((9 − 1) / 10^4)^½ / 2 = 0.014.
TEST(Mul, OutputAndGradientsHaveUnitScaleForGaussianInput) {
  for (const Shape& shape : {Shape{10007}, Shape{129, 257}, Shape{4, 64, 512}}) {
    const auto run =
        run_op(precision::fp32{}, ops::Mul{.scaling = scaling::paper.with(constraint::none)},
               normal_array<float>(shape, 3), normal_array<float>(shape, 4));
    EXPECT_NEAR(standard_deviation(run.y), 1, 0.1) << to_string(shape);
    EXPECT_NEAR(rms(std::get<0>(run.gradients)), 1, 0.1) << to_string(shape);
    EXPECT_NEAR(rms(std::get<1>(run.gradients)), 1, 0.1) << to_string(shape);
  }
}

TEST(Mul, EveryRuleAndConstraintGivesOnes) {
  const Array<float> a(Shape{4, 3});
  for (const Rule rule : {Rule::none, Rule::paper, Rule::umup}) {
    for (const Constraint& candidate : constraint::all) {
      EXPECT_EQ((ops::Mul{.scaling = Scaling{rule, candidate}}.scales(a, a)), Scales<2>{});
    }
  }
}

TEST(Mul, RejectsArraysOfDifferentShapes) {
  const auto x = normal_array<float>({2, 3}, 5);
  for (const Shape& shape : {Shape{3, 2}, Shape{3}, Shape{1, 3}, Shape{}, Shape{6}}) {
    const auto other = normal_array<float>(shape, 6);
    expect_shape_error([&] { (void)ops::mul(x, other); }, {"mul", "(2, 3)", to_string(shape)});
    expect_shape_error([&] { (void)ops::mul(other, x); }, {"mul", "(2, 3)", to_string(shape)});
    expect_shape_error(
        [&] {
          (void)ops::Mul{}.backward(precision::fp32{}, {}, std::tuple{x, x}, other);
        },
        {"mul", "(2, 3)", to_string(shape)});
  }
}

TEST(Mul, TakesEmptyArraysAndScalars) {
  for (const Shape& shape : {Shape{0}, Shape{0, 3}, Shape{3, 0}, Shape{}, Shape{1}, Shape{17}}) {
    expect_gradients_have_argument_shapes(precision::fp8{}, ops::Mul{},
                                          normal_array<float16>(shape, 7),
                                          normal_array<float16>(shape, 8));
  }
}

TEST(Mul, SpecialValuesAreThoseOfIeeeArithmetic) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const Array<float> a(Shape{5}, {nan, HUGE_VALF, HUGE_VALF, -0.0F, 2});
  const Array<float> b(Shape{5}, {1, -2, 0, 3, 3});
  const auto y = ops::mul(a, b);
  EXPECT_TRUE(std::isnan(y.data()[0]));
  EXPECT_EQ(y.data()[1], -HUGE_VALF);
  EXPECT_TRUE(std::isnan(y.data()[2]));
  EXPECT_EQ(y.data()[3], 0);
  EXPECT_TRUE(std::signbit(y.data()[3]));
  EXPECT_EQ(y.data()[4], 6);
}

TEST(Mul, OverflowOfTheStorageFormatIsInfinite) {
  const auto large = Array<float16>::filled(Shape{1}, static_cast<float16>(60000.0F));
  EXPECT_EQ(static_cast<float>(*ops::mul(large, large).data()), HUGE_VALF);
}

template <class P> class MulIn : public testing::Test {};
TYPED_TEST_SUITE(MulIn, StoragePrecisions, PrecisionNames);

// Two numbers of at most 24 bits multiply exactly in double; in binary32 that is one rounding.
TYPED_TEST(MulIn, ResultIsTheDoubleReferenceRoundedOnce) {
  using T = typename TypeParam::storage;
  const auto a = normal_array<T>({37, 29}, 9);
  const auto b = normal_array<T>({37, 29}, 10);
  const auto run = run_op(TypeParam{}, ops::Mul{}, a, b);
  std::vector<Reference> y;
  std::vector<Reference> da;
  std::vector<Reference> db;
  const auto product = [](T v, T w) {
    const double value = static_cast<double>(v) * static_cast<double>(w);
    return Reference{value, float_unit * std::abs(value)};
  };
  for (std::size_t i = 0; i < a.size(); ++i) {
    y.push_back(product(a.data()[i], b.data()[i]));
    da.push_back(product(run.dy.data()[i], b.data()[i]));
    db.push_back(product(run.dy.data()[i], a.data()[i]));
  }
  expect_rounded(run.y, y);
  expect_rounded(std::get<0>(run.gradients), da);
  expect_rounded(std::get<1>(run.gradients), db);
}

TYPED_TEST(MulIn, ThreadCountChangesNoBit) {
  using T = typename TypeParam::storage;
  expect_thread_count_changes_no_bit(TypeParam{}, ops::Mul{}, normal_array<T>({211, 233}, 11),
                                     normal_array<T>({211, 233}, 12));
}

}  // namespace mul_test
