// SPDX-License-Identifier: MIT
#include "unit_scaling/autograd/parameter.hpp"

#include <gtest/gtest.h>

#include <stdexcept>
#include <utility>

#include "support/errors.hpp"
#include "tape_support.hpp"

namespace unit_scaling_test {
namespace parameter_test {

using unit_scaling::Array;
using unit_scaling::Parameter;
using unit_scaling::ParameterKind;
using unit_scaling::Tape;
namespace ops = unit_scaling::ops;
namespace precision = unit_scaling::precision;
namespace scaling = unit_scaling::scaling;

TEST(Parameter, IsAWeightUnlessSaidOtherwise) {
  EXPECT_EQ(Parameter{}.kind, ParameterKind::untagged);
  EXPECT_EQ(Parameter{}.depth, std::nullopt);
  EXPECT_TRUE(Parameter{}.value.empty());
}

TEST(Parameter, IsOneVariableHoweverOftenItIsAskedFor) {
  Tape<precision::fp32> tape;
  const Parameter weight = random_parameter("weight", {3, 3}, 0);
  const auto value = tape.parameter(weight).value();
  const auto same_value = tape.parameter(weight).value();
  EXPECT_EQ(value.data(), same_value.data());
  const auto x = tape.input(random_array<float>({2, 3}, 1));
  const ops::Linear op{.scaling = scaling::none};
  const auto once = [&](const auto& y) {
    tape.backward(sum(y));
    const auto gradient = tape.gradient(weight);
    return Array<float>(gradient.shape(), gradient.span());
  };
  const auto single = once(ops::linear(x, weight, op));
  tape.clear();
  const auto again = tape.input(random_array<float>({2, 3}, 1));
  const auto [left, right] = ops::residual_split(again, {.scaling = scaling::none});
  const auto twice = once(ops::residual_add(
      ops::linear(left, weight, op), ops::linear(right, weight, op), {.scaling = scaling::none}));
  // Twice the same number, so exactly twice as much.
  for (std::size_t i = 0; i < single.size(); ++i) {
    EXPECT_EQ(twice.data()[i], 2 * single.data()[i]) << i;
  }
}

TEST(Parameter, OfOneValueIsStillTwoParametersIfItIsTwoObjects) {
  Tape<precision::fp32> tape;
  const Parameter first = random_parameter("first", {3, 3}, 0);
  const Parameter second = first;  // shares storage
  const auto x = tape.input(random_array<float>({2, 3}, 1));
  tape.backward(sum(ops::linear(ops::linear(x, first), second)));
  EXPECT_NE(tape.gradient(first), tape.gradient(second));
}

// 1.0625 lies half-way between two numbers of E4M3 and ties to the lower. A little above it goes
// up, unless rounding to float16 has made it 1.0625 before.
TEST(Parameter, IsRoundedOnceStraightFromItsMasterCopy) {
  constexpr float above_midpoint = 1.0625F + 0x1p-20F;
  Tape<precision::fp8> tape;
  const Parameter weight{.name = "weight", .value = Array<float>({1, 1}, {above_midpoint})};
  const auto one = tape.input(Array<unit_scaling::float16>({1, 1}, {unit_scaling::float16(1.0F)}));
  const auto y = ops::linear(one, weight, {.scaling = scaling::none});
  EXPECT_EQ(static_cast<float>(*y.value().data()), 1.125F);
}

TEST(Parameter, IsNotChangedByAStep) {
  const Model model;
  const Array<float> before(model.shared.value.shape(), model.shared.value.span());
  Tape<precision::fp8> tape;
  tape.backward(
      model.loss(tape.input(Model::input<precision::fp8>()), ModelScaling(scaling::paper)));
  EXPECT_TRUE(same_bits(model.shared.value, before));
}

// An optimiser writes to the parameter between two steps: nothing of the old value may stay.
TEST(Parameter, IsReadAnewAfterClear) {
  Tape<precision::fp32> tape;
  Parameter weight{.name = "weight", .value = Array<float>({1, 1}, {2})};
  const auto forward = [&] {
    const auto x = tape.input(Array<float>({1, 1}, {1}));
    return *ops::linear(x, weight, {.scaling = scaling::none}).value().data();
  };
  EXPECT_EQ(forward(), 2);
  tape.clear();
  weight.value.mutable_data()[0] = 3;
  EXPECT_EQ(forward(), 3);
}

TEST(Place, TellsWhoWatchesItWhenItIsLeft) {
  unit_scaling::Place place;
  const auto first = place.watch();
  const auto second = place.watch();
  const unit_scaling::Place copy = place;
  EXPECT_TRUE(*first && *second && *copy.watch());
  unit_scaling::Place moved = std::move(place);
  EXPECT_FALSE(*first || *second);
  EXPECT_TRUE(*place.watch()) << "a new one at the old place";
  const auto of_moved = moved.watch();
  moved = unit_scaling::Place();
  moved = copy;
  EXPECT_TRUE(*of_moved) << "what it is a member of was assigned to, and stays";
  const auto of_dead = unit_scaling::Place().watch();
  EXPECT_FALSE(*of_dead);
}

TEST(Parameter, IsRefusedIfItIsAnotherOneInTheSameStep) {
  Tape<precision::fp32> tape;
  Parameter weight = random_parameter("weight", {3, 3}, 0);
  const auto x = tape.input(random_array<float>({2, 3}, 1));
  const auto first = ops::linear(x, weight);
  for (const unit_scaling::Shape& shape : {unit_scaling::Shape{3, 3}, {64, 3}, {0}, {1}}) {
    weight.value = Array<float>::filled(shape, 1);
    expect_error<std::invalid_argument>([&] { (void)tape.parameter(weight); },
                                        {"'weight'", "in place", "(3, 3)", to_string(shape)});
  }
  tape.clear();
  (void)tape.parameter(weight);
}

TEST(Parameter, MayBeWrittenToBetweenUsesThatNoBackwardPassFollows) {
  Tape<precision::fp32> tape(unit_scaling::TapeMode::inference);
  Parameter weight = random_parameter("weight", {3, 3}, 0);
  (void)tape.parameter(weight);
  weight.value = Array<float>::filled({3, 3}, 1);
  EXPECT_EQ(tape.parameter(weight).value(), weight.value);
}

}  // namespace parameter_test
}  // namespace unit_scaling_test
