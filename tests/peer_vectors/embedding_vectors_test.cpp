// SPDX-License-Identifier: MIT
#include <cstdint>
#include <limits>
#include <optional>

#include "op_vectors.hpp"
#include "unit_scaling/ops/embedding.hpp"

namespace peer_vectors {
namespace embedding_vectors_test {

const RegisterOp embedding("embedding", [](auto& run) {
  const auto ids = run.indices("input");
  const auto table = run.input("weight");
  // No entry has the largest number: it stands for none. The peer counts negative ones from the
  // end.
  constexpr auto none = std::numeric_limits<std::int32_t>::max();
  auto padding = run.parameter("padding_idx", none);
  if (padding < 0) padding += static_cast<std::int32_t>(table.shape().rows());
  run.finish(unit_scaling::ops::embedding(
      ids, table,
      {.scaling = run.scaling(),
       .padding_idx = padding == none ? std::nullopt : std::optional(padding)}));
});

}  // namespace embedding_vectors_test
}  // namespace peer_vectors
