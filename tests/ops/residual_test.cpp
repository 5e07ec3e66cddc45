// SPDX-License-Identifier: MIT
#include "unit_scaling/ops/residual.hpp"

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
#include "unit_scaling/ops/gelu.hpp"
#include "unit_scaling/ops/linear.hpp"

namespace residual_test {

using namespace unit_scaling;
using namespace unit_scaling_test;

/// Both ends of a residual connection round a branch of one Linear and one Gelu, by hand: y and the
/// gradients of x and of the weight.
template <Precision P, class T>
auto run_residual_branch(P precision, const Scaling& scaling, double tau, const Array<T>& x,
                         const Array<T>& w, const Array<T>& dy) {
  const ops::ResidualSplit split{.scaling = scaling, .tau = tau};
  const ops::ResidualAdd add{.scaling = scaling, .tau = tau};
  const ops::Linear linear{.scaling = scaling};
  const ops::Gelu gelu{.scaling = scaling};

  const auto begin = split.forward(precision, split.scales(x), x);
  const auto& [branch, skip] = begin.output;
  const auto linear_scales = linear.scales(branch, w);
  const auto hidden = linear.forward(precision, linear_scales, branch, w);
  const auto gelu_scales = gelu.scales(hidden.output);
  const auto activated = gelu.forward(precision, gelu_scales, hidden.output);
  const auto add_scales = add.scales(activated.output, skip);
  const auto end = add.forward(precision, add_scales, activated.output, skip);

  const auto [d_activated, d_skip] = add.backward(precision, add_scales, end.saved, dy);
  const auto [d_hidden] = gelu.backward(precision, gelu_scales, activated.saved, d_activated);
  const auto [d_branch, dw] = linear.backward(precision, linear_scales, hidden.saved, d_hidden);
  const auto [dx] =
      split.backward(precision, split.scales(x), begin.saved, std::tuple{d_branch, d_skip});
  struct Result {
    Array<T> y, dx, dw, d_hidden;
    Scales<2> linear_scales;
  };
  return Result{end.output, dx, dw, d_hidden, linear_scales};
}

TEST(Residual, WeightsOfThePaperAreTheRootsOfTau) {
  const ops::ResidualWeights weights = ops::residual_weights(Rule::paper, 0.2);
  EXPECT_EQ(weights.branch, std::sqrt(0.2));
  EXPECT_EQ(weights.skip, std::sqrt(0.8));
}

TEST(Residual, WeightsOfUmupHaveTheRatioTau) {
  const ops::ResidualWeights weights = ops::residual_weights(Rule::umup, 3);
  EXPECT_EQ(weights.branch, 3 / std::sqrt(10.0));
  EXPECT_EQ(weights.skip, 1 / std::sqrt(10.0));
}

TEST(Residual, SquaresOfTheWeightsSumToOne) {
  for (const double tau : {0.0, 0.01, 0.5, 1.0}) {
    for (const Rule rule : {Rule::paper, Rule::umup}) {
      const auto [branch, skip] = ops::residual_weights(rule, tau);
      EXPECT_NEAR(branch * branch + skip * skip, 1, 1e-15);  // four roundings in double
    }
  }
}

TEST(Residual, RuleNoneIsThePlainSum) {
  const ops::ResidualWeights weights = ops::residual_weights(Rule::none, 0.2);
  EXPECT_EQ(weights.branch, 1);
  EXPECT_EQ(weights.skip, 1);
}

TEST(Residual, RejectsATauOutsideItsRange) {
  constexpr double nan = std::numeric_limits<double>::quiet_NaN();
  for (const double tau : {-0.1, 1.1, nan}) {
    expect_domain_error([&] { (void)ops::residual_weights(Rule::paper, tau); },
                        {"residual", "tau"});
  }
  for (const double tau : {-0.1, std::numeric_limits<double>::infinity(), nan}) {
    expect_domain_error([&] { (void)ops::residual_weights(Rule::umup, tau); }, {"residual", "tau"});
  }
  EXPECT_EQ(ops::residual_weights(Rule::paper, 1).skip, 0);
  EXPECT_EQ(ops::residual_weights(Rule::paper, 0).branch, 0);
}

TEST(Residual, SplitForwardIsTheIdentityTwice) {
  const auto x = normal_array<float>({3, 5}, 1);
  const auto [branch, skip] = ops::residual_split(x);
  EXPECT_EQ(branch, x);
  EXPECT_EQ(skip, x);
  EXPECT_EQ(branch.data(), x.data());  // shared, not copied
}

TEST(Residual, SplitBackwardWeighsTheTwoGradients) {
  const auto branch = normal_array<float>({7, 5}, 2);
  const auto skip = normal_array<float>({7, 5}, 3);
  const ops::ResidualSplit op{.tau = 0.2};
  const auto [dx] = op.backward(precision::fp32{}, Scales<1>{}, {}, std::tuple{branch, skip});
  for (std::size_t i = 0; i < dx.size(); ++i) {
    const double a = std::sqrt(0.2) * static_cast<double>(branch.data()[i]);
    const double b = std::sqrt(0.8) * static_cast<double>(skip.data()[i]);
    // Both weights and products round, and their sum.
    EXPECT_NEAR(dx.data()[i], a + b, 3 * float_unit * (std::abs(a) + std::abs(b)));
  }
}

TEST(Residual, AddForwardWeighsAndItsGradientsAreBothDy) {
  const auto run = run_op(precision::fp32{}, ops::ResidualAdd{.scaling = scaling::umup, .tau = 2},
                          normal_array<float>({7, 5}, 4), normal_array<float>({7, 5}, 5));
  const auto branch = normal_array<float>({7, 5}, 4);
  const auto skip = normal_array<float>({7, 5}, 5);
  for (std::size_t i = 0; i < run.y.size(); ++i) {
    const double a = 2 / std::sqrt(5.0) * static_cast<double>(branch.data()[i]);
    const double b = 1 / std::sqrt(5.0) * static_cast<double>(skip.data()[i]);
    EXPECT_NEAR(run.y.data()[i], a + b, 3 * float_unit * (std::abs(a) + std::abs(b)));
  }
  EXPECT_EQ(std::get<0>(run.gradients), run.dy);
  EXPECT_EQ(std::get<1>(run.gradients), run.dy);
}

// Standard error of a standard deviation of 20000 numbers: 0.005.
TEST(Residual, BothEndsKeepUnitScale) {
  for (const double tau : {0.01, 0.5, 0.9}) {
    for (const Shape& shape : {Shape{20011}, Shape{123, 200}, Shape{5, 70, 100}}) {
      for (const Scaling& scaling : {scaling::paper, scaling::umup}) {
        const auto a = normal_array<float>(shape, 6);
        const auto b = normal_array<float>(shape, 7);
        const auto y = ops::residual_add(a, b, {.scaling = scaling, .tau = tau});
        EXPECT_NEAR(standard_deviation(y), 1, 5 * 0.005);
        const ops::ResidualSplit split{.scaling = scaling, .tau = tau};
        const auto [dx] = split.backward(precision::fp32{}, Scales<1>{}, {}, std::tuple{a, b});
        EXPECT_NEAR(rms(dx), 1, 5 * 0.005);
      }
    }
  }
}

// Under a constraint the whole connection has one factor in each direction on the edge of x: the
// gradient of x is the true gradient of the scaled y, as delaying the weight changes only where it
// acts. Errors as in gradient_check.hpp.
TEST(Residual, InputGradientOfAConstrainedBranchIsTheTrueGradient) {
  const auto x = normal_array<double>({3, 5}, 8);
  const auto w = normal_array<double>({5, 5}, 9);
  const auto dy = normal_array<double>({3, 5}, 10);
  for (const Scaling& scaling : {scaling::paper, scaling::umup, scaling::none}) {
    for (const double tau : {0.0, 0.2, 1.0}) {
      SCOPED_TRACE(testing::Message() << to_string(scaling.rule) << " " << tau);
      const auto run = run_residual_branch(precision::fp64{}, scaling, tau, x, w, dy);
      expect_numeric_gradient(run.dx, 1, x, [&](const Array<double>& moved) {
        return inner_product(dy,
                             run_residual_branch(precision::fp64{}, scaling, tau, moved, w, dy).y);
      });
    }
  }
}

// Inside the branch the gradient lacks the weight, and the weight gradient has its own factor: the
// true gradient times β_w / (α w_b), the same for every element.
TEST(Residual, WeightGradientInsideABranchIsProportionalToTheTrueOne) {
  const auto x = normal_array<double>({3, 5}, 11);
  const auto w = normal_array<double>({5, 5}, 12);
  const auto dy = normal_array<double>({3, 5}, 13);
  for (const Scaling& scaling : {scaling::paper, scaling::umup, scaling::none}) {
    constexpr double tau = 0.2;
    const auto run = run_residual_branch(precision::fp64{}, scaling, tau, x, w, dy);
    const double branch_weight = ops::residual_weights(scaling.rule, tau).branch;
    const double ratio =
        run.linear_scales.backward[1] / (run.linear_scales.forward * branch_weight);
    expect_numeric_gradient(run.dw, ratio, w, [&](const Array<double>& moved) {
      return inner_product(dy,
                           run_residual_branch(precision::fp64{}, scaling, tau, x, moved, dy).y);
    });
  }
}

// With √τ at the branch's end in both directions it would be √0.01 = 0.1.
TEST(Residual, GradientInsideAFaintBranchHasUnitScale) {
  const auto run =
      run_residual_branch(precision::fp32{}, scaling::paper.with(constraint::none), 0.01,
                          normal_array<float>({256, 128}, 14), normal_array<float>({128, 128}, 15),
                          normal_array<float>({256, 128}, 16));
  EXPECT_NEAR(rms(run.d_hidden), 1, 0.1);
  EXPECT_NEAR(rms(run.dw), 1, 0.1);
}

TEST(Residual, ApplyIsSplitThenBranchThenAdd) {
  const auto x = normal_array<float>({3, 5}, 17);
  const ops::ResidualAdd op{.tau = 0.2};
  const auto y = ops::residual_apply(
      x, [](const auto& z) { return ops::gelu(z); }, op);
  EXPECT_EQ(y, ops::residual_add(ops::gelu(x), x, op));
}

TEST(Residual, RejectsShapesThatDoNotFit) {
  const auto a = normal_array<float>({2, 3}, 18);
  const auto b = normal_array<float>({3, 2}, 19);
  expect_shape_error([&] { (void)ops::residual_add(a, b); }, {"residual_add", "(2, 3)", "(3, 2)"});
  expect_shape_error(
      [&] {
        (void)ops::ResidualSplit{}.backward(precision::fp32{}, Scales<1>{}, {}, std::tuple{a, b});
      },
      {"residual_split", "(2, 3)", "(3, 2)"});
  expect_shape_error(
      [&] { (void)ops::ResidualAdd{}.backward(precision::fp32{}, Scales<2>{}, {a.shape()}, b); },
      {"residual_add", "(3, 2)", "(2, 3)"});
}

TEST(Residual, TakesEmptyArraysAndScalars) {
  for (const Shape& shape : {Shape{0}, Shape{0, 3}, Shape{}, Shape{1}, Shape{17}}) {
    const auto x = normal_array<float16>(shape, 20);
    expect_gradients_have_argument_shapes(precision::fp8{}, ops::ResidualAdd{}, x, x);
    const auto [dx] =
        ops::ResidualSplit{}.backward(precision::fp8{}, Scales<1>{}, {}, std::tuple{x, x});
    EXPECT_EQ(dx.shape(), shape);
  }
}

template <class P> class ResidualIn : public testing::Test {};
TYPED_TEST_SUITE(ResidualIn, StoragePrecisions, PrecisionNames);

TYPED_TEST(ResidualIn, BothEndsAreTheDoubleReferenceRoundedOnce) {
  using T = typename TypeParam::storage;
  const auto a = normal_array<T>({37, 13}, 21);
  const auto b = normal_array<T>({37, 13}, 22);
  std::vector<Reference> expected;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double u = std::sqrt(0.3) * static_cast<double>(a.data()[i]);
    const double v = std::sqrt(0.7) * static_cast<double>(b.data()[i]);
    expected.push_back({u + v, 3 * float_unit * (std::abs(u) + std::abs(v))});
  }
  expect_rounded(ops::residual_add(TypeParam{}, a, b, {.tau = 0.3}), expected);
  const auto [dx] =
      ops::ResidualSplit{.tau = 0.3}.backward(TypeParam{}, Scales<1>{}, {}, std::tuple{a, b});
  expect_rounded(dx, expected);
}

TYPED_TEST(ResidualIn, ThreadCountChangesNoBit) {
  using T = typename TypeParam::storage;
  expect_thread_count_changes_no_bit(TypeParam{}, ops::ResidualAdd{.tau = 0.3},
                                     normal_array<T>({211, 233}, 23),
                                     normal_array<T>({211, 233}, 24));
}

}  // namespace residual_test
