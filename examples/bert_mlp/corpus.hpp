// SPDX-License-Identifier: MIT
// The text that bert_mlp trains on when it is given none: this project's own sources and documents.
#pragma once

#include <algorithm>
#include <array>
#include <filesystem>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "options.hpp"
#include "unit_scaling/train/text_corpus.hpp"

namespace bert_mlp {

/// Every source and document below `root`, in an order that depends on their names alone.
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
  return files;
}

/// The text of `files`, or of the project if there are none.
/// Neighbouring files are dealt out in turn so that the held-out tail is not all of one kind.
inline std::string corpus_bytes(const std::vector<std::filesystem::path>& files) {
  if (!files.empty()) return us::train::TextCorpus::read_files(files);
  const auto all = project_files(UNIT_SCALING_SOURCE_DIR);
  constexpr std::size_t hands = 10;
  std::vector<std::filesystem::path> dealt;
  for (std::size_t hand = 0; hand < hands; ++hand) {
    for (std::size_t i = hand; i < all.size(); i += hands) dealt.push_back(all[i]);
  }
  return us::train::TextCorpus::read_files(dealt);
}

}  // namespace bert_mlp
