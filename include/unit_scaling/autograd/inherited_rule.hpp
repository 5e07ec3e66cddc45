// SPDX-License-Identifier: MIT
/// @file
/// Layer autograd: the rule that ops on a tape inherit from what they read.
#pragma once

#include <cstdint>
#include <optional>

#include "unit_scaling/core/target.hpp"
#include "unit_scaling/scaling/rule.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE {

/// The rule that a value hands on to an op which is told none, and how much it counts: see
/// `scaling::inherited`.
class InheritedRule {
 public:
  /// Of a value that hands on none.
  InheritedRule() = default;

  /// Of a parameter: the rule that it was made for, if there is one.
  [[nodiscard]] static InheritedRule of_parameter(std::optional<Rule> rule) {
    return {rule, Source::parameter};
  }

  /// The one of two that counts more; the first of equals.
  [[nodiscard]] InheritedRule or_stronger(const InheritedRule& other) const {
    return other.source_ > source_ ? other : *this;
  }

  /// What the outputs hand on of an op that inherits this one.
  /// @param told the rule that the op was told.
  [[nodiscard]] InheritedRule behind(std::optional<Rule> told) const {
    if (source_ < Source::behind_parameter) {
      const InheritedRule of_op{told, Source::behind_told_op};
      return or_stronger(of_op);
    }
    return {rule_, Source::behind_parameter};
  }

  /// Empty: none.
  [[nodiscard]] std::optional<Rule> rule() const { return rule_; }

 private:
  /// Where a rule comes from, in ascending order of what it counts.
  enum class Source : std::uint8_t { nowhere, behind_told_op, behind_parameter, parameter };

  InheritedRule(std::optional<Rule> rule, Source source)
      : rule_(rule), source_(rule ? source : Source::nowhere) {}

  std::optional<Rule> rule_;
  Source source_ = Source::nowhere;
};

}  // namespace UNIT_SCALING_NAMESPACE

UNIT_SCALING_IEEE_END
