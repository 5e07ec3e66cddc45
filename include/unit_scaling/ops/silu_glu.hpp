// SPDX-License-Identifier: MIT
/// @file
/// Layer ops: the gated linear unit with a SiLU gate.
#pragma once

#include <array>
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

/// Unit-scaled gated linear unit: y = α x f(g), dx = β_x dy f(g), dg = β_g dy x f'(g), with
/// f(g) = g σ(m g), σ the logistic sigmoid.
/// Shapes: x, g, y, dy, dx and dg alike, any.
/// Units:  x, g, dy ~ N(0,1), independent, give unit std of y, dx and dg (without a constraint).
/// Scales: paper, which does not list it, by its principle (m = 1): α⁻² = β_x⁻² = E[f²], β_g⁻² =
///         E[f'²], so α = β_x ≈ 1.6765, β_g ≈ 1.6233, and the constraint binds all three; u-μP: one
///         factor for all, from 2 to √2 with weight 1/(1 + 1/m²) on the second, interpolated
///         logarithmically, whatever the constraint.
/// Values: computed in P::compute, rounded once on store. A gate of −∞ gives NaN, finite numbers
///         never do.
/// @throws ShapeError if x, g and dy differ in shape; DomainError unless mult is finite and above
///         0.
/// @see u-μP, arXiv:2407.17465, appendix on op scale factors; Shazeer 2020, arXiv:2002.05202.
struct SiluGlu {
  static constexpr std::string_view name = "silu_glu";
  static constexpr bool accepts(std::size_t arguments) { return arguments == 2; }
  static constexpr OpTraits traits{.has_homogeneity = true, .has_item_counts = false};

  Scaling scaling = scaling::inherited;
  double mult = 1;  ///< m; the paper's factors are for 1.

  /// @throws DomainError if an attribute is out of its range.
  void require_attributes() const { require_multiplier(name, "mult", mult); }

  template <class X, class G>
  [[nodiscard]] Scales<2> scales(const Array<X>& x, const Array<G>& gate) const {
    require_attributes();
    require_same_shape(name, "x and gate", x.shape(), gate.shape());
    if (scaling.rule == Rule::none) return {};
    if (scaling.rule == Rule::umup) {
      const double factor =
          moments::log_interpolate(1 / (1 + 1 / (mult * mult)), std::numbers::sqrt2, 2);
      return {.forward = factor, .backward = {factor, factor}};
    }
    const double of_gate = 1 / std::sqrt(moments::silu_mean_square);
    const double of_slope = 1 / std::sqrt(moments::silu_mean_square_slope);
    return constrain<2>(scaling.effective_constraint(),
                        Scales<2>{.forward = of_gate, .backward = {of_gate, of_slope}});
  }

  [[nodiscard]] Homogeneity homogeneity(const Scales<2>& s) const {
    return {.output = {s.forward / mult, {1, 0}}, .fixed = {{mult, {0, 1}}}};
  }

  template <Precision P, class X, class G>
  [[nodiscard]] auto forward(P /*precision*/, const Scales<2>& s, const Array<X>& x,
                             const Array<G>& gate) const {
    using Compute = typename P::compute;
    require_same_shape(name, "x and gate", x.shape(), gate.shape());
    const auto m = static_cast<Compute>(mult);
    const auto a = static_cast<Compute>(s.forward);
    const auto f = [=](auto v, auto g) { return a * (v * (g * kernels::sigmoid(m * g))); };
    return Forward{kernels::map<Compute, typename P::storage>(f, x, gate), std::tuple{x, gate}};
  }

  template <Precision P, class X, class G, class T>
  [[nodiscard]] auto backward(P /*precision*/, const Scales<2>& s,
                              const std::tuple<Array<X>, Array<G>>& saved,
                              const Array<T>& dy) const {
    using Compute = typename P::compute;
    // Not a structured binding: lambdas may not capture one in every compiler.
    const Array<X>& x = std::get<0>(saved);
    const Array<G>& gate = std::get<1>(saved);
    require_same_shape(name, "dy and x", dy.shape(), x.shape());
    const auto m = static_cast<Compute>(mult);
    const auto b_x = static_cast<Compute>(s.backward[0]);
    const auto twice_b_gate = static_cast<Compute>(2 * s.backward[1]);
    constexpr Compute half = 0.5;
    Array<T> dx(x.shape(), x.resource());
    Array<T> dgate(x.shape(), x.resource());
    T* to_x = dx.mutable_data();
    T* to_gate = dgate.mutable_data();
    // One pass for both: they share the exponential, and what is read.
    parallel_ranges(x.size(), kernels::map_grain, [&](std::size_t begin, std::size_t end) {
      kernels::for_lanes<Compute>(
          end - begin, [=, from_x = x.data() + begin, from_gate = gate.data() + begin,
                        from_dy = dy.data() + begin](std::size_t i, auto count) {
            const auto g = kernels::load<Compute>(from_gate + i, count);
            const auto d = kernels::load<Compute>(from_dy + i, count);
            const auto v = kernels::load<Compute>(from_x + i, count);
            const auto open = kernels::sigmoid(m * g);
            // Half of the slope, which is up to 1.1: its product with d is finite.
            const auto half_open = open * half;
            const auto half_slope =
                multiply_add(g, m * (half_open * (kernels::one<decltype(open)> - open)), half_open);
            kernels::store<Overflow::infinity_or_nan, Compute>(b_x * (d * (g * open)),
                                                               to_x + begin + i, count);
            kernels::store<Overflow::infinity_or_nan, Compute>(twice_b_gate * (d * half_slope * v),
                                                               to_gate + begin + i, count);
          });
    });
    return std::tuple{std::move(dx), std::move(dgate)};
  }
};
inline constexpr Apply<SiluGlu> silu_glu{};

}  // namespace UNIT_SCALING_NAMESPACE::ops

UNIT_SCALING_IEEE_END
