// SPDX-License-Identifier: MIT
#include "unit_scaling/analysis/format_losses.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "support/random_arrays.hpp"
#include "unit_scaling/analysis/tensor_statistics.hpp"
#include "unit_scaling/formats/format.hpp"

namespace format_losses_test {

using unit_scaling::Format;
using unit_scaling::FormatSpec;
using unit_scaling::Overflow;
using unit_scaling::analysis::ExponentHistogram;
using unit_scaling::analysis::format_losses;
using unit_scaling::analysis::FormatLosses;
using unit_scaling::analysis::narrow_formats;
using unit_scaling::analysis::RoundingThresholds;
using unit_scaling::analysis::tensor_statistics;

/// What becomes of each element, rounded on its own with an overflow that shows.
FormatLosses losses_of(const std::vector<float>& elements, const FormatSpec& spec) {
  FormatLosses result;
  const Format format(spec);
  const double half_last_place = std::ldexp(1, spec.max_exponent() - spec.mantissa_bits - 1);
  for (const float element : elements) {
    const double rounded =
        std::abs(static_cast<double>(format.quantise(element, Overflow::saturate)));
    const double magnitude = std::abs(static_cast<double>(element));
    result.underflowed += magnitude > 0 && rounded == 0 ? 1 : 0;
    result.subnormal += rounded > 0 && rounded < spec.min_normal() ? 1 : 0;
    result.overflowed += magnitude > spec.max_finite() + half_last_place ? 1 : 0;
  }
  const auto n = static_cast<double>(elements.size());
  return {result.underflowed / n, result.subnormal / n, result.overflowed / n};
}

ExponentHistogram histogram_of(const std::vector<float>& elements) {
  return tensor_statistics(elements, RoundingThresholds(Format::parse("float32"))).histogram;
}

TEST(FormatLosses, AreExactWhereNoThresholdDividesAnOccupiedBin) {
  for (const FormatSpec& spec : narrow_formats) {
    SCOPED_TRACE(std::to_string(spec.exponent_bits) + " exponent bits");
    // 1.5 times each power of two, -0 too, but for the bins that hold the upper two thresholds.
    std::vector<float> elements{0, -0.0F};
    for (int exponent = -40; exponent <= 30; ++exponent) {
      if (exponent == spec.max_exponent() || exponent == spec.min_normal_exponent() - 1) continue;
      for (int i = 0; i < exponent + 41; ++i) elements.push_back(std::ldexp(1.5F, exponent));
    }
    const FormatLosses expected = losses_of(elements, spec);
    const FormatLosses judged = format_losses(histogram_of(elements), spec);
    EXPECT_DOUBLE_EQ(judged.underflowed, expected.underflowed);
    EXPECT_NEAR(judged.subnormal, expected.subnormal, 1e-15);
    EXPECT_NEAR(judged.overflowed, expected.overflowed, 1e-15);
    EXPECT_GT(expected.underflowed, 0);
    EXPECT_GT(expected.overflowed, 0);
  }
}

TEST(FormatLosses, OfNormalNumbersErrByLessThanTheBinThatAThresholdDivides) {
  for (const double scale : {0x1p-14, 0.01, 1.0, 100.0, 20000.0}) {
    const auto array = unit_scaling_test::normal_array<float>({100000}, 5);
    std::vector<float> elements;
    for (const float element : array.span()) {
      elements.push_back(static_cast<float>(element * scale));
    }
    const ExponentHistogram histogram = histogram_of(elements);
    std::vector<FormatSpec> specs(narrow_formats.begin(), narrow_formats.end());
    for (const char* name : {"bfloat16", "float8_e4m3fnuz", "float8_e3m4", "float8_e5m2fnuz"}) {
      specs.push_back(Format::parse(name).spec());
    }
    for (const FormatSpec& spec : specs) {
      SCOPED_TRACE(std::to_string(spec.exponent_bits) + " exponent bits, " +
                   std::to_string(spec.mantissa_bits) + " of fraction, times " +
                   std::to_string(scale));
      const FormatLosses expected = losses_of(elements, spec);
      const FormatLosses judged = format_losses(histogram, spec);
      const auto share = [&](int exponent) {
        return static_cast<double>(histogram.count(exponent)) / 1e5 + 1e-12;
      };
      EXPECT_NEAR(judged.underflowed, expected.underflowed, 1e-12);
      const double normal_bin = share(spec.min_normal_exponent() - 1);
      EXPECT_NEAR(judged.subnormal, expected.subnormal, std::min(0.05, normal_bin));
      const double largest_bin = share(spec.max_exponent());
      EXPECT_NEAR(judged.overflowed, expected.overflowed, std::min(0.05, largest_bin));
    }
  }
}

TEST(FormatLosses, OfEvenlySpreadElementsAreExactWhereAThresholdDividesTheirBin) {
  for (const FormatSpec& spec : narrow_formats) {
    const auto judged_and_expected = [&](int exponent) {
      std::vector<float> elements;
      for (int i = 0; i < 4096; ++i) {
        elements.push_back(std::ldexp(1 + (static_cast<float>(i) + 0.5F) / 4096, exponent));
      }
      return std::pair{format_losses(histogram_of(elements), spec), losses_of(elements, spec)};
    };
    const auto [judged, expected] = judged_and_expected(spec.max_exponent());
    EXPECT_DOUBLE_EQ(judged.overflowed, expected.overflowed);
    EXPECT_GT(expected.overflowed, 0);
    EXPECT_LT(expected.overflowed, 1);
    const auto [low, low_expected] = judged_and_expected(spec.min_normal_exponent() - 1);
    EXPECT_DOUBLE_EQ(low.subnormal, low_expected.subnormal);
    EXPECT_GT(low_expected.subnormal, 0);
    EXPECT_LT(low_expected.subnormal, 1);
  }
}

TEST(FormatLosses, SharesAreOfAllElements) {
  // Of eight elements one is infinite, one zero, three underflow in E4M3 and one overflows.
  const ExponentHistogram histogram{
      .first_exponent = -12,
      .counts = {3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 1},
      .zeros = 1,
      .non_finite = 1};
  const FormatLosses losses = format_losses(histogram, unit_scaling::float8_e4m3fn::format);
  EXPECT_EQ(losses.underflowed, 3.0 / 8);
  EXPECT_EQ(losses.subnormal, 0);
  EXPECT_EQ(losses.overflowed, 1.0 / 8);
  EXPECT_EQ(format_losses({}, unit_scaling::float8_e4m3fn::format).underflowed, 0);
  EXPECT_THROW(static_cast<void>(format_losses(histogram, unit_scaling::float8_e8m0fnu::format)),
               std::invalid_argument);
}

}  // namespace format_losses_test
