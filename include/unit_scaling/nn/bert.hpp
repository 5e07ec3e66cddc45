// SPDX-License-Identifier: MIT
/// @file
/// Layer nn: BERT and its heads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/nn/linear.hpp"
#include "unit_scaling/nn/linear_readout.hpp"
#include "unit_scaling/nn/norm.hpp"
#include "unit_scaling/nn/transformer_encoder.hpp"
#include "unit_scaling/ops/gelu.hpp"
#include "unit_scaling/ops/reshape.hpp"
#include "unit_scaling/ops/tanh.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::nn {

/// Sizes of a Bert; the defaults of `transformer` that differ from BERT's are set by `bert_config`.
struct BertConfig {
  std::size_t vocabulary_size = 0;  ///< has no default: at least 1
  std::size_t max_positions = 512;
  std::size_t segments = 2;
  TransformerConfig transformer = {};
  /// The masked-token head multiplies with the table of tokens instead of a weight of its own.
  bool tied_readout = true;

  /// `transformer`, whose context_length is `max_positions` if it says none.
  [[nodiscard]] TransformerConfig transformer_in_context() const {
    TransformerConfig config = transformer;
    if (config.context_length == 0) config.context_length = max_positions;
    return config;
  }

  /// What a Bert asks when it is made.
  /// @throws DomainError if `vocabulary_size` or `max_positions` is 0, or as TransformerConfig.
  void require_attributes() const {
    require_size("BertConfig", "vocabulary_size", vocabulary_size);
    require_size("BertConfig", "max_positions", max_positions);
    transformer_in_context().require_attributes();
  }
};

/// A configuration with BERT's layers: layer norm, GELU, biases. The paper trains it post-norm.
[[nodiscard]] inline BertConfig bert_config(std::size_t vocabulary_size, std::size_t hidden_size,
                                            std::size_t layers, std::size_t heads) {
  return {.vocabulary_size = vocabulary_size,
          .transformer = {.hidden_size = hidden_size,
                          .layers = layers,
                          .heads = heads,
                          .norm_placement = NormPlacement::post,
                          .norm = NormKind::layer_norm,
                          .mlp = MlpKind::gelu,
                          .attention_bias = true}};
}

/// Hidden states from ids with learned positions and segments, and the masked-token head.
/// Heads on top of the hidden states (pooler, next sentence, classification, spans) are modules of
/// their own below, so that a model has those it trains.
/// @see Devlin et al. 2018, arXiv:1810.04805; Blake et al. 2023, arXiv:2303.11257, section 6.2.
class Bert {
 public:
  /// @throws DomainError as BertConfig; DomainError and ShapeError as TransformerEncoder.
  Bert(Initialiser& initialiser, const BertConfig& config)
      : scaling_((config.require_attributes(), initialiser.scaling())),
        encoder_(initialiser, config.vocabulary_size, config.transformer_in_context(),
                 {.positions = PositionKind::learned,
                  .max_positions = config.max_positions,
                  .segments = config.segments}),
        transform_(initialiser, "mlm.transform", config.transformer.hidden_size,
                   config.transformer.hidden_size),
        norm_(initialiser, "mlm.norm", config.transformer.hidden_size, NormKind::layer_norm,
              config.transformer.norm_epsilon) {
    if (config.tied_readout) {
      tied_bias_ = initialiser.bias("mlm.readout.bias", config.vocabulary_size);
    } else {
      readout_.emplace(initialiser, "mlm.readout", config.transformer.hidden_size,
                       config.vocabulary_size);
    }
  }

  /// Hidden states (batch, positions, hidden_size) of ids (batch, positions).
  /// @param mask zero where a position is padding; empty: none is.
  /// @param segments the segment of each position.
  template <Precision P>
  [[nodiscard]] Variable<P> operator()(Tape<P>& tape, const Array<std::int32_t>& ids,
                                       const Array<std::int32_t>& mask,
                                       const Array<std::int32_t>& segments) const;

  /// Logits (selected, vocabulary_size) of the tokens at the positions that `selected` names by
  /// their index in row-major order.
  template <Precision P>
  [[nodiscard]] Variable<P> masked_token_logits(const Variable<P>& hidden,
                                                const Array<std::int32_t>& selected) const;

  /// Calls `visit(parameter)` for each parameter, from input to output.
  template <class Visitor> void for_each_parameter(const Visitor& visit) {
    encoder_.for_each_parameter(visit);
    transform_.for_each_parameter(visit);
    norm_.for_each_parameter(visit);
    if (readout_) readout_->for_each_parameter(visit);
    if (tied_bias_) visit(*tied_bias_);
  }

  /// Shows the other states, those of attention, to `visit(name, state)`.
  template <class Visitor> void for_each_state(const Visitor& visit) {
    encoder_.for_each_state(visit);
  }

 private:
  Scaling scaling_;
  TransformerEncoder encoder_;
  Linear transform_;
  Norm norm_;
  std::optional<LinearReadout> readout_;
  std::optional<Parameter> tied_bias_;
};

template <Precision P>
Variable<P> Bert::operator()(Tape<P>& tape, const Array<std::int32_t>& ids,
                             const Array<std::int32_t>& mask,
                             const Array<std::int32_t>& segments) const {
  return encoder_(tape, ids, {.mask = mask}, segments);
}

template <Precision P>
Variable<P> Bert::masked_token_logits(const Variable<P>& hidden,
                                      const Array<std::int32_t>& selected) const {
  const auto module = hidden.tape().enter("mlm");
  const ops::Embedding select{.scaling = scaling_};
  const Variable<P> x =
      norm_(ops::gelu(transform_(ops::embedding(selected, hidden, select)), {.scaling = scaling_}));
  if (readout_) return (*readout_)(x);
  return ops::linear_readout(x, encoder_.embedding().table(), *tied_bias_,
                             {.scaling = {scaling_.rule}});
}

/// One vector for a sequence: tanh(dense(first position)); hidden (batch, positions, hidden_size)
/// to y (batch, hidden_size).
class BertPooler {
 public:
  BertPooler(Initialiser& initialiser, const std::string& name, std::size_t hidden_size)
      : name_(name),
        scaling_(initialiser.scaling()),
        dense_(initialiser, name + ".dense", hidden_size, hidden_size) {}

  /// @throws ShapeError unless hidden has three extents and a first position.
  template <Precision P> [[nodiscard]] Variable<P> operator()(const Variable<P>& hidden) const;

  /// Calls `visit(parameter)` for each parameter.
  template <class Visitor> void for_each_parameter(const Visitor& visit) {
    dense_.for_each_parameter(visit);
  }

 private:
  std::string name_;
  Scaling scaling_;
  Linear dense_;
};

template <Precision P> Variable<P> BertPooler::operator()(const Variable<P>& hidden) const {
  const Shape& shape = hidden.shape();
  require_shape(shape.rank() == 3 && shape[1] != 0, "BertPooler",
                "hidden (batch, positions, hidden_size)", shape);
  Array<std::int32_t> first(Shape{shape[0]});
  for (std::size_t i = 0; i < shape[0]; ++i) {
    first.mutable_data()[i] = static_cast<std::int32_t>(i * shape[1]);
  }
  const auto module = hidden.tape().enter(name_);
  const ops::Embedding select{.scaling = scaling_};
  return ops::tanh(dense_(ops::embedding(first, hidden, select)), {.scaling = scaling_});
}

/// A pooler and a read-out: hidden (batch, positions, hidden_size) to logits (batch, classes). With
/// two classes it is BERT's next-sentence head.
class BertClassifier {
 public:
  BertClassifier(Initialiser& initialiser, const std::string& name, std::size_t hidden_size,
                 std::size_t classes)
      : pooler_(initialiser, name + ".pooler", hidden_size),
        readout_(initialiser, name + ".readout", hidden_size, classes) {}

  template <Precision P> [[nodiscard]] Variable<P> operator()(const Variable<P>& hidden) const;

  /// Calls `visit(parameter)` for each parameter.
  template <class Visitor> void for_each_parameter(const Visitor& visit) {
    pooler_.for_each_parameter(visit);
    readout_.for_each_parameter(visit);
  }

 private:
  BertPooler pooler_;
  LinearReadout readout_;
};

template <Precision P> Variable<P> BertClassifier::operator()(const Variable<P>& hidden) const {
  return readout_(pooler_(hidden));
}

/// Where an answer begins and ends: hidden (batch, positions, hidden_size) to the logits (batch,
/// positions) of being its first and its last position.
/// @see Devlin et al. 2018, arXiv:1810.04805, section 4.2.
class BertSpan {
 public:
  BertSpan(Initialiser& initialiser, const std::string& name, std::size_t hidden_size)
      : begin_(initialiser, name + ".begin", hidden_size, 1),
        end_(initialiser, name + ".end", hidden_size, 1) {}

  template <Precision P> struct Logits {
    Variable<P> begin;
    Variable<P> end;
  };

  /// @throws ShapeError unless hidden has three extents.
  template <Precision P> [[nodiscard]] Logits<P> operator()(const Variable<P>& hidden) const;

  /// Calls `visit(parameter)` for each parameter.
  template <class Visitor> void for_each_parameter(const Visitor& visit) {
    begin_.for_each_parameter(visit);
    end_.for_each_parameter(visit);
  }

 private:
  LinearReadout begin_;
  LinearReadout end_;
};

template <Precision P> BertSpan::Logits<P> BertSpan::operator()(const Variable<P>& hidden) const {
  const Shape& shape = hidden.shape();
  require_shape(shape.rank() == 3, "BertSpan", "hidden (batch, positions, hidden_size)", shape);
  const ops::Reshape to{.shape = Shape{shape[0], shape[1]}};
  return {ops::reshape(begin_(hidden), to), ops::reshape(end_(hidden), to)};
}

}  // namespace UNIT_SCALING_NAMESPACE::nn

UNIT_SCALING_IEEE_END
