// SPDX-License-Identifier: MIT
// What bert_mlp tells of its runs: the table, metrics.csv and loss.svg.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <optional>
#include <string>
#include <vector>

#include "machine.hpp"
#include "one_line.hpp"
#include "options.hpp"
#include "run_result.hpp"
#include "unit_scaling/analysis/line_chart.hpp"

namespace bert_mlp {

/// Text by printf's rules: the only formatting that C++20 on GCC 12 has for numbers in columns.
template <class... Arguments>
[[nodiscard]] std::string format(const char* pattern, Arguments... arguments) {
  char text[512];
  std::snprintf(text, sizeof(text), pattern, arguments...);
  return text;
}

/// The fp32 run with the same scale rules, to compare with; null if there is none.
inline const RunResult* float_counterpart(const std::vector<RunResult>& runs,
                                          const RunResult& run) {
  const auto found = std::find_if(runs.begin(), runs.end(), [&](const RunResult& other) {
    return other.variant.precision == "fp32" && other.variant.is_as_precision() &&
           other.variant.is_unit() == run.variant.is_unit();
  });
  return found == runs.end() ? nullptr : &*found;
}

/// What a table or a chart of so few steps may be taken for.
inline std::string few_steps_warning(const Options& options, const std::vector<RunResult>& runs) {
  if (runs.size() < 2 || options.stop_at.value_or(options.steps) >= 300) return {};
  return "So few steps compare nothing: differences between recipes show from about 300 steps.\n";
}

/// "fp8", "fp8 under mxfp8", "fp32 simulating e3m4/e5m2".
inline std::string precision_text(const Variant& variant) {
  return variant.precision + (variant.recipe.empty() ? "" : " under " + variant.recipe) +
         (variant.simulation.empty() ? "" : " simulating " + variant.simulation);
}

/// "EPYC, 8 threads", "EPYC, 4 ranks of 2 threads".
inline std::string machine_text(const Machine& machine) {
  const std::string ranks = machine.ranks == 1 ? "" : format("%zu ranks of ", machine.ranks);
  return machine.processor + ", " + ranks +
         format("%zu thread%s", machine.threads, machine.threads == 1 ? "" : "s");
}

/// The comparison as a Markdown table, which also reads well in a terminal.
inline std::string comparison_table(const Options& options, const std::vector<RunResult>& runs,
                                    const Machine& machine) {
  const auto mebibytes = [](std::optional<std::size_t> bytes) {
    return bytes ? format("%.1f MiB", static_cast<double>(*bytes) / 0x1p20) : std::string("-");
  };
  std::vector<std::vector<std::string>> rows{{"precision", "scaling", "peak learning rate",
                                              "valid_bpc (bits/char)", "vs fp32, same scaling",
                                              "training tokens/s (quartiles)", "saved for backward",
                                              "workspace", "non-finite / underflowed gradients"}};
  for (const RunResult& run : runs) {
    const RunResult* reference = float_counterpart(runs, run);
    const bool compares = reference != nullptr && reference != &run &&
                          std::isfinite(run.valid_bpc - reference->valid_bpc);
    rows.push_back(
        {precision_text(run.variant), run.variant.scaling_name(), exact_text(run.learning_rate),
         run.diverged.empty() ? format("%.4f", run.valid_bpc) : "diverged: " + run.diverged,
         compares ? format("%+.4f", run.valid_bpc - reference->valid_bpc) : "-",
         run.tokens_per_s ? format("%.0f (%.0f-%.0f)", run.tokens_per_s->median,
                                   run.tokens_per_s->lower, run.tokens_per_s->upper)
                          : "-",
         mebibytes(run.saved_bytes), mebibytes(run.workspace_bytes),
         run.gradients ? format("%.3g %% / %.3g %%", 100 * run.gradients->non_finite,
                                100 * run.gradients->underflowed)
                       : "-"});
  }
  std::vector<std::size_t> width(rows[0].size());
  for (const auto& row : rows) {
    for (std::size_t i = 0; i < row.size(); ++i) width[i] = std::max(width[i], row[i].size());
  }
  std::string text;
  const auto line = [&](const std::vector<std::string>& row) {
    for (std::size_t i = 0; i < row.size(); ++i) {
      text += "| " + row[i] + std::string(width[i] - row[i].size() + 1, ' ');
    }
    text += "|\n";
  };
  line(rows[0]);
  for (const std::size_t w : width) text += "|" + std::string(w + 2, '-');
  text += "|\n";
  for (std::size_t i = 1; i < rows.size(); ++i) line(rows[i]);

  const std::string batches = options.batches_per_step() == 1
                                  ? std::string()
                                  : format(" in %zu batches", options.batches_per_step());
  text += format("\n%zu steps of %zu characters: %zu sequences of %zu%s\n", options.steps,
                 options.tokens_per_step(), options.sequences_per_step(), options.window,
                 batches.c_str());
  if (machine.ranks > 1) text += "Gradients are sent in " + to_string(options.wire) + "\n";
  text += machine_text(machine) + format(", sgemm %.0f GFLOP/s at the start", machine.sgemm_gflops);
  for (const RunResult& run : runs) {
    if (run.variant.name() == "fp32 unit" && run.sgemm_share) {
      text +=
          format("; the median step of fp32 unit reaches %.0f %% of it", 100 * *run.sgemm_share);
    }
  }
  text += format("\nParameters take %s and the optimiser's state %s, in float in every run",
                 mebibytes(runs.front().parameter_bytes).c_str(),
                 mebibytes(runs.front().optimiser_bytes).c_str());
  text += "\nTokens/s are those of the median step, in brackets those of the quartiles\n";
  // A shared machine may be twice as fast for one variant as for the next, and steady for each.
  if (runs.size() > 1) {
    text +=
        "Variants trained one after another: what else the machine did makes their tokens/s "
        "differ, too\n";
  }
  return text + few_steps_warning(options, runs);
}

/// The run whose model the checkpoint holds; null if none was saved. A later one replaces it.
inline const RunResult* run_of_checkpoint(const std::vector<RunResult>& runs) {
  const auto found = std::find_if(runs.rbegin(), runs.rend(), [](const RunResult& run) {
    return run.checkpoint_step.has_value();
  });
  return found == runs.rend() ? nullptr : &*found;
}

/// " holds fp8 unit after step 40": what a checkpoint is of and, unless the training is done or
/// diverged, the command that goes on with it.
inline std::string what_checkpoint_holds(const Options& options, const RunResult& run,
                                         bool has_ended) {
  const std::size_t step = *run.checkpoint_step;
  const bool can_go_on = run.diverged.empty() && (step < options.steps || !has_ended);
  return " holds " + run.variant.name() + " after step " + std::to_string(step) +
         (can_go_on ? "; go on with\n" + command_to_go_on(options, run.variant, step, has_ended)
                    : "") +
         "\n";
}

/// The end of the output: where the results are, and whose model the checkpoint there is; of a
/// training that --stop-at stopped, the command that goes on with it.
inline std::string where_results_are(const Options& options, const std::vector<RunResult>& runs) {
  const RunResult* run = run_of_checkpoint(runs);
  return "Results are in " + one_line(options.out.string()) + "; " +
         (run == nullptr ? "no checkpoint was saved\n"
                         : "the checkpoint there" + what_checkpoint_holds(options, *run, true));
}

/// Where a training stopped that was asked to, what is kept of it and of those before it, and the
/// command that goes on with what the checkpoint holds.
/// @param runs that ended before it.
/// @param is_written whether their results are written; else the folder has those of all.
inline std::string where_it_stopped(const Options& options, const std::vector<RunResult>& runs,
                                    const Interrupted& stop, bool is_written) {
  const RunResult& run = stop.run;
  const bool is_up_to_date = run.checkpoint_step == run.steps && run.unsaved.empty();
  std::string text =
      "bert_mlp: stopped after step " + std::to_string(run.steps) + " of " + run.variant.name();
  if (!stop.saves) {
    text += ", of which no checkpoint is kept";
  } else if (run.measured_steps == 0) {
    text += options.resume.empty() ? ", where it began: there is nothing to go on from"
                                   : ", where it began: the same command goes on from there";
  } else if (is_up_to_date) {
    text += "; go on with\n" + command_to_go_on(options, run.variant, run.steps, false);
  } else if (run.checkpoint_step > run.steps) {
    text += "; the checkpoint of a later step is kept";
  } else if (!run.unsaved.empty()) {
    text += "; no checkpoint of it was written: " + one_line(run.unsaved);
  } else {
    text += "; no checkpoint of it was written, as its model or its losses are not finite";
  }
  text += "\n";
  const std::string folder = one_line(options.out.string());
  if (!runs.empty()) {
    text += is_written ? "Results of the trainings that ended are in " + folder + "\n"
                       : folder + " keeps the results that this command wrote there before\n";
  }
  const RunResult* held = run.checkpoint_step ? &run : run_of_checkpoint(runs);
  if (held != nullptr && !is_up_to_date) {
    const bool has_ended = held != &run || run.checkpoint_step > run.steps;
    text += "The checkpoint in " + folder + what_checkpoint_holds(options, *held, has_ended);
  }
  return text;
}

/// A row for each point of each run; an empty cell for what was not measured or is not finite.
inline std::string metrics_csv(const std::vector<RunResult>& runs) {
  std::string text = "precision,scaling,step,training_bpc,validation_sample_bpc\n";
  const auto cell = [](double value) {
    return std::isfinite(value) ? format(",%.6f", value) : std::string(",");
  };
  for (const RunResult& run : runs) {
    // A simulation may have commas of its own.
    const std::string precision = run.variant.simulation.empty()
                                      ? precision_text(run.variant)
                                      : "\"" + precision_text(run.variant) + "\"";
    for (const Point& point : run.points) {
      text += precision + "," + run.variant.scaling_name() + "," + std::to_string(point.step) +
              cell(point.training_bpc) + cell(point.validation_sample_bpc) + "\n";
    }
  }
  return text;
}

inline std::string loss_svg(const Options& options, const std::vector<RunResult>& runs) {
  us::analysis::LineChart chart;
  chart.title = "Validation loss";
  chart.subtitle = format(
      "BERT-style MLP, hidden %zu, %zu layers, %zu characters a step. On a sample of the held-out "
      "text, the same at every point.",
      options.hidden_size, options.layers, options.tokens_per_step());
  chart.x_label = "step";
  chart.y_label = "bits per character";
  for (const RunResult& run : runs) {
    us::analysis::LineSeries series;
    series.name = run.variant.name();
    for (const Point& point : run.points) {
      series.points.emplace_back(static_cast<double>(point.step), point.validation_sample_bpc);
    }
    chart.series.push_back(std::move(series));
  }
  return us::analysis::to_svg(chart);
}

}  // namespace bert_mlp
