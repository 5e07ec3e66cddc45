// SPDX-License-Identifier: MIT
/// @file
/// Layer: tests. Files as texts, and texts in texts.
#pragma once

#include <cstddef>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <string_view>

namespace unit_scaling_test {

/// All bytes of a file; none if it cannot be read.
[[nodiscard]] inline std::string content(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

/// How often `what` stands in `text`, without overlaps.
[[nodiscard]] inline std::size_t count(std::string_view text, std::string_view what) {
  std::size_t found = 0;
  for (std::size_t at = 0; (at = text.find(what, at)) != std::string_view::npos;
       at += what.size()) {
    ++found;
  }
  return found;
}

}  // namespace unit_scaling_test
