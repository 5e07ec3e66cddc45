// SPDX-License-Identifier: MIT
/// @file
/// Layer ops: the product of two matrices of activations.
#pragma once

#include <array>

#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/parallel_for.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/kernels/map.hpp"
#include "unit_scaling/kernels/matmul.hpp"
#include "unit_scaling/ops/op.hpp"
#include "unit_scaling/ops/operand.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::ops {

/// Unit-scaled matrix product, one for each index of the leading extents:
/// y = α l r, dl = β_l dy rᵀ, dr = β_r lᵀ dy.
/// Shapes: l (…, m, k), r (…, k, n), y and dy (…, m, n), with equal leading extents.
/// Units:  l, r, dy ~ N(0,1) give unit std of y, dl and dr (without a constraint).
/// Scales: α = k^−½, β_l = n^−½, β_r = m^−½; the constraint binds all three.
/// Values: l and r are rounded to P::matmul_operand, dy to P::matmul_gradient (both saturating);
///         products accumulate in P::compute, results are rounded once to P::storage.
/// @throws ShapeError if the shapes do not fit.
/// @see Blake et al. 2023, arXiv:2303.11257, table A.2.
struct Matmul {
  static constexpr std::string_view name = "matmul";
  static constexpr bool accepts(std::size_t arguments) { return arguments == 2; }
  static constexpr OpTraits traits{
      .has_homogeneity = true, .has_item_counts = true, .has_products = true};

  Scaling scaling = scaling::inherited;

  template <class L, class R>
  [[nodiscard]] Scales<2> scales(const Array<L>& left, const Array<R>& right) const {
    const Extents e = extents(left.shape(), right.shape());
    Scales<2> ideal;
    if (scaling.rule != Rule::none) {
      ideal = {.forward = inverse_power(e.k), .backward = {inverse_power(e.n), inverse_power(e.m)}};
    }
    return constrain<2>(scaling.effective_constraint(), ideal);
  }

  /// Where one operand is a parameter its factor is of the rows or columns of the other one, and so
  /// are all factors if a constraint binds them.
  template <class L, class R>
  [[nodiscard]] std::array<ItemCount, 2> item_counts(const std::array<bool, 2>& are_parameters,
                                                     const Array<L>& left,
                                                     const Array<R>& right) const {
    std::array<ItemCount, 2> counts{};
    if (scaling.rule == Rule::none) return counts;
    const Extents e = extents(left.shape(), right.shape());
    if (const Constraint constraint = scaling.effective_constraint();
        constraint.combine != nullptr) {
      if (are_parameters[0] == are_parameters[1]) return counts;
      const std::size_t parameter = are_parameters[0] ? 0 : 1;
      ItemCount count = item_count(parameter == 0 ? e.n : e.m, 0);
      count.shared = {
          .constraint = constraint,
          .inputs = 2,
          .factors = {{{inverse_power(e.k), 0}, {inverse_power(e.n), 0}, {inverse_power(e.m), 0}}},
          .is_of_output = true};
      count.shared.factors[1 + parameter] = {1, 0.5};
      counts.fill(count);
      return counts;
    }
    if (are_parameters[0]) counts[0] = item_count(e.n);
    if (are_parameters[1]) counts[1] = item_count(e.m);
    return counts;
  }

  [[nodiscard]] static Homogeneity homogeneity(const Scales<2>& s) {
    return Homogeneity::product(s.forward, 2);
  }

  template <Precision P, class L, class R>
  [[nodiscard]] auto forward(P precision, const Scales<2>& s, const Array<L>& left,
                             const Array<R>& right) const {
    const Extents e = extents(left.shape(), right.shape());
    auto l = operand(precision, {OperandRole::input, 0}, left);
    auto r = operand(precision, {OperandRole::input, 1}, right, left.resource());
    auto y = product<P>(e.batch, {e.m, e.n, e.k}, {l, SummedExtent::columns},
                        {r, SummedExtent::rows}, left.shape().with_columns(e.n), s.forward);
    return Forward{std::move(y), std::tuple{std::move(l), std::move(r)}};
  }

  template <Precision P, class T>
  [[nodiscard]] auto backward(P precision, const Scales<2>& s,
                              const std::tuple<kernels::Operand, kernels::Operand>& saved,
                              const Array<T>& dy,
                              const std::array<bool, 2>& wanted = all_wanted<2>()) const {
    const auto& [l, r] = saved;
    const Extents e = extents(l.shape(), r.shape());
    require_same_shape(name, "dy and y", dy.shape(), l.shape().with_columns(e.n));
    const kernels::Operand g = operand(precision, {OperandRole::gradient}, dy, l.resource());
    Array<T> dl;
    Array<T> dr;
    if (wanted[0]) {
      dl = product<P>(e.batch, {e.m, e.k, e.n}, {g, SummedExtent::columns},
                      {r, SummedExtent::columns}, l.shape(), s.backward[0]);
    }
    if (wanted[1]) {
      dr = product<P>(e.batch, {e.k, e.n, e.m}, {l, SummedExtent::rows}, {g, SummedExtent::rows},
                      r.shape(), s.backward[1]);
    }
    return std::tuple{std::move(dl), std::move(dr)};
  }

 private:
  struct Extents {
    std::size_t batch, m, k, n;
  };

  static Extents extents(const Shape& l, const Shape& r) {
    const std::size_t rank = l.rank();
    require_shape(rank >= 2 && r.rank() == rank && l[rank - 1] == r[rank - 2] &&
                      std::equal(l.begin(), l.end() - 2, r.begin()),
                  name, "left (..., m, k) and right (..., k, n) with equal leading extents", l, r);
    const std::size_t batch = Shape(std::span<const std::size_t>(l.begin(), rank - 2)).size();
    return {batch, l[rank - 2], l[rank - 1], r[rank - 1]};
  }

  using SummedExtent = kernels::SummedExtent;

  /// One product for each index of the batch, all of the same extents.
  template <Precision P>
  static Array<typename P::storage> product(std::size_t batch, const kernels::MatmulSize& size,
                                            const kernels::PreparedOperand& left,
                                            const kernels::PreparedOperand& right,
                                            const Shape& shape, double scale) {
    using Compute = typename P::compute;
    Array<typename P::storage> out(shape, left.resource());
    auto* target = out.mutable_data();
    const auto rows_in_memory = [&](const kernels::PreparedOperand& prepared, std::size_t outer) {
      return prepared.summed() == SummedExtent::columns ? outer : size.inner;
    };
    parallel_for(batch, [&](std::size_t i) {
      kernels::matmul<Compute>(size, left.part(i * rows_in_memory(left, size.rows)),
                               right.part(i * rows_in_memory(right, size.columns)),
                               target + i * size.rows * size.columns, size.columns,
                               {.scale = static_cast<Compute>(scale)});
    });
    return out;
  }
};
inline constexpr Apply<Matmul> matmul{};

}  // namespace UNIT_SCALING_NAMESPACE::ops

UNIT_SCALING_IEEE_END
