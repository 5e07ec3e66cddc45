// SPDX-License-Identifier: MIT
#include "unit_scaling/train/checkpoints.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <limits>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "support/errors.hpp"
#include "support/temporary_folder.hpp"
#include "unit_scaling/formats/encoded_array.hpp"

namespace checkpoints_test {

using namespace unit_scaling;
using namespace unit_scaling_test;
using train::Checkpoints;
using train::Fingerprint;
namespace fs = std::filesystem;

/// A training whose state is a function of its step.
struct Counting {
  Array<float> weights = Array<float>::filled({3}, 0);
  double best = std::numeric_limits<double>::infinity();

  template <class Visitor> void for_each_state(const Visitor& visit) {
    visit("weights", weights);
    visit("best", best);
  }
};

Counting after(std::uint64_t step) {
  Counting training;
  training.weights = Array<float>::filled({3}, static_cast<float>(step));
  return training;
}

class CheckpointsTest : public testing::Test {
 protected:
  [[nodiscard]] Checkpoints of(const Fingerprint& training, Checkpoints::Options options = {}) {
    return Checkpoints(path_, training, options);
  }
  /// The names in the folder.
  [[nodiscard]] std::set<std::string> names() const {
    std::set<std::string> names;
    for (const auto& entry : fs::directory_iterator(path_)) {
      names.insert(entry.path().filename().string());
    }
    return names;
  }
  void save(const Checkpoints& checkpoints, const std::vector<std::uint64_t>& steps) {
    for (const std::uint64_t step : steps) EXPECT_TRUE(checkpoints.save(step, after(step)));
  }

  TemporaryFolder folder_;
  fs::path path_ = folder_.path() / "runs/one";
  Fingerprint training_ = Fingerprint().add("rate", 0.5).add("steps", 40);
  Fingerprint other_ = Fingerprint().add("rate", 0.5).add("steps", 12);
};

TEST_F(CheckpointsTest, AreWrittenWithTheirStepAndTrainingAndGoOnFromTheLast) {
  const Checkpoints checkpoints = of(training_);
  Counting training = after(7);
  EXPECT_EQ(checkpoints.load_latest(training), std::nullopt);
  EXPECT_FALSE(checkpoints.latest().has_value());
  EXPECT_FALSE(fs::exists(path_));
  save(checkpoints, {20, 40});
  EXPECT_EQ(names(),
            (std::set<std::string>{"step-00000020.safetensors", "step-00000040.safetensors"}));
  EXPECT_EQ(checkpoints.load_latest(training), 40U);
  EXPECT_EQ(training.weights, after(40).weights);
  EXPECT_EQ(checkpoints.latest()->step(), 40U);
  // What others read of it.
  const train::SafetensorsFile file(checkpoints.path(20));
  const std::map<std::string, std::string> metadata{{"training", "rate=0.5 steps=40"},
                                                    {"step", "20"}};
  EXPECT_EQ(file.metadata(), metadata);
  train::load_state(checkpoints.path(20), training);
  EXPECT_EQ(training.weights, after(20).weights);
}

TEST_F(CheckpointsTest, KeepsTheLastOnesAndNothingElseIsRemoved) {
  save(of(other_), {10});
  const std::set<std::string> strange{"step-5.safetensors",
                                      "step-00000005.safetensors.bak",
                                      "step-0000000x.safetensors",
                                      "notes.txt",
                                      "step-99999999999999999999999.safetensors",
                                      "step-000000006.safetensors"};
  for (const std::string& name : strange) std::ofstream(path_ / name) << "mine";
  std::ofstream(path_ / "step-00000001.safetensors") << "damaged, of whom nobody knows";
  fs::create_directory(path_ / "step-00000002.safetensors");
  const auto with_strange = [&](std::set<std::string> names) {
    names.insert(strange.begin(), strange.end());
    names.insert(
        {"step-00000001.safetensors", "step-00000002.safetensors", "step-00000010.safetensors"});
    return names;
  };
  const Checkpoints two = of(training_, {.keep = 2});
  save(two, {20, 30});
  EXPECT_EQ(names(), with_strange({"step-00000020.safetensors", "step-00000030.safetensors"}));
  save(two, {123456789});
  EXPECT_EQ(names(), with_strange({"step-00000030.safetensors", "step-123456789.safetensors"}));
  // One that went on from an earlier step keeps what it has saved.
  save(two, {25});
  EXPECT_EQ(names(), with_strange({"step-00000025.safetensors", "step-123456789.safetensors"}));
  save(of(training_, {.keep = 1}), {26});
  EXPECT_EQ(names(), with_strange({"step-00000026.safetensors"}));
}

TEST_F(CheckpointsTest, SaysWhichTrainingItIsOfAndReplacesNoneOfAnother) {
  save(of(other_), {10});
  Counting training = after(3);
  const auto text = {
      std::string_view("step-00000010.safetensors': is of another training: steps "
                       "is 12 there and 40 here")};
  expect_error<FileError>([&] { (void)of(training_).load_latest(training); }, text);
  expect_error<FileError>([&] { of(training_).save(10, training); }, text);
  EXPECT_EQ(training.weights, after(3).weights);
  EXPECT_FALSE(of(training_).latest().has_value());
  EXPECT_EQ(of(other_).load_latest(training), 10U);
  EXPECT_EQ(training.weights, after(10).weights);
}

TEST_F(CheckpointsTest, TellsOfADamagedOneAndTakesTheOneBeforeIfTold) {
  save(of(training_), {10, 20, 30});
  fs::resize_file(of(training_).path(30), 100);
  // Opens, but has not the states.
  train::save_state(of(training_).path(20), [](const auto& /*visit*/) {},
                    {{"training", training_.to_string()}, {"step", "20"}});
  Counting training = after(3);
  expect_error<FileError>([&] { (void)of(training_).load_latest(training); },
                          {"step-00000030.safetensors"});
  EXPECT_EQ(training.weights, after(3).weights);
  std::vector<std::string> told;
  const Checkpoints tolerant = of(
      training_, {.on_damaged = [&](const FileError& error) { told.emplace_back(error.what()); }});
  EXPECT_EQ(tolerant.load_latest(training), 10U);
  EXPECT_EQ(training.weights, after(10).weights);
  ASSERT_EQ(told.size(), 2U);
  EXPECT_NE(told[0].find("step-00000030.safetensors"), std::string::npos);
  EXPECT_NE(told[1].find("step-00000020.safetensors': has no array 'weights'"), std::string::npos);
  // A training with nothing but damaged ones does not begin anew unasked.
  fs::remove(of(training_).path(10));
  told.clear();
  training = after(3);
  expect_error<FileError>([&] { (void)tolerant.load_latest(training); },
                          {"step-00000030.safetensors"});
  EXPECT_EQ(told.size(), 2U);
  EXPECT_EQ(training.weights, after(3).weights);
}

TEST_F(CheckpointsTest, OfATrainingThatIsNotFiniteAreNotSaved) {
  const Checkpoints checkpoints = of(training_);
  save(checkpoints, {10});
  for (const float wrong :
       {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()}) {
    Counting training = after(20);
    training.weights.mutable_data()[2] = wrong;
    EXPECT_FALSE(checkpoints.save(20, training));
    EXPECT_FALSE(checkpoints.save(10, training));
  }
  const auto of_array = [](auto array) {
    return train::first_non_finite_state([&](const auto& visit) { visit("state", array); });
  };
  const double nan = std::nan("");
  EXPECT_EQ(of_array(Array<double>({1}, {nan})), "state");
  EXPECT_EQ(of_array(Array<float16>({1}, {float16(HUGE_VALF)})), "state");
  EXPECT_EQ(of_array(Array<float8_e4m3fn>({1}, {float8_e4m3fn(NAN)})), "state");
  EXPECT_EQ(of_array(std::map<std::string, Array<float>>{{"a", Array<float>({1}, {1})},
                                                         {"b", Array<float>({1}, {NAN})}}),
            "state");
  Array<float> codes = Array<float>::filled({1500}, 1);
  const auto encoded = [&] {
    return EncodedArray::encode(EncodedArray::view(codes), Format::parse("e4m3fn"));
  };
  EXPECT_EQ(of_array(encoded()), std::nullopt);
  codes.mutable_data()[1499] = NAN;
  EXPECT_EQ(of_array(encoded()), "state");
  EXPECT_EQ(of_array(Array<std::int32_t>({1}, {1})), std::nullopt);
  EXPECT_EQ(of_array(Array<float>({0, 3})), std::nullopt);
  EXPECT_EQ(names(), std::set<std::string>{"step-00000010.safetensors"});
  Counting training;
  EXPECT_EQ(checkpoints.load_latest(training), 10U);
  EXPECT_TRUE(std::isinf(training.best)) << "a number may be anything";
}

TEST_F(CheckpointsTest, InOneFileReplaceEachOther) {
  const fs::path file = folder_.path() / "checkpoint.safetensors";
  std::ofstream(folder_.path() / "step-00000001.safetensors") << "of somebody";
  const Checkpoints checkpoints = Checkpoints::in_file(file, training_);
  Counting training;
  EXPECT_EQ(checkpoints.load_latest(training), std::nullopt);
  save(checkpoints, {20, 10});
  EXPECT_EQ(checkpoints.path(20), file);
  EXPECT_EQ(checkpoints.load_latest(training), 10U);
  EXPECT_EQ(training.weights, after(10).weights);
  EXPECT_EQ(checkpoints.latest()->step(), 10U);
  const Checkpoints of_other = Checkpoints::in_file(file, other_);
  expect_error<FileError>([&] { (void)of_other.load_latest(training); },
                          {"checkpoint.safetensors': is of another training: steps is 40 there"});
  save(of_other, {5});
  EXPECT_EQ(of_other.load_latest(training), 5U);
  EXPECT_TRUE(fs::exists(folder_.path() / "step-00000001.safetensors"));
}

TEST_F(CheckpointsTest, NameFilesThatAreNone) {
  save(of(training_), {10});
  const fs::path file = of(training_).path(10);
  const auto refuse = [&](const std::map<std::string, std::string>& metadata,
                          std::initializer_list<std::string_view> parts) {
    train::save_state(file, after(10), metadata);
    expect_error<FileError>([&] { (void)train::Checkpoint(file); }, parts);
  };
  const std::string name = file.string();
  const std::string training = training_.to_string();
  refuse({}, {name, "is no checkpoint of a training", "'training'"});
  refuse({{"training", training}}, {name, "'step'"});
  refuse({{"training", "rate=0.5 "}, {"step", "10"}}, {name, "key=value"});
  for (const std::string step : {"", " 10", "10 ", "-1", "1e3", "ten", "18446744073709551616"}) {
    refuse({{"training", training}, {"step", step}}, {name, "is of step '" + step + "'"});
  }
  std::ofstream(file) << "no safetensors";
  expect_error<FileError>([&] { (void)train::Checkpoint(file); }, {name});
}

TEST_F(CheckpointsTest, RefusesFoldersThatAreNoneAndToKeepNone) {
  expect_domain_error([&] { (void)of(training_, {.keep = 0}); }, {"Checkpoints", "keep"});
  std::ofstream(folder_.path() / "runs") << "a file";
  expect_error<FileError>([&] { of(training_).save(1, after(1)); }, {"runs/one", "folder"});
  Counting training;
  expect_error<FileError>([&] { (void)of(training_).load_latest(training); },
                          {"runs/one", "cannot be read"});
}

TEST_F(CheckpointsTest, StayAsTheyAreWhereTheNextCannotBeWritten) {
  save(of(training_, {.keep = 1}), {10});
  fs::create_directory(of(training_).path(20));
  expect_error<FileError>([&] { of(training_, {.keep = 1}).save(20, after(20)); },
                          {"step-00000020.safetensors", "folder"});
  Counting training;
  fs::remove(of(training_).path(20));
  EXPECT_EQ(names(), std::set<std::string>{"step-00000010.safetensors"});
  EXPECT_EQ(of(training_).load_latest(training), 10U);
}

}  // namespace checkpoints_test
