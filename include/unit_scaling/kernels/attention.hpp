// SPDX-License-Identifier: MIT
/// @file
/// Layer kernels: softmax attention in blocks of queries and keys, forward and backward.
///
/// No matrix of queries × keys ever exists: a thread holds two tiles of it, of fixed size, and
/// what is kept between the passes is two numbers per query. The softmax of a query runs "online"
/// over the blocks of its keys: sums are kept relative to the largest score so far and rescaled
/// when a block brings a larger one. Each result is summed by one thread over blocks in ascending
/// order, so its bits do not depend on how many threads there are.
/// @see Dao 2023, arXiv:2307.08691 (FlashAttention-2).
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <vector>

#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/parallel_for.hpp"
#include "unit_scaling/core/random.hpp"
#include "unit_scaling/kernels/elementary.hpp"
#include "unit_scaling/kernels/matmul.hpp"
#include "unit_scaling/kernels/rows.hpp"

namespace unit_scaling::kernels {

/// Queries and keys of a tile. Larger ones pack less per product and fit the caches less.
inline constexpr std::size_t attention_query_block = 128;
inline constexpr std::size_t attention_key_block = 256;

/// Extents of attention, and which weights are zero. A slice is one index of the leading extents:
/// one head of one sequence.
struct AttentionSize {
  std::size_t slices;
  std::size_t queries;
  std::size_t keys;
  std::size_t head_dim;
  std::size_t value_dim;

  /// Query i sees keys up to i only.
  bool is_causal = false;
  /// A row of `keys` integers for each group of slices, not zero where a key is seen; null: all.
  const std::int32_t* mask = nullptr;
  std::size_t slices_per_mask_row = 1;

  /// Relative positions: slice s has rows s % heads; distance i − j is row i − j + zero_distance.
  std::size_t heads = 1;
  std::size_t distances = 0;  ///< 0: there are none
  std::size_t zero_distance = 0;

  double score_factor = 1;  ///< score = score_factor (q·k + q·r)
  double dropout = 0;       ///< probability that a weight is dropped
  Random random = Random(0, RandomStream::dropout);

  [[nodiscard]] const std::int32_t* mask_row(std::size_t slice) const {
    return mask == nullptr ? nullptr : mask + slice / slices_per_mask_row * keys;
  }
};

/// Operands of attention: q (slices, queries, head_dim), k (slices, keys, head_dim),
/// v (slices, keys, value_dim), r (heads, distances, head_dim) or null.
template <class Operand> struct AttentionOperands {
  const Operand* q;
  const Operand* k;
  const Operand* v;
  const Operand* r;
};

/// What the backward passes of attention read: the gradient g (slices, queries, value_dim), what
/// `Attention::forward` wrote to `normalisers`, and for each query Σ g∘y over y's factor.
template <class Compute, class Gradient> struct AttentionUpstream {
  const Gradient* g;
  const Compute* normalisers;
  const Compute* inner;
};

/// Attention over given operands, with arithmetic in Compute.
template <class Compute, class Operand> class Attention {
 public:
  Attention(const AttentionSize& size, const AttentionOperands<Operand>& operands)
      : size_(size), operands_(operands) {}

  /// y = factor · Σ_j weight_ij v_j, rounded once to Out; 0 for a query that sees no key. For each
  /// query, `normalisers` gets its largest score and one over Σ_j exp(score_ij − largest). That is
  /// one number more than a log-sum-exp, which would lose the sum beside a large score.
  template <class Out> void forward(Compute factor, Out* y, Compute* normalisers) const {
    const std::size_t blocks = query_blocks();
    parallel_for(size_.slices * blocks, [&](std::size_t index) {
      forward_block(index / blocks, index % blocks * attention_query_block, factor, y, normalisers);
    });
  }

  /// dq = factor · the gradient of q. One thread makes one block of queries.
  template <class Gradient, class Out>
  void backward_queries(const AttentionUpstream<Compute, Gradient>& upstream, Compute factor,
                        Out* dq) const {
    const std::size_t blocks = query_blocks();
    parallel_for(size_.slices * blocks, [&](std::size_t index) {
      backward_query_block(upstream, index / blocks, index % blocks * attention_query_block, factor,
                           dq, nullptr);
    });
  }

  /// As above, and dr = r_factor · the gradient of r, which is a sum over the slices of a head.
  /// They are cut into at most eight groups, each added up by one thread; then the groups are, in
  /// order.
  template <class Gradient, class Out>
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
    parallel_for(size_.heads * groups, [&](std::size_t index) {
      const std::size_t head = index / groups;
      const std::size_t group = index % groups;
      for (std::size_t b = batch * group / groups; b < batch * (group + 1) / groups; ++b) {
        for (std::size_t i = 0; i < size_.queries; i += attention_query_block) {
          backward_query_block(upstream, b * size_.heads + head, i, factor, dq,
                               sums + index * elements);
        }
      }
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

  /// dk = k_factor · and dv = v_factor · the gradients of k and v; either may be null. One thread
  /// makes one block of keys.
  template <class Gradient, class Out>
  void backward_keys_and_values(const AttentionUpstream<Compute, Gradient>& upstream,
                                Compute k_factor, Out* dk, Compute v_factor, Out* dv) const {
    const std::size_t blocks = (size_.keys + attention_key_block - 1) / attention_key_block;
    parallel_for(size_.slices * blocks, [&](std::size_t index) {
      backward_key_block(upstream, index / blocks, index % blocks * attention_key_block, k_factor,
                         dk, v_factor, dv);
    });
  }

 private:
  /// Queries [i, i + rows) and keys [j, j + columns) of a slice.
  struct Tile {
    std::size_t slice, i, rows, j, columns;
  };

  /// The distances that a tile has: rows [first, first + count) of r, and the row of r, less
  /// `first`, at which query `a` and key `b` of the tile meet, which is below zero only where a
  /// causal layout has no row.
  struct Band {
    std::size_t first, count;
    std::ptrdiff_t corner;
    [[nodiscard]] std::ptrdiff_t at(std::size_t a, std::size_t b) const {
      return corner + static_cast<std::ptrdiff_t>(a) - static_cast<std::ptrdiff_t>(b);
    }
  };

  /// Elements that are not initialised: each is written before it is read.
  class Scratch {
   public:
    explicit Scratch(std::size_t size) : memory_(std::make_unique_for_overwrite<Compute[]>(size)) {}
    operator Compute*() const { return memory_.get(); }  // NOLINT(google-explicit-constructor)

   private:
    std::unique_ptr<Compute[]> memory_;
  };

  /// The fixed memory of a thread: a tile of scores or weights, one of their gradients, the two of
  /// distances, which have a row of `columns + rows − 1`, and a product on its way to a sum.
  struct Workspace {
    explicit Workspace(const AttentionSize& size)
        : rows(std::min(attention_query_block, size.queries)),
          columns(std::min(attention_key_block, size.keys)),
          weights(rows * columns),
          slopes(rows * columns),
          band(size.distances == 0 ? 0 : rows * (rows + columns)),
          product((rows + columns) * std::max(size.head_dim, size.value_dim)),
          kept(attention_key_block, Compute{1}) {}

    std::size_t rows, columns;
    Scratch weights, slopes, band, product;
    std::vector<Compute> kept;  ///< of one query: 0 where dropped, else 1/(1−p)
  };

  [[nodiscard]] std::size_t query_blocks() const {
    return (size_.queries + attention_query_block - 1) / attention_query_block;
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

  /// Calls `body(tile)` for the tiles of a block of queries in which anything is seen.
  template <class Body>
  void for_key_blocks(std::size_t slice, std::size_t i, const Body& body) const {
    const std::size_t rows = std::min(attention_query_block, size_.queries - i);
    std::size_t end = keys_end(slice);
    if (size_.is_causal) end = std::min(end, i + rows);  // no block above the diagonal
    for (std::size_t j = 0; j < end; j += attention_key_block) {
      body(Tile{slice, i, rows, j, std::min(attention_key_block, end - j)});
    }
  }

  /// How many keys of the tile its query `a` sees, if it were for the diagonal alone.
  [[nodiscard]] std::size_t seen_columns(const Tile& tile, std::size_t a) const {
    if (!size_.is_causal) return tile.columns;
    const std::size_t i = tile.i + a;
    return i < tile.j ? 0 : std::min(tile.columns, i - tile.j + 1);
  }

  [[nodiscard]] bool is_seen(const Tile& tile, std::size_t a, std::size_t b) const {
    const std::int32_t* mask = size_.mask_row(tile.slice);
    return b < seen_columns(tile, a) && (mask == nullptr || mask[tile.j + b] != 0);
  }

  /// False if every query of the tile sees every key of it.
  [[nodiscard]] bool may_hide(const Tile& tile) const {
    return size_.mask != nullptr || seen_columns(tile, 0) < tile.columns;
  }

  /// Puts `filler` where a key is not seen, whatever was there.
  void hide(const Tile& tile, Compute* values, Compute filler) const {
    if (!may_hide(tile)) return;
    const std::int32_t* mask = size_.mask_row(tile.slice);
    for (std::size_t a = 0; a < tile.rows; ++a) {
      Compute* row = values + a * tile.columns;
      const std::size_t seen = seen_columns(tile, a);
      std::fill(row + seen, row + tile.columns, filler);
      if (mask == nullptr) continue;
      for (std::size_t b = 0; b < seen; ++b) row[b] = mask[tile.j + b] == 0 ? filler : row[b];
    }
  }

  [[nodiscard]] Band band_of(const Tile& tile) const {
    const auto corner = static_cast<std::ptrdiff_t>(tile.i + size_.zero_distance) -
                        static_cast<std::ptrdiff_t>(tile.j);
    const std::ptrdiff_t lowest = corner - static_cast<std::ptrdiff_t>(tile.columns - 1);
    const std::ptrdiff_t first = std::max<std::ptrdiff_t>(0, lowest);
    const std::ptrdiff_t end = corner + static_cast<std::ptrdiff_t>(tile.rows);
    return {static_cast<std::size_t>(first),
            static_cast<std::size_t>(std::max<std::ptrdiff_t>(0, end - first)), corner - first};
  }

  [[nodiscard]] MatrixView<Operand> queries_of(const Tile& tile) const {
    return row_major(operands_.q + (tile.slice * size_.queries + tile.i) * size_.head_dim,
                     size_.head_dim);
  }
  [[nodiscard]] MatrixView<Operand> keys_of(const Tile& tile) const {
    return row_major(operands_.k + (tile.slice * size_.keys + tile.j) * size_.head_dim,
                     size_.head_dim);
  }
  [[nodiscard]] MatrixView<Operand> values_of(const Tile& tile) const {
    return row_major(operands_.v + (tile.slice * size_.keys + tile.j) * size_.value_dim,
                     size_.value_dim);
  }
  [[nodiscard]] MatrixView<Operand> distances_of(const Tile& tile, const Band& band) const {
    return row_major(
        operands_.r + (tile.slice % size_.heads * size_.distances + band.first) * size_.head_dim,
        size_.head_dim);
  }

  /// The tile's scores. What is there for keys that are not seen is anything.
  void compute_scores(const Tile& tile, Workspace& work) const {
    const Epilogue<Compute> scaled{.scale = static_cast<Compute>(size_.score_factor)};
    matmul<Compute>({tile.rows, tile.columns, size_.head_dim}, queries_of(tile),
                    keys_of(tile).transposed(), static_cast<Compute*>(work.weights), tile.columns,
                    scaled);
    if (size_.distances == 0) return;
    const Band band = band_of(tile);
    matmul<Compute>({tile.rows, band.count, size_.head_dim}, queries_of(tile),
                    distances_of(tile, band).transposed(), static_cast<Compute*>(work.band),
                    band.count, scaled);
    for (std::size_t a = 0; a < tile.rows; ++a) {
      Compute* row = work.weights + a * tile.columns;
      const Compute* by_distance = work.band + a * band.count;
      for (std::size_t b = 0; b < tile.columns && band.at(a, b) >= 0; ++b) {
        row[b] += by_distance[band.at(a, b)];
      }
    }
  }

  /// Draws what dropout keeps of the weights of query `a`. The number of an element is its place in
  /// (slices, queries, keys), so each pass draws the same, whatever its tiles.
  void draw_kept(const Tile& tile, std::size_t a, Workspace& work) const {
    if (size_.dropout == 0) return;
    constexpr std::size_t words_at_once = 64;
    const auto threshold = static_cast<std::uint64_t>(size_.dropout * 0x1p32);
    const auto factor = static_cast<Compute>(1 / (1 - size_.dropout));
    const std::uint64_t begin =
        (std::uint64_t{tile.slice} * size_.queries + tile.i + a) * size_.keys + tile.j;
    const std::uint64_t end = begin + tile.columns;
    for (std::uint64_t base = begin / words_at_once * words_at_once; base < end;
         base += words_at_once) {
      const std::array<uint32x16, 4> blocks = size_.random.blocks(base / 4);
      std::array<std::uint32_t, words_at_once> words;
      for (std::size_t word = 0; word < blocks.size(); ++word) {
        for (std::size_t lane = 0; lane < lanes; ++lane) {
          words[4 * lane + word] = blocks[word][lane];
        }
      }
      for (std::uint64_t n = std::max(base, begin); n < std::min(base + words_at_once, end); ++n) {
        work.kept[n - begin] = words[n - base] < threshold ? Compute{0} : factor;
      }
    }
  }

  /// sum += a·b, leaving out the terms at which `seen(row, p)` is false. The fast product
  /// multiplies those too, by a zero of a; an infinity or NaN of b, which that would turn into NaN,
  /// takes the slow one. b is row-major.
  template <class A, class B, class Seen>
  static void add_product(const MatmulSize& size, const MatrixView<A>& a, const MatrixView<B>& b,
                          bool may_hide, const Seen& seen, Workspace& work, Compute* sum) {
    Compute* product = work.product;
    if (may_hide && !all_finite(b, size.inner, size.columns)) {
      for (std::size_t i = 0; i < size.rows; ++i) {
        Compute* row = product + i * size.columns;
        std::fill_n(row, size.columns, Compute{0});
        for (std::size_t p = 0; p < size.inner; ++p) {
          if (!seen(i, p)) continue;
          const auto factor = static_cast<Compute>(a.data[i * a.row_stride + p * a.column_stride]);
          for (std::size_t j = 0; j < size.columns; ++j) {
            row[j] += factor * static_cast<Compute>(b.data[p * b.row_stride + j]);
          }
        }
      }
    } else {
      matmul<Compute>(size, a, b, product, size.columns);
    }
    for_lanes<Compute>(size.rows * size.columns, [&](std::size_t j, auto count) {
      store<Overflow::infinity_or_nan, Compute>(
          load<Compute>(sum + j, count) + load<Compute>(product + j, count), sum + j, count);
    });
  }

  template <class B>
  [[nodiscard]] static bool all_finite(const MatrixView<B>& b, std::size_t rows,
                                       std::size_t columns) {
    Compute sum = 0;  // of zeros, but for 0 · ∞ and 0 · NaN
    for (std::size_t p = 0; p < rows; ++p) {
      sum += sum_lanes<Compute>(columns, [&](std::size_t j, auto count) {
        return load<Compute>(b.data + p * b.row_stride + j, count) * Compute{0};
      });
    }
    return sum == 0;
  }

  template <class Out>
  static void store_scaled(const Compute* sums, std::size_t size, Compute factor, Out* out) {
    for_lanes<Compute>(size, [&](std::size_t j, auto count) {
      store<Overflow::infinity_or_nan, Compute>(load<Compute>(sums + j, count) * factor, out + j,
                                                count);
    });
  }

  template <class Out>
  void forward_block(std::size_t slice, std::size_t i, Compute factor, Out* y,
                     Compute* normalisers) const {
    constexpr Compute lowest = -std::numeric_limits<Compute>::infinity();
    Workspace work(size_);
    const std::size_t rows = std::min(attention_query_block, size_.queries - i);
    std::vector<Compute> outputs(rows * size_.value_dim, Compute{0});
    std::vector<Compute> largest(rows, lowest);
    std::vector<Compute> sums(rows, Compute{0});
    for_key_blocks(slice, i, [&](const Tile& tile) {
      compute_scores(tile, work);
      hide(tile, work.weights, lowest);
      for (std::size_t a = 0; a < tile.rows; ++a) {
        Compute* output = outputs.data() + a * size_.value_dim;
        draw_kept(tile, a, work);
        weigh_row(tile, work.weights + a * tile.columns, work.kept.data(), largest[a], sums[a],
                  output);
      }
      add_product(
          {tile.rows, size_.value_dim, tile.columns},
          row_major<Compute>(work.weights, tile.columns), values_of(tile), may_hide(tile),
          [&](std::size_t a, std::size_t b) { return is_seen(tile, a, b); }, work, outputs.data());
    });

    const std::size_t first_seen = first_key(slice);
    for (std::size_t a = 0; a < rows; ++a) {
      const std::size_t row = slice * size_.queries + i + a;
      Out* target = y + row * size_.value_dim;
      if (first_seen == size_.keys || (size_.is_causal && first_seen > i + a)) {
        std::fill_n(target, size_.value_dim, Out{});
        normalisers[2 * row] = 0;
        normalisers[2 * row + 1] = 0;
        continue;
      }
      // A row of −∞ only has the sum 0 and becomes NaN, as any softmax of it does.
      normalisers[2 * row] = largest[a];
      normalisers[2 * row + 1] = 1 / sums[a];
      store_scaled(outputs.data() + a * size_.value_dim, size_.value_dim, factor / sums[a], target);
    }
  }

  /// Turns the scores of one query into weights relative to its largest score so far, which brings
  /// its sum and output to that scale first.
  void weigh_row(const Tile& tile, Compute* row, const Compute* kept, Compute& largest,
                 Compute& sum, Compute* output) const {
    constexpr Compute lowest = -std::numeric_limits<Compute>::infinity();
    auto max_lanes = broadcast<Compute>(lowest);
    for_lanes<Compute>(tile.columns, [&](std::size_t b, auto count) {
      const auto v = fill_beyond<Compute>(load<Compute>(row + b, count), count, lowest);
      max_lanes = select_lane(v > max_lanes, v, max_lanes);
    });
    const Compute before = largest;
    largest = std::max(before, static_cast<Compute>(horizontal_max(max_lanes)));
    // Nothing but −∞ so far: any finite reference makes zeros of it, −∞ itself would make NaN.
    const Compute reference = largest == lowest ? Compute{0} : largest;
    if (before != largest) {
      const Compute rescale = first_lane(exp(broadcast<Compute>(before - reference)));
      sum *= rescale;
      store_scaled(output, size_.value_dim, rescale, output);
    }
    sum += sum_lanes<Compute>(tile.columns, [&](std::size_t b, auto count) {
      const auto weight =
          fill_beyond<Compute>(exp(load<Compute>(row + b, count) - reference), count, Compute{0});
      store<Overflow::infinity_or_nan, Compute>(weight * load<Compute>(kept + b, count), row + b,
                                                count);
      return weight;
    });
  }

  /// Computes a tile again for the backward pass: `work.weights` gets the weights after dropout,
  /// `work.slopes` the gradients of the scores.
  template <class Gradient>
  void compute_slopes(const AttentionUpstream<Compute, Gradient>& upstream, const Tile& tile,
                      Workspace& work) const {
    compute_scores(tile, work);
    matmul<Compute>({tile.rows, tile.columns, size_.value_dim}, gradients_of(upstream, tile),
                    values_of(tile).transposed(), static_cast<Compute*>(work.slopes), tile.columns);
    for (std::size_t a = 0; a < tile.rows; ++a) {
      const std::size_t query = tile.slice * size_.queries + tile.i + a;
      const Compute largest = upstream.normalisers[2 * query];
      const Compute inverse_sum = upstream.normalisers[2 * query + 1];
      const Compute inner = upstream.inner[query];
      Compute* weights = work.weights + a * tile.columns;
      Compute* slopes = work.slopes + a * tile.columns;
      draw_kept(tile, a, work);
      for_lanes<Compute>(tile.columns, [&](std::size_t b, auto count) {
        const auto weight = exp(load<Compute>(weights + b, count) - largest) * inverse_sum;
        const auto kept = load<Compute>(work.kept.data() + b, count);
        store<Overflow::infinity_or_nan, Compute>(
            weight * (load<Compute>(slopes + b, count) * kept - inner), slopes + b, count);
        store<Overflow::infinity_or_nan, Compute>(weight * kept, weights + b, count);
      });
    }
    hide(tile, work.weights, Compute{0});
    hide(tile, work.slopes, Compute{0});
  }

  template <class Gradient>
  [[nodiscard]] MatrixView<Gradient> gradients_of(
      const AttentionUpstream<Compute, Gradient>& upstream, const Tile& tile) const {
    return row_major(upstream.g + (tile.slice * size_.queries + tile.i) * size_.value_dim,
                     size_.value_dim);
  }

  /// One block of dq, unless that is null, and what it adds to dr, unless that is null.
  template <class Gradient, class Out>
  void backward_query_block(const AttentionUpstream<Compute, Gradient>& upstream, std::size_t slice,
                            std::size_t i, Compute factor, Out* dq, Compute* dr) const {
    Workspace work(size_);
    const std::size_t rows = std::min(attention_query_block, size_.queries - i);
    const std::size_t dim = size_.head_dim;
    std::vector<Compute> sums(rows * dim, Compute{0});
    for_key_blocks(slice, i, [&](const Tile& tile) {
      compute_slopes(upstream, tile, work);
      if (dq != nullptr) {
        add_product(
            {tile.rows, dim, tile.columns}, row_major<Compute>(work.slopes, tile.columns),
            keys_of(tile), may_hide(tile),
            [&](std::size_t a, std::size_t b) { return is_seen(tile, a, b); }, work, sums.data());
      }
      if (size_.distances == 0) return;
      const Band band = band_of(tile);
      std::fill_n(static_cast<Compute*>(work.band), tile.rows * band.count, Compute{0});
      for (std::size_t a = 0; a < tile.rows; ++a) {
        const Compute* slopes = work.slopes + a * tile.columns;
        Compute* by_distance = work.band + a * band.count;
        for (std::size_t b = 0; b < tile.columns && band.at(a, b) >= 0; ++b) {
          by_distance[band.at(a, b)] = slopes[b];
        }
      }
      // A row of the band has distances that meet no key of the tile, so some of it is hidden.
      const auto seen = [&](std::size_t a, std::size_t t) {
        const std::ptrdiff_t b = band.at(a, 0) - static_cast<std::ptrdiff_t>(t);
        return b >= 0 && is_seen(tile, a, static_cast<std::size_t>(b));
      };
      const auto by_distance = row_major<Compute>(work.band, band.count);
      if (dq != nullptr) {
        add_product({tile.rows, dim, band.count}, by_distance, distances_of(tile, band), true, seen,
                    work, sums.data());
      }
      if (dr != nullptr) {
        add_product(
            {band.count, dim, tile.rows}, by_distance.transposed(), queries_of(tile), true,
            [&](std::size_t t, std::size_t a) { return seen(a, t); }, work, dr + band.first * dim);
      }
    });
    if (dq != nullptr) {
      store_scaled(sums.data(), rows * dim, factor, dq + (slice * size_.queries + i) * dim);
    }
  }

  template <class Gradient, class Out>
  void backward_key_block(const AttentionUpstream<Compute, Gradient>& upstream, std::size_t slice,
                          std::size_t j, Compute k_factor, Out* dk, Compute v_factor,
                          Out* dv) const {
    Workspace work(size_);
    const std::size_t columns = std::min(attention_key_block, size_.keys - j);
    std::vector<Compute> k_sums(columns * size_.head_dim, Compute{0});
    std::vector<Compute> v_sums(columns * size_.value_dim, Compute{0});
    const bool any_seen = j < keys_end(slice);
    // The first block with a query at or after key j, on the grid of the other passes.
    const std::size_t first = size_.is_causal ? j - j % attention_query_block : 0;
    for (std::size_t i = first; any_seen && i < size_.queries; i += attention_query_block) {
      const Tile tile{slice, i, std::min(attention_query_block, size_.queries - i), j, columns};
      const auto seen = [&](std::size_t b, std::size_t a) { return is_seen(tile, a, b); };
      compute_slopes(upstream, tile, work);
      if (dv != nullptr) {
        add_product({columns, size_.value_dim, tile.rows},
                    row_major<Compute>(work.weights, columns).transposed(),
                    gradients_of(upstream, tile), may_hide(tile), seen, work, v_sums.data());
      }
      if (dk != nullptr) {
        add_product({columns, size_.head_dim, tile.rows},
                    row_major<Compute>(work.slopes, columns).transposed(), queries_of(tile),
                    may_hide(tile), seen, work, k_sums.data());
      }
    }
    const std::size_t row = slice * size_.keys + j;
    if (dk != nullptr) {
      store_scaled(k_sums.data(), k_sums.size(), k_factor, dk + row * size_.head_dim);
    }
    if (dv != nullptr) {
      store_scaled(v_sums.data(), v_sums.size(), v_factor, dv + row * size_.value_dim);
    }
  }

  AttentionSize size_;
  AttentionOperands<Operand> operands_;
};

}  // namespace unit_scaling::kernels
