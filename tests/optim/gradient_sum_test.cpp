// SPDX-License-Identifier: MIT
#include "unit_scaling/optim/gradient_sum.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "optim/optimiser_support.hpp"
#include "support/errors.hpp"
#include "support/random_arrays.hpp"
#include "support/threads.hpp"
#include "unit_scaling/autograd/tape.hpp"
#include "unit_scaling/nn/bert_mlp.hpp"
#include "unit_scaling/nn/transformer_decoder.hpp"
#include "unit_scaling/ops/cross_entropy.hpp"
#include "unit_scaling/ops/linear.hpp"
#include "unit_scaling/ops/sum.hpp"
#include "unit_scaling/optim/adam.hpp"
#include "unit_scaling/optim/clip.hpp"
#include "unit_scaling/optim/lamb.hpp"
#include "unit_scaling/optim/sgd.hpp"

namespace {

using namespace unit_scaling;
using namespace unit_scaling_test;

constexpr std::size_t sequences = 4;
constexpr std::size_t window = 6;
constexpr std::uint32_t vocabulary = 11;

/// Rows [begin, end) of an array.
Array<std::int32_t> rows(const Array<std::int32_t>& all, std::size_t begin, std::size_t end) {
  const std::size_t row = all.size() / all.shape()[0];
  const std::span<const std::int32_t> part = all.span().subspan(begin * row, (end - begin) * row);
  return all.shape().rank() == 1 ? Array<std::int32_t>(Shape{end - begin}, part)
                                 : Array<std::int32_t>(Shape{end - begin, row}, part);
}

/// Expects that the gradients of `batches` equal batches, added up and divided, are those of all
/// items as one batch, which is the oracle.
/// @param loss `loss(tape, begin, end)` is that of sequences [begin, end).
template <class Model, class Loss>
void expect_sum_is_gradient_of_whole(Model& model, Rule rule, const Loss& loss) {
  const auto parameters = optim::parameters_of(model);
  Tape<precision::fp32> whole;
  whole.backward(loss(whole, 0, sequences));
  for (const std::size_t batches : {std::size_t{1}, std::size_t{2}, sequences}) {
    optim::GradientSum sum(parameters);
    Tape<precision::fp32> tape;
    for (std::size_t k = 0; k < batches; ++k) {
      tape.clear();
      tape.backward(loss(tape, k * sequences / batches, (k + 1) * sequences / batches));
      sum.add(tape);
    }
    const double divisor = optim::loss_scale_of_sum(rule, batches);
    for (const Parameter* parameter : parameters) {
      const auto& expected = whole.gradient(*parameter);
      const auto& actual = sum.gradient(*parameter);
      ASSERT_EQ(actual.shape(), expected.shape()) << parameter->name;
      double squares = 0;
      double wrong = 0;
      for (std::size_t i = 0; i < expected.size(); ++i) {
        const double difference = static_cast<double>(actual.data()[i]) / divisor -
                                  static_cast<double>(expected.data()[i]);
        squares += std::pow(static_cast<double>(expected.data()[i]), 2);
        wrong += difference * difference;
      }
      EXPECT_GT(squares, 0) << parameter->name;
      EXPECT_LE(std::sqrt(wrong / squares), 2e-6)
          << parameter->name << ", " << batches << " batches, " << to_string(rule);
    }
  }
}

TEST(GradientSum, DividedByItsLossScaleIsTheGradientOfOneBatchOfAllItems) {
  const auto ids = id_array({sequences, window}, vocabulary, 3);
  const auto labels = id_array({2 * sequences}, vocabulary, 4);
  for (const Scaling& rules : {scaling::none, scaling::paper, scaling::umup}) {
    const ops::CrossEntropy loss{.scaling = rules};
    nn::Initialiser initialiser(1, rules);
    nn::TransformerDecoder decoder(initialiser, vocabulary,
                                   {.hidden_size = 8, .layers = 2, .heads = 2});
    expect_sum_is_gradient_of_whole(decoder, rules.rule,
                                    [&](auto& tape, std::size_t begin, std::size_t end) {
                                      return decoder.next_token_loss(tape, rows(ids, begin, end));
                                    });
    nn::BertMlp bert(
        initialiser,
        {.vocabulary_size = vocabulary, .window = window, .hidden_size = 8, .layers = 2});
    // Two positions of each sequence.
    expect_sum_is_gradient_of_whole(
        bert, rules.rule, [&](auto& tape, std::size_t begin, std::size_t end) {
          Array<std::int32_t> selected(Shape{2 * (end - begin)});
          for (std::size_t i = 0; i < selected.size(); ++i) {
            selected.mutable_data()[i] = static_cast<std::int32_t>(i / 2 * window + 3 * (i % 2));
          }
          return ops::cross_entropy(bert(tape, rows(ids, begin, end), selected),
                                    rows(labels, 2 * begin, 2 * end), loss);
        });
  }
}

TEST(GradientSum, AddsInFloatWhatFloat16WouldLose) {
  // 2048 + 1 is no float16.
  Parameter parameter{"p", Array<float>::filled({1, 1}, 1), ParameterKind::weight};
  optim::GradientSum sum({&parameter});
  Tape<precision::fp16> tape;
  for (const float gradient : {2048.0F, 1.0F, -0.25F}) {
    tape.clear();
    const auto x = tape.constant(Array<float16>::filled({1, 1}, float16(1)));
    const auto y = ops::linear(x, parameter, {.scaling = scaling::none});
    tape.backward(ops::sum(y, {.scaling = scaling::none}), float16(gradient));
    sum.add(tape);
  }
  EXPECT_EQ(sum.count(), 3U);
  EXPECT_EQ(sum.gradient(parameter).data()[0], 2048.75F);
}

TEST(GradientSum, OfOneBatchGivesEveryOptimiserTheBitsOfItsTape) {
  const auto expect_same = [](const auto& make_optimiser) {
    const auto run = [&](bool summed) {
      Parameter parameter = test_parameter(ParameterKind::weight, {5, 7});
      auto optimiser = make_optimiser(std::vector<Parameter*>{&parameter});
      optim::GradientSum sum({&parameter});
      Tape<precision::fp32> tape;
      for (std::uint64_t step = 0; step < 3; ++step) {
        tape.clear();
        put_gradient(tape, parameter, gradient_of_step({5, 7}, step), 8);
        sum.clear();
        sum.add(tape);
        if (summed) {
          optimiser.step(sum, 0.1, 8);
        } else {
          optimiser.step(tape, 0.1, 8);
        }
      }
      EXPECT_EQ(optim::gradient_norm(sum, {&parameter}), optim::gradient_norm(tape, {&parameter}));
      return parameter.value;
    };
    EXPECT_TRUE(same_bits(run(true), run(false)));
  };
  expect_same([](std::vector<Parameter*> p) { return optim::Sgd(p); });
  expect_same([](std::vector<Parameter*> p) { return optim::AdamW(p); });
  expect_same([](std::vector<Parameter*> p) { return optim::Lamb(p); });
}

TEST(GradientSum, ThreadCountChangesNoBit) {
  const auto run = [](std::size_t threads) {
    const ThreadCountScope scope(threads);
    Parameter parameter = test_parameter(ParameterKind::weight, {211, 233});
    optim::GradientSum sum({&parameter});
    Tape<precision::fp32> tape;
    for (std::uint64_t k = 0; k < 3; ++k) {
      tape.clear();
      put_gradient(tape, parameter, gradient_of_step({211, 233}, k));
      sum.add(tape);
    }
    return sum.gradient(parameter);
  };
  EXPECT_TRUE(same_bits(run(1), run(2)));
}

TEST(GradientSum, HasNoGradientOfWhatNoLossDependedOnSinceClear) {
  Parameter used = test_parameter(ParameterKind::weight, {2}, "used");
  Parameter unused = test_parameter(ParameterKind::weight, {2}, "unused");
  Parameter foreign = test_parameter(ParameterKind::weight, {2}, "foreign");
  optim::GradientSum sum({&used, &unused});
  EXPECT_EQ(sum.bytes(), 4 * sizeof(float));
  EXPECT_TRUE(sum.gradient(used).empty());
  Tape<precision::fp32> tape;
  put_gradient(tape, used, Array<float>(Shape{2}, {1, 2}));
  sum.add(tape);
  EXPECT_EQ(sum.gradient(used).data()[1], 2);
  EXPECT_TRUE(sum.gradient(unused).empty());
  EXPECT_TRUE(sum.gradient(foreign).empty());
  sum.clear();
  EXPECT_EQ(sum.count(), 0U);
  EXPECT_TRUE(sum.gradient(used).empty());
  sum.add(tape);
  EXPECT_EQ(sum.gradient(used).data()[1], 2) << "the sum before clear is still in it";
}

TEST(GradientSum, KeepsNaNAndInfinityToBeSeen) {
  Parameter parameter = test_parameter(ParameterKind::bias, {3});
  optim::GradientSum sum({&parameter});
  Tape<precision::fp32> tape;
  put_gradient(tape, parameter, Array<float>(Shape{3}, {INFINITY, NAN, 1}));
  sum.add(tape);
  tape.clear();
  put_gradient(tape, parameter, Array<float>(Shape{3}, {-INFINITY, 1, 1}));
  sum.add(tape);
  const float* elements = sum.gradient(parameter).data();
  EXPECT_TRUE(std::isnan(elements[0]));
  EXPECT_TRUE(std::isnan(elements[1]));
  EXPECT_EQ(elements[2], 2);
}

TEST(GradientSum, RefusesWhatItCannotAddUp) {
  Parameter parameter = test_parameter(ParameterKind::weight, {2}, "weight");
  expect_domain_error(
      [&] {
        optim::GradientSum({&parameter, &parameter});
      },
      {"GradientSum", "'weight' twice"});
  expect_domain_error([] { optim::GradientSum({nullptr}); }, {"GradientSum", "null"});
  optim::GradientSum sum({&parameter});
  Tape<precision::fp32> tape;
  expect_domain_error([&] { sum.add(tape); }, {"GradientSum", "backward"});
  optim::Sgd optimiser({&parameter});
  expect_domain_error([&] { optimiser.step(sum, 0.1); }, {"Sgd", "backward"});
  parameter.value = Array<float>(Shape{3});
  put_gradient(tape, parameter, Array<float>(Shape{3}, {1, 2, 3}));
  expect_shape_error([&] { sum.add(tape); }, {"GradientSum", "'weight'", "(2)", "(3)"});
  expect_domain_error([] { (void)optim::loss_scale_of_sum(Rule::paper, 0); },
                      {"loss_scale_of_sum", "at least one"});
}

}  // namespace
