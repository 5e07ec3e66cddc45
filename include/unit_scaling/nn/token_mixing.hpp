// SPDX-License-Identifier: MIT
/// @file
/// Layer nn: mixing of positions, with its weight.
#pragma once

#include <cstddef>
#include <string>

#include "unit_scaling/autograd/tape.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/nn/initialiser.hpp"
#include "unit_scaling/ops/token_mixing.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::nn {

/// y = ops::token_mixing(x, weight): x (…, positions, channels) to the same shape.
class TokenMixing {
 public:
  TokenMixing(Initialiser& initialiser, const std::string& name, std::size_t positions)
      : name_(name),
        op_{.scaling = initialiser.scaling()},
        weight_(initialiser.weight(name + ".weight", {positions, positions})) {}

  template <Precision P> [[nodiscard]] Variable<P> operator()(const Variable<P>& x) const;

  /// Calls `visit(parameter)` for each parameter.
  template <class Visitor> void for_each_parameter(const Visitor& visit) { visit(weight_); }

 private:
  std::string name_;
  ops::TokenMixing op_;
  Parameter weight_;
};

template <Precision P> Variable<P> TokenMixing::operator()(const Variable<P>& x) const {
  const auto module = x.tape().enter(name_);
  return ops::token_mixing(x, weight_, op_);
}

}  // namespace UNIT_SCALING_NAMESPACE::nn

UNIT_SCALING_IEEE_END
