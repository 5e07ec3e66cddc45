// SPDX-License-Identifier: MIT
// What every optimiser refuses.
#include "unit_scaling/optim/optimiser.hpp"

#include <gtest/gtest.h>

#include <limits>
#include <string>
#include <vector>

#include "optim/optimiser_support.hpp"
#include "support/errors.hpp"
#include "unit_scaling/optim/adam.hpp"
#include "unit_scaling/optim/lamb.hpp"
#include "unit_scaling/optim/sgd.hpp"

namespace {

using namespace unit_scaling;
using namespace unit_scaling_test;

template <class T> class EveryOptimiser : public testing::Test {};
using Optimisers = testing::Types<optim::Sgd, optim::Adam, optim::AdamW, optim::Lamb>;
TYPED_TEST_SUITE(EveryOptimiser, Optimisers);

TYPED_TEST(EveryOptimiser, RefusesParametersThatAreMissingOrNamedTwice) {
  Parameter parameter = test_parameter(ParameterKind::weight, {3});
  expect_domain_error([] { TypeParam(std::vector<Parameter*>{nullptr}); }, {"null"});
  expect_domain_error([&] { TypeParam({&parameter, &parameter}); }, {"twice", "p"});
}

TYPED_TEST(EveryOptimiser, RefusesAStepWithoutGradientsAndDoesNotCountIt) {
  Parameter parameter = test_parameter(ParameterKind::weight, {3});
  const Array<float> before = parameter.value;
  TypeParam optimiser({&parameter});
  Tape<precision::fp32> tape;
  expect_domain_error([&] { optimiser.step(tape, 0.1); }, {"gradients", "backward"});
  put_gradient(tape, parameter, gradient_of_step({3}, 0));
  tape.clear();
  expect_domain_error([&] { optimiser.step(tape, 0.1); }, {"gradients", "backward"});
  EXPECT_EQ(optimiser.steps(), 0U);
  EXPECT_EQ(parameter.value, before);
}

TYPED_TEST(EveryOptimiser, RefusesRatesAndLossScalesThatAreNoNumbers) {
  Parameter parameter = test_parameter(ParameterKind::weight, {3});
  const Array<float> before = parameter.value;
  TypeParam optimiser({&parameter});
  Tape<precision::fp32> tape;
  put_gradient(tape, parameter, gradient_of_step({3}, 0));
  const double infinity = std::numeric_limits<double>::infinity();
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (const double rate : {infinity, nan}) {
    expect_domain_error([&] { optimiser.step(tape, rate); }, {"learning rate"});
  }
  for (const double loss_scale : {0.0, -1.0, infinity, nan}) {
    expect_domain_error([&] { optimiser.step(tape, 0.1, loss_scale); }, {"loss scale"});
  }
  EXPECT_EQ(optimiser.steps(), 0U);
  EXPECT_EQ(parameter.value, before);
}

TYPED_TEST(EveryOptimiser, TakesEmptyParametersAndNone) {
  Parameter parameter = test_parameter(ParameterKind::weight, {0, 3});
  Tape<precision::fp32> tape;
  TypeParam of_empty({&parameter});
  of_empty.step(tape, 0.1);
  TypeParam of_none(std::vector<Parameter*>{});
  of_none.step(tape, 0.1);
  EXPECT_EQ(of_none.steps(), 1U);
}

}  // namespace
