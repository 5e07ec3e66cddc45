// SPDX-License-Identifier: MIT
// A rank of an MPI job, for tests/distributed/mpi.cmake: `mpi_ranks WHAT`. Exit code 0 if all is as
// expected; an error is one line.
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <numeric>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "distributed/small_training.hpp"
#include "unit_scaling/distributed/agreement.hpp"
#include "unit_scaling/distributed/gradient_exchange.hpp"
#include "unit_scaling/distributed/mpi.hpp"
#include "unit_scaling/distributed/thread_ranks.hpp"
#include "unit_scaling/ops/mse_loss.hpp"

namespace {

using namespace unit_scaling;
using namespace unit_scaling_test;
using distributed::CommunicationError;
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

/// The same bits if gradients are sent while the tape unwinds, of one batch and through a tree.
void send_early(Communicator& ranks) {
  for (const Format& format : {Format(), Format::of<float8_e4m3fn>()}) {
    for (const std::size_t batches : {1U, 2U}) {
      SmallTraining training{.batches = batches * ranks.size(),
                             .exchange = {.format = format, .bucket_elements = 50}};
      const SmallResult late = run_small_training(ranks, training);
      training.sends_early = true;
      expect(late == run_small_training(ranks, training), "the weights of gradients sent late");
    }
  }
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

/// Messages of several parts that move on at looks alone, of a rank that begins after the first one
/// has looked for longer than the deadline.
void look(Communicator& ranks) {
  constexpr std::size_t size = 3'000'000;
  const std::vector<std::byte> own(size, static_cast<std::byte>(1 + ranks.rank()));
  std::vector<std::byte> gathered(size * ranks.size());
  if (ranks.rank() == 1) std::this_thread::sleep_for(std::chrono::milliseconds(1500));
  auto request =
      ranks.start_all_gather(own, {gathered, std::vector<std::size_t>(ranks.size(), size)});
  const auto start = std::chrono::steady_clock::now();
  bool was_missing = false;
  while (!request.is_done()) {
    was_missing = true;
    expect(std::chrono::steady_clock::now() - start < std::chrono::seconds(40), "an end of looks");
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  expect(ranks.rank() != 0 || was_missing, "a look that finds something missing");
  request.wait();  // for nothing
  for (std::size_t from = 0; from < ranks.size(); ++from) {
    const auto begin = gathered.begin() + static_cast<std::ptrdiff_t>(from * size);
    expect(std::all_of(begin, begin + static_cast<std::ptrdiff_t>(size),
                       [&](std::byte each) { return each == static_cast<std::byte>(1 + from); }),
           "the bytes of a gather that was looked at");
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

/// Waits for a request by looks alone.
void look_until_done(distributed::Request& request) {
  while (!request.is_done()) std::this_thread::yield();
}

void send_another_size(Communicator& ranks, bool looks) {
  const std::size_t size = ranks.rank() == 1 ? 3 : 4;
  const std::vector<std::byte> own(size);
  std::vector<std::size_t> sizes(ranks.size(), 4);
  sizes[ranks.rank()] = size;
  std::vector<std::byte> received(std::accumulate(sizes.begin(), sizes.end(), std::size_t{0}));
  auto request = ranks.start_all_gather(own, {received, sizes});
  if (looks) look_until_done(request);
  request.wait();
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

void look_for_another_operation(Communicator& ranks) {
  std::vector<std::byte> bytes;
  auto request = ranks.rank() == 1 ? ranks.start_broadcast(bytes, 0) : ranks.start_barrier();
  look_until_done(request);
  ranks.barrier();
}

void go_on_after_an_error(Communicator& ranks) {
  try {
    call_another_operation(ranks);
  } catch (const CommunicationError&) {
  }
  ranks.barrier();
}

void raise_in_rank_1(Communicator& ranks, int signal) {
  ranks.barrier();
  if (ranks.rank() == 1) std::raise(signal);
  ranks.barrier();
  ranks.barrier();
}

void stop_ranks_1_and_2(Communicator& ranks) {
  ranks.barrier();
  if (ranks.rank() == 1 || ranks.rank() == 2) std::raise(SIGSTOP);
  ranks.barrier();
}

void return_early(Communicator& ranks) {
  if (ranks.rank() != 1) ranks.barrier();
}

void call_exit(Communicator& ranks) {
  if (ranks.rank() == 1) std::exit(0);
  ranks.barrier();
}

constexpr std::size_t long_size = std::size_t{64} << 20U;  // which no engine copies at once

/// Rank 0 gives up an operation of which bytes are on their way to it, and then finds out whether
/// MPI leaves its memory alone.
void give_up_what_is_on_its_way(Communicator& ranks) {
  const std::vector<std::byte> own(long_size, std::byte{7});
  std::vector<std::byte> gathered(2 * long_size);
  {
    auto request = ranks.start_all_gather(own, {gathered, std::vector<std::size_t>(2, long_size)});
    if (ranks.rank() == 1) {
      request.wait();
    } else {
      // Looks elsewhere until MPI knows of the message.
      for (int k = 0; k < 20; ++k) {
        int is_there = 0;
        MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, MPI_COMM_WORLD, &is_there, MPI_STATUS_IGNORE);
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
      }
    }
  }
  if (ranks.rank() == 0) std::fill(gathered.begin(), gathered.end(), std::byte{2});
  MPI_Barrier(MPI_COMM_WORLD);  // in which MPI moves what there is
  expect(ranks.rank() == 1 || gathered == std::vector<std::byte>(gathered.size(), std::byte{2}),
         "the memory of a request that was given up");
}

/// Rank 1 gives up an operation on the way out of an exception, which is what the job ends with.
void throw_while_bytes_are_on_their_way(Communicator& ranks) {
  const std::vector<std::byte> own(long_size);
  std::vector<std::byte> gathered(2 * long_size);
  auto request = ranks.start_all_gather(own, {gathered, std::vector<std::size_t>(2, long_size)});
  if (ranks.rank() == 1) throw std::runtime_error("the disk is full");
  request.wait();
  ranks.barrier();
}

/// As long as a test may take. Rank 0 computes meanwhile, and takes no message.
void compute_for_long() { std::this_thread::sleep_for(std::chrono::minutes(2)); }

/// Rank 1 gives up an operation that nobody answers, on the way out of an exception.
void throw_while_nobody_answers(Communicator& ranks) {
  if (ranks.rank() == 0) compute_for_long();
  const std::vector<std::byte> own(long_size);
  std::vector<std::byte> gathered(2 * long_size);
  auto request = ranks.start_all_gather(own, {gathered, std::vector<std::size_t>(2, long_size)});
  throw std::runtime_error("the disk is full");
}

/// Rank 1 gives up a step of which it has sent gradients. What it throws is what the job ends with.
void throw_after_gradients_are_sent(Communicator& ranks) {
  Parameter parameter{.name = "p", .value = Array<float>::filled({long_size / 4}, 0)};
  Tape<precision::fp32> tape;
  distributed::GradientExchange exchange(ranks, {&parameter}, {.bucket_elements = 1000});
  tape.on_final_gradient([&](const Parameter& each) {
    exchange.take(tape, each);
    throw std::runtime_error("there is no batch 7");
  });
  if (ranks.rank() == 0) compute_for_long();
  tape.backward(ops::mse_loss(tape.parameter(parameter), tape.constant(parameter.value)));
}

/// Rank 1 never takes what rank 0 has begun to send, whose memory must not be another's then.
void give_up_what_nobody_takes(Communicator& ranks) {
  ranks.barrier();
  if (ranks.rank() == 1) std::raise(SIGSTOP);
  const std::vector<std::byte> own(long_size);
  std::vector<std::byte> gathered(2 * long_size);
  try {
    ranks.all_gather(own, {gathered, std::vector<std::size_t>(2, long_size)});
  } catch (const CommunicationError&) {
    throw std::runtime_error("memory that MPI still sends is the program's again");
  }
}

// What is done around a job.

/// Stops this process some time after `begin` has been called, and lets it go on later.
class Suspension {
 public:
  /// Before MPI is initialised: the process is doubled.
  Suspension() {
    if (pipe(ends_) != 0) throw std::runtime_error("no pipe");
    const pid_t suspended = getpid();
    if (fork() != 0) return;
    char byte = 0;
    if (read(ends_[0], &byte, 1) == 1) {
      std::this_thread::sleep_for(std::chrono::milliseconds(200));
      kill(suspended, SIGSTOP);
      std::this_thread::sleep_for(std::chrono::milliseconds(4500));
      kill(suspended, SIGCONT);
    }
    _exit(0);
  }
  void begin() const { expect(write(ends_[1], "", 1) == 1, "a byte in a pipe"); }

 private:
  int ends_[2] = {};
};

/// The whole job is suspended for longer than its deadline.
int suspend(int& argc, char**& argv) {
  const Suspension suspension;
  return distributed::run_mpi(argc, argv,
                              [&](Communicator& ranks) {
                                ranks.barrier();
                                suspension.begin();
                                // By its own count, so that rank 0 waits once both go on.
                                for (int k = 0; ranks.rank() == 1 && k < 150; ++k) {
                                  std::this_thread::sleep_for(std::chrono::milliseconds(10));
                                }
                                ranks.barrier();
                              },
                              {.deadline = std::chrono::seconds(3)});
}

template <class Error, class Call> void expect_error(const Call& call, const std::string& part) {
  try {
    call();
  } catch (const Error& error) {
    expect(std::string(error.what()).find(part) != std::string::npos, error.what());
    return;
  }
  throw std::runtime_error("not as expected: no error with '" + part + "'");
}

int refuse_options(int& argc, char**& argv) {
  using std::chrono::milliseconds;
  const auto expect_refused = [&](const distributed::MpiOptions& options, const char* part) {
    expect_error<DomainError>([&] { distributed::Mpi(argc, argv, options); }, part);
  };
  expect_refused({.deadline = milliseconds(0)}, "Mpi: expected a deadline above 0, got 0 ms");
  expect_refused({.deadline = milliseconds::max()}, "Mpi: expected a deadline of at most 365 days");
  expect_refused({.largest_part = 0}, "Mpi: expected parts of 1 to 2^30 bytes, got 0");
  expect_refused({.largest_part = (std::size_t{1} << 30U) + 1}, "2^30 bytes, got 1073741825");
  // MPI is initialised by now, and finalised all the same.
  distributed::Mpi(argc, argv).barrier();
  int is_finalised = 0;
  MPI_Finalized(&is_finalised);
  expect(is_finalised == 1, "MPI after the object that initialised it");
  return 0;
}

/// A program that uses MPI itself.
int use_own_mpi(int& argc, char**& argv) {
  int level = 0;
  MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &level);
  for (int k = 0; k < 2; ++k) {
    distributed::Mpi ranks(argc, argv);
    ranks.barrier();
    expect_error<CommunicationError>([&] { distributed::Mpi(argc, argv); }, "a second one");
    ranks.barrier();
  }
  MPI_Errhandler handler = MPI_ERRHANDLER_NULL;
  MPI_Comm_get_errhandler(MPI_COMM_WORLD, &handler);
  expect(handler == MPI_ERRORS_ARE_FATAL, "the program's own handler of errors");
  MPI_Errhandler_free(&handler);
  if (level == MPI_THREAD_FUNNELED) {
    std::thread([&] {
      expect_error<CommunicationError>([&] { distributed::Mpi(argc, argv); },
                                       "expected the thread that has initialised MPI");
    }).join();
  }
  MPI_Barrier(MPI_COMM_WORLD);
  MPI_Finalize();
  expect_error<CommunicationError>([&] { distributed::Mpi(argc, argv); }, "is not finalised");
  return 0;
}

int use_mpi_of_one_thread(int& argc, char**& argv) {
  int level = 0;
  MPI_Init_thread(&argc, &argv, MPI_THREAD_SINGLE, &level);
  if (level == MPI_THREAD_SINGLE) {
    expect_error<CommunicationError>([&] { distributed::Mpi(argc, argv); }, "got one without");
  }
  MPI_Finalize();
  return 0;
}

int run_twice(int& argc, char**& argv) {
  const auto run = [&] {
    return distributed::run_mpi(argc, argv, [](Communicator& ranks) { ranks.barrier(); });
  };
  return run() == 0 ? run() : 0;
}

int throw_past_the_object(int& argc, char**& argv) {
  try {
    distributed::Mpi ranks(argc, argv);
    ranks.barrier();
    if (ranks.rank() == 1) throw std::runtime_error("rank 1 has no data");
    ranks.barrier();
  } catch (const std::exception&) {
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  using Program = std::function<int(int&, char**&)>;
  // Messages of several parts, if `largest_part` is no other.
  const auto job = [](void (*function)(Communicator&), std::size_t largest_part = 1000,
                      std::chrono::milliseconds deadline = std::chrono::seconds(3)) -> Program {
    return [=](int& count, char**& texts) {
      return distributed::run_mpi(count, texts, function,
                                  {.deadline = deadline, .largest_part = largest_part});
    };
  };
  const std::map<std::string, Program> all{
      {"train", job(train_as_threads_do)},
      {"communicate", job(communicate)},
      {"look", job(look, 1'000'000, std::chrono::seconds(1))},
      {"early", job(send_early)},
      {"shard", job(shard)},
      {"refuse", job(refuse_one_step)},
      {"disagree", job(disagree)},
      {"throw", job(end_on_an_error)},
      {"size", job([](Communicator& ranks) { send_another_size(ranks, false); })},
      {"look_size", job([](Communicator& ranks) { send_another_size(ranks, true); })},
      {"look_operation", job(look_for_another_operation)},
      {"operation", job(call_another_operation)},
      {"go_on", job(go_on_after_an_error)},
      {"kill", job([](Communicator& ranks) { raise_in_rank_1(ranks, SIGKILL); })},
      {"stop", job([](Communicator& ranks) { raise_in_rank_1(ranks, SIGSTOP); })},
      {"stop_two", job(stop_ranks_1_and_2)},
      {"return", job(return_early)},
      {"exit", job(call_exit)},
      {"give_up", job(give_up_what_is_on_its_way, long_size)},
      {"throw_on_the_way", job(throw_while_bytes_are_on_their_way, long_size)},
      {"throw_unanswered", job(throw_while_nobody_answers, long_size, std::chrono::minutes(10))},
      {"throw_early", job(throw_after_gradients_are_sent, long_size, std::chrono::minutes(10))},
      {"nobody_takes", job(give_up_what_nobody_takes, long_size)},
      {"no_deadline", job([](Communicator&) {}, 1000, std::chrono::milliseconds(0))},
      {"suspend", suspend},
      {"options", refuse_options},
      {"own_mpi", use_own_mpi},
      {"one_thread", use_mpi_of_one_thread},
      {"twice", run_twice},
      {"throw_past", throw_past_the_object},
  };
  const auto found = argc == 2 ? all.find(argv[1]) : all.end();
  if (found == all.end()) {
    std::fprintf(stderr, "usage: mpi_ranks WHAT\n");
    return 2;
  }
  return found->second(argc, argv);
}
