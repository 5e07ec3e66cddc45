// SPDX-License-Identifier: MIT
// Training in a thread that was told to round otherwise (std::fesetround) or to take subnormal
// numbers for zero gives the bits that it gives in the default mode, on any number of threads.
#include <gtest/gtest.h>

#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "support/thread_arithmetic.hpp"
#include "support/threads.hpp"
#include "unit_scaling/analysis/tensor_statistics.hpp"
#include "unit_scaling/autograd/tape.hpp"
#include "unit_scaling/core/random.hpp"
#include "unit_scaling/formats/format.hpp"
#include "unit_scaling/nn/feed_forward.hpp"
#include "unit_scaling/nn/initialiser.hpp"
#include "unit_scaling/nn/layer_norm.hpp"
#include "unit_scaling/nn/linear.hpp"
#include "unit_scaling/ops/cross_entropy.hpp"
#include "unit_scaling/ops/estimate_scales.hpp"
#include "unit_scaling/ops/gelu.hpp"
#include "unit_scaling/ops/sinusoidal_positions.hpp"
#include "unit_scaling/ops/softmax.hpp"
#include "unit_scaling/optim/adam.hpp"
#include "unit_scaling/optim/clip.hpp"
#include "unit_scaling/optim/gradient_sum.hpp"
#include "unit_scaling/optim/lamb.hpp"
#include "unit_scaling/optim/learning_rate.hpp"
#include "unit_scaling/optim/sgd.hpp"
#include "unit_scaling/scaling/residual_rule.hpp"
#include "unit_scaling/train/schedule.hpp"

namespace rounding_mode_of_the_thread_test {

using namespace unit_scaling;
using namespace unit_scaling_test;

/// Expects the same bits of a computation in every mode, on one thread and on three.
template <class Compute> void expect_same_in_every_mode(const Compute& compute) {
  const auto expected = compute();
  for (const std::size_t threads : {1U, 3U}) {
    for (const ArithmeticMode& mode : unusual_arithmetic_modes()) {
      const ThreadCountScope scope(threads);
      auto actual = expected;
      bool stayed = false;
      {
        const ThreadArithmetic arithmetic(mode);
        actual = compute();
        stayed = is_in_mode(mode);
      }
      EXPECT_TRUE(actual == expected) << mode.name << ", " << threads << " threads";
      EXPECT_TRUE(stayed) << mode.name;
    }
  }
}

constexpr std::size_t items = 33, features = 40, classes = 7;

/// Three steps of a small network; the bits of its losses, norms and parameters.
template <class Optimiser, Precision P>
std::vector<std::uint64_t> trained(const Array<float>& x, const Array<std::int32_t>& labels) {
  nn::Initialiser initialiser(2, scaling::paper);
  nn::LayerNorm norm(initialiser, "norm", features);
  nn::FeedForward feed_forward(initialiser, "feed_forward", features, 2 * features);
  nn::Linear down(initialiser, "down", features, classes);
  std::vector<Parameter*> parameters;
  for (auto& list : {optim::parameters_of(norm), optim::parameters_of(feed_forward),
                     optim::parameters_of(down)}) {
    parameters.insert(parameters.end(), list.begin(), list.end());
  }
  Optimiser optimiser(parameters);
  optim::GradientSum sum(parameters);
  Tape<P> tape;
  std::vector<std::uint64_t> bits;
  for (int step = 0; step < 3; ++step) {
    tape.clear();
    sum.clear();
    const auto loss = ops::cross_entropy(down(feed_forward(norm(tape.input(x)))), labels);
    tape.backward(loss, 3);
    sum.add(tape);
    bits.push_back(std::bit_cast<std::uint32_t>(loss.value().data()[0]));
    bits.push_back(std::bit_cast<std::uint64_t>(optim::gradient_norm(tape, parameters, 3)));
    optimiser.step(tape, 0.01, 3);
    optimiser.step(sum, 0.003, 3);
  }
  for (const Parameter* parameter : parameters) {
    for (const float number : parameter->value.span()) {
      bits.push_back(std::bit_cast<std::uint32_t>(number));
    }
  }
  return bits;
}

template <class Optimiser, Precision P> void expect_same_training() {
  // Made in the default mode: the conversion to float is one of the language.
  Array<float> x({items, features});
  Array<std::int32_t> labels({items});
  const Random random(1);
  for (std::size_t i = 0; i < x.size(); ++i) {
    x.mutable_data()[i] = static_cast<float>(random.normal(i));
  }
  for (std::size_t i = 0; i < items; ++i) {
    labels.mutable_data()[i] = static_cast<std::int32_t>(i % classes);
  }
  expect_same_in_every_mode([&] { return trained<Optimiser, P>(x, labels); });
}

TEST(RoundingModeOfTheThread, DoesNotChangeTrainingInFp8) {
  expect_same_training<optim::AdamW, precision::fp8>();
}

TEST(RoundingModeOfTheThread, DoesNotChangeTrainingInFp32) {
  expect_same_training<optim::Sgd, precision::fp32>();
}

TEST(RoundingModeOfTheThread, DoesNotChangeTrainingInBf16) {
  expect_same_training<optim::Lamb, precision::bf16>();
}

TEST(RoundingModeOfTheThread, DoesNotChangeAnOpCalledByItsName) {
  Array<float16> x({5, 37});
  for (std::size_t i = 0; i < x.size(); ++i) {
    x.mutable_data()[i] = float16(0.1 * static_cast<double>(i % 61) - 3);
  }
  expect_same_in_every_mode([&] {
    std::vector<std::uint16_t> bits;
    for (const Array<float16>& y : {ops::gelu(x), ops::softmax(x, {.mult = 1.7})}) {
      for (const float16 number : y.span()) bits.push_back(number.bits());
    }
    return bits;
  });
}

TEST(RoundingModeOfTheThread, DoesNotChangeMeasuredScales) {
  expect_same_in_every_mode([] {
    const auto estimate = ops::estimate_scales(ops::Gelu{}, {.repetitions = 3}, Shape{16, 16});
    return std::vector<double>{estimate.scales.forward, estimate.scales.backward[0],
                               estimate.relative_error.forward,
                               estimate.relative_error.backward[0]};
  });
}

TEST(RoundingModeOfTheThread, DoesNotChangeStatisticsOfATensor) {
  std::vector<float> numbers(70'001);
  const Random random(3);
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    numbers[i] = static_cast<float>(random.normal(i)) * 1e-39F + 1e-38F;
  }
  expect_same_in_every_mode([&] {
    const auto statistics = analysis::tensor_statistics(
        numbers, analysis::RoundingThresholds(Format::parse("bfloat16")));
    return std::vector<double>{statistics.mean, statistics.std, statistics.rms,
                               statistics.min_magnitude, statistics.max_magnitude};
  });
}

TEST(RoundingModeOfTheThread, DoesNotChangeWhatIsMadeBeforeTraining) {
  expect_same_in_every_mode([] {
    std::vector<double> numbers;
    const auto take = [&](const auto& array) {
      for (const auto number : array.span()) numbers.push_back(static_cast<double>(number));
    };
    take(ops::sinusoidal_positions<float>(50, 26));
    take(ops::sinusoidal_positions<float16>(50, 26, 100, -9));
    nn::Initialiser plain(3, scaling::none);
    take(plain.weight("w", {9, 13}).value);
    take(plain.table("t", 7, 11).value);
    return numbers;
  });
}

TEST(RoundingModeOfTheThread, DoesNotChangeRatesAndResidualRules) {
  expect_same_in_every_mode([] {
    std::vector<double> numbers;
    for (const auto decay : {train::Schedule::Decay::linear, train::Schedule::Decay::cosine}) {
      const train::Schedule schedule{
          .warmup_steps = 7, .total_steps = 97, .decay = decay, .final_factor = 0.1};
      for (std::size_t step = 0; step < 100; ++step) numbers.push_back(schedule(step));
    }
    Parameter parameter{"p", Array<float>::filled({7, 13}, 1), ParameterKind::weight};
    parameter.depth = 7;
    numbers.push_back(optim::learning_rate_factor(Rule::umup, parameter));
    numbers.push_back(optim::sgd_learning_rate_factor(Rule::umup, parameter, true));
    const auto rule = transformer_residual_scaling_rule(1.3, 0.7);
    for (std::size_t branch = 0; branch < 14; ++branch) numbers.push_back(rule(branch, 14));
    return numbers;
  });
}

}  // namespace rounding_mode_of_the_thread_test
