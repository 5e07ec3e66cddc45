// SPDX-License-Identifier: MIT
#include "unit_scaling/autograd/tape.hpp"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "support/errors.hpp"
#include "tape_support.hpp"
#include "unit_scaling/ops/add.hpp"
#include "unit_scaling/ops/cross_entropy.hpp"
#include "unit_scaling/ops/dropout.hpp"
#include "unit_scaling/ops/embedding.hpp"
#include "unit_scaling/ops/matmul.hpp"
#include "unit_scaling/ops/relu.hpp"
#include "unit_scaling/ops/softmax.hpp"
#include "unit_scaling/ops/sum.hpp"
#include "unit_scaling/ops/token_mixing.hpp"

namespace unit_scaling_test {
namespace tape_test {

using unit_scaling::Array;
using unit_scaling::Observation;
using unit_scaling::OpRecord;
using unit_scaling::Parameter;
using unit_scaling::Scaling;
using unit_scaling::Shape;
using unit_scaling::ShapeError;
using unit_scaling::Tape;
using unit_scaling::TapeMode;
using unit_scaling::TensorRole;
using unit_scaling::Variable;
namespace constraint = unit_scaling::constraint;
namespace ops = unit_scaling::ops;
namespace precision = unit_scaling::precision;
namespace scaling = unit_scaling::scaling;

// --- The tape computes what the ops compute ------------------------------------------------------

template <class P> class TapeInEachPrecision : public ::testing::Test {};
TYPED_TEST_SUITE(TapeInEachPrecision, Policies, PolicyNames);

TYPED_TEST(TapeInEachPrecision, RecordsTheBitsThatTheOpsComputeOnArrays) {
  using P = TypeParam;
  using T = typename P::storage;
  const P p;
  const Array<std::int32_t> ids({4}, {2, 0, 2, 1});
  const Parameter table = random_parameter("table", {3, 6}, 0);
  const Parameter weight = random_parameter("weight", {6, 6}, 1);
  const Parameter bias = random_parameter("bias", {6}, 2);
  const Parameter mixer = random_parameter("mixer", {4, 4}, 3);
  const auto other = random_array<T>({6, 4}, 4);

  Tape<P> tape;
  const auto a0 = ops::embedding(p, ids, table.value);
  const auto v0 = ops::embedding(ids, tape.parameter(table));
  ASSERT_TRUE(same_bits(v0.value(), a0));
  const auto a1 = ops::linear(p, a0, weight.value, bias.value);
  const auto v1 = ops::linear(v0, weight, bias);
  ASSERT_TRUE(same_bits(v1.value(), a1));
  const auto a2 = ops::gelu(p, a1);
  const auto v2 = ops::gelu(v1);
  ASSERT_TRUE(same_bits(v2.value(), a2));
  const auto a3 = ops::layer_norm(p, a2, bias.value, bias.value);
  const auto v3 = ops::layer_norm(v2, bias, bias);
  ASSERT_TRUE(same_bits(v3.value(), a3));
  const auto a4 = ops::token_mixing(p, a3, mixer.value);
  const auto v4 = ops::token_mixing(v3, mixer);
  ASSERT_TRUE(same_bits(v4.value(), a4));
  const auto a5 = ops::dropout(p, a4, {.probability = 0.25});
  const auto v5 = ops::dropout(v4, {.probability = 0.25});
  ASSERT_TRUE(same_bits(v5.value(), a5));
  const auto a6 = ops::add(p, a5, a0);
  const auto v6 = ops::add(v5, v0);
  ASSERT_TRUE(same_bits(v6.value(), a6));
  const auto [a7, a8] = ops::residual_split(p, a6);
  const auto [v7, v8] = ops::residual_split(v6);
  ASSERT_TRUE(same_bits(v7.value(), a7) && same_bits(v8.value(), a8));
  const auto a9 = ops::residual_add(p, ops::softmax(p, a7), a8);
  const auto v9 = ops::residual_add(ops::softmax(v7), v8);
  ASSERT_TRUE(same_bits(v9.value(), a9));
  const auto a10 = ops::matmul(p, a9, other);
  const auto v10 = ops::matmul(v9, tape.constant(other));
  ASSERT_TRUE(same_bits(v10.value(), a10));
  const auto a11 = ops::cross_entropy(p, a10, ids);
  const auto v11 = ops::cross_entropy(v10, ids);
  ASSERT_TRUE(same_bits(v11.value(), a11));
}

TYPED_TEST(TapeInEachPrecision, RoundsWhatItIsGivenOnceToWhatItStores) {
  using T = typename TypeParam::storage;
  // Halves between numbers of 11 bits of fraction and of 8, and the next double above and below;
  // the largest of each format, beyond, and what is no number.
  std::vector<double> numbers{0.0, -0.0, 65504.0, 65520.0, 1e39, HUGE_VAL, -HUGE_VAL, std::nan("")};
  for (const double half : {1 + 0x1p-11, 1 + 0x3p-11, 1 + 0x1p-8, 1 + 0x3p-8, 0x1p-25, 0x1p-134}) {
    for (const double x : {half, std::nextafter(half, 0.0), std::nextafter(half, 2.0)}) {
      numbers.insert(numbers.end(), {x, -x});
    }
  }
  const auto bits_of = [](T x) {
    return std::isnan(static_cast<double>(x))
               ? std::numeric_limits<std::uint64_t>::max()
               : std::bit_cast<std::uint64_t>(static_cast<double>(x));
  };
  Tape<TypeParam> tape;
  const auto expect_rounded = [&]<class From>(std::type_identity<From>) {
    Array<From> given(Shape{numbers.size()});
    for (std::size_t i = 0; i < numbers.size(); ++i) {
      given.mutable_data()[i] = static_cast<From>(numbers[i]);
    }
    const auto constant = tape.constant(given);
    const auto input = tape.input(given);
    for (std::size_t i = 0; i < numbers.size(); ++i) {
      const auto expected = static_cast<T>(given.data()[i]);
      EXPECT_EQ(bits_of(constant.value().data()[i]), bits_of(expected)) << numbers[i];
      EXPECT_EQ(bits_of(input.value().data()[i]), bits_of(expected)) << numbers[i];
    }
  };
  expect_rounded(std::type_identity<double>{});
  expect_rounded(std::type_identity<float>{});
}

TYPED_TEST(TapeInEachPrecision, GivesTheGradientsThatTheOpComputesOnArrays) {
  using P = TypeParam;
  using T = typename P::storage;
  const auto x = random_array<T>({7, 5}, 0);
  const Parameter weight = random_parameter("weight", {3, 5}, 1);
  const Parameter bias = random_parameter("bias", {3}, 2);
  const auto dy = random_array<float>({7, 3}, 3);

  const ops::Linear op;
  const auto s = op.scales(x, weight.value, bias.value);
  const auto forward = op.forward(P{}, s, x, weight.value, bias.value);
  Array<T> seed(dy.shape());
  for (std::size_t i = 0; i < dy.size(); ++i) {
    seed.mutable_data()[i] = static_cast<T>(dy.data()[i]);
  }
  const auto [dx, dw, db] = op.backward(P{}, s, forward.saved, seed);

  Tape<P> tape;
  const auto input = tape.input(x);
  const auto y = ops::linear(input, weight, bias, op);
  tape.backward(tape.record(WeightedSum{dy}, y));
  EXPECT_TRUE(same_bits(tape.gradient(input), dx));
  EXPECT_TRUE(same_bits(tape.gradient(weight), dw));
  EXPECT_TRUE(same_bits(tape.gradient(bias), db));
}

TYPED_TEST(TapeInEachPrecision, ReusesAllItsMemoryFromTheSecondStepOn) {
  using P = TypeParam;
  const Model model;
  Tape<P> tape;
  const auto step = [&](std::uint32_t number) {
    tape.clear();
    tape.backward(model.loss(tape.input(Model::input<P>(number)), ModelScaling(scaling::paper)));
  };
  step(0);
  const std::size_t allocations = tape.memory().upstream_allocations();
  const std::size_t held = tape.memory().bytes_held();
  ASSERT_GT(allocations, 0U);
  for (std::uint32_t number = 1; number < 4; ++number) {
    step(number);
    EXPECT_EQ(tape.memory().upstream_allocations(), allocations);
    EXPECT_EQ(tape.memory().bytes_held(), held);
  }
}

TYPED_TEST(TapeInEachPrecision, RepeatsAStepBitForBit) {
  using P = TypeParam;
  const Model model;
  Tape<P> tape;
  const auto gradient = [&] {
    tape.clear();
    tape.backward(model.loss(tape.input(Model::input<P>()), ModelScaling(scaling::paper)));
    // A copy outside the tape's memory, which the next step uses again.
    const auto& inside = tape.gradient(model.first);
    return Array<typename P::storage>(inside.shape(), inside.span());
  };
  const auto first = gradient();
  EXPECT_FALSE(first.empty());
  EXPECT_TRUE(same_bits(gradient(), first));
}

// --- Gradients -----------------------------------------------------------------------------------

/// Central differences of the model's loss in double with respect to every element of `values`.
/// They are off by h²/6 times the third derivative, some 1e-7 of the gradient for h = 2^-10, and by
/// the rounding of the loss, 1e-16 / h.
template <class T>
std::vector<double> difference_quotients(const Model& model, const ModelScaling& model_scaling,
                                         const Array<double>& x, Array<T>& values) {
  constexpr double h = 0x1p-10;
  std::vector<double> result;
  for (std::size_t i = 0; i < values.size(); ++i) {
    const T old = values.data()[i];
    const auto loss_at = [&](double value) {
      values.mutable_data()[i] = static_cast<T>(value);
      Tape<precision::fp64> tape(TapeMode::inference);
      return *model.loss(tape.input(x), model_scaling).value().data();
    };
    const double here = static_cast<double>(old);
    // Parameters are float: the step is what the rounded values differ by.
    const double step = static_cast<double>(static_cast<T>(here + h)) -
                        static_cast<double>(static_cast<T>(here - h));
    const double above = loss_at(here + h);
    const double below = loss_at(here - h);
    result.push_back((above - below) / step);
    values.mutable_data()[i] = old;
  }
  return result;
}

/// The multiple of `reference` nearest to `gradient`, and how far `gradient` is from it in relation
/// to its own length.
struct Proportion {
  double factor;
  double deviation;
};

Proportion proportion(const Array<double>& gradient, const std::vector<double>& reference) {
  double product = 0;
  double reference_square = 0;
  double square = 0;
  for (std::size_t i = 0; i < reference.size(); ++i) {
    product += gradient.data()[i] * reference[i];
    reference_square += reference[i] * reference[i];
    square += gradient.data()[i] * gradient.data()[i];
  }
  const double factor = product / reference_square;
  double error = 0;
  for (std::size_t i = 0; i < reference.size(); ++i) {
    const double difference = gradient.data()[i] - factor * reference[i];
    error += difference * difference;
  }
  return {factor, std::sqrt(error / square)};
}

/// Ten times what difference quotients are off by.
constexpr double quotient_tolerance = 1e-5;

TEST(TapeGradient, IsThatOfFiniteDifferencesWhereNothingIsScaled) {
  Model model;
  const ModelScaling unscaled(scaling::none);
  auto x = Model::input<precision::fp64>();
  Tape<precision::fp64> tape;
  const auto input = tape.input(x);
  tape.backward(model.loss(input, unscaled));
  for (Parameter* parameter : model.parameters()) {
    const auto expected = difference_quotients(model, unscaled, x, parameter->value);
    const Array<double>& gradient = tape.gradient(*parameter);
    ASSERT_EQ(gradient.shape(), parameter->value.shape());
    for (std::size_t i = 0; i < expected.size(); ++i) {
      EXPECT_NEAR(gradient.data()[i], expected[i], quotient_tolerance)
          << parameter->name << " " << i;
    }
  }
  // The input itself is moved here; the tape has a copy.
  const auto expected = difference_quotients(model, unscaled, x, x);
  for (std::size_t i = 0; i < expected.size(); ++i) {
    EXPECT_NEAR(tape.gradient(input).data()[i], expected[i], quotient_tolerance) << "input " << i;
  }
}

TEST(TapeGradient, OfAConstrainedGraphIsAMultipleOfTheTrueOneForEachParameter) {
  Model model;
  auto x = Model::input<precision::fp64>();
  for (const Scaling& rules : {scaling::paper, scaling::umup}) {
    for (const auto& bound : {constraint::gmean, constraint::hmean, constraint::amean,
                              constraint::to_output_scale, constraint::to_grad_input_scale}) {
      const ModelScaling constrained(rules.with(bound));
      Tape<precision::fp64> tape;
      tape.backward(model.loss(tape.input(x), constrained));
      for (Parameter* parameter : model.parameters()) {
        const auto truth = difference_quotients(model, constrained, x, parameter->value);
        const Proportion found = proportion(tape.gradient(*parameter), truth);
        EXPECT_GT(found.factor, 1.5) << parameter->name << " is scaled";
        EXPECT_LT(found.deviation, quotient_tolerance)
            << parameter->name << " under " << to_string(rules.rule) << ", " << bound.name;
      }
    }
  }
}

// The branch then weighs differently against the skip connection in the two directions, which
// everything before the branch feels; what comes after or lies inside does not.
TEST(TapeGradient, OfAnUnconstrainedOpInAResidualBranchIsNoMultipleOfTheTrueOne) {
  Model model;
  auto x = Model::input<precision::fp64>();
  ModelScaling unconstrained(scaling::paper);
  unconstrained.gelu = unconstrained.gelu.with(constraint::none);
  Tape<precision::fp64> tape;
  tape.backward(model.loss(tape.input(x), unconstrained));
  const auto deviation = [&](Parameter& parameter) {
    return proportion(tape.gradient(parameter),
                      difference_quotients(model, unconstrained, x, parameter.value))
        .deviation;
  };
  // β / α of GELU is 0.87, so the branch's share of the gradient is off by 13 %.
  EXPECT_GT(deviation(model.first), 1e-2);
  EXPECT_LT(deviation(model.last), quotient_tolerance);
}

TYPED_TEST(TapeInEachPrecision, TellsOfEachGradientOnceAndWhenItIsFinal) {
  using P = TypeParam;
  const Parameter twice = random_parameter("twice", {6, 6}, 0);
  const Parameter once = random_parameter("once", {6, 6}, 1);
  const Parameter aside = random_parameter("aside", {6, 6}, 2);
  const Parameter unread = random_parameter("unread", {6, 6}, 3);
  const Array<float> x = random_parameter("x", {5, 6}, 4).value;
  const auto backward = [&](Tape<P>& tape) {
    tape.clear();
    const auto rows = tape.constant(x);
    static_cast<void>(tape.parameter(unread));
    const auto h = ops::linear(ops::linear(rows, tape.parameter(twice)), tape.parameter(once));
    const auto y = ops::linear(h, tape.parameter(twice));
    const auto no_part_of_the_loss = ops::linear(rows, tape.parameter(aside));
    tape.backward(ops::sum(ops::sum(y)));
  };
  Tape<P> silent;
  backward(silent);
  Tape<P> tape;
  std::vector<std::string> told;
  tape.on_final_gradient([&](const Parameter& parameter) {
    told.push_back(parameter.name);
    EXPECT_TRUE(tape.gradient(parameter) == silent.gradient(parameter)) << parameter.name;
  });
  for (int step = 0; step < 2; ++step) {
    told.clear();
    backward(tape);
    EXPECT_EQ(told, (std::vector<std::string>{"aside", "once", "twice"}));
    EXPECT_TRUE(tape.gradient(twice) == silent.gradient(twice));
    EXPECT_TRUE(tape.gradient(aside).empty());
  }
  tape.on_final_gradient({});
  told.clear();
  backward(tape);
  EXPECT_TRUE(told.empty());
  tape.on_final_gradient([](const Parameter&) { throw std::runtime_error("no room"); });
  EXPECT_THROW(backward(tape), std::runtime_error);
  EXPECT_TRUE(tape.gradient(once).empty()) << "half a backward pass";
}

/// Σ of two layers of the parameters.
void backward_of_two(Tape<precision::fp32>& tape, const Parameter& first, const Parameter& second) {
  tape.clear();
  const auto x = tape.constant(Array<float>::filled({2, 4}, 1));
  const auto h = ops::linear(x, tape.parameter(first));
  tape.backward(ops::sum(ops::sum(ops::linear(h, tape.parameter(second)))));
}

TEST(TapeListener, MayReplaceItselfWhileItIsCalled) {
  const Parameter first = random_parameter("first", {4, 4}, 0);
  const Parameter second = random_parameter("second", {4, 4}, 1);
  Tape<precision::fp32> tape;
  std::vector<std::string> told;
  // Longer than what a function object holds in itself, so that freed memory would be read.
  tape.on_final_gradient([&, prefix = std::string(100, 'x')](const Parameter& parameter) {
    tape.on_final_gradient([&](const Parameter& next) { told.push_back("next " + next.name); });
    told.push_back(prefix + " " + parameter.name);
  });
  backward_of_two(tape, first, second);
  EXPECT_EQ(told, (std::vector<std::string>{std::string(100, 'x') + " second", "next first"}));
  told.clear();
  tape.on_final_gradient([&](const Parameter& parameter) {
    tape.on_final_gradient({});
    told.push_back(parameter.name);
  });
  for (int step = 0; step < 2; ++step) backward_of_two(tape, first, second);
  EXPECT_EQ(told, std::vector<std::string>{"second"});
}

TEST(TapeListener, ThatClearsTheTapeEndsTheBackwardPassWithAnError) {
  const Parameter first = random_parameter("first", {4, 4}, 0);
  const Parameter second = random_parameter("second", {4, 4}, 1);
  for (const std::string at : {"second", "first"}) {
    Tape<precision::fp32> tape;
    tape.on_final_gradient([&](const Parameter& parameter) {
      if (parameter.name == at) tape.clear();
    });
    expect_error<std::invalid_argument>([&] { backward_of_two(tape, first, second); },
                                        {"backward", "Tape::clear by a listener"});
    EXPECT_TRUE(tape.gradient(second).empty());
    tape.on_final_gradient({});
    backward_of_two(tape, first, second);  // the tape can be used
    EXPECT_FALSE(tape.gradient(first).empty());
  }
}

TEST(TapeGradient, OfAValueUsedSeveralTimesIsTheSum) {
  Tape<precision::fp32> tape;
  const auto x = tape.input(Array<float>({2}, {1, 2}));
  const auto y = ops::add(ops::add(x, x, {scaling::none}), x, {scaling::none});
  tape.backward(tape.record(WeightedSum{Array<float>({2}, {10, 100})}, y));
  EXPECT_EQ(tape.gradient(x), Array<float>({2}, {30, 300}));
}

TEST(TapeGradient, ScalesExactlyWithALossScaleThatIsAPowerOfTwo) {
  const Model model;
  const auto gradients = [&](float seed) {
    Tape<precision::fp32> tape;
    const auto input = tape.input(Model::input<precision::fp32>());
    tape.backward(model.loss(input, ModelScaling(scaling::paper)), seed);
    std::vector<float> all;
    const auto collect = [&](const Array<float>& gradient) {
      all.insert(all.end(), gradient.span().begin(), gradient.span().end());
    };
    collect(tape.gradient(input));
    for (const Parameter* parameter : model.parameters()) {
      collect(tape.gradient(*parameter));
    }
    return all;
  };
  const auto unscaled = gradients(1);
  for (const float seed : {0x1p12F, 0x1p-9F}) {
    const auto scaled = gradients(seed);
    ASSERT_EQ(scaled.size(), unscaled.size());
    for (std::size_t i = 0; i < scaled.size(); ++i) EXPECT_EQ(scaled[i], seed * unscaled[i]);
  }
}

// The loss scale is beyond the range of float16, the gradients it leads to are not.
TEST(TapeGradient, OfALossIsKeptInThePrecisionOfTheLoss) {
  using unit_scaling::float16;
  constexpr float seed = 0x1p17F;
  Tape<precision::fp16> tape;
  const auto logits = tape.input(Array<float16>({1, 2}, {float16(8.0F), float16(-8.0F)}));
  const Array<std::int32_t> labels({1}, {0});
  tape.backward(ops::cross_entropy(logits, labels, {.scaling = scaling::none}), seed);
  // The label's own gradient is (p − 1), of which single precision keeps 2^-24 or so.
  EXPECT_NEAR(static_cast<float>(tape.gradient(logits).data()[1]), seed * std::exp(-16.0F), 1e-4F);
}

TEST(TapeGradient, OfAnUnusedOutputIsZero) {
  const Array<float> x({2}, {1, 2});
  const auto weights = unit_scaling::ops::residual_weights(unit_scaling::Rule::paper, 0.36);
  Tape<precision::fp32> tape;
  for (const bool use_skip : {false, true}) {
    tape.clear();
    const auto input = tape.input(x);
    const auto [branch, skip] = ops::residual_split(input, {.tau = 0.36});
    tape.backward(sum(use_skip ? skip : branch));
    const auto expected = static_cast<float>(use_skip ? weights.skip : weights.branch);
    EXPECT_EQ(tape.gradient(input), Array<float>::filled({2}, expected));
  }
}

TEST(TapeGradient, OfABatchOfNothingIsZeroInTheShapeOfWhatItIsTheGradientOf) {
  const Parameter weight = random_parameter("weight", {5, 7}, 0);
  Tape<precision::fp32> tape;
  const auto x = tape.input(Array<float>(Shape{0, 7}));
  tape.backward(ops::sum(ops::sum(ops::relu(ops::linear(x, weight)))));
  EXPECT_EQ(tape.gradient(x).shape(), (Shape{0, 7}));
  EXPECT_EQ(tape.gradient(weight), Array<float>::filled({5, 7}, 0));
}

TEST(TapeGradient, DoesNotReachWhatTheLossDoesNotDependOn) {
  Tape<precision::fp32> tape;
  const Parameter unused = random_parameter("unused", {2, 2}, 0);
  const Parameter never_seen = random_parameter("never seen", {2, 2}, 0);
  const auto used = tape.input(Array<float>({1, 2}, {1, 2}));
  const auto ignored = tape.input(Array<float>({1, 2}, {1, 2}));
  const auto dead_end = ops::linear(ignored, unused);
  bool dead_end_ran_backward = false;
  tape.observe_with([&](const Observation& seen) {
    dead_end_ran_backward |= seen.name == "linear" && seen.role == TensorRole::gradient;
  });
  tape.backward(sum(ops::gelu(used)));
  EXPECT_FALSE(tape.gradient(used).empty());
  EXPECT_TRUE(tape.gradient(ignored).empty());
  EXPECT_TRUE(tape.gradient(unused).empty());
  EXPECT_TRUE(tape.gradient(never_seen).empty());
  EXPECT_FALSE(dead_end_ran_backward);
}

TEST(TapeGradient, OfAConstantIsNeitherWantedNorComputed) {
  Tape<precision::fp32> tape;
  const auto constant = tape.constant(random_array<float>({2, 3}, 0));
  const Parameter weight = random_parameter("weight", {4, 3}, 1);
  const auto activated = ops::gelu(constant);
  EXPECT_EQ(tape.size(), 0U);  // nothing behind it wants a gradient
  tape.backward(sum(ops::linear(activated, weight)));
  EXPECT_TRUE(tape.gradient(constant).empty());
  EXPECT_FALSE(tape.gradient(weight).empty());
}

// --- Memory --------------------------------------------------------------------------------------

TEST(TapeMemory, KeepsTheOneByteOperandsOfALinearLayerUnderFp8) {
  Tape<precision::fp8> tape;
  const Parameter weight = random_parameter("weight", {4, 16}, 0);
  const auto x = tape.input(random_array<unit_scaling::float16>({8, 16}, 1));
  const auto y = ops::linear(x, weight);
  EXPECT_EQ(tape.saved_bytes(), 8 * 16 + 4 * 16);
}

TEST(TapeMemory, CountsSharedInputsOnceAndParametersNotAtAllUnderFp32) {
  Tape<precision::fp32> tape;
  const Parameter weight = random_parameter("weight", {4, 16}, 0);
  const auto x = tape.input(random_array<float>({8, 16}, 1));
  const auto y = ops::linear(x, weight);
  EXPECT_EQ(tape.saved_bytes(), 8 * 16 * sizeof(float));
  const auto z = ops::linear(x, weight);
  EXPECT_EQ(tape.saved_bytes(), 8 * 16 * sizeof(float));
}

TEST(TapeMemory, IsFreedByTheBackwardPass) {
  constexpr std::size_t bytes = 64 * 1024;
  Tape<precision::fp32> tape;
  const auto x = tape.input(Array<float>::filled({bytes / sizeof(float)}, 0.5F));
  {
    auto y = x;
    for (int i = 0; i < 10; ++i) y = ops::gelu(y);
    const auto loss = sum(y);
    // The input and the input of each GELU but the first; the loss keeps one array more.
    EXPECT_GE(tape.memory().bytes_in_use(), 11 * bytes);
    EXPECT_EQ(tape.size(), 11U);
    tape.backward(loss);
  }
  EXPECT_EQ(tape.size(), 0U);
  EXPECT_EQ(tape.saved_bytes(), 0U);
  // The input and its gradient remain, and small change: the control blocks of the two.
  EXPECT_LT(tape.memory().bytes_in_use(), 2 * bytes + 1024);
}

TEST(TapeMemory, DoesNotKeepEveryGradientDuringTheBackwardPass) {
  constexpr std::size_t bytes = 64 * 1024;
  Tape<precision::fp32> tape;
  const auto x = tape.input(Array<float>::filled({bytes / sizeof(float)}, 0.5F));
  std::size_t before = 0;
  {
    auto y = x;
    for (int i = 0; i < 20; ++i) y = ops::gelu(y);
    const auto loss = sum(y);
    y = x;
    before = tape.memory().bytes_held();
    tape.backward(loss);
  }
  // What an op saved is freed as its gradient comes, so at most two arrays are new.
  EXPECT_LE(tape.memory().bytes_held(), before + 2 * bytes + 4096);
}

TEST(TapeMemory, IsFreedByClear) {
  Tape<precision::fp32> tape;
  {
    const auto x = tape.input(random_array<float>({100}, 0));
    const auto y = ops::gelu(ops::gelu(x));
  }
  EXPECT_GT(tape.memory().bytes_in_use(), 0U);
  tape.clear();
  EXPECT_EQ(tape.size(), 0U);
  EXPECT_EQ(tape.memory().bytes_in_use(), 0U);
}

TEST(TapeMemory, TemporariesThatNoOpKeepsAreFreedAtOnce) {
  Tape<precision::fp32> tape(TapeMode::inference);
  auto y = tape.input(random_array<float>({1000}, 0));
  y = ops::gelu(y);
  const std::size_t held = tape.memory().bytes_held();
  for (int i = 0; i < 10; ++i) y = ops::gelu(y);
  EXPECT_EQ(tape.memory().bytes_held(), held);
}

// --- What cannot be done -------------------------------------------------------------------------

constexpr int deep = 100'000;

TEST(TapeDepth, OfAHundredThousandOpsRunsBackward) {
  Tape<precision::fp32> tape;
  const auto x = tape.input(Array<float>({1}, {1.0F}));
  auto y = x;
  for (int i = 0; i < deep; ++i) y = ops::dropout(y, {.probability = 0});
  EXPECT_EQ(tape.size(), std::size_t{deep});
  tape.backward(sum(y));
  EXPECT_EQ(tape.gradient(x), Array<float>({1}, {1.0F}));
}

TEST(TapeDepth, OfAHundredThousandOpsIsClearedAndDestroyed) {
  const auto record = [](Tape<precision::fp32>& tape) {
    auto y = tape.input(Array<float>({1}, {1.0F}));
    for (int i = 0; i < deep; ++i) y = ops::gelu(y);
  };
  Tape<precision::fp32> tape;
  record(tape);
  tape.clear();
  EXPECT_EQ(tape.size(), 0U);
  record(tape);
}

TEST(TapeErrors, VariablesFromBeforeClearAreRefused) {
  Tape<precision::fp32> tape;
  const auto x = tape.input(Array<float>({1}, {1}));
  const auto loss = sum(x);
  tape.clear();
  EXPECT_THROW(static_cast<void>(ops::gelu(x)), std::invalid_argument);
  EXPECT_THROW(tape.backward(loss), std::invalid_argument);
  EXPECT_THROW(static_cast<void>(tape.gradient(x)), std::invalid_argument);
  // Also beside one that is good, and when as many values have been recorded anew.
  const auto fresh = tape.input(Array<float>({1}, {1}));
  EXPECT_THROW(static_cast<void>(ops::add(fresh, x)), std::invalid_argument);
  EXPECT_EQ(tape.size(), 0U);
}

TEST(TapeErrors, VariablesOfAnotherTapeAreRefused) {
  Tape<precision::fp32> tape;
  Tape<precision::fp32> other;
  const auto x = tape.input(Array<float>({1}, {1}));
  const auto foreign = other.input(Array<float>({1}, {1}));
  EXPECT_THROW(static_cast<void>(ops::add(x, foreign)), std::invalid_argument);
  EXPECT_THROW(tape.backward(foreign), std::invalid_argument);
  EXPECT_THROW(static_cast<void>(tape.gradient(foreign)), std::invalid_argument);
}

TEST(TapeErrors, ALossMustBeOneNumber) {
  Tape<precision::fp32> tape;
  const auto x = tape.input(Array<float>({2, 3}, {1, 2, 3, 4, 5, 6}));
  try {
    tape.backward(ops::gelu(x));
    FAIL() << "no exception";
  } catch (const std::invalid_argument& error) {
    EXPECT_STREQ(error.what(), "backward: expected a loss of one number, got shape (2, 3)");
  }
  EXPECT_EQ(tape.size(), 1U);  // still there, for a loss that is one
}

TYPED_TEST(TapeInEachPrecision, RefusesASeedThatCanOnlyGiveGradientsThatAreZeroOrNoNumbers) {
  const Parameter weight = random_parameter("weight", {2, 3}, 1);
  Tape<TypeParam> tape;
  const auto of_ones = Array<typename TypeParam::storage>::filled(
      {1, 3}, static_cast<typename TypeParam::storage>(1));
  const auto loss = tape.record(WeightedSum{Array<float>::filled({1, 2}, 1)},
                                ops::linear(tape.constant(of_ones), weight));
  using Seed = typename TypeParam::compute;
  constexpr auto infinity = std::numeric_limits<Seed>::infinity();
  for (const Seed seed : {std::numeric_limits<Seed>::quiet_NaN(), infinity, -infinity, Seed{0},
                          -Seed{0}, Seed{-1}, std::numeric_limits<Seed>::denorm_min(),
                          std::numeric_limits<Seed>::max(), static_cast<Seed>(0x1p-130)}) {
    expect_domain_error([&] { tape.backward(loss, seed); }, {"backward", "seed"});
    EXPECT_EQ(tape.gradient(weight).size(), 0U);
  }
  // The tape is not unwound, and takes another one.
  tape.backward(loss, static_cast<Seed>(0x1p-20));
  EXPECT_EQ(tape.gradient(weight).shape(), weight.value.shape());
}

TEST(TapeErrors, AnOpThatThrowsLeavesTheTapeAsItWas) {
  Tape<precision::fp32> tape;
  const auto x = tape.input(random_array<float>({2, 3}, 0));
  const Parameter wrong = random_parameter("wrong", {4, 5}, 1);
  const Parameter right = random_parameter("right", {4, 3}, 2);
  EXPECT_THROW(static_cast<void>(ops::linear(x, wrong)), ShapeError);
  EXPECT_EQ(tape.size(), 0U);
  tape.backward(sum(ops::linear(x, right)));
  EXPECT_FALSE(tape.gradient(right).empty());
}

// --- Inference -----------------------------------------------------------------------------------

TEST(TapeInference, RecordsNothingAndComputesTheSame) {
  const Model model;
  const auto x = Model::input<precision::fp8>();
  Tape<precision::fp8> training;
  Tape<precision::fp8> inference(TapeMode::inference);
  const auto expected = model.loss(training.input(x), ModelScaling(scaling::paper));
  const auto loss = model.loss(inference.input(x), ModelScaling(scaling::paper));
  EXPECT_TRUE(same_bits(loss.value(), expected.value()));
  EXPECT_GT(training.size(), 0U);
  EXPECT_EQ(inference.size(), 0U);
  EXPECT_EQ(inference.saved_bytes(), 0U);
  expect_error<std::invalid_argument>([&] { inference.backward(loss); }, {"for inference"});
  EXPECT_TRUE(inference.gradient(model.shared).empty());
}

TEST(Tape, RefusesToRunBackwardTwice) {
  Tape<precision::fp32> tape;
  const auto loss = sum(tape.input(random_array<float>({4}, 1)));
  tape.backward(loss);
  expect_error<std::invalid_argument>([&] { tape.backward(loss); }, {"clear"});
  tape.clear();
  tape.backward(sum(tape.input(random_array<float>({4}, 1))));
}

TEST(Tape, RefusesALossThatDependsOnNothing) {
  Tape<precision::fp32> tape;
  const auto loss = sum(tape.constant(random_array<float>({4}, 1)));
  expect_error<std::invalid_argument>([&] { tape.backward(loss); },
                                      {"depends on a parameter or an input"});
}

// --- Observation ---------------------------------------------------------------------------------

struct Seen {
  std::string name;
  std::size_t index;
  TensorRole role;
  std::string format;
  Shape shape;
  std::vector<float> elements;
};

std::vector<Seen> observe(Tape<precision::fp8>& tape, const auto& run) {
  std::vector<Seen> all;
  tape.observe_with([&](const Observation& o) {
    all.push_back({std::string(o.name), o.index, o.role, std::string(o.format), o.shape,
                   std::vector<float>(o.elements.begin(), o.elements.end())});
  });
  run();
  tape.observe_with(nullptr);
  return all;
}

template <class T> std::vector<float> decoded(const Array<T>& array) {
  std::vector<float> result;
  for (const T element : array.span()) result.push_back(static_cast<float>(element));
  return result;
}

TEST(TapeObserver, SeesEachValueAndEachGradientInOrder) {
  Tape<precision::fp8> tape;
  const Parameter weight = random_parameter("weight", {4, 3}, 0);
  const auto x = tape.input(random_array<unit_scaling::float16>({2, 3}, 1));
  const Array<std::int32_t> labels({2}, {3, 1});

  std::vector<std::vector<float>> values;
  const auto seen = observe(tape, [&] {
    const auto h = ops::linear(x, weight);
    const auto [branch, skip] = ops::residual_split(h);
    const auto y = ops::residual_add(ops::gelu(branch), skip);
    const auto loss = ops::cross_entropy(y, labels);
    values = {decoded(weight.value),
              decoded(x.value()),
              decoded(weight.value),
              decoded(h.value()),
              decoded(branch.value()),
              decoded(skip.value()),
              decoded(ops::gelu(precision::fp8{}, branch.value())),
              decoded(y.value()),
              decoded(loss.value())};
    tape.backward(loss);
  });

  struct Expected {
    const char* name;
    std::size_t index;
    TensorRole role;
    const char* format;
  };
  const std::vector<Expected> expected{
      {"weight", 0, TensorRole::parameter, "float32"},
      {"linear", 0, TensorRole::operand, "float8_e4m3fn"},  // x
      {"linear", 0, TensorRole::operand, "float8_e4m3fn"},  // weight
      {"linear", 0, TensorRole::value, "float16"},
      {"residual_split", 1, TensorRole::value, "float16"},  // the branch
      {"residual_split", 1, TensorRole::value, "float16"},  // the skip connection
      {"gelu", 2, TensorRole::value, "float16"},
      {"residual_add", 3, TensorRole::value, "float16"},
      {"cross_entropy", 4, TensorRole::value, "float32"},
      {"cross_entropy", 4, TensorRole::gradient, "float32"},
      {"residual_add", 3, TensorRole::gradient, "float16"},
      {"gelu", 2, TensorRole::gradient, "float16"},
      {"residual_split", 1, TensorRole::gradient, "float16"},
      {"residual_split", 1, TensorRole::gradient, "float16"},
      {"linear", 0, TensorRole::gradient, "float8_e5m2"},
      {"weight", 0, TensorRole::parameter_gradient, "float16"},
  };
  ASSERT_EQ(seen.size(), expected.size());
  for (std::size_t i = 0; i < seen.size(); ++i) {
    EXPECT_EQ(seen[i].name, expected[i].name) << i;
    EXPECT_EQ(seen[i].index, expected[i].index) << i;
    EXPECT_EQ(seen[i].role, expected[i].role) << i;
    EXPECT_EQ(seen[i].format, expected[i].format) << i;
    EXPECT_EQ(seen[i].elements.size(), seen[i].shape.size()) << i;
    if (i < values.size()) {
      EXPECT_EQ(seen[i].elements, values[i]) << i;
    }
  }
  EXPECT_EQ(seen[9].elements, std::vector<float>{1});
  EXPECT_EQ(seen[10].shape, (Shape{2, 4}));
  // The gradient of a sum's two ends is the same; the branch's then goes through GELU.
  EXPECT_EQ(seen[11].elements, seen[10].elements);
  EXPECT_EQ(seen[13].elements, seen[10].elements);
  EXPECT_NE(seen[12].elements, seen[10].elements);
  EXPECT_EQ(seen[15].elements, decoded(tape.gradient(weight)));
}

TEST(TapeObserver, DoesNotChangeWhatIsComputed) {
  const Model model;
  const auto x = Model::input<precision::fp8>();
  Tape<precision::fp8> plain;
  plain.backward(model.loss(plain.input(x), ModelScaling(scaling::paper)));
  Tape<precision::fp8> observed;
  const auto seen = observe(observed, [&] {
    observed.backward(model.loss(observed.input(x), ModelScaling(scaling::paper)));
  });
  EXPECT_FALSE(seen.empty());
  for (const Parameter* parameter : model.parameters()) {
    EXPECT_FALSE(plain.gradient(*parameter).empty());
    EXPECT_TRUE(same_bits(observed.gradient(*parameter), plain.gradient(*parameter)))
        << parameter->name;
  }
}

TEST(TapeObserver, IsCalledInTheStepsThatAreAsked) {
  Tape<precision::fp32> tape;
  const Parameter weight = random_parameter("weight", {4, 3}, 0);
  const auto x = random_array<float>({2, 3}, 1);
  std::vector<std::uint64_t> steps;
  tape.observe_with(
      [&](const Observation& seen) {
        if (seen.role == TensorRole::parameter_gradient) steps.push_back(tape.step());
      },
      3);
  for (int step = 0; step < 8; ++step) {
    EXPECT_EQ(tape.is_observed(), tape.step() % 3 == 0);
    tape.backward(sum(ops::linear(tape.constant(x), weight)));
    tape.clear();
  }
  EXPECT_EQ(steps, (std::vector<std::uint64_t>{0, 3, 6}));
  tape.set_step(12);
  EXPECT_TRUE(tape.is_observed());
  expect_error<std::invalid_argument>([&] { tape.observe_with([](const auto&) {}, 0); }, {"every"});
}

TEST(TapeObserver, IsToldTheInnermostModuleThatWasEntered) {
  Tape<precision::fp32> tape;
  const auto x = tape.input(random_array<float>({2, 3}, 1));
  std::vector<std::string> seen;
  tape.observe_with([&](const Observation& one) {
    seen.push_back(std::string(one.module) + "/" + std::string(one.name));
  });
  const auto outer = tape.enter("outer");
  const auto in_between = [&] {
    const auto inner = tape.enter("outer.inner");
    return ops::gelu(x);
  }();
  tape.backward(sum(ops::relu(in_between)));
  EXPECT_EQ(seen[0], "outer.inner/gelu");
  EXPECT_EQ(seen[1], "outer/relu");
  EXPECT_EQ(seen.back(), "outer.inner/gelu");
}

TEST(TapeTracer, SeesWhatEachOpReadsAndMakesAndItsFactors) {
  Tape<precision::fp32> tape;
  const Parameter weight = random_parameter("weight", {16, 4}, 0);
  std::vector<OpRecord> ops_seen;
  tape.trace_with([&](const OpRecord& op) { ops_seen.push_back(op); });
  const auto x = tape.input(random_array<float>({2, 4}, 1));
  const auto [branch, skip] = ops::residual_split(x, {.tau = 0.36});
  const auto h = ops::linear(branch, weight);  // under the geometric mean of 4^-1/2 and 16^-1/2
  ASSERT_EQ(ops_seen.size(), 2U);

  const OpRecord& split = ops_seen[0];
  EXPECT_EQ(split.name, "residual_split");
  ASSERT_EQ(split.outputs.size(), 2U);
  EXPECT_DOUBLE_EQ(split.outputs[0].gradient_factors.at(0), 0.6);
  EXPECT_DOUBLE_EQ(split.outputs[1].gradient_factors.at(0), 0.8);

  const OpRecord& linear = ops_seen[1];
  EXPECT_EQ(linear.name, "linear");
  ASSERT_EQ(linear.inputs.size(), 2U);
  EXPECT_EQ(linear.inputs[0].value, split.outputs[0].value);
  EXPECT_EQ(linear.inputs[0].parameter, nullptr);
  EXPECT_EQ(linear.inputs[1].parameter, &weight);
  EXPECT_TRUE(linear.inputs[0].is_wanted);
  EXPECT_EQ(linear.outputs.at(0).shape, (Shape{2, 16}));
  EXPECT_DOUBLE_EQ(linear.ideal_forward, 0.5);
  EXPECT_DOUBLE_EQ(linear.inputs[0].ideal_backward, 0.25);
  EXPECT_DOUBLE_EQ(linear.forward, std::sqrt(0.125));
  EXPECT_DOUBLE_EQ(linear.inputs[0].backward, linear.forward);
  EXPECT_DOUBLE_EQ(linear.outputs[0].gradient_factors.at(0), 1);
  EXPECT_DOUBLE_EQ(linear.outputs[0].gradient_factors.at(1), std::sqrt(0.5 / 0.125));
  ASSERT_TRUE(linear.scaling.has_value());
  EXPECT_EQ(linear.scaling->effective_constraint().name, "gmean");
  tape.trace_with(nullptr);
  EXPECT_FALSE(tape.is_observed());
}

TEST(TapeObserver, SeesTheParametersInTheOrderOfTheirFirstUseAndEachOnce) {
  const Model model;
  Tape<precision::fp8> tape;
  const auto seen = observe(tape, [&] {
    tape.backward(
        model.loss(tape.input(Model::input<precision::fp8>()), ModelScaling(scaling::paper)));
  });
  std::vector<std::string> forward;
  std::vector<std::string> backward;
  for (const Seen& one : seen) {
    if (!is_parameter(one.role)) continue;
    auto& seen_so_far = one.role == TensorRole::parameter ? forward : backward;
    EXPECT_EQ(one.index, seen_so_far.size()) << one.name;
    seen_so_far.push_back(one.name);
  }
  const std::vector<std::string> names{"first", "shared", "gain", "bias", "last", "last_bias"};
  EXPECT_EQ(forward, names);
  EXPECT_EQ(backward, names);
}

TYPED_TEST(TapeInEachPrecision, ALossThatGoesOnIntoAnotherOpKeepsItsGradient) {
  using P = TypeParam;
  using T = typename P::storage;
  const Array<T> logits = random_array<T>({3, 4}, 1);
  const Array<std::int32_t> labels({3}, {0, 3, 1});
  Tape<P> tape;
  const auto x = tape.input(logits);
  const ops::CrossEntropy loss{.scaling = scaling::none};
  // Twice the same loss, added: its gradient is exactly twice that of one.
  tape.backward(ops::add(ops::cross_entropy(x, labels, loss), ops::cross_entropy(x, labels, loss),
                         {.scaling = scaling::none}));
  const Array<T> both = tape.gradient(x);
  Tape<P> single;
  const auto y = single.input(logits);
  single.backward(ops::cross_entropy(y, labels, loss));
  for (std::size_t i = 0; i < logits.size(); ++i) {
    EXPECT_EQ(static_cast<double>(both.data()[i]),
              2 * static_cast<double>(single.gradient(y).data()[i]));
    EXPECT_NE(static_cast<double>(both.data()[i]), 0);
  }
}

TEST(Tape, RefusesAVariableThatWasMovedFrom) {
  Tape<precision::fp32> tape;
  auto x = tape.input(Array<float>({3}, {1, 2, 3}));
  const auto taken = std::move(x);
  EXPECT_EQ(x.value().shape(), Shape{0});
  expect_error<std::invalid_argument>([&] { (void)unit_scaling::ops::relu(x); }, {"moved from"});
  expect_error<std::invalid_argument>([&] { tape.backward(x); }, {"moved from"});
  expect_error<std::invalid_argument>([&] { (void)tape.gradient(x); }, {"moved from"});
  x = taken;
  (void)unit_scaling::ops::relu(x);
}

}  // namespace tape_test
}  // namespace unit_scaling_test
