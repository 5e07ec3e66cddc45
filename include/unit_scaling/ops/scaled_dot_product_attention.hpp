// SPDX-License-Identifier: MIT
/// @file
/// Layer ops: attention, in memory linear in the sequence.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numbers>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/parallel.hpp"
#include "unit_scaling/core/random.hpp"
#include "unit_scaling/kernels/elementary.hpp"
#include "unit_scaling/kernels/map.hpp"
#include "unit_scaling/kernels/matmul.hpp"
#include "unit_scaling/kernels/rows.hpp"
#include "unit_scaling/ops/op.hpp"
#include "unit_scaling/scaling/moments.hpp"

namespace unit_scaling::ops {

/// Unit-scaled attention: y_i = α Σ_j p_ij v_j, p_i = softmax_j(c (q_i·k_j [+ q_i·r_{i−j}])), each
/// p_ij dropped or divided by 1 − p; the gradients of q, k, v, r are the true ones times β/α.
/// Shapes: q (…, queries, head_dim), k (…, keys, head_dim), v (…, keys, value_dim) with equal
///         leading extents; y and dy (…, queries, value_dim). r, relative positions, is optional:
///         (heads, queries + keys − 1, head_dim) with the distances from 1 − keys to queries − 1,
///         or (heads, queries, head_dim) from 0 on if causal; heads is the extent before queries.
/// Units:  q, k, v, dy ~ N(0,1) give y and the gradients of q, k and v a std within [0.8, 1.2] for
///         64 keys and more without a constraint under the paper's principle, and within a factor
///         of 3 under u-μP, whose one factor for all is an interpolation. Softmax concentrates less
///         the fewer the keys, which no closed form follows exactly; a causal row of few keys is
///         larger than one of many, and its gradient smaller.
/// Scales: s = keys, d = value_dim, m = mult. u-μP: c = m/head_dim, α and the β of q, k and v =
///         √(1−p) / f, where f runs from √(1/s) (causal √(ln s / s)) to 1, interpolated
///         logarithmically with weight 1/(1 + 4d/m²); 1 for one key. paper, which does not list it,
///         by its principle: c = m/√head_dim; N(0,1) scores give Σ_j p_ij² ≈ e/(s − 1 + e) = V (if
///         causal its mean over 1…s keys), so α = β_q = √((1−p)/V), β_k = β_v = √((1−p) s/(queries
///         V)), and β_q, β_k times √(head_dim/d). The constraint binds α and the β of q, k and v; r
///         comes from a leaf: β_r = β_q (queries keys / distances · batch / keys)^−½, free. none: c
///         = m/√head_dim, all factors 1.
/// Values: q, k, v and r are rounded to P::matmul_operand, dy to P::matmul_gradient (both
///         saturating) and saved in that format; scores and weights are in P::compute and not
///         rounded; y is rounded once. Saved besides: y and a number per query. The padding `mask`
///         gives keys weight 0, whatever their values; causal: j ≤ i. A query without any key has
///         output 0 and passes no gradient. A NaN or infinite score makes its row NaN. The weight
///         (i, j) of the n-th pair of leading indices is dropped by word ((n queries + i) ⌈keys⌉₄ +
///         j) of `random`, ⌈keys⌉₄ being keys rounded up to a multiple of four.
/// @throws ShapeError if the shapes do not fit; DomainError unless mult is finite and above 0 and
///         0 ≤ p < 1.
/// @see u-μP, arXiv:2407.17465; Dao 2023 (FlashAttention-2), arXiv:2307.08691; Dai et al. 2019
///      (relative positions), arXiv:1901.02860, as in the paper's character-level experiments.
struct ScaledDotProductAttention {
  static constexpr std::string_view name = "scaled_dot_product_attention";
  static constexpr bool rounds_gradient = true;
  static constexpr bool accepts(std::size_t arguments) { return arguments == 3 || arguments == 4; }

  Scaling scaling = {};
  double mult = 1;  ///< m
  bool is_causal = false;
  double dropout_probability = 0;                    ///< p
  Random random = Random(0, RandomStream::dropout);  ///< give each step and each layer its own
  /// Padding: (batch, keys), batch being the first extent of q; zero excludes a key. Empty: none.
  Array<std::int32_t> mask = {};

  template <class Q, class K, class V>
  [[nodiscard]] Scales<3> scales(const Array<Q>& q, const Array<K>& k, const Array<V>& v) const {
    return constrain<3>(scaling.effective_constraint(),
                        ideal(extents(q.shape(), k.shape(), v.shape(), nullptr)));
  }

  template <class Q, class K, class V, class R>
  [[nodiscard]] Scales<4> scales(const Array<Q>& q, const Array<K>& k, const Array<V>& v,
                                 const Array<R>& r) const {
    const Extents e = extents(q.shape(), k.shape(), v.shape(), &r.shape());
    const Scales<3> of_content = ideal(e);
    const Scales<3> bound = constrain<3>(scaling.effective_constraint(), of_content);
    double of_positions = 1;
    if (scaling.rule != Rule::none && e.pairs * e.queries * e.keys != 0) {
      const double pairs = static_cast<double>(e.queries) * static_cast<double>(e.keys) /
                           static_cast<double>(e.distances);
      const auto batch = static_cast<double>(e.pairs / e.heads);
      of_positions =
          of_content.backward[0] / std::sqrt(batch * pairs / static_cast<double>(e.keys));
    }
    return {.forward = bound.forward,
            .backward = {bound.backward[0], bound.backward[1], bound.backward[2], of_positions}};
  }

  template <Precision P, class Q, class K, class V>
  [[nodiscard]] auto forward(P precision, const Scales<3>& s, const Array<Q>& q, const Array<K>& k,
                             const Array<V>& v) const {
    return attend(precision, s.forward, q, k, v, std::tuple<>{});
  }

  template <Precision P, class Q, class K, class V, class R>
  [[nodiscard]] auto forward(P precision, const Scales<4>& s, const Array<Q>& q, const Array<K>& k,
                             const Array<V>& v, const Array<R>& r) const {
    return attend(precision, s.forward, q, k, v,
                  std::tuple{kernels::convert<typename P::matmul_operand, Overflow::saturate>(
                      r, q.resource())});
  }

  /// @returns (dq, dk, dv), and dr if `s` has four backward factors.
  template <Precision P, std::size_t N, class T, class Operand, class... Relative>
  [[nodiscard]] auto backward(P /*precision*/, const Scales<N>& s,
                              const std::tuple<Array<T>, Array<typename P::compute>, Array<Operand>,
                                               Array<Operand>, Array<Operand>, Relative...>& saved,
                              const Array<T>& dy) const {
    using Compute = typename P::compute;
    static_assert(N == 3 + sizeof...(Relative));
    const auto& y = std::get<0>(saved);
    require_same_shape(name, "dy and y", dy.shape(), y.shape());
    auto* const resource = y.resource();
    const Tiles<Compute, Operand> tiles = tiles_of<Compute>(saved);
    const Extents& e = tiles.e;
    const auto g = kernels::convert<typename P::matmul_gradient, Overflow::saturate>(dy, resource);

    // Σ_j p_ij ∂p_ij, which is dy_i · y_i but for the forward factor.
    Array<Compute> inner(Shape{e.pairs, e.queries}, resource);
    Compute* inner_target = inner.mutable_data();
    const auto per_alpha = static_cast<Compute>(1 / s.forward);
    kernels::for_rows(inner.size(), e.value_dim, [&](std::size_t i) {
      inner_target[i] =
          per_alpha * kernels::sum_lanes<Compute>(e.value_dim, [&](std::size_t c, auto count) {
            return kernels::load<Compute>(g.row(i) + c, count) *
                   kernels::load<Compute>(y.row(i) + c, count);
          });
    });

    Array<T> dq(std::get<2>(saved).shape(), resource);
    T* dq_target = dq.mutable_data();
    Array<T> dk(std::get<3>(saved).shape(), resource);
    Array<T> dv(std::get<4>(saved).shape(), resource);
    const auto factor = [&](std::size_t i) {
      // Of q, k and r the chain rule adds c.
      return static_cast<Compute>(s.backward[i]) * (i == 2 ? Compute{1} : tiles.c);
    };

    // One pass over blocks of queries for dq and dr, one over blocks of keys for dk and dv: each
    // sum has one owner and one order.
    const std::size_t query_blocks = blocks_of(e.queries);
    const auto query_block = [&](std::size_t pair, std::size_t block, Compute* dr) {
      Scratch<Compute> scratch(e);
      const std::size_t i0 = block * block_size;
      const std::size_t rows = std::min(block_size, e.queries - i0);
      Sums<Compute> sums(rows, e.head_dim);
      for (std::size_t j0 = 0; j0 < tiles.keys_seen_by(i0 + rows); j0 += block_size) {
        const std::size_t columns = std::min(block_size, e.keys - j0);
        tiles.score_gradients(pair, i0, rows, j0, columns, g, inner, scratch);
        sums.add_product({rows, e.head_dim, columns},
                         kernels::row_major(scratch.gradients.data(), block_size),
                         kernels::row_major(tiles.key(pair, j0), e.head_dim));
        if (dr != nullptr) tiles.add_relative(pair, i0, rows, j0, columns, scratch, sums, dr);
      }
      sums.store(factor(0), dq_target + (pair * e.queries + i0) * e.head_dim);
    };
    T* dk_target = dk.mutable_data();
    T* dv_target = dv.mutable_data();
    const std::size_t key_blocks = blocks_of(e.keys);
    parallel_for(e.pairs * key_blocks, [&](std::size_t task) {
      Scratch<Compute> scratch(e);
      const std::size_t pair = task / key_blocks;
      const std::size_t j0 = task % key_blocks * block_size;
      const std::size_t columns = std::min(block_size, e.keys - j0);
      Sums<Compute> of_keys(columns, e.head_dim);
      Sums<Compute> of_values(columns, e.value_dim);
      const std::size_t first = tiles.causal ? j0 / block_size * block_size : 0;
      for (std::size_t i0 = first; i0 < e.queries; i0 += block_size) {
        const std::size_t rows = std::min(block_size, e.queries - i0);
        tiles.score_gradients(pair, i0, rows, j0, columns, g, inner, scratch);
        of_keys.add_product({columns, e.head_dim, rows},
                            kernels::row_major(scratch.gradients.data(), block_size).transposed(),
                            kernels::row_major(tiles.query(pair, i0), e.head_dim));
        of_values.add_product(
            {columns, e.value_dim, rows},
            kernels::row_major(scratch.weights.data(), block_size).transposed(),
            kernels::row_major(g.data() + (pair * e.queries + i0) * e.value_dim, e.value_dim));
      }
      of_keys.store(factor(1), dk_target + (pair * e.keys + j0) * e.head_dim);
      of_values.store(factor(2), dv_target + (pair * e.keys + j0) * e.value_dim);
    });

    if constexpr (N == 3) {
      parallel_for(e.pairs * query_blocks, [&](std::size_t task) {
        query_block(task / query_blocks, task % query_blocks, nullptr);
      });
      return std::tuple{std::move(dq), std::move(dk), std::move(dv)};
    } else {
      const Shape& r_shape = std::get<5>(saved).shape();
      Array<Compute> sums = Array<Compute>::filled(r_shape, Compute{0}, resource);
      Compute* sums_target = sums.mutable_data();
      parallel_for(e.heads, [&](std::size_t head) {
        for (std::size_t pair = head; pair < e.pairs; pair += e.heads) {
          for (std::size_t block = 0; block < query_blocks; ++block) {
            query_block(pair, block, sums_target + head * e.distances * e.head_dim);
          }
        }
      });
      const auto of_positions = factor(3);
      return std::tuple{std::move(dq), std::move(dk), std::move(dv),
                        kernels::map<Compute, T>(
                            [=](auto sum_of_terms) { return of_positions * sum_of_terms; }, sums)};
    }
  }

 private:
  /// Rows and columns of the blocks of scores that exist at a time; a multiple of the lanes.
  static constexpr std::size_t block_size = 128;

  [[nodiscard]] static constexpr std::size_t blocks_of(std::size_t size) {
    return (size + block_size - 1) / block_size;
  }

  struct Extents {
    std::size_t pairs;  ///< product of the leading extents: sequences times heads
    std::size_t queries, keys, head_dim, value_dim;
    std::size_t batch;      ///< first leading extent, that of the mask
    std::size_t heads;      ///< last leading extent, that of r
    std::size_t distances;  ///< rows of r for a head
  };

  [[nodiscard]] Extents extents(const Shape& q, const Shape& k, const Shape& v,
                                const Shape* r) const {
    require(std::isfinite(mult) && mult > 0, name, "expected a finite mult above 0");
    require(dropout_probability >= 0 && dropout_probability < 1, name,
            "expected a dropout_probability in [0, 1)");
    const std::size_t rank = q.rank();
    if (rank < 2 || k.rank() != rank || v.rank() != rank || q.columns() != k.columns() ||
        k[rank - 2] != v[rank - 2] || !std::equal(q.begin(), q.end() - 2, k.begin()) ||
        !std::equal(q.begin(), q.end() - 2, v.begin())) {
      throw_shape_error(name,
                        "q (..., queries, head_dim), k (..., keys, head_dim) and v (..., keys, "
                        "value_dim) with equal leading extents",
                        q, k, v);
    }
    std::size_t pairs = 1;
    for (std::size_t i = 0; i + 2 < rank; ++i) pairs *= q[i];
    Extents e{pairs,
              q[rank - 2],
              k[rank - 2],
              q.columns(),
              v.columns(),
              rank > 2 ? q[0] : 1,
              rank > 2 ? q[rank - 3] : 1,
              0};
    if (r != nullptr) {
      const std::size_t all = e.queries + e.keys - std::min<std::size_t>(1, e.queries + e.keys);
      if (r->rank() != 3 || (*r)[0] != e.heads || r->columns() != e.head_dim ||
          ((*r)[1] != all && !(is_causal && (*r)[1] == e.queries))) {
        throw_shape_error(name,
                          "r (heads, queries + keys - 1, head_dim), or (heads, queries, head_dim) "
                          "if causal, for q and k",
                          *r, q, k);
      }
      e.distances = (*r)[1];
    }
    if (!mask.empty() && mask.shape() != Shape{e.batch, e.keys}) {
      throw_shape_error(name, "mask (batch, keys) for q and k", mask.shape(), q, k);
    }
    return e;
  }

  [[nodiscard]] Scales<3> ideal(const Extents& e) const {
    if (scaling.rule == Rule::none || e.pairs * e.queries * e.keys * e.value_dim == 0) return {};
    const auto keys = static_cast<double>(e.keys);
    const double kept = std::sqrt(1 - dropout_probability);
    if (scaling.rule == Rule::umup) {
      const double weight = 1 / (1 + 4 * static_cast<double>(e.value_dim) / (mult * mult));
      const double lower = e.keys == 1 ? 1 : std::sqrt((is_causal ? std::log(keys) : 1) / keys);
      const double factor = kept / moments::log_interpolate(weight, 1, lower);
      return {.forward = factor, .backward = {factor, factor, factor}};
    }
    // Σ_i 1 / (i + e) for i from 0 on, by the midpoint rule.
    const double all_rows =
        std::log((keys + std::numbers::e - 0.5) / (std::numbers::e - 0.5)) / keys;
    const double square =
        std::numbers::e * (is_causal ? all_rows : 1 / (keys - 1 + std::numbers::e));
    const double factor = kept / std::sqrt(square);
    const double of_keys = factor * std::sqrt(keys / static_cast<double>(e.queries));
    const double of_scores =
        std::sqrt(static_cast<double>(e.head_dim) / static_cast<double>(e.value_dim));
    return {.forward = factor, .backward = {factor * of_scores, of_keys * of_scores, of_keys}};
  }

  template <class Compute> struct Scratch {
    explicit Scratch(const Extents& e)
        : weights(block_size * block_size),
          gradients(block_size * block_size),
          relative(e.distances == 0 ? 0 : block_size * 2 * block_size) {}

    std::vector<Compute> weights;
    std::vector<Compute> gradients;
    std::vector<Compute> relative;
  };

  /// A block of a result while its terms are added up.
  template <class Compute> struct Sums {
    Sums(std::size_t rows_, std::size_t columns_)
        : rows(rows_), columns(columns_), total(rows * columns), term(rows * columns) {}

    template <class A, class B>
    void add_product(const kernels::MatmulSize& size, const kernels::MatrixView<A>& a,
                     const kernels::MatrixView<B>& b) {
      kernels::matmul<Compute>(size, a, b, term.data(), columns);
      kernels::for_lanes<Compute>(total.size(), [&](std::size_t i, auto count) {
        kernels::store<Overflow::infinity_or_nan, Compute>(
            kernels::load<Compute>(total.data() + i, count) +
                kernels::load<Compute>(term.data() + i, count),
            total.data() + i, count);
      });
    }

    template <class T> void store(Compute factor, T* target) const {
      kernels::for_lanes<Compute>(total.size(), [&](std::size_t i, auto count) {
        kernels::store<Overflow::infinity_or_nan, Compute>(
            factor * kernels::load<Compute>(total.data() + i, count), target + i, count);
      });
    }

    std::size_t rows, columns;
    std::vector<Compute> total, term;
  };

  /// What blocks of scores are computed from.
  template <class Compute, class Operand> struct Tiles {
    Extents e;
    const Operand *q, *k, *v, *r;
    const Compute* log_sum;  ///< log Σ_j exp(score) of each query; null in the forward pass
    const std::int32_t* mask;
    Compute c;
    bool causal;
    double dropout_probability;
    Random random;

    [[nodiscard]] const Operand* query(std::size_t pair, std::size_t i) const {
      return q + (pair * e.queries + i) * e.head_dim;
    }
    [[nodiscard]] const Operand* key(std::size_t pair, std::size_t j) const {
      return k + (pair * e.keys + j) * e.head_dim;
    }
    [[nodiscard]] const Operand* value(std::size_t pair, std::size_t j) const {
      return v + (pair * e.keys + j) * e.value_dim;
    }
    /// How many keys the queries before `end` can see.
    [[nodiscard]] std::size_t keys_seen_by(std::size_t end) const {
      return causal ? std::min(end, e.keys) : e.keys;
    }

    /// Rows of r that a block of scores needs: `count` of them from `first` on, for the distances
    /// from that of the first query and the last key up.
    struct Band {
      std::ptrdiff_t offset;  ///< row of distance 0
      std::size_t first, count;
    };
    [[nodiscard]] Band band(std::size_t i0, std::size_t rows, std::size_t j0,
                            std::size_t columns) const {
      const auto signed_of = [](std::size_t size) { return static_cast<std::ptrdiff_t>(size); };
      const std::ptrdiff_t offset = signed_of(e.distances) - signed_of(e.queries);
      const std::ptrdiff_t low = signed_of(i0) - signed_of(j0 + columns - 1) + offset;
      const std::ptrdiff_t high = signed_of(i0 + rows - 1) - signed_of(j0) + offset;
      const auto first = static_cast<std::size_t>(std::max<std::ptrdiff_t>(0, low));
      return {offset, first, high < 0 ? 0 : static_cast<std::size_t>(high) + 1 - first};
    }
    /// Calls `visit(row, column, k)`, k being the band's row for that score.
    template <class Visit>
    void for_each_distance(const Band& rows_of_r, std::size_t i0, std::size_t rows, std::size_t j0,
                           std::size_t columns, const Visit& visit) const {
      for (std::size_t row = 0; row < rows; ++row) {
        for (std::size_t column = 0; column < columns; ++column) {
          const std::ptrdiff_t at = static_cast<std::ptrdiff_t>(i0 + row) -
                                    static_cast<std::ptrdiff_t>(j0 + column) + rows_of_r.offset -
                                    static_cast<std::ptrdiff_t>(rows_of_r.first);
          // Distances that r leaves out are those that causal attention does not see.
          if (at >= 0) visit(row, column, static_cast<std::size_t>(at));
        }
      }
    }

    /// scratch.weights = the scores of a block, −∞ where a query does not see a key.
    void scores(std::size_t pair, std::size_t i0, std::size_t rows, std::size_t j0,
                std::size_t columns, Scratch<Compute>& scratch) const {
      Compute* block = scratch.weights.data();
      kernels::matmul<Compute>({rows, columns, e.head_dim},
                               kernels::row_major(query(pair, i0), e.head_dim),
                               kernels::row_major(key(pair, j0), e.head_dim).transposed(), block,
                               block_size, {.scale = c});
      if (r != nullptr) {
        const Band near = band(i0, rows, j0, columns);
        const Operand* positions = r + (pair % e.heads * e.distances + near.first) * e.head_dim;
        Compute* relative = scratch.relative.data();
        kernels::matmul<Compute>({rows, near.count, e.head_dim},
                                 kernels::row_major(query(pair, i0), e.head_dim),
                                 kernels::row_major(positions, e.head_dim).transposed(), relative,
                                 2 * block_size, {.scale = c});
        for_each_distance(near, i0, rows, j0, columns,
                          [&](std::size_t row, std::size_t column, std::size_t at) {
                            block[row * block_size + column] += relative[row * 2 * block_size + at];
                          });
      }
      constexpr Compute unseen = -std::numeric_limits<Compute>::infinity();
      if (causal && j0 + columns > i0 + 1) {
        for (std::size_t row = 0; row < rows; ++row) {
          const std::size_t seen = i0 + row + 1 > j0 ? std::min(columns, i0 + row + 1 - j0) : 0;
          std::fill_n(block + row * block_size + seen, columns - seen, unseen);
        }
      }
      if (mask != nullptr) {
        const std::int32_t* attended = mask + pair / (e.pairs / e.batch) * e.keys + j0;
        for (std::size_t column = 0; column < columns; ++column) {
          if (attended[column] != 0) continue;
          for (std::size_t row = 0; row < rows; ++row) block[row * block_size + column] = unseen;
        }
      }
    }

    /// Multiplies a row of weights with 0 or 1 / (1 − p); `j0` is a multiple of four.
    void drop(std::size_t pair, std::size_t i, std::size_t j0, std::size_t columns,
              Compute* row) const {
      if (dropout_probability == 0) return;
      const std::size_t row_words = (e.keys + 3) / 4 * 4;
      const std::size_t first = (pair * e.queries + i) * row_words + j0;
      const auto threshold = static_cast<std::uint64_t>(dropout_probability * 0x1p32);
      const auto keep = static_cast<Compute>(1 / (1 - dropout_probability));
      for (std::size_t j = 0; j < columns; j += 4) {
        const auto words = random.block((first + j) / 4);
        for (std::size_t l = j; l < std::min(j + 4, columns); ++l) {
          row[l] = words[l - j] < threshold ? Compute{0} : row[l] * keep;
        }
      }
    }

    /// scratch.weights = the weights of a block, dropped; scratch.gradients = the gradients of its
    /// scores.
    template <class G>
    void score_gradients(std::size_t pair, std::size_t i0, std::size_t rows, std::size_t j0,
                         std::size_t columns, const Array<G>& g, const Array<Compute>& inner,
                         Scratch<Compute>& scratch) const {
      scores(pair, i0, rows, j0, columns, scratch);
      Compute* weights = scratch.weights.data();
      Compute* gradients = scratch.gradients.data();
      kernels::matmul<Compute>(
          {rows, columns, e.value_dim},
          kernels::row_major(g.data() + (pair * e.queries + i0) * e.value_dim, e.value_dim),
          kernels::row_major(value(pair, j0), e.value_dim).transposed(), gradients, block_size);
      for (std::size_t row = 0; row < rows; ++row) {
        const std::size_t i = pair * e.queries + i0 + row;
        Compute* p = weights + row * block_size;
        Compute* d = gradients + row * block_size;
        const Compute log_total = log_sum[i];
        const Compute inner_product = inner.data()[i];
        drop(pair, i0 + row, j0, columns, d);
        kernels::for_lanes<Compute>(columns, [&](std::size_t j, auto count) {
          const auto weight = kernels::exp(kernels::load<Compute>(p + j, count) - log_total);
          kernels::store<Overflow::infinity_or_nan, Compute>(weight, p + j, count);
          const auto of_score = weight * (kernels::load<Compute>(d + j, count) - inner_product);
          kernels::store<Overflow::infinity_or_nan, Compute>(of_score, d + j, count);
        });
        drop(pair, i0 + row, j0, columns, p);
      }
    }

    /// Adds what a block's gradients say of the queries through r, and of r itself.
    void add_relative(std::size_t pair, std::size_t i0, std::size_t rows, std::size_t j0,
                      std::size_t columns, Scratch<Compute>& scratch, Sums<Compute>& of_queries,
                      Compute* dr) const {
      const Band near = band(i0, rows, j0, columns);
      if (near.count == 0) return;
      Compute* relative = scratch.relative.data();
      std::fill(scratch.relative.begin(), scratch.relative.end(), Compute{0});
      for_each_distance(
          near, i0, rows, j0, columns, [&](std::size_t row, std::size_t column, std::size_t at) {
            relative[row * 2 * block_size + at] = scratch.gradients[row * block_size + column];
          });
      const auto by_distance =
          kernels::row_major(static_cast<const Compute*>(relative), 2 * block_size);
      of_queries.add_product(
          {rows, e.head_dim, near.count}, by_distance,
          kernels::row_major(r + (pair % e.heads * e.distances + near.first) * e.head_dim,
                             e.head_dim));
      Sums<Compute> of_positions(near.count, e.head_dim);
      of_positions.add_product({near.count, e.head_dim, rows}, by_distance.transposed(),
                               kernels::row_major(query(pair, i0), e.head_dim));
      Compute* target = dr + near.first * e.head_dim;
      for (std::size_t i = 0; i < of_positions.total.size(); ++i) {
        target[i] += of_positions.total[i];
      }
    }
  };

  template <class Compute, class Saved> [[nodiscard]] auto tiles_of(const Saved& saved) const {
    const auto& q = std::get<2>(saved);
    const auto& k = std::get<3>(saved);
    const auto& v = std::get<4>(saved);
    using Operand = typename std::remove_cvref_t<decltype(q)>::value_type;
    const Operand* r = nullptr;
    const Shape* r_shape = nullptr;
    if constexpr (std::tuple_size_v<Saved> == 6) {
      r = std::get<5>(saved).data();
      r_shape = &std::get<5>(saved).shape();
    }
    const Extents e = extents(q.shape(), k.shape(), v.shape(), r_shape);
    const auto head_dim = static_cast<double>(std::max<std::size_t>(1, e.head_dim));
    const double c = scaling.rule == Rule::umup ? mult / head_dim : mult / std::sqrt(head_dim);
    return Tiles<Compute, Operand>{e,
                                   q.data(),
                                   k.data(),
                                   v.data(),
                                   r,
                                   std::get<1>(saved).data(),
                                   mask.empty() ? nullptr : mask.data(),
                                   static_cast<Compute>(c),
                                   is_causal,
                                   dropout_probability,
                                   random};
  }

  template <Precision P, class Q, class K, class V, class... Relative>
  [[nodiscard]] auto attend(P /*precision*/, double alpha, const Array<Q>& q, const Array<K>& k,
                            const Array<V>& v, const std::tuple<Relative...>& relative) const {
    using Operand = typename P::matmul_operand;
    using Storage = typename P::storage;
    using Compute = typename P::compute;
    auto* const resource = q.resource();
    Array<Storage> y(q.shape().with_columns(v.columns()), resource);
    Array<Compute> log_sums(Shape{q.rows()}, resource);
    auto saved = std::tuple_cat(
        std::tuple{y, log_sums, kernels::convert<Operand, Overflow::saturate>(q),
                   without_masked(kernels::convert<Operand, Overflow::saturate>(k, resource)),
                   without_masked(kernels::convert<Operand, Overflow::saturate>(v, resource))},
        relative);
    const Tiles<Compute, Operand> tiles = tiles_of<Compute>(saved);
    const Extents& e = tiles.e;
    // The copies in `saved` share this storage, which they would have to themselves otherwise.
    std::get<0>(saved) = {};
    std::get<1>(saved) = {};
    Storage* y_target = y.mutable_data();
    Compute* log_sum_target = log_sums.mutable_data();
    const std::size_t query_blocks = blocks_of(e.queries);
    parallel_for(e.pairs * query_blocks, [&](std::size_t task) {
      const std::size_t pair = task / query_blocks;
      const std::size_t i0 = task % query_blocks * block_size;
      const std::size_t rows = std::min(block_size, e.queries - i0);
      Scratch<Compute> scratch(e);
      Sums<Compute> sums(rows, e.value_dim);
      std::vector<Compute> max(rows, -std::numeric_limits<Compute>::infinity());
      std::vector<Compute> total(rows);
      for (std::size_t j0 = 0; j0 < tiles.keys_seen_by(i0 + rows); j0 += block_size) {
        const std::size_t columns = std::min(block_size, e.keys - j0);
        tiles.scores(pair, i0, rows, j0, columns, scratch);
        for (std::size_t row = 0; row < rows; ++row) {
          Compute* weights = scratch.weights.data() + row * block_size;
          const Compute correction = exponentials<Compute>(weights, columns, max[row], total[row]);
          tiles.drop(pair, i0 + row, j0, columns, weights);
          if (correction == 1) continue;
          Compute* sums_row = sums.total.data() + row * e.value_dim;
          for (std::size_t c = 0; c < e.value_dim; ++c) sums_row[c] *= correction;
        }
        sums.add_product({rows, e.value_dim, columns},
                         kernels::row_major(scratch.weights.data(), block_size),
                         kernels::row_major(tiles.value(pair, j0), e.value_dim));
      }
      for (std::size_t row = 0; row < rows; ++row) {
        const std::size_t i = pair * e.queries + i0 + row;
        // A query that sees no key: weights of 0, now and from log_sum = ∞ in the backward pass.
        const bool unseeing = total[row] == 0;
        log_sum_target[i] =
            unseeing ? std::numeric_limits<Compute>::infinity() : max[row] + std::log(total[row]);
        const Compute factor = unseeing ? Compute{0} : static_cast<Compute>(alpha) / total[row];
        kernels::for_lanes<Compute>(e.value_dim, [&](std::size_t c, auto count) {
          kernels::store<Overflow::infinity_or_nan, Compute>(
              factor * kernels::load<Compute>(sums.total.data() + row * e.value_dim + c, count),
              y_target + i * e.value_dim + c, count);
        });
      }
    });
    std::get<0>(saved) = y;
    std::get<1>(saved) = log_sums;
    return Forward{std::move(y), std::move(saved)};
  }

  /// Rows of keys that no query sees as zeros, as 0 · NaN would be NaN.
  template <class T> [[nodiscard]] Array<T> without_masked(Array<T> array) const {
    if (mask.empty() || array.empty()) return array;
    const std::size_t size = array.columns();
    const std::size_t keys = mask.columns();
    const std::size_t pairs_per_batch = array.rows() / mask.size();
    T* target = array.mutable_data();
    for (std::size_t row = 0; row < array.rows(); ++row) {
      const std::size_t batch = row / keys / pairs_per_batch;
      if (mask.row(batch)[row % keys] == 0) std::fill_n(target + row * size, size, T{});
    }
    return array;
  }

  /// Scores become exponentials over the row's new maximum, which `max` and `total` are brought up
  /// to. Returns what earlier sums are to be multiplied with.
  template <class Compute>
  static Compute exponentials(Compute* row, std::size_t columns, Compute& max, Compute& total) {
    constexpr Compute lowest = -std::numeric_limits<Compute>::infinity();
    auto largest = kernels::broadcast<Compute>(lowest);
    kernels::for_lanes<Compute>(columns, [&](std::size_t j, auto count) {
      const auto score =
          kernels::fill_beyond<Compute>(kernels::load<Compute>(row + j, count), count, lowest);
      largest = kernels::select_lane(score > largest, score, largest);
    });
    const Compute new_max = std::max(max, kernels::horizontal_max(largest));
    // Nothing seen yet: any number will do, and ∞ − ∞ would not.
    const Compute shift = new_max == lowest ? Compute{0} : new_max;
    const Compute correction =
        max == new_max
            ? Compute{1}
            : kernels::first_lane(kernels::exp(kernels::broadcast<Compute>(max - shift)));
    const Compute added = kernels::sum_lanes<Compute>(columns, [&](std::size_t j, auto count) {
      const auto exponential = kernels::exp(kernels::load<Compute>(row + j, count) - shift);
      kernels::store<Overflow::infinity_or_nan, Compute>(exponential, row + j, count);
      return kernels::fill_beyond<Compute>(exponential, count, Compute{0});
    });
    max = new_max;
    total = total * correction + added;
    return correction;
  }
};
inline constexpr Apply<ScaledDotProductAttention> scaled_dot_product_attention{};

}  // namespace unit_scaling::ops
