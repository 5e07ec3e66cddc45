// SPDX-License-Identifier: MIT
/// @file
/// Layer kernels: slopes of attention, the gradients of its scores, block by block.
#pragma once

#include <algorithm>
#include <cstddef>

#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/multiply_add.hpp"
#include "unit_scaling/core/simd.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/kernels/attention_dropout.hpp"
#include "unit_scaling/kernels/attention_layout.hpp"
#include "unit_scaling/kernels/attention_mask.hpp"
#include "unit_scaling/kernels/attention_products.hpp"
#include "unit_scaling/kernels/attention_size.hpp"
#include "unit_scaling/kernels/attention_softmax.hpp"
#include "unit_scaling/kernels/attention_weights.hpp"
#include "unit_scaling/kernels/elementary.hpp"
#include "unit_scaling/kernels/lanes.hpp"
#include "unit_scaling/kernels/matrix_view.hpp"
#include "unit_scaling/kernels/rows.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::kernels {

namespace detail {

/// factor · Σ g∘y along each row of y: Σ_j p_ij ∂p_ij of the softmax's gradient, without another
/// pass over the keys.
template <class Compute, class T>
void write_inner_products(const OperandView& g, const Array<T>& y, Compute factor, Compute* inner) {
  using Extents = AttentionExtents<Compute>;
  const std::size_t columns = y.columns();
  for_rows(y.rows(), columns, [&](std::size_t i) {
    Compute* room = attention_memory<Extents, AttentionSlot::row_slot>(columns);
    const Compute* gradients = g.from_row(i).template read<Compute>(columns, room);
    inner[i] =
        factor * sum_products<Compute>(columns, [&](std::size_t j, auto count) {
          return Factors{load<Compute>(gradients + j, count), load<Compute>(y.row(i) + j, count)};
        });
  });
}

/// Words of the weights and slopes of a block, with queries, or keys, that follow each other in a
/// word; by query for each of several panels, by key for one at a time.
template <class Layout> struct AttentionBlockWords {
  using Word = typename Layout::Word;

  Word* weights_by_query;
  Word* slopes_by_query;
  Word* slopes_by_key;

  [[nodiscard]] AttentionBlockWords of_panel(std::size_t index) const {
    const std::size_t offset = index * Layout::score_rows * Layout::row_words;
    return {weights_by_query + offset, slopes_by_query + offset,
            Layout::has_pairs ? slopes_by_key : slopes_by_key + offset};
  }
};

/// The first part of `compute_slopes`: the words of the keys of a block, with `keep(values,
/// place)`, the values after dropout; `hides` is false if every query of a whole panel sees every
/// key.
template <class Layout, bool hides, class Keep>
inline void make_slopes(const AttentionSize& size, const AttentionBlock& block,
                        const typename Layout::Compute* of_queries,
                        const typename Layout::Compute* weights,
                        const typename Layout::Compute* slopes,
                        const AttentionBlockWords<Layout>& to, const Keep& keep) {
  using Compute = typename Layout::Compute;
  constexpr std::size_t panel = Layout::panel;
  constexpr std::size_t step = lane_count<Compute>;
  constexpr std::size_t registers = panel / step;
  const Compute exponent_factor = exponent_factor_of<Layout>(size);
  lane_t<Compute> weight[Layout::word_depth][registers];
  lane_t<Compute> slope[Layout::word_depth][registers];
  const std::uint32_t with_query = bits_of(0, block.rows);
  const auto make_row = [&](std::size_t b, std::size_t r) __attribute__((always_inline)) {
    [[maybe_unused]] const std::uint32_t kept =
        block.hides() ? block.seen[b] & with_query : with_query;
    for (std::size_t x = 0; x < registers; ++x) {
      const std::size_t at = b * panel + x * step;
      const auto share = weight_of<Layout>(load_lanes(weights + at), exponent_factor,
                                           load_lanes(of_queries + x * step)) *
                         load_lanes(of_queries + panel + x * step);
      weight[r][x] = keep(share, at);
      slope[r][x] = sum_of_products(keep(load_lanes(slopes + at), at), share, -share,
                                    load_lanes(of_queries + 2 * panel + x * step));
      if constexpr (hides) {
        weight[r][x] = keep_lanes<Compute>(weight[r][x], x * step, kept, 0);
        slope[r][x] = keep_lanes<Compute>(slope[r][x], x * step, kept, 0);
      }
    }
  };
  for (std::size_t b = 0; b < block.keys; b += Layout::word_depth) {
    make_row(b, 0);
    if constexpr (Layout::has_pairs) {
      if (b + 1 < block.keys) {
        make_row(b + 1, 1);
      } else {
        for (std::size_t x = 0; x < registers; ++x) weight[1][x] = slope[1][x] = float32x16{};
      }
      const auto rounded_row = [](const auto& row) __attribute__((always_inline)) {
        return RoundedWeights(row[0], row[1]).without_small();
      };
      const RoundedWeights of_key = rounded_row(slope[0]);
      const RoundedWeights of_next = rounded_row(slope[1]);
      const std::size_t row = b * Layout::row_words;
      const std::size_t next_row = row + Layout::row_words;
      unit_scaling::store(rounded_row(weight[0]).lane_pairs(), to.weights_by_query + row);
      unit_scaling::store(rounded_row(weight[1]).lane_pairs(), to.weights_by_query + next_row);
      unit_scaling::store(of_key.lane_pairs(), to.slopes_by_query + row);
      unit_scaling::store(of_next.lane_pairs(), to.slopes_by_query + next_row);
      for (std::size_t x = 0; x < registers; ++x) {
        unit_scaling::store(of_key.key_pairs(of_next, x),
                            to.slopes_by_key + b / 2 * panel + x * step);
      }
    } else {
      for (std::size_t x = 0; x < registers; ++x) {
        const std::size_t at = b * panel + x * step;
        store_lanes(rounded<Layout>(weight[0][x]),
                    reinterpret_cast<Compute*>(to.weights_by_query) + at);
        store_lanes(rounded<Layout>(slope[0][x]),
                    reinterpret_cast<Compute*>(to.slopes_by_query) + at);
      }
    }
  }
}

/// From the scores before their factor, and g·v, of a block: the words of its weights after
/// dropout and of its slopes, the gradients of its scores. Both are zero where a key is not seen,
/// and by query for keys up to the end of the tiles of `group_keys`.
template <class Layout>
inline void compute_slopes(const AttentionSize& size, const AttentionBlock& block,
                           std::size_t group_keys, const typename Layout::Compute* of_queries,
                           const typename Layout::Compute* weights,
                           const typename Layout::Compute* slopes,
                           const AttentionBlockWords<Layout>& to) {
  using Compute = typename Layout::Compute;
  using Word = typename Layout::Word;
  using WeightTile = typename Layout::WeightTile;
  constexpr std::size_t panel = Layout::panel;
  const auto make = [&](const auto& keep) {
    // Queries that are not there share words with others.
    if (block.hides() || block.rows < panel) {
      make_slopes<Layout, true>(size, block, of_queries, weights, slopes, to, keep);
    } else {
      make_slopes<Layout, false>(size, block, of_queries, weights, slopes, to, keep);
    }
  };
  if (size.dropout == 0) {
    make([](auto value, std::size_t /*at*/) { return value; });
  } else {
    Compute* kept = attention_memory<Layout, AttentionSlot::kept_slot>(Layout::scores);
    draw_kept<panel>(size, block, kept);
    make([&](auto value, std::size_t at) { return value * load_lanes(kept + at); });
  }
  const std::size_t end = tiles_of<Layout>(group_keys) * WeightTile::rows;
  for (Word* words : {to.weights_by_query, to.slopes_by_query}) {
    std::fill(words + block.keys * Layout::row_words, words + end * Layout::row_words, Word{0});
  }
}

}  // namespace detail

}  // namespace UNIT_SCALING_NAMESPACE::kernels

UNIT_SCALING_IEEE_END
