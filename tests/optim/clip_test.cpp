// SPDX-License-Identifier: MIT
#include "unit_scaling/optim/clip.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "optim/optimiser_support.hpp"
#include "support/errors.hpp"
#include "unit_scaling/optim/gradient_sum.hpp"
#include "unit_scaling/optim/sgd.hpp"

namespace clip_test {

using namespace unit_scaling;
using namespace unit_scaling_test;

TEST(GradientNorm, IsTheRootOfTheSquaresOfAllGradients) {
  Parameter first = test_parameter(ParameterKind::weight, {3, 40000}, "first");
  Parameter second = test_parameter(ParameterKind::bias, {2}, "second");
  Parameter unused = test_parameter(ParameterKind::bias, {2}, "unused");
  const auto gradient = gradient_of_step({3, 40000}, 1);
  Tape<precision::fp32> tape;
  put_gradient(tape, first, gradient, 8);
  double squares = 0;
  for (const float g : gradient.span())
    squares += 64.0 * static_cast<double>(g) * static_cast<double>(g);
  const std::vector<Parameter*> parameters{&first, &second, &unused};
  EXPECT_NEAR(optim::gradient_norm(tape, parameters), std::sqrt(squares), 1e-4);
  EXPECT_NEAR(optim::gradient_norm(tape, parameters, 8), std::sqrt(squares) / 8, 1e-4);
  EXPECT_EQ(optim::gradient_norm(tape, {&second, &unused}), 0);
  expect_domain_error([&] { (void)optim::gradient_norm(tape, parameters, 0); },
                      {"gradient_norm", "loss scale"});
}

TEST(GradientNorm, OfANonFiniteGradientIsNotFinite) {
  Parameter parameter = test_parameter(ParameterKind::bias, {2});
  for (const float wrong : {std::numeric_limits<float>::infinity(), std::nanf("")}) {
    Tape<precision::fp32> tape;
    put_gradient(tape, parameter, Array<float>(Shape{2}, {1, wrong}));
    const double norm = optim::gradient_norm(tape, {&parameter});
    EXPECT_FALSE(std::isfinite(norm));
    expect_domain_error([&] { (void)optim::clip_factor(norm, 1); }, {"clip_factor", "skip"});
  }
}

TEST(ClipFactor, BoundsTheNormOfAStepThroughItsLossScale) {
  EXPECT_EQ(optim::clip_factor(0.5, 1), 1);
  EXPECT_EQ(optim::clip_factor(1, 1), 1);
  EXPECT_EQ(optim::clip_factor(4, 1), 0.25);
  EXPECT_EQ(optim::clip_factor(0, 1), 1);
  expect_domain_error([] { (void)optim::clip_factor(1, 0); }, {"clip_factor", "max_norm"});

  Parameter parameter{"p", Array<float>::filled({2}, 0), ParameterKind::weight};
  optim::Sgd optimiser({&parameter}, {.momentum = 0});
  Tape<precision::fp32> tape;
  put_gradient(tape, parameter, Array<float>(Shape{2}, {3, 4}), 16);
  const double norm = optim::gradient_norm(tape, {&parameter}, 16);
  EXPECT_EQ(norm, 5);
  optimiser.step(tape, 1, 16 / optim::clip_factor(norm, 1));
  EXPECT_FLOAT_EQ(parameter.value.data()[0], -0.6F);
  EXPECT_FLOAT_EQ(parameter.value.data()[1], -0.8F);
}

TEST(MaxNorm, ClipsASumOfSeveralBatchesByItsOwnNorm) {
  Parameter parameter{"p", Array<float>::filled({2}, 0), ParameterKind::weight};
  optim::Sgd optimiser({&parameter}, {.momentum = 0, .max_norm = 1});
  optim::GradientSum sum({&parameter});
  for (int batch = 0; batch < 2; ++batch) {
    Tape<precision::fp32> tape;
    put_gradient(tape, parameter, Array<float>(Shape{2}, {3, 4}), 16);
    sum.add(tape);
  }
  const double norm = optim::gradient_norm(sum, {&parameter}, 16);
  optimiser.step(sum, 1, 16);
  EXPECT_EQ(optimiser.last_gradient_norm(), norm);
  EXPECT_FLOAT_EQ(parameter.value.data()[0], -0.6F);
  EXPECT_FLOAT_EQ(parameter.value.data()[1], -0.8F);
  // At the norm, and below it, nothing is clipped.
  for (const float length : {0.2F, 0.1F}) {
    parameter.value = Array<float>::filled({2}, 0);
    Tape<precision::fp32> tape;
    put_gradient(tape, parameter, Array<float>(Shape{2}, {3 * length, 4 * length}));
    optimiser.step(tape, 1);
    EXPECT_FLOAT_EQ(parameter.value.data()[0], -3 * length);
    EXPECT_FLOAT_EQ(parameter.value.data()[1], -4 * length);
  }
}

}  // namespace clip_test
