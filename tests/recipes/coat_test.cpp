// SPDX-License-Identifier: MIT
// What ops save for the backward pass under COAT, against a loop over codes and groups.
#include "unit_scaling/recipes/coat.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <vector>

#include "support/errors.hpp"
#include "support/random_arrays.hpp"
#include "support/threads.hpp"
#include "unit_scaling/autograd/parameter.hpp"
#include "unit_scaling/autograd/tape.hpp"
#include "unit_scaling/core/array.hpp"
#include "unit_scaling/formats/catalogue.hpp"
#include "unit_scaling/formats/precision.hpp"
#include "unit_scaling/nn/bert_mlp.hpp"
#include "unit_scaling/ops/add.hpp"
#include "unit_scaling/ops/cross_entropy.hpp"
#include "unit_scaling/ops/gelu.hpp"
#include "unit_scaling/ops/layer_norm.hpp"
#include "unit_scaling/ops/linear.hpp"
#include "unit_scaling/ops/mean.hpp"
#include "unit_scaling/ops/mul.hpp"
#include "unit_scaling/ops/softmax.hpp"
#include "unit_scaling/optim/adam.hpp"

namespace coat_test {

using namespace unit_scaling;
using namespace unit_scaling_test;
using Fp32 = Tape<precision::fp32>;

constexpr float infinity = std::numeric_limits<float>::infinity();

/// The number of float8_e4m3fn nearest to x, a tie going to the even code: by trying all.
double nearest_e4m3(double x) {
  double best = 0;
  double least = infinity;
  bool best_is_even = true;
  for (unsigned code = 0; code < 0x7f; ++code) {
    const unsigned field = code >> 3;
    const double value = field == 0 ? std::ldexp(code & 7U, -9)
                                    : std::ldexp(8 + (code & 7U), static_cast<int>(field) - 10);
    const double distance = std::abs(std::abs(x) - value);
    const bool is_even = code % 2 == 0;
    if (distance < least || (distance == least && is_even && !best_is_even)) {
      best = value;
      least = distance;
      best_is_even = is_even;
    }
  }
  return std::copysign(best, x);
}

/// What a group of numbers is after it was saved.
void round_group(float* group, std::size_t count) {
  float maximum = 0;
  for (std::size_t i = 0; i < count; ++i) maximum = std::max(maximum, std::abs(group[i]));
  const float scale = maximum == 0 ? 1 : maximum / 448;
  for (std::size_t i = 0; i < count; ++i) {
    group[i] = static_cast<float>(nearest_e4m3(static_cast<double>(group[i] / scale))) * scale;
  }
}

Array<float> rounded(const Array<float>& array, std::size_t group = 16) {
  Array<float> result = array;
  float* const numbers = result.mutable_data();
  for (std::size_t row = 0; row < array.rows(); ++row) {
    for (std::size_t i = 0; i < array.columns(); i += group) {
      round_group(numbers + row * array.columns() + i, std::min(group, array.columns() - i));
    }
  }
  return result;
}

template <class P> void use(Tape<P>& tape, bool is_coat) {
  if (is_coat) tape.use_recipe(Coat());
}

/// A mean whose gradient is the same for every element, whatever their values.
template <class V> auto mean_of_all(const V& values) { return ops::mean(ops::mean(values)); }

struct Gelu {
  Array<float> gradient = {};
  float loss = 0;
  std::size_t saved_bytes = 0;
};
template <class P> Gelu run_gelu(const Array<float>& x, bool is_coat) {
  Tape<P> tape;
  use(tape, is_coat);
  const auto input = tape.input(x);
  const auto loss = mean_of_all(ops::gelu(input));
  Gelu result{.loss = static_cast<float>(*loss.value().data()), .saved_bytes = tape.saved_bytes()};
  tape.backward(loss);
  result.gradient = Array<float>(x.shape());
  for (std::size_t i = 0; i < x.size(); ++i) {
    result.gradient.mutable_data()[i] = static_cast<float>(tape.gradient(input).data()[i]);
  }
  return result;
}

TEST(Coat, GivesTheBackwardPassOfAnOpItsInputInGroupsOf16) {
  for (const Shape& shape : {Shape{1, 1}, Shape{4, 40}, Shape{3, 16}, Shape{5, 15}, Shape{7, 33}}) {
    Array<float> x = normal_array<float>(shape, 3);
    // Groups of other magnitudes, of zeros, and of one number.
    for (std::size_t i = 0; i < x.size(); ++i) {
      float& number = x.mutable_data()[i];
      const std::size_t group = i / 16 % 4;
      if (group == 1) number *= 0x1p-20F;
      if (group == 2) number = 0;
      if (group == 3 && i % 16 != 5) number = 0;
    }
    const Gelu coat = run_gelu<precision::fp32>(x, true);
    const Gelu plain = run_gelu<precision::fp32>(x, false);
    const Gelu of_rounded = run_gelu<precision::fp32>(rounded(x), false);
    EXPECT_EQ(coat.loss, plain.loss) << to_string(shape);
    for (std::size_t i = 0; i < x.size(); ++i) {
      EXPECT_EQ(coat.gradient.data()[i], of_rounded.gradient.data()[i])
          << to_string(shape) << ", " << i;
    }
  }
}

TEST(Coat, SavesAByteForEachElementAndAScaleForEachGroup) {
  const Array<float> x = normal_array<float>({4, 40}, 3);
  constexpr std::size_t scales = 4 * 3;
  EXPECT_EQ(run_gelu<precision::fp16>(x, false).saved_bytes, 2 * x.size());
  EXPECT_EQ(run_gelu<precision::fp16>(x, true).saved_bytes, x.size() + 4 * scales);
  Tape<precision::fp16> tape;
  tape.use_recipe(Coat({.group = 20, .scales = ScaleFormat::power_of_two}));
  const auto y = ops::gelu(tape.input(x));
  EXPECT_EQ(tape.saved_bytes(), x.size() + 4 * 2);
}

// Its row statistics and gains stay as they are.
TEST(Coat, SavesOfANormItsInputAlone) {
  const Array<float> x = normal_array<float>({6, 32}, 4);
  const Parameter gain{.name = "gain", .value = Array<float>::filled({32}, 1.5F)};
  const Parameter bias{.name = "bias", .value = Array<float>::filled({32}, 0.25F)};
  const auto saved = [&](bool is_coat) {
    Fp32 tape;
    use(tape, is_coat);
    const auto y = ops::layer_norm(tape.input(x), gain, bias);
    return tape.saved_bytes();
  };
  EXPECT_EQ(saved(false) - saved(true), 4 * x.size() - (x.size() + 4 * 12));
}

TEST(Coat, SavesOfASoftmaxItsOutput) {
  const Array<float> x = normal_array<float>({5, 24}, 5);
  Fp32 tape;
  tape.use_recipe(Coat());
  const auto input = tape.input(x);
  const auto y = ops::softmax(input);
  EXPECT_EQ(tape.saved_bytes(), x.size() + 4 * 10);
  // A gradient is made of the rounded numbers p of the first row, of sum 1 before they were
  // rounded: that of the first of them alone is p_0 (1 - p_0) and -p_i p_0.
  double sum = 0;
  for (std::size_t i = 0; i < 24; ++i) sum += static_cast<double>(y.value().data()[i]);
  const Array<float> p = rounded(y.value());
  Array<float> first = Array<float>::filled(x.shape(), 0);
  first.mutable_data()[0] = 1;
  tape.backward(mean_of_all(ops::mul(y, tape.constant(first))));
  const float* const gradient = tape.gradient(input).data();
  for (std::size_t i = 1; i < 24; ++i) {
    EXPECT_NEAR(static_cast<double>(gradient[i] / gradient[0]),
                -static_cast<double>(p.data()[i]) / (sum - static_cast<double>(p.data()[0])), 1e-5)
        << i;
  }
}

TEST(Coat, KeepsWhatIsNotFiniteInItsGroup) {
  for (const float bad : {infinity, -infinity, std::nanf("")}) {
    Array<float> x = normal_array<float>({2, 32}, 6);
    x.mutable_data()[20] = bad;
    const Gelu coat = run_gelu<precision::fp32>(x, true);
    for (std::size_t i = 0; i < x.size(); ++i) {
      EXPECT_EQ(std::isnan(coat.gradient.data()[i]), i >= 16 && i < 32) << bad << ", " << i;
    }
  }
}

TEST(Coat, SavesTheLargestNumberOfFp16) {
  Array<float> x = Array<float>::filled({1, 16}, 1);
  x.mutable_data()[3] = 65504;
  x.mutable_data()[4] = -65504;
  const Gelu coat = run_gelu<precision::fp16>(x, true);
  const Gelu plain = run_gelu<precision::fp16>(x, false);
  EXPECT_EQ(coat.gradient.data()[3], plain.gradient.data()[3]);
  EXPECT_EQ(coat.gradient.data()[4], plain.gradient.data()[4]);
}

TEST(Coat, OfNothingSavesNothing) {
  for (const Shape& shape : {Shape{0, 16}, Shape{3, 0}}) {
    Fp32 tape;
    tape.use_recipe(Coat());
    const auto y = ops::gelu(tape.input(Array<float>(shape)));
    EXPECT_EQ(tape.saved_bytes(), 0U);
  }
}

// What an op saved goes with it, also if no gradient reaches it.
TEST(Coat, GivesEachOpItsOwnWhereSomeAreNotUsed) {
  const Array<float> a = normal_array<float>({2, 48}, 7);
  const Array<float> b = normal_array<float>({2, 48}, 8);
  const auto gradients = [&](bool has_unused) {
    Fp32 tape;
    tape.use_recipe(Coat());
    const auto x = tape.input(a);
    const auto z = tape.input(b);
    const auto first = ops::gelu(x);
    if (has_unused) (void)ops::gelu(ops::softmax(z));
    const auto second = ops::gelu(z);
    if (has_unused) (void)ops::gelu(x);
    const auto loss = mean_of_all(ops::add(first, second));
    tape.backward(loss);
    return std::vector<float>{tape.gradient(x).data()[17], tape.gradient(z).data()[90]};
  };
  EXPECT_EQ(gradients(true), gradients(false));
  EXPECT_EQ(gradients(false)[0], [&] {
    Fp32 tape;
    const auto x = tape.input(rounded(a));
    const auto z = tape.input(rounded(b));
    tape.backward(mean_of_all(ops::add(ops::gelu(x), ops::gelu(z))));
    return tape.gradient(x).data()[17];
  }());
}

TEST(Coat, ForgetsWhatWasSavedWhenTheTapeIsCleared) {
  const Array<float> x = normal_array<float>({3, 32}, 9);
  Fp32 tape;
  tape.use_recipe(Coat());
  (void)ops::gelu(tape.input(x));
  tape.clear();
  EXPECT_EQ(tape.saved_bytes(), 0U);
  const auto input = tape.input(x);
  tape.backward(mean_of_all(ops::gelu(input)));
  EXPECT_EQ(tape.gradient(input).data()[40],
            run_gelu<precision::fp32>(x, true).gradient.data()[40]);
}

TEST(Coat, SavesTheOperandsOfALinearLayerOnce) {
  const Array<float> x = normal_array<float>({8, 32}, 10);
  const Parameter weight{.name = "weight", .value = normal_array<float>({16, 32}, 11)};
  Tape<precision::fp16> tape;
  tape.use_recipe(Coat());
  (void)ops::linear(tape.input(x), weight);
  EXPECT_EQ(tape.saved_bytes(), x.size() + 4 + weight.value.size() + 4);
}

TEST(Coat, RefusesFormatsGroupsAndScalesThatItCannotSave) {
  expect_domain_error([] { Coat({.saved = Format::of<float16>()}); }, {"Coat", "float16"});
  expect_domain_error([] { Coat({.group = 0}); }, {"Coat", "group", "0"});
  expect_domain_error([] { Coat({.scales = ScaleFormat::none}); }, {"Coat", "scales"});
  expect_domain_error([] { Coat({.products = {.least_maximum = -1}}); }, {"least maximum"});
}

/// Losses of some steps, and bytes that the last one saved.
struct Training {
  std::vector<float> losses;
  std::size_t saved_bytes = 0;
};
template <class P> Training train(bool is_coat, std::size_t steps) {
  constexpr std::size_t vocabulary = 17;
  nn::Initialiser initialiser(3, scaling::paper);
  nn::BertMlp model(initialiser,
                    {.vocabulary_size = vocabulary, .window = 8, .hidden_size = 64, .layers = 2});
  optim::AdamW optimiser(optim::parameters_of(model));
  Tape<P> tape;
  use(tape, is_coat);
  Training result;
  for (std::size_t step = 0; step < steps; ++step) {
    tape.clear();
    const auto loss = ops::cross_entropy(
        model(tape, id_array({8, 8}, vocabulary, step % 4), id_array({16}, 64, 1)),
        id_array({16}, vocabulary, step % 4));
    result.losses.push_back(static_cast<float>(*loss.value().data()));
    result.saved_bytes = tape.saved_bytes();
    tape.backward(loss);
    optimiser.step(tape, 0x1p-6);
  }
  return result;
}

TEST(Coat, TrainsAsWellInThreeQuartersOfTheMemory) {
  constexpr std::size_t steps = 60;
  const Training plain = train<precision::fp16>(false, steps);
  const Training coat = train<precision::fp16>(true, steps);
  EXPECT_LT(plain.losses.back(), plain.losses.front() / 2);
  EXPECT_NEAR(coat.losses.back(), plain.losses.back(), 0.05F * plain.losses.front());
  EXPECT_LT(static_cast<double>(coat.saved_bytes), 0.75 * static_cast<double>(plain.saved_bytes));
}

TEST(Coat, HasTheSameBitsForAnyNumberOfThreads) {
  const auto losses = [](std::size_t threads) {
    const ThreadCountScope scope(threads);
    return train<precision::fp8>(true, 4).losses;
  };
  const std::vector<float> one = losses(1);
  EXPECT_EQ(losses(2), one);
  EXPECT_EQ(losses(3), one);
}

}  // namespace coat_test
