// SPDX-License-Identifier: MIT
// Trains one variant.
#pragma once

#include <cstddef>

#include "machine.hpp"
#include "options.hpp"
#include "ranks.hpp"
#include "run_result.hpp"
#include "unit_scaling/nn/bert_mlp.hpp"
#include "unit_scaling/train/text_corpus.hpp"

namespace bert_mlp {

[[nodiscard]] us::nn::BertMlp make_model(const Options& options, const us::Scaling& scaling,
                                         std::size_t vocabulary_size);

/// Trains one variant with the optimiser that was asked for. All ranks call it.
/// @param save whether to write checkpoints to the output folder, which one rank may.
[[nodiscard]] RunResult train(const Options& options, const Variant& variant,
                              const us::train::TextCorpus& corpus, const Machine& machine,
                              const Ranks& ranks, bool save);

/// @throws std::invalid_argument if the variant cannot go on from the checkpoint that was named.
void check_checkpoint(const Options& options, const Variant& variant,
                      const us::train::TextCorpus& corpus);

/// @throws std::invalid_argument if a rule of the variant's simulation meets no op of the model, or
///         one that it does not go with.
void check_simulation(const Options& options, const Variant& variant,
                      const us::train::TextCorpus& corpus);

}  // namespace bert_mlp
