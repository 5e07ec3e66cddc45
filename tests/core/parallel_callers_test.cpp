// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <atomic>
#include <cstddef>
#include <stdexcept>
#include <thread>

#include "support/threads.hpp"
#include "unit_scaling/core/parallel.hpp"

namespace parallel_callers_test {

using namespace unit_scaling;
using namespace unit_scaling_test;

// Two threads of a program may both call the library: whoever comes second works alone, and an
// exception stays with the loop that threw it. A pause after `busy_.clear()` in ThreadPool::run
// shows within a few loops whether the exception was taken out of the pool before that.
TEST(Parallel, LoopsOfTwoCallersDoNotMixTheirExceptions) {
  const ThreadCountScope threads(3);
  std::atomic<int> lost = 0;
  std::atomic<int> stray = 0;
  std::thread thrower([&] {
    for (int loop = 0; loop < 3000; ++loop) {
      try {
        parallel_for(3, [](std::size_t i) {
          if (i == 1) throw std::runtime_error("mine");
        });
        ++lost;
      } catch (const std::runtime_error&) {
        // As it should be.
      }
    }
  });
  for (int loop = 0; loop < 3000; ++loop) {
    try {
      parallel_for(3, [](std::size_t) {});
    } catch (...) {
      ++stray;
    }
  }
  thrower.join();
  EXPECT_EQ(lost, 0);
  EXPECT_EQ(stray, 0);
}

}  // namespace parallel_callers_test
