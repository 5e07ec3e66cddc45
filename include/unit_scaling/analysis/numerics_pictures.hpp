// SPDX-License-Identifier: MIT
// unit_scaling: optional
/// @file
/// Layer analysis: the pictures of what happened to the numbers of training runs.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "unit_scaling/analysis/chart_axis.hpp"
#include "unit_scaling/analysis/histogram_chart.hpp"
#include "unit_scaling/analysis/line_chart.hpp"
#include "unit_scaling/analysis/numerics_run.hpp"
#include "unit_scaling/analysis/short_number.hpp"
#include "unit_scaling/analysis/tensor_groups.hpp"
#include "unit_scaling/analysis/tracker.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/formats/catalogue.hpp"
#include "unit_scaling/formats/format.hpp"
#include "unit_scaling/formats/format_spec.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::analysis {

/// The format of a tracked tensor. Doubles are seen as binary32.
/// @throws std::invalid_argument for a name that no format has.
[[nodiscard]] inline FormatSpec spec_of(const TrackedTensor& tensor) {
  const bool is_double = tensor.format == storage_name<double>;
  return Format::parse(is_double ? storage_name<float> : tensor.format).spec();
}

/// Which tensors a picture of a whole model shows.
enum class TensorChoice {
  outputs,           ///< of every op
  operands,          ///< of matrix products
  gradients,         ///< of every op's outputs
  matrix_gradients,  ///< of the outputs of ops with matrix products, which they enter
};

/// "outputs", "operands", "gradients" or "matrix-gradients".
[[nodiscard]] constexpr std::string_view to_string(TensorChoice choice) {
  switch (choice) {
    case TensorChoice::outputs:
      return "outputs";
    case TensorChoice::operands:
      return "operands";
    case TensorChoice::gradients:
      return "gradients";
    case TensorChoice::matrix_gradients:
      break;
  }
  return "matrix-gradients";
}

namespace detail {

[[nodiscard]] constexpr std::string_view title_of(TensorChoice choice) {
  switch (choice) {
    case TensorChoice::outputs:
      return "What ops put out";
    case TensorChoice::operands:
      return "What enters the matrix products, forwards";
    case TensorChoice::gradients:
      return "Gradients of what ops put out";
    case TensorChoice::matrix_gradients:
      break;
  }
  return "Gradients that enter the matrix products";
}

[[nodiscard]] inline bool has_operands(const TensorGroup& group) {
  const auto places = places_of(group);
  return std::any_of(places.begin(), places.end(),
                     [](const auto& place) { return place.role == TrackedRole::operand; });
}

/// The places of the group that the choice is about.
[[nodiscard]] inline std::vector<TensorPlace> chosen(const TensorGroup& group,
                                                     TensorChoice choice) {
  TrackedRole role = TrackedRole::gradient;
  if (choice == TensorChoice::outputs) role = TrackedRole::value;
  if (choice == TensorChoice::operands) role = TrackedRole::operand;
  if (choice == TensorChoice::matrix_gradients && !has_operands(group)) return {};
  auto places = places_of(group);
  std::erase_if(places, [&](const auto& place) { return place.role != role; });
  return places;
}

[[nodiscard]] inline std::string rms_text(const TrackedSample& sample) {
  const TensorStatistics& seen = sample.statistics;
  if (seen.elements > 0 && seen.histogram.non_finite == seen.elements) return "not finite";
  return short_number(seen.rms, 3);
}

/// The label of a group, and which of its tensors where it has several of that choice.
[[nodiscard]] inline std::string row_label(const TensorGroup& group, const TensorPlace& place,
                                           std::size_t places) {
  return group.label + (places > 1 ? " [" + std::to_string(place.argument) + "]" : "");
}

/// The rms of a tensor by step.
[[nodiscard]] inline LineSeries rms_series(const TrackedTensor& tensor, const std::string& name) {
  LineSeries series;
  series.name = name;
  for (const TrackedSample& sample : tensor.samples) {
    // Infinite where nothing finite is left, which a chart marks as diverged.
    const bool has_none = sample.statistics.histogram.non_finite == sample.statistics.elements;
    series.points.emplace_back(
        static_cast<double>(sample.step),
        has_none && sample.statistics.elements > 0 ? HUGE_VAL : sample.statistics.rms);
  }
  return series;
}

}  // namespace detail

/// One loss of all runs that have it. Without points of its own a run is left out.
[[nodiscard]] inline LineChart loss_chart(std::span<const NumericsRun> runs,
                                          const std::string& curve) {
  LineChart chart;
  chart.title = "Loss, " + curve;
  chart.x_label = "step";
  for (std::size_t r = 0; r < runs.size(); ++r) {
    for (const LossCurve& loss : runs[r].losses) {
      if (loss.name != curve) continue;
      chart.y_label = loss.unit;
      LineSeries series;
      series.name = runs[r].name;
      series.points = loss.points;
      series.colour = r;
      chart.series.push_back(std::move(series));
    }
  }
  return chart;
}

/// The exponents of all tensors of a group but updates: a row for each run, filled as at the last
/// step and outlined as at the first, and one more for the step that lost most, where that is
/// another.
[[nodiscard]] inline HistogramChart group_histograms(std::span<const NumericsRun> runs,
                                                     const TensorGroup& group) {
  HistogramChart chart;
  chart.title = group.label;
  chart.subtitle =
      "How often each binary exponent occurs, over the range of the format that a tensor is "
      "rounded to. The numbers are of the filled histograms; zero is what is zero after rounding; "
      "lost is what rounds to zero or to the largest number, or is not finite. A row that names a "
      "step is of the one that lost most.";
  chart.series = {"last step looked at", "first step looked at"};
  chart.note_heads = {"rms", "zero", "lost", "subnormal"};
  const auto notes = [](const TrackedSample& sample) {
    const TensorStatistics& seen = sample.statistics;
    return std::vector<std::string>{detail::rms_text(sample), percent_text(zero_share(seen)),
                                    percent_text(lost_share(seen)),
                                    percent_text(seen.share(seen.subnormal))};
  };
  for (const TensorPlace& place : places_of(group)) {
    if (place.role == TrackedRole::update) continue;  // nothing rounds it
    std::string heading = place_text(group, place);
    for (std::size_t r = 0; r < runs.size(); ++r) {
      const TrackedTensor* tensor = tensor_at(group, r, place);
      if (tensor == nullptr) continue;
      const ShownSamples shown = shown_samples(*tensor, largest_loss(group.tensors[r]));
      const std::string label = runs[r].name + ", " + tensor->format;
      chart.rows.push_back(
          {.heading = std::exchange(heading, ""),
           .label = label,
           .format = spec_of(*tensor),
           .histograms = {shown.last->statistics.histogram, shown.first->statistics.histogram},
           .notes = notes(*shown.last)});
      if (shown.worst == nullptr) continue;
      chart.rows.push_back({.heading = {},
                            .label = label + ", step " + std::to_string(shown.worst->step),
                            .format = spec_of(*tensor),
                            .histograms = {shown.worst->statistics.histogram},
                            .notes = notes(*shown.worst)});
    }
  }
  return chart;
}

/// The rms of all tensors of a group but operands, by step: a colour for each run, a dash for each
/// tensor.
[[nodiscard]] inline LineChart group_scales(std::span<const NumericsRun> runs,
                                            const TensorGroup& group) {
  LineChart chart;
  chart.title = group.label;
  chart.subtitle = "Scale over the training: root of the mean square of the elements";
  chart.x_label = "step";
  chart.y_label = "rms";
  chart.y_scale = AxisScale::log2;
  chart.marks_points = false;
  std::size_t dash = 0;
  for (const TensorPlace& place : places_of(group)) {
    if (place.role == TrackedRole::operand) continue;
    for (std::size_t r = 0; r < runs.size(); ++r) {
      const TrackedTensor* tensor = tensor_at(group, r, place);
      if (tensor == nullptr) continue;
      const std::string what = place.role == TrackedRole::parameter_gradient ? "gradient"
                               : place.role == TrackedRole::update           ? "update"
                                                                   : place_text(group, place);
      LineSeries series =
          detail::rms_series(*tensor, runs.size() == 1 ? what : runs[r].name + " " + what);
      series.colour = r;
      series.dash = dash;
      chart.series.push_back(std::move(series));
    }
    ++dash;
  }
  return chart;
}

/// The rms of all tensors of one role of a run, by step. The largest and smallest three at the last
/// step are named, as far as they are others.
[[nodiscard]] inline LineChart role_scales(const NumericsRun& run, TrackedRole role) {
  std::vector<std::pair<const TrackedTensor*, std::string>> tensors;  // and their names
  for (const TensorGroup& group : group_tensors(std::span(&run, 1))) {
    auto places = places_of(group);
    std::erase_if(places, [&](const TensorPlace& place) { return place.role != role; });
    for (const TensorPlace& place : places) {
      const TrackedTensor* tensor = tensor_at(group, 0, place);
      // A loss and its gradient, the seed, are no tensors of the model.
      if (tensor == nullptr || (tensor->shape.size() == 1 && !is_of_parameter(role))) continue;
      tensors.emplace_back(tensor, detail::row_label(group, place, places.size()));
    }
  }
  LineChart chart;
  const std::string text(to_string(role));
  chart.title = run.name + ": scale of every " +
                (role == TrackedRole::parameter_gradient ? "gradient of a parameter"
                 : role == TrackedRole::gradient         ? "gradient between ops"
                                                         : text);
  chart.subtitle = "Root of the mean square, a line for each of " + std::to_string(tensors.size()) +
                   " tensors; those with the largest and the smallest at the end are named.";
  chart.x_label = "step";
  chart.y_label = "rms";
  chart.y_scale = AxisScale::log2;
  chart.marks_points = false;
  constexpr std::size_t named_at_each_end = 3;
  std::stable_sort(tensors.begin(), tensors.end(), [](const auto& a, const auto& b) {
    return a.first->samples.back().statistics.rms > b.first->samples.back().statistics.rms;
  });
  std::size_t colour = 0;
  std::vector<LineSeries> named;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const bool is_named = i < named_at_each_end || i + named_at_each_end >= tensors.size();
    LineSeries series = detail::rms_series(*tensors[i].first, "");
    if (is_named) {
      series.name = tensors[i].second;
      series.colour = colour++;
      named.push_back(std::move(series));
    } else {
      series.colour = 6;
      series.dash = 0;
      chart.series.push_back(std::move(series));
    }
  }
  // On top of the others.
  for (LineSeries& series : named) chart.series.push_back(std::move(series));
  chart.description = chart.title + ", by step, on a logarithmic axis.";
  return chart;
}

/// A whole run in one picture: a row for each tensor of the choice, in the order of the ops.
/// @param groups of `runs`.
/// @param run its place in `runs`.
[[nodiscard]] inline HistogramChart model_histograms(std::span<const NumericsRun> runs,
                                                     std::span<const TensorGroup> groups,
                                                     std::size_t run, TensorChoice choice) {
  HistogramChart chart;
  chart.title = runs[run].name + ": " + std::string(detail::title_of(choice));
  chart.subtitle =
      "In the order of the ops, at the last step looked at. Exponents over the range of the "
      "format. Zero is what is zero after rounding, rounds to zero what was not zero before.";
  chart.series = {""};
  chart.note_heads = {"rms", "zero", "rounds to zero", "subnormal", "at the largest"};
  chart.row_height = 19;
  for (const TensorGroup& group : groups) {
    const auto places = detail::chosen(group, choice);
    for (const TensorPlace& place : places) {
      const TrackedTensor* tensor = tensor_at(group, run, place);
      if (tensor == nullptr || tensor->shape.size() == 1) continue;
      const TensorStatistics& seen = tensor->samples.back().statistics;
      chart.rows.push_back(
          {.heading = {},
           .label = detail::row_label(group, place, places.size()),
           .format = spec_of(*tensor),
           .histograms = {seen.histogram},
           .notes = {detail::rms_text(tensor->samples.back()), percent_text(zero_share(seen)),
                     percent_text(seen.share(seen.underflowed)),
                     percent_text(seen.share(seen.subnormal)),
                     percent_text(seen.share(seen.saturated))}});
    }
  }
  return chart;
}

/// Two runs in one picture: a row for each tensor of the choice that either has, at the last step;
/// the first run outlined, the second one filled.
/// @param groups of `runs`.
[[nodiscard]] inline HistogramChart compared_histograms(std::span<const NumericsRun> runs,
                                                        std::span<const TensorGroup> groups,
                                                        std::size_t first, std::size_t second,
                                                        TensorChoice choice) {
  HistogramChart chart;
  chart.title =
      std::string(detail::title_of(choice)) + ": " + runs[first].name + " and " + runs[second].name;
  chart.subtitle =
      "In the order of the ops, at the last step looked at. Exponents over the range of the format "
      "that " +
      runs[second].name +
      " rounds to. Zero: after rounding, those that were zero already included.";
  chart.series = {runs[second].name + " (filled)", runs[first].name + " (outlined)"};
  chart.note_heads = {"rms, filled", "rms, outlined", "zero, filled", "zero, outlined"};
  chart.row_height = 21;
  for (const TensorGroup& group : groups) {
    const auto places = detail::chosen(group, choice);
    for (const TensorPlace& place : places) {
      const TrackedTensor* outlined = tensor_at(group, first, place);
      const TrackedTensor* filled = tensor_at(group, second, place);
      const TrackedTensor* any = filled == nullptr ? outlined : filled;
      if (any == nullptr || any->shape.size() == 1) continue;
      HistogramRow row{.label = detail::row_label(group, place, places.size()),
                       .format = spec_of(*any),
                       .histograms = std::vector<ExponentHistogram>(2),
                       .notes = std::vector<std::string>(4, "-")};
      const auto show = [&](const TrackedTensor* tensor, std::size_t i) {
        if (tensor == nullptr) return;
        const TensorStatistics& seen = tensor->samples.back().statistics;
        row.histograms[i] = seen.histogram;
        row.notes[i] = detail::rms_text(tensor->samples.back());
        row.notes[2 + i] = percent_text(zero_share(seen));
      };
      show(filled, 0);
      show(outlined, 1);
      chart.rows.push_back(std::move(row));
    }
  }
  return chart;
}

}  // namespace UNIT_SCALING_NAMESPACE::analysis

UNIT_SCALING_IEEE_END
