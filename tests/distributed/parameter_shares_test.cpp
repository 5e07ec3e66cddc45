// SPDX-License-Identifier: MIT
#include "unit_scaling/distributed/parameter_shares.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <vector>

#include "distributed/gradients.hpp"
#include "support/errors.hpp"
#include "unit_scaling/core/random.hpp"

namespace parameter_shares_test {

using namespace unit_scaling;
using namespace unit_scaling_test;
using distributed::ParameterShares;

using Sizes = std::vector<std::size_t>;

/// Elements of the rank that has most.
std::size_t most(const Sizes& sizes, const Sizes& owners, std::size_t ranks) {
  Sizes elements(ranks);
  for (std::size_t k = 0; k < sizes.size(); ++k) elements.at(owners[k]) += sizes[k];
  return *std::max_element(elements.begin(), elements.end());
}

/// The least that `most` can be, found by looking at every way to share out.
std::size_t least_most(const Sizes& sizes, std::size_t ranks) {
  std::size_t least = std::accumulate(sizes.begin(), sizes.end(), std::size_t{0});
  Sizes owners(sizes.size());
  for (;;) {
    least = std::min(least, most(sizes, owners, ranks));
    std::size_t k = 0;
    while (k < owners.size() && ++owners[k] == ranks) owners[k++] = 0;
    if (k == owners.size()) return least;
  }
}

TEST(ParameterShares, TheLargestParameterGoesToARankThenTheNextToTheOneThatHasLeast) {
  // 9 and 1, 7 and 2, 6 and 6.
  EXPECT_EQ(ParameterShares::owners_of(Sizes{1, 6, 9, 2, 7, 6}, 3), (Sizes{0, 2, 0, 1, 1, 2}));
  EXPECT_EQ(ParameterShares::owners_of(Sizes{4, 4, 4, 4}, 2), (Sizes{0, 1, 0, 1}));
  EXPECT_EQ(ParameterShares::owners_of(Sizes{3, 0, 5}, 1), (Sizes{0, 0, 0}));
  EXPECT_EQ(ParameterShares::owners_of(Sizes{1}, 4), (Sizes{0}));
  EXPECT_EQ(ParameterShares::owners_of(Sizes{}, 4), Sizes{});
}

TEST(ParameterShares, NoRankHasMoreThanFourThirdsOfWhatIsPossible) {
  const Random random(1);
  std::uint64_t draw = 0;
  for (int trial = 0; trial < 200; ++trial) {
    Sizes sizes;
    const std::size_t count = 1 + random.word(draw++) % 7;
    while (sizes.size() < count) sizes.push_back(random.word(draw++) % 100);
    for (const std::size_t ranks : {1U, 2U, 3U, 4U}) {
      const std::size_t own = most(sizes, ParameterShares::owners_of(sizes, ranks), ranks);
      const std::size_t least = least_most(sizes, ranks);
      EXPECT_GE(own, least);
      EXPECT_LE(3 * own, 4 * least);
    }
  }
}

TEST(ParameterShares, TellsTheOwnerAndTheElementsOfEachRank) {
  GivenParameters given({1, 6, 9, 2, 7, 6});
  const ParameterShares shares(given.pointers(), 3);
  EXPECT_EQ(shares.ranks(), 3U);
  const Sizes owners{0, 2, 0, 1, 1, 2};
  for (std::size_t k = 0; k < owners.size(); ++k) {
    EXPECT_EQ(shares.owner(given.parameters[k]), owners[k]) << k;
  }
  EXPECT_EQ(shares.elements(0), 10U);
  EXPECT_EQ(shares.elements(1), 9U);
  EXPECT_EQ(shares.elements(2), 12U);
}

TEST(ParameterShares, OtherSizesOrOtherRanksHaveAnotherHash) {
  GivenParameters given({5, 3});
  GivenParameters same({5, 3});
  GivenParameters other({5, 4});
  EXPECT_EQ(ParameterShares(given.pointers(), 2).hash(),
            ParameterShares(same.pointers(), 2).hash());
  EXPECT_NE(ParameterShares(given.pointers(), 2).hash(),
            ParameterShares(other.pointers(), 2).hash());
  EXPECT_NE(ParameterShares(given.pointers(), 2).hash(),
            ParameterShares(given.pointers(), 1).hash());
}

TEST(ParameterShares, RefusesNoRanksAndParametersThatAreNullTwiceOrOfOthers) {
  GivenParameters given({5, 3});
  expect_domain_error([&] { ParameterShares(given.pointers(), 0); }, {"ParameterShares", "ranks"});
  expect_domain_error([&] { ParameterShares({nullptr}, 2); }, {"ParameterShares", "null"});
  Parameter* const first = given.pointers()[0];
  expect_domain_error([&] { ParameterShares({first, first}, 2); }, {"ParameterShares", "p0"});
  const ParameterShares shares({first}, 2);
  expect_domain_error([&] { static_cast<void>(shares.owner(given.parameters[1])); },
                      {"ParameterShares", "p1"});
}

}  // namespace parameter_shares_test
