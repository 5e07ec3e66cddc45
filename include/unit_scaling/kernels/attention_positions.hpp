// SPDX-License-Identifier: MIT
/// @file
/// Layer kernels: relative positions in attention: what they add to scores and gradients.
///
/// The distances between the queries and the keys of a block are a band of the rows of r. Products
/// run with the whole band and are then sheared to the block, or the reverse.
#pragma once

#include <algorithm>
#include <cstddef>

#include "unit_scaling/core/simd.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/kernels/attention_layout.hpp"
#include "unit_scaling/kernels/attention_mask.hpp"
#include "unit_scaling/kernels/attention_products.hpp"
#include "unit_scaling/kernels/attention_size.hpp"
#include "unit_scaling/kernels/attention_tile.hpp"
#include "unit_scaling/kernels/attention_weights.hpp"
#include "unit_scaling/kernels/matrix_view.hpp"
#include "unit_scaling/kernels/parts.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::kernels {

namespace detail {

/// The distances that a block has: rows [first, first + count) of r, and the row of r, less
/// `first`, at which query `a` and key `b` of the block meet, which is below zero only where a
/// causal layout has no row.
struct AttentionBand {
  std::size_t first, count;
  std::ptrdiff_t corner;
  [[nodiscard]] std::ptrdiff_t at(std::size_t a, std::size_t b) const {
    return corner + static_cast<std::ptrdiff_t>(a) - static_cast<std::ptrdiff_t>(b);
  }
};

/// The distances between the queries and the keys of the block.
[[nodiscard]] inline AttentionBand band_of(const AttentionSize& size, const AttentionBlock& block) {
  const std::ptrdiff_t corner = static_cast<std::ptrdiff_t>(size.query_offset + block.i) +
                                size.zero_distance - static_cast<std::ptrdiff_t>(block.j);
  const std::ptrdiff_t lowest = corner - static_cast<std::ptrdiff_t>(block.keys - 1);
  const std::ptrdiff_t first = std::max<std::ptrdiff_t>(0, lowest);
  const std::ptrdiff_t end = corner + static_cast<std::ptrdiff_t>(block.rows);
  return {static_cast<std::size_t>(first),
          static_cast<std::size_t>(std::max<std::ptrdiff_t>(0, end - first)), corner - first};
}

/// The rows of r of the head that the block is of.
[[nodiscard]] inline OperandView distances_of(const AttentionSize& size, const OperandView& r,
                                              const AttentionBlock& block) {
  return r.from_row(block.slice % size.heads * size.distances);
}

/// Adds the bias of a block to its scores, before their factor.
template <class Layout>
inline void add_bias(const AttentionSize& size, const AttentionBlock& block,
                     typename Layout::Compute* values) {
  using Compute = typename Layout::Compute;
  for (std::size_t a = 0; a < block.rows; ++a) {
    const float* const row = size.row_of(size.bias, block.slice, block.i + a) + block.j;
    for (std::size_t b = 0; b < block.keys; ++b) {
      const double addend = static_cast<double>(row[b]) / size.score_factor;
      values[b * Layout::panel + a] += static_cast<Compute>(addend);
    }
  }
}

/// The scores of a block, before their factor: q·k, and q·r if there are distances, and the bias.
/// What is there for keys that are not seen is anything.
template <class Layout>
inline void compute_scores(const AttentionSize& size, const OperandView& r,
                           const AttentionTile<typename Layout::Compute>& score,
                           const AttentionBlock& block,
                           const PackedPanels<typename Layout::Word>& keys,
                           const typename Layout::Word* queries, typename Layout::Compute* values) {
  using Compute = typename Layout::Compute;
  using Word = typename Layout::Word;
  constexpr std::size_t panel = Layout::panel;
  score.multiply(keys, block.keys, queries, size.head_dim, values);
  if (size.bias.elements != nullptr) add_bias<Layout>(size, block, values);
  if (size.distances == 0) return;
  const AttentionBand band = band_of(size, block);
  const PackedPanels<Word> distances = pack_left<Layout, AttentionSlot::score_distances>(
      score, row_lanes(distances_of(size, r, block), band.first, band.count), size.head_dim);
  Compute* by_distance =
      attention_memory<Layout, AttentionSlot::band_slot>(Layout::band_rows * panel);
  score.multiply(distances, band.count, queries, size.head_dim, by_distance);
  for (std::size_t b = 0; b < block.keys; ++b) {
    for (std::size_t a = 0; a < block.rows; ++a) {
      const std::ptrdiff_t row = band.at(a, b);
      if (row >= 0) values[b * panel + a] += by_distance[static_cast<std::size_t>(row) * panel + a];
    }
  }
}

/// What the slopes of a block add to its part of dq and to dr by way of the distances.
template <class Layout, class SlopeAt>
inline void add_over_distances(const AttentionSize& size, const AttentionOperands& operands,
                               const AttentionBlock& block, const SlopeAt& slope,
                               const PackedPanels<typename Layout::Word>& rows_of_queries,
                               std::size_t index, typename Layout::Compute* dq_sums,
                               typename Layout::Compute* dr) {
  using Compute = typename Layout::Compute;
  using Word = typename Layout::Word;
  using WeightTile = typename Layout::WeightTile;
  constexpr std::size_t panel = Layout::panel;
  const std::size_t dim = size.head_dim;
  const AttentionBand band = band_of(size, block);
  if (band.count == 0) return;
  Compute* by_distance =
      attention_memory<Layout, AttentionSlot::band_slot>(Layout::band_rows * panel);
  std::fill_n(by_distance, Layout::band_rows * panel, Compute{0});
  for (std::size_t b = 0; b < block.keys; ++b) {
    for (std::size_t a = 0; a < block.rows; ++a) {
      const std::ptrdiff_t row = band.at(a, b);
      if (row >= 0) by_distance[static_cast<std::size_t>(row) * panel + a] = slope(a, b);
    }
  }
  const auto slope_of = [&](std::size_t a, std::size_t t) { return by_distance[t * panel + a]; };
  // A row of the band has distances that meet no key of the block, so some of it is hidden.
  const auto seen = [&](std::size_t a, std::size_t t) {
    const std::ptrdiff_t b = band.at(a, 0) - static_cast<std::ptrdiff_t>(t);
    return b >= 0 && block.is_seen(a, static_cast<std::size_t>(b));
  };
  if (dq_sums != nullptr) {
    const OperandView r = distances_of(size, operands.r, block).from_row(band.first);
    if (all_finite<Compute>(r, band.count, dim)) {
      Word* by_key = words_memory<Layout, AttentionSlot::band_by_key>(
          by_distance, Layout::band_rows * Layout::row_words);
      if constexpr (Layout::has_pairs) {
        for (std::size_t t = 0; t < band.count; t += 2) {
          const auto weights_of = [&](std::size_t row) {
            const Compute* from = by_distance + row * panel;
            return RoundedWeights(load_lanes(from), load_lanes(from + lanes));
          };
          for (std::size_t x = 0; x < 2; ++x) {
            unit_scaling::store(weights_of(t).key_pairs(weights_of(t + 1), x),
                                by_key + t / 2 * panel + x * lanes);
          }
        }
      }
      add_over_keys<Layout>(
          pack_left<Layout, AttentionSlot::left_distances>(column_lanes(r, 0, dim), band.count),
          dim, band.count, by_key, dq_sums);
    } else {
      add_seen_over_keys<Layout>(r, dim, block, band.count, slope_of, seen, dq_sums);
    }
  }
  if (dr == nullptr) return;
  const OperandView q = operands.q.from_row(block.slice * size.queries + block.i);
  Compute* to = dr + band.first * dim;
  constexpr std::size_t sums_size = Layout::band_rows * panel;
  Compute* sums =
      attention_memory<Layout, AttentionSlot::band_sums>(ceil_divide(dim, panel) * sums_size);
  std::fill_n(sums, ceil_divide(dim, panel) * sums_size, Compute{0});
  if (all_finite<Compute>(q, block.rows, dim)) {
    Word* by_query = words_memory<Layout, AttentionSlot::band_by_query>(
        by_distance, Layout::band_rows * Layout::row_words);
    if constexpr (Layout::has_pairs) {
      for (std::size_t t = 0; t < tiles_of<Layout>(band.count) * WeightTile::rows; ++t) {
        const Compute* row = by_distance + t * panel;
        unit_scaling::store(RoundedWeights(load_lanes(row), load_lanes(row + lanes)).lane_pairs(),
                            by_query + t * Layout::row_words);
      }
    }
    add_over_queries<Layout>({by_query, 0}, band.count, block.rows, rows_of_queries, index * panel,
                             dim, sums, sums_size);
  } else {
    add_seen_over_queries<Layout>(block, band.count, slope_of, q, dim, seen, sums, sums_size);
  }
  for (std::size_t column = 0; column < dim; column += panel) {
    const Compute* of_panel = sums + column / panel * sums_size;
    for (std::size_t t = 0; t < band.count; ++t) {
      for (std::size_t d = column; d < std::min(dim, column + panel); ++d) {
        to[t * dim + d] += of_panel[t * panel + d - column];
      }
    }
  }
}

}  // namespace detail

}  // namespace UNIT_SCALING_NAMESPACE::kernels

UNIT_SCALING_IEEE_END
