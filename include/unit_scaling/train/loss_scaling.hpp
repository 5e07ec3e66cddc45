// SPDX-License-Identifier: MIT
/// @file
/// Layer train: loss scaling, which keeps gradients in the range of a narrow format by a factor on
/// the loss. What unit scaling does without.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "unit_scaling/autograd/parameter.hpp"
#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/optim/optimiser.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::train {

/// How a dynamic loss scale behaves. The defaults are those of PyTorch's GradScaler.
struct DynamicLossScale {
  double initial = 0x1p16;
  double growth_factor = 2;     ///< above 1
  double backoff_factor = 0.5;  ///< above 0 and below 1
  /// Good steps in a row after which the scale grows.
  std::uint64_t growth_interval = 2000;
  /// The scale neither grows above the largest nor backs off below the least. Both have a
  /// reciprocal that is finite as a float, as optimisers ask.
  double least = 0x1p-126;
  double largest = 0x1p126;
};

/// What became of the gradients of one step, and of the loss scale.
struct LossScaleEvent {
  /// What the gradients of this step are multiplied with, and the optimiser divides them by.
  double scale = 1;
  /// The first parameter whose gradient is not finite; null: all are. Then the optimiser is not to
  /// step.
  const Parameter* overflowed = nullptr;
  bool has_grown = false;
  bool has_backed_off = false;

  [[nodiscard]] bool is_skipped() const { return overflowed != nullptr; }
};

/// How often each event has happened.
struct LossScaleCounts {
  std::uint64_t skipped = 0;
  std::uint64_t grown = 0;
  std::uint64_t backed_off = 0;

  friend bool operator==(const LossScaleCounts&, const LossScaleCounts&) = default;
};

/// A loss scale, static or dynamic:
///
///     train::LossScaling scaling(train::DynamicLossScale{});  // or scaling(1024)
///     for (each step) {
///       tape.clear();
///       tape.backward(model.loss(tape, batch), static_cast<float>(scaling.scale()));
///       const train::LossScaleEvent event = scaling.check(tape, parameters);
///       if (!event.is_skipped()) adam.step(tape, rate, event.scale);
///     }
///
/// After each backward pass `check` looks for gradients that are not finite. A step with one is
/// skipped: neither parameters nor what an optimiser keeps are written to. A dynamic scale is then
/// multiplied with the back-off factor, and after `growth_interval` steps in a row without one with
/// the growth factor. A static scale stays; steps with a gradient that is not finite are skipped
/// under it too.
///
/// An optimiser's `max_norm` is that of the gradients divided by `event.scale`.
/// @see https://github.com/pytorch/pytorch/blob/main/torch/amp/grad_scaler.py, and
///      aten/src/ATen/native/cuda/AmpKernels.cu there, `amp_update_scale_cuda_kernel`: the rule.
/// @see Micikevicius et al. 2018, arXiv:1710.03740, section 3.2.
class LossScaling {
 public:
  /// A static scale.
  /// @throws DomainError unless it is as in `require_positive`.
  explicit LossScaling(double scale) : scale_(scale) { require_positive(name, "a scale", scale); }

  /// A dynamic scale.
  /// @throws DomainError for a growth factor that is not above 1 and finite, a back-off factor that
  ///         is not above 0 and below 1, an interval of 0, a least or largest scale that is not as
  ///         in `require_positive`, and an initial one that is not between these.
  explicit LossScaling(const DynamicLossScale& rule)
      : rule_(rule), scale_(rule.initial), is_dynamic_(true) {
    require_positive(name, "a growth factor", rule_.growth_factor);
    require_positive(name, "a backoff factor", rule_.backoff_factor);
    require(rule_.growth_factor > 1, name, "expected a growth factor above 1");
    require(rule_.backoff_factor < 1, name, "expected a backoff factor below 1");
    require(rule_.growth_interval > 0, name, "expected a growth interval of at least 1 step");
    require_positive(name, "a least scale", rule_.least);
    require_positive(name, "a largest scale", rule_.largest);
    require_scale(rule_.initial);
  }

  /// What the loss of the next step is to be multiplied with.
  [[nodiscard]] double scale() const { return scale_; }
  [[nodiscard]] bool is_dynamic() const { return is_dynamic_; }
  /// Good steps since the scale has changed last, or a step was skipped.
  [[nodiscard]] std::uint64_t good_steps() const { return good_steps_; }
  /// Of all steps so far, those before a checkpoint among them.
  [[nodiscard]] const LossScaleCounts& counts() const& { return counts_; }
  [[nodiscard]] LossScaleCounts counts() const&& { return counts_; }

  /// Tells whether the optimiser is to step on the gradients, which the scale has multiplied, and
  /// changes the scale for the next step.
  template <optim::GradientSource Gradients>
  [[nodiscard]] LossScaleEvent check(const Gradients& gradients,
                                     const std::vector<Parameter*>& parameters) {
    LossScaleEvent event{.scale = scale_,
                         .overflowed = optim::first_non_finite(gradients, parameters)};
    if (event.is_skipped()) {
      ++counts_.skipped;
      good_steps_ = 0;
      event.has_backed_off = is_dynamic_ && change_to(scale_ * rule_.backoff_factor);
      if (event.has_backed_off) ++counts_.backed_off;
    } else if (++good_steps_ == rule_.growth_interval && is_dynamic_) {
      good_steps_ = 0;
      event.has_grown = change_to(scale_ * rule_.growth_factor);
      if (event.has_grown) ++counts_.grown;
    }
    return event;
  }

  /// Shows the scale, the good steps and the counts to `visit(name, number)`, which may set them.
  /// @throws DomainError for a scale that it cannot have, a static one for another one, and for as
  ///         many good steps as let a scale grow. Nothing is set then.
  template <class Visitor> void for_each_state(const Visitor& visit) {
    double scale = scale_;
    std::uint64_t good_steps = good_steps_;
    LossScaleCounts counts = counts_;
    visit("scale", scale);
    visit("good_steps", good_steps);
    visit("skipped", counts.skipped);
    visit("grown", counts.grown);
    visit("backed_off", counts.backed_off);
    require_scale(scale);
    require(!is_dynamic_ || good_steps < rule_.growth_interval, name, "expected fewer than ",
            rule_.growth_interval, " good steps, got ", good_steps);
    scale_ = scale;
    good_steps_ = good_steps;
    counts_ = counts;
  }

 private:
  static constexpr std::string_view name = "LossScaling";

  [[nodiscard]] bool is_between(double scale) const {
    return scale >= rule_.least && scale <= rule_.largest;
  }

  void require_scale(double scale) const {
    require_attribute(is_dynamic_ ? is_between(scale) : scale == scale_, name, "a scale",
                      is_dynamic_ ? "between the least and the largest" : "as the static one is",
                      scale);
  }

  /// False if that scale is out of bounds: it stays then.
  [[nodiscard]] bool change_to(double scale) {
    if (!is_between(scale)) return false;
    scale_ = scale;
    return true;
  }

  DynamicLossScale rule_ = {};
  double scale_;
  bool is_dynamic_ = false;
  std::uint64_t good_steps_ = 0;
  LossScaleCounts counts_;
};

}  // namespace UNIT_SCALING_NAMESPACE::train

UNIT_SCALING_IEEE_END
