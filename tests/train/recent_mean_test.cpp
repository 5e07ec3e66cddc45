// SPDX-License-Identifier: MIT
#include "unit_scaling/train/recent_mean.hpp"

#include <gtest/gtest.h>

#include <cmath>

#include "support/errors.hpp"

namespace recent_mean_test {

using unit_scaling::train::RecentMean;

TEST(RecentMean, IsThatOfTheLastValues) {
  RecentMean mean(3);
  EXPECT_EQ(mean.add(3), 3);
  EXPECT_EQ(mean.add(5), 4);
  EXPECT_EQ(mean.add(10), 6);
  EXPECT_EQ(mean.add(0), 5);
  RecentMean of_fifty;
  for (int i = 1; i <= 49; ++i) of_fifty.add(i);
  EXPECT_EQ(of_fifty.add(50), 25.5);
  EXPECT_EQ(of_fifty.add(51), 26.5);
}

TEST(RecentMean, ForgetsWhatIsNotFinite) {
  RecentMean mean(2);
  EXPECT_TRUE(std::isnan(mean.add(std::nan(""))));
  EXPECT_TRUE(std::isnan(mean.add(1)));
  EXPECT_EQ(mean.add(3), 2);
}

TEST(RecentMean, RefusesAnEmptyWindow) {
  unit_scaling_test::expect_domain_error([] { RecentMean mean(0); }, {"RecentMean", "window"});
}

}  // namespace recent_mean_test
