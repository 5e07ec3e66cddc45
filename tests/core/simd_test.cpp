// SPDX-License-Identifier: MIT
// Vectors of sixteen lanes, and WideVector of halves as narrow as any target has them, against the
// same operation on numbers.
#include "unit_scaling/core/simd.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <type_traits>
#include <utility>

#include "unit_scaling/core/wide_vector.hpp"

namespace simd_test {

using namespace unit_scaling;

using Quarter = float __attribute__((vector_size(16)));
using IntegerQuarter = std::int32_t __attribute__((vector_size(16)));
using UnsignedQuarter = std::uint32_t __attribute__((vector_size(16)));
using Eighth = std::uint16_t __attribute__((vector_size(16)));

template <class V> class LanesOf : public testing::Test {};
using Vectors =
    testing::Types<float32x16, int32x16, uint32x16, WideVector<WideVector<Quarter>>,
                   WideVector<WideVector<IntegerQuarter>>, WideVector<WideVector<UnsignedQuarter>>,
                   WideVector<Quarter>, WideVector<Eighth>>;
TYPED_TEST_SUITE(LanesOf, Vectors);

template <class V> using lane_of = std::remove_cvref_t<decltype(std::declval<const V&>()[0])>;
template <class V> inline constexpr std::size_t count_of = sizeof(V) / sizeof(lane_of<V>);

/// Lanes that differ from each other; of numbers with signs, every other one is negative.
template <class V> V numbers(int first) {
  V result{};
  for (std::size_t i = 0; i < count_of<V>; ++i) {
    const int number = first + 3 * static_cast<int>(i);
    result[i] =
        static_cast<lane_of<V>>(std::is_signed_v<lane_of<V>> && i % 2 != 0 ? -number : number);
  }
  return result;
}

/// Expects operation(vectors) to have the lanes of operation(numbers).
template <class V, class Operation> void expect_by_lanes(const Operation& operation) {
  using Lane = lane_of<V>;
  const auto x = numbers<V>(5);
  const auto y = numbers<V>(2);
  const auto of_vectors = operation(x, y);
  const auto with_number = operation(x, Lane{3});
  const auto of_number = operation(Lane{100}, y);
  for (std::size_t i = 0; i < count_of<V>; ++i) {
    EXPECT_EQ(of_vectors[i], static_cast<Lane>(operation(Lane{x[i]}, Lane{y[i]}))) << "lane " << i;
    EXPECT_EQ(with_number[i], static_cast<Lane>(operation(Lane{x[i]}, Lane{3}))) << "lane " << i;
    EXPECT_EQ(of_number[i], static_cast<Lane>(operation(Lane{100}, Lane{y[i]}))) << "lane " << i;
  }
}

TYPED_TEST(LanesOf, AreAddedSubtractedMultipliedAndDividedOneByOne) {
  expect_by_lanes<TypeParam>(std::plus<>{});
  expect_by_lanes<TypeParam>(std::minus<>{});
  expect_by_lanes<TypeParam>(std::multiplies<>{});
  expect_by_lanes<TypeParam>(std::divides<>{});
}

TYPED_TEST(LanesOf, OfIntegersHaveTheirBitsCombinedAndShifted) {
  if constexpr (std::is_integral_v<lane_of<TypeParam>>) {
    expect_by_lanes<TypeParam>(std::bit_and<>{});
    expect_by_lanes<TypeParam>(std::bit_or<>{});
    expect_by_lanes<TypeParam>(std::bit_xor<>{});
    using Lane = lane_of<TypeParam>;
    const auto x = numbers<TypeParam>(1000);
    const TypeParam inverted = ~x;
    const TypeParam left = x << 3;
    const TypeParam right = x >> 3;
    const TypeParam by_lanes = x >> (x & 7);
    for (std::size_t i = 0; i < count_of<TypeParam>; ++i) {
      EXPECT_EQ(inverted[i], static_cast<Lane>(~x[i]));
      EXPECT_EQ(left[i], static_cast<Lane>(x[i] << 3));
      EXPECT_EQ(right[i], static_cast<Lane>(x[i] >> 3));
      EXPECT_EQ(by_lanes[i], static_cast<Lane>(x[i] >> (x[i] & 7)));
    }
  }
}

TYPED_TEST(LanesOf, AreComparedToMasks) {
  auto x = numbers<TypeParam>(5);
  auto y = numbers<TypeParam>(5);
  x[1] = 1;
  y[2] = 1;
  const auto expect = [&](const auto& mask, const auto& compare) {
    for (std::size_t i = 0; i < count_of<TypeParam>; ++i) {
      EXPECT_EQ(mask[i], compare(lane_of<TypeParam>{x[i]}, lane_of<TypeParam>{y[i]}) ? -1 : 0)
          << "lane " << i;
    }
  };
  expect(x < y, std::less<>{});
  expect(x > y, std::greater<>{});
  expect(x <= y, std::less_equal<>{});
  expect(x >= y, std::greater_equal<>{});
  expect(x == y, std::equal_to<>{});
  expect(x != y, std::not_equal_to<>{});
}

TYPED_TEST(LanesOf, AreChangedByAssignments) {
  const auto x = numbers<TypeParam>(9);
  TypeParam changed = x;
  changed += x;
  changed -= 1;
  changed *= 2;
  changed /= 2;
  const TypeParam negative = -x;
  for (std::size_t i = 0; i < count_of<TypeParam>; ++i) {
    EXPECT_EQ(changed[i], static_cast<lane_of<TypeParam>>(x[i] + x[i] - 1));
    EXPECT_EQ(negative[i], static_cast<lane_of<TypeParam>>(-x[i]));
  }
}

TYPED_TEST(LanesOf, AreZeroWhereNoneAreGiven) {
  const TypeParam zeros{};
  for (std::size_t i = 0; i < count_of<TypeParam>; ++i) EXPECT_EQ(zeros[i], 0);
}

TEST(WideVector, TakesItsLanesInTheOrderOfMemory) {
  const WideVector<WideVector<Quarter>> vector{0, 1, 2,  3,  4,  5,  6,  7,
                                               8, 9, 10, 11, 12, 13, 14, 15};
  const auto in_memory = std::bit_cast<std::array<float, 16>>(vector);
  for (std::size_t i = 0; i < 16; ++i) {
    EXPECT_EQ(vector[i], static_cast<float>(i));
    EXPECT_EQ(in_memory[i], static_cast<float>(i));
  }
  EXPECT_EQ(vector.lower.upper[3], 7);
  EXPECT_EQ(vector.upper.lower[0], 8);
}

constexpr std::uint32_t special_bits[] = {0x8000'0000U,  // −0
                                          0x0000'0001U,  // the least subnormal number
                                          0x7fa5'5aa5U,  // a signalling NaN with a payload
                                          0xffc0'0001U, 0x7f80'0000U, 0x3f80'0000U};

TEST(Splat, KeepsEveryBit) {
  for (const std::uint32_t bits : special_bits) {
    const auto vector = bit_cast_to<uint32x16>(splat<float32x16>(std::bit_cast<float>(bits)));
    for (std::size_t i = 0; i < lanes; ++i) EXPECT_EQ(vector[i], bits);
  }
}

TEST(Select, KeepsEveryBit) {
  int32x16 mask{};
  for (std::size_t i = 0; i < lanes; i += 3) mask[i] = -1;
  for (const std::uint32_t bits : special_bits) {
    const auto special = splat<float32x16>(std::bit_cast<float>(bits));
    const auto ones = splat<float32x16>(1);
    const auto where = bit_cast_to<uint32x16>(select(mask, special, ones));
    const auto elsewhere = bit_cast_to<uint32x16>(select(mask, ones, special));
    for (std::size_t i = 0; i < lanes; ++i) {
      EXPECT_EQ(where[i], i % 3 == 0 ? bits : 0x3f80'0000U);
      EXPECT_EQ(elsewhere[i], i % 3 == 0 ? 0x3f80'0000U : bits);
    }
  }
}

TEST(LoadAndStore, TakeUnalignedElementsInOrder) {
  std::array<float, lanes + 2> from{};
  for (std::size_t i = 0; i < from.size(); ++i) from[i] = static_cast<float>(i);
  const auto vector = load<float32x16>(from.data() + 1);
  std::array<float, lanes + 2> to{};
  store(vector, to.data() + 1);
  for (std::size_t i = 0; i < lanes; ++i) EXPECT_EQ(vector[i], static_cast<float>(i + 1));
  from.front() = from.back() = 0;
  EXPECT_EQ(to, from);
}

TEST(LeastAndGreatest, TakeTheRightLaneWhereEitherIsANaN) {
  constexpr float nan = std::numeric_limits<float>::quiet_NaN();
  const float32x16 left{1, 2, nan, 4, -0.0F, 0.0F, -1, 7, 1, 2, nan, 4, -0.0F, 0.0F, -1, 7};
  const float32x16 right{2, 1, 3, nan, 0.0F, -0.0F, -2, 7, 2, 1, 3, nan, 0.0F, -0.0F, -2, 7};
  const auto bits = [](float number) { return std::bit_cast<std::uint32_t>(number); };
  const float32x16 lesser = least(left, right);
  const float32x16 greater = greatest(left, right);
  for (std::size_t i = 0; i < lanes; ++i) {
    const float x = left[i];
    const float y = right[i];
    EXPECT_EQ(bits(lesser[i]), bits(x < y ? x : y)) << "lane " << i;
    EXPECT_EQ(bits(greater[i]), bits(x > y ? x : y)) << "lane " << i;
  }
  const auto integers = numbers<int32x16>(4);
  const auto others = splat<int32x16>(-10);
  for (std::size_t i = 0; i < lanes; ++i) {
    EXPECT_EQ(least(integers, others)[i], std::min<std::int32_t>(integers[i], -10));
    EXPECT_EQ(greatest(integers, others)[i], std::max<std::int32_t>(integers[i], -10));
  }
}

TEST(ConvertTo, NarrowsModuloTheRangeAndWidensWithZeros) {
  uint32x16 wide{};
  for (std::size_t i = 0; i < lanes; ++i) {
    wide[i] = 0x0102'fe80U * static_cast<std::uint32_t>(i + 1) + 0xff01'8000U;
  }
  const auto halves = convert_to<uint16x16>(wide);
  const auto bytes = convert_to<uint8x16>(wide);
  const auto from_halves = convert_to<uint32x16>(halves);
  const auto from_bytes = convert_to<uint32x16>(bytes);
  for (std::size_t i = 0; i < lanes; ++i) {
    EXPECT_EQ(halves[i], static_cast<std::uint16_t>(wide[i])) << "lane " << i;
    EXPECT_EQ(bytes[i], static_cast<std::uint8_t>(wide[i])) << "lane " << i;
    EXPECT_EQ(from_halves[i], wide[i] & 0xffffU) << "lane " << i;
    EXPECT_EQ(from_bytes[i], wide[i] & 0xffU) << "lane " << i;
  }
}

TEST(ConvertTo, ConvertsIntegersAndFloats) {
  const auto integers = numbers<int32x16>(1 << 20);
  const auto floats = convert_to<float32x16>(integers);
  const auto truncated = convert_to<int32x16>(floats * 0.3F);
  for (std::size_t i = 0; i < lanes; ++i) {
    EXPECT_EQ(floats[i], static_cast<float>(integers[i]));
    EXPECT_EQ(truncated[i], static_cast<std::int32_t>(floats[i] * 0.3F));
  }
}

TEST(Lanes, AreTakenApartAndPutTogether) {
  const auto x = numbers<uint32x16>(0);
  const auto y = numbers<uint32x16>(1000);
  const auto swapped = join(upper_half(x), lower_half(x));
  const auto even = even_lanes(x, y);
  const auto odd = odd_lanes(x, y);
  const auto chosen = choose_of_fours<2, 6, 3, 4>(x, y);
  for (std::size_t i = 0; i < lanes; ++i) {
    EXPECT_EQ(swapped[i], x[(i + 8) % lanes]);
    const uint32x16& source = i < 8 ? x : y;
    EXPECT_EQ(even[i], source[2 * i % lanes]);
    EXPECT_EQ(odd[i], source[2 * i % lanes + 1]);
    const std::size_t four = i / 4 * 4;
    const std::array<std::uint32_t, 4> expected{x[four + 2], y[four + 2], x[four + 3], y[four]};
    EXPECT_EQ(chosen[i], expected[i % 4]) << "lane " << i;
  }
}

TEST(SquareRoot, IsCorrectlyRounded) {
  for (const float first : {0.0F, 0x1p-149F, 0x1.8p-126F, 1.0F, 1e30F}) {
    float32x16 x{};
    for (std::size_t i = 0; i < lanes; ++i) x[i] = first * (1 + 0.37F * static_cast<float>(i));
    const float32x16 root = square_root(x);
    for (std::size_t i = 0; i < lanes; ++i) {
      EXPECT_EQ(root[i], static_cast<float>(std::sqrt(static_cast<double>(x[i]))));
    }
  }
  EXPECT_TRUE(std::isnan(square_root(splat<float32x16>(-1))[3]));
  EXPECT_TRUE(std::signbit(square_root(splat<float32x16>(-0.0F))[3]));
}

}  // namespace simd_test
