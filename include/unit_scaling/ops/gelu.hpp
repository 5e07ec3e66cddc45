// SPDX-License-Identifier: MIT
/// @file
/// Layer ops: the Gaussian error linear unit.
#pragma once

#include <cmath>
#include <numbers>
#include <type_traits>

#include "unit_scaling/core/check.hpp"
#include "unit_scaling/kernels/elementary.hpp"
#include "unit_scaling/kernels/map.hpp"
#include "unit_scaling/ops/op.hpp"
#include "unit_scaling/scaling/moments.hpp"

namespace unit_scaling::ops {

/// Which function is meant by GELU.
enum class GeluForm {
  erf,                 ///< x Φ(x)
  tanh_approximation,  ///< x/2 (1 + tanh(√(2/π) (x + 0.044715 x³))), the approximation of the first
                       ///< BERT code
};

/// Unit-scaled GELU: y = α f(m x) / m, dx = β dy f'(m x), with f(x) = x Φ(x) or its tanh form.
/// Shapes: y, dy and dx have the shape of x, which may be any.
/// Units:  x ~ N(0,1) gives std(y) = 1; dy ~ N(0,1) independent of x gives std(dx) = 1.
/// Scales: paper (m = 1): α⁻² = Var[xΦ], β⁻² = E[(Φ + xφ)²], so α ≈ 1.7009, β ≈ 1.4811, both
///         multiplied by nothing else; u-μP: α from 2 to √(2/(1−1/π)), β from 2 to √2,
///         interpolated logarithmically with weight 1/(1 + 1/(4 m²)) on the second.
/// Values: NaN → NaN, +∞ → +∞, −∞ → NaN. Computed in P::compute, rounded once on store.
/// @throws ShapeError if dy and x differ in shape; DomainError unless mult is finite and above 0.
/// @see Blake et al. 2023, arXiv:2303.11257; Hendrycks & Gimpel 2016, arXiv:1606.08415.
struct Gelu {
  static constexpr std::string_view name = "gelu";
  static constexpr bool accepts(std::size_t arguments) { return arguments == 1; }

  Scaling scaling = {};
  double mult = 1;  ///< m; the paper's factors are for 1.
  GeluForm form = GeluForm::erf;

  template <class T> [[nodiscard]] Scales<1> scales(const Array<T>& /*x*/) const {
    require(std::isfinite(mult) && mult > 0, name, "expected a finite mult above 0");
    Scales<1> ideal;
    if (scaling.rule == Rule::paper) {
      ideal = {.forward = 1 / std::sqrt(moments::gelu_variance),
               .backward = {1 / std::sqrt(moments::gelu_mean_square_slope)}};
    } else if (scaling.rule == Rule::umup) {
      const double weight = 1 / (1 + 0.25 / (mult * mult));
      const double relu_forward = std::sqrt(2 / (1 - std::numbers::inv_pi));
      ideal = {.forward = moments::log_interpolate(weight, relu_forward, 2),
               .backward = {moments::log_interpolate(weight, std::numbers::sqrt2, 2)}};
    }
    return constrain<1>(scaling.effective_constraint(), ideal);
  }

  template <Precision P, class T>
  [[nodiscard]] auto forward(P /*precision*/, const Scales<1>& s, const Array<T>& x) const {
    using Compute = typename P::compute;
    const auto m = static_cast<Compute>(mult);
    const auto a = static_cast<Compute>(s.forward / mult);
    const auto function = [&](auto f) {
      return kernels::map<Compute, typename P::storage>([=](auto v) { return a * f(m * v); }, x);
    };
    return Forward{form == GeluForm::erf
                       ? function([](auto v) { return v * kernels::normal(v).distribution; })
                       : function([](auto v) { return v * tanh_gate(v); }),
                   std::tuple{x}};
  }

  template <Precision P, class T>
  [[nodiscard]] auto backward(P /*precision*/, const Scales<1>& s,
                              const std::tuple<Array<T>>& saved, const Array<T>& dy) const {
    using Compute = typename P::compute;
    const Array<T>& x = std::get<0>(saved);
    require_same_shape(name, "dy and x", dy.shape(), x.shape());
    const auto m = static_cast<Compute>(mult);
    const auto b = static_cast<Compute>(s.backward[0]);
    const auto function = [&](auto slope) {
      return kernels::map<Compute, T>([=](auto g, auto v) { return b * g * slope(m * v); }, dy, x);
    };
    return std::tuple{form == GeluForm::erf
                          ? function([](auto v) {
                              const auto n = kernels::normal(v);
                              return n.distribution + v * n.density;
                            })
                          : function([](auto v) {
                              const auto gate = tanh_gate(v);
                              // Far out the slope of the gate is 0, but 0 · v² would be NaN where
                              // v² overflows.
                              const auto correction = v * gate * (1.0F - gate) * inner_slope(v);
                              return gate +
                                     kernels::select_lane(v * v > 1e4F, decltype(v){}, correction);
                            })};
  }

 private:
  /// The constants of the tanh form in the precision of the lanes they meet.
  template <class V> struct Tanh {
    using Scalar = std::conditional_t<std::is_same_v<V, double>, double, float>;
    static constexpr auto cubic = static_cast<Scalar>(0.044715);
    static constexpr auto twice_sqrt_2_over_pi =
        static_cast<Scalar>(2 * std::numbers::sqrt2 * std::numbers::inv_sqrtpi);
  };

  /// (1 + tanh u) / 2 = sigmoid(2u) with u = √(2/π) (v + 0.044715 v³).
  template <class V> static V tanh_gate(V v) {
    return kernels::sigmoid(Tanh<V>::twice_sqrt_2_over_pi * (v + Tanh<V>::cubic * v * v * v));
  }
  /// d(2u)/dv.
  template <class V> static V inner_slope(V v) {
    return Tanh<V>::twice_sqrt_2_over_pi * (1.0F + 3 * Tanh<V>::cubic * v * v);
  }
};
inline constexpr Apply<Gelu> gelu{};

}  // namespace unit_scaling::ops
