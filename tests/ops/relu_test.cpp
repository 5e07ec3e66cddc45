// SPDX-License-Identifier: MIT
#include "unit_scaling/ops/relu.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "support/activation_check.hpp"

namespace relu_test {

using namespace unit_scaling;
using namespace unit_scaling_test;

constexpr Activation reference{[](double x) { return x > 0 ? x : 0; },
                               [](double x) { return x > 0 ? 1.0 : 0.0; },
                               [](double) { return 0.0; }, [](double) { return 0.0; }};

TEST(Relu, GradientsShapesAndErrorsAreThoseOfAnElementwiseOp) {
  expect_gradients_shapes_and_errors<ops::Relu>();
}

// The slope's sum leaves out half of the weight at its jump, 1/2 φ(0) / 64 = 0.003 of a half.
TEST(Relu, FactorsAreTheReciprocalMomentsOfAQuadrature) {
  expect_factors_are_reciprocal_moments<ops::Relu>(reference, 0.01);
}

TEST(Relu, OutputAndGradientHaveUnitScaleForGaussianInput) {
  expect_unit_scale_at_three_sizes<ops::Relu>();
}

TEST(Relu, SpecialValuesAreAsDocumented) {
  constexpr float infinity = std::numeric_limits<float>::infinity();
  const Array<float> x(Shape{4},
                       {std::numeric_limits<float>::quiet_NaN(), infinity, -infinity, -0.0F});
  const Array<float> y = ops::relu(x, {.scaling = scaling::none});
  EXPECT_TRUE(std::isnan(y.data()[0]));
  EXPECT_EQ(y.data()[1], infinity);
  EXPECT_EQ(y.data()[2], 0);
  EXPECT_EQ(y.data()[3], 0);
}

template <class P> class ReluIn : public testing::Test {};
TYPED_TEST_SUITE(ReluIn, StoragePrecisions, PrecisionNames);

TYPED_TEST(ReluIn, ResultIsTheDoubleReferenceRoundedOnceOnAnyNumberOfThreads) {
  expect_rounded_once_on_any_number_of_threads<TypeParam, ops::Relu>(reference);
}

}  // namespace relu_test
