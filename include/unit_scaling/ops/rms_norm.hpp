// SPDX-License-Identifier: MIT
/// @file
/// Layer ops: root-mean-square normalisation along the last extent.
#pragma once

#include <array>
#include <cmath>
#include <cstddef>
#include <string_view>
#include <tuple>
#include <utility>

#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/multiply_add.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/kernels/normalise.hpp"
#include "unit_scaling/kernels/rows.hpp"
#include "unit_scaling/ops/op.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::ops {

/// Unit-scaled RMS normalisation: y = x̂ g, x̂ = x / √(mean(x²) + ε) along the last extent; dx = the
/// true gradient, dg = β Σ dy x̂.
/// Shapes: x, y, dx, dy (…, size); gain g (size) or absent.
/// Units:  any x of one scale gives rms(y) = 1 for g = 1; dx has std 1 / rms(x).
/// Scales: α = β_x = 1, β_g = rows^−½, rows = all extents of x but the last.
/// Values: the mean of squares in P::compute, and 1 / √(…) saved in it; y rounded once. A row whose
///         squares leave the range of P::compute is first multiplied with a power of two. A NaN
///         makes its row NaN; an infinity makes itself NaN and the other elements of its row 0.
/// Errors: whatever the magnitude of the row, x̂ is within e |x̂| of that of exact arithmetic,
///         e = (size/16 + 12) 2⁻²⁴ (with P::compute double, (size + 12) 2⁻⁵³). Without a gain,
///         dx is within 3 e (|dy| + |x̂| mean |dy x̂|) / √(mean(x²) + ε).
/// @throws ShapeError if g is not (size), or dy and x differ in shape.
/// @see Zhang & Sennrich 2019, arXiv:1910.07467; u-μP, arXiv:2407.17465.
struct RmsNorm {
  static constexpr std::string_view name = "rms_norm";
  static constexpr bool accepts(std::size_t arguments) { return arguments == 1 || arguments == 2; }
  static constexpr OpTraits traits{
      .has_homogeneity = true, .has_item_counts = true, .ignores_constraint = true};

  Scaling scaling = scaling::inherited;
  double epsilon = 1e-5;  ///< ε

  /// @throws DomainError if an attribute is out of its range.
  void require_attributes() const { require_not_negative(name, "epsilon", epsilon); }

  template <class T> [[nodiscard]] Scales<1> scales(const Array<T>& /*x*/) const {
    require_attributes();
    return {};
  }

  template <class T, class G>
  [[nodiscard]] Scales<2> scales(const Array<T>& x, const Array<G>& gain) const {
    check(x.shape(), gain.shape());
    require_attributes();
    Scales<2> s;
    if (scaling.rule != Rule::none) s.backward[1] = inverse_power(x.rows());
    return s;
  }

  template <class T>
  [[nodiscard]] static std::array<ItemCount, 1> item_counts(const Array<T>& /*x*/) {
    return {};
  }

  /// The gain's factor is of the rows.
  template <class T, class G>
  [[nodiscard]] std::array<ItemCount, 2> item_counts(const Array<T>& x,
                                                     const Array<G>& /*gain*/) const {
    if (scaling.rule == Rule::none) return {};
    return {ItemCount{}, item_count(x.rows())};
  }

  template <std::size_t N> [[nodiscard]] Homogeneity homogeneity(const Scales<N>& s) const {
    return Homogeneity::normalisation(s.forward, N, epsilon);
  }

  template <Precision P, class T>
  [[nodiscard]] auto forward(P /*precision*/, const Scales<1>& s, const Array<T>& x) const {
    using Compute = typename P::compute;
    const auto a = static_cast<Compute>(s.forward);
    Array<Compute> statistics(Shape{x.rows(), 2}, x.resource());
    auto y = kernels::normalise_rows<Compute, typename P::storage>(
        x, measure(x, statistics), x_hat<Compute>(x, statistics),
        [=](std::size_t, auto, auto v) { return a * v; });
    return Forward{std::move(y), std::tuple{x, std::move(statistics)}};
  }

  template <Precision P, class T, class G>
  [[nodiscard]] auto forward(P /*precision*/, const Scales<2>& s, const Array<T>& x,
                             const Array<G>& gain) const {
    using Compute = typename P::compute;
    check(x.shape(), gain.shape());
    const auto a = static_cast<Compute>(s.forward);
    Array<Compute> statistics(Shape{x.rows(), 2}, x.resource());
    auto y = kernels::normalise_rows<Compute, typename P::storage>(
        x, measure(x, statistics), x_hat<Compute>(x, statistics),
        [a, g = gain.data()](std::size_t j, auto count, auto v) {
          return a * (v * kernels::load<Compute>(g + j, count));
        });
    return Forward{std::move(y), std::tuple{x, std::move(statistics), gain}};
  }

  template <Precision P, class T>
  [[nodiscard]] auto backward(P /*precision*/, const Scales<1>& s,
                              const std::tuple<Array<T>, Array<typename P::compute>>& saved,
                              const Array<T>& dy) const {
    using Compute = typename P::compute;
    return std::tuple{input_gradient<Compute>(s.backward[0], std::get<0>(saved), std::get<1>(saved),
                                              dy, kernels::rows_of<Compute>(dy),
                                              kernels::nothing_also())};
  }

  template <Precision P, class T, class G>
  [[nodiscard]] auto backward(
      P /*precision*/, const Scales<2>& s,
      const std::tuple<Array<T>, Array<typename P::compute>, Array<G>>& saved,
      const Array<T>& dy) const {
    using Compute = typename P::compute;
    const Array<T>& x = std::get<0>(saved);
    const Array<Compute>& statistics = std::get<1>(saved);
    const Array<G>& gain = std::get<2>(saved);
    kernels::AffineGradients<Compute, false> sums(x.rows(), x.columns());
    auto dx = input_gradient<Compute>(
        s.backward[0], x, statistics, dy, kernels::gained_rows_of<Compute>(dy, gain),
        [&](std::size_t block, std::size_t i) { return sums.adder(block, dy.row(i)); });
    auto dg = sums.template gain<T>(static_cast<Compute>(s.backward[1]), x.resource());
    return std::tuple{std::move(dx), std::move(dg)};
  }

 private:
  static void check(const Shape& x, const Shape& gain) {
    require_shape(gain == Shape{x.columns()}, name, "x (..., size) and gain (size)", x, gain);
  }

  /// Notes power and inverse of a row in `statistics`, (rows, 2): x̂ = power x inverse, where power
  /// is 1 unless squares leave the range of Compute.
  template <class Compute, class T>
  [[nodiscard]] auto measure(const Array<T>& x, Array<Compute>& statistics) const {
    return [&x, target = statistics.mutable_data(), size = static_cast<Compute>(x.columns()),
            epsilon_ = static_cast<Compute>(epsilon)](std::size_t i) {
      kernels::ScaledRow<Compute, T> row{x.row(i), x.columns()};
      const auto mean_square = [&] {
        const Compute squares =
            kernels::sum_products<Compute>(row.columns, [&](std::size_t j, auto count) {
              const auto v = row(j, count);
              return kernels::Factors{v, v};
            });
        return squares / size;
      };
      Compute square = mean_square();
      if (kernels::is_beyond_squares(square, epsilon_)) {
        row = row.near_one(epsilon_);
        square = mean_square();
      }
      target[2 * i] = row.power;
      // Without ε a row of zeros has no scale of its own: it gives 0 and passes no gradient.
      const Compute of_epsilon = epsilon_ * row.power;
      const Compute total = multiply_add(of_epsilon, row.power, square);
      target[2 * i + 1] = total == 0 ? 0 : 1 / std::sqrt(total);
    };
  }

  /// x̂ of a row as lanes.
  template <class Compute, class T>
  static auto x_hat(const Array<T>& x, const Array<Compute>& statistics) {
    return [&](std::size_t i) {
      return [row = kernels::ScaledRow<Compute, T>{x.row(i), x.columns(), statistics.data()[2 * i]},
              inverse = statistics.data()[2 * i + 1]](std::size_t j, auto count) {
        return row(j, count) * inverse;
      };
    };
  }

  template <class Compute, class T, class D, class Also>
  static Array<T> input_gradient(double factor, const Array<T>& x, const Array<Compute>& statistics,
                                 const Array<T>& dy, const D& x_hat_gradient, const Also& also) {
    require_same_shape(name, "dy and x", dy.shape(), x.shape());
    return kernels::normalise_rows_gradient<Compute, kernels::Centring::none>(
        x, static_cast<Compute>(factor),
        [&](std::size_t i) {
          return kernels::Divisor<Compute>{statistics.data()[2 * i], statistics.data()[2 * i + 1]};
        },
        x_hat<Compute>(x, statistics), x_hat_gradient, also);
  }
};
inline constexpr Apply<RmsNorm> rms_norm{};

}  // namespace UNIT_SCALING_NAMESPACE::ops

UNIT_SCALING_IEEE_END
