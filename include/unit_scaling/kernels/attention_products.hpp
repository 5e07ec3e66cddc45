// SPDX-License-Identifier: MIT
/// @file
/// Layer kernels: products of attention: their operands packed, and the sums that they add to.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "unit_scaling/core/memory.hpp"
#include "unit_scaling/core/multiply_add.hpp"
#include "unit_scaling/core/simd.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/kernels/attention_layout.hpp"
#include "unit_scaling/kernels/attention_mask.hpp"
#include "unit_scaling/kernels/attention_tile.hpp"
#include "unit_scaling/kernels/lanes.hpp"
#include "unit_scaling/kernels/matrix_view.hpp"
#include "unit_scaling/kernels/packing_memory.hpp"
#include "unit_scaling/kernels/parts.hpp"
#include "unit_scaling/kernels/rows.hpp"
#include "unit_scaling/kernels/unpacked_panels.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::kernels {

namespace detail {

/// Rows of an operand from `begin` on, a row to a lane.
[[nodiscard]] inline LaneOperand row_lanes(const OperandView& operand, std::size_t begin,
                                           std::size_t count) {
  return lanes_of(operand.from_row(begin), count);
}

/// The same rows, a column to a lane.
[[nodiscard]] inline LaneOperand column_lanes(const OperandView& operand, std::size_t begin,
                                              std::size_t columns) {
  return lanes_of(operand.from_row(begin).transposed(), columns);
}

/// Packs `depth` elements of all lanes, `width` lanes to a panel of so many words.
template <class Layout, AttentionSlot slot>
[[nodiscard]] inline PackedPanels<typename Layout::Word> pack_panels(
    const LaneOperand& operand, std::size_t depth, std::size_t width, std::size_t words,
    typename AttentionTile<typename Layout::Compute>::Pack pack) {
  using Word = typename Layout::Word;
  const std::size_t count = ceil_divide(operand.lane_count, width);
  const PackedPanels<Word> result{packing_memory<static_cast<int>(slot), Word>(count * words),
                                  words};
  for (std::size_t index = 0; index < count; ++index) {
    pack(*operand.kernels, operand.part(0, index * width, width, 0, depth), result[index]);
  }
  return result;
}

/// Packs `depth` elements of all lanes for the left or for the right side of tiles.
template <class Layout, AttentionSlot slot>
[[nodiscard]] inline PackedPanels<typename Layout::Word> pack_left(
    const AttentionTile<typename Layout::Compute>& tile, const LaneOperand& operand,
    std::size_t depth) {
  return pack_panels<Layout, slot>(operand, depth, tile.rows, tile.left_words(depth),
                                   tile.pack_left);
}
template <class Layout, AttentionSlot slot>
[[nodiscard]] inline PackedPanels<typename Layout::Word> pack_right(
    const AttentionTile<typename Layout::Compute>& tile, const LaneOperand& operand,
    std::size_t depth) {
  return pack_panels<Layout, slot>(operand, depth, tile.columns, tile.right_words(depth),
                                   tile.pack_right);
}
/// The same for products with weights.
template <class Layout, AttentionSlot slot>
[[nodiscard]] inline PackedPanels<typename Layout::Word> pack_left(const LaneOperand& operand,
                                                                   std::size_t depth) {
  return pack_left<Layout, slot>(
      attention_tile<typename Layout::WeightTile, typename Layout::Compute>, operand, depth);
}
template <class Layout, AttentionSlot slot>
[[nodiscard]] inline PackedPanels<typename Layout::Word> pack_right(const LaneOperand& operand,
                                                                    std::size_t depth) {
  return pack_right<Layout, slot>(
      attention_tile<typename Layout::WeightTile, typename Layout::Compute>, operand, depth);
}

/// Tiles of a left operand of so many rows.
template <class Layout> [[nodiscard]] inline std::size_t tiles_of(std::size_t rows) {
  return ceil_divide(rows, Layout::WeightTile::rows);
}

/// sums += left·weights over `depth` keys, of which each word of `weights` has `word_depth` that
/// follow each other; sums has a row for each lane of the left side.
template <class Layout>
inline void add_over_keys(const PackedPanels<typename Layout::Word>& left, std::size_t rows,
                          std::size_t depth, const typename Layout::Word* weights,
                          typename Layout::Compute* sums) {
  using WeightTile = typename Layout::WeightTile;
  constexpr std::size_t panel = Layout::panel;
  for (std::size_t row = 0; row < rows; row += WeightTile::rows) {
    WeightTile::multiply(depth, left[row / WeightTile::rows], weights,
                         std::min(WeightTile::rows, rows - row), panel, sums + row * panel, true);
  }
}

/// sums += weights·rows over `depth` queries from that with number `first_query` of `rows` on, of
/// which each word of `weights` has `word_depth`; sums are `sums_size` apart for each panel of
/// columns.
template <class Layout>
inline void add_over_queries(const UnpackedPanels<typename Layout::Word>& weights, std::size_t keys,
                             std::size_t depth, const PackedPanels<typename Layout::Word>& rows,
                             std::size_t first_query, std::size_t columns,
                             typename Layout::Compute* sums, std::size_t sums_size) {
  using Word = typename Layout::Word;
  using WeightTile = typename Layout::WeightTile;
  constexpr std::size_t panel = Layout::panel;
  const std::size_t words = ceil_divide(depth, Layout::word_depth);
  for (std::size_t column = 0; column < columns; column += panel, sums += sums_size) {
    const Word* right = rows[column / panel] + first_query / Layout::word_depth * panel;
    for (std::size_t b = 0; b < keys; b += WeightTile::rows) {
      multiply_unpacked<typename Layout::WeightWords, WeightTile::rows>(
          words, {weights.words + b * Layout::row_words, weights.panel_stride}, right,
          sums + b * panel);
    }
  }
}

[[nodiscard]] inline float half_of(std::uint32_t word, std::size_t index) {
  return std::bit_cast<float>(index == 0 ? word & 0xffff'0000U : word << 16);
}

/// The weight of query `a` and key `b` in words that have keys, or queries, that follow each
/// other.
template <class Layout>
[[nodiscard]] inline typename Layout::Compute weight_by_key(const typename Layout::Word* words,
                                                            std::size_t a, std::size_t b) {
  constexpr std::size_t panel = Layout::panel;
  if constexpr (Layout::has_pairs) return half_of(words[b / 2 * panel + a], b % 2);
  return std::bit_cast<typename Layout::Compute>(words[b * panel + a]);
}
template <class Layout>
[[nodiscard]] inline typename Layout::Compute weight_by_query(const typename Layout::Word* words,
                                                              std::size_t a, std::size_t b) {
  if constexpr (Layout::has_pairs) return half_of(words[b * Layout::row_words + a / 2], a % 2);
  return std::bit_cast<typename Layout::Compute>(words[b * Layout::panel + a]);
}

/// As the two sums above, but leaves out terms at which `seen(query, key)` is false: a product
/// with zero would turn an infinity or NaN there into NaN.
template <class Layout, class WeightAt, class Seen>
inline void add_seen_over_keys(const OperandView& left, std::size_t columns,
                               const AttentionBlock& block, std::size_t rows,
                               const WeightAt& weight, const Seen& seen,
                               typename Layout::Compute* sums) {
  using Compute = typename Layout::Compute;
  constexpr std::size_t panel = Layout::panel;
  Compute* room = attention_memory<Layout, AttentionSlot::row_slot>(columns);
  for (std::size_t b = 0; b < rows; ++b) {
    const Compute* row = left.from_row(b).template read<Compute>(columns, room);
    for (std::size_t a = 0; a < block.rows; ++a) {
      if (!seen(a, b)) continue;
      for (std::size_t d = 0; d < columns; ++d) {
        Compute& sum = sums[d * panel + a];
        sum = multiply_add(weight(a, b), row[d], sum);
      }
    }
  }
}
template <class Layout, class WeightAt, class Seen>
inline void add_seen_over_queries(const AttentionBlock& block, std::size_t rows,
                                  const WeightAt& weight, const OperandView& right,
                                  std::size_t columns, const Seen& seen,
                                  typename Layout::Compute* sums, std::size_t sums_stride) {
  using Compute = typename Layout::Compute;
  constexpr std::size_t panel = Layout::panel;
  Compute* room = attention_memory<Layout, AttentionSlot::row_slot>(columns);
  for (std::size_t a = 0; a < block.rows; ++a) {
    const Compute* row = right.from_row(a).template read<Compute>(columns, room);
    for (std::size_t b = 0; b < rows; ++b) {
      if (!seen(a, b)) continue;
      for (std::size_t d = 0; d < columns; ++d) {
        Compute& sum = sums[d / panel * sums_stride + b * panel + d % panel];
        sum = multiply_add(weight(a, b), row[d], sum);
      }
    }
  }
}

/// Whether `rows` rows of so many columns, from the first on, have finite elements only.
template <class Compute>
[[nodiscard]] inline bool all_finite(const OperandView& operand, std::size_t rows,
                                     std::size_t columns) {
  constexpr std::size_t most = 256;
  alignas(array_alignment) Compute room[most];
  OperandView rest = operand;
  rest.row_stride = 1;  // elements, of which row after row follows
  for (std::size_t left = rows * columns; left != 0;) {
    const std::size_t count = std::min(most, left);
    const Compute* elements = rest.template read<Compute>(count, room);
    // Of zeros, but for 0 · ∞ and 0 · NaN.
    const Compute sum = sum_lanes<Compute>(count, [&](std::size_t j, auto lanes_left) {
      return load<Compute>(elements + j, lanes_left) * Compute{0};
    });
    if (sum != 0) return false;
    rest = rest.from_row(count);
    left -= count;
  }
  return true;
}

}  // namespace detail

}  // namespace UNIT_SCALING_NAMESPACE::kernels

UNIT_SCALING_IEEE_END
