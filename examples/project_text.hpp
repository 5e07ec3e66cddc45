// SPDX-License-Identifier: MIT
// The text that examples train on unless they are given another: the project's own.
#pragma once

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <vector>

namespace examples {

/// Every source and document below `root`, in an order that depends on their names alone.
/// Neighbouring files are dealt out in turn, so that the end of the text, which is held out, is not
/// all of one kind.
/// @throws std::invalid_argument if there are none.
inline std::vector<std::filesystem::path> project_files(const std::filesystem::path& root) {
  namespace fs = std::filesystem;
  std::vector<fs::path> files;
  for (const char* folder : {"include", "examples", "tests", "benchmarks", "docs"}) {
    if (!fs::is_directory(root / folder)) continue;
    for (const auto& entry : fs::recursive_directory_iterator(root / folder)) {
      const fs::path extension = entry.path().extension();
      if (entry.is_regular_file() && entry.file_size() > 0 &&
          (extension == ".hpp" || extension == ".cpp" || extension == ".md")) {
        files.push_back(entry.path());
      }
    }
  }
  std::sort(files.begin(), files.end());
  if (files.empty()) {
    throw std::invalid_argument("no sources found under '" + root.string() +
                                "': give a text with --data");
  }
  std::vector<fs::path> dealt;
  constexpr std::size_t hands = 10;
  for (std::size_t hand = 0; hand < hands; ++hand) {
    for (std::size_t i = hand; i < files.size(); i += hands) dealt.push_back(files[i]);
  }
  return dealt;
}

}  // namespace examples
