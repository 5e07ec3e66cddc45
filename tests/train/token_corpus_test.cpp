// SPDX-License-Identifier: MIT
#include "unit_scaling/train/token_corpus.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <ranges>
#include <span>
#include <string_view>
#include <type_traits>
#include <vector>

#include "support/errors.hpp"
#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/random.hpp"
#include "unit_scaling/core/shape.hpp"
#include "unit_scaling/train/causal_batch.hpp"
#include "unit_scaling/train/masked_batch.hpp"

namespace token_corpus_test {

using namespace unit_scaling;
using train::TokenCorpus;
using train::TokenText;
using unit_scaling_test::expect_domain_error;

/// A corpus of a user's own, as long as is wanted: at position i stands i modulo 1000003.
class Positions final : public TokenCorpus {
 public:
  static constexpr std::size_t period = 1000003;

  explicit Positions(std::size_t size) : size_(size) {}
  [[nodiscard]] std::size_t vocabulary_size() const override { return period + 1; }
  [[nodiscard]] std::int32_t mask_id() const override { return 7; }  // which is in the text, too

 private:
  [[nodiscard]] std::size_t size() const override { return size_; }
  void read(std::size_t first, std::span<std::int32_t> to) const override {
    for (std::size_t i = 0; i < to.size(); ++i) {
      to[i] = static_cast<std::int32_t>((first + i) % period);
    }
  }

  std::size_t size_;
};

static_assert(std::ranges::random_access_range<TokenText> && std::ranges::view<TokenText>);

TEST(TokenText, IsARangeOfTheIdsOfItsPart) {
  const Positions corpus(109);
  const TokenText training = corpus.training();
  const TokenText validation = corpus.validation();
  std::vector<std::int32_t> expected(109);
  for (std::size_t i = 0; i < 109; ++i) expected[i] = static_cast<std::int32_t>(i);
  EXPECT_TRUE(std::ranges::equal(training, std::span(expected).first(99)));
  EXPECT_TRUE(std::ranges::equal(validation, std::span(expected).last(10)));
  EXPECT_EQ(validation.front(), 99);
  EXPECT_EQ(validation[3], 102);
  EXPECT_EQ(validation.back(), 108);
  EXPECT_EQ(training.end() - training.begin(), 99);
  EXPECT_EQ(*(training.end() - 99 + 5), 5);
  EXPECT_TRUE(TokenText().empty());
  auto position = validation.begin();
  EXPECT_EQ(*position++, 99);
  EXPECT_EQ(*position, 100);
  EXPECT_EQ(*position--, 100);
  EXPECT_EQ(*position, 99);
  EXPECT_LT(position, validation.end());
}

TEST(TokenText, CopiesIdsAndRefusesThoseThatAreNotThere) {
  const Positions corpus(109);
  const TokenText text = corpus.validation();
  std::vector<std::int32_t> ids(4);
  text.copy(6, ids);
  EXPECT_EQ(ids, (std::vector<std::int32_t>{105, 106, 107, 108}));
  EXPECT_NO_THROW(text.copy(10, {}));
  expect_domain_error([&] { text.copy(7, ids); }, {"some of 10 ids, got 4 from 7"});
  expect_domain_error([&] { text.copy(11, {}); }, {"some of 10 ids, got 0 from 11"});
  expect_domain_error([&] { text.copy(SIZE_MAX, ids); }, {"some of 10 ids, got 4"});
}

/// Both kinds of batches, of one constructor and by the same calls.
template <class Batches> Array<std::int32_t> ids_of(const Batches& batches, std::uint32_t step) {
  if constexpr (std::is_same_v<Batches, train::MaskedBatches>) {
    return batches.training(8, step).ids;
  } else {
    return batches.training(8, step);
  }
}

TEST(TokenCorpus, OfMoreThan32BitsHasWindowsFromAllOfIt) {
  constexpr std::size_t size = std::size_t{1} << 40;
  const Positions corpus(size);
  const train::CausalBatches batches(corpus, 1000, 3);
  for (std::uint32_t step = 0; step < 10; ++step) {
    const auto ids = ids_of(batches, step);
    ASSERT_EQ(ids.shape(), (Shape{8, 1000}));
    EXPECT_EQ(ids, ids_of(batches, step));
    for (std::size_t row = 0; row < 8; ++row) {
      for (std::size_t i = 1; i < 1000; ++i) {
        ASSERT_EQ(ids.row(row)[i], (ids.row(row)[i - 1] + 1) % std::int32_t{Positions::period});
      }
    }
  }
  const std::size_t last = batches.validation_windows() - 1;
  const std::size_t begin = size - size / 10 + last * 999;
  const auto ids = batches.validation(last, 1);
  EXPECT_EQ(ids.row(0)[0], static_cast<std::int32_t>(begin % Positions::period));
  EXPECT_EQ(ids_of(train::MaskedBatches(corpus, 1000, 3), 0).shape(), (Shape{8, 1000}));
}

/// Writes down where it is read.
class Watched final : public TokenCorpus {
 public:
  explicit Watched(std::size_t size) : size_(size) {}
  [[nodiscard]] std::size_t vocabulary_size() const override { return 2; }
  [[nodiscard]] std::int32_t mask_id() const override { return 1; }
  [[nodiscard]] const std::vector<std::size_t>& begins() const { return begins_; }

 private:
  [[nodiscard]] std::size_t size() const override { return size_; }
  void read(std::size_t first, std::span<std::int32_t> to) const override {
    begins_.push_back(first);
    std::ranges::fill(to, 0);
  }

  std::size_t size_;
  mutable std::vector<std::size_t> begins_;
};

TEST(TokenCorpus, OfMoreThan32BitsIsReadEvenly) {
  constexpr std::size_t size = 10 * (std::size_t{1} << 40);
  constexpr std::size_t training = 9 * (std::size_t{1} << 40);
  const Watched corpus(size);
  const train::CausalBatches batches(corpus, 2, 3);
  for (std::uint32_t step = 0; step < 250; ++step) (void)batches.training(36, step);
  // Of 9000 draws a ninth of the text gets 1000, with a standard deviation of 29.8.
  std::vector<int> counts(9);
  for (const std::size_t begin : corpus.begins()) {
    ASSERT_LE(begin, training - 2);
    ++counts[begin / (training / 9)];
  }
  for (const int count : counts) EXPECT_NEAR(count, 1000, 5 * 29.8);
  EXPECT_EQ(train::CausalBatches(corpus, 2, 3).training(1, 0).size(), 2U);
}

// With as many places as 32 bits can count, where a window begins is one 32-bit draw.
TEST(TokenCorpus, OfFewerThan32BitsIsReadAtTheDrawsOf32Bits) {
  for (const std::size_t training : {std::size_t{1000}, std::size_t{0xFFFFFFFF}}) {
    std::size_t size = training / 9 * 10;
    while (size - size / 10 < training) ++size;
    const Watched corpus(size);
    (void)train::CausalBatches(corpus, 2, 11).training(9, 5);
    const Random random(11, RandomStream::batch, 5);
    for (std::size_t b = 0; b < 9; ++b) {
      const auto word = std::uint64_t{random.word(b)};
      EXPECT_EQ(corpus.begins()[b], word * (training - 1) >> 32U);
    }
  }
}

TEST(TokenCorpus, MayHaveItsMaskAnywhereAndNoRandomIdIsTheMask) {
  const Positions corpus(5000);
  const train::MaskedBatches batches(corpus, 10, 1);
  std::size_t masks = 0;
  std::size_t above = 0;
  for (std::uint32_t step = 0; step < 50; ++step) {
    const auto batch = batches.training(20, step);
    for (std::size_t k = 0; k < batch.selected.size(); ++k) {
      const std::int32_t id = batch.ids.data()[batch.selected.data()[k]];
      const std::int32_t label = batch.labels.data()[k];
      masks += id == 7 ? 1U : 0U;
      above += id != label && id > 7 ? 1U : 0U;
      EXPECT_LE(id, std::int32_t{Positions::period});
    }
  }
  // Of 1500: 1200 and 150 with standard deviations of 15.5 and 11.6.
  EXPECT_NEAR(static_cast<double>(masks), 1200, 5 * 15.5);
  EXPECT_NEAR(static_cast<double>(above), 150, 5 * 11.6);
}

/// Of as many ids, of which one is the mask.
class Few final : public TokenCorpus {
 public:
  Few(std::size_t vocabulary_size, std::int32_t mask_id)
      : vocabulary_size_(vocabulary_size), mask_id_(mask_id) {}
  [[nodiscard]] std::size_t vocabulary_size() const override { return vocabulary_size_; }
  [[nodiscard]] std::int32_t mask_id() const override { return mask_id_; }

 private:
  [[nodiscard]] std::size_t size() const override { return 100; }
  void read(std::size_t /*first*/, std::span<std::int32_t> to) const override {
    std::ranges::fill(to, 0);
  }

  std::size_t vocabulary_size_;
  std::int32_t mask_id_;
};

TEST(TokenCorpus, DrawsEachIdButTheMaskAtRandom) {
  for (const std::int32_t mask : {0, 1, 2}) {
    const Few corpus(3, mask);
    const train::MaskedBatches batches(corpus, 10, 1);
    std::vector<int> counts(3);
    for (std::uint32_t step = 0; step < 100; ++step) {
      const auto batch = batches.training(20, step);
      for (std::size_t k = 0; k < batch.selected.size(); ++k) {
        ++counts[static_cast<std::size_t>(batch.ids.data()[batch.selected.data()[k]])];
      }
    }
    // Of 3000: 2400 masks, 300 kept, which are 0, and 300 random ones of two ids, 150 each.
    std::vector<double> expected(3, 150);
    expected[static_cast<std::size_t>(mask)] = 2400;
    expected[0] += 300;
    for (std::size_t id = 0; id < 3; ++id) {
      EXPECT_NEAR(counts[id], expected[id], 5 * std::sqrt(expected[id])) << mask << ' ' << id;
    }
  }
}

TEST(TokenCorpus, MustHaveTheIdsThatItSaysForMaskedBatches) {
  const auto refuse = [](const Few& corpus, std::string_view what) {
    expect_domain_error([&] { train::MaskedBatches(corpus, 10, 1); }, {"MaskedBatches", what});
  };
  refuse(Few(1, 0), "more than the mask and fewer than 2^31 ids, got 1");
  refuse(Few(0, 0), "got 0");
  refuse(Few(0x80000000, 0), "got 2147483648");
  refuse(Few((std::size_t{1} << 32) + 2, 0), "got 4294967298");
  refuse(Few(5, -1), "mask from 0 to 4, got -1");
  refuse(Few(5, 5), "mask from 0 to 4, got 5");
  const Few most(0x7FFFFFFF, 0x7FFFFFFE);
  EXPECT_NO_THROW(train::MaskedBatches(most, 10, 1));
}

// Which would be gone when a batch is asked for.
template <class Batches>
constexpr bool takes_temporaries =
    std::is_constructible_v<Batches, Few, std::size_t, std::uint64_t> ||
    std::is_constructible_v<Batches, const Few, std::size_t, std::uint64_t>;
static_assert(!takes_temporaries<train::CausalBatches> && !takes_temporaries<train::MaskedBatches>);
static_assert(std::is_constructible_v<train::CausalBatches, Few&, std::size_t, std::uint64_t>);

}  // namespace token_corpus_test
