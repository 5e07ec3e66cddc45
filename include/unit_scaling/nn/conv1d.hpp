// SPDX-License-Identifier: MIT
/// @file
/// Layer nn: a one-dimensional convolution with its weight and bias.
#pragma once

#include <cstddef>
#include <optional>
#include <string>

#include "unit_scaling/autograd/tape.hpp"
#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/nn/initialiser.hpp"
#include "unit_scaling/ops/conv1d.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::nn {

/// y = ops::conv1d(x, weight[, bias]): x (…, channels, length) to y (…, out_channels, out_length).
class Conv1d {
 public:
  struct Options {
    std::size_t stride = 1;
    std::size_t padding = 0;  ///< zeros at either end
    std::size_t dilation = 1;
    std::size_t groups = 1;
    bool causal = false;  ///< pads the beginning only, so that no output sees what is to come
    bool bias = true;
    /// Overrides the constraint of the rules.
    std::optional<Constraint> constraint = std::nullopt;
  };

  /// @throws DomainError as ops::Conv1d; if `kernel_size` is 0; or unless `groups` divides both
  ///         numbers of channels.
  Conv1d(Initialiser& initialiser, const std::string& name, std::size_t channels,
         std::size_t out_channels, std::size_t kernel_size, const Options& options)
      : name_(name),
        op_{.scaling = initialiser.scaling(),
            .stride = options.stride,
            .padding = options.padding,
            .dilation = options.dilation,
            .groups = options.groups,
            .causal = options.causal} {
    op_.require_attributes(kernel_size);
    require(kernel_size > 0, "Conv1d", "expected a kernel_size of at least 1");
    require(channels % options.groups == 0 && out_channels % options.groups == 0, "Conv1d",
            "expected groups that divide both numbers of channels");
    if (options.constraint) op_.scaling.constraint = options.constraint;
    weight_ = initialiser.weight(name + ".weight",
                                 {out_channels, channels / options.groups, kernel_size});
    if (options.bias) bias_ = initialiser.bias(name + ".bias", out_channels);
  }
  Conv1d(Initialiser& initialiser, const std::string& name, std::size_t channels,
         std::size_t out_channels, std::size_t kernel_size)
      : Conv1d(initialiser, name, channels, out_channels, kernel_size, Options{}) {}

  template <Precision P> [[nodiscard]] Variable<P> operator()(const Variable<P>& x) const;

  /// Calls `visit(parameter)` for each parameter.
  template <class Visitor> void for_each_parameter(const Visitor& visit) {
    visit(weight_);
    if (bias_) visit(*bias_);
  }

 private:
  std::string name_;
  ops::Conv1d op_;
  Parameter weight_;
  std::optional<Parameter> bias_;
};

template <Precision P> Variable<P> Conv1d::operator()(const Variable<P>& x) const {
  const auto module = x.tape().enter(name_);
  return bias_ ? ops::conv1d(x, weight_, *bias_, op_) : ops::conv1d(x, weight_, op_);
}

}  // namespace UNIT_SCALING_NAMESPACE::nn

UNIT_SCALING_IEEE_END
