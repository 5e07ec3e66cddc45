// SPDX-License-Identifier: MIT
/// @file
/// Layer ops: what every op is made of, and all that the tape knows of them.
///
/// An op is a struct of its attributes (scaling, epsilon, τ, …). It says what it is:
///
///     static constexpr std::string_view name = "…";                // for messages and reports
///     static constexpr bool accepts(std::size_t arguments);        // so many arrays
///     static constexpr OpTraits traits{…};                         // ops/op_traits.hpp
///
/// It has three member functions:
///
///     auto scales(x, ...) const -> Scales<N>;                      // sizes in, factors out
///     auto forward(P, scales, x, ...) const -> Forward<y, saved>;  // y and what backward needs
///     auto backward(P, scales, saved, dy[, wanted]) const -> std::tuple<dx, ...>;
///
/// Its traits tell which further ones it has: `homogeneity`, `item_counts` and so on. Beside it
/// stands `inline constexpr Apply<Op> name{}`, a function object that computes on arrays and
/// records on variables.
///
/// `dx, ...` are the gradients of the N differentiable arguments, in order. `wanted`, where an op
/// takes it, is a `std::array<bool, N>` that says which of them will be used; the others may be
/// left empty. `P` is a precision policy (formats/precision.hpp), passed as a value to choose it.
#pragma once

#include <array>
#include <cstddef>
#include <optional>
#include <tuple>
#include <type_traits>
#include <utility>

#include "unit_scaling/core/arithmetic.hpp"
#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/formats/precision.hpp"
#include "unit_scaling/ops/op_traits.hpp"
#include "unit_scaling/scaling/constraint.hpp"
#include "unit_scaling/scaling/homogeneity.hpp"
#include "unit_scaling/scaling/item_count.hpp"
#include "unit_scaling/scaling/rule.hpp"
#include "unit_scaling/scaling/scales.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::ops {

/// The result of an op: its output (a tuple of arrays if it has several) and the arrays, as a
/// tuple, that its backward pass reads.
template <class Output, class... Saved> struct Forward {
  Output output;
  std::tuple<Saved...> saved;
};
template <class Output, class... Saved>
Forward(Output, std::tuple<Saved...>) -> Forward<Output, Saved...>;

/// Every gradient wanted: the default of the backward passes that can leave some out.
template <std::size_t N> [[nodiscard]] constexpr std::array<bool, N> all_wanted() {
  std::array<bool, N> result{};
  result.fill(true);
  return result;
}

/// Whether what the op does to the numbers within its products under P is what it does under a
/// policy with these formats of operands and gradients: true unless the op says otherwise in a
/// member `rounds_weights_as<P>(operand, gradient)`.
template <ScaledOp Op, Precision P>
[[nodiscard]] constexpr bool rounds_weights_as(const FormatSpec& operand,
                                               const FormatSpec& gradient) {
  if constexpr (Op::traits.has_rounds_weights_as) {
    return Op::template rounds_weights_as<P>(operand, gradient);
  } else {
    return true;
  }
}

/// Lets the op follow the rule of what it reads, if it was told none: `scaling::inherited`.
template <ScaledOp Op> void inherit(Op& op, Rule rule) {
  if constexpr (Op::traits.has_followed_scalings) {
    op.inherit(rule);
  } else if constexpr (detail::has_scaling<Op>) {
    if (op.scaling.is_inherited) op.scaling.rule = rule;
  }
}

/// The rule that the op was told, of ops that do the work of two the first that was; empty if it
/// inherits one, or has none.
template <ScaledOp Op> [[nodiscard]] std::optional<Rule> told_rule([[maybe_unused]] const Op& op) {
  const auto told = [](const Scaling& scaling) {
    return scaling.is_inherited ? std::nullopt : std::optional(scaling.rule);
  };
  if constexpr (Op::traits.has_followed_scalings) {
    const auto [first, second] = op.followed_scalings();
    return first.is_inherited ? told(second) : told(first);
  } else if constexpr (detail::has_scaling<Op>) {
    return told(op.scaling);
  } else {
    return std::nullopt;
  }
}

/// The op with its rule's own factors: without a constraint on them, if it has any.
template <ScaledOp Op> [[nodiscard]] Op without_constraint(const Op& op) {
  Op result = op;
  if constexpr (detail::has_scaling<Op>) result.scaling = op.scaling.on_cut_edge();
  return result;
}

/// The constraint in force on the op's factors: what the op says in a member `constraint()`, else
/// that of its scaling. Empty if its factors do not depend on any: it has no scaling, is under rule
/// none, or is an op whose inputs are cut-edges by its nature.
template <ScaledOp Op>
[[nodiscard]] std::optional<Constraint> constraint_on([[maybe_unused]] const Op& op) {
  if constexpr (detail::has_scaling<Op> && !Op::traits.ignores_constraint) {
    if (op.scaling.rule == Rule::none) return {};
    if constexpr (Op::traits.has_constraint) {
      return op.constraint();
    } else {
      return op.scaling.effective_constraint();
    }
  } else {
    return {};
  }
}

/// What the op's backward pass multiplies the true gradient, of output number `output` with respect
/// to input number `input`, with: β/α, unless the op says otherwise in a member
/// `gradient_factor(scales, input, output)`.
template <ScaledOp Op, std::size_t N>
[[nodiscard]] double gradient_factor(const Op& op, const Scales<N>& s, std::size_t input,
                                     std::size_t output) {
  if constexpr (Op::traits.has_gradient_factor) {
    return op.gradient_factor(s, input, output);
  } else {
    return s.backward[input] / s.forward;
  }
}

/// Whether the op treats what stands at one position of a sequence unlike the same at another,
/// apart from hiding later positions: what its member `tells_positions()` says. Without one, it
/// does not.
template <ScaledOp Op> [[nodiscard]] bool tells_positions([[maybe_unused]] const Op& op) {
  if constexpr (Op::traits.has_tells_positions) {
    return op.tells_positions();
  } else {
    return false;
  }
}

/// How the op answers to factors on its inputs x, given its factors `s`: what its member
/// `homogeneity(s, x...)` says, or `homogeneity(s)` if it needs no shapes. Without one, f is taken
/// for a function that answers to none.
template <ScaledOp Op, std::size_t N, class... Arrays>
[[nodiscard]] Homogeneity homogeneity(const Op& op, const Scales<N>& s, const Arrays&... x) {
  if constexpr (!Op::traits.has_homogeneity) {
    return Homogeneity::unknown(s.forward, N);
  } else if constexpr (requires { op.homogeneity(s, x...); }) {
    return op.homogeneity(s, x...);
  } else {
    return op.homogeneity(s);
  }
}

/// How each of the op's N backward factors, called with x, depends on the number of items in the
/// batch: what its member `item_counts(x...)` says, or `item_counts(are_parameters, x...)` if that
/// depends on which inputs are parameters. Without one, no factor does. An op says so of the
/// factors of weights, and of that of a loss which is a mean over items.
template <ScaledOp Op, std::size_t N, class... Arrays>
[[nodiscard]] std::array<ItemCount, N> item_counts(const Op& op,
                                                   const std::array<bool, N>& are_parameters,
                                                   const Arrays&... x) {
  if constexpr (!Op::traits.has_item_counts) {
    return {};
  } else if constexpr (requires { op.item_counts(are_parameters, x...); }) {
    return op.item_counts(are_parameters, x...);
  } else {
    return op.item_counts(x...);
  }
}

/// The function object of an op. Called with arrays it computes, in the precision given by the
/// first argument or, without one, in the format of the first array; called with a variable of a
/// tape it records there (`record` is found by argument-dependent lookup: this layer knows of no
/// tape), whatever arithmetic the thread is told to do (core/arithmetic.hpp). The last argument,
/// which may be left out, holds the attributes: `gelu(x, {.mult = 2})`.
template <ScaledOp Op> struct Apply {
  template <class A>
  requires(Op::accepts(1) && !Precision<A>) [[nodiscard]] auto operator()(const A& a,
                                                                          const Op& op = {}) const {
    return apply(op, a);
  }
  template <class A, class B>
  requires(Op::accepts(2) && !Precision<A>) [[nodiscard]] auto operator()(const A& a, const B& b,
                                                                          const Op& op = {}) const {
    return apply(op, a, b);
  }
  template <class A, class B, class C>
  requires(Op::accepts(3) && !Precision<A>) [[nodiscard]] auto operator()(const A& a, const B& b,
                                                                          const C& c,
                                                                          const Op& op = {}) const {
    return apply(op, a, b, c);
  }
  template <class A, class B, class C, class D>
  requires(Op::accepts(4) && !Precision<A>) [[nodiscard]] auto operator()(const A& a, const B& b,
                                                                          const C& c, const D& d,
                                                                          const Op& op = {}) const {
    return apply(op, a, b, c, d);
  }
  template <Precision P, class A>
  requires(Op::accepts(1)) [[nodiscard]] auto operator()(P precision, const A& a,
                                                         const Op& op = {}) const {
    return compute(precision, op, a);
  }
  template <Precision P, class A, class B>
  requires(Op::accepts(2)) [[nodiscard]] auto operator()(P precision, const A& a, const B& b,
                                                         const Op& op = {}) const {
    return compute(precision, op, a, b);
  }
  template <Precision P, class A, class B, class C>
  requires(Op::accepts(3)) [[nodiscard]] auto operator()(P precision, const A& a, const B& b,
                                                         const C& c, const Op& op = {}) const {
    return compute(precision, op, a, b, c);
  }
  template <Precision P, class A, class B, class C, class D>
  requires(Op::accepts(4)) [[nodiscard]] auto operator()(P precision, const A& a, const B& b,
                                                         const C& c, const D& d,
                                                         const Op& op = {}) const {
    return compute(precision, op, a, b, c, d);
  }

 private:
  template <class First, class... Rest>
  static auto apply(const Op& op, const First& first, const Rest&... rest) {
    if constexpr ((is_array<First> && ... && is_array<Rest>)) {
      // Integer arguments (token ids) say nothing about precision; the first other one does.
      using T = typename FirstStorage<First, Rest...>::type;
      return compute(precision::uniform<T>{}, op, first, rest...);
    } else {
      return record(op, first, rest...);
    }
  }

  template <Precision P, class... Arrays>
  static auto compute(P precision, const Op& op, const Arrays&... arrays) {
    const DefaultArithmetic arithmetic;
    return op.forward(precision, op.scales(arrays...), arrays...).output;
  }

  /// @cond
  template <class First, class... Rest> struct FirstStorage : FirstStorage<Rest...> {};
  template <Storage T, class... Rest> struct FirstStorage<Array<T>, Rest...> { using type = T; };
  /// @endcond
};

}  // namespace UNIT_SCALING_NAMESPACE::ops

UNIT_SCALING_IEEE_END
