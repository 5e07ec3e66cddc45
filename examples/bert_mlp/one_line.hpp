// SPDX-License-Identifier: MIT
// Texts that users give, such as the names of files, made fit for a line of output.
#pragma once

#include <algorithm>
#include <cstddef>
#include <string>
#include <string_view>

#include "unit_scaling/core/printable.hpp"

namespace bert_mlp {

/// `text` on one line of printable UTF-8, as `us::printable` makes it, but with its quotation marks
/// and backslashes as they are: it may be a whole message, with texts that are escaped already.
[[nodiscard]] inline std::string one_line(std::string_view text) {
  std::string line;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find_first_of("'\\"), text.size());
    line += unit_scaling::printable(text.substr(0, end), end);
    if (end < text.size()) line += text[end];
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return line;
}

/// `text` as a word that bash, zsh and ksh read as it is, on one line of printable UTF-8.
[[nodiscard]] inline std::string shell_word(const std::string& text) {
  const auto is_plain = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           std::string_view("%+,-./:=@_").find(c) != std::string_view::npos;
  };
  if (!text.empty() && std::all_of(text.begin(), text.end(), is_plain)) return text;
  // What is not printable is written as in C, which these shells take behind a dollar.
  if (one_line(text) != text) return "$" + unit_scaling::in_quotes(text, text.size());
  std::string word = "'";
  for (const char c : text) word += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return word + "'";
}

/// A path as messages show it.
[[nodiscard]] inline std::string quoted_path(const std::string& path) {
  constexpr std::size_t longest = 4096;  // of Linux
  return unit_scaling::in_quotes(path, longest);
}

}  // namespace bert_mlp
