// SPDX-License-Identifier: MIT
/// @file
/// Layer: benchmarks. What the tape itself costs: a step of a thousand ops on arrays so small that
/// the ops take next to nothing, beside the same ops called without a tape.

#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory_resource>
#include <tuple>
#include <utility>

#include "unit_scaling/autograd/tape.hpp"
#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/memory.hpp"
#include "unit_scaling/formats/precision.hpp"
#include "unit_scaling/ops/gelu.hpp"
#include "unit_scaling/ops/residual.hpp"
#include "unit_scaling/ops/sum.hpp"

namespace {

namespace us = unit_scaling;

constexpr std::size_t chain_length = 1000;
constexpr std::size_t elements = 16;

/// y = gelu(x), over and over.
struct GeluChain {
  us::ops::Gelu op;

  template <class X> [[nodiscard]] auto record(const X& x, const X& /*first*/) const {
    return us::ops::gelu(x, op);
  }
  template <us::Precision P, class T>
  [[nodiscard]] us::Array<T> run(P precision, const us::Array<T>& x, const us::Array<T>& /*first*/,
                                 us::Array<T>& dy) const {
    const auto scales = op.scales(x);
    auto [y, saved] = op.forward(precision, scales, x);
    dy = std::get<0>(op.backward(precision, scales, saved, dy));
    return std::move(y);
  }
};

/// y = x + first, weighted: an op of two inputs, one of which gets the sum of all its gradients.
struct ResidualAddChain {
  us::ops::ResidualAdd op;

  template <class X> [[nodiscard]] auto record(const X& x, const X& first) const {
    return us::ops::residual_add(x, first, op);
  }
  template <us::Precision P, class T>
  [[nodiscard]] us::Array<T> run(P precision, const us::Array<T>& x, const us::Array<T>& first,
                                 us::Array<T>& dy) const {
    const auto scales = op.scales(x, first);
    auto [y, saved] = op.forward(precision, scales, x, first);
    auto [dx, dfirst] = op.backward(precision, scales, saved, dy);
    // The sum that any trainer has to form.
    us::kernels::map_into<typename P::compute>(
        dfirst.mutable_data(), dfirst.size(), [](auto a, auto b) { return a + b; }, dfirst.data(),
        dx.data());
    benchmark::DoNotOptimize(dfirst.data());
    dy = std::move(dx);
    return std::move(y);
  }
};

double nanoseconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double, std::nano>(std::chrono::steady_clock::now() - start).count();
}

/// Forward and backward through the chain on a tape. Counters, in nanoseconds per op, the least of
/// all iterations: `tape`, `arrays` for the same without a tape, and `overhead`, the difference.
template <class P, class Chain> void tape_chain(benchmark::State& state) {
  using T = typename P::storage;
  const Chain chain;
  us::Array<T> x({elements});
  for (std::size_t i = 0; i < elements; ++i) {
    x.mutable_data()[i] = static_cast<T>(static_cast<float>(i) / 8 - 1);
  }
  us::Tape<P> tape;
  us::RecyclingResource resource;
  double with_tape = std::numeric_limits<double>::infinity();
  double with_arrays = std::numeric_limits<double>::infinity();
  for (auto _ : state) {
    const auto tape_start = std::chrono::steady_clock::now();
    {
      tape.clear();
      const auto first = tape.input(x);
      auto y = first;
      for (std::size_t i = 0; i < chain_length; ++i) y = chain.record(y, first);
      const auto loss = us::ops::sum(y);
      tape.backward(loss);
      benchmark::DoNotOptimize(tape.gradient(first).data());
    }
    const double seconds = nanoseconds_since(tape_start) * 1e-9;
    with_tape = std::min(with_tape, seconds * 1e9);

    const us::Array<T> first(x.shape(), x.span(), &resource);
    us::Array<T> dy(x.shape(), x.span(), &resource);
    const auto arrays_start = std::chrono::steady_clock::now();
    us::Array<T> y = first;
    for (std::size_t i = 0; i < chain_length; ++i) y = chain.run(P{}, y, first, dy);
    benchmark::DoNotOptimize(y.data());
    benchmark::DoNotOptimize(dy.data());
    with_arrays = std::min(with_arrays, nanoseconds_since(arrays_start));
    state.SetIterationTime(seconds);
  }
  const auto per_op = [](double total) { return total / static_cast<double>(chain_length); };
  state.counters["tape"] = per_op(with_tape);
  state.counters["arrays"] = per_op(with_arrays);
  state.counters["overhead"] = per_op(with_tape - with_arrays);
}

void register_all() {
  const auto add = [](const char* name, void (*function)(benchmark::State&)) {
    benchmark::RegisterBenchmark(name, function)->UseManualTime()->Unit(benchmark::kMicrosecond);
  };
  add("tape/gelu_chain/fp32", &tape_chain<us::precision::fp32, GeluChain>);
  add("tape/gelu_chain/fp8", &tape_chain<us::precision::fp8, GeluChain>);
  add("tape/residual_add_chain/fp32", &tape_chain<us::precision::fp32, ResidualAddChain>);
  add("tape/residual_add_chain/fp8", &tape_chain<us::precision::fp8, ResidualAddChain>);
}

[[maybe_unused]] const bool registered = (register_all(), true);

}  // namespace
