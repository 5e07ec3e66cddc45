// SPDX-License-Identifier: MIT
#include "op_vectors.hpp"
#include "unit_scaling/ops/matmul.hpp"

namespace peer_vectors {
namespace matmul_vectors_test {

const RegisterOp matmul("matmul", [](auto& run) {
  const auto left = run.input("left");
  const auto right = run.input("right");
  run.finish(unit_scaling::ops::matmul(left, right, {.scaling = run.scaling()}));
});

}  // namespace matmul_vectors_test
}  // namespace peer_vectors
