// SPDX-License-Identifier: MIT
// The figures of a run for programs: summary.json.
#pragma once

#include <cstddef>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "machine.hpp"
#include "options.hpp"
#include "run_result.hpp"

namespace bert_mlp {

/// {"command", "machine", "checkpoint", "runs": [...]}. What was not measured or is not finite is
/// null. `tokens_per_s` is the rate of the median training step, `tokens_per_s_quartiles` those of
/// the steps at the lower and the upper quartile. What a run takes of memory is `parameter_bytes`
/// (float master copies), `optimiser_bytes`, `saved_bytes` (what the backward pass needs, after the
/// forward pass) and `workspace_bytes` (what the tape holds beyond that: values, gradients, those
/// of parameters included, and its records, but not what validation takes); `peak_rss_bytes` is the
/// whole process's peak while it trained. On several ranks these are of rank 0. `machine` has the
/// threads of each rank, and the `sgemm_gflops` of all. `checkpoint` says which of the models
/// checkpoint.safetensors holds; null if this command saved none. `simulation` is there where there
/// was one, and `stopped` where Ctrl-C came before the last training had ended: the one that it
/// stopped, and after which step.
/// @param runs that ended.
/// @param stopped null if all did.
[[nodiscard]] std::string summary(const Options& options, const std::vector<RunResult>& runs,
                                  const Machine& machine, const RunResult* stopped = nullptr);

/// What must be known of a run that has left its summary.
struct EarlierRun {
  std::string command;
  std::size_t runs;  // with the one that was stopped
  bool was_stopped;
};

/// What summary.json of a folder says; empty if there is none or it is of another kind.
[[nodiscard]] std::optional<EarlierRun> summary_in(const std::filesystem::path& folder);

}  // namespace bert_mlp
