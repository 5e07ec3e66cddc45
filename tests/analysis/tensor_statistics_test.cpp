// SPDX-License-Identifier: MIT
#include "unit_scaling/analysis/tensor_statistics.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include "support/far_rows.hpp"
#include "support/random_arrays.hpp"
#include "support/threads.hpp"
#include "unit_scaling/formats/format.hpp"

namespace tensor_statistics_test {

using unit_scaling::Format;
using unit_scaling::Overflow;
using unit_scaling::analysis::RoundingThresholds;
using unit_scaling::analysis::tensor_statistics;
using unit_scaling::analysis::TensorStatistics;

constexpr float nan = std::numeric_limits<float>::quiet_NaN();
constexpr float infinity = std::numeric_limits<float>::infinity();

const std::vector<std::string> formats{"float32",       "float16",       "bfloat16",
                                       "float8_e4m3fn", "float8_e5m2",   "float8_e4m3fnuz",
                                       "float6_e2m3fn", "float6_e3m2fn", "float4_e2m1fn",
                                       "float8_e4m3",   "float8_e3m4",   "float8_e5m2fnuz"};

/// What a plain loop over the elements finds, each rounded on its own.
struct Counted {
  std::uint64_t zeros = 0;
  std::uint64_t non_finite = 0;
  std::uint64_t underflowed = 0;
  std::uint64_t subnormal = 0;
  std::uint64_t saturated = 0;
  double min_magnitude = 0;
  double max_magnitude = 0;
  std::map<int, std::uint64_t> exponents;
};

Counted count(const std::vector<float>& elements, const Format& format) {
  Counted result;
  for (const float element : elements) {
    if (!std::isfinite(element)) {
      ++result.non_finite;
      continue;
    }
    const double magnitude = std::abs(static_cast<double>(element));
    const double rounded =
        std::abs(static_cast<double>(format.quantise(element, Overflow::saturate)));
    result.max_magnitude = std::max(result.max_magnitude, magnitude);
    if (magnitude == 0) {
      ++result.zeros;
      continue;
    }
    if (result.min_magnitude == 0 || magnitude < result.min_magnitude) {
      result.min_magnitude = magnitude;
    }
    ++result.exponents[std::ilogb(magnitude)];
    if (rounded == 0) ++result.underflowed;
    if (rounded > 0 && rounded < format.spec().min_normal()) ++result.subnormal;
    if (rounded == format.spec().max_finite()) ++result.saturated;
  }
  return result;
}

void expect_counts(const std::vector<float>& elements, const std::string& format_name) {
  const Format format = Format::parse(format_name);
  const TensorStatistics measured = tensor_statistics(elements, RoundingThresholds(format));
  const Counted expected = count(elements, format);
  EXPECT_EQ(measured.elements, elements.size());
  EXPECT_EQ(measured.histogram.elements(), elements.size());
  EXPECT_EQ(measured.histogram.zeros, expected.zeros);
  EXPECT_EQ(measured.histogram.non_finite, expected.non_finite);
  EXPECT_EQ(measured.underflowed, expected.underflowed);
  EXPECT_EQ(measured.subnormal, expected.subnormal);
  EXPECT_EQ(measured.saturated, expected.saturated);
  EXPECT_EQ(measured.min_magnitude, expected.min_magnitude);
  EXPECT_EQ(measured.max_magnitude, expected.max_magnitude);
  std::map<int, std::uint64_t> exponents;
  for (int exponent = -160; exponent <= 140; ++exponent) {
    if (const auto n = measured.histogram.count(exponent); n > 0) exponents[exponent] = n;
  }
  EXPECT_EQ(exponents, expected.exponents);
  if (!expected.exponents.empty()) {
    EXPECT_EQ(measured.histogram.first_exponent, expected.exponents.begin()->first);
    EXPECT_GT(measured.histogram.counts.back(), 0U);
  }
}

/// Every magnitude at which something changes in the format, both its neighbours, and both signs.
std::vector<float> adversarial(const Format& format) {
  const auto& spec = format.spec();
  const double last_place = std::ldexp(1, spec.max_exponent() - spec.mantissa_bits);
  std::vector<float> elements{0,
                              -0.0F,
                              nan,
                              -nan,
                              infinity,
                              -infinity,
                              std::numeric_limits<float>::max(),
                              std::numeric_limits<float>::min(),
                              std::numeric_limits<float>::denorm_min(),
                              0x1.8p-140F,
                              1};
  for (const double edge :
       {spec.min_subnormal() / 2, spec.min_subnormal(), 1.5 * spec.min_subnormal(),
        spec.min_normal() - spec.min_subnormal() / 2, spec.min_normal() - spec.min_subnormal(),
        spec.min_normal(), spec.max_finite() - last_place, spec.max_finite() - last_place / 2,
        spec.max_finite(), spec.max_finite() + last_place / 2, spec.max_finite() + last_place}) {
    const auto value = static_cast<float>(edge);
    for (const float near : {value, std::nextafter(value, 0.0F), std::nextafter(value, infinity)}) {
      elements.push_back(near);
      elements.push_back(-near);
    }
  }
  return elements;
}

TEST(TensorStatistics, CountsAreThoseOfEveryElementRoundedOnItsOwn) {
  for (const std::string& name : formats) {
    SCOPED_TRACE(name);
    const std::vector<float> elements = adversarial(Format::parse(name));
    expect_counts(elements, name);
    // Each alone, and sizes about a register, which find every element at every place.
    for (std::size_t i = 0; i < elements.size(); ++i) expect_counts({elements[i]}, name);
    for (std::size_t size = 0; size <= elements.size(); ++size) {
      expect_counts({elements.end() - static_cast<std::ptrdiff_t>(size), elements.end()}, name);
    }
  }
}

TEST(TensorStatistics, CountsOfManyElementsOfAllBitPatternsAreRight) {
  // An odd step through all bit patterns; the size is no multiple of a piece or a register.
  std::vector<float> elements(3 * (std::size_t{1} << 15) + 13);
  std::uint32_t bits = 1;
  for (float& element : elements) element = std::bit_cast<float>(bits += 0x9e37'79b9U);
  for (const std::string& name : formats) {
    SCOPED_TRACE(name);
    expect_counts(elements, name);
  }
}

TEST(TensorStatistics, CountsOfLongTensorsAreRightInAndBesideTheUsualRange) {
  for (const std::string& name : formats) {
    const std::vector<float> edges = adversarial(Format::parse(name));
    const auto array = unit_scaling_test::normal_array<float>({2500}, 11);
    for (const std::size_t size : {1023U, 1024U, 1025U, 2048U, 2500U}) {
      SCOPED_TRACE(name + ", " + std::to_string(size) + " elements");
      const std::vector<float> usual(array.data(), array.data() + size);
      expect_counts(usual, name);
      std::vector<float> repeated(size);
      for (std::size_t i = 0; i < size; ++i) repeated[i] = edges[i % edges.size()];
      expect_counts(repeated, name);
      // One odd element among usual ones, in the lanes and behind them.
      for (const float odd :
           {0.0F, 0x1p-46F, 0x1.fp-47F, 0x1p-127F, 0x1.fp15F, 0x1p16F, 3e38F, infinity, nan}) {
        for (const std::size_t place : {std::size_t{0}, size / 2, size - 1}) {
          std::vector<float> elements = usual;
          elements[place] = odd;
          expect_counts(elements, name);
        }
      }
    }
  }
}

TEST(TensorStatistics, MomentsAreThoseOfTheFiniteElements) {
  auto elements = unit_scaling_test::normal_array<float>({70001}, 3);
  std::vector<float> values(elements.data(), elements.data() + elements.size());
  for (const double shift : {0.0, 3.0, 1e6}) {
    std::vector<float> shifted;
    for (const float value : values) shifted.push_back(static_cast<float>(value + shift));
    long double sum = 0;
    for (const float value : shifted) sum += value;
    const long double mean = sum / static_cast<long double>(shifted.size());
    long double squares = 0;
    long double deviations = 0;
    for (const float value : shifted) {
      squares += static_cast<long double>(value) * value;
      deviations += (value - mean) * (value - mean);
    }
    const auto n = static_cast<long double>(shifted.size());
    shifted.insert(shifted.begin() + 5, {nan, infinity, -infinity});
    shifted.insert(shifted.begin(), nan);
    shifted.push_back(-infinity);
    const TensorStatistics measured =
        tensor_statistics(shifted, RoundingThresholds(Format::parse("float32")));
    EXPECT_NEAR(measured.mean, static_cast<double>(mean), 1e-13 * (1 + shift));
    EXPECT_NEAR(measured.rms, static_cast<double>(std::sqrt(squares / n)), 1e-13 * (1 + shift));
    // Also where the mean is a million deviations away.
    EXPECT_NEAR(measured.std, static_cast<double>(std::sqrt(deviations / n)), 1e-13);
  }
}

TEST(TensorStatistics, CountsUnderAFormatOfScalesAreThoseOfPositiveElements) {
  // It has neither zero nor subnormal numbers, so that nothing is lost below.
  const Format format = Format::parse("float8_e8m0fnu");
  std::vector<float> elements;
  for (const float element : adversarial(format)) {
    if (!std::signbit(element)) elements.push_back(element);
  }
  expect_counts(elements, "float8_e8m0fnu");
  const TensorStatistics measured = tensor_statistics(elements, RoundingThresholds(format));
  EXPECT_EQ(measured.underflowed, 0U);
  EXPECT_EQ(measured.subnormal, 0U);
  EXPECT_GT(measured.saturated, 0U);
}

TEST(TensorStatistics, ALoneOutlierInFrontSpoilsNoMoment) {
  // Differences from the first element are all near 10⁸ here; their squares leave nothing of the
  // deviations of the others.
  auto array = unit_scaling_test::normal_array<float>({200001}, 5);
  std::vector<float> elements(array.data(), array.data() + array.size());
  for (const float outlier : {1e4F, -1e8F, 1e30F, 0x1.fffffep127F}) {
    elements.front() = outlier;
    for (const bool has_nan : {false, true}) {
      elements.back() = has_nan ? nan : 1;
      long double sum = 0;
      long double squares = 0;
      long double deviations = 0;
      const auto n = static_cast<long double>(elements.size() - (has_nan ? 1 : 0));
      for (const float element : elements) sum += std::isnan(element) ? 0 : element;
      for (const float element : elements) {
        if (std::isnan(element)) continue;
        squares += static_cast<long double>(element) * element;
        deviations += (element - sum / n) * (element - sum / n);
      }
      const TensorStatistics measured =
          tensor_statistics(elements, RoundingThresholds(Format::parse("float32")));
      const auto expect_close = [&](double value, long double expected) {
        EXPECT_NEAR(value, static_cast<double>(expected),
                    1e-12 * std::abs(static_cast<double>(expected)))
            << outlier;
      };
      expect_close(measured.mean, sum / n);
      expect_close(measured.rms, std::sqrt(squares / n));
      expect_close(measured.std, std::sqrt(deviations / n));
      EXPECT_EQ(measured.max_magnitude, std::abs(static_cast<double>(outlier)));
    }
  }
}

TEST(TensorStatistics, OfMoreElementsThanAFloatCountsIsRight) {
  // 0, then 2^24 numbers in turns of 1 and 3: sums in float would stick at 2^24.
  constexpr std::size_t twos = std::size_t{1} << 24;
  std::vector<float> elements(twos + 1, 1);
  elements[0] = 0;
  for (std::size_t i = 2; i < elements.size(); i += 2) elements[i] = 3;
  const TensorStatistics measured =
      tensor_statistics(elements, RoundingThresholds(Format::parse("float8_e4m3fn")));
  constexpr auto n = static_cast<double>(twos + 1);
  constexpr double mean = 2 * static_cast<double>(twos) / n;
  constexpr double mean_square = 5 * static_cast<double>(twos) / n;
  EXPECT_EQ(measured.elements, twos + 1);
  EXPECT_DOUBLE_EQ(measured.mean, mean);
  EXPECT_DOUBLE_EQ(measured.rms, std::sqrt(mean_square));
  EXPECT_DOUBLE_EQ(measured.std, std::sqrt(mean_square - mean * mean));
  EXPECT_EQ(measured.histogram.zeros, 1U);
  EXPECT_EQ(measured.histogram.count(0), twos / 2);
  EXPECT_EQ(measured.histogram.count(1), twos / 2);
}

TEST(ExponentHistogram, CountsOutsideOfItsBinsAreNone) {
  // From the smallest binary32 number to the largest.
  const auto histogram =
      tensor_statistics(std::vector<float>{0x1p-149F, -0x1.fffffep127F, 0, -0.0F, infinity},
                        RoundingThresholds(Format::parse("float32")))
          .histogram;
  EXPECT_EQ(histogram.first_exponent, -149);
  EXPECT_EQ(histogram.counts.size(), 277U);
  EXPECT_EQ(histogram.count(-149), 1U);
  EXPECT_EQ(histogram.count(127), 1U);
  EXPECT_EQ(histogram.zeros, 2U);
  EXPECT_EQ(histogram.non_finite, 1U);
  constexpr int least = std::numeric_limits<int>::min();
  constexpr int greatest = std::numeric_limits<int>::max();
  for (const int exponent : {-150, 128, 0, least, greatest}) {
    EXPECT_EQ(histogram.count(exponent), 0U) << exponent;
    EXPECT_EQ(unit_scaling::analysis::ExponentHistogram{}.count(exponent), 0U) << exponent;
  }
}

TEST(TensorStatistics, MomentsOfExtremesAreRight) {
  const RoundingThresholds float32(Format::parse("float32"));
  const auto measure = [&](const std::vector<float>& elements) {
    return tensor_statistics(elements, float32);
  };
  EXPECT_EQ(measure({}).rms, 0);
  EXPECT_EQ(measure({}).share(0), 0);
  EXPECT_EQ(measure({nan, infinity}).max_magnitude, 0);
  EXPECT_EQ(measure({nan, infinity}).share(2), 1);
  EXPECT_EQ(measure({-3}).mean, -3);
  EXPECT_EQ(measure({-3}).rms, 3);
  EXPECT_EQ(measure({-3}).std, 0);
  // No multiple of it is exact in binary, yet it deviates from itself by nothing.
  EXPECT_EQ(measure(std::vector<float>(1000, 0.1F)).std, 0);
  EXPECT_EQ(measure(std::vector<float>(1000, 0.1F)).rms, static_cast<double>(0.1F));
  const float largest = std::numeric_limits<float>::max();
  EXPECT_EQ(measure({largest, -largest}).rms, static_cast<double>(largest));
  EXPECT_EQ(measure({largest, -largest}).mean, 0);
  EXPECT_DOUBLE_EQ(measure({3, -4, 0, -0.0F, 1}).rms, std::sqrt(5.2));
}

TEST(TensorStatistics, NoBitDependsOnTheThreadCount) {
  const auto elements = unit_scaling_test::normal_array<float>({200003}, 9);
  const RoundingThresholds thresholds(Format::parse("float8_e4m3fn"));
  const auto measure = [&](std::size_t threads) {
    const unit_scaling_test::ThreadCountScope scope(threads);
    return tensor_statistics(elements.span(), thresholds);
  };
  const TensorStatistics one = measure(1);
  for (const std::size_t threads : {2U, 5U}) {
    const TensorStatistics many = measure(threads);
    EXPECT_EQ(one.mean, many.mean);
    EXPECT_EQ(one.rms, many.rms);
    EXPECT_EQ(one.std, many.std);
    EXPECT_EQ(one.histogram, many.histogram);
    EXPECT_EQ(one.subnormal, many.subnormal);
  }
}

// Differences from a pivot are exact or rounded in double, and their sums of n terms are within
// n 2^-53 of the sums of magnitudes; the square of the mean's distance from the pivot, which is
// taken off, is at most 2^10 times the variance.
TEST(TensorStatistics, MomentsAreRightWhateverTheMeanAndTheScale) {
  for (const std::size_t size : std::vector<std::size_t>{1, 2, 3, 31, 768, 5000, 200001}) {
    for (const auto& row : unit_scaling_test::far_rows(size)) {
      SCOPED_TRACE(row.name + " × " + std::to_string(size));
      const auto n = static_cast<long double>(size);
      // From an element that is no outlier, or a large mean would be rounded in long double, too.
      const auto origin = static_cast<long double>(row.elements[size / 3]);
      long double offset = 0;
      long double squares = 0;
      for (const float element : row.elements) {
        const auto v = static_cast<long double>(element);
        offset += (v - origin) / n;
        squares += v * v / n;
      }
      long double variance = 0;
      for (const float element : row.elements) {
        const long double v = static_cast<long double>(element) - origin - offset;
        variance += v * v / n;
      }
      const long double mean = origin + offset;
      const auto measured =
          tensor_statistics(row.elements, RoundingThresholds(Format::parse("float32")));
      const long double spread = std::sqrt(variance);
      const long double tolerance = n * 0x1p-52L;
      EXPECT_LE(std::abs(static_cast<long double>(measured.mean) - mean),
                64 * tolerance * spread + 0x1p-52L * std::abs(mean));
      EXPECT_LE(std::abs(static_cast<long double>(measured.std) - spread),
                1024 * tolerance * spread);
      EXPECT_LE(std::abs(static_cast<long double>(measured.rms) - std::sqrt(squares)),
                1024 * tolerance * std::sqrt(squares));
    }
  }
}

}  // namespace tensor_statistics_test
