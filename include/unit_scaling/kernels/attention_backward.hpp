// SPDX-License-Identifier: MIT
/// @file
/// Layer kernels: attention backward, for the queries and keys that one thread takes at a time.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>

#include "unit_scaling/core/memory.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/kernels/attention_layout.hpp"
#include "unit_scaling/kernels/attention_mask.hpp"
#include "unit_scaling/kernels/attention_positions.hpp"
#include "unit_scaling/kernels/attention_products.hpp"
#include "unit_scaling/kernels/attention_results.hpp"
#include "unit_scaling/kernels/attention_size.hpp"
#include "unit_scaling/kernels/attention_slopes.hpp"
#include "unit_scaling/kernels/attention_tile.hpp"
#include "unit_scaling/kernels/matrix_view.hpp"
#include "unit_scaling/kernels/parts.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::kernels {

namespace detail {

/// What a backward pass makes: of these queries and keys, what is wanted.
template <class Compute> struct AttentionPart {
  Range queries, keys;
  Compute q_factor = 0;
  AttentionResult<Compute> dq = {};
  Compute k_factor = 0;
  AttentionResult<Compute> dk = {};
  Compute v_factor = 0;
  AttentionResult<Compute> dv = {};
  Compute* dr = nullptr;  ///< of the slice's head: added to
};

/// The queries that may see one of the keys by their positions, if `queries` are all of a slice.
/// They begin at a multiple of `grain`.
[[nodiscard]] inline Range queries_of_keys(const AttentionSize& size, const Range& queries,
                                           const Range& keys, std::size_t grain) {
  if (size.query_heads != 1 || queries.begin != 0 || queries.end != size.queries) return queries;
  // Positions from `first` on and before `last`.
  std::size_t first = size.is_causal ? keys.begin : 0;
  std::size_t last = size.query_offset + size.queries;
  if (size.window != 0) {
    first = std::max(first, keys.begin + 1 - std::min(keys.begin + 1, size.window));
    last = std::min(last, keys.end + size.window - 1);
  }
  const std::size_t begin = first - std::min(first, size.query_offset);
  const std::size_t end = last - std::min(last, size.query_offset);
  return {std::min(end, begin / grain * grain), end};
}

/// Makes the gradients that the part asks for, of one slice.
template <class Layout>
void backward_part(const AttentionSize& size, const AttentionOperands& operands,
                   const AttentionTile<typename Layout::Compute>& score,
                   const AttentionTile<typename Layout::Compute>& slope_tile,
                   const AttentionGradient<typename Layout::Compute>& upstream, std::size_t slice,
                   const AttentionPart<typename Layout::Compute>& part) {
  using Compute = typename Layout::Compute;
  using Word = typename Layout::Word;
  using WeightTile = typename Layout::WeightTile;
  constexpr std::size_t panel = Layout::panel;
  const std::size_t dim = size.head_dim;
  const std::size_t value_dim = size.value_dim;
  const bool makes_rows_of_queries = part.dq.is_wanted() || part.dr != nullptr;
  const Range queries = makes_rows_of_queries ? part.queries
                                              : queries_of_keys(size, part.queries, part.keys,
                                                                Layout::panels_at_once * panel);
  const std::size_t count = queries.end - queries.begin;
  const std::size_t panels = ceil_divide(count, panel);
  const OperandView q = operands.q.from_row(slice * size.queries);
  const OperandView k = operands.k.from_row(slice * size.keys);
  const OperandView v = operands.v.from_row(slice * size.keys);
  const OperandView g = upstream.g.from_row(slice * size.queries);
  const bool wants_queries = part.dq.is_wanted();
  const bool wants_keys = part.dk.is_wanted();
  const bool wants_values = part.dv.is_wanted();
  const std::size_t end = std::min(part.keys.end, keys_end(size, slice));

  const PackedPanels<Word> packed_queries = pack_right<Layout, AttentionSlot::score_queries>(
      score, row_lanes(q, queries.begin, count), dim);
  const PackedPanels<Word> packed_gradients = pack_right<Layout, AttentionSlot::slope_gradients>(
      slope_tile, row_lanes(g, queries.begin, count), value_dim);
  const PackedPanels<Word> rows_of_queries = wants_keys || part.dr != nullptr
                                                 ? pack_right<Layout, AttentionSlot::query_rows>(
                                                       column_lanes(q, queries.begin, dim), count)
                                                 : PackedPanels<Word>{};
  const PackedPanels<Word> rows_of_gradients =
      wants_values ? pack_right<Layout, AttentionSlot::gradient_rows>(
                         column_lanes(g, queries.begin, value_dim), count)
                   : PackedPanels<Word>{};
  const KeysOfRows by_position = keys_of_rows(size, queries.begin, count);
  const bool may_hide_any = !see_all(size, by_position, part.keys);
  const bool is_finite_by_query =
      !may_hide_any || (all_finite<Compute>(q.from_row(queries.begin), count, dim) &&
                        all_finite<Compute>(g.from_row(queries.begin), count, value_dim));

  const std::size_t dq_size = tiles_of<Layout>(dim) * WeightTile::rows * panel;
  Compute* dq_sums = attention_memory<Layout, AttentionSlot::output_sums>(panels * dq_size);
  if (wants_queries) std::fill_n(dq_sums, panels * dq_size, Compute{0});
  const std::size_t dk_size = ceil_divide(dim, panel) * Layout::scores;
  const std::size_t dv_size = ceil_divide(value_dim, panel) * Layout::scores;
  Compute* dk_sums = attention_memory<Layout, AttentionSlot::key_sums>(dk_size);
  Compute* dv_sums = attention_memory<Layout, AttentionSlot::value_sums>(dv_size);
  constexpr std::size_t panels_of_values = Layout::has_pairs ? 1 : Layout::panels_at_once;
  Compute* weights =
      attention_memory<Layout, AttentionSlot::weights_slot>(panels_of_values * Layout::scores);
  Compute* slopes =
      attention_memory<Layout, AttentionSlot::slopes_slot>(panels_of_values * Layout::scores);
  constexpr std::size_t panel_words = Layout::score_rows * Layout::row_words;
  const AttentionBlockWords<Layout> words{
      .weights_by_query = words_memory<Layout, AttentionSlot::weights_by_query>(
          weights, Layout::panels_at_once * panel_words),
      .slopes_by_query = words_memory<Layout, AttentionSlot::slopes_by_query>(
          slopes, Layout::panels_at_once * panel_words),
      .slopes_by_key = words_memory<Layout, AttentionSlot::slopes_by_key>(slopes, panel_words)};
  Compute* of_queries = attention_memory<Layout, AttentionSlot::statistics>(3 * panels * panel);
  std::fill_n(of_queries, 3 * panels * panel, Compute{0});
  for (std::size_t i = 0; i < count; ++i) {
    const std::size_t query = slice * size.queries + queries.begin + i;
    Compute* at = of_queries + i / panel * (3 * panel) + i % panel;
    at[0] = upstream.normalisers[2 * query];
    at[panel] = upstream.normalisers[2 * query + 1];
    at[2 * panel] = upstream.inner[query];
  }
  const AttentionSession session(score.is_amx || slope_tile.is_amx);

  for (std::size_t j = part.keys.begin; j < part.keys.end; j += Layout::key_block) {
    const bool may_be_seen =
        j < by_position.any.end && j + Layout::key_block > by_position.any.begin;
    const std::size_t keys = may_be_seen && j < end ? std::min(Layout::key_block, end - j) : 0;
    if (wants_keys) std::fill_n(dk_sums, dk_size, Compute{0});
    if (wants_values) std::fill_n(dv_sums, dv_size, Compute{0});
    if (keys != 0) {
      const PackedPanels<Word> packed_keys =
          pack_left<Layout, AttentionSlot::score_keys>(score, row_lanes(k, j, keys), dim);
      const PackedPanels<Word> packed_values = pack_left<Layout, AttentionSlot::slope_values>(
          slope_tile, row_lanes(v, j, keys), value_dim);
      const PackedPanels<Word> columns_of_keys =
          wants_queries
              ? pack_left<Layout, AttentionSlot::by_key_left>(column_lanes(k, j, dim), keys)
              : PackedPanels<Word>{};
      const bool is_finite_by_key = !may_hide_any || all_finite<Compute>(k.from_row(j), keys, dim);
      for (std::size_t group = 0; group < panels; group += Layout::panels_at_once) {
        const std::size_t group_end = std::min(panels, group + Layout::panels_at_once);
        std::array<AttentionBlock, Layout::panels_at_once> blocks;
        std::array<SeenByKey, Layout::panels_at_once> seen_by_key;
        std::size_t group_keys = 0;
        for (std::size_t index = group; index < group_end; ++index) {
          const std::size_t i = queries.begin + index * panel;
          AttentionBlock& block = blocks[index - group];
          block = block_of(size, slice, i, std::min(panel, queries.end - i), j, keys,
                           seen_by_key[index - group]);
          group_keys = std::max(group_keys, block.keys);
        }
        if (group_keys == 0) continue;
        bool hides_any = false;
        for (std::size_t index = group; index < group_end; ++index) {
          const AttentionBlock& block = blocks[index - group];
          const AttentionBlockWords<Layout> to = words.of_panel(index - group);
          Compute* of_panel =
              Layout::has_pairs ? weights : weights + (index - group) * Layout::scores;
          Compute* slopes_of_panel =
              Layout::has_pairs ? slopes : slopes + (index - group) * Layout::scores;
          // The other panels of the group are added up with it.
          hides_any = hides_any || block.hides() || block.keys != group_keys;
          if (block.keys != 0) {
            compute_scores<Layout>(size, operands.r, score, block, packed_keys,
                                   packed_queries[index], of_panel);
            slope_tile.multiply(packed_values, block.keys, packed_gradients[index], value_dim,
                                slopes_of_panel);
          }
          compute_slopes<Layout>(size, block, group_keys, of_queries + index * (3 * panel),
                                 of_panel, slopes_of_panel, to);
          if (block.keys == 0) continue;
          const auto slope = [&](std::size_t a, std::size_t b) {
            return weight_by_query<Layout>(to.slopes_by_query, a, b);
          };
          if (wants_queries) {
            Compute* sums = dq_sums + index * dq_size;
            if (is_finite_by_key || !block.hides()) {
              add_over_keys<Layout>(columns_of_keys, dim, block.keys, to.slopes_by_key, sums);
            } else {
              const auto seen = [&](std::size_t a, std::size_t b) { return block.is_seen(a, b); };
              add_seen_over_keys<Layout>(k.from_row(j), dim, block, block.keys, slope, seen, sums);
            }
          }
          if (size.distances != 0 && (wants_queries || part.dr != nullptr)) {
            add_over_distances<Layout>(size, operands, block, slope, rows_of_queries, index,
                                       wants_queries ? dq_sums + index * dq_size : nullptr,
                                       part.dr);
          }
        }
        const auto add_to_keys = [&](const Word* by_query, const PackedPanels<Word>& packed,
                                     const OperandView& rows, std::size_t columns, Compute* sums) {
          const std::size_t begin = group * panel;
          if (is_finite_by_query || !hides_any) {
            add_over_queries<Layout>({by_query, panel_words}, group_keys,
                                     std::min(count, group_end * panel) - begin, packed, begin,
                                     columns, sums, Layout::scores);
            return;
          }
          for (std::size_t index = group; index < group_end; ++index) {
            const AttentionBlock& block = blocks[index - group];
            const Word* of_panel = by_query + (index - group) * panel_words;
            add_seen_over_queries<Layout>(
                block, block.keys,
                [&](std::size_t a, std::size_t b) {
                  return weight_by_query<Layout>(of_panel, a, b);
                },
                rows.from_row(block.i), columns,
                [&](std::size_t a, std::size_t b) { return block.is_seen(a, b); }, sums,
                Layout::scores);
          }
        };
        if (wants_values) {
          add_to_keys(words.weights_by_query, rows_of_gradients, g, value_dim, dv_sums);
        }
        if (wants_keys) {
          add_to_keys(words.slopes_by_query, rows_of_queries, q, dim, dk_sums);
        }
      }
    }
    const std::size_t all_keys = std::min(Layout::key_block, part.keys.end - j);
    const std::size_t row = slice * size.keys + j;
    if (wants_keys) part.dk.store_rows(dk_sums, part.k_factor, all_keys, dim, row * dim);
    if (wants_values) {
      part.dv.store_rows(dv_sums, part.v_factor, all_keys, value_dim, row * value_dim);
    }
  }
  if (!wants_queries) return;
  alignas(array_alignment) Compute factors[panel];
  std::fill_n(factors, panel, part.q_factor);
  for (std::size_t index = 0; index < panels; ++index) {
    const std::size_t i = queries.begin + index * panel;
    part.dq.store_transposed(dq_sums + index * dq_size, factors, std::min(panel, queries.end - i),
                             dim, (slice * size.queries + i) * dim);
  }
}

}  // namespace detail

}  // namespace UNIT_SCALING_NAMESPACE::kernels

UNIT_SCALING_IEEE_END
