// SPDX-License-Identifier: MIT
/// @file
/// Layer ops: a linear layer behind a GELU, as one op.
#pragma once

#include <array>
#include <cstddef>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>

#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/kernels/epilogue.hpp"
#include "unit_scaling/kernels/lanes.hpp"
#include "unit_scaling/kernels/map.hpp"
#include "unit_scaling/kernels/matmul.hpp"
#include "unit_scaling/ops/gelu.hpp"
#include "unit_scaling/ops/linear.hpp"
#include "unit_scaling/ops/op.hpp"
#include "unit_scaling/ops/operand.hpp"
#include "unit_scaling/scaling/rule.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::ops {

/// y = linear(gelu(x), w[, b]): to the bit, but for which NaN, what the two ops give one after the
/// other, in fewer passes over memory and with less to keep. Between the two, each number is
/// rounded to P::storage as it is there, in a register.
///
/// Shapes: x (…, fan_in), w (fan_out, fan_in), b (fan_out) or absent, y and dy (…, fan_out).
/// Units and scales: those of ops::Gelu and of ops::Linear, both of which act. `scales` are the
///         linear layer's, whose β_x acts before the GELU's factor.
/// Saves:  x and w rounded to P::matmul_operand; and gelu(x) only if P stores it as it multiplies
///         it. Where operands are narrower, the backward pass computes it again: under fp8, one
///         byte less of three for each element of x. Under a recipe gelu(x) is kept as it has it.
/// @throws ShapeError as ops::Linear; DomainError as ops::Gelu and ops::Linear.
struct GeluLinear {
  static constexpr std::string_view name = "gelu_linear";
  static constexpr bool accepts(std::size_t arguments) { return Linear::accepts(arguments); }
  /// What is rounded within is gelu(x).
  static constexpr OpTraits traits{.has_homogeneity = true,
                                   .has_item_counts = true,
                                   .has_gradient_factor = true,
                                   .has_followed_scalings = true,
                                   .has_products = true,
                                   .rounds_within = true};

  Gelu gelu = {};
  Linear linear = {};

  template <class X, class W, class... B>
  [[nodiscard]] auto scales(const Array<X>& x, const Array<W>& w, const Array<B>&... b) const {
    gelu.require_attributes();
    return linear.scales(x, w, b...);
  }

  /// The rules that a report names: of the layer, whose factors `scales` are, and of the GELU.
  [[nodiscard]] std::array<Scaling, 2> followed_scalings() const {
    return {linear.scaling, gelu.scaling};
  }

  void inherit(Rule rule) {
    ops::inherit(gelu, rule);
    ops::inherit(linear, rule);
  }

  /// To x the gradient passes through both ops, to w and b through the linear layer only.
  template <std::size_t N>
  [[nodiscard]] double gradient_factor(const Scales<N>& s, std::size_t input,
                                       std::size_t output) const {
    const double of_linear = ops::gradient_factor(linear, s, input, output);
    if (input != 0) return of_linear;
    return of_linear * ops::gradient_factor(gelu, gelu.factors(), 0, 0);
  }

  template <class... T> [[nodiscard]] auto item_counts(const Array<T>&... x) const {
    return linear.item_counts(x...);
  }

  template <std::size_t N> [[nodiscard]] Homogeneity homogeneity(const Scales<N>& s) const {
    const double a = gelu.factors().forward / gelu.mult;
    if constexpr (N == 3) {
      return {.output = {a * s.forward, {0, 1, 0}},
              .fixed = {{gelu.mult, {1, 0, 0}}, {a, {0, 1, -1}}}};
    } else {
      return {.output = {a * s.forward, {0, 1}}, .fixed = {{gelu.mult, {1, 0}}}};
    }
  }

  template <Precision P, std::size_t N, class T, class W, class... B>
  [[nodiscard]] auto forward(P precision, const Scales<N>& s, const Array<T>& x, const Array<W>& w,
                             const Array<B>&... b) const {
    auto h = activated(precision, x);
    auto w_operand = operand(precision, {OperandRole::weight, 1}, w, x.resource());
    auto output = linear.multiply(precision, s.forward, h, w_operand, b...);
    // What a recipe has made is not made twice.
    if (!keeps_operand<P> && !has_recipe(precision)) h = {};
    return Forward{std::move(output), std::tuple{x, std::move(h), std::move(w_operand)}};
  }

  /// @returns (dx, dw), and db if `s` has three backward factors.
  template <Precision P, std::size_t N, class T>
  [[nodiscard]] auto backward(P precision, const Scales<N>& s,
                              const std::tuple<Array<T>, kernels::Operand, kernels::Operand>& saved,
                              const Array<T>& dy,
                              const std::array<bool, N>& wanted = all_wanted<N>()) const {
    const auto& [x, h, w] = saved;
    auto wanted_of_linear = wanted;
    wanted_of_linear[0] = false;
    const bool has_operand = h.prepare != nullptr;
    const auto linear_saved = std::tuple{has_operand ? h : activated(precision, x), w};
    auto gradients = linear.backward(precision, s, linear_saved, dy, wanted_of_linear);
    if (wanted[0]) std::get<0>(gradients) = input_gradient(precision, s.backward[0], x, w, dy);
    return gradients;
  }

 private:
  /// What becomes of finished sums: the gradient of the GELU's output, times its slope at x.
  template <class Compute, class T, class Slope> struct StoreSlope {
    const T* x;
    T* dx;
    std::size_t stride;
    Compute factor;
    Slope slope;

    [[nodiscard]] kernels::ElementsTouched read() const { return {x, stride}; }
    [[nodiscard]] kernels::ElementsTouched written() const { return {dx, stride}; }
    template <class Count>
    void operator()(std::size_t i, std::size_t j, kernels::lane_t<Compute> sums,
                    Count count) const {
      const auto dh = kernels::rounded_to<T, Compute>(sums * factor);
      const auto v = kernels::load<Compute>(x + i * stride + j, count);
      kernels::store<Overflow::infinity_or_nan, Compute>(slope(dh, v), dx + i * stride + j, count);
    }
  };

  /// Whether what is multiplied is what P stores, so that keeping it costs no more than gelu alone.
  template <Precision P>
  static constexpr bool keeps_operand =
      std::is_same_v<typename P::matmul_operand, typename P::storage>;

  /// gelu(x), rounded to P::storage, as an operand.
  template <Precision P, class T>
  [[nodiscard]] kernels::Operand activated(P precision, const Array<T>& x) const {
    return gelu.with_form([&](auto f) {
      return operand_of(precision, {OperandRole::input, 0},
                        gelu.template output<typename P::compute>(gelu.scales(x).forward, f), x);
    });
  }

  /// The gradient of the linear layer's input, behind it the slope of the GELU.
  template <Precision P, class T>
  [[nodiscard]] Array<T> input_gradient(P precision, double factor, const Array<T>& x,
                                        const kernels::Operand& w, const Array<T>& dy) const {
    using Compute = typename P::compute;
    const auto gelu_scales = gelu.scales(x);
    if constexpr (std::is_same_v<Compute, double>) {
      const Scales<2> s{.forward = 1, .backward = {factor, 1}};
      const auto dh = std::get<0>(linear.backward(
          precision, s, std::tuple{operand(precision, {OperandRole::input, 0}, x), w}, dy,
          std::array{true, false}));
      return std::get<0>(gelu.backward(precision, gelu_scales, std::tuple{x}, dh));
    } else {
      const kernels::Operand g = operand(precision, {OperandRole::gradient}, dy, x.resource());
      const kernels::PreparedOperand left(g, kernels::SummedExtent::columns);
      const kernels::PreparedOperand right(w, kernels::SummedExtent::rows);
      const std::size_t fan_out = w.shape()[0];
      const std::size_t fan_in = w.shape()[1];
      Array<T> dx(x.shape(), x.resource());
      gelu.with_form([&](auto f) {
        const auto slope = gelu.template gradient<Compute>(gelu_scales.backward[0], f);
        kernels::matmul(
            {x.rows(), fan_in, fan_out}, left.part(), right.part(),
            StoreSlope<Compute, T, decltype(slope)>{x.data(), dx.mutable_data(), fan_in,
                                                    static_cast<Compute>(factor), slope});
      });
      return dx;
    }
  }
};
inline constexpr Apply<GeluLinear> gelu_linear{};

}  // namespace UNIT_SCALING_NAMESPACE::ops

UNIT_SCALING_IEEE_END
