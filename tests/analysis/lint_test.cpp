// SPDX-License-Identifier: MIT
#include "unit_scaling/analysis/lint.hpp"

#include <gtest/gtest.h>

#include <cstdint>
#include <limits>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "analysis/model_steps.hpp"
#include "autograd/tape_support.hpp"
#include "support/errors.hpp"
#include "support/random_arrays.hpp"
#include "unit_scaling/nn/linear.hpp"
#include "unit_scaling/nn/linear_readout.hpp"
#include "unit_scaling/ops/add.hpp"
#include "unit_scaling/ops/conv1d.hpp"
#include "unit_scaling/ops/cross_entropy.hpp"
#include "unit_scaling/ops/embedding.hpp"
#include "unit_scaling/ops/gelu.hpp"
#include "unit_scaling/ops/gelu_linear.hpp"
#include "unit_scaling/ops/layer_norm.hpp"
#include "unit_scaling/ops/linear.hpp"
#include "unit_scaling/ops/linear_readout.hpp"
#include "unit_scaling/ops/mse_loss.hpp"
#include "unit_scaling/ops/reshape.hpp"
#include "unit_scaling/ops/residual.hpp"
#include "unit_scaling/ops/rotary.hpp"
#include "unit_scaling/ops/scaled_dot_product_attention.hpp"
#include "unit_scaling/optim/adam.hpp"
#include "unit_scaling/optim/sgd.hpp"

namespace lint_test {

using namespace unit_scaling;
using namespace unit_scaling_test;
using analysis::LintFinding;
using analysis::LintOptions;
using Kind = LintFinding::Kind;

/// The findings for what `record` puts on a tape.
template <class Record>
std::vector<LintFinding> lint_of(const Record& record, const LintOptions& options = {}) {
  analysis::GraphTrace trace;
  Fp64 tape;
  tape.trace_with(trace.tracer());
  (void)record(tape);
  return analysis::lint(trace.ops(), options);
}

/// Expects one finding, of the kind and the subject.
void expect_one(const std::vector<LintFinding>& findings, Kind kind, const std::string& subject,
                const std::string& part) {
  ASSERT_EQ(findings.size(), 1U) << subject << "\n" << to_string(findings);
  EXPECT_EQ(findings[0].kind, kind) << to_string(findings);
  EXPECT_EQ(findings[0].subject, subject);
  EXPECT_NE(to_string(findings).find(part), std::string::npos) << to_string(findings);
}

Parameter weight(const Shape& shape, float factor = 1) {
  Parameter result = random_parameter("w", shape, 1);
  result.kind = ParameterKind::weight;
  for (float& element : std::span(result.value.mutable_data(), shape.size())) element *= factor;
  return result;
}

Parameter vector_of(const char* name, std::size_t size, float value, ParameterKind kind) {
  return {.name = name, .value = Array<float>::filled(Shape{size}, value), .kind = kind};
}

auto input(Fp64& tape) { return tape.input(random_array<double>({6, 64}, 0)); }

TEST(Lint, FindsNothingInTheLibrarysModels) {
  for (const ModelStep& step : model_steps()) {
    optim::Adam adam(step.parameters, {.rule = step.rule});
    const auto findings =
        lint_of(step.record, {.learning_rates = optim::learning_rate_report(adam, 0.01),
                              .is_without_positions = step.is_without_positions});
    EXPECT_TRUE(findings.empty()) << step.name << "\n" << to_string(findings);
    if (step.rule == Rule::none) continue;
    optim::Sgd sgd(step.parameters, {.rule = step.rule});
    EXPECT_TRUE(lint_of(step.record, {.learning_rates = optim::learning_rate_report(sgd, 0.01),
                                      .is_without_positions = step.is_without_positions,
                                      .sgd_readout_is_constrained = false})
                    .empty())
        << step.name;
  }
}

TEST(Lint, FindsAWeightInitialisedWithTheRootOfItsFanIn) {
  const auto of = [](const Parameter& w, const Scaling& scaling = scaling::paper) {
    return lint_of([&](Fp64& tape) { return ops::linear(input(tape), w, {.scaling = scaling}); });
  };
  EXPECT_TRUE(of(weight({64, 64})).empty());
  expect_one(of(weight({64, 64}, 0.125F)), Kind::parameter_scale, "w", "fan_in^-1/2");
  expect_one(of(weight({64, 64}, 1.2F)), Kind::parameter_scale, "w", "N(0,1)");
  // Of a convolution the fan-in is channels times kernel size; a look-up has none.
  const auto of_convolution = [&](float factor) {
    const Parameter kernel = weight({32, 8, 8}, factor);
    return lint_of([&](Fp64& tape) {
      return ops::conv1d(tape.input(random_array<double>({2, 8, 16}, 0)), kernel);
    });
  };
  EXPECT_TRUE(of_convolution(1).empty());
  expect_one(of_convolution(0.125F), Kind::parameter_scale, "w", "fan_in^-1/2");
  const auto of_table = [&](float factor) {
    const Parameter table = weight({50, 64}, factor);
    return lint_of(
        [&](Fp64& tape) { return ops::embedding(id_array({3}, 50, 1), tape.parameter(table)); });
  };
  EXPECT_TRUE(of_table(1).empty());
  expect_one(of_table(0.125F), Kind::parameter_scale, "w", "embedding");
  expect_one(of(weight({64, 64}, std::numeric_limits<float>::quiet_NaN())), Kind::parameter_scale,
             "w", "rms nan");
  // Without rules that is how it should be.
  EXPECT_TRUE(of(weight({64, 64}, 0.125F), scaling::none).empty());
  // Few numbers may have any rms by chance.
  const auto all_alike = [&](const Shape& shape) {
    return of({"w", Array<float>::filled(shape, 0.8F), ParameterKind::weight});
  };
  EXPECT_TRUE(all_alike({2, 64}).empty());
  EXPECT_EQ(all_alike({64, 64}).size(), 1U);
}

TEST(Lint, FindsBiasesAndGainsThatBeginElsewhere) {
  const Parameter w = weight({8, 64});
  const auto of_bias = [&](float value) {
    const Parameter bias = vector_of("b", 8, value, ParameterKind::bias);
    return lint_of([&](Fp64& tape) { return ops::linear(input(tape), w, bias); });
  };
  EXPECT_TRUE(of_bias(0).empty());
  expect_one(of_bias(0.5F), Kind::parameter_scale, "b", "zeros");
  const auto of_norm = [&](float gain_value, float shift_value) {
    const Parameter gain = vector_of("gain", 64, gain_value, ParameterKind::norm);
    const Parameter shift = vector_of("shift", 64, shift_value, ParameterKind::norm);
    return lint_of([&](Fp64& tape) { return ops::layer_norm(input(tape), gain, shift); });
  };
  EXPECT_TRUE(of_norm(1, 0).empty());
  expect_one(of_norm(0, 0), Kind::parameter_scale, "gain", "gains of one");
  expect_one(of_norm(1, 1), Kind::parameter_scale, "shift", "shifts of zero");
  // Of an op that does not say which of the two it is, either will do.
  const auto of_product = [&](float value) {
    const Parameter gain = vector_of("gain", 64, value, ParameterKind::norm);
    return lint_of([&](Fp64& tape) {
      return ops::add(input(tape), ops::reshape(tape.parameter(gain), {.shape = {64}}));
    });
  };
  EXPECT_TRUE(of_product(1).empty());
  EXPECT_TRUE(of_product(0).empty());
  expect_one(of_product(0.5F), Kind::parameter_scale, "gain", "rms 0.5");
}

TEST(Lint, FindsAnOpWithoutRulesInAModelThatFollowsSome) {
  const Parameter w = weight({64, 64});
  const auto of = [&](const Scaling& first, const Scaling& second) {
    return lint_of([&](Fp64& tape) {
      return ops::gelu(ops::linear(input(tape), w, {.scaling = first}), {.scaling = second});
    });
  };
  expect_one(of(scaling::paper, scaling::none), Kind::unscaled_op, "op 1, gelu", "paper");
  expect_one(of(scaling::none, scaling::umup), Kind::unscaled_op, "op 0, linear", "umup");
  EXPECT_TRUE(of(scaling::none, scaling::none).empty());
  // Also where one op does the work of two.
  const auto fused = [&](const Scaling& first, const Scaling& second) {
    return lint_of([&](Fp64& tape) {
      const auto x = ops::gelu_linear(input(tape), w,
                                      {.gelu = {.scaling = first}, .linear = {.scaling = second}});
      return ops::gelu(x, {.scaling = scaling::paper});
    });
  };
  EXPECT_TRUE(fused(scaling::paper, scaling::paper).empty());
  expect_one(fused(scaling::none, scaling::paper), Kind::unscaled_op, "op 0, gelu_linear", "paper");
  expect_one(fused(scaling::paper, scaling::none), Kind::unscaled_op, "op 0, gelu_linear", "paper");
  // A lookup in a table without rules counts, rows picked from activations do not.
  const auto embed = [&](bool is_table) {
    return lint_of([&](Fp64& tape) {
      const auto x = ops::linear(input(tape), w);
      const ops::Embedding plain{.scaling = scaling::none};
      return is_table ? ops::embedding(id_array({3}, 64, 1), tape.parameter(w), plain)
                      : ops::embedding(id_array({3}, 6, 1), x, plain);
    });
  };
  expect_one(embed(true), Kind::unscaled_op, "op 1, embedding", "paper");
  EXPECT_TRUE(embed(false).empty());
  // Of a model most of whose ops follow none, the one that does is named, and no parameter.
  const Parameter plain = weight({64, 64}, 0.125F);
  expect_one(lint_of([&](Fp64& tape) {
               const ops::Linear linear{.scaling = scaling::none};
               const ops::Gelu gelu{.scaling = scaling::none};
               const auto x = ops::gelu(ops::linear(input(tape), plain, linear), gelu);
               return ops::gelu(ops::linear(x, w, linear), {.scaling = scaling::paper});
             }),
             Kind::scaled_op, "op 3, gelu", "paper");
  // Numbers, such as two losses, are added up as they are.
  EXPECT_TRUE(lint_of([&](Fp64& tape) {
                const auto x = ops::linear(input(tape), w);
                return ops::add(sum(x), sum(ops::gelu(x)), {.scaling = scaling::none});
              }).empty());
}

TEST(Lint, FindsResidualsWithoutSplit) {
  const auto of = [](const auto& model) {
    return lint_of([&](Fp64& tape) { return model(input(tape)); });
  };
  const auto branch = [](const auto& x) { return ops::gelu(x); };
  EXPECT_TRUE(
      of([&](const auto& x) { return ops::residual_apply(x, branch, {.tau = 0.3}); }).empty());
  expect_one(of([&](const auto& x) { return ops::add(x, branch(x)); }),
             Kind::residual_without_split, "op 1, add", "residual_apply");
  expect_one(of([&](const auto& x) { return ops::residual_add(branch(x), x); }),
             Kind::residual_without_split, "op 1, residual_add", "residual_apply");
  // Behind a whole one of the same weights, and with another tau.
  expect_one(of([&](const auto& x) {
               const auto y = ops::residual_apply(x, branch);
               return ops::residual_add(branch(y), y);
             }),
             Kind::residual_without_split, "op 4, residual_add", "residual_apply");
  expect_one(of([&](const auto& x) {
               const auto [into, skip] = ops::residual_split(x, {.tau = 0.3});
               return ops::residual_add(branch(into), skip, {.tau = 0.4});
             }),
             Kind::residual_mismatch, "op 2, residual_add", "same rule and tau");
  // One end comes from the split, the other from before it.
  expect_one(of([&](const auto& x) {
               const auto [into, skip] = ops::residual_split(x);
               return ops::residual_add(branch(x), skip);
             }),
             Kind::residual_without_split, "op 2, residual_add", "opens");
  expect_one(of([&](const auto& x) {
               const auto [into, skip] = ops::residual_split(x);
               return ops::residual_add(branch(into), x);
             }),
             Kind::residual_without_split, "op 2, residual_add", "opens");
  // Twice the same is no branch.
  EXPECT_TRUE(of([&](const auto& x) { return ops::add(x, x); }).empty());
  EXPECT_TRUE(of([&](const auto& x) { return ops::add(branch(x), branch(x)); }).empty());
  // Of a value that wants no gradient there is none to weigh.
  const Parameter w = weight({64, 64});
  EXPECT_TRUE(lint_of([&](Fp64& tape) {
                const auto x = tape.constant(random_array<double>({6, 64}, 0));
                return ops::add(x, ops::linear(x, w));
              }).empty());
}

TEST(Lint, SaysThatBranchAndSkipAreSwapped) {
  const auto branch = [](const auto& x) { return ops::gelu(x); };
  const auto of = [](const auto& model) {
    return lint_of([&](Fp64& tape) { return model(input(tape)); });
  };
  const auto expect_swapped = [&](const auto& model, const std::string& subject) {
    const auto findings = of(model);
    expect_one(findings, Kind::residual_mismatch, subject, "are swapped between op ");
    EXPECT_EQ(to_string(findings).find("without"), std::string::npos) << to_string(findings);
  };
  // At the add, for two weights that differ.
  expect_swapped(
      [&](const auto& x) {
        const auto [into, skip] = ops::residual_split(x, {.tau = 0.3});
        return ops::residual_add(skip, branch(into), {.tau = 0.3});
      },
      "op 2, residual_add");
  // At the split, behind a whole one.
  expect_swapped(
      [&](const auto& x) {
        const auto [skip, into] = ops::residual_split(ops::residual_apply(x, branch), {.tau = 0.3});
        return ops::residual_add(branch(into), skip, {.tau = 0.3});
      },
      "op 5, residual_add");
}

TEST(Lint, FindsAnOpThatFollowsOtherRulesThanTheModel) {
  const Parameter w = weight({64, 64});
  const auto model = [&](const Scaling& of_layers, const Scaling& of_gelu) {
    return lint_of([&](Fp64& tape) {
      const auto module = tape.enter("block");
      const ops::Linear linear{.scaling = of_layers};
      const auto x = ops::gelu(ops::linear(input(tape), w, linear), {.scaling = of_gelu});
      return ops::linear(x, w, linear);
    });
  };
  EXPECT_TRUE(model(scaling::umup, scaling::umup).empty());
  EXPECT_TRUE(model(scaling::paper, scaling::paper).empty());
  EXPECT_TRUE(model(scaling::paper, scaling::paper.on_cut_edge()).empty());
  EXPECT_TRUE(model(scaling::umup, scaling::inherited).empty());
  expect_one(model(scaling::umup, scaling::paper), Kind::mixed_rules, "op 1, gelu of block",
             "follows paper in a model under umup");
  expect_one(model(scaling::paper, scaling::umup), Kind::mixed_rules, "op 1, gelu of block",
             "follows umup in a model under paper");
  // However many others there are: layers with parameters tell the model's rules.
  const auto many = lint_of([&](Fp64& tape) {
    auto x = ops::linear(input(tape), w, {.scaling = scaling::umup});
    for (int i = 0; i < 5; ++i) x = ops::gelu(x, {.scaling = scaling::paper});
    return x;
  });
  ASSERT_EQ(many.size(), 5U) << to_string(many);
  EXPECT_EQ(many.front().subject, "op 1, gelu");
  EXPECT_EQ(many.front().kind, Kind::mixed_rules);
  // Also where one op does the work of two, and for rows that are picked from activations.
  const auto fused = [&](const Scaling& of_gelu, const Scaling& of_linear) {
    return lint_of([&](Fp64& tape) {
      const ops::Linear linear{.scaling = scaling::umup};
      const auto x = ops::linear(ops::linear(input(tape), w, linear), w, linear);
      return ops::gelu_linear(x, w,
                              {.gelu = {.scaling = of_gelu}, .linear = {.scaling = of_linear}});
    });
  };
  EXPECT_TRUE(fused(scaling::umup, scaling::umup).empty());
  expect_one(fused({}, scaling::umup), Kind::mixed_rules, "op 2, gelu_linear", "paper");
  expect_one(fused(scaling::umup, {}), Kind::mixed_rules, "op 2, gelu_linear", "paper");
  expect_one(lint_of([&](Fp64& tape) {
               const auto x = ops::linear(input(tape), w, {.scaling = scaling::umup});
               return ops::embedding(id_array({3}, 6, 1), x, {.scaling = scaling::paper});
             }),
             Kind::mixed_rules, "op 1, embedding", "paper");
  // What is told nothing, and reads nothing that follows a rule.
  expect_one(lint_of([&](Fp64& tape) {
               const auto x = ops::linear(ops::gelu(input(tape)), w, {.scaling = scaling::umup});
               return ops::linear(x, w, {.scaling = scaling::umup});
             }),
             Kind::mixed_rules, "op 0, gelu",
             "follows paper, inherited from what it reads or by default, in a model under umup");
}

TEST(Lint, FindsAPlainLayerAsReadoutOfAModelUnderUMuP) {
  const auto labels = id_array({6}, 8, 3);
  const auto findings_of = [&](const Scaling& rules, const auto& model) {
    nn::Initialiser initialiser(1, rules);
    const nn::Linear hidden(initialiser, "hidden", 64, 64, {.bias = false});
    const nn::Linear plain(initialiser, "head", 64, 8);
    const nn::LinearReadout readout(initialiser, "readout", 64, 8);
    return lint_of([&](Fp64& tape) { return model(hidden(input(tape)), plain, readout, rules); });
  };
  const auto loss = [&](const auto& logits, const Scaling& rules) {
    return ops::cross_entropy(logits, labels, {.scaling = rules});
  };
  const auto right = [&](const auto& x, const auto&, const auto& readout, const Scaling& rules) {
    return loss(readout(x), rules);
  };
  const auto direct = [&](const auto& x, const auto& plain, const auto&, const Scaling& rules) {
    return loss(plain(x), rules);
  };
  for (const Scaling& rules : {scaling::none, scaling::paper, scaling::umup}) {
    EXPECT_TRUE(findings_of(rules, right).empty());
    if (rules.rule != Rule::umup) {
      EXPECT_TRUE(findings_of(rules, direct).empty());
    }
  }
  const std::string op = "op 1, linear of head";
  expect_one(findings_of(scaling::umup, direct), Kind::plain_readout, op, "head.weight");
  // Behind ops without weights, and of another loss, a weighted one, or one of two.
  expect_one(findings_of(scaling::umup,
                         [](const auto& x, const auto& plain, const auto&, const Scaling& rules) {
                           const auto y = ops::reshape(plain(x), {.shape = {48}});
                           return ops::mse_loss(y, y.tape().constant(random_array<double>({48}, 1)),
                                                {.scaling = rules});
                         }),
             Kind::plain_readout, op, "LinearReadout");
  expect_one(
      findings_of(scaling::umup,
                  [&](const auto& x, const auto& plain, const auto& readout, const Scaling& rules) {
                    const auto first = loss(readout(x), rules);
                    const auto second = loss(plain(x), rules);
                    return ops::add(first, second, {.scaling = scaling::none});
                  }),
      Kind::plain_readout, "op 3, linear of head", "LinearReadout");
  // Without a loss nobody knows which layer is the last one.
  EXPECT_TRUE(
      findings_of(scaling::umup, [](const auto& x, const auto& plain, const auto&, const Scaling&) {
        return plain(x);
      }).empty());
}

TEST(Lint, SpeaksOfTheFactorThatTheOpHas) {
  const auto text_of = [](const auto& op, const Shape& shape) {
    const Parameter w = weight(shape, 0.125F);
    return to_string(lint_of([&](Fp64& tape) { return op(tape, w); }));
  };
  EXPECT_EQ(text_of(
                [](Fp64& tape, const Parameter& w) {
                  return ops::embedding(id_array({3}, 50, 1), tape.parameter(w));
                },
                {50, 64})
                .find("fan_in"),
            std::string::npos);
  EXPECT_EQ(
      text_of([](Fp64& tape, const Parameter& w) { return ops::add(input(tape), w); }, {6, 64})
          .find("fan_in"),
      std::string::npos);
  EXPECT_NE(text_of(
                [](Fp64& tape, const Parameter& w) {
                  return ops::linear_readout(input(tape), w, {.scaling = scaling::umup});
                },
                {64, 64})
                .find("linear_readout itself has the factor fan_in^-1\n"),
            std::string::npos);
}

TEST(Lint, ComparesBothWeightsOfAResidual) {
  analysis::GraphTrace trace;
  Fp64 tape;
  tape.trace_with(trace.tracer());
  (void)ops::residual_apply(input(tape), [](const auto& h) { return ops::gelu(h); }, {.tau = 0.3});
  EXPECT_TRUE(analysis::lint(trace.ops()).empty());
  for (const std::size_t output : {0U, 1U}) {
    std::vector<OpRecord> ops = trace.ops();
    ASSERT_EQ(ops.front().name, "residual_split");
    ops.front().outputs[output].gradient_factors[0] *= 1.01;
    expect_one(analysis::lint(ops), Kind::residual_mismatch, "op 2, residual_add", "tau");
  }
}

TEST(Lint, FindsParametersThatNobodyTagged) {
  Parameter w = weight({64, 64});
  w.kind = ParameterKind::untagged;
  for (const Scaling& scaling : {scaling::none, scaling::umup}) {
    expect_one(
        lint_of([&](Fp64& tape) { return ops::linear(input(tape), w, {.scaling = scaling}); }),
        Kind::untagged_parameter, "w", "kind");
  }
  // Once, however often it is used; of a vector nobody knows what it is, so of what scale it is.
  const Parameter bias = vector_of("b", 64, 0.5F, ParameterKind::untagged);
  w.kind = ParameterKind::weight;
  expect_one(
      lint_of([&](Fp64& tape) { return ops::linear(ops::linear(input(tape), w, bias), w, bias); }),
      Kind::untagged_parameter, "b", "kind");
  // Nor at which rate it should learn.
  expect_one(
      lint_of(
          [&](Fp64& tape) { return ops::linear(input(tape), w, bias, {.scaling = scaling::umup}); },
          {.learning_rates = {{.name = "b",
                               .kind = ParameterKind::untagged,
                               .shape = {64},
                               .depth = {},
                               .factor = 0.5,
                               .learning_rate = 0.5,
                               .weight_decay = 0,
                               .decay_share = {}}}}),
      Kind::untagged_parameter, "b", "kind");
}

TEST(Lint, FindsLearningRatesOutOfBand) {
  Parameter w = weight({64, 64});
  Parameter bias = vector_of("b", 64, 0, ParameterKind::bias);
  const auto of = [&](const optim::ParameterGroups& groups, Rule rule, double rate) {
    const optim::Adam adam(groups, {.rule = rule});
    return lint_of(
        [&](Fp64& tape) { return ops::linear(input(tape), w, bias, {.scaling = scaling::umup}); },
        {.learning_rates = optim::learning_rate_report(adam, rate)});
  };
  EXPECT_TRUE(of({&w, &bias}, Rule::umup, 1).empty());
  expect_one(of({&w, &bias}, Rule::umup, 10), Kind::learning_rate, "b", "outside");
  // 64^-1/2 of 2^-22 is below the last bit of a weight near one.
  expect_one(of({&w, &bias}, Rule::umup, 0x1p-22), Kind::learning_rate, "w", "outside");
  expect_one(of({{{&w}, 1e-9}, {{&bias}}}, Rule::umup, 1), Kind::learning_rate, "w", "outside");
  // A group that is not to be trained is no mistake.
  EXPECT_TRUE(of({{{&w}, 0}, {{&bias}}}, Rule::umup, 1).empty());
  expect_one(of({&w, &bias}, Rule::none, 0.1), Kind::learning_rate, "the optimiser", "rule");
}

TEST(Lint, FindsWeightDecayOutOfBand) {
  Parameter w = weight({64, 64});
  const auto of = [&](double weight_decay, optim::WeightDecay decay, double rate = 0x1p-6) {
    const optim::Adam adam({&w},
                           {.weight_decay = weight_decay, .decay = decay, .rule = Rule::umup});
    return lint_of(
        [&](Fp64& tape) { return ops::linear(input(tape), w, {.scaling = scaling::umup}); },
        {.learning_rates = optim::learning_rate_report(adam, rate)});
  };
  using optim::WeightDecay;
  EXPECT_TRUE(of(0, WeightDecay::independent).empty());
  EXPECT_TRUE(of(0x1p-13, WeightDecay::independent).empty());
  EXPECT_TRUE(of(0x1p-8, WeightDecay::independent).empty());
  expect_one(of(0x1.8p-8, WeightDecay::independent), Kind::weight_decay, "w",
             "loses 0.005859 of its size to weight decay in a step, above 0.003906");
  // Times the rate, 2^-6 · 64^-1/2.
  EXPECT_TRUE(of(0.1, WeightDecay::decoupled).empty());
  expect_one(of(0.75, WeightDecay::decoupled, 1), Kind::weight_decay, "w", "above 0.003906");
  expect_one(of(0x1p-20, WeightDecay::decoupled), Kind::weight_decay, "w", "which no float shows");
  // What goes into the gradient has no share, and a rate of 0 takes nothing.
  EXPECT_TRUE(of(0.75, WeightDecay::coupled, 1).empty());
  EXPECT_TRUE(of(0.1, WeightDecay::decoupled, 0).empty());
  // Half an ulp below one is lost, a little more is not.
  expect_one(of(0x1p-25, WeightDecay::independent), Kind::weight_decay, "w",
             "which no float shows");
  EXPECT_TRUE(of(0x1.1p-25, WeightDecay::independent).empty());
  // With momentum each step's decay goes on in those that follow. What enters a gradient is not
  // lost.
  const auto of_sgd = [&](double weight_decay) {
    const optim::Sgd sgd({&w}, {.momentum = 0.75, .weight_decay = weight_decay});
    return lint_of([&](Fp64& tape) { return ops::linear(input(tape), w); },
                   {.learning_rates = optim::learning_rate_report(sgd, 0x1p-4)});
  };
  EXPECT_TRUE(of_sgd(0x1p-6).empty());
  expect_one(of_sgd(0x1.8p-6), Kind::weight_decay, "w", "loses 0.005859");
  EXPECT_TRUE(of_sgd(0x1p-30).empty());
}

TEST(Lint, FindsAttentionThatIsToldNoPositions) {
  const Array<std::int32_t> ids = id_array({2, 5}, 17, 3);
  nn::Initialiser initialiser(1, scaling::umup);
  const Parameter table = initialiser.table("tokens", 17, 8);
  const Parameter other = initialiser.table("positions", 5, 8);
  const Parameter w = initialiser.weight("w", {8, 8});
  const Array<std::int32_t> order = Array<std::int32_t>({5}, std::vector{0, 1, 2, 3, 4});
  const auto attend = [](const auto& x, const ops::ScaledDotProductAttention& op = {}) {
    return ops::scaled_dot_product_attention(x, x, x, op);
  };
  const auto lookup = [&](Fp64& tape) { return ops::embedding(ids, tape.parameter(table)); };
  const auto tokens = [&](Fp64& tape) { return ops::linear(lookup(tape), w); };
  expect_one(lint_of([&](Fp64& tape) { return attend(tokens(tape)); }), Kind::no_positions,
             "op 2, scaled_dot_product_attention", "is told no positions");
  // Once, whatever the number of layers; and not hiding later keys only.
  expect_one(lint_of([&](Fp64& tape) {
               return attend(attend(tokens(tape), {.is_causal = true}), {.is_causal = true});
             }),
             Kind::no_positions, "op 2, scaled_dot_product_attention", "is told no positions");
  EXPECT_TRUE(
      lint_of([&](Fp64& tape) { return attend(tokens(tape)); }, {.is_without_positions = true})
          .empty());
  // Rotary ones, those of a bias, of a second table, of a convolution, of a constant, and what
  // anything else that belongs to no batch may tell.
  EXPECT_TRUE(lint_of([&](Fp64& tape) { return attend(ops::rotary(tokens(tape))); }).empty());
  EXPECT_TRUE(lint_of([&](Fp64& tape) {
                const auto x = ops::reshape(tokens(tape), {.shape = {2, 1, 5, 8}});
                return attend(x, {.bias = random_array<float>({1, 1, 5, 5}, 4)});
              }).empty());
  EXPECT_TRUE(lint_of([&](Fp64& tape) {
                const auto positions = ops::embedding(order, tape.parameter(other));
                return attend(ops::add(tokens(tape), positions));
              }).empty());
  EXPECT_TRUE(lint_of([&](Fp64& tape) {
                const auto positions = tape.constant(random_array<double>({5, 8}, 5));
                return attend(ops::add(tokens(tape), positions));
              }).empty());
  const Parameter learned = initialiser.table("learned", 5, 8);
  EXPECT_TRUE(lint_of([&](Fp64& tape) {
                return attend(ops::add(tokens(tape), tape.parameter(learned)));
              }).empty());
  EXPECT_TRUE(lint_of([&](Fp64& tape) {
                const auto outside = tape.outside_batch();
                return attend(tokens(tape));
              }).empty());
}

TEST(Lint, ComparesALearningRateWithTheScaleOfItsParameter) {
  // Two weights of one name, of two optimisers, told apart by their shapes.
  Parameter up = weight({128, 64});
  Parameter down = weight({64, 128}, 1e-3F);
  auto rates = optim::learning_rate_report(optim::Adam({&up}, {.rule = Rule::none}), 0.01);
  const auto others = optim::learning_rate_report(optim::Adam({&down}, {.rule = Rule::none}), 0.01);
  rates.insert(rates.end(), others.begin(), others.end());
  const auto findings = lint_of(
      [&](Fp64& tape) {
        constexpr ops::Linear plain{.scaling = scaling::none};
        return ops::linear(ops::linear(input(tape), up, plain), down, plain);
      },
      {.learning_rates = rates});
  expect_one(findings, Kind::learning_rate, "w", "outside");
}

TEST(Lint, FindsAReadoutWhoseConstraintIsNotTheOptimisers) {
  const auto of = [](std::optional<Constraint> constraint, bool is_constrained) {
    nn::Initialiser initialiser(1, scaling::umup);
    const nn::LinearReadout readout(initialiser, "readout", 64, 8,
                                    {.bias = false, .constraint = constraint});
    return lint_of([&](Fp64& tape) { return readout(input(tape)); },
                   {.sgd_readout_is_constrained = is_constrained});
  };
  EXPECT_TRUE(of(std::nullopt, false).empty());
  EXPECT_TRUE(of(constraint::to_output_scale, true).empty());
  const std::string op = "op 0, linear_readout of readout";
  expect_one(of(std::nullopt, true), Kind::readout_constraint, op, "to_output_scale");
  expect_one(of(constraint::to_output_scale, false), Kind::readout_constraint, op, "none");
  expect_one(of(constraint::gmean, true), Kind::readout_constraint, op, "gmean");
  // The rates of other rules do not depend on it, nor do those of optimisers that are not asked.
  const auto under = [](const Scaling& rules, std::optional<bool> is_constrained) {
    nn::Initialiser initialiser(1, rules);
    const nn::LinearReadout readout(initialiser, "readout", 64, 8, {.bias = false});
    return lint_of([&](Fp64& tape) { return readout(input(tape)); },
                   {.sgd_readout_is_constrained = is_constrained});
  };
  EXPECT_TRUE(under(scaling::paper, true).empty());
  EXPECT_TRUE(under(scaling::none, true).empty());
  EXPECT_TRUE(under(scaling::umup, std::nullopt).empty());
}

TEST(Lint, RefusesATraceOfTwoSteps) {
  analysis::GraphTrace trace;
  Fp64 tape;
  tape.trace_with(trace.tracer());
  (void)ops::gelu(input(tape));
  tape.clear();
  (void)input(tape);
  (void)input(tape);
  (void)ops::gelu(input(tape));
  expect_error<std::invalid_argument>([&] { (void)analysis::lint(trace.ops()); },
                                      {"one step", "another"});
}

}  // namespace lint_test
