// SPDX-License-Identifier: MIT
/// @file
/// Layer: benchmarks. What it costs to hand a loop to two threads, and what two threads gain.

#include <benchmark/benchmark.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <thread>

#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/parallel.hpp"
#include "unit_scaling/formats/catalogue.hpp"
#include "unit_scaling/kernels/matmul.hpp"

namespace {

namespace us = unit_scaling;

/// Sets the thread count while it lives.
class Threads {
 public:
  explicit Threads(std::size_t count) { us::set_thread_count(count); }
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;
  ~Threads() { us::set_thread_count(1); }
};

void work_for(std::chrono::nanoseconds duration) {
  const auto end = std::chrono::steady_clock::now() + duration;
  while (std::chrono::steady_clock::now() < end) {
  }
}

/// A loop of as many empty pieces as threads, each time after `gap` nanoseconds of other work.
void dispatch(benchmark::State& state) {
  const auto threads = static_cast<std::size_t>(state.range(0));
  const std::chrono::nanoseconds gap(state.range(1));
  const Threads scope(threads);
  for (auto _ : state) {
    work_for(gap);
    const auto start = std::chrono::steady_clock::now();
    us::parallel_for(threads, [](std::size_t i) { benchmark::DoNotOptimize(i); });
    const auto end = std::chrono::steady_clock::now();
    state.SetIterationTime(std::chrono::duration<double>(end - start).count());
  }
}
BENCHMARK(dispatch)
    ->Name("parallel_for/dispatch")
    ->ArgNames({"threads", "gap_ns"})
    ->ArgsProduct({{2, 4}, {0, 2'000, 20'000, 1'000'000}})
    ->Iterations(3000)  // by hand: the gaps are not in the time that would decide it
    ->UseManualTime();

/// A loop of pieces of 5 microseconds, two for each thread: less than twice the time of one
/// thread's share is what two threads must gain.
void short_pieces(benchmark::State& state) {
  const auto threads = static_cast<std::size_t>(state.range(0));
  const Threads scope(threads);
  for (auto _ : state) {
    us::parallel_for(4, [](std::size_t) { work_for(std::chrono::microseconds(5)); });
  }
}
BENCHMARK(short_pieces)
    ->Name("parallel_for/four_pieces_of_5_us")
    ->ArgName("threads")
    ->Arg(1)
    ->Arg(2)
    ->UseRealTime();

void matmul_fp8(benchmark::State& state) {
  using T = us::float8_e4m3fn;
  const auto size = static_cast<std::size_t>(state.range(1));
  const Threads scope(static_cast<std::size_t>(state.range(0)));
  const auto a = us::Array<T>::filled({size, size}, T(0.5F));
  us::Array<float> c({size, size});
  const auto view = us::kernels::row_major(a.data(), size);
  for (auto _ : state) {
    us::kernels::matmul<float>({size, size, size}, view, view, c.mutable_data(), size);
    benchmark::ClobberMemory();
  }
  const auto flops = 2.0 * static_cast<double>(size * size * size);
  state.counters["FLOP/s"] =
      benchmark::Counter(flops, benchmark::Counter::kIsIterationInvariantRate);
}
BENCHMARK(matmul_fp8)
    ->Name("parallel_for/matmul_fp8")
    ->ArgNames({"threads", "size"})
    ->ArgsProduct({{1, 2}, {128, 1024}})
    ->UseRealTime();

}  // namespace
