// SPDX-License-Identifier: MIT
/// @file
/// Layer autograd: what a tape shows of its tensors.
#pragma once

#include <cstddef>
#include <span>
#include <string_view>

#include "unit_scaling/core/shape.hpp"
#include "unit_scaling/core/target.hpp"

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
  /// enters an op with matrix products, neither of which is rounded yet. A recipe may say otherwise
  /// of each; that of an operand under scales is the format of its codes.
  std::string_view format = {};
  Shape shape = {};
  std::span<const float> elements = {};  ///< decoded, row-major
  /// What products read instead, decoded: for an operand, and a gradient that is one, whose form a
  /// recipe chose; else empty.
  std::span<const float> rounded = {};
};

}  // namespace UNIT_SCALING_NAMESPACE

UNIT_SCALING_IEEE_END
