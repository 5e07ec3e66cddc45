// SPDX-License-Identifier: MIT
/// @file
/// Layer kernels: which keys the queries of attention see.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "unit_scaling/core/simd.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/kernels/attention_size.hpp"
#include "unit_scaling/kernels/lanes.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::kernels {

namespace detail {

/// Queries [i, i + rows) and keys [j, j + keys) of a slice, in which anything may be seen.
struct AttentionBlock {
  std::size_t slice, i, rows, j, keys;
};

/// One past the last key that the slice sees at all.
[[nodiscard]] inline std::size_t keys_end(const AttentionSize& size, std::size_t slice) {
  std::size_t end = size.keys;
  if (const std::int32_t* mask = size.mask_row(slice)) {
    while (end > 0 && mask[end - 1] == 0) --end;
  }
  return end;
}

/// The first key that the slice sees; a causal query before it sees none.
[[nodiscard]] inline std::size_t first_key(const AttentionSize& size, std::size_t slice) {
  std::size_t first = 0;
  if (const std::int32_t* mask = size.mask_row(slice)) {
    while (first < size.keys && mask[first] == 0) ++first;
  }
  return first;
}

/// The keys of [j, j + keys) up to the last that any of `rows` queries from i on may see.
[[nodiscard]] inline AttentionBlock block_of(const AttentionSize& size, std::size_t slice,
                                             std::size_t i, std::size_t rows, std::size_t j,
                                             std::size_t keys) {
  const std::size_t end = i + rows;
  if (size.is_causal) keys = end <= j ? 0 : std::min(keys, end - j);
  return {slice, i, rows, j, keys};
}

/// How many keys of the block its query `a` sees, if it were for the diagonal alone.
[[nodiscard]] inline std::size_t seen_keys(const AttentionSize& size, const AttentionBlock& block,
                                           std::size_t a) {
  if (!size.is_causal) return block.keys;
  const std::size_t i = block.i + a;
  return i < block.j ? 0 : std::min(block.keys, i - block.j + 1);
}

/// Whether query `a` of the block sees key `b`.
[[nodiscard]] inline bool is_seen(const AttentionSize& size, const AttentionBlock& block,
                                  std::size_t a, std::size_t b) {
  const std::int32_t* mask = size.mask_row(block.slice);
  return b < seen_keys(size, block, a) && (mask == nullptr || mask[block.j + b] != 0);
}

/// False if every query of the block sees every key of it.
[[nodiscard]] inline bool may_hide(const AttentionSize& size, const AttentionBlock& block) {
  return size.mask != nullptr || seen_keys(size, block, 0) < block.keys;
}

/// Puts `filler` where a key is not seen, whatever was there: `values` has a row of `panel` queries
/// for each key.
template <std::size_t panel, class Compute>
inline void hide(const AttentionSize& size, const AttentionBlock& block, Compute* values,
                 Compute filler) {
  const std::int32_t* mask = size.mask_row(block.slice);
  for (std::size_t b = seen_keys(size, block, 0); b < block.keys; ++b) {
    // Key j + b is later than the queries before it.
    const std::size_t hidden = std::min(block.j + b - block.i, block.rows);
    std::fill_n(values + b * panel, hidden, filler);
  }
  for (std::size_t b = 0; mask != nullptr && b < block.keys; ++b) {
    if (mask[block.j + b] == 0) std::fill_n(values + b * panel, panel, filler);
  }
}

/// The first lane, of `panel`, of a block that sees its key `b`; all that follow do.
template <std::size_t panel>
[[nodiscard]] inline std::size_t first_seeing(const AttentionSize& size,
                                              const AttentionBlock& block, std::size_t b) {
  const std::int32_t* mask = size.mask_row(block.slice);
  if (mask != nullptr && mask[block.j + b] == 0) return panel;
  const std::size_t key = block.j + b;
  return size.is_causal && key > block.i ? key - block.i : 0;
}

/// Values of lanes from `lane` on, zeros for lanes outside [first, end).
template <class Compute>
[[nodiscard, gnu::always_inline]] inline lane_t<Compute> keep_lanes(lane_t<Compute> values,
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

}  // namespace detail

}  // namespace UNIT_SCALING_NAMESPACE::kernels

UNIT_SCALING_IEEE_END
