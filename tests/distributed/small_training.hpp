// SPDX-License-Identifier: MIT
/// @file
/// Layer: tests. A small training that any engine runs, over 12 or 16 batches a step.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "unit_scaling/autograd/tape.hpp"
#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/random.hpp"
#include "unit_scaling/distributed/agreement.hpp"
#include "unit_scaling/distributed/communicator.hpp"
#include "unit_scaling/distributed/gradient_exchange.hpp"
#include "unit_scaling/distributed/gradient_tree.hpp"
#include "unit_scaling/distributed/parameter_shares.hpp"
#include "unit_scaling/distributed/sharded_optimiser.hpp"
#include "unit_scaling/nn/initialiser.hpp"
#include "unit_scaling/ops/cross_entropy.hpp"
#include "unit_scaling/ops/gelu.hpp"
#include "unit_scaling/ops/linear.hpp"
#include "unit_scaling/optim/adam.hpp"
#include "unit_scaling/train/fingerprint.hpp"

namespace unit_scaling_test {

/// What a small training is told.
struct SmallTraining {
  std::size_t batches = 16;  ///< of a step, on all ranks together
  std::size_t steps = 10;
  unit_scaling::distributed::GradientExchange::Options exchange = {};
  /// Each rank sends the gradients of its last batch while its tape unwinds: through a tree, unless
  /// it has one batch.
  bool sends_early = false;
  /// Each rank keeps the states of a share of the parameters.
  bool is_sharded = false;
  /// Of its batches one has an infinite number, at this step.
  std::size_t bad_step = static_cast<std::size_t>(-1);
};

/// What came of it.
struct SmallResult {
  std::uint64_t digest = 0;  ///< of the bits of all weights
  std::string refused = {};  ///< what an optimiser said of a step; the step is skipped
  friend bool operator==(const SmallResult&, const SmallResult&) = default;
};

/// Trains two unit-scaled layers to tell which of four numbers is the largest. The batches of a
/// step are numbered, and each rank has a run of them.
inline SmallResult run_small_training(unit_scaling::distributed::Communicator& ranks,
                                      const SmallTraining& training) {
  using namespace unit_scaling;
  constexpr std::size_t rows = 8;
  constexpr std::size_t inputs = 4;
  constexpr std::size_t hidden = 33;
  nn::Initialiser initialiser(1);
  Parameter up = initialiser.weight("up", {hidden, inputs});
  Parameter down = initialiser.weight("down", {inputs, hidden});
  const std::vector<Parameter*> parameters{&up, &down};

  train::Fingerprint told;
  told.add("batches", training.batches).add("steps", training.steps);
  distributed::require_agreement(ranks, told, parameters);

  const distributed::ParameterShares shares(parameters, ranks.size());
  distributed::GradientExchange::Options options = training.exchange;
  if (training.is_sharded) options.shares = shares;
  distributed::GradientExchange exchange(ranks, parameters, options);
  distributed::GradientTree tree(parameters);
  optim::AdamW adam(parameters);
  distributed::ShardedOptimiser<optim::AdamW> sharded_adam(ranks, shares, parameters);
  Tape<precision::fp32> tape;
  SmallResult result;
  const std::size_t own = training.batches / ranks.size();
  const bool has_tree = own > 1 || !training.sends_early;
  bool is_last = false;  // batch of this rank in its step
  if (training.sends_early) {
    tape.on_final_gradient([&](const Parameter& each) {
      if (!is_last) return;
      if (has_tree) {
        tree.add(tape, each);
        exchange.take(tree, each);
      } else {
        exchange.take(tape, each);
      }
    });
  }
  for (std::size_t step = 0; step < training.steps; ++step) {
    tree.clear();
    for (std::size_t batch = ranks.rank() * own; batch < (ranks.rank() + 1) * own; ++batch) {
      const Random random(2, RandomStream::batch, step * training.batches + batch);
      Array<float> x({rows, inputs});
      Array<std::int32_t> labels({rows});
      for (std::size_t row = 0; row < rows; ++row) {
        float* const numbers = x.mutable_data() + row * inputs;
        std::size_t largest = 0;
        for (std::size_t i = 0; i < inputs; ++i) {
          numbers[i] = static_cast<float>(random.normal(row * inputs + i));
          if (numbers[i] > numbers[largest]) largest = i;
        }
        labels.mutable_data()[row] = static_cast<std::int32_t>(largest);
      }
      if (step == training.bad_step && batch + 1 == training.batches) {
        x.mutable_data()[0] = std::bit_cast<float>(0x7f800000U);
      }
      is_last = batch + 1 == (ranks.rank() + 1) * own;
      tape.clear();
      const auto h = ops::gelu(ops::linear(tape.constant(x), tape.parameter(up)));
      tape.backward(ops::cross_entropy(ops::linear(h, tape.parameter(down)), labels));
      if (has_tree) tree.add(tape);
    }
    if (has_tree) {
      exchange.exchange(tree);
    } else {
      exchange.exchange(tape);
    }
    try {
      if (training.is_sharded) {
        sharded_adam.step(exchange, 0x1p-5);
      } else {
        adam.step(exchange, 0x1p-5);
      }
    } catch (const DomainError& error) {
      result.refused = "step " + std::to_string(step) + ": " + error.what();
    }
  }
  for (const Parameter* parameter : parameters) {
    result.digest = 31 * result.digest + distributed::detail::hash_of(parameter->value);
  }
  return result;
}

}  // namespace unit_scaling_test
