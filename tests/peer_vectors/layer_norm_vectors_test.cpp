// SPDX-License-Identifier: MIT
#include "op_vectors.hpp"
#include "unit_scaling/ops/layer_norm.hpp"

namespace peer_vectors {
namespace {

const RegisterOp layer_norm("layer_norm", [](auto& run) {
  const unit_scaling::ops::LayerNorm op{.scaling = run.scaling(),
                                        .epsilon = run.template parameter<double>("eps", 1e-5)};
  const auto input = run.input("input");
  if (run.has_input("weight")) {
    const auto gain = run.input("weight");
    const auto bias = run.input("bias");
    run.finish(unit_scaling::ops::layer_norm(input, gain, bias, op));
  } else {
    run.finish(unit_scaling::ops::layer_norm(input, op));
  }
});

}  // namespace
}  // namespace peer_vectors
