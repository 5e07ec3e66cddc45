// SPDX-License-Identifier: MIT
/// @file
/// Layer optim: how the learning rate of a parameter follows from the scale rules.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "unit_scaling/autograd/parameter.hpp"
#include "unit_scaling/core/arithmetic.hpp"
#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/scaling/rule.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::optim {

/// The fan-in that u-μP's learning rates go by: what one output sums over, (fan_out, fan_in) or
/// (fan_out, channels, kernel_size). Of a lookup table it is the size of an entry; of a vector, its
/// own size.
/// @throws DomainError for a parameter of four extents and more.
[[nodiscard]] inline std::size_t fan_in_of(const Parameter& parameter) {
  const Shape shape = parameter.shape();
  require(shape.rank() <= 3, "learning_rate_factor",
          "expected a parameter of at most three extents, got ", parameter.name, " of ", shape);
  if (shape.rank() <= 1) return shape.size();
  return shape.size() / std::max<std::size_t>(1, shape[0]);
}

/// What a parameter's learning rate is multiplied with under an optimiser whose updates have a
/// scale of their own (Adam, LAMB), or under SGD on unit-scaled gradients.
///
/// none: 1. paper: n^−½ for gains and shifts of a normalisation of size n, which act without the
/// factor near n^−½ that weights act through; 1 for the rest. u-μP: fan_in^−½ for hidden weights
/// and tables, 1 for the read-out, biases and norms; all times depth^−½ inside a residual stack.
/// @throws DomainError under u-μP for an untagged parameter, or a weight of more than three
/// extents.
/// @see the paper's character-level experiments, which use LR/√n for one-dimensional parameters;
///      u-μP, arXiv:2407.17465, table 2.
[[nodiscard]] inline double learning_rate_factor(Rule rule, const Parameter& parameter) {
  const DefaultArithmetic arithmetic;
  const auto inverse_root = [](std::size_t size) {
    return 1 / std::sqrt(static_cast<double>(std::max<std::size_t>(1, size)));
  };
  if (rule == Rule::none) return 1;
  if (rule == Rule::paper) {
    return parameter.kind == ParameterKind::norm ? inverse_root(parameter.shape().size()) : 1;
  }
  require(parameter.kind != ParameterKind::untagged, "learning_rate_factor",
          "expected a parameter with a kind, got ", parameter.name);
  const double of_depth = inverse_root(parameter.depth.value_or(1));
  return parameter.kind == ParameterKind::weight ? of_depth * inverse_root(fan_in_of(parameter))
                                                 : of_depth;
}

/// What a parameter's learning rate is multiplied with under SGD. Differs from
/// `learning_rate_factor` under u-μP if the read-out's constraint is to_output_scale, so that
/// gradients are not unit-scaled but fan_in^−1 of the read-out: then depth^−½ times fan_in^½ for
/// hidden weights, size for biases and norms, 1 for the read-out.
/// @throws DomainError as learning_rate_factor.
/// @see the reference library's lr_scale_func_sgd.
[[nodiscard]] inline double sgd_learning_rate_factor(Rule rule, const Parameter& parameter,
                                                     bool readout_is_constrained) {
  const DefaultArithmetic arithmetic;
  if (rule != Rule::umup || !readout_is_constrained) return learning_rate_factor(rule, parameter);
  require(parameter.kind != ParameterKind::untagged, "sgd_learning_rate_factor",
          "expected a parameter with a kind, got ", parameter.name);
  const double of_depth =
      1 / std::sqrt(static_cast<double>(std::max<std::size_t>(1, parameter.depth.value_or(1))));
  switch (parameter.kind) {
    case ParameterKind::weight:
      return of_depth * std::sqrt(static_cast<double>(fan_in_of(parameter)));
    case ParameterKind::bias:
    case ParameterKind::norm:
      return of_depth * static_cast<double>(parameter.shape()[0]);
    case ParameterKind::output:
    case ParameterKind::untagged:
      break;
  }
  return of_depth;
}

}  // namespace UNIT_SCALING_NAMESPACE::optim

UNIT_SCALING_IEEE_END
