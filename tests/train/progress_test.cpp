// SPDX-License-Identifier: MIT
/// @file
/// Layer: tests. The progress line under a clock that the tests set.

#include "unit_scaling/train/progress.hpp"

#include <gtest/gtest.h>

#include <array>
#include <cstddef>
#include <cstdio>
#include <limits>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <string>

namespace unit_scaling_test {
namespace progress_test {

using unit_scaling::train::Progress;
using unit_scaling::train::ProgressOptions;

class ProgressTest : public ::testing::Test {
 protected:
  [[nodiscard]] ProgressOptions options(bool terminal) {
    ProgressOptions result;
    result.terminal = terminal;
    result.clock = [this] { return now; };
    return result;
  }
  /// What was printed since the last call.
  std::string printed() {
    std::string text = stream.str();
    stream.str("");
    return text;
  }

  double now = 1000;  // an arbitrary origin
  std::ostringstream stream;
};

TEST_F(ProgressTest, PrintsPlainLinesAtIntervalsAndAtTheEnd) {
  Progress progress("train", 400, stream, options(false));
  now += 4.9;
  progress.update(49, 4.5, 4900);
  EXPECT_EQ(printed(), "");
  now += 5.1;
  progress.update(100, 3.21456, 812000);
  EXPECT_EQ(printed(), "train: step 100/400 (25%), loss 3.215, 81.2k tokens/s, ETA 0:30\n");
  now += 4.9;
  progress.update(149, 3.0, 1210000);
  EXPECT_EQ(printed(), "");
  now += 25.1;
  progress.update(400, 2.5, 3200000);
  EXPECT_EQ(printed(), "train: step 400/400 (100%), loss 2.500, 80k tokens/s, ETA 0:00\n");
  progress.finish();
  EXPECT_EQ(printed(), "train: step 400/400 (100%), loss 2.500, 80k tokens/s, took 0:40\n");
}

TEST_F(ProgressTest, RewritesOneLineOfATerminal) {
  ProgressOptions terminal = options(true);
  terminal.width = 120;
  Progress progress("train", 10, stream, terminal);
  now += 0.01;
  progress.update(1, 5.0);
  EXPECT_EQ(printed(), "\rtrain: step 1/10 (10%), loss 5.000, ETA 0:00\x1b[K");
  now += 0.09;
  progress.update(2, 4.0);
  EXPECT_EQ(printed(), "") << "sooner than a tenth of a second";
  now += 0.02;
  progress.update(3, 3.5);
  EXPECT_EQ(printed(), "\rtrain: step 3/10 (30%), loss 3.500, ETA 0:00\x1b[K");
  progress.update(4, 3.25);
  EXPECT_EQ(printed(), "");
  progress.finish();
  EXPECT_EQ(printed(), "\rtrain: step 4/10 (40%), loss 3.250, took 0:00\x1b[K\n");
}

TEST_F(ProgressTest, CutsTheLineToTheTerminal) {
  ProgressOptions terminal = options(true);
  terminal.width = 11;
  Progress progress("µ-μP", 10, stream, terminal);
  progress.update(3, 1.0);
  EXPECT_EQ(printed(), "\rµ-μP: step\x1b[K") << "ten characters of eleven columns";
  progress.finish();
  EXPECT_EQ(printed(), "\rµ-μP: step\x1b[K\n");
}

TEST_F(ProgressTest, SurvivesATerminalOfNoWidth) {
  ProgressOptions terminal = options(true);
  terminal.width = 0;
  Progress progress("train", 10, stream, terminal);
  progress.update(3);
  EXPECT_EQ(printed(), "\rt\x1b[K");
}

TEST_F(ProgressTest, PrintsNothingWhenQuiet) {
  for (const bool is_terminal : {false, true}) {
    ProgressOptions quiet = options(is_terminal);
    quiet.quiet = true;
    quiet.clock = []() -> double { throw std::logic_error("a quiet run asks for no time"); };
    Progress progress("train", 10, stream, quiet);
    progress.update(5, 1.0, 100);
    progress.finish();
  }
  EXPECT_EQ(printed(), "");
}

TEST_F(ProgressTest, PrintsNothingWithoutAnUpdate) {
  for (const bool is_terminal : {false, true}) {
    Progress progress("train", 10, stream, options(is_terminal));
    progress.finish();
  }
  EXPECT_EQ(printed(), "");
}

TEST_F(ProgressTest, EndsItsLineWhenAnErrorEndsTheRun) {
  try {
    Progress progress("train", 10, stream, options(true));
    progress.update(3, 1.5);
    throw std::runtime_error("diverged");
  } catch (const std::runtime_error&) {
  }
  EXPECT_TRUE(printed().ends_with("step 3/10 (30%), loss 1.500, took 0:00\x1b[K\n"));
}

TEST_F(ProgressTest, FinishesOnce) {
  {
    Progress progress("train", 10, stream, options(false));
    now += 1;
    progress.update(10, 1.5);
    progress.finish();
    EXPECT_EQ(printed(), "train: step 10/10 (100%), loss 1.500, took 0:01\n");
    progress.finish();
    progress.update(11, 1.5);
  }
  EXPECT_EQ(printed(), "");
}

TEST_F(ProgressTest, LeavesOutWhatItDoesNotKnow) {
  Progress progress("", 0, stream, options(false));
  now += 5;
  progress.update(0);
  EXPECT_EQ(printed(), "step 0/0\n");
}

TEST_F(ProgressTest, NamesTheLossAndShowsOneThatDiverged) {
  ProgressOptions plain = options(false);
  plain.loss_name = "bits/char";
  Progress progress("train", 100, stream, plain);
  now += 5;
  progress.update(50, std::numeric_limits<double>::quiet_NaN());
  EXPECT_EQ(printed(), "train: step 50/100 (50%), bits/char nan, ETA 0:05\n");
}

TEST_F(ProgressTest, ShowsNoSignOfANan) {
  Progress progress("train", 100, stream, options(false));
  now += 5;
  progress.update(50, -std::numeric_limits<double>::quiet_NaN());
  EXPECT_EQ(printed(), "train: step 50/100 (50%), loss nan, ETA 0:05\n");
}

TEST_F(ProgressTest, CountsOnlyTheSecondsThatTokensTookForTheRate) {
  Progress progress("train", 100, stream, options(false));
  now += 10;
  progress.update(50, std::nullopt, 8000, 4.0);
  EXPECT_EQ(printed(), "train: step 50/100 (50%), 2k tokens/s, ETA 0:10\n")
      << "the time left counts everything";
  now += 10;
  progress.finish();
  EXPECT_EQ(printed(), "train: step 50/100 (50%), 2k tokens/s, took 0:20\n");
}

TEST_F(ProgressTest, ShowsAtOnceOnATerminalThatTheRunDoesSomethingElse) {
  ProgressOptions terminal = options(true);
  terminal.width = 120;
  Progress progress("train", 10, stream, terminal);
  progress.show("loading");
  EXPECT_EQ(printed(), "") << "no step was done yet";
  now += 1;
  progress.update(5);
  printed();
  progress.show("validating 0%");
  EXPECT_EQ(printed(), "\rtrain: step 5/10 (50%), validating 0%\x1b[K");
  progress.show("validating 1%");
  EXPECT_EQ(printed(), "") << "sooner than a tenth of a second";
  now += 1;
  progress.show("validating 50%");
  EXPECT_EQ(printed(), "\rtrain: step 5/10 (50%), validating 50%\x1b[K");
  now += 1;
  progress.update(6);
  EXPECT_EQ(printed(), "\rtrain: step 6/10 (60%), ETA 0:02\x1b[K");
}

TEST_F(ProgressTest, ShowsALongActivityInPlainLinesToo) {
  Progress progress("train", 10, stream, options(false));
  now += 5;
  progress.update(10, 1.0);
  printed();
  now += 3;
  progress.show("validating 40%");
  EXPECT_EQ(printed(), "");
  now += 3;
  progress.show("validating 80%");
  EXPECT_EQ(printed(), "train: step 10/10 (100%), loss 1.000, validating 80%\n");
  now += 1;
  progress.finish();
  EXPECT_EQ(printed(), "train: step 10/10 (100%), loss 1.000, took 0:12\n");
}

TEST_F(ProgressTest, CountsTimeFromTheFirstStepOfAContinuedRun) {
  ProgressOptions plain = options(false);
  plain.first_step = 80;
  Progress progress("train", 100, stream, plain);
  now += 10;
  progress.update(90);
  EXPECT_EQ(printed(), "train: step 90/100 (90%), ETA 0:10\n");
}

TEST_F(ProgressTest, WritesLongTimesAndLargeRates) {
  Progress progress("train", 7200, stream, options(false));
  now += 59.6;
  progress.update(59, std::nullopt, 59'580);  // 999.66 tokens/s
  EXPECT_EQ(printed(), "train: step 59/7200 (0%), 1k tokens/s, ETA 2:00:14\n");
  now += 3540.4;
  progress.update(3600, std::nullopt, 36'000'000'000);
  EXPECT_EQ(printed(), "train: step 3600/7200 (50%), 10M tokens/s, ETA 1:00:00\n");
  now += 1e12;
  progress.update(3601);
  EXPECT_EQ(printed(), "train: step 3601/7200 (50%), ETA ?\n");
}

TEST_F(ProgressTest, TakesACStreamThatIsNoTerminal) {
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::tmpfile(), &std::fclose);
  ASSERT_NE(file, nullptr);
  {
    Progress progress("train", 2, file.get());
    progress.update(2, 1.0);
  }
  std::rewind(file.get());
  std::array<char, 128> line{};
  ASSERT_NE(std::fgets(line.data(), static_cast<int>(line.size()), file.get()), nullptr);
  EXPECT_TRUE(
      std::string(line.data()).starts_with("train: step 2/2 (100%), loss 1.000, took 0:00\n"));
  EXPECT_EQ(std::fgets(line.data(), static_cast<int>(line.size()), file.get()), nullptr);
}

}  // namespace progress_test
}  // namespace unit_scaling_test
