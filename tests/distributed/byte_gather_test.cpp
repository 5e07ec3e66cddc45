// SPDX-License-Identifier: MIT
#include "unit_scaling/distributed/byte_gather.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "distributed/tampering.hpp"
#include "support/errors.hpp"
#include "unit_scaling/distributed/thread_ranks.hpp"

namespace byte_gather_test {

using namespace unit_scaling;
using namespace unit_scaling_test;
using distributed::ByteGather;
using distributed::ByteRow;
using distributed::CommunicationError;
using distributed::Communicator;
using distributed::MessageKind;
using distributed::run_thread_ranks;

using Bytes = std::vector<std::byte>;

Bytes bytes_of_rank(std::size_t rank, std::size_t size) {
  Bytes result(size);
  for (std::size_t i = 0; i < size; ++i) result[i] = static_cast<std::byte>(101 * rank + 7 * i / 3);
  return result;
}

/// The bytes in parts of growing sizes, the first of which is empty.
template <class Byte> ByteRow<Byte> in_parts(std::span<Byte> bytes, std::size_t growth) {
  ByteRow<Byte> row;
  for (std::size_t size = 0; !bytes.empty(); size += growth) {
    const std::size_t some = std::min(size, bytes.size());
    row.add(bytes.first(some));
    bytes = bytes.subspan(some);
  }
  row.add(bytes);
  return row;
}

/// What each rank has after a gathering, of each rank.
void gather(ByteGather& gathering, Communicator& ranks, const std::vector<std::size_t>& sizes,
            std::optional<std::size_t> root) {
  const std::size_t own = ranks.rank();
  const Bytes sent = bytes_of_rank(own, sizes[own]);
  std::vector<Bytes> received(ranks.size());
  std::vector<ByteRow<std::byte>> others(ranks.size());
  const bool gets = !root || *root == own;
  for (std::size_t from = 0; gets && from < ranks.size(); ++from) {
    if (from == own) continue;
    received[from].resize(sizes[from]);
    others[from] = in_parts(std::span(received[from]), 5);
  }
  gathering.gather(sizes, in_parts(std::span(sent), 3), std::move(others), root);
  for (std::size_t from = 0; gets && from < ranks.size(); ++from) {
    if (from == own) continue;
    EXPECT_EQ(received[from], bytes_of_rank(from, sizes[from])) << from;
  }
}

TEST(ByteGather, AllRanksOrTheRootHaveTheBytesOfAll) {
  for (const std::size_t count : {1U, 2U, 3U, 5U}) {
    for (const std::size_t size : {0U, 1U, 4095U, 4096U, 4097U, 20'000U}) {
      run_thread_ranks(count, [&](Communicator& ranks) {
        ByteGather gathering(ranks, "Test", MessageKind::states, /*largest=*/1);
        std::vector<std::size_t> sizes;  // 0 and many among them
        for (std::size_t rank = 0; rank < count; ++rank) sizes.push_back(size * (rank % 3));
        gather(gathering, ranks, sizes, std::nullopt);
        gather(gathering, ranks, sizes, 0);
        gather(gathering, ranks, sizes, count - 1);
      });
    }
  }
}

TEST(ByteGather, RefusesRowsOfOtherSizes) {
  run_thread_ranks(2, [](Communicator& ranks) {
    ByteGather gathering(ranks, "Test", MessageKind::states);
    const Bytes own(3);
    Bytes other(4);
    const auto row = in_parts(std::span(own), 1);
    const auto rows = [&](std::size_t size) {
      std::vector<ByteRow<std::byte>> result(2);
      result[1 - ranks.rank()] = in_parts(std::span(other).first(size), 1);
      return result;
    };
    expect_domain_error([&] { gathering.gather({3}, row, rows(3)); }, {"Test", "2 ranks", "got 1"});
    expect_domain_error([&] { gathering.gather({3, 3}, row, rows(3), 2); }, {"Test", "a root"});
    expect_domain_error(
        [&] {
          gathering.gather({4, 4}, row, rows(4));
        },
        {"Test: expected 4 bytes to send, got 3"});
    expect_domain_error(
        [&] {
          gathering.gather({3, 3}, row, rows(4));
        },
        {"Test: expected room for 3 bytes of rank "});
    gathering.gather({3, 3}, row, rows(3));  // nothing was sent
  });
}

TEST(ByteGather, RanksThatKnowOtherSizesEndWithAnError) {
  EXPECT_THROW(run_thread_ranks(2,
                                [](Communicator& ranks) {
                                  ByteGather gathering(ranks, "Test", MessageKind::states, 1);
                                  // The first message is of one size on both.
                                  const std::size_t second = ranks.rank() == 0 ? 5000 : 6000;
                                  gather(gathering, ranks, {10'000, second}, std::nullopt);
                                }),
               CommunicationError);
}

TEST(ByteGather, AMessageThatIsChangedOrNotDueIsAnError) {
  const auto error_after = [](const Tampering::Tamper& tamper) -> std::string {
    try {
      run_thread_ranks(2, [&](Communicator& engine) {
        Tampering ranks(engine, tamper);
        ByteGather gathering(ranks, "Test", MessageKind::states, 1);
        for (int step = 0; step < 2; ++step) gather(gathering, ranks, {100, 5000}, std::nullopt);
      });
    } catch (const CommunicationError& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_EQ(error_after([](std::span<std::byte>, std::size_t) {}), "");
  // Two messages a gathering.
  for (std::size_t operation = 0; operation < 4; ++operation) {
    for (const std::size_t byte : {0U, 8U, 16U, 20U, 24U, 28U, 32U, 40U, 48U, 56U, 64U, 300U}) {
      const std::string text = error_after([&](std::span<std::byte> bytes, std::size_t number) {
        if (number == operation) bytes[byte] ^= std::byte{4};
      });
      EXPECT_TRUE(text.starts_with("rank 0: Test: expected ") &&
                  text.find("in a message of rank 1, got ") != std::string::npos)
          << operation << ", " << byte << ": " << text;
    }
  }
  Bytes before;
  EXPECT_EQ(error_after([&](std::span<std::byte> bytes, std::size_t number) {
              if (number == 0) before.assign(bytes.begin(), bytes.end());
              if (number == 2) std::copy(before.begin(), before.end(), bytes.begin());
            }),
            "rank 0: Test: expected step 1 in a message of rank 1, got 0");
}

}  // namespace byte_gather_test
