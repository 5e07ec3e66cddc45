// SPDX-License-Identifier: MIT
/// @file
/// Layer nn: a BERT-style masked language model that mixes positions with a matrix.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/shape.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/nn/depth.hpp"
#include "unit_scaling/nn/embedding.hpp"
#include "unit_scaling/nn/feed_forward.hpp"
#include "unit_scaling/nn/layer_norm.hpp"
#include "unit_scaling/nn/linear_readout.hpp"
#include "unit_scaling/nn/residual.hpp"
#include "unit_scaling/nn/sequential.hpp"
#include "unit_scaling/nn/token_mixing.hpp"
#include "unit_scaling/ops/add.hpp"
#include "unit_scaling/ops/layer_norm.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::nn {

/// Sizes of a BertMlp.
struct BertMlpConfig {
  std::size_t vocabulary_size = 0;  ///< has no default: at least 1
  std::size_t window = 64;          ///< positions of a sequence
  std::size_t hidden_size = 128;
  std::size_t layers = 4;     ///< blocks, each of two residual branches
  std::size_t expansion = 4;  ///< inner size of the feed-forward network over hidden_size
  NormPlacement norm = NormPlacement::pre;
  double norm_epsilon = ops::LayerNorm{}.epsilon;  ///< ε of every norm

  /// What a BertMlp asks when it is made.
  /// @throws DomainError if a size is 0, but for `layers`.
  void require_attributes() const {
    require_size("BertMlpConfig", "vocabulary_size", vocabulary_size);
    require_size("BertMlpConfig", "window", window);
    require_size("BertMlpConfig", "hidden_size", hidden_size);
    require_size("BertMlpConfig", "expansion", expansion);
  }
};

/// Token embedding + position embedding → blocks → layer norm → read-out over the vocabulary.
/// A block is two residual connections: one that mixes positions (a matrix across the window; there
/// is no attention) and BERT's feed-forward network.
///
/// The read-out is computed for selected positions only, and is not constrained: the edge into it
/// is a cut-edge. So are those from the embeddings. Under u-μP the residual weights follow the
/// transformer's rule, mixing standing where attention does.
class BertMlp {
 public:
  /// @throws DomainError as BertMlpConfig; ShapeError if sizes cannot be counted.
  BertMlp(Initialiser& initialiser, const BertMlpConfig& config)
      : config_((config.require_attributes(), config)),
        tokens_(initialiser, "tokens", config.vocabulary_size, config.hidden_size),
        positions_(initialiser, "positions", config.window, config.hidden_size),
        add_{.scaling = initialiser.scaling().on_cut_edge()},
        select_{.scaling = initialiser.scaling()},
        blocks_(make_blocks(initialiser, config)),
        norm_(initialiser, "norm", config.hidden_size, config.norm_epsilon),
        readout_(initialiser, "readout", config.hidden_size, config.vocabulary_size,
                 {.bias = false}) {}

  /// Logits (selected, vocabulary_size) for the positions of `ids` (batch, window) that `selected`
  /// names by their index in row-major order.
  ///
  /// On a tape for inference that nobody observes, what follows the last mixing of positions is
  /// computed for the selected ones alone. A row of it depends on no other.
  template <Precision P>
  [[nodiscard]] Variable<P> operator()(Tape<P>& tape, const Array<std::int32_t>& ids,
                                       const Array<std::int32_t>& selected) const;

  [[nodiscard]] const BertMlpConfig& config() const& { return config_; }
  [[nodiscard]] BertMlpConfig config() const&& { return config_; }

  /// Floating-point operations in the matrix products of one forward pass, per token of the input;
  /// `selected_share` of the tokens reach the read-out. A training step takes three times as many.
  [[nodiscard]] double matmul_flops_per_token(double selected_share) const {
    const auto h = static_cast<double>(config_.hidden_size);
    const double mixing = static_cast<double>(config_.window) * h;
    const double feed_forward = 2 * static_cast<double>(config_.expansion) * h * h;
    const double readout = selected_share * h * static_cast<double>(config_.vocabulary_size);
    return 2 * (static_cast<double>(config_.layers) * (mixing + feed_forward) + readout);
  }

  /// Calls `visit(parameter)` for each parameter, from input to output.
  template <class Visitor> void for_each_parameter(const Visitor& visit) {
    tokens_.for_each_parameter(visit);
    positions_.for_each_parameter(visit);
    blocks_.for_each_parameter(visit);
    norm_.for_each_parameter(visit);
    readout_.for_each_parameter(visit);
  }

 private:
  using Block = Sequential<Residual<TokenMixing>, Residual<FeedForward>>;

  static DepthModuleList<Block> make_blocks(Initialiser& initialiser, const BertMlpConfig& config) {
    const ResidualRule tau = default_residual_rule(initialiser.scaling().rule, config.norm);
    const std::size_t branches = size_product("BertMlp", {2, config.layers});
    const std::size_t inner_size = size_product("BertMlp", {config.expansion, config.hidden_size});
    const std::size_t h = config.hidden_size;
    std::vector<Block> blocks;
    blocks.reserve(config.layers);
    for (std::size_t i = 0; i < config.layers; ++i) {
      const std::string mixing_name = "blocks." + std::to_string(i) + ".mixing";
      TokenMixing mixing(initialiser, mixing_name, config.window);
      LayerNorm mixing_norm(initialiser, mixing_name + ".norm", h, config.norm_epsilon);
      const std::string feed_forward_name = "blocks." + std::to_string(i) + ".feed_forward";
      FeedForward feed_forward(initialiser, feed_forward_name, h, inner_size);
      LayerNorm feed_forward_norm(initialiser, feed_forward_name + ".norm", h, config.norm_epsilon);
      blocks.emplace_back(
          Residual(initialiser, mixing_name, config.norm, tau(2 * i, branches), std::move(mixing),
                   std::move(mixing_norm)),
          Residual(initialiser, feed_forward_name, config.norm, tau(2 * i + 1, branches),
                   std::move(feed_forward), std::move(feed_forward_norm)));
    }
    return DepthModuleList(std::move(blocks));
  }

  BertMlpConfig config_;
  Embedding tokens_;
  Embedding positions_;
  ops::Add add_;
  ops::Embedding select_;
  DepthModuleList<Block> blocks_;
  LayerNorm norm_;
  LinearReadout readout_;
};

template <Precision P>
Variable<P> BertMlp::operator()(Tape<P>& tape, const Array<std::int32_t>& ids,
                                const Array<std::int32_t>& selected) const {
  // Not in training: factors of gradients count rows, so fewer of them would be another step.
  const bool selects_early = tape.mode() == TapeMode::inference && !tape.is_observed();
  Variable<P> x = ops::add(tokens_(tape, ids), positions_.table(), add_);
  for (std::size_t i = 0; i < blocks_.size(); ++i) {
    x = blocks_[i].template get<0>()(x);
    if (selects_early && i + 1 == blocks_.size()) x = ops::embedding(selected, x, select_);
    x = blocks_[i].template get<1>()(x);
  }
  const bool is_selected = selects_early && blocks_.size() != 0;
  return readout_(norm_(is_selected ? x : ops::embedding(selected, x, select_)));
}

}  // namespace UNIT_SCALING_NAMESPACE::nn

UNIT_SCALING_IEEE_END
