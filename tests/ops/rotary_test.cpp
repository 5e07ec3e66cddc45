// SPDX-License-Identifier: MIT
#include "unit_scaling/ops/rotary.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <complex>
#include <tuple>
#include <utility>
#include <vector>

#include "support/errors.hpp"
#include "support/gradient_check.hpp"
#include "support/op_run.hpp"
#include "support/random_arrays.hpp"
#include "support/rounding_check.hpp"
#include "support/statistics.hpp"

namespace rotary_test {

using namespace unit_scaling;
using namespace unit_scaling_test;

/// Where the two parts of pair i are in a row.
std::pair<std::size_t, std::size_t> places(const ops::Rotary& op, std::size_t i,
                                           std::size_t head_dim) {
  if (op.pairs == ops::RotaryPairs::adjacent) return {2 * i, 2 * i + 1};
  return {i, i + head_dim / 2};
}

TEST(Rotary, TurnsEveryPairAsAComplexNumber) {
  constexpr std::size_t positions = 5, head_dim = 6;
  const auto x = normal_array<double>({2, 3, positions, head_dim}, 1);
  for (const auto pairs : {ops::RotaryPairs::halves, ops::RotaryPairs::adjacent}) {
    const ops::Rotary op{.base = 50, .pairs = pairs, .first_position = 7};
    const auto y = ops::rotary(x, op);
    for (std::size_t row = 0; row < x.rows(); ++row) {
      for (std::size_t i = 0; i < head_dim / 2; ++i) {
        const auto [a, b] = places(op, i, head_dim);
        const double angle = static_cast<double>(7 + row % positions) *
                             std::pow(50, -2.0 * static_cast<double>(i) / head_dim);
        const auto expected = std::complex(x.row(row)[a], x.row(row)[b]) * std::polar(1.0, angle);
        EXPECT_NEAR(y.row(row)[a], expected.real(), 1e-14);
        EXPECT_NEAR(y.row(row)[b], expected.imag(), 1e-14);
      }
    }
  }
}

TEST(Rotary, InnerProductsDependOnTheDistanceAlone) {
  const auto q = normal_array<double>({1, 8}, 1);
  const auto k = normal_array<double>({1, 8}, 2);
  const auto product = [&](std::size_t at_q, std::size_t at_k) {
    const auto a = ops::rotary(q, {.first_position = at_q});
    const auto b = ops::rotary(k, {.first_position = at_k});
    double total = 0;
    for (std::size_t i = 0; i < 8; ++i) total += a.data()[i] * b.data()[i];
    return total;
  };
  EXPECT_NEAR(product(3, 1), product(1002, 1000), 1e-11);
  EXPECT_GT(std::abs(product(3, 1) - product(1, 3)), 1e-3);
}

TEST(Rotary, BackwardIsTheGradient) {
  for (const Shape& shape : {Shape{1, 2}, Shape{3, 5, 6}}) {
    expect_scaled_gradients(ops::Rotary{}, 1, normal_array<double>(shape, 1));
    expect_scaled_gradients(ops::Rotary{.pairs = ops::RotaryPairs::adjacent}, 1,
                            normal_array<double>(shape, 1));
  }
}

// The smallest sample has 10008 elements: a standard error of the rms below 0.008.
TEST(Rotary, OutputAndGradientKeepUnitScale) {
  for (const Shape& shape : {Shape{417, 24}, Shape{3, 129, 62}, Shape{2, 4, 64, 128}}) {
    const auto run = run_op(precision::fp32{}, ops::Rotary{}, normal_array<float>(shape, 4));
    EXPECT_NEAR(rms(run.y), 1, 0.1) << to_string(shape);
    EXPECT_NEAR(rms(std::get<0>(run.gradients)), 1, 0.1) << to_string(shape);
  }
}

TEST(Rotary, RefusesOddSizesAndImpossibleBases) {
  expect_shape_error(
      [] {
        (void)ops::rotary(normal_array<float>({2, 3}, 1));
      },
      {"rotary", "(2, 3)", "even"});
  expect_shape_error([] { (void)ops::rotary(normal_array<float>({4}, 1)); }, {"rotary", "(4)"});
  expect_domain_error(
      [] {
        (void)ops::rotary(normal_array<float>({1, 2}, 1), {.base = 0});
      },
      {"rotary", "base"});
  const auto x = normal_array<float>({2, 4}, 1);
  expect_shape_error(
      [&] {
        (void)ops::Rotary{}.backward(precision::fp32{}, {}, std::tuple{x.shape()},
                                     normal_array<float>({4, 2}, 1));
      },
      {"rotary", "(4, 2)", "(2, 4)"});
}

TEST(Rotary, TakesEmptyArrays) {
  for (const Shape& shape : {Shape{0, 4}, Shape{3, 0}, Shape{0, 3, 2}, Shape{1, 2}}) {
    expect_gradients_have_argument_shapes(precision::fp8{}, ops::Rotary{},
                                          normal_array<float16>(shape, 1));
  }
}

template <class P> class RotaryIn : public testing::Test {};
TYPED_TEST_SUITE(RotaryIn, StoragePrecisions, PrecisionNames);

// Two factors, two products and a sum, each rounded once.
TYPED_TEST(RotaryIn, ResultIsTheDoubleReferenceRoundedOnce) {
  using T = typename TypeParam::storage;
  constexpr std::size_t head_dim = 34;
  const auto x = normal_array<T>({37, head_dim}, 1);
  const ops::Rotary op;
  const auto y = ops::rotary(TypeParam{}, x, op);
  std::vector<Reference> references(x.size());
  for (std::size_t p = 0; p < 37; ++p) {
    for (std::size_t i = 0; i < head_dim / 2; ++i) {
      const auto [a, b] = places(op, i, head_dim);
      const auto turn =
          std::polar(1.0, static_cast<double>(p) *
                              std::pow(op.base, -2.0 * static_cast<double>(i) / head_dim));
      const std::complex value(static_cast<double>(x.row(p)[a]), static_cast<double>(x.row(p)[b]));
      const double error = 4 * float_unit * (std::abs(value.real()) + std::abs(value.imag()));
      references[p * head_dim + a] = {(value * turn).real(), error};
      references[p * head_dim + b] = {(value * turn).imag(), error};
    }
  }
  expect_rounded(y, references);
}

TYPED_TEST(RotaryIn, ThreadCountChangesNoBit) {
  expect_thread_count_changes_no_bit(TypeParam{}, ops::Rotary{},
                                     normal_array<typename TypeParam::storage>({3, 211, 66}, 1));
}

}  // namespace rotary_test
