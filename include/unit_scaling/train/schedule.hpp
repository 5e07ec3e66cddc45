// SPDX-License-Identifier: MIT
/// @file
/// Layer train: the learning rate over the steps of a training run.
#pragma once

#include <cmath>
#include <cstddef>
#include <numbers>
#include <stdexcept>
#include <string>
#include <string_view>

#include "unit_scaling/core/arithmetic.hpp"
#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/target.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::train {

/// The factor by which to multiply the learning rate at each step, counted from zero: it rises
/// linearly, then decays.
///
///     step                       factor
///     0                          1 / warmup_steps (1 if there is no warm-up)
///     warmup_steps − 1           1
///     warmup_steps               1
///     total_steps                final_factor (1 for Decay::constant)
///     beyond total_steps         the same as at total_steps
///
/// `Schedule{}` is 1 at every step. A rise or a decay needs `total_steps`. The first step is 1 /
/// warmup_steps and not 0 because a step at rate zero would be wasted. The last step of a run of
/// `total_steps` is `total_steps − 1`, one short of the end of the decay, for the same reason where
/// `final_factor` is 0. Where `warmup_steps` equals `total_steps`, there is no decay: the factor is
/// 1 up to the last step.
struct Schedule {
  /// How the factor falls from 1 to `final_factor`.
  enum class Decay {
    constant,  ///< Not at all.
    linear,    ///< By the same amount at each step.
    cosine,    ///< Along half a period of a cosine: slowly at both ends.
  };

  std::size_t warmup_steps = 0;   ///< Steps of the linear rise, at most `total_steps`.
  std::size_t total_steps = 0;    ///< Steps of the run, with those of the rise. A decay needs it.
  Decay decay = Decay::constant;  ///< What follows the rise.
  double final_factor = 0;        ///< Where a decay ends: finite, at least 0.

  /// The factor at `step`.
  /// @throws std::invalid_argument if the fields break the rules above.
  [[nodiscard]] double operator()(std::size_t step) const {
    const DefaultArithmetic arithmetic;
    check();
    if (step < warmup_steps) {
      return static_cast<double>(step + 1) / static_cast<double>(warmup_steps);
    }
    if (decay == Decay::constant) return 1;
    if (step >= total_steps) return final_factor;
    const double progress =
        static_cast<double>(step - warmup_steps) / static_cast<double>(total_steps - warmup_steps);
    const double remaining =
        decay == Decay::linear ? 1 - progress : 0.5 + 0.5 * std::cos(std::numbers::pi * progress);
    return std::lerp(final_factor, 1.0, remaining);
  }

  /// Does nothing if the schedule is in order. `operator()` calls this; call it yourself to learn
  /// of a mistake before a run starts.
  /// @throws std::invalid_argument if the warm-up is longer than the run, if there is a decay over
  ///         a run of no steps, or if `final_factor` is negative or not finite.
  void check() const {
    if (total_steps == 0 && decay != Decay::constant) {
      throw std::invalid_argument(
          "Schedule: total_steps is 0, expected the number of steps over "
          "which the rate is to decay");
    }
    if (warmup_steps > total_steps) {
      throw std::invalid_argument("Schedule: warmup_steps is " + std::to_string(warmup_steps) +
                                  ", expected at most total_steps, which is " +
                                  std::to_string(total_steps));
    }
    require_not_negative("Schedule", "final_factor", final_factor);
  }

  /// The decay of a name: "constant", "linear" or "cosine".
  /// @throws std::invalid_argument for any other name; the text lists these.
  [[nodiscard]] static Decay decay_by_name(std::string_view name) {
    if (name == "constant") return Decay::constant;
    if (name == "linear") return Decay::linear;
    if (name == "cosine") return Decay::cosine;
    throw std::invalid_argument("Schedule: unknown decay '" + std::string(name) +
                                "', expected constant, linear or cosine");
  }
};

/// Name of a decay, which `Schedule::decay_by_name` understands.
[[nodiscard]] constexpr std::string_view to_string(Schedule::Decay decay) {
  switch (decay) {
    case Schedule::Decay::constant:
      return "constant";
    case Schedule::Decay::linear:
      return "linear";
    case Schedule::Decay::cosine:
      return "cosine";
  }
  return "?";
}

}  // namespace UNIT_SCALING_NAMESPACE::train

UNIT_SCALING_IEEE_END
