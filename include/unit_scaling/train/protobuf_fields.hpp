// SPDX-License-Identifier: MIT
/// @file
/// Layer train: messages of protobuf, read field by field.
// unit_scaling: optional (subwords only)
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "unit_scaling/core/target.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::train::detail {

/// Fields of a message of protobuf, whose classes SentencePiece does not install.
/// @see https://protobuf.dev/programming-guides/encoding/
class ProtobufFields {
 public:
  explicit ProtobufFields(std::string_view message) : rest_(message) {}

  std::uint64_t number = 0;  ///< of the field
  std::uint64_t value = 0;   ///< if it is a number
  std::string_view bytes;    ///< if it is a text or a message

  /// Goes to the next field; false at the end, and where there is no field.
  bool next() {
    if (rest_.empty()) return false;
    const std::uint64_t key = variable_number();
    number = key >> 3U;
    value = 0;
    bytes = {};
    switch (key & 7U) {
      case 0:
        value = variable_number();
        return true;
      case 1:
        return skip(8);
      case 2:
        return skip(variable_number());
      case 5:
        return skip(4);
      default:
        return skip(rest_.size() + 1);
    }
  }

 private:
  std::uint64_t variable_number() {
    std::uint64_t result = 0;
    for (unsigned shift = 0; shift < 64 && !rest_.empty(); shift += 7) {
      const auto byte = static_cast<unsigned char>(rest_.front());
      rest_.remove_prefix(1);
      result |= std::uint64_t{byte & 0x7FU} << shift;
      if (byte < 0x80) break;
    }
    return result;
  }

  bool skip(std::uint64_t size) {
    if (size > rest_.size()) {
      rest_ = {};
      return false;
    }
    bytes = rest_.substr(0, static_cast<std::size_t>(size));
    rest_.remove_prefix(bytes.size());
    return true;
  }

  std::string_view rest_;
};

}  // namespace UNIT_SCALING_NAMESPACE::train::detail

UNIT_SCALING_IEEE_END
