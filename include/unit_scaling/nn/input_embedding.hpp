// SPDX-License-Identifier: MIT
/// @file
/// Layer nn: what a transformer makes of token ids: tokens, positions and segments added up.
#pragma once

#include <cstddef>
#include <cstdint>
#include <numeric>
#include <optional>
#include <string>

#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/kernels/map.hpp"
#include "unit_scaling/nn/embedding.hpp"
#include "unit_scaling/ops/add.hpp"
#include "unit_scaling/ops/sinusoidal_positions.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::nn {

/// How a model tells positions apart at its input.
enum class PositionKind {
  none,        ///< not at all, or inside attention: rotary or relative positions
  learned,     ///< a table of parameters
  sinusoidal,  ///< a fixed table
};

/// y = token [+ position] [+ segment]: ids (batch, positions) to y (batch, positions, hidden_size).
/// Under unit scaling the sum has unit scale: the token counts half of the variance, position and
/// segment share the rest. The edges from the tables are cut-edges, so nothing is constrained.
/// @see Devlin et al. 2018 (BERT), arXiv:1810.04805, figure 2.
class InputEmbedding {
 public:
  struct Options {
    /// Nothing said: none. A transformer without positions inside attention wants to be told.
    std::optional<PositionKind> positions = std::nullopt;
    std::size_t max_positions = 0;  ///< rows of the table of positions; 0 only if there is none
    std::size_t segments = 0;       ///< rows of the table of segments; 0: no segments
  };

  /// @throws DomainError if `vocabulary_size` or `hidden_size` is 0, or `max_positions` where there
  ///         are positions; ShapeError if sizes cannot be counted, or `hidden_size` is odd with
  ///         sinusoidal positions.
  InputEmbedding(Initialiser& initialiser, const std::string& name, std::size_t vocabulary_size,
                 std::size_t hidden_size, const Options& options)
      : name_((require_sizes(vocabulary_size, hidden_size, options), name)),
        options_(options),
        add_{.scaling = initialiser.scaling().on_cut_edge()},
        fixed_{.scaling = scaling::none},
        tokens_(initialiser, name, vocabulary_size, hidden_size) {
    if (options.positions == PositionKind::learned) {
      positions_.emplace(initialiser, name + ".positions", options.max_positions, hidden_size);
    } else if (options.positions == PositionKind::sinusoidal) {
      sinusoids_ = ops::sinusoidal_positions<float>(options.max_positions, hidden_size);
    }
    if (options.segments > 0) {
      segments_.emplace(initialiser, name + ".segments", options.segments, hidden_size);
    }
  }

  /// @param segments the segment of each position, of the shape of ids; empty if there are none.
  /// @param first_position of the ids: how many came before.
  /// @throws ShapeError if there are more positions than `max_positions`, or segments that do not
  ///         fit or are missing.
  template <Precision P>
  [[nodiscard]] Variable<P> operator()(Tape<P>& tape, const Array<std::int32_t>& ids,
                                       const Array<std::int32_t>& segments = {},
                                       std::size_t first_position = 0) const;

  /// The table of tokens, for a read-out that is tied to it.
  [[nodiscard]] const Parameter& table() const& { return tokens_.table(); }
  const Parameter& table() const&& = delete;

  /// Calls `visit(parameter)` for each parameter.
  template <class Visitor> void for_each_parameter(const Visitor& visit) {
    tokens_.for_each_parameter(visit);
    if (positions_) positions_->for_each_parameter(visit);
    if (segments_) segments_->for_each_parameter(visit);
  }

 private:
  static void require_sizes(std::size_t vocabulary_size, std::size_t hidden_size,
                            const Options& options) {
    require_size("InputEmbedding", "vocabulary_size", vocabulary_size);
    require_size("InputEmbedding", "hidden_size", hidden_size);
    if (options.positions.value_or(PositionKind::none) != PositionKind::none) {
      require_size("InputEmbedding", "max_positions", options.max_positions);
    }
  }

  /// Rows of the table of positions from `first` on, (count, hidden_size).
  template <Precision P>
  [[nodiscard]] Variable<P> position_rows(Tape<P>& tape, std::size_t first,
                                          std::size_t count) const;

  std::string name_;
  Options options_;
  ops::Add add_;
  ops::Embedding fixed_;
  Embedding tokens_;
  std::optional<Embedding> positions_;
  std::optional<Embedding> segments_;
  Array<float> sinusoids_;
};

template <Precision P>
Variable<P> InputEmbedding::operator()(Tape<P>& tape, const Array<std::int32_t>& ids,
                                       const Array<std::int32_t>& segments,
                                       std::size_t first_position) const {
  const auto module = tape.enter(name_);
  std::optional<Variable<P>> context;
  if (positions_ || !sinusoids_.empty())
    context = position_rows(tape, first_position, ids.columns());
  if (segments_ || !segments.empty()) {
    require_same_shape("InputEmbedding", "ids and segments", ids.shape(), segments.shape());
    require(segments_.has_value(), "InputEmbedding", "expected no segments: there is no table");
    const Variable<P> rows = (*segments_)(tape, segments);
    context = context ? ops::add(rows, *context, add_) : rows;
  }
  const Variable<P> tokens = tokens_(tape, ids);
  return context ? ops::add(tokens, *context, add_) : tokens;
}

template <Precision P>
Variable<P> InputEmbedding::position_rows(Tape<P>& tape, std::size_t first,
                                          std::size_t count) const {
  const std::size_t end = size_sum("InputEmbedding", {first, count});
  require_shape(
      end <= options_.max_positions, "InputEmbedding",
      [&] { return "at most " + std::to_string(options_.max_positions) + " positions"; },
      Shape{end});
  Array<std::int32_t> indices(Shape{count});
  std::iota(indices.mutable_data(), indices.mutable_data() + count,
            static_cast<std::int32_t>(first));
  const auto outside = tape.outside_batch();
  if (positions_) return (*positions_)(tape, indices);
  using Storage = typename P::storage;
  return ops::embedding(
      indices, tape.constant(kernels::convert<Storage, Overflow::infinity_or_nan>(sinusoids_)),
      fixed_);
}

}  // namespace UNIT_SCALING_NAMESPACE::nn

UNIT_SCALING_IEEE_END
