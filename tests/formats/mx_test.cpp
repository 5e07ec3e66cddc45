// SPDX-License-Identifier: MIT
/// @file
/// Layer: tests. The MX formats against an account in double, which tries every element of the
/// format. tests/peer_vectors/ compares them with microxcaling.

#include "unit_scaling/formats/mx.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "format_oracle.hpp"
#include "support/errors.hpp"
#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/random.hpp"
#include "unit_scaling/formats/encoded_array.hpp"
#include "unit_scaling/formats/format.hpp"
#include "unit_scaling/formats/scale_layout.hpp"

namespace mx_test {

using namespace unit_scaling;
using namespace unit_scaling_test;

constexpr float infinity = std::numeric_limits<float>::infinity();

/// An element format, written down by hand: its magnitudes, in ascending order of their codes.
struct Elements {
  std::string name;
  Format format;
  std::vector<double> magnitudes;

  [[nodiscard]] double max() const { return magnitudes.back(); }

  /// The element for a number, which saturates.
  [[nodiscard]] double round(double number, Rounding rounding) const {
    const bool is_negative = std::signbit(number);
    const double magnitude = std::fabs(number);
    std::size_t lower = 0;
    for (std::size_t i = 0; i < magnitudes.size(); ++i) {
      if (magnitudes[i] <= magnitude) lower = i;
    }
    const std::size_t upper = std::min(lower + 1, magnitudes.size() - 1);
    const double to_lower = magnitude - magnitudes[lower];
    const double to_upper = magnitudes[upper] - magnitude;
    bool goes_up = false;
    switch (rounding) {
      case Rounding::nearest_even:
        goes_up = to_upper < to_lower || (to_upper == to_lower && upper % 2 == 0);
        break;
      case Rounding::nearest_away:
        goes_up = to_upper <= to_lower;
        break;
      case Rounding::toward_positive:
        goes_up = !is_negative && to_lower > 0;
        break;
      case Rounding::toward_negative:
        goes_up = is_negative && to_lower > 0;
        break;
      case Rounding::toward_zero:
      case Rounding::stochastic:
        break;
    }
    const double result = magnitudes[goes_up ? upper : lower];
    return is_negative ? -result : result;
  }
};

Elements elements_of(const Layout& layout) {
  const FormatOracle oracle(layout);
  Elements result{layout.name, Format::parse(layout.name), {}};
  for (std::uint32_t code = 0; code <= oracle.max_code(); ++code) {
    result.magnitudes.push_back(oracle.value(code));
  }
  return result;
}

const std::vector<Elements>& element_formats() {
  static const std::vector<Elements> all = [] {
    std::vector<Elements> result;
    for (const Layout& layout :
         std::vector<Layout>{{"float8_e4m3fn", 4, 3, 7, UpperEnd::one_nan},
                             {"float8_e5m2", 5, 2, 15, UpperEnd::infinity_and_nan},
                             {"float6_e2m3fn", 2, 3, 1, UpperEnd::finite},
                             {"float6_e3m2fn", 3, 2, 3, UpperEnd::finite},
                             {"float4_e2m1fn", 2, 1, 1, UpperEnd::finite}}) {
      result.push_back(elements_of(layout));
    }
    Elements int8{"int8", mx_int8(), {}};
    for (int n = 0; n <= 127; ++n) int8.magnitudes.push_back(n / 64.0);
    result.push_back(int8);
    return result;
  }();
  return all;
}

/// What encoding and decoding a block should give.
struct ExpectedBlock {
  int scale_code = 255;  ///< 255 is NaN.
  std::vector<float> numbers;
};

int scale_exponent(double amax, const Elements& elements, ScaleRounding rounding) {
  int exponent = -127;
  if (rounding == ScaleRounding::floor) {
    if (amax > 0) exponent = std::ilogb(amax) - std::ilogb(elements.max());
  } else {
    while (exponent < 127 && amax > std::ldexp(elements.max(), exponent)) ++exponent;
  }
  return std::clamp(exponent, -127, 127);
}

ExpectedBlock expected_block(std::span<const float> in, const Elements& elements,
                             ScaleRounding scale_rounding, Rounding rounding) {
  ExpectedBlock result;
  double amax = 0;
  for (const float number : in) {
    if (!std::isfinite(number)) {
      result.numbers.assign(in.size(), std::numeric_limits<float>::quiet_NaN());
      return result;
    }
    amax = std::max(amax, std::fabs(static_cast<double>(number)));
  }
  const int exponent = scale_exponent(amax, elements, scale_rounding);
  result.scale_code = exponent + 127;
  for (const float number : in) {
    // Quotients are numbers of binary32: tiny ones are rounded to a multiple of 2^-149.
    const auto scaled = static_cast<float>(std::ldexp(static_cast<double>(number), -exponent));
    const double element = elements.round(static_cast<double>(scaled), rounding);
    result.numbers.push_back(static_cast<float>(std::ldexp(element, exponent)));
  }
  return result;
}

/// Equal to the bit, but for the payload and sign of NaNs.
::testing::AssertionResult same_bits(float actual, float expected) {
  if (std::isnan(actual) && std::isnan(expected)) return ::testing::AssertionSuccess();
  if (std::bit_cast<std::uint32_t>(actual) == std::bit_cast<std::uint32_t>(expected)) {
    return ::testing::AssertionSuccess();
  }
  return ::testing::AssertionFailure()
         << std::hexfloat << actual << " where " << expected << " was expected";
}

EncodedArray view_of(std::span<const float> numbers, std::size_t rows, std::size_t columns) {
  return EncodedArray::view(Array<float>(Shape{rows, columns}, numbers));
}

/// Encodes, decodes and compares with the oracle. `flush` makes the processor flush subnormal
/// numbers meanwhile.
void check(std::span<const float> in, std::size_t rows, std::size_t columns,
           const Elements& elements, std::size_t block_size = 32,
           ScaleRounding scale_rounding = ScaleRounding::floor,
           Rounding rounding = Rounding::nearest_even, bool flush = false) {
  const EncodedArray source = view_of(in, rows, columns);
  EncodedArray array;
  Array<float> decoded;
  const auto convert = [&] {
    array = encode_mx(source, elements.format,
                      ScaleLayout::per_block_of_columns(ScaleFormat::power_of_two, block_size),
                      scale_rounding, {.rounding = rounding});
    decoded = array.decode();
  };
  if (flush) {
    const FlushSubnormals flushing;
    convert();
  } else {
    convert();
  }
  std::size_t block = 0;
  for (std::size_t row = 0; row < rows; ++row) {
    for (std::size_t column = 0; column < columns; column += block_size, ++block) {
      const std::size_t first = row * columns + column;
      const std::size_t count = std::min(block_size, columns - column);
      const ExpectedBlock expected =
          expected_block(in.subspan(first, count), elements, scale_rounding, rounding);
      ASSERT_LT(block, array.scale_count());
      ASSERT_EQ(array.scale_codes()[block], expected.scale_code)
          << elements.name << ", block " << block << " of " << rows << " by " << columns;
      for (std::size_t i = 0; i < count; ++i) {
        ASSERT_TRUE(same_bits(decoded.data()[first + i], expected.numbers[i]))
            << elements.name << ", element " << first + i << ", which is " << std::hexfloat
            << in[first + i];
      }
    }
  }
  EXPECT_EQ(block, array.scale_count());
}

/// Floats with exponents, as of powers of two, from `lowest` to `highest`, both signs; below -126
/// they are subnormal.
std::vector<float> random_floats(RandomBits& random, std::size_t count, int lowest, int highest) {
  std::vector<float> result;
  for (std::size_t i = 0; i < count; ++i) {
    const int exponent =
        lowest + static_cast<int>((random() >> 8) % static_cast<unsigned>(highest - lowest + 1));
    const double fraction = 1 + (random() >> 9) * 0x1p-23;
    const auto number = static_cast<float>(std::ldexp(fraction, exponent));
    result.push_back((random() >> 16) % 2 == 0 ? number : -number);
  }
  return result;
}

const std::vector<Rounding> deterministic_modes{Rounding::nearest_even, Rounding::nearest_away,
                                                Rounding::toward_zero, Rounding::toward_positive,
                                                Rounding::toward_negative};

TEST(Mx, AgreesWithTheOracleWhateverTheSize) {
  RandomBits random;
  for (const Elements& elements : element_formats()) {
    for (const std::size_t columns : {0U, 1U, 31U, 32U, 33U, 50U, 96U, 100U, 1100U}) {
      for (const std::size_t rows : {0U, 1U, 3U}) {
        check(random_floats(random, rows * columns, -6, 1), rows, columns, elements);
      }
    }
  }
}

TEST(Mx, AgreesWithTheOracleInBlocksOfOtherSizes) {
  RandomBits random;
  for (const Elements& elements : element_formats()) {
    for (const std::size_t columns : {1U, 15U, 16U, 17U, 50U, 130U}) {
      for (const std::size_t block_size : {1U, 5U, 16U, 128U}) {
        check(random_floats(random, 2 * columns, -10, 10), 2, columns, elements, block_size);
      }
    }
  }
}

TEST(Mx, AgreesWithTheOracleInEveryModeAndRange) {
  RandomBits random;
  const std::vector<std::pair<int, int>> ranges{{-8, 2},      {-30, 20},    {-126, 127},
                                                {-149, 127},  {-149, -120}, {-149, -145},
                                                {-130, -110}, {100, 127},   {126, 127}};
  for (const Elements& elements : element_formats()) {
    for (const auto& [lowest, highest] : ranges) {
      for (const auto scale_rounding : {ScaleRounding::floor, ScaleRounding::round_up}) {
        for (const Rounding rounding : deterministic_modes) {
          const auto in = random_floats(random, 4 * 50, lowest, highest);
          for (const bool flush : {false, true}) {
            check(in, 4, 50, elements, 32, scale_rounding, rounding, flush);
          }
        }
      }
    }
  }
}

TEST(Mx, AgreesWithTheOracleAtEveryElementAndTie) {
  for (const Elements& elements : element_formats()) {
    const auto& magnitudes = elements.magnitudes;
    for (const int exponent : {-127, -120, -40, 0, 40, 111}) {
      std::vector<float> in;
      for (std::size_t i = 0; i < magnitudes.size(); ++i) {
        const double next = i + 1 < magnitudes.size() ? magnitudes[i + 1] : 2 * magnitudes[i];
        for (const double number : {magnitudes[i], (magnitudes[i] + next) / 2}) {
          const auto scaled = static_cast<float>(std::ldexp(number, exponent));
          for (const float near :
               {std::nextafter(scaled, 0.0F), scaled, std::nextafter(scaled, infinity)}) {
            // With the largest number as company, so that the scale is 2^exponent.
            const auto largest = static_cast<float>(std::ldexp(magnitudes.back(), exponent));
            if (near > largest) continue;
            for (const float number_of_block : {near, -near, largest, -largest}) {
              in.push_back(number_of_block);
            }
          }
        }
      }
      for (const Rounding rounding : deterministic_modes) {
        check(in, 1, in.size(), elements, 4, ScaleRounding::floor, rounding);
      }
    }
  }
}

TEST(Mx, ANumberThatIsNotFiniteMakesItsBlockNanAndNoOther) {
  RandomBits random;
  std::vector<float> special{infinity, -infinity};
  for (const std::uint32_t bits : nan_bits()) special.push_back(std::bit_cast<float>(bits));
  for (const Elements& elements : element_formats()) {
    for (const float number : special) {
      for (const std::size_t position : {32U, 47U, 63U}) {
        auto in = random_floats(random, 70, -5, 5);
        in[position] = number;
        check(in, 1, 70, elements);
        const EncodedArray array = encode_mx(view_of(in, 1, 70), elements.format);
        EXPECT_NE(array.scale_codes()[0], 255);
        EXPECT_EQ(array.scale_codes()[1], 255);
        EXPECT_NE(array.scale_codes()[2], 255);
      }
    }
  }
}

TEST(Mx, ABlockOfZerosHasTheSmallestScaleAndKeepsTheirSigns) {
  for (const Elements& elements : element_formats()) {
    for (const auto scale_rounding : {ScaleRounding::floor, ScaleRounding::round_up}) {
      const EncodedArray array = encode_mx(view_of(std::vector<float>{0.0F, -0.0F, 0.0F}, 1, 3),
                                           elements.format, mx_blocks, scale_rounding);
      EXPECT_EQ(array.scale_codes()[0], 0);
      const Array<float> out = array.decode();
      EXPECT_TRUE(same_bits(out.data()[0], 0.0F));
      EXPECT_TRUE(same_bits(out.data()[1], -0.0F));
      EXPECT_TRUE(same_bits(out.data()[2], 0.0F));
    }
  }
}

TEST(Mx, FloorSaturatesAndRoundUpDoesNotJustBelowAPowerOfTwo) {
  // 1.998 is beyond the largest significand of every element format, that of INT8 is 127/64.
  const EncodedArray number = view_of(std::vector<float>{1.998F}, 1, 1);
  for (const Elements& elements : element_formats()) {
    const double max = elements.max();
    EXPECT_EQ(static_cast<double>(encode_mx(number, elements.format).decode().data()[0]),
              max / std::exp2(std::ilogb(max)));
    EXPECT_EQ(
        encode_mx(number, elements.format, mx_blocks, ScaleRounding::round_up).decode().data()[0],
        2.0F);
  }
}

TEST(Mx, StochasticRoundingTakesTheWordOfEachElement) {
  RandomBits bits;
  const auto in = random_floats(bits, 5 * 77, -7, 0);
  const StochasticRounding random(Random(3), 16);
  for (const Elements& elements : element_formats()) {
    const EncodedArray array =
        encode_mx(view_of(in, 5, 77), elements.format, mx_blocks, ScaleRounding::floor,
                  {.rounding = Rounding::stochastic, .random = random});
    const Array<float> codes = array.without_scales().decode();
    for (std::size_t i = 0; i < in.size(); ++i) {
      const float scaled = in[i] / array.scale_of(i / 77, i % 77);
      const float actual = codes.data()[i];
      if (elements.name == "int8") {
        // With 16 bits, the fraction plus the random one carries or not.
        const double units =
            std::fabs(static_cast<double>(scaled)) * 64 + (random.word(i) >> 16) * 0x1p-16;
        const double expected = std::min(std::floor(units + 0x1p-17), 127.0) / 64;
        EXPECT_EQ(std::fabs(static_cast<double>(actual)), expected) << scaled;
      } else {
        EXPECT_EQ(actual, elements.format.quantise(scaled, Overflow::saturate, Rounding::stochastic,
                                                   random.word(i)))
            << scaled;
      }
    }
  }
}

TEST(Mx, TakesTheBitsThatTheSpecificationSays) {
  const EncodedArray array = view_of(std::vector<float>(4 * 64, 1.0F), 4, 64);
  const auto bytes = [&](const Format& format) { return encode_mx(array, format).bytes(); };
  EXPECT_EQ(bytes(Format::parse("float8_e4m3fn")), 4U * 64U + 8U);
  EXPECT_EQ(bytes(Format::parse("float8_e5m2")), 4U * 64U + 8U);
  EXPECT_EQ(bytes(mx_int8()), 4U * 64U + 8U);
  EXPECT_EQ(bytes(Format::parse("float6_e2m3fn")), 4U * 48U + 8U);
  EXPECT_EQ(bytes(Format::parse("float6_e3m2fn")), 4U * 48U + 8U);
  EXPECT_EQ(bytes(Format::parse("float4_e2m1fn")), 4U * 32U + 8U);
}

TEST(Mx, HasTheLargestElementsOfTheSpecification) {
  // 3e38 is 1.76 times 2^127. OCP MX 1.0, section 5.3.
  const EncodedArray array = view_of(std::vector<float>{3e38F, -3e38F}, 1, 2);
  const auto element_of_3e38 = [&](const Format& format) {
    return encode_mx(array, format, mx_blocks, ScaleRounding::floor,
                     {.rounding = Rounding::toward_zero})
        .without_scales()
        .decode()
        .data()[1];
  };
  EXPECT_EQ(element_of_3e38(Format::parse("float8_e4m3fn")), -448.0F);
  EXPECT_EQ(element_of_3e38(Format::parse("float8_e5m2")), -57344.0F);
  EXPECT_EQ(element_of_3e38(Format::parse("float6_e2m3fn")), -7.0F);
  EXPECT_EQ(element_of_3e38(Format::parse("float6_e3m2fn")), -28.0F);
  EXPECT_EQ(element_of_3e38(Format::parse("float4_e2m1fn")), -6.0F);
  EXPECT_EQ(element_of_3e38(mx_int8()), -112.0F / 64.0F);
}

TEST(Mx, ElementInt8IsSignAndMagnitudeInSixtyFourths) {
  std::vector<std::uint8_t> codes(256);
  for (unsigned code = 0; code < 256; ++code) codes[code] = static_cast<std::uint8_t>(code);
  std::vector<float> numbers(256);
  mx_int8().decode(codes, numbers);
  for (unsigned code = 0; code < 256; ++code) {
    const float magnitude = static_cast<float>(code % 128) / 64.0F;
    EXPECT_TRUE(same_bits(numbers[code], code < 128 ? magnitude : -magnitude)) << code;
  }
}

TEST(Mx, NamesWhatItRefuses) {
  const EncodedArray array = view_of(std::vector<float>(4, 1.0F), 2, 2);
  const Format format = Format::parse("e4m3fn");
  expect_domain_error(
      [&] { (void)encode_mx(array, format, mx_blocks, ScaleRounding::floor, {.scale = 2}); },
      {"encode_mx", "a factor of 1", "got 2"});
  expect_domain_error([&] { (void)encode_mx(array, format, {}); }, {"no scale"});
  EXPECT_THROW((void)encode_mx(array, format, mx_blocks, ScaleRounding::floor,
                               {.rounding = Rounding::stochastic}),
               std::invalid_argument);
}

}  // namespace mx_test
