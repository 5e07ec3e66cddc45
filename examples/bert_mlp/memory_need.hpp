// SPDX-License-Identifier: MIT
// Whether the sizes that the user gave can fit in memory, and which to change if not.
#pragma once

#include <sys/resource.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <stdexcept>
#include <string>

#include "options.hpp"

namespace bert_mlp {

/// The number after `key` in a file of lines "key: number", in the file's units; infinite if there
/// is none.
[[nodiscard]] inline double number_in(const char* file, const std::string& key) {
  std::ifstream lines(file);
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with(key)) return std::strtod(line.c_str() + key.size(), nullptr);
  }
  return std::numeric_limits<double>::infinity();
}

/// Bytes that the process may have beside what it has, as far as the system tells: of memory that
/// is not taken, of swap, and of a limit that was set for it.
[[nodiscard]] inline double available_memory() {
  double bytes = 1024 * (number_in("/proc/meminfo", "MemAvailable:") +
                         number_in("/proc/meminfo", "SwapFree:"));
  rlimit limit{};
  if (getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY) {
    const double taken = 1024 * number_in("/proc/self/status", "VmSize:");
    const double rest = static_cast<double>(limit.rlim_cur) - (std::isfinite(taken) ? taken : 0);
    bytes = std::min(bytes, std::max(rest, 0.0));
  }
  return bytes;
}

/// What a training takes at the least, in bytes.
struct MemoryNeed {
  double parameters = 0;   // master copies and the optimiser's state
  double activations = 0;  // kept from the forward for the backward pass
};

/// A bound from below: it counts only the large arrays that every run of the variant has.
[[nodiscard]] inline MemoryNeed least_memory(const Options& options, const Variant& variant,
                                             std::size_t vocabulary_size) {
  const auto hidden = static_cast<double>(options.hidden_size);
  const auto layers = static_cast<double>(options.layers);
  const auto window = static_cast<double>(options.window);
  const auto tokens = static_cast<double>(options.sequences_at_once()) * window;
  const double operand = variant.precision == "fp32" ? 4 : variant.precision == "fp8" ? 1 : 2;
  const double storage = variant.precision == "fp32" ? 4 : 2;
  const double parameters = hidden * (2 * static_cast<double>(vocabulary_size) + window) +
                            layers * (window * window + 8 * hidden * hidden);
  const double copies = options.print_scales ? 1 : options.optimizer == "sgd" ? 2 : 3;
  // In each block the inputs of three products, of the norms and of the GELU.
  return {sizeof(float) * copies * parameters,
          tokens * layers * hidden * (6 * operand + 6 * storage)};
}

/// Which options make a training as large as it is.
[[nodiscard]] inline std::string sizes_to_change(const Options& options, const MemoryNeed& need) {
  const std::string hidden = "--hidden " + std::to_string(options.hidden_size);
  const std::string layers = "--layers " + std::to_string(options.layers);
  const std::string window = "--window " + std::to_string(options.window);
  if (need.parameters > need.activations) {
    return "smaller values for " + hidden + ", " + layers + " or " + window;
  }
  return "a smaller value for --batch " + std::to_string(options.sequences_at_once()) +
         " (--accumulate makes up for it), " + window + ", " + hidden + " or " + layers;
}

/// @throws std::invalid_argument if a training cannot fit in memory.
inline void require_memory(const Options& options, std::size_t vocabulary_size) {
  const double available = available_memory();
  for (const Variant& variant : options.variants) {
    const MemoryNeed need = least_memory(options, variant, vocabulary_size);
    const double bytes = need.parameters + need.activations;
    if (bytes <= available) continue;
    const auto mebibytes = [](double value) {
      char text[64];
      std::snprintf(text, sizeof(text), "%.0f MiB", value / 0x1p20);
      return std::string(text);
    };
    throw std::invalid_argument("not enough memory: " + variant.name() + " takes more than " +
                                mebibytes(bytes) + " and " + mebibytes(available) +
                                " can be had; try " + sizes_to_change(options, need));
  }
}

/// What to say when memory ended nevertheless.
[[nodiscard]] inline std::string out_of_memory(const Options& options) {
  MemoryNeed most;
  for (const Variant& variant : options.variants) {
    const MemoryNeed need = least_memory(options, variant, 0);
    most.parameters = std::max(most.parameters, need.parameters);
    most.activations = std::max(most.activations, need.activations);
  }
  return "not enough memory: try " + sizes_to_change(options, most) +
         ", a smaller value for --threads " + std::to_string(options.threads) +
         ", or a shorter text for --data";
}

}  // namespace bert_mlp
