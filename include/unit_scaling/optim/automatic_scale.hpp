// SPDX-License-Identifier: MIT
/// @file
/// Layer optim: FP8-LM's automatic scaling of gradients, which follows how many of them saturate.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/target.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::optim {

/// The factor μ that gradients are multiplied with before they are rounded to FP8. In a step in
/// which more than a given share of them is at the largest number of the format, μ is halved for
/// the next step. In any other step it grows, so that it doubles in a given number of such steps.
///
/// Count those of a gradient that was added up over workers after the sum: partial sums of fewer
/// workers saturate less, so a share of them all can stay below the bound while the sum is lost.
/// With the defaults, which are the paper's, μ takes 1000 steps to double. Gradients that are much
/// smaller than 1 have to wait for it, 20 000 steps at a scale of 2^-20, or need another initial μ.
/// @see Peng et al. 2023, arXiv:2310.18313, section 2.1. The bounds of μ, and that μ grows in the
///      very next step after it was halved, are ours: the paper does not say.
class AutomaticScale {
 public:
  struct Options {
    double initial = 1;
    double threshold = 1e-5;  ///< the paper's 0.001 %
    /// Steps without too many at the largest number in which μ doubles.
    double doubling_steps = 1000;
    double least = 0x1p-60;
    double largest = 0x1p60;
  };

  AutomaticScale() : AutomaticScale(Options{}) {}
  /// @throws DomainError unless all are as in `require_positive`, the threshold is a share, and the
  ///         initial factor is from the least to the largest.
  explicit AutomaticScale(const Options& options) : options_(options), factor_(options.initial) {
    constexpr const char* name = "AutomaticScale";
    require_positive(name, "initial", options.initial);
    require_share(name, "threshold", options.threshold);
    require_positive(name, "doubling_steps", options.doubling_steps);
    require_positive(name, "least", options.least);
    require_positive(name, "largest", options.largest);
    require(options.least <= options.initial && options.initial <= options.largest, name,
            "expected an initial factor from the least to the largest, ", options.least, " to ",
            options.largest, ", got ", options.initial);
  }

  /// μ
  [[nodiscard]] double factor() const { return factor_; }

  /// Ends a step, in which so many of the numbers of all gradients were at the largest number of
  /// the format, or NaN. A step without numbers changes nothing.
  void end_step(std::size_t saturated, std::size_t numbers) {
    if (numbers == 0) return;
    const double share = static_cast<double>(saturated) / static_cast<double>(numbers);
    factor_ *= share > options_.threshold ? 0.5 : std::exp2(1 / options_.doubling_steps);
    factor_ = std::clamp(factor_, options_.least, options_.largest);
  }

  /// Shows "factor" to `visit(name, state)`.
  /// @throws DomainError if that sets one that is not from the least to the largest.
  template <class Visitor> void for_each_state(const Visitor& visit) {
    double shown = factor_;
    visit("factor", shown);
    require(options_.least <= shown && shown <= options_.largest, "AutomaticScale",
            "expected a factor from the least to the largest, got ", shown);
    factor_ = shown;
  }

 private:
  Options options_;
  double factor_;
};

}  // namespace UNIT_SCALING_NAMESPACE::optim

UNIT_SCALING_IEEE_END
