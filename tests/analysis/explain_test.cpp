// SPDX-License-Identifier: MIT
#include "unit_scaling/analysis/explain.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "analysis/model_steps.hpp"
#include "autograd/tape_support.hpp"
#include "support/errors.hpp"
#include "unit_scaling/analysis/graph_trace.hpp"
#include "unit_scaling/ops/linear.hpp"
#include "unit_scaling/ops/residual.hpp"
#include "unit_scaling/ops/scale.hpp"

namespace {

using namespace unit_scaling;
using namespace unit_scaling_test;

std::vector<std::string> lines_of(const std::string& text) {
  std::istringstream stream(text);
  std::vector<std::string> lines;
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

TEST(Explain, ShowsEachOpWithItsFactorsAndWhatWasMeasured) {
  const Parameter w = {.name = "w", .value = Array<float>::filled(Shape{16, 4}, 1)};
  analysis::GraphTrace trace;
  analysis::ScaleReport report;
  Fp64 tape;
  tape.trace_with(trace.tracer());
  tape.observe_with(report.observer());
  const auto module = tape.enter("layer");
  const auto x = tape.constant(Array<double>::filled(Shape{1, 4}, 1));
  const auto y = ops::linear(x, w, {.scaling = scaling::paper.on_cut_edge()});
  const auto loss = sum(ops::residual_apply(
      y, [](const auto& h) { return ops::scale_fwd(h, {.factor = 2}); }, {.tau = 0.36}));
  // α = 4^-½, so y = 2; y' = 0.6 · 0.6 · 1 + 0.8 with the weights at the split only.
  EXPECT_EQ(analysis::explain(trace.ops()),
            "op  name            module  reads               makes             α    β       "
            "constraint  rms  gradient rms\n");
  tape.backward(loss);
  const auto lines = lines_of(analysis::explain(trace.ops(), report.tensors()));
  ASSERT_EQ(lines.size(), 6U);
  for (const auto& line : lines) std::puts(line.c_str());
}

TEST(Explain, TakesEveryModelAndJoinsEveryMeasurement) {
  for (const ModelStep& step : model_steps()) {
    analysis::GraphTrace trace;
    analysis::ScaleReport report;
    Fp64 tape;
    tape.trace_with(trace.tracer());
    tape.observe_with(report.observer());
    tape.backward(step.record(tape));
    const auto lines = lines_of(analysis::explain(trace.ops(), report.tensors()));
    EXPECT_EQ(lines.size(), trace.ops().size() + 1) << step.name;
  }
}

TEST(Explain, RefusesMeasurementsOfAnotherStep) {
  analysis::GraphTrace trace;
  analysis::ScaleReport report;
  Fp64 tape;
  tape.observe_with(report.observer());
  (void)ops::scale_fwd(tape.input(random_array<double>({2, 3}, 0)));
  tape.clear();
  tape.observe_with(nullptr);
  tape.trace_with(trace.tracer());
  (void)ops::scale_fwd(tape.input(random_array<double>({2, 4}, 0)));
  const auto explain = [&] { (void)analysis::explain(trace.ops(), report.tensors()); };
  expect_error<std::invalid_argument>(explain, {"explain", "scale_fwd"});
}

}  // namespace
