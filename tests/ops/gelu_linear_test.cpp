// SPDX-License-Identifier: MIT
#include "unit_scaling/ops/gelu_linear.hpp"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstddef>
#include <limits>
#include <tuple>

#include "support/errors.hpp"
#include "support/gradient_check.hpp"
#include "support/op_run.hpp"
#include "support/random_arrays.hpp"
#include "support/statistics.hpp"
#include "unit_scaling/formats/precision.hpp"

namespace gelu_linear_test {

using namespace unit_scaling;
using namespace unit_scaling_test;

constexpr Scaling ideal = scaling::paper.with(constraint::none);

/// The gradients (dx, dw[, db]) of the two ops one after the other, and their output.
template <Precision P, class T, class... B>
auto two_ops(P precision, const ops::GeluLinear& op, const Array<T>& x, const Array<float>& w,
             const Array<T>& dy, const Array<B>&... b) {
  const auto gelu_scales = op.gelu.scales(x);
  const auto h = op.gelu.forward(precision, gelu_scales, x);
  const auto scales = op.linear.scales(h.output, w, b...);
  const auto y = op.linear.forward(precision, scales, h.output, w, b...);
  auto gradients = op.linear.backward(precision, scales, y.saved, dy);
  std::get<0>(gradients) =
      std::get<0>(op.gelu.backward(precision, gelu_scales, h.saved, std::get<0>(gradients)));
  return std::tuple{y.output, gradients};
}

template <class P> class GeluLinear : public testing::Test {};
using Precisions = testing::Types<precision::fp64, precision::fp32, precision::fp16,
                                  precision::bf16, precision::fp8>;
TYPED_TEST_SUITE(GeluLinear, Precisions);

TYPED_TEST(GeluLinear, GivesTheBitsOfTheTwoOpsOneAfterTheOther) {
  using T = typename TypeParam::storage;
  for (const ops::GeluForm form : {ops::GeluForm::erf, ops::GeluForm::tanh_approximation}) {
    for (const Scaling& rules : {ideal, scaling::paper, scaling::umup, scaling::none}) {
      for (const std::size_t rows : {1, 13, 40}) {
        for (const std::size_t fan_in : {1, 17, 64}) {
          for (const std::size_t fan_out : {1, 19, 48}) {
            const ops::GeluLinear op{.gelu = {.scaling = rules, .mult = 1.5, .form = form},
                                     .linear = {.scaling = rules}};
            const auto x = normal_array<T>({rows, fan_in}, 1);
            const auto w = normal_array<float>({fan_out, fan_in}, 2);
            const auto b = normal_array<float>({fan_out}, 3);
            const auto dy = normal_array<T>({rows, fan_out}, 4);
            const auto run = run_op_with(
                TypeParam{}, op, op.scales(x, w, b), [&](const auto&) { return dy; }, x, w, b);
            const auto [y, gradients] = two_ops(TypeParam{}, op, x, w, dy, b);
            EXPECT_TRUE(same_bits(run.y, y));
            EXPECT_TRUE(same_bits(std::get<0>(run.gradients), std::get<0>(gradients)));
            EXPECT_TRUE(same_bits(std::get<1>(run.gradients), std::get<1>(gradients)));
            EXPECT_TRUE(same_bits(std::get<2>(run.gradients), std::get<2>(gradients)));
            const auto without = run_op_with(
                TypeParam{}, op, op.scales(x, w), [&](const auto&) { return dy; }, x, w);
            EXPECT_TRUE(same_bits(without.y, std::get<0>(two_ops(TypeParam{}, op, x, w, dy))));
          }
        }
      }
    }
  }
}

TYPED_TEST(GeluLinear, GivesThoseBitsForInfinitiesNansAndNumbersBeyondTheRange) {
  using T = typename TypeParam::storage;
  const float infinity = std::numeric_limits<float>::infinity();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  Array<T> x({7, 3});
  const std::array<float, 7> special{infinity, -infinity, nan, 6e4F, -6e4F, -0.0F, 1e-7F};
  for (std::size_t i = 0; i < x.size(); ++i) {
    x.mutable_data()[i] = i % 3 == 0 ? T(special[i / 3]) : T(1.0F);
  }
  const auto w = normal_array<float>({5, 3}, 2);
  const auto dy = normal_array<T>({7, 5}, 4);
  const ops::GeluLinear op;
  const auto run = run_op_with(
      TypeParam{}, op, op.scales(x, w), [&](const auto&) { return dy; }, x, w);
  const auto [y, gradients] = two_ops(TypeParam{}, op, x, w, dy);
  const auto equal = [](const Array<T>& a, const Array<T>& b) {
    ASSERT_EQ(a.shape(), b.shape());
    for (std::size_t i = 0; i < a.size(); ++i) {
      const auto left = static_cast<double>(a.data()[i]);
      const auto right = static_cast<double>(b.data()[i]);
      EXPECT_TRUE(left == right || (left != left && right != right)) << i;
    }
  };
  equal(run.y, y);
  equal(std::get<0>(run.gradients), std::get<0>(gradients));
  equal(std::get<1>(run.gradients), std::get<1>(gradients));
}

TYPED_TEST(GeluLinear, ComputesOnlyTheGradientsThatAreWanted) {
  using T = typename TypeParam::storage;
  const auto x = normal_array<T>({5, 3}, 1);
  const auto w = normal_array<float>({4, 3}, 2);
  const auto dy = normal_array<T>({5, 4}, 3);
  const ops::GeluLinear op;
  const auto scales = op.scales(x, w);
  const auto result = op.forward(TypeParam{}, scales, x, w);
  const auto all = op.backward(TypeParam{}, scales, result.saved, dy);
  const auto first = op.backward(TypeParam{}, scales, result.saved, dy, {true, false});
  const auto second = op.backward(TypeParam{}, scales, result.saved, dy, {false, true});
  EXPECT_TRUE(same_bits(std::get<0>(first), std::get<0>(all)));
  EXPECT_TRUE(std::get<1>(first).empty());
  EXPECT_TRUE(std::get<0>(second).empty());
  EXPECT_TRUE(same_bits(std::get<1>(second), std::get<1>(all)));
}

TEST(GeluLinearOp, KeepsTheOperandOnlyWhereItIsStoredThatWay) {
  const auto w = normal_array<float>({4, 32}, 2);
  const ops::GeluLinear op;
  const auto x_half = normal_array<float16>({16, 32}, 1);
  const auto fp8 = op.forward(precision::fp8{}, op.scales(x_half, w), x_half, w);
  EXPECT_EQ(std::get<0>(fp8.saved).data(), x_half.data());
  EXPECT_TRUE(std::get<1>(fp8.saved).array.empty());
  EXPECT_EQ(std::get<2>(fp8.saved).array.bytes(), w.size());
  const auto x_float = normal_array<float>({16, 32}, 1);
  const auto fp32 = op.forward(precision::fp32{}, op.scales(x_float, w), x_float, w);
  EXPECT_EQ(std::get<1>(fp32.saved).array.bytes(), x_float.bytes());
}

// α of the GELU makes h of unit variance but not of zero mean; so y is wider than 1 by its square.
TEST(GeluLinearOp, OutputAndGradientsHaveUnitScaleForGaussianInput) {
  for (const std::size_t fan_in : {64, 256, 1024}) {
    const ops::GeluLinear op{.gelu = {.scaling = ideal}, .linear = {.scaling = ideal}};
    const auto run = run_op(precision::fp32{}, op, normal_array<float>({512, fan_in}, 1),
                            normal_array<float>({256, fan_in}, 2));
    constexpr double mean = 0.28209479 * 1.7009;  // E[xΦ(x)] α
    EXPECT_NEAR(standard_deviation(run.y), std::sqrt(1 + mean * mean), 0.1);
    EXPECT_NEAR(rms(std::get<0>(run.gradients)), 1, 0.1);
    EXPECT_NEAR(rms(std::get<1>(run.gradients)), std::sqrt(1 + mean * mean), 0.1);
  }
}

// The factors of the op are the linear layer's, so the GELU has none here.
TEST(GeluLinearOp, BackwardIsTheScaledGradient) {
  for (const Scaling& rules : gradient_check_scalings) {
    SCOPED_TRACE(testing::Message() << to_string(rules.rule));
    const ops::GeluLinear op{.gelu = {.scaling = scaling::none}, .linear = {.scaling = rules}};
    const auto x = normal_array<double>({3, 5}, 1);
    const auto w = normal_array<double>({4, 5}, 2);
    expect_scaled_gradients(op, 1, x, w);
    expect_scaled_gradients(op, 1, x, w, normal_array<double>({4}, 3));
  }
}

TEST(GeluLinearOp, ThreadCountChangesNoBit) {
  expect_thread_count_changes_no_bit(precision::fp8{}, ops::GeluLinear{},
                                     normal_array<float16>({300, 130}, 1),
                                     normal_array<float>({140, 130}, 2));
}

TEST(GeluLinearOp, EmptyArraysGiveEmptyResults) {
  const ops::GeluLinear op;
  const auto run = run_op(precision::fp8{}, op, Array<float16>({0, 3}), Array<float>({2, 3}));
  EXPECT_EQ(run.y.shape(), (Shape{0, 2}));
  EXPECT_EQ(std::get<0>(run.gradients).shape(), (Shape{0, 3}));
}

TEST(GeluLinearOp, NamesTheLinearLayerAndBothShapesIfTheyDoNotFit) {
  const auto x = normal_array<float>({2, 3}, 1);
  const auto w = normal_array<float>({4, 5}, 2);
  expect_shape_error([&] { (void)ops::gelu_linear(x, w); }, {"linear", "(2, 3)", "(4, 5)"});
}

}  // namespace gelu_linear_test
