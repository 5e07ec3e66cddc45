// SPDX-License-Identifier: MIT
/// @file
/// Layer analysis: whether every gradient of a recorded step is a constant times the true one.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <iterator>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "unit_scaling/analysis/gradient_flow.hpp"
#include "unit_scaling/analysis/graph_trace.hpp"
#include "unit_scaling/analysis/residual_match.hpp"
#include "unit_scaling/analysis/short_number.hpp"
#include "unit_scaling/autograd/variable.hpp"
#include "unit_scaling/core/target.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::analysis {

/// One op on a way from a value to the loss.
struct PathStep {
  std::size_t op = 0;  ///< its place in the graph
  std::string text;    ///< "op 3, linear of blocks.0.up"
  double factor = 1;   ///< what it multiplies the true gradient with
};

/// Gradients that do not fit together.
struct ConstraintFinding {
  enum class Kind {
    unequal_paths,     ///< gradients of one value come back with different factors and are added
    shared_parameter,  ///< the same for a parameter: its uses weigh differently in its gradient
    not_positive,      ///< an op reverses or stops a gradient
  };

  Kind kind = Kind::unequal_paths;
  std::string value = {};  ///< whose gradient it is, for people
  /// The factor of the gradient over the first path, over that of the second; 1 would be right.
  double ratio = 1;
  /// From the value to where the two ways meet again; empty for an op that stops a gradient.
  std::array<std::vector<PathStep>, 2> paths = {};
  /// The ops on the paths whose factors are not made up for there, those nearest to the value
  /// first.
  std::vector<PathStep> culprits = {};
  std::string fix = {};  ///< what to do, in words
};

namespace detail {

/// The way that a gradient came: the contribution, then what decides the ratio of each value that
/// it leads to, up to the loss. The product of its factors is the contribution's ratio.
[[nodiscard]] inline std::vector<GradientContribution> way_of(const Graph& graph,
                                                              const GradientFlow& flow,
                                                              const GradientContribution& start) {
  std::vector<GradientContribution> way{start};
  for (;;) {
    const GradientContribution& last = way.back();
    const std::size_t value = graph.ops()[last.op].outputs[last.output].value;
    if (!flow.contributions().contains(value)) return way;
    way.push_back(flow.deciding(value));
  }
}

/// The ways of two gradients of one value, up to the first op that they leave by one output.
[[nodiscard]] inline std::array<std::vector<PathStep>, 2> paths_between(
    const Graph& graph, const GradientFlow& flow, const GradientContribution& a,
    const GradientContribution& b) {
  const std::array ways{way_of(graph, flow, a), way_of(graph, flow, b)};
  // Along a way ops come in order, and every way ends with the loss.
  std::array<std::size_t, 2> end{0, 0};
  for (;;) {
    const GradientContribution& first = ways[0][end[0]];
    const GradientContribution& second = ways[1][end[1]];
    if (first.op == second.op && first.output == second.output) break;
    if (first.op <= second.op) ++end[0];
    if (second.op <= first.op) ++end[1];
  }
  std::array<std::vector<PathStep>, 2> paths;
  for (std::size_t p = 0; p < 2; ++p) {
    for (std::size_t i = 0; i <= end[p]; ++i) {
      const GradientContribution& at = ways[p][i];
      const OpRecord& op = graph.ops()[at.op];
      paths[p].push_back(
          {at.op, graph.op_text(at.op), op.outputs[at.output].gradient_factors[at.input]});
    }
  }
  return paths;
}

/// What is left of the steps of two paths when those are taken out that one factor or another makes
/// up for: a later reciprocal on the same path, or an equal one on the other.
[[nodiscard]] inline std::vector<PathStep> culprits_of(
    const std::array<std::vector<PathStep>, 2>& paths) {
  struct Entry {
    PathStep step;
    std::size_t distance;
    GradientRatio ratio;
    bool is_left = true;
  };
  std::array<std::vector<Entry>, 2> entries;
  for (std::size_t p = 0; p < 2; ++p) {
    for (std::size_t i = 0; i < paths[p].size(); ++i) {
      const auto ratio = GradientRatio::of(paths[p][i].factor);
      if (!ratio.is_one()) entries[p].push_back({paths[p][i], i, ratio});
    }
  }
  const auto cancel = [](Entry& a, Entry& b, const GradientRatio& product) {
    if (a.is_left && b.is_left && std::isfinite(product.log2) && product.is_one()) {
      a.is_left = b.is_left = false;
    }
  };
  for (auto& path : entries) {
    for (std::size_t i = 0; i < path.size(); ++i) {
      for (std::size_t j = i + 1; j < path.size(); ++j) {
        cancel(path[i], path[j], path[i].ratio * path[j].ratio);
      }
    }
  }
  for (Entry& a : entries[0]) {
    for (Entry& b : entries[1]) {
      cancel(a, b, a.ratio * GradientRatio{-b.ratio.log2, b.ratio.is_negative});
    }
  }
  std::vector<Entry> left;
  for (const auto& path : entries) {
    std::copy_if(path.begin(), path.end(), std::back_inserter(left),
                 [](const Entry& entry) { return entry.is_left; });
  }
  std::stable_sort(left.begin(), left.end(),
                   [](const Entry& a, const Entry& b) { return a.distance < b.distance; });
  std::vector<PathStep> result(left.size());
  std::transform(left.begin(), left.end(), result.begin(),
                 [](const Entry& entry) { return entry.step; });
  return result;
}

/// What to do about an op whose factors differ where they must not.
/// @param k its place in the graph.
[[nodiscard]] inline std::string fix_for(const Graph& graph, std::size_t k) {
  const OpRecord& op = graph.ops()[k];
  if (op.name == "residual_add") return residual_fix(graph, k, match_residual(graph, k));
  if (op.name == "residual_split") {
    for (std::size_t add = k + 1; add < graph.ops().size(); ++add) {
      if (graph.ops()[add].name != "residual_add") continue;
      const ResidualMatch match = match_residual(graph, add);
      if (match.kind != ResidualMatch::Kind::no_split && match.split == k) {
        return residual_fix(graph, add, match);
      }
    }
    return "residual split without add: let a residual_add of the same rule and tau close the "
           "branch "
           "that " +
           graph.op_text(k) + " opens, as residual_apply does";
  }
  if (op.name == "scale_fwd" || op.name == "scale_bwd") {
    return "give " + op.name + " its opposite, " +
           (op.name == "scale_fwd" ? "scale_bwd" : "scale_fwd") +
           " by the same factor, or put it on a cut-edge";
  }
  if (op.name == "cross_entropy" || op.name == "mse_loss") {
    return "no constraint acts on " + op.name +
           ": let a scale_bwd on its input bring that gradient to the factor of the others";
  }
  return "give " + op.name + " a constraint such as gmean, or put it on a cut-edge";
}

[[nodiscard]] inline std::string fix_for(const Graph& graph, const ConstraintFinding& finding) {
  std::vector<std::string> fixes;
  for (const PathStep& step : finding.culprits) {
    const std::string fix = fix_for(graph, step.op);
    if (std::find(fixes.begin(), fixes.end(), fix) == fixes.end()) fixes.push_back(fix);
  }
  if (finding.kind == ConstraintFinding::Kind::shared_parameter) {
    fixes = {
        "give each use a parameter of its own, or accept that they weigh differently in its "
        "gradient"};
  }
  std::string text;
  for (const std::string& fix : fixes) text += (text.empty() ? "" : "; ") + fix;
  return text;
}

}  // namespace detail

/// Looks for gradients of a recorded step that are not a positive constant times the true ones: the
/// one rule of unit scaling that is easy to break. Empty if there are none.
///
/// An op may multiply its gradient with a factor of its own where its input is a cut-edge, or where
/// other ops on the same path make up for it, as residual_add does for residual_split and the last
/// linear layer of a SwiGLU for the first two. What counts is that all gradients that are added up
/// for one value have the same factor; each value for which they do not is a finding. A parameter
/// that is read twice with two factors is a finding of a kind of its own: all other gradients are
/// still right, but its own is a weighted sum of those of its uses.
///
/// It looks at factors alone, so it holds for any precision and any values. Under τ = 0 a branch
/// has no true gradient, whatever is computed in it, and nothing is said of its parameters.
/// @param ops those of one step, as `GraphTrace` has them.
/// @param loss number of the value that `backward` begins from (`Variable::number`).
/// @throws std::invalid_argument as Graph, or if no op makes the loss.
/// @see Blake et al. 2023, arXiv:2303.11257, section 5, theorem 5.2.
[[nodiscard]] inline std::vector<ConstraintFinding> check_constraints(std::span<const OpRecord> ops,
                                                                      std::size_t loss) {
  using Kind = ConstraintFinding::Kind;
  const Graph graph(ops);
  const GradientFlow flow(graph, loss);
  std::vector<ConstraintFinding> findings;
  bool all_positive = true;
  // From the loss to the inputs, so that what is nearest to the loss is named first.
  for (auto at = flow.contributions().rbegin(); at != flow.contributions().rend(); ++at) {
    const auto& [value, contributions] = *at;
    const bool is_parameter = graph.parameter(value) != nullptr;
    const GradientRatio& expected = flow.ratio(value);
    if (is_parameter &&
        (expected.is_negative || expected.log2 == -std::numeric_limits<double>::infinity()))
      all_positive = false;
    std::vector<GradientRatio> reported;
    for (const GradientContribution& contribution : contributions) {
      const auto agrees = [&](const GradientRatio& other) {
        return other.agrees_with(contribution.ratio);
      };
      if (agrees(expected) || std::any_of(reported.begin(), reported.end(), agrees)) continue;
      reported.push_back(contribution.ratio);
      ConstraintFinding finding{
          .kind = is_parameter ? Kind::shared_parameter : Kind::unequal_paths,
          .value = graph.value_text(value),
          .ratio = contribution.ratio.value() / expected.value(),
          .paths = detail::paths_between(graph, flow, contribution, flow.deciding(value))};
      finding.culprits = detail::culprits_of(finding.paths);
      finding.fix = detail::fix_for(graph, finding);
      findings.push_back(std::move(finding));
    }
  }
  if (all_positive) return findings;
  for (std::size_t k = 0; k < ops.size(); ++k) {
    for (const OpRecord::Output& output : ops[k].outputs) {
      if (!flow.reaches(output.value)) continue;
      for (std::size_t i = 0; i < ops[k].inputs.size(); ++i) {
        const double factor = output.gradient_factors[i];
        if (!ops[k].inputs[i].is_wanted || !(factor <= 0)) continue;
        findings.push_back({.kind = Kind::not_positive,
                            .value = graph.value_text(ops[k].inputs[i].value),
                            .ratio = factor,
                            .paths = {},
                            .culprits = {{k, graph.op_text(k), factor}},
                            .fix = "leave " + ops[k].name +
                                   " out, or accept that parameters before it do not follow the "
                                   "gradient of this loss"});
      }
    }
  }
  return findings;
}

/// The same for a loss on the tape that was traced.
template <Precision P, class T>
[[nodiscard]] std::vector<ConstraintFinding> check_constraints(std::span<const OpRecord> ops,
                                                               const Variable<P, T>& loss) {
  return check_constraints(ops, loss.number());
}

[[nodiscard]] constexpr std::string_view to_string(ConstraintFinding::Kind kind) {
  switch (kind) {
    case ConstraintFinding::Kind::unequal_paths:
      return "unequal paths";
    case ConstraintFinding::Kind::shared_parameter:
      return "shared parameter";
    case ConstraintFinding::Kind::not_positive:
      return "not positive";
  }
  return "?";
}

/// The finding for people, several lines.
[[nodiscard]] inline std::string to_string(const ConstraintFinding& finding) {
  using Kind = ConstraintFinding::Kind;
  const std::string factor = short_number(finding.ratio, 6);
  std::string text(to_string(finding.kind));
  if (finding.kind == Kind::not_positive) {
    text += ": the gradient of " + finding.value + " is multiplied with " + factor + "\n";
  } else {
    text += ": two gradients of " + finding.value + " are added up, the first of which is " +
            factor + " times as large as it should be against the second\n";
  }
  const auto line = [](const PathStep& step) {
    const bool is_one = GradientRatio::of(step.factor).is_one();
    return step.text + (is_one ? "" : " (times " + short_number(step.factor, 6) + ")");
  };
  for (std::size_t p = 0; p < 2 && !finding.paths[p].empty(); ++p) {
    text += p == 0 ? "  first path:  " : "  second path: ";
    for (std::size_t i = 0; i < finding.paths[p].size(); ++i) {
      text += (i == 0 ? "" : " -> ") + line(finding.paths[p][i]);
    }
    text += "\n";
  }
  text += "  due to:      ";
  for (std::size_t i = 0; i < finding.culprits.size(); ++i) {
    text += (i == 0 ? "" : "; ") + line(finding.culprits[i]);
  }
  return text + "\n  fix:         " + finding.fix + "\n";
}

/// All of them; a sentence that says so if there are none.
[[nodiscard]] inline std::string to_string(const std::vector<ConstraintFinding>& findings) {
  if (findings.empty()) return "every gradient is a positive constant times the true one\n";
  std::string text;
  for (const ConstraintFinding& finding : findings) text += to_string(finding);
  return text;
}

}  // namespace UNIT_SCALING_NAMESPACE::analysis

UNIT_SCALING_IEEE_END
