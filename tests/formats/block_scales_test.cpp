// SPDX-License-Identifier: MIT
/// @file
/// Layer: tests. Scales of tiles against a loop over their elements in binary64.

#include "unit_scaling/formats/block_scales.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "formats/format_oracle.hpp"
#include "support/errors.hpp"
#include "support/threads.hpp"
#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/memory.hpp"
#include "unit_scaling/core/random.hpp"
#include "unit_scaling/formats/encoded_array.hpp"
#include "unit_scaling/formats/encoded_array_codec.hpp"
#include "unit_scaling/formats/format.hpp"
#include "unit_scaling/formats/scale_layout.hpp"

namespace block_scales_test {

using namespace unit_scaling;
using unit_scaling_test::expect_error;

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float nan = std::numeric_limits<float>::quiet_NaN();
constexpr std::size_t all = ScaleLayout::all;

ScaleLayout tiles(std::size_t rows, std::size_t columns) {
  return {ScaleFormat::power_of_two, rows, columns};
}

/// Numbers of all magnitudes, subnormal ones among them.
Array<float> numbers_of(const Shape& shape, std::uint64_t seed) {
  Array<float> result(shape);
  const Random random(seed, RandomStream::general, 0);
  for (std::size_t i = 0; i < result.size(); ++i) {
    const int exponent = static_cast<int>(random.normal(2 * i) * 30);
    result.mutable_data()[i] =
        std::ldexp(static_cast<float>(random.normal(2 * i + 1)), std::clamp(exponent, -145, 120));
  }
  return result;
}

/// The largest magnitude of each tile, NaN above infinity, element by element.
std::vector<double> largest_by_loop(const Array<float>& array, std::size_t rows,
                                    std::size_t columns, const ScaleLayout& layout) {
  const std::size_t height = std::min(layout.tile_rows, std::max<std::size_t>(rows, 1));
  const std::size_t width = std::min(layout.tile_columns, std::max<std::size_t>(columns, 1));
  const std::size_t down = layout.tile_rows == all ? 1 : (rows + height - 1) / height;
  const std::size_t across = layout.tile_columns == all ? 1 : (columns + width - 1) / width;
  std::vector<double> result(down * across, 0.0);
  for (std::size_t r = 0; r < rows; ++r) {
    for (std::size_t c = 0; c < columns; ++c) {
      double& largest = result[r / height * across + c / width];
      const double magnitude = std::fabs(static_cast<double>(array.data()[r * columns + c]));
      if (std::isnan(magnitude) || std::isnan(largest)) {
        largest = static_cast<double>(nan);
      } else {
        largest = std::max(largest, magnitude);
      }
    }
  }
  return result;
}

/// The exponent of the scale, by its definition.
int exponent_by_loop(double amax, double largest_element, ScaleRounding rounding) {
  if (amax == 0) return -127;
  int exponent = std::ilogb(amax) - std::ilogb(largest_element);
  if (rounding == ScaleRounding::round_up) {
    exponent -= 2;
    while (amax > std::ldexp(largest_element, exponent)) ++exponent;
  }
  return std::clamp(exponent, -127, 127);
}

void expect_equal(const Array<float>& actual, const std::vector<double>& expected,
                  const std::string& what) {
  ASSERT_EQ(actual.size(), expected.size()) << what;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const double got = static_cast<double>(actual.data()[i]);
    if (std::isnan(expected[i])) {
      ASSERT_TRUE(std::isnan(got)) << what << ", tile " << i;
      ASSERT_EQ(std::bit_cast<std::uint32_t>(actual.data()[i]), 0x7fc0'0000U) << what;
    } else {
      ASSERT_EQ(got, expected[i]) << what << ", tile " << i;
      ASSERT_FALSE(std::signbit(got)) << what << ", tile " << i;
    }
  }
}

struct Extents {
  std::size_t rows, columns;
};
constexpr Extents extents[] = {
    {1, 1},    {0, 5},    {5, 0},    {0, 0},    {3, 50},    {33, 70},   {64, 64},    {129, 31},
    {7, 1023}, {5, 1025}, {2, 3000}, {3000, 2}, {70, 1100}, {300, 700}, {1, 200000}, {200000, 1}};
const ScaleLayout layouts[] = {tiles(1, 32),   tiles(32, 1),   tiles(128, 128), tiles(all, all),
                               tiles(1, all),  tiles(all, 1),  tiles(1, 1),     tiles(3, 17),
                               tiles(2, 1500), tiles(1000, 5), tiles(16, all)};

TEST(LargestMagnitudes, AreThoseOfALoopForTilesOfEveryShape) {
  for (const auto [rows, columns] : extents) {
    Array<float> numbers = numbers_of(Shape{rows, columns}, 7);
    if (numbers.size() > 100) {
      numbers.mutable_data()[40] = -infinity;
      numbers.mutable_data()[numbers.size() - 1] = -nan;
      numbers.mutable_data()[71] = std::bit_cast<float>(0xff80'0001U);  // signalling
      numbers.mutable_data()[72] = infinity;
    }
    for (const ScaleLayout& layout : layouts) {
      const auto expected = largest_by_loop(numbers, rows, columns, layout);
      const std::string what =
          std::to_string(rows) + " x " + std::to_string(columns) + ", " + to_string(layout);
      for (const std::size_t threads : {1U, 4U}) {
        const unit_scaling_test::ThreadCountScope scope(threads);
        expect_equal(largest_magnitudes(EncodedArray::view(numbers), layout), expected, what);
      }
    }
  }
}

TEST(LargestMagnitudes, SeeWhatCodesAndScalesStandFor) {
  const Extents some[] = {{33, 70}, {5, 1025}, {70, 1100}};
  for (const auto [rows, columns] : some) {
    const Array<float> numbers = numbers_of(Shape{rows, columns}, 11);
    const ScaleLayout by_row = ScaleLayout::per_row(ScaleFormat::binary32);
    std::vector<float> scales(rows);
    for (std::size_t r = 0; r < rows; ++r) scales[r] = r % 3 == 0 ? -0.75F : 1e-3F;
    for (const char* const name : {"e4m3fn", "e2m1fn", "e3m2fn", "e3m3", "float16", "e5m10"}) {
      const EncodedArray codes =
          EncodedArray::encode(EncodedArray::view(numbers), Format::parse(name), by_row, scales);
      const Array<float> decoded = codes.decode();
      for (const ScaleLayout& layout : layouts) {
        expect_equal(largest_magnitudes(codes, layout),
                     largest_by_loop(decoded, rows, columns, layout), name);
      }
    }
  }
}

TEST(LargestMagnitudes, OfMoreDimensionsAreThoseOfTheMatrix) {
  const Array<float> numbers = numbers_of(Shape{2, 3, 40}, 3);
  expect_equal(largest_magnitudes(EncodedArray::view(numbers), tiles(1, 32)),
               largest_by_loop(numbers, 6, 40, tiles(1, 32)), "2 x 3 x 40");
}

TEST(LargestMagnitudes, SeeSubnormalNumbersWhereTheThreadFlushesThem) {
  const unit_scaling_test::FlushSubnormals flushing;
  Array<float> numbers(Shape{1, 64});
  std::fill_n(numbers.mutable_data(), 64, 0.0F);
  numbers.mutable_data()[40] = std::bit_cast<float>(0x8000'0003U);
  const Array<float> result = largest_magnitudes(EncodedArray::view(numbers), tiles(1, 32));
  EXPECT_EQ(std::bit_cast<std::uint32_t>(result.data()[0]), 0U);
  EXPECT_EQ(std::bit_cast<std::uint32_t>(result.data()[1]), 3U);
}

TEST(PowerOfTwoBlockScales, AreWhatTheDefinitionSaysOfTheLargestMagnitude) {
  const Extents some[] = {{33, 70}, {1, 1}, {130, 257}};
  for (const auto [rows, columns] : some) {
    const Array<float> numbers = numbers_of(Shape{rows, columns}, 5);
    for (const char* const name :
         {"e4m3fn", "e5m2", "e2m3fn", "e3m2fn", "e2m1fn", "e1m6b1finite", "float16", "float32"}) {
      const Format format = Format::parse(name);
      for (const ScaleRounding rounding : {ScaleRounding::floor, ScaleRounding::round_up}) {
        for (const ScaleLayout& layout : layouts) {
          std::vector<double> expected;
          for (const double amax : largest_by_loop(numbers, rows, columns, layout)) {
            expected.push_back(
                std::ldexp(1.0, exponent_by_loop(amax, format.spec().max_finite(), rounding)));
          }
          expect_equal(
              power_of_two_block_scales(EncodedArray::view(numbers), layout, format, rounding),
              expected, name);
        }
      }
    }
  }
}

TEST(PowerOfTwoScale, IsThatOfEveryLargestMagnitude) {
  const Format e4m3 = Format::parse("e4m3fn");
  const Format int8 = Format::parse("e1m6b1finite");
  constexpr auto floor = ScaleRounding::floor;
  constexpr auto round_up = ScaleRounding::round_up;
  for (const float bad : {infinity, -infinity, nan, -nan}) {
    EXPECT_TRUE(std::isnan(power_of_two_scale(bad, e4m3, floor)));
    EXPECT_TRUE(std::isnan(power_of_two_scale(bad, e4m3, round_up)));
  }
  EXPECT_EQ(power_of_two_scale(0.0F, e4m3, floor), 0x1p-127F);
  EXPECT_EQ(power_of_two_scale(-0.0F, e4m3, round_up), 0x1p-127F);
  EXPECT_EQ(power_of_two_scale(448.0F, e4m3, floor), 1.0F);
  EXPECT_EQ(power_of_two_scale(-449.0F, e4m3, floor), 1.0F);  // it saturates
  EXPECT_EQ(power_of_two_scale(448.0F, e4m3, round_up), 1.0F);
  EXPECT_EQ(power_of_two_scale(449.0F, e4m3, round_up), 2.0F);
  EXPECT_EQ(power_of_two_scale(std::numeric_limits<float>::max(), int8, floor), 0x1p127F);
  EXPECT_EQ(power_of_two_scale(std::numeric_limits<float>::max(), int8, round_up), 0x1p127F);
  EXPECT_EQ(power_of_two_scale(0x1p-149F, int8, round_up), 0x1p-127F);
  EXPECT_EQ(power_of_two_scale(0x1p-119F, e4m3, floor), 0x1p-127F);
  EXPECT_EQ(power_of_two_scale(0x1p-118F, e4m3, floor), 0x1p-126F);
  // Every exponent, and the numbers beside the one that just fits.
  for (int exponent = -149; exponent <= 127; ++exponent) {
    for (const float significand : {1.0F, 1.5F, 1.75F, 1.875F, 1.9921875F}) {
      const float amax = std::ldexp(significand, exponent);
      for (const float near : {std::nextafter(amax, 0.0F), amax, std::nextafter(amax, infinity)}) {
        if (!(near > 0) || near == infinity) continue;
        for (const Format& format : {e4m3, int8}) {
          for (const ScaleRounding rounding : {floor, round_up}) {
            ASSERT_EQ(power_of_two_scale(near, format, rounding),
                      std::ldexp(1.0F, exponent_by_loop(static_cast<double>(near),
                                                        format.spec().max_finite(), rounding)))
                << std::hexfloat << near;
          }
        }
      }
    }
  }
}

TEST(PowerOfTwoBlockScales, OfManyTilesAreThoseOfEachLargestMagnitude) {
  std::vector<float> magnitudes{0.0F, infinity, nan, std::numeric_limits<float>::max(), 0x1p-149F};
  for (int exponent = -149; exponent <= 127; ++exponent) {
    for (const float significand : {1.0F, 1.75F, 1.7500001F, 1.9921875F, 1.9999999F}) {
      const float magnitude = std::ldexp(significand, exponent);
      if (magnitude < infinity) magnitudes.push_back(magnitude);
    }
  }
  const Array<float> column(Shape{magnitudes.size(), 1}, std::span<const float>(magnitudes));
  for (const char* const name : {"e4m3fn", "e5m2", "e2m1fn", "e1m6b1finite", "e4m3b20"}) {
    const Format format = Format::parse(name);
    for (const ScaleRounding rounding : {ScaleRounding::floor, ScaleRounding::round_up}) {
      const Array<float> scales =
          power_of_two_block_scales(EncodedArray::view(column), tiles(1, 1), format, rounding);
      for (std::size_t i = 0; i < magnitudes.size(); ++i) {
        ASSERT_EQ(std::bit_cast<std::uint32_t>(scales.data()[i]),
                  std::bit_cast<std::uint32_t>(power_of_two_scale(magnitudes[i], format, rounding)))
            << name << ", " << std::hexfloat << magnitudes[i];
      }
    }
  }
}

TEST(PowerOfTwoBlockScales, TakeTheMemoryTheyAreGiven) {
  RecyclingResource memory;
  const Array<float> numbers = numbers_of(Shape{4, 64}, 1);
  const Array<float> scales =
      power_of_two_block_scales(EncodedArray::view(numbers), tiles(1, 32), Format::parse("e4m3fn"),
                                ScaleRounding::floor, &memory);
  EXPECT_EQ(scales.resource(), &memory);
  EXPECT_EQ(scales.shape(), Shape{8});
}

TEST(PowerOfTwoBlockScales, NameWhatTheyRefuse) {
  const EncodedArray array = EncodedArray::view(Array<float>::filled({2, 2}, 1.0F));
  expect_error<DomainError>([&] { (void)largest_magnitudes(array, {}); },
                            {"largest_magnitudes", "no scale"});
  expect_error<DomainError>([&] { (void)largest_magnitudes(array, tiles(0, 1)); },
                            {"largest_magnitudes", "at least 1 x 1", "0 x 1"});
  expect_error<DomainError>(
      [&] { (void)power_of_two_block_scales(array, tiles(1, 32), Format::parse("float64")); },
      {"power_of_two_scale", "float64"});
}

}  // namespace block_scales_test
