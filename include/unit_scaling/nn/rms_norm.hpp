// SPDX-License-Identifier: MIT
/// @file
/// Layer nn: root-mean-square normalisation, with a gain or without.
#pragma once

#include <cstddef>
#include <optional>
#include <string>

#include "unit_scaling/autograd/tape.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/nn/initialiser.hpp"
#include "unit_scaling/ops/rms_norm.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::nn {

/// y = ops::rms_norm(x[, gain]) along the last extent of x (…, size).
class RmsNorm {
 public:
  struct Options {
    bool gain = false;  ///< Unit scaling needs none.
    double epsilon = ops::RmsNorm{}.epsilon;
  };

  /// @throws DomainError as ops::RmsNorm.
  RmsNorm(Initialiser& initialiser, const std::string& name, std::size_t size,
          const Options& options)
      : name_(name), op_{.scaling = initialiser.scaling(), .epsilon = options.epsilon} {
    op_.require_attributes();
    if (options.gain) gain_ = initialiser.norm_gain(name + ".gain", size);
  }
  RmsNorm(Initialiser& initialiser, const std::string& name, std::size_t size)
      : RmsNorm(initialiser, name, size, Options{}) {}

  template <Precision P> [[nodiscard]] Variable<P> operator()(const Variable<P>& x) const;

  /// Calls `visit(parameter)` for each parameter.
  template <class Visitor> void for_each_parameter(const Visitor& visit) {
    if (gain_) visit(*gain_);
  }

 private:
  std::string name_;
  ops::RmsNorm op_;
  std::optional<Parameter> gain_;
};

template <Precision P> Variable<P> RmsNorm::operator()(const Variable<P>& x) const {
  const auto module = x.tape().enter(name_);
  return gain_ ? ops::rms_norm(x, *gain_, op_) : ops::rms_norm(x, op_);
}

}  // namespace UNIT_SCALING_NAMESPACE::nn

UNIT_SCALING_IEEE_END
