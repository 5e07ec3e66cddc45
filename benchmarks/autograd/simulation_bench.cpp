// SPDX-License-Identifier: MIT
/// @file
/// Layer: benchmarks. What simulated formats cost: training steps of a BertMlp in float (hidden
/// size 128, four blocks, 16 windows of 64 tokens, Adam), as they are and with the numbers of FP8
/// simulated, in turn. The counters are medians over that of steps as they are, less 1.

#include <benchmark/benchmark.h>

#include <chrono>
#include <cstddef>
#include <string>
#include <vector>

#include "median.hpp"
#include "random_ids.hpp"
#include "unit_scaling/autograd/simulation.hpp"
#include "unit_scaling/autograd/tape.hpp"
#include "unit_scaling/nn/bert_mlp.hpp"
#include "unit_scaling/ops/cross_entropy.hpp"
#include "unit_scaling/optim/adam.hpp"

namespace {

namespace nn = unit_scaling::nn;
namespace optim = unit_scaling::optim;
namespace precision = unit_scaling::precision;
namespace scaling = unit_scaling::scaling;
using unit_scaling::Simulation;
using unit_scaling_benchmarks::median;
using unit_scaling_benchmarks::random_ids;

constexpr std::size_t vocabulary = 128;
constexpr std::size_t batch = 16;
constexpr std::size_t window = 64;
constexpr std::size_t selected = batch * window * 15 / 100;
constexpr int steps = 10;

void simulated_bert_mlp_steps(benchmark::State& state) {
  nn::Initialiser initialiser(1, scaling::paper);
  nn::BertMlp model(initialiser, {.vocabulary_size = vocabulary, .window = window});
  optim::Adam optimiser(optim::parameters_of(model), {.rule = unit_scaling::Rule::paper});
  const auto ids = random_ids({batch, window}, vocabulary);
  const auto positions = random_ids({selected}, batch * window);
  const auto labels = random_ids({selected}, vocabulary);
  unit_scaling::Tape<precision::fp32> tape;
  const auto seconds = [&](const std::string& rules) {
    tape.clear();
    tape.simulate_with(nullptr);
    if (!rules.empty()) tape.simulate_with(Simulation::parse(rules));
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < steps; ++i) {
      tape.clear();
      tape.backward(unit_scaling::ops::cross_entropy(model(tape, ids, positions), labels,
                                                     {.scaling = scaling::paper}));
      optimiser.step(tape, 0x1p-10);
    }
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
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
