// SPDX-License-Identifier: MIT
/// @file
/// Layer analysis: the scale of every value, gradient and parameter of one step.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "unit_scaling/autograd/tape.hpp"

namespace unit_scaling::analysis {

/// What one tensor's elements look like. Moments are over finite elements.
struct TensorScale {
  std::string name;       ///< op or parameter
  std::size_t index = 0;  ///< number of the op, or of the parameter, on the tape
  TensorRole role = TensorRole::value;
  Shape shape;
  double rms = 0;
  double mean = 0;
  double std = 0;
  double max_magnitude = 0;
  double zero_share = 0;        ///< share of elements that are ±0
  double non_finite_share = 0;  ///< share of elements that are NaN or infinite
};

/// Collects a TensorScale for every value, gradient and parameter a tape sees:
/// `ScaleReport report; tape.observe_with(report.observer());` before the step is recorded.
class ScaleReport {
 public:
  /// To be given to one tape; the report must outlive its use.
  [[nodiscard]] auto observer() {
    return [this](const Observation& seen) {
      if (seen.role != TensorRole::operand) tensors_.push_back(measure(seen));
    };
  }

  /// In the order seen: values forwards, then gradients backwards, then parameter gradients.
  [[nodiscard]] const std::vector<TensorScale>& tensors() const { return tensors_; }

  [[nodiscard]] static TensorScale measure(const Observation& seen) {
    TensorScale result;
    result.name = std::string(seen.name);
    result.index = seen.index;
    result.role = seen.role;
    result.shape = seen.shape;
    double sum = 0;
    double sum_of_squares = 0;
    std::size_t finite = 0;
    std::size_t zeros = 0;
    for (const float element : seen.elements) {
      if (!std::isfinite(element)) continue;
      const double value = element;
      ++finite;
      zeros += value == 0 ? 1 : 0;
      sum += value;
      sum_of_squares += value * value;
      result.max_magnitude = std::max(result.max_magnitude, std::abs(value));
    }
    if (finite > 0) {
      const auto count = static_cast<double>(finite);
      result.mean = sum / count;
      result.rms = std::sqrt(sum_of_squares / count);
      result.std = std::sqrt(std::max(0.0, sum_of_squares / count - result.mean * result.mean));
    }
    if (const auto size = static_cast<double>(seen.elements.size()); size > 0) {
      result.zero_share = static_cast<double>(zeros) / size;
      result.non_finite_share = 1 - static_cast<double>(finite) / size;
    }
    return result;
  }

 private:
  std::vector<TensorScale> tensors_;
};

/// Finds the first tensor with a NaN or an infinity among those a tape sees.
class FirstNonFinite {
 public:
  [[nodiscard]] auto observer() {
    return [this](const Observation& seen) {
      if (!found_.empty()) return;
      if (std::all_of(seen.elements.begin(), seen.elements.end(),
                      [](float element) { return std::isfinite(element); })) {
        return;
      }
      found_ = is_forward(seen.role) ? "" : "gradient of ";
      found_ +=
          (is_parameter(seen.role) ? "parameter " : "op " + std::to_string(seen.index) + ", ") +
          std::string(seen.name);
    };
  }

  /// Describes the tensor; empty if all were finite.
  [[nodiscard]] const std::string& found() const { return found_; }

 private:
  std::string found_;
};

}  // namespace unit_scaling::analysis
