// SPDX-License-Identifier: MIT
/// @file
/// Layer kernels: softmax attention in panels of queries and blocks of keys, forward and backward.
///
/// No matrix of queries × keys ever exists: a thread holds a block of it, of fixed size
/// (kernels/attention_layout.hpp), and what is kept between the passes is two numbers per query.
/// Here blocks are shared out among threads.
///
/// Each element of a result is one chain over keys, or queries, in ascending order, made by one
/// thread (which begins anew where the softmax rescales it), so its bits do not depend on how many
/// threads there are.
/// @see Dao 2023, arXiv:2307.08691 (FlashAttention-2).
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory_resource>
#include <type_traits>
#include <utility>

#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/parallel_for.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/kernels/amx_tile.hpp"
#include "unit_scaling/kernels/attention_backward.hpp"
#include "unit_scaling/kernels/attention_forward.hpp"
#include "unit_scaling/kernels/attention_layout.hpp"
#include "unit_scaling/kernels/attention_size.hpp"
#include "unit_scaling/kernels/lanes.hpp"
#include "unit_scaling/kernels/parts.hpp"
#include "unit_scaling/kernels/rows.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::kernels {

/// Attention over operands in Operand and their gradients in Gradient, with arithmetic in Compute.
///
/// Weight is Compute, or bfloat16: what the weights, 1 for the largest of a query, and in the
/// backward passes the weights, of which the sum is 1, and the gradients of the scores are rounded
/// to where they enter a product. The sum that weights are divided by is that of the unrounded
/// ones. What is then smaller than `least_attention_weight` counts as zero.
template <class Compute, class Operand, class Gradient, class Weight> class Attention {
 public:
  Attention(const AttentionSize& size, const AttentionOperands<Operand>& operands)
      : size_(size), operands_(operands) {}

  /// y = factor · Σ_j weight_ij v_j, rounded once to Out; 0 for a query that sees no key. For each
  /// query, `normalisers` gets its largest score, before the factor, and one over Σ_j exp(score_ij
  /// − largest score). That is one number more than a log-sum-exp, which would lose the sum beside
  /// a large score.
  template <class Out> void forward(Compute factor, Out* y, Compute* normalisers) const {
    const std::size_t group =
        size_.slices >= available_thread_count() ? queries_of_large_group : queries_of_group;
    const std::size_t groups = detail::ceil_divide(size_.queries, group);
    with_tiles([&]<class Score, class Slope>(std::type_identity<std::pair<Score, Slope>>) {
      parallel_for(size_.slices * groups, [&](std::size_t index) {
        const std::size_t begin = index % groups * group;
        detail::forward_group<Layout, Score>(size_, operands_, index / groups,
                                             {begin, std::min(size_.queries, begin + group)},
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
      constexpr std::size_t group = Layout::key_block;
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
  using Layout = detail::AttentionLayout<Compute, Operand, Gradient, Weight>;
  using Range = detail::Range;
  template <class Out> using Part = detail::AttentionPart<Compute, Out>;
  /// Queries that share a packed block of keys; more of them where that leaves enough to do for
  /// every thread.
  static constexpr std::size_t queries_of_group = 256;
  static constexpr std::size_t queries_of_large_group = 512;

  /// Calls `body(std::type_identity<std::pair<tile of scores, tile of their slopes>>)`.
  template <class Body> static void with_tiles(const Body& body) {
#if defined(UNIT_SCALING_HAS_AMX)
    if constexpr (!std::is_same_v<Compute, double> && has_amx_for<Operand, Operand>() &&
                  has_amx_for<Operand, Gradient>()) {
      static_assert(AmxTile::columns == Layout::panel);
      if (may_use_amx()) return body(std::type_identity<std::pair<AmxTile, AmxTile>>{});
    }
#endif
    body(std::type_identity<std::pair<typename Layout::ScoreTile, typename Layout::SlopeTile>>{});
  }

  [[nodiscard]] std::size_t query_groups() const {
    return detail::ceil_divide(size_.queries, queries_of_group);
  }
  [[nodiscard]] Range query_group(std::size_t index) const {
    const std::size_t begin = index * queries_of_group;
    return {begin, std::min(size_.queries, begin + queries_of_group)};
  }

  template <class Score, class Slope, class Out>
  void backward_part(std::type_identity<std::pair<Score, Slope>> /*tiles*/,
                     const AttentionUpstream<Compute, Gradient>& upstream, std::size_t slice,
                     const Part<Out>& part) const {
    detail::backward_part<Layout, Score, Slope>(size_, operands_, upstream, slice, part);
  }

  AttentionSize size_;
  AttentionOperands<Operand> operands_;
};

}  // namespace UNIT_SCALING_NAMESPACE::kernels

UNIT_SCALING_IEEE_END
