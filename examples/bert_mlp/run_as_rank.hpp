// SPDX-License-Identifier: MIT
// How this process comes to be a rank: there is a program for a process alone, and one for each
// MPI.
#pragma once

#include <chrono>
#include <functional>

#include "unit_scaling/distributed/communicator.hpp"

namespace bert_mlp {

/// Calls `function` as the rank that this process is. In the program for a process alone, if it was
/// started as one of several: becomes the program for the MPI that started it, which begins anew.
/// @param deadline after which a rank that does not answer is given up.
/// @returns what the function returns.
/// @throws std::invalid_argument if there is no program for the MPI, or processes do not find each
///         other; where there is no MPI, what the function throws. Under MPI that ends the job,
///         with one line that names the rank.
int run_as_rank(int argc, char** argv, std::chrono::milliseconds deadline,
                const std::function<int(unit_scaling::distributed::Communicator&)>& function);

}  // namespace bert_mlp
