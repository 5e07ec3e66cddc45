// SPDX-License-Identifier: MIT
/// @file
/// Layer: tests. Scalar conversions, comparisons, arithmetic and limits of Minifloat.

#include "unit_scaling/formats/minifloat.hpp"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <sstream>
#include <type_traits>
#include <unordered_set>
#include <vector>

#include "format_oracle.hpp"
#include "number_format.hpp"
#include "unit_scaling/formats/catalogue.hpp"

namespace unit_scaling_test {
namespace minifloat_test {

using unit_scaling::bfloat16;
using unit_scaling::float16;
using unit_scaling::float8_e4m3fn;
using unit_scaling::float8_e5m2;

constexpr Overflow overflows[] = {Overflow::saturate, Overflow::infinity_or_nan};

// Everything scalar is usable in a constant expression.
static_assert(float8_e4m3fn().bits() == 0);
static_assert(float8_e4m3fn(1.0F).bits() == 0x38);
static_assert(static_cast<float>(float8_e4m3fn::from_bits(0x38)) == 1.0F);
static_assert(float8_e4m3fn(-0.0F).bits() == 0x80);
static_assert(float8_e4m3fn(-0.0F) == float8_e4m3fn(0.0F));
static_assert(float8_e4m3fn(2.0F) > float8_e4m3fn(1.0F));
static_assert(float16(1.0F) + float16(2.0F) == float16(3.0F));
static_assert(float16(1) / float16(4) == float16(0.25));
static_assert(std::is_nothrow_default_constructible_v<bfloat16>);
static_assert(!std::is_convertible_v<float, bfloat16> && !std::is_convertible_v<bfloat16, float>);

FORMAT_TEST_SUITE(MinifloatFormat, signed_formats())

FORMAT_TEST(MinifloatFormat, HasTheNameOfTheField) {
  EXPECT_EQ(format.storage_name(), format.oracle().layout().name);
}

FORMAT_TEST(MinifloatFormat, DecodesEveryCodeByTheLayoutFormula) {
  for (std::uint32_t code = 0; code < format.oracle().code_count(); ++code) {
    const auto number = format.from_code(code);
    const double expected = format.oracle().decode(code);
    EXPECT_EQ(isnan(number), format.oracle().is_nan(code)) << code;
    EXPECT_EQ(isinf(number), format.oracle().is_infinity(code)) << code;
    EXPECT_EQ(isfinite(number), std::isfinite(expected)) << code;
    if (format.oracle().is_nan(code)) {
      EXPECT_TRUE(std::isnan(static_cast<float>(number))) << code;
      EXPECT_TRUE(std::isnan(static_cast<double>(number))) << code;
      EXPECT_NE(std::bit_cast<std::uint32_t>(static_cast<float>(number)) & 0x00400000U, 0U)
          << "A NaN must become quiet, code " << code;
      EXPECT_EQ(signbit(number), std::signbit(static_cast<float>(number))) << code;
      continue;
    }
    EXPECT_EQ(std::bit_cast<std::uint32_t>(static_cast<float>(number)),
              std::bit_cast<std::uint32_t>(static_cast<float>(expected)))
        << code;
    EXPECT_EQ(std::bit_cast<std::uint64_t>(static_cast<double>(number)),
              std::bit_cast<std::uint64_t>(expected))
        << code;
    EXPECT_EQ(signbit(number), std::signbit(expected)) << code;
  }
}

FORMAT_TEST(MinifloatFormat, RoundTripsEveryCode) {
  for (std::uint32_t code = 0; code < format.oracle().code_count(); ++code) {
    const Number number = format.from_code(code);
    const Number through_float = format.number(static_cast<float>(number));
    const Number through_double = format.number(static_cast<double>(number));
    if (format.oracle().is_nan(code)) {
      EXPECT_TRUE(isnan(through_float)) << code;
      EXPECT_EQ(signbit(through_float), signbit(number)) << code;
    } else {
      EXPECT_EQ(std::uint32_t{through_float.bits()}, code);
    }
    EXPECT_EQ(through_double.bits(), through_float.bits()) << code;
  }
}

FORMAT_TEST(MinifloatFormat, EncodesFloatsToTheNearestCode) {
  for (const float number : critical_floats(format.oracle())) {
    if (std::isnan(number)) continue;
    for (const Overflow overflow : overflows) {
      const bool saturate = overflow == Overflow::saturate;
      ASSERT_EQ(format.from_float(number, overflow).bits(),
                format.oracle().encode(number, saturate))
          << std::hexfloat << number << (saturate ? " saturating" : " not saturating");
    }
    ASSERT_EQ(format.number(number).bits(),
              format.from_float(number, Overflow::infinity_or_nan).bits());
  }
}

FORMAT_TEST(MinifloatFormat, EncodesRandomFloatsToTheNearestCode) {
  RandomBits random;
  for (int i = 0; i < 200'000; ++i) {
    const float number = std::bit_cast<float>(random());
    if (std::isnan(number)) continue;
    ASSERT_EQ(format.from_float(number, Overflow::infinity_or_nan).bits(),
              format.oracle().encode(number, false))
        << std::hexfloat << number;
    // The exponents of a random number seldom lie in the narrow range of the format.
    const float nearby = std::ldexp(1.0F + static_cast<float>(random() >> 9) * 0x1p-23F,
                                    static_cast<int>(random() % 40) - 24);
    ASSERT_EQ(format.from_float(nearby, Overflow::saturate).bits(),
              format.oracle().encode(nearby, true))
        << std::hexfloat << nearby;
  }
}

FORMAT_TEST(MinifloatFormat, EncodesEverySixteenBitNumberToTheNearestCode) {
  for (const Layout& layout : {Float16::layout(), Bfloat16::layout()}) {
    const FormatOracle wide(layout);
    for (std::uint32_t code = 0; code < wide.code_count(); ++code) {
      const double number = wide.decode(code);
      if (std::isnan(number)) continue;
      for (const Overflow overflow : overflows) {
        ASSERT_EQ(format.from_float(static_cast<float>(number), overflow).bits(),
                  format.oracle().encode(number, overflow == Overflow::saturate))
            << layout.name << " code " << code;
      }
    }
  }
}

FORMAT_TEST(MinifloatFormat, EncodesDoublesWithoutRoundingTwice) {
  const double infinity = std::numeric_limits<double>::infinity();
  std::vector<double> numbers = {0.0,      0x1p-1074, 0x1p-1022, 0x1p-150,       0x1p-149,
                                 0x3p-150, 0x1p128,   0x1p1023,  0x1.fffffep127, infinity};
  for (std::uint32_t code = 0; code <= format.oracle().max_code(); ++code) {
    const double midpoint = format.oracle().value(code) / 2 + format.oracle().value(code + 1) / 2;
    for (const double number : {format.oracle().value(code), midpoint}) {
      numbers.push_back(std::nextafter(number, -infinity));
      numbers.push_back(number);
      numbers.push_back(std::nextafter(number, infinity));
      // These become the midpoint itself when they are rounded to binary32 first.
      numbers.push_back(number * (1 + 0x1p-26));
      numbers.push_back(number * (1 - 0x1p-26));
    }
  }
  for (const double magnitude : numbers) {
    for (const double number : {magnitude, -magnitude}) {
      for (const Overflow overflow : overflows) {
        ASSERT_EQ(format.from_double(number, overflow).bits(),
                  format.oracle().encode(number, overflow == Overflow::saturate))
            << std::hexfloat << number;
      }
      ASSERT_EQ(format.number(number).bits(),
                format.from_double(number, Overflow::infinity_or_nan).bits());
    }
  }
}

FORMAT_TEST(MinifloatFormat, KeepsNanAndItsSign) {
  for (const std::uint32_t bits : nan_bits()) {
    for (const Overflow overflow : overflows) {
      const Number from_float = format.from_float(std::bit_cast<float>(bits), overflow);
      // The same sign; the payload lies where a conversion to binary32 drops it.
      const std::uint64_t double_bits =
          (std::uint64_t{bits} >> 31 << 63) | 0x7ff0'0000'0000'0000U | (bits & 0xffU) | 1U;
      const Number from_double = format.from_double(std::bit_cast<double>(double_bits), overflow);
      if (format.oracle().layout().upper_end == UpperEnd::finite) {
        EXPECT_EQ(from_float.bits(), format.oracle().sign())
            << "A format without a NaN delivers negative zero.";
        EXPECT_EQ(from_double.bits(), from_float.bits());
        continue;
      }
      EXPECT_TRUE(isnan(from_float)) << bits;
      EXPECT_TRUE(isnan(from_double)) << bits;
      const bool has_sign = format.oracle().layout().upper_end != UpperEnd::nan_at_negative_zero;
      EXPECT_EQ(signbit(from_float), has_sign && (bits >> 31) != 0U) << bits;
      EXPECT_EQ(signbit(from_double), has_sign && (bits >> 31) != 0U) << bits;
      if (format.oracle().layout().upper_end == UpperEnd::infinity_and_nan) {
        const unsigned quiet_bit = 1U << (format.oracle().layout().mantissa_bits - 1);
        EXPECT_NE(from_float.bits() & quiet_bit, 0U) << bits;
      }
    }
  }
}

FORMAT_TEST(MinifloatFormat, ConvertsTheSameWhenTheProcessorFlushesSubnormalNumbers) {
  if (!FlushSubnormals::is_effective) GTEST_SKIP() << "No such mode on this processor.";
  const std::vector<float> numbers = critical_floats(format.oracle());
  std::vector<std::uint32_t> expected_codes;
  for (const float number : numbers) {
    expected_codes.push_back(std::isnan(number) ? 0U : format.oracle().encode(number, false));
  }
  std::vector<std::uint32_t> codes(numbers.size());
  std::vector<std::uint64_t> doubles(format.oracle().code_count());
  std::vector<std::uint32_t> floats(format.oracle().code_count());
  {
    const FlushSubnormals flush;
    for (std::size_t i = 0; i < numbers.size(); ++i) codes[i] = format.number(numbers[i]).bits();
    for (std::uint32_t code = 0; code < format.oracle().code_count(); ++code) {
      floats[code] = std::bit_cast<std::uint32_t>(static_cast<float>(format.from_code(code)));
      doubles[code] = std::bit_cast<std::uint64_t>(static_cast<double>(format.from_code(code)));
    }
  }
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    if (!std::isnan(numbers[i])) {
      ASSERT_EQ(codes[i], expected_codes[i]) << numbers[i];
    }
  }
  for (std::uint32_t code = 0; code < format.oracle().code_count(); ++code) {
    if (format.oracle().is_nan(code)) continue;
    const double expected = format.oracle().decode(code);
    ASSERT_EQ(floats[code], std::bit_cast<std::uint32_t>(static_cast<float>(expected))) << code;
    ASSERT_EQ(doubles[code], std::bit_cast<std::uint64_t>(expected)) << code;
  }
}

FORMAT_TEST(MinifloatFormat, ComparesAsTheNumbersDo) {
  RandomBits random;
  const bool is_small = format.oracle().code_count() <= 256;
  const std::uint32_t pairs = is_small ? 65536 : 300'000;
  for (std::uint32_t pair = 0; pair < pairs; ++pair) {
    const std::uint32_t left_code =
        (is_small ? pair / 256 : random()) % format.oracle().code_count();
    const std::uint32_t right_code = (is_small ? pair : random()) % format.oracle().code_count();
    const auto left = format.from_code(left_code);
    const auto right = format.from_code(right_code);
    const double left_number = format.oracle().decode(left_code);
    const double right_number = format.oracle().decode(right_code);
    const Comparisons actual = format.compare(left, right);
    ASSERT_EQ(actual.equal, left_number == right_number) << left_code << ' ' << right_code;
    ASSERT_EQ(actual.unequal, left_number != right_number) << left_code << ' ' << right_code;
    ASSERT_EQ(actual.less, left_number < right_number) << left_code << ' ' << right_code;
    ASSERT_EQ(actual.less_or_equal, left_number <= right_number) << left_code << ' ' << right_code;
    ASSERT_EQ(actual.greater, left_number > right_number) << left_code << ' ' << right_code;
    ASSERT_EQ(actual.greater_or_equal, left_number >= right_number)
        << left_code << ' ' << right_code;
  }
}

FORMAT_TEST(MinifloatFormat, NegatesAndTakesMagnitudes) {
  for (std::uint32_t code = 0; code < format.oracle().code_count(); ++code) {
    const auto number = format.from_code(code);
    if (format.oracle().is_nan(code)) {
      EXPECT_TRUE(isnan(-number));
      EXPECT_TRUE(isnan(abs(number)));
      continue;
    }
    EXPECT_EQ(static_cast<double>(-number), -format.oracle().decode(code)) << code;
    EXPECT_EQ(static_cast<double>(abs(number)), std::fabs(format.oracle().decode(code))) << code;
    EXPECT_FALSE(signbit(abs(number))) << code;
  }
}

FORMAT_TEST(MinifloatFormat, StatesItsLimits) {
  const NumberLimits limits = format.limits();
  const Layout& layout = format.oracle().layout();
  const double unit = std::ldexp(1.0, -layout.mantissa_bits);
  EXPECT_TRUE(limits.is_specialized);
  EXPECT_EQ(static_cast<double>(limits.max), format.oracle().max_finite());
  EXPECT_EQ(static_cast<double>(limits.lowest), -format.oracle().max_finite());
  EXPECT_EQ(static_cast<double>(limits.min), std::ldexp(1.0, 1 - layout.bias));
  EXPECT_EQ(static_cast<double>(limits.denorm_min), format.oracle().value(1));
  EXPECT_EQ(static_cast<double>(limits.epsilon), unit);
  EXPECT_EQ(static_cast<double>(limits.round_error), 0.5);
  EXPECT_EQ(limits.digits, layout.mantissa_bits + 1);
  EXPECT_EQ(limits.digits10, static_cast<int>(std::floor(layout.mantissa_bits * std::log10(2.0))));
  EXPECT_EQ(limits.max_digits10,
            static_cast<int>(std::ceil((layout.mantissa_bits + 1) * std::log10(2.0) + 1)));
  EXPECT_EQ(std::ldexp(1.0, limits.min_exponent - 1), static_cast<double>(limits.min));
  EXPECT_EQ(limits.max_exponent, std::ilogb(format.oracle().max_finite()) + 1);
  EXPECT_EQ(limits.min_exponent10,
            static_cast<int>(std::ceil(std::log10(static_cast<double>(limits.min)))));
  EXPECT_EQ(limits.max_exponent10,
            static_cast<int>(std::floor(std::log10(format.oracle().max_finite()))));
  EXPECT_EQ(limits.has_infinity, layout.upper_end == UpperEnd::infinity_and_nan);
  EXPECT_EQ(limits.has_quiet_nan, layout.upper_end != UpperEnd::finite);
  EXPECT_EQ(isinf(limits.infinity), limits.has_infinity);
  EXPECT_EQ(isnan(limits.quiet_nan), limits.has_quiet_nan);
  EXPECT_EQ(isnan(limits.signaling_nan), limits.has_signaling_nan);
}

FORMAT_TEST(MinifloatFormat, HashesEqualNumbersAlike) {
  const auto hash = [](Number number) { return number.format().hash(number); };
  const auto equal = [](Number x, Number y) { return x.format().compare(x, y).equal; };
  std::unordered_set<Number, decltype(hash), decltype(equal)> numbers(16, hash, equal);
  std::size_t expected = 0;
  for (std::uint32_t code = 0; code < format.oracle().code_count(); ++code) {
    if (format.oracle().is_nan(code)) continue;
    numbers.insert(format.from_code(code));
    const bool is_negative_zero = code == format.oracle().sign();
    if (!is_negative_zero) ++expected;
  }
  EXPECT_EQ(numbers.size(), expected);
}

FORMAT_TEST(MinifloatFormat, RoundsTheExactResultOfArithmeticOnce) {
  RandomBits random;
  const bool is_small = format.oracle().code_count() <= 256;
  const std::uint32_t pairs = is_small ? 65536 : 300'000;
  const auto expect = [&](Number result, double exact) {
    if (std::isnan(exact)) return isnan(result) || !format.spec().has_nan();
    // An infinity of binary32 or an overflow: the oracle treats both by the rule of the format.
    return result.bits() == format.oracle().encode(exact, false);
  };
  for (std::uint32_t pair = 0; pair < pairs; ++pair) {
    const std::uint32_t left_code =
        (is_small ? pair / 256 : random()) % format.oracle().code_count();
    // Codes near one another in half the cases, so that sums round.
    const std::uint32_t right_code = (is_small        ? pair
                                      : pair % 2 == 0 ? random()
                                                      : left_code ^ (random() % 2048)) %
                                     format.oracle().code_count();
    const Number left = format.from_code(left_code);
    const Number right = format.from_code(right_code);
    const double x = format.oracle().decode(left_code);
    const double y = format.oracle().decode(right_code);
    // Binary64 holds products of these formats exactly, and has more than twice their digits, so
    // that sums and quotients rounded to it round on to the same code as the exact ones.
    const Arithmetic actual = format.arithmetic(left, right);
    ASSERT_TRUE(expect(actual.sum, x + y)) << x << " + " << y;
    ASSERT_TRUE(expect(actual.difference, x - y)) << x << " - " << y;
    ASSERT_TRUE(expect(actual.product, x * y)) << x << " * " << y;
    ASSERT_TRUE(expect(actual.quotient, x / y)) << x << " / " << y;
  }
}

TEST(Float8E4m3fn, RoundsTiesToEven) {
  EXPECT_EQ(static_cast<float>(float8_e4m3fn(17.0F)), 16.0F);
  EXPECT_EQ(static_cast<float>(float8_e4m3fn(19.0F)), 20.0F);
  EXPECT_EQ(static_cast<float>(float8_e4m3fn(0x1p-10F)), 0.0F);
  EXPECT_EQ(static_cast<float>(float8_e4m3fn(0x3p-10F)), 0x1p-8F);
}

TEST(Float8E4m3fn, OverflowsOnlyAboveTheTieBeyondTheLargestNumber) {
  EXPECT_EQ(float8_e4m3fn(448.0F).bits(), 0x7e);
  EXPECT_EQ(float8_e4m3fn(464.0F).bits(), 0x7e);
  EXPECT_EQ(float8_e4m3fn(std::nextafter(464.0F, 500.0F)).bits(), 0x7f);
  EXPECT_EQ(float8_e4m3fn(-480.0F).bits(), 0xff);
  EXPECT_EQ(float8_e4m3fn(std::numeric_limits<float>::infinity()).bits(), 0x7f);
}

TEST(Float8E4m3fn, SaturatesInfinityAndLargeNumbersButNotNan) {
  const float infinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(float8_e4m3fn::from_float(infinity, Overflow::saturate).bits(), 0x7e);
  EXPECT_EQ(float8_e4m3fn::from_float(-infinity, Overflow::saturate).bits(), 0xfe);
  EXPECT_EQ(float8_e4m3fn::from_float(1e30F, Overflow::saturate).bits(), 0x7e);
  EXPECT_TRUE(isnan(
      float8_e4m3fn::from_float(std::numeric_limits<float>::quiet_NaN(), Overflow::saturate)));
}

TEST(Float8E5m2, OverflowsToInfinityAtTheTieBeyondTheLargestNumber) {
  EXPECT_EQ(float8_e5m2(57344.0F).bits(), 0x7b);
  EXPECT_EQ(float8_e5m2(std::nextafter(61440.0F, 0.0F)).bits(), 0x7b);
  EXPECT_EQ(float8_e5m2(61440.0F).bits(), 0x7c);
  EXPECT_EQ(float8_e5m2(-61440.0F).bits(), 0xfc);
  EXPECT_EQ(float8_e5m2::from_float(61440.0F, Overflow::saturate).bits(), 0x7b);
}

TEST(Float16, RoundsADoubleOnceWhereGoingThroughFloatWouldRoundTwice) {
  // Just above the tie between 1 and 1 + 2^-10; binary32 cannot tell it from the tie.
  const double above_tie = 1.0 + 0x1p-11 + 0x1p-40;
  EXPECT_EQ(float16(above_tie).bits(), 0x3c01);
  EXPECT_EQ(float16(static_cast<float>(above_tie)).bits(), 0x3c00);
}

TEST(Bfloat16, TakesIntegersAndOtherFormats) {
  EXPECT_EQ(static_cast<float>(bfloat16(257)), 256.0F);
  EXPECT_EQ(static_cast<float>(bfloat16(-3)), -3.0F);
  EXPECT_EQ(static_cast<float>(bfloat16(float16(0.5F))), 0.5F);
  EXPECT_TRUE(isinf(float16(bfloat16(1e30F))));
}

TEST(Minifloat, PrintsAsTheEqualFloat) {
  std::ostringstream stream;
  stream << float8_e4m3fn(448.0F) << ' ' << float16(-0.5F) << ' ' << bfloat16(3.0F);
  EXPECT_EQ(stream.str(), "448 -0.5 3");
}

TEST(Minifloat, IgnoresBitsAboveTheWidthOfTheFormat) {
  using float4_e2m1fn = E2m1fn::type;
  EXPECT_EQ(float4_e2m1fn::from_bits(0xf7).bits(), 0x07);
  EXPECT_EQ(static_cast<float>(float4_e2m1fn::from_bits(0xf7)), 6.0F);
}

TEST(Bfloat16, ComputesWithSubnormalNumbersWhereTheProcessorFlushesThem) {
  const bfloat16 tiny = bfloat16::from_bits(0x40);
  const FlushSubnormals flush;
  EXPECT_EQ((tiny + tiny).bits(), 0x80);
  EXPECT_EQ((tiny - bfloat16::from_bits(1)).bits(), 0x3f);
  EXPECT_EQ((tiny * bfloat16(0.5F)).bits(), 0x20);
  std::ostringstream text;
  text << tiny;
  EXPECT_EQ(text.str(), "5.87747e-39");
}

TEST(Minifloat, ConvertsToIntegersAndLongDouble) {
  const float8_e4m3fn number(-2.75F);
  EXPECT_EQ(static_cast<int>(number), -2);
  EXPECT_EQ(static_cast<long double>(number), -2.75L);
  EXPECT_TRUE(static_cast<bool>(number));
}

}  // namespace minifloat_test

}  // namespace unit_scaling_test
