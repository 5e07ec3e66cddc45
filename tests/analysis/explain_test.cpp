// SPDX-License-Identifier: MIT
#include "unit_scaling/analysis/explain.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <span>
#include <sstream>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "analysis/model_steps.hpp"
#include "autograd/tape_support.hpp"
#include "support/errors.hpp"
#include "support/random_arrays.hpp"
#include "unit_scaling/analysis/constraint_check.hpp"
#include "unit_scaling/analysis/graph_trace.hpp"
#include "unit_scaling/analysis/lint.hpp"
#include "unit_scaling/analysis/op_listing.hpp"
#include "unit_scaling/nn/bert_mlp.hpp"
#include "unit_scaling/nn/linear.hpp"
#include "unit_scaling/nn/sequential.hpp"
#include "unit_scaling/ops/cross_entropy.hpp"
#include "unit_scaling/ops/gelu.hpp"
#include "unit_scaling/ops/linear.hpp"
#include "unit_scaling/ops/linear_readout.hpp"
#include "unit_scaling/ops/mse_loss.hpp"
#include "unit_scaling/ops/residual.hpp"
#include "unit_scaling/ops/rms_norm.hpp"
#include "unit_scaling/ops/scale.hpp"
#include "unit_scaling/optim/parameter_groups.hpp"

namespace explain_test {

using namespace unit_scaling;
using namespace unit_scaling_test;

std::vector<std::string> lines_of(const std::string& text) {
  std::istringstream stream(text);
  std::vector<std::string> lines;
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

/// What stands between two or more spaces.
std::vector<std::string> cells_of(const std::string& line) {
  std::vector<std::string> cells;
  for (std::size_t at = 0; at < line.size();) {
    const std::size_t end = std::min(line.find("  ", at), line.size());
    cells.push_back(line.substr(at, end - at));
    at = std::min(line.find_first_not_of(' ', end), line.size());
  }
  return cells;
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
  tape.backward(loss);
  // Values: y = 4/√4, 2 y, 0.6 · 4 + 0.8 · 2 and 16 times that. Gradients: ones, until the split
  // weighs them with 0.6 + 0.8.
  const std::vector<std::vector<std::string>> expected{
      {"op", "name", "module", "reads", "makes", "α", "β", "constraint", "rms", "gradient rms"},
      {"0", "linear", "layer", "(1, 4), w (16, 4)", "(1, 16)", "0.5", "-, 1*", "none", "2", "1.4"},
      {"1", "residual_split", "layer", "(1, 16)", "(1, 16), (1, 16)", "1", "1* (gradient 0.6, 0.8)",
       "-", "2, 2", "1, 1"},
      {"2", "scale_fwd", "layer", "(1, 16)", "(1, 16)", "2", "1", "-", "4", "1"},
      {"3", "residual_add", "layer", "(1, 16), (1, 16)", "(1, 16)", "1",
       "1, 1 (gradient 1.667, 1.25)", "-", "4", "1"},
      {"4", "weighted_sum", "layer", "(1, 16)", "()", "1", "1*", "-", "64", "1"}};
  const auto lines = lines_of(analysis::explain(trace.ops(), report.tensors()));
  ASSERT_EQ(lines.size(), expected.size() + 2);
  for (std::size_t k = 0; k < expected.size(); ++k) EXPECT_EQ(cells_of(lines[k]), expected[k]) << k;
  // What the signs mean.
  EXPECT_TRUE(lines[expected.size()].starts_with("* ")) << lines[expected.size()];
  EXPECT_TRUE(lines[expected.size() + 1].starts_with("(gradient ...) "));
  // Without measurements the last two columns are left out.
  const auto unmeasured = lines_of(analysis::explain(trace.ops()));
  ASSERT_EQ(unmeasured.size(), lines.size());
  EXPECT_EQ(cells_of(unmeasured[1]),
            std::vector<std::string>(expected[1].begin(), expected[1].end() - 2));
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
    const auto legend = std::count_if(lines.begin(), lines.end(), [](const std::string& line) {
      return line.starts_with("* ") || line.starts_with("(gradient ");
    });
    EXPECT_EQ(lines.size(), trace.ops().size() + 1 + static_cast<std::size_t>(legend)) << step.name;
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

TEST(Explain, RefusesTwoSteps) {
  analysis::GraphTrace trace;
  analysis::ScaleReport report;
  Fp64 tape;
  const auto explain = [&] { (void)analysis::explain(trace.ops(), report.tensors()); };
  const auto record = [&](std::size_t leaves) {
    for (std::size_t i = 0; i < leaves; ++i) (void)tape.input(random_array<double>({2, 3}, 0));
    tape.backward(sum(ops::scale_fwd(tape.input(random_array<double>({2, 3}, 0)))));
  };
  tape.trace_with(trace.tracer());
  tape.observe_with(report.observer());
  record(0);
  explain();
  // A gradient that was measured twice.
  std::vector<analysis::TensorScale> twice = report.tensors();
  twice.push_back(twice.back());
  ASSERT_EQ(twice.back().role, TensorRole::gradient);
  expect_error<std::invalid_argument>([&] { (void)analysis::explain(trace.ops(), twice); },
                                      {"explain", "one step"});
  // Values of a second step of the same shapes.
  tape.trace_with(nullptr);
  tape.clear();
  (void)ops::scale_fwd(tape.input(random_array<double>({2, 3}, 0)));
  expect_error<std::invalid_argument>(explain, {"explain", "one step", "scale_fwd"});
  // Ops of a second step, whose values have numbers of their own.
  tape.trace_with(trace.tracer());
  tape.clear();
  record(7);
  expect_error<std::invalid_argument>(explain, {"one step", "another"});
  expect_error<std::invalid_argument>([&] { (void)analysis::explain(trace.ops()); },
                                      {"one step", "another"});
}

// An op may name a constraint that its factors do not ask for.
TEST(Explain, NamesAConstraintWhereOneActsAndNowhereElse) {
  const Parameter w = {.name = "w", .value = Array<float>::filled(Shape{16, 4}, 1)};
  const Parameter gain = {.name = "gain", .value = Array<float>::filled(Shape{4}, 1)};
  const auto constraints_of = [&](const Scaling& scaling) {
    analysis::GraphTrace trace;
    Fp64 tape;
    tape.trace_with(trace.tracer());
    const auto x = tape.input(random_array<double>({3, 4}, 0));
    (void)ops::linear(x, w, {.scaling = scaling});
    (void)ops::linear_readout(x, w, {.scaling = scaling});
    (void)ops::linear_readout(x, w, {.scaling = scaling.with(constraint::hmean)});
    (void)ops::rms_norm(x, gain, {.scaling = scaling});
    (void)ops::mse_loss(x, x, {.scaling = scaling});
    (void)ops::cross_entropy(x, id_array({3}, 4, 1), {.scaling = scaling});
    (void)ops::gelu(x, {.scaling = scaling});
    (void)ops::gelu(x, {.scaling = scaling.on_cut_edge()});
    std::vector<std::string> names;
    for (const auto& op : analysis::list_ops(trace.ops())) names.push_back(op.constraint);
    return names;
  };
  using Names = std::vector<std::string>;
  EXPECT_EQ(constraints_of(scaling::paper),
            (Names{"gmean", "none", "hmean", "", "", "", "gmean", "none"}));
  EXPECT_EQ(constraints_of(scaling::umup),
            (Names{"to_output_scale", "none", "hmean", "", "", "", "to_output_scale", "none"}));
  EXPECT_EQ(constraints_of(scaling::none), Names(8, ""));
}

TEST(Explain, OfNoOpsSaysThatNobodyTraced) {
  const analysis::GraphTrace trace;
  const auto expect_refused = [](const auto& look) {
    expect_error<std::invalid_argument>(look, {"no ops were traced", "tape.trace_with"});
  };
  expect_refused([&] { (void)analysis::explain(trace.ops()); });
  expect_refused([&] { (void)analysis::lint(trace.ops()); });
  expect_refused([&] { (void)analysis::check_constraints(trace.ops(), 0); });
  expect_refused([&] { (void)analysis::list_ops(trace.ops()); });
}

double rms_of(std::span<const float> elements) {
  double squares = 0;
  for (const float element : elements) squares += static_cast<double>(element) * element;
  return std::sqrt(squares / static_cast<double>(elements.size()));
}

double number_in(const std::string& cell) { return std::stod(cell); }

TEST(Explain, RunsAStepOfAModelAndShowsItsParametersWithTheirMeasuredScale) {
  nn::Initialiser initialiser(1, scaling::umup);
  nn::BertMlp model(initialiser,
                    {.vocabulary_size = 11, .window = 6, .hidden_size = 8, .layers = 2});
  const auto loss = [](const nn::BertMlp& each, auto& tape) {
    return ops::cross_entropy(each(tape, id_array({3, 6}, 11, 1), id_array({5}, 18, 2)),
                              id_array({5}, 11, 3), {.scaling = scaling::umup});
  };
  const auto lines = lines_of(analysis::explain(model, loss));

  // The same step once more, looked at by hand.
  Tape<precision::fp32> tape;
  std::vector<double> value_rms;
  std::vector<std::string> names;
  tape.trace_with([&](const OpRecord& op) { names.push_back(op.name); });
  tape.observe_with([&](const Observation& seen) {
    if (seen.role == TensorRole::value && seen.name != "residual_split") {
      value_rms.push_back(rms_of(seen.elements));
    }
  });
  tape.backward(loss(model, tape));

  std::size_t op = 0;
  std::size_t value = 0;
  std::size_t line = 1;
  for (; line < lines.size() && !lines[line].empty(); ++line) {
    if (lines[line].starts_with("* ") || lines[line].starts_with("(gradient ")) continue;
    const auto cells = cells_of(lines[line]);
    ASSERT_EQ(cells[1], names.at(op++));
    if (cells[1] == "residual_split") continue;
    EXPECT_NEAR(number_in(cells[8]), value_rms.at(value), 1e-3 * value_rms.at(value)) << cells[1];
    ++value;
  }
  EXPECT_EQ(op, names.size());
  EXPECT_EQ(value, value_rms.size());

  ASSERT_LT(++line, lines.size());
  EXPECT_EQ(cells_of(lines[line++]), (std::vector<std::string>{"parameter", "shape", "kind",
                                                               "depth", "rms", "gradient rms"}));
  model.for_each_parameter([&](const Parameter& parameter) {
    ASSERT_LT(line, lines.size());
    const auto cells = cells_of(lines[line++]);
    ASSERT_EQ(cells.size(), 6U);
    EXPECT_EQ(cells[0], parameter.name);
    EXPECT_EQ(cells[1], to_string(parameter.value.shape()));
    const bool is_in_stack = parameter.name.starts_with("blocks.");
    EXPECT_EQ(cells[3], is_in_stack ? "2" : "-") << parameter.name;
    const double rms = rms_of(parameter.value.span());
    EXPECT_NEAR(number_in(cells[4]), rms, 1e-3 * rms) << parameter.name;
    const double gradient_rms = rms_of(tape.gradient(parameter).span());
    EXPECT_NEAR(number_in(cells[5]), gradient_rms, 1e-3 * gradient_rms) << parameter.name;
  });
  EXPECT_EQ(line, lines.size());
  EXPECT_EQ(cells_of(lines[lines.size() - 1])[2], "output");
}

TEST(Explain, ShowsParametersThatTheLossDoesNotDependOn) {
  nn::Initialiser initialiser(1);
  nn::Sequential model(nn::Linear(initialiser, "read", 4, 2),
                       nn::Linear(initialiser, "left", 2, 2));
  const auto text = analysis::explain<precision::fp8>(model, [&](auto& /*model*/, auto& tape) {
    const Parameter* first = optim::parameters_of(model).front();
    using T = typename std::decay_t<decltype(tape)>::Storage;
    const auto x = tape.constant(Array<T>::filled({3, 4}, T(1)));
    return ops::mse_loss(ops::linear(x, *first), tape.constant(Array<T>::filled({3, 2}, T(0))));
  });
  const auto lines = lines_of(text);
  const auto gradient_of = [&](const std::string& name) {
    for (const std::string& line : lines) {
      if (line.starts_with(name + " ")) return cells_of(line).back();
    }
    return std::string("no such line");
  };
  EXPECT_EQ(gradient_of("left.weight"), "-");
  EXPECT_GT(number_in(gradient_of("read.weight")), 0);
}

}  // namespace explain_test
