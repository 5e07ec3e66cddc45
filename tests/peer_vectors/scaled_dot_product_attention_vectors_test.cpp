// SPDX-License-Identifier: MIT
#include "op_vectors.hpp"
#include "unit_scaling/ops/scaled_dot_product_attention.hpp"

namespace peer_vectors {
namespace scaled_dot_product_attention_vectors_test {

const RegisterOp attention("scaled_dot_product_attention", [](auto& run) {
  const std::string layout = "batch, heads, seq, head_dim";
  if (run.template parameter<std::string>("layout", layout) != layout) {
    throw std::runtime_error("expected the layout '" + layout + "'");
  }
  run.expect_no_dropout("dropout_p");
  const auto query = run.input("query");
  const auto key = run.input("key");
  const auto value = run.input("value");
  run.finish(unit_scaling::ops::scaled_dot_product_attention(
      query, key, value,
      {.scaling = run.scaling(),
       .mult = run.template parameter<double>("mult", 1),
       .is_causal = run.template parameter<bool>("is_causal", false)}));
});

}  // namespace scaled_dot_product_attention_vectors_test
}  // namespace peer_vectors
