// SPDX-License-Identifier: MIT
/// @file
/// Layer: tests. Trainings that are saved and loaded, against ones that never stopped, and against
/// files that do not fit.

#include "unit_scaling/train/training_state.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <initializer_list>
#include <limits>
#include <map>
#include <memory>
#include <new>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "support/errors.hpp"
#include "support/random_arrays.hpp"
#include "support/temporary_folder.hpp"
#include "unit_scaling/autograd/parameter.hpp"
#include "unit_scaling/autograd/recipe.hpp"
#include "unit_scaling/autograd/tape.hpp"
#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/file_error.hpp"
#include "unit_scaling/formats/encoded_array.hpp"
#include "unit_scaling/formats/encoded_array_codec.hpp"
#include "unit_scaling/formats/format.hpp"
#include "unit_scaling/formats/scale_layout.hpp"
#include "unit_scaling/nn/dropout.hpp"
#include "unit_scaling/nn/initialiser.hpp"
#include "unit_scaling/nn/linear.hpp"
#include "unit_scaling/nn/sequential.hpp"
#include "unit_scaling/ops/gelu.hpp"
#include "unit_scaling/ops/mse_loss.hpp"
#include "unit_scaling/optim/adam.hpp"
#include "unit_scaling/optim/gradient_sum.hpp"
#include "unit_scaling/optim/lamb.hpp"
#include "unit_scaling/optim/parameter_groups.hpp"
#include "unit_scaling/optim/sgd.hpp"
#include "unit_scaling/recipes/simulation.hpp"
#include "unit_scaling/train/checkpoint.hpp"
#include "unit_scaling/train/safetensors.hpp"

namespace training_state_test {

using namespace unit_scaling;
using namespace unit_scaling_test;
using train::load_state;
using train::save_state;

/// The bytes of a state, with its shape.
template <class T> std::string bits(const T& state) {
  if constexpr (train::StateNumber<T>) {
    return {reinterpret_cast<const char*>(&state), sizeof(state)};
  } else if constexpr (train::is_state_map<T>) {
    std::string all;
    for (const auto& [key, each] : state) all += key + "=" + bits(each) + ";";
    return all;
  } else if constexpr (std::is_same_v<T, EncodedArray>) {
    return to_string(state.shape()) + std::string(state.codes().begin(), state.codes().end()) +
           std::string(state.scale_codes().begin(), state.scale_codes().end());
  } else {
    return to_string(state.shape()) +
           std::string(reinterpret_cast<const char*>(state.data()), state.bytes());
  }
}

/// Visitors, each of one type for all trainings: compiled once.
auto adding_bits(std::map<std::string, std::string>& all) {
  return [&](const std::string& name, const auto& state) { all[name] = bits(state); };
}
/// Writes weights, states and numbers that no training has.
const auto spoil = []<class T>(const std::string& name, T& state) {
  if constexpr (is_array<T>) state = T::filled(state.shape(), 77);
  if constexpr (train::StateNumber<T>) state = name == "optimiser.steps" ? 9 : 3;
};

/// Those of all states by name.
template <class Part> std::map<std::string, std::string> bits_of(Part&& part) {
  std::map<std::string, std::string> all;
  train::for_each_state(part, adding_bits(all));
  return all;
}

/// Expects two trainings to be the same to the bit.
void expect_same(const std::map<std::string, std::string>& a,
                 const std::map<std::string, std::string>& b, const std::string& what) {
  ASSERT_EQ(a.size(), b.size()) << what;
  for (const auto& [name, bytes] : a) {
    ASSERT_TRUE(b.contains(name)) << name << ", " << what;
    EXPECT_TRUE(b.at(name) == bytes) << name << ", " << what;
  }
}

/// Steps of three batches each, with dropout, stochastic rounding where it is simulated, and a loss
/// scale that changes.
template <class Optimiser, Precision P> class Training {
 public:
  static constexpr std::size_t batches = 3;

  explicit Training(std::shared_ptr<Recipe> recipe = nullptr) : recipe_(std::move(recipe)) {
    tape_.use_recipe(recipe_);
  }

  template <class Visitor> void for_each_state(const Visitor& visit) {
    visit("model", network_);
    visit("optimiser", optimiser_);
    visit("sum", sum_);
    visit("tape", tape_);
    if (recipe_) visit("recipe", *recipe_);
    visit("loss_scale", loss_scale_);
    visit("batch", batch_);
  }

  void train_on_batch() {
    if (batch_ % batches == 0) sum_.clear();
    tape_.clear();
    // Of different sizes, so that the sum has to weigh them.
    const Shape shape{2 + batch_ % batches, 12};
    const auto x = tape_.constant(normal_array<float>(shape, 10 + batch_));
    const auto y = tape_.constant(normal_array<float>(shape, 50 + batch_));
    tape_.backward(ops::mse_loss(network_(x), y), static_cast<float>(loss_scale_));
    sum_.add(tape_);
    if (++batch_ % batches != 0) return;
    optimiser_.step(sum_, 0.01, loss_scale_);
    loss_scale_ *= 2;
  }

 private:
  using Network = nn::Sequential<nn::Linear, ops::Apply<ops::Gelu>, nn::Dropout, nn::Linear>;

  [[nodiscard]] static Network make_network() {
    nn::Initialiser initialiser(1);
    return Network{nn::Linear(initialiser, "up", 12, 21), ops::gelu, nn::Dropout(initialiser, 0.25),
                   nn::Linear(initialiser, "down", 21, 12)};
  }

  Network network_ = make_network();
  Optimiser optimiser_{optim::parameters_of(network_)};
  optim::GradientSum sum_{optim::parameters_of(network_)};
  Tape<P> tape_;
  std::shared_ptr<Recipe> recipe_;
  double loss_scale_ = 8;
  std::uint64_t batch_ = 0;
};

template <class Optimiser, Precision P>
void expect_resumed_is_unbroken(const std::function<std::shared_ptr<Recipe>()>& make_recipe = [] {
  return nullptr;
}) {
  const TemporaryFolder folder;
  const auto path_after = [&](std::size_t batch) {
    return folder.path() / (std::to_string(batch) + ".safetensors");
  };
  constexpr std::size_t end = 4 * Training<Optimiser, P>::batches;
  Training<Optimiser, P> unbroken(make_recipe());
  Training<Optimiser, P> unsaved(make_recipe());
  save_state(path_after(0), unbroken);
  for (std::size_t batch = 1; batch <= end; ++batch) {
    unbroken.train_on_batch();
    save_state(path_after(batch), unbroken);
    unsaved.train_on_batch();
  }
  const auto expected = bits_of(unbroken);
  expect_same(bits_of(unsaved), expected, "saving changes nothing");
  for (std::size_t batch = 0; batch <= end; ++batch) {
    Training<Optimiser, P> resumed(make_recipe());
    train::for_each_state(resumed, spoil);
    load_state(path_after(batch), resumed);
    for (std::size_t next = batch; next < end; ++next) resumed.train_on_batch();
    expect_same(bits_of(resumed), expected, "from batch " + std::to_string(batch) + " on");
  }
  // Into one that has trained on other things, in the middle of a step.
  Training<Optimiser, P> other(make_recipe());
  for (std::size_t batch = 0; batch < 5; ++batch) other.train_on_batch();
  load_state(path_after(end - 2), other);
  for (std::size_t batch = 0; batch < 2; ++batch) other.train_on_batch();
  expect_same(bits_of(other), expected, "loaded in the middle of a step");
}

TEST(TrainingState, ResumesEveryOptimiserToTheBitsOfAnUnbrokenRunAlsoWithinAStep) {
  expect_resumed_is_unbroken<optim::Sgd, precision::fp8>();
  expect_resumed_is_unbroken<optim::Adam, precision::fp8>();
  expect_resumed_is_unbroken<optim::AdamW, precision::fp8>();
  expect_resumed_is_unbroken<optim::Lamb, precision::fp8>();
}

TEST(TrainingState, ResumesStochasticRoundingToTheBitsOfAnUnbrokenRun) {
  expect_resumed_is_unbroken<optim::AdamW, precision::fp32>(
      [] { return std::make_shared<Simulation>(Simulation::parse("e4m3fn~/e5m2~", /*seed=*/3)); });
}

/// Has a state of each kind, on all of which its scales depend.
class Remembering final : public Recipe {
 public:
  std::optional<OperandForms> operand(const OperandSite& site, const EncodedArray& array) override {
    std::string name;
    write_name(site, name);
    double& largest = largest_[name];
    const Array<float> numbers = array.decode(site.memory);
    for (const float number : numbers.span()) {
      largest = std::max(largest, std::abs(static_cast<double>(number)));
    }
    history_.mutable_data()[asked_++ % history_.size()] = static_cast<float>(largest);
    // Halves on the way from a site to the next one.
    mean_ = (mean_ + largest) / 2;
    double of_all = mean_;
    for (const float each : history_.span()) of_all += static_cast<double>(each) / 16;
    const auto last = last_.decode();
    const float scale =
        static_cast<float>(of_all / 64 + std::abs(static_cast<double>(last.data()[0])) / 1024);
    OperandForms forms{EncodedArray::encode(array, Format::parse("e3m4"),
                                            ScaleLayout::per_tensor(ScaleFormat::binary32),
                                            std::span(&scale, 1), {}, site.memory)};
    forms.is_lasting = false;  // each use changes what comes after it
    const Array<float> first({1}, numbers.span().first(1));
    last_ = EncodedArray::encode(EncodedArray::view(first), last_.format());
    return forms;
  }
  void visit_state(const RecipeStateVisitor& visit) override {
    visit("largest", largest_);
    visit("history", history_);
    visit("asked", asked_);
    visit("mean", mean_);
    visit("last", last_);
  }

 private:
  std::map<std::string, double> largest_;
  Array<float> history_ = Array<float>::filled({5}, 0.5F);
  std::uint64_t asked_ = 0;
  double mean_ = 1;
  EncodedArray last_ = EncodedArray::encode(EncodedArray::view(Array<float>::filled({1}, 1.0F)),
                                            Format::parse("e4m3"));
};

TEST(TrainingState, ResumesARecipeWithStateToTheBitsOfAnUnbrokenRun) {
  expect_resumed_is_unbroken<optim::AdamW, precision::fp32>(
      [] { return std::make_shared<Remembering>(); });
}

/// One state of every kind, or none.
struct Everything {
  float quiet = std::bit_cast<float>(0x7fc1'2345U);
  float signalling = std::bit_cast<float>(0xffa5'4321U);
  float negative_zero = -0.0F;
  double payload = std::bit_cast<double>(0xfff0'0000'0000'0001U);
  double least = std::numeric_limits<double>::denorm_min();
  double third = 1.0 / 3;
  std::uint64_t largest = std::numeric_limits<std::uint64_t>::max();
  std::uint64_t beyond_double = (std::uint64_t{1} << 53U) + 1;
  std::int64_t lowest = std::numeric_limits<std::int64_t>::min();
  unsigned long long other_type = 1ULL << 63U;
  int integer = -5;
  std::uint8_t byte = 255;
  bool yes = true;
  Array<float> one = Array<float>({1, 1}, {std::bit_cast<float>(0xff80'0001U)});
  Array<float> scalar = Array<float>({}, {std::bit_cast<float>(1U)});
  Array<float> empty;
  Array<float> no_rows = Array<float>({0, 3});
  Array<float> no_columns = Array<float>({2, 0, 5});
  Array<double> doubles = Array<double>({3}, {-0.0, std::nan("7"), 0x1p-1074});
  Array<std::uint64_t> words = Array<std::uint64_t>({2}, {~std::uint64_t{0}, 1});
  Array<float16> halves = normal_array<float16>({3, 5}, 1);
  std::map<std::string, float> numbers{{"a", -0.0F}, {"a.b", 2.0F}, {"", 3.0F}};
  std::map<std::string, std::uint64_t> counts;
  std::map<std::string, Array<float>> arrays{{"x", normal_array<float>({3, 5}, 2)},
                                             {"y.z", Array<float>({0})}};

  template <class Visitor> void for_each_state(const Visitor& visit) {
    visit("quiet", quiet);
    visit("signalling", signalling);
    visit("negative_zero", negative_zero);
    visit("payload", payload);
    visit("least", least);
    visit("third", third);
    visit("largest", largest);
    visit("beyond_double", beyond_double);
    visit("lowest", lowest);
    visit("other_type", other_type);
    visit("integer", integer);
    visit("byte", byte);
    visit("yes", yes);
    visit("one", one);
    visit("scalar", scalar);
    visit("empty", empty);
    visit("no_rows", no_rows);
    visit("no_columns", no_columns);
    visit("doubles", doubles);
    visit("words", words);
    visit("halves", halves);
    visit("numbers", numbers);
    visit("counts", counts);
    visit("arrays", arrays);
  }
};

TEST(TrainingState, KeepsEveryBitOfEveryKindOfState) {
  const TemporaryFolder folder;
  Everything saved;
  const auto expected = bits_of(saved);
  save_state(folder.path() / "all", saved);
  expect_same(bits_of(saved), expected, "saving");
  Everything loaded;
  train::for_each_state(loaded, []<class T>(const std::string& /*name*/, T& state) {
    if constexpr (train::StateNumber<T>) state = T{};
    if constexpr (is_array<T>) state = T::filled(state.shape(), {});
    if constexpr (train::is_state_map<T>) state = {{"else", {}}};
  });
  load_state(folder.path() / "all", loaded);
  expect_same(bits_of(loaded), expected, "loading");
}

TEST(TrainingState, KeepsEncodedArraysOfAnyFormatAndScales) {
  const TemporaryFolder folder;
  for (const std::string format :
       {"float8_e4m3fn", "e5m2", "e8m0fnu", "e3m4", "e2m1fn", "e2m3fn", "e3m2fn", "e2m2", "e3m3",
        "float16", "bfloat16", "e5m6", "e8m12", "float32", "e4m3fnuz", "e1m1finite"}) {
    for (const ScaleLayout& layout :
         {ScaleLayout{}, ScaleLayout::per_tensor(ScaleFormat::binary32),
          ScaleLayout::per_row(ScaleFormat::power_of_two),
          ScaleLayout::per_block_of_columns(ScaleFormat::power_of_two, 4),
          ScaleLayout::per_block_of_rows(ScaleFormat::binary32, 2),
          ScaleLayout::per_block_of_columns(ScaleFormat::two_level, 2)}) {
      for (const Shape& shape :
           {Shape{3, 5}, Shape{1, 1}, Shape{}, Shape{0}, Shape{4, 0}, Shape{7}, Shape{2, 3, 4}}) {
        const std::string what = format + " " + to_string(layout) + " " + to_string(shape);
        std::vector<float> scales(layout.count(shape.rows(), shape.columns()), 0.5F);
        if (has_common_scale(layout.format)) scales.push_back(0.3F);
        const auto make = [&](std::uint64_t seed) {
          return EncodedArray::encode(EncodedArray::view(normal_array<float>(shape, seed)),
                                      Format::parse(format), layout, scales);
        };
        EncodedArray state = make(1);
        const EncodedArray expected = state;
        const auto training = [&](const auto& visit) { visit("moment.w", state); };
        save_state(folder.path() / "encoded", training);
        state = make(2);
        load_state(folder.path() / "encoded", training);
        EXPECT_EQ(state, expected) << what;
      }
    }
  }
}

TEST(TrainingState, WritesEncodedArraysInTheTypesOfTheirFormats) {
  const TemporaryFolder folder;
  const std::filesystem::path path = folder.path() / "encoded";
  const auto info_of = [&](const std::string& format, const ScaleLayout& layout) {
    const Array<float> numbers({3, 40}, std::vector<float>(120, 1.5F));
    const std::size_t common = has_common_scale(layout.format) ? 1 : 0;
    const std::vector<float> scales(layout.count(3, 40) + common, 1);
    EncodedArray state =
        EncodedArray::encode(EncodedArray::view(numbers), Format::parse(format), layout, scales);
    save_state(path, [&](const auto& visit) { visit("w", state); });
    train::SafetensorsFile file(path);
    std::string text;
    for (const char* name : {"w.elements", "w.scales", "w.common_scale"}) {
      if (!file.contains(name)) continue;
      text += " " + file.info(name).type;
      for (const auto extent : file.info(name).shape) text += " " + std::to_string(extent);
    }
    return text;
  };
  const auto blocks = ScaleLayout::per_block_of_columns(ScaleFormat::power_of_two, 32);
  EXPECT_EQ(info_of("e4m3fn", {}), " F8_E4M3 3 40");
  EXPECT_EQ(info_of("e2m1fn", blocks), " F4 3 40 F8_E8M0 3 2");
  EXPECT_EQ(info_of("e3m4", ScaleLayout::per_tensor(ScaleFormat::binary32)), " U8 3 40 F32 1 1");
  EXPECT_EQ(info_of("e2m1fn", ScaleLayout::per_block_of_columns(ScaleFormat::two_level, 16)),
            " F4 3 40 F8_E4M3 3 3 F32");
  EXPECT_EQ(info_of("e2m2", {}), " U8 75") << "120 codes of 5 bits";
  EXPECT_EQ(info_of("e5m6", {}), " U16 3 40");
  EXPECT_EQ(info_of("e8m12", {}), " U32 3 40");
  EXPECT_EQ(info_of("float32", {}), " F32 3 40");
}

/// A training of all kinds of states that is small, and what is in its file.
class Refusals : public testing::Test {
 protected:
  using Arrays = std::map<std::string, Array<float>>;

  Refusals() {
    for (std::uint64_t step = 0; step < 2; ++step) {
      sum_.clear();
      tape_.clear();
      const auto x = tape_.constant(normal_array<float>({5, 3}, step));
      tape_.backward(ops::mse_loss(layer_(x), tape_.constant(normal_array<float>({5, 2}, 9))));
      sum_.add(tape_);
      adam_.step(sum_, 0.01);
    }
    save_state(path_, *this);
  }

 public:
  template <class Visitor> void for_each_state(const Visitor& visit) {
    visit("model", layer_);
    visit("optimiser", adam_);
    visit("sum", sum_);
    visit("tape", tape_);
    visit("loss_scale", loss_scale_);
    visit("moment", moment_);
    visit("codes", codes_);
    visit("maxima", maxima_);
    visit("history", history_);
  }

 protected:
  /// Changes the training, then expects that its file, as `write` makes it from what it has,
  /// is refused with these parts in the text, and that the training stays as it is.
  void expect_refusal(
      const std::function<void(Arrays&, train::SafetensorsWriter&)>& write,
      std::initializer_list<std::string_view> parts,
      const std::function<void(std::map<std::string, std::string>&)>& change_texts = [](auto&) {}) {
    const std::filesystem::path other = folder_.path() / "other.safetensors";
    train::SafetensorsFile file(path_);
    Arrays arrays;
    train::SafetensorsWriter writer;
    auto texts = file.metadata();
    change_texts(texts);
    for (const auto& [key, text] : texts) writer.set_metadata(key, text);
    for (const std::string& name : file.names()) {
      if (file.info(name).type == "F32") arrays[name] = file.tensor<float>(name);
    }
    write(arrays, writer);
    for (const auto& [name, array] : arrays) writer.add(name, array);
    const auto add = [&]<class T>(T /*type*/, const std::string& name) {
      if (!skipped_.contains(name)) writer.add(name, file.tensor<T>(name));
    };
    for (const std::string& name : file.names()) {
      const std::string& type = file.info(name).type;
      if (type == "U64") add(std::uint64_t{}, name);
      if (type == "F64") add(double{}, name);
      if (type == "F4") add(float4_e2m1fn{}, name);
      if (type == "F8_E4M3") add(float8_e4m3fn{}, name);
      if (type == "F8_E8M0") add(float8_e8m0fnu{}, name);
    }
    skipped_.clear();
    writer.write(other);

    adam_.step(sum_, 0.01);
    tape_.clear();
    loss_scale_ += 1;
    maxima_["new"] = 4;
    const auto before = bits_of(*this);
    try {
      load_state(other, *this);
      ADD_FAILURE() << "was taken, not refused with " << *parts.begin();
    } catch (const FileError& error) {
      const std::string text = error.what();
      EXPECT_TRUE(text.starts_with("'" + other.string() + "': ")) << text;
      for (const std::string_view part : parts) {
        EXPECT_NE(text.find(part), std::string::npos) << "no '" << part << "' in: " << text;
      }
    }
    expect_same(bits_of(*this), before, std::string(*parts.begin()));
  }

  /// What `write` of `expect_refusal` writes itself, of arrays that are not of floats.
  std::map<std::string, bool> skipped_;

  TemporaryFolder folder_;
  std::filesystem::path path_ = folder_.path() / "saved.safetensors";
  nn::Initialiser initialiser_{1};
  nn::Linear layer_{initialiser_, "layer", 3, 2};
  optim::Adam adam_{optim::parameters_of(layer_)};
  optim::GradientSum sum_{optim::parameters_of(layer_)};
  Tape<precision::fp32> tape_;
  double loss_scale_ = 0.5;
  EncodedArray moment_ = EncodedArray::encode(
      EncodedArray::view(normal_array<float>({3, 8}, 4)), Format::parse("e2m1fn"),
      ScaleLayout::per_row(ScaleFormat::power_of_two), std::vector<float>{1, 2, 4});
  EncodedArray codes_ = EncodedArray::encode(EncodedArray::view(normal_array<float>({5}, 4)),
                                             Format::parse("e4m3fn"));
  std::map<std::string, float> maxima_{{"layer", 1.5F}};
  Array<float> history_ = Array<float>({0, 4});
};

TEST_F(Refusals, TakesTheFileAsItIs) {
  const auto expected = bits_of(*this);
  loss_scale_ = 3;
  load_state(path_, *this);
  expect_same(bits_of(*this), expected, "as it is");
}

TEST_F(Refusals, OfAPartAreForWhatItHasAndNotForTheRest) {
  const auto expected = bits_of(*this);
  train::for_each_state(layer_, spoil);
  loss_scale_ = 3;
  train::load_part(path_, [&](const auto& visit) { visit("model", layer_); });
  const auto loaded = bits_of(*this);
  EXPECT_EQ(loaded.at("model.layer.weight"), expected.at("model.layer.weight"));
  EXPECT_EQ(loaded.at("model.layer.bias"), expected.at("model.layer.bias"));
  EXPECT_EQ(loss_scale_, 3);
  const auto load_other = [&] {
    train::load_part(path_, [&](const auto& visit) {
      visit("model", layer_);
      visit("scale", loss_scale_);
    });
  };
  train::for_each_state(layer_, spoil);
  const auto before = bits_of(*this);
  expect_error<FileError>(load_other, {"has no array", "scale"});
  expect_same(bits_of(*this), before, "a part that the file lacks");
}

TEST_F(Refusals, OfAFileThatLacksAStateNameIt) {
  for (const std::string name :
       {"model.layer.weight", "optimiser.second_moment.layer.bias", "history"}) {
    expect_refusal([&](Arrays& arrays, auto&) { arrays.erase(name); }, {"has no array", name});
  }
  for (const std::string name : {"optimiser.steps", "tape.step", "loss_scale", "sum.count",
                                 "moment.elements", "moment.scales"}) {
    skipped_[name] = true;
    expect_refusal([](auto&, auto&) {}, {"has no array", name});
  }
}

TEST_F(Refusals, OfAFileWithOneMoreArrayNameIt) {
  for (const std::string name : {"model.layer.gain", "recipe.layer.largest", "model", "weight",
                                 "maxima", "optimiser.steps.0", "codes.scales", "z\ny"}) {
    expect_refusal(
        [&](Arrays& arrays, auto&) {
          arrays[name] = Array<float>({2, 2});
        },
        {"has an array", name == "z\ny" ? "z\\ny" : name, "expected"});
  }
  expect_refusal(
      [&](Arrays& arrays, auto&) { arrays["a"] = arrays["b"] = arrays["c"] = Array<float>({1}); },
      {"has an array 'a'", "2 more"});
}

TEST_F(Refusals, OfAStateInAnotherShapeNameBothShapes) {
  const std::string weight = "model.layer.weight";
  for (const Shape& shape :
       {Shape{3, 2}, Shape{6}, Shape{2, 3, 1}, Shape{}, Shape{0}, Shape{2, 4}}) {
    expect_refusal([&](Arrays& arrays, auto&) { arrays[weight] = Array<float>::filled(shape, 0); },
                   {weight, to_string(shape), "expected (2, 3)"});
  }
  expect_refusal(
      [&](Arrays& arrays, auto&) {
        arrays["history"] = Array<float>({4, 0});
      },
      {"history", "(4, 0)", "expected (0, 4)"});
  skipped_["loss_scale"] = true;
  expect_refusal([](auto&, auto& writer) { writer.add("loss_scale", Array<double>({1}, {2.0})); },
                 {"loss_scale", "(1)", "expected ()"});
  expect_refusal(
      [](Arrays& arrays, auto&) {
        arrays["maxima.layer"] = Array<float>({2}, {1.0F, 2.0F});
      },
      {"maxima.layer", "(2)", "expected ()"});
}

TEST_F(Refusals, OfAStateOfAnotherTypeNameBothTypes) {
  expect_refusal(
      [](Arrays& arrays, auto& writer) {
        arrays.erase("model.layer.weight");
        writer.add("model.layer.weight", Array<double>::filled({2, 3}, 0));
      },
      {"model.layer.weight", "F64", "expected F32"});
  for (const std::string name : {"optimiser.steps", "tape.step"}) {
    skipped_[name] = true;
    expect_refusal([&](auto&, auto& writer) { writer.add(name, Array<float>({}, {2.0F})); },
                   {name, "F32", "expected U64"});
    skipped_[name] = true;
    expect_refusal([&](auto&, auto& writer) { writer.add(name, Array<std::int64_t>({}, {2})); },
                   {name, "I64", "expected U64"});
  }
  skipped_["loss_scale"] = true;
  expect_refusal([](auto&, auto& writer) { writer.add("loss_scale", Array<float>({}, {2.0F})); },
                 {"loss_scale", "F32", "expected F64"});
  skipped_["moment.elements"] = true;
  expect_refusal(
      [](auto&, auto& writer) {
        writer.add("moment.elements", Array<float8_e4m3fn>::filled({3, 8}, float8_e4m3fn(1)));
      },
      {"moment.elements", "F8_E4M3", "expected F4"});
}

TEST_F(Refusals, OfAnEncodedArrayOfAnotherFormatOrScalesSayBoth) {
  const std::string key = "unit_scaling.encoding.moment";
  const std::string expected =
      "expected float4_e2m1fn with power_of_two scales of tiles of 1 x all, (3, 8)";
  for (const std::string text :
       {"float8_e4m3fn with power_of_two scales of tiles of 1 x all, (3, 8)",
        "float4_e2m1fn with no scale, (3, 8)",
        "float4_e2m1fn with power_of_two scales of tiles of 1 x 4, (3, 8)",
        "float4_e2m1fn with power_of_two scales of tiles of 1 x all, (8, 3)", ""}) {
    expect_refusal([](auto&, auto&) {}, {"moment", text, expected},
                   [&](auto& texts) { texts[key] = text; });
  }
  expect_refusal([](auto&, auto&) {}, {"moment", expected}, [&](auto& texts) { texts.erase(key); });
  skipped_["moment.scales"] = true;
  expect_refusal(
      [](auto&, auto& writer) {
        writer.add("moment.scales", Array<float8_e8m0fnu>::filled({1, 3}, float8_e8m0fnu(1.0F)));
      },
      {"moment.scales", "(1, 3)", "expected (3, 1)"});
}

TEST_F(Refusals, OfWhatAPartDoesNotTakeSayWhy) {
  skipped_["optimiser.steps"] = true;
  expect_refusal(
      [](auto&, auto& writer) {
        writer.add("optimiser.steps", Array<std::uint64_t>({}, {(std::uint64_t{1} << 53U) + 1}));
      },
      {"optimiser.steps", "Adam", "at most 2^53 steps, got 9007199254740993"});
  expect_refusal(
      [](Arrays& arrays, auto&) {
        auto part = arrays.extract(arrays.lower_bound("sum.parts."));
        part.key() += "9";
        arrays.insert(std::move(part));
      },
      {"sum.parts", "GradientSum", "expected the parameter, part and factor"});
  expect_refusal(
      [](Arrays& arrays, auto&) { arrays.lower_bound("sum.parts.")->second = Array<float>({5}); },
      {"sum.parts", "GradientSum", "(5)"});
}

TEST_F(Refusals, ByTheCallerPutEverythingBack) {
  loss_scale_ = 3;
  maxima_.clear();
  adam_.step(sum_, 0.01);
  const auto before = bits_of(*this);
  train::SafetensorsFile file(path_);
  bool is_loaded = false;
  expect_error<std::runtime_error>(
      [&] {
        load_state(file, *this, [&] {
          is_loaded = loss_scale_ == 0.5 && maxima_.size() == 1;
          throw std::runtime_error("of another day");
        });
      },
      {"of another day"});
  EXPECT_TRUE(is_loaded);
  expect_same(bits_of(*this), before, "put back");
  load_state(file, *this, [] {});
  EXPECT_EQ(loss_scale_, 0.5);
}

TEST(TrainingState, IsPutBackAlsoIfTheTrainingShowsOtherStatesEachTime) {
  const TemporaryFolder folder;
  const std::filesystem::path path = folder.path() / "saved.safetensors";
  float a = 1;
  float b = 2;
  double other_type = 3;
  save_state(path, [&](const auto& visit) { visit("a", a), visit("b", b); });
  a = b = 7;
  for (const bool has_other_type : {false, true}) {
    int visits = 0;
    const auto training = [&](const auto& visit) {
      ++visits;
      if (visits == 3 && has_other_type) {
        visit("a", other_type);
      } else {
        visit("a", a);
      }
      visit(visits == 1 ? "b" : visits == 2 ? "c" : "d", b);
    };
    expect_error<FileError>([&] { load_state(path, training); },
                            {"saved.safetensors", "up to 'c'", "the same states each time"});
    EXPECT_EQ(a, has_other_type ? 1.0F : 7.0F);
    EXPECT_EQ(b, 7.0F);
    EXPECT_EQ(other_type, 3.0);
  }
}

TEST(TrainingState, TellsWhyItWasRefusedWhateverPuttingItBackMeets) {
  const TemporaryFolder folder;
  const std::filesystem::path path = folder.path() / "saved.safetensors";
  auto a = Array<float>::filled({2}, 1);
  float b = 2;
  save_state(path, [&](const auto& visit) { visit("a", a), visit("b", b); });
  enum class Fault { other_shape, out_of_memory, shown_twice, not_an_exception };
  for (const Fault fault :
       {Fault::other_shape, Fault::out_of_memory, Fault::shown_twice, Fault::not_an_exception}) {
    a = Array<float>::filled({2}, 7);
    b = 7;
    auto other = Array<float>::filled({3}, 9);
    int visits = 0;
    const auto training = [&](const auto& visit) {
      ++visits;
      visit("b", b);
      if (visits == 3 && fault == Fault::out_of_memory) throw std::bad_alloc();
      if (visits == 3 && fault == Fault::not_an_exception) throw 5;
      if (visits == 3 && fault == Fault::shown_twice) visit("b", b);
      visit("a", visits == 3 && fault == Fault::other_shape ? other : a);
      if (visits == 2) throw std::runtime_error("not today");
    };
    expect_error<FileError>([&] { load_state(path, training); },
                            {"saved.safetensors", "not today"});
    EXPECT_EQ(visits, 3);
    EXPECT_EQ(b, 7.0F);
    EXPECT_EQ(other.data()[0], 9.0F);
  }
}

TEST(TrainingState, OutOfMemoryIsNotTheFilesFault) {
  const TemporaryFolder folder;
  const std::filesystem::path path = folder.path() / "saved.safetensors";
  float a = 1;
  save_state(path, [&](const auto& visit) { visit("a", a); });
  a = 7;
  int visits = 0;
  const auto training = [&](const auto& visit) {
    visit("a", a);
    if (++visits == 2) throw std::bad_alloc();
  };
  EXPECT_THROW(load_state(path, training), std::bad_alloc);
  EXPECT_EQ(a, 7.0F);
}

TEST_F(Refusals, OfFilesThatAreNoneNameThem) {
  const std::filesystem::path other = folder_.path() / "none.safetensors";
  expect_error<FileError>([&] { load_state(other, *this); }, {"none.safetensors"});
  std::ofstream(other) << "no checkpoint";
  expect_error<FileError>([&] { load_state(other, *this); }, {"none.safetensors"});
  // One name twice, which no writer of ours writes.
  const std::string entry = R"("w":{"dtype":"F32","shape":[],"data_offsets":[)";
  const std::string header = "{" + entry + "0,4]}," + entry + "4,8]}}";
  std::string bytes(8, '\0');
  bytes[0] = static_cast<char>(header.size());
  std::ofstream(other, std::ios::binary) << bytes << header << std::string(8, '\0');
  float w = 5;
  const auto training = [&](const auto& visit) { visit("w", w); };
  expect_error<FileError>([&] { load_state(other, training); }, {"none.safetensors", "'w'"});
  EXPECT_EQ(w, 5.0F);
  const auto before = bits_of(*this);
  save_state(other, [](const auto&) {});
  expect_error<FileError>([&] { load_state(other, *this); }, {"has no array 'model.layer.weight'"});
  expect_same(bits_of(*this), before, "no states");
}

/// A module of one parameter.
struct OneParameter {
  Parameter& parameter;
  template <class Visitor> void for_each_parameter(const Visitor& visit) { visit(parameter); }
};

TEST(TrainingState, OfTwoStatesOfOneNameIsNotSavedAndNotLoaded) {
  const TemporaryFolder folder;
  const std::filesystem::path path = folder.path() / "twice";
  float a = 1;
  float b = 2;
  Parameter first{"w", Array<float>::filled({2}, 1)};
  std::map<std::string, float> map{{"x", 1.0F}};
  EncodedArray encoded;
  OneParameter module{first};
  const auto inner = [&](const auto& visit) { visit("b", b); };
  const auto refuse = [&](const auto& training, std::initializer_list<std::string_view> parts) {
    expect_domain_error([&] { save_state(path, training); }, parts);
    EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
  };
  refuse([&](const auto& visit) { visit("a", a), visit("a", b); }, {"'a' twice"});
  refuse([&](const auto& visit) { visit("a.b", a), visit("a", inner); }, {"'a.b' twice"});
  refuse([&](const auto& visit) { visit("m", module), visit("m", module); }, {"'m.w' twice"});
  refuse([&](const auto& visit) { visit("a", a), visit("a", map); }, {"'a' twice"});
  refuse([&](const auto& visit) { visit("a.x", a), visit("a", map); }, {"below 'a'", "'a.x'"});
  refuse([&](const auto& visit) { visit("a", map), visit("a.y", a); }, {"below 'a'", "'a.y'"});
  refuse([&](const auto& visit) { visit("a", map), visit("a.b", map); }, {"below 'a'", "'a.b'"});
  refuse([&](const auto& visit) { visit("a.b", map), visit("a", map); }, {"below 'a'", "'a.b'"});
  refuse([&](const auto& visit) { visit("a", encoded), visit("a.elements", a); }, {"a.elements"});
  refuse([&](const auto& visit) { visit("a.scales", a), visit("a", encoded); }, {"a.scales"});
  // Names that only look alike.
  const auto alike = [&](const auto& visit) { visit("a", map), visit("a-b", a), visit("ab", b); };
  save_state(path, alike);
  load_state(path, alike);
  const auto twice = [&](const auto& visit) { visit("ab", a), visit("ab", b); };
  expect_domain_error([&] { load_state(path, twice); }, {"'ab' twice"});
  EXPECT_EQ(a, 1.0F);
}

TEST(TrainingState, RefusesTextsThatAreNotUtf8AndWritesNoFile) {
  const TemporaryFolder folder;
  float a = 1;
  const std::filesystem::path path = folder.path() / "text";
  EXPECT_THROW(save_state(path, [&](const auto& visit) { visit("\xff", a); }),
               std::invalid_argument);
  EXPECT_THROW(save_state(path, [&](const auto& visit) { visit("__metadata__", a); }),
               std::invalid_argument);
  EXPECT_THROW(save_state(path, [&](const auto& visit) { visit("a", a); }, {{"a", "\xff"}}),
               std::invalid_argument);
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

TEST(TrainingState, WritesToTheMemoryThatAStateHas) {
  const TemporaryFolder folder;
  std::vector<float> lent{1, 2, 3, 4};
  Array<float> own({2}, {5.0F, 6.0F});
  const auto training = [&](const auto& visit) {
    auto array = Array<float>::borrow(std::span<float>(lent), {2, 2});
    visit("lent", array);
    visit("own", own);
  };
  save_state(folder.path() / "memory", training);
  lent = {0, 0, 0, 0};
  own.mutable_data()[0] = 0;
  const float* const place = own.data();
  load_state(folder.path() / "memory", training);
  EXPECT_EQ(lent, (std::vector<float>{1, 2, 3, 4}));
  EXPECT_EQ(own.data(), place);
  EXPECT_EQ(own.data()[0], 5.0F);
  // Copies that others have stay as they are.
  const Array<float> copy = own;
  own.mutable_data()[0] = 0;
  load_state(folder.path() / "memory", training);
  EXPECT_EQ(own, copy);
}

TEST(TrainingState, HasWhatTheFileSaysBesides) {
  const TemporaryFolder folder;
  float a = 1;
  const auto training = [&](const auto& visit) { visit("a", a); };
  save_state(folder.path() / "texts", training, {{"seed", "7"}});
  train::SafetensorsFile file(folder.path() / "texts");
  EXPECT_EQ(file.metadata().at("seed"), "7");
  a = 2;
  load_state(file, training);
  EXPECT_EQ(a, 1.0F);
}

TEST(TrainingState, ShowsStatesOfPartsOfPartsInOrder) {
  float a = 1;
  double b = 2;
  const auto inner = [&](const auto& visit) { visit("a", a); };
  const auto outer = [&](const auto& visit) { visit("inner", inner), visit("b", b); };
  std::vector<std::string> names;
  train::for_each_state([&](const auto& visit) { visit("outer", outer), visit("a", a); },
                        [&](const std::string& name, auto&) { names.push_back(name); });
  EXPECT_EQ(names, (std::vector<std::string>{"outer.inner.a", "outer.b", "a"}));
}

TEST(TrainingState, OfATapeIsTheNumberOfTheStepAndChoosesWhatIsObserved) {
  Tape<precision::fp32> tape;
  tape.observe_with([](const Observation&) {}, 4);
  tape.set_step(5);
  EXPECT_FALSE(tape.is_observed());
  std::vector<std::string> names;
  tape.for_each_state([&](std::string_view name, std::uint64_t& step) {
    names.emplace_back(name);
    EXPECT_EQ(step, 5U);
    step = 8;
  });
  EXPECT_EQ(names, std::vector<std::string>{"step"});
  EXPECT_EQ(tape.step(), 8U);
  EXPECT_TRUE(tape.is_observed());
}

}  // namespace training_state_test
