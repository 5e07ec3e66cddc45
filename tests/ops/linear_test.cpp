// SPDX-License-Identifier: MIT
#include "unit_scaling/ops/linear.hpp"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <limits>
#include <tuple>
#include <type_traits>
#include <vector>

#include "support/errors.hpp"
#include "support/gradient_check.hpp"
#include "support/matrix_reference.hpp"
#include "support/op_run.hpp"
#include "support/random_arrays.hpp"
#include "support/rounding_check.hpp"
#include "support/statistics.hpp"
#include "unit_scaling/formats/format.hpp"
#include "unit_scaling/kernels/operand.hpp"

namespace linear_test {

using namespace unit_scaling;
using namespace unit_scaling_test;

constexpr Scaling ideal = scaling::paper.with(constraint::none);

TEST(Linear, BackwardIsTheScaledGradient) {
  const auto w = normal_array<double>({5, 7}, 1);
  const auto b = normal_array<double>({5}, 2);
  for (const Shape& shape : {Shape{7}, Shape{1, 7}, Shape{3, 7}, Shape{2, 3, 7}}) {
    const auto x = normal_array<double>(shape, 3);
    expect_scaled_gradients_under_all_rules(ops::Linear{}, x, w);
    expect_scaled_gradients_under_all_rules(ops::Linear{}, x, w, b);
  }
}

TEST(Linear, BackwardOfAReadOutIsTheScaledGradient) {
  expect_scaled_gradients_under_all_rules(ops::Linear{.power = {1, 0.5, 0.5}},
                                          normal_array<double>({3, 7}, 4),
                                          normal_array<double>({5, 7}, 5));
}

// The paper's claim of unit scale, to the ±0.1 of its own tests. Entries of a product share rows
// and columns, so the standard error is near (1/rows + 1/columns + 1/inner)^½ / √2 < 0.02 of 10^-1.
TEST(Linear, OutputAndGradientsHaveUnitScaleForGaussianInput) {
  struct Size {
    std::size_t rows, fan_in, fan_out;
  };
  for (const auto [rows, fan_in, fan_out] :
       {Size{1024, 768, 1280}, Size{4096, 512, 512}, Size{1537, 2048, 511}}) {
    SCOPED_TRACE(testing::Message() << rows << " " << fan_in << " " << fan_out);
    const auto run = run_op(
        precision::fp32{}, ops::Linear{.scaling = ideal}, normal_array<float>({rows, fan_in}, 6),
        normal_array<float>({fan_out, fan_in}, 7), Array<float>::filled(Shape{fan_out}, 0));
    EXPECT_NEAR(standard_deviation(run.y), 1, 0.1);
    EXPECT_NEAR(rms(std::get<0>(run.gradients)), 1, 0.1);
    EXPECT_NEAR(rms(std::get<1>(run.gradients)), 1, 0.1);
    EXPECT_NEAR(rms(std::get<2>(run.gradients)), 1, 0.1);
  }
}

TEST(Linear, FactorsAreTheRootsOfTheExtents) {
  const Array<float> x(Shape{2, 8, 16});
  const Array<float> w(Shape{64, 16});
  const Array<float> b(Shape{64});
  const Scales<3> free = ops::Linear{.scaling = ideal}.scales(x, w, b);
  EXPECT_EQ(free, (Scales<3>{.forward = 1.0 / 4, .backward = {1.0 / 8, 1.0 / 4, 1.0 / 4}}));
  // The constraint binds x; (16 · 64)^-¼ = 2^-2.5, within the rounding of exp(log) in double.
  const Scales<3> paper = ops::Linear{}.scales(x, w, b);
  EXPECT_NEAR(paper.forward, std::pow(2, -2.5), 1e-15);
  EXPECT_EQ(paper.backward[0], paper.forward);
  EXPECT_EQ(paper.backward[1], 1.0 / 4);
  EXPECT_EQ(paper.backward[2], 1.0 / 4);
  const Scales<2> umup = ops::Linear{.scaling = scaling::umup}.scales(x, w);
  EXPECT_EQ(umup, (Scales<2>{.forward = 1.0 / 4, .backward = {1.0 / 4, 1.0 / 4}}));
  EXPECT_EQ((ops::Linear{.scaling = scaling::none}.scales(x, w)), Scales<2>{});
}

TEST(Linear, ReadOutOfUmupDividesByFanIn) {
  const ops::Linear op{.scaling = scaling::umup.on_cut_edge(), .power = {1, 0.5, 0.5}};
  EXPECT_EQ((op.scales(Array<float>(Shape{9, 16}), Array<float>(Shape{64, 16}))),
            (Scales<2>{.forward = 1.0 / 16, .backward = {1.0 / 8, 1.0 / 3}}));
}

TEST(Linear, RejectsShapesThatDoNotFit) {
  const auto x = normal_array<float>({4, 3}, 8);
  expect_shape_error(
      [&] {
        (void)ops::linear(x, normal_array<float>({3, 5}, 9));
      },
      {"linear", "(4, 3)", "(3, 5)"});
  expect_shape_error([&] { (void)ops::linear(x, normal_array<float>({3}, 9)); },
                     {"linear", "(4, 3)", "(3)"});
  expect_shape_error(
      [&] {
        (void)ops::linear(normal_array<float>({}, 8), normal_array<float>({5, 1}, 9));
      },
      {"linear", "()", "(5, 1)"});
  const auto w = normal_array<float>({5, 3}, 9);
  expect_shape_error([&] { (void)ops::linear(x, w, normal_array<float>({4}, 10)); },
                     {"linear", "(4)", "(5, 3)"});
  const ops::Linear op;
  const auto forward = op.forward(precision::fp32{}, op.scales(x, w), x, w);
  expect_shape_error(
      [&] {
        (void)op.backward(precision::fp32{}, op.scales(x, w), forward.saved,
                          normal_array<float>({5, 4}, 11));
      },
      {"linear", "(5, 4)", "(4, 5)"});
}

TEST(Linear, TakesEmptyArrays) {
  struct Size {
    std::size_t rows, fan_in, fan_out;
  };
  for (const auto [rows, fan_in, fan_out] : {Size{0, 3, 5}, Size{4, 0, 5}, Size{4, 3, 0},
                                             Size{0, 0, 0}, Size{1, 1, 1}, Size{17, 15, 33}}) {
    const auto x = normal_array<float16>({rows, fan_in}, 12);
    const auto w = normal_array<float16>({fan_out, fan_in}, 13);
    expect_gradients_have_argument_shapes(precision::fp8{}, ops::Linear{}, x, w);
    expect_gradients_have_argument_shapes(precision::fp8{}, ops::Linear{}, x, w,
                                          normal_array<float16>({fan_out}, 14));
  }
}

TEST(Linear, WithoutInputsTheOutputIsTheScaledBias) {
  const auto b = normal_array<float>({5}, 15);
  const auto y = ops::linear(Array<float>(Shape{4, 0}), Array<float>(Shape{5, 0}), b,
                             {.scaling = scaling::none});
  for (std::size_t i = 0; i < y.size(); ++i) EXPECT_EQ(y.data()[i], b.data()[i % 5]);
}

TEST(Linear, UnwantedGradientsAreLeftEmpty) {
  const auto x = normal_array<float>({4, 3}, 16);
  const auto w = normal_array<float>({5, 3}, 17);
  const auto b = normal_array<float>({5}, 18);
  const ops::Linear op;
  const auto all = run_op(precision::fp32{}, op, x, w, b);
  for (unsigned mask = 0; mask < 8; ++mask) {
    const std::array wanted{(mask & 1) != 0, (mask & 2) != 0, (mask & 4) != 0};
    const auto some = op.backward(precision::fp32{}, all.scales, all.saved, all.dy, wanted);
    const Array<float> empty;
    EXPECT_EQ(std::get<0>(some), wanted[0] ? std::get<0>(all.gradients) : empty);
    EXPECT_EQ(std::get<1>(some), wanted[1] ? std::get<1>(all.gradients) : empty);
    EXPECT_EQ(std::get<2>(some), wanted[2] ? std::get<2>(all.gradients) : empty);
  }
}

TEST(Linear, NanAndInfinityReachTheResultsThatDependOnThem) {
  constexpr float nan = std::numeric_limits<float>::quiet_NaN();
  constexpr float infinity = std::numeric_limits<float>::infinity();
  const Array<float> x(Shape{3, 2}, {nan, 1, infinity, 1, 1, 1});
  const Array<float> w(Shape{1, 2}, {1, 1});
  const auto y = ops::linear(x, w);
  EXPECT_TRUE(std::isnan(y.data()[0]));
  EXPECT_EQ(y.data()[1], infinity);
  EXPECT_TRUE(std::isfinite(y.data()[2]));
  // Operands in fp8 saturate: an infinity becomes 448, a NaN remains one.
  const auto y8 = ops::linear(precision::fp8{}, x, w, {.scaling = scaling::none});
  EXPECT_TRUE(isnan(y8.data()[0]));
  EXPECT_EQ(static_cast<float>(y8.data()[1]), 449.0F);
}

TEST(Linear, OverflowOfTheOutputIsAnInfinity) {
  const auto x = Array<float16>::filled(Shape{1, 4}, float16(30000.0F));
  const auto w = Array<float16>::filled(Shape{1, 4}, float16(1.0F));
  EXPECT_TRUE(isinf(ops::linear(x, w, {.scaling = scaling::none}).data()[0]));
}

template <class P> class LinearIn : public testing::Test {};
TYPED_TEST_SUITE(LinearIn, StoragePrecisions, PrecisionNames);

TYPED_TEST(LinearIn, SavesTheRoundedOperands) {
  using P = TypeParam;
  const auto x = normal_array<typename P::storage>({4, 3}, 19);
  const auto w = normal_array<typename P::storage>({5, 3}, 20);
  const auto run = run_op(P{}, ops::Linear{}, x, w);
  using Operand = typename P::matmul_operand;
  for (const kernels::Operand& operand : {std::get<0>(run.saved), std::get<1>(run.saved)}) {
    EXPECT_EQ(operand.array.format(), Format::of<Operand>());
    EXPECT_FALSE(operand.array.has_scales());
  }
  static_assert(!std::is_same_v<P, precision::fp8> || sizeof(Operand) == 1);
  static_assert(std::is_same_v<decltype(run.y), Array<typename P::storage>>);
  const Array<Operand> saved = std::get<0>(run.saved).array.template array<Operand>();
  for (std::size_t i = 0; i < x.size(); ++i) {
    EXPECT_EQ(static_cast<double>(saved.data()[i]), rounded_to<Operand>(x.data()[i]));
  }
}

// Each sum has n products in one chain of fused multiply-adds, so it is within n units of Σ|a b|;
// the factor, itself rounded to binary32, and the bias add three roundings.
TYPED_TEST(LinearIn, ResultsAreTheDoubleReferenceOfTheRoundedOperandsRoundedOnce) {
  using P = TypeParam;
  using T = typename P::storage;
  constexpr std::size_t rows = 19, fan_in = 35, fan_out = 23;
  // Large enough for some elements to saturate in E4M3.
  auto x = normal_array<T>({rows, fan_in}, 21);
  x.mutable_data()[5] = T(1000.0F);
  const auto w = normal_array<T>({fan_out, fan_in}, 22);
  const auto b = normal_array<T>({fan_out}, 23);
  const auto run = run_op(P{}, ops::Linear{.scaling = ideal}, x, w, b);

  const auto xs = rounded_matrix<typename P::matmul_operand>(x);
  const auto ws = rounded_matrix<typename P::matmul_operand>(w);
  const auto gs = rounded_matrix<typename P::matmul_gradient>(run.dy);
  auto y = product_reference(xs, transposed(ws), 1);
  for (std::size_t i = 0; i < y.size(); ++i) {
    const auto bias = static_cast<double>(b.data()[i % fan_out]);
    y[i].value = run.scales.forward * (y[i].value + bias);
    y[i].error = run.scales.forward * (y[i].error + 3 * float_unit * std::abs(bias)) +
                 3 * float_unit * std::abs(y[i].value);
  }
  expect_rounded(run.y, y);
  expect_rounded(std::get<0>(run.gradients), product_reference(gs, ws, run.scales.backward[0]));
  expect_rounded(std::get<1>(run.gradients),
                 product_reference(transposed(gs), xs, run.scales.backward[1]));
  // The bias gradient sums dy before its rounding to the gradient format.
  const Matrix ones{1, rows, std::vector<double>(rows, 1)};
  expect_rounded(std::get<2>(run.gradients),
                 product_reference(ones, rounded_matrix<T>(run.dy), run.scales.backward[2]));
}

TYPED_TEST(LinearIn, ThreadCountChangesNoBit) {
  using T = typename TypeParam::storage;
  expect_thread_count_changes_no_bit(TypeParam{}, ops::Linear{}, normal_array<T>({301, 130}, 24),
                                     normal_array<T>({77, 130}, 25), normal_array<T>({77}, 26));
}

TEST(Linear, FunctionObjectComputesInTheFormatOfItsFirstArgument) {
  const auto x = normal_array<float16>({4, 3}, 27);
  const auto w = normal_array<float>({5, 3}, 28);
  const ops::Linear op;
  EXPECT_TRUE(
      same_bits(ops::linear(x, w), op.forward(precision::fp16{}, op.scales(x, w), x, w).output));
}

}  // namespace linear_test
