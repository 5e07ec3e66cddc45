// SPDX-License-Identifier: MIT
#include "unit_scaling/core/atomic_file.hpp"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>

#include "support/temporary_folder.hpp"
#include "support/texts.hpp"

namespace {

using unit_scaling::AtomicFile;
using unit_scaling::write_file;
using unit_scaling_test::content;

class AtomicFileTest : public ::testing::Test {
 protected:
  [[nodiscard]] std::ptrdiff_t files() const {
    return std::distance(std::filesystem::directory_iterator(folder_), {});
  }

  const unit_scaling_test::TemporaryFolder temporary_;
  const std::filesystem::path& folder_ = temporary_.path();
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
  // Where nobody may create a file, root included.
  EXPECT_TRUE(says("/proc/file", "'/proc/file': cannot create a file beside it"));
}

TEST_F(AtomicFileTest, RefusesWhatComesAfterTheEnd) {
  AtomicFile file(folder_ / "file");
  file.finish();
  EXPECT_THROW(file.append(std::as_bytes(std::span(std::string_view("late")))), std::logic_error);
  EXPECT_THROW(file.finish(), std::logic_error);
  EXPECT_EQ(content(folder_ / "file"), "");
}

/// While it lives, a file that is written cannot grow beyond so many bytes.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) : old_handler_(std::signal(SIGXFSZ, SIG_IGN)) {
    getrlimit(RLIMIT_FSIZE, &old_limit_);
    const rlimit limit{bytes, old_limit_.rlim_max};
    setrlimit(RLIMIT_FSIZE, &limit);
  }
  FileSizeLimit(const FileSizeLimit&) = delete;
  FileSizeLimit& operator=(const FileSizeLimit&) = delete;
  ~FileSizeLimit() {
    setrlimit(RLIMIT_FSIZE, &old_limit_);
    std::signal(SIGXFSZ, old_handler_);
  }

 private:
  void (*old_handler_)(int);
  rlimit old_limit_{};
};

TEST_F(AtomicFileTest, ADiskThatTakesNoMoreLeavesTheOldFile) {
  const auto path = folder_ / "file";
  write_file(path, "old");
  const auto fails_with = [&](const std::string& text) -> std::string {
    const FileSizeLimit limit(1000);
    try {
      write_file(path, text);
    } catch (const std::runtime_error& error) {
      return error.what();
    }
    return "";
  };
  // One that shows at once, and one that shows when what was kept back is written at the end.
  for (const std::size_t size : {std::size_t{1} << 20, std::size_t{1001}}) {
    const std::string text = fails_with(std::string(size, 'x'));
    EXPECT_NE(text.find("file': cannot write: "), std::string::npos) << size << ": " << text;
    EXPECT_EQ(text.find("Success"), std::string::npos) << text;
    EXPECT_EQ(content(path), "old");
    EXPECT_EQ(files(), 1);
  }
  EXPECT_EQ(fails_with(std::string(1000, 'x')), "");
  EXPECT_EQ(content(path), std::string(1000, 'x'));
}

}  // namespace
