// SPDX-License-Identifier: MIT
// How well the mean of the gradients of several workers survives an all-reduce in FP8, by the scale
// of the gradients: a table, and the picture of docs/recipes.md.
#include "unit_scaling/optim/all_reduce.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <exception>
#include <string>
#include <vector>

#include "unit_scaling/analysis/line_chart.hpp"
#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/atomic_file.hpp"
#include "unit_scaling/core/random.hpp"

namespace {

namespace us = unit_scaling;
using us::optim::AllReduce;
using us::optim::WorkerScaling;

/// A gradient of each worker: half of its variance is what all have in common.
std::vector<us::Array<float>> gradients_of(std::size_t workers, std::size_t size, double scale) {
  std::vector<us::Array<float>> result;
  const us::Random common(1);
  for (std::size_t worker = 0; worker < workers; ++worker) {
    const us::Random own(2 + worker);
    us::Array<float> gradient({size});
    for (std::size_t i = 0; i < size; ++i) {
      gradient.mutable_data()[i] =
          static_cast<float>(scale * std::sqrt(0.5) * (common.normal(i) + own.normal(i)));
    }
    result.push_back(std::move(gradient));
  }
  return result;
}

/// Signal to noise of a mean, in dB; at least 0, where nothing is left of it.
double quality(const us::Array<float>& mean, const std::vector<us::Array<float>>& gradients) {
  double signal = 0;
  double noise = 0;
  for (std::size_t i = 0; i < mean.size(); ++i) {
    double exact = 0;
    for (const us::Array<float>& each : gradients) exact += static_cast<double>(each.data()[i]);
    exact /= static_cast<double>(gradients.size());
    signal += exact * exact;
    noise += std::pow(static_cast<double>(mean.data()[i]) - exact, 2);
  }
  return std::max(0.0, 10 * std::log10(signal / noise));
}

double fixed(WorkerScaling scaling, const std::vector<us::Array<float>>& gradients) {
  return quality(AllReduce({.scaling = scaling}).reduce(gradients).mean.decode(), gradients);
}

/// The mean over two rounds of growing and halving, once μ has found its place. It starts within
/// 2^6 of it and doubles in 4 steps, where the paper's doubles in 1000.
double automatic(int exponent, const std::vector<us::Array<float>>& gradients) {
  AllReduce all_reduce({.automatic = {.initial = std::exp2(6 - exponent), .doubling_steps = 4}});
  constexpr int settling = 14;
  constexpr int measured = 10;
  double sum = 0;
  for (int step = 0; step < settling + measured; ++step) {
    const auto reduced = all_reduce.reduce(gradients);
    all_reduce.end_step();
    if (step >= settling) sum += quality(reduced.mean.decode(), gradients);
  }
  return sum / measured;
}

}  // namespace

int main() try {
  constexpr std::size_t size = 512;
  us::analysis::LineChart chart;
  chart.title = "The mean of 256 workers' gradients after an all-reduce in float8_e4m3fn";
  chart.subtitle = "Unit-scaled gradients have the scale 1, whatever the loss and the depth.";
  chart.x_label = "root mean square of the gradients";
  chart.x_scale = us::analysis::AxisScale::log2;
  chart.y_label = "signal to noise, dB";
  chart.series = {{.name = "automatic scaling", .points = {}},
                  {.name = "pre-scaling", .points = {}},
                  {.name = "post-scaling", .points = {}},
                  {.name = "unit-scaled, pre-scaling", .points = {}}};
  std::printf("| workers | scale of the gradients | pre | post | automatic | unit-scaled, pre |\n");
  std::printf("|---|---|---|---|---|---|\n");
  for (const std::size_t workers : {8U, 64U, 256U}) {
    const double of_unit = fixed(WorkerScaling::pre, gradients_of(workers, size, 1));
    for (int exponent = -20; exponent <= 10; exponent += 2) {
      const double scale = std::exp2(exponent);
      const auto gradients = gradients_of(workers, size, scale);
      const double pre = fixed(WorkerScaling::pre, gradients);
      const double post = fixed(WorkerScaling::post, gradients);
      const double found = automatic(exponent, gradients);
      std::printf("| %zu | 2^%d | %.1f | %.1f | %.1f | %.1f |\n", workers, exponent, pre, post,
                  found, of_unit);
      if (workers != 256) continue;
      for (std::size_t i = 0; const double each : {found, pre, post, of_unit}) {
        chart.series[i++].points.emplace_back(scale, each);
      }
    }
  }
  us::write_file("fp8_all_reduce.svg", us::analysis::to_svg(chart));
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "all_reduce: %s\n", error.what());
  return 1;
}
