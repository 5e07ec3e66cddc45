// SPDX-License-Identifier: MIT
// The curves of a training.
#pragma once

#include <cstddef>
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

/// Whether a checkpoint is due at the point that the record has last: at every point while they are
/// few, then less often, so that what is written of the record for each point is bounded.
[[nodiscard]] inline bool is_checkpoint_due(const Record& record) {
  constexpr std::size_t few = 65536;
  return record.points.size() % (1 + record.points.size() / few) == 0;
}

}  // namespace bert_mlp
