// SPDX-License-Identifier: MIT
// What --report keeps of a training: every tensor at some of its steps, and what its graph tells.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "unit_scaling/analysis/constraint_check.hpp"
#include "unit_scaling/analysis/graph_trace.hpp"
#include "unit_scaling/analysis/lint.hpp"
#include "unit_scaling/analysis/numerics_run.hpp"
#include "unit_scaling/analysis/op_listing.hpp"
#include "unit_scaling/analysis/tracker.hpp"
#include "unit_scaling/autograd/tape.hpp"
#include "unit_scaling/optim/learning_rate_report.hpp"
#include "unit_scaling/optim/parameter_groups.hpp"

namespace bert_mlp {

namespace us = unit_scaling;

/// Looks at a training without changing a bit of it.
class NumericsRecorder {
 public:
  /// @param first, end the steps of this process, counted from 0.
  /// @param total steps of the whole training, of which it looks at every sixteenth part, and at
  ///        the first and the last.
  /// @param batches that a step records one after another, of which it looks at the last.
  NumericsRecorder(std::size_t first, std::size_t end, std::size_t total, std::size_t batches)
      : first_(first), end_(end), every_(std::max<std::size_t>(2, total / 16)), batches_(batches) {}

  /// To be called after Tape::clear, before the last batch of a step is recorded.
  template <us::Precision P> void begin_step(us::Tape<P>& tape, std::size_t step) {
    if (step == first_ || step + 1 == end_ || (step + 1) % every_ == 0) tracker_.attach(tape);
  }

  /// To be called after the optimiser's step.
  template <us::Precision P, class Model> void end_step(us::Tape<P>& tape, Model& model) {
    tracker_.record_updates(us::optim::parameters_of(model));
    tape.observe_with(nullptr);
  }

  /// Puts what it saw into `run`, with the steps of the whole training, counted from 1.
  /// @param found_elsewhere the first tensor that was not finite in a step it did not look at.
  void finish(us::analysis::NumericsRun& run,
              const std::optional<us::analysis::NonFiniteTensor>& found_elsewhere) const {
    run.tensors = tracker_.tensors();
    for (us::analysis::TrackedTensor& tensor : run.tensors) {
      for (us::analysis::TrackedSample& sample : tensor.samples) sample.step = step_of(sample.step);
    }
    run.first_non_finite = first_non_finite();
    if (!run.first_non_finite) run.first_non_finite = found_elsewhere;
  }

  /// The first tensor that was not finite in a step that it looked at, counted from 1.
  [[nodiscard]] std::optional<us::analysis::NonFiniteTensor> first_non_finite() const {
    auto first = tracker_.first_non_finite();
    if (first) first->step = step_of(first->step);
    return first;
  }

 private:
  /// The step, counted from 1, whose last batch has this number on the tape.
  [[nodiscard]] std::uint64_t step_of(std::uint64_t batch) const { return batch / batches_; }

  std::size_t first_;
  std::size_t end_;
  std::size_t every_;
  std::size_t batches_;
  us::analysis::Tracker tracker_;
};

/// Lists and checks the ops of a model as it is initialised.
/// @param record_loss `record_loss(tape)` records a step and returns its loss.
/// @param optimiser of the model; not used but asked for its learning rates.
template <us::Precision P, class RecordLoss, class Optimiser>
void inspect(us::analysis::NumericsRun& run, const RecordLoss& record_loss,
             const Optimiser& optimiser, double learning_rate) {
  us::Tape<P> tape;
  us::analysis::GraphTrace trace;
  tape.trace_with(trace.tracer());
  const auto loss = record_loss(tape);
  run.ops = us::analysis::list_ops(trace.ops());
  run.constraint_findings = us::analysis::check_constraints(trace.ops(), loss);
  run.lint_findings = us::analysis::lint(
      trace.ops(), {.learning_rates = us::optim::learning_rate_report(optimiser, learning_rate)});
}

/// "storage float16, matrix operands float8_e4m3fn, …"; of a simulation, whose numbers are of other
/// formats, what carries them.
template <us::Precision P> [[nodiscard]] std::string formats_of(bool is_simulated) {
  const std::string storage(us::storage_name<typename P::storage>);
  const std::string compute(us::storage_name<typename P::compute>);
  if (is_simulated) {
    return "those that are simulated, carried by " + storage + ", computed in " + compute;
  }
  return "storage " + storage + ", matrix operands " +
         std::string(us::storage_name<typename P::matmul_operand>) + ", gradients entering them " +
         std::string(us::storage_name<typename P::matmul_gradient>) + ", computed in " + compute;
}

}  // namespace bert_mlp
