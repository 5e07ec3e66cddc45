// SPDX-License-Identifier: MIT
/// @file
/// Layer: benchmarks. Training steps of a BertMlp, for measurements of what something adds to them.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>

#include "random_ids.hpp"
#include "unit_scaling/autograd/tape.hpp"
#include "unit_scaling/core/array.hpp"
#include "unit_scaling/nn/bert_mlp.hpp"
#include "unit_scaling/ops/cross_entropy.hpp"
#include "unit_scaling/optim/adam.hpp"
#include "unit_scaling/optim/parameter_groups.hpp"

namespace unit_scaling_benchmarks {

/// Hidden size 128, four blocks, 16 windows of 64 tokens, Adam; always the same batch.
template <unit_scaling::Precision P> struct BertMlpSteps {
  static constexpr std::size_t vocabulary = 128;
  static constexpr std::size_t batch = 16;
  static constexpr std::size_t window = 64;
  static constexpr std::size_t selected = batch * window * 15 / 100;

  unit_scaling::nn::Initialiser initialiser{1, unit_scaling::scaling::paper};
  unit_scaling::nn::BertMlp model{initialiser, {.vocabulary_size = vocabulary, .window = window}};
  unit_scaling::optim::Adam optimiser{unit_scaling::optim::parameters_of(model),
                                      {.rule = unit_scaling::Rule::paper}};
  unit_scaling::Array<std::int32_t> ids = random_ids({batch, window}, vocabulary);
  unit_scaling::Array<std::int32_t> positions = random_ids({selected}, batch* window);
  unit_scaling::Array<std::int32_t> labels = random_ids({selected}, vocabulary);
  unit_scaling::Tape<P> tape;

  /// Seconds that so many steps take, with `after_step()` after each.
  template <class AfterStep> [[nodiscard]] double seconds(int steps, const AfterStep& after_step) {
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < steps; ++i) {
      tape.clear();
      tape.backward(unit_scaling::ops::cross_entropy(model(tape, ids, positions), labels,
                                                     {.scaling = unit_scaling::scaling::paper}));
      optimiser.step(tape, 0x1p-10);
      after_step();
    }
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }
};

}  // namespace unit_scaling_benchmarks
