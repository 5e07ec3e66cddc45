// SPDX-License-Identifier: MIT
#include "op_vectors.hpp"
#include "unit_scaling/ops/conv1d.hpp"

namespace peer_vectors {
namespace conv1d_vectors_test {

const RegisterOp conv1d("conv1d", [](auto& run) {
  const auto input = run.input("input");
  const auto weight = run.input("weight");
  const auto size = [&](const char* name, std::size_t fallback) {
    return run.parameter(name, fallback);
  };
  const unit_scaling::ops::Conv1d op{
      .scaling = run.scaling(),
      .stride = size("stride", 1),
      .padding = size("padding", 0),
      .dilation = size("dilation", 1),
      .groups = size("groups", 1),
      .power = run.parameter("scale_power", std::array<double, 3>{0.5, 0.5, 0.5})};
  if (run.has_input("bias")) {
    run.finish(unit_scaling::ops::conv1d(input, weight, run.input("bias"), op));
  } else {
    run.finish(unit_scaling::ops::conv1d(input, weight, op));
  }
});

}  // namespace conv1d_vectors_test
}  // namespace peer_vectors
