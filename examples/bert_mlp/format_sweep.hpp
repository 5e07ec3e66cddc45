// SPDX-License-Identifier: MIT
// Trains with matrix products in one format after another, to see where bits are better spent: on
// the exponent or on the fraction, forward and backward.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "machine.hpp"
#include "options.hpp"
#include "ranks.hpp"
#include "recipe.hpp"
#include "report.hpp"
#include "run_result.hpp"
#include "training.hpp"
#include "unit_scaling/analysis/line_chart.hpp"

namespace bert_mlp {

/// One format of a sweep.
struct SweptFormat {
  int exponent_bits;
  std::string name;
};

/// The formats of so many bits, from two exponent bits up to five, with a fraction. Those of up to
/// four exponent bits have no infinities, as float8_e4m3fn has none: few exponents are to be
/// numbers.
inline std::vector<SweptFormat> swept_formats(int bits) {
  std::vector<SweptFormat> formats;
  for (int exponent = 2; exponent <= std::min(5, bits - 2); ++exponent) {
    formats.push_back({exponent, "e" + std::to_string(exponent) + "m" +
                                     std::to_string(bits - 1 - exponent) +
                                     (exponent < 5 ? "fn" : "")});
  }
  return formats;
}

/// What is swept: the formats of operands, beside the gradients of precision fp8, or the reverse.
enum class SweptDirection { forward, backward };

/// The rule for a format of a sweep. The other direction is that of precision fp8.
inline std::string swept_rule(SweptDirection direction, const SweptFormat& format) {
  return direction == SweptDirection::forward ? format.name + "/e5m2" : "e4m3fn/" + format.name;
}

/// For each variant, a run in its own precision and one for each format in each direction.
/// @param runs to which each is appended when it has ended.
inline void sweep_formats(const Options& options, const us::train::TextCorpus& corpus,
                          const Machine& machine, const Ranks& ranks,
                          std::vector<RunResult>& runs) {
  for (const Variant& variant : options.variants) {
    runs.push_back(train(options, variant, corpus, machine, ranks, false));
    for (const auto direction : {SweptDirection::forward, SweptDirection::backward}) {
      for (const SweptFormat& format : swept_formats(options.sweep_bits)) {
        const Variant swept = simulated(options, variant, swept_rule(direction, format));
        // The formats of fp8 are met in both directions.
        const bool is_done = std::any_of(runs.begin(), runs.end(), [&](const RunResult& run) {
          return run.variant.name() == swept.name();
        });
        if (!is_done) runs.push_back(train(options, swept, corpus, machine, ranks, false));
      }
    }
  }
}

/// Loss of the run of a variant; infinite if it diverged.
inline double swept_loss(const std::vector<RunResult>& runs, const Variant& variant) {
  const auto run = std::find_if(runs.begin(), runs.end(), [&](const RunResult& each) {
    return each.variant.name() == variant.name();
  });
  return run->diverged.empty() ? run->valid_bpc : std::numeric_limits<double>::infinity();
}

/// "unit, gradients": what the formats of a row are of.
inline std::string swept_name(const Variant& variant, SweptDirection direction) {
  return (variant.is_unit() ? "unit, " : "plain, ") +
         std::string(direction == SweptDirection::forward ? "operands" : "gradients");
}

/// Validation loss by format, a row for each variant and direction.
inline std::string sweep_table(const Options& options, const std::vector<RunResult>& runs) {
  const auto formats = swept_formats(options.sweep_bits);
  const auto cell = [&](const Variant& variant) {
    const double loss = swept_loss(runs, variant);
    return std::isfinite(loss) ? format(" %.3f |", loss) : std::string(" diverged |");
  };
  std::string text = "| bits/char with formats of | ";
  for (const SweptFormat& each : formats) text += each.name + " | ";
  text += "beside | all in float32 |\n|---|";
  for (std::size_t i = 0; i < formats.size() + 2; ++i) text += "---|";
  text += "\n";
  for (const Variant& variant : options.variants) {
    for (const auto direction : {SweptDirection::forward, SweptDirection::backward}) {
      const bool is_forward = direction == SweptDirection::forward;
      text += "| " + swept_name(variant, direction) + " |";
      for (const SweptFormat& each : formats) {
        text += cell(simulated(options, variant, swept_rule(direction, each)));
      }
      text += is_forward ? " gradients in e5m2 |" : " operands in e4m3fn |";
      text += cell(variant) + "\n";
    }
  }
  return text + few_steps_warning(options, runs);
}

/// A row for each run; an empty cell for a loss that is not finite.
inline std::string sweep_csv(const std::vector<RunResult>& runs) {
  std::string text = "scaling,operands,gradients,learning_rate,valid_bpc\n";
  for (const RunResult& run : runs) {
    const std::string& rule = run.variant.simulation;
    const std::size_t slash = rule.find('/');
    text +=
        run.variant.scaling_name() + "," +
        (rule.empty() ? "float32,float32" : rule.substr(0, slash) + "," + rule.substr(slash + 1)) +
        "," + exact_text(run.learning_rate) + "," +
        (run.diverged.empty() ? format("%.6f", run.valid_bpc) : std::string()) + "\n";
  }
  return text;
}

/// The losses by format. One that is far from the best of all is marked as failed, for the axis
/// would show nothing of the others.
inline std::string sweep_svg(const Options& options, const std::vector<RunResult>& runs) {
  constexpr double far = 2;  // bits per character
  const auto formats = swept_formats(options.sweep_bits);
  double best = std::numeric_limits<double>::infinity();
  for (const RunResult& run : runs) best = std::min(best, swept_loss(runs, run.variant));
  us::analysis::LineChart chart;
  chart.title = format("Which %d-bit formats train", options.sweep_bits);
  chart.subtitle = format(
      "Validation loss after %zu steps of %zu characters. Matrix products with operands in the "
      "format and gradients in e5m2, or gradients in the format and operands in e4m3fn.",
      options.steps, options.batch * options.window);
  chart.x_label = format("exponents of the format; the fraction has the rest of %d bits",
                         options.sweep_bits - 1);
  chart.x_scale = us::analysis::AxisScale::log2;
  chart.y_label = "bits per character";
  chart.diverged_label = "failed";
  for (std::size_t i = 0; i < options.variants.size(); ++i) {
    const Variant& variant = options.variants[i];
    const auto add = [&](const std::string& name, std::size_t dash, const auto& variant_of) {
      us::analysis::LineSeries series{.name = name, .points = {}, .colour = i, .dash = dash};
      for (const SweptFormat& each : formats) {
        const double loss = swept_loss(runs, variant_of(each));
        series.points.emplace_back(
            std::exp2(each.exponent_bits),
            loss <= best + far ? loss : std::numeric_limits<double>::infinity());
      }
      chart.series.push_back(std::move(series));
    };
    for (const auto direction : {SweptDirection::forward, SweptDirection::backward}) {
      add(swept_name(variant, direction), direction == SweptDirection::forward ? 0 : 1,
          [&](const SweptFormat& each) {
            return simulated(options, variant, swept_rule(direction, each));
          });
    }
    add(variant.is_unit() ? "unit, float32" : "plain, float32", 2,
        [&](const SweptFormat&) { return variant; });
  }
  return us::analysis::to_svg(chart);
}

}  // namespace bert_mlp
