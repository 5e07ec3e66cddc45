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
#include <numbers>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "method.hpp"
#include "settings.hpp"
#include "unit_scaling/optim/low_precision_states.hpp"
#include "unit_scaling/recipes/recipe_named.hpp"
#include "unit_scaling/train/loss_scaling.hpp"
#include "unit_scaling/unit_scaling.hpp"

namespace recipe_table {

namespace us = unit_scaling;

/// A BertMlp with its loss on masked characters.
class BertMlpTask {
 public:
  static constexpr std::size_t window = 16;

  BertMlpTask(us::nn::Initialiser& initialiser, const us::train::TextCorpus& corpus,
              const Settings& settings, std::uint64_t seed)
      : model_(initialiser, {.vocabulary_size = corpus.vocabulary_size(),
                             .window = window,
                             .hidden_size = settings.hidden_size,
                             .layers = settings.layers}),
        batches_(corpus, window, seed),
        batch_(settings.tokens / window),
        scaling_(initialiser.scaling()) {}

  [[nodiscard]] us::nn::BertMlp& model() { return model_; }

  template <us::Precision P> auto training_loss(us::Tape<P>& tape, std::size_t step) const {
    return loss(tape, batches_.training(batch_, static_cast<std::uint32_t>(step)));
  }
  /// The mean over the held-out text, in bits.
  template <us::Precision P> double validate(us::Tape<P>& tape) const {
    double sum = 0;
    double items = 0;
    for (std::size_t first = 0; first < batches_.validation_windows(); first += batch_) {
      const auto batch =
          batches_.validation(first, std::min(batch_, batches_.validation_windows() - first), 0, 1);
      tape.clear();
      const auto size = static_cast<double>(batch.labels.size());
      sum += static_cast<double>(*loss(tape, batch).value().data()) * size;
      items += size;
    }
    return sum / items / std::numbers::ln2;
  }

 private:
  template <us::Precision P>
  auto loss(us::Tape<P>& tape, const us::train::MaskedBatch& batch) const {
    return us::ops::cross_entropy(model_(tape, batch.ids, batch.selected), batch.labels,
                                  {.scaling = scaling_});
  }

  us::nn::BertMlp model_;
  us::train::MaskedBatches batches_;
  std::size_t batch_;
  us::Scaling scaling_;
};

/// A decoder with its loss on the next character.
class DecoderTask {
 public:
  static constexpr std::size_t window = 64;

  DecoderTask(us::nn::Initialiser& initialiser, const us::train::TextCorpus& corpus,
              const Settings& settings, std::uint64_t seed)
      : model_(initialiser, corpus.vocabulary_size(),
               {.hidden_size = settings.hidden_size,
                .layers = settings.layers,
                .heads = std::max<std::size_t>(1, settings.hidden_size / 64),
                .rotary_base = 10000}),
        corpus_(corpus),
        seed_(seed),
        batch_(settings.tokens / window) {}

  [[nodiscard]] us::nn::TransformerDecoder& model() { return model_; }

  template <us::Precision P> auto training_loss(us::Tape<P>& tape, std::size_t step) const {
    const auto text = corpus_.training();
    const us::Random random(seed_, us::RandomStream::general, step);
    us::Array<std::int32_t> ids({batch_, window + 1});
    for (std::size_t i = 0; i < batch_; ++i) {
      const auto places = static_cast<double>(text.size() - window);
      copy_window(text, static_cast<std::size_t>(random.uniform(i) * places), ids, i);
    }
    return model_.next_token_loss(tape, ids);
  }
  /// The mean over the held-out text, in bits.
  template <us::Precision P> double validate(us::Tape<P>& tape) const {
    const auto text = corpus_.validation();
    const std::size_t windows = (text.size() - 1) / window;
    double sum = 0;
    for (std::size_t first = 0; first < windows; first += batch_) {
      const std::size_t count = std::min(batch_, windows - first);
      us::Array<std::int32_t> ids({count, window + 1});
      for (std::size_t i = 0; i < count; ++i) copy_window(text, (first + i) * window, ids, i);
      tape.clear();
      sum += static_cast<double>(*model_.next_token_loss(tape, ids).value().data()) *
             static_cast<double>(count);
    }
    return sum / static_cast<double>(windows) / std::numbers::ln2;
  }

 private:
  static void copy_window(std::span<const std::int32_t> text, std::size_t from,
                          us::Array<std::int32_t>& ids, std::size_t row) {
    std::copy_n(text.begin() + static_cast<std::ptrdiff_t>(from), window + 1,
                ids.mutable_data() + row * (window + 1));
  }

  us::nn::TransformerDecoder model_;
  const us::train::TextCorpus& corpus_;
  std::uint64_t seed_;
  std::size_t batch_;
};

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
  const double rate = method.is_unit ? settings.unit_rate : settings.plain_rate;

  Figures figures;
  for (const us::Parameter* each : parameters) figures.parameter_bytes += each->value.bytes();
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
    if (!event.is_skipped()) adam.step(tape, rate * schedule(step), event.scale);
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - begin;
    seconds.push_back(taken.count());
  }
  std::nth_element(seconds.begin(),
                   seconds.begin() + static_cast<std::ptrdiff_t>(seconds.size() / 2),
                   seconds.end());
  figures.tokens_per_second = static_cast<double>(settings.tokens) / seconds[seconds.size() / 2];
  adam.for_each_state([&]<class T>(const std::string& /*name*/, T& state) {
    if constexpr (requires { state.bytes(); }) figures.optimiser_bytes += state.bytes();
  });
  const NumberCount count{figures.checkpoint_numbers};
  if (recipe) recipe->for_each_state(count);
  if (loss_scale.is_dynamic()) loss_scale.for_each_state(count);

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
