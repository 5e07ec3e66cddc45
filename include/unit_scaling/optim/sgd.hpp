// SPDX-License-Identifier: MIT
/// @file
/// Layer optim: stochastic gradient descent with momentum.
#pragma once

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
#include "unit_scaling/optim/learning_rate.hpp"
#include "unit_scaling/optim/optimiser.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::optim {

/// SGD with momentum μ: b ← μ b + g + λ p, p ← p − η b (Nesterov: p ← p − η (g + λ p + μ b)).
/// η is the learning rate of the step, λ the weight decay, coupled as usual for SGD.
/// A step that could make finite weights infinite is refused. Decay of weights near the largest
/// float is not looked for, as it would take another pass.
class Sgd {
 public:
  struct Options {
    double momentum = 0.9;    ///< μ
    double weight_decay = 0;  ///< λ
    bool nesterov = false;
    /// Rules the model follows: sets each parameter's sgd_learning_rate_factor.
    Rule rule = Rule::none;
    bool readout_is_constrained = false;  ///< see sgd_learning_rate_factor
    bool allow_untagged = false;          ///< see SettingOptions
    bool allow_non_finite = false;        ///< steps on gradients that are infinite or NaN
    /// Gradients are clipped, all of them by one factor, so that the norm of all of them together,
    /// divided by the loss scale, is at most this; infinite: they are not, and no norm is computed.
    /// Unit-scaled gradients are near 1 each, so their norm is near the root of the number of
    /// parameters, not near 1: begin with ten times the norm of the first steps.
    double max_norm = std::numeric_limits<double>::infinity();
  };

  /// @throws DomainError as settings_of; or unless momentum is in [0, 1) as a float.
  explicit Sgd(const ParameterGroups& groups) : Sgd(groups, Options{}) {}
  Sgd(const ParameterGroups& groups, const Options& options)
      : settings_(settings_of("Sgd", groups,
                              {.weight_decay = options.weight_decay,
                               .rule = options.rule,
                               .allow_untagged = options.allow_untagged},
                              [&](const Parameter& parameter) {
                                return sgd_learning_rate_factor(options.rule, parameter,
                                                                options.readout_is_constrained);
                              })),
        options_(options),
        momentum_(detail::zeros_like(settings_)) {
    require_share("Sgd", "momentum", options.momentum);
    detail::require_max_norm("Sgd", options.max_norm, options.allow_non_finite);
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

  /// What decay takes of a weight in a step at this rate, once the momentum has built up.
  [[nodiscard]] DecayShare decay_share(const ParameterSetting& setting,
                                       double learning_rate) const {
    const double rate = learning_rate * setting.learning_rate_factor / (1 - options_.momentum);
    return {rate * setting.weight_decay, /*is_apart=*/false};
  }

  /// Shows "momentum.NAME" for each parameter and "steps" to `visit(name, state)`.
  /// @throws DomainError if that sets more than 2^53 steps.
  template <class Visitor> void for_each_state(const Visitor& visit) {
    for (std::size_t k = 0; k < settings_.size(); ++k) {
      if (settings_[k].is_kept_elsewhere) continue;
      visit("momentum." + settings_[k].name, momentum_[k]);
    }
    detail::visit_steps("Sgd", steps_, visit);
  }

 private:
  std::vector<ParameterSetting> settings_;
  Options options_;
  std::vector<Array<float>> momentum_;
  std::uint64_t steps_ = 0;
  std::optional<double> last_gradient_norm_;
};

template <GradientSource Gradients>
void Sgd::step(const Gradients& gradients, double learning_rate, double loss_scale) {
  const DefaultArithmetic arithmetic;
  // Of gradients of up to 1 − μ, momentum never sums up more than 1.
  const auto mu = static_cast<float>(options_.momentum);
  const detail::StepGradients step_gradients =
      detail::check_step("Sgd", settings_, {&momentum_}, gradients,
                         {.learning_rate = learning_rate,
                          .loss_scale = loss_scale,
                          .largest_gradient = detail::largest_sum * (1 - mu),
                          .decay_is_times_rate = true,
                          .allow_non_finite = options_.allow_non_finite,
                          .max_norm = options_.max_norm});
  ++steps_;
  last_gradient_norm_ = step_gradients.norm;
  const auto per_divisor = static_cast<float>(1 / step_gradients.divisor);
  for (std::size_t k = 0; k < settings_.size(); ++k) {
    if (settings_[k].is_kept_elsewhere) continue;
    Parameter& parameter = *settings_[k].parameter;
    const auto& gradient = gradients.gradient(parameter);
    if (gradient.size() == 0) continue;
    const auto rate = static_cast<float>(learning_rate * settings_[k].learning_rate_factor);
    const auto* g = detail::gradient_elements(gradient);
    float* p = parameter.value.mutable_data();
    float* b = momentum_[k].mutable_data();
    const auto decay = static_cast<float>(settings_[k].weight_decay);
    detail::for_each_lane(gradient.size(), [&](std::size_t i, auto count) {
      const auto value = kernels::load<float>(p + i, count);
      const auto slope =
          add_products(kernels::load<float>(g + i, count), per_divisor, decay, value);
      const auto buffer = mu * kernels::load<float>(b + i, count) + slope;
      const auto direction = options_.nesterov ? slope + mu * buffer : buffer;
      kernels::store<Overflow::infinity_or_nan, float>(buffer, b + i, count);
      kernels::store<Overflow::infinity_or_nan, float>(value - rate * direction, p + i, count);
    });
  }
}

}  // namespace UNIT_SCALING_NAMESPACE::optim

UNIT_SCALING_IEEE_END
