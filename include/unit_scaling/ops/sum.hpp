// SPDX-License-Identifier: MIT
/// @file
/// Layer ops: the sum along the last extent.
#pragma once

#include <array>
#include <cmath>
#include <cstddef>
#include <span>
#include <string_view>
#include <tuple>

#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/kernels/map.hpp"
#include "unit_scaling/kernels/rows.hpp"
#include "unit_scaling/ops/op.hpp"
#include "unit_scaling/ops/reduction.hpp"  // first, or GCC's -Wshadow finds its enumerators hidden

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::ops {

/// Unit-scaled sum along the last extent: y = α Σ_j x_j, dx_j = β dy.
/// Shapes: x and dx (…, n), y and dy (…); a single number is its own sum.
/// Units:  x ~ N(0,1), dy ~ N(0,1) give unit std of y and dx (without a constraint).
/// Scales: α = n^−½, β = 1; the constraint binds both. u-μP, which does not list it, the same.
/// Values: the sum runs in P::compute, in an order that depends on n alone; y is rounded once. It
///         overflows only if y itself is beyond the range. An empty sum is 0, and so is one of
///         zeros, whatever their signs. A NaN, or infinities of both signs, make their own sum NaN.
/// Errors: Σ x is within 20 u Σ |x| of that of exact arithmetic, u = 2⁻²⁴, whatever n, for parts of
///         it are added up in double (with P::compute double, n u Σ |x|, u = 2⁻⁵³). The factor and
///         the product with it are two more roundings.
/// @throws ShapeError if dy does not have the shape of y.
/// @see Blake et al. 2023, arXiv:2303.11257, section 4 (a sum is a product with a row of ones).
struct Sum {
  static constexpr std::string_view name = "sum";
  static constexpr bool accepts(std::size_t arguments) { return arguments == 1; }
  static constexpr OpTraits traits{.has_homogeneity = true, .has_item_counts = true};

  Scaling scaling = scaling::inherited;

  template <class T> [[nodiscard]] Scales<1> scales(const Array<T>& x) const {
    return factors(x.columns());
  }

  /// One number made of a batch's is taken for its loss, whose items are what the sum is over.
  template <class T> [[nodiscard]] std::array<ItemCount, 1> item_counts(const Array<T>& x) const {
    if (x.shape().rank() != 1) return {};
    const Constraint constraint = scaling.effective_constraint();
    if (scaling.rule == Rule::none || constraint.combine == nullptr) return {};
    ItemCount count = item_count(x.columns(), 0);
    count.shared = {
        .constraint = constraint, .inputs = 1, .factors = {{{1, 0.5}, {1, 0}}}};  // α and β
    return {count};
  }

  [[nodiscard]] static Homogeneity homogeneity(const Scales<1>& s) {
    return Homogeneity::linear(s.forward);
  }

  template <Precision P, class T>
  [[nodiscard]] auto forward(P /*precision*/, const Scales<1>& s, const Array<T>& x) const {
    using Compute = typename P::compute;
    const std::size_t columns = x.columns();
    Array<Compute> totals(without_last(x.shape()), x.resource());
    Compute* target = totals.mutable_data();
    const auto a = static_cast<Compute>(s.forward);
    kernels::for_rows(x.rows(), columns, [&](std::size_t i) {
      const T* row = x.row(i);
      const auto total = kernels::precise_sum_lanes<Compute>(
          columns,
          [=](std::size_t j, auto count) { return kernels::load<Compute>(row + j, count); });
      target[i] = a * total;
      if (!std::isfinite(total)) {
        target[i] = static_cast<Compute>(kernels::scaled_sum_in_range(
            s.forward, columns, [=](std::size_t j) { return static_cast<double>(row[j]); }));
      }
    });
    return Forward{kernels::convert<typename P::storage, Overflow::infinity_or_nan>(totals),
                   std::tuple{x.shape()}};
  }

  template <Precision P, class T>
  [[nodiscard]] auto backward(P /*precision*/, const Scales<1>& s, const std::tuple<Shape>& saved,
                              const Array<T>& dy) const {
    using Compute = typename P::compute;
    const Shape& shape = std::get<0>(saved);
    require_same_shape(name, "dy and y", dy.shape(), without_last(shape));
    Array<T> dx(shape, dy.resource());
    T* target = dx.mutable_data();
    const std::size_t columns = shape.columns();
    const auto b = static_cast<Compute>(s.backward[0]);
    kernels::for_rows(shape.rows(), columns, [&](std::size_t i) {
      const auto g = kernels::broadcast<Compute>(b * static_cast<Compute>(dy.data()[i]));
      kernels::for_lanes<Compute>(columns, [&](std::size_t j, auto count) {
        kernels::store<Overflow::infinity_or_nan, Compute>(g, target + i * columns + j, count);
      });
    });
    return std::tuple{std::move(dx)};
  }

  /// The shape of y for an x of this shape.
  [[nodiscard]] static Shape without_last(const Shape& shape) {
    if (shape.rank() == 0) return shape;
    return Shape(std::span<const std::size_t>(shape.begin(), shape.rank() - 1));
  }

 private:
  [[nodiscard]] Scales<1> factors(std::size_t n) const {
    Scales<1> ideal;
    if (scaling.rule != Rule::none) ideal.forward = inverse_power(n);
    return constrain<1>(scaling.effective_constraint(), ideal);
  }
};
inline constexpr Apply<Sum> sum{};

}  // namespace UNIT_SCALING_NAMESPACE::ops

UNIT_SCALING_IEEE_END
