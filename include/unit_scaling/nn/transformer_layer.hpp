// SPDX-License-Identifier: MIT
/// @file
/// Layer nn: one layer of a transformer.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <variant>

#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/shape.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/nn/dropout.hpp"
#include "unit_scaling/nn/feed_forward.hpp"
#include "unit_scaling/nn/multi_head_attention.hpp"
#include "unit_scaling/nn/norm.hpp"
#include "unit_scaling/nn/residual.hpp"
#include "unit_scaling/nn/swiglu.hpp"
#include "unit_scaling/ops/layer_norm.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::nn {

/// Which feed-forward network.
enum class MlpKind {
  gelu,    ///< FeedForward, as in BERT
  swiglu,  ///< SwiGlu, as in the reference library's transformer
};

/// What a transformer's layers are like.
struct TransformerConfig {
  std::size_t hidden_size = 0;  ///< has no default: at least 1
  /// The length of the sequences of training, for which attention's factors are made: a trained
  /// model is then the same function at every length. Has no default: at least 1.
  std::size_t context_length = 0;
  std::size_t layers = 2;
  std::size_t heads = 1;
  std::size_t kv_heads = 0;    ///< see MultiHeadAttention::Options
  std::size_t window = 0;      ///< see MultiHeadAttention::Options
  std::size_t expansion = 4;   ///< inner size of the feed-forward network over hidden_size
  std::size_t inner_size = 0;  ///< of the feed-forward network; 0: expansion · hidden_size
  bool is_causal = false;      ///< no position attends to a later one
  NormPlacement norm_placement = NormPlacement::pre;
  NormKind norm = NormKind::rms_norm;
  double norm_epsilon = ops::LayerNorm{}.epsilon;  ///< ε of every norm
  MlpKind mlp = MlpKind::swiglu;
  ops::GeluForm gelu_form = ops::GeluForm::erf;  ///< of MlpKind::gelu
  bool attention_bias = false;
  double dropout = 0;         ///< probability, at the end of each branch and on attention's weights
  double attention_mult = 1;  ///< on the logits of attention's softmax
  std::optional<double> rotary_base = std::nullopt;  ///< see MultiHeadAttention::Options
  std::size_t relative_frequencies = 0;              ///< see MultiHeadAttention::Options
  /// τ of each branch, attention's and the feed-forward's by turns; empty: default_residual_rule.
  ResidualRule residual_rule = {};

  /// What modules of it ask when they are made.
  /// @throws DomainError if a size is 0 that leaves nothing to train, hidden_size or expansion, or
  ///         if there is no context_length.
  void require_attributes() const {
    require_size("TransformerConfig", "hidden_size", hidden_size);
    require_size("TransformerConfig", "context_length", context_length);
    if (inner_size == 0) require_size("TransformerConfig", "expansion", expansion);
  }
};

/// Two residual connections, round attention and round a feed-forward network, each with its norm.
/// x and y (batch, positions, hidden_size).
/// @see Vaswani et al. 2017, arXiv:1706.03762; Xiong et al. 2020, arXiv:2002.04745 (pre-norm).
class TransformerLayer {
 public:
  /// τ of the two branches is in the convention of the initialiser's rule.
  /// @throws DomainError as TransformerConfig, MultiHeadAttention and Residual.
  TransformerLayer(Initialiser& initialiser, const std::string& name,
                   const TransformerConfig& config, double attention_tau, double mlp_tau)
      : attention_(make_attention(initialiser, name, config, attention_tau)),
        mlp_(make_mlp(initialiser, name, config, mlp_tau)) {}

  /// @param context as in MultiHeadAttention.
  template <Precision P>
  [[nodiscard]] Variable<P> operator()(const Variable<P>& x,
                                       const AttentionContext<P>& context = {}) const;

  /// Calls `visit(parameter)` for each parameter.
  template <class Visitor> void for_each_parameter(const Visitor& visit) {
    attention_.for_each_parameter(visit);
    mlp_.for_each_parameter(visit);
  }

  /// Shows the other states, those of attention, to `visit(name, state)`.
  template <class Visitor> void for_each_state(const Visitor& visit) {
    attention_.for_each_state(visit);
  }

 private:
  struct AttentionBranch {
    MultiHeadAttention attention;
    Dropout dropout;

    template <Precision P>
    [[nodiscard]] Variable<P> operator()(const Variable<P>& x,
                                         const AttentionContext<P>& context) const;
    template <class Visitor> void for_each_parameter(const Visitor& visit) {
      attention.for_each_parameter(visit);
    }
    template <class Visitor> void for_each_state(const Visitor& visit) {
      attention.for_each_state(visit);
    }
  };

  struct MlpBranch {
    std::variant<FeedForward, SwiGlu> mlp;
    Dropout dropout;

    template <Precision P> [[nodiscard]] Variable<P> operator()(const Variable<P>& x) const;
    template <class Visitor> void for_each_parameter(const Visitor& visit) {
      std::visit([&](auto& each) { each.for_each_parameter(visit); }, mlp);
    }
  };

  // Each function makes its parts in a written order: it decides which random numbers they get.
  static Residual<AttentionBranch, Norm> make_attention(Initialiser& initialiser,
                                                        const std::string& name,
                                                        const TransformerConfig& config,
                                                        double tau) {
    config.require_attributes();
    MultiHeadAttention attention(initialiser, name + ".mhsa", config.hidden_size, config.heads,
                                 {.is_causal = config.is_causal,
                                  .bias = config.attention_bias,
                                  .mult = config.attention_mult,
                                  .dropout = config.dropout,
                                  .rotary_base = config.rotary_base,
                                  .relative_frequencies = config.relative_frequencies,
                                  .kv_heads = config.kv_heads,
                                  .window = config.window,
                                  .context_length = config.context_length});
    const Dropout dropout(initialiser, config.dropout);
    Norm norm(initialiser, name + ".mhsa_norm", config.hidden_size, config.norm,
              config.norm_epsilon);
    return {initialiser,
            name + ".mhsa",
            config.norm_placement,
            tau,
            AttentionBranch{std::move(attention), dropout},
            std::move(norm)};
  }

  static Residual<MlpBranch, Norm> make_mlp(Initialiser& initialiser, const std::string& name,
                                            const TransformerConfig& config, double tau) {
    const std::size_t inner_size =
        config.inner_size != 0
            ? config.inner_size
            : size_product("TransformerLayer", {config.expansion, config.hidden_size});
    const auto make = [&]() -> std::variant<FeedForward, SwiGlu> {
      if (config.mlp == MlpKind::gelu) {
        return FeedForward(initialiser, name + ".mlp", config.hidden_size, inner_size,
                           config.gelu_form);
      }
      return SwiGlu(initialiser, name + ".mlp", config.hidden_size, inner_size);
    };
    auto mlp = make();
    const Dropout dropout(initialiser, config.dropout);
    Norm norm(initialiser, name + ".mlp_norm", config.hidden_size, config.norm,
              config.norm_epsilon);
    return {initialiser,
            name + ".mlp",
            config.norm_placement,
            tau,
            MlpBranch{std::move(mlp), dropout},
            std::move(norm)};
  }

  Residual<AttentionBranch, Norm> attention_;
  Residual<MlpBranch, Norm> mlp_;
};

template <Precision P>
Variable<P> TransformerLayer::operator()(const Variable<P>& x,
                                         const AttentionContext<P>& context) const {
  return mlp_(attention_(x, context));
}

template <Precision P>
Variable<P> TransformerLayer::AttentionBranch::operator()(
    const Variable<P>& x, const AttentionContext<P>& context) const {
  return dropout(attention(x, context));
}

template <Precision P>
Variable<P> TransformerLayer::MlpBranch::operator()(const Variable<P>& x) const {
  return dropout(std::visit([&](const auto& each) { return each(x); }, mlp));
}

}  // namespace UNIT_SCALING_NAMESPACE::nn

UNIT_SCALING_IEEE_END
