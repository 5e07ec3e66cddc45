// SPDX-License-Identifier: MIT
#include "unit_scaling/ops/heads.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <tuple>
#include <type_traits>

#include "support/errors.hpp"
#include "support/gradient_check.hpp"
#include "support/op_run.hpp"
#include "support/random_arrays.hpp"
#include "support/rounding_check.hpp"

namespace heads_test {

using namespace unit_scaling;
using namespace unit_scaling_test;

TEST(SplitHeads, EveryElementGoesToItsPartHeadAndPosition) {
  constexpr std::size_t batch = 2, positions = 3, heads = 5, head_dim = 7;
  const auto x = normal_array<float>({batch, positions, 3 * heads * head_dim}, 1);
  const auto parts = ops::split_heads(x, {.heads = heads});
  const auto expect_part = [&](std::size_t part, const Array<float>& y) {
    ASSERT_EQ(y.shape(), (Shape{batch, heads, positions, head_dim}));
    for (std::size_t b = 0; b < batch; ++b) {
      for (std::size_t s = 0; s < positions; ++s) {
        for (std::size_t h = 0; h < heads; ++h) {
          for (std::size_t d = 0; d < head_dim; ++d) {
            EXPECT_EQ(y.data()[((b * heads + h) * positions + s) * head_dim + d],
                      x.data()[(b * positions + s) * 3 * heads * head_dim +
                               (part * heads + h) * head_dim + d]);
          }
        }
      }
    }
  };
  expect_part(0, std::get<0>(parts));
  expect_part(1, std::get<1>(parts));
  expect_part(2, std::get<2>(parts));
}

TEST(SplitHeads, BackwardPutsEveryGradientWhereItsElementCameFrom) {
  const ops::SplitHeads op{.heads = 2};
  // The op is a permutation P, so its backward pass Pᵀ undoes it: Pᵀ P x = x.
  for (const Shape& shape : {Shape{4, 12}, Shape{2, 3, 30}, Shape{2, 2, 3, 6}}) {
    const auto x = normal_array<float>(shape, 2);
    const auto forward = op.forward(precision::fp32{}, op.scales(x), x);
    const auto [dx] = op.backward(precision::fp32{}, op.scales(x), forward.saved, forward.output);
    EXPECT_EQ(dx, x) << to_string(shape);
  }
}

TEST(SplitHeads, RefusesSizesThatDoNotDivide) {
  expect_shape_error(
      [] {
        (void)ops::split_heads(normal_array<float>({2, 20}, 1), {.heads = 3});
      },
      {"split_heads", "(2, 20)", "3 heads"});
  expect_shape_error([] { (void)ops::split_heads(normal_array<float>({18}, 1), {.heads = 3}); },
                     {"split_heads", "(18)"});
  expect_domain_error(
      [] {
        (void)ops::split_heads(normal_array<float>({2, 18}, 1), {.heads = 0});
      },
      {"split_heads", "head"});
  const ops::SplitHeads op{.heads = 3};
  const auto x = normal_array<float>({2, 18}, 1);
  const auto forward = op.forward(precision::fp32{}, op.scales(x), x);
  const auto other = normal_array<float>({3, 2, 3}, 1);
  expect_shape_error(
      [&] {
        (void)op.backward(precision::fp32{}, op.scales(x), forward.saved,
                          std::tuple{other, other, other});
      },
      {"split_heads", "(3, 2, 3)", "(3, 2, 2)"});
}

TEST(MergeHeads, UndoesOnePartOfTheSplit) {
  constexpr std::size_t batch = 2, positions = 3, heads = 5, head_dim = 7;
  const auto x = normal_array<float16>({batch, positions, 3 * heads * head_dim}, 3);
  const auto [q, k, v] = ops::split_heads(x, {.heads = heads});
  const auto merged = ops::merge_heads(v);
  ASSERT_EQ(merged.shape(), (Shape{batch, positions, heads * head_dim}));
  for (std::size_t row = 0; row < batch * positions; ++row) {
    for (std::size_t j = 0; j < heads * head_dim; ++j) {
      EXPECT_EQ(merged.row(row)[j], x.row(row)[2 * heads * head_dim + j]);
    }
  }
}

TEST(MergeHeads, BackwardUndoesIt) {
  const auto x = normal_array<float>({2, 5, 3, 7}, 4);
  const ops::MergeHeads op;
  const auto forward = op.forward(precision::fp32{}, op.scales(x), x);
  const auto [dx] = op.backward(precision::fp32{}, op.scales(x), forward.saved, forward.output);
  EXPECT_EQ(dx, x);
  expect_shape_error([&] { (void)op.backward(precision::fp32{}, {}, forward.saved, x); },
                     {"merge_heads", "(2, 5, 3, 7)", "(2, 3, 35)"});
  expect_shape_error(
      [] {
        (void)ops::merge_heads(normal_array<float>({2, 18}, 1));
      },
      {"merge_heads", "(2, 18)"});
}

TEST(SeparateHeads, IsTheOppositeOfMergingInBothDirections) {
  const auto x = normal_array<float>({2, 3, 35}, 4);
  const ops::SeparateHeads op{.heads = 5};
  const auto forward = op.forward(precision::fp32{}, op.scales(x), x);
  EXPECT_EQ(forward.output.shape(), (Shape{2, 5, 3, 7}));
  EXPECT_EQ(ops::merge_heads(forward.output), x);
  const auto [dx] = op.backward(precision::fp32{}, op.scales(x), forward.saved, forward.output);
  EXPECT_EQ(dx, x);
  expect_shape_error([&] { (void)ops::separate_heads(x, {.heads = 4}); },
                     {"separate_heads", "(2, 3, 35)", "4 heads"});
  expect_domain_error([&] { (void)ops::separate_heads(x, {.heads = 0}); }, {"separate_heads"});
  expect_shape_error([&] { (void)op.backward(precision::fp32{}, {}, forward.saved, x); },
                     {"separate_heads", "(2, 3, 35)", "(2, 5, 3, 7)"});
}

TEST(MergeHeads, BackwardIsTheGradientAndSoIsThatOfSeparatingHeads) {
  for (const Shape& shape : {Shape{1, 1, 1}, Shape{2, 3, 5, 7}}) {
    expect_scaled_gradients(ops::MergeHeads{}, 1, normal_array<double>(shape, 8));
  }
  for (const Shape& shape : {Shape{1, 1}, Shape{5, 21}}) {
    const ops::SeparateHeads op{.heads = shape.columns() / 7 + shape.columns() % 7};
    expect_scaled_gradients(op, 1, normal_array<double>(shape, 9));
  }
}

// Each output in turn is weighed with dy, the others with zero: the loss is then a function of x
// alone whose numeric gradient the backward pass must give.
TEST(SplitHeads, BackwardIsTheGradientOfEveryPart) {
  const ops::SplitHeads op{.heads = 2};
  const auto x = normal_array<double>({3, 18}, 10);
  const auto forward = op.forward(precision::fp64{}, op.scales(x), x);
  const auto dy = normal_array<double>({2, 3, 3}, 11);
  const auto zeros = Array<double>::filled(Shape{2, 3, 3}, 0);
  const auto expect_part = [&]<std::size_t part>(std::integral_constant<std::size_t, part>) {
    const auto [dx] = op.backward(
        precision::fp64{}, op.scales(x), forward.saved,
        std::tuple{part == 0 ? dy : zeros, part == 1 ? dy : zeros, part == 2 ? dy : zeros});
    expect_numeric_gradient(dx, 1, x, [&](const Array<double>& moved) {
      const auto parts = op.forward(precision::fp64{}, op.scales(moved), moved).output;
      return inner_product(dy, std::get<part>(parts));
    });
  };
  expect_part(std::integral_constant<std::size_t, 0>{});
  expect_part(std::integral_constant<std::size_t, 1>{});
  expect_part(std::integral_constant<std::size_t, 2>{});
}

TEST(MergeHeads, TakesEmptyArraysAndSingleElements) {
  for (const Shape& shape :
       {Shape{0, 2, 3, 4}, Shape{2, 3, 0, 4}, Shape{2, 3, 4, 0}, Shape{1, 1, 1}}) {
    expect_gradients_have_argument_shapes(precision::fp8{}, ops::MergeHeads{},
                                          normal_array<float16>(shape, 5));
  }
  for (const Shape& shape : {Shape{0, 6}, Shape{2, 0, 6}, Shape{2, 3, 0}, Shape{1, 3}}) {
    const auto x = normal_array<float16>(shape, 5);
    const ops::SplitHeads op;
    const auto forward = op.forward(precision::fp8{}, op.scales(x), x);
    const auto [dx] = op.backward(precision::fp8{}, op.scales(x), forward.saved, forward.output);
    EXPECT_EQ(dx.shape(), shape);
  }
}

TEST(MergeHeads, ThreadCountChangesNoBit) {
  expect_thread_count_changes_no_bit(precision::fp16{}, ops::MergeHeads{},
                                     normal_array<float16>({3, 5, 61, 37}, 6));
}

}  // namespace heads_test
