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
#include <exception>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/distributed/communicator.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::distributed {

/// How an MPI job is used.
struct MpiOptions {
  /// How long a rank waits without that anything comes before it gives up the others.
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
/// One object, in the thread that made it. It initialises MPI and finalises it, unless the program
/// has done so before. Messages go from rank to rank in a communicator of their own, beside what
/// else the program sends. They are no collective operations of MPI: so a message that is too long,
/// too short or of another operation is an error, and a rank that does not answer has a name.
class Mpi final : public Communicator {
 public:
  /// @throws CommunicationError if MPI cannot be initialised for a program with threads.
  /// @throws DomainError unless the deadline is above 0, and parts are of 1 to 2^30 bytes.
  Mpi(int& argc, char**& argv, const MpiOptions& options = {}) : options_(options) {
    require(options.deadline.count() > 0, "Mpi", "expected a deadline above 0, got ",
            options.deadline.count(), " ms");
    require(options.largest_part >= 1 && options.largest_part <= MpiOptions{}.largest_part, "Mpi",
            "expected parts of 1 to 2^30 bytes, got ", options.largest_part);
    int is_initialised = 0;
    check(MPI_Initialized(&is_initialised), "MPI_Initialized");
    int threads = MPI_THREAD_SINGLE;
    if (is_initialised == 0) {
      check(MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &threads), "MPI_Init_thread");
      is_ours_ = true;
    } else {
      check(MPI_Query_thread(&threads), "MPI_Query_thread");
    }
    if (threads < MPI_THREAD_FUNNELED) {
      throw CommunicationError("Mpi: expected an MPI for programs with threads, got one without");
    }
    check(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
    check(MPI_Comm_dup(MPI_COMM_WORLD, &ranks_), "MPI_Comm_dup");
    check(MPI_Comm_set_errhandler(ranks_, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
    int rank = 0;
    int size = 0;
    check(MPI_Comm_rank(ranks_, &rank), "MPI_Comm_rank");
    check(MPI_Comm_size(ranks_, &size), "MPI_Comm_size");
    rank_ = static_cast<std::size_t>(rank);
    size_ = static_cast<std::size_t>(size);
  }

  /// Ends the job if it is not whole: after a failure, or on the way out of an exception. MPI would
  /// wait for the other ranks.
  ~Mpi() override {
    if (has_failed_ || std::uncaught_exceptions() > exceptions_) abort();
    MPI_Comm_free(&ranks_);
    if (is_ours_) MPI_Finalize();
  }

  [[nodiscard]] std::size_t rank() const override { return rank_; }
  [[nodiscard]] std::size_t size() const override { return size_; }

  /// Ends all processes of the job, this one with exit code 1.
  [[noreturn]] void abort() const {
    MPI_Abort(MPI_COMM_WORLD, 1);
    std::terminate();  // not reached
  }

 private:
  /// A part of a message.
  struct Part {
    std::size_t rank;
    std::size_t bytes;
    bool is_received;
  };

  class Exchange final : public Request::Operation {
   public:
    Exchange(Mpi& mpi, std::string_view operation)
        : mpi_(&mpi), operation_(operation), tag_(mpi.next_tag(operation)) {}

    Exchange(const Exchange&) = delete;
    Exchange& operator=(const Exchange&) = delete;

    /// What is not received yet no longer will be.
    ~Exchange() override {
      for (std::size_t k = 0; k < requests_.size(); ++k) {
        if (requests_[k] == MPI_REQUEST_NULL) continue;
        mpi_->has_failed_ = true;
        if (parts_[k].is_received) MPI_Cancel(&requests_[k]);
        MPI_Request_free(&requests_[k]);
      }
    }

    /// Apart from the constructor, so that what was begun is given up if the rest cannot be.
    void begin(const Sent& sent, const Received& received) {
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
    }

    void wait() override {
      using Clock = std::chrono::steady_clock;
      auto last = Clock::now();
      std::size_t left = requests_.size();
      std::vector<int> done(requests_.size());
      std::vector<MPI_Status> statuses(requests_.size());
      for (std::size_t looks = 0; left != 0; ++looks) {
        int count = 0;
        const int error = MPI_Testsome(static_cast<int>(requests_.size()), requests_.data(), &count,
                                       done.data(), statuses.data());
        for (int k = 0; k < count; ++k) {
          const auto part = static_cast<std::size_t>(done[static_cast<std::size_t>(k)]);
          check_part(parts_[part], statuses[static_cast<std::size_t>(k)], error);
        }
        check(error, operation_);
        left -= static_cast<std::size_t>(count);
        const auto now = Clock::now();
        if (count != 0) {
          last = now;
          looks = 0;
        } else if (now - last > mpi_->options_.deadline) {
          give_up();
        } else if (now - last > std::chrono::milliseconds(10)) {
          std::this_thread::sleep_for(std::chrono::microseconds(50));
        } else if (looks > 100) {
          std::this_thread::yield();  // there may be more ranks than processors
        }
      }
    }

   private:
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
        check(MPI_Irecv(bytes.data() + begin, static_cast<int>(count), MPI_BYTE,
                        static_cast<int>(from), MPI_ANY_TAG, mpi_->ranks_, &requests_.back()),
              "MPI_Irecv");
      });
    }

    void send(std::size_t to, std::span<const std::byte> bytes) {
      for_each_part(bytes.size(), [&](std::size_t begin, std::size_t count) {
        parts_.push_back({.rank = to, .bytes = count, .is_received = false});
        requests_.push_back(MPI_REQUEST_NULL);
        check(MPI_Isend(bytes.data() + begin, static_cast<int>(count), MPI_BYTE,
                        static_cast<int>(to), tag_, mpi_->ranks_, &requests_.back()),
              "MPI_Isend");
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
      check(MPI_Get_count(&status, MPI_BYTE, &bytes), "MPI_Get_count");
      if (bytes < 0 || static_cast<std::size_t>(bytes) != part.bytes) {
        fail("expected " + std::to_string(part.bytes) + " bytes from rank " +
             std::to_string(part.rank) + ", got " + std::to_string(bytes));
      }
    }

    [[noreturn]] void give_up() const {
      for (std::size_t k = 0; k < requests_.size(); ++k) {
        if (requests_[k] == MPI_REQUEST_NULL) continue;
        fail((parts_[k].is_received ? "no message from rank " : "nobody receives on rank ") +
             std::to_string(parts_[k].rank) + " within " +
             std::to_string(mpi_->options_.deadline.count()) + " ms");
      }
      fail("no answer within the deadline");
    }

    [[noreturn]] void fail(const std::string& what) const {
      throw CommunicationError(std::string(operation_) + " on rank " + std::to_string(mpi_->rank_) +
                               ": " + what);
    }

    Mpi* mpi_;
    std::string_view operation_;
    int tag_;
    std::vector<Part> parts_;
    std::vector<MPI_Request> requests_;  ///< of the parts
  };

  Request start(std::string_view operation, Sent sent, Received received) override {
    if (has_failed_) {
      throw CommunicationError(std::string(operation) + " on rank " + std::to_string(rank_) +
                               ": an operation before it was given up");
    }
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

  MpiOptions options_;
  int exceptions_ = std::uncaught_exceptions();
  bool is_ours_ = false;
  bool has_failed_ = false;
  MPI_Comm ranks_ = MPI_COMM_NULL;
  std::size_t rank_ = 0;
  std::size_t size_ = 1;
  int operations_ = 0;
};

/// Calls `function(communicator)` as this rank of an MPI job. What it throws is one line, "rank 2
/// of 4: why", on the standard error, and ends all processes of the job.
/// @returns 0, for `main`
/// @throws as the constructor of Mpi
inline int run_mpi(int& argc, char**& argv, const std::function<void(Communicator&)>& function,
                   const MpiOptions& options = {}) {
  Mpi mpi(argc, argv, options);
  const auto end = [&](std::string why) {
    std::replace(why.begin(), why.end(), '\n', ' ');
    std::fprintf(stderr, "rank %zu of %zu: %s\n", mpi.rank(), mpi.size(), why.c_str());
    // Launchers read the line, but may drop it once they are told to end the job (MPICH 4.0).
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
    mpi.abort();
  };
  try {
    function(mpi);
  } catch (const std::exception& error) {
    end(error.what());
  } catch (...) {
    end("what was thrown is no std::exception");
  }
  return 0;
}

}  // namespace UNIT_SCALING_NAMESPACE::distributed

UNIT_SCALING_IEEE_END
