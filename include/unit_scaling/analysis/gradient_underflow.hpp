// SPDX-License-Identifier: MIT
/// @file
/// Layer analysis: which gradients a precision loses, against float on the same step.
#pragma once

#include <cmath>
#include <cstddef>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "unit_scaling/autograd/simulation.hpp"
#include "unit_scaling/autograd/tape.hpp"
#include "unit_scaling/formats/format.hpp"
#include "unit_scaling/formats/precision.hpp"
#include "unit_scaling/formats/rounding.hpp"

namespace unit_scaling::analysis {

/// Shares of the gradient elements of one step, over the gradient of every op's output as the op
/// consumes it (rounded to P::matmul_gradient where it does) and of every parameter.
struct GradientUnderflow {
  double underflowed = 0;  ///< zero here, though not in float
  double non_finite = 0;   ///< NaN or infinite here
};

/// Runs one step in float and one under P and compares their gradients element by element.
/// @param record `record(tape)` records the step on a tape of any precision, with the same
///        parameters and the same batch, and returns the loss.
/// Unlike Tracker, which tells what each rounding loses of what is there, it tells what is gone
/// altogether: a gradient that underflowed on the way makes all zero that follows from it.
/// @param loss_scale gradient of the loss, in both.
/// @param simulation rounds numbers of the step under P, and of that only; empty: nothing does.
/// @throws std::invalid_argument if the two steps have other gradients.
template <Precision P, class Record>
[[nodiscard]] GradientUnderflow gradient_underflow(
    const Record& record, float loss_scale = 1,
    const std::optional<Simulation>& simulation = std::nullopt) {
  std::vector<std::vector<bool>> reference;  // for each gradient, which elements are not zero
  {
    Tape<precision::fp32> float_tape;
    float_tape.observe_with([&](const Observation& seen) {
      if (is_forward(seen.role)) return;
      std::vector<bool>& nonzero = reference.emplace_back(seen.elements.size());
      for (std::size_t i = 0; i < nonzero.size(); ++i) nonzero[i] = seen.elements[i] != 0;
    });
    float_tape.backward(record(float_tape), loss_scale);
  }  // its memory is not held while the other takes its own

  std::size_t total = 0;
  std::size_t lost = 0;
  std::size_t non_finite = 0;
  std::size_t next = 0;
  Tape<P> tape;
  if (simulation) tape.simulate_with(*simulation);
  tape.observe_with([&](const Observation& seen) {
    if (is_forward(seen.role)) return;
    if (next == reference.size() || reference[next].size() != seen.elements.size()) {
      throw std::invalid_argument(
          "gradient_underflow: expected the same step under both precisions, got another gradient "
          "of " +
          std::string(seen.name));
    }
    const std::vector<bool>& nonzero = reference[next++];
    // An op whose gradient is in its format already takes it as it is, infinities included.
    const bool is_rounded =
        seen.format != storage_name<typename P::storage> && seen.format != storage_name<float>;
    const Format format = Format::parse(is_rounded ? seen.format : storage_name<float>);
    for (std::size_t i = 0; i < nonzero.size(); ++i) {
      float element = seen.elements[i];
      if (is_rounded) element = format.quantise(element, Overflow::saturate);
      non_finite += std::isfinite(element) ? 0 : 1;
      lost += nonzero[i] && element == 0 ? 1 : 0;
    }
    total += nonzero.size();
  });
  tape.backward(record(tape), loss_scale);
  const auto share = [&](std::size_t count) {
    return total == 0 ? 0 : static_cast<double>(count) / static_cast<double>(total);
  };
  return {share(lost), share(non_finite)};
}

}  // namespace unit_scaling::analysis
