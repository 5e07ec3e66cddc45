// SPDX-License-Identifier: MIT
#include "unit_scaling/train/token_file.hpp"

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "support/errors.hpp"
#include "support/temporary_folder.hpp"
#include "support/texts.hpp"
#include "unit_scaling/core/file_error.hpp"

namespace token_file_test {

namespace fs = std::filesystem;
using namespace unit_scaling;
using train::TokenBytes;
using train::TokenFile;
using train::TokenFileWriter;
using unit_scaling_test::content;
using unit_scaling_test::expect_domain_error;
using unit_scaling_test::expect_error;

using Ids = std::vector<std::int32_t>;

class TokenFiles : public testing::Test {
 protected:
  fs::path write(std::string_view bytes) {
    std::ofstream(path(), std::ios::binary) << bytes;
    return path();
  }
  [[nodiscard]] fs::path path() const { return folder_.path() / "ids.bin"; }

 private:
  unit_scaling_test::TemporaryFolder folder_;
};

Ids all(const TokenFile& file) {
  Ids ids(file.size());
  file.read(0, ids);
  return ids;
}

TEST_F(TokenFiles, AreTheIdsWithTheLowestByteFirst) {
  TokenFileWriter two(path(), 0x10000);
  two.append(Ids{0, 1, 0x1234});
  two.append({});
  two.append(Ids{0xFFFF});
  EXPECT_FALSE(fs::exists(path()));  // until it is finished
  two.finish();
  EXPECT_EQ(content(path()), std::string("\0\0\x01\0\x34\x12\xFF\xFF", 8));

  TokenFileWriter four(path(), 0x10001);
  four.append(Ids{0x10000, 5});
  four.finish();
  EXPECT_EQ(content(path()), std::string("\0\0\x01\0\x05\0\0\0", 8));

  TokenFileWriter wide(path(), 10, TokenBytes::four);
  wide.append(Ids{9});
  wide.finish();
  EXPECT_EQ(content(path()), std::string("\x09\0\0\0", 4));
}

TEST_F(TokenFiles, AreReadFromBytes) {
  write(std::string_view("\0\0\x34\x12\xFF\xFF", 6));
  EXPECT_EQ(all(TokenFile(path(), 0x10000, TokenBytes::two)), (Ids{0, 0x1234, 0xFFFF}));
  write(std::string_view("\0\0\x01\0\xFE\xFF\xFF\x7F", 8));
  EXPECT_EQ(all(TokenFile(path(), 0x7FFFFFFF, TokenBytes::four)), (Ids{0x10000, 0x7FFFFFFE}));
  write("");
  EXPECT_EQ(TokenFile(path(), 5, TokenBytes::two).size(), 0U);
}

TEST_F(TokenFiles, AreReadBackAsTheyWereWritten) {
  Ids ids(20001);
  for (std::size_t i = 0; i < ids.size(); ++i) {
    ids[i] = static_cast<std::int32_t>(i * 7919 % 50257);
  }
  for (const TokenBytes bytes : {TokenBytes::two, TokenBytes::four}) {
    TokenFileWriter writer(path(), 50257, bytes);
    writer.append(std::span(ids).first(1));
    writer.append(std::span(ids).subspan(1));
    writer.finish();
    const TokenFile file(path(), 50257, bytes);
    EXPECT_EQ(all(file), ids);
    Ids some(7);
    file.read(19994, some);
    EXPECT_EQ(some, Ids(ids.end() - 7, ids.end()));
    expect_domain_error([&] { file.read(19995, some); }, {"some of 20001 ids, got 7 from 19995"});
    expect_domain_error([&] { file.read(SIZE_MAX, some); }, {"some of 20001 ids"});
  }
}

TEST_F(TokenFiles, OfIdsBeyondTheVocabularyAreNeitherWrittenNorRead) {
  TokenFileWriter writer(path(), 300);
  writer.append(Ids{299});
  expect_domain_error([&] { writer.append(Ids{1, 300}); }, {"ids from 0 to 299, got 300"});
  expect_domain_error([&] { writer.append(Ids{1, -1}); }, {"ids from 0 to 299, got -1"});
  writer.finish();
  EXPECT_EQ(all(TokenFile(path(), 300, TokenBytes::two)), Ids{299});
  expect_error<FileError>([&] { all(TokenFile(path(), 299, TokenBytes::two)); },
                          {"ids.bin'", "has id 299 at position 0, expected ids below 299"});

  write(std::string_view("\x01\0\0\0\xFF\xFF\xFF\xFF", 8));
  const TokenFile file(path(), 0x7FFFFFFF, TokenBytes::four);
  Ids first(1);
  file.read(0, first);
  EXPECT_EQ(first, Ids{1});
  expect_error<FileError>([&] { file.read(1, first); }, {"has id 4294967295 at position 1"});
}

TEST_F(TokenFiles, OfBytesThatMakeNoWholeIdsAreRefused) {
  write("abc");
  expect_error<FileError>([&] { TokenFile(path(), 10, TokenBytes::two); },
                          {"ids.bin'", "has 3 bytes, expected ids of 2 bytes each"});
  write("abcdef");
  expect_error<FileError>([&] { TokenFile(path(), 10, TokenBytes::four); },
                          {"has 6 bytes, expected ids of 4 bytes each"});
  fs::remove(path());
  expect_error<FileError>([&] { TokenFile(path(), 10, TokenBytes::two); }, {"no such file"});
}

TEST_F(TokenFiles, HaveVocabulariesThatTheirBytesHold) {
  EXPECT_EQ(train::fewest_token_bytes(65536), TokenBytes::two);
  EXPECT_EQ(train::fewest_token_bytes(65537), TokenBytes::four);
  write("");
  const auto refuse = [&](std::size_t size, TokenBytes bytes, std::string_view what) {
    expect_domain_error([&] { TokenFileWriter(path(), size, bytes); }, {"TokenFileWriter", what});
    expect_domain_error([&] { TokenFile(path(), size, bytes); }, {"TokenFile", what});
  };
  refuse(0, TokenBytes::two, "vocabulary of 1 to 65536 ids, got 0");
  refuse(65537, TokenBytes::two, "vocabulary of 1 to 65536 ids, got 65537");
  refuse(0x80000000, TokenBytes::four, "1 to 2147483647 ids, got 2147483648");
  refuse(5, static_cast<TokenBytes>(3), "ids of 2 or 4 bytes, got 3");
}

TEST_F(TokenFiles, ThatAreNotFinishedLeaveTheOldOne) {
  write("old!");
  {
    TokenFileWriter writer(path(), 10);
    writer.append(Ids(100000, 3));
  }
  EXPECT_EQ(content(path()), "old!");
  EXPECT_EQ(std::distance(fs::directory_iterator(path().parent_path()), {}), 1);
  expect_error<FileError>([&] { TokenFileWriter(path().parent_path(), 10); }, {"it is a folder"});
}

}  // namespace token_file_test
