// SPDX-License-Identifier: MIT
/// @file
/// Layer optim: how the learning rate of a parameter follows from the scale rules.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "unit_scaling/autograd/parameter.hpp"
#include "unit_scaling/core/check.hpp"
#include "unit_scaling/scaling/rule.hpp"

namespace unit_scaling::optim {

/// What a parameter's learning rate is multiplied with under Adam.
///
/// A unit-scaled weight matrix of fan-in n acts through a factor near n^−½, so its learning rate is
/// n^½ times that of an ordinary model. Gains and shifts of a normalisation of size n act without
/// such a factor; n^−½ brings them back into proportion. Biases of linear layers stand inside the
/// scaled op and need nothing. Under Rule::none all factors are 1.
/// @throws DomainError for Rule::umup.
/// @see the paper's character-level experiments, which use LR/√n for one-dimensional parameters.
[[nodiscard]] inline double learning_rate_factor(Rule rule, const Parameter& parameter) {
  require(rule != Rule::umup, "learning_rate_factor",
          "u-muP's learning rates are not there yet: expected Rule::paper or Rule::none");
  if (rule == Rule::none || parameter.kind != ParameterKind::norm) return 1;
  return 1 / std::sqrt(static_cast<double>(std::max<std::size_t>(1, parameter.value.size())));
}

}  // namespace unit_scaling::optim
