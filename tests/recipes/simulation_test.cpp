// SPDX-License-Identifier: MIT
// The rules of a simulation: how they are written, which one holds, what they leave alone, and
// stochastic rounding. That the bits are those of real formats is in simulated_ops_test.cpp and,
// for whole trainings, in tests/nn/simulated_training_test.cpp.
#include "unit_scaling/recipes/simulation.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <memory_resource>
#include <optional>
#include <set>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "autograd/tape_support.hpp"
#include "support/errors.hpp"
#include "support/threads.hpp"
#include "unit_scaling/autograd/recipe.hpp"
#include "unit_scaling/autograd/tape.hpp"
#include "unit_scaling/formats/catalogue.hpp"
#include "unit_scaling/formats/encoded_array.hpp"
#include "unit_scaling/formats/format.hpp"
#include "unit_scaling/ops/add.hpp"
#include "unit_scaling/ops/gelu.hpp"
#include "unit_scaling/ops/linear.hpp"
#include "unit_scaling/ops/mse_loss.hpp"

namespace simulation_test {

using namespace unit_scaling;
using namespace unit_scaling_test;
using Fp32 = Tape<precision::fp32>;
using Part = SimulationRule::Part;

TEST(SimulationPattern, TakesAStarForAnyTextAndAQuestionMarkForOneCharacter) {
  for (const auto& [pattern, text] :
       std::vector<std::pair<const char*, const char*>>{{"", ""},
                                                        {"*", ""},
                                                        {"*", "a.b"},
                                                        {"a", "a"},
                                                        {"a?c", "abc"},
                                                        {"a*", "a"},
                                                        {"*b*", "abc"},
                                                        {"a*c*e", "abcdce"},
                                                        {"**a", "a"},
                                                        {"blocks.*.up", "blocks.0.feed_forward.up"},
                                                        {"*a?", "aaab"}}) {
    EXPECT_TRUE(matches_pattern(pattern, text)) << pattern << " " << text;
  }
  for (const auto& [pattern, text] :
       std::vector<std::pair<const char*, const char*>>{{"", "a"},
                                                        {"a", ""},
                                                        {"a", "ab"},
                                                        {"?", ""},
                                                        {"a*c", "ab"},
                                                        {"*ab", "aba"},
                                                        {"linear", "linear_readout"},
                                                        {"a*b*c", "acb"}}) {
    EXPECT_FALSE(matches_pattern(pattern, text)) << pattern << " " << text;
  }
}

TEST(SimulationText, SaysWhatEachRuleIsAbout) {
  const Simulation simulation =
      Simulation::parse("blocks.*/linear:e3m4/e5m2~,readout/*:-/-,gelu=float16~/-,e4m3fn/e5m2", 7);
  EXPECT_EQ(simulation.seed(), 7U);
  const auto& rules = simulation.rules();
  ASSERT_EQ(rules.size(), 4U);
  EXPECT_EQ(std::tie(rules[0].module, rules[0].op), std::tuple("blocks.*", "linear"));
  EXPECT_EQ(rules[0].part, Part::products);
  EXPECT_EQ(rules[0].forward->spec, FormatSpec::ieee(3, 4));
  EXPECT_EQ(rules[0].forward->rounding, Rounding::nearest_even);
  EXPECT_EQ(rules[0].backward->spec, FormatSpec::ieee(5, 2));
  EXPECT_EQ(rules[0].backward->rounding, Rounding::stochastic);
  EXPECT_EQ(std::tie(rules[1].module, rules[1].op), std::tuple("readout", "*"));
  EXPECT_FALSE(rules[1].forward || rules[1].backward);
  EXPECT_EQ(std::tie(rules[2].module, rules[2].op), std::tuple("*", "gelu"));
  EXPECT_EQ(rules[2].part, Part::writes);
  EXPECT_EQ(rules[2].forward->spec, float16::format);
  EXPECT_FALSE(rules[2].backward);
  EXPECT_EQ(std::tie(rules[3].module, rules[3].op), std::tuple("*", "*"));
  EXPECT_EQ(rules[3].part, Part::products);
  EXPECT_EQ(rules[3].forward->spec, float8_e4m3fn::format);
}

TEST(SimulationText, IsReadBackAsItIsWritten) {
  for (const std::string text :
       {"e4m3fn/e5m2", "*=float16/float16", "linear:e3m4/-", "a.?/gelu=-/e5m2~", "m/*:-/-",
        "e2m3fn~/e3m2fn~,linear=bfloat16/bfloat16,b/mat*:e5m2/e5m2", "int8/-,int4~/int2"}) {
    EXPECT_EQ(to_string(Simulation::parse(text)), text);
  }
  EXPECT_EQ(to_string(Simulation::parse("*/*:e4m3fn/e5m2")), "e4m3fn/e5m2");
  EXPECT_EQ(to_string(Simulation::parse("a:e4m3/-,e4m3/e5m2").with_rounding(Rounding::stochastic)),
            "a:e4m3~/-,e4m3~/e5m2~");
}

TEST(SimulationText, ThatIsNoneIsRefusedByName) {
  for (const auto& refused :
       std::vector<std::pair<const char*, const char*>>{{"", "FORWARD/BACKWARD"},
                                                        {"e4m3fn", "FORWARD/BACKWARD"},
                                                        {"linear:e4m3fn", "FORWARD/BACKWARD"},
                                                        {"e4m3fn/e5m2,", "FORWARD/BACKWARD"},
                                                        {"linear:e4m3fn/e9m9", "e9m9"},
                                                        {"e4m3fn/", "format ''"},
                                                        {"e4m3fn/e5m2/e5m2", "e5m2/e5m2"},
                                                        {"~/e5m2", "format ''"},
                                                        {"e4m3~~/e5m2", "e4m3~"},
                                                        {":e4m3fn/e5m2", "OP or MODULE/OP"},
                                                        {"=e4m3fn/e5m2", "OP or MODULE/OP"},
                                                        {"blocks/:e4m3fn/e5m2", "OP or MODULE/OP"},
                                                        {"/linear:e4m3fn/e5m2", "OP or MODULE/OP"},
                                                        {"a:b:e4m3fn/e5m2", "b:e4m3fn"},
                                                        {"fp8/fp8", "fp8"}}) {
    expect_error<std::invalid_argument>([&] { (void)Simulation::parse(refused.first); },
                                        {"simulation '", refused.second});
  }
  expect_error<std::invalid_argument>([] { (void)Simulation({}); }, {"at least one rule"});
  expect_error<std::invalid_argument>(
      [] { (void)Simulation::parse("e4m3/e5m2").with_rounding(Rounding::toward_zero); },
      {"nearest_even or stochastic"});
}

/// A product in module "one", a GELU, a product in module "two", and a loss.
struct Network {
  Parameter first = random_parameter("first", {6, 5}, 1);
  Parameter second = random_parameter("second", {4, 6}, 2);
  Parameter bias = random_parameter("bias", {4}, 3);
  Array<float> x = random_array<float>({3, 5}, 4);
  Array<float> target = random_array<float>({3, 4}, 5);

  struct Values {
    Array<float> hidden, activated, y;
  };
  template <Precision P> auto loss(Tape<P>& tape, Values* values = nullptr) const {
    const auto input = tape.input(x);
    const auto hidden = [&] {
      const auto module = tape.enter("one");
      return ops::linear(input, first);
    }();
    const auto activated = ops::gelu(hidden);
    const auto module = tape.enter("two");
    const auto y = ops::linear(activated, second, bias);
    if (values != nullptr) *values = {hidden.value(), activated.value(), y.value()};
    return ops::mse_loss(y, tape.constant(target));
  }
  /// Copies that outlive the tape.
  [[nodiscard]] Values values(const std::string& simulation) const {
    Fp32 tape(TapeMode::inference);
    if (!simulation.empty()) tape.use_recipe(Simulation::parse(simulation));
    Values values;
    (void)loss(tape, &values);
    const auto copy = [](Array<float>& array) {
      array = Array<float>(array.shape(), array.span());
    };
    copy(values.hidden);
    copy(values.activated);
    copy(values.y);
    return values;
  }
};

Array<float> rounded_by_type(const Array<float>& array) {
  Array<float> result = array;
  for (float& element : result.mutable_span()) {
    element = static_cast<float>(float8_e4m3fn::from_float(element, Overflow::infinity_or_nan));
  }
  return result;
}

TEST(Simulation, LetsTheFirstRuleHoldThatMatches) {
  const Network network;
  const auto plain = network.values("");
  const auto all = network.values("e4m3fn/e5m2");
  const auto exempt = network.values("one/*:-/-,e4m3fn/e5m2");
  EXPECT_FALSE(same_bits(all.hidden, plain.hidden));
  EXPECT_TRUE(same_bits(exempt.hidden, plain.hidden));
  EXPECT_FALSE(same_bits(exempt.y, plain.y));
  const auto swapped = network.values("one/linear:e2m1fn/-,linear:e4m3fn/-");
  EXPECT_TRUE(same_bits(swapped.hidden, network.values("e2m1fn/-").hidden));
  EXPECT_FALSE(same_bits(swapped.hidden, all.hidden));
}

TEST(Simulation, RoundsWhatAnOpWritesAndNothingElse) {
  const Network network;
  const auto plain = network.values("");
  const auto gelu = network.values("gelu=e4m3fn/-");
  EXPECT_TRUE(same_bits(gelu.hidden, plain.hidden));
  EXPECT_TRUE(same_bits(gelu.activated, rounded_by_type(plain.activated)));
  const auto linear = network.values("one/*=e4m3fn/-");
  EXPECT_TRUE(same_bits(linear.hidden, rounded_by_type(plain.hidden)));
}

TEST(Simulation, NeverRoundsALoss) {
  const Network network;
  const auto loss = [&](const std::string& simulation) {
    Fp32 tape;
    if (!simulation.empty()) tape.use_recipe(Simulation::parse(simulation));
    return *network.loss(tape).value().data();
  };
  EXPECT_EQ(loss("mse_loss=e4m3fn/e5m2"), loss(""));
}

TEST(Simulation, RoundsTheGradientsThatAnOpWritesAndTheirSum) {
  Fp32 tape;
  tape.use_recipe(Simulation::parse("weighted_sum=-/e4m3fn"));
  const auto x = tape.input(random_array<float>({50}, 1));
  const auto w = random_array<float>({50}, 2);
  const auto v = random_array<float>({50}, 3);
  // Two ops whose gradients of x are w and v.
  tape.backward(ops::add(tape.record(WeightedSum{w}, x), tape.record(WeightedSum{v}, x),
                         {.scaling = scaling::none}));
  const auto round = [](float value) {
    return static_cast<float>(float8_e4m3fn::from_float(value, Overflow::infinity_or_nan));
  };
  for (std::size_t i = 0; i < 50; ++i) {
    EXPECT_EQ(tape.gradient(x).data()[i], round(round(v.data()[i]) + round(w.data()[i])));
  }
}

/// The error of a step under a simulation one of whose rules matches nothing.
void expect_unused(const std::string& simulation, std::initializer_list<std::string_view> parts) {
  const Network network;
  Fp32 tape;
  tape.use_recipe(Simulation::parse(simulation));
  expect_error<std::invalid_argument>([&] { tape.backward(network.loss(tape)); }, parts);
  Fp32 inference(TapeMode::inference);
  inference.use_recipe(Simulation::parse(simulation));
  (void)network.loss(inference);
  expect_error<std::invalid_argument>([&] { inference.require_recipe_used(); }, parts);
}

TEST(Simulation, RefusesARuleThatMatchesNothingAndNamesWhatThereIs) {
  expect_unused("e4m3fn/e5m2,softmax=e4m3fn/e5m2",
                {"'softmax=e4m3fn/e5m2' matches no op", "constant, gelu, input, linear, mse_loss",
                 "modules one, two"});
  expect_unused("conv*:e4m3fn/e5m2", {"'conv*:e4m3fn/e5m2' matches no op; there are linear in "
                                      "modules one, two"});
  expect_unused("three/*:e4m3fn/e5m2", {"'three/*:e4m3fn/e5m2' matches no op"});
  // A GELU has no products: the other sign is meant.
  expect_unused("gelu:e4m3fn/e5m2", {"no op with matrix products", "gelu=FORWARD/BACKWARD"});
  expect_unused("linear:e4m3fn/-,one/linear:e5m2/-", {"'one/linear:e5m2/-'", "earlier rules"});
  expect_unused("nothing:-/-", {"'nothing:-/-' matches no op"});
}

TEST(Simulation, ATapeWithSomethingRecordedIsRefused) {
  Fp32 tape;
  (void)tape.input(random_array<float>({2}, 1));
  const Simulation simulation = Simulation::parse("e4m3fn/e5m2");
  for (int i = 0; i < 2; ++i) {
    expect_error<std::invalid_argument>([&] { tape.use_recipe(simulation); }, {"nothing recorded"});
    expect_error<std::invalid_argument>([&] { tape.use_recipe(nullptr); }, {"nothing recorded"});
  }
  tape.clear();
  EXPECT_NO_THROW(tape.use_recipe(simulation));
}

TEST(Simulation, LeavesNothingBehindWhenItIsTakenAway) {
  const Network network;
  Fp32 tape(TapeMode::inference);
  const float plain = *network.loss(tape).value().data();
  tape.clear();
  tape.use_recipe(Simulation::parse("e2m1fn/e2m1fn"));
  EXPECT_NE(*network.loss(tape).value().data(), plain);
  tape.clear();
  tape.use_recipe(nullptr);
  EXPECT_EQ(*network.loss(tape).value().data(), plain);
}

TEST(Simulation, TellsObserversTheFormatsThatNumbersAreRoundedTo) {
  const Network network;
  Fp32 tape;
  tape.use_recipe(Simulation::parse("one/*:e4m3fn/e5m2,gelu=e3m4/bfloat16"));
  std::set<std::tuple<std::string, std::string, TensorRole, std::string>> seen;
  std::size_t operands_of_two = 0;
  tape.observe_with([&](const Observation& tensor) {
    if (tensor.role == TensorRole::operand && tensor.module == "two") ++operands_of_two;
    seen.insert({std::string(tensor.module), std::string(tensor.name), tensor.role,
                 std::string(tensor.format)});
  });
  tape.backward(network.loss(tape));
  const auto contains = [&](const char* module, const char* op, TensorRole role,
                            const char* format) {
    EXPECT_TRUE(seen.contains({module, op, role, format})) << module << " " << op << " " << format;
  };
  contains("one", "linear", TensorRole::operand, "float8_e4m3fn");
  contains("one", "linear", TensorRole::gradient, "float8_e5m2");
  contains("one", "linear", TensorRole::value, "float32");
  contains("", "gelu", TensorRole::value, "float8_e3m4");
  contains("", "gelu", TensorRole::gradient, "float32");
  contains("two", "linear", TensorRole::operand, "float32");
  EXPECT_EQ(operands_of_two, 2U) << "the bias is none";
  contains("two", "linear", TensorRole::gradient, "float32");
}

/// What stochastic rounding makes of the hidden values, whose operands are exact, in many steps.
TEST(StochasticSimulation, HasTheNumberItselfAsItsMean) {
  const auto x = random_array<float>({3, 50}, 1);
  const auto ones = Array<float>::filled({1, 1}, 1);
  constexpr std::size_t draws = 4000;
  std::vector<double> sums(x.size());
  Fp32 tape(TapeMode::inference);
  tape.use_recipe(Simulation::parse("e4m3fn~/-", 3));
  std::size_t changed = 0;
  Array<float> before;
  for (std::size_t draw = 0; draw < draws; ++draw) {
    tape.clear();
    const auto input = tape.input(x.reshaped({150, 1}));
    const auto y = ops::linear(input, tape.constant(ones), {.scaling = scaling::none});
    for (std::size_t i = 0; i < x.size(); ++i) {
      sums[i] += static_cast<double>(y.value().data()[i]);
      if (draw == 1) changed += before.data()[i] != y.value().data()[i] ? 1 : 0;
    }
    before = Array<float>(y.value().shape(), y.value().span());
  }
  for (std::size_t i = 0; i < x.size(); ++i) {
    const auto value = static_cast<double>(x.data()[i]);
    // e4m3fn has 3 bits of fraction, and no spacing below 2^-9: a draw's deviation is at most half.
    const double spacing = std::max(0x1p-9, std::exp2(std::floor(std::log2(std::abs(value))) - 3));
    EXPECT_NEAR(sums[i] / draws, value, 5 * spacing / 2 / std::sqrt(double{draws})) << i;
  }
  EXPECT_GT(changed, x.size() / 4) << "each step has draws of its own";
}

TEST(StochasticSimulation, IsAFunctionOfSeedStepTensorAndElement) {
  const Network network;
  const auto run = [&](std::uint64_t seed, std::uint64_t step, std::size_t threads) {
    const ThreadCountScope scope(threads);
    Fp32 tape;
    tape.use_recipe(Simulation::parse("e4m3fn~/e5m2~,*=e4m3fn~/e5m2~", seed));
    tape.set_step(step);
    tape.backward(network.loss(tape));
    std::vector<float> all;
    for (const Parameter* parameter : {&network.first, &network.second, &network.bias}) {
      const auto gradient = tape.gradient(*parameter).span();
      all.insert(all.end(), gradient.begin(), gradient.end());
    }
    return all;
  };
  const auto expected = run(1, 5, 1);
  EXPECT_EQ(run(1, 5, 1), expected);
  EXPECT_EQ(run(1, 5, 3), expected);
  EXPECT_NE(run(2, 5, 1), expected);
  EXPECT_NE(run(1, 6, 1), expected);

  // A run that is resumed has the numbers of one that was not.
  Fp32 tape;
  tape.use_recipe(Simulation::parse("e4m3fn~/e5m2~,*=e4m3fn~/e5m2~", 1));
  while (tape.step() < 5) {
    tape.clear();
    tape.backward(network.loss(tape));
  }
  const auto bias = tape.gradient(network.bias).span();
  EXPECT_EQ(std::vector<float>(bias.begin(), bias.end()),
            std::vector<float>(expected.end() - 4, expected.end()));
}

// The same numbers twice as operands: were the draws the same, so were the rounded numbers.
TEST(StochasticSimulation, DrawsForEachTensorOfItsOwn) {
  const auto x = random_array<float>({1, 200}, 1);
  class Recorder final : public Recipe {
   public:
    explicit Recorder(std::vector<Array<float>>& seen) : seen_(&seen) {}
    std::optional<OperandForms> operand(const OperandSite& site,
                                        const EncodedArray& array) override {
      auto forms = simulation_.operand(site, array);
      seen_->push_back(forms->array.decode(std::pmr::new_delete_resource()));
      return forms;
    }

   private:
    Simulation simulation_ = Simulation::parse("e4m3fn~/e5m2~");
    std::vector<Array<float>>* seen_;
  };
  std::vector<Array<float>> seen;
  Fp32 tape;
  tape.use_recipe(Recorder(seen));
  const auto input = tape.input(x);
  tape.backward(
      tape.record(WeightedSum{Array<float>::filled({1, 1}, 1)}, ops::linear(input, input)));
  ASSERT_EQ(seen.size(), 3U) << "two operands and a gradient";
  EXPECT_FALSE(seen[0] == seen[1]);
}

// What a user writes who has a rounding that Simulation knows nothing of.
TEST(Recipe, OfAUsersOwnRoundsAsItSays) {
  class PowersOfTwo final : public Recipe {
   public:
    std::optional<OperandForms> operand(const OperandSite& site,
                                        const EncodedArray& array) override {
      Array<float> numbers = array.decode(site.memory);
      for (float& number : numbers.mutable_span()) {
        number = std::copysign(std::exp2(std::floor(std::log2(std::abs(number)))), number);
      }
      return OperandForms{EncodedArray::encode(EncodedArray::view(numbers),
                                               Format(FormatSpec::ieee(6, 1)), {}, site.memory)};
    }
  };
  Fp32 tape;
  tape.use_recipe(PowersOfTwo());
  const auto x = tape.input(Array<float>({1, 2}, {3, -5}));
  const auto y =
      ops::linear(x, tape.input(Array<float>({1, 2}, {7, 1})), {.scaling = scaling::none});
  EXPECT_EQ(*y.value().data(), 2.0F * 4 - 4 * 1);
}

}  // namespace simulation_test
