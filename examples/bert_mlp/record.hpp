// SPDX-License-Identifier: MIT
// The curves of a training, and how a checkpoint keeps them.
#pragma once

#include <cstddef>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace bert_mlp {

/// A point of the curves. Validation is on the same sample of the held-out text at every point.
/// What was not finite or not measured is a NaN.
struct Point {
  std::size_t step;
  double training_bpc;  // mean since the point before
  double validation_sample_bpc;
};

/// What a training has told so far.
struct Record {
  std::vector<Point> points;
  double loss_sum = 0;  // over the steps since the last point
  std::size_t loss_count = 0;

  /// Adds a point at `step`, and begins a new mean.
  void add(std::size_t step, double validation_sample_bpc) {
    points.push_back({step, loss_sum / static_cast<double>(loss_count), validation_sample_bpc});
    loss_sum = 0;
    loss_count = 0;
  }
};

/// JSON, in which every finite number has as many digits as tell it from its neighbours.
inline std::string to_text(const Record& record) {
  nlohmann::json points = nlohmann::json::array();
  for (const Point& point : record.points) {
    points.push_back({point.step, point.training_bpc, point.validation_sample_bpc});
  }
  return nlohmann::json{
      {"points", points}, {"loss_sum", record.loss_sum}, {"loss_count", record.loss_count}}
      .dump();
}

/// @throws nlohmann::json::exception if `text` is not of `to_text`.
inline Record record_of(const std::string& text) {
  const auto number = [](const nlohmann::json& value) {
    // JSON writes what is not finite as null.
    return value.is_null() ? std::numeric_limits<double>::quiet_NaN() : value.get<double>();
  };
  const auto json = nlohmann::json::parse(text);
  Record record;
  for (const auto& point : json.at("points")) {
    record.points.push_back(
        {point.at(0).get<std::size_t>(), number(point.at(1)), number(point.at(2))});
  }
  record.loss_sum = number(json.at("loss_sum"));
  record.loss_count = json.at("loss_count").get<std::size_t>();
  return record;
}

}  // namespace bert_mlp
