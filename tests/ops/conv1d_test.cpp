// SPDX-License-Identifier: MIT
#include "unit_scaling/ops/conv1d.hpp"

#include <gtest/gtest.h>

#include <cmath>
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

namespace conv1d_test {

using namespace unit_scaling;
using namespace unit_scaling_test;

struct Case {
  std::size_t batch, channels, length, fan_out, kernel_size;
  ops::Conv1d op;
};

const std::vector<Case> cases{
    {1, 1, 1, 1, 1, {}},
    {2, 3, 11, 5, 3, {}},
    {2, 4, 12, 6, 3, {.stride = 2, .padding = 1}},
    {1, 4, 13, 6, 2, {.padding = 2, .dilation = 3, .groups = 2}},
    {3, 5, 7, 5, 3, {.groups = 5}},
    {2, 2, 9, 3, 2, {.stride = 4}},
    {2, 3, 6, 4, 4, {.dilation = 2, .causal = true}},
    {1, 2, 3, 2, 5, {.padding = 4}},  // most taps see padding only
};

template <Storage T> auto arguments(const Case& c) {
  return std::tuple{normal_array<T>({c.batch, c.channels, c.length}, 1),
                    normal_array<T>({c.fan_out, c.channels / c.op.groups, c.kernel_size}, 2),
                    normal_array<T>({c.fan_out}, 3)};
}

/// y by the definition, in double, of operands rounded to `Operand`, with an error bound.
template <class Operand, class T>
std::vector<Reference> textbook(const Case& c, double alpha, const Array<T>& x, const Array<T>& w,
                                const Array<T>& b) {
  const std::size_t before = c.op.causal ? c.op.dilation * (c.kernel_size - 1) : c.op.padding;
  const std::size_t padded = c.length + (c.op.causal ? before : 2 * before);
  const std::size_t out_length =
      (padded - c.op.dilation * (c.kernel_size - 1) - 1) / c.op.stride + 1;
  const std::size_t per_group = c.channels / c.op.groups;
  std::vector<Reference> y;
  for (std::size_t n = 0; n < c.batch; ++n) {
    for (std::size_t o = 0; o < c.fan_out; ++o) {
      const std::size_t first_channel = o / (c.fan_out / c.op.groups) * per_group;
      for (std::size_t l = 0; l < out_length; ++l) {
        double total = static_cast<double>(b.data()[o]);
        double magnitude = std::abs(total);
        for (std::size_t i = 0; i < per_group; ++i) {
          for (std::size_t t = 0; t < c.kernel_size; ++t) {
            const std::size_t at = l * c.op.stride + t * c.op.dilation;
            if (at < before || at >= before + c.length) continue;
            const double term =
                rounded_to<Operand>(w.data()[(o * per_group + i) * c.kernel_size + t]) *
                rounded_to<Operand>(
                    x.data()[(n * c.channels + first_channel + i) * c.length + at - before]);
            total += term;
            magnitude += std::abs(term);
          }
        }
        const auto terms = static_cast<double>(per_group * c.kernel_size + 4);
        y.push_back({alpha * total, alpha * terms * float_unit * magnitude});
      }
    }
  }
  return y;
}

TEST(Conv1d, IsTheTextbookLoop) {
  for (const Case& c : cases) {
    std::apply(
        [&](const auto&... each) {
          const auto y = ops::conv1d(each..., c.op);
          const auto expected = textbook<double>(c, c.op.scales(each...).forward, each...);
          ASSERT_EQ(y.size(), expected.size());
          for (std::size_t i = 0; i < y.size(); ++i) {
            EXPECT_NEAR(y.data()[i], expected[i].value, 1e-13);
          }
        },
        arguments<double>(c));
  }
}

TEST(Conv1d, BackwardIsTheScaledGradient) {
  for (const Case& c : cases) {
    const auto [x, w, b] = arguments<double>(c);
    expect_scaled_gradients_under_all_rules(c.op, x, w, b);
    expect_scaled_gradients_under_all_rules(c.op, x, w);
  }
}

TEST(Conv1d, TakesAnyNumberOfLeadingExtents) {
  const auto x = normal_array<float>({6, 3, 10}, 1);
  const auto w = normal_array<float>({4, 3, 3}, 2);
  const auto expected = ops::conv1d(x, w);
  EXPECT_EQ(expected.shape(), (Shape{6, 4, 8}));
  EXPECT_EQ(ops::conv1d(x.reshaped({2, 3, 3, 10}), w), expected.reshaped({2, 3, 4, 8}));
  const auto one = normal_array<float>({3, 10}, 1);
  EXPECT_EQ(ops::conv1d(one, w), ops::conv1d(one.reshaped({1, 3, 10}), w).reshaped({4, 8}));
}

// Without padding; a bias of N(0,1) would add one to the variance of the products, so it is left
// out. Weight gradients are the smallest sample: 48 · 32 · 5 numbers, a standard error of 1 %.
TEST(Conv1d, OutputAndGradientsHaveUnitScale) {
  struct Sizes {
    std::size_t batch, channels, length, fan_out, kernel_size, stride, groups;
  };
  for (const Sizes& n : {Sizes{8, 32, 258, 48, 5, 1, 1}, Sizes{16, 64, 514, 64, 3, 2, 1},
                         Sizes{8, 128, 512, 128, 7, 1, 8}}) {
    const ops::Conv1d op{
        .scaling = scaling::paper.with(constraint::none), .stride = n.stride, .groups = n.groups};
    const auto run =
        run_op(precision::fp32{}, op, normal_array<float>({n.batch, n.channels, n.length}, 1),
               normal_array<float>({n.fan_out, n.channels / n.groups, n.kernel_size}, 2));
    EXPECT_NEAR(standard_deviation(run.y), 1, 0.1);
    EXPECT_NEAR(rms(std::get<0>(run.gradients)), 1, 0.1);
    EXPECT_NEAR(rms(std::get<1>(run.gradients)), 1, 0.1);
  }
  // A gradient of a bias has one element for each channel: a thousand give a standard error of 2 %.
  for (const Sizes& n : {Sizes{8, 16, 66, 1024, 3, 1, 1}, Sizes{3, 4, 101, 1001, 5, 3, 1},
                         Sizes{64, 8, 9, 1500, 9, 1, 4}}) {
    const ops::Conv1d op{
        .scaling = scaling::paper.with(constraint::none), .stride = n.stride, .groups = n.groups};
    const auto run =
        run_op(precision::fp32{}, op, normal_array<float>({n.batch, n.channels, n.length}, 1),
               normal_array<float>({n.fan_out, n.channels / n.groups, n.kernel_size}, 2),
               Array<float>::filled({n.fan_out}, 0));
    EXPECT_NEAR(rms(std::get<2>(run.gradients)), 1, 0.1);
  }
}

TEST(Conv1d, RejectsWhatDoesNotFitAndNamesIt) {
  const auto x = normal_array<float>({2, 4, 5}, 1);
  const auto w = normal_array<float>({6, 4, 3}, 2);
  expect_shape_error([&] { (void)ops::conv1d(x, w, {.groups = 2}); },
                     {"conv1d", "(2, 4, 5)", "(6, 4, 3)", "2 groups"});
  expect_shape_error(
      [&] {
        (void)ops::conv1d(x, normal_array<float>({6, 4, 6}, 2));
      },
      {"conv1d", "at least 6", "(2, 4, 5)", "(6, 4, 6)"});
  expect_shape_error([&] { (void)ops::conv1d(x, w, normal_array<float>({4}, 2)); },
                     {"conv1d", "(4)", "(6, 4, 3)"});
  expect_shape_error([&] { (void)ops::conv1d(normal_array<float>({5}, 1), w); }, {"conv1d", "(5)"});
  expect_shape_error(
      [&] {
        (void)ops::conv1d(x, normal_array<float>({6, 4, 0}, 2));
      },
      {"conv1d", "(6, 4, 0)"});
  for (const ops::Conv1d& op :
       {ops::Conv1d{.stride = 0}, ops::Conv1d{.dilation = 0}, ops::Conv1d{.groups = 0},
        ops::Conv1d{.padding = 1, .causal = true}}) {
    expect_domain_error([&] { (void)ops::conv1d(x, w, op); }, {"conv1d"});
  }
}

TEST(Conv1d, TakesEmptyArrays) {
  struct Sizes {
    Shape x, w;
  };
  for (const Sizes& n :
       {Sizes{{0, 3, 5}, {4, 3, 2}}, Sizes{{2, 0, 5}, {4, 0, 2}}, Sizes{{2, 3, 5}, {0, 3, 2}}}) {
    expect_gradients_have_argument_shapes(
        precision::fp8{}, ops::Conv1d{}, normal_array<float16>(n.x, 1),
        normal_array<float16>(n.w, 2), normal_array<float16>({n.w[0]}, 3));
  }
}

template <class P> class Conv1dIn : public testing::Test {};
TYPED_TEST_SUITE(Conv1dIn, StoragePrecisions, PrecisionNames);

TYPED_TEST(Conv1dIn, ResultIsTheTextbookLoopOverRoundedOperandsRoundedOnce) {
  using T = typename TypeParam::storage;
  for (const Case& c : cases) {
    std::apply(
        [&](const auto&... each) {
          expect_rounded(ops::conv1d(TypeParam{}, each..., c.op),
                         textbook<typename TypeParam::matmul_operand>(
                             c, c.op.scales(each...).forward, each...));
        },
        arguments<T>(c));
  }
}

TYPED_TEST(Conv1dIn, SavesTheRoundedOperands) {
  using Operand = typename TypeParam::matmul_operand;
  const auto [x, w, b] = arguments<typename TypeParam::storage>(cases[1]);
  const auto run = run_op(TypeParam{}, cases[1].op, x, w, b);
  for (const kernels::Operand& operand : {std::get<0>(run.saved), std::get<1>(run.saved)}) {
    EXPECT_EQ(operand.array.format(), Format::of<Operand>());
    EXPECT_FALSE(operand.array.has_scales());
  }
  EXPECT_EQ(std::get<0>(run.saved).shape(), x.shape());
  EXPECT_EQ(std::get<1>(run.saved).shape(), w.shape());
}

TYPED_TEST(Conv1dIn, ThreadCountChangesNoBit) {
  using T = typename TypeParam::storage;
  expect_thread_count_changes_no_bit(TypeParam{}, ops::Conv1d{.padding = 1, .groups = 2},
                                     normal_array<T>({3, 34, 167}, 1),
                                     normal_array<T>({66, 17, 3}, 2), normal_array<T>({66}, 3));
}

}  // namespace conv1d_test
