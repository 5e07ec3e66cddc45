// SPDX-License-Identifier: MIT
// What the trainings gave: a file that a sweep adds to, and the table made of it.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "method.hpp"
#include "settings.hpp"
#include "sweep.hpp"
#include "unit_scaling/analysis/quantile.hpp"
#include "unit_scaling/core/atomic_file.hpp"

namespace recipe_table {

/// The trainings that are done, in a file that a sweep which was stopped goes on with.
class Results {
 public:
  /// Reads what is in the file, if there is one.
  /// @param settings what the trainings have in common, as text.
  /// @throws std::invalid_argument if it has other settings, or is no file of results.
  Results(std::filesystem::path path, const std::string& settings)
      : path_(std::move(path)),
        document_(results_in(path_, settings, {{"runs", nlohmann::json::array()}})) {}

  [[nodiscard]] bool has(Model model, const Method& method, std::uint64_t seed) const {
    return std::any_of(document_["runs"].begin(), document_["runs"].end(), [&](const auto& run) {
      return run["model"] == to_string(model) && run["method"] == method.name &&
             run["seed"] == seed;
    });
  }

  void add(Model model, const Method& method, std::uint64_t seed, const Figures& figures) {
    const bool is_finite = std::isfinite(figures.bits_per_character);
    document_["runs"].push_back(
        {{"model", to_string(model)},
         {"method", method.name},
         {"seed", seed},
         {"bits_per_character",
          is_finite ? nlohmann::json(figures.bits_per_character) : nlohmann::json()},
         {"tokens_per_second", figures.tokens_per_second},
         {"parameter_bytes", figures.parameter_bytes},
         {"optimiser_bytes", figures.optimiser_bytes},
         {"saved_bytes", figures.saved_bytes},
         {"checkpoint_numbers", figures.checkpoint_numbers}});
    unit_scaling::write_file(path_, document_.dump(1) + "\n");
  }

  /// A Markdown table of a model: a row for each method that has runs.
  [[nodiscard]] std::string table(Model model) const {
    std::string text =
        "| method | bits per character | diverged | tokens/s | parameters | moments | saved for "
        "backward | more in a checkpoint | more passes over memory | chosen |\n"
        "|---|---|---|---|---|---|---|---|---|---|\n";
    for (const Method& method : methods) {
      std::vector<double> bits;
      std::vector<double> rates;
      std::size_t diverged = 0;
      nlohmann::json last;
      for (const auto& run : document_["runs"]) {
        if (run["model"] != to_string(model) || run["method"] != method.name) continue;
        last = run;
        rates.push_back(run["tokens_per_second"]);
        if (run["bits_per_character"].is_null()) {
          ++diverged;
        } else {
          bits.push_back(run["bits_per_character"]);
        }
      }
      if (last.is_null()) continue;
      text += "| " + std::string(method.name) + " | " + mean_and_error(bits) + " | " +
              std::to_string(diverged) + " of " + std::to_string(rates.size()) + " | " +
              number("%.0f", unit_scaling::analysis::median(rates)) + " | " +
              mebibytes(last["parameter_bytes"]) + " | " + mebibytes(last["optimiser_bytes"]) +
              " | " + mebibytes(last["saved_bytes"]) + " | " +
              std::to_string(last["checkpoint_numbers"].get<std::size_t>()) + " numbers | " +
              std::string(method.extra_passes) + " | " + std::string(method.chosen) + " |\n";
    }
    return text;
  }

 private:
  [[nodiscard]] static std::string number(const char* pattern, double value) {
    char text[64];
    std::snprintf(text, sizeof(text), pattern, value);
    return text;
  }
  [[nodiscard]] static std::string mebibytes(const nlohmann::json& bytes) {
    return number("%.2f MiB", bytes.get<double>() / 0x1p20);
  }
  /// "2.345 ± 0.006": the mean and its standard error.
  [[nodiscard]] static std::string mean_and_error(const std::vector<double>& values) {
    if (values.empty()) return "-";
    const auto count = static_cast<double>(values.size());
    double mean = 0;
    for (const double value : values) mean += value / count;
    if (values.size() == 1) return number("%.3f", mean);
    double squares = 0;
    for (const double value : values) squares += (value - mean) * (value - mean);
    return number("%.3f", mean) + number(" ± %.3f", std::sqrt(squares / (count - 1) / count));
  }

  std::filesystem::path path_;
  nlohmann::json document_;
};

}  // namespace recipe_table
