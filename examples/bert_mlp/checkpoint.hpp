// SPDX-License-Identifier: MIT
// Saves and takes up a training: master weights, the states of the optimiser and of the recipe, the
// number of steps done and the curves so far. There is no other state; batches and masks are
// functions of the seed and the step.
#pragma once

#include <cstddef>
#include <filesystem>
#include <optional>
#include <string>

#include "any_optimiser.hpp"
#include "options.hpp"
#include "record.hpp"
#include "unit_scaling/autograd/recipe_of_tape.hpp"
#include "unit_scaling/nn/bert_mlp.hpp"
#include "unit_scaling/train/fingerprint.hpp"
#include "unit_scaling/train/text_corpus.hpp"

namespace bert_mlp {

/// The variant that a checkpoint is of, as --precision, --scaling, --simulate and --recipe name it.
struct CheckpointVariant {
  std::string precision;
  std::string scaling;
  std::string simulation;  ///< empty: none
  std::string recipe;      ///< empty: none
};

/// @throws std::invalid_argument if the file is no checkpoint of this program.
[[nodiscard]] CheckpointVariant variant_of_checkpoint(const std::filesystem::path& path);

/// Everything that must be the same for a resumed run to be the run that was stopped.
[[nodiscard]] us::train::Fingerprint fingerprint_of(const Options& options, const Variant& variant,
                                                    const us::train::TextCorpus& corpus);

/// Writes a checkpoint, unless the model or its record is lost: one that can be gone on with is
/// worth more.
/// @param training what it is of; the same below.
/// @param recipe null: none.
/// @returns whether it did.
/// @throws us::FileError if it cannot be written.
bool save_checkpoint(const std::filesystem::path& path, const us::train::Fingerprint& training,
                     std::size_t step, const Record& record, us::nn::BertMlp& model,
                     AnyOptimiser& optimiser, us::RecipeOfTape* recipe);

/// The step of the checkpoint that a file is, if it is one of that training.
[[nodiscard]] std::optional<std::size_t> step_of_checkpoint(const std::filesystem::path& path,
                                                            const us::train::Fingerprint& training);

/// Takes up the training that `options` goes on from.
/// @param record set to the curves up to the checkpoint.
/// @param recipe null: none.
/// @returns the step to go on with.
/// @throws std::invalid_argument if the checkpoint is none, of another training or model, or beyond
///         where to stop; or if it has other content than a training leaves.
std::size_t load_checkpoint(const Options& options, const us::train::Fingerprint& training,
                            Record& record, us::nn::BertMlp& model, AnyOptimiser& optimiser,
                            us::RecipeOfTape* recipe);

}  // namespace bert_mlp
