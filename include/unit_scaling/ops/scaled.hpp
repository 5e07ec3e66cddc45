// SPDX-License-Identifier: MIT
/// @file
/// Layer ops: any op under factors of your own.
#pragma once

#include <array>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <string_view>
#include <tuple>
#include <utility>

#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/ops/op.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::ops {

/// An op whose forward and backward passes are those of `op`, with `factors` in place of what its
/// own rule would say. Made by `scaled`.
template <ScaledOp Op, std::size_t N> struct WithFactors {
  static constexpr std::string_view name = Op::name;
  static constexpr bool accepts(std::size_t arguments) { return Op::accepts(arguments); }
  static constexpr OpTraits traits{.has_homogeneity = true,
                                   .has_item_counts = false,
                                   .has_gradient_factor = true,
                                   .has_rounds_weights_as = true,
                                   .has_products = Op::traits.has_products,
                                   .rounds_within = Op::traits.rounds_within,
                                   .is_loss = Op::traits.is_loss};

  template <Precision P>
  [[nodiscard]] static constexpr bool rounds_weights_as(const FormatSpec& operand,
                                                        const FormatSpec& gradient) {
    return ops::rounds_weights_as<Op, P>(operand, gradient);
  }

  Op op = {};
  Scales<N> factors = {};

  template <class... Arrays> [[nodiscard]] Scales<N> scales(const Arrays&... x) const {
    // The op's own are computed all the same: that is where it checks its arguments.
    static_assert(std::same_as<decltype(op.scales(x...)), Scales<N>>,
                  "scaled: expected one backward factor for each differentiable argument");
    (void)op.scales(x...);
    return factors;
  }

  [[nodiscard]] double gradient_factor(const Scales<N>& s, std::size_t input,
                                       std::size_t output) const {
    return ops::gradient_factor(op, s, input, output);
  }

  [[nodiscard]] Homogeneity homogeneity(const Scales<N>& s, const auto&... x) const {
    return ops::homogeneity(op, s, x...);
  }

  template <Precision P, class... Arrays>
  [[nodiscard]] auto forward(P precision, const Scales<N>& s, const Arrays&... x) const {
    return op.forward(precision, s, x...);
  }

  template <Precision P, class Saved, class Gradient>
  [[nodiscard]] auto backward(
      P precision, const Scales<N>& s, const Saved& saved, const Gradient& dy,
      [[maybe_unused]] const std::array<bool, N>& wanted = all_wanted<N>()) const {
    if constexpr (requires { op.backward(precision, s, saved, dy, wanted); }) {
      return op.backward(precision, s, saved, dy, wanted);
    } else {
      return op.backward(precision, s, saved, dy);
    }
  }
};

/// An op with its attributes, to be called: on arrays it computes, on variables it records.
template <ScaledOp Op> struct Bound {
  Op op;

  template <class... Args> [[nodiscard]] auto operator()(const Args&... args) const {
    return Apply<Op>{}(args..., op);
  }
};

/// The op with forward factor α and one backward factor β_i for each differentiable argument, as a
/// function object: y = α f(x…), dx_i = β_i (∂f/∂x_i)ᵀ dy, where f is what `op` computes with all
/// factors at one. Measure the factors with `estimate_scales`, or derive them.
///
///     const auto softplus = ops::scaled(ops::Elementwise(f, slope), 1.919, {1.846});
///     auto y = softplus(x);
///
/// Ops that only move elements (split_heads, merge_heads, reshape) and residual weights know no
/// factors.
/// Equal factors keep gradients proportional to the true ones; different ones are right only where
/// the argument is a cut-edge (`constrain` makes them equal).
/// @throws DomainError unless every factor is as in `require_positive`.
/// @see Blake et al. 2023, arXiv:2303.11257, section 4.
template <ScaledOp Op, std::size_t N>
[[nodiscard]] Bound<WithFactors<Op, N>> scaled(const Op& op, double forward_factor,
                                               const double (&backward_factors)[N]) {
  Scales<N> factors{.forward = forward_factor, .backward = std::to_array(backward_factors)};
  require_positive("scaled", "a forward factor", forward_factor);
  for (const double factor : factors.backward) {
    require_positive("scaled", "a backward factor", factor);
  }
  return {{.op = op, .factors = factors}};
}

/// As above, with factors that `estimate_scales` or `constrain` gave.
template <ScaledOp Op, std::size_t N>
[[nodiscard]] Bound<WithFactors<Op, N>> scaled(const Op& op, const Scales<N>& factors) {
  double backward[N];
  for (std::size_t i = 0; i < N; ++i) backward[i] = factors.backward[i];
  return scaled(op, factors.forward, backward);
}

}  // namespace UNIT_SCALING_NAMESPACE::ops

UNIT_SCALING_IEEE_END
