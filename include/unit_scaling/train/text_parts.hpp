// SPDX-License-Identifier: MIT
/// @file
/// Layer train: parts of a text that become subwords one by one.
// unit_scaling: optional (subwords only)
#pragma once

#include <cstddef>
#include <string_view>

#include "unit_scaling/core/target.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::train::detail {

/// Cuts a text into parts, which SentencePiece sees one by one: lines, each with its end. A line of
/// more than `longest` bytes is cut before a word, or else between two characters.
class TextParts {
 public:
  explicit TextParts(std::string_view text) : rest_(text) {}

  [[nodiscard]] bool empty() const { return rest_.empty(); }
  /// The next part. Not for an empty rest.
  std::string_view next() {
    const std::string_view part = rest_.substr(0, next_size());
    rest_.remove_prefix(part.size());
    return part;
  }

  /// Whether a cut after the end of a line, or before a word, may be within that subword.
  [[nodiscard]] static bool may_cut(std::string_view subword) {
    for (std::size_t i = 1; i < subword.size(); ++i) {
      if (subword[i - 1] == '\n' || begins_word(subword, i)) return true;
    }
    return false;
  }

 private:
  /// SentencePiece leaves out what is longer than 4192 bytes when it trains.
  static constexpr std::size_t longest = 4096;

  /// Whether a word begins there, whose first character is the space before it.
  [[nodiscard]] static bool begins_word(std::string_view text, std::size_t position) {
    return text[position] == ' ' && text[position - 1] != ' ';
  }

  [[nodiscard]] std::size_t next_size() const {
    const std::size_t line_end = rest_.substr(0, longest).find('\n');
    if (line_end != rest_.npos) return line_end + 1;
    if (rest_.size() <= longest) return rest_.size();
    for (std::size_t size = longest; size > 0; --size) {
      if (begins_word(rest_, size)) return size;
    }
    for (std::size_t size = longest; size > longest - 4; --size) {
      const auto byte = static_cast<unsigned char>(rest_[size]);
      if ((byte & 0xC0U) != 0x80) return size;  // not within a character
    }
    return longest;
  }

  std::string_view rest_;
};

}  // namespace UNIT_SCALING_NAMESPACE::train::detail

UNIT_SCALING_IEEE_END
