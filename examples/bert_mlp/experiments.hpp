// SPDX-License-Identifier: MIT
// What bert_mlp does beside one training: the scales at initialisation, and the loss-scale window.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "any_tape.hpp"
#include "machine.hpp"
#include "options.hpp"
#include "ranks.hpp"
#include "report.hpp"
#include "run_result.hpp"
#include "training.hpp"
#include "unit_scaling/analysis/line_chart.hpp"
#include "unit_scaling/analysis/scale_report.hpp"
#include "unit_scaling/train/masked_batch.hpp"
#include "unit_scaling/train/text_corpus.hpp"

namespace bert_mlp {

/// Scale of every tensor in the first step of a variant, as a table.
inline std::string scale_table(const Options& options, const Variant& variant,
                               const us::train::TextCorpus& corpus) {
  us::analysis::ScaleReport report;
  const us::nn::BertMlp model = make_model(options, variant.scaling, corpus.vocabulary_size());
  const std::size_t sequences = options.sequences_at_once();
  const auto batch =
      us::train::MaskedBatches(corpus, options.window, options.seed).training(sequences, 0);
  const auto tape = make_tape(variant.precision);
  tape->observe_with(report.observer());
  tape->record({model, batch, variant.scaling});
  tape->backward(static_cast<float>(variant.loss_scale));
  // An op with several outputs numbers them: "2.0", "2.1".
  using Key = std::pair<us::TensorRole, std::size_t>;
  const auto key = [](const us::analysis::TensorScale& tensor) {
    return Key{tensor.role, tensor.index};
  };
  std::map<Key, std::size_t> outputs;
  std::map<Key, std::size_t> seen;
  for (const us::analysis::TensorScale& tensor : report.tensors()) ++outputs[key(tensor)];
  std::string text = format("%s at initialisation, %zu tokens\n%-9s %-34s %-14s %9s %9s %8s\n",
                            variant.name().c_str(), sequences * options.window, "kind", "tensor",
                            "shape", "rms", "max", "zeros");
  std::size_t outside = 0;
  std::size_t total = 0;
  for (const us::analysis::TensorScale& tensor : report.tensors()) {
    const bool is_gradient = !is_forward(tensor.role);
    // A loss is no activation, its gradient is the seed, and a bias begins at zero.
    const bool counts = tensor.shape.size() > 1 && (is_gradient || tensor.rms > 0);
    const bool inside = tensor.rms >= 0.5 && tensor.rms <= 2;
    total += counts ? 1 : 0;
    outside += counts && !inside ? 1 : 0;
    std::string number = std::to_string(tensor.index);
    if (outputs[key(tensor)] > 1) number += "." + std::to_string(seen[key(tensor)]++);
    const std::string name = is_parameter(tensor.role) ? tensor.name : number + " " + tensor.name;
    text +=
        format("%-9s %-34s %-14s %9.3g %9.3g %7.2f%%%s\n",
               is_parameter(tensor.role) ? (is_gradient ? "weight'" : "weight")
                                         : (is_gradient ? "value'" : "value"),
               name.c_str(), us::to_string(tensor.shape).c_str(), tensor.rms, tensor.max_magnitude,
               100 * tensor.zero_share, counts && !inside ? "  outside [0.5, 2]" : "");
  }
  text += format("%zu of %zu tensors have an rms outside [0.5, 2]; ' marks a gradient\n", outside,
                 total);
  if (outside > 0 && variant.is_unit()) {
    text +=
        "The rules suppose independent tokens. Those of a text are not: gradients of biases and\n"
        "norms grow towards the square root of the tokens in a step. See docs/results.md.\n";
  }
  return text;
}

/// Loss scales 2^-24, 2^-20, ..., 2^24 for each variant.
/// @param runs to which each is appended when it has ended.
inline void loss_scale_window(const Options& options, const us::train::TextCorpus& corpus,
                              const Machine& machine, const Ranks& ranks,
                              std::vector<RunResult>& runs) {
  for (const Variant& variant : options.variants) {
    for (int exponent = -24; exponent <= 24; exponent += 4) {
      Variant scaled = variant;
      scaled.loss_scale = std::exp2(exponent);
      runs.push_back(train(options, scaled, corpus, machine, ranks, false));
    }
  }
}

/// "fp8 unit", "fp8 unit, mxfp8": the series that a run of the window belongs to.
inline std::string window_series(const RunResult& run) {
  const std::string& recipe = run.variant.recipe;
  return run.variant.precision + (run.variant.is_unit() ? " unit" : " plain") +
         (recipe.empty() ? "" : ", " + recipe);
}

/// Validation loss by loss scale, a row for each series, and which scales come within 0.05 bits per
/// character of the best of the series.
inline std::string window_table(const std::vector<RunResult>& runs) {
  std::string text = "| bits/char at loss scale | peak learning rate |";
  for (int exponent = -24; exponent <= 24; exponent += 4) text += format(" 2^%d |", exponent);
  text += " works (within 0.05 of the best) |\n|---|---|";
  for (int exponent = -24; exponent <= 24; exponent += 4) text += "---|";
  text += "---|\n";
  for (std::size_t begin = 0; begin < runs.size();) {
    std::size_t end = begin;
    double best = std::numeric_limits<double>::infinity();
    while (end < runs.size() && window_series(runs[end]) == window_series(runs[begin])) {
      if (runs[end].valid_bpc < best) best = runs[end].valid_bpc;
      ++end;
    }
    text +=
        "| " + window_series(runs[begin]) + " | " + exact_text(runs[begin].learning_rate) + " |";
    std::string lowest = "none";
    std::string highest = "none";
    for (std::size_t i = begin; i < end; ++i) {
      const RunResult& run = runs[i];
      text += run.diverged.empty() ? format(" %.3f |", run.valid_bpc) : " diverged |";
      if (run.valid_bpc <= best + 0.05) {
        const std::string scale = format("2^%.0f", std::log2(run.variant.loss_scale));
        if (lowest == "none") lowest = scale;
        highest = scale;
      }
    }
    text += " " + lowest + " to " + highest + " |\n";
    begin = end;
  }
  return text;
}

inline std::string window_svg(const Options& options, const std::vector<RunResult>& runs) {
  us::analysis::LineChart chart;
  chart.title = "Which loss scales work";
  chart.subtitle = format("Validation loss after %zu steps of %zu characters", options.steps,
                          options.tokens_per_step());
  chart.x_label = "loss scale";
  chart.x_scale = us::analysis::AxisScale::log2;
  chart.y_label = "bits per character";
  for (const RunResult& run : runs) {
    if (chart.series.empty() || chart.series.back().name != window_series(run)) {
      chart.series.push_back({.name = window_series(run), .points = {}});
    }
    // Far above what guessing costs is off the chart: shown as diverged.
    const double bpc = run.valid_bpc > 8 ? std::numeric_limits<double>::infinity() : run.valid_bpc;
    chart.series.back().points.emplace_back(run.variant.loss_scale, bpc);
  }
  return us::analysis::to_svg(chart);
}

}  // namespace bert_mlp
