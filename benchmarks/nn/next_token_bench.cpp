// SPDX-License-Identifier: MIT
/// @file
/// Layer: benchmarks. The logits of the token after 256 others: with a cache of the first 255, and
/// from all 256. Four layers of hidden size 256, rotary positions, one thread.

#include <benchmark/benchmark.h>

#include <cstddef>
#include <cstdint>

#include "random_ids.hpp"
#include "unit_scaling/autograd/tape.hpp"
#include "unit_scaling/core/parallel.hpp"
#include "unit_scaling/nn/transformer_decoder.hpp"

namespace {

namespace nn = unit_scaling::nn;
namespace precision = unit_scaling::precision;
using unit_scaling_benchmarks::random_ids;

constexpr std::size_t vocabulary = 128;
constexpr std::size_t positions = 256;

template <class P, bool has_cache> void next_token(benchmark::State& state) {
  unit_scaling::set_thread_count(1);
  nn::Initialiser initialiser(1, unit_scaling::scaling::umup);
  const nn::TransformerDecoder model(initialiser, vocabulary,
                                     {.hidden_size = 256,
                                      .context_length = positions,
                                      .layers = 4,
                                      .heads = 4,
                                      .rotary_base = 10000});
  const auto before = random_ids({1, positions - 1}, vocabulary);
  const auto last = random_ids({1, 1}, vocabulary);
  const auto all = random_ids({1, positions}, vocabulary);
  unit_scaling::Tape<P> tape(unit_scaling::TapeMode::inference);
  nn::KeyValueCache<P> cache(positions);
  benchmark::DoNotOptimize(model.next_token_logits(tape, before, {.cache = &cache}));
  for (auto _ : state) {
    tape.clear();
    if constexpr (has_cache) {
      cache.truncate(positions - 1);
      benchmark::DoNotOptimize(model.next_token_logits(tape, last, {.cache = &cache}));
    } else {
      benchmark::DoNotOptimize(model.next_token_logits(tape, all));
    }
  }
  state.SetItemsProcessed(state.iterations());
}

BENCHMARK(next_token<precision::fp32, true>)->Name("next_token_cached_fp32");
BENCHMARK(next_token<precision::fp32, false>)->Name("next_token_recomputed_fp32");
BENCHMARK(next_token<precision::fp8, true>)->Name("next_token_cached_fp8");
BENCHMARK(next_token<precision::fp8, false>)->Name("next_token_recomputed_fp8");

}  // namespace
