// SPDX-License-Identifier: MIT
#include "unit_scaling/train/text_corpus.hpp"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "support/errors.hpp"
#include "support/file_test.hpp"
#include "unit_scaling/core/file_error.hpp"
#include "unit_scaling/train/causal_batch.hpp"
#include "unit_scaling/train/masked_batch.hpp"

namespace text_corpus_test {

namespace fs = std::filesystem;
using unit_scaling::FileError;
using unit_scaling::train::CausalBatches;
using unit_scaling::train::MaskedBatches;
using unit_scaling::train::TextCorpus;
using unit_scaling_test::expect_error;

class TextFiles : public unit_scaling_test::FileTest {};

std::vector<std::int32_t> all_ids(const TextCorpus& corpus) {
  std::vector<std::int32_t> ids(corpus.training().begin(), corpus.training().end());
  ids.insert(ids.end(), corpus.validation().begin(), corpus.validation().end());
  return ids;
}

TEST(TextCorpus, NumbersTheBytesThatOccurInByteOrder) {
  const TextCorpus corpus("banana\xFF \nb", 1);
  // \n, space, a, b, n, FF
  EXPECT_EQ(all_ids(corpus), (std::vector<std::int32_t>{3, 2, 4, 2, 4, 2, 5, 1, 0, 3}));
  EXPECT_EQ(corpus.mask_id(), 6);
  EXPECT_EQ(corpus.vocabulary_size(), 7U);
}

TEST(TextCorpus, TakesEveryByteValue) {
  std::string bytes;
  for (int byte = 255; byte >= 0; --byte) bytes.push_back(static_cast<char>(byte));
  const TextCorpus corpus(bytes, 1);
  EXPECT_EQ(corpus.vocabulary_size(), 257U);
  EXPECT_EQ(corpus.mask_id(), 256);
  EXPECT_EQ(corpus.training()[0], 255);
  EXPECT_EQ(corpus.validation().back(), 0);
}

TEST(TextCorpus, HoldsOutTheLastTenthRoundedDown) {
  for (const std::size_t size : {10, 19, 20, 99, 1000, 1009}) {
    std::string bytes(size - size / 10, 'a');
    bytes.append(size / 10, 'b');
    const TextCorpus corpus(bytes, 1);
    EXPECT_EQ(corpus.training().size(), size - size / 10);
    EXPECT_EQ(corpus.validation().size(), size / 10);
    EXPECT_TRUE(std::ranges::all_of(corpus.training(), [](auto id) { return id == 0; }));
    EXPECT_TRUE(std::ranges::all_of(corpus.validation(), [](auto id) { return id == 1; }));
  }
}

TEST(TextCorpus, RejectsATextWithoutAWindowInEitherPart) {
  EXPECT_NO_THROW(TextCorpus(std::string(160, 'a'), 16));
  expect_error<std::invalid_argument>([] { TextCorpus(std::string(159, 'a'), 16); },
                                      {"159 bytes", "window of 16", "at least 160"});
  expect_error<std::invalid_argument>([] { TextCorpus("", 1); }, {"0 bytes", "at least 10"});
}

// The same from memory and from mapped files, however the text is cut into files.
TEST_F(TextFiles, MakeTheSameCorpusMappedAsRead) {
  std::string bytes;
  for (int i = 0; i < 5000; ++i) bytes.push_back(static_cast<char>(i * i % 211 + i % 3));
  const std::string_view text = bytes;
  const std::vector<fs::path> paths{write("a", text.substr(0, 1)), write("b", text.substr(1, 7)),
                                    write("c", text.substr(8, 4490)),
                                    write("d", text.substr(4498))};
  const TextCorpus read(TextCorpus::read_files(paths), 20);
  const TextCorpus mapped = TextCorpus::map_files(paths, 20);
  EXPECT_EQ(mapped.vocabulary_size(), read.vocabulary_size());
  EXPECT_EQ(mapped.mask_id(), read.mask_id());
  EXPECT_EQ(all_ids(mapped), all_ids(read));
  EXPECT_EQ(mapped.text_of(all_ids(mapped)), bytes);
  for (const std::size_t window : {2U, 20U, 4500U}) {
    const CausalBatches from_memory(read, window, 3);
    const CausalBatches from_files(mapped, window, 3);
    const MaskedBatches masked_from_memory(read, window, 3);
    const MaskedBatches masked_from_files(mapped, window, 3);
    for (std::uint32_t step = 0; step < 20; ++step) {
      EXPECT_EQ(from_files.training(5, step), from_memory.training(5, step));
      const auto batch = masked_from_files.training(5, step);
      const auto other = masked_from_memory.training(5, step);
      EXPECT_EQ(batch.ids, other.ids);
      EXPECT_EQ(batch.selected, other.selected);
      EXPECT_EQ(batch.labels, other.labels);
    }
    if (window > 20) continue;
    EXPECT_EQ(from_files.validation(1, 9), from_memory.validation(1, 9));
    EXPECT_EQ(masked_from_files.validation(1, 9, 2).ids,
              masked_from_memory.validation(1, 9, 2).ids);
  }
}

TEST_F(TextFiles, AreMappedForCopiesToo) {
  const std::array paths{write("a", std::string(50, 'a') + std::string(50, 'b'))};
  std::vector<TextCorpus> corpora{TextCorpus::map_files(paths, 1), TextCorpus("ababababab", 1)};
  const std::vector<TextCorpus> copies = corpora;
  corpora.clear();
  EXPECT_EQ(copies[0].text_of(all_ids(copies[0])), std::string(50, 'a') + std::string(50, 'b'));
  EXPECT_EQ(copies[1].text_of(all_ids(copies[1])), "ababababab");
}

TEST_F(TextFiles, ThatCannotBeMappedAreNamed) {
  const fs::path there = write("there", std::string(100, 'a'));
  const std::pair<fs::path, std::string> mistakes[] = {
      {folder() / "not there", "there is no such file"},
      {folder(), "is not a regular file"},
      {"/dev/zero", "is not a regular file"},
      {write("nothing", ""), "is empty"},
  };
  for (const auto& [path, what] : mistakes) {
    for (const std::vector<fs::path>& paths : {std::vector{path}, {there, path}, {path, there}}) {
      expect_error<FileError>([&] { (void)TextCorpus::map_files(paths, 1); },
                              {what, "'" + path.string() + "': "});
    }
  }
  expect_error<std::invalid_argument>(
      [&] { (void)TextCorpus::map_files(std::array{there}, 11); },
      {"100 bytes in '" + there.string() + "';", "window of 11", "at least 110"});
  const std::array two{there, write("more", "text")};
  expect_error<std::invalid_argument>([&] { (void)TextCorpus::map_files(two, 11); },
                                      {"104 bytes in '" + there.string() + "' and 1 more;"});
  expect_error<std::invalid_argument>([] { (void)TextCorpus::map_files({}, 1); }, {"0 bytes"});
}

// A corpus numbers the values of bytes that it saw first.
TEST_F(TextFiles, ThatAreChangedMeanwhileAreRefusedWhereTheyHaveOtherBytes) {
  const std::array paths{write("a", std::string(100, 'a'))};
  const TextCorpus corpus = TextCorpus::map_files(paths, 1);
  std::ofstream(paths[0], std::ios::binary | std::ios::in).seekp(95) << "\n";
  EXPECT_EQ(corpus.training()[0], 0);
  expect_error<FileError>([&] { (void)corpus.validation()[5]; },
                          {"/a': has byte ", R"('\n' at position 95)"});
  const std::array both{write("c", std::string(7, 'a')), paths[0]};
  const TextCorpus two = TextCorpus::map_files(both, 1);
  std::ofstream(paths[0], std::ios::binary | std::ios::in).seekp(98) << "b";
  std::vector<std::int32_t> ids(5);
  expect_error<FileError>([&] { two.validation().copy(5, ids); },
                          {"/a': has byte 'b' at position 98, expected only bytes"});
}

TEST_F(TextFiles, AreReadOneAfterAnother) {
  const std::array paths{write("a", "one\r\n"), write("b", std::string_view("\0\xFF two", 6))};
  EXPECT_EQ(TextCorpus::read_files(paths), std::string("one\r\n\0\xFF two", 11));
  EXPECT_EQ(TextCorpus::read_files({}), "");
}

TEST_F(TextFiles, ThatAreNoTextsAreNamedBeforeAnythingIsRead) {
  const fs::path pipe = folder() / "pipe";
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  fs::create_symlink("/dev/zero", folder() / "zeros");
  fs::create_symlink("nowhere", folder() / "dangling");
  fs::create_symlink("circle", folder() / "circle");
  const fs::path there = write("there", "text");
  const std::pair<fs::path, std::string> mistakes[] = {
      {folder() / "not there", "there is no such file"},
      {folder() / "dangling", "there is no such file"},
      {there / "below", "there is no such file"},
      {folder() / std::string(300, 'x'), "cannot be opened"},
      {folder() / "circle", "cannot be opened"},
      {"", "there is no such file"},
      {folder(), "is not a regular file"},
      {pipe, "is not a regular file"},
      {"/dev/zero", "is not a regular file"},
      {folder() / "zeros", "is not a regular file"},
      {write("nothing", ""), "is empty"},
  };
  for (const auto& [path, what] : mistakes) {
    for (const std::vector<fs::path>& paths : {std::vector{path}, {there, path}, {path, there}}) {
      expect_error<FileError>([&] { (void)TextCorpus::read_files(paths); },
                              {what, "'" + path.string() + "': "});
    }
  }
}

// Such a file has a size of 0, if it tells one, and bytes nevertheless; some would never end.
TEST_F(TextFiles, ThatTellNoSizeAreRefused) {
  if (!fs::exists("/proc/self/status")) GTEST_SKIP() << "there is no /proc here";
  const std::array paths{fs::path("/proc/self/status")};
  expect_error<FileError>([&] { (void)TextCorpus::read_files(paths); },
                          {"'/proc/self/status': ", "size"});
}

TEST_F(TextFiles, AreRefusedWhereTheyAreLongerThanAllowedInAll) {
  const fs::path four = write("four", "four");
  const fs::path five = write("five", "fives");
  const std::array both{four, five};
  EXPECT_EQ(TextCorpus::read_files(both, 9), "fourfives");
  expect_error<FileError>([&] { (void)TextCorpus::read_files(both, 8); },
                          {"five'", "5 bytes beside 4", "expected at most 8 in all"});
  expect_error<FileError>([&] { (void)TextCorpus::read_files(both, 3); },
                          {"four'", "has 4 bytes, expected at most 3"});
  // Nothing of this is on the disk, and nothing of it is read.
  const fs::path sparse = write("sparse", "");
  fs::resize_file(sparse, std::uintmax_t{1} << 40);
  expect_error<FileError>(
      [&] {
        (void)TextCorpus::read_files(std::array{four, sparse});
      },
      {"1099511627776 bytes", "expected at most 4294967295"});
}

TEST_F(TextFiles, OfStrangeNamesAreNamedOnOneLine) {
  expect_error<FileError>(
      [&] { (void)TextCorpus::read_files(std::array{folder() / "a\nb\xFF\x1b"}); },
      {R"(a\nb\xff\x1b': there is no such file)"});
}

}  // namespace text_corpus_test
