// SPDX-License-Identifier: MIT
/// @file
/// Layer: benchmarks. A whole training step of the decoder of decoder_steps.hpp in tokens a second.
/// A step is of eight sequences of 256 tokens.
///
/// The argument is the number of threads.

#include <benchmark/benchmark.h>

#include <cstddef>
#include <cstdint>

#include "decoder_steps.hpp"
#include "unit_scaling/core/parallel.hpp"

namespace {

namespace precision = unit_scaling::precision;

template <class P, std::size_t hidden_size> void decoder_step(benchmark::State& state) {
  constexpr std::size_t batch = 8;
  unit_scaling::set_thread_count(static_cast<std::size_t>(state.range(0)));
  unit_scaling_benchmarks::DecoderSteps<P> steps(hidden_size, batch);
  for (auto _ : state) {
    steps.differentiate();
    steps.update(steps.tape);
  }
  state.SetItemsProcessed(state.iterations() * static_cast<std::int64_t>(batch * steps.positions));
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
