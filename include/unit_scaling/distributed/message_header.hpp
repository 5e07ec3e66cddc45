// SPDX-License-Identifier: MIT
/// @file
/// Layer distributed: what stands before the numbers in a message, so that no other bytes are taken
/// for them.
// unit_scaling: optional
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>

#include "unit_scaling/core/target.hpp"
#include "unit_scaling/distributed/communicator.hpp"
#include "unit_scaling/distributed/message_checksum.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::distributed {

/// What a message has.
enum class MessageKind : std::uint32_t {
  terms,      ///< gradients of the sender
  sums,       ///< gradients of all ranks, added up by the sender
  summaries,  ///< what all must know of gradients that the sender has
  weights,    ///< parameters that the sender has moved
  states,     ///< of an optimiser
};

/// The first 64 bytes of a message. All but `saturated` and `checksum` are known to the receiver
/// before.
struct MessageHeader {
  static constexpr std::array<char, 8> own_magic{'U', 'S', 'r', 'a', 'n', 'k', '0', '1'};

  std::array<char, 8> magic = own_magic;
  std::uint64_t step = 0;    ///< exchanges before this one
  std::uint32_t bucket = 0;  ///< of the step
  std::uint32_t from = 0;    ///< the rank that sends it
  std::uint32_t piece = 0;   ///< of the bucket
  MessageKind kind = MessageKind::terms;
  std::uint64_t elements = 0;   ///< that follow: numbers, or bytes
  std::uint64_t saturated = 0;  ///< numbers of the piece; see ExchangeStatistics
  std::uint64_t told = 0;       ///< a hash of what the sender was told: formats, factors, rates
  std::uint64_t checksum = 0;   ///< of all other bytes

  /// Writes the header, and the checksum of all, before what is in the message already.
  /// @pre there is room for it
  void seal(std::span<std::byte> message) {
    checksum = 0;
    std::memcpy(message.data(), this, sizeof(*this));
    checksum = checksum_of(message);
    std::memcpy(message.data(), this, sizeof(*this));
  }

  /// The header of a message that has come.
  /// @param receiver who is named in an error
  /// @param expected all that is known of it
  /// @throws CommunicationError unless it is that message, whole.
  [[nodiscard]] static MessageHeader open(std::string_view receiver,
                                          std::span<const std::byte> message,
                                          const MessageHeader& expected) {
    MessageHeader header;
    const auto check = [&](bool holds, std::string_view what, const auto& value, const auto& got) {
      if (holds) return;
      throw CommunicationError(std::string(receiver) + ": expected " + std::string(what) + " " +
                               std::to_string(value) + " in a message of rank " +
                               std::to_string(expected.from) + ", got " + std::to_string(got));
    };
    const auto check_same = [&](std::string_view what, const auto& value, const auto& got) {
      check(value == got, what, value, got);
    };
    check(message.size() >= sizeof(header), "at least so many bytes:", sizeof(header),
          message.size());
    std::memcpy(&header, message.data(), sizeof(header));
    if (header.magic != own_magic) {
      throw CommunicationError(std::string(receiver) + ": expected a header in a message of rank " +
                               std::to_string(expected.from) + ", got other bytes");
    }
    check_same("the checksum", checksum_of(message), header.checksum);
    check_same("step", expected.step, header.step);
    check_same("bucket", expected.bucket, header.bucket);
    check_same("sender", expected.from, header.from);
    check_same("piece", expected.piece, header.piece);
    check_same("kind", static_cast<std::uint32_t>(expected.kind),
               static_cast<std::uint32_t>(header.kind));
    check_same("a number of elements of", expected.elements, header.elements);
    check_same("the hash of options, parameters, sizes and number of batches, rates and steps",
               expected.told, header.told);
    return header;
  }

 private:
  /// Of all but the checksum itself.
  [[nodiscard]] static std::uint64_t checksum_of(std::span<const std::byte> message) {
    static_assert(offsetof(MessageHeader, checksum) + sizeof(checksum) == sizeof(MessageHeader));
    return message_checksum(message.subspan(sizeof(MessageHeader)),
                            message_checksum(message.first(offsetof(MessageHeader, checksum))));
  }
};
static_assert(std::is_trivially_copyable_v<MessageHeader> && sizeof(MessageHeader) == 64);

}  // namespace UNIT_SCALING_NAMESPACE::distributed

UNIT_SCALING_IEEE_END
