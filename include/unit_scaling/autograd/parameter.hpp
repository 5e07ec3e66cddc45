// SPDX-License-Identifier: MIT
/// @file
/// Layer autograd: what training changes.
#pragma once

#include <cstddef>
#include <optional>
#include <string>

#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/target.hpp"

namespace UNIT_SCALING_NAMESPACE {

/// What a parameter is to the rules that set its learning rate (u-μP's types).
enum class ParameterKind {
  untagged,  ///< nobody said: refused wherever the kind decides a learning rate
  weight,    ///< the weight of a hidden layer, or a lookup table
  bias,      ///< added inside a layer
  norm,      ///< gain or shift of a normalisation
  output,    ///< the weight of the last layer
};

/// A named tensor that training changes: the float master copy, whatever precision it is used in.
/// Each op that uses it rounds it once, straight from float. Its gradient lives on the tape.
struct Parameter {
  std::string name;
  Array<float> value;
  ParameterKind kind = ParameterKind::untagged;
  /// Number of layers in the residual stack it belongs to, none outside of one: u-μP's learning
  /// rates fall with its root.
  std::optional<std::size_t> depth = std::nullopt;
};

}  // namespace UNIT_SCALING_NAMESPACE
