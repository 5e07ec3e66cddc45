// SPDX-License-Identifier: MIT
// Runs the example as a user would, and looks at what it leaves behind.
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <random>
#include <string>

namespace {

namespace fs = std::filesystem;

struct Outcome {
  int exit_code = -1;
  std::string output;  // stdout and stderr together
};

Outcome run(const std::string& arguments) {
  const std::string command = std::string(UNIT_SCALING_BERT_MLP) + " " + arguments + " 2>&1";
  Outcome outcome;
  std::FILE* pipe = popen(command.c_str(), "r");
  if (pipe == nullptr) return outcome;
  char buffer[4096];
  while (const std::size_t size = std::fread(buffer, 1, sizeof(buffer), pipe)) {
    outcome.output.append(buffer, size);
  }
  const int status = pclose(pipe);
  outcome.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  return outcome;
}

std::string content(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

class BertMlp : public testing::Test {
 protected:
  BertMlp() {
    folder_ =
        fs::path(testing::TempDir()) /
        (std::string("bert_mlp.") + testing::UnitTest::GetInstance()->current_test_info()->name());
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  ~BertMlp() override { fs::remove_all(folder_); }

  [[nodiscard]] std::string out(const std::string& name) const { return (folder_ / name).string(); }

  /// Arguments of a small model, quick to train.
  [[nodiscard]] std::string small(const std::string& name) const {
    return "--hidden 32 --layers 2 --batch 8 --steps 12 --eval-every 4 --quiet --out " + out(name);
  }

  fs::path folder_;
};

TEST_F(BertMlp, ThreadCountDoesNotChangeABitOfTheTraining) {
  for (const std::string precision : {"fp32", "fp8"}) {
    ASSERT_EQ(run(small("one") + " --threads 1 --precision " + precision).exit_code, 0);
    ASSERT_EQ(run(small("two") + " --threads 2 --precision " + precision).exit_code, 0);
    const std::string one = content(folder_ / "one/checkpoint.safetensors");
    ASSERT_GT(one.size(), 1000U);
    EXPECT_EQ(one, content(folder_ / "two/checkpoint.safetensors"));
    EXPECT_EQ(content(folder_ / "one/metrics.csv"), content(folder_ / "two/metrics.csv"));
  }
}

TEST_F(BertMlp, ResumesBitIdenticallyToARunThatWasNeverStopped) {
  for (const std::string optimizer : {"adamw", "sgd"}) {
    const std::string what = " --precision fp8 --optimizer " + optimizer;
    ASSERT_EQ(run(small("whole") + what).exit_code, 0);
    ASSERT_EQ(run(small("part") + what + " --stop-at 5").exit_code, 0);
    EXPECT_NE(content(folder_ / "whole/checkpoint.safetensors"),
              content(folder_ / "part/checkpoint.safetensors"));
    const Outcome resumed =
        run(small("rest") + what + " --resume " + out("part/checkpoint.safetensors"));
    ASSERT_EQ(resumed.exit_code, 0) << resumed.output;
    EXPECT_EQ(content(folder_ / "whole/checkpoint.safetensors"),
              content(folder_ / "rest/checkpoint.safetensors"));
  }
}

TEST_F(BertMlp, RefusesACheckpointOfAnotherTraining) {
  ASSERT_EQ(run(small("part") + " --precision fp8 --stop-at 2").exit_code, 0);
  const Outcome other =
      run(small("rest") + " --precision fp16 --resume " + out("part/checkpoint.safetensors"));
  EXPECT_EQ(other.exit_code, 2);
  EXPECT_NE(other.output.find("another training"), std::string::npos) << other.output;
}

TEST_F(BertMlp, WritesASummaryOfEveryRunOfAComparison) {
  // Enough tokens for activations to outweigh the weights' rounded copies.
  const Outcome outcome =
      run("--hidden 32 --layers 2 --batch 64 --steps 12 --quiet --json --out " + out("compare"));
  ASSERT_EQ(outcome.exit_code, 0) << outcome.output;
  const auto summary = nlohmann::json::parse(content(folder_ / "compare/summary.json"));
  ASSERT_EQ(summary.at("runs").size(), 5U);
  for (const auto& entry : summary.at("runs")) {
    EXPECT_GT(entry.at("valid_bpc").get<double>(), 0);
    EXPECT_GT(entry.at("tokens_per_s").get<double>(), 0);
    EXPECT_EQ(entry.at("steps").get<int>(), 12);
  }
  // Real 1- and 2-byte storage shows in what is kept for the backward pass.
  const auto saved = [&](int index) {
    return summary.at("runs").at(static_cast<std::size_t>(index)).at("saved_bytes").get<double>();
  };
  EXPECT_LT(saved(1), 0.56 * saved(0));
  EXPECT_LT(saved(2), 0.45 * saved(0));
  EXPECT_TRUE(fs::exists(folder_ / "compare/loss.svg"));
  EXPECT_TRUE(fs::exists(folder_ / "compare/metrics.csv"));
}

TEST_F(BertMlp, AnswersEveryMistakeWithOneLineAndExitCodeTwo) {
  std::ofstream(folder_ / "empty.txt").close();
  std::ofstream(folder_ / "short.txt") << "too short";
  const std::string file = (folder_ / "short.txt").string();
  for (const std::string& mistake : {std::string("--precision fp7"),
                                     std::string("--scaling sometimes"),
                                     std::string("--scaling loss:-1"),
                                     std::string("--scaling loss:nan"),
                                     std::string("--norm middle"),
                                     std::string("--hidden 0"),
                                     std::string("--steps -3"),
                                     std::string("--batch x"),
                                     std::string("--lr 0"),
                                     std::string("--lr nan"),
                                     std::string("--schedule sine"),
                                     std::string("--optimizer lion"),
                                     std::string("--weight-decay -1"),
                                     std::string("--threads 0"),
                                     std::string("--compare fp8"),
                                     std::string("--unknown"),
                                     "--data " + out("missing.txt"),
                                     "--data " + out("empty.txt"),
                                     "--data " + file,
                                     "--data " + folder_.string(),
                                     "--resume " + file,
                                     "--precision fp8 --resume " + file,
                                     "--out " + file,
                                     std::string("--out /proc/none")}) {
    const std::string place = mistake.starts_with("--out") ? "" : " --out " + out("never");
    const Outcome outcome = run("--steps 1 --hidden 16 --quiet " + mistake + place);
    EXPECT_EQ(outcome.exit_code, 2) << mistake << "\n" << outcome.output;
    EXPECT_EQ(std::count(outcome.output.begin(), outcome.output.end(), '\n'), 1) << mistake << "\n"
                                                                                 << outcome.output;
    EXPECT_FALSE(fs::exists(folder_ / "never/summary.json")) << mistake;
  }
}

TEST_F(BertMlp, TrainsOnAnyBytes) {
  {
    std::ofstream file(folder_ / "bytes.bin", std::ios::binary);
    for (int i = 0; i < 4000; ++i) file.put(static_cast<char>(i * 37 % 256));
  }
  const Outcome outcome = run(small("bytes") + " --precision fp8 --data " + out("bytes.bin"));
  EXPECT_EQ(outcome.exit_code, 0) << outcome.output;
}

TEST_F(BertMlp, HelpNamesEveryOptionWithItsDefault) {
  const Outcome outcome = run("--help");
  EXPECT_EQ(outcome.exit_code, 0);
  for (const char* option :
       {"--data",         "--precision",    "--scaling",          "--norm",
        "--hidden",       "--layers",       "--window",           "--batch",
        "--steps",        "--lr",           "--schedule",         "--optimizer",
        "--weight-decay", "--seed",         "--threads",          "--eval-every",
        "--out",          "--compare",      "--resume",           "--quiet",
        "--json",         "--print-scales", "--loss-scale-window"}) {
    EXPECT_NE(outcome.output.find(option), std::string::npos) << option;
  }
}

// Of bytes that are independent of each other, as the rules suppose: of a text, some gradients of
// biases lie outside, how many depending on the text.
TEST_F(BertMlp, PrintsUnitScalesAtInitialisation) {
  {
    std::ofstream file(folder_ / "independent.bin", std::ios::binary);
    std::mt19937 random(1);
    for (int i = 0; i < 20000; ++i) file.put(static_cast<char>(random() % 128));
  }
  const std::string command =
      "--print-scales --precision fp8 --data " + out("independent.bin") + " ";
  for (const std::string shape :
       {"--hidden 64 --norm pre", "--hidden 256 --norm post --batch 64"}) {
    const Outcome outcome = run(command + shape);
    EXPECT_EQ(outcome.exit_code, 0) << outcome.output;
    EXPECT_NE(outcome.output.find("\n0 of 171 tensors"), std::string::npos) << outcome.output;
  }
  const Outcome plain = run(command + "--scaling none --batch 64");
  EXPECT_EQ(plain.exit_code, 0) << plain.output;
  EXPECT_EQ(plain.output.find("\n0 of 171 tensors"), std::string::npos) << plain.output;
}

}  // namespace
