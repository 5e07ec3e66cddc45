// SPDX-License-Identifier: MIT
#include "unit_scaling/optim/sgd.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "optim/optimiser_support.hpp"

namespace sgd_test {

using namespace unit_scaling;
using namespace unit_scaling_test;
using optim::Sgd;

static_assert(optim::Optimiser<Sgd>);

constexpr std::uint64_t steps = 10;
constexpr double rate = 0.1;
const Shape shape{5, 7};

auto sgd(const Sgd::Options& options) {
  return [=](const std::vector<Parameter*>& parameters) { return Sgd(parameters, options); };
}

/// Ten steps in double, straight from the textbook.
std::vector<double> reference(double momentum, double decay, bool nesterov) {
  const Array<float> start = test_parameter(ParameterKind::weight, shape).value;
  std::vector<double> p(start.span().begin(), start.span().end());
  std::vector<double> b(p.size(), 0);
  for (std::uint64_t step = 0; step < steps; ++step) {
    const Array<float> g = gradient_of_step(shape, step);
    for (std::size_t i = 0; i < p.size(); ++i) {
      const double slope = static_cast<double>(g.data()[i]) + decay * p[i];
      b[i] = momentum * b[i] + slope;
      p[i] -= rate * (nesterov ? slope + momentum * b[i] : b[i]);
    }
  }
  return p;
}

// A step has fewer than 16 roundings, of numbers below 32: the parameter, its slope and a momentum
// of at most ten slopes below 4 (they have random signs); ten steps, of which later ones carry
// earlier errors on, ten times at most (1 / (1 − μ)), times the rate of 0.1.
constexpr double tolerance = 10 * 16 * 32 * 0x1p-24;

TEST(Sgd, TenStepsAreThoseOfTheTextbook) {
  for (const double momentum : {0.0, 0.5, 0.9}) {
    for (const double decay : {0.0, 0.1}) {
      for (const bool nesterov : {false, true}) {
        SCOPED_TRACE(testing::Message() << momentum << " " << decay << " " << nesterov);
        const auto actual =
            trained(ParameterKind::weight, shape, steps, rate,
                    sgd({.momentum = momentum, .weight_decay = decay, .nesterov = nesterov}));
        const auto expected = reference(momentum, decay, nesterov);
        for (std::size_t i = 0; i < expected.size(); ++i) {
          EXPECT_NEAR(actual[0].data()[i], expected[i], tolerance) << i;
        }
      }
    }
  }
}

TEST(Sgd, OnlyWeightsAndReadOutsDecay) {
  const auto run = [](ParameterKind kind, double decay) {
    return trained(kind, shape, 3, rate, sgd({.weight_decay = decay}))[0];
  };
  for (const ParameterKind kind : {ParameterKind::bias, ParameterKind::norm}) {
    EXPECT_EQ(run(kind, 0.1), run(kind, 0));
  }
  for (const ParameterKind kind : {ParameterKind::weight, ParameterKind::output}) {
    EXPECT_NE(run(kind, 0.1), run(kind, 0));
  }
}

TEST(Sgd, DefaultIsMomentumWithoutDecay) {
  const auto plain = [](const std::vector<Parameter*>& parameters) { return Sgd(parameters); };
  EXPECT_EQ(trained(ParameterKind::weight, shape, steps, rate, plain),
            trained(ParameterKind::weight, shape, steps, rate, sgd({.momentum = 0.9})));
}

TEST(Sgd, LossScaleThatIsAPowerOfTwoChangesNoBit) {
  expect_loss_scale_changes_no_bit(sgd({.weight_decay = 0.1, .nesterov = true}));
}

TEST(Sgd, ThreadCountChangesNoBit) {
  expect_thread_count_changes_no_bit_of_training(sgd({.weight_decay = 0.1}));
}

TEST(Sgd, StateIsTheMomentumOfEachParameterAndTheSteps) {
  Parameter first = test_parameter(ParameterKind::weight, {2, 3}, "first");
  Parameter second = test_parameter(ParameterKind::bias, {4}, "second");
  Sgd optimiser({&first, &second});
  std::vector<std::string> names;
  std::vector<Shape> shapes;
  optimiser.for_each_state([&](const std::string& name, auto&) { names.push_back(name); });
  for_each_array(optimiser, [&](const std::string&, const Array<float>& state) {
    shapes.push_back(state.shape());
  });
  EXPECT_EQ(names, (std::vector<std::string>{"momentum.first", "momentum.second", "steps"}));
  EXPECT_EQ(shapes, (std::vector<Shape>{{2, 3}, {4}}));
}

TEST(Sgd, AParameterWithoutAGradientStaysAsItIs) {
  Parameter used = test_parameter(ParameterKind::weight, {3}, "used");
  Parameter unused = test_parameter(ParameterKind::weight, {3}, "unused");
  Sgd optimiser({&used, &unused}, {.weight_decay = 0.1});
  Tape<precision::fp32> tape;
  put_gradient(tape, used, gradient_of_step({3}, 0));
  const Array<float> before = unused.value;
  optimiser.step(tape, rate);
  EXPECT_EQ(unused.value, before);
  EXPECT_NE(used.value, before);
}

}  // namespace sgd_test
