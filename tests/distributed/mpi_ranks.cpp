// SPDX-License-Identifier: MIT
// A rank of an MPI job, for tests/distributed/mpi.cmake: `mpi_ranks WHAT`. Exit code 0 if all is as
// expected; an error is one line.
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdio>
#include <map>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

#include "distributed/small_training.hpp"
#include "unit_scaling/distributed/agreement.hpp"
#include "unit_scaling/distributed/mpi.hpp"
#include "unit_scaling/distributed/thread_ranks.hpp"

namespace {

using namespace unit_scaling;
using namespace unit_scaling_test;
using distributed::Communicator;

void expect(bool holds, const std::string& what) {
  if (!holds) throw std::runtime_error("not as expected: " + what);
}

/// The training has the bits that it has on threads; with floats on the wire, those of one rank.
void train_as_threads_do(Communicator& ranks) {
  for (const Format& format : {Format(), Format::of<float16>(), Format::of<float8_e4m3fn>()}) {
    // Shares of a power of two.
    const SmallTraining training{.batches = ranks.size() == 3 ? 12U : 16U,
                                 .exchange = {.format = format, .bucket_elements = 100}};
    const SmallResult result = run_small_training(ranks, training);
    const auto on_threads = [&](std::size_t count) {
      SmallResult of_first;
      distributed::run_thread_ranks(count, [&](Communicator& threads) {
        const SmallResult each = run_small_training(threads, training);
        if (threads.rank() == 0) of_first = each;
      });
      return of_first;
    };
    expect(result == on_threads(ranks.size()), "the weights of ranks that are threads");
    if (format == Format()) expect(result == on_threads(1), "the weights of one rank");
    if (ranks.rank() == 0) {
      std::printf("weights after %zu ranks, %s: %016llx\n", ranks.size(), to_string(format).c_str(),
                  static_cast<unsigned long long>(result.digest));
    }
  }
}

/// The same bits if gradients are sent while the tape unwinds.
void send_early(Communicator& ranks) {
  SmallTraining training{.batches = ranks.size(), .exchange = {.bucket_elements = 50}};
  const SmallResult late = run_small_training(ranks, training);
  training.sends_early = true;
  expect(late == run_small_training(ranks, training), "the weights of gradients sent late");
}

/// The same bits if each rank keeps a share of the optimiser's states.
void shard(Communicator& ranks) {
  SmallTraining training{.exchange = {.bucket_elements = 100}};
  const SmallResult whole = run_small_training(ranks, training);
  training.is_sharded = true;
  expect(whole == run_small_training(ranks, training), "the weights of an optimiser that is whole");
}

/// All operations, with pieces of other sizes for each pair, in messages of several parts.
void communicate(Communicator& ranks) {
  const std::size_t size = ranks.size();
  const auto byte_of = [](std::size_t from, std::size_t to, std::size_t i) {
    return static_cast<std::byte>(31 * from + 7 * to + i);
  };
  for (const std::size_t unit : {0U, 1U, 999U, 1000U, 1001U, 300'000U}) {
    std::vector<std::size_t> sent_sizes;
    std::vector<std::size_t> received_sizes;
    std::vector<std::byte> sent;
    for (std::size_t other = 0; other < size; ++other) {
      sent_sizes.push_back(unit * (ranks.rank() + 2 * other));
      received_sizes.push_back(unit * (other + 2 * ranks.rank()));
      for (std::size_t i = 0; i < sent_sizes.back(); ++i) {
        sent.push_back(byte_of(ranks.rank(), other, i));
      }
    }
    std::vector<std::byte> received(
        std::accumulate(received_sizes.begin(), received_sizes.end(), std::size_t{0}));
    auto all_to_all = ranks.start_all_to_all({sent, sent_sizes}, {received, received_sizes});
    // Another one meanwhile, waited for first.
    std::vector<std::byte> gathered(unit * size);
    const std::vector<std::byte> own(unit, static_cast<std::byte>(ranks.rank()));
    ranks.all_gather(own, {gathered, std::vector<std::size_t>(size, unit)});
    all_to_all.wait();
    std::size_t at = 0;
    for (std::size_t from = 0; from < size; ++from) {
      for (std::size_t i = 0; i < received_sizes[from]; ++i) {
        expect(received[at++] == byte_of(from, ranks.rank(), i), "a byte of an all-to-all");
      }
      for (std::size_t i = 0; i < unit; ++i) {
        expect(gathered[from * unit + i] == static_cast<std::byte>(from), "a byte of a gather");
      }
    }
    for (std::size_t root = 0; root < size; ++root) {
      std::vector<std::byte> bytes(unit, static_cast<std::byte>(100 + ranks.rank()));
      ranks.broadcast(bytes, root);
      expect(bytes == std::vector<std::byte>(unit, static_cast<std::byte>(100 + root)),
             "the bytes of a broadcast");
    }
    ranks.barrier();
  }
}

/// All ranks refuse one step, in which one has a bad batch.
void refuse_one_step(Communicator& ranks) {
  const SmallResult result = run_small_training(ranks, {.bad_step = 7});
  expect(result.refused.starts_with("step 7: "), "a refusal of step 7");
  // That all have the same result is what they agree on.
  train::Fingerprint told;
  told.add("digest", result.digest).add("refused", result.refused);
  distributed::require_agreement(ranks, told, {});
}

// What ends a job. Rank 1 does it.

void disagree(Communicator& ranks) {
  run_small_training(ranks, {.steps = ranks.rank() == 1 ? 40U : 20U});
}

void end_on_an_error(Communicator& ranks) {
  if (ranks.rank() == 1) throw std::runtime_error("there is no batch 7");
  ranks.barrier();
}

void send_another_size(Communicator& ranks) {
  const std::size_t size = ranks.rank() == 1 ? 3 : 4;
  const std::vector<std::byte> own(size);
  std::vector<std::size_t> sizes(ranks.size(), 4);
  sizes[ranks.rank()] = size;
  std::vector<std::byte> received(std::accumulate(sizes.begin(), sizes.end(), std::size_t{0}));
  ranks.all_gather(own, {received, sizes});
  ranks.barrier();
}

void call_another_operation(Communicator& ranks) {
  std::vector<std::byte> bytes;
  if (ranks.rank() == 1) {
    ranks.broadcast(bytes, 0);
  } else {
    ranks.barrier();
  }
  ranks.barrier();
}

void raise_in_rank_1(Communicator& ranks, int signal) {
  ranks.barrier();
  if (ranks.rank() == 1) std::raise(signal);
  ranks.barrier();
  ranks.barrier();
}

}  // namespace

int main(int argc, char** argv) {
  const std::map<std::string, void (*)(Communicator&)> all{
      {"train", train_as_threads_do},
      {"communicate", communicate},
      {"early", send_early},
      {"shard", shard},
      {"refuse", refuse_one_step},
      {"disagree", disagree},
      {"throw", end_on_an_error},
      {"size", send_another_size},
      {"operation", call_another_operation},
      {"kill", [](Communicator& ranks) { raise_in_rank_1(ranks, SIGKILL); }},
      {"stop", [](Communicator& ranks) { raise_in_rank_1(ranks, SIGSTOP); }},
  };
  const auto found = argc == 2 ? all.find(argv[1]) : all.end();
  if (found == all.end()) {
    std::fprintf(stderr, "usage: mpi_ranks WHAT\n");
    return 2;
  }
  return distributed::run_mpi(argc, argv, found->second,
                              {.deadline = std::chrono::seconds(3), .largest_part = 1000});
}
