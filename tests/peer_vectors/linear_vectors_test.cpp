// SPDX-License-Identifier: MIT
#include "op_vectors.hpp"
#include "unit_scaling/ops/linear.hpp"

namespace peer_vectors {
namespace linear_vectors_test {

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

}  // namespace linear_vectors_test
}  // namespace peer_vectors
