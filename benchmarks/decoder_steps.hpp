// SPDX-License-Identifier: MIT
/// @file
/// Layer: benchmarks. Training steps of the reference library's TransformerDecoder: four layers
/// with heads of 64, causal attention, a SwiGLU network and RMS norms before each, a vocabulary of
/// 128, and AdamW. Sequences are of 256 tokens.
#pragma once

#include <cstddef>
#include <cstdint>

#include "random_ids.hpp"
#include "unit_scaling/autograd/tape.hpp"
#include "unit_scaling/core/array.hpp"
#include "unit_scaling/nn/transformer_decoder.hpp"
#include "unit_scaling/optim/adam.hpp"
#include "unit_scaling/optim/gradient_source.hpp"
#include "unit_scaling/optim/parameter_groups.hpp"

namespace unit_scaling_benchmarks {

/// The model and its optimiser; always the same batch.
template <unit_scaling::Precision P> struct DecoderSteps {
  static constexpr std::size_t vocabulary = 128;
  static constexpr std::size_t positions = 256;
  static constexpr std::size_t head_dim = 64;

  /// @param hidden_size a multiple of `head_dim`
  DecoderSteps(std::size_t hidden_size, std::size_t sequences)
      : model(initialiser, vocabulary,
              {.hidden_size = hidden_size,
               .context_length = positions,
               .layers = 4,
               .heads = hidden_size / head_dim},
              {.positions = unit_scaling::nn::PositionKind::none}),
        ids(random_ids({sequences, positions}, vocabulary)) {}

  unit_scaling::nn::Initialiser initialiser{1, unit_scaling::scaling::umup};
  unit_scaling::nn::TransformerDecoder model;
  unit_scaling::optim::AdamW optimiser{unit_scaling::optim::parameters_of(model),
                                       {.weight_decay = 0x1p-13, .rule = unit_scaling::Rule::umup}};
  unit_scaling::Array<std::int32_t> ids;
  unit_scaling::Tape<P> tape;

  /// Forward and backward; the gradients are on the tape.
  void differentiate() {
    tape.clear();
    tape.backward(model.next_token_loss(tape, ids));
  }
  template <unit_scaling::optim::GradientSource Gradients> void update(const Gradients& gradients) {
    optimiser.step(gradients, 0x1p-6);
  }
};

}  // namespace unit_scaling_benchmarks
