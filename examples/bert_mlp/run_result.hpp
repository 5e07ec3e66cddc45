// SPDX-License-Identifier: MIT
// What a training leaves to be told.
#pragma once

#include <cstddef>
#include <exception>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "options.hpp"
#include "record.hpp"
#include "unit_scaling/analysis/gradient_underflow.hpp"
#include "unit_scaling/analysis/numerics_run.hpp"

namespace bert_mlp {

struct Quartiles {
  double lower;
  double median;
  double upper;
};

/// What became of a variant. Empty: not measured.
struct RunResult {
  Variant variant;
  double learning_rate = 0;
  std::size_t steps = 0;
  std::size_t measured_steps = 0;  // those of this process, not of the one it continues
  std::vector<Point> points;
  // At the end, on all of the held-out text. NaN also if it diverged.
  double valid_bpc = std::numeric_limits<double>::quiet_NaN();
  std::optional<Quartiles> tokens_per_s;   // of training steps, each a value
  std::optional<double> sgemm_share;       // of the machine's sgemm rate, by the median whole step
  std::size_t parameter_bytes = 0;         // master copies
  std::size_t optimiser_bytes = 0;         // moments or momentum, and sums of gradients
  std::optional<std::size_t> saved_bytes;  // between forward and backward pass
  std::optional<std::size_t> workspace_bytes;  // that the tape holds beyond those
  std::optional<std::size_t> peak_rss_bytes;
  std::optional<us::analysis::GradientUnderflow> gradients;  // against fp32, so not of fp32
  std::optional<std::size_t> checkpoint_step;                // of the last checkpoint saved
  std::optional<us::analysis::NumericsRun> numerics;         // with --report
  std::string unsaved;   // empty, or why the last checkpoint is not written
  std::string diverged;  // empty, or at which step and which tensor was the first not finite
};

/// What a training throws that was asked to stop.
struct Interrupted : std::exception {
  Interrupted(RunResult stopped, bool is_saved) : run(std::move(stopped)), saves(is_saved) {}
  [[nodiscard]] const char* what() const noexcept override { return "interrupted"; }

  RunResult run;  // up to where it stopped
  bool saves;     // whether the checkpoint is of this training
};

}  // namespace bert_mlp
