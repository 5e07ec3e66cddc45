// SPDX-License-Identifier: MIT
/// @file
/// Layer: benchmarks. What simulated formats cost: training steps of a BertMlp in float (hidden
/// size 128, four blocks, 16 windows of 64 tokens, Adam), as they are and with the numbers of FP8
/// simulated, in turn. The counters are medians over that of steps as they are, less 1.

#include <benchmark/benchmark.h>

#include <cstddef>
#include <string>
#include <vector>

#include "bert_mlp_steps.hpp"
#include "median.hpp"
#include "unit_scaling/autograd/simulation.hpp"

namespace {

using unit_scaling::Simulation;
using unit_scaling_benchmarks::BertMlpSteps;
using unit_scaling_benchmarks::median;

constexpr int steps = 10;

void simulated_bert_mlp_steps(benchmark::State& state) {
  BertMlpSteps<unit_scaling::precision::fp32> training;
  const auto seconds = [&](const std::string& rules) {
    training.tape.clear();
    training.tape.use_recipe(nullptr);
    if (!rules.empty()) training.tape.use_recipe(Simulation::parse(rules));
    return training.seconds(steps, [] {});
  };
  struct Case {
    const char* name;
    const char* rules;
    std::vector<double> times = {};
  };
  std::vector<Case> cases{{"plain", ""},
                          {"products", "e4m3fn/e5m2"},
                          {"products_stochastic", "e4m3fn~/e5m2~"},
                          {"all", "e4m3fn/e5m2,*=float16/float16"}};
  for (Case& each : cases) static_cast<void>(seconds(each.rules));
  for (auto _ : state) {
    for (Case& each : cases) each.times.push_back(seconds(each.rules));
    state.SetIterationTime(cases.front().times.back());
  }
  const double plain = median(cases.front().times);
  state.counters["step_ms"] = 1e3 * plain / steps;
  for (std::size_t i = 1; i < cases.size(); ++i) {
    state.counters[cases[i].name] = median(cases[i].times) / plain - 1;
  }
}
BENCHMARK(simulated_bert_mlp_steps)->UseManualTime()->Unit(benchmark::kMillisecond)->Iterations(15);

}  // namespace
