// SPDX-License-Identifier: MIT
#include "op_vectors.hpp"
#include "unit_scaling/ops/mse_loss.hpp"

namespace peer_vectors {
namespace mse_loss_vectors_test {

const RegisterOp mse_loss("mse_loss", [](auto& run) {
  const auto input = run.input("input");
  const auto target = run.input("target");
  run.finish(unit_scaling::ops::mse_loss(
      input, target,
      {.scaling = run.scaling(),
       .reduction = reduction(run.template parameter<std::string>("reduction", "mean"))}));
});

}  // namespace mse_loss_vectors_test
}  // namespace peer_vectors
