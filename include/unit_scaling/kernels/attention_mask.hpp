// SPDX-License-Identifier: MIT
/// @file
/// Layer kernels: which keys the queries of attention see.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "unit_scaling/core/simd.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/kernels/attention_size.hpp"
#include "unit_scaling/kernels/lanes.hpp"
#include "unit_scaling/kernels/parts.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::kernels {

namespace detail {

/// Bounds on the keys that some rows of queries see by their positions: nobody sees keys outside of
/// `any`, and everybody sees those inside of `each`.
struct KeysOfRows {
  Range any;
  Range each;
};
[[nodiscard]] inline KeysOfRows keys_of_rows(const AttentionSize& size, std::size_t i,
                                             std::size_t rows) {
  if (rows == 0) return {{0, 0}, {0, size.keys}};
  // Rows of two heads or more may have every position.
  const bool is_of_one_head = i / size.positions() == (i + rows - 1) / size.positions();
  const std::size_t first = is_of_one_head ? i % size.positions() : 0;
  const std::size_t last = is_of_one_head ? first + rows - 1 : size.positions() - 1;
  const Range of_first = size.keys_of(size.query_offset + first);
  const Range of_last = size.keys_of(size.query_offset + last);
  return {{of_first.begin, of_last.end}, {of_last.begin, of_first.end}};
}

/// The keys that the mask of the slice shows to some query, up to the last.
[[nodiscard]] inline std::size_t keys_end(const AttentionSize& size, std::size_t slice) {
  std::size_t end = size.keys;
  if (const std::int32_t* mask = size.mask_of_keys(slice)) {
    while (end > 0 && mask[end - 1] == 0) --end;
  }
  return end;
}

/// Whether every one of these queries sees every key of [begin, end).
[[nodiscard]] inline bool see_all(const AttentionSize& size, const KeysOfRows& by_position,
                                  const Range& keys) {
  return size.mask.elements == nullptr && size.segments == nullptr &&
         by_position.each.begin <= keys.begin && keys.end <= by_position.each.end;
}

/// For each key of a block the queries that see it: bit a stands for query a.
using SeenByKey = std::array<std::uint32_t, attention_key_block>;

/// Queries [i, i + rows) and keys [j, j + keys) of a slice.
struct AttentionBlock {
  std::size_t slice, i, rows, j, keys;
  /// Of each key the queries that see it; null: each query sees each key.
  const std::uint32_t* seen;
  /// The queries that see some key.
  std::uint32_t seeing;

  [[nodiscard]] bool hides() const { return seen != nullptr; }
  /// Whether query `a` sees key `b`; keys behind the block are not seen.
  [[nodiscard]] bool is_seen(std::size_t a, std::size_t b) const {
    return b < keys && (seen == nullptr || (seen[b] >> a & 1) != 0);
  }
};

/// The queries [begin, end) of a block, as bits.
[[nodiscard]] inline std::uint32_t bits_of(std::size_t begin, std::size_t end) {
  const std::uint64_t all = (std::uint64_t{1} << end) - 1;
  return static_cast<std::uint32_t>(all >> begin << begin);
}

/// Tells of the queries `rows` of the block, which are of one head, which keys they see by their
/// positions.
inline void see_by_position(const AttentionSize& size, const AttentionBlock& block,
                            const Range& rows, std::uint32_t* seen) {
  // Query `rows.begin + a` stands at `first + a`.
  const std::size_t first = size.position(block.i + rows.begin);
  const std::size_t count = rows.end - rows.begin;
  const Range by_first = size.keys_of(first);
  for (std::size_t b = 0; b < block.keys; ++b) {
    const std::size_t key = block.j + b;
    const std::size_t begin = key < by_first.end ? 0 : key + 1 - by_first.end;
    const std::size_t end = size.window == 0 ? count
                            : key + size.window <= first
                                ? 0
                                : std::min(count, key + size.window - first);
    if (begin < end) seen[b] |= bits_of(rows.begin + begin, rows.begin + end);
  }
}

/// Hides from query `a` of the block the keys of which `is_hidden(key)`.
template <class IsHidden>
inline void hide_keys(const AttentionBlock& block, std::size_t a, std::uint32_t* seen,
                      const IsHidden& is_hidden) {
  const std::uint32_t others = ~(std::uint32_t{1} << a);
  for (std::size_t b = 0; b < block.keys; ++b) {
    seen[b] &= is_hidden(block.j + b) ? others : ~std::uint32_t{0};
  }
}

/// The block of these queries and of the keys of [j, j + keys) up to the last that any of them may
/// see; of no keys if they see none.
/// @param room has what the block points to.
[[nodiscard]] inline AttentionBlock block_of(const AttentionSize& size, std::size_t slice,
                                             std::size_t i, std::size_t rows, std::size_t j,
                                             std::size_t keys, SeenByKey& room) {
  const KeysOfRows by_position = keys_of_rows(size, i, rows);
  const std::size_t end = std::min(by_position.any.end, j + keys);
  if (end <= j || by_position.any.begin >= end) return {slice, i, rows, j, 0, nullptr, 0};
  AttentionBlock block{slice, i, rows, j, end - j, nullptr, bits_of(0, rows)};
  if (see_all(size, by_position, {j, end})) return block;
  block.seen = room.data();
  std::uint32_t* const seen = room.data();
  std::fill_n(seen, block.keys, 0U);
  for (std::size_t a = 0; a < rows;) {
    const std::size_t of_head = size.positions() - (i + a) % size.positions();
    const Range of_one_head{a, std::min(rows, a + of_head)};
    see_by_position(size, block, of_one_head, seen);
    a = of_one_head.end;
  }
  if (const std::int32_t* const mask = size.mask_of_keys(slice)) {
    for (std::size_t b = 0; b < block.keys; ++b) seen[b] = mask[j + b] == 0 ? 0U : seen[b];
  } else if (size.mask.elements != nullptr) {
    for (std::size_t a = 0; a < rows; ++a) {
      const std::int32_t* const mask_of_query = size.row_of(size.mask, slice, i + a);
      hide_keys(block, a, seen, [&](std::size_t key) { return mask_of_query[key] == 0; });
    }
  }
  if (const std::int32_t* const segments = size.segments_of(slice)) {
    for (std::size_t a = 0; a < rows; ++a) {
      const std::int32_t own = segments[size.position(i + a)];
      hide_keys(block, a, seen, [&](std::size_t key) { return segments[key] != own; });
    }
  }
  block.seeing = 0;
  std::uint32_t by_each = bits_of(0, rows);
  for (std::size_t b = 0; b < block.keys; ++b) {
    block.seeing |= seen[b];
    by_each &= seen[b];
  }
  if (block.seeing == 0) block.keys = 0;
  if (by_each == bits_of(0, rows)) block.seen = nullptr;
  return block;
}

/// Values of the lanes of a panel from `lane` on where bit `lane` of `kept` is one, else `filler`.
template <class Compute>
[[nodiscard, gnu::always_inline]] inline lane_t<Compute> keep_lanes(lane_t<Compute> values,
                                                                    std::size_t lane,
                                                                    std::uint32_t kept,
                                                                    Compute filler) {
  if constexpr (std::is_same_v<Compute, double>) {
    return (kept >> lane & 1) != 0 ? values : filler;
  } else {
    const uint32x16 bits{1U << 0,  1U << 1,  1U << 2,  1U << 3, 1U << 4,  1U << 5,
                         1U << 6,  1U << 7,  1U << 8,  1U << 9, 1U << 10, 1U << 11,
                         1U << 12, 1U << 13, 1U << 14, 1U << 15};
    const auto found = bit_cast_to<int32x16>(splat<uint32x16>(kept >> lane) & bits);
    const auto is_kept = is_less(int32x16{}, found);
    return select(is_kept, values, splat<float32x16>(filler));
  }
}

/// Puts `filler` where a key is not seen, whatever was there: `values` has a row of `panel` queries
/// for each key. Lanes without a query stay.
template <std::size_t panel, class Compute>
inline void hide(const AttentionBlock& block, Compute* values, Compute filler) {
  if (!block.hides()) return;
  const std::uint32_t without_query = bits_of(block.rows, panel);
  for (std::size_t b = 0; b < block.keys; ++b) {
    const std::uint32_t kept = block.seen[b] | without_query;
    if (kept == bits_of(0, panel)) continue;
    for (std::size_t a = 0; a < panel; a += lane_count<Compute>) {
      Compute* const at = values + b * panel + a;
      store<Overflow::infinity_or_nan, Compute>(
          keep_lanes(load<Compute>(at, FullLanes<Compute>{}), a, kept, filler), at,
          FullLanes<Compute>{});
    }
  }
}

}  // namespace detail

}  // namespace UNIT_SCALING_NAMESPACE::kernels

UNIT_SCALING_IEEE_END
