// SPDX-License-Identifier: MIT
#include "op_vectors.hpp"
#include "unit_scaling/ops/embedding.hpp"

namespace peer_vectors {
namespace {

const RegisterOp embedding("embedding", [](auto& run) {
  const auto ids = run.indices("input");
  const auto table = run.input("weight");
  // −1 stands for none.
  const auto padding = run.template parameter<std::int32_t>("padding_idx", -1);
  run.finish(unit_scaling::ops::embedding(
      ids, table,
      {.scaling = run.scaling(),
       .padding_idx = padding < 0 ? std::nullopt : std::optional(padding)}));
});

}  // namespace
}  // namespace peer_vectors
