// SPDX-License-Identifier: MIT
/// @file
/// Layer distributed: bytes of each rank that all ranks, or one, are to have.
// unit_scaling: optional
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/core/text_hash.hpp"
#include "unit_scaling/distributed/communicator.hpp"
#include "unit_scaling/distributed/message_header.hpp"
#include "unit_scaling/distributed/messages.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::distributed {

/// Memory in parts, which are one row of bytes.
template <class Byte> class ByteRow {
 public:
  /// Adds a part at the end.
  void add(std::span<Byte> part) {
    parts_.push_back(part);
    size_ += part.size();
  }
  [[nodiscard]] std::size_t size() const { return size_; }

  /// Calls `body(bytes, begin)` for those parts of the next `count` bytes that lie together,
  /// `begin` bytes behind the first of these. @pre there are so many
  template <class Body> void take(std::size_t count, const Body& body) {
    for (std::size_t begin = 0; begin < count;) {
      const auto rest = parts_[part_].subspan(taken_);
      const std::size_t some = std::min(rest.size(), count - begin);
      if (some != 0) body(rest.first(some), begin);
      begin += some;
      taken_ += some;
      if (taken_ != parts_[part_].size()) continue;
      ++part_;
      taken_ = 0;
    }
  }

 private:
  std::vector<std::span<Byte>> parts_;
  std::size_t size_ = 0;
  std::size_t part_ = 0;   ///< the first one that is not taken whole
  std::size_t taken_ = 0;  ///< of that
};

/// Sends the bytes of each rank to all others, or to one, in messages of bounded size: the next one
/// is on its way while one is taken.
class ByteGather {
 public:
  /// @param ranks must outlive this object.
  /// @param receiver who is named in an error, in memory that stays.
  /// @param kind of the messages
  /// @param largest bytes of the messages of all ranks together, about.
  ByteGather(Communicator& ranks, std::string_view receiver, MessageKind kind,
             std::size_t largest = std::size_t{1} << 24)
      : ranks_(&ranks),
        receiver_(receiver),
        kind_(kind),
        bytes_of_message_(std::max(least_message, largest / ranks.size())) {}

  /// All ranks call it.
  /// @param sizes of the bytes of each rank, which all ranks know.
  /// @param own what this rank sends.
  /// @param others where the bytes of each rank go, but for those of this one; empty on a rank that
  ///        gets nothing.
  /// @param root the one rank that gets them; all do if it is empty.
  /// @param told a hash of what all ranks must be told alike besides the sizes.
  /// @throws DomainError if rows have other sizes, or there is no such root; CommunicationError
  ///         if a rank has failed or a message is not the one that is due: ranks may know other
  ///         sizes, or be told otherwise.
  void gather(const std::vector<std::size_t>& sizes, ByteRow<const std::byte> own,
              std::vector<ByteRow<std::byte>> others, std::optional<std::size_t> root = {},
              std::uint64_t told = unit_scaling::detail::empty_hash) {
    const std::size_t rank = ranks_->rank();
    require(sizes.size() == ranks_->size() && (!root || *root < sizes.size()), receiver_,
            "expected a size for each of ", ranks_->size(), " ranks, and a root among them, got ",
            sizes.size());
    require(own.size() == sizes[rank], receiver_, "expected ", sizes[rank], " bytes to send, got ",
            own.size());
    is_received_ = !root || *root == rank;
    for (std::size_t from = 0; is_received_ && from < sizes.size(); ++from) {
      if (from == rank) continue;
      require(others.size() == sizes.size() && others[from].size() == sizes[from], receiver_,
              "expected room for ", sizes[from], " bytes of rank ", from);
    }
    root_ = root;
    sizes_ = sizes;
    own_ = std::move(own);
    others_ = std::move(others);
    told_ = with_hash_of_sizes(told);
    const std::size_t most = *std::max_element(sizes.begin(), sizes.end());
    const std::size_t rounds =
        ranks_->size() == 1 ? 0 : (most + bytes_of_message_ - 1) / bytes_of_message_;
    for (std::size_t round = 0; round < rounds; ++round) {
      start(round);
      if (round >= 1) finish(round - 1);
    }
    if (rounds >= 1) finish(rounds - 1);
    ++step_;
  }

 private:
  static constexpr std::size_t least_message = 4096;

  /// How many bytes of a rank go in a message.
  [[nodiscard]] std::size_t count(std::size_t round, std::size_t rank) const {
    const std::size_t begin = std::min(round * bytes_of_message_, sizes_[rank]);
    return std::min(bytes_of_message_, sizes_[rank] - begin);
  }
  /// Of its message, which is empty if there are none.
  [[nodiscard]] std::size_t message_size(std::size_t round, std::size_t rank) const {
    const std::size_t bytes = count(round, rank);
    return bytes == 0 ? 0 : sizeof(MessageHeader) + bytes;
  }

  [[nodiscard]] MessageHeader header_of(std::size_t round, std::size_t from) const {
    return {.step = step_,
            .bucket = static_cast<std::uint32_t>(round),
            .from = static_cast<std::uint32_t>(from),
            .piece = static_cast<std::uint32_t>(from),
            .kind = kind_,
            .elements = count(round, from),
            .told = told_};
  }

  [[nodiscard]] std::uint64_t with_hash_of_sizes(std::uint64_t hash) const {
    hash = unit_scaling::detail::next_hash(hash, bytes_of_message_);
    for (const std::size_t each : sizes_) hash = unit_scaling::detail::next_hash(hash, each);
    return hash;
  }

  void start(std::size_t round) {
    detail::Messages& messages = messages_[round % messages_.size()];
    const std::size_t own = ranks_->rank();
    const bool is_sent = !root_ || *root_ != own;
    const std::size_t size = is_sent ? message_size(round, own) : 0;
    messages.sent_sizes.assign(root_ ? ranks_->size() : 1, 0);
    messages.sent_sizes[root_.value_or(0)] = size;
    messages.received_sizes.assign(ranks_->size(), 0);
    for (std::size_t from = 0; from < ranks_->size(); ++from) {
      // An all-gather brings what this rank has sent itself, too.
      const bool comes = is_received_ && (from != own || !root_);
      if (comes) messages.received_sizes[from] = message_size(round, from);
    }
    messages.resize();
    if (size != 0) {
      std::byte* const to = messages.sent().data() + sizeof(MessageHeader);
      own_.take(count(round, own), [&](std::span<const std::byte> bytes, std::size_t begin) {
        std::memcpy(to + begin, bytes.data(), bytes.size());
      });
      header_of(round, own).seal(messages.sent());
    }
    if (root_) {
      messages.start_all_to_all(*ranks_);
    } else {
      messages.start_all_gather(*ranks_);
    }
  }

  void finish(std::size_t round) {
    detail::Messages& messages = messages_[round % messages_.size()];
    messages.request.wait();
    const std::byte* message = messages.received().data();
    for (std::size_t from = 0; from < ranks_->size(); ++from) {
      const std::size_t size = messages.received_sizes[from];
      if (size != 0 && from != ranks_->rank()) {
        static_cast<void>(MessageHeader::open(receiver_, {message, size}, header_of(round, from)));
        const std::byte* const bytes = message + sizeof(MessageHeader);
        others_[from].take(count(round, from), [&](std::span<std::byte> to, std::size_t begin) {
          std::memcpy(to.data(), bytes + begin, to.size());
        });
      }
      message += size;
    }
  }

  Communicator* ranks_;
  std::string_view receiver_;
  MessageKind kind_;
  std::size_t bytes_of_message_;  ///< of one rank
  std::uint64_t step_ = 0;
  // Of the gathering that is on its way.
  std::optional<std::size_t> root_;
  bool is_received_ = false;
  std::vector<std::size_t> sizes_;
  ByteRow<const std::byte> own_;
  std::vector<ByteRow<std::byte>> others_;
  std::uint64_t told_ = 0;
  std::array<detail::Messages, 2> messages_;
};

}  // namespace UNIT_SCALING_NAMESPACE::distributed

UNIT_SCALING_IEEE_END
