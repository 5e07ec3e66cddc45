// SPDX-License-Identifier: MIT
/// @file
/// Layer optim: Adam, and AdamW, which decays weights apart from the gradient.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "unit_scaling/autograd/parameter.hpp"
#include "unit_scaling/core/arithmetic.hpp"
#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/memory.hpp"
#include "unit_scaling/core/multiply_add.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/kernels/elementary.hpp"
#include "unit_scaling/kernels/lanes.hpp"
#include "unit_scaling/kernels/largest_magnitude.hpp"
#include "unit_scaling/optim/learning_rate.hpp"
#include "unit_scaling/optim/optimiser.hpp"
#include "unit_scaling/optim/state_format.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::optim {

/// How weight decay λ enters Adam's update at learning rate η.
enum class WeightDecay {
  coupled,      ///< added to the gradient, g + λ p: Adam with L2 regularisation
  decoupled,    ///< p ← p − η λ p beside the update: AdamW as published
  independent,  ///< p ← p − λ p, whatever η: what transfers under u-μP
};

namespace detail {

/// The numbers of a step of Adam on one parameter, and what it does to sixteen elements.
struct AdamUpdate {
  float beta1;
  float rest1;  ///< 1 − β₁
  float beta2;
  float rest2;
  float second_correction;
  float epsilon;
  float per_divisor;
  float coupled;  ///< decay that is added to the gradient
  float keep;     ///< what other decay leaves of a weight
  float rate;     ///< η with all of its factors

  /// m and v from what they were.
  [[gnu::always_inline]] void move_moments(float32x16 value, float32x16 gradient, float32x16& first,
                                           float32x16& second) const {
    const auto slope = add_products(gradient, per_divisor, coupled, value);
    first = add_products(beta1, first, rest1, slope);
    second = add_products(beta2, second, rest2 * slope, slope);
  }

  /// p from what it was.
  [[nodiscard, gnu::always_inline]] float32x16 moved(float32x16 value, float32x16 first,
                                                     float32x16 second) const {
    const auto update = first / (kernels::sqrt(second * second_correction) + epsilon);
    return add_products(keep, value, -rate, update);
  }

  /// Moves `count` elements of the arrays from i on.
  template <class G, class Count>
  [[gnu::always_inline]] void move(const G* g, float* p, float* m, float* v, std::size_t i,
                                   Count count) const {
    const auto value = kernels::load<float>(p + i, count);
    auto first = kernels::load<float>(m + i, count);
    auto second = kernels::load<float>(v + i, count);
    move_moments(value, kernels::load<float>(g + i, count), first, second);
    kernels::store<Overflow::infinity_or_nan, float>(first, m + i, count);
    kernels::store<Overflow::infinity_or_nan, float>(second, v + i, count);
    kernels::store<Overflow::infinity_or_nan, float>(moved(value, first, second), p + i, count);
  }
};

/// The step on a parameter of which something is codes, from a gradient whose elements are G.
template <class G> class AdamStepOnCodes final : public StepOnCodes {
 public:
  /// @param largest_gradient the largest finite magnitude of the `size` elements from `g` on.
  AdamStepOnCodes(const AdamUpdate& update, const G* g, std::size_t size, float largest_gradient)
      : update_(update), g_(g), size_(size), largest_gradient_(largest_gradient) {}

  [[nodiscard]] double bound(std::size_t index, float before, float largest_weight) const override {
    const double slope =
        static_cast<double>(largest_gradient_) * static_cast<double>(update_.per_divisor) +
        static_cast<double>(update_.coupled) * static_cast<double>(largest_weight);
    const auto old = static_cast<double>(before);
    return index == 0 ? static_cast<double>(update_.beta1) * old +
                            static_cast<double>(update_.rest1) * slope
                      : static_cast<double>(update_.beta2) * old +
                            static_cast<double>(update_.rest2) * slope * slope;
  }

  void move(std::size_t first, std::size_t count, float* p, float* m, float* v) const override {
    kernels::for_lanes<float>(count, [&](std::size_t i, auto some) {
      // One line at a time: a chunk of them at once would keep all other loads waiting.
      const std::size_t later = std::min(first + i + elements_ahead, size_ - 1);
      prefetch_line(g_ + later);
      prefetch_line(p + later);
      update_.move(g_ + first, p + first, m, v, i, some);
    });
  }

 private:
  AdamUpdate update_;
  const G* g_;
  std::size_t size_;
  float largest_gradient_;
};

}  // namespace detail

/// Adam: m ← β₁ m + (1−β₁) g, v ← β₂ v + (1−β₂) g², p ← p − η m̂ / (√v̂ + ε), with the bias
/// corrections m̂ = m / (1−β₁ᵗ), v̂ = v / (1−β₂ᵗ), in one pass over each parameter.
/// t counts steps of the optimiser; a parameter without a gradient in a step is passed over.
/// Decay acts on weights and tables, not on gains and biases.
/// Moments are float, or codes of a format of their own, which are decoded, moved in float and
/// encoded again, in one pass as well. The scale of a moment that has one for all of its elements
/// follows from a bound: β times its largest magnitude before the step, plus 1−β times that of the
/// gradient, or of its square. So nothing overflows. MS-AMP takes the largest magnitude itself, for
/// which it computes the moments twice; the bound rarely asks for another power of two.
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
    /// λ; if nothing is said, 0 under Adam, and under AdamW 2^-13, or 0.01 where it is decoupled.
    std::optional<double> weight_decay = std::nullopt;
    /// How λ acts; if nothing is said, coupled under Adam and independent under AdamW.
    std::optional<WeightDecay> decay = std::nullopt;
    /// Rules the model follows: sets each parameter's learning_rate_factor.
    Rule rule = Rule::none;
    bool allow_untagged = false;    ///< see SettingOptions
    bool allow_non_finite = false;  ///< steps on gradients that are infinite or NaN
    /// Gradients are clipped, all of them by one factor, so that the norm of all of them together,
    /// divided by the loss scale, is at most this; infinite: they are not, and no norm is computed.
    /// Unit-scaled gradients are near 1 each, so their norm is near the root of the number of
    /// parameters, not near 1: begin with ten times the norm of the first steps.
    /// Adam's update hardly changes with the scale of all its gradients, so here clipping bounds
    /// what one step can do to the moments, not the step itself.
    double max_norm = std::numeric_limits<double>::infinity();
    /// How m and v are kept: in binary32 if null, else as an EncodedStateFormat has it
    /// (optim/encoded_state_format.hpp).
    std::shared_ptr<const StateFormat> first_moment = nullptr;
    std::shared_ptr<const StateFormat> second_moment = nullptr;
    /// How p is kept, from the construction of the optimiser on: as floats if null, else as
    /// `Parameter::encoded`, of which a step decodes one parameter at a time, to scratch memory.
    /// Weights from 2^127 on may become infinite under a scale.
    std::shared_ptr<const StateFormat> master_weights = nullptr;
  };

  /// @throws DomainError as settings_of; or unless the betas are in [0, 1) as floats and ε is as in
  ///         detail::require_epsilon.
  explicit Adam(const ParameterGroups& groups) : Adam(groups, Options{}) {}
  Adam(const ParameterGroups& groups, const Options& options) : Adam("Adam", groups, options) {}

  /// @throws ShapeError, DomainError as every step; see detail::check_step. DomainError if a moment
  ///         is no longer encoded as it was.
  template <GradientSource Gradients>
  void step(const Gradients& gradients, double learning_rate, double loss_scale = 1);

  [[nodiscard]] const std::vector<ParameterSetting>& settings() const& { return settings_; }
  [[nodiscard]] std::vector<ParameterSetting> settings() const&& { return settings_; }
  [[nodiscard]] std::uint64_t steps() const { return steps_; }
  /// The norm of all gradients of the last step together, divided by its loss scale and before
  /// clipping; empty before the first step, and without a `max_norm`.
  [[nodiscard]] std::optional<double> last_gradient_norm() const { return last_gradient_norm_; }

  /// What decay takes of a weight in a step at this rate. Empty if it is coupled: it is then
  /// divided by the size of the gradient.
  [[nodiscard]] std::optional<DecayShare> decay_share(const ParameterSetting& setting,
                                                      double learning_rate) const {
    switch (options_.decay.value_or(WeightDecay::coupled)) {
      case WeightDecay::independent:
        return DecayShare{setting.weight_decay, /*is_apart=*/true};
      case WeightDecay::decoupled:
        return DecayShare{learning_rate * setting.learning_rate_factor * setting.weight_decay,
                          /*is_apart=*/true};
      case WeightDecay::coupled:
        break;
    }
    return std::nullopt;
  }

  /// Shows "first_moment.NAME" and "second_moment.NAME" for each parameter, and "steps" to
  /// `visit(name, state)`. Of a moment that is encoded that is its codes, an EncodedArray, and
  /// "first_moment_scales.NAME" and "first_moment_exponents.NAME" are the arrays beside them, where
  /// it has such.
  /// @throws DomainError if that sets more than 2^53 steps.
  template <class Visitor> void for_each_state(const Visitor& visit) {
    for (std::size_t k = 0; k < settings_.size(); ++k) {
      if (settings_[k].is_kept_elsewhere) continue;
      detail::visit_state("first_moment", settings_[k].name, first_moment_[k], visit);
      detail::visit_state("second_moment", settings_[k].name, second_moment_[k], visit);
    }
    detail::visit_steps(name_, steps_, visit);
  }

 protected:
  /// Under the name `name`, which is not copied.
  Adam(std::string_view name, const ParameterGroups& groups, const Options& options)
      : name_(name),
        settings_(settings_of(name, groups,
                              {.weight_decay = options.weight_decay ? *options.weight_decay : 0,
                               .decay_is_independent = options.decay == WeightDecay::independent,
                               .rule = options.rule,
                               .allow_untagged = options.allow_untagged},
                              [&](const Parameter& parameter) {
                                return learning_rate_factor(options.rule, parameter);
                              })),
        options_(options),
        first_moment_(detail::zeros_like(settings_, options.first_moment.get())),
        second_moment_(detail::zeros_like(settings_, options.second_moment.get())),
        largest_gradients_(settings_.size()) {
    require_share(name, "beta1", options.beta1);
    require_share(name, "beta2", options.beta2);
    detail::require_epsilon(name, options.epsilon, options.beta2);
    detail::require_max_norm(name, options.max_norm, options.allow_non_finite);
    if (options.master_weights == nullptr) return;
    std::vector<Parameter*> parameters;
    for (const ParameterSetting& setting : settings_) parameters.push_back(setting.parameter);
    options.master_weights->encode_master_weights(parameters);
  }

 private:
  std::string_view name_;
  std::vector<ParameterSetting> settings_;
  Options options_;
  std::vector<OptimiserState> first_moment_;
  std::vector<OptimiserState> second_moment_;
  std::vector<float> largest_gradients_;  ///< magnitudes, in the step that is taken
  std::uint64_t steps_ = 0;
  std::optional<double> last_gradient_norm_;
};

template <GradientSource Gradients>
void Adam::step(const Gradients& gradients, double learning_rate, double loss_scale) {
  const DefaultArithmetic arithmetic;
  const auto t = static_cast<double>(steps_ + 1);
  const double first_correction = 1 / (1 - std::pow(options_.beta1, t));
  const detail::StepGradients step_gradients =
      detail::check_step(name_, settings_, {&first_moment_, &second_moment_}, gradients,
                         {.learning_rate = learning_rate,
                          .loss_scale = loss_scale,
                          .rate_factor = first_correction,
                          .decay_is_times_rate = options_.decay == WeightDecay::decoupled,
                          .allow_non_finite = options_.allow_non_finite,
                          .takes_encoded_parameters = options_.master_weights != nullptr,
                          .largest_magnitudes = largest_gradients_.data(),
                          .max_norm = options_.max_norm});
  detail::require_encoded(name_, settings_, first_moment_, options_.first_moment.get());
  detail::require_encoded(name_, settings_, second_moment_, options_.second_moment.get());
  ++steps_;
  last_gradient_norm_ = step_gradients.norm;
  const WeightDecay decay = options_.decay.value_or(WeightDecay::coupled);
  const StateFormat* const formats = options_.first_moment    ? options_.first_moment.get()
                                     : options_.second_moment ? options_.second_moment.get()
                                                              : options_.master_weights.get();
  for (std::size_t k = 0; k < settings_.size(); ++k) {
    if (settings_[k].is_kept_elsewhere) continue;
    Parameter& parameter = *settings_[k].parameter;
    const auto& gradient = gradients.gradient(parameter);
    if (gradient.size() == 0) continue;
    const double lambda = settings_[k].weight_decay;
    const double parameter_rate = learning_rate * settings_[k].learning_rate_factor;
    const detail::AdamUpdate update{
        .beta1 = static_cast<float>(options_.beta1),
        .rest1 = static_cast<float>(1 - options_.beta1),
        .beta2 = static_cast<float>(options_.beta2),
        .rest2 = static_cast<float>(1 - options_.beta2),
        .second_correction = static_cast<float>(1 / (1 - std::pow(options_.beta2, t))),
        .epsilon = static_cast<float>(options_.epsilon),
        .per_divisor = static_cast<float>(1 / step_gradients.divisor),
        .coupled = static_cast<float>(decay == WeightDecay::coupled ? lambda : 0),
        .keep = static_cast<float>(decay == WeightDecay::decoupled     ? 1 - parameter_rate * lambda
                                   : decay == WeightDecay::independent ? 1 - lambda
                                                                       : 1),
        .rate = static_cast<float>(parameter_rate * first_correction)};
    const auto* g = detail::gradient_elements(gradient);
    if (formats != nullptr) {
      // Where all gradients are allowed, no check has found the largest one.
      const float largest = options_.allow_non_finite
                                ? kernels::largest_finite_magnitude(g, gradient.size())
                                : largest_gradients_[k];
      formats->take_step({{options_.first_moment.get(), options_.second_moment.get(),
                           options_.master_weights.get()},
                          parameter,
                          first_moment_[k],
                          second_moment_[k]},
                         /*needs_largest_weight=*/update.coupled != 0,
                         {steps_, static_cast<std::uint32_t>(3 * k)},
                         detail::AdamStepOnCodes(update, g, gradient.size(), largest));
      continue;
    }
    float* p = parameter.value.mutable_data();
    float* m = first_moment_[k].numbers.mutable_data();
    float* v = second_moment_[k].numbers.mutable_data();
    detail::for_each_lane(gradient.size(),
                          [&](std::size_t i, auto count) { update.move(g, p, m, v, i, count); });
  }
}

/// Adam with weight decay apart from the gradient: independent of the learning rate and 2^-13 a
/// step unless said otherwise, as u-μP trains. `WeightDecay::decoupled` is AdamW as published, with
/// PyTorch's 0.01 unless said otherwise. The reference library's independent decay goes with the
/// schedule (λ η/η_peak); ours is λ in every step.
class AdamW : public Adam {
 public:
  explicit AdamW(const ParameterGroups& groups) : AdamW(groups, Options{}) {}
  /// @throws DomainError as Adam; or if `options.decay` is WeightDecay::coupled: that is Adam.
  AdamW(const ParameterGroups& groups, const Options& options)
      : Adam("AdamW", groups, decaying(options)) {}

 private:
  [[nodiscard]] static Options decaying(Options options) {
    require(options.decay != WeightDecay::coupled, "AdamW",
            "expected decoupled or independent weight decay");
    if (!options.decay) options.decay = WeightDecay::independent;
    if (!options.weight_decay) {
      options.weight_decay = options.decay == WeightDecay::independent ? 0x1p-13 : 0.01;
    }
    return options;
  }
};

}  // namespace UNIT_SCALING_NAMESPACE::optim

UNIT_SCALING_IEEE_END
