// SPDX-License-Identifier: MIT
/// @file
/// Layer train: everything that a training keeps from one step to the next, as one list of names.
///
/// A *state* is a value with a name: a number, an array, an encoded array, or a map of numbers or
/// arrays. A *part* is what has states: a module, an optimiser, a gradient sum, a tape, or anything
/// of your own. A part shows its states to whoever asks, by one member,
///
///     template <class Visitor> void for_each_state(const Visitor& visit) {
///       visit("largest", largest_);  // a double; or an array, or a part, whose states are
///     }                              // then called "largest.…"
///
/// and takes what the visitor writes to them. A module shows its parameters by
/// `for_each_parameter(visit)`; they are its states, and have their own names.
///
/// A training is a part as well. The shortest way to write one down is a function:
///
///     const auto training = [&](const auto& visit) {
///       visit("model", model);
///       visit("optimiser", adam);
///       visit("sum", sum);
///       visit("tape", tape);  // the number of the step, which random numbers depend on
///       visit("loss_scale", loss_scale);
///     };
///
/// train/checkpoint.hpp saves and loads it, and train/checkpoints.hpp keeps the last of several.
/// `for_each_state` is for other uses: comparing two trainings, counting bytes, or a file format of
/// your own.
#pragma once

#include <map>
#include <set>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include "unit_scaling/autograd/parameter.hpp"
#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/printable.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/formats/encoded_array.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::train {

/// A number that may be a state: bool, an integer, float or double.
template <class T>
concept StateNumber =
    std::is_integral_v<T> || std::is_same_v<T, float> || std::is_same_v<T, double>;

template <class> inline constexpr bool is_state_map = false;
/// A map of states: of numbers, or of arrays of any shapes. It is for what comes up as a training
/// goes, such as a number for each site of a recipe: loading replaces all of its entries, whatever
/// names they have. Those of entries are "MAP.KEY".
template <StateNumber T> inline constexpr bool is_state_map<std::map<std::string, T>> = true;
template <class T> inline constexpr bool is_state_map<std::map<std::string, Array<T>>> = true;

/// What a state may be. An array keeps its shape, an encoded array also its format and its layout
/// of scales.
template <class T>
concept StateValue =
    StateNumber<T> || is_array<T> || std::is_same_v<T, EncodedArray> || is_state_map<T>;

namespace detail {

/// Names of states, each of which there is once.
class StateNames {
 public:
  /// @param owns_names_below whether names that begin with this one and a full stop are taken, too.
  /// @throws DomainError if the name is taken.
  void add(const std::string& name, bool owns_names_below) {
    const std::string below = name + ".";
    for (const std::string& owner : owners_) {
      require(!name.starts_with(owner), where, "expected no state below ",
              in_quotes(owner.substr(0, owner.size() - 1)), ", which has names of its own, got ",
              in_quotes(name));
    }
    require(names_.insert(name).second, where, "expected a name of its own for each state, got ",
            in_quotes(name), " twice");
    if (!owns_names_below) return;
    const auto next = names_.lower_bound(below);
    require(next == names_.end() || !next->starts_with(below), where, "expected no state below ",
            in_quotes(name), ", which has names of its own, got ",
            next == names_.end() ? std::string() : in_quotes(*next));
    owners_.insert(below);
  }

 private:
  static constexpr std::string_view where = "for_each_state";

  std::set<std::string> names_;
  std::set<std::string> owners_;  ///< with a full stop behind
};

template <class Visitor> class StateVisitor;

template <class Part, class Visitor>
void visit_part(Part& part, const StateVisitor<Visitor>& visit) {
  constexpr bool has_states = requires { part.for_each_state(visit); };
  constexpr bool has_parameters = requires {
    part.for_each_parameter([](Parameter&) {});
  };
  if constexpr (has_parameters) {
    part.for_each_parameter([&](Parameter& each) {
      if (each.is_encoded()) return visit(each.name, each.encoded->codes);
      visit(each.name, each.value);
    });
  }
  if constexpr (has_states) part.for_each_state(visit);
  if constexpr (!has_parameters && !has_states) {
    static_assert(
        std::is_invocable_v<Part&, const StateVisitor<Visitor>&>,
        "expected a state (bool, integer, float, double, Array, EncodedArray, or a std::map of "
        "numbers or arrays by std::string) or a part, which has for_each_state(visit) or "
        "for_each_parameter(visit), or is a function of visit; neither may be const");
    part(visit);
  }
}

/// What parts call: knows where in the training they are.
template <class Visitor> class StateVisitor {
 public:
  StateVisitor(const Visitor& visit, StateNames& names, std::string prefix)
      : visit_(visit), names_(names), prefix_(std::move(prefix)) {}

  template <class T> void operator()(std::string_view name, T& state) const {
    const std::string full = prefix_ + std::string(name);
    if constexpr (StateValue<T>) {
      names_.add(full, is_state_map<T> || std::is_same_v<T, EncodedArray>);
      visit_(full, state);
    } else {
      visit_part(state, StateVisitor(visit_, names_, full + "."));
    }
  }

 private:
  const Visitor& visit_;
  StateNames& names_;
  std::string prefix_;
};

}  // namespace detail

/// Calls `visit(name, state)` for every state of a part and of the parts of it, in their order. The
/// name is a std::string such as "optimiser.first_moment.head.weight"; the state is a `StateValue`,
/// and may be written to.
/// @throws DomainError if two states have one name, and whatever a part throws that refuses what
///         `visit` has written.
template <class Part, class Visitor> void for_each_state(Part&& part, const Visitor& visit) {
  detail::StateNames names;
  detail::visit_part(part, detail::StateVisitor<Visitor>(visit, names, {}));
}

}  // namespace UNIT_SCALING_NAMESPACE::train

UNIT_SCALING_IEEE_END
