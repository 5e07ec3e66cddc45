// SPDX-License-Identifier: MIT
#include "unit_scaling/train/run_folder.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <initializer_list>
#include <iterator>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "support/errors.hpp"
#include "support/temporary_folder.hpp"

namespace run_folder_test {

using namespace unit_scaling_test;
using unit_scaling::FileError;
using unit_scaling::train::Fingerprint;
using unit_scaling::train::RunFolder;
namespace fs = std::filesystem;

// The run that makes a folder need not be the one that locks it: a run that comes second to the
// lock must leave the folder to the first.
TEST(RunFolder, StaysWhereItIsWhileARunHasIt) {
  const TemporaryFolder root;
  const fs::path path = root.path() / "new/folder";
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
            folder.require_writable("result.txt");
          } catch (const FileError&) {
            ++lost;
          }
        } catch (const FileError&) {  // another run has it
        }
      }
    });
  }
  for (std::thread& each : runs) each.join();
  EXPECT_GT(held, 0);
  EXPECT_EQ(lost, 0);
}

std::string text_in(const fs::path& file) {
  std::ifstream stream(file);
  return {std::istreambuf_iterator<char>(stream), {}};
}

TEST(RunFolder, IsGoneWithThoseAboveItIfNothingWasPutThere) {
  const TemporaryFolder root;
  {
    const RunFolder folder = RunFolder::take(root.path() / "a/b");
    EXPECT_TRUE(fs::is_directory(root.path() / "a/b"));
  }
  EXPECT_FALSE(fs::exists(root.path() / "a"));
  {
    RunFolder folder = RunFolder::take(root.path() / "a/b");
    const RunFolder moved = std::move(folder);
    moved.write("result.txt", "42");
    moved.write("result.txt", "43");
  }
  EXPECT_EQ(text_in(root.path() / "a/b/result.txt"), "43");
  // One that was there stays.
  fs::create_directory(root.path() / "mine");
  { const RunFolder folder = RunFolder::take(root.path() / "mine"); }
  EXPECT_TRUE(fs::is_directory(root.path() / "mine"));
}

TEST(RunFolder, IsOneRunsAtATime) {
  const TemporaryFolder root;
  const RunFolder folder = RunFolder::take(root.path() / "a");
  expect_error<FileError>([&] { (void)RunFolder::take(root.path() / "a"); },
                          {"/a': another run writes there"});
  EXPECT_EQ(RunFolder::take_new(root.path() / "a").path(), root.path() / "a-2");
  const RunFolder second = RunFolder::take_new(root.path() / "a/");
  EXPECT_EQ(second.path(), root.path() / "a-2");
  EXPECT_EQ(RunFolder::take_new(root.path() / "a").path(), root.path() / "a-3");
}

TEST(RunFolder, RefusesNamesThatAreNoFoldersAndMakesNone) {
  const TemporaryFolder root;
  std::ofstream(root.path() / "file") << "text";
  fs::create_symlink("nothing", root.path() / "link");
  fs::create_directory(root.path() / "zero");
  using Parts = std::initializer_list<std::string_view>;
  const auto expect_refusal = [&](const fs::path& path, Parts parts) {
    expect_error<FileError>([&] { (void)RunFolder::take(path); }, parts);
  };
  expect_refusal("", {"''", "expected a folder", "empty"});
  expect_refusal(root.path() / "file", {"/file'", "expected a folder"});
  expect_refusal(root.path() / "file/below", {"/file/below'", "expected a folder"});
  expect_refusal(root.path() / "link", {"/link'", "symbolic link to nothing"});
  expect_refusal(root.path() / "a\nb", {"a\\nb'", "without control characters"});
  expect_refusal(root.path() / "a\u0085b", {"without control characters"});
  expect_refusal(root.path() / std::string("zero\0b", 6), {"without control characters"});
  EXPECT_EQ(std::distance(fs::directory_iterator(root.path()), {}), 3);
}

TEST(RunFolder, HasANameToWhichANumberCanBePut) {
  const TemporaryFolder root;
  for (const fs::path& path : {fs::path("/"), fs::path("."), fs::path(".."), fs::path("../"),
                               root.path() / ".", root.path() / "a/..", root.path() / "./"}) {
    expect_error<FileError>([&] { (void)RunFolder::take_new(path); },
                            {"'" + path.string() + "': expected the name of a new folder"});
  }
  expect_error<FileError>([] { (void)RunFolder::take_new(""); }, {"empty"});
  EXPECT_EQ(RunFolder::take_new(root.path() / ".a").path(), root.path() / ".a");
}

TEST(RunFolder, IsThatOfOneTrainingUnlessItMayBeReplaced) {
  const TemporaryFolder root;
  const Fingerprint first = Fingerprint().add("rate", 0.5).add("note", "a b");
  const Fingerprint second = Fingerprint().add("rate", 0.25).add("note", "a b");
  const RunFolder folder = RunFolder::take(root.path() / "a");
  folder.claim(first);
  EXPECT_EQ(text_in(root.path() / "a/training.txt"), "rate=0.5 note=a%20b\n");
  folder.claim(first);
  expect_error<FileError>([&] { folder.claim(second); },
                          {"/a': holds the results of another training: rate is 0.5 there and 0.25 "
                           "here; give another folder"});
  folder.claim(second, /*overwrite=*/true);
  EXPECT_EQ(text_in(root.path() / "a/training.txt"), "rate=0.25 note=a%20b\n");
  std::ofstream(root.path() / "a/training.txt") << "something else\n";
  expect_error<FileError>([&] { folder.claim(second); }, {"/a/training.txt': ", "key=value"});
  EXPECT_EQ(text_in(root.path() / "a/training.txt"), "something else\n");
}

}  // namespace run_folder_test
