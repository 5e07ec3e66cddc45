// SPDX-License-Identifier: MIT
/// @file
/// Layer nn: a language model that predicts the next token.
#pragma once

#include <cstddef>
#include <cstdint>

#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/nn/linear_readout.hpp"
#include "unit_scaling/nn/transformer_encoder.hpp"
#include "unit_scaling/ops/cross_entropy.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::nn {

/// A TransformerEncoder with causal attention and a read-out over the vocabulary.
/// @see the TransformerDecoder of the reference library.
class TransformerDecoder {
 public:
  /// Attention is causal whatever `config` says. The read-out is named `projection`.
  /// @throws DomainError and ShapeError as TransformerEncoder.
  TransformerDecoder(Initialiser& initialiser, std::size_t vocabulary_size,
                     const TransformerConfig& config, const InputEmbedding::Options& embedding = {})
      : trunk_(initialiser, vocabulary_size, causal(config), embedding),
        projection_(initialiser, "projection", config.hidden_size, vocabulary_size,
                    {.bias = false}),
        loss_{.scaling = initialiser.scaling()} {}

  /// Logits (batch, positions, vocabulary_size) of the token after each position.
  template <Precision P>
  [[nodiscard]] Variable<P> operator()(Tape<P>& tape, const Array<std::int32_t>& ids,
                                       const Array<std::int32_t>& mask = {}) const;

  /// Mean cross-entropy of each token of `ids` (batch, positions) but the first, given those before
  /// it.
  /// @throws ShapeError unless ids are (batch, positions) with at least two positions.
  template <Precision P>
  [[nodiscard]] Variable<P, typename P::compute> next_token_loss(
      Tape<P>& tape, const Array<std::int32_t>& ids) const;

  /// Calls `visit(parameter)` for each parameter, from input to output.
  template <class Visitor> void for_each_parameter(const Visitor& visit) {
    trunk_.for_each_parameter(visit);
    projection_.for_each_parameter(visit);
  }

 private:
  static TransformerConfig causal(TransformerConfig config) {
    config.is_causal = true;
    return config;
  }

  TransformerEncoder trunk_;
  LinearReadout projection_;
  ops::CrossEntropy loss_;
};

template <Precision P>
Variable<P> TransformerDecoder::operator()(Tape<P>& tape, const Array<std::int32_t>& ids,
                                           const Array<std::int32_t>& mask) const {
  return projection_(trunk_(tape, ids, mask));
}

template <Precision P>
Variable<P, typename P::compute> TransformerDecoder::next_token_loss(
    Tape<P>& tape, const Array<std::int32_t>& ids) const {
  require_shape(ids.shape().rank() == 2 && ids.columns() >= 2, "next_token_loss",
                "ids (batch, positions), positions of at least 2", ids.shape());
  const std::size_t positions = ids.columns();
  const Shape shape{ids.rows() * (positions - 1)};
  Array<std::int32_t> predicting(shape);
  Array<std::int32_t> labels(shape);
  for (std::size_t i = 0; i < shape.size(); ++i) {
    const std::size_t at = i / (positions - 1) * positions + i % (positions - 1);
    predicting.mutable_data()[i] = static_cast<std::int32_t>(at);
    labels.mutable_data()[i] = ids.data()[at + 1];
  }
  const ops::Embedding select{.scaling = scaling::none};
  return ops::cross_entropy(ops::embedding(predicting, (*this)(tape, ids), select), labels, loss_);
}

}  // namespace UNIT_SCALING_NAMESPACE::nn

UNIT_SCALING_IEEE_END
