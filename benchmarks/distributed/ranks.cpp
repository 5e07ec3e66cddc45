// SPDX-License-Identifier: MIT
// Tokens a second of training a decoder on several ranks, and what of a step is waiting for
// messages. For docs/distributed.md. Compiled once for ranks that are threads, which takes
// `--ranks`, and once for each MPI that is found, whose launcher says how many ranks there are:
//
//     ranks_threads --ranks 2
//     mpirun.openmpi -n 4 ranks_openmpi --threads 4
#include <CLI/CLI.hpp>
#include <cstddef>
#include <cstdio>
#include <exception>
#include <string>
#include <vector>

#include "distributed/rank_steps.hpp"
#include "unit_scaling/core/parallel.hpp"
#ifdef UNIT_SCALING_HAVE_MPI
#include "unit_scaling/distributed/mpi.hpp"
#else
#include "unit_scaling/distributed/thread_ranks.hpp"
#endif

namespace us = unit_scaling;
using us::distributed::Communicator;

int main(int argc, char** argv) try {
  unit_scaling_benchmarks::RankOptions options;
  CLI::App app("Trains a decoder on several ranks and says what a step costs.");
  app.add_option("--precision", options.precision)->check(CLI::IsMember({"fp8", "fp32"}));
  app.add_option("--hidden", options.hidden_size)->check(CLI::IsMember({64, 128, 256, 512}));
  app.add_option("--sequences", options.sequences, "of 256 tokens, in a step of one rank")
      ->check(CLI::Range(1, 4096));
  std::vector<std::string> wires;
  app.add_option("--wires", wires, "formats of the wire, such as float32,e4m3fn")->delimiter(',');
  app.add_option("--bucket", options.bucket_elements, "elements that go in one message");
  app.add_option("--rounds", options.rounds)->check(CLI::Range(1, 10000));
  app.add_option("--steps", options.steps, "of each way in a round")->check(CLI::Range(1, 10000));
  app.add_option("--interface", options.interface, "counts the bytes that leave rank 0 through it");
  app.add_option("--link", options.link, "Mbit/s out of a rank and into it, for the model");
  std::size_t threads = 1;
  app.add_option("--threads", threads, "of each rank")->check(CLI::Range(1, 4096));
#ifndef UNIT_SCALING_HAVE_MPI
  std::size_t rank_count = 1;
  app.add_option("--ranks", rank_count, "threads that are ranks")->check(CLI::Range(1, 4096));
#endif
  CLI11_PARSE(app, argc, argv);
  if (!wires.empty()) options.wires.clear();
  for (const std::string& wire : wires) options.wires.push_back(us::Format::parse(wire));
  us::set_thread_count(threads);
  const auto measure = [&](Communicator& ranks) { measure_rank_steps(ranks, options); };
#ifdef UNIT_SCALING_HAVE_MPI
  return us::distributed::run_mpi(argc, argv, measure);
#else
  us::require(rank_count == 1 || threads == 1, "ranks_threads",
              "expected --threads 1, for ranks that are threads have one each, got ", threads);
  us::distributed::run_thread_ranks(rank_count, measure);
  return 0;
#endif
} catch (const std::exception& error) {
  std::fprintf(stderr, "ranks: %s\n", error.what());
  return 1;
}
