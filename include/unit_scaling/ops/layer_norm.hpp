// SPDX-License-Identifier: MIT
/// @file
/// Layer ops: layer normalisation along the last extent.
#pragma once

#include <cmath>
#include <cstddef>
#include <string_view>
#include <tuple>
#include <utility>

#include "unit_scaling/core/check.hpp"
#include "unit_scaling/kernels/normalise.hpp"
#include "unit_scaling/kernels/rows.hpp"
#include "unit_scaling/ops/op.hpp"

namespace unit_scaling::ops {

/// Unit-scaled layer normalisation: y = x̂ g + b, x̂ = (x − mean) / √(variance + ε) along the last
/// extent; dx = the true gradient, dg = β Σ dy x̂, db = β Σ dy.
/// Shapes: x, y, dx, dy (…, size); gain g and bias b (size), both or neither.
/// Units:  any x of one scale gives std(y) = 1 for g = 1, b = 0; dx has std 1 / std(x).
/// Scales: α = β_x = 1, β_g = β_b = rows^−½, rows = all extents of x but the last.
/// Values: mean and variance in P::compute, in two passes, and saved in it; y rounded once.
/// @throws ShapeError if g or b is not (size), or dy and x differ in shape.
/// @see Blake et al. 2023, arXiv:2303.11257, table A.2; Ba et al. 2016, arXiv:1607.06450.
struct LayerNorm {
  static constexpr std::string_view name = "layer_norm";
  static constexpr bool accepts(std::size_t arguments) { return arguments == 1 || arguments == 3; }

  Scaling scaling = {};
  double epsilon = 1e-5;  ///< ε

  template <class T> [[nodiscard]] Scales<1> scales(const Array<T>& /*x*/) const { return {}; }

  template <class T, class G, class B>
  [[nodiscard]] Scales<3> scales(const Array<T>& x, const Array<G>& gain,
                                 const Array<B>& bias) const {
    if (const Shape expected{x.columns()}; gain.shape() != expected || bias.shape() != expected) {
      throw_shape_error(name, "x (..., size), gain (size) and bias (size)", x.shape(), gain.shape(),
                        bias.shape());
    }
    Scales<3> s;
    if (scaling.rule != Rule::none && x.rows() != 0) {
      s.backward[1] = s.backward[2] = inverse_power(x.rows());
    }
    return s;
  }

  template <Precision P, class T>
  [[nodiscard]] auto forward(P /*precision*/, const Scales<1>& s, const Array<T>& x) const {
    using Compute = typename P::compute;
    const auto a = static_cast<Compute>(s.forward);
    auto statistics = row_statistics<Compute>(x);
    auto y = kernels::normalise_rows<Compute, typename P::storage>(
        x, x_hat<Compute>(x, statistics), [=](std::size_t, auto, auto v) { return a * v; });
    return Forward{std::move(y), std::tuple{x, std::move(statistics)}};
  }

  template <Precision P, class T, class G, class B>
  [[nodiscard]] auto forward(P /*precision*/, const Scales<3>& s, const Array<T>& x,
                             const Array<G>& gain, const Array<B>& bias) const {
    using Compute = typename P::compute;
    const auto a = static_cast<Compute>(s.forward);
    auto statistics = row_statistics<Compute>(x);
    auto y = kernels::normalise_rows<Compute, typename P::storage>(
        x, x_hat<Compute>(x, statistics), [&](std::size_t j, auto count, auto v) {
          return a * (v * kernels::load<Compute>(gain.data() + j, count) +
                      kernels::load<Compute>(bias.data() + j, count));
        });
    return Forward{std::move(y), std::tuple{x, std::move(statistics), gain}};
  }

  template <Precision P, class T>
  [[nodiscard]] auto backward(P /*precision*/, const Scales<1>& s,
                              const std::tuple<Array<T>, Array<typename P::compute>>& saved,
                              const Array<T>& dy) const {
    using Compute = typename P::compute;
    return std::tuple{input_gradient<Compute>(s.backward[0], std::get<0>(saved), std::get<1>(saved),
                                              dy, [&](std::size_t i, std::size_t j, auto count) {
                                                return kernels::load<Compute>(dy.row(i) + j, count);
                                              })};
  }

  template <Precision P, class T, class G>
  [[nodiscard]] auto backward(
      P /*precision*/, const Scales<3>& s,
      const std::tuple<Array<T>, Array<typename P::compute>, Array<G>>& saved,
      const Array<T>& dy) const {
    using Compute = typename P::compute;
    const Array<T>& x = std::get<0>(saved);
    const Array<Compute>& statistics = std::get<1>(saved);
    const Array<G>& gain = std::get<2>(saved);
    auto dx = input_gradient<Compute>(s.backward[0], x, statistics, dy,
                                      [&](std::size_t i, std::size_t j, auto count) {
                                        return kernels::load<Compute>(dy.row(i) + j, count) *
                                               kernels::load<Compute>(gain.data() + j, count);
                                      });
    auto dg = kernels::gain_gradient<Compute>(dy, gain.shape(), static_cast<Compute>(s.backward[1]),
                                              x_hat<Compute>(x, statistics));
    auto db = kernels::column_sums<Compute, T>(dy.data(), x.rows(), gain.shape(),
                                               static_cast<Compute>(s.backward[2]), x.resource());
    return std::tuple{std::move(dx), std::move(dg), std::move(db)};
  }

 private:
  /// Mean and reciprocal standard deviation of each row: shape (rows, 2).
  template <class Compute, class T>
  [[nodiscard]] Array<Compute> row_statistics(const Array<T>& x) const {
    const std::size_t columns = x.columns();
    Array<Compute> statistics(Shape{x.rows(), 2}, x.resource());
    if (x.empty()) return statistics;
    Compute* target = statistics.mutable_data();
    const auto size = static_cast<Compute>(columns);
    kernels::for_rows(x.rows(), columns, [&](std::size_t i) {
      const Compute centre =
          kernels::sum_lanes<Compute>(columns,
                                      [&](std::size_t j, auto count) {
                                        return kernels::load<Compute>(x.row(i) + j, count);
                                      }) /
          size;
      const Compute variance =
          kernels::sum_lanes<Compute>(columns,
                                      [&](std::size_t j, auto count) {
                                        const auto d = kernels::fill_beyond<Compute>(
                                            kernels::load<Compute>(x.row(i) + j, count) - centre,
                                            count, Compute{0});
                                        return d * d;
                                      }) /
          size;
      target[2 * i] = centre;
      target[2 * i + 1] = 1 / std::sqrt(variance + static_cast<Compute>(epsilon));
    });
    return statistics;
  }

  /// x̂ as lanes; it refers to both arrays.
  template <class Compute, class T>
  static auto x_hat(const Array<T>& x, const Array<Compute>& statistics) {
    return [&](std::size_t i, std::size_t j, auto count) {
      return (kernels::load<Compute>(x.row(i) + j, count) - statistics.data()[2 * i]) *
             statistics.data()[2 * i + 1];
    };
  }

  template <class Compute, class T, class D>
  static Array<T> input_gradient(double factor, const Array<T>& x, const Array<Compute>& statistics,
                                 const Array<T>& dy, const D& x_hat_gradient) {
    require_same_shape(name, "dy and x", dy.shape(), x.shape());
    return kernels::normalise_rows_gradient<Compute, kernels::Centring::mean>(
        x, static_cast<Compute>(factor),
        [&](std::size_t i) { return statistics.data()[2 * i + 1]; }, x_hat<Compute>(x, statistics),
        x_hat_gradient);
  }
};
inline constexpr Apply<LayerNorm> layer_norm{};

}  // namespace unit_scaling::ops
