// SPDX-License-Identifier: MIT
/// @file
/// Layer optim: what every optimiser is, and the loop over the elements of a parameter.
#pragma once

#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <memory_resource>
#include <string>
#include <string_view>
#include <vector>

#include "unit_scaling/autograd/parameter.hpp"
#include "unit_scaling/autograd/tape.hpp"
#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/memory.hpp"
#include "unit_scaling/core/parallel_for.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/kernels/map.hpp"
#include "unit_scaling/optim/parameter_groups.hpp"

namespace UNIT_SCALING_NAMESPACE::optim {

/// Where the gradients of a step are: a `Tape` after `backward`, or a `GradientSum` of several. The
/// array of a parameter without a gradient is empty.
template <class T>
concept GradientSource = requires(const T& source, const Parameter& parameter) {
  { source.gradient(parameter).size() } -> std::convertible_to<std::size_t>;
  source.gradient(parameter).data();
};

/// An optimiser over float master parameters.
///
/// `step(gradients, learning_rate, loss_scale)` reads each parameter's gradient from the tape or
/// other source, divides it by `loss_scale` in float and updates the master copy. A step without
/// any gradient is an error. `for_each_state(visit)` calls `visit(name, array)` for everything that
/// must be saved to go on exactly from here; together with `steps()` it is the whole state.
/// `settings()` says how it treats each parameter.
template <class T>
concept Optimiser = requires(T optimiser, const Tape<precision::fp32>& tape) {
  optimiser.step(tape, 0.1, 1.0);
  { optimiser.steps() } -> std::convertible_to<std::uint64_t>;
  { optimiser.settings() } -> std::convertible_to<std::vector<ParameterSetting>>;
  optimiser.for_each_state([](const std::string&, Array<float>&) {});
};

namespace detail {

/// Calls `update(i, count)` over the lanes of [0, size), shared among threads.
template <class Update> void for_each_lane(std::size_t size, const Update& update) {
  parallel_ranges(size, kernels::map_grain, [&](std::size_t begin, std::size_t end) {
    kernels::for_lanes<float>(end - begin,
                              [&](std::size_t i, auto count) { update(begin + i, count); });
  });
}

/// What a step must be given.
/// @throws DomainError unless both numbers are finite, the loss scale is above 0, and there is a
///         gradient of some parameter: without one, `backward` has not run, or not for these.
template <GradientSource Gradients>
void check_step(std::string_view name, const std::vector<ParameterSetting>& settings,
                const Gradients& gradients, double learning_rate, double loss_scale) {
  require(std::isfinite(learning_rate), name, "step: expected a finite learning rate");
  require(std::isfinite(loss_scale) && loss_scale > 0, name,
          "step: expected a finite loss scale above 0");
  bool any_expected = false;
  for (const ParameterSetting& setting : settings) {
    if (gradients.gradient(*setting.parameter).size() != 0) return;
    any_expected = any_expected || setting.parameter->value.size() != 0;
  }
  require(!any_expected, name,
          "step: expected gradients, got none for any parameter; call backward first, "
          "on parameters that have stayed in place");
}

/// Σ x², in double, over fixed pieces that are added up in order.
template <class T> [[nodiscard]] double sum_of_squares(const T* elements, std::size_t size) {
  const std::size_t pieces = (size + kernels::map_grain - 1) / kernels::map_grain;
  std::pmr::vector<double> sums(pieces, &scratch_memory());
  parallel_for(pieces, [&](std::size_t piece) {
    const std::size_t end = std::min(size, (piece + 1) * kernels::map_grain);
    double sum = 0;
    for (std::size_t i = piece * kernels::map_grain; i < end; ++i) {
      const auto element = static_cast<double>(elements[i]);
      sum += element * element;
    }
    sums[piece] = sum;
  });
  double total = 0;
  for (const double sum : sums) total += sum;
  return total;
}

/// One array of zeros for each parameter.
inline std::vector<Array<float>> zeros_like(const std::vector<ParameterSetting>& settings) {
  std::vector<Array<float>> result(settings.size());
  for (std::size_t k = 0; k < settings.size(); ++k) {
    result[k] = Array<float>::filled(settings[k].parameter->value.shape(), 0);
  }
  return result;
}

}  // namespace detail

}  // namespace UNIT_SCALING_NAMESPACE::optim
