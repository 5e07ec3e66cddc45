// SPDX-License-Identifier: MIT
/// @file
/// Layer autograd: what a tape shows of its tensors and of its ops.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "unit_scaling/autograd/parameter.hpp"
#include "unit_scaling/core/shape.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/scaling/homogeneity.hpp"
#include "unit_scaling/scaling/rule.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE {

/// What a tensor that an observer sees is to the tape.
enum class TensorRole {
  value,               ///< an output of an op
  operand,             ///< an input of an op that rounds it to P::matmul_operand, before it does
  gradient,            ///< the gradient with respect to an output, as it enters the op
  parameter,           ///< a parameter's value, the first time it is used in a step
  parameter_gradient,  ///< at the end of the backward pass
};

/// True for what exists before the backward pass.
[[nodiscard]] constexpr bool is_forward(TensorRole role) {
  return role == TensorRole::value || role == TensorRole::operand || role == TensorRole::parameter;
}

/// True for a parameter's value and for its gradient.
[[nodiscard]] constexpr bool is_parameter(TensorRole role) {
  return role == TensorRole::parameter || role == TensorRole::parameter_gradient;
}

/// One tensor that passed over a tape, as an observer sees it while it is called.
struct Observation {
  std::string_view name;         ///< of the op, or of the parameter
  std::string_view module = {};  ///< path of the module that the op belongs to, as in `Tape::enter`
  std::size_t index = 0;         ///< the op's number on the tape; for a parameter, its number
  std::size_t argument = 0;      ///< which output of the op or, for an operand, which input
  TensorRole role = TensorRole::value;
  /// Name of the format that the elements are rounded to here: P::storage's, which they are in
  /// already, but P::matmul_operand's for an operand and P::matmul_gradient's for the gradient that
  /// enters an op with matrix products, neither of which is rounded yet.
  std::string_view format = {};
  Shape shape = {};
  std::span<const float> elements = {};  ///< decoded, row-major
};

/// One op that a tape recorded: what it reads, what it makes, and its factors. Values are numbered
/// within a step, parameters and inputs included.
struct OpRecord {
  struct Input {
    std::size_t value = 0;
    Shape shape = {};
    const Parameter* parameter = nullptr;  ///< whose value it is; null for other values
    bool is_wanted = false;                ///< a gradient is asked for, or passes through
    double backward = 1;                   ///< the op's backward factor β for it
    double ideal_backward = 1;             ///< what it would be without a constraint
  };
  struct Output {
    std::size_t value = 0;
    Shape shape = {};
    /// For each input: what the op multiplies the true gradient from here to there with, β/α.
    std::vector<double> gradient_factors = {};
  };

  std::string name = {};
  std::string module = {};  ///< path of the module that the op belongs to, as in `Tape::enter`
  std::size_t index = 0;
  std::vector<Input> inputs = {};  ///< differentiable ones, in order
  std::vector<Output> outputs = {};
  double forward = 1;                   ///< the op's forward factor α
  double ideal_forward = 1;             ///< what it would be without a constraint
  std::optional<Scaling> scaling = {};  ///< the op's rule and constraint, if it has any
  /// The rule of the op whose work a fused op does besides that of `scaling`; empty for others.
  std::optional<Rule> fused_rule = {};
  std::optional<Constraint> constraint = {};  ///< the one in force, as `ops::constraint_on`
  /// Which recording it belongs to: each tape begins another one, and again with each clear.
  std::uint64_t recording = 0;
  Homogeneity homogeneity = {};  ///< how it answers to factors on its inputs
};

}  // namespace UNIT_SCALING_NAMESPACE

UNIT_SCALING_IEEE_END
