// SPDX-License-Identifier: MIT
#include "unit_scaling/core/atomic_file.hpp"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>

namespace {

using unit_scaling::AtomicFile;
using unit_scaling::write_file;

class AtomicFileTest : public ::testing::Test {
 protected:
  AtomicFileTest() { std::filesystem::create_directories(folder_); }
  ~AtomicFileTest() override { std::filesystem::remove_all(folder_); }

  static std::string content(const std::filesystem::path& path) {
    std::ifstream stream(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(stream), {}};
  }
  [[nodiscard]] std::ptrdiff_t files() const {
    return std::distance(std::filesystem::directory_iterator(folder_), {});
  }

  const std::filesystem::path folder_ =
      std::filesystem::path(::testing::TempDir()) /
      (std::string("atomic_file_") +
       ::testing::UnitTest::GetInstance()->current_test_info()->name());
};

TEST_F(AtomicFileTest, ReplacesAFileAsAWhole) {
  const auto path = folder_ / "file";
  write_file(path, "first");
  {
    AtomicFile file(path);
    file.append(std::as_bytes(std::span(std::string_view("sec"))));
    EXPECT_EQ(content(path), "first") << "nobody sees half of the second";
    file.append(std::as_bytes(std::span(std::string_view("ond"))));
    file.finish();
  }
  EXPECT_EQ(content(path), "second");
  EXPECT_EQ(files(), 1);
  write_file(path, "");
  EXPECT_EQ(content(path), "");
}

TEST_F(AtomicFileTest, WhatIsNotFinishedLeavesNothing) {
  const auto path = folder_ / "file";
  {
    AtomicFile file(path);
    file.append(std::as_bytes(std::span(std::string_view("half"))));
    EXPECT_EQ(files(), 1);
  }
  EXPECT_EQ(files(), 0);
}

TEST_F(AtomicFileTest, FailureNamesTheFileAndLeavesNothing) {
  const auto says = [](const std::filesystem::path& path, std::string_view part) {
    try {
      write_file(path, "text");
    } catch (const std::runtime_error& error) {
      return std::string_view(error.what()).find(part) != std::string_view::npos;
    }
    return false;
  };
  EXPECT_TRUE(says(folder_ / "missing" / "file", "missing/file"));
  std::filesystem::create_directory(folder_ / "taken");
  EXPECT_TRUE(says(folder_ / "taken", "cannot replace it"));
  EXPECT_EQ(files(), 1);
}

}  // namespace
