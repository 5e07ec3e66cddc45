// SPDX-License-Identifier: MIT
#include "unit_scaling/recipes/calibration.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "recipes/quantised_models.hpp"
#include "support/errors.hpp"
#include "support/random_arrays.hpp"
#include "unit_scaling/autograd/parameter.hpp"
#include "unit_scaling/autograd/tape.hpp"
#include "unit_scaling/core/array.hpp"
#include "unit_scaling/formats/precision.hpp"
#include "unit_scaling/ops/embedding.hpp"
#include "unit_scaling/ops/linear.hpp"
#include "unit_scaling/ops/matmul.hpp"

namespace calibration_test {

using namespace unit_scaling;
using namespace unit_scaling_test;
using Fp32 = Tape<precision::fp32>;

TEST(Calibration, HasTheLargestMagnitudesOfAllBatches) {
  PlainLinear model;
  Array<float> first = Array<float>::filled({2, 32}, 0.5F);
  Array<float> second = Array<float>::filled({3, 32}, -0.25F);
  first.mutable_data()[7] = -9;
  second.mutable_data()[40] = 4;
  Fp32 tape(TapeMode::inference);
  const Array<float> batches[] = {first, second};
  const Calibration calibration =
      calibrate(tape, 2, [&](std::size_t i) { (void)model(tape.constant(batches[i])); },
                {.per_channel = true});
  ASSERT_EQ(calibration.inputs.size(), 1U);
  const CalibratedInput& input = calibration.inputs.at("layer/linear.input.0");
  EXPECT_EQ(input.maximum, 9);
  std::vector<float> channels(32, 0.5F);
  channels[7] = 9;
  channels[8] = 4;
  EXPECT_EQ(input.channel_maxima, channels);
  // The tape computes as it did before.
  EXPECT_FALSE(tape.is_observed());
  EXPECT_TRUE(
      calibration_of(model, first).inputs.at("layer/linear.input.0").channel_maxima.empty());
}

TEST(Calibration, KnowsWhichParametersAreWeightsAndWhichAreReadElsewhere) {
  // A table that is looked up in and also multiplied with, in two batches.
  const Parameter table{.name = "table", .value = normal_array<float>({8, 4}, 1)};
  const Parameter weight{.name = "weight", .value = normal_array<float>({4, 4}, 2)};
  const Parameter bias{.name = "bias", .value = normal_array<float>({4}, 3)};
  const Array<std::int32_t> ids({3}, {1, 7, 0});
  Fp32 tape(TapeMode::inference);
  const Calibration calibration = calibrate(tape, 2, [&](std::size_t) {
    const auto x = ops::embedding(ids, tape.parameter(table));
    (void)ops::linear(ops::linear(x, weight, bias), table);
  });
  ASSERT_EQ(calibration.parameters.size(), 3U);
  const auto uses_of = [&](const char* name) {
    const ParameterUses& uses = calibration.parameters.at(name);
    return std::pair(uses.is_weight, uses.has_other_uses);
  };
  EXPECT_EQ(uses_of("table"), std::pair(true, true));
  EXPECT_EQ(uses_of("weight"), std::pair(true, false));
  EXPECT_EQ(uses_of("bias"), std::pair(false, true));
}

TEST(Calibration, RefusesNumbersThatAreNotFiniteByName) {
  PlainLinear model;
  for (const float bad : {HUGE_VALF, -HUGE_VALF, std::nanf("")}) {
    Array<float> x = normal_array<float>({3, 32}, 8);
    x.mutable_data()[5] = bad;
    Fp32 tape(TapeMode::inference);
    expect_domain_error(
        [&] { (void)calibrate(tape, 1, [&](std::size_t) { (void)model(tape.constant(x)); }); },
        {"calibrate", "'layer/linear.input.0'", "infinite or NaN"});
    EXPECT_FALSE(tape.is_observed());
  }
}

TEST(Calibration, SeesBothInputsOfAProductOfTwo) {
  Fp32 tape(TapeMode::inference);
  const Calibration calibration = calibrate(tape, 1, [&](std::size_t) {
    (void)ops::matmul(tape.constant(Array<float>::filled({2, 3}, 2)),
                      tape.constant(Array<float>::filled({3, 1}, -5)));
  });
  EXPECT_EQ(calibration.inputs.at("/matmul.input.0").maximum, 2);
  EXPECT_EQ(calibration.inputs.at("/matmul.input.1").maximum, 5);
  EXPECT_TRUE(calibration.parameters.empty());
}

}  // namespace calibration_test
