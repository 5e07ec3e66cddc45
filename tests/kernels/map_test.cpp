// SPDX-License-Identifier: MIT
#include "unit_scaling/kernels/map.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <cstring>
#include <memory_resource>
#include <vector>

#include "support/random_arrays.hpp"
#include "support/threads.hpp"
#include "unit_scaling/core/array.hpp"
#include "unit_scaling/formats/catalogue.hpp"

namespace map_test {

using namespace unit_scaling;
using namespace unit_scaling_test;

template <class T> bool equal_bits(T a, T b) { return std::memcmp(&a, &b, sizeof(T)) == 0; }

const auto triple = [](auto v) { return v * 3.0F; };

/// Expects 3x, a single rounding in float and one to Out, and nothing written behind the end.
template <class Out, class In> void expect_tripled(std::size_t size) {
  const Array<In> x = normal_array<In>({size}, size);
  std::vector<Out> out(size + 20, Out(-77.0F));
  kernels::map_into<float>(out.data(), size, triple, x.data());
  for (std::size_t i = 0; i < out.size(); ++i) {
    const Out expected = i < size ? Out(static_cast<float>(x.data()[i]) * 3.0F) : Out(-77.0F);
    EXPECT_TRUE(equal_bits(out[i], expected)) << "element " << i << " of " << size;
  }
}

TEST(Map, TailsOfEveryLengthGiveThePerElementResult) {
  for (std::size_t size = 0; size <= 40; ++size) {
    expect_tripled<float, float>(size);
    expect_tripled<float16, float>(size);
    expect_tripled<float, float16>(size);
    expect_tripled<bfloat16, float8_e4m3fn>(size);
    expect_tripled<float8_e4m3fn, bfloat16>(size);
    expect_tripled<float8_e5m2, float8_e5m2>(size);
  }
}

TEST(Map, TakesSeveralArraysOfDifferentFormats) {
  for (std::size_t size = 0; size <= 40; ++size) {
    const auto x = normal_array<float16>({size}, 1);
    const auto y = normal_array<float>({size}, 2);
    const Array<float> sum = kernels::map<float, float>([](auto a, auto b) { return a + b; }, x, y);
    ASSERT_EQ(sum.shape(), x.shape());
    for (std::size_t i = 0; i < size; ++i) {
      EXPECT_EQ(sum.data()[i], static_cast<float>(x.data()[i]) + y.data()[i]);
    }
  }
}

TEST(Map, ComputesInDoubleWhereAsked) {
  const Array<double> x({3}, {1, 0x1p-40, -3});
  const Array<double> y = kernels::map<double, double>([](double v) { return 1 + v; }, x);
  EXPECT_EQ(y, Array<double>({3}, {2, 1 + 0x1p-40, -2}));
}

TEST(Map, KeepsTheShapeAndTheMemoryResource) {
  std::pmr::unsynchronized_pool_resource pool;
  const Array<float> x(Shape{2, 3}, std::vector<float>(6, 1.5F), &pool);
  const Array<float> y = kernels::map<float, float>(triple, x);
  EXPECT_EQ(y.resource(), &pool);
  EXPECT_EQ(y, Array<float>::filled({2, 3}, 4.5F));
}

TEST(Map, ThreadCountChangesNoBit) {
  const auto x = normal_array<float>({3 * kernels::map_grain + 5}, 3);
  for (const std::size_t threads : {std::size_t{1}, std::size_t{2}, std::size_t{3}}) {
    const ThreadCountScope scope(threads);
    const Array<float16> y = kernels::map<float, float16>(triple, x);
    std::size_t wrong = 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
      wrong += !equal_bits(y.data()[i], float16(x.data()[i] * 3.0F));
    }
    EXPECT_EQ(wrong, 0U) << threads << " threads";
  }
}

TEST(Convert, SharesTheArrayWhereTheTypesAreEqual) {
  const auto x = normal_array<float>({5, 7}, 4);
  const Array<float> same = kernels::convert<float, Overflow::infinity_or_nan>(x);
  EXPECT_EQ(same.data(), x.data());
  const auto narrow = normal_array<float8_e4m3fn>({5, 7}, 4);
  const auto as_narrow = kernels::convert<float8_e4m3fn, Overflow::saturate>(narrow);
  EXPECT_EQ(as_narrow.data(), narrow.data());
}

TEST(Convert, RoundsEveryElementOnce) {
  for (std::size_t size = 0; size <= 40; ++size) {
    const auto x = normal_array<float>({size}, 5);
    const Array<float16> y = kernels::convert<float16, Overflow::infinity_or_nan>(x);
    for (std::size_t i = 0; i < size; ++i) {
      EXPECT_TRUE(equal_bits(y.data()[i], float16(x.data()[i])));
    }
    const Array<float> back = kernels::convert<float, Overflow::infinity_or_nan>(y);
    for (std::size_t i = 0; i < size; ++i) {
      EXPECT_EQ(back.data()[i], static_cast<float>(y.data()[i]));
    }
  }
}

// 1 + 2^-11 is halfway between two neighbours; 2^-40 more is nearer the upper one. Rounding to
// float on the way would lose it and round the tie to even, down.
TEST(Convert, RoundsDoubleToANarrowFormatWithoutAStopAtFloat) {
  const Array<double> x({1}, {1 + 0x1p-11 + 0x1p-40});
  const Array<float16> y = kernels::convert<float16, Overflow::infinity_or_nan>(x);
  EXPECT_EQ(static_cast<double>(y.data()[0]), 1 + 0x1p-10);
  const Array<double> back = kernels::convert<double, Overflow::infinity_or_nan>(y);
  EXPECT_EQ(back.data()[0], 1 + 0x1p-10);
}

TEST(Convert, OverflowIsWhatWasAskedFor) {
  const Array<float> x({2}, {1e6F, -1e6F});
  const auto saturated = kernels::convert<float8_e4m3fn, Overflow::saturate>(x);
  EXPECT_EQ(static_cast<float>(saturated.data()[0]), 448);
  EXPECT_EQ(static_cast<float>(saturated.data()[1]), -448);
  const auto lost = kernels::convert<float8_e4m3fn, Overflow::infinity_or_nan>(x);
  EXPECT_TRUE(std::isnan(static_cast<float>(lost.data()[0])));
  const auto infinite = kernels::convert<float8_e5m2, Overflow::infinity_or_nan>(x);
  EXPECT_EQ(static_cast<float>(infinite.data()[1]), -HUGE_VALF);
}

TEST(Convert, AllocatesFromTheGivenResource) {
  std::pmr::unsynchronized_pool_resource pool;
  const auto x = normal_array<float>({3}, 6);
  const auto y = kernels::convert<float16, Overflow::infinity_or_nan>(x, &pool);
  EXPECT_EQ(y.resource(), &pool);
}

}  // namespace map_test
