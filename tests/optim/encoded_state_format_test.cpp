// SPDX-License-Identifier: MIT
#include "unit_scaling/optim/encoded_state_format.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "support/errors.hpp"
#include "unit_scaling/core/random.hpp"

namespace encoded_state_format_test {

using namespace unit_scaling;
using namespace unit_scaling_test;
using optim::EncodedStateFormat;
using optim::OptimiserState;
using optim::RangeExpansion;
using optim::StateMemory;
using optim::StateScale;

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float nan = std::numeric_limits<float>::quiet_NaN();

/// A state after it was written once, and what comes back.
struct Written {
  OptimiserState state;
  std::vector<float> numbers;
};

StateMemory memory_of(OptimiserState& state) {
  return {.codes = state.codes.mutable_codes().data(),
          .scales = state.scales.empty() ? nullptr : state.scales.mutable_data(),
          .exponents = state.exponents.empty() ? nullptr : state.exponents.mutable_data(),
          .tensor_scale = 1};
}

/// By chunks, as optimisers do.
Written written(const EncodedStateFormat::Options& options, const std::vector<float>& numbers,
                float tensor_scale = 1, const optim::StateSite& site = {1, 0}) {
  const EncodedStateFormat format(options);
  Written result{format.zeros({numbers.size()}), std::vector<float>(numbers.size())};
  StateMemory memory = memory_of(result.state);
  memory.tensor_scale = tensor_scale;
  for (std::size_t i = 0; i < numbers.size(); i += EncodedStateFormat::chunk) {
    const std::size_t count = std::min(EncodedStateFormat::chunk, numbers.size() - i);
    format.encode(&numbers[i], i, count, tensor_scale, site, memory);
    float chunk[EncodedStateFormat::chunk];
    format.decode(memory, i, count, chunk);
    std::copy_n(chunk, count, &result.numbers[i]);
  }
  return result;
}

EncodedStateFormat::Options expanded(RangeExpansion expansion,
                                     const Format& format = Format::of<float8_e4m3fn>(),
                                     std::size_t group = 128) {
  return {.format = format, .scale = StateScale::per_group, .group = group, .expansion = expansion};
}

constexpr RangeExpansion expansions[] = {RangeExpansion::coat_paper, RangeExpansion::coat_code};

/// Log-normal magnitudes of either sign, as moments have them.
std::vector<float> moments(std::size_t size, double spread, std::uint64_t seed) {
  const Random random(seed);
  std::vector<float> result(size);
  for (std::size_t i = 0; i < size; ++i) {
    const double magnitude = 1e-3 * std::exp(spread * random.normal(2 * i));
    result[i] = static_cast<float>(random.normal(2 * i + 1) < 0 ? -magnitude : magnitude);
  }
  return result;
}

/// All numbers of float8_e4m3fn that are not negative, as the standard lists them.
std::vector<double> e4m3_numbers() {
  std::vector<double> result;
  for (int code = 0; code < 127; ++code) {  // 127 is NaN
    const int exponent = code / 8;
    const int fraction = code % 8;
    result.push_back(exponent == 0 ? std::ldexp(fraction, -9)
                                   : std::ldexp(8 + fraction, exponent - 7 - 3));
  }
  return result;
}

/// The paper's and the code's k of the magnitudes of a group, in double.
double k_of(const std::vector<double>& magnitudes, RangeExpansion expansion) {
  double largest = 0;
  double smallest = std::numeric_limits<double>::infinity();
  double smallest_with_zeros = smallest;
  for (const double each : magnitudes) {
    largest = std::max(largest, each);
    if (each > 0) smallest = std::min(smallest, each);
    smallest_with_zeros = std::min(smallest_with_zeros, each);
  }
  if (expansion == RangeExpansion::coat_paper)
    return std::log(229376.0) / std::log(largest / smallest);
  const double ratio = (largest + 1e-30) / (smallest_with_zeros + 1e-30);
  return std::floor(16 * std::log2(100352.0) / std::log2(ratio)) / 16;
}

TEST(EncodedStateFormat, ExpandedGroupsAreThoseOfCoatByItsFormulas) {
  const std::vector<double> table = e4m3_numbers();
  for (const RangeExpansion expansion : expansions) {
    for (const double spread : {0.1, 1.0, 3.0, 8.0}) {
      SCOPED_TRACE(testing::Message() << static_cast<int>(expansion) << " " << spread);
      // Three groups in two chunks; the last group is ragged.
      const std::vector<float> numbers = moments(128 + 128 + 37, spread, 5);
      const Written actual = written(expanded(expansion), numbers);
      for (std::size_t begin = 0; begin < numbers.size(); begin += 128) {
        const std::size_t end = std::min(begin + 128, numbers.size());
        std::vector<double> magnitudes;
        for (std::size_t i = begin; i < end; ++i) {
          magnitudes.push_back(std::abs(static_cast<double>(numbers[i])));
        }
        const double largest = *std::max_element(magnitudes.begin(), magnitudes.end());
        const double k = k_of(magnitudes, expansion);
        EXPECT_EQ(static_cast<double>(actual.state.scales.data()[begin / 128]), largest);
        EXPECT_NEAR(static_cast<double>(actual.state.exponents.data()[begin / 128]), k, 2e-6 * k);
        for (std::size_t i = begin; i < end; ++i) {
          const double expanded_number = 448 * std::pow(magnitudes[i - begin] / largest, k);
          // The nearest by looking at all; which of two, if it is between them but for rounding.
          const auto next = std::lower_bound(table.begin(), table.end(), expanded_number);
          const auto upper = static_cast<std::size_t>(next - table.begin());
          const std::size_t lower = upper == 0 ? 0 : upper - 1;
          const double middle = (table[lower] + table[upper]) / 2;
          const std::size_t nearest = expanded_number < middle ? lower : upper;
          const std::uint8_t code = actual.state.codes.codes()[i];
          const bool is_tie = std::abs(expanded_number / middle - 1) < 1e-4;
          const std::size_t magnitude_code = code & 0x7fU;
          EXPECT_TRUE(magnitude_code == nearest ||
                      (is_tie && (magnitude_code == lower || magnitude_code == upper)))
              << expanded_number << " became " << table[magnitude_code];
          const double back = largest * std::pow(table[magnitude_code] / 448, 1 / k);
          // Logarithms up to 2^7 and their fractions err by 2^-17 and 1e-6, over k.
          EXPECT_NEAR(std::abs(static_cast<double>(actual.numbers[i])), back,
                      back * (2e-6 + 2e-6 / k));
          if (magnitude_code != 0) {
            EXPECT_EQ(std::signbit(actual.numbers[i]), std::signbit(numbers[i]));
          }
        }
      }
    }
  }
}

TEST(EncodedStateFormat, LargestMagnitudeAndZeroOfEachGroupComeBackToTheBit) {
  for (const RangeExpansion expansion : expansions) {
    for (const char* format : {"e4m3fn", "e5m2", "e3m4", "e2m3fn"}) {
      for (std::uint64_t seed = 0; seed < 40; ++seed) {
        std::vector<float> numbers = moments(100, seed % 2 == 0 ? 0.3 : 4, seed);
        numbers[seed] = 0;
        numbers[seed + 1] = -0.0F;
        const Written actual = written(expanded(expansion, Format::parse(format), 32), numbers);
        for (std::size_t begin = 0; begin < numbers.size(); begin += 32) {
          const std::size_t end = std::min(begin + 32, numbers.size());
          std::size_t largest = begin;
          for (std::size_t i = begin; i < end; ++i) {
            if (std::abs(numbers[i]) > std::abs(numbers[largest])) largest = i;
          }
          EXPECT_EQ(actual.numbers[largest], numbers[largest]) << format << " " << seed;
        }
        EXPECT_EQ(std::bit_cast<std::uint32_t>(actual.numbers[seed]), 0U);
        EXPECT_EQ(std::bit_cast<std::uint32_t>(actual.numbers[seed + 1]), 0x8000'0000U);
      }
    }
  }
}

TEST(EncodedStateFormat, GroupsOfOneMagnitudeComeBackToTheBit) {
  for (const RangeExpansion expansion : expansions) {
    for (const float magnitude :
         {1.0F, 3.3e-5F, std::numeric_limits<float>::max(), std::numeric_limits<float>::min()}) {
      std::vector<float> numbers(40, magnitude);
      for (std::size_t i = 0; i < numbers.size(); i += 3) numbers[i] = -magnitude;
      EXPECT_EQ(written(expanded(expansion, Format::of<float8_e4m3fn>(), 16), numbers).numbers,
                numbers);
    }
  }
  // What is 1e-30 or less is nothing beside the addend of the code, which has the same ratio then.
  const std::vector<float> subnormal(17, 1e-40F);
  EXPECT_EQ(written(expanded(RangeExpansion::coat_paper), subnormal).numbers, subnormal);
  EXPECT_EQ(written(expanded(RangeExpansion::coat_code), subnormal).numbers, subnormal);
}

TEST(EncodedStateFormat, GroupsOfZerosStayZero) {
  const std::vector<float> zeros(300, 0.0F);
  for (const RangeExpansion expansion :
       {RangeExpansion::none, RangeExpansion::coat_paper, RangeExpansion::coat_code}) {
    EXPECT_EQ(written(expanded(expansion), zeros).numbers, zeros);
  }
  EXPECT_EQ(written({}, zeros, 0x1p-20F).numbers, zeros);
}

TEST(EncodedStateFormat, AZeroCountsAsSmallestInTheCodeAndNotInThePaper) {
  std::vector<float> numbers(128, 1.0F);
  numbers[5] = 0.25F;
  numbers[9] = 0;
  const float of_paper =
      *written(expanded(RangeExpansion::coat_paper), numbers).state.exponents.data();
  const float of_code =
      *written(expanded(RangeExpansion::coat_code), numbers).state.exponents.data();
  EXPECT_NEAR(of_paper, std::log2(229376.0) / 2, 1e-5);
  EXPECT_EQ(of_code, 0.125F);  // ⌊16 · 16.61 / 99.66⌋ / 16
}

TEST(EncodedStateFormat, NumbersAcrossTheRangeOfFloatKeepTheirOrderOfMagnitude) {
  // Both ends of the range in one group: k is small, and a step of the format a large factor.
  for (const RangeExpansion expansion : expansions) {
    std::vector<float> numbers;
    for (int exponent = -95; exponent <= 120; exponent += 5) {
      numbers.push_back(std::ldexp(1.0F, exponent));
    }
    const Written actual = written(expanded(expansion), numbers);
    const double k = static_cast<double>(*actual.state.exponents.data());
    for (std::size_t i = 0; i < numbers.size(); ++i) {
      const double ratio = static_cast<double>(actual.numbers[i]) / static_cast<double>(numbers[i]);
      // Half a step of the format at its coarsest, of the smallest number, is a factor of 2.
      EXPECT_LE(std::abs(std::log2(ratio)), 1 / k + 1e-4) << numbers[i];
    }
  }
}

TEST(EncodedStateFormat, WhatIsNotFiniteIsSeenAndMovesNoScale) {
  for (const RangeExpansion expansion :
       {RangeExpansion::none, RangeExpansion::coat_paper, RangeExpansion::coat_code}) {
    for (const char* format : {"e4m3fn", "e5m2"}) {
      std::vector<float> numbers = moments(128, 1, 3);
      const Written before = written(expanded(expansion, Format::parse(format)), numbers);
      numbers.resize(256, 0.5F);
      numbers[140] = infinity;
      numbers[150] = -infinity;
      numbers[160] = nan;
      const Written actual = written(expanded(expansion, Format::parse(format)), numbers);
      for (std::size_t i = 0; i < 128; ++i) EXPECT_EQ(actual.numbers[i], before.numbers[i]);
      for (const std::size_t i : {140U, 150U, 160U}) EXPECT_FALSE(std::isfinite(actual.numbers[i]));
      EXPECT_TRUE(std::isnan(actual.numbers[160]));
      if (std::string(format) == "e5m2") {
        EXPECT_EQ(actual.numbers[150], -infinity);
      }
      for (std::size_t i = 128; i < 256; ++i) {
        if (i != 140 && i != 150 && i != 160) {
          EXPECT_NEAR(actual.numbers[i], 0.5F, 0x1p-25F);
        }
      }
    }
  }
  // A group with nothing else.
  const std::vector<float> numbers{nan, infinity};
  for (const RangeExpansion expansion : expansions) {
    for (const float number : written(expanded(expansion), numbers).numbers) {
      EXPECT_FALSE(std::isfinite(number));
    }
  }
}

TEST(EncodedStateFormat, ScaleOfATensorIsTheLeastPowerOfTwoWithoutOverflow) {
  struct Case {
    const char* format;
    float largest;
    float scale;
  };
  constexpr Case cases[] = {{"e4m3fn", 448, 1},
                            {"e4m3fn", 448.00003F, 2},
                            {"e4m3fn", 447, 1},
                            {"e4m3fn", 224, 0.5F},
                            {"e4m3fn", 1, 0x1p-8F},
                            {"e4m3fn", 1.75F, 0x1p-8F},
                            {"e4m3fn", 1.76F, 0x1p-7F},
                            {"float16", 65504, 1},
                            {"float16", 65505, 2},
                            {"float16", 1, 0x1p-15F},
                            {"e5m2", 57344, 1},
                            {"e5m2", 0x1p-20F, 0x1p-35F},
                            {"e4m3fn", 1e-44F, 0x1p-127F},
                            {"e4m3fn", std::numeric_limits<float>::max(), 0x1p120F},
                            {"e4m3fn", 0, 16}};
  for (const Case& each : cases) {
    const EncodedStateFormat format({.format = Format::parse(each.format)});
    EXPECT_EQ(format.tensor_scale(each.largest, 16), each.scale)
        << each.format << " " << each.largest;
  }
}

TEST(EncodedStateFormat, UnderTheScaleOfATensorOrNoneNumbersAreRoundedToTheGridAndSaturate) {
  const std::vector<double> table = e4m3_numbers();
  for (const StateScale kind : {StateScale::none, StateScale::per_tensor}) {
    // Some numbers are beyond 448 of the scale 1, and none beyond 448 · 2^3.
    const float scale = kind == StateScale::none ? 1.0F : 8.0F;
    std::vector<float> numbers = moments(1500, 2, 9);
    for (float& each : numbers) each *= 0x1p10F;
    const std::vector<float> actual = written({.scale = kind}, numbers, scale).numbers;
    bool has_saturated = false;
    for (std::size_t i = 0; i < numbers.size(); ++i) {
      const double x = std::abs(static_cast<double>(numbers[i])) / static_cast<double>(scale);
      double nearest = 0;
      for (const double each : table) {
        if (std::abs(each - x) < std::abs(nearest - x)) nearest = each;
      }
      EXPECT_EQ(std::abs(static_cast<double>(actual[i])), nearest * static_cast<double>(scale))
          << numbers[i];
      has_saturated = has_saturated || x > 448;
    }
    EXPECT_EQ(has_saturated, kind == StateScale::none);
  }
}

TEST(EncodedStateFormat, AMasterCopyReadsAsAStateOfTheSameNumbers) {
  for (const EncodedStateFormat::Options& options :
       {EncodedStateFormat::Options{.format = Format::of<float16>()},
        EncodedStateFormat::Options{.format = Format::of<bfloat16>(), .scale = StateScale::none},
        EncodedStateFormat::Options{.rounding = Rounding::stochastic, .seed = 3}}) {
    const EncodedStateFormat format(options);
    const std::vector<float> numbers = moments(1024 + 200, 1, 4);
    EncodedMasterCopy copy = format.master_copy({numbers.size()});
    float largest = 0;
    for (const float each : numbers) largest = std::max(largest, std::abs(each));
    const float scale = format.has_tensor_scale() ? format.tensor_scale(largest, 1) : 1;
    format.encode_master_copy(Array<float>({numbers.size()}, numbers), largest, {7, 2}, copy);
    Parameter parameter{"p", {}};
    parameter.encoded = copy;
    EXPECT_TRUE(format.is_master_copy_of(parameter));
    const Array<float> actual = copy.decode(copy.codes, nullptr);
    EXPECT_EQ(std::vector<float>(actual.span().begin(), actual.span().end()),
              written(options, numbers, scale, {7, 2}).numbers);
    const EncodedStateFormat other({.format = Format::of<float16>(), .scale = StateScale::none});
    EXPECT_FALSE(other.is_master_copy_of(parameter));
  }
  expect_domain_error(
      [] { (void)EncodedStateFormat(expanded(RangeExpansion::coat_code)).master_copy({4}); },
      {"EncodedStateFormat", "groups"});
}

TEST(EncodedStateFormat, StochasticRoundingIsRightOnAverageAndKeyedByStepAndState) {
  // 1/3 of the way from 1 to 1.125 at each of many elements.
  const std::vector<float> numbers(16384, 1 + 0.125F / 3);
  const EncodedStateFormat::Options options{.rounding = Rounding::stochastic, .seed = 1};
  const std::vector<float> first = written(options, numbers).numbers;
  double sum = 0;
  for (const float each : first) {
    EXPECT_TRUE(each == 1 || each == 1.125F);
    sum += static_cast<double>(each);
  }
  // Five standard errors of a share of 1/3.
  const double error = 0.125 * 5 * std::sqrt(2.0 / 9 / 16384);
  EXPECT_NEAR(sum / 16384, 1 + 0.125 / 3, error);
  EXPECT_EQ(written(options, numbers).numbers, first);
  EXPECT_NE(written(options, numbers, 1, {2, 0}).numbers, first);
  EXPECT_NE(written(options, numbers, 1, {1, 1}).numbers, first);
}

TEST(EncodedStateFormat, TakesTheBytesOfItsCodesAndScales) {
  const Shape shape{3, 100};
  const auto bytes = [&](const EncodedStateFormat::Options& options) {
    return EncodedStateFormat(options).zeros(shape).bytes();
  };
  EXPECT_EQ(bytes({.scale = StateScale::none}), 300U);
  EXPECT_EQ(bytes({}), 300U + 8);
  EXPECT_EQ(bytes({.format = Format::of<float16>()}), 600U + 8);
  EXPECT_EQ(bytes(expanded(RangeExpansion::none)), 300U + 3 * 4);
  EXPECT_EQ(bytes(expanded(RangeExpansion::coat_code)), 300U + 3 * 8);
  EXPECT_EQ(bytes({.format = Format::parse("e2m1fn")}), 150U + 8);
}

TEST(EncodedStateFormat, RefusesWhatItCannotDo) {
  const auto refuses = [](const EncodedStateFormat::Options& options, const char* what) {
    expect_domain_error([&] { const EncodedStateFormat format(options); },
                        {"EncodedStateFormat", what});
  };
  refuses({.format = Format::of<double>()}, "float64");
  refuses({.format = Format::parse("float8_e8m0fnu")}, "e8m0");
  refuses({.group = 100}, "100");
  refuses({.group = 8}, "8");
  refuses({.group = 512}, "512");
  refuses({.expansion = RangeExpansion::coat_code}, "per group");
  refuses(expanded(RangeExpansion::coat_code, Format::of<float16>()), "at most 8 bits");
  // Its largest number is below 1, so a scale could be beyond float.
  refuses({.format = Format::parse("e4m3b20"), .scale = StateScale::per_group}, "from 1 on");
}

}  // namespace encoded_state_format_test
