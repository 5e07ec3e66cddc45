// SPDX-License-Identifier: MIT
/// @file
/// Layer kernels: operands of a matrix product, decoded into panels of 32-bit words.
///
/// A panel holds `width` lanes (rows of the left or columns of the right operand) along the whole
/// of a block of the inner dimension.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "unit_scaling/core/simd.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/formats/convert.hpp"
#include "unit_scaling/kernels/byte_codes.hpp"
#include "unit_scaling/kernels/code_table.hpp"
#include "unit_scaling/kernels/elements.hpp"
#include "unit_scaling/kernels/transpose.hpp"
#include "unit_scaling/kernels/words.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::kernels {

/// Part of an operand to pack: element (lane, p) is at
/// `data[lane * lane_stride + p * depth_stride]`.
template <class T> struct PanelSource {
  const T* data;
  std::size_t lane_stride;
  std::size_t depth_stride;
  std::size_t lane_count;  ///< lanes to pack
  std::size_t depth;       ///< elements of each
  /// Lanes in memory from the first one on, at least `lane_count`: they may be read.
  std::size_t lanes_readable;
  /// Of the codes, if T is `std::uint8_t`.
  const CodeTable* table = nullptr;

  /// The same part, whose elements are of type U.
  template <class U> [[nodiscard]] PanelSource<U> of_type() const {
    return {.data = static_cast<const U*>(static_cast<const void*>(data)),
            .lane_stride = lane_stride,
            .depth_stride = depth_stride,
            .lane_count = lane_count,
            .depth = depth,
            .lanes_readable = lanes_readable,
            .table = table};
  }

  /// How its elements are decoded.
  [[nodiscard]] auto elements() const { return elements_of<T>(table); }
};

/// Whether whole vectors can be loaded for the word at place p of lanes that follow each other in
/// memory, up to lane `reach`: that may leave a row of the operand, but not the operand.
template <class Words, class T>
[[nodiscard]] inline bool may_load_whole(const PanelSource<T>& source, std::size_t p,
                                         std::size_t reach) {
  const std::size_t end = (source.depth - 1) * source.depth_stride + source.lanes_readable;
  const std::size_t last = p + Words::depth - 1;
  return last < source.depth && last * source.depth_stride + reach <= end;
}

/// Words at place p of 16 lanes that follow each other in memory, from lane j on, or of `count` of
/// them if vectors are not loaded whole. Elements beyond the depth are zeros.
template <class Words, class T, class Elements>
[[nodiscard, gnu::always_inline]] inline uint32x16 load_interleaved(const PanelSource<T>& source,
                                                                    const Elements& elements,
                                                                    std::size_t p, std::size_t j,
                                                                    std::size_t count,
                                                                    bool is_whole) {
  const T* from = source.data + p * source.depth_stride + j;
  if constexpr (Words::depth == 1) {
    return Words::of(is_whole ? elements.floats(from) : elements.floats(from, count));
  } else {
    const T* next = from + source.depth_stride;
    if (is_whole) return elements.two_rows(from, next);
    return Words::of(elements.floats(from, count),
                     p + 1 < source.depth ? elements.floats(next, count) : float32x16{});
  }
}

/// Whether words of elements of type T are decoded from four codes at a time.
template <class Words, class T> [[nodiscard]] constexpr bool finds_fours() {
  if constexpr (std::is_same_v<Words, FloatWords> && AnyMinifloat<T>) {
    return !looks_codes_up_fast && has_byte_codes(T::format);
  }
  return false;
}
template <class Words, class T> inline constexpr bool decodes_fours = finds_fours<Words, T>();

/// Words of memory for a panel: the last vectors written may reach beyond its last group.
[[nodiscard]] constexpr std::size_t panel_words(std::size_t groups, std::size_t width) {
  return (groups + lanes - 1) / lanes * lanes * width + lanes;
}

/// Begins to fetch so many words, which begin with a line, into a level of the caches.
template <std::size_t count, int level>
[[gnu::always_inline]] inline void fetch_words(const std::uint32_t* words) {
  constexpr int locality = 4 - level;
  constexpr std::size_t line_words = unit_scaling::detail::line_bytes / sizeof(std::uint32_t);
  for (std::size_t i = 0; i < count; i += line_words) __builtin_prefetch(words + i, 0, locality);
}

/// A packed right panel that a tile of sums is computed from.
struct RightPanel {
  const std::uint32_t* words;
  /// A quarter of the panel that is next, or of its first words if that is deeper, which the tile
  /// fetches into the second-level cache meanwhile. Null: nothing.
  const std::uint32_t* fetched = nullptr;

  // NOLINTNEXTLINE(google-explicit-constructor): a panel alone is one that fetches nothing.
  RightPanel(const std::uint32_t* panel, const std::uint32_t* fetched_meanwhile = nullptr)
      : words(panel), fetched(fetched_meanwhile) {}
  /// Tiles that fetch a whole panel, a quarter each.
  static constexpr std::size_t tiles_that_fetch = 4;
};

/// Packs lanes as ceil(depth / Words::depth) groups of `width` words, a group for each step of the
/// inner dimension. The last elements of a depth that fills no word are zeros; lanes beyond
/// `lane_count` are of no meaning. Writes no more than `panel_words` words.
///
/// A width above `detail::block_rows` must be a multiple of it.
///
/// The width is no template parameter: a kernel packs panels of several widths, and each would be
/// one more copy of all this to compile.
template <class Words, class T>
void pack_panel(const PanelSource<T>& shared_source, std::size_t width, std::uint32_t* target) {
  // Blocks of lanes follow each other, and the last one may reach into the next group of words.
  assert(width <= detail::block_rows || width % detail::block_rows == 0);
  // Of its own: what it holds might change with every store, for all the compiler knows.
  const PanelSource<T> source = shared_source;
  const std::size_t lane_count = std::min(source.lane_count, width);
  const auto elements = source.elements();
  if (source.lane_stride == 1) {
    // Rows far apart in memory are not foreseen by the processor. Those of bytes are so short that
    // to fetch them ahead costs more than it saves.
    constexpr std::size_t rows_ahead = 64;
    constexpr int second_level = 2;
    const std::size_t reach = (lane_count + lanes - 1) / lanes * lanes;
    for (std::size_t p = 0; p < source.depth; p += Words::depth, target += width) {
      // Inlined for each answer: a branch in so short a loop costs a tenth of the packing.
      const auto pack_row = [&](bool is_whole) __attribute__((always_inline)) {
        for (std::size_t j = 0; j < lane_count; j += lanes) {
          const std::size_t count = std::min(lanes, lane_count - j);
          if constexpr (Words::depth == 1) {
            __builtin_prefetch(source.data + (p + rows_ahead) * source.depth_stride + j, 0,
                               second_level);
          }
          unit_scaling::store(load_interleaved<Words>(source, elements, p, j, count, is_whole),
                              target + j);
        }
      };
      if (may_load_whole<Words>(source, p, reach)) {
        pack_row(true);
      } else {
        pack_row(false);
      }
    }
    return;
  }
  constexpr std::size_t step = lanes * Words::depth;
  const auto pack_step = [&](std::size_t p, std::size_t j, const auto& load_words,
                             const auto& transpose) __attribute__((always_inline)) {
    uint32x16 rows[detail::block_rows];
    // Lanes beyond the last one repeat it.
    for (std::size_t i = 0; i < detail::block_rows; ++i) {
      rows[i] = load_words(source.data + std::min(j + i, lane_count - 1) * source.lane_stride +
                           p * source.depth_stride);
    }
    detail::BlockColumn columns[lanes];
    transpose(rows, columns);
    std::uint32_t* to = target + p / Words::depth * width + j;
    for (std::size_t q = 0; q < lanes; ++q) unit_scaling::store(columns[q], to + q * width);
  };
  const std::size_t whole = source.depth_stride == 1 ? source.depth / step * step : 0;
  std::size_t p = 0;
  if constexpr (decodes_fours<Words, T>) {
    // Codes are transposed, four at a time, before they are decoded: a quarter as much to move.
    for (; p + 4 * lanes <= whole; p += 4 * lanes) {
      for (std::size_t j = 0; j < lane_count; j += detail::block_rows) {
        uint32x16 rows[detail::block_rows];
        for (std::size_t i = 0; i < detail::block_rows; ++i) {
          const T* from = source.data + std::min(j + i, lane_count - 1) * source.lane_stride + p;
          __builtin_prefetch(from + 8 * lanes);
          std::memcpy(&rows[i], from, sizeof(rows[i]));
        }
        detail::BlockColumn columns[lanes];
        detail::transpose_block(rows, columns);
        std::uint32_t* to = target + p * width + j;
        for (std::size_t q = 0; q < lanes; ++q, to += 4 * width) {
          typename ByteCodes<T>::Words words[4];
          ByteCodes<T>::decode(columns[q], words);
          for (std::size_t k = 0; k < 4; ++k) {
            std::memcpy(to + k * width, &words[k], sizeof(words[k]));
          }
        }
      }
    }
  }
  for (; p < whole; p += step) {
    for (std::size_t j = 0; j < lane_count; j += detail::block_rows) {
      pack_step(
          p, j,
          [=](const T* from) {
            __builtin_prefetch(from + 4 * step);
            return elements.template run<Words>(from);
          },
          [](const auto& rows, auto& columns) __attribute__((always_inline)) {
            if constexpr (decodes_fours<Words, T>) {  // less than four of these steps are left
              detail::transpose_rarely(rows, columns);
            } else {
              detail::transpose_block(rows, columns);
            }
          });
    }
  }
  for (; p < source.depth; p += step) {
    const std::size_t run = std::min(step, source.depth - p);
    for (std::size_t j = 0; j < lane_count; j += detail::block_rows) {
      pack_step(
          p, j,
          [&](const T* from) {
            T part[step] = {};
            for (std::size_t q = 0; q < run; ++q) part[q] = from[q * source.depth_stride];
            return elements.template run<Words>(part);
          },
          [](const auto& rows, auto& columns) { detail::transpose_rarely(rows, columns); });
    }
  }
}

}  // namespace UNIT_SCALING_NAMESPACE::kernels

UNIT_SCALING_IEEE_END
