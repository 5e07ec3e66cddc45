// SPDX-License-Identifier: MIT
#include "op_vectors.hpp"
#include "unit_scaling/ops/embedding.hpp"

namespace peer_vectors {
namespace {

const RegisterOp embedding("embedding", [](auto& run) {
  const auto ids = run.indices("input");
  const auto table = run.input("weight");
  run.finish(unit_scaling::ops::embedding(ids, table, {.scaling = run.scaling()}));
});

}  // namespace
}  // namespace peer_vectors
