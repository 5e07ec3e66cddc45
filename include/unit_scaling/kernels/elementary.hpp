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
#include <type_traits>

#include "unit_scaling/core/multiply_add.hpp"
#include "unit_scaling/core/simd.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/kernels/ieee_arithmetic.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::kernels {

/// 1, in the type of the lanes of V.
template <class V>
inline constexpr std::conditional_t<std::is_same_v<std::remove_const_t<V>, double>, double, float>
    one = 1;

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
  const float32x16 shifted = multiply_add(x, log2_e, round_to_integer);
  const float32x16 n = shifted - round_to_integer;
  const float32x16 r = multiply_add(n, -ln2_low, multiply_add(n, -ln2_high, x));
  // Minimax polynomial for e^r on |r| ≤ ln(2) / 2, relative error 4.3e-9.
  float32x16 p = multiply_add(r, 1.38144669e-3F, 8.36878041e-3F);
  p = multiply_add(p, r, 4.16683942e-2F);
  p = multiply_add(p, r, 1.66665201e-1F);
  p = multiply_add(p, r, 4.99999934e-1F);
  p = multiply_add(p, r * r, r) + 1.0F;
  // Times 2^n, by the exponent field: at its upper end p is below 1, at its lower end it is not.
  return bit_cast_to<float32x16>(bit_cast_to<uint32x16>(p) +
                                 (bit_cast_to<uint32x16>(shifted) << 23));
}

/// e^(−a²/2) is a normal number up to here.
inline constexpr float greatest_half_square_argument = 13.2F;

/// e^(−a²/2) for 0 ≤ a ≤ 13.2, with a relative error of (a²/2 + 2.8) 2^-24; of no meaning for NaN.
[[nodiscard, gnu::always_inline]] inline float32x16 exp_of_minus_half_square(float32x16 a) {
  constexpr float half_log2_e = std::numbers::log2e_v<float> / 2;
  const float32x16 square = a * a;
  const float32x16 shifted = multiply_add(square, -half_log2_e, round_to_integer);
  const float32x16 n = round_to_integer - shifted;
  const float32x16 r = multiply_add(n, 2 * ln2_low, multiply_add(n, 2 * ln2_high, -square));
  // Minimax polynomial for e^(r/2) on |r| ≤ ln 2, relative error 9.4e-8.
  float32x16 p = multiply_add(r, 2.59071003e-4F, 2.61863498e-3F);
  p = multiply_add(p, r, 2.08345477e-2F);
  p = multiply_add(p, r, 1.2499787e-1F);
  p = multiply_add(p, r, 4.99999853e-1F);
  p = multiply_add(p, r, 1.0F);
  return bit_cast_to<float32x16>(bit_cast_to<uint32x16>(p) +
                                 (bit_cast_to<uint32x16>(shifted) << 23));
}

}  // namespace detail

[[nodiscard]] inline double exp(double x) { return std::exp(x); }

/// e^x, within 1.1 ulp; 0 below −87.33 (the least normal float) and +∞ above 88.72; NaN for NaN.
[[nodiscard, gnu::always_inline]] inline float32x16 exp(float32x16 x) {
  const float32x16 lowest = splat<float32x16>(detail::least_exp_argument);
  const float32x16 highest = splat<float32x16>(detail::greatest_exp_argument);
  const float32x16 within = detail::exp_within_limits(least(highest, greatest(lowest, x)));
  const float32x16 infinity = splat<float32x16>(HUGE_VALF);
  return select(x < lowest, splat<float32x16>(0), select(x <= highest, within, x + infinity));
}

[[nodiscard]] inline double exp_of_nonpositive(double x) { return std::exp(x); }

/// As exp, for x ≤ 0 or NaN: fewer instructions.
[[nodiscard, gnu::always_inline]] inline float32x16 exp_of_nonpositive(float32x16 x) {
  const float32x16 lowest = splat<float32x16>(detail::least_exp_argument);
  const float32x16 bounded = greatest(lowest, x);
  // Where x is below the least argument, this difference is 0, and NaN for NaN.
  return select(x >= lowest, detail::exp_within_limits(bounded), bounded - lowest);
}

[[nodiscard]] inline double sqrt(double x) { return std::sqrt(x); }

/// √x, correctly rounded; NaN below zero.
[[nodiscard]] inline float32x16 sqrt(float32x16 x) { return square_root(x); }

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

/// φ and Φ sharing one exponential: Φ(−a) = exp(−a²/2) P(a) / Q(a), a ≥ 0. φ(x) and Φ(−|x|) are 0
/// for |x| above 13.2.
///
/// Absolute error of Φ below 2.1e-7; relative error below 3.5e-6 for x ≥ −9. Relative error of φ
/// below (x²/2 + 4.3) 2^-24 for |x| ≤ 13, where it is a normal number.
[[nodiscard, gnu::always_inline]] inline Normal<float32x16> normal(float32x16 x) {
  constexpr float inv_sqrt_2pi = static_cast<float>(std::numbers::inv_sqrtpi / std::numbers::sqrt2);
  constexpr float greatest = detail::greatest_half_square_argument;
  // Rational minimax fit to erfc(a/√2) exp(a²/2) / 2 for 0 ≤ a ≤ 13.25, relative error
  // 1.5e-7 (1 + a²/10): the further out, the more the exponential is off anyway. All coefficients
  // are positive, so nothing cancels; the first ones make Φ(0) ½.
  constexpr std::array<float, 4> p{0.5F, 0.347728282F, 0.111366041F, 0.0151166432F};
  constexpr std::array<float, 5> q{1.0F, 1.4933362F, 0.91429621F, 0.278823018F, 0.0379013307F};
  const auto magnitude = bit_cast_to<float32x16>(bit_cast_to<uint32x16>(x) & 0x7fff'ffffU);
  const float32x16 a = least(splat<float32x16>(greatest), magnitude);
  float32x16 numerator = multiply_add(a, p[3], p[2]);
  float32x16 denominator = multiply_add(a, q[4], q[3]);
  for (std::size_t i = 2; i-- > 0;) numerator = multiply_add(numerator, a, p[i]);
  for (std::size_t i = 3; i-- > 0;) denominator = multiply_add(denominator, a, q[i]);
  // Beyond the greatest argument this difference is 0, and NaN for NaN.
  const float32x16 e =
      select(magnitude <= greatest, detail::exp_of_minus_half_square(a), a - greatest);
  const float32x16 tail = e * numerator / denominator;
  return {e * inv_sqrt_2pi, select(x < 0.0F, tail, 1.0F - tail)};
}

/// 1 / (1 + e^−x).
template <class V> [[nodiscard, gnu::always_inline]] inline V sigmoid(V x) {
  return one<V> / (one<V> + exp(-x));
}

}  // namespace UNIT_SCALING_NAMESPACE::kernels

UNIT_SCALING_IEEE_END
