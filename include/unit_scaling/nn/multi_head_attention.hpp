// SPDX-License-Identifier: MIT
/// @file
/// Layer nn: multi-head self-attention.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <tuple>

#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/shape.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/nn/dropout.hpp"
#include "unit_scaling/nn/linear.hpp"
#include "unit_scaling/ops/heads.hpp"
#include "unit_scaling/ops/rotary.hpp"
#include "unit_scaling/ops/scaled_dot_product_attention.hpp"
#include "unit_scaling/ops/sinusoidal_positions.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::nn {

/// y = linear_o(attention of linear_qkv(x)): x and y (batch, positions, hidden_size), by
/// ops::scaled_dot_product_attention over `heads` heads of hidden_size / heads.
/// @see Vaswani et al. 2017, arXiv:1706.03762; Dai et al. 2019, arXiv:1901.02860; the MHSA of the
/// reference library.
class MultiHeadAttention {
 public:
  struct Options {
    bool is_causal = false;
    bool bias = false;
    double mult = 1;     ///< on the logits of the softmax
    double dropout = 0;  ///< probability, on the weights of the values
    /// Turns queries and keys by their position, with this base (10000 as published).
    std::optional<double> rotary_base = std::nullopt;
    /// Adds to the score of two positions q · (a projection of this many sinusoids of their
    /// distance), as the paper's character-level model does; 0: nothing. An even number.
    std::size_t relative_frequencies = 0;
    double relative_max_period = 1024;  ///< of the slowest of these sinusoids
  };

  /// @throws DomainError if `hidden_size` is 0, `heads` does not divide it, two kinds of positions
  ///         are asked for, or an option is out of its range.
  /// @throws ShapeError if sizes cannot be counted, or `relative_frequencies` is odd.
  MultiHeadAttention(Initialiser& initialiser, const std::string& name, std::size_t hidden_size,
                     std::size_t heads, const Options& options)
      : name_(name),
        options_(options),
        scaling_(initialiser.scaling()),
        heads_(heads),
        linear_qkv_(initialiser, name + ".linear_qkv", hidden_size,
                    size_product("MultiHeadAttention", {3, hidden_size}), {.bias = options.bias}),
        linear_o_(initialiser, name + ".linear_o", hidden_size, hidden_size,
                  {.bias = options.bias}),
        dropout_(initialiser, options.dropout) {
    require_size("MultiHeadAttention", "hidden_size", hidden_size);
    require(heads > 0 && hidden_size % heads == 0, "MultiHeadAttention",
            "expected heads that divide hidden_size, got ", heads, " for ", hidden_size);
    ops::ScaledDotProductAttention{.mult = options.mult, .dropout_probability = options.dropout}
        .require_attributes();
    if (options.rotary_base) ops::Rotary{.base = *options.rotary_base}.require_attributes();
    require(!options.rotary_base || options.relative_frequencies == 0, "MultiHeadAttention",
            "expected rotary or relative positions, not both");
    if (options.relative_frequencies > 0) {
      // Of no positions: the check of its arguments.
      static_cast<void>(ops::sinusoidal_positions<float>(0, options.relative_frequencies,
                                                         options.relative_max_period));
      relative_.emplace(initialiser, name + ".relative", options.relative_frequencies, hidden_size,
                        Linear::Options{.bias = false, .constraint = constraint::none});
    }
  }

  /// @param mask (batch, positions): zero where a position is padding, which nothing attends to.
  ///             Empty: nothing is padding.
  template <Precision P>
  [[nodiscard]] Variable<P> operator()(const Variable<P>& x,
                                       const Array<std::int32_t>& mask = {}) const;

  /// Calls `visit(parameter)` for each parameter.
  template <class Visitor> void for_each_parameter(const Visitor& visit) {
    linear_qkv_.for_each_parameter(visit);
    linear_o_.for_each_parameter(visit);
    if (relative_) relative_->for_each_parameter(visit);
  }

 private:
  /// (heads, distances, head_dim) for all distances between `positions` positions, or those from 0
  /// on if attention is causal.
  template <Precision P>
  [[nodiscard]] Variable<P> relative_positions(Tape<P>& tape, std::size_t positions) const;

  std::string name_;
  Options options_;
  Scaling scaling_;
  std::size_t heads_;
  Linear linear_qkv_;
  Linear linear_o_;
  DropoutSource dropout_;
  std::optional<Linear> relative_;
};

template <Precision P>
Variable<P> MultiHeadAttention::operator()(const Variable<P>& x,
                                           const Array<std::int32_t>& mask) const {
  const auto module = x.tape().enter(name_);
  const auto parts = ops::split_heads(linear_qkv_(x), {.heads = heads_});
  const auto& q = std::get<0>(parts);
  const auto& k = std::get<1>(parts);
  const auto& v = std::get<2>(parts);
  const Shape& of_mask = mask.shape();
  require_shape(mask.empty() || of_mask.rank() == 2, "MultiHeadAttention",
                "mask (batch, positions)", of_mask);
  const ops::ScaledDotProductAttention op{
      .scaling = scaling_,
      .mult = options_.mult,
      .is_causal = options_.is_causal,
      .dropout_probability = dropout_.probability(x.tape()),
      .random = dropout_.random(x.tape()),
      .mask = mask.empty() ? mask : mask.reshaped({of_mask[0], 1, of_mask[1]})};
  const auto attend = [&] {
    if (options_.rotary_base) {
      const ops::Rotary turn{.base = *options_.rotary_base};
      // One after the other: compilers differ in the order in which they evaluate arguments.
      const Variable<P> turned_q = ops::rotary(q, turn);
      const Variable<P> turned_k = ops::rotary(k, turn);
      return ops::scaled_dot_product_attention(turned_q, turned_k, v, op);
    }
    if (relative_) {
      const auto r = relative_positions(x.tape(), x.shape()[x.shape().rank() - 2]);
      return ops::scaled_dot_product_attention(q, k, v, r, op);
    }
    return ops::scaled_dot_product_attention(q, k, v, op);
  };
  return linear_o_(ops::merge_heads(attend()));
}

template <Precision P>
Variable<P> MultiHeadAttention::relative_positions(Tape<P>& tape, std::size_t positions) const {
  const auto outside = tape.outside_batch();
  const std::size_t behind =
      options_.is_causal ? 0 : positions - std::min<std::size_t>(1, positions);
  const auto sinusoids = ops::sinusoidal_positions<typename P::storage>(
      positions + behind, options_.relative_frequencies, options_.relative_max_period,
      -static_cast<std::ptrdiff_t>(behind));
  return ops::separate_heads((*relative_)(tape.constant(sinusoids)), {.heads = heads_});
}

}  // namespace UNIT_SCALING_NAMESPACE::nn

UNIT_SCALING_IEEE_END
