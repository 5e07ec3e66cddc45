// SPDX-License-Identifier: MIT
#include "unit_scaling/train/causal_batch.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "support/errors.hpp"
#include "unit_scaling/train/text_corpus.hpp"

namespace causal_batch_test {

using namespace unit_scaling;
using namespace unit_scaling_test;

/// No part of which comes twice: each byte value once, 26 of them for validation.
std::string all_bytes() {
  std::string text;
  for (int byte = 0; byte < 256; ++byte) text.push_back(static_cast<char>(byte));
  return text;
}

TEST(CausalBatches, TrainingWindowsBeginAnywhereAndAreAFunctionOfSeedAndStep) {
  const train::TextCorpus corpus(all_bytes(), 5);
  const train::CausalBatches batches(corpus, 5, 7);
  const auto text = corpus.training();
  std::set<std::int32_t> begins;
  for (std::uint32_t step = 0; step < 400; ++step) {
    const auto ids = batches.training(6, step);
    ASSERT_EQ(ids.shape(), (Shape{6, 5}));
    EXPECT_EQ(ids, batches.training(6, step));
    for (std::size_t row = 0; row < 6; ++row) {
      const std::int32_t first = ids.row(row)[0];
      begins.insert(first);
      EXPECT_TRUE(std::equal(ids.row(row), ids.row(row) + 5, text.begin() + first)) << first;
    }
  }
  EXPECT_EQ(begins.size(), text.size() - 4);
  EXPECT_NE(train::CausalBatches(corpus, 5, 8).training(6, 0), batches.training(6, 0));
}

TEST(CausalBatches, ValidationWindowsPredictEachIdOnce) {
  const train::TextCorpus corpus(all_bytes(), 5);
  const auto text = corpus.validation();
  for (const std::size_t window : {2U, 3U, 5U, 7U, 25U}) {
    const train::CausalBatches batches(corpus, window, 1);
    const std::size_t windows = batches.validation_windows();
    std::vector<std::int32_t> predicted;
    for (std::size_t first = 0; first < windows; first += 2) {
      const auto ids = batches.validation(first, std::min<std::size_t>(2, windows - first));
      for (std::size_t row = 0; row < ids.rows(); ++row) {
        predicted.insert(predicted.end(), ids.row(row) + 1, ids.row(row) + window);
      }
    }
    ASSERT_LE(predicted.size(), text.size() - 1);
    EXPECT_GT(predicted.size() + window, text.size());
    EXPECT_TRUE(std::equal(predicted.begin(), predicted.end(), text.begin() + 1)) << window;
  }
}

TEST(CausalBatches, RefusesWhatDoesNotFit) {
  const train::TextCorpus corpus(all_bytes(), 5);
  for (const std::size_t window : {0U, 1U, 10000U}) {
    expect_domain_error([&] { train::CausalBatches(corpus, window, 1); },
                        {"CausalBatches", "window of 2 to"});
  }
  const train::CausalBatches batches(corpus, 6, 1);
  EXPECT_EQ(batches.validation_windows(), 4U);  // of 25 ids
  expect_domain_error([&] { (void)batches.validation(0, 0); }, {"of 4 validation windows"});
  expect_domain_error([&] { (void)batches.validation(4, 1); }, {"got 1 from window 4"});
  expect_domain_error([&] { (void)batches.validation(3, 2); }, {"got 2 from window 3"});
  expect_domain_error([&] { (void)batches.training(0, 1); }, {"at least one window"});
  EXPECT_EQ(train::CausalBatches(corpus, 200, 1).validation_windows(), 0U);
}

TEST(TextCorpus, GivesTextForIdsAndIdsForText) {
  const std::string text = "the quick brown fox\njumps over the lazy dog\0x" + std::string(1, '\0');
  const train::TextCorpus corpus(text, 1);
  const std::vector<std::int32_t> training(corpus.training().begin(), corpus.training().end());
  EXPECT_EQ(corpus.text_of(training), text.substr(0, training.size()));
  const auto ids = corpus.ids_of("lazy fox\n");
  EXPECT_EQ(corpus.text_of(ids), "lazy fox\n");
  expect_domain_error([&] { (void)corpus.ids_of("Lazy"); }, {"TextCorpus::ids_of", "'L'"});
  for (const std::int32_t id : {-1, corpus.mask_id(), 1000}) {
    expect_domain_error([&] { (void)corpus.text_of(std::vector<std::int32_t>{id}); },
                        {"TextCorpus::text_of", std::to_string(id)});
  }
}

}  // namespace causal_batch_test
