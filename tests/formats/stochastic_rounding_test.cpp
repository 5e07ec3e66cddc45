// SPDX-License-Identifier: MIT
#include "unit_scaling/formats/stochastic_rounding.hpp"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <set>
#include <span>
#include <stdexcept>
#include <vector>

#include "number_format.hpp"
#include "support/errors.hpp"
#include "support/threads.hpp"
#include "unit_scaling/formats/encode.hpp"

namespace stochastic_rounding_test {

using namespace unit_scaling;
using namespace unit_scaling_test;

constexpr Random stream(std::uint32_t tensor = 0, std::uint32_t step = 0) {
  return Random(7, RandomStream::rounding, step, tensor);
}

template <class T>
std::vector<T> encoded(const std::vector<float>& numbers, const StochasticRounding& random,
                       std::uint64_t first_element = 0) {
  std::vector<T> codes(numbers.size());
  encode(std::span<const float>(numbers), std::span<T>(codes),
         {.rounding = Rounding::stochastic, .random = random, .first_element = first_element});
  return codes;
}

FORMAT_TEST_SUITE(StochasticRoundingOf, signed_formats())

// Every random word of b bits, once each: the number that goes away from zero is the fraction of
// the way, in units of 2^-b, rounded half up. Fractions that are multiples of 2^-b are met exactly.
FORMAT_TEST(StochasticRoundingOf, HasTheProbabilitiesItPromises) {
  const FormatOracle& oracle = format.oracle();
  constexpr int bits = 8;
  const std::uint32_t step = oracle.max_code() > 4096 ? 1021 : 1;
  for (std::uint32_t code = 0; code < oracle.max_code(); code += step) {
    const double below = oracle.value(code);
    const double gap = oracle.value(code + 1) - below;
    for (const double fraction : {0.0, 1.0 / 256, 0.25, 0.3, 0.5, 201.0 / 256, 0.999}) {
      const auto number = static_cast<float>(below + fraction * gap);
      const double actual = (static_cast<double>(number) - below) / gap;
      int away = 0;
      for (std::uint32_t word = 0; word < 256; ++word) {
        const std::uint32_t random = word << 24 | 1U << 23;
        const Number up =
            format.from_float(number, Overflow::saturate, Rounding::stochastic, random);
        const Number down =
            format.from_float(-number, Overflow::saturate, Rounding::stochastic, random);
        ASSERT_TRUE(up.bits() == code || up.bits() == code + 1) << number;
        ASSERT_EQ(static_cast<float>(down), -static_cast<float>(up));
        away += up.bits() == code + 1 ? 1 : 0;
      }
      ASSERT_EQ(away, static_cast<int>(std::floor(std::ldexp(actual, bits) + 0.5))) << number;
    }
  }
}

FORMAT_TEST(StochasticRoundingOf, IsTheSameInBulkAndElementByElement) {
  const FormatOracle& oracle = format.oracle();
  std::vector<float> numbers = critical_floats(oracle);
  numbers.resize(std::min<std::size_t>(numbers.size(), 5003));  // no multiple of any group
  for (const int bits : {1, 8, 9, 16, 17, 23, 31, 32}) {
    const StochasticRounding random(stream(), bits);
    for (const std::uint64_t first : {std::uint64_t{0}, std::uint64_t{5}, std::uint64_t{1} << 40}) {
      const Numbers bulk = format.encode(
          numbers, EncodeOptions{
                       .rounding = Rounding::stochastic, .random = random, .first_element = first});
      for (std::size_t i = 0; i < numbers.size(); ++i) {
        ASSERT_EQ(bulk[i].bits(), format
                                      .from_float(numbers[i], Overflow::saturate,
                                                  Rounding::stochastic, random.word(first + i))
                                      .bits())
            << numbers[i] << ", " << bits << " bits";
      }
    }
  }
}

// Of binary64 numbers, also those that binary32 does not hold: away from zero if the fraction of
// the way, in units of 2^-32 rounded down, and the random word make up a whole.
FORMAT_TEST(StochasticRoundingOf, ABinary64NumberGoesByItsOwnFraction) {
  const FormatOracle& oracle = format.oracle();
  const std::uint32_t step = oracle.max_code() > 4096 ? 1021 : 1;
  for (std::uint32_t code = 0; code < oracle.max_code(); code += step) {
    const double below = oracle.value(code);
    const double gap = oracle.value(code + 1) - below;
    for (const double fraction : {0.0, 0x1p-40, 0x1p-31, 0x1.8p-20, 0.3, 0.5, 1 - 0x1p-30}) {
      const double number = below + fraction * gap;
      if (number >= oracle.value(code + 1)) continue;
      const double units = std::floor(std::ldexp((number - below) / gap, 32));
      for (const std::uint32_t random : {0U, 1U, 2U, 0x7fff'ffffU, 0x8000'0000U, 0xb333'3333U,
                                         0xffff'fffdU, 0xffff'fffeU, 0xffff'ffffU}) {
        const bool goes_up = units + random >= 0x1p32;
        ASSERT_EQ(
            format.from_double(number, Overflow::saturate, Rounding::stochastic, random).bits(),
            code + (goes_up ? 1U : 0U))
            << number << ", " << random;
      }
    }
  }
}

FORMAT_TEST(StochasticRoundingOf, ABinary32NumberGoesTheSameWayAsBinary64) {
  const std::vector<float> numbers = critical_floats(format.oracle());
  for (const float number : numbers) {
    // Below, binary32 gives up: so small a fraction has no random bits to meet.
    if (std::fabs(number) < std::ldexp(1.0F, format.spec().min_subnormal_exponent() - 7)) continue;
    for (const std::uint32_t random : {0U, 0x1234'5678U, 0x8000'0000U, 0xffff'ffffU}) {
      ASSERT_EQ(
          format
              .from_double(static_cast<double>(number), Overflow::infinity_or_nan,
                           Rounding::stochastic, random)
              .bits(),
          format.from_float(number, Overflow::infinity_or_nan, Rounding::stochastic, random).bits())
          << number << ", " << random;
    }
  }
}

FORMAT_TEST(StochasticRoundingOf, KeepsTheNumbersOfTheFormat) {
  const FormatOracle& oracle = format.oracle();
  for (std::uint32_t code = 0; code <= oracle.max_code(); ++code) {
    for (const std::uint32_t random : {0U, 0x7fff'ffffU, 0xffff'ffffU}) {
      ASSERT_EQ(format
                    .from_float(static_cast<float>(oracle.value(code)), Overflow::infinity_or_nan,
                                Rounding::stochastic, random)
                    .bits(),
                code);
    }
  }
}

// The mean of n draws has standard error gap * sqrt(f (1 - f) / n); five of them.
TEST(StochasticRounding, MeanOfTenMillionDrawsIsTheNumber) {
  constexpr std::size_t draws = 10'000'000;
  struct Point {
    float number;
    double below, gap;
  };
  // Normal, subnormal, and far below the smallest number of float8_e4m3fn.
  for (const Point& point :
       {Point{1.04F, 1, 0.125}, Point{0.00571F, 0x1p-8, 0x1p-9}, Point{0x1.2p-17F, 0, 0x1p-9}}) {
    const std::vector<float8_e4m3fn> codes = encoded<float8_e4m3fn>(
        std::vector<float>(draws, point.number), StochasticRounding(stream(), 32));
    std::array<std::uint64_t, 256> count{};
    for (const float8_e4m3fn code : codes) ++count[code.bits()];
    double sum = 0;
    for (std::size_t code = 0; code < count.size(); ++code) {
      if (count[code] == 0) continue;
      sum += static_cast<double>(count[code]) *
             static_cast<double>(float8_e4m3fn::from_bits(static_cast<std::uint8_t>(code)));
    }
    const double fraction = (static_cast<double>(point.number) - point.below) / point.gap;
    const double error = point.gap * std::sqrt(fraction * (1 - fraction) / draws);
    EXPECT_NEAR(sum / draws, static_cast<double>(point.number), 5 * error) << point.number;
  }
}

// Of two elements that go up with probability one half, the covariance of the draws is zero with a
// standard error of 1 / (4 sqrt n).
TEST(StochasticRounding, ElementsAndTensorsAreIndependent) {
  constexpr std::size_t n = 1 << 20;
  const std::vector<float> halves(n, 1.0625F);  // half-way between 1 and 1.125
  const auto ups = [&](const Random& random, int bits) {
    std::vector<double> result;
    for (const float8_e4m3fn code :
         encoded<float8_e4m3fn>(halves, StochasticRounding(random, bits))) {
      result.push_back(code == float8_e4m3fn(1.0F) ? -0.5 : 0.5);
    }
    return result;
  };
  const auto covariance = [](const std::vector<double>& a, const std::vector<double>& b,
                             std::size_t lag) {
    double sum = 0;
    for (std::size_t i = 0; i + lag < a.size(); ++i) sum += a[i] * b[i + lag];
    return sum / static_cast<double>(a.size() - lag);
  };
  const double bound = 5 * 0.25 / std::sqrt(static_cast<double>(n));
  for (const int bits : {4, 12, 24}) {
    const std::vector<double> draws = ups(stream(), bits);
    for (const std::size_t lag : {1U, 2U, 4U, 15U, 16U, 32U, 64U, 128U, 256U}) {
      EXPECT_NEAR(covariance(draws, draws, lag), 0, bound) << "lag " << lag << ", bits " << bits;
    }
    for (const Random& other : {stream(1), stream(0, 1), Random(8, RandomStream::rounding),
                                Random(7, RandomStream::dropout)}) {
      EXPECT_NEAR(covariance(draws, ups(other, bits), 0), 0, bound) << "bits " << bits;
    }
  }
}

TEST(StochasticRounding, ThreadCountAndCutsChangeNoBit) {
  std::vector<float> numbers(300'001);
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    numbers[i] = static_cast<float>(stream(3).normal(i));
  }
  const StochasticRounding random(stream(), 16);
  const std::vector<float8_e5m2> expected = encoded<float8_e5m2>(numbers, random);
  {
    const ThreadCountScope two(2);
    EXPECT_EQ(
        std::memcmp(encoded<float8_e5m2>(numbers, random).data(), expected.data(), expected.size()),
        0);
  }
  const std::vector<float> tail(numbers.begin() + 1237, numbers.end());
  const std::vector<float8_e5m2> cut = encoded<float8_e5m2>(tail, random, 1237);
  EXPECT_EQ(std::memcmp(cut.data(), expected.data() + 1237, cut.size()), 0);
}

TEST(StochasticRounding, RefusesImpossibleArguments) {
  for (const int bits : {-1, 0, 33}) {
    expect_error<std::invalid_argument>(
        [&] { static_cast<void>(StochasticRounding(stream(), bits)); },
        {"1 to 32", std::to_string(bits)});
  }
  const std::vector<float> numbers(3);
  std::vector<float8_e4m3fn> codes(3);
  expect_error<std::invalid_argument>(
      [&] {
        encode(std::span<const float>(numbers), std::span(codes),
               EncodeOptions{.rounding = Rounding::stochastic});
      },
      {"stochastic", "EncodeOptions::random"});
}

}  // namespace stochastic_rounding_test
