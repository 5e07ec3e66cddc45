// SPDX-License-Identifier: MIT
#include "op_vectors.hpp"
#include "unit_scaling/ops/linear.hpp"

namespace peer_vectors {
namespace {

template <class Run> void run_linear(Run& run, const unit_scaling::ops::Linear& op) {
  const auto input = run.input("input");
  const auto weight = run.input("weight");
  if (run.has_input("bias")) {
    const auto bias = run.input("bias");
    run.finish(unit_scaling::ops::linear(input, weight, bias, op));
  } else {
    run.finish(unit_scaling::ops::linear(input, weight, op));
  }
}

const RegisterOp linear("linear", [](auto& run) {
  const std::array<double, 3> power{0.5, 0.5, 0.5};
  run_linear(run, {.scaling = run.scaling(), .power = run.parameter("scale_power", power)});
});

// The peer's read-out is a linear layer with 1 / fan_in and, as the last layer, no constraint.
const RegisterOp linear_readout("linear_readout", [](auto& run) {
  run_linear(run, {.scaling = run.scaling(unit_scaling::scaling::umup.on_cut_edge()),
                   .power = {1, 0.5, 0.5}});
});

}  // namespace
}  // namespace peer_vectors
