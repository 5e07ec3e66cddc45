// SPDX-License-Identifier: MIT
/// @file
/// Layer kernels: softmax attention in panels of queries and blocks of keys, forward and backward.
///
/// No matrix of queries × keys ever exists: a thread holds a block of it, of fixed size, and what
/// is kept between the passes is two numbers per query. The softmax of a query runs "online" over
/// the blocks of its keys: sums are kept relative to the largest score so far and rescaled when a
/// block brings a larger one.
///
/// Scores are computed with keys as rows and queries as lanes. So the softmax needs no sum across
/// lanes, and a panel of weights is the packed operand of both products that it enters: of the one
/// with the values as it is, of the one with the gradients with its elements spread to all lanes.
///
/// Each element of a result is one chain over keys, or queries, in ascending order, made by one
/// thread (which begins anew where the softmax rescales it), so its bits do not depend on how many
/// threads there are.
/// @see Dao 2023, arXiv:2307.08691 (FlashAttention-2).
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory_resource>
#include <numbers>
#include <type_traits>
#include <utility>

#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/parallel_for.hpp"
#include "unit_scaling/core/random.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/kernels/amx_tile.hpp"
#include "unit_scaling/kernels/attention_size.hpp"
#include "unit_scaling/kernels/attention_weights.hpp"
#include "unit_scaling/kernels/double_tile.hpp"
#include "unit_scaling/kernels/elementary.hpp"
#include "unit_scaling/kernels/matmul.hpp"
#include "unit_scaling/kernels/rows.hpp"
#include "unit_scaling/kernels/tile.hpp"
#include "unit_scaling/kernels/unpacked_panels.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::kernels {

namespace detail {

/// Keys whose scores a thread holds at a time: whole register tiles, few enough for the caches.
inline constexpr std::size_t attention_key_block = 224;
/// Panels of queries over which sums of the gradients of keys stay in registers.
inline constexpr std::size_t attention_panels_at_once = 4;
/// Queries that share a packed block of keys; more of them where that leaves enough to do for every
/// thread.
inline constexpr std::size_t attention_query_group = 256;
inline constexpr std::size_t attention_large_query_group = 512;

/// The tiles of attention: of two stored operands, of a weight and a stored operand.
template <class Compute, class A, class B>
using StoredTile = std::conditional_t<std::is_same_v<Compute, double>, DoubleTile, BestTile<A, B>>;
template <class Compute, class Words>
using WeightTile =
    std::conditional_t<std::is_same_v<Compute, double>, DoubleTile, RegisterTile<Words>>;

}  // namespace detail

/// Attention over operands in Operand and their gradients in Gradient, with arithmetic in Compute.
///
/// Weight is Compute, or bfloat16: what the weights, 1 for the largest of a query, and in the
/// backward passes the weights, of which the sum is 1, and the gradients of the scores are rounded
/// to where they enter a product. The sum that weights are divided by is that of the unrounded
/// ones. What is then smaller than `least_attention_weight` counts as zero.
template <class Compute, class Operand, class Gradient, class Weight> class Attention {
  static_assert(std::is_same_v<Weight, Compute> ||
                (std::is_same_v<Weight, bfloat16> && std::is_same_v<Compute, float>));

 public:
  Attention(const AttentionSize& size, const AttentionOperands<Operand>& operands)
      : size_(size), operands_(operands) {}

  /// y = factor · Σ_j weight_ij v_j, rounded once to Out; 0 for a query that sees no key. For each
  /// query, `normalisers` gets its largest score, before the factor, and one over Σ_j exp(score_ij
  /// − largest score). That is one number more than a log-sum-exp, which would lose the sum beside
  /// a large score.
  template <class Out> void forward(Compute factor, Out* y, Compute* normalisers) const {
    const std::size_t group = size_.slices >= available_thread_count()
                                  ? detail::attention_large_query_group
                                  : detail::attention_query_group;
    const std::size_t groups = detail::ceil_divide(size_.queries, group);
    with_tiles([&]<class Score, class Slope>(std::type_identity<std::pair<Score, Slope>>) {
      parallel_for(size_.slices * groups, [&](std::size_t index) {
        const std::size_t begin = index % groups * group;
        forward_group<Score>(index / groups, {begin, std::min(size_.queries, begin + group)},
                             factor, y, normalisers);
      });
    });
  }

  /// dq = q_factor · the gradient of q, and likewise dk and dv; each may be null.
  template <class Out>
  void backward(const AttentionUpstream<Compute, Gradient>& upstream, Compute q_factor, Out* dq,
                Compute k_factor, Out* dk, Compute v_factor, Out* dv) const {
    const Part<Out> whole{.queries = {0, size_.queries},
                          .keys = {0, size_.keys},
                          .q_factor = q_factor,
                          .dq = dq,
                          .k_factor = k_factor,
                          .dk = dk,
                          .v_factor = v_factor,
                          .dv = dv};
    const bool wants_keys = dk != nullptr || dv != nullptr;
    // Scores serve all gradients at once where that leaves enough to do for every thread. Each
    // gradient has the same chain of terms in either way.
    if (dq != nullptr && wants_keys && size_.slices >= available_thread_count()) {
      with_tiles([&](auto tiles) {
        parallel_for(size_.slices,
                     [&](std::size_t slice) { backward_part(tiles, upstream, slice, whole); });
      });
      return;
    }
    if (dq != nullptr) {
      const std::size_t groups = query_groups();
      with_tiles([&](auto tiles) {
        parallel_for(size_.slices * groups, [&](std::size_t index) {
          Part<Out> part = whole;
          part.dk = part.dv = nullptr;
          part.queries = query_group(index % groups);
          backward_part(tiles, upstream, index / groups, part);
        });
      });
    }
    if (wants_keys) {
      constexpr std::size_t group = detail::attention_key_block;
      const std::size_t groups = detail::ceil_divide(size_.keys, group);
      with_tiles([&](auto tiles) {
        parallel_for(size_.slices * groups, [&](std::size_t index) {
          Part<Out> part = whole;
          part.dq = nullptr;
          const std::size_t begin = index % groups * group;
          part.keys = {begin, std::min(size_.keys, begin + group)};
          backward_part(tiles, upstream, index / groups, part);
        });
      });
    }
  }

  /// dq, unless that is null, and dr = r_factor · the gradient of r, which is a sum over the slices
  /// of a head. They are cut into at most eight groups, each added up by one thread; then the
  /// groups are, in order.
  template <class Out>
  void backward_queries_and_distances(const AttentionUpstream<Compute, Gradient>& upstream,
                                      Compute factor, Out* dq, Compute r_factor, Out* dr,
                                      std::pmr::memory_resource* resource) const {
    constexpr std::size_t most_groups = 8;
    const std::size_t batch = size_.slices / std::max<std::size_t>(1, size_.heads);
    const std::size_t groups = std::clamp<std::size_t>(batch, 1, most_groups);
    const std::size_t elements = size_.distances * size_.head_dim;
    auto partial =
        Array<Compute>::filled(Shape{size_.heads * groups, elements}, Compute{0}, resource);
    Compute* sums = partial.mutable_data();
    with_tiles([&](auto tiles) {
      parallel_for(size_.heads * groups, [&](std::size_t index) {
        const std::size_t head = index / groups;
        const std::size_t group = index % groups;
        for (std::size_t b = batch * group / groups; b < batch * (group + 1) / groups; ++b) {
          for (std::size_t i = 0; i < query_groups(); ++i) {
            backward_part(tiles, upstream, b * size_.heads + head,
                          Part<Out>{.queries = query_group(i),
                                    .keys = {0, size_.keys},
                                    .q_factor = factor,
                                    .dq = dq,
                                    .dr = sums + index * elements});
          }
        }
      });
    });
    for_rows(size_.heads * size_.distances, size_.head_dim * groups, [&](std::size_t row) {
      const std::size_t head = row / size_.distances;
      const std::size_t offset = row % size_.distances * size_.head_dim;
      const Compute* first = sums + head * groups * elements + offset;
      for_lanes<Compute>(size_.head_dim, [&](std::size_t j, auto count) {
        auto sum = load<Compute>(first + j, count);
        for (std::size_t group = 1; group < groups; ++group) {
          sum += load<Compute>(first + group * elements + j, count);
        }
        store<Overflow::infinity_or_nan, Compute>(sum * r_factor, dr + row * size_.head_dim + j,
                                                  count);
      });
    });
  }

 private:
  using Range = detail::Range;
  static constexpr bool rounds_weights = !std::is_same_v<Weight, Compute>;
  static constexpr bool has_pairs = multiplies_weights_in_pairs<Weight, Operand>() &&
                                    multiplies_weights_in_pairs<Weight, Gradient>();
  using WeightWords = std::conditional_t<has_pairs, Bfloat16Pairs, FloatWords>;
  using WeightTile = detail::WeightTile<Compute, WeightWords>;
  using Word = std::conditional_t<std::is_same_v<Compute, double>, double, std::uint32_t>;

  /// Queries of a panel, which are the lanes of its scores.
  static constexpr std::size_t panel = WeightTile::columns;
  static constexpr std::size_t key_block = detail::attention_key_block;
  /// Rows of the buffer of a panel's scores: tiles may write a whole number of theirs.
  static constexpr std::size_t score_rows = key_block + 32;
  static constexpr std::size_t scores = score_rows * panel;
  /// Weights that follow each other along keys or queries in a word, and words of a panel's row.
  static constexpr std::size_t word_depth = WeightWords::depth;
  static constexpr std::size_t row_words = panel / word_depth;
  /// Panels whose queries are added up in one go for the gradients of keys and values.
  static constexpr std::size_t panels_at_once = detail::attention_panels_at_once;
  /// Distances between a panel of queries and a block of keys, and rows of their buffer.
  static constexpr std::size_t band_rows = key_block + panel + 32;

  /// Queries [i, i + rows) and keys [j, j + keys) of a slice, in which anything may be seen.
  struct Block {
    std::size_t slice, i, rows, j, keys;
  };

  /// What a backward pass makes: of these queries and keys, what is not null.
  template <class Out> struct Part {
    Range queries, keys;
    Compute q_factor = 0;
    Out* dq = nullptr;
    Compute k_factor = 0;
    Out* dk = nullptr;
    Compute v_factor = 0;
    Out* dv = nullptr;
    Compute* dr = nullptr;  ///< of the slice's head: added to
  };

  /// The distances that a block has: rows [first, first + count) of r, and the row of r, less
  /// `first`, at which query `a` and key `b` of the block meet, which is below zero only where a
  /// causal layout has no row.
  struct Band {
    std::size_t first, count;
    std::ptrdiff_t corner;
    [[nodiscard]] std::ptrdiff_t at(std::size_t a, std::size_t b) const {
      return corner + static_cast<std::ptrdiff_t>(a) - static_cast<std::ptrdiff_t>(b);
    }
  };

  /// An operand packed in panels one after the other.
  struct Packed {
    Word* words;
    std::size_t stride;
    [[nodiscard]] Word* operator[](std::size_t index) const { return words + index * stride; }
  };

  /// Words of the weights and slopes of a block, with queries, or keys, that follow each other in a
  /// word; by query for each of several panels, by key for one at a time.
  struct BlockWords {
    Word* weights_by_query;
    Word* slopes_by_query;
    Word* slopes_by_key;

    [[nodiscard]] BlockWords of_panel(std::size_t index) const {
      const std::size_t offset = index * score_rows * row_words;
      return {weights_by_query + offset, slopes_by_query + offset,
              has_pairs ? slopes_by_key : slopes_by_key + offset};
    }
  };

  /// Memory of the calling thread that stays for its next call; a slot for each use.
  enum Slot {
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
  };
  template <int slot> [[nodiscard]] static Compute* memory(std::size_t count) {
    return detail::packing_memory<slot, Compute>(count);
  }

  /// Memory for the words of weights at `values`: the same where a word is a rounded weight.
  template <int slot> [[nodiscard]] static Word* words_memory(Compute* values, std::size_t count) {
    if constexpr (has_pairs) return detail::packing_memory<slot, Word>(count);
    return reinterpret_cast<Word*>(values);
  }

  /// Calls `body(std::type_identity<std::pair<tile of scores, tile of their slopes>>)`.
  template <class Body> static void with_tiles(const Body& body) {
#if defined(UNIT_SCALING_HAS_AMX)
    if constexpr (!std::is_same_v<Compute, double> && has_amx_for<Operand, Operand>() &&
                  has_amx_for<Operand, Gradient>()) {
      static_assert(AmxTile::columns == panel);
      if (may_use_amx()) return body(std::type_identity<std::pair<AmxTile, AmxTile>>{});
    }
#endif
    body(std::type_identity<std::pair<detail::StoredTile<Compute, Operand, Operand>,
                                      detail::StoredTile<Compute, Operand, Gradient>>>{});
  }

  [[nodiscard]] std::size_t query_groups() const {
    return detail::ceil_divide(size_.queries, detail::attention_query_group);
  }
  [[nodiscard]] Range query_group(std::size_t index) const {
    const std::size_t begin = index * detail::attention_query_group;
    return {begin, std::min(size_.queries, begin + detail::attention_query_group)};
  }

  /// One past the last key that the slice sees at all.
  [[nodiscard]] std::size_t keys_end(std::size_t slice) const {
    std::size_t end = size_.keys;
    if (const std::int32_t* mask = size_.mask_row(slice)) {
      while (end > 0 && mask[end - 1] == 0) --end;
    }
    return end;
  }

  /// The first key that the slice sees; a causal query before it sees none.
  [[nodiscard]] std::size_t first_key(std::size_t slice) const {
    std::size_t first = 0;
    if (const std::int32_t* mask = size_.mask_row(slice)) {
      while (first < size_.keys && mask[first] == 0) ++first;
    }
    return first;
  }

  /// The keys of [j, j + keys) up to the last that any of `rows` queries from i on may see.
  [[nodiscard]] Block block_of(std::size_t slice, std::size_t i, std::size_t rows, std::size_t j,
                               std::size_t keys) const {
    const std::size_t end = i + rows;
    if (size_.is_causal) keys = end <= j ? 0 : std::min(keys, end - j);
    return {slice, i, rows, j, keys};
  }

  /// How many keys of the block its query `a` sees, if it were for the diagonal alone.
  [[nodiscard]] std::size_t seen_keys(const Block& block, std::size_t a) const {
    if (!size_.is_causal) return block.keys;
    const std::size_t i = block.i + a;
    return i < block.j ? 0 : std::min(block.keys, i - block.j + 1);
  }

  [[nodiscard]] bool is_seen(const Block& block, std::size_t a, std::size_t b) const {
    const std::int32_t* mask = size_.mask_row(block.slice);
    return b < seen_keys(block, a) && (mask == nullptr || mask[block.j + b] != 0);
  }

  /// False if every query of the block sees every key of it.
  [[nodiscard]] bool may_hide(const Block& block) const {
    return size_.mask != nullptr || seen_keys(block, 0) < block.keys;
  }

  /// Puts `filler` where a key is not seen, whatever was there.
  void hide(const Block& block, Compute* values, Compute filler) const {
    const std::int32_t* mask = size_.mask_row(block.slice);
    for (std::size_t b = seen_keys(block, 0); b < block.keys; ++b) {
      // Key j + b is later than the queries before it.
      const std::size_t hidden = std::min(block.j + b - block.i, block.rows);
      std::fill_n(values + b * panel, hidden, filler);
    }
    for (std::size_t b = 0; mask != nullptr && b < block.keys; ++b) {
      if (mask[block.j + b] == 0) std::fill_n(values + b * panel, panel, filler);
    }
  }

  [[nodiscard]] Band band_of(const Block& block) const {
    const auto corner = static_cast<std::ptrdiff_t>(block.i + size_.zero_distance) -
                        static_cast<std::ptrdiff_t>(block.j);
    const std::ptrdiff_t lowest = corner - static_cast<std::ptrdiff_t>(block.keys - 1);
    const std::ptrdiff_t first = std::max<std::ptrdiff_t>(0, lowest);
    const std::ptrdiff_t end = corner + static_cast<std::ptrdiff_t>(block.rows);
    return {static_cast<std::size_t>(first),
            static_cast<std::size_t>(std::max<std::ptrdiff_t>(0, end - first)), corner - first};
  }

  /// Rows [begin, begin + count) of the (rows, columns) matrix at `data`, a row to a lane.
  template <class T>
  [[nodiscard]] static PanelSource<T> row_lanes(const T* data, std::size_t columns,
                                                std::size_t begin, std::size_t count) {
    return {.data = data + begin * columns,
            .lane_stride = columns,
            .depth_stride = 1,
            .lane_count = count,
            .depth = columns,
            .lanes_readable = count};
  }

  /// The same rows, a column to a lane.
  template <class T>
  [[nodiscard]] static PanelSource<T> column_lanes(const T* data, std::size_t columns,
                                                   std::size_t begin, std::size_t count) {
    return {.data = data + begin * columns,
            .lane_stride = 1,
            .depth_stride = columns,
            .lane_count = columns,
            .depth = count,
            .lanes_readable = columns};
  }

  /// Packs all lanes of the source for the left or for the right side of tiles.
  template <int slot, class Tile, class T>
  [[nodiscard]] static Packed pack_left(const PanelSource<T>& source) {
    return pack<slot, Tile::rows>(source, Tile::left_words(source.depth),
                                  [](const auto& part, Word* to) { Tile::pack_left(part, to); });
  }
  template <int slot, class Tile, class T>
  [[nodiscard]] static Packed pack_right(const PanelSource<T>& source) {
    return pack<slot, Tile::columns>(
        source, Tile::right_words(source.depth),
        [](const auto& part, Word* to) { Tile::pack_right(part, to); });
  }
  template <int slot, std::size_t width, class T, class Pack>
  [[nodiscard]] static Packed pack(PanelSource<T> source, std::size_t words,
                                   const Pack& pack_part) {
    const std::size_t count = detail::ceil_divide(source.lane_count, width);
    const Packed result{detail::packing_memory<slot, Word>(count * words), words};
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

  /// values = left·right for the first `rows` lanes of the left side, in rows of a panel.
  template <class Tile>
  static void multiply(const Packed& left, std::size_t rows, const Word* right, std::size_t depth,
                       Compute* values) {
    for (std::size_t row = 0; row < rows; row += Tile::rows) {
      Tile::multiply(depth, left[row / Tile::rows], right, std::min(Tile::rows, rows - row), panel,
                     values + row * panel, false);
    }
  }

  /// sums += left·weights over `depth` keys, of which each word of `weights` has `word_depth` that
  /// follow each other; sums has a row for each lane of the left side.
  static void add_over_keys(const Packed& left, std::size_t rows, std::size_t depth,
                            const Word* weights, Compute* sums) {
    for (std::size_t row = 0; row < rows; row += WeightTile::rows) {
      WeightTile::multiply(depth, left[row / WeightTile::rows], weights,
                           std::min(WeightTile::rows, rows - row), panel, sums + row * panel, true);
    }
  }

  /// sums += weights·rows over `depth` queries from that with number `first_query` of `rows` on, of
  /// which each word of `weights` has `word_depth`; sums are `sums_size` apart for each panel of
  /// columns.
  static void add_over_queries(const detail::UnpackedPanels<Word>& weights, std::size_t keys,
                               std::size_t depth, const Packed& rows, std::size_t first_query,
                               std::size_t columns, Compute* sums, std::size_t sums_size) {
    const std::size_t words = detail::ceil_divide(depth, word_depth);
    for (std::size_t column = 0; column < columns; column += panel, sums += sums_size) {
      const Word* right = rows[column / panel] + first_query / word_depth * panel;
      for (std::size_t b = 0; b < keys; b += WeightTile::rows) {
        detail::multiply_unpacked<WeightWords, WeightTile::rows>(
            words, {weights.words + b * row_words, weights.panel_stride}, right, sums + b * panel);
      }
    }
  }

  /// The weight of query `a` and key `b` in words that have keys, or queries, that follow each
  /// other.
  [[nodiscard]] static Compute weight_by_key(const Word* words, std::size_t a, std::size_t b) {
    if constexpr (has_pairs) return half_of(words[b / 2 * panel + a], b % 2);
    return std::bit_cast<Compute>(words[b * panel + a]);
  }
  [[nodiscard]] static Compute weight_by_query(const Word* words, std::size_t a, std::size_t b) {
    if constexpr (has_pairs) return half_of(words[b * row_words + a / 2], a % 2);
    return std::bit_cast<Compute>(words[b * panel + a]);
  }
  [[nodiscard]] static float half_of(std::uint32_t word, std::size_t index) {
    return std::bit_cast<float>(index == 0 ? word & 0xffff'0000U : word << 16);
  }

  /// As the two sums above, but leaves out terms at which `seen(query, key)` is false: a product
  /// with zero would turn an infinity or NaN there into NaN.
  template <class T, class WeightAt, class Seen>
  static void add_seen_over_keys(const T* left, std::size_t columns, const Block& block,
                                 std::size_t rows, const WeightAt& weight, const Seen& seen,
                                 Compute* sums) {
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
  template <class T, class WeightAt, class Seen>
  static void add_seen_over_queries(const Block& block, std::size_t rows, const WeightAt& weight,
                                    const T* right, std::size_t columns, const Seen& seen,
                                    Compute* sums, std::size_t sums_stride) {
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

  template <class T> [[nodiscard]] static bool all_finite(const T* elements, std::size_t size) {
    // Of zeros, but for 0 · ∞ and 0 · NaN.
    return sum_lanes<Compute>(size, [&](std::size_t j, auto count) {
             return load<Compute>(elements + j, count) * Compute{0};
           }) == 0;
  }

  /// Calls `body(offset)` for the lanes of a panel.
  template <class Body> [[gnu::always_inline]] static void for_panel_lanes(const Body& body) {
    for (std::size_t a = 0; a < panel; a += lane_count<Compute>) body(a);
  }
  [[nodiscard, gnu::always_inline]] static lane_t<Compute> get(const Compute* from) {
    return load<Compute>(from, FullLanes<Compute>{});
  }
  [[gnu::always_inline]] static void put(lane_t<Compute> value, Compute* to) {
    store<Overflow::infinity_or_nan, Compute>(value, to, FullLanes<Compute>{});
  }

  /// q·k of a block, and q·r if there are distances. What is there for keys that are not seen is
  /// anything.
  template <class Score>
  void compute_scores(const Block& block, const Packed& keys, const Word* queries,
                      Compute* values) const {
    multiply<Score>(keys, block.keys, queries, size_.head_dim, values);
    if (size_.distances == 0) return;
    const Band band = band_of(block);
    const Packed distances = pack_left<score_distances, Score>(
        row_lanes(distances_of(block), size_.head_dim, band.first, band.count));
    Compute* by_distance = memory<band_slot>(band_rows * panel);
    multiply<Score>(distances, band.count, queries, size_.head_dim, by_distance);
    for (std::size_t b = 0; b < block.keys; ++b) {
      for (std::size_t a = 0; a < block.rows; ++a) {
        const std::ptrdiff_t row = band.at(a, b);
        if (row >= 0)
          values[b * panel + a] += by_distance[static_cast<std::size_t>(row) * panel + a];
      }
    }
  }
  [[nodiscard]] const Operand* distances_of(const Block& block) const {
    return operands_.r + block.slice % size_.heads * size_.distances * size_.head_dim;
  }

  /// Draws what dropout keeps of the weights of a block, in the layout of its scores: 0, or
  /// 1/(1−p). The number of an element is its place in (slices, queries, keys), so each pass draws
  /// the same, whatever its blocks.
  void draw_kept(const Block& block, Compute* kept) const {
    constexpr std::size_t words_at_once = 64;
    const auto threshold = static_cast<std::uint64_t>(size_.dropout * 0x1p32);
    const auto factor = static_cast<Compute>(1 / (1 - size_.dropout));
    std::fill_n(kept, block.keys * panel, Compute{0});
    for (std::size_t a = 0; a < block.rows; ++a) {
      const std::uint64_t begin =
          (std::uint64_t{block.slice} * size_.queries + block.i + a) * size_.keys + block.j;
      const std::uint64_t end = begin + block.keys;
      for (std::uint64_t base = begin / words_at_once * words_at_once; base < end;
           base += words_at_once) {
        const std::array<uint32x16, 4> blocks = size_.random.blocks(base / 4);
        std::array<std::uint32_t, words_at_once> words;
        for (std::size_t word = 0; word < blocks.size(); ++word) {
          for (std::size_t lane = 0; lane < lanes; ++lane) {
            words[4 * lane + word] = blocks[word][lane];
          }
        }
        for (std::uint64_t n = std::max(base, begin); n < std::min(base + words_at_once, end);
             ++n) {
          kept[(n - begin) * panel + a] = words[n - base] < threshold ? Compute{0} : factor;
        }
      }
    }
  }

  /// out[row] = factors[row] · column `row` of sums, for `rows` rows of `columns` elements.
  template <class Out>
  static void store_transposed(const Compute* sums, const Compute* factors, std::size_t rows,
                               std::size_t columns, Out* out) {
    if constexpr (std::is_same_v<Compute, double>) {
      for (std::size_t a = 0; a < rows; ++a) {
        for (std::size_t d = 0; d < columns; ++d) {
          put_one(sums[d * panel + a] * factors[a], out + a * columns + d);
        }
      }
    } else {
      for (std::size_t a = 0; a < rows; a += lanes) {
        const float32x16 factor = get(factors + a);
        for_lanes<float>(columns, [&](std::size_t d, auto count) {
          uint32x16 block[lanes] = {};
          for (std::size_t k = 0; k < count; ++k) {
            block[k] = bit_cast_to<uint32x16>(get(sums + (d + k) * panel + a) * factor);
          }
          detail::transpose_16x16(block);
          for (std::size_t k = 0; k < std::min(lanes, rows - a); ++k) {
            store<Overflow::infinity_or_nan, float>(bit_cast_to<float32x16>(block[k]),
                                                    out + (a + k) * columns + d, count);
          }
        });
      }
    }
  }
  template <class Out> static void put_one(Compute value, Out* out) {
    store<Overflow::infinity_or_nan, Compute>(broadcast<Compute>(value), out, FullLanes<double>{});
  }

  /// out = factor · sums of the keys' gradients, for `keys` rows of `columns` elements.
  template <class Out>
  static void store_rows(const Compute* sums, Compute factor, std::size_t keys, std::size_t columns,
                         Out* out) {
    for (std::size_t b = 0; b < keys; ++b) {
      for (std::size_t column = 0; column < columns; column += panel) {
        const Compute* from = sums + column / panel * scores + b * panel;
        for_lanes<Compute>(std::min(panel, columns - column), [&](std::size_t d, auto count) {
          store<Overflow::infinity_or_nan, Compute>(
              load<Compute>(from + d, FullLanes<Compute>{}) * factor,
              out + b * columns + column + d, count);
        });
      }
    }
  }

  [[nodiscard]] static std::size_t tiles_of(std::size_t rows) {
    return detail::ceil_divide(rows, WeightTile::rows);
  }

  template <class Score, class Out>
  void forward_group(std::size_t slice, Range queries, Compute factor, Out* y,
                     Compute* normalisers) const {
    constexpr Compute lowest = -std::numeric_limits<Compute>::infinity();
    const std::size_t count = queries.end - queries.begin;
    const std::size_t panels = detail::ceil_divide(count, panel);
    const std::size_t output_size = tiles_of(size_.value_dim) * WeightTile::rows * panel;
    const Operand* v = operands_.v + slice * size_.keys * size_.value_dim;
    const Packed packed_queries = pack_right<score_queries, Score>(
        row_lanes(operands_.q + slice * size_.queries * size_.head_dim, size_.head_dim,
                  queries.begin, count));
    Compute* outputs = memory<output_sums>(panels * output_size);
    std::fill_n(outputs, panels * output_size, Compute{0});
    Compute* largest = memory<statistics>(3 * panels * panel);
    std::fill_n(largest, panels * panel, lowest);
    Compute* sums = largest + panels * panel;
    std::fill_n(sums, panels * panel, Compute{0});
    Compute* weights = memory<weights_slot>(scores);
    Word* words = words_memory<weights_by_key>(weights, scores);
    [[maybe_unused]] const typename Score::Session session{};

    const std::size_t end = std::min(keys_end(slice), size_.is_causal ? queries.end : size_.keys);
    for (std::size_t j = 0; j < end; j += key_block) {
      const std::size_t keys = std::min(key_block, end - j);
      const Packed packed_keys = pack_left<score_keys, Score>(
          row_lanes(operands_.k + slice * size_.keys * size_.head_dim, size_.head_dim, j, keys));
      const Packed values =
          pack_left<by_key_left, WeightTile>(column_lanes(v, size_.value_dim, j, keys));
      const bool is_finite =
          (size_.mask == nullptr && (!size_.is_causal || j + keys <= queries.begin + 1)) ||
          all_finite(v + j * size_.value_dim, keys * size_.value_dim);
      for (std::size_t index = 0; index < panels; ++index) {
        const std::size_t i = index * panel;
        const Block block = block_of(slice, queries.begin + i, std::min(panel, count - i), j, keys);
        if (block.keys == 0) continue;
        compute_scores<Score>(block, packed_keys, packed_queries[index], weights);
        if (may_hide(block)) hide(block, weights, lowest);
        Compute* output = outputs + index * output_size;
        weigh(block, weights, largest + i, sums + i, output, words);
        if (is_finite || !may_hide(block)) {
          add_over_keys(values, size_.value_dim, block.keys, words, output);
        } else {
          add_seen_over_keys(
              v + j * size_.value_dim, size_.value_dim, block, block.keys,
              [&](std::size_t a, std::size_t b) { return weight_by_key(words, a, b); },
              [&](std::size_t a, std::size_t b) { return is_seen(block, a, b); }, output);
        }
      }
    }

    const std::size_t first_seen = first_key(slice);
    Compute* factors = sums + panels * panel;
    for (std::size_t i = 0; i < count; i += panel) {
      const std::size_t rows = std::min(panel, count - i);
      const std::size_t row = slice * size_.queries + queries.begin + i;
      for (std::size_t a = 0; a < rows; ++a) factors[a] = factor / sums[i + a];
      store_transposed(outputs + i / panel * output_size, factors, rows, size_.value_dim,
                       y + row * size_.value_dim);
      for (std::size_t a = 0; a < rows; ++a) {
        // A row of −∞ only has the sum 0 and becomes NaN, as any softmax of it does.
        normalisers[2 * (row + a)] = largest[i + a];
        normalisers[2 * (row + a) + 1] = 1 / sums[i + a];
        if (first_seen == size_.keys || (size_.is_causal && first_seen > queries.begin + i + a)) {
          std::fill_n(y + (row + a) * size_.value_dim, size_.value_dim, Out{});
          normalisers[2 * (row + a)] = 0;
          normalisers[2 * (row + a) + 1] = 0;
        }
      }
    }
  }

  /// Turns the scores of a block, before their factor, into weights relative to the largest one
  /// so far of each query, which brings its sum and output to that scale first. `words` gets the
  /// weights by key.
  void weigh(const Block& block, Compute* weights, Compute* largest, Compute* sums, Compute* output,
             Word* words) const {
    constexpr Compute lowest = -std::numeric_limits<Compute>::infinity();
    const Compute exponent_factor = this->exponent_factor();
    bool is_larger = false;
    alignas(array_alignment) Compute rescale[panel];
    alignas(array_alignment) Compute reference[panel];
    for_panel_lanes([&](std::size_t a) {
      auto max = broadcast<Compute>(lowest);
      for (std::size_t b = 0; b < block.keys; ++b) {
        max = greater_lane(get(weights + b * panel + a), max);
      }
      const auto before = get(largest + a);
      const auto now = greater_lane(max, before);
      put(now, largest + a);
      // Nothing but −∞ so far: any finite reference makes zeros of it, −∞ itself would make NaN.
      const auto finite = select_lane(now == lowest, broadcast<Compute>(0), now);
      put(finite, reference + a);
      put(weight_of(before, exponent_factor, finite), rescale + a);
      for (std::size_t lane = a; lane < a + lane_count<Compute>; ++lane) {
        is_larger = is_larger || rescale[lane] != 1;
      }
    });
    if (is_larger) {
      const std::size_t rows = size_.value_dim;
      for_panel_lanes([&](std::size_t a) {
        const auto by = get(rescale + a);
        put(get(sums + a) * by, sums + a);
        for (std::size_t d = 0; d < rows; ++d) {
          put(without_small(get(output + d * panel + a) * by), output + d * panel + a);
        }
      });
    }
    if (size_.dropout == 0) {
      make_weights(block, weights, reference, exponent_factor, sums, words,
                   [](auto weight, std::size_t /*at*/) { return weight; });
    } else {
      Compute* kept = memory<kept_slot>(scores);
      draw_kept(block, kept);
      make_weights(block, weights, reference, exponent_factor, sums, words,
                   [&](auto weight, std::size_t at) { return weight * get(kept + at); });
    }
  }

  /// The second half of `weigh`: with `keep(weights, place)`, the weights after dropout.
  template <class Keep>
  void make_weights(const Block& block, const Compute* weights, const Compute* reference,
                    Compute exponent_factor, Compute* sums, Word* words, const Keep& keep) const {
    constexpr std::size_t step = lane_count<Compute>;
    constexpr std::size_t registers = panel / step;
    lane_t<Compute> sum[registers] = {};
    lane_t<Compute> weight[word_depth][registers] = {};
    const auto weigh_row = [&](std::size_t b, std::size_t r) __attribute__((always_inline)) {
      for (std::size_t x = 0; x < registers; ++x) {
        const std::size_t at = b * panel + x * step;
        const auto share = weight_of(get(weights + at), exponent_factor, get(reference + x * step));
        sum[x] += share;
        weight[r][x] = keep(share, at);
      }
    };
    for (std::size_t b = 0; b < block.keys; b += word_depth) {
      weigh_row(b, 0);
      if constexpr (has_pairs) {
        if (b + 1 < block.keys) {
          weigh_row(b + 1, 1);
        } else {
          weight[1][0] = weight[1][1] = float32x16{};
        }
        // What dropout keeps, it makes larger: there are no small ones.
        const detail::RoundedWeights first(weight[0][0], weight[0][1]);
        const detail::RoundedWeights second(weight[1][0], weight[1][1]);
        for (std::size_t x = 0; x < registers; ++x) {
          unit_scaling::store(first.key_pairs(second, x), words + b / 2 * panel + x * step);
        }
      } else {
        for (std::size_t x = 0; x < registers; ++x) {
          put(rounded(weight[0][x]), reinterpret_cast<Compute*>(words) + b * panel + x * step);
        }
      }
    }
    for (std::size_t x = 0; x < registers; ++x) {
      put(get(sums + x * step) + sum[x], sums + x * step);
    }
  }

  /// What a weight's exponent is times: to the base e, or 2 if the weight is rounded.
  [[nodiscard]] Compute exponent_factor() const {
    return static_cast<Compute>(rounds_weights ? size_.score_factor * std::numbers::log2e
                                               : size_.score_factor);
  }
  [[nodiscard, gnu::always_inline]] static lane_t<Compute> weight_of(lane_t<Compute> product,
                                                                     Compute exponent_factor,
                                                                     lane_t<Compute> reference) {
    // Subtracted first: with a fused product the largest score would not be its own reference.
    const auto exponent = (product - reference) * exponent_factor;
    if constexpr (rounds_weights) {
      return exp2_of_nonpositive(exponent);
    } else {
      return exp_of_nonpositive(exponent);
    }
  }
  /// A weight in Weight.
  [[nodiscard, gnu::always_inline]] static lane_t<Compute> rounded(lane_t<Compute> weight) {
    if constexpr (rounds_weights) {
      return round_attention_weight(weight);
    } else {
      return weight;
    }
  }
  /// Sums to which products with rounded weights will be added.
  [[nodiscard, gnu::always_inline]] static lane_t<Compute> without_small(lane_t<Compute> sums) {
    if constexpr (rounds_weights) {
      const auto least = splat<float32x16>(least_attention_weight);
      return select(is_less(sums, least) & is_less(-least, sums), float32x16{}, sums);
    } else {
      return sums;
    }
  }

  template <class Score, class Slope, class Out>
  void backward_part(std::type_identity<std::pair<Score, Slope>> /*tiles*/,
                     const AttentionUpstream<Compute, Gradient>& upstream, std::size_t slice,
                     const Part<Out>& part) const {
    const std::size_t dim = size_.head_dim;
    const std::size_t value_dim = size_.value_dim;
    const Range& queries = part.queries;
    const std::size_t count = queries.end - queries.begin;
    const std::size_t panels = detail::ceil_divide(count, panel);
    const Operand* q = operands_.q + slice * size_.queries * dim;
    const Operand* k = operands_.k + slice * size_.keys * dim;
    const Operand* v = operands_.v + slice * size_.keys * value_dim;
    const Gradient* g = upstream.g + slice * size_.queries * value_dim;
    const std::size_t end = std::min(part.keys.end, keys_end(slice));

    const Packed packed_queries =
        pack_right<score_queries, Score>(row_lanes(q, dim, queries.begin, count));
    const Packed packed_gradients =
        pack_right<slope_gradients, Slope>(row_lanes(g, value_dim, queries.begin, count));
    const bool needs_query_rows = part.dk != nullptr || part.dr != nullptr;
    const Packed rows_of_queries =
        needs_query_rows
            ? pack_right<query_rows, WeightTile>(column_lanes(q, dim, queries.begin, count))
            : Packed{};
    const Packed rows_of_gradients = part.dv != nullptr
                                         ? pack_right<gradient_rows, WeightTile>(
                                               column_lanes(g, value_dim, queries.begin, count))
                                         : Packed{};
    const bool may_hide_any = size_.mask != nullptr || size_.is_causal;
    const bool is_finite_by_query =
        !may_hide_any || (all_finite(q + queries.begin * dim, count * dim) &&
                          all_finite(g + queries.begin * value_dim, count * value_dim));

    const std::size_t dq_size = tiles_of(dim) * WeightTile::rows * panel;
    Compute* dq_sums = memory<output_sums>(panels * dq_size);
    if (part.dq != nullptr) std::fill_n(dq_sums, panels * dq_size, Compute{0});
    const std::size_t dk_size = detail::ceil_divide(dim, panel) * scores;
    const std::size_t dv_size = detail::ceil_divide(value_dim, panel) * scores;
    Compute* dk_sums = memory<key_sums>(dk_size);
    Compute* dv_sums = memory<value_sums>(dv_size);
    constexpr std::size_t panels_of_values = has_pairs ? 1 : panels_at_once;
    Compute* weights = memory<weights_slot>(panels_of_values * scores);
    Compute* slopes = memory<slopes_slot>(panels_of_values * scores);
    constexpr std::size_t panel_words = score_rows * row_words;
    const BlockWords words{
        .weights_by_query = words_memory<weights_by_query>(weights, panels_at_once * panel_words),
        .slopes_by_query = words_memory<slopes_by_query>(slopes, panels_at_once * panel_words),
        .slopes_by_key = words_memory<slopes_by_key>(slopes, panel_words)};
    Compute* of_queries = memory<statistics>(3 * panels * panel);
    std::fill_n(of_queries, 3 * panels * panel, Compute{0});
    for (std::size_t i = 0; i < count; ++i) {
      const std::size_t query = slice * size_.queries + queries.begin + i;
      Compute* at = of_queries + i / panel * (3 * panel) + i % panel;
      at[0] = upstream.normalisers[2 * query];
      at[panel] = upstream.normalisers[2 * query + 1];
      at[2 * panel] = upstream.inner[query];
    }
    [[maybe_unused]] const typename Score::Session session{};

    for (std::size_t j = part.keys.begin; j < part.keys.end; j += key_block) {
      const std::size_t keys = j < end ? std::min(key_block, end - j) : 0;
      if (part.dk != nullptr) std::fill_n(dk_sums, dk_size, Compute{0});
      if (part.dv != nullptr) std::fill_n(dv_sums, dv_size, Compute{0});
      if (keys != 0) {
        const Packed packed_keys = pack_left<score_keys, Score>(row_lanes(k, dim, j, keys));
        const Packed packed_values =
            pack_left<slope_values, Slope>(row_lanes(v, value_dim, j, keys));
        const Packed columns_of_keys =
            part.dq != nullptr ? pack_left<by_key_left, WeightTile>(column_lanes(k, dim, j, keys))
                               : Packed{};
        const bool is_finite_by_key = !may_hide_any || all_finite(k + j * dim, keys * dim);
        // Causal: the first panel with a query at or after key j.
        const std::size_t first =
            size_.is_causal && j > queries.begin ? (j - queries.begin) / panel : 0;
        for (std::size_t group = first; group < panels; group += panels_at_once) {
          const std::size_t group_end = std::min(panels, group + panels_at_once);
          const auto block_at = [&](std::size_t index) {
            const std::size_t i = queries.begin + index * panel;
            return block_of(slice, i, std::min(panel, queries.end - i), j, keys);
          };
          // The last panel sees the most keys.
          const std::size_t group_keys = block_at(group_end - 1).keys;
          bool hides_any = false;
          for (std::size_t index = group; index < group_end; ++index) {
            const Block block = block_at(index);
            const BlockWords to = words.of_panel(index - group);
            Compute* of_panel = has_pairs ? weights : weights + (index - group) * scores;
            Compute* slopes_of_panel = has_pairs ? slopes : slopes + (index - group) * scores;
            compute_scores<Score>(block, packed_keys, packed_queries[index], of_panel);
            multiply<Slope>(packed_values, block.keys, packed_gradients[index], value_dim,
                            slopes_of_panel);
            compute_slopes(block, group_keys, of_queries + index * (3 * panel), of_panel,
                           slopes_of_panel, to);
            const bool hides = may_hide(block);
            hides_any = hides_any || hides;
            const auto slope = [&](std::size_t a, std::size_t b) {
              return weight_by_query(to.slopes_by_query, a, b);
            };
            if (part.dq != nullptr) {
              Compute* sums = dq_sums + index * dq_size;
              if (is_finite_by_key || !hides) {
                add_over_keys(columns_of_keys, dim, block.keys, to.slopes_by_key, sums);
              } else {
                const auto seen = [&](std::size_t a, std::size_t b) {
                  return is_seen(block, a, b);
                };
                add_seen_over_keys(k + j * dim, dim, block, block.keys, slope, seen, sums);
              }
            }
            if (size_.distances != 0 && (part.dq != nullptr || part.dr != nullptr)) {
              add_over_distances(block, slope, rows_of_queries, index,
                                 part.dq == nullptr ? nullptr : dq_sums + index * dq_size, part.dr);
            }
          }
          const auto add_to_keys = [&](const Word* by_query, const Packed& packed, const auto* rows,
                                       std::size_t columns, Compute* sums) {
            const std::size_t begin = group * panel;
            if (is_finite_by_query || !hides_any) {
              add_over_queries({by_query, panel_words}, group_keys,
                               std::min(count, group_end * panel) - begin, packed, begin, columns,
                               sums, scores);
              return;
            }
            for (std::size_t index = group; index < group_end; ++index) {
              const Block block = block_at(index);
              const Word* of_panel = by_query + (index - group) * panel_words;
              add_seen_over_queries(
                  block, block.keys,
                  [&](std::size_t a, std::size_t b) { return weight_by_query(of_panel, a, b); },
                  rows + block.i * columns, columns,
                  [&](std::size_t a, std::size_t b) { return is_seen(block, a, b); }, sums, scores);
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
      const std::size_t all_keys = std::min(key_block, part.keys.end - j);
      const std::size_t row = slice * size_.keys + j;
      if (part.dk != nullptr) {
        store_rows(dk_sums, part.k_factor, all_keys, dim, part.dk + row * dim);
      }
      if (part.dv != nullptr) {
        store_rows(dv_sums, part.v_factor, all_keys, value_dim, part.dv + row * value_dim);
      }
    }
    if (part.dq == nullptr) return;
    alignas(array_alignment) Compute factors[panel];
    std::fill_n(factors, panel, part.q_factor);
    for (std::size_t index = 0; index < panels; ++index) {
      const std::size_t i = queries.begin + index * panel;
      store_transposed(dq_sums + index * dq_size, factors, std::min(panel, queries.end - i), dim,
                       part.dq + (slice * size_.queries + i) * dim);
    }
  }

  /// From the scores before their factor, and g·v, of a block: the words of its weights after
  /// dropout and of its slopes, the gradients of its scores. Both are zero where a key is not seen,
  /// and by query for keys up to the end of the tiles of `group_keys`.
  void compute_slopes(const Block& block, std::size_t group_keys, const Compute* of_queries,
                      const Compute* weights, const Compute* slopes, const BlockWords& to) const {
    const auto make = [&](const auto& keep) {
      // Queries that are not there share words with others.
      if (may_hide(block) || block.rows < panel) {
        make_slopes<true>(block, of_queries, weights, slopes, to, keep);
      } else {
        make_slopes<false>(block, of_queries, weights, slopes, to, keep);
      }
    };
    if (size_.dropout == 0) {
      make([](auto value, std::size_t /*at*/) { return value; });
    } else {
      Compute* kept = memory<kept_slot>(scores);
      draw_kept(block, kept);
      make([&](auto value, std::size_t at) { return value * get(kept + at); });
    }
    const std::size_t end = tiles_of(group_keys) * WeightTile::rows;
    for (Word* words : {to.weights_by_query, to.slopes_by_query}) {
      std::fill(words + block.keys * row_words, words + end * row_words, Word{0});
    }
  }

  template <bool hides, class Keep>
  void make_slopes(const Block& block, const Compute* of_queries, const Compute* weights,
                   const Compute* slopes, const BlockWords& to, const Keep& keep) const {
    constexpr std::size_t step = lane_count<Compute>;
    constexpr std::size_t registers = panel / step;
    const Compute exponent_factor = this->exponent_factor();
    lane_t<Compute> weight[word_depth][registers];
    lane_t<Compute> slope[word_depth][registers];
    const auto make_row = [&](std::size_t b, std::size_t r) __attribute__((always_inline)) {
      [[maybe_unused]] const std::size_t first = hides ? first_seeing(block, b) : 0;
      for (std::size_t x = 0; x < registers; ++x) {
        const std::size_t at = b * panel + x * step;
        const auto share =
            weight_of(get(weights + at), exponent_factor, get(of_queries + x * step)) *
            get(of_queries + panel + x * step);
        weight[r][x] = keep(share, at);
        slope[r][x] = sum_of_products(keep(get(slopes + at), at), share, -share,
                                      get(of_queries + 2 * panel + x * step));
        if constexpr (hides) {
          weight[r][x] = keep_lanes(weight[r][x], x * step, first, block.rows);
          slope[r][x] = keep_lanes(slope[r][x], x * step, first, block.rows);
        }
      }
    };
    for (std::size_t b = 0; b < block.keys; b += word_depth) {
      make_row(b, 0);
      if constexpr (has_pairs) {
        if (b + 1 < block.keys) {
          make_row(b + 1, 1);
        } else {
          for (std::size_t x = 0; x < registers; ++x) weight[1][x] = slope[1][x] = float32x16{};
        }
        const auto rounded_row = [](const auto& row) __attribute__((always_inline)) {
          return detail::RoundedWeights(row[0], row[1]).without_small();
        };
        const detail::RoundedWeights of_key = rounded_row(slope[0]);
        const detail::RoundedWeights of_next = rounded_row(slope[1]);
        const std::size_t row = b * row_words;
        const std::size_t next_row = row + row_words;
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
          put(rounded(weight[0][x]), reinterpret_cast<Compute*>(to.weights_by_query) + at);
          put(rounded(slope[0][x]), reinterpret_cast<Compute*>(to.slopes_by_query) + at);
        }
      }
    }
  }

  /// The first lane of a block that sees its key `b`; all that follow do.
  [[nodiscard]] std::size_t first_seeing(const Block& block, std::size_t b) const {
    const std::int32_t* mask = size_.mask_row(block.slice);
    if (mask != nullptr && mask[block.j + b] == 0) return panel;
    const std::size_t key = block.j + b;
    return size_.is_causal && key > block.i ? key - block.i : 0;
  }

  /// Values of lanes from `lane` on, zeros for lanes outside [first, end).
  [[nodiscard, gnu::always_inline]] static lane_t<Compute> keep_lanes(lane_t<Compute> values,
                                                                      std::size_t lane,
                                                                      std::size_t first,
                                                                      std::size_t end) {
    if constexpr (std::is_same_v<Compute, double>) {
      return lane >= first && lane < end ? values : 0;
    } else {
      constexpr int32x16 numbers{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
      const int32x16 at = numbers + static_cast<std::int32_t>(lane);
      const auto is_kept = ~is_less(at, splat<int32x16>(static_cast<std::int32_t>(first))) &
                           is_less(at, splat<int32x16>(static_cast<std::int32_t>(end)));
      return select(is_kept, values, float32x16{});
    }
  }

  /// What the slopes of a block add to its part of dq and to dr by way of the distances.
  template <class SlopeAt>
  void add_over_distances(const Block& block, const SlopeAt& slope, const Packed& rows_of_queries,
                          std::size_t index, Compute* dq_sums, Compute* dr) const {
    const std::size_t dim = size_.head_dim;
    const Band band = band_of(block);
    if (band.count == 0) return;
    Compute* by_distance = memory<band_slot>(band_rows * panel);
    std::fill_n(by_distance, band_rows * panel, Compute{0});
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
      return b >= 0 && is_seen(block, a, static_cast<std::size_t>(b));
    };
    if (dq_sums != nullptr) {
      const Operand* r = distances_of(block) + band.first * dim;
      if (all_finite(r, band.count * dim)) {
        Word* by_key = words_memory<band_by_key>(by_distance, band_rows * row_words);
        if constexpr (has_pairs) {
          for (std::size_t t = 0; t < band.count; t += 2) {
            const auto weights_of = [&](std::size_t row) {
              const Compute* from = by_distance + row * panel;
              return detail::RoundedWeights(get(from), get(from + lanes));
            };
            for (std::size_t x = 0; x < 2; ++x) {
              unit_scaling::store(weights_of(t).key_pairs(weights_of(t + 1), x),
                                  by_key + t / 2 * panel + x * lanes);
            }
          }
        }
        add_over_keys(pack_left<left_distances, WeightTile>(column_lanes(r, dim, 0, band.count)),
                      dim, band.count, by_key, dq_sums);
      } else {
        add_seen_over_keys(r, dim, block, band.count, slope_of, seen, dq_sums);
      }
    }
    if (dr == nullptr) return;
    const Operand* q = operands_.q + (block.slice * size_.queries + block.i) * dim;
    Compute* to = dr + band.first * dim;
    constexpr std::size_t sums_size = band_rows * panel;
    Compute* sums = memory<band_sums>(detail::ceil_divide(dim, panel) * sums_size);
    std::fill_n(sums, detail::ceil_divide(dim, panel) * sums_size, Compute{0});
    if (all_finite(q, block.rows * dim)) {
      Word* by_query = words_memory<band_by_query>(by_distance, band_rows * row_words);
      if constexpr (has_pairs) {
        for (std::size_t t = 0; t < tiles_of(band.count) * WeightTile::rows; ++t) {
          const Compute* row = by_distance + t * panel;
          unit_scaling::store(detail::RoundedWeights(get(row), get(row + lanes)).lane_pairs(),
                              by_query + t * row_words);
        }
      }
      add_over_queries({by_query, 0}, band.count, block.rows, rows_of_queries, index * panel, dim,
                       sums, sums_size);
    } else {
      add_seen_over_queries(block, band.count, slope_of, q, dim, seen, sums, sums_size);
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

  AttentionSize size_;
  AttentionOperands<Operand> operands_;
};

}  // namespace UNIT_SCALING_NAMESPACE::kernels

UNIT_SCALING_IEEE_END
