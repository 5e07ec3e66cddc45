// SPDX-License-Identifier: MIT
/// @file
/// Layer distributed: the messages of one operation of all ranks, and their memory.
// unit_scaling: optional
#pragma once

#include <cstddef>
#include <memory>
#include <numeric>
#include <span>
#include <vector>

#include "unit_scaling/core/target.hpp"
#include "unit_scaling/distributed/communicator.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::distributed::detail {

/// What this rank sends in an operation, and what it receives. The memory serves again. An engine
/// keeps it if the operation is given up.
class Messages {
 public:
  std::vector<std::size_t> sent_sizes;      ///< for each rank; of all-gather, one for all
  std::vector<std::size_t> received_sizes;  ///< from each rank
  Request request;

  [[nodiscard]] std::span<std::byte> sent() { return memory_->sent; }
  [[nodiscard]] std::span<const std::byte> received() const { return memory_->received; }

  /// Makes room for bytes of the sizes.
  void resize() {
    memory_->sent.resize(std::accumulate(sent_sizes.begin(), sent_sizes.end(), std::size_t{0}));
    memory_->received.resize(
        std::accumulate(received_sizes.begin(), received_sizes.end(), std::size_t{0}));
  }
  void start_all_to_all(Communicator& ranks) {
    request =
        ranks.start_all_to_all({memory_->sent, sent_sizes}, {memory_->received, received_sizes});
    request.keep(memory_);
  }
  void start_all_gather(Communicator& ranks) {
    request = ranks.start_all_gather(memory_->sent, {memory_->received, received_sizes});
    request.keep(memory_);
  }

 private:
  struct Memory {
    std::vector<std::byte> sent;
    std::vector<std::byte> received;
  };
  std::shared_ptr<Memory> memory_ = std::make_shared<Memory>();
};

}  // namespace UNIT_SCALING_NAMESPACE::distributed::detail

UNIT_SCALING_IEEE_END
