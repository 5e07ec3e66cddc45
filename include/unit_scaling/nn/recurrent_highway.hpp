// SPDX-License-Identifier: MIT
/// @file
/// Layer nn: a recurrent highway network with its parameters.
#pragma once

#include <cstddef>
#include <string>

#include "unit_scaling/autograd/tape.hpp"
#include "unit_scaling/core/shape.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/nn/initialiser.hpp"
#include "unit_scaling/ops/recurrent_highway.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::nn {

/// y = ops::recurrent_highway(x, weight, bias, initial): x (batch, positions, input_size) to y
/// (batch, positions, hidden_size). The state before the first position is learned, from zeros on.
class RecurrentHighway {
 public:
  /// @throws DomainError as ops::RecurrentHighway; ShapeError if sizes cannot be counted.
  RecurrentHighway(Initialiser& initialiser, const std::string& name, std::size_t input_size,
                   std::size_t hidden_size, double rebias = ops::RecurrentHighway{}.rebias)
      : name_(name),
        op_{.scaling = initialiser.scaling(), .rebias = rebias},
        weight_(initialiser.weight(name + ".weight",
                                   {size_product("RecurrentHighway", {2, hidden_size}),
                                    size_sum("RecurrentHighway", {input_size, hidden_size})})),
        bias_(initialiser.bias(name + ".bias", 2 * hidden_size)),
        initial_(initialiser.bias(name + ".initial", hidden_size)) {
    op_.require_attributes();
  }

  template <Precision P> [[nodiscard]] Variable<P> operator()(const Variable<P>& x) const;

  /// Calls `visit(parameter)` for each parameter.
  template <class Visitor> void for_each_parameter(const Visitor& visit) {
    visit(weight_);
    visit(bias_);
    visit(initial_);
  }

 private:
  std::string name_;
  ops::RecurrentHighway op_;
  Parameter weight_;
  Parameter bias_;
  Parameter initial_;
};

template <Precision P> Variable<P> RecurrentHighway::operator()(const Variable<P>& x) const {
  const auto module = x.tape().enter(name_);
  return ops::recurrent_highway(x, weight_, bias_, initial_, op_);
}

}  // namespace UNIT_SCALING_NAMESPACE::nn

UNIT_SCALING_IEEE_END
