// SPDX-License-Identifier: MIT
#include "op_vectors.hpp"
#include "unit_scaling/ops/rms_norm.hpp"

namespace peer_vectors {
namespace rms_norm_vectors_test {

// The reference takes the root mean square in float.
const RegisterOp rms_norm("rms_norm", [](auto& run) {
  run.peer_rounds_to_single(1);
  const unit_scaling::ops::RmsNorm op{.scaling = run.scaling(),
                                      .epsilon = run.template parameter<double>("eps", 1e-5)};
  run.finish(normalise(run, [&](const auto& input, const auto& flat) {
    return run.has_input("weight")
               ? unit_scaling::ops::rms_norm(input, flat(run.input("weight")), op)
               : unit_scaling::ops::rms_norm(input, op);
  }));
});

}  // namespace rms_norm_vectors_test
}  // namespace peer_vectors
