// SPDX-License-Identifier: MIT
#include <csignal>

namespace interruption_test {

/// Made before all that a header has, so that it is destroyed after that.
struct LastThing {
  bool raises = false;
  ~LastThing() {
    if (raises) std::raise(SIGINT);
  }
} last_thing;

}  // namespace interruption_test

#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <thread>

#include "support/errors.hpp"
#include "unit_scaling/train/interruption.hpp"

namespace interruption_test {

using unit_scaling::train::interruption;
using unit_scaling::train::InterruptionScope;

TEST(Interruption, IsToldOfEachSignalThatAsksToStop) {
  for (const int signal : {SIGINT, SIGTERM}) {
    const InterruptionScope scope;
    EXPECT_EQ(interruption(), 0);
    testing::internal::CaptureStderr();
    std::raise(signal);
    EXPECT_EQ(testing::internal::GetCapturedStderr(),
              "stopping after this step; Ctrl-C again ends at once\n");
    EXPECT_EQ(interruption(), signal);
    // Sent twice at once, as `timeout` does, it is one.
    std::raise(signal);
    EXPECT_EQ(interruption(), signal);
  }
}

TEST(Interruption, NamesTheProgramThatStops) {
  const InterruptionScope scope("trainer");
  testing::internal::CaptureStderr();
  std::raise(SIGINT);
  EXPECT_EQ(testing::internal::GetCapturedStderr(),
            "trainer: stopping after this step; Ctrl-C again ends at once\n");
}

TEST(Interruption, IsToldOfWithoutALineIfASilentScopeIsAsked) {
  {
    const InterruptionScope scope("rank 1", InterruptionScope::Answer::none);
    testing::internal::CaptureStderr();
    std::raise(SIGTERM);
    EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
    EXPECT_EQ(interruption(), SIGTERM);
  }
  const InterruptionScope scope("rank 0");
  testing::internal::CaptureStderr();
  std::raise(SIGTERM);
  EXPECT_EQ(testing::internal::GetCapturedStderr(),
            "rank 0: stopping after this step; Ctrl-C again ends at once\n");
}

TEST(Interruption, ShowsTheBeginOfALongNameOnOneLine) {
  const InterruptionScope scope(std::string(10000, '\x1b'));
  testing::internal::CaptureStderr();
  std::raise(SIGINT);
  std::string name;
  for (int i = 0; i < 100; ++i) name += "\\x1b";
  EXPECT_EQ(testing::internal::GetCapturedStderr(),
            name + "… (10000 bytes): stopping after this step; Ctrl-C again ends at once\n");
}

TEST(InterruptionDeathTest, IsAnsweredWhileTheProgramEnds) {
  EXPECT_EXIT(
      {
        const InterruptionScope scope("a program whose name is too long to be kept in a string");
        last_thing.raises = true;
        std::exit(3);
      },
      testing::ExitedWithCode(3), "^a program whose name is too long to be kept in a string: stop");
}

TEST(InterruptionDeathTest, LetsAProgramGoOnWhoseOutputNobodyReads) {
  const auto write_to_no_one = [] {
    int ends[2] = {};
    if (pipe(ends) != 0) std::exit(9);
    close(ends[0]);
    return write(ends[1], "?", 1);
  };
  EXPECT_EXIT(
      {
        { const InterruptionScope scope; }
        (void)write_to_no_one();
        std::exit(0);
      },
      testing::KilledBySignal(SIGPIPE), "");
  EXPECT_EXIT(
      {
        bool fails = true;
        {
          const InterruptionScope scope;
          std::raise(SIGINT);
          fails = write_to_no_one() == -1;
        }
        std::exit(fails && write_to_no_one() == -1 ? 7 : 8);
      },
      testing::ExitedWithCode(7), "");
}

TEST(InterruptionDeathTest, EndsTheProgramAtTheSecondSignal) {
  EXPECT_EXIT(
      {
        const InterruptionScope scope;
        std::raise(SIGINT);
        std::this_thread::sleep_for(std::chrono::milliseconds(300));
        std::raise(SIGINT);
        std::exit(0);
      },
      testing::KilledBySignal(SIGINT), "stopping after this step");
}

TEST(InterruptionDeathTest, IsAsBeforeOutsideTheScope) {
  EXPECT_EXIT(
      {
        { const InterruptionScope scope; }
        std::raise(SIGTERM);
        std::exit(0);
      },
      testing::KilledBySignal(SIGTERM), "");
  // Whoever started the program had ignored it.
  EXPECT_EXIT(
      {
        std::signal(SIGINT, SIG_IGN);
        const InterruptionScope scope;
        std::raise(SIGINT);
        std::exit(interruption() == 0 ? 7 : 8);
      },
      testing::ExitedWithCode(7), "");
}

TEST(Interruption, HasOneScopeAtATime) {
  const InterruptionScope scope;
  unit_scaling_test::expect_error<std::logic_error>([] { const InterruptionScope another; },
                                                    {"InterruptionScope", "one at a time"});
}

}  // namespace interruption_test
