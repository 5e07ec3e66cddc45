// SPDX-License-Identifier: MIT
#include "op_vectors.hpp"
#include "unit_scaling/ops/cross_entropy.hpp"
#include "unit_scaling/ops/reshape.hpp"

namespace peer_vectors {
namespace cross_entropy_vectors_test {

const RegisterOp cross_entropy("cross_entropy", [](auto& run) {
  const auto logits = run.input("input");
  const auto labels = run.indices("target");
  // The peer takes one item without its extent, too.
  const bool is_one_item = logits.shape().rank() == 1;
  run.finish(unit_scaling::ops::cross_entropy(
      is_one_item ? unit_scaling::ops::reshape(logits, {.shape = {1, logits.shape().size()}})
                  : logits,
      is_one_item ? labels.reshaped({1}) : labels,
      {.scaling = run.scaling(),
       .reduction = reduction(run.template parameter<std::string>("reduction", "mean")),
       .mult = run.template parameter<double>("mult", 1),
       // The peer's own, when nothing is said.
       .ignore_index = run.template parameter<std::int32_t>("ignore_index", -100),
       .label_smoothing = run.template parameter<double>("label_smoothing", 0)}));
});

}  // namespace cross_entropy_vectors_test
}  // namespace peer_vectors
