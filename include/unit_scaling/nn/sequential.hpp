// SPDX-License-Identifier: MIT
/// @file
/// Layer nn: modules one after another.
#pragma once

#include <cstddef>
#include <tuple>
#include <utility>

#include "unit_scaling/autograd/variable.hpp"
#include "unit_scaling/core/target.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::nn {

/// Applies each module to the result of the one before it. Anything callable with a variable is a
/// module here, a lambda over an op as well; those without parameters are passed over in the walk.
/// Modules made in the call are made in braces: `Sequential{Linear(…), Linear(…)}`. In round
/// brackets the compiler chooses which is made first, and so which initial values each gets.
template <class... Modules> class Sequential {
 public:
  explicit Sequential(Modules... modules) : modules_(std::move(modules)...) {}

  template <Precision P> [[nodiscard]] Variable<P> operator()(const Variable<P>& x) const {
    Variable<P> value = x;
    std::apply([&](const auto&... module) { ((value = module(value)), ...); }, modules_);
    return value;
  }

  /// The module number `i`.
  template <std::size_t i> [[nodiscard]] const auto& get() const& { return std::get<i>(modules_); }
  template <std::size_t i> const auto& get() const&& = delete;

  /// Calls `visit(parameter)` for each parameter, in order.
  template <class Visitor> void for_each_parameter(const Visitor& visit) {
    const auto walk = [&](auto& module) {
      if constexpr (requires { module.for_each_parameter(visit); }) {
        module.for_each_parameter(visit);
      }
    };
    std::apply([&](auto&... module) { (walk(module), ...); }, modules_);
  }

 private:
  std::tuple<Modules...> modules_;
};

}  // namespace UNIT_SCALING_NAMESPACE::nn

UNIT_SCALING_IEEE_END
