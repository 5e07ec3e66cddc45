// SPDX-License-Identifier: MIT
#include "unit_scaling/ops/layer_norm.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <tuple>
#include <vector>

#include "support/errors.hpp"
#include "support/gradient_check.hpp"
#include "support/op_run.hpp"
#include "support/random_arrays.hpp"
#include "support/rounding_check.hpp"
#include "support/statistics.hpp"

namespace layer_norm_test {

using namespace unit_scaling;
using namespace unit_scaling_test;

TEST(LayerNorm, BackwardIsTheScaledGradient) {
  for (const Shape& shape : {Shape{5}, Shape{3, 7}, Shape{2, 2, 5}}) {
    const auto x = normal_array<double>(shape, 1);
    expect_scaled_gradients_under_all_rules(ops::LayerNorm{}, x);
    expect_scaled_gradients_under_all_rules(ops::LayerNorm{}, x,
                                            normal_array<double>({shape.columns()}, 2),
                                            normal_array<double>({shape.columns()}, 3));
  }
}

TEST(LayerNorm, BackwardIsTheScaledGradientWithALargeEpsilon) {
  expect_scaled_gradients_under_all_rules(ops::LayerNorm{.epsilon = 0.5},
                                          normal_array<double>({3, 7}, 4));
}

// The paper's claim of unit scale, to the ±0.1 of its own tests; the smallest number of elements
// averaged over is the 384 of a gain's gradient, so the standard error is below 0.04.
TEST(LayerNorm, OutputAndGradientsHaveUnitScaleForGaussianInput) {
  for (const Shape& shape : {Shape{256, 384}, Shape{64, 1024}, Shape{8, 33, 769}}) {
    SCOPED_TRACE(to_string(shape));
    const Shape size{shape.columns()};
    const auto run =
        run_op(precision::fp32{}, ops::LayerNorm{.scaling = scaling::paper.with(constraint::none)},
               normal_array<float>(shape, 5), Array<float>::filled(size, 1),
               Array<float>::filled(size, 0));
    EXPECT_NEAR(standard_deviation(run.y), 1, 0.1);
    EXPECT_NEAR(rms(std::get<0>(run.gradients)), 1, 0.1);
    EXPECT_NEAR(rms(std::get<1>(run.gradients)), 1, 0.1);
    EXPECT_NEAR(rms(std::get<2>(run.gradients)), 1, 0.1);
  }
}

TEST(LayerNorm, InputGradientHasTheReciprocalScaleOfTheInput) {
  auto x = normal_array<float>({64, 512}, 6);
  for (float& v : x.mutable_span()) v = 8 * v + 3;
  const auto run = run_op(precision::fp32{}, ops::LayerNorm{}, x);
  EXPECT_NEAR(standard_deviation(run.y), 1, 1e-3);  // exactly 1 but for ε = 10^-5 and rounding
  // 5 standard errors of an rms over 64 · 512 elements are 5 / √(2 · 64 · 512) = 0.02, relatively.
  EXPECT_NEAR(rms(std::get<0>(run.gradients)), 1.0 / 8, 0.02 / 8);
}

TEST(LayerNorm, FactorsAreOneAndTheRootOfTheRowsForGainAndBias) {
  const Array<float> x(Shape{4, 25, 7});
  const Array<float> g(Shape{7});
  EXPECT_EQ(ops::LayerNorm{}.scales(x), Scales<1>{});
  for (const Scaling& scaling : {scaling::paper, scaling::umup}) {
    EXPECT_EQ((ops::LayerNorm{.scaling = scaling}.scales(x, g, g)),
              (Scales<3>{.forward = 1, .backward = {1, 1.0 / 10, 1.0 / 10}}));
  }
  EXPECT_EQ((ops::LayerNorm{.scaling = scaling::none}.scales(x, g, g)), Scales<3>{});
}

TEST(LayerNorm, RejectsShapesThatDoNotFit) {
  const auto x = normal_array<float>({2, 3}, 7);
  const auto three = normal_array<float>({3}, 8);
  const auto two = normal_array<float>({2}, 9);
  expect_shape_error([&] { (void)ops::layer_norm(x, two, three); },
                     {"layer_norm", "(2, 3)", "(2)", "(3)"});
  expect_shape_error([&] { (void)ops::layer_norm(x, three, two); },
                     {"layer_norm", "(2, 3)", "(2)", "(3)"});
  const ops::LayerNorm op;
  const auto other = normal_array<float>({3, 2}, 10);
  const auto plain = op.forward(precision::fp32{}, op.scales(x), x);
  expect_shape_error(
      [&] { (void)op.backward(precision::fp32{}, op.scales(x), plain.saved, other); },
      {"layer_norm", "(3, 2)", "(2, 3)"});
  const auto scales = op.scales(x, three, three);
  const auto affine = op.forward(precision::fp32{}, scales, x, three, three);
  expect_shape_error([&] { (void)op.backward(precision::fp32{}, scales, affine.saved, other); },
                     {"layer_norm", "(3, 2)", "(2, 3)"});
}

TEST(LayerNorm, TakesEmptyArraysAndScalars) {
  for (const Shape& shape : {Shape{0}, Shape{0, 3}, Shape{3, 0}, Shape{}, Shape{1}, Shape{17}}) {
    const auto x = normal_array<float16>(shape, 11);
    const auto gain = normal_array<float16>({shape.columns()}, 12);
    expect_gradients_have_argument_shapes(precision::fp8{}, ops::LayerNorm{}, x);
    expect_gradients_have_argument_shapes(precision::fp8{}, ops::LayerNorm{}, x, gain, gain);
  }
}

TEST(LayerNorm, WithoutRowsTheGradientsOfGainAndBiasAreZero) {
  const auto ones = Array<float>::filled(Shape{3}, 1);
  const auto run =
      run_op(precision::fp32{}, ops::LayerNorm{}, Array<float>(Shape{0, 3}), ones, ones);
  EXPECT_EQ(std::get<1>(run.gradients), Array<float>::filled(Shape{3}, 0));
  EXPECT_EQ(std::get<2>(run.gradients), Array<float>::filled(Shape{3}, 0));
}

TEST(LayerNorm, AConstantRowBecomesZero) {
  const auto y = ops::layer_norm(Array<float>::filled(Shape({2, 21}), 0.75F));
  EXPECT_EQ(y, Array<float>::filled(Shape({2, 21}), 0));
}

TEST(LayerNorm, NanAndInfinitySpoilTheirRowOnly) {
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), HUGE_VALF, -HUGE_VALF}) {
    auto x = normal_array<float>({3, 19}, 13);
    x.mutable_data()[19 + 4] = bad;
    const auto run = run_op(precision::fp32{}, ops::LayerNorm{}, x);
    for (std::size_t i = 0; i < x.size(); ++i) {
      EXPECT_EQ(std::isnan(run.y.data()[i]), i / 19 == 1);
      EXPECT_EQ(std::isnan(std::get<0>(run.gradients).data()[i]), i / 19 == 1);
    }
  }
}

template <class P> class LayerNormIn : public testing::Test {};
TYPED_TEST_SUITE(LayerNormIn, StoragePrecisions, PrecisionNames);

// With n = 45 columns, a sum in 16 lanes and then pairwise has n/16 + 4 < 7 roundings of its terms'
// magnitude. The mean m is thus within 8 mean|x| units =: e_m; the centred c = x − m within
// e_m + |c|; the variance, relatively, within 16 + 2 e_m / σ; 1/σ within half of that plus 2.
TYPED_TEST(LayerNormIn, ResultIsTheDoubleReferenceRoundedOnce) {
  using T = typename TypeParam::storage;
  constexpr std::size_t rows = 17, columns = 45;
  auto x = normal_array<T>({rows, columns}, 14);
  for (T& v : x.mutable_span()) v = T(static_cast<float>(v) * 1.5F + 0.5F);
  const auto gain = normal_array<T>({columns}, 15);
  const auto bias = normal_array<T>({columns}, 16);
  const ops::LayerNorm op;
  const auto run = run_op(TypeParam{}, op, x, gain, bias);
  std::vector<Reference> y;
  std::vector<Reference> dx;
  std::vector<Reference> dg(columns, Reference{0, 0});
  std::vector<Reference> db(columns, Reference{0, 0});
  constexpr double n = columns;
  for (std::size_t i = 0; i < rows; ++i) {
    double mean_x = 0;
    double mean_magnitude = 0;
    for (std::size_t j = 0; j < columns; ++j) {
      mean_x += static_cast<double>(x.row(i)[j]) / n;
      mean_magnitude += std::abs(static_cast<double>(x.row(i)[j])) / n;
    }
    double variance = 0;
    for (std::size_t j = 0; j < columns; ++j) {
      variance += std::pow(static_cast<double>(x.row(i)[j]) - mean_x, 2) / n;
    }
    const double sigma = std::sqrt(variance + op.epsilon);
    const double mean_units = 8 * mean_magnitude / sigma;      // of x̂, absolutely
    const double sigma_units = (16 + 2 * mean_units) / 2 + 2;  // of 1/σ, relatively
    const auto x_hat = [&](std::size_t j) {
      return (static_cast<double>(x.row(i)[j]) - mean_x) / sigma;
    };
    const auto x_hat_units = [&](std::size_t j) {
      return mean_units + std::abs(x_hat(j)) * (sigma_units + 2);
    };
    double mean_d = 0;
    double mean_dx = 0;
    double d_units = 0;
    double dx_units = 0;
    for (std::size_t j = 0; j < columns; ++j) {
      const auto g = static_cast<double>(gain.data()[j]);
      const auto b = static_cast<double>(bias.data()[j]);
      const auto dy = static_cast<double>(run.dy.row(i)[j]);
      y.push_back(
          {x_hat(j) * g + b, float_unit * (std::abs(g) * (x_hat_units(j) + 2 * std::abs(x_hat(j))) +
                                           2 * std::abs(b))});
      mean_d += dy * g / n;
      mean_dx += dy * g * x_hat(j) / n;
      d_units += 10 * std::abs(dy * g) / n;
      dx_units += std::abs(dy * g) * (x_hat_units(j) + 10 * std::abs(x_hat(j))) / n;
      dg[j].value += dy * x_hat(j) * run.scales.backward[1];
      // 17 rows, one after another, and the factor.
      dg[j].error += std::abs(dy) * (x_hat_units(j) + 20 * std::abs(x_hat(j))) *
                     run.scales.backward[1] * float_unit;
      db[j].value += dy * run.scales.backward[2];
      db[j].error += 20 * std::abs(dy) * run.scales.backward[2] * float_unit;
    }
    for (std::size_t j = 0; j < columns; ++j) {
      const double d = static_cast<double>(run.dy.row(i)[j]) * static_cast<double>(gain.data()[j]);
      const double inside = d - mean_d - x_hat(j) * mean_dx;
      const double inside_units = 4 * std::abs(d) + d_units + 3 * std::abs(mean_d) +
                                  std::abs(mean_dx) * x_hat_units(j) +
                                  std::abs(x_hat(j)) * (dx_units + 3 * std::abs(mean_dx));
      dx.push_back({inside / sigma,
                    (inside_units + std::abs(inside) * (sigma_units + 3)) / sigma * float_unit});
    }
  }
  expect_rounded(run.y, y);
  expect_rounded(std::get<0>(run.gradients), dx);
  expect_rounded(std::get<1>(run.gradients), dg);
  expect_rounded(std::get<2>(run.gradients), db);
  // Without gain and bias: the same bits as with ones and zeros.
  const auto plain = ops::layer_norm(TypeParam{}, x);
  const auto identity = ops::layer_norm(TypeParam{}, x, Array<T>::filled(Shape{columns}, T(1.0F)),
                                        Array<T>::filled(Shape{columns}, T(0.0F)));
  EXPECT_EQ(plain, identity);
}

TYPED_TEST(LayerNormIn, ThreadCountChangesNoBit) {
  using T = typename TypeParam::storage;
  const auto x = normal_array<T>({633, 77}, 17);
  const auto gain = normal_array<T>({77}, 18);
  expect_thread_count_changes_no_bit(TypeParam{}, ops::LayerNorm{}, x);
  expect_thread_count_changes_no_bit(TypeParam{}, ops::LayerNorm{}, x, gain, gain);
}

}  // namespace layer_norm_test
