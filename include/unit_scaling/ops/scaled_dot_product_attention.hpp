// SPDX-License-Identifier: MIT
/// @file
/// Layer ops: softmax attention of queries to keys and values.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>

#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/random.hpp"
#include "unit_scaling/core/shape.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/kernels/attention.hpp"
#include "unit_scaling/kernels/attention_origins.hpp"
#include "unit_scaling/kernels/attention_size.hpp"
#include "unit_scaling/kernels/operand.hpp"
#include "unit_scaling/ops/op.hpp"
#include "unit_scaling/ops/operand.hpp"
#include "unit_scaling/scaling/moments.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::ops {

/// Unit-scaled attention: y_i = α Σ_j p_ij k_ij v_j, p_i = softmax_j(c (q_i·k_j + q_i·r_{i−j}) +
/// bias_ij) over the keys that query i sees, k_ij = 1/(1−p) with probability 1−p, else 0; dq, dk,
/// dv and dr are β/α times the true gradients. The bias has no gradient. Shapes: q (…, queries,
/// head_dim), k (…, keys, head_dim), v (…, keys, value_dim) with equal
///         leading extents, y and dy (…, queries, value_dim). Grouped queries: q (batch, …, heads,
///         queries, head_dim) where k and v have a divisor of heads; head h reads head
///         ⌊h kv_heads/heads⌋ of them. r, which may be left out: (heads, queries + keys − 1,
///         head_dim), heads being the extent before queries and row 0 the distance 1 − keys +
///         query_offset; or, where causal, (heads, query_offset + queries, head_dim) from distance
///         0 on.
/// Positions: query i stands at i + query_offset among the keys. If causal it sees no later key;
///         with a window it sees keys at distances below that; with segments, those of its own.
/// Scales: c = mult/√head_dim under paper and none, mult/head_dim under umup. Let s be keys, d
///         value_dim, g the heads of queries for each head of keys, t the terms of a score (1, or 2
///         with r), n_i the keys that query i sees by its position, at least 1, and m the mean of
///         1/n_i, of which umup takes an approximation if causal: ln s/s, or (ln w + s/w − 1)/s
///         with a window w > 1.
///         umup: α = β_q = β_k = β_v = √(1−p) m^((w−1)/2), w = 1/(1 + 4d/(t mult²)), as the
///         reference but for s = 1, where its ln s = 0 would give no factor.
///         paper, which has no attention: α = √(1−p)/σ, σ² = E Σ_j p_ij² for scores ~ N(0, t
///         mult²): 1 for one key, e/n_i for many if t mult² = 1, the mean over i;
///         β_v = α √(s/(g queries)), β_q = α/(c√(td)), β_k = β_v/(c√d).
///         Both: β_r = α/(c√d) (distances/(batch queries))^½, the root being that of the number of
///         terms in an element of dr; α is the unconstrained one. The constraint binds α, β_q, β_k
///         and β_v; r comes from a weight alone, so its edge is a cut-edge and β_r stays free.
///         With a context_length, queries and keys stand for it in all of this but in β_r, and
///         query_offset for 0: the factors are those of training, whatever is asked.
/// Units:  q, k, v, r, dy ~ N(0,1), mult = 1 and 64 to 1000 keys, no constraint: std of y and dv
///         within [0.9, 1.15]. dq, dk, dr under paper within [0.75, 1.1], causal [0.6, 1.1]: first
///         rows have a weight near one, hence a slope near zero. Under umup dq and dk are
///         √(t value_dim) mult/head_dim, times 0.8 to 1.1, for α serves them too; dr is [0.8, 1.1].
/// Values: q, k, v, r are rounded to P::matmul_operand and saved so, dy to P::matmul_gradient (all
///         saturating); scores and weights are in P::compute, but where they enter a product
///         weights and gradients of scores are rounded to attention_weight_t<P>: bfloat16 under fp8
///         and bf16, which is a relative error of 2^-8 of each. y and the gradients are rounded
///         once to P::storage. What is not seen has no effect whatever it is, NaN included. A query
///         that sees no key gives 0 and passes no gradient. A row of scores with a NaN or +∞, or of
///         −∞ only, is NaN. k_ij is dropped if word ((slice queries + i) keys + j) of `random` is
///         below 2³² p, so backward draws it again. Besides the operands y and two numbers per
///         query are saved: memory is linear in queries and keys. Factors depend neither on the
///         mask nor on segments nor on the bias. A query's bits do not depend on how many others
///         are beside it. Without dropout, where the values of a column that a slice sees have one
///         sign and are within a factor of two, v and y are saved less one of these values, for
///         which forward runs twice, unless nothing is saved.
/// Errors: without dropout the gradient of a score, c p_ij (dp_ij − Σ_k p_ik dp_ik), is within
///         4 c p_ij (value_dim/16 + keys/16 + 30 + max score − min score) u Σ_d |dy_id| s_d of that
///         of exact arithmetic, s_d being the spread of column d of the values, max − min over the
///         keys that the slice sees, and u the unit of P::compute, or that of P::storage or of
///         attention_weight_t<P> if it is greater. So a constant added to the values costs no
///         accuracy.
/// @throws ShapeError if the shapes do not fit, or a mask, a bias or segments do not; DomainError
///         unless mult is finite and above 0, and 0 ≤ p < 1.
/// @see u-μP, arXiv:2407.17465; Dai et al. 2019, arXiv:1901.02860, for r; Ainslie et al. 2023,
///      arXiv:2305.13245, for grouped queries; Dao 2023, arXiv:2307.08691, for the blocks.
struct ScaledDotProductAttention {
  static constexpr std::string_view name = "scaled_dot_product_attention";
  static constexpr bool accepts(std::size_t arguments) { return arguments == 3 || arguments == 4; }
  static constexpr OpTraits traits{.has_homogeneity = true,
                                   .has_item_counts = true,
                                   .has_rounds_weights_as = true,
                                   .has_tells_positions = true,
                                   .has_products = true};

  [[nodiscard]] bool tells_positions() const { return !bias.empty(); }

  template <Precision P>
  [[nodiscard]] static constexpr bool rounds_weights_as(const FormatSpec& operand,
                                                        const FormatSpec& gradient) {
    const bool rounds = std::is_same_v<typename P::compute, float> &&
                        bfloat16::format.holds(operand) && bfloat16::format.holds(gradient);
    return std::is_same_v<attention_weight_t<P>, bfloat16> == rounds;
  }

  Scaling scaling = scaling::inherited;
  double mult = 1;                                   ///< on the scores
  bool is_causal = false;                            ///< no key after a query's position is seen
  double dropout_probability = 0;                    ///< p, on the weights
  Random random = Random(0, RandomStream::dropout);  ///< give each step and each layer its own
  /// Zero where a key is not seen; empty: all are. (batch, keys) for padding; where there are as
  /// many queries as sequences (batch, 1, keys), as the other shape could be meant for (queries,
  /// keys); or (batch or 1, heads or 1, queries or 1, keys).
  Array<std::int32_t> mask = {};
  /// The position of the first query among the keys: the number of keys that came before. Queries
  /// end with the last key at the latest.
  std::size_t query_offset = 0;
  /// A query sees keys at distances below this; 0: at any.
  std::size_t window = 0;
  /// (batch, keys): numbers of the documents that a sequence is packed from, each of which sees
  /// itself only. Empty: one document.
  Array<std::int32_t> segments = {};
  /// Added to the scores after their factor, (batch or 1, heads or 1, queries or 1, keys): for
  /// instance slope · (position of the key), as in ALiBi. Empty: nothing.
  Array<float> bias = {};
  /// The length of the sequences that the model is trained on; 0: that of the call. Give it, and
  /// a trained model is the same function at every length.
  std::size_t context_length = 0;

  /// @throws DomainError if an attribute is out of its range.
  void require_attributes() const {
    require_multiplier(name, "mult", mult);
    require_share(name, "dropout_probability", dropout_probability);
  }

  template <class Q, class K, class V>
  [[nodiscard]] Scales<3> scales(const Array<Q>& q, const Array<K>& k, const Array<V>& v) const {
    const Scales<4> s = factors(sizes(q.shape(), k.shape(), v.shape(), nullptr));
    return {.forward = s.forward, .backward = {s.backward[0], s.backward[1], s.backward[2]}};
  }

  template <class Q, class K, class V, class R>
  [[nodiscard]] Scales<4> scales(const Array<Q>& q, const Array<K>& k, const Array<V>& v,
                                 const Array<R>& r) const {
    return factors(sizes(q.shape(), k.shape(), v.shape(), &r.shape()));
  }

  template <class Q, class K, class V>
  [[nodiscard]] static std::array<ItemCount, 3> item_counts(const Array<Q>& /*q*/,
                                                            const Array<K>& /*k*/,
                                                            const Array<V>& /*v*/) {
    return {};
  }

  /// The factor of r is of the queries of all sequences.
  template <class Q, class K, class V, class R>
  [[nodiscard]] std::array<ItemCount, 4> item_counts(const Array<Q>& q, const Array<K>& k,
                                                     const Array<V>& v, const Array<R>& r) const {
    const kernels::AttentionSize size = sizes(q.shape(), k.shape(), v.shape(), &r.shape());
    if (scaling.rule == Rule::none || size.heads == 0) return {};
    return {ItemCount{}, ItemCount{}, ItemCount{},
            item_count(size.slices / size.heads * size.positions())};
  }

  /// The scores' factor c is inside of the softmax, so that c t_q t_k is fixed, and c t_q t_r.
  template <class Q, class K, class V>
  [[nodiscard]] Homogeneity homogeneity(const Scales<3>& s, const Array<Q>& q, const Array<K>& k,
                                        const Array<V>& v) const {
    const double c = sizes(q.shape(), k.shape(), v.shape(), nullptr).score_factor;
    return {.output = {s.forward, {0, 0, 1}}, .fixed = {{c, {1, 1, 0}}}};
  }

  template <class Q, class K, class V, class R>
  [[nodiscard]] Homogeneity homogeneity(const Scales<4>& s, const Array<Q>& q, const Array<K>& k,
                                        const Array<V>& v, const Array<R>& r) const {
    const double c = sizes(q.shape(), k.shape(), v.shape(), &r.shape()).score_factor;
    return {.output = {s.forward, {0, 0, 1, 0}}, .fixed = {{c, {1, 1, 0, 0}}, {c, {1, 0, 0, 1}}}};
  }

  template <Precision P, class Q, class K, class V>
  [[nodiscard]] auto forward(P precision, const Scales<3>& s, const Array<Q>& q, const Array<K>& k,
                             const Array<V>& v) const {
    return attend(precision, sizes(q.shape(), k.shape(), v.shape(), nullptr), s.forward, q, k, v);
  }

  template <Precision P, class Q, class K, class V, class R>
  [[nodiscard]] auto forward(P precision, const Scales<4>& s, const Array<Q>& q, const Array<K>& k,
                             const Array<V>& v, const Array<R>& r) const {
    return attend(precision, sizes(q.shape(), k.shape(), v.shape(), &r.shape()), s.forward, q, k, v,
                  r);
  }

  /// @returns (dq, dk, dv), and dr if `s` has four backward factors.
  template <Precision P, std::size_t N, class T>
  [[nodiscard]] auto backward(
      P precision, const Scales<N>& s,
      const std::tuple<kernels::Operand, kernels::Operand, kernels::Operand, kernels::Operand,
                       Array<T>, Array<typename P::compute>>& saved,
      const Array<T>& dy, const std::array<bool, N>& wanted = all_wanted<N>()) const {
    using Compute = typename P::compute;
    const auto& [q, k, v, r, y, normalisers] = saved;
    require_same_shape(name, "dy and y", dy.shape(), y.shape());
    const kernels::AttentionSize size =
        sizes(q.shape(), k.shape(), v.shape(), N == 4 ? &r.array.shape() : nullptr);
    auto* const resource = q.resource();
    const kernels::Operand g = operand(precision, {OperandRole::gradient}, dy, resource);
    const Kernel<P> pass(size, q, k, v, N == 4 ? &r : nullptr);
    const kernels::AttentionUpstream<Compute> upstream(g, y, normalisers,
                                                       static_cast<Compute>(1 / s.forward));
    // By the chain rule q, k and r, which enter through the score, get its factor.
    const auto factor = [&](std::size_t argument) {
      return static_cast<Compute>(s.backward[argument] * (argument == 2 ? 1 : size.score_factor));
    };
    std::array<Array<T>, N> gradients;
    std::array<kernels::AttentionResult<Compute>, N> targets{};
    const std::array shapes{&q.array.shape(), &k.array.shape(), &v.array.shape(), &r.array.shape()};
    for (std::size_t i = 0; i < N; ++i) {
      if (!wanted[i]) continue;
      gradients[i] = Array<T>(*shapes[i], resource);
      targets[i] = kernels::AttentionResult<Compute>(gradients[i].mutable_data());
    }
    if (N == 4 && wanted[N - 1]) {
      pass.backward_queries_and_distances(upstream, factor(0), targets[0], factor(N - 1),
                                          targets[N - 1], resource);
      targets[0] = {};  // done
    }
    pass.backward(upstream, factor(0), targets[0], factor(1), targets[1], factor(2), targets[2]);
    return std::apply([](auto&... each) { return std::tuple{std::move(each)...}; }, gradients);
  }

 private:
  template <Precision P>
  using Kernel = kernels::Attention<typename P::compute, attention_weight_t<P>>;

  /// The shapes, checked, as the kernel's sizes.
  [[nodiscard]] kernels::AttentionSize sizes(const Shape& q, const Shape& k, const Shape& v,
                                             const Shape* r) const {
    require_attributes();
    const std::size_t rank = q.rank();
    const std::size_t groups = groups_of(q, k);
    require_shape(rank >= 2 && k.rank() == rank && v.rank() == rank && groups != 0 &&
                      q[rank - 1] == k[rank - 1] && std::equal(k.begin(), k.end() - 1, v.begin()),
                  name,
                  "q (..., queries, head_dim), k (..., keys, head_dim) and v (..., keys, "
                  "value_dim) with equal leading extents, or q (batch, ..., heads, queries, "
                  "head_dim) with a multiple of the heads of k and v",
                  q, k, v);
    const std::size_t positions = q[rank - 2];
    kernels::AttentionSize size{
        .slices = Shape(std::span<const std::size_t>(k.begin(), rank - 2)).size(),
        .queries = groups * positions,
        .keys = k[rank - 2],
        .head_dim = q[rank - 1],
        .value_dim = v[rank - 1],
        .query_heads = groups,
        .query_offset = query_offset,
        .is_causal = is_causal,
        .window = limited(window, {query_offset, positions, k[rank - 2]}),
        .dropout = dropout_probability,
        .random = random};
    // A sum over no head_dim is zero whatever its factor.
    const double dim = std::max(1.0, static_cast<double>(size.head_dim));
    size.score_factor = mult / (scaling.rule == Rule::umup ? dim : std::sqrt(dim));
    require_shape(
        (query_offset == 0 && segments.empty()) ||
            size_sum(name, {query_offset, positions}) <= size.keys,
        name,
        [&] { return "queries that end with the last key, from " + std::to_string(query_offset); },
        q, k);
    if (rank >= 3 && q[0] != 0) size.slices_per_sequence = size.slices / q[0];
    if (!mask.empty()) {
      const bool is_of_keys = rank >= 3 && mask.shape() == Shape{q[0], size.keys};
      // Where batch = queries, (queries, keys) would have the same shape.
      require_shape(!is_of_keys || q[0] != positions || q[0] <= 1, name,
                    "mask (batch, keys), or (batch, 1, keys) where batch = queries, for q "
                    "(batch, ..., queries, head_dim) and k",
                    mask.shape(), q, k);
      if (is_of_keys || (rank >= 3 && mask.shape() == Shape{q[0], 1, size.keys})) {
        size.mask = {mask.data(), size.keys, 0, 0};
      } else {
        size.mask = matrix_of(mask, "mask", q, k);
      }
    }
    if (!bias.empty()) size.bias = matrix_of(bias, "bias", q, k);
    if (!segments.empty()) {
      require_shape(rank >= 3 && segments.shape() == Shape{q[0], size.keys}, name,
                    "segments (batch, keys) for q (batch, ..., queries, head_dim) and k",
                    segments.shape(), q, k);
      size.segments = segments.data();
    }
    if (r != nullptr) {
      const std::size_t both = size_sum(name, {positions, size.keys});
      const std::size_t all = both - std::min<std::size_t>(1, both);
      const std::size_t from_zero = size_sum(name, {query_offset, positions});
      require_shape(
          rank >= 3 && groups == 1 && r->rank() == 3 && (*r)[0] == q[rank - 3] &&
              (*r)[2] == size.head_dim &&
              ((*r)[1] == all || (is_causal && from_zero <= size.keys && (*r)[1] == from_zero)),
          name,
          "r (heads, queries + keys - 1, head_dim), or (heads, query_offset + queries, "
          "head_dim) if causal with as many keys or more, for q (..., heads, queries, "
          "head_dim) and k of as many heads",
          *r, q, k);
      size.heads = (*r)[0];
      size.distances = (*r)[1];
      if (size.distances == all && size.keys > 0) {
        size.zero_distance =
            static_cast<std::ptrdiff_t>(size.keys - 1) - static_cast<std::ptrdiff_t>(query_offset);
      }
    }
    return size;
  }

  /// A window, or 0 if every distance within so many positions is below it.
  [[nodiscard]] static std::size_t limited(std::size_t window,
                                           std::initializer_list<std::size_t> positions) {
    return window >= size_sum(name, positions) ? 0 : window;
  }

  /// Heads of queries that read one head of keys; 0 if the leading extents do not fit.
  [[nodiscard]] static std::size_t groups_of(const Shape& q, const Shape& k) {
    const std::size_t rank = q.rank();
    if (rank < 2 || k.rank() != rank) return 0;
    if (std::equal(q.begin(), q.end() - 2, k.begin())) return 1;
    if (rank < 4 || !std::equal(q.begin(), q.end() - 3, k.begin())) return 0;
    const std::size_t heads = q[rank - 3];
    const std::size_t of_keys = k[rank - 3];
    return of_keys != 0 && heads % of_keys == 0 ? heads / of_keys : 0;
  }

  /// The array as rows of keys for each query.
  template <class T>
  [[nodiscard]] static kernels::AttentionMatrix<T> matrix_of(const Array<T>& array,
                                                             std::string_view what, const Shape& q,
                                                             const Shape& k) {
    const Shape& shape = array.shape();
    const std::size_t rank = q.rank();
    const auto fits = [](std::size_t extent, std::size_t all) {
      return extent == 1 || extent == all;
    };
    require_shape(
        rank == 4 && shape.rank() == 4 && fits(shape[0], q[0]) && fits(shape[1], q[1]) &&
            fits(shape[2], q[2]) && shape[3] == k[2],
        name,
        [&] {
          return std::string(what) +
                 " (batch or 1, heads or 1, queries or 1, keys) for q (batch, heads, "
                 "queries, head_dim) and k" +
                 (what == "mask" ? ", or (batch, keys)" : "");
        },
        shape, q, k);
    const std::size_t per_head = shape[2] * shape[3];
    return {array.data(), shape[0] == 1 ? 0 : shape[1] * per_head, shape[1] == 1 ? 0 : per_head,
            shape[2] == 1 ? 0 : shape[3]};
  }

  /// What factors depend on: the sizes of training, if they are known.
  [[nodiscard]] kernels::AttentionSize trained(kernels::AttentionSize size) const {
    if (context_length == 0) return size;
    size.queries = size_product(name, {size.query_heads, context_length});
    size.keys = context_length;
    size.query_offset = 0;
    size.window = limited(window, {context_length, context_length});
    return size;
  }

  [[nodiscard]] Scales<4> factors(const kernels::AttentionSize& call) const {
    Scales<4> s;
    if (scaling.rule == Rule::none || call.queries == 0 || call.keys == 0) return s;
    const kernels::AttentionSize size = trained(call);
    const auto queries = static_cast<double>(size.queries);
    const auto keys = static_cast<double>(size.keys);
    const auto dim = static_cast<double>(size.value_dim);
    const double kept = 1 - dropout_probability;
    const double terms = size.distances == 0 ? 1 : 2;
    const double variance = terms * mult * mult;
    // A gradient of a weight is a sum over value_dim, which meets the score's factor.
    const double slope = size.score_factor * std::sqrt(std::max(1.0, dim));
    if (scaling.rule == Rule::umup) {
      s.forward = std::sqrt(kept) / moments::log_interpolate(1 / (1 + 4 * dim / variance), 1,
                                                             std::sqrt(mean_share(size)));
      s.backward = {s.forward, s.forward, s.forward, s.forward / slope};
    } else {
      s.forward = std::sqrt(kept / mean_square_sum(size, variance));
      const double of_keys = s.forward * std::sqrt(keys / queries);
      s.backward = {s.forward / (slope * std::sqrt(terms)), of_keys / slope, of_keys,
                    s.forward / slope};
    }
    if (size.distances != 0 && size.slices != 0) {
      const auto batch = static_cast<double>(call.slices) / static_cast<double>(call.heads);
      s.backward[3] *= std::sqrt(static_cast<double>(call.distances) /
                                 (batch * static_cast<double>(call.positions())));
    }
    return constrain<3>(scaling.effective_constraint(), s);
  }

  /// The mean over the queries of f(the keys that they see by their positions, at least one).
  /// Beyond 4096 queries only some are asked, each for those around it, whose numbers of keys are
  /// within 2^-11 of its own.
  template <class F>
  [[nodiscard]] static double mean_over_queries(const kernels::AttentionSize& size, const F& f) {
    const std::size_t positions = size.positions();
    double of_all = 0;
    for (std::size_t i = 0; i < positions;) {
      const std::size_t count =
          i < 4096 ? 1 : std::min(positions - i, std::max<std::size_t>(1, i / 2048));
      const auto seen = size.keys_of(size.query_offset + i + (count - 1) / 2);
      const std::size_t keys = std::max<std::size_t>(1, seen.end - seen.begin);
      if (keys == size.keys && size.window == 0) {  // So do all that follow.
        of_all += static_cast<double>(positions - i) * f(keys);
        break;
      }
      of_all += static_cast<double>(count) * f(keys);
      i += count;
    }
    return of_all / static_cast<double>(positions);
  }

  /// The mean over the queries of one over the keys that they see, as umup has it: for causal
  /// queries and keys of one length, with the logarithm in place of the harmonic number.
  [[nodiscard]] static double mean_share(const kernels::AttentionSize& size) {
    const auto keys = static_cast<double>(size.keys);
    if (size.keys <= 1 || size.window == 1) return 1;
    if (!size.is_causal) {
      if (size.window == 0) return 1 / keys;
      return mean_over_queries(size, [](std::size_t n) { return 1 / static_cast<double>(n); });
    }
    const auto width =
        static_cast<double>(size.window == 0 ? size.keys : std::min(size.window, size.keys));
    return (std::log(width) + (keys - width) / width) / keys;
  }

  /// The mean over the queries of E Σ_j p_ij², p_i the softmax of scores ~ N(0, variance).
  [[nodiscard]] static double mean_square_sum(const kernels::AttentionSize& size, double variance) {
    // 1 for one key, e^variance / n for many. In between it is a fit to the exact
    // n ∫ t E[e^(2x − t e^x)] E[e^(−t e^x)]^(n−1) dt, off by up to 3 % at variance 1, 14 % at 2 and
    // a factor of 1.6 at 9, for n to 4096.
    const double flat = std::exp(-variance);
    const auto of_keys = [&](std::size_t keys) {
      const auto n = static_cast<double>(keys);
      return 1 / (1 + (n - 1) * (flat + (1 - flat) / (2 + std::sqrt(n * std::sqrt(n)))));
    };
    if (!size.is_causal && size.window == 0) return of_keys(size.keys);
    return mean_over_queries(size, of_keys);
  }

  template <Precision P, class Q, class K, class V, class... R>
  [[nodiscard]] static auto attend(P precision, const kernels::AttentionSize& size, double scale,
                                   const Array<Q>& q, const Array<K>& k, const Array<V>& v,
                                   const Array<R>&... r) {
    using Compute = typename P::compute;
    using Storage = typename P::storage;
    auto* const resource = q.resource();
    auto q_operand = operand(precision, {OperandRole::input, 0}, q);
    auto k_operand = operand(precision, {OperandRole::input, 1}, k, resource);
    auto v_operand = operand(precision, {OperandRole::input, 2}, v, resource);
    kernels::Operand r_operand;
    ((r_operand = operand(precision, {OperandRole::input, 3}, r, resource)), ...);
    Array<Storage> y(q.shape().with_columns(size.value_dim), resource);
    Array<Compute> normalisers(Shape{y.rows(), 2}, resource);
    const auto attend_to = [&](const kernels::Operand& values, Array<Storage>& to) {
      Kernel<P>(size, q_operand, k_operand, values, &r_operand)
          .forward(static_cast<Compute>(scale),
                   kernels::AttentionResult<Compute>(to.mutable_data()),
                   normalisers.mutable_data());
    };
    attend_to(v_operand, y);
    // Backward sees differences of values alone, and of y and a value. They are exact before they
    // meet a sum, and would be lost in one.
    Array<Storage> saved_y = y;
    kernels::Operand differences;
    if (is_saved(precision)) differences = kernels::from_origins<Compute>(size, v_operand);
    if (!differences.array.empty()) {
      saved_y = Array<Storage>(y.shape(), resource);
      attend_to(differences, saved_y);
      v_operand = std::move(differences);
    }
    return Forward{std::move(y),
                   std::tuple{std::move(q_operand), std::move(k_operand), std::move(v_operand),
                              std::move(r_operand), std::move(saved_y), std::move(normalisers)}};
  }
};
inline constexpr Apply<ScaledDotProductAttention> scaled_dot_product_attention{};

}  // namespace UNIT_SCALING_NAMESPACE::ops

UNIT_SCALING_IEEE_END
