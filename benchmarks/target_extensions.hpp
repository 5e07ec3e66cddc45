// SPDX-License-Identifier: MIT
/// @file
/// Layer: benchmarks. Which instruction sets the compiler was allowed to use.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "unit_scaling/core/target.hpp"

namespace unit_scaling_benchmarks {

/// The instruction sets that this file is compiled for, of those that the kernels depend on. Those
/// of x86 have the names of the flags in Linux's /proc/cpuinfo, in capitals.
[[nodiscard]] inline std::vector<std::string> target_extensions() {
  struct Extension {
    const char* name;
    int is_set;
  };
  constexpr std::array extensions{
      Extension{"SSE4_2", UNIT_SCALING_IS_SET(__SSE4_2__)},
      Extension{"AVX", UNIT_SCALING_IS_SET(__AVX__)},
      Extension{"F16C", UNIT_SCALING_IS_SET(__F16C__)},
      Extension{"FMA", UNIT_SCALING_IS_SET(__FMA__)},
      Extension{"AVX2", UNIT_SCALING_IS_SET(__AVX2__)},
      Extension{"AVX512F", UNIT_SCALING_IS_SET(__AVX512F__)},
      Extension{"AVX512DQ", UNIT_SCALING_IS_SET(__AVX512DQ__)},
      Extension{"AVX512BW", UNIT_SCALING_IS_SET(__AVX512BW__)},
      Extension{"AVX512VL", UNIT_SCALING_IS_SET(__AVX512VL__)},
      Extension{"AVX512VBMI", UNIT_SCALING_IS_SET(__AVX512VBMI__)},
      Extension{"AVX512_BF16", UNIT_SCALING_IS_SET(__AVX512BF16__)},
      Extension{"AVX512_FP16", UNIT_SCALING_IS_SET(__AVX512FP16__)},
      // GCC's name, and Clang's.
      Extension{"AMX_TILE", UNIT_SCALING_IS_SET(__AMX_TILE__) | UNIT_SCALING_IS_SET(__AMXTILE__)},
      Extension{"AMX_BF16", UNIT_SCALING_IS_SET(__AMX_BF16__) | UNIT_SCALING_IS_SET(__AMXBF16__)},
      Extension{"NEON", UNIT_SCALING_IS_SET(__ARM_NEON)},
      Extension{"SVE", UNIT_SCALING_IS_SET(__ARM_FEATURE_SVE)},
  };
  std::vector<std::string> names;
  for (const Extension& extension : extensions) {
    if (extension.is_set != 0) names.emplace_back(extension.name);
  }
  return names;
}

}  // namespace unit_scaling_benchmarks
