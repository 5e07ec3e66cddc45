// SPDX-License-Identifier: MIT
#include "unit_scaling/distributed/gradient_buckets.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <optional>

#include "distributed/gradients.hpp"

namespace gradient_buckets_test {

using namespace unit_scaling;
using namespace unit_scaling_test;
using distributed::GradientBuckets;

TEST(GradientBuckets, PiecesAreAsEqualAsWholeBytesAllow) {
  for (const std::size_t size : {1U, 7U, 8U, 9U, 1000U, 1024U * 1024U, 1024U * 1024U + 1025U}) {
    GivenParameters given({size});
    for (const std::size_t ranks : {1U, 2U, 3U, 7U, 64U, 600U, 1023U}) {
      for (const std::size_t elements : {std::size_t{900}, std::size_t{1} << 20}) {
        const GradientBuckets buckets(given.pointers(), elements, ranks, std::nullopt);
        for (std::size_t number = 0; number < buckets.count(); number += 17) {
          const auto bucket = buckets.bucket(number);
          std::size_t end = bucket.begin;
          std::size_t least = bucket.size();
          std::size_t most = 0;
          for (std::size_t rank = 0; rank < ranks; ++rank) {
            const auto piece = buckets.piece(bucket, rank);
            ASSERT_EQ(piece.begin, end);
            ASSERT_TRUE((piece.begin - bucket.begin) % 8 == 0 || piece.begin == bucket.end);
            least = std::min(least, piece.size());
            most = std::max(most, piece.size());
            end = piece.end;
          }
          ASSERT_EQ(end, bucket.end);
          // The last eight may be less than that.
          ASSERT_LE(most - least, 15U) << size << " numbers on " << ranks << " ranks";
        }
      }
    }
  }
}

}  // namespace gradient_buckets_test
