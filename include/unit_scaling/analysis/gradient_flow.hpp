// SPDX-License-Identifier: MIT
/// @file
/// Layer analysis: by which factor each computed gradient of a recorded graph differs from the true
/// one.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <map>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "unit_scaling/analysis/graph_trace.hpp"
#include "unit_scaling/autograd/parameter.hpp"
#include "unit_scaling/core/target.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::analysis {

/// A computed gradient over the true one. As a logarithm, because products over a deep graph leave
/// the range of a double.
struct GradientRatio {
  /// −∞ where a gradient is stopped, +∞ where the computed one is not zero but the true one is; NaN
  /// where both are zero, so that it says nothing.
  double log2 = 0;
  bool is_negative = false;

  [[nodiscard]] static GradientRatio of(double factor) {
    return {std::log2(std::abs(factor)), factor < 0};
  }

  [[nodiscard]] double value() const { return (is_negative ? -1 : 1) * std::exp2(log2); }

  /// True if it is a positive, finite number.
  [[nodiscard]] bool is_positive() const { return std::isfinite(log2) && !is_negative; }

  /// True for a zero over a zero.
  [[nodiscard]] bool is_void() const { return std::isnan(log2); }

  /// True for 1, to 1e-9.
  [[nodiscard]] bool is_one() const { return agrees_with({}); }

  /// True if the two are one number to a relative 1e-9, or one of them is void.
  [[nodiscard]] bool agrees_with(const GradientRatio& other) const {
    constexpr double tolerance = 1.5e-9;  // 1e-9 / ln 2
    if (is_void() || other.is_void()) return true;
    if (log2 == other.log2 && std::isinf(log2)) return true;
    return is_negative == other.is_negative && std::abs(log2 - other.log2) <= tolerance;
  }

  friend GradientRatio operator*(const GradientRatio& a, const GradientRatio& b) {
    return {a.log2 + b.log2, a.is_negative != b.is_negative};
  }
};

/// What one reader of a value adds to the gradient of it.
struct GradientContribution {
  std::size_t op;      ///< the reader's place in the graph
  std::size_t input;   ///< which of its inputs the value is
  std::size_t output;  ///< which of its outputs the gradient comes from
  GradientRatio ratio;
};

/// The ratio of computed to true gradients for every value of a graph, from its ops' factors alone.
///
/// It is 1 at the loss. Backwards through an op it is multiplied with the op's gradient factor.
/// Where a value is read more than once, gradients are added up: that is right only if their ratios
/// are one and the same. Where they are not, the value goes on with the ratio of its last reader
/// that has one, which is the most direct way to the loss: the skip connection of a residual
/// branch.
class GradientFlow {
 public:
  /// @param loss number of the value that `backward` begins from (`Variable::number`).
  /// @throws std::invalid_argument if no op makes the loss.
  GradientFlow(const Graph& graph, std::size_t loss) {
    if (!graph.maker(loss)) {
      throw std::invalid_argument(
          "GradientFlow: expected a loss that one of the traced ops makes, got value " +
          std::to_string(loss));
    }
    ratios_[loss] = {};
    const auto ops = graph.ops();
    for (std::size_t k = ops.size(); k-- > 0;) {
      const OpRecord& op = ops[k];
      for (std::size_t out = op.outputs.size(); out-- > 0;) {
        const auto found = ratios_.find(op.outputs[out].value);
        if (found == ratios_.end()) continue;  // the loss does not depend on it
        const GradientRatio of_output = found->second;
        for (std::size_t in = 0; in < op.inputs.size(); ++in) {
          if (!op.inputs[in].is_wanted) continue;
          const GradientRatio ratio =
              of_output * GradientRatio::of(op.outputs[out].gradient_factors[in]);
          const std::size_t value = op.inputs[in].value;
          contributions_[value].push_back({k, in, out, ratio});
          GradientRatio& decided = ratios_.try_emplace(value, ratio).first->second;
          if (decided.is_void()) decided = ratio;
        }
      }
    }
  }

  /// For each value that the loss depends on, the loss apart: what its readers add to its gradient,
  /// the last reader first.
  [[nodiscard]] const std::map<std::size_t, std::vector<GradientContribution>>& contributions()
      const& {
    return contributions_;
  }
  [[nodiscard]] std::map<std::size_t, std::vector<GradientContribution>> contributions() const&& {
    return contributions_;
  }

  /// Which contribution decides the ratio of a value that the loss depends on, the loss apart: the
  /// first that says something, or the first if none does.
  /// @throws std::out_of_range for another value.
  [[nodiscard]] const GradientContribution& deciding(std::size_t value) const& {
    const auto& all = contributions_.at(value);
    const auto found = std::find_if(all.begin(), all.end(),
                                    [](const auto& each) { return !each.ratio.is_void(); });
    return found == all.end() ? all.front() : *found;
  }
  [[nodiscard]] GradientContribution deciding(std::size_t value) const&& { return deciding(value); }

  /// True if the loss depends on the value.
  [[nodiscard]] bool reaches(std::size_t value) const { return ratios_.contains(value); }

  /// Its ratio. @throws std::out_of_range if the loss does not depend on the value.
  [[nodiscard]] const GradientRatio& ratio(std::size_t value) const& { return ratios_.at(value); }
  [[nodiscard]] GradientRatio ratio(std::size_t value) const&& { return ratios_.at(value); }

 private:
  std::map<std::size_t, GradientRatio> ratios_;
  std::map<std::size_t, std::vector<GradientContribution>> contributions_;
};

/// For each parameter that the loss depends on: its computed gradient over the true one, as the
/// factors of the ops have it. Right if `check_constraints` finds nothing that leads to it.
/// @param loss number of the value that `backward` begins from (`Variable::number`).
/// @throws std::invalid_argument as Graph and GradientFlow.
[[nodiscard]] inline std::map<const Parameter*, double> parameter_gradient_ratios(
    std::span<const OpRecord> ops, std::size_t loss) {
  const Graph graph(ops);
  const GradientFlow flow(graph, loss);
  std::map<const Parameter*, double> result;
  for (const auto& [value, contributions] : flow.contributions()) {
    if (const Parameter* parameter = graph.parameter(value)) {
      result[parameter] = flow.ratio(value).value();
    }
  }
  return result;
}

}  // namespace UNIT_SCALING_NAMESPACE::analysis

UNIT_SCALING_IEEE_END
