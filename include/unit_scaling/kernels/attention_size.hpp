// SPDX-License-Identifier: MIT
/// @file
/// Layer kernels: extents of attention and what its passes read.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "unit_scaling/core/random.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/kernels/ieee_arithmetic.hpp"
#include "unit_scaling/kernels/matrix_view.hpp"
#include "unit_scaling/kernels/parts.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::kernels {

/// Elements of (batch, heads, queries, keys), each of the first three extents of which may be one
/// row that serves all.
template <class T> struct AttentionMatrix {
  const T* elements = nullptr;  ///< null: there are none
  /// From one to the next; 0 where one row serves all.
  std::size_t per_batch = 0;
  std::size_t per_head = 0;
  std::size_t per_query = 0;
};

/// Extents of attention, and which weights are zero. A slice is one index of the leading extents of
/// the keys: one head of keys and values of one sequence, and the `query_heads` heads of queries
/// that read it, one after the other.
struct AttentionSize {
  std::size_t slices;
  std::size_t queries;  ///< of all heads of a slice
  std::size_t keys;
  std::size_t head_dim;
  std::size_t value_dim;
  std::size_t query_heads = 1;

  /// Of the first query, among the keys.
  std::size_t query_offset = 0;
  /// A query sees no key after its own position.
  bool is_causal = false;
  /// A query sees keys whose positions differ from its own by less; 0: there is no such limit.
  std::size_t window = 0;
  /// Not zero where a key is seen.
  AttentionMatrix<std::int32_t> mask = {};
  /// (batch, keys): a query sees the keys of its own segment; null: there is one segment.
  const std::int32_t* segments = nullptr;
  std::size_t slices_per_sequence = 1;

  /// Relative positions: slice s has rows s % heads; distance i − j, i being a position, is row
  /// i − j + zero_distance.
  std::size_t heads = 1;
  std::size_t distances = 0;  ///< 0: there are none
  std::ptrdiff_t zero_distance = 0;

  double score_factor = 1;  ///< score = score_factor (q·k + q·r) + bias
  AttentionMatrix<float> bias = {};
  double dropout = 0;  ///< probability that a weight is dropped
  Random random = Random(0, RandomStream::dropout);

  /// Queries of one head.
  [[nodiscard]] std::size_t positions() const { return queries / query_heads; }
  /// Of a row of queries, among the keys.
  [[nodiscard]] std::size_t position(std::size_t query) const {
    return query_offset + query % positions();
  }
  /// The keys that a query may see by its position alone.
  [[nodiscard]] detail::Range keys_of(std::size_t position) const {
    detail::Range seen{0, keys};
    if (is_causal) seen.end = std::min(keys, position + 1);
    if (window != 0) {
      seen.end = std::min(seen.end, position + std::min(window, keys));
      seen.begin = std::min(seen.end, position + 1 - std::min(position + 1, window));
    }
    return seen;
  }
  /// The elements of the keys of row `query` of a slice; null if there are none. There is a row.
  template <class T>
  [[nodiscard]] const T* row_of(const AttentionMatrix<T>& matrix, std::size_t slice,
                                std::size_t query) const {
    if (matrix.elements == nullptr) return nullptr;
    const std::size_t head = slice % slices_per_sequence * query_heads + query / positions();
    return matrix.elements + slice / slices_per_sequence * matrix.per_batch +
           head * matrix.per_head + query % positions() * matrix.per_query;
  }
  /// The row of the mask that serves every query of a slice; null if there is none such.
  [[nodiscard]] const std::int32_t* mask_of_keys(std::size_t slice) const {
    if (mask.elements == nullptr || mask.per_query != 0 || mask.per_head != 0) return nullptr;
    return mask.elements + slice / slices_per_sequence * mask.per_batch;
  }
  [[nodiscard]] const std::int32_t* segments_of(std::size_t slice) const {
    return segments == nullptr ? nullptr : segments + slice / slices_per_sequence * keys;
  }
};

/// Keys whose scores a thread holds at a time: whole register tiles, few enough for the caches.
inline constexpr std::size_t attention_key_block = 224;

/// Operands of attention, row-major: q (slices, queries, head_dim), k (slices, keys, head_dim),
/// v (slices, keys, value_dim), r (heads, distances, head_dim) or nothing.
struct AttentionOperands {
  OperandView q;
  OperandView k;
  OperandView v;
  OperandView r;
};

namespace detail {

/// What the backward passes of attention read: the gradient g (slices, queries, value_dim), what
/// `Attention::forward` wrote to `normalisers`, and for each query Σ g∘y over y's factor.
template <class Compute> struct AttentionGradient {
  OperandView g;
  const Compute* normalisers;
  const Compute* inner;
};

}  // namespace detail

}  // namespace UNIT_SCALING_NAMESPACE::kernels

UNIT_SCALING_IEEE_END
