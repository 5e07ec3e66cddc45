// SPDX-License-Identifier: MIT
#include "unit_scaling/train/quantised_weights.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <initializer_list>
#include <ios>
#include <iterator>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "recipes/quantised_models.hpp"
#include "support/errors.hpp"
#include "support/random_arrays.hpp"
#include "support/temporary_folder.hpp"
#include "unit_scaling/autograd/parameter.hpp"
#include "unit_scaling/autograd/tape.hpp"
#include "unit_scaling/autograd/variable.hpp"
#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/file_error.hpp"
#include "unit_scaling/formats/catalogue.hpp"
#include "unit_scaling/formats/format.hpp"
#include "unit_scaling/formats/precision.hpp"
#include "unit_scaling/nn/initialiser.hpp"
#include "unit_scaling/nn/transformer_decoder.hpp"
#include "unit_scaling/ops/add.hpp"
#include "unit_scaling/ops/embedding.hpp"
#include "unit_scaling/ops/linear.hpp"
#include "unit_scaling/recipes/calibration.hpp"
#include "unit_scaling/recipes/quantisation.hpp"
#include "unit_scaling/train/safetensors.hpp"

namespace quantised_weights_test {

using namespace unit_scaling;
using namespace unit_scaling_test;
using train::SafetensorsFile;
using train::SafetensorsWriter;
using Fp32 = Tape<precision::fp32>;

bool same_bits(const Array<float>& a, const Array<float>& b) {
  return a.shape() == b.shape() && std::memcmp(a.data(), b.data(), a.bytes()) == 0;
}

std::string bytes_of(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// A product with a table of a sum with what is looked up in the same table, and another product.
struct Tied {
  Parameter table{.name = "table", .value = normal_array<float>({8, 32}, 11)};
  Parameter head{.name = "head.weight", .value = normal_array<float>({3, 8}, 12)};

  template <Precision P> [[nodiscard]] Variable<P> operator()(const Variable<P>& x) const {
    const Array<std::int32_t> ids({6}, {1, 7, 0, 7, 2, 2});
    const auto sum = ops::add(x, ops::embedding(ids, x.tape().parameter(table)));
    return ops::linear(ops::linear(sum, table), head);
  }
  template <class Visitor> void for_each_parameter(const Visitor& visit) {
    visit(table);
    visit(head);
  }
};

QuantisationOptions options_of(const char* inputs, const char* weights, bool per_channel,
                               bool per_row, bool power_of_two = false) {
  return {.inputs = Format::parse(inputs),
          .weights = Format::parse(weights),
          .per_input_channel = per_channel,
          .per_weight_row = per_row,
          .power_of_two_scales = power_of_two};
}

TEST(QuantisedWeights, OfAFileComputeWhatTheQuantisedModelComputes) {
  const TemporaryFolder folder;
  const auto path = folder.path() / "model.safetensors";
  OutlierClassifier model;
  model.train();
  model.inject(3, 128);
  const Array<float> points = LabelledPoints(200, 5).points;
  const Calibration calibration = calibration_of(model, points, {.per_channel = true});
  for (const QuantisationOptions& options :
       {options_of("e4m3fn", "e4m3fn", false, false), options_of("int8", "int8", false, false),
        options_of("int8", "int8", true, true), options_of("e4m3fn", "int8", false, true, true),
        options_of("e5m2", "int4", false, true),
        options_of("e3m4", "float4_e2m1fn", true, false)}) {
    const auto recipe = std::make_shared<Quantisation>(model, calibration, options);
    train::save_quantised(path, model, *recipe, {{"note", "kept"}});
    Fp32 tape(TapeMode::inference);
    tape.use_recipe(recipe);
    const Array<float> expected = logits_of(model, tape, points);

    OutlierClassifier loaded;
    const auto loaded_recipe = train::load_quantised(path, loaded);
    EXPECT_EQ(loaded_recipe->options().inputs, options.inputs);
    EXPECT_EQ(loaded_recipe->options().weights, options.weights);
    EXPECT_EQ(loaded_recipe->options().per_input_channel, options.per_input_channel);
    EXPECT_EQ(loaded_recipe->options().per_weight_row, options.per_weight_row);
    for (std::size_t i = 0; i < 2; ++i) {
      EXPECT_EQ(loaded_recipe->weights()[i].codes, recipe->weights()[i].codes);
    }
    Fp32 other(TapeMode::inference);
    other.use_recipe(loaded_recipe);
    EXPECT_TRUE(same_bits(logits_of(loaded, other, points), expected))
        << to_string(options.weights);
    // Under no recipe it is another one, so the test would see if it were used.
    other.clear();
    other.use_recipe(nullptr);
    EXPECT_FALSE(same_bits(logits_of(loaded, other, points), expected));

    const auto again = folder.path() / "again.safetensors";
    train::save_quantised(again, loaded, *loaded_recipe, {{"note", "kept"}});
    EXPECT_EQ(bytes_of(again), bytes_of(path));
    EXPECT_EQ(SafetensorsFile(path).metadata().at("note"), "kept");
  }
}

// A tape that stores narrower numbers sees the same quantised weights, as they are made of the
// floats of the parameters.
template <class P> void expect_same_bits_of_a_file_under() {
  const TemporaryFolder folder;
  const auto path = folder.path() / "model.safetensors";
  OutlierClassifier model;
  model.train();
  const Array<float> points = LabelledPoints(50, 5).points;
  const auto recipe = std::make_shared<Quantisation>(model, calibration_of(model, points, {}),
                                                     options_of("e4m3fn", "int8", false, true));
  train::save_quantised(path, model, *recipe);
  const auto logits = [&](const OutlierClassifier& of, const std::shared_ptr<Quantisation>& under) {
    Tape<P> tape(TapeMode::inference);
    tape.use_recipe(under);
    const auto y = of(tape.constant(points));
    std::vector<float> numbers;
    for (const auto each : y.value().span()) numbers.push_back(static_cast<float>(each));
    return numbers;
  };
  OutlierClassifier loaded;
  const auto loaded_recipe = train::load_quantised(path, loaded);
  EXPECT_EQ(logits(loaded, loaded_recipe), logits(model, recipe)) << P::name;
}

TEST(QuantisedWeights, OfAFileComputeTheSameUnderEveryPrecision) {
  expect_same_bits_of_a_file_under<precision::fp16>();
  expect_same_bits_of_a_file_under<precision::bf16>();
  expect_same_bits_of_a_file_under<precision::fp8>();
}

TEST(QuantisedWeights, StandInAFileInTheirOwnTypeBesideTheirScales) {
  const TemporaryFolder folder;
  const auto path = folder.path() / "model.safetensors";
  PlainLinear model;
  const Calibration calibration =
      calibration_of(model, normal_array<float>({6, 32}, 5), {.per_channel = true});
  const auto expect_array = [&](SafetensorsFile& file, const char* name, const char* type,
                                const std::vector<std::uint64_t>& shape) {
    EXPECT_EQ(file.info(name).type, type) << name;
    EXPECT_EQ(file.info(name).shape, shape) << name;
  };
  {
    const Quantisation recipe(model, calibration, options_of("e4m3fn", "e4m3fn", false, false));
    train::save_quantised(path, model, recipe);
    SafetensorsFile file(path);
    EXPECT_EQ(file.names().size(), 4U);
    expect_array(file, "layer.weight.elements", "F8_E4M3", {4, 32});
    expect_array(file, "layer.weight.scales", "F32", {1, 1});
    expect_array(file, "layer.bias", "F32", {4});
    expect_array(file, "layer/linear.input.0.scale", "F32", {});
    EXPECT_EQ(file.metadata().at("unit_scaling.quantised.inputs"), "float8_e4m3fn");
    EXPECT_EQ(file.metadata().at("unit_scaling.quantised.weights"), "float8_e4m3fn");
  }
  const Quantisation recipe(model, calibration, options_of("int8", "int8", true, true));
  train::save_quantised(path, model, recipe);
  SafetensorsFile file(path);
  EXPECT_EQ(file.names().size(), 4U);
  expect_array(file, "layer.weight.elements", "I8", {4, 32});
  expect_array(file, "layer.weight.scales", "F32", {4, 1});
  expect_array(file, "layer/linear.input.0.scale", "F32", {32});
  EXPECT_EQ(file.metadata().at("unit_scaling.quantised.weights"), "int8");
  // The integers are those of the rule, by hand.
  const auto integers = file.tensor<std::int8_t>("layer.weight.elements");
  const auto scales = file.tensor<float>("layer.weight.scales");
  const float* const weight = model.weight.value.data();
  for (std::size_t i = 0; i < 4; ++i) {
    float largest = 0;
    for (std::size_t j = 0; j < 32; ++j) largest = std::max(largest, std::abs(weight[i * 32 + j]));
    EXPECT_EQ(scales.data()[i], largest / 127);
    for (std::size_t j = 0; j < 32; ++j) {
      const float integer = std::nearbyint(weight[i * 32 + j] / scales.data()[i]);
      EXPECT_EQ(static_cast<float>(integers.data()[i * 32 + j]), integer);
    }
  }
}

TEST(QuantisedWeights, ThatAreReadElsewhereHaveTheirNumbersInTheFileToo) {
  const TemporaryFolder folder;
  const auto path = folder.path() / "model.safetensors";
  Tied model;
  const Array<float> x = normal_array<float>({6, 32}, 5);
  const auto recipe = std::make_shared<Quantisation>(model, calibration_of(model, x));
  train::save_quantised(path, model, *recipe);
  SafetensorsFile file(path);
  EXPECT_TRUE(same_bits(file.tensor<float>("table"), model.table.value));
  EXPECT_TRUE(file.contains("table.elements"));
  EXPECT_FALSE(file.contains("head.weight"));
  Tied loaded;
  loaded.table.value = Array<float>::filled({8, 32}, 1);
  Fp32 tape(TapeMode::inference);
  Fp32 other(TapeMode::inference);
  tape.use_recipe(recipe);
  other.use_recipe(train::load_quantised(file, loaded));
  EXPECT_TRUE(same_bits(logits_of(loaded, other, x), logits_of(model, tape, x)));
  EXPECT_TRUE(same_bits(loaded.table.value, model.table.value));
}

TEST(QuantisedWeights, OfADecoderWithAttentionComputeWhatTheQuantisedModelComputes) {
  const TemporaryFolder folder;
  const auto path = folder.path() / "model.safetensors";
  const nn::TransformerConfig config{
      .hidden_size = 16, .context_length = 8, .heads = 2, .rotary_base = 10000};
  nn::Initialiser initialiser(1);
  nn::TransformerDecoder model(initialiser, 11, config);
  nn::Initialiser another(2);
  nn::TransformerDecoder loaded(another, 11, config);
  const Array<std::int32_t> ids = id_array({3, 7}, 11, 1);
  const auto logits = [&](const nn::TransformerDecoder& of, Fp32& tape) {
    tape.clear();
    const auto y = of(tape, ids);
    return Array<float>(y.shape(), y.value().span());
  };
  for (const char* format : {"e4m3fn", "int8"}) {
    Fp32 tape(TapeMode::inference);
    const Calibration calibration =
        calibrate(tape, 1, [&](std::size_t) { (void)model(tape, ids); }, {.per_channel = true});
    std::size_t weights = 0;
    for (const auto& [name, uses] : calibration.parameters) weights += uses.is_weight ? 1 : 0;
    const Array<float> before = logits(model, tape);
    tape.clear();
    const auto recipe =
        std::make_shared<Quantisation>(model, calibration, options_of(format, format, false, true));
    EXPECT_EQ(recipe->weights().size(), weights);
    tape.use_recipe(recipe);
    const Array<float> expected = logits(model, tape);
    EXPECT_FALSE(same_bits(expected, before));
    train::save_quantised(path, model, *recipe);
    Fp32 other(TapeMode::inference);
    other.use_recipe(train::load_quantised(path, loaded));
    EXPECT_TRUE(same_bits(logits(loaded, other), expected));
  }
}

TEST(QuantisedWeights, OfZerosAreReadBack) {
  const TemporaryFolder folder;
  const auto path = folder.path() / "model.safetensors";
  PlainLinear model;
  model.weight.value = Array<float>::filled({4, 32}, -0.0F);
  const Array<float> x = normal_array<float>({6, 32}, 5);
  train::save_quantised(
      path, model,
      Quantisation(model, calibration_of(model, x), options_of("int8", "int8", false, true)));
  PlainLinear loaded;
  const auto recipe = train::load_quantised(path, loaded);
  for (const float number : loaded.weight.value.span()) EXPECT_EQ(number, 0);
}

// --- Refusals ---

/// A file of a linear layer, changed: `change` is called with each array's name and may write
/// another one instead, or none, and return true.
void write_changed(const std::filesystem::path& path, const QuantisationOptions& options,
                   const std::function<bool(const std::string&, SafetensorsWriter&)>& change,
                   bool has_metadata = true) {
  PlainLinear model;
  const Quantisation recipe(
      model, calibration_of(model, normal_array<float>({6, 32}, 5), {.per_channel = true}),
      options);
  train::save_quantised(path, model, recipe);
  SafetensorsFile file(path);
  SafetensorsWriter writer;
  for (const std::string& name : file.names()) {
    if (change(name, writer)) continue;
    const std::string& type = file.info(name).type;
    if (type == "F32") writer.add(name, file.tensor<float>(name));
    if (type == "I8") writer.add(name, file.tensor<std::int8_t>(name));
    if (type == "F8_E4M3") writer.add(name, file.tensor<float8_e4m3fn>(name));
  }
  if (has_metadata) {
    for (const auto& [key, text] : file.metadata()) writer.set_metadata(key, text);
  }
  writer.write(path);
}

/// Expects that the file is refused, in words, and that the model is as it was.
void expect_refused(const std::filesystem::path& path,
                    std::initializer_list<std::string_view> parts) {
  PlainLinear model;
  const PlainLinear before;
  expect_error<FileError>([&] { (void)train::load_quantised(path, model); }, parts);
  EXPECT_TRUE(same_bits(model.weight.value, before.weight.value));
  EXPECT_TRUE(same_bits(model.bias.value, before.bias.value));
}

TEST(QuantisedWeights, AreReadFromAFileThatSomebodyElseWroteWithTheSameArrays) {
  const TemporaryFolder folder;
  const auto path = folder.path() / "model.safetensors";
  for (const char* format : {"e4m3fn", "int8"}) {
    write_changed(path, options_of(format, format, false, true),
                  [](const std::string&, SafetensorsWriter&) { return false; });
    PlainLinear model;
    EXPECT_EQ(train::load_quantised(path, model)->weights().size(), 1U);
  }
}

TEST(QuantisedWeights, WithoutAnArrayAreRefusedByItsName) {
  const TemporaryFolder folder;
  const auto path = folder.path() / "model.safetensors";
  for (const char* format : {"e4m3fn", "int8"}) {
    for (const std::string missing : {"layer.weight.scales", "layer.bias"}) {
      write_changed(path, options_of(format, format, false, false),
                    [&](const std::string& name, SafetensorsWriter&) { return name == missing; });
      expect_refused(path, {path.string(), "has no array '" + missing + "'"});
    }
    // Without codes the parameter is looked for as one that is not quantised.
    write_changed(path, options_of(format, format, false, false),
                  [&](const std::string& name, SafetensorsWriter&) {
                    return name == "layer.weight.elements";
                  });
    expect_refused(path, {"has no array 'layer.weight'"});
  }
  write_changed(
      path, options_of("int8", "int8", false, false),
      [](const std::string&, SafetensorsWriter&) { return false; }, false);
  expect_refused(path, {"has no metadata 'unit_scaling.quantised.inputs'"});
}

TEST(QuantisedWeights, ThatDoNotFitAreRefusedByName) {
  const TemporaryFolder folder;
  const auto path = folder.path() / "model.safetensors";
  const auto expect_array_refused = [&](const char* format, const std::string& changed,
                                        const auto& array,
                                        std::initializer_list<std::string_view> parts) {
    write_changed(path, options_of(format, format, false, true),
                  [&](const std::string& name, SafetensorsWriter& writer) {
                    if (name == changed) writer.add(name, array);
                    return name == changed;
                  });
    expect_refused(path, parts);
  };
  for (const char* format : {"e4m3fn", "int8"}) {
    const std::string scales = "layer.weight.scales";
    for (const Shape& shape : {Shape{3, 1}, Shape{4}, Shape{1, 4}, Shape{0, 1}, Shape{}}) {
      expect_array_refused(format, scales, Array<float>::filled(shape, 1),
                           {"'layer.weight.scales'", "shape", "(4, 1)"});
    }
    expect_array_refused(format, scales, Array<std::int32_t>::filled({4, 1}, 1),
                         {"'layer.weight.scales'", "I32", "F32"});
    for (const float bad : {0.0F, -1.0F, HUGE_VALF, std::nanf("")}) {
      expect_array_refused(format, scales, Array<float>({4, 1}, {1, 1, bad, 1}),
                           {"'layer.weight.scales'", "not positive and finite"});
      expect_array_refused(format, "layer/linear.input.0.scale", Array<float>::filled({}, bad),
                           {"'layer/linear.input.0.scale'", "not positive and finite"});
    }
    expect_array_refused(format, "layer/linear.input.0.scale", Array<float>::filled({2, 2}, 1),
                         {"'layer/linear.input.0.scale'", "(2, 2)"});
    expect_array_refused(format, "layer.weight.elements", Array<float>::filled({4, 32}, 1),
                         {"'layer.weight.elements'", "F32"});
    expect_array_refused(format, "layer.bias", Array<float>::filled({5}, 1),
                         {"'layer.bias'", "(5)", "(4)"});
  }
  expect_array_refused("int8", "layer.weight.elements", Array<std::int8_t>::filled({4, 31}, 1),
                       {"'layer.weight.elements'", "(4, 31)", "(4, 32)"});
  expect_array_refused("int8", "layer.weight.elements", Array<std::int8_t>::filled({4, 32}, -128),
                       {"'layer.weight.elements'", "-128"});
  expect_array_refused("e4m3fn", "layer.weight.elements",
                       Array<float8_e4m3fn>::filled({4, 31}, float8_e4m3fn(1.0F)),
                       {"'layer.weight.elements'", "(4, 31)", "(4, 32)"});
  expect_array_refused("e4m3fn", "layer.weight.elements",
                       Array<float8_e4m3fn>::filled({4, 32}, float8_e4m3fn::from_bits(0x7f)),
                       {"'layer.weight.elements'", "infinite or NaN"});
}

TEST(QuantisedWeights, BesideAnUnknownArrayAreRefusedByItsName) {
  const TemporaryFolder folder;
  const auto path = folder.path() / "model.safetensors";
  for (const std::string extra : {"other.weight", "layer.weight.scale", "layer/linear.scales"}) {
    bool is_added = false;
    write_changed(path, options_of("int8", "int8", false, false),
                  [&](const std::string&, SafetensorsWriter& writer) {
                    if (!is_added) writer.add(extra, Array<float>::filled({}, 1));
                    is_added = true;
                    return false;
                  });
    expect_refused(path, {"has an array '" + extra + "'"});
  }
}

TEST(QuantisedWeights, ThatWereWrittenToAreNotSaved) {
  const TemporaryFolder folder;
  const auto path = folder.path() / "model.safetensors";
  PlainLinear model;
  const Quantisation recipe(model, calibration_of(model, normal_array<float>({6, 32}, 5)));
  model.weight.value.mutable_data()[0] = 1;
  expect_domain_error([&] { train::save_quantised(path, model, recipe); },
                      {"save_quantised", "'layer.weight'", "written to"});
  OutlierClassifier other;
  expect_domain_error([&] { train::save_quantised(path, other, recipe); }, {"'layer.weight'"});
  EXPECT_FALSE(std::filesystem::exists(path));
}

}  // namespace quantised_weights_test
