// SPDX-License-Identifier: MIT
#include "unit_scaling/ops/reshape.hpp"

#include <gtest/gtest.h>

#include <tuple>

#include "support/errors.hpp"
#include "support/gradient_check.hpp"
#include "support/random_arrays.hpp"

namespace reshape_test {

using namespace unit_scaling;
using namespace unit_scaling_test;

TEST(Reshape, KeepsTheElementsInBothDirections) {
  const auto x = normal_array<float>({2, 3, 4}, 1);
  const ops::Reshape op{.shape = Shape{6, 4}};
  const auto forward = op.forward(precision::fp32{}, op.scales(x), x);
  EXPECT_EQ(forward.output, x.reshaped({6, 4}));
  EXPECT_EQ(forward.output.data(), x.data()) << "storage is shared";
  const auto dy = normal_array<float>({6, 4}, 2);
  const auto [dx] = op.backward(precision::fp32{}, op.scales(x), forward.saved, dy);
  EXPECT_EQ(dx, dy.reshaped({2, 3, 4}));
}

TEST(Reshape, BackwardIsTheGradient) {
  expect_scaled_gradients(ops::Reshape{.shape = Shape{1}}, 1, normal_array<double>({}, 3));
  expect_scaled_gradients(ops::Reshape{.shape = Shape{5, 3}}, 1, normal_array<double>({3, 5}, 4));
}

TEST(Reshape, RoundsToTheStorageOfTheTape) {
  const auto x = normal_array<float>({2, 3}, 1);
  const auto y = ops::reshape(precision::fp16{}, x, {.shape = Shape{6}});
  for (std::size_t i = 0; i < 6; ++i) EXPECT_EQ(y.data()[i], static_cast<float16>(x.data()[i]));
}

TEST(Reshape, TakesEmptyArraysAndScalars) {
  EXPECT_EQ(ops::reshape(Array<float>(Shape{0, 3}), {.shape = Shape{5, 0}}).shape(), (Shape{5, 0}));
  EXPECT_EQ(ops::reshape(normal_array<float>({}, 1), {.shape = Shape{1, 1}}).shape(),
            (Shape{1, 1}));
}

TEST(Reshape, RefusesAnotherSize) {
  const auto x = normal_array<float>({2, 3}, 1);
  expect_shape_error([&] { (void)ops::reshape(x, {.shape = Shape{7}}); },
                     {"reshape", "(2, 3)", "(7)"});
  const ops::Reshape op{.shape = Shape{6}};
  expect_shape_error([&] { (void)op.backward(precision::fp32{}, {}, std::tuple{x.shape()}, x); },
                     {"reshape", "(2, 3)", "(6)"});
}

}  // namespace reshape_test
