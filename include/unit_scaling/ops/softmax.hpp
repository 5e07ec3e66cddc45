// SPDX-License-Identifier: MIT
/// @file
/// Layer ops: softmax along one extent.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>

#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/parallel_for.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/kernels/elementary.hpp"
#include "unit_scaling/kernels/rows.hpp"
#include "unit_scaling/kernels/softmax.hpp"
#include "unit_scaling/ops/op.hpp"
#include "unit_scaling/scaling/moments.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::ops {

/// Unit-scaled softmax: y = α p, p = softmax(m x) along one extent, the last unless said otherwise;
/// dx = β m p (dy − Σ dy p).
/// Shapes: x, y, dx, dy alike, any; s is the extent it runs along.
/// Units:  x ~ N(0,1) gives std(y) near 1, see Scales.
/// Scales: paper: α = β = s, right to an order of magnitude only: for x ~ N(0,1) and large s,
///         std(y) = √(e−1) = 1.31 and rms(dx) = √e = 1.65. u-μP: α from s (flat) to √s (one-hot),
///         β from s/m to √(s/m), interpolated logarithmically with weight 1/(1 + 4/m²).
/// Values: a row with a NaN or +∞, or of −∞ only, is NaN throughout; a −∞ among finite values
///         gives 0. p is recovered from the stored y for backward, where it sums to one but for its
///         rounding: so dy of a row is counted from that of its likeliest element, which changes
///         nothing for exact p. Along another extent than the last it runs on a copy in which that
///         one is contiguous.
/// Errors: for m = 1, y is within (s/16 + 34 + max − x) u, relatively, of that of exact arithmetic,
///         u = 2⁻²⁴ (with P::compute double, s for s/16 and u = 2⁻⁵³); p below e⁻⁸⁷ may be 0. A
///         gradient dx overflows only if it is itself beyond the range.
/// @throws ShapeError if dy and x differ in shape; DomainError unless mult is finite and above 0,
///         and x has the dimension.
/// @see Blake et al. 2023, arXiv:2303.11257, table A.2.
struct Softmax {
  static constexpr std::string_view name = "softmax";
  static constexpr bool accepts(std::size_t arguments) { return arguments == 1; }
  static constexpr OpTraits traits{.has_homogeneity = true, .has_item_counts = false};

  Scaling scaling = scaling::inherited;
  double mult = 1;     ///< m; the paper's factors are for 1.
  int dimension = -1;  ///< number of the extent it runs along; negative from the end

  /// @throws DomainError if an attribute is out of its range.
  void require_attributes() const { require_multiplier(name, "mult", mult); }

  template <class T> [[nodiscard]] Scales<1> scales(const Array<T>& x) const {
    require_attributes();
    const Extents e = extents(x.shape());
    const auto s = static_cast<double>(e.size);
    Scales<1> ideal;
    if (e.size == 0) return ideal;
    if (scaling.rule == Rule::paper) {
      ideal = {.forward = s, .backward = {s}};
    } else if (scaling.rule == Rule::umup) {
      const double weight = 1 / (1 + 4 / (mult * mult));
      ideal = {.forward = moments::log_interpolate(weight, std::sqrt(s), s),
               .backward = {moments::log_interpolate(weight, std::sqrt(s / mult), s / mult)}};
    }
    return constrain<1>(scaling.effective_constraint(), ideal);
  }

  [[nodiscard]] Homogeneity homogeneity(const Scales<1>& s) const {
    return Homogeneity::function(s.forward, mult);
  }

  template <Precision P, class T>
  [[nodiscard]] auto forward(P /*precision*/, const Scales<1>& s, const Array<T>& x) const {
    const auto a = static_cast<typename P::compute>(s.forward);
    const Extents e = extents(x.shape());
    const auto y = e.is_last ? of_rows<P>(a, x)
                             : exchanged(of_rows<P>(a, exchanged(x, e.outer, e.size, e.inner)),
                                         e.outer, e.inner, e.size)
                                   .reshaped(x.shape());
    return Forward{y, std::tuple{y, a}};
  }

  template <Precision P, class T>
  [[nodiscard]] auto backward(P /*precision*/, const Scales<1>& s,
                              const std::tuple<Array<T>, typename P::compute>& saved,
                              const Array<T>& dy) const {
    using Compute = typename P::compute;
    const Array<T>& y = std::get<0>(saved);
    const Compute p_per_y = 1 / std::get<1>(saved);
    require_same_shape(name, "dy and x", dy.shape(), y.shape());
    const auto factor = static_cast<Compute>(s.backward[0] * mult) * p_per_y;
    const Extents e = extents(y.shape());
    if (e.is_last) return std::tuple{gradient_of_rows(factor, p_per_y, y, dy)};
    const auto rows = gradient_of_rows(factor, p_per_y, exchanged(y, e.outer, e.size, e.inner),
                                       exchanged(dy, e.outer, e.size, e.inner));
    return std::tuple{exchanged(rows, e.outer, e.inner, e.size).reshaped(y.shape())};
  }

 private:
  /// Extents before, of and after the dimension.
  struct Extents {
    std::size_t outer, size, inner;
    bool is_last;
  };

  [[nodiscard]] Extents extents(const Shape& shape) const {
    // A scalar is a row of one.
    const int rank = shape.rank() == 0 ? 1 : static_cast<int>(shape.rank());
    require(dimension >= -rank && dimension < rank, name, "expected a dimension of ", shape,
            ", got ", dimension);
    const auto at = static_cast<std::size_t>(dimension < 0 ? dimension + rank : dimension);
    Extents e{1, shape.columns(), 1, at + 1 == static_cast<std::size_t>(rank)};
    for (std::size_t i = 0; i < shape.rank(); ++i) {
      if (i < at) e.outer *= shape[i];
      if (i == at) e.size = shape[i];
      if (i > at) e.inner *= shape[i];
    }
    return e;
  }

  /// α p of every row of x.
  template <Precision P, class T>
  [[nodiscard]] Array<typename P::storage> of_rows(typename P::compute a, const Array<T>& x) const {
    using Compute = typename P::compute;
    using Storage = typename P::storage;
    Array<Storage> y(x.shape(), x.resource());
    Storage* target = y.mutable_data();
    const std::size_t columns = x.columns();
    const auto m = static_cast<Compute>(mult);
    if (!x.empty()) {
      kernels::for_rows(x.rows(), columns, [&](std::size_t i) {
        const auto row = kernels::softmax_row<Compute>(x.row(i), columns, m);
        const auto factor = a / row.sum;
        kernels::for_lanes<Compute>(columns, [&](std::size_t j, auto count) {
          const auto v = kernels::load<Compute>(x.row(i) + j, count);
          kernels::store<Overflow::infinity_or_nan, Compute>(
              kernels::exp_of_nonpositive((v - row.max) * m) * factor, target + i * columns + j,
              count);
        });
      });
    }
    return y;
  }

  /// The first of the greatest elements of a row of y; any element if there is a NaN.
  template <class Compute, class T>
  [[nodiscard]] static std::size_t likeliest(const T* row, std::size_t columns) {
    if constexpr (std::is_same_v<Compute, double>) {
      return static_cast<std::size_t>(std::max_element(row, row + columns) - row);
    } else {
      const T greatest(kernels::greatest_magnitude<Compute>(
          columns,
          [=](std::size_t j, auto count) { return kernels::load<Compute>(row + j, count); }));
      return static_cast<std::size_t>(std::find(row, row + columns - 1, greatest) - row);
    }
  }

  /// factor y (dy − Σ dy y p_per_y) of every row, dy being counted from that of the likeliest
  /// element: where that one's p is near one, dy − Σ would cancel to the rounding error of p.
  template <class Compute, class T>
  [[nodiscard]] static Array<T> gradient_of_rows(Compute factor, Compute p_per_y, const Array<T>& y,
                                                 const Array<T>& dy) {
    Array<T> dx(y.shape(), y.resource());
    T* target = dx.mutable_data();
    const std::size_t columns = y.columns();
    if (!y.empty()) {
      kernels::for_rows(y.rows(), columns, [&](std::size_t i) {
        const auto origin = static_cast<Compute>(dy.row(i)[likeliest<Compute>(y.row(i), columns)]);
        const auto upstream = [&](std::size_t j, auto count) {
          return kernels::load<Compute>(dy.row(i) + j, count) - origin;
        };
        // The largest finite number minus less than this is itself, rounded.
        constexpr Compute limit =
            std::numeric_limits<Compute>::max() * std::numeric_limits<Compute>::epsilon() / 8;
        const Compute inner =
            p_per_y * kernels::sum_products<Compute>(columns, [&](std::size_t j, auto count) {
              return kernels::Factors{kernels::load<Compute>(y.row(i) + j, count),
                                      upstream(j, count)};
            });
        kernels::for_lanes<Compute>(columns, [&](std::size_t j, auto count) {
          kernels::store<Overflow::infinity_or_nan, Compute>(
              factor * kernels::load<Compute>(y.row(i) + j, count) * (upstream(j, count) - inner),
              target + i * columns + j, count);
        });
        if (!(std::abs(inner) < limit)) [[unlikely]] {
          write_far_gradient(factor, p_per_y, y.row(i), dy.row(i), origin, columns,
                             target + i * columns);
        }
      });
    }
    return dx;
  }

  /// The same of a row where differences of dy, their products with y, which is greater than p, or
  /// the sum may leave the range of Compute: of quarters of dy, and with p in place of y.
  template <class Compute, class T>
  [[gnu::noinline, gnu::cold]] static void write_far_gradient(Compute factor, Compute p_per_y,
                                                              const T* y, const T* dy,
                                                              Compute origin, std::size_t columns,
                                                              T* target) {
    constexpr Compute share = 0.25;
    const auto upstream = [=](std::size_t j, auto count) {
      return kernels::load<Compute>(dy + j, count) * share - origin * share;
    };
    const Compute inner = kernels::sum_products<Compute>(columns, [=](std::size_t j, auto count) {
      return kernels::Factors{kernels::load<Compute>(y + j, count) * p_per_y, upstream(j, count)};
    });
    kernels::for_lanes<Compute>(columns, [=](std::size_t j, auto count) {
      kernels::store<Overflow::infinity_or_nan, Compute>(
          factor * kernels::load<Compute>(y + j, count) * (upstream(j, count) - inner) / share,
          target + j, count);
    });
  }

  /// (outer, rows, columns) as (outer · columns, rows).
  template <class T>
  [[nodiscard]] static Array<T> exchanged(const Array<T>& array, std::size_t outer,
                                          std::size_t rows, std::size_t columns) {
    Array<T> result(Shape{outer * columns, rows}, array.resource());
    T* target = result.mutable_data();
    const T* from = array.data();
    parallel_for(outer, [&](std::size_t i) {
      for (std::size_t j = 0; j < columns; ++j) {
        for (std::size_t k = 0; k < rows; ++k) {
          target[(i * columns + j) * rows + k] = from[(i * rows + k) * columns + j];
        }
      }
    });
    return result;
  }
};
inline constexpr Apply<Softmax> softmax{};

}  // namespace UNIT_SCALING_NAMESPACE::ops

UNIT_SCALING_IEEE_END
