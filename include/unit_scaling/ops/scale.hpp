// SPDX-License-Identifier: MIT
/// @file
/// Layer ops: a factor of your own on one direction only.
#pragma once

#include <cmath>
#include <string_view>
#include <tuple>

#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/kernels/map.hpp"
#include "unit_scaling/ops/op.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::ops {

namespace detail {

/// The array times a factor, rounded once to Out; for a factor of one the same array, shared, if
/// it has that format already.
template <class Compute, class Out, class In>
[[nodiscard]] Array<Out> times(double factor, const Array<In>& array) {
  if (factor == 1) return kernels::convert<Out, Overflow::infinity_or_nan>(array);
  const auto a = static_cast<Compute>(factor);
  return kernels::map<Compute, Out>([=](auto v) { return a * v; }, array);
}

}  // namespace detail

/// The pass of an op that a factor acts on.
enum class ScaledPass { forward, backward };

/// A factor on one pass only: y = factor x, dx = dy on the forward pass; y = x, dx = factor dy on
/// the backward pass, where 0 stops a finite gradient and −1 reverses it.
/// Shapes: y, dy and dx have the shape of x, which may be any.
/// Units:  none are promised: both forms are what scaled ops are made of.
/// Scales: α = factor, β = 1, or the reverse; it takes no rule. Gradients before a factor on the
///         forward pass are proportional to the true ones only if x is a cut-edge, or `scale_bwd`
///         by the same factor follows.
/// Values: under a factor of 1, dx shares the storage of dy, and y that of x if x is in P::storage
///         already; else y is rounded once. A factor of 0 keeps NaN and turns infinities into it.
/// @throws DomainError unless the factor is finite; ShapeError if dy and x differ in shape.
/// @see Blake et al. 2023, arXiv:2303.11257, section 4.
template <ScaledPass pass> struct ScaleOnePass {
  static constexpr std::string_view name = pass == ScaledPass::forward ? "scale_fwd" : "scale_bwd";
  static constexpr bool accepts(std::size_t arguments) { return arguments == 1; }
  static constexpr OpTraits traits{.has_homogeneity = true, .has_item_counts = false};

  double factor = 1;

  template <class T> [[nodiscard]] Scales<1> scales(const Array<T>& /*x*/) const {
    require_finite(name, "factor", factor);
    if (pass == ScaledPass::forward) return {.forward = factor, .backward = {1}};
    return {.forward = 1, .backward = {factor}};
  }

  [[nodiscard]] static Homogeneity homogeneity(const Scales<1>& s) {
    return Homogeneity::linear(s.forward);
  }

  template <Precision P, class T>
  [[nodiscard]] auto forward(P /*precision*/, const Scales<1>& s, const Array<T>& x) const {
    return Forward{detail::times<typename P::compute, typename P::storage>(s.forward, x),
                   std::tuple{x.shape()}};
  }

  template <Precision P, class T>
  [[nodiscard]] auto backward(P /*precision*/, const Scales<1>& s, const std::tuple<Shape>& saved,
                              const Array<T>& dy) const {
    require_same_shape(name, "dy and x", dy.shape(), std::get<0>(saved));
    return std::tuple{detail::times<typename P::compute, T>(s.backward[0], dy)};
  }
};
using ScaleForward = ScaleOnePass<ScaledPass::forward>;
inline constexpr Apply<ScaleForward> scale_fwd{};
using ScaleBackward = ScaleOnePass<ScaledPass::backward>;
inline constexpr Apply<ScaleBackward> scale_bwd{};

}  // namespace UNIT_SCALING_NAMESPACE::ops

UNIT_SCALING_IEEE_END
