// SPDX-License-Identifier: MIT
/// @file
/// Layer optim: which parameters an optimiser changes, and what differs between them.
#pragma once

#include <cstddef>
#include <initializer_list>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "unit_scaling/autograd/parameter.hpp"
#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/printable.hpp"
#include "unit_scaling/core/shape.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/scaling/rule.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::optim {

/// Parameters that are trained alike. They must stay in place: once one was moved or is gone, the
/// optimiser's next step is an error.
struct ParameterGroup {
  std::vector<Parameter*> parameters;
  /// Multiplies the learning rate, besides what the scale rules say.
  double learning_rate_factor = 1;
  /// In place of the optimiser's weight decay, and for every parameter of the group: without it
  /// gains and biases do not decay.
  std::optional<double> weight_decay = std::nullopt;
  /// Another rank keeps what an optimiser keeps of these parameters, and moves them; the step here
  /// checks their gradients alone. `distributed::ShardedOptimiser` says so.
  bool is_kept_elsewhere = false;
};

/// What an optimiser is made of: groups, or a plain list of parameters, which is one group.
class ParameterGroups {
 public:
  // All implicit: optimisers take either, written as it comes.
  ParameterGroups(std::vector<Parameter*> parameters) : groups_(1) {
    groups_.front().parameters = std::move(parameters);
  }
  ParameterGroups(std::initializer_list<Parameter*> parameters)
      : ParameterGroups(std::vector<Parameter*>(parameters)) {}
  ParameterGroups(std::vector<ParameterGroup> groups) : groups_(std::move(groups)) {}
  ParameterGroups(std::initializer_list<ParameterGroup> groups) : groups_(groups) {}

  [[nodiscard]] const std::vector<ParameterGroup>& groups() const& { return groups_; }
  [[nodiscard]] std::vector<ParameterGroup> groups() const&& { return groups_; }

 private:
  std::vector<ParameterGroup> groups_;
};

/// How an optimiser treats one parameter.
struct ParameterSetting {
  Parameter* parameter;
  Place::Watch is_in_place;     ///< whether the parameter may still be used
  std::string name;             ///< of the parameter, for when it may not
  Shape shape;                  ///< of the parameter when the optimiser was made
  double learning_rate_factor;  ///< of its group and of the scale rules
  double weight_decay;          ///< λ
  bool is_kept_elsewhere;       ///< see ParameterGroup
  Shape state_shape;            ///< of its states: no elements if it is kept elsewhere
};

/// Every parameter of some modules, in the order of their walks. The modules must stay in place.
template <class... Modules>
[[nodiscard]] std::vector<Parameter*> parameters_of(Modules&... modules) {
  std::vector<Parameter*> result;
  const auto add = [&](Parameter& parameter) { result.push_back(&parameter); };
  (modules.for_each_parameter(add), ...);
  return result;
}

/// Whether weight decay acts on a parameter: on matrices and tables, not on gains and biases.
[[nodiscard]] inline bool decays(const Parameter& parameter) {
  return parameter.kind != ParameterKind::bias && parameter.kind != ParameterKind::norm;
}

/// An independent decay of this share of every weight in each step halves weights that get no
/// gradient in 69 steps. Decays from here on are meant to be multiplied with a learning rate.
inline constexpr double max_independent_decay = 0.01;

/// What weight decay takes of a weight in a step.
struct DecayShare {
  double share;   ///< of the weight
  bool is_apart;  ///< it is taken by itself, so that less than half an ulp is lost; else with the
                  ///< gradient
};

namespace detail {

/// What takes a list of parameters, called `owner`, checks each of them with this.
class DistinctParameters {
 public:
  explicit DistinctParameters(std::string_view owner) : owner_(owner) {}

  /// @throws DomainError if the parameter is null, was added before, or has the name of one that
  ///         was: states are saved by name.
  void add(const Parameter* parameter) {
    require(parameter != nullptr, owner_, "expected parameters, got a null pointer");
    const auto [entry, is_new] = by_name_.emplace(parameter->name, parameter);
    require(is_new || entry->second != parameter, owner_, "expected each parameter once, got ",
            in_quotes(parameter->name), " twice");
    require(is_new, owner_,
            "expected a name of its own for each parameter, as their states are saved by name, got "
            "two called ",
            in_quotes(parameter->name), "; give each module, or parameter, another name");
  }

 private:
  std::string_view owner_;
  std::map<std::string_view, const Parameter*> by_name_;
};

}  // namespace detail

/// What settings follow from besides the groups.
struct SettingOptions {
  double weight_decay = 0;  ///< λ of what `decays`
  /// λ is a share of the weights that goes in each step, whatever the learning rate.
  bool decay_is_independent = false;
  Rule rule = Rule::none;  ///< the rules that the model follows
  /// Takes parameters that nobody tagged under rules that ask for a kind, at a factor of 1.
  bool allow_untagged = false;
};

/// The settings of all parameters of an optimiser called `name`. `factor(parameter)` is the scale
/// rules' factor on the learning rate.
/// @throws DomainError if a parameter is null or given twice, or two have one name; if a factor is
///         negative or not finite as a float; if a weight decay is not in [0, 1), or independent
///         and not below `max_independent_decay`; if parameters are untagged, unless that is
///         allowed or the rule is none: its text names all of them.
template <class Factor>
[[nodiscard]] std::vector<ParameterSetting> settings_of(std::string_view name,
                                                        const ParameterGroups& groups,
                                                        const SettingOptions& options,
                                                        const Factor& factor) {
  std::vector<ParameterSetting> settings;
  detail::DistinctParameters distinct(name);
  std::string untagged;
  const auto check_decay = [&](double decay) {
    require_share(name, "weight_decay", decay);
    require(!options.decay_is_independent || decay < max_independent_decay, name,
            "expected an independent weight_decay below ", max_independent_decay, ", got ", decay,
            ": it would take ", 100 * decay,
            " % of each weight in each step, whatever the learning rate; PyTorch's is multiplied "
            "with the learning rate, as that of WeightDecay::decoupled is");
  };
  check_decay(options.weight_decay);
  for (const ParameterGroup& group : groups.groups()) {
    require_not_negative(name, "a group's learning_rate_factor", group.learning_rate_factor);
    check_decay(group.weight_decay.value_or(0));
    for (Parameter* parameter : group.parameters) {
      distinct.add(parameter);
      const bool is_tagged = parameter->kind != ParameterKind::untagged;
      if (!is_tagged) untagged += (untagged.empty() ? "" : ", ") + parameter->name;
      const double of_kind = decays(*parameter) ? options.weight_decay : 0;
      settings.push_back({parameter, parameter->place.watch(), parameter->name, parameter->shape(),
                          group.learning_rate_factor * (is_tagged ? factor(*parameter) : 1),
                          group.weight_decay.value_or(of_kind), group.is_kept_elsewhere,
                          group.is_kept_elsewhere ? Shape{0} : parameter->shape()});
    }
  }
  require(untagged.empty() || options.allow_untagged || options.rule == Rule::none, name,
          "expected parameters with a kind (Parameter::kind), got untagged: ", untagged);
  return settings;
}

}  // namespace UNIT_SCALING_NAMESPACE::optim

UNIT_SCALING_IEEE_END
