// SPDX-License-Identifier: MIT
// The curves of a training, and how a checkpoint keeps them.
#pragma once

#include <cmath>
#include <cstddef>
#include <stdexcept>
#include <vector>

#include "options.hpp"
#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/shape.hpp"
#include "unit_scaling/train/safetensors.hpp"

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

/// Adds the record of a training to its checkpoint. There is a point every so many steps, so
/// neither the steps of the points nor the steps since the last one need be kept. In binary, for
/// the points are written anew with each checkpoint.
inline void add_record(us::train::SafetensorsWriter& writer, const Record& record) {
  us::Array<double> points({record.points.size(), 2});
  double* next = points.mutable_data();
  for (const Point& point : record.points) {
    *next++ = point.training_bpc;
    *next++ = point.validation_sample_bpc;
  }
  writer.add("record.points", points);
  us::Array<double> sum({1});
  *sum.mutable_data() = record.loss_sum;
  writer.add("record.loss_sum", sum);
}

/// The record of a checkpoint after `step` steps.
/// @throws std::exception if there is none, or it is of another number of steps.
inline Record record_of(us::train::SafetensorsFile& file, std::size_t step,
                        std::size_t eval_every) {
  Record record;
  const auto points = file.tensor<double>("record.points", {step / eval_every, 2});
  const double* next = points.data();
  for (std::size_t i = 0; i < step / eval_every; ++i, next += 2) {
    record.points.push_back({(i + 1) * eval_every, next[0], next[1]});
  }
  record.loss_sum = *file.tensor<double>("record.loss_sum", {1}).data();
  record.loss_count = step % eval_every;
  if (!std::isfinite(record.loss_sum)) {
    throw std::invalid_argument("the mean loss of its last steps is not finite");
  }
  return record;
}

/// Whether a checkpoint is due at the point that the record has last: at every point while they are
/// few, then less often, so that what is written of the record for each point is bounded.
[[nodiscard]] inline bool is_checkpoint_due(const Record& record) {
  constexpr std::size_t few = 65536;
  return record.points.size() % (1 + record.points.size() / few) == 0;
}

}  // namespace bert_mlp
