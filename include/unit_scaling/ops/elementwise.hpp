// SPDX-License-Identifier: MIT
/// @file
/// Layer ops: a function of your own, applied to every element.
#pragma once

#include <string_view>
#include <tuple>

#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/kernels/map.hpp"
#include "unit_scaling/ops/op.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::ops {

/// y = f(x), dx = dy f'(x), without any scaling of its own: `scaled` adds that.
///
/// F and Slope are captureless lambdas (or other stateless functions) of a lane, which is a vector
/// of sixteen floats, or a double: written with operators and kernels/elementary.hpp.
/// Shapes: y, dy and dx have the shape of x, which may be any.
/// Values: computed in P::compute, rounded once on store.
/// @throws ShapeError if dy and x differ in shape.
template <class F, class Slope> struct Elementwise {
  static constexpr std::string_view name = "elementwise";
  static constexpr bool accepts(std::size_t arguments) { return arguments == 1; }
  static constexpr OpTraits traits{.has_homogeneity = false, .has_item_counts = false};

  F function = {};
  Slope slope = {};

  constexpr Elementwise() = default;
  constexpr Elementwise(F function_, Slope slope_) : function(function_), slope(slope_) {}

  template <class T> [[nodiscard]] Scales<1> scales(const Array<T>& /*x*/) const { return {}; }

  template <Precision P, class T>
  [[nodiscard]] auto forward(P /*precision*/, const Scales<1>& s, const Array<T>& x) const {
    using Compute = typename P::compute;
    const auto a = static_cast<Compute>(s.forward);
    return Forward{
        kernels::map<Compute, typename P::storage>([&](auto v) { return a * function(v); }, x),
        std::tuple{x}};
  }

  template <Precision P, class T>
  [[nodiscard]] auto backward(P /*precision*/, const Scales<1>& s,
                              const std::tuple<Array<T>>& saved, const Array<T>& dy) const {
    using Compute = typename P::compute;
    const Array<T>& x = std::get<0>(saved);
    require_same_shape(name, "dy and x", dy.shape(), x.shape());
    const auto b = static_cast<Compute>(s.backward[0]);
    return std::tuple{
        kernels::map<Compute, T>([&](auto g, auto v) { return b * (g * slope(v)); }, dy, x)};
  }
};

template <class F, class Slope> Elementwise(F, Slope) -> Elementwise<F, Slope>;

}  // namespace UNIT_SCALING_NAMESPACE::ops

UNIT_SCALING_IEEE_END
