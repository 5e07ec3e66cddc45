// SPDX-License-Identifier: MIT
/// @file
/// Layer kernels: products of a matrix with few vectors, which read the matrix once and pack
/// nothing of it.
///
/// A lane is a row or column of the matrix. Each of its sums is one chain of fused multiply-adds
/// over the inner dimension in ascending order, as in a product of two matrices.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "unit_scaling/core/parallel_for.hpp"
#include "unit_scaling/kernels/packing.hpp"
#include "unit_scaling/kernels/tile.hpp"

namespace unit_scaling::kernels {

/// The most vectors that these kernels take: with more, packing pays.
inline constexpr std::size_t most_skinny_vectors = 4;

namespace detail {

/// sums + words · vector, by lanes.
template <class Words>
[[nodiscard, gnu::always_inline]] inline float32x16 multiply_add_lanes(float32x16 sums,
                                                                       std::uint32_t vector,
                                                                       uint32x16 words) {
  if constexpr (std::is_same_v<Words, FloatWords>) {
    return sums + std::bit_cast<float>(vector) * bit_cast_to<float32x16>(words);
  } else {
#if defined(__AVX512BF16__) && defined(__AVX512F__)
    return reinterpret_cast<float32x16>(multiply_add<Words>(
        reinterpret_cast<register_t>(sums), vector, reinterpret_cast<register_t>(words)));
#endif
  }
}

/// Sums of 16 lanes that are contiguous along the inner dimension, one vector after the other.
/// `vectors` holds groups of `most_skinny_vectors` words, of which the first `count` are used.
template <class Words, std::size_t count, class T>
[[gnu::always_inline]] inline std::array<float32x16, count> multiply_contiguous(
    const PanelSource<T>& source, const std::uint32_t* vectors) {
  std::array<float32x16, count> sums{};
  // Lanes a power of two apart share sets of the first-level cache, which would not keep them all.
  constexpr int second_level = 2;
  constexpr std::size_t ahead = 512 / sizeof(T);
  const auto lane = [&](std::size_t i) __attribute__((always_inline)) {
    return source.data + std::min(i, source.lane_count - 1) * source.lane_stride;
  };
  std::size_t p = 0;
  const auto step = [&](const auto& load_words, const auto& transpose)
      __attribute__((always_inline)) {
    uint32x16 block[lanes];
    for (std::size_t i = 0; i < lanes; ++i) block[i] = load_words(lane(i) + p);
    transpose(block);
    const std::uint32_t* group = vectors + p / Words::depth * most_skinny_vectors;
    // No step beyond the depth: + 0 · 0 would make a sum of −0 positive.
    const std::size_t steps = std::min(lanes, (source.depth - p + Words::depth - 1) / Words::depth);
    for (std::size_t q = 0; q < steps; ++q, group += most_skinny_vectors) {
      for (std::size_t c = 0; c < count; ++c) {
        sums[c] = multiply_add_lanes<Words>(sums[c], group[c], block[q]);
      }
    }
  };
  constexpr bool takes_fours = Words::depth == 2 && has_bfloat16_table<T>();
#if defined(__AVX512VBMI__) && defined(__AVX512BW__)
  if constexpr (takes_fours) {
    // Codes are transposed, four at a time, before they are looked up: half as much to move.
    for (; p + 64 <= source.depth; p += 64) {
      uint32x16 block[lanes];
      for (std::size_t i = 0; i < lanes; ++i) {
        const T* from = lane(i) + p;
        std::memcpy(&block[i], from, sizeof(block[i]));
        __builtin_prefetch(from + ahead, 0, second_level);
      }
      transpose_16x16(block);
      const std::uint32_t* group = vectors + p / Words::depth * most_skinny_vectors;
      for (std::size_t q = 0; q < lanes; ++q, group += 2 * most_skinny_vectors) {
        const auto [first, second] = pairs_of_fours<T>(reinterpret_cast<__m512i>(block[q]));
        for (std::size_t c = 0; c < count; ++c) {
          sums[c] = multiply_add_lanes<Words>(sums[c], group[c], first);
          sums[c] = multiply_add_lanes<Words>(sums[c], group[most_skinny_vectors + c], second);
        }
      }
    }
  }
#endif
  constexpr std::size_t run = lanes * Words::depth;
  if constexpr (!takes_fours) {
    for (; p + run <= source.depth; p += run) {
      step(
          [](const T* from) {
            __builtin_prefetch(from + ahead, 0, second_level);
            return load_run<Words>(from);
          },
          [](auto& block) __attribute__((always_inline)) { transpose_16x16(block); });
    }
  }
  for (; p < source.depth; p += run) {
    step(
        [&](const T* from) {
          T elements[run] = {};
          std::copy_n(from, std::min(run, source.depth - p), elements);
          return load_run<Words>(elements);
        },
        transpose_rarely);
  }
  return sums;
}

/// Adds to sums of many lanes, which follow each other in memory, the products of a few places of
/// the inner dimension: `sums` holds `count` rows of `stride`, a multiple of 16.
template <class Words, class T>
void multiply_interleaved(const PanelSource<T>& source, std::size_t count,
                          const std::uint32_t* vectors, float* sums, std::size_t stride) {
  constexpr std::size_t most_steps = 8;
  for (std::size_t p = 0; p < source.depth; p += most_steps * Words::depth) {
    const std::size_t steps =
        std::min(most_steps, (source.depth - p + Words::depth - 1) / Words::depth);
    const std::uint32_t* group = vectors + p / Words::depth * most_skinny_vectors;
    for (std::size_t j = 0; j < source.lane_count; j += lanes) {
      uint32x16 words[most_steps];
      for (std::size_t q = 0; q < steps; ++q) {
        const std::size_t at = p + q * Words::depth;
        words[q] = load_interleaved<Words>(source, at, j, std::min(lanes, source.lane_count - j),
                                           may_load_whole<Words>(source, at, j + lanes));
      }
      for (std::size_t c = 0; c < count; ++c) {
        float* at = sums + c * stride + j;
        auto sum = unit_scaling::load<float32x16>(at);
        for (std::size_t q = 0; q < steps; ++q) {
          sum = multiply_add_lanes<Words>(sum, group[q * most_skinny_vectors + c], words[q]);
        }
        unit_scaling::store(sum, at);
      }
    }
  }
}

/// Writes the sums of lanes that are contiguous along the inner dimension to `sums`: `count` rows
/// of `stride`, a multiple of 16.
template <class Words, std::size_t count, class T>
[[gnu::noinline]] void contiguous_sums(const PanelSource<T>& source, const std::uint32_t* vectors,
                                       float* sums, std::size_t stride) {
  for (std::size_t lane = 0; lane < source.lane_count; lane += lanes) {
    const auto result = multiply_contiguous<Words, count>(
        PanelSource<T>{.data = source.data + lane * source.lane_stride,
                       .lane_stride = source.lane_stride,
                       .depth_stride = 1,
                       .lane_count = source.lane_count - lane,
                       .depth = source.depth,
                       .lanes_readable = 0},
        vectors);
    for (std::size_t c = 0; c < count; ++c) {
      unit_scaling::store(result[c], sums + c * stride + lane);
    }
  }
}

}  // namespace detail

/// Writes the products of lanes of elements of type T with `count` vectors to `sums`: `count` rows
/// of the lanes, rounded up to a multiple of 16; those beyond the last lane are of no meaning.
/// `vectors` is the panel of the vectors, packed in groups of `most_skinny_vectors` words.
template <class Words, class T>
void skinny_sums(const PanelSource<void>& source, std::size_t count, const std::uint32_t* vectors,
                 float* sums) {
  const auto typed = of_type<T>(source);
  const std::size_t stride = (source.lane_count + lanes - 1) / lanes * lanes;
  if (source.depth_stride != 1 && source.lane_stride == 1) {
    std::fill_n(sums, count * stride, 0.0F);
    detail::multiply_interleaved<Words>(typed, count, vectors, sums, stride);
    return;
  }
  detail::unrolled<most_skinny_vectors>([&](auto i) {
    if (count == i + 1) detail::contiguous_sums<Words, i + 1>(typed, vectors, sums, stride);
  });
}

}  // namespace unit_scaling::kernels
