// SPDX-License-Identifier: MIT
#include "unit_scaling/distributed/deadline.hpp"

#include <gtest/gtest.h>

#include <chrono>
#include <thread>

namespace deadline_test {

using std::chrono::milliseconds;
using unit_scaling::distributed::detail::names_of;
using unit_scaling::distributed::detail::WaitedTime;

TEST(Deadline, TimeInWhichNobodyLooksHardlyCounts) {
  WaitedTime time(milliseconds(300));
  // As if the process was suspended: a second, of which a tenth counts.
  std::this_thread::sleep_for(milliseconds(1000));
  EXPECT_TRUE(time.goes_on());
  EXPECT_EQ(time.waited(), milliseconds(100));
  EXPECT_EQ(time.slice(), milliseconds(100));
}

TEST(Deadline, TimeBetweenLooksCountsAndAfterTheLastThereIsOneMoreLook) {
  const auto begin = WaitedTime::Clock::now();
  WaitedTime time(milliseconds(40));
  int looks = 0;
  do {
    ++looks;
    std::this_thread::sleep_for(milliseconds(1));
    EXPECT_EQ(time.is_over(), time.waited() >= milliseconds(40));
  } while (time.goes_on());
  EXPECT_GE(WaitedTime::Clock::now() - begin, milliseconds(40));
  EXPECT_TRUE(time.is_over());
  EXPECT_EQ(time.slice(), milliseconds(0)) << "the last look takes no time";
  EXPECT_GE(looks, 2);

  time.restart();
  EXPECT_FALSE(time.is_over());
  // One slice is longer than what is left, and yet not the last look.
  std::this_thread::sleep_for(milliseconds(60));
  EXPECT_TRUE(time.goes_on());
  EXPECT_TRUE(time.is_over());
  EXPECT_FALSE(time.goes_on());
}

TEST(Deadline, RanksAreNamedInOneList) {
  EXPECT_EQ(names_of({3}), "rank 3");
  EXPECT_EQ(names_of({0, 3, 17}), "ranks 0, 3, 17");
}

}  // namespace deadline_test
