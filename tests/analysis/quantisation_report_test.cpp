// SPDX-License-Identifier: MIT
#include "unit_scaling/analysis/quantisation_report.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "recipes/quantised_models.hpp"
#include "support/errors.hpp"
#include "support/random_arrays.hpp"
#include "unit_scaling/autograd/parameter.hpp"
#include "unit_scaling/autograd/tape.hpp"
#include "unit_scaling/autograd/variable.hpp"
#include "unit_scaling/core/array.hpp"
#include "unit_scaling/formats/format.hpp"
#include "unit_scaling/formats/precision.hpp"
#include "unit_scaling/ops/linear.hpp"
#include "unit_scaling/recipes/calibration.hpp"
#include "unit_scaling/recipes/quantisation.hpp"
#include "unit_scaling/scaling/rule.hpp"

namespace quantisation_report_test {

using namespace unit_scaling;
using namespace unit_scaling_test;
using namespace unit_scaling::analysis;
using Fp32 = Tape<precision::fp32>;

constexpr double infinity = std::numeric_limits<double>::infinity();

/// A product whose numbers are known: w has integers up to 127 in its rows, or half of them.
struct Known {
  Parameter weight{.name = "w", .value = Array<float>({2, 4}, {127, 0, 1, 0, 0, 63.5, 0, 1})};

  template <Precision P> [[nodiscard]] Variable<P> operator()(const Variable<P>& x) const {
    const auto module = x.tape().enter("known");
    return ops::linear(x, weight, ops::Linear{.scaling = scaling::none});
  }
  template <class Visitor> void for_each_parameter(const Visitor& visit) { visit(weight); }
};

double decibels(double signal, double noise) { return 10 * std::log10(signal / noise); }

TEST(QuantisationReport, CountsAndMeasuresEachOperandAndWhatIsWritten) {
  Known model;
  const Array<float> calibrated({1, 4}, {127, 0, 0, 0});
  const QuantisationOptions int8{.inputs = Format::parse("int8"), .weights = Format::parse("int8")};
  const auto recipe =
      std::make_shared<Quantisation>(model, calibration_of(model, calibrated), int8);
  // Scales are 1. Of x, 200 becomes 127 and 0.25 becomes 0; of w, 63.5 becomes 64.
  const Array<float> x({1, 4}, {200, 0.25, 5, 0});
  Fp32 tape(TapeMode::inference);
  const auto layers =
      quantisation_report(tape, recipe, 1, [&](std::size_t) { (void)model(tape.constant(x)); });
  ASSERT_EQ(layers.size(), 1U);
  EXPECT_EQ(layers[0].module, "known");
  EXPECT_EQ(layers[0].op, "linear");
  ASSERT_EQ(layers[0].operands.size(), 2U);
  const QuantisedOperand& input = layers[0].operands[0];
  EXPECT_EQ(input.role, ops::OperandRole::input);
  EXPECT_EQ(input.format, Format::parse("int8"));
  EXPECT_EQ(input.smallest_scale, 1);
  EXPECT_EQ(input.elements, 4U);
  EXPECT_EQ(input.at_largest, 1U);
  EXPECT_EQ(input.underflowed, 1U);
  EXPECT_DOUBLE_EQ(input.share(input.at_largest), 0.25);
  EXPECT_DOUBLE_EQ(input.noise.decibels(), decibels(200 * 200 + 0.0625 + 25, 73 * 73 + 0.0625));
  const QuantisedOperand& weight = layers[0].operands[1];
  EXPECT_EQ(weight.role, ops::OperandRole::weight);
  EXPECT_EQ(weight.argument, 1U);
  EXPECT_EQ(weight.at_largest, 1U);
  EXPECT_EQ(weight.underflowed, 0U);
  EXPECT_DOUBLE_EQ(weight.noise.decibels(), decibels(127 * 127 + 2 + 63.5 * 63.5, 0.25));
  // y is (200 · 127 + 5, 0.25 · 63.5), and quantised (127 · 127 + 5, 0).
  const double small = 0.25 * 63.5;
  EXPECT_DOUBLE_EQ(layers[0].output.decibels(),
                   decibels(25405.0 * 25405.0 + small * small, 9271.0 * 9271.0 + small * small));
  // The tape computes as it did before.
  EXPECT_FALSE(tape.is_observed());
  const std::string text = to_text(layers);
  for (const char* part : {"module", "known", "linear", "input 0", "weight 1", "output", "int8",
                           "25 %", "12.5 %", "8.76", "SNR (dB)"}) {
    EXPECT_NE(text.find(part), std::string::npos) << part << "\n" << text;
  }
}

TEST(QuantisationReport, OfScalesOfRowsAndChannelsCountsEachUnderItsOwn) {
  Known model;
  const Array<float> calibrated({1, 4}, {127, 254, 1, 0});
  const QuantisationOptions options{.inputs = Format::parse("int8"),
                                    .weights = Format::parse("int8"),
                                    .per_input_channel = true,
                                    .per_weight_row = true};
  const auto recipe = std::make_shared<Quantisation>(
      model, calibration_of(model, calibrated, {.per_channel = true}), options);
  Fp32 tape(TapeMode::inference);
  // Channel 1 saturates in the second row only, and underflows in the first.
  const Array<float> x({2, 4}, {0, 0.5, 0, 0, 126, 300, 0.5, 0});
  const auto layers =
      quantisation_report(tape, recipe, 1, [&](std::size_t) { (void)model(tape.constant(x)); });
  const QuantisedOperand& input = layers[0].operands[0];
  EXPECT_EQ(input.scales, 4U);
  EXPECT_EQ(input.smallest_scale, 1.0F / 127);
  EXPECT_EQ(input.largest_scale, 2);
  EXPECT_EQ(input.at_largest, 1U);
  EXPECT_EQ(input.underflowed, 1U);
  const QuantisedOperand& weight = layers[0].operands[1];
  EXPECT_EQ(weight.scales, 2U);
  EXPECT_EQ(weight.smallest_scale, 0.5F);
  EXPECT_EQ(weight.largest_scale, 1);
  EXPECT_EQ(weight.at_largest, 2U);
  EXPECT_EQ(weight.noise.decibels(), infinity);
  EXPECT_NE(to_text(layers).find("0.5 to 1"), std::string::npos);
}

TEST(QuantisationReport, AddsBatchesUpAndHasLayersInTheirOrder) {
  OutlierClassifier model;
  const Array<float> batches[] = {LabelledPoints(30, 1).points, LabelledPoints(20, 2).points};
  const auto recipe = std::make_shared<Quantisation>(model, calibration_of(model, batches[0]));
  Fp32 tape(TapeMode::inference);
  const auto layers = quantisation_report(
      tape, recipe, 2, [&](std::size_t i) { (void)model(tape.constant(batches[i])); });
  ASSERT_EQ(layers.size(), 2U);
  EXPECT_EQ(layers[0].module, "up");
  EXPECT_EQ(layers[1].module, "down");
  EXPECT_EQ(layers[0].operands[0].elements, 50U * 16U);
  EXPECT_EQ(layers[1].operands[0].elements, 50U * 128U);
  // E4M3 has three bits of fraction, so noise is around a thirtieth of a number.
  for (const QuantisedLayer& layer : layers) {
    for (const QuantisedOperand& operand : layer.operands) {
      EXPECT_GT(operand.noise.decibels(), 26);
      EXPECT_LT(operand.noise.decibels(), 40);
    }
    EXPECT_GT(layer.output.decibels(), 20);
    EXPECT_LT(layer.output.decibels(), 40);
  }
}

TEST(QuantisationReport, ShowsWhichLayerOutliersHarmInInt8) {
  OutlierClassifier model;
  const Array<float> x = LabelledPoints(50, 1).points;
  const QuantisationOptions int8{
      .inputs = Format::parse("int8"), .weights = Format::parse("int8"), .per_weight_row = true};
  const auto output_of_down = [&] {
    const auto recipe = std::make_shared<Quantisation>(model, calibration_of(model, x), int8);
    Fp32 tape(TapeMode::inference);
    return quantisation_report(tape, recipe, 1,
                               [&](std::size_t) { (void)model(tape.constant(x)); })[1]
        .output.decibels();
  };
  const double before = output_of_down();
  model.inject(3, 128);
  EXPECT_LT(output_of_down(), before - 20);
}

TEST(QuantisationReport, RefusesOtherOpsTheSecondTime) {
  Known model;
  const Array<float> x({1, 4}, {1, 2, 3, 4});
  const auto recipe = std::make_shared<Quantisation>(model, calibration_of(model, x));
  Fp32 tape(TapeMode::inference);
  for (const int first : {1, 2}) {
    int calls = first;
    expect_error<std::invalid_argument>(
        [&] {
          (void)quantisation_report(tape, recipe, 1, [&](std::size_t) {
            for (int i = 0; i < calls; ++i) (void)model(tape.constant(x));
            calls = 3 - calls;
          });
        },
        {"quantisation_report", "the same ops"});
    EXPECT_FALSE(tape.is_observed());
  }
}

}  // namespace quantisation_report_test
