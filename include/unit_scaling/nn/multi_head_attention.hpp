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
#include "unit_scaling/nn/key_value_cache.hpp"
#include "unit_scaling/nn/linear.hpp"
#include "unit_scaling/ops/heads.hpp"
#include "unit_scaling/ops/rotary.hpp"
#include "unit_scaling/ops/scaled_dot_product_attention.hpp"
#include "unit_scaling/ops/sinusoidal_positions.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::nn {

/// y = linear_o(attention of linear_qkv(x)): x and y (batch, positions, hidden_size), by
/// ops::scaled_dot_product_attention over `heads` heads of hidden_size / heads. The columns of
/// linear_qkv are queries, keys and values, each head by head.
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
    /// Heads of keys and values, each of which serves as many heads of queries (grouped-query
    /// attention, Ainslie et al. 2023, arXiv:2305.13245); 0: one for each.
    std::size_t kv_heads = 0;
    std::size_t window = 0;  ///< positions see each other at distances below this; 0: at any
    /// The length of the sequences of training, for which factors are made; 0: that of each call.
    std::size_t context_length = 0;
  };

  /// @throws DomainError if `hidden_size` is 0, `heads` does not divide it or is no multiple of
  ///         `kv_heads`, two kinds of positions are asked for, relative ones with grouped heads, or
  ///         an option is out of its range.
  /// @throws ShapeError if sizes cannot be counted, or `relative_frequencies` is odd.
  MultiHeadAttention(Initialiser& initialiser, const std::string& name, std::size_t hidden_size,
                     std::size_t heads, const Options& options)
      : name_(name),
        options_(options),
        scaling_(initialiser.scaling()),
        heads_(heads),
        linear_qkv_(initialiser, name + ".linear_qkv", hidden_size,
                    qkv_size(hidden_size, heads, options), {.bias = options.bias}),
        linear_o_(initialiser, name + ".linear_o", hidden_size, hidden_size,
                  {.bias = options.bias}),
        dropout_(initialiser, options.dropout) {
    ops::ScaledDotProductAttention{.mult = options.mult, .dropout_probability = options.dropout}
        .require_attributes();
    if (options.rotary_base) ops::Rotary{.base = *options.rotary_base}.require_attributes();
    require(!options.rotary_base || options.relative_frequencies == 0, "MultiHeadAttention",
            "expected rotary or relative positions, not both");
    require(options.relative_frequencies == 0 || options.kv_heads == 0 || options.kv_heads == heads,
            "MultiHeadAttention", "expected as many kv_heads as heads with relative positions");
    if (options.relative_frequencies > 0) {
      // Of no positions: the check of its arguments.
      static_cast<void>(ops::sinusoidal_positions<float>(0, options.relative_frequencies,
                                                         options.relative_max_period));
      relative_.emplace(initialiser, name + ".relative", options.relative_frequencies, hidden_size,
                        Linear::Options{.bias = false, .constraint = constraint::none});
    }
  }

  /// With a cache, in which a call has begun, the positions of x follow those that it has.
  /// @throws ShapeError if the mask, the documents or the cache do not fit; DomainError for a cache
  ///         on a tape for training, or without causal attention.
  template <Precision P>
  [[nodiscard]] Variable<P> operator()(const Variable<P>& x,
                                       const AttentionContext<P>& context = {}) const;

  /// Calls `visit(parameter)` for each parameter.
  template <class Visitor> void for_each_parameter(const Visitor& visit) {
    linear_qkv_.for_each_parameter(visit);
    linear_o_.for_each_parameter(visit);
    if (relative_) relative_->for_each_parameter(visit);
  }

  /// Shows the context length to `visit(name, number)`, which may set it: a checkpoint keeps it, as
  /// the trained function depends on it.
  template <class Visitor> void for_each_state(const Visitor& visit) {
    visit(name_ + ".context_length", options_.context_length);
  }

 private:
  /// Columns of linear_qkv.
  [[nodiscard]] static std::size_t qkv_size(std::size_t hidden_size, std::size_t heads,
                                            const Options& options) {
    require_size("MultiHeadAttention", "hidden_size", hidden_size);
    require(heads > 0 && hidden_size % heads == 0, "MultiHeadAttention",
            "expected heads that divide hidden_size, got ", heads, " for ", hidden_size);
    const std::size_t kv_heads = options.kv_heads == 0 ? heads : options.kv_heads;
    require(heads % kv_heads == 0, "MultiHeadAttention",
            "expected kv_heads that divide heads, got ", kv_heads, " for ", heads);
    const std::size_t of_keys = hidden_size / heads * kv_heads;
    return size_sum("MultiHeadAttention",
                    {hidden_size, size_product("MultiHeadAttention", {2, of_keys})});
  }

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
                                           const AttentionContext<P>& context) const {
  Tape<P>& tape = x.tape();
  const auto module = tape.enter(name_);
  require(context.cache == nullptr || (options_.is_causal && tape.mode() == TapeMode::inference),
          "MultiHeadAttention",
          "expected causal attention on a tape for inference where there is a KeyValueCache");
  const auto parts =
      ops::split_heads(linear_qkv_(x), {.heads = heads_, .kv_heads = options_.kv_heads});
  Variable<P> q = std::get<0>(parts);
  Variable<P> k = std::get<1>(parts);
  Variable<P> v = std::get<2>(parts);
  const std::size_t before = context.cache == nullptr ? 0 : context.cache->length();
  if (options_.rotary_base) {
    const ops::Rotary turn{.base = *options_.rotary_base, .first_position = before};
    q = ops::rotary(q, turn);
    k = ops::rotary(k, turn);
  }
  const Shape& of_mask = context.mask.shape();
  require_shape(context.mask.empty() || of_mask.rank() == 2, "MultiHeadAttention",
                "mask (batch, positions)", of_mask);
  const ops::ScaledDotProductAttention op{
      .scaling = scaling_,
      .mult = options_.mult,
      .is_causal = options_.is_causal,
      .dropout_probability = dropout_.probability(tape),
      .random = dropout_.random(tape),
      .mask =
          context.mask.empty() ? context.mask : context.mask.reshaped({of_mask[0], 1, of_mask[1]}),
      .query_offset = before,
      .window = options_.window,
      .segments = context.documents,
      .context_length = options_.context_length};
  std::optional<Variable<P>> r;
  if (relative_) r = relative_positions(tape, before + x.shape()[x.shape().rank() - 2]);
  if (context.cache != nullptr) {
    KeyValueCache<P>& cache = *context.cache;
    cache.append(name_, k.value(), v.value());
    // Queries see no position behind their own, so there may be any. What somebody looks at, a mask
    // and factors of the call have to do with those that were read.
    if (KeyValueCache<P>::has_whole && options_.context_length != 0 && context.mask.empty() &&
        context.documents.empty() && !tape.is_observed()) {
      const auto [keys, values] = cache.whole(name_);
      k = tape.constant(keys.array, keys.operand);
      v = tape.constant(values.array, values.operand);
    } else {
      const auto [keys, values] = cache.first_positions(name_, &tape.memory());
      k = tape.constant(keys);
      v = tape.constant(values);
    }
  }
  return linear_o_(ops::merge_heads(r ? ops::scaled_dot_product_attention(q, k, v, *r, op)
                                      : ops::scaled_dot_product_attention(q, k, v, op)));
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
