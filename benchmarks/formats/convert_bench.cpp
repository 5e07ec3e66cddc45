// SPDX-License-Identifier: MIT
/// @file
/// Layer: benchmarks. Bulk conversions between binary32 and the number formats, on one thread.

#include <benchmark/benchmark.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "unit_scaling/formats/catalogue.hpp"
#include "unit_scaling/formats/convert.hpp"

namespace {

using unit_scaling::Overflow;

/// Numbers of about unit scale, some of them subnormal or beyond the range of the narrow formats.
std::vector<float> unit_scale_numbers(std::size_t count) {
  std::vector<float> result(count);
  std::uint32_t state = 1;
  for (float& number : result) {
    state = state * 1664525U + 1013904223U;
    const float uniform = static_cast<float>(state >> 8) * 0x1p-23F - 1.0F;
    number = uniform * uniform * uniform * 500.0F;
  }
  return result;
}

void count_elements(benchmark::State& state) {
  state.SetItemsProcessed(state.iterations() * state.range(0));
}

template <class T, Overflow overflow> void encode(benchmark::State& state) {
  const std::vector<float> in = unit_scale_numbers(static_cast<std::size_t>(state.range(0)));
  std::vector<T> out(in.size());
  for (auto _ : state) {
    unit_scaling::encode(std::span<const float>(in), std::span<T>(out), overflow);
    benchmark::DoNotOptimize(out.data());
    benchmark::ClobberMemory();
  }
  count_elements(state);
}

template <class T> void decode(benchmark::State& state) {
  const std::vector<float> numbers = unit_scale_numbers(static_cast<std::size_t>(state.range(0)));
  std::vector<T> in(numbers.size());
  unit_scaling::encode(std::span<const float>(numbers), std::span<T>(in), Overflow::saturate);
  std::vector<float> out(in.size());
  for (auto _ : state) {
    unit_scaling::decode(std::span<const T>(in), std::span<float>(out));
    benchmark::DoNotOptimize(out.data());
    benchmark::ClobberMemory();
  }
  count_elements(state);
}

/// Within the first-level cache, within the second-level cache, and beyond.
void sizes(benchmark::internal::Benchmark* benchmark) {
  for (const std::int64_t size : {1 << 12, 1 << 16, 1 << 24}) benchmark->Arg(size);
}

using unit_scaling::bfloat16;
using unit_scaling::float16;
using unit_scaling::float8_e4m3fn;
using unit_scaling::float8_e5m2;

BENCHMARK(encode<float8_e4m3fn, Overflow::saturate>)->Apply(sizes);
BENCHMARK(encode<float8_e4m3fn, Overflow::infinity_or_nan>)->Apply(sizes);
BENCHMARK(encode<float8_e5m2, Overflow::saturate>)->Apply(sizes);
BENCHMARK(encode<float8_e5m2, Overflow::infinity_or_nan>)->Apply(sizes);
BENCHMARK(encode<float16, Overflow::saturate>)->Apply(sizes);
BENCHMARK(encode<float16, Overflow::infinity_or_nan>)->Apply(sizes);
BENCHMARK(encode<bfloat16, Overflow::saturate>)->Apply(sizes);
BENCHMARK(encode<bfloat16, Overflow::infinity_or_nan>)->Apply(sizes);
BENCHMARK(decode<float8_e4m3fn>)->Apply(sizes);
BENCHMARK(decode<float8_e5m2>)->Apply(sizes);
BENCHMARK(decode<float16>)->Apply(sizes);
BENCHMARK(decode<bfloat16>)->Apply(sizes);

}  // namespace
