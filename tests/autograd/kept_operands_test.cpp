// SPDX-License-Identifier: MIT
#include "unit_scaling/autograd/kept_operands.hpp"

#include <gtest/gtest.h>

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "autograd/tape_support.hpp"
#include "support/errors.hpp"
#include "unit_scaling/autograd/tape.hpp"
#include "unit_scaling/core/array.hpp"
#include "unit_scaling/formats/catalogue.hpp"
#include "unit_scaling/kernels/operand.hpp"
#include "unit_scaling/ops/linear.hpp"
#include "unit_scaling/ops/op.hpp"
#include "unit_scaling/ops/operand.hpp"
#include "unit_scaling/recipes/simulation.hpp"

namespace kept_operands_test {

using namespace unit_scaling;
using namespace unit_scaling_test;
using Fp8 = Tape<precision::fp8>;

/// What an op gets as its operands: the codes, where they are, and in which format.
struct Seen {
  const void* codes;
  std::string bytes;
  Format format;
  Shape shape;
};
Seen seen(const kernels::Operand& operand) {
  const auto codes = operand.array.codes();
  return {codes.data(), std::string(codes.begin(), codes.end()), operand.array.format(),
          operand.shape()};
}

/// Asks for its two arguments as operands, and returns the first one.
struct Spy {
  static constexpr std::string_view name = "spy";
  static constexpr bool accepts(std::size_t arguments) { return arguments == 2; }
  static constexpr ops::OpTraits traits{
      .has_homogeneity = false, .has_item_counts = false, .has_products = true};

  std::vector<Seen>* operands = nullptr;

  template <class A, class B>
  [[nodiscard]] Scales<2> scales(const Array<A>& /*a*/, const Array<B>& /*b*/) const {
    return {};
  }
  template <Precision P, class A, class B>
  [[nodiscard]] auto forward(P precision, const Scales<2>& /*s*/, const Array<A>& a,
                             const Array<B>& b) const {
    operands->push_back(seen(ops::operand(precision, {ops::OperandRole::input, 0}, a)));
    operands->push_back(
        seen(ops::operand(precision, {ops::OperandRole::weight, 1}, b, a.resource())));
    return ops::Forward{a, std::tuple{a, b}};
  }
  template <Precision P, class A, class B>
  [[nodiscard]] auto backward(P /*precision*/, const Scales<2>& /*s*/,
                              const std::tuple<Array<A>, Array<B>>& saved,
                              const Array<A>& dy) const {
    return std::tuple{dy, Array<A>::filled(std::get<1>(saved).shape(), A(0.0F), dy.resource())};
  }
};

/// The bytes of an array rounded to the operands of FP8.
std::string rounded(const Array<float>& array) {
  return seen(ops::operand(precision::fp8{}, {ops::OperandRole::weight, 1}, array)).bytes;
}

TEST(KeptOperands, OfAParameterAreRoundedOnceForAllStepsThatDoNotWriteToIt) {
  Parameter w = random_parameter("w", {5, 4}, 1);
  std::vector<Seen> operands;
  Fp8 tape(TapeMode::inference);
  const void* codes = nullptr;
  for (int step = 0; step < 4; ++step) {
    tape.clear();
    operands.clear();
    const auto x = tape.input(random_array<float>({3, 4}, 2));
    for (int use = 0; use < 3; ++use) (void)tape.record(Spy{&operands}, x, w);
    for (std::size_t use = 0; use < 3; ++use) {
      if (codes == nullptr) codes = operands[1].codes;
      EXPECT_EQ(operands[2 * use + 1].codes, codes) << "step " << step << ", use " << use;
      EXPECT_EQ(operands[2 * use + 1].bytes, rounded(w.value));
    }
  }
}

TEST(KeptOperands, OfAParameterAreMadeAnewWhenItWasWrittenTo) {
  Parameter w = random_parameter("w", {5, 4}, 1);
  Fp8 tape(TapeMode::inference);
  const auto operand_of_w = [&] {
    std::vector<Seen> operands;
    tape.clear();
    (void)tape.record(Spy{&operands}, tape.input(random_array<float>({3, 4}, 2)), w);
    return operands[1].bytes;
  };
  EXPECT_EQ(operand_of_w(), rounded(w.value));
  w.value.mutable_data()[7] = 100;
  EXPECT_EQ(operand_of_w(), rounded(w.value)) << "through a pointer";
  w.value.mutable_span()[3] = 50;
  EXPECT_EQ(operand_of_w(), rounded(w.value)) << "through a span";
  w.value = random_array<float>({5, 4}, 9);
  EXPECT_EQ(operand_of_w(), rounded(w.value)) << "by another array";
  w = random_parameter("w", {2, 10}, 3);
  EXPECT_EQ(operand_of_w(), rounded(w.value)) << "by another parameter";
  const Array<float> copy = w.value;
  w.value.mutable_data()[0] = -3;
  EXPECT_EQ(operand_of_w(), rounded(w.value)) << "while a copy exists";
  w.value = copy;
  EXPECT_EQ(operand_of_w(), rounded(copy)) << "by what it was before";
}

TEST(KeptOperands, OfAnotherParameterAtTheSamePlaceAreItsOwn) {
  Fp8 tape(TapeMode::inference);
  for (std::uint32_t seed = 1; seed < 5; ++seed) {
    // Each in the memory of the one before.
    std::optional<Parameter> w = random_parameter("w", {5, 4}, seed);
    std::vector<Seen> operands;
    tape.clear();
    (void)tape.record(Spy{&operands}, tape.input(random_array<float>({3, 4}, 20)), *w);
    EXPECT_EQ(operands[1].bytes, rounded(w->value)) << seed;
  }
}

TEST(KeptOperands, OfAValueWithoutElementsAreItsOwn) {
  const Parameter w = random_parameter("w", {5, 4}, 1);
  for (const std::size_t rows : {0U, 3U, 0U}) {
    Fp8 tape;
    const auto x = tape.constant(Array<float>::filled({rows, 4}, 1));
    EXPECT_EQ(ops::linear(x, w).shape(), (Shape{rows, 5}));
    EXPECT_EQ(ops::linear(tape.constant(Array<float>(Shape{0, 2, 4})), w).shape(),
              (Shape{0, 2, 5}));
  }
}

TEST(KeptOperands, OfAParameterOfTheSameElementsInAnotherShapeHaveThatShape) {
  Parameter w = random_parameter("w", {2, 10}, 1);
  Fp8 tape(TapeMode::inference);
  for (const Shape& shape : {Shape{2, 10}, Shape{5, 4}, Shape{20, 1}, Shape{2, 10}}) {
    w.value = w.value.reshaped(shape);
    std::vector<Seen> operands;
    tape.clear();
    (void)tape.record(Spy{&operands}, tape.input(random_array<float>({3, 4}, 2)), w);
    EXPECT_EQ(operands[1].shape, shape);
    EXPECT_EQ(operands[1].bytes, rounded(w.value));
  }
}

TEST(KeptOperands, OfAParameterThatWasSomeoneElsesForAWhileAreThoseOfItsElements) {
  Parameter w = random_parameter("w", {5, 4}, 1);
  const Array<float> before = w.value;
  std::vector<float> memory(20, 2.0F);
  Fp8 tape(TapeMode::inference);
  std::vector<Seen> operands;
  for (int use = 0; use < 3; ++use) {
    w.value = use == 1 ? Array<float>::borrow(std::span(memory), Shape{5, 4}) : before;
    tape.clear();
    (void)tape.record(Spy{&operands}, tape.input(random_array<float>({3, 4}, 2)), w);
    EXPECT_EQ(operands.back().bytes, rounded(w.value)) << use;
  }
}

TEST(KeptOperands, OfSomeoneElsesMemoryAreMadeEachTime) {
  std::vector<float> memory(20, 1.0F);
  const Parameter w{.name = "w", .value = Array<float>::borrow(std::span(memory), Shape{5, 4})};
  Fp8 tape(TapeMode::inference);
  for (const float value : {1.0F, 2.0F, 3.0F}) {
    memory.assign(20, value);
    std::vector<Seen> operands;
    tape.clear();
    (void)tape.record(Spy{&operands}, tape.input(random_array<float>({3, 4}, 2)), w);
    EXPECT_EQ(operands[1].bytes, rounded(Array<float>::filled({5, 4}, value)));
  }
}

TEST(KeptOperands, OfAValueAreSharedByOpsThatReadItOneAfterTheOther) {
  const Parameter v = random_parameter("v", {5, 4}, 1);
  const Parameter w = random_parameter("w", {5, 4}, 3);
  std::vector<Seen> operands;
  Fp8 tape;
  const auto x = tape.input(random_array<float>({3, 4}, 2));
  const auto y = tape.record(Spy{&operands}, x, v);
  (void)tape.record(Spy{&operands}, x, w);
  EXPECT_EQ(operands[0].codes, operands[2].codes);
  EXPECT_NE(operands[1].codes, operands[3].codes);
  // Of the same numbers, but another value.
  (void)tape.record(Spy{&operands}, y, w);
  EXPECT_EQ(operands[4].bytes, operands[0].bytes);
  EXPECT_EQ(operands[5].codes, operands[3].codes);
}

TEST(KeptOperands, AreNotThoseOfAStepBefore) {
  const Parameter w = random_parameter("w", {5, 4}, 1);
  Fp8 tape(TapeMode::inference);
  for (std::uint32_t seed = 1; seed < 5; ++seed) {
    tape.clear();
    std::vector<Seen> operands;
    const auto x = tape.input(random_array<float>({3, 4}, seed));
    (void)tape.record(Spy{&operands}, x, w);
    EXPECT_EQ(operands[0].bytes,
              seen(ops::operand(precision::fp8{}, {ops::OperandRole::input, 0}, x.value())).bytes);
  }
}

/// Twos as an operand, which no array of other numbers is rounded to.
kernels::Operand twos(const Shape& shape) {
  return ops::operand(precision::fp8{}, {ops::OperandRole::input},
                      Array<float16>::filled(shape, float16(2.0F)));
}

TEST(KeptOperands, OfAConstantAreThoseItCameWithForTheNextOp) {
  const auto numbers = random_array<float16>({5, 4}, 1);
  const kernels::Operand operand = twos({5, 4});
  const std::string of_numbers =
      seen(ops::operand(precision::fp8{}, {ops::OperandRole::input}, numbers)).bytes;
  std::vector<Seen> operands;
  Fp8 tape(TapeMode::inference);
  const auto x = tape.input(random_array<float16>({3, 4}, 2));
  const auto first = tape.constant(numbers, operand);
  const auto second = tape.constant(numbers, operand);
  EXPECT_EQ(first.value().data(), numbers.data()) << "nothing is copied";
  (void)tape.record(Spy{&operands}, first, second);
  (void)tape.record(Spy{&operands}, first, x);
  ASSERT_EQ(operands.size(), 4U);
  EXPECT_EQ(operands[0].codes, operand.array.codes().data());
  EXPECT_EQ(operands[1].codes, operand.array.codes().data());
  EXPECT_EQ(operands[2].bytes, of_numbers) << "of the op after the next one";

  operands.clear();
  const auto other = tape.constant(numbers, operand);
  tape.clear();
  (void)tape.record(Spy{&operands}, tape.constant(numbers), tape.constant(numbers));
  EXPECT_EQ(operands[0].bytes, of_numbers) << "of the next step";
}

TEST(KeptOperands, OfAConstantAreNotThoseOfARecipe) {
  const auto numbers = random_array<float16>({5, 4}, 1);
  std::vector<Seen> operands;
  Tape<precision::fp16> tape(TapeMode::inference);
  tape.use_recipe(Simulation::parse("e4m3fn/e5m2"));
  const auto constant = tape.constant(numbers, twos({5, 4}));
  (void)tape.record(Spy{&operands}, constant, constant);
  const std::string of_numbers =
      seen(ops::operand(precision::fp8{}, {ops::OperandRole::input}, numbers)).bytes;
  EXPECT_EQ(operands[0].bytes, of_numbers);
}

TEST(KeptOperands, OfAConstantHaveItsShape) {
  Fp8 tape;
  expect_shape_error(
      [&] {
        (void)tape.constant(random_array<float16>({5, 4}, 1), twos({4, 5}));
      },
      {"Tape::constant", "(5, 4)", "(4, 5)"});
}

TEST(KeptOperands, AreFreedWhereAStepDoesNotUseThem) {
  Parameter w = random_parameter("w", {500, 400}, 1);
  std::vector<Seen> operands;
  Fp8 tape(TapeMode::inference);
  const auto held = [&] { return tape.memory().bytes_in_use(); };
  (void)tape.record(Spy{&operands}, tape.input(random_array<float>({3, 4}, 2)), w);
  tape.clear();
  EXPECT_GE(held(), 200000U);
  tape.clear();
  EXPECT_EQ(held(), 0U);
}

TEST(KeptOperands, OfNoElementsHaveTheirShape) {
  const Parameter w = random_parameter("w", {5, 4}, 1);
  Fp8 tape;
  const auto x = tape.input(Array<float>(Shape{0, 4}));
  EXPECT_EQ(ops::linear(x, w).shape(), (Shape{0, 5}));
}

TEST(KeptOperands, LeaveParametersOfTheirOwnFormatToTheirOwner) {
  Parameter w = random_parameter("w", {5, 4}, 1);
  const void* elements = w.value.data();
  Tape<precision::fp32> tape;
  const auto x = tape.input(random_array<float>({3, 4}, 2));
  tape.backward(sum(ops::linear(x, w)));
  tape.clear();
  EXPECT_EQ(w.value.mutable_data(), elements) << "nobody shares it, so nothing is copied";
}

TEST(ArrayVersion, IsAnotherOneAfterEachChanceToWrite) {
  Array<float> a = random_array<float>({3, 4}, 1);
  const std::uint64_t first = a.version();
  EXPECT_NE(first, 0U);
  EXPECT_EQ(a.version(), first);
  const Array<float> copy = a;
  EXPECT_EQ(copy.version(), first);
  EXPECT_EQ(copy.reshaped({12}).version(), first);
  a.mutable_data()[0] = 1;
  EXPECT_NE(a.version(), first);
  EXPECT_EQ(copy.version(), first) << "the elements of the copy are what they were";
  const std::uint64_t second = a.version();
  (void)a.mutable_span();
  EXPECT_NE(a.version(), second);
  EXPECT_NE(random_array<float>({3, 4}, 1).version(), a.version());
}

TEST(ArrayVersion, IsNoneOfNoElementsAndOfSomeoneElses) {
  EXPECT_EQ(Array<float>().version(), 0U);
  EXPECT_EQ(Array<float>(Shape{0, 3}).version(), 0U);
  std::vector<float> memory(6);
  EXPECT_EQ(Array<float>::borrow(std::span(memory), Shape{6}).version(), 0U);
}

}  // namespace kept_operands_test
