// SPDX-License-Identifier: MIT
/// @file
/// Layer distributed: ranks that are processes of an MPI job. Needs MPI 3, such as Open MPI or
/// MPICH (Debian: libopenmpi-dev, libmpich-dev).
// unit_scaling: optional, needs MPI
#pragma once

#include <mpi.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <functional>
#include <memory>
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

/// How an MPI job is used.
struct MpiOptions {
  /// How long a rank waits in an operation while no whole part of a message comes or goes. Then it
  /// gives up the others. A part must take less than that on the slowest link, and so must what
  /// others compute between two operations. Time in which the job is suspended does not count.
  std::chrono::milliseconds deadline = std::chrono::minutes(10);
  /// Longer messages are sent in parts of so many bytes: MPI counts them as int.
  std::size_t largest_part = std::size_t{1} << 30;
};

/// The ranks of an MPI job:
///
///     int main(int argc, char** argv) {
///       return distributed::run_mpi(argc, argv, [&](distributed::Communicator& ranks) { … });
///     }
///
/// One object at a time, in the thread that made it. It initialises MPI unless that is initialised
/// already, and finalises what it has initialised. Messages go from rank to rank in a communicator
/// of their own, beside what else the program sends. They are no collective operations of MPI: so a
/// message that is too long, too short or of another operation is an error, and a rank that does
/// not answer has a name.
///
/// A job succeeds as a whole or not at all. While an object lives, a rank that calls `std::exit`
/// ends the job, with a line on the standard error: launchers may take it for a success.
///
/// If an operation is given up while MPI still moves its bytes, its destructor waits for them:
/// until the deadline, or for at most a second after an error or on the way out of an exception. If
/// they are not through by then, it ends the job with a line, because MPI would use memory that is
/// the program's again. Memory that may be kept (Request::keep), such as that of gradients, is kept
/// until the job ends, and nothing is waited for.
class Mpi final : public Communicator {
 public:
  /// @throws CommunicationError if MPI is finalised or cannot be initialised; if the program has
  ///         initialised it without threads, or for another thread only; if there is another Mpi.
  /// @throws DomainError unless the deadline is above 0 and at most 365 days, and parts are of 1 to
  ///         2^30 bytes.
  Mpi(int& argc, char**& argv, const MpiOptions& options = {}) : options_(options) {
    // First of all, so that whoever is told of an error may be told of the rank.
    initialise(argc, argv);
    detail::require_deadline("Mpi", options.deadline);
    require(options.largest_part >= 1 && options.largest_part <= MpiOptions{}.largest_part, "Mpi",
            "expected parts of 1 to 2^30 bytes, got ", options.largest_part);
    if (living_ != nullptr) {
      throw CommunicationError("Mpi: expected one object at a time, got a second one");
    }
    check(MPI_Comm_dup(MPI_COMM_WORLD, &ranks_), "MPI_Comm_dup");
    check(MPI_Comm_set_errhandler(ranks_, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
    int rank = 0;
    int size = 0;
    check(MPI_Comm_rank(ranks_, &rank), "MPI_Comm_rank");
    check(MPI_Comm_size(ranks_, &size), "MPI_Comm_size");
    rank_ = static_cast<std::size_t>(rank);
    size_ = static_cast<std::size_t>(size);
    static const bool is_called_at_exit = std::atexit(end_job_at_exit) == 0;
    if (!is_called_at_exit) throw CommunicationError("Mpi: std::atexit has no room");
    living_ = this;
  }

  /// Ends the job if it is not whole: after a failure, or on the way out of an exception. MPI would
  /// wait for the other ranks. If there is no memory for the line, the process ends.
  ~Mpi() override {  // NOLINT(bugprone-exception-escape)
    if (!failure().empty()) end_job(failure());
    if (std::uncaught_exceptions() > exceptions_) end_job("ended by an exception");
    living_ = nullptr;
    MPI_Comm_free(&ranks_);
    if (is_ours_) MPI_Finalize();
  }

  [[nodiscard]] std::size_t rank() const override { return rank_; }
  [[nodiscard]] std::size_t size() const override { return size_; }

  /// Ends all processes of the job, this one with exit code 1, after a line on the standard error:
  /// "rank 2 of 4: why". Where there is no job, since MPI is not initialised yet or finalised
  /// already, the line is "why", and the function returns.
  static void end_job(std::string why) {
    std::replace(why.begin(), why.end(), '\n', ' ');
    if (!is_true(MPI_Initialized) || is_true(MPI_Finalized)) {
      std::fprintf(stderr, "%s\n", why.c_str());
      return;
    }
    int rank = 0;
    int size = 0;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    std::fprintf(stderr, "rank %d of %d: %s\n", rank, size, why.c_str());
    // Launchers read the line, but may drop it once they are told to end the job (MPICH 4.0).
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
    living_ = nullptr;  // MPI_Abort may call exit
    MPI_Abort(MPI_COMM_WORLD, 1);
  }

 private:
  static void initialise(int& argc, char**& argv) {
    if (is_true(MPI_Finalized)) {
      throw CommunicationError(
          "Mpi: expected an MPI that is not finalised, which a process initialises only once");
    }
    int threads = MPI_THREAD_SINGLE;
    if (is_true(MPI_Initialized)) {
      check(MPI_Query_thread(&threads), "MPI_Query_thread");
    } else {
      check(MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &threads), "MPI_Init_thread");
      is_ours_ = true;
    }
    if (threads < MPI_THREAD_FUNNELED) {
      throw CommunicationError("Mpi: expected an MPI for programs with threads, got one without");
    }
    if (threads < MPI_THREAD_SERIALIZED && !is_true(MPI_Is_thread_main)) {
      throw CommunicationError(
          "Mpi: expected the thread that has initialised MPI, got another one");
    }
  }

  static void end_job_at_exit() {
    if (living_ != nullptr) end_job("the program has called exit within the job");
  }

  /// What one of MPI's questions is answered with.
  [[nodiscard]] static bool is_true(int (*question)(int*)) {
    int answer = 0;
    check(question(&answer), "MPI_Initialized, MPI_Finalized or MPI_Is_thread_main");
    return answer != 0;
  }

  /// A part of a message.
  struct Part {
    std::size_t rank;
    std::size_t bytes;
    bool is_received;
  };

  class Exchange final : public Request::Operation {
   public:
    Exchange(Mpi& mpi, std::string_view operation)
        : mpi_(&mpi),
          place_(mpi.place_of(operation)),
          tag_(mpi.next_tag(operation)),
          time_(mpi.options_.deadline) {}

    Exchange(const Exchange&) = delete;
    Exchange& operator=(const Exchange&) = delete;

    /// What no message has come for yet can be cancelled. What MPI has begun to move cannot, and
    /// neither can what others are to take. If there is no memory for an error, the process ends.
    ~Exchange() override {  // NOLINT(bugprone-exception-escape)
      if (left_ != 0 && memory_) {
        mpi_->kept_.push_back(std::move(memory_));
        return;
      }
      if (std::uncaught_exceptions() > mpi_->exceptions_) hurry();
      for (std::size_t k = 0; k < requests_.size(); ++k) {
        if (requests_[k] != MPI_REQUEST_NULL && parts_[k].is_received) MPI_Cancel(&requests_[k]);
      }
      while (left_ != 0) {
        if (look().count != 0 || pause()) continue;
        end_job(mpi_->failure().empty() ? place_ + "it was given up" : mpi_->failure());
      }
    }

    /// Apart from the constructor, so that what was begun is given up if the rest cannot be.
    void begin(const Sent& sent, const Received& received) {
      or_fail([&] {
        const auto& own = sent[mpi_->rank_];
        const auto& to_self = received[mpi_->rank_];
        if (own.size() != to_self.size()) {
          fail("expected " + std::to_string(to_self.size()) + " bytes from itself, got " +
               std::to_string(own.size()));
        }
        for (std::size_t from = 0; from < received.size(); ++from) {
          if (from != mpi_->rank_) receive(from, received[from]);
        }
        for (std::size_t to = 0; to < sent.size(); ++to) {
          if (to != mpi_->rank_) send(to, sent[to]);
        }
        std::copy(own.begin(), own.end(), to_self.begin());
      });
    }

    [[nodiscard]] bool is_done() override {
      or_fail([&] {
        while (left_ != 0 && has_found_parts()) {
        }
      });
      return left_ == 0;
    }

    void wait() override {
      or_fail([&] {
        time_.restart();
        while (left_ != 0) {
          if (!has_found_parts() && !pause()) give_up();
        }
      });
    }

    void keep(const std::shared_ptr<const void>& memory) override { memory_ = memory; }

   private:
    /// Calls `body()`. What that throws is known to the communicator before this object goes.
    template <class Body> void or_fail(const Body& body) {
      try {
        body();
      } catch (const std::exception& error) {
        mpi_->fail(error.what());
        hurry();
        throw;
      }
    }

    /// An error is not held back for long.
    void hurry() {
      constexpr std::chrono::milliseconds longest = std::chrono::seconds(1);
      time_ = detail::WaitedTime(std::min(mpi_->options_.deadline, longest));
    }

    /// Parts that were done at a look. `done_` and `statuses_` begin with them.
    struct Look {
      int error;
      std::size_t count;
    };
    Look look() {
      done_.resize(requests_.size());
      statuses_.resize(requests_.size());
      int count = 0;
      const int error = MPI_Testsome(static_cast<int>(requests_.size()), requests_.data(), &count,
                                     done_.data(), statuses_.data());
      if (error != MPI_SUCCESS && error != MPI_ERR_IN_STATUS) return {.error = error, .count = 0};
      if (count != 0) {
        left_ -= static_cast<std::size_t>(count);
        time_.restart();
        looks_ = 0;
      }
      return {.error = error, .count = static_cast<std::size_t>(count)};
    }

    /// Looks once, and checks the parts that are done.
    /// @returns whether there were any
    [[nodiscard]] bool has_found_parts() {
      const Look found = look();
      for (std::size_t k = 0; k < found.count; ++k) {
        check_part(parts_[static_cast<std::size_t>(done_[k])], statuses_[k], found.error);
      }
      check_call(found.error, "MPI_Testsome");
      return found.count != 0;
    }

    /// After a look that found nothing.
    /// @returns whether to look once more
    [[nodiscard]] bool pause() {
      if (!time_.goes_on()) return false;
      if (time_.waited() > std::chrono::milliseconds(10)) {
        std::this_thread::sleep_for(std::chrono::microseconds(50));
      } else if (++looks_ > 100) {
        std::this_thread::yield();  // there may be more ranks than processors
      }
      return true;
    }

    /// Calls `start(part, bytes)` for each part of a message, one without bytes if it has none.
    template <class Start> void for_each_part(std::size_t size, const Start& start) const {
      const std::size_t largest = mpi_->options_.largest_part;
      std::size_t begin = 0;
      do {
        const std::size_t bytes = std::min(largest, size - begin);
        start(begin, bytes);
        begin += bytes;
      } while (begin < size);
    }

    void receive(std::size_t from, std::span<std::byte> bytes) {
      for_each_part(bytes.size(), [&](std::size_t begin, std::size_t count) {
        parts_.push_back({.rank = from, .bytes = count, .is_received = true});
        requests_.push_back(MPI_REQUEST_NULL);
        check_call(MPI_Irecv(bytes.data() + begin, static_cast<int>(count), MPI_BYTE,
                             static_cast<int>(from), MPI_ANY_TAG, mpi_->ranks_, &requests_.back()),
                   "MPI_Irecv");
        ++left_;
      });
    }

    void send(std::size_t to, std::span<const std::byte> bytes) {
      for_each_part(bytes.size(), [&](std::size_t begin, std::size_t count) {
        parts_.push_back({.rank = to, .bytes = count, .is_received = false});
        requests_.push_back(MPI_REQUEST_NULL);
        check_call(MPI_Isend(bytes.data() + begin, static_cast<int>(count), MPI_BYTE,
                             static_cast<int>(to), tag_, mpi_->ranks_, &requests_.back()),
                   "MPI_Isend");
        ++left_;
      });
    }

    void check_part(const Part& part, MPI_Status& status, int error) const {
      if (error == MPI_ERR_IN_STATUS && status.MPI_ERROR != MPI_SUCCESS) {
        fail((part.is_received ? "receiving from rank " : "sending to rank ") +
             std::to_string(part.rank) + ": " + text_of(status.MPI_ERROR));
      }
      if (!part.is_received) return;
      if (status.MPI_TAG != tag_) {
        fail("expected a message of the same operation from rank " + std::to_string(part.rank) +
             ", got one of another");
      }
      int bytes = 0;
      check_call(MPI_Get_count(&status, MPI_BYTE, &bytes), "MPI_Get_count");
      if (bytes < 0 || static_cast<std::size_t>(bytes) != part.bytes) {
        fail("expected " + std::to_string(part.bytes) + " bytes from rank " +
             std::to_string(part.rank) + ", got " + std::to_string(bytes));
      }
    }

    [[noreturn]] void give_up() const {
      const auto within = " within " + std::to_string(mpi_->options_.deadline.count()) + " ms";
      const auto silent = due(true);
      if (!silent.empty()) fail("no message from " + detail::names_of(silent) + within);
      fail("nobody receives on " + detail::names_of(due(false)) + within);
    }

    /// The ranks of the parts that are not received, or sent, yet.
    [[nodiscard]] std::vector<std::size_t> due(bool is_received) const {
      std::vector<std::size_t> ranks;
      for (std::size_t k = 0; k < requests_.size(); ++k) {
        if (requests_[k] == MPI_REQUEST_NULL || parts_[k].is_received != is_received) continue;
        if (ranks.empty() || ranks.back() != parts_[k].rank) ranks.push_back(parts_[k].rank);
      }
      return ranks;
    }

    void check_call(int error, std::string_view call) const {
      if (error != MPI_SUCCESS) fail(std::string(call) + ": " + text_of(error));
    }

    [[noreturn]] void fail(const std::string& what) const {
      throw CommunicationError(place_ + what);
    }

    Mpi* mpi_;
    std::string place_;
    int tag_;
    detail::WaitedTime time_;
    std::size_t looks_ = 0;
    std::vector<Part> parts_;
    std::vector<MPI_Request> requests_;  ///< of the parts
    std::size_t left_ = 0;               ///< requests that are not done
    std::vector<int> done_;
    std::vector<MPI_Status> statuses_;
    std::shared_ptr<const void> memory_;  ///< of the bytes, if it may be kept
  };

  Request start(std::string_view operation, Sent sent, Received received) override {
    auto exchange = std::make_unique<Exchange>(*this, operation);
    exchange->begin(sent, received);
    return Request(std::move(exchange));
  }

  /// Tells an operation from those near it and from others. MPI allows tags up to 2^15 − 1.
  [[nodiscard]] int next_tag(std::string_view operation) {
    constexpr std::array<std::string_view, 4> names{"all_to_all", "all_gather", "broadcast",
                                                    "barrier"};
    const auto* const name = std::find(names.begin(), names.end(), operation);
    operations_ = (operations_ + 1) % 4096;
    return operations_ * 8 + static_cast<int>(name - names.begin());
  }

  [[nodiscard]] static std::string text_of(int error) {
    std::array<char, MPI_MAX_ERROR_STRING> text{};
    int size = 0;
    if (MPI_Error_string(error, text.data(), &size) != MPI_SUCCESS) {
      return "error " + std::to_string(error);
    }
    return {text.data(), static_cast<std::size_t>(size)};
  }

  static void check(int error, std::string_view call) {
    if (error != MPI_SUCCESS) {
      throw CommunicationError(std::string(call) + ": " + text_of(error));
    }
  }

  static inline bool is_ours_ = false;         ///< whether MPI was initialised here
  static inline const Mpi* living_ = nullptr;  ///< the one object

  MpiOptions options_;
  int exceptions_ = std::uncaught_exceptions();
  MPI_Comm ranks_ = MPI_COMM_NULL;
  std::size_t rank_ = 0;
  std::size_t size_ = 1;
  int operations_ = 0;
  /// Of operations that were given up. The job ends before it goes.
  std::vector<std::shared_ptr<const void>> kept_;
};

/// Calls `function(communicator)` as this rank of an MPI job. Whatever it throws, and what the
/// constructor of Mpi throws, becomes one line on the standard error, "rank 2 of 4: why", and ends
/// all processes of the job.
///
/// A process that a signal ends takes the job with it. Open MPI's launcher then names the rank;
/// MPICH's tells the process and the signal only.
/// @returns for `main`: 0, or 1 if there is no job to end
inline int run_mpi(int& argc, char**& argv, const std::function<void(Communicator&)>& function,
                   const MpiOptions& options = {}) {
  std::optional<Mpi> mpi;  // outlives the exception, whose text is the better one
  try {
    mpi.emplace(argc, argv, options);
    function(*mpi);
    mpi.reset();
    return 0;
  } catch (const std::exception& error) {
    Mpi::end_job(error.what());
  } catch (...) {
    Mpi::end_job("what was thrown is no std::exception");
  }
  return 1;
}

}  // namespace UNIT_SCALING_NAMESPACE::distributed

UNIT_SCALING_IEEE_END
