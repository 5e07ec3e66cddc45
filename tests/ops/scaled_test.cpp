// SPDX-License-Identifier: MIT
#include "unit_scaling/ops/scaled.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "support/errors.hpp"
#include "support/gradient_check.hpp"
#include "support/op_run.hpp"
#include "support/random_arrays.hpp"
#include "unit_scaling/autograd/tape.hpp"
#include "unit_scaling/ops/gelu.hpp"
#include "unit_scaling/ops/linear.hpp"

namespace scaled_test {

using namespace unit_scaling;
using namespace unit_scaling_test;

TEST(Scaled, PutsFactorsOfYourOwnInPlaceOfTheRules) {
  const auto x = normal_array<double>({3, 7}, 1);
  const auto plain = ops::gelu(x, {.scaling = scaling::none});
  for (const Scaling& rule : {scaling::none, scaling::paper}) {
    const auto y = ops::scaled(ops::Gelu{.scaling = rule}, 3, {5})(x);
    for (std::size_t i = 0; i < x.size(); ++i) {
      EXPECT_NEAR(y.data()[i], 3 * plain.data()[i], 1e-15);
    }
  }
}

TEST(Scaled, BackwardIsTheScaledGradientOfEveryArgument) {
  const auto bound = ops::scaled(ops::Linear{}, 0.5, {2, 3, 4});
  expect_scaled_gradients(bound.op, 1, normal_array<double>({5, 3}, 1),
                          normal_array<double>({4, 3}, 2), normal_array<double>({4}, 3));
  const Scales<3> s =
      bound.op.scales(normal_array<double>({5, 3}, 1), normal_array<double>({4, 3}, 2),
                      normal_array<double>({4}, 3));
  EXPECT_EQ(s, (Scales<3>{.forward = 0.5, .backward = {2, 3, 4}}));
}

TEST(Scaled, RecordsOnATape) {
  const auto op = ops::scaled(ops::Linear{}, 0.5, {2, 3});
  const auto value = normal_array<float>({1, 3}, 1);
  const Parameter weight{"weight", normal_array<float>({1, 3}, 2)};
  Tape<precision::fp32> tape;
  const auto x = tape.input(value);
  tape.backward(op(x, weight));
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_FLOAT_EQ(tape.gradient(x).data()[i], 2 * weight.value.data()[i]);
    EXPECT_FLOAT_EQ(tape.gradient(weight).data()[i], 3 * value.data()[i]);
  }
}

TEST(Scaled, StillChecksTheOpsArguments) {
  const auto op = ops::scaled(ops::Linear{}, 1, {1, 1});
  expect_shape_error(
      [&] {
        (void)op(normal_array<float>({2, 3}, 1), normal_array<float>({2, 4}, 1));
      },
      {"linear", "(2, 3)", "(2, 4)"});
}

TEST(Scaled, RefusesFactorsThatScaleNothing) {
  for (const double factor : {0.0, -1.0, std::numeric_limits<double>::infinity(),
                              std::numeric_limits<double>::quiet_NaN()}) {
    expect_domain_error([&] { (void)ops::scaled(ops::Gelu{}, factor, {1}); }, {"scaled"});
    expect_domain_error([&] { (void)ops::scaled(ops::Gelu{}, 1, {factor}); }, {"scaled"});
  }
}

}  // namespace scaled_test
