// SPDX-License-Identifier: MIT
/// @file
/// Layer kernels: attention forward, for the queries that one thread takes at a time.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <tuple>

#include "unit_scaling/core/target.hpp"
#include "unit_scaling/kernels/attention_layout.hpp"
#include "unit_scaling/kernels/attention_mask.hpp"
#include "unit_scaling/kernels/attention_positions.hpp"
#include "unit_scaling/kernels/attention_products.hpp"
#include "unit_scaling/kernels/attention_results.hpp"
#include "unit_scaling/kernels/attention_size.hpp"
#include "unit_scaling/kernels/attention_softmax.hpp"
#include "unit_scaling/kernels/attention_tile.hpp"
#include "unit_scaling/kernels/matrix_view.hpp"
#include "unit_scaling/kernels/parts.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::kernels {

namespace detail {

/// Makes the rows of y and of `normalisers` of these queries; see `Attention::forward`.
template <class Layout>
void forward_group(const AttentionSize& size, const AttentionOperands& operands,
                   const AttentionTile<typename Layout::Compute>& score, std::size_t slice,
                   Range queries, typename Layout::Compute factor,
                   const AttentionResult<typename Layout::Compute>& y,
                   typename Layout::Compute* normalisers) {
  using Compute = typename Layout::Compute;
  using Word = typename Layout::Word;
  using WeightTile = typename Layout::WeightTile;
  constexpr std::size_t panel = Layout::panel;
  constexpr Compute lowest = -std::numeric_limits<Compute>::infinity();
  const std::size_t count = queries.end - queries.begin;
  const std::size_t panels = ceil_divide(count, panel);
  const std::size_t output_size = tiles_of<Layout>(size.value_dim) * WeightTile::rows * panel;
  const OperandView k = operands.k.from_row(slice * size.keys);
  const OperandView v = operands.v.from_row(slice * size.keys);
  const PackedPanels<Word> packed_queries = pack_right<Layout, AttentionSlot::score_queries>(
      score, row_lanes(operands.q, slice * size.queries + queries.begin, count), size.head_dim);
  Compute* outputs = attention_memory<Layout, AttentionSlot::output_sums>(panels * output_size);
  std::fill_n(outputs, panels * output_size, Compute{0});
  Compute* largest = attention_memory<Layout, AttentionSlot::statistics>(3 * panels * panel);
  std::fill_n(largest, panels * panel, lowest);
  Compute* sums = largest + panels * panel;
  std::fill_n(sums, panels * panel, Compute{0});
  Compute* weights = attention_memory<Layout, AttentionSlot::weights_slot>(Layout::scores);
  Word* words = words_memory<Layout, AttentionSlot::weights_by_key>(weights, Layout::scores);
  const AttentionSession session(score.is_amx);

  static_assert(Layout::key_block == std::tuple_size_v<SeenByKey> && panel <= 32);
  SeenByKey seen;
  std::array<std::uint32_t, Layout::most_queries / panel> have_seen{};  // a bit for each query
  const KeysOfRows by_position = keys_of_rows(size, queries.begin, count);
  const std::size_t end = std::min(keys_end(size, slice), by_position.any.end);
  // Blocks begin where they do for all queries, so that each query has the same chain.
  for (std::size_t j = by_position.any.begin / Layout::key_block * Layout::key_block; j < end;
       j += Layout::key_block) {
    const std::size_t keys = std::min(Layout::key_block, end - j);
    const PackedPanels<Word> packed_keys =
        pack_left<Layout, AttentionSlot::score_keys>(score, row_lanes(k, j, keys), size.head_dim);
    const PackedPanels<Word> values =
        pack_left<Layout, AttentionSlot::by_key_left>(column_lanes(v, j, size.value_dim), keys);
    const bool is_finite = see_all(size, by_position, {j, j + keys}) ||
                           all_finite<Compute>(v.from_row(j), keys, size.value_dim);
    for (std::size_t index = 0; index < panels; ++index) {
      const std::size_t i = index * panel;
      const AttentionBlock block =
          block_of(size, slice, queries.begin + i, std::min(panel, count - i), j, keys, seen);
      if (block.keys == 0) continue;
      have_seen[index] |= block.seeing;
      compute_scores<Layout>(size, operands.r, score, block, packed_keys, packed_queries[index],
                             weights);
      hide<panel>(block, weights, lowest);
      Compute* output = outputs + index * output_size;
      weigh<Layout>(size, block, weights, largest + i, sums + i, output, words);
      if (is_finite || !block.hides()) {
        add_over_keys<Layout>(values, size.value_dim, block.keys, words, output);
      } else {
        add_seen_over_keys<Layout>(
            v.from_row(j), size.value_dim, block, block.keys,
            [&](std::size_t a, std::size_t b) { return weight_by_key<Layout>(words, a, b); },
            [&](std::size_t a, std::size_t b) { return block.is_seen(a, b); }, output);
      }
    }
  }

  Compute* factors = sums + panels * panel;
  for (std::size_t i = 0; i < count; i += panel) {
    const std::size_t rows = std::min(panel, count - i);
    const std::size_t row = slice * size.queries + queries.begin + i;
    for (std::size_t a = 0; a < rows; ++a) factors[a] = factor / sums[i + a];
    y.store_transposed(outputs + i / panel * output_size, factors, rows, size.value_dim,
                       row * size.value_dim);
    for (std::size_t a = 0; a < rows; ++a) {
      // A row of −∞ only has the sum 0 and becomes NaN, as any softmax of it does.
      normalisers[2 * (row + a)] = largest[i + a];
      normalisers[2 * (row + a) + 1] = 1 / sums[i + a];
      if ((have_seen[i / panel] >> a & 1) == 0) {
        y.clear((row + a) * size.value_dim, size.value_dim);
        normalisers[2 * (row + a)] = 0;
        normalisers[2 * (row + a) + 1] = 0;
      }
    }
  }
}

}  // namespace detail

}  // namespace UNIT_SCALING_NAMESPACE::kernels

UNIT_SCALING_IEEE_END
