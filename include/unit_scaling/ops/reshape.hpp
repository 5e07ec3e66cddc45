// SPDX-License-Identifier: MIT
/// @file
/// Layer ops: the same elements under another shape.
#pragma once

#include <string_view>
#include <tuple>

#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/kernels/map.hpp"
#include "unit_scaling/ops/op.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::ops {

/// The elements of x, row-major, under `shape`; the gradient goes back under that of x.
/// Shapes: x any, y and dy `shape`, of as many elements.
/// Units:  nothing is computed: whatever the scale of x, it is kept, and so is the gradient's.
/// Values: shares the storage of x if that is in P::storage already, else rounds once.
/// @throws ShapeError if the sizes differ, or dy is not of `shape`.
struct Reshape {
  static constexpr std::string_view name = "reshape";
  static constexpr bool accepts(std::size_t arguments) { return arguments == 1; }
  static constexpr OpTraits traits{.has_homogeneity = true, .has_item_counts = false};

  Shape shape = {};

  template <class T> [[nodiscard]] Scales<1> scales(const Array<T>& x) const {
    require_shape(x.size() == shape.size(), name, "x and a shape of one size", x.shape(), shape);
    return {};
  }

  [[nodiscard]] static Homogeneity homogeneity(const Scales<1>& s) {
    return Homogeneity::linear(s.forward);
  }

  template <Precision P, class T>
  [[nodiscard]] auto forward(P /*precision*/, const Scales<1>& /*s*/, const Array<T>& x) const {
    return Forward{
        kernels::convert<typename P::storage, Overflow::infinity_or_nan>(x).reshaped(shape),
        std::tuple{x.shape()}};
  }

  template <Precision P, class T>
  [[nodiscard]] auto backward(P /*precision*/, const Scales<1>& /*s*/,
                              const std::tuple<Shape>& saved, const Array<T>& dy) const {
    require_same_shape(name, "dy and y", dy.shape(), shape);
    return std::tuple{dy.reshaped(std::get<0>(saved))};
  }
};
inline constexpr Apply<Reshape> reshape{};

}  // namespace UNIT_SCALING_NAMESPACE::ops

UNIT_SCALING_IEEE_END
