// SPDX-License-Identifier: MIT
/// @file
/// Layer core: a number for a text, the same in every program.
#pragma once

#include <cstdint>
#include <string_view>

#include "unit_scaling/core/target.hpp"

namespace UNIT_SCALING_NAMESPACE {

/// FNV-1a in 64 bits. Unlike that of std::hash, the number may stand in a file.
/// @see Fowler, Noll, Vo, Eastlake 2019, draft-eastlake-fnv.
[[nodiscard]] constexpr std::uint64_t text_hash(std::string_view text) noexcept {
  std::uint64_t hash = 0xcbf29ce484222325U;
  for (const char each : text) {
    hash = (hash ^ static_cast<unsigned char>(each)) * 0x100000001b3U;
  }
  return hash;
}

}  // namespace UNIT_SCALING_NAMESPACE
