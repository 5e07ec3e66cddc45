// SPDX-License-Identifier: MIT
/// @file
/// Layer kernels: operands of a matrix product, decoded into panels of 32-bit words.
///
/// A panel holds `width` lanes (rows of the left or columns of the right operand) along the whole
/// of a block of the inner dimension. A word is what one lane contributes in one step of the
/// multiplication: one float, or two bfloat16 numbers that follow each other.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#if defined(__AVX512VBMI__)
#include <immintrin.h>
#endif

#include "unit_scaling/core/simd.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/formats/convert.hpp"
#include "unit_scaling/kernels/ieee_arithmetic.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::kernels {

/// A word is one float.
struct FloatWords {
  static constexpr std::size_t depth = 1;  ///< elements of the inner dimension in a word

  /// Words of 16 lanes at one place of the inner dimension.
  [[gnu::always_inline]] static uint32x16 of(float32x16 value) {
    return bit_cast_to<uint32x16>(value);
  }
};

/// A word is two numbers that bfloat16 holds exactly, the earlier one in its upper half: the
/// instruction multiplies and adds that half first, so a chain of sums stays in ascending order.
struct Bfloat16Pairs {
  static constexpr std::size_t depth = 2;

  [[gnu::always_inline]] static uint32x16 of(float32x16 first, float32x16 second) {
    return (bit_cast_to<uint32x16>(first) & 0xffff'0000U) | (bit_cast_to<uint32x16>(second) >> 16);
  }
};

/// Whether bfloat16 holds every number of T, and neither a product of two such numbers nor a
/// difference of two sums of them can be below the smallest normal float, which the bfloat16
/// instructions take for zero.
template <class T> [[nodiscard]] constexpr bool is_exact_in_bfloat16_pairs() {
  if constexpr (AnyMinifloat<T>) {
    constexpr int smallest_safe_exponent = -63;
    return T::format.mantissa_bits <= 7 && T::format.has_zero() &&
           T::format.min_subnormal_exponent() >= smallest_safe_exponent &&
           T::format.max_exponent() <= 63;
  } else {
    return false;
  }
}

namespace detail {

/// Whether codes of T are looked up, 32 at a time, in a table of the bfloat16 numbers of its 128
/// magnitudes: a third of the instructions that computing them takes.
template <class T> [[nodiscard]] constexpr bool has_bfloat16_table() {
#if defined(__AVX512VBMI__) && defined(__AVX512BW__)
  if constexpr (AnyMinifloat<T>) return T::format.bits() == 8 && T::format.has_negative_zero();
#endif
  return false;
}

#if defined(__AVX512VBMI__) && defined(__AVX512BW__)
/// Lower and upper bytes of the bfloat16 numbers of the magnitude codes of T.
template <class T> struct Bfloat16Table {
  alignas(64) std::array<std::uint8_t, 128> lower{};
  alignas(64) std::array<std::uint8_t, 128> upper{};

  constexpr Bfloat16Table() {
    for (std::uint32_t code = 0; code < 128; ++code) {
      const std::uint32_t bits = unit_scaling::detail::decode_lanes(T::format, code);
      lower[code] = static_cast<std::uint8_t>(bits >> 16);
      upper[code] = static_cast<std::uint8_t>(bits >> 24);
    }
  }
};
template <class T> inline constexpr Bfloat16Table<T> bfloat16_table{};

/// Which of 32 codes is the first, and which the second, of each of 16 words.
struct PairOrder {
  alignas(64) std::array<std::uint8_t, 64> bytes{};

  /// Word i is of the codes step * i and second_offset after that.
  constexpr PairOrder(std::size_t step, std::size_t second_offset) {
    constexpr std::size_t from_upper = 64;
    for (std::size_t i = 0; i < lanes; ++i) {
      const std::size_t first = step * i;
      const std::size_t second = first + second_offset;
      bytes[4 * i] = static_cast<std::uint8_t>(second);
      bytes[4 * i + 1] = static_cast<std::uint8_t>(from_upper + second);
      bytes[4 * i + 2] = static_cast<std::uint8_t>(first);
      bytes[4 * i + 3] = static_cast<std::uint8_t>(from_upper + first);
    }
  }
};
inline constexpr PairOrder neighbours{2, 1};
inline constexpr PairOrder halves{1, lanes};

/// Lower and upper bytes of the bfloat16 numbers of codes.
struct Bfloat16Bytes {
  __m512i lower;
  __m512i upper;

  [[nodiscard, gnu::always_inline]] uint32x16 words(const PairOrder& order) const {
    return reinterpret_cast<uint32x16>(
        _mm512_permutex2var_epi8(lower, _mm512_load_si512(order.bytes.data()), upper));
  }
};

template <class T> [[nodiscard, gnu::always_inline]] inline Bfloat16Bytes look_up(__m512i codes) {
  const auto vector = [](const auto& bytes, std::size_t offset) __attribute__((always_inline)) {
    return _mm512_load_si512(bytes.data() + offset);
  };
  constexpr const auto& table = bfloat16_table<T>;
  const __m512i upper =
      _mm512_permutex2var_epi8(vector(table.upper, 0), codes, vector(table.upper, 64));
  constexpr int or_of_and = 0xf8;  // a | (b & c)
  return {.lower = _mm512_permutex2var_epi8(vector(table.lower, 0), codes, vector(table.lower, 64)),
          .upper = _mm512_ternarylogic_epi32(upper, codes,
                                             _mm512_set1_epi8(static_cast<char>(0x80)), or_of_and)};
}

/// Words of the first two and of the last two of every four codes, for each of 16 lanes.
struct TwoPairs {
  uint32x16 first;
  uint32x16 second;
};
template <class T> [[nodiscard, gnu::always_inline]] inline TwoPairs pairs_of_fours(__m512i codes) {
  // In each quarter of a register: the first pairs of its four lanes, then the second pairs, the
  // later code of a pair before the earlier one. Interleaving bytes then keeps the lanes in order;
  // it is twice as fast as to permute the bytes of two registers.
  const __m512i order = _mm512_maskz_broadcast_i32x4(
      0xffff, _mm_setr_epi8(1, 0, 5, 4, 9, 8, 13, 12, 3, 2, 7, 6, 11, 10, 15, 14));
  const Bfloat16Bytes bytes = look_up<T>(_mm512_shuffle_epi8(codes, order));
  return {.first = reinterpret_cast<uint32x16>(_mm512_unpacklo_epi8(bytes.lower, bytes.upper)),
          .second = reinterpret_cast<uint32x16>(_mm512_unpackhi_epi8(bytes.lower, bytes.upper))};
}
#endif

/// Words of 16 Words::depth elements of one lane that follow each other.
template <class Words, class T>
[[nodiscard, gnu::always_inline]] inline uint32x16 load_run(const T* from) {
  if constexpr (Words::depth == 1) {
    return Words::of(load_float(from));
  } else if constexpr (has_bfloat16_table<T>()) {
#if defined(__AVX512VBMI__) && defined(__AVX512BW__)
    __m256i codes;
    std::memcpy(&codes, from, sizeof(codes));
    return look_up<T>(_mm512_castsi256_si512(codes)).words(neighbours);
#endif
  } else {
    const auto low = bit_cast_to<uint32x16>(load_float(from));
    const auto high = bit_cast_to<uint32x16>(load_float(from + lanes));
    const uint32x16 even = __builtin_shufflevector(low, high, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20,
                                                   22, 24, 26, 28, 30);
    const uint32x16 odd = __builtin_shufflevector(low, high, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21,
                                                  23, 25, 27, 29, 31);
    return Words::of(bit_cast_to<float32x16>(even), bit_cast_to<float32x16>(odd));
  }
}

/// Words of 16 lanes that follow each other, of the rows at `first` and `second`.
template <class Words, class T>
[[nodiscard, gnu::always_inline]] inline uint32x16 load_two_rows(const T* first, const T* second) {
  if constexpr (has_bfloat16_table<T>()) {
#if defined(__AVX512VBMI__) && defined(__AVX512BW__)
    __m128i codes[2];
    std::memcpy(&codes[0], first, sizeof(codes[0]));
    std::memcpy(&codes[1], second, sizeof(codes[1]));
    return look_up<T>(_mm512_castsi256_si512(_mm256_set_m128i(codes[1], codes[0]))).words(halves);
#endif
  } else {
    return Words::of(load_float(first), load_float(second));
  }
}

/// Exchanges rows and columns of sixteen vectors: 4 x 4 blocks by interleaving words, then pairs of
/// words; then whole blocks.
[[gnu::always_inline]] inline void transpose_16x16(uint32x16 (&row)[lanes]) {
  for (std::size_t i = 0; i < lanes; i += 4) {
    const auto interleave_low = [](uint32x16 x, uint32x16 y) __attribute__((always_inline)) {
      return __builtin_shufflevector(x, y, 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13,
                                     29);
    };
    const auto interleave_high = [](uint32x16 x, uint32x16 y) __attribute__((always_inline)) {
      return __builtin_shufflevector(x, y, 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15,
                                     31);
    };
    const auto pairs_low = [](uint32x16 x, uint32x16 y) __attribute__((always_inline)) {
      return __builtin_shufflevector(x, y, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28,
                                     29);
    };
    const auto pairs_high = [](uint32x16 x, uint32x16 y) __attribute__((always_inline)) {
      return __builtin_shufflevector(x, y, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30,
                                     31);
    };
    const uint32x16 a = interleave_low(row[i], row[i + 1]);
    const uint32x16 b = interleave_high(row[i], row[i + 1]);
    const uint32x16 c = interleave_low(row[i + 2], row[i + 3]);
    const uint32x16 d = interleave_high(row[i + 2], row[i + 3]);
    row[i] = pairs_low(a, c);
    row[i + 1] = pairs_high(a, c);
    row[i + 2] = pairs_low(b, d);
    row[i + 3] = pairs_high(b, d);
  }
  const auto even_blocks = [](uint32x16 x, uint32x16 y) __attribute__((always_inline)) {
    return __builtin_shufflevector(x, y, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27);
  };
  const auto odd_blocks = [](uint32x16 x, uint32x16 y) __attribute__((always_inline)) {
    return __builtin_shufflevector(x, y, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30,
                                   31);
  };
  for (std::size_t i = 0; i < 4; ++i) {
    const uint32x16 a = even_blocks(row[i], row[i + 4]);
    const uint32x16 b = odd_blocks(row[i], row[i + 4]);
    const uint32x16 c = even_blocks(row[i + 8], row[i + 12]);
    const uint32x16 d = odd_blocks(row[i + 8], row[i + 12]);
    row[i] = even_blocks(a, c);
    row[i + 4] = even_blocks(b, d);
    row[i + 8] = odd_blocks(a, c);
    row[i + 12] = odd_blocks(b, d);
  }
}

/// As above, compiled once: for the ends of loops, where the call costs nothing that counts.
[[gnu::noinline]] inline void transpose_rarely(uint32x16 (&row)[lanes]) { transpose_16x16(row); }

}  // namespace detail

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
};

/// The same part of an operand, of which only the caller knows that its elements are of type T.
template <class T> [[nodiscard]] PanelSource<T> of_type(const PanelSource<void>& source) {
  return {.data = static_cast<const T*>(source.data),
          .lane_stride = source.lane_stride,
          .depth_stride = source.depth_stride,
          .lane_count = source.lane_count,
          .depth = source.depth,
          .lanes_readable = source.lanes_readable};
}

/// An operand of a product, as lanes of elements of any type: element (lane, p) of segment s is
/// `s * segment_stride + lane * lane_stride + p * depth_stride` elements from `data`.
///
/// What a product does between packing and rounding does not depend on what its operands hold. It
/// is given them in this form, and so compiled once for all pairs of types.
struct LaneOperand {
  const void* data;
  std::size_t element_bytes;
  std::size_t lane_stride;
  std::size_t depth_stride;
  std::size_t segment_stride;
  std::size_t lane_count;

  /// Elements [begin, begin + depth) of `count` lanes from `lane` on, or of those that there are.
  [[nodiscard]] PanelSource<void> part(std::size_t segment, std::size_t lane, std::size_t count,
                                       std::size_t begin, std::size_t depth) const {
    const std::size_t offset = segment * segment_stride + lane * lane_stride + begin * depth_stride;
    return {.data = static_cast<const std::byte*>(data) + offset * element_bytes,
            .lane_stride = lane_stride,
            .depth_stride = depth_stride,
            .lane_count = std::min(count, lane_count - lane),
            .depth = depth,
            .lanes_readable = lane_count - lane};
  }
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
template <class Words, class T>
[[nodiscard, gnu::always_inline]] inline uint32x16 load_interleaved(const PanelSource<T>& source,
                                                                    std::size_t p, std::size_t j,
                                                                    std::size_t count,
                                                                    bool is_whole) {
  const T* from = source.data + p * source.depth_stride + j;
  if constexpr (Words::depth == 1) {
    return Words::of(is_whole ? load_float(from) : load_float_partial(from, count));
  } else {
    const T* next = from + source.depth_stride;
    if (is_whole) return detail::load_two_rows<Words>(from, next);
    return Words::of(load_float_partial(from, count),
                     p + 1 < source.depth ? load_float_partial(next, count) : float32x16{});
  }
}

/// Words of memory for a panel: the last vectors written may reach beyond its last group.
[[nodiscard]] constexpr std::size_t panel_words(std::size_t groups, std::size_t width) {
  return (groups + lanes - 1) / lanes * lanes * width + lanes;
}

/// Packs lanes as ceil(depth / Words::depth) groups of `width` words, a group for each step of the
/// inner dimension. The last elements of a depth that fills no word are zeros; lanes beyond
/// `lane_count` are of no meaning. Writes no more than `panel_words` words.
///
/// The width is no template parameter: a kernel packs panels of several widths, and each would be
/// one more copy of all this to compile.
template <class Words, class T>
void pack_panel(const PanelSource<T>& source, std::size_t width, std::uint32_t* target) {
  const std::size_t lane_count = std::min(source.lane_count, width);
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
          unit_scaling::store(load_interleaved<Words>(source, p, j, count, is_whole), target + j);
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
    uint32x16 block[lanes];
    // Lanes beyond the last one repeat it.
    for (std::size_t i = 0; i < lanes; ++i) {
      block[i] = load_words(source.data + std::min(j + i, lane_count - 1) * source.lane_stride +
                            p * source.depth_stride);
    }
    transpose(block);
    std::uint32_t* to = target + p / Words::depth * width + j;
    for (std::size_t q = 0; q < lanes; ++q) unit_scaling::store(block[q], to + q * width);
  };
  const std::size_t whole = source.depth_stride == 1 ? source.depth / step * step : 0;
  for (std::size_t p = 0; p < whole; p += step) {
    for (std::size_t j = 0; j < lane_count; j += lanes) {
      pack_step(
          p, j,
          [](const T* from) {
            __builtin_prefetch(from + 4 * step);
            return detail::load_run<Words>(from);
          },
          [](auto& block) __attribute__((always_inline)) { detail::transpose_16x16(block); });
    }
  }
  for (std::size_t p = whole; p < source.depth; p += step) {
    const std::size_t run = std::min(step, source.depth - p);
    for (std::size_t j = 0; j < lane_count; j += lanes) {
      pack_step(
          p, j,
          [&](const T* from) {
            T elements[step] = {};
            for (std::size_t q = 0; q < run; ++q) elements[q] = from[q * source.depth_stride];
            return detail::load_run<Words>(elements);
          },
          detail::transpose_rarely);
    }
  }
}

/// As above, of a width known to the compiler.
template <class Words, std::size_t width, class T>
inline void pack_panel(const PanelSource<T>& source, std::uint32_t* target) {
  pack_panel<Words>(source, width, target);
}

}  // namespace UNIT_SCALING_NAMESPACE::kernels

UNIT_SCALING_IEEE_END
