// SPDX-License-Identifier: MIT
/// @file
/// Layer optim: which parameters an optimiser changes, and what differs between them.
#pragma once

#include <cmath>
#include <cstddef>
#include <initializer_list>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "unit_scaling/autograd/parameter.hpp"
#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/scaling/rule.hpp"

namespace UNIT_SCALING_NAMESPACE::optim {

/// Parameters that are trained alike. They must stay in place.
struct ParameterGroup {
  std::vector<Parameter*> parameters;
  /// Multiplies the learning rate, besides what the scale rules say.
  double learning_rate_factor = 1;
  /// In place of the optimiser's weight decay, and for every parameter of the group: without it
  /// gains and biases do not decay.
  std::optional<double> weight_decay = std::nullopt;
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

  [[nodiscard]] const std::vector<ParameterGroup>& groups() const { return groups_; }

 private:
  std::vector<ParameterGroup> groups_;
};

/// How an optimiser treats one parameter.
struct ParameterSetting {
  Parameter* parameter;
  double learning_rate_factor;  ///< of its group and of the scale rules
  double weight_decay;          ///< λ
};

/// Every parameter of a module, in the order of its walk. The module must stay in place.
template <class Module> [[nodiscard]] std::vector<Parameter*> parameters_of(Module& module) {
  std::vector<Parameter*> result;
  module.for_each_parameter([&](Parameter& parameter) { result.push_back(&parameter); });
  return result;
}

/// Whether weight decay acts on a parameter: on matrices and tables, not on gains and biases.
[[nodiscard]] inline bool decays(const Parameter& parameter) {
  return parameter.kind != ParameterKind::bias && parameter.kind != ParameterKind::norm;
}

/// What settings follow from besides the groups.
struct SettingOptions {
  double weight_decay = 0;  ///< λ of what `decays`
  Rule rule = Rule::none;   ///< the rules that the model follows
  /// Takes parameters that nobody tagged under rules that ask for a kind, at a factor of 1.
  bool allow_untagged = false;
};

/// The settings of all parameters of an optimiser called `name`. `factor(parameter)` is the scale
/// rules' factor on the learning rate.
/// @throws DomainError if a parameter is null or named twice; if a factor or a weight decay is
///         negative or not finite; if parameters are untagged, unless that is allowed or the rule
///         is none: its text names all of them.
template <class Factor>
[[nodiscard]] std::vector<ParameterSetting> settings_of(std::string_view name,
                                                        const ParameterGroups& groups,
                                                        const SettingOptions& options,
                                                        const Factor& factor) {
  std::vector<ParameterSetting> settings;
  std::set<const Parameter*> seen;
  std::string untagged;
  const auto usable = [](double value) { return std::isfinite(value) && value >= 0; };
  require(usable(options.weight_decay), name, "expected a finite weight_decay of at least 0");
  for (const ParameterGroup& group : groups.groups()) {
    require(usable(group.learning_rate_factor) && usable(group.weight_decay.value_or(0)), name,
            "expected groups with a finite learning_rate_factor and weight_decay of at least 0");
    for (Parameter* parameter : group.parameters) {
      require(parameter != nullptr, name, "expected parameters, got a null pointer");
      require(seen.insert(parameter).second, name,
              "expected each parameter once, got twice: ", parameter->name);
      const bool is_tagged = parameter->kind != ParameterKind::untagged;
      if (!is_tagged) untagged += (untagged.empty() ? "" : ", ") + parameter->name;
      const double of_kind = decays(*parameter) ? options.weight_decay : 0;
      settings.push_back({parameter,
                          group.learning_rate_factor * (is_tagged ? factor(*parameter) : 1),
                          group.weight_decay.value_or(of_kind)});
    }
  }
  require(untagged.empty() || options.allow_untagged || options.rule == Rule::none, name,
          "expected parameters with a kind (Parameter::kind), got untagged: ", untagged);
  return settings;
}

}  // namespace UNIT_SCALING_NAMESPACE::optim
