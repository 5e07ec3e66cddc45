// SPDX-License-Identifier: MIT
#include "unit_scaling/distributed/thread_ranks.hpp"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <exception>
#include <limits>
#include <mutex>
#include <numeric>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "distributed/error_of_ranks.hpp"
#include "support/errors.hpp"
#include "unit_scaling/distributed/communicator.hpp"

namespace thread_ranks_test {

using namespace unit_scaling;
using namespace unit_scaling_test;
using distributed::CommunicationError;
using distributed::Communicator;
using distributed::Request;
using distributed::run_thread_ranks;
using std::chrono::milliseconds;

using Bytes = std::vector<std::byte>;
using Sizes = std::vector<std::size_t>;

/// What one rank sends to another: other bytes for each pair.
std::byte byte_of(std::size_t from, std::size_t to, std::size_t i) {
  return static_cast<std::byte>(31 * from + 7 * to + i);
}

std::size_t sum_of(const Sizes& sizes) {
  return std::accumulate(sizes.begin(), sizes.end(), std::size_t{0});
}

TEST(ThreadRanks, AllToAllGivesEachRankItsPieces) {
  for (const std::size_t n : {1U, 2U, 3U, 4U, 17U}) {
    run_thread_ranks(n, [&](Communicator& ranks) {
      ASSERT_EQ(ranks.size(), n);
      // From rank a to rank b: a + 2b bytes, so none for some.
      Sizes sent_sizes;
      Sizes received_sizes;
      Bytes sent;
      for (std::size_t other = 0; other < n; ++other) {
        sent_sizes.push_back(ranks.rank() + 2 * other);
        received_sizes.push_back(other + 2 * ranks.rank());
        for (std::size_t i = 0; i < sent_sizes.back(); ++i) {
          sent.push_back(byte_of(ranks.rank(), other, i));
        }
      }
      Bytes received(sum_of(received_sizes));
      ranks.all_to_all({sent, sent_sizes}, {received, received_sizes});
      std::size_t at = 0;
      for (std::size_t from = 0; from < n; ++from) {
        for (std::size_t i = 0; i < received_sizes[from]; ++i) {
          EXPECT_EQ(received[at++], byte_of(from, ranks.rank(), i));
        }
      }
    });
  }
}

TEST(ThreadRanks, AllGatherAndBroadcastReachAllRanks) {
  for (const std::size_t n : {1U, 2U, 3U, 4U}) {
    run_thread_ranks(n, [&](Communicator& ranks) {
      Sizes sizes;
      for (std::size_t rank = 0; rank < n; ++rank) sizes.push_back(3 * rank);
      const Bytes own(3 * ranks.rank(), static_cast<std::byte>(ranks.rank()));
      Bytes received(sum_of(sizes));
      ranks.all_gather(own, {received, sizes});
      std::size_t at = 0;
      for (std::size_t from = 0; from < n; ++from) {
        for (std::size_t i = 0; i < sizes[from]; ++i) {
          EXPECT_EQ(received[at++], static_cast<std::byte>(from));
        }
      }
      for (std::size_t root = 0; root < n; ++root) {
        Bytes bytes(5, static_cast<std::byte>(100 + ranks.rank()));
        ranks.broadcast(bytes, root);
        EXPECT_EQ(bytes, Bytes(5, static_cast<std::byte>(100 + root)));
      }
    });
  }
}

TEST(ThreadRanks, RequestsAreWaitedForInAnyOrder) {
  run_thread_ranks(3, [](Communicator& ranks) {
    const Sizes sizes(3, 1);
    const Bytes first{static_cast<std::byte>(ranks.rank())};
    const Bytes second{static_cast<std::byte>(10 + ranks.rank())};
    Bytes of_first(3);
    Bytes of_second(3);
    auto one = ranks.start_all_gather(first, {of_first, sizes});
    auto other = ranks.start_all_gather(second, {of_second, sizes});
    other.wait();
    one.wait();
    one.wait();  // again: nothing happens
    for (std::size_t from = 0; from < 3; ++from) {
      EXPECT_EQ(of_first[from], static_cast<std::byte>(from));
      EXPECT_EQ(of_second[from], static_cast<std::byte>(10 + from));
    }
  });
}

/// Returns once `holds`, or after ten seconds.
void wait_until(const std::atomic<bool>& holds) {
  for (int k = 0; !holds && k < 10'000; ++k) std::this_thread::sleep_for(milliseconds(1));
}

TEST(ThreadRanks, ALookTellsWhetherAllHasComeAndDoesNotWait) {
  std::atomic<bool> has_looked = false;
  run_thread_ranks(3, [&](Communicator& ranks) {
    if (ranks.rank() == 1) wait_until(has_looked);
    const Sizes sizes(3, 1);
    const Bytes own{static_cast<std::byte>(ranks.rank())};
    Bytes received(3);
    auto request = ranks.start_all_gather(own, {received, sizes});
    if (ranks.rank() == 0) {
      EXPECT_FALSE(request.is_done());
      EXPECT_FALSE(request.is_done());
      has_looked = true;
    }
    while (ranks.rank() != 2 && !request.is_done()) std::this_thread::yield();
    request.wait();  // on rank 2 for the messages, on the others for nothing
    EXPECT_TRUE(request.is_done());
    for (std::size_t from = 0; from < 3; ++from) {
      EXPECT_EQ(received[from], static_cast<std::byte>(from));
    }
  });
}

TEST(ThreadRanks, ALookThatFindsNothingDoesNotSleep) {
  constexpr int looks = 1000;
  std::atomic<bool> has_looked = false;
  run_thread_ranks(2, [&](Communicator& ranks) {
    if (ranks.rank() == 1) wait_until(has_looked);
    auto request = ranks.start_barrier();
    if (ranks.rank() == 0) {
      const auto sleeps = [] {  // how often this thread gave its core away
        rusage usage{};
        EXPECT_EQ(getrusage(RUSAGE_THREAD, &usage), 0);
        return usage.ru_nvcsw;
      };
      const auto before = sleeps();
      for (int k = 0; k < looks; ++k) EXPECT_FALSE(request.is_done());
      EXPECT_LT(sleeps() - before, looks / 10);
      has_looked = true;
    }
    request.wait();
  });
}

TEST(ThreadRanks, WhatARankDoesBetweenTwoLooksCountsForNoDeadline) {
  std::atomic<bool> has_looked = false;
  std::atomic<bool> is_given_up = false;
  const auto late = [&](bool waits) {
    has_looked = is_given_up = false;
    return error_of_ranks(2,
                          [&](Communicator& ranks) {
                            if (ranks.rank() == 1) {
                              wait_until(waits ? is_given_up : has_looked);
                              ranks.barrier();
                              return;
                            }
                            auto request = ranks.start_barrier();
                            for (int k = 0; k < 10; ++k) {
                              EXPECT_FALSE(request.is_done());
                              std::this_thread::sleep_for(milliseconds(30));
                            }
                            has_looked = true;
                            try {
                              request.wait();
                            } catch (const CommunicationError&) {
                              is_given_up = true;
                              throw;
                            }
                          },
                          {.deadline = milliseconds(100)});
  };
  EXPECT_EQ(late(/*waits=*/false), "");
  // That of `wait` counts.
  EXPECT_EQ(late(/*waits=*/true),
            "rank 0: barrier on rank 0: no message from rank 1 within 100 ms");
}

TEST(ThreadRanks, ALookThrowsWhatAWaitWould) {
  const auto look = [](Request request) {
    while (!request.is_done()) std::this_thread::yield();
  };
  EXPECT_EQ(error_of_ranks(2,
                           [&](Communicator& ranks) {
                             if (ranks.rank() == 1) throw std::out_of_range("no such batch");
                             look(ranks.start_barrier());
                           }),
            "rank 1: no such batch");
  EXPECT_EQ(error_of_ranks(2,
                           [&](Communicator& ranks) {
                             if (ranks.rank() == 0) look(ranks.start_barrier());
                           }),
            "rank 0: barrier on rank 0: rank 1 has ended and sends no message");
  const std::string operation = error_of_ranks(2, [&](Communicator& ranks) {
    Bytes bytes(1);
    look(ranks.rank() == 1 ? ranks.start_broadcast(bytes, 1) : ranks.start_barrier());
  });
  EXPECT_NE(operation.find("expected a message of the same operation from rank "),
            std::string::npos)
      << operation;
  // The communicator has failed then.
  const std::string text = "all_gather on rank 0: expected 4 bytes from rank 1, got 3";
  EXPECT_EQ(
      error_of_ranks(
          2,
          [&](Communicator& ranks) {
            const std::size_t size = ranks.rank() == 0 ? 4 : 3;
            const Bytes own(size);
            Bytes received(4 + size);
            auto request = ranks.start_all_gather(own, {received, Sizes{4, size}});
            if (ranks.rank() == 1) return request.wait();
            EXPECT_THROW(look(std::move(request)), CommunicationError);
            EXPECT_EQ(ranks.failure(), text);
            expect_error<CommunicationError>([&] { ranks.barrier(); }, {"did not succeed", text});
          }),
      "rank 0: " + text);
}

TEST(ThreadRanks, AnOperationThatWasOnlyLookedAtIsGivenUp) {
  std::atomic<bool> is_given_up = false;
  EXPECT_EQ(error_of_ranks(2,
                           [&](Communicator& ranks) {
                             if (ranks.rank() == 1) return wait_until(is_given_up);
                             {
                               auto request = ranks.start_barrier();
                               EXPECT_FALSE(request.is_done());
                             }
                             is_given_up = true;
                           }),
            "rank 0: barrier on rank 0: it was given up");
}

TEST(ThreadRanks, ABarrierHoldsBackWhoComesFirst) {
  std::mutex mutex;
  std::size_t come = 0;
  run_thread_ranks(4, [&](Communicator& ranks) {
    std::this_thread::sleep_for(milliseconds(10 * ranks.rank()));
    {
      const std::lock_guard lock(mutex);
      ++come;
    }
    ranks.barrier();
    const std::lock_guard lock(mutex);
    EXPECT_EQ(come, 4U);
  });
}

TEST(ThreadRanks, AnErrorOfOneRankEndsAllOthersAndNamesIt) {
  std::mutex mutex;
  std::set<std::string> texts;
  try {
    run_thread_ranks(4, [&](Communicator& ranks) {
      if (ranks.rank() == 2) throw std::out_of_range("no such batch");
      try {
        ranks.barrier();
      } catch (const CommunicationError& error) {
        const std::lock_guard lock(mutex);
        texts.insert(error.what());
        throw;
      }
      ADD_FAILURE() << "the barrier was passed";
    });
    FAIL() << "nothing was thrown";
  } catch (const CommunicationError& error) {
    EXPECT_STREQ(error.what(), "rank 2: no such batch");
    EXPECT_THROW(std::rethrow_if_nested(error), std::out_of_range);
  }
  EXPECT_EQ(texts, std::set<std::string>{"rank 2: no such batch"});
}

TEST(ThreadRanks, ARankThatHasEndedIsNotWaitedFor) {
  expect_error<CommunicationError>(
      [] {
        try {
          run_thread_ranks(3, [](Communicator& ranks) {
            if (ranks.rank() != 1) ranks.barrier();
          });
        } catch (const CommunicationError& error) {
          throw CommunicationError(error.what());  // without what is nested in it
        }
      },
      {"barrier on rank ", "rank 1 has ended"});
}

TEST(ThreadRanks, ARankThatDoesNotAnswerIsGivenUp) {
  const auto begin = std::chrono::steady_clock::now();
  try {
    run_thread_ranks(2,
                     [](Communicator& ranks) {
                       if (ranks.rank() == 1) std::this_thread::sleep_for(milliseconds(400));
                       ranks.barrier();
                     },
                     {.deadline = milliseconds(50)});
    FAIL() << "nothing was thrown";
  } catch (const CommunicationError& error) {
    EXPECT_STREQ(error.what(), "rank 0: barrier on rank 0: no message from rank 1 within 50 ms");
  }
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(10));
}

TEST(ThreadRanks, OtherOperationsAndOtherSizesAreErrors) {
  const auto text_of = [](const auto& function) -> std::string {
    try {
      run_thread_ranks(2, function);
    } catch (const CommunicationError& error) {
      return error.what();
    }
    return "nothing was thrown";
  };
  const std::string operation = text_of([](Communicator& ranks) {
    Bytes bytes(1);
    if (ranks.rank() == 0) {
      ranks.barrier();
    } else {
      ranks.broadcast(bytes, 0);
    }
  });
  EXPECT_NE(operation.find("expected a message of the same operation from rank "),
            std::string::npos)
      << operation;
  const std::string size = text_of([](Communicator& ranks) {
    const Bytes own(ranks.rank() == 0 ? 4 : 3);
    Bytes received(8);
    ranks.all_gather(own, {received, Sizes{4, 4}});
  });
  EXPECT_NE(size.find("expected 4 bytes from rank 1, got 3"), std::string::npos) << size;
}

TEST(ThreadRanks, AllRanksThatDoNotAnswerAreNamed) {
  EXPECT_EQ(error_of_ranks(4,
                           [](Communicator& ranks) {
                             if (ranks.rank() % 2 == 1)
                               std::this_thread::sleep_for(milliseconds(400));
                             if (ranks.rank() == 2) std::this_thread::sleep_for(milliseconds(20));
                             ranks.barrier();
                           },
                           {.deadline = milliseconds(100)}),
            "rank 0: barrier on rank 0: no message from ranks 1, 3 within 100 ms");
}

TEST(ThreadRanks, AnOperationThatIsGivenUpFailsItsCommunicator) {
  const auto give_up = [](Communicator& ranks) {
    const Bytes own(2);
    Bytes received(4);
    const auto request = ranks.start_all_gather(own, {received, Sizes{2, 2}});
  };
  // Nothing follows.
  const std::string text = "all_gather on rank 1: it was given up";
  EXPECT_EQ(error_of_ranks(2,
                           [&](Communicator& ranks) {
                             if (ranks.rank() == 1) return give_up(ranks);
                             const Bytes own(2);
                             Bytes received(4);
                             ranks.all_gather(own, {received, Sizes{2, 2}});
                           }),
            "rank 1: " + text);
  // Every operation that follows throws.
  EXPECT_EQ(error_of_ranks(2,
                           [&](Communicator& ranks) {
                             if (ranks.rank() == 1) {
                               give_up(ranks);
                               for (int k = 0; k < 2; ++k) {
                                 expect_error<CommunicationError>(
                                     [&] { ranks.barrier(); }, {"barrier on rank 1: an operation "
                                                                "before it did not succeed: ",
                                                                text});
                               }
                               EXPECT_EQ(ranks.failure(), text);
                             }
                           }),
            "rank 1: " + text);
  // Of a request that another one takes the place of.
  EXPECT_EQ(error_of_ranks(1,
                           [](Communicator& ranks) {
                             auto request = ranks.start_barrier();
                             EXPECT_EQ(ranks.failure(), "");
                             request = ranks.start_barrier();
                             request.wait();
                           }),
            "rank 0: barrier on rank 0: it was given up");
}

TEST(ThreadRanks, WhatARankThrowsIsNamedAndNotTheOperationThatItGivesUpOnTheWay) {
  EXPECT_EQ(error_of_ranks(2,
                           [](Communicator& ranks) {
                             auto request = ranks.start_barrier();
                             if (ranks.rank() == 1) throw std::out_of_range("no such batch");
                             request.wait();
                           }),
            "rank 1: no such batch");
}

TEST(ThreadRanks, AnOperationThatFailsFailsItsCommunicator) {
  // Rank 0 catches the error and goes on. Rank 1 sees none, and hears of it.
  const std::string text = error_of_ranks(2, [](Communicator& ranks) {
    const std::size_t own_size = ranks.rank() == 0 ? 4 : 3;
    const Bytes own(own_size);
    Bytes received(4 + 4);
    if (ranks.rank() == 1) {
      received.resize(4 + own_size);
      ranks.all_gather(own, {received, Sizes{4, own_size}});
    } else {
      EXPECT_THROW(ranks.all_gather(own, {received, Sizes{4, 4}}), CommunicationError);
    }
    ranks.barrier();
    ADD_FAILURE() << "a barrier was passed after an error";
  });
  EXPECT_EQ(text,
            "rank 0: barrier on rank 0: an operation before it did not succeed: all_gather on rank "
            "0: expected 4 bytes from rank 1, got 3");
}

/// Whether a process of two ranks passes a barrier to which rank 1 comes late, by its own count.
bool passes_while_suspended() {
  const pid_t child = fork();
  if (child == 0) {
    try {
      run_thread_ranks(2,
                       [](Communicator& ranks) {
                         for (int k = 0; ranks.rank() == 1 && k < 60; ++k) {
                           std::this_thread::sleep_for(milliseconds(10));
                         }
                         ranks.barrier();
                       },
                       {.deadline = milliseconds(1000)});
    } catch (...) {
      _exit(1);
    }
    _exit(0);
  }
  std::this_thread::sleep_for(milliseconds(200));
  kill(child, SIGSTOP);
  std::this_thread::sleep_for(milliseconds(1500));
  kill(child, SIGCONT);
  int status = -1;
  waitpid(child, &status, 0);
  return status == 0;
}

TEST(ThreadRanks, AJobThatIsSuspendedForLongerThanTheDeadlineGoesOn) {
  EXPECT_TRUE(passes_while_suspended());
}

TEST(ThreadRanks, ALongestDeadlineIsNoDeadlineOfNothing) {
  const auto come_late = [](Communicator& ranks) {
    if (ranks.rank() == 1) std::this_thread::sleep_for(milliseconds(50));
    ranks.barrier();
  };
  EXPECT_EQ(error_of_ranks(2, come_late, {.deadline = std::chrono::hours(24 * 365)}), "");
  for (const milliseconds deadline :
       {milliseconds(std::chrono::hours(24 * 365)) + milliseconds(1), milliseconds::max()}) {
    expect_domain_error([&] { run_thread_ranks(2, come_late, {.deadline = deadline}); },
                        {"run_thread_ranks", "at most 365 days", "got "});
  }
}

TEST(ThreadRanks, RefusesWrongArguments) {
  expect_domain_error([] { run_thread_ranks(0, [](Communicator&) {}); },
                      {"run_thread_ranks", "at least 1", "got 0"});
  expect_domain_error(
      [] { run_thread_ranks(1, [](Communicator&) {}, {.deadline = milliseconds(0)}); },
      {"run_thread_ranks", "above 0", "got 0 ms"});
  run_thread_ranks(1, [](Communicator& ranks) {
    Bytes bytes(4);
    expect_domain_error([&] { ranks.broadcast(bytes, 1); }, {"Communicator", "below 1", "got 1"});
    expect_domain_error(
        [&] {
          ranks.all_gather(bytes, {bytes, Sizes{2, 2}});
        },
        {"Communicator", "each of 1 ranks", "got 2"});
    expect_domain_error(
        [&] {
          ranks.all_gather(bytes, {bytes, Sizes{3}});
        },
        {"Communicator", "4 bytes together", "got 3"});
  });
  run_thread_ranks(2, [](Communicator& ranks) {
    // Which add up to 4 if the sum wraps.
    const Sizes sizes{std::numeric_limits<std::size_t>::max(), 5};
    Bytes bytes(4);
    expect_shape_error(
        [&] {
          ranks.all_to_all({bytes, sizes}, {bytes, sizes});
        },
        {"Communicator", "+ 5"});
    ranks.barrier();  // nothing was sent
  });
}

}  // namespace thread_ranks_test
