// SPDX-License-Identifier: MIT
/// @file
/// Layer: benchmarks. The program behind `./dev compare`: ours against every peer found on the
/// machine, in one run and on one thread.
///
/// The two sides take turns, for the noise of a machine (its clock, its neighbours, what others
/// compile on it) changes over seconds: whatever slows a round of ours most likely slows the
/// peer's round next to it. Each side's figure is the median of its rounds.

#include <dlfcn.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <exception>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <regex>
#include <stdexcept>
#include <string>
#include <vector>

#include "comparison.hpp"
#include "median.hpp"

namespace {

using unit_scaling_benchmarks::Comparison;
using unit_scaling_benchmarks::comparisons;
using unit_scaling_benchmarks::median;
using unit_scaling_benchmarks::Sides;

struct Options {
  std::string out;
  std::string filter;
  std::size_t rounds = 11;
  bool list = false;
};

/// Medians, in the unit of the entry.
struct Rates {
  double ours;
  double peer;
  [[nodiscard]] double ratio() const { return ours / peer; }
};

/// Binds peers that bring OpenMP to one thread. A call rather than OMP_NUM_THREADS, which the
/// runtime read before main(); looked up, for this program itself is built without OpenMP, and
/// which runtime a peer brought is the peer's affair.
void use_one_thread() {
  if (void* symbol = dlsym(RTLD_DEFAULT, "omp_set_num_threads"); symbol != nullptr) {
    reinterpret_cast<void (*)(int)>(symbol)(1);
  }
}

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
  std::vector<double> ours;
  std::vector<double> peer;
  for (std::size_t round = 0; round < rounds; ++round) {
    ours.push_back(seconds_of(sides.ours, our_calls, clock) / static_cast<double>(our_calls));
    peer.push_back(seconds_of(sides.peer, peer_calls, clock) / static_cast<double>(peer_calls));
  }
  return {comparison.work_per_call / median(ours), comparison.work_per_call / median(peer)};
}

std::vector<const Comparison*> chosen(const std::string& filter) {
  const std::regex pattern(filter);
  std::vector<const Comparison*> result;
  for (const Comparison& comparison : comparisons()) {
    if (std::regex_search(comparison.name, pattern)) result.push_back(&comparison);
  }
  return result;
}

/// What else runs on the machine, so that a reader can tell how far to trust the figures.
void print_load(const char* when) {
  double load = 0;
  if (getloadavg(&load, 1) == 1) {
    std::printf("load average of the last minute, %s: %.2f (%ld processors)\n", when, load,
                sysconf(_SC_NPROCESSORS_ONLN));
  }
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
  std::ofstream out;
  if (!options.out.empty()) {
    out.open(options.out);
    if (!out) throw std::runtime_error("cannot write " + options.out);
  }

  use_one_thread();
  print_load("before");
  std::printf("%-*s %9s %9s %7s  %-8s %s\n", static_cast<int>(width), "name", "ours", "peer",
              "ratio", "unit", "peer's name");
  auto report = nlohmann::json::array();
  for (const Comparison* entry : entries) {
    const Rates rates = measure(*entry, options.rounds);
    std::printf("%-*s %9.3f %9.3f %7.3f  %-8s %s\n", static_cast<int>(width), entry->name.c_str(),
                rates.ours, rates.peer, rates.ratio(), entry->unit.c_str(),
                entry->peer_name.c_str());
    std::fflush(stdout);
    report.push_back({{"name", entry->name},
                      {"ours", rates.ours},
                      {"peer", rates.peer},
                      {"peer_name", entry->peer_name},
                      {"unit", entry->unit},
                      {"ratio", rates.ratio()}});
  }
  print_load("after");
  if (out.is_open()) {
    out << report.dump(2) << '\n';
    out.close();
    if (!out) throw std::runtime_error("cannot write " + options.out);
  }
}

}  // namespace

int main(int argc, char** argv) try {
  Options options;
  CLI::App app(
      "Ours against every peer found on this machine; a ratio above 1 says ours is faster.");
  app.add_option("--out", options.out, "Write the figures to this file, as JSON");
  app.add_option("--filter", options.filter,
                 "Only entries whose name this regular expression finds");
  app.add_option("--rounds", options.rounds, "Rounds of each side, of which the median counts")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_flag("--list", options.list, "Only list the entries");
  CLI11_PARSE(app, argc, argv);
  run(options);
  return EXIT_SUCCESS;
} catch (const std::exception& error) {
  std::fprintf(stderr, "unit_scaling_compare: %s\n", error.what());
  return EXIT_FAILURE;
}
