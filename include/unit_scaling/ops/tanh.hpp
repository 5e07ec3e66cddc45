// SPDX-License-Identifier: MIT
/// @file
/// Layer ops: the hyperbolic tangent.
#pragma once

#include <cmath>
#include <string_view>
#include <tuple>

#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/multiply_add.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/kernels/hyperbolic.hpp"
#include "unit_scaling/kernels/map.hpp"
#include "unit_scaling/ops/op.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::ops {

/// Unit-scaled tanh: y = α tanh x, dx = β dy (1 − tanh² x).
/// Shapes: y, dy and dx have the shape of x, which may be any.
/// Units:  x ~ N(0,1) gives std(y) = 1; dy ~ N(0,1) independent of x gives std(dx) = 1.
/// Scales: α⁻² = Var[tanh x], β⁻² = E[(1 − tanh² x)²]: α ≈ 1.5925, β ≈ 1.4674; the same under u-μP,
///         which does not list it.
/// Values: NaN → NaN, ±∞ → ±α. Computed in P::compute, rounded once on store.
/// @throws ShapeError if dy and x differ in shape.
/// @see Blake et al. 2023, arXiv:2303.11257, table A.2.
struct Tanh {
  static constexpr std::string_view name = "tanh";
  static constexpr bool accepts(std::size_t arguments) { return arguments == 1; }
  static constexpr OpTraits traits{.has_homogeneity = false, .has_item_counts = false};

  /// By quadrature, which the tests repeat.
  static constexpr double variance = 0.394294490397841;
  static constexpr double mean_square_slope = 0.464402902448268;

  Scaling scaling = scaling::inherited;

  template <class T> [[nodiscard]] Scales<1> scales(const Array<T>& /*x*/) const {
    if (scaling.rule == Rule::none) return {};
    return constrain<1>(scaling.effective_constraint(),
                        Scales<1>{.forward = 1 / std::sqrt(variance),
                                  .backward = {1 / std::sqrt(mean_square_slope)}});
  }

  template <Precision P, class T>
  [[nodiscard]] auto forward(P /*precision*/, const Scales<1>& s, const Array<T>& x) const {
    using Compute = typename P::compute;
    const auto a = static_cast<Compute>(s.forward);
    return Forward{
        kernels::map<Compute, typename P::storage>([=](auto v) { return a * kernels::tanh(v); }, x),
        std::tuple{x}};
  }

  template <Precision P, class T>
  [[nodiscard]] auto backward(P /*precision*/, const Scales<1>& s,
                              const std::tuple<Array<T>>& saved, const Array<T>& dy) const {
    using Compute = typename P::compute;
    const auto& [x] = saved;
    require_same_shape(name, "dy and x", dy.shape(), x.shape());
    const auto b = static_cast<Compute>(s.backward[0]);
    return std::tuple{kernels::map<Compute, T>(
        [=](auto g, auto v) {
          const auto t = kernels::tanh(v);
          return b * (g * multiply_add(-t, t, 1.0F));
        },
        dy, x)};
  }
};
inline constexpr Apply<Tanh> tanh{};

}  // namespace UNIT_SCALING_NAMESPACE::ops

UNIT_SCALING_IEEE_END
