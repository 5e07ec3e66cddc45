// SPDX-License-Identifier: MIT
#include "numerics.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "any_tape.hpp"
#include "unit_scaling/analysis/numerics_run.hpp"
#include "unit_scaling/analysis/tracker.hpp"
#include "unit_scaling/nn/bert_mlp.hpp"
#include "unit_scaling/optim/parameter_groups.hpp"

namespace bert_mlp {

NumericsRecorder::NumericsRecorder(std::size_t first, std::size_t end, std::size_t total,
                                   std::size_t replicas, std::size_t accumulate)
    : first_(first),
      end_(end),
      every_(std::max<std::size_t>(2, total / 16)),
      replicas_(replicas),
      accumulate_(accumulate) {}

NumericsRecorder::~NumericsRecorder() = default;

void NumericsRecorder::begin_batch(AnyTape& tape, std::size_t step, std::size_t replica,
                                   std::size_t of_replica) {
  if (replica != 0 || of_replica + 1 != accumulate_) return;
  if (step == first_ || step + 1 == end_ || (step + 1) % every_ == 0) {
    tracker_.attach(tape);
    observed_ = tape.step();
  }
}

void NumericsRecorder::end_batch(AnyTape& tape) {
  if (observed_) tape.observe_with(nullptr);
}

void NumericsRecorder::end_step(AnyTape& tape, us::nn::BertMlp& model) {
  if (!observed_) return;
  if (tape.step() != *observed_) tape.set_step(*observed_);  // other batches have followed
  tracker_.record_updates(us::optim::parameters_of(model));
  observed_.reset();
}

void NumericsRecorder::finish(
    us::analysis::NumericsRun& run,
    const std::optional<us::analysis::NonFiniteTensor>& found_elsewhere) const {
  run.tensors = tracker_.tensors();
  for (us::analysis::TrackedTensor& tensor : run.tensors) {
    for (us::analysis::TrackedSample& sample : tensor.samples) sample.step = step_of(sample.step);
  }
  run.first_non_finite = first_non_finite();
  if (!run.first_non_finite) run.first_non_finite = found_elsewhere;
}

std::optional<us::analysis::NonFiniteTensor> NumericsRecorder::first_non_finite() const {
  auto first = tracker_.first_non_finite();
  if (first) first->step = step_of(first->step);
  return first;
}

std::optional<std::string> first_non_finite_in(AnyTape& tape, const Loss& loss,
                                               std::optional<float> loss_scale) {
  us::analysis::Tracker tracker({.updates = false});
  tape.clear();
  tracker.attach(tape);
  tape.record(loss);
  if (loss_scale) tape.backward(*loss_scale);
  tape.observe_with(nullptr);
  const auto first = tracker.first_non_finite();
  if (!first) return std::nullopt;
  return first->name;
}

}  // namespace bert_mlp
