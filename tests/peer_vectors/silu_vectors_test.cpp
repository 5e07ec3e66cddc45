// SPDX-License-Identifier: MIT
#include "op_vectors.hpp"
#include "unit_scaling/ops/silu.hpp"

namespace peer_vectors {
namespace silu_vectors_test {

const RegisterOp silu("silu", [](auto& run) {
  const auto input = run.input("input");
  run.finish(unit_scaling::ops::silu(
      input, {.scaling = run.scaling(), .mult = run.template parameter<double>("mult", 1)}));
});

}  // namespace silu_vectors_test
}  // namespace peer_vectors
