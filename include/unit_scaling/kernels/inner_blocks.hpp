// SPDX-License-Identifier: MIT
/// @file
/// Layer kernels: the inner dimension of a matrix product, cut into blocks.
#pragma once

#include <algorithm>
#include <cstddef>

#include "unit_scaling/core/target.hpp"
#include "unit_scaling/kernels/matrix_view.hpp"
#include "unit_scaling/kernels/parts.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::kernels {

namespace detail {

/// One of the blocks of the inner dimension: elements [begin, begin + depth) of a segment.
struct InnerBlock {
  std::size_t index;
  std::size_t segment;
  std::size_t begin;
  std::size_t depth;
};

/// The inner dimension, cut into blocks that are packed and multiplied one after the other.
class InnerBlocks {
 public:
  /// A panel of the right operand of this depth stays in the second-level cache.
  static constexpr std::size_t most_words = 1024;

  /// @param word_depth elements in a word
  /// @param step blocks but the last of a segment are a multiple of this
  InnerBlocks(const MatmulSize& size, std::size_t word_depth, std::size_t step)
      : inner_(size.inner),
        per_segment_(ceil_divide(size.inner, most_words * word_depth)),
        count_(per_segment_ * size.segments),
        depth_(per_segment_ == 0 ? 0 : round_up(ceil_divide(size.inner, per_segment_), step)) {}

  [[nodiscard]] std::size_t count() const { return count_; }
  /// Elements of the deepest block.
  [[nodiscard]] std::size_t most_depth() const { return depth_; }
  [[nodiscard]] InnerBlock operator[](std::size_t index) const {
    const std::size_t begin = index % per_segment_ * depth_;
    return {.index = index,
            .segment = index / per_segment_,
            .begin = begin,
            .depth = std::min(depth_, inner_ - begin)};
  }

 private:
  std::size_t inner_;
  std::size_t per_segment_;
  std::size_t count_;
  std::size_t depth_;
};

}  // namespace detail

}  // namespace UNIT_SCALING_NAMESPACE::kernels

UNIT_SCALING_IEEE_END
