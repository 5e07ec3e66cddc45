// SPDX-License-Identifier: MIT
#include "unit_scaling/train/interruption.hpp"

#include <gtest/gtest.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <thread>

#include "support/errors.hpp"

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
