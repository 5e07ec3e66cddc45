// SPDX-License-Identifier: MIT
/// @file
/// Layer ops: softmax along the last extent.
#pragma once

#include <cmath>

#include "unit_scaling/core/check.hpp"
#include "unit_scaling/kernels/elementary.hpp"
#include "unit_scaling/kernels/rows.hpp"
#include "unit_scaling/kernels/softmax.hpp"
#include "unit_scaling/ops/op.hpp"
#include "unit_scaling/scaling/moments.hpp"

namespace unit_scaling::ops {

/// Unit-scaled softmax: y = α p, p = softmax(m x) along the last extent;
/// dx = β m p (dy − Σ dy p).
/// Shapes: x, y, dx, dy alike, any; the last extent is s.
/// Units:  x ~ N(0,1) gives std(y) near 1, see Scales.
/// Scales: paper: α = β = s, right to an order of magnitude only: for x ~ N(0,1) and large s,
///         std(y) = √(e−1) = 1.31 and rms(dx) = √e = 1.65. u-μP: α from s (flat) to √s (one-hot),
///         β from s/m to √(s/m), interpolated logarithmically with weight 1/(1 + 4/m²).
/// Values: a row with a NaN or +∞, or of −∞ only, is NaN throughout; a −∞ among finite values
///         gives 0. p is recovered from the stored y for backward.
/// @throws ShapeError if dy and x differ in shape; DomainError unless mult is finite and above 0.
/// @see Blake et al. 2023, arXiv:2303.11257, table A.2.
struct Softmax {
  static constexpr std::string_view name = "softmax";
  static constexpr bool accepts(std::size_t arguments) { return arguments == 1; }

  Scaling scaling = {};
  double mult = 1;  ///< m; the paper's factors are for 1.

  template <class T> [[nodiscard]] Scales<1> scales(const Array<T>& x) const {
    require(std::isfinite(mult) && mult > 0, name, "expected a finite mult above 0");
    const auto s = static_cast<double>(x.columns());
    Scales<1> ideal;
    if (x.columns() == 0) return ideal;
    if (scaling.rule == Rule::paper) {
      ideal = {.forward = s, .backward = {s}};
    } else if (scaling.rule == Rule::umup) {
      const double weight = 1 / (1 + 4 / (mult * mult));
      ideal = {.forward = moments::log_interpolate(weight, std::sqrt(s), s),
               .backward = {moments::log_interpolate(weight, std::sqrt(s / mult), s / mult)}};
    }
    return constrain<1>(scaling.effective_constraint(), ideal);
  }

  template <Precision P, class T>
  [[nodiscard]] auto forward(P /*precision*/, const Scales<1>& s, const Array<T>& x) const {
    using Compute = typename P::compute;
    using Storage = typename P::storage;
    Array<Storage> y(x.shape(), x.resource());
    Storage* target = y.mutable_data();
    const std::size_t columns = x.columns();
    const auto m = static_cast<Compute>(mult);
    if (!x.empty()) {
      kernels::for_rows(x.rows(), columns, [&](std::size_t i) {
        const auto row = kernels::softmax_row<Compute>(x.row(i), columns, m);
        const auto factor = static_cast<Compute>(s.forward) / row.sum;
        kernels::for_lanes<Compute>(columns, [&](std::size_t j, auto count) {
          const auto v = kernels::load<Compute>(x.row(i) + j, count);
          kernels::store<Overflow::infinity_or_nan, Compute>(
              kernels::exp_of_nonpositive((v * m) - row.max) * factor, target + i * columns + j,
              count);
        });
      });
    }
    return Forward{y, std::tuple{y, static_cast<Compute>(s.forward)}};
  }

  template <Precision P, class T>
  [[nodiscard]] auto backward(P /*precision*/, const Scales<1>& s,
                              const std::tuple<Array<T>, typename P::compute>& saved,
                              const Array<T>& dy) const {
    using Compute = typename P::compute;
    const Array<T>& y = std::get<0>(saved);
    const Compute p_per_y = 1 / std::get<1>(saved);
    require_same_shape(name, "dy and x", dy.shape(), y.shape());
    Array<T> dx(y.shape(), y.resource());
    T* target = dx.mutable_data();
    const std::size_t columns = y.columns();
    const auto factor = static_cast<Compute>(s.backward[0] * mult) * p_per_y;
    if (!y.empty()) {
      kernels::for_rows(y.rows(), columns, [&](std::size_t i) {
        const Compute inner =
            p_per_y * kernels::sum_lanes<Compute>(columns, [&](std::size_t j, auto count) {
              return kernels::load<Compute>(y.row(i) + j, count) *
                     kernels::load<Compute>(dy.row(i) + j, count);
            });
        kernels::for_lanes<Compute>(columns, [&](std::size_t j, auto count) {
          kernels::store<Overflow::infinity_or_nan, Compute>(
              factor * kernels::load<Compute>(y.row(i) + j, count) *
                  (kernels::load<Compute>(dy.row(i) + j, count) - inner),
              target + i * columns + j, count);
        });
      });
    }
    return std::tuple{std::move(dx)};
  }
};
inline constexpr Apply<Softmax> softmax{};

}  // namespace unit_scaling::ops
