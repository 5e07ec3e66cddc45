// SPDX-License-Identifier: MIT
/// @file
/// Layer ops: the Gaussian error linear unit.
#pragma once

#include <cmath>
#include <numbers>
#include <type_traits>

#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/multiply_add.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/kernels/elementary.hpp"
#include "unit_scaling/kernels/map.hpp"
#include "unit_scaling/ops/op.hpp"
#include "unit_scaling/scaling/moments.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::ops {

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
/// Values: NaN → NaN, +∞ → +∞, −∞ → NaN. Finite numbers never give NaN. Computed in P::compute,
///         rounded once on store.
/// @throws ShapeError if dy and x differ in shape; DomainError unless mult is finite and above 0.
/// @see Blake et al. 2023, arXiv:2303.11257; Hendrycks & Gimpel 2016, arXiv:1606.08415.
struct Gelu {
  static constexpr std::string_view name = "gelu";
  static constexpr bool accepts(std::size_t arguments) { return arguments == 1; }
  static constexpr OpTraits traits{.has_homogeneity = true, .has_item_counts = false};

  Scaling scaling = scaling::inherited;
  double mult = 1;  ///< m; the paper's factors are for 1.
  GeluForm form = GeluForm::erf;

  /// @throws DomainError if an attribute is out of its range.
  void require_attributes() const { require_multiplier(name, "mult", mult); }

  template <class T> [[nodiscard]] Scales<1> scales(const Array<T>& /*x*/) const {
    return factors();
  }

  /// Those of every x: no size goes in.
  [[nodiscard]] Scales<1> factors() const {
    require_attributes();
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

  [[nodiscard]] Homogeneity homogeneity(const Scales<1>& s) const {
    return Homogeneity::function(s.forward / mult, mult);
  }

  template <Precision P, class T>
  [[nodiscard]] auto forward(P /*precision*/, const Scales<1>& s, const Array<T>& x) const {
    using Compute = typename P::compute;
    return with_form([&](auto f) {
      return Forward{kernels::map<Compute, typename P::storage>(output<Compute>(s.forward, f), x),
                     std::tuple{x}};
    });
  }

  template <Precision P, class T>
  [[nodiscard]] auto backward(P /*precision*/, const Scales<1>& s,
                              const std::tuple<Array<T>>& saved, const Array<T>& dy) const {
    using Compute = typename P::compute;
    const Array<T>& x = std::get<0>(saved);
    require_same_shape(name, "dy and x", dy.shape(), x.shape());
    return with_form([&](auto f) {
      return std::tuple{kernels::map<Compute, T>(gradient<Compute>(s.backward[0], f), dy, x)};
    });
  }

  /// Calls `use(f)` with the function of lanes that `form` names: `f.value(v, m)`, f(m v) / m, and
  /// `f.slope(v, m)`, f'(m v). Where m v is beyond the range they are 0, v or 1.
  template <class Use> auto with_form(const Use& use) const {
    return form == GeluForm::erf ? use(Erf{}) : use(TanhApproximation{});
  }

  /// v ↦ α f(m v) / m on lanes, for a forward factor α.
  template <class Compute, class F> [[nodiscard]] auto output(double forward_factor, F f) const {
    return [ a = static_cast<Compute>(forward_factor), m = static_cast<Compute>(mult), f ](auto v)
        __attribute__((always_inline)) {
      return a * f.value(v, m);
    };
  }

  /// (g, v) ↦ β g f'(m v) on lanes, for a backward factor β.
  template <class Compute, class F> [[nodiscard]] auto gradient(double backward_factor, F f) const {
    return [ b = static_cast<Compute>(backward_factor), m = static_cast<Compute>(mult),
             f ](auto g, auto v) __attribute__((always_inline)) {
      return b * (g * f.slope(v, m));
    };
  }

 private:
  struct Erf {
    template <class V, class M> [[gnu::always_inline]] static V value(V v, M m) {
      return v * kernels::normal(m * v).distribution;
    }
    template <class V, class M> [[gnu::always_inline]] static V slope(V v, M m) {
      const auto n = kernels::normal(m * v);
      return multiply_add(v, m * n.density, n.distribution);
    }
  };

  struct TanhApproximation {
    template <class V, class M> [[gnu::always_inline]] static V value(V v, M m) {
      return v * gate(m * v);
    }
    template <class V, class M> [[gnu::always_inline]] static V slope(V x, M m) {
      const V v = m * x;
      const auto open = gate(v);
      // Far out the slope of the gate is 0, but 0 · v² would be NaN where v² overflows.
      const auto correction = v * open * (kernels::one<V> - open) * inner_slope(v);
      return open + kernels::select_lane(v * v > 10000 * kernels::one<V>, V{}, correction);
    }

   private:
    /// The constants in the precision of the lanes they meet.
    template <class V> struct Constants {
      using Scalar = std::conditional_t<std::is_same_v<V, double>, double, float>;
      static constexpr auto cubic = static_cast<Scalar>(0.044715);
      static constexpr auto twice_sqrt_2_over_pi =
          static_cast<Scalar>(2 * std::numbers::sqrt2 * std::numbers::inv_sqrtpi);
    };

    /// (1 + tanh u) / 2 = sigmoid(2u) with u = √(2/π) (v + 0.044715 v³).
    template <class V> [[gnu::always_inline]] static V gate(V v) {
      using C = Constants<V>;
      return kernels::sigmoid(C::twice_sqrt_2_over_pi * multiply_add(C::cubic * v * v, v, v));
    }
    /// d(2u)/dv.
    template <class V> [[gnu::always_inline]] static V inner_slope(V v) {
      using C = Constants<V>;
      return C::twice_sqrt_2_over_pi * multiply_add(3 * C::cubic * v, v, 1.0F);
    }
  };
};
inline constexpr Apply<Gelu> gelu{};

}  // namespace UNIT_SCALING_NAMESPACE::ops

UNIT_SCALING_IEEE_END
