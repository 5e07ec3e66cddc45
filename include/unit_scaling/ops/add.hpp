// SPDX-License-Identifier: MIT
/// @file
/// Layer ops: the sum of two arrays, one of which may be repeated.
#pragma once

#include <array>
#include <cmath>

#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/kernels/map.hpp"
#include "unit_scaling/kernels/rows.hpp"
#include "unit_scaling/ops/op.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::ops {

/// Unit-scaled sum: y = α (a + b), da = β_a dy and db = β_b dy, summed over the repetitions.
/// Shapes: a and b alike, or the shape of one is the end of the other's and it is repeated along
///         the leading extents; y and dy have the longer shape.
/// Units:  a, b, dy ~ N(0,1) give unit std of y, da and db (without a constraint).
/// Scales: α = 2^−½ (1 if a or b is one number), β = (times repeated)^−½; the constraint binds all
///         three. It is the sum of two edges into the op: use constraint::none if both are
///         cut-edges, and ops::residual_add to close a residual branch.
/// @throws ShapeError if neither shape is the end of the other.
/// @see Blake et al. 2023, arXiv:2303.11257, table A.2.
struct Add {
  static constexpr std::string_view name = "add";
  static constexpr bool accepts(std::size_t arguments) { return arguments == 2; }
  static constexpr OpTraits traits{.has_homogeneity = true, .has_item_counts = true};

  Scaling scaling = scaling::inherited;

  template <class A, class B>
  [[nodiscard]] Scales<2> scales(const Array<A>& a, const Array<B>& b) const {
    const Shape& y = longer(a.shape(), b.shape());
    Scales<2> ideal;
    if (scaling.rule != Rule::none && y.size() != 0) {
      const auto factor = [&](const Shape& shape) {
        const std::size_t repetitions = y.size() / shape.size();
        return 1 / std::sqrt(static_cast<double>(repetitions));
      };
      const bool adds_constant = a.size() == 1 || b.size() == 1;
      ideal = {.forward = adds_constant ? 1 : 1 / std::sqrt(2.0),
               .backward = {factor(a.shape()), factor(b.shape())}};
    }
    return constrain<2>(scaling.effective_constraint(), ideal);
  }

  /// The factor of what is repeated is of the repetitions, and so are all factors if a constraint
  /// binds them.
  template <class A, class B>
  [[nodiscard]] std::array<ItemCount, 2> item_counts(const Array<A>& a, const Array<B>& b) const {
    std::array<ItemCount, 2> counts{};
    const Shape& y = longer(a.shape(), b.shape());
    // Repeated once where the batch is of one item, never where it is empty.
    if (scaling.rule == Rule::none || a.shape().rank() == b.shape().rank()) return counts;
    const std::size_t repeated = a.shape().rank() < b.shape().rank() ? 0 : 1;
    const std::size_t columns = repeated == 0 ? a.size() : b.size();
    if (columns == 0) return counts;
    ItemCount count = item_count(y.size() / columns);
    const Constraint constraint = scaling.effective_constraint();
    if (constraint.combine == nullptr) {
      counts[repeated] = count;
      return counts;
    }
    count.power = 0;
    count.shared = {.constraint = constraint,
                    .inputs = 2,
                    .factors = {{{columns == 1 ? 1 : 1 / std::sqrt(2.0), 0}}},
                    .is_of_output = true};
    count.shared.factors[1 + repeated].power = 0.5;
    counts.fill(count);
    return counts;
  }

  [[nodiscard]] static Homogeneity homogeneity(const Scales<2>& s) {
    return Homogeneity::sum(s.forward, s.forward);
  }

  template <Precision P, class A, class B>
  [[nodiscard]] auto forward(P /*precision*/, const Scales<2>& s, const Array<A>& a,
                             const Array<B>& b) const {
    using Compute = typename P::compute;
    const Shape& shape = longer(a.shape(), b.shape());
    Array<typename P::storage> y(shape, a.resource());
    auto* target = y.mutable_data();
    const auto factor = static_cast<Compute>(s.forward);
    // The shorter array is a row; y is as many such rows as it is repeated.
    const std::size_t columns = std::min(a.size(), b.size());
    if (!y.empty()) {
      kernels::for_rows(shape.size() / columns, columns, [&](std::size_t i) {
        const A* a_row = a.data() + (a.size() == columns ? 0 : i * columns);
        const B* b_row = b.data() + (b.size() == columns ? 0 : i * columns);
        kernels::for_lanes<Compute>(columns, [&](std::size_t j, auto count) {
          kernels::store<Overflow::infinity_or_nan, Compute>(
              factor * (kernels::load<Compute>(a_row + j, count) +
                        kernels::load<Compute>(b_row + j, count)),
              target + i * columns + j, count);
        });
      });
    }
    return Forward{std::move(y), std::tuple{a.shape(), b.shape()}};
  }

  template <Precision P, class T>
  [[nodiscard]] auto backward(P /*precision*/, const Scales<2>& s,
                              const std::tuple<Shape, Shape>& saved, const Array<T>& dy) const {
    const auto& [a, b] = saved;
    require_same_shape(name, "dy and y", dy.shape(), longer(a, b));
    return std::tuple{reduce<P>(dy, a, s.backward[0]), reduce<P>(dy, b, s.backward[1])};
  }

 private:
  static const Shape& longer(const Shape& a, const Shape& b) {
    const Shape& y = a.rank() >= b.rank() ? a : b;
    const Shape& other = a.rank() >= b.rank() ? b : a;
    const auto offset = static_cast<std::ptrdiff_t>(y.rank() - other.rank());
    require_shape(std::equal(y.begin() + offset, y.end(), other.begin(), other.end()), name,
                  "equal shapes, or one that is the end of the other", a, b);
    return y;
  }

  template <Precision P, class T>
  static Array<T> reduce(const Array<T>& dy, const Shape& shape, double factor) {
    using Compute = typename P::compute;
    const auto scale = static_cast<Compute>(factor);
    if (dy.size() != shape.size()) {
      return kernels::column_sums<Compute, T>(dy.data(),
                                              dy.size() / std::max<std::size_t>(1, shape.size()),
                                              shape, scale, dy.resource());
    }
    if (factor == 1) return dy.reshaped(shape);
    return kernels::map<Compute, T>([=](auto g) { return scale * g; }, dy).reshaped(shape);
  }
};
inline constexpr Apply<Add> add{};

}  // namespace UNIT_SCALING_NAMESPACE::ops

UNIT_SCALING_IEEE_END
