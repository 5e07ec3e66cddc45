// SPDX-License-Identifier: MIT
#include "unit_scaling/analysis/quantile.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <stdexcept>
#include <utility>
#include <vector>

namespace quantile_test {

using unit_scaling::analysis::median;
using unit_scaling::analysis::quantile;

// Quartiles are those of Python's statistics.quantiles(values, n=4, method='inclusive').
TEST(Quantile, IsThatOfDefinitionSeven) {
  const std::vector<double> odd{7, 1, 5, 3, 20};
  EXPECT_EQ(quantile(odd, 0), 1);
  EXPECT_EQ(quantile(odd, 0.25), 3);
  EXPECT_EQ(quantile(odd, 0.5), 5);
  EXPECT_EQ(quantile(odd, 0.75), 7);
  EXPECT_EQ(quantile(odd, 1), 20);
  const std::vector<double> even{4, 1, 2, 8};
  EXPECT_EQ(quantile(even, 0.25), 1.75);
  EXPECT_EQ(quantile(even, 0.5), 3);
  EXPECT_EQ(quantile(even, 0.75), 5);
}

TEST(Quantile, OfOneValueIsThatValue) {
  for (const double share : {0.0, 0.25, 0.5, 1.0}) EXPECT_EQ(quantile({2.5}, share), 2.5);
}

TEST(Quantile, IsThatOfNumPy) {
  const std::vector<std::pair<std::vector<double>, std::vector<double>>> cases{
      {{2, 1}, {1.25, 1.5, 1.75}},
      {{8, 1, 2}, {1.5, 2, 5}},
      {{4, 1, 16, 8}, {3.25, 6, 10}},
      {{7, 7, 7, 0, 7, 7, 1000}, {7, 7, 7}}};
  for (const auto& [values, expected] : cases) {
    const std::vector quartiles{quantile(values, 0.25), quantile(values, 0.5),
                                quantile(values, 0.75)};
    EXPECT_EQ(quartiles, expected) << testing::PrintToString(values);
  }
}

TEST(Quantile, IsRefusedWithoutValuesAndForNoShare) {
  EXPECT_THROW(static_cast<void>(quantile({}, 0.5)), std::invalid_argument);
  EXPECT_THROW(static_cast<void>(median({})), std::invalid_argument);
  for (const double share : {-0.1, 1.1, std::nan("")}) {
    EXPECT_THROW(static_cast<void>(quantile({1, 2}, share)), std::invalid_argument) << share;
  }
}

TEST(Quantile, OfInfinitiesIsOneOfThem) {
  const double infinity = std::numeric_limits<double>::infinity();
  EXPECT_EQ(median({infinity, infinity}), infinity);
  EXPECT_EQ(median({-infinity, 1}), -infinity);
  EXPECT_EQ(median({1, infinity}), infinity);
  EXPECT_EQ(quantile({-infinity, -infinity, 1}, 0.25), -infinity);
  EXPECT_EQ(median({-1.7e308, 1.7e308}), 0);
  EXPECT_THROW(static_cast<void>(median({std::nan(""), 1, 2})), std::invalid_argument);
}

TEST(Median, IsTheMiddleOrTheMeanOfTheTwoInTheMiddle) {
  EXPECT_EQ(median({9, 1, 2}), 2);
  EXPECT_EQ(median({9, 1, 2, 4}), 3);
}

}  // namespace quantile_test
