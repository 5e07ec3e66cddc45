// SPDX-License-Identifier: MIT
/// @file
/// Layer train: the loss that a progress line shows: that of one batch jumps too much to be read.
#pragma once

#include <cstddef>
#include <deque>
#include <numeric>

#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/target.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::train {

/// Mean of the last `window` values, or of all while there are fewer. One that is not finite is
/// forgotten like any other.
class RecentMean {
 public:
  /// @throws DomainError if the window is 0.
  explicit RecentMean(std::size_t window = 50) : window_(window) {
    require_size("RecentMean", "window", window);
  }

  /// Takes up a value. @returns the mean with it.
  double add(double value) {
    values_.push_back(value);
    if (values_.size() > window_) values_.pop_front();
    // Summed anew each time, so that no rounding error is carried along.
    return std::accumulate(values_.begin(), values_.end(), 0.0) /
           static_cast<double>(values_.size());
  }

 private:
  std::size_t window_;
  std::deque<double> values_;
};

}  // namespace UNIT_SCALING_NAMESPACE::train

UNIT_SCALING_IEEE_END
