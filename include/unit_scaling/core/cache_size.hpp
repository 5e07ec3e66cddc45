// SPDX-License-Identifier: MIT
/// @file
/// Layer core: the size of a cache, for how much of a computation stays in it at a time.
#pragma once

#include <unistd.h>

#include <cstddef>

#include "unit_scaling/core/target.hpp"

namespace UNIT_SCALING_NAMESPACE {

/// Bytes of the second-level cache of a core, as the C library tells them. Where it does not, or
/// tells less than 256 KiB: 1 MiB.
[[nodiscard]] inline std::size_t second_level_cache_bytes() {
#if defined(_SC_LEVEL2_CACHE_SIZE)
  static const long told = sysconf(_SC_LEVEL2_CACHE_SIZE);
#else
  constexpr long told = 0;
#endif
  constexpr long least = 256L << 10;
  constexpr std::size_t usual = std::size_t{1} << 20;
  return told >= least ? static_cast<std::size_t>(told) : usual;
}

}  // namespace UNIT_SCALING_NAMESPACE
