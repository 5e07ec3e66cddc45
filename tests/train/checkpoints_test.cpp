// SPDX-License-Identifier: MIT
#include "unit_scaling/train/checkpoints.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <limits>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "support/errors.hpp"
#include "support/temporary_folder.hpp"
#include "support/texts.hpp"
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

TEST_F(CheckpointsTest, ReplaceNoFileThatIsNotTheirOwn) {
  const fs::path file = of(training_).path(100);
  const auto expect_refusal = [&](std::string_view what) {
    const std::string before = content(file);
    expect_error<FileError>([&] { of(training_).save(100, after(100)); },
                            {"step-00000100.safetensors'", what});
    EXPECT_EQ(content(file), before);
    EXPECT_EQ(names(), std::set<std::string>{"step-00000100.safetensors"});
  };
  fs::create_directories(path_);
  train::save_state(file, after(5));
  expect_refusal("is no checkpoint of a training");
  std::ofstream(file) << "mine";
  expect_refusal("safetensors");
  fs::remove(file);
  save(of(other_), {100});
  std::ofstream(file, std::ios::app) << "x";
  expect_refusal("safetensors");
  fs::remove(file);
  // Its own may be replaced.
  save(of(training_), {100, 100});
}

TEST_F(CheckpointsTest, ReplaceADamagedOneThatWasToldOf) {
  save(of(training_), {10, 20});
  fs::resize_file(of(training_).path(20), 100);
  int told = 0;
  const Checkpoints tolerant =
      of(training_, {.on_damaged = [&](const FileError& /*error*/) { ++told; }});
  expect_error<FileError>([&] { tolerant.save(20, after(20)); }, {"step-00000020.safetensors'"});
  Counting training;
  EXPECT_EQ(tolerant.load_latest(training), 10U);
  EXPECT_EQ(told, 1);
  save(tolerant, {20});
  EXPECT_EQ(of(training_).load_latest(training), 20U);
  // It is no longer a damaged one that may be replaced.
  std::ofstream(of(training_).path(20)) << "mine";
  expect_error<FileError>([&] { tolerant.save(20, after(20)); }, {"step-00000020.safetensors'"});
}

TEST_F(CheckpointsTest, AreNotOfAnotherStepThanTheirNameSays) {
  save(of(training_), {10, 20});
  fs::rename(of(training_).path(20), of(training_).path(500));
  const auto text = {
      std::string_view("step-00000500.safetensors': is of step 20, expected step "
                       "500 as its name says")};
  Counting training = after(3);
  expect_error<FileError>([&] { (void)of(training_).load_latest(training); }, text);
  expect_error<FileError>([&] { of(training_).save(500, after(500)); }, text);
  EXPECT_EQ(training.weights, after(3).weights);
  std::vector<std::string> told;
  const Checkpoints tolerant = of(
      training_, {.on_damaged = [&](const FileError& error) { told.emplace_back(error.what()); }});
  EXPECT_EQ(tolerant.load_latest(training), 10U);
  ASSERT_EQ(told.size(), 1U);
  EXPECT_NE(told[0].find(*text.begin()), std::string::npos);
  EXPECT_EQ(of(training_).latest()->step(), 10U);
}

TEST_F(CheckpointsTest, OfATrainingBegunAnewKeepTheOneThatWasJustSaved) {
  const Checkpoints one = of(training_, {.keep = 1});
  save(one, {100, 20});
  EXPECT_EQ(names(), std::set<std::string>{"step-00000020.safetensors"});
  save(of(training_, {.keep = 2}), {30, 10});
  EXPECT_EQ(names(),
            (std::set<std::string>{"step-00000010.safetensors", "step-00000030.safetensors"}));
}

TEST_F(CheckpointsTest, AreLoadedWhileTheyAreSaved) {
  const Checkpoints writer = of(training_, {.keep = 1});
  save(writer, {1});
  std::atomic<bool> is_over = false;
  std::thread saving([&] {
    for (std::uint64_t step = 2; !is_over; ++step) writer.save(step, after(step));
  });
  const Checkpoints reader = of(training_, {.keep = 1});
  Counting training;
  std::uint64_t last = 0;
  for (int i = 0; i < 1000; ++i) {
    std::optional<std::uint64_t> step;
    EXPECT_NO_THROW(step = reader.load_latest(training));
    if (!step || *step < last) ADD_FAILURE() << "after step " << last;
    last = step.value_or(last);
  }
  is_over = true;
  saving.join();
  // A name without a file is a damaged one, not one that has gone.
  fs::create_symlink("nothing", of(training_).path(1'000'000'000));
  expect_error<FileError>([&] { (void)reader.load_latest(training); },
                          {"step-1000000000.safetensors': there is no such file"});
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
  std::ofstream(file) << "whatever is there";
  save(checkpoints, {7});
  EXPECT_EQ(checkpoints.load_latest(training), 7U);
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
  for (const auto make :
       {+[](const Fingerprint& training) { (void)Checkpoints("", training); },
        +[](const Fingerprint& training) { (void)Checkpoints::in_file("", training); }}) {
    expect_domain_error([&] { make(training_); }, {"Checkpoints", "got none"});
  }
  std::ofstream(folder_.path() / "runs") << "a file";
  expect_error<FileError>([&] { of(training_).save(1, after(1)); },
                          {"runs/one", "folder", "one can be made: Not a directory"});
  Counting training;
  expect_error<FileError>([&] { (void)of(training_).load_latest(training); },
                          {"runs/one", "cannot be read"});
  const fs::path no_folder = folder_.path() / "none/file";
  expect_error<FileError>(
      [&] { (void)Checkpoints::in_file(no_folder, training_).load_latest(training); },
      {"/none/file': cannot create a file beside it: "});
  // Where nothing can be made, whoever the user is.
  if (!fs::exists("/proc/self")) return;
  const Checkpoints in_proc("/proc/self/runs/one", training_);
  expect_error<FileError>([&] { in_proc.save(1, after(1)); },
                          {"'/proc/self/runs/one': expected a folder, or that one can be made: "});
  expect_error<FileError>([&] { (void)in_proc.load_latest(training); },
                          {"'/proc/self/runs': cannot create a file beside it: "});
  expect_error<FileError>(
      [&] { (void)Checkpoints::in_file("/proc/self/file", training_).load_latest(training); },
      {"'/proc/self/file': cannot create a file beside it: "});
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
