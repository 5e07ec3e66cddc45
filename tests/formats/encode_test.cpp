// SPDX-License-Identifier: MIT
#include "unit_scaling/formats/encode.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <stdexcept>
#include <vector>

#include "number_format.hpp"
#include "rounding_modes.hpp"
#include "support/errors.hpp"
#include "support/threads.hpp"

namespace encode_test {

using namespace unit_scaling;
using namespace unit_scaling_test;

EncodeOptions options_of(Rounding rounding, Overflow overflow, float scale) {
  return {.overflow = overflow,
          .rounding = rounding,
          .scale = scale,
          .random = StochasticRounding(Random(3, RandomStream::rounding)),
          .first_element = 9};
}

/// Numbers that are finite, and some that are not, and a length that fills no vector.
std::vector<float> mixed_numbers(const FormatOracle& oracle) {
  std::vector<float> numbers = critical_floats(oracle);
  for (const std::uint32_t bits : nan_bits()) numbers.push_back(std::bit_cast<float>(bits));
  while (numbers.size() % 16 != 13) numbers.push_back(0.3F);
  return numbers;
}

FORMAT_TEST_SUITE(Encode, signed_formats())

// The statistics again, by counting over single conversions. A number has overflowed if the format
// without an upper end has a number further out for it: without an infinity to go to, which the
// result shows, it is one that differs between the two overflow modes, or in a finite format one
// that the format of one more exponent bit would place beyond the largest number.
FORMAT_TEST(Encode, CountsWhatBecameOfTheNumbers) {
  const FormatOracle& oracle = format.oracle();
  const std::vector<float> numbers = mixed_numbers(oracle);
  const double largest = oracle.max_finite();
  const double next = oracle.value(oracle.max_code() + 1U);
  for (const Rounding rounding : all_modes) {
    for (const float scale : {1.0F, 0x1p-3F, 0x1p40F, 0x1p-120F}) {
      const EncodeOptions options = options_of(rounding, Overflow::saturate, scale);
      Numbers codes;
      const EncodeStatistics statistics = format.encode_with_statistics(numbers, codes, options);
      EncodeStatistics expected{.count = numbers.size()};
      for (std::size_t i = 0; i < numbers.size(); ++i) {
        const float value = numbers[i] * scale;
        const std::uint32_t word = options.random->word(options.first_element + i);
        ASSERT_EQ(codes[i].bits(),
                  format.from_float(value, Overflow::saturate, rounding, word).bits());
        if (!std::isfinite(numbers[i])) {
          ++expected.non_finite;
          continue;
        }
        const double magnitude = std::fabs(static_cast<double>(value));
        expected.max_magnitude = std::max(expected.max_magnitude, std::fabs(numbers[i]));
        const bool away =
            rounding == (value < 0 ? Rounding::toward_negative : Rounding::toward_positive);
        double limit = next;  // of truncation
        if (away) limit = std::nextafter(largest, next);
        const double middle = largest / 2 + next / 2;
        const bool max_is_even = oracle.max_code() % 2U == 0U;
        if (rounding == Rounding::nearest_away) limit = middle;
        if (rounding == Rounding::nearest_even) {
          limit = max_is_even ? std::nextafter(middle, next) : middle;
        }
        if (rounding == Rounding::stochastic) {
          const double up = std::floor((magnitude - largest) / (next - largest) * 65536 + 0.5);
          limit = magnitude < next && magnitude > largest && 65536 - up <= (word >> 16) ? magnitude
                                                                                        : next;
        }
        expected.overflowed += magnitude >= limit ? 1U : 0U;
        const bool is_zero = static_cast<double>(codes[i]) == 0;
        expected.underflowed += is_zero && numbers[i] != 0 ? 1U : 0U;
      }
      EXPECT_EQ(statistics, expected) << static_cast<int>(rounding);
    }
  }
}

FORMAT_TEST(Encode, MultipliesByTheScaleFirst) {
  const std::vector<float> numbers = mixed_numbers(format.oracle());
  for (const Overflow overflow : {Overflow::saturate, Overflow::infinity_or_nan}) {
    const Numbers codes =
        format.encode(numbers, options_of(Rounding::nearest_even, overflow, 0.7F));
    for (std::size_t i = 0; i < numbers.size(); ++i) {
      ASSERT_EQ(codes[i].bits(), format.from_float(numbers[i] * 0.7F, overflow).bits())
          << numbers[i];
    }
  }
}

TEST(EncodeScale, ThatTakesANumberBeyondBinary32Overflows) {
  const std::vector<float> numbers{3e38F, 1e-30F, -3e38F, 1};
  std::vector<float8_e5m2> codes(numbers.size());
  const EncodeStatistics above =
      encode_with_statistics(std::span<const float>(numbers), std::span(codes), {.scale = 4});
  EXPECT_EQ(
      above,
      (EncodeStatistics{
          .count = 4, .non_finite = 0, .overflowed = 2, .underflowed = 1, .max_magnitude = 3e38F}));
  const EncodeStatistics below =
      encode_with_statistics(std::span<const float>(numbers), std::span(codes), {.scale = 1e-20F});
  EXPECT_EQ(below.underflowed, 2U);
}

TEST(EncodeStatistics, SeeSubnormalNumbersWhereTheProcessorDoesNot) {
  const std::vector<float> numbers(35, 0x1p-127F);
  std::vector<float8_e4m3fn> codes(numbers.size());
  const FlushSubnormals flush;
  const EncodeStatistics statistics =
      encode_with_statistics(std::span<const float>(numbers), std::span(codes));
  EXPECT_EQ(statistics.underflowed, numbers.size());
  EXPECT_EQ(std::bit_cast<std::uint32_t>(statistics.max_magnitude), 0x0040'0000U);
}

TEST(EncodeThreads, CountChangesNoBitAndNoStatistic) {
  std::vector<float> numbers(200'003);
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    numbers[i] = 300 * static_cast<float>(Random(1).normal(i));
  }
  for (const Rounding rounding : all_modes) {
    std::vector<float8_e4m3fn> one(numbers.size());
    std::vector<float8_e4m3fn> two(numbers.size());
    const EncodeOptions options = options_of(rounding, Overflow::saturate, 1);
    const EncodeStatistics expected =
        encode_with_statistics(std::span<const float>(numbers), std::span(one), options);
    const ThreadCountScope threads(2);
    EXPECT_EQ(encode_with_statistics(std::span<const float>(numbers), std::span(two), options),
              expected);
    EXPECT_TRUE(std::equal(one.begin(), one.end(), two.begin()));
  }
}

TEST(EncodeOfNothing, CountsNothing) {
  const std::span<const float> none;
  EXPECT_EQ(encode_with_statistics(none, std::span<float8_e4m3fn>()), EncodeStatistics{});
}

TEST(EncodeErrors, NameTheSizes) {
  const std::vector<float> numbers(3);
  std::vector<float8_e4m3fn> codes(4);
  expect_error<std::invalid_argument>(
      [&] { encode(std::span<const float>(numbers), std::span(codes), EncodeOptions{}); },
      {"encode", "3", "4"});
}

}  // namespace encode_test
