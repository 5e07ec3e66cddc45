// SPDX-License-Identifier: MIT
#include "unit_scaling/train/masked_batch.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "support/errors.hpp"
#include "unit_scaling/train/text_corpus.hpp"
#include "unit_scaling/train/token_corpus.hpp"

namespace masked_batch_test {

using namespace unit_scaling;
using train::MaskedBatch;
using train::MaskedBatches;
using train::TextCorpus;

constexpr int window = 16;

/// 20000 bytes of 50 symbols.
std::string text() {
  std::string bytes;
  for (std::size_t i = 0; i < 20000; ++i) {
    bytes.push_back(static_cast<char>('0' + (i + (i / 50) * (i % 7)) % 50));
  }
  return bytes;
}

/// The batch with the labels back where they stood.
std::vector<std::int32_t> restored(const MaskedBatch& batch) {
  std::vector<std::int32_t> ids(batch.ids.span().begin(), batch.ids.span().end());
  for (std::size_t k = 0; k < batch.selected.size(); ++k) {
    ids[static_cast<std::size_t>(batch.selected.data()[k])] = batch.labels.data()[k];
  }
  return ids;
}

bool occurs_in(std::span<const std::int32_t> part, const train::TokenText& text) {
  const std::vector<std::int32_t> ids(text.begin(), text.end());
  return std::search(ids.begin(), ids.end(), part.begin(), part.end()) != ids.end();
}

TEST(MaskedBatches, SelectFifteenPercentRoundedButAtLeastOne) {
  const TextCorpus corpus(text(), window);
  const MaskedBatches batches(corpus, window, 1);
  EXPECT_EQ(batches.selected(16), 38U);    // 38.4
  EXPECT_EQ(batches.selected(1), 2U);      // 2.4
  EXPECT_EQ(batches.selected(100), 240U);  // exactly
  EXPECT_EQ(MaskedBatches(corpus, 1, 1).selected(1), 1U);
  for (std::uint32_t step = 0; step < 20; ++step) {
    const MaskedBatch batch = batches.training(16, step);
    EXPECT_EQ(batch.ids.shape(), (Shape{16, window}));
    EXPECT_EQ(batch.selected.shape(), Shape{38});
    EXPECT_EQ(batch.labels.shape(), Shape{38});
  }
}

TEST(MaskedBatches, SelectNoPositionTwice) {
  const TextCorpus corpus(text(), window);
  const MaskedBatches batches(corpus, window, 2);
  for (std::uint32_t step = 0; step < 50; ++step) {
    const MaskedBatch batch = batches.training(4, step);
    const std::set<std::int32_t> distinct(batch.selected.span().begin(),
                                          batch.selected.span().end());
    EXPECT_EQ(distinct.size(), batch.selected.size());
    EXPECT_GE(*distinct.begin(), 0);
    EXPECT_LT(*distinct.rbegin(), 4 * 16);
  }
}

// With the labels put back, each row must be a piece of the training text.
TEST(MaskedBatches, LabelsAreTheOriginalIdsOfWindowsOfTheTrainingText) {
  const TextCorpus corpus(text(), window);
  const MaskedBatches batches(corpus, window, 3);
  for (std::uint32_t step = 0; step < 10; ++step) {
    const auto ids = restored(batches.training(16, step));
    for (std::size_t b = 0; b < 16; ++b) {
      EXPECT_TRUE(occurs_in(std::span(ids).subspan(b * window, window), corpus.training()));
    }
  }
}

// 900 letters a, then 100 letters b: a window that left the training part would hold a b.
TEST(MaskedBatches, TrainingWindowsEndWhereTheValidationTextBegins) {
  const TextCorpus corpus(std::string(900, 'a') + std::string(100, 'b'), 100);
  // As large as the training text: one window is possible. Otherwise the last start is also drawn.
  for (const std::size_t size : {std::size_t{900}, std::size_t{899}, std::size_t{16}}) {
    const MaskedBatches batches(corpus, size, 4);
    for (std::uint32_t step = 0; step < 20; ++step) {
      const auto ids = restored(batches.training(8, step));
      EXPECT_TRUE(std::ranges::all_of(ids, [](auto id) { return id == 0; }));
    }
  }
}

TEST(MaskedBatches, TrainingWindowsBeginAnywhere) {
  // Each place of the training text, 0 to 89, is another symbol.
  std::string bytes;
  for (int i = 0; i < 100; ++i) bytes.push_back(static_cast<char>(i));
  const TextCorpus corpus(bytes, 10);
  const MaskedBatches batches(corpus, 10, 5);
  std::set<std::int32_t> starts;
  // 81 starts; each is missed by 4000 draws with probability e^-49.
  for (std::uint32_t step = 0; step < 40; ++step) {
    const auto ids = restored(batches.training(100, step));
    for (std::size_t b = 0; b < 100; ++b) starts.insert(ids[b * 10]);
  }
  EXPECT_EQ(starts.size(), 81U);
  EXPECT_EQ(*starts.rbegin(), 80);
}

// A random symbol is the original one in 1 of 50 cases, so that 9.8 % stand changed and 10.2 % as
// they were. Counts are within 5 standard errors of n p.
TEST(MaskedBatches, ReplaceEightyPercentByTheMaskAndTenByARandomSymbol) {
  const TextCorpus corpus(text(), window);
  ASSERT_EQ(corpus.mask_id(), 50);
  const MaskedBatches batches(corpus, window, 6);
  double masked = 0, random = 0, kept = 0, total = 0;
  for (std::uint32_t step = 0; step < 100; ++step) {
    const MaskedBatch batch = batches.training(100, step);
    for (std::size_t k = 0; k < batch.selected.size(); ++k) {
      const std::int32_t id = batch.ids.data()[batch.selected.data()[k]];
      const std::int32_t label = batch.labels.data()[k];
      EXPECT_GE(label, 0);
      EXPECT_LT(label, 50);
      (id == corpus.mask_id() ? masked : id == label ? kept : random) += 1;
      ++total;
    }
  }
  ASSERT_EQ(total, 24000);
  const auto expect_share = [&](double count, double share) {
    EXPECT_NEAR(count, total * share, 5 * std::sqrt(total * share * (1 - share)));
  };
  expect_share(masked, 0.8);
  expect_share(random, 0.1 * 49 / 50);
  expect_share(kept, 0.1 + 0.1 / 50);
}

TEST(MaskedBatches, AreAPureFunctionOfSeedAndStep) {
  const TextCorpus corpus(text(), window);
  const MaskedBatches batches(corpus, window, 7);
  const MaskedBatch first = batches.training(8, 3);
  (void)batches.training(8, 4);
  const auto same = [&](const MaskedBatch& other) {
    return first.ids == other.ids && first.selected == other.selected &&
           first.labels == other.labels;
  };
  EXPECT_TRUE(same(batches.training(8, 3)));
  EXPECT_TRUE(same(MaskedBatches(corpus, window, 7).training(8, 3)));
  EXPECT_FALSE(same(batches.training(8, 4)));
  EXPECT_FALSE(same(MaskedBatches(corpus, window, 8).training(8, 3)));
}

TEST(MaskedBatches, ValidationWindowsFollowOneAnotherAndAreTheSameForEverySeed) {
  const TextCorpus corpus(text(), window);
  const MaskedBatches batches(corpus, window, 9);
  ASSERT_EQ(batches.validation_windows(), 125U);  // 2000 symbols
  const MaskedBatch batch = batches.validation(120, 5, 0);
  const auto text = corpus.validation();
  EXPECT_EQ(restored(batch), std::vector<std::int32_t>(text.end() - 5 * window, text.end()));
  EXPECT_EQ(batch.ids, MaskedBatches(corpus, window, 10).validation(120, 5, 0).ids);
  EXPECT_NE(batch.selected, batches.validation(120, 5, 1).selected);
}

TEST(MaskedBatches, ValidationWindowsMayBeSpreadOverTheText) {
  const TextCorpus corpus(text(), window);
  const MaskedBatches batches(corpus, window, 9);
  std::vector<std::int32_t> expected;
  for (const int index : {4, 44, 84, 124}) {  // the last of 125
    const auto part = corpus.validation().begin() + index * window;
    expected.insert(expected.end(), part, part + window);
  }
  EXPECT_EQ(restored(batches.validation(4, 4, 0, 40)), expected);
}

TEST(MaskedBatches, RejectAWindowOfNoPositions) {
  const TextCorpus corpus(text(), window);
  unit_scaling_test::expect_domain_error([&] { const MaskedBatches batches(corpus, 0, 1); },
                                         {"MaskedBatches", "window"});
}

TEST(MaskedBatches, RefusesAWindowThatTheTextCannotFill) {
  const TextCorpus corpus(std::string(1000, 'a') + "b", 10);
  EXPECT_NO_THROW(MaskedBatches(corpus, 901, 1));
  EXPECT_THROW(MaskedBatches(corpus, 902, 1), std::invalid_argument);
  EXPECT_THROW(MaskedBatches(corpus, 5000, 1), std::invalid_argument);
  EXPECT_THROW(MaskedBatches(corpus, 0, 1), std::invalid_argument);
}

TEST(MaskedBatches, RefuseNumbersOfPositionsThatCannotBeCounted) {
  const TextCorpus corpus(text(), window);
  for (const std::size_t of_window : {2UL, 8UL, 13UL, 16UL}) {
    const MaskedBatches batches(corpus, of_window, 1);
    const std::size_t most = std::numeric_limits<std::size_t>::max() / of_window;
    EXPECT_GT(batches.selected(most), most / 10);
    for (const std::size_t batch : {most + 1, most + 2, std::numeric_limits<std::size_t>::max()}) {
      unit_scaling_test::expect_shape_error([&] { (void)batches.selected(batch); },
                                            {"MaskedBatches", std::to_string(batch)});
      unit_scaling_test::expect_domain_error([&] { (void)batches.training(batch, 0); },
                                             {"MaskedBatches", "2^31"});
    }
    unit_scaling_test::expect_domain_error([&] { (void)batches.training(0, 0); },
                                           {"MaskedBatches", "at least one"});
  }
}

TEST(MaskedBatches, RefusesBatchesThatTheTextDoesNotHave) {
  const TextCorpus corpus(std::string(1000, 'a') + "b", 10);
  const MaskedBatches batches(corpus, 10, 1);
  EXPECT_THROW((void)batches.training(0, 0), std::invalid_argument);
  EXPECT_THROW((void)batches.validation(0, 0, 0), std::invalid_argument);
  EXPECT_NO_THROW((void)batches.validation(0, batches.validation_windows(), 0));
  EXPECT_THROW((void)batches.validation(1, batches.validation_windows(), 0), std::invalid_argument);
  EXPECT_THROW((void)batches.validation(batches.validation_windows(), 1, 0), std::invalid_argument);
  EXPECT_NO_THROW((void)batches.validation(0, 2, 0, batches.validation_windows() - 1));
  EXPECT_THROW((void)batches.validation(0, 2, 0, batches.validation_windows()),
               std::invalid_argument);
  EXPECT_THROW((void)batches.validation(0, 1, 0, 0), std::invalid_argument);
}

}  // namespace masked_batch_test
