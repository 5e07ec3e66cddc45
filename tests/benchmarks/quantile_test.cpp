// SPDX-License-Identifier: MIT
#include "quantile.hpp"

#include <gtest/gtest.h>

#include <vector>

namespace quantile_test {

using unit_scaling_benchmarks::median;
using unit_scaling_benchmarks::quantile;

// The quartiles are those of Python's statistics.quantiles(values, n=4, method='inclusive').
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

TEST(Median, IsTheMiddleOrTheMeanOfTheTwoInTheMiddle) {
  EXPECT_EQ(median({9, 1, 2}), 2);
  EXPECT_EQ(median({9, 1, 2, 4}), 3);
}

}  // namespace quantile_test
