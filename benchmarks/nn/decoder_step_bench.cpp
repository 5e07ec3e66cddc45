// SPDX-License-Identifier: MIT
/// @file
/// Layer: benchmarks. A whole training step of the reference library's TransformerDecoder in tokens
/// a second: four layers with heads of 64, causal attention, a SwiGLU network and RMS norms before
/// each, a vocabulary of 128, and AdamW. A step is of eight sequences of 256 tokens.
///
/// The argument is the number of threads.

#include <benchmark/benchmark.h>

#include <cstddef>
#include <cstdint>

#include "random_ids.hpp"
#include "unit_scaling/autograd/tape.hpp"
#include "unit_scaling/core/parallel.hpp"
#include "unit_scaling/nn/transformer_decoder.hpp"
#include "unit_scaling/optim/adam.hpp"

namespace {

namespace nn = unit_scaling::nn;
namespace optim = unit_scaling::optim;
namespace precision = unit_scaling::precision;
namespace scaling = unit_scaling::scaling;
using unit_scaling_benchmarks::random_ids;

constexpr std::size_t vocabulary = 128;
constexpr std::size_t batch = 8;
constexpr std::size_t positions = 256;

template <class P, std::size_t hidden_size> void decoder_step(benchmark::State& state) {
  constexpr std::size_t head_dim = 64;
  constexpr double learning_rate = 0x1p-6;
  unit_scaling::set_thread_count(static_cast<std::size_t>(state.range(0)));
  nn::Initialiser initialiser(1, scaling::umup);
  nn::TransformerDecoder model(initialiser, vocabulary,
                               {.hidden_size = hidden_size,
                                .context_length = positions,
                                .layers = 4,
                                .heads = hidden_size / head_dim},
                               {.positions = nn::PositionKind::none});
  optim::AdamW optimiser(optim::parameters_of(model),
                         {.weight_decay = 0x1p-13, .rule = unit_scaling::Rule::umup});
  const auto ids = random_ids({batch, positions}, vocabulary);
  unit_scaling::Tape<P> tape;
  for (auto _ : state) {
    tape.clear();
    tape.backward(model.next_token_loss(tape, ids));
    optimiser.step(tape, learning_rate);
  }
  state.SetItemsProcessed(state.iterations() * static_cast<std::int64_t>(batch * positions));
  unit_scaling::set_thread_count(1);
}

/// The wall clock counts, as several threads work.
[[maybe_unused]] const bool added = [] {
  const auto add = [](const char* name, void (*step)(benchmark::State&)) {
    benchmark::RegisterBenchmark(name, step)
        ->ArgName("threads")
        ->Arg(1)
        ->Arg(2)
        ->Arg(16)
        ->UseRealTime()
        ->Unit(benchmark::kMillisecond);
  };
  add("decoder_step_fp32_128", decoder_step<precision::fp32, 128>);
  add("decoder_step_fp8_128", decoder_step<precision::fp8, 128>);
  add("decoder_step_fp32_256", decoder_step<precision::fp32, 256>);
  add("decoder_step_fp8_256", decoder_step<precision::fp8, 256>);
  return true;
}();

}  // namespace
