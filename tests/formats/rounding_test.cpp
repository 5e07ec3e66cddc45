// SPDX-License-Identifier: MIT
// Every rounding mode in every format, against a search over all numbers of the format in binary64.
#include "unit_scaling/formats/rounding.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "number_format.hpp"
#include "rounding_modes.hpp"

namespace rounding_test {

using namespace unit_scaling;
using namespace unit_scaling_test;

const char* name_of(Rounding rounding) {
  switch (rounding) {
    case Rounding::nearest_even:
      return "nearest_even";
    case Rounding::nearest_away:
      return "nearest_away";
    case Rounding::toward_zero:
      return "toward_zero";
    case Rounding::toward_positive:
      return "toward_positive";
    case Rounding::toward_negative:
      return "toward_negative";
    case Rounding::stochastic:
      return "stochastic";
  }
  return "?";
}

// Holds every 64-bit integer.
static_assert(std::numeric_limits<long double>::digits >= 64);

/// What IEEE 754 makes of a number that is no NaN, in code: the two neighbours of its magnitude in
/// the format without an upper end, the one that the mode chooses, then the range.
std::uint32_t expected_code(const FormatOracle& oracle, long double number, Rounding rounding,
                            bool saturate) {
  const bool is_negative = std::signbit(number);
  const long double magnitude = std::fabs(number);
  const bool away =
      rounding == (is_negative ? Rounding::toward_negative : Rounding::toward_positive);
  std::uint32_t code = oracle.max_code() + 1U;
  if (magnitude < oracle.value(oracle.max_code() + 1U)) {
    std::uint32_t below = 0;
    std::uint32_t above = oracle.max_code() + 1U;
    while (above - below > 1U) {
      const std::uint32_t middle = (below + above) / 2U;
      (oracle.value(middle) <= magnitude ? below : above) = middle;
    }
    const long double to_below = magnitude - oracle.value(below);
    const long double to_above = oracle.value(below + 1U) - magnitude;
    const bool is_nearest =
        rounding == Rounding::nearest_even || rounding == Rounding::nearest_away;
    bool goes_up = away && to_below > 0;
    if (is_nearest) {
      const bool tie_goes_up = rounding == Rounding::nearest_away || below % 2U == 1U;
      goes_up = to_above < to_below || (to_above == to_below && tie_goes_up);
    }
    code = below + (goes_up ? 1U : 0U);
  }
  if (code > oracle.max_code()) {
    const bool never_overflows = std::isfinite(number) && !away &&
                                 rounding != Rounding::nearest_even &&
                                 rounding != Rounding::nearest_away;
    if (saturate || never_overflows || oracle.layout().upper_end == UpperEnd::finite) {
      code = oracle.max_code();
    } else if (oracle.layout().upper_end == UpperEnd::nan_at_negative_zero) {
      return oracle.sign();
    }
  }
  if (!is_negative) return code;
  const bool has_negative_zero = oracle.layout().upper_end != UpperEnd::nan_at_negative_zero;
  return code != 0U || has_negative_zero ? code | oracle.sign() : code;
}

FORMAT_TEST_SUITE(RoundingModes, signed_formats())

FORMAT_TEST(RoundingModes, ChooseTheNumberThatTheStandardSays) {
  const FormatOracle& oracle = format.oracle();
  const std::vector<float> numbers = critical_floats(oracle);
  for (const Rounding rounding : deterministic_modes) {
    for (const Overflow overflow : {Overflow::saturate, Overflow::infinity_or_nan}) {
      const Numbers codes =
          format.encode(numbers, EncodeOptions{.overflow = overflow, .rounding = rounding});
      for (std::size_t i = 0; i < numbers.size(); ++i) {
        const std::uint32_t expected =
            expected_code(oracle, numbers[i], rounding, overflow == Overflow::saturate);
        ASSERT_EQ(codes[i].bits(), expected) << name_of(rounding) << " of " << numbers[i];
        ASSERT_EQ(format.from_float(numbers[i], overflow, rounding).bits(), expected)
            << name_of(rounding) << " of " << numbers[i];
      }
    }
  }
}

FORMAT_TEST(RoundingModes, AreRightWhereTheProcessorFlushesSubnormalNumbers) {
  const FormatOracle& oracle = format.oracle();
  const std::vector<float> numbers = critical_floats(oracle);
  std::vector<std::uint32_t> expected(numbers.size());
  Numbers scalar(numbers.size());
  Numbers bulk;
  Numbers counted;
  for (const Rounding rounding : deterministic_modes) {
    for (std::size_t i = 0; i < numbers.size(); ++i) {
      expected[i] = expected_code(oracle, numbers[i], rounding, true);
    }
    const EncodeOptions options{.rounding = rounding};
    {
      const FlushSubnormals flush;
      for (std::size_t i = 0; i < numbers.size(); ++i) {
        scalar[i] = format.from_float(numbers[i], Overflow::saturate, rounding);
      }
      bulk = format.encode(numbers, options);
      format.encode_with_statistics(numbers, counted, options);
    }
    for (std::size_t i = 0; i < numbers.size(); ++i) {
      ASSERT_EQ(scalar[i].bits(), expected[i]) << name_of(rounding) << " of " << numbers[i];
      ASSERT_EQ(bulk[i].bits(), expected[i]) << name_of(rounding) << " of " << numbers[i];
      ASSERT_EQ(counted[i].bits(), expected[i]) << name_of(rounding) << " of " << numbers[i];
    }
  }
}

// A binary64 number a little off a midpoint, or off a number of the format, is a binary32 number
// only after a first rounding, which must not decide.
FORMAT_TEST(RoundingModes, RoundABinary64NumberOnce) {
  const FormatOracle& oracle = format.oracle();
  const std::uint32_t step = oracle.max_code() > 4096 ? 97 : 1;
  for (std::uint32_t code = 0; code <= oracle.max_code(); code += step) {
    for (const double number :
         {oracle.value(code), oracle.value(code) / 2 + oracle.value(code + 1) / 2}) {
      for (const double near : {std::nextafter(number, -1.0), number,
                                std::nextafter(number, std::numeric_limits<double>::max())}) {
        for (const double value : {near, -near}) {
          for (const Rounding rounding : deterministic_modes) {
            ASSERT_EQ(format.from_double(value, Overflow::infinity_or_nan, rounding).bits(),
                      expected_code(oracle, value, rounding, false))
                << name_of(rounding) << " of " << value;
          }
        }
      }
    }
  }
}

FORMAT_TEST(RoundingModes, RoundAnIntegerOnce) {
  const FormatOracle& oracle = format.oracle();
  std::vector<std::int64_t> numbers{0, 1, -1, 2, 3, 7, 449, 464, 465, 65519, 65520, -65521};
  for (int exponent = 53; exponent < 63; ++exponent) {
    const std::int64_t power = std::int64_t{1} << exponent;
    const std::int64_t tie = power | power >> 8;  // half-way between two numbers of bfloat16
    for (const std::int64_t number : {power, tie - 1, tie, tie + 1}) {
      numbers.push_back(number);
      numbers.push_back(-number);
    }
  }
  for (const std::int64_t number : numbers) {
    const auto exact = static_cast<long double>(number);
    ASSERT_EQ(format.number(number).bits(),
              expected_code(oracle, exact, Rounding::nearest_even, false))
        << number;
    for (const Rounding rounding : deterministic_modes) {
      for (const Overflow overflow : {Overflow::saturate, Overflow::infinity_or_nan}) {
        ASSERT_EQ(format.from_integer(number, overflow, rounding).bits(),
                  expected_code(oracle, exact, rounding, overflow == Overflow::saturate))
            << name_of(rounding) << " of " << number;
      }
    }
  }
}

FORMAT_TEST(RoundingModes, RoundALongDoubleOnce) {
  const FormatOracle& oracle = format.oracle();
  const std::uint32_t step = oracle.max_code() > 4096 ? 97 : 1;
  for (std::uint32_t code = 0; code < oracle.max_code(); code += step) {
    const long double middle = static_cast<long double>(oracle.value(code)) / 2 +
                               static_cast<long double>(oracle.value(code + 1)) / 2;
    for (const long double value :
         {std::nextafter(middle, 0.0L), middle, std::nextafter(middle, 2 * middle), 2 * middle}) {
      ASSERT_EQ(format.number(value).bits(),
                expected_code(oracle, value, Rounding::nearest_even, false));
      ASSERT_EQ(format.number(-value).bits(),
                expected_code(oracle, -value, Rounding::nearest_even, false));
    }
  }
  EXPECT_EQ(isinf(format.number(std::numeric_limits<long double>::infinity())),
            format.spec().has_infinity());
}

FORMAT_TEST(RoundingModes, KeepANanAndTheNumbersOfTheFormat) {
  const FormatOracle& oracle = format.oracle();
  for (const Rounding rounding : deterministic_modes) {
    for (const std::uint32_t bits : nan_bits()) {
      const Number nan =
          format.from_float(std::bit_cast<float>(bits), Overflow::saturate, rounding);
      EXPECT_TRUE(isnan(nan) || format.spec().specials == Specials::finite) << name_of(rounding);
      EXPECT_TRUE(isnan(nan) || nan.bits() == oracle.sign()) << name_of(rounding);
    }
    for (std::uint32_t code = 0; code < oracle.code_count(); ++code) {
      if (oracle.is_nan(code) || oracle.is_infinity(code)) continue;
      const Number number = format.from_code(code);
      ASSERT_EQ(
          format.from_float(static_cast<float>(number), Overflow::infinity_or_nan, rounding).bits(),
          code)
          << name_of(rounding);
    }
  }
}

}  // namespace rounding_test
