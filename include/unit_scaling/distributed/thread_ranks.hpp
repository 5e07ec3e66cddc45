// SPDX-License-Identifier: MIT
/// @file
/// Layer distributed: ranks that are threads of one process.
// unit_scaling: optional
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/distributed/communicator.hpp"
#include "unit_scaling/distributed/deadline.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::distributed {

namespace detail {

/// The messages between threads, and what became of the threads.
class ThreadMessages {
 public:
  using Bytes = std::shared_ptr<const std::vector<std::byte>>;
  struct Message {
    std::string_view operation;
    Bytes bytes;
  };

  ThreadMessages(std::size_t ranks, std::chrono::milliseconds deadline) : deadline_(deadline) {
    for (std::size_t rank = 0; rank < ranks; ++rank) inboxes_.emplace_back(ranks);
  }

  [[nodiscard]] std::size_t size() const { return inboxes_.size(); }

  void send(std::size_t from, std::size_t to, std::uint64_t number, Message message) {
    Inbox& inbox = inboxes_[to];
    {
      const std::lock_guard lock(inbox.mutex);
      inbox.from[from].emplace(number, std::move(message));
    }
    inbox.changed.notify_all();
  }

  /// The message of operation `number`, once it has come. Ranks are asked in ascending order.
  /// @param waits for it, until the deadline; else there is none if it has not come yet.
  /// @throws CommunicationError if a rank has failed, or none comes in time.
  [[nodiscard]] std::optional<Message> receive(std::size_t from, std::size_t to,
                                               std::uint64_t number, const std::string& place,
                                               bool waits) {
    Inbox& inbox = inboxes_[to];
    std::unique_lock lock(inbox.mutex);
    auto found = inbox.from[from].end();
    const auto is_known = [&] {
      found = inbox.from[from].find(number);
      return found != inbox.from[from].end() || has_failed_ || inboxes_[from].is_gone;
    };
    bool knows = is_known();
    if (waits && !knows) {  // to wait for no time at all would be to sleep
      WaitedTime time(deadline_);
      do {
        knows = inbox.changed.wait_for(lock, time.slice(), is_known);
      } while (!knows && time.goes_on());
    }
    if (found != inbox.from[from].end()) {
      Message message = std::move(found->second);
      inbox.from[from].erase(found);
      return message;
    }
    if (!knows && !waits) return std::nullopt;
    std::vector<std::size_t> missing;
    for (std::size_t rank = from; rank < size(); ++rank) {
      if (!inbox.from[rank].contains(number)) missing.push_back(rank);
    }
    lock.unlock();
    require_no_failure();
    if (knows) {
      throw CommunicationError(place + "rank " + std::to_string(from) +
                               " has ended and sends no message");
    }
    throw CommunicationError(place + "no message from " + names_of(missing) + " within " +
                             std::to_string(deadline_.count()) + " ms");
  }

  /// @throws CommunicationError if a rank has failed
  void require_no_failure() {
    if (!has_failed_) return;
    const std::lock_guard lock(failure_mutex_);
    throw CommunicationError(failure_);
  }

  /// Tells all ranks that one has failed; the first one is named.
  /// @returns whether it is the first
  bool fail(std::size_t rank, std::string_view why) {
    {
      const std::lock_guard lock(failure_mutex_);
      if (has_failed_) return false;
      failure_ = "rank " + std::to_string(rank) + ": " + std::string(why);
      has_failed_ = true;
    }
    wake_all();
    return true;
  }

  /// Tells all ranks that one sends no more.
  void leave(std::size_t rank) {
    inboxes_[rank].is_gone = true;
    wake_all();
  }

 private:
  struct Inbox {
    explicit Inbox(std::size_t ranks) : from(ranks) {}
    std::mutex mutex;
    std::condition_variable changed;
    std::vector<std::map<std::uint64_t, Message>> from;  ///< by number of the operation
    std::atomic<bool> is_gone = false;                   ///< whose inbox this is
  };

  void wake_all() {
    for (Inbox& inbox : inboxes_) {
      // Who has looked, but does not wait yet, holds the mutex.
      { const std::lock_guard lock(inbox.mutex); }
      inbox.changed.notify_all();
    }
  }

  std::chrono::milliseconds deadline_;
  std::deque<Inbox> inboxes_;  // which cannot be moved
  std::mutex failure_mutex_;
  std::string failure_;
  std::atomic<bool> has_failed_ = false;
};

/// One of the threads.
class ThreadCommunicator final : public Communicator {
 public:
  ThreadCommunicator(ThreadMessages& messages, std::size_t rank)
      : messages_(&messages), rank_(rank) {}

  [[nodiscard]] std::size_t rank() const override { return rank_; }
  [[nodiscard]] std::size_t size() const override { return messages_->size(); }

 private:
  class Receiving final : public Request::Operation {
   public:
    Receiving(ThreadCommunicator& communicator, std::string_view operation, Received received)
        : messages_(communicator.messages_),
          rank_(communicator.rank_),
          number_(communicator.operations_),
          operation_(operation),
          place_(communicator.place_of(operation)),
          received_(std::move(received)) {}

    [[nodiscard]] bool is_done() override { return receive(/*waits=*/false); }
    void wait() override { static_cast<void>(receive(/*waits=*/true)); }

   private:
    /// Takes the messages of the ranks that none was taken of yet.
    /// @returns whether all have come
    [[nodiscard]] bool receive(bool waits) {
      for (; from_ < received_.size(); ++from_) {
        const auto message = messages_->receive(from_, rank_, number_, place_, waits);
        if (!message) return false;
        const auto fail = [&](const std::string& expected, const std::string& got) {
          std::string text = place_;
          text.append("expected ").append(expected).append(" from rank ");
          text.append(std::to_string(from_)).append(", got ").append(got);
          throw CommunicationError(text);
        };
        if (message->operation != operation_) {
          fail("a message of the same operation", "one of " + std::string(message->operation));
        }
        if (message->bytes->size() != received_[from_].size()) {
          fail(std::to_string(received_[from_].size()) + " bytes",
               std::to_string(message->bytes->size()));
        }
        std::copy(message->bytes->begin(), message->bytes->end(), received_[from_].begin());
      }
      return true;
    }

    ThreadMessages* messages_;
    std::size_t rank_;
    std::uint64_t number_;
    std::string_view operation_;
    std::string place_;
    Received received_;
    std::size_t from_ = 0;  ///< whose message is taken next
  };

  /// What is sent is copied, so that a rank that ends early takes nothing away from the others.
  Request start(std::string_view operation, Sent sent, Received received) override {
    messages_->require_no_failure();
    auto receiving = std::make_unique<Receiving>(*this, operation, std::move(received));
    ThreadMessages::Bytes bytes;
    for (std::size_t to = 0; to < sent.size(); ++to) {
      const bool is_another = to == 0 || sent[to].data() != sent[to - 1].data() ||
                              sent[to].size() != sent[to - 1].size();
      if (is_another) {
        bytes = std::make_shared<std::vector<std::byte>>(sent[to].begin(), sent[to].end());
      }
      messages_->send(rank_, to, operations_, {.operation = operation, .bytes = bytes});
    }
    ++operations_;
    return Request(std::move(receiving));
  }

  ThreadMessages* messages_;
  std::size_t rank_;
  std::uint64_t operations_ = 0;
};

}  // namespace detail

/// How threads are ranks.
struct ThreadRanksOptions {
  /// How long a rank waits for a message before it gives up the ones that have not sent it. What
  /// others compute between two operations counts. Time in which the job is suspended does not.
  std::chrono::milliseconds deadline = std::chrono::minutes(10);
};

/// Calls `function(communicator)` on so many threads, each of which is a rank, and returns when all
/// have returned. For tests, and for hosts with many cores: each rank has a model of its own, and
/// loops of the library that two ranks begin at once do not share threads (core/parallel.hpp).
///
/// Once a rank throws, every operation of the others throws too and names it, so they end soon. A
/// thread cannot be ended from outside: one that never returns keeps this function from returning,
/// even after the others have given it up. A rank that returns after an operation of it has failed
/// or was given up counts as one that throws.
/// @throws CommunicationError "rank 2: why", with what the first rank that failed has thrown nested
///         in it; DomainError without a rank, for a deadline that is not above 0 or above 365 days.
inline void run_thread_ranks(std::size_t ranks, const std::function<void(Communicator&)>& function,
                             const ThreadRanksOptions& options = {}) {
  require_size("run_thread_ranks", "a number of ranks", ranks);
  detail::require_deadline("run_thread_ranks", options.deadline);
  detail::ThreadMessages messages(ranks, options.deadline);
  std::exception_ptr first;  // written by the one rank that fails first, read when all have ended
  const auto fail = [&](std::size_t rank, std::string_view why) {
    if (messages.fail(rank, why)) first = std::current_exception();
  };
  const auto run = [&](std::size_t rank) {
    try {
      detail::ThreadCommunicator communicator(messages, rank);
      function(communicator);
      if (!communicator.failure().empty()) throw CommunicationError(communicator.failure());
    } catch (const std::exception& error) {
      fail(rank, error.what());
    } catch (...) {
      fail(rank, "what was thrown is no std::exception");
    }
    messages.leave(rank);
  };
  std::vector<std::thread> threads;
  threads.reserve(ranks);
  try {
    while (threads.size() < ranks) threads.emplace_back(run, threads.size());
  } catch (const std::exception& error) {
    fail(threads.size(), error.what());  // the system has no more threads to give
  }
  for (std::thread& thread : threads) thread.join();
  if (!first) return;
  try {
    messages.require_no_failure();
  } catch (const CommunicationError& named) {
    try {
      std::rethrow_exception(first);
    } catch (...) {
      std::throw_with_nested(named);
    }
  }
}

}  // namespace UNIT_SCALING_NAMESPACE::distributed

UNIT_SCALING_IEEE_END
