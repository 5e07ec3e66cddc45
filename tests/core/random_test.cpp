// SPDX-License-Identifier: MIT
#include "unit_scaling/core/random.hpp"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <vector>

namespace random_test {

using namespace unit_scaling;
using Block = std::array<std::uint32_t, 4>;

// The known answers that the authors of Philox publish with Random123.
TEST(Philox, GivesTheKnownAnswers) {
  EXPECT_EQ(philox({0, 0, 0, 0}, {0, 0}), (Block{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}),
            (Block{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Block{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

static_assert(philox({0, 0, 0, 0}, {0, 0})[0] == 0x6627e8d5);

TEST(Random, WordsAreThoseOfTheBlocks) {
  const Random random(0x299f31d0a4093822);
  for (std::uint64_t i = 0; i < 20; ++i) EXPECT_EQ(random.word(i), random.block(i / 4)[i % 4]);
  // The general stream, step 0 and tensor 0 have label zero; the seed is the key, low word first.
  EXPECT_EQ(random.block(5), philox({5, 0, 0, 0}, {0xa4093822, 0x299f31d0}));
  EXPECT_EQ(random.block(std::uint64_t{3} << 32), philox({0, 3, 0, 0}, {0xa4093822, 0x299f31d0}));
}

// Two independent streams of 4096 words agree in a place with probability 2^-20.
TEST(Random, SixteenBlocksAtOnceAreThoseBlocks) {
  const Random random(0x0123456789abcdef, RandomStream::rounding, 0x89abcdef, 0x0654321);
  for (const std::uint64_t first : {std::uint64_t{0}, std::uint64_t{160}, std::uint64_t{0xfffffff0},
                                    std::uint64_t{1} << 32, ~std::uint64_t{15}}) {
    const auto words = random.blocks(first);
    for (std::size_t lane = 0; lane < lanes; ++lane) {
      const Block block = random.block(first + lane);
      for (std::size_t j = 0; j < block.size(); ++j) EXPECT_EQ(words[j][lane], block[j]);
    }
  }
}

TEST(Random, StreamsDiffer) {
  const std::vector<Random> streams{
      Random(1),
      Random(2),
      Random(std::uint64_t{1} << 32 | 1),
      Random(1, RandomStream::initialisation),
      Random(1, RandomStream::batch),
      Random(1, RandomStream::masking),
      Random(1, RandomStream::dropout),
      Random(1, RandomStream::dropout, 1),
      Random(1, RandomStream::dropout, 0, 1),
      Random(1, RandomStream::general, 1),
      Random(1, RandomStream::general, 0, 1),
  };
  for (std::size_t a = 0; a < streams.size(); ++a) {
    for (std::size_t b = 0; b < a; ++b) {
      int equal = 0;
      for (std::uint64_t i = 0; i < 4096; ++i) equal += streams[a].word(i) == streams[b].word(i);
      EXPECT_LE(equal, 1) << a << " and " << b;
    }
  }
}

// The mean of n uniform numbers has standard error 1 / √(12 n); five of them is one failure in
// millions of seeds, and this seed is fixed.
TEST(Random, RefusesATensorThatWouldShareAnothersNumbers) {
  constexpr std::uint32_t end = std::uint32_t{1} << 28;
  const auto draw = [](std::uint32_t tensor) {
    return Random(1, RandomStream::general, 0, tensor).word(0);
  };
  EXPECT_NE(draw(end - 1), draw(0));
  EXPECT_THROW(static_cast<void>(draw(end)), std::invalid_argument);
}

TEST(Random, UniformIsInTheUnitIntervalWithMeanOneHalf) {
  constexpr int n = 100000;
  const Random random(3);
  double sum = 0;
  for (std::uint64_t i = 0; i < n; ++i) {
    const float u = random.uniform(i);
    ASSERT_GE(u, 0);
    ASSERT_LT(u, 1);
    ASSERT_EQ(std::fmod(u, 0x1p-24F), 0);
    sum += static_cast<double>(u);
  }
  EXPECT_NEAR(sum / n, 0.5, 5 / std::sqrt(12.0 * n));
}

// A count of n draws with probability p has standard deviation √(n p (1 − p)).
TEST(Random, BelowIsUniform) {
  constexpr int n = 70000;
  const Random random(4);
  std::array<int, 7> counts{};
  for (std::uint64_t i = 0; i < n; ++i) ++counts.at(random.below(7, i));
  for (const int count : counts) {
    EXPECT_NEAR(count, n / 7, 5 * std::sqrt(n / 7.0 * (1 - 1 / 7.0)));
  }
  EXPECT_EQ(random.below(1, 0), 0U);
}

// Against the product of 128 bits.
TEST(Random, BelowLongIsTheUpperHalfOfAProductWithTwoWords) {
  __extension__ using Wide = unsigned __int128;
  const Random random(4);
  for (const std::uint64_t bound :
       {std::uint64_t{1}, std::uint64_t{7}, std::uint64_t{0xFFFFFFFF}, std::uint64_t{1} << 32,
        std::uint64_t{0x123456789ABCDEF}, std::uint64_t{1} << 63, ~std::uint64_t{0}}) {
    for (std::uint64_t i = 0; i < 1000; ++i) {
      const std::uint64_t words = std::uint64_t{random.word(2 * i)} << 32 | random.word(2 * i + 1);
      ASSERT_EQ(random.below_long(bound, i), static_cast<std::uint64_t>(Wide{words} * bound >> 64))
          << bound << ' ' << i;
    }
  }
}

// Standard errors of the first four moments of n draws from N(0, 1): √(1/n), √(2/n), √(15/n) and
// √(96/n); of the product of neighbours, which share a block, √(1/n) again.
TEST(Random, NormalHasTheMomentsOfAGaussian) {
  constexpr int n = 200000;
  const Random random(5);
  double first = 0;
  double second = 0;
  double third = 0;
  double fourth = 0;
  double product = 0;
  for (std::uint64_t i = 0; i < n; ++i) {
    const double x = random.normal(i);
    ASSERT_TRUE(std::isfinite(x));
    first += x / n;
    second += x * x / n;
    third += x * x * x / n;
    fourth += x * x * x * x / n;
    product += x * random.normal(i + 1) / n;
  }
  EXPECT_NEAR(first, 0, 5 * std::sqrt(1.0 / n));
  EXPECT_NEAR(second, 1, 5 * std::sqrt(2.0 / n));
  EXPECT_NEAR(third, 0, 5 * std::sqrt(15.0 / n));
  EXPECT_NEAR(fourth, 3, 5 * std::sqrt(96.0 / n));
  EXPECT_NEAR(product, 0, 5 * std::sqrt(1.0 / n));
}

}  // namespace random_test
