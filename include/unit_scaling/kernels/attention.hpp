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
#include <initializer_list>
#include <memory_resource>
#include <optional>
#include <type_traits>

#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/parallel_for.hpp"
#include "unit_scaling/core/shape.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/kernels/attention_backward.hpp"
#include "unit_scaling/kernels/attention_forward.hpp"
#include "unit_scaling/kernels/attention_layout.hpp"
#include "unit_scaling/kernels/attention_results.hpp"
#include "unit_scaling/kernels/attention_size.hpp"
#include "unit_scaling/kernels/attention_slopes.hpp"
#include "unit_scaling/kernels/attention_tile.hpp"
#include "unit_scaling/kernels/element_kernels.hpp"
#include "unit_scaling/kernels/lanes.hpp"
#include "unit_scaling/kernels/operand.hpp"
#include "unit_scaling/kernels/parts.hpp"
#include "unit_scaling/kernels/rows.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::kernels {

/// Where the backward passes of attention start: the gradient of y, and what `Attention::forward`
/// wrote with these values or others that differ from them by constants.
template <class Compute> class AttentionUpstream {
 public:
  /// @param g (slices, queries, value_dim); lives as long as this does.
  /// @param factor one over that of y
  template <class T>
  AttentionUpstream(const Operand& g, const Array<T>& y, const Array<Compute>& normalisers,
                    Compute factor)
      : g_(g, SummedExtent::both_with_scales),
        inner_(Shape{y.rows()}, y.resource()),
        normalisers_(normalisers) {
    detail::write_inner_products(g_.view(), y, factor, inner_.mutable_data());
  }

  [[nodiscard]] detail::AttentionGradient<Compute> view() const {
    return {g_.view(), normalisers_.data(), inner_.data()};
  }

 private:
  PreparedOperand g_;
  Array<Compute> inner_;
  Array<Compute> normalisers_;
};

/// Attention over operands in any format, with arithmetic in Compute.
///
/// Weight is Compute, or bfloat16: what the weights, 1 for the largest of a query, and in the
/// backward passes the weights, of which the sum is 1, and the gradients of the scores are rounded
/// to where they enter a product. The sum that weights are divided by is that of the unrounded
/// ones. What is then smaller than `least_attention_weight` counts as zero.
template <class Compute, class Weight> class Attention {
 public:
  using Result = AttentionResult<Compute>;

  /// @param r if the size has distances, else it may be null. All live as long as this does.
  Attention(const AttentionSize& size, const Operand& q, const Operand& k, const Operand& v,
            const Operand* r)
      : size_(size), q_(prepared(q)), k_(prepared(k)), v_(prepared(v)) {
    operands_ = {q_.view(), k_.view(), v_.view(), {}};
    if (size.distances != 0) operands_.r = r_.emplace(*r, SummedExtent::both_with_scales).view();
  }

  /// y = factor · Σ_j weight_ij v_j, rounded once; 0 for a query that sees no key. For each query,
  /// `normalisers` gets its largest score, before the factor, and one over Σ_j exp(score_ij −
  /// largest score). That is one number more than a log-sum-exp, which would lose the sum beside a
  /// large score.
  void forward(Compute factor, const Result& y, Compute* normalisers) const {
    const std::size_t group =
        size_.slices >= available_thread_count() ? queries_of_large_group : queries_of_group;
    const std::size_t groups = detail::ceil_divide(size_.queries, group);
    const Tile& score = score_tile();
    const auto forward_group = multiplies_weights_in_pairs({operands_.v.kernels})
                                   ? &detail::forward_group<Layout<may_have_pairs>>
                                   : &detail::forward_group<Layout<false>>;
    parallel_for(size_.slices * groups, [&](std::size_t index) {
      const std::size_t begin = index % groups * group;
      forward_group(size_, operands_, score, index / groups,
                    {begin, std::min(size_.queries, begin + group)}, factor, y, normalisers);
    });
  }

  /// dq = q_factor · the gradient of q, and likewise dk and dv, as far as they are wanted.
  void backward(const AttentionUpstream<Compute>& upstream, Compute q_factor, const Result& dq,
                Compute k_factor, const Result& dk, Compute v_factor, const Result& dv) const {
    const Part whole{.queries = {0, size_.queries},
                     .keys = {0, size_.keys},
                     .q_factor = q_factor,
                     .dq = dq,
                     .k_factor = k_factor,
                     .dk = dk,
                     .v_factor = v_factor,
                     .dv = dv};
    const bool wants_keys = dk.is_wanted() || dv.is_wanted();
    const MakePart make(*this, upstream);
    // Scores serve all gradients at once where that leaves enough to do for every thread. Each
    // gradient has the same chain of terms in either way.
    if (dq.is_wanted() && wants_keys && size_.slices >= available_thread_count()) {
      parallel_for(size_.slices, [&](std::size_t slice) { make(slice, whole); });
      return;
    }
    if (dq.is_wanted()) {
      const std::size_t groups = query_groups();
      parallel_for(size_.slices * groups, [&](std::size_t index) {
        Part part = whole;
        part.dk = part.dv = {};
        part.queries = query_group(index % groups);
        make(index / groups, part);
      });
    }
    if (wants_keys) {
      constexpr std::size_t group = Extents::key_block;
      const std::size_t groups = detail::ceil_divide(size_.keys, group);
      parallel_for(size_.slices * groups, [&](std::size_t index) {
        Part part = whole;
        part.dq = {};
        const std::size_t begin = index % groups * group;
        part.keys = {begin, std::min(size_.keys, begin + group)};
        make(index / groups, part);
      });
    }
  }

  /// dq, if it is wanted, and dr = r_factor · the gradient of r, which is a sum over the slices of
  /// a head. They are cut into at most eight groups, each added up by one thread; then the groups
  /// are, in order.
  void backward_queries_and_distances(const AttentionUpstream<Compute>& upstream, Compute factor,
                                      const Result& dq, Compute r_factor, const Result& dr,
                                      std::pmr::memory_resource* resource) const {
    constexpr std::size_t most_groups = 8;
    const std::size_t batch = size_.slices / std::max<std::size_t>(1, size_.heads);
    const std::size_t groups = std::clamp<std::size_t>(batch, 1, most_groups);
    const std::size_t elements = size_.distances * size_.head_dim;
    auto partial =
        Array<Compute>::filled(Shape{size_.heads * groups, elements}, Compute{0}, resource);
    Compute* sums = partial.mutable_data();
    const MakePart make(*this, upstream);
    parallel_for(size_.heads * groups, [&](std::size_t index) {
      const std::size_t head = index / groups;
      const std::size_t group = index % groups;
      for (std::size_t b = batch * group / groups; b < batch * (group + 1) / groups; ++b) {
        for (std::size_t i = 0; i < query_groups(); ++i) {
          make(b * size_.heads + head, Part{.queries = query_group(i),
                                            .keys = {0, size_.keys},
                                            .q_factor = factor,
                                            .dq = dq,
                                            .dr = sums + index * elements});
        }
      }
    });
    for_rows(size_.heads * size_.distances, size_.head_dim * groups, [&](std::size_t row) {
      const std::size_t head = row / size_.distances;
      const std::size_t offset = row % size_.distances * size_.head_dim;
      Compute* first = sums + head * groups * elements + offset;
      for_lanes<Compute>(size_.head_dim, [&](std::size_t j, auto count) {
        auto sum = load<Compute>(first + j, count);
        for (std::size_t group = 1; group < groups; ++group) {
          sum += load<Compute>(first + group * elements + j, count);
        }
        store<Overflow::infinity_or_nan, Compute>(sum, first + j, count);
      });
      dr.store_part(first, r_factor, size_.head_dim, row * size_.head_dim);
    });
  }

 private:
  using Extents = detail::AttentionExtents<Compute>;
  using Range = detail::Range;
  using Tile = detail::AttentionTile<Compute>;
  using Part = detail::AttentionPart<Compute>;
  /// Queries that share a packed block of keys; more of them where that leaves enough to do for
  /// every thread.
  static constexpr std::size_t queries_of_group = 256;
  static constexpr std::size_t queries_of_large_group = Extents::most_queries;

  [[nodiscard]] static PreparedOperand prepared(const Operand& operand) {
    return {operand, SummedExtent::both_with_scales};
  }

  /// The tile of products of queries with keys and with distances.
  [[nodiscard]] const Tile& score_tile() const {
    return detail::find_attention_tile<Compute>(
        {operands_.q.kernels, operands_.k.kernels, kernels_of_distances()});
  }
  /// Those of the keys, if there are no distances.
  [[nodiscard]] const ElementKernels* kernels_of_distances() const {
    return size_.distances == 0 ? operands_.k.kernels : operands_.r.kernels;
  }

  /// Whether products of weights with these operands are fastest in pairs, and exact.
  static constexpr bool may_have_pairs =
      detail::has_fast_bfloat16_pairs && !std::is_same_v<Weight, Compute>;
  template <bool pairs> using Layout = detail::AttentionLayout<Compute, Weight, pairs>;
  [[nodiscard]] static bool multiplies_weights_in_pairs(
      std::initializer_list<const ElementKernels*> operands) {
    return may_have_pairs &&
           std::all_of(operands.begin(), operands.end(), [](const ElementKernels* kernels) {
             return kernels->are_exact_with_weights;
           });
  }

  /// Makes parts of gradients, on any thread.
  class MakePart {
   public:
    MakePart(const Attention& attention, const AttentionUpstream<Compute>& upstream)
        : attention_(attention),
          upstream_(upstream.view()),
          score_(attention.score_tile()),
          slope_(detail::find_attention_tile<Compute>(
              {attention.operands_.v.kernels, upstream_.g.kernels})),
          backward_part_(multiplies_weights_in_pairs(
                             {attention.operands_.q.kernels, attention.operands_.k.kernels,
                              attention.kernels_of_distances(), upstream_.g.kernels})
                             ? &detail::backward_part<Layout<may_have_pairs>>
                             : &detail::backward_part<Layout<false>>) {}

    void operator()(std::size_t slice, const Part& part) const {
      backward_part_(attention_.size_, attention_.operands_, score_, slope_, upstream_, slice,
                     part);
    }

   private:
    const Attention& attention_;
    detail::AttentionGradient<Compute> upstream_;
    const Tile& score_;
    const Tile& slope_;
    decltype(&detail::backward_part<Layout<false>>) backward_part_;
  };

  [[nodiscard]] std::size_t query_groups() const {
    return detail::ceil_divide(size_.queries, queries_of_group);
  }
  [[nodiscard]] Range query_group(std::size_t index) const {
    const std::size_t begin = index * queries_of_group;
    return {begin, std::min(size_.queries, begin + queries_of_group)};
  }

  AttentionSize size_;
  PreparedOperand q_, k_, v_;
  std::optional<PreparedOperand> r_;
  AttentionOperands operands_;
};

}  // namespace UNIT_SCALING_NAMESPACE::kernels

UNIT_SCALING_IEEE_END
