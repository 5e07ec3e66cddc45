// SPDX-License-Identifier: MIT
/// @file
/// Layer kernels: extents of attention and what its passes read.
#pragma once

#include <cstddef>
#include <cstdint>

#include "unit_scaling/core/random.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/kernels/ieee_arithmetic.hpp"
#include "unit_scaling/kernels/matrix_view.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::kernels {

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
