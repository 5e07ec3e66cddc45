// SPDX-License-Identifier: MIT
/// @file
/// Layer ops: the last linear layer of a model.
#pragma once

#include <array>
#include <cstddef>
#include <string_view>
#include <tuple>

#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/ops/linear.hpp"
#include "unit_scaling/ops/operand.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::ops {

/// A linear layer that makes logits: as Linear, but the edge into it is a cut-edge and nothing is
/// constrained unless `scaling` says so; and under u-μP logits shrink with the width.
/// Shapes: as Linear.
/// Units:  x, w, dy ~ N(0,1) give unit std of dx, dw and db, and of y except under u-μP, where its
///         std is fan_in^−½: the logits of a wide model start small.
/// Scales: β_x = fan_out^−½, β_w = β_b = rows^−½; paper: α = fan_in^−½, u-μP: α = fan_in^−1.
/// Values: as Linear.
/// @throws ShapeError if the shapes do not fit.
/// @see u-μP, arXiv:2407.17465, table 2; Blake et al. 2023, arXiv:2303.11257, section 5.
struct LinearReadout {
  static constexpr std::string_view name = "linear_readout";
  static constexpr bool accepts(std::size_t arguments) { return Linear::accepts(arguments); }
  static constexpr OpTraits traits{.has_homogeneity = true,
                                   .has_item_counts = true,
                                   .has_constraint = true,
                                   .has_products = true};

  Scaling scaling = scaling::inherited;

  template <class X, class W, class... B>
  [[nodiscard]] auto scales(const Array<X>& x, const Array<W>& w, const Array<B>&... b) const {
    // Before Linear would say it, in its own name.
    require_shape(w.shape().rank() == 2 && x.shape().rank() >= 1 && x.columns() == w.columns() &&
                      ((b.shape() == Shape{w.shape()[0]}) && ...),
                  name, "x (..., fan_in), w (fan_out, fan_in) and bias (fan_out) or none",
                  x.shape(), w.shape(), b.shape()...);
    return as_linear().scales(x, w, b...);
  }

  /// None unless it is asked for: what follows is a loss.
  [[nodiscard]] Constraint constraint() const { return as_linear().scaling.effective_constraint(); }

  template <class... T> [[nodiscard]] auto item_counts(const Array<T>&... x) const {
    return as_linear().item_counts(x...);
  }

  template <std::size_t N> [[nodiscard]] static Homogeneity homogeneity(const Scales<N>& s) {
    return Homogeneity::product(s.forward, N);
  }

  template <Precision P, std::size_t N, class... Arrays>
  [[nodiscard]] auto forward(P precision, const Scales<N>& s, const Arrays&... arrays) const {
    return as_linear().forward(precision, s, arrays...);
  }

  /// @returns (dx, dw), and db if `s` has three backward factors.
  template <Precision P, std::size_t N, class T>
  [[nodiscard]] auto backward(P precision, const Scales<N>& s,
                              const std::tuple<kernels::Operand, kernels::Operand>& saved,
                              const Array<T>& dy,
                              const std::array<bool, N>& wanted = all_wanted<N>()) const {
    const auto& [x, w] = saved;
    require_same_shape(name, "dy and y", dy.shape(), x.shape().with_columns(w.shape()[0]));
    return as_linear().backward(precision, s, saved, dy, wanted);
  }

 private:
  [[nodiscard]] Linear as_linear() const {
    Linear layer{.scaling = scaling.constraint ? scaling : scaling.on_cut_edge()};
    if (scaling.rule == Rule::umup) layer.power = {1, 0.5, 0.5};
    return layer;
  }
};
inline constexpr Apply<LinearReadout> linear_readout{};

}  // namespace UNIT_SCALING_NAMESPACE::ops

UNIT_SCALING_IEEE_END
