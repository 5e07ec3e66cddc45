// SPDX-License-Identifier: MIT
#include "unit_scaling/analysis/tracker.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "support/errors.hpp"
#include "support/random_arrays.hpp"
#include "unit_scaling/analysis/tracker_output.hpp"
#include "unit_scaling/autograd/tape.hpp"
#include "unit_scaling/core/atomic_file.hpp"
#include "unit_scaling/formats/catalogue.hpp"
#include "unit_scaling/nn/bert_mlp.hpp"
#include "unit_scaling/ops/cross_entropy.hpp"
#include "unit_scaling/ops/linear.hpp"
#include "unit_scaling/ops/reshape.hpp"
#include "unit_scaling/ops/sum.hpp"
#include "unit_scaling/optim/adam.hpp"

namespace tracker_test {

using namespace unit_scaling;
using analysis::NonFiniteTensor;
using analysis::TrackedRole;
using analysis::TrackedSample;
using analysis::TrackedTensor;
using analysis::Tracker;
using analysis::TrackerOptions;
using unit_scaling_test::expect_error;
using unit_scaling_test::id_array;
using unit_scaling_test::normal_array;

constexpr float nan = std::numeric_limits<float>::quiet_NaN();

/// A small masked language model under fp8 and its training.
class Training {
 public:
  explicit Training(const Scaling& rules = scaling::paper)
      : rules_(rules),
        initialiser_(1, rules),
        model(initialiser_, {.vocabulary_size = 23, .window = 16, .hidden_size = 32, .layers = 2}),
        optimiser_(optim::parameters_of(model), {.rule = rules.rule}) {}

  void step(float loss_scale = 1) {
    tape.clear();
    const std::uint64_t seed = 3 * tape.step();
    const auto ids = id_array({8, 16}, 23, seed);
    const auto selected = id_array({24}, 8 * 16, seed + 1);
    const auto labels = id_array({24}, 23, seed + 2);
    tape.backward(ops::cross_entropy(model(tape, ids, selected), labels, {.scaling = rules_}),
                  loss_scale);
    optimiser_.step(tape, 0x1p-6, static_cast<double>(loss_scale));
  }

  [[nodiscard]] std::vector<Array<float>> parameters() {
    std::vector<Array<float>> result;
    for (const Parameter* parameter : optim::parameters_of(model)) {
      result.push_back(parameter->value);
    }
    return result;
  }

 private:
  Scaling rules_;
  nn::Initialiser initialiser_;

 public:
  nn::BertMlp model;
  Tape<precision::fp8> tape;

 private:
  optim::Adam optimiser_;
};

const TrackedTensor* find(const Tracker& tracker, const std::string& name) {
  const auto found = std::find_if(tracker.tensors().begin(), tracker.tensors().end(),
                                  [&](const TrackedTensor& tensor) { return tensor.name == name; });
  return found == tracker.tensors().end() ? nullptr : &*found;
}

TEST(Tracker, NamesFollowTheModulePath) {
  Training run;
  Tracker tracker;
  tracker.attach(run.tape);
  run.step();
  tracker.record_updates(optim::parameters_of(run.model));
  struct Expected {
    const char* name;
    TrackedRole role;
    const char* format;
    Shape shape;
  };
  const std::vector<Expected> all{
      {"tokens.table", TrackedRole::parameter, "float32", {23, 32}},
      {"tokens/embedding", TrackedRole::value, "float16", {8, 16, 32}},
      {"blocks.0.feed_forward.up/linear", TrackedRole::value, "float16", {8, 16, 128}},
      {"operand 0 of blocks.0.feed_forward.up/linear",
       TrackedRole::operand,
       "float8_e4m3fn",
       {8, 16, 32}},
      {"operand 1 of blocks.0.feed_forward.up/linear",
       TrackedRole::operand,
       "float8_e4m3fn",
       {128, 32}},
      {"gradient of blocks.0.feed_forward.up/linear",
       TrackedRole::gradient,
       "float8_e5m2",
       {8, 16, 128}},
      {"blocks.1.feed_forward/residual_split[0]", TrackedRole::value, "float16", {8, 16, 32}},
      {"blocks.1.feed_forward/residual_split[1]", TrackedRole::value, "float16", {8, 16, 32}},
      {"gradient of blocks.1.feed_forward/residual_split[0]",
       TrackedRole::gradient,
       "float16",
       {8, 16, 32}},
      {"gradient of blocks.1.feed_forward/residual_split[1]",
       TrackedRole::gradient,
       "float16",
       {8, 16, 32}},
      {"cross_entropy", TrackedRole::value, "float32", {}},
      {"gradient of tokens.table", TrackedRole::parameter_gradient, "float16", {23, 32}},
      {"update of tokens.table", TrackedRole::update, "float32", {23, 32}}};
  for (const Expected& expected : all) {
    const TrackedTensor* tensor = find(tracker, expected.name);
    ASSERT_NE(tensor, nullptr) << expected.name;
    EXPECT_EQ(tensor->role, expected.role) << expected.name;
    EXPECT_EQ(tensor->format, expected.format) << expected.name;
    EXPECT_EQ(tensor->shape, expected.shape) << expected.name;
  }
  EXPECT_EQ(find(tracker, "blocks.1.feed_forward/residual_split"), nullptr);
}

TEST(Tracker, MeasuresWhatTheTapeShowsInTheFormatThatItIsRoundedTo) {
  struct Seen {
    std::string name;
    std::string format;
    TensorRole role;
    std::vector<float> elements;
  };
  std::vector<Seen> all;
  Training plain;
  plain.tape.observe_with([&](const Observation& seen) {
    all.push_back({std::string(seen.name),
                   std::string(seen.format),
                   seen.role,
                   {seen.elements.begin(), seen.elements.end()}});
  });
  plain.step(0x1p-12F);

  Training run;
  Tracker tracker;
  tracker.attach(run.tape);
  run.step(0x1p-12F);
  ASSERT_EQ(tracker.tensors().size(), all.size());
  std::uint64_t underflowed_operands = 0;
  std::uint64_t underflowed_gradients = 0;
  for (std::size_t i = 0; i < all.size(); ++i) {
    const Seen& seen = all[i];
    const TrackedTensor& tensor = tracker.tensors()[i];
    SCOPED_TRACE(tensor.name);
    EXPECT_EQ(tensor.source, seen.name);
    EXPECT_EQ(tensor.format, seen.format);
    ASSERT_EQ(tensor.samples.size(), 1U);
    EXPECT_EQ(tensor.samples[0].step, 1U);
    EXPECT_FALSE(tensor.samples[0].update_ratio.has_value());
    const analysis::TensorStatistics& measured = tensor.samples[0].statistics;
    double squares = 0;
    std::uint64_t zeros = 0;
    std::uint64_t underflowed = 0;
    std::uint64_t saturated = 0;
    for (const float element : seen.elements) {
      float rounded = element;
      float largest = std::numeric_limits<float>::max();
      const auto round_to = [&]<class T>(T) {
        rounded = static_cast<float>(T::from_float(element, Overflow::saturate));
        largest = static_cast<float>(T::format.max_finite());
      };
      if (seen.format == "float8_e4m3fn") round_to(float8_e4m3fn{});
      if (seen.format == "float8_e5m2") round_to(float8_e5m2{});
      if (seen.format == "float16") round_to(float16{});
      squares += static_cast<double>(element) * static_cast<double>(element);
      zeros += element == 0 ? 1 : 0;
      underflowed += element != 0 && rounded == 0 ? 1 : 0;
      saturated += std::abs(rounded) == largest ? 1 : 0;
    }
    EXPECT_EQ(measured.elements, seen.elements.size());
    const double rms = std::sqrt(squares / static_cast<double>(seen.elements.size()));
    EXPECT_NEAR(measured.rms, rms, 1e-12 * rms);
    EXPECT_EQ(measured.histogram.zeros, zeros);
    EXPECT_EQ(measured.underflowed, underflowed);
    EXPECT_EQ(measured.saturated, saturated);
    if (seen.role == TensorRole::operand) underflowed_operands += underflowed;
    if (seen.role == TensorRole::gradient) underflowed_gradients += underflowed;
  }
  // Both formats did decide something.
  EXPECT_GT(underflowed_operands, 0U);
  EXPECT_GT(underflowed_gradients, 0U);
}

TEST(Tracker, ChangesNoBitOfTraining) {
  Training plain;
  Training tracked;
  Tracker tracker({.every = 2});
  tracker.attach(tracked.tape);
  for (int step = 0; step < 5; ++step) {
    plain.step();
    tracked.step();
    tracker.record_updates(optim::parameters_of(tracked.model));
  }
  const auto expected = plain.parameters();
  const auto actual = tracked.parameters();
  ASSERT_EQ(actual.size(), expected.size());
  for (std::size_t i = 0; i < actual.size(); ++i) {
    EXPECT_TRUE(std::equal(actual[i].data(), actual[i].data() + actual[i].size(),
                           expected[i].data(), expected[i].data() + expected[i].size()));
  }
}

TEST(Tracker, LooksAtEachNthStepAndKeepsTensorsApart) {
  Training run;
  Tracker tracker({.every = 2});
  tracker.attach(run.tape);
  for (int step = 0; step < 5; ++step) {
    run.step();
    tracker.record_updates(optim::parameters_of(run.model));
  }
  ASSERT_FALSE(tracker.tensors().empty());
  for (const TrackedTensor& tensor : tracker.tensors()) {
    std::vector<std::uint64_t> steps;
    for (const TrackedSample& sample : tensor.samples) steps.push_back(sample.step);
    EXPECT_EQ(steps, (std::vector<std::uint64_t>{2, 4})) << tensor.name;
  }
}

TEST(Tracker, AnUpdateIsTheValueAfterLessTheValueBefore) {
  Training run;
  Tracker tracker({.every = 3});
  tracker.attach(run.tape);
  std::vector<Array<float>> before;
  for (int step = 0; step < 4; ++step) {
    if (step == 2) before = run.parameters();
    run.step();
    tracker.record_updates(optim::parameters_of(run.model));
    if (step != 2) continue;
    const auto parameters = optim::parameters_of(run.model);
    for (std::size_t i = 0; i < parameters.size(); ++i) {
      SCOPED_TRACE(parameters[i]->name);
      double sum = 0;
      double update = 0;
      double value = 0;
      for (std::size_t k = 0; k < before[i].size(); ++k) {
        const float difference = parameters[i]->value.data()[k] - before[i].data()[k];
        sum += static_cast<double>(difference);
        update += std::pow(static_cast<double>(difference), 2);
        value += std::pow(static_cast<double>(before[i].data()[k]), 2);
      }
      const auto n = static_cast<double>(before[i].size());
      const TrackedTensor* tensor = find(tracker, "update of " + parameters[i]->name);
      ASSERT_NE(tensor, nullptr);
      ASSERT_EQ(tensor->samples.size(), 1U);
      EXPECT_GT(update, 0);
      EXPECT_NEAR(tensor->samples[0].statistics.rms, std::sqrt(update / n),
                  1e-12 * std::sqrt(update / n));
      EXPECT_NEAR(tensor->samples[0].statistics.mean, sum / n, 1e-12 * std::sqrt(update / n));
      ASSERT_EQ(tensor->samples[0].update_ratio.has_value(), value > 0);
      if (value > 0) {
        EXPECT_NEAR(*tensor->samples[0].update_ratio, std::sqrt(update / value),
                    1e-12 * std::sqrt(update / value));
      }
    }
  }
  // The step after, which is not looked at, added none.
  const TrackedTensor* update = find(tracker, "update of tokens.table");
  ASSERT_NE(update, nullptr);
  EXPECT_EQ(update->samples.size(), 1U);
}

TEST(Tracker, AnUpdateOfZerosHasNoRatio) {
  Parameter bias{"b", Array<float>::filled(Shape{2}, 0)};
  Tape<precision::fp32> tape;
  Tracker tracker;
  tracker.attach(tape);
  static_cast<void>(tape.parameter(bias));
  bias.value = Array<float>::filled(Shape{2}, -2);
  tracker.record_updates(std::vector<Parameter*>{&bias});
  const TrackedTensor* update = find(tracker, "update of b");
  ASSERT_NE(update, nullptr);
  EXPECT_EQ(update->samples.at(0).statistics.mean, -2);
  EXPECT_FALSE(update->samples[0].update_ratio.has_value());
}

TEST(Tracker, KeepsTensorsApartByPlaceModuleAndFormat) {
  Tape<precision::fp32> floats;
  Tape<precision::fp16> halves;
  Tracker tracker;
  const auto record = [&]<Precision P>(Tape<P>& tape, const char* path) {
    tape.clear();
    const auto module = tape.enter(path);
    const ops::Reshape same{.shape = Shape{2}};
    const auto x = tape.input(Array<typename P::storage>(Shape{2}));
    static_cast<void>(ops::reshape(ops::reshape(x, same), same));
  };
  tracker.attach(floats);
  record(floats, "one");
  record(floats, "two");
  record(floats, "one");
  tracker.attach(halves);
  record(halves, "one");
  std::vector<std::string> seen;
  for (const TrackedTensor& tensor : tracker.tensors()) {
    seen.push_back(tensor.name + " " + std::to_string(tensor.index) + " " + tensor.format + " " +
                   std::to_string(tensor.samples.size()));
  }
  EXPECT_EQ(seen, (std::vector<std::string>{"one/reshape 0 float32 2", "one/reshape 1 float32 2",
                                            "two/reshape 0 float32 1", "two/reshape 1 float32 1",
                                            "one/reshape 0 float16 1", "one/reshape 1 float16 1"}));
}

TEST(Tracker, KeepsOpsApartThatNoGradientIsWantedOf) {
  for (const TapeMode mode : {TapeMode::training, TapeMode::inference}) {
    Tape<precision::fp32> tape(mode);
    Tracker tracker;
    tracker.attach(tape);
    const ops::Reshape same{.shape = Shape{2}};
    for (int step = 0; step < 2; ++step) {
      tape.clear();
      const auto one = tape.constant(Array<float>::filled({2}, 1));
      const auto two = tape.constant(Array<float>::filled({2}, 2));
      const auto three = tape.input(Array<float>::filled({2}, 3));
      static_cast<void>(ops::reshape(one, same));
      static_cast<void>(ops::reshape(two, same));
      const auto y = ops::reshape(ops::reshape(three, same), {.shape = Shape{1, 2}});
      if (mode == TapeMode::training) {
        const ops::Sum plain{.scaling = scaling::none};
        tape.backward(ops::sum(ops::sum(y, plain), plain));
      }
    }
    std::vector<double> scales;
    for (const TrackedTensor& tensor : tracker.tensors()) {
      EXPECT_EQ(tensor.samples.size(), 2U) << tensor.name << " " << tensor.index;
      if (tensor.role == TrackedRole::value && tensor.source == "reshape") {
        scales.push_back(tensor.samples[0].statistics.rms);
        EXPECT_EQ(tensor.samples.back().statistics.rms, scales.back());
      }
      if (tensor.role == TrackedRole::gradient && tensor.source == "reshape") {
        EXPECT_GE(tensor.index, 2U) << "those of constants have none";
      }
    }
    EXPECT_EQ(scales, (std::vector<double>{1, 2, 3, 3}));
  }
}

/// y = x wᵀ, summed.
template <Precision P>
void record_product(Tape<P>& tape, const Parameter& weight, float x, float seed = 1) {
  tape.clear();
  const auto input = tape.input(
      Array<typename P::storage>::filled(Shape{1, 2}, static_cast<typename P::storage>(x)));
  const ops::Sum plain{.scaling = scaling::none};
  const auto product = ops::linear(input, weight, {.scaling = scaling::none});
  tape.backward(ops::sum(ops::sum(product, plain), plain), static_cast<typename P::storage>(seed));
}

TEST(Tracker, NamesTheFirstTensorThatIsNotFinite) {
  const auto found = [](float weight, float x, float seed) -> std::string {
    const Parameter parameter{"w", Array<float>::filled(Shape{2, 2}, weight)};
    Tape<precision::fp16> tape;
    Tracker tracker;
    tracker.attach(tape);
    record_product(tape, parameter, 1);
    EXPECT_FALSE(tracker.first_non_finite().has_value());
    const Parameter second{"w", Array<float>::filled(Shape{2, 2}, weight)};
    record_product(tape, second, x, seed);
    const auto first = tracker.first_non_finite();
    return first ? std::to_string(first->step) + " " + first->name : "";
  };
  EXPECT_EQ(found(1, 1, 1), "");
  EXPECT_EQ(found(1, nan, 1), "2 operand 0 of linear");
  // 2 · 300 · 300 is beyond the largest number of binary16.
  EXPECT_EQ(found(300, 300, 1), "2 linear");
  EXPECT_THROW((void)found(1, 1, std::numeric_limits<float>::infinity()), std::invalid_argument);
  // 60000 is within binary16, but not the sum of two such that is the gradient of the input, nor
  // 4 times it, that of the weight.
  EXPECT_EQ(found(1, 4, 60000), "2 gradient of w");

  const Parameter broken{"w", Array<float>::filled(Shape{2, 2}, nan)};
  Tape<precision::fp16> tape;
  Tracker tracker;
  tracker.attach(tape);
  record_product(tape, broken, 1);
  ASSERT_TRUE(tracker.first_non_finite().has_value());
  EXPECT_EQ(tracker.first_non_finite()->name, "w") << "though the product is not finite either";
}

TEST(Tracker, SeesOfDoublesWhatBinary32MakesOfThem) {
  Tape<precision::fp64> tape;
  Tracker tracker;
  tracker.attach(tape);
  // Too small, subnormal, the largest, just below what rounds beyond it, and beyond it.
  const std::vector<double> elements{1e-300, 1e-40, 0x1.fffffep127, 0x1.fffffefp127, 0x1p128};
  static_cast<void>(
      ops::reshape(tape.input(Array<double>(Shape{5}, elements)), {.shape = Shape{5, 1}}));
  const TrackedTensor* tensor = find(tracker, "reshape");
  ASSERT_NE(tensor, nullptr);
  EXPECT_EQ(tensor->format, "float64");
  const auto& seen = tensor->samples.at(0).statistics;
  EXPECT_EQ(seen.histogram.zeros, 1U);
  EXPECT_EQ(seen.underflowed, 0U);
  EXPECT_EQ(seen.subnormal, 1U);
  EXPECT_EQ(seen.saturated, 2U);
  EXPECT_EQ(seen.histogram.non_finite, 1U);
}

TEST(Tracker, RefusesWhatItCannotTellApart) {
  EXPECT_THROW(Tracker({.every = 0}), std::invalid_argument);
  Parameter one{"w", Array<float>::filled(Shape{2, 2}, 1)};
  Parameter two{"w", Array<float>::filled(Shape{2, 2}, 1)};
  Tape<precision::fp32> tape;
  Tracker tracker;
  tracker.record_updates(std::vector<Parameter*>{&one});  // attached to nothing: nothing to record
  tracker.attach(tape);
  record_product(tape, one, 1);
  expect_error<std::invalid_argument>(
      [&] { tracker.record_updates(std::vector<Parameter*>{nullptr}); }, {"Tracker", "null"});
  tracker.record_updates(std::vector<Parameter*>{&one});
  expect_error<std::invalid_argument>(
      [&] { tracker.record_updates(std::vector<Parameter*>{&one}); }, {"'w'", "two"});
  Parameter other{"w", Array<float>::filled(Shape{3, 2}, 1)};
  expect_error<std::invalid_argument>(
      [&] { tracker.record_updates(std::vector<Parameter*>{&other}); }, {"'w'", "(3, 2)", "4"});
  tape.clear();
  static_cast<void>(tape.parameter(one));
  static_cast<void>(tape.parameter(two));
  expect_error<std::invalid_argument>(
      [&] { tracker.record_updates(std::vector<Parameter*>{&two}); }, {"'w'", "no other"});
}

// --- Planted fault -------------------------------------------------------------------------------

double share_of_gradients(const Tracker& tracker, const std::string& format) {
  double lost = 0;
  double elements = 0;
  for (const TrackedTensor& tensor : tracker.tensors()) {
    if (tensor.role != TrackedRole::gradient || tensor.format != format) continue;
    lost += static_cast<double>(tensor.samples[0].statistics.underflowed);
    elements += static_cast<double>(tensor.samples[0].statistics.elements);
  }
  EXPECT_GT(elements, 0);
  return lost / elements;
}

TEST(Tracker, ShowsAtWhichOpALossMultipliedByTooLittleUnderflows) {
  Training good;
  Tracker unit;
  unit.attach(good.tape);
  good.step();
  EXPECT_LT(share_of_gradients(unit, "float8_e5m2"), 0.001);

  Training bad;
  Tracker faulty;
  faulty.attach(bad.tape);
  bad.step(0x1p-20F);
  // Half the smallest E5M2 number is 2⁻¹⁷, and the gradients are near 2⁻²⁰. Only the op that loses
  // them shows it: what it passes on is zero already.
  // The first op of the backward pass whose gradient is lost is the first with a matrix product.
  const auto& tensors = faulty.tensors();
  const auto first = std::find_if(tensors.begin(), tensors.end(), [](const TrackedTensor& tensor) {
    const auto& seen = tensor.samples[0].statistics;
    return tensor.role == TrackedRole::gradient && seen.share(seen.underflowed) > 0.5;
  });
  ASSERT_NE(first, tensors.end());
  EXPECT_EQ(first->name, "gradient of readout/linear_readout");
}

// --- Output --------------------------------------------------------------------------------------

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> result;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) result.push_back(line);
  return result;
}

TEST(TrackerOutput, CsvHasALineForEachTensorAndStep) {
  const Parameter weight{"a \"b\", c", Array<float>(Shape{2, 2}, {0.5F, -1, 0, nan})};
  Tape<precision::fp32> tape;
  Tracker tracker;
  tracker.attach(tape);
  tape.clear();
  static_cast<void>(tape.parameter(weight));
  const auto lines = lines_of(analysis::to_csv(tracker));
  ASSERT_EQ(lines.size(), 2U);
  EXPECT_EQ(lines[0],
            "step,name,role,format,index,argument,shape,elements,rms,mean,std,min_magnitude,"
            "max_magnitude,zero_share,underflowed_share,subnormal_share,saturated_share,"
            "non_finite_share,update_ratio,first_exponent,counts");
  const std::string begin = "1,\"a \"\"b\"\", c\",parameter,float32,0,0,2x2,4,";
  EXPECT_EQ(lines[1].substr(0, begin.size()), begin);
  EXPECT_TRUE(lines[1].ends_with(",0.5,1,0.25,0,0,0,0.25,,-1,1 1")) << lines[1];
}

TEST(TrackerOutput, CsvLeavesTheExponentOfZerosEmpty) {
  const Parameter zeros{"w", Array<float>::filled(Shape{3}, 0)};
  Tape<precision::fp32> tape;
  Tracker tracker;
  tracker.attach(tape);
  static_cast<void>(tape.parameter(zeros));
  EXPECT_TRUE(analysis::to_csv(tracker).ends_with(",3,0,0,0,0,0,1,0,0,0,0,,,\n"));
}

TEST(TrackerOutput, CsvQuotesWhatWouldEndAFieldOrALine) {
  EXPECT_EQ(analysis::detail::csv_field("plain.name[0] of it"), "plain.name[0] of it");
  EXPECT_EQ(analysis::detail::csv_field("a,b"), "\"a,b\"");
  EXPECT_EQ(analysis::detail::csv_field("\"a\""), "\"\"\"a\"\"\"");
  EXPECT_EQ(analysis::detail::csv_field("a\nb"), "\"a\nb\"");
  EXPECT_EQ(analysis::detail::csv_field("a\rb"), "\"a\rb\"");
  EXPECT_EQ(analysis::detail::csv_field(""), "");
}

TEST(TrackerOutput, JsonSaysWhatWasMeasured) {
  Training run;
  Tracker tracker({.every = 2});
  tracker.attach(run.tape);
  for (int step = 0; step < 4; ++step) {
    run.step();
    tracker.record_updates(optim::parameters_of(run.model));
  }
  const auto json = nlohmann::json::parse(analysis::to_json(tracker));
  EXPECT_EQ(json["every"], 2);
  EXPECT_TRUE(json["first_non_finite"].is_null());
  ASSERT_EQ(json["tensors"].size(), tracker.tensors().size());
  for (std::size_t i = 0; i < tracker.tensors().size(); ++i) {
    const TrackedTensor& tensor = tracker.tensors()[i];
    const auto& read = json["tensors"][i];
    EXPECT_EQ(read["name"], tensor.name);
    EXPECT_EQ(read["role"], std::string(to_string(tensor.role)));
    EXPECT_EQ(read["module"], tensor.module);
    EXPECT_EQ(read["source"], tensor.source);
    EXPECT_EQ(read["index"], tensor.index);
    EXPECT_EQ(read["argument"], tensor.argument);
    EXPECT_EQ(read["format"], tensor.format);
    EXPECT_EQ(read["shape"].size(), tensor.shape.rank());
    ASSERT_EQ(read["samples"].size(), 2U);
    const auto& sample = read["samples"][1];
    const TrackedSample& expected = tensor.samples[1];
    EXPECT_EQ(sample["step"], 4);
    EXPECT_EQ(sample["elements"], expected.statistics.elements);
    // The shortest text that reads back as the same number.
    EXPECT_EQ(sample["rms"].get<double>(), expected.statistics.rms);
    EXPECT_EQ(sample["std"].get<double>(), expected.statistics.std);
    EXPECT_EQ(sample["subnormal_share"].get<double>(),
              expected.statistics.share(expected.statistics.subnormal));
    EXPECT_EQ(sample["update_ratio"].is_null(), !expected.update_ratio.has_value());
    EXPECT_EQ(sample["exponents"]["counts"].get<std::vector<std::uint64_t>>(),
              expected.statistics.histogram.counts);
    if (!expected.statistics.histogram.counts.empty()) {
      EXPECT_EQ(sample["exponents"]["first"], expected.statistics.histogram.first_exponent);
    }
  }
}

TEST(TrackerOutput, JsonOfOddNamesAndNumbersIsJson) {
  EXPECT_EQ(nlohmann::json::parse(analysis::json_string("a\"\\\n\x01 \xc3\xa9 \xf0\x9f\x98\x80")),
            "a\"\\\n\x01 \xc3\xa9 \xf0\x9f\x98\x80");
  for (const char* text : {"\x1f", "\xed\x9f\xbf", "\xf4\x8f\xbf\xbf"}) {
    EXPECT_EQ(nlohmann::json::parse(analysis::json_string(text)), text);
  }
  // A lone continuation, overlong forms, a surrogate, characters cut short and beyond the last.
  for (const char* text : {"\x80", "\xc0\xaf", "\xe0\x9f\xbf", "\xf0\x8f\xbf\xbf", "\xed\xa0\x80",
                           "\xe2\x82", "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xff"}) {
    const auto json = nlohmann::json::parse(analysis::json_string(text));
    EXPECT_NE(json.get<std::string>().find("\xef\xbf\xbd"), std::string::npos);
  }
  EXPECT_EQ(analysis::json_number(static_cast<double>(nan)), "null");
  EXPECT_EQ(analysis::json_number(-std::numeric_limits<double>::infinity()), "null");
  EXPECT_EQ(nlohmann::json::parse(analysis::json_number(0.1)).get<double>(), 0.1);
  EXPECT_EQ(nlohmann::json::parse(analysis::json_number(5e-324)).get<double>(), 5e-324);

  const Parameter weight{"\xff", Array<float>::filled(Shape{1}, nan)};
  Tape<precision::fp32> tape;
  Tracker tracker;
  tracker.attach(tape);
  static_cast<void>(tape.parameter(weight));
  const auto json = nlohmann::json::parse(analysis::to_json(tracker));
  EXPECT_EQ(json["first_non_finite"]["step"], 0);
  EXPECT_TRUE(json["tensors"][0]["samples"][0]["exponents"]["first"].is_null());
}

}  // namespace tracker_test
