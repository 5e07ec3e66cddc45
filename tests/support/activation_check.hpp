// SPDX-License-Identifier: MIT
/// @file
/// Layer: tests. What holds for every op that applies a function to each element under the two
/// factors that its moments give.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <numbers>
#include <string>
#include <tuple>
#include <vector>

#include "support/errors.hpp"
#include "support/gradient_check.hpp"
#include "support/op_run.hpp"
#include "support/random_arrays.hpp"
#include "support/rounding_check.hpp"
#include "support/statistics.hpp"

namespace unit_scaling_test {

/// A function, its slope, and what binary32 arithmetic may add to either, all in double.
template <class F, class Slope, class Error, class SlopeError> struct Activation {
  F function;
  Slope slope;
  Error error;             ///< of function(x)
  SlopeError slope_error;  ///< of slope(x)
};
template <class F, class Slope, class Error, class SlopeError>
Activation(F, Slope, Error, SlopeError) -> Activation<F, Slope, Error, SlopeError>;

/// α = Var[f]^-½ and β = E[f'²]^-½ of N(0,1) against sums over a grid. For a smooth function that
/// vanishes at both ends such a sum is the integral to rounding; one with a kink at zero is off by
/// the square of the step.
template <class Op, class Reference>
void expect_factors_are_reciprocal_moments(const Reference& reference, double tolerance) {
  double first = 0;
  double second = 0;
  double square_slope = 0;
  constexpr double step = 1.0 / 64;
  for (int i = -64 * 13; i <= 64 * 13; ++i) {
    const double x = i * step;
    const double weight = step * std::exp(-x * x / 2) / std::sqrt(2 * std::numbers::pi);
    first += weight * reference.function(x);
    second += weight * reference.function(x) * reference.function(x);
    square_slope += weight * reference.slope(x) * reference.slope(x);
  }
  const unit_scaling::Array<float> none;
  using unit_scaling::scaling::paper;
  Op op;
  op.scaling = paper.with(unit_scaling::constraint::none);
  const auto s = op.scales(none);
  EXPECT_NEAR(s.forward, 1 / std::sqrt(second - first * first), tolerance);
  EXPECT_NEAR(s.backward[0], 1 / std::sqrt(square_slope), tolerance);
  op.scaling = paper;
  EXPECT_NEAR(op.scales(none).forward, std::sqrt(s.forward * s.backward[0]), 1e-14);
  EXPECT_EQ(op.scales(none).backward[0], op.scales(none).forward);
  op.scaling = unit_scaling::scaling::umup;
  EXPECT_EQ(op.scales(none).backward[0], s.forward);
  op.scaling = unit_scaling::scaling::none;
  EXPECT_EQ(op.scales(none), unit_scaling::Scales<1>{});
}

/// Unit scale of output and gradient for N(0,1) at three sizes; the smallest sample has a relative
/// standard error below 0.015 for a fourth moment below 10.
template <class Op> void expect_unit_scale_at_three_sizes() {
  using unit_scaling::Shape;
  Op op;
  op.scaling = unit_scaling::scaling::paper.with(unit_scaling::constraint::none);
  for (const Shape& shape : {Shape{10007}, Shape{129, 257}, Shape{4, 64, 512}}) {
    const auto run = run_op(unit_scaling::precision::fp32{}, op, normal_array<float>(shape, 4));
    EXPECT_NEAR(standard_deviation(run.y), 1, 0.1) << to_string(shape);
    EXPECT_NEAR(rms(std::get<0>(run.gradients)), 1, 0.1) << to_string(shape);
  }
}

/// Gradients against finite differences, sizes 0 and 1 and odd ones, and the error of a gradient of
/// another shape.
template <class Op> void expect_gradients_shapes_and_errors() {
  using unit_scaling::Shape;
  for (const Shape& shape : {Shape{1}, Shape{3, 7}}) {
    expect_scaled_gradients_under_all_rules(Op{}, normal_array<double>(shape, 1));
  }
  for (const Shape& shape : {Shape{0}, Shape{0, 3}, Shape{3, 0}, Shape{}, Shape{1}, Shape{17}}) {
    expect_gradients_have_argument_shapes(unit_scaling::precision::fp8{}, Op{},
                                          normal_array<unit_scaling::float16>(shape, 7));
  }
  const auto x = normal_array<float>({2, 3}, 5);
  const auto dy = normal_array<float>({3, 2}, 6);
  expect_shape_error(
      [&] {
        (void)Op{}.backward(unit_scaling::precision::fp32{}, Op{}.scales(x), std::tuple{x}, dy);
      },
      {std::string(Op::name), "(2, 3)", "(3, 2)"});
}

/// Every element is the reference in double, rounded once, and no bit depends on the threads.
template <unit_scaling::Precision P, class Op, class Reference>
void expect_rounded_once_on_any_number_of_threads(const Reference& reference) {
  using T = typename P::storage;
  const auto x = normal_array<T>({37, 29}, 8);
  const auto run = run_op(P{}, Op{}, x);
  std::vector<unit_scaling_test::Reference> y;
  std::vector<unit_scaling_test::Reference> dx;
  const auto [alpha, beta] = run.scales;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const auto v = static_cast<double>(x.data()[i]);
    const auto g = static_cast<double>(run.dy.data()[i]);
    // Besides the function's own error: the factors' roundings and the products with them.
    const double value = alpha * reference.function(v);
    y.push_back({value, alpha * reference.error(v) + 2 * float_unit * std::abs(value)});
    const double gradient = beta[0] * g * reference.slope(v);
    dx.push_back({gradient, std::abs(beta[0] * g) * reference.slope_error(v) +
                                4 * float_unit * std::abs(gradient)});
  }
  expect_rounded(run.y, y);
  expect_rounded(std::get<0>(run.gradients), dx);
  expect_thread_count_changes_no_bit(P{}, Op{}, normal_array<T>({211, 233}, 10));
}

}  // namespace unit_scaling_test
