// SPDX-License-Identifier: MIT
#include "unit_scaling/optim/lamb.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "optim/optimiser_support.hpp"
#include "support/errors.hpp"

namespace lamb_test {

using namespace unit_scaling;
using namespace unit_scaling_test;
using optim::Lamb;

static_assert(optim::Optimiser<Lamb>);

const Shape shape{5, 7};
constexpr std::uint64_t steps = 10;
constexpr double rate = 0.1;

auto lamb(const Lamb::Options& options) {
  return [=](const std::vector<Parameter*>& parameters) { return Lamb(parameters, options); };
}

/// Algorithm 2 of the paper, in double.
std::vector<double> reference(const Lamb::Options& o) {
  const auto start = test_parameter(ParameterKind::weight, shape).value;
  std::vector<double> p(start.data(), start.data() + start.size());
  std::vector<double> m(p.size());
  std::vector<double> v(p.size());
  std::vector<double> u(p.size());
  for (std::uint64_t t = 1; t <= steps; ++t) {
    const auto gradient = gradient_of_step(shape, t - 1);
    double of_value = 0;
    double of_update = 0;
    for (std::size_t i = 0; i < p.size(); ++i) {
      const auto g = static_cast<double>(gradient.data()[i]);
      m[i] = o.beta1 * m[i] + (1 - o.beta1) * g;
      v[i] = o.beta2 * v[i] + (1 - o.beta2) * g * g;
      const auto power = static_cast<double>(t);
      const double m_hat = m[i] / (1 - std::pow(o.beta1, power));
      const double v_hat = v[i] / (1 - std::pow(o.beta2, power));
      u[i] = m_hat / (std::sqrt(v_hat) + o.epsilon) + o.weight_decay * p[i];
      of_value += p[i] * p[i];
      of_update += u[i] * u[i];
    }
    const double ratio = std::min(std::sqrt(of_value / of_update), o.max_trust_ratio);
    for (std::size_t i = 0; i < p.size(); ++i) p[i] -= rate * ratio * u[i];
  }
  return p;
}

TEST(Lamb, TenStepsAreThoseOfThePaper) {
  for (const Lamb::Options& options :
       {Lamb::Options{}, Lamb::Options{.beta1 = 0.8, .beta2 = 0.95, .epsilon = 0.1},
        Lamb::Options{.weight_decay = 0.3}, Lamb::Options{.max_trust_ratio = 0.5}}) {
    const auto actual = trained(ParameterKind::weight, shape, steps, rate, lamb(options))[0];
    const auto expected = reference(options);
    for (std::size_t i = 0; i < expected.size(); ++i) {
      // Ten steps of a handful of roundings, on numbers of a few units.
      EXPECT_NEAR(actual.data()[i], expected[i], 1e-5) << i;
    }
  }
}

TEST(Lamb, TakesPlainStepsWhereANormIsZero) {
  Parameter parameter{"zeros", Array<float>::filled({4}, 0), ParameterKind::weight};
  Lamb optimiser({&parameter});
  Tape<precision::fp32> tape;
  put_gradient(tape, parameter, Array<float>::filled({4}, 3));
  optimiser.step(tape, 0.25);
  // Adam's first step is the sign of the gradient, but for ε.
  for (const float element : parameter.value.span()) EXPECT_NEAR(element, -0.25F, 1e-6F);
  tape.clear();
  Parameter still{"still", Array<float>::filled({4}, 2), ParameterKind::bias};
  Lamb other({&still});
  put_gradient(tape, still, Array<float>::filled({4}, 0));
  other.step(tape, 0.25);
  for (const float element : still.value.span()) EXPECT_EQ(element, 2);
}

TEST(Lamb, NeitherThreadsNorALossScaleChangeABit) {
  expect_thread_count_changes_no_bit_of_training(lamb({}));
  expect_loss_scale_changes_no_bit(lamb({}));
}

TEST(Lamb, RefusesImpossibleOptions) {
  Parameter parameter = test_parameter(ParameterKind::weight, {3});
  for (const Lamb::Options& options :
       {Lamb::Options{.beta1 = 1}, Lamb::Options{.beta2 = -0.1}, Lamb::Options{.epsilon = 0},
        Lamb::Options{.max_trust_ratio = 0}}) {
    expect_domain_error([&] { (void)Lamb({&parameter}, options); }, {"Lamb"});
  }
}

}  // namespace lamb_test
