// SPDX-License-Identifier: MIT
// The folder that a run writes its results to, and what it may replace there.
#pragma once

#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <system_error>

#include "options.hpp"

namespace bert_mlp {

/// Fails now rather than after the training: makes the folder and tries to write in it.
/// @throws std::invalid_argument if that cannot be.
inline void require_writable(const std::filesystem::path& folder) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error || !std::filesystem::is_directory(folder) || access(folder.c_str(), W_OK) != 0) {
    throw std::invalid_argument("--out '" + folder.string() + "': cannot write there");
  }
}

/// The folder `wanted`, or `wanted`-2, `wanted`-3 and so on: the first that does not exist, which
/// does then. Two programs at once get two folders.
/// @throws std::invalid_argument if it cannot be made.
inline std::filesystem::path make_new_folder(const std::filesystem::path& wanted) {
  std::error_code error;
  std::filesystem::create_directories(wanted.parent_path(), error);
  for (std::size_t number = 1;; ++number) {
    std::filesystem::path folder = wanted;
    if (number > 1) folder += "-" + std::to_string(number);
    if (std::filesystem::create_directory(folder, error)) return folder;
    if (!std::filesystem::exists(std::filesystem::symlink_status(folder, error))) {
      throw std::invalid_argument("--out '" + folder.string() + "': cannot write there");
    }
  }
}

/// summary.json of a folder, in which nothing is found if there is none or it is of another kind.
inline nlohmann::json summary_in(const std::filesystem::path& folder) {
  std::ifstream file(folder / "summary.json");
  auto summary = nlohmann::json::parse(file, nullptr, false);
  const bool is_summary = summary.is_object() && summary.contains("command") &&
                          summary["command"].is_string() && summary.contains("runs") &&
                          summary["runs"].is_array();
  return is_summary ? summary : nlohmann::json::object();
}

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
  if (!std::filesystem::exists(folder / "summary.json")) return true;
  const auto summary = summary_in(folder);
  return summary.contains("runs") && summary["runs"].size() == 1;
}

/// @throws std::invalid_argument if `folder` holds what the run must not replace.
inline void require_replaceable(const Options& options, const std::filesystem::path& folder) {
  if (options.overwrite || is_folder_of_resumed(options, folder)) return;
  const std::string name = "--out '" + folder.string() + "'";
  if (std::filesystem::exists(folder / "summary.json")) {
    const auto summary = summary_in(folder);
    if (summary.contains("command") &&
        arguments_of(summary["command"].get<std::string>()) == arguments_of(options.command)) {
      return;
    }
    throw std::invalid_argument(name +
                                " holds the results of another command, which its summary.json "
                                "names; give another folder, or --overwrite");
  }
  if (std::filesystem::exists(folder / "checkpoint.safetensors")) {
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
         (variant.simulation.empty() ? "" : "-simulated");
}

/// Chooses and makes the folder for results: the one that --out names, else that of the training
/// which --resume continues, else a new one below runs/.
/// @throws std::invalid_argument if it cannot be written to, or holds what must not be replaced.
inline std::filesystem::path claim_run_folder(const Options& options) {
  std::filesystem::path folder = options.out;
  if (folder.empty() && !options.resume.empty()) {
    folder = options.resume.parent_path();
    if (folder.empty()) folder = ".";
    if (!is_folder_of_resumed(options, folder)) folder.clear();
  }
  if (folder.empty()) {
    return make_new_folder(std::filesystem::path("runs") / default_folder_name(options));
  }
  require_replaceable(options, folder);
  require_writable(folder);
  return folder;
}

}  // namespace bert_mlp
