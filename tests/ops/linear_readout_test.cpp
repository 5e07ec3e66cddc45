// SPDX-License-Identifier: MIT
#include "unit_scaling/ops/linear_readout.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <tuple>

#include "support/errors.hpp"
#include "support/gradient_check.hpp"
#include "support/op_run.hpp"
#include "support/random_arrays.hpp"
#include "support/rounding_check.hpp"
#include "support/statistics.hpp"

namespace linear_readout_test {

using namespace unit_scaling;
using namespace unit_scaling_test;

TEST(LinearReadout, BackwardIsTheScaledGradient) {
  const auto x = normal_array<double>({2, 3, 7}, 1);
  const auto w = normal_array<double>({5, 7}, 2);
  expect_scaled_gradients_under_all_rules(ops::LinearReadout{}, x, w);
  expect_scaled_gradients_under_all_rules(ops::LinearReadout{}, x, w, normal_array<double>({5}, 3));
}

TEST(LinearReadout, FactorsAreFreeUnlessTheyAreBoundByName) {
  const auto x = normal_array<float>({10, 16}, 1);
  const auto w = normal_array<float>({25, 16}, 2);
  const auto scales = [&](const Scaling& scaling) {
    return ops::LinearReadout{.scaling = scaling}.scales(x, w);
  };
  const double rows = 1 / std::sqrt(10.0);
  EXPECT_EQ(scales(scaling::paper), (Scales<2>{.forward = 0.25, .backward = {0.2, rows}}));
  EXPECT_EQ(scales(scaling::umup), (Scales<2>{.forward = 1.0 / 16, .backward = {0.2, rows}}));
  EXPECT_EQ(scales(scaling::umup.with(constraint::to_output_scale)),
            (Scales<2>{.forward = 1.0 / 16, .backward = {1.0 / 16, rows}}));
  EXPECT_EQ(scales(scaling::none), Scales<2>{});
}

// The relative standard error of the smallest sample, 96 · 48 numbers, is 1 %.
TEST(LinearReadout, GradientsHaveUnitScaleAndLogitsThatOfTheRule) {
  struct Sizes {
    std::size_t rows, fan_in, fan_out;
  };
  for (const Sizes& n : {Sizes{96, 128, 48}, Sizes{64, 512, 256}, Sizes{256, 64, 1000}}) {
    const auto x = normal_array<float>({n.rows, n.fan_in}, 1);
    const auto w = normal_array<float>({n.fan_out, n.fan_in}, 2);
    for (const Scaling& rule : {scaling::paper, scaling::umup}) {
      const auto run = run_op(precision::fp32{}, ops::LinearReadout{.scaling = rule}, x, w);
      const double expected =
          rule.rule == Rule::umup ? 1 / std::sqrt(static_cast<double>(n.fan_in)) : 1;
      EXPECT_NEAR(standard_deviation(run.y) / expected, 1, 0.1);
      EXPECT_NEAR(rms(std::get<0>(run.gradients)), 1, 0.1);
      EXPECT_NEAR(rms(std::get<1>(run.gradients)), 1, 0.1);
    }
  }
}

TEST(LinearReadout, RejectsWhatALinearLayerRejects) {
  expect_shape_error(
      [] {
        (void)ops::linear_readout(normal_array<float>({2, 3}, 1), normal_array<float>({5, 4}, 1));
      },
      {"linear", "(2, 3)", "(5, 4)"});
}

TEST(LinearReadout, TakesEmptySizesAndOnes) {
  for (const Shape& shape : {Shape{0, 3}, Shape{3, 0}, Shape{1, 1}}) {
    expect_gradients_have_argument_shapes(precision::fp8{}, ops::LinearReadout{},
                                          normal_array<float16>(shape, 1),
                                          normal_array<float16>({5, shape[1]}, 2));
  }
}

template <class P> class LinearReadoutIn : public testing::Test {};
TYPED_TEST_SUITE(LinearReadoutIn, StoragePrecisions, PrecisionNames);

TYPED_TEST(LinearReadoutIn, IsALinearLayerUnderItsFactorsToTheBit) {
  using T = typename TypeParam::storage;
  const auto x = normal_array<T>({37, 29}, 1);
  const auto w = normal_array<T>({41, 29}, 2);
  const auto run = run_op(TypeParam{}, ops::LinearReadout{.scaling = scaling::umup}, x, w);
  const ops::Linear layer{.scaling = scaling::umup.with(constraint::none), .power = {1, 0.5, 0.5}};
  const auto expected = run_op(TypeParam{}, layer, x, w);
  EXPECT_TRUE(same_bits(run.y, expected.y));
  EXPECT_TRUE(same_bits(std::get<0>(run.gradients), std::get<0>(expected.gradients)));
  EXPECT_TRUE(same_bits(std::get<1>(run.gradients), std::get<1>(expected.gradients)));
}

}  // namespace linear_readout_test
