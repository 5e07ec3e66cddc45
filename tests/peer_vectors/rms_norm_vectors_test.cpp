// SPDX-License-Identifier: MIT
#include "op_vectors.hpp"
#include "unit_scaling/ops/rms_norm.hpp"

namespace peer_vectors {
namespace {

// The reference takes the root mean square in float.
const RegisterOp rms_norm("rms_norm", [](auto& run) {
  run.peer_rounds_to_single(1);
  const auto input = run.input("input");
  const unit_scaling::ops::RmsNorm op{.scaling = run.scaling(),
                                      .epsilon = run.template parameter<double>("eps", 1e-5)};
  if (run.has_input("weight")) {
    run.finish(unit_scaling::ops::rms_norm(input, run.input("weight"), op));
  } else {
    run.finish(unit_scaling::ops::rms_norm(input, op));
  }
});

}  // namespace
}  // namespace peer_vectors
