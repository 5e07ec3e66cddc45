// SPDX-License-Identifier: MIT
#include "unit_scaling/distributed/message_checksum.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <set>
#include <span>
#include <utility>
#include <vector>

#include "unit_scaling/core/random.hpp"

namespace message_checksum_test {

using unit_scaling::Random;
using unit_scaling::distributed::message_checksum;

using Bytes = std::vector<std::byte>;

constexpr std::size_t word_bits = 64;

Bytes random_bytes(std::size_t size, std::uint64_t seed) {
  const Random random(seed);
  Bytes result(size);
  for (std::size_t i = 0; i < size; ++i) {
    result[i] = static_cast<std::byte>(static_cast<int>(256 * random.uniform(i)));
  }
  return result;
}

/// What codes are in practice: random ones, zeros, and numbers that are all the same.
std::vector<Bytes> messages_of(std::size_t size) {
  Bytes ones(size);
  for (std::size_t i = 0; i < size; ++i) ones[i] = std::byte(i % 4 == 3 ? 0x3f : 0x80);
  return {random_bytes(size, size), random_bytes(size, size + 1), Bytes(size),
          Bytes(size, std::byte{0xff}), ones};
}

void flip(Bytes& bytes, std::size_t bit) { bytes[bit / 8] ^= std::byte(1U << (bit % 8)); }

TEST(MessageChecksum, IsXxh64) {
  if (std::endian::native != std::endian::little) GTEST_SKIP() << "words begin at the other end";
  // The bytes 0, 37, 74, … modulo 251, of each size below 100 and of one more; and the hash of all
  // these hashes, eight bytes each. By the package xxhash 4.1.0 of Python.
  const auto bytes_of = [](std::size_t size) {
    Bytes bytes(size);
    for (std::size_t i = 0; i < size; ++i) bytes[i] = static_cast<std::byte>(37 * i % 251);
    return bytes;
  };
  EXPECT_EQ(message_checksum({}), 0xef46db3751d8e999U);
  EXPECT_EQ(message_checksum(bytes_of(1)), 0xe934a84adb052768U);
  EXPECT_EQ(message_checksum(bytes_of(31)), 0x9416464fbabe7770U);
  EXPECT_EQ(message_checksum(bytes_of(32)), 0x7762158a9eb86a10U);
  EXPECT_EQ(message_checksum(bytes_of(1000), 12345), 0xe5fb464452f47009U);
  Bytes hashes;
  for (std::size_t size = 0; size < 100; ++size) {
    const std::uint64_t hash = message_checksum(bytes_of(size), size);
    const auto bytes = std::as_bytes(std::span(&hash, 1));
    hashes.insert(hashes.end(), bytes.begin(), bytes.end());
  }
  EXPECT_EQ(message_checksum(hashes), 0x8e8f4895f82ae556U);
}

TEST(MessageChecksum, AnyOneBitChangesIt) {
  for (std::size_t size = 0; size <= 100; ++size) {
    for (Bytes& bytes : messages_of(size)) {
      const std::uint64_t sum = message_checksum(bytes);
      for (std::size_t bit = 0; bit < 8 * size; ++bit) {
        flip(bytes, bit);
        ASSERT_NE(message_checksum(bytes), sum) << size << " bytes, bit " << bit;
        flip(bytes, bit);
      }
    }
  }
}

TEST(MessageChecksum, OneBitOfTwoWordsChangesIt) {
  constexpr std::size_t words = 27;  // six in each lane, and three behind
  for (Bytes& bytes : messages_of(8 * words)) {
    const std::uint64_t sum = message_checksum(bytes);
    for (std::size_t first = 0; first < words; ++first) {
      for (std::size_t second = first + 1; second < words; ++second) {
        for (std::size_t bit = 0; bit < word_bits; ++bit) {
          flip(bytes, word_bits * first + bit);
          flip(bytes, word_bits * second + bit);
          ASSERT_NE(message_checksum(bytes), sum) << first << " and " << second << ", bit " << bit;
          flip(bytes, word_bits * first + bit);
          flip(bytes, word_bits * second + bit);
        }
      }
    }
  }
}

TEST(MessageChecksum, ALineThatIsStuckChangesIt) {
  constexpr std::size_t words = 100;
  for (std::size_t bit = 0; bit < word_bits; ++bit) {
    for (std::uint64_t trial = 0; trial < 200; ++trial) {
      const Bytes bytes = random_bytes(8 * words + trial % 8, trial);
      const std::uint64_t sum = message_checksum(bytes);
      for (const bool stuck_at : {false, true}) {
        for (const std::size_t every : {1U, 2U, 4U, 8U}) {  // words
          Bytes changed = bytes;
          for (std::size_t word = 0; word < words; word += every) {
            const std::size_t at = word_bits * word + bit;
            const bool is_set = (changed[at / 8] & std::byte(1U << (at % 8))) != std::byte{0};
            if (is_set != stuck_at) flip(changed, at);
          }
          if (changed == bytes) continue;  // as it is stuck
          ASSERT_NE(message_checksum(changed), sum) << bit << " at " << stuck_at << ", " << trial;
        }
      }
    }
  }
}

/// Bits that the products of a step leave alone, such as the highest, in all places of a lane.
TEST(MessageChecksum, HighBitsOfWordsOfOneLaneDoNotCancel) {
  constexpr std::size_t apart = 4;  // words of one lane
  const std::vector<std::uint64_t> changes{
      std::uint64_t{1} << 63U, std::uint64_t{1} << 31U, std::uint64_t{1} << 63U | 1U << 31U,
      std::uint64_t{1} << 32U, std::uint64_t{1} << 63U | std::uint64_t{1} << 32U};
  const auto change = [](Bytes& bytes, std::size_t word, std::uint64_t difference) {
    for (std::size_t bit = 0; bit < word_bits; ++bit) {
      if ((difference >> bit & 1U) != 0) flip(bytes, word_bits * word + bit);
    }
  };
  for (const Bytes& bytes : messages_of(8 * 20)) {
    const std::uint64_t sum = message_checksum(bytes);
    for (const std::uint64_t one : changes) {
      for (const std::uint64_t other : changes) {
        for (std::size_t word = 0; word < apart; ++word) {
          Bytes changed = bytes;
          change(changed, word, one);
          change(changed, word + apart, other);
          EXPECT_NE(message_checksum(changed), sum) << one << " and " << other << ", " << word;
        }
      }
    }
  }
}

TEST(MessageChecksum, SizesPlacesAndWhatStandsBeforeChangeIt) {
  std::set<std::uint64_t> sums;
  for (std::size_t size = 0; size <= 100; ++size) sums.insert(message_checksum(Bytes(size)));
  EXPECT_EQ(sums.size(), 101U) << "zeros at the end";

  const Bytes bytes = random_bytes(100, 1);
  const std::uint64_t sum = message_checksum(bytes);
  for (std::size_t first = 0; first < 12; ++first) {
    for (std::size_t second = first + 1; second < 12; ++second) {
      Bytes changed = bytes;
      std::swap_ranges(changed.begin() + static_cast<std::ptrdiff_t>(8 * first),
                       changed.begin() + static_cast<std::ptrdiff_t>(8 * (first + 1)),
                       changed.begin() + static_cast<std::ptrdiff_t>(8 * second));
      EXPECT_NE(message_checksum(changed), sum) << first << " and " << second;
    }
  }

  for (std::size_t bit = 0; bit < word_bits; ++bit) {
    EXPECT_NE(message_checksum(bytes, std::uint64_t{1} << bit), sum) << bit;
  }
}

}  // namespace message_checksum_test
