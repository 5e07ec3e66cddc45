// SPDX-License-Identifier: MIT
/// @file
/// Layer optim: gradient clipping by the norm of all gradients together.
#pragma once

#include <cmath>
#include <limits>
#include <vector>

#include "unit_scaling/core/arithmetic.hpp"
#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/optim/optimiser.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::optim {

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
    double squares = 0;
    for (const Parameter* parameter : parameters) {
      const auto& gradient = gradients.gradient(*parameter);
      squares += detail::sum_of_squares(gradient.data(), gradient.size());
    }
    norm = std::sqrt(squares) / loss_scale;
  });
  return norm;
}

/// What gradients of norm `norm` are to be multiplied with so that it is at most `max_norm`: 1, or
/// max_norm / norm. An optimiser divides by its loss scale in float anyway, so clipping costs
/// nothing more:
///
///     const double norm = optim::gradient_norm(tape, parameters, loss_scale);
///     optimiser.step(tape, rate, loss_scale / optim::clip_factor(norm, 1));
///
/// Adam's update hardly changes with the scale of all its gradients, so there clipping bounds what
/// one step can do to the moments, not the step itself.
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
