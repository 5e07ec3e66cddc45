// SPDX-License-Identifier: MIT
// The text that bert_mlp trains on when it is given none: this project's own sources and documents.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <system_error>
#include <vector>

#include "memory_need.hpp"
#include "one_line.hpp"
#include "options.hpp"
#include "unit_scaling/core/file_error.hpp"
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

/// The text that --data names, or of the project if it names none.
/// Neighbouring files are dealt out in turn so that the held-out tail is not all of one kind.
/// @throws std::invalid_argument if it cannot be read, is given twice, too short for --window or
///         too much for memory.
inline us::train::TextCorpus make_corpus(const Options& options) {
  namespace fs = std::filesystem;
  std::vector<fs::path> files = options.data;
  if (files.empty()) {
    const auto all = project_files(UNIT_SCALING_SOURCE_DIR);
    constexpr std::size_t hands = 10;
    for (std::size_t hand = 0; hand < hands; ++hand) {
      for (std::size_t i = hand; i < all.size(); i += hands) files.push_back(all[i]);
    }
  }
  std::error_code error;
  for (std::size_t i = 0; i < options.data.size(); ++i) {
    for (std::size_t k = 0; k < i; ++k) {
      if (!fs::equivalent(files[i], files[k], error)) continue;
      throw std::invalid_argument("--data " + quoted_path(files[i].string()) +
                                  ": is given twice; what is held out would be trained on");
    }
  }
  // The bytes, and an id of each.
  const double most = available_memory() / (1 + sizeof(std::int32_t));
  const auto most_bytes = static_cast<double>(us::train::TextCorpus::max_bytes);
  try {
    const std::string bytes = us::train::TextCorpus::read_files(
        files, static_cast<std::uint64_t>(std::min(most, most_bytes)));
    return us::train::TextCorpus(bytes, options.window);
  } catch (const std::invalid_argument& short_text) {
    throw std::invalid_argument(std::string("--data: ") + short_text.what());
  } catch (const us::FileError& failure) {
    throw std::invalid_argument(std::string("--data ") + failure.what());
  }
}

}  // namespace bert_mlp
