// SPDX-License-Identifier: MIT
// Prints the bits of the losses of ten steps that train a small decoder in FP8. Operands of
// products, activations and losses then have different types. Built twice, with
// unit_scaling::compiled and without: both must print the same.
#include <cstddef>
#include <cstdint>
#include <cstdio>

#include "unit_scaling/unit_scaling.hpp"

namespace us = unit_scaling;

int main() {
  us::nn::Initialiser initialiser(/*seed=*/1);
  us::nn::TransformerDecoder model(
      initialiser, 61,
      {.hidden_size = 48, .context_length = 19, .layers = 2, .heads = 3, .dropout = 0.1},
      {.positions = us::nn::PositionKind::learned, .max_positions = 19});
  us::optim::AdamW adam(us::optim::parameters_of(model));
  us::Array<std::int32_t> ids({5, 19});
  const us::Random random(2);
  us::Tape<us::precision::fp8> tape;
  for (unsigned step = 0; step < 10; ++step) {
    for (unsigned i = 0; std::int32_t & id : ids.mutable_span()) {
      id = static_cast<std::int32_t>(random.below(61, 1000 * step + i++));
    }
    tape.clear();
    const auto loss = model.next_token_loss(tape, ids);
    tape.backward(loss);
    const double norm = us::optim::gradient_norm(tape, us::optim::parameters_of(model));
    adam.step(tape, 0x1p-6);
    std::printf("%u loss %a norm %a\n", step, loss.value().data()[0], norm);
  }
}
