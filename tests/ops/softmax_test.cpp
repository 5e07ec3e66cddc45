// SPDX-License-Identifier: MIT
#include "unit_scaling/ops/softmax.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <string>
#include <vector>

#include "support/errors.hpp"
#include "support/gradient_check.hpp"
#include "support/op_run.hpp"
#include "support/random_arrays.hpp"
#include "support/rounding_check.hpp"
#include "support/statistics.hpp"

namespace softmax_test {

using namespace unit_scaling;
using namespace unit_scaling_test;

constexpr double infinity = std::numeric_limits<double>::infinity();

TEST(Softmax, BackwardIsTheScaledGradient) {
  for (const Shape& shape : {Shape{1}, Shape{3, 1}, Shape{3, 7}, Shape{2, 2, 5}}) {
    expect_scaled_gradients_under_all_rules(ops::Softmax{}, normal_array<double>(shape, 1));
  }
}

TEST(Softmax, BackwardIsTheScaledGradientWithAMultiplier) {
  expect_scaled_gradients_under_all_rules(ops::Softmax{.mult = 0.6},
                                          normal_array<double>({3, 7}, 2));
}

TEST(Softmax, BackwardIsTheScaledGradientAlongAnyDimension) {
  for (const int dimension : {0, 1, 2, -3, -2}) {
    for (const Shape& shape : {Shape{3, 4, 5}, Shape{1, 7, 1}}) {
      SCOPED_TRACE(testing::Message() << dimension << " of " << to_string(shape));
      expect_scaled_gradients_under_all_rules(ops::Softmax{.mult = 0.6, .dimension = dimension},
                                              normal_array<double>(shape, 2));
    }
  }
}

// x[i][j][k] along its middle is, for each k, a softmax of rows x[i][·][k].
TEST(Softmax, AlongAnotherDimensionIsThatOfRowsPickedFromIt) {
  const auto x = normal_array<float>({3, 7, 5}, 21);
  const auto dy = normal_array<float>({3, 7, 5}, 22);
  const ops::Softmax along{.scaling = scaling::umup, .mult = 2, .dimension = -2};
  const ops::Softmax last{.scaling = scaling::umup, .mult = 2};
  const auto whole = run_op_with(
      precision::fp32{}, along, along.scales(x), [&](const auto&) { return dy; }, x);
  for (std::size_t k = 0; k < 5; ++k) {
    Array<float> rows(Shape{3, 7});
    Array<float> dy_rows(Shape{3, 7});
    for (std::size_t i = 0; i < 21; ++i) {
      rows.mutable_data()[i] = x.data()[i * 5 + k];
      dy_rows.mutable_data()[i] = dy.data()[i * 5 + k];
    }
    EXPECT_EQ(last.scales(rows), along.scales(x));
    const auto part = run_op_with(
        precision::fp32{}, last, last.scales(rows), [&](const auto&) { return dy_rows; }, rows);
    for (std::size_t i = 0; i < 21; ++i) {
      EXPECT_EQ(whole.y.data()[i * 5 + k], part.y.data()[i]);
      EXPECT_EQ(std::get<0>(whole.gradients).data()[i * 5 + k],
                std::get<0>(part.gradients).data()[i]);
    }
  }
}

TEST(Softmax, RejectsADimensionThatIsNotThere) {
  const auto x = normal_array<float>({2, 3}, 23);
  for (const int dimension : {2, -3}) {
    expect_domain_error([&] { (void)ops::softmax(x, {.dimension = dimension}); },
                        {"softmax", "dimension", "(2, 3)", std::to_string(dimension)});
  }
}

// Where one probability is 1 − δ every gradient is of the order of δ, though p and dy are not: with
// p stored as 1, dy − Σ dy p would lose all of it.
TEST(Softmax, GradientsOfARowThatIsNearlyOneHotAreAsPreciseAsOthers) {
  const std::vector<float> x{0, 12, 2};
  const std::vector<float> dy{0.75F, -1.5F, 0.5F};
  double sum = 0;
  double inner = 0;
  for (std::size_t i = 0; i < 3; ++i) {
    sum += std::exp(static_cast<double>(x[i]));
    inner += std::exp(static_cast<double>(x[i])) * static_cast<double>(dy[i]);
  }
  const auto expect = [&]<class P>(P precision, double tolerance) {
    using T = typename P::storage;
    Array<T> logits(Shape{1, 3});
    Array<T> upstream(Shape{1, 3});
    for (std::size_t i = 0; i < 3; ++i) {
      logits.mutable_data()[i] = T(x[i]);
      upstream.mutable_data()[i] = T(dy[i]);
    }
    const ops::Softmax op{.scaling = scaling::none};
    const auto run = run_op_with(
        precision, op, op.scales(logits), [&](const auto&) { return upstream; }, logits);
    for (std::size_t i = 0; i < 3; ++i) {
      const double expected =
          std::exp(static_cast<double>(x[i])) / sum * (static_cast<double>(dy[i]) - inner / sum);
      EXPECT_NEAR(static_cast<double>(std::get<0>(run.gradients).data()[i]), expected,
                  tolerance * std::abs(expected))
          << P::name << ", " << i;
    }
  };
  expect(precision::fp32{}, 16 * float_unit);
  // Two roundings to eight bits: that of y, from which p comes, and that of dx.
  expect(precision::bf16{}, 2 * 0x1p-8);
}

// α = β = s is exact to an order of magnitude. For many logits s the normaliser is s √e, so that
// y = exp(x − ½): std(y) → √(e − 1), rms(dx) → rms(y) = √e. The relative standard error of std(y)
// is √(kurtosis − 1) / (2 √n) with kurtosis(e^x) ≈ 114: below 0.02 of 1.31 for the 10^5 elements
// here; the deviation of the normaliser, std √((e−1)/s) of itself, adds a relative (e−1)/2s ≤ 0.01.
TEST(Softmax, ScalesOfOutputAndGradientUnderThePaperTendToTheDocumentedLimits) {
  const double output_limit = std::sqrt(std::numbers::e - 1);
  const double gradient_limit = std::sqrt(std::numbers::e);
  for (const Shape& shape : {Shape{800, 128}, Shape{4, 100, 257}, Shape{150, 1024}}) {
    const auto run =
        run_op(precision::fp32{}, ops::Softmax{.scaling = scaling::paper.with(constraint::none)},
               normal_array<float>(shape, 3));
    EXPECT_NEAR(standard_deviation(run.y), output_limit, 5 * 0.02 * output_limit);
    EXPECT_NEAR(rms(std::get<0>(run.gradients)), gradient_limit, 5 * 0.02 * gradient_limit);
  }
}

TEST(Softmax, FactorsOfThePaperAreTheNumberOfLogits) {
  const Array<float> x(Shape{3, 40});
  EXPECT_EQ((ops::Softmax{.scaling = scaling::paper.with(constraint::none)}.scales(x)),
            (Scales<1>{.forward = 40, .backward = {40}}));
  const Scales<1> bound = ops::Softmax{}.scales(x);
  EXPECT_NEAR(bound.forward, 40, 40 * 1e-15);  // exp(log) in double
  EXPECT_EQ(bound.backward[0], bound.forward);
  EXPECT_EQ(ops::Softmax{.scaling = scaling::none}.scales(x), Scales<1>{});
}

// Weight w = 1/(1 + 4/m²) on the one-hot end: α = s^(1 − w/2), β = (s/m)^(1 − w/2).
TEST(Softmax, FactorsOfUmupInterpolateBetweenFlatAndOneHot) {
  const Array<float> x(Shape{3, 40});
  for (const double mult : {0.25, 1.0, 8.0}) {
    const double exponent = 1 - 0.5 / (1 + 4 / (mult * mult));
    const ops::Softmax free{.scaling = scaling::umup.with(constraint::none), .mult = mult};
    EXPECT_NEAR(free.scales(x).forward, std::pow(40, exponent), 1e-13);
    EXPECT_NEAR(free.scales(x).backward[0], std::pow(40 / mult, exponent), 1e-12);
    const ops::Softmax bound{.scaling = scaling::umup, .mult = mult};
    EXPECT_EQ(bound.scales(x).forward, free.scales(x).forward);
    EXPECT_EQ(bound.scales(x).backward[0], free.scales(x).forward);
  }
}

TEST(Softmax, WithoutScalingRowsSumToOne) {
  const auto x = normal_array<float>({5, 37}, 4);
  const auto y = ops::softmax(x, {.scaling = scaling::none});
  for (std::size_t i = 0; i < 5; ++i) {
    double sum = 0;
    for (std::size_t j = 0; j < 37; ++j) sum += static_cast<double>(y.row(i)[j]);
    // Each of 37 positive terms, and their sum in the op, is within 8 units (see below).
    EXPECT_NEAR(sum, 1, 16 * float_unit);
  }
}

TEST(Softmax, AddingAConstantToARowChangesNothing) {
  const Array<float> x(Shape{1, 3}, {0.5F, 1.5F, -1});
  const Array<float> far(Shape{1, 3}, {1000.5F, 1001.5F, 999});
  EXPECT_TRUE(same_bits(ops::softmax(x), ops::softmax(far)));
}

TEST(Softmax, RejectsAGradientOfAnotherShape) {
  const auto x = normal_array<float>({2, 3}, 5);
  const ops::Softmax op;
  const auto forward = op.forward(precision::fp32{}, op.scales(x), x);
  expect_shape_error(
      [&] {
        (void)op.backward(precision::fp32{}, op.scales(x), forward.saved,
                          normal_array<float>({3, 2}, 6));
      },
      {"softmax", "(3, 2)", "(2, 3)"});
}

TEST(Softmax, TakesEmptyArraysAndScalars) {
  for (const Shape& shape : {Shape{0}, Shape{0, 3}, Shape{3, 0}, Shape{}, Shape{1}, Shape{17}}) {
    expect_gradients_have_argument_shapes(precision::fp8{}, ops::Softmax{},
                                          normal_array<float16>(shape, 7));
    expect_gradients_have_argument_shapes(precision::fp8{}, ops::Softmax{.dimension = 0},
                                          normal_array<float16>(shape, 7));
  }
}

TEST(Softmax, ASingleLogitHasProbabilityOne) {
  const auto run = run_op(precision::fp32{}, ops::Softmax{}, normal_array<float>({5, 1}, 8));
  EXPECT_EQ(run.y, Array<float>::filled(Shape({5, 1}), 1));
  EXPECT_EQ(std::get<0>(run.gradients), Array<float>::filled(Shape({5, 1}), 0));
}

template <class T> void expect_documented_special_values() {
  const T nan(std::numeric_limits<double>::quiet_NaN());
  const T plus(infinity);
  const T minus(-infinity);
  const T one(1.0);
  const Array<T> x(Shape{5, 3}, {one, nan, one,        //
                                 one, plus, one,       //
                                 minus, minus, minus,  //
                                 one, minus, one,      //
                                 one, one, one});
  const auto y = ops::softmax(x, {.scaling = scaling::none});
  for (std::size_t j = 0; j < 3; ++j) {
    for (std::size_t i = 0; i < 3; ++i) {
      EXPECT_TRUE(std::isnan(static_cast<double>(y.row(i)[j]))) << i << " " << j;
    }
    EXPECT_EQ(static_cast<double>(y.row(3)[j]), j == 1 ? 0 : 0.5);
    EXPECT_EQ(y.row(4)[j], T(1.0 / 3));
  }
}

TEST(Softmax, SpecialValuesAreAsDocumented) {
  expect_documented_special_values<double>();
  expect_documented_special_values<float>();
  expect_documented_special_values<float16>();
  expect_documented_special_values<bfloat16>();
}

TEST(Softmax, MaskedLogitsReceiveNoGradient) {
  auto x = normal_array<float>({4, 33}, 9);
  for (std::size_t i = 0; i < 4; ++i) {
    for (std::size_t j = 17; j < 33; ++j) x.mutable_data()[i * 33 + j] = -HUGE_VALF;
  }
  const auto run = run_op(precision::fp32{}, ops::Softmax{}, x);
  for (std::size_t i = 0; i < x.size(); ++i) {
    const float dx = std::get<0>(run.gradients).data()[i];
    if (i % 33 < 17) {
      EXPECT_NE(dx, 0);
    } else {
      EXPECT_EQ(dx, 0);
    }
  }
}

template <class P> class SoftmaxIn : public testing::Test {};
TYPED_TEST_SUITE(SoftmaxIn, StoragePrecisions, PrecisionNames);

// exp(u) of a float argument u = x − max, itself rounded, is within |u| + 2.2 units; a sum of s
// positive terms in 16 lanes and then pairwise adds s/16 + 4 units; four more operations follow.
// Backward reads the stored y, which is rounded to T, so the reference starts from it, and from dy
// less that of the likeliest element: with Σ p = 1 to a rounding of T only, it makes a difference.
TYPED_TEST(SoftmaxIn, ResultIsTheDoubleReferenceRoundedOnce) {
  using T = typename TypeParam::storage;
  constexpr std::size_t rows = 17, columns = 45;
  const auto x = normal_array<T>({rows, columns}, 10);
  const auto run = run_op(TypeParam{}, ops::Softmax{}, x);
  std::vector<Reference> y;
  std::vector<Reference> dx;
  const double alpha = run.scales.forward;
  const double beta = run.scales.backward[0];
  for (std::size_t i = 0; i < rows; ++i) {
    double max = -infinity;
    for (std::size_t j = 0; j < columns; ++j) {
      max = std::max(max, static_cast<double>(x.row(i)[j]));
    }
    double sum = 0;
    double largest = 0;
    double inner = 0;
    double inner_magnitude = 0;
    const auto likeliest = std::max_element(run.y.row(i), run.y.row(i) + columns) - run.y.row(i);
    const auto upstream = [&](std::size_t j) {
      return static_cast<double>(run.dy.row(i)[j]) - static_cast<double>(run.dy.row(i)[likeliest]);
    };
    for (std::size_t j = 0; j < columns; ++j) {
      const double u = static_cast<double>(x.row(i)[j]) - max;
      sum += std::exp(u);
      largest = std::max(largest, -u);
      const double term = static_cast<double>(run.y.row(i)[j]) / alpha * upstream(j);
      inner += term;
      inner_magnitude += std::abs(term);
    }
    const double sum_units = columns / 16.0 + 5;
    for (std::size_t j = 0; j < columns; ++j) {
      const double u = static_cast<double>(x.row(i)[j]) - max;
      const double value = alpha * std::exp(u) / sum;
      y.push_back({value, value * (2 * largest + 5 + sum_units + 4) * float_unit});
      const double factor = beta * static_cast<double>(run.y.row(i)[j]) / alpha;
      const double difference = upstream(j) - inner;
      dx.push_back({factor * difference,
                    std::abs(factor) * float_unit *
                        (inner_magnitude * (sum_units + 4) + 8 * std::abs(difference))});
    }
  }
  expect_rounded(run.y, y);
  expect_rounded(std::get<0>(run.gradients), dx);
}

TYPED_TEST(SoftmaxIn, ThreadCountChangesNoBit) {
  // Named, or GCC 12 warns of the constraint that the default leaves out as uninitialised.
  static constexpr ops::Softmax op{};
  expect_thread_count_changes_no_bit(TypeParam{}, op,
                                     normal_array<typename TypeParam::storage>({633, 77}, 11));
}

}  // namespace softmax_test
