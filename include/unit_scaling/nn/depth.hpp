// SPDX-License-Identifier: MIT
/// @file
/// Layer nn: lists of layers that tell their parameters how deep the stack is.
#pragma once

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include "unit_scaling/autograd/parameter.hpp"
#include "unit_scaling/autograd/variable.hpp"
#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/nn/sequential.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::nn {

/// Writes `depth` into every parameter of the module: u-μP's learning rates fall with its root.
/// @throws DomainError naming the parameter, if one has a depth already (stacks do not nest) or is
///         untagged.
/// @see u-μP, arXiv:2407.17465, table 2.
template <class Module> void set_depth(Module& module, std::size_t depth) {
  module.for_each_parameter([&](Parameter& parameter) {
    require(!parameter.depth, "set_depth", "expected a parameter outside of any stack, got ",
            parameter.name);
    require(parameter.kind != ParameterKind::untagged, "set_depth",
            "expected a parameter with a kind, got ", parameter.name);
    parameter.depth = depth;
  });
}

/// Layers of one kind, one after the other, whose number becomes the depth of their parameters.
/// Called with x and whatever else each layer takes after it, such as a mask.
template <class Module> class DepthModuleList {
 public:
  /// @throws DomainError as set_depth.
  explicit DepthModuleList(std::vector<Module> modules) : modules_(std::move(modules)) {
    for (Module& module : modules_) set_depth(module, modules_.size());
  }

  template <Precision P, class... More>
  [[nodiscard]] Variable<P> operator()(const Variable<P>& x, const More&... more) const {
    Variable<P> value = x;
    for (const Module& module : modules_) value = module(value, more...);
    return value;
  }

  [[nodiscard]] std::size_t size() const { return modules_.size(); }
  [[nodiscard]] const Module& operator[](std::size_t index) const& { return modules_[index]; }
  const Module& operator[](std::size_t index) const&& = delete;

  /// Calls `visit(parameter)` for each parameter, from input to output.
  template <class Visitor> void for_each_parameter(const Visitor& visit) {
    for (Module& module : modules_) module.for_each_parameter(visit);
  }

  /// Shows the other states of the layers to `visit(name, state)`.
  template <class Visitor>
  requires requires(Module& module, const Visitor& visit) { module.for_each_state(visit); }
  void for_each_state(const Visitor& visit) {
    for (Module& module : modules_) module.for_each_state(visit);
  }

 private:
  std::vector<Module> modules_;
};

/// Layers of different kinds, one after the other, whose number becomes the depth of their
/// parameters.
template <class... Modules> class DepthSequential : public Sequential<Modules...> {
 public:
  /// @throws DomainError as set_depth.
  explicit DepthSequential(Modules... modules) : Sequential<Modules...>(std::move(modules)...) {
    set_depth(*this, sizeof...(Modules));
  }
};

}  // namespace UNIT_SCALING_NAMESPACE::nn

UNIT_SCALING_IEEE_END
