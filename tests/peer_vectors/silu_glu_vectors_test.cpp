// SPDX-License-Identifier: MIT
#include "op_vectors.hpp"
#include "unit_scaling/ops/silu_glu.hpp"

namespace peer_vectors {
namespace silu_glu_vectors_test {

const RegisterOp silu_glu("silu_glu", [](auto& run) {
  const auto input = run.input("input");
  const auto gate = run.input("gate");
  run.finish(unit_scaling::ops::silu_glu(
      input, gate, {.scaling = run.scaling(), .mult = run.template parameter<double>("mult", 1)}));
});

}  // namespace silu_glu_vectors_test
}  // namespace peer_vectors
