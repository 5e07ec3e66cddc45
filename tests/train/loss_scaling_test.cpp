// SPDX-License-Identifier: MIT
// Loss scales: what changes them, what a skipped step leaves alone, and where a static one works.
#include "unit_scaling/train/loss_scaling.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <type_traits>
#include <vector>

#include "support/errors.hpp"
#include "support/random_arrays.hpp"
#include "support/temporary_folder.hpp"
#include "unit_scaling/autograd/parameter.hpp"
#include "unit_scaling/autograd/tape.hpp"
#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/file_error.hpp"
#include "unit_scaling/formats/encoded_array.hpp"
#include "unit_scaling/nn/feed_forward.hpp"
#include "unit_scaling/nn/initialiser.hpp"
#include "unit_scaling/ops/mse_loss.hpp"
#include "unit_scaling/optim/adam.hpp"
#include "unit_scaling/optim/gradient_sum.hpp"
#include "unit_scaling/optim/parameter_groups.hpp"
#include "unit_scaling/train/checkpoint.hpp"
#include "unit_scaling/train/training_state.hpp"

namespace loss_scaling_test {

using namespace unit_scaling;
using namespace unit_scaling_test;
using train::DynamicLossScale;
using train::LossScaleCounts;
using train::LossScaleEvent;
using train::LossScaling;

/// One number as the gradient of every parameter.
struct Gradients {
  Array<float> of_all;
  explicit Gradients(float number) : of_all(Array<float>::filled(Shape{3}, 0)) {
    of_all.mutable_data()[1] = number;
  }
  [[nodiscard]] const Array<float>& gradient(const Parameter& /*parameter*/) const {
    return of_all;
  }
};

class LossScalingEvents : public ::testing::Test {
 protected:
  LossScaleEvent see(LossScaling& scaling, float gradient) {
    return scaling.check(Gradients(gradient), {&parameter_});
  }

  Parameter parameter_{.name = "w", .value = Array<float>(Shape{3})};
};

TEST_F(LossScalingEvents, HaveTheDefaultsOfGradScaler) {
  const DynamicLossScale rule;
  EXPECT_EQ(rule.initial, 65536);
  EXPECT_EQ(rule.growth_factor, 2);
  EXPECT_EQ(rule.backoff_factor, 0.5);
  EXPECT_EQ(rule.growth_interval, 2000U);
  EXPECT_EQ(LossScaling(rule).scale(), 65536);
}

// amp_update_scale_cuda_kernel of PyTorch, followed by hand.
TEST_F(LossScalingEvents, OfADynamicScaleAreThoseOfGradScaler) {
  constexpr float infinity = std::numeric_limits<float>::infinity();
  constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN();
  struct Row {
    float gradient;
    double scale;  ///< of the gradients
    char event;    ///< g: has grown, b: has backed off
    double next;
    std::uint64_t good_steps;
  };
  const Row rows[] = {{1, 8, ' ', 8, 1},          {0, 8, ' ', 8, 2},
                      {1, 8, 'g', 32, 0},         {infinity, 32, 'b', 16, 0},
                      {-infinity, 16, 'b', 8, 0}, {std::numeric_limits<float>::max(), 8, ' ', 8, 1},
                      {-1, 8, ' ', 8, 2},         {not_a_number, 8, 'b', 4, 0},
                      {1, 4, ' ', 4, 1},          {1, 4, ' ', 4, 2},
                      {1, 4, 'g', 16, 0},         {1, 16, ' ', 16, 1}};
  LossScaling scaling(DynamicLossScale{
      .initial = 8, .growth_factor = 4, .backoff_factor = 0.5, .growth_interval = 3});
  int number = 0;
  for (const Row& row : rows) {
    const LossScaleEvent event = see(scaling, row.gradient);
    EXPECT_EQ(event.scale, row.scale) << number;
    EXPECT_EQ(event.has_grown, row.event == 'g') << number;
    EXPECT_EQ(event.has_backed_off, row.event == 'b') << number;
    EXPECT_EQ(event.is_skipped(), row.event == 'b') << number;
    EXPECT_EQ(event.overflowed, row.event == 'b' ? &parameter_ : nullptr) << number;
    EXPECT_EQ(scaling.scale(), row.next) << number;
    EXPECT_EQ(scaling.good_steps(), row.good_steps) << number;
    ++number;
  }
  EXPECT_EQ(scaling.counts(), (LossScaleCounts{.skipped = 3, .grown = 2, .backed_off = 3}));
}

TEST_F(LossScalingEvents, OfAStaticScaleAreSkippedSteps) {
  LossScaling scaling(1024);
  EXPECT_FALSE(scaling.is_dynamic());
  for (int i = 0; i < 3000; ++i) {
    const LossScaleEvent event = see(scaling, i % 3 == 0 ? std::nanf("") : 1);
    EXPECT_EQ(event.scale, 1024);
    EXPECT_EQ(event.is_skipped(), i % 3 == 0);
    EXPECT_FALSE(event.has_grown || event.has_backed_off);
  }
  EXPECT_EQ(scaling.scale(), 1024);
  EXPECT_EQ(scaling.counts(), (LossScaleCounts{.skipped = 1000}));
}

TEST_F(LossScalingEvents, StayWithinTheLeastAndTheLargestScale) {
  LossScaling scaling(
      DynamicLossScale{.initial = 2, .growth_interval = 1, .least = 1, .largest = 4});
  EXPECT_TRUE(see(scaling, 1).has_grown);
  EXPECT_FALSE(see(scaling, 1).has_grown);
  EXPECT_EQ(scaling.scale(), 4);
  EXPECT_EQ(scaling.good_steps(), 0U);
  for (const double expected : {2.0, 1.0, 1.0}) {
    const LossScaleEvent event = see(scaling, std::nanf(""));
    EXPECT_TRUE(event.is_skipped());
    EXPECT_EQ(scaling.scale(), expected);
  }
  EXPECT_EQ(scaling.counts(), (LossScaleCounts{.skipped = 3, .grown = 1, .backed_off = 2}));

  LossScaling widest(DynamicLossScale{.initial = 0x1p126, .growth_interval = 1});
  EXPECT_FALSE(see(widest, 1).has_grown) << "2^127 has no normal reciprocal as a float";
  LossScaling narrowest(DynamicLossScale{.initial = 0x1p-126});
  EXPECT_FALSE(see(narrowest, std::nanf("")).has_backed_off);
}

TEST_F(LossScalingEvents, NeedARuleThatMakesSense) {
  const auto make = [](const DynamicLossScale& rule) { return [=] { LossScaling scaling(rule); }; };
  expect_domain_error([] { LossScaling scaling(0); }, {"LossScaling", "a scale above 0", "0"});
  expect_domain_error([] { LossScaling scaling(0x1p127); }, {"reciprocal"});
  expect_domain_error(make({.growth_factor = 1}), {"LossScaling", "a growth factor above 1"});
  expect_domain_error(make({.growth_factor = std::nan("")}), {"a growth factor"});
  expect_domain_error(make({.backoff_factor = 1}), {"a backoff factor below 1"});
  expect_domain_error(make({.backoff_factor = 0}), {"a backoff factor above 0"});
  expect_domain_error(make({.growth_interval = 0}), {"at least 1 step"});
  expect_domain_error(make({.least = 0}), {"a least scale"});
  expect_domain_error(make({.largest = std::numeric_limits<double>::infinity()}),
                      {"a largest scale"});
  expect_domain_error(make({.initial = 8, .largest = 4}),
                      {"between the least and the largest", "8"});
  expect_domain_error(make({.initial = std::nan("")}), {"between the least and the largest"});
}

TEST_F(LossScalingEvents, GoOnFromASavedState) {
  const TemporaryFolder folder;
  const auto path = folder.path() / "scaling.safetensors";
  const DynamicLossScale rule{.initial = 8, .growth_interval = 3};
  LossScaling whole(rule);
  for (const float gradient : {1.0F, std::nanf(""), 1.0F, 1.0F}) (void)see(whole, gradient);
  train::save_state(path, [&](const auto& visit) { visit("loss_scale", whole); });
  LossScaling resumed(rule);
  const auto states = [&](const auto& visit) { visit("loss_scale", resumed); };
  train::load_state(path, states);
  EXPECT_EQ(resumed.scale(), 4);
  EXPECT_EQ(resumed.good_steps(), 2U);
  EXPECT_EQ(resumed.counts(), (LossScaleCounts{.skipped = 1, .backed_off = 1}));
  EXPECT_TRUE(see(resumed, 1).has_grown);
  std::vector<std::string> names;
  train::for_each_state(states,
                        [&](const std::string& name, const auto&) { names.push_back(name); });
  EXPECT_EQ(names, (std::vector<std::string>{"loss_scale.scale", "loss_scale.good_steps",
                                             "loss_scale.skipped", "loss_scale.grown",
                                             "loss_scale.backed_off"}));
}

TEST_F(LossScalingEvents, RefuseAStateThatIsNoneOfTheirs) {
  const TemporaryFolder folder;
  const auto path = folder.path() / "scaling.safetensors";
  LossScaling of_eight(DynamicLossScale{.initial = 8});
  for (int i = 0; i < 5; ++i) (void)see(of_eight, 1);
  train::save_state(path, [&](const auto& visit) { visit("s", of_eight); });
  const auto expect_refused = [&](LossScaling other,
                                  std::initializer_list<std::string_view> parts) {
    const double before = other.scale();
    expect_error<FileError>(
        [&] { train::load_state(path, [&](const auto& visit) { visit("s", other); }); }, parts);
    EXPECT_EQ(other.scale(), before);
    EXPECT_EQ(other.good_steps(), 0U);
  };
  expect_refused(LossScaling(4), {"LossScaling", "as the static one is", "8"});
  expect_refused(LossScaling(DynamicLossScale{.initial = 4, .largest = 4}), {"the largest", "8"});
  expect_refused(LossScaling(DynamicLossScale{.initial = 8, .growth_interval = 5}),
                 {"fewer than 5 good steps", "5"});
}

// --- Training ---

constexpr std::size_t rows = 64;
constexpr std::size_t size = 8;

/// A regular network that learns to move each number of a row by one place.
template <Precision P> struct Training {
  nn::Initialiser initialiser{3, scaling::none};
  nn::FeedForward network{initialiser, "ffn", size, 32};
  std::vector<Parameter*> parameters = optim::parameters_of(network);
  optim::Adam adam{parameters};
  Tape<P> tape;
  LossScaling scaling;
  std::uint64_t seed = 0;
  double loss = 0;

  explicit Training(const LossScaling& with) : scaling(with) {}

  auto forward() {
    using T = typename P::storage;
    tape.clear();
    const Array<T> x = normal_array<T>({rows, size}, seed++);
    Array<T> target({rows, size});
    for (std::size_t i = 0; i < x.size(); ++i) {
      target.mutable_data()[i] = x.data()[i / size * size + (i + 1) % size];
    }
    const auto result =
        ops::mse_loss(network(tape.input(x)), tape.constant(target), {.scaling = scaling::none});
    loss = static_cast<double>(*result.value().data());
    return result;
  }
  LossScaleEvent step() {
    tape.backward(forward(), static_cast<float>(scaling.scale()));
    const LossScaleEvent event = scaling.check(tape, parameters);
    if (!event.is_skipped()) adam.step(tape, 0.03, event.scale);
    return event;
  }
  /// What is left of the loss after some steps.
  double train(int steps) {
    (void)forward();
    const double first = loss;
    for (int i = 0; i < steps; ++i) (void)step();
    (void)forward();
    return loss / first;
  }
  [[nodiscard]] std::vector<float> numbers() {
    std::vector<float> all;
    train::for_each_state(
        [&](const auto& visit) {
          visit("network", network);
          visit("adam", adam);
        },
        [&]<class T>(const std::string&, const T& state) {
          if constexpr (is_array<T>) {
            all.insert(all.end(), state.span().begin(), state.span().end());
          } else if constexpr (std::is_same_v<T, EncodedArray>) {
            all.insert(all.end(), state.codes().begin(), state.codes().end());
          } else {
            all.push_back(static_cast<float>(state));
          }
        });
    return all;
  }
};

TEST(LossScaling, OfAPowerOfTwoChangesNoBitOfATrainingWithoutUnderflowAndOverflow) {
  Training<precision::fp32> one(LossScaling(1));
  Training<precision::fp32> scaled(LossScaling(0x1p20));
  Training<precision::fp32> dynamic(
      LossScaling(DynamicLossScale{.initial = 0x1p-10, .growth_interval = 1}));
  for (int i = 0; i < 10; ++i) {
    (void)one.step();
    (void)scaled.step();
    (void)dynamic.step();
  }
  EXPECT_EQ(dynamic.scaling.scale(), 1);
  EXPECT_EQ(scaled.numbers(), one.numbers());
  EXPECT_EQ(dynamic.numbers(), one.numbers());
}

TEST(LossScaling, LeavesParametersAndOptimiserAloneInAStepThatItSkips) {
  Training<precision::fp16> training(LossScaling(DynamicLossScale{.initial = 0x1p40}));
  const auto before = training.numbers();
  const LossScaleEvent event = training.step();
  EXPECT_TRUE(event.is_skipped());
  EXPECT_TRUE(event.has_backed_off);
  EXPECT_EQ(event.scale, 0x1p40);
  EXPECT_EQ(training.numbers(), before);
  EXPECT_EQ(training.adam.steps(), 0U);
}

TEST(LossScaling, LooksAtTheSumOfSeveralBatchesAsWell) {
  Training<precision::fp16> training(LossScaling(0x1p40));
  optim::GradientSum sum(training.parameters);
  training.tape.backward(training.forward(), 1);
  sum.add(training.tape);
  EXPECT_FALSE(training.scaling.check(sum, training.parameters).is_skipped());
  training.tape.backward(training.forward(), 0x1p40F);
  sum.add(training.tape);
  EXPECT_TRUE(training.scaling.check(sum, training.parameters).is_skipped());
}

// The mean of 512 squared errors has gradients of about 2^-8. FP16 takes numbers up to 2^-25 for 0,
// E5M2 those up to 2^-17, and neither has any of 2^16.
TEST(LossScaling, ThatIsStaticTrainsARegularModelInAWindowAndADynamicOneFindsIt) {
  constexpr int steps = 60;
  const auto expect_window = [&]<class P>(P /*precision*/, int too_low, std::vector<int> right,
                                          int too_high) {
    const auto train_static = [&](int exponent, std::uint64_t skipped) {
      Training<P> training(LossScaling(std::exp2(exponent)));
      const double left = training.train(steps);
      EXPECT_EQ(training.scaling.counts().skipped, skipped) << P::name << ", 2^" << exponent;
      return left;
    };
    EXPECT_GT(train_static(too_low, 0), 0.8) << P::name << ": gradients underflow";
    for (const int exponent : right)
      EXPECT_LT(train_static(exponent, 0), 0.1) << P::name << ", 2^" << exponent;
    EXPECT_GT(train_static(too_high, steps), 0.8) << P::name << ": gradients are infinite";
    for (const double initial : {0x1p-30, 0x1p40}) {
      Training<P> training(LossScaling(DynamicLossScale{.initial = initial, .growth_interval = 2}));
      EXPECT_LT(training.train(2 * steps), 0.1) << P::name << ", from " << initial;
      EXPECT_GT(training.scaling.counts().skipped, 0U);
      EXPECT_GT(training.scaling.scale(), std::exp2(too_low));
      EXPECT_LT(training.scaling.scale(), 0x1p30) << "the smaller the loss, the larger";
    }
  };
  expect_window(precision::fp16{}, -22, {-14, 0, 14}, 24);
  expect_window(precision::fp8{}, -14, {-8, 0, 14}, 24);
}

}  // namespace loss_scaling_test
