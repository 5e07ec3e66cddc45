// SPDX-License-Identifier: MIT
/// @file
/// Layer ops: the linear layer.
#pragma once

#include <array>

#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/kernels/map.hpp"
#include "unit_scaling/kernels/matmul.hpp"
#include "unit_scaling/kernels/rows.hpp"
#include "unit_scaling/ops/op.hpp"
#include "unit_scaling/ops/operand.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::ops {

/// Unit-scaled linear layer: y = α (x wᵀ + b), dx = β_x dy w, dw = β_w dyᵀ x, db = β_b Σ dy.
/// Shapes: x (…, fan_in), w (fan_out, fan_in), b (fan_out) or absent, y and dy (…, fan_out).
/// Units:  x, w, dy ~ N(0,1) give unit std of y, dx, dw and db (without a constraint).
/// Scales: α = fan_in^−½, β_x = fan_out^−½, β_w = β_b = rows^−½, rows = all extents of x but the
///         last. The constraint binds α and β_x; w and b are leaves, so their factors stay free.
/// Values: x and w are rounded to P::matmul_operand, dy to P::matmul_gradient (both saturating),
///         products accumulate in P::compute, y and the gradients are rounded once to P::storage;
///         what is saved for backward is the rounded operands. db sums dy before its rounding.
/// @throws ShapeError if the shapes do not fit.
/// @throws DomainError unless the powers, and the factors that they give, are finite as floats.
/// @see Blake et al. 2023, arXiv:2303.11257, table A.2 and section 4.
struct Linear {
  static constexpr std::string_view name = "linear";
  static constexpr bool accepts(std::size_t arguments) { return arguments == 2 || arguments == 3; }
  static constexpr OpTraits traits{
      .has_homogeneity = true, .has_item_counts = true, .has_products = true};

  Scaling scaling = scaling::inherited;
  /// Exponents of fan_in, fan_out and rows in α, β_x and β_w = β_b. (1, ½, ½) is a u-μP read-out.
  std::array<double, 3> power = {0.5, 0.5, 0.5};

  template <class X, class W>
  [[nodiscard]] Scales<2> scales(const Array<X>& x, const Array<W>& w) const {
    check(x.shape(), w.shape());
    require_powers(name, power);
    Scales<2> ideal;
    if (scaling.rule != Rule::none) {
      ideal = {
          .forward = inverse_power(w.shape()[1], power[0]),
          .backward = {inverse_power(w.shape()[0], power[1]), inverse_power(x.rows(), power[2])}};
      require_factors(name, ideal);
    }
    return constrain<1>(scaling.effective_constraint(), ideal);
  }

  template <class X, class W, class B>
  [[nodiscard]] Scales<3> scales(const Array<X>& x, const Array<W>& w, const Array<B>& b) const {
    const Scales<2> s = scales(x, w);
    check_bias(b.shape(), w.shape());
    return {.forward = s.forward, .backward = {s.backward[0], s.backward[1], s.backward[1]}};
  }

  /// β_w and β_b are of the rows.
  template <class X, class W, class... B>
  [[nodiscard]] std::array<ItemCount, 2 + sizeof...(B)> item_counts(
      const Array<X>& x, const Array<W>& /*w*/, const Array<B>&... /*b*/) const {
    std::array<ItemCount, 2 + sizeof...(B)> counts{};
    if (scaling.rule == Rule::none) return counts;
    for (std::size_t i = 1; i < counts.size(); ++i) counts[i] = item_count(x.rows(), power[2]);
    return counts;
  }

  template <std::size_t N> [[nodiscard]] static Homogeneity homogeneity(const Scales<N>& s) {
    return Homogeneity::product(s.forward, N);
  }

  template <Precision P, std::size_t N, class X, class W, class... B>
  [[nodiscard]] auto forward(P precision, const Scales<N>& s, const Array<X>& x, const Array<W>& w,
                             const Array<B>&... b) const {
    check(x.shape(), w.shape());
    auto x_operand = operand(precision, {OperandRole::input, 0}, x);
    auto w_operand = operand(precision, {OperandRole::weight, 1}, w, x.resource());
    auto y = multiply(precision, s.forward, x_operand, w_operand, b...);
    return Forward{std::move(y), std::tuple{std::move(x_operand), std::move(w_operand)}};
  }

  /// @returns (dx, dw), and db if `s` has three backward factors.
  template <Precision P, std::size_t N, class T>
  [[nodiscard]] auto backward(P precision, const Scales<N>& s,
                              const std::tuple<kernels::Operand, kernels::Operand>& saved,
                              const Array<T>& dy,
                              const std::array<bool, N>& wanted = all_wanted<N>()) const {
    using Compute = typename P::compute;
    const auto& [x, w] = saved;
    const std::size_t rows = x.rows();
    const std::size_t fan_out = w.shape()[0];
    const std::size_t fan_in = w.shape()[1];
    require_same_shape(name, "dy and y", dy.shape(), x.shape().with_columns(fan_out));
    const kernels::Operand g = operand(precision, {OperandRole::gradient}, dy, x.resource());

    std::array<Array<T>, N> gradients;
    if (wanted[0]) {
      gradients[0] = product<Compute, T>(x.shape(), {rows, fan_in, fan_out},
                                         {g, SummedExtent::columns}, {w, SummedExtent::rows},
                                         {.scale = static_cast<Compute>(s.backward[0])});
    }
    if (wanted[1]) {
      gradients[1] = product<Compute, T>(w.shape(), {fan_out, fan_in, rows},
                                         {g, SummedExtent::rows}, {x, SummedExtent::rows},
                                         {.scale = static_cast<Compute>(s.backward[1])});
    }
    if constexpr (N == 3) {
      if (wanted[2]) {
        gradients[2] = kernels::column_sums<Compute, T>(
            dy.data(), rows, Shape{fan_out}, static_cast<Compute>(s.backward[2]), x.resource());
      }
    }
    return std::apply([](auto&... each) { return std::tuple{std::move(each)...}; }, gradients);
  }

  /// y of operands that are made already, with a bias or none.
  template <Precision P, class... B>
  [[nodiscard]] static Array<typename P::storage> multiply(P /*precision*/, double scale,
                                                           const kernels::Operand& x,
                                                           const kernels::Operand& w,
                                                           const Array<B>&... b) {
    using Compute = typename P::compute;
    check(x.shape(), w.shape());
    (check_bias(b.shape(), w.shape()), ...);
    const std::tuple bias{kernels::convert<Compute, Overflow::infinity_or_nan>(b, x.resource())...};
    kernels::Epilogue<Compute> epilogue{.scale = static_cast<Compute>(scale)};
    if constexpr (sizeof...(B) == 1) epilogue.bias = std::get<0>(bias).data();
    const std::size_t fan_out = w.shape()[0];
    return product<Compute, typename P::storage>(
        x.shape().with_columns(fan_out), {x.rows(), fan_out, w.columns()},
        {x, SummedExtent::columns}, {w, SummedExtent::columns}, epilogue);
  }

 private:
  static void check(const Shape& x, const Shape& w) {
    require_shape(w.rank() == 2 && x.rank() >= 1 && x.columns() == w[1], name,
                  "x (..., fan_in) and w (fan_out, fan_in)", x, w);
  }
  static void check_bias(const Shape& bias, const Shape& w) {
    require_shape(bias == Shape{w[0]}, name, "bias (fan_out) for w (fan_out, fan_in)", bias, w);
  }

  using SummedExtent = kernels::SummedExtent;
  template <class Compute, class Out>
  static Array<Out> product(const Shape& shape, const kernels::MatmulSize& size,
                            const kernels::PreparedOperand& left,
                            const kernels::PreparedOperand& right,
                            const kernels::Epilogue<Compute>& epilogue) {
    Array<Out> out(shape, left.resource());
    kernels::matmul<Compute>(size, left.part(), right.part(), out.mutable_data(), size.columns,
                             epilogue);
    return out;
  }
};
inline constexpr Apply<Linear> linear{};

}  // namespace UNIT_SCALING_NAMESPACE::ops

UNIT_SCALING_IEEE_END
