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
#include <utility>
#include <vector>

#include "memory_need.hpp"
#include "one_line.hpp"
#include "options.hpp"
#include "project_text.hpp"
#include "unit_scaling/core/file_error.hpp"
#include "unit_scaling/train/text_corpus.hpp"

namespace bert_mlp {

/// The text that --data names, or of the project if it names none.
/// @throws std::invalid_argument if it cannot be read, is given twice, too short for --window or
///         too much for memory.
inline us::train::TextCorpus make_corpus(const Options& options) {
  namespace fs = std::filesystem;
  std::vector<fs::path> files = options.data;
  if (files.empty()) files = examples::project_files(UNIT_SCALING_SOURCE_DIR);
  std::error_code error;
  for (std::size_t i = 0; i < options.data.size(); ++i) {
    for (std::size_t k = 0; k < i; ++k) {
      if (!fs::equivalent(files[i], files[k], error)) continue;
      throw std::invalid_argument("--data " + quoted_path(files[i].string()) +
                                  ": is given twice; what is held out would be trained on");
    }
  }
  const auto most_bytes = static_cast<double>(us::train::TextCorpus::max_bytes);
  try {
    std::string bytes = us::train::TextCorpus::read_files(
        files, static_cast<std::uint64_t>(std::min(available_memory(), most_bytes)));
    return us::train::TextCorpus(std::move(bytes), options.window);
  } catch (const std::invalid_argument& short_text) {
    throw std::invalid_argument(std::string("--data: ") + short_text.what());
  } catch (const us::FileError& failure) {
    throw std::invalid_argument(std::string("--data ") + failure.what());
  }
}

}  // namespace bert_mlp
