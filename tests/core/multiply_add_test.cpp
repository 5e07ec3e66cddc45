// SPDX-License-Identifier: MIT
#include "unit_scaling/core/multiply_add.hpp"

#include <gtest/gtest.h>

#include <cstddef>

#include "unit_scaling/core/simd.hpp"

namespace multiply_add_test {

using namespace unit_scaling;

TEST(MultiplyAdd, RoundsLanesOnceWhereTheTargetFuses) {
  // (1 + u)(1 − u) − 1 is −u² exactly, and 0 if the product is rounded.
  // Volatile, for Clang knows a fused sum of constants on every target.
  volatile float hidden = 0x1p-20F;
  const float u = hidden;
  const auto a = splat<float32x16>(1 + u);
  const auto b = splat<float32x16>(1 - u);
  const float32x16 of_vectors = multiply_add(a, b, splat<float32x16>(-1));
  const float32x16 with_number = multiply_add(a, 1 - u, -1.0F);
  const float32x16 of_products = sum_of_products(a, b, -1.0F, splat<float32x16>(1));
  const float expected = has_fused_multiply_add ? -u * u : 0;
  for (std::size_t i = 0; i < lanes; ++i) {
    EXPECT_EQ(of_vectors[i], expected);
    EXPECT_EQ(with_number[i], expected);
    EXPECT_EQ(of_products[i], expected);
  }
}

}  // namespace multiply_add_test
