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
#include <ios>
#include <limits>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/file_error.hpp"
#include "unit_scaling/core/input_file.hpp"
#include "unit_scaling/core/printable.hpp"
#include "unit_scaling/core/target.hpp"

UNIT_SCALING_IEEE_BEGIN

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
    for (std::size_t byte = 0; byte < occurs.size(); ++byte) {
      if (occurs[byte]) symbols_.push_back(static_cast<char>(byte));
    }
    ids_ = ids_of(bytes);
    training_size_ = ids_.size() - ids_.size() / 10;
    if (training_size_ < shortest || ids_.size() - training_size_ < shortest) {
      throw std::invalid_argument("text too short: " + std::to_string(bytes.size()) +
                                  " bytes; with a tenth of it held out, a window of " +
                                  std::to_string(shortest) + " needs at least " +
                                  std::to_string(10 * shortest));
    }
  }

  /// The longest text: positions in it are numbers of 32 bits.
  static constexpr std::uint64_t max_bytes = std::numeric_limits<std::uint32_t>::max();

  /// The text of several files, one after another. Sizes are looked at before anything is read, and
  /// no more is read than they say: a device, a pipe or a file of any other kind that might never
  /// end is refused, and so is a file that tells no size, as those in /proc do.
  /// @throws FileError naming the file that is missing, unreadable, empty, no regular file, or the
  ///         one by which all are more than `most` bytes; or that has become shorter meanwhile.
  [[nodiscard]] static std::string read_files(std::span<const std::filesystem::path> paths,
                                              std::uint64_t most = max_bytes) {
    std::vector<std::uint64_t> sizes;
    std::uint64_t total = 0;
    for (const std::filesystem::path& path : paths) {
      sizes.push_back(unit_scaling::detail::open_to_read(path).second);
      if (sizes.back() == 0) {
        throw FileError(path.string(), "is empty, or tells no size as files in /proc do");
      }
      if (sizes.back() > most - total) {
        throw FileError(path.string(),
                        "has " + std::to_string(sizes.back()) +
                            (total == 0 ? " bytes" : " bytes beside " + std::to_string(total)) +
                            ", expected at most " + std::to_string(most) + " in all");
      }
      total += sizes.back();
    }
    std::string bytes(static_cast<std::size_t>(total), '\0');
    char* next = bytes.data();
    for (std::size_t i = 0; i < paths.size(); ++i) {
      const auto size = static_cast<std::streamsize>(sizes[i]);
      std::ifstream file = unit_scaling::detail::open_to_read(paths[i]).first;
      file.seekg(0);
      file.read(next, size);
      if (file.gcount() != size) {
        throw FileError(paths[i].string(), "ended after " + std::to_string(file.gcount()) +
                                               " bytes, expected " + std::to_string(size) +
                                               ", its size before it was read");
      }
      next += size;
    }
    return bytes;
  }

  /// Number of symbols, the mask included.
  [[nodiscard]] std::size_t vocabulary_size() const { return symbols_.size() + 1; }
  /// The id that stands for a masked position.
  [[nodiscard]] std::int32_t mask_id() const { return static_cast<std::int32_t>(symbols_.size()); }

  /// The ids of a text: a prompt, for instance.
  /// @throws DomainError if it has a byte that the corpus does not have.
  [[nodiscard]] std::vector<std::int32_t> ids_of(std::string_view text) const {
    constexpr std::int32_t none = -1;
    std::array<std::int32_t, 256> of_byte{};
    of_byte.fill(none);
    for (std::size_t id = 0; id < symbols_.size(); ++id) {
      of_byte[static_cast<unsigned char>(symbols_[id])] = static_cast<std::int32_t>(id);
    }
    std::vector<std::int32_t> ids;
    ids.reserve(text.size());
    for (const char& byte : text) {
      ids.push_back(of_byte[static_cast<unsigned char>(byte)]);
      if (ids.back() != none) continue;
      throw_domain_error("TextCorpus::ids_of", {"expected bytes that the corpus has, got ",
                                                in_quotes(std::string_view(&byte, 1))});
    }
    return ids;
  }

  /// The text of ids.
  /// @throws DomainError if an id is of no byte: that of the mask, or one beyond the vocabulary.
  [[nodiscard]] std::string text_of(std::span<const std::int32_t> ids) const {
    std::string text;
    text.reserve(ids.size());
    for (const std::int32_t id : ids) {
      require(id >= 0 && id < mask_id(), "TextCorpus::text_of", "expected ids from 0 to ",
              mask_id() - 1, ", got ", id);
      text.push_back(symbols_[static_cast<std::size_t>(id)]);
    }
    return text;
  }

  [[nodiscard]] std::span<const std::int32_t> training() const& {
    return std::span(ids_).first(training_size_);
  }
  std::span<const std::int32_t> training() const&& = delete;
  [[nodiscard]] std::span<const std::int32_t> validation() const& {
    return std::span(ids_).subspan(training_size_);
  }
  std::span<const std::int32_t> validation() const&& = delete;

 private:
  std::vector<std::int32_t> ids_;
  std::size_t training_size_ = 0;
  std::string symbols_;  ///< the byte of each id but the mask's
};

}  // namespace UNIT_SCALING_NAMESPACE::train

UNIT_SCALING_IEEE_END
