// SPDX-License-Identifier: MIT
#include "unit_scaling/ops/sum.hpp"

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

namespace sum_test {

using namespace unit_scaling;
using namespace unit_scaling_test;

constexpr Scaling ideal = scaling::paper.with(constraint::none);

TEST(Sum, BackwardIsTheScaledGradient) {
  for (const Shape& shape : {Shape{1}, Shape{5}, Shape{3, 7}, Shape{2, 3, 5}, Shape{}}) {
    SCOPED_TRACE(to_string(shape));
    expect_scaled_gradients_under_all_rules(ops::Sum{}, normal_array<double>(shape, 1));
  }
}

// As many independent sums as there are rows, at least 4001: the standard error of their standard
// deviation is (2 · 4001)^-½ = 0.011, and so is that of the gradient, a copy of each row's.
TEST(Sum, OutputAndGradientHaveUnitScaleForGaussianInput) {
  for (const Shape& shape : {Shape{4001, 3}, Shape{65, 63, 64}, Shape{10007, 33}}) {
    const auto run =
        run_op(precision::fp32{}, ops::Sum{.scaling = ideal}, normal_array<float>(shape, 2));
    EXPECT_NEAR(standard_deviation(run.y), 1, 0.1) << to_string(shape);
    EXPECT_NEAR(rms(std::get<0>(run.gradients)), 1, 0.1) << to_string(shape);
  }
}

TEST(Sum, FactorsAreTheRootOfTheTermsAndOne) {
  const Array<float> x(Shape{3, 16});
  EXPECT_EQ(ops::Sum{.scaling = ideal}.scales(x), (Scales<1>{.forward = 1.0 / 4, .backward = {1}}));
  // (1/4 · 1)^½, within the rounding of exp(log) in double.
  EXPECT_NEAR(ops::Sum{}.scales(x).forward, 0.5, 1e-15);
  EXPECT_EQ(ops::Sum{}.scales(x).backward[0], ops::Sum{}.scales(x).forward);
  EXPECT_EQ(ops::Sum{.scaling = scaling::umup}.scales(x),
            (Scales<1>{.forward = 1.0 / 4, .backward = {1.0 / 4}}));
  EXPECT_EQ(ops::Sum{.scaling = scaling::none}.scales(x), Scales<1>{});
}

TEST(Sum, AddsAlongTheLastExtent) {
  const Array<float> x(Shape{2, 1, 3}, {1, 2, 3, 40, 50, 60});
  const auto y = ops::sum(x, {.scaling = scaling::none});
  EXPECT_EQ(y, (Array<float>(Shape{2, 1}, {6, 150})));
  EXPECT_EQ(ops::sum(y, {.scaling = scaling::none}), y.reshaped({2}));
  EXPECT_EQ(*ops::sum(y.reshaped({2}), {.scaling = scaling::none}).data(), 156);
}

TEST(Sum, OfASingleNumberIsThatNumber) {
  EXPECT_EQ(ops::sum(Array<float>::filled(Shape{}, 3)), Array<float>::filled(Shape{}, 3));
}

TEST(Sum, OfNothingIsZero) {
  for (const Scaling& scaling : {ideal, scaling::paper, scaling::umup, scaling::none}) {
    const auto run =
        run_op(precision::fp32{}, ops::Sum{.scaling = scaling}, Array<float>(Shape{3, 0}));
    EXPECT_EQ(run.y, Array<float>::filled(Shape{3}, 0));
    EXPECT_EQ(std::get<0>(run.gradients).shape(), (Shape{3, 0}));
  }
}

TEST(Sum, RejectsAGradientOfAnotherShape) {
  const auto x = normal_array<float>({2, 3}, 3);
  const ops::Sum op;
  const auto forward = op.forward(precision::fp32{}, op.scales(x), x);
  expect_shape_error(
      [&] {
        (void)op.backward(precision::fp32{}, op.scales(x), forward.saved,
                          normal_array<float>({3}, 4));
      },
      {"sum", "(2)", "(3)"});
}

TEST(Sum, TakesEmptyArraysAndScalars) {
  for (const Shape& shape :
       {Shape{0}, Shape{0, 3}, Shape{3, 0}, Shape{}, Shape{1}, Shape{17}, Shape{5, 17}}) {
    expect_gradients_have_argument_shapes(precision::fp8{}, ops::Sum{},
                                          normal_array<float16>(shape, 5));
  }
}

TEST(Sum, NanAndInfinityReachTheirOwnRowOnly) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const Array<float> x(Shape{5, 2},
                       {nan, 1, HUGE_VALF, 1, HUGE_VALF, -HUGE_VALF, -0.0F, -0.0F, 1, 2});
  const auto y = ops::sum(x, {.scaling = scaling::none});
  EXPECT_TRUE(std::isnan(y.data()[0]));
  EXPECT_EQ(y.data()[1], HUGE_VALF);
  EXPECT_TRUE(std::isnan(y.data()[2]));
  EXPECT_EQ(y.data()[3], 0);
  EXPECT_EQ(y.data()[4], 3);
}

// The sum, 131072, is beyond the largest float16, 65504; a quarter of it is not.
TEST(Sum, IsNotRoundedToStorageBeforeTheFactor) {
  const auto x = Array<float16>::filled(Shape{16}, static_cast<float16>(8192.0F));
  EXPECT_EQ(static_cast<float>(*ops::sum(x, {.scaling = scaling::umup}).data()), 32768);
}

template <class P> class SumIn : public testing::Test {};
TYPED_TEST_SUITE(SumIn, StoragePrecisions, PrecisionNames);

// In any order fewer than `columns` additions follow one another; the factor and the product with
// it are two more roundings. The gradient is the product of β = 1 and dy: exact.
TYPED_TEST(SumIn, ResultIsTheDoubleReferenceRoundedOnce) {
  using T = typename TypeParam::storage;
  for (const std::size_t columns : {std::size_t{1}, std::size_t{16}, std::size_t{37}}) {
    const std::size_t rows = 61;
    const auto x = normal_array<T>({rows, columns}, 6);
    const auto run = run_op(TypeParam{}, ops::Sum{.scaling = ideal}, x);
    std::vector<Reference> y;
    std::vector<Reference> dx;
    for (std::size_t i = 0; i < rows; ++i) {
      double total = 0;
      double magnitude = 0;
      for (std::size_t j = 0; j < columns; ++j) {
        const auto v = static_cast<double>(x.data()[i * columns + j]);
        total += v;
        magnitude += std::abs(v);
        dx.push_back({static_cast<double>(run.dy.data()[i]), 0});
      }
      const double root = std::sqrt(static_cast<double>(columns));
      y.push_back({total / root, static_cast<double>(columns + 2) * float_unit * magnitude / root});
    }
    expect_rounded(run.y, y);
    expect_rounded(std::get<0>(run.gradients), dx);
  }
}

TYPED_TEST(SumIn, ThreadCountChangesNoBit) {
  using T = typename TypeParam::storage;
  expect_thread_count_changes_no_bit(TypeParam{}, ops::Sum{}, normal_array<T>({211, 233}, 7));
  expect_thread_count_changes_no_bit(TypeParam{}, ops::Sum{}, normal_array<T>({40001, 3}, 8));
}

}  // namespace sum_test
