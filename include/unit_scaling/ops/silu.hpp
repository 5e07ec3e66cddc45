// SPDX-License-Identifier: MIT
/// @file
/// Layer ops: the sigmoid linear unit.
#pragma once

#include <cmath>
#include <numbers>
#include <tuple>

#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/multiply_add.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/kernels/elementary.hpp"
#include "unit_scaling/kernels/map.hpp"
#include "unit_scaling/ops/op.hpp"
#include "unit_scaling/scaling/moments.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::ops {

/// Unit-scaled SiLU: y = α f(m x) / m, dx = β dy f'(m x), with f(x) = x σ(x), σ the logistic
/// sigmoid.
/// Shapes: y, dy and dx have the shape of x, which may be any.
/// Units:  x ~ N(0,1) gives std(y) = 1; dy ~ N(0,1) independent of x gives std(dx) = 1.
/// Scales: paper, which does not list it, by its principle (m = 1): α⁻² = Var[xσ],
///         β⁻² = E[f'(x)²], so α ≈ 1.7872, β ≈ 1.6233; u-μP: α from 2 to √(2/(1−1/π)) with weight
///         1/(1 + 1/(4 m²)) on the second, β from 2 to √2 with weight 1/(1 + 1/m²), interpolated
///         logarithmically.
/// Values: NaN → NaN, +∞ → +∞, −∞ → NaN. Finite numbers never give NaN. Computed in P::compute,
///         rounded once on store.
/// @throws ShapeError if dy and x differ in shape; DomainError unless mult is finite and above 0.
/// @see u-μP, arXiv:2407.17465, appendix on op scale factors; Hendrycks & Gimpel 2016,
///      arXiv:1606.08415.
struct Silu {
  static constexpr std::string_view name = "silu";
  static constexpr bool accepts(std::size_t arguments) { return arguments == 1; }
  static constexpr OpTraits traits{.has_homogeneity = true, .has_item_counts = false};

  Scaling scaling = scaling::inherited;
  double mult = 1;  ///< m; the paper's factors are for 1.

  /// @throws DomainError if an attribute is out of its range.
  void require_attributes() const { require_multiplier(name, "mult", mult); }

  template <class T> [[nodiscard]] Scales<1> scales(const Array<T>& /*x*/) const {
    require_attributes();
    Scales<1> ideal;
    if (scaling.rule == Rule::paper) {
      ideal = {.forward = 1 / std::sqrt(moments::silu_variance),
               .backward = {1 / std::sqrt(moments::silu_mean_square_slope)}};
    } else if (scaling.rule == Rule::umup) {
      const double square = mult * mult;
      const double relu_forward = std::sqrt(2 / (1 - std::numbers::inv_pi));
      ideal = {
          .forward = moments::log_interpolate(1 / (1 + 0.25 / square), relu_forward, 2),
          .backward = {moments::log_interpolate(1 / (1 + 1 / square), std::numbers::sqrt2, 2)}};
    }
    return constrain<1>(scaling.effective_constraint(), ideal);
  }

  [[nodiscard]] Homogeneity homogeneity(const Scales<1>& s) const {
    return Homogeneity::function(s.forward / mult, mult);
  }

  template <Precision P, class T>
  [[nodiscard]] auto forward(P /*precision*/, const Scales<1>& s, const Array<T>& x) const {
    using Compute = typename P::compute;
    const auto m = static_cast<Compute>(mult);
    const auto a = static_cast<Compute>(s.forward);
    // The gate comes before the factor: a product with that may leave the range, and ∞ · 0 is NaN.
    const auto f = [=](auto v) { return a * (v * kernels::sigmoid(m * v)); };
    return Forward{kernels::map<Compute, typename P::storage>(f, x), std::tuple{x}};
  }

  template <Precision P, class T>
  [[nodiscard]] auto backward(P /*precision*/, const Scales<1>& s,
                              const std::tuple<Array<T>>& saved, const Array<T>& dy) const {
    using Compute = typename P::compute;
    const Array<T>& x = std::get<0>(saved);
    require_same_shape(name, "dy and x", dy.shape(), x.shape());
    const auto m = static_cast<Compute>(mult);
    const auto b = static_cast<Compute>(s.backward[0]);
    const auto f = [=](auto g, auto v) {
      const auto gate = kernels::sigmoid(m * v);
      const auto gate_slope = gate * (kernels::one<decltype(gate)> - gate);
      return b * (g * multiply_add(v, m * gate_slope, gate));
    };
    return std::tuple{kernels::map<Compute, T>(f, dy, x)};
  }
};
inline constexpr Apply<Silu> silu{};

}  // namespace UNIT_SCALING_NAMESPACE::ops

UNIT_SCALING_IEEE_END
