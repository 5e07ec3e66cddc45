// SPDX-License-Identifier: MIT
#include "op_vectors.hpp"
#include "unit_scaling/ops/softmax.hpp"

namespace peer_vectors {
namespace softmax_vectors_test {

const RegisterOp softmax("softmax", [](auto& run) {
  const auto input = run.input("input");
  run.finish(
      unit_scaling::ops::softmax(input, {.scaling = run.scaling(),
                                         .mult = run.template parameter<double>("mult", 1),
                                         .dimension = run.template parameter<int>("dim", -1)}));
});

}  // namespace softmax_vectors_test
}  // namespace peer_vectors
