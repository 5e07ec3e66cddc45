// SPDX-License-Identifier: MIT
// What --report keeps of a training: every tensor at some of its steps.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "any_tape.hpp"
#include "unit_scaling/analysis/numerics_run.hpp"
#include "unit_scaling/analysis/tracker.hpp"
#include "unit_scaling/nn/bert_mlp.hpp"

namespace bert_mlp {

/// Looks at a training without changing a bit of it.
class NumericsRecorder {
 public:
  /// @param first, end the steps of this process, counted from 0.
  /// @param total steps of the whole training, of which it looks at every sixteenth part, and at
  ///        the first and the last.
  /// @param replicas, accumulate the batches of a step, in their order: it looks at the last one of
  ///        the first replica, which is on the same rank however many ranks there are.
  NumericsRecorder(std::size_t first, std::size_t end, std::size_t total, std::size_t replicas,
                   std::size_t accumulate);
  ~NumericsRecorder();

  /// To be called after Tape::clear, before a batch is recorded: number `of_replica` of a replica
  /// in a step.
  void begin_batch(AnyTape& tape, std::size_t step, std::size_t replica, std::size_t of_replica);
  /// To be called when its gradients are there.
  void end_batch(AnyTape& tape);

  /// To be called after the optimiser's step.
  void end_step(AnyTape& tape, us::nn::BertMlp& model);

  /// Puts what it saw into `run`, with the steps of the whole training, counted from 1.
  /// @param found_elsewhere the first tensor that was not finite in a step it did not look at.
  void finish(us::analysis::NumericsRun& run,
              const std::optional<us::analysis::NonFiniteTensor>& found_elsewhere) const;

  /// The first tensor that was not finite in a step that it looked at, counted from 1.
  [[nodiscard]] std::optional<us::analysis::NonFiniteTensor> first_non_finite() const;

 private:
  /// The step, counted from 1, which has the batch of this number on the tape, counted from 1 too.
  [[nodiscard]] std::uint64_t step_of(std::uint64_t batch) const {
    return (batch - 1) / (replicas_ * accumulate_) + 1;
  }

  std::size_t first_;
  std::size_t end_;
  std::size_t every_;
  std::size_t replicas_;
  std::size_t accumulate_;
  std::optional<std::uint64_t> observed_;  ///< the batch of this step that it looks at
  us::analysis::Tracker tracker_;
};

/// Which tensor of the forward pass or, given the loss scale, of both passes is the first that is
/// not finite. Records them on the tape, anew.
[[nodiscard]] std::optional<std::string> first_non_finite_in(AnyTape& tape, const Loss& loss,
                                                             std::optional<float> loss_scale);

}  // namespace bert_mlp
