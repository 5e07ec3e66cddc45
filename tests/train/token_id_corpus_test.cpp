// SPDX-License-Identifier: MIT
#include "unit_scaling/train/token_id_corpus.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <limits>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "support/errors.hpp"
#include "support/temporary_folder.hpp"
#include "unit_scaling/core/file_error.hpp"
#include "unit_scaling/train/causal_batch.hpp"
#include "unit_scaling/train/masked_batch.hpp"
#include "unit_scaling/train/token_file.hpp"

namespace token_id_corpus_test {

namespace fs = std::filesystem;
using namespace unit_scaling;
using train::TokenBytes;
using train::TokenIdCorpus;
using unit_scaling_test::expect_domain_error;
using unit_scaling_test::expect_error;

using Ids = std::vector<std::int32_t>;

class TokenIdCorpora : public testing::Test {
 protected:
  [[nodiscard]] fs::path path() const { return folder_.path() / "ids.bin"; }

 private:
  unit_scaling_test::TemporaryFolder folder_;
};

Ids some_ids() {
  Ids ids(3001);
  for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<std::int32_t>(i * i % 997);
  return ids;
}

TEST_F(TokenIdCorpora, AreTheSameInMemoryAndInAFile) {
  const Ids ids = some_ids();
  const train::Vocabulary vocabulary{.size = 1000, .mask_id = 999};
  const TokenIdCorpus loaded(ids, vocabulary, 20);
  for (const TokenBytes bytes : {TokenBytes::two, TokenBytes::four}) {
    train::TokenFileWriter writer(path(), 1000, bytes);
    writer.append(ids);
    writer.finish();
    const TokenIdCorpus mapped = TokenIdCorpus::map_file(path(), vocabulary, bytes, 20);
    EXPECT_EQ(mapped.vocabulary_size(), 1000U);
    EXPECT_EQ(mapped.mask_id(), 999);
    EXPECT_TRUE(std::ranges::equal(mapped.training(), std::span(ids).first(2701)));
    EXPECT_TRUE(std::ranges::equal(mapped.validation(), std::span(ids).last(300)));
    EXPECT_TRUE(std::ranges::equal(loaded.training(), mapped.training()));
    EXPECT_TRUE(std::ranges::equal(loaded.validation(), mapped.validation()));
    const TokenIdCorpus copy = mapped;  // NOLINT(performance-unnecessary-copy-initialization)
    EXPECT_EQ(train::CausalBatches(loaded, 20, 1).training(9, 4),
              train::CausalBatches(copy, 20, 1).training(9, 4));
    const auto batch = train::MaskedBatches(loaded, 20, 1).validation(3, 9, 4);
    const auto other = train::MaskedBatches(copy, 20, 1).validation(3, 9, 4);
    EXPECT_EQ(batch.ids, other.ids);
    EXPECT_EQ(batch.labels, other.labels);
  }
}

TEST_F(TokenIdCorpora, WithoutAMaskHaveNoMaskedBatches) {
  const TokenIdCorpus corpus(Ids(100, 4), {.size = 5}, 10);
  EXPECT_NO_THROW(train::CausalBatches(corpus, 10, 1));
  expect_domain_error([&] { train::MaskedBatches(corpus, 10, 1); }, {"vocabulary that has a mask"});
}

TEST_F(TokenIdCorpora, RefuseWhatDoesNotFitTheVocabulary) {
  expect_domain_error(
      [] {
        TokenIdCorpus(Ids{0, 1, 5}, {.size = 5}, 0);
      },
      {"TokenIdCorpus", "ids from 0 to 4, got 5 at position 2"});
  expect_domain_error([] { TokenIdCorpus(Ids{0, -1}, {.size = 5}, 0); }, {"got -1 at position 1"});
  expect_domain_error([] { TokenIdCorpus(Ids{}, {.size = 0}, 0); }, {"got 0"});
  expect_domain_error([] { TokenIdCorpus(Ids{}, {.size = 0x80000000}, 0); }, {"got 2147483648"});
  for (const std::int32_t mask : {-1, 5}) {
    expect_domain_error([&] { TokenIdCorpus(Ids{}, {.size = 5, .mask_id = mask}, 0); },
                        {"mask from 0 to 4, got " + std::to_string(mask)});
    expect_domain_error(
        [&] { (void)TokenIdCorpus::map_file(path(), {.size = 5, .mask_id = mask}, 0); },
        {"mask from 0 to 4, got " + std::to_string(mask)});
  }
  expect_domain_error(
      [&] { (void)TokenIdCorpus::map_file(path(), {.size = 65537}, TokenBytes::two, 0); },
      {"1 to 65536 ids, got 65537"});
}

TEST_F(TokenIdCorpora, RefuseTextsWithoutAWindow) {
  EXPECT_NO_THROW(TokenIdCorpus(Ids(160, 0), {.size = 1}, 16));
  expect_error<std::invalid_argument>([] { TokenIdCorpus(Ids(159, 0), {.size = 1}, 16); },
                                      {"text too short: 159 ids", "at least 160"});
  std::ofstream(path()) << "";
  expect_error<std::invalid_argument>(
      [&] { (void)TokenIdCorpus::map_file(path(), {.size = 5}, 1); },
      {"0 ids in '" + path().string() + "';", "at least 10"});
  constexpr std::size_t most = std::numeric_limits<std::size_t>::max();
  expect_error<std::invalid_argument>([&] { TokenIdCorpus(Ids(9, 0), {.size = 1}, most / 2); },
                                      {"at least " + std::to_string(most)});
}

TEST_F(TokenIdCorpora, ThatAreMovedFromHaveNoIds) {
  TokenIdCorpus corpus(some_ids(), {.size = 1000}, 20);
  const TokenIdCorpus taken = std::move(corpus);
  EXPECT_EQ(taken.training().size(), 2701U);
  EXPECT_TRUE(corpus.training().empty());  // NOLINT(bugprone-use-after-move)
  EXPECT_TRUE(corpus.validation().empty());
}

TEST_F(TokenIdCorpora, NameTheFileAndThePositionOfAnIdBeyondTheVocabulary) {
  std::ofstream(path(), std::ios::binary) << std::string(38, '\0') + std::string("\x05\0", 2);
  const TokenIdCorpus corpus = TokenIdCorpus::map_file(path(), {.size = 5}, 2);
  EXPECT_EQ(train::CausalBatches(corpus, 2, 1).training(1, 0).data()[0], 0);
  expect_error<FileError>([&] { (void)train::CausalBatches(corpus, 2, 1).validation(0, 1); },
                          {"ids.bin'", "has id 5 at position 19, expected ids below 5"});
}

// Nothing of this is on the disk.
TEST_F(TokenIdCorpora, MayHaveMoreIdsThan32BitsCount) {
  std::ofstream(path()) << "";
  const std::uint64_t size = std::uint64_t{10'000'000'000};
  fs::resize_file(path(), 2 * size);
  std::ofstream(path(), std::ios::binary | std::ios::in).seekp(2 * static_cast<long>(size) - 2)
      << std::string("\x07\0", 2);
  const TokenIdCorpus corpus = TokenIdCorpus::map_file(path(), {.size = 50257}, 100);
  EXPECT_EQ(corpus.training().size(), 9'000'000'000U);
  EXPECT_EQ(corpus.validation().back(), 7);
  const auto ids = train::CausalBatches(corpus, 100, 1).training(4, 2);
  EXPECT_TRUE(std::all_of(ids.data(), ids.data() + ids.size(), [](auto id) { return id == 0; }));
}

}  // namespace token_id_corpus_test
