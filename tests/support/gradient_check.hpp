// SPDX-License-Identifier: MIT
/// @file
/// Layer: tests. Gradients of an op against finite differences, in double.
#pragma once

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstddef>
#include <limits>
#include <tuple>
#include <type_traits>
#include <utility>

#include "support/op_run.hpp"
#include "unit_scaling/formats/precision.hpp"
#include "unit_scaling/scaling/rule.hpp"

namespace unit_scaling_test {

/// The scalings under which gradients are checked: without a constraint, so that forward and
/// backward factors differ, and as users get them.
inline constexpr std::array gradient_check_scalings{
    unit_scaling::scaling::paper.with(unit_scaling::constraint::none),
    unit_scaling::scaling::umup.with(unit_scaling::constraint::none),
    unit_scaling::scaling::none,
    unit_scaling::scaling::paper,
    unit_scaling::scaling::umup,
};

/// Σ dy_i y_i, and Σ |dy_i y_i|, to which the rounding error of the first is proportional.
struct InnerProduct {
  double value = 0;
  double magnitude = 0;
};

[[nodiscard]] inline InnerProduct inner_product(const unit_scaling::Array<double>& dy,
                                                const unit_scaling::Array<double>& y) {
  InnerProduct result;
  for (std::size_t i = 0; i < y.size(); ++i) {
    result.value += dy.data()[i] * y.data()[i];
    result.magnitude += std::abs(dy.data()[i] * y.data()[i]);
  }
  return result;
}

/// Compares `gradient` with `ratio` times the numeric gradient of `loss` at `x`.
///
/// `loss(x)` returns an InnerProduct. D(h) is the central difference with step h. Its truncation
/// error is h²/6 f''' + O(h⁴), a third of D(2h) − D(h), and its rounding error is at most the
/// rounding errors of two losses over 2h; a loss is a sum of magnitude M in which fewer than 64
/// roundings follow one another, so that is 64 ε M / h. The tolerance is the sum of the whole of
/// D(2h) − D(h) and of this.
template <class Loss>
void expect_numeric_gradient(const unit_scaling::Array<double>& gradient, double ratio,
                             const unit_scaling::Array<double>& x, const Loss& loss) {
  constexpr double step = 0x1p-14;  // near the cube root of ε, where both errors are small
  constexpr double epsilon = std::numeric_limits<double>::epsilon();
  ASSERT_EQ(gradient.shape(), x.shape());
  double largest_tolerance = 0;
  double largest_gradient = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    double magnitude = 0;
    const auto at = [&](double offset) {
      unit_scaling::Array<double> moved = x;
      moved.mutable_data()[i] += offset;
      const InnerProduct product = loss(moved);
      magnitude = std::max(magnitude, product.magnitude);
      return product.value;
    };
    const double coarse = (at(2 * step) - at(-2 * step)) / (4 * step);
    const double fine = (at(step) - at(-step)) / (2 * step);
    const double tolerance =
        std::abs(ratio) * (std::abs(coarse - fine) + 64 * epsilon * magnitude / step);
    EXPECT_NEAR(gradient.data()[i], ratio * fine, tolerance) << "element " << i;
    largest_tolerance = std::max(largest_tolerance, tolerance);
    largest_gradient = std::max(largest_gradient, std::abs(ratio * fine));
  }
  // The check could not fail if the tolerance were as large as what it checks.
  if (largest_gradient > 1e-6) {
    EXPECT_LT(largest_tolerance, 1e-5 * largest_gradient);
  }
}

namespace detail {

template <class T> inline constexpr bool is_differentiable = false;
template <> inline constexpr bool is_differentiable<unit_scaling::Array<double>> = true;

/// Which gradient belongs to argument `argument`: the differentiable arguments before it.
template <std::size_t argument, class... Arrays>
[[nodiscard]] constexpr std::size_t gradient_index() {
  constexpr std::array<bool, sizeof...(Arrays)> differentiable{is_differentiable<Arrays>...};
  std::size_t index = 0;
  for (std::size_t i = 0; i < argument; ++i) index += differentiable[i] ? 1 : 0;
  return index;
}

template <std::size_t argument, class Op, class Run, class... Arrays>
void check_argument(const Op& op, const Run& run, double slope, const Arrays&... arrays) {
  if constexpr (std::tuple_element_t<
                    argument,
                    std::tuple<std::bool_constant<is_differentiable<Arrays>>...>>::value) {
    constexpr std::size_t index = gradient_index<argument, Arrays...>();
    const auto loss = [&](const unit_scaling::Array<double>& moved) {
      auto inputs = std::tuple{arrays...};
      std::get<argument>(inputs) = moved;
      const auto output = std::apply(
          [&](const auto&... x) {
            return op.forward(unit_scaling::precision::fp64{}, run.scales, x...).output;
          },
          inputs);
      return inner_product(run.dy, output);
    };
    SCOPED_TRACE(testing::Message() << "argument " << argument);
    expect_numeric_gradient(std::get<index>(run.gradients),
                            run.scales.backward[index] / (run.scales.forward * slope),
                            std::get<argument>(std::tie(arrays...)), loss);
  }
}

}  // namespace detail

/// Expects dx_i = backward_i / (forward · slope) × the gradient of Σ dy y with respect to every
/// array of double among the arguments, where y is the scaled output: the definition of a scaled
/// op. `slope` is one unless the op's backward factor is defined to include the slope of an
/// attribute.
template <class Op, class... Arrays>
void expect_scaled_gradients(const Op& op, double slope, const Arrays&... arrays) {
  const auto run = run_op(unit_scaling::precision::fp64{}, op, arrays...);
  [&]<std::size_t... argument>(std::index_sequence<argument...>) {
    (detail::check_argument<argument>(op, run, slope, arrays...), ...);
  }
  (std::index_sequence_for<Arrays...>{});
}

/// As above under every scaling of `gradient_check_scalings`.
template <class Op, class... Arrays>
void expect_scaled_gradients_under_all_rules(Op op, const Arrays&... arrays) {
  for (const unit_scaling::Scaling& scaling : gradient_check_scalings) {
    SCOPED_TRACE(testing::Message()
                 << to_string(scaling.rule) << ", " << scaling.effective_constraint().name);
    op.scaling = scaling;
    expect_scaled_gradients(op, 1, arrays...);
  }
}

}  // namespace unit_scaling_test
