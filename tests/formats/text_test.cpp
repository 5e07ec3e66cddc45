// SPDX-License-Identifier: MIT
/// @file
/// Layer: tests. Numbers of a Minifloat as text. Texts about midpoints are written by the C library
/// with all their digits, so that no number stands between the text and the code it must give.

#include "unit_scaling/formats/text.hpp"

#include <gtest/gtest.h>

#include <charconv>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <iterator>
#include <limits>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include "format_oracle.hpp"
#include "number_format.hpp"
#include "unit_scaling/formats/catalogue.hpp"

namespace unit_scaling_test {
namespace text_test {

using unit_scaling::bfloat16;
using unit_scaling::float16;
using unit_scaling::float4_e2m1fn;
using unit_scaling::float8_e4m3fn;
using unit_scaling::float8_e5m2;
using unit_scaling::float8_e8m0fnu;
using unit_scaling::Overflow;
using unit_scaling::parse;

std::string printed(const char* format, int precision, double number) {
  std::string text(512, '\0');
  const int size = std::snprintf(text.data(), text.size(), format, precision, number);
  text.resize(static_cast<std::size_t>(size));
  return text;
}

/// The number in scientific notation with all its digits: 160 places hold any midpoint.
std::string all_digits(double number) { return printed("%.*e", 160, number); }

/// A text with digits put in front of its exponent.
std::string with_digits(std::string text, std::string_view digits, char exponent_letter) {
  return text.insert(text.find(exponent_letter), digits);
}

/// A decimal a little below a positive one: the last digit that is not zero goes down by one, nines
/// follow.
std::string just_below(std::string text) {
  std::size_t at = text.find('e');
  while (text[at - 1] == '0' || text[at - 1] == '.') --at;
  --text[at - 1];
  for (; text[at] != 'e'; ++at) {
    if (text[at] == '0') text[at] = '9';
  }
  return with_digits(text, "99999", 'e');
}

FORMAT_TEST_SUITE(NumberText, signed_formats())

double midpoint_above(const FormatOracle& oracle, std::uint32_t code) {
  return oracle.value(code) / 2 + oracle.value(code + 1) / 2;
}

FORMAT_TEST(NumberText, ParsesADecimalAsItsExactValueRoundedOnce) {
  const FormatOracle& exact = format.oracle();
  for (std::uint32_t code = 0; code <= exact.max_code(); ++code) {
    const double midpoint = midpoint_above(exact, code);
    const std::string tie = all_digits(midpoint);
    const std::uint32_t next = exact.encode(exact.value(code + 1), false);
    ASSERT_EQ(format.parse(tie).bits(), exact.encode(midpoint, false)) << tie;
    ASSERT_EQ(format.parse('-' + tie).bits(), exact.encode(-midpoint, false)) << tie;
    const std::string above = with_digits(tie, "00000000000000000001", 'e');
    ASSERT_EQ(format.parse(above).bits(), next) << above;
    const std::string below = just_below(tie);
    ASSERT_EQ(format.parse(below).bits(), code) << below;
  }
}

FORMAT_TEST(NumberText, ParsesAHexadecimalAsItsExactValueRoundedOnce) {
  const FormatOracle& exact = format.oracle();
  for (std::uint32_t code = 0; code <= exact.max_code(); ++code) {
    const double midpoint = midpoint_above(exact, code);
    const std::string tie = printed("%.*a", 16, midpoint);
    ASSERT_EQ(format.parse(tie).bits(), exact.encode(midpoint, false)) << tie;
    const std::string above = with_digits(tie, "0000001", 'p');
    ASSERT_EQ(format.parse(above).bits(), exact.encode(exact.value(code + 1), false)) << above;
    // The double below the midpoint, and then some more.
    const std::string below =
        with_digits(printed("%.*a", 13, std::nextafter(midpoint, 0.0)), "ffffff", 'p');
    ASSERT_EQ(format.parse(below).bits(), code) << below;
  }
}

FORMAT_TEST(NumberText, ParsesShortDecimalsToTheNearestCode) {
  RandomBits random;
  for (int i = 0; i < 20'000; ++i) {
    const std::string text = std::to_string(random() % 100'000) + "e" +
                             std::to_string(static_cast<int>(random() % 16) - 12);
    // So short a decimal is a midpoint if its nearest double is one.
    ASSERT_EQ(format.parse(text).bits(),
              format.oracle().encode(std::strtod(text.c_str(), nullptr), false))
        << text;
  }
}

FORMAT_TEST(NumberText, WritesEveryCodeSoThatItParsesBack) {
  for (std::uint32_t code = 0; code < format.oracle().code_count(); ++code) {
    const Number number = format.from_code(code);
    const Number back = format.parse(to_string(number));
    if (format.oracle().is_nan(code)) {
      ASSERT_TRUE(isnan(back)) << code;
      ASSERT_EQ(signbit(back), signbit(number)) << code;
    } else {
      ASSERT_EQ(back.bits(), number.bits()) << to_string(number);
    }
  }
}

/// Significant digits of a text, without a sign, an exponent, and zeros that only hold places.
std::string significant_digits(std::string text) {
  text = text.substr(0, text.find('e'));
  std::erase(text, '.');
  text.erase(0, text.find_first_not_of('0'));
  return text.erase(text.find_last_not_of('0') + 1);
}

FORMAT_TEST(NumberText, WritesTheFewestDigitsThatParseBackAndTheNearestOfThose) {
  const FormatOracle& exact = format.oracle();
  for (std::uint32_t code = 1; code <= exact.max_code(); ++code) {
    const double number = exact.value(code);
    const std::string text = to_string(format.from_code(code));
    // Large integers are written exactly.
    const bool is_exact = std::strtod(text.c_str(), nullptr) == number;
    const std::size_t count = significant_digits(text).size();
    const auto parses_back = [&](long double decimal) {
      const long double low = midpoint_above(exact, code - 1);
      const long double high = midpoint_above(exact, code);
      // A tie goes to the even code.
      return code % 2U == 0U ? low <= decimal && decimal <= high : low < decimal && decimal < high;
    };
    // The decimals of a given count of digits on either side of the number, as long doubles, whose
    // 64 bits tell them from midpoints.
    const auto neighbours = [&](std::size_t digits) {
      const std::string nearest = printed("%.*e", static_cast<int>(digits) - 1, number);
      const std::string unit = "1e" + std::to_string(std::atoi(&nearest[nearest.find('e') + 1]) -
                                                     static_cast<int>(digits) + 1);
      const long double middle = std::strtold(nearest.c_str(), nullptr);
      const long double step = std::strtold(unit.c_str(), nullptr);
      return std::vector<long double>{middle - step, middle, middle + step};
    };
    if (count > 1 && !is_exact) {
      for (const long double decimal : neighbours(count - 1)) {
        ASSERT_FALSE(parses_back(decimal)) << text << " for " << number;
      }
    }
    // Two decimals may be equally near; the distances carry the rounding of numbers up to 10^5
    // times as large, 2^-64 of those.
    constexpr long double slack = 0x1p-40L;
    const long double error = std::fabs(std::strtold(text.c_str(), nullptr) - number);
    for (const long double decimal : neighbours(count)) {
      if (!parses_back(decimal)) continue;
      ASSERT_LE(error, std::fabs(decimal - number) * (1 + slack)) << text << " for " << number;
    }
  }
}

FORMAT_TEST(NumberText, ReadsFromAStreamWhatItWroteToOne) {
  std::stringstream stream;
  std::vector<std::uint32_t> codes;
  for (std::uint32_t code = 0; code < format.oracle().code_count(); ++code) {
    if (format.oracle().is_nan(code)) continue;
    codes.push_back(code);
    format.write(stream, format.from_code(code));
    stream << ' ';
  }
  for (const std::uint32_t code : codes) {
    const Number number = format.read(stream);
    ASSERT_TRUE(stream) << code;
    ASSERT_EQ(number.bits(), code);
  }
}

TEST(Parse, RoundsOnceWhereTheNearestDoubleIsATie) {
  // 1 + 2^-11 is half-way between two numbers; 40 zeros later the text is above it.
  const std::string tie = "1.00048828125";
  EXPECT_EQ(parse<float16>(tie).bits(), 0x3c00);
  EXPECT_EQ(parse<float16>(tie + std::string(40, '0') + '1').bits(), 0x3c01);
  EXPECT_EQ(float16(std::strtod((tie + std::string(40, '0') + '1').c_str(), nullptr)).bits(),
            0x3c00);
  // 1 + 3 2^-11 rounds up to even, and what is below it down.
  EXPECT_EQ(parse<float16>("1.00146484375").bits(), 0x3c02);
  EXPECT_EQ(parse<float16>("1.00146484374" + std::string(40, '9')).bits(), 0x3c01);
}

TEST(Parse, TakesEveryFormOfANumber) {
  const struct {
    std::string_view text;
    float number;
  } cases[] = {
      {"1.5", 1.5F},       {"+1.5", 1.5F},      {"-1.5", -1.5F},     {".5", 0.5F},
      {"5.", 5.0F},        {"1e2", 100.0F},     {"1E+2", 100.0F},    {"12.5e-1", 1.25F},
      {"0", 0.0F},         {"000.000e9", 0.0F}, {"0x1.8p-1", 0.75F}, {"0X1.8P+1", 3.0F},
      {"0xA", 10.0F},      {"-0x.8", -0.5F},    {"0x10p-4", 1.0F},   {"007", 7.0F},
      {"100000e-5", 1.0F}, {"0.00001e5", 1.0F},
  };
  for (const auto& [text, number] : cases) {
    EXPECT_EQ(parse<float16>(text), float16(number)) << text;
    EXPECT_EQ(parse<bfloat16>(text), bfloat16(number)) << text;
  }
  for (const std::string_view text : {"inf", "INF", "infinity", "+Infinity"}) {
    EXPECT_EQ(parse<float16>(text), std::numeric_limits<float16>::infinity()) << text;
  }
  EXPECT_EQ(parse<float16>("-inf"), -std::numeric_limits<float16>::infinity());
  EXPECT_TRUE(isnan(parse<float8_e4m3fn>("NaN")));
  EXPECT_TRUE(signbit(parse<float8_e4m3fn>("-nan")));
  EXPECT_TRUE(signbit(parse<float16>("-0")));
}

TEST(Parse, TakesTextsOfAnyLengthAndExponent) {
  const std::string zeros(100'000, '0');
  EXPECT_EQ(parse<float16>("0." + zeros + "15e100001"), float16(1.5F));
  EXPECT_EQ(parse<float16>("15" + zeros + "e-100001"), float16(1.5F));
  EXPECT_EQ(parse<float16>("1." + zeros + "1"), float16(1.0F));
  EXPECT_EQ(parse<float16>("1e-99999999999999999999").bits(), 0);
  EXPECT_EQ(parse<float16>("-1e-400").bits(), 0x8000);
  EXPECT_EQ(parse<float16>("0e99999999999999999999").bits(), 0);
  EXPECT_TRUE(isinf(parse<float16>("1e99999999999999999999")));
  EXPECT_EQ(parse<float16>("0x0." + zeros + "18p400004"), float16(1.5F));
  EXPECT_EQ(parse<float16>("0x18" + zeros + "p-400004"), float16(1.5F));
  EXPECT_EQ(parse<float16>("0x1p-99999999999999999999").bits(), 0);
  EXPECT_TRUE(isinf(parse<float16>("0x1p99999999999999999999")));
}

TEST(Parse, OverflowsAsItIsTold) {
  EXPECT_EQ(parse<float8_e4m3fn>("464"), float8_e4m3fn(448.0F));
  EXPECT_TRUE(isnan(parse<float8_e4m3fn>("464.0000000000000000000000000001")));
  EXPECT_TRUE(isnan(parse<float8_e4m3fn>("inf")));
  EXPECT_EQ(parse<float8_e4m3fn>("1e9", Overflow::saturate), float8_e4m3fn(448.0F));
  EXPECT_EQ(parse<float8_e4m3fn>("-inf", Overflow::saturate), float8_e4m3fn(-448.0F));
  EXPECT_TRUE(isinf(parse<float8_e5m2>("1e999")));
  EXPECT_EQ(parse<float4_e2m1fn>("1e999"), float4_e2m1fn(6.0F));
}

TEST(Parse, RefusesWhatIsNotOneNumberAndNamesTextAndFormat) {
  for (const std::string_view text :
       {"",     "+",    "-",     ".",   "e5",  "abc",  "1.5x", "1.5 ",
        " 1.5", "++1",  "+-1",   "--1", "-+1", "1e",   "1e+",  "0x",
        "0x.",  "0x1p", "1.2.3", "in",  "na",  "infx", "1,5",  "0x1.8.8"}) {
    EXPECT_THROW((void)parse<float16>(text), std::invalid_argument) << text;
  }
  EXPECT_THROW((void)parse<float4_e2m1fn>("nan"), std::invalid_argument) << "It has no NaN.";
  try {
    (void)parse<float8_e4m3fn>("1.5x");
    FAIL();
  } catch (const std::invalid_argument& error) {
    EXPECT_STREQ(error.what(), "unit_scaling::parse: \"1.5x\" is not a number of float8_e4m3fn");
  }
}

TEST(FromChars, SaysWhereTheNumberEnds) {
  const struct {
    std::string_view text;
    std::size_t size;
  } cases[] = {{"1.5,2", 3}, {"1e5e5", 3}, {"1e", 1},    {"1e+", 1},   {"0x", 1},     {"0xg", 1},
               {"0x1p", 3},  {"inf.", 3},  {"infin", 3}, {"1.2.3", 3}, {"0x1.8.8", 5}};
  for (const auto& [text, size] : cases) {
    float16 number;
    const auto result = from_chars(text.data(), text.data() + text.size(), number);
    EXPECT_EQ(result.ec, std::errc{}) << text;
    EXPECT_EQ(static_cast<std::size_t>(result.ptr - text.data()), size) << text;
  }
}

TEST(FromChars, LeavesTheNumberWhereThereIsNone) {
  for (const std::string_view text : {"", "+1", " 1", "x"}) {
    float16 number(7.0F);
    const auto result = from_chars(text.data(), text.data() + text.size(), number);
    EXPECT_EQ(result.ec, std::errc::invalid_argument) << text;
    EXPECT_EQ(result.ptr, text.data()) << text;
    EXPECT_EQ(number, float16(7.0F)) << text;
  }
}

TEST(ToString, WritesFixedOrScientificWhicheverIsShorter) {
  EXPECT_EQ(to_string(float16(0.1F)), "0.1");
  EXPECT_EQ(to_string(float16(-1.5F)), "-1.5");
  EXPECT_EQ(to_string(float16(0.0F)), "0");
  EXPECT_EQ(to_string(float16(-0.0F)), "-0");
  EXPECT_EQ(to_string(float16(0.001F)), "0.001");
  EXPECT_EQ(to_string(float16(0.0001F)), "1e-04");
  EXPECT_EQ(to_string(float16(12.34F)), "12.34");
  EXPECT_EQ(to_string(float16(65504.0F)), "65504");
  EXPECT_EQ(to_string(float8_e4m3fn(448.0F)), "448");
  EXPECT_EQ(to_string(float8_e4m3fn(0.0625F)), "0.062");
  EXPECT_EQ(to_string(std::numeric_limits<bfloat16>::max()), "3.39e+38");
  EXPECT_EQ(to_string(std::numeric_limits<bfloat16>::denorm_min()), "9e-41");
  EXPECT_EQ(to_string(std::numeric_limits<float16>::infinity()), "inf");
  EXPECT_EQ(to_string(-std::numeric_limits<float16>::infinity()), "-inf");
  EXPECT_EQ(to_string(std::numeric_limits<float8_e4m3fn>::quiet_NaN()), "nan");
}

TEST(ToChars, RefusesTooSmallABuffer) {
  char buffer[5] = {'?', '?', '?', '?', '?'};
  const auto refused = to_chars(buffer, buffer + 4, float16(65504.0F));
  EXPECT_EQ(refused.ec, std::errc::value_too_large);
  EXPECT_EQ(refused.ptr, buffer + 4);
  const auto written = to_chars(buffer, buffer + 5, float16(65504.0F));
  EXPECT_EQ(written.ec, std::errc{});
  EXPECT_EQ(std::string_view(buffer, 5), "65504");
}

TEST(StreamExtraction, StopsBehindTheNumber) {
  std::istringstream stream("  1.5,-2e-1+3 0x1p+2-1 inf");
  float16 a;
  float16 b;
  float16 c;
  float16 d;
  float16 e;
  float16 f;
  char comma = '\0';
  ASSERT_TRUE(stream >> a >> comma >> b >> c >> d >> e >> f);
  EXPECT_EQ(a, float16(1.5F));
  EXPECT_EQ(comma, ',');
  EXPECT_EQ(b, float16(-0.2F));
  EXPECT_EQ(c, float16(3.0F));
  EXPECT_EQ(d, float16(4.0F));
  EXPECT_EQ(e, float16(-1.0F));
  EXPECT_TRUE(isinf(f));
  EXPECT_TRUE(stream.eof());
}

TEST(StreamExtraction, FailsOnWhatIsNoNumber) {
  for (const char* text : {"abc", "", "+-1", "1.5x", "-"}) {
    std::istringstream stream(text);
    float16 number(7.0F);
    EXPECT_FALSE(stream >> number) << text;
  }
}

TEST(NumberTextWithoutZero, ParsesBackEveryCode) {
  for (std::uint32_t code = 0; code < 255; ++code) {
    const auto number = float8_e8m0fnu::from_bits(static_cast<std::uint8_t>(code));
    ASSERT_EQ(parse<float8_e8m0fnu>(to_string(number)).bits(), number.bits()) << to_string(number);
  }
  EXPECT_EQ(to_string(float8_e8m0fnu::from_bits(0xff)), "nan");
  EXPECT_TRUE(isnan(parse<float8_e8m0fnu>("nan")));
}

}  // namespace text_test
}  // namespace unit_scaling_test
