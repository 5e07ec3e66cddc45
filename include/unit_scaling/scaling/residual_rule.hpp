// SPDX-License-Identifier: MIT
/// @file
/// Layer scaling: how much each residual branch of a stack weighs against what came before it.
#pragma once

#include <cmath>
#include <cstddef>
#include <functional>
#include <string>
#include <string_view>

#include "unit_scaling/core/arithmetic.hpp"
#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/scaling/rule.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE {

/// τ of branch `index` of a stack of `branches`, counted from the input, in the convention of the
/// rules it is used under (see ops::residual_weights).
using ResidualRule = std::function<double(std::size_t index, std::size_t branches)>;

/// The u-μP rule for a stack in which attention (even indices) and feed-forward branches alternate:
/// τ = a / √(branches/2 + n_attention a_attention² + n_mlp a_mlp²), where a is that of the branch
/// and the n count the earlier branches of each kind. So every attention branch contributes the
/// same variance to the stack's output, every feed-forward branch the same, and
///   a_mlp = mult √(2 / (1 + ratio²)), a_attention = ratio a_mlp.
/// @param mult  variance of all branches together over that of the stack's input, as a ratio of
///              standard deviations; 1 makes embedding, attention and feed-forward contribute
///              alike.
/// @param ratio attention's contribution over the feed-forward one's.
/// @throws DomainError unless `mult` is as in `require_multiplier`, and `ratio` as in
///         `require_not_negative`; from the rule itself unless index < branches.
/// @see u-μP, arXiv:2407.17465, appendix G.
[[nodiscard]] inline ResidualRule transformer_residual_scaling_rule(double mult = 1,
                                                                    double ratio = 1) {
  const DefaultArithmetic arithmetic;
  constexpr std::string_view name = "transformer_residual_scaling_rule";
  require_multiplier(name, "mult", mult);
  require_not_negative(name, "ratio", ratio);
  const double mlp = mult * std::sqrt(2 / (1 + ratio * ratio));
  const double attention = ratio * mlp;
  return [=](std::size_t index, std::size_t branches) {
    const DefaultArithmetic of_call;
    require(index < branches, name, "expected an index below the ", branches, " branches, got ",
            index);
    const std::size_t attention_before = (index + 1) / 2;
    const std::size_t mlp_before = index / 2;
    const double variance = static_cast<double>(branches) / 2 +
                            static_cast<double>(attention_before) * attention * attention +
                            static_cast<double>(mlp_before) * mlp * mlp;
    return (index % 2 == 0 ? attention : mlp) / std::sqrt(variance);
  };
}

/// The paper's rule for a stack whose skip connection is a sum (pre-norm): τ = 1 / (index + 2), so
/// that the input and every branch end up with equal weight.
/// @see Blake et al. 2023, arXiv:2303.11257, listing of the scaled FFN ("running mean").
[[nodiscard]] inline ResidualRule running_mean_residual_rule() {
  return [](std::size_t index, std::size_t /*branches*/) {
    return 1 / static_cast<double>(index + 2);
  };
}

/// The same τ for every branch: right where each sum is normalised (post-norm).
/// @throws DomainError unless τ is as in `require_not_negative`.
[[nodiscard]] inline ResidualRule fixed_residual_rule(double tau) {
  require_not_negative("fixed_residual_rule", "tau", tau);
  return [tau](std::size_t /*index*/, std::size_t /*branches*/) { return tau; };
}

}  // namespace UNIT_SCALING_NAMESPACE

UNIT_SCALING_IEEE_END
