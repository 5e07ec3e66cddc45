// SPDX-License-Identifier: MIT
/// @file
/// Layer: tests. The error of a run of ranks.
#pragma once

#include <cstddef>
#include <string>

#include "unit_scaling/distributed/communicator.hpp"
#include "unit_scaling/distributed/thread_ranks.hpp"

namespace unit_scaling_test {

/// What ranks that are threads say of an error of communication; empty if there is none.
template <class Function>
std::string error_of_ranks(std::size_t count, const Function& function,
                           const unit_scaling::distributed::ThreadRanksOptions& options = {}) {
  try {
    unit_scaling::distributed::run_thread_ranks(count, function, options);
  } catch (const unit_scaling::distributed::CommunicationError& error) {
    return error.what();
  }
  return "";
}

}  // namespace unit_scaling_test
