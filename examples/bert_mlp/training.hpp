// SPDX-License-Identifier: MIT
// Trains one variant.
#pragma once

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numbers>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "checkpoint.hpp"
#include "machine.hpp"
#include "numerics.hpp"
#include "options.hpp"
#include "recent_mean.hpp"
#include "record.hpp"
#include "unit_scaling/analysis/gradient_underflow.hpp"
#include "unit_scaling/analysis/tracker.hpp"
#include "unit_scaling/autograd/simulation.hpp"
#include "unit_scaling/autograd/tape.hpp"
#include "unit_scaling/core/file_error.hpp"
#include "unit_scaling/nn/bert_mlp.hpp"
#include "unit_scaling/ops/cross_entropy.hpp"
#include "unit_scaling/optim/adam.hpp"
#include "unit_scaling/optim/gradient_sum.hpp"
#include "unit_scaling/optim/optimiser.hpp"
#include "unit_scaling/optim/parameter_groups.hpp"
#include "unit_scaling/optim/sgd.hpp"
#include "unit_scaling/train/masked_batch.hpp"
#include "unit_scaling/train/progress.hpp"
#include "unit_scaling/train/safetensors.hpp"
#include "unit_scaling/train/text_corpus.hpp"

namespace bert_mlp {

/// What became of a variant. Empty: not measured.
struct RunResult {
  Variant variant;
  double learning_rate = 0;
  std::size_t steps = 0;
  std::size_t measured_steps = 0;  // those of this process, not of the one it continues
  std::vector<Point> points;
  // At the end, on all of the held-out text. NaN also if it diverged.
  double valid_bpc = std::numeric_limits<double>::quiet_NaN();
  std::optional<double> tokens_per_s;      // over training steps alone
  std::optional<double> sgemm_share;       // share of the machine's sgemm rate, over whole steps
  std::size_t parameter_bytes = 0;         // master copies
  std::size_t optimiser_bytes = 0;         // moments or momentum, and sums of gradients
  std::optional<std::size_t> saved_bytes;  // between forward and backward pass
  std::optional<std::size_t> workspace_bytes;  // that the tape holds beyond those
  std::optional<std::size_t> peak_rss_bytes;
  std::optional<us::analysis::GradientUnderflow> gradients;  // against fp32, so not of fp32
  std::optional<std::size_t> checkpoint_step;                // of the last checkpoint saved
  std::optional<us::analysis::NumericsRun> numerics;         // with --report
  std::string unsaved;   // empty, or why the last checkpoint is not written
  std::string diverged;  // empty, or at which step and which tensor was the first not finite
};

inline us::nn::BertMlp make_model(const Options& options, const us::Scaling& scaling,
                                  std::size_t vocabulary_size) {
  us::nn::Initialiser initialiser(options.seed, scaling);
  return us::nn::BertMlp(initialiser, {.vocabulary_size = vocabulary_size,
                                       .window = options.window,
                                       .hidden_size = options.hidden_size,
                                       .layers = options.layers,
                                       .norm = options.norm});
}

/// The loss of a batch, recorded on the tape.
template <us::Precision P>
auto record_loss(us::Tape<P>& tape, const us::nn::BertMlp& model,
                 const us::train::MaskedBatch& batch, const us::Scaling& scaling) {
  return us::ops::cross_entropy(model(tape, batch.ids, batch.selected), batch.labels,
                                {.scaling = scaling});
}

/// What a variant rounds, under the seed of the run; empty: nothing beyond its precision.
inline std::optional<us::Simulation> simulation_of(const Options& options, const Variant& variant) {
  if (variant.simulation.empty()) return std::nullopt;
  return us::Simulation::parse(variant.simulation, options.seed);
}

/// A batch of the held-out text: its windows and how characters are hidden.
struct ValidationBatch {
  std::size_t first;
  std::size_t count;
  std::size_t stride;
  std::uint32_t draw;
};

/// Each window hidden in four ways, so that most characters of the held-out text count.
inline std::vector<ValidationBatch> whole_validation(const Options& options,
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
inline std::vector<ValidationBatch> validation_sample(const Options& options,
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

/// Bits per character over those batches, under the simulation if there is one.
/// @param memory of the training, which waits meanwhile: used again here.
/// @param progress shows how far it is.
template <us::Precision P>
double validate(const us::nn::BertMlp& model, const us::train::MaskedBatches& batches,
                const std::vector<ValidationBatch>& parts, const us::Scaling& scaling,
                const std::optional<us::Simulation>& simulation, us::RecyclingResource& memory,
                us::train::Progress& progress) {
  us::Tape<P> tape(us::TapeMode::inference, &memory);
  if (simulation) tape.simulate_with(*simulation);
  double sum = 0;
  std::size_t items = 0;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    progress.show("validating " + std::to_string(100 * i / parts.size()) + "%");
    const auto [first, count, stride, draw] = parts[i];
    const auto batch = batches.validation(first, count, draw, stride);
    tape.clear();
    const auto loss = record_loss(tape, model, batch, scaling);
    sum += static_cast<double>(*loss.value().data()) * static_cast<double>(batch.labels.size());
    items += batch.labels.size();
  }
  return sum / static_cast<double>(items) / std::numbers::ln2;
}

/// What the ops of a variant tell before any training, for --report.
template <us::Precision P, class MakeOptimiser>
us::analysis::NumericsRun inspected(const Options& options, const Variant& variant,
                                    const us::train::TextCorpus& corpus, double learning_rate,
                                    const MakeOptimiser& make_optimiser) {
  us::analysis::NumericsRun run;
  us::nn::BertMlp model = make_model(options, variant.scaling, corpus.vocabulary_size());
  const us::train::MaskedBatches batches(corpus, options.window, options.seed);
  inspect<P>(
      run,
      [&](us::Tape<P>& tape) {
        return record_loss(tape, model, batches.training(options.batch, 0), variant.scaling);
      },
      make_optimiser(us::optim::parameters_of(model)), learning_rate);
  run.facts.emplace_back("formats", formats_of<P>(!variant.simulation.empty()));
  return run;
}

/// Trains `variant` under precision P, with an optimiser that `make_optimiser(parameters)` makes.
template <us::Precision P, class MakeOptimiser>
RunResult train(const Options& options, const Variant& variant, const us::train::TextCorpus& corpus,
                const Machine& machine, const MakeOptimiser& make_optimiser, bool save) {
  RunResult result;
  result.variant = variant;
  result.learning_rate = options.rate_of(variant);
  if (options.report) {
    result.numerics = inspected<P>(options, variant, corpus, result.learning_rate, make_optimiser);
  }
  reset_peak_memory();
  us::nn::BertMlp model = make_model(options, variant.scaling, corpus.vocabulary_size());
  const std::vector<us::Parameter*> parameters = us::optim::parameters_of(model);
  auto optimiser = make_optimiser(parameters);
  std::optional<us::optim::GradientSum> sum;
  if (options.accumulate > 1) sum.emplace(parameters);
  model.for_each_parameter(
      [&](const us::Parameter& each) { result.parameter_bytes += each.value.bytes(); });
  optimiser.for_each_state([&](const std::string& /*name*/, const us::Array<float>& state) {
    result.optimiser_bytes += state.bytes();
  });
  if (sum) result.optimiser_bytes += sum->bytes();
  const us::train::MaskedBatches batches(corpus, options.window, options.seed);
  const us::train::Schedule schedule = options.rate_schedule();
  const std::string fingerprint = checkpoint_fingerprint(options, variant, corpus);
  const std::size_t end = options.stop_at.value_or(options.steps);
  std::size_t step = 0;
  Record record;
  if (!options.resume.empty()) {
    step =
        load_checkpoint(options, open_checkpoint(options, fingerprint), record, model, optimiser);
  }
  const std::size_t tokens_per_step = options.tokens_per_step();
  const auto loss_scale = static_cast<float>(variant.loss_scale);
  const auto sample = validation_sample(options, batches);
  const auto save_if_wanted = [&] {
    if (!save) return;
    // A disk that is full now need not be so at the next checkpoint.
    result.unsaved.clear();
    try {
      if (save_checkpoint(options.out / "checkpoint.safetensors", fingerprint, step, record, model,
                          optimiser)) {
        result.checkpoint_step = step;
      }
    } catch (const us::FileError& error) {
      result.unsaved = error.what();
    }
  };

  const auto simulation = simulation_of(options, variant);
  us::Tape<P> tape;
  if (simulation) tape.simulate_with(*simulation);
  us::train::Progress progress(
      variant.name(), options.steps, stderr,
      {.quiet = options.quiet, .loss_name = "mean bpc", .first_step = step});
  const auto bits_per_character = [&](const std::vector<ValidationBatch>& parts) {
    return validate<P>(model, batches, parts, variant.scaling, simulation, tape.memory(), progress);
  };
  RecentMean recent_bpc;
  std::optional<NumericsRecorder> recorder;
  if (options.report) recorder.emplace(step, end, options.steps, options.accumulate);
  std::optional<us::analysis::NonFiniteTensor> first_non_finite;
  double training_seconds = 0;
  while (step < end) {
    const auto start = std::chrono::steady_clock::now();
    double loss_value = 0;
    us::train::MaskedBatch batch;
    std::size_t number = 0;                     // of the batch, among those of all steps
    const us::Parameter* not_finite = nullptr;  // whose gradient is not
    if (sum) sum->clear();
    for (std::size_t k = 0;
         k < options.accumulate && std::isfinite(loss_value) && not_finite == nullptr; ++k) {
      number = step * options.accumulate + k;
      batch = batches.training(options.batch, static_cast<std::uint32_t>(number));
      tape.set_step(number);  // which stochastic rounding depends on
      tape.clear();
      // Of several batches the last stands for the step.
      if (recorder && k + 1 == options.accumulate) recorder->begin_step(tape, step);
      const auto loss = record_loss(tape, model, batch, variant.scaling);
      loss_value += static_cast<double>(*loss.value().data()) /
                    (std::numbers::ln2 * static_cast<double>(options.accumulate));
      // A step that is looked at records each op on its own, so that more is saved.
      if (!result.saved_bytes || !tape.is_observed()) result.saved_bytes = tape.saved_bytes();
      tape.backward(loss, loss_scale);
      not_finite = us::optim::first_non_finite(tape, parameters);
      if (sum) sum->add(tape);
    }
    if (sum && not_finite == nullptr) not_finite = us::optim::first_non_finite(*sum, parameters);
    if (!std::isfinite(loss_value) || not_finite != nullptr) {
      // What was not finite in an earlier step, and did no harm until now, is not the cause.
      if (recorder) first_non_finite = recorder->first_non_finite();
      if (!first_non_finite || first_non_finite->step < step) {
        us::analysis::Tracker tracker({.updates = false});
        tape.set_step(number);
        tape.clear();
        tracker.attach(tape);
        const auto loss = record_loss(tape, model, batch, variant.scaling);
        const bool is_forward = !std::isfinite(loss_value);
        if (!is_forward) tape.backward(loss, loss_scale);
        if (const auto first = tracker.first_non_finite()) {
          first_non_finite = {step + 1, first->name + (is_forward ? " in the forward pass" : "")};
        } else if (not_finite != nullptr) {
          first_non_finite = {step + 1, "gradient of " + not_finite->name};  // of all batches
        }
      }
      tape.observe_with(nullptr);
      result.diverged = "step " + std::to_string(step + 1);
      if (first_non_finite) {
        result.diverged += ", first at " + first_non_finite->name;
        if (first_non_finite->step != step + 1) {
          result.diverged += " in step " + std::to_string(first_non_finite->step);
        }
      }
      break;
    }
    const auto take_step = [&](const auto& gradients) {
      optimiser.step(gradients, result.learning_rate * schedule(step), variant.loss_scale);
    };
    if (sum) {
      take_step(*sum);
    } else {
      take_step(tape);
    }
    if (recorder) recorder->end_step(tape, model);
    ++step;
    training_seconds += seconds_since(start);
    ++result.measured_steps;
    record.loss_sum += loss_value;
    ++record.loss_count;
    progress.update(step, recent_bpc.add(loss_value), result.measured_steps * tokens_per_step,
                    training_seconds);

    // Also where the run stops early, for the one that continues it has the point as well.
    if (step % options.eval_every == 0) {
      const double bpc = bits_per_character(sample);
      record.add(step, bpc);
      if (std::isfinite(bpc) && step < end && is_checkpoint_due(record)) save_if_wanted();
    }
  }
  result.steps = step;
  if (result.saved_bytes) {
    const std::size_t held = tape.bytes_held();
    result.workspace_bytes = held - std::min(held, *result.saved_bytes);
  }
  if (const std::size_t bytes = peak_memory(); bytes > 0) result.peak_rss_bytes = bytes;
  if (training_seconds > 0) {
    const double rate =
        static_cast<double>(result.measured_steps * tokens_per_step) / training_seconds;
    const double selected =
        static_cast<double>(batches.selected(options.batch) * options.accumulate) /
        static_cast<double>(tokens_per_step);
    result.tokens_per_s = rate;
    result.sgemm_share =
        3 * model.matmul_flops_per_token(selected) * rate / (machine.sgemm_gflops * 1e9);
  }
  tape.clear();
  if (result.diverged.empty()) {
    result.valid_bpc = bits_per_character(whole_validation(options, batches));
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
    record.add(step,
               measurable ? bits_per_character(sample) : std::numeric_limits<double>::quiet_NaN());
  }
  tape.memory().release();
  progress.finish();
  if (recorder) recorder->finish(*result.numerics, first_non_finite);
  result.points = std::move(record.points);
  const bool is_float = std::is_same_v<P, us::precision::fp32> && !simulation;
  if (!is_float && result.diverged.empty()) {
    // Of so few tokens that comparing with fp32 takes less memory than training did.
    constexpr std::size_t most_tokens = 4096;
    const std::size_t sequences =
        std::min(options.batch, std::max<std::size_t>(1, most_tokens / options.window));
    const auto batch = batches.training(sequences, static_cast<std::uint32_t>(step));
    auto rounding = simulation;
    result.gradients = us::analysis::gradient_underflow<P>(
        [&](auto& any_tape) { return record_loss(any_tape, model, batch, variant.scaling); },
        loss_scale, rounding ? &*rounding : nullptr);
  }
  return result;
}

/// Calls `body(P{})` with the policy of that name.
template <class Body> auto with_precision(const std::string& name, const Body& body) {
  if (name == "fp32") return body(us::precision::fp32{});
  if (name == "fp16") return body(us::precision::fp16{});
  if (name == "bf16") return body(us::precision::bf16{});
  return body(us::precision::fp8{});
}

/// Calls `body(make_optimiser)`, where `make_optimiser(parameters)` makes the optimiser that was
/// asked for. It is not to look for gradients that are not finite, which the training does.
template <class Body>
auto with_optimiser(const Options& options, const Variant& variant, const Body& body) {
  using Parameters = std::vector<us::Parameter*>;
  if (options.optimizer == "sgd") {
    return body([&](Parameters parameters) {
      return us::optim::Sgd(
          std::move(parameters),
          {.momentum = 0.9, .weight_decay = options.weight_decay, .allow_non_finite = true});
    });
  }
  return body([&](Parameters parameters) {
    return us::optim::AdamW(std::move(parameters), {.weight_decay = options.weight_decay,
                                                    .decay = us::optim::WeightDecay::decoupled,
                                                    .rule = variant.scaling.rule,
                                                    .allow_non_finite = true});
  });
}

/// Trains one variant with the optimiser that was asked for.
/// @param save whether to write checkpoints to the output folder.
inline RunResult train(const Options& options, const Variant& variant,
                       const us::train::TextCorpus& corpus, const Machine& machine, bool save) {
  return with_precision(variant.precision, [&]<us::Precision P>(P) {
    return with_optimiser(options, variant, [&](const auto& make_optimiser) {
      return train<P>(options, variant, corpus, machine, make_optimiser, save);
    });
  });
}

/// @throws std::invalid_argument if the variant cannot go on from the checkpoint that was named.
inline void check_checkpoint(const Options& options, const Variant& variant,
                             const us::train::TextCorpus& corpus) {
  us::train::SafetensorsFile file =
      open_checkpoint(options, checkpoint_fingerprint(options, variant, corpus));
  us::nn::BertMlp model = make_model(options, variant.scaling, corpus.vocabulary_size());
  with_optimiser(options, variant, [&](const auto& make_optimiser) {
    auto optimiser = make_optimiser(us::optim::parameters_of(model));
    Record record;
    load_checkpoint(options, std::move(file), record, model, optimiser);
  });
}

/// @throws std::invalid_argument if a rule of the variant's simulation meets no op of the model, or
///         one that it does not go with.
inline void check_simulation(const Options& options, const Variant& variant,
                             const us::train::TextCorpus& corpus) {
  const auto simulation = simulation_of(options, variant);
  if (!simulation) return;
  const us::nn::BertMlp model = make_model(options, variant.scaling, corpus.vocabulary_size());
  const auto batch = us::train::MaskedBatches(corpus, options.window, options.seed).training(1, 0);
  with_precision(variant.precision, [&]<us::Precision P>(P) {
    us::Tape<P> tape(us::TapeMode::inference);
    tape.simulate_with(*simulation);
    with_option("--simulate", variant.simulation, [&] {
      static_cast<void>(record_loss(tape, model, batch, variant.scaling));
      tape.require_simulation_used();
    });
  });
}

}  // namespace bert_mlp
