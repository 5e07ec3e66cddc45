// SPDX-License-Identifier: MIT
/// @file
/// Layer optim: what every optimiser is, and the loop over the elements of a parameter.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "unit_scaling/autograd/parameter.hpp"
#include "unit_scaling/autograd/tape.hpp"
#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/parallel_for.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/formats/convert.hpp"
#include "unit_scaling/kernels/largest_magnitude.hpp"
#include "unit_scaling/kernels/map.hpp"
#include "unit_scaling/optim/clip.hpp"
#include "unit_scaling/optim/gradient_source.hpp"
#include "unit_scaling/optim/parameter_groups.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::optim {

/// An optimiser over master copies.
///
/// `step(gradients, learning_rate, loss_scale)` reads each parameter's gradient from the tape or
/// other source, divides it by `loss_scale` in float and updates the master copy. A step without
/// any gradient is an error, and so is one with a gradient that is not finite, which the error
/// names; nothing is changed then. `for_each_state(visit)` calls `visit(name, state)` for
/// everything that must be saved to go on exactly from here (see train/training_state.hpp): the
/// arrays of each parameter, and the count "steps", which `steps()` reads. `settings()` says how it
/// treats each parameter.
template <class T>
concept Optimiser = requires(T optimiser, const Tape<precision::fp32>& tape) {
  optimiser.step(tape, 0.1, 1.0);
  { optimiser.steps() } -> std::convertible_to<std::uint64_t>;
  { optimiser.settings() } -> std::convertible_to<std::vector<ParameterSetting>>;
  optimiser.for_each_state([](const std::string&, auto&) {});
};

namespace detail {

/// The elements of a gradient, for loops that load them as floats. Of any other type this is the
/// one error that a compiler reports.
template <class Gradient> [[nodiscard]] const auto* gradient_elements(const Gradient& gradient) {
  using T = std::remove_cvref_t<decltype(*gradient.data())>;
  static_assert(VectorStorage<T>,
                "optimisers, GradientSum and first_non_finite expect gradients of float or of a "
                "narrower format, for parameters are float: use Tape<precision::fp32>; to look at "
                "gradients of Tape<precision::fp64>, read tape.gradient(parameter)");
  if constexpr (VectorStorage<T>) {
    return gradient.data();
  } else {
    return static_cast<const float*>(nullptr);
  }
}

/// Calls `update(i, count)` over the lanes of [0, size), shared among threads.
template <class Update> void for_each_lane(std::size_t size, const Update& update) {
  parallel_ranges(size, kernels::map_grain, [&](std::size_t begin, std::size_t end) {
    kernels::for_lanes<float>(end - begin,
                              [&](std::size_t i, auto count) { update(begin + i, count); });
  });
}

/// The shape of the gradient of a parameter, which has no elements if there is none.
template <GradientSource Gradients>
[[nodiscard]] Shape shape_of_gradient(const Gradients& gradients, const Parameter& parameter) {
  if constexpr (SharedGradientSource<Gradients>) {
    return gradients.gradient_shape(parameter);
  } else {
    return gradients.gradient(parameter).shape();
  }
}

/// The largest magnitude of the elements of a gradient as floats; NaN if one is.
template <GradientSource Gradients>
[[nodiscard]] float largest_magnitude_of(const Gradients& gradients, const Parameter& parameter) {
  if constexpr (SharedGradientSource<Gradients>) {
    return std::bit_cast<float>(gradients.largest_magnitude_bits(parameter));
  } else {
    const auto& gradient = gradients.gradient(parameter);
    return std::bit_cast<float>(
        kernels::largest_magnitude_bits(gradient_elements(gradient), gradient.size()));
  }
}

/// Largest sum of gradients that an optimiser keeps. Its square is finite as a float.
inline constexpr float largest_sum = 0x1p63F;

/// Largest learning rate with its factors. Times the largest sum it is below 2^103, half a unit in
/// the last place of the largest float: adding so little makes no finite weight infinite.
inline constexpr double largest_rate = 0x1p38;

/// What a step is told, and how far that may go.
struct StepNumbers {
  double learning_rate;
  double loss_scale;
  /// Multiplies the learning rate of every parameter.
  double rate_factor = 1;
  /// Of a gradient divided by the loss scale.
  float largest_gradient = largest_sum;
  /// The learning rate multiplies the weight decay.
  bool decay_is_times_rate = false;
  bool allow_non_finite = false;  ///< gradients beyond the largest too
  /// The optimiser keeps master copies in a format of its own.
  bool takes_encoded_parameters = false;
  /// Where the largest magnitude of the gradient of each parameter is written, unless gradients
  /// beyond the largest are allowed; null if nobody asks.
  float* largest_magnitudes = nullptr;
  /// Of the gradients of all parameters together, divided by the loss scale; see `clip_factor`.
  double max_norm = std::numeric_limits<double>::infinity();
};

/// What gradients are in a step.
struct StepGradients {
  /// What they are divided by: the loss scale, and what clipping divides by.
  double divisor;
  /// Their norm before clipping; empty if they are not clipped.
  std::optional<double> norm;
};

/// The norm of the gradients of a step, and what they are divided by so that it is at most
/// `max_norm`.
/// @throws DomainError if that is no number that a float can hold.
template <GradientSource Gradients>
[[nodiscard]] StepGradients clipped(std::string_view name,
                                    const std::vector<ParameterSetting>& settings,
                                    const Gradients& gradients, const StepNumbers& numbers) {
  if (numbers.max_norm == std::numeric_limits<double>::infinity()) {
    return {.divisor = numbers.loss_scale, .norm = std::nullopt};
  }
  const double norm =
      norm_over(gradients, settings.size(), numbers.loss_scale,
                [&](std::size_t k) -> const Parameter& { return *settings[k].parameter; });
  // Some gradient is not finite then, which the caller finds and names.
  if (!std::isfinite(norm)) return {.divisor = numbers.loss_scale, .norm = norm};
  const double divisor = numbers.loss_scale / clip_factor(norm, numbers.max_norm);
  require(is_float(divisor) && is_float(1 / divisor), name,
          "step: expected gradients that max_norm, ", numbers.max_norm,
          ", multiplies with a number that a float can hold, got a norm of ", norm);
  return {.divisor = divisor, .norm = norm};
}

/// What every step must be given: asked before anything is changed.
/// @param states what the optimiser keeps of each parameter.
/// @throws ShapeError unless each parameter has the shape that it had when the optimiser was made,
///         and so have its states and its gradient.
/// @throws DomainError unless the learning rate is at least 0 and finite as a float, with its
///         factors at most `largest_rate`, and times the weight decay at most 1, if that is how
///         weights decay: more would turn their signs; the loss scale is as in `require_positive`;
///         there is a gradient of some parameter: without one, `backward` has not run, or not for
///         these; and all gradients, clipped, are in range, unless others are allowed.
/// @tparam State one with a `shape()`, that of the parameter.
template <GradientSource Gradients, class State>
[[nodiscard]] StepGradients check_step(std::string_view name,
                                       const std::vector<ParameterSetting>& settings,
                                       std::initializer_list<const std::vector<State>*> states,
                                       const Gradients& gradients, const StepNumbers& numbers) {
  constexpr auto largest = static_cast<double>(std::numeric_limits<float>::max());
  require_attribute(numbers.learning_rate >= 0 && numbers.learning_rate <= largest, name,
                    "a learning rate", "of at least 0 that is finite as a float",
                    numbers.learning_rate);
  require_positive(name, "a loss scale", numbers.loss_scale);
  bool any = false;
  bool any_expected = false;
  for (std::size_t k = 0; k < settings.size(); ++k) {
    const auto in_quotes = [&name_of = settings[k].name](std::string_view what,
                                                         std::string_view after = {}) {
      return [&name_of, what, after] {
        return std::string(what) + " '" + name_of + "'" + std::string(after);
      };
    };
    require(
        *settings[k].is_in_place, name,
        "step: expected parameters that have stayed in place since the optimiser was made, but '",
        settings[k].name, "' was moved, or is gone");
    const Parameter& parameter = *settings[k].parameter;
    const Shape& shape = settings[k].shape;
    require_shape(
        parameter.shape() == shape, name,
        in_quotes("step: parameter", " in the shape that it had when the optimiser was made"),
        shape, parameter.shape());
    require(!parameter.is_encoded() || numbers.takes_encoded_parameters, name,
            "step: expected the master copy of '", settings[k].name,
            "' as floats, got codes that another optimiser made (Parameter::encoded); "
            "Parameter::set_floats takes its floats()");
    for (const std::vector<State>* state : states) {
      require_shape((*state)[k].shape() == settings[k].state_shape, name,
                    in_quotes("step: a state in the shape of"), settings[k].state_shape,
                    (*state)[k].shape());
    }
    const double rate = numbers.learning_rate * settings[k].learning_rate_factor;
    require_attribute(rate * numbers.rate_factor <= largest_rate, name,
                      in_quotes("a learning rate for"), "of at most 2^38 with its factors",
                      rate * numbers.rate_factor);
    require_attribute(!numbers.decay_is_times_rate || rate * settings[k].weight_decay <= 1, name,
                      in_quotes("a learning rate times weight decay for"),
                      "of at most 1, as more would turn the signs of weights",
                      rate * settings[k].weight_decay);
    any_expected = any_expected || shape.size() != 0;
    const Shape shape_of_gradient = detail::shape_of_gradient(gradients, parameter);
    if (shape_of_gradient.size() == 0) continue;
    any = true;
    require_shape(shape_of_gradient == shape, name, in_quotes("step: a gradient in the shape of"),
                  shape, shape_of_gradient);
  }
  require(any || !any_expected, name,
          "step: expected gradients, got none for any parameter; call backward first, "
          "on parameters that have stayed in place");
  const StepGradients step = clipped(name, settings, gradients, numbers);
  if (numbers.allow_non_finite) return step;
  const auto per_divisor = static_cast<float>(1 / step.divisor);
  for (std::size_t k = 0; k < settings.size(); ++k) {
    const float magnitude = largest_magnitude_of(gradients, *settings[k].parameter);
    require(magnitude * per_divisor <= numbers.largest_gradient,  // a NaN is not
            name, "step: expected gradients that are finite and not too large to be squared or ",
            "summed up as floats, once divided by the loss scale, got others for '",
            settings[k].name, "'; skip the step (see first_non_finite), or allow_non_finite");
    if (numbers.largest_magnitudes != nullptr) numbers.largest_magnitudes[k] = magnitude;
  }
  return step;
}

/// What a class with a `max_norm` among its options is made with.
/// @throws DomainError unless max_norm is as in `clip_factor`; or if there is one, and gradients
///         that are not finite, whose norm is no number, are allowed.
inline void require_max_norm(std::string_view name, double max_norm, bool allow_non_finite) {
  if (max_norm == std::numeric_limits<double>::infinity()) return;
  require_positive(name, "max_norm", max_norm);
  require(!allow_non_finite, name,
          "expected max_norm or allow_non_finite, got both: gradients that are not finite have no "
          "norm to be clipped by");
}

/// Where the square of a gradient g is lost to underflow, (1−β₂) g² < 2^-149, Adam's update is g /
/// ε in place of g / (|g| + ε), which differ little if ε is above such gradients.
/// @throws DomainError unless ε is as in `require_positive`, and at least 2^-70 / √(1−β₂).
inline void require_epsilon(std::string_view name, double epsilon, double beta2) {
  require_positive(name, "epsilon", epsilon);
  require_attribute(epsilon >= 0x1p-70 / std::sqrt(1 - beta2), name, "epsilon",
                    "of at least 2^-70 / sqrt(1 - beta2): above gradients whose squares "
                    "float takes for 0",
                    epsilon);
}

/// Shows the steps that an optimiser has counted to `visit(name, number)`, which may set them.
/// @throws DomainError unless counting in double can reach what it sets. Nothing is set then.
template <class Visitor>
void visit_steps(std::string_view name, std::uint64_t& steps, const Visitor& visit) {
  std::uint64_t shown = steps;
  visit("steps", shown);
  require(shown <= std::uint64_t{1} << std::numeric_limits<double>::digits, name,
          "expected at most 2^53 steps, got ", shown);
  steps = shown;
}

/// One array of zeros for each parameter, without elements for those that are kept elsewhere.
inline std::vector<Array<float>> zeros_like(const std::vector<ParameterSetting>& settings) {
  std::vector<Array<float>> result(settings.size());
  for (std::size_t k = 0; k < settings.size(); ++k) {
    result[k] = Array<float>::filled(settings[k].state_shape, 0);
  }
  return result;
}

}  // namespace detail

/// The first of the parameters whose gradient has an element that is infinite or NaN as a float;
/// null if all are finite. What an optimiser's step asks before it changes anything. With a loss
/// scale that follows the gradients:
///
///     if (optim::first_non_finite(tape, parameters) != nullptr) { loss_scale /= 2; continue; }
template <GradientSource Gradients>
[[nodiscard]] const Parameter* first_non_finite(const Gradients& gradients,
                                                const std::vector<Parameter*>& parameters) {
  for (const Parameter* parameter : parameters) {
    const float magnitude = detail::largest_magnitude_of(gradients, *parameter);
    if (!(magnitude <= std::numeric_limits<float>::max())) return parameter;  // nor is a NaN
  }
  return nullptr;
}

}  // namespace UNIT_SCALING_NAMESPACE::optim

UNIT_SCALING_IEEE_END
