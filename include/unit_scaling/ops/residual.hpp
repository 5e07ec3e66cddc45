// SPDX-License-Identifier: MIT
/// @file
/// Layer ops: the two ends of a residual branch, which share τ.
///
/// In the forward pass the branch's factor acts where the branch ends, in the backward pass where
/// it begins ("delayed"), so that activations and gradients inside the branch keep unit scale.
#pragma once

#include <cmath>
#include <cstddef>

#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/multiply_add.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/kernels/map.hpp"
#include "unit_scaling/ops/op.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::ops {

/// The weights of a residual connection: `branch`² + `skip`² = 1 under both sets of scale rules.
struct ResidualWeights {
  double branch;
  double skip;
};

/// Weights for τ. Paper: branch √τ, skip √(1−τ), 0 ≤ τ ≤ 1. u-μP: τ/√(1+τ²) and 1/√(1+τ²), so τ
/// is the ratio of the two. None: both 1, whatever τ.
/// @throws DomainError if τ is outside these ranges.
/// @see Blake et al. 2023, arXiv:2303.11257, section 4; u-μP, arXiv:2407.17465.
[[nodiscard]] inline ResidualWeights residual_weights(Rule rule, double tau) {
  if (rule == Rule::none) return {1, 1};
  require_not_negative("residual", "tau", tau);
  if (rule == Rule::paper) {
    require_attribute(tau <= 1, "residual", "tau", "in [0, 1] under the paper's rules", tau);
    return {std::sqrt(tau), std::sqrt(1 - tau)};
  }
  const double denominator = std::sqrt(1 + tau * tau);
  return {tau / denominator, 1 / denominator};
}

/// Beginning of a residual branch: (branch, skip) = (x, x); dx = w_b dbranch + w_s dskip.
/// Shapes: all alike, any.
/// Scales: w_b and w_s are `residual_weights(rule, tau)`.
/// @throws ShapeError if the gradients differ in shape.
struct ResidualSplit {
  static constexpr std::string_view name = "residual_split";
  static constexpr bool accepts(std::size_t arguments) { return arguments == 1; }
  static constexpr OpTraits traits{.has_homogeneity = true,
                                   .has_item_counts = false,
                                   .has_gradient_factor = true,
                                   .ignores_constraint = true};

  Scaling scaling = scaling::inherited;
  double tau = 0.5;

  /// @throws DomainError as `residual_weights`.
  void require_attributes() const { static_cast<void>(residual_weights(scaling.rule, tau)); }

  template <class T> [[nodiscard]] Scales<1> scales(const Array<T>& /*x*/) const {
    require_attributes();
    return {};
  }

  /// dx/dbranch = dx/dskip = 1, where the backward pass has the weights.
  [[nodiscard]] double gradient_factor(const Scales<1>& /*s*/, std::size_t /*input*/,
                                       std::size_t output) const {
    const ResidualWeights weights = residual_weights(scaling.rule, tau);
    return output == 0 ? weights.branch : weights.skip;
  }

  [[nodiscard]] static Homogeneity homogeneity(const Scales<1>& s) {
    return Homogeneity::linear(s.forward);
  }

  template <Precision P, class T>
  [[nodiscard]] auto forward(P /*precision*/, const Scales<1>& /*s*/, const Array<T>& x) const {
    return Forward{std::tuple{x, x}, std::tuple<>{}};
  }

  template <Precision P, class T>
  [[nodiscard]] auto backward(P /*precision*/, const Scales<1>& /*s*/,
                              const std::tuple<>& /*saved*/,
                              const std::tuple<Array<T>, Array<T>>& gradients) const {
    using Compute = typename P::compute;
    const auto& [branch, skip] = gradients;
    require_same_shape(name, "both gradients", branch.shape(), skip.shape());
    const ResidualWeights weights = residual_weights(scaling.rule, tau);
    const auto b = static_cast<Compute>(weights.branch);
    const auto s = static_cast<Compute>(weights.skip);
    return std::tuple{kernels::map<Compute, T>(
        [=](auto u, auto v) { return sum_of_products(b, u, s, v); }, branch, skip)};
  }
};
inline constexpr Apply<ResidualSplit> residual_split{};

/// End of a residual branch: y = w_b branch + w_s skip; both gradients are dy.
/// Shapes: all alike, any.
/// Units:  branch, skip ~ N(0,1), independent, give std(y) = 1.
/// Scales: w_b and w_s are `residual_weights(rule, tau)`, with the τ of the ResidualSplit.
/// @throws ShapeError if branch and skip differ in shape.
struct ResidualAdd {
  static constexpr std::string_view name = "residual_add";
  static constexpr bool accepts(std::size_t arguments) { return arguments == 2; }
  static constexpr OpTraits traits{.has_homogeneity = true,
                                   .has_item_counts = false,
                                   .has_gradient_factor = true,
                                   .ignores_constraint = true};

  Scaling scaling = scaling::inherited;
  double tau = 0.5;

  /// @throws DomainError as `residual_weights`.
  void require_attributes() const { static_cast<void>(residual_weights(scaling.rule, tau)); }

  template <class T>
  [[nodiscard]] Scales<2> scales(const Array<T>& branch, const Array<T>& skip) const {
    require_attributes();
    require_same_shape(name, "branch and skip", branch.shape(), skip.shape());
    return {};
  }

  /// The true gradients are w_b dy and w_s dy. A weight of 0 has none to multiply: infinity.
  [[nodiscard]] double gradient_factor(const Scales<2>& /*s*/, std::size_t input,
                                       std::size_t /*output*/) const {
    const ResidualWeights weights = residual_weights(scaling.rule, tau);
    return 1 / (input == 0 ? weights.branch : weights.skip);
  }

  [[nodiscard]] Homogeneity homogeneity(const Scales<2>& /*s*/) const {
    const ResidualWeights weights = residual_weights(scaling.rule, tau);
    return Homogeneity::sum(weights.branch, weights.skip);
  }

  template <Precision P, class T>
  [[nodiscard]] auto forward(P /*precision*/, const Scales<2>& /*s*/, const Array<T>& branch,
                             const Array<T>& skip) const {
    using Compute = typename P::compute;
    require_same_shape(name, "branch and skip", branch.shape(), skip.shape());
    const ResidualWeights weights = residual_weights(scaling.rule, tau);
    const auto b = static_cast<Compute>(weights.branch);
    const auto s = static_cast<Compute>(weights.skip);
    auto y = kernels::map<Compute, typename P::storage>(
        [=](auto u, auto v) { return sum_of_products(b, u, s, v); }, branch, skip);
    return Forward{std::move(y), std::tuple{branch.shape()}};
  }

  template <Precision P, class T>
  [[nodiscard]] auto backward(P /*precision*/, const Scales<2>& /*s*/,
                              const std::tuple<Shape>& saved, const Array<T>& dy) const {
    require_same_shape(name, "dy and y", dy.shape(), std::get<0>(saved));
    return std::tuple{dy, dy};
  }
};
inline constexpr Apply<ResidualAdd> residual_add{};

/// A whole residual connection: x weighted with `branch(x)`, on arrays or on variables.
/// Shapes: `branch` must keep the shape of x.
template <class X, class Branch>
[[nodiscard]] auto residual_apply(const X& x, const Branch& branch, const ResidualAdd& op = {}) {
  auto [into_branch, skip] = residual_split(x, {.scaling = op.scaling, .tau = op.tau});
  return residual_add(branch(into_branch), skip, op);
}

}  // namespace UNIT_SCALING_NAMESPACE::ops

UNIT_SCALING_IEEE_END
