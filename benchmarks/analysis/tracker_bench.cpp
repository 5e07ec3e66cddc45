// SPDX-License-Identifier: MIT
/// @file
/// Layer: benchmarks. What tracking costs: training steps of a BertMlp in FP8 (hidden size 128,
/// four blocks, 16 windows of 64 tokens, Adam) with a tracker that looks at every tenth step and
/// without one, in turn. The counter `cost` is the median of the one over the median of the other,
/// less 1. And the pass over one tensor, in elements a second.

#include <benchmark/benchmark.h>

#include <cstddef>
#include <vector>

#include "bert_mlp_steps.hpp"
#include "unit_normal.hpp"
#include "unit_scaling/analysis/quantile.hpp"
#include "unit_scaling/analysis/tensor_statistics.hpp"
#include "unit_scaling/analysis/tracker.hpp"
#include "unit_scaling/formats/format.hpp"
#include "unit_scaling/optim/parameter_groups.hpp"

namespace {

namespace analysis = unit_scaling::analysis;
namespace optim = unit_scaling::optim;
using unit_scaling::analysis::median;
using unit_scaling_benchmarks::BertMlpSteps;

constexpr int steps = 10;

void bert_mlp_steps(benchmark::State& state) {
  BertMlpSteps<unit_scaling::precision::fp8> training;
  const auto parameters = optim::parameters_of(training.model);
  auto& tape = training.tape;
  analysis::Tracker tracker({.every = steps});
  enum class Watched { not_at_all, by_nobody, by_tracker };
  const auto seconds = [&](Watched watched) {
    const bool is_tracked = watched == Watched::by_tracker;
    tape.observe_with(nullptr);
    if (watched == Watched::by_nobody) {
      tape.observe_with([](const unit_scaling::Observation&) {}, steps);
    }
    if (is_tracked) tracker.attach(tape);
    return training.seconds(steps, [&] {
      if (is_tracked) tracker.record_updates(parameters);
    });
  };
  static_cast<void>(seconds(Watched::by_tracker));
  std::vector<double> without;
  std::vector<double> shown;
  std::vector<double> with;
  for (auto _ : state) {
    without.push_back(seconds(Watched::not_at_all));
    shown.push_back(seconds(Watched::by_nobody));
    with.push_back(seconds(Watched::by_tracker));
    state.SetIterationTime(with.back());
  }
  state.counters["step_ms"] = 1e3 * median(without) / steps;
  state.counters["cost_of_showing"] = median(shown) / median(without) - 1;
  state.counters["cost"] = median(with) / median(without) - 1;
}
BENCHMARK(bert_mlp_steps)->UseManualTime()->Unit(benchmark::kMillisecond)->Iterations(15);

void one_tensor(benchmark::State& state) {
  const auto elements =
      unit_scaling_benchmarks::unit_normal<float>({static_cast<std::size_t>(state.range(0))}, 1);
  const analysis::RoundingThresholds thresholds(unit_scaling::Format::parse("float8_e4m3fn"));
  for (auto _ : state) {
    benchmark::DoNotOptimize(analysis::tensor_statistics(elements.span(), thresholds));
  }
  state.SetItemsProcessed(state.iterations() * state.range(0));
}
BENCHMARK(one_tensor)->Arg(128)->Arg(1 << 14)->Arg(1 << 19);

}  // namespace
