// SPDX-License-Identifier: MIT
// What a program that links the compiled companion finds there, and what it does not: a precision
// that was not asked for, and a policy of its own.
#include <string_view>

#include "unit_scaling/compiled.hpp"
#include "unit_scaling/formats/catalogue.hpp"
#include "unit_scaling/formats/precision.hpp"
#include "unit_scaling/nn/linear.hpp"
#include "unit_scaling/ops/mse_loss.hpp"
#include "unit_scaling/optim/adam.hpp"

namespace us = unit_scaling;

namespace {

struct Own : us::precision::uniform<us::bfloat16> {
  static constexpr std::string_view name = "own";
  using matmul_operand = us::float8_e4m3fn;
};

/// Whether a step makes the loss less.
template <us::Precision P> bool learns() {
  us::nn::Initialiser initialiser(1);
  us::nn::Linear layer(initialiser, "layer", 8, 8);
  us::optim::AdamW adam(us::optim::parameters_of(layer));
  us::Tape<P> tape;
  const auto loss_of_step = [&] {
    tape.clear();
    const auto x = tape.constant(us::Array<float>::filled({4, 8}, 1));
    const auto loss = us::ops::mse_loss(layer(x), x);
    tape.backward(loss);
    adam.step(tape, 0.05);
    return loss.value().data()[0];
  };
  return loss_of_step() > loss_of_step();
}

}  // namespace

int main() {
  const bool all_learn =
      learns<us::precision::fp8>() && learns<us::precision::fp32>() && learns<Own>();
  return all_learn ? 0 : 1;
}
