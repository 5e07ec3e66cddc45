// SPDX-License-Identifier: MIT
#include "op_vectors.hpp"
#include "unit_scaling/ops/scaled_dot_product_attention.hpp"

namespace peer_vectors {
namespace {

const RegisterOp attention("scaled_dot_product_attention", [](auto& run) {
  const std::string layout = "batch, heads, seq, head_dim";
  if (run.parameter("layout", layout) != layout) throw std::runtime_error("unknown layout");
  run.finish(unit_scaling::ops::scaled_dot_product_attention(
      run.input("query"), run.input("key"), run.input("value"),
      {.scaling = run.scaling(),
       .mult = run.template parameter<double>("mult", 1),
       .is_causal = run.template parameter<bool>("is_causal", false)}));
});

}  // namespace
}  // namespace peer_vectors
