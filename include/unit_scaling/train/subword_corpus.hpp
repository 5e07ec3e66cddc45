// SPDX-License-Identifier: MIT
/// @file
/// Layer train: a text in subwords, in memory or in a file of ids.
///
/// Needs SentencePiece, as `sentence_piece.hpp` does, so it is not in the umbrella header.
// unit_scaling: optional (needs SentencePiece)
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "unit_scaling/core/target.hpp"
#include "unit_scaling/train/sentence_piece.hpp"
#include "unit_scaling/train/token_id_corpus.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::train {

/// A text in subwords, with the members of a `TextCorpus`.
class SubwordCorpus final : public TokenIdCorpus {
 public:
  /// Of a text in memory.
  /// @param shortest the fewest subwords that training and validation need each: a window.
  /// @throws std::invalid_argument if either is shorter than that.
  SubwordCorpus(const SentencePieceTokeniser& tokeniser, std::string_view text,
                std::size_t shortest)
      : TokenIdCorpus(tokeniser.ids_of(text), tokeniser.vocabulary(), shortest),
        tokeniser_(tokeniser) {}

  /// Of a file that the tokeniser has written with `write_ids`, which stays where it is and may be
  /// larger than memory.
  /// @throws FileError if it cannot be read.
  /// @throws std::invalid_argument as the constructor.
  [[nodiscard]] static SubwordCorpus map_file(const SentencePieceTokeniser& tokeniser,
                                              const std::filesystem::path& ids_file,
                                              std::size_t shortest) {
    return {TokenIdCorpus::map_file(ids_file, tokeniser.vocabulary(), shortest), tokeniser};
  }

  /// The ids of a text, a prompt for instance, as `SentencePieceTokeniser::ids_of` gives them.
  [[nodiscard]] std::vector<std::int32_t> ids_of(std::string_view text) const {
    return tokeniser_.ids_of(text);
  }
  /// The text of ids, as `SentencePieceTokeniser::text_of` gives it.
  [[nodiscard]] std::string text_of(std::span<const std::int32_t> ids) const {
    return tokeniser_.text_of(ids);
  }

 private:
  SubwordCorpus(TokenIdCorpus ids, SentencePieceTokeniser tokeniser)
      : TokenIdCorpus(std::move(ids)), tokeniser_(std::move(tokeniser)) {}

  SentencePieceTokeniser tokeniser_;
};

}  // namespace UNIT_SCALING_NAMESPACE::train

UNIT_SCALING_IEEE_END
