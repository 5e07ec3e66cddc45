// SPDX-License-Identifier: MIT
#include "op_vectors.hpp"
#include "unit_scaling/ops/softmax.hpp"

namespace peer_vectors {
namespace {

const RegisterOp softmax("softmax", [](auto& run) {
  const auto input = run.input("input");
  const auto rank = static_cast<int>(input.shape().rank());
  const int dimension = run.template parameter<int>("dim", -1);
  if (dimension != -1 && dimension != rank - 1) {
    throw std::runtime_error("the library has softmax along the last extent only, not along " +
                             std::to_string(dimension));
  }
  run.finish(unit_scaling::ops::softmax(
      input, {.scaling = run.scaling(), .mult = run.template parameter<double>("mult", 1)}));
});

}  // namespace
}  // namespace peer_vectors
