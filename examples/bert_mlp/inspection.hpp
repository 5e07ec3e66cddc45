// SPDX-License-Identifier: MIT
// What --report tells of a model before any training.
#pragma once

#include "any_optimiser.hpp"
#include "any_tape.hpp"
#include "options.hpp"
#include "unit_scaling/analysis/numerics_run.hpp"

namespace bert_mlp {

/// Lists and checks the ops of a model as it is initialised.
/// @param optimiser of the model; not used but asked for its learning rates.
[[nodiscard]] us::analysis::NumericsRun inspect(const Variant& variant, const Loss& loss,
                                                const AnyOptimiser& optimiser,
                                                double learning_rate);

}  // namespace bert_mlp
