// SPDX-License-Identifier: MIT
/// @file
/// Layer kernels: the hyperbolic tangent on lanes.
#pragma once

#include <cmath>

#include "unit_scaling/core/multiply_add.hpp"
#include "unit_scaling/core/simd.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/kernels/elementary.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::kernels {

[[nodiscard]] inline double tanh(double x) { return std::tanh(x); }

/// tanh x, odd to the bit, within 3 units in the last place; NaN → NaN, ±∞ → ±1, ±0 → ±0.
///
/// Up to 5/8 an odd polynomial, as 1 − 2 / (e^2x + 1) would cancel there; its coefficients minimise
/// the largest relative error over that range (S. Moshier, Cephes, tanhf).
[[nodiscard, gnu::always_inline]] inline float32x16 tanh(float32x16 x) {
  const float32x16 magnitude = select_lane(x < 0, -x, x);
  const float32x16 square = x * x;
  float32x16 p = multiply_add(square, -5.70498872745e-3F, 2.06390887954e-2F);
  p = multiply_add(p, square, -5.37397155531e-2F);
  p = multiply_add(p, square, 1.33314422036e-1F);
  p = multiply_add(p, square, -3.33332819422e-1F);
  // Not x + x p x²: −0 would lose its sign.
  const float32x16 near_zero = x * multiply_add(p, square, 1.0F);
  // From 9.1 on the result is 1; the bound keeps e^2x finite. NaN compares as not above it.
  const float32x16 bounded = select_lane(magnitude > 10.0F, splat<float32x16>(10.0F), magnitude);
  const float32x16 far = 1.0F - 2.0F / (exp(bounded + bounded) + 1.0F);
  return select_lane(magnitude < 0.625F, near_zero, select_lane(x < 0, -far, far));
}

}  // namespace UNIT_SCALING_NAMESPACE::kernels

UNIT_SCALING_IEEE_END
