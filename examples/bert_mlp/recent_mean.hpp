// SPDX-License-Identifier: MIT
// The loss that the progress line shows: that of one batch jumps too much to be read.
#pragma once

#include <cstddef>
#include <deque>
#include <numeric>

namespace bert_mlp {

/// Mean of the last `window` values, or of all while there are fewer.
class RecentMean {
 public:
  static constexpr std::size_t window = 50;

  /// Takes up a value. @returns the mean with it.
  double add(double value) {
    values_.push_back(value);
    if (values_.size() > window) values_.pop_front();
    // Summed anew each time, so that no rounding error is carried along.
    return std::accumulate(values_.begin(), values_.end(), 0.0) /
           static_cast<double>(values_.size());
  }

 private:
  std::deque<double> values_;
};

}  // namespace bert_mlp
