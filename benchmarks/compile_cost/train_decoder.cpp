// SPDX-License-Identifier: MIT
// What a file costs to compile that trains a transformer in FP8.
#include <cstddef>
#include <cstdint>

#include "unit_scaling/unit_scaling.hpp"

namespace us = unit_scaling;

int main() {
  us::nn::Initialiser initialiser(/*seed=*/1);
  us::nn::TransformerDecoder model(
      initialiser, 64, {.hidden_size = 32, .context_length = 17, .layers = 2, .heads = 2},
      {.positions = us::nn::PositionKind::none});
  us::optim::AdamW adam(us::optim::parameters_of(model));
  us::Array<std::int32_t> ids({4, 17});
  for (std::size_t i = 0; i < ids.size(); ++i) {
    ids.mutable_data()[i] = static_cast<std::int32_t>(i * 7 % 64);
  }
  us::Tape<us::precision::fp8> tape;
  for (int step = 0; step < 10; ++step) {
    tape.clear();
    const auto loss = model.next_token_loss(tape, ids);
    tape.backward(loss);
    adam.step(tape, 0.01);
  }
}
