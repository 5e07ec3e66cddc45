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

namespace unit_scaling::kernels {

[[nodiscard]] inline double select_lane(bool mask, double if_true, double if_false) {
  return mask ? if_true : if_false;
}
[[nodiscard]] inline float32x16 select_lane(int32x16 mask, float32x16 if_true,
                                            float32x16 if_false) {
  return select(mask, if_true, if_false);
}

[[nodiscard]] inline double exp(double x) { return std::exp(x); }

/// e^x, within 1.1 ulp; 0 below −87.33 (the least normal float) and +∞ above 88.72; NaN for NaN.
[[nodiscard]] inline float32x16 exp(float32x16 x) {
  constexpr float log2_e = std::numbers::log2e_v<float>;
  // ln 2 in two parts, the first with few enough bits for n * ln2_high to be exact.
  constexpr float ln2_high = 0.693359375F;
  constexpr float ln2_low = -2.12194440e-4F;
  // Adding 1.5 * 2^23 leaves the nearest integer in the low bits of the sum.
  constexpr float round_to_integer = 0x1.8p23F;

  const float32x16 lowest = splat<float32x16>(-87.33654F);
  const float32x16 highest = splat<float32x16>(88.72283F);
  const float32x16 clamped = select(x < lowest, lowest, select(x > highest, highest, x));

  const float32x16 shifted = clamped * log2_e + round_to_integer;
  const float32x16 n = shifted - round_to_integer;
  const float32x16 r = (clamped - n * ln2_high) - n * ln2_low;
  // Minimax polynomial of Cephes' expf for (e^r − 1 − r) / r² on |r| ≤ ln(2) / 2.
  float32x16 p = r * 1.9875691500e-4F + 1.3981999507e-3F;
  p = p * r + 8.3334519073e-3F;
  p = p * r + 4.1665795894e-2F;
  p = p * r + 1.6666665459e-1F;
  p = p * r + 5.0000001201e-1F;
  p = p * (r * r) + r + 1.0F;
  // Scale by 2^n in two steps: 2^128 is no float, but p·2^127·2 is one.
  const int32x16 exponent =
      bit_cast_to<int32x16>(shifted) - bit_cast_to<int32x16>(splat<float32x16>(round_to_integer));
  const int32x16 half = exponent >> 1;
  const auto power_of_two = [](int32x16 e) { return bit_cast_to<float32x16>((e + 127) << 23); };
  const float32x16 result = p * power_of_two(half) * power_of_two(exponent - half);

  const float32x16 zero = splat<float32x16>(0);
  const float32x16 infinity = splat<float32x16>(HUGE_VALF);
  return select(x < lowest, zero, select(x > highest, infinity, result));
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

/// φ and Φ sharing one exponential: Φ(−a) = exp(−a²/2) t Q(t) with t = 1 / (1 + 0.3 a), a ≥ 0.
/// Absolute error of Φ below 2.4e-7; relative error below 3e-6 for x ≥ −9.
[[nodiscard]] inline Normal<float32x16> normal(float32x16 x) {
  constexpr float inv_sqrt_2pi = static_cast<float>(std::numbers::inv_sqrtpi / std::numbers::sqrt2);
  // Minimax fit to erfc(a/√2) exp(a²/2) / (2t) for 0 ≤ a ≤ 14, relative error 3.4e-9.
  constexpr std::array<float, 10> q{
      0.11968663449834528F, 0.11957283324124435F,  0.11022739043388913F, 0.0784252685875951F,
      0.09605872958580369F, -0.0792490151040114F,  0.1915837042598503F,  -0.22806901576914146F,
      0.11237641451436062F, -0.020612945971804936F};
  const float32x16 a = select(x < 0.0F, -x, x);
  const float32x16 t = 1.0F / (1.0F + 0.3F * a);
  float32x16 sum = splat<float32x16>(q.back());
  for (std::size_t i = q.size() - 1; i-- > 0;) sum = sum * t + q[i];
  const float32x16 e = exp(x * x * -0.5F);
  const float32x16 tail = e * (t * sum);
  return {e * inv_sqrt_2pi, select(x < 0.0F, tail, 1.0F - tail)};
}

/// 1 / (1 + e^−x).
template <class V> [[nodiscard]] inline V sigmoid(V x) { return 1.0F / (1.0F + exp(-x)); }

}  // namespace unit_scaling::kernels
