// SPDX-License-Identifier: MIT
#include "unit_scaling/analysis/gradient_underflow.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <memory>
#include <stdexcept>
#include <type_traits>
#include <utility>

#include "autograd/tape_support.hpp"
#include "support/errors.hpp"
#include "support/random_arrays.hpp"
#include "unit_scaling/autograd/recipe.hpp"
#include "unit_scaling/nn/bert_mlp.hpp"
#include "unit_scaling/ops/cross_entropy.hpp"
#include "unit_scaling/ops/linear.hpp"
#include "unit_scaling/recipes/simulation.hpp"

namespace gradient_underflow_test {

using namespace unit_scaling;
using namespace unit_scaling_test;
using analysis::gradient_underflow;
using analysis::GradientUnderflow;

/// The shares for y = w x with w and x of ones and a gradient of y of the two given elements. Of
/// seven gradient elements the loss has one, y two, and w has each of those two twice.
template <Precision P>
GradientUnderflow of_gradient(float first, float second, float loss_scale = 1,
                              std::shared_ptr<Recipe> recipe = nullptr) {
  const Parameter w{"w", Array<float>::filled(Shape{2, 2}, 1)};
  const auto record = [&]<Precision Q>(Tape<Q>& tape) {
    using T = typename Q::storage;
    const auto x = tape.constant(Array<T>::filled(Shape{1, 2}, T(1.0F)));
    const auto y = ops::linear(x, tape.parameter(w), {.scaling = scaling::none});
    return tape.record(WeightedSum{Array<float>(Shape{1, 2}, {first, second})}, y);
  };
  return gradient_underflow<P>(record, loss_scale, std::move(recipe));
}

TEST(GradientUnderflow, CountsElementsThatAreZeroOnlyInThePrecision) {
  // The least fp16 number is 2^-24.
  EXPECT_EQ(of_gradient<precision::fp16>(1, 0x1p-30F).underflowed, 3.0 / 7);
  EXPECT_EQ(of_gradient<precision::fp16>(1, 0x1p-24F).underflowed, 0);
  EXPECT_EQ(of_gradient<precision::fp16>(1, 0x1p-24F, 0x1p-6F).underflowed, 3.0 / 7);
  EXPECT_EQ(of_gradient<precision::fp16>(0x1p-30F, 0x1p-30F).underflowed, 6.0 / 7);
  // Zero in float as well.
  EXPECT_EQ(of_gradient<precision::fp16>(1, 0).underflowed, 0);
  EXPECT_EQ(of_gradient<precision::bf16>(1, 0x1p-30F).underflowed, 0);
  EXPECT_EQ(of_gradient<precision::fp32>(1, 0x1p-30F, 0x1p-20F).underflowed, 0);
}

TEST(GradientUnderflow, SeesTheGradientAsTheProductConsumesIt) {
  // In storage, fp16, 2^-20 is there; in E5M2, whose least number is 2^-16, it is not.
  EXPECT_EQ(of_gradient<precision::fp8>(1, 0x1p-20F).underflowed, 3.0 / 7);
  EXPECT_EQ(of_gradient<precision::fp8>(1, 0x1p-16F).underflowed, 0);
}

TEST(GradientUnderflow, RefusesTwoStepsThatDiffer) {
  const Parameter w{"w", Array<float>::filled(Shape{2, 2}, 1)};
  const auto of = [&](std::size_t float_rows, std::size_t float_layers) {
    return [&w, float_rows, float_layers]<Precision Q>(Tape<Q>& tape) {
      constexpr bool is_float = std::is_same_v<Q, precision::fp32>;
      const Shape shape{is_float ? float_rows : 2, 2};
      auto y = tape.constant(Array<typename Q::storage>(shape));
      for (std::size_t i = 0; i < (is_float ? float_layers : 2); ++i) y = ops::linear(y, w);
      return tape.record(WeightedSum{Array<float>(shape)}, y);
    };
  };
  (void)gradient_underflow<precision::fp16>(of(2, 2));
  for (const auto& record : {of(1, 2), of(2, 1)}) {
    expect_error<std::invalid_argument>([&] { (void)gradient_underflow<precision::fp16>(record); },
                                        {"gradient_underflow", "same step", "another gradient of"});
  }
}

TEST(GradientUnderflow, CountsElementsThatAreNotFinite) {
  EXPECT_EQ(of_gradient<precision::fp16>(1, 1e6F).non_finite, 3.0 / 7);
  EXPECT_EQ(of_gradient<precision::fp16>(1, 1e6F).underflowed, 0);
  EXPECT_EQ(of_gradient<precision::fp32>(1, 1e6F).non_finite, 0);
}

TEST(GradientUnderflow, OfASimulationIsThatOfTheRealFormats) {
  // Beyond the range of E5M2 and of float16, within it, and below either's least number.
  for (const float element : {1e6F, 6e4F, 1.0F, 0x1p-16F, 0x1p-20F, 0x1p-30F}) {
    const auto expect_same = [&](const GradientUnderflow& simulated,
                                 const GradientUnderflow& real) {
      EXPECT_EQ(simulated.underflowed, real.underflowed) << element;
      EXPECT_EQ(simulated.non_finite, real.non_finite) << element;
    };
    const auto recipe = [](const char* rules) {
      return std::make_shared<Simulation>(Simulation::parse(rules));
    };
    const auto fp8 = recipe("e4m3fn/e5m2,*=float16/float16");
    const auto fp8_in_fp16 = recipe("e4m3fn/e5m2");
    const auto fp16 = recipe("*=float16/float16");
    expect_same(of_gradient<precision::fp32>(1, element, 1, fp8),
                of_gradient<precision::fp8>(1, element));
    expect_same(of_gradient<precision::fp16>(1, element, 1, fp8_in_fp16),
                of_gradient<precision::fp8>(1, element));
    expect_same(of_gradient<precision::fp32>(1, element, 1, fp16),
                of_gradient<precision::fp16>(1, element));
  }
}

TEST(GradientUnderflow, OfStochasticRoundingCountsWhatTheStepDrew) {
  // A quarter of the least number of E5M2: to nearest all is lost, so three quarters.
  constexpr std::size_t outputs = 4096;
  const Parameter w{"w", Array<float>::filled(Shape{outputs, 1}, 1)};
  const auto record = [&]<Precision Q>(Tape<Q>& tape) {
    const auto x = tape.constant(Array<float>::filled(Shape{1, 1}, 1));
    const auto y = ops::linear(x, tape.parameter(w), {.scaling = scaling::none});
    return tape.record(WeightedSum{Array<float>::filled(Shape{1, outputs}, 0x1p-18F)}, y);
  };
  // With x = 1 the gradient of w is that of y, as it was rounded.
  Tape<precision::fp32> tape;
  tape.use_recipe(Simulation::parse("e4m3fn/e5m2~", 7));
  tape.backward(record(tape));
  const auto gradient = tape.gradient(w);
  const auto zeros =
      static_cast<double>(std::count(gradient.span().begin(), gradient.span().end(), 0.0F));
  // Four standard deviations of the count, (n/4 · 3/4)^½.
  EXPECT_NEAR(zeros, 0.75 * outputs, 4 * std::sqrt(outputs * 0.1875));

  const auto seen = gradient_underflow<precision::fp32>(
      record, 1, std::make_shared<Simulation>(Simulation::parse("e4m3fn/e5m2~", 7)));
  EXPECT_EQ(seen.underflowed, 2 * zeros / (2 * outputs + 1));
}

template <Precision P> GradientUnderflow of_model(const Scaling& scaling, float loss_scale) {
  nn::Initialiser initialiser(1, scaling);
  const nn::BertMlp model(initialiser,
                          {.vocabulary_size = 66, .window = 16, .hidden_size = 64, .layers = 2});
  const auto ids = id_array({4, 16}, 66, 2);
  const auto selected = id_array({10}, 64, 3);
  const auto labels = id_array({10}, 66, 4);
  return gradient_underflow<P>(
      [&](auto& tape) {
        return ops::cross_entropy(model(tape, ids, selected), labels, {.scaling = scaling});
      },
      loss_scale);
}

TEST(GradientUnderflow, OfAnOrdinaryModelTakesMostGradientsWithATinyLossScale) {
  // A logit's gradient of 1 / (66 · 10), times 2^-20, is 2^-29, far below the least fp16 number;
  // those in the sums of bias gradients and of the labels' own logits are larger.
  const auto tiny = of_model<precision::fp16>(scaling::none, 0x1p-20F);
  const auto one = of_model<precision::fp16>(scaling::none, 1);
  EXPECT_GT(tiny.underflowed, 0.7);
  EXPECT_LT(one.underflowed, 0.05);
  EXPECT_EQ(tiny.non_finite, 0);
  EXPECT_EQ(of_model<precision::fp32>(scaling::none, 0x1p-20F).underflowed, 0);
}

TEST(GradientUnderflow, OfAUnitScaledModelIsSmallWithoutALossScale) {
  EXPECT_LT(of_model<precision::fp16>(scaling::paper, 1).underflowed, 0.01);
  EXPECT_LT(of_model<precision::fp8>(scaling::paper, 1).underflowed, 0.01);
  EXPECT_EQ(of_model<precision::fp32>(scaling::paper, 1).underflowed, 0);
}

}  // namespace gradient_underflow_test
