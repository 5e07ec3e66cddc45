// SPDX-License-Identifier: MIT
/// @file
/// Layer ops: a recurrent highway network of one layer, over a whole sequence.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <string_view>
#include <tuple>
#include <utility>

#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/shape.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/kernels/elementary.hpp"
#include "unit_scaling/kernels/hyperbolic.hpp"
#include "unit_scaling/kernels/map.hpp"
#include "unit_scaling/kernels/matmul.hpp"
#include "unit_scaling/kernels/rows.hpp"
#include "unit_scaling/ops/op.hpp"
#include "unit_scaling/ops/operand.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::ops {

/// Recurrent highway cell, run over the positions of x: with h the state, h_{-1} = initial,
///   (t, u) = α ([x_p, h_{p−1}] wᵀ + b),   g = σ(u − rebias),   h_p = (1 − g) h_{p−1} + g tanh(t),
/// and y_p = h_p. The update gate starts at σ(−rebias), so that a state lives for some e^rebias
/// positions.
/// Shapes: x (batch, positions, input_size), w (2 hidden_size, input_size + hidden_size), b (2
///         hidden_size), initial (hidden_size); y and dy (batch, positions, hidden_size).
/// Units:  x, w ~ N(0,1) give gates of unit std. The state is a moving average of values within ±1,
///         as in any gated network: its scale is what the gate makes of it (0.3 to 0.6 for rebias 1
///         to 0) and is not put right, and neither is the gradient through it.
/// Scales: a linear layer's: α = (input_size + hidden_size)^−½, β_x = (2 hidden_size)^−½, bound by
///         the constraint; β_w = β_b = (batch · positions)^−½: the weights are used at every
///         position. Gradients pass from position to position under α, as no edge in there is a
///         cut-edge. Of dx, dw and db the factor is β/α of the true gradient; of dinitial it is
///         batch^−½.
/// Values: x, h and w are rounded to P::matmul_operand, the gradients of the gates to
///         P::matmul_gradient (both saturating); products accumulate in P::compute; y, and gates
///         saved for backward, are rounded once to P::storage, and the next position reads that y.
/// @throws ShapeError if the shapes do not fit; DomainError unless rebias is finite.
/// @see Zilly et al. 2017, arXiv:1607.03474; Blake et al. 2023, arXiv:2303.11257, section 6.1 (its
///      character-level RNN, whose gates have one factor for both directions).
struct RecurrentHighway {
  static constexpr std::string_view name = "recurrent_highway";
  static constexpr bool accepts(std::size_t arguments) { return arguments == 4; }
  /// What is rounded within are states and the gradients of gates.
  static constexpr OpTraits traits{.has_homogeneity = true,
                                   .has_item_counts = true,
                                   .has_tells_positions = true,
                                   .has_products = true,
                                   .rounds_within = true};

  [[nodiscard]] static constexpr bool tells_positions() { return true; }

  Scaling scaling = scaling::inherited;
  double rebias = 1;

  /// @throws DomainError if an attribute is out of its range.
  void require_attributes() const { require_finite(name, "rebias", rebias); }

  template <class X, class W, class B, class H>
  [[nodiscard]] Scales<4> scales(const Array<X>& x, const Array<W>& w, const Array<B>& b,
                                 const Array<H>& initial) const {
    const Extents e = extents(x.shape(), w.shape(), b.shape(), initial.shape());
    require_attributes();
    if (scaling.rule == Rule::none) return {};
    Scales<4> s = constrain<1>(
        scaling.effective_constraint(),
        Scales<4>{.forward = inverse_power(e.input + e.hidden),
                  .backward = {inverse_power(2 * e.hidden), inverse_power(e.batch * e.positions),
                               inverse_power(e.batch * e.positions), 1}});
    s.backward[3] = s.forward * inverse_power(e.batch);
    return s;
  }

  /// β_w and β_b are of all positions, that of the first state is of the batch.
  template <class X, class W, class B, class H>
  [[nodiscard]] std::array<ItemCount, 4> item_counts(const Array<X>& x, const Array<W>& w,
                                                     const Array<B>& b,
                                                     const Array<H>& initial) const {
    if (scaling.rule == Rule::none) return {};
    const Extents e = extents(x.shape(), w.shape(), b.shape(), initial.shape());
    const ItemCount rows = item_count(e.batch * e.positions);
    return {ItemCount{}, rows, rows, item_count(e.batch)};
  }

  /// α is inside of the gates' functions, and so are all factors but that of the first state.
  [[nodiscard]] static Homogeneity homogeneity(const Scales<4>& s) {
    return {.output = {1, {0, 0, 0, 0}},
            .fixed = {{s.forward, {0, 1, 0, 0}},
                      {s.forward, {1, 1, 0, 0}},
                      {s.forward, {0, 0, 1, 0}},
                      {1, {0, 0, 0, 1}}}};
  }

  template <Precision P, class X, class W, class B, class H>
  [[nodiscard]] auto forward(P precision, const Scales<4>& s, const Array<X>& x, const Array<W>& w,
                             const Array<B>& b, const Array<H>& initial) const {
    using Storage = typename P::storage;
    using Compute = typename P::compute;
    const Extents e = extents(x.shape(), w.shape(), b.shape(), initial.shape());
    const std::size_t rows = e.batch * e.positions;
    auto* const resource = x.resource();
    auto x_operand = operand(precision, {OperandRole::input, 0}, x);
    auto w_operand = operand(precision, {OperandRole::weight, 1}, w, resource);
    const auto bias = kernels::convert<Compute, Overflow::infinity_or_nan>(b, resource);
    const kernels::PreparedOperand inputs(x_operand, SummedExtent::columns);
    // Its columns for the input are summed over apart from those for the state.
    const kernels::PreparedOperand weights(w_operand, SummedExtent::both);

    // The part of the gates that does not wait for the state: one product for all positions.
    Array<Compute> from_x(Shape{rows, 2 * e.hidden}, resource);
    kernels::matmul<Compute>({rows, 2 * e.hidden, e.input}, inputs.part(),
                             input_columns(weights, e), from_x.mutable_data(), 2 * e.hidden,
                             {.bias = bias.data()});

    Array<Storage> gates(Shape{e.batch, e.positions, 2 * e.hidden}, resource);
    Array<Storage> y(Shape{e.batch, e.positions, e.hidden}, resource);
    Array<Storage> before(Shape{e.batch, e.hidden}, resource);
    for (std::size_t i = 0; i < e.batch; ++i) {
      kernels::map_into<Compute>(
          before.mutable_data() + i * e.hidden, e.hidden, [](auto v) { return v; }, initial.data());
    }
    Array<Compute> from_state(Shape{e.batch, 2 * e.hidden}, resource);
    const auto a = static_cast<Compute>(s.forward);
    const auto shift = static_cast<Compute>(rebias);
    for (std::size_t p = 0; p < e.positions; ++p) {
      const kernels::Operand state = operand(precision, {OperandRole::input, 3}, before);
      kernels::matmul<Compute>({e.batch, 2 * e.hidden, e.hidden},
                               kernels::PreparedOperand(state, SummedExtent::columns).part(),
                               state_columns(weights, e), from_state.mutable_data(), 2 * e.hidden);
      Storage* gates_target = gates.mutable_data();
      Storage* y_target = y.mutable_data();
      Storage* before_target = before.mutable_data();
      kernels::for_rows(e.batch, 2 * e.hidden, [&](std::size_t i) {
        const std::size_t row = i * e.positions + p;
        Storage* gate = gates_target + row * 2 * e.hidden;
        kernels::for_lanes<Compute>(2 * e.hidden, [&](std::size_t j, auto count) {
          kernels::store<Overflow::infinity_or_nan, Compute>(
              a * (kernels::load<Compute>(from_x.row(row) + j, count) +
                   kernels::load<Compute>(from_state.row(i) + j, count)),
              gate + j, count);
        });
        kernels::for_lanes<Compute>(e.hidden, [&](std::size_t j, auto count) {
          const auto h = kernels::load<Compute>(before_target + i * e.hidden + j, count);
          const auto t = kernels::tanh(kernels::load<Compute>(gate + j, count));
          const auto g =
              kernels::sigmoid(kernels::load<Compute>(gate + e.hidden + j, count) - shift);
          kernels::store<Overflow::infinity_or_nan, Compute>(h + g * (t - h),
                                                             y_target + row * e.hidden + j, count);
        });
        std::copy_n(y_target + row * e.hidden, e.hidden, before_target + i * e.hidden);
      });
    }
    return Forward{
        y, std::tuple{std::move(x_operand), std::move(w_operand), std::move(gates), y,
                      kernels::convert<Storage, Overflow::infinity_or_nan>(initial, resource)}};
  }

  template <Precision P, class T>
  [[nodiscard]] auto backward(
      P precision, const Scales<4>& s,
      const std::tuple<kernels::Operand, kernels::Operand, Array<T>, Array<T>, Array<T>>& saved,
      const Array<T>& dy) const {
    using Compute = typename P::compute;
    // By name: Clang 14 captures no structured bindings.
    const kernels::Operand& x = std::get<0>(saved);
    const kernels::Operand& w = std::get<1>(saved);
    const Array<T>& gates = std::get<2>(saved);
    const Array<T>& y = std::get<3>(saved);
    const Array<T>& initial = std::get<4>(saved);
    require_same_shape(name, "dy and y", dy.shape(), y.shape());
    const Extents e{x.shape()[0], x.shape()[1], x.shape()[2], y.columns()};
    const std::size_t rows = e.batch * e.positions;
    auto* const resource = dy.resource();
    const kernels::PreparedOperand weights(w, SummedExtent::both);
    const auto a = static_cast<Compute>(s.forward);
    const auto shift = static_cast<Compute>(rebias);

    Array<Compute> dgates(Shape{rows, 2 * e.hidden}, resource);
    Array<Compute> dbias = Array<Compute>::filled(Shape{2 * e.hidden}, 0, resource);
    Array<Compute> dgate(Shape{e.batch, 2 * e.hidden}, resource);
    Array<Compute> dstate = Array<Compute>::filled(Shape{e.batch, e.hidden}, 0, resource);
    Array<Compute> through_gates(Shape{e.batch, e.hidden}, resource);
    for (std::size_t p = e.positions; p-- > 0;) {
      Compute* dgate_target = dgate.mutable_data();
      Compute* dstate_target = dstate.mutable_data();
      Compute* dgates_target = dgates.mutable_data();
      kernels::for_rows(e.batch, 2 * e.hidden, [&](std::size_t i) {
        const std::size_t row = i * e.positions + p;
        const T* gate = gates.data() + row * 2 * e.hidden;
        const T* before = p == 0 ? initial.data() : y.row(row - 1);
        Compute* dt = dgate_target + i * 2 * e.hidden;
        Compute* dh = dstate_target + i * e.hidden;
        kernels::for_lanes<Compute>(e.hidden, [&](std::size_t j, auto count) {
          const auto d = kernels::load<Compute>(dh + j, count) +
                         kernels::load<Compute>(dy.row(row) + j, count);
          const auto h = kernels::load<Compute>(before + j, count);
          const auto t = kernels::tanh(kernels::load<Compute>(gate + j, count));
          const auto g =
              kernels::sigmoid(kernels::load<Compute>(gate + e.hidden + j, count) - shift);
          kernels::store<Overflow::infinity_or_nan, Compute>(d * g * (Compute{1} - t * t), dt + j,
                                                             count);
          kernels::store<Overflow::infinity_or_nan, Compute>(d * (g * (Compute{1} - g)) * (t - h),
                                                             dt + e.hidden + j, count);
          kernels::store<Overflow::infinity_or_nan, Compute>(d * (Compute{1} - g), dh + j, count);
        });
        std::copy_n(dt, 2 * e.hidden, dgates_target + row * 2 * e.hidden);
      });
      // In the order of the rows, one position after the other: not a matter of threads.
      Compute* dbias_target = dbias.mutable_data();
      for (std::size_t i = 0; i < e.batch; ++i) {
        for (std::size_t j = 0; j < 2 * e.hidden; ++j) dbias_target[j] += dgate.row(i)[j];
      }
      const kernels::Operand g = operand(precision, {OperandRole::gradient}, dgate);
      kernels::matmul<Compute>({e.batch, e.hidden, 2 * e.hidden},
                               kernels::PreparedOperand(g, SummedExtent::columns).part(),
                               state_columns(weights, e).transposed(), through_gates.mutable_data(),
                               e.hidden, {.scale = a});
      kernels::map_into<Compute>(
          dstate.mutable_data(), dstate.size(), [](auto u, auto v) { return u + v; }, dstate.data(),
          through_gates.data());
    }

    const kernels::Operand g = operand(precision, {OperandRole::gradient}, dgates);
    const kernels::PreparedOperand over_gates(g, SummedExtent::columns);
    const kernels::PreparedOperand over_positions(g, SummedExtent::rows);
    Array<T> dx(x.shape(), resource);
    kernels::matmul<Compute>({rows, e.input, 2 * e.hidden}, over_gates.part(),
                             input_columns(weights, e).transposed(), dx.mutable_data(), e.input,
                             {.scale = static_cast<Compute>(s.backward[0])});
    // The two halves of dw lie side by side in its rows.
    Array<T> dw(w.shape(), resource);
    const auto weight_gradient = [&](const kernels::Operand& of, std::size_t first) {
      if (dw.empty()) return;
      kernels::matmul<Compute>({2 * e.hidden, of.columns(), rows}, over_positions.part(),
                               kernels::PreparedOperand(of, SummedExtent::rows).part(),
                               dw.mutable_data() + first, e.fan_in(),
                               {.scale = static_cast<Compute>(s.backward[1])});
    };
    weight_gradient(x, 0);
    weight_gradient(operand(precision, {OperandRole::input, 3}, states_before(e, y, initial)),
                    e.input);
    const auto b_factor = static_cast<Compute>(s.backward[2]);
    auto db = kernels::map<Compute, T>([=](auto v) { return b_factor * v; }, dbias);
    // Of the true gradient, not of one that went through the gates' factor.
    const auto initial_factor = static_cast<Compute>(s.backward[3] / s.forward);
    auto dinitial = kernels::column_sums<Compute, T>(dstate.data(), e.batch, Shape{e.hidden},
                                                     initial_factor, resource);
    return std::tuple{std::move(dx), std::move(dw), std::move(db), std::move(dinitial)};
  }

 private:
  struct Extents {
    std::size_t batch, positions, input, hidden;
    [[nodiscard]] std::size_t fan_in() const { return input + hidden; }
  };

  static Extents extents(const Shape& x, const Shape& w, const Shape& b, const Shape& initial) {
    const auto weight = [&] {
      return Shape{size_product(name, {2, initial[0]}), size_sum(name, {x[2], initial[0]})};
    };
    require_shape(
        x.rank() == 3 && initial.rank() == 1 && w == weight() && b == Shape{2 * initial[0]}, name,
        "x (batch, positions, input_size), w (2 hidden_size, input_size + "
        "hidden_size), b (2 hidden_size) and initial (hidden_size)",
        x, w, b, initial);
    return {x[0], x[1], x[2], initial[0]};
  }

  using SummedExtent = kernels::SummedExtent;

  /// The columns of w that act on the input, and those that act on the state.
  static kernels::OperandPart input_columns(const kernels::PreparedOperand& w, const Extents& e) {
    return w.part_at(w.element(0), e.fan_in(), 1);
  }
  static kernels::OperandPart state_columns(const kernels::PreparedOperand& w, const Extents& e) {
    return w.part_at(w.element(e.hidden == 0 ? 0 : e.input), e.fan_in(), 1);
  }

  /// The state that each position begins with.
  template <class T>
  static Array<T> states_before(const Extents& e, const Array<T>& y, const Array<T>& initial) {
    Array<T> states(y.shape(), y.resource());
    T* target = states.mutable_data();
    kernels::for_rows(y.rows(), e.hidden, [&](std::size_t row) {
      const T* from = row % e.positions == 0 ? initial.data() : y.row(row - 1);
      std::copy_n(from, e.hidden, target + row * e.hidden);
    });
    return states;
  }
};
inline constexpr Apply<RecurrentHighway> recurrent_highway{};

}  // namespace UNIT_SCALING_NAMESPACE::ops

UNIT_SCALING_IEEE_END
