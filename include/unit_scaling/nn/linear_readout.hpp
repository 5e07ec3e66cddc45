// SPDX-License-Identifier: MIT
/// @file
/// Layer nn: the last linear layer of a model.
#pragma once

#include <cstddef>
#include <optional>
#include <string>

#include "unit_scaling/autograd/tape.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/nn/initialiser.hpp"
#include "unit_scaling/ops/linear_readout.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::nn {

/// y = ops::linear_readout(x, weight[, bias]): x (…, fan_in) to logits (…, fan_out). Its weight is
/// of kind `output`. The edge into it is a cut-edge, so that nothing is constrained.
class LinearReadout {
 public:
  struct Options {
    bool bias = true;
    /// Binds α and β_x after all: what u-μP's learning rates for SGD expect to be told of.
    std::optional<Constraint> constraint = std::nullopt;
  };

  LinearReadout(Initialiser& initialiser, const std::string& name, std::size_t fan_in,
                std::size_t fan_out, const Options& options)
      : name_(name),
        op_{.scaling = {initialiser.scaling().rule, options.constraint}},
        weight_(initialiser.weight(name + ".weight", {fan_out, fan_in}, ParameterKind::output)) {
    if (options.bias) bias_ = initialiser.bias(name + ".bias", fan_out);
  }
  LinearReadout(Initialiser& initialiser, const std::string& name, std::size_t fan_in,
                std::size_t fan_out)
      : LinearReadout(initialiser, name, fan_in, fan_out, Options{}) {}

  template <Precision P> [[nodiscard]] Variable<P> operator()(const Variable<P>& x) const;

  /// Calls `visit(parameter)` for each parameter.
  template <class Visitor> void for_each_parameter(const Visitor& visit) {
    visit(weight_);
    if (bias_) visit(*bias_);
  }

 private:
  std::string name_;
  ops::LinearReadout op_;
  Parameter weight_;
  std::optional<Parameter> bias_;
};

template <Precision P> Variable<P> LinearReadout::operator()(const Variable<P>& x) const {
  const auto module = x.tape().enter(name_);
  return bias_ ? ops::linear_readout(x, weight_, *bias_, op_)
               : ops::linear_readout(x, weight_, op_);
}

}  // namespace UNIT_SCALING_NAMESPACE::nn

UNIT_SCALING_IEEE_END
