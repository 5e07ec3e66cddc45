// SPDX-License-Identifier: MIT
// What every optimiser refuses.
#include "unit_scaling/optim/optimiser.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "optim/optimiser_support.hpp"
#include "support/errors.hpp"
#include "unit_scaling/optim/adam.hpp"
#include "unit_scaling/optim/lamb.hpp"
#include "unit_scaling/optim/learning_rate_report.hpp"
#include "unit_scaling/optim/sgd.hpp"

namespace optimiser_test {

using namespace unit_scaling;
using namespace unit_scaling_test;

template <class T> class EveryOptimiser : public testing::Test {};
using Optimisers = testing::Types<optim::Sgd, optim::Adam, optim::AdamW, optim::Lamb>;
TYPED_TEST_SUITE(EveryOptimiser, Optimisers);

TYPED_TEST(EveryOptimiser, RefusesParametersThatAreMissingOrNamedTwice) {
  Parameter parameter = test_parameter(ParameterKind::weight, {3});
  expect_domain_error([] { TypeParam(std::vector<Parameter*>{nullptr}); }, {"null"});
  expect_domain_error([&] { TypeParam({&parameter, &parameter}); }, {"twice", "p"});
}

TYPED_TEST(EveryOptimiser, RefusesAStepWithoutGradientsAndDoesNotCountIt) {
  Parameter parameter = test_parameter(ParameterKind::weight, {3});
  const Array<float> before = parameter.value;
  TypeParam optimiser({&parameter});
  Tape<precision::fp32> tape;
  expect_domain_error([&] { optimiser.step(tape, 0.1); }, {"gradients", "backward"});
  put_gradient(tape, parameter, gradient_of_step({3}, 0));
  tape.clear();
  expect_domain_error([&] { optimiser.step(tape, 0.1); }, {"gradients", "backward"});
  EXPECT_EQ(optimiser.steps(), 0U);
  EXPECT_EQ(parameter.value, before);
}

TYPED_TEST(EveryOptimiser, RefusesRatesAndLossScalesThatAreNoNumbers) {
  Parameter parameter = test_parameter(ParameterKind::weight, {3});
  const Array<float> before = parameter.value;
  TypeParam optimiser({&parameter});
  Tape<precision::fp32> tape;
  put_gradient(tape, parameter, gradient_of_step({3}, 0));
  const double infinity = std::numeric_limits<double>::infinity();
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (const double rate : {infinity, nan}) {
    expect_domain_error([&] { optimiser.step(tape, rate); }, {"learning rate"});
  }
  for (const double loss_scale : {0.0, -1.0, infinity, nan}) {
    expect_domain_error([&] { optimiser.step(tape, 0.1, loss_scale); }, {"loss scale"});
  }
  EXPECT_EQ(optimiser.steps(), 0U);
  EXPECT_EQ(parameter.value, before);
}

TYPED_TEST(EveryOptimiser, TakesEmptyParametersAndNone) {
  Parameter parameter = test_parameter(ParameterKind::weight, {0, 3});
  Tape<precision::fp32> tape;
  TypeParam of_empty({&parameter});
  of_empty.step(tape, 0.1);
  TypeParam of_none(std::vector<Parameter*>{});
  of_none.step(tape, 0.1);
  EXPECT_EQ(of_none.steps(), 1U);
}

/// A source of gradients that are given one by one.
template <class T> struct GivenGradients {
  struct Entry {
    const Parameter* parameter;
    Array<T> gradient;
  };
  std::vector<Entry> entries;

  [[nodiscard]] const Array<T>& gradient(const Parameter& parameter) const {
    static const Array<T> none;
    for (const Entry& entry : entries) {
      if (entry.parameter == &parameter) return entry.gradient;
    }
    return none;
  }
};

template <class Optimiser> constexpr std::string_view name_of() {
  if constexpr (std::is_same_v<Optimiser, optim::Sgd>) return "Sgd: ";
  if constexpr (std::is_same_v<Optimiser, optim::Adam>) return "Adam: ";
  if constexpr (std::is_same_v<Optimiser, optim::AdamW>) return "AdamW: ";
  return "Lamb: ";
}

/// Values and states of an optimiser over two parameters, to be compared.
template <class Optimiser>
std::vector<Array<float>> everything(Optimiser& optimiser, const Parameter& a, const Parameter& b) {
  std::vector<Array<float>> result{a.value, b.value};
  for_each_array(optimiser,
                 [&](const std::string&, const auto& state) { result.push_back(state); });
  return result;
}

TYPED_TEST(EveryOptimiser, RefusesAParameterWhoseShapeHasChangedBeforeItChangesAnything) {
  for (const Shape& other : {Shape{64, 1024}, Shape{2}, Shape{3, 1}, Shape{0}, Shape{}}) {
    Parameter first = test_parameter(ParameterKind::weight, {3}, "first");
    Parameter second = test_parameter(ParameterKind::weight, {3}, "second");
    TypeParam optimiser({&first, &second});
    second.value = Array<float>::filled(other, 1);
    const GivenGradients<float> gradients{
        {{&first, gradient_of_step({3}, 0)}, {&second, Array<float>::filled(other, 1)}}};
    const auto before = everything(optimiser, first, second);
    expect_shape_error([&] { optimiser.step(gradients, 0.1); },
                       {name_of<TypeParam>(), "'second'", "(3)", to_string(other)});
    // Nor may it go without a gradient of its own.
    const GivenGradients<float> of_first{{{&first, gradient_of_step({3}, 0)}}};
    expect_shape_error([&] { optimiser.step(of_first, 0.1); }, {"'second'"});
    EXPECT_EQ(everything(optimiser, first, second), before);
    EXPECT_EQ(optimiser.steps(), 0U);
  }
}

TYPED_TEST(EveryOptimiser, RefusesAGradientOfAnotherShape) {
  for (const Shape& other : {Shape{64, 1024}, Shape{2}, Shape{3, 1}, Shape{}}) {
    Parameter first = test_parameter(ParameterKind::weight, {3}, "first");
    Parameter second = test_parameter(ParameterKind::weight, {3}, "second");
    TypeParam optimiser({&first, &second});
    const auto before = everything(optimiser, first, second);
    const GivenGradients<float> gradients{
        {{&first, gradient_of_step({3}, 0)}, {&second, Array<float>::filled(other, 1)}}};
    expect_shape_error([&] { optimiser.step(gradients, 0.1); },
                       {name_of<TypeParam>(), "gradient", "'second'", "(3)", to_string(other)});
    EXPECT_EQ(everything(optimiser, first, second), before);
    EXPECT_EQ(optimiser.steps(), 0U);
  }
}

TYPED_TEST(EveryOptimiser, RefusesAStateOfAnotherShape) {
  for (const Shape& other : {Shape{2}, Shape{4}, Shape{3, 1}, Shape{0}}) {
    Parameter first = test_parameter(ParameterKind::weight, {3}, "first");
    Parameter second = test_parameter(ParameterKind::weight, {3}, "second");
    TypeParam optimiser({&first, &second});
    for_each_array(optimiser, [&](const std::string& name, Array<float>& state) {
      if (name.find("second") + 6 == name.size()) state = Array<float>::filled(other, 0);
    });
    const auto before = everything(optimiser, first, second);
    const GivenGradients<float> gradients{
        {{&first, gradient_of_step({3}, 0)}, {&second, gradient_of_step({3}, 0)}}};
    expect_shape_error([&] { optimiser.step(gradients, 0.1); },
                       {name_of<TypeParam>(), "'second'", "(3)", to_string(other)});
    EXPECT_EQ(everything(optimiser, first, second), before);
  }
}

TYPED_TEST(EveryOptimiser, RefusesParametersThatWereMovedFrom) {
  Parameter first = test_parameter(ParameterKind::weight, {3}, "first");
  TypeParam optimiser({&first});
  const GivenGradients<float> gradients{{{&first, gradient_of_step({3}, 0)}}};
  const Parameter moved = std::move(first);
  expect_domain_error([&] { optimiser.step(gradients, 0.1); },
                      {name_of<TypeParam>(), "stayed in place", "first"});
  EXPECT_EQ(first.value.shape(), Shape{0});
}

TYPED_TEST(EveryOptimiser, RefusesParametersThatAreGone) {
  std::vector<Parameter> parameters{test_parameter(ParameterKind::weight, {3}, "first")};
  TypeParam optimiser({&parameters[0]});
  parameters.reserve(parameters.capacity() + 1);  // moves it
  const GivenGradients<float> gradients{{{&parameters[0], gradient_of_step({3}, 0)}}};
  expect_domain_error([&] { optimiser.step(gradients, 0.1); }, {"stayed in place", "first"});
  expect_domain_error([&] { (void)optim::learning_rate_report(optimiser, 0.1); },
                      {"stayed in place", "first"});
  std::vector<std::string> names;
  optimiser.for_each_state([&](const std::string& name, auto&) { names.push_back(name); });
  EXPECT_NE(names.at(0).find("first"), std::string::npos);
}

TYPED_TEST(EveryOptimiser, TakesParametersThatWereAssignedToInPlace) {
  Parameter first = test_parameter(ParameterKind::weight, {3}, "first");
  TypeParam optimiser({&first});
  first = test_parameter(ParameterKind::weight, {3}, "other");
  const Parameter copy = first;
  optimiser.step(GivenGradients<float>{{{&first, gradient_of_step({3}, 0)}}}, 0.1);
  EXPECT_NE(first.value, copy.value);
}

template <class T> void expect_non_finite_gradients_to_be_refused(auto make_optimiser) {
  // Whole vectors, tails and several pieces of work; where the element is must not matter.
  for (const std::size_t size : {1UL, 15UL, 16UL, 17UL, 40'001UL}) {
    for (const std::size_t at : {std::size_t{0}, size / 2, size - 1}) {
      for (const float wrong :
           {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::quiet_NaN(),
            std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity()}) {
        if (!std::numeric_limits<T>::has_infinity && !std::isnan(wrong)) continue;
        Parameter first = test_parameter(ParameterKind::weight, {3}, "first");
        Parameter second = test_parameter(ParameterKind::weight, {size}, "second");
        auto optimiser = make_optimiser(first, second);
        GivenGradients<T> gradients{{{&first, Array<T>::filled({3}, T(1.0F))},
                                     {&second, Array<T>::filled({size}, T(-1.0F))}}};
        EXPECT_EQ(optim::first_non_finite(gradients, {&first, &second}), nullptr);
        gradients.entries[1].gradient.mutable_data()[at] = T(wrong);
        EXPECT_EQ(optim::first_non_finite(gradients, {&first, &second}), &second);
        EXPECT_EQ(optim::first_non_finite(gradients, {&first}), nullptr);
        const auto before = everything(optimiser, first, second);
        expect_domain_error([&] { optimiser.step(gradients, 0.1); },
                            {"finite", "'second'", "allow_non_finite"});
        EXPECT_EQ(everything(optimiser, first, second), before);
        EXPECT_EQ(optimiser.steps(), 0U);
      }
    }
  }
}

TYPED_TEST(EveryOptimiser, RefusesAGradientThatIsNotFiniteBeforeItChangesAnything) {
  const auto make = [](Parameter& first, Parameter& second) {
    return TypeParam({&first, &second});
  };
  expect_non_finite_gradients_to_be_refused<float>(make);
  expect_non_finite_gradients_to_be_refused<bfloat16>(make);
  expect_non_finite_gradients_to_be_refused<float16>(make);
  expect_non_finite_gradients_to_be_refused<float8_e4m3fn>(make);
}

TYPED_TEST(EveryOptimiser, RefusesAGradientThatIsNotFiniteOnceDividedByTheLossScale) {
  Parameter parameter = test_parameter(ParameterKind::weight, {3});
  TypeParam optimiser({&parameter});
  const GivenGradients<float> gradients{{{&parameter, Array<float>::filled({3}, 0x1p100F)}}};
  expect_domain_error([&] { optimiser.step(gradients, 0.1, 0x1p-40); }, {"finite", "'p'"});
  // In range, though the loss scale's reciprocal alone does not tell.
  optimiser.step(gradients, 0x1p-20, 0x1p99);
  EXPECT_EQ(optimiser.steps(), 1U);
}

TYPED_TEST(EveryOptimiser, StepsOnWhatIsNotFiniteIfThatIsAllowed) {
  Parameter parameter = test_parameter(ParameterKind::weight, {3});
  typename TypeParam::Options options;
  options.allow_non_finite = true;
  TypeParam optimiser({&parameter}, options);
  const GivenGradients<float> gradients{
      {{&parameter, Array<float>({3}, {1, std::numeric_limits<float>::quiet_NaN(), 1})}}};
  optimiser.step(gradients, 0.1);
  EXPECT_TRUE(std::isnan(parameter.value.data()[1]));
  // LAMB's rate is from the norm of the whole update.
  EXPECT_EQ(std::isnan(parameter.value.data()[0]), (std::is_same_v<TypeParam, optim::Lamb>));
}

template <class Optimiser> typename Optimiser::Options with_max_norm(double max_norm) {
  typename Optimiser::Options options;
  options.max_norm = max_norm;
  return options;
}

TYPED_TEST(EveryOptimiser, ClipsToTheBitsOfGradientsThatAreDividedByAsMuchMore) {
  // Norms near sqrt(35), 5.9.
  for (const double max_norm : {0.3, 5.0, 1e4}) {
    for (const float loss_scale : {1.0F, 0x1p10F, 3.0F}) {
      Parameter clipped = test_parameter(ParameterKind::weight, {5, 7});
      Parameter expected = clipped;
      TypeParam clips({&clipped}, with_max_norm<TypeParam>(max_norm));
      TypeParam plain({&expected}, typename TypeParam::Options{});
      EXPECT_EQ(clips.last_gradient_norm(), std::nullopt);
      for (std::uint64_t step = 0; step < 3; ++step) {
        Array<float> gradient = gradient_of_step({5, 7}, step);
        double squares = 0;
        for (float& element : gradient.mutable_span()) {
          element *= loss_scale;
          squares += static_cast<double>(element) * static_cast<double>(element);
        }
        const double norm = std::sqrt(squares) / static_cast<double>(loss_scale);
        const double divisor = static_cast<double>(loss_scale) * std::max(1.0, norm / max_norm);
        clips.step(GivenGradients<float>{{{&clipped, gradient}}}, 0.1,
                   static_cast<double>(loss_scale));
        plain.step(GivenGradients<float>{{{&expected, gradient}}}, 0.1, divisor);
        ASSERT_TRUE(clips.last_gradient_norm().has_value());
        EXPECT_DOUBLE_EQ(*clips.last_gradient_norm(), norm);
      }
      EXPECT_TRUE(same_bits(clipped.value, expected.value)) << max_norm << ", " << loss_scale;
      EXPECT_EQ(plain.last_gradient_norm(), std::nullopt);
    }
  }
}

TYPED_TEST(EveryOptimiser, ClipsByTheNormOfAllGradientsTogether) {
  Parameter first = test_parameter(ParameterKind::weight, {1}, "first");
  Parameter second = test_parameter(ParameterKind::weight, {1}, "second");
  Parameter unused = test_parameter(ParameterKind::weight, {1}, "unused");
  TypeParam optimiser({&first, &second, &unused}, with_max_norm<TypeParam>(1));
  // Of a format that cannot be clipped in place.
  const GivenGradients<float8_e4m3fn> gradients{
      {{&first, Array<float8_e4m3fn>::filled({1}, float8_e4m3fn(24.0F))},
       {&second, Array<float8_e4m3fn>::filled({1}, float8_e4m3fn(32.0F))}}};
  optimiser.step(gradients, 0.1, /*loss_scale=*/8);
  EXPECT_EQ(optimiser.last_gradient_norm(), 5);
}

TYPED_TEST(EveryOptimiser, NamesAGradientThatIsNotFiniteAlsoWhereItClips) {
  for (const float wrong :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    Parameter first = test_parameter(ParameterKind::weight, {3}, "first");
    Parameter second = test_parameter(ParameterKind::weight, {3}, "second");
    TypeParam optimiser({&first, &second}, with_max_norm<TypeParam>(2));
    GivenGradients<float> gradients{
        {{&first, gradient_of_step({3}, 0)}, {&second, gradient_of_step({3}, 1)}}};
    optimiser.step(gradients, 0.1);
    const auto norm = optimiser.last_gradient_norm();
    const auto before = everything(optimiser, first, second);
    gradients.entries[1].gradient.mutable_data()[1] = wrong;
    expect_domain_error([&] { optimiser.step(gradients, 0.1); }, {"finite", "'second'"});
    EXPECT_EQ(everything(optimiser, first, second), before);
    EXPECT_EQ(optimiser.steps(), 1U);
    EXPECT_EQ(optimiser.last_gradient_norm(), norm);
  }
}

TYPED_TEST(EveryOptimiser, ChecksAParameterThatIsKeptElsewhereAndDoesNothingElse) {
  Parameter here = test_parameter(ParameterKind::weight, {3}, "here");
  Parameter elsewhere = test_parameter(ParameterKind::weight, {2}, "elsewhere");
  const Array<float> before = elsewhere.value;
  Parameter here_too = here;
  Parameter second = elsewhere;
  const auto options = with_max_norm<TypeParam>(1);
  TypeParam optimiser(
      {{.parameters = {&here}}, {.parameters = {&elsewhere}, .is_kept_elsewhere = true}}, options);
  TypeParam both({&here_too, &second}, options);
  GivenGradients<float> gradients{
      {{&here, gradient_of_step({3}, 0)}, {&elsewhere, gradient_of_step({2}, 1)}}};
  GivenGradients<float> same = gradients;
  same.entries[0].parameter = &here_too;
  same.entries[1].parameter = &second;
  optimiser.step(gradients, 0.1);
  both.step(same, 0.1);
  EXPECT_TRUE(same_bits(here.value, here_too.value));
  EXPECT_TRUE(same_bits(elsewhere.value, before));
  EXPECT_FALSE(same_bits(second.value, before));
  EXPECT_EQ(optimiser.last_gradient_norm(), both.last_gradient_norm());
  for_each_array(optimiser, [](const std::string& name, const auto& state) {
    EXPECT_EQ(name.find("elsewhere"), std::string::npos) << name;
    EXPECT_EQ(state.size(), 3U) << name;
  });
  gradients.entries[0].gradient = {};
  optimiser.step(gradients, 0.1);
  EXPECT_EQ(optimiser.steps(), 2U);
  gradients.entries[1].gradient.mutable_data()[1] = std::numeric_limits<float>::infinity();
  expect_domain_error([&] { optimiser.step(gradients, 0.1); }, {"finite", "'elsewhere'"});
  gradients.entries[1].gradient = Array<float>({3});
  expect_shape_error([&] { optimiser.step(gradients, 0.1); }, {"'elsewhere'", "(2)", "(3)"});
}

TYPED_TEST(EveryOptimiser, ClipsGradientsThatAreTooLargeOnTheirOwn) {
  Parameter parameter = test_parameter(ParameterKind::weight, {3});
  const GivenGradients<float> gradients{{{&parameter, Array<float>::filled({3}, 0x1p100F)}}};
  TypeParam plain({&parameter});
  expect_domain_error([&] { plain.step(gradients, 0.1); }, {"'p'"});
  TypeParam clips({&parameter}, with_max_norm<TypeParam>(1));
  clips.step(gradients, 0.1);
  for (const float element : parameter.value.span()) EXPECT_TRUE(std::isfinite(element));
  // 2^100 times sqrt(3) over 2^-30 is no float.
  TypeParam refuses({&parameter}, with_max_norm<TypeParam>(0x1p-30));
  const Array<float> before = parameter.value;
  expect_domain_error([&] { refuses.step(gradients, 0.1); },
                      {name_of<TypeParam>(), "max_norm", "got a norm of"});
  EXPECT_EQ(parameter.value, before);
  EXPECT_EQ(refuses.steps(), 0U);
}

TYPED_TEST(EveryOptimiser, RefusesAMaxNormThatCannotClip) {
  Parameter parameter = test_parameter(ParameterKind::weight, {3});
  for (const double wrong : {0.0, -1.0, 1e-300, 1e300, std::nan("")}) {
    expect_domain_error([&] { TypeParam({&parameter}, with_max_norm<TypeParam>(wrong)); },
                        {name_of<TypeParam>(), "max_norm"});
  }
  auto both = with_max_norm<TypeParam>(1);
  both.allow_non_finite = true;
  expect_domain_error([&] { TypeParam({&parameter}, both); },
                      {name_of<TypeParam>(), "max_norm", "allow_non_finite"});
}

TYPED_TEST(EveryOptimiser, RefusesNumbersThatCanOnlyEndInNaN) {
  constexpr double infinity = std::numeric_limits<double>::infinity();
  constexpr double nan = std::numeric_limits<double>::quiet_NaN();
  constexpr std::string_view name = name_of<TypeParam>();
  Parameter parameter = test_parameter(ParameterKind::weight, {3});
  const Array<float> before = parameter.value;
  TypeParam optimiser({&parameter});
  const GivenGradients<float> gradients{{{&parameter, Array<float>::filled({3}, 1)}}};
  for (const double rate : {nan, infinity, -infinity, -1.0, 1e39, 1e300}) {
    expect_domain_error([&] { optimiser.step(gradients, rate); }, {name, "learning rate"});
  }
  for (const double scale : {nan, infinity, -infinity, -1.0, 0.0, 1e-320, 1e-46, 1e39, 1e300}) {
    expect_domain_error([&] { optimiser.step(gradients, 0.1, scale); }, {name, "loss scale"});
  }
  for (const double decay : {nan, infinity, -infinity, -1.0, 1e-320, 1.0, 2.0, 1e39, 1e300}) {
    typename TypeParam::Options options;
    options.weight_decay = decay;
    expect_domain_error([&] { (void)TypeParam({&parameter}, options); }, {name, "weight_decay"});
    expect_domain_error(
        [&] {
          (void)TypeParam(
              {optim::ParameterGroup{.parameters = {&parameter}, .weight_decay = decay}});
        },
        {name, "weight_decay"});
  }
  for (const double factor : {nan, infinity, -infinity, -1.0, 1e-320, 1e39, 1e300}) {
    expect_domain_error(
        [&] {
          (void)TypeParam(
              {optim::ParameterGroup{.parameters = {&parameter}, .learning_rate_factor = factor}});
        },
        {name, "learning_rate_factor"});
  }
  const auto refuse = [&](auto member, std::string_view attribute) {
    for (const double wrong : {nan, infinity, -infinity, -1.0, 1e-320, 1e300}) {
      typename TypeParam::Options options;
      options.*member = wrong;
      if (attribute == "max_trust_ratio" && wrong == infinity) continue;
      expect_domain_error([&] { (void)TypeParam({&parameter}, options); }, {name, attribute});
    }
  };
  using Options = typename TypeParam::Options;
  if constexpr (requires { &Options::momentum; }) {
    refuse(&Options::momentum, "momentum");
  } else {
    refuse(&Options::beta1, "beta1");
    refuse(&Options::beta2, "beta2");
    refuse(&Options::epsilon, "epsilon");
  }
  if constexpr (requires { &Options::max_trust_ratio; }) {
    refuse(&Options::max_trust_ratio, "max_trust_ratio");
  }
  for (const std::uint64_t steps : {~std::uint64_t{0}, (std::uint64_t{1} << 53) + 1}) {
    const auto set_steps = [&]<class T>(const std::string&, T& state) {
      if constexpr (std::is_same_v<T, std::uint64_t>) state = steps;
    };
    expect_domain_error([&] { optimiser.for_each_state(set_steps); },
                        {name, "at most 2^53 steps, got " + std::to_string(steps)});
  }
  EXPECT_EQ(optimiser.steps(), 0U);
  EXPECT_EQ(parameter.value, before);
}

TYPED_TEST(EveryOptimiser, RefusesARateThatIsBeyondFloatWithItsFactor) {
  Parameter first = test_parameter(ParameterKind::weight, {3}, "first");
  Parameter second = test_parameter(ParameterKind::weight, {3}, "second");
  TypeParam optimiser(
      {optim::ParameterGroup{.parameters = {&first}},
       optim::ParameterGroup{.parameters = {&second}, .learning_rate_factor = 1e20}});
  const GivenGradients<float> gradients{
      {{&first, Array<float>::filled({3}, 1)}, {&second, Array<float>::filled({3}, 1)}}};
  const auto before = everything(optimiser, first, second);
  expect_domain_error([&] { optimiser.step(gradients, 50); }, {"learning rate", "'second'"});
  EXPECT_EQ(everything(optimiser, first, second), before);
}

/// Weights after steps on gradients of `gradient`, of which errors end the run.
template <class Optimiser>
float weight_after(int steps, float weight, float gradient, double rate,
                   const typename Optimiser::Options& options, const auto& on_error) {
  Parameter parameter{"of_test", Array<float>::filled({19}, weight), ParameterKind::weight};
  Optimiser optimiser({&parameter}, options);
  const GivenGradients<float> gradients{{{&parameter, Array<float>::filled({19}, gradient)}}};
  for (int step = 0; step < steps; ++step) {
    const Array<float> before = parameter.value;
    try {
      optimiser.step(gradients, rate);
    } catch (const DomainError& error) {
      EXPECT_EQ(parameter.value, before);
      EXPECT_EQ(optimiser.steps(), static_cast<std::uint64_t>(step));
      on_error(std::string(error.what()));
      break;
    }
  }
  for (const float element : parameter.value.span()) EXPECT_EQ(element, parameter.value.data()[0]);
  return parameter.value.data()[0];
}

TYPED_TEST(EveryOptimiser, MakesNoWeightThatIsNotFiniteWhateverTheRateAndTheGradient) {
  constexpr float largest = std::numeric_limits<float>::max();
  for (const double rate : {1e-38, 1e-30, 1e-3, 1.0, 100.0, 1e10, 1e11, 1e12, 1e20, 1e30, 3e38}) {
    for (const float gradient : {1e-38F, 1e-22F, 1.0F, 1e15F, 1e17F, 9e17F, 9e18F, 1e20F, 1e30F,
                                 1e36F, 3e37F, 3e38F, largest}) {
      for (const float weight : {1.0F, -1e-30F, 1e20F, -1e30F, largest}) {
        for (const double decay : {0.0, 0.005, 0.9}) {
          if (weight == largest && decay != 0) continue;
          if (decay > 0.01 && std::is_same_v<TypeParam, optim::AdamW>) continue;
          SCOPED_TRACE(testing::Message()
                       << rate << ", " << gradient << ", " << weight << ", " << decay);
          typename TypeParam::Options options;
          options.weight_decay = decay;
          const auto named = [](const std::string& text) {
            EXPECT_NE(text.find(name_of<TypeParam>()), std::string::npos) << text;
            EXPECT_NE(text.find("'of_test'"), std::string::npos) << text;
          };
          ASSERT_TRUE(
              std::isfinite(weight_after<TypeParam>(60, weight, gradient, rate, options, named)));
        }
      }
    }
  }
}

template <class Optimiser>
void expect_decay_to_be_refused(double rate, const typename Optimiser::Options& options) {
  bool refused = false;
  const float weight = weight_after<Optimiser>(3, 1, 0, rate, options, [&](const auto& text) {
    refused = true;
    EXPECT_NE(text.find("weight decay"), std::string::npos) << text;
    EXPECT_NE(text.find("'of_test'"), std::string::npos) << text;
  });
  EXPECT_EQ(weight, 1);
  EXPECT_TRUE(refused) << rate;
}

TEST(Optimisers, RefuseARateThatTimesTheWeightDecayIsMoreThanOne) {
  for (const auto& [rate, decay] : {std::pair{100.0, 0.5}, {2.0, 0.9}, {1.2, 0.9}, {1e9, 1e-5}}) {
    expect_decay_to_be_refused<optim::AdamW>(
        rate, {.weight_decay = decay, .decay = optim::WeightDecay::decoupled});
    expect_decay_to_be_refused<optim::Adam>(
        rate, {.weight_decay = decay, .decay = optim::WeightDecay::decoupled});
    expect_decay_to_be_refused<optim::Sgd>(rate, {.weight_decay = decay});
    expect_decay_to_be_refused<optim::Sgd>(rate, {.momentum = 0, .weight_decay = decay});
    expect_decay_to_be_refused<optim::Lamb>(rate, {.weight_decay = decay});
  }
  // The rate is that of the parameter, with its factor.
  Parameter slow = test_parameter(ParameterKind::weight, {3}, "slow");
  Parameter fast = test_parameter(ParameterKind::weight, {3}, "fast");
  optim::Sgd optimiser({optim::ParameterGroup{.parameters = {&slow}, .learning_rate_factor = 0.1},
                        optim::ParameterGroup{.parameters = {&fast}, .learning_rate_factor = 2}},
                       {.weight_decay = 0.9});
  const GivenGradients<float> gradients{
      {{&slow, Array<float>::filled({3}, 0)}, {&fast, Array<float>::filled({3}, 0)}}};
  optimiser.step(gradients, 0.5);
  expect_domain_error([&] { optimiser.step(gradients, 0.6); }, {"Sgd: ", "weight decay", "'fast'"});
  // What the rate does not multiply may go with any.
  const auto any = [](const std::string& text) { ADD_FAILURE() << text; };
  EXPECT_TRUE(
      std::isfinite(weight_after<optim::AdamW>(3, 1, 1, 1000, {.weight_decay = 0.005}, any)));
  EXPECT_TRUE(std::isfinite(weight_after<optim::Adam>(3, 1, 1, 1000, {.weight_decay = 0.5}, any)));
  // All of the weight may go.
  EXPECT_EQ(weight_after<optim::AdamW>(
                1, 1, 0, 2, {.weight_decay = 0.5, .decay = optim::WeightDecay::decoupled}, any),
            0);
}

TEST(Sgd, RefusesGradientsThatItsMomentumWouldAddUpToInfinity) {
  for (const double momentum : {0.5, 0.9, 0.999, 1 - 0x1p-24}) {
    bool refused = false;
    const float weight = weight_after<optim::Sgd>(3, 1, 3e38F, 1e-30, {.momentum = momentum},
                                                  [&](const auto&) { refused = true; });
    EXPECT_EQ(weight, 1);
    EXPECT_TRUE(refused);
    // Of the largest that is taken, the sum over any number of steps is finite.
    const auto limit = 0x1p63F * (1 - static_cast<float>(momentum));
    for (const bool nesterov : {false, true}) {
      EXPECT_TRUE(std::isfinite(
          weight_after<optim::Sgd>(2000, 1, limit, 1, {.momentum = momentum, .nesterov = nesterov},
                                   [](const std::string& text) { ADD_FAILURE() << text; })));
    }
  }
}

template <class Optimiser> void expect_small_epsilon_to_be_refused() {
  Parameter parameter = test_parameter(ParameterKind::weight, {3});
  for (const double beta2 : {0.0, 0.9, 0.999, 1 - 0x1p-24}) {
    const double least = 0x1p-70 / std::sqrt(1 - beta2);
    for (const double epsilon : {1e-37, 1e-30, 1e-25, least * 0.99}) {
      expect_domain_error(
          [&] { (void)Optimiser({&parameter}, {.beta2 = beta2, .epsilon = epsilon}); },
          {"epsilon", "squares"});
    }
    // First steps on gradients of any size, whose update is g / (|g| + ε).
    for (double gradient = 1e-37; gradient < 1e18; gradient *= 1.7) {
      for (const double epsilon : {least * 1.01, 1e-16, 1e-8, 1.0}) {
        const auto g = static_cast<float>(gradient);
        const double want = static_cast<double>(g) / (static_cast<double>(g) + epsilon);
        const auto refused = [](const std::string& text) { ADD_FAILURE() << text; };
        const double got = static_cast<double>(
            weight_after<optim::Adam>(1, 0, g, 1, {.beta2 = beta2, .epsilon = epsilon}, refused));
        EXPECT_NEAR(-got, want, 0.05 * want) << gradient << ", " << epsilon << ", " << beta2;
      }
    }
  }
}

TEST(Optimisers, RefuseAnEpsilonBelowGradientsWhoseSquaresUnderflow) {
  expect_small_epsilon_to_be_refused<optim::Adam>();
  expect_small_epsilon_to_be_refused<optim::AdamW>();
  expect_small_epsilon_to_be_refused<optim::Lamb>();
}

TEST(Adam, RefusesAnIndependentDecayThatIsMeantForALearningRate) {
  Parameter parameter = test_parameter(ParameterKind::weight, {3});
  for (const double decay : {0.01, 0.1, 0.5}) {
    expect_domain_error([&] { (void)optim::AdamW({&parameter}, {.weight_decay = decay}); },
                        {"AdamW: expected an independent weight_decay below 0.01, got ",
                         std::to_string(static_cast<int>(100 * decay)) + " % of each weight",
                         "each step", "PyTorch", "decoupled"});
    expect_domain_error(
        [&] {
          (void)optim::Adam({&parameter},
                            {.weight_decay = decay, .decay = optim::WeightDecay::independent});
        },
        {"Adam: ", "weight_decay", "each step", "decoupled"});
    expect_domain_error(
        [&] {
          (void)optim::AdamW(
              {optim::ParameterGroup{.parameters = {&parameter}, .weight_decay = decay}});
        },
        {"AdamW: ", "weight_decay", "each step", "decoupled"});
    (void)optim::AdamW({&parameter},
                       {.weight_decay = decay, .decay = optim::WeightDecay::decoupled});
  }
  (void)optim::AdamW({&parameter}, {.weight_decay = 0x1p-7});
}

/// ‖p‖ / ‖u‖ of a gradient this small is beyond float; the step along u is not.
TEST(Lamb, TakesAStepWhoseTrustRatioIsBeyondFloat) {
  Parameter parameter = test_parameter(ParameterKind::weight, {3});
  const Array<float> before = parameter.value;
  optim::Lamb optimiser({&parameter}, {.weight_decay = 0});
  const GivenGradients<float> gradients{{{&parameter, Array<float>({3}, {0x1p-148F, 0, 0})}}};
  optimiser.step(gradients, 1);
  for (const float element : parameter.value.span()) EXPECT_TRUE(std::isfinite(element));
}

}  // namespace optimiser_test
