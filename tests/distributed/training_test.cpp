// SPDX-License-Identifier: MIT
// Trainings on several ranks, against the same one on one rank.
#include <gtest/gtest.h>

#include <cstddef>
#include <limits>
#include <set>
#include <string>
#include <vector>

#include "distributed/small_training.hpp"
#include "unit_scaling/distributed/thread_ranks.hpp"

namespace distributed_training_test {

using namespace unit_scaling;
using namespace unit_scaling_test;
using distributed::Communicator;
using distributed::run_thread_ranks;

/// What all ranks have, which must be the same.
SmallResult trained(std::size_t ranks, const SmallTraining& training) {
  std::vector<SmallResult> results(ranks);
  run_thread_ranks(ranks, [&](Communicator& communicator) {
    results[communicator.rank()] = run_small_training(communicator, training);
  });
  for (const SmallResult& each : results) EXPECT_EQ(each, results[0]);
  return results[0];
}

TEST(DistributedTraining, WeightsHaveTheSameBitsHoweverManyRanksShareTheBatches) {
  const SmallResult one = trained(1, {.batches = 16});
  for (const std::size_t ranks : {2U, 4U, 8U, 16U}) {
    EXPECT_EQ(trained(ranks, {.batches = 16}), one) << ranks;
  }
  const SmallResult of_twelve = trained(1, {.batches = 12});
  EXPECT_NE(of_twelve.digest, one.digest);
  for (const std::size_t ranks : {3U, 6U, 12U}) {
    EXPECT_EQ(trained(ranks, {.batches = 12}), of_twelve) << ranks;
  }
}

TEST(DistributedTraining, NarrowWiresTrainTooWithTheSameBitsOnAllRanks) {
  std::set<std::uint64_t> digests{trained(1, {}).digest};
  for (const Format& format : {Format::of<float16>(), Format::of<float8_e4m3fn>()}) {
    const SmallResult result = trained(4, {.exchange = {.format = format}});
    EXPECT_EQ(result.refused, "");
    EXPECT_EQ(result, trained(4, {.exchange = {.format = format}}));
    digests.insert(result.digest);
  }
  EXPECT_EQ(digests.size(), 3U) << "a narrow wire rounds";
}

TEST(DistributedTraining, GradientsThatAreSentEarlyGiveTheSameBits) {
  for (const std::size_t ranks : {2U, 3U, 4U}) {
    EXPECT_EQ(trained(ranks,
                      {.batches = ranks, .exchange = {.bucket_elements = 50}, .sends_early = true}),
              trained(1, {.batches = ranks}))
        << ranks;
  }
}

TEST(DistributedTraining, ShardedOptimiserStatesGiveTheSameBits) {
  const SmallResult one = trained(1, {});
  for (const std::size_t ranks : {1U, 2U, 4U}) {
    EXPECT_EQ(trained(ranks, {.is_sharded = true}), one) << ranks;
  }
  for (const std::size_t ranks : {2U, 3U}) {
    EXPECT_EQ(trained(ranks, {.batches = ranks,
                              .exchange = {.bucket_elements = 50},
                              .sends_early = true,
                              .is_sharded = true}),
              trained(1, {.batches = ranks}))
        << ranks;
  }
  const SmallResult refused = trained(4, {.is_sharded = true, .bad_step = 7});
  EXPECT_TRUE(refused.refused.starts_with("step 7: ")) << refused.refused;
  EXPECT_EQ(refused, trained(1, {.bad_step = 7}));
}

TEST(DistributedTraining, AllRanksRefuseTheStepInWhichOneHasABadBatch) {
  for (const Format& format : {Format(), Format::of<float8_e4m3fn>()}) {
    const SmallResult result = trained(4, {.exchange = {.format = format}, .bad_step = 7});
    EXPECT_TRUE(result.refused.starts_with("step 7: ")) << result.refused;
    EXPECT_NE(result.digest, trained(4, {.exchange = {.format = format}}).digest);
  }
}

}  // namespace distributed_training_test
