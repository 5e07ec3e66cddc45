// SPDX-License-Identifier: MIT
#include "unit_scaling/ops/rms_norm.hpp"

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

namespace rms_norm_test {

using namespace unit_scaling;
using namespace unit_scaling_test;

TEST(RmsNorm, BackwardIsTheScaledGradient) {
  for (const Shape& shape : {Shape{1, 2}, Shape{3, 7}, Shape{2, 3, 17}}) {
    const auto x = normal_array<double>(shape, 1);
    expect_scaled_gradients_under_all_rules(ops::RmsNorm{.epsilon = 0.1}, x);
    expect_scaled_gradients_under_all_rules(ops::RmsNorm{}, x,
                                            normal_array<double>({shape.columns()}, 2));
  }
}

// 64 · 48 numbers and gains of 48: relative standard errors of 1.3 % and of 10 % / √2 for the gain,
// hence its larger samples.
TEST(RmsNorm, OutputAndGradientsHaveUnitScale) {
  for (const Shape& shape : {Shape{64, 2048}, Shape{8, 16, 1024}, Shape{257, 999}}) {
    const auto x = normal_array<float>(shape, 1);
    const auto gain = Array<float>::filled({shape.columns()}, 1);
    const auto run = run_op(precision::fp32{}, ops::RmsNorm{}, x, gain);
    EXPECT_NEAR(rms(run.y), 1, 0.01);
    EXPECT_NEAR(rms(std::get<0>(run.gradients)), 1, 0.05);
    EXPECT_NEAR(rms(std::get<1>(run.gradients)), 1, 0.1);
  }
}

TEST(RmsNorm, UndoesAnyScaleOfTheInput) {
  auto x = normal_array<float>({5, 64}, 1);
  const auto expected = ops::rms_norm(x, {.epsilon = 0});
  // A power of two changes no bit, up to a square that still has a float.
  for (const float factor : {0x1p-40F, 0x1p40F}) {
    auto scaled = x;
    for (float& element : scaled.mutable_span()) element *= factor;
    EXPECT_TRUE(same_bits(ops::rms_norm(scaled, {.epsilon = 0}), expected)) << factor;
  }
}

TEST(RmsNorm, OfZerosIsZeroAndNaNStaysInItsRow) {
  auto x = Array<float>::filled({2, 5}, 0);
  const auto y = ops::rms_norm(x);
  for (const float element : y.span()) EXPECT_EQ(element, 0);
  x.mutable_data()[7] = std::numeric_limits<float>::quiet_NaN();
  const auto with_nan = ops::rms_norm(x);
  for (std::size_t j = 0; j < 5; ++j) {
    EXPECT_EQ(with_nan.row(0)[j], 0);
    EXPECT_TRUE(std::isnan(with_nan.row(1)[j]));
  }
}

TEST(RmsNorm, RejectsOtherShapes) {
  const auto x = normal_array<float>({2, 3}, 1);
  expect_shape_error([&] { (void)ops::rms_norm(x, normal_array<float>({2}, 1)); },
                     {"rms_norm", "(2, 3)", "(2)"});
  const ops::RmsNorm op;
  const auto forward = op.forward(precision::fp32{}, op.scales(x), x);
  expect_shape_error(
      [&] {
        (void)op.backward(precision::fp32{}, op.scales(x), forward.saved,
                          normal_array<float>({3, 2}, 1));
      },
      {"rms_norm", "(2, 3)", "(3, 2)"});
}

TEST(RmsNorm, TakesEmptyArraysAndSingleElements) {
  for (const Shape& shape : {Shape{0}, Shape{0, 3}, Shape{3, 0}, Shape{}, Shape{1, 1}, Shape{17}}) {
    const auto x = normal_array<float16>(shape, 1);
    expect_gradients_have_argument_shapes(precision::fp8{}, ops::RmsNorm{}, x);
    expect_gradients_have_argument_shapes(precision::fp8{}, ops::RmsNorm{}, x,
                                          normal_array<float16>({shape.columns()}, 2));
  }
}

template <class P> class RmsNormIn : public testing::Test {};
TYPED_TEST_SUITE(RmsNormIn, StoragePrecisions, PrecisionNames);

// Each sum of n terms is off by up to n units of the sum of their magnitudes; the other steps by a
// unit each.
TYPED_TEST(RmsNormIn, ResultIsTheDoubleReferenceRoundedOnce) {
  using T = typename TypeParam::storage;
  constexpr std::size_t rows = 7, columns = 37;
  const auto x = normal_array<T>({rows, columns}, 1);
  const auto gain = normal_array<T>({columns}, 2);
  const ops::RmsNorm op;
  const auto run = run_op(TypeParam{}, op, x, gain);
  const auto at = [](const auto& array, std::size_t i) {
    return static_cast<double>(array.data()[i]);
  };
  constexpr double sum_error = (columns + 8) * float_unit;
  std::vector<Reference> y;
  std::vector<Reference> dx;
  std::vector<Reference> dg(columns, Reference{0, 0});
  for (std::size_t i = 0; i < rows; ++i) {
    double squares = 0;
    double inner = 0;
    double inner_magnitude = 0;
    for (std::size_t j = 0; j < columns; ++j) {
      squares += at(x, i * columns + j) * at(x, i * columns + j);
    }
    const double inverse = 1 / std::sqrt(squares / columns + op.epsilon);
    for (std::size_t j = 0; j < columns; ++j) {
      const std::size_t k = i * columns + j;
      const double term = at(run.dy, k) * at(gain, j) * at(x, k) * inverse / columns;
      inner += term;
      inner_magnitude += std::abs(term);
    }
    for (std::size_t j = 0; j < columns; ++j) {
      const std::size_t k = i * columns + j;
      const double x_hat = at(x, k) * inverse;
      y.push_back({x_hat * at(gain, j), sum_error * std::abs(x_hat * at(gain, j))});
      const double d = at(run.dy, k) * at(gain, j);
      dx.push_back({inverse * (d - x_hat * inner),
                    2 * sum_error * inverse * (std::abs(d) + std::abs(x_hat) * inner_magnitude)});
      const double factor = run.scales.backward[1];
      dg[j].value += factor * at(run.dy, k) * x_hat;
      dg[j].error += sum_error * factor * std::abs(at(run.dy, k) * x_hat);
    }
  }
  expect_rounded(run.y, y);
  expect_rounded(std::get<0>(run.gradients), dx);
  expect_rounded(std::get<1>(run.gradients), dg);
}

TYPED_TEST(RmsNormIn, ThreadCountChangesNoBit) {
  using T = typename TypeParam::storage;
  expect_thread_count_changes_no_bit(TypeParam{}, ops::RmsNorm{}, normal_array<T>({521, 97}, 3),
                                     normal_array<T>({97}, 4));
}

}  // namespace rms_norm_test
