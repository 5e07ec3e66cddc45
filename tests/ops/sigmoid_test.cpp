// SPDX-License-Identifier: MIT
#include "unit_scaling/ops/sigmoid.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "support/activation_check.hpp"

namespace sigmoid_test {

using namespace unit_scaling;
using namespace unit_scaling_test;

// 1 / (1 + e) with an exponential within 1.1 ulp, a sum and a quotient: at most 5 units.
double logistic(double x) { return 1 / (1 + std::exp(-x)); }
const Activation reference{logistic, [](double x) { return logistic(x) * logistic(-x); },
                           [](double x) { return 5 * float_unit * logistic(x); },
                           [](double x) { return 11 * float_unit * logistic(x) * logistic(-x); }};

TEST(Sigmoid, GradientsShapesAndErrorsAreThoseOfAnElementwiseOp) {
  expect_gradients_shapes_and_errors<ops::Sigmoid>();
}

TEST(Sigmoid, FactorsAreTheReciprocalMomentsOfAQuadrature) {
  expect_factors_are_reciprocal_moments<ops::Sigmoid>(reference, 1e-12);
}

TEST(Sigmoid, OutputAndGradientHaveUnitScaleForGaussianInput) {
  expect_unit_scale_at_three_sizes<ops::Sigmoid>();
}

TEST(Sigmoid, SpecialValuesAreAsDocumented) {
  constexpr float infinity = std::numeric_limits<float>::infinity();
  const Array<float> x(Shape{4},
                       {std::numeric_limits<float>::quiet_NaN(), infinity, -infinity, -0.0F});
  const Array<float> y = ops::sigmoid(x, {.scaling = scaling::none});
  EXPECT_TRUE(std::isnan(y.data()[0]));
  EXPECT_EQ(y.data()[1], 1);
  EXPECT_EQ(y.data()[2], 0);
  EXPECT_EQ(y.data()[3], 0.5);
}

template <class P> class SigmoidIn : public testing::Test {};
TYPED_TEST_SUITE(SigmoidIn, StoragePrecisions, PrecisionNames);

TYPED_TEST(SigmoidIn, ResultIsTheDoubleReferenceRoundedOnceOnAnyNumberOfThreads) {
  expect_rounded_once_on_any_number_of_threads<TypeParam, ops::Sigmoid>(reference);
}

}  // namespace sigmoid_test
