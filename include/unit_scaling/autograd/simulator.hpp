// SPDX-License-Identifier: MIT
/// @file
/// Layer autograd: what a tape asks of the one who rounds numbers of its ops to other formats.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "unit_scaling/core/target.hpp"
#include "unit_scaling/formats/format_spec.hpp"
#include "unit_scaling/formats/rounding.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE {

/// A format that numbers are rounded to though they are stored in another one.
struct SimulatedFormat {
  std::string name;  ///< as `Format::parse` takes it
  FormatSpec spec;
  Rounding rounding = Rounding::nearest_even;

  friend bool operator==(const SimulatedFormat&, const SimulatedFormat&) = default;
};

/// To which formats the numbers of one recorded op are rounded; null where they are not. The
/// formats belong to the simulator.
struct SimulatedOp {
  const SimulatedFormat* operand = nullptr;  ///< what enters its matrix products, forward
  const SimulatedFormat* gradient =
      nullptr;                              ///< the gradient that enters those of the backward pass
  const SimulatedFormat* output = nullptr;  ///< what it writes, forward
  /// The gradients it writes, and the sum where one is added to those of other ops.
  const SimulatedFormat* input_gradient = nullptr;
  std::uint32_t first_tensor = 0;  ///< its tensors of the step have numbers from here on

  [[nodiscard]] bool rounds_products() const { return operand != nullptr || gradient != nullptr; }
  [[nodiscard]] bool rounds_writes() const {
    return output != nullptr || input_gradient != nullptr;
  }
};

/// To which format a gradient is rounded that an op writes, and a sum that it goes into.
struct SimulatedGradient {
  const SimulatedFormat* format = nullptr;  ///< null: not at all
  std::uint64_t step = 0;
  std::uint32_t tensor = 0;  ///< its number; that of the sum is the next one
};

/// Decides what is rounded to which format while a tape records, and rounds it. `Simulation` does
/// so by rules; another one, such as of a format with a scale for each block, is a class of its
/// own.
class Simulator {
 public:
  Simulator() = default;
  Simulator(const Simulator&) = default;
  Simulator& operator=(const Simulator&) = default;
  virtual ~Simulator() = default;

  /// Called when a step begins.
  virtual void begin_step() = 0;

  /// Called when an op is recorded.
  /// @param has_products whether the op computes matrix products.
  /// @param tensors how many numbers of tensors to set aside for it.
  [[nodiscard]] virtual SimulatedOp begin_op(std::string_view op, std::string_view module,
                                             bool has_products, std::uint32_t tensors) = 0;

  /// Rounds every number of `in`, a whole tensor, to `out`, which may be `in`. A pure function of
  /// its arguments and, where it draws random numbers, of the simulator's seed.
  virtual void round(const SimulatedFormat& format, Overflow overflow, std::uint64_t step,
                     std::uint32_t tensor, std::span<const float> in,
                     std::span<float> out) const = 0;

  /// @throws std::invalid_argument if part of what was asked for has met no op so far.
  virtual void require_all_used() const = 0;
};

}  // namespace UNIT_SCALING_NAMESPACE

UNIT_SCALING_IEEE_END
