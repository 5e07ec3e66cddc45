// SPDX-License-Identifier: MIT
#include "unit_scaling/core/mapped_file.hpp"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "support/errors.hpp"
#include "support/file_test.hpp"
#include "unit_scaling/core/atomic_file.hpp"
#include "unit_scaling/core/file_error.hpp"

namespace mapped_file_test {

namespace fs = std::filesystem;
using unit_scaling::FileError;
using unit_scaling::MappedFile;
using unit_scaling_test::expect_error;

std::string text(const MappedFile& file) {
  return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
}

class MappedFiles : public unit_scaling_test::FileTest {};

TEST_F(MappedFiles, HaveTheBytesOfTheFile) {
  std::string bytes;
  for (int i = 0; i < 10000; ++i) bytes.push_back(static_cast<char>(i * i / 7));
  EXPECT_EQ(text(MappedFile(write("odd", bytes))), bytes);
  EXPECT_EQ(text(MappedFile(write("one", std::string_view("\0", 1)))), std::string(1, '\0'));
  const MappedFile empty(write("empty", ""));
  EXPECT_TRUE(empty.bytes().empty());
  fs::create_symlink("odd", folder() / "link");
  EXPECT_EQ(text(MappedFile(folder() / "link")), bytes);
}

TEST_F(MappedFiles, MayBeLargerThanMemory) {
  const fs::path path = write("sparse", "begin");
  constexpr std::uint64_t size = std::uint64_t{1} << 40;
  fs::resize_file(path, size);
  std::ofstream(path, std::ios::binary | std::ios::in).seekp(size - 3) << "end";
  const MappedFile file(path);
  ASSERT_EQ(file.bytes().size(), size);
  EXPECT_EQ(file.bytes()[0], std::byte{'b'});
  EXPECT_EQ(file.bytes()[size / 2], std::byte{0});
  EXPECT_EQ(file.bytes()[size - 1], std::byte{'d'});
}

TEST_F(MappedFiles, GiveTheirBytesToWhatTheyAreMovedTo) {
  MappedFile first(write("first", "first"));
  const std::byte* const at = first.bytes().data();
  MappedFile second(std::move(first));
  EXPECT_EQ(second.bytes().data(), at);
  EXPECT_TRUE(first.bytes().empty());  // NOLINT(bugprone-use-after-move): which is documented
  MappedFile third(write("third", "third"));
  third = std::move(second);
  EXPECT_EQ(text(third), "first");
}

TEST_F(MappedFiles, StayAsTheyWereWhenTheFileIsReplacedOrRemoved) {
  const fs::path path = write("file", "old");
  const MappedFile file(path);
  unit_scaling::write_file(path, "new and longer");
  EXPECT_EQ(text(file), "old");
  fs::remove(path);
  EXPECT_EQ(text(file), "old");
}

TEST_F(MappedFiles, ThatCannotBeReadAreNamed) {
  const fs::path pipe = folder() / "pipe";
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  fs::create_symlink("nowhere", folder() / "dangling");
  fs::create_symlink("circle", folder() / "circle");
  const std::pair<fs::path, std::string> mistakes[] = {
      {folder() / "not there", "there is no such file"},
      {folder() / "dangling", "there is no such file"},
      {folder() / "circle", "cannot be opened"},
      {"", "there is no such file"},
      {folder(), "is not a regular file"},
      {pipe, "is not a regular file"},
      {"/dev/zero", "is not a regular file"},
      {fs::path(std::string("a\0b", 3)), "the name has a zero byte"},
  };
  for (const auto& [path, what] : mistakes) {
    expect_error<FileError>([&path = path] { const MappedFile file(path); }, {what});
  }
  const fs::path closed = write("closed", "text");
  fs::permissions(closed, fs::perms::none);
  if (std::ifstream(closed).good()) return;  // root may read everything
  expect_error<FileError>([&] { const MappedFile file(closed); }, {"cannot be opened", "closed"});
}

}  // namespace mapped_file_test
