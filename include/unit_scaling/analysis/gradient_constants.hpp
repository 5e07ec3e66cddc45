// SPDX-License-Identifier: MIT
/// @file
/// Layer analysis: a numerical proof that gradients are a constant times the true ones.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "unit_scaling/autograd/parameter.hpp"
#include "unit_scaling/autograd/tape.hpp"
#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/random.hpp"
#include "unit_scaling/core/target.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::analysis {

/// How the computed gradient of one parameter compares with the true one.
struct GradientConstant {
  const Parameter* parameter = nullptr;
  /// The computed gradient over the true one, fitted over all directions by least squares; infinite
  /// if the loss does not depend on the parameter though it has a gradient, NaN if neither.
  double constant = 0;
  /// The largest distance of a computed directional derivative from `constant` times the true one,
  /// over the root mean square of the computed ones; infinite if that is not finite.
  double deviation = 0;

  /// True if the gradient is a positive constant times the true one, to `tolerance`; also if there
  /// is none of either.
  [[nodiscard]] bool is_proportional(double tolerance = 1e-5) const {
    const bool is_positive = constant > 0 && std::isfinite(constant);
    return (is_positive || std::isnan(constant)) && deviation <= tolerance;
  }
};

/// How a gradient is compared with finite differences.
struct GradientConstantsOptions {
  std::size_t directions = 4;  ///< along which each parameter is moved, at random
  double step = 0x1p-16;       ///< how far each element is moved to either side, times N(0,1)
  std::uint64_t seed = 0;      ///< of the directions
};

/// Runs a step in double and compares the gradient of each parameter with central differences of
/// the loss along random directions: 1 + 2 · directions · parameters forward passes, for small
/// models. Differences are exact to about 1e-7 of a gradient; parameters are floats, so the way
/// that they really moved is what counts.
/// @param record called with a Tape<precision::fp64>, records the step and returns its loss; the
///        same one each time, as it is if random numbers come from `Tape::step`.
/// @param parameters changed while this runs, and put back, also if `record` throws.
/// @throws DomainError unless there is at least one direction, the step is finite, above 0 and
///         large enough to move each parameter that is a float, and every loss is finite.
/// @throws std::invalid_argument if a parameter is null.
template <class Record>
[[nodiscard]] std::vector<GradientConstant> gradient_constants(
    const Record& record, std::span<Parameter* const> parameters,
    const GradientConstantsOptions& options = {}) {
  require(options.directions > 0 && std::isfinite(options.step) && options.step > 0,
          "gradient_constants", "expected a direction and a finite step above 0");
  for (const Parameter* parameter : parameters) {
    if (parameter == nullptr) {
      throw std::invalid_argument("gradient_constants: expected parameters, got a null pointer");
    }
  }
  Tape<precision::fp64> tape;
  tape.backward(record(tape));
  std::vector<Array<double>> gradients;
  for (const Parameter* parameter : parameters) {
    gradients.emplace_back(tape.gradient(*parameter).shape(), tape.gradient(*parameter).span());
  }
  const auto loss_at = [&](Parameter& parameter, const Array<float>& value) {
    parameter.value = value;
    tape.clear();
    tape.set_step(0);
    const double loss = *record(tape).value().data();
    require(std::isfinite(loss), "gradient_constants", "expected a finite loss, got ", loss,
            " near ", parameter.name);
    return loss;
  };
  std::vector<GradientConstant> result;
  for (std::size_t p = 0; p < parameters.size(); ++p) {
    Parameter& parameter = *parameters[p];
    /// Puts the parameter back.
    struct Restore {
      Parameter& parameter;
      Array<float> value;
      ~Restore() { parameter.value = value; }
    };
    const Restore restore{parameter, parameter.value};
    const Array<float> numbers = parameter.floats();
    const std::size_t size = numbers.size();
    std::vector<double> computed;
    std::vector<double> actual;
    double noise = 0;  // of a difference of two losses
    for (std::size_t k = 0; k < options.directions; ++k) {
      const Random random(options.seed, RandomStream::general, k, static_cast<std::uint32_t>(p));
      Array<float> ahead(numbers.shape());
      Array<float> behind(numbers.shape());
      float* up = ahead.mutable_data();
      float* down = behind.mutable_data();
      double along = 0;
      bool has_moved = false;
      for (std::size_t i = 0; i < size; ++i) {
        const double move = options.step * random.normal(i);
        const auto value = static_cast<double>(numbers.data()[i]);
        up[i] = static_cast<float>(value + move);
        down[i] = static_cast<float>(value - move);
        has_moved = has_moved || up[i] != down[i];
        if (gradients[p].empty()) continue;
        along +=
            gradients[p].data()[i] * (static_cast<double>(up[i]) - static_cast<double>(down[i]));
      }
      require(has_moved || size == 0, "gradient_constants", "expected a step that changes ",
              parameter.name);
      const double loss_ahead = loss_at(parameter, ahead);
      const double loss_behind = loss_at(parameter, behind);
      computed.push_back(along);
      actual.push_back(loss_ahead - loss_behind);
      noise = std::max(noise, 1e-13 * (std::abs(loss_ahead) + std::abs(loss_behind)));
    }
    double product = 0;
    double square = 0;
    double computed_square = 0;
    for (std::size_t k = 0; k < computed.size(); ++k) {
      product += computed[k] * actual[k];
      square += actual[k] * actual[k];
      computed_square += computed[k] * computed[k];
    }
    const auto directions = static_cast<double>(computed.size());
    GradientConstant found{.parameter = &parameter};
    if (!std::isfinite(computed_square)) {
      found.constant = product / square;
      found.deviation = std::numeric_limits<double>::infinity();
    } else if (std::sqrt(square / directions) <= noise) {
      const bool has_gradient = std::sqrt(computed_square / directions) > noise;
      found.constant = has_gradient ? std::numeric_limits<double>::infinity()
                                    : std::numeric_limits<double>::quiet_NaN();
    } else {
      found.constant = product / square;
      const double scale = std::sqrt(computed_square / directions);
      for (std::size_t k = 0; k < computed.size(); ++k) {
        const double distance = std::abs(computed[k] - found.constant * actual[k]);
        if (scale > 0) found.deviation = std::max(found.deviation, distance / scale);
      }
    }
    result.push_back(found);
  }
  return result;
}

}  // namespace UNIT_SCALING_NAMESPACE::analysis

UNIT_SCALING_IEEE_END
