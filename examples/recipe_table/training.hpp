// SPDX-License-Identifier: MIT
// One training of one model under one method.
#pragma once

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "method.hpp"
#include "settings.hpp"
#include "task.hpp"
#include "unit_scaling/optim/encoded_gradients.hpp"
#include "unit_scaling/optim/low_precision_states.hpp"
#include "unit_scaling/recipes/recipe_named.hpp"
#include "unit_scaling/train/loss_scaling.hpp"
#include "unit_scaling/unit_scaling.hpp"

namespace recipe_table {

/// Adam as the method has it.
inline us::optim::AdamW make_adam(const Method& method, std::vector<us::Parameter*> parameters) {
  us::optim::Adam::Options options{.weight_decay = 0.01,
                                   .decay = us::optim::WeightDecay::decoupled,
                                   .rule = method.is_unit ? us::Rule::paper : us::Rule::none,
                                   .allow_non_finite = true};
  if (method.states == States::fp8_lm) options = us::optim::with_fp8_lm_states(options);
  if (method.states == States::coat) options = us::optim::with_coat_states(options);
  return us::optim::AdamW(std::move(parameters), options);
}

/// Gradients in FP8, where the method has them so. Those of unit scaling need no factor.
inline std::optional<us::optim::EncodedGradients> encoded_gradients(
    const Method& method, const std::vector<us::Parameter*>& parameters) {
  if (method.states != States::fp8_lm) return {};
  // As the constant loss scale has it: from 1 on, the paper's 1000 steps for a doubling are too
  // slow.
  us::optim::AutomaticScale::Options options{.initial = 1024};
  if (method.is_unit) options = {.initial = 1, .least = 1, .largest = 1};
  return us::optim::EncodedGradients(parameters, options);
}

/// Numbers of a state that a checkpoint has.
struct NumberCount {
  std::size_t& count;

  void operator()(std::string_view /*name*/, double& /*number*/) const { ++count; }
  void operator()(std::string_view /*name*/, std::uint64_t& /*number*/) const { ++count; }
  template <class T> void operator()(std::string_view /*name*/, us::Array<T>& array) const {
    count += array.size();
  }
  void operator()(std::string_view /*name*/, us::EncodedArray& array) const {
    count += array.size();
  }
  template <class T>
  void operator()(std::string_view name, std::map<std::string, T>& values) const {
    for (auto& [key, value] : values) (*this)(name, value);
  }
};

/// Trains one model under one method.
template <class Task, us::Precision P>
Figures train_task(const Method& method, const Settings& settings,
                   const us::train::TextCorpus& corpus, std::uint64_t seed) {
  us::nn::Initialiser initialiser(seed, method.is_unit ? us::scaling::paper : us::scaling::none);
  Task task(initialiser, corpus, settings, seed);
  const std::vector<us::Parameter*> parameters = us::optim::parameters_of(task.model());
  us::optim::AdamW adam = make_adam(method, parameters);
  const auto recipe = method.recipe.empty() ? nullptr : us::recipe_named(method.recipe, seed);
  auto loss_scale = method.loss_scale == LossScale::dynamic
                        ? us::train::LossScaling(us::train::DynamicLossScale{})
                        : us::train::LossScaling(method.loss_scale == LossScale::fixed ? 1024 : 1);
  const us::train::Schedule schedule{.warmup_steps = settings.steps / 10 + 1,
                                     .total_steps = settings.steps,
                                     .decay = us::train::Schedule::Decay::linear};
  const double rate =
      (method.is_unit ? settings.unit_rate : settings.plain_rate) / method.rate_divisor;

  Figures figures;
  std::optional<us::optim::EncodedGradients> gradients = encoded_gradients(method, parameters);
  us::Tape<P> tape;
  tape.use_recipe(recipe);
  std::vector<double> seconds;
  bool is_finite = true;
  for (std::size_t step = 0; step < settings.steps && is_finite; ++step) {
    const auto begin = std::chrono::steady_clock::now();
    tape.set_step(step);
    tape.clear();
    const auto loss = task.training_loss(tape, step);
    is_finite = std::isfinite(*loss.value().data());
    figures.saved_bytes = tape.saved_bytes();
    tape.backward(loss, static_cast<float>(loss_scale.scale()));
    const auto event = loss_scale.check(tape, parameters);
    if (!event.is_skipped()) {
      if (gradients) {
        gradients->take(tape);
        adam.step(*gradients, rate * schedule(step), event.scale * gradients->factor());
      } else {
        adam.step(tape, rate * schedule(step), event.scale);
      }
    }
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - begin;
    seconds.push_back(taken.count());
  }
  std::nth_element(seconds.begin(),
                   seconds.begin() + static_cast<std::ptrdiff_t>(seconds.size() / 2),
                   seconds.end());
  figures.tokens_per_second = static_cast<double>(settings.tokens) / seconds[seconds.size() / 2];
  for (const us::Parameter* each : parameters) figures.parameter_bytes += each->bytes();
  adam.for_each_state([&]<class T>(const std::string& /*name*/, T& state) {
    if constexpr (requires { state.bytes(); }) figures.optimiser_bytes += state.bytes();
  });
  const NumberCount count{figures.checkpoint_numbers};
  if (recipe) recipe->for_each_state(count);
  if (loss_scale.is_dynamic()) loss_scale.for_each_state(count);
  if (gradients) gradients->for_each_state(count);

  us::Tape<P> inference(us::TapeMode::inference);
  if (recipe) {
    const auto copy = us::recipe_named(method.recipe, seed);  // held-out batches teach it nothing
    us::copy_state(*recipe, *copy);
    inference.use_recipe(copy);
  }
  figures.bits_per_character =
      is_finite ? task.validate(inference) : std::numeric_limits<double>::quiet_NaN();
  return figures;
}

}  // namespace recipe_table
