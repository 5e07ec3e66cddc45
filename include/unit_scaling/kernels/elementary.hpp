// SPDX-License-Identifier: MIT
/// @file
/// Layer kernels: exp and the normal distribution, on 16 floats at a time and on a double.
///
/// The float forms have no branches and no tables; their errors are measured against double by
/// tests/kernels/elementary_test.cpp, which fails if the bounds stated here are exceeded.
#pragma once

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numbers>

#if defined(__AVX512F__)
#include <immintrin.h>  // the one vector instruction that no operator spells: square root
#endif

#include "unit_scaling/core/simd.hpp"
#include "unit_scaling/kernels/ieee_arithmetic.hpp"

namespace unit_scaling::kernels {

[[nodiscard]] inline double select_lane(bool mask, double if_true, double if_false) {
  return mask ? if_true : if_false;
}
[[nodiscard]] inline float32x16 select_lane(int32x16 mask, float32x16 if_true,
                                            float32x16 if_false) {
  return select(mask, if_true, if_false);
}

namespace detail {

/// ln 2 in two parts, the first with few enough bits for its product with an exponent to be exact.
inline constexpr float ln2_high = 0.693359375F;
inline constexpr float ln2_low = -2.12194440e-4F;
/// Adding 1.5 · 2^23 leaves the nearest integer in the low bits of the sum.
inline constexpr float round_to_integer = 0x1.8p23F;
inline constexpr float least_exp_argument = -87.33654F;    ///< e^x is the least normal float
inline constexpr float greatest_exp_argument = 88.72283F;  ///< e^x is just below 2^128

/// e^x within 1.1 ulp, for x between the two limits; of no meaning for NaN.
[[nodiscard, gnu::always_inline]] inline float32x16 exp_within_limits(float32x16 x) {
  constexpr float log2_e = std::numbers::log2e_v<float>;
  const float32x16 shifted = x * log2_e + round_to_integer;
  const float32x16 n = shifted - round_to_integer;
  const float32x16 r = (x - n * ln2_high) - n * ln2_low;
  // Minimax polynomial of Cephes' expf for (e^r − 1 − r) / r² on |r| ≤ ln(2) / 2.
  float32x16 p = r * 1.9875691500e-4F + 1.3981999507e-3F;
  p = p * r + 8.3334519073e-3F;
  p = p * r + 4.1665795894e-2F;
  p = p * r + 1.6666665459e-1F;
  p = p * r + 5.0000001201e-1F;
  p = p * (r * r) + r + 1.0F;
  // Times 2^n, by the exponent field: at its upper end p is below 1, at its lower end it is not.
  return bit_cast_to<float32x16>(bit_cast_to<uint32x16>(p) +
                                 (bit_cast_to<uint32x16>(shifted) << 23));
}

}  // namespace detail

[[nodiscard]] inline double exp(double x) { return std::exp(x); }

/// e^x, within 1.1 ulp; 0 below −87.33 (the least normal float) and +∞ above 88.72; NaN for NaN.
[[nodiscard]] inline float32x16 exp(float32x16 x) {
  const float32x16 lowest = splat<float32x16>(detail::least_exp_argument);
  const float32x16 highest = splat<float32x16>(detail::greatest_exp_argument);
  const float32x16 within = detail::exp_within_limits(least(highest, greatest(lowest, x)));
  const float32x16 infinity = splat<float32x16>(HUGE_VALF);
  return select(x < lowest, splat<float32x16>(0), select(x <= highest, within, x + infinity));
}

[[nodiscard]] inline double exp_of_nonpositive(double x) { return std::exp(x); }

/// As exp, for x ≤ 0 or NaN: fewer instructions.
[[nodiscard]] inline float32x16 exp_of_nonpositive(float32x16 x) {
  const float32x16 lowest = splat<float32x16>(detail::least_exp_argument);
  const float32x16 bounded = greatest(lowest, x);
  // Where x is below the least argument, this difference is 0, and NaN for NaN.
  return select(x >= lowest, detail::exp_within_limits(bounded), bounded - lowest);
}

/// exp(−x²/2), with a relative error of (x²/2 + 2.2) 2^-24; 0 for x²/2 above 87.33, NaN for NaN.
[[nodiscard, gnu::always_inline]] inline float32x16 exp_of_minus_half_square(float32x16 x) {
  constexpr float log2_e = std::numbers::log2e_v<float>;
  constexpr float greatest = -detail::least_exp_argument;
  const float32x16 half_square = x * x * 0.5F;
  const float32x16 bounded = least(splat<float32x16>(greatest), half_square);
  const float32x16 shifted = detail::round_to_integer - bounded * log2_e;
  const float32x16 n = detail::round_to_integer - shifted;
  const float32x16 r = (n * detail::ln2_high - bounded) + n * detail::ln2_low;
  // Minimax polynomial for (e^r − 1 − r) / r² on |r| ≤ ln(2) / 2, which is off by 1.3e-7 of it.
  float32x16 p = r * 1.39012875e-3F + 8.36314635e-3F;
  p = p * r + 4.16668534e-2F;
  p = p * r + 1.66665773e-1F;
  p = p * r + 4.99999996e-1F;
  p = p * r + 1.0F;
  p = p * r + 1.0F;
  const float32x16 within =
      bit_cast_to<float32x16>(bit_cast_to<uint32x16>(p) + (bit_cast_to<uint32x16>(shifted) << 23));
  // Where the half square is above its bound, this difference is 0, and NaN for NaN.
  return select(half_square <= greatest, within, bounded - greatest);
}

[[nodiscard]] inline double sqrt(double x) { return std::sqrt(x); }

/// √x, correctly rounded; NaN below zero.
[[nodiscard]] inline float32x16 sqrt(float32x16 x) {
#if defined(__AVX512F__)
  return reinterpret_cast<float32x16>(_mm512_maskz_sqrt_ps(0xFFFF, reinterpret_cast<__m512>(x)));
#else
  // std::sqrt may set errno, which keeps compilers from using the vector instruction by themselves.
  for (std::size_t i = 0; i < lanes; ++i) x[i] = std::sqrt(x[i]);
  return x;
#endif
}

/// φ and Φ of one argument: the density and the distribution function of N(0, 1).
template <class V> struct Normal {
  V density;
  V distribution;
};

/// Φ(x) by the complementary error function, φ(x) = exp(−x²/2) / √(2π).
[[nodiscard]] inline Normal<double> normal(double x) {
  constexpr double inv_sqrt_2pi = std::numbers::inv_sqrtpi / std::numbers::sqrt2;
  return {std::exp(-x * x / 2) * inv_sqrt_2pi, std::erfc(-x / std::numbers::sqrt2) / 2};
}

/// φ and Φ sharing one exponential: Φ(−a) = exp(−a²/2) P(a) / Q(a), a ≥ 0.
/// Absolute error of Φ below 2.4e-7; relative error below 3e-6 for x ≥ −9.
[[nodiscard]] inline Normal<float32x16> normal(float32x16 x) {
  constexpr float inv_sqrt_2pi = static_cast<float>(std::numbers::inv_sqrtpi / std::numbers::sqrt2);
  // Rational minimax fit to erfc(a/√2) exp(a²/2) / 2 for 0 ≤ a ≤ 14, relative error 5.5e-9. All
  // coefficients are positive: nothing cancels.
  constexpr std::array<float, 5> p{0.5000000027451909F, 0.43724948389835333F, 0.1824606845933169F,
                                   0.0403721412063081F, 0.004077540527425166F};
  constexpr std::array<float, 6> q{1.0F,
                                   1.6723839226151849F,
                                   1.1992861649116409F,
                                   0.4674260505815546F,
                                   0.10120476074284433F,
                                   0.010220749622215137F};
  // Beyond 14 the exponential is 0 and so is the tail; NaN passes.
  const float32x16 a = least(splat<float32x16>(14.0F), select(x < 0.0F, -x, x));
  float32x16 numerator = a * p[4] + p[3];
  float32x16 denominator = a * q[5] + q[4];
  for (std::size_t i = 3; i-- > 0;) numerator = numerator * a + p[i];
  for (std::size_t i = 4; i-- > 0;) denominator = denominator * a + q[i];
  const float32x16 e = exp_of_minus_half_square(x);
  const float32x16 tail = e * numerator / denominator;
  return {e * inv_sqrt_2pi, select(x < 0.0F, tail, 1.0F - tail)};
}

/// 1 / (1 + e^−x).
template <class V> [[nodiscard]] inline V sigmoid(V x) { return 1.0F / (1.0F + exp(-x)); }

}  // namespace unit_scaling::kernels
