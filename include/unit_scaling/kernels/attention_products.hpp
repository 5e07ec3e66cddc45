// SPDX-License-Identifier: MIT
/// @file
/// Layer kernels: products of attention: their operands packed, and the sums that they add to.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "unit_scaling/core/simd.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/kernels/attention_layout.hpp"
#include "unit_scaling/kernels/attention_mask.hpp"
#include "unit_scaling/kernels/lanes.hpp"
#include "unit_scaling/kernels/packing.hpp"
#include "unit_scaling/kernels/packing_memory.hpp"
#include "unit_scaling/kernels/parts.hpp"
#include "unit_scaling/kernels/rows.hpp"
#include "unit_scaling/kernels/unpacked_panels.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::kernels {

namespace detail {

/// An operand packed in panels one after the other.
template <class Word> struct PackedPanels {
  Word* words;
  std::size_t stride;
  [[nodiscard]] Word* operator[](std::size_t index) const { return words + index * stride; }
};

/// Rows [begin, begin + count) of the (rows, columns) matrix at `data`, a row to a lane.
template <class T>
[[nodiscard]] inline PanelSource<T> row_lanes(const T* data, std::size_t columns, std::size_t begin,
                                              std::size_t count) {
  return {.data = data + begin * columns,
          .lane_stride = columns,
          .depth_stride = 1,
          .lane_count = count,
          .depth = columns,
          .lanes_readable = count};
}

/// The same rows, a column to a lane.
template <class T>
[[nodiscard]] inline PanelSource<T> column_lanes(const T* data, std::size_t columns,
                                                 std::size_t begin, std::size_t count) {
  return {.data = data + begin * columns,
          .lane_stride = 1,
          .depth_stride = columns,
          .lane_count = columns,
          .depth = count,
          .lanes_readable = columns};
}

/// Packs all lanes of the source, so many to a panel of so many words, by `pack_part(rest, to)`.
template <class Layout, AttentionSlot slot, std::size_t width, class T, class Pack>
[[nodiscard]] inline PackedPanels<typename Layout::Word> pack_panels(PanelSource<T> source,
                                                                     std::size_t words,
                                                                     const Pack& pack_part) {
  using Word = typename Layout::Word;
  const std::size_t count = ceil_divide(source.lane_count, width);
  const PackedPanels<Word> result{packing_memory<static_cast<int>(slot), Word>(count * words),
                                  words};
  for (std::size_t index = 0; index < count; ++index) {
    pack_part(source, result[index]);
    const std::size_t packed = std::min(width, source.lane_count);
    // Without depth the data may be null, to which no offset may be added.
    if (source.depth != 0) source.data += packed * source.lane_stride;
    source.lane_count -= packed;
    source.lanes_readable -= std::min(width, source.lanes_readable);
  }
  return result;
}

/// Packs all lanes of the source for the left or for the right side of tiles.
template <class Layout, AttentionSlot slot, class Tile, class T>
[[nodiscard]] inline PackedPanels<typename Layout::Word> pack_left(const PanelSource<T>& source) {
  using Word = typename Layout::Word;
  return pack_panels<Layout, slot, Tile::rows>(
      source, Tile::left_words(source.depth),
      [](const auto& part, Word* to) { Tile::pack_left(part, to); });
}
template <class Layout, AttentionSlot slot, class Tile, class T>
[[nodiscard]] inline PackedPanels<typename Layout::Word> pack_right(const PanelSource<T>& source) {
  using Word = typename Layout::Word;
  return pack_panels<Layout, slot, Tile::columns>(
      source, Tile::right_words(source.depth),
      [](const auto& part, Word* to) { Tile::pack_right(part, to); });
}

/// values = left·right for the first `rows` lanes of the left side, in rows of a panel.
template <class Tile, class Word, class Compute>
inline void multiply_panel(const PackedPanels<Word>& left, std::size_t rows, const Word* right,
                           std::size_t depth, Compute* values) {
  constexpr std::size_t panel = Tile::columns;
  for (std::size_t row = 0; row < rows; row += Tile::rows) {
    Tile::multiply(depth, left[row / Tile::rows], right, std::min(Tile::rows, rows - row), panel,
                   values + row * panel, false);
  }
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
template <class Layout, class T, class WeightAt, class Seen>
inline void add_seen_over_keys(const T* left, std::size_t columns, const AttentionBlock& block,
                               std::size_t rows, const WeightAt& weight, const Seen& seen,
                               typename Layout::Compute* sums) {
  using Compute = typename Layout::Compute;
  constexpr std::size_t panel = Layout::panel;
  for (std::size_t b = 0; b < rows; ++b) {
    for (std::size_t a = 0; a < block.rows; ++a) {
      if (!seen(a, b)) continue;
      for (std::size_t d = 0; d < columns; ++d) {
        Compute& sum = sums[d * panel + a];
        sum = multiply_add(weight(a, b), static_cast<Compute>(left[b * columns + d]), sum);
      }
    }
  }
}
template <class Layout, class T, class WeightAt, class Seen>
inline void add_seen_over_queries(const AttentionBlock& block, std::size_t rows,
                                  const WeightAt& weight, const T* right, std::size_t columns,
                                  const Seen& seen, typename Layout::Compute* sums,
                                  std::size_t sums_stride) {
  using Compute = typename Layout::Compute;
  constexpr std::size_t panel = Layout::panel;
  for (std::size_t a = 0; a < block.rows; ++a) {
    for (std::size_t b = 0; b < rows; ++b) {
      if (!seen(a, b)) continue;
      for (std::size_t d = 0; d < columns; ++d) {
        Compute& sum = sums[d / panel * sums_stride + b * panel + d % panel];
        sum = multiply_add(weight(a, b), static_cast<Compute>(right[a * columns + d]), sum);
      }
    }
  }
}

template <class Compute, class T>
[[nodiscard]] inline bool all_finite(const T* elements, std::size_t size) {
  // Of zeros, but for 0 · ∞ and 0 · NaN.
  return sum_lanes<Compute>(size, [&](std::size_t j, auto count) {
           return load<Compute>(elements + j, count) * Compute{0};
         }) == 0;
}

}  // namespace detail

}  // namespace UNIT_SCALING_NAMESPACE::kernels

UNIT_SCALING_IEEE_END
