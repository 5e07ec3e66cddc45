// SPDX-License-Identifier: MIT
#include "unit_scaling/optim/encoded_gradients.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <map>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "optim/optimiser_support.hpp"
#include "support/errors.hpp"
#include "support/threads.hpp"
#include "unit_scaling/core/random.hpp"
#include "unit_scaling/optim/adam.hpp"

namespace encoded_gradients_test {

using namespace unit_scaling;
using namespace unit_scaling_test;
using optim::EncodedGradients;

struct Gradients {
  std::map<const Parameter*, Array<float>> of;
  [[nodiscard]] const Array<float>& gradient(const Parameter& parameter) const {
    return of.at(&parameter);
  }
};

/// The nearest number of E4M3, by trying all codes; of two the one whose code is even.
double nearest(double x) {
  if (std::isnan(x)) return x;
  if (std::abs(x) >= 448) return std::copysign(448, x);
  double best = 0;
  bool is_even = true;
  for (int code = 0; code < 0x7f; ++code) {
    const int field = code >> 3;
    const int fraction = code & 7;
    const double number =
        field == 0 ? std::ldexp(fraction, -9) : std::ldexp(8 + fraction, field - 10);
    const double distance = std::abs(std::abs(x) - number);
    const double before = std::abs(std::abs(x) - best);
    if (distance < before || (distance == before && !is_even)) {
      best = number;
      is_even = code % 2 == 0;
    }
  }
  return std::copysign(best, x);
}

TEST(EncodedGradients, AreTheNearestNumbersOfE4m3) {
  for (const double factor : {1.0, 0x1p-3, 0x1p9, 3.0}) {
    Parameter parameter = test_parameter(ParameterKind::weight, {37, 29});
    Array<float> gradient({37, 29});
    const Random random(1, RandomStream::general, 0);
    for (std::size_t i = 0; i < gradient.size(); ++i) {
      const double size = std::exp2(static_cast<double>(i % 40) - 22);
      gradient.mutable_data()[i] = static_cast<float>(random.normal(i) * size);
    }
    const std::vector<float> corners = {0.0F,     -0.0F,     448.0F,   464.0F,  -465.0F, 0x1p-9F,
                                        0x1p-10F, 0x1p-149F, -1.0625F, 1.1875F, 3e38F};
    std::copy(corners.begin(), corners.end(), gradient.mutable_data());
    EncodedGradients gradients({&parameter}, {.initial = factor});
    gradients.take(Gradients{{{&parameter, gradient}}});
    EXPECT_EQ(gradients.factor(), factor);
    const Array<float8_e4m3fn>& codes = gradients.gradient(parameter);
    ASSERT_EQ(codes.shape(), parameter.shape());
    for (std::size_t i = 0; i < codes.size(); ++i) {
      const double x = static_cast<double>(gradient.data()[i] * static_cast<float>(factor));
      EXPECT_EQ(static_cast<double>(static_cast<float>(codes.data()[i])), nearest(x)) << x;
      EXPECT_EQ(std::signbit(static_cast<float>(codes.data()[i])), std::signbit(x)) << x;
    }
  }
}

TEST(EncodedGradients, GiveAdamTheStepOfTheNumbersThatTheyStandFor) {
  Parameter parameter = test_parameter(ParameterKind::weight, {5, 7});
  Parameter expected = test_parameter(ParameterKind::weight, {5, 7});
  optim::Adam adam({&parameter});
  optim::Adam adam_of_expected({&expected});
  EncodedGradients gradients({&parameter}, {.initial = 0x1p6});
  for (std::uint64_t step = 0; step < 3; ++step) {
    Array<float> gradient = gradient_of_step({5, 7}, step);
    gradients.take(Gradients{{{&parameter, gradient}}});
    adam.step(gradients, 0.1, gradients.factor());
    for (float& each : gradient.mutable_span()) {
      const double factor = gradients.factor();
      each = static_cast<float>(nearest(static_cast<double>(each) * factor) / factor);
    }
    adam_of_expected.step(Gradients{{{&expected, gradient}}}, 0.1);
    for (std::size_t i = 0; i < gradient.size(); ++i) {
      EXPECT_NEAR(parameter.value.data()[i], expected.value.data()[i], 1e-6F);
    }
  }
}

TEST(EncodedGradients, HalveTheFactorWhenTooManySaturate) {
  Parameter parameter = test_parameter(ParameterKind::weight, {100, 100});
  EncodedGradients gradients({&parameter}, {.doubling_steps = 1});
  Array<float> gradient = Array<float>::filled({100, 100}, 1);
  const auto next_factor = [&] {
    gradients.take(Gradients{{{&parameter, gradient}}});
    gradients.take(Gradients{{{&parameter, gradient}}});
    return gradients.factor();
  };
  EXPECT_EQ(next_factor(), 2);
  gradient.mutable_data()[4321] = -1e4F;  // one of 10 000 is more than 0.001 %
  EXPECT_EQ(next_factor(), 2);            // 4 in the first step, 2 in the second
}

TEST(EncodedGradients, TellTheOptimiserOfWhatIsNotFinite) {
  for (const float bad :
       {std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(),
        std::numeric_limits<float>::quiet_NaN()}) {
    Parameter parameter = test_parameter(ParameterKind::weight, {5, 7});
    optim::Adam adam({&parameter});
    EncodedGradients gradients({&parameter});
    Array<float> gradient = gradient_of_step({5, 7}, 0);
    gradient.mutable_data()[33] = bad;
    gradients.take(Gradients{{{&parameter, gradient}}});
    EXPECT_EQ(optim::first_non_finite(gradients, {&parameter}), &parameter);
    expect_domain_error([&] { adam.step(gradients, 0.1, gradients.factor()); }, {"finite", "'p'"});
  }
}

TEST(EncodedGradients, OfNoNumbersAndOfParametersWithoutAGradientAreEmpty) {
  Parameter parameter = test_parameter(ParameterKind::weight, {3, 0});
  Parameter other = test_parameter(ParameterKind::weight, {2, 2});
  other.name = "other";
  EncodedGradients gradients({&parameter, &other});
  gradients.take(Gradients{{{&parameter, Array<float>({3, 0})}, {&other, Array<float>()}}});
  EXPECT_EQ(gradients.gradient(parameter).shape(), (Shape{3, 0}));
  EXPECT_TRUE(gradients.gradient(other).empty());
  EXPECT_EQ(gradients.factor(), 1);
  const Parameter unknown = test_parameter(ParameterKind::weight, {2, 2});
  EXPECT_TRUE(gradients.gradient(unknown).empty());
}

TEST(EncodedGradients, AreNoneAfterASourceThatThrows) {
  Parameter first = test_parameter(ParameterKind::weight, {2, 2});
  Parameter second = test_parameter(ParameterKind::weight, {2, 2});
  second.name = "second";
  EncodedGradients gradients({&first, &second}, {.doubling_steps = 1});
  const Array<float> ones = Array<float>::filled({2, 2}, 1);
  gradients.take(Gradients{{{&first, ones}, {&second, ones}}});
  EXPECT_THROW(gradients.take(Gradients{{{&first, ones}}}), std::out_of_range);
  EXPECT_TRUE(gradients.gradient(first).empty());
  EXPECT_TRUE(gradients.gradient(second).empty());
  gradients.take(Gradients{{{&first, ones}, {&second, ones}}});
  EXPECT_EQ(static_cast<float>(gradients.gradient(second).data()[0]), 2);
  EXPECT_EQ(gradients.factor(), 2);
}

TEST(EncodedGradients, AreTheSameForAnyNumberOfThreads) {
  const auto run = [](std::size_t threads) {
    const ThreadCountScope scope(threads);
    Parameter parameter = test_parameter(ParameterKind::weight, {211, 233});
    EncodedGradients gradients({&parameter}, {.initial = 300});
    gradients.take(Gradients{{{&parameter, gradient_of_step({211, 233}, 1)}}});
    gradients.take(Gradients{{{&parameter, gradient_of_step({211, 233}, 2)}}});
    return std::pair{gradients.gradient(parameter), gradients.factor()};
  };
  const auto expected = run(1);
  for (const std::size_t threads : {2U, 3U, 7U}) EXPECT_EQ(run(threads), expected);
}

TEST(EncodedGradients, RefuseAParameterThatIsGivenTwice) {
  Parameter parameter = test_parameter(ParameterKind::weight, {3, 5});
  expect_domain_error(
      [&] {
        EncodedGradients({&parameter, &parameter});
      },
      {"EncodedGradients", "once", "'p'"});
}

}  // namespace encoded_gradients_test
