// SPDX-License-Identifier: MIT
/// @file
/// Layer: tests. Small transformers with each choice that changes their graph.
#pragma once

#include <string>
#include <vector>

#include "unit_scaling/nn/input_embedding.hpp"
#include "unit_scaling/nn/transformer_layer.hpp"

namespace unit_scaling_test {

struct TransformerVariant {
  std::string name;  ///< "gelu, rotary"
  unit_scaling::nn::TransformerConfig config;
  unit_scaling::nn::InputEmbedding::Options embedding;
};

/// Both kinds of MLP and norm, every kind of positions, of which there are up to 6; hidden size 8.
[[nodiscard]] inline std::vector<TransformerVariant> transformer_variants(
    unit_scaling::nn::NormPlacement placement) {
  namespace nn = unit_scaling::nn;
  std::vector<TransformerVariant> variants;
  for (const auto mlp : {nn::MlpKind::gelu, nn::MlpKind::swiglu}) {
    const bool is_gelu = mlp == nn::MlpKind::gelu;
    for (const std::string positions : {"rotary", "relative", "learned", "sinusoidal"}) {
      nn::TransformerConfig config{
          .hidden_size = 8,
          .context_length = 6,
          .layers = 2,
          .heads = 2,
          .norm_placement = placement,
          .norm = is_gelu ? nn::NormKind::layer_norm : nn::NormKind::rms_norm,
          .mlp = mlp,
          .dropout = positions == "learned" ? 0.2 : 0,
          .attention_mult = positions == "relative" ? 2.0 : 1.0};
      nn::InputEmbedding::Options embedding;
      if (positions == "rotary") config.rotary_base = 10000;
      if (positions == "relative") config.relative_frequencies = 4;
      if (positions == "learned") {
        embedding = {.positions = nn::PositionKind::learned, .max_positions = 6};
      }
      if (positions == "sinusoidal") {
        embedding = {.positions = nn::PositionKind::sinusoidal, .max_positions = 6};
      }
      variants.push_back({(is_gelu ? "gelu, " : "swiglu, ") + positions, config, embedding});
    }
  }
  return variants;
}

}  // namespace unit_scaling_test
