// SPDX-License-Identifier: MIT
/// @file
/// Layer kernels: which weights of attention dropout keeps.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

#include "unit_scaling/core/random.hpp"
#include "unit_scaling/core/simd.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/kernels/attention_mask.hpp"
#include "unit_scaling/kernels/attention_size.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::kernels {

namespace detail {

/// Draws what dropout keeps of the weights of a block, in the layout of its scores, a row of
/// `panel` queries for each key: 0, or 1/(1−p). The number of an element is its place in (slices,
/// queries, keys), so each pass draws the same, whatever its blocks.
template <std::size_t panel, class Compute>
inline void draw_kept(const AttentionSize& size, const AttentionBlock& block, Compute* kept) {
  constexpr std::size_t words_at_once = 64;
  const auto threshold = static_cast<std::uint64_t>(size.dropout * 0x1p32);
  const auto factor = static_cast<Compute>(1 / (1 - size.dropout));
  std::fill_n(kept, block.keys * panel, Compute{0});
  for (std::size_t a = 0; a < block.rows; ++a) {
    const std::uint64_t begin =
        (std::uint64_t{block.slice} * size.queries + block.i + a) * size.keys + block.j;
    const std::uint64_t end = begin + block.keys;
    for (std::uint64_t base = begin / words_at_once * words_at_once; base < end;
         base += words_at_once) {
      const std::array<uint32x16, 4> blocks = size.random.blocks(base / 4);
      std::array<std::uint32_t, words_at_once> words;
      for (std::size_t word = 0; word < blocks.size(); ++word) {
        for (std::size_t lane = 0; lane < lanes; ++lane) {
          words[4 * lane + word] = blocks[word][lane];
        }
      }
      for (std::uint64_t n = std::max(base, begin); n < std::min(base + words_at_once, end); ++n) {
        kept[(n - begin) * panel + a] = words[n - base] < threshold ? Compute{0} : factor;
      }
    }
  }
}

}  // namespace detail

}  // namespace UNIT_SCALING_NAMESPACE::kernels

UNIT_SCALING_IEEE_END
