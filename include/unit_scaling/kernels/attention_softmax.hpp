// SPDX-License-Identifier: MIT
/// @file
/// Layer kernels: the softmax of attention, which runs "online" over the blocks of a query's keys.
///
/// Sums are kept relative to the largest score so far and rescaled when a block brings a larger
/// one.
#pragma once

#include <algorithm>
#include <cstddef>
#include <limits>
#include <numbers>

#include "unit_scaling/core/memory.hpp"
#include "unit_scaling/core/simd.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/kernels/attention_dropout.hpp"
#include "unit_scaling/kernels/attention_layout.hpp"
#include "unit_scaling/kernels/attention_mask.hpp"
#include "unit_scaling/kernels/attention_size.hpp"
#include "unit_scaling/kernels/attention_weights.hpp"
#include "unit_scaling/kernels/elementary.hpp"
#include "unit_scaling/kernels/lanes.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::kernels {

namespace detail {

/// What a weight's exponent is times: to the base e, or 2 if the weight is rounded.
template <class Layout>
[[nodiscard]] inline typename Layout::Compute exponent_factor_of(const AttentionSize& size) {
  return static_cast<typename Layout::Compute>(
      Layout::rounds_weights ? size.score_factor * std::numbers::log2e : size.score_factor);
}
/// The weight of a score, before its factor, relative to that of the reference.
template <class Layout>
[[nodiscard, gnu::always_inline]] inline lane_t<typename Layout::Compute> weight_of(
    lane_t<typename Layout::Compute> product, typename Layout::Compute exponent_factor,
    lane_t<typename Layout::Compute> reference) {
  // Subtracted first: with a fused product the largest score would not be its own reference.
  const auto exponent = (product - reference) * exponent_factor;
  if constexpr (Layout::rounds_weights) {
    return exp2_of_nonpositive(exponent);
  } else {
    return exp_of_nonpositive(exponent);
  }
}
/// A weight in Weight.
template <class Layout>
[[nodiscard, gnu::always_inline]] inline lane_t<typename Layout::Compute> rounded(
    lane_t<typename Layout::Compute> weight) {
  if constexpr (Layout::rounds_weights) {
    return round_attention_weight(weight);
  } else {
    return weight;
  }
}
/// Sums to which products with rounded weights will be added.
template <class Layout>
[[nodiscard, gnu::always_inline]] inline lane_t<typename Layout::Compute> without_small(
    lane_t<typename Layout::Compute> sums) {
  if constexpr (Layout::rounds_weights) {
    const auto least = splat<float32x16>(least_attention_weight);
    return select(is_less(sums, least) & is_less(-least, sums), float32x16{}, sums);
  } else {
    return sums;
  }
}

/// The second half of `weigh`: with `keep(weights, place)`, the weights after dropout.
template <class Layout, class Keep>
inline void make_weights(const AttentionBlock& block, const typename Layout::Compute* weights,
                         const typename Layout::Compute* reference,
                         typename Layout::Compute exponent_factor, typename Layout::Compute* sums,
                         typename Layout::Word* words, const Keep& keep) {
  using Compute = typename Layout::Compute;
  constexpr std::size_t panel = Layout::panel;
  constexpr std::size_t step = lane_count<Compute>;
  constexpr std::size_t registers = panel / step;
  lane_t<Compute> sum[registers] = {};
  lane_t<Compute> weight[Layout::word_depth][registers] = {};
  const auto weigh_row = [&](std::size_t b, std::size_t r) __attribute__((always_inline)) {
    for (std::size_t x = 0; x < registers; ++x) {
      const std::size_t at = b * panel + x * step;
      const auto share = weight_of<Layout>(load_lanes(weights + at), exponent_factor,
                                           load_lanes(reference + x * step));
      sum[x] += share;
      weight[r][x] = keep(share, at);
    }
  };
  for (std::size_t b = 0; b < block.keys; b += Layout::word_depth) {
    weigh_row(b, 0);
    if constexpr (Layout::has_pairs) {
      if (b + 1 < block.keys) {
        weigh_row(b + 1, 1);
      } else {
        weight[1][0] = weight[1][1] = float32x16{};
      }
      // What dropout keeps, it makes larger: there are no small ones.
      const RoundedWeights first(weight[0][0], weight[0][1]);
      const RoundedWeights second(weight[1][0], weight[1][1]);
      for (std::size_t x = 0; x < registers; ++x) {
        unit_scaling::store(first.key_pairs(second, x), words + b / 2 * panel + x * step);
      }
    } else {
      for (std::size_t x = 0; x < registers; ++x) {
        store_lanes(rounded<Layout>(weight[0][x]),
                    reinterpret_cast<Compute*>(words) + b * panel + x * step);
      }
    }
  }
  for (std::size_t x = 0; x < registers; ++x) {
    store_lanes(load_lanes(sums + x * step) + sum[x], sums + x * step);
  }
}

/// Turns the scores of a block, before their factor, into weights relative to the largest one
/// so far of each query, which brings its sum and output to that scale first. `words` gets the
/// weights by key.
template <class Layout>
inline void weigh(const AttentionSize& size, const AttentionBlock& block,
                  typename Layout::Compute* weights, typename Layout::Compute* largest,
                  typename Layout::Compute* sums, typename Layout::Compute* output,
                  typename Layout::Word* words) {
  using Compute = typename Layout::Compute;
  constexpr std::size_t panel = Layout::panel;
  constexpr Compute lowest = -std::numeric_limits<Compute>::infinity();
  const Compute exponent_factor = exponent_factor_of<Layout>(size);
  bool is_larger = false;
  alignas(array_alignment) Compute rescale[panel];
  alignas(array_alignment) Compute reference[panel];
  for_panel_lanes<Layout>([&](std::size_t a) {
    auto max = broadcast<Compute>(lowest);
    for (std::size_t b = 0; b < block.keys; ++b) {
      max = greater_lane(load_lanes(weights + b * panel + a), max);
    }
    const auto before = load_lanes(largest + a);
    const auto now = greater_lane(max, before);
    store_lanes(now, largest + a);
    // Nothing but −∞ so far: any finite reference makes zeros of it, −∞ itself would make NaN.
    const auto finite = select_lane(now == lowest, broadcast<Compute>(0), now);
    store_lanes(finite, reference + a);
    store_lanes(weight_of<Layout>(before, exponent_factor, finite), rescale + a);
    for (std::size_t lane = a; lane < a + lane_count<Compute>; ++lane) {
      is_larger = is_larger || rescale[lane] != 1;
    }
  });
  if (is_larger) {
    const std::size_t rows = size.value_dim;
    for_panel_lanes<Layout>([&](std::size_t a) {
      const auto by = load_lanes(rescale + a);
      store_lanes(load_lanes(sums + a) * by, sums + a);
      // What has not to be rescaled stays, so that no query depends on those beside it.
      const auto stays = by == broadcast<Compute>(1);
      for (std::size_t d = 0; d < rows; ++d) {
        const auto sum = load_lanes(output + d * panel + a);
        store_lanes(select_lane(stays, sum, without_small<Layout>(sum * by)),
                    output + d * panel + a);
      }
    });
  }
  if (size.dropout == 0) {
    make_weights<Layout>(block, weights, reference, exponent_factor, sums, words,
                         [](auto weight, std::size_t /*at*/) { return weight; });
  } else {
    Compute* kept = attention_memory<Layout, AttentionSlot::kept_slot>(Layout::scores);
    draw_kept<panel>(size, block, kept);
    make_weights<Layout>(
        block, weights, reference, exponent_factor, sums, words,
        [&](auto weight, std::size_t at) { return weight * load_lanes(kept + at); });
  }
}

}  // namespace detail

}  // namespace UNIT_SCALING_NAMESPACE::kernels

UNIT_SCALING_IEEE_END
