// SPDX-License-Identifier: MIT
// The machine that a run was measured on.
#pragma once

#include <chrono>
#include <cstddef>
#include <fstream>
#include <string>

#include "ranks.hpp"

namespace bert_mlp {

struct Machine {
  std::string processor = "unknown";
  std::size_t ranks = 1;
  std::size_t threads = 1;  // of each rank
  // The higher of Eigen's and our own float matrix product, of all threads of all ranks.
  double sgemm_gflops = 0;
};

/// All ranks call it, and measure at once.
[[nodiscard]] Machine measure_machine(const Ranks& ranks);

[[nodiscard]] inline double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// Highest resident memory of the process since `reset_peak_memory`, in bytes; 0 if not known.
[[nodiscard]] inline std::size_t peak_memory() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("VmHWM:")) return std::stoull(line.substr(6)) * 1024;
  }
  return 0;
}

/// Lets the next run's peak be its own. Where the kernel refuses, peaks are of the whole process.
inline void reset_peak_memory() { std::ofstream("/proc/self/clear_refs") << 5; }

}  // namespace bert_mlp
