// SPDX-License-Identifier: MIT
#include "bert_mlp/run_folder.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "support/temporary_folder.hpp"

namespace bert_mlp {
namespace {

// The run that makes a folder need not be the one that locks it: a run that comes second to the
// lock must leave the folder to the first.
TEST(RunFolder, StaysWhereItIsWhileARunHasIt) {
  const unit_scaling_test::TemporaryFolder root;
  const std::filesystem::path path = root.path() / "new/folder";
  std::atomic<int> held = 0;
  std::atomic<int> lost = 0;
  std::vector<std::thread> runs;
  for (int run = 0; run < 4; ++run) {
    runs.emplace_back([&] {
      for (int i = 0; i < 5000; ++i) {
        try {
          const RunFolder folder = RunFolder::take(path);
          ++held;
          try {
            folder.require_writable();
          } catch (const std::invalid_argument&) {
            ++lost;
          }
        } catch (const std::invalid_argument&) {  // another run has it
        }
      }
    });
  }
  for (std::thread& each : runs) each.join();
  EXPECT_GT(held, 0);
  EXPECT_EQ(lost, 0);
}

}  // namespace
}  // namespace bert_mlp
