// SPDX-License-Identifier: MIT
/// @file
/// Layer ops: a linear layer across positions instead of channels.
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

/// Unit-scaled mixing of positions: y_b = α w x_b for each sequence b, dx_b = β_x wᵀ dy_b,
/// dw = β_w Σ_b dy_b x_bᵀ.
/// Shapes: x (…, positions, channels), w (out_positions, positions), y (…, out_positions,
/// channels). Units:  x, w, dy ~ N(0,1) give unit std of y, dx and dw (without a constraint).
/// Scales: a linear layer's, with fan_in = positions, fan_out = out_positions and one row for each
///         channel of each sequence: α = fan_in^−½, β_x = fan_out^−½, β_w = rows^−½. The
///         constraint binds α and β_x.
/// Values: as ops::Linear; the sum over b is part of the one accumulation in P::compute.
/// @throws ShapeError if the shapes do not fit.
/// @see Blake et al. 2023, arXiv:2303.11257, table A.2; Tolstikhin et al. 2021 (MLP-Mixer),
///      arXiv:2105.01601, section 2.
struct TokenMixing {
  static constexpr std::string_view name = "token_mixing";
  static constexpr bool accepts(std::size_t arguments) { return arguments == 2; }
  static constexpr OpTraits traits{.has_homogeneity = true,
                                   .has_item_counts = true,
                                   .has_tells_positions = true,
                                   .has_products = true};

  [[nodiscard]] static constexpr bool tells_positions() { return true; }

  Scaling scaling = scaling::inherited;

  template <class X, class W>
  [[nodiscard]] Scales<2> scales(const Array<X>& x, const Array<W>& w) const {
    const Extents e = extents(x.shape(), w.shape());
    Scales<2> ideal;
    if (scaling.rule != Rule::none) {
      ideal = {.forward = inverse_power(e.positions),
               .backward = {inverse_power(e.out_positions), inverse_power(e.batch * e.channels)}};
    }
    return constrain<1>(scaling.effective_constraint(), ideal);
  }

  /// β_w is of the channels of all sequences.
  template <class X, class W>
  [[nodiscard]] std::array<ItemCount, 2> item_counts(const Array<X>& x, const Array<W>& w) const {
    if (scaling.rule == Rule::none) return {};
    const Extents e = extents(x.shape(), w.shape());
    return {ItemCount{}, item_count(e.batch * e.channels)};
  }

  [[nodiscard]] static Homogeneity homogeneity(const Scales<2>& s) {
    return Homogeneity::product(s.forward, 2);
  }

  template <Precision P, class X, class W>
  [[nodiscard]] auto forward(P precision, const Scales<2>& s, const Array<X>& x,
                             const Array<W>& w) const {
    const Extents e = extents(x.shape(), w.shape());
    auto x_operand = operand(precision, {OperandRole::input, 0}, x);
    auto w_operand = operand(precision, {OperandRole::weight, 1}, w, x.resource());
    auto y = mix<P>(e, e.positions, e.out_positions, {w_operand, SummedExtent::columns}, x_operand,
                    s.forward);
    return Forward{std::move(y), std::tuple{std::move(x_operand), std::move(w_operand)}};
  }

  template <Precision P, class T>
  [[nodiscard]] auto backward(P precision, const Scales<2>& s,
                              const std::tuple<kernels::Operand, kernels::Operand>& saved,
                              const Array<T>& dy,
                              const std::array<bool, 2>& wanted = all_wanted<2>()) const {
    using Compute = typename P::compute;
    const auto& [x, w] = saved;
    const Extents e = extents(x.shape(), w.shape());
    require_same_shape(name, "dy and y", dy.shape(), with_positions(x.shape(), e.out_positions));
    const kernels::Operand g = operand(precision, {OperandRole::gradient}, dy, x.resource());
    Array<T> dx;
    Array<T> dw;
    if (wanted[0]) {
      dx = mix<P>(e, e.out_positions, e.positions, {w, SummedExtent::rows}, g, s.backward[0]);
    }
    if (wanted[1]) {
      dw = Array<T>(w.shape(), x.resource());
      // Sums over the channels of one sequence after the other.
      const kernels::PreparedOperand left(g, SummedExtent::both);
      const kernels::PreparedOperand right(x, SummedExtent::both);
      const auto part = [&](const kernels::PreparedOperand& prepared, std::size_t positions) {
        return prepared.part_at(prepared.element(0), e.channels, 1, positions * e.channels);
      };
      kernels::matmul<Compute>({e.out_positions, e.positions, e.channels, e.batch},
                               part(left, e.out_positions), part(right, e.positions),
                               dw.mutable_data(), e.positions,
                               {.scale = static_cast<Compute>(s.backward[1])});
    }
    return std::tuple{std::move(dx), std::move(dw)};
  }

 private:
  struct Extents {
    std::size_t batch, positions, channels, out_positions;
  };

  static Extents extents(const Shape& x, const Shape& w) {
    const std::size_t rank = x.rank();
    require_shape(rank >= 2 && w.rank() == 2 && x[rank - 2] == w[1], name,
                  "x (..., positions, channels) and w (out_positions, positions)", x, w);
    return {Shape(std::span<const std::size_t>(x.begin(), rank - 2)).size(), w[1], x[rank - 1],
            w[0]};
  }

  static Shape with_positions(const Shape& x, std::size_t positions) {
    std::array<std::size_t, Shape::max_rank> extents{};
    std::copy(x.begin(), x.end(), extents.begin());
    extents[x.rank() - 2] = positions;
    return Shape(std::span<const std::size_t>(extents.data(), x.rank()));
  }

  using SummedExtent = kernels::SummedExtent;

  /// `scale * weight * x_b` for each sequence b; weight is (to, from).
  template <Precision P>
  static Array<typename P::storage> mix(const Extents& e, std::size_t from, std::size_t to,
                                        const kernels::PreparedOperand& weight,
                                        const kernels::Operand& x, double scale) {
    using Compute = typename P::compute;
    Array<typename P::storage> y(with_positions(x.shape(), to), x.resource());
    auto* target = y.mutable_data();
    const kernels::PreparedOperand sequences(x, SummedExtent::rows);
    parallel_for(e.batch, [&](std::size_t b) {
      kernels::matmul<Compute>({to, e.channels, from}, weight.part(), sequences.part(b * from),
                               target + b * to * e.channels, e.channels,
                               {.scale = static_cast<Compute>(scale)});
    });
    return y;
  }
};
inline constexpr Apply<TokenMixing> token_mixing{};

}  // namespace UNIT_SCALING_NAMESPACE::ops

UNIT_SCALING_IEEE_END
