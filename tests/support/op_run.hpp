// SPDX-License-Identifier: MIT
/// @file
/// Layer: tests. One forward and one backward pass of an op, and claims that any op must meet.
#pragma once

#include <gtest/gtest.h>

#include <cstddef>
#include <cstring>
#include <tuple>
#include <utility>

#include "support/random_arrays.hpp"
#include "support/threads.hpp"
#include "unit_scaling/ops/op.hpp"

namespace unit_scaling_test {

/// What one forward and one backward pass gave, and the gradient that went in.
template <class Scales, class Y, class Saved, class DY, class Gradients> struct OpRun {
  Scales scales;
  Y y;
  Saved saved;
  DY dy;
  Gradients gradients;
};

/// Runs both passes under given factors with the upstream gradient `dy_of(y)`.
template <unit_scaling::Precision P, class Op, class S, class DyOf, class... Arrays>
[[nodiscard]] auto run_op_with(P precision, const Op& op, const S& scales, const DyOf& dy_of,
                               const Arrays&... arrays) {
  auto forward = op.forward(precision, scales, arrays...);
  auto dy = dy_of(forward.output);
  auto gradients = op.backward(precision, scales, forward.saved, dy);
  return OpRun<S, decltype(forward.output), decltype(forward.saved), decltype(dy),
               decltype(gradients)>{scales, std::move(forward.output), std::move(forward.saved),
                                    std::move(dy), std::move(gradients)};
}

/// Runs both passes under the op's own factors with an upstream gradient ~ N(0, 1).
template <unit_scaling::Precision P, class Op, class... Arrays>
[[nodiscard]] auto run_op(P precision, const Op& op, const Arrays&... arrays) {
  const auto normal_dy = []<class T>(const unit_scaling::Array<T>& y) {
    return normal_array<T>(y.shape(), 0xd1);
  };
  return run_op_with(precision, op, op.scales(arrays...), normal_dy, arrays...);
}

/// Equal shapes, and equal to the bit: NaN is equal to the same NaN, 0 differs from −0.
template <class T>
[[nodiscard]] bool same_bits(const unit_scaling::Array<T>& a, const unit_scaling::Array<T>& b) {
  return a.shape() == b.shape() && (a.empty() || std::memcmp(a.data(), b.data(), a.bytes()) == 0);
}

/// Expects the bits of the output and of every gradient to be the same for 1, 2 and 3 threads. The
/// arrays should be larger than a piece of work (16384 elements for most ops).
template <unit_scaling::Precision P, class Op, class... Arrays>
void expect_thread_count_changes_no_bit(P precision, const Op& op, const Arrays&... arrays) {
  const ThreadCountScope one(1);
  const auto expected = run_op(precision, op, arrays...);
  for (const std::size_t threads : {std::size_t{2}, std::size_t{3}}) {
    const ThreadCountScope several(threads);
    const auto actual = run_op(precision, op, arrays...);
    EXPECT_TRUE(same_bits(actual.y, expected.y)) << "y, " << threads << " threads";
    std::apply(
        [&](const auto&... a) {
          std::apply([&](const auto&... e) { EXPECT_TRUE((same_bits(a, e) && ...)); },
                     expected.gradients);
        },
        actual.gradients);
  }
}

/// Expects both passes to run on these (empty or tiny) arrays and the gradients of the floating-
/// point ones among them to have their shapes.
template <unit_scaling::Precision P, class Op, class... Arrays>
void expect_gradients_have_argument_shapes(P precision, const Op& op, const Arrays&... arrays) {
  const auto run = run_op(precision, op, arrays...);
  const auto shape_if_differentiable = []<class T>(const unit_scaling::Array<T>& array) {
    if constexpr (unit_scaling::Storage<T>) {
      return std::tuple{array.shape()};
    } else {
      return std::tuple<>{};
    }
  };
  const auto expected = std::tuple_cat(shape_if_differentiable(arrays)...);
  const auto actual = std::apply(
      [](const auto&... gradient) { return std::tuple{gradient.shape()...}; }, run.gradients);
  EXPECT_TRUE(actual == expected);
}

}  // namespace unit_scaling_test
