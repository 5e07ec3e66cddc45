// SPDX-License-Identifier: MIT
/// @file
/// Layer core: a number for a text, the same in every program.
#pragma once

#include <cstdint>
#include <string_view>

#include "unit_scaling/core/target.hpp"

namespace UNIT_SCALING_NAMESPACE {

namespace detail {

/// FNV-1a in 64 bits of nothing, and of one element more.
inline constexpr std::uint64_t empty_hash = 0xcbf29ce484222325U;
[[nodiscard]] constexpr std::uint64_t next_hash(std::uint64_t hash,
                                                std::uint64_t element) noexcept {
  return (hash ^ element) * 0x100000001b3U;
}

}  // namespace detail

/// FNV-1a in 64 bits. Unlike that of std::hash, the number may stand in a file.
/// @see Fowler, Noll, Vo, Eastlake 2019, draft-eastlake-fnv.
[[nodiscard]] constexpr std::uint64_t text_hash(std::string_view text) noexcept {
  std::uint64_t hash = detail::empty_hash;
  for (const char each : text) hash = detail::next_hash(hash, static_cast<unsigned char>(each));
  return hash;
}

}  // namespace UNIT_SCALING_NAMESPACE
