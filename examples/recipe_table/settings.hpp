// SPDX-License-Identifier: MIT
// What is the same for all methods of a table.
#pragma once

#include <cstddef>
#include <filesystem>
#include <sstream>
#include <string>
#include <vector>

#include "unit_scaling/train/fingerprint.hpp"
#include "unit_scaling/train/text_corpus.hpp"

namespace recipe_table {

/// The models that are trained.
enum class Model {
  bert_mlp,  ///< masked characters; mixes positions with a matrix
  decoder,   ///< the next character; causal attention, rotary positions, SwiGLU
};

[[nodiscard]] inline std::string to_string(Model model) {
  return model == Model::bert_mlp ? "bert_mlp" : "decoder";
}

struct Settings {
  std::size_t hidden_size = 256;
  std::size_t layers = 4;
  std::size_t steps = 400;
  std::size_t tokens = 2048;  ///< in a step
  /// Peak learning rates, of models with and without unit scaling: those that are best in FP32.
  double unit_rate = 0x1p-2;
  double plain_rate = 0x1p-7;
  std::size_t threads = 1;
  std::vector<std::filesystem::path> data;

  /// What figures depend on, but for the model and the method.
  [[nodiscard]] std::string text(const unit_scaling::train::TextCorpus& corpus) const {
    unit_scaling::train::Fingerprint fingerprint;
    fingerprint.add_data("text", corpus);
    std::ostringstream out;
    out << "hidden " << hidden_size << ", layers " << layers << ", steps " << steps << ", tokens "
        << tokens << ", unit-lr " << unit_rate << ", plain-lr " << plain_rate << ", threads "
        << threads << ", text " << *fingerprint.value("text");
    return out.str();
  }
};

/// Of one training.
struct Figures {
  double bits_per_character = 0;  ///< on the held-out text; NaN if the training diverged
  double tokens_per_second = 0;   ///< of the median step
  std::size_t parameter_bytes = 0;
  std::size_t optimiser_bytes = 0;
  std::size_t saved_bytes = 0;         ///< for the backward pass
  std::size_t checkpoint_numbers = 0;  ///< beside parameters and moments
};

}  // namespace recipe_table
