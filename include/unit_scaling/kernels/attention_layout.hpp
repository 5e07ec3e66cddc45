// SPDX-License-Identifier: MIT
/// @file
/// Layer kernels: how attention lays out what it computes, in panels of queries and blocks of keys.
///
/// Scores are computed with keys as rows and queries as lanes. So the softmax needs no sum across
/// lanes, and a panel of weights is the packed operand of both products that it enters: of the one
/// with the values as it is, of the one with the gradients with its elements spread to all lanes.
#pragma once

#include <cstddef>
#include <type_traits>

#include "unit_scaling/core/target.hpp"
#include "unit_scaling/formats/catalogue.hpp"
#include "unit_scaling/kernels/attention_size.hpp"
#include "unit_scaling/kernels/attention_tile.hpp"
#include "unit_scaling/kernels/attention_weights.hpp"
#include "unit_scaling/kernels/double_tile.hpp"
#include "unit_scaling/kernels/lanes.hpp"
#include "unit_scaling/kernels/packing_memory.hpp"
#include "unit_scaling/kernels/tile.hpp"
#include "unit_scaling/kernels/words.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::kernels {

namespace detail {

/// Extents of attention's buffers, with arithmetic in Compute.
template <class ComputeType> struct AttentionExtents {
  using Compute = ComputeType;
  using Word = panel_word_t<Compute>;

  /// Queries of a panel, which are the lanes of its scores.
  static constexpr std::size_t panel =
      std::is_same_v<Compute, double> ? DoubleTile::columns : tile_columns;
  static constexpr std::size_t key_block = attention_key_block;
  /// Rows of the buffer of a panel's scores: tiles may write a whole number of theirs.
  static constexpr std::size_t score_rows = key_block + 32;
  static constexpr std::size_t scores = score_rows * panel;
  /// Panels whose queries are added up in one go for the gradients of keys and values.
  static constexpr std::size_t panels_at_once = 4;
  /// Queries that share a packed block of keys.
  static constexpr std::size_t most_queries = 512;
  /// Distances between a panel of queries and a block of keys, and rows of their buffer.
  static constexpr std::size_t band_rows = key_block + panel + 32;
};

/// The same and the types of attention with weights that are in Weight where they enter a product,
/// and are then multiplied in pairs or not.
template <class ComputeType, class WeightType, bool pairs>
struct AttentionLayout : AttentionExtents<ComputeType> {
  using Compute = ComputeType;
  using Weight = WeightType;
  using AttentionExtents<Compute>::panel;
  static_assert(std::is_same_v<Weight, Compute> ||
                (std::is_same_v<Weight, bfloat16> && std::is_same_v<Compute, float>));

  static constexpr bool rounds_weights = !std::is_same_v<Weight, Compute>;
  static constexpr bool has_pairs = pairs;
  static_assert(!has_pairs || (has_bfloat16_pairs && rounds_weights));
  using WeightWords = std::conditional_t<has_pairs, Bfloat16Pairs, FloatWords>;
  /// The tile of products of a weight and an operand.
  using WeightTile =
      std::conditional_t<std::is_same_v<Compute, double>, DoubleTile, RegisterTile<WeightWords>>;
  static_assert(WeightTile::columns == panel);

  /// Weights that follow each other along keys or queries in a word, and words of a panel's row.
  static constexpr std::size_t word_depth = WeightWords::depth;
  static constexpr std::size_t row_words = panel / word_depth;
};

/// Memory of the calling thread that stays for its next call; a slot for each use.
enum class AttentionSlot {
  score_queries = 100,
  score_keys,
  slope_gradients,
  slope_values,
  by_key_left,
  query_rows,
  gradient_rows,
  score_distances,
  left_distances,
  output_sums,
  key_sums,
  value_sums,
  statistics,
  weights_slot,
  slopes_slot,
  weights_by_key,
  weights_by_query,
  slopes_by_key,
  slopes_by_query,
  kept_slot,
  band_slot,
  band_by_key,
  band_by_query,
  band_sums,
  row_slot,
};

template <class Layout, AttentionSlot slot>
[[nodiscard]] inline typename Layout::Compute* attention_memory(std::size_t count) {
  return packing_memory<static_cast<int>(slot), typename Layout::Compute>(count);
}

/// Memory for the words of weights at `values`: the same where a word is a rounded weight.
template <class Layout, AttentionSlot slot>
[[nodiscard]] inline typename Layout::Word* words_memory(typename Layout::Compute* values,
                                                         std::size_t count) {
  using Word = typename Layout::Word;
  if constexpr (Layout::has_pairs) return packing_memory<static_cast<int>(slot), Word>(count);
  return reinterpret_cast<Word*>(values);
}

/// Calls `body(offset)` for the lanes of a panel.
template <class Layout, class Body>
[[gnu::always_inline]] inline void for_panel_lanes(const Body& body) {
  for (std::size_t a = 0; a < Layout::panel; a += lane_count<typename Layout::Compute>) body(a);
}
template <class Compute>
[[nodiscard, gnu::always_inline]] inline lane_t<Compute> load_lanes(const Compute* from) {
  return load<Compute>(from, FullLanes<Compute>{});
}
template <class Compute>
[[gnu::always_inline]] inline void store_lanes(lane_t<Compute> value, Compute* to) {
  store<Overflow::infinity_or_nan, Compute>(value, to, FullLanes<Compute>{});
}

}  // namespace detail

}  // namespace UNIT_SCALING_NAMESPACE::kernels

UNIT_SCALING_IEEE_END
