// SPDX-License-Identifier: MIT
/// @file
/// Layer kernels: how a product decodes the elements of its operands: those of a
/// storage type, or codes that it looks up, whose format is known at run time only.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#include "unit_scaling/core/simd.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/formats/convert.hpp"
#include "unit_scaling/formats/minifloat.hpp"
#include "unit_scaling/kernels/code_table.hpp"
#include "unit_scaling/kernels/words.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::kernels {

namespace detail {

#if defined(__AVX512VBMI__) && defined(__AVX512BW__)
/// Which bytes of looked-up codes make each of 16 words.
struct WordOrder {
  alignas(64) std::array<std::uint8_t, 64> bytes{};

  /// Word i is of the codes step * i and second_offset after that.
  constexpr WordOrder(std::size_t step, std::size_t second_offset) {
    for (std::size_t i = 0; i < lanes; ++i) {
      put(i, 2, step * i);
      put(i, 0, step * i + second_offset);
    }
  }

 private:
  constexpr void put(std::size_t word, std::size_t half, std::size_t code) {
    constexpr std::size_t from_upper = 64;
    bytes[4 * word + half] = static_cast<std::uint8_t>(code);
    bytes[4 * word + half + 1] = static_cast<std::uint8_t>(from_upper + code);
  }
};
inline constexpr WordOrder neighbours{2, 1};
inline constexpr WordOrder halves{1, lanes};

/// Where 64 codes of a lane go, so that interleaving the bytes that they stand for makes words in
/// order: in each quarter of a register, those of four words, then those of the four words that are
/// 16 further, the later code of a word before the earlier one.
struct RunOrder {
  alignas(64) std::array<std::uint8_t, 64> bytes{};

  constexpr RunOrder() {
    for (std::size_t i = 0; i < 64; ++i) {
      const std::size_t quarter = i / 16;
      const std::size_t half = i % 16 / 8;
      bytes[i] = static_cast<std::uint8_t>(32 * half + 8 * quarter + (i % 8 ^ 1U));
    }
  }
};
inline constexpr RunOrder run_order;

/// Lower and upper bytes of the bfloat16 numbers of codes.
struct Bfloat16Bytes {
  __m512i lower;
  __m512i upper;

  [[nodiscard, gnu::always_inline]] uint32x16 words(const WordOrder& order) const {
    return reinterpret_cast<uint32x16>(
        _mm512_permutex2var_epi8(lower, _mm512_load_si512(order.bytes.data()), upper));
  }
};
#endif

}  // namespace detail

/// How a product decodes elements of storage type T.
template <class T> struct StoredElements {
  using Element = T;

  /// Whether words of pairs come from four codes at a time, by `pairs_of_fours`.
  static constexpr bool has_fours = false;

  /// Sixteen elements that follow each other.
  [[nodiscard, gnu::always_inline]] float32x16 floats(const T* from) const {
    return load_float(from);
  }
  /// The first `count` of them, and zeros.
  [[nodiscard, gnu::always_inline]] float32x16 floats(const T* from, std::size_t count) const {
    return load_float_partial(from, count);
  }

  /// Words of 16 Words::depth elements of one lane that follow each other.
  template <class Words> [[nodiscard, gnu::always_inline]] uint32x16 run(const T* from) const {
    if constexpr (Words::depth == 1) {
      return Words::of(load_float(from));
    } else if constexpr (std::is_same_v<T, bfloat16>) {
      // In memory the earlier number is the lower half of a word.
      uint32x16 words;
      std::memcpy(&words, from, sizeof(words));
      return words << 16 | words >> 16;
    } else {
      const auto low = bit_cast_to<uint32x16>(load_float(from));
      const auto high = bit_cast_to<uint32x16>(load_float(from + lanes));
      return Words::of(bit_cast_to<float32x16>(even_lanes(low, high)),
                       bit_cast_to<float32x16>(odd_lanes(low, high)));
    }
  }

  /// Pairs of 16 lanes that follow each other, of the rows at `first` and `second`.
  [[nodiscard, gnu::always_inline]] uint32x16 two_rows(const T* first, const T* second) const {
    return Bfloat16Pairs::of(load_float(first), load_float(second));
  }
};

/// How a product decodes codes of a byte each that are looked up.
class TableElements {
 public:
  using Element = std::uint8_t;

  [[nodiscard, gnu::always_inline]] float32x16 floats(const std::uint8_t* from,
                                                      std::size_t count) const {
    std::uint8_t codes[lanes] = {};  // of zeros
    for (std::size_t i = 0; i < count; ++i) codes[i] = from[i];
    return floats(codes);
  }

#if defined(__AVX512VBMI__) && defined(__AVX512BW__)
  explicit TableElements(const CodeTable* table)
      : lower_{load_part(table->lower.data()), load_part(table->lower.data() + 64)},
        upper_{load_part(table->upper.data()), load_part(table->upper.data() + 64)} {}

  static constexpr bool has_fours = true;

  [[nodiscard, gnu::always_inline]] float32x16 floats(const std::uint8_t* from) const {
    __m128i codes;
    std::memcpy(&codes, from, sizeof(codes));
    return bit_cast_to<float32x16>(look_up(_mm512_castsi128_si512(codes)).words(detail::halves) &
                                   0xffff'0000U);
  }

  /// Two words for each of 16 lanes or places.
  struct TwoPairs {
    uint32x16 first;
    uint32x16 second;
  };

  /// Pairs of 64 codes of one lane that follow each other, 16 words and 16 more.
  [[nodiscard, gnu::always_inline]] TwoPairs pairs_of_run(const std::uint8_t* from) const {
    __m512i codes;
    std::memcpy(&codes, from, sizeof(codes));
    return interleaved(look_up(_mm512_maskz_permutexvar_epi8(
        ~__mmask64{0}, _mm512_load_si512(detail::run_order.bytes.data()), codes)));
  }

  template <class Words>
  [[nodiscard, gnu::always_inline]] uint32x16 run(const std::uint8_t* from) const {
    if constexpr (Words::depth == 1) {
      return Words::of(floats(from));
    } else {
      __m256i codes;
      std::memcpy(&codes, from, sizeof(codes));
      return look_up(_mm512_castsi256_si512(codes)).words(detail::neighbours);
    }
  }

  [[nodiscard, gnu::always_inline]] uint32x16 two_rows(const std::uint8_t* first,
                                                       const std::uint8_t* second) const {
    __m128i codes[2];
    std::memcpy(&codes[0], first, sizeof(codes[0]));
    std::memcpy(&codes[1], second, sizeof(codes[1]));
    return look_up(_mm512_castsi256_si512(_mm256_set_m128i(codes[1], codes[0])))
        .words(detail::halves);
  }

  /// Words of the first two and of the last two of every four codes, for each of 16 lanes.
  [[nodiscard, gnu::always_inline]] TwoPairs pairs_of_fours(__m512i codes) const {
    // In each quarter of a register: the first pairs of its four lanes, then the second pairs, the
    // later code of a pair before the earlier one. Interleaving bytes then keeps the lanes in
    // order; it is twice as fast as to permute the bytes of two registers.
    const __m512i order = _mm512_maskz_broadcast_i32x4(
        0xffff, _mm_setr_epi8(1, 0, 5, 4, 9, 8, 13, 12, 3, 2, 7, 6, 11, 10, 15, 14));
    return interleaved(look_up(_mm512_shuffle_epi8(codes, order)));
  }

 private:
  [[nodiscard, gnu::always_inline]] static TwoPairs interleaved(
      const detail::Bfloat16Bytes& bytes) {
    return {.first = reinterpret_cast<uint32x16>(_mm512_unpacklo_epi8(bytes.lower, bytes.upper)),
            .second = reinterpret_cast<uint32x16>(_mm512_unpackhi_epi8(bytes.lower, bytes.upper))};
  }
  [[nodiscard, gnu::always_inline]] detail::Bfloat16Bytes look_up(__m512i codes) const {
    constexpr int or_of_and = 0xf8;  // a | (b & c)
    return {.lower = _mm512_permutex2var_epi8(lower_[0], codes, lower_[1]),
            .upper = _mm512_ternarylogic_epi32(
                _mm512_permutex2var_epi8(upper_[0], codes, upper_[1]), codes,
                _mm512_set1_epi8(static_cast<char>(0x80)), or_of_and)};
  }

  [[nodiscard, gnu::always_inline]] static __m512i load_part(const std::uint8_t* from) {
    return _mm512_load_si512(from);
  }

  // In registers: what is in memory might change with every store, for all the compiler knows.
  __m512i lower_[2];
  __m512i upper_[2];
#else
  explicit TableElements(const CodeTable* table) : numbers_(table->numbers.data()) {}

  static constexpr bool has_fours = false;

  [[nodiscard, gnu::always_inline]] float32x16 floats(const std::uint8_t* from) const {
#if defined(__AVX512F__)
    __m128i codes;
    std::memcpy(&codes, from, sizeof(codes));
// Without optimisation it is a macro of GCC's that converts the mask.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wsign-conversion"
    return reinterpret_cast<float32x16>(_mm512_mask_i32gather_ps(
        _mm512_setzero_ps(), 0xffff, _mm512_maskz_cvtepu8_epi32(0xffff, codes), numbers_,
        sizeof(float)));
#pragma GCC diagnostic pop
#else
    float32x16 result;
    for (std::size_t i = 0; i < lanes; ++i) result[i] = numbers_[from[i]];
    return result;
#endif
  }

  template <class Words>
  [[nodiscard, gnu::always_inline]] uint32x16 run(const std::uint8_t* from) const {
    if constexpr (Words::depth == 1) {
      return Words::of(floats(from));
    } else {
      float numbers[2 * lanes];
      for (std::size_t i = 0; i < 2 * lanes; ++i) numbers[i] = numbers_[from[i]];
      return StoredElements<float>().run<Words>(numbers);
    }
  }

  [[nodiscard, gnu::always_inline]] uint32x16 two_rows(const std::uint8_t* first,
                                                       const std::uint8_t* second) const {
    return Bfloat16Pairs::of(floats(first), floats(second));
  }

 private:
  const float* numbers_;
#endif
};

/// How a product decodes elements of storage type T, or codes that it looks up in the table if T is
/// `std::uint8_t`.
template <class T>
[[nodiscard, gnu::always_inline]] inline auto elements_of([[maybe_unused]] const CodeTable* table) {
  if constexpr (std::is_same_v<T, std::uint8_t>) {
    return TableElements{table};
  } else {
    return StoredElements<T>{};
  }
}

/// The table of a storage type.
template <AnyMinifloat T> inline constexpr CodeTable code_table{T::format};

/// What a product packs an array of T as: codes of a byte if the target looks them up, else T.
template <class T> [[nodiscard]] constexpr bool is_looked_up() {
  if constexpr (AnyMinifloat<T>) return looks_codes_up_fast && has_code_table(T::format);
  return false;
}

}  // namespace UNIT_SCALING_NAMESPACE::kernels

UNIT_SCALING_IEEE_END
