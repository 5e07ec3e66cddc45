// SPDX-License-Identifier: MIT
/// @file
/// Layer: benchmarks. The program behind `./dev compare`: ours against every peer found on the
/// machine, in one run and on one thread.
///
/// The two sides take turns, for the noise of a machine (its clock, its neighbours, what others
/// compile on it) changes over seconds: whatever slows a round of ours most likely slows the
/// peer's round next to it. Each side's figure is the median of its rounds. The output is a list of
/// entries, each with the conditions that it was measured under, so that lists can be joined and
/// cut.

#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <exception>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <regex>
#include <span>
#include <string>
#include <vector>

#include "comparison.hpp"
#include "conditions.hpp"
#include "peer_libraries.hpp"
#include "unit_scaling/analysis/quantile.hpp"
#include "unit_scaling/core/atomic_file.hpp"

namespace {

using unit_scaling::analysis::quantile;
using unit_scaling_benchmarks::Comparison;
using unit_scaling_benchmarks::comparisons;
using unit_scaling_benchmarks::Sides;

struct Options {
  std::string out;
  std::string filter;
  std::string note;
  std::string commit;
  std::size_t rounds = 11;
  bool list = false;
};

/// What the rounds of an entry gave.
struct Spread {
  double median;
  double lower_quartile;
  double upper_quartile;

  explicit Spread(const std::vector<double>& values)
      : median(quantile(values, 0.5)),
        lower_quartile(quantile(values, 0.25)),
        upper_quartile(quantile(values, 0.75)) {}
  [[nodiscard]] nlohmann::ordered_json quartiles() const {
    return {lower_quartile, upper_quartile};
  }
};

struct Rates {
  Spread ours;    ///< In the unit of the entry.
  Spread peer;    ///< The same.
  Spread ratios;  ///< Of each round of ours and the peer's round next to it.
  [[nodiscard]] double ratio() const { return ours.median / peer.median; }
};

double now(clockid_t clock) {
  timespec time{};
  clock_gettime(clock, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

double seconds_of(const std::function<void()>& call, std::size_t calls, clockid_t clock) {
  const double start = now(clock);
  for (std::size_t i = 0; i < calls; ++i) call();
  return now(clock) - start;
}

/// How many calls make a round long enough to time. Finding out also warms up caches, branch
/// predictors and lazily made buffers.
std::size_t calls_per_round(const std::function<void()>& call, clockid_t clock) {
  constexpr double round_seconds = 0.02;
  call();
  std::size_t calls = 1;
  for (;;) {
    const double seconds = seconds_of(call, calls, clock);
    if (seconds >= round_seconds) return calls;
    // Aims a little beyond, and at most at tenfold, for a short measurement is an inexact one.
    const double wanted =
        std::ceil(1.1 * static_cast<double>(calls) * round_seconds / std::max(seconds, 1e-9));
    calls = std::min(10 * calls, std::max(calls + 1, static_cast<std::size_t>(wanted)));
  }
}

Rates measure(const Comparison& comparison, std::size_t rounds) {
  const Sides sides = comparison.prepare();
  const clockid_t clock = comparison.is_threaded ? CLOCK_MONOTONIC : CLOCK_THREAD_CPUTIME_ID;
  const std::size_t our_calls = calls_per_round(sides.ours, clock);
  const std::size_t peer_calls = calls_per_round(sides.peer, clock);
  const auto rate = [&](const std::function<void()>& side, std::size_t calls) {
    return comparison.work_per_call * static_cast<double>(calls) / seconds_of(side, calls, clock);
  };
  std::vector<double> ours;
  std::vector<double> peer;
  std::vector<double> ratios;
  for (std::size_t round = 0; round < rounds; ++round) {
    ours.push_back(rate(sides.ours, our_calls));
    peer.push_back(rate(sides.peer, peer_calls));
    ratios.push_back(ours.back() / peer.back());
  }
  return {Spread(ours), Spread(peer), Spread(ratios)};
}

std::vector<const Comparison*> chosen(const std::string& filter) {
  const std::regex pattern(filter);
  std::vector<const Comparison*> result;
  for (const Comparison& comparison : comparisons()) {
    if (std::regex_search(comparison.name, pattern)) result.push_back(&comparison);
  }
  return result;
}

/// What else runs on the machine, so that a reader can tell how far to trust the figures: the load
/// average of the last minute, which is also printed. Null if the system does not tell.
nlohmann::ordered_json load(const char* when) {
  double load = 0;
  if (getloadavg(&load, 1) != 1) return nullptr;
  std::printf("load average of the last minute, %s: %.2f (%ld processors)\n", when, load,
              sysconf(_SC_NPROCESSORS_ONLN));
  return load;
}

/// One entry a line, for people compare such files.
std::string text_of(const nlohmann::ordered_json& report) {
  std::string text = "[";
  for (const nlohmann::ordered_json& entry : report) {
    text += (text.size() == 1 ? "\n" : ",\n") + entry.dump();
  }
  return text + "\n]\n";
}

void run(const Options& options) {
  const auto entries = chosen(options.filter);
  std::size_t width = 4;
  for (const Comparison* entry : entries) width = std::max(width, entry->name.size());
  if (options.list) {
    for (const Comparison* entry : entries) {
      std::printf("%-*s  %s\n", static_cast<int>(width), entry->name.c_str(),
                  entry->peer_name.c_str());
    }
    return;
  }

  // Opened first: minutes of measurements should not end at a folder that does not exist.
  std::optional<unit_scaling::AtomicFile> out;
  if (!options.out.empty()) out.emplace(options.out);

  unit_scaling_benchmarks::bind_peers();
  nlohmann::ordered_json measured = unit_scaling_benchmarks::conditions();
  measured["rounds"] = options.rounds;
  if (!options.commit.empty()) measured["commit"] = options.commit;
  if (!options.note.empty()) measured["note"] = options.note;
  measured["load_before"] = load("before");
  std::printf("%-*s %9s %9s %7s  %-13s  %-8s %s\n", static_cast<int>(width), "name", "ours", "peer",
              "ratio", "quartiles", "unit", "peer's name");
  auto report = nlohmann::ordered_json::array();
  for (const Comparison* entry : entries) {
    const Rates rates = measure(*entry, options.rounds);
    std::printf("%-*s %9.3f %9.3f %7.3f  %5.3f - %5.3f  %-8s %s\n", static_cast<int>(width),
                entry->name.c_str(), rates.ours.median, rates.peer.median, rates.ratio(),
                rates.ratios.lower_quartile, rates.ratios.upper_quartile, entry->unit.c_str(),
                entry->peer_name.c_str());
    std::fflush(stdout);
    report.push_back({{"name", entry->name},
                      {"ours", rates.ours.median},
                      {"ours_quartiles", rates.ours.quartiles()},
                      {"peer", rates.peer.median},
                      {"peer_quartiles", rates.peer.quartiles()},
                      {"peer_name", entry->peer_name},
                      {"unit", entry->unit},
                      {"ratio", rates.ratio()},
                      {"ratio_quartiles", rates.ratios.quartiles()}});
  }
  measured["load_after"] = load("after");
  for (nlohmann::ordered_json& entry : report) entry["measured"] = measured;
  if (out) {
    const std::string text = text_of(report);
    out->append(std::as_bytes(std::span(text)));
    out->finish();
  }
}

}  // namespace

int main(int argc, char** argv) try {
  Options options;
  CLI::App app(
      "Ours against every peer found on this machine; a ratio above 1 says ours is faster. The two "
      "sides take turns; figures are medians of their rounds, quartiles those of the ratios of "
      "rounds.");
  app.footer(
      "./dev compare --preset PRESET, before all other options, builds with another preset of "
      "CMakePresets.json\nand writes build/PRESET/compare.json. Peers are held to the instructions "
      "of the target: --preset haswell\nis a comparison under AVX2. The JSON is a list of entries. "
      "Each has the conditions that it was measured\nunder: processor, caches, target, compiler, "
      "versions of the peers, date, commit, rounds, load.\n./dev tables makes the tables of "
      "docs/performance.md from such files in docs/performance/.");
  // ./dev compare gives one first.
  app.add_option("--out", options.out, "Write the figures to this file, as JSON")->take_last();
  app.add_option("--filter", options.filter,
                 "Only entries whose name this regular expression finds");
  app.add_option("--rounds", options.rounds, "Rounds of each side, of which the median counts")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--note", options.note,
                 "What readers should know of the machine, such as who else used it");
  app.add_option(
         "--commit", options.commit,
         "What is measured; ./dev compare gives the commit of git, with + if files have changed")
      ->take_last();
  app.add_flag("--list", options.list, "Only list the entries");
  CLI11_PARSE(app, argc, argv);
  run(options);
  return EXIT_SUCCESS;
} catch (const std::exception& error) {
  std::fprintf(stderr, "unit_scaling_compare: %s\n", error.what());
  return EXIT_FAILURE;
}
