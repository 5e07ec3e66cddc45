// SPDX-License-Identifier: MIT
/// @file
/// Layer train: a text that is already in ids, in memory or in a file.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/train/token_corpus.hpp"
#include "unit_scaling/train/token_file.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::train {

/// Which ids a text may have.
struct Vocabulary {
  std::size_t size = 0;                      ///< ids are 0 to size - 1
  std::optional<std::int32_t> mask_id = {};  ///< stands for a masked position, if one does
};

/// A text in ids that some tokeniser has made. Copies share the ids; what is moved from has none.
class TokenIdCorpus : public TokenCorpus {
 public:
  /// @param shortest the fewest ids that training and validation need each: a window.
  /// @throws DomainError if the vocabulary is empty or has more than 2^31 - 1 ids, or if an id or
  ///         that of the mask is not of the vocabulary.
  /// @throws std::invalid_argument if training or validation is shorter than `shortest`.
  TokenIdCorpus(std::vector<std::int32_t> ids, const Vocabulary& vocabulary, std::size_t shortest)
      : vocabulary_(vocabulary) {
    check_vocabulary(TokenBytes::four);
    for (std::size_t i = 0; i < ids.size(); ++i) {
      require(is_of_vocabulary(ids[i]), name, "expected ids from 0 to ", vocabulary.size - 1,
              ", got ", ids[i], " at position ", i);
    }
    require_windows(ids.size(), "ids", shortest);
    ids_ = std::make_shared<const std::vector<std::int32_t>>(std::move(ids));
  }

  /// The ids of a file (see `TokenBytes`), which stays where it is and may be larger than memory.
  /// Each id is checked when it is read: one that is not of the vocabulary is a FileError that
  /// names the position.
  /// @throws DomainError if the vocabulary is empty or its ids have no room in so many bytes, or if
  ///         the mask's is not of it.
  /// @throws FileError if the file cannot be read, or its bytes make no whole ids.
  /// @throws std::invalid_argument if training or validation is shorter than `shortest`.
  [[nodiscard]] static TokenIdCorpus map_file(const std::filesystem::path& path,
                                              const Vocabulary& vocabulary, TokenBytes bytes,
                                              std::size_t shortest) {
    TokenIdCorpus corpus(vocabulary);
    corpus.check_vocabulary(bytes);
    corpus.file_ = std::make_shared<const TokenFile>(path, vocabulary.size, bytes);
    require_windows(corpus.file_->size(), "ids", shortest, {&path, 1});
    return corpus;
  }
  /// The same for ids of the fewest bytes, as `TokenFileWriter` writes them.
  [[nodiscard]] static TokenIdCorpus map_file(const std::filesystem::path& path,
                                              const Vocabulary& vocabulary, std::size_t shortest) {
    return map_file(path, vocabulary, fewest_token_bytes(vocabulary.size), shortest);
  }

  [[nodiscard]] std::size_t vocabulary_size() const override { return vocabulary_.size; }
  [[nodiscard]] std::int32_t mask_id() const override {
    require(vocabulary_.mask_id.has_value(), name, "expected a vocabulary that has a mask");
    return *vocabulary_.mask_id;
  }

 private:
  static constexpr std::string_view name = "TokenIdCorpus";

  explicit TokenIdCorpus(const Vocabulary& vocabulary) : vocabulary_(vocabulary) {}

  [[nodiscard]] bool is_of_vocabulary(std::int32_t id) const {
    return id >= 0 && static_cast<std::size_t>(id) < vocabulary_.size;
  }

  void check_vocabulary(TokenBytes bytes) const {
    detail::require_vocabulary(name, vocabulary_.size, bytes);
    require(!vocabulary_.mask_id || is_of_vocabulary(*vocabulary_.mask_id), name,
            "expected a mask from 0 to ", vocabulary_.size - 1, ", got ",
            vocabulary_.mask_id.value_or(0));
  }

  [[nodiscard]] std::size_t size() const override {
    if (file_ != nullptr) return file_->size();
    return ids_ != nullptr ? ids_->size() : 0;
  }

  void read(std::size_t first, std::span<std::int32_t> to) const override {
    if (file_ != nullptr) {
      file_->read(first, to);
    } else {
      std::ranges::copy(std::span(*ids_).subspan(first, to.size()), to.begin());
    }
  }

  Vocabulary vocabulary_;
  // One of them; neither after a move.
  std::shared_ptr<const std::vector<std::int32_t>> ids_;
  std::shared_ptr<const TokenFile> file_;
};

}  // namespace UNIT_SCALING_NAMESPACE::train

UNIT_SCALING_IEEE_END
