// SPDX-License-Identifier: MIT
/// @file
/// Layer: tests. Parameters with given gradients, for the tests of optimisers.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "support/op_run.hpp"
#include "support/random_arrays.hpp"
#include "support/threads.hpp"
#include "unit_scaling/autograd/tape.hpp"

namespace unit_scaling_test {

/// An op of the tests' own that has a given gradient with respect to its parameter.
struct GivenGradient {
  static constexpr std::string_view name = "given_gradient";
  static constexpr bool accepts(std::size_t arguments) { return arguments == 1; }
  static constexpr unit_scaling::ops::OpTraits traits{.has_homogeneity = false,
                                                      .has_item_counts = false};

  unit_scaling::Array<float> gradient;

  template <class T>
  [[nodiscard]] unit_scaling::Scales<1> scales(const unit_scaling::Array<T>& /*p*/) const {
    return {};
  }
  template <unit_scaling::Precision P, class T>
  [[nodiscard]] auto forward(P /*precision*/, const unit_scaling::Scales<1>& /*scales*/,
                             const unit_scaling::Array<T>& p) const {
    return unit_scaling::ops::Forward{unit_scaling::Array<typename P::compute>::filled({}, 0),
                                      std::tuple{p.shape()}};
  }
  template <unit_scaling::Precision P, class Compute>
  [[nodiscard]] auto backward(P /*precision*/, const unit_scaling::Scales<1>& /*scales*/,
                              const std::tuple<unit_scaling::Shape>& /*saved*/,
                              const unit_scaling::Array<Compute>& dloss) const {
    unit_scaling::Array<float> result = gradient;
    for (float& element : result.mutable_span()) element *= *dloss.data();
    return std::tuple{std::move(result)};
  }
};

/// Leaves loss_scale × the given gradient of the parameter on the tape.
inline void put_gradient(unit_scaling::Tape<unit_scaling::precision::fp32>& tape,
                         const unit_scaling::Parameter& parameter,
                         const unit_scaling::Array<float>& gradient, float loss_scale = 1) {
  tape.backward(tape.record(GivenGradient{gradient}, tape.parameter(parameter)), loss_scale);
}

/// The gradient of step `step`, N(0, 1).
inline unit_scaling::Array<float> gradient_of_step(const unit_scaling::Shape& shape,
                                                   std::uint64_t step) {
  return normal_array<float>(shape, 100 + step);
}

inline unit_scaling::Parameter test_parameter(unit_scaling::ParameterKind kind,
                                              const unit_scaling::Shape& shape,
                                              std::string name = "p") {
  return {std::move(name), normal_array<float>(shape, 7), kind};
}

/// Calls `visit(name, array)` for each array among an optimiser's states.
template <class Optimiser, class Visit>
void for_each_array(Optimiser& optimiser, const Visit& visit) {
  optimiser.for_each_state([&]<class T>(const std::string& name, T& state) {
    if constexpr (unit_scaling::is_array<T>) visit(name, state);
  });
}

/// Takes `steps` steps on one parameter and returns its value and the optimiser's state after them.
template <class MakeOptimiser>
[[nodiscard]] std::vector<unit_scaling::Array<float>> trained(
    unit_scaling::ParameterKind kind, const unit_scaling::Shape& shape, std::uint64_t steps,
    double learning_rate, const MakeOptimiser& make_optimiser, float loss_scale = 1) {
  unit_scaling::Parameter parameter = test_parameter(kind, shape);
  auto optimiser = make_optimiser(std::vector<unit_scaling::Parameter*>{&parameter});
  unit_scaling::Tape<unit_scaling::precision::fp32> tape;
  for (std::uint64_t step = 0; step < steps; ++step) {
    tape.clear();
    put_gradient(tape, parameter, gradient_of_step(shape, step), loss_scale);
    optimiser.step(tape, learning_rate, static_cast<double>(loss_scale));
  }
  EXPECT_EQ(optimiser.steps(), steps);
  std::vector<unit_scaling::Array<float>> result{parameter.floats()};
  for_each_array(optimiser,
                 [&](const std::string&, const auto& state) { result.push_back(state); });
  return result;
}

/// Expects the same bits of value and state from 1 and 2 threads, for an odd size above one piece
/// of work (16384 elements).
template <class MakeOptimiser>
void expect_thread_count_changes_no_bit_of_training(const MakeOptimiser& make_optimiser) {
  const auto run = [&](std::size_t threads) {
    const ThreadCountScope scope(threads);
    return trained(unit_scaling::ParameterKind::weight, {211, 233}, 3, 0.1, make_optimiser);
  };
  const auto one = run(1);
  const auto two = run(2);
  ASSERT_EQ(one.size(), two.size());
  for (std::size_t i = 0; i < one.size(); ++i) EXPECT_TRUE(same_bits(one[i], two[i])) << i;
}

/// Expects the same bits with a loss scale that is a power of two as without one: scaling and
/// dividing by it are exact, as long as nothing leaves the range of float.
template <class MakeOptimiser>
void expect_loss_scale_changes_no_bit(const MakeOptimiser& make_optimiser) {
  const auto run = [&](float loss_scale) {
    return trained(unit_scaling::ParameterKind::weight, {5, 7}, 10, 0.1, make_optimiser,
                   loss_scale);
  };
  const auto plain = run(1);
  for (const float loss_scale : {0x1p-10F, 0x1p15F}) {
    const auto scaled = run(loss_scale);
    for (std::size_t i = 0; i < plain.size(); ++i) EXPECT_TRUE(same_bits(plain[i], scaled[i]));
  }
}

}  // namespace unit_scaling_test
