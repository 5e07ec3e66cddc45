// SPDX-License-Identifier: MIT
/// @file
/// Layer recipes: a choice for inputs, one for weights and one for gradients.
// unit_scaling: optional
#pragma once

#include "unit_scaling/core/target.hpp"
#include "unit_scaling/ops/operand.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE {

/// A value for each role that an operand may have.
template <class T> struct ByRole {
  T input = {};
  T weight = {};
  T gradient = {};

  [[nodiscard]] const T& operator[](ops::OperandRole role) const& {
    switch (role) {
      case ops::OperandRole::weight:
        return weight;
      case ops::OperandRole::gradient:
        return gradient;
      case ops::OperandRole::input:
        break;
    }
    return input;
  }
  const T& operator[](ops::OperandRole role) const&& = delete;

  friend bool operator==(const ByRole&, const ByRole&) = default;
};

}  // namespace UNIT_SCALING_NAMESPACE

UNIT_SCALING_IEEE_END
