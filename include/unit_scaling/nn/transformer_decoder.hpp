// SPDX-License-Identifier: MIT
/// @file
/// Layer nn: a language model that predicts the next token.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

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
  struct ReadoutOptions {
    bool tied = false;  ///< multiplies with the table of tokens instead of a weight of its own
  };

  /// Attention is causal whatever `config` says. The read-out is named `projection`.
  /// @throws DomainError and ShapeError as TransformerEncoder.
  TransformerDecoder(Initialiser& initialiser, std::size_t vocabulary_size,
                     const TransformerConfig& config, const InputEmbedding::Options& embedding,
                     const ReadoutOptions& readout)
      : trunk_(initialiser, vocabulary_size, causal(config), embedding),
        scaling_(initialiser.scaling()) {
    if (readout.tied) return;
    projection_.emplace(initialiser, "projection", config.hidden_size, vocabulary_size,
                        LinearReadout::Options{.bias = false});
  }
  TransformerDecoder(Initialiser& initialiser, std::size_t vocabulary_size,
                     const TransformerConfig& config, const InputEmbedding::Options& embedding = {})
      : TransformerDecoder(initialiser, vocabulary_size, config, embedding, ReadoutOptions{}) {}

  /// Logits (batch, positions, vocabulary_size) of the token after each position.
  /// @param context as in TransformerEncoder.
  template <Precision P>
  [[nodiscard]] Variable<P> operator()(Tape<P>& tape, const Array<std::int32_t>& ids,
                                       const AttentionContext<P>& context = {}) const;

  /// Logits (batch, vocabulary_size) of the token after the last position of `ids`, or after the
  /// last one of them that is not padding, of which there has to be one.
  /// @throws ShapeError unless ids are (batch, positions) with at least one position.
  /// @throws DomainError for a sequence of padding.
  template <Precision P>
  [[nodiscard]] Variable<P> next_token_logits(Tape<P>& tape, const Array<std::int32_t>& ids,
                                              const AttentionContext<P>& context = {}) const;

  /// Mean cross-entropy of each token of `ids` (batch, positions) but the first, given those before
  /// it. No loss is asked of padding, of a token behind padding, of the first token of a document
  /// of `context.documents`, and of tokens that are `ignore_index`; the mean is of the others. The
  /// model reads all tokens, so an `ignore_index` is one of the vocabulary.
  /// @throws ShapeError unless ids are (batch, positions) with at least two positions; DomainError
  ///         for a cache.
  template <Precision P>
  [[nodiscard]] Variable<P, typename P::compute> next_token_loss(
      Tape<P>& tape, const Array<std::int32_t>& ids, const AttentionContext<P>& context = {},
      std::optional<std::int32_t> ignore_index = std::nullopt) const;

  /// Calls `visit(parameter)` for each parameter, from input to output.
  template <class Visitor> void for_each_parameter(const Visitor& visit) {
    trunk_.for_each_parameter(visit);
    if (projection_) projection_->for_each_parameter(visit);
  }

  /// Shows the other states, those of attention, to `visit(name, state)`.
  template <class Visitor> void for_each_state(const Visitor& visit) {
    trunk_.for_each_state(visit);
  }

 private:
  static TransformerConfig causal(TransformerConfig config) {
    config.is_causal = true;
    return config;
  }

  /// Logits of hidden states (…, hidden_size).
  template <Precision P> [[nodiscard]] Variable<P> read_out(const Variable<P>& hidden) const;

  /// Rows (count, hidden_size) of hidden states (batch, positions, hidden_size).
  template <Precision P>
  [[nodiscard]] static Variable<P> rows_of(const Variable<P>& hidden,
                                           const Array<std::int32_t>& rows) {
    return ops::embedding(rows, hidden, {.scaling = scaling::none});
  }

  TransformerEncoder trunk_;
  Scaling scaling_;
  std::optional<LinearReadout> projection_;
};

template <Precision P> Variable<P> TransformerDecoder::read_out(const Variable<P>& hidden) const {
  if (projection_) return (*projection_)(hidden);
  return ops::linear_readout(hidden, trunk_.embedding().table(), {.scaling = {scaling_.rule}});
}

template <Precision P>
Variable<P> TransformerDecoder::operator()(Tape<P>& tape, const Array<std::int32_t>& ids,
                                           const AttentionContext<P>& context) const {
  return read_out(trunk_(tape, ids, context));
}

template <Precision P>
Variable<P> TransformerDecoder::next_token_logits(Tape<P>& tape, const Array<std::int32_t>& ids,
                                                  const AttentionContext<P>& context) const {
  require_shape(ids.shape().rank() == 2 && ids.columns() >= 1, "next_token_logits",
                "ids (batch, positions), positions of at least 1", ids.shape());
  const Variable<P> hidden = trunk_(tape, ids, context);
  const std::size_t positions = ids.columns();
  Array<std::int32_t> last(Shape{ids.rows()}, &tape.memory());
  for (std::size_t sequence = 0; sequence < ids.rows(); ++sequence) {
    std::size_t end = positions;
    if (!context.mask.empty()) {
      // With a cache the mask begins with the positions that it has.
      const std::int32_t* const mask =
          context.mask.row(sequence) + (context.mask.columns() - positions);
      while (end > 0 && mask[end - 1] == 0) --end;
      require(end > 0, "next_token_logits",
              "expected a token that is not padding, got none in sequence ", sequence);
    }
    last.mutable_data()[sequence] = static_cast<std::int32_t>(sequence * positions + end - 1);
  }
  return read_out(rows_of(hidden, last));
}

template <Precision P>
Variable<P, typename P::compute> TransformerDecoder::next_token_loss(
    Tape<P>& tape, const Array<std::int32_t>& ids, const AttentionContext<P>& context,
    std::optional<std::int32_t> ignore_index) const {
  require_shape(ids.shape().rank() == 2 && ids.columns() >= 2, "next_token_loss",
                "ids (batch, positions), positions of at least 2", ids.shape());
  require(context.cache == nullptr, "next_token_loss", "expected no KeyValueCache");
  const Variable<P> logits = (*this)(tape, ids, context);  // asks whether the context fits
  const auto is_asked = [&](std::size_t next) {
    if (next % ids.columns() == 0 || ids.data()[next] == ignore_index) return false;
    const std::int32_t* const mask = context.mask.data();
    const bool is_padding = !context.mask.empty() && (mask[next] == 0 || mask[next - 1] == 0);
    const std::int32_t* const documents = context.documents.data();
    const bool begins_document =
        !context.documents.empty() && documents[next - 1] != documents[next];
    return !is_padding && !begins_document;
  };
  std::size_t asked = 0;
  for (std::size_t next = 1; next < ids.size(); ++next) asked += is_asked(next) ? 1U : 0U;
  Array<std::int32_t> predicting(Shape{asked}, &tape.memory());
  Array<std::int32_t> labels(Shape{asked}, &tape.memory());
  std::int32_t* const to_predicting = predicting.mutable_data();
  std::int32_t* const to_labels = labels.mutable_data();
  std::size_t count = 0;
  for (std::size_t next = 1; next < ids.size(); ++next) {
    if (!is_asked(next)) continue;
    to_predicting[count] = static_cast<std::int32_t>(next - 1);
    to_labels[count] = ids.data()[next];
    ++count;
  }
  return ops::cross_entropy(rows_of(logits, predicting), labels, {.scaling = scaling_});
}

}  // namespace UNIT_SCALING_NAMESPACE::nn

UNIT_SCALING_IEEE_END
