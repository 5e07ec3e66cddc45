// SPDX-License-Identifier: MIT
/// @file
/// Layer distributed: a number that tells of bytes that were changed on their way.
// unit_scaling: optional
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "unit_scaling/core/target.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::distributed {

/// XXH64: a hash of bytes, and of how many they are. Words are those of this host, so that it is
/// the published one where the lowest byte comes first.
///
/// Each word is multiplied before it meets the state and after. With one product a changed high bit
/// would stay alone, and the same bit of a later word could cancel it. Changed bytes are noticed
/// unless two hashes are equal by chance, one in 2^64. It is no protection against deceit.
/// @param seed the hash of what stands before these bytes
/// @see Collet, xxHash fast digest algorithm 0.1.1, xxhash_spec.md.
[[nodiscard]] inline std::uint64_t message_checksum(std::span<const std::byte> bytes,
                                                    std::uint64_t seed = 0) {
  constexpr std::uint64_t prime_1 = 0x9e3779b185ebca87U;
  constexpr std::uint64_t prime_2 = 0xc2b2ae3d27d4eb4fU;
  constexpr std::uint64_t prime_3 = 0x165667b19e3779f9U;
  constexpr std::uint64_t prime_4 = 0x85ebca77c2b2ae63U;
  constexpr std::uint64_t prime_5 = 0x27d4eb2f165667c5U;
  const auto round = [](std::uint64_t lane, std::uint64_t word) {
    return std::rotl(lane + word * prime_2, 31) * prime_1;
  };
  std::size_t i = 0;
  const auto next = [&]<class Word>(Word word) {
    std::memcpy(&word, bytes.data() + i, sizeof(word));
    i += sizeof(word);
    return std::uint64_t{word};
  };
  const auto left = [&] { return bytes.size() - i; };

  std::uint64_t hash = seed + prime_5;
  // A round waits for the one before it, so there are several lanes of them.
  std::array<std::uint64_t, 4> lanes{seed + prime_1 + prime_2, seed + prime_2, seed,
                                     seed - prime_1};
  if (bytes.size() >= sizeof(lanes)) {
    while (left() >= sizeof(lanes)) {
      for (std::uint64_t& lane : lanes) lane = round(lane, next(std::uint64_t{}));
    }
    hash = std::rotl(lanes[0], 1) + std::rotl(lanes[1], 7) + std::rotl(lanes[2], 12) +
           std::rotl(lanes[3], 18);
    for (const std::uint64_t lane : lanes) hash = (hash ^ round(0, lane)) * prime_1 + prime_4;
  }
  hash += bytes.size();
  while (left() >= sizeof(std::uint64_t)) {
    hash = std::rotl(hash ^ round(0, next(std::uint64_t{})), 27) * prime_1 + prime_4;
  }
  if (left() >= sizeof(std::uint32_t)) {
    hash = std::rotl(hash ^ next(std::uint32_t{}) * prime_1, 23) * prime_2 + prime_3;
  }
  while (left() > 0) {
    hash = std::rotl(hash ^ next(std::uint8_t{}) * prime_5, 11) * prime_1;
  }
  hash = (hash ^ hash >> 33U) * prime_2;
  hash = (hash ^ hash >> 29U) * prime_3;
  return hash ^ hash >> 32U;
}

}  // namespace UNIT_SCALING_NAMESPACE::distributed

UNIT_SCALING_IEEE_END
