// SPDX-License-Identifier: MIT
/// @file
/// Layer analysis: the table of every op's factors, for people.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "unit_scaling/analysis/short_number.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/ops/add.hpp"
#include "unit_scaling/ops/conv1d.hpp"
#include "unit_scaling/ops/cross_entropy.hpp"
#include "unit_scaling/ops/dropout.hpp"
#include "unit_scaling/ops/embedding.hpp"
#include "unit_scaling/ops/gelu.hpp"
#include "unit_scaling/ops/gelu_linear.hpp"
#include "unit_scaling/ops/heads.hpp"
#include "unit_scaling/ops/layer_norm.hpp"
#include "unit_scaling/ops/linear.hpp"
#include "unit_scaling/ops/linear_readout.hpp"
#include "unit_scaling/ops/matmul.hpp"
#include "unit_scaling/ops/mean.hpp"
#include "unit_scaling/ops/mse_loss.hpp"
#include "unit_scaling/ops/mul.hpp"
#include "unit_scaling/ops/recurrent_highway.hpp"
#include "unit_scaling/ops/relu.hpp"
#include "unit_scaling/ops/reshape.hpp"
#include "unit_scaling/ops/residual.hpp"
#include "unit_scaling/ops/rms_norm.hpp"
#include "unit_scaling/ops/rotary.hpp"
#include "unit_scaling/ops/scale.hpp"
#include "unit_scaling/ops/scaled_dot_product_attention.hpp"
#include "unit_scaling/ops/sigmoid.hpp"
#include "unit_scaling/ops/silu.hpp"
#include "unit_scaling/ops/silu_glu.hpp"
#include "unit_scaling/ops/softmax.hpp"
#include "unit_scaling/ops/sum.hpp"
#include "unit_scaling/ops/tanh.hpp"
#include "unit_scaling/ops/token_mixing.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::analysis {

/// The factors of one op: what they are, in symbols, and what the op itself says they are for an
/// example.
struct ScaleRuleRow {
  /// α first, then one β for each differentiable argument.
  using Factors = std::vector<double>;

  std::string_view op;
  std::string_view arguments;
  std::string_view forward;      ///< α in symbols
  std::string_view backward;     ///< β in symbols
  std::string_view constrained;  ///< which of them the constraint makes equal
  std::string_view example;      ///< the sizes of the example
  /// The factors of the example under a scaling.
  std::function<Factors(const Scaling&)> factors;
};

namespace detail {

template <std::size_t N> [[nodiscard]] std::vector<double> flat(const Scales<N>& scales) {
  std::vector<double> result{scales.forward};
  result.insert(result.end(), scales.backward.begin(), scales.backward.end());
  return result;
}

/// The factors of `op` on arrays, whose elements nobody looks at.
template <class Op, class... Arrays>
[[nodiscard]] auto factors_of(const Op& op, const Arrays&... arrays) {
  return [=](const Scaling& scaling) {
    Op scaled = op;
    if constexpr (requires { scaled.scaling; }) scaled.scaling = scaling;
    return flat(scaled.scales(arrays...));
  };
}

[[nodiscard]] inline Array<float> of(const Shape& shape) { return Array<float>(shape); }
[[nodiscard]] inline Array<std::int32_t> ids(const Shape& shape) {
  return Array<std::int32_t>::filled(shape, 0);
}

[[nodiscard]] inline std::string factors_text(const std::vector<double>& factors) {
  std::string text;
  for (const double factor : factors) {
    text += (text.empty()                          ? ""
             : text.find(';') == std::string::npos ? "; "
                                                   : ", ") +
            short_number(factor);
  }
  return text;
}

}  // namespace detail

/// Every op with factors, in the order of the alphabet. s is the last extent, m the op's `mult`, p
/// a probability; "a … b (w)" is interpolated in logarithms with weight w on b.
[[nodiscard]] inline std::vector<ScaleRuleRow> scale_rules() {
  using detail::factors_of;
  using detail::ids;
  using detail::of;
  const Shape square{32, 64};
  const auto x = of(square);
  return {
      {"add", "a, b", "2^-½; 1 if one is a single number", "(times repeated)^-½", "α, β_a, β_b",
       "(32, 64), (64)", factors_of(ops::Add{}, x, of({64}))},
      {"conv1d", "x, w[, b]", "(channels/groups · kernel_size)^-½",
       "x: (stride · groups / (fan_out · kernel_size))^½; w, b: (batch · out_length)^-½", "α, β_x",
       "(4, 8, 18), (16, 8, 3), stride 1",
       factors_of(ops::Conv1d{}, of({4, 8, 18}), of({16, 8, 3}))},
      {"cross_entropy", "logits, labels", "mean: 1/items; sum: 1",
       "classes / (classes − 1)^½, over 1 − label_smoothing", "none", "(32, 64) logits",
       factors_of(ops::CrossEntropy{}, x, ids({32}))},
      {"dropout", "x", "(1 − p)^½", "(1 − p)^½", "equal", "p = 0.25",
       factors_of(ops::Dropout{.probability = 0.25}, x)},
      {"embedding", "ids, table", "1", "(entries / ids)^½", "none", "256 ids, (64, 32)",
       factors_of(ops::Embedding{}, ids({256}), of({64, 32}))},
      {"gelu", "x", "paper: Var[xΦ]^-½; u-μP: 2 … (2/(1 − 1/π))^½ (1/(1 + 1/4m²))",
       "paper: E[(Φ + xφ)²]^-½; u-μP: 2 … √2 (the same)", "α, β", "m = 1",
       factors_of(ops::Gelu{}, x)},
      {"gelu_linear", "x, w[, b]", "gelu's α, then linear's", "linear's, then gelu's for x",
       "as in each", "linear's factors for (32, 64), (256, 64)",
       [x](const Scaling& scaling) {
         return detail::flat(
             ops::GeluLinear{.gelu = {.scaling = scaling}, .linear = {.scaling = scaling}}.scales(
                 x, of({256, 64})));
       }},
      {"layer_norm", "x[, gain, bias]", "1", "x: 1; gain, bias: rows^-½", "none",
       "(32, 64), (64), (64)", factors_of(ops::LayerNorm{}, x, of({64}), of({64}))},
      {"linear", "x, w[, b]", "fan_in^-½", "x: fan_out^-½; w, b: rows^-½", "α, β_x",
       "(32, 64), (256, 64)", factors_of(ops::Linear{}, x, of({256, 64}))},
      {"linear_readout", "x, w[, b]", "paper: fan_in^-½; u-μP: fan_in^-1",
       "x: fan_out^-½; w, b: rows^-½", "none unless asked for", "(32, 64), (256, 64)",
       factors_of(ops::LinearReadout{}, x, of({256, 64}))},
      {"matmul", "l, r", "k^-½ for (m, k) × (k, n)", "l: n^-½; r: m^-½", "α, β_l, β_r",
       "(32, 64), (64, 256)", factors_of(ops::Matmul{}, x, of({64, 256}))},
      {"mean", "x", "s^½", "s", "α, β", "(32, 64)", factors_of(ops::Mean{}, x)},
      {"merge_heads", "x", "1", "1", "equal", "(2, 4, 8, 16)",
       factors_of(ops::MergeHeads{}, of({2, 4, 8, 16}))},
      {"mse_loss", "x, target", "mean: 1/size; sum: 1", "8^-½", "none", "(32, 64) twice",
       factors_of(ops::MseLoss{}, x, x)},
      {"mul", "a, b", "1", "1", "equal", "(32, 64) twice", factors_of(ops::Mul{}, x, x)},
      {"recurrent_highway", "x, w, b, initial", "of the gates: (input + hidden)^-½",
       "x: (2 hidden)^-½; w, b: (batch · positions)^-½; initial: α batch^-½", "α, β_x",
       "(8, 32, 64), hidden 64",
       factors_of(ops::RecurrentHighway{}, of({8, 32, 64}), of({128, 128}), of({128}), of({64}))},
      {"relu", "x", "(1/2 − 1/2π)^-½", "√2", "α, β", "", factors_of(ops::Relu{}, x)},
      {"reshape", "x", "1", "1", "equal", "", factors_of(ops::Reshape{.shape = square}, x)},
      {"residual_add", "branch, skip", "y = w_b branch + w_s skip", "1", "none", "",
       factors_of(ops::ResidualAdd{}, x, x)},
      {"residual_split", "x", "1", "dx = w_b dbranch + w_s dskip", "none", "",
       factors_of(ops::ResidualSplit{}, x)},
      {"rms_norm", "x[, gain]", "1", "x: 1; gain: rows^-½", "none", "(32, 64), (64)",
       factors_of(ops::RmsNorm{}, x, of({64}))},
      {"rotary", "x", "1", "1", "equal", "", factors_of(ops::Rotary{}, x)},
      {"scale_bwd", "x", "1", "the factor", "none", "factor 0.5",
       factors_of(ops::ScaleBackward{.factor = 0.5}, x)},
      {"scale_fwd", "x", "the factor", "1", "none", "factor 0.5",
       factors_of(ops::ScaleForward{.factor = 0.5}, x)},
      {"scaled_dot_product_attention", "q, k, v[, r]",
       "paper's principle: ((1 − p)/σ²)^½, σ² = mean over queries of E Σ_j p_ij²; u-μP: (1 − p)^½ "
       "(keys/L)^((1 − w)/2), w = 1/(1 + 4d/m²), L = ln keys if causal and keys > 1, else 1; "
       "keys and queries are context_length where it is given",
       "paper's principle: q: α/(c √d), k: that · (keys/(g queries))^½, v: α (keys/(g queries))^½ "
       "for g heads of queries on one of keys; u-μP: α; "
       "r: α/(c √head_dim) · (distances/(batch · queries))^½",
       "α, β_q, β_k, β_v", "(2, 4, 64, 16) thrice",
       factors_of(ops::ScaledDotProductAttention{}, of({2, 4, 64, 16}), of({2, 4, 64, 16}),
                  of({2, 4, 64, 16}))},
      {"separate_heads", "x", "1", "1", "equal", "(8, 16), 4 heads",
       factors_of(ops::SeparateHeads{.heads = 4}, of({8, 16}))},
      {"sigmoid", "x", "Var[σ]^-½", "E[σ'²]^-½", "α, β", "", factors_of(ops::Sigmoid{}, x)},
      {"silu", "x", "paper's principle: Var[xσ]^-½; u-μP: 2 … (2/(1 − 1/π))^½ (1/(1 + 1/4m²))",
       "paper's principle: E[f'²]^-½; u-μP: 2 … √2 (1/(1 + 1/m²))", "α, β", "m = 1",
       factors_of(ops::Silu{}, x)},
      {"silu_glu", "x, gate", "paper's principle: E[(gσ)²]^-½; u-μP: 2 … √2 (1/(1 + 1/m²))",
       "paper's principle: x: α, gate: E[f'²]^-½; u-μP: α", "α, β_x, β_gate", "m = 1",
       factors_of(ops::SiluGlu{}, x, x)},
      {"softmax", "x", "paper: s; u-μP: s … s^½ (1/(1 + 4/m²))",
       "paper: s; u-μP: s/m … (s/m)^½ (the same)", "α, β", "(32, 64)",
       factors_of(ops::Softmax{}, x)},
      {"split_heads", "x", "1", "1", "equal", "(8, 48), 4 heads",
       factors_of(ops::SplitHeads{.heads = 4}, of({8, 48}))},
      {"sum", "x", "s^-½", "1", "α, β", "(32, 64)", factors_of(ops::Sum{}, x)},
      {"tanh", "x", "Var[tanh]^-½", "E[tanh'²]^-½", "α, β", "", factors_of(ops::Tanh{}, x)},
      {"token_mixing", "x, w", "positions^-½", "x: out_positions^-½; w: (sequences · channels)^-½",
       "α, β_x", "(4, 32, 16), (64, 32)",
       factors_of(ops::TokenMixing{}, of({4, 32, 16}), of({64, 32}))},
  };
}

/// The table as Markdown: symbols, then the example's factors "α; β, …" as the op computes them.
[[nodiscard]] inline std::string scale_rules_markdown() {
  std::string text =
      "| op | arguments | α | β | constrained |\n"
      "|---|---|---|---|---|\n";
  const std::vector<ScaleRuleRow> rows = scale_rules();
  for (const ScaleRuleRow& row : rows) {
    text += "| `" + std::string(row.op) + "` |";
    for (const std::string_view cell :
         {row.arguments, row.forward, row.backward, row.constrained}) {
      ((text += ' ') += cell) += " |";
    }
    text += "\n";
  }
  text +=
      "\n| op | example | ideal, paper | used, paper | ideal, u-μP | used, u-μP | none |\n"
      "|---|---|---|---|---|---|---|\n";
  for (const ScaleRuleRow& row : rows) {
    text += "| `" + std::string(row.op) + "` | " + std::string(row.example) + " |";
    for (const Scaling& scaling : {scaling::paper.on_cut_edge(), scaling::paper,
                                   scaling::umup.on_cut_edge(), scaling::umup, scaling::none}) {
      ((text += ' ') += detail::factors_text(row.factors(scaling))) += " |";
    }
    text += "\n";
  }
  return text;
}

}  // namespace UNIT_SCALING_NAMESPACE::analysis

UNIT_SCALING_IEEE_END
