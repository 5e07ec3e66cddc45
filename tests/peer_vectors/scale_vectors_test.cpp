// SPDX-License-Identifier: MIT
#include "op_vectors.hpp"
#include "unit_scaling/ops/scale.hpp"

namespace peer_vectors {
namespace scale_vectors_test {

const RegisterOp forward("scale_fwd", [](auto& run) {
  const unit_scaling::ops::ScaleForward op{.factor = run.template parameter<double>("scale", 1)};
  run.finish(unit_scaling::ops::scale_fwd(run.input("input"), op));
});

const RegisterOp backward("scale_bwd", [](auto& run) {
  const unit_scaling::ops::ScaleBackward op{.factor = run.template parameter<double>("scale", 1)};
  run.finish(unit_scaling::ops::scale_bwd(run.input("input"), op));
});

}  // namespace scale_vectors_test
}  // namespace peer_vectors
