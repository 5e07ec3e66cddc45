// SPDX-License-Identifier: MIT
/// @file
/// Layer nn: layer normalisation with its gain and bias.
#pragma once

#include <cstddef>
#include <string>

#include "unit_scaling/autograd/tape.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/nn/initialiser.hpp"
#include "unit_scaling/ops/layer_norm.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::nn {

/// y = ops::layer_norm(x, gain, bias) along the last extent of x (…, size).
class LayerNorm {
 public:
  /// @throws DomainError as ops::LayerNorm.
  LayerNorm(Initialiser& initialiser, const std::string& name, std::size_t size,
            double epsilon = ops::LayerNorm{}.epsilon)
      : name_(name),
        op_{.scaling = initialiser.scaling(), .epsilon = epsilon},
        gain_(initialiser.norm_gain(name + ".gain", size)),
        bias_(initialiser.norm_bias(name + ".bias", size)) {
    op_.require_attributes();
  }

  template <Precision P> [[nodiscard]] Variable<P> operator()(const Variable<P>& x) const;

  /// Calls `visit(parameter)` for each parameter.
  template <class Visitor> void for_each_parameter(const Visitor& visit) {
    visit(gain_);
    visit(bias_);
  }

 private:
  std::string name_;
  ops::LayerNorm op_;
  Parameter gain_;
  Parameter bias_;
};

template <Precision P> Variable<P> LayerNorm::operator()(const Variable<P>& x) const {
  const auto module = x.tape().enter(name_);
  return ops::layer_norm(x, gain_, bias_, op_);
}

}  // namespace UNIT_SCALING_NAMESPACE::nn

UNIT_SCALING_IEEE_END
