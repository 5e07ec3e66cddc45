// SPDX-License-Identifier: MIT
/// @file
/// Layer distributed: the messages of one operation of all ranks, and their memory.
// unit_scaling: optional
#pragma once

#include <cstddef>
#include <numeric>
#include <vector>

#include "unit_scaling/core/target.hpp"
#include "unit_scaling/distributed/communicator.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::distributed::detail {

/// What this rank sends in an operation, and what it receives. The memory serves again.
struct Messages {
  std::vector<std::byte> sent;
  std::vector<std::byte> received;
  std::vector<std::size_t> sent_sizes;      ///< for each rank; of all-gather, one for all
  std::vector<std::size_t> received_sizes;  ///< from each rank
  Request request;                          ///< last, so that it is given up before the bytes are

  /// Makes room for bytes of the sizes.
  void resize() {
    sent.resize(std::accumulate(sent_sizes.begin(), sent_sizes.end(), std::size_t{0}));
    received.resize(std::accumulate(received_sizes.begin(), received_sizes.end(), std::size_t{0}));
  }
  void start_all_to_all(Communicator& ranks) {
    request = ranks.start_all_to_all({sent, sent_sizes}, {received, received_sizes});
  }
  void start_all_gather(Communicator& ranks) {
    request = ranks.start_all_gather(sent, {received, received_sizes});
  }
};

}  // namespace UNIT_SCALING_NAMESPACE::distributed::detail

UNIT_SCALING_IEEE_END
