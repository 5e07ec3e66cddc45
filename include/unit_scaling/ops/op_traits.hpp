// SPDX-License-Identifier: MIT
/// @file
/// Layer ops: what an op says of itself, checked when it is compiled.
#pragma once

#include <concepts>
#include <cstddef>
#include <string_view>
#include <type_traits>

#include "unit_scaling/core/target.hpp"
#include "unit_scaling/scaling/rule.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::ops {

/// What an op says of itself besides what it computes, in a static member `traits`. The shortest:
///
///     static constexpr OpTraits traits{.has_homogeneity = true, .has_item_counts = false};
///
/// A name that is misspelt there does not compile, and neither does an op that has other members
/// than its traits tell of: see `ScaledOp`.
struct OpTraits {
  /// A yes or no that has no default: who leaves it out gets an error.
  class Answer {
   public:
    template <std::same_as<bool> Bool>
    constexpr Answer(Bool value) : value_(value) {}     // NOLINT(google-explicit-constructor)
    constexpr operator bool() const { return value_; }  // NOLINT(google-explicit-constructor)

   private:
    bool value_;
  };

  /// Whether the op has a member `homogeneity(scales[, x...])`; see `ops::homogeneity`.
  Answer has_homogeneity;
  /// Whether it has a member `item_counts([are_parameters, ]x...)`; see `ops::item_counts`.
  Answer has_item_counts;
  /// Whether it has a member `gradient_factor(scales, input, output)`; see `ops::gradient_factor`.
  bool has_gradient_factor = false;
  /// Whether it has a member `constraint()`; see `ops::constraint_on`.
  bool has_constraint = false;
  /// Whether it has a member `followed_scalings()`: does the work of two ops, and tells the rules
  /// of the one whose factors `scales` are and of the other one, as a `std::array<Scaling, 2>`.
  /// Such an op has a member `inherit(rule)` as well; see `ops::inherit`. No other op that has
  /// another one as a member hands a rule on to it.
  bool has_followed_scalings = false;
  /// Whether it has a member `rounds_weights_as<P>(operand, gradient)`; see
  /// `ops::rounds_weights_as`.
  bool has_rounds_weights_as = false;
  /// Whether it has a member `tells_positions()`; see `ops::tells_positions`.
  bool has_tells_positions = false;
  /// Whether the op computes matrix products, whose operands it asks `ops::operand` for.
  bool has_products = false;
  /// The op rounds, to formats of its policy, what is neither an argument nor an output nor a
  /// gradient of one: states, say. A recipe that rounds what ops write cannot see that.
  bool rounds_within = false;
  /// The output is a loss: one number, in `P::compute`.
  bool is_loss = false;
  /// The op's factors depend on the rule of its `scaling`, but on no constraint.
  bool ignores_constraint = false;
};

namespace detail {

/// Names that mean something in an op.
struct MembersOfOps {
  int scaling;
  int homogeneity, item_counts, gradient_factor, constraint, followed_scalings, rounds_weights_as;
  int tells_positions, inherit;
  int has_products, rounds_within, is_loss, ignores_constraint;  // of `traits`
};

/// Inherits each of these names, and the members of the op. A name that the op has too is ambiguous
/// here, so `&AmbiguousMembers<Op>::name` does not compile. That holds for a template, for several
/// functions of one name, and for a number.
template <class Op> struct AmbiguousMembers : Op, MembersOfOps {};

template <class Op> inline constexpr bool has_scaling = !requires {
  &AmbiguousMembers<Op>::scaling;
};
template <class Op>
inline constexpr bool scaling_is_a_scaling = !has_scaling<Op> || requires(Op op) {
  { (op.scaling) } -> std::same_as<Scaling&>;
};

template <class Op>
inline constexpr bool homogeneity_is_as_told = Op::traits.has_homogeneity == !requires {
  &AmbiguousMembers<Op>::homogeneity;
};
template <class Op>
inline constexpr bool item_counts_are_as_told = Op::traits.has_item_counts == !requires {
  &AmbiguousMembers<Op>::item_counts;
};
template <class Op>
inline constexpr bool gradient_factor_is_as_told = Op::traits.has_gradient_factor == !requires {
  &AmbiguousMembers<Op>::gradient_factor;
};
template <class Op>
inline constexpr bool constraint_is_as_told = Op::traits.has_constraint == !requires {
  &AmbiguousMembers<Op>::constraint;
};
template <class Op>
inline constexpr bool followed_scalings_are_as_told =
    Op::traits.has_followed_scalings == !requires {
  &AmbiguousMembers<Op>::followed_scalings;
}
&&Op::traits.has_followed_scalings == !requires { &AmbiguousMembers<Op>::inherit; };
template <class Op>
inline constexpr bool rounds_weights_as_is_as_told = Op::traits.has_rounds_weights_as == !requires {
  &AmbiguousMembers<Op>::rounds_weights_as;
};

template <class Op>
inline constexpr bool tells_positions_is_as_told = Op::traits.has_tells_positions == !requires {
  &AmbiguousMembers<Op>::tells_positions;
};

template <class Op> inline constexpr bool no_trait_is_beside_traits = requires {
  &AmbiguousMembers<Op>::has_products;
  &AmbiguousMembers<Op>::rounds_within;
  &AmbiguousMembers<Op>::is_loss;
  &AmbiguousMembers<Op>::ignores_constraint;
};

}  // namespace detail

/// An op whose members are those that its traits tell of: none is missing, and none is left untold.
template <class Op>
concept HasMembersOfItsTraits = requires {
  requires detail::homogeneity_is_as_told<Op>;
  requires detail::item_counts_are_as_told<Op>;
  requires detail::gradient_factor_is_as_told<Op>;
  requires detail::constraint_is_as_told<Op>;
  requires detail::followed_scalings_are_as_told<Op>;
  requires detail::rounds_weights_as_is_as_told<Op>;
  requires detail::tells_positions_is_as_told<Op>;
  requires detail::no_trait_is_beside_traits<Op>;
  requires detail::scaling_is_a_scaling<Op>;
};

/// A scaled op: a name for messages and reports, the numbers of array arguments it accepts, and
/// what else it says of itself. It is a class that is not final.
template <class Op>
concept ScaledOp =
    std::is_class_v<Op> && !std::is_final_v<Op> && std::default_initializable<Op> && requires {
  { Op::name } -> std::convertible_to<std::string_view>;
  { Op::accepts(std::size_t{}) } -> std::same_as<bool>;
  requires std::same_as<decltype(Op::traits), const OpTraits>;
}
&&HasMembersOfItsTraits<Op>;

}  // namespace UNIT_SCALING_NAMESPACE::ops

UNIT_SCALING_IEEE_END
