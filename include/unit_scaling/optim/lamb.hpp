// SPDX-License-Identifier: MIT
/// @file
/// Layer optim: LAMB, which trains BERT with large batches.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "unit_scaling/core/arithmetic.hpp"
#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/multiply_add.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/kernels/elementary.hpp"
#include "unit_scaling/kernels/rows.hpp"
#include "unit_scaling/optim/clip.hpp"
#include "unit_scaling/optim/learning_rate.hpp"
#include "unit_scaling/optim/optimiser.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::optim {

/// LAMB: m ← β₁ m + (1−β₁) g, v ← β₂ v + (1−β₂) g², u = m̂ / (√v̂ + ε) + λ p with the bias
/// corrections of Adam, p ← p − η (‖p‖ / ‖u‖) u. The trust ratio ‖p‖ / ‖u‖ is that of the whole
/// parameter, 1 if either norm is 0, and at most `max_trust_ratio`. A norm ‖p‖ above 2^63 counts as
/// 2^63. Finite weights therefore stay finite, except under betas with β₁² > β₂.
/// t counts steps of the optimiser; a parameter without a gradient in a step is passed over.
/// Moments are float; norms are summed in double, in one order whatever the number of threads.
/// @see You et al. 2019, arXiv:1904.00962, algorithm 2; the paper trains BERT with it.
class Lamb {
 public:
  struct Options {
    double beta1 = 0.9;
    double beta2 = 0.999;
    double epsilon = 1e-6;       ///< ε, at least 2^-70 / √(1−β₂)
    double weight_decay = 0.01;  ///< λ
    double max_trust_ratio = std::numeric_limits<double>::infinity();
    /// Rules the model follows: sets each parameter's learning_rate_factor.
    Rule rule = Rule::none;
    bool allow_untagged = false;    ///< see SettingOptions
    bool allow_non_finite = false;  ///< steps on gradients that are infinite or NaN
    /// Gradients are clipped, all of them by one factor, so that the norm of all of them together,
    /// divided by the loss scale, is at most this; infinite: they are not, and no norm is computed.
    /// Unit-scaled gradients are near 1 each, so their norm is near the root of the number of
    /// parameters, not near 1: begin with ten times the norm of the first steps.
    double max_norm = std::numeric_limits<double>::infinity();
  };

  /// @throws DomainError as settings_of; or unless the betas are in [0, 1) as floats, ε is as in
  ///         detail::require_epsilon and the largest trust ratio is above 0, or infinite.
  explicit Lamb(const ParameterGroups& groups) : Lamb(groups, Options{}) {}
  Lamb(const ParameterGroups& groups, const Options& options)
      : settings_(settings_of("Lamb", groups,
                              {.weight_decay = options.weight_decay,
                               .rule = options.rule,
                               .allow_untagged = options.allow_untagged},
                              [&](const Parameter& parameter) {
                                return learning_rate_factor(options.rule, parameter);
                              })),
        options_(options),
        first_moment_(detail::zeros_like(settings_)),
        second_moment_(detail::zeros_like(settings_)) {
    require_share("Lamb", "beta1", options.beta1);
    require_share("Lamb", "beta2", options.beta2);
    detail::require_epsilon("Lamb", options.epsilon, options.beta2);
    detail::require_max_norm("Lamb", options.max_norm, options.allow_non_finite);
    if (options.max_trust_ratio != std::numeric_limits<double>::infinity()) {
      require_positive("Lamb", "max_trust_ratio", options.max_trust_ratio);
    }
  }

  /// @throws ShapeError, DomainError as every step; see detail::check_step.
  template <GradientSource Gradients>
  void step(const Gradients& gradients, double learning_rate, double loss_scale = 1);

  [[nodiscard]] const std::vector<ParameterSetting>& settings() const& { return settings_; }
  [[nodiscard]] std::vector<ParameterSetting> settings() const&& { return settings_; }
  [[nodiscard]] std::uint64_t steps() const { return steps_; }
  /// The norm of all gradients of the last step together, divided by its loss scale and before
  /// clipping; empty before the first step, and without a `max_norm`.
  [[nodiscard]] std::optional<double> last_gradient_norm() const { return last_gradient_norm_; }

  /// Shows "first_moment.NAME" and "second_moment.NAME" for each parameter, and "steps" to
  /// `visit(name, state)`.
  /// @throws DomainError if that sets more than 2^53 steps.
  template <class Visitor> void for_each_state(const Visitor& visit) {
    for (std::size_t k = 0; k < settings_.size(); ++k) {
      if (settings_[k].is_kept_elsewhere) continue;
      visit("first_moment." + settings_[k].name, first_moment_[k]);
      visit("second_moment." + settings_[k].name, second_moment_[k]);
    }
    detail::visit_steps("Lamb", steps_, visit);
  }

 private:
  std::vector<ParameterSetting> settings_;
  Options options_;
  std::vector<Array<float>> first_moment_;
  std::vector<Array<float>> second_moment_;
  std::vector<float> update_;  ///< u of one parameter at a time; room for the largest
  std::uint64_t steps_ = 0;
  std::optional<double> last_gradient_norm_;
};

template <GradientSource Gradients>
void Lamb::step(const Gradients& gradients, double learning_rate, double loss_scale) {
  const DefaultArithmetic arithmetic;
  const detail::StepGradients step_gradients =
      detail::check_step("Lamb", settings_, {&first_moment_, &second_moment_}, gradients,
                         {.learning_rate = learning_rate,
                          .loss_scale = loss_scale,
                          .decay_is_times_rate = true,
                          .allow_non_finite = options_.allow_non_finite,
                          .max_norm = options_.max_norm});
  ++steps_;
  last_gradient_norm_ = step_gradients.norm;
  const auto t = static_cast<double>(steps_);
  const auto beta1 = static_cast<float>(options_.beta1);
  const auto beta2 = static_cast<float>(options_.beta2);
  const auto rest1 = static_cast<float>(1 - options_.beta1);
  const auto rest2 = static_cast<float>(1 - options_.beta2);
  const auto first_correction = static_cast<float>(1 / (1 - std::pow(options_.beta1, t)));
  const auto second_correction = static_cast<float>(1 / (1 - std::pow(options_.beta2, t)));
  const auto epsilon = static_cast<float>(options_.epsilon);
  const auto per_divisor = static_cast<float>(1 / step_gradients.divisor);
  for (std::size_t k = 0; k < settings_.size(); ++k) {
    if (settings_[k].is_kept_elsewhere) continue;
    Parameter& parameter = *settings_[k].parameter;
    const auto& gradient = gradients.gradient(parameter);
    if (gradient.size() == 0) continue;
    const auto lambda = static_cast<float>(settings_[k].weight_decay);
    update_.resize(std::max(update_.size(), gradient.size()));
    const auto* g = detail::gradient_elements(gradient);
    float* p = parameter.value.mutable_data();
    float* m = first_moment_[k].mutable_data();
    float* v = second_moment_[k].mutable_data();
    float* u = update_.data();
    detail::for_each_lane(gradient.size(), [&](std::size_t i, auto count) {
      const auto slope = kernels::load<float>(g + i, count) * per_divisor;
      const auto first = add_products(beta1, kernels::load<float>(m + i, count), rest1, slope);
      const auto second =
          add_products(beta2, kernels::load<float>(v + i, count), rest2 * slope, slope);
      kernels::store<Overflow::infinity_or_nan, float>(first, m + i, count);
      kernels::store<Overflow::infinity_or_nan, float>(second, v + i, count);
      kernels::store<Overflow::infinity_or_nan, float>(
          first_correction * first / (kernels::sqrt(second * second_correction) + epsilon) +
              lambda * kernels::load<float>(p + i, count),
          u + i, count);
    });
    const double of_value = detail::sum_of_squares(p, gradient.size());
    const double of_update = detail::sum_of_squares(u, gradient.size());
    constexpr auto largest_square = static_cast<double>(detail::largest_sum * detail::largest_sum);
    const double ratio = of_value == 0 || of_update == 0
                             ? 1
                             : std::min(std::sqrt(std::min(of_value, largest_square) / of_update),
                                        options_.max_trust_ratio);
    // An update that is tiny as a whole asks for a factor beyond float.
    const auto rate =
        static_cast<float>(std::min(learning_rate * settings_[k].learning_rate_factor * ratio,
                                    static_cast<double>(std::numeric_limits<float>::max())));
    detail::for_each_lane(gradient.size(), [&](std::size_t i, auto count) {
      kernels::store<Overflow::infinity_or_nan, float>(
          kernels::load<float>(p + i, count) - rate * kernels::load<float>(u + i, count), p + i,
          count);
    });
  }
}

}  // namespace UNIT_SCALING_NAMESPACE::optim

UNIT_SCALING_IEEE_END
