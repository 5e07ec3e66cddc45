// SPDX-License-Identifier: MIT
#include "unit_scaling/recipes/quantisation.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "recipes/quantised_models.hpp"
#include "support/errors.hpp"
#include "support/random_arrays.hpp"
#include "unit_scaling/autograd/parameter.hpp"
#include "unit_scaling/autograd/tape.hpp"
#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/random.hpp"
#include "unit_scaling/formats/encoded_array.hpp"
#include "unit_scaling/formats/format.hpp"
#include "unit_scaling/formats/precision.hpp"
#include "unit_scaling/ops/mse_loss.hpp"
#include "unit_scaling/recipes/calibration.hpp"

namespace quantisation_test {

using namespace unit_scaling;
using namespace unit_scaling_test;
using Fp32 = Tape<precision::fp32>;

bool same_bits(const Array<float>& a, const Array<float>& b) {
  return a.shape() == b.shape() && std::memcmp(a.data(), b.data(), a.bytes()) == 0;
}

QuantisationOptions in_format(const char* name) {
  return {.inputs = Format::parse(name), .weights = Format::parse(name)};
}

// ---------------------------------------------------------------------------------------- outliers

/// A trained classifier without and with outliers, its data, and how well it does.
struct Trained {
  OutlierClassifier plain;
  OutlierClassifier with_outliers;
  LabelledPoints calibration{256, 1000};
  LabelledPoints test{2000, 2000};
  Array<float> plain_logits;
  Array<float> outlier_logits;

  Trained() {
    plain.train();
    with_outliers = plain;
    // The two channels, of 128, with the largest numbers.
    const Calibration calibration_of_plain =
        calibration_of(plain, calibration.points, {.per_channel = true});
    const std::vector<float>& maxima =
        calibration_of_plain.inputs.at("down/linear.input.0").channel_maxima;
    std::vector<std::size_t> order(maxima.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::sort(order.begin(), order.end(),
              [&](std::size_t a, std::size_t b) { return maxima[a] > maxima[b]; });
    with_outliers.inject(order[0], 128);
    with_outliers.inject(order[1], 64);
    Fp32 tape(TapeMode::inference);
    plain_logits = logits_of(plain, tape, test.points);
    outlier_logits = logits_of(with_outliers, tape, test.points);
  }

  /// How many points of accuracy the quantised model loses.
  double loss(OutlierClassifier& model, const QuantisationOptions& options) const {
    Fp32 tape(TapeMode::inference);
    tape.use_recipe(std::make_shared<Quantisation>(
        model, calibration_of(model, calibration.points, {.per_channel = true}), options));
    return accuracy(plain_logits, test.labels) -
           accuracy(logits_of(model, tape, test.points), test.labels);
  }
};

Trained& trained() {
  static Trained result;
  return result;
}

TEST(Quantisation, OfAModelWithoutOutliersLosesLittleInFp8AndInInt8) {
  EXPECT_GT(accuracy(trained().plain_logits, trained().test.labels), 90);
  EXPECT_LT(trained().loss(trained().plain, in_format("e4m3fn")), 1);
  EXPECT_LT(trained().loss(trained().plain, in_format("int8")), 1);
}

TEST(Quantisation, OfAModelWithOutliersLosesLittleInFp8AndMuchInInt8) {
  EXPECT_TRUE(same_bits(trained().plain_logits, trained().outlier_logits));
  OutlierClassifier& model = trained().with_outliers;
  EXPECT_LT(trained().loss(model, in_format("e4m3fn")), 1);
  EXPECT_GE(trained().loss(model, in_format("int8")), 10);
  RecordProperty("fp8", std::to_string(trained().loss(model, in_format("e4m3fn"))));
  RecordProperty("int8", std::to_string(trained().loss(model, in_format("int8"))));
}

TEST(Quantisation, OfAModelWithOutliersInInt8RecoversWithAScaleForEachChannel) {
  OutlierClassifier& model = trained().with_outliers;
  QuantisationOptions options = in_format("int8");
  // Scales of rows save the weights that write to outliers, but not what is read beside them.
  options.per_weight_row = true;
  EXPECT_GE(trained().loss(model, options), 10);
  options.per_input_channel = true;
  EXPECT_LT(trained().loss(model, options), 1);
}

// ------------------------------------------------------------------------------------------ oracle

/// All magnitudes of E4M3, by their definition, in the order of their codes.
std::vector<double> e4m3_magnitudes() {
  std::vector<double> all;
  for (int code = 0; code < 0x7f; ++code) {
    const int exponent = code / 8;
    const int fraction = code % 8;
    all.push_back(exponent == 0 ? std::ldexp(fraction, -9)
                                : std::ldexp(8 + fraction, exponent - 10));
  }
  return all;
}
std::vector<double> int8_magnitudes() {
  std::vector<double> all(128);
  std::iota(all.begin(), all.end(), 0.0);
  return all;
}

/// The nearest of the magnitudes, with the sign of the number; of two the one of the even code.
double nearest(const std::vector<double>& magnitudes, double number) {
  std::size_t best = 0;
  for (std::size_t i = 1; i < magnitudes.size(); ++i) {
    const double before = std::abs(std::abs(number) - magnitudes[best]);
    const double now = std::abs(std::abs(number) - magnitudes[i]);
    if (now < before || (now == before && i % 2 == 0)) best = i;
  }
  return std::copysign(magnitudes[best], number);
}

TEST(Quantisation, OfALinearLayerIsThatOfTheOracle) {
  PlainLinear model;
  const Array<float> seen = normal_array<float>({64, 32}, 7);
  const Array<float> x = normal_array<float>({9, 32}, 8);
  const Calibration calibration = calibration_of(model, seen, {.per_channel = true});
  for (const std::string format : {"e4m3fn", "int8"}) {
    const std::vector<double> magnitudes = format == "int8" ? int8_magnitudes() : e4m3_magnitudes();
    for (const bool per_channel : {false, true}) {
      for (const bool per_row : {false, true}) {
        QuantisationOptions options = in_format(format.c_str());
        options.per_input_channel = per_channel;
        options.per_weight_row = per_row;
        const auto scale_of = [&](const Array<float>& numbers, std::size_t first, std::size_t step,
                                  std::size_t count) {
          float maximum = 0;
          for (std::size_t i = 0; i < count; ++i) {
            maximum = std::max(maximum, std::abs(numbers.data()[first + i * step]));
          }
          return maximum / static_cast<float>(magnitudes.back());
        };
        // The quotient is a float, and so is what is read.
        const auto rounded = [&](float number, float scale) {
          return nearest(magnitudes, static_cast<double>(number / scale)) *
                 static_cast<double>(scale);
        };
        Fp32 tape(TapeMode::inference);
        tape.use_recipe(std::make_shared<Quantisation>(model, calibration, options));
        const Array<float> y = logits_of(model, tape, x);
        for (std::size_t i = 0; i < 9; ++i) {
          for (std::size_t j = 0; j < 4; ++j) {
            double expected = 0;
            double sum_of_magnitudes = 0;
            for (std::size_t k = 0; k < 32; ++k) {
              const float x_scale =
                  per_channel ? scale_of(seen, k, 32, 64) : scale_of(seen, 0, 1, seen.size());
              const float w_scale = per_row ? scale_of(model.weight.value, j * 32, 1, 32)
                                            : scale_of(model.weight.value, 0, 1, 128);
              const double product = rounded(x.data()[i * 32 + k], x_scale) *
                                     rounded(model.weight.value.data()[j * 32 + k], w_scale);
              expected += product;
              sum_of_magnitudes += std::abs(product);
            }
            const auto bias = static_cast<double>(model.bias.value.data()[j]);
            // At most 32 sums, two scales on either side of them, and the bias round, each by half
            // a last place of no more than the sum of all magnitudes.
            const double tolerance = 40 * std::ldexp(sum_of_magnitudes + std::abs(bias), -24);
            EXPECT_NEAR(static_cast<double>(y.data()[i * 4 + j]), expected + bias, tolerance)
                << format << per_channel << per_row;
          }
        }
      }
    }
  }
}

TEST(Quantisation, ScalesAMaximumToTheLargestNumber) {
  const Format e4m3 = Format::parse("e4m3fn");
  const Format int8 = Format::parse("int8");
  constexpr float least = std::numeric_limits<float>::min();
  constexpr float most = std::numeric_limits<float>::max();
  EXPECT_EQ(scale_of_maximum(448, e4m3), 1);
  EXPECT_EQ(scale_of_maximum(7, e4m3), 0x1p-6F);
  EXPECT_EQ(scale_of_maximum(127, int8), 1);
  EXPECT_EQ(scale_of_maximum(1, int8), 1.0F / 127);
  for (const bool power_of_two : {false, true}) {
    EXPECT_EQ(scale_of_maximum(0, e4m3, power_of_two), 1);
    EXPECT_EQ(scale_of_maximum(0x1p-149F, e4m3, power_of_two), least);
    EXPECT_EQ(scale_of_maximum(least, int8, power_of_two), least);
    EXPECT_TRUE(std::isfinite(scale_of_maximum(most, Format::parse("int2"), power_of_two)));
  }
  EXPECT_EQ(scale_of_maximum(448, e4m3, true), 1);
  EXPECT_EQ(scale_of_maximum(std::nextafter(448.0F, most), e4m3, true), 2);
  EXPECT_EQ(scale_of_maximum(std::nextafter(224.0F, most), e4m3, true), 1);
  // By search: the smallest power of two under which the maximum does not saturate.
  const Random random(4);
  for (std::uint64_t i = 0; i < 1000; ++i) {
    const auto maximum = static_cast<float>(std::exp(20 * random.normal(i)));
    for (const Format& format : {e4m3, int8, Format::parse("int3")}) {
      int exponent = -126;
      while (static_cast<double>(maximum) > std::ldexp(format.spec().max_finite(), exponent))
        ++exponent;
      EXPECT_EQ(scale_of_maximum(maximum, format, true), std::ldexp(1.0F, exponent)) << maximum;
    }
  }
}

// --- The rest ---

TEST(Quantisation, LeavesTheModelAsItWas) {
  PlainLinear model;
  const Array<float> x = normal_array<float>({5, 32}, 8);
  const Array<float> weight(model.weight.value.shape(), model.weight.value.span());
  Fp32 tape(TapeMode::inference);
  const Array<float> before = logits_of(model, tape, x);
  tape.clear();
  tape.use_recipe(
      std::make_shared<Quantisation>(model, calibration_of(model, x), in_format("int8")));
  EXPECT_FALSE(same_bits(logits_of(model, tape, x), before));
  tape.clear();
  tape.use_recipe(nullptr);
  EXPECT_TRUE(same_bits(logits_of(model, tape, x), before));
  EXPECT_TRUE(same_bits(model.weight.value, weight));
}

TEST(Quantisation, ReadsTheWeightsThatItMade) {
  PlainLinear model;
  const Array<float> x = normal_array<float>({5, 32}, 8);
  const auto recipe =
      std::make_shared<Quantisation>(model, calibration_of(model, x), in_format("int8"));
  ASSERT_EQ(recipe->weights().size(), 1U);
  const QuantisedWeight& weight = recipe->weights()[0];
  EXPECT_EQ(weight.parameter, "layer.weight");
  EXPECT_FALSE(weight.has_other_uses);
  OperandSite site;
  site.module = "layer";
  site.op = "linear";
  site.role = ops::OperandRole::weight;
  site.argument = 1;
  const auto forms = recipe->operand(site, EncodedArray::view(model.weight.value));
  EXPECT_EQ(forms->array.codes().data(), weight.codes.codes().data());  // the same memory
  EXPECT_TRUE(forms->is_lasting);
  EXPECT_EQ(recipe->sites().at("layer/linear.weight.1").scales,
            std::vector<float>{weight.codes.scale(0)});
}

TEST(Quantisation, RoundsAWeightAnewThatIsWrittenTo) {
  PlainLinear model;
  const Array<float> x = normal_array<float>({5, 32}, 8);
  const Calibration calibration = calibration_of(model, x);
  Fp32 tape(TapeMode::inference);
  tape.use_recipe(std::make_shared<Quantisation>(model, calibration, in_format("int8")));
  const Array<float> before = logits_of(model, tape, x);
  model.weight.value.mutable_data()[40] = 100;
  const Array<float> after = logits_of(model, tape, x);
  EXPECT_FALSE(same_bits(after, before));
  Fp32 other(TapeMode::inference);
  other.use_recipe(std::make_shared<Quantisation>(model, calibration, in_format("int8")));
  EXPECT_TRUE(same_bits(after, logits_of(model, other, x)));
}

TEST(Quantisation, OfWeightsThatAreZeroGivesTheBias) {
  PlainLinear model;
  model.weight.value = Array<float>::filled({4, 32}, -0.0F);
  const Array<float> x = normal_array<float>({3, 32}, 8);
  for (const bool per_row : {false, true}) {
    for (const char* format : {"e4m3fn", "int8"}) {
      QuantisationOptions options = in_format(format);
      options.per_weight_row = per_row;
      const auto recipe = std::make_shared<Quantisation>(model, calibration_of(model, x), options);
      EXPECT_EQ(recipe->weights()[0].codes.scale(0), 1);
      Fp32 tape(TapeMode::inference);
      tape.use_recipe(recipe);
      const Array<float> y = logits_of(model, tape, x);
      for (std::size_t i = 0; i < y.size(); ++i) {
        EXPECT_EQ(y.data()[i], model.bias.value.data()[i % 4]);
      }
    }
  }
}

TEST(Quantisation, HasNoNegativeZeroAmongIntegers) {
  PlainLinear model;
  for (const char* format : {"int8", "int4"}) {
    const Quantisation recipe(model, calibration_of(model, normal_array<float>({3, 32}, 8)),
                              in_format(format));
    const Array<float> numbers = recipe.weights()[0].codes.without_scales().decode();
    bool has_zero = false;
    for (const float number : numbers.span()) {
      EXPECT_FALSE(number == 0 && std::signbit(number));
      has_zero |= number == 0;
    }
    EXPECT_TRUE(has_zero);
  }
}

TEST(Quantisation, TakesInputsOfZerosAndSaturatesOthers) {
  PlainLinear model;
  const auto zeros = Array<float>::filled({2, 32}, 0);
  const auto recipe = std::make_shared<Quantisation>(
      model, calibration_of(model, zeros, {.per_channel = true}), in_format("int8"));
  EXPECT_EQ(recipe->input_scales().at("layer/linear.input.0"), std::vector<float>{1});
  OperandSite site;
  site.module = "layer";
  site.op = "linear";
  const Array<float> x({4}, {1000, -1e30F, -3.4F, std::numeric_limits<float>::infinity()});
  const Array<float> read = recipe->operand(site, EncodedArray::view(x))->array.decode();
  EXPECT_EQ(std::vector<float>(read.span().begin(), read.span().end()),
            (std::vector<float>{127, -127, -3, 127}));
}

TEST(Quantisation, LeavesGradientsToThePolicy) {
  PlainLinear model;
  const Array<float> x = normal_array<float>({3, 32}, 8);
  Quantisation recipe(model, calibration_of(model, x), in_format("int8"));
  OperandSite site;
  site.role = ops::OperandRole::gradient;
  EXPECT_FALSE(recipe.operand(site, EncodedArray::view(x)));
  Fp32 tape;
  tape.use_recipe(std::make_shared<Quantisation>(recipe));
  tape.backward(
      ops::mse_loss(model(tape.constant(x)), tape.constant(normal_array<float>({3, 4}, 1))));
  EXPECT_EQ(tape.gradient(model.weight).shape(), (Shape{4, 32}));
}

TEST(Quantisation, RefusesAnInputThatWasNotCalibratedByName) {
  PlainLinear model;
  Calibration calibration = calibration_of(model, normal_array<float>({3, 32}, 8));
  calibration.inputs.clear();
  Fp32 tape(TapeMode::inference);
  tape.use_recipe(std::make_shared<Quantisation>(model, calibration));
  expect_domain_error(
      [&] {
        (void)logits_of(model, tape, normal_array<float>({3, 32}, 8));
      },
      {"'layer/linear.input.0'", "not calibrated"});
}

TEST(Quantisation, RefusesWhatItCannotScaleByName) {
  PlainLinear model;
  const Array<float> x = normal_array<float>({3, 32}, 8);
  const Calibration calibration = calibration_of(model, x);
  expect_domain_error([&] { (void)Quantisation(model, calibration, {.per_input_channel = true}); },
                      {"channels", "'layer/linear.input.0'", "CalibrationOptions::per_channel"});
  expect_domain_error([&] { (void)Quantisation(model, calibration, in_format("float32")); },
                      {"at most 16 bits", "float32"});
  expect_domain_error([&] { (void)Quantisation(model, calibration, in_format("e8m0fnu")); },
                      {"sign", "float8_e8m0fnu"});
  for (const float bad : {0.0F, -1.0F, HUGE_VALF, std::nanf("")}) {
    expect_domain_error(
        [&] {
          (void)Quantisation({}, {{"a/b.input.0", {bad}}}, {});
        },
        {"positive, finite", "'a/b.input.0'"});
  }
  expect_domain_error(
      [&] {
        (void)Quantisation({}, {{"a/b.input.0", {1, 2}}}, {});
      },
      {"one scale", "'a/b.input.0'", "got 2"});
  PlainLinear renamed;
  renamed.weight.name = "other.weight";
  expect_domain_error([&] { (void)Quantisation(renamed, calibration); }, {"'layer.weight'"});
  model.weight.value.mutable_data()[3] = std::nanf("");
  expect_domain_error([&] { (void)Quantisation(model, calibration); },
                      {"'layer.weight'", "infinite or NaN"});
}

TEST(Quantisation, RefusesAnotherNumberOfChannels) {
  PlainLinear model;
  const Calibration calibration =
      calibration_of(model, normal_array<float>({3, 32}, 8), {.per_channel = true});
  Quantisation recipe(model, calibration, {.per_input_channel = true});
  OperandSite site;
  site.module = "layer";
  site.op = "linear";
  expect_shape_error(
      [&] {
        (void)recipe.operand(site, EncodedArray::view(normal_array<float>({3, 31}, 8)));
      },
      {"32 channels", "'layer/linear.input.0'"});
}

}  // namespace quantisation_test
