// SPDX-License-Identifier: MIT
#include "unit_scaling/formats/format.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <set>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "number_format.hpp"
#include "rounding_modes.hpp"
#include "support/errors.hpp"

namespace format_test {

using namespace unit_scaling;
using namespace unit_scaling_test;

bool same_bits(float a, float b) {
  return std::bit_cast<std::uint32_t>(a) == std::bit_cast<std::uint32_t>(b);
}

FORMAT_TEST_SUITE(FormatOf, signed_formats())

FORMAT_TEST(FormatOf, GivesTheBitsOfTheStorageType) {
  const Format at_run_time = Format::parse(format.name());
  EXPECT_EQ(at_run_time.spec(), format.spec());
  std::vector<float> numbers = critical_floats(format.oracle());
  for (const std::uint32_t bits : nan_bits()) numbers.push_back(std::bit_cast<float>(bits));
  std::vector<float> quantised(numbers.size());
  std::vector<std::uint8_t> bytes(at_run_time.code_bytes(numbers.size()));
  std::vector<float> decoded(numbers.size());
  const auto stream_bits =
      static_cast<std::size_t>(format.spec().bits() > 8 ? 16 : format.spec().bits());
  const StochasticRounding random(Random(5, RandomStream::rounding), 20);
  for (const Rounding rounding : all_modes) {
    for (const Overflow overflow : {Overflow::saturate, Overflow::infinity_or_nan}) {
      const EncodeOptions options{.overflow = overflow, .rounding = rounding, .random = random};
      at_run_time.quantise(numbers, quantised, options);
      at_run_time.encode(numbers, bytes, options);
      at_run_time.decode(bytes, decoded);
      for (std::size_t i = 0; i < numbers.size(); ++i) {
        const Number expected = format.from_float(numbers[i], overflow, rounding, random.word(i));
        std::uint32_t code = 0;
        for (std::size_t j = 0; j < stream_bits; ++j) {
          const std::size_t k = i * stream_bits + j;
          code |= ((bytes[k / 8] >> (k % 8)) & 1U) << j;
        }
        ASSERT_EQ(code, expected.bits()) << numbers[i];
        ASSERT_TRUE(same_bits(decoded[i], static_cast<float>(expected))) << numbers[i];
      }
      for (std::size_t i = 0; i < numbers.size(); ++i) {
        const auto expected =
            static_cast<float>(format.from_float(numbers[i], overflow, rounding, random.word(i)));
        ASSERT_TRUE(same_bits(quantised[i], expected)) << numbers[i];
        ASSERT_TRUE(same_bits(at_run_time.quantise(numbers[i], overflow, rounding, random.word(i)),
                              expected))
            << numbers[i];
      }
    }
  }
}

/// Largest number of a format by the formula of its layout.
double largest_number(const FormatSpec& spec) {
  const std::uint32_t magnitudes = 1U << (spec.exponent_bits + spec.mantissa_bits);
  std::uint32_t code = magnitudes - 1;
  if (spec.specials == Specials::fn) --code;
  if (spec.specials == Specials::ieee) code -= 1U << spec.mantissa_bits;
  const auto field = static_cast<int>(code >> spec.mantissa_bits);
  const std::uint32_t unit = 1U << spec.mantissa_bits;
  const std::uint32_t fraction = code & (unit - 1);
  return field == 0 ? std::ldexp(fraction, 1 - spec.bias - spec.mantissa_bits)
                    : std::ldexp(unit + fraction, field - spec.bias - spec.mantissa_bits);
}

/// Distance of the numbers about `number` in a format.
double unit_at(const FormatSpec& spec, double number) {
  const int lowest = 1 - spec.bias;
  const int exponent = number == 0 ? lowest : std::max(std::ilogb(number), lowest);
  return std::ldexp(1.0, exponent - spec.mantissa_bits);
}

/// The number in a format without an upper end, by the rounding of binary64 to integers: exact,
/// since the number divided by a power of two is a binary64 number. Without a fraction, the bias
/// decides which numbers have even codes.
double rounded_to_units(const FormatSpec& spec, double number, double unit, Rounding rounding) {
  const double ratio = number / unit;
  double rounded = 0;
  switch (rounding) {
    case Rounding::toward_zero:
      rounded = std::trunc(ratio);
      break;
    case Rounding::toward_positive:
      rounded = std::ceil(ratio);
      break;
    case Rounding::nearest_away:
      rounded = std::round(ratio);
      break;
    default:
      rounded = std::nearbyint(ratio);
      if (spec.mantissa_bits == 0 && std::fabs(ratio) == 1.5) {
        rounded = (std::ilogb(unit) + spec.bias) % 2 == 0 ? 1 : 2;
        rounded = std::copysign(rounded, number);
      }
  }
  return rounded * unit;
}

/// What becomes of such a number, to which `number` was rounded, in the format.
double within_range(const FormatSpec& spec, double largest, double number, double value,
                    Rounding rounding, Overflow overflow) {
  if (value == 0) return spec.specials == Specials::fnuz ? 0 : std::copysign(0.0, number);
  if (std::fabs(value) <= largest) return value;
  const bool keeps_finite =
      rounding == Rounding::toward_zero || (rounding == Rounding::toward_positive && number < 0);
  if (overflow == Overflow::saturate || spec.specials == Specials::finite || keeps_finite) {
    return std::copysign(largest, number);
  }
  return spec.specials == Specials::ieee ? std::copysign(HUGE_VAL, number) : NAN;
}

TEST(Format, RoundsToAnyNumberOfBits) {
  std::vector<float> numbers;
  for (std::uint32_t bits = 0; bits < 0x7f80'0000U; bits += 1'048'573U) {
    for (const std::uint32_t near :
         {bits, bits & 0xffc0'0000U, bits & 0xffff'f000U, bits | 0xfffU}) {
      numbers.push_back(std::bit_cast<float>(near & 0x7f7f'ffffU));
      numbers.push_back(-numbers.back());
    }
  }
  std::vector<float> quantised(numbers.size());
  std::vector<double> units(numbers.size());
  std::vector<double> values(numbers.size());
  std::size_t formats = 0;
  const auto check = [&](const FormatSpec& spec) {
    if (!spec.is_within_binary32()) return;
    ++formats;
    const Format format(spec);
    const double largest = largest_number(spec);
    for (std::size_t i = 0; i < numbers.size(); ++i) {
      units[i] = unit_at(spec, static_cast<double>(numbers[i]));
    }
    for (const Rounding rounding : {Rounding::nearest_even, Rounding::nearest_away,
                                    Rounding::toward_zero, Rounding::toward_positive}) {
      for (std::size_t i = 0; i < numbers.size(); ++i) {
        values[i] = rounded_to_units(spec, static_cast<double>(numbers[i]), units[i], rounding);
      }
      for (const Overflow overflow : {Overflow::saturate, Overflow::infinity_or_nan}) {
        format.quantise(numbers, quantised, {.overflow = overflow, .rounding = rounding});
        for (std::size_t i = 0; i < numbers.size(); ++i) {
          const double expected = within_range(spec, largest, static_cast<double>(numbers[i]),
                                               values[i], rounding, overflow);
          const auto actual = static_cast<double>(quantised[i]);
          ASSERT_TRUE(std::isnan(expected)
                          ? std::isnan(actual)
                          : actual == expected && std::signbit(actual) == std::signbit(expected))
              << numbers[i] << " is " << actual << " instead of " << expected << " in e"
              << spec.exponent_bits << "m" << spec.mantissa_bits << "b" << spec.bias << ", "
              << static_cast<int>(spec.specials) << ", mode " << static_cast<int>(rounding);
          ASSERT_TRUE(same_bits(format.quantise(numbers[i], overflow, rounding), quantised[i]) ||
                      std::isnan(actual));
        }
      }
    }
  };
  for (int exponent_bits = 1; exponent_bits <= 8; ++exponent_bits) {
    for (int mantissa_bits = 0; mantissa_bits <= 23; ++mantissa_bits) {
      check(FormatSpec::ieee(exponent_bits, mantissa_bits));
      check(FormatSpec::fn(exponent_bits, mantissa_bits));
      check(FormatSpec::fnuz(exponent_bits, mantissa_bits));
      check(FormatSpec::finite(exponent_bits, mantissa_bits));
      check(FormatSpec::fnuz(exponent_bits, mantissa_bits, 11));
    }
  }
  EXPECT_GT(formats, 500U);
}

TEST(Format, OfBinary32ChangesNothing) {
  for (const char* name : {"float32", "float64"}) {
    const Format format = Format::parse(name);
    const std::vector<float> numbers{-0.0F, 1.1F, 0x1p-149F, HUGE_VALF, -HUGE_VALF, 3e38F};
    std::vector<std::uint8_t> codes(format.code_bytes(numbers.size()));
    EXPECT_EQ(codes.size(), numbers.size() * (name == std::string("float32") ? 4 : 8));
    std::vector<float> back(numbers.size());
    format.encode(numbers, codes, {.rounding = Rounding::toward_zero});
    format.decode(codes, back);
    for (std::size_t i = 0; i < numbers.size(); ++i) EXPECT_TRUE(same_bits(back[i], numbers[i]));
    format.quantise(numbers, back);
    for (std::size_t i = 0; i < numbers.size(); ++i) EXPECT_TRUE(same_bits(back[i], numbers[i]));
  }
  const Format format = Format::parse("float32");
  for (const float number : {0.0F, -0.0F, 1.1F, 0x1p-149F, std::numeric_limits<float>::max(),
                             std::numeric_limits<float>::infinity()}) {
    for (const Rounding rounding : all_modes) {
      EXPECT_TRUE(same_bits(format.quantise(number, Overflow::infinity_or_nan, rounding), number));
    }
  }
}

TEST(Format, IsKnownByTheNamesOfTheField) {
  EXPECT_EQ(Format::parse("e4m3fn").spec(), float8_e4m3fn::format);
  EXPECT_EQ(Format::parse("float8_e4m3b11fnuz").spec(), float8_e4m3b11fnuz::format);
  EXPECT_EQ(Format::parse("e8m0fnu").spec(), float8_e8m0fnu::format);
  EXPECT_EQ(Format::parse("float4_e2m1fn").spec(), float4_e2m1fn::format);
  EXPECT_EQ(Format::parse("e3m12").spec(), FormatSpec::ieee(3, 12));
  for (const char* name :
       {"", "e4", "m3", "e4m3x", "float9_e4m3", "e9m3", "e4m24", "float8e4m3", "e0m3", "e8m0",
        "e4m3fnu", "e4m3b200fn", "e4m3b-9", "float0_e4m3fn", "e04m3fn"}) {
    expect_error<std::invalid_argument>([&] { static_cast<void>(Format::parse(name)); }, {"ormat"});
  }
}

TEST(Format, OfIntegersHasAllOfThemAndNothingElse) {
  for (int bits = 2; bits <= 8; ++bits) {
    const Format format = Format::parse("int" + std::to_string(bits));
    EXPECT_EQ(to_string(format), "int" + std::to_string(bits));
    EXPECT_EQ(format.storage_bits(), static_cast<std::size_t>(bits));
    const int largest = (1 << (bits - 1)) - 1;
    const std::size_t codes = std::size_t{1} << bits;
    // One code in each byte, or a stream of them.
    std::vector<std::uint8_t> stream;
    if (bits == 8) {
      for (std::size_t code = 0; code < codes; ++code) {
        stream.push_back(static_cast<std::uint8_t>(code));
      }
    } else {
      std::vector<float> numbers;
      for (const int sign : {1, -1}) {
        for (int i = 0; i <= largest; ++i) {
          numbers.push_back(static_cast<float>(sign) * static_cast<float>(i));
        }
      }
      stream.resize(format.code_bytes(codes));
      format.encode(numbers, stream);
    }
    std::vector<float> numbers(codes);
    format.decode(stream, numbers);
    for (int i = 0; i <= largest; ++i) {
      const auto at = static_cast<std::size_t>(i);
      EXPECT_EQ(numbers[at], static_cast<float>(i)) << bits;
      EXPECT_EQ(numbers[at + codes / 2], static_cast<float>(-i)) << bits;
    }
    // Everything rounds to the nearest of them, to the even one of two, and saturates.
    for (int i = -4 * 2 * largest; i <= 4 * 2 * largest; ++i) {
      const float number = static_cast<float>(i) / 4;
      const float expected = std::clamp(std::nearbyint(number), -static_cast<float>(largest),
                                        static_cast<float>(largest));
      EXPECT_EQ(format.quantise(number, Overflow::saturate), expected) << bits << " " << number;
    }
    EXPECT_EQ(format.quantise(HUGE_VALF, Overflow::saturate), static_cast<float>(largest));
    EXPECT_EQ(format.quantise(-HUGE_VALF, Overflow::saturate), -static_cast<float>(largest));
    // There is no NaN.
    EXPECT_TRUE(same_bits(format.quantise(std::nanf(""), Overflow::saturate), -0.0F));
    // There is no smaller number than 1.
    EXPECT_TRUE(same_bits(format.quantise(-0x1p-149F, Overflow::saturate), -0.0F));
    EXPECT_TRUE(FormatSpec::integer(bits).is_integer());
  }
  EXPECT_FALSE(float8_e4m3fn::format.is_integer());
  EXPECT_FALSE(FormatSpec::finite(1, 6).is_integer());
  for (const char* name :
       {"int", "int1", "int0", "int9", "int16", "int08", "int-8", "int8x", "int8_e1m6"}) {
    expect_error<std::invalid_argument>([&] { static_cast<void>(Format::parse(name)); },
                                        {std::string("'") + name + "'", "int2 to int8"});
  }
}

TEST(Format, HasANameOfItsOwnThatItIsKnownBy) {
  EXPECT_EQ(to_string(Format::of<float8_e4m3fn>()), "float8_e4m3fn");
  EXPECT_EQ(to_string(Format::of<double>()), "float64");
  EXPECT_EQ(to_string(Format(FormatSpec::ieee(8, 23))), "float32");
  EXPECT_EQ(to_string(Format(FormatSpec::fn(2, 2))), "float5_e2m2nan");
  EXPECT_EQ(to_string(Format(FormatSpec::finite(4, 3))), "float8_e4m3finite");
  std::set<std::string> names;
  std::size_t formats = 0;
  for (int exponent_bits = 1; exponent_bits <= 8; ++exponent_bits) {
    for (int mantissa_bits = 0; mantissa_bits <= 23; ++mantissa_bits) {
      for (const Specials specials :
           {Specials::ieee, Specials::fn, Specials::fnuz, Specials::finite, Specials::fnu}) {
        for (const int bias : {0, 1, 7, 8, 127, 128, -9}) {
          const FormatSpec spec{exponent_bits, mantissa_bits, bias, specials};
          if (!spec.is_within_binary32()) continue;
          ++formats;
          const Format format(spec);
          names.insert(to_string(format));
          if (bias >= 0) {
            ASSERT_EQ(Format::parse(to_string(format)), format) << to_string(format);
          }
        }
      }
    }
  }
  EXPECT_EQ(names.size(), formats);
}

TEST(Format, RefusesBytesThatAreNoCodesOfTheNumbers) {
  const Format format = Format::parse("float6_e2m3fn");
  std::vector<float> numbers(5);
  std::vector<std::uint8_t> bytes(5);
  expect_error<std::invalid_argument>(
      [&] { format.encode(numbers, bytes); },
      {"Format::encode", "expected 4 bytes", "5 codes of float6_e2m3fn", "got 5"});
  expect_error<std::invalid_argument>([&] { format.decode(bytes, numbers); }, {"Format::decode"});
  expect_error<std::invalid_argument>([] { (void)Format::of<double>().spec(); }, {"float64"});
  expect_shape_error(
      [] { (void)Format::of<double>().code_bytes(std::numeric_limits<std::size_t>::max()); },
      {"Format::code_bytes"});
}

TEST(Format, OfAnUnknownNameSaysHowNamesAreMade) {
  const auto expect_told = [](const char* name, std::initializer_list<std::string_view> parts) {
    expect_error<std::invalid_argument>([&] { static_cast<void>(Format::parse(name)); }, parts);
  };
  expect_told("fp8", {"'fp8'", "exponent bits", "mantissa bits", "bias", "e3m4", "e4m3b11fnuz",
                      "float16", "bfloat16", "float32"});
  expect_told("e5m2x", {"'e5m2x'", "suffixes fn, fnuz, finite, fnu"});
  expect_told("e9m3", {"'e9m3'", "1 to 8 exponent bits", "0 to 23 mantissa bits"});
}

TEST(Format, RefusesASuffixThatAFormatDoesNotHave) {
  expect_error<std::invalid_argument>([&] { static_cast<void>(Format::parse("e4m3nan")); },
                                      {"e4m3nan"});
}

TEST(Format, RefusesWhatBinary32DoesNotHold) {
  for (const FormatSpec& spec : {FormatSpec::ieee(9, 3), FormatSpec::ieee(5, 24),
                                 FormatSpec::fn(8, 3), FormatSpec{8, 7, 200, Specials::ieee},
                                 FormatSpec::ieee(1, 6), FormatSpec{4, 3, 2147483647, Specials::fn},
                                 FormatSpec{4, 3, -2147483647 - 1, Specials::fn}}) {
    expect_error<std::invalid_argument>([&] { static_cast<void>(Format(spec)); }, {"binary32"});
  }
}

}  // namespace format_test
