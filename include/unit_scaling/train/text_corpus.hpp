// SPDX-License-Identifier: MIT
/// @file
/// Layer train: a text, in memory or in files, of which each byte is an id.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <ios>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/file_error.hpp"
#include "unit_scaling/core/input_file.hpp"
#include "unit_scaling/core/mapped_file.hpp"
#include "unit_scaling/core/printable.hpp"
#include "unit_scaling/core/shape.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/train/token_corpus.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::train {

/// A text, any bytes, in ids: each byte value that occurs is a symbol, numbered in byte order, and
/// one more symbol stands for a masked position. Copies share the bytes.
class TextCorpus final : public TokenCorpus {
 public:
  /// @param bytes the text.
  /// @param shortest the fewest symbols that training and validation need each: a window.
  /// @throws std::invalid_argument if either part is shorter than that.
  TextCorpus(std::string bytes, std::size_t shortest) {
    const auto text = std::make_shared<const std::string>(std::move(bytes));
    append(std::as_bytes(std::span(*text)), text);
    require_windows(size(), "bytes", shortest);
    number_symbols();
  }

  /// The text of several files, one after another, which stay where they are: each byte is read
  /// once here, to see which values occur, and again when it is asked for. So the text may be
  /// larger than memory. While the corpus is used nobody may change the files: see `MappedFile`. A
  /// byte of a value that did not occur is then a FileError that names the file and the position.
  /// @throws FileError naming the file that is missing, unreadable, empty or no regular file.
  /// @throws std::invalid_argument as the constructor.
  [[nodiscard]] static TextCorpus map_files(std::span<const std::filesystem::path> paths,
                                            std::size_t shortest) {
    TextCorpus corpus;
    for (const std::filesystem::path& path : paths) {
      const auto file = std::make_shared<const MappedFile>(path);
      if (file->bytes().empty()) throw_empty(path);
      corpus.append(file->bytes(), file, path.string());
    }
    require_windows(corpus.size(), "bytes", shortest, paths);
    corpus.number_symbols();
    return corpus;
  }

  /// The longest text that `read_files` loads unless told otherwise: `map_files` has no such limit.
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
      if (sizes.back() == 0) throw_empty(path);
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
  [[nodiscard]] std::size_t vocabulary_size() const override { return symbols_.size() + 1; }
  /// The id that stands for a masked position: the last.
  [[nodiscard]] std::int32_t mask_id() const override {
    return static_cast<std::int32_t>(symbols_.size());
  }

  /// The ids of a text: a prompt, for instance.
  /// @throws DomainError if it has a byte that the corpus does not have.
  [[nodiscard]] std::vector<std::int32_t> ids_of(std::string_view text) const {
    std::vector<std::int32_t> ids(text.size());
    const std::size_t known = write_ids(std::as_bytes(std::span(text)), ids.data());
    require(known == text.size(), "TextCorpus::ids_of", "expected bytes that the corpus has, got ",
            [&] { return in_quotes(text.substr(known, 1)); });
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

 private:
  /// Bytes that follow those of the parts before.
  struct Part {
    std::span<const std::byte> bytes;
    std::shared_ptr<const void> owner;
    std::size_t end;   ///< how many bytes the text has up to here
    std::string file;  ///< empty: in memory
  };

  static constexpr std::int32_t none = -1;

  TextCorpus() = default;

  [[noreturn]] static void throw_empty(const std::filesystem::path& path) {
    throw FileError(path.string(), "is empty, or tells no size as files in /proc do");
  }

  void append(std::span<const std::byte> bytes, std::shared_ptr<const void> owner,
              std::string file = {}) {
    parts_.push_back(
        {bytes, std::move(owner), size_sum("TextCorpus", {size(), bytes.size()}), std::move(file)});
  }

  /// Once all parts are there.
  void number_symbols() {
    std::array<bool, 256> occurs{};
    for (const Part& part : parts_) {
      for (const std::byte byte : part.bytes) occurs[std::to_integer<std::size_t>(byte)] = true;
    }
    id_of_byte_.fill(none);
    for (std::size_t byte = 0; byte < occurs.size(); ++byte) {
      if (!occurs[byte]) continue;
      id_of_byte_[byte] = static_cast<std::int32_t>(symbols_.size());
      symbols_.push_back(static_cast<char>(byte));
    }
  }

  /// Writes the ids of bytes up to the first one that the corpus does not have.
  /// @returns how many.
  std::size_t write_ids(std::span<const std::byte> bytes, std::int32_t* to) const {
    for (std::size_t i = 0; i < bytes.size(); ++i) {
      to[i] = id_of_byte_[std::to_integer<std::size_t>(bytes[i])];
      if (to[i] == none) return i;
    }
    return bytes.size();
  }

  [[nodiscard]] std::size_t size() const override { return parts_.empty() ? 0 : parts_.back().end; }

  void read(std::size_t first, std::span<std::int32_t> to) const override {
    auto part = std::upper_bound(parts_.begin(), parts_.end(), first,
                                 [](std::size_t at, const Part& each) { return at < each.end; });
    while (!to.empty()) {
      const std::size_t rest = part->end - first;
      const std::size_t count = std::min(rest, to.size());
      const std::span<const std::byte> bytes = part->bytes.last(rest).first(count);
      const std::size_t known = write_ids(bytes, to.data());
      if (known != count) {
        const auto symbol = static_cast<char>(bytes[known]);
        throw FileError(part->file, "has byte " + in_quotes(std::string_view(&symbol, 1)) +
                                        " at position " +
                                        std::to_string(part->bytes.size() - rest + known) +
                                        ", expected only bytes that it had when it was opened");
      }
      to = to.subspan(count);
      first += count;
      ++part;
    }
  }

  std::vector<Part> parts_;
  std::array<std::int32_t, 256> id_of_byte_{};
  std::string symbols_;  ///< the byte of each id but the mask's
};

}  // namespace UNIT_SCALING_NAMESPACE::train

UNIT_SCALING_IEEE_END
