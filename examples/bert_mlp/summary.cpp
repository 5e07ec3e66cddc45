// SPDX-License-Identifier: MIT
#include "summary.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <ios>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "machine.hpp"
#include "options.hpp"
#include "report.hpp"
#include "run_result.hpp"
#include "unit_scaling/core/file_error.hpp"
#include "unit_scaling/core/input_file.hpp"

namespace bert_mlp {

namespace {

/// A number, or null for what was not measured or is not finite.
template <class Number> [[nodiscard]] nlohmann::json json_number(std::optional<Number> value) {
  return value ? nlohmann::json(*value) : nlohmann::json();
}

}  // namespace

std::string summary(const Options& options, const std::vector<RunResult>& runs,
                    const Machine& machine, const RunResult* stopped) {
  nlohmann::json result{{"command", options.command},
                        {"machine",
                         {{"processor", machine.processor},
                          {"ranks", machine.ranks},
                          {"threads", machine.threads},
                          {"sgemm_gflops", machine.sgemm_gflops}}},
                        {"checkpoint", nullptr},
                        {"runs", nlohmann::json::array()}};
  const auto after_step = [](const RunResult& run, std::size_t step) {
    nlohmann::json entry{{"precision", run.variant.precision},
                         {"scaling", run.variant.scaling_name()},
                         {"step", step}};
    if (!run.variant.simulation.empty()) entry["simulation"] = run.variant.simulation;
    if (!run.variant.recipe.empty()) entry["recipe"] = run.variant.recipe;
    return entry;
  };
  const bool saved_stopped = stopped != nullptr && stopped->checkpoint_step;
  if (const RunResult* run = saved_stopped ? stopped : run_of_checkpoint(runs)) {
    result["checkpoint"] = after_step(*run, *run->checkpoint_step);
    result["checkpoint"]["file"] = "checkpoint.safetensors";
    result["checkpoint"]["seed"] = options.seed;
  }
  if (stopped != nullptr) result["stopped"] = after_step(*stopped, stopped->steps);
  for (const RunResult& run : runs) {
    nlohmann::json entry{{"precision", run.variant.precision},
                         {"scaling", run.variant.scaling_name()},
                         {"loss_scale", run.variant.loss_scale},
                         {"learning_rate", run.learning_rate},
                         {"seed", options.seed},
                         {"steps", run.steps},
                         {"valid_bpc", run.valid_bpc},
                         {"measured_steps", run.measured_steps},
                         {"tokens_per_s", nullptr},
                         {"tokens_per_s_quartiles", nullptr},
                         {"parameter_bytes", run.parameter_bytes},
                         {"optimiser_bytes", run.optimiser_bytes},
                         {"saved_bytes", json_number(run.saved_bytes)},
                         {"workspace_bytes", json_number(run.workspace_bytes)},
                         {"peak_rss_bytes", json_number(run.peak_rss_bytes)},
                         {"sgemm_share", json_number(run.sgemm_share)},
                         {"underflowed_gradients", nullptr},
                         {"non_finite_gradients", nullptr}};
    if (run.tokens_per_s) {
      entry["tokens_per_s"] = run.tokens_per_s->median;
      entry["tokens_per_s_quartiles"] = {run.tokens_per_s->lower, run.tokens_per_s->upper};
    }
    if (run.gradients) {
      entry["underflowed_gradients"] = run.gradients->underflowed;
      entry["non_finite_gradients"] = run.gradients->non_finite;
    }
    if (!run.variant.simulation.empty()) entry["simulation"] = run.variant.simulation;
    if (!run.variant.recipe.empty()) entry["recipe"] = run.variant.recipe;
    if (!run.diverged.empty()) entry["diverged"] = run.diverged;
    result["runs"].push_back(std::move(entry));
  }
  return result.dump(2) + "\n";
}

std::optional<EarlierRun> summary_in(const std::filesystem::path& folder) {
  constexpr std::uint64_t most_bytes = 64 << 20;
  std::string text;
  try {
    auto [file, size] = us::detail::open_to_read(folder / "summary.json");
    text.resize(static_cast<std::size_t>(std::min(size, most_bytes)));
    file.seekg(0);
    file.read(text.data(), static_cast<std::streamsize>(text.size()));
  } catch (const us::FileError&) {
    return std::nullopt;
  }
  const auto summary = nlohmann::json::parse(text, nullptr, false);
  const bool is_summary = summary.is_object() && summary.contains("command") &&
                          summary["command"].is_string() && summary.contains("runs") &&
                          summary["runs"].is_array();
  if (!is_summary) return std::nullopt;
  const bool was_stopped = summary.contains("stopped");
  return EarlierRun{summary["command"].get<std::string>(),
                    summary["runs"].size() + (was_stopped ? 1 : 0), was_stopped};
}

}  // namespace bert_mlp
