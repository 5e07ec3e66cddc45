// SPDX-License-Identifier: MIT
#include "unit_scaling/ops/elementwise.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <tuple>
#include <vector>

#include "support/errors.hpp"
#include "support/gradient_check.hpp"
#include "support/op_run.hpp"
#include "support/random_arrays.hpp"
#include "support/rounding_check.hpp"

namespace elementwise_test {

using namespace unit_scaling;
using namespace unit_scaling_test;

/// x³, whose slope is 3 x².
constexpr ops::Elementwise cube([](auto x) { return x * x * x; }, [](auto x) { return 3 * x * x; });

TEST(Elementwise, BackwardIsTheGradient) {
  for (const Shape& shape : {Shape{}, Shape{1}, Shape{3, 17}}) {
    expect_scaled_gradients(cube, 1, normal_array<double>(shape, 1));
  }
}

TEST(Elementwise, TakesEmptyArraysAndRefusesAnotherShapeOfGradient) {
  for (const Shape& shape : {Shape{0}, Shape{3, 0}, Shape{1}, Shape{17}}) {
    expect_gradients_have_argument_shapes(precision::fp8{}, cube, normal_array<float16>(shape, 1));
  }
  const auto x = normal_array<float>({2, 3}, 1);
  expect_shape_error(
      [&] {
        (void)cube.backward(precision::fp32{}, {}, std::tuple{x}, normal_array<float>({3, 2}, 1));
      },
      {"elementwise", "(2, 3)", "(3, 2)"});
}

template <class P> class ElementwiseIn : public testing::Test {};
TYPED_TEST_SUITE(ElementwiseIn, StoragePrecisions, PrecisionNames);

TYPED_TEST(ElementwiseIn, ResultIsTheDoubleReferenceRoundedOnce) {
  using T = typename TypeParam::storage;
  const auto x = normal_array<T>({5, 29}, 1);
  const auto run = run_op(TypeParam{}, cube, x);
  std::vector<Reference> y;
  std::vector<Reference> dx;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const auto v = static_cast<double>(x.data()[i]);
    const auto g = static_cast<double>(run.dy.data()[i]);
    // Three or four products, each within one unit.
    y.push_back({v * v * v, 3 * float_unit * std::abs(v * v * v)});
    dx.push_back({g * 3 * v * v, 4 * float_unit * std::abs(g * 3 * v * v)});
  }
  expect_rounded(run.y, y);
  expect_rounded(std::get<0>(run.gradients), dx);
}

TYPED_TEST(ElementwiseIn, ThreadCountChangesNoBit) {
  using T = typename TypeParam::storage;
  expect_thread_count_changes_no_bit(TypeParam{}, cube, normal_array<T>({211, 233}, 2));
}

}  // namespace elementwise_test
