// SPDX-License-Identifier: MIT
/// @file
/// Layer analysis: what in a model does not fit unit scaling, though it runs.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "unit_scaling/analysis/gradient_flow.hpp"
#include "unit_scaling/analysis/graph_trace.hpp"
#include "unit_scaling/analysis/residual_match.hpp"
#include "unit_scaling/analysis/short_number.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/optim/learning_rate.hpp"
#include "unit_scaling/optim/learning_rate_report.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::analysis {

/// Something that does not fit unit scaling.
struct LintFinding {
  enum class Kind {
    parameter_scale,         ///< a weight without unit scale, a bias that is not 0, a gain not 1
    unscaled_op,             ///< an op without rules in a model that follows some
    scaled_op,               ///< an op that follows rules in a model most of whose ops follow none
    residual_without_split,  ///< a sum of a value and a branch of it that nothing weighs backwards
    residual_mismatch,   ///< a residual_add with another order, rule or τ than its residual_split
    untagged_parameter,  ///< one whose kind nobody said
    learning_rate,       ///< one that is too small or too large to learn with, or not the rules'
    readout_constraint,  ///< not the one that the optimiser's rule is for
    mixed_rules,         ///< an op that follows other rules than the model
    plain_readout,       ///< a read-out that does not have the factors which u-μP gives one
    no_positions,        ///< attention to which a sequence is a set of tokens
    weight_decay,        ///< one that takes too much of a weight in a step, or nothing
  };

  Kind kind = Kind::parameter_scale;
  std::string subject = {};  ///< the parameter or the op
  std::string message = {};  ///< what is wrong, and what to do
};

/// What is known besides the graph; all of it may be left out.
struct LintOptions {
  /// `optim::learning_rate_report` of the optimiser at the rate it trains with.
  std::vector<optim::LearningRateRow> learning_rates = {};
  /// Of a learning rate over the scale of its parameter. Below 2⁻²⁴ an update of unit scale is lost
  /// when it is added to the float.
  double lowest_rate = 0x1p-24;
  /// The best rates under u-μP go up to some 2^1.5, for a read-out.
  double highest_rate = 4;
  /// Of the share of a weight that its decay takes in a step. At 2⁻⁸ half of it is gone after 177
  /// steps that add nothing.
  double highest_decay = 0x1p-8;
  /// Whether the model is meant to know no positions, as with PositionKind::none.
  bool is_without_positions = false;
  /// Sgd::Options::readout_is_constrained; empty for optimisers that do not ask.
  std::optional<bool> sgd_readout_is_constrained = std::nullopt;
};

namespace detail {

/// √(mean x²) in double; 0 of nothing.
[[nodiscard]] inline double rms_of(const Array<float>& values) {
  double sum = 0;
  for (const float value : values.span())
    sum += static_cast<double>(value) * static_cast<double>(value);
  return values.empty() ? 0 : std::sqrt(sum / static_cast<double>(values.size()));
}

class Linter {
 public:
  using Kind = LintFinding::Kind;

  Linter(std::span<const OpRecord> ops, const LintOptions& options)
      : graph_(ops), options_(options) {
    std::size_t scaled = 0;
    std::size_t plain = 0;
    for (const OpRecord& op : ops) {
      if (!op.scaling || !needs_rules(op)) continue;
      ++(follows(op, Rule::none) ? plain : scaled);
    }
    if (scaled >= plain) rule_ = rule_of_model();
  }

  [[nodiscard]] std::vector<LintFinding> run() {
    check_parameters();
    for (std::size_t k = 0; k < graph_.ops().size(); ++k) {
      check_rule(k);
      if (rule_ == Rule::none) continue;
      check_residual(k);
      check_readout(k);
    }
    if (rule_ == Rule::umup) check_what_losses_read();
    if (!options_.is_without_positions) check_positions();
    check_learning_rates();
    check_decay();
    return std::move(findings_);
  }

 private:
  /// Whether the op, or one of the ops that it does the work of, follows the rule.
  [[nodiscard]] static bool follows(const OpRecord& op, Rule rule) {
    return op.scaling->rule == rule || (op.fused_rule && *op.fused_rule == rule);
  }

  /// The rule that most ops with parameters follow, which are made with the model's scaling: others
  /// are easily left at the default. Where these are even, all ops count, and then u-μP's rule
  /// wins, which is nobody's default.
  [[nodiscard]] Rule rule_of_model() const {
    long lead_with_parameters = 0;  // of u-μP over the paper
    long lead = 0;
    bool any = false;
    for (const OpRecord& op : graph_.ops()) {
      if (!op.scaling || op.scaling->rule == Rule::none) continue;
      any = true;
      const long one = op.scaling->rule == Rule::umup ? 1 : -1;
      lead += one;
      const bool has_parameter =
          std::any_of(op.inputs.begin(), op.inputs.end(),
                      [](const auto& input) { return input.parameter != nullptr; });
      if (has_parameter) lead_with_parameters += one;
    }
    if (!any) return Rule::none;
    const long decides = lead_with_parameters != 0 ? lead_with_parameters : lead;
    return decides >= 0 ? Rule::umup : Rule::paper;
  }

  void find(Kind kind, const std::string& subject, const std::string& message) {
    findings_.push_back({kind, subject, message});
  }

  void check_parameters() {
    for (const OpRecord& op : graph_.ops()) {
      for (std::size_t i = 0; i < op.inputs.size(); ++i) {
        const Parameter* parameter = op.inputs[i].parameter;
        if (parameter == nullptr || !seen_.insert(parameter).second) continue;
        if (parameter->kind == ParameterKind::untagged) {
          find(Kind::untagged_parameter, parameter->name,
               "has no kind, which u-muP's learning rates go by: set Parameter::kind");
        }
        if (rule_ != Rule::none) check_scale(*parameter, op, is_gain(op, i));
      }
    }
  }

  /// Whether an input of an op is a gain; nothing if the op does not say.
  static std::optional<bool> is_gain(const OpRecord& op, std::size_t input) {
    if (op.name != "layer_norm" && op.name != "rms_norm") return std::nullopt;
    return input == 1;
  }

  /// @param op the first that reads the parameter.
  void check_scale(const Parameter& parameter, const OpRecord& op, std::optional<bool> is_gain) {
    const Array<float> value = parameter.floats();
    const auto all_are = [&](float expected) {
      return std::all_of(value.span().begin(), value.span().end(),
                         [=](float element) { return element == expected; });
    };
    const double rms = rms_of(value);
    switch (parameter.kind) {
      case ParameterKind::bias:
        if (!all_are(0)) {
          find(Kind::parameter_scale, parameter.name,
               "is a bias of rms " + short_number(rms) + ": begin with zeros");
        }
        return;
      case ParameterKind::norm: {
        const bool fits = is_gain ? all_are(*is_gain ? 1.0F : 0.0F) : all_are(1) || all_are(0);
        if (!fits) {
          find(Kind::parameter_scale, parameter.name,
               "belongs to a normalisation and has rms " + short_number(rms) +
                   ": begin with gains of one and shifts of zero");
        }
        return;
      }
      case ParameterKind::untagged:
        if (value.shape().rank() < 2) return;
        break;
      case ParameterKind::weight:
      case ParameterKind::output:
        break;
    }
    // The rms of n numbers from N(0,1) has standard deviation (2n)^-½.
    const auto size = static_cast<double>(std::max<std::size_t>(1, value.size()));
    const double tolerance = std::max(0.1, 4 / std::sqrt(2 * size));
    if (std::abs(rms - 1) <= tolerance) return;
    find(Kind::parameter_scale, parameter.name,
         "has rms " + short_number(rms) + ": begin with N(0,1), " + reason_for_unit_scale(op));
  }

  /// Why a weight that the op reads begins with unit scale.
  [[nodiscard]] std::string reason_for_unit_scale(const OpRecord& op) const {
    if (op.name == "embedding") {
      return "for an embedding passes on what it looks up at the scale of the table";
    }
    if (op.name == "linear_readout" && op.scaling && op.scaling->rule == Rule::umup) {
      return "for " + op.name + " itself has the factor fan_in^-1";
    }
    for (const std::string_view product : {"linear", "gelu_linear", "linear_readout", "conv1d",
                                           "token_mixing", "matmul", "recurrent_highway"}) {
      if (op.name == product) return "for " + op.name + " itself has the factor fan_in^-1/2";
    }
    return "as the rules expect";
  }

  void check_rule(std::size_t k) {
    const OpRecord& op = graph_.ops()[k];
    if (!op.scaling) return;
    const std::string of_model(to_string(rule_));
    if (rule_ != Rule::none && needs_rules(op) && follows(op, Rule::none)) {
      find(Kind::unscaled_op, graph_.op_text(k),
           "follows no rules in a model under " + of_model + ": give it the model's scaling");
      return;
    }
    for (const Rule rule : {Rule::paper, Rule::umup}) {
      if (rule == rule_ || !follows(op, rule)) continue;
      if (rule_ != Rule::none) {
        if (!is_wanted(op)) continue;
        find(Kind::mixed_rules, graph_.op_text(k),
             "follows " + std::string(to_string(rule)) +
                 (op.scaling->is_inherited && op.scaling->rule == rule
                      ? ", inherited from what it reads or by default,"
                      : "") +
                 " in a model under " + of_model + ": give it the model's scaling");
      } else if (needs_rules(op)) {
        find(Kind::scaled_op, graph_.op_text(k),
             "follows " + std::string(to_string(rule)) +
                 " in a model most of whose ops follow no rules: give it their scaling, or them "
                 "its");
      }
    }
  }

  /// Whether any gradient passes the op.
  [[nodiscard]] static bool is_wanted(const OpRecord& op) {
    return std::any_of(op.inputs.begin(), op.inputs.end(),
                       [](const auto& input) { return input.is_wanted; });
  }

  /// Whether it matters if an op follows the rules. Constants need no gradient; rows of activations
  /// that are picked once stay as they are; and numbers, such as losses, are added up as they are.
  static bool needs_rules(const OpRecord& op) {
    return std::any_of(op.inputs.begin(), op.inputs.end(), [&](const auto& input) {
      return input.is_wanted && input.shape.size() != 1 &&
             (op.name != "embedding" || input.parameter != nullptr);
    });
  }

  void check_residual(std::size_t k) {
    const OpRecord& op = graph_.ops()[k];
    if (op.inputs.size() != 2) return;
    if (op.name == "residual_add") {
      const ResidualMatch match = match_residual(graph_, k);
      if (match.kind != ResidualMatch::Kind::fits) {
        find(match.kind == ResidualMatch::Kind::no_split ? Kind::residual_without_split
                                                         : Kind::residual_mismatch,
             graph_.op_text(k),
             "does not make up for the weights of a residual_split: " +
                 residual_fix(graph_, k, match));
      }
    } else if (op.name == "add") {
      for (std::size_t i = 0; i < 2; ++i) {
        const std::size_t skip = op.inputs[i].value;
        const std::size_t branch = op.inputs[1 - i].value;
        // Of a constant there is no gradient to weigh.
        if (op.inputs[i].is_wanted && skip != branch &&
            ancestors_of(graph_, branch).contains(skip)) {
          find(Kind::residual_without_split, graph_.op_text(k),
               "adds a value and a branch of it, whose gradients are not weighed: use "
               "residual_split and residual_add, or residual_apply");
        }
      }
    }
  }

  void check_readout(std::size_t k) {
    const OpRecord& op = graph_.ops()[k];
    if (op.name != "linear_readout" || !op.scaling || op.scaling->rule != Rule::umup ||
        !options_.sgd_readout_is_constrained) {
      return;
    }
    const std::string_view name = op.scaling->constraint.value_or(constraint::none).name;
    const std::string_view expected = *options_.sgd_readout_is_constrained
                                          ? constraint::to_output_scale.name
                                          : constraint::none.name;
    if (name != expected) {
      find(Kind::readout_constraint, graph_.op_text(k),
           "has constraint " + std::string(name) + ", but Sgd's learning rates are for " +
               std::string(expected) + ": see Sgd::Options::readout_is_constrained");
    }
  }

  /// Looks for read-outs of each loss, a number that nothing reads.
  void check_what_losses_read() {
    std::set<std::size_t> seen;
    for (std::size_t k = 0; k < graph_.ops().size(); ++k) {
      for (const OpRecord::Output& output : graph_.ops()[k].outputs) {
        if (output.shape.rank() == 0 && graph_.readers(output.value).empty()) {
          check_behind(output.value, seen);
        }
      }
    }
  }

  /// Follows a value back to the op with a matrix product that it comes from, through ops without
  /// weights of their own. A residual join or a normalisation ends the way: what comes from there
  /// is no read-out's.
  void check_behind(std::size_t value, std::set<std::size_t>& seen) {
    const auto maker = graph_.maker(value);
    if (!maker || !seen.insert(maker->op).second) return;
    const OpRecord& op = graph_.ops()[maker->op];
    if (op.name == "linear" || op.name == "gelu_linear") {
      const Parameter* weight = op.inputs[1].parameter;
      if (weight == nullptr) return;
      find(Kind::plain_readout, graph_.op_text(maker->op),
           "is the last linear layer before the loss, but has the factors of a hidden one: make it "
           "an "
           "nn::LinearReadout, whose op linear_readout has the factor fan_in^-1 and whose weight, "
           "here " +
               weight->name + ", is of kind output");
      return;
    }
    std::vector<std::size_t> sources;
    for (const OpRecord::Input& input : op.inputs) {
      if (input.parameter != nullptr) {
        // A bias may be added; a weight makes an op a layer of its own.
        if (input.parameter->kind != ParameterKind::bias) return;
      } else if (input.is_wanted) {
        sources.push_back(input.value);
      }
    }
    for (const std::size_t source : sources) {
      for (const std::size_t other : sources) {
        if (source != other && ancestors_of(graph_, other).contains(source)) return;
      }
    }
    if (op.name == "residual_add" || op.name == "residual_split") return;
    for (const std::size_t source : sources) check_behind(source, seen);
  }

  /// Looks for attention over tokens whose positions nothing tells. The first is named.
  void check_positions() {
    for (std::size_t k = 0; k < graph_.ops().size(); ++k) {
      const OpRecord& op = graph_.ops()[k];
      if (op.name != "scaled_dot_product_attention" || !are_positions_absent(op)) continue;
      find(Kind::no_positions, graph_.op_text(k),
           "is told no positions, so that a sequence is a set of tokens to it: choose rotary, "
           "relative, learned or sinusoidal ones, or say LintOptions::is_without_positions");
      return;
    }
  }

  /// Whether what the op does with a parameter is the same at each position of a sequence. Others
  /// may add one that differs from position to position.
  [[nodiscard]] static bool treats_positions_alike(const OpRecord& op) {
    constexpr std::array names{"linear", "gelu_linear", "linear_readout", "layer_norm", "rms_norm"};
    return std::find(names.begin(), names.end(), op.name) != names.end();
  }

  /// Whether all that queries and keys come from is one table of tokens, without an op that tells
  /// positions. Of two tables one may be of positions, and a constant may have them.
  [[nodiscard]] bool are_positions_absent(const OpRecord& attention) const {
    if (attention.tells_positions || attention.inputs.size() > 3) return false;
    std::vector<std::size_t> values{attention.inputs[0].value, attention.inputs[1].value};
    std::set<std::size_t> seen;
    std::set<const Parameter*> tables;
    while (!values.empty()) {
      const std::size_t value = values.back();
      values.pop_back();
      if (!seen.insert(value).second) continue;
      const auto maker = graph_.maker(value);
      if (!maker) return false;
      const OpRecord& op = graph_.ops()[maker->op];
      if (op.tells_positions || op.is_outside_batch) return false;
      for (const OpRecord::Input& input : op.inputs) {
        if (input.parameter == nullptr) {
          values.push_back(input.value);
        } else if (op.name == "embedding") {
          tables.insert(input.parameter);
        } else if (!treats_positions_alike(op)) {
          return false;
        }
      }
    }
    return tables.size() == 1;
  }

  void check_learning_rates() {
    bool any_factor = false;
    bool any_expected = false;
    for (const optim::LearningRateRow& row : options_.learning_rates) {
      const auto found = std::find_if(seen_.begin(), seen_.end(), [&](const Parameter* parameter) {
        return parameter->name == row.name && parameter->shape() == row.shape;
      });
      any_factor = any_factor || row.factor != 1;
      double scale = 1;
      if (found != seen_.end()) {
        const Parameter& parameter = **found;
        if (const double rms = rms_of(parameter.floats()); rms > 0) scale = rms;
        const bool is_known = parameter.kind != ParameterKind::untagged || rule_ == Rule::paper;
        any_expected = any_expected || (is_known && parameter.shape().rank() <= 3 &&
                                        optim::learning_rate_factor(rule_, parameter) != 1);
      }
      if (row.learning_rate == 0) continue;  // nobody asks it to learn
      const double relative = row.learning_rate / scale;
      if (relative >= options_.lowest_rate && relative <= options_.highest_rate) continue;
      find(Kind::learning_rate, row.name,
           "learns at " + short_number(relative) + " of its scale a step, outside [" +
               short_number(options_.lowest_rate) + ", " + short_number(options_.highest_rate) +
               "]");
    }
    if (any_expected && !any_factor) {
      find(Kind::learning_rate, "the optimiser",
           "has one learning rate for all parameters, but the model follows " +
               std::string(to_string(rule_)) + ": give the optimiser the model's rule");
    }
  }

  void check_decay() {
    for (const optim::LearningRateRow& row : options_.learning_rates) {
      if (row.weight_decay == 0 || !row.decay_share) continue;
      const auto [share, is_apart] = *row.decay_share;
      const bool is_lost =
          is_apart && row.learning_rate != 0 && static_cast<float>(1 - share) == 1.0F;
      if (share <= options_.highest_decay && !is_lost) continue;
      find(Kind::weight_decay, row.name,
           "loses " + short_number(share) + " of its size to weight decay in a step, " +
               (is_lost ? "which no float shows: raise weight_decay, or leave it out"
                        : "above " + short_number(options_.highest_decay) +
                              ": an independent weight_decay is this share itself, 2^-13 say, "
                              "where others multiply theirs with the learning rate"));
    }
  }

  Graph graph_;
  const LintOptions& options_;
  Rule rule_ = Rule::none;
  std::set<const Parameter*> seen_;
  std::vector<LintFinding> findings_;
};

}  // namespace detail

/// Looks for what does not fit unit scaling in a recorded step and, if it is told of them, in the
/// optimiser's learning rates. Empty if there is nothing.
///
/// The model is to be as it was initialised: a trained weight has any scale. A model most of whose
/// ops are under `scaling::none` need not be of unit scale; of it, the ops that follow rules all
/// the same, parameters' kinds and learning rates are looked at.
/// @param ops those of one step, as `GraphTrace` has them; their parameters must still be there.
/// @throws std::invalid_argument as Graph.
[[nodiscard]] inline std::vector<LintFinding> lint(std::span<const OpRecord> ops,
                                                   const LintOptions& options = {}) {
  return detail::Linter(ops, options).run();
}

[[nodiscard]] constexpr std::string_view to_string(LintFinding::Kind kind) {
  switch (kind) {
    case LintFinding::Kind::parameter_scale:
      return "parameter scale";
    case LintFinding::Kind::unscaled_op:
      return "unscaled op";
    case LintFinding::Kind::scaled_op:
      return "scaled op";
    case LintFinding::Kind::residual_without_split:
      return "residual without split";
    case LintFinding::Kind::residual_mismatch:
      return "residual mismatch";
    case LintFinding::Kind::untagged_parameter:
      return "untagged parameter";
    case LintFinding::Kind::learning_rate:
      return "learning rate";
    case LintFinding::Kind::readout_constraint:
      return "readout constraint";
    case LintFinding::Kind::mixed_rules:
      return "mixed rules";
    case LintFinding::Kind::plain_readout:
      return "plain readout";
    case LintFinding::Kind::no_positions:
      return "no positions";
    case LintFinding::Kind::weight_decay:
      return "weight decay";
  }
  return "?";
}

/// One line for each finding; a sentence that says so if there are none.
[[nodiscard]] inline std::string to_string(const std::vector<LintFinding>& findings) {
  if (findings.empty()) return "nothing to complain about\n";
  std::string text;
  for (const LintFinding& finding : findings) {
    text += std::string(to_string(finding.kind)) + ": " + finding.subject + " " + finding.message +
            "\n";
  }
  return text;
}

}  // namespace UNIT_SCALING_NAMESPACE::analysis

UNIT_SCALING_IEEE_END
