// SPDX-License-Identifier: MIT
// A process that forks while the library has threads.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <stdexcept>
#include <thread>
#include <vector>

#include "support/threads.hpp"
#include "unit_scaling/core/parallel.hpp"

#if defined(__SANITIZE_ADDRESS__)
namespace fork_test {
/// LeakSanitizer waits at a child's exit for the threads that only its parent has.
bool is_child = false;
}  // namespace fork_test
/// LeakSanitizer asks this of the program, which may define it.
extern "C" int __lsan_is_turned_off() { return fork_test::is_child ? 1 : 0; }  // NOLINT
#endif

namespace fork_test {

using namespace unit_scaling;
using unit_scaling_test::ThreadCountScope;

/// Whether a loop visits every index once.
bool loop_works() {
  std::vector<std::atomic<int>> visits(1000);
  parallel_for(visits.size(), [&](std::size_t i) { ++visits[i]; });
  for (const std::atomic<int>& visit : visits) {
    if (visit != 1) return false;
  }
  return true;
}

/// Under AddressSanitizer, returns when every thread of the pool runs. Its runtime holds a lock
/// while a thread starts; GCC 12's does not free that lock in a child, whose own threads then never
/// start.
void wait_for_threads_under_address_sanitizer() {
#if defined(__SANITIZE_ADDRESS__)
  std::atomic<std::size_t> inside = 0;
  parallel_for(thread_count(), [&](std::size_t) {
    ++inside;
    while (inside < thread_count()) std::this_thread::yield();
  });
#endif
}

/// What a child that runs `body` ends with: 0 if that returned true. It has ten seconds.
template <class Body> int status_of_child(const Body& body) {
  const pid_t child = fork();
  if (child == 0) {
#if defined(__SANITIZE_ADDRESS__)
    is_child = true;
#endif
    alarm(10);
    bool is_good = false;
    try {
      is_good = body();
    } catch (...) {
    }
    // With destructors of statics, where the threads of the parent would be joined.
    std::exit(is_good ? 0 : 1);
  }
  int status = -1;
  waitpid(child, &status, 0);
  return status;
}

class Fork : public testing::Test {
 protected:
  void SetUp() override {
#if defined(__SANITIZE_THREAD__)
    GTEST_SKIP() << "ThreadSanitizer does not follow a child of a process with threads";
#endif
  }
};

TEST_F(Fork, AChildComputesWithOneThreadAndExits) {
  const ThreadCountScope scope(4);
  wait_for_threads_under_address_sanitizer();
  ASSERT_TRUE(loop_works());
  EXPECT_EQ(status_of_child([] { return thread_count() == 1 && loop_works(); }), 0);
  EXPECT_EQ(status_of_child([] { return true; }), 0);
  EXPECT_EQ(thread_count(), 4U);
  EXPECT_TRUE(loop_works());
}

TEST_F(Fork, AChildSetsItsOwnThreadCount) {
  const ThreadCountScope scope(4);
  wait_for_threads_under_address_sanitizer();
  ASSERT_TRUE(loop_works());
  for (const std::size_t threads : {std::size_t{1}, std::size_t{3}}) {
    EXPECT_EQ(status_of_child([&] {
                set_thread_count(threads);
                const bool works = thread_count() == threads && loop_works();
                set_thread_count(2);
                return works && loop_works();
              }),
              0);
  }
}

TEST_F(Fork, AChildOfAChildWorksToo) {
  const ThreadCountScope scope(3);
  wait_for_threads_under_address_sanitizer();
  EXPECT_EQ(status_of_child([] {
              set_thread_count(2);
              wait_for_threads_under_address_sanitizer();
              return loop_works() && status_of_child([] {
                                       set_thread_count(3);
                                       return loop_works();
                                     }) == 0;
            }),
            0);
}

TEST_F(Fork, AChildWorksWhileAnotherThreadOfTheParentIsInALoop) {
  const ThreadCountScope scope(3);
  wait_for_threads_under_address_sanitizer();
  std::atomic<bool> is_inside = false;
  std::atomic<bool> is_done = false;
  std::thread other([&] {
    parallel_for(3, [&](std::size_t) {
      is_inside = true;
      while (!is_done) std::this_thread::yield();
    });
  });
  while (!is_inside) std::this_thread::yield();
  EXPECT_EQ(status_of_child([] {
              const bool alone = loop_works();
              set_thread_count(2);
              return alone && loop_works();
            }),
            0);
  is_done = true;
  other.join();
  EXPECT_TRUE(loop_works());
}

TEST_F(Fork, AChildInsideALoopComputesAndExitsThere) {
  const ThreadCountScope scope(2);
  wait_for_threads_under_address_sanitizer();
  std::atomic<int> status = -1;
  std::atomic_flag has_forked;
  parallel_for(2, [&](std::size_t) {
    if (!has_forked.test_and_set()) status = status_of_child(loop_works);
  });
  EXPECT_EQ(status, 0);
}

TEST_F(Fork, AChildThatReturnsIntoALoopLeavesItWithAnErrorAndGoesOn) {
  const ThreadCountScope scope(2);
  wait_for_threads_under_address_sanitizer();
  const std::thread::id caller = std::this_thread::get_id();
  pid_t child = -1;
  bool has_forked = false;
  std::atomic<bool> may_end = false;
  bool has_thrown = false;
  try {
    // The caller forks in its first piece; the worker waits for that in its own.
    parallel_for(2, [&](std::size_t) {
      if (std::this_thread::get_id() == caller && !has_forked) {
        has_forked = true;
        child = fork();
        may_end = true;
      } else {
        while (!may_end) std::this_thread::yield();
      }
    });
  } catch (const std::runtime_error&) {
    has_thrown = true;
  }
  if (child == 0) {
#if defined(__SANITIZE_ADDRESS__)
    is_child = true;
#endif
    alarm(10);
    std::exit(has_thrown && loop_works() ? 0 : 1);
  }
  ASSERT_GT(child, 0);
  int status = -1;
  waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
  EXPECT_FALSE(has_thrown);
}

}  // namespace fork_test
