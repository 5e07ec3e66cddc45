// SPDX-License-Identifier: MIT
// Gradients that are sent early, in random order and at random times, against those sent late.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <thread>
#include <utility>
#include <vector>

#include "distributed/gradients.hpp"
#include "unit_scaling/core/random.hpp"
#include "unit_scaling/distributed/gradient_exchange.hpp"
#include "unit_scaling/distributed/gradient_tree.hpp"
#include "unit_scaling/distributed/parameter_shares.hpp"
#include "unit_scaling/distributed/thread_ranks.hpp"

namespace early_gradients_test {

using namespace unit_scaling;
using namespace unit_scaling_test;
using distributed::Combination;
using distributed::Communicator;
using distributed::GradientExchange;
using distributed::GradientTree;
using distributed::ParameterShares;
using distributed::WireScaling;

/// Random numbers of a seed, one after the other.
class Draws {
 public:
  explicit Draws(std::uint64_t seed) : random_(seed) {}

  [[nodiscard]] std::size_t below(std::size_t bound) {
    return random_.below(static_cast<std::uint32_t>(bound), count_++);
  }
  [[nodiscard]] bool one_in(std::size_t count) { return below(count) == 0; }
  [[nodiscard]] float normal() { return static_cast<float>(random_.normal(count_++)); }
  template <class T> [[nodiscard]] T of(std::initializer_list<T> choices) {
    return choices.begin()[below(choices.size())];
  }
  template <class T> void shuffle(std::vector<T>& row) {
    for (std::size_t k = row.size(); k > 1; --k) std::swap(row[k - 1], row[below(k)]);
  }

 private:
  Random random_;
  std::uint64_t count_ = 0;
};

/// What all ranks have alike.
struct Scenario {
  GivenParameters given;
  std::vector<Parameter*> parameters;
  GradientExchange::Options options;
  std::size_t batches;  ///< of each rank

  Scenario(Draws& draws, std::size_t ranks) : given(sizes(draws)), parameters(given.pointers()) {
    options.format =
        draws.of({Format(), Format::of<float16>(), Format::of<float8_e4m3fn>(),
                  Format::of<float8_e5m2>(), Format::of<bfloat16>(), Format::parse("e3m2")});
    options.scaling = draws.of({WireScaling::fixed, WireScaling::by_block});
    options.combination = draws.of({Combination::sum, Combination::mean, Combination::unit_scaled});
    options.bucket_elements = draws.of<std::size_t>({60, 200, 1000, 100'000});
    if (draws.one_in(2)) options.shares = ParameterShares(parameters, ranks);
    batches = 1 + draws.below(4);
  }

 private:
  static std::vector<std::size_t> sizes(Draws& draws) {
    std::vector<std::size_t> result(1 + draws.below(9));
    for (std::size_t& each : result) each = draws.of<std::size_t>({0, 1, 7, 33, 100, 501, 1500});
    return result;
  }
};

/// Gradients of a batch, of some parameters, with some numbers of each kind.
GivenGradients drawn_batch(Draws& draws, const Scenario& scenario) {
  GivenGradients batch;
  for (const Parameter* parameter : scenario.parameters) {
    if (draws.one_in(6)) continue;
    Array<float> numbers(parameter->shape());
    for (float& each : numbers.mutable_span()) {
      each = draws.normal();
      if (draws.one_in(50)) each = -0.0F;
      if (draws.one_in(3000)) each = 3e38F;
      if (draws.one_in(5000)) each = std::numeric_limits<float>::infinity();
      if (draws.one_in(5000)) each = std::numeric_limits<float>::quiet_NaN();
    }
    batch.arrays[parameter] = numbers;
  }
  return batch;
}

void rest(Draws& draws) {
  switch (draws.below(4)) {
    case 0:
      std::this_thread::yield();
      break;
    case 1:
      std::this_thread::sleep_for(std::chrono::microseconds(draws.below(300)));
      break;
    default:
      break;
  }
}

/// Exchanges the batches of a step, gradients of the last one early: in some order, with pauses,
/// and without some that come with the rest.
void exchange_early(GradientExchange& exchange, GradientTree& tree, Draws& draws,
                    const Scenario& scenario, const std::vector<GivenGradients>& batches) {
  std::vector<Parameter*> order(scenario.parameters.rbegin(), scenario.parameters.rend());
  if (draws.one_in(3)) draws.shuffle(order);
  const bool takes = !draws.one_in(4);  // a rank may send nothing early
  std::erase_if(order, [&](auto*) { return !takes || draws.one_in(8); });
  if (batches.size() == 1 && draws.one_in(2)) {  // needs no tree
    for (const Parameter* each : order) {
      exchange.take(batches[0], *each);
      rest(draws);
    }
    exchange.exchange(batches[0]);
    return;
  }
  tree.clear();
  for (std::size_t k = 0; k + 1 < batches.size(); ++k) tree.add(batches[k]);
  const bool takes_each_at_once = !draws.one_in(3);
  GivenGradients so_far;  // as a tape that unwinds
  const auto take = [&](const Parameter& parameter) {
    exchange.take(tree, parameter);
    rest(draws);
  };
  for (const Parameter* each : order) {
    const auto found = batches.back().arrays.find(each);
    if (found != batches.back().arrays.end()) so_far.arrays.insert(*found);
    tree.add(so_far, *each);
    if (takes_each_at_once) take(*each);
  }
  if (!takes_each_at_once) {
    draws.shuffle(order);
    for (const Parameter* each : order) take(*each);
  }
  so_far.arrays = batches.back().arrays;
  tree.add(so_far);
  exchange.exchange(tree);
}

void expect_same(const GradientExchange& early, const GradientExchange& late,
                 const Scenario& scenario, std::size_t rank) {
  for (const Parameter* each : scenario.parameters) {
    EXPECT_EQ(early.gradient_shape(*each), late.gradient_shape(*each));
    EXPECT_EQ(early.largest_magnitude_bits(*each), late.largest_magnitude_bits(*each));
    EXPECT_EQ(std::bit_cast<std::uint64_t>(early.sum_of_squares(*each)),
              std::bit_cast<std::uint64_t>(late.sum_of_squares(*each)));
  }
  const auto bits_of = [&](const GradientExchange& exchange) {
    std::vector<std::uint32_t> bits;
    for (const Parameter* each : scenario.parameters) {
      const auto& shares = scenario.options.shares;
      if (shares && shares->owner(*each) != rank) continue;
      for (const float number : exchange.gradient(*each).span()) {
        bits.push_back(std::bit_cast<std::uint32_t>(number));
      }
    }
    return bits;
  };
  EXPECT_EQ(bits_of(early), bits_of(late));
  EXPECT_EQ(early.statistics().saturated, late.statistics().saturated);
  EXPECT_EQ(early.statistics().sent_bytes, late.statistics().sent_bytes);
}

TEST(EarlyGradients, HaveTheBitsOfLateOnesInAnyOrderAndAtAnyTime) {
  for (std::uint64_t seed = 0; seed < 40; ++seed) {
    distributed::run_thread_ranks(2 + seed % 4, [&](Communicator& ranks) {
      SCOPED_TRACE(seed);
      Draws common(1000 + seed);
      Draws own(10'000 + 10 * seed + ranks.rank());
      const Scenario scenario(common, ranks.size());
      GradientExchange late(ranks, scenario.parameters, scenario.options);
      GradientExchange early(ranks, scenario.parameters, scenario.options);
      GradientTree tree(scenario.parameters);
      GradientTree early_tree(scenario.parameters);
      for (int step = 0; step < 3; ++step) {
        tree.clear();
        std::vector<GivenGradients> batches;
        for (std::size_t k = 0; k < scenario.batches; ++k) {
          batches.push_back(drawn_batch(own, scenario));
          tree.add(batches.back());
        }
        const bool is_early_first = common.one_in(2);
        if (!is_early_first) late.exchange(tree);
        exchange_early(early, early_tree, own, scenario, batches);
        if (is_early_first) late.exchange(tree);
        expect_same(early, late, scenario, ranks.rank());
      }
    });
  }
}

}  // namespace early_gradients_test
