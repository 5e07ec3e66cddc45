// SPDX-License-Identifier: MIT
/// @file
/// Layer nn: from token ids to hidden states.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "unit_scaling/core/target.hpp"
#include "unit_scaling/nn/input_embedding.hpp"
#include "unit_scaling/nn/norm.hpp"
#include "unit_scaling/nn/transformer_stack.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::nn {

/// Input embedding → transformer layers → norm (after a pre-norm stack; a post-norm one ends in
/// one): ids (batch, positions) to y (batch, positions, hidden_size).
class TransformerEncoder {
 public:
  /// Parameters are named `embedding`, `layers` and `final_norm`.
  /// @throws DomainError and ShapeError as InputEmbedding and TransformerLayer; DomainError if
  ///         nothing says how positions are told apart.
  TransformerEncoder(Initialiser& initialiser, std::size_t vocabulary_size,
                     const TransformerConfig& config, const InputEmbedding::Options& embedding = {})
      : embedding_((require_attributes(config, embedding), initialiser), "embedding",
                   vocabulary_size, config.hidden_size, embedding),
        layers_(initialiser, "layers", config) {
    if (config.norm_placement == NormPlacement::pre) {
      norm_.emplace(initialiser, "final_norm", config.hidden_size, config.norm,
                    config.norm_epsilon);
    }
  }

  /// @param context as in MultiHeadAttention. With a cache, the ids follow those that it has read.
  /// @param segments as in InputEmbedding.
  template <Precision P>
  [[nodiscard]] Variable<P> operator()(Tape<P>& tape, const Array<std::int32_t>& ids,
                                       const AttentionContext<P>& context = {},
                                       const Array<std::int32_t>& segments = {}) const;

  [[nodiscard]] const InputEmbedding& embedding() const& { return embedding_; }
  const InputEmbedding& embedding() const&& = delete;

  /// Calls `visit(parameter)` for each parameter, from input to output.
  template <class Visitor> void for_each_parameter(const Visitor& visit) {
    embedding_.for_each_parameter(visit);
    layers_.for_each_parameter(visit);
    if (norm_) norm_->for_each_parameter(visit);
  }

  /// Shows the other states, those of attention, to `visit(name, state)`.
  template <class Visitor> void for_each_state(const Visitor& visit) {
    layers_.for_each_state(visit);
  }

 private:
  static void require_attributes(const TransformerConfig& config,
                                 const InputEmbedding::Options& embedding) {
    config.require_attributes();
    require(embedding.positions || config.rotary_base || config.relative_frequencies != 0,
            "TransformerEncoder",
            "expected positions: rotary_base or relative_frequencies of TransformerConfig, "
            "PositionKind::learned or sinusoidal of InputEmbedding, or PositionKind::none to do "
            "without");
  }

  InputEmbedding embedding_;
  TransformerStack layers_;
  std::optional<Norm> norm_;
};

template <Precision P>
Variable<P> TransformerEncoder::operator()(Tape<P>& tape, const Array<std::int32_t>& ids,
                                           const AttentionContext<P>& context,
                                           const Array<std::int32_t>& segments) const {
  KeyValueCache<P>* const cache = context.cache;
  const std::size_t before = cache == nullptr ? 0 : cache->length();
  if (!context.mask.empty() || !context.documents.empty()) {
    const Shape keys{ids.rows(), size_sum("TransformerEncoder", {before, ids.columns()})};
    for (const Array<std::int32_t>* each : {&context.mask, &context.documents}) {
      require_shape(each->empty() || (ids.shape().rank() == 2 && each->shape() == keys),
                    "TransformerEncoder",
                    "a mask and documents (batch, positions), those of the cache included",
                    each->shape(), ids.shape());
    }
  }
  if (cache != nullptr) cache->begin(ids.columns());
  const Variable<P> x = layers_(embedding_(tape, ids, segments, before), context);
  const Variable<P> y = norm_ ? (*norm_)(x) : x;
  if (cache != nullptr) cache->end();
  return y;
}

}  // namespace UNIT_SCALING_NAMESPACE::nn

UNIT_SCALING_IEEE_END
