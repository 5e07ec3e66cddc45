// SPDX-License-Identifier: MIT
#include "unit_scaling/ops/mean.hpp"

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

namespace mean_test {

using namespace unit_scaling;
using namespace unit_scaling_test;

constexpr Scaling ideal = scaling::paper.with(constraint::none);

TEST(Mean, BackwardIsTheScaledGradient) {
  for (const Shape& shape : {Shape{1}, Shape{5}, Shape{3, 7}, Shape{2, 3, 5}, Shape{}}) {
    SCOPED_TRACE(to_string(shape));
    expect_scaled_gradients_under_all_rules(ops::Mean{}, normal_array<double>(shape, 1));
  }
}

// As for Sum: at least 4001 independent rows, a relative standard error of 0.011.
TEST(Mean, OutputAndGradientHaveUnitScaleForGaussianInput) {
  for (const Shape& shape : {Shape{4001, 3}, Shape{65, 63, 64}, Shape{10007, 33}}) {
    const auto run =
        run_op(precision::fp32{}, ops::Mean{.scaling = ideal}, normal_array<float>(shape, 2));
    EXPECT_NEAR(standard_deviation(run.y), 1, 0.1) << to_string(shape);
    EXPECT_NEAR(rms(std::get<0>(run.gradients)), 1, 0.1) << to_string(shape);
  }
}

TEST(Mean, FactorsAreTheNumberOfTermsAndItsRoot) {
  const Array<float> x(Shape{3, 16});
  EXPECT_EQ(ops::Mean{.scaling = ideal}.scales(x), (Scales<1>{.forward = 4, .backward = {16}}));
  // (4 · 16)^½, within the rounding of exp(log) in double.
  EXPECT_NEAR(ops::Mean{}.scales(x).forward, 8, 1e-14);
  EXPECT_EQ(ops::Mean{}.scales(x).backward[0], ops::Mean{}.scales(x).forward);
  EXPECT_EQ(ops::Mean{.scaling = scaling::umup}.scales(x),
            (Scales<1>{.forward = 4, .backward = {4}}));
  EXPECT_EQ(ops::Mean{.scaling = scaling::none}.scales(x), Scales<1>{});
}

TEST(Mean, IsTheTextbookMeanAndItsGradientWithoutScaling) {
  const Array<float> x(Shape{2, 1, 4}, {1, 2, 3, 6, 40, 50, 60, 10});
  const auto run = run_op_with(
      precision::fp32{}, ops::Mean{.scaling = scaling::none}, Scales<1>{},
      [](const auto& y) {
        return Array<float>(y.shape(), {8, -4});
      },
      x);
  EXPECT_EQ(run.y, (Array<float>(Shape{2, 1}, {3, 40})));
  EXPECT_EQ(std::get<0>(run.gradients),
            (Array<float>(Shape{2, 1, 4}, {2, 2, 2, 2, -1, -1, -1, -1})));
}

TEST(Mean, OfASingleNumberIsThatNumber) {
  EXPECT_EQ(ops::mean(Array<float>::filled(Shape{}, 3)), Array<float>::filled(Shape{}, 3));
}

TEST(Mean, OfNothingIsAnError) {
  for (const Shape& shape : {Shape{0}, Shape{3, 0}, Shape{0, 0}}) {
    for (const Scaling& scaling : {ideal, scaling::paper, scaling::umup, scaling::none}) {
      expect_domain_error([&] { (void)ops::mean(Array<float>(shape), {.scaling = scaling}); },
                          {"mean", to_string(shape)});
    }
  }
}

TEST(Mean, RejectsAGradientOfAnotherShape) {
  const auto x = normal_array<float>({2, 3}, 3);
  const ops::Mean op;
  const auto forward = op.forward(precision::fp32{}, op.scales(x), x);
  expect_shape_error(
      [&] {
        (void)op.backward(precision::fp32{}, op.scales(x), forward.saved,
                          normal_array<float>({3}, 4));
      },
      {"mean", "(2)", "(3)"});
}

TEST(Mean, TakesNoRowsAndScalars) {
  for (const Shape& shape : {Shape{0, 3}, Shape{}, Shape{1}, Shape{17}, Shape{5, 17}}) {
    expect_gradients_have_argument_shapes(precision::fp8{}, ops::Mean{},
                                          normal_array<float16>(shape, 5));
  }
}

TEST(Mean, NanAndInfinityReachTheirOwnRowOnly) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const Array<float> x(Shape{5, 2},
                       {nan, 1, -HUGE_VALF, 1, HUGE_VALF, -HUGE_VALF, -0.0F, -0.0F, 1, 2});
  const auto y = ops::mean(x, {.scaling = scaling::none});
  EXPECT_TRUE(std::isnan(y.data()[0]));
  EXPECT_EQ(y.data()[1], -HUGE_VALF);
  EXPECT_TRUE(std::isnan(y.data()[2]));
  EXPECT_EQ(y.data()[3], 0);
  EXPECT_EQ(y.data()[4], 1.5);
}

template <class P> class MeanIn : public testing::Test {};
TYPED_TEST_SUITE(MeanIn, StoragePrecisions, PrecisionNames);

// In any order fewer than `columns` additions follow one another; the factor and the product with
// it are two more roundings, and the gradient has no others.
TYPED_TEST(MeanIn, ResultIsTheDoubleReferenceRoundedOnce) {
  using T = typename TypeParam::storage;
  for (const std::size_t columns : {std::size_t{1}, std::size_t{16}, std::size_t{37}}) {
    const std::size_t rows = 61;
    const auto n = static_cast<double>(columns);
    const auto x = normal_array<T>({rows, columns}, 6);
    const auto run = run_op(TypeParam{}, ops::Mean{}, x);
    // The geometric mean of n^½ and n.
    const double factor = std::pow(n, 0.75);
    std::vector<Reference> y;
    std::vector<Reference> dx;
    for (std::size_t i = 0; i < rows; ++i) {
      double total = 0;
      double magnitude = 0;
      const double gradient = factor / n * static_cast<double>(run.dy.data()[i]);
      for (std::size_t j = 0; j < columns; ++j) {
        const auto v = static_cast<double>(x.data()[i * columns + j]);
        total += v;
        magnitude += std::abs(v);
        dx.push_back({gradient, 3 * float_unit * std::abs(gradient)});
      }
      y.push_back({factor * total / n, (n + 2) * float_unit * factor * magnitude / n});
    }
    expect_rounded(run.y, y);
    expect_rounded(std::get<0>(run.gradients), dx);
  }
}

TYPED_TEST(MeanIn, ThreadCountChangesNoBit) {
  using T = typename TypeParam::storage;
  expect_thread_count_changes_no_bit(TypeParam{}, ops::Mean{}, normal_array<T>({211, 233}, 7));
  expect_thread_count_changes_no_bit(TypeParam{}, ops::Mean{}, normal_array<T>({40001, 3}, 8));
}

}  // namespace mean_test
