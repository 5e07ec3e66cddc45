// SPDX-License-Identifier: MIT
// What sweeps of trainings have in common: some options, and a file that is gone on with.
#pragma once

#include <CLI/CLI.hpp>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>

#include "project_text.hpp"
#include "settings.hpp"
#include "task.hpp"
#include "unit_scaling/core/parallel.hpp"
#include "unit_scaling/train/text_corpus.hpp"

namespace recipe_table {

/// Options of every sweep, with the defaults that the settings have.
inline void add_options(CLI::App& app, Settings& settings) {
  app.add_option("--layers", settings.layers, "Blocks of the model")
      ->capture_default_str()
      ->check(CLI::Range(1, 1 << 10));
  app.add_option("--tokens", settings.tokens, "Characters in a step")
      ->capture_default_str()
      ->check(CLI::Range(64, 1 << 20));
  app.add_option("--unit-lr", settings.unit_rate, "Peak learning rate with unit scaling")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  app.add_option("--threads", settings.threads, "Changes the speed and nothing else")
      ->capture_default_str()
      ->check(CLI::Range(1, 1024));
  app.add_option("--data", settings.data, "Files to train on (default: the project's sources)");
}

/// The text that the settings name. Kernels use as many threads as they say from here on.
inline us::train::TextCorpus corpus_of(Settings& settings) {
  us::set_thread_count(settings.threads);
  if (settings.data.empty()) settings.data = examples::project_files(UNIT_SCALING_SOURCE_DIR);
  return us::train::TextCorpus(us::train::TextCorpus::read_files(settings.data),
                               DecoderTask::window + 1);
}

/// What is in a file of results, or, where there is none, `none` with the settings.
/// @param settings what the trainings have in common, as text.
/// @throws std::invalid_argument if it has other settings, or is no file of results.
[[nodiscard]] inline nlohmann::json results_in(const std::filesystem::path& path,
                                               const std::string& settings, nlohmann::json none) {
  none["settings"] = settings;
  if (!std::filesystem::exists(path)) return none;
  std::ifstream file(path);
  auto there = nlohmann::json::parse(file, nullptr, false);
  const std::string what = "--out: " + path.string();
  bool is_of_results = there.is_object() && there.size() == none.size();
  for (const auto& [key, value] : none.items()) {
    is_of_results = is_of_results && there.contains(key) && there[key].type() == value.type();
  }
  if (!is_of_results) throw std::invalid_argument(what + " is no file of results");
  if (there["settings"] != settings) {
    throw std::invalid_argument(what + " has results of " + there["settings"].get<std::string>() +
                                "; these are of " + settings + "; give another folder");
  }
  return there;
}

}  // namespace recipe_table
