// SPDX-License-Identifier: MIT
/// @file
/// Layer analysis: the ops of one step, and who reads what.
#pragma once

#include <cstddef>
#include <map>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "unit_scaling/autograd/op_record.hpp"
#include "unit_scaling/autograd/parameter.hpp"
#include "unit_scaling/core/target.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::analysis {

/// Collects the ops of one step:
/// `GraphTrace trace; tape.trace_with(trace.tracer());` before the step is recorded.
class GraphTrace {
 public:
  /// To be given to one tape; the trace must outlive its use.
  [[nodiscard]] auto tracer() {
    return [this](const OpRecord& op) { ops_.push_back(op); };
  }

  /// In the order in which they were recorded.
  [[nodiscard]] const std::vector<OpRecord>& ops() const& { return ops_; }
  const std::vector<OpRecord>& ops() const&& = delete;

  /// Forgets them, to be called between two steps: values are numbered anew in each, so that what
  /// reads a trace of several refuses it.
  void clear() { ops_.clear(); }

 private:
  std::vector<OpRecord> ops_;
};

/// Where a value is read: the op's place in the graph, and which of its inputs.
struct Reader {
  std::size_t op;
  std::size_t input;
};

/// Where a value is made: the op's place in the graph, and which of its outputs.
struct Maker {
  std::size_t op;
  std::size_t output;
};

/// A list of ops as a graph. Edges that no gradient passes, those of constants, are not in it.
class Graph {
 public:
  /// @param ops of one step, in order; they must stay in place.
  /// @throws std::invalid_argument if there are none; if they are of two steps or two tapes, if a
  ///         value is made twice or read before it is made, or if an op's gradient factors are not
  ///         one for each input.
  explicit Graph(std::span<const OpRecord> ops) : ops_(ops) {
    if (ops.empty()) {
      throw std::invalid_argument(
          "Graph: no ops were traced; call tape.trace_with(trace.tracer()) before the step is "
          "recorded");
    }
    const auto refuse = [](const OpRecord& op, const std::string& why) {
      throw std::invalid_argument("Graph: expected the ops of one step, got a " + op.name + " " +
                                  why);
    };
    for (std::size_t k = 0; k < ops.size(); ++k) {
      const OpRecord& op = ops[k];
      if (op.recording != ops.front().recording) {
        refuse(op, "of another; clear the trace between steps");
      }
      for (std::size_t i = 0; i < op.inputs.size(); ++i) {
        if (op.inputs[i].is_wanted) readers_[op.inputs[i].value].push_back({k, i});
      }
      for (std::size_t i = 0; i < op.outputs.size(); ++i) {
        const OpRecord::Output& output = op.outputs[i];
        if (output.gradient_factors.size() != op.inputs.size()) {
          refuse(op, "without a gradient factor for each input");
        }
        if (!makers_.try_emplace(output.value, Maker{k, i}).second) {
          refuse(op, "that makes a value made before");
        }
        if (readers_.contains(output.value)) refuse(op, "that makes a value read before");
      }
    }
  }

  [[nodiscard]] std::span<const OpRecord> ops() const { return ops_; }

  /// Who reads the value, in the order of the ops.
  [[nodiscard]] std::span<const Reader> readers(std::size_t value) const& {
    const auto found = readers_.find(value);
    return found == readers_.end() ? std::span<const Reader>() : found->second;
  }
  std::span<const Reader> readers(std::size_t value) const&& = delete;

  /// Every value that somebody reads.
  [[nodiscard]] const std::map<std::size_t, std::vector<Reader>>& read_values() const& {
    return readers_;
  }
  [[nodiscard]] std::map<std::size_t, std::vector<Reader>> read_values() const&& {
    return readers_;
  }

  /// Who makes the value; nothing for a parameter or an input.
  [[nodiscard]] std::optional<Maker> maker(std::size_t value) const {
    const auto found = makers_.find(value);
    return found == makers_.end() ? std::nullopt : std::optional(found->second);
  }

  /// The parameter whose value it is; null for other values.
  [[nodiscard]] const Parameter* parameter(std::size_t value) const {
    const auto reads = readers(value);
    return reads.empty() ? nullptr : ops_[reads.front().op].inputs[reads.front().input].parameter;
  }

  /// "op 3, linear of blocks.0.up", for people.
  [[nodiscard]] std::string op_text(std::size_t op) const {
    const OpRecord& record = ops_[op];
    return "op " + std::to_string(op) + ", " + record.name +
           (record.module.empty() ? "" : " of " + record.module);
  }

  /// "parameter tokens.table", "the value of op 3, …" or "an input", for people.
  [[nodiscard]] std::string value_text(std::size_t value) const {
    if (const Parameter* found = parameter(value)) return "parameter " + found->name;
    const auto made = maker(value);
    if (!made) return "an input";
    const bool is_only = ops_[made->op].outputs.size() == 1;
    return (is_only ? "the value" : "value " + std::to_string(made->output)) + " of " +
           op_text(made->op);
  }

 private:
  std::span<const OpRecord> ops_;
  std::map<std::size_t, std::vector<Reader>> readers_;
  std::map<std::size_t, Maker> makers_;
};

}  // namespace UNIT_SCALING_NAMESPACE::analysis

UNIT_SCALING_IEEE_END
