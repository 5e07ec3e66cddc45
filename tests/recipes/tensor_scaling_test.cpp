// SPDX-License-Identifier: MIT
// One scale for each operand: the rules of the sources as tables of numbers, and what products make
// of the scales.
#include "unit_scaling/recipes/tensor_scaling.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <memory_resource>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "autograd/tape_support.hpp"
#include "support/errors.hpp"
#include "support/temporary_folder.hpp"
#include "support/thread_arithmetic.hpp"
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
#include "unit_scaling/optim/gradient_sum.hpp"
#include "unit_scaling/optim/sgd.hpp"
#include "unit_scaling/train/checkpoint.hpp"

namespace tensor_scaling_test {

using namespace unit_scaling;
using namespace unit_scaling_test;
using ops::OperandRole;
using Fp32 = Tape<precision::fp32>;

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN();
constexpr float largest_float = std::numeric_limits<float>::max();

// --- The rules of the sources ---

struct Published {
  const char* format;
  float maximum;
  int margin;
  float factor;
};

void expect_factors(const std::vector<Published>& rows, ScaleFormat scales) {
  for (const Published& row : rows) {
    EXPECT_EQ(tensor_scale_factor(static_cast<double>(row.maximum),
                                  Format::parse(row.format).spec(), row.margin, scales),
              row.factor)
        << row.format << ", maximum " << row.maximum << ", margin " << row.margin;
  }
}

// The first two rows are those of MS-AMP's own test, tests/common/tensor/test_meta.py; the others
// are 2^(floor(log2(M / amax)) - margin) of compute_scaling_factor, evaluated outside of this
// library.
TEST(TensorScaleFactor, InPowersOfTwoIsThatOfMsAmp) {
  expect_factors({{"e4m3fn", 10, 0, 32},
                  {"e4m3fn", 10000, 0, 1.0F / 32},
                  {"e4m3fn", 448, 0, 1},
                  {"e4m3fn", 449, 0, 0.5F},
                  {"e4m3fn", 7, 0, 64},
                  {"e4m3fn", 7.1F, 0, 32},
                  {"e4m3fn", 1, 0, 256},
                  {"e4m3fn", 1, 3, 32},
                  {"e4m3fn", 1e-5F, 0, 33554432},
                  {"e5m2", 1, 0, 32768},
                  {"e5m2", 0.02F, 1, 1048576},
                  {"float16", 1, 0, 32768},
                  {"float16", 3, 0, 16384}},
                 ScaleFormat::power_of_two);
}

// MS-AMP's logarithm in binary32 is 6, and its factor 64, for the first row: 448 (1 + 2^-23).
TEST(TensorScaleFactor, InPowersOfTwoTakesNoMaximumBeyondTheFormat) {
  expect_factors({{"e4m3fn", std::nextafter(7.0F, 8.0F), 0, 32},
                  {"e4m3fn", std::nextafter(7.0F, 6.0F), 0, 64},
                  {"e5m2", std::nextafter(57344.0F, infinity), 0, 0.5F},
                  {"e4m3", std::nextafter(15.0F, 16.0F), 0, 8},  // IEEE: 240 is the largest
                  {"e4m3", 15, 0, 16}},
                 ScaleFormat::power_of_two);
}

// scaled_max / amax of delayed_scaling.cu in floats, and the largest float where that is infinite,
// evaluated outside of this library.
TEST(TensorScaleFactor, InBinary32IsThatOfTransformerEngine) {
  expect_factors({{"e4m3fn", 448, 0, 1},
                  {"e4m3fn", 1, 0, 448},
                  {"e4m3fn", 500, 0, 0x1.cac084p-1F},
                  {"e4m3fn", 0.1F, 0, 0x1.18p+12F},
                  {"e4m3fn", 3.14159274F, 0, 0x1.1d34a6p+7F},
                  {"e5m2", 3, 0, 0x1.2aaaaap+14F},
                  {"e5m2", 1e-3F, 0, 0x1.b57ffep+25F},
                  {"e4m3fn", 3, 2, 0x1.2aaaaap+5F},
                  {"e4m3fn", 1e30F, 0, 0x1.1bf428p-91F},
                  {"e4m3fn", 1e-37F, 0, largest_float},
                  {"e4m3fn", 0x1p-149F, 0, largest_float},
                  {"e5m2", largest_float, 0, 0x1.c00002p-113F}},
                 ScaleFormat::binary32);
}

// The same with force_pow_2_scales: the fraction of the float is cut off.
TEST(TensorScaleFactor, InPowersOfTwoIsThatOfTransformerEngine) {
  expect_factors({{"e4m3fn", 448, 0, 1},
                  {"e4m3fn", 500, 0, 0.5F},
                  {"e4m3fn", 0.1F, 0, 4096},
                  {"e4m3fn", 3.14159274F, 0, 128},
                  {"e5m2", 3, 0, 16384},
                  {"e5m2", 1e-3F, 0, 0x1p25F},
                  {"e4m3fn", 1e30F, 0, 0x1p-91F},
                  {"e4m3fn", 1e-37F, 0, 0x1p127F},
                  {"e4m3fn", 0x1p-149F, 0, 0x1p127F},
                  {"e5m2", largest_float, 0, 0x1p-113F}},
                 ScaleFormat::power_of_two);
}

EncodedArray operand_of(Recipe& recipe, OperandRole role, const Array<float>& array,
                        const std::string& module = "m") {
  OperandSite site;
  site.module = module;
  site.op = "linear";
  site.role = role;
  return recipe.operand(site, EncodedArray::view(array)).value().array;
}

Array<float> array_of(const std::vector<float>& numbers) {
  Array<float> result(Shape{numbers.size()});
  std::copy(numbers.begin(), numbers.end(), result.mutable_data());
  return result;
}

std::vector<float> numbers_of(const EncodedArray& array) {
  const Array<float> decoded = array.decode();
  return {decoded.span().begin(), decoded.span().end()};
}

/// The factor that a recipe has multiplied with.
float factor_of(const EncodedArray& operand) { return 1 / operand.scale(0); }

// amax_to_scale(amax, dtype) of torchao, whose EPS is 1e-12, with and without
// round_scales_to_power_of_2, evaluated outside of this library.
TEST(TensorScaling, WithALeastMaximumHasTheScalesOfTorchao) {
  struct Row {
    float maximum;
    float of_e4m3;
    float of_e5m2;
  };
  const Row rows[] = {{0, 0x1.97742p+48F, 0x1.97742p+55F},
                      {1e-30F, 0x1.97742p+48F, 0x1.97742p+55F},
                      {1e-12F, 0x1.97742p+48F, 0x1.97742p+55F},
                      {1e-6F, 0x1.ab3fp+28F, 0x1.ab3fp+35F},
                      {0.3F, 0x1.755554p+10F, 0x1.755554p+17F},
                      {1, 0x1.cp+8F, 0x1.cp+15F},
                      {7, 0x1p+6F, 0x1p+13F},
                      {250, 0x1.cac084p+0F, 0x1.cac084p+7F},
                      {1e5F, 0x1.2599eep-8F, 0x1.2599eep-1F}};
  TensorScaling floats({.least_maximum = 1e-12, .scales = ScaleFormat::binary32});
  TensorScaling powers({.least_maximum = 1e-12});
  for (const Row& row : rows) {
    const auto x = array_of({0, -row.maximum, row.maximum / 2});
    for (const auto& [role, expected] :
         {std::pair{OperandRole::input, row.of_e4m3}, std::pair{OperandRole::weight, row.of_e4m3},
          std::pair{OperandRole::gradient, row.of_e5m2}}) {
      EXPECT_EQ(operand_of(floats, role, x).scale(0), 1 / expected) << row.maximum;
      EXPECT_EQ(factor_of(operand_of(powers, role, x)), std::exp2(std::floor(std::log2(expected))))
          << row.maximum;
    }
  }
}

// --- The largest magnitude ---

TEST(LargestMagnitude, IsThatOfALoopOverAllElementsInEveryFormatAndSize) {
  const auto expect_largest = [](const EncodedArray& array) {
    float expected = 0;
    for (const float number : numbers_of(array)) {
      if (std::isnan(number)) expected = not_a_number;
      if (std::abs(number) > expected) expected = std::abs(number);
    }
    const float actual = largest_magnitude(array);
    EXPECT_TRUE(actual == expected || (std::isnan(actual) && std::isnan(expected)))
        << to_string(array.format()) << ", " << array.size() << " elements: " << actual;
  };
  for (const std::size_t size : {0U, 1U, 15U, 16U, 63U, 64U, 65U, 130U}) {
    for (const float special : {0.0F, -1e4F, -infinity, not_a_number, 0x1p-149F}) {
      for (std::size_t place = 0; place == 0 || place < size; ++place) {
        Array<float> numbers = random_array<float>({size}, 3);
        if (place < size) numbers.mutable_data()[place] = special;
        const EncodedArray view = EncodedArray::view(numbers);
        expect_largest(view);
        if (place % 16 != 3) continue;
        for (const char* name : {"float16", "bfloat16", "e4m3fn", "e5m2", "e4m3fnuz", "e2m1fn"}) {
          const EncodedArray rounded = EncodedArray::encode(
              view, Format::parse(name), {.overflow = Overflow::infinity_or_nan});
          expect_largest(rounded);
          expect_largest(rounded.with_scale(ScaleFormat::binary32, -3));
        }
      }
    }
  }
  // Several pieces, which threads share.
  Array<float> many = random_array<float>({40000}, 3);
  many.mutable_data()[33333] = -1e4F;
  expect_largest(EncodedArray::view(many));
  EXPECT_EQ(largest_magnitude(EncodedArray::view(array_of({0, -0.0F}))), 0);
  EXPECT_EQ(std::bit_cast<std::uint32_t>(
                largest_magnitude(EncodedArray::view(array_of({0, -0x1p-149F})))),
            1U);
}

// --- Current scaling ---

TEST(TensorScaling, BringsTheMaximumIntoTheLastBinadeOfTheFormatLessTheMargin) {
  const ByRole<int> margins{.input = 0, .weight = 1, .gradient = 5};
  TensorScaling recipe({.margins = margins});
  for (int exponent = -100; exponent <= 100; exponent += 7) {
    Array<float> x = random_array<float>({37}, static_cast<std::uint32_t>(exponent + 200));
    for (float& number : x.mutable_span()) number = std::ldexp(number, exponent);
    for (const auto role : {OperandRole::input, OperandRole::weight, OperandRole::gradient}) {
      const EncodedArray operand = operand_of(recipe, role, x);
      EXPECT_EQ(operand.format(), fp8_formats[role]);
      EXPECT_EQ(operand.scale_layout(), ScaleLayout::per_tensor(ScaleFormat::power_of_two));
      const float code = largest_magnitude(operand.without_scales());
      const double limit = operand.format().spec().max_finite() / std::exp2(margins[role]);
      // A maximum just above half of the limit may be rounded down to it.
      EXPECT_LE(code, limit);
      EXPECT_GE(code, limit / 2);
    }
  }
}

TEST(TensorScaling, HasNoScaleForZerosAndForNothing) {
  TensorScaling recipe;
  for (const auto role : {OperandRole::input, OperandRole::weight, OperandRole::gradient}) {
    const EncodedArray zeros = operand_of(recipe, role, array_of({0, -0.0F, 0}));
    EXPECT_EQ(zeros.scale(0), 1);
    EXPECT_EQ(numbers_of(zeros), (std::vector<float>{0, 0, 0}));
    EXPECT_TRUE(std::signbit(numbers_of(zeros)[1]));
    for (const Shape& shape : {Shape{0}, Shape{0, 5}, Shape{5, 0}}) {
      const EncodedArray nothing = operand_of(recipe, role, Array<float>(shape));
      EXPECT_EQ(nothing.shape(), shape);
      EXPECT_EQ(nothing.scale(0), 1);
    }
  }
}

TEST(TensorScaling, KeepsTheOneNumberOfAOneHotTensorToTheBitIfTheFormatHasItsFraction) {
  TensorScaling recipe;
  for (int exponent = -130; exponent <= 120; ++exponent) {
    Array<float> x = Array<float>::filled(Shape{9, 7}, 0);
    x.mutable_data()[40] = std::ldexp(-1.75F, exponent);
    for (const auto role : {OperandRole::input, OperandRole::gradient}) {
      const EncodedArray operand = operand_of(recipe, role, x);
      EXPECT_TRUE(same_bits(operand.decode(), x)) << exponent;
    }
  }
  const EncodedArray one = operand_of(recipe, OperandRole::input, array_of({3}));
  EXPECT_EQ(numbers_of(one), std::vector<float>{3}) << "1 x 1";
}

TEST(TensorScaling, ScalesASubnormalMaximumByAtMostTwoToThePowerOf127) {
  TensorScaling recipe;
  struct Row {
    float maximum;
    float factor;
    float kept;
  };
  // E4M3's least number is 2^-9, half of which rounds to 0.
  for (const Row& row : {Row{0x1p-119F, 0x1p127F, 0x1p-119F}, Row{0x1p-126F, 0x1p127F, 0x1p-126F},
                         Row{0x1p-136F, 0x1p127F, 0x1p-136F}, Row{0x1p-137F, 0x1p127F, 0},
                         Row{0x1p-149F, 0x1p127F, 0}}) {
    const EncodedArray operand =
        operand_of(recipe, OperandRole::weight, array_of({row.maximum, 0}));
    EXPECT_EQ(operand.scale(0), 1 / row.factor);
    EXPECT_EQ(numbers_of(operand), (std::vector<float>{row.kept, 0})) << row.maximum;
  }
  const EncodedArray huge =
      operand_of(recipe, OperandRole::input, array_of({largest_float, 0x1p127F}));
  EXPECT_EQ(factor_of(huge), 0x1p-120F);
  EXPECT_EQ(numbers_of(huge), (std::vector<float>{infinity, 0x1p127F}))
      << "256 2^120 is beyond floats";
}

TEST(TensorScaling, LeavesATensorThatIsNotFiniteSoAndUnscaled) {
  TensorScaling recipe;
  for (const float special : {infinity, -infinity, not_a_number}) {
    const auto x = array_of({1.25F, special, -2, 0});
    const EncodedArray forward = operand_of(recipe, OperandRole::input, x);
    EXPECT_EQ(forward.scale(0), 1);
    EXPECT_EQ(numbers_of(forward)[0], 1.25F);
    EXPECT_TRUE(std::isnan(numbers_of(forward)[1])) << "E4M3 has no infinity";
    const EncodedArray backward = operand_of(recipe, OperandRole::gradient, x);
    EXPECT_EQ(backward.scale(0), 1);
    const float kept = numbers_of(backward)[1];
    EXPECT_TRUE(kept == special || (std::isnan(kept) && std::isnan(special)));
    EXPECT_EQ(numbers_of(backward)[2], -2);
    const auto beside = array_of({1000, special, 100'000, 1});
    const std::vector<float> inputs = numbers_of(operand_of(recipe, OperandRole::input, beside));
    EXPECT_TRUE(std::isnan(inputs[0]) && std::isnan(inputs[2])) << "448 is the largest number";
    EXPECT_EQ(inputs[3], 1);
    const std::vector<float> gradients =
        numbers_of(operand_of(recipe, OperandRole::gradient, beside));
    EXPECT_EQ(gradients[0], 1024);
    EXPECT_EQ(gradients[2], infinity) << "57344 is the largest number";
  }
}

TEST(TensorScaling, HasTheSameBitsWhateverTheArithmeticOfTheThread) {
  const auto run = [] {
    TensorScaling current;
    DelayedScaling delayed;
    ConstantScaling constant({.bias = -3});
    std::vector<float> all;
    for (Recipe* recipe : std::vector<Recipe*>{&current, &delayed, &constant}) {
      for (const float maximum : {0x1p-149F, 0x1.234p-130F, 0.3F, largest_float}) {
        for (int use = 0; use < 2; ++use) {
          recipe->begin_step();
          const auto operand =
              operand_of(*recipe, OperandRole::input, array_of({maximum, 0x1p-140F}));
          const auto numbers = numbers_of(operand);
          all.insert(all.end(), numbers.begin(), numbers.end());
          all.push_back(operand.scale(0));
        }
      }
    }
    std::vector<std::uint32_t> bits;
    for (const float number : all) bits.push_back(std::bit_cast<std::uint32_t>(number));
    return bits;
  };
  const auto expected = run();
  for (const ArithmeticMode& mode : unusual_arithmetic_modes()) {
    std::vector<std::uint32_t> actual;
    {
      const ThreadArithmetic arithmetic(mode);
      actual = run();
    }
    EXPECT_EQ(actual, expected) << mode.name;
  }
}

/// A copy that lives longer than the tape whose memory the array is in.
template <class T> Array<T> kept(const Array<T>& array) {
  Array<T> result(array.shape());
  std::copy(array.span().begin(), array.span().end(), result.mutable_data());
  return result;
}

/// y, dx and dw of a linear layer, or of a product of two activations.
struct Results {
  Array<float> y;
  Array<float> dx;
  Array<float> dw;
};
template <class Product>
Results run_product(std::shared_ptr<Recipe> recipe, const Product& product, const Array<float>& x,
                    const Array<float>& w, const Array<float>& dy) {
  Fp32 tape;
  tape.use_recipe(std::move(recipe));
  const auto a = tape.input(x);
  const auto b = tape.input(w);
  const auto y = product(a, b);
  tape.backward(tape.record(WeightedSum{dy}, y));
  return {kept(y.value()), kept(tape.gradient(a)), kept(tape.gradient(b))};
}

Array<float> times_power(const Array<float>& array, int exponent) {
  Array<float> result = array;
  for (float& number : result.mutable_span()) number = std::ldexp(number, exponent);
  return result;
}

TEST(TensorScaling, OfAnInputTimesAPowerOfTwoChangesExponentsAndNothingElse) {
  const auto x = random_array<float>({33, 20}, 1);
  const auto w = random_array<float>({17, 20}, 2);
  const auto v = random_array<float>({20, 17}, 3);
  const auto dy = random_array<float>({33, 17}, 4);
  const auto linear = [](const auto& a, const auto& b) { return ops::linear(a, b); };
  const auto matmul = [](const auto& a, const auto& b) { return ops::matmul(a, b); };
  const auto expect_same_fractions = [&](const auto& product, const Array<float>& right,
                                         const TensorScalingOptions& options) {
    const auto recipe = [&] { return std::make_shared<TensorScaling>(options); };
    const Results base = run_product(recipe(), product, x, right, dy);
    for (const int of_x : {-60, -9, 0, 1, 33}) {
      for (const int of_w : {-40, 0, 12}) {
        for (const int of_dy : {-20, 0, 25}) {
          const Results scaled = run_product(recipe(), product, times_power(x, of_x),
                                             times_power(right, of_w), times_power(dy, of_dy));
          EXPECT_TRUE(same_bits(scaled.y, times_power(base.y, of_x + of_w)));
          EXPECT_TRUE(same_bits(scaled.dx, times_power(base.dx, of_w + of_dy)));
          EXPECT_TRUE(same_bits(scaled.dw, times_power(base.dw, of_x + of_dy)));
        }
      }
    }
  };
  expect_same_fractions(linear, w, {});
  expect_same_fractions(matmul, v, {});
  expect_same_fractions(linear, w, {.margins = {.input = 3, .weight = 1, .gradient = 2}});
  const ByRole<Format> narrow{.input = Format::parse("e2m1fn"),
                              .weight = Format::parse("e3m2fn"),
                              .gradient = Format::parse("e3m4")};
  expect_same_fractions(linear, w, {.formats = narrow});
  // The fractions are not those of a policy, whose formats have no scale.
  const Results of_policy = run_product(std::make_shared<ConstantScaling>(ConstantScalingOptions{}),
                                        linear, times_power(x, -9), w, dy);
  const Results base =
      run_product(std::make_shared<ConstantScaling>(ConstantScalingOptions{}), linear, x, w, dy);
  EXPECT_FALSE(same_bits(of_policy.y, times_power(base.y, -9)));
}

// Against textbook loops in double over the numbers that the recipe makes.
TEST(TensorScaling, MultipliesTheNumbersOfTheOperands) {
  const auto x = times_power(random_array<float>({5, 20}, 1), -30);
  const auto w = times_power(random_array<float>({3, 20}, 2), 17);
  const auto dy = random_array<float>({5, 3}, 3);
  for (const ScaleFormat scales : {ScaleFormat::power_of_two, ScaleFormat::binary32}) {
    const TensorScalingOptions options{.scales = scales};
    TensorScaling recipe(options);
    const auto a = operand_of(recipe, OperandRole::input, x).decode();
    const auto b = operand_of(recipe, OperandRole::weight, w).decode();
    const auto y = run_product(
                       std::make_shared<TensorScaling>(options),
                       [](const auto& left, const auto& right) {
                         return ops::linear(left, right, {.scaling = scaling::none});
                       },
                       x, w, dy)
                       .y;
    for (std::size_t i = 0; i < 5; ++i) {
      for (std::size_t j = 0; j < 3; ++j) {
        double sum = 0;
        double magnitudes = 0;
        for (std::size_t k = 0; k < 20; ++k) {
          const double term =
              static_cast<double>(a.data()[i * 20 + k]) * static_cast<double>(b.data()[j * 20 + k]);
          sum += term;
          magnitudes += std::abs(term);
        }
        // 20 sums, the rounding of each number times its scale, and of the sum times both.
        EXPECT_NEAR(y.data()[i * 3 + j], sum, 24 * 0x1p-24 * magnitudes);
      }
    }
  }
}

TEST(TensorScaling, RoundsAValueThatTwoProductsReadOnce) {
  const auto bytes_of_two = [](const TensorScalingOptions& options) {
    Fp32 tape;
    tape.use_recipe(TensorScaling(options));
    const Parameter value = random_parameter("value", {5, 40}, 1);
    const Parameter gate = random_parameter("gate", {5, 40}, 2);
    const auto x = tape.input(random_array<float>({30, 40}, 2));
    const auto a = ops::linear(x, value);
    const auto b = ops::linear(x, gate);
    return tape.saved_bytes();
  };
  constexpr std::size_t with_scale = 1;
  constexpr std::size_t of_x = 30 * 40 + with_scale;
  constexpr std::size_t of_weights = 2 * (5 * 40 + with_scale);
  EXPECT_EQ(bytes_of_two({}), of_x + of_weights);
  EXPECT_EQ(bytes_of_two({.margins = {.input = 1, .weight = 0, .gradient = 0}}),
            2 * of_x + of_weights)
      << "a weight of the same numbers would be another one";
}

TEST(TensorScaling, OfWhatItIsNotAskedForIsRefused) {
  const auto make = [](const TensorScalingOptions& options) {
    return [=] { TensorScaling recipe(options); };
  };
  expect_domain_error(make({.margins = {.input = 0, .weight = -1, .gradient = 0}}),
                      {"TensorScaling", "margins from 0 to 127", "-1"});
  expect_domain_error(make({.margins = {.input = 0, .weight = 0, .gradient = 128}}), {"128"});
  expect_domain_error(make({.least_maximum = -1}), {"TensorScaling", "a least maximum", "-1"});
  expect_domain_error(make({.least_maximum = std::nan("")}), {"a least maximum"});
  expect_domain_error(make({.scales = ScaleFormat::none}), {"TensorScaling", "power_of_two"});
  ByRole<Format> formats = fp8_formats;
  formats.weight = Format::parse("float64");
  expect_domain_error(make({.formats = formats}), {"TensorScaling", "float64"});
  formats.weight = Format::parse("e8m0fnu");
  expect_domain_error(make({.formats = formats}), {"a sign", "float8_e8m0fnu"});
  expect_domain_error([&] { DelayedScaling({.history_length = 0}); },
                      {"DelayedScaling", "a history length of at least 1"});
  expect_domain_error([&] { DelayedScaling({.formats = formats}); }, {"DelayedScaling", "a sign"});
  expect_domain_error([] { ConstantScaling({.bias = 128}); },
                      {"ConstantScaling", "a bias from -127 to 127", "128"});
  expect_domain_error([] { ConstantScaling({.bias = -128}); }, {"-128"});
  expect_domain_error([&] { ConstantScaling({.formats = formats}); }, {"ConstantScaling"});
}

// --- Delayed scaling ---

/// TransformerEngine's rule as its Python code says it: a roll of the history by one, then the
/// scale. Maxima are finite.
class TransformerEngine {
 public:
  TransformerEngine(std::size_t length, AmaxRule rule, double limit) : rule_(rule), limit_(limit) {
    history_.assign(length, 0.0F);
  }
  [[nodiscard]] float scale() const { return scale_; }
  void see(float amax) { history_[0] = std::max(history_[0], amax); }
  void update() {
    const float amax =
        rule_ == AmaxRule::max ? *std::max_element(history_.begin(), history_.end()) : history_[0];
    std::rotate(history_.begin(), history_.begin() + 1, history_.end());
    history_[0] = 0;
    if (amax > 0) scale_ = static_cast<float>(limit_) / amax;
  }

 private:
  AmaxRule rule_;
  double limit_;
  std::deque<float> history_;
  float scale_ = 1;
};

TEST(DelayedScaling, HasTheScalesOfTransformerEngineInEveryStep) {
  for (const std::size_t length : {1U, 2U, 5U, 1024U}) {
    for (const AmaxRule rule : {AmaxRule::max, AmaxRule::most_recent}) {
      for (const auto role : {OperandRole::input, OperandRole::weight, OperandRole::gradient}) {
        DelayedScaling recipe({.history_length = length, .amax_rule = rule});
        TransformerEngine expected(length, rule, role == OperandRole::gradient ? 57344 : 448);
        for (std::uint32_t step = 0; step < 30; ++step) {
          recipe.begin_step();
          // Twice in a step, and zeros in some.
          for (std::uint32_t use = 0; use < 1 + step % 2; ++use) {
            Array<float> x = times_power(random_array<float>({7}, 100 + 2 * step + use),
                                         static_cast<int>(step * 5 % 11));
            if (step % 7 == 3) x = Array<float>::filled(Shape{7}, 0);
            EXPECT_EQ(operand_of(recipe, role, x).scale(0), 1 / expected.scale())
                << "step " << step << ", length " << length;
            expected.see(largest_magnitude(EncodedArray::view(x)));
          }
          expected.update();
        }
      }
    }
  }
}

TEST(DelayedScaling, InPowersOfTwoHasTheFactorOfTheMaximumWithItsMargin) {
  DelayedScaling recipe({.margins = {.input = 2, .weight = 0, .gradient = 0},
                         .history_length = 2,
                         .scales = ScaleFormat::power_of_two});
  const auto factor_after = [&](float maximum) {
    recipe.begin_step();
    return factor_of(operand_of(recipe, OperandRole::input, array_of({maximum})));
  };
  EXPECT_EQ(factor_after(1), 1) << "nothing is known in the first step";
  EXPECT_EQ(factor_after(10), 64) << "of 1";
  EXPECT_EQ(factor_after(1), 8) << "of 10";
  EXPECT_EQ(factor_after(1), 8) << "of 10, two steps ago";
  EXPECT_EQ(factor_after(1), 64) << "of 1";
}

TEST(DelayedScaling, SaturatesWhatIsBeyondTheMaximumOfTheStepsBefore) {
  DelayedScaling recipe({.history_length = 1});
  recipe.begin_step();
  EXPECT_EQ(numbers_of(operand_of(recipe, OperandRole::input, array_of({448}))),
            std::vector<float>{448});
  recipe.begin_step();
  EXPECT_EQ(numbers_of(operand_of(recipe, OperandRole::input, array_of({1000, -1e30F, 1}))),
            (std::vector<float>{448, -448, 1}));
}

TEST(DelayedScaling, LeavesTheHistoryAsItIsInAStepThatIsNotFiniteOrThatDoesNotUseTheSite) {
  for (const AmaxRule rule : {AmaxRule::max, AmaxRule::most_recent}) {
    DelayedScaling recipe({.history_length = 3, .amax_rule = rule});
    const auto use = [&](const std::vector<float>& numbers, const std::string& module = "m") {
      recipe.begin_step();
      return operand_of(recipe, OperandRole::gradient, array_of(numbers), module);
    };
    (void)use({2});
    for (const float special : {infinity, -infinity, not_a_number}) {
      const EncodedArray operand = use({1, special});
      EXPECT_EQ(operand.scale(0), 2.0F / 57344);
      EXPECT_FALSE(std::isfinite(numbers_of(operand)[1])) << "a loss scale is to see it";
      EXPECT_EQ(numbers_of(operand)[0], 1);
    }
    for (int step = 0; step < 5; ++step) (void)use({1e6F}, "another");
    EXPECT_EQ(use({}).scale(0), 2.0F / 57344);
    // Now a maximum of no elements, 0, is the most recent one.
    EXPECT_EQ(use({4}).scale(0), 2.0F / 57344);
    EXPECT_EQ(use({4}).scale(0), 4.0F / 57344);
  }
}

TEST(DelayedScaling, HasAHistoryForEachSite) {
  DelayedScaling recipe({.history_length = 4});
  for (int step = 0; step < 2; ++step) {
    recipe.begin_step();
    for (const auto& [module, maximum] : {std::pair{"a", 4.0F}, std::pair{"b", 64.0F}}) {
      const EncodedArray operand =
          operand_of(recipe, OperandRole::input, array_of({maximum}), module);
      EXPECT_EQ(operand.scale(0), step == 0 ? 1 : maximum / 448);
    }
  }
  std::vector<std::string> names;
  recipe.for_each_state([&]<class T>(std::string_view name, T& state) {
    EXPECT_EQ(name, "history");
    if constexpr (std::is_same_v<T, std::map<std::string, Array<float>>>) {
      for (const auto& [site, history] : state) {
        names.push_back(site);
        const float largest = site.starts_with("a") ? 4 : 64;
        EXPECT_EQ(std::vector<float>(history.span().begin(), history.span().end()),
                  (std::vector<float>{448 / largest, largest, largest, 0, 0, 0}))
            << "the factor, the maximum of this step, those of the steps before";
      }
    } else {
      ADD_FAILURE() << name;
    }
  });
  EXPECT_EQ(names, (std::vector<std::string>{"a/linear.input.0", "b/linear.input.0"}));
}

TEST(DelayedScaling, RefusesAHistoryThatIsNoneOfItsOwnAndKeepsWhatItHas) {
  DelayedScaling recipe({.history_length = 4});
  (void)operand_of(recipe, OperandRole::input, array_of({4}));
  const auto write = [&](const std::function<void(Array<float>&)>& change) {
    return [&, change] {
      recipe.for_each_state([&]<class T>(std::string_view, T& state) {
        if constexpr (std::is_same_v<T, std::map<std::string, Array<float>>>) {
          change(state.begin()->second);
        }
      });
    };
  };
  expect_domain_error(write([](auto& history) { history = Array<float>::filled({5}, 1); }),
                      {"DelayedScaling", "6 numbers", "m/linear.input.0", "5"});
  for (const float factor : {0.0F, -1.0F, infinity, not_a_number}) {
    expect_domain_error(write([=](auto& history) { history.mutable_data()[0] = factor; }),
                        {"DelayedScaling", "a finite factor", "m/linear.input.0"});
  }
  for (const std::size_t place : {std::size_t{1}, std::size_t{2}, std::size_t{5}}) {
    for (const float maximum : {-5.0F, infinity, not_a_number}) {
      expect_domain_error(write([=](auto& history) { history.mutable_data()[place] = maximum; }),
                          {"DelayedScaling", "finite maxima", "m/linear.input.0"});
    }
  }
  expect_domain_error(write([](auto& history) { history.mutable_data()[2] = -1; }),
                      {"DelayedScaling", "finite maxima"});
  recipe.begin_step();
  EXPECT_EQ(operand_of(recipe, OperandRole::input, array_of({4})).scale(0), 4.0F / 448);
}

// Under a scale that brings the maximum to 3.4e38, products would be infinite.
TEST(TensorScaling, RefusesFormatsWhoseProductsAreBeyondFloat) {
  for (const Format& format :
       {Format::of<bfloat16>(), Format::of<float>(), Format::parse("e7m1")}) {
    const ByRole<Format> formats{.input = format, .weight = format, .gradient = format};
    expect_domain_error([&] { TensorScaling({.formats = formats}); }, {"TensorScaling", "2^48"});
    expect_domain_error([&] { DelayedScaling({.formats = formats}); }, {"DelayedScaling", "2^48"});
    EXPECT_NO_THROW(ConstantScaling({.formats = formats}));
  }
  const ByRole<Format> half{.input = Format::of<float16>(),
                            .weight = Format::of<float16>(),
                            .gradient = Format::parse("e6m1")};
  EXPECT_NO_THROW(TensorScaling({.formats = half}));
}

TEST(DelayedScaling, InPowersOfTwoRefusesAFactorThatIsNone) {
  DelayedScaling recipe({.history_length = 4, .scales = ScaleFormat::power_of_two});
  (void)operand_of(recipe, OperandRole::input, array_of({4}));
  const auto set = [&](float factor) {
    recipe.for_each_state([&]<class T>(std::string_view, T& state) {
      if constexpr (std::is_same_v<T, std::map<std::string, Array<float>>>) {
        state.begin()->second.mutable_data()[0] = factor;
      }
    });
  };
  for (const float factor : {1.5F, 448.0F, 0x1.8p-127F}) {
    expect_domain_error([&] { set(factor); }, {"DelayedScaling", "a power of two"});
  }
  for (const float factor : {0x1p-127F, 1.0F, 0x1p127F}) set(factor);
}

TEST(Recipe, GivesItsStateToOneOfItsKind) {
  DelayedScaling from({.history_length = 4});
  (void)operand_of(from, OperandRole::input, array_of({4}));
  DelayedScaling to({.history_length = 4});
  copy_state(from, to);
  from.begin_step();
  to.begin_step();
  EXPECT_EQ(operand_of(to, OperandRole::input, array_of({1})).scale(0), 4.0F / 448);
  // What it learns is its own.
  (void)operand_of(to, OperandRole::input, array_of({400}));
  to.begin_step();
  from.begin_step();
  EXPECT_EQ(operand_of(from, OperandRole::input, array_of({1})).scale(0), 4.0F / 448);
  TensorScaling without;
  expect_error<std::invalid_argument>([&] { copy_state(from, without); },
                                      {"copy_state", "of one kind", "'history'"});
  expect_error<std::invalid_argument>([&] { copy_state(without, from); },
                                      {"copy_state", "of one kind", "'history'"});
}

/// Steps of two batches each, on an input that grows and shrinks.
struct Training {
  explicit Training(std::shared_ptr<Recipe> of_tape) : recipe(std::move(of_tape)) {
    tape.use_recipe(recipe);
  }

  Parameter up = random_parameter("up", {24, 6}, 1);
  Parameter down = random_parameter("down", {6, 24}, 2);
  std::vector<Parameter*> parameters{&up, &down};
  optim::Sgd sgd{parameters};
  optim::GradientSum sum{parameters};
  Fp32 tape;
  std::shared_ptr<Recipe> recipe;
  std::uint64_t batch = 0;

  template <class Visitor> void for_each_state(const Visitor& visit) {
    visit("up", up.value);
    visit("down", down.value);
    visit("sgd", sgd);
    visit("sum", sum);
    visit("tape", tape);
    visit("recipe", *recipe);
    visit("batch", batch);
  }

  void run_batch() {
    tape.clear();
    const auto x = tape.constant(
        times_power(random_array<float>({7, 6}, 100 + static_cast<std::uint32_t>(batch)),
                    static_cast<int>(batch * 5 % 7)));
    const auto hidden = [&] {
      const auto module = tape.enter("up");
      return ops::linear(x, up);
    }();
    const auto module = tape.enter("down");
    tape.backward(ops::mse_loss(ops::linear(ops::gelu(hidden), down), x));
    sum.add(tape);
    if (++batch % 2 == 0) {
      sgd.step(sum, 0.01);
      sum.clear();
    }
  }
  [[nodiscard]] std::vector<float> numbers() const {
    std::vector<float> all(up.value.span().begin(), up.value.span().end());
    all.insert(all.end(), down.value.span().begin(), down.value.span().end());
    return all;
  }
};

TEST(DelayedScaling, ThatIsSavedGoesOnWithTheSameBitsAfterAStepAndWithinOne) {
  const TemporaryFolder folder;
  for (const DelayedScalingOptions& options :
       {DelayedScalingOptions{.history_length = 3},
        DelayedScalingOptions{.amax_rule = AmaxRule::most_recent,
        .scales = ScaleFormat::power_of_two}}) {
    const auto make = [&] { return Training(std::make_shared<DelayedScaling>(options)); };
    Training whole = make();
    for (int i = 0; i < 12; ++i) whole.run_batch();
    for (const int stop : {4, 5}) {
      Training part = make();
      for (int i = 0; i < stop; ++i) part.run_batch();
      const auto path = folder.path() / "training.safetensors";
      train::save_state(path, part);
      Training resumed = make();
      train::load_state(path, resumed);
      Training forgetful = make();
      train::load_state(path, forgetful);
      forgetful.recipe = std::make_shared<DelayedScaling>(options);
      forgetful.tape.clear();
      forgetful.tape.use_recipe(forgetful.recipe);
      for (int i = stop; i < 12; ++i) {
        part.run_batch();
        resumed.run_batch();
        forgetful.run_batch();
      }
      EXPECT_EQ(part.numbers(), whole.numbers()) << "saving changes nothing";
      EXPECT_EQ(resumed.numbers(), whole.numbers()) << stop;
      EXPECT_NE(forgetful.numbers(), whole.numbers()) << "the state matters";
    }
  }
}

TEST(DelayedScaling, OfAHistoryOfAnotherLengthIsNotLoaded) {
  const TemporaryFolder folder;
  const auto path = folder.path() / "training.safetensors";
  Training saved(std::make_shared<DelayedScaling>(DelayedScalingOptions{.history_length = 3}));
  saved.run_batch();
  train::save_state(path, saved);
  Training other(std::make_shared<DelayedScaling>(DelayedScalingOptions{.history_length = 4}));
  const auto before = other.numbers();
  expect_error<FileError>([&] { train::load_state(path, other); },
                          {"DelayedScaling", "a history of 6 numbers"});
  EXPECT_EQ(other.numbers(), before);
}

// --- A constant ---

TEST(ConstantScaling, WithoutABiasHasTheBitsOfThePolicyFp8) {
  const auto run = [](std::shared_ptr<Recipe> recipe) {
    Tape<precision::fp8> tape;
    tape.use_recipe(std::move(recipe));
    Parameter w = random_parameter("w", {17, 20}, 2);
    const auto x = tape.input(random_array<float16>({33, 20}, 1));
    const auto y = ops::linear(ops::gelu(x), w);
    tape.backward(sum(y));
    return std::tuple(kept(y.value()), kept(tape.gradient(x)), kept(tape.gradient(w)));
  };
  const auto constant = run(std::make_shared<ConstantScaling>(ConstantScalingOptions{}));
  const auto policy = run(nullptr);
  EXPECT_TRUE(same_bits(std::get<0>(constant), std::get<0>(policy)));
  EXPECT_TRUE(same_bits(std::get<1>(constant), std::get<1>(policy)));
  EXPECT_TRUE(same_bits(std::get<2>(constant), std::get<2>(policy)));
}

TEST(ConstantScaling, MultipliesEveryOperandWithTheSamePowerOfTwo) {
  for (const int bias : {-117, -8, 0, 5, 127}) {
    ConstantScaling recipe({.bias = bias});
    const auto x = times_power(array_of({1, -0.3F, 1000, 0, infinity, not_a_number}), -bias);
    for (const auto role : {OperandRole::input, OperandRole::weight, OperandRole::gradient}) {
      const EncodedArray operand = operand_of(recipe, role, x);
      EXPECT_EQ(operand.scale(0), std::ldexp(1.0F, -bias));
      const auto codes = numbers_of(operand.without_scales());
      const bool is_gradient = role == OperandRole::gradient;
      EXPECT_EQ(codes[0], 1);
      EXPECT_EQ(codes[1], -0.3125F);
      EXPECT_EQ(codes[2], is_gradient ? 1024 : 448);
      EXPECT_EQ(codes[3], 0);
      EXPECT_EQ(codes[4], is_gradient ? 57344 : 448);
      EXPECT_TRUE(std::isnan(codes[5]));
    }
  }
}

// The interval of biases: too low, and numbers become 0; too high, and they saturate.
TEST(ConstantScaling, WorksForAnIntervalOfBiases) {
  const auto x = random_array<float>({64}, 1);
  const auto error = [&](int bias) {
    ConstantScaling recipe({.bias = bias});
    const auto rounded = numbers_of(operand_of(recipe, OperandRole::input, x));
    double squares = 0;
    double errors = 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
      const auto number = static_cast<double>(x.data()[i]);
      squares += number * number;
      errors += std::pow(static_cast<double>(rounded[i]) - number, 2);
    }
    return errors / squares;
  };
  // E4M3 is within 2^-4 of each number.
  for (int bias = -4; bias <= 6; ++bias) EXPECT_LT(error(bias), 0x1p-8) << bias;
  EXPECT_GT(error(-12), 0.9);
  EXPECT_GT(error(12), 0.5);
}

// --- All of them ---

TEST(TensorScaling, HasTheSameBitsForAnyNumberOfThreadsAsTheOthersHave) {
  const std::vector<std::function<std::shared_ptr<Recipe>()>> recipes = {
      [] { return std::make_shared<TensorScaling>(); },
      [] { return std::make_shared<DelayedScaling>(); },
      [] { return std::make_shared<ConstantScaling>(ConstantScalingOptions{.bias = 3}); }};
  for (const auto& make : recipes) {
    const auto run = [&](std::size_t threads) {
      const ThreadCountScope scope(threads);
      Parameter up = random_parameter("up", {130, 170}, 1);
      Parameter down = random_parameter("down", {170, 130}, 2);
      Fp32 tape;
      tape.use_recipe(make());
      for (std::uint32_t step = 0; step < 2; ++step) {
        tape.clear();
        const auto x = tape.constant(random_array<float>({300, 170}, 10 + step));
        tape.backward(ops::mse_loss(ops::linear(ops::gelu_linear(x, up), down), x));
        for (Parameter* each : {&up, &down}) {
          const Array<float> gradient = tape.gradient(*each);
          float* value = each->value.mutable_data();
          for (std::size_t i = 0; i < gradient.size(); ++i) value[i] -= 0.01F * gradient.data()[i];
        }
      }
      std::vector<float> all(up.value.span().begin(), up.value.span().end());
      all.insert(all.end(), down.value.span().begin(), down.value.span().end());
      return all;
    };
    const auto one = run(1);
    for (const std::size_t threads : {2U, 3U, 7U}) EXPECT_EQ(run(threads), one) << threads;
  }
}

}  // namespace tensor_scaling_test
