// SPDX-License-Identifier: MIT
#include "unit_scaling/core/parallel.hpp"

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <mutex>
#include <set>
#include <stdexcept>
#include <thread>
#include <utility>
#include <vector>

#include "support/errors.hpp"
#include "support/threads.hpp"

namespace parallel_test {

using namespace unit_scaling;
using unit_scaling_test::ThreadCountScope;

constexpr std::size_t thread_counts[]{1, 2, 4};

TEST(Parallel, VisitsEachIndexOnce) {
  for (const std::size_t threads : thread_counts) {
    const ThreadCountScope scope(threads);
    EXPECT_EQ(thread_count(), threads);
    for (const std::size_t count :
         {std::size_t{0}, std::size_t{1}, std::size_t{2}, std::size_t{3}, std::size_t{1000}}) {
      for (int repetition = 0; repetition < 50; ++repetition) {
        std::vector<std::atomic<int>> visits(count);
        parallel_for(count, [&](std::size_t i) { ++visits[i]; });
        for (const std::atomic<int>& visit : visits) ASSERT_EQ(visit, 1);
      }
    }
  }
}

TEST(Parallel, NestedLoopsVisitEachIndexOnce) {
  for (const std::size_t threads : thread_counts) {
    const ThreadCountScope scope(threads);
    std::vector<std::atomic<int>> visits(20 * 30);
    parallel_for(
        20, [&](std::size_t i) { parallel_for(30, [&](std::size_t j) { ++visits[i * 30 + j]; }); });
    for (const std::atomic<int>& visit : visits) ASSERT_EQ(visit, 1);
  }
}

TEST(Parallel, RethrowsAnExceptionAndWorksAfterwards) {
  for (const std::size_t threads : thread_counts) {
    const ThreadCountScope scope(threads);
    for (const std::size_t bad : {std::size_t{0}, std::size_t{50}, std::size_t{99}}) {
      unit_scaling_test::expect_error<std::runtime_error>(
          [&] {
            parallel_for(100, [&](std::size_t i) {
              if (i == bad) throw std::runtime_error("piece");
            });
          },
          {"piece"});
      std::atomic<int> visits = 0;
      parallel_for(100, [&](std::size_t) { ++visits; });
      EXPECT_EQ(visits, 100);
    }
  }
}

TEST(Parallel, RethrowsOneOfManyExceptionsAndThoseOfNestedLoops) {
  for (const std::size_t threads : thread_counts) {
    const ThreadCountScope scope(threads);
    EXPECT_THROW(parallel_for(100, [](std::size_t) { throw std::runtime_error("each"); }),
                 std::runtime_error);
    EXPECT_THROW(parallel_for(10,
                              [](std::size_t) {
                                parallel_for(
                                    10, [](std::size_t) { throw std::runtime_error("inner"); });
                              }),
                 std::runtime_error);
  }
}

TEST(Parallel, OneThreadIsAvailableInsideASharedLoopAndAllAreAgainAfterIt) {
  for (const std::size_t threads : thread_counts) {
    const ThreadCountScope scope(threads);
    EXPECT_EQ(available_thread_count(), threads);
    std::atomic<int> of_more = 0;
    parallel_for(100, [&](std::size_t) {
      of_more += available_thread_count() != 1;
      parallel_for(3, [&](std::size_t) { of_more += available_thread_count() != 1; });
      of_more += available_thread_count() != 1;
    });
    EXPECT_EQ(of_more, 0);
    EXPECT_EQ(available_thread_count(), threads);
    // A loop of one piece is not shared.
    parallel_for(1, [&](std::size_t) { EXPECT_EQ(available_thread_count(), threads); });
    EXPECT_THROW(parallel_for(100, [](std::size_t) { throw std::runtime_error("each"); }),
                 std::runtime_error);
    EXPECT_EQ(available_thread_count(), threads);
  }
}

TEST(Parallel, RangesCoverTheCountInPiecesOfTheGrain) {
  for (const std::size_t threads : thread_counts) {
    const ThreadCountScope scope(threads);
    std::mutex mutex;
    std::set<std::pair<std::size_t, std::size_t>> ranges;
    parallel_ranges(10, 4, [&](std::size_t begin, std::size_t end) {
      const std::lock_guard lock(mutex);
      ranges.emplace(begin, end);
    });
    EXPECT_EQ(ranges, (std::set<std::pair<std::size_t, std::size_t>>{{0, 4}, {4, 8}, {8, 10}}));
    parallel_ranges(0, 4, [](std::size_t, std::size_t) { ADD_FAILURE(); });
  }
}

TEST(Parallel, ThreadCountOfZeroOrOfAnUnsignedMinusOneIsAnError) {
  const std::size_t before = thread_count();
  for (const std::size_t threads : {std::size_t{0}, std::size_t{4097}, ~std::size_t{0}}) {
    unit_scaling_test::expect_domain_error([=] { set_thread_count(threads); },
                                           {"set_thread_count", "1 to 4096"});
  }
  EXPECT_EQ(thread_count(), before);
}

TEST(Parallel, ThreadCountMayChangeAgainAndAgain) {
  const ThreadCountScope scope(1);
  for (int repetition = 0; repetition < 10; ++repetition) {
    for (const std::size_t threads : {std::size_t{3}, std::size_t{1}, std::size_t{2}}) {
      set_thread_count(threads);
      std::atomic<int> visits = 0;
      parallel_for(10, [&](std::size_t) { ++visits; });
      EXPECT_EQ(visits, 10);
    }
  }
}

// Workers are still on their way out of one loop, or asleep, when the next begins.
TEST(Parallel, LoopsInQuickSuccessionAndAfterPausesVisitEachIndexOnce) {
  for (const std::size_t threads : {std::size_t{2}, std::size_t{3}, std::size_t{16}}) {
    const ThreadCountScope scope(threads);
    for (int loop = 0; loop < 3000; ++loop) {
      if (loop % 500 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(2));
      const auto count = static_cast<std::size_t>(2 + loop % 7);
      std::vector<std::size_t> visits(count);  // not atomic: the end of a loop orders its writes
      parallel_for(count, [&](std::size_t i) { visits[i] += i + 1; });
      for (std::size_t i = 0; i < count; ++i) ASSERT_EQ(visits[i], i + 1);
    }
  }
}

// The caller has nothing left to do long before its workers have.
TEST(Parallel, ALoopWaitsForItsSlowestPiece) {
  const ThreadCountScope scope(3);
  for (int loop = 0; loop < 3; ++loop) {
    std::array<int, 3> done{};
    std::atomic<std::size_t> begun = 0;
    parallel_for(3, [&](std::size_t i) {
      ++begun;
      while (begun < 3) std::this_thread::yield();  // so that each thread has one piece
      if (i > 0) std::this_thread::sleep_for(std::chrono::milliseconds(10));
      done[i] = 1;
    });
    EXPECT_EQ(done, (std::array{1, 1, 1}));
  }
}

}  // namespace parallel_test
