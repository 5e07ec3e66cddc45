// SPDX-License-Identifier: MIT
// Which folder a run writes its results to, and what it may replace there.
#pragma once

#include <algorithm>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <system_error>

#include "one_line.hpp"
#include "options.hpp"
#include "summary.hpp"
#include "unit_scaling/core/file_error.hpp"
#include "unit_scaling/train/run_folder.hpp"

namespace bert_mlp {

/// A command without its first word, the program: one program has many paths.
inline std::string arguments_of(const std::string& command) {
  const std::size_t space = command.find(' ');
  return space == std::string::npos ? "" : command.substr(space + 1);
}

/// Whether `folder` is that of the training which --resume continues, and of no other: then the
/// results there become those of the whole training. The folder of a comparison is not.
inline bool is_folder_of_resumed(const Options& options, const std::filesystem::path& folder) {
  if (options.resume.empty()) return false;
  std::error_code error;
  const auto holder = std::filesystem::absolute(options.resume, error).parent_path();
  if (!std::filesystem::equivalent(holder, folder, error)) return false;
  if (!std::filesystem::exists(folder / "summary.json", error)) return true;
  const auto summary = summary_in(folder);
  return summary && summary->runs == 1;
}

/// Whether the folder for results has those of all trainings of the same command: what a part of
/// them gives is there already.
inline bool has_results_of_all(const Options& options) {
  const auto summary = summary_in(options.out);
  return summary && !summary->was_stopped &&
         arguments_of(summary->command) == arguments_of(options.command);
}

/// @throws std::invalid_argument if `folder` holds what the run must not replace.
inline void require_replaceable(const Options& options, const std::filesystem::path& folder) {
  if (options.overwrite || is_folder_of_resumed(options, folder)) return;
  const std::string name = "--out " + quoted_path(folder.string());
  std::error_code error;
  if (std::filesystem::exists(folder / "summary.json", error)) {
    const auto summary = summary_in(folder);
    if (summary && arguments_of(summary->command) == arguments_of(options.command)) return;
    throw std::invalid_argument(name +
                                " holds the results of another command, which its summary.json "
                                "names; give another folder, or --overwrite");
  }
  if (std::filesystem::exists(folder / "checkpoint.safetensors", error)) {
    throw std::invalid_argument(name +
                                " holds the checkpoint of a run that did not end; go on with "
                                "--resume, or give another folder or --overwrite");
  }
}

/// "fp8-unit", "compare": what the folder of a run is called unless the user says.
inline std::string default_folder_name(const Options& options) {
  if (options.loss_scale_window) return "loss-scale-window";
  if (options.sweep_bits > 0) return "format-sweep-" + std::to_string(options.sweep_bits);
  const Variant& variant = options.variants.back();
  const bool is_compared =
      std::count_if(options.variants.begin(), options.variants.end(),
                    [&](const Variant& each) { return each.simulation == variant.simulation; }) > 1;
  if (is_compared) return "compare";
  return variant.precision + "-" + variant.scaling_name() +
         (variant.recipe.empty() ? "" : "-" + variant.recipe) +
         (variant.simulation.empty() ? "" : "-simulated");
}

/// Chooses and takes the folder for results: the one that --out names, else that of the training
/// which --resume continues, else a new one below runs/.
/// @throws std::invalid_argument if it cannot be written to, is another run's, or holds what must
///         not be replaced.
inline us::train::RunFolder claim_run_folder(const Options& options) {
  using us::train::RunFolder;
  std::filesystem::path path = options.out;
  if (path.empty() && !options.resume.empty()) {
    path = options.resume.parent_path();
    if (path.empty()) path = ".";
    if (!is_folder_of_resumed(options, path)) path.clear();
  }
  const bool is_named = !path.empty();
  try {
    RunFolder folder =
        is_named
            ? RunFolder::take(path)
            : RunFolder::take_new(std::filesystem::path("runs") / default_folder_name(options));
    // Only now, as another run may have put its results there until it let the folder go.
    if (is_named) require_replaceable(options, path);
    folder.require_writable("checkpoint.safetensors");
    return folder;
  } catch (const us::FileError& error) {
    throw std::invalid_argument(std::string("--out ") + error.what());
  }
}

}  // namespace bert_mlp
