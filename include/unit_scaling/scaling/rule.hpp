// SPDX-License-Identifier: MIT
/// @file
/// Layer scaling: which set of scale rules an op follows.
#pragma once

#include <optional>
#include <string_view>

#include "unit_scaling/core/target.hpp"
#include "unit_scaling/scaling/constraint.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE {

/// A set of scale rules.
enum class Rule {
  none,   ///< Every factor is one and a mean loss is a mean: the ordinary model, our baseline.
  paper,  ///< The factors of Blake et al. 2023, arXiv:2303.11257, table A.2.
  umup,   ///< The factors of u-μP (arXiv:2407.17465) as the reference library computes them.
};

[[nodiscard]] constexpr std::string_view to_string(Rule rule) {
  switch (rule) {
    case Rule::none:
      return "none";
    case Rule::paper:
      return "paper";
    case Rule::umup:
      return "umup";
  }
  return "?";
}

/// The rules an op follows, and the constraint on its factors.
struct Scaling {
  Rule rule = Rule::paper;
  /// Empty: the rule's own, which is gmean for the paper and to_output_scale for u-μP.
  std::optional<Constraint> constraint = std::nullopt;
  /// Whether an op takes the rule of what it reads instead; see `scaling::inherited`.
  bool is_inherited = false;

  /// The constraint in force.
  [[nodiscard]] constexpr Constraint effective_constraint() const {
    if (rule == Rule::none) return constraint::none;
    return constraint.value_or(rule == Rule::paper ? constraint::gmean
                                                   : constraint::to_output_scale);
  }

  /// The same rules under another constraint.
  [[nodiscard]] constexpr Scaling with(const Constraint& other) const {
    return {rule, other, is_inherited};
  }

  /// The same rules for an op all of whose inputs are cut-edges, so that nothing is constrained.
  [[nodiscard]] constexpr Scaling on_cut_edge() const { return with(constraint::none); }
};

namespace scaling {

inline constexpr Scaling none{Rule::none};
inline constexpr Scaling paper{Rule::paper};
inline constexpr Scaling umup{Rule::umup};
/// What an op follows that is told nothing. Recorded on a tape, it follows the rule of what it
/// reads, so that ops in a model follow the model's:
///
/// 1. the rule that a parameter among its arguments was made for, by an Initialiser;
/// 2. without one, that of parameters which an argument was computed from;
/// 3. without these, a rule that an op behind an argument was told.
///
/// Where several count the same, the first does. Where there is none, and on arrays, it is
/// Rule::paper. A constraint may be told without a rule: `scaling::inherited.with(...)`.
inline constexpr Scaling inherited{.is_inherited = true};

}  // namespace scaling

}  // namespace UNIT_SCALING_NAMESPACE

UNIT_SCALING_IEEE_END
