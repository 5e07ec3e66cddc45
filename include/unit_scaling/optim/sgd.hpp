// SPDX-License-Identifier: MIT
/// @file
/// Layer optim: stochastic gradient descent with momentum.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "unit_scaling/optim/optimiser.hpp"

namespace unit_scaling::optim {

/// SGD with momentum μ: b ← μ b + g + λ p, p ← p − η b (Nesterov: p ← p − η (g + λ p + μ b)).
/// η is the learning rate of the step, λ the weight decay, coupled as usual for SGD.
class Sgd {
 public:
  struct Options {
    double momentum = 0.9;    ///< μ
    double weight_decay = 0;  ///< λ
    bool nesterov = false;
  };

  explicit Sgd(std::vector<Parameter*> parameters) : Sgd(std::move(parameters), Options{}) {}
  Sgd(std::vector<Parameter*> parameters, const Options& options)
      : parameters_(detail::checked_parameters("Sgd", std::move(parameters))),
        options_(options),
        momentum_(detail::zeros_like(parameters_)) {}

  template <Precision P>
  void step(const Tape<P>& tape, double learning_rate, double loss_scale = 1) {
    detail::check_step("Sgd", parameters_, tape, learning_rate, loss_scale);
    ++steps_;
    const auto rate = static_cast<float>(learning_rate);
    const auto per_loss_scale = static_cast<float>(1 / loss_scale);
    const auto mu = static_cast<float>(options_.momentum);
    for (std::size_t k = 0; k < parameters_.size(); ++k) {
      const auto& gradient = tape.gradient(*parameters_[k]);
      if (gradient.empty()) continue;
      const auto* g = gradient.data();
      float* p = parameters_[k]->value.mutable_data();
      float* b = momentum_[k].mutable_data();
      const auto decay = static_cast<float>(decays(*parameters_[k]) ? options_.weight_decay : 0);
      detail::for_each_lane(gradient.size(), [&](std::size_t i, auto count) {
        const auto value = kernels::load<float>(p + i, count);
        const auto slope = kernels::load<float>(g + i, count) * per_loss_scale + decay * value;
        const auto buffer = mu * kernels::load<float>(b + i, count) + slope;
        const auto direction = options_.nesterov ? slope + mu * buffer : buffer;
        kernels::store<Overflow::infinity_or_nan, float>(buffer, b + i, count);
        kernels::store<Overflow::infinity_or_nan, float>(value - rate * direction, p + i, count);
      });
    }
  }

  [[nodiscard]] std::uint64_t steps() const { return steps_; }
  void set_steps(std::uint64_t steps) { steps_ = steps; }

  template <class Visitor> void for_each_state(const Visitor& visit) {
    for (std::size_t k = 0; k < parameters_.size(); ++k) {
      visit("momentum." + parameters_[k]->name, momentum_[k]);
    }
  }

 private:
  std::vector<Parameter*> parameters_;
  Options options_;
  std::vector<Array<float>> momentum_;
  std::uint64_t steps_ = 0;
};

}  // namespace unit_scaling::optim
