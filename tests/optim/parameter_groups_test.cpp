// SPDX-License-Identifier: MIT
#include "unit_scaling/optim/parameter_groups.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "optim/optimiser_support.hpp"
#include "support/errors.hpp"
#include "unit_scaling/nn/initialiser.hpp"
#include "unit_scaling/nn/linear.hpp"
#include "unit_scaling/nn/sequential.hpp"
#include "unit_scaling/ops/gelu.hpp"
#include "unit_scaling/optim/adam.hpp"
#include "unit_scaling/optim/lamb.hpp"
#include "unit_scaling/optim/learning_rate_report.hpp"
#include "unit_scaling/optim/sgd.hpp"

namespace parameter_groups_test {

using namespace unit_scaling;
using namespace unit_scaling_test;
using optim::ParameterGroup;

template <class Optimiser> class OptimiserWithGroups : public testing::Test {};
using Optimisers = testing::Types<optim::Sgd, optim::Adam, optim::AdamW, optim::Lamb>;
TYPED_TEST_SUITE(OptimiserWithGroups, Optimisers);

template <class Optimiser> typename Optimiser::Options options() {
  typename Optimiser::Options result;
  if constexpr (std::is_same_v<Optimiser, optim::AdamW>) {
    result.decay = optim::WeightDecay::independent;
  }
  result.weight_decay = 0.005;
  return result;
}

TYPED_TEST(OptimiserWithGroups, GivesEachGroupItsOwnRateAndDecay) {
  Parameter weight = test_parameter(ParameterKind::weight, {3, 4}, "weight");
  Parameter bias = test_parameter(ParameterKind::bias, {3}, "bias");
  Parameter other = test_parameter(ParameterKind::bias, {3}, "other");
  const std::vector<ParameterGroup> groups{
      {.parameters = {&weight, &bias}},
      {.parameters = {&other}, .learning_rate_factor = 0.5, .weight_decay = 0.0075}};
  const TypeParam optimiser(groups, options<TypeParam>());
  const auto rows = optim::learning_rate_report(optimiser, 2);
  ASSERT_EQ(rows.size(), 3U);
  EXPECT_EQ(rows[0].learning_rate, 2);
  EXPECT_EQ(rows[0].weight_decay, 0.005);
  EXPECT_EQ(rows[1].weight_decay, 0) << "a bias";
  EXPECT_EQ(rows[2].learning_rate, 1);
  EXPECT_EQ(rows[2].factor, 0.5);
  EXPECT_EQ(rows[2].weight_decay, 0.0075) << "asked for by name";
}

TYPED_TEST(OptimiserWithGroups, AHalvedGroupTakesTheStepsOfHalfTheRate) {
  const auto value_after = [](double rate, double factor) {
    Parameter parameter = test_parameter(ParameterKind::weight, {5, 7});
    auto settings = options<TypeParam>();
    settings.weight_decay = 0;
    TypeParam optimiser(std::vector<ParameterGroup>{{{&parameter}, factor}}, settings);
    Tape<precision::fp32> tape;
    for (std::uint64_t step = 0; step < 3; ++step) {
      tape.clear();
      put_gradient(tape, parameter, gradient_of_step({5, 7}, step));
      optimiser.step(tape, rate);
    }
    return parameter.value;
  };
  EXPECT_TRUE(same_bits(value_after(0.25, 0.5), value_after(0.125, 1)));
}

TYPED_TEST(OptimiserWithGroups, NamesEveryParameterThatNobodyTagged) {
  Parameter weight = test_parameter(ParameterKind::weight, {3, 4}, "weight");
  Parameter first{"first", Array<float>(Shape{3})};
  Parameter second{"second", Array<float>(Shape{3})};
  auto settings = options<TypeParam>();
  for (const Rule rule : {Rule::paper, Rule::umup}) {
    settings.rule = rule;
    settings.allow_untagged = false;
    expect_domain_error(
        [&] {
          (void)TypeParam({&first, &weight, &second}, settings);
        },
        {"untagged: first, second"});
    settings.allow_untagged = true;
    const TypeParam allowed({&first, &weight, &second}, settings);
    EXPECT_EQ(allowed.settings()[0].learning_rate_factor, 1);
  }
  settings.rule = Rule::none;
  settings.allow_untagged = false;
  EXPECT_NO_THROW((void)TypeParam({&first}, settings));
}

TYPED_TEST(OptimiserWithGroups, RefusesImpossibleGroups) {
  Parameter parameter = test_parameter(ParameterKind::weight, {3});
  for (const double wrong : {-1.0, std::numeric_limits<double>::infinity(), std::nan("")}) {
    expect_domain_error(
        [&] {
          (void)TypeParam(std::vector<ParameterGroup>{{{&parameter}, wrong}}, options<TypeParam>());
        },
        {"learning_rate_factor"});
    expect_domain_error(
        [&] {
          (void)TypeParam(std::vector<ParameterGroup>{{{&parameter}, 1, wrong}},
                          options<TypeParam>());
        },
        {"weight_decay"});
    auto settings = options<TypeParam>();
    settings.weight_decay = wrong;
    expect_domain_error([&] { (void)TypeParam({&parameter}, settings); }, {"weight_decay"});
  }
  expect_domain_error(
      [&] {
        (void)TypeParam(std::vector<ParameterGroup>{{{&parameter}}, {{&parameter}}},
                        options<TypeParam>());
      },
      {"twice", "p"});
}

// Checkpoints would have one array for the states of both.
TYPED_TEST(OptimiserWithGroups, RefusesTwoParametersOfOneName) {
  const std::pair<std::string, std::string> names_as_printed[] = {
      {"layer.weight", "'layer.weight'"}, {"", "''"}, {"two words\n", R"('two words\n')"}};
  for (const auto& [name, as_printed] : names_as_printed) {
    Parameter first = test_parameter(ParameterKind::weight, {3}, name);
    Parameter other = test_parameter(ParameterKind::weight, {3}, name + "s");
    Parameter second = test_parameter(ParameterKind::bias, {2}, name);
    const std::string expected = "two called " + as_printed;
    expect_domain_error([&] { (void)TypeParam({&first, &other, &second}); }, {expected});
    expect_domain_error(
        [&] {
          (void)TypeParam(std::vector<ParameterGroup>{{{&first, &other}}, {{&second}, 0.5}},
                          options<TypeParam>());
        },
        {expected});
    EXPECT_NO_THROW((void)TypeParam({&first, &other}));
  }
}

TYPED_TEST(OptimiserWithGroups, RefusesTwoModulesOfOneName) {
  nn::Initialiser initialiser(1);
  nn::Sequential network{nn::Linear(initialiser, "layer", 3, 3), ops::gelu,
                         nn::Linear(initialiser, "layer", 3, 3)};
  expect_domain_error([&] { (void)TypeParam(optim::parameters_of(network)); },
                      {"two called 'layer.weight'", "another name"});
}

TEST(LearningRateReport, IsATableWithALineForEachParameter) {
  Parameter weight = test_parameter(ParameterKind::weight, {5, 16}, "layers.0.weight");
  weight.depth = 4;
  Parameter norm = test_parameter(ParameterKind::norm, {16}, "norm");
  const optim::AdamW optimiser(
      {&weight, &norm},
      {.weight_decay = 0.0078125, .decay = optim::WeightDecay::independent, .rule = Rule::umup});
  EXPECT_EQ(optim::to_text(optim::learning_rate_report(optimiser, 0.5)),
            "parameter        kind      shape    depth      factor        rate       decay\n"
            "layers.0.weight  weight    (5, 16)      4       0.125      0.0625    0.007812\n"
            "norm             norm      (16)         -           1         0.5           0\n");
}

}  // namespace parameter_groups_test
