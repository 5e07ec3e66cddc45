// SPDX-License-Identifier: MIT
/// @file
/// Layer: benchmarks. Under which conditions `./dev compare` measures.
#pragma once

#include <nlohmann/json.hpp>

namespace unit_scaling_benchmarks {

/// What does not change while the program runs, as JSON:
///
///     "machine": {"processor", "identity", "logical_processors",
///                 "caches": [{"level", "bytes", "ways", "sharers"}, …]}
///     "target": {"name", "flags", "extensions": ["AVX2", …]}
///     "compiler": "GCC 12.2.0"
///     "peers": {"Eigen": "3.4.0", …}
///     "date": "2026-11-30", of UTC
///
/// `Processor` and `Cache` in core/processor.hpp say what the figures of the machine mean. A target
/// is named as `-march` names it. To be called after bind_peers().
[[nodiscard]] nlohmann::ordered_json conditions();

}  // namespace unit_scaling_benchmarks
