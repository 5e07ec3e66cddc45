// SPDX-License-Identifier: MIT
/// @file
/// Layer core: texts of unknown origin, such as the names in a file, made fit to be printed.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "unit_scaling/core/target.hpp"

namespace UNIT_SCALING_NAMESPACE {

namespace detail {

/// Bytes of the UTF-8 character that `text` begins with; 0 if it begins with none.
[[nodiscard]] inline std::size_t utf8_size(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  if (text.empty()) return 0;
  const unsigned char lead = byte(0);
  if (lead < 0x80) return 1;
  const std::size_t size = lead < 0xc2   ? 0
                           : lead < 0xe0 ? 2
                           : lead < 0xf0 ? 3
                           : lead < 0xf5 ? 4
                                         : 0;
  if (size == 0 || text.size() < size) return 0;
  for (std::size_t i = 1; i < size; ++i) {
    if ((byte(i) & 0xc0U) != 0x80) return 0;
  }
  // Overlong forms, surrogates, and what lies beyond U+10FFFF.
  if (lead == 0xe0 && byte(1) < 0xa0) return 0;
  if (lead == 0xed && byte(1) > 0x9f) return 0;
  if (lead == 0xf0 && byte(1) < 0x90) return 0;
  if (lead == 0xf4 && byte(1) > 0x8f) return 0;
  return size;
}

/// Whether a character of two or three bytes changes how its neighbours are shown, or is not seen
/// itself: controls, spaces without width, separators, and what turns the direction of writing.
[[nodiscard]] inline bool is_invisible(std::string_view character) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(character[i]); };
  if (character.size() == 2) return byte(0) == 0xc2 && (byte(1) < 0xa0 || byte(1) == 0xad);
  if (character.size() != 3) return false;
  const unsigned code = (byte(0) & 0xfU) << 12U | (byte(1) & 0x3fU) << 6U | (byte(2) & 0x3fU);
  return (code >= 0x200b && code <= 0x200f) || (code >= 0x2028 && code <= 0x202e) ||
         (code >= 0x2060 && code <= 0x206f) || code == 0xfeff || code == 0x061c;
}

}  // namespace detail

/// `text` on one line of printable UTF-8. Of what is not: line ends, tabs, backslashes and single
/// quotation marks become what C writes in their place, a backslash and one character; the bytes of
/// other control characters, of invisible ones and of what is not UTF-8 become a backslash, an x
/// and two hexadecimal digits. Of a text of more than `longest` bytes the first ones are shown, as
/// many as make whole characters, and its size: "abc… (1000 bytes)".
[[nodiscard]] inline std::string printable(std::string_view text, std::size_t longest = 100) {
  constexpr std::string_view digits = "0123456789abcdef";
  const std::string_view whole = text;
  std::string result;
  while (!text.empty()) {
    const std::size_t size = detail::utf8_size(text);
    const std::string_view character = text.substr(0, size == 0 ? 1 : size);
    if (whole.size() > longest && whole.size() - text.size() + character.size() > longest) {
      return result + "… (" + std::to_string(whole.size()) + " bytes)";
    }
    const auto first = static_cast<unsigned char>(character.front());
    if (first == '\n' || first == '\r' || first == '\t' || first == '\\' || first == '\'') {
      result += '\\';
      result += first == '\n' ? 'n' : first == '\r' ? 'r' : first == '\t' ? 't' : character.front();
    } else if (size == 0 || first < 0x20 || first == 0x7f || detail::is_invisible(character)) {
      for (const char each : character) {
        const auto byte = static_cast<unsigned char>(each);
        result += {'\\', 'x', digits[byte >> 4U], digits[byte & 15U]};
      }
    } else {
      result += character;
    }
    text.remove_prefix(character.size());
  }
  return result;
}

/// `printable` text between single quotation marks.
[[nodiscard]] inline std::string in_quotes(std::string_view text, std::size_t longest = 100) {
  std::string result = printable(text, longest);
  result.insert(result.begin(), '\'');  // GCC 12 warns without cause of a text put in front
  result += '\'';
  return result;
}

}  // namespace UNIT_SCALING_NAMESPACE
