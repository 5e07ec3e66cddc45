// SPDX-License-Identifier: MIT
#include "unit_scaling/distributed/sharded_optimiser.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "distributed/gradients.hpp"
#include "support/errors.hpp"
#include "unit_scaling/core/random.hpp"
#include "unit_scaling/distributed/gradient_exchange.hpp"
#include "unit_scaling/distributed/parameter_shares.hpp"
#include "unit_scaling/distributed/thread_ranks.hpp"
#include "unit_scaling/optim/adam.hpp"
#include "unit_scaling/optim/encoded_state_format.hpp"
#include "unit_scaling/optim/lamb.hpp"
#include "unit_scaling/optim/low_precision_states.hpp"
#include "unit_scaling/optim/sgd.hpp"
#include "unit_scaling/train/checkpoint.hpp"
#include "unit_scaling/train/loss_scaling.hpp"

namespace sharded_optimiser_test {

using namespace unit_scaling;
using namespace unit_scaling_test;
using distributed::Combination;
using distributed::Communicator;
using distributed::GradientExchange;
using distributed::ParameterShares;
using distributed::run_thread_ranks;
using distributed::ShardedOptimiser;

constexpr float nan = std::numeric_limits<float>::quiet_NaN();

/// Of the parameters: one element, none, and sizes that no vector and no group divides.
const std::vector<std::size_t> sizes{300, 1, 0, 17, 1031, 256, 64, 5};

std::size_t total() {
  std::size_t result = 0;
  for (const std::size_t each : sizes) result += each;
  return result;
}

/// Parameters with weights that are not zero, the same on all ranks. Two groups treat them.
struct Model : GivenParameters {
  Model() : GivenParameters(sizes) {
    std::uint64_t i = 0;
    const Random random(1);
    for (Parameter& each : parameters) {
      each.kind = ParameterKind::weight;
      for (float& weight : each.value.mutable_span())
        weight = static_cast<float>(random.normal(i++));
    }
    parameters[3].kind = ParameterKind::bias;
  }

  [[nodiscard]] optim::ParameterGroups groups() {
    const auto all = pointers();
    return {{.parameters = {all.begin(), all.begin() + 5}},
            {.parameters = {all.begin() + 5, all.end()},
             .learning_rate_factor = 0.5,
             .weight_decay = 0.001}};
  }

  template <class Visit> void for_each_parameter(const Visit& visit) {
    for (Parameter& each : parameters) visit(each);
  }

  /// Of all weights, as floats.
  [[nodiscard]] std::vector<std::uint32_t> weights() const {
    std::vector<std::uint32_t> result;
    for (const Parameter& each : parameters) {
      const Array<float> floats = each.floats();
      for (const float weight : floats.span()) {
        result.push_back(std::bit_cast<std::uint32_t>(weight));
      }
    }
    return result;
  }
};

/// The gradients of a batch, which are none for a parameter now and then.
GivenGradients gradients_of(const Model& model, std::size_t step, std::size_t batch) {
  const Random random(2, RandomStream::batch, step, static_cast<std::uint32_t>(batch));
  std::vector<float> numbers(total());
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    numbers[i] = static_cast<float>(random.normal(i));
  }
  GivenGradients result = model.gradients(numbers);
  result.arrays.erase(&model.parameters[step % sizes.size()]);
  return result;
}

/// A training on gradients that do not depend on the weights.
template <class Optimiser>
void take_steps(Communicator& ranks, const Model& model, GradientExchange& exchange,
                Optimiser& optimiser, std::size_t begin, std::size_t end) {
  constexpr std::size_t batches = 16;
  distributed::GradientTree tree(const_cast<Model&>(model).pointers());
  const std::size_t own = batches / ranks.size();
  for (std::size_t step = begin; step < end; ++step) {
    tree.clear();
    for (std::size_t batch = ranks.rank() * own; batch < (ranks.rank() + 1) * own; ++batch) {
      tree.add(gradients_of(model, step, batch));
    }
    exchange.exchange(tree);
    optimiser.step(exchange, 0.01, 1);
  }
}

/// The weights after some steps of the optimiser itself, on the same ranks.
template <class Kind>
std::vector<std::uint32_t> expected_weights(std::size_t count, std::size_t steps,
                                            const typename Kind::Options& options,
                                            const GradientExchange::Options& exchange_options) {
  std::vector<std::uint32_t> result;
  run_thread_ranks(count, [&](Communicator& ranks) {
    Model model;
    GradientExchange exchange(ranks, model.pointers(), exchange_options);
    Kind optimiser(model.groups(), options);
    take_steps(ranks, model, exchange, optimiser, 0, steps);
    if (ranks.rank() == 0) result = model.weights();
  });
  return result;
}

template <class Kind> void expect_the_bits_of_one(const typename Kind::Options& options) {
  constexpr std::size_t steps = 10;
  const auto expected = expected_weights<Kind>(1, steps, options, {});
  Model untrained;
  EXPECT_NE(expected, untrained.weights());
  for (const std::size_t count : {1U, 2U, 4U}) {
    for (const bool are_gradients_shared : {false, true}) {
      run_thread_ranks(count, [&](Communicator& ranks) {
        Model model;
        const ParameterShares shares(model.pointers(), count);
        GradientExchange::Options exchange_options{.bucket_elements = 700};
        if (are_gradients_shared) exchange_options.shares = shares;
        GradientExchange exchange(ranks, model.pointers(), exchange_options);
        ShardedOptimiser<Kind> optimiser(ranks, shares, model.groups(), options);
        take_steps(ranks, model, exchange, optimiser, 0, steps);
        EXPECT_EQ(model.weights(), expected) << count << " ranks, " << are_gradients_shared;
        EXPECT_EQ(optimiser.steps(), steps);
      });
    }
  }
}

TEST(ShardedOptimiser, WeightsHaveTheBitsOfOneRankUnderEachOptimiser) {
  expect_the_bits_of_one<optim::Sgd>({.weight_decay = 0.01, .nesterov = true});
  expect_the_bits_of_one<optim::Adam>({.weight_decay = 0.01});
  expect_the_bits_of_one<optim::AdamW>({.weight_decay = 0x1p-13});
  expect_the_bits_of_one<optim::Lamb>({});
}

TEST(ShardedOptimiser, WeightsHaveTheBitsOfOneRankWhereGradientsAreClipped) {
  // Norms are near 40.
  expect_the_bits_of_one<optim::Sgd>({.max_norm = 3});
  expect_the_bits_of_one<optim::AdamW>({.weight_decay = 0x1p-13, .max_norm = 3});
  expect_the_bits_of_one<optim::Lamb>({.max_norm = 3});
  EXPECT_NE(expected_weights<optim::Sgd>(1, 3, {}, {}),
            expected_weights<optim::Sgd>(1, 3, {.max_norm = 3}, {}));
}

TEST(ShardedOptimiser, WeightsHaveTheBitsOfOneRankWhereStatesAndWeightsAreCodes) {
  expect_the_bits_of_one<optim::AdamW>(optim::with_fp8_lm_states({.weight_decay = 0x1p-13}));
  expect_the_bits_of_one<optim::AdamW>(optim::with_coat_states({.weight_decay = 0x1p-13}));
  // Random bits depend on the number of the parameter among all.
  const auto format =
      std::make_shared<const optim::EncodedStateFormat>(optim::EncodedStateFormat::Options{
          .format = Format::of<float8_e5m2>(), .rounding = Rounding::stochastic, .seed = 3});
  expect_the_bits_of_one<optim::Adam>(
      {.first_moment = format, .second_moment = format, .master_weights = format});
}

TEST(ShardedOptimiser, NarrowWiresGiveTheBitsOfTheSameRanksWithoutShares) {
  for (const Format& format : {Format::of<float16>(), Format::of<float8_e4m3fn>()}) {
    for (const std::size_t count : {2U, 3U, 4U}) {
      const GradientExchange::Options plain{.format = format, .bucket_elements = 700};
      const auto expected = expected_weights<optim::AdamW>(count, 5, {.max_norm = 20}, plain);
      run_thread_ranks(count, [&](Communicator& ranks) {
        Model model;
        const ParameterShares shares(model.pointers(), count);
        GradientExchange::Options with_shares = plain;
        with_shares.shares = shares;
        GradientExchange exchange(ranks, model.pointers(), with_shares);
        ShardedOptimiser<optim::AdamW> adam(ranks, shares, model.groups(), {.max_norm = 20});
        take_steps(ranks, model, exchange, adam, 0, 5);
        EXPECT_EQ(model.weights(), expected) << to_string(format) << ", " << count << " ranks";
      });
    }
  }
}

TEST(ShardedOptimiser, MoreRanksThanParametersLeaveSomeWithoutAShare) {
  run_thread_ranks(5, [](Communicator& ranks) {
    GivenParameters given({3, 2});
    const ParameterShares shares(given.pointers(), 5);
    GradientExchange exchange(ranks, given.pointers(),
                              {.combination = Combination::mean, .shares = shares});
    ShardedOptimiser<optim::Sgd> sgd(ranks, shares, given.pointers(), {.allow_untagged = true});
    const std::vector<float> gradients{1, 2, 3, -4, -5};
    exchange.exchange(given.gradients(gradients));
    sgd.step(exchange, 0.5);
    for (std::size_t i = 0; i < 5; ++i) {
      const auto& parameter = given.parameters[i < 3 ? 0 : 1];
      EXPECT_EQ(parameter.value.data()[i < 3 ? i : i - 3], -gradients[i] / 2) << i;
    }
    EXPECT_EQ(sgd.steps(), 1U);
  });
}

TEST(ShardedOptimiser, AStepWithGradientsOfOneRanksShareAloneCountsOnAll) {
  run_thread_ranks(2, [](Communicator& ranks) {
    GivenParameters given({3, 2});
    const ParameterShares shares(given.pointers(), 2);
    GradientExchange exchange(ranks, given.pointers(),
                              {.combination = Combination::mean, .shares = shares});
    ShardedOptimiser<optim::Sgd> sgd(ranks, shares, given.pointers(), {.allow_untagged = true});
    GivenGradients gradients;
    exchange.exchange(gradients);
    expect_domain_error([&] { sgd.step(exchange, 0.5); }, {"Sgd", "got none for any parameter"});
    EXPECT_EQ(sgd.steps(), 0U);
    gradients.arrays[given.pointers()[1]] = Array<float>({2}, {1, 2});
    exchange.exchange(gradients);
    sgd.step(exchange, 0.5);
    EXPECT_EQ(sgd.steps(), 1U);
    EXPECT_EQ(given.parameters[0].value, Array<float>({3}, {0, 0, 0}));
    EXPECT_EQ(given.parameters[1].value, Array<float>({2}, {-0.5F, -1}));
  });
}

TEST(ShardedOptimiser, AllRanksRefuseAStepWithTheSameWordsAndGoOnAsOneRankDoes) {
  for (const bool are_gradients_shared : {false, true}) {
    for (const double max_norm : {20.0, std::numeric_limits<double>::infinity()}) {
      std::vector<std::string> texts(4);
      run_thread_ranks(4, [&](Communicator& ranks) {
        Model sharded;
        Model plain;
        const ParameterShares shares(sharded.pointers(), 4);
        GradientExchange::Options options;
        if (are_gradients_shared) options.shares = shares;
        GradientExchange exchange(ranks, sharded.pointers(), options);
        GradientExchange plain_exchange(ranks, plain.pointers());
        ShardedOptimiser<optim::AdamW> adam(ranks, shares, sharded.groups(),
                                            {.max_norm = max_norm});
        optim::AdamW plain_adam(plain.groups(), {.max_norm = max_norm});
        for (std::size_t step = 0; step < 4; ++step) {
          GivenGradients own = gradients_of(sharded, step, ranks.rank());
          GivenGradients same = gradients_of(plain, step, ranks.rank());
          if (step == 2 && ranks.rank() == 1) {
            own.arrays[&sharded.parameters[6]].mutable_data()[63] = nan;
            same.arrays[&plain.parameters[6]].mutable_data()[63] = nan;
          }
          exchange.exchange(own);
          plain_exchange.exchange(same);
          // What looks at gradients before a step, on each rank.
          EXPECT_EQ(optim::first_non_finite(exchange, sharded.pointers()),
                    step == 2 ? &sharded.parameters[6] : nullptr);
          const double norm = optim::gradient_norm(plain_exchange, plain.pointers());
          const double sharded_norm = optim::gradient_norm(exchange, sharded.pointers());
          EXPECT_TRUE(sharded_norm == norm || (step == 2 && std::isnan(sharded_norm)));
          const auto refusal = [](const auto& take_step) -> std::string {
            try {
              take_step();
            } catch (const DomainError& error) {
              return error.what();
            }
            return "";
          };
          const std::string text = refusal([&] { adam.step(exchange, 0.01); });
          EXPECT_EQ(text, refusal([&] { plain_adam.step(plain_exchange, 0.01); }));
          EXPECT_EQ(text.empty(), step != 2);
          texts[ranks.rank()] += text;
          EXPECT_EQ(sharded.weights(), plain.weights()) << step;
          EXPECT_EQ(adam.last_gradient_norm(), plain_adam.last_gradient_norm());
        }
        EXPECT_EQ(adam.steps(), 3U);
      });
      EXPECT_NE(texts[0].find("'p6'"), std::string::npos) << texts[0];
      for (const std::string& each : texts) EXPECT_EQ(each, texts[0]);
    }
  }
}

TEST(ShardedOptimiser, ALossScaleFollowsTheSameStepsOnAllRanks) {
  run_thread_ranks(2, [](Communicator& ranks) {
    Model model;
    const ParameterShares shares(model.pointers(), 2);
    GradientExchange exchange(ranks, model.pointers(), {.shares = shares});
    train::LossScaling scaling(train::DynamicLossScale{.initial = 8});
    for (std::size_t step = 0; step < 2; ++step) {
      GivenGradients own = gradients_of(model, step, ranks.rank());
      if (step == 1 && ranks.rank() == 0) own.arrays[&model.parameters[4]].mutable_data()[7] = nan;
      exchange.exchange(own);
      EXPECT_EQ(scaling.check(exchange, model.pointers()).is_skipped(), step == 1);
    }
    EXPECT_EQ(scaling.scale(), 4);
  });
}

/// Bytes of the states that each of some ranks keeps.
template <class Kind>
std::vector<std::size_t> bytes_of_ranks(std::size_t count, const std::vector<std::size_t>& of,
                                        const typename Kind::Options& options) {
  std::vector<std::size_t> result(count);
  run_thread_ranks(count, [&](Communicator& ranks) {
    GivenParameters given(of);
    const ParameterShares shares(given.pointers(), count);
    ShardedOptimiser<Kind> optimiser(ranks, shares, given.pointers(), options);
    optimiser.for_each_own_state([&]<class T>(const std::string&, const T& state) {
      if constexpr (!std::is_arithmetic_v<T>) result[ranks.rank()] += state.bytes();
    });
  });
  return result;
}

TEST(ShardedOptimiser, ARankKeepsTheStatesOfItsShare) {
  // Two tables and two blocks of a decoder of width 64.
  std::vector<std::size_t> of{256 * 64, 64 * 64};
  for (int block = 0; block < 2; ++block) {
    for (const std::size_t each :
         {4096U, 4096U, 4096U, 4096U, 64U, 64U, 16384U, 256U, 16384U, 64U, 64U}) {
      of.push_back(each);
    }
  }
  const auto moments_of = [&](std::size_t count) {
    return bytes_of_ranks<optim::AdamW>(count, of, {.allow_untagged = true});
  };
  using Bytes = std::vector<std::size_t>;
  constexpr std::size_t each = 2 * sizeof(float);
  std::size_t all = 0;
  for (const std::size_t size : of) all += each * size;
  EXPECT_EQ(all, 958'464U);
  EXPECT_EQ(moments_of(1), Bytes{all});
  for (const std::size_t count : {2U, 4U}) {
    const Bytes bytes = moments_of(count);
    std::size_t sum = 0;
    for (const std::size_t of_rank : bytes) {
      sum += of_rank;
      EXPECT_LE(of_rank, all / count + all / 20) << "within a twentieth of all";
    }
    EXPECT_EQ(sum, all);
  }
  EXPECT_EQ(bytes_of_ranks<optim::Sgd>(2, {6, 4, 3}, {.allow_untagged = true}), (Bytes{24, 28}));
  // FP8-LM's: one byte and two, and 8 bytes of scales for each state.
  EXPECT_EQ(bytes_of_ranks<optim::AdamW>(2, {6, 4, 3},
                                         optim::with_fp8_lm_states({.allow_untagged = true})),
            (Bytes{6 + 12 + 16, 7 + 14 + 32}));
}

/// A file of this test.
std::filesystem::path file(const std::string& name) {
  return std::filesystem::temp_directory_path() / ("sharded_optimiser_test_" + name);
}

std::string bytes_of(const std::filesystem::path& path) {
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

/// What a checkpoint has.
auto training_of(Model& model, auto& optimiser) {
  return [&](const auto& visit) {
    visit("model", model);
    visit("optimiser", optimiser);
  };
}

template <class Kind>
void expect_checkpoints_of_one(const std::string& name, const typename Kind::Options& options) {
  const auto plain_file = file(name + "_plain");
  std::vector<std::uint32_t> unbroken;
  run_thread_ranks(1, [&](Communicator& ranks) {
    Model model;
    GradientExchange exchange(ranks, model.pointers());
    Kind optimiser(model.groups(), options);
    take_steps(ranks, model, exchange, optimiser, 0, 4);
    train::save_state(plain_file, training_of(model, optimiser));
    take_steps(ranks, model, exchange, optimiser, 4, 8);
    unbroken = model.weights();
  });
  for (const std::size_t count : {1U, 2U, 4U}) {
    const auto sharded_file = file(name + "_sharded_" + std::to_string(count));
    run_thread_ranks(count, [&](Communicator& ranks) {
      Model model;
      const ParameterShares shares(model.pointers(), count);
      GradientExchange exchange(ranks, model.pointers(), {.shares = shares});
      ShardedOptimiser<Kind> optimiser(ranks, shares, model.groups(), options);
      take_steps(ranks, model, exchange, optimiser, 0, 4);
      optimiser.save([&] {
        EXPECT_EQ(ranks.rank(), 0U);
        train::save_state(sharded_file, training_of(model, optimiser));
      });
      // Saving changes nothing.
      take_steps(ranks, model, exchange, optimiser, 4, 8);
      EXPECT_EQ(model.weights(), unbroken);
    });
    EXPECT_TRUE(bytes_of(sharded_file) == bytes_of(plain_file)) << count << " ranks";
    std::filesystem::remove(sharded_file);
  }
  // On from there, sharded or not.
  for (const std::size_t count : {1U, 2U, 4U}) {
    run_thread_ranks(count, [&](Communicator& ranks) {
      Model model;
      const ParameterShares shares(model.pointers(), count);
      GradientExchange exchange(ranks, model.pointers(), {.shares = shares});
      ShardedOptimiser<Kind> optimiser(ranks, shares, model.groups(), options);
      optimiser.load([&] { train::load_state(plain_file, training_of(model, optimiser)); });
      EXPECT_EQ(optimiser.steps(), 4U);
      take_steps(ranks, model, exchange, optimiser, 4, 8);
      EXPECT_EQ(model.weights(), unbroken) << count << " ranks";
    });
  }
  std::filesystem::remove(plain_file);
}

TEST(ShardedOptimiser, CheckpointsHaveTheBytesOfOneRankAndGoOnOnAnyNumber) {
  expect_checkpoints_of_one<optim::Sgd>("sgd", {});
  expect_checkpoints_of_one<optim::AdamW>("adamw", {.max_norm = 20});
  expect_checkpoints_of_one<optim::Lamb>("lamb", {});
  expect_checkpoints_of_one<optim::AdamW>("fp8_lm", optim::with_fp8_lm_states({}));
  expect_checkpoints_of_one<optim::AdamW>("coat", optim::with_coat_states({}));
}

TEST(ShardedOptimiser, AfterALoadThatFailsTheStatesAreAsBefore) {
  const auto path = file("wrong");
  train::save_state(path, [](const auto& visit) {
    std::uint64_t steps = 7;
    visit("steps", steps);
  });
  run_thread_ranks(2, [&](Communicator& ranks) {
    Model model;
    Model expected;
    const ParameterShares shares(model.pointers(), 2);
    GradientExchange exchange(ranks, model.pointers(), {.shares = shares});
    GradientExchange plain_exchange(ranks, expected.pointers());
    ShardedOptimiser<optim::AdamW> adam(ranks, shares, model.groups());
    optim::AdamW plain(expected.groups());
    take_steps(ranks, model, exchange, adam, 0, 2);
    take_steps(ranks, expected, plain_exchange, plain, 0, 2);
    EXPECT_THROW(adam.load([&] { train::load_state(path, training_of(model, adam)); }), FileError);
    EXPECT_EQ(adam.steps(), 2U);
    adam.load([] {});  // as where there is no checkpoint
    take_steps(ranks, model, exchange, adam, 2, 4);
    take_steps(ranks, expected, plain_exchange, plain, 2, 4);
    EXPECT_EQ(model.weights(), expected.weights());
  });
  std::filesystem::remove(path);
}

TEST(ShardedOptimiser, RefusesToShowAShareAsIfItWereAll) {
  run_thread_ranks(2, [](Communicator& ranks) {
    Model model;
    const ParameterShares shares(model.pointers(), 2);
    ShardedOptimiser<optim::AdamW> adam(ranks, shares, model.groups());
    expect_domain_error([&] { adam.for_each_state([](const std::string&, auto&) {}); },
                        {"ShardedOptimiser", "save or load", "rank "});
  });
}

TEST(ShardedOptimiser, RefusesSharesOfOtherRanksOrParameters) {
  run_thread_ranks(2, [](Communicator& ranks) {
    Model model;
    Model other;
    using Sharded = ShardedOptimiser<optim::AdamW>;
    expect_domain_error(
        [&] { Sharded(ranks, ParameterShares(model.pointers(), 3), model.groups()); },
        {"ShardedOptimiser", "2 ranks", "of 3"});
    expect_domain_error(
        [&] { Sharded(ranks, ParameterShares(other.pointers(), 2), model.groups()); },
        {"ParameterShares", "p0"});
    const ParameterShares shares(model.pointers(), 2);
    expect_domain_error([&] { Sharded(ranks, shares, std::vector<Parameter*>{nullptr}); },
                        {"AdamW", "null"});
  });
}

TEST(ShardedOptimiser, RefusesGroupsAsItsKindDoesAndThoseThatAreKeptElsewhere) {
  run_thread_ranks(2, [](Communicator& ranks) {
    Model model;
    const ParameterShares shares(model.pointers(), 2);
    using Sharded = ShardedOptimiser<optim::AdamW>;
    const auto with = [&](const optim::ParameterGroup& other) {
      return optim::ParameterGroups{{.parameters = {model.pointers()[0]}}, other};
    };
    expect_domain_error(
        [&] {
          Sharded(ranks, shares,
                  with({.parameters = {model.pointers()[1]}, .is_kept_elsewhere = true}));
        },
        {"ShardedOptimiser", "is_kept_elsewhere"});
    const auto empty = with({.parameters = {}, .learning_rate_factor = -3});
    expect_domain_error([&] { Sharded(ranks, shares, empty); },
                        {"AdamW", "learning_rate_factor", "-3"});
    Sharded(ranks, shares, with({}));  // as AdamW does
  });
}

TEST(ShardedOptimiser, RanksThatKeepAParameterInOtherFormatsEndWithAnError) {
  EXPECT_THROW(run_thread_ranks(2,
                                [](Communicator& ranks) {
                                  Model model;
                                  const ParameterShares shares(model.pointers(), 2);
                                  GradientExchange exchange(ranks, model.pointers());
                                  ShardedOptimiser<optim::AdamW> adam(
                                      ranks, shares, model.groups(), optim::with_fp8_lm_states({}));
                                  Parameter& first = model.parameters[0];
                                  if (shares.owner(first) != ranks.rank()) {
                                    first.set_floats(first.floats());
                                  }
                                  take_steps(ranks, model, exchange, adam, 0, 2);
                                }),
               distributed::CommunicationError);
}

/// What is told on two ranks whose steps differ: rank 1 has this rate and loss scale, and counts
/// its steps from `first`; rank 0 has 0.01, 1 and 0.
std::string error_of_steps(double rate, double loss_scale, std::uint64_t first) {
  try {
    run_thread_ranks(2, [&](Communicator& ranks) {
      const bool is_other = ranks.rank() == 1;
      Model model;
      const ParameterShares shares(model.pointers(), 2);
      GradientExchange exchange(ranks, model.pointers());
      ShardedOptimiser<optim::AdamW> adam(ranks, shares, model.groups());
      adam.load([&] {
        adam.for_each_state([&]<class T>(const std::string&, T& state) {
          if constexpr (std::is_arithmetic_v<T>) state = is_other ? first : 0;
        });
      });
      exchange.exchange(gradients_of(model, 0, ranks.rank()));
      adam.step(exchange, is_other ? rate : 0.01, is_other ? loss_scale : 1);
    });
  } catch (const distributed::CommunicationError& error) {
    return error.what();
  }
  return "";
}

TEST(ShardedOptimiser, RanksThatStepWithOtherNumbersEndWithAnError) {
  EXPECT_EQ(error_of_steps(0.01, 1, 0), "");
  for (const std::string& error :
       {error_of_steps(0.02, 1, 0), error_of_steps(0.01, 2, 0), error_of_steps(0.01, 1, 1)}) {
    EXPECT_NE(error.find("ShardedOptimiser: expected the hash of "), std::string::npos) << error;
  }
}

}  // namespace sharded_optimiser_test
