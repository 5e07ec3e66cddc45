// SPDX-License-Identifier: MIT
/// @file
/// Layer scaling: the factors of one op.
#pragma once

#include <array>
#include <cmath>
#include <cstddef>
#include <string_view>

#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/target.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE {

/// The scale factors of an op f with `N` differentiable inputs: the forward pass computes
/// `y = forward · f(x…)`, the backward pass `dx_i = backward[i] · (∂f/∂x_i)ᵀ dy`.
/// All factors equal to one give f itself and its true gradient.
/// @see Blake et al. 2023, arXiv:2303.11257, section 4.
template <std::size_t N> struct Scales {
  double forward = 1;
  std::array<double, N> backward = [] {
    std::array<double, N> ones{};
    ones.fill(1);
    return ones;
  }();

  friend constexpr bool operator==(const Scales&, const Scales&) = default;
};

/// `size^-exponent`, the factor that gives a sum of `size` independent unit-variance terms unit
/// variance if the exponent is ½; 1 for an empty sum, which needs none.
[[nodiscard]] inline double inverse_power(std::size_t size, double exponent = 0.5) {
  if (size == 0) return 1;
  const auto base = static_cast<double>(size);
  return exponent == 0.5 ? 1 / std::sqrt(base) : std::pow(base, -exponent);
}

/// For an op that is told exponents of its sizes.
/// @throws DomainError unless each is as in `require_finite`.
template <std::size_t N>
void require_powers(std::string_view operation, const std::array<double, N>& powers) {
  for (const double power : powers) require_finite(operation, "a power", power);
}

/// For factors that follow from attributes: a power in range gives none of many sizes.
/// @throws DomainError unless each factor is as in `require_positive`.
template <std::size_t N> void require_factors(std::string_view operation, const Scales<N>& scales) {
  require_positive(operation, "a forward factor", scales.forward);
  for (const double factor : scales.backward) {
    require_positive(operation, "a backward factor", factor);
  }
}

}  // namespace UNIT_SCALING_NAMESPACE

UNIT_SCALING_IEEE_END
