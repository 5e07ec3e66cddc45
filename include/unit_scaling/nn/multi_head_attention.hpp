// SPDX-License-Identifier: MIT
/// @file
/// Layer nn: multi-head self-attention.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "unit_scaling/core/check.hpp"
#include "unit_scaling/nn/dropout.hpp"
#include "unit_scaling/nn/linear.hpp"
#include "unit_scaling/ops/heads.hpp"
#include "unit_scaling/ops/rotary.hpp"
#include "unit_scaling/ops/scaled_dot_product_attention.hpp"

namespace unit_scaling::nn {

/// y = linear_o(attention of linear_qkv(x)): x and y (batch, positions, hidden_size), by
/// ops::scaled_dot_product_attention over `heads` heads of hidden_size / heads.
/// @see Vaswani et al. 2017, arXiv:1706.03762; the MHSA of the reference library.
class MultiHeadAttention {
 public:
  struct Options {
    bool is_causal = false;
    bool bias = false;
    double mult = 1;     ///< on the logits of the softmax
    double dropout = 0;  ///< probability, on the weights of the values
    /// Turns queries and keys by their position, with this base (10000 as published).
    std::optional<double> rotary_base = std::nullopt;
  };

  /// @throws DomainError if `heads` does not divide `hidden_size`.
  MultiHeadAttention(Initialiser& initialiser, const std::string& name, std::size_t hidden_size,
                     std::size_t heads, const Options& options)
      : options_(options),
        scaling_(initialiser.scaling()),
        heads_(heads),
        linear_qkv_(initialiser, name + ".linear_qkv", hidden_size, 3 * hidden_size,
                    {.bias = options.bias}),
        linear_o_(initialiser, name + ".linear_o", hidden_size, hidden_size,
                  {.bias = options.bias}),
        dropout_(initialiser, options.dropout) {
    require(heads > 0 && hidden_size % heads == 0, "MultiHeadAttention",
            "expected heads that divide hidden_size, got " + std::to_string(heads) + " for " +
                std::to_string(hidden_size));
  }

  /// @param mask (batch, positions): zero where a position is padding, which nothing attends to.
  ///             Empty: nothing is padding.
  template <Precision P>
  [[nodiscard]] Variable<P> operator()(const Variable<P>& x,
                                       const Array<std::int32_t>& mask = {}) const {
    const auto [q, k, v] = ops::split_heads(linear_qkv_(x), {.heads = heads_});
    const ops::ScaledDotProductAttention op{.scaling = scaling_,
                                            .mult = options_.mult,
                                            .is_causal = options_.is_causal,
                                            .dropout_probability = dropout_.probability(x.tape()),
                                            .random = dropout_.random(x.tape()),
                                            .mask = mask};
    if (!options_.rotary_base) {
      return linear_o_(ops::merge_heads(ops::scaled_dot_product_attention(q, k, v, op)));
    }
    const ops::Rotary turn{.base = *options_.rotary_base};
    return linear_o_(ops::merge_heads(
        ops::scaled_dot_product_attention(ops::rotary(q, turn), ops::rotary(k, turn), v, op)));
  }

  /// Calls `visit(parameter)` for each parameter.
  template <class Visitor> void for_each_parameter(const Visitor& visit) {
    linear_qkv_.for_each_parameter(visit);
    linear_o_.for_each_parameter(visit);
  }

 private:
  Options options_;
  Scaling scaling_;
  std::size_t heads_;
  Linear linear_qkv_;
  Linear linear_o_;
  DropoutSource dropout_;
};

}  // namespace unit_scaling::nn
