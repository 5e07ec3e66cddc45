// SPDX-License-Identifier: MIT
/// @file
/// Layer ops: the rectified linear unit.
#pragma once

#include <cmath>
#include <numbers>
#include <string_view>
#include <tuple>

#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/kernels/elementary.hpp"
#include "unit_scaling/kernels/map.hpp"
#include "unit_scaling/ops/op.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::ops {

/// Unit-scaled ReLU: y = α max(x, 0), dx = β dy [x > 0].
/// Shapes: y, dy and dx have the shape of x, which may be any.
/// Units:  x ~ N(0,1) gives std(y) = 1; dy ~ N(0,1) independent of x gives std(dx) = 1.
/// Scales: α⁻² = Var[max(x, 0)] = 1/2 − 1/(2π), β⁻² = P(x > 0) = 1/2: α ≈ 1.7129, β ≈ 1.4142; the
///         same under u-μP, which does not list it.
/// Values: NaN → NaN; at a NaN, dx = β dy.
/// @throws ShapeError if dy and x differ in shape.
/// @see Blake et al. 2023, arXiv:2303.11257, table A.2.
struct Relu {
  static constexpr std::string_view name = "relu";
  static constexpr bool accepts(std::size_t arguments) { return arguments == 1; }
  static constexpr OpTraits traits{.has_homogeneity = true, .has_item_counts = false};

  Scaling scaling = scaling::inherited;

  template <class T> [[nodiscard]] Scales<1> scales(const Array<T>& /*x*/) const {
    if (scaling.rule == Rule::none) return {};
    const double variance = 0.5 - std::numbers::inv_pi / 2;
    return constrain<1>(
        scaling.effective_constraint(),
        Scales<1>{.forward = 1 / std::sqrt(variance), .backward = {std::numbers::sqrt2}});
  }

  [[nodiscard]] static Homogeneity homogeneity(const Scales<1>& s) {
    return Homogeneity::linear(s.forward);
  }

  template <Precision P, class T>
  [[nodiscard]] auto forward(P /*precision*/, const Scales<1>& s, const Array<T>& x) const {
    using Compute = typename P::compute;
    const auto a = static_cast<Compute>(s.forward);
    const auto f = [=](auto v) { return a * kernels::select_lane(v <= 0, decltype(v){}, v); };
    return Forward{kernels::map<Compute, typename P::storage>(f, x), std::tuple{x}};
  }

  template <Precision P, class T>
  [[nodiscard]] auto backward(P /*precision*/, const Scales<1>& s,
                              const std::tuple<Array<T>>& saved, const Array<T>& dy) const {
    using Compute = typename P::compute;
    const auto& [x] = saved;
    require_same_shape(name, "dy and x", dy.shape(), x.shape());
    const auto b = static_cast<Compute>(s.backward[0]);
    const auto f = [=](auto g, auto v) {
      return b * kernels::select_lane(v <= 0, decltype(g){}, g);
    };
    return std::tuple{kernels::map<Compute, T>(f, dy, x)};
  }
};
inline constexpr Apply<Relu> relu{};

}  // namespace UNIT_SCALING_NAMESPACE::ops

UNIT_SCALING_IEEE_END
