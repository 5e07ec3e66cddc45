// SPDX-License-Identifier: MIT
// Runs the example as jobs of several processes, under each MPI that is here, and takes processes
// away from them. Each job ends within a minute, or is ended.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <regex>
#include <string>
#include <vector>

#include "support/command.hpp"
#include "support/temporary_folder.hpp"
#include "support/texts.hpp"
#include "support/words.hpp"

namespace bert_mlp_ranks_test {

namespace fs = std::filesystem;

using unit_scaling_test::content;
using unit_scaling_test::count;
using unit_scaling_test::Outcome;
using unit_scaling_test::run_command;
using unit_scaling_test::TemporaryFolder;

const std::string program = UNIT_SCALING_BERT_MLP;
/// Containers run as root, and forbid what the third one would use.
const std::string environment =
    "OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 "
    "OMPI_MCA_btl_vader_single_copy_mechanism=none ";

/// The MPI is the parameter.
class BertMlpRanks : public testing::TestWithParam<std::string> {
 protected:
  BertMlpRanks() { std::ofstream(folder_ / "words.txt") << unit_scaling_test::words(); }

  /// A command that starts ranks of this MPI, and one that does so in the environment that it needs
  /// and ends within a minute.
  [[nodiscard]] static std::string launcher() {
    // MPICH oversubscribes unasked.
    return "mpirun." + GetParam() + (GetParam() == "openmpi" ? " --oversubscribe" : "");
  }
  [[nodiscard]] static std::string mpirun() { return environment + "timeout 60 " + launcher(); }
  [[nodiscard]] Outcome in_folder(const std::string& command) const {
    return run_command("cd " + folder_.string() + " && { " + command + "; } 2>&1");
  }
  /// Runs the example on so many ranks.
  [[nodiscard]] Outcome on(std::size_t ranks, const std::string& arguments) const {
    return in_folder(mpirun() + " -n " + std::to_string(ranks) + " " + program + " " + arguments);
  }
  [[nodiscard]] Outcome alone(const std::string& arguments) const {
    return in_folder(program + " " + arguments);
  }

  /// Arguments of a small model, quick to train.
  static std::string tiny(const std::string& name) {
    return "--data words.txt --hidden 16 --layers 1 --eval-every 4 --threads 1 --out " + name + " ";
  }
  static std::string small(const std::string& name) {
    return tiny(name) + "--batch 8 --steps 12 --precision fp8 --quiet ";
  }
  /// Of a training of 4 replicas that goes on until it is stopped.
  static std::string endless(const std::string& name) {
    return tiny(name) + "--batch 8 --replicas 4 --steps 400000 --precision fp8 --quiet ";
  }

  [[nodiscard]] std::string checkpoint(const std::string& name) const {
    return content(folder_ / name / "checkpoint.safetensors");
  }
  [[nodiscard]] std::string curves(const std::string& name) const {
    return content(folder_ / name / "metrics.csv");
  }

  /// Runs an endless training on 4 ranks, and what `fault` says in sh as soon as there is a
  /// checkpoint: $job is the process of mpirun, $rank that of rank 2.
  [[nodiscard]] Outcome with_fault(const std::string& arguments, const std::string& fault) const {
    std::ofstream(folder_ / "job.sh")
        << "exec " << launcher() << " -n 4 " << program << " " << arguments << "\n";
    return in_folder(
        environment +
        "sh job.sh > said 2>&1 & job=$!\n"
        "for i in $(seq 600); do [ -e fault/checkpoint.safetensors ] && break; sleep 0.05; done\n"
        "for p in /proc/[0-9]*; do\n"
        "  [ \"$(readlink $p/cwd)\" = \"$(pwd -P)\" ] && tr '\\0' '\\n' < $p/environ |\n"
        "    grep -Eqx '(OMPI_COMM_WORLD_RANK|PMI_RANK)=2' && rank=${p#/proc/}\n"
        "done 2> found; echo $rank > rank\n" +
        fault +
        "\nfor i in $(seq 600); do kill -0 $job 2> ended || break; sleep 0.05; done\n"
        "kill -9 $job 2> ended && echo 'did not end' >> said\n"
        "wait $job; code=$?; cat said; exit $code");
  }

  /// The checkpoint that a fault has left goes on to the bits of a training that had none.
  void expect_to_go_on(std::size_t ranks) const {
    const fs::path file = folder_ / "fault/checkpoint.safetensors";
    std::smatch found;
    const std::string header = content(file).substr(0, 2000);
    ASSERT_TRUE(std::regex_search(header, found, std::regex("\"step\":\"([0-9]+)\""))) << header;
    const std::string end = " --stop-at " + std::to_string(std::stoul(found.str(1)) + 3);
    const Outcome rest =
        on(ranks, endless("rest") + end + " --resume fault/checkpoint.safetensors");
    ASSERT_EQ(rest.exit_code, 0) << rest.output;
    const Outcome whole = alone(endless("whole") + end);
    ASSERT_EQ(whole.exit_code, 0) << whole.output;
    EXPECT_TRUE(checkpoint("rest") == checkpoint("whole")) << end;
  }

  const TemporaryFolder temporary_;
  const fs::path& folder_ = temporary_.path();
};

// Files with the model, the curves and all that a report shows of it.
TEST_P(BertMlpRanks, GiveTheSameBitsHoweverManyShareTheReplicas) {
  const auto expect_same = [&](const std::string& what, const std::vector<std::size_t>& ranks) {
    const Outcome one = alone(tiny("one") + "--quiet --overwrite " + what);
    ASSERT_EQ(one.exit_code, 0) << one.output;
    ASSERT_GT(checkpoint("one").size(), 1000U);
    for (const std::size_t each : ranks) {
      const Outcome several = on(each, tiny("several") + "--quiet --overwrite " + what);
      ASSERT_EQ(several.exit_code, 0) << several.output;
      EXPECT_TRUE(checkpoint("several") == checkpoint("one")) << what << each;
      EXPECT_EQ(curves("several"), curves("one")) << what << each;
      const auto runs = nlohmann::json::parse(content(folder_ / "several/summary.json"));
      EXPECT_EQ(runs.at("machine").at("ranks"), each);
      if (!fs::exists(folder_ / "one/figures")) continue;
      for (const auto& figure : fs::directory_iterator(folder_ / "one/figures")) {
        EXPECT_EQ(content(folder_ / "several/figures" / figure.path().filename()),
                  content(figure.path()))
            << figure.path() << each;
      }
    }
  };
  expect_same("--batch 8 --replicas 4 --steps 12 --precision fp8 --report", {2, 4});
  expect_same("--batch 4 --replicas 3 --accumulate 2 --steps 8 --precision fp32 --scaling loss:64",
              {3});
}

TEST_P(BertMlpRanks, GiveTheSameBitsOnSeveralThreadsEach) {
  // Wide enough for products, and sums of gradients, that threads share.
  const auto with_threads = [](const std::string& count) {
    return "--data words.txt --hidden 128 --batch 64 --replicas 2 --steps 4 --precision fp8 "
           "--quiet --threads " +
           count + " --out threads" + count + " ";
  };
  const Outcome one = alone(with_threads("1"));
  ASSERT_EQ(one.exit_code, 0) << one.output;
  const Outcome several = on(2, with_threads("3"));
  ASSERT_EQ(several.exit_code, 0) << several.output;
  EXPECT_TRUE(checkpoint("threads3") == checkpoint("threads1"));
}

TEST_P(BertMlpRanks, TakeAReplicaEachUnlessToldOtherwise) {
  ASSERT_EQ(on(2, small("two")).exit_code, 0);
  ASSERT_EQ(alone(small("one") + "--replicas 2").exit_code, 0);
  EXPECT_TRUE(checkpoint("two") == checkpoint("one"));
}

TEST_P(BertMlpRanks, TrainAboutAsWellWithGradientsInNarrowFormats) {
  const auto loss = [&](const std::string& wire) {
    const Outcome outcome =
        on(4, tiny(wire) + "--batch 8 --steps 40 --precision fp8 --quiet --wire " + wire);
    EXPECT_EQ(outcome.exit_code, 0) << outcome.output;
    return nlohmann::json::parse(content(folder_ / wire / "summary.json"))
        .at("runs")
        .at(0)
        .at("valid_bpc")
        .get<double>();
  };
  const double of_floats = loss("float32");
  for (const std::string wire : {"float16", "float8_e4m3fn"}) {
    // Rounding noise moves a short training as another seed does, by less than this.
    EXPECT_NEAR(loss(wire), of_floats, 0.2) << wire;
    EXPECT_FALSE(checkpoint(wire) == checkpoint("float32")) << wire;
  }
}

TEST_P(BertMlpRanks, ResumeOnAnotherNumberToTheSameBits) {
  const std::string what = "--replicas 4 --overwrite ";
  ASSERT_EQ(alone(small("whole") + what).exit_code, 0);
  ASSERT_EQ(on(4, small("part") + what + "--stop-at 5").exit_code, 0);
  EXPECT_FALSE(checkpoint("part") == checkpoint("whole"));
  const std::string resume = what + "--resume part/checkpoint.safetensors";
  ASSERT_EQ(on(2, small("two") + resume).exit_code, 0);
  EXPECT_TRUE(checkpoint("two") == checkpoint("whole"));
  ASSERT_EQ(alone(small("one") + resume).exit_code, 0);
  EXPECT_TRUE(checkpoint("one") == checkpoint("whole"));
}

TEST_P(BertMlpRanks, SpeakWithOneVoiceAndWriteToOneFolder) {
  const Outcome outcome = on(4,
                             "--data words.txt --batch 8 --hidden 16 --layers 1 --steps 12 "
                             "--precision fp8 --threads 1");
  EXPECT_EQ(outcome.exit_code, 0) << outcome.output;
  EXPECT_EQ(count(outcome.output, "step 12/12"), 1U) << outcome.output;
  EXPECT_EQ(count(outcome.output, "12 steps of "), 1U) << outcome.output;
  EXPECT_EQ(count(outcome.output, "4 ranks of 1 thread,"), 1U) << outcome.output;
  EXPECT_EQ(count(outcome.output, "Results are in runs/fp8-unit;"), 1U) << outcome.output;
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_ / "runs"), {}), 1);
  const Outcome help = on(3, "--help");
  EXPECT_EQ(help.exit_code, 0);
  EXPECT_EQ(count(help.output, "mpirun -n 4 bert_mlp"), 1U) << help.output;
}

TEST_P(BertMlpRanks, TellAMistakeOnceAndEndWithItsCode) {
  const auto expect = [&](const std::string& arguments, const std::string& line) {
    const Outcome outcome = on(3, arguments);
    EXPECT_EQ(outcome.exit_code, 2) << outcome.output;
    EXPECT_EQ(count(outcome.output, "bert_mlp: "), 1U) << outcome.output;
    EXPECT_EQ(count(outcome.output, "bert_mlp: " + line + "\n"), 1U) << outcome.output;
  };
  expect("--stepz 3", "--stepz: there is no such option; do you mean --steps?");
  expect(small("never") + "--replicas 4",
         "--replicas 4: expected a multiple of the 3 ranks, which share them");
  EXPECT_FALSE(fs::exists(folder_ / "never"));
  // What the optimiser refuses.
  const std::string steep = "--lr 1e4 --scaling none --replicas 3";
  const Outcome refused = alone(small("steep") + steep);
  EXPECT_EQ(refused.exit_code, 2);
  const std::string line = refused.output.substr(0, refused.output.find('\n'));
  ASSERT_TRUE(line.starts_with("bert_mlp: AdamW: expected a learning rate ")) << refused.output;
  expect(small("steep") + "--overwrite " + steep, line.substr(line.find(' ') + 1));
  // What rank 0 alone looks at.
  ASSERT_EQ(alone(small("there")).exit_code, 0);
  expect(small("there") + "--seed 2",
         "--out 'there' holds the results of another command, which its summary.json names; give "
         "another folder, or --overwrite");
}

TEST_P(BertMlpRanks, FindWhatTheyWereToldDifferently) {
  std::ofstream(folder_ / "others.txt") << unit_scaling_test::words() << "and one more";
  const auto expect = [&](const std::string& of_first, const std::string& of_second,
                          const std::string& line) {
    const std::string command =
        program + " --hidden 16 --batch 8 --eval-every 4 --quiet --out never --precision fp8 ";
    const Outcome outcome =
        in_folder(mpirun() + " -n 1 " + command + of_first + " : -n 1 " + command + of_second);
    EXPECT_EQ(outcome.exit_code, 2) << outcome.output;
    EXPECT_TRUE(std::regex_search(outcome.output, std::regex("bert_mlp: " + line + "\n")))
        << outcome.output;
    EXPECT_FALSE(fs::exists(folder_ / "never"));
  };
  const std::string differs = "agreement: expected the same on all ranks, got ";
  expect("", "--seed 2", differs + "seed is 1 on rank 0 and 2 on rank 1");
  expect("--layers 2", "--layers 3", differs + "layers is 2 on rank 0 and 3 on rank 1");
  expect("--data words.txt", "--data others.txt",
         differs + "text is .* on rank 0 and .* on rank 1");
  expect("", "--stepz 3", "rank 1 of 2: --stepz: there is no such option; do you mean --steps\\?");
}

// The weights are the same in both files.
TEST_P(BertMlpRanks, FindThatTheyResumeWithOtherStatesOfTheOptimiser) {
  ASSERT_EQ(alone(small("part") + "--replicas 2 --stop-at 5").exit_code, 0);
  std::string bytes = checkpoint("part");
  ASSERT_GT(bytes.size(), 1000U);
  std::uint64_t size = 0;  // of the header, which stands behind it
  std::memcpy(&size, bytes.data(), sizeof(size));
  const auto header = nlohmann::json::parse(bytes.substr(sizeof(size), size));
  const auto entry = std::find_if(header.items().begin(), header.items().end(), [](auto& each) {
    return each.key().starts_with("optimiser.first_moment.");
  });
  ASSERT_TRUE(entry != header.items().end());
  const auto begin = entry.value().at("data_offsets").at(0).get<std::size_t>();
  bytes[sizeof(size) + size + begin] ^= 1;  // the last bit of its first number
  std::ofstream(folder_ / "other", std::ios::binary) << bytes;
  const std::string command = program + " " + small("never") + "--replicas 2 --stop-at 7 --resume ";
  const auto resume = [&](const std::string& file) {
    return in_folder(mpirun() + " -n 1 " + command + "part/checkpoint.safetensors : -n 1 " +
                     command + file);
  };
  const Outcome outcome = resume("other");
  EXPECT_EQ(outcome.exit_code, 2) << outcome.output;
  EXPECT_TRUE(std::regex_search(
      outcome.output, std::regex("bert_mlp: agreement: expected the same on all ranks, got " +
                                 entry.key() + " is .* on rank 0 and .* on rank 1\n")))
      << outcome.output;
  EXPECT_EQ(resume("part/checkpoint.safetensors").exit_code, 0);
}

TEST_P(BertMlpRanks, StopTogetherWhereMpirunIsInterrupted) {
  const Outcome outcome = with_fault(endless("fault"), "kill -INT $job");
  EXPECT_NE(outcome.exit_code, 0);
  EXPECT_EQ(count(outcome.output, "bert_mlp: stopping after this step"), 1U) << outcome.output;
  EXPECT_EQ(count(outcome.output, "bert_mlp: stopped after step "), 1U) << outcome.output;
  EXPECT_EQ(count(outcome.output, "go on with\nmpirun -n 4 "), 1U) << outcome.output;
  expect_to_go_on(2);
}

TEST_P(BertMlpRanks, EndTogetherWhereOneIsKilledAndGoOnWithFewer) {
  const Outcome outcome = with_fault(endless("fault"), "kill -KILL $rank");
  EXPECT_NE(outcome.exit_code, 0);
  EXPECT_EQ(count(outcome.output, "did not end"), 0U) << outcome.output;
  // MPICH kills the others at once, and may name one of those.
  EXPECT_TRUE(std::regex_search(
      outcome.output,
      std::regex("process rank 2 with .* exited on signal 9|EXIT STRING: Killed \\(signal 9\\)")))
      << outcome.output;
  expect_to_go_on(2);
}

TEST_P(BertMlpRanks, GiveUpOneThatDoesNotAnswerAndGoOnWithFewer) {
  const Outcome outcome = with_fault(endless("fault") + "--deadline 2", "kill -STOP $rank");
  EXPECT_NE(outcome.exit_code, 0);
  EXPECT_EQ(count(outcome.output, "did not end"), 0U) << outcome.output;
  EXPECT_TRUE(std::regex_search(outcome.output,
                                std::regex("rank [013] of 4: [^\n]* rank 2 within 2000 ms\n")))
      << outcome.output;
  expect_to_go_on(1);
}

// With a rate of nearly 0 the weights stay as they are. So the batch in which a training with one
// batch a step diverges is the first bad one of all, and of four that are a step the fourth: that
// of rank 3 alone.
TEST_P(BertMlpRanks, RefuseTheStepInWhichOneHasABadBatchWithTheSameVerdict) {
  const std::string what = tiny("one") +
                           "--batch 2 --window 8 --precision fp16 --scaling unit+loss:4096 "
                           "--lr 1e-30 --steps 40 --overwrite --quiet --seed ";
  const auto verdict = [&] {
    const auto run = nlohmann::json::parse(content(folder_ / "one/summary.json")).at("runs").at(0);
    return run.contains("diverged") ? run.at("diverged").get<std::string>() : "";
  };
  for (int seed = 1; seed <= 40; ++seed) {
    const std::string arguments = what + std::to_string(seed);
    EXPECT_NE(alone(arguments).exit_code, 1);
    std::smatch found;
    const std::string said = verdict();
    if (!std::regex_match(said, found, std::regex("step ([0-9]+)(, first at .*)")) ||
        std::stoul(found.str(1)) % 4 != 0) {
      continue;
    }
    const std::string expected =
        "step " + std::to_string(std::stoul(found.str(1)) / 4) + found.str(2);
    const Outcome together = alone(arguments + " --replicas 4");
    EXPECT_EQ(together.exit_code, 3) << together.output;
    EXPECT_EQ(verdict(), expected);
    const std::string losses = curves("one");
    const Outcome several = on(4, arguments);
    EXPECT_EQ(several.exit_code, 3) << several.output;
    EXPECT_EQ(verdict(), expected);
    EXPECT_EQ(curves("one"), losses);
    return;
  }
  FAIL() << "expected one of 40 seeds to have its first bad batch at the end of a step";
}

// The program beside which those for MPI are missing, and that for another MPI.
TEST_P(BertMlpRanks, SayWhichMpiTheirProgramLacks) {
  fs::copy(program, folder_ / "bert_mlp");
  const Outcome none = in_folder(mpirun() + " -n 2 ./bert_mlp --help");
  EXPECT_EQ(none.exit_code, 2) << none.output;
  EXPECT_GE(count(none.output, "bert_mlp: started by mpirun of "), 1U) << none.output;
  EXPECT_GE(count(none.output, "install lib" + GetParam() + "-dev, and build again\n"), 1U)
      << none.output;
  const Outcome apart = in_folder("SLURM_STEP_NUM_TASKS=2 " + program + "_" + GetParam());
  EXPECT_EQ(apart.exit_code, 2) << apart.output;
  EXPECT_TRUE(apart.output.ends_with("; start them by srun --mpi=pmix\n")) << apart.output;
  for (const std::string engine : UNIT_SCALING_MPI_ENGINES) {
    if (engine == GetParam()) continue;
    const Outcome other = in_folder(mpirun() + " -n 2 " + program + "_" + engine + " --help");
    EXPECT_NE(other.exit_code, 0) << other.output;
    EXPECT_GE(count(other.output, "which is of another MPI"), 1U) << other.output;
  }
}

INSTANTIATE_TEST_SUITE_P(Mpi, BertMlpRanks,
                         testing::ValuesIn(std::vector<std::string>(UNIT_SCALING_MPI_ENGINES)),
                         [](const auto& each) { return each.param; });

}  // namespace bert_mlp_ranks_test
