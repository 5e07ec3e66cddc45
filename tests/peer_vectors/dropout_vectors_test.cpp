// SPDX-License-Identifier: MIT
#include "op_vectors.hpp"
#include "unit_scaling/ops/dropout.hpp"

namespace peer_vectors {
namespace dropout_vectors_test {

const RegisterOp dropout("dropout", [](auto& run) {
  run.expect_no_dropout("p");
  run.finish(
      unit_scaling::ops::dropout(run.input("input"), {.scaling = run.scaling(), .probability = 0}));
});

}  // namespace dropout_vectors_test
}  // namespace peer_vectors
