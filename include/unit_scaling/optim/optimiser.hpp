// SPDX-License-Identifier: MIT
/// @file
/// Layer optim: what every optimiser is, and the loop over the elements of a parameter.
#pragma once

#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "unit_scaling/autograd/parameter.hpp"
#include "unit_scaling/autograd/tape.hpp"
#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/parallel.hpp"
#include "unit_scaling/kernels/map.hpp"

namespace unit_scaling::optim {

/// An optimiser over float master parameters.
///
/// `step(tape, learning_rate, loss_scale)` reads each parameter's gradient from the tape, divides
/// it by `loss_scale` in float and updates the master copy. A step without any gradient is an
/// error. `for_each_state(visit)` calls `visit(name, array)` for everything that must be saved to
/// go on exactly from here; together with `steps()` it is the whole state.
template <class T>
concept Optimiser = requires(T optimiser, const Tape<precision::fp32>& tape) {
  optimiser.step(tape, 0.1, 1.0);
  { optimiser.steps() } -> std::convertible_to<std::uint64_t>;
  optimiser.for_each_state([](const std::string&, Array<float>&) {});
};

/// Every parameter of a module, in the order of its walk. The module must stay in place.
template <class Module> [[nodiscard]] std::vector<Parameter*> parameters_of(Module& module) {
  std::vector<Parameter*> result;
  module.for_each_parameter([&](Parameter& parameter) { result.push_back(&parameter); });
  return result;
}

/// Whether weight decay acts on a parameter: on matrices and tables, not on gains and biases.
[[nodiscard]] inline bool decays(const Parameter& parameter) {
  return parameter.kind != ParameterKind::bias && parameter.kind != ParameterKind::norm;
}

namespace detail {

/// Calls `update(i, count)` over the lanes of [0, size), shared among threads.
template <class Update> void for_each_lane(std::size_t size, const Update& update) {
  parallel_ranges(size, kernels::map_grain, [&](std::size_t begin, std::size_t end) {
    kernels::for_lanes<float>(end - begin,
                              [&](std::size_t i, auto count) { update(begin + i, count); });
  });
}

/// The parameters themselves, of an optimiser called `name`.
/// @throws DomainError if one is null or named twice.
inline std::vector<Parameter*> checked_parameters(std::string_view name,
                                                  std::vector<Parameter*> parameters) {
  std::set<const Parameter*> seen;
  for (const Parameter* parameter : parameters) {
    require(parameter != nullptr, name, "expected parameters, got a null pointer");
    require(seen.insert(parameter).second, name,
            "expected each parameter once, got twice: " + parameter->name);
  }
  return parameters;
}

/// What a step must be given.
/// @throws DomainError unless both numbers are finite, the loss scale is above 0, and the tape has
/// a
///         gradient of some parameter: without one, `backward` has not run, or not for these.
template <Precision P>
void check_step(std::string_view name, const std::vector<Parameter*>& parameters,
                const Tape<P>& tape, double learning_rate, double loss_scale) {
  require(std::isfinite(learning_rate), name, "step: expected a finite learning rate");
  require(std::isfinite(loss_scale) && loss_scale > 0, name,
          "step: expected a finite loss scale above 0");
  bool any_expected = false;
  for (const Parameter* parameter : parameters) {
    if (!tape.gradient(*parameter).empty()) return;
    any_expected = any_expected || parameter->value.size() != 0;
  }
  require(!any_expected, name,
          "step: expected gradients on the tape, got none for any parameter; call backward first, "
          "on parameters that have stayed in place");
}

/// One array of zeros for each parameter.
inline std::vector<Array<float>> zeros_like(const std::vector<Parameter*>& parameters) {
  std::vector<Array<float>> result;
  result.reserve(parameters.size());
  for (const Parameter* parameter : parameters) {
    result.push_back(Array<float>::filled(parameter->value.shape(), 0));
  }
  return result;
}

}  // namespace detail

}  // namespace unit_scaling::optim
