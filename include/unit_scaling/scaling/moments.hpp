// SPDX-License-Identifier: MIT
/// @file
/// Layer scaling: closed-form moments of functions of a standard normal variable.
#pragma once

#include <cmath>
#include <numbers>

#include "unit_scaling/core/target.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::moments {

/// Var[x Φ(x)] for x ~ N(0,1), Φ its distribution function: 1/3 + 1/(2√3 π) − 1/(4π).
///
/// By Stein's lemma E[xΦ] = E[φ] = 1/(2√π); E[x²Φ²] follows from E[Φ²] = 1/3 by applying it twice.
inline constexpr double gelu_variance =
    1.0 / 3 + std::numbers::inv_sqrt3 * std::numbers::inv_pi / 2 - std::numbers::inv_pi / 4;

/// E[(Φ(x) + x φ(x))²], the mean square slope of GELU: 1/3 + 2/(3√3 π).
inline constexpr double gelu_mean_square_slope =
    1.0 / 3 + std::numbers::inv_sqrt3 * std::numbers::inv_pi * 2 / 3;

/// Var[x σ(x)] for x ~ N(0,1), σ the logistic sigmoid. It has no closed form; by quadrature, which
/// the tests repeat.
inline constexpr double silu_variance = 0.313083296994421;

/// E[(x σ(x))²], the mean square of SiLU, by quadrature.
inline constexpr double silu_mean_square = 0.3557755198173522;

/// E[(σ(x) + x σ'(x))²], the mean square slope of SiLU, by quadrature.
inline constexpr double silu_mean_square_slope = 0.37948235163282934;

/// Interpolates between two positive values on a logarithmic scale: `upper^weight
/// lower^(1−weight)`.
/// @see u-μP, arXiv:2407.17465, appendix on op scale factors.
[[nodiscard]] inline double log_interpolate(double weight, double upper, double lower) {
  return std::exp(weight * std::log(upper) + (1 - weight) * std::log(lower));
}

}  // namespace UNIT_SCALING_NAMESPACE::moments

UNIT_SCALING_IEEE_END
