// SPDX-License-Identifier: MIT
/// @file
/// Layer analysis: which residual_split opens the branch that a residual_add closes.
#pragma once

#include <cstddef>
#include <set>
#include <string>
#include <vector>

#include "unit_scaling/analysis/gradient_flow.hpp"
#include "unit_scaling/analysis/graph_trace.hpp"
#include "unit_scaling/autograd/op_record.hpp"
#include "unit_scaling/core/target.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::analysis::detail {

/// How a residual_add and the residual_split before it fit together.
struct ResidualMatch {
  enum class Kind {
    fits,           ///< the split's weights are made up for by those of the add
    swapped,        ///< branch and skip are the other way round at one of the two
    other_weights,  ///< branch and skip are right, but rule or τ of the two differ
    no_split,       ///< no split leads to both inputs of the add
  };

  Kind kind = Kind::no_split;
  std::size_t split = 0;  ///< its place in the graph, if there is one
};

/// The value and everything that it is computed from.
[[nodiscard]] inline std::set<std::size_t> ancestors_of(const Graph& graph, std::size_t value) {
  std::set<std::size_t> found{value};
  std::vector<std::size_t> next{value};
  while (!next.empty()) {
    const auto maker = graph.maker(next.back());
    next.pop_back();
    if (!maker) continue;
    for (const auto& input : graph.ops()[maker->op].inputs) {
      if (found.insert(input.value).second) next.push_back(input.value);
    }
  }
  return found;
}

/// The split of an op of the name residual_add: one whose skip output leads to the skip input, and
/// whose branch output leads to the branch input only. The last one where several do, but one of
/// the right weights before all others.
/// @param add its place in the graph.
[[nodiscard]] inline ResidualMatch match_residual(const Graph& graph, std::size_t add) {
  using Kind = ResidualMatch::Kind;
  const OpRecord& closing = graph.ops()[add];
  const std::set<std::size_t> of_branch = ancestors_of(graph, closing.inputs[0].value);
  const std::set<std::size_t> of_skip = ancestors_of(graph, closing.inputs[1].value);
  const auto cancels = [](double a, double b) {
    return (GradientRatio::of(a) * GradientRatio::of(b)).is_one();
  };
  ResidualMatch match;
  for (std::size_t k = add; k-- > 0;) {
    const OpRecord& split = graph.ops()[k];
    if (split.name != "residual_split" || split.outputs.size() != 2) continue;
    const OpRecord::Output& branch = split.outputs[0];
    const OpRecord::Output& skip = split.outputs[1];
    const bool is_straight = of_branch.contains(branch.value) && of_skip.contains(skip.value) &&
                             !of_skip.contains(branch.value);
    const bool is_swapped = of_branch.contains(skip.value) && of_skip.contains(branch.value) &&
                            !of_branch.contains(branch.value);
    if (!is_straight && !is_swapped) continue;
    const std::vector<double>& factors = closing.outputs.front().gradient_factors;
    if (is_straight && cancels(branch.gradient_factors.at(0), factors.at(0)) &&
        cancels(skip.gradient_factors.at(0), factors.at(1))) {
      return {Kind::fits, k};
    }
    if (match.kind == Kind::no_split)
      match = {is_straight ? Kind::other_weights : Kind::swapped, k};
  }
  return match;
}

/// What to do about a residual_add whose weights are not made up for, in words.
/// @param match not one that fits.
[[nodiscard]] inline std::string residual_fix(const Graph& graph, std::size_t add,
                                              const ResidualMatch& match) {
  const std::string closing = graph.op_text(add);
  const std::string opening = graph.op_text(match.split);
  switch (match.kind) {
    case ResidualMatch::Kind::swapped:
      return "branch and skip are swapped between " + opening +
             ", which returns {branch, skip}, and " + closing +
             ", which takes (branch, skip): give both the same order, as residual_apply does";
    case ResidualMatch::Kind::other_weights:
      return "the weights of " + opening + " and of " + closing +
             " differ: give both the same rule and tau, as residual_apply does";
    case ResidualMatch::Kind::fits:
    case ResidualMatch::Kind::no_split:
      break;
  }
  return "no residual_split opens both the branch and the skip connection of " + closing +
         ": let one of the same rule and tau open them, as residual_apply does";
}

}  // namespace UNIT_SCALING_NAMESPACE::analysis::detail

UNIT_SCALING_IEEE_END
