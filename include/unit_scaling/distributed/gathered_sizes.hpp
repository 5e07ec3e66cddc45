// SPDX-License-Identifier: MIT
/// @file
/// Layer distributed: a size of each rank, before what has that size.
// unit_scaling: optional
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "unit_scaling/core/target.hpp"
#include "unit_scaling/distributed/communicator.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::distributed::detail {

/// A size of each rank. All ranks call it.
[[nodiscard]] inline std::vector<std::size_t> gathered_sizes(Communicator& ranks,
                                                             std::size_t size) {
  // In bytes from the lowest one on, for ranks may differ in their order.
  constexpr std::size_t digits = 8;
  std::vector<std::byte> own(digits);
  for (std::size_t k = 0; k < digits; ++k) {
    own[k] = static_cast<std::byte>(std::uint64_t{size} >> (8 * k));
  }
  std::vector<std::byte> bytes(digits * ranks.size());
  ranks.all_gather(own, {bytes, std::vector<std::size_t>(ranks.size(), digits)});
  std::vector<std::size_t> sizes;
  for (std::size_t rank = 0; rank < ranks.size(); ++rank) {
    std::uint64_t each = 0;
    for (std::size_t k = digits; k-- > 0;) {
      each = each << 8U | std::to_integer<std::uint64_t>(bytes[rank * digits + k]);
    }
    sizes.push_back(static_cast<std::size_t>(each));
  }
  return sizes;
}

}  // namespace UNIT_SCALING_NAMESPACE::distributed::detail

UNIT_SCALING_IEEE_END
