// SPDX-License-Identifier: MIT
/// @file
/// Layer kernels: weights of attention and gradients of its scores as operands of products.
///
/// Both are made in `Compute` and then enter products with stored operands. They may be rounded to
/// bfloat16 for that. Then a target with fast bfloat16 instructions multiplies them in pairs, twice
/// as fast as floats, and any other one widens them and multiplies floats. Both give the same
/// chains of fused steps, to the bit, for nothing that they meet is below the smallest normal
/// float, which the instructions take for zero: see `least_attention_weight`.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

#include "unit_scaling/core/multiply_add.hpp"
#include "unit_scaling/core/simd.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/formats/catalogue.hpp"
#include "unit_scaling/kernels/lanes.hpp"
#include "unit_scaling/kernels/packing.hpp"
#include "unit_scaling/kernels/tile.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::kernels {

/// What is rounded to bfloat16 and is then smaller in magnitude counts as zero. The rest are
/// multiples of 2^-71, so their products with operands that are multiples of 2^-55 are multiples
/// of the smallest normal float, and so is every sum of them.
inline constexpr float least_attention_weight = 0x1p-64F;

/// x in the nearest bfloat16 number, of two the even one; +0 if that is smaller in magnitude than
/// `least_attention_weight`.
[[nodiscard, gnu::always_inline]] inline float32x16 round_attention_weight(float32x16 x) {
  constexpr std::uint32_t upper_half = 0xffff'0000U;
  constexpr std::uint32_t magnitude = 0x7fff'ffffU;
  constexpr std::uint32_t quiet = 0x0040'0000U;
  constexpr std::uint32_t infinity = 0x7f80'0000U;
  const auto bits = bit_cast_to<uint32x16>(x);
  const auto is_nan = is_less(splat<int32x16>(infinity), bit_cast_to<int32x16>(bits & magnitude));
  const uint32x16 nearest = bits + 0x7fffU + ((bits >> 16) & 1U);
  const uint32x16 rounded = select(is_nan, bits | quiet, nearest) & upper_half;
  const auto is_small = is_less(bit_cast_to<int32x16>(rounded & magnitude),
                                bit_cast_to<int32x16>(splat<float32x16>(least_attention_weight)));
  return bit_cast_to<float32x16>(select(is_small, uint32x16{}, rounded));
}

/// 2^x for x ≤ 0, with a relative error below 4e-6, a thousandth of what rounding to bfloat16 then
/// does to it; 0 for x below −63.5, 1 for 0, NaN for NaN.
[[nodiscard, gnu::always_inline]] inline float32x16 exp2_of_nonpositive(float32x16 x) {
  constexpr float round_to_integer = 0x1.8p23F;
  const float32x16 shifted = x + round_to_integer;
  const float32x16 r = x - (shifted - round_to_integer);
  // Minimax polynomial for 2^r on |r| ≤ 1/2, with the last coefficient given.
  float32x16 p = multiply_add(r, 0x1.409104p-7F, 0x1.ca9008p-5F);
  p = multiply_add(p, r, 0x1.ebf1b4p-3F);
  p = multiply_add(p, r, 0x1.62dfcap-1F);
  p = multiply_add(p, r, 1.0F);
  const auto within =
      bit_cast_to<float32x16>(bit_cast_to<uint32x16>(p) + (bit_cast_to<uint32x16>(shifted) << 23));
  const auto is_zero = is_less(shifted, splat<float32x16>(round_to_integer - 63));
  return select(is_zero, float32x16{}, within);
}

namespace detail {

/// How numbers of 32 bits are permuted, which are the halves of 16 words: word i gets number
/// `offset` + i of one row in its lower half, and of another row in its upper half.
struct RowPairOrder {
  alignas(64) std::array<std::uint16_t, 2 * lanes> numbers{};

  explicit constexpr RowPairOrder(std::size_t offset) {
    for (std::size_t i = 0; i < lanes; ++i) {
      numbers[2 * i] = static_cast<std::uint16_t>(offset + i);
      numbers[2 * i + 1] = static_cast<std::uint16_t>(2 * lanes + offset + i);
    }
  }
};
inline constexpr std::array<RowPairOrder, 2> row_pair_orders{RowPairOrder(0), RowPairOrder(lanes)};

/// 32 weights of one key, rounded to bfloat16: as `round_attention_weight` gives them, but that
/// small ones remain until `without_small`. As operands they are words of `Bfloat16Pairs`.
class RoundedWeights {
#if defined(__AVX512BF16__) && defined(__AVX512F__)
 public:
  [[gnu::always_inline]] RoundedWeights(float32x16 low, float32x16 high)
      : numbers_(reinterpret_cast<__m512i>(
            _mm512_cvtne2ps_pbh(reinterpret_cast<__m512>(high), reinterpret_cast<__m512>(low)))) {}

  [[nodiscard, gnu::always_inline]] RoundedWeights without_small() const {
    // Doubled, a number loses its sign; 0x1f80 is the code of the least weight.
    const __mmask32 is_kept = _mm512_cmpge_epu16_mask(_mm512_add_epi16(numbers_, numbers_),
                                                      _mm512_set1_epi16(2 * 0x1f80));
    return RoundedWeights(_mm512_maskz_mov_epi16(is_kept, numbers_));
  }

  /// Words of lanes that follow each other.
  [[nodiscard, gnu::always_inline]] uint32x16 lane_pairs() const {
    const auto words = reinterpret_cast<uint32x16>(numbers_);
    return (words << 16) | (words >> 16);
  }

  /// Words of each lane of `half`, the lower (0) or the upper (1), of this key and of the next one.
  [[nodiscard, gnu::always_inline]] uint32x16 key_pairs(const RoundedWeights& next,
                                                        std::size_t half) const {
    return reinterpret_cast<uint32x16>(_mm512_permutex2var_epi16(
        next.numbers_, _mm512_load_si512(row_pair_orders[half].numbers.data()), numbers_));
  }

 private:
  explicit RoundedWeights(__m512i numbers) : numbers_(numbers) {}

  __m512i numbers_;
#else
 public:
  RoundedWeights(float32x16 low, float32x16 high)
      : halves_{round_attention_weight(low), round_attention_weight(high)} {}

  [[nodiscard]] RoundedWeights without_small() const { return *this; }

  [[nodiscard]] uint32x16 lane_pairs() const {
    const auto& [low, high] = halves_;
    return Bfloat16Pairs::of(even_lanes(low, high), odd_lanes(low, high));
  }

  [[nodiscard]] uint32x16 key_pairs(const RoundedWeights& next, std::size_t half) const {
    return Bfloat16Pairs::of(halves_[half], next.halves_[half]);
  }

 private:
  std::array<float32x16, 2> halves_;
#endif
};

}  // namespace detail

}  // namespace UNIT_SCALING_NAMESPACE::kernels

UNIT_SCALING_IEEE_END
