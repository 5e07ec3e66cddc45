// SPDX-License-Identifier: MIT
#include "unit_scaling/optim/adam.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "optim/optimiser_support.hpp"
#include "support/errors.hpp"

namespace adam_test {

using namespace unit_scaling;
using namespace unit_scaling_test;
using optim::Adam;
using optim::AdamW;
using optim::WeightDecay;

static_assert(optim::Optimiser<Adam>);
static_assert(optim::Optimiser<AdamW>);

constexpr std::uint64_t steps = 10;
constexpr double rate = 0.1;
const Shape shape{5, 7};

auto adam(const Adam::Options& options) {
  return [=](const std::vector<Parameter*>& parameters) { return Adam(parameters, options); };
}

/// Ten steps in double, straight from the papers.
std::vector<double> reference(double beta1, double beta2, double epsilon, double decay,
                              WeightDecay kind, double learning_rate) {
  const Array<float> start = test_parameter(ParameterKind::weight, shape).value;
  std::vector<double> p(start.span().begin(), start.span().end());
  std::vector<double> m(p.size(), 0);
  std::vector<double> v(p.size(), 0);
  for (std::uint64_t step = 1; step <= steps; ++step) {
    const Array<float> gradient = gradient_of_step(shape, step - 1);
    const auto t = static_cast<double>(step);
    for (std::size_t i = 0; i < p.size(); ++i) {
      auto g = static_cast<double>(gradient.data()[i]);
      if (kind == WeightDecay::coupled) g += decay * p[i];
      m[i] = beta1 * m[i] + (1 - beta1) * g;
      v[i] = beta2 * v[i] + (1 - beta2) * g * g;
      const double m_hat = m[i] / (1 - std::pow(beta1, t));
      const double v_hat = v[i] / (1 - std::pow(beta2, t));
      if (kind == WeightDecay::decoupled) p[i] -= learning_rate * decay * p[i];
      if (kind == WeightDecay::independent) p[i] -= decay * p[i];
      p[i] -= learning_rate * m_hat / (std::sqrt(v_hat) + epsilon);
    }
  }
  return p;
}

// A step moves a parameter below 4 by at most about the rate: an update of below 32 roundings, in
// moments that carry the errors of ten steps, and 4 roundings of the parameter itself.
constexpr double tolerance = 10 * (rate * 10 * 32 + 4 * 4) * 0x1p-24;

TEST(Adam, TenStepsAreThoseOfThePaper) {
  for (const WeightDecay kind :
       {WeightDecay::coupled, WeightDecay::decoupled, WeightDecay::independent}) {
    // An independent decay of 0.1 would be refused.
    for (const double decay : {0.0, kind == WeightDecay::independent ? 0x1p-7 : 0.1}) {
      for (const double epsilon : {1e-8, 0.1}) {
        SCOPED_TRACE(testing::Message()
                     << static_cast<int>(kind) << " " << decay << " " << epsilon);
        const auto actual = trained(ParameterKind::weight, shape, steps, rate,
                                    adam({.beta1 = 0.8,
                                          .beta2 = 0.95,
                                          .epsilon = epsilon,
                                          .weight_decay = decay,
                                          .decay = kind}));
        const auto expected = reference(0.8, 0.95, epsilon, decay, kind, rate);
        for (std::size_t i = 0; i < expected.size(); ++i) {
          EXPECT_NEAR(actual[0].data()[i], expected[i], tolerance) << i;
        }
      }
    }
  }
}

TEST(Adam, DefaultsAreThoseOfThePapers) {
  const auto plain = [](const std::vector<Parameter*>& parameters) { return Adam(parameters); };
  const auto with_decay = [](const std::vector<Parameter*>& parameters) {
    return AdamW(parameters);
  };
  const auto actual = trained(ParameterKind::weight, shape, steps, rate, plain)[0];
  const auto actual_w = trained(ParameterKind::weight, shape, steps, rate, with_decay)[0];
  const auto expected = reference(0.9, 0.999, 1e-8, 0, WeightDecay::coupled, rate);
  // u-μP's decay.
  const auto expected_w = reference(0.9, 0.999, 1e-8, 0x1p-13, WeightDecay::independent, rate);
  for (std::size_t i = 0; i < expected.size(); ++i) {
    EXPECT_NEAR(actual.data()[i], expected[i], tolerance) << i;
    EXPECT_NEAR(actual_w.data()[i], expected_w[i], tolerance) << i;
  }
}

TEST(Adam, IndependentDecayDoesNotDependOnTheLearningRate) {
  const auto run = adam({.weight_decay = 0x1p-7, .decay = WeightDecay::independent});
  const auto value = trained(ParameterKind::weight, shape, 2, 0, run)[0];
  const auto start = test_parameter(ParameterKind::weight, shape).value;
  for (std::size_t i = 0; i < value.size(); ++i) {
    const double expected = (1 - 0x1p-7) * (1 - 0x1p-7) * static_cast<double>(start.data()[i]);
    EXPECT_NEAR(value.data()[i], expected, 2 * 0x1p-24 * std::abs(expected));  // two roundings
  }
}

TEST(Adam, OnlyWeightsAndReadOutsDecay) {
  for (const WeightDecay decay :
       {WeightDecay::coupled, WeightDecay::decoupled, WeightDecay::independent}) {
    const auto run = [&](ParameterKind kind, double lambda) {
      return trained(kind, shape, 3, rate, adam({.weight_decay = lambda, .decay = decay}))[0];
    };
    for (const ParameterKind kind : {ParameterKind::bias, ParameterKind::norm}) {
      EXPECT_EQ(run(kind, 0x1p-7), run(kind, 0));
    }
    for (const ParameterKind kind : {ParameterKind::weight, ParameterKind::output}) {
      EXPECT_NE(run(kind, 0x1p-7), run(kind, 0));
    }
  }
}

TEST(Adam, UnderTheRulesTheRateOfANormalisationIsDividedByTheRootOfItsSize) {
  const Shape size{16};
  const auto ruled = adam({.rule = Rule::paper});
  EXPECT_EQ(trained(ParameterKind::norm, size, steps, rate, ruled),
            trained(ParameterKind::norm, size, steps, rate / 4, adam({})));
  for (const ParameterKind kind :
       {ParameterKind::weight, ParameterKind::bias, ParameterKind::output}) {
    EXPECT_EQ(trained(kind, size, steps, rate, ruled), trained(kind, size, steps, rate, adam({})));
  }
}

TEST(LearningRateFactor, IsTheInverseRootOfTheSizeForNormalisationsUnderTheRules) {
  const Parameter norm = test_parameter(ParameterKind::norm, {64});
  EXPECT_EQ(optim::learning_rate_factor(Rule::paper, norm), 0.125);
  EXPECT_EQ(optim::learning_rate_factor(Rule::none, norm), 1);
  EXPECT_EQ(optim::learning_rate_factor(Rule::paper, test_parameter(ParameterKind::norm, {0})), 1);
  for (const ParameterKind kind :
       {ParameterKind::weight, ParameterKind::bias, ParameterKind::output}) {
    EXPECT_EQ(optim::learning_rate_factor(Rule::paper, test_parameter(kind, {64})), 1);
  }
}

TEST(Adam, LossScaleThatIsAPowerOfTwoChangesNoBit) {
  expect_loss_scale_changes_no_bit(adam({.weight_decay = 0.1, .decay = WeightDecay::decoupled}));
}

TEST(Adam, ThreadCountChangesNoBit) {
  expect_thread_count_changes_no_bit_of_training(adam({.weight_decay = 0.1}));
}

TEST(Adam, StateIsBothMomentsOfEachParameterAndTheSteps) {
  Parameter first = test_parameter(ParameterKind::weight, {2, 3}, "first");
  Parameter second = test_parameter(ParameterKind::bias, {4}, "second");
  Adam optimiser({&first, &second});
  std::vector<std::string> names;
  std::vector<Shape> shapes;
  optimiser.for_each_state([&](const std::string& name, auto&) { names.push_back(name); });
  for_each_array(optimiser, [&](const std::string&, const Array<float>& state) {
    shapes.push_back(state.shape());
  });
  EXPECT_EQ(names,
            (std::vector<std::string>{"first_moment.first", "second_moment.first",
                                      "first_moment.second", "second_moment.second", "steps"}));
  EXPECT_EQ(shapes, (std::vector<Shape>{{2, 3}, {2, 3}, {4}, {4}}));
}

TEST(AdamW, RejectsCoupledDecay) {
  Parameter parameter = test_parameter(ParameterKind::weight, {3});
  expect_domain_error(
      [&] {
        const AdamW optimiser({&parameter}, {.weight_decay = 0.1, .decay = WeightDecay::coupled});
      },
      {"AdamW", "decoupled"});
}

TEST(AdamW, DecaysAsSaidOrByItsDefaultWhateverElseIsAskedFor) {
  const auto expect_decay = [](const Adam::Options& options, double decay, WeightDecay kind) {
    const auto run = [&](const std::vector<Parameter*>& parameters) {
      return AdamW(parameters, options);
    };
    const auto actual = trained(ParameterKind::weight, shape, steps, rate, run)[0];
    const auto expected = reference(0.8, 0.999, 1e-8, decay, kind, rate);
    for (std::size_t i = 0; i < expected.size(); ++i) {
      EXPECT_NEAR(actual.data()[i], expected[i], tolerance) << i;
    }
  };
  expect_decay({.beta1 = 0.8, .weight_decay = 0x1p-7}, 0x1p-7, WeightDecay::independent);
  expect_decay({.beta1 = 0.8}, 0x1p-13, WeightDecay::independent);
  expect_decay({.beta1 = 0.8, .decay = WeightDecay::decoupled}, 0.01, WeightDecay::decoupled);
  expect_decay({.beta1 = 0.8, .weight_decay = 0}, 0, WeightDecay::independent);
}

}  // namespace adam_test
