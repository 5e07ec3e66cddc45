// SPDX-License-Identifier: MIT
/// @file
/// Layer analysis: the ops of a recorded step, in the words of a table.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "unit_scaling/analysis/cut_edges.hpp"
#include "unit_scaling/analysis/short_number.hpp"
#include "unit_scaling/autograd/op_record.hpp"
#include "unit_scaling/core/target.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::analysis {

/// One op of a recorded step. It refers to nothing else and may outlive the model.
struct ListedOp {
  std::string name;
  std::string module;
  std::size_t index = 0;   ///< the op's number on the tape
  std::string reads;       ///< shapes of the inputs, behind the names of parameters
  std::string makes;       ///< shapes of the outputs
  std::string forward;     ///< α
  std::string backward;    ///< β of each input, with a star on a cut-edge; "-" if none is wanted
  std::string constraint;  ///< its name; empty if none acts on the op's factors
  std::string cut_edges;   ///< "yes" or "no" for each input; "-" if no gradient is wanted
};

/// The ops of one step in order: whose each is, what it reads and makes, its forward factor α and
/// backward factors β, its constraint, and which of its inputs are cut-edges, which need none.
/// Residual weights are no factors: they stand behind the β as gradient factors, what an op
/// multiplies the true gradient of an input with, where these are not β/α.
/// @param ops as `GraphTrace` has them.
/// @throws std::invalid_argument as Graph.
[[nodiscard]] inline std::vector<ListedOp> list_ops(std::span<const OpRecord> ops) {
  const auto cut = analysis::cut_edges(ops);
  const auto append = [](std::string& cell, const std::string& text) {
    cell += (cell.empty() ? "" : ", ") + text;
  };
  std::vector<ListedOp> listed;
  for (std::size_t k = 0; k < ops.size(); ++k) {
    const OpRecord& op = ops[k];
    ListedOp& row = listed.emplace_back(ListedOp{.name = op.name,
                                                 .module = op.module,
                                                 .index = op.index,
                                                 .reads = {},
                                                 .makes = {},
                                                 .forward = short_number(op.forward),
                                                 .backward = {},
                                                 .constraint = {},
                                                 .cut_edges = {}});
    for (std::size_t i = 0; i < op.inputs.size(); ++i) {
      const OpRecord::Input& input = op.inputs[i];
      append(row.reads, (input.parameter == nullptr ? "" : input.parameter->name + " ") +
                            to_string(input.shape));
      append(row.backward,
             input.is_wanted ? short_number(input.backward) + (cut[k][i] ? "*" : "") : "-");
      append(row.cut_edges, !input.is_wanted ? "-" : cut[k][i] ? "yes" : "no");
    }
    std::string residual;
    for (const OpRecord::Output& output : op.outputs) {
      append(row.makes, to_string(output.shape));
      for (std::size_t i = 0; i < op.inputs.size(); ++i) {
        const double factor = output.gradient_factors[i];
        if (factor == op.inputs[i].backward / op.forward) continue;
        append(residual, short_number(factor));
      }
    }
    if (!residual.empty()) row.backward += " (gradient " + residual + ")";
    if (op.constraint) row.constraint = op.constraint->name;
  }
  return listed;
}

}  // namespace UNIT_SCALING_NAMESPACE::analysis

UNIT_SCALING_IEEE_END
