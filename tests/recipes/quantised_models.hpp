// SPDX-License-Identifier: MIT
/// @file
/// Layer: tests. Models to be quantised: a linear layer, and a small classifier that is trained in
/// a moment, with outlier channels.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>

#include "support/random_arrays.hpp"
#include "unit_scaling/autograd/parameter.hpp"
#include "unit_scaling/autograd/tape.hpp"
#include "unit_scaling/autograd/variable.hpp"
#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/random.hpp"
#include "unit_scaling/formats/precision.hpp"
#include "unit_scaling/nn/initialiser.hpp"
#include "unit_scaling/nn/linear.hpp"
#include "unit_scaling/ops/cross_entropy.hpp"
#include "unit_scaling/ops/linear.hpp"
#include "unit_scaling/ops/relu.hpp"
#include "unit_scaling/optim/adam.hpp"
#include "unit_scaling/optim/parameter_groups.hpp"
#include "unit_scaling/recipes/calibration.hpp"
#include "unit_scaling/scaling/constraint.hpp"
#include "unit_scaling/scaling/rule.hpp"

namespace unit_scaling_test {

/// Points about ten centres in 16 dimensions, and whose each is.
struct LabelledPoints {
  static constexpr std::size_t dimensions = 16;
  static constexpr std::uint32_t classes = 10;

  unit_scaling::Array<float> points;
  unit_scaling::Array<std::int32_t> labels;

  /// @param set another one has other points of the same classes.
  LabelledPoints(std::size_t count, std::uint64_t set)
      : points({count, dimensions}), labels({count}) {
    using unit_scaling::Random;
    const Random centres(100);
    const Random noise(200 + set);
    const Random classes_of(300 + set);
    for (std::size_t i = 0; i < count; ++i) {
      const std::uint32_t label = classes_of.below(classes, i);
      labels.mutable_data()[i] = static_cast<std::int32_t>(label);
      for (std::size_t j = 0; j < dimensions; ++j) {
        const std::size_t k = i * dimensions + j;
        points.mutable_data()[k] =
            static_cast<float>(1.2 * centres.normal(label * dimensions + j) + noise.normal(k));
      }
    }
  }
};

/// Logits of two unit-scaled linear layers, "up" and "down", with a ReLU between them.
class OutlierClassifier {
 public:
  static constexpr std::size_t channels = 128;

  OutlierClassifier() : OutlierClassifier(unit_scaling::nn::Initialiser(1)) {}

  template <unit_scaling::Precision P>
  [[nodiscard]] unit_scaling::Variable<P> operator()(const unit_scaling::Variable<P>& x) const {
    return down_(unit_scaling::ops::relu(up_(x)));
  }

  template <class Visitor> void for_each_parameter(const Visitor& visit) {
    up_.for_each_parameter(visit);
    down_.for_each_parameter(visit);
  }

  void train() {
    using unit_scaling::precision::fp32;
    unit_scaling::optim::AdamW adam{unit_scaling::optim::parameters_of(*this)};
    unit_scaling::Tape<fp32> tape;
    for (std::uint64_t i = 0; i < 120; ++i) {
      tape.clear();
      const LabelledPoints batch(128, i + 1);
      const auto loss =
          unit_scaling::ops::cross_entropy((*this)(tape.constant(batch.points)), batch.labels);
      tape.backward(loss);
      adam.step(tape, 0.03);
    }
  }

  /// Multiplies what is written to a channel between the layers, and divides it again where it is
  /// read. ReLU passes factors on, and a power of two rounds nothing: what the model computes in
  /// float stays the same to the bit.
  void inject(std::size_t channel, float power_of_two) {
    for_each_parameter([&](unit_scaling::Parameter& each) {
      float* const elements = each.value.mutable_data();
      const std::size_t columns = each.value.columns();
      if (each.name == "up.weight") {
        for (std::size_t j = 0; j < columns; ++j) elements[channel * columns + j] *= power_of_two;
      } else if (each.name == "up.bias") {
        elements[channel] *= power_of_two;
      } else if (each.name == "down.weight") {
        for (std::size_t i = 0; i < each.value.rows(); ++i) {
          elements[i * columns + channel] /= power_of_two;
        }
      }
    });
  }

 private:
  explicit OutlierClassifier(unit_scaling::nn::Initialiser initialiser)
      : up_(initialiser, "up", LabelledPoints::dimensions, channels),
        down_(initialiser, "down", channels, LabelledPoints::classes,
              {.constraint = unit_scaling::constraint::none}) {}

  unit_scaling::nn::Linear up_;
  unit_scaling::nn::Linear down_;
};

/// y = x wᵀ + b, without factors.
struct PlainLinear {
  unit_scaling::Parameter weight{.name = "layer.weight",
                                 .value = unit_scaling::Array<float>({4, 32})};
  unit_scaling::Parameter bias{.name = "layer.bias", .value = normal_array<float>({4}, 3)};

  PlainLinear() {
    weight.value = normal_array<float>({4, 32}, 2);
    // Rows of unequal size.
    for (std::size_t i = 0; i < weight.value.size(); ++i) {
      weight.value.mutable_data()[i] *= std::ldexp(1.1F, static_cast<int>(i / 32));
    }
  }
  template <unit_scaling::Precision P>
  [[nodiscard]] unit_scaling::Variable<P> operator()(const unit_scaling::Variable<P>& x) const {
    const auto module = x.tape().enter("layer");
    return unit_scaling::ops::linear(
        x, weight, bias, unit_scaling::ops::Linear{.scaling = unit_scaling::scaling::none});
  }
  template <class Visitor> void for_each_parameter(const Visitor& visit) {
    visit(weight);
    visit(bias);
  }
};

/// What the model's products read of x, as one batch.
template <class Model>
[[nodiscard]] unit_scaling::Calibration calibration_of(
    const Model& model, const unit_scaling::Array<float>& x,
    const unit_scaling::CalibrationOptions& options = {}) {
  unit_scaling::Tape<unit_scaling::precision::fp32> tape(unit_scaling::TapeMode::inference);
  return unit_scaling::calibrate(
      tape, 1, [&](std::size_t) { (void)model(tape.constant(x)); }, options);
}

/// The model's logits, under the recipe that the tape has.
template <class Model, unit_scaling::Precision P>
[[nodiscard]] unit_scaling::Array<float> logits_of(const Model& model, unit_scaling::Tape<P>& tape,
                                                   const unit_scaling::Array<float>& points) {
  tape.clear();
  const auto logits = model(tape.constant(points));
  return unit_scaling::Array<float>(logits.shape(), logits.value().span());
}

/// The share of points whose largest logit is that of their label, in percent.
[[nodiscard]] inline double accuracy(const unit_scaling::Array<float>& logits,
                                     const unit_scaling::Array<std::int32_t>& labels) {
  std::size_t right = 0;
  for (std::size_t i = 0; i < logits.rows(); ++i) {
    const auto row = logits.span().subspan(i * logits.columns(), logits.columns());
    const auto largest = std::max_element(row.begin(), row.end()) - row.begin();
    if (largest == labels.data()[i]) ++right;
  }
  return 100 * static_cast<double>(right) / static_cast<double>(logits.rows());
}

}  // namespace unit_scaling_test
