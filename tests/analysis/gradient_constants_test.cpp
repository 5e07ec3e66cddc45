// SPDX-License-Identifier: MIT
#include "unit_scaling/analysis/gradient_constants.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "analysis/model_steps.hpp"
#include "autograd/tape_support.hpp"
#include "support/errors.hpp"
#include "unit_scaling/analysis/constraint_check.hpp"
#include "unit_scaling/analysis/gradient_flow.hpp"
#include "unit_scaling/ops/add.hpp"
#include "unit_scaling/ops/conv1d.hpp"
#include "unit_scaling/ops/cross_entropy.hpp"
#include "unit_scaling/ops/dropout.hpp"
#include "unit_scaling/ops/gelu.hpp"
#include "unit_scaling/ops/gelu_linear.hpp"
#include "unit_scaling/ops/linear.hpp"
#include "unit_scaling/ops/matmul.hpp"
#include "unit_scaling/ops/mean.hpp"
#include "unit_scaling/ops/mse_loss.hpp"
#include "unit_scaling/ops/recurrent_highway.hpp"
#include "unit_scaling/ops/relu.hpp"
#include "unit_scaling/ops/reshape.hpp"
#include "unit_scaling/ops/residual.hpp"
#include "unit_scaling/ops/scale.hpp"
#include "unit_scaling/ops/scaled.hpp"
#include "unit_scaling/ops/scaled_dot_product_attention.hpp"
#include "unit_scaling/ops/sigmoid.hpp"
#include "unit_scaling/ops/silu.hpp"
#include "unit_scaling/ops/silu_glu.hpp"
#include "unit_scaling/ops/softmax.hpp"
#include "unit_scaling/ops/sum.hpp"
#include "unit_scaling/ops/tanh.hpp"
#include "unit_scaling/ops/token_mixing.hpp"

namespace gradient_constants_test {

using namespace unit_scaling;
using namespace unit_scaling_test;
using analysis::gradient_constants;
using analysis::GradientConstant;

std::vector<OpRecord> ops_of(const auto& record, std::size_t& loss) {
  analysis::GraphTrace trace;
  Fp64 tape;
  tape.trace_with(trace.tracer());
  loss = record(tape).number();
  return trace.ops();
}

/// Expects each parameter's gradient to be the constant that the graph says.
void expect_as_the_graph_says(const auto& record, const std::vector<Parameter*>& parameters,
                              const std::string& what) {
  std::size_t loss = 0;
  const auto ops = ops_of(record, loss);
  const auto expected = analysis::parameter_gradient_ratios(ops, loss);
  for (const GradientConstant& found : gradient_constants(record, parameters, {.directions = 3})) {
    const std::string where = what + ", " + found.parameter->name;
    EXPECT_TRUE(found.is_proportional(5e-6))
        << where << ": " << found.constant << " off by " << found.deviation;
    if (std::isnan(found.constant)) continue;
    ASSERT_TRUE(expected.contains(found.parameter)) << where;
    const double ratio = expected.at(found.parameter);
    EXPECT_NEAR(found.constant / ratio, 1, 5e-6) << where;
  }
}

TEST(GradientConstants, OfTheLibrarysModelsArePositiveAndWhatTheGraphSays) {
  for (const ModelStep& step : model_steps()) {
    std::vector<Parameter*> parameters;
    for (Parameter* parameter : step.parameters) {
      if (!(step.is_tied && parameter->name == "embedding.table")) parameters.push_back(parameter);
    }
    ASSERT_GT(parameters.size(), 5U);
    expect_as_the_graph_says(step.record, parameters, step.name);
  }
}

TEST(GradientConstants, OfATiedTableIsNoneUnlessNoRuleIsFollowed) {
  for (const ModelStep& step : model_steps()) {
    if (!step.is_tied) continue;
    const auto found = gradient_constants(step.record, std::vector{step.parameters.front()});
    ASSERT_EQ(found.at(0).parameter->name, "embedding.table");
    EXPECT_EQ(found[0].is_proportional(), step.rule == Rule::none)
        << step.name << " off by " << found[0].deviation;
  }
}

/// Two weights, whose order of use is up to the model.
struct Weights {
  Parameter first = random_parameter("first", {4, 4}, 1);
  Parameter up = random_parameter("up", {16, 4}, 2);
  Parameter down = random_parameter("down", {4, 16}, 3);

  std::vector<Parameter*> all() { return {&first, &up, &down}; }
};

/// The loss of linear layers round what `middle` makes of their value.
template <class Middle> auto step_with(const Weights& weights, const Middle& middle) {
  return [&weights, middle](Fp64& tape) {
    const auto x = tape.constant(random_array<double>({5, 4}, 4));
    const auto y = middle(ops::linear(x, weights.first));
    return ops::cross_entropy(y, id_array({5}, 4, 5));
  };
}

TEST(GradientConstants, ShowAPlantedFaultWhereTheGraphDoes) {
  Weights weights;
  const auto branch = [&](const ops::Linear& op) {
    return [&, op](const auto& h) {
      return ops::linear(ops::gelu(ops::linear(h, weights.up, op)), weights.down);
    };
  };
  const ops::Linear unconstrained{.scaling = scaling::paper.on_cut_edge()};
  const auto check = [&](const auto& middle, bool is_right) {
    const auto record = step_with(weights, middle);
    std::size_t loss = 0;
    const auto ops = ops_of(record, loss);
    EXPECT_EQ(analysis::check_constraints(ops, loss).empty(), is_right);
    const auto found = gradient_constants(record, weights.all());
    EXPECT_EQ(found[0].is_proportional(), is_right) << found[0].deviation;
    // Behind the fault everything is as it should be.
    EXPECT_TRUE(found[1].is_proportional()) << found[1].deviation;
    EXPECT_TRUE(found[2].is_proportional()) << found[2].deviation;
  };
  check([&](const auto& x) { return ops::residual_apply(x, branch({})); }, true);
  check([&](const auto& x) { return ops::residual_apply(x, branch(unconstrained)); }, false);
  check([&](const auto& x) { return ops::residual_add(branch({})(x), x, {.tau = 0.2}); }, false);
  // The factors of both ends are equal here, so that there is no fault in the gradients.
  check([&](const auto& x) { return ops::residual_add(branch({})(x), x, {.tau = 0.5}); }, true);
  check([&](const auto& x) { return ops::add(branch({})(x), x); }, true);
  check([&](const auto& x) { return ops::add(branch(unconstrained)(x), x); }, false);
}

TEST(GradientConstants, BeforeASkipConnectionOfNoWeightAreThoseOfTheBranch) {
  Weights weights;
  const auto record = step_with(weights, [&](const auto& x) {
    return ops::residual_apply(
        x, [&](const auto& h) { return ops::linear(ops::linear(h, weights.up), weights.down); },
        {.tau = 1});
  });
  expect_as_the_graph_says(record, weights.all(), "tau of 1");
}

TEST(GradientConstants, AreNotPositiveWhereAGradientIsReversedOrStopped) {
  Weights weights;
  for (const double factor : {-1.0, 0.0}) {
    const auto record =
        step_with(weights, [&](const auto& x) { return ops::scale_bwd(x, {.factor = factor}); });
    const auto found = gradient_constants(record, std::vector{&weights.first});
    EXPECT_FALSE(found[0].is_proportional());
    EXPECT_EQ(found[0].constant == 0, factor == 0);
    EXPECT_LE(found[0].constant, 0);
  }
}

TEST(GradientConstants, AreInfiniteOrNoneWhereTheLossDoesNotDependOnTheParameter) {
  Weights weights;
  const auto record = step_with(weights, [&](const auto& x) {
    return ops::residual_apply(
        x, [&](const auto& h) { return ops::linear(ops::linear(h, weights.up), weights.down); },
        {.tau = 0});
  });
  const auto found = gradient_constants(record, weights.all());
  EXPECT_TRUE(found[0].is_proportional());
  EXPECT_TRUE(std::isinf(found[1].constant));
  EXPECT_TRUE(std::isinf(found[2].constant));
  Parameter unused = random_parameter("unused", {3}, 9);
  const auto of_unused = gradient_constants(record, std::vector{&unused});
  EXPECT_TRUE(std::isnan(of_unused[0].constant));
  EXPECT_TRUE(of_unused[0].is_proportional());
}

TEST(GradientConstants, PutParametersBack) {
  Weights weights;
  const auto before = weights.first.value;
  const auto record = step_with(weights, [](const auto& x) { return ops::gelu(x); });
  (void)gradient_constants(record, weights.all());
  EXPECT_TRUE(same_bits(before, weights.first.value));
  int calls = 0;
  const auto fails = [&](Fp64& tape) {
    if (++calls == 3) throw std::runtime_error("enough");
    return record(tape);
  };
  EXPECT_THROW((void)gradient_constants(fails, weights.all()), std::runtime_error);
  EXPECT_TRUE(same_bits(before, weights.first.value));
}

TEST(GradientConstants, RefuseWhatProvesNothing) {
  Weights weights;
  const auto record = step_with(weights, [](const auto& x) { return ops::gelu(x); });
  const auto refuses = [&](const analysis::GradientConstantsOptions& options,
                           const std::string& part) {
    expect_domain_error([&] { (void)gradient_constants(record, weights.all(), options); }, {part});
  };
  constexpr double nan = std::numeric_limits<double>::quiet_NaN();
  refuses({.directions = 0}, "direction");
  for (const double step : {0.0, -1.0, nan, std::numeric_limits<double>::infinity()}) {
    refuses({.step = step}, "step");
  }
  // No float of these weights moves by so little, and a loss that stays the same proves nothing.
  refuses({.step = 1e-12}, "changes first");
  weights.first.value.mutable_data()[0] = std::numeric_limits<float>::quiet_NaN();
  refuses({}, "finite loss");
  expect_error<std::invalid_argument>(
      [&] { (void)gradient_constants(record, std::vector<Parameter*>{nullptr}); }, {"null"});
}

TEST(GradientConstants, AreNotProportionalWhereAGradientIsNotFinite) {
  Weights weights;
  const auto record = step_with(weights, [](const auto& x) {
    auto y = x;
    for (int i = 0; i < 10; ++i) y = ops::scale_bwd(y, {.factor = 1e38});
    return y;
  });
  const auto found = gradient_constants(record, std::vector{&weights.first});
  EXPECT_FALSE(found[0].is_proportional());
  EXPECT_TRUE(std::isinf(found[0].deviation));
}

/// Parameters as values of the tape's format, so that they may be any argument of an op.
struct Arguments {
  std::vector<Parameter> parameters;

  explicit Arguments(const std::vector<Shape>& shapes) {
    std::uint32_t tensor = 20;
    for (const Shape& shape : shapes) {
      parameters.push_back(
          random_parameter("argument " + std::to_string(tensor - 20), shape, tensor));
      ++tensor;
    }
  }
  auto operator()(Fp64& tape, std::size_t i) const {
    return ops::reshape(tape.parameter(parameters[i]), {.shape = parameters[i].value.shape()});
  }
};

/// Expects the gradient factors that an op tells of to be those of its backward pass.
template <class Apply>
void expect_factors(const std::string& what, const std::vector<Shape>& shapes, const Apply& apply) {
  Arguments arguments(shapes);
  std::vector<Parameter*> parameters;
  for (Parameter& parameter : arguments.parameters) parameters.push_back(&parameter);
  const auto record = [&](Fp64& tape) {
    const auto argument = [&](std::size_t i) { return arguments(tape, i); };
    const auto y = apply(argument);
    return tape.record(WeightedSum{random_array<float>(y.shape(), 30)}, y);
  };
  expect_as_the_graph_says(record, parameters, what);
}

TEST(GradientFactors, AreThoseOfEachOpsBackwardPass) {
  for (const Scaling& rules : {scaling::none, scaling::paper, scaling::umup}) {
    for (const Scaling& scaling : {rules, rules.on_cut_edge()}) {
      const std::string under = " under " + std::string(to_string(scaling.rule));
      const Shape x{3, 4};
      expect_factors("add" + under, {x, {4}},
                     [&](const auto& a) { return ops::add(a(0), a(1), {.scaling = scaling}); });
      expect_factors("conv1d" + under, {{2, 4, 6}, {6, 2, 3}, {6}}, [&](const auto& a) {
        return ops::conv1d(a(0), a(1), a(2), {.scaling = scaling, .stride = 2, .groups = 2});
      });
      for (const auto reduction : {ops::Reduction::mean, ops::Reduction::sum}) {
        expect_factors("cross_entropy" + under, {x}, [&](const auto& a) {
          return ops::cross_entropy(a(0), id_array({3}, 4, 1),
                                    {.scaling = scaling,
                                     .reduction = reduction,
                                     .mult = 2,
                                     .ignore_index = 2,
                                     .label_smoothing = 0.1});
        });
        expect_factors("mse_loss" + under, {x, x}, [&](const auto& a) {
          return ops::mse_loss(a(0), a(1), {.scaling = scaling, .reduction = reduction});
        });
      }
      expect_factors("dropout" + under, {x}, [&](const auto& a) {
        return ops::dropout(a(0), {.scaling = scaling, .probability = 0.3});
      });
      expect_factors("gelu" + under, {x}, [&](const auto& a) {
        return ops::gelu(a(0), {.scaling = scaling, .mult = 2});
      });
      expect_factors("gelu_linear" + under, {x, {6, 4}, {6}}, [&](const auto& a) {
        return ops::gelu_linear(
            a(0), a(1), a(2),
            {.gelu = {.scaling = scaling, .mult = 2}, .linear = {.scaling = scaling}});
      });
      expect_factors("linear" + under, {x, {6, 4}, {6}}, [&](const auto& a) {
        return ops::linear(a(0), a(1), a(2), {.scaling = scaling});
      });
      expect_factors("matmul" + under, {x, {4, 6}},
                     [&](const auto& a) { return ops::matmul(a(0), a(1), {.scaling = scaling}); });
      expect_factors("mean" + under, {x},
                     [&](const auto& a) { return ops::mean(a(0), {.scaling = scaling}); });
      expect_factors("sum" + under, {x},
                     [&](const auto& a) { return ops::sum(a(0), {.scaling = scaling}); });
      expect_factors("recurrent_highway" + under, {{2, 3, 4}, {10, 9}, {10}, {5}},
                     [&](const auto& a) {
                       return ops::recurrent_highway(a(0), a(1), a(2), a(3), {.scaling = scaling});
                     });
      expect_factors("relu" + under, {x},
                     [&](const auto& a) { return ops::relu(a(0), {.scaling = scaling}); });
      expect_factors("sigmoid" + under, {x},
                     [&](const auto& a) { return ops::sigmoid(a(0), {.scaling = scaling}); });
      expect_factors("tanh" + under, {x},
                     [&](const auto& a) { return ops::tanh(a(0), {.scaling = scaling}); });
      expect_factors("silu" + under, {x}, [&](const auto& a) {
        return ops::silu(a(0), {.scaling = scaling, .mult = 2});
      });
      expect_factors("silu_glu" + under, {x, x}, [&](const auto& a) {
        return ops::silu_glu(a(0), a(1), {.scaling = scaling, .mult = 2});
      });
      expect_factors("softmax" + under, {x}, [&](const auto& a) {
        return ops::softmax(a(0), {.scaling = scaling, .mult = 2});
      });
      expect_factors("token_mixing" + under, {{2, 3, 4}, {5, 3}}, [&](const auto& a) {
        return ops::token_mixing(a(0), a(1), {.scaling = scaling});
      });
      for (const bool is_causal : {false, true}) {
        const Shape head{1, 2, 3, 4};
        const std::size_t distances = is_causal ? 3 : 5;
        expect_factors(
            "attention" + under, {head, head, head, {2, distances, 4}}, [&](const auto& a) {
              return ops::scaled_dot_product_attention(
                  a(0), a(1), a(2), a(3), {.scaling = scaling, .mult = 2, .is_causal = is_causal});
            });
      }
      expect_factors("residual_add" + under, {x, x}, [&](const auto& a) {
        return ops::residual_add(a(0), a(1), {.scaling = scaling, .tau = 0.3});
      });
      expect_factors("residual_split" + under, {x}, [&](const auto& a) {
        return std::get<1>(ops::residual_split(a(0), {.scaling = scaling, .tau = 0.3}));
      });
    }
  }
  const auto scaled = ops::scaled(ops::Gelu{}, 3, {2});
  expect_factors("scaled", {{3, 4}}, [&](const auto& a) { return scaled(a(0)); });
  expect_factors("scale_fwd", {{3, 4}},
                 [](const auto& a) { return ops::scale_fwd(a(0), {.factor = 3}); });
}

}  // namespace gradient_constants_test
