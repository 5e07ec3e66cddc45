// SPDX-License-Identifier: MIT
/// @file
/// Layer: benchmarks. A step of Adam on ten million parameters with its states in several formats.

#include <benchmark/benchmark.h>

#include <cstddef>
#include <cstdint>
#include <string>

#include "unit_normal.hpp"
#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/parallel.hpp"
#include "unit_scaling/optim/adam.hpp"
#include "unit_scaling/optim/low_precision_states.hpp"

namespace {

namespace us = unit_scaling;
using unit_scaling_benchmarks::unit_normal;

const us::Shape shape{2500, 4000};

struct Gradient {
  us::Array<float> of_parameter;
  [[nodiscard]] const us::Array<float>& gradient(const us::Parameter& /*parameter*/) const {
    return of_parameter;
  }
};

/// Adam's states as their options have them. Counts the bytes that Adam keeps for a parameter.
void step(benchmark::State& state, const us::optim::Adam::Options& options) {
  us::set_thread_count(static_cast<std::size_t>(state.range(0)));
  us::Parameter parameter{"p", unit_normal<float>(shape, 1), us::ParameterKind::weight};
  us::optim::Adam adam({&parameter}, options);
  const Gradient gradient{unit_normal<float>(shape, 2)};
  for (auto _ : state) adam.step(gradient, 0x1p-10);
  std::size_t bytes = 0;
  adam.for_each_state([&]<class T>(const std::string& /*name*/, T& each) {
    if constexpr (requires { each.bytes(); }) bytes += each.bytes();
  });
  state.counters["bytes"] = static_cast<double>(bytes) / static_cast<double>(shape.size());
  us::set_thread_count(1);
}

[[nodiscard]] us::optim::Adam::Options fp8_lm_moments() {
  us::optim::Adam::Options options = us::optim::with_fp8_lm_states({});
  options.master_weights = nullptr;
  return options;
}

void in_float(benchmark::State& state) { step(state, {}); }
void in_fp8_lm(benchmark::State& state) { step(state, us::optim::with_fp8_lm_states({})); }
void in_fp8_lm_moments(benchmark::State& state) { step(state, fp8_lm_moments()); }
void in_coat(benchmark::State& state) { step(state, us::optim::with_coat_states({})); }
void in_groups(benchmark::State& state) {
  step(state, us::optim::with_coat_states({}, us::optim::RangeExpansion::none));
}

BENCHMARK(in_float)->Name("adam/float")->ArgName("threads")->Arg(1)->Arg(2)->UseRealTime();
BENCHMARK(in_fp8_lm_moments)
    ->Name("adam/fp8_lm_moments")
    ->ArgName("threads")
    ->Arg(1)
    ->Arg(2)
    ->UseRealTime();
BENCHMARK(in_fp8_lm)->Name("adam/fp8_lm")->ArgName("threads")->Arg(1)->Arg(2)->UseRealTime();
BENCHMARK(in_coat)->Name("adam/coat")->ArgName("threads")->Arg(1)->Arg(2)->UseRealTime();
BENCHMARK(in_groups)
    ->Name("adam/groups_without_expansion")
    ->ArgName("threads")
    ->Arg(1)
    ->Arg(2)
    ->UseRealTime();

}  // namespace
