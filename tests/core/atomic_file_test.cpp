// SPDX-License-Identifier: MIT
#include "unit_scaling/core/atomic_file.hpp"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "support/temporary_folder.hpp"
#include "support/texts.hpp"
#include "unit_scaling/core/file_error.hpp"

namespace atomic_file_test {

using unit_scaling::AtomicFile;
using unit_scaling::FileError;
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

/// What is said when a file is written; empty if nothing is.
std::string complaint(const std::filesystem::path& path, std::string_view text = "text") {
  try {
    write_file(path, text);
  } catch (const FileError& error) {
    return error.what();
  }
  return "";
}

TEST_F(AtomicFileTest, FailureNamesTheFileAndLeavesNothing) {
  const auto says = [](const std::filesystem::path& path, const std::string& text) {
    EXPECT_EQ(complaint(path).substr(0, path.string().size() + 4 + text.size()),
              "'" + path.string() + "': " + text);
  };
  says(folder_ / "missing" / "file", "cannot create a file beside it: ");
  std::filesystem::create_directory(folder_ / "taken");
  says(folder_ / "taken", "cannot replace it: it is a folder");
  says(folder_ / "taken" / "", "is the name of a folder");
  says(folder_ / "taken" / "..", "cannot replace it: it is a folder");
  says(folder_ / std::string(256, 'x'), "cannot create a file beside it: File name too long");
  says("", "expected the name of a file");
  EXPECT_EQ(complaint(std::string("a\0b", 3)), "'a\\x00b': the name has a zero byte");
  EXPECT_EQ(
      complaint("no\nfolder/\x1b[31mfile"),
      "'no\\nfolder/\\x1b[31mfile': cannot create a file beside it: No such file or directory");
  EXPECT_EQ(files(), 1);
  EXPECT_TRUE(std::filesystem::is_empty(folder_ / "taken"));
  // Where nobody may create a file, root included.
  says("/proc/file", "cannot create a file beside it");
}

TEST_F(AtomicFileTest, TheLongestNameOfAFileIsNotTooLong) {
  const auto path = folder_ / std::string(255, 'x');
  EXPECT_EQ(complaint(path), "");
  EXPECT_EQ(complaint(path, "again"), "");
  EXPECT_EQ(content(path), "again");
  EXPECT_EQ(files(), 1);
}

TEST_F(AtomicFileTest, DevicesPipesAndSocketsAreRefusedAndStay) {
  const auto pipe = folder_ / "pipe";
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  std::filesystem::create_symlink("/dev/full", folder_ / "full");
  for (const std::filesystem::path& path :
       {pipe, folder_ / "full", std::filesystem::path("/dev/null")}) {
    EXPECT_EQ(complaint(path),
              "'" + path.string() + "': cannot replace it: it is not a regular file");
  }
  EXPECT_TRUE(std::filesystem::is_fifo(pipe));
  EXPECT_TRUE(std::filesystem::is_character_file("/dev/full"));
  EXPECT_TRUE(std::filesystem::is_character_file("/dev/null"));
  EXPECT_EQ(files(), 2);
}

mode_t mode_of(const std::filesystem::path& path) {
  struct stat status {};
  EXPECT_EQ(stat(path.c_str(), &status), 0);
  return status.st_mode & 07777U;
}

TEST_F(AtomicFileTest, PermissionsOfWhatIsReplacedStay) {
  const auto path = folder_ / "file";
  write_file(path, "first");
  for (const mode_t mode : {0600U, 0640U, 0755U, 0666U, 0444U, 0400U, 0U}) {
    ASSERT_EQ(chmod(path.c_str(), mode), 0);
    write_file(path, "next");
    EXPECT_EQ(mode_of(path), mode);
  }
  EXPECT_EQ(files(), 1);
}

TEST_F(AtomicFileTest, ANewFileHasThePermissionsThatTheProcessGives) {
  for (const mode_t mask : {0022U, 0077U, 0002U, 0U}) {
    const auto path = folder_ / std::to_string(mask);
    const mode_t before = umask(mask);
    write_file(path, "text");
    umask(before);
    EXPECT_EQ(mode_of(path), 0666U & ~mask);
  }
}

TEST_F(AtomicFileTest, NobodyElseReadsWhatIsToBecomeAPrivateFile) {
  const auto path = folder_ / "file";
  write_file(path, "first");
  ASSERT_EQ(chmod(path.c_str(), 0600), 0);
  const AtomicFile file(path);
  for (const auto& entry : std::filesystem::directory_iterator(folder_)) {
    EXPECT_EQ(mode_of(entry.path()), 0600U) << entry.path();
  }
}

TEST_F(AtomicFileTest, WritesWhereSymbolicLinksLead) {
  std::filesystem::create_directory(folder_ / "sub");
  write_file(folder_ / "sub" / "file", "old");
  ASSERT_EQ(chmod((folder_ / "sub" / "file").c_str(), 0640), 0);
  std::filesystem::create_symlink("sub/file", folder_ / "relative");
  std::filesystem::create_symlink(folder_ / "relative", folder_ / "absolute");
  std::filesystem::create_symlink("sub/new", folder_ / "dangling");
  std::filesystem::create_symlink("loop", folder_ / "loop");
  write_file(folder_ / "absolute", "through two links");
  EXPECT_EQ(content(folder_ / "sub" / "file"), "through two links");
  EXPECT_EQ(mode_of(folder_ / "sub" / "file"), 0640U);
  write_file(folder_ / "dangling", "new");
  EXPECT_EQ(content(folder_ / "sub" / "new"), "new");
  EXPECT_EQ(complaint(folder_ / "loop"), "'" + (folder_ / "loop").string() +
                                             "': cannot follow the link: Too many levels of "
                                             "symbolic links");
  for (const char* link : {"relative", "absolute", "dangling", "loop"}) {
    EXPECT_TRUE(std::filesystem::is_symlink(folder_ / link)) << link;
  }
  EXPECT_EQ(files(), 5);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder_ / "sub"), {}), 2);
}

/// Runs `body` in a process of its own, which ends when it returns, and returns its number.
template <class Body> pid_t start(const Body& body) {
  const pid_t child = fork();
  if (child == 0) {
    body();
    _exit(0);
  }
  return child;
}

int end_of(pid_t child) {
  int status = -1;
  EXPECT_EQ(waitpid(child, &status, 0), child);
  return status;
}

TEST_F(AtomicFileTest, AFolderThatMayNotBeWrittenToKeepsTheOldFile) {
  const auto path = folder_ / "file";
  write_file(path, "old");
  ASSERT_EQ(chmod(folder_.c_str(), 0555), 0);
  // Root may write everywhere.
  const int status = end_of(start([&] {
    constexpr uid_t nobody = 65534;
    if (getuid() == 0 && setuid(nobody) != 0) _exit(2);
    if (complaint(path).find("': cannot create a file beside it: Permission denied") ==
        std::string::npos) {
      _exit(1);
    }
  }));
  ASSERT_EQ(chmod(folder_.c_str(), 0755), 0);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(content(path), "old");
  EXPECT_EQ(files(), 1);
}

TEST_F(AtomicFileTest, TheNextWriterInTheFolderRemovesWhatKilledOnesLeft) {
  for (int i = 0; i < 3; ++i) {
    int ready[2];
    ASSERT_EQ(pipe(ready), 0);
    const pid_t child = start([&] {
      AtomicFile file(folder_ / "model");
      const std::string text(100'000, 'x');
      file.append(std::as_bytes(std::span(text)));
      static_cast<void>(::write(ready[1], "!", 1) == 1);
      pause();
    });
    char signal = 0;
    ASSERT_EQ(::read(ready[0], &signal, 1), 1);
    EXPECT_EQ(files(), 1 + i);
    // While it lives, nobody takes it for dead.
    write_file(folder_ / std::to_string(i), "");
    EXPECT_EQ(files(), 2 + i);
    kill(child, SIGKILL);
    end_of(child);
    EXPECT_EQ(files(), 2 + i);
    // Another target, in the same folder.
    write_file(folder_ / std::to_string(i), "");
    EXPECT_EQ(files(), 1 + i);
    close(ready[0]);
    close(ready[1]);
  }
}

TEST_F(AtomicFileTest, NeitherAnothersFileNorAThousandOfThemAreInTheWay) {
  const auto path = folder_ / "model";
  for (int i = 0; i < 1000; ++i) std::ofstream(folder_ / ("model.tmp" + std::to_string(i)));
  for (const char* name : {".unit_scaling-.tmp", ".unit_scaling-notes.tmp",
                           ".unit_scaling-0123456789abcdef-0123456789abcdeg.tmp"}) {
    std::ofstream(folder_ / name) << "somebody's";
  }
  // Of this form, but not what a writer leaves.
  const std::string form = ".unit_scaling-0123456789abcdef-0123456789abcde";
  std::filesystem::create_directory(folder_ / (form + "0.tmp"));
  std::filesystem::create_symlink("model", folder_ / (form + "1.tmp"));
  ASSERT_EQ(mkfifo((folder_ / (form + "2.tmp")).c_str(), 0600), 0);
  // Of another machine, which may still be writing where locks do not reach from one to the other.
  std::ofstream(folder_ / (form + "3.tmp")) << "new";
  std::ofstream(folder_ / (form + "4.tmp")) << "of the day before yesterday";
  std::filesystem::last_write_time(
      folder_ / (form + "4.tmp"),
      std::filesystem::file_time_type::clock::now() - std::chrono::hours(48));
  EXPECT_EQ(files(), 1008);
  write_file(path, "text");
  EXPECT_EQ(content(path), "text");
  EXPECT_EQ(files(), 1008) << "one new, one gone";
  EXPECT_FALSE(std::filesystem::exists(folder_ / (form + "4.tmp")));
}

TEST_F(AtomicFileTest, OfAProcessKilledAtAnyMomentRemainsTheOldOrTheNewFile) {
  const auto path = folder_ / "file";
  const auto version = [](char letter) {
    return std::string(1 + 200'000 * static_cast<std::size_t>(letter - 'a'), letter);
  };
  write_file(path, version('a'));
  std::uint64_t microseconds = 1;
  for (int round = 0; round < 60; ++round) {
    const pid_t child = start([&] {
      for (int i = 0;; ++i) write_file(path, version(static_cast<char>('a' + i % 3)));
    });
    microseconds = microseconds * 48271 % 2147483647;  // the minimal generator of Park and Miller
    usleep(static_cast<useconds_t>(microseconds % 8000));
    kill(child, SIGKILL);
    EXPECT_TRUE(WIFSIGNALED(end_of(child)));
    const std::string found = content(path);
    EXPECT_EQ(found, version(found.at(0))) << round;
    EXPECT_LE(files(), 2) << "the round before left nothing";
    if (round % 2 == 1) {
      write_file(path, version('b'));
      EXPECT_EQ(files(), 1);
    }
  }
}

TEST_F(AtomicFileTest, ThreadsAndProcessesMayWriteOneFileAtOnce) {
  const auto path = folder_ / "file";
  const auto write_often = [&](char letter) {
    for (int i = 0; i < 40; ++i) {
      const std::string text(static_cast<std::size_t>(1000 + i), letter);
      if (!complaint(path, text).empty()) return false;
    }
    return true;
  };
  std::vector<pid_t> children;
  for (const char letter : {'a', 'b', 'c'}) {
    children.push_back(start([&] { _exit(write_often(letter) ? 0 : 1); }));
  }
  std::array<bool, 3> succeeded{};
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < succeeded.size(); ++i) {
    threads.emplace_back([&, i] { succeeded[i] = write_often(static_cast<char>('d' + i)); });
  }
  for (std::thread& thread : threads) thread.join();
  for (const pid_t child : children) EXPECT_EQ(end_of(child), 0);
  EXPECT_EQ(succeeded, (std::array<bool, 3>{true, true, true}));
  EXPECT_EQ(files(), 1);
  const std::string found = content(path);
  EXPECT_EQ(found, std::string(found.size(), found.at(0)));
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

}  // namespace atomic_file_test
