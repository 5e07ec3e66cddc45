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

/// A path as messages show it.
[[nodiscard]] inline std::string quoted_path(const std::string& path) {
  constexpr std::size_t longest = 4096;  // of Linux
  return unit_scaling::in_quotes(path, longest);
}

}  // namespace bert_mlp
