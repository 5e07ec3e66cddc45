// SPDX-License-Identifier: MIT
/// @file
/// Layer: benchmarks. What `./dev compare` wrote, on one machine or several, as tables in Markdown.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <tuple>
#include <utility>
#include <vector>

#include "unit_scaling/core/file_error.hpp"

namespace unit_scaling_benchmarks {

/// What `./dev compare` wrote to one file, or lists of several files joined.
struct ComparisonOutput {
  std::string path;  ///< For messages.
  nlohmann::json entries;
};

/// The files FOLDER/*.json, by their names.
/// @throws unit_scaling::FileError if there is none, or one cannot be read or is not JSON
[[nodiscard]] inline std::vector<ComparisonOutput> read_comparison_outputs(
    const std::filesystem::path& folder) {
  std::vector<std::filesystem::path> paths;
  std::error_code error;
  for (std::filesystem::directory_iterator file(folder, error), end; !error && file != end;
       file.increment(error)) {
    if (file->path().extension() == ".json") paths.push_back(file->path());
  }
  if (error) throw unit_scaling::FileError(folder.string(), error.message());
  if (paths.empty()) {
    throw unit_scaling::FileError(folder.string(), "expected a folder with files *.json");
  }
  std::sort(paths.begin(), paths.end());
  std::vector<ComparisonOutput> outputs;
  for (const std::filesystem::path& path : paths) {
    std::ifstream stream(path, std::ios::binary);
    auto entries = nlohmann::json::parse(stream, nullptr, false);
    if (entries.is_discarded()) throw unit_scaling::FileError(path.string(), "expected JSON");
    outputs.push_back({path.string(), std::move(entries)});
  }
  return outputs;
}

namespace detail {

/// Three digits of a positive number, but at most two decimals, and without an exponent.
[[nodiscard]] inline std::string three_digits(double value) {
  const int decimals = value < 9.995 ? 2 : value < 99.95 ? 1 : 0;
  char text[320];  // the digits of the largest number and more
  std::snprintf(text, sizeof text, "%.*f", decimals, value);
  return text;
}

/// A figure of an entry; all are positive.
[[nodiscard]] inline std::string figure(const nlohmann::json& value) {
  const double number = value.get<double>();
  if (!std::isfinite(number) || number <= 0) {
    throw std::invalid_argument("expected a positive number, got " + value.dump());
  }
  return three_digits(number);
}

[[nodiscard]] inline std::string joined(const std::vector<std::string>& texts,
                                        const char* separator = ", ") {
  std::string all;
  for (const std::string& text : texts) all += (all.empty() ? "" : separator) + text;
  return all;
}

[[nodiscard]] inline std::string bytes_text(std::size_t bytes) {
  constexpr std::size_t mebibyte = std::size_t{1} << 20U;
  return bytes % mebibyte == 0 ? std::to_string(bytes / mebibyte) + " MiB"
                               : std::to_string(bytes >> 10U) + " KiB";
}

/// "L1 48 KiB (12 ways), L2 2 MiB (16 ways, shared by 2)".
[[nodiscard]] inline std::string cache_texts(const nlohmann::json& caches) {
  std::vector<std::string> texts;
  for (const nlohmann::json& cache : caches) {
    std::vector<std::string> facts;
    const auto ways = cache.at("ways").get<std::size_t>();
    const auto sharers = cache.at("sharers").get<std::size_t>();
    if (ways > 0) facts.push_back(std::to_string(ways) + " ways");
    if (sharers > 1) facts.push_back("shared by " + std::to_string(sharers));
    texts.push_back("L" + std::to_string(cache.at("level").get<std::size_t>()) + " " +
                    bytes_text(cache.at("bytes").get<std::size_t>()) +
                    (facts.empty() ? "" : " (" + joined(facts) + ")"));
  }
  return texts.empty() ? "caches not known" : joined(texts);
}

/// What one machine reached on one target, under the same conditions.
struct MeasuredTarget {
  nlohmann::json conditions;
  /// Cells of the columns ours, peer and ratio of each row.
  std::map<std::size_t, std::string> cells;
  [[nodiscard]] std::string name() const {
    return conditions.at("target").at("name").get<std::string>();
  }
};

/// All that was measured on one machine.
struct MeasuredMachine {
  nlohmann::json machine;
  std::vector<MeasuredTarget> targets;
  /// Name, peer and unit of each row, in the order in which they come.
  std::vector<std::tuple<std::string, std::string, std::string>> rows;
};

inline void add_entry(std::vector<MeasuredMachine>& machines, const nlohmann::json& entry) {
  const nlohmann::json& conditions = entry.at("measured");
  const nlohmann::json& machine = conditions.at("machine");
  auto on = std::find_if(machines.begin(), machines.end(),
                         [&](const MeasuredMachine& other) { return other.machine == machine; });
  if (on == machines.end()) on = machines.insert(on, MeasuredMachine{machine, {}, {}});

  const auto name = conditions.at("target").at("name").get<std::string>();
  auto target = std::find_if(on->targets.begin(), on->targets.end(),
                             [&](const MeasuredTarget& other) { return other.name() == name; });
  if (target == on->targets.end()) {
    target = on->targets.insert(target, MeasuredTarget{conditions, {}});
  }
  if (target->conditions != conditions) {
    throw std::invalid_argument("the target " + name +
                                " of this machine was also measured under other conditions: "
                                "expected one run for each target of a machine");
  }

  const std::tuple row{entry.at("name").get<std::string>(),
                       entry.at("peer_name").get<std::string>(),
                       entry.at("unit").get<std::string>()};
  const auto place = std::find(on->rows.begin(), on->rows.end(), row);
  const auto number = static_cast<std::size_t>(place - on->rows.begin());
  if (place == on->rows.end()) on->rows.push_back(row);
  const nlohmann::json& quartiles = entry.at("ratio_quartiles");
  const std::string cells = " " + figure(entry.at("ours")) + " | " + figure(entry.at("peer")) +
                            " | " + figure(entry.at("ratio")) + " (" + figure(quartiles.at(0)) +
                            "–" + figure(quartiles.at(1)) + ") |";
  if (!target->cells.emplace(number, cells).second) {
    throw std::invalid_argument("the entry " + std::get<0>(row) + " against " + std::get<1>(row) +
                                " is there twice for the target " + name);
  }
}

/// One line of a list: how a target was measured.
[[nodiscard]] inline std::string target_text(const nlohmann::json& conditions) {
  const nlohmann::json& target = conditions.at("target");
  const auto extensions = target.at("extensions").get<std::vector<std::string>>();
  std::vector<std::string> peers;
  for (const auto& [name, version] : conditions.at("peers").items()) {
    peers.push_back(name + " " + version.get<std::string>());
  }
  std::string text = "- **" + target.at("name").get<std::string>() +
                     "**: " + conditions.at("compiler").get<std::string>() + ", `" +
                     target.at("flags").get<std::string>() +
                     "`: " + (extensions.empty() ? "no extensions" : joined(extensions)) +
                     ". Peers: " + joined(peers) + ". " +
                     std::to_string(conditions.at("rounds").get<std::size_t>()) + " rounds, " +
                     conditions.at("date").get<std::string>();
  if (conditions.contains("commit")) {
    text += ", commit " + conditions.at("commit").get<std::string>();
  }
  const nlohmann::json& before = conditions.at("load_before");
  const nlohmann::json& after = conditions.at("load_after");
  if (!before.is_null() && !after.is_null()) {
    text += ", load average " + three_digits(before.get<double>()) + " before and " +
            three_digits(after.get<double>()) + " after";
  }
  text += ".";
  if (conditions.contains("note")) text += " " + conditions.at("note").get<std::string>() + ".";
  return text + "\n";
}

[[nodiscard]] inline std::string machine_text(const MeasuredMachine& measured) {
  const nlohmann::json& machine = measured.machine;
  std::vector<std::string> facts;
  if (const auto identity = machine.at("identity").get<std::string>(); !identity.empty()) {
    facts.push_back(identity);
  }
  if (const auto count = machine.at("logical_processors").get<std::size_t>(); count > 0) {
    facts.push_back(std::to_string(count) + " logical processors");
  }
  facts.push_back(cache_texts(machine.at("caches")));
  std::string text =
      "### " + machine.at("processor").get<std::string>() + "\n\n" + joined(facts, "; ") + ".\n\n";
  std::string heads = "| entry | peer | unit |";
  std::string rule = "|---|---|---|";
  for (const MeasuredTarget& target : measured.targets) {
    text += target_text(target.conditions);
    heads += " " + target.name() + ": ours | peer | ratio |";
    rule += "---|---|---|";
  }
  text += "\n" + heads + "\n" + rule + "\n";
  for (std::size_t row = 0; row < measured.rows.size(); ++row) {
    const auto& [name, peer, unit] = measured.rows[row];
    text += "| `" + name + "` | " + peer + " | " + unit + " |";
    for (const MeasuredTarget& target : measured.targets) {
      const auto cells = target.cells.find(row);
      text += cells == target.cells.end() ? " | | |" : cells->second;
    }
    text += "\n";
  }
  return text;
}

}  // namespace detail

/// One section for each machine: a heading, what is known of it, how each target was measured, and
/// one table of all entries. The ratio is that of the medians; the quartiles behind it are those of
/// the ratios of single rounds. Cells of what was not measured on a target are empty.
/// @throws unit_scaling::FileError if a file is no list of entries as `./dev compare` writes it, or
///         if a target of a machine was measured in two runs
[[nodiscard]] inline std::string performance_tables(const std::vector<ComparisonOutput>& outputs) {
  std::vector<detail::MeasuredMachine> machines;
  for (const ComparisonOutput& output : outputs) {
    try {
      if (!output.entries.is_array() || output.entries.empty()) {
        throw std::invalid_argument("expected a list of entries");
      }
      for (const nlohmann::json& entry : output.entries) detail::add_entry(machines, entry);
    } catch (const std::exception& error) {  // also of a key that is missing, or a value of a type
      throw unit_scaling::FileError(output.path, error.what());
    }
  }
  std::string text;
  for (const detail::MeasuredMachine& machine : machines) {
    text += (text.empty() ? "" : "\n") + detail::machine_text(machine);
  }
  return text;
}

/// The lines of a document between which the tables stand.
inline constexpr std::string_view tables_begin =
    "<!-- Made by ./dev tables from docs/performance/*.json -->\n";
inline constexpr std::string_view tables_end = "<!-- End of what ./dev tables makes -->\n";

/// The document with `tables` in place of what stands between the two lines.
/// @throws std::invalid_argument if it has not each of them once, in this order
[[nodiscard]] inline std::string with_tables(const std::string& document,
                                             const std::string& tables) {
  const std::size_t begin = document.find(tables_begin);
  const std::size_t end = document.find(tables_end);
  if (begin == std::string::npos || end == std::string::npos || end < begin ||
      document.rfind(tables_begin) != begin || document.rfind(tables_end) != end) {
    throw std::invalid_argument(
        "expected the lines '" + std::string(tables_begin.substr(0, tables_begin.size() - 1)) +
        "' and '" + std::string(tables_end.substr(0, tables_end.size() - 1)) +
        "', each once and in this order");
  }
  return document.substr(0, begin + tables_begin.size()) + "\n" + tables + "\n" +
         document.substr(end);
}

}  // namespace unit_scaling_benchmarks
