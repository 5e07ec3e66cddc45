// SPDX-License-Identifier: MIT
// The page that --report writes, and its pictures.
#pragma once

#include <vector>

#include "machine.hpp"
#include "options.hpp"
#include "results.hpp"
#include "run_result.hpp"

namespace bert_mlp {

/// Writes report.html and figures/*.svg.
void write_numerics_report(const Options& options, const std::vector<RunResult>& runs,
                           const Machine& machine, Results& results);

}  // namespace bert_mlp
