// SPDX-License-Identifier: MIT
#include "unit_scaling/distributed/gradient_exchange.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <barrier>
#include <bit>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <future>
#include <initializer_list>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include "distributed/error_of_ranks.hpp"
#include "distributed/gradients.hpp"
#include "distributed/tampering.hpp"
#include "support/errors.hpp"
#include "unit_scaling/core/random.hpp"
#include "unit_scaling/distributed/gradient_tree.hpp"
#include "unit_scaling/distributed/parameter_shares.hpp"
#include "unit_scaling/distributed/thread_ranks.hpp"

namespace gradient_exchange_test {

using namespace unit_scaling;
using namespace unit_scaling_test;
using distributed::Combination;
using distributed::CommunicationError;
using distributed::Communicator;
using distributed::GradientExchange;
using distributed::GradientTree;
using distributed::ParameterShares;
using distributed::run_thread_ranks;
using distributed::WireScaling;

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float nan = std::numeric_limits<float>::quiet_NaN();

using Numbers = std::vector<float>;
using Options = GradientExchange::Options;

/// The bits of the sum that each rank has, of the numbers of each rank.
/// @param sizes of the parameters
/// @param batches that the numbers of each rank are sums of
std::vector<std::vector<std::uint32_t>> exchanged(
    const std::vector<std::size_t>& sizes, const std::vector<Numbers>& numbers,
    const Options& options, distributed::ExchangeStatistics* statistics = nullptr,
    std::size_t batches = 1) {
  std::vector<std::vector<std::uint32_t>> result(numbers.size());
  run_thread_ranks(numbers.size(), [&](Communicator& ranks) {
    GivenParameters given(sizes);
    GradientExchange exchange(ranks, given.pointers(), options);
    // Twice: the second one finds the memory of the first.
    exchange.exchange(given.gradients(Numbers(numbers[ranks.rank()].size(), 3)));
    exchange.exchange(given.gradients(numbers[ranks.rank()]), batches);
    result[ranks.rank()] = given.bits(exchange);
    if (statistics != nullptr && ranks.rank() == 0) *statistics = exchange.statistics();
  });
  return result;
}

/// All finite numbers of a format of at most 16 bits, sorted; of zeros, the positive one.
std::vector<double> numbers_of(const Format& format) {
  const auto codes = std::size_t{1} << format.storage_bits();
  std::vector<double> result;
  for (std::size_t code = 0; code < codes; ++code) {
    const std::uint8_t bytes[2] = {static_cast<std::uint8_t>(code),
                                   static_cast<std::uint8_t>(code >> 8)};
    float number = 0;
    format.decode({bytes, format.storage_bits() / 8}, {&number, 1});
    if (std::isfinite(number) && !(number == 0 && std::signbit(number))) {
      result.push_back(static_cast<double>(number));
    }
  }
  std::sort(result.begin(), result.end());
  return result;
}

/// The nearest of some numbers; in a tie that whose significand is even, found by the distance to
/// both neighbours: of two neighbours, one is a multiple of twice the distance between them.
double nearest(const std::vector<double>& numbers, double value) {
  const auto above = std::lower_bound(numbers.begin(), numbers.end(), value);
  if (above == numbers.begin()) return numbers.front();
  if (above == numbers.end()) return numbers.back();
  const double high = *above;
  const double low = *(above - 1);
  if (high - value != value - low) return high - value < value - low ? high : low;
  return std::fmod(high, 2 * (high - low)) == 0 ? high : low;
}

Numbers normal_numbers(std::size_t size, std::uint64_t seed, double scale) {
  Numbers result(size);
  const Random random(seed);
  for (std::size_t i = 0; i < size; ++i) {
    result[i] = static_cast<float>(scale * static_cast<double>(random.normal(i)));
  }
  return result;
}

const std::vector<Format> narrow_formats{Format::of<float16>(), Format::of<float8_e5m2>(),
                                         Format::of<float8_e4m3fn>()};

TEST(GradientExchange, OneRankHasTheGradientsOfTheSourceToTheBit) {
  const Numbers numbers{
      1.5F, -0.0F, nan, -infinity, 0x1p-149F, 0x1.fffffep127F, std::bit_cast<float>(0xffc12345U)};
  for (const Format& format : {Format(), Format::of<float8_e4m3fn>()}) {
    const auto result = exchanged({3, 0, 4}, {numbers}, {.format = format});
    for (std::size_t i = 0; i < numbers.size(); ++i) {
      EXPECT_EQ(result[0][i], std::bit_cast<std::uint32_t>(numbers[i])) << i;
    }
  }
}

TEST(GradientExchange, OneRankStepsOnTheSourceItself) {
  for (const std::size_t count : {1U, 2U}) {
    run_thread_ranks(count, [&](Communicator& ranks) {
      GivenParameters given({2});
      const GivenGradients source = given.gradients(Numbers{1, 2});
      GradientExchange exchange(ranks, given.pointers(), {.combination = Combination::sum});
      int calls = 0;
      exchange.with_sum(source, [&](const auto& sum) {
        ++calls;
        const void* const expected =
            count == 1 ? static_cast<const void*>(&source) : static_cast<const void*>(&exchange);
        EXPECT_EQ(static_cast<const void*>(&sum), expected);
        EXPECT_EQ(sum.gradient(given.parameters[0]).data()[1], 2.0F * static_cast<float>(count));
      });
      EXPECT_EQ(calls, 1);
    });
  }
}

TEST(GradientExchange, OneRankCombinesTheBatchesOfATreeAsSeveralRanksDo) {
  for (const auto& each : {std::pair{Combination::sum, 4.0F}, std::pair{Combination::mean, 1.0F},
                           std::pair{Combination::unit_scaled, 2.0F}}) {
    for (const std::size_t count : {1U, 2U, 4U}) {
      run_thread_ranks(count, [&](Communicator& ranks) {
        GivenParameters given({3});
        GradientTree tree(given.pointers());
        for (std::size_t k = 0; k < 4 / count; ++k) tree.add(given.gradients(Numbers(3, 1)));
        GradientExchange exchange(ranks, given.pointers(), {.combination = each.first});
        // What `use` returns is of no use to anyone.
        exchange.with_sum(tree, [&](const auto& sum) {
          EXPECT_EQ(sum.gradient(given.parameters[0]), Array<float>::filled({3}, each.second));
          return 0;
        });
        expect_domain_error(
            [&] {
              exchange.with_sum(distributed::GradientTree(given.pointers()), [](const auto&) {});
            },
            {"GradientExchange", "batches", "got 0"});
      });
    }
  }
}

TEST(GradientExchange, FloatsAreAddedUpAsTheDefinitionHasIt) {
  for (const std::size_t ranks : {2U, 3U, 4U, 5U, 8U}) {
    for (const std::size_t size : {1U, 5U, 17U, 1031U, 5000U}) {
      std::vector<Numbers> numbers;
      for (std::size_t rank = 0; rank < ranks; ++rank) {
        numbers.push_back(normal_numbers(size, rank, 1));
        numbers.back()[0] = -0.0F;
      }
      for (const std::size_t bucket : {std::size_t{3}, std::size_t{1024}, std::size_t{1} << 20}) {
        if (size / bucket > 1000) continue;  // one of these is enough
        for (const auto& [combination, factor] :
             {std::pair{Combination::sum, 1.0},
              std::pair{Combination::mean, 1.0 / static_cast<double>(ranks)},
              std::pair{Combination::unit_scaled, 1 / std::sqrt(static_cast<double>(ranks))}}) {
          const auto results = exchanged({size / 2, 0, size - size / 2}, numbers,
                                         {.combination = combination, .bucket_elements = bucket});
          std::vector<std::uint32_t> expected;
          for (std::size_t i = 0; i < size; ++i) {
            const float sum =
                tree_sum(0, ranks, [&](std::size_t rank) { return numbers[rank][i]; });
            const double product =
                static_cast<double>(sum) * static_cast<double>(static_cast<float>(factor));
            expected.push_back(std::bit_cast<std::uint32_t>(static_cast<float>(product)));
          }
          for (const auto& result : results) {
            ASSERT_EQ(result, expected) << ranks << " ranks, size " << size << ", " << bucket;
          }
          if (bucket == 3 && size > 100) break;  // many messages, and so slow
        }
      }
    }
  }
}

TEST(GradientExchange, NarrowFormatsRoundTermsOnceAndTheSumOnce) {
  // The power of two next to M^(3/4), for sums of M batches.
  const auto of_batches = [](std::size_t batches) {
    return std::exp2(std::round(0.75 * std::log2(static_cast<double>(batches))));
  };
  for (const Format& format : narrow_formats) {
    const auto all = numbers_of(format);
    for (const auto& [ranks, batches] : {std::pair{2U, 1U}, {3U, 1U}, {4U, 1U}, {3U, 5U}}) {
      for (const double scale : {1.0, 0x1p-8, 0x1p9}) {
        constexpr std::size_t size = 333;
        std::vector<Numbers> numbers;
        for (std::size_t rank = 0; rank < ranks; ++rank) {
          numbers.push_back(normal_numbers(size, 100 + rank, scale));
        }
        const auto results = exchanged(
            {size}, numbers,
            {.format = format, .scaling = WireScaling::fixed, .combination = Combination::sum},
            nullptr, batches);
        const double of_term = of_batches(batches);
        const double of_sum = of_batches(batches * ranks);
        for (std::size_t i = 0; i < size; ++i) {
          const float sum = tree_sum(0, ranks, [&](std::size_t rank) {
            return static_cast<float>(
                nearest(all, static_cast<double>(numbers[rank][i]) / of_term) * of_term);
          });
          const double expected = nearest(all, static_cast<double>(sum) / of_sum) * of_sum;
          for (const auto& result : results) {
            ASSERT_EQ(static_cast<double>(std::bit_cast<float>(result[i])), expected)
                << ranks << " ranks, scale " << scale << ", element " << i;
          }
        }
        // The blocks of by_block follow from the numbers alone.
        const Options by_block{.format = format, .combination = Combination::sum};
        EXPECT_EQ(exchanged({size}, numbers, by_block, nullptr, batches),
                  exchanged({size}, numbers, by_block));
      }
    }
  }
}

/// Gradients in float16.
struct Float16Gradients {
  std::map<const Parameter*, Array<float16>> arrays;
  [[nodiscard]] const Array<float16>& gradient(const Parameter& parameter) const {
    return arrays.at(&parameter);
  }
};

TEST(GradientExchange, TakesGradientsInANarrowFormat) {
  for (const std::size_t count : {1U, 2U}) {
    run_thread_ranks(count, [&](Communicator& ranks) {
      GivenParameters given({1500, 7});
      Numbers numbers = normal_numbers(1507, ranks.rank(), 1);
      Format::of<float16>().quantise(numbers, numbers);
      const GivenGradients floats = given.gradients(numbers);
      Float16Gradients narrow;
      for (const auto& [parameter, array] : floats.arrays) {
        Array<float16> codes(array.shape());
        for (std::size_t i = 0; i < array.size(); ++i) {
          codes.mutable_data()[i] = float16(array.data()[i]);
        }
        narrow.arrays.emplace(parameter, codes);
      }
      GradientExchange exchange(ranks, given.pointers());
      exchange.exchange(floats);
      const auto expected = given.bits(exchange);
      exchange.exchange(narrow);
      EXPECT_EQ(given.bits(exchange), expected);
    });
  }
}

TEST(GradientExchange, ABlockHasTheLeastPowerOfTwoUnderWhichNothingOverflows) {
  // Each eighth number is the largest, so each piece has the same one whatever its size.
  for (const Format& format : narrow_formats) {
    const auto all = numbers_of(format);
    for (const double largest : {1.0, 1.75, 1.9, 0x1p-140, 0x1.3p-20, 0x1p100}) {
      constexpr std::size_t ranks = 3;
      constexpr std::size_t size = 64;
      std::vector<Numbers> numbers;
      for (std::size_t rank = 0; rank < ranks; ++rank) {
        numbers.push_back(normal_numbers(size, 200 + rank, 0.2 * largest));
        for (float& each : numbers.back()) {
          each = std::clamp(each, static_cast<float>(-largest), static_cast<float>(largest));
        }
        for (std::size_t i = 0; i < size; i += 8) {
          numbers.back()[i] = static_cast<float>(largest);
        }
      }
      const auto power_of = [&](double amax) {
        double power = 0x1p-127;  // the least that a block has
        while (amax / power > all.back()) power *= 2;
        return power;
      };
      const double of_terms = power_of(static_cast<double>(static_cast<float>(largest)));
      const auto sum_at = [&](std::size_t i) {
        return tree_sum(0, ranks, [&](std::size_t rank) {
          return static_cast<float>(nearest(all, static_cast<double>(numbers[rank][i]) / of_terms) *
                                    of_terms);
        });
      };
      const double of_sum = power_of(static_cast<double>(sum_at(0)));
      const auto results =
          exchanged({size}, numbers, {.format = format, .combination = Combination::sum});
      for (std::size_t i = 0; i < size; ++i) {
        const double expected = nearest(all, static_cast<double>(sum_at(i)) / of_sum) * of_sum;
        for (const auto& result : results) {
          ASSERT_EQ(static_cast<double>(std::bit_cast<float>(result[i])), expected)
              << "largest " << largest << ", element " << i;
        }
      }
    }
  }
}

TEST(GradientExchange, WhatIsNotFiniteOnOneRankIsNanOnAll) {
  std::vector<Format> formats = narrow_formats;
  formats.emplace_back();
  for (const Format& format : formats) {
    for (const WireScaling scaling : {WireScaling::fixed, WireScaling::by_block}) {
      for (const float bad : {nan, infinity, -infinity}) {
        std::vector<Numbers> numbers(3, Numbers(40, 1));
        numbers[1][17] = bad;
        const auto results = exchanged(
            {40}, numbers, {.format = format, .scaling = scaling, .combination = Combination::sum});
        for (const auto& result : results) {
          for (std::size_t i = 0; i < result.size(); ++i) {
            const auto number = std::bit_cast<float>(result[i]);
            EXPECT_TRUE(i == 17 ? std::isnan(number) : number == 3) << i << ": " << number;
          }
          EXPECT_EQ(result, results[0]);
        }
      }
    }
  }
}

TEST(GradientExchange, ZerosKeepTheirSignsAndSubnormalAndLargestNumbersTheirValues) {
  const float largest = std::numeric_limits<float>::max();
  const Numbers numbers{-0.0F, 0.0F, 0x1p-149F, -0x1.8p-140F, largest / 2, largest};
  const auto results = exchanged({6}, {numbers, numbers}, {.combination = Combination::sum});
  const Numbers expected{-0.0F, 0.0F, 0x1p-148F, -0x1.8p-139F, largest, nan};
  for (const auto& result : results) {
    for (std::size_t i = 0; i < expected.size(); ++i) {
      EXPECT_EQ(result[i], std::bit_cast<std::uint32_t>(expected[i])) << i;
    }
  }
}

TEST(GradientExchange, CountsWhatSaturatesOnAllRanks) {
  std::vector<Numbers> numbers(3, Numbers(100, 1));
  numbers[0][3] = 449;
  numbers[2][99] = -1e30F;
  numbers[2][98] = infinity;  // NaN in the sum, and not counted
  distributed::ExchangeStatistics statistics;
  const Options options{.format = Format::of<float8_e4m3fn>(),
                        .scaling = WireScaling::fixed,
                        .combination = Combination::sum};
  const auto results = exchanged({100}, numbers, options, &statistics);
  EXPECT_EQ(statistics.saturated, 2U);
  EXPECT_EQ(std::bit_cast<float>(results[1][3]), 448);
  EXPECT_EQ(std::bit_cast<float>(results[1][99]), -448);
  // 448 three times is 1344, and 1344 / 2 is beyond 448.
  for (Numbers& each : numbers) each = Numbers(100, 448);
  const auto of_sums = exchanged({100}, numbers, options, &statistics);
  EXPECT_EQ(statistics.saturated, 100U);
  EXPECT_EQ(std::bit_cast<float>(of_sums[0][0]), 896);
  Options by_block = options;
  by_block.scaling = WireScaling::by_block;
  exchanged({100}, numbers, by_block, &statistics);
  EXPECT_EQ(statistics.saturated, 0U);
}

TEST(GradientExchange, AByteFormatSendsAQuarterOfTheBytesOfFloats) {
  constexpr std::size_t size = 1U << 18;
  const std::vector<Numbers> numbers(4, Numbers(size, 1));
  distributed::ExchangeStatistics floats;
  distributed::ExchangeStatistics bytes;
  distributed::ExchangeStatistics fixed;
  exchanged({size}, numbers, {}, &floats);
  exchanged({size}, numbers, {.format = Format::of<float8_e4m3fn>(), .scaling = WireScaling::fixed},
            &fixed);
  exchanged({size}, numbers, {.format = Format::of<float8_e4m3fn>()}, &bytes);
  // 2 (N − 1) / N of the numbers, and 64 or 65 bytes for each of 3 messages of each kind.
  EXPECT_EQ(floats.sent_bytes, 6 * size + 3 * 65 + 3 * 64);
  EXPECT_EQ(fixed.sent_bytes, 6 * size / 4 + 3 * 65 + 3 * 64);
  // A byte more for each 1024 numbers.
  EXPECT_EQ(bytes.sent_bytes, fixed.sent_bytes + 6 * size / 4 / 1024);
}

TEST(GradientExchange, AParameterHasTheGradientsOfThoseRanksThatHaveOne) {
  run_thread_ranks(3, [](Communicator& ranks) {
    GivenParameters given({2, 2, 2});
    const auto pointers = given.pointers();
    GivenGradients own;
    if (ranks.rank() == 1) own.arrays[pointers[1]] = Array<float>({2}, {5, 6});
    own.arrays[pointers[2]] = Array<float>({2}, {1, -1});
    for (const std::size_t bucket : {1U, 4U, 100U}) {
      GradientExchange exchange(ranks, pointers,
                                {.combination = Combination::sum, .bucket_elements = bucket});
      EXPECT_TRUE(exchange.gradient(*pointers[2]).empty());
      exchange.exchange(own);
      EXPECT_TRUE(exchange.gradient(*pointers[0]).empty());
      EXPECT_EQ(exchange.gradient(*pointers[1]), Array<float>({2}, {5, 6}));
      EXPECT_EQ(exchange.gradient(*pointers[2]), Array<float>({2}, {3, -3}));
    }
  });
}

TEST(GradientExchange, ParametersWithoutElementsAndNoParametersSendNothing) {
  run_thread_ranks(2, [](Communicator& ranks) {
    GivenParameters given({0, 0});
    GradientExchange empty(ranks, given.pointers());
    empty.exchange(given.gradients({}));
    EXPECT_EQ(empty.statistics().sent_bytes, 0U);
    GradientExchange none(ranks, {});
    none.exchange(GivenGradients{});
    EXPECT_EQ(none.statistics().sent_bytes, 0U);
  });
}

TEST(GradientExchange, RefusesWrongOptionsAndShapesBeforeAnythingIsSent) {
  run_thread_ranks(2, [](Communicator& ranks) {
    GivenParameters given({2});
    const auto pointers = given.pointers();
    expect_domain_error(
        [&] { GradientExchange(ranks, pointers, {.format = Format::of<double>()}); },
        {"GradientExchange", "float64"});
    expect_domain_error(
        [&] { GradientExchange(ranks, pointers, {.format = Format::parse("e2m1fn")}); },
        {"GradientExchange", "NaN", "float4_e2m1fn"});
    expect_domain_error([&] { GradientExchange(ranks, pointers, {.bucket_elements = 0}); },
                        {"GradientExchange", "at least 1"});
    expect_domain_error(
        [&] {
          GradientExchange(ranks, {pointers[0], pointers[0]});
        },
        {"GradientExchange"});
    GradientExchange exchange(ranks, pointers);
    GivenGradients wrong;
    wrong.arrays[pointers[0]] = Array<float>({3}, {1, 2, 3});
    expect_shape_error([&] { exchange.exchange(wrong); },
                       {"GradientExchange", "'p0'", "(2)", "(3)"});
    expect_domain_error(
        [&] {
          exchange.exchange(given.gradients(Numbers{1, 2}), 0);
        },
        {"GradientExchange", "batches", "got 0"});
    EXPECT_TRUE(exchange.gradient(*pointers[0]).empty());
    exchange.exchange(given.gradients(Numbers{1, 2}));  // nothing was sent, so this one works
    EXPECT_EQ(exchange.gradient(*pointers[0]).size(), 2U);
    expect_shape_error([&] { exchange.exchange(wrong); }, {"GradientExchange"});
    EXPECT_TRUE(exchange.gradient(*pointers[0]).empty()) << "of the step before";
  });
}

TEST(GradientExchange, RanksWithOtherSizesEndWithAnErrorAndDoNotHang) {
  // A message of another size is refused as it comes: long before the deadline.
  const std::string text = error_of_ranks(2,
                                          [](Communicator& ranks) {
                                            GivenParameters given({ranks.rank() == 0 ? 20U : 40U});
                                            GradientExchange exchange(ranks, given.pointers());
                                            exchange.exchange(given.gradients(Numbers(40, 1)));
                                          },
                                          {.deadline = std::chrono::seconds(2)});
  EXPECT_NE(text.find("all_to_all on rank "), std::string::npos) << text;
  EXPECT_NE(text.find(" bytes from rank "), std::string::npos) << text;
}

TEST(GradientExchange, WhatIsFinalIsSentBeforeTheRestAndTheSumIsTheSame) {
  const std::vector<std::size_t> sizes{700, 0, 33, 501};
  std::vector<Numbers> numbers;
  for (std::size_t rank = 0; rank < 3; ++rank) numbers.push_back(normal_numbers(1234, rank, 1));
  for (const std::size_t bucket : {100U, 1000U, 5000U}) {
    const Options options{.bucket_elements = bucket};
    const auto expected = exchanged(sizes, numbers, options);
    run_thread_ranks(3, [&](Communicator& ranks) {
      GivenParameters given(sizes);
      Parameter other{.name = "of others", .value = Array<float>({1}, {0})};
      const auto pointers = given.pointers();
      const GivenGradients all = given.gradients(numbers[ranks.rank()]);
      GradientExchange exchange(ranks, pointers, options);
      for (int step = 0; step < 2; ++step) {
        // What is not final yet has other numbers. Rank 2 does not take part.
        GivenGradients so_far = given.gradients(Numbers(1234, nan));
        if (ranks.rank() == 2) {
          so_far = all;
        } else {
          exchange.take(so_far, other);
          for (const std::size_t k : {3U, 1U, 2U}) {
            so_far.arrays[pointers[k]] = all.arrays.at(pointers[k]);
            exchange.take(so_far, *pointers[k]);
          }
          EXPECT_EQ(exchange.statistics().sent_bytes > 0, bucket == 100) << "534 are final";
          expect_domain_error([&] { exchange.take(so_far, *pointers[3]); },
                              {"GradientExchange", "'p3' twice"});
          expect_domain_error([&] { exchange.exchange(so_far, 2); },
                              {"GradientExchange", "as many batches", "1, got 2"});
          EXPECT_TRUE(exchange.gradient(*pointers[3]).empty());
          so_far.arrays[pointers[0]] = all.arrays.at(pointers[0]);
        }
        exchange.exchange(so_far);
        EXPECT_EQ(given.bits(exchange), expected[ranks.rank()]);
      }
    });
  }
}

TEST(GradientExchange, TakingWaitsForNoRankThatHasNotBegun) {
  constexpr std::size_t count = 8;
  const std::vector<std::size_t> sizes(count, 100);
  const std::vector<Numbers> numbers{normal_numbers(800, 1, 1), normal_numbers(800, 2, 1)};
  for (const bool is_shared : {false, true}) {
    Options options{.bucket_elements = 100};
    std::promise<void> all_are_taken;
    auto when_taken = all_are_taken.get_future();
    run_thread_ranks(2, [&](Communicator& ranks) {
      GivenParameters given(sizes);
      const auto pointers = given.pointers();
      const GivenGradients source = given.gradients(numbers[ranks.rank()]);
      GradientExchange late(ranks, pointers, options);
      late.exchange(source);
      Options of_early = options;
      if (is_shared) of_early.shares = ParameterShares(pointers, 2);
      GradientExchange early(ranks, pointers, of_early);
      if (ranks.rank() == 0) {
        for (std::size_t k = count; k-- > 0;) early.take(source, *pointers[k]);
        EXPECT_EQ(early.statistics().waited.count(), 0);
        all_are_taken.set_value();
      } else {
        ASSERT_EQ(when_taken.wait_for(std::chrono::seconds(20)), std::future_status::ready);
      }
      early.exchange(source);
      for (const Parameter* each : pointers) {
        if (is_shared && of_early.shares->owner(*each) != ranks.rank()) continue;
        EXPECT_EQ(early.gradient(*each), late.gradient(*each));
      }
    });
  }
}

TEST(GradientExchange, AGradientThatCompletesNoBucketMovesOthersOn) {
  std::promise<void> of_rank[2];
  run_thread_ranks(2, [&](Communicator& ranks) {
    const std::size_t own = ranks.rank();
    const auto wait_for_other = [&, other = of_rank[1 - own].get_future()] {
      ASSERT_EQ(other.wait_for(std::chrono::seconds(20)), std::future_status::ready);
    };
    GivenParameters given({10, 2, 4, 4});
    const GivenGradients source = given.gradients(Numbers(20, 1));
    GradientExchange exchange(ranks, given.pointers(), {.bucket_elements = 4});
    const auto sent_after = [&](std::size_t k) {
      exchange.take(source, given.parameters[k]);
      return exchange.statistics().sent_bytes;
    };
    if (own == 1) wait_for_other();
    sent_after(3);
    const auto before = sent_after(2);  // on rank 0 the terms of two buckets
    of_rank[own].set_value();
    if (own == 0) {
      wait_for_other();
      EXPECT_GT(sent_after(1), before) << "the sums of the first bucket";
    }
    exchange.exchange(source);
  });
}

TEST(GradientExchange, TheLastOfSeveralBatchesIsSentEarlyAndTheSumIsTheSame) {
  const std::vector<std::size_t> sizes{700, 33, 501};
  for (const std::size_t batches : {1U, 2U, 3U}) {
    for (const Format& format : {Format(), Format::of<float8_e4m3fn>()}) {
      run_thread_ranks(2, [&](Communicator& ranks) {
        GivenParameters given(sizes);
        const auto pointers = given.pointers();
        const Options options{.format = format, .bucket_elements = 200};
        GradientExchange late(ranks, pointers, options);
        GradientExchange early(ranks, pointers, options);
        GradientTree tree(pointers);
        GradientTree early_tree(pointers);
        for (std::uint64_t step = 0; step < 2; ++step) {
          tree.clear();
          early_tree.clear();
          for (std::size_t k = 0; k < batches; ++k) {
            const std::uint64_t seed = 100 * step + 10 * ranks.rank() + k;
            const GivenGradients batch = given.gradients(normal_numbers(1234, seed, 1));
            tree.add(batch);
            for (std::size_t p = sizes.size(); k + 1 == batches && p-- > 1;) {
              early_tree.add(batch, *pointers[p]);
              early.take(early_tree, *pointers[p]);
              EXPECT_GT(early.statistics().sent_bytes, 0U);
            }
            early_tree.add(batch);
          }
          expect_domain_error([&] { early.exchange(early_tree, batches + 1); },
                              {"GradientExchange", "as many batches"});
          early.exchange(early_tree);
          late.exchange(tree);
          EXPECT_EQ(given.bits(early), given.bits(late));
        }
      });
    }
  }
}

TEST(GradientExchange, SendsNoGradientOfATreeThatIsNotFinalAndExchangesNoneThatIsNotWhole) {
  for (const std::size_t count : {1U, 2U}) {
    run_thread_ranks(count, [&](Communicator& ranks) {
      GivenParameters given({4, 4});
      Parameter& first = given.parameters[0];
      Parameter& last = given.parameters[1];
      const GivenGradients batch = given.gradients(Numbers(8, 1));
      GradientExchange exchange(ranks, given.pointers(),
                                {.combination = Combination::sum, .bucket_elements = 4});
      GradientTree tree(given.pointers());
      const auto expect_refusal_of_part = [&] {
        const std::initializer_list<std::string_view> parts{"GradientExchange", "whole batches"};
        expect_domain_error([&] { exchange.exchange(tree); }, parts);
        expect_domain_error([&] { exchange.exchange(tree, 2); }, parts);
        expect_domain_error(
            [&] { exchange.with_sum(tree, [](const auto&) { FAIL() << "of a part"; }); }, parts);
      };
      tree.add(batch);
      tree.add(batch, last);
      expect_domain_error([&] { exchange.take(tree, first); },
                          {"GradientExchange", "'p0'", "last batch"});
      expect_refusal_of_part();
      exchange.take(tree, last);
      expect_refusal_of_part();
      tree.add(batch, first);
      exchange.take(tree, first);
      expect_refusal_of_part();  // all is there, and its end is not told
      tree.add(batch);
      exchange.exchange(tree);
      const auto all = 2 * static_cast<float>(count);
      EXPECT_EQ(exchange.gradient(first), Array<float>::filled({4}, all));
      EXPECT_EQ(exchange.gradient(last), Array<float>::filled({4}, all));
    });
  }
}

TEST(GradientExchange, NoBatchIsAddedToATreeOfWhichGradientsWereTaken) {
  const std::string text = error_of_ranks(2, [](Communicator& ranks) {
    GivenParameters given({4, 4, 4});
    const GivenGradients batch = given.gradients(Numbers(12, 1));
    GradientExchange exchange(ranks, given.pointers(), {.bucket_elements = 8});
    GradientTree tree(given.pointers());
    const std::initializer_list<std::string_view> parts{"GradientExchange", "as many batches",
                                                        "taken, 1, got 2"};
    tree.add(batch);
    exchange.take(tree, given.parameters[2]);  // before the add of its last batch
    tree.add(batch, given.parameters[1]);
    expect_domain_error([&] { exchange.take(tree, given.parameters[1]); }, parts);
    EXPECT_EQ(exchange.statistics().sent_bytes, 0U);
    tree.add(batch);
    expect_domain_error([&] { exchange.take(tree, given.parameters[0]); }, parts);
    expect_domain_error([&] { exchange.exchange(tree); }, parts);
  });
  EXPECT_EQ(text, "");
}

TEST(GradientExchange, RanksWithOtherOptionsOrNumbersOfBatchesEndWithAnError) {
  const auto text_of = [](const auto& exchange_on) {
    return error_of_ranks(2, [&](Communicator& ranks) {
      GivenParameters given({20});
      exchange_on(ranks, given.pointers(), given.gradients(Numbers(20, 1)));
    });
  };
  const std::vector<std::string> texts{
      // Of one size, so that only the hash tells.
      text_of([](Communicator& ranks, const auto& parameters, const auto& gradients) {
        GradientExchange exchange(ranks, parameters,
                                  {.format = ranks.rank() == 0 ? Format::of<float8_e4m3fn>()
                                                               : Format::of<float8_e5m2>()});
        exchange.exchange(gradients);
      }),
      text_of([](Communicator& ranks, const auto& parameters, const auto& gradients) {
        GradientExchange exchange(
            ranks, parameters,
            {.combination = ranks.rank() == 0 ? Combination::sum : Combination::mean});
        exchange.exchange(gradients);
      }),
      text_of([](Communicator& ranks, const auto& parameters, const auto& gradients) {
        GradientExchange exchange(ranks, parameters);
        exchange.exchange(gradients, 1 + ranks.rank());
      })};
  for (const std::string& text : texts) {
    EXPECT_NE(
        text.find("GradientExchange: expected the hash of options, parameters, sizes and number of "
                  "batches"),
        std::string::npos)
        << text;
  }
}

TEST(GradientExchange, RanksWithOtherParametersEndWithAnError) {
  struct Of {
    std::string name;
    Shape shape;
  };
  using Parameters = std::vector<Of>;
  const Parameters on_rank_0{{"p", {4, 3}}, {"q", {12}}};
  const auto text_with = [&](const Parameters& on_rank_1) {
    return error_of_ranks(2, [&](Communicator& ranks) {
      std::vector<Parameter> parameters;
      for (const Of& each : ranks.rank() == 0 ? on_rank_0 : on_rank_1) {
        parameters.push_back({.name = each.name, .value = Array<float>::filled(each.shape, 0)});
      }
      GivenGradients gradients;
      std::vector<Parameter*> pointers;
      for (Parameter& each : parameters) {
        pointers.push_back(&each);
        gradients.arrays[&each] = Array<float>::filled(each.shape(), 1);
      }
      GradientExchange(ranks, pointers).exchange(gradients);
    });
  };
  EXPECT_EQ(text_with(on_rank_0), "");
  // Each of as many numbers in as many parameters, so that no message has another size.
  for (const Parameters& other :
       {Parameters{{"q", {12}}, {"p", {4, 3}}}, Parameters{{"r", {4, 3}}, {"q", {12}}},
        Parameters{{"p", {3, 4}}, {"q", {12}}}, Parameters{{"p", {12}}, {"q", {4, 3}}},
        Parameters{{"p", {1, 4, 3}}, {"q", {12}}}, Parameters{{"p", {11}}, {"q", {13}}}}) {
    EXPECT_NE(text_with(other).find("GradientExchange: expected the hash of options, parameters"),
              std::string::npos)
        << text_with(other);
  }
}

/// What becomes of two exchanges of two ranks of which rank 0 hears something else.
std::string error_after(const Tampering::Tamper& tamper, bool is_shared = false) {
  return error_of_ranks(2, [&](Communicator& engine) {
    Tampering ranks(engine, tamper);
    GivenParameters given({50, 50});
    Options options;
    if (is_shared) options.shares = ParameterShares(given.pointers(), 2);
    GradientExchange exchange(ranks, given.pointers(), options);
    for (int step = 0; step < 2; ++step) exchange.exchange(given.gradients(Numbers(100, 1)));
  });
}

TEST(GradientExchange, AMessageThatIsNotWholeOrNotDueIsNoTermOfASum) {
  EXPECT_EQ(error_after([](std::span<std::byte>, std::size_t) {}), "");
  // Operations 0 and 1 are the terms and the sums of the first step, 2 and 3 of the second.
  for (std::size_t operation = 0; operation < 4; ++operation) {
    // Any one bit.
    for (const std::size_t byte :
         {0U, 8U, 16U, 20U, 24U, 28U, 32U, 40U, 48U, 56U, 64U, 65U, 200U}) {
      const std::string text = error_after([&](std::span<std::byte> bytes, std::size_t number) {
        if (number == operation) bytes[byte] ^= std::byte{4};
      });
      EXPECT_TRUE(text.starts_with("rank 0: GradientExchange: expected ") &&
                  text.find("in a message of rank 1, got ") != std::string::npos)
          << operation << ", " << byte << ": " << text;
    }
    // The same bit of two words.
    for (const std::size_t byte : {128U, 131U, 135U}) {
      const std::string text = error_after([&](std::span<std::byte> bytes, std::size_t number) {
        if (number != operation) return;
        for (const std::size_t word : {0U, 16U}) bytes[byte + word] ^= std::byte{0x80};
      });
      EXPECT_TRUE(text.starts_with("rank 0: GradientExchange: expected the checksum "))
          << operation << ", " << byte << ": " << text;
    }
    // Cut off: the rest is what was there before, here zeros.
    for (const std::size_t whole : {0U, 32U, 64U, 150U}) {
      EXPECT_NE(error_after([&](std::span<std::byte> bytes, std::size_t number) {
                  if (number == operation) {
                    std::fill(bytes.begin() + static_cast<std::ptrdiff_t>(whole), bytes.end(),
                              std::byte{0});
                  }
                }),
                "")
          << operation << ", " << whole;
    }
  }
  // That of the step before, once more.
  std::vector<std::byte> before;
  const std::string repeated = error_after([&](std::span<std::byte> bytes, std::size_t number) {
    if (number == 0) before.assign(bytes.begin(), bytes.end());
    if (number == 2) std::copy(before.begin(), before.end(), bytes.begin());
  });
  EXPECT_EQ(repeated, "rank 0: GradientExchange: expected step 1 in a message of rank 1, got 0");
}

TEST(GradientExchange, NoExchangeFollowsOneThatFailed) {
  for (const bool is_taken : {false, true}) {
    EXPECT_THROW(run_thread_ranks(
                     2,
                     [&](Communicator& engine) {
                       Tampering ranks(engine, [](std::span<std::byte> bytes, std::size_t) {
                         bytes[10] ^= std::byte{1};
                       });
                       GivenParameters given({4, 4, 4});
                       GradientExchange exchange(ranks, given.pointers(), {.bucket_elements = 4});
                       const GivenGradients source = given.gradients(Numbers(12, 1));
                       const auto step = [&] {
                         if (is_taken) {
                           // Those of the first one may have come with the third one.
                           for (const std::size_t k : {2U, 1U, 0U}) {
                             exchange.take(source, given.parameters[k]);
                           }
                         }
                         exchange.exchange(source);
                       };
                       try {
                         step();
                       } catch (const CommunicationError&) {
                         EXPECT_TRUE(exchange.gradient(given.parameters[0]).empty());
                         const auto expect_refusal = [](const auto& body) {
                           expect_error<CommunicationError>(
                               body, {"GradientExchange", "one before it failed"});
                         };
                         expect_refusal([&] { exchange.exchange(source); });
                         expect_refusal([&] { exchange.take(source, given.parameters[0]); });
                         expect_refusal([&] { exchange.with_sum(source, [](const auto&) {}); });
                         // Other ranks are in another step, for other work as well.
                         expect_error<CommunicationError>([&] { ranks.barrier(); },
                                                          {"barrier", "did not succeed: "});
                         throw;
                       }
                     }),
                 CommunicationError);
  }
}

/// Gradients of a step, as those of a Tape.
struct GradientsOfStep : GivenGradients {
  std::uint64_t number = 0;
  [[nodiscard]] std::uint64_t step() const { return number; }
};

/// Expects that two ranks that have sent a gradient of one recording send none of another.
/// @param step `step(given, take, refuse)` calls `take(source)`, and then `refuse(next)`.
template <class Step> void expect_rest_is_not_taken_from_another(const Step& step) {
  std::barrier both_have_sent(2);
  const std::string text = error_of_ranks(2, [&](Communicator& ranks) {
    GivenParameters given({4, 4});
    GradientExchange exchange(ranks, given.pointers(), {.bucket_elements = 4});
    const auto take = [&](const auto& source) {
      exchange.take(source, given.parameters[1]);
      EXPECT_GT(exchange.statistics().sent_bytes, 0U);
      both_have_sent.arrive_and_wait();  // before one gives up
    };
    const auto refuse = [&](const auto& next) {
      const auto expect_refusal = [](const auto& body) {
        expect_error<CommunicationError>(body, {"GradientExchange", "gradients were taken"});
      };
      if (ranks.rank() == 0) {
        expect_refusal([&] { exchange.exchange(next); });
      } else {
        expect_refusal([&] { exchange.take(next, given.parameters[0]); });
      }
      expect_error<CommunicationError>([&] { exchange.exchange(next); },
                                       {"GradientExchange", "one before it failed"});
    };
    step(given, take, refuse);
  });
  EXPECT_NE(text.find("it was given up"), std::string::npos) << text;
}

TEST(GradientExchange, TheRestOfARecordingIsNotTakenFromAnother) {
  // As if backward had thrown after its first gradient was sent.
  expect_rest_is_not_taken_from_another([](auto& given, const auto& take, const auto& refuse) {
    GradientsOfStep gradients{given.gradients(Numbers(8, 1000))};
    take(gradients);
    gradients.number = 1;
    refuse(gradients);
  });
  expect_rest_is_not_taken_from_another([](auto& given, const auto& take, const auto& refuse) {
    const GradientsOfStep gradients{given.gradients(Numbers(8, 1000))};
    const GradientsOfStep other = gradients;
    take(gradients);
    refuse(other);
  });
  const auto begin = [](GradientTree& tree, auto& given, const auto& take) {
    const GivenGradients bad = given.gradients(Numbers(8, 1000));
    tree.add(bad, given.parameters[1]);
    take(tree);
  };
  expect_rest_is_not_taken_from_another([&](auto& given, const auto& take, const auto& refuse) {
    GradientTree tree(given.pointers());
    begin(tree, given, take);
    tree.clear();
    tree.add(given.gradients(Numbers(8, 1)));
    refuse(tree);
  });
  expect_rest_is_not_taken_from_another([&](auto& given, const auto& take, const auto& refuse) {
    std::optional<GradientTree> tree(given.pointers());
    begin(*tree, given, take);
    tree.emplace(given.pointers());
    tree->add(given.gradients(Numbers(8, 1)));
    refuse(*tree);
  });
}

TEST(GradientExchange, NoOperationOfOthersComesBetweenTakeAndTheEndOfItsExchange) {
  for (int repetition = 0; repetition < 50; ++repetition) {
    run_thread_ranks(2, [&](Communicator& ranks) {
      GivenParameters given({4, 4, 4});
      GivenParameters others({4, 4});
      GradientExchange exchange(ranks, given.pointers(), {.bucket_elements = 4});
      GradientExchange other(ranks, others.pointers(), {.bucket_elements = 4});
      const GivenGradients source = given.gradients(Numbers(12, 1));
      const GivenGradients of_others = others.gradients(Numbers(8, 1));
      const auto expect_refusal = [&](const auto& body) {
        expect_error<CommunicationError>(
            body, {"on rank " + std::to_string(ranks.rank()), "GradientExchange", "has begun"});
      };
      const auto expect_refusals = [&] {
        expect_refusal([&] { ranks.barrier(); });
        expect_refusal([&] { other.take(of_others, others.parameters[0]); });
        expect_refusal([&] { other.exchange(of_others); });
      };
      for (int step = 0; step < 5; ++step) {
        for (const std::size_t k : {2U, 1U, 0U}) {
          exchange.take(source, given.parameters[k]);
          if ((step + static_cast<int>(k + ranks.rank())) % 2 == 0) std::this_thread::yield();
          expect_refusals();
        }
        expect_domain_error([&] { exchange.exchange(source, 2); }, {"as many batches"});
        expect_refusals();
        exchange.exchange(source);
        ranks.barrier();
        other.take(of_others, others.parameters[1]);
        expect_refusal([&] { exchange.take(source, given.parameters[2]); });
        other.exchange(of_others);
        EXPECT_EQ(exchange.gradient(given.parameters[0]), other.gradient(others.parameters[0]));
      }
    });
  }
}

TEST(GradientExchange, StaysWhereItIs) {
  EXPECT_FALSE(std::is_move_constructible_v<GradientExchange>);
  EXPECT_FALSE(std::is_move_assignable_v<GradientExchange>);
}

TEST(GradientExchange, OthersGoOnAfterOneThatIsDestroyedBeforeItsExchangeIfItHasSentNothing) {
  for (const bool has_sent : {false, true}) {
    std::barrier have_taken(2);
    const std::string text = error_of_ranks(2, [&](Communicator& ranks) {
      GivenParameters given({2, 2, 4});
      const GivenGradients source = given.gradients(Numbers(8, 1));
      {
        GradientExchange exchange(ranks, given.pointers(), {.bucket_elements = 4});
        if (has_sent) exchange.take(source, given.parameters[2]);
        have_taken.arrive_and_wait();
        exchange.take(source, given.parameters[1]);  // finds all that was sent
      }
      ranks.barrier();
    });
    if (has_sent) {
      EXPECT_NE(text.find("GradientExchange on rank "), std::string::npos) << text;
      EXPECT_NE(text.find("it was given up"), std::string::npos) << text;
    } else {
      EXPECT_EQ(text, "");
    }
  }
}

TEST(GradientExchange, AMessageToAnOwnerThatIsChangedIsAnError) {
  EXPECT_EQ(error_after([](std::span<std::byte>, std::size_t) {}, true), "");
  // Terms, sums and summaries of two steps.
  for (std::size_t operation = 0; operation < 6; ++operation) {
    for (const std::size_t byte : {0U, 8U, 16U, 28U, 32U, 48U, 56U, 64U, 75U}) {
      const std::string text = error_after(
          [&](std::span<std::byte> bytes, std::size_t number) {
            if (number == operation) bytes[byte] ^= std::byte{4};
          },
          true);
      EXPECT_TRUE(text.starts_with("rank 0: GradientExchange: expected ") &&
                  text.find("in a message of rank 1, got ") != std::string::npos)
          << operation << ", " << byte << ": " << text;
    }
  }
}

TEST(GradientExchange, OwnersGetTheBitsThatAllRanksGetWithoutShares) {
  std::vector<Format> formats = narrow_formats;
  formats.emplace_back();
  formats.push_back(Format::parse("e3m2"));  // codes of six bits
  const std::vector<std::size_t> sizes{700, 0, 33, 501, 1, 9};
  for (const Format& format : formats) {
    for (const std::size_t count : {1U, 2U, 3U, 5U}) {
      for (const std::size_t bucket : {100U, 2000U}) {
        run_thread_ranks(count, [&](Communicator& ranks) {
          GivenParameters given(sizes);
          const auto pointers = given.pointers();
          const ParameterShares shares(pointers, count);
          Options options{.format = format, .bucket_elements = bucket};
          GradientExchange plain(ranks, pointers, options);
          options.shares = shares;
          GradientExchange exchange(ranks, pointers, options);
          for (std::uint64_t step = 0; step < 2; ++step) {
            GivenGradients own = given.gradients(normal_numbers(1244, 10 * step + ranks.rank(), 1));
            own.arrays.erase(pointers[3 * step]);  // on all ranks
            if (ranks.rank() != 0) own.arrays.erase(pointers[4]);
            plain.exchange(own);
            exchange.exchange(own);
            for (const Parameter* each : pointers) {
              // All ranks know of all gradients,
              const Array<float>& expected = plain.gradient(*each);
              EXPECT_EQ(exchange.gradient_shape(*each), expected.shape());
              EXPECT_EQ(exchange.largest_magnitude_bits(*each),
                        plain.largest_magnitude_bits(*each));
              EXPECT_EQ(exchange.sum_of_squares(*each), plain.sum_of_squares(*each));
              // and have some.
              if (shares.owner(*each) == ranks.rank()) {
                EXPECT_EQ(exchange.gradient(*each), expected);
              } else if (!expected.empty()) {
                expect_domain_error([&] { static_cast<void>(exchange.gradient(*each)); },
                                    {"GradientExchange", each->name, "ShardedOptimiser"});
              }
            }
            EXPECT_EQ(exchange.statistics().saturated, plain.statistics().saturated);
          }
        });
      }
    }
  }
}

TEST(GradientExchange, TellsOfAGradientWhatIsTrueOfItsElements) {
  for (const bool is_shared : {false, true}) {
    run_thread_ranks(2, [&](Communicator& ranks) {
      GivenParameters given({3, 2});
      const auto pointers = given.pointers();
      Options options{.combination = Combination::mean};
      if (is_shared) options.shares = ParameterShares(pointers, 2);
      GradientExchange exchange(ranks, pointers, options);
      EXPECT_EQ(exchange.gradient_shape(*pointers[0]).size(), 0U);
      exchange.exchange(given.gradients(Numbers{1, -3, 2, 1, ranks.rank() == 1 ? infinity : 1}));
      EXPECT_EQ(exchange.gradient_shape(*pointers[0]), Shape{3});
      EXPECT_EQ(std::bit_cast<float>(exchange.largest_magnitude_bits(*pointers[0])), 3);
      EXPECT_EQ(exchange.sum_of_squares(*pointers[0]), 14);
      EXPECT_TRUE(std::isnan(std::bit_cast<float>(exchange.largest_magnitude_bits(*pointers[1]))));
      EXPECT_TRUE(std::isnan(exchange.sum_of_squares(*pointers[1])));
    });
  }
}

TEST(GradientExchange, ASumIsSentToItsOwnerAlone) {
  constexpr std::size_t size = 1U << 16;
  run_thread_ranks(4, [&](Communicator& ranks) {
    GivenParameters given({size, size, size, size});
    GradientExchange exchange(ranks, given.pointers(),
                              {.shares = ParameterShares(given.pointers(), 4)});
    exchange.exchange(given.gradients(Numbers(4 * size, 1)));
    // All numbers are one bucket, of which each rank adds up the parameter of another rank: owners
    // follow the order of parameters, and pieces the reverse one.
    const std::uint64_t terms = 3 * (4 * size + 64 + 4);
    const std::uint64_t sums = 4 * size + 3 * 64;
    const std::uint64_t summaries = 3 * (64 + 12);
    EXPECT_EQ(exchange.statistics().sent_bytes, terms + sums + summaries);
  });
}

TEST(GradientExchange, RefusesSharesOfOtherRanksOrParametersAndRanksWithOtherShares) {
  run_thread_ranks(2, [](Communicator& ranks) {
    GivenParameters given({2});
    GivenParameters other({2});
    expect_domain_error(
        [&] {
          GradientExchange(ranks, given.pointers(),
                           {.shares = ParameterShares(given.pointers(), 3)});
        },
        {"GradientExchange", "2 ranks", "of 3"});
    expect_domain_error(
        [&] {
          GradientExchange(ranks, given.pointers(),
                           {.shares = ParameterShares(other.pointers(), 2)});
        },
        {"ParameterShares", "p0"});
  });
  EXPECT_THROW(run_thread_ranks(2,
                                [](Communicator& ranks) {
                                  GivenParameters given({2, 2});
                                  auto pointers = given.pointers();
                                  Options options;
                                  options.shares = ParameterShares(pointers, 2);
                                  if (ranks.rank() == 1) options.shares.reset();
                                  GradientExchange exchange(ranks, pointers, options);
                                  exchange.exchange(given.gradients(Numbers(4, 1)));
                                }),
               CommunicationError);
}

TEST(GradientExchange, TellsHowLongARankWaitedForAnother) {
  constexpr auto late = std::chrono::milliseconds(200);
  std::vector<std::chrono::steady_clock::duration> waited(2);
  run_thread_ranks(2, [&](Communicator& ranks) {
    GivenParameters given({100});
    GradientExchange exchange(ranks, given.pointers());
    ranks.barrier();
    if (ranks.rank() == 1) std::this_thread::sleep_for(late);
    exchange.exchange(given.gradients(Numbers(100, 1)));
    waited[ranks.rank()] = exchange.statistics().waited;
    exchange.exchange(given.gradients(Numbers(100, 1)));
    EXPECT_LT(exchange.statistics().waited, late) << "of the last exchange alone";
  });
  // Between the barrier and its exchange rank 0 does next to nothing.
  EXPECT_GE(waited[0], late * 9 / 10);
  EXPECT_LT(waited[1], late);
}

TEST(GradientExchange, TellsHowLongItLookedAtMessagesWithoutWaiting) {
  constexpr auto time = std::chrono::milliseconds(20);
  std::barrier have_sent(2);
  run_thread_ranks(2, [&](Communicator& engine) {
    // A look that finds all takes some time, as where an engine copies what has come.
    Tampering ranks(engine,
                    [&](std::span<std::byte>, std::size_t) { std::this_thread::sleep_for(time); });
    GivenParameters given({2, 2, 4});
    const GivenGradients source = given.gradients(Numbers(8, 1));
    GradientExchange exchange(ranks, given.pointers(), {.bucket_elements = 4});
    for (int step = 0; step < 2; ++step) {
      exchange.take(source, given.parameters[2]);
      have_sent.arrive_and_wait();
      EXPECT_LT(exchange.statistics().looked, time) << "of this step alone";
      exchange.take(source, given.parameters[1]);  // finds the terms of the first bucket
      if (ranks.rank() == 0) {
        EXPECT_GE(exchange.statistics().looked, time);
      }
      EXPECT_EQ(exchange.statistics().waited.count(), 0);
      exchange.exchange(source);
      // Of terms and sums of two buckets, each is found by a look, or waited for.
      const auto all = exchange.statistics().looked + exchange.statistics().waited;
      if (ranks.rank() == 0) {
        EXPECT_GE(all, 4 * time);
      }
    }
  });
}

constexpr std::size_t measured = 1024;

/// Normal numbers of a seed, made once.
const Numbers& measured_numbers(std::uint64_t seed) {
  static std::map<std::uint64_t, Numbers> all;
  const auto [place, is_new] = all.try_emplace(seed);
  if (is_new) place->second = normal_numbers(measured, seed, 1);
  return place->second;
}

/// Signal to noise of the mean of gradients of ranks, in dB: as for AllReduce, with a share of the
/// variance that all have in common. The least of all parameters.
/// @param scales of the gradients of the parameters, of 1024 elements in all
double quality(std::size_t ranks, const std::vector<double>& scales, double common_share,
               const Options& options) {
  const std::size_t size = measured / scales.size();
  std::vector<Numbers> numbers(ranks, Numbers(measured));
  std::vector<double> exact(measured);
  const Numbers& common = measured_numbers(1);
  for (std::size_t rank = 0; rank < ranks; ++rank) {
    const Numbers& own = measured_numbers(2 + rank);
    for (std::size_t i = 0; i < measured; ++i) {
      numbers[rank][i] = static_cast<float>(
          scales[i / size] * (std::sqrt(common_share) * static_cast<double>(common[i]) +
                              std::sqrt(1 - common_share) * static_cast<double>(own[i])));
      exact[i] += static_cast<double>(numbers[rank][i]) / static_cast<double>(ranks);
    }
  }
  double least = infinity;
  run_thread_ranks(ranks, [&](Communicator& communicator) {
    GivenParameters given(std::vector<std::size_t>(scales.size(), size));
    GradientExchange exchange(communicator, given.pointers(), options);
    exchange.exchange(given.gradients(numbers[communicator.rank()]));
    if (communicator.rank() != 0) return;
    for (std::size_t k = 0; k < scales.size(); ++k) {
      const Array<float>& sum = exchange.gradient(given.parameters[k]);
      double signal = 0;
      double noise = 0;
      for (std::size_t i = 0; i < size; ++i) {
        const double expected = exact[k * size + i];
        signal += expected * expected;
        noise += std::pow(static_cast<double>(sum.data()[i]) - expected, 2);
      }
      least = std::min(least, 10 * std::log10(signal / noise));
    }
  });
  return least;
}

/// The least quality at scales of 2^-8 to 2^8, powers of two and others, of gradients that have no,
/// half or all of their variance in common.
double least_quality(const Format& format, WireScaling scaling) {
  double least = infinity;
  for (const std::size_t ranks : {8U, 64U, 256U}) {
    const int step = ranks == 8 ? 2 : 8;
    for (int exponent = -8; exponent <= 8; exponent += step) {
      for (const double fraction : {0.0, 5.0 / 16, 11.0 / 16}) {
        for (const double common_share : {0.0, 0.5, 1.0}) {
          if (ranks == 256 && (common_share == 1.0 || fraction > 0)) continue;
          least = std::min(
              least,
              quality(ranks, {std::exp2(exponent + fraction)}, common_share,
                      {.format = format, .scaling = scaling, .combination = Combination::mean}));
        }
      }
    }
  }
  return least;
}

TEST(GradientExchange, E4m3HasASignalToNoiseOf28DecibelsAtAnyScale) {
  EXPECT_GE(least_quality(Format::of<float8_e4m3fn>(), WireScaling::by_block), 28);
}

TEST(GradientExchange, E5m2HasASignalToNoiseOf22DecibelsAndFloat16Of70) {
  for (const WireScaling scaling : {WireScaling::fixed, WireScaling::by_block}) {
    EXPECT_GE(least_quality(Format::of<float8_e5m2>(), scaling), 22);
    EXPECT_GE(least_quality(Format::of<float16>(), scaling), 70);
  }
}

TEST(GradientExchange, ParametersOfOtherScalesInABucketHaveTheSignalToNoiseOfTheirOwn) {
  for (const std::size_t bucket : {std::size_t{300}, std::size_t{1} << 20}) {
    const Options options{.format = Format::of<float8_e4m3fn>(),
                          .combination = Combination::mean,
                          .bucket_elements = bucket};
    EXPECT_GE(quality(8, {0x1p-8, 0x1p8, 0x1p-4, 0x1p12}, 0.5, options), 28);
    // Parameters of 16 elements each, as gains are.
    std::vector<double> scales(64, 0x1p-8);
    scales[31] = 0x1p8;
    EXPECT_GE(quality(8, scales, 0.5, options), 25) << "few numbers, and so other noise";
  }
}

TEST(GradientExchange, ANumberHidesNoneThatAreFarFromIt) {
  constexpr std::size_t size = 4096;
  Numbers numbers(size, 1);
  numbers[2000] = 1e6F;
  const auto results =
      exchanged({size}, {numbers, numbers},
                {.format = Format::of<float8_e4m3fn>(), .combination = Combination::sum});
  for (const auto& result : results) {
    for (std::size_t i = 0; i < size; ++i) {
      if (i / 1024 != 2000 / 1024) {
        ASSERT_EQ(std::bit_cast<float>(result[i]), 2) << i;
      }
    }
    EXPECT_EQ(result[2000], results[0][2000]);
  }
}

TEST(GradientExchange, FiniteNumbersWhoseSumIsFiniteHaveAFiniteOne) {
  const float largest = std::numeric_limits<float>::max();
  std::vector<Format> formats = narrow_formats;
  formats.push_back(Format::of<bfloat16>());
  formats.emplace_back();
  const Numbers numbers{largest, -largest, 0, 1, largest, 0x1.fp127F, -0x1.fffp127F, 2};
  for (const Format& format : formats) {
    const auto results = exchanged({8}, {numbers, Numbers(8, 0)},
                                   {.format = format, .combination = Combination::sum});
    for (const auto& result : results) {
      for (std::size_t i = 0; i < numbers.size(); ++i) {
        const float sum = std::bit_cast<float>(result[i]);
        if (std::abs(numbers[i]) < 3) {  // too far from the largest for a byte
          EXPECT_LE(std::abs(sum - numbers[i]), std::abs(numbers[i])) << to_string(format);
        } else {
          EXPECT_LE(std::abs(sum), largest) << to_string(format) << " " << i;
          EXPECT_NEAR(static_cast<double>(sum / numbers[i]), 1, 0.126) << to_string(format);
        }
      }
    }
  }
}

TEST(GradientExchange, ABatchWithoutAGradientAddsNothingWhicheverRankHasIt) {
  const auto bits_on = [](std::size_t count, std::size_t batch_with_gradient) {
    std::vector<std::uint32_t> result;
    run_thread_ranks(count, [&](Communicator& ranks) {
      GivenParameters given({2});
      GradientTree tree(given.pointers());
      for (std::size_t k = ranks.rank() * 2 / count; k < (ranks.rank() + 1) * 2 / count; ++k) {
        tree.add(k == batch_with_gradient ? given.gradients(Numbers{-0.0F, 0.0F})
                                          : GivenGradients{});
      }
      GradientExchange exchange(ranks, given.pointers());
      exchange.exchange(tree);
      if (ranks.rank() == 0) result = given.bits(exchange);
    });
    return result;
  };
  const std::vector<std::uint32_t> expected{0x8000'0000U, 0};
  for (const std::size_t batch : {0U, 1U}) {
    EXPECT_EQ(bits_on(1, batch), expected);
    EXPECT_EQ(bits_on(2, batch), expected);
  }
}

TEST(GradientExchange, TheFixedFactorKeepsGradientsNearOneAt28Decibels) {
  double least = infinity;
  for (const std::size_t ranks : {8U, 64U}) {
    for (int exponent = -2; exponent <= 2; ++exponent) {
      for (const double common_share : {0.0, 0.5}) {
        least = std::min(least, quality(ranks, {std::exp2(exponent)}, common_share,
                                        {.format = Format::of<float8_e4m3fn>(),
                                         .scaling = WireScaling::fixed,
                                         .combination = Combination::mean}));
      }
    }
  }
  EXPECT_GE(least, 28);
}

}  // namespace gradient_exchange_test
