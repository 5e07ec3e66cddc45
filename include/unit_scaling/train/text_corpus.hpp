// SPDX-License-Identifier: MIT
/// @file
/// Layer train: text as sequences of byte ids, with a held-out tail.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "unit_scaling/core/target.hpp"

namespace UNIT_SCALING_NAMESPACE::train {

/// A text, any bytes, in ids: each byte value that occurs is a symbol, numbered in byte order, and
/// one more symbol stands for a masked position. The last tenth is held out for validation.
class TextCorpus {
 public:
  /// @param bytes the text.
  /// @param shortest the fewest symbols that training and validation need each: a window.
  /// @throws std::invalid_argument if either part is shorter than that.
  TextCorpus(const std::string& bytes, std::size_t shortest) {
    std::array<bool, 256> occurs{};
    for (const char byte : bytes) occurs[static_cast<unsigned char>(byte)] = true;
    std::array<std::int32_t, 256> id{};
    for (std::size_t byte = 0; byte < occurs.size(); ++byte) {
      if (occurs[byte]) id[byte] = symbols_++;
    }
    ids_.reserve(bytes.size());
    for (const char byte : bytes) ids_.push_back(id[static_cast<unsigned char>(byte)]);
    training_size_ = ids_.size() - ids_.size() / 10;
    if (training_size_ < shortest || ids_.size() - training_size_ < shortest) {
      throw std::invalid_argument("text too short: " + std::to_string(bytes.size()) +
                                  " bytes; with a tenth of it held out, a window of " +
                                  std::to_string(shortest) + " needs at least " +
                                  std::to_string(10 * shortest));
    }
  }

  /// The text of several files, one after another.
  /// @throws std::invalid_argument naming the file that is missing, unreadable or empty.
  [[nodiscard]] static std::string read_files(std::span<const std::filesystem::path> paths) {
    std::string bytes;
    for (const std::filesystem::path& path : paths) {
      std::ifstream file(path, std::ios::binary);
      if (!file || std::filesystem::is_directory(path)) {
        throw std::invalid_argument("cannot read '" + path.string() + "'");
      }
      const std::size_t before = bytes.size();
      bytes.append(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
      if (file.bad()) throw std::invalid_argument("cannot read '" + path.string() + "'");
      if (bytes.size() == before) {
        throw std::invalid_argument("'" + path.string() + "' is empty");
      }
    }
    return bytes;
  }

  /// Number of symbols, the mask included.
  [[nodiscard]] std::size_t vocabulary_size() const {
    return static_cast<std::size_t>(symbols_) + 1;
  }
  /// The id that stands for a masked position.
  [[nodiscard]] std::int32_t mask_id() const { return symbols_; }

  [[nodiscard]] std::span<const std::int32_t> training() const {
    return std::span(ids_).first(training_size_);
  }
  [[nodiscard]] std::span<const std::int32_t> validation() const {
    return std::span(ids_).subspan(training_size_);
  }

 private:
  std::vector<std::int32_t> ids_;
  std::size_t training_size_ = 0;
  std::int32_t symbols_ = 0;
};

}  // namespace UNIT_SCALING_NAMESPACE::train
