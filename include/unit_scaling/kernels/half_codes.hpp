// SPDX-License-Identifier: MIT
/// @file
/// Layer kernels: products of a matrix of codes of a byte with one vector, on AVX2 with F16C, which
/// converts binary16 numbers.
///
/// A code of FP8 whose bits are shifted is a binary16 number: that of the code, times a power of
/// two that depends on the format alone. The vector is multiplied with the inverse of that power,
/// exactly, so no product changes. Codes are transposed byte by byte, so that those of 16 rows
/// follow each other.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#if defined(__F16C__) && defined(__AVX2__) && defined(__FMA__) && !defined(__AVX512BW__)
#include <immintrin.h>
#endif

#include "unit_scaling/core/target.hpp"
#include "unit_scaling/formats/format_spec.hpp"
#include "unit_scaling/formats/minifloat.hpp"
#include "unit_scaling/kernels/ieee_arithmetic.hpp"

UNIT_SCALING_IEEE_BEGIN

// With AVX-512, bfloat16 numbers are made of codes in less time (kernels/byte_codes.hpp).
#if defined(__F16C__) && defined(__AVX2__) && defined(__FMA__) && !defined(__AVX512BW__)
#define UNIT_SCALING_HAS_HALF_CODES 1
#endif

namespace UNIT_SCALING_NAMESPACE::kernels {

/// Whether codes of a format become binary16 numbers when they are shifted, and the target has what
/// multiplies them. A NaN of all ones does not become a NaN: `multiply_half_codes` looks for it.
[[nodiscard]] constexpr bool has_half_codes(const FormatSpec& format) {
#if defined(UNIT_SCALING_HAS_HALF_CODES)
  // With five exponent bits, infinity and NaN are those of binary16. With fewer, no code becomes
  // one.
  const bool has_its_specials = format.exponent_bits == 5 ? format.specials == Specials::ieee
                                                          : format.specials == Specials::fn;
  // The power of two must not make numbers of the vector smaller, which would round some.
  return format.bits() == 8 && format.exponent_bits >= 3 && format.exponent_bits <= 5 &&
         format.bias >= 0 && format.bias <= 15 && has_its_specials;
#else
  static_cast<void>(format);
  return false;
#endif
}

namespace detail {

/// Codes of a row that are multiplied together.
inline constexpr std::size_t half_code_run = 32;

#if defined(UNIT_SCALING_HAS_HALF_CODES)

/// Interleaves the bytes of registers i and i + 8, four times, which transposes 16 x 16 bytes in
/// each half of the registers.
[[gnu::always_inline]] inline void transpose_bytes(__m256i (&rows)[16]) {
  for (int round = 0; round < 4; ++round) {
    __m256i next[16];
    for (std::size_t i = 0; i < 8; ++i) {
      next[2 * i] = _mm256_unpacklo_epi8(rows[i], rows[i + 8]);
      next[2 * i + 1] = _mm256_unpackhi_epi8(rows[i], rows[i + 8]);
    }
    for (std::size_t i = 0; i < 16; ++i) rows[i] = next[i];
  }
}

/// Writes the binary16 numbers of 32 codes of each of 16 rows to `halves`: those of a place follow
/// each other. Returns, for each byte, the greatest of `largest` and the magnitudes of the codes.
template <AnyMinifloat T>
[[gnu::always_inline]] inline __m256i make_halves(const T* const* rows, std::size_t begin,
                                                  std::uint16_t (&halves)[half_code_run][16],
                                                  __m256i largest) {
  constexpr int second_level = 2;
  constexpr std::size_t ahead = 128;  // bytes
  // Sixteen bits have a code in their upper byte. There it is one place too far to the left for
  // each exponent bit that binary16 has more.
  constexpr int shift = 5 - T::format.exponent_bits;
  const __m256i mask = _mm256_set1_epi16(static_cast<short>(0x8000 | (0x7f00 >> shift)));
  __m256i codes[16];
  for (std::size_t i = 0; i < 16; ++i) {
    codes[i] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(rows[i] + begin));
    __builtin_prefetch(rows[i] + begin + ahead, 0, second_level);
  }
  transpose_bytes(codes);
  for (std::size_t k = 0; k < 16; ++k) {
    largest = _mm256_max_epu8(largest, _mm256_and_si256(codes[k], _mm256_set1_epi8(0x7f)));
    // Places k and k + 16: rows 0 to 7 of both, and rows 8 to 15.
    __m256i low = _mm256_unpacklo_epi8(_mm256_setzero_si256(), codes[k]);
    __m256i high = _mm256_unpackhi_epi8(_mm256_setzero_si256(), codes[k]);
    if constexpr (shift != 0) {
      low = _mm256_and_si256(_mm256_srai_epi16(low, shift), mask);
      high = _mm256_and_si256(_mm256_srai_epi16(high, shift), mask);
    }
    const auto store = [&](std::size_t place, std::size_t row, __m128i eight)
        __attribute__((always_inline)) {
      _mm_store_si128(reinterpret_cast<__m128i*>(&halves[place][row]), eight);
    };
    store(k, 0, _mm256_castsi256_si128(low));
    store(k, 8, _mm256_castsi256_si128(high));
    store(k + 16, 0, _mm256_extracti128_si256(low, 1));
    store(k + 16, 8, _mm256_extracti128_si256(high, 1));
  }
  return largest;
}

#endif

}  // namespace detail

/// Numbers of a vector, multiplied so that their products with `multiply_half_codes` are those of
/// the codes. False, with nothing said of `to`, if some are too large for that, infinite or NaN.
template <AnyMinifloat T>
[[nodiscard]] bool scale_for_half_codes(const std::uint32_t* words, std::size_t stride,
                                        std::size_t count, float* to) {
  constexpr int exponent = 15 - T::format.bias;
  constexpr std::uint32_t factor = static_cast<std::uint32_t>(127 + exponent) << 23U;
  constexpr std::uint32_t too_large = 0x7f80'0000U - (static_cast<std::uint32_t>(exponent) << 23U);
  bool fits = true;
  for (std::size_t p = 0; p < count; ++p) {
    const std::uint32_t bits = words[p * stride];
    fits &= (bits & 0x7fff'ffffU) < too_large;
    to[p] = std::bit_cast<float>(bits) * std::bit_cast<float>(factor);
  }
  return fits;
}

/// Writes the sums of 16 rows' products with a vector, over the first `depth` elements of each: a
/// multiple of `half_code_run`. False, with nothing said of the sums, if the format's NaN has all
/// bits set and a code is that.
/// @param vector see `scale_for_half_codes`
template <AnyMinifloat T>
requires(has_half_codes(T::format))
    [[nodiscard]] bool multiply_half_codes(const T* const* rows, std::size_t depth,
                                           const float* vector, float* sums);

#if defined(UNIT_SCALING_HAS_HALF_CODES)
template <AnyMinifloat T>
requires(has_half_codes(T::format))
    [[gnu::noinline]] bool multiply_half_codes(const T* const* rows, std::size_t depth,
                                               const float* vector, float* sums) {
  using detail::half_code_run;
  alignas(32) std::uint16_t halves[half_code_run][16];
  __m256 low = _mm256_setzero_ps();  // of rows 0 to 7
  __m256 high = _mm256_setzero_ps();
  __m256i largest = _mm256_setzero_si256();
  for (std::size_t p = 0; p < depth; p += half_code_run) {
    largest = detail::make_halves(rows, p, halves, largest);
    for (std::size_t q = 0; q < half_code_run; ++q) {
      const __m256 x = _mm256_broadcast_ss(vector + p + q);
      const auto* eight = reinterpret_cast<const __m128i*>(&halves[q]);
      low = _mm256_fmadd_ps(_mm256_cvtph_ps(_mm_load_si128(eight)), x, low);
      high = _mm256_fmadd_ps(_mm256_cvtph_ps(_mm_load_si128(eight + 1)), x, high);
    }
  }
  _mm256_storeu_ps(sums, low);
  _mm256_storeu_ps(sums + 8, high);
  if constexpr (T::format.specials == Specials::fn) {
    const __m256i is_nan = _mm256_cmpeq_epi8(largest, _mm256_set1_epi8(0x7f));
    return _mm256_testz_si256(is_nan, is_nan) != 0;
  }
  return true;
}
#endif

}  // namespace UNIT_SCALING_NAMESPACE::kernels

UNIT_SCALING_IEEE_END
