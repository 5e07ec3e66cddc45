// SPDX-License-Identifier: MIT
/// @file
/// Layer: benchmarks. Conversions between binary32 and every number format, on one thread: of whole
/// arrays, and of one number at a time as user code does it.

#include <benchmark/benchmark.h>

#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <type_traits>

#include "all_formats.hpp"
#include "unit_scaling/core/array.hpp"
#include "unit_scaling/formats/catalogue.hpp"
#include "unit_scaling/formats/convert.hpp"
#include "unit_scaling/formats/encode.hpp"

namespace {

using unit_scaling::Array;
using unit_scaling::Overflow;

/// Numbers of about unit scale, some of them subnormal or beyond the range of the narrow formats.
Array<float> unit_scale_numbers(std::size_t count) {
  Array<float> result({count});
  std::uint32_t state = 1;
  for (float& number : std::span<float>(result.mutable_data(), count)) {
    state = state * 1664525U + 1013904223U;
    const float uniform = static_cast<float>(state >> 8) * 0x1p-23F - 1.0F;
    number = uniform * uniform * uniform * 500.0F;
  }
  return result;
}

void count_elements(benchmark::State& state, std::size_t per_iteration) {
  state.SetItemsProcessed(state.iterations() * static_cast<std::int64_t>(per_iteration));
}

template <class T, Overflow overflow> void encode(benchmark::State& state) {
  const auto count = static_cast<std::size_t>(state.range(0));
  const Array<float> in = unit_scale_numbers(count);
  Array<T> out({count});
  const std::span<T> target(out.mutable_data(), count);
  for (auto _ : state) {
    unit_scaling::encode(std::span<const float>(in.data(), count), target, overflow);
    benchmark::DoNotOptimize(target.data());
    benchmark::ClobberMemory();
  }
  count_elements(state, count);
}

/// Stochastic rounding with the number of random bits that is the second argument.
template <class T> void encode_stochastic(benchmark::State& state) {
  const auto count = static_cast<std::size_t>(state.range(0));
  const Array<float> in = unit_scale_numbers(count);
  Array<T> out({count});
  const std::span<T> target(out.mutable_data(), count);
  const unit_scaling::Random random(1, unit_scaling::RandomStream::rounding);
  const unit_scaling::EncodeOptions options{
      .rounding = unit_scaling::Rounding::stochastic,
      .random = unit_scaling::StochasticRounding(random, static_cast<int>(state.range(1)))};
  for (auto _ : state) {
    unit_scaling::encode(in.span(), target, options);
    benchmark::DoNotOptimize(target.data());
    benchmark::ClobberMemory();
  }
  count_elements(state, count);
}

/// Rounding to nearest with statistics in the same pass.
template <class T> void encode_with_statistics(benchmark::State& state) {
  const auto count = static_cast<std::size_t>(state.range(0));
  const Array<float> in = unit_scale_numbers(count);
  Array<T> out({count});
  const std::span<T> target(out.mutable_data(), count);
  for (auto _ : state) {
    auto statistics = unit_scaling::encode_with_statistics(in.span(), target);
    benchmark::DoNotOptimize(statistics);
    benchmark::ClobberMemory();
  }
  count_elements(state, count);
}

template <class T> void decode(benchmark::State& state) {
  const auto count = static_cast<std::size_t>(state.range(0));
  Array<float> numbers = unit_scale_numbers(count);
  Array<T> codes({count});
  const std::span<float> target(numbers.mutable_data(), count);
  unit_scaling::encode(std::span<const float>(target), std::span<T>(codes.mutable_data(), count),
                       Overflow::saturate);
  for (auto _ : state) {
    unit_scaling::decode(std::span<const T>(codes.data(), count), target);
    benchmark::DoNotOptimize(target.data());
    benchmark::ClobberMemory();
  }
  count_elements(state, count);
}

/// Conversions that do not wait for one another, with a result that the compiler must have in a
/// register each time: their throughput. What the compiler would make of a loop over an array is
/// not asked here.
template <class T> void encode_scalar(benchmark::State& state) {
  constexpr std::size_t count = 4096;
  const Array<float> in = unit_scale_numbers(count);
  for (auto _ : state) {
    for (std::size_t i = 0; i < count; ++i) {
      benchmark::DoNotOptimize(T::from_float(in.data()[i], Overflow::saturate).bits());
    }
  }
  count_elements(state, count);
}

/// Conversions each of which needs the code of the one before, for one bit of its operand: their
/// latency, and that of an exclusive or of integers.
template <class T> void encode_scalar_chain(benchmark::State& state) {
  constexpr std::size_t count = 4096;
  const Array<float> in = unit_scale_numbers(count);
  std::uint32_t code = 0;
  for (auto _ : state) {
    for (std::size_t i = 0; i < count; ++i) {
      const float operand = std::bit_cast<float>(std::bit_cast<std::uint32_t>(in.data()[i]) ^ code);
      code = T::from_float(operand, Overflow::saturate).bits();
    }
    benchmark::DoNotOptimize(code);
  }
  count_elements(state, count);
}

/// As encode_scalar().
template <class T> void decode_scalar(benchmark::State& state) {
  using Code = typename T::storage_type;
  for (auto _ : state) {
    for (std::uint32_t code = 0; code < 256; ++code) {
      benchmark::DoNotOptimize(static_cast<float>(T::from_bits(static_cast<Code>(code))));
    }
  }
  count_elements(state, 256);
}

constexpr std::int64_t in_first_level_cache = 4 << 10;
constexpr std::int64_t in_second_level_cache = 64 << 10;
constexpr std::int64_t in_memory = 32 << 20;

[[maybe_unused]] const bool added = [] {
  using benchmark::RegisterBenchmark;
  unit_scaling_benchmarks::for_each_format([]<class T>(std::type_identity<T>) {
    const std::string format(unit_scaling::storage_name<T>);
    RegisterBenchmark(("encode_" + format).c_str(), encode<T, Overflow::saturate>)
        ->Arg(in_first_level_cache)
        ->Arg(in_second_level_cache)
        ->Arg(in_memory);
    RegisterBenchmark(("encode_" + format + "_infinity_or_nan").c_str(),
                      encode<T, Overflow::infinity_or_nan>)
        ->Arg(in_second_level_cache);
    RegisterBenchmark(("decode_" + format).c_str(), decode<T>)
        ->Arg(in_first_level_cache)
        ->Arg(in_second_level_cache)
        ->Arg(in_memory);
  });
  using T = unit_scaling::float8_e4m3fn;
  for (const std::int64_t bits : {8, 16, 32}) {
    RegisterBenchmark("encode_stochastic_float8_e4m3fn", encode_stochastic<T>)
        ->Args({in_second_level_cache, bits});
  }
  RegisterBenchmark("encode_with_statistics_float8_e4m3fn", encode_with_statistics<T>)
      ->Arg(in_second_level_cache);
  RegisterBenchmark("encode_scalar_float8_e4m3fn", encode_scalar<T>);
  RegisterBenchmark("encode_scalar_chain_float8_e4m3fn", encode_scalar_chain<T>);
  RegisterBenchmark("decode_scalar_float8_e4m3fn", decode_scalar<T>);
  return true;
}();

}  // namespace
