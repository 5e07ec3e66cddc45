// SPDX-License-Identifier: MIT
// Runs the example as a user would, and looks at what it leaves behind.
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>
#include <random>
#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "support/command.hpp"
#include "support/temporary_folder.hpp"
#include "support/texts.hpp"
#include "support/words.hpp"
#include "unit_scaling/core/array.hpp"
#include "unit_scaling/train/safetensors.hpp"

namespace bert_mlp_test {

namespace fs = std::filesystem;

using unit_scaling_test::content;
using unit_scaling_test::Outcome;
using unit_scaling_test::TemporaryFolder;
using unit_scaling_test::words;

/// Runs the example.
/// @param errors where stderr goes.
/// @param folder where to run. Empty: here.
Outcome run(const std::string& arguments, const std::string& errors = "2>&1",
            const std::string& folder = "") {
  return unit_scaling_test::run_command((folder.empty() ? "" : "cd " + folder + " && ") +
                                        UNIT_SCALING_BERT_MLP + " " + arguments + " " + errors);
}

class BertMlp : public testing::Test {
 protected:
  BertMlp() { std::ofstream(folder_ / "words.txt") << words(); }

  [[nodiscard]] std::string out(const std::string& name) const { return (folder_ / name).string(); }

  /// Arguments of a small model, quick to train.
  [[nodiscard]] std::string small(const std::string& name) const {
    return tiny(name) + " --hidden 32 --layers 2 --steps 12 --eval-every 4 --quiet";
  }
  /// Arguments of the smallest model, into which others go.
  [[nodiscard]] std::string tiny(const std::string& name) const {
    return data() + " --out " + out(name);
  }
  [[nodiscard]] std::string data() const { return "--batch 8 --data " + out("words.txt"); }
  /// A column of metrics.csv.
  [[nodiscard]] std::vector<double> column(const std::string& name, std::size_t index) const {
    std::ifstream file(folder_ / name / "metrics.csv");
    std::vector<double> values;
    std::string line;
    std::getline(file, line);  // the names of the columns
    while (std::getline(file, line)) {
      std::istringstream cells(line);
      std::string cell;
      for (std::size_t i = 0; i <= index; ++i) std::getline(cells, cell, ',');
      values.push_back(std::stod(cell));
    }
    return values;
  }
  [[nodiscard]] nlohmann::json summary(const std::string& name) const {
    return nlohmann::json::parse(content(folder_ / name / "summary.json"));
  }

  const TemporaryFolder temporary_;
  const fs::path& folder_ = temporary_.path();
};

/// Expects one line and exit code 2, and no folder `never`.
void expect_refusal(const Outcome& outcome, const std::string& what, const fs::path& folder) {
  EXPECT_EQ(outcome.exit_code, 2) << what << "\n" << outcome.output;
  EXPECT_TRUE(outcome.output.starts_with("bert_mlp: --") ||
              outcome.output.starts_with("bert_mlp: not enough memory"))
      << what << "\n"
      << outcome.output;
  EXPECT_EQ(std::count(outcome.output.begin(), outcome.output.end(), '\n'), 1) << what << "\n"
                                                                               << outcome.output;
  EXPECT_FALSE(fs::exists(folder / "never")) << what;
}

TEST_F(BertMlp, ThreadCountDoesNotChangeABitOfTheTraining) {
  for (const std::string precision : {"fp32", "fp8"}) {
    const std::string one = precision + "-one";
    const std::string two = precision + "-two";
    ASSERT_EQ(run(small(one) + " --threads 1 --precision " + precision).exit_code, 0);
    ASSERT_EQ(run(small(two) + " --threads 2 --precision " + precision).exit_code, 0);
    const std::string checkpoint = content(folder_ / one / "checkpoint.safetensors");
    ASSERT_GT(checkpoint.size(), 1000U);
    EXPECT_EQ(checkpoint, content(folder_ / two / "checkpoint.safetensors"));
    EXPECT_EQ(content(folder_ / one / "metrics.csv"), content(folder_ / two / "metrics.csv"));
  }
}

TEST_F(BertMlp, ResumesBitIdenticallyToARunThatWasNeverStopped) {
  for (const std::string how :
       {"--optimizer adamw", "--optimizer sgd", "--optimizer adamw --accumulate 3"}) {
    const std::string what = " --precision fp8 --overwrite " + how;
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

// Four batches of 8 sequences and one of 32 have other masks, so the two runs are alike, not equal.
TEST_F(BertMlp, AccumulatesBatchesToAStepOfTheSameSizeInTheMemoryOfOne) {
  for (const std::string scaling : {"unit", "loss:64"}) {
    const auto result = [&](const std::string& name, const std::string& size) {
      const Outcome outcome =
          run("--data " + out("words.txt") + " --out " + out(name) +
              " --hidden 32 --layers 2 --steps 12 --eval-every 4 --quiet --overwrite --precision "
              "fp8 --scaling " +
              scaling + size);
      EXPECT_EQ(outcome.exit_code, 0) << outcome.output;
      return summary(name).at("runs").at(0);
    };
    const auto one = result("one", " --batch 8");
    const auto whole = result("whole", " --batch 32");
    const auto parts = result("parts", " --batch 8 --accumulate 4");
    EXPECT_EQ(parts.at("saved_bytes"), one.at("saved_bytes"));
    EXPECT_GT(whole.at("saved_bytes"), 3 * parts.at("saved_bytes").get<std::size_t>());
    EXPECT_EQ(parts.at("optimiser_bytes").get<std::size_t>(),
              whole.at("optimiser_bytes").get<std::size_t>() +
                  parts.at("parameter_bytes").get<std::size_t>());
    EXPECT_NEAR(parts.at("valid_bpc").get<double>(), whole.at("valid_bpc").get<double>(), 0.15)
        << scaling;
  }
  const Outcome many = run(tiny("many") + " --precision fp8 --steps 2147483648 --accumulate 3");
  EXPECT_EQ(many.exit_code, 2);
  EXPECT_EQ(many.output, "bert_mlp: --accumulate 3: expected at most 2^32 batches in all steps\n");
}

// The same batches, whose gradients are added up in another order: in fp32 that moves little.
TEST_F(BertMlp, TrainsReplicasOnTheBatchesThatItWouldAccumulate) {
  for (const std::string how :
       {"--scaling unit", "--scaling none", "--scaling loss:64 --optimizer sgd"}) {
    const auto curve = [&](const std::string& name, const std::string& batches) {
      const Outcome outcome = run(small(name) + " --overwrite --precision fp32 " + how + batches);
      EXPECT_EQ(outcome.exit_code, 0) << outcome.output;
      return column(name, 4);
    };
    const auto accumulated = curve("accumulated", " --accumulate 4");
    for (const std::string batches : {" --replicas 4", " --replicas 2 --accumulate 2"}) {
      const auto replicated = curve("replicas", batches);
      ASSERT_EQ(replicated.size(), accumulated.size());
      for (std::size_t i = 0; i < replicated.size(); ++i) {
        EXPECT_NEAR(replicated[i], accumulated[i], 1e-4) << how << batches << i;
      }
    }
  }
  // The sum of one replica, three of the tree, and that of all.
  ASSERT_EQ(run(small("four") + " --precision fp8 --replicas 4").exit_code, 0);
  ASSERT_EQ(run(small("one") + " --precision fp8").exit_code, 0);
  const auto bytes = [&](const std::string& name, const char* key) {
    return summary(name).at("runs").at(0).at(key).get<std::size_t>();
  };
  EXPECT_EQ(bytes("four", "optimiser_bytes"),
            bytes("one", "optimiser_bytes") + 5 * bytes("one", "parameter_bytes"));
}

TEST_F(BertMlp, RefusesReplicasThatCannotBeTrained) {
  const std::pair<std::string, std::string> cases[] = {
      {"--replicas 2 --recipe delayed",
       "--replicas 2: expected a recipe that keeps nothing from batch to batch, got delayed"},
      {"--replicas 3 --steps 2147483648",
       "--replicas 3: expected at most 2^32 batches in all steps"},
      {"--replicas 0", "--replicas 0: expected a whole number from 1 to 65536"},
      {"--wire float64",
       "--wire 'float64': gradients: expected a format within binary32 with a sign, zero and NaN, "
       "got float64"},
      {"--wire float9", "--wire 'float9': format 'float9': expected "},
      {"--deadline 0", "--deadline 0: expected a whole number from 1 to 2147483648"}};
  for (const auto& [what, line] : cases) {
    const Outcome outcome = run(tiny("never") + " --precision fp8 " + what);
    expect_refusal(outcome, what, folder_);
    EXPECT_TRUE(outcome.output.starts_with("bert_mlp: " + line)) << outcome.output;
  }
}

// A batch system leaves such variables in place, where there is no MPI.
TEST_F(BertMlp, IsAloneInAJobOfOneProcess) {
  ASSERT_EQ(run(small("alone") + " --precision fp8").exit_code, 0);
  for (const std::string variables :
       {"OMPI_COMM_WORLD_SIZE=1", "PMI_SIZE=1", "SLURM_STEP_NUM_TASKS=1 PMIX_RANK=0",
        "SLURM_STEP_NUM_TASKS=1"}) {
    const Outcome outcome =
        unit_scaling_test::run_command(variables + " " UNIT_SCALING_BERT_MLP " " + small("job") +
                                       " --overwrite --precision fp8 2>&1");
    EXPECT_EQ(outcome.exit_code, 0) << outcome.output;
    EXPECT_TRUE(content(folder_ / "job/checkpoint.safetensors") ==
                content(folder_ / "alone/checkpoint.safetensors"))
        << variables;
  }
}

// As without --mpi=pmix, where each process would take itself for the only one.
TEST_F(BertMlp, RefusesProcessesOfSrunThatDoNotFindEachOther) {
  const Outcome outcome = unit_scaling_test::run_command(
      "SLURM_STEP_NUM_TASKS=2 " UNIT_SCALING_BERT_MLP " " + small("never") + " 2>&1");
  EXPECT_EQ(outcome.exit_code, 2);
  EXPECT_EQ(outcome.output,
            "bert_mlp: started as one of 2 processes, as SLURM_STEP_NUM_TASKS says, that would "
            "each train a whole model; start them by srun --mpi=pmix\n");
  EXPECT_FALSE(fs::exists(folder_ / "never"));
}

TEST_F(BertMlp, SaysWhyItCannotBecomeTheProgramOfAnMpi) {
  fs::copy(UNIT_SCALING_BERT_MLP, folder_ / "bert_mlp");
  const auto expect = [&](const std::string& reason) {
    const Outcome outcome = unit_scaling_test::run_command(
        "OMPI_COMM_WORLD_SIZE=2 " + out("bert_mlp") + " " + small("never") + " 2>&1");
    EXPECT_EQ(outcome.exit_code, 2);
    EXPECT_EQ(outcome.output, "bert_mlp: started by mpirun of Open MPI, but " + reason + "\n");
  };
  expect("there is no program for it: install libopenmpi-dev, and build again");
  std::ofstream(folder_ / "bert_mlp_openmpi") << "no program";
  expect("cannot run '" + out("bert_mlp_openmpi") + "': Permission denied");
}

// Steps 5 and 7 lie between two validations; after 8 there is one.
TEST_F(BertMlp, KeepsTheCurvesOfARunThatIsResumedInItsOwnFolder) {
  const std::string what = " --precision fp8";
  ASSERT_EQ(run(small("whole") + what).exit_code, 0);
  const std::string metrics = content(folder_ / "whole/metrics.csv");
  ASSERT_EQ(std::count(metrics.begin(), metrics.end(), '\n'), 4) << metrics;
  const std::string again = " --resume " + out("part/checkpoint.safetensors");
  for (const std::string stops : {"5", "8", "12"}) {
    ASSERT_EQ(run(small("part") + what + " --overwrite --stop-at " + stops).exit_code, 0);
    if (stops == "5") {
      ASSERT_EQ(run(small("part") + what + again + " --stop-at 7").exit_code, 0);
    }
    ASSERT_EQ(run(small("part") + what + again).exit_code, 0);
    EXPECT_EQ(content(folder_ / "part/metrics.csv"), metrics) << stops;
    EXPECT_EQ(content(folder_ / "part/loss.svg"), content(folder_ / "whole/loss.svg")) << stops;
  }
}

TEST_F(BertMlp, RefusesACheckpointOfAnotherTrainingAndSaysWhatDiffers) {
  ASSERT_EQ(run(small("part") + " --precision fp8 --stop-at 2").exit_code, 0);
  const std::string checkpoint = out("part/checkpoint.safetensors");
  const Outcome other = run(small("rest") + " --precision fp16 --lr 0.1 --resume " + checkpoint);
  EXPECT_EQ(other.exit_code, 2);
  EXPECT_EQ(other.output, "bert_mlp: --resume '" + checkpoint +
                              "': is of another training: lr is 0.25 there and 0.1 here, precision "
                              "is fp8 there and fp16 here\n");
}

TEST_F(BertMlp, TakesTheVariantFromTheCheckpointUnlessItIsGiven) {
  for (const std::string variant :
       {"--precision fp8 --scaling unit", "--precision fp16 --scaling loss:64",
        "--precision fp16 --simulate e4m3fn/e5m2"}) {
    const bool is_simulated = variant.find("--simulate") != std::string::npos;
    const std::string rest = is_simulated ? " --simulate e4m3fn/e5m2" : "";
    ASSERT_EQ(run(small("whole") + " --overwrite --stop-at 12 " + variant).exit_code, 0);
    ASSERT_EQ(run(small("part") + " --overwrite --stop-at 5 " + variant).exit_code, 0);
    const std::string resume = " --resume " + out("part/checkpoint.safetensors") + rest;
    const std::string precision = variant.substr(0, variant.find(" --s"));
    const Outcome outcome = run(small("rest") + " --overwrite" + resume);
    ASSERT_EQ(outcome.exit_code, 0) << outcome.output;
    EXPECT_EQ(content(folder_ / "rest/checkpoint.safetensors"),
              content(folder_ / "whole/checkpoint.safetensors"));
    const Outcome half = run(small("half") + " --overwrite " + precision + resume);
    EXPECT_EQ(half.exit_code, 0) << half.output;
    const Outcome other = run(small("never") + " --precision bf16" + resume);
    if (is_simulated) continue;  // bf16 carries no simulation
    expect_refusal(other, variant, folder_);
    EXPECT_NE(other.output.find(" there and bf16 here"), std::string::npos) << other.output;
  }
}

TEST_F(BertMlp, SaysWhatToResumeFromWhereAFolderIsGiven) {
  const std::string name = "the run's";
  fs::create_directory(folder_ / name);
  const std::string command = small("never") + " --precision fp8 --resume \"" + out(name) + "\"";
  const std::string start =
      "bert_mlp: --resume '" + folder_.string() + "/the run\\'s': is a folder";
  Outcome outcome = run(command);
  EXPECT_EQ(outcome.exit_code, 2);
  EXPECT_EQ(outcome.output,
            start + ", and has no checkpoint.safetensors; give the file of a checkpoint\n");
  ASSERT_EQ(run("--hidden 32 --layers 2 --steps 12 --eval-every 4 --quiet --stop-at 5 " + data() +
                " --precision fp8 --out \"" + out(name) + "\"")
                .exit_code,
            0);
  outcome = run(command);
  EXPECT_EQ(outcome.exit_code, 2);
  const std::string give = start + "; give the checkpoint in it, ";
  ASSERT_TRUE(outcome.output.starts_with(give)) << outcome.output;
  // As it is told, it can be pasted.
  std::string path = outcome.output.substr(give.size());
  path.pop_back();
  EXPECT_EQ(run(small("rest") + " --resume " + path).exit_code, 0) << path;
  EXPECT_FALSE(fs::exists(folder_ / "never"));
}

/// What a run of the example says and how it ends when `script`, of the shell, has sent it signals.
/// There, `when CONDITION` waits until that holds, and gives up after ten seconds; `$run` is the
/// number of the process, `$ready` holds as soon as Ctrl-C would not just end it, and `said` is
/// what it has said so far.
/// @param before what is to be typed before the program.
/// @param redirections where it says it.
Outcome run_with_signals(const std::string& arguments, const fs::path& folder,
                         const std::string& script,
                         const std::string& before = "env --default-signal=INT",
                         const std::string& redirections = ">said 2>&1") {
  return unit_scaling_test::run_command(
      "cd '" + folder.string() +
      "' && : >said || exit\n"
      "when() { i=0; until eval \"$1\" || [ $i -ge 1000 ]; do sleep 0.01; i=$((i + 1)); done; }\n" +
      // Of signals 1 to 4, the second is caught.
      "ready='grep -q \"Name:.bert_mlp\" /proc/$run/status && '\n"
      "ready=$ready'grep -q \"SigCgt:.*[2367abef]$\" /proc/$run/status'\n" +
      before + " " UNIT_SCALING_BERT_MLP " " + arguments + " " + redirections + " & run=$!\n" +
      script + "\nwait $run; code=$?; cat said; exit $code");
}

const std::string answer = "bert_mlp: stopping after this step; Ctrl-C again ends at once\n";

TEST_F(BertMlp, StoppedByCtrlCPrintsACommandThatGoesOnToTheSameBits) {
  fs::copy(folder_ / "words.txt", folder_ / "it's\n\"so\" $HOME");
  const std::string start =
      " --hidden 16 --layers 1 --batch 8 --steps 400000 --eval-every 50 --quiet --data \"it's\n"
      "\\\"so\\\" \\$HOME\" --data words.txt ";
  // What is stopped, and the one training of it that goes on.
  const std::string simulation = "--simulate e4m3/e5m2 --simulate-rounding stochastic";
  const std::pair<std::string, std::string> cases[] = {
      {"--scaling loss:64 --out 'a b'", "--scaling loss:64"},
      {"--compare fp8:unit,fp16:unit --seed=7 --out 'a b'", "--precision fp8 --seed 7"},
      {simulation + " --stop-at 399999 --report --out 'a b'", simulation}};
  const fs::path saved = folder_ / "a b/checkpoint.safetensors";
  for (const auto& [what, training] : cases) {
    const Outcome stopped =
        run_with_signals(start + what, folder_, "when '[ -e a*b/checkpoint* ]'; kill -INT $run");
    ASSERT_EQ(stopped.exit_code, 130) << stopped.output;
    std::smatch told;
    ASSERT_TRUE(std::regex_match(
        stopped.output, told,
        std::regex(answer +
                   "bert_mlp: stopped after step ([0-9]+) of [^\n]+; go on with\n([^\n]+)\n")))
        << stopped.output;
    std::string command = told.str(2);
    const std::string again = " --stop-at 399999";
    const std::size_t stops_again = command.find(again);
    ASSERT_EQ(stops_again != std::string::npos, what.find(again) != std::string::npos) << command;
    if (stops_again != std::string::npos) command.erase(stops_again, again.size());
    const std::string at_end = " --stop-at " + std::to_string(std::stoul(told.str(1)) + 3);
    // What is quoted as in C needs a shell that knows it.
    std::ofstream(folder_ / "pasted") << command << at_end << "\n";
    const Outcome pasted =
        unit_scaling_test::run_command("cd " + folder_.string() + " && bash pasted 2>&1");
    ASSERT_EQ(pasted.exit_code, 0) << command << "\n" << pasted.output;
    EXPECT_TRUE(fs::exists(saved.parent_path() / "summary.json"));
    const Outcome unbroken = run(start + training + at_end + " --out whole", "2>&1", folder_);
    ASSERT_EQ(unbroken.exit_code, 0) << unbroken.output;
    EXPECT_TRUE(content(folder_ / "whole/checkpoint.safetensors") == content(saved)) << what;
    fs::remove_all(folder_ / "whole");
    fs::remove_all(saved.parent_path());
  }
}

TEST_F(BertMlp, StoppedByCtrlCLeavesNoFolderWhereItHasNothingToGoOnFrom) {
  const std::string start = " --hidden 16 --layers 1 --steps 400000 --quiet " + data();
  for (const std::string what : {" --compare fp16:unit,fp8:unit", " --sweep-formats 5"}) {
    const Outcome stopped =
        run_with_signals(start + what + " --out never", folder_, "when \"$ready\"; kill -INT $run");
    EXPECT_EQ(stopped.exit_code, 130) << stopped.output;
    EXPECT_TRUE(std::regex_match(
        stopped.output,
        std::regex(answer +
                   "bert_mlp: stopped after step [0-9]+ of [^\n]+, of which no checkpoint is "
                   "kept\n")))
        << stopped.output;
    EXPECT_FALSE(fs::exists(folder_ / "never"));
  }
}

TEST_F(BertMlp, StoppedByCtrlCBeforeItsFirstStepChangesNothing) {
  const std::string command = small("own") + " --precision fp8";
  const std::vector<std::string> files{"checkpoint.safetensors", "summary.json", "metrics.csv",
                                       "loss.svg"};
  const auto contents = [&] {
    std::vector<std::string> all;
    all.reserve(files.size());
    for (const std::string& file : files) all.push_back(content(folder_ / "own" / file));
    return all;
  };
  ASSERT_EQ(run(command).exit_code, 0);
  const auto before = contents();
  Outcome stopped = run_with_signals(command, folder_, "when \"$ready\"; kill -INT $run");
  EXPECT_EQ(stopped.exit_code, 130);
  EXPECT_EQ(stopped.output, answer +
                                "bert_mlp: stopped after step 0 of fp8 unit, where it began: there "
                                "is nothing to go on from\n");
  EXPECT_TRUE(contents() == before);

  ASSERT_EQ(run(command + " --overwrite --stop-at 5").exit_code, 0);
  const auto part = contents();
  stopped = run_with_signals(command + " --resume own/checkpoint.safetensors", folder_,
                             "when \"$ready\"; kill -INT $run");
  EXPECT_EQ(stopped.exit_code, 130);
  EXPECT_EQ(stopped.output, answer +
                                "bert_mlp: stopped after step 5 of fp8 unit, where it began: the "
                                "same command goes on from there\n");
  EXPECT_TRUE(contents() == part);
}

// When it is seen that the fp16 training has ended, the other makes its first steps.
TEST_F(BertMlp, StoppedByCtrlCKeepsALaterCheckpointOfTheSameTraining) {
  const std::string command =
      data() +
      " --hidden 16 --layers 1 --steps 1000 --eval-every 1000 --compare fp16:unit,fp8:unit "
      "--out own";
  ASSERT_EQ(run(command, "2>&1", folder_).exit_code, 0);
  const std::string checkpoint = content(folder_ / "own/checkpoint.safetensors");
  const std::string results = content(folder_ / "own/summary.json");
  const Outcome stopped =
      run_with_signals(command, folder_, "when 'grep -q took said'; sleep 0.05; kill -INT $run");
  EXPECT_EQ(stopped.exit_code, 130);
  EXPECT_TRUE(std::regex_search(
      stopped.output,
      std::regex("bert_mlp: stopped after step [0-9]+ of fp8 unit; the checkpoint of a later step "
                 "is kept\nown keeps the results that this command wrote there before\n"
                 "The checkpoint in own holds fp8 unit after step 1000\n$")))
      << stopped.output;
  EXPECT_TRUE(content(folder_ / "own/checkpoint.safetensors") == checkpoint);
  EXPECT_EQ(content(folder_ / "own/summary.json"), results);
}

TEST_F(BertMlp, KeepsNoResultsOfAnotherModelThanThatOfTheCheckpoint) {
  const std::string command =
      data() + " --hidden 16 --layers 1 --eval-every 5 --quiet --precision fp8 --out own";
  ASSERT_EQ(run(command + " --steps 10", "2>&1", folder_).exit_code, 0);
  fs::remove(folder_ / "own/checkpoint.safetensors");
  const Outcome stopped =
      run_with_signals(command + " --steps 400000 --overwrite", folder_,
                       "when '[ -e own/checkpoint.safetensors ]'; kill -INT $run");
  EXPECT_EQ(stopped.exit_code, 130);
  EXPECT_NE(stopped.output.find("; go on with\n"), std::string::npos) << stopped.output;
  for (const std::string file : {"summary.json", "metrics.csv", "loss.svg"}) {
    EXPECT_FALSE(fs::exists(folder_ / "own" / file)) << file;
  }
}

// The fp16 training takes longer than to see that the other has ended.
TEST_F(BertMlp, StoppedByCtrlCWritesTheResultsOfTheTrainingsThatEnded) {
  const std::string model = data() + " --hidden 64 --layers 2 --steps 40 ";
  const auto stop = [&](const std::string& what) {
    const Outcome stopped =
        run_with_signals(model + what, folder_, "when 'grep -q took said'; kill -INT $run");
    EXPECT_EQ(stopped.exit_code, 130) << stopped.output;
    return stopped.output.substr(
        std::min(stopped.output.find("bert_mlp: stopped"), stopped.output.size()));
  };
  const std::string command = "--compare fp8:unit,fp16:unit --out own";
  const std::string output = stop(command);
  std::smatch told;
  ASSERT_TRUE(std::regex_match(
      output, told,
      std::regex("bert_mlp: stopped after step ([0-9]+) of fp16 unit, of which no checkpoint is "
                 "kept\nResults of the trainings that ended are in own\n"
                 "The checkpoint in own holds fp8 unit after step 40\n")))
      << output;
  const auto json = summary("own");
  ASSERT_EQ(json.at("runs").size(), 1U);
  EXPECT_EQ(json.at("runs").at(0).at("precision"), "fp8");
  EXPECT_EQ(json.at("checkpoint").at("step"), 40);
  const nlohmann::json expected{
      {"precision", "fp16"}, {"scaling", "unit"}, {"step", std::stoi(told.str(1))}};
  EXPECT_EQ(json.at("stopped"), expected);
  EXPECT_TRUE(content(folder_ / "own/metrics.csv").find("\nfp8,unit,40,") != std::string::npos);
  EXPECT_TRUE(fs::exists(folder_ / "own/loss.svg"));

  // To go on with one training replaces no results of another.
  const std::string before = content(folder_ / "own/summary.json");
  const Outcome elsewhere =
      run(model + "--quiet --precision fp8 --resume own/checkpoint.safetensors", "2>&1", folder_);
  EXPECT_EQ(elsewhere.exit_code, 0) << elsewhere.output;
  EXPECT_EQ(content(folder_ / "own/summary.json"), before);

  // The same command may take the folder again, and if it ends its results are not lost again.
  ASSERT_EQ(run(model + "--compare fp32:unit,fp16:unit --out other", "2>&1", folder_).exit_code, 0);
  const std::string all = content(folder_ / "other/metrics.csv");
  const std::string kept = stop("--compare fp32:unit,fp16:unit --out other");
  EXPECT_TRUE(kept.ends_with("other keeps the results that this command wrote there before\n"))
      << kept;
  EXPECT_EQ(content(folder_ / "other/metrics.csv"), all);
  const std::string sweep = stop("--sweep-formats 5 --out sweep");
  EXPECT_TRUE(sweep.ends_with("Results of the trainings that ended are in sweep\n")) << sweep;
  EXPECT_EQ(summary("sweep").at("runs").size(), 1U);
}

TEST_F(BertMlp, SaysWhichCheckpointIsThereWhereTheLastCannotBeWritten) {
  // No file may get as long as a checkpoint from the first one on.
  const Outcome stopped = run_with_signals(
      data() +
          " --hidden 16 --layers 1 --steps 400000 --eval-every 5 --quiet --precision fp8 "
          "--out own",
      folder_,
      "when '[ -e own/checkpoint.safetensors ]'; prlimit --pid $run --fsize=4000; sleep 0.1\n"
      "kill -INT $run");
  EXPECT_EQ(stopped.exit_code, 130);
  const std::string metadata = content(folder_ / "own/checkpoint.safetensors");
  std::smatch step;
  const std::string head = metadata.substr(0, 4096);
  ASSERT_TRUE(std::regex_search(head, step, std::regex("\"step\":\"([0-9]+)\"")));
  EXPECT_TRUE(std::regex_match(
      stopped.output,
      std::regex(answer +
                 "bert_mlp: stopped after step [0-9]+ of fp8 unit; no checkpoint of it was "
                 "written: [^\n]+\nThe checkpoint in own holds fp8 unit after step " +
                 step.str(1) + "; go on with\n[^\n]+ --resume own/checkpoint.safetensors\n")))
      << step.str(1) << "\n"
      << stopped.output;
}

/// As above, of a run that goes on until `script` reads what it writes to standard output, which is
/// a pipe that is full, as `cat <&3`. `$written` holds when its results are written.
Outcome run_until_read(const std::string& data, const fs::path& folder, const std::string& script,
                       const std::string& before = "env --default-signal=INT") {
  // So many variants that their summary does not wait in a buffer of the program.
  return run_with_signals(
      data +
          " --hidden 16 --layers 1 --steps 2 --quiet --json --out own --compare "
          "fp32:unit,fp32:none,fp16:unit,fp16:none,bf16:unit,bf16:none,"
          "fp8:unit,fp8:none,fp8:loss",
      folder, script,
      "mkfifo full && exec 3<>full && written='[ -e own/metrics.csv ]'\n"
      "dd if=/dev/zero of=full bs=4096 count=4096 oflag=nonblock "
      "conv=notrunc 2>dd_said\n" +
          before,
      ">&3 2>said");
}

TEST_F(BertMlp, EndsByCtrlCAlsoWhereTheResultsAreWrittenAlready) {
  const Outcome stopped = run_until_read(data(), folder_,
                                         "when \"$written\"; kill -INT $run; when '[ -s said ]'\n"
                                         "timeout 0.3 cat <&3 | tr -d '\\0' >json");
  EXPECT_EQ(stopped.exit_code, 130) << stopped.output;
  EXPECT_EQ(stopped.output, answer);
  EXPECT_EQ(content(folder_ / "json"), content(folder_ / "own/summary.json"));
}

TEST_F(BertMlp, AnswersCtrlCAtOnceAndEndsAtTheSecond) {
  const Outcome stopped = run_until_read(
      data(), folder_,
      "when \"$written\"; kill -INT $run; kill -INT $run; when '[ -s said ]'; sleep 0.3\n"
      "kill -0 $run && echo 'the same twice'; kill -INT $run");
  EXPECT_EQ(stopped.exit_code, 130);
  EXPECT_EQ(stopped.output, "the same twice\n" + answer);
}

TEST_F(BertMlp, StopsAtSigtermAsAtCtrlC) {
  const std::string command =
      data() +
      " --hidden 16 --layers 1 --steps 400000 --eval-every 5 --quiet --precision fp8 "
      "--out part";
  const Outcome stopped =
      run_with_signals(command, folder_, "when '[ -e part/checkpoint* ]'; kill -TERM $run");
  EXPECT_EQ(stopped.exit_code, 143);
  EXPECT_NE(stopped.output.find("; go on with\n"), std::string::npos) << stopped.output;
  // It is a second one after Ctrl-C.
  const Outcome ended = run_until_read(
      data(), folder_,
      "when \"$written\"; kill -INT $run; when '[ -s said ]'; sleep 0.3; kill -TERM $run");
  EXPECT_EQ(ended.exit_code, 143);
  EXPECT_EQ(ended.output, answer);
}

TEST_F(BertMlp, IgnoresTheSignalsThatWereIgnoredWhereItWasStarted) {
  const Outcome stopped =
      run_until_read(data(), folder_,
                     "when \"$written\"; kill -INT $run; sleep 0.3; kill -INT $run; sleep 0.1\n"
                     "cat said; kill -0 $run && echo 'goes on'; kill -TERM $run\n"
                     "when '[ -s said ]'; timeout 0.3 cat <&3 >json",
                     "env --ignore-signal=INT");
  EXPECT_EQ(stopped.exit_code, 143);
  EXPECT_EQ(stopped.output, "goes on\n" + answer);
}

// The reader of what it says is stopped by the same Ctrl-C.
TEST_F(BertMlp, EndsByCtrlCAlsoWhereNobodyReadsWhatItSays) {
  const Outcome stopped = run_with_signals(
      data() + " --hidden 16 --layers 1 --steps 400000 --eval-every 5 --precision fp8 --out own",
      folder_, "exec 3>&-; when '[ -e own/checkpoint.safetensors ]'; exec 4<&-; kill -INT $run",
      "mkfifo pipe && exec 4<>pipe && exec 3>pipe && exec 4<&- && exec 4<pipe\n"
      "env --default-signal=INT",
      ">said 2>&3 3>&- 4<&-");
  EXPECT_EQ(stopped.exit_code, 130);
  EXPECT_EQ(stopped.output, "");
}

// The validation at --stop-at is of a long text, after a checkpoint and one step.
TEST_F(BertMlp, StopsAgainAtTheSameStepWhereItWasStoppedInTheValidationThere) {
  std::ofstream(folder_ / "long.txt") << std::string(4'000'000, 'a') + words();
  const Outcome stopped = run_with_signals(
      "--batch 8 --hidden 16 --layers 1 --quiet --eval-every 5 --precision fp8 --out own "
      "--data long.txt --steps 10 --stop-at 6",
      folder_, "when '[ -e own/checkpoint.safetensors ]'; sleep 0.1; kill -INT $run");
  EXPECT_EQ(stopped.exit_code, 130);
  EXPECT_TRUE(std::regex_match(
      stopped.output,
      std::regex(answer + "bert_mlp: stopped after step 6 of fp8 unit; go on with\n"
                          "[^\n]+ --stop-at 6 --resume own/checkpoint.safetensors\n")))
      << stopped.output;
}

TEST_F(BertMlp, NamesTheCheckpointWhereTheVariantInItIsWrong) {
  ASSERT_EQ(run(small("own") + " --precision fp8 --scaling loss:64 --stop-at 1").exit_code, 0);
  const std::string checkpoint = content(folder_ / "own/checkpoint.safetensors");
  const std::pair<std::string, std::string> changes[] = {{"precision=fp8", "precision=fp4"},
                                                         {"scaling=loss:64", "scaling=loss:0x"}};
  for (const auto& [there, wrong] : changes) {
    std::string altered = checkpoint;
    altered.replace(altered.find(there), there.size(), wrong);
    std::ofstream(folder_ / "bad.safetensors", std::ios::binary) << altered;
    const Outcome outcome = run(small("never") + " --resume " + out("bad.safetensors"));
    expect_refusal(outcome, wrong, folder_);
    EXPECT_TRUE(outcome.output.starts_with("bert_mlp: --resume '" + out("bad.safetensors") +
                                           "': " + wrong.substr(0, wrong.find('=')) + " '" +
                                           wrong.substr(wrong.find('=') + 1) + "': expected "))
        << outcome.output;
  }
}

TEST_F(BertMlp, TellsTheCommandThatGoesOnWhereStopAtStoppedIt) {
  const Outcome stopped = run(data() +
                                  " --hidden 32 --layers 2 --steps 12 --eval-every 4 --precision "
                                  "fp8 --stop-at 5 --out 'a b'",
                              "2>/dev/null", folder_);
  ASSERT_EQ(stopped.exit_code, 0) << stopped.output;
  const std::string told = "; the checkpoint there holds fp8 unit after step 5; go on with\n";
  const std::size_t begin = stopped.output.find(told);
  ASSERT_NE(begin, std::string::npos) << stopped.output;
  const std::string command = stopped.output.substr(begin + told.size());
  EXPECT_EQ(std::count(command.begin(), command.end(), '\n'), 1) << command;
  std::ofstream(folder_ / "pasted") << command;
  const Outcome pasted =
      unit_scaling_test::run_command("cd " + folder_.string() + " && sh pasted 2>&1");
  ASSERT_EQ(pasted.exit_code, 0) << pasted.output;
  EXPECT_TRUE(pasted.output.ends_with("holds fp8 unit after step 12\n")) << pasted.output;
  ASSERT_EQ(run(small("whole") + " --precision fp8").exit_code, 0);
  EXPECT_EQ(content(folder_ / "a b/checkpoint.safetensors"),
            content(folder_ / "whole/checkpoint.safetensors"));
}

TEST_F(BertMlp, RefusesToStopBeforeTheCheckpoint) {
  ASSERT_EQ(run(small("part") + " --precision fp8 --stop-at 5").exit_code, 0);
  const Outcome early = run(small("never") + " --precision fp8 --stop-at 3 --resume " +
                            out("part/checkpoint.safetensors"));
  EXPECT_EQ(early.exit_code, 2);
  EXPECT_EQ(early.output, "bert_mlp: --stop-at 3: the checkpoint is of step 5\n");
  EXPECT_FALSE(fs::exists(folder_ / "never"));
}

TEST_F(BertMlp, ValidatesTwentyTimesOnItsOwnAccord) {
  ASSERT_EQ(run(tiny("default") + " --hidden 16 --layers 1 --steps 160 --quiet --precision fp8")
                .exit_code,
            0);
  const std::string metrics = content(folder_ / "default/metrics.csv");
  EXPECT_EQ(std::count(metrics.begin(), metrics.end(), '\n'), 1 + 20) << metrics;
}

// At a learning rate that changes no weight, only another text could change the figure.
TEST_F(BertMlp, MeasuresEveryPointOfACurveOnTheSameTextAndTheResultOnAll) {
  for (const std::string end : {"--steps 12", "--steps 10", "--steps 12 --stop-at 6"}) {
    const Outcome outcome = run(tiny("still") +
                                " --hidden 32 --layers 2 --eval-every 4 --quiet --overwrite "
                                "--precision fp32 --lr 1e-30 " +
                                end);
    ASSERT_EQ(outcome.exit_code, 0) << outcome.output;
    const auto points = column("still", 4);
    ASSERT_GE(points.size(), 2U) << end;
    for (const double point : points) EXPECT_EQ(point, points.front()) << end;
    const auto all = summary("still").at("runs").at(0).at("valid_bpc").get<double>();
    EXPECT_GT(std::abs(all - points.front()), 1e-4) << "of windows that the sample has not";
    EXPECT_NEAR(all, points.front(), 1) << "of the same text all the same";
  }
}

TEST_F(BertMlp, NamesTheColumnsOfTheCurves) {
  ASSERT_EQ(run(small("one") + " --precision fp32").exit_code, 0);
  EXPECT_TRUE(
      content(folder_ / "one/metrics.csv")
          .starts_with("precision,scaling,step,training_bpc,validation_sample_bpc\nfp32,unit,4,"));
}

// Each point of metrics.csv holds the mean of ten steps.
TEST_F(BertMlp, ShowsTheMeanLossOfTheLastFiftySteps) {
  for (const auto& [steps, tens] : {std::pair{"30", 3}, std::pair{"80", 5}}) {
    const Outcome outcome = run(tiny("mean") +
                                    " --hidden 16 --layers 1 --eval-every 10 --precision fp32 "
                                    "--overwrite --steps " +
                                    steps,
                                "2>&1 >/dev/null");
    ASSERT_EQ(outcome.exit_code, 0) << outcome.output;
    std::smatch shown;
    ASSERT_TRUE(std::regex_search(outcome.output, shown,
                                  std::regex("\\(100%\\), mean bpc ([0-9.]+), .* took [0-9:]+\n$")))
        << outcome.output;
    const auto means = column("mean", 3);
    const double expected = std::accumulate(means.end() - tens, means.end(), 0.0) / tens;
    EXPECT_NEAR(std::stod(shown.str(1)), expected, 1e-3);
  }
}

TEST_F(BertMlp, SaysWhichModelTheCheckpointHolds) {
  const std::string what = " --hidden 16 --layers 1 --steps 4 ";
  const Outcome several =
      run(tiny("several") + what + "--seed 3 --compare fp32:none,fp8:unit,fp16:unit");
  ASSERT_EQ(several.exit_code, 0) << several.output;
  EXPECT_TRUE(several.output.ends_with("\nResults are in " + out("several") +
                                       "; the checkpoint there holds fp8 unit after step 4\n"))
      << several.output;
  const nlohmann::json expected{{"file", "checkpoint.safetensors"},
                                {"precision", "fp8"},
                                {"scaling", "unit"},
                                {"seed", 3},
                                {"step", 4}};
  EXPECT_EQ(summary("several").at("checkpoint"), expected);
  const std::string checkpoint = content(folder_ / "several/checkpoint.safetensors");
  EXPECT_NE(checkpoint.find("\"training\":\"precision=fp8 scaling=unit "), std::string::npos);
  ASSERT_EQ(run(tiny("alone") + what + "--seed 3 --precision fp8").exit_code, 0);
  EXPECT_EQ(checkpoint, content(folder_ / "alone/checkpoint.safetensors"));

  const Outcome none = run(tiny("none") + what + "--compare fp32:none,fp16:unit");
  ASSERT_EQ(none.exit_code, 0) << none.output;
  EXPECT_TRUE(none.output.ends_with("none; no checkpoint was saved\n")) << none.output;
  EXPECT_TRUE(summary("none").at("checkpoint").is_null());
  EXPECT_FALSE(fs::exists(folder_ / "none/checkpoint.safetensors"));
}

TEST_F(BertMlp, ShowsTheLearningRateOfEachRun) {
  const Outcome outcome =
      run(tiny("rates") + " --hidden 16 --layers 1 --steps 1 --compare fp8:unit,fp8:none");
  ASSERT_EQ(outcome.exit_code, 0) << outcome.output;
  for (const char* row :
       {"\\| precision \\| scaling \\| peak learning rate \\|",
        "\\| fp8 +\\| unit +\\| 0\\.25 +\\|", "\\| fp8 +\\| none +\\| 0\\.001953125 +\\|"}) {
    EXPECT_TRUE(std::regex_search(outcome.output, std::regex(row))) << row << "\n"
                                                                    << outcome.output;
  }
}

TEST_F(BertMlp, PutsEachRunInANewFolderUnlessToldWhere) {
  const std::string command = data() + " --hidden 16 --layers 1 --steps 1 --precision fp8";
  const auto results = [](const std::string& name) {
    return "\nResults are in runs/" + name + ";";
  };
  const Outcome first = run(command, "2>&1", folder_);
  ASSERT_EQ(first.exit_code, 0) << first.output;
  EXPECT_NE(first.output.find(results("fp8-unit")), std::string::npos) << first.output;
  const std::string summary = content(folder_ / "runs/fp8-unit/summary.json");
  std::ofstream(folder_ / "runs/fp8-unit-3") << "a file of the user's";
  for (const std::string name : {"fp8-unit-2", "fp8-unit-4"}) {
    const Outcome again = run(command, "2>&1", folder_);
    ASSERT_EQ(again.exit_code, 0) << again.output;
    EXPECT_NE(again.output.find(results(name)), std::string::npos) << again.output;
    EXPECT_TRUE(fs::exists(folder_ / "runs" / name / "summary.json"));
  }
  EXPECT_EQ(content(folder_ / "runs/fp8-unit/summary.json"), summary);
  const Outcome compared =
      run(data() + " --hidden 16 --layers 1 --steps 1 --compare " + "fp8:unit@amax,fp8:unit@mxfp8",
          "2>&1", folder_);
  ASSERT_EQ(compared.exit_code, 0) << compared.output;
  EXPECT_NE(compared.output.find(results("compare")), std::string::npos) << compared.output;
}

TEST_F(BertMlp, GoesOnInTheFolderOfTheCheckpointUnlessThatIsOfAComparison) {
  const std::string model = data() + " --hidden 16 --layers 1 --steps 4 --quiet";
  ASSERT_EQ(run(model + " --precision fp8 --stop-at 2", "2>&1", folder_).exit_code, 0);
  const Outcome resumed = run(
      model + " --precision fp8 --resume runs/fp8-unit/checkpoint.safetensors", "2>&1", folder_);
  ASSERT_EQ(resumed.exit_code, 0) << resumed.output;
  EXPECT_EQ(summary("runs/fp8-unit").at("runs").at(0).at("steps"), 4);
  EXPECT_FALSE(fs::exists(folder_ / "runs/fp8-unit-2"));

  ASSERT_EQ(run(model + " --compare fp8:unit,fp32:unit", "2>&1", folder_).exit_code, 0);
  const std::string comparison = content(folder_ / "runs/compare/summary.json");
  const std::string go_on =
      model + " --precision fp8 --resume runs/compare/checkpoint.safetensors ";
  const Outcome elsewhere = run(go_on, "2>&1", folder_);
  ASSERT_EQ(elsewhere.exit_code, 0) << elsewhere.output;
  EXPECT_TRUE(fs::exists(folder_ / "runs/fp8-unit-2/summary.json"));
  const Outcome there = run(go_on + "--out runs/compare", "2>&1", folder_);
  EXPECT_EQ(there.exit_code, 2) << there.output;
  EXPECT_EQ(content(folder_ / "runs/compare/summary.json"), comparison);
}

TEST_F(BertMlp, ReplacesResultsOfAnotherCommandOnlyIfToldTo) {
  const std::string command = small("taken") + " --precision fp32";
  const std::string holds = "bert_mlp: --out '" + out("taken") + "' holds the ";
  ASSERT_EQ(run(command).exit_code, 0);
  EXPECT_EQ(run(command).exit_code, 0) << "the same command";

  const std::string results = content(folder_ / "taken/summary.json");
  const std::string checkpoint = content(folder_ / "taken/checkpoint.safetensors");
  const auto is_refused = [&](const std::string& arguments, const std::string& why) {
    const Outcome outcome = run(arguments);
    EXPECT_EQ(outcome.exit_code, 2) << arguments;
    EXPECT_EQ(outcome.output, holds + why + "\n");
    EXPECT_EQ(content(folder_ / "taken/checkpoint.safetensors"), checkpoint);
  };
  const std::string other =
      "results of another command, which its summary.json names; give "
      "another folder, or --overwrite";
  is_refused(command + " --seed 2", other);
  EXPECT_EQ(content(folder_ / "taken/summary.json"), results);
  // A checkpoint from elsewhere is no leave to replace what is here.
  ASSERT_EQ(run(small("part") + " --precision fp8 --stop-at 4").exit_code, 0);
  is_refused(small("taken") + " --precision fp8 --resume " + out("part/checkpoint.safetensors"),
             other);
  for (const char* broken : {"{", "[]", "{\"command\": 3}", ""}) {
    std::ofstream(folder_ / "taken/summary.json") << broken;
    is_refused(command, other);
  }
  fs::remove(folder_ / "taken/summary.json");  // as of a run that was killed
  is_refused(command,
             "checkpoint of a run that did not end; go on with --resume, or give another "
             "folder or --overwrite");
  EXPECT_EQ(run(command + " --resume " + out("taken/checkpoint.safetensors")).exit_code, 0);
  EXPECT_EQ(run(command + " --seed 2 --overwrite").exit_code, 0);
  EXPECT_EQ(summary("taken").at("runs").at(0).at("seed"), 2);
}

TEST_F(BertMlp, WritesNullForWhatItDidNotMeasure) {
  ASSERT_EQ(run(small("one") + " --precision fp32").exit_code, 0);
  const auto one = summary("one");
  EXPECT_TRUE(one.at("runs").at(0).at("underflowed_gradients").is_null()) << "against itself";

  const Outcome finished =
      run(small("one") + " --precision fp32 --json --resume " + out("one/checkpoint.safetensors"));
  ASSERT_EQ(finished.exit_code, 0) << finished.output;
  const auto resumed = summary("one").at("runs").at(0);
  for (const char* key : {"tokens_per_s", "tokens_per_s_quartiles", "sgemm_share", "saved_bytes",
                          "workspace_bytes"}) {
    EXPECT_TRUE(resumed.at(key).is_null()) << key << ", of no step";
  }
  EXPECT_EQ(resumed.at("valid_bpc"), one.at("runs").at(0).at("valid_bpc"));
}

TEST_F(BertMlp, SaysThatFewStepsCompareNothing) {
  const std::string what =
      " --hidden 16 --layers 1 --compare fp32:unit,fp32:none --overwrite --out " + out("few");
  const Outcome few = run(data() + what + " --steps 299");
  ASSERT_EQ(few.exit_code, 0) << few.output;
  EXPECT_NE(few.output.find("So few steps compare nothing"), std::string::npos) << few.output;
  EXPECT_NE(few.output.find("vs fp32, same scaling"), std::string::npos) << few.output;

  const Outcome enough = run(data() + what + " --steps 300");
  ASSERT_EQ(enough.exit_code, 0) << enough.output;
  EXPECT_EQ(enough.output.find("So few steps"), std::string::npos) << enough.output;
}

TEST_F(BertMlp, TellsTheRateOfTheMedianStepAndOfTheQuartiles) {
  const std::string one_after_another = "trained one after another";
  const auto start = std::chrono::steady_clock::now();
  const Outcome several =
      run("--hidden 16 --layers 1 --batch 256 --steps 60 --compare fp32:unit,fp8:none --data " +
          out("words.txt") + " --out " + out("rates"));
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  ASSERT_EQ(several.exit_code, 0) << several.output;
  const auto runs = summary("rates").at("runs");
  ASSERT_EQ(runs.size(), 2U);
  for (const auto& entry : runs) {
    const auto median = entry.at("tokens_per_s").get<double>();
    const auto quartiles = entry.at("tokens_per_s_quartiles").get<std::vector<double>>();
    ASSERT_EQ(quartiles.size(), 2U);
    EXPECT_LT(quartiles[0], median);
    EXPECT_LT(median, quartiles[1]);
    // Half of the steps, of 256 windows of 16 characters, are no faster.
    EXPECT_GT(median, 60 / 2 * (256 * 16) / seconds);
    std::array<char, 64> cell{};
    std::snprintf(cell.data(), cell.size(), "| %.0f (%.0f-%.0f) ", median, quartiles[0],
                  quartiles[1]);
    EXPECT_NE(several.output.find(cell.data()), std::string::npos) << several.output;
  }
  EXPECT_NE(several.output.find(one_after_another), std::string::npos) << several.output;

  const Outcome single = run(tiny("rate") + " --hidden 16 --layers 1 --steps 3 --precision fp8");
  ASSERT_EQ(single.exit_code, 0) << single.output;
  EXPECT_NE(single.output.find("training tokens/s"), std::string::npos) << single.output;
  EXPECT_EQ(single.output.find(one_after_another), std::string::npos) << single.output;
}

TEST_F(BertMlp, KeepsTheCheckpointThatADivergingRunWouldReplace) {
  ASSERT_EQ(run(small("lost") + " --precision fp8").exit_code, 0);
  const std::string checkpoint = content(folder_ / "lost/checkpoint.safetensors");
  // Diverges in the second step; and with the only step, where nothing but a validation can tell.
  for (const std::string steps : {"12", "1"}) {
    const Outcome outcome = run(
        "--hidden 32 --layers 2 --lr 1e10 --weight-decay 0 --precision fp8 --overwrite --steps " +
        steps + " " + tiny("lost"));
    EXPECT_EQ(outcome.exit_code, 3) << outcome.output;
    EXPECT_NE(outcome.output.find("diverged"), std::string::npos) << outcome.output;
    EXPECT_EQ(outcome.output.find("0 % / 0 %"), std::string::npos) << outcome.output;
    EXPECT_EQ(content(folder_ / "lost/checkpoint.safetensors"), checkpoint);
    EXPECT_TRUE(summary("lost").at("checkpoint").is_null()) << "it is of another command";
    EXPECT_TRUE(outcome.output.ends_with("lost; no checkpoint was saved\n")) << outcome.output;
    const auto entry = summary("lost").at("runs").at(0);
    for (const char* key : {"valid_bpc", "underflowed_gradients", "non_finite_gradients"}) {
      EXPECT_TRUE(entry.at(key).is_null()) << key;
    }
    EXPECT_EQ(content(folder_ / "lost/metrics.csv").find("nan"), std::string::npos);
  }
}

TEST_F(BertMlp, ExitsWithZeroIfAnyVariantConverged) {
  // A loss scale of 2^40 is more than FP16 holds; plain FP32 does not mind.
  const Outcome some = run(small("some") + " --compare fp16:loss:1099511627776,fp32:none --json");
  EXPECT_EQ(some.exit_code, 0) << some.output;
  EXPECT_TRUE(summary("some").at("runs").at(0).contains("diverged"));
  EXPECT_FALSE(summary("some").at("runs").at(1).contains("diverged"));
}

TEST_F(BertMlp, TellsThatItsOutputCouldNotBeWritten) {
  if (!fs::exists("/dev/full")) GTEST_SKIP() << "there is no /dev/full here";
  for (const std::string& arguments :
       {std::string("--help"), small("full") + " --precision fp8 --json"}) {
    const Outcome outcome = run(arguments, "2>&1 >/dev/full");
    EXPECT_EQ(outcome.exit_code, 1) << arguments;
    EXPECT_EQ(outcome.output, "bert_mlp: cannot write to standard output\n");
  }
}

TEST_F(BertMlp, TellsItsVersion) {
  const Outcome outcome = run("--version");
  EXPECT_EQ(outcome.exit_code, 0);
  const std::string header =
      content(fs::path(UNIT_SCALING_SOURCE_DIR) / "include/unit_scaling/core/version.hpp");
  std::string version;
  for (const std::string part : {"MAJOR", "MINOR", "PATCH"}) {
    std::smatch number;
    ASSERT_TRUE(std::regex_search(header, number,
                                  std::regex("UNIT_SCALING_VERSION_" + part + " ([0-9]+)")));
    version += (version.empty() ? "" : ".") + number.str(1);
  }
  EXPECT_EQ(outcome.output, "bert_mlp (unit_scaling) " + version + "\n");
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
  // AdamW keeps two moments of each parameter, whatever the precision.
  for (const auto& entry : summary.at("runs")) {
    EXPECT_GT(entry.at("parameter_bytes"), 0);
    EXPECT_EQ(entry.at("parameter_bytes"), summary.at("runs").at(0).at("parameter_bytes"));
    EXPECT_EQ(entry.at("optimiser_bytes"), 2 * entry.at("parameter_bytes").get<std::size_t>());
    EXPECT_GT(entry.at("workspace_bytes"), 0);
  }
  EXPECT_TRUE(fs::exists(folder_ / "compare/loss.svg"));
  EXPECT_TRUE(fs::exists(folder_ / "compare/metrics.csv"));
}

TEST_F(BertMlp, ReportChangesNoBitOfTheTraining) {
  for (const std::string variants : {"--compare fp8:unit,fp8:none", "--precision fp16"}) {
    const std::string what = " --overwrite " + variants;
    ASSERT_EQ(run(small("without") + what).exit_code, 0);
    const Outcome with = run(small("with") + what + " --report");
    ASSERT_EQ(with.exit_code, 0) << with.output;
    for (const char* file : {"metrics.csv", "checkpoint.safetensors", "loss.svg"}) {
      EXPECT_EQ(content(folder_ / "with" / file), content(folder_ / "without" / file)) << file;
    }
    const auto runs = summary("with").at("runs");
    const auto expected = summary("without").at("runs");
    for (std::size_t i = 0; i < runs.size(); ++i) {
      for (const char* key : {"valid_bpc", "underflowed_gradients", "saved_bytes"}) {
        EXPECT_EQ(runs.at(i).at(key), expected.at(i).at(key)) << key;
      }
    }
    EXPECT_FALSE(fs::exists(folder_ / "without/report.html"));
  }
}

/// A page without the places where its words may break.
std::string page(const fs::path& path) {
  static const std::regex mark("<wbr/>");
  return std::regex_replace(content(path), mark, "");
}

TEST_F(BertMlp, ReportShowsTheVariantsSideBySide) {
  const Outcome outcome = run(small("report") + " --report --compare fp8:none,fp8:unit,fp16:unit");
  ASSERT_EQ(outcome.exit_code, 0) << outcome.output;
  const std::string html = page(folder_ / "report/report.html");
  for (const char* text :
       {"fp8 none and fp8 unit", "fp16 unit", "storage float16, matrix operands float8_e4m3fn",
        "paper, constraint gmean", "hidden 32, 2 layers, pre-norm, window 16", "--compare fp8:none",
        "blocks.1.feed_forward.up/linear", "every gradient is a positive constant",
        "nothing to complain about"}) {
    EXPECT_NE(html.find(text), std::string::npos) << text;
  }
  // It is judged by what the table and summary.json judge it by, and 12 steps compare nothing.
  const auto runs = summary("report").at("runs");
  ASSERT_EQ(runs.size(), 3U);
  for (const auto& each : runs) {
    std::array<char, 64> figure{};
    std::snprintf(figure.data(), figure.size(), "valid_bpc %.4f",
                  each.at("valid_bpc").get<double>());
    EXPECT_NE(html.find(figure.data()), std::string::npos) << figure.data();
  }
  EXPECT_NE(html.find("So few steps compare nothing"), std::string::npos);
  const std::size_t begin = html.find('\n', html.find("id=\"numerics\">"));
  const auto figures =
      nlohmann::json::parse(html.substr(begin, html.find("</script>", begin) - begin));
  ASSERT_EQ(figures.at("runs").size(), 3U);
  // The curves are those of metrics.csv, and the last step is looked at.
  const auto training = column("report", 3);
  const auto points = figures.at("runs").at(0).at("losses").at(0).at("points");
  ASSERT_EQ(points.size(), 3U);
  for (std::size_t i = 0; i < points.size(); ++i) {
    EXPECT_NEAR(points.at(i).at(1).get<double>(), training.at(i), 1e-6);
  }
  for (const auto& tensor : figures.at("runs").at(1).at("tensors")) {
    EXPECT_EQ(tensor.at("samples").back().at("step"), 12) << tensor.at("name");
  }
  for (const char* picture :
       {"loss-training.svg", "compared-fp8-none-fp8-unit-matrix-gradients.svg",
        "fp8-unit-outputs.svg", "fp8-unit-scale-of-each-update.svg"}) {
    EXPECT_TRUE(content(folder_ / "report/figures" / picture).starts_with("<svg ")) << picture;
  }
}

TEST_F(BertMlp, ReportOfAResumedRunCountsItsStepsOn) {
  const std::string what = small("part") + " --precision fp8 --overwrite --report ";
  ASSERT_EQ(run(what + "--stop-at 5").exit_code, 0);
  const Outcome resumed = run(what + "--resume " + out("part/checkpoint.safetensors"));
  ASSERT_EQ(resumed.exit_code, 0) << resumed.output;
  const std::string html = page(folder_ / "part/report.html");
  EXPECT_NE(html.find("\"step\":12,"), std::string::npos);
  EXPECT_EQ(html.find("\"step\":13,"), std::string::npos);
}

TEST_F(BertMlp, ReportOfADivergedRunNamesTheFirstTensorThatIsNotFinite) {
  const Outcome outcome =
      run(small("diverged") + " --report --precision fp8 --lr 1e10 --weight-decay 0");
  EXPECT_EQ(outcome.exit_code, 3) << outcome.output;
  const std::string html = page(folder_ / "diverged/report.html");
  EXPECT_NE(html.find("diverged: step "), std::string::npos);
  EXPECT_EQ(html.find("First tensor that is not finite: none"), std::string::npos);
}

TEST_F(BertMlp, SaysOfADivergedRunWhatItsReportSays) {
  // The loss of the first step is finite; its gradient, times this, is not.
  const Outcome outcome = run(small("scaled") + " --report --precision fp16 --scaling loss:1e9");
  ASSERT_EQ(outcome.exit_code, 3) << outcome.output;
  const std::string diverged = summary("scaled").at("runs").at(0).at("diverged");
  EXPECT_TRUE(diverged.starts_with("step 1, first at gradient of ")) << diverged;
  EXPECT_EQ(diverged.find("forward"), std::string::npos) << diverged;
  const std::string first = diverged.substr(std::string_view("step 1, first at ").size());
  const std::string html = page(folder_ / "scaled/report.html");
  EXPECT_NE(html.find(first + " at step 1"), std::string::npos) << first;
  // And so without a report, or with several batches to a step.
  for (const std::string more : {"", " --accumulate 2"}) {
    const Outcome unseen = run(small("unseen") + " --precision fp16 --scaling loss:1e9" + more);
    ASSERT_EQ(unseen.exit_code, 3) << unseen.output;
    EXPECT_EQ(summary("unseen").at("runs").at(0).at("diverged"), diverged) << more;
    fs::remove_all(folder_ / "unseen");
  }
}

TEST_F(BertMlp, ReportOfASimulationNamesWhatIsSimulated) {
  const Outcome outcome = run(small("simulated") + " --report --simulate e3m4/e5m3");
  ASSERT_EQ(outcome.exit_code, 0) << outcome.output;
  const std::string html = page(folder_ / "simulated/report.html");
  for (const char* text :
       {">e3m4/e5m3</td>", "those that are simulated, carried by float32",  // among the facts
        ">float8_e3m4</th>", ">float9_e5m3</th>"}) {  // of what is asked about
    EXPECT_NE(html.find(text), std::string::npos) << text;
  }
  const std::size_t begin = html.find('\n', html.find("id=\"numerics\">"));
  const auto figures =
      nlohmann::json::parse(html.substr(begin, html.find("</script>", begin) - begin));
  std::set<std::string> operand_formats;
  for (const auto& tensor : figures.at("runs").at(1).at("tensors")) {
    if (tensor.at("role") == "operand") operand_formats.insert(tensor.at("format"));
  }
  EXPECT_EQ(operand_formats, std::set<std::string>{"float8_e3m4"});
}

TEST_F(BertMlp, ReportOfStochasticRoundingSaysThatItsFiguresAreOfRoundingToNearest) {
  const std::string report = tiny("report") + " --hidden 32 --layers 1 --steps 2 --quiet --report";
  for (const bool is_stochastic : {false, true}) {
    const Outcome outcome =
        run(report + " --overwrite --simulate e4m3fn/e5m2" + (is_stochastic ? "~" : ""));
    ASSERT_EQ(outcome.exit_code, 0) << outcome.output;
    const std::string html = page(folder_ / "report/report.html");
    EXPECT_EQ(html.find("as if to nearest") != std::string::npos, is_stochastic);
  }
}

TEST_F(BertMlp, TableSaysHowMuchAStepReads) {
  const std::string what = " --hidden 32 --layers 1 --steps 3 --precision fp8";
  const Outcome parts = run(tiny("parts") + what + " --accumulate 4");
  EXPECT_NE(parts.output.find("3 steps of 512 characters: 32 sequences of 16 in 4 batches"),
            std::string::npos)
      << parts.output;
  const Outcome whole = run(tiny("whole") + what);
  EXPECT_NE(whole.output.find("3 steps of 128 characters: 8 sequences of 16\n"), std::string::npos)
      << whole.output;
}

// All that FP8 does to numbers, in formats that hold them.
TEST_F(BertMlp, TrainsInASimulationOfFp8AsInFp8) {
  ASSERT_EQ(run(small("fp8") + " --precision fp8").exit_code, 0);
  for (const std::string carrier :
       {"--precision fp16 --simulate e4m3fn/e5m2", "--simulate 'e4m3fn/e5m2,*=float16/float16'"}) {
    const Outcome outcome =
        run(tiny("simulated") + " --hidden 32 --layers 2 --steps 12 --eval-every 4 --overwrite " +
            carrier);
    ASSERT_EQ(outcome.exit_code, 0) << outcome.output;
    const auto runs = summary("simulated").at("runs");
    ASSERT_EQ(runs.size(), 2U) << "the run in fp32 to compare with, and the simulation";
    EXPECT_EQ(runs.at(0).at("precision"), "fp32");
    EXPECT_FALSE(runs.at(0).contains("simulation"));
    const auto& simulated = runs.at(1);
    const auto fp8 = summary("fp8").at("runs").at(0);
    for (const char* figure : {"valid_bpc", "underflowed_gradients", "non_finite_gradients"}) {
      EXPECT_EQ(simulated.at(figure), fp8.at(figure)) << carrier << ", " << figure;
    }
    // The difference to the baseline, in the table.
    const double difference =
        simulated.at("valid_bpc").get<double>() - runs.at(0).at("valid_bpc").get<double>();
    char text[32];
    std::snprintf(text, sizeof(text), "| %+.4f ", difference);
    EXPECT_NE(outcome.output.find(text), std::string::npos) << text << outcome.output;
    EXPECT_TRUE(simulated.at("simulation").get<std::string>().starts_with("e4m3fn/e5m2"));
    const std::string metrics = content(folder_ / "simulated/metrics.csv");
    const std::string real = content(folder_ / "fp8/metrics.csv");
    EXPECT_NE(metrics.find(" simulating e4m3fn/e5m2"), std::string::npos) << metrics;
    EXPECT_EQ(metrics.substr(metrics.rfind("unit")), real.substr(real.rfind("unit")));
  }
}

TEST_F(BertMlp, ResumesAStochasticSimulationBitIdentically) {
  const std::string what = " --simulate e4m3fn/e5m2 --simulate-rounding stochastic --overwrite";
  ASSERT_EQ(run(small("whole") + what).exit_code, 0);
  ASSERT_EQ(run(small("part") + what + " --stop-at 5").exit_code, 0);
  const std::string resume = " --resume " + out("part/checkpoint.safetensors");
  ASSERT_EQ(run(small("rest") + what + " --threads 2" + resume).exit_code, 0);
  const std::string checkpoint = content(folder_ / "whole/checkpoint.safetensors");
  EXPECT_EQ(checkpoint, content(folder_ / "rest/checkpoint.safetensors"));
  EXPECT_EQ(summary("whole").at("checkpoint").at("simulation"), "e4m3fn~/e5m2~");

  const Outcome other = run(small("other") + " --simulate e4m3fn/e5m2" + resume);
  EXPECT_EQ(other.exit_code, 2);
  EXPECT_NE(other.output.find("simulate is e4m3fn~/e5m2~ there and e4m3fn/e5m2 here"),
            std::string::npos)
      << other.output;
}

TEST_F(BertMlp, TrainsUnderEachRecipe) {
  const std::string recipes = "amax,delayed,constant:1,mxfp8,mxfp6,mxfp4,deepseek,nvfp4,coat";
  std::string compare = "fp8:unit";
  std::istringstream names(recipes);
  for (std::string name; std::getline(names, name, ',');) compare += ",fp8:unit@" + name;
  const Outcome outcome = run(small("recipes") + " --report --compare " + compare);
  ASSERT_EQ(outcome.exit_code, 0) << outcome.output;
  const auto runs = summary("recipes").at("runs");
  ASSERT_EQ(runs.size(), 10U);
  EXPECT_FALSE(runs.at(0).contains("recipe"));
  std::set<double> bpc;
  names = std::istringstream("none," + recipes);
  for (const auto& each : runs) {
    std::string name;
    std::getline(names, name, ',');
    EXPECT_EQ(each.value("recipe", "none"), name);
    EXPECT_FALSE(each.contains("diverged")) << name;
    bpc.insert(each.at("valid_bpc").get<double>());
  }
  EXPECT_EQ(bpc.size(), runs.size());  // each has numbers of its own
  EXPECT_NE(content(folder_ / "recipes/metrics.csv").find("fp8 under deepseek,unit,"),
            std::string::npos);
  EXPECT_NE(page(folder_ / "recipes/report.html").find("as recipe nvfp4 has them"),
            std::string::npos);
}

TEST_F(BertMlp, RefusesTwoRecipesForOneRun) {
  const Outcome two = run(tiny("two") + " --compare fp32:unit@mxfp8 --simulate e3m4/e5m2");
  EXPECT_EQ(two.exit_code, 2);
  EXPECT_NE(two.output.find("--simulate 'e3m4/e5m2' is a recipe, and fp32 unit, mxfp8 has one"),
            std::string::npos)
      << two.output;
}

TEST_F(BertMlp, TellsAWindowUnderARecipeFromOneWithout) {
  const Outcome outcome = run(tiny("window") + " --hidden 8 --layers 1 --steps 2 " +
                              "--loss-scale-window --compare fp8:unit,fp8:unit@mxfp4");
  ASSERT_EQ(outcome.exit_code, 0) << outcome.output;
  for (const char* row : {"\\| fp8 unit +\\|", "\\| fp8 unit, mxfp4 +\\|"}) {
    EXPECT_TRUE(std::regex_search(outcome.output, std::regex(row))) << row << outcome.output;
  }
}

TEST_F(BertMlp, ResumesARecipeBitIdentically) {
  for (const std::string recipe : {"delayed", "nvfp4"}) {
    const std::string what = " --recipe " + recipe + " --scaling none --overwrite";
    ASSERT_EQ(run(small("whole") + what).exit_code, 0);
    // No validation touches the state of a recipe: it comes at other steps here.
    const Outcome part = run(small("part") + what + " --stop-at 5");
    ASSERT_EQ(part.exit_code, 0);
    const std::string resume = " --resume " + out("part/checkpoint.safetensors");
    ASSERT_EQ(run(small("rest") + what + " --threads 2" + resume).exit_code, 0);
    EXPECT_EQ(content(folder_ / "whole/checkpoint.safetensors"),
              content(folder_ / "rest/checkpoint.safetensors"))
        << recipe;
    EXPECT_EQ(summary("whole").at("checkpoint").at("recipe"), recipe);

    // The checkpoint says which recipe it is of.
    ASSERT_EQ(run(small("same") + " --scaling none" + resume).exit_code, 0);
    EXPECT_EQ(content(folder_ / "whole/checkpoint.safetensors"),
              content(folder_ / "same/checkpoint.safetensors"));
    const Outcome other = run(small("other") + " --recipe amax" + resume);
    EXPECT_EQ(other.exit_code, 2);
    EXPECT_NE(other.output.find("recipe is " + recipe + " there and amax here"), std::string::npos)
        << other.output;
  }
}

TEST_F(BertMlp, SweepsTheFormatsOfSoManyBits) {
  const Outcome outcome =
      run(tiny("sweep") + " --hidden 16 --layers 1 --steps 4 --sweep-formats 6 --scaling unit");
  ASSERT_EQ(outcome.exit_code, 0) << outcome.output;
  const std::string csv = content(folder_ / "sweep/formats.csv");
  std::vector<std::string> rows;
  std::istringstream lines(csv);
  for (std::string line; std::getline(lines, line);) rows.push_back(line);
  const std::vector<std::string> starts{"scaling,operands,gradients,learning_rate,valid_bpc",
                                        "unit,float32,float32,0.25,",
                                        "unit,e2m3fn,e5m2,0.25,",
                                        "unit,e3m2fn,e5m2,0.25,",
                                        "unit,e4m1fn,e5m2,0.25,",
                                        "unit,e4m3fn,e2m3fn,0.25,",
                                        "unit,e4m3fn,e3m2fn,0.25,",
                                        "unit,e4m3fn,e4m1fn,0.25,"};
  ASSERT_EQ(rows.size(), starts.size()) << csv;
  for (std::size_t i = 0; i < rows.size(); ++i)
    EXPECT_TRUE(rows[i].starts_with(starts[i])) << rows[i];
  EXPECT_NE(outcome.output.find("| bits/char with formats of | e2m3fn | e3m2fn | e4m1fn |"),
            std::string::npos)
      << outcome.output;
  EXPECT_EQ(content(folder_ / "sweep/formats.md").substr(0, 30), "| bits/char with formats of | ");
  EXPECT_NE(content(folder_ / "sweep/formats.svg").find("</svg>"), std::string::npos);
  EXPECT_EQ(summary("sweep").at("runs").size(), 7U);
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
                                     std::string("--simulate e4m3fn"),
                                     std::string("--simulate e4m3fn/e5m3m2"),
                                     std::string("--simulate nothing:e4m3fn/e5m2"),
                                     std::string("--simulate gelu:e4m3fn/e5m2"),
                                     std::string("--precision fp16 --simulate '*=e5m2/e5m2'"),
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
    EXPECT_FALSE(fs::exists(folder_ / "never")) << mistake;
  }
}

TEST_F(BertMlp, SaysInOneShortLineWhatIsWrongWithAnArgument) {
  std::ofstream(folder_ / "s.txt") << "no checkpoint";
  const std::string text = out("s.txt");
  const std::string rate = "expected a finite number above 0, in the range of float";
  const std::pair<std::string, std::string> mistakes[] = {
      {"--seed -1", "--seed -1: expected a whole number from 0 to 18446744073709551615"},
      {"--steps 1e3", "--steps 1e3: expected a whole number from 1 to 2147483648"},
      {"--stop-at -1", "--stop-at -1: expected a whole number from 1 to 2147483648"},
      {"--eval-every 0", "--eval-every 0: expected a whole number from 1 to 2147483648"},
      {"--threads -1", "--threads -1: expected a whole number from 1 to 1024"},
      {"--lr 0", "--lr 0: " + rate},
      {"--lr inf", "--lr inf: " + rate},
      {"--lr 1e-320", "--lr 1e-320: " + rate},
      {"--lr 1e999", "--lr 1e999: " + rate},
      {"--lr 2x", "--lr 2x: " + rate},
      {"--weight-decay -1",
       "--weight-decay -1: expected a finite number of at least 0, in the range of float"},
      {"--steps 2 --stop-at 3", "--stop-at 3: expected a step up to --steps 2"},
      {"--precision fp16 --compare fp8:unit", "--precision excludes --compare"},
      {"--scaling unit --compare fp8:unit", "--scaling excludes --compare"},
      {"--print-scales --loss-scale-window", "--print-scales excludes --loss-scale-window"},
      {"--print-scales --json", "--json excludes --print-scales"},
      {"--print-scales --stop-at 1", "--stop-at excludes --print-scales"},
      {"--loss-scale-window --report", "--loss-scale-window excludes --report"},
      {"--print-scales --report", "--print-scales excludes --report"},
      {"--loss-scale-window --scaling loss:8",
       "--loss-scale-window sets the loss scale: 'loss:8' cannot be had with it"},
      {"--precision fp8 --resume " + text,
       "--resume '" + text +
           "': says that its header has 7738140083766718318 bytes, "
           "expected at most 100000000; it is no safetensors file"},
      {"--precision fp8 --resume " + out("none"),
       "--resume '" + out("none") + "': there is no such file"},
      {"--precision fp8 --simulate e4m3/e5m2",
       "--simulate goes with precision fp32 or fp16, which carry the numbers: got fp8"},
      {"--simulate e4m3/e5m2 --loss-scale-window", "--loss-scale-window excludes --simulate"},
      {"--sweep-formats --precision fp8", "--precision excludes --sweep-formats"},
      {"--sweep-formats 9", "--sweep-formats 9: expected a whole number from 5 to 8"},
      {"--recipe amaxx",
       "--recipe 'amaxx': recipe 'amaxx': expected one of amax, delayed, constant:BIAS, mxfp8, "
       "mxfp8_round_up, mxfp6, mxfp4, deepseek, nvfp4, coat, with a BIAS from -127 to 127"},
      {"--compare fp8:unit@constant:128",
       "--compare 'fp8:unit@constant:128': recipe 'constant:128': expected one of amax, delayed, "
       "constant:BIAS, mxfp8, mxfp8_round_up, mxfp6, mxfp4, deepseek, nvfp4, coat, with a BIAS "
       "from -127 to 127"},
      {"--compare fp8:unit@amax,fp8:unit@amax",
       "--compare 'fp8:unit@amax,fp8:unit@amax': expected different variants, got fp8 unit, amax "
       "twice"},
      {"--recipe amax --simulate e4m3/e5m2", "--simulate excludes --recipe"},
      {"--simulate-rounding nearest",
       "--simulate-rounding goes with --simulate or --sweep-formats: nothing is simulated"},
      {"--simulate e4m3~/e5m2 --simulate-rounding nearest",
       "--simulate-rounding nearest contradicts --simulate 'e4m3~/e5m2': ~ is for stochastic "
       "rounding"},
      {"--simulate e4m3/e5m2 --simulate-rounding up",
       "--simulate-rounding 'up': expected nearest or stochastic"},
      {"--step 30", "--step: there is no such option; do you mean --steps?"},
      {"--optimiser=sgd", "--optimiser: there is no such option; do you mean --optimizer?"},
      {"-steps 30", "-steps: there is no such option; do you mean --steps?"},
      {"30 --hiden 8 --compar", "--hiden: there is no such option; do you mean --hidden?"},
      {"--weight 0.1", "--weight: there is no such option; do you mean --weight-decay?"},
      {"--unknown", "--unknown: there is no such option; see --help"},
      {"-x", "-x: there is no such option; see --help"},
      {"--data one two", "'two' belongs to no option; see --help"},
      {"--overwrite", "--overwrite requires --out"},
      {"--threads 1 --threads 2", "--threads: expected once, got 1 and 2"},
      {"--threads 1 --threads 1", "--threads: expected once, got 1 and 1"},
      {"--precision fp8 --seed 1 --precision=fp16", "--precision: expected once, got fp8 and fp16"},
      {"--compare fp8:unit --compare fp8:none",
       "--compare: expected once, got fp8:unit and fp8:none"},
      {"--sweep-formats 5 --sweep-formats 6", "--sweep-formats: expected once, got 5 and 6"},
      {"--out a --out 'b\nc' --out d", "--out: expected once, got a and b\\nc and d"},
      {"--resume a --resume b", "--resume: expected once, got a and b"},
      {"--seed", "--seed: expected a value"},
      {"--data", "--data: expected a value"},
      {"--compare fp8:unit,fp16:unit --resume " + text,
       "--resume goes with one variant: leave out --compare, for the checkpoint says which"},
      {"--schedule sine", "--schedule: sine not in {constant,linear,cosine}"},
      {"--optimizer lion", "--optimizer: lion not in {adamw,sgd}"},
  };
  for (const auto& [arguments, line] : mistakes) {
    const bool has_results = arguments.find("--resume") != std::string::npos;
    const Outcome outcome = run(arguments + (has_results ? " --out " + out("never") : ""));
    EXPECT_EQ(outcome.exit_code, 2) << arguments;
    EXPECT_EQ(outcome.output, "bert_mlp: " + line + "\n");
  }
}

TEST_F(BertMlp, RefusesPathsThatCannotBeReadOrWrittenInOneLineThatNamesThem) {
  const fs::path pipe = folder_ / "pipe";
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  fs::create_directory(folder_ / "folder");
  fs::create_symlink("nowhere", folder_ / "dangling");
  fs::create_symlink("circle", folder_ / "circle");
  fs::create_symlink("/dev/zero", folder_ / "zeros");
  std::ofstream(folder_ / "empty").close();
  std::ofstream(folder_ / "file") << "x";
  std::ofstream(folder_ / "sparse").close();
  fs::resize_file(folder_ / "sparse", std::uintmax_t{1} << 40);
  const std::string small_run = "--steps 1 --hidden 8 --layers 1 --quiet --precision fp8 ";
  for (const std::string path :
       {"folder", "dangling", "circle", "zeros", "empty", "pipe", "missing", "file/below", "sparse",
        "circle/below", "new\nline", "not\xff utf-8", "/dev/zero", "/dev/full", "/dev/tty",
        "/proc/self/mem", "/proc/self/maps"}) {
    const std::string name = path.starts_with('/') ? path : out(path);
    for (const std::string option : {"--data", "--resume"}) {
      const Outcome outcome = unit_scaling_test::run_command(
          "timeout 60 " UNIT_SCALING_BERT_MLP " " + small_run + option + " '" + name + "' --out " +
          out("never") + (option == "--data" ? "" : " " + data()) + " 2>&1");
      expect_refusal(outcome, option + " " + path, folder_);
      EXPECT_TRUE(outcome.output.starts_with("bert_mlp: " + option + " '")) << outcome.output;
    }
  }
  const std::string nothing = std::string(300, 'n');
  for (const std::string& path :
       {std::string("file"), std::string("dangling"), std::string("circle"),
        std::string("circle/below"), std::string("pipe"), std::string("pipe/below"),
        std::string("file/new\nline"), "never/" + nothing}) {
    const Outcome outcome = run(small_run + data() + " --out '" + out(path) + "'");
    expect_refusal(outcome, path, folder_);
    EXPECT_TRUE(outcome.output.starts_with("bert_mlp: --out '")) << outcome.output;
  }
  // A file where runs/ would be.
  std::ofstream(folder_ / "runs") << "x";
  expect_refusal(run(small_run + data(), "2>&1", folder_), "runs", folder_);
}

TEST_F(BertMlp, TakesPathsOfAnyBytesAndWritesThemEscaped) {
  for (const std::string name : {"new\nline", "not\xff utf-8", "it is\\ \"so\""}) {
    fs::copy(folder_ / "words.txt", folder_ / name);
    fs::create_directory(folder_ / ("of " + name));  // a run makes none with a line end
    const Outcome outcome =
        run("--steps 1 --hidden 8 --layers 1 --batch 2 --precision fp8 --report --data '" +
                out(name) + "' --out '" + out("of " + name) + "'",
            "2>/dev/null");
    ASSERT_EQ(outcome.exit_code, 0) << outcome.output;
    const std::string last =
        outcome.output.substr(outcome.output.rfind('\n', outcome.output.size() - 2) + 1);
    EXPECT_TRUE(last.starts_with("Results are in ")) << last;
    EXPECT_EQ(last.find('\xff'), std::string::npos) << last;
    EXPECT_NO_THROW(static_cast<void>(summary("of " + name).at("command"))) << name;
  }
}

TEST_F(BertMlp, RefusesEveryEmptyArgument) {
  for (const std::string option :
       {"--data",    "--precision",    "--scaling",       "--compare",
        "--norm",    "--hidden",       "--layers",        "--window",
        "--batch",   "--accumulate",   "--steps",         "--stop-at",
        "--lr",      "--schedule",     "--optimizer",     "--seed",
        "--threads", "--weight-decay", "--eval-every",    "--out",
        "--resume",  "--simulate",     "--sweep-formats", "--simulate-rounding"}) {
    for (const std::string empty : {" ''", "=", "=''"}) {
      const Outcome outcome = run(option + empty, "2>&1", folder_);
      EXPECT_EQ(outcome.exit_code, 2) << option << empty;
      EXPECT_EQ(outcome.output,
                "bert_mlp: " + option +
                    ": expected a value, got an empty text; is a variable of the shell not set?\n");
    }
  }
  EXPECT_FALSE(fs::exists(folder_ / "runs"));
}

TEST_F(BertMlp, RefusesListsWithAnEmptyOrRepeatedEntry) {
  const std::string start = "--steps 1 --hidden 8 --layers 1 --quiet --out " + out("never");
  for (const std::string list :
       {"--compare fp8,,fp32", "--compare fp8,fp8", "--compare fp8:unit,,fp32:unit",
        "--compare fp8:unit,fp8:unit", "--compare fp8:unit,", "--compare ,fp8:unit", "--compare ,",
        "--compare fp8:unit,fp32:unit,fp8:unit", "--compare fp8:unit,fp8:unit+loss:1",
        "--compare fp8:loss,fp8:loss:1024", "--loss-scale-window --compare fp8:unit,fp8:unit",
        "--simulate e4m3/e5m2,", "--simulate ,e4m3/e5m2", "--simulate e4m3/e5m2,,e3m4/e5m2",
        "--simulate e4m3/e5m2,e4m3/e5m2"}) {
    expect_refusal(run(start + " " + data() + " " + list), list, folder_);
  }
  fs::create_hard_link(folder_ / "words.txt", folder_ / "again.txt");
  for (const std::string& again : {std::string("words.txt"), std::string("again.txt"),
                                   "../" + folder_.filename().string() + "/words.txt"}) {
    expect_refusal(run(start + " " + data() + " --data " + out(again)), again, folder_);
  }
}

TEST_F(BertMlp, RefusesCheckpointsOfOtherContentBeforeItMakesAFolder) {
  namespace us = unit_scaling;
  ASSERT_EQ(run(small("part") + " --precision fp8 --stop-at 6").exit_code, 0);
  const std::string altered = out("altered.safetensors");
  const std::string resume = small("never") + " --precision fp8 --stop-at 6 --resume " + altered;
  using Arrays = std::map<std::string, us::Array<float>>;
  using Curves = std::map<std::string, us::Array<double>>;
  using Texts = std::map<std::string, std::string>;
  // What the checkpoint is made of, altered by `change`.
  const auto write = [&](const auto& change) {
    us::train::SafetensorsFile file(folder_ / "part/checkpoint.safetensors");
    Arrays arrays;
    Curves curves;
    Texts texts = file.metadata();
    for (const std::string& name : file.names()) {
      if (file.info(name).type == "F64") {
        curves[name] = file.tensor<double>(name);
      } else {
        arrays[name] = file.tensor<float>(name);
      }
    }
    change(arrays, curves, texts);
    us::train::SafetensorsWriter writer;
    for (const auto& [name, array] : arrays) writer.add(name, array);
    for (const auto& [name, array] : curves) writer.add(name, array);
    for (const auto& [key, text] : texts) writer.set_metadata(key, text);
    writer.write(altered);
  };
  write([](Arrays&, Curves&, Texts&) {});
  ASSERT_EQ(run(resume).exit_code, 0) << "as it is";
  fs::remove_all(folder_ / "never");

  for (const std::string step : {"-1", "1e300", "nan", "", " 6", "6 ", "13", "3", "8",
                                 "18446744073709551615", "18446744073709551622", "6\n6"}) {
    write([&](Arrays&, Curves&, Texts& texts) { texts["step"] = step; });
    expect_refusal(run(resume), "step " + step, folder_);
  }
  const std::string bias = "parameter.blocks.0.feed_forward.up.bias";
  const std::string squares = "optimiser.second_moment.tokens.table";
  const auto put = [](auto& array, auto value) { array.mutable_data()[0] = value; };
  const double nan = std::nan("");
  using Change = std::function<void(Arrays&, Curves&, Texts&)>;
  const std::pair<std::string, Change> changes[] = {
      {"no step", [](auto&, auto&, auto& texts) { texts.erase("step"); }},
      {"no training", [](auto&, auto&, auto& texts) { texts.erase("training"); }},
      {"other training", [](auto&, auto&, auto& texts) { texts["training"] = "\n=\x01 a=b ="; }},
      {"no words", [](auto&, auto&, auto& texts) { texts["training"] = ""; }},
      {"same words", [](auto&, auto&, auto& texts) { texts["training"] += " "; }},
      {"long words",
       [](auto&, auto&, auto& texts) {
         for (int i = 0; i < 10000; ++i) texts["training"] += " k" + std::to_string(i) + "=v";
       }},
      {"missing parameter", [&](auto& arrays, auto&, auto&) { arrays.erase(bias); }},
      {"missing state", [&](auto& arrays, auto&, auto&) { arrays.erase(squares); }},
      {"other shape", [&](auto& arrays, auto&, auto&) { arrays[bias] = us::Array<float>({3}); }},
      {"other type",
       [&](auto& arrays, auto& curves, auto&) {
         curves[bias] = us::Array<double>(arrays.at(bias).shape());
         arrays.erase(bias);
       }},
      {"unknown array", [](auto& arrays, auto&, auto&) { arrays["x\ny"] = us::Array<float>({1}); }},
      {"a parameter of NaN",
       [&](auto& arrays, auto&, auto&) { put(arrays.at(bias), std::nanf("")); }},
      {"an infinite parameter",
       [&](auto& arrays, auto&, auto&) { put(arrays.at(bias), HUGE_VALF); }},
      {"a state of NaN",
       [&](auto& arrays, auto&, auto&) { put(arrays.at(squares), std::nanf("")); }},
      {"negative squares", [&](auto& arrays, auto&, auto&) { put(arrays.at(squares), -1.F); }},
      {"no points", [](auto&, auto& curves, auto&) { curves.erase("record.points"); }},
      {"too many points",
       [](auto&, auto& curves, auto&) {
         curves["record.points"] = us::Array<double>({9, 2});
       }},
      {"a loss of NaN",
       [&](auto&, auto& curves, auto&) { put(curves.at("record.loss_sum"), nan); }},
      {"a negative loss",
       [&](auto&, auto& curves, auto&) { put(curves.at("record.loss_sum"), -5.0); }},
      {"a huge loss",
       [&](auto&, auto& curves, auto&) { put(curves.at("record.loss_sum"), 1e300); }},
      {"a training loss of NaN",
       [&](auto&, auto& curves, auto&) { put(curves.at("record.points"), nan); }},
      {"a huge training loss",
       [&](auto&, auto& curves, auto&) { put(curves.at("record.points"), 1e300); }},
      {"an infinite training loss",
       [&](auto&, auto& curves, auto&) { put(curves.at("record.points"), HUGE_VAL); }},
      {"a negative training loss",
       [&](auto&, auto& curves, auto&) { put(curves.at("record.points"), -1.0); }},
      {"a negative validation loss",
       [&](auto&, auto& curves, auto&) {
         curves.at("record.points").mutable_span().back() = -0.1;
       }},
      {"a validation loss of NaN",
       [&](auto&, auto& curves, auto&) { curves.at("record.points").mutable_span().back() = nan; }},
  };
  for (const auto& [what, change] : changes) {
    write(change);
    const Outcome outcome = run(resume);
    expect_refusal(outcome, what, folder_);
    EXPECT_TRUE(outcome.output.starts_with("bert_mlp: --resume '" + altered + "': ")) << what;
    EXPECT_LT(outcome.output.size(), 2000U) << what;
  }
}

TEST_F(BertMlp, MakesNoFolderWithControlCharactersInItsName) {
  const auto start = [&](const std::string& name) {
    return data() + " --hidden 8 --layers 1 --steps 2 --quiet --precision fp8 --out '" + out(name) +
           "'";
  };
  for (const std::string name : {"a\nb", "never/\x1b[2Jc", "never/e\tf/g", "\x7fh", "\xc2\x9bi"}) {
    expect_refusal(run(start(name)), name, folder_);
    EXPECT_FALSE(fs::exists(folder_ / name)) << name;
  }
  // Results may go where somebody else made one.
  fs::create_directory(folder_ / "a\nb");
  EXPECT_EQ(run(start("a\nb")).exit_code, 0);
  EXPECT_EQ(run(start("a\nb/c")).exit_code, 0);
  // What is no control, in the language of the user, is taken.
  EXPECT_EQ(run(start("Ergebnis \xc3\xa4\xc2\xb5")).exit_code, 0);
}

TEST_F(BertMlp, NamesTheOptionsToChangeWhereMemoryEnds) {
  const std::string start = "--steps 1 --quiet --precision fp8 --threads 1 --out " + out("never") +
                            " --data " + out("words.txt") + " ";
  // Refused beforehand, and where no estimate could tell.
  const std::pair<std::string, std::string> cases[] = {
      {"--hidden 65536", "--hidden 65536"},
      {"--hidden 65536 --layers 1024", "--layers 1024"},
      {"--hidden 65536 --accumulate 2 --optimizer sgd", "--hidden 65536"},
      {"--window 1024 --layers 1024 --hidden 8 --batch 1", "--window 1024"},
      {"--batch 1048576", "--batch 1048576"},
      {"--batch 1048576 --window 512", "--batch 1048576"},
      {"--batch 1048576 --window 3000", "--batch 1048576"},
      {"--batch 700 --hidden 128", "--batch 700"},
      {"--batch 8 --hidden 700", "--hidden 700"}};
  for (const auto& [sizes, option] : cases) {
    const Outcome outcome = unit_scaling_test::run_command(
        "ulimit -v 100000; " UNIT_SCALING_BERT_MLP " " + start + sizes + " 2>&1");
    expect_refusal(outcome, sizes, folder_);
    EXPECT_NE(outcome.output.find(option), std::string::npos) << outcome.output;
    EXPECT_EQ(outcome.output.find("bad_alloc"), std::string::npos) << outcome.output;
  }
  expect_refusal(run("--print-scales --batch 1048576 --window 4096"), "2^32 characters", folder_);
}

TEST_F(BertMlp, EstimatesNoMoreMemoryThanATrainingTakes) {
  for (const std::string sizes :
       {"--hidden 64 --layers 3 --batch 64 --compare fp32:unit --optimizer sgd",
        "--hidden 16 --layers 2 --batch 300 --compare fp8:unit",
        "--hidden 200 --layers 1 --batch 4 --window 5 --compare fp16:none"}) {
    const std::string arguments = "--steps 1 --quiet --threads 1 --overwrite --data " +
                                  out("words.txt") + " --out " + out("sizes") + " " + sizes;
    ASSERT_EQ(run(arguments).exit_code, 0) << sizes;
    const auto entry = summary("sizes").at("runs").at(0);
    const auto bytes = [&](const char* key) { return entry.at(key).get<std::size_t>(); };
    const std::size_t taken =
        bytes("parameter_bytes") + bytes("optimiser_bytes") + bytes("saved_bytes");
    // So much, and what the program itself takes, which it has before it estimates.
    constexpr std::size_t program = 16384;
    const Outcome again =
        unit_scaling_test::run_command("ulimit -v " + std::to_string(taken / 1024 + program) +
                                       "; " UNIT_SCALING_BERT_MLP " " + arguments + " 2>&1");
    EXPECT_EQ(again.output.find("takes more than"), std::string::npos) << again.output;
  }
}

TEST_F(BertMlp, WritesEveryResultThatCanBeWrittenAndNamesTheOthers) {
  const std::string what = " --hidden 8 --layers 1 --steps 2 --quiet --precision fp8 ";
  const auto expect_all_but = [&](const std::string& name, const Outcome& outcome,
                                  const std::set<std::string>& lost) {
    EXPECT_EQ(outcome.exit_code, 1) << name << outcome.output;
    EXPECT_TRUE(outcome.output.starts_with("bert_mlp: --out '" + out(name) + "': not written: "))
        << outcome.output;
    EXPECT_EQ(std::count(outcome.output.begin(), outcome.output.end(), '\n'), 1) << outcome.output;
    for (const std::string file :
         {"checkpoint.safetensors", "loss.svg", "metrics.csv", "summary.json"}) {
      EXPECT_EQ(fs::is_regular_file(folder_ / name / file), !lost.contains(file)) << file;
      EXPECT_EQ(outcome.output.find(file) != std::string::npos, lost.contains(file)) << file;
    }
  };
  for (const std::string lost : {"loss.svg", "metrics.csv", "summary.json"}) {
    fs::create_directories(folder_ / ("no " + lost) / lost);
    expect_all_but("no " + lost,
                   run(data() + " --out '" + out("no " + lost) + "'" + what + "--overwrite"),
                   {lost});
  }
  fs::create_directory(folder_ / "no_figures");
  std::ofstream(folder_ / "no_figures/figures") << "a file";
  expect_all_but("no_figures", run(tiny("no_figures") + what + "--report"), {});
  EXPECT_TRUE(fs::is_regular_file(folder_ / "no_figures/report.html"));
  // As if the disk were full: no file may have more than 8 KiB, or 16 by another shell.
  expect_all_but("full",
                 unit_scaling_test::run_command("ulimit -f 16; " UNIT_SCALING_BERT_MLP " " +
                                                tiny("full") + what + "2>&1"),
                 {"checkpoint.safetensors"});
  // A checkpoint that could never be written is told before the training.
  fs::create_directories(folder_ / "none/checkpoint.safetensors");
  const Outcome none = run(tiny("none") + what + "--overwrite");
  expect_refusal(none, "checkpoint", folder_);
  EXPECT_NE(none.output.find("checkpoint.safetensors"), std::string::npos) << none.output;
  EXPECT_FALSE(fs::exists(folder_ / "none/summary.json"));
}

// The run that gets the folder trains until the others have ended, however late they begin.
TEST_F(BertMlp, GivesAFolderToOneRunAtATime) {
  const std::string what = data() + " --hidden 8 --layers 1 --quiet --precision fp8";
  const std::string endless = what + " --steps 100000000 --eval-every 100000000";
  const auto together = [&](const std::string& arguments, const std::string& between = "") {
    const std::string one = "( sh -c 'echo $$ >> pids; exec " UNIT_SCALING_BERT_MLP " " +
                            arguments + "'; echo code $? >> codes ) 2>&1 & ";
    return unit_scaling_test::run_command("cd " + folder_.string() + "; : > pids; : > codes; " +
                                          one + one + one + between + "wait; cat codes");
  };
  const std::string stop_last =
      "for i in $(seq 1200); do "
      "if [ $(wc -l < codes) -ge 2 ]; then kill $(cat pids) 2> kill.log; break; fi; sleep 0.05; "
      "done; ";
  using unit_scaling_test::count;
  const auto expect_one_trains = [&](const Outcome& outcome, const std::string& refusal) {
    EXPECT_EQ(count(outcome.output, "code 2\n"), 2U) << outcome.output;
    EXPECT_EQ(count(outcome.output, refusal), 2U) << outcome.output;
    EXPECT_EQ(count(outcome.output, "code 143\n"), 1U) << outcome.output;  // of the signal
  };
  expect_one_trains(together(endless + " --out new/folder", stop_last),
                    "bert_mlp: --out 'new/folder': another run writes there; give another "
                    "folder\n");

  const Outcome unnamed = together(what + " --steps 30");
  EXPECT_EQ(count(unnamed.output, "code 0\n"), 3U) << unnamed.output;
  for (const std::string name : {"fp8-unit", "fp8-unit-2", "fp8-unit-3"}) {
    EXPECT_TRUE(fs::exists(folder_ / "runs" / name / "summary.json")) << name;
  }

  ASSERT_EQ(run(endless + " --out " + out("part") + " --stop-at 2").exit_code, 0);
  expect_one_trains(together(endless + " --resume part/checkpoint.safetensors", stop_last),
                    "another run writes there");
}

// What a point adds to each later checkpoint is two numbers, not a text to be made anew.
TEST_F(BertMlp, WritesCheckpointsThatHardlyGrowWithThePoints) {
  const auto size = [&](const std::string& name, const std::string& every) {
    const Outcome outcome = run(tiny(name) + " --hidden 8 --layers 1 --steps 200 --quiet " +
                                "--precision fp8 --threads 1 --eval-every " + every);
    EXPECT_EQ(outcome.exit_code, 0) << outcome.output;
    return fs::file_size(folder_ / name / "checkpoint.safetensors");
  };
  constexpr std::size_t points = 198;  // more than of the other
  EXPECT_NEAR(static_cast<double>(size("many", "1") - size("few", "100")), 16 * points, 64);
}

TEST_F(BertMlp, TrainsOnAnyBytes) {
  {
    std::ofstream file(folder_ / "bytes.bin", std::ios::binary);
    for (int i = 0; i < 4000; ++i) file.put(static_cast<char>(i * 37 % 256));
  }
  const Outcome outcome = run("--steps 4 --hidden 16 --quiet --precision fp8 --data " +
                              out("bytes.bin") + " --out " + out("bytes"));
  EXPECT_EQ(outcome.exit_code, 0) << outcome.output;
}

TEST_F(BertMlp, HelpNamesEveryOptionWithItsDefault) {
  const Outcome outcome = run("--help");
  EXPECT_EQ(outcome.exit_code, 0);
  for (const char* option :
       {"--data TEXT",
        "(default: the project's sources)",
        "--precision TEXT=fp8",
        "--scaling TEXT=unit",
        "--compare TEXT=fp32:unit,fp16:unit,fp8:unit,fp32:none,fp8:none",
        "--norm TEXT=pre",
        "--hidden UINT=128",
        "--layers UINT=4",
        "--window UINT=16",
        "--batch UINT=64",
        "--steps UINT=700",
        "--stop-at UINT",
        "(default: do not)",
        "--lr FLOAT",
        "(default: 2^-2 unit, 2^-7 plain, 2^-9 plain fp8 without a loss scale or recipe; "
        "with sgd 2^-8 unit, 2^-2 plain)",
        "--schedule TEXT:{constant,linear,cosine}=linear",
        "--optimizer TEXT:{adamw,sgd}=adamw",
        "--weight-decay FLOAT=0.01",
        "--seed UINT=1",
        "--replicas UINT",
        "(default: one for each rank)",
        "--wire TEXT=float32",
        "--deadline UINT=600",
        "mpirun -n 4 bert_mlp",
        "--threads UINT=",
        "--eval-every UINT",
        "(default: a twentieth of the steps, at least 8)",
        "--out TEXT",
        "(default: a new runs/NAME in this folder; with --resume the checkpoint's own)",
        "--overwrite",
        "--resume TEXT",
        "--quiet",
        "--json",
        "--print-scales",
        "--loss-scale-window",
        "--report",
        "--version",
        "Exit codes",
        "130 stopped by Ctrl-C, 143 by kill."}) {
    EXPECT_NE(outcome.output.find(option), std::string::npos) << option << "\n" << outcome.output;
  }
}

TEST_F(BertMlp, TrainsAtTheLearningRatesThatHelpNames) {
  const std::tuple<std::string, std::string, double> rates[] = {
      {"adamw", "fp32:unit", 0x1p-2}, {"adamw", "fp8:unit", 0x1p-2}, {"adamw", "fp32:none", 0x1p-7},
      {"adamw", "fp8:none", 0x1p-9},  {"adamw", "fp8:loss", 0x1p-7}, {"sgd", "fp8:unit", 0x1p-8},
      {"sgd", "fp8:none", 0x1p-2},
  };
  for (const auto& [optimizer, variant, rate] : rates) {
    const Outcome outcome =
        run(tiny("rate") + " --hidden 16 --layers 1 --steps 1 --quiet --json --overwrite" +
            " --optimizer " + optimizer + " --compare " + variant);
    ASSERT_EQ(outcome.exit_code, 0) << outcome.output;
    EXPECT_EQ(summary("rate").at("runs").at(0).at("learning_rate"), rate) << variant;
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
  // Which of the tensors of an op with several is meant.
  const Outcome outputs = run(command);
  for (const char* number : {" 2.0 residual_split", " 2.1 residual_split", " 1 "}) {
    EXPECT_NE(outputs.output.find(number), std::string::npos) << outputs.output;
  }
  const Outcome plain = run(command + "--scaling none --batch 64");
  EXPECT_EQ(plain.exit_code, 0) << plain.output;
  EXPECT_EQ(plain.output.find("\n0 of 171 tensors"), std::string::npos) << plain.output;
}

}  // namespace bert_mlp_test
