// SPDX-License-Identifier: MIT
#include "unit_scaling/ops/tanh.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "support/activation_check.hpp"

namespace tanh_test {

using namespace unit_scaling;
using namespace unit_scaling_test;

// The function is within 3 ulp of tanh, hence 6 units; of 1 − t² the square doubles that.
const Activation reference{[](double x) { return std::tanh(x); },
                           [](double x) { return 1 - std::tanh(x) * std::tanh(x); },
                           [](double x) { return 6 * float_unit * std::abs(std::tanh(x)); },
                           [](double) { return 14 * float_unit; }};

TEST(Tanh, GradientsShapesAndErrorsAreThoseOfAnElementwiseOp) {
  expect_gradients_shapes_and_errors<ops::Tanh>();
}

TEST(Tanh, FactorsAreTheReciprocalMomentsOfAQuadrature) {
  expect_factors_are_reciprocal_moments<ops::Tanh>(reference, 1e-12);
}

TEST(Tanh, OutputAndGradientHaveUnitScaleForGaussianInput) {
  expect_unit_scale_at_three_sizes<ops::Tanh>();
}

TEST(Tanh, SpecialValuesAreAsDocumented) {
  constexpr float infinity = std::numeric_limits<float>::infinity();
  const Array<float> x(Shape{4},
                       {std::numeric_limits<float>::quiet_NaN(), infinity, -infinity, -0.0F});
  const Array<float> y = ops::tanh(x, {.scaling = scaling::none});
  EXPECT_TRUE(std::isnan(y.data()[0]));
  EXPECT_EQ(y.data()[1], 1);
  EXPECT_EQ(y.data()[2], -1);
  EXPECT_EQ(y.data()[3], 0);
}

template <class P> class TanhIn : public testing::Test {};
TYPED_TEST_SUITE(TanhIn, StoragePrecisions, PrecisionNames);

TYPED_TEST(TanhIn, ResultIsTheDoubleReferenceRoundedOnceOnAnyNumberOfThreads) {
  expect_rounded_once_on_any_number_of_threads<TypeParam, ops::Tanh>(reference);
}

}  // namespace tanh_test
