// SPDX-License-Identifier: MIT
/// @file
/// Layer kernels: logarithms and powers to base 2, on 16 floats at a time: what x^k is made of.
///
/// Without branches and tables. Their errors are measured against double by
/// tests/kernels/power_test.cpp, which fails if the bounds stated here are exceeded.
#pragma once

#include <array>
#include <cstddef>

#include "unit_scaling/core/multiply_add.hpp"
#include "unit_scaling/core/simd.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/kernels/elementary.hpp"
#include "unit_scaling/kernels/ieee_arithmetic.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::kernels {

/// log₂ of a number as a sum, so that a difference of two logarithms loses nothing to the size of
/// their exponents.
struct Log2 {
  float32x16 exponent;  ///< an integer
  float32x16 fraction;  ///< −½ to ½, within 2.5e-7; 0 for powers of two
};

/// log₂ x for finite x > 0; of no meaning for other numbers.
/// @tparam has_subnormals whether x may be subnormal: takes three more instructions.
template <bool has_subnormals = true>
[[nodiscard, gnu::always_inline]] inline Log2 log2_in_parts(float32x16 x) {
  // The bits of √½, from which on a significand belongs to the next exponent.
  constexpr std::uint32_t root_half = 0x3f35'04f3U;
  constexpr std::uint32_t least_normal = 0x0080'0000U;
  float32x16 lost = float32x16{};
  if constexpr (has_subnormals) {
    const int32x16 is_subnormal =
        is_less(bit_cast_to<int32x16>(x), bit_cast_to<int32x16>(splat<uint32x16>(least_normal)));
    lost = select(is_subnormal, splat<float32x16>(24), lost);
    x = select(is_subnormal, x * 0x1p24F, x);
  }
  const auto bits = bit_cast_to<uint32x16>(x);
  const int32x16 exponent = bit_cast_to<int32x16>(bits - root_half) >> 23;
  const auto significand = bit_cast_to<float32x16>(bits - (bit_cast_to<uint32x16>(exponent) << 23));
  const float32x16 f = significand - 1.0F;
  // Chebyshev interpolation of log₂(1 + f) / f for √½ ≤ 1 + f ≤ √2, absolute error of the product
  // with f 9.7e-8.
  constexpr std::array<float, 8> coefficients{1.44269499F,   -0.721352931F, 0.480916708F,
                                              -0.360225182F, 0.287288882F,  -0.249271822F,
                                              0.232652579F,  -0.142759734F};
  float32x16 p = splat<float32x16>(coefficients[7]);
  for (std::size_t i = 7; i-- > 0;) p = multiply_add(p, f, coefficients[i]);
  return {convert_to<float32x16>(exponent) - lost, p * f};
}

/// 2^x for −125 ≤ x ≤ 127, with a relative error below 3.5e-7; just 1 for 0. Of no meaning for
/// other numbers.
[[nodiscard, gnu::always_inline]] inline float32x16 exp2_within_limits(float32x16 x) {
  const float32x16 shifted = x + detail::round_to_integer;
  const float32x16 r = x - (shifted - detail::round_to_integer);
  // Chebyshev interpolation of (2^r − 1) / r for |r| ≤ ½.
  constexpr std::array<float, 5> coefficients{0.693147181F, 0.24022349F, 0.0555038101F,
                                              0.00966636852F, 0.00133813025F};
  float32x16 p = splat<float32x16>(coefficients[4]);
  for (std::size_t i = 4; i-- > 0;) p = multiply_add(p, r, coefficients[i]);
  p = multiply_add(p, r, 1.0F);
  return bit_cast_to<float32x16>(bit_cast_to<uint32x16>(p) +
                                 (bit_cast_to<uint32x16>(shifted) << 23));
}

}  // namespace UNIT_SCALING_NAMESPACE::kernels

UNIT_SCALING_IEEE_END
