// SPDX-License-Identifier: MIT
#include "unit_scaling/analysis/constraint_check.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <functional>
#include <initializer_list>
#include <map>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "analysis/model_steps.hpp"
#include "autograd/tape_support.hpp"
#include "support/errors.hpp"
#include "support/random_arrays.hpp"
#include "unit_scaling/analysis/cut_edges.hpp"
#include "unit_scaling/ops/add.hpp"
#include "unit_scaling/ops/cross_entropy.hpp"
#include "unit_scaling/ops/gelu.hpp"
#include "unit_scaling/ops/heads.hpp"
#include "unit_scaling/ops/linear.hpp"
#include "unit_scaling/ops/mul.hpp"
#include "unit_scaling/ops/residual.hpp"
#include "unit_scaling/ops/scale.hpp"

namespace constraint_check_test {

using namespace unit_scaling;
using namespace unit_scaling_test;
using analysis::check_constraints;
using analysis::ConstraintFinding;
using analysis::GraphTrace;
using Kind = ConstraintFinding::Kind;

const Parameter w1 = random_parameter("w1", {16, 4}, 1);
const Parameter w2 = random_parameter("w2", {4, 16}, 2);
const Parameter w3 = random_parameter("w3", {16, 4}, 3);
constexpr ops::Linear unconstrained{.scaling = scaling::paper.on_cut_edge()};

/// The findings for the sum of `model(x)`, x an input of (3, 4).
template <class Model> std::vector<ConstraintFinding> findings_of(const Model& model) {
  GraphTrace trace;
  Fp64 tape;
  tape.trace_with(trace.tracer());
  const auto x = tape.input(random_array<double>({3, 4}, 0));
  return check_constraints(trace.ops(), sum(model(x)));
}

std::vector<std::string> names(const std::vector<analysis::PathStep>& steps) {
  std::vector<std::string> result;
  for (const auto& step : steps) result.push_back(step.text);
  return result;
}

TEST(ConstraintCheck, FindsNothingInTheLibrarysModelsButTheirTiedTables) {
  for (const ModelStep& step : model_steps()) {
    GraphTrace trace;
    Fp64 tape;
    tape.trace_with(trace.tracer());
    const auto loss = step.record(tape);
    ASSERT_GT(trace.ops().size(), 3U);
    const auto findings = check_constraints(trace.ops(), loss);
    if (step.is_tied && step.rule != Rule::none) {
      ASSERT_EQ(findings.size(), 1U) << step.name << to_string(findings);
      EXPECT_EQ(findings[0].kind, Kind::shared_parameter) << step.name;
      EXPECT_EQ(findings[0].value, "parameter embedding.table") << step.name;
    } else {
      EXPECT_TRUE(findings.empty()) << step.name << "\n" << to_string(findings);
    }
  }
}

TEST(ConstraintCheck, NamesAnUnconstrainedLinearInsideAResidualBranch) {
  const auto findings = findings_of([](const auto& x) {
    return ops::residual_apply(
        x,
        [](const auto& h) { return ops::linear(ops::gelu(ops::linear(h, w1, unconstrained)), w2); },
        {.tau = 0.2});
  });
  ASSERT_EQ(findings.size(), 1U) << to_string(findings);
  const ConstraintFinding& finding = findings[0];
  EXPECT_EQ(finding.kind, Kind::unequal_paths);
  EXPECT_EQ(finding.value, "an input");
  // β_x/α of 4 to 16 features is 16^-½ / 4^-½; the weights of the residual cancel.
  EXPECT_NEAR(finding.ratio, 0.5, 1e-12);
  EXPECT_EQ(names(finding.culprits), (std::vector<std::string>{"op 1, linear"}));
  EXPECT_EQ(finding.fix, "give linear a constraint such as gmean, or put it on a cut-edge");
  EXPECT_EQ(names(finding.paths[0]),
            (std::vector<std::string>{"op 0, residual_split", "op 1, linear", "op 2, gelu",
                                      "op 3, linear", "op 4, residual_add"}));
  EXPECT_EQ(names(finding.paths[1]),
            (std::vector<std::string>{"op 0, residual_split", "op 4, residual_add"}));
  const std::string text = to_string(findings);
  for (const char* part : {"unequal paths", "0.5 times", "op 1, linear (times 0.5)", "fix:"}) {
    EXPECT_NE(text.find(part), std::string::npos) << part << " in\n" << text;
  }
}

TEST(ConstraintCheck, NamesTheModuleOfAFault) {
  GraphTrace trace;
  Fp64 tape;
  tape.trace_with(trace.tracer());
  const auto x = tape.input(random_array<double>({3, 4}, 0));
  const auto module = tape.enter("block");
  const auto y = ops::residual_apply(x, [&](const auto& h) {
    const auto inner = tape.enter("block.branch");
    return ops::linear(ops::linear(h, w1, unconstrained), w2);
  });
  const auto findings = check_constraints(trace.ops(), sum(y));
  ASSERT_EQ(findings.size(), 1U);
  EXPECT_EQ(names(findings[0].culprits),
            (std::vector<std::string>{"op 1, linear of block.branch"}));
}

TEST(ConstraintCheck, PassesAnUnconstrainedPairThatMakesUpForItself) {
  EXPECT_TRUE(findings_of([](const auto& x) {
                return ops::residual_apply(x, [](const auto& h) {
                  return ops::linear(ops::gelu(ops::linear(h, w1, unconstrained)), w2,
                                     unconstrained);
                });
              }).empty());
}

TEST(ConstraintCheck, PassesAnUnconstrainedOpOnACutEdge) {
  EXPECT_TRUE(findings_of([](const auto& x) {
                const auto y = ops::residual_apply(ops::linear(x, w1, unconstrained),
                                                   [](const auto& h) { return ops::gelu(h); });
                return ops::linear(y, w2, unconstrained);
              }).empty());
}

TEST(ConstraintCheck, NamesAResidualAddWithoutItsSplit) {
  const auto findings =
      findings_of([](const auto& x) { return ops::residual_add(ops::gelu(x), x, {.tau = 0.2}); });
  ASSERT_EQ(findings.size(), 1U) << to_string(findings);
  // 1/√τ of the branch over 1/√(1−τ) of the skip connection.
  EXPECT_NEAR(findings[0].ratio, 2, 1e-12);
  EXPECT_EQ(names(findings[0].culprits),
            (std::vector<std::string>{"op 1, residual_add", "op 1, residual_add"}));
  const std::size_t fix = findings[0].fix.find("no residual_split");
  EXPECT_EQ(fix, 0U);
  EXPECT_EQ(findings[0].fix.find("no residual_split", 1), std::string::npos) << "once is enough";
}

TEST(ConstraintCheck, SaysThatBranchAndSkipAreSwapped) {
  for (const bool at_the_add : {true, false}) {
    const auto findings = findings_of([&](const auto& x) {
      const auto [first, second] = ops::residual_split(x, {.tau = 0.2});
      return at_the_add ? ops::residual_add(second, ops::gelu(first), {.tau = 0.2})
                        : ops::residual_add(ops::gelu(second), first, {.tau = 0.2});
    });
    ASSERT_EQ(findings.size(), 1U) << to_string(findings);
    EXPECT_EQ(
        findings[0].fix,
        "branch and skip are swapped between op 0, residual_split, which returns {branch, "
        "skip}, and op 2, residual_add, which takes (branch, skip): give both the same order, "
        "as residual_apply does");
  }
}

TEST(ConstraintCheck, NamesASplitOfAnotherTau) {
  const auto findings = findings_of([](const auto& x) {
    const auto [branch, skip] = ops::residual_split(x, {.tau = 0.5});
    return ops::residual_add(ops::gelu(branch), skip, {.tau = 0.2});
  });
  ASSERT_EQ(findings.size(), 1U) << to_string(findings);
  EXPECT_NEAR(findings[0].ratio, 2, 1e-12);
  EXPECT_EQ(findings[0].fix,
            "the weights of op 0, residual_split and of op 2, residual_add differ: give both the "
            "same rule and tau, as residual_apply does");
}

TEST(ConstraintCheck, PassesASumWithoutSplitWhoseGradientsAreRight) {
  // Its factors are the same for both summands: not of unit scale, which the linter says, but true.
  EXPECT_TRUE(findings_of([](const auto& x) { return ops::add(x, ops::gelu(x)); }).empty());
  EXPECT_EQ(findings_of([](const auto& x) {
              return ops::add(x, ops::linear(ops::linear(x, w1, unconstrained), w2));
            }).size(),
            1U);
}

TEST(ConstraintCheck, SaysHowTwoLossesOfOneTrunkComeToOneFactor) {
  const Parameter few = random_parameter("few", {10, 4}, 5);
  const Parameter many = random_parameter("many", {20, 4}, 6);
  const auto findings_with = [&](double factor) {
    GraphTrace trace;
    Fp64 tape;
    tape.trace_with(trace.tracer());
    const auto x = tape.input(random_array<double>({3, 4}, 0));
    const auto logits =
        ops::scale_bwd(ops::linear(x, few, {.scaling = scaling::none}), {.factor = factor});
    const auto other = ops::linear(x, many, {.scaling = scaling::none});
    const auto loss =
        ops::add(ops::cross_entropy(logits, id_array({3}, 10, 7), {.scaling = scaling::paper}),
                 ops::cross_entropy(other, id_array({3}, 20, 8), {.scaling = scaling::paper}),
                 {.scaling = scaling::none});
    return check_constraints(trace.ops(), loss);
  };
  const auto findings = findings_with(1);
  ASSERT_EQ(findings.size(), 1U) << to_string(findings);
  // classes / (classes − 1)^½, of the one over the other.
  EXPECT_NEAR(std::abs(std::log(findings[0].ratio)),
              std::log((20 / std::sqrt(19)) / (10 / std::sqrt(9))), 1e-9);
  EXPECT_EQ(findings[0].fix,
            "no constraint acts on cross_entropy: let a scale_bwd on its input bring that gradient "
            "to the factor of the others");
  EXPECT_TRUE(findings_with((20 / std::sqrt(19)) / (10 / std::sqrt(9))).empty());
}

TEST(ConstraintCheck, LeavesOutCulpritsThatAnEqualOneOnTheOtherPathMakesUpFor) {
  const auto findings = findings_of([](const auto& x) {
    const auto [branch, skip] = ops::residual_split(x);
    const auto up = ops::linear(ops::scale_bwd(branch, {.factor = 3}), w1, unconstrained);
    return ops::residual_add(up, ops::linear(skip, w1, unconstrained));
  });
  ASSERT_EQ(findings.size(), 1U) << to_string(findings);
  EXPECT_EQ(names(findings[0].culprits), (std::vector<std::string>{"op 1, scale_bwd"}));
  EXPECT_EQ(findings[0].fix,
            "give scale_bwd its opposite, scale_fwd by the same factor, or put it on a cut-edge");
}

TEST(ConstraintCheck, NamesCulpritsNearestToTheValueFirst) {
  const auto findings = findings_of([](const auto& x) {
    const auto long_way = ops::gelu(ops::gelu(ops::scale_fwd(x, {.factor = 0.25})));
    const auto end = ops::scale_fwd(long_way, {.factor = 0.2});
    return ops::add(end, ops::gelu(ops::scale_bwd(x, {.factor = 7})));
  });
  ASSERT_EQ(findings.size(), 1U) << to_string(findings);
  // The reciprocals of the forward factors, over the backward factor of the last reader.
  EXPECT_NEAR(findings[0].ratio, 4 * 5 / 7.0, 1e-9);
  EXPECT_EQ(names(findings[0].culprits),
            (std::vector<std::string>{"op 0, scale_fwd", "op 4, scale_bwd", "op 3, scale_fwd"}));
  EXPECT_EQ(findings[0].fix,
            "give scale_fwd its opposite, scale_bwd by the same factor, or put it on a cut-edge; "
            "give scale_bwd its opposite, scale_fwd by the same factor, or put it on a cut-edge");
}

TEST(ConstraintCheck, ReportsEachOfSeveralRatiosOfOneValueOnce) {
  const auto findings = findings_of([](const auto& x) {
    auto result = ops::gelu(x);
    for (const double factor : {4.0, 2.0, 4.0, 1.0}) {
      result = ops::add(result, ops::scale_bwd(x, {.factor = factor}));
    }
    return result;
  });
  ASSERT_EQ(findings.size(), 2U) << to_string(findings);
  EXPECT_NEAR(findings[0].ratio, 4, 1e-9);
  EXPECT_NEAR(findings[1].ratio, 2, 1e-9);
}

TEST(ConstraintCheck, ToleratesRoundingAndNoMore) {
  const auto with = [](double factor) {
    return findings_of([factor](const auto& x) {
      return ops::add(ops::scale_bwd(x, {.factor = factor}), ops::gelu(x));
    });
  };
  EXPECT_TRUE(with(1 + 1e-12).empty());
  EXPECT_EQ(with(1 + 1e-8).size(), 1U);
  EXPECT_EQ(with(1 - 1e-8).size(), 1U);
}

TEST(ConstraintCheck, SaysNothingOfConstants) {
  // Two layers read one constant with factors that differ: no gradient of it is asked for.
  GraphTrace trace;
  Fp64 tape;
  tape.trace_with(trace.tracer());
  const auto x = tape.constant(random_array<double>({3, 4}, 0));
  const auto loss = sum(ops::add(ops::linear(x, w1, unconstrained), ops::linear(x, w3)));
  EXPECT_TRUE(check_constraints(trace.ops(), loss).empty());
}

/// The product of the factors on a path.
double product(const std::vector<analysis::PathStep>& path) {
  double result = 1;
  for (const auto& step : path) result *= step.factor;
  return result;
}

TEST(ConstraintCheck, PathsHaveFactorsThatMakeTheRatio) {
  // Faults inside of faults, so that several ways lead from each value to the loss, each with a
  // product of its own.
  const auto inner = [](const auto& h) {
    return ops::add(ops::linear(ops::linear(h, w1, unconstrained), w2),
                    ops::scale_bwd(h, {.factor = 1.5}));
  };
  const auto findings = findings_of([&](const auto& x) {
    const auto y = ops::residual_apply(x, inner);
    return ops::mul(ops::residual_add(inner(y), y, {.tau = 0.3}), ops::scale_fwd(y, {.factor = 9}));
  });
  EXPECT_GE(findings.size(), 4U);
  for (const ConstraintFinding& finding : findings) {
    SCOPED_TRACE(to_string(finding));
    EXPECT_NEAR(product(finding.paths[0]) / product(finding.paths[1]) / finding.ratio, 1, 1e-9);
    EXPECT_FALSE(finding.culprits.empty());
    EXPECT_FALSE(finding.fix.empty());
    // Both end where they meet, and nowhere before.
    EXPECT_EQ(finding.paths[0].back().op, finding.paths[1].back().op);
    for (std::size_t i = 0; i + 1 < finding.paths[0].size(); ++i) {
      for (std::size_t k = 1; k + 1 < finding.paths[1].size(); ++k) {
        EXPECT_NE(finding.paths[0][i].op, finding.paths[1][k].op);
      }
    }
  }
}

TEST(ConstraintCheck, SeesAValueReadTwiceByOneOp) {
  EXPECT_TRUE(findings_of([](const auto& x) { return ops::mul(x, x); }).empty());
  const auto findings =
      findings_of([](const auto& x) { return ops::residual_add(x, x, {.tau = 0.2}); });
  ASSERT_EQ(findings.size(), 1U);
  EXPECT_EQ(names(findings[0].paths[0]), (std::vector<std::string>{"op 0, residual_add"}));
  EXPECT_EQ(names(findings[0].paths[1]), (std::vector<std::string>{"op 0, residual_add"}));
}

TEST(ConstraintCheck, TakesBranchesOfNoWeight) {
  for (const double tau : {0.0, 1.0}) {
    for (const bool is_constrained : {true, false}) {
      // Whatever a branch of weight 0 multiplies with, it adds nothing to either gradient.
      EXPECT_TRUE(findings_of([&](const auto& x) {
                    return ops::residual_apply(
                        x,
                        [&](const auto& h) {
                          const ops::Linear op{.scaling = is_constrained || tau == 1
                                                              ? scaling::paper
                                                              : scaling::paper.on_cut_edge()};
                          return ops::linear(ops::gelu(ops::linear(h, w1, op)), w2);
                        },
                        {.tau = tau});
                  }).empty())
          << tau;
    }
  }
  // A skip connection of weight 0 says nothing of the way to the loss, but the branch does.
  EXPECT_EQ(findings_of([](const auto& x) {
              return ops::residual_apply(x, [](const auto& h) {
                const auto y = ops::linear(h, w1, unconstrained);
                return ops::linear(
                    ops::residual_apply(y, [](const auto& u) { return ops::gelu(u); }, {.tau = 1}),
                    w2);
              });
            }).size(),
            1U);
  // Its inside has a computed gradient but no true one: whoever reads it elsewhere mixes the two.
  const auto findings = findings_of([](const auto& x) {
    const auto [branch, skip] = ops::residual_split(x, {.tau = 0});
    const auto inside = ops::gelu(branch);
    return ops::mul(inside, ops::residual_add(inside, skip, {.tau = 0}));
  });
  EXPECT_FALSE(findings.empty());
  EXPECT_FALSE(to_string(findings).empty());
}

TEST(ConstraintCheck, ComparesWithAWayThatHasWeight) {
  const auto findings = findings_of([](const auto& x) {
    const auto first = ops::scale_bwd(x, {.factor = 2});
    return ops::mul(first,
                    ops::residual_apply(x, [](const auto& h) { return ops::gelu(h); }, {.tau = 1}));
  });
  ASSERT_EQ(findings.size(), 1U) << to_string(findings);
  EXPECT_NEAR(findings[0].ratio, 2, 1e-12);
  EXPECT_EQ(names(findings[0].paths[1]),
            (std::vector<std::string>{"op 1, residual_split", "op 2, gelu", "op 3, residual_add",
                                      "op 4, mul"}));
  EXPECT_EQ(names(findings[0].culprits), (std::vector<std::string>{"op 0, scale_bwd"}));
}

TEST(ConstraintCheck, NamesOpsThatReverseOrStopGradients) {
  for (const double factor : {-1.0, 0.0}) {
    GraphTrace trace;
    Fp64 tape;
    tape.trace_with(trace.tracer());
    const auto y = ops::linear(tape.constant(random_array<double>({3, 4}, 0)), w1);
    const auto loss = sum(ops::scale_bwd(y, {.factor = factor}));
    // The loss does not depend on another such op.
    (void)ops::scale_bwd(y, {.factor = factor});
    const auto findings = check_constraints(trace.ops(), loss);
    ASSERT_EQ(findings.size(), 1U) << to_string(findings);
    EXPECT_EQ(findings[0].kind, Kind::not_positive);
    EXPECT_EQ(names(findings[0].culprits), (std::vector<std::string>{"op 1, scale_bwd"}));
  }
  EXPECT_TRUE(findings_of([](const auto& x) {
                return ops::scale_bwd(ops::scale_fwd(x, {.factor = -2}), {.factor = -2});
              }).empty());
}

TEST(ConstraintCheck, ReportsAParameterWhoseUsesWeighDifferently) {
  const auto twice = [](const ops::Linear& first) {
    return findings_of([first](const auto& x) {
      const Parameter& square = []() -> const Parameter& {
        static const Parameter parameter = random_parameter("square", {4, 4}, 3);
        return parameter;
      }();
      return ops::linear(ops::scale_bwd(ops::linear(x, square, first), {.factor = 3}), square);
    });
  };
  const auto findings = twice({});
  ASSERT_EQ(findings.size(), 1U);
  EXPECT_EQ(findings[0].kind, Kind::shared_parameter);
  EXPECT_EQ(findings[0].value, "parameter square");
  EXPECT_NEAR(findings[0].ratio, 3, 1e-12);
  EXPECT_NE(findings[0].fix.find("a parameter of its own"), std::string::npos) << findings[0].fix;
}

TEST(ConstraintCheck, ReportsEachDisagreementOnce) {
  const auto block = [](const auto& x) {
    return ops::residual_apply(
        x, [](const auto& h) { return ops::linear(ops::linear(h, w1, unconstrained), w2); });
  };
  const auto findings = findings_of([&](const auto& x) { return block(block(x)); });
  // The two blocks, and the two parameters, whose uses see the gradient before and after a fault.
  std::size_t values = 0;
  for (const auto& finding : findings) values += finding.kind == Kind::unequal_paths ? 1 : 0;
  EXPECT_EQ(values, 2U) << to_string(findings);
}

TEST(ConstraintCheck, IgnoresWhatTheLossDoesNotDependOn) {
  GraphTrace trace;
  Fp64 tape;
  tape.trace_with(trace.tracer());
  const auto x = tape.input(random_array<double>({3, 4}, 0));
  const auto loss = sum(ops::gelu(x));
  (void)ops::linear(x, w1, unconstrained);
  (void)ops::gelu(loss);
  EXPECT_TRUE(check_constraints(trace.ops(), loss).empty());
}

void expect_refused(const std::vector<OpRecord>& ops, std::size_t loss,
                    std::initializer_list<std::string_view> parts) {
  expect_error<std::invalid_argument>([&] { (void)check_constraints(ops, loss); }, parts);
  expect_error<std::invalid_argument>([&] { (void)analysis::cut_edges(ops); }, parts);
  expect_error<std::invalid_argument>([&] { (void)analysis::parameter_gradient_ratios(ops, loss); },
                                      parts);
}

/// Records a step of `leaves` inputs, the last of which is read.
Loss record_behind(std::size_t leaves, Fp64& tape) {
  for (std::size_t i = 1; i < leaves; ++i) (void)tape.input(random_array<double>({3}, 0));
  return sum(ops::gelu(tape.input(random_array<double>({3}, 0))));
}

TEST(ConstraintCheck, RefusesATraceOfTwoSteps) {
  // With as many leaves the second step makes the same values; with more of them it makes others,
  // of numbers that the first does not have, and with fewer those that the first reads.
  for (const std::size_t leaves : {1U, 2U, 3U, 9U}) {
    GraphTrace trace;
    Fp64 tape;
    tape.trace_with(trace.tracer());
    (void)record_behind(3, tape);
    tape.clear();
    const auto loss = record_behind(leaves, tape);
    expect_refused(trace.ops(), loss.number(), {"one step", "another", "clear"});
    trace.clear();
    EXPECT_TRUE(trace.ops().empty());
    // One step in two parts is one step.
    (void)record_behind(2, tape);
    EXPECT_TRUE(check_constraints(trace.ops(), record_behind(2, tape)).empty());
  }
}

TEST(ConstraintCheck, RefusesATraceOfTwoTapes) {
  GraphTrace trace;
  // One after the other they may well lie at the same address.
  for (const std::size_t leaves : {1U, 9U}) {
    Fp64 tape;
    tape.trace_with(trace.tracer());
    (void)record_behind(leaves, tape);
  }
  expect_refused(trace.ops(), trace.ops().back().outputs[0].value, {"one step", "another"});
  trace.clear();
  Fp64 doubles;
  Tape<precision::fp32> floats;
  doubles.trace_with(trace.tracer());
  floats.trace_with(trace.tracer());
  const auto loss = record_behind(1, doubles);
  (void)ops::gelu(floats.input(random_array<float>({3}, 0)));
  expect_refused(trace.ops(), loss.number(), {"one step", "another"});
}

TEST(ConstraintCheck, RefusesWhatIsNoGraph) {
  GraphTrace trace;
  Fp64 tape;
  tape.trace_with(trace.tracer());
  (void)record_behind(1, tape);
  expect_error<std::invalid_argument>([&] { (void)check_constraints(trace.ops(), 99); }, {"loss"});
  std::vector<OpRecord> ops = trace.ops();
  ops[1].outputs[0].value = ops[0].outputs[0].value;
  expect_refused(ops, 1, {"made before"});
  ops[1].outputs[0].value = ops[0].inputs[0].value;
  expect_refused(ops, 1, {"read before"});
  ops = trace.ops();
  ops[0].outputs[0].gradient_factors.push_back(1);
  expect_refused(ops, 1, {"factor"});
}

/// For each op and input: whether taking the edge away takes the graph apart, by doing so.
std::vector<std::vector<bool>> cut_edges_by_removal(const std::vector<OpRecord>& ops) {
  const auto components = [&](std::size_t without_op, std::size_t without_input) {
    std::map<std::string, std::string> root;
    const std::function<std::string(const std::string&)> find = [&](const std::string& at) {
      const std::string& up = root.try_emplace(at, at).first->second;
      return up == at ? at : find(up);
    };
    const auto join = [&](std::size_t op, std::size_t value) {
      const std::string a = find("op" + std::to_string(op));
      root[a] = find("value" + std::to_string(value));
    };
    for (std::size_t k = 0; k < ops.size(); ++k) {
      for (std::size_t i = 0; i < ops[k].inputs.size(); ++i) {
        (void)find("value" + std::to_string(ops[k].inputs[i].value));
        if (k == without_op && i == without_input) continue;
        if (ops[k].inputs[i].is_wanted) join(k, ops[k].inputs[i].value);
      }
      for (const auto& output : ops[k].outputs) join(k, output.value);
    }
    std::size_t count = 0;
    for (const auto& [at, up] : root) count += at == up ? 1 : 0;
    return count;
  };
  std::vector<std::vector<bool>> result;
  const std::size_t whole = components(ops.size(), 0);
  for (std::size_t k = 0; k < ops.size(); ++k) {
    auto& of_op = result.emplace_back();
    for (std::size_t i = 0; i < ops[k].inputs.size(); ++i) {
      of_op.push_back(!ops[k].inputs[i].is_wanted || components(k, i) > whole);
    }
  }
  return result;
}

TEST(CutEdges, AreThoseWhoseRemovalTakesTheGraphApart) {
  std::size_t cut = 0;
  std::size_t not_cut = 0;
  for (const ModelStep& step : model_steps()) {
    if (step.rule != Rule::paper) continue;
    GraphTrace trace;
    Fp64 tape;
    tape.trace_with(trace.tracer());
    (void)step.record(tape);
    const auto found = analysis::cut_edges(trace.ops());
    EXPECT_EQ(found, cut_edges_by_removal(trace.ops())) << step.name;
    for (const auto& op : found) {
      for (const bool is_cut : op) ++(is_cut ? cut : not_cut);
    }
  }
  EXPECT_GT(cut, 100U);
  EXPECT_GT(not_cut, 100U);
}

TEST(CutEdges, OfAValueReadTwiceByOneOpAreNone) {
  GraphTrace trace;
  Fp64 tape;
  tape.trace_with(trace.tracer());
  const auto x = ops::gelu(tape.input(random_array<double>({3, 4}, 0)));
  (void)sum(ops::mul(x, x));
  EXPECT_EQ(analysis::cut_edges(trace.ops()),
            (std::vector<std::vector<bool>>{{true}, {false, false}, {true}}));
  EXPECT_EQ(analysis::cut_edges(trace.ops()), cut_edges_by_removal(trace.ops()));
}

TEST(Graph, LeavesOutWhatNoGradientPasses) {
  GraphTrace trace;
  Fp64 tape;
  tape.trace_with(trace.tracer());
  const auto constant = tape.constant(random_array<double>({3, 4}, 0));
  const auto y = ops::linear(constant, w1);
  const analysis::Graph graph(trace.ops());
  EXPECT_TRUE(graph.readers(constant.number()).empty());
  EXPECT_EQ(graph.read_values().size(), 1U);
  EXPECT_EQ(graph.parameter(graph.read_values().begin()->first), &w1);
  EXPECT_FALSE(graph.maker(constant.number()).has_value());
  EXPECT_EQ(graph.maker(y.number())->op, 0U);
  EXPECT_EQ(graph.value_text(constant.number()), "an input");
  EXPECT_EQ(graph.value_text(y.number()), "the value of op 0, linear");
}

}  // namespace constraint_check_test
