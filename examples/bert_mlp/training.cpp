// SPDX-License-Identifier: MIT
#include "training.hpp"

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <limits>
#include <memory>
#include <numbers>
#include <optional>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "any_optimiser.hpp"
#include "any_tape.hpp"
#include "checkpoint.hpp"
#include "inspection.hpp"
#include "machine.hpp"
#include "numerics.hpp"
#include "options.hpp"
#include "ranks.hpp"
#include "recipe.hpp"
#include "record.hpp"
#include "replicas.hpp"
#include "results.hpp"
#include "run_result.hpp"
#include "unit_scaling/analysis/quantile.hpp"
#include "unit_scaling/analysis/tracker.hpp"
#include "unit_scaling/autograd/parameter.hpp"
#include "unit_scaling/autograd/tape.hpp"
#include "unit_scaling/core/file_error.hpp"
#include "unit_scaling/core/memory.hpp"
#include "unit_scaling/formats/encoded_array.hpp"
#include "unit_scaling/nn/bert_mlp.hpp"
#include "unit_scaling/nn/residual.hpp"
#include "unit_scaling/optim/gradient_sum.hpp"
#include "unit_scaling/optim/optimiser.hpp"
#include "unit_scaling/optim/parameter_groups.hpp"
#include "unit_scaling/train/fingerprint.hpp"
#include "unit_scaling/train/masked_batch.hpp"
#include "unit_scaling/train/progress.hpp"
#include "unit_scaling/train/recent_mean.hpp"
#include "unit_scaling/train/schedule.hpp"
#include "unit_scaling/train/text_corpus.hpp"

namespace bert_mlp {

namespace {

/// A batch of the held-out text: its windows and how characters are hidden.
struct ValidationBatch {
  std::size_t first;
  std::size_t count;
  std::size_t stride;
  std::uint32_t draw;
};

/// Each window hidden in four ways, so that most characters of the held-out text count.
std::vector<ValidationBatch> whole_validation(const Options& options,
                                              const us::train::MaskedBatches& batches) {
  const std::size_t windows = batches.validation_windows();
  std::vector<ValidationBatch> parts;
  for (std::uint32_t draw = 0; draw < 4; ++draw) {
    for (std::size_t first = 0; first < windows; first += options.batch) {
      parts.push_back({first, std::min(options.batch, windows - first), 1, draw});
    }
  }
  return parts;
}

/// Batches hidden in one way, each of windows from all over the held-out text: neighbours are too
/// alike to stand for it. A batch without a backward pass takes about a third of a step, so one for
/// eight steps takes about a twentieth of the time.
std::vector<ValidationBatch> validation_sample(const Options& options,
                                               const us::train::MaskedBatches& batches) {
  const std::size_t windows = batches.validation_windows();
  const std::size_t stride = std::max<std::size_t>(1, windows / options.batch);
  const std::size_t wanted = std::clamp<std::size_t>(options.eval_every / 8, 1, stride);
  std::vector<ValidationBatch> parts;
  for (std::size_t i = 0; i < wanted; ++i) {
    parts.push_back({i * stride / wanted, std::min(options.batch, windows), stride, 0});
  }
  return parts;
}

/// Adds a hash of each state of the optimiser to what ranks are to be told alike.
void add_states(AnyOptimiser& optimiser, us::train::Fingerprint& told) {
  const auto add = [&](const std::string& name, const auto& elements) {
    const auto bytes = std::as_bytes(elements);
    told.add_data(name, {reinterpret_cast<const char*>(bytes.data()), bytes.size()});
  };
  for_each_state(optimiser, [&]<class T>(const std::string& name, const T& state) {
    const std::string key = "optimiser." + name;
    if constexpr (std::is_arithmetic_v<T>) {
      told.add(key, state);
    } else if constexpr (std::is_same_v<T, us::EncodedArray>) {
      add("codes of " + key, state.codes());
      add("scales of " + key, state.scale_codes());
    } else {
      add(key, state.span());
    }
  });
}

/// Bits per character over those batches, under the recipe if there is one.
/// @param memory of the training, which waits meanwhile: used again here.
/// @param progress shows how far it is.
/// @param before_each is called before each batch.
/// @param ranks take turns with the batches, and each gets the result of all.
double validate(const Variant& variant, const us::nn::BertMlp& model,
                const us::train::MaskedBatches& batches, const std::vector<ValidationBatch>& parts,
                std::shared_ptr<us::RecipeOfTape> recipe, us::RecyclingResource& memory,
                us::train::Progress& progress, const std::function<void()>& before_each,
                const Ranks& ranks) {
  const auto tape = make_tape(variant.precision, us::TapeMode::inference, &memory);
  tape->use_recipe(std::move(recipe));
  double sum = 0;
  std::size_t items = 0;
  for (std::size_t turn = 0; turn < parts.size(); turn += ranks.size()) {
    before_each();
    progress.show("validating " + std::to_string(100 * turn / parts.size()) + "%");
    std::array<double, 2> of_batch{};  // its loss, and how many items it is a mean of
    if (const std::size_t i = turn + ranks.rank(); i < parts.size()) {
      const auto [first, count, stride, draw] = parts[i];
      const auto batch = batches.validation(first, count, draw, stride);
      if (tape->step() != i) tape->set_step(i);  // other ranks have had those between
      tape->clear();
      of_batch = {tape->record({model, batch, variant.scaling}),
                  static_cast<double>(batch.labels.size())};
    }
    const std::vector<double> of_all = ranks.gather(of_batch);
    for (std::size_t i = 0; i < of_all.size(); i += 2) {
      sum += of_all[i] * of_all[i + 1];
      items += static_cast<std::size_t>(of_all[i + 1]);
    }
  }
  return sum / static_cast<double>(items) / std::numbers::ln2;
}

}  // namespace

std::unique_ptr<AnyTape> make_tape(const std::string& precision, us::TapeMode mode,
                                   std::pmr::memory_resource* upstream) {
  return with_precision(precision,
                        [&]<us::Precision P>(P) { return make_tape_of<P>(mode, upstream); });
}

us::nn::BertMlp make_model(const Options& options, const us::Scaling& scaling,
                           std::size_t vocabulary_size) {
  us::nn::Initialiser initialiser(options.seed, scaling);
  return us::nn::BertMlp(
      initialiser,
      {.vocabulary_size = vocabulary_size,
       .window = options.window,
       .hidden_size = options.hidden_size,
       .layers = options.layers,
       .norm = options.norm == "pre" ? us::nn::NormPlacement::pre : us::nn::NormPlacement::post});
}

RunResult train(const Options& options, const Variant& variant, const us::train::TextCorpus& corpus,
                const Machine& machine, const Ranks& ranks, bool save) {
  RunResult result;
  result.variant = variant;
  result.learning_rate = options.rate_of(variant);
  if (options.report) {
    us::nn::BertMlp model = make_model(options, variant.scaling, corpus.vocabulary_size());
    const us::train::MaskedBatches batches(corpus, options.window, options.seed);
    const auto batch = batches.training(options.batch, 0);
    const auto optimiser = make_optimiser(options, variant, us::optim::parameters_of(model));
    result.numerics =
        inspect(variant, {model, batch, variant.scaling}, optimiser, result.learning_rate);
  }
  reset_peak_memory();
  us::nn::BertMlp model = make_model(options, variant.scaling, corpus.vocabulary_size());
  const std::vector<us::Parameter*> parameters = us::optim::parameters_of(model);
  auto optimiser = make_optimiser(options, variant, parameters);
  std::optional<us::optim::GradientSum> sum;
  if (options.batches_per_step() > 1) sum.emplace(parameters);
  std::optional<ReplicaGradients> replicas;
  if (options.replicas > 1) replicas.emplace(options, variant, ranks, parameters);
  model.for_each_parameter(
      [&](const us::Parameter& each) { result.parameter_bytes += each.bytes(); });
  for_each_state(optimiser, [&]<class T>(const std::string& /*name*/, const T& state) {
    if constexpr (requires { state.bytes(); }) result.optimiser_bytes += state.bytes();
  });
  if (sum) result.optimiser_bytes += sum->bytes();
  if (replicas) result.optimiser_bytes += replicas->copies() * result.parameter_bytes;
  const us::train::MaskedBatches batches(corpus, options.window, options.seed);
  const us::train::Schedule schedule = options.rate_schedule();
  const us::train::Fingerprint fingerprint = fingerprint_of(options, variant, corpus);
  const std::size_t end = options.stop_at.value_or(options.steps);
  std::size_t step = 0;
  Record record;
  const std::shared_ptr<us::RecipeOfTape> recipe = recipe_of(options, variant);
  if (!options.resume.empty()) {
    step = load_checkpoint(options, fingerprint, record, model, optimiser, recipe.get());
  }
  {
    us::train::Fingerprint told = fingerprint;
    told.add("step", step);
    // A file that was resumed from may be another one on another host.
    if (ranks.size() > 1) add_states(optimiser, told);
    ranks.require_agreement(told, parameters);
  }
  const std::size_t own_replicas = options.replicas / ranks.size();
  const std::size_t tokens_per_step = options.tokens_per_step();
  const auto loss_scale = static_cast<float>(variant.loss_scale);
  const auto sample = validation_sample(options, batches);
  const std::filesystem::path checkpoint = options.out / "checkpoint.safetensors";
  const auto save_if_wanted = [&] {
    if (!save) return;
    // A disk that is full now need not be so at the next checkpoint.
    result.unsaved.clear();
    try {
      if (save_checkpoint(checkpoint, fingerprint, step, record, model, optimiser, recipe.get())) {
        // What is told there is of another model.
        if (!result.checkpoint_step) remove_earlier_results(options.out);
        result.checkpoint_step = step;
      }
    } catch (const us::FileError& error) {
      result.unsaved = error.what();
    }
  };

  const auto tape = make_tape(variant.precision);
  tape->use_recipe(recipe);
  // What is not training leaves the recipe's state as it is.
  const auto recipe_as_it_is = [&] {
    auto copy = recipe_of(options, variant);
    copy_state(recipe.get(), copy.get());
    return copy;
  };
  us::train::Progress progress(
      variant.name(), options.steps, stderr,
      {.quiet = options.quiet, .loss_name = "mean bpc", .first_step = step});
  std::size_t validation_bytes = 0;  // that the tape holds only since it lent its memory
  // A checkpoint has the point of its step, so a validation that makes one is not stopped.
  const std::function<void()> go_on = [] {};
  const std::function<void()> stop_if_asked = [&] {
    if (ranks.interruption() == 0) return;
    // A model as it was at the beginning is not worth the checkpoint that may be there, nor is one
    // that the same training, which gives the same bits, has left behind.
    if (save && result.measured_steps > 0) {
      const auto there = step_of_checkpoint(checkpoint, fingerprint);
      if (there && *there >= step) {
        result.checkpoint_step = there;
        result.unsaved.clear();
      } else {
        save_if_wanted();
      }
    }
    result.steps = step;
    throw Interrupted(result, save);
  };
  const auto bits_per_character = [&](const std::vector<ValidationBatch>& parts,
                                      const std::function<void()>& before_each) {
    const std::size_t held = tape->bytes_held();
    const double bpc = validate(variant, model, batches, parts, recipe_as_it_is(), tape->memory(),
                                progress, before_each, ranks);
    validation_bytes += tape->bytes_held() - held;
    return bpc;
  };
  us::train::RecentMean recent_bpc;
  std::optional<NumericsRecorder> recorder;
  if (options.report) {
    recorder.emplace(step, end, options.steps, options.replicas, options.accumulate);
  }
  std::optional<us::analysis::NonFiniteTensor> first_non_finite;
  double training_seconds = 0;
  std::vector<double> rates;  // tokens/s of each step
  while (step < end) {
    stop_if_asked();
    const auto start = std::chrono::steady_clock::now();
    us::train::MaskedBatch batch;
    std::size_t number = 0;                     // of the batch, among those of all steps
    const us::Parameter* not_finite = nullptr;  // whose gradient is not
    double loss_value = 0;                      // of one replica
    std::vector<double> told;                   // to the other ranks: the loss of each replica
    const auto is_finite = [&] { return std::isfinite(loss_value) && not_finite == nullptr; };
    if (replicas) replicas->clear();
    for (std::size_t own = 0; own < own_replicas && is_finite(); ++own) {
      const std::size_t replica = ranks.rank() * own_replicas + own;
      loss_value = 0;
      if (sum) sum->clear();
      for (std::size_t k = 0; k < options.accumulate && is_finite(); ++k) {
        number = (step * options.replicas + replica) * options.accumulate + k;
        batch = batches.training(options.batch, static_cast<std::uint32_t>(number));
        tape->set_step(number);  // which stochastic rounding depends on
        tape->clear();
        if (recorder) recorder->begin_batch(*tape, step, replica, k);
        loss_value += tape->record({model, batch, variant.scaling}) /
                      (std::numbers::ln2 * static_cast<double>(options.batches_per_step()));
        // A step that is looked at records each op on its own, so that more is saved.
        if (!result.saved_bytes || !tape->is_observed()) result.saved_bytes = tape->saved_bytes();
        tape->backward(loss_scale);
        if (recorder) recorder->end_batch(*tape);
        not_finite = tape->first_non_finite(parameters);
        if (sum) tape->add_to(*sum);
      }
      if (sum && not_finite == nullptr) {
        not_finite = us::optim::first_non_finite(GradientView(*sum), parameters);
      }
      told.push_back(loss_value);
      if (replicas && is_finite()) replicas->add(*sum);
    }
    told.resize(own_replicas, 0);
    told.push_back(is_finite() ? 0 : 1);
    double loss_of_step = 0;
    bool is_step_finite = true;
    const std::vector<double> told_by_all = ranks.gather(told);
    for (std::size_t k = 0; k < told_by_all.size(); ++k) {
      if ((k + 1) % told.size() != 0) {
        loss_of_step += told_by_all[k];
      } else if (told_by_all[k] != 0) {
        is_step_finite = false;
      }
    }
    // What is not finite in the sum alone is so on all ranks.
    const us::Parameter* not_finite_in_sum = nullptr;
    if (replicas && is_step_finite) {
      replicas->exchange();
      not_finite_in_sum = us::optim::first_non_finite(GradientView(*replicas), parameters);
    }
    if (!is_step_finite || not_finite_in_sum != nullptr) {
      std::string name;
      if (not_finite_in_sum != nullptr) {
        name = "gradient of " + not_finite_in_sum->name;  // of all batches
      } else if (!is_finite()) {
        tape->set_step(number);
        const bool is_forward = !std::isfinite(loss_value);
        const auto found =
            first_non_finite_in(*tape, {model, batch, variant.scaling},
                                is_forward ? std::nullopt : std::optional<float>(loss_scale));
        if (found) {
          name = *found + (is_forward ? " in the forward pass" : "");
        } else if (not_finite != nullptr) {
          name = "gradient of " + not_finite->name;  // of all batches of the replica
        }
      }
      name = ranks.first_text(name);
      // What was not finite in an earlier step, and did no harm until now, is not the cause.
      if (recorder) first_non_finite = recorder->first_non_finite();
      if ((!first_non_finite || first_non_finite->step < step) && !name.empty()) {
        first_non_finite = {step + 1, name};
      }
      tape->observe_with(nullptr);
      result.diverged = "step " + std::to_string(step + 1);
      if (first_non_finite) {
        result.diverged += ", first at " + first_non_finite->name;
        if (first_non_finite->step != step + 1) {
          result.diverged += " in step " + std::to_string(first_non_finite->step);
        }
      }
      break;
    }
    const double rate = result.learning_rate * schedule(step);
    // The sum is the same on all ranks, and so is what they are told.
    ranks.alike([&] {
      if (sum) {
        const GradientView gradients = replicas ? GradientView(*replicas) : GradientView(*sum);
        std::visit([&](auto& each) { each.step(gradients, rate, variant.loss_scale); }, optimiser);
      } else {
        tape->step_with(optimiser, rate, variant.loss_scale);
      }
    });
    if (recorder) recorder->end_step(*tape, model);
    ++step;
    const double seconds = seconds_since(start);
    training_seconds += seconds;
    rates.push_back(static_cast<double>(tokens_per_step) / seconds);
    ++result.measured_steps;
    record.loss_sum += loss_of_step;
    ++record.loss_count;
    progress.update(step, recent_bpc.add(loss_of_step), result.measured_steps * tokens_per_step,
                    training_seconds);

    // Also where the run stops early, for the one that continues it has the point as well.
    if (step % options.eval_every == 0) {
      const double bpc = bits_per_character(sample, go_on);
      record.add(step, bpc);
      if (std::isfinite(bpc) && step < end && is_checkpoint_due(record)) save_if_wanted();
    }
  }
  result.steps = step;
  if (result.saved_bytes) {
    const std::size_t held = tape->bytes_held() - validation_bytes;
    result.workspace_bytes = held - std::min(held, *result.saved_bytes);
  }
  if (const std::size_t bytes = peak_memory(); bytes > 0) result.peak_rss_bytes = bytes;
  if (!rates.empty()) {
    using us::analysis::quantile;
    result.tokens_per_s = Quartiles{.lower = quantile(rates, 0.25),
                                    .median = quantile(rates, 0.5),
                                    .upper = quantile(rates, 0.75)};
    const double selected =
        static_cast<double>(batches.selected(options.batch) * options.batches_per_step()) /
        static_cast<double>(tokens_per_step);
    result.sgemm_share = 3 * model.matmul_flops_per_token(selected) * result.tokens_per_s->median /
                         (machine.sgemm_gflops * 1e9);
  }
  tape->clear();
  if (result.diverged.empty()) {
    result.valid_bpc = bits_per_character(whole_validation(options, batches), stop_if_asked);
    if (std::isfinite(result.valid_bpc)) {
      save_if_wanted();
    } else {
      result.valid_bpc = std::numeric_limits<double>::quiet_NaN();
      result.diverged = "step " + std::to_string(step) + ", in validation";
    }
  }
  // A last point, which is in no checkpoint: a run that goes on from there has none.
  if (record.points.empty() || record.points.back().step != step) {
    const bool measurable = result.diverged.empty();
    record.add(step, measurable ? bits_per_character(sample, go_on)
                                : std::numeric_limits<double>::quiet_NaN());
  }
  tape->memory().release();
  progress.finish();
  if (recorder) recorder->finish(*result.numerics, first_non_finite);
  result.points = std::move(record.points);
  const bool is_float = variant.precision == "fp32" && variant.is_as_precision();
  if (!is_float && result.diverged.empty() && ranks.is_first()) {
    // Of so few tokens that comparing with fp32 takes less memory than training did.
    constexpr std::size_t most_tokens = 4096;
    const std::size_t sequences =
        std::min(options.batch, std::max<std::size_t>(1, most_tokens / options.window));
    const auto batch = batches.training(sequences, static_cast<std::uint32_t>(step));
    result.gradients =
        tape->gradient_underflow({model, batch, variant.scaling}, loss_scale, recipe_as_it_is());
  }
  return result;
}

void check_checkpoint(const Options& options, const Variant& variant,
                      const us::train::TextCorpus& corpus) {
  us::nn::BertMlp model = make_model(options, variant.scaling, corpus.vocabulary_size());
  auto optimiser = make_optimiser(options, variant, us::optim::parameters_of(model));
  Record record;
  load_checkpoint(options, fingerprint_of(options, variant, corpus), record, model, optimiser,
                  recipe_of(options, variant).get());
}

void check_simulation(const Options& options, const Variant& variant,
                      const us::train::TextCorpus& corpus) {
  if (variant.simulation.empty()) return;
  const us::nn::BertMlp model = make_model(options, variant.scaling, corpus.vocabulary_size());
  const auto batch = us::train::MaskedBatches(corpus, options.window, options.seed).training(1, 0);
  const auto tape = make_tape(variant.precision, us::TapeMode::inference);
  tape->use_recipe(recipe_of(options, variant));
  with_option("--simulate", variant.simulation, [&] {
    tape->record({model, batch, variant.scaling});
    tape->require_recipe_used();
  });
}

}  // namespace bert_mlp
