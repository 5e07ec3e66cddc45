// SPDX-License-Identifier: MIT
/// @file
/// Layer analysis: a step of a model as tables for people.
#pragma once

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <map>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "unit_scaling/analysis/graph_trace.hpp"
#include "unit_scaling/analysis/op_listing.hpp"
#include "unit_scaling/analysis/scale_report.hpp"
#include "unit_scaling/analysis/short_number.hpp"
#include "unit_scaling/analysis/text_table.hpp"
#include "unit_scaling/autograd/observation.hpp"
#include "unit_scaling/autograd/op_record.hpp"
#include "unit_scaling/autograd/parameter.hpp"
#include "unit_scaling/autograd/tape.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/kernels/map.hpp"
#include "unit_scaling/optim/learning_rate_report.hpp"
#include "unit_scaling/optim/parameter_groups.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::analysis {

namespace detail {

/// What was measured of the outputs of each op: values in the order in which the ops were recorded,
/// gradients by the op's number on the tape.
class MeasuredScales {
 public:
  explicit MeasuredScales(std::span<const TensorScale> tensors) {
    for (const TensorScale& tensor : tensors) {
      if (tensor.role == TensorRole::value) values_.push_back(&tensor);
      if (tensor.role == TensorRole::gradient) gradients_[tensor.index].push_back(&tensor);
    }
  }

  /// The value of the next output; null if nothing was measured.
  /// @throws std::invalid_argument if what was measured is not this op's output.
  [[nodiscard]] const TensorScale* next_value(const OpRecord& op, const Shape& shape) {
    if (values_.empty()) return nullptr;
    if (next_ == values_.size()) refuse(op.name);
    return &checked(op, shape, *values_[next_++]);
  }

  /// To be called after the last op.
  /// @throws std::invalid_argument if more was measured.
  void require_end() const {
    if (next_ < values_.size()) refuse(values_[next_]->name);
  }

  /// The gradient of output number `output`; null if it has none.
  /// @throws std::invalid_argument as next_value.
  [[nodiscard]] const TensorScale* gradient(const OpRecord& op, std::size_t output) const {
    const bool has_gradient = std::any_of(op.inputs.begin(), op.inputs.end(),
                                          [](const auto& input) { return input.is_wanted; });
    const auto found = gradients_.find(op.index);
    if (!has_gradient || found == gradients_.end()) return nullptr;
    if (found->second.size() != op.outputs.size()) refuse(op.name);
    return &checked(op, op.outputs[output].shape, *found->second[output]);
  }

 private:
  static const TensorScale& checked(const OpRecord& op, const Shape& shape,
                                    const TensorScale& tensor) {
    if (tensor.name != op.name || tensor.shape != shape) refuse(op.name);
    return tensor;
  }
  [[noreturn]] static void refuse(const std::string& op) {
    throw std::invalid_argument(
        "explain: expected measurements of the one step that was traced, got others for " + op);
  }

  std::vector<const TensorScale*> values_;
  std::size_t next_ = 0;
  std::map<std::size_t, std::vector<const TensorScale*>> gradients_;
};

/// What the signs in a column of β mean, those that occur.
[[nodiscard]] inline std::string legend_text(const std::vector<ListedOp>& listed) {
  const auto occurs = [&](std::string_view sign) {
    return std::any_of(listed.begin(), listed.end(), [&](const ListedOp& op) {
      return op.backward.find(sign) != std::string::npos;
    });
  };
  std::string text;
  if (occurs("*")) text += "* the input is a cut-edge, where β may differ from α\n";
  if (occurs("(gradient")) {
    text +=
        "(gradient ...) what the op multiplies the true gradient of each input with, where that is "
        "not β/α, as residual weights do\n";
  }
  return text;
}

}  // namespace detail

/// Every op of a recorded step in order, one line for each: whose it is, what it reads and makes,
/// its forward factor α and backward factors β, its constraint, and, if `measured` has them, the
/// rms of each output and of its gradient.
///
///     GraphTrace trace;
///     ScaleReport report;
///     tape.trace_with(trace.tracer());
///     tape.observe_with(report.observer());
///     ...  // a step
///     std::cout << explain(trace.ops(), report.tensors());
///
/// The words are those of `list_ops`; "-" stands for what there is not, such as the β of an input
/// that no gradient is wanted for. Below the table stands what a star and a gradient behind β mean.
/// @param ops as `GraphTrace` has them.
/// @param measured `ScaleReport::tensors` of the same step, or nothing.
/// @throws std::invalid_argument as Graph, or if `measured` has other ops, other shapes, or more
///         than one step.
[[nodiscard]] inline std::string explain(std::span<const OpRecord> ops,
                                         std::span<const TensorScale> measured = {}) {
  const std::vector<ListedOp> listed = list_ops(ops);
  detail::MeasuredScales scales(measured);
  std::vector<std::vector<std::string>> rows{
      {"op", "name", "module", "reads", "makes", "α", "β", "constraint"}};
  if (!measured.empty()) rows.front().insert(rows.front().end(), {"rms", "gradient rms"});
  const auto append = [](std::string& cell, const TensorScale* tensor) {
    if (tensor != nullptr) cell += (cell.empty() ? "" : ", ") + short_number(tensor->rms);
  };
  for (std::size_t k = 0; k < ops.size(); ++k) {
    const OpRecord& op = ops[k];
    const ListedOp& words = listed[k];
    std::string rms;
    std::string gradient_rms;
    for (std::size_t i = 0; i < op.outputs.size(); ++i) {
      append(rms, scales.next_value(op, op.outputs[i].shape));
      append(gradient_rms, scales.gradient(op, i));
    }
    auto& row = rows.emplace_back(
        std::vector<std::string>{std::to_string(k), words.name, words.module, words.reads,
                                 words.makes, words.forward, words.backward, words.constraint});
    if (!measured.empty()) row.insert(row.end(), {rms, gradient_rms});
    std::replace(row.begin(), row.end(), std::string(), std::string("-"));
  }
  scales.require_end();
  return table_text(rows) + detail::legend_text(listed);
}

/// The parameters, one line for each: shape, kind, depth of its stack, and the rms of its value and
/// of its gradient on the tape; "-" for a depth or a gradient that there is not.
/// @param tape after the backward pass of the step.
template <Precision P>
[[nodiscard]] std::string explain_parameters(const Tape<P>& tape,
                                             std::span<Parameter* const> parameters) {
  const auto rms_text = [](const Array<float>& array) {
    return short_number(ScaleReport::measure({.name = {}, .elements = array.span()}).rms);
  };
  std::vector<std::vector<std::string>> rows{
      {"parameter", "shape", "kind", "depth", "rms", "gradient rms"}};
  for (const Parameter* parameter : parameters) {
    const auto gradient =
        kernels::convert<float, Overflow::infinity_or_nan>(tape.gradient(*parameter));
    rows.push_back({parameter->name, to_string(parameter->shape()),
                    std::string(optim::to_string(parameter->kind)),
                    parameter->depth ? std::to_string(*parameter->depth) : "-",
                    rms_text(parameter->floats()), gradient.empty() ? "-" : rms_text(gradient)});
  }
  return table_text(rows);
}

/// A model in one call: runs one step of it, forward and backward, on a tape of its own, and
/// returns two tables, of the step's ops as above, and of the model's parameters.
///
///     std::cout << explain(model, [&](const auto& model, auto& tape) {
///       return ops::cross_entropy(model(tape, ids, selected), labels);
///     });
///
/// @tparam P the precision that the step runs in, and that scales are measured in.
/// @param loss called with the model and the tape, records the step and returns its loss.
/// @throws std::invalid_argument as `Tape::backward`; what `loss` throws.
template <Precision P = precision::fp32, class Model, class Loss>
requires std::invocable < const Loss&, Model&, Tape<P>
& > [[nodiscard]] std::string explain(Model& model, const Loss& loss) {
  GraphTrace trace;
  ScaleReport report;
  Tape<P> tape;
  tape.trace_with(trace.tracer());
  tape.observe_with(report.observer());
  tape.backward(loss(model, tape));
  return explain(trace.ops(), report.tensors()) + "\n" +
         explain_parameters(tape, optim::parameters_of(model));
}

}  // namespace UNIT_SCALING_NAMESPACE::analysis

UNIT_SCALING_IEEE_END
