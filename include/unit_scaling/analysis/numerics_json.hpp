// SPDX-License-Identifier: MIT
// unit_scaling: optional
/// @file
/// Layer analysis: the figures that a report of training runs shows, as JSON.
#pragma once

#include <array>
#include <cstddef>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "unit_scaling/analysis/format_losses.hpp"
#include "unit_scaling/analysis/json_text.hpp"
#include "unit_scaling/analysis/numerics_run.hpp"
#include "unit_scaling/analysis/short_number.hpp"
#include "unit_scaling/analysis/tensor_groups.hpp"
#include "unit_scaling/analysis/tensor_statistics.hpp"
#include "unit_scaling/analysis/tracker.hpp"
#include "unit_scaling/analysis/tracker_output.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/formats/catalogue.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::analysis {

/// Names of `narrow_formats`.
inline constexpr std::array<std::string_view, narrow_formats.size()> narrow_format_names{
    storage_name<float8_e4m3fn>, storage_name<float8_e5m2>,   storage_name<float16>,
    storage_name<float6_e2m3fn>, storage_name<float6_e3m2fn>, storage_name<float4_e2m1fn>};

namespace detail {

/// A sample as a JSON object: moments, magnitudes, and counts of elements.
[[nodiscard]] inline std::string json_object(const TrackedSample& sample) {
  const TensorStatistics& seen = sample.statistics;
  std::string text = "{\"step\":" + std::to_string(sample.step);
  const auto add = [&](std::string_view name, const std::string& value) {
    text += ",\"" + std::string(name) + "\":" + value;
  };
  add("elements", std::to_string(seen.elements));
  add("rms", json_number(seen.rms));
  add("mean", json_number(seen.mean));
  add("std", json_number(seen.std));
  add("min_magnitude", json_number(seen.min_magnitude));
  add("max_magnitude", json_number(seen.max_magnitude));
  add("zeros", std::to_string(seen.histogram.zeros));
  add("underflowed", std::to_string(seen.underflowed));
  add("subnormal", std::to_string(seen.subnormal));
  add("saturated", std::to_string(seen.saturated));
  add("non_finite", std::to_string(seen.histogram.non_finite));
  add("first_exponent",
      seen.histogram.counts.empty() ? "null" : std::to_string(seen.histogram.first_exponent));
  add("counts", "[" + count_list(seen.histogram, ",") + "]");
  return text + "}";
}

}  // namespace detail

/// One JSON object (RFC 8259) with, of each tensor, the last sample and, before it, the one that
/// lost most, as ShownSamples has it:
///
///     {"runs":[{"name":"fp8 unit","first_non_finite":null,
///               "losses":[{"name":"training","points":[[1,4.2],[2,4.1]]}],
///               "tensors":[{"name":"norm/layer_norm","role":"value","format":"float16",
///                           "samples":[{"step":700,"elements":4096,"rms":1.01, … ,"zeros":0,
///                                       "first_exponent":-9,"counts":[3,8,17]}],
///                           "would_lose":{"float8_e4m3fn":[0.01,0.2,0]}}]}]}
///
/// Counts are of elements. `would_lose` has, of the last sample, the shares underflowed, subnormal
/// and overflowed to six digits, and leaves out formats that would lose nothing.
[[nodiscard]] inline std::string to_json(std::span<const NumericsRun> runs) {
  std::string text = "{\"runs\":[";
  const std::vector<TensorGroup> groups = group_tensors(runs);
  std::size_t number = 0;
  std::string_view between_runs;
  for (const NumericsRun& run : runs) {
    text += std::string(between_runs) + "\n{\"name\":" + json_string(run.name);
    between_runs = ",";
    text += ",\"first_non_finite\":";
    text += !run.first_non_finite
                ? "null"
                : "{\"step\":" + std::to_string(run.first_non_finite->step) +
                      ",\"name\":" + json_string(run.first_non_finite->name) + "}";
    text += ",\"losses\":[";
    std::string_view between_curves;
    for (const LossCurve& curve : run.losses) {
      text +=
          std::string(between_curves) + "{\"name\":" + json_string(curve.name) + ",\"points\":[";
      between_curves = ",";
      std::string_view between_points;
      for (const auto& [step, loss] : curve.points) {
        text +=
            std::string(between_points) + "[" + json_number(step) + "," + json_number(loss) + "]";
        between_points = ",";
      }
      text += "]}";
    }
    text += "],\"tensors\":[";
    std::string_view between_tensors;
    std::map<const TrackedTensor*, LargestLoss> largest;
    for (const TensorGroup& group : groups) {
      const LargestLoss of_group = largest_loss(group.tensors[number]);
      for (const TrackedTensor* tensor : group.tensors[number]) largest[tensor] = of_group;
    }
    ++number;
    for (const TrackedTensor& tensor : run.tensors) {
      if (tensor.samples.empty() || is_seen_elsewhere(tensor)) continue;
      const ShownSamples shown = shown_samples(tensor, largest[&tensor]);
      text += std::string(between_tensors) + "\n{\"name\":" + json_string(tensor.name) +
              ",\"role\":" + json_string(to_string(tensor.role)) +
              ",\"format\":" + json_string(tensor.format) + ",\"samples\":[";
      between_tensors = ",";
      if (shown.worst != nullptr) text += detail::json_object(*shown.worst) + ",";
      text += detail::json_object(*shown.last) + "],\"would_lose\":{";
      std::string_view between_formats;
      for (std::size_t i = 0; i < narrow_formats.size(); ++i) {
        const FormatLosses losses =
            format_losses(shown.last->statistics.histogram, narrow_formats[i]);
        if (losses.underflowed + losses.subnormal + losses.overflowed == 0) continue;
        text += std::string(between_formats) + json_string(narrow_format_names[i]) + ":[" +
                short_number(losses.underflowed, 6) + "," + short_number(losses.subnormal, 6) +
                "," + short_number(losses.overflowed, 6) + "]";
        between_formats = ",";
      }
      text += "}}";
    }
    text += "]}";
  }
  return text + "]}\n";
}

}  // namespace UNIT_SCALING_NAMESPACE::analysis

UNIT_SCALING_IEEE_END
