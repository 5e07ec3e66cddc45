// SPDX-License-Identifier: MIT
// unit_scaling: optional
/// @file
/// Layer analysis: the figures that the pictures of training runs show, as JSON.
#pragma once

#include <array>
#include <cstddef>
#include <set>
#include <span>
#include <string>
#include <string_view>

#include "unit_scaling/analysis/format_losses.hpp"
#include "unit_scaling/analysis/json_text.hpp"
#include "unit_scaling/analysis/numerics_run.hpp"
#include "unit_scaling/analysis/tensor_groups.hpp"
#include "unit_scaling/analysis/tracker.hpp"
#include "unit_scaling/analysis/tracker_output.hpp"
#include "unit_scaling/formats/catalogue.hpp"

namespace unit_scaling::analysis {

/// Names of `narrow_formats`.
inline constexpr std::array<std::string_view, narrow_formats.size()> narrow_format_names{
    storage_name<float8_e4m3fn>, storage_name<float8_e5m2>,   storage_name<float16>,
    storage_name<float6_e2m3fn>, storage_name<float6_e3m2fn>, storage_name<float4_e2m1fn>};

/// One JSON object (RFC 8259), as in `to_json` of a tracker but for the steps that pictures show:
/// the first, the last, and the one that lost most.
///
///     {"runs":[{"name":"fp8 unit",
///               "first_non_finite":null,
///               "losses":[{"name":"training","points":[[1,4.2],[2,4.1]]}],
///               "tensors":[{"name":"norm/layer_norm","role":"value", … ,"samples":[ … ],
///                           "would_lose":{"float8_e4m3fn":[0.01,0.2,0]}}]}]}
///
/// `would_lose` has, of the last sample, the shares underflowed, subnormal and overflowed.
[[nodiscard]] inline std::string to_json(std::span<const NumericsRun> runs) {
  std::string text = "{\"runs\":[";
  std::string_view between_runs;
  for (const NumericsRun& run : runs) {
    text += between_runs;
    between_runs = ",";
    text += "\n{\"name\":" + json_string(run.name) + ",\"first_non_finite\":";
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
    for (const TrackedTensor& tensor : run.tensors) {
      if (tensor.samples.empty()) continue;
      const ShownSamples shown = shown_samples(tensor);
      text +=
          std::string(between_tensors) + "\n{" + detail::json_identity(tensor) + ",\"samples\":[";
      between_tensors = ",";
      std::set<const TrackedSample*> samples{shown.first, shown.last};
      if (shown.worst != nullptr) samples.insert(shown.worst);
      std::string_view between_samples;
      for (const TrackedSample* sample : samples) {  // in one array, hence in order
        text += std::string(between_samples) + detail::json_object(*sample);
        between_samples = ",";
      }
      text += "],\"would_lose\":{";
      for (std::size_t i = 0; i < narrow_formats.size(); ++i) {
        const FormatLosses losses =
            format_losses(shown.last->statistics.histogram, narrow_formats[i]);
        text += std::string(i == 0 ? "" : ",") + json_string(narrow_format_names[i]) + ":[" +
                json_number(losses.underflowed) + "," + json_number(losses.subnormal) + "," +
                json_number(losses.overflowed) + "]";
      }
      text += "}}";
    }
    text += "]}";
  }
  return text + "]}\n";
}

}  // namespace unit_scaling::analysis
