// SPDX-License-Identifier: MIT
#include "unit_scaling/optim/low_precision_states.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "optim/optimiser_support.hpp"
#include "support/errors.hpp"
#include "support/threads.hpp"
#include "unit_scaling/formats/encoded_array_codec.hpp"
#include "unit_scaling/optim/encoded_gradients.hpp"
#include "unit_scaling/optim/sgd.hpp"

namespace low_precision_states_test {

using namespace unit_scaling;
using namespace unit_scaling_test;
using optim::Adam;
using optim::AdamW;
using optim::EncodedStateFormat;
using optim::StateScale;

constexpr double rate = 0.01;

struct Gradients {
  std::map<const Parameter*, Array<float>> of;
  [[nodiscard]] const Array<float>& gradient(const Parameter& parameter) const {
    return of.at(&parameter);
  }
};

bool is_finite(const Array<float>& array) {
  const auto elements = array.span();
  return std::all_of(elements.begin(), elements.end(),
                     [](float each) { return std::isfinite(each); });
}

/// Each state as bytes, by name.
using Bytes = std::map<std::string, std::vector<std::uint8_t>>;

template <class T> std::vector<std::uint8_t> bytes_of(const T& state) {
  if constexpr (is_array<T>) {
    const auto* begin = reinterpret_cast<const std::uint8_t*>(state.data());
    return {begin, begin + state.bytes()};
  } else if constexpr (std::is_same_v<T, EncodedArray>) {
    return {state.codes().begin(), state.codes().end()};
  } else {
    std::vector<std::uint8_t> result(sizeof(T));
    std::memcpy(result.data(), &state, sizeof(T));
    return result;
  }
}

Bytes states_of(Adam& adam) {
  Bytes result;
  adam.for_each_state(
      [&](const std::string& name, const auto& state) { result[name] = bytes_of(state); });
  return result;
}

/// As a checkpoint does.
void set_states(Adam& adam, const Bytes& states) {
  adam.for_each_state([&]<class T>(const std::string& name, T& state) {
    const std::vector<std::uint8_t>& from = states.at(name);
    if constexpr (is_array<T>) {
      std::memcpy(state.mutable_data(), from.data(), from.size());
    } else if constexpr (std::is_same_v<T, EncodedArray>) {
      std::memcpy(state.mutable_codes().data(), from.data(), from.size());
    } else {
      std::memcpy(&state, from.data(), from.size());
    }
  });
}

/// Memory of what the optimiser keeps of the parameters.
std::size_t memory_of(Adam& adam) {
  std::size_t result = 0;
  for (const auto& [name, bytes] : states_of(adam)) result += name == "steps" ? 0 : bytes.size();
  return result;
}

/// Numbers of a moment under a scale for the tensor, by arithmetic of double.
std::vector<double> decoded(const Bytes& states, const std::string& moment, bool is_e4m3) {
  float scale = 0;
  std::memcpy(&scale, states.at(moment + "_scales.p").data(), sizeof(scale));
  const std::vector<std::uint8_t>& codes = states.at(moment + ".p");
  std::vector<double> result;
  for (std::size_t i = 0; i < codes.size(); i += is_e4m3 ? 1 : 2) {
    const int mantissa_bits = is_e4m3 ? 3 : 10;
    const int code = is_e4m3 ? codes[i] : codes[i] | codes[i + 1] << 8;
    const int sign = is_e4m3 ? code >> 7 : code >> 15;
    const int magnitude = is_e4m3 ? code & 0x7f : code & 0x7fff;
    const int bias = is_e4m3 ? 7 : 15;
    const int field = magnitude >> mantissa_bits;
    const int fraction = magnitude & ((1 << mantissa_bits) - 1);
    EXPECT_NE(magnitude, is_e4m3 ? 0x7f : 0x7c00);
    const double number =
        field == 0 ? std::ldexp(fraction, 1 - bias - mantissa_bits)
                   : std::ldexp((1 << mantissa_bits) + fraction, field - bias - mantissa_bits);
    result.push_back((sign != 0 ? -number : number) * static_cast<double>(scale));
  }
  return result;
}

TEST(LowPrecisionStates, StepsOfFp8LmAreThoseOfThePaperButForOneRounding) {
  for (const double decay : {0.0, 0.1}) {
    Parameter parameter = test_parameter(ParameterKind::weight, {29, 31});
    Adam::Options options = optim::with_fp8_lm_states({.weight_decay = decay});
    options.master_weights = nullptr;
    Adam adam({&parameter}, options);
    for (std::uint64_t step = 0; step < 6; ++step) {
      // Sizes that change make scales change.
      Array<float> gradient = gradient_of_step(parameter.value.shape(), step);
      for (float& each : gradient.mutable_span()) each *= step < 3 ? 1.0F : 0x1p-6F;
      const Bytes before = states_of(adam);
      const Array<float> value = parameter.value;
      const auto m = decoded(before, "first_moment", true);
      const auto v = decoded(before, "second_moment", false);
      adam.step(Gradients{{{&parameter, gradient}}}, rate);
      const Bytes after = states_of(adam);
      const auto m_after = decoded(after, "first_moment", true);
      const auto v_after = decoded(after, "second_moment", false);
      float scale_of_m = 0;
      float scale_of_v = 0;
      std::memcpy(&scale_of_m, after.at("first_moment_scales.p").data(), 4);
      std::memcpy(&scale_of_v, after.at("second_moment_scales.p").data(), 4);
      double largest = 0;
      for (std::size_t i = 0; i < m.size(); ++i) {
        const double p = static_cast<double>(value.data()[i]);
        const double g = static_cast<double>(gradient.data()[i]) + decay * p;
        const double first = 0.9 * m[i] + 0.1 * g;
        const double second = 0.999 * v[i] + 0.001 * g * g;
        const double t = static_cast<double>(step + 1);
        const double update =
            first / (1 - std::pow(0.9, t)) / (std::sqrt(second / (1 - std::pow(0.999, t))) + 1e-8);
        // A rounding of the stored numbers, and some of float.
        EXPECT_NEAR(m_after[i], first,
                    std::max(std::abs(first) / 16, static_cast<double>(scale_of_m) * 0x1p-10) +
                        1e-6 * (std::abs(m[i]) + std::abs(g)));
        EXPECT_NEAR(
            v_after[i], second,
            std::max(second * 0x1p-11, static_cast<double>(scale_of_v) * 0x1p-25) + 1e-6 * second);
        EXPECT_NEAR(static_cast<double>(parameter.value.data()[i]), p - rate * update,
                    1e-6 * (std::abs(p) + rate * (1 + std::abs(update))));
        largest = std::max(largest, std::abs(first));
      }
      // At most a quarter of the range is left.
      EXPECT_LE(largest, 448 * static_cast<double>(scale_of_m));
      EXPECT_GE(largest, 448 * static_cast<double>(scale_of_m) / 4);
    }
  }
}

// An oracle of its own: the step in floats, then the nearest number of FP16 under a power of two.
TEST(LowPrecisionStates, MasterWeightsOfFp8LmAreTheNearestNumbersOfFp16) {
  const auto nearest = [](const Array<float>& numbers) {
    float largest = 0;
    for (const float each : numbers.span()) largest = std::max(largest, std::abs(each));
    const double scale = std::exp2(-std::floor(std::log2(65504 / static_cast<double>(largest))));
    Array<float> result(numbers.shape());
    for (std::size_t i = 0; i < numbers.size(); ++i) {
      const double number = static_cast<double>(numbers.data()[i]) / scale;
      const double unit = std::exp2(std::max(-14, std::ilogb(number)) - 10);
      result.mutable_data()[i] = static_cast<float>(std::nearbyint(number / unit) * unit * scale);
    }
    return result;
  };
  for (const double coupled_decay : {0.0, 0.1}) {
    Adam::Options options = optim::with_fp8_lm_states({.weight_decay = coupled_decay});
    Parameter parameter = test_parameter(ParameterKind::weight, {29, 31});
    Adam adam({&parameter}, options);
    options.master_weights = nullptr;
    Parameter expected = test_parameter(ParameterKind::weight, {29, 31});
    expected.value = nearest(expected.value);
    EXPECT_EQ(parameter.floats(), expected.value);
    Adam adam_of_expected({&expected}, options);
    for (std::uint64_t step = 0; step < 4; ++step) {
      const Array<float> gradient = gradient_of_step(expected.value.shape(), step);
      adam.step(Gradients{{{&parameter, gradient}}}, rate);
      adam_of_expected.step(Gradients{{{&expected, gradient}}}, rate);
      expected.value = nearest(expected.value);
      EXPECT_EQ(parameter.floats(), expected.value) << step;
    }
  }
}

TEST(LowPrecisionStates, Fp8LmTakesSixBytesForAParameter) {
  Parameter parameter = test_parameter(ParameterKind::weight, {29, 31});
  const std::size_t size = parameter.value.size();
  Adam adam({&parameter}, optim::with_fp8_lm_states({}));
  optim::EncodedGradients gradients({&parameter});
  gradients.take(Gradients{{{&parameter, gradient_of_step({29, 31}, 0)}}});
  adam.step(gradients, rate, gradients.factor());
  // First moment 1, second 2, master weights 2, gradient 1; each moment has a scale and a largest
  // number, the master weights have a scale.
  EXPECT_EQ(memory_of(adam) + parameter.bytes() + gradients.bytes(), 6 * size + 2 * 8 + 4);
  EXPECT_TRUE(parameter.value.empty());
}

TEST(LowPrecisionStates, WhatIsWrittenToAValueReplacesTheCodes) {
  Parameter parameter = test_parameter(ParameterKind::weight, {3, 5});
  Adam adam({&parameter}, optim::with_fp8_lm_states({}));
  EXPECT_TRUE(parameter.is_encoded());
  parameter.value = Array<float>::filled({3, 5}, 3);
  EXPECT_FALSE(parameter.is_encoded());
  EXPECT_EQ(parameter.floats().data()[0], 3);
  adam.step(Gradients{{{&parameter, Array<float>::filled({3, 5}, 0)}}}, rate);
  EXPECT_TRUE(parameter.is_encoded());
  EXPECT_EQ(parameter.floats(), (Array<float>::filled({3, 5}, 3)));
}

TEST(LowPrecisionStates, OtherOptimisersRefuseParametersThatAreCodes) {
  Parameter parameter = test_parameter(ParameterKind::weight, {3, 5});
  Adam adam({&parameter}, optim::with_fp8_lm_states({}));
  const Gradients gradients{{{&parameter, Array<float>::filled({3, 5}, 1)}}};
  optim::Sgd sgd({&parameter}, {.allow_untagged = true});
  expect_domain_error([&] { sgd.step(gradients, rate); }, {"Sgd", "'p'", "floats"});
  Adam plain({&parameter});
  expect_domain_error([&] { plain.step(gradients, rate); }, {"Adam", "'p'", "floats"});
  parameter.value = parameter.floats();
  EXPECT_NO_THROW(sgd.step(gradients, rate));
}

TEST(LowPrecisionStates, MasterWeightsHaveNoScalesOfGroups) {
  const auto format = [](StateScale scale) {
    return std::make_shared<const EncodedStateFormat>(EncodedStateFormat::Options{.scale = scale});
  };
  Parameter parameter = test_parameter(ParameterKind::weight, {3, 5});
  const auto refuses = [&] {
    expect_domain_error(
        [&] { Adam({&parameter}, {.master_weights = format(StateScale::per_group)}); },
        {"master weights", "one scale"});
  };
  refuses();
  EXPECT_FALSE(parameter.is_encoded());
  const Adam without_scale({&parameter}, {.master_weights = format(StateScale::none)});
  refuses();
}

TEST(LowPrecisionStates, AnOptimiserThatIsRefusedLeavesTheWeightsAsTheyAre) {
  Parameter parameter = test_parameter(ParameterKind::weight, {3, 5});
  Adam::Options options = optim::with_fp8_lm_states({.decay = optim::WeightDecay::coupled});
  expect_domain_error([&] { AdamW({&parameter}, options); }, {"AdamW", "decoupled"});
  EXPECT_FALSE(parameter.is_encoded());
}

TEST(LowPrecisionStates, CoatKeepsTwoBytesAndAnEighthForAParameter) {
  Parameter parameter = test_parameter(ParameterKind::weight, {64, 128});
  Adam adam({&parameter}, optim::with_coat_states({}));
  EXPECT_EQ(memory_of(adam), 2 * (64 * 128 + 64 * 8));  // 2.125 bytes for a parameter
}

TEST(LowPrecisionStates, StepsWithCoatStayNearThoseInFloat) {
  for (const auto expansion :
       {optim::RangeExpansion::coat_code, optim::RangeExpansion::coat_paper}) {
    const auto run = [&](const Adam::Options& options) {
      return trained(ParameterKind::weight, {29, 31}, 20, rate,
                     [&](const std::vector<Parameter*>& all) { return Adam(all, options); })[0];
    };
    const Array<float> actual = run(optim::with_coat_states({}, expansion));
    const Array<float> expected = run({});
    double moved = 0;
    double error = 0;
    const Array<float> start = test_parameter(ParameterKind::weight, {29, 31}).value;
    for (std::size_t i = 0; i < start.size(); ++i) {
      const double path = static_cast<double>(expected.data()[i] - start.data()[i]);
      const double difference = static_cast<double>(actual.data()[i] - expected.data()[i]);
      moved += path * path;
      error += difference * difference;
    }
    EXPECT_LT(std::sqrt(error / moved), 0.1);
    EXPECT_GT(error, 0);
  }
}

TEST(LowPrecisionStates, CodesOfBinary32GiveTheBitsOfFloats) {
  // Decoding, chunks and encoding change nothing by themselves.
  const auto floats = std::make_shared<const EncodedStateFormat>(
      EncodedStateFormat::Options{.format = Format(), .scale = StateScale::none});
  const auto run = [&](const Adam::Options& options) {
    return trained(ParameterKind::weight, {211, 233}, 3, rate,
                   [&](const std::vector<Parameter*>& all) { return AdamW(all, options); })[0];
  };
  const Array<float> expected = run({.weight_decay = 0x1p-9});
  EXPECT_TRUE(same_bits(run({.weight_decay = 0x1p-9, .first_moment = floats}), expected));
  EXPECT_TRUE(same_bits(run({.weight_decay = 0x1p-9, .second_moment = floats}), expected));
  EXPECT_TRUE(same_bits(run({.weight_decay = 0x1p-9,
                             .first_moment = floats,
                             .second_moment = floats,
                             .master_weights = floats}),
                        expected));
}

/// The recipes, and one that rounds stochastically.
std::vector<Adam::Options> all_options() {
  Adam::Options stochastic = optim::with_coat_states({});
  stochastic.first_moment = std::make_shared<const EncodedStateFormat>(
      EncodedStateFormat::Options{.rounding = Rounding::stochastic, .seed = 5});
  stochastic.master_weights =
      std::make_shared<const EncodedStateFormat>(EncodedStateFormat::Options{
          .format = Format::of<bfloat16>(), .rounding = Rounding::stochastic, .seed = 6});
  return {optim::with_fp8_lm_states({}), optim::with_coat_states({}), stochastic};
}

TEST(LowPrecisionStates, ThreadCountChangesNoBit) {
  for (const Adam::Options& options : all_options()) {
    const auto run = [&](std::size_t threads) {
      const ThreadCountScope scope(threads);
      Parameter parameter = test_parameter(ParameterKind::weight, {211, 233});
      Adam adam({&parameter}, options);
      for (std::uint64_t step = 0; step < 2; ++step) {
        adam.step(Gradients{{{&parameter, gradient_of_step({211, 233}, step)}}}, rate);
      }
      Bytes result = states_of(adam);
      result["value"] = bytes_of(parameter.floats());
      return result;
    };
    const Bytes one = run(1);
    for (const std::size_t threads : {2U, 3U, 7U}) EXPECT_EQ(run(threads), one) << threads;
  }
}

TEST(LowPrecisionStates, ARunThatIsResumedHasTheBitsOfOneThatIsNot) {
  for (const Adam::Options& options : all_options()) {
    Parameter parameter = test_parameter(ParameterKind::weight, {19, 23});
    Parameter bias = test_parameter(ParameterKind::bias, {23}, "b");
    Adam adam({&parameter, &bias}, options);
    const auto step = [](Adam& some, Parameter& first, Parameter& second, std::uint64_t number) {
      some.step(Gradients{{{&first, gradient_of_step({19, 23}, number)},
                           {&second, gradient_of_step({23}, 50 + number)}}},
                rate);
    };
    for (std::uint64_t i = 0; i < 3; ++i) step(adam, parameter, bias, i);
    Parameter again = parameter;
    Parameter bias_again = bias;
    Adam resumed({&again, &bias_again}, options);
    set_states(resumed, states_of(adam));
    for (std::uint64_t i = 3; i < 6; ++i) {
      step(adam, parameter, bias, i);
      step(resumed, again, bias_again, i);
    }
    EXPECT_TRUE(same_bits(parameter.floats(), again.floats()));
    EXPECT_TRUE(same_bits(bias.floats(), bias_again.floats()));
    EXPECT_EQ(states_of(adam), states_of(resumed));
  }
}

TEST(LowPrecisionStates, ACopyOfAnOptimiserHasStatesOfItsOwn) {
  Parameter parameter = test_parameter(ParameterKind::weight, {19, 23});
  Adam adam({&parameter}, optim::with_coat_states({}));
  adam.step(Gradients{{{&parameter, gradient_of_step({19, 23}, 0)}}}, rate);
  Adam copy = adam;
  const Bytes before = states_of(copy);
  adam.step(Gradients{{{&parameter, gradient_of_step({19, 23}, 1)}}}, rate);
  EXPECT_EQ(states_of(copy), before);
  EXPECT_NE(states_of(adam), before);
}

TEST(LowPrecisionStates, ShowTheirArraysByName) {
  Parameter parameter = test_parameter(ParameterKind::weight, {2, 3});
  const auto names = [&](const Adam::Options& options) {
    Adam adam({&parameter}, options);
    std::vector<std::string> result;
    adam.for_each_state([&](const std::string& name, const auto&) { result.push_back(name); });
    return result;
  };
  EXPECT_EQ(names(optim::with_fp8_lm_states({})),
            (std::vector<std::string>{"first_moment.p", "first_moment_scales.p", "second_moment.p",
                                      "second_moment_scales.p", "steps"}));
  EXPECT_EQ(
      names(optim::with_coat_states({})),
      (std::vector<std::string>{"first_moment.p", "first_moment_scales.p",
                                "first_moment_exponents.p", "second_moment.p",
                                "second_moment_scales.p", "second_moment_exponents.p", "steps"}));
}

TEST(LowPrecisionStates, GradientsOfZerosOneHotOnesAndEmptyParametersAreSteps) {
  for (const Adam::Options& options : all_options()) {
    SCOPED_TRACE(options.master_weights != nullptr);
    for (const Shape& shape : {Shape{1, 1}, Shape{1, 17}, Shape{300}, Shape{3, 0}}) {
      Parameter parameter = test_parameter(ParameterKind::weight, shape);
      Adam adam({&parameter}, options);
      Array<float> gradient = Array<float>::filled(shape, 0);
      adam.step(Gradients{{{&parameter, gradient}}}, rate);
      if (!gradient.empty()) gradient.mutable_data()[gradient.size() / 2] = 1e-20F;
      for (int step = 0; step < 3; ++step) {
        adam.step(Gradients{{{&parameter, gradient}}}, rate);
        EXPECT_TRUE(is_finite(parameter.floats()));
      }
      EXPECT_EQ(adam.steps(), 4U);
    }
  }
}

TEST(LowPrecisionStates, WhatIsNotFiniteReachesItsOwnElementOnly) {
  for (Adam::Options options : {optim::with_fp8_lm_states({}), optim::with_coat_states({})}) {
    options.allow_non_finite = true;
    Parameter parameter = test_parameter(ParameterKind::weight, {10, 30});
    Adam adam({&parameter}, options);
    for (const float bad :
         {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
      Array<float> gradient = gradient_of_step({10, 30}, 3);
      gradient.mutable_data()[77] = bad;
      adam.step(Gradients{{{&parameter, gradient}}}, rate);
    }
    for (std::size_t i = 0; i < 300; ++i) {
      EXPECT_EQ(std::isfinite(parameter.floats().data()[i]), i != 77) << i;
    }
  }
}

TEST(LowPrecisionStates, GradientsAtTheEndsOfWhatAStepTakesOverflowNoState) {
  for (Adam::Options options : {optim::with_fp8_lm_states({}), optim::with_coat_states({})}) {
    options.master_weights = nullptr;
    for (const float size : {0x1p62F, 0x1p-60F}) {
      Parameter parameter = test_parameter(ParameterKind::weight, {10, 30});
      Adam adam({&parameter}, options);
      Array<float> gradient = gradient_of_step({10, 30}, 3);
      for (float& each : gradient.mutable_span()) each *= size / 8;
      for (int step = 0; step < 3; ++step) adam.step(Gradients{{{&parameter, gradient}}}, rate);
      EXPECT_TRUE(is_finite(parameter.value)) << size;
    }
  }
}

// Rounded up, a moment may be larger than the largest before it was rounded: the scale of the next
// step must allow for that.
TEST(LowPrecisionStates, OverflowUnderNoRounding) {
  for (const Rounding rounding :
       {Rounding::stochastic, Rounding::toward_negative, Rounding::toward_positive,
        Rounding::nearest_even, Rounding::nearest_away, Rounding::toward_zero}) {
    for (std::uint64_t seed = 0; seed < 20; ++seed) {
      for (const float sign : {1.0F, -1.0F}) {
        Parameter parameter = test_parameter(ParameterKind::weight, {16, 16});
        Adam adam({&parameter},
                  {.first_moment = std::make_shared<EncodedStateFormat>(
                       EncodedStateFormat::Options{.rounding = rounding, .seed = seed})});
        adam.step(Gradients{{{&parameter, Array<float>::filled({16, 16}, sign * 1.2F)}}}, rate);
        double largest = 0;
        for (const double each : decoded(states_of(adam), "first_moment", true)) {
          largest = std::max(largest, std::abs(each));
        }
        adam.step(Gradients{{{&parameter, Array<float>::filled({16, 16}, 0)}}}, rate);
        float scale = 0;
        std::memcpy(&scale, states_of(adam).at("first_moment_scales.p").data(), sizeof(scale));
        EXPECT_GE(448 * static_cast<double>(scale), static_cast<double>(0.9F) * largest)
            << "rounding " << static_cast<int>(rounding) << ", seed " << seed;
      }
    }
  }
}

TEST(LowPrecisionStates, RefusesAStateThatSomebodyHasReshaped) {
  Parameter parameter = test_parameter(ParameterKind::weight, {4, 6});
  Adam adam({&parameter}, optim::with_coat_states({}));
  adam.for_each_state([]<class T>(const std::string& name, T& state) {
    if constexpr (std::is_same_v<T, EncodedArray>) {
      if (name == "second_moment.p") state = state.reshaped({6, 4});
    }
  });
  EXPECT_THROW(adam.step(Gradients{{{&parameter, gradient_of_step({4, 6}, 0)}}}, rate), ShapeError);
}

TEST(LowPrecisionStates, RefusesAStateInAnotherFormatOrWithFewerScales) {
  const auto refuses = [](const auto& spoil) {
    Parameter parameter = test_parameter(ParameterKind::weight, {4, 64});
    Adam adam({&parameter}, optim::with_coat_states({}));
    adam.for_each_state(spoil);
    const Array<float> before = parameter.value;
    expect_domain_error(
        [&] {
          adam.step(Gradients{{{&parameter, gradient_of_step({4, 64}, 0)}}}, rate);
        },
        {"Adam", "format", "'p'"});
    EXPECT_EQ(parameter.value, before);
    EXPECT_EQ(adam.steps(), 0U);
  };
  refuses([]<class T>(const std::string& name, T& state) {
    if constexpr (std::is_same_v<T, EncodedArray>) {
      if (name == "first_moment.p") {
        state = EncodedArray::encode(state, Format::of<float8_e5m2>());
      }
    }
  });
  refuses([]<class T>(const std::string& name, T& state) {
    if constexpr (is_array<T>) {
      if (name == "second_moment_exponents.p") state = T({1});
    }
  });
}

}  // namespace low_precision_states_test
