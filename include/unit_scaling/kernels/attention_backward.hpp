// SPDX-License-Identifier: MIT
/// @file
/// Layer kernels: attention backward, for the queries and keys that one thread takes at a time.
#pragma once

#include <algorithm>
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
#include "unit_scaling/kernels/parts.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::kernels {

namespace detail {

/// What a backward pass makes: of these queries and keys, what is not null.
template <class Compute, class Out> struct AttentionPart {
  Range queries, keys;
  Compute q_factor = 0;
  Out* dq = nullptr;
  Compute k_factor = 0;
  Out* dk = nullptr;
  Compute v_factor = 0;
  Out* dv = nullptr;
  Compute* dr = nullptr;  ///< of the slice's head: added to
};

/// Makes the gradients that the part asks for, of one slice.
template <class Layout, class Score, class Slope, class Out>
inline void backward_part(
    const AttentionSize& size, const AttentionOperands<typename Layout::Operand>& operands,
    const AttentionUpstream<typename Layout::Compute, typename Layout::Gradient>& upstream,
    std::size_t slice, const AttentionPart<typename Layout::Compute, Out>& part) {
  using Compute = typename Layout::Compute;
  using Operand = typename Layout::Operand;
  using Gradient = typename Layout::Gradient;
  using Word = typename Layout::Word;
  using WeightTile = typename Layout::WeightTile;
  constexpr std::size_t panel = Layout::panel;
  const std::size_t dim = size.head_dim;
  const std::size_t value_dim = size.value_dim;
  const Range& queries = part.queries;
  const std::size_t count = queries.end - queries.begin;
  const std::size_t panels = ceil_divide(count, panel);
  const Operand* q = operands.q + slice * size.queries * dim;
  const Operand* k = operands.k + slice * size.keys * dim;
  const Operand* v = operands.v + slice * size.keys * value_dim;
  const Gradient* g = upstream.g + slice * size.queries * value_dim;
  const std::size_t end = std::min(part.keys.end, keys_end(size, slice));

  const PackedPanels<Word> packed_queries = pack_right<Layout, AttentionSlot::score_queries, Score>(
      row_lanes(q, dim, queries.begin, count));
  const PackedPanels<Word> packed_gradients =
      pack_right<Layout, AttentionSlot::slope_gradients, Slope>(
          row_lanes(g, value_dim, queries.begin, count));
  const bool needs_query_rows = part.dk != nullptr || part.dr != nullptr;
  const PackedPanels<Word> rows_of_queries =
      needs_query_rows ? pack_right<Layout, AttentionSlot::query_rows, WeightTile>(
                             column_lanes(q, dim, queries.begin, count))
                       : PackedPanels<Word>{};
  const PackedPanels<Word> rows_of_gradients =
      part.dv != nullptr ? pack_right<Layout, AttentionSlot::gradient_rows, WeightTile>(
                               column_lanes(g, value_dim, queries.begin, count))
                         : PackedPanels<Word>{};
  const bool may_hide_any = size.mask != nullptr || size.is_causal;
  const bool is_finite_by_query =
      !may_hide_any || (all_finite<Compute>(q + queries.begin * dim, count * dim) &&
                        all_finite<Compute>(g + queries.begin * value_dim, count * value_dim));

  const std::size_t dq_size = tiles_of<Layout>(dim) * WeightTile::rows * panel;
  Compute* dq_sums = attention_memory<Layout, AttentionSlot::output_sums>(panels * dq_size);
  if (part.dq != nullptr) std::fill_n(dq_sums, panels * dq_size, Compute{0});
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
  [[maybe_unused]] const typename Score::Session session{};

  for (std::size_t j = part.keys.begin; j < part.keys.end; j += Layout::key_block) {
    const std::size_t keys = j < end ? std::min(Layout::key_block, end - j) : 0;
    if (part.dk != nullptr) std::fill_n(dk_sums, dk_size, Compute{0});
    if (part.dv != nullptr) std::fill_n(dv_sums, dv_size, Compute{0});
    if (keys != 0) {
      const PackedPanels<Word> packed_keys =
          pack_left<Layout, AttentionSlot::score_keys, Score>(row_lanes(k, dim, j, keys));
      const PackedPanels<Word> packed_values =
          pack_left<Layout, AttentionSlot::slope_values, Slope>(row_lanes(v, value_dim, j, keys));
      const PackedPanels<Word> columns_of_keys =
          part.dq != nullptr ? pack_left<Layout, AttentionSlot::by_key_left, WeightTile>(
                                   column_lanes(k, dim, j, keys))
                             : PackedPanels<Word>{};
      const bool is_finite_by_key = !may_hide_any || all_finite<Compute>(k + j * dim, keys * dim);
      // Causal: the first panel with a query at or after key j.
      const std::size_t first =
          size.is_causal && j > queries.begin ? (j - queries.begin) / panel : 0;
      for (std::size_t group = first; group < panels; group += Layout::panels_at_once) {
        const std::size_t group_end = std::min(panels, group + Layout::panels_at_once);
        const auto block_at = [&](std::size_t index) {
          const std::size_t i = queries.begin + index * panel;
          return block_of(size, slice, i, std::min(panel, queries.end - i), j, keys);
        };
        // The last panel sees the most keys.
        const std::size_t group_keys = block_at(group_end - 1).keys;
        bool hides_any = false;
        for (std::size_t index = group; index < group_end; ++index) {
          const AttentionBlock block = block_at(index);
          const AttentionBlockWords<Layout> to = words.of_panel(index - group);
          Compute* of_panel =
              Layout::has_pairs ? weights : weights + (index - group) * Layout::scores;
          Compute* slopes_of_panel =
              Layout::has_pairs ? slopes : slopes + (index - group) * Layout::scores;
          compute_scores<Layout, Score>(size, operands.r, block, packed_keys, packed_queries[index],
                                        of_panel);
          multiply_panel<Slope>(packed_values, block.keys, packed_gradients[index], value_dim,
                                slopes_of_panel);
          compute_slopes<Layout>(size, block, group_keys, of_queries + index * (3 * panel),
                                 of_panel, slopes_of_panel, to);
          const bool hides = may_hide(size, block);
          hides_any = hides_any || hides;
          const auto slope = [&](std::size_t a, std::size_t b) {
            return weight_by_query<Layout>(to.slopes_by_query, a, b);
          };
          if (part.dq != nullptr) {
            Compute* sums = dq_sums + index * dq_size;
            if (is_finite_by_key || !hides) {
              add_over_keys<Layout>(columns_of_keys, dim, block.keys, to.slopes_by_key, sums);
            } else {
              const auto seen = [&](std::size_t a, std::size_t b) {
                return is_seen(size, block, a, b);
              };
              add_seen_over_keys<Layout>(k + j * dim, dim, block, block.keys, slope, seen, sums);
            }
          }
          if (size.distances != 0 && (part.dq != nullptr || part.dr != nullptr)) {
            add_over_distances<Layout>(size, operands, block, slope, rows_of_queries, index,
                                       part.dq == nullptr ? nullptr : dq_sums + index * dq_size,
                                       part.dr);
          }
        }
        const auto add_to_keys = [&](const Word* by_query, const PackedPanels<Word>& packed,
                                     const auto* rows, std::size_t columns, Compute* sums) {
          const std::size_t begin = group * panel;
          if (is_finite_by_query || !hides_any) {
            add_over_queries<Layout>({by_query, panel_words}, group_keys,
                                     std::min(count, group_end * panel) - begin, packed, begin,
                                     columns, sums, Layout::scores);
            return;
          }
          for (std::size_t index = group; index < group_end; ++index) {
            const AttentionBlock block = block_at(index);
            const Word* of_panel = by_query + (index - group) * panel_words;
            add_seen_over_queries<Layout>(
                block, block.keys,
                [&](std::size_t a, std::size_t b) {
                  return weight_by_query<Layout>(of_panel, a, b);
                },
                rows + block.i * columns, columns,
                [&](std::size_t a, std::size_t b) { return is_seen(size, block, a, b); }, sums,
                Layout::scores);
          }
        };
        if (part.dv != nullptr) {
          add_to_keys(words.weights_by_query, rows_of_gradients, g, value_dim, dv_sums);
        }
        if (part.dk != nullptr) {
          add_to_keys(words.slopes_by_query, rows_of_queries, q, dim, dk_sums);
        }
      }
    }
    const std::size_t all_keys = std::min(Layout::key_block, part.keys.end - j);
    const std::size_t row = slice * size.keys + j;
    if (part.dk != nullptr) {
      store_rows<Layout>(dk_sums, part.k_factor, all_keys, dim, part.dk + row * dim);
    }
    if (part.dv != nullptr) {
      store_rows<Layout>(dv_sums, part.v_factor, all_keys, value_dim, part.dv + row * value_dim);
    }
  }
  if (part.dq == nullptr) return;
  alignas(array_alignment) Compute factors[panel];
  std::fill_n(factors, panel, part.q_factor);
  for (std::size_t index = 0; index < panels; ++index) {
    const std::size_t i = queries.begin + index * panel;
    store_transposed<Layout>(dq_sums + index * dq_size, factors, std::min(panel, queries.end - i),
                             dim, part.dq + (slice * size.queries + i) * dim);
  }
}

}  // namespace detail

}  // namespace UNIT_SCALING_NAMESPACE::kernels

UNIT_SCALING_IEEE_END
