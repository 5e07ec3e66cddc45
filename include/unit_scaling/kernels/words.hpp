// SPDX-License-Identifier: MIT
/// @file
/// Layer kernels: words, of which the panels of a matrix product are made.
///
/// A word is what one lane contributes in one step of the multiplication: one float, or two
/// bfloat16 numbers that follow each other.
#pragma once

#include <cstddef>
#include <cstdint>

#include "unit_scaling/core/simd.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/formats/format_spec.hpp"
#include "unit_scaling/formats/minifloat.hpp"
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

/// Whether bfloat16 holds every number of a format, and neither a product of two such numbers nor a
/// difference of two sums of them can be below the smallest normal float, which the bfloat16
/// instructions take for zero.
[[nodiscard]] constexpr bool is_exact_in_bfloat16_pairs(const FormatSpec& format) {
  constexpr int smallest_safe_exponent = -63;
  return format.mantissa_bits <= 7 && format.has_zero() &&
         format.min_subnormal_exponent() >= smallest_safe_exponent && format.max_exponent() <= 63;
}
template <class T> [[nodiscard]] constexpr bool is_exact_in_bfloat16_pairs() {
  if constexpr (AnyMinifloat<T>) return is_exact_in_bfloat16_pairs(T::format);
  return false;
}

/// The same of products with attention's weights, which are multiples of 2^-71: see
/// `least_attention_weight`.
[[nodiscard]] constexpr bool is_exact_in_pairs_with_weights(const FormatSpec& format) {
  constexpr int smallest_safe_exponent = -55;
  return is_exact_in_bfloat16_pairs(format) &&
         format.min_subnormal_exponent() >= smallest_safe_exponent;
}
template <class T> [[nodiscard]] constexpr bool is_exact_in_pairs_with_weights() {
  if constexpr (AnyMinifloat<T>) return is_exact_in_pairs_with_weights(T::format);
  return false;
}

}  // namespace UNIT_SCALING_NAMESPACE::kernels

UNIT_SCALING_IEEE_END
