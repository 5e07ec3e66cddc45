// SPDX-License-Identifier: MIT
#include "unit_scaling/ops/dropout.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <tuple>
#include <type_traits>
#include <vector>

#include "support/errors.hpp"
#include "support/gradient_check.hpp"
#include "support/op_run.hpp"
#include "support/random_arrays.hpp"
#include "support/rounding_check.hpp"
#include "support/statistics.hpp"

namespace dropout_test {

using namespace unit_scaling;
using namespace unit_scaling_test;

template <class T> std::size_t kept(const Array<T>& y) {
  std::size_t count = 0;
  for (const T v : y.span()) count += static_cast<float>(v) != 0 ? 1 : 0;
  return count;
}

TEST(Dropout, BackwardIsTheScaledGradient) {
  for (const double p : {0.0, 0.3, 0.9}) {
    expect_scaled_gradients_under_all_rules(ops::Dropout{.probability = p},
                                            normal_array<double>({5, 7}, 1));
  }
}

// The paper's claim of unit scale, to the ±0.1 of its own tests. The relative standard error of
// the rms of n numbers, (1−p)n of them not zero, is √((3/(1−p) − 1) / 4n) < 0.018.
TEST(Dropout, OutputAndGradientHaveUnitScaleForGaussianInput) {
  for (const double p : {0.1, 0.5, 0.75}) {
    for (const Shape& shape : {Shape{10007}, Shape{129, 257}, Shape{4, 64, 512}}) {
      const auto run =
          run_op(precision::fp32{}, ops::Dropout{.probability = p}, normal_array<float>(shape, 2));
      EXPECT_NEAR(standard_deviation(run.y), 1, 0.1);
      EXPECT_NEAR(rms(std::get<0>(run.gradients)), 1, 0.1);
    }
  }
}

TEST(Dropout, FactorsAreTheRootOfTheKeptShare) {
  const Array<float> x;
  for (const Scaling& scaling : {scaling::paper, scaling::umup}) {
    EXPECT_EQ((ops::Dropout{.scaling = scaling, .probability = 0.75}.scales(x)),
              (Scales<1>{.forward = 0.5, .backward = {0.5}}));
  }
  EXPECT_EQ((ops::Dropout{.scaling = scaling::none, .probability = 0.75}.scales(x)), Scales<1>{});
}

TEST(Dropout, OutputIsOfTheStorageFormatWhateverTheInputIs) {
  const auto x = normal_array<float>({7}, 3);
  for (const double p : {0.0, 0.5}) {
    const auto y = ops::dropout(precision::fp16{}, x, {.probability = p});
    static_assert(std::is_same_v<decltype(y), const Array<float16>>);
    const auto wide = ops::dropout(precision::fp32{}, x, {.probability = p});
    for (std::size_t i = 0; i < x.size(); ++i) {
      EXPECT_EQ(static_cast<float>(y.data()[i]),
                static_cast<float>(static_cast<float16>(wide.data()[i])));
    }
  }
}

// The count is binomial: n(1−p) with standard deviation √(n p (1−p)).
TEST(Dropout, KeptShareIsWithinFiveStandardErrors) {
  constexpr std::size_t n = 200000;
  for (const double p : {0.001, 0.1, 0.5, 0.9}) {
    const auto y = ops::dropout(Array<float>::filled(Shape{n}, 1), {.probability = p});
    EXPECT_NEAR(static_cast<double>(kept(y)), n * (1 - p), 5 * std::sqrt(n * p * (1 - p))) << p;
  }
}

TEST(Dropout, BackwardDrawsTheSameMask) {
  for (const Scaling& scaling : {scaling::paper, scaling::none}) {
    const ops::Dropout op{.scaling = scaling, .probability = 0.3};
    const auto ones = [](const auto& y) { return Array<float>::filled(y.shape(), 1); };
    const auto x = Array<float>::filled(Shape{50003}, 1);
    const auto run = run_op_with(precision::fp32{}, op, op.scales(x), ones, x);
    EXPECT_EQ(run.y, std::get<0>(run.gradients));
    EXPECT_GT(kept(run.y), 0U);
    EXPECT_LT(kept(run.y), x.size());
  }
}

TEST(Dropout, TheMaskIsAFunctionOfTheRandomStreamAlone) {
  const auto x = Array<float>::filled(Shape{1000}, 1);
  const Random first(7, RandomStream::dropout, 1, 2);
  const auto y = ops::dropout(x, {.random = first});
  EXPECT_EQ(y, ops::dropout(x, {.random = first}));
  for (const Random& other :
       {Random(8, RandomStream::dropout, 1, 2), Random(7, RandomStream::general, 1, 2),
        Random(7, RandomStream::dropout, 2, 2), Random(7, RandomStream::dropout, 1, 3)}) {
    EXPECT_NE(y, ops::dropout(x, {.random = other}));
  }
  // An element's fate does not depend on how many follow it.
  const auto start = ops::dropout(Array<float>::filled(Shape{333}, 1), {.random = first});
  EXPECT_TRUE(std::equal(start.span().begin(), start.span().end(), y.span().begin()));
}

TEST(Dropout, ProbabilityZeroReturnsTheArrayItself) {
  const auto x = normal_array<float>({3, 5}, 3);
  for (const Scaling& scaling : {scaling::paper, scaling::none}) {
    const auto run =
        run_op(precision::fp32{}, ops::Dropout{.scaling = scaling, .probability = 0}, x);
    EXPECT_EQ(run.y.data(), x.data());
    EXPECT_EQ(std::get<0>(run.gradients).data(), run.dy.data());
  }
}

TEST(Dropout, RejectsAProbabilityOutsideItsRange) {
  const auto x = normal_array<float>({3}, 4);
  for (const double p : {-0.1, 1.0, 1.5, std::numeric_limits<double>::quiet_NaN()}) {
    expect_domain_error([&] { (void)ops::dropout(x, {.probability = p}); },
                        {"dropout", "probability"});
  }
}

TEST(Dropout, RejectsAGradientOfAnotherShape) {
  const auto x = normal_array<float>({2, 3}, 5);
  const ops::Dropout op;
  const auto forward = op.forward(precision::fp32{}, op.scales(x), x);
  expect_shape_error(
      [&] {
        (void)op.backward(precision::fp32{}, op.scales(x), forward.saved,
                          normal_array<float>({3, 2}, 6));
      },
      {"dropout", "(3, 2)", "(2, 3)"});
}

TEST(Dropout, TakesEmptyArraysAndScalars) {
  for (const Shape& shape : {Shape{0}, Shape{0, 3}, Shape{}, Shape{1}, Shape{17}}) {
    expect_gradients_have_argument_shapes(precision::fp8{}, ops::Dropout{},
                                          normal_array<float16>(shape, 7));
  }
}

TEST(Dropout, ADroppedInfinityOrNanIsZeroAndAKeptOneRemains) {
  constexpr std::size_t n = 1000;
  const auto ones = ops::dropout(Array<float>::filled(Shape{n}, 1));
  const auto infinities = ops::dropout(Array<float>::filled(Shape{n}, HUGE_VALF));
  const auto nans = ops::dropout(Array<float>::filled(Shape{n}, std::nanf("")));
  for (std::size_t i = 0; i < n; ++i) {
    const bool is_kept = ones.data()[i] != 0;
    EXPECT_EQ(infinities.data()[i], is_kept ? HUGE_VALF : 0);
    EXPECT_EQ(std::isnan(nans.data()[i]), is_kept);
  }
}

template <class P> class DropoutIn : public testing::Test {};
TYPED_TEST_SUITE(DropoutIn, StoragePrecisions, PrecisionNames);

// The oracle of the mask is the generator, which its own known answers check: element i is dropped
// if word i, as a fraction of 2^32, is below p.
TYPED_TEST(DropoutIn, ResultIsTheDoubleReferenceRoundedOnce) {
  using T = typename TypeParam::storage;
  const auto x = normal_array<T>({37, 29}, 8);
  const Random random(9, RandomStream::dropout);
  const auto run = run_op(TypeParam{}, ops::Dropout{.probability = 0.3, .random = random}, x);
  std::vector<Reference> y;
  std::vector<Reference> dx;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double fraction = static_cast<double>(random.word(i)) * 0x1p-32;
    const double factor = fraction < 0.3 ? 0 : 1 / std::sqrt(0.7);
    const double value = factor * static_cast<double>(x.data()[i]);
    const double gradient = factor * static_cast<double>(run.dy.data()[i]);
    y.push_back(
        {value, 2 * float_unit * std::abs(value)});  // the factor's rounding and the product
    dx.push_back({gradient, 2 * float_unit * std::abs(gradient)});
  }
  expect_rounded(run.y, y);
  expect_rounded(std::get<0>(run.gradients), dx);
}

TYPED_TEST(DropoutIn, ThreadCountChangesNoBit) {
  expect_thread_count_changes_no_bit(TypeParam{}, ops::Dropout{},
                                     normal_array<typename TypeParam::storage>({211, 233}, 10));
}

}  // namespace dropout_test
