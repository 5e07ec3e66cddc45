// SPDX-License-Identifier: MIT
#include "op_vectors.hpp"
#include "unit_scaling/ops/add.hpp"

namespace peer_vectors {
namespace add_vectors_test {

const RegisterOp add("add", [](auto& run) {
  const auto input = run.input("input");
  const auto other = run.input("other");
  run.finish(unit_scaling::ops::add(input, other, {.scaling = run.scaling()}));
});

}  // namespace add_vectors_test
}  // namespace peer_vectors
