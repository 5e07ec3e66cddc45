// SPDX-License-Identifier: MIT
#include "unit_scaling/distributed/agreement.hpp"

#include <gtest/gtest.h>

#include <cstddef>
#include <functional>
#include <set>
#include <string>
#include <vector>

#include "support/errors.hpp"
#include "unit_scaling/distributed/thread_ranks.hpp"

namespace agreement_test {

using namespace unit_scaling;
using namespace unit_scaling_test;
using distributed::Communicator;
using distributed::require_agreement;
using distributed::run_thread_ranks;

/// What a rank is told.
struct Told {
  train::Fingerprint fingerprint;
  Parameter weight{.name = "weight", .value = Array<float>({2, 2}, {1, 2, 3, 4})};
};

/// The errors of all ranks; `tell` is called for each of them.
std::vector<std::string> errors_of(std::size_t count,
                                   const std::function<void(std::size_t, Told&)>& tell) {
  std::vector<std::string> errors(count);
  run_thread_ranks(count, [&](Communicator& ranks) {
    Told told;
    tell(ranks.rank(), told);
    try {
      require_agreement(ranks, told.fingerprint, {&told.weight});
    } catch (const DomainError& error) {
      errors[ranks.rank()] = error.what();
    }
  });
  return errors;
}

TEST(Agreement, RanksThatWereToldTheSameGoOn) {
  for (const std::size_t count : {1U, 2U, 3U, 4U}) {
    EXPECT_EQ(errors_of(count,
                        [](std::size_t rank, Told& told) {
                          // The order does not matter.
                          if (rank % 2 == 0) {
                            told.fingerprint.add("steps", 20).add("seed", 1);
                          } else {
                            told.fingerprint.add("seed", 1).add("steps", 20);
                          }
                        }),
              std::vector<std::string>(count));
  }
}

TEST(Agreement, ADifferentOptionIsNamedOnAllRanks) {
  const auto errors = errors_of(4, [](std::size_t rank, Told& told) {
    told.fingerprint.add("steps", rank == 2 ? 40 : 20);
    if (rank == 3) told.fingerprint.add("rate", 0.5);
  });
  EXPECT_EQ(errors, std::vector<std::string>(
                        4,
                        "agreement: expected the same on all ranks, got steps is 20 on rank 0 and "
                        "40 on rank 2; rate is not set on rank 0 and 0.5 on rank 3"));
}

TEST(Agreement, OtherShapesAndOtherSeedsAreFound) {
  const auto shapes = errors_of(2, [](std::size_t rank, Told& told) {
    if (rank == 1) told.weight.value = told.weight.value.reshaped({4, 1});
  });
  EXPECT_EQ(shapes, std::vector<std::string>(
                        2,
                        "agreement: expected the same on all ranks, got parameter 0 is weight (2, "
                        "2) on rank 0 and weight (4, 1) on rank 1"));
  const auto seeds = errors_of(3, [](std::size_t rank, Told& told) {
    if (rank == 1) told.weight.value.mutable_data()[3] = -4;
  });
  EXPECT_EQ(std::set<std::string>(seeds.begin(), seeds.end()).size(), 1U);
  EXPECT_NE(seeds[0].find("weights of parameter 0 is "), std::string::npos) << seeds[0];
  EXPECT_EQ(seeds[0].find("rank 2"), std::string::npos) << seeds[0];
}

TEST(Agreement, ComparesWhatBitsDependOnUnderKeysOfItsOwn) {
  run_thread_ranks(1, [](Communicator& ranks) {
    for (const std::string key :
         {"library version", "byte order", "target", "compiler", "number of parameters"}) {
      train::Fingerprint told;
      told.add(key, "none");
      expect_domain_error([&] { require_agreement(ranks, told, {}); }, {key, "twice"});
    }
  });
}

TEST(GatherTexts, GivesEachRankTheTextsOfAll) {
  const std::vector<std::string> texts{"", std::string("a\0b", 3), std::string(1000, 'x')};
  run_thread_ranks(3, [&](Communicator& ranks) {
    EXPECT_EQ(distributed::gather_texts(ranks, texts[ranks.rank()]), texts) << ranks.rank();
    EXPECT_EQ(distributed::gather_texts(ranks, ""), std::vector<std::string>(3));
  });
}

}  // namespace agreement_test
