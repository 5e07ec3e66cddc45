// SPDX-License-Identifier: MIT
/// @file
/// Layer ops: layer normalisation along the last extent.
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

/// Unit-scaled layer normalisation: y = x̂ g + b, x̂ = (x − mean) / √(variance + ε) along the last
/// extent; dx = the true gradient, dg = β Σ dy x̂, db = β Σ dy.
/// Shapes: x, y, dx, dy (…, size); gain g and bias b (size), both or neither.
/// Units:  any x of one scale gives std(y) = 1 for g = 1, b = 0; dx has std 1 / std(x).
/// Scales: α = β_x = 1, β_g = β_b = rows^−½, rows = all extents of x but the last.
/// Values: mean and variance in P::compute, and saved in it; y rounded once. A constant row gives
///         b. The rounding of the mean is corrected, and a row whose squares leave the range of
///         P::compute is first multiplied with a power of two. A NaN or an infinity makes its row
///         NaN.
/// Errors: whatever the mean and the magnitude of the row, x̂ is within e (1 + |x̂|) of that of exact
///         arithmetic, e = (size/16 + 12) 2⁻²⁴ (with P::compute double, (size + 12) 2⁻⁵³). Without
///         a gain, dx is within
///         3 e (|dy| + mean |dy| + (1 + |x̂|) mean(|dy| (1 + |x̂|))) / √(variance + ε).
/// @throws ShapeError if g or b is not (size), or dy and x differ in shape.
/// @see Blake et al. 2023, arXiv:2303.11257, table A.2; Ba et al. 2016, arXiv:1607.06450.
struct LayerNorm {
  static constexpr std::string_view name = "layer_norm";
  static constexpr bool accepts(std::size_t arguments) { return arguments == 1 || arguments == 3; }
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

  template <class T, class G, class B>
  [[nodiscard]] Scales<3> scales(const Array<T>& x, const Array<G>& gain,
                                 const Array<B>& bias) const {
    check(x.shape(), gain.shape(), bias.shape());
    require_attributes();
    Scales<3> s;
    if (scaling.rule != Rule::none && x.rows() != 0) {
      s.backward[1] = s.backward[2] = inverse_power(x.rows());
    }
    return s;
  }

  template <class T>
  [[nodiscard]] static std::array<ItemCount, 1> item_counts(const Array<T>& /*x*/) {
    return {};
  }

  /// The factors of gain and bias are of the rows.
  template <class T, class G, class B>
  [[nodiscard]] std::array<ItemCount, 3> item_counts(const Array<T>& x, const Array<G>& /*gain*/,
                                                     const Array<B>& /*bias*/) const {
    if (scaling.rule == Rule::none) return {};
    return {ItemCount{}, item_count(x.rows()), item_count(x.rows())};
  }

  template <std::size_t N> [[nodiscard]] Homogeneity homogeneity(const Scales<N>& s) const {
    return Homogeneity::normalisation(s.forward, N, epsilon);
  }

  template <Precision P, class T>
  [[nodiscard]] auto forward(P /*precision*/, const Scales<1>& s, const Array<T>& x) const {
    using Compute = typename P::compute;
    const auto a = static_cast<Compute>(s.forward);
    Array<Compute> statistics(Shape{x.rows(), RowStatistics::count}, x.resource());
    auto y = kernels::normalise_rows<Compute, typename P::storage>(
        x, measure(x, statistics), x_hat<Compute>(x, statistics),
        [=](std::size_t, auto, auto v) { return a * v; });
    return Forward{std::move(y), std::tuple{x, std::move(statistics)}};
  }

  template <Precision P, class T, class G, class B>
  [[nodiscard]] auto forward(P /*precision*/, const Scales<3>& s, const Array<T>& x,
                             const Array<G>& gain, const Array<B>& bias) const {
    using Compute = typename P::compute;
    check(x.shape(), gain.shape(), bias.shape());
    const auto a = static_cast<Compute>(s.forward);
    Array<Compute> statistics(Shape{x.rows(), RowStatistics::count}, x.resource());
    auto y = kernels::normalise_rows<Compute, typename P::storage>(
        x, measure(x, statistics), x_hat<Compute>(x, statistics),
        [a, g = gain.data(), b = bias.data()](std::size_t j, auto count, auto v) {
          return a * multiply_add(v, kernels::load<Compute>(g + j, count),
                                  kernels::load<Compute>(b + j, count));
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
      P /*precision*/, const Scales<3>& s,
      const std::tuple<Array<T>, Array<typename P::compute>, Array<G>>& saved,
      const Array<T>& dy) const {
    using Compute = typename P::compute;
    const Array<T>& x = std::get<0>(saved);
    const Array<Compute>& statistics = std::get<1>(saved);
    const Array<G>& gain = std::get<2>(saved);
    kernels::AffineGradients<Compute, true> sums(x.rows(), x.columns());
    auto dx = input_gradient<Compute>(
        s.backward[0], x, statistics, dy, kernels::gained_rows_of<Compute>(dy, gain),
        [&](std::size_t block, std::size_t i) { return sums.adder(block, dy.row(i)); });
    auto dg = sums.template gain<T>(static_cast<Compute>(s.backward[1]), x.resource());
    auto db = sums.template bias<T>(static_cast<Compute>(s.backward[2]), x.resource());
    return std::tuple{std::move(dx), std::move(dg), std::move(db)};
  }

 private:
  static void check(const Shape& x, const Shape& gain, const Shape& bias) {
    const Shape expected{x.columns()};
    require_shape(gain == expected && bias == expected, name,
                  "x (..., size), gain (size) and bias (size)", x, gain, bias);
  }

  /// What is noted of a row: x̂ = (power x − centre) inverse + offset.
  struct RowStatistics {
    enum : std::size_t { power, centre, inverse, offset, count };
  };

  /// Notes the statistics of a row in `statistics`, (rows, 4).
  ///
  /// The mean of the row times `power` is `centre` + `rest`: a sum of rounded terms is off by more
  /// than what is left of a row whose mean is large, so the mean of what is left corrects it.
  template <class Compute, class T>
  [[nodiscard]] auto measure(const Array<T>& x, Array<Compute>& statistics) const {
    return [&x, target = statistics.mutable_data(), size = static_cast<Compute>(x.columns()),
            epsilon_ = static_cast<Compute>(epsilon)](std::size_t i) {
      kernels::ScaledRow<Compute, T> row{x.row(i), x.columns()};
      Compute centre = kernels::sum_row<Compute>(row.columns, row) / size;
      Compute rest = 0;
      Compute mean_square = 0;
      const auto take_off = [&] {
        auto total = kernels::broadcast<Compute>(0);
        auto squares = kernels::broadcast<Compute>(0);
        kernels::for_lanes<Compute>(row.columns, [&](std::size_t j, auto count) {
          const auto d =
              kernels::fill_beyond<Compute>(row.plus(-centre, j, count), count, Compute{0});
          total += d;
          squares = multiply_add(d, d, squares);
        });
        rest = kernels::horizontal_sum(total) / size;
        mean_square = kernels::horizontal_sum(squares) / size;
      };
      take_off();
      if (kernels::is_beyond_squares(mean_square, epsilon_)) {
        row = row.near_one(epsilon_);
        centre = kernels::sum_row<Compute>(row.columns, row) / size;
        take_off();
      }
      if (rest * rest > mean_square / 64) {
        centre += rest;
        take_off();
      }
      Compute variance = multiply_add(rest, -rest, mean_square);
      if (variance <= 0) {
        // A constant row, of which the centre takes all: only ε counts, and not times a power.
        centre /= std::exchange(row.power, 1);
        rest = variance = 0;
      }
      // Without ε a constant row has no scale of its own: it gives 0 and passes no gradient.
      const bool has_scale = variance != 0 || epsilon_ != 0;
      const Compute inverse =
          has_scale ? 1 / std::sqrt(multiply_add(epsilon_ * row.power, row.power, variance)) : 0;
      Compute* noted = target + RowStatistics::count * i;
      noted[RowStatistics::power] = row.power;
      noted[RowStatistics::centre] = centre;
      noted[RowStatistics::inverse] = inverse;
      noted[RowStatistics::offset] = -rest * inverse;
    };
  }

  /// x̂ of a row as lanes.
  template <class Compute, class T>
  static auto x_hat(const Array<T>& x, const Array<Compute>& statistics) {
    return [&](std::size_t i) {
      const Compute* noted = statistics.data() + RowStatistics::count * i;
      return
          [row = kernels::ScaledRow<Compute, T>{x.row(i), x.columns(), noted[RowStatistics::power]},
           centre = noted[RowStatistics::centre], inverse = noted[RowStatistics::inverse],
           offset = noted[RowStatistics::offset]](std::size_t j, auto count) {
            return multiply_add(row.plus(-centre, j, count), inverse, offset);
          };
    };
  }

  template <class Compute, class T, class D, class Also>
  static Array<T> input_gradient(double factor, const Array<T>& x, const Array<Compute>& statistics,
                                 const Array<T>& dy, const D& x_hat_gradient, const Also& also) {
    require_same_shape(name, "dy and x", dy.shape(), x.shape());
    return kernels::normalise_rows_gradient<Compute, kernels::Centring::mean>(
        x, static_cast<Compute>(factor),
        [&](std::size_t i) {
          const Compute* noted = statistics.data() + RowStatistics::count * i;
          return kernels::Divisor<Compute>{noted[RowStatistics::power],
                                           noted[RowStatistics::inverse]};
        },
        x_hat<Compute>(x, statistics), x_hat_gradient, also);
  }
};
inline constexpr Apply<LayerNorm> layer_norm{};

}  // namespace UNIT_SCALING_NAMESPACE::ops

UNIT_SCALING_IEEE_END
