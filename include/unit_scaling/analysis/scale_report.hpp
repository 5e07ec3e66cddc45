// SPDX-License-Identifier: MIT
/// @file
/// Layer analysis: the scale of every value, gradient and parameter of one step. `Tracker` follows
/// them over a whole run, with more of each.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "unit_scaling/analysis/tensor_statistics.hpp"
#include "unit_scaling/autograd/observation.hpp"
#include "unit_scaling/core/shape.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/formats/format.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::analysis {

/// What one tensor's elements look like. Moments and the largest magnitude are over finite
/// elements, as in TensorStatistics.
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
  [[nodiscard]] const std::vector<TensorScale>& tensors() const& { return tensors_; }
  [[nodiscard]] std::vector<TensorScale> tensors() const&& { return tensors_; }

  /// The figures of one tensor.
  [[nodiscard]] static TensorScale measure(const Observation& seen) {
    TensorScale result;
    result.name = std::string(seen.name);
    result.index = seen.index;
    result.role = seen.role;
    result.shape = seen.shape;
    // The thresholds of a format are of no matter here.
    static const RoundingThresholds thresholds{Format::parse("float32")};
    const TensorStatistics measured = tensor_statistics(seen.elements, thresholds);
    result.rms = measured.rms;
    result.mean = measured.mean;
    result.std = measured.std;
    result.max_magnitude = measured.max_magnitude;
    result.zero_share = measured.share(measured.histogram.zeros);
    result.non_finite_share = measured.share(measured.histogram.non_finite);
    return result;
  }

 private:
  std::vector<TensorScale> tensors_;
};

}  // namespace UNIT_SCALING_NAMESPACE::analysis

UNIT_SCALING_IEEE_END
