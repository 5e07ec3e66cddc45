// SPDX-License-Identifier: MIT
#include "op_vectors.hpp"
#include "unit_scaling/ops/cross_entropy.hpp"

namespace peer_vectors {
namespace {

const RegisterOp cross_entropy("cross_entropy", [](auto& run) {
  const auto logits = run.input("input");
  const auto labels = run.indices("target");
  run.finish(unit_scaling::ops::cross_entropy(
      logits, labels,
      {.scaling = run.scaling(),
       .reduction = reduction(run.template parameter<std::string>("reduction", "mean")),
       .mult = run.template parameter<double>("mult", 1)}));
});

}  // namespace
}  // namespace peer_vectors
