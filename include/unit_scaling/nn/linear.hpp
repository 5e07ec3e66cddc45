// SPDX-License-Identifier: MIT
/// @file
/// Layer nn: a linear layer with its weight and bias.
#pragma once

#include <cstddef>
#include <optional>
#include <string>

#include "unit_scaling/autograd/tape.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/nn/initialiser.hpp"
#include "unit_scaling/ops/gelu_linear.hpp"
#include "unit_scaling/ops/linear.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::nn {

/// y = ops::linear(x, weight[, bias]): x (…, fan_in) to y (…, fan_out).
class Linear {
 public:
  struct Options {
    bool bias = true;
    /// Overrides the constraint of the rules: constraint::none for a layer whose input is a
    /// cut-edge, such as the last one.
    std::optional<Constraint> constraint = std::nullopt;
  };

  Linear(Initialiser& initialiser, const std::string& name, std::size_t fan_in, std::size_t fan_out,
         const Options& options)
      : name_(name),
        op_{.scaling = initialiser.scaling()},
        weight_(initialiser.weight(name + ".weight", {fan_out, fan_in})) {
    if (options.constraint) op_.scaling.constraint = options.constraint;
    if (options.bias) bias_ = initialiser.bias(name + ".bias", fan_out);
  }
  Linear(Initialiser& initialiser, const std::string& name, std::size_t fan_in, std::size_t fan_out)
      : Linear(initialiser, name, fan_in, fan_out, Options{}) {}

  template <Precision P> [[nodiscard]] Variable<P> operator()(const Variable<P>& x) const;

  /// ops::gelu_linear(x, weight[, bias]): this layer behind a GELU, as one op.
  template <Precision P>
  [[nodiscard]] Variable<P> after(const ops::Gelu& gelu, const Variable<P>& x) const;

  /// Calls `visit(parameter)` for each parameter.
  template <class Visitor> void for_each_parameter(const Visitor& visit) {
    visit(weight_);
    if (bias_) visit(*bias_);
  }

 private:
  std::string name_;
  ops::Linear op_;
  Parameter weight_;
  std::optional<Parameter> bias_;
};

template <Precision P> Variable<P> Linear::operator()(const Variable<P>& x) const {
  const auto module = x.tape().enter(name_);
  return bias_ ? ops::linear(x, weight_, *bias_, op_) : ops::linear(x, weight_, op_);
}

template <Precision P>
Variable<P> Linear::after(const ops::Gelu& gelu, const Variable<P>& x) const {
  const auto module = x.tape().enter(name_);
  const ops::GeluLinear op{.gelu = gelu, .linear = op_};
  return bias_ ? ops::gelu_linear(x, weight_, *bias_, op) : ops::gelu_linear(x, weight_, op);
}

}  // namespace UNIT_SCALING_NAMESPACE::nn

UNIT_SCALING_IEEE_END
