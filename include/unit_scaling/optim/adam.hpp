// SPDX-License-Identifier: MIT
/// @file
/// Layer optim: Adam, and AdamW, which decays weights apart from the gradient.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "unit_scaling/core/arithmetic.hpp"
#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/kernels/elementary.hpp"
#include "unit_scaling/optim/learning_rate.hpp"
#include "unit_scaling/optim/optimiser.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::optim {

/// How weight decay λ enters Adam's update at learning rate η.
enum class WeightDecay {
  coupled,      ///< added to the gradient, g + λ p: Adam with L2 regularisation
  decoupled,    ///< p ← p − η λ p beside the update: AdamW as published
  independent,  ///< p ← p − λ p, whatever η: what transfers under u-μP
};

/// Adam: m ← β₁ m + (1−β₁) g, v ← β₂ v + (1−β₂) g², p ← p − η m̂ / (√v̂ + ε), with the bias
/// corrections m̂ = m / (1−β₁ᵗ), v̂ = v / (1−β₂ᵗ), in one pass over each parameter.
/// t counts steps of the optimiser; a parameter without a gradient in a step is passed over.
/// Moments are float. Decay acts on weights and tables, not on gains and biases.
/// A step that could make finite weights infinite is refused. To find two kinds of such steps would
/// take another pass, so they are not refused: steps with β₁² > β₂, under which m̂ / √v̂ has no
/// bound, and steps with coupled decay of weights whose squares are beyond float.
/// @see Kingma & Ba 2014, arXiv:1412.6980; Loshchilov & Hutter 2017, arXiv:1711.05101.
class Adam {
 public:
  struct Options {
    double beta1 = 0.9;
    double beta2 = 0.999;
    double epsilon = 1e-8;  ///< ε, at least 2^-70 / √(1−β₂); unit-scaled gradients are near 1
    double weight_decay = 0;  ///< λ
    /// How λ acts; if nothing is said, coupled under Adam and independent under AdamW.
    std::optional<WeightDecay> decay = std::nullopt;
    /// Rules the model follows: sets each parameter's learning_rate_factor.
    Rule rule = Rule::none;
    bool allow_untagged = false;    ///< see SettingOptions
    bool allow_non_finite = false;  ///< steps on gradients that are infinite or NaN
  };

  /// @throws DomainError as settings_of; or unless the betas are in [0, 1) as floats and ε is as in
  ///         detail::require_epsilon.
  explicit Adam(const ParameterGroups& groups) : Adam(groups, Options{}) {}
  Adam(const ParameterGroups& groups, const Options& options) : Adam("Adam", groups, options) {}

  /// @throws ShapeError, DomainError as every step; see detail::check_step.
  template <GradientSource Gradients>
  void step(const Gradients& gradients, double learning_rate, double loss_scale = 1);

  [[nodiscard]] const std::vector<ParameterSetting>& settings() const& { return settings_; }
  [[nodiscard]] std::vector<ParameterSetting> settings() const&& { return settings_; }
  [[nodiscard]] std::uint64_t steps() const { return steps_; }

  /// Shows "first_moment.NAME" and "second_moment.NAME" for each parameter, and "steps" to
  /// `visit(name, state)`.
  /// @throws DomainError if that sets more than 2^53 steps.
  template <class Visitor> void for_each_state(const Visitor& visit) {
    for (std::size_t k = 0; k < settings_.size(); ++k) {
      visit("first_moment." + settings_[k].name, first_moment_[k]);
      visit("second_moment." + settings_[k].name, second_moment_[k]);
    }
    detail::visit_steps(name_, steps_, visit);
  }

 protected:
  /// Under the name `name`, which is not copied.
  Adam(std::string_view name, const ParameterGroups& groups, const Options& options)
      : name_(name),
        settings_(settings_of(name, groups,
                              {.weight_decay = options.weight_decay,
                               .decay_is_independent = options.decay == WeightDecay::independent,
                               .rule = options.rule,
                               .allow_untagged = options.allow_untagged},
                              [&](const Parameter& parameter) {
                                return learning_rate_factor(options.rule, parameter);
                              })),
        options_(options),
        first_moment_(detail::zeros_like(settings_)),
        second_moment_(detail::zeros_like(settings_)) {
    require_share(name, "beta1", options.beta1);
    require_share(name, "beta2", options.beta2);
    detail::require_epsilon(name, options.epsilon, options.beta2);
  }

 private:
  std::string_view name_;
  std::vector<ParameterSetting> settings_;
  Options options_;
  std::vector<Array<float>> first_moment_;
  std::vector<Array<float>> second_moment_;
  std::uint64_t steps_ = 0;
};

template <GradientSource Gradients>
void Adam::step(const Gradients& gradients, double learning_rate, double loss_scale) {
  const DefaultArithmetic arithmetic;
  const auto t = static_cast<double>(steps_ + 1);
  const double first_correction = 1 / (1 - std::pow(options_.beta1, t));
  detail::check_step(name_, settings_, {&first_moment_, &second_moment_}, gradients,
                     {.learning_rate = learning_rate,
                      .loss_scale = loss_scale,
                      .rate_factor = first_correction,
                      .decay_is_times_rate = options_.decay == WeightDecay::decoupled,
                      .allow_non_finite = options_.allow_non_finite});
  ++steps_;
  const auto beta1 = static_cast<float>(options_.beta1);
  const auto beta2 = static_cast<float>(options_.beta2);
  const auto rest1 = static_cast<float>(1 - options_.beta1);
  const auto rest2 = static_cast<float>(1 - options_.beta2);
  const auto second_correction = static_cast<float>(1 / (1 - std::pow(options_.beta2, t)));
  const auto epsilon = static_cast<float>(options_.epsilon);
  const WeightDecay decay = options_.decay.value_or(WeightDecay::coupled);
  const auto per_loss_scale = static_cast<float>(1 / loss_scale);
  for (std::size_t k = 0; k < settings_.size(); ++k) {
    Parameter& parameter = *settings_[k].parameter;
    const auto& gradient = gradients.gradient(parameter);
    if (gradient.size() == 0) continue;
    const double lambda = settings_[k].weight_decay;
    const double parameter_rate = learning_rate * settings_[k].learning_rate_factor;
    const auto rate = static_cast<float>(parameter_rate * first_correction);
    const auto coupled = static_cast<float>(decay == WeightDecay::coupled ? lambda : 0);
    const auto keep =
        static_cast<float>(decay == WeightDecay::decoupled     ? 1 - parameter_rate * lambda
                           : decay == WeightDecay::independent ? 1 - lambda
                                                               : 1);
    const auto* g = detail::gradient_elements(gradient);
    float* p = parameter.value.mutable_data();
    float* m = first_moment_[k].mutable_data();
    float* v = second_moment_[k].mutable_data();
    detail::for_each_lane(gradient.size(), [&](std::size_t i, auto count) {
      const auto value = kernels::load<float>(p + i, count);
      const auto slope = kernels::load<float>(g + i, count) * per_loss_scale + coupled * value;
      const auto first = beta1 * kernels::load<float>(m + i, count) + rest1 * slope;
      const auto second = beta2 * kernels::load<float>(v + i, count) + rest2 * slope * slope;
      const auto update = first / (kernels::sqrt(second * second_correction) + epsilon);
      kernels::store<Overflow::infinity_or_nan, float>(first, m + i, count);
      kernels::store<Overflow::infinity_or_nan, float>(second, v + i, count);
      kernels::store<Overflow::infinity_or_nan, float>(keep * value - rate * update, p + i, count);
    });
  }
}

/// Adam with weight decay apart from the gradient: independent of the learning rate and 2^-13 a
/// step unless said otherwise, as u-μP trains; `WeightDecay::decoupled` is AdamW as published. The
/// reference library's independent decay goes with the schedule (λ η/η_peak); ours is λ in every
/// step.
class AdamW : public Adam {
 public:
  explicit AdamW(const ParameterGroups& groups) : AdamW(groups, Options{.weight_decay = 0x1p-13}) {}
  /// @throws DomainError as Adam; or if `options.decay` is WeightDecay::coupled: that is Adam.
  AdamW(const ParameterGroups& groups, const Options& options)
      : Adam("AdamW", groups, independent_unless_said(options)) {
    require(options.decay != WeightDecay::coupled, "AdamW",
            "expected decoupled or independent weight decay");
  }

 private:
  [[nodiscard]] static Options independent_unless_said(Options options) {
    if (!options.decay) options.decay = WeightDecay::independent;
    return options;
  }
};

}  // namespace UNIT_SCALING_NAMESPACE::optim

UNIT_SCALING_IEEE_END
