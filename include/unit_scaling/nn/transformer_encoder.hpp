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
  /// @throws DomainError and ShapeError as InputEmbedding and TransformerLayer.
  TransformerEncoder(Initialiser& initialiser, std::size_t vocabulary_size,
                     const TransformerConfig& config, const InputEmbedding::Options& embedding = {})
      : embedding_(initialiser, "embedding", vocabulary_size, config.hidden_size, embedding),
        layers_(initialiser, "layers", config) {
    if (config.norm_placement == NormPlacement::pre) {
      norm_.emplace(initialiser, "final_norm", config.hidden_size, config.norm,
                    config.norm_epsilon);
    }
  }

  /// @param mask (batch, positions): zero where a position is padding. Empty: none is.
  /// @param segments as in InputEmbedding.
  template <Precision P>
  [[nodiscard]] Variable<P> operator()(Tape<P>& tape, const Array<std::int32_t>& ids,
                                       const Array<std::int32_t>& mask = {},
                                       const Array<std::int32_t>& segments = {}) const;

  [[nodiscard]] const InputEmbedding& embedding() const& { return embedding_; }
  const InputEmbedding& embedding() const&& = delete;

  /// Calls `visit(parameter)` for each parameter, from input to output.
  template <class Visitor> void for_each_parameter(const Visitor& visit) {
    embedding_.for_each_parameter(visit);
    layers_.for_each_parameter(visit);
    if (norm_) norm_->for_each_parameter(visit);
  }

 private:
  InputEmbedding embedding_;
  TransformerStack layers_;
  std::optional<Norm> norm_;
};

template <Precision P>
Variable<P> TransformerEncoder::operator()(Tape<P>& tape, const Array<std::int32_t>& ids,
                                           const Array<std::int32_t>& mask,
                                           const Array<std::int32_t>& segments) const {
  const Variable<P> y = layers_(embedding_(tape, ids, segments), mask);
  return norm_ ? (*norm_)(y) : y;
}

}  // namespace UNIT_SCALING_NAMESPACE::nn

UNIT_SCALING_IEEE_END
