// SPDX-License-Identifier: MIT
// What a tape asks a recipe for, when, and what it does with the answers.
#include "unit_scaling/autograd/recipe.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <memory_resource>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "autograd/tape_support.hpp"
#include "support/errors.hpp"
#include "support/threads.hpp"
#include "unit_scaling/autograd/tape.hpp"
#include "unit_scaling/formats/catalogue.hpp"
#include "unit_scaling/formats/encoded_array.hpp"
#include "unit_scaling/formats/format.hpp"
#include "unit_scaling/formats/scale_layout.hpp"
#include "unit_scaling/ops/gelu.hpp"
#include "unit_scaling/ops/gelu_linear.hpp"
#include "unit_scaling/ops/linear.hpp"
#include "unit_scaling/ops/matmul.hpp"
#include "unit_scaling/ops/mse_loss.hpp"
#include "unit_scaling/recipes/simulation.hpp"

namespace recipe_test {

using namespace unit_scaling;
using namespace unit_scaling_test;
using Fp32 = Tape<precision::fp32>;

/// Rounds to a format, and notes the names of sites that it is asked about.
class Spy : public Recipe {
 public:
  explicit Spy(std::vector<std::string>& names) : names_(&names) {}
  std::optional<OperandForms> operand(const OperandSite& site, const EncodedArray& array) override {
    write_name(site, names_->emplace_back());
    return OperandForms{EncodedArray::encode(array, Format::of<float8_e4m3fn>(), {}, site.memory)};
  }

 private:
  std::vector<std::string>* names_;
};

TEST(Recipe, IsAskedOnceForEachOperandAndForAParameterOncePerVersionAndSite) {
  Parameter w = random_parameter("w", {4, 4}, 1);
  std::vector<std::string> names;
  Fp32 tape;
  tape.use_recipe(Spy(names));
  const auto step = [&] {
    names.clear();
    tape.clear();
    const auto x = tape.input(random_array<float>({3, 4}, 2));
    const auto y = [&] {
      const auto module = tape.enter("a");
      return ops::linear(x, w);
    }();
    const auto module = tape.enter("b");
    tape.backward(sum(ops::linear(ops::linear(y, w), w)));
  };
  step();
  using Names = std::vector<std::string>;
  EXPECT_EQ(names, (Names{"a/linear.input.0", "a/linear.weight.1", "b/linear.input.0",
                          "b/linear.weight.1", "b/linear.input.0", "b/linear.gradient.0",
                          "b/linear.gradient.0", "a/linear.gradient.0"}));
  step();
  EXPECT_EQ(names, (Names{"a/linear.input.0", "b/linear.input.0", "b/linear.input.0",
                          "b/linear.gradient.0", "b/linear.gradient.0", "a/linear.gradient.0"}))
      << "nobody wrote to the parameter";
  w.value.mutable_data()[0] = 2;
  step();
  EXPECT_EQ(names.size(), 8U);
}

TEST(Recipe, IsAskedOnceForTheGradientOfAGeluAndALinearLayerInOne) {
  std::vector<std::string> names;
  Fp32 tape;
  tape.use_recipe(Spy(names));
  const auto y = ops::gelu_linear(tape.input(random_array<float>({3, 4}, 2)),
                                  tape.input(random_array<float>({5, 4}, 3)),
                                  tape.input(random_array<float>({5}, 4)));
  tape.backward(sum(y));
  EXPECT_EQ(names, (std::vector<std::string>{"/gelu_linear.input.0", "/gelu_linear.weight.1",
                                             "/gelu_linear.gradient.0"}));
}

/// As it is for products that sum over columns, and zero for those that sum over rows.
class TwoForms final : public Recipe {
 public:
  explicit TwoForms(ops::OperandRole role) : role_(role) {}
  std::optional<OperandForms> operand(const OperandSite& site, const EncodedArray& array) override {
    if (site.role != role_) return {};
    return OperandForms{array,
                        EncodedArray::view(Array<float>::filled(array.shape(), 0.0F, site.memory))};
  }

 private:
  ops::OperandRole role_;
};

TEST(Recipe, MayGiveAnOperandInAnotherFormForProductsThatSumOverItsRows) {
  const auto is_zero = [](const Array<float>& array) {
    return std::all_of(array.span().begin(), array.span().end(), [](float v) { return v == 0; });
  };
  const auto zeros = [&](ops::OperandRole role) {
    Fp32 tape;
    tape.use_recipe(TwoForms(role));
    const auto x = tape.input(random_array<float>({3, 4}, 2));
    const auto w = tape.input(random_array<float>({5, 4}, 3));
    const auto y = ops::linear(x, w);
    const bool of_y = is_zero(y.value());
    tape.backward(sum(y));
    return std::tuple(of_y, is_zero(tape.gradient(x)), is_zero(tape.gradient(w)));
  };
  EXPECT_EQ(zeros(ops::OperandRole::input), std::tuple(false, false, true));
  EXPECT_EQ(zeros(ops::OperandRole::weight), std::tuple(false, true, false));
  EXPECT_EQ(zeros(ops::OperandRole::gradient), std::tuple(false, false, true));
}

TEST(Recipe, OfAnotherShapeIsRefused) {
  class Wrong final : public Recipe {
    std::optional<OperandForms> operand(const OperandSite&, const EncodedArray&) override {
      return OperandForms{EncodedArray::view(Array<float>(Shape{2, 2}))};
    }
  };
  Fp32 tape;
  tape.use_recipe(Wrong());
  const auto x = tape.input(random_array<float>({3, 4}, 2));
  expect_error<ShapeError>([&] { (void)ops::linear(x, x); },
                           {"Recipe::operand", "(2, 2)", "(3, 4)"});
}

TEST(Recipe, OfAScaleThatIsZeroNegativeOrInfiniteIsRefusedByItsSite) {
  class WithScale final : public Recipe {
   public:
    explicit WithScale(float scale) : scale_(scale) {}
    std::optional<OperandForms> operand(const OperandSite& site,
                                        const EncodedArray& array) override {
      return OperandForms{EncodedArray::encode(array, Format::of<float8_e4m3fn>(),
                                               ScaleLayout::per_tensor(ScaleFormat::binary32),
                                               std::span(&scale_, 1), {}, site.memory)};
    }

   private:
    float scale_;
  };
  const auto use = [](float scale) {
    Fp32 tape;
    tape.use_recipe(WithScale(scale));
    const auto module = tape.enter("ffn.up");
    const auto x = tape.input(random_array<float>({3, 4}, 2));
    (void)ops::linear(x, x);
  };
  for (const float scale : {0.0F, -0.0F, -1.0F, HUGE_VALF}) {
    expect_error<std::invalid_argument>([&] { use(scale); },
                                        {"linear in ffn.up", "scales above 0"});
  }
  EXPECT_NO_THROW(use(std::nanf("")));  // of numbers that are not finite
  EXPECT_NO_THROW(use(0x1p-149F));
}

TEST(Recipe, OfAFormatOfOneByteKeepsOneByteForEachElementOfAnOperand) {
  Fp32 tape;
  tape.use_recipe(Simulation::parse("e3m4/e5m2"));
  const Parameter w = random_parameter("w", {5, 40}, 1);
  const auto x = tape.input(random_array<float>({30, 40}, 2));
  const auto y = ops::linear(x, w);
  EXPECT_EQ(tape.saved_bytes(), 30 * 40 + 5 * 40U);
  (void)ops::matmul(y, tape.input(random_array<float>({5, 7}, 3)));
  EXPECT_EQ(tape.saved_bytes(), 30 * 40 + 5 * 40 + 30 * 5 + 5 * 7U);

  Fp32 narrow;
  narrow.use_recipe(Simulation::parse("e2m1fn/e5m2"));
  (void)ops::matmul(narrow.input(random_array<float>({16, 6}, 3)),
                    narrow.input(random_array<float>({6, 16}, 3)));
  EXPECT_EQ(narrow.saved_bytes(), 2 * 16 * 6 / 2U) << "two elements in a byte";
}

/// Offers what it has made of one value again.
class Sharing final : public Recipe {
 public:
  explicit Sharing(std::vector<bool>& offered) : offered_(&offered) {}
  std::optional<OperandForms> operand(const OperandSite& site, const EncodedArray& array) override {
    offered_->push_back(site.made_before != nullptr);
    if (site.made_before != nullptr) return OperandForms{site.made_before->array};
    if (site.module == "policy") return {};
    return OperandForms{EncodedArray::encode(array, Format::of<float8_e4m3fn>(), {}, site.memory),
                        {},
                        site.module != "draws"};
  }

 private:
  std::vector<bool>* offered_;
};

TEST(Recipe, IsOfferedWhatItMadeOfAValueForTheOpBefore) {
  std::vector<bool> offered;
  Fp32 tape;
  tape.use_recipe(Sharing(offered));
  const auto x = tape.input(random_array<float>({3, 4}, 2));
  const auto y = tape.input(random_array<float>({3, 4}, 3));
  const Parameter w = random_parameter("w", {5, 4}, 1);
  const auto multiply = [&](std::string_view module, const auto& left) {
    const auto entered = tape.enter(module);
    offered.clear();
    const auto product = ops::linear(left, w);
    const bool of_left = offered.at(0);
    for (std::size_t i = 1; i < offered.size(); ++i) EXPECT_FALSE(offered[i]) << "a parameter's";
    return of_left;
  };
  EXPECT_FALSE(multiply("a", x));
  EXPECT_TRUE(multiply("b", x)) << "by another product of it";
  EXPECT_FALSE(multiply("b", y));
  EXPECT_FALSE(multiply("b", x)) << "another one was made since";
  EXPECT_FALSE(multiply("draws", y));
  EXPECT_FALSE(multiply("b", y)) << "that was to be asked for each time";
  EXPECT_FALSE(multiply("policy", x));
  EXPECT_FALSE(multiply("b", x)) << "the policy made that";
  tape.clear();
  EXPECT_FALSE(multiply("b", tape.input(random_array<float>({3, 4}, 2))));
}

TEST(Recipe, OfOneFormatMakesAnOperandThatTwoProductsShareOnce) {
  const auto bytes_of_two = [](const std::string& rules) {
    Fp32 tape;
    tape.use_recipe(Simulation::parse(rules));
    const Parameter value = random_parameter("value", {5, 40}, 1);
    const Parameter gate = random_parameter("gate", {5, 40}, 2);
    const auto x = tape.input(random_array<float>({30, 40}, 2));
    const auto project = [&](std::string_view module, const Parameter& weight) {
      const auto entered = tape.enter(module);
      return ops::linear(x, weight);
    };
    const auto a = project("value", value);
    const auto b = project("gate", gate);
    return tape.saved_bytes();
  };
  constexpr std::size_t of_x = 30 * 40;
  constexpr std::size_t of_weights = 2 * 5 * 40;
  EXPECT_EQ(bytes_of_two("e3m4/e5m2"), of_x + of_weights);
  EXPECT_EQ(bytes_of_two("value/*:e4m3/e5m2,e3m4/e5m2"), 2 * of_x + of_weights);
  EXPECT_EQ(bytes_of_two("e3m4~/e5m2"), 2 * of_x + of_weights) << "each has draws of its own";
}

TEST(Recipe, ShowsObserversWhatProductsRead) {
  Fp32 tape;
  tape.use_recipe(Simulation::parse("e4m3fn~/e5m2~", 3));
  std::map<std::string, std::vector<float>> rounded;
  tape.observe_with([&](const Observation& seen) {
    if (seen.role != TensorRole::operand && seen.role != TensorRole::gradient) return;
    const std::string name = (seen.role == TensorRole::operand ? "operand " : "gradient ") +
                             std::string(seen.name) + std::to_string(seen.argument);
    rounded[name] = {seen.rounded.begin(), seen.rounded.end()};
  });
  const auto ones = Array<float>::filled({1, 1}, 1.0F);
  const auto x = tape.input(random_array<float>({50, 1}, 2));
  const auto w = tape.input(ones);
  const auto y = ops::linear(x, w, {.scaling = scaling::none});
  // Of a product with one.
  const auto numbers = [](const Array<float>& array) {
    return std::vector<float>(array.span().begin(), array.span().end());
  };
  EXPECT_EQ(rounded["operand linear0"], numbers(y.value()));
  EXPECT_EQ(rounded["operand linear1"], std::vector<float>{1.0F});
  tape.backward(tape.record(WeightedSum{random_array<float>({50, 1}, 9)}, y));
  EXPECT_EQ(rounded["gradient linear0"], numbers(tape.gradient(x)));
  EXPECT_TRUE(rounded["gradient weighted_sum0"].empty());
}

/// The largest magnitude that each site has had, which decides its scale.
class RunningMaximum final : public Recipe {
 public:
  std::optional<OperandForms> operand(const OperandSite& site, const EncodedArray& array) override {
    const Array<float> numbers = array.decode(site.memory);
    write_name(site, name_);
    double& largest = largest_[name_];
    for (const float number : numbers.span()) {
      if (std::isfinite(number)) largest = std::max(largest, std::abs(static_cast<double>(number)));
    }
    ++asked_;
    const float scale = largest == 0 ? 1.0F : static_cast<float>(largest / 448);
    return OperandForms{EncodedArray::encode(array, Format::of<float8_e4m3fn>(),
                                             ScaleLayout::per_tensor(ScaleFormat::binary32),
                                             std::span(&scale, 1), {}, site.memory)};
  }
  void visit_state(const RecipeStateVisitor& visit) override {
    visit("largest", largest_);
    visit("asked", asked_);
  }

 private:
  std::map<std::string, double> largest_;
  std::uint64_t asked_ = 0;
  std::string name_;
};

struct Training {
  Parameter up = random_parameter("up", {24, 6}, 1);
  Parameter down = random_parameter("down", {6, 24}, 2);
  Parameter bias = random_parameter("bias", {6}, 3);
  Fp32 tape;
  std::shared_ptr<RunningMaximum> recipe = std::make_shared<RunningMaximum>();

  Training() { tape.use_recipe(recipe); }
  void step(std::size_t number) {
    tape.clear();
    Array<float> batch = random_array<float>({7, 6}, 100 + static_cast<std::uint32_t>(number));
    if (number == 0) batch.mutable_data()[0] = 11;  // the largest number of all steps
    const auto x = tape.constant(batch);
    const auto target =
        tape.constant(random_array<float>({7, 6}, 10 + static_cast<std::uint32_t>(number)));
    const auto hidden = [&] {
      const auto module = tape.enter("up");
      return ops::linear(x, up);
    }();
    const auto module = tape.enter("down");
    tape.backward(ops::mse_loss(ops::linear(ops::gelu(hidden), down, bias), target));
    for (Parameter* each : {&up, &down, &bias}) {
      const Array<float> gradient = tape.gradient(*each);
      float* value = each->value.mutable_data();
      for (std::size_t i = 0; i < gradient.size(); ++i) value[i] -= 0.01F * gradient.data()[i];
    }
  }
  [[nodiscard]] std::vector<float> numbers() const {
    std::vector<float> all;
    for (const Parameter* each : {&up, &down, &bias}) {
      all.insert(all.end(), each->value.span().begin(), each->value.span().end());
    }
    return all;
  }
};

TEST(Recipe, ThatKeepsStateGoesOnFromWhatAVisitorWritesToIt) {
  Training whole;
  for (std::size_t i = 0; i < 6; ++i) whole.step(i);

  Training part;
  for (std::size_t i = 0; i < 3; ++i) part.step(i);
  std::map<std::string, double> largest;
  std::uint64_t asked = 0;
  part.recipe->for_each_state([&]<class T>(std::string_view name, const T& value) {
    if constexpr (std::is_same_v<T, std::map<std::string, double>>) {
      EXPECT_EQ(name, "largest");
      largest = value;
    } else if constexpr (std::is_same_v<T, std::uint64_t>) {
      EXPECT_EQ(name, "asked");
      asked = value;
    } else {
      ADD_FAILURE() << name;
    }
  });
  EXPECT_EQ(asked, 18U);
  EXPECT_EQ(largest.size(), 6U) << "two products with two operands and a gradient each";
  EXPECT_EQ(largest.at("up/linear.input.0"), 11);

  const auto resumed = [&](bool has_state) {
    Training rest;
    rest.up = part.up;
    rest.down = part.down;
    rest.bias = part.bias;
    rest.tape.set_step(part.tape.step());
    rest.recipe->for_each_state([&]<class T>(std::string_view /*name*/, T& value) {
      if constexpr (std::is_same_v<T, std::map<std::string, double>>) {
        if (has_state) value = largest;
      }
    });
    for (std::size_t i = 3; i < 6; ++i) rest.step(i);
    return rest.numbers();
  };
  EXPECT_EQ(resumed(true), whole.numbers());
  EXPECT_NE(resumed(false), whole.numbers());
}

TEST(Recipe, WithStateHasTheSameBitsForAnyNumberOfThreads) {
  const auto run = [](std::size_t threads) {
    const ThreadCountScope scope(threads);
    Parameter up = random_parameter("up", {130, 70}, 1);
    Parameter down = random_parameter("down", {70, 130}, 2);
    Fp32 tape;
    tape.use_recipe(RunningMaximum());
    for (std::uint32_t step = 0; step < 3; ++step) {
      tape.clear();
      const auto x = tape.constant(random_array<float>({300, 70}, 10 + step));
      tape.backward(ops::mse_loss(ops::linear(ops::gelu_linear(x, up), down), x));
      for (Parameter* each : {&up, &down}) {
        const Array<float> gradient = tape.gradient(*each);
        float* value = each->value.mutable_data();
        for (std::size_t i = 0; i < gradient.size(); ++i) value[i] -= 0.01F * gradient.data()[i];
      }
    }
    std::vector<float> all;
    for (const Parameter* each : {&up, &down}) {
      all.insert(all.end(), each->value.span().begin(), each->value.span().end());
    }
    return all;
  };
  const auto one = run(1);
  for (const std::size_t threads : {2U, 3U, 7U}) EXPECT_EQ(run(threads), one) << threads;
}

TEST(Recipe, WithStochasticRoundingHasTheSameBitsForAnyNumberOfThreads) {
  const auto w = random_parameter("w", {70, 130}, 1);
  const auto run = [&](std::size_t threads) {
    const ThreadCountScope scope(threads);
    Fp32 tape;
    tape.use_recipe(Simulation::parse("e4m3fn~/e5m2~,*=e5m10~/e5m10~", 5));
    const auto x = tape.input(random_array<float>({300, 130}, 2));
    const auto y = ops::linear(x, w);
    tape.backward(sum(y));
    std::vector<float> all(y.value().span().begin(), y.value().span().end());
    for (const auto* each : {&tape.gradient(w), &tape.gradient(x)}) {
      all.insert(all.end(), each->span().begin(), each->span().end());
    }
    return all;
  };
  const auto one = run(1);
  for (const std::size_t threads : {2U, 3U, 7U}) EXPECT_EQ(run(threads), one) << threads;
}

TEST(Recipe, DecodesToWhatATapeStoresAsFloatsWouldBeRounded) {
  RecipeInUse recipe;
  recipe.use(std::make_shared<Simulation>(Simulation::parse("e4m3fn/e5m2")), false, 0);
  for (const Shape& shape : {Shape{0}, Shape{1, 1}, Shape{3, 1025}, Shape{23, 1739}}) {
    const auto numbers = EncodedArray::view(random_array<float>(shape, 3));
    const std::vector<float> scales(numbers.rows(), 0.3F);
    for (const char* format : {"e4m3fn", "e2m1", "e8m12"}) {
      const auto encoded = EncodedArray::encode(
          numbers, Format::parse(format), ScaleLayout::per_row(ScaleFormat::binary32), scales);
      const Array<float> floats = encoded.decode();
      const auto expect_same = [&]<class T>(const Array<T>& actual) {
        ASSERT_EQ(actual.shape(), shape);
        for (std::size_t i = 0; i < actual.size(); ++i) {
          ASSERT_EQ(actual.data()[i], T(floats.data()[i])) << i;
        }
      };
      auto* const memory = std::pmr::new_delete_resource();
      expect_same(recipe.decode<float>(encoded, memory));
      expect_same(recipe.decode<float16>(encoded, memory));
      expect_same(recipe.decode<bfloat16>(encoded, memory));
    }
  }
}

}  // namespace recipe_test
