// SPDX-License-Identifier: MIT
#include "unit_scaling/ops/add.hpp"

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

namespace add_test {

using namespace unit_scaling;
using namespace unit_scaling_test;

constexpr Scaling ideal = scaling::paper.with(constraint::none);

struct Shapes {
  Shape a, b;
};

TEST(Add, BackwardIsTheScaledGradient) {
  for (const auto& [a, b] :
       {Shapes{{3, 7}, {3, 7}}, Shapes{{3, 7}, {7}}, Shapes{{7}, {2, 3, 7}}, Shapes{{3, 7}, {}},
        Shapes{{}, {5}}, Shapes{{1, 7}, {7}}, Shapes{{1}, {1}}}) {
    SCOPED_TRACE(to_string(a) + " + " + to_string(b));
    expect_scaled_gradients_under_all_rules(ops::Add{}, normal_array<double>(a, 1),
                                            normal_array<double>(b, 2));
  }
}

// The paper's claim of unit scale, to the ±0.1 of its own tests. The shortest array has 2000
// elements, so that the standard error of a standard deviation is below 0.016.
TEST(Add, OutputAndGradientsHaveUnitScaleForGaussianInput) {
  for (const auto& [a, b] :
       {Shapes{{20011}, {20011}}, Shapes{{64, 2000}, {2000}}, Shapes{{33, 65}, {5, 33, 65}}}) {
    SCOPED_TRACE(to_string(a) + " + " + to_string(b));
    const auto run = run_op(precision::fp32{}, ops::Add{.scaling = ideal},
                            normal_array<float>(a, 3), normal_array<float>(b, 4));
    EXPECT_NEAR(standard_deviation(run.y), 1, 0.1);
    EXPECT_NEAR(rms(std::get<0>(run.gradients)), 1, 0.1);
    EXPECT_NEAR(rms(std::get<1>(run.gradients)), 1, 0.1);
  }
}

TEST(Add, FactorsAreTheRootsOfTheTermsAndOfTheRepetitions) {
  const Array<float> a(Shape{4, 4, 7});
  const Array<float> b(Shape{7});
  EXPECT_EQ((ops::Add{.scaling = ideal}.scales(a, b)),
            (Scales<2>{.forward = 1 / std::sqrt(2.0), .backward = {1, 1.0 / 4}}));
  EXPECT_EQ((ops::Add{.scaling = ideal}.scales(b, a)),
            (Scales<2>{.forward = 1 / std::sqrt(2.0), .backward = {1.0 / 4, 1}}));
  EXPECT_EQ((ops::Add{.scaling = ideal}.scales(a, a)),
            (Scales<2>{.forward = 1 / std::sqrt(2.0), .backward = {1, 1}}));
  // (2^-½ · 1 · 2^-2)^⅓ = 2^-⅚, within the rounding of exp(log) in double.
  const Scales<2> paper = ops::Add{}.scales(a, b);
  EXPECT_NEAR(paper.forward, std::pow(2, -2.5 / 3), 1e-15);
  EXPECT_EQ(paper.backward[0], paper.forward);
  EXPECT_EQ(paper.backward[1], paper.forward);
  const double root_half = 1 / std::sqrt(2.0);
  EXPECT_EQ((ops::Add{.scaling = scaling::umup}.scales(a, b)),
            (Scales<2>{.forward = root_half, .backward = {root_half, root_half}}));
  EXPECT_EQ((ops::Add{.scaling = scaling::none}.scales(a, b)), Scales<2>{});
}

TEST(Add, AConstantLeavesTheScaleOfTheOutputAlone) {
  const Array<float> a(Shape{16});
  EXPECT_EQ((ops::Add{.scaling = ideal}.scales(a, Array<float>(Shape{}))),
            (Scales<2>{.forward = 1, .backward = {1, 1.0 / 4}}));
}

TEST(Add, RepeatsTheShorterArray) {
  const Array<float> a(Shape{2, 2}, {1, 2, 3, 4});
  const Array<float> b(Shape{2}, {10, 20});
  const Array<float> expected(Shape{2, 2}, {11, 22, 13, 24});
  EXPECT_EQ(ops::add(a, b, {.scaling = scaling::none}), expected);
  EXPECT_EQ(ops::add(b, a, {.scaling = scaling::none}), expected);
}

TEST(Add, RejectsShapesThatDoNotFit) {
  const auto reject = [](const Shape& a, const Shape& b) {
    expect_shape_error(
        [&] { (void)ops::add(normal_array<float>(a, 5), normal_array<float>(b, 6)); },
        {"add", to_string(a), to_string(b)});
  };
  reject({2, 3}, {3, 2});
  reject({2, 3}, {2});
  reject({3}, {4});
  reject({2, 1}, {2, 3});
  const auto a = normal_array<float>({2, 3}, 5);
  const auto b = normal_array<float>({3}, 6);
  const ops::Add op;
  const auto forward = op.forward(precision::fp32{}, op.scales(a, b), a, b);
  expect_shape_error(
      [&] { (void)op.backward(precision::fp32{}, op.scales(a, b), forward.saved, b); },
      {"add", "(3)", "(2, 3)"});
}

TEST(Add, TakesEmptyArraysAndScalars) {
  for (const auto& [a, b] :
       {Shapes{{0}, {0}}, Shapes{{0, 3}, {3}}, Shapes{{3, 0}, {0}}, Shapes{{0, 3}, {}},
        Shapes{{}, {}}, Shapes{{1}, {}}, Shapes{{17}, {17}}, Shapes{{33, 17}, {17}}}) {
    SCOPED_TRACE(to_string(a) + " + " + to_string(b));
    const auto x = normal_array<float16>(a, 7);
    const auto z = normal_array<float16>(b, 8);
    expect_gradients_have_argument_shapes(precision::fp8{}, ops::Add{}, x, z);
    expect_gradients_have_argument_shapes(precision::fp8{}, ops::Add{}, z, x);
  }
}

TEST(Add, TheGradientOfAnArrayRepeatedZeroTimesIsZero) {
  const auto run =
      run_op(precision::fp32{}, ops::Add{}, Array<float>(Shape{0, 3}), normal_array<float>({3}, 9));
  EXPECT_EQ(std::get<1>(run.gradients), Array<float>::filled(Shape{3}, 0));
}

TEST(Add, NanAndInfinityReachTheirElementOnly) {
  const Array<float> a(Shape{4}, {HUGE_VALF, HUGE_VALF, std::nanf(""), 1});
  const Array<float> b(Shape{4}, {1, -HUGE_VALF, 1, 1});
  const auto y = ops::add(a, b);
  EXPECT_EQ(y.data()[0], HUGE_VALF);
  EXPECT_TRUE(std::isnan(y.data()[1]));
  EXPECT_TRUE(std::isnan(y.data()[2]));
  EXPECT_TRUE(std::isfinite(y.data()[3]));
}

template <class P> class AddIn : public testing::Test {};
TYPED_TEST_SUITE(AddIn, StoragePrecisions, PrecisionNames);

TYPED_TEST(AddIn, ResultIsTheDoubleReferenceRoundedOnce) {
  using T = typename TypeParam::storage;
  constexpr std::size_t rows = 19, columns = 37;
  const auto a = normal_array<T>({rows, columns}, 10);
  const auto b = normal_array<T>({columns}, 11);
  const auto run = run_op(TypeParam{}, ops::Add{.scaling = ideal}, a, b);
  std::vector<Reference> y;
  std::vector<Reference> da;
  std::vector<Reference> db(columns, Reference{0, 0});
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double sum = run.scales.forward * (static_cast<double>(a.data()[i]) +
                                             static_cast<double>(b.data()[i % columns]));
    y.push_back({sum, 3 * float_unit * std::abs(sum)});
    const auto dy = static_cast<double>(run.dy.data()[i]);
    da.push_back({dy, 0});
    // A sum over the rows, one after another, and the factor.
    db[i % columns].value += run.scales.backward[1] * dy;
    db[i % columns].error += (rows + 2) * float_unit * std::abs(run.scales.backward[1] * dy);
  }
  expect_rounded(run.y, y);
  expect_rounded(std::get<0>(run.gradients), da);
  expect_rounded(std::get<1>(run.gradients), db);
}

TYPED_TEST(AddIn, ThreadCountChangesNoBit) {
  using T = typename TypeParam::storage;
  expect_thread_count_changes_no_bit(TypeParam{}, ops::Add{}, normal_array<T>({633, 77}, 12),
                                     normal_array<T>({77}, 13));
  expect_thread_count_changes_no_bit(TypeParam{}, ops::Add{}, normal_array<T>({}, 14),
                                     normal_array<T>({40001}, 15));
}

}  // namespace add_test
