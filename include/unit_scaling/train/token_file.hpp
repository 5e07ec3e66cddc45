// SPDX-License-Identifier: MIT
/// @file
/// Layer train: files of ids, written id after id and read without being loaded.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

#include "unit_scaling/core/atomic_file.hpp"
#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/file_error.hpp"
#include "unit_scaling/core/mapped_file.hpp"
#include "unit_scaling/core/target.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::train {

/// How many bytes an id has in a file. Files of ids are nothing but these, the lowest byte first;
/// those of two bytes are the `.bin` files of nanoGPT.
/// @see https://github.com/karpathy/nanoGPT, data/openwebtext/prepare.py.
enum class TokenBytes : std::size_t { two = 2, four = 4 };

/// The fewest bytes that hold every id of a vocabulary of so many.
[[nodiscard]] constexpr TokenBytes fewest_token_bytes(std::size_t vocabulary_size) {
  return vocabulary_size <= 0x10000 ? TokenBytes::two : TokenBytes::four;
}

namespace detail {

/// @throws DomainError unless the ids of such a vocabulary have room in so many bytes and in the 31
///         bits that models take.
inline void require_vocabulary(std::string_view owner, std::size_t size, TokenBytes bytes) {
  require(bytes == TokenBytes::two || bytes == TokenBytes::four, owner,
          "expected ids of 2 or 4 bytes, got ", static_cast<std::size_t>(bytes));
  const std::size_t most = bytes == TokenBytes::two ? 0x10000 : 0x7FFFFFFF;
  require(size >= 1 && size <= most, owner, "expected a vocabulary of 1 to ", most, " ids, got ",
          size);
}

}  // namespace detail

/// A file of ids in the making: it is there once it is finished, and not before, as of an
/// `AtomicFile`. What has been appended is not kept in memory.
class TokenFileWriter {
 public:
  /// @throws DomainError unless all ids of the vocabulary have room in so many bytes.
  /// @throws FileError if the file cannot be written.
  TokenFileWriter(const std::filesystem::path& path, std::size_t vocabulary_size, TokenBytes bytes)
      : vocabulary_size_(vocabulary_size), bytes_(bytes), file_(checked(path)) {}
  /// Of the fewest bytes.
  TokenFileWriter(const std::filesystem::path& path, std::size_t vocabulary_size)
      : TokenFileWriter(path, vocabulary_size, fewest_token_bytes(vocabulary_size)) {}

  /// @throws DomainError if an id is not of the vocabulary; nothing of `ids` is written then.
  /// @throws FileError if the file cannot be written.
  void append(std::span<const std::int32_t> ids) {
    for (const std::int32_t id : ids) {
      require(id >= 0 && static_cast<std::size_t>(id) < vocabulary_size_, name,
              "expected ids from 0 to ", vocabulary_size_ - 1, ", got ", id);
    }
    const auto width = static_cast<std::size_t>(bytes_);
    constexpr std::size_t block = 4096;
    std::array<std::byte, block * 4> encoded{};
    while (!ids.empty()) {
      const auto part = ids.first(std::min(block, ids.size()));
      for (std::size_t i = 0; i < part.size(); ++i) {
        const auto id = static_cast<std::uint32_t>(part[i]);
        for (std::size_t b = 0; b < width; ++b) {
          encoded[i * width + b] = static_cast<std::byte>(id >> (8 * b));
        }
      }
      file_.append(std::span(encoded).first(part.size() * width));
      ids = ids.subspan(part.size());
    }
  }

  /// Puts the file in its place.
  /// @throws FileError if it cannot be written.
  void finish() { file_.finish(); }

 private:
  static constexpr std::string_view name = "TokenFileWriter";

  /// Before a file is begun.
  const std::filesystem::path& checked(const std::filesystem::path& path) const {
    detail::require_vocabulary(name, vocabulary_size_, bytes_);
    return path;
  }

  std::size_t vocabulary_size_;
  TokenBytes bytes_;
  AtomicFile file_;
};

/// A file of ids, which are read when they are asked for: see `MappedFile`.
class TokenFile {
 public:
  /// @throws DomainError unless all ids of the vocabulary have room in so many bytes.
  /// @throws FileError if the file cannot be read, or its bytes make no whole ids.
  TokenFile(const std::filesystem::path& path, std::size_t vocabulary_size, TokenBytes bytes)
      : path_(path.string()), vocabulary_size_(vocabulary_size), bytes_(bytes), file_(path) {
    detail::require_vocabulary("TokenFile", vocabulary_size, bytes);
    const auto width = static_cast<std::size_t>(bytes);
    if (file_.bytes().size() % width != 0) {
      throw FileError(path_, "has " + std::to_string(file_.bytes().size()) +
                                 " bytes, expected ids of " + std::to_string(width) +
                                 " bytes each");
    }
  }

  /// How many ids there are.
  [[nodiscard]] std::size_t size() const {
    return file_.bytes().size() / static_cast<std::size_t>(bytes_);
  }

  /// Copies the ids from `first` on to `to`, as many as it has room for.
  /// @throws DomainError unless there are so many.
  /// @throws FileError, naming the position, if one of them is not of the vocabulary.
  void read(std::size_t first, std::span<std::int32_t> to) const {
    require(first <= size() && to.size() <= size() - first, "TokenFile::read", "expected some of ",
            size(), " ids, got ", to.size(), " from ", first);
    if (bytes_ == TokenBytes::two) {
      decode<2>(first, to);
    } else {
      decode<4>(first, to);
    }
  }

 private:
  template <std::size_t width> void decode(std::size_t first, std::span<std::int32_t> to) const {
    const std::span<const std::byte> from = file_.bytes().subspan(first * width);
    for (std::size_t i = 0; i < to.size(); ++i) {
      std::uint32_t id = 0;
      for (std::size_t b = 0; b < width; ++b) {
        id |= std::to_integer<std::uint32_t>(from[i * width + b]) << (8 * b);
      }
      if (id >= vocabulary_size_) {
        throw FileError(path_, "has id " + std::to_string(id) + " at position " +
                                   std::to_string(first + i) + ", expected ids below " +
                                   std::to_string(vocabulary_size_));
      }
      to[i] = static_cast<std::int32_t>(id);
    }
  }

  std::string path_;
  std::size_t vocabulary_size_;
  TokenBytes bytes_;
  MappedFile file_;
};

}  // namespace UNIT_SCALING_NAMESPACE::train

UNIT_SCALING_IEEE_END
