// SPDX-License-Identifier: MIT
/// @file
/// Layer optim: gradient clipping by the norm of all gradients together.
///
/// An optimiser clips by itself if its options say so:
///
///     optim::AdamW adam(parameters, {.max_norm = 1e4});
///     …
///     adam.step(tape, rate);
///     adam.last_gradient_norm();  // before clipping
///
/// The functions here are for a loop that steps in a way of its own.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <memory_resource>
#include <vector>

#include "unit_scaling/autograd/parameter.hpp"
#include "unit_scaling/core/arithmetic.hpp"
#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/memory.hpp"
#include "unit_scaling/core/parallel_for.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/kernels/map.hpp"
#include "unit_scaling/optim/gradient_source.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::optim {

namespace detail {

/// Σ x², in double, over fixed pieces that are added up in order.
template <class T> [[nodiscard]] double sum_of_squares(const T* elements, std::size_t size) {
  const std::size_t pieces = (size + kernels::map_grain - 1) / kernels::map_grain;
  std::pmr::vector<double> sums(pieces, &scratch_memory());
  parallel_for(pieces, [&](std::size_t piece) {
    const std::size_t end = std::min(size, (piece + 1) * kernels::map_grain);
    double sum = 0;
    for (std::size_t i = piece * kernels::map_grain; i < end; ++i) {
      const auto element = static_cast<double>(elements[i]);
      sum += element * element;
    }
    sums[piece] = sum;
  });
  double total = 0;
  for (const double sum : sums) total += sum;
  return total;
}

/// Σ g² of the gradient of a parameter.
template <GradientSource Gradients>
[[nodiscard]] double sum_of_squares_of(const Gradients& gradients, const Parameter& parameter) {
  if constexpr (SharedGradientSource<Gradients>) {
    return gradients.sum_of_squares(parameter);
  } else {
    const auto& gradient = gradients.gradient(parameter);
    return sum_of_squares(gradient.data(), gradient.size());
  }
}

/// √(Σ g²) / loss_scale over the gradients of parameter_at(0) to parameter_at(count − 1).
template <GradientSource Gradients, class ParameterAt>
[[nodiscard]] double norm_over(const Gradients& gradients, std::size_t count, double loss_scale,
                               const ParameterAt& parameter_at) {
  double squares = 0;
  for (std::size_t k = 0; k < count; ++k) squares += sum_of_squares_of(gradients, parameter_at(k));
  return std::sqrt(squares) / loss_scale;
}

}  // namespace detail

/// √(Σ g²) over the gradients of all parameters, divided by `loss_scale`; a parameter
/// without a gradient adds nothing. Summed in double, in one order whatever the number of threads.
/// Not finite if any gradient is not.
/// @throws DomainError unless loss_scale is as in `require_positive`.
template <GradientSource Gradients>
[[nodiscard]] double gradient_norm(const Gradients& gradients,
                                   const std::vector<Parameter*>& parameters,
                                   double loss_scale = 1) {
  require_positive("gradient_norm", "a loss scale", loss_scale);
  double norm = 0;
  in_default_arithmetic([&] {
    norm = detail::norm_over(gradients, parameters.size(), loss_scale,
                             [&](std::size_t k) -> const Parameter& { return *parameters[k]; });
  });
  return norm;
}

/// What gradients of norm `norm` are to be multiplied with to be clipped, so that their norm is at
/// most `max_norm`: max_norm / norm if that is below 1, else 1. All gradients are multiplied with
/// the one factor, so their direction stays.
///
/// Who does not use an optimiser of this library multiplies the gradients with it. To one that has
/// no `max_norm`, it can be told as part of the loss scale, by which the gradients are divided
/// anyway: `step(gradients, rate, loss_scale / clip_factor(norm, max_norm))`.
/// @throws DomainError unless max_norm is as in `require_positive`, or infinite, and norm is finite
///         and at least 0: a step on a norm that is not finite would write NaN into every
///         parameter, so skip it.
/// @see Pascanu et al. 2012, arXiv:1211.5063.
[[nodiscard]] inline double clip_factor(double norm, double max_norm) {
  if (max_norm != std::numeric_limits<double>::infinity()) {
    require_positive("clip_factor", "max_norm", max_norm);
  }
  require(std::isfinite(norm) && norm >= 0, "clip_factor",
          "expected a finite norm of at least 0; skip this step");
  return norm > max_norm ? max_norm / norm : 1;
}

}  // namespace UNIT_SCALING_NAMESPACE::optim

UNIT_SCALING_IEEE_END
