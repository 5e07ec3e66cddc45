// SPDX-License-Identifier: MIT
/// @file
/// Layer scaling: making forward and backward factors share one value where the graph demands it.
#pragma once

#include <array>
#include <cmath>
#include <cstddef>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>

#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/scaling/scales.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE {

/// How an op's forward factor and the backward factors of its non-cut-edge inputs become one value.
///
/// An edge whose removal does not disconnect the forward graph must be consumed with equal forward
/// and backward factors; otherwise gradients stop being proportional to the true ones.
/// A constraint is any function from (forward factor, backward factors) to the shared one, so your
/// own is one more constant: `constexpr Constraint largest{"largest", &my_function};`.
/// @see Blake et al. 2023, arXiv:2303.11257, section 5, theorem 5.2.
struct Constraint {
  using Function = double (*)(double forward, std::span<const double> backward);

  std::string_view name = "none";
  /// Null leaves every factor at its ideal value: right where each input is a cut-edge.
  Function combine = nullptr;

  friend constexpr bool operator==(const Constraint&, const Constraint&) = default;
};

namespace constraint {

namespace detail {

inline double geometric_mean(double forward, std::span<const double> backward) {
  // In logarithms: a product of many factors could leave the range of a double.
  double sum = std::log(forward);
  for (const double factor : backward) sum += std::log(factor);
  return std::exp(sum / static_cast<double>(1 + backward.size()));
}

inline double harmonic_mean(double forward, std::span<const double> backward) {
  double sum = 1 / forward;
  for (const double factor : backward) sum += 1 / factor;
  return static_cast<double>(1 + backward.size()) / sum;
}

inline double arithmetic_mean(double forward, std::span<const double> backward) {
  double sum = forward;
  for (const double factor : backward) sum += factor;
  return sum / static_cast<double>(1 + backward.size());
}

template <std::size_t index, std::size_t inputs>
double select_backward(double /*forward*/, std::span<const double> backward) {
  if (backward.size() != inputs) {
    throw std::invalid_argument(
        "constraint: to_grad_input_scale is for ops with one constrained "
        "input, to_left_grad_scale and to_right_grad_scale for ops with "
        "two; got " +
        std::to_string(backward.size()));
  }
  return backward[index];
}

}  // namespace detail

/// Every factor keeps its ideal value.
inline constexpr Constraint none{};
/// Geometric mean: the paper's choice.
inline constexpr Constraint gmean{"gmean", &detail::geometric_mean};
/// Harmonic mean.
inline constexpr Constraint hmean{"hmean", &detail::harmonic_mean};
/// Arithmetic mean.
inline constexpr Constraint amean{"amean", &detail::arithmetic_mean};
/// The forward factor serves both directions: the choice of u-μP.
inline constexpr Constraint to_output_scale{
    "to_output_scale", [](double forward, std::span<const double>) { return forward; }};
/// The backward factor of the only constrained input serves both directions.
inline constexpr Constraint to_grad_input_scale{"to_grad_input_scale",
                                                &detail::select_backward<0, 1>};
/// The backward factor of the first of two inputs serves all three.
inline constexpr Constraint to_left_grad_scale{"to_left_grad_scale",
                                               &detail::select_backward<0, 2>};
/// The backward factor of the second of two inputs serves all three.
inline constexpr Constraint to_right_grad_scale{"to_right_grad_scale",
                                                &detail::select_backward<1, 2>};

/// All of the above, for looking one up by name.
inline constexpr std::array all{none,
                                gmean,
                                hmean,
                                amean,
                                to_output_scale,
                                to_grad_input_scale,
                                to_left_grad_scale,
                                to_right_grad_scale};

/// The constraint called `name`.
/// @throws std::invalid_argument naming every constraint there is, if none is called so.
[[nodiscard]] inline const Constraint& by_name(std::string_view name) {
  std::string names;
  for (const Constraint& candidate : all) {
    if (candidate.name == name) return candidate;
    names += (names.empty() ? "" : ", ") + std::string(candidate.name);
  }
  throw std::invalid_argument("constraint '" + std::string(name) + "': expected one of " + names);
}

}  // namespace constraint

/// Factors under a constraint: the forward one and the backward ones of the first `Constrained`
/// inputs take one shared value; the others (weights, gains, biases: leaves, hence cut-edges) stay.
/// @throws DomainError unless that value is as in `require_positive`.
template <std::size_t Constrained, std::size_t N>
requires(Constrained <= N)
    [[nodiscard]] Scales<N> constrain(const Constraint& constraint, Scales<N> scales) {
  if (constraint.combine == nullptr) return scales;
  const double shared = constraint.combine(
      scales.forward, std::span<const double>(scales.backward).template first<Constrained>());
  require_positive("constraint", constraint.name, shared);
  scales.forward = shared;
  for (std::size_t i = 0; i < Constrained; ++i) scales.backward[i] = shared;
  return scales;
}

}  // namespace UNIT_SCALING_NAMESPACE

UNIT_SCALING_IEEE_END
