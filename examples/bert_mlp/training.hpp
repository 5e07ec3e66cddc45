// SPDX-License-Identifier: MIT
// Trains one variant.
#pragma once

#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <numbers>
#include <string>
#include <utility>
#include <vector>

#include "checkpoint.hpp"
#include "machine.hpp"
#include "options.hpp"
#include "unit_scaling/analysis/gradient_underflow.hpp"
#include "unit_scaling/analysis/scale_report.hpp"
#include "unit_scaling/autograd/tape.hpp"
#include "unit_scaling/nn/bert_mlp.hpp"
#include "unit_scaling/ops/cross_entropy.hpp"
#include "unit_scaling/optim/adam.hpp"
#include "unit_scaling/optim/sgd.hpp"
#include "unit_scaling/train/masked_batch.hpp"
#include "unit_scaling/train/progress.hpp"
#include "unit_scaling/train/text_corpus.hpp"

namespace bert_mlp {

/// A point of the curves.
struct Point {
  std::size_t step;
  double training_bpc;  // mean since the point before
  double validation_bpc;
};

struct RunResult {
  Variant variant;
  double learning_rate = 0;
  std::size_t steps = 0;
  std::vector<Point> points;
  double valid_bpc = std::numeric_limits<double>::quiet_NaN();
  double tokens_per_s = 0;
  double sgemm_share = 0;  // share of the machine's sgemm rate, over whole steps
  std::size_t saved_bytes = 0;
  std::size_t peak_rss_bytes = 0;
  us::analysis::GradientUnderflow gradients;
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

/// Bits per character over the validation text, each window hidden in `draws` ways.
template <us::Precision P>
double validate(const us::nn::BertMlp& model, const us::train::MaskedBatches& batches,
                const Options& options, const us::Scaling& scaling, std::uint32_t draws) {
  us::Tape<P> tape(us::TapeMode::inference);
  double sum = 0;
  std::size_t items = 0;
  for (std::uint32_t draw = 0; draw < draws; ++draw) {
    for (std::size_t first = 0; first < batches.validation_windows(); first += options.batch) {
      const std::size_t count = std::min(options.batch, batches.validation_windows() - first);
      const auto batch = batches.validation(first, count, draw);
      tape.clear();
      const auto loss = record_loss(tape, model, batch, scaling);
      sum += static_cast<double>(*loss.value().data()) * static_cast<double>(batch.labels.size());
      items += batch.labels.size();
    }
  }
  return sum / static_cast<double>(items) / std::numbers::ln2;
}

/// Trains `variant` under precision P, with an optimiser that `make_optimiser(parameters)` makes.
template <us::Precision P, class MakeOptimiser>
RunResult train(const Options& options, const Variant& variant, const us::train::TextCorpus& corpus,
                const Machine& machine, const MakeOptimiser& make_optimiser, bool save) {
  RunResult result;
  result.variant = variant;
  result.learning_rate = options.rate_of(variant);
  reset_peak_memory();
  us::nn::BertMlp model = make_model(options, variant.scaling, corpus.vocabulary_size());
  auto optimiser = make_optimiser(us::optim::parameters_of(model));
  const us::train::MaskedBatches batches(corpus, options.window, options.seed);
  const us::train::Schedule schedule = options.rate_schedule();
  const std::string fingerprint = checkpoint_fingerprint(options, variant, corpus);
  std::size_t step = 0;
  if (!options.resume.empty()) {
    step = load_checkpoint(options.resume, fingerprint, model, optimiser);
  }
  const std::size_t end = std::min(options.steps, options.stop_at.value_or(options.steps));
  const std::size_t tokens_per_step = options.batch * options.window;
  const auto loss_scale = static_cast<float>(variant.loss_scale);

  us::Tape<P> tape;
  us::train::Progress progress(
      variant.name(), options.steps, stderr,
      {.quiet = options.quiet, .loss_name = "bits/char", .first_step = step});
  double training_seconds = 0;
  std::size_t trained_steps = 0;
  double loss_sum = 0;
  std::size_t loss_count = 0;
  while (step < end) {
    const auto start = std::chrono::steady_clock::now();
    const auto batch = batches.training(options.batch, static_cast<std::uint32_t>(step));
    tape.clear();
    double loss_value = 0;
    {
      const auto loss = record_loss(tape, model, batch, variant.scaling);
      loss_value = static_cast<double>(*loss.value().data()) / std::numbers::ln2;
      if (result.saved_bytes == 0) result.saved_bytes = tape.saved_bytes();
      tape.backward(loss, loss_scale);
    }
    if (!std::isfinite(loss_value)) {
      us::analysis::FirstNonFinite first;
      tape.clear();
      tape.observe_with(first.observer());
      static_cast<void>(record_loss(tape, model, batch, variant.scaling));
      result.diverged = "step " + std::to_string(step) + ", first at " + first.found();
      break;
    }
    optimiser.step(tape, result.learning_rate * schedule(step), variant.loss_scale);
    ++step;
    training_seconds += seconds_since(start);
    ++trained_steps;
    loss_sum += loss_value;
    ++loss_count;
    progress.update(step, loss_value, trained_steps * tokens_per_step);

    if (step % options.eval_every == 0 && step < end) {
      result.points.push_back({step, loss_sum / static_cast<double>(loss_count),
                               validate<P>(model, batches, options, variant.scaling, 1)});
      loss_sum = 0;
      loss_count = 0;
      if (save)
        save_checkpoint(options.out / "checkpoint.safetensors", fingerprint, step, model,
                        optimiser);
    }
  }
  result.steps = step;
  result.peak_rss_bytes = peak_memory();
  if (training_seconds > 0) {
    result.tokens_per_s = static_cast<double>(trained_steps * tokens_per_step) / training_seconds;
    const double selected =
        static_cast<double>(batches.selected(options.batch)) / static_cast<double>(tokens_per_step);
    result.sgemm_share = 3 * model.matmul_flops_per_token(selected) * result.tokens_per_s /
                         (machine.sgemm_gflops * 1e9);
  }
  progress.finish();
  if (!result.diverged.empty()) return result;
  if (save)
    save_checkpoint(options.out / "checkpoint.safetensors", fingerprint, step, model, optimiser);
  // Hidden in four ways, so that most characters of the held-out text count.
  result.valid_bpc = validate<P>(model, batches, options, variant.scaling, 4);
  if (loss_count > 0) {
    result.points.push_back({step, loss_sum / static_cast<double>(loss_count), result.valid_bpc});
  }
  tape.clear();
  tape.memory().release();
  const auto batch = batches.training(options.batch, static_cast<std::uint32_t>(step));
  result.gradients = us::analysis::gradient_underflow<P>(
      [&](auto& any_tape) { return record_loss(any_tape, model, batch, variant.scaling); },
      loss_scale);
  return result;
}

/// Calls `body(P{})` with the policy of that name.
template <class Body> auto with_precision(const std::string& name, const Body& body) {
  if (name == "fp32") return body(us::precision::fp32{});
  if (name == "fp16") return body(us::precision::fp16{});
  if (name == "bf16") return body(us::precision::bf16{});
  return body(us::precision::fp8{});
}

/// Trains one variant with the optimiser that was asked for.
/// @param save whether to write checkpoints to the output folder.
inline RunResult train(const Options& options, const Variant& variant,
                       const us::train::TextCorpus& corpus, const Machine& machine, bool save) {
  return with_precision(variant.precision, [&]<us::Precision P>(P) {
    using Parameters = std::vector<us::Parameter*>;
    if (options.optimizer == "sgd") {
      return train<P>(
          options, variant, corpus, machine,
          [&](Parameters parameters) {
            return us::optim::Sgd(std::move(parameters),
                                  {.momentum = 0.9, .weight_decay = options.weight_decay});
          },
          save);
    }
    return train<P>(
        options, variant, corpus, machine,
        [&](Parameters parameters) {
          return us::optim::AdamW(std::move(parameters),
                                  {.weight_decay = options.weight_decay,
                                   .decay = us::optim::WeightDecay::decoupled,
                                   .rule = variant.scaling.rule});
        },
        save);
  });
}

}  // namespace bert_mlp
