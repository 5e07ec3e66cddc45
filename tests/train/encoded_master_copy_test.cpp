// SPDX-License-Identifier: MIT
// Models whose master copies are codes (Parameter::encoded), from the first step to a checkpoint.
#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <limits>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "support/errors.hpp"
#include "support/temporary_folder.hpp"
#include "unit_scaling/analysis/gradient_constants.hpp"
#include "unit_scaling/analysis/tracker.hpp"
#include "unit_scaling/autograd/recipe.hpp"
#include "unit_scaling/autograd/tape.hpp"
#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/random.hpp"
#include "unit_scaling/nn/initialiser.hpp"
#include "unit_scaling/nn/transformer_decoder.hpp"
#include "unit_scaling/ops/matmul.hpp"
#include "unit_scaling/ops/mse_loss.hpp"
#include "unit_scaling/optim/adam.hpp"
#include "unit_scaling/optim/encoded_gradients.hpp"
#include "unit_scaling/optim/low_precision_states.hpp"
#include "unit_scaling/recipes/calibration.hpp"
#include "unit_scaling/recipes/quantisation.hpp"
#include "unit_scaling/train/checkpoint.hpp"

namespace encoded_master_copy_test {

using namespace unit_scaling;
using unit_scaling_test::expect_domain_error;

constexpr std::size_t vocabulary = 11;

struct Model {
  nn::Initialiser initialiser{7};
  nn::TransformerDecoder decoder{
      initialiser,
      vocabulary,
      {.hidden_size = 12, .context_length = 8, .heads = 2, .rotary_base = 10000.0}};
  std::vector<Parameter*> parameters = optim::parameters_of(decoder);
};

Array<std::int32_t> ids_of(std::size_t step) {
  Array<std::int32_t> ids({3, 6});
  const Random random(5, RandomStream::batch, step);
  for (std::size_t i = 0; i < ids.size(); ++i) {
    ids.mutable_data()[i] = static_cast<std::int32_t>(random.uniform(i) * vocabulary);
  }
  return ids;
}

/// As FP8-LM trains, but for the workers.
struct Training : Model {
  optim::Adam adam{parameters, optim::with_fp8_lm_states({})};
  optim::EncodedGradients gradients{parameters};
  Tape<precision::fp8> tape;

  float step() {
    tape.clear();
    const auto loss = decoder.next_token_loss(tape, ids_of(adam.steps()));
    tape.backward(loss);
    gradients.take(tape);
    adam.step(gradients, 0.01, gradients.factor());
    return *loss.value().data();
  }

  template <class Visitor> void for_each_state(const Visitor& visit) {
    visit("decoder", decoder);
    visit("adam", adam);
    visit("gradients", gradients);
    visit("tape", tape);
  }
};

template <class P> class EncodedMasterCopyIn : public testing::Test {};
using Policies = testing::Types<precision::fp64, precision::fp32, precision::bf16, precision::fp8>;
TYPED_TEST_SUITE(EncodedMasterCopyIn, Policies);

TYPED_TEST(EncodedMasterCopyIn, GivesTheBitsOfTheSameNumbersInFloats) {
  using P = TypeParam;
  Model encoded;
  optim::Adam adam(encoded.parameters, optim::with_fp8_lm_states({}));
  Model floats;
  Tape<P> tape_of_encoded;
  Tape<P> tape_of_floats;
  for (std::size_t step = 0; step < 3; ++step) {
    for (std::size_t k = 0; k < floats.parameters.size(); ++k) {
      ASSERT_TRUE(encoded.parameters[k]->is_encoded());
      floats.parameters[k]->value = encoded.parameters[k]->floats();
    }
    tape_of_encoded.clear();
    tape_of_floats.clear();
    const auto loss = encoded.decoder.next_token_loss(tape_of_encoded, ids_of(step));
    const auto expected = floats.decoder.next_token_loss(tape_of_floats, ids_of(step));
    EXPECT_EQ(loss.value(), expected.value());
    tape_of_encoded.backward(loss);
    tape_of_floats.backward(expected);
    for (std::size_t k = 0; k < floats.parameters.size(); ++k) {
      EXPECT_EQ(tape_of_encoded.gradient(*encoded.parameters[k]),
                tape_of_floats.gradient(*floats.parameters[k]))
          << floats.parameters[k]->name;
    }
    if constexpr (!std::is_same_v<P, precision::fp64>) adam.step(tape_of_encoded, 0.01);
  }
}

/// Counts the operands of weights that it is asked for.
class Counter final : public Recipe {
 public:
  std::optional<OperandForms> operand(const OperandSite& site, const EncodedArray&) override {
    if (site.role == ops::OperandRole::weight) ++weights;
    return {};
  }
  std::size_t weights = 0;
};

TEST(EncodedMasterCopy, IsRoundedOnceForAllMicroBatchesAndAnewAfterAStep) {
  Training training;
  const auto counter = std::make_shared<Counter>();
  training.tape.use_recipe(counter);
  training.step();
  const std::size_t once = counter->weights;
  ASSERT_GT(once, 0U);
  const auto micro_batch = [&](std::size_t number) {
    training.tape.clear();
    training.tape.backward(training.decoder.next_token_loss(training.tape, ids_of(number)));
  };
  for (std::size_t number = 0; number < 3; ++number) micro_batch(number);
  EXPECT_EQ(counter->weights, 2 * once);
}

TEST(EncodedMasterCopy, IsDecodedOnceForAllWhoHoldItsNumbers) {
  Parameter parameter{"w", Array<float>::filled({64, 64}, 0.5F), ParameterKind::weight};
  const optim::Adam adam({&parameter}, optim::with_fp8_lm_states({}));
  Tape<precision::fp32> tape;
  auto x = tape.input(Array<float>::filled({2, 64}, 1));
  for (int use = 0; use < 10; ++use) x = ops::matmul(x, tape.parameter(parameter));
  // The weight once, and ten inputs.
  EXPECT_EQ(tape.saved_bytes(), (64 * 64 + 10 * 2 * 64) * sizeof(float));
}

TEST(EncodedMasterCopy, IsRoundedAnewWhenItsScaleAloneIsWritten) {
  Parameter parameter{"w", Array<float>::filled({64, 64}, 0.5F), ParameterKind::weight};
  const optim::Adam adam({&parameter}, optim::with_fp8_lm_states({}));
  Tape<precision::fp8> tape(TapeMode::inference);
  const auto product = [&] {
    tape.clear();
    const auto x = tape.constant(Array<float>::filled({2, 64}, 1));
    return static_cast<float>(ops::matmul(x, tape.parameter(parameter)).value().data()[0]);
  };
  const float before = product();
  EXPECT_EQ(product(), before);
  const float twice = 2 * parameter.encoded->codes.scale(0);
  parameter.encoded->codes = parameter.encoded->codes.with_scale(ScaleFormat::binary32, twice);
  EXPECT_EQ(product(), 2 * before);
}

TEST(EncodedMasterCopy, OfACopyOfAParameterIsItsOwn) {
  Parameter parameter{"w", Array<float>::filled({3, 5}, 0.5F), ParameterKind::weight};
  optim::Adam adam({&parameter}, optim::with_fp8_lm_states({}));
  const Parameter copy = parameter;
  Tape<precision::fp32> tape;
  tape.backward(
      ops::mse_loss(tape.parameter(parameter), tape.constant(Array<float>::filled({3, 5}, 1))));
  adam.step(tape, 0.1);
  EXPECT_EQ(copy.floats(), (Array<float>::filled({3, 5}, 0.5F)));
  EXPECT_NE(parameter.floats(), copy.floats());
}

TEST(EncodedMasterCopy, KeepsWhatIsNotFiniteZerosAndTinyNumbers) {
  const float infinity = std::numeric_limits<float>::infinity();
  const std::vector<float> numbers{0.0F, -0.0F, 1.0F, infinity, -infinity, std::nanf(""), 0x1p-30F};
  Parameter parameter{"w", Array<float>({7}, numbers), ParameterKind::weight};
  const optim::Adam adam({&parameter}, optim::with_fp8_lm_states({}));
  const Array<float> actual = parameter.floats();
  for (std::size_t i = 0; i < 5; ++i) {
    EXPECT_EQ(actual.data()[i], numbers[i]);
    EXPECT_EQ(std::signbit(actual.data()[i]), std::signbit(numbers[i]));
  }
  EXPECT_TRUE(std::isnan(actual.data()[5]));
  EXPECT_EQ(actual.data()[6], 0x1p-30F) << "2^-30 is normal under the scale of 1";
  Parameter empty{"w", Array<float>(Shape{3, 0}), ParameterKind::weight};
  const optim::Adam of_empty({&empty}, optim::with_fp8_lm_states({}));
  Tape<precision::fp8> tape;
  EXPECT_EQ(tape.parameter(empty).shape(), (Shape{3, 0}));
}

TEST(EncodedMasterCopy, HasGradientConstantsAsFloatsDo) {
  Parameter parameter{"w", Array<float>({3}, {0.5F, 1, -2}), ParameterKind::weight};
  const auto constant = [&] {
    Parameter* const parameters[] = {&parameter};
    const auto record = [&](Tape<precision::fp64>& tape) {
      return ops::mse_loss(tape.parameter(parameter), tape.constant(Array<double>::filled({3}, 1)));
    };
    return analysis::gradient_constants(record, parameters).at(0).constant;
  };
  const double expected = constant();
  const optim::Adam adam({&parameter}, optim::with_fp8_lm_states({}));
  EXPECT_NEAR(constant(), expected, 1e-6 * expected);
  EXPECT_TRUE(parameter.is_encoded());
}

TEST(EncodedMasterCopy, LearnsAndResumesToTheSameBits) {
  const unit_scaling_test::TemporaryFolder folder;
  const std::string file = folder.path() / "training.safetensors";
  Training unbroken;
  const float first = unbroken.step();
  for (int i = 1; i < 20; ++i) unbroken.step();
  train::save_state(file, unbroken);
  for (int i = 0; i < 20; ++i) unbroken.step();
  Training resumed;
  train::load_state(file, resumed);
  for (int i = 0; i < 20; ++i) resumed.step();
  const float last = unbroken.step();
  EXPECT_LT(last, first);
  EXPECT_EQ(resumed.step(), last);
  for (std::size_t k = 0; k < resumed.parameters.size(); ++k) {
    EXPECT_EQ(resumed.parameters[k]->encoded->codes, unbroken.parameters[k]->encoded->codes);
  }
}

TEST(EncodedMasterCopy, IsLoadedByAModelOfCodesAndRefusedByOneOfFloats) {
  const unit_scaling_test::TemporaryFolder folder;
  const std::string file = folder.path() / "training.safetensors";
  Training training;
  train::save_state(file, training);
  Model floats;
  Model encoded;
  optim::with_fp8_lm_states({}).master_weights->encode_master_weights(encoded.parameters);
  train::load_part(file, [&](const auto& visit) { visit("decoder", encoded.decoder); });
  EXPECT_EQ(encoded.parameters[0]->floats(), training.parameters[0]->floats());
  try {
    train::load_part(file, [&](const auto& visit) { visit("decoder", floats.decoder); });
    FAIL() << "nothing was refused";
  } catch (const std::exception& error) {
    EXPECT_NE(std::string(error.what()).find(training.parameters[0]->name), std::string::npos)
        << error.what();
  }
}

TEST(EncodedMasterCopy, IsReadInTheMiddleOfAStepOnlyIfItStaysAsItIs) {
  Training training;
  training.tape.clear();
  const Variable<precision::fp8, float> before = training.tape.parameter(*training.parameters[0]);
  EXPECT_EQ(before.value(), training.parameters[0]->floats());
  Parameter& parameter = *training.parameters[0];
  EXPECT_NO_THROW((void)training.tape.parameter(parameter));
  parameter.encoded->codes.mutable_codes()[0] ^= 1U;
  EXPECT_THROW((void)training.tape.parameter(parameter), std::invalid_argument);
  training.tape.clear();
  EXPECT_NO_THROW((void)training.tape.parameter(parameter));
  const float twice = 2 * parameter.encoded->codes.scale(0);
  std::memcpy(parameter.encoded->codes.mutable_scale_codes().data(), &twice, sizeof(twice));
  EXPECT_THROW((void)training.tape.parameter(parameter), std::invalid_argument);
  training.tape.clear();
  EXPECT_NO_THROW((void)training.tape.parameter(parameter));
  // In memory of its own, as the parameter outlives the tape.
  parameter.value = Array<float>(before.shape(), before.value().span());
  EXPECT_THROW((void)training.tape.parameter(parameter), std::invalid_argument);
}

TEST(EncodedMasterCopy, IsTrackedAsTheNumbersThatItStandsFor) {
  Training training;
  analysis::Tracker tracker;
  tracker.attach(training.tape);
  const Array<float> before = training.parameters[0]->floats();
  training.tape.clear();
  training.tape.backward(training.decoder.next_token_loss(training.tape, ids_of(0)));
  training.adam.step(training.tape, 0.01);
  tracker.record_updates(training.parameters);
  const Array<float> after = training.parameters[0]->floats();
  double squares = 0;
  for (std::size_t i = 0; i < before.size(); ++i) {
    const auto update = static_cast<double>(after.data()[i] - before.data()[i]);
    squares += update * update;
  }
  const double expected = std::sqrt(squares / static_cast<double>(before.size()));
  bool is_found = false;
  for (const analysis::TrackedTensor& tensor : tracker.tensors()) {
    if (tensor.name != "update of " + training.parameters[0]->name) continue;
    is_found = true;
    EXPECT_NEAR(tensor.samples.at(0).statistics.rms, expected, 1e-6 * expected);
  }
  EXPECT_TRUE(is_found);
}

TEST(EncodedMasterCopy, IsRefusedByQuantisationByName) {
  Training training;
  Tape<precision::fp32> tape(TapeMode::inference);
  const Calibration calibration = calibrate(
      tape, 1, [&](std::size_t i) { (void)training.decoder.next_token_loss(tape, ids_of(i)); });
  expect_domain_error([&] { const Quantisation quantisation(training.decoder, calibration); },
                      {"floats", "float16"});
}

}  // namespace encoded_master_copy_test
