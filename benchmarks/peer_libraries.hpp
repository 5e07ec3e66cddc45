// SPDX-License-Identifier: MIT
/// @file
/// Layer: benchmarks. The libraries that `./dev compare` sets beside ours, as a whole.
#pragma once

#include <map>
#include <string>

namespace unit_scaling_benchmarks {

/// Gives the peers what ours has: one thread, and no instructions beyond those that this program is
/// compiled for. A peer that chooses instructions when it runs would otherwise be measured on
/// another target. To be called before any of them.
void bind_peers();

/// Names and versions of the peers, after bind_peers().
[[nodiscard]] std::map<std::string, std::string> peer_versions();

}  // namespace unit_scaling_benchmarks
