// SPDX-License-Identifier: MIT
/// @file
/// Layer analysis: what a tracker recorded, as CSV and as JSON. `write_file` of
/// core/atomic_file.hpp puts either into a file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "unit_scaling/analysis/exponent_histogram.hpp"
#include "unit_scaling/analysis/json_text.hpp"
#include "unit_scaling/analysis/tensor_statistics.hpp"
#include "unit_scaling/analysis/tracker.hpp"
#include "unit_scaling/core/shape.hpp"
#include "unit_scaling/core/target.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::analysis {

namespace detail {

/// A field of CSV (RFC 4180): in quotation marks if it needs them.
[[nodiscard]] inline std::string csv_field(std::string_view text) {
  if (text.find_first_of("\",\r\n") == std::string_view::npos) return std::string(text);
  std::string result = "\"";
  for (const char character : text) {
    if (character == '"') result += '"';
    result += character;
  }
  return result + "\"";
}

/// The counts with `separator` in between.
[[nodiscard]] inline std::string count_list(const ExponentHistogram& histogram,
                                            std::string_view separator) {
  std::string result;
  for (const std::uint64_t count : histogram.counts) {
    if (!result.empty()) result += separator;
    result += std::to_string(count);
  }
  return result;
}

/// Calls `visit(name, number)` for all that is told of a sample besides its exponents.
template <class Visit> void for_each_figure(const TrackedSample& sample, const Visit& visit) {
  const TensorStatistics& seen = sample.statistics;
  visit("rms", seen.rms);
  visit("mean", seen.mean);
  visit("std", seen.std);
  visit("min_magnitude", seen.min_magnitude);
  visit("max_magnitude", seen.max_magnitude);
  visit("zero_share", seen.share(seen.histogram.zeros));
  visit("underflowed_share", seen.share(seen.underflowed));
  visit("subnormal_share", seen.share(seen.subnormal));
  visit("saturated_share", seen.share(seen.saturated));
  visit("non_finite_share", seen.share(seen.histogram.non_finite));
}

}  // namespace detail

/// One line for each tensor and step, under a line of these headings:
///
/// - step, name, role, format, and index and argument: as in TrackedTensor;
/// - shape: the extents when first seen, "32x128"; elements: how many there are in this step;
/// - rms, mean, std, min_magnitude, max_magnitude: of the finite elements, min_magnitude of those
///   other than zero;
/// - zero_share, underflowed_share, subnormal_share, saturated_share, non_finite_share: from 0
///   to 1, as TensorStatistics counts them;
/// - update_ratio: RMS of an update over that of its parameter; empty for other tensors;
/// - first_exponent, counts: the exponent histogram, counts separated by spaces from
///   2^first_exponent on; both empty if no element is finite and not zero.
///
/// Lines end in a line feed.
[[nodiscard]] inline std::string to_csv(const Tracker& tracker) {
  std::string text = "step,name,role,format,index,argument,shape,elements";
  detail::for_each_figure({}, [&](std::string_view name, double) { (text += ',') += name; });
  text += ",update_ratio,first_exponent,counts\n";
  for (const TrackedTensor& tensor : tracker.tensors()) {
    std::string shape;
    for (const std::size_t extent : tensor.shape) {
      if (!shape.empty()) shape += 'x';
      shape += std::to_string(extent);
    }
    std::string what;
    for (const std::string& cell :
         {detail::csv_field(tensor.name), std::string(to_string(tensor.role)),
          detail::csv_field(tensor.format), std::to_string(tensor.index),
          std::to_string(tensor.argument), shape}) {
      (what += ',') += cell;
    }
    what += ',';
    for (const TrackedSample& sample : tensor.samples) {
      text += std::to_string(sample.step) + what + std::to_string(sample.statistics.elements);
      detail::for_each_figure(
          sample, [&](std::string_view, double number) { (text += ',') += json_number(number); });
      text += ',';
      if (sample.update_ratio) text += json_number(*sample.update_ratio);
      const ExponentHistogram& histogram = sample.statistics.histogram;
      text += ',';
      if (!histogram.counts.empty()) text += std::to_string(histogram.first_exponent);
      ((text += ',') += detail::count_list(histogram, " ")) += '\n';
    }
  }
  return text;
}

/// The same as one JSON object (RFC 8259):
///
///     {"every":10,
///      "first_non_finite":{"step":20,"name":"norm/layer_norm"},
///      "tensors":[{"name":"norm/layer_norm","role":"value","module":"norm","source":"layer_norm",
///                  "index":3,"argument":0,"format":"float16","shape":[32,128],
///                  "samples":[{"step":10,"elements":4096,"rms":1.01, … ,"update_ratio":null,
///                              "exponents":{"first":-9,"counts":[3,8,17]}}]}]}
///
/// `first_non_finite` is null if all tensors were finite; so are `first` of a histogram without
/// counts and a number that is not finite.
[[nodiscard]] inline std::string to_json(const Tracker& tracker) {
  std::string text = "{\"every\":" + std::to_string(tracker.options().every);
  text += ",\"first_non_finite\":";
  if (const auto found = tracker.first_non_finite()) {
    text +=
        "{\"step\":" + std::to_string(found->step) + ",\"name\":" + json_string(found->name) + "}";
  } else {
    text += "null";
  }
  text += ",\"tensors\":[";
  std::string_view between_tensors;
  for (const TrackedTensor& tensor : tracker.tensors()) {
    text += between_tensors;
    between_tensors = ",";
    text += "\n{\"name\":" + json_string(tensor.name) +
            ",\"role\":" + json_string(to_string(tensor.role)) +
            ",\"module\":" + json_string(tensor.module) +
            ",\"source\":" + json_string(tensor.source) +
            ",\"index\":" + std::to_string(tensor.index) +
            ",\"argument\":" + std::to_string(tensor.argument) +
            ",\"format\":" + json_string(tensor.format) + ",\"shape\":[";
    std::string_view between_extents;
    for (const std::size_t extent : tensor.shape) {
      text += std::string(between_extents) + std::to_string(extent);
      between_extents = ",";
    }
    text += "],\"samples\":[";
    std::string_view between_samples;
    for (const TrackedSample& sample : tensor.samples) {
      text += between_samples;
      between_samples = ",";
      text += "\n{\"step\":" + std::to_string(sample.step) +
              ",\"elements\":" + std::to_string(sample.statistics.elements);
      detail::for_each_figure(sample, [&](std::string_view name, double number) {
        text += ",\"" + std::string(name) + "\":" + json_number(number);
      });
      const ExponentHistogram& histogram = sample.statistics.histogram;
      text += ",\"update_ratio\":" +
              (sample.update_ratio ? json_number(*sample.update_ratio) : std::string("null")) +
              R"(,"exponents":{"first":)" +
              (histogram.counts.empty() ? "null" : std::to_string(histogram.first_exponent)) +
              ",\"counts\":[" + detail::count_list(histogram, ",") + "]}}";
    }
    text += "]}";
  }
  return text + "]}\n";
}

}  // namespace UNIT_SCALING_NAMESPACE::analysis

UNIT_SCALING_IEEE_END
