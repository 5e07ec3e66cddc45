// SPDX-License-Identifier: MIT
#include "unit_scaling/train/text_corpus.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "support/errors.hpp"
#include "support/temporary_folder.hpp"

namespace {

namespace fs = std::filesystem;
using unit_scaling::train::TextCorpus;
using unit_scaling_test::expect_error;

/// A folder of the test's own, removed at its end.
class TextFiles : public testing::Test {
 protected:
  fs::path write(std::string_view name, std::string_view bytes) {
    const fs::path path = folder() / name;
    std::ofstream(path, std::ios::binary) << bytes;
    return path;
  }

  [[nodiscard]] const fs::path& folder() const { return folder_.path(); }

 private:
  unit_scaling_test::TemporaryFolder folder_;
};

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

TEST_F(TextFiles, AreReadOneAfterAnother) {
  const std::array paths{write("a", "one\r\n"), write("b", std::string_view("\0\xFF two", 6))};
  EXPECT_EQ(TextCorpus::read_files(paths), std::string("one\r\n\0\xFF two", 11));
  EXPECT_EQ(TextCorpus::read_files({}), "");
}

TEST_F(TextFiles, ThatAreMissingAreNamed) {
  const std::array paths{write("there", "text"), folder() / "not there"};
  expect_error<std::invalid_argument>([&] { (void)TextCorpus::read_files(paths); },
                                      {"cannot read", (folder() / "not there").string()});
}

TEST_F(TextFiles, ThatAreEmptyAreNamed) {
  const std::array paths{write("there", "text"), write("nothing", "")};
  expect_error<std::invalid_argument>([&] { (void)TextCorpus::read_files(paths); },
                                      {"is empty", (folder() / "nothing").string()});
}

TEST_F(TextFiles, ThatAreFoldersAreNamed) {
  const std::array paths{folder()};
  expect_error<std::invalid_argument>([&] { (void)TextCorpus::read_files(paths); },
                                      {"cannot read", folder().string()});
}

}  // namespace
