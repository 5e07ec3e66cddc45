// SPDX-License-Identifier: MIT
/// @file
/// Layer autograd: what training changes.
#pragma once

#include <string>

#include "unit_scaling/core/array.hpp"

namespace unit_scaling {

/// What a parameter is to the rules that set its learning rate (u-μP's types).
enum class ParameterKind { weight, bias, norm, output };

/// A named tensor that training changes: the float master copy, whatever precision it is used in.
/// Each op that uses it rounds it once, straight from float. Its gradient lives on the tape.
struct Parameter {
  std::string name;
  Array<float> value;
  ParameterKind kind = ParameterKind::weight;
};

}  // namespace unit_scaling
