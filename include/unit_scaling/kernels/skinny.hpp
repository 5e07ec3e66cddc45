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
#include <utility>

#include "unit_scaling/core/parallel_for.hpp"
#include "unit_scaling/core/simd.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/kernels/byte_codes.hpp"
#include "unit_scaling/kernels/half_codes.hpp"
#include "unit_scaling/kernels/packing.hpp"
#include "unit_scaling/kernels/packing_memory.hpp"
#include "unit_scaling/kernels/tile.hpp"
#include "unit_scaling/kernels/transpose.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::kernels {

/// The most vectors that these kernels take: with more, packing pays.
inline constexpr std::size_t most_skinny_vectors = 4;

namespace detail {

/// Register `part` of 16 words.
template <class Lanes>
[[nodiscard, gnu::always_inline]] inline register_t register_of_words(const Lanes& words,
                                                                      std::size_t part) {
  if constexpr (sizeof(Lanes) == register_bytes) {
    return reinterpret_cast<register_t>(words);
  } else {
    return load_register(reinterpret_cast<const char*>(&words) + part * register_bytes);
  }
}

/// Calls `add(c, sum)` with the sums of some groups of 16 lanes and vector c, in registers, for
/// each of `count` vectors: `sums` holds `count` rows of `stride`.
template <std::size_t groups, class Add>
[[gnu::always_inline]] inline void change_sums(std::size_t count, float* sums, std::size_t stride,
                                               const Add& add) {
  constexpr std::size_t registers = groups * lanes / register_floats;
  for (std::size_t c = 0; c < count; ++c) {
    float* const at = sums + c * stride;
    register_t sum[registers];
    for (std::size_t g = 0; g < registers; ++g) sum[g] = load_register(at + g * register_floats);
    add(c, sum);
    for (std::size_t g = 0; g < registers; ++g) {
      *reinterpret_cast<memory_register_t*>(at + g * register_floats) = sum[g];
    }
  }
}

/// Adds to the sums of some groups of 16 lanes the products of their words with those of the
/// vectors: `sums` holds `count` rows of `stride`, `vectors` groups of `most_skinny_vectors` words.
template <class Words, std::size_t most_steps, std::size_t groups>
[[gnu::always_inline]] inline void add_words(const uint32x16 (&words)[most_steps][groups],
                                             std::size_t steps, const std::uint32_t* vectors,
                                             std::size_t count, float* sums, std::size_t stride) {
  constexpr std::size_t parts = lanes / register_floats;
  change_sums<groups>(
      count, sums, stride, [&](std::size_t c, auto& sum) __attribute__((always_inline)) {
        for (std::size_t q = 0; q < steps; ++q) {
          for (std::size_t g = 0; g < groups * parts; ++g) {
            sum[g] = multiply_add_words<Words>(sum[g], vectors[q * most_skinny_vectors + c],
                                               register_of_words(words[q][g / parts], g % parts));
          }
        }
      });
}

/// Whether words are looked up, two at a time, from four codes.
template <class Words, class T> [[nodiscard]] constexpr bool looks_up_fours() {
  return Words::depth == 2 && decltype(std::declval<PanelSource<T>>().elements())::has_fours;
}

/// The same of 64 codes of each lane, transposed: word q of `codes[g]` has codes 4 q to 4 q + 3.
template <class T, std::size_t groups>
[[gnu::always_inline]] inline void add_fours(const uint32x16 (&codes)[groups][lanes],
                                             const std::uint32_t* vectors, std::size_t count,
                                             float* sums, std::size_t stride) {
  using Part = typename ByteCodes<T>::Words;
  static_assert(sizeof(Part) == register_bytes);
  constexpr std::size_t parts = lanes / register_floats;
  change_sums<groups>(
      count, sums, stride, [&](std::size_t c, auto& sum) __attribute__((always_inline)) {
        for (std::size_t q = 0; q < lanes; ++q) {
          for (std::size_t g = 0; g < groups * parts; ++g) {
            Part floats[4];
            ByteCodes<T>::decode(
                reinterpret_cast<Part>(register_of_words(codes[g / parts][q], g % parts)), floats);
            for (std::size_t k = 0; k < 4; ++k) {
              sum[g] = multiply_add_words<FloatWords>(
                  sum[g], vectors[(4 * q + k) * most_skinny_vectors + c],
                  reinterpret_cast<register_t>(floats[k]));
            }
          }
        }
      });
}

/// Adds to the sums of the first `groups` groups of 16 lanes their products; the lanes are
/// contiguous along the inner dimension.
template <class Words, std::size_t groups, class T>
[[gnu::noinline]] void multiply_groups(const PanelSource<T>& source, std::size_t count,
                                       const std::uint32_t* vectors, float* sums,
                                       std::size_t stride) {
  constexpr std::size_t run = lanes * Words::depth;
  // Lanes a power of two apart share sets of the first-level cache, which would not keep them all.
  constexpr int second_level = 2;
  constexpr std::size_t ahead = 128 / sizeof(T);  // bytes; 256 and 64 are slower by 1 to 3 %
  // So many words of all groups as registers hold.
  constexpr std::size_t most_steps = lanes / groups;
  const auto elements = source.elements();
  std::size_t p = 0;
  // Lanes beyond the last one repeat it.
  const T* lane[groups * lanes];
  for (std::size_t i = 0; i < groups * lanes; ++i) {
    lane[i] = source.data + std::min(i, source.lane_count - 1) * source.lane_stride;
  }
  const auto transposed = [&](uint32x16(&block)[groups][lanes], const auto& load,
                              const auto& transpose) __attribute__((always_inline)) {
    for (std::size_t g = 0; g < groups; ++g) {
      for (std::size_t i = 0; i < lanes; ++i) block[g][i] = load(lane[g * lanes + i] + p);
      transpose(block[g]);
    }
  };
  const auto add = [&](const uint32x16(&words)[most_steps][groups], std::size_t steps,
                       std::size_t at) __attribute__((always_inline)) {
    add_words<Words>(words, steps, vectors + at / Words::depth * most_skinny_vectors, count, sums,
                     stride);
  };
  const auto transpose_by_call = [](uint32x16(&rows)[lanes]) {
    uint32x16 columns[lanes];
    transpose_rarely(rows, columns);
    std::copy_n(columns, lanes, rows);
  };
  const auto transpose = [=](uint32x16(&block)[lanes]) __attribute__((always_inline)) {
    if constexpr (block_rows == lanes) {
      transpose_16x16(block);
    } else {
      transpose_by_call(block);  // it works through memory anyway
    }
  };
  [[maybe_unused]] const auto load_fours = [](const T* from) __attribute__((always_inline)) {
    uint32x16 codes;
    std::memcpy(&codes, from, sizeof(codes));
    __builtin_prefetch(from + ahead, 0, second_level);
    return codes;
  };
  uint32x16 block[groups][lanes];
#if defined(__AVX512VBMI__) && defined(__AVX512BW__)
  if constexpr (looks_up_fours<Words, T>()) {
    // Codes are transposed, four at a time, before they are looked up: half as much to move.
    for (; p + 4 * lanes <= source.depth; p += 4 * lanes) {
      transposed(block, load_fours, transpose);
      for (std::size_t q = 0; q < lanes; q += most_steps / 2) {
        uint32x16 words[most_steps][groups];
        for (std::size_t k = 0; k < most_steps; k += 2) {
          for (std::size_t g = 0; g < groups; ++g) {
            const auto [first, second] =
                elements.pairs_of_fours(reinterpret_cast<__m512i>(block[g][q + k / 2]));
            words[k][g] = first;
            words[k + 1][g] = second;
          }
        }
        add(words, most_steps, p + 4 * q);
      }
    }
  }
#endif
  const auto add_block = [&](std::size_t steps) __attribute__((always_inline)) {
    for (std::size_t q = 0; q < steps; q += most_steps) {
      uint32x16 words[most_steps][groups];
      for (std::size_t k = 0; k < most_steps; ++k) {
        for (std::size_t g = 0; g < groups; ++g) words[k][g] = block[g][q + k];
      }
      add(words, std::min(most_steps, steps - q), p + q * Words::depth);
    }
  };
  if constexpr (decodes_fours<Words, T>) {
    for (; p + 4 * lanes <= source.depth; p += 4 * lanes) {
      transposed(block, load_fours, transpose);
      add_fours<T>(block, vectors + p * most_skinny_vectors, count, sums, stride);
    }
  }
  // After fours few runs are left, for which a loop of their own is too much to compile.
  if constexpr (!looks_up_fours<Words, T>() && !decodes_fours<Words, T>) {
    for (; p + run <= source.depth; p += run) {
      transposed(
          block,
          [=](const T* from) __attribute__((always_inline)) {
            __builtin_prefetch(from + ahead, 0, second_level);
            return elements.template run<Words>(from);
          },
          transpose);
      add_block(lanes);
    }
  }
  for (; p < source.depth; p += run) {
    const std::size_t left = std::min(run, source.depth - p);
    transposed(
        block,
        [&](const T* from) {
          T part[run] = {};
          std::copy_n(from, left, part);
          return elements.template run<Words>(part);
        },
        transpose_by_call);
    // No step beyond the depth: + 0 · 0 would make a sum of −0 positive.
    add_block((left + Words::depth - 1) / Words::depth);
  }
}

/// Adds to sums of lanes that are contiguous along the inner dimension their products: `sums` holds
/// `count` rows of `stride`, a multiple of 16.
///
/// A sum is a chain of additions, each of which waits for the one before. Where a step of the inner
/// dimension reads whole cache lines and does little else, four groups of lanes at a time fill that
/// time; of lines that several steps read the first-level cache would not keep so many.
template <class Words, class T>
void multiply_contiguous(const PanelSource<T>& source, std::size_t count,
                         const std::uint32_t* vectors, float* sums, std::size_t stride) {
  constexpr std::size_t most_groups = looks_up_fours<Words, T>() ? 4 : 1;
  PanelSource<T> rest = source;
  while (rest.lane_count > 0) {
    const bool is_whole = rest.lane_count >= most_groups * lanes;
    const auto multiply =
        is_whole ? &multiply_groups<Words, most_groups, T> : &multiply_groups<Words, 1, T>;
    multiply(rest, count, vectors, sums, stride);
    const std::size_t done = std::min(rest.lane_count, (is_whole ? most_groups : 1) * lanes);
    rest.data += done * rest.lane_stride;
    rest.lane_count -= done;
    sums += done;
  }
}

/// Whether codes are multiplied as binary16 numbers.
template <class Words, class T> [[nodiscard]] constexpr bool multiplies_halves() {
  if constexpr (std::is_same_v<Words, FloatWords> && AnyMinifloat<T>) {
    return has_half_codes(T::format);
  }
  return false;
}

/// As `multiply_contiguous` for a single vector, of codes as binary16 numbers. The sums must be
/// zeros. False, with the sums unchanged, if a number of the vector does not allow it.
template <class T>
[[nodiscard]] bool multiply_as_halves(const PanelSource<T>& source, const std::uint32_t* vector,
                                      float* sums) {
  const std::size_t depth = source.depth / half_code_run * half_code_run;
  auto* scaled = packing_memory<1, float>(depth);
  if (!scale_for_half_codes<T>(vector, most_skinny_vectors, depth, scaled)) return false;
  for (std::size_t lane = 0; lane < source.lane_count; lane += lanes) {
    PanelSource<T> part = source;
    part.data += lane * source.lane_stride;
    part.lane_count = std::min(lanes, source.lane_count - lane);
    const T* rows[lanes];  // lanes beyond the last one repeat it
    for (std::size_t i = 0; i < lanes; ++i) {
      rows[i] = part.data + std::min(i, part.lane_count - 1) * part.lane_stride;
    }
    float own[lanes];
    const std::uint32_t* rest_of_vector = vector;
    if (multiply_half_codes(rows, depth, scaled, own)) {
      std::copy_n(own, part.lane_count, sums + lane);
      part.data += depth;
      part.depth -= depth;
      rest_of_vector += depth * most_skinny_vectors;
    }
    // What is left of each, or all of it if there is a NaN.
    if (part.depth > 0) {
      multiply_contiguous<FloatWords>(part, 1, rest_of_vector, sums + lane, lanes);
    }
  }
  return true;
}

/// Adds to sums of many lanes, which follow each other in memory, the products of a few places of
/// the inner dimension: `sums` holds `count` rows of `stride`, a multiple of 16.
template <class Words, class T>
void multiply_interleaved(const PanelSource<T>& source, std::size_t count,
                          const std::uint32_t* vectors, float* sums, std::size_t stride) {
  constexpr std::size_t most_steps = 8;
  const auto elements = source.elements();
  for (std::size_t p = 0; p < source.depth; p += most_steps * Words::depth) {
    const std::size_t steps =
        std::min(most_steps, (source.depth - p + Words::depth - 1) / Words::depth);
    const std::uint32_t* group = vectors + p / Words::depth * most_skinny_vectors;
    for (std::size_t j = 0; j < source.lane_count; j += lanes) {
      uint32x16 words[most_steps][1];
      for (std::size_t q = 0; q < steps; ++q) {
        const std::size_t at = p + q * Words::depth;
        words[q][0] =
            load_interleaved<Words>(source, elements, at, j, std::min(lanes, source.lane_count - j),
                                    may_load_whole<Words>(source, at, j + lanes));
      }
      add_words<Words>(words, steps, group, count, sums + j, stride);
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
  const auto typed = source.of_type<T>();
  const std::size_t stride = (source.lane_count + lanes - 1) / lanes * lanes;
  std::fill_n(sums, count * stride, 0.0F);
  if (source.depth_stride != 1 && source.lane_stride == 1) {
    detail::multiply_interleaved<Words>(typed, count, vectors, sums, stride);
  } else {
    if constexpr (detail::multiplies_halves<Words, T>()) {
      if (count == 1 && typed.depth_stride == 1 && typed.depth >= detail::half_code_run &&
          detail::multiply_as_halves(typed, vectors, sums)) {
        return;
      }
    }
    detail::multiply_contiguous<Words>(typed, count, vectors, sums, stride);
  }
}

}  // namespace UNIT_SCALING_NAMESPACE::kernels

UNIT_SCALING_IEEE_END
