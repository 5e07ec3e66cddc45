// SPDX-License-Identifier: MIT
#include "unit_scaling/analysis/scale_report.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "autograd/tape_support.hpp"
#include "unit_scaling/ops/linear.hpp"

namespace scale_report_test {

using namespace unit_scaling;
using namespace unit_scaling_test;
using analysis::ScaleReport;
using analysis::TensorScale;

constexpr float nan = std::numeric_limits<float>::quiet_NaN();
constexpr float infinity = std::numeric_limits<float>::infinity();

TensorScale measure(const std::vector<float>& elements) {
  const Shape shape{elements.size()};
  return ScaleReport::measure({.name = "op",
                               .index = 3,
                               .role = TensorRole::parameter_gradient,
                               .shape = shape,
                               .elements = elements});
}

TEST(ScaleReport, FiguresAreThoseOfTheFiniteElements) {
  const TensorScale scale = measure({3, -4, 0, nan, infinity, -0.0F, -infinity, 1});
  EXPECT_EQ(scale.name, "op");
  EXPECT_EQ(scale.index, 3U);
  EXPECT_EQ(scale.role, TensorRole::parameter_gradient);
  EXPECT_EQ(scale.shape, Shape{8});
  // Five finite elements with sum 0 and sum of squares 26; a few roundings in double.
  EXPECT_NEAR(scale.rms, std::sqrt(5.2), 1e-15);
  EXPECT_EQ(scale.mean, 0);
  EXPECT_NEAR(scale.std, std::sqrt(5.2), 1e-15);
  EXPECT_EQ(scale.max_magnitude, 4);
  EXPECT_EQ(scale.zero_share, 0.25);
  EXPECT_EQ(scale.non_finite_share, 0.375);
}

TEST(ScaleReport, StandardDeviationLeavesOutTheMean) {
  const TensorScale scale = measure({1, 1, 5, 5});
  EXPECT_EQ(scale.mean, 3);
  EXPECT_EQ(scale.std, 2);
  EXPECT_NEAR(scale.rms, std::sqrt(13.0), 1e-15);
  EXPECT_EQ(measure({7, 7, 7}).std, 0);
}

TEST(ScaleReport, TakesNothingAndNothingFinite) {
  for (const auto& elements : {std::vector<float>{}, std::vector<float>{nan, infinity}}) {
    const TensorScale scale = measure(elements);
    EXPECT_EQ(scale.rms, 0);
    EXPECT_EQ(scale.mean, 0);
    EXPECT_EQ(scale.std, 0);
    EXPECT_EQ(scale.max_magnitude, 0);
    EXPECT_EQ(scale.zero_share, 0);
    EXPECT_EQ(scale.non_finite_share, elements.empty() ? 0 : 1);
  }
}

/// Records y = w x, with w of ones, and the weighted sum of y, and runs the backward pass.
template <Precision P, class Observer>
void record_step(const Observer& observer, const Array<float>& x, float w,
                 const Array<float>& weights, float seed = 1) {
  using T = typename P::storage;
  const Parameter parameter{"w", Array<float>::filled(Shape{2, 2}, w)};
  Array<T> input(x.shape());
  for (std::size_t i = 0; i < x.size(); ++i) input.mutable_data()[i] = static_cast<T>(x.data()[i]);
  Tape<P> tape;
  tape.observe_with(observer);
  const auto y =
      ops::linear(tape.constant(input), tape.parameter(parameter), {.scaling = scaling::none});
  tape.backward(tape.record(WeightedSum{weights}, y), seed);
}

TEST(ScaleReport, ListsValuesForwardsThenGradientsBackwardsThenParameterGradients) {
  ScaleReport report;
  record_step<precision::fp32>(report.observer(), Array<float>(Shape{1, 2}, {1, 2}), 1,
                               Array<float>(Shape{1, 2}, {3, 4}));
  std::vector<std::string> seen;
  std::vector<double> largest;
  for (const TensorScale& tensor : report.tensors()) {
    seen.push_back(std::string(is_forward(tensor.role) ? "" : "d ") + tensor.name + " " +
                   std::to_string(tensor.index) + " " + to_string(tensor.shape));
    largest.push_back(tensor.max_magnitude);
  }
  EXPECT_EQ(seen,
            (std::vector<std::string>{"w 0 (2, 2)", "linear 0 (1, 2)", "weighted_sum 1 ()",
                                      "d weighted_sum 1 ()", "d linear 0 (1, 2)", "d w 0 (2, 2)"}));
  // y = (3, 3), the loss 9 + 12, dy = (3, 4), dw = dyᵀ x.
  EXPECT_EQ(largest, (std::vector<double>{1, 3, 21, 1, 4, 8}));
}

}  // namespace scale_report_test
