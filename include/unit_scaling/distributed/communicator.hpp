// SPDX-License-Identifier: MIT
/// @file
/// Layer distributed: what an engine of messages between ranks is asked for.
// unit_scaling: optional
#pragma once

#include <cstddef>
#include <exception>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/shape.hpp"
#include "unit_scaling/core/target.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::distributed {

/// Ranks that do not understand each other, or no longer hear each other. The text names the rank.
class CommunicationError : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// An operation of all ranks that this one has started. What it sends and what it receives must
/// stay in place until it is over: until `wait` has returned, `is_done` has returned true, or one
/// of them has thrown. Requests may be waited for in any order, and none may outlive its
/// communicator.
///
/// A request that is destroyed before it is over gives up the operation. Then the memory is the
/// caller's again, and all later operations of the communicator throw. An engine may have to wait
/// until it has left the memory alone, unless it may keep it: see `keep`.
class Request {
 public:
  /// What an engine knows of an operation. After the destructor, and after a call that throws, the
  /// engine leaves the memory of the operation alone. Neither function is called once the operation
  /// is over.
  class Operation {
   public:
    Operation() = default;
    Operation(const Operation&) = delete;
    Operation& operator=(const Operation&) = delete;
    virtual ~Operation() = default;
    [[nodiscard]] virtual bool is_done() = 0;
    virtual void wait() = 0;
    /// Is given what owns the memory of the operation, which may be kept instead of left alone.
    virtual void keep(const std::shared_ptr<const void>& /*memory*/) {}
  };

  Request() = default;
  explicit Request(std::unique_ptr<Operation> operation) : operation_(std::move(operation)) {}

  /// Moves messages on as far as they go without waiting. There are engines whose messages move
  /// only while a rank looks at one of its requests or waits. What a rank does between two looks is
  /// no waiting, so no deadline ends it.
  /// @returns whether all is received, and all that was sent may be written to again.
  /// @throws CommunicationError if that cannot be.
  [[nodiscard]] bool is_done() {
    auto operation = std::exchange(operation_, nullptr);
    if (!operation || operation->is_done()) return true;
    operation_ = std::move(operation);
    return false;
  }

  /// Returns when `is_done` would return true. At once, if the operation is over.
  /// @throws CommunicationError if that cannot be, or not within the deadline of the communicator,
  ///         which begins with this call.
  void wait() {
    if (const auto operation = std::exchange(operation_, nullptr)) operation->wait();
  }

  /// Lets the engine share what owns the memory of the operation. If that fails or is given up, the
  /// engine need not wait until it has left the memory alone: so an exception that gives it up is
  /// not held back.
  void keep(const std::shared_ptr<const void>& memory) {
    if (operation_) operation_->keep(memory);
  }

 private:
  std::unique_ptr<Operation> operation_;
};

/// Parts of some bytes, one for each rank, that lie one behind the other.
template <class Byte> struct Pieces {
  std::span<Byte> bytes;
  std::span<const std::size_t> sizes;
};

/// The ranks of a job, numbered from 0, as one of them sees them. All ranks call the same
/// operations in the same order. One thread uses a communicator.
///
/// In an operation each rank sends at most one message to each other rank, and an engine is asked
/// for nothing else. What is computed from the messages is the caller's, so no result depends on
/// the engine. With pieces of one size, an all-to-all of the terms and an all-gather of their sums
/// take 2 (N − 1) / N of the bytes from each rank, as an AllReduce around a ring does.
///
/// Once an operation or a Work has failed or was given up, ranks may no longer understand each
/// other: each later operation of this rank throws, and says why.
class Communicator {
 public:
  Communicator() = default;
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;
  virtual ~Communicator() = default;

  [[nodiscard]] virtual std::size_t rank() const = 0;
  [[nodiscard]] virtual std::size_t size() const = 0;

  /// Why operations throw from now on; empty while they do not.
  [[nodiscard]] const std::string& failure() const& { return failure_; }
  [[nodiscard]] std::string failure() const&& { return failure_; }

  /// Sends a piece to each rank, and receives one from each.
  /// @throws DomainError unless there is a size for each rank, and as many bytes as they add up to;
  ///         ShapeError if std::size_t cannot count these; CommunicationError if a rank is known to
  ///         have failed, or an operation before this one has.
  [[nodiscard]] Request start_all_to_all(Pieces<const std::byte> sent, Pieces<std::byte> received) {
    return begin("all_to_all", by_rank(sent), by_rank(received));
  }
  /// Sends the same bytes to each rank, and receives a piece from each.
  /// @throws as above
  [[nodiscard]] Request start_all_gather(std::span<const std::byte> sent,
                                         Pieces<std::byte> received) {
    return begin("all_gather", Sent(size(), sent), by_rank(received));
  }
  /// Sends the bytes of rank `root` to all others, where they are overwritten.
  /// @throws DomainError if there is no such rank; CommunicationError as above.
  [[nodiscard]] Request start_broadcast(std::span<std::byte> bytes, std::size_t root) {
    require(root < size(), "Communicator", "expected a rank below ", size(), " to broadcast, got ",
            root);
    Sent sent(size());
    Received received(size());
    if (rank() == root) {
      sent.assign(size(), bytes);
      sent[root] = {};
    } else {
      received[root] = bytes;
    }
    return begin("broadcast", std::move(sent), std::move(received));
  }
  /// Is done when all ranks have started it.
  /// @throws CommunicationError as above
  [[nodiscard]] Request start_barrier() { return begin("barrier", Sent(size()), Received(size())); }

  // The same, waited for.
  void all_to_all(Pieces<const std::byte> sent, Pieces<std::byte> received) {
    start_all_to_all(sent, received).wait();
  }
  void all_gather(std::span<const std::byte> sent, Pieces<std::byte> received) {
    start_all_gather(sent, received).wait();
  }
  void broadcast(std::span<std::byte> bytes, std::size_t root) {
    start_broadcast(bytes, root).wait();
  }
  void barrier() { start_barrier().wait(); }

  /// Work of several operations that a rank starts when it can, such as those of a GradientExchange
  /// while a tape unwinds. How many it has started at some place of the program depends on which
  /// messages have come, so an operation of others in between would have another place in the order
  /// of each rank. From `begin` to `end` such an operation throws, whatever has come.
  class Work {
   public:
    /// @param communicator must outlive this object.
    /// @param name who does the work, for errors, in memory that stays.
    Work(Communicator& communicator, std::string_view name)
        : communicator_(&communicator), name_(name) {}
    Work(const Work&) = delete;
    Work& operator=(const Work&) = delete;
    /// Work that has started operations and has not ended is given up: later operations throw.
    ~Work() {
      if (communicator_->work_ != this) return;
      communicator_->work_ = nullptr;
      if (has_started_) communicator_->give_up(name_, exceptions_);
    }

    /// @throws CommunicationError while there is other work.
    void begin() {
      communicator_->require_no_work(name_);
      communicator_->work_ = this;
      has_started_ = false;
    }
    void end() { communicator_->work_ = nullptr; }

    /// Calls `body()`, whose operations are of this work. If it throws, the work has failed.
    /// @pre it has begun, and not ended
    template <class Body> void go_on(const Body& body) {
      const Going going(is_going_);
      communicator_->or_fail(body);
    }

   private:
    friend class Communicator;
    /// Sets a flag while it lives.
    class Going {
     public:
      explicit Going(bool& is_going) : is_going_(&is_going) { *is_going_ = true; }
      Going(const Going&) = delete;
      Going& operator=(const Going&) = delete;
      ~Going() { *is_going_ = false; }

     private:
      bool* is_going_;
    };

    Communicator* communicator_;
    std::string_view name_;
    int exceptions_ = std::uncaught_exceptions();
    bool is_going_ = false;
    bool has_started_ = false;  ///< an operation
  };

 protected:
  using Sent = std::vector<std::span<const std::byte>>;
  using Received = std::vector<std::span<std::byte>>;

  /// Sends one message to each rank, empty ones too, and receives one from each. That to itself is
  /// a copy.
  /// @param operation its name, in memory that stays.
  [[nodiscard]] virtual Request start(std::string_view operation, Sent sent, Received received) = 0;

  /// Lets each operation from now on throw. The first reason stays.
  void fail(std::string_view why) {
    if (failure_.empty()) failure_ = why;
  }

  /// How an error begins: "barrier on rank 2: ".
  [[nodiscard]] std::string place_of(std::string_view operation) const {
    return std::string(operation) + " on rank " + std::to_string(rank()) + ": ";
  }

 private:
  /// An operation that takes its communicator with it when it fails or is given up.
  class Tracked final : public Request::Operation {
   public:
    Tracked(Communicator& communicator, std::string_view operation, Request request)
        : communicator_(&communicator), operation_(operation), request_(std::move(request)) {}
    Tracked(const Tracked&) = delete;
    Tracked& operator=(const Tracked&) = delete;
    ~Tracked() override {
      if (!is_done_) communicator_->give_up(operation_, exceptions_);
    }

    [[nodiscard]] bool is_done() override {
      communicator_->or_fail([&] { is_done_ = request_.is_done(); });
      return is_done_;
    }
    void wait() override {
      communicator_->or_fail([&] { request_.wait(); });
      is_done_ = true;
    }
    void keep(const std::shared_ptr<const void>& memory) override { request_.keep(memory); }

   private:
    Communicator* communicator_;
    std::string_view operation_;
    Request request_;
    int exceptions_ = std::uncaught_exceptions();
    bool is_done_ = false;
  };

  [[nodiscard]] Request begin(std::string_view operation, Sent sent, Received received) {
    if (!failure_.empty()) {
      throw CommunicationError(place_of(operation) +
                               "an operation before it did not succeed: " + failure_);
    }
    if (work_ != nullptr && work_->is_going_) {
      work_->has_started_ = true;
    } else {
      require_no_work(operation);
    }
    Request request;
    or_fail([&] {
      request = Request(std::make_unique<Tracked>(
          *this, operation, start(operation, std::move(sent), std::move(received))));
    });
    return request;
  }

  /// Calls `body()`. What that throws is why operations throw from then on.
  template <class Body> void or_fail(const Body& body) {
    try {
      body();
    } catch (const std::exception& error) {
      fail(error.what());
      throw;
    }
  }

  /// @param exceptions that were not caught when it began
  void give_up(std::string_view operation, int exceptions) {
    const bool is_thrown = std::uncaught_exceptions() > exceptions;
    fail(place_of(operation) + "it was given up" + (is_thrown ? " by an exception" : ""));
  }

  /// @throws CommunicationError if there is work in which others have no place. Nothing is sent.
  void require_no_work(std::string_view operation) const {
    if (work_ == nullptr) return;
    throw CommunicationError(place_of(operation) + "expected the end of what " +
                             std::string(work_->name_) +
                             " has begun before an operation of others, got one in between, which "
                             "ranks would start in different orders");
  }

  template <class Byte>
  [[nodiscard]] std::vector<std::span<Byte>> by_rank(const Pieces<Byte>& pieces) const {
    require(pieces.sizes.size() == size(), "Communicator", "expected a piece for each of ", size(),
            " ranks, got ", pieces.sizes.size());
    std::size_t all = 0;
    for (const std::size_t each : pieces.sizes) all = size_sum("Communicator", {all, each});
    require(all == pieces.bytes.size(), "Communicator", "expected pieces of ", pieces.bytes.size(),
            " bytes together, got ", all);
    std::vector<std::span<Byte>> result;
    result.reserve(size());
    std::size_t first = 0;
    for (const std::size_t each : pieces.sizes) {
      result.push_back(pieces.bytes.subspan(first, each));
      first += each;
    }
    return result;
  }

  std::string failure_;
  Work* work_ = nullptr;  ///< that has begun, and not ended
};

}  // namespace UNIT_SCALING_NAMESPACE::distributed

UNIT_SCALING_IEEE_END
