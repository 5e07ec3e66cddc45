// SPDX-License-Identifier: MIT
/// @file
/// Layer: benchmarks. What simulated formats cost: training steps of a BertMlp in float (hidden
/// size 128, four blocks, 16 windows of 64 tokens, Adam), as they are and with the numbers of FP8
/// simulated, in turn; and those of FP8 in a format that is chosen at run time. The counters are
/// medians over that of steps as they are, less 1.

#include <benchmark/benchmark.h>

#include <cstddef>
#include <string>
#include <vector>

#include "bert_mlp_steps.hpp"
#include "unit_scaling/analysis/quantile.hpp"
#include "unit_scaling/recipes/simulation.hpp"

namespace {

using unit_scaling::Simulation;
using unit_scaling::analysis::median;
using unit_scaling_benchmarks::BertMlpSteps;

constexpr int steps = 10;

struct Case {
  const char* name;
  const char* rules;
  bool is_traced = false;  ///< each op is recorded on its own, as under a recipe
  std::vector<double> times = {};
};

/// Steps under P, of the first case and of others in turn.
template <class P> void compare(benchmark::State& state, std::vector<Case> cases) {
  BertMlpSteps<P> training;
  const auto seconds = [&](const Case& each) {
    training.tape.clear();
    training.tape.use_recipe(nullptr);
    training.tape.trace_with(nullptr);
    const std::string rules = each.rules;
    if (!rules.empty()) training.tape.use_recipe(Simulation::parse(rules));
    if (each.is_traced) training.tape.trace_with([](const auto& /*record*/) {});
    return training.seconds(steps, [] {});
  };
  for (const Case& each : cases) static_cast<void>(seconds(each));
  for (auto _ : state) {
    for (Case& each : cases) each.times.push_back(seconds(each));
    state.SetIterationTime(cases.front().times.back());
  }
  const double plain = median(cases.front().times);
  state.counters["step_ms"] = 1e3 * plain / steps;
  for (std::size_t i = 1; i < cases.size(); ++i) {
    state.counters[cases[i].name] = median(cases[i].times) / plain - 1;
  }
}

void simulated_bert_mlp_steps(benchmark::State& state) {
  compare<unit_scaling::precision::fp32>(state, {{"plain", ""},
                                                 {"products", "e4m3fn/e5m2"},
                                                 {"products_stochastic", "e4m3fn~/e5m2~"},
                                                 {"all", "e4m3fn/e5m2,*=float16/float16"}});
}
BENCHMARK(simulated_bert_mlp_steps)->UseManualTime()->Unit(benchmark::kMillisecond)->Iterations(15);

/// FP8 in a format that is chosen when the program runs, beside the built-in one.
void run_time_format_bert_mlp_steps(benchmark::State& state) {
  compare<unit_scaling::precision::fp8>(
      state,
      {{"built_in", ""}, {"built_in_op_by_op", "", /*is_traced=*/true}, {"e3m4", "e3m4/e5m2"}});
}
BENCHMARK(run_time_format_bert_mlp_steps)
    ->UseManualTime()
    ->Unit(benchmark::kMillisecond)
    ->Iterations(15);

}  // namespace
