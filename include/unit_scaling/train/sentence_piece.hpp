// SPDX-License-Identifier: MIT
/// @file
/// Layer train: texts in subwords and back, by SentencePiece.
///
/// Needs SentencePiece 0.1.97 or newer (Debian package libsentencepiece-dev; link with
/// -lsentencepiece_train -lsentencepiece), so it is not in the umbrella header.
// unit_scaling: optional (needs SentencePiece)
#pragma once

#include <sentencepiece_processor.h>
#include <sentencepiece_trainer.h>

#include <algorithm>
#include <array>
#include <climits>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <iomanip>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "unit_scaling/core/atomic_file.hpp"
#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/file_error.hpp"
#include "unit_scaling/core/mapped_file.hpp"
#include "unit_scaling/core/parallel_for.hpp"
#include "unit_scaling/core/printable.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/train/protobuf_fields.hpp"
#include "unit_scaling/train/text_parts.hpp"
#include "unit_scaling/train/token_file.hpp"
#include "unit_scaling/train/token_id_corpus.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::train {

namespace detail {

/// The parts of texts as SentencePiece asks for them: every `stride`-th, counted over all texts.
/// Those of nothing but tabs and zero bytes are left out: it learns nothing from them, and ends the
/// process if there is nothing else.
class TrainingParts final : public sentencepiece::SentenceIterator {
 public:
  /// @param last a part more, after those of the texts; empty: none.
  TrainingParts(std::span<const std::string_view> texts, std::uint64_t stride,
                std::string_view last = {})
      : texts_(texts), stride_(stride), last_(last) {
    advance(1);
  }

  [[nodiscard]] bool done() const override { return part_.empty(); }
  void Next() override { advance(stride_); }
  [[nodiscard]] const std::string& value() const override { return part_; }
  [[nodiscard]] sentencepiece::util::Status status() const override { return {}; }

 private:
  void advance(std::uint64_t parts) {
    while (true) {
      while (rest_.empty() && !texts_.empty()) {
        rest_ = TextParts(texts_.front());
        texts_ = texts_.subspan(1);
      }
      if (rest_.empty()) break;
      const std::string_view part = rest_.next();
      if (part.find_first_not_of(std::string_view("\t\0", 2)) == part.npos || --parts > 0) continue;
      part_ = part;
      return;
    }
    part_ = std::exchange(last_, {});
  }

  std::span<const std::string_view> texts_;
  std::uint64_t stride_;
  std::string last_;
  TextParts rest_{{}};
  std::string part_;
};

/// The commonest character but tabs and zero bytes, as SentencePiece sees it: U+FFFD for a byte
/// that is not UTF-8. Of several the first by its bytes; empty if there is none.
[[nodiscard]] inline std::string commonest_character(TrainingParts parts) {
  std::map<std::string, std::uint64_t> counts;
  for (; !parts.done(); parts.Next()) {
    for (std::string_view rest = parts.value(); !rest.empty();) {
      const std::size_t size = unit_scaling::detail::utf8_size(rest);
      const std::string_view character = size == 0 ? "\xEF\xBF\xBD" : rest.substr(0, size);
      if (character != "\t" && character.front() != '\0') ++counts[std::string(character)];
      rest.remove_prefix(std::max<std::size_t>(1, size));
    }
  }
  const auto commonest =
      std::max_element(counts.begin(), counts.end(),
                       [](const auto& a, const auto& b) { return a.second < b.second; });
  return commonest == counts.end() ? std::string() : commonest->first;
}

/// Whether a model of SentencePiece encodes a text as it is: without other characters in place of
/// some, a space in front, or fewer spaces.
[[nodiscard]] inline bool encodes_text_as_it_is(std::string_view model) {
  std::string_view characters;
  bool adds_space = true;  // as NormalizerSpec has it
  bool removes_spaces = true;
  for (ProtobufFields field(model); field.next();) {
    if (field.number != 3) continue;  // ModelProto.normalizer_spec
    for (ProtobufFields normaliser(field.bytes); normaliser.next();) {
      if (normaliser.number == 2) characters = normaliser.bytes;
      if (normaliser.number == 3) adds_space = normaliser.value != 0;
      if (normaliser.number == 4) removes_spaces = normaliser.value != 0;
    }
  }
  return characters.empty() && !adds_space && !removes_spaces;
}

}  // namespace detail

/// A model of SentencePiece: texts in ids of subwords, and back. Copies share the model.
///
/// A model that `train` has made keeps every text: `text_of(ids_of(text)) == text` for any bytes.
/// Nothing is normalised. What no subword stands for, and what is not UTF-8, is spelt in ids of
/// bytes. Its first ids are `<unk>`, `<s>`, `</s>`, `<pad>` and `<mask>`, which no text has, and
/// one for each byte.
///
/// Models of other origin do what they were made for: most change or remove characters, and
/// `keeps_text()` tells. Their ids are those of SentencePiece itself, but for what `ids_of` says of
/// very long lines.
/// @see Kudo and Richardson 2018, arXiv:1808.06226, https://github.com/google/sentencepiece
class SentencePieceTokeniser {
 public:
  /// How subwords are found.
  enum class Kind {
    unigram,  ///< the likeliest parts of a text: Kudo 2018, arXiv:1804.10959
    bpe       ///< the commonest pair of parts becomes one, again and again: arXiv:1508.07909
  };

  /// What `train` is told beside the texts.
  struct TrainOptions {
    std::size_t vocabulary_size = 8000;  ///< how many ids, those of bytes included
    Kind kind = Kind::unigram;
    /// The share of the characters of the text that get an id of their own, the commonest ones.
    double character_coverage = 0.9995;
    /// Of a longer text each n-th line is taken, so that about as much is read. Memory is needed
    /// for several times as much.
    std::uint64_t most_bytes = 100'000'000;
  };

  /// Makes a model of texts, and writes it. It depends on nothing but the texts and the options:
  /// neither on the machine nor on a seed. SentencePiece writes nothing to the screen from here on,
  /// in the whole process, but for errors that end it.
  /// @throws std::invalid_argument with the words of SentencePiece if there is no such model: if
  ///         there are too few subwords, or more characters than ids.
  /// @throws FileError if the model cannot be written, which shows before the training.
  static void train(std::span<const std::string_view> texts, const std::filesystem::path& model,
                    const TrainOptions& options) {
    // The unigram trainer begins with a million subwords, and for some sizes beyond never ends.
    constexpr std::size_t least = 262;
    constexpr std::size_t most = 1'000'000;
    require(options.vocabulary_size >= least && options.vocabulary_size <= most, train_name,
            "expected a vocabulary of ", least, " to ", most, " ids, got ",
            options.vocabulary_size);
    require(options.character_coverage >= 0.98 && options.character_coverage <= 1, train_name,
            "expected a character coverage of 0.98 to 1, got ", options.character_coverage);
    require(options.most_bytes > 0, train_name, "expected at least 1 byte to train on, got 0");
    std::uint64_t size = 0;
    for (const std::string_view text : texts) size += text.size();
    const std::uint64_t most_bytes = options.most_bytes;
    const std::uint64_t stride = size / most_bytes + (size % most_bytes == 0 ? 0 : 1);
    detail::TrainingParts parts(texts, stride);
    require(!parts.done(), train_name, "expected a text of more than tabs and zero bytes");
    // The unigram trainer drops what it expects less than half a time, and ends the process when
    // nothing is left: of a line that is one character 50 times over, say. A line of one character
    // cannot be cut in any other way, so that character is expected once and stays.
    constexpr std::uint64_t small = 1 << 20;
    if (options.kind == Kind::unigram && size / stride <= small) {
      parts = detail::TrainingParts(texts, stride, detail::commonest_character(parts));
    }
    AtomicFile file(model);
    // SentencePiece reads numbers as the global locale has them, and so does this write them.
    std::ostringstream coverage;
    coverage << std::setprecision(std::numeric_limits<double>::max_digits10)
             << options.character_coverage;
    const std::unordered_map<std::string, std::string> settings{
        {"model_type", options.kind == Kind::bpe ? "bpe" : "unigram"},
        {"vocab_size", std::to_string(options.vocabulary_size)},
        {"character_coverage", coverage.str()},
        {"byte_fallback", "true"},
        {"normalization_rule_name", "identity"},
        {"add_dummy_prefix", "false"},
        {"remove_extra_whitespaces", "false"},
        {"allow_whitespace_only_pieces", "true"},
        {"unk_id", "0"},
        {"bos_id", "1"},
        {"eos_id", "2"},
        {"pad_id", "3"},
        {"control_symbols", "<mask>"},
        // Sums of probabilities are made for each thread, so their number decides on the last bits.
        {"num_threads", "16"},
        {"minloglevel", "3"}};
    std::string result;
    const auto status = sentencepiece::SentencePieceTrainer::Train(settings, &parts, &result);
    if (!status.ok()) {
      throw std::invalid_argument(std::string(train_name) + ": " +
                                  printable(status.error_message(), longest_message));
    }
    file.append(std::as_bytes(std::span(result)));
    file.finish();
  }

  /// The same of files, which are not loaded.
  /// @throws FileError also if one of them cannot be read.
  static void train(std::span<const std::filesystem::path> files,
                    const std::filesystem::path& model, const TrainOptions& options) {
    std::vector<MappedFile> mapped;
    std::vector<std::string_view> texts;
    for (const std::filesystem::path& file : files) {
      mapped.emplace_back(file);
      texts.push_back(text_in(mapped.back()));
    }
    train(texts, model, options);
  }

  /// Reads a model.
  /// @throws FileError if the file cannot be read, or is no model.
  explicit SentencePieceTokeniser(const std::filesystem::path& model)
      : shared_(std::make_shared<const Shared>(model)) {}

  /// How many ids there are, all kinds included.
  [[nodiscard]] std::size_t vocabulary_size() const { return shared_->texts.size(); }
  /// Whether `text_of(ids_of(text))` is `text` for any bytes.
  [[nodiscard]] bool keeps_text() const { return shared_->keeps_text; }

  /// What stands for characters that the model does not know.
  [[nodiscard]] std::int32_t unknown_id() const { return shared_->processor.unk_id(); }
  /// What a program may put before a text, after it, and where a batch has none; nothing here does.
  [[nodiscard]] std::optional<std::int32_t> begin_id() const {
    return if_there(shared_->processor.bos_id());
  }
  [[nodiscard]] std::optional<std::int32_t> end_id() const {
    return if_there(shared_->processor.eos_id());
  }
  [[nodiscard]] std::optional<std::int32_t> padding_id() const {
    return if_there(shared_->processor.pad_id());
  }
  /// The id of `<mask>` or `[MASK]`.
  [[nodiscard]] std::optional<std::int32_t> mask_id() const { return shared_->mask_id; }

  /// The size of the vocabulary and the mask, for a `TokenIdCorpus`.
  [[nodiscard]] Vocabulary vocabulary() const { return {vocabulary_size(), mask_id()}; }

  /// The ids of a text. A model that keeps texts sees it line by line, so the ids of a text are
  /// those of its lines, one after another; lines of more than 4096 bytes are cut before a word,
  /// and those that have no word in so many bytes between two characters. Threads share the lines
  /// (`set_thread_count`). A model with subwords that go on after the end of a line or begin before
  /// a space, which `train` does not make, sees the text at once.
  /// @throws std::runtime_error with the words of SentencePiece if it fails.
  [[nodiscard]] std::vector<std::int32_t> ids_of(std::string_view text) const {
    std::vector<std::int32_t> ids;
    for_each_block(text, [&](const std::vector<std::int32_t>& block) {
      ids.insert(ids.end(), block.begin(), block.end());
    });
    return ids;
  }

  /// Writes the ids of files, each a text of its own, one after another into one file: `TokenFile`
  /// and `TokenIdCorpus` read it. Neither texts nor ids are kept in memory, unless the model sees
  /// each text at once.
  /// @throws FileError if a file cannot be read or written.
  /// @throws std::runtime_error as `ids_of`.
  void write_ids(std::span<const std::filesystem::path> files,
                 const std::filesystem::path& ids_file) const {
    TokenFileWriter writer(ids_file, vocabulary_size());
    for (const std::filesystem::path& path : files) {
      const MappedFile file(path);
      for_each_block(text_in(file),
                     [&](const std::vector<std::int32_t>& ids) { writer.append(ids); });
    }
    writer.finish();
  }

  /// The text of ids: that of each id, one after another, so a text may be put together id by id.
  /// `<s>`, `<mask>` and the like have none. A model that puts a space before each text gives it
  /// back, too.
  /// @throws DomainError if an id is not of the vocabulary.
  [[nodiscard]] std::string text_of(std::span<const std::int32_t> ids) const {
    std::string text;
    for (const std::int32_t id : ids) {
      require(id >= 0 && static_cast<std::size_t>(id) < vocabulary_size(),
              "SentencePieceTokeniser::text_of", "expected ids from 0 to ", vocabulary_size() - 1,
              ", got ", id);
      text += shared_->texts[static_cast<std::size_t>(id)];
    }
    return text;
  }

 private:
  static constexpr std::string_view train_name = "SentencePieceTokeniser::train";
  static constexpr std::size_t longest_message = 1000;
  static constexpr std::string_view space = "\xE2\x96\x81";  ///< U+2581, a space in subwords

  /// What copies share.
  struct Shared {
    explicit Shared(const std::filesystem::path& path) {
      const MappedFile file(path);
      const std::string_view model = text_in(file);
      // Beyond this the number of bytes is not one of protobuf's.
      if (model.size() > INT_MAX) throw FileError(path.string(), "is too large for a model");
      const auto status = processor.LoadFromSerializedProto(model);
      if (!status.ok()) {
        throw FileError(path.string(), "is no model of SentencePiece: " +
                                           printable(status.error_message(), longest_message));
      }
      const int size = processor.GetPieceSize();
      for (int id = 0; id < size; ++id) texts.push_back(text_of(id));
      for (std::size_t byte = 0; byte < byte_ids.size(); ++byte) {
        byte_ids[byte] = processor.PieceToId(byte_piece(byte));
        has_bytes = has_bytes && processor.IsByte(byte_ids[byte]);
      }
      keeps_text = has_bytes && detail::encodes_text_as_it_is(model);
      sees_lines = keeps_text && std::ranges::none_of(texts, detail::TextParts::may_cut);
      for (const std::string name : {"<mask>", "[MASK]"}) {
        const int id = processor.PieceToId(name);
        if (processor.IdToPiece(id) == name) mask_id = id;
      }
    }

    [[nodiscard]] static std::string byte_piece(std::size_t byte) {
      std::array<char, 8> text{};
      std::snprintf(text.data(), text.size(), "<0x%02X>", static_cast<unsigned>(byte));
      return text.data();
    }

    [[nodiscard]] std::string text_of(int id) const {
      if (processor.IsControl(id)) return {};
      std::string text = processor.IdToPiece(id);
      if (processor.IsUnknown(id)) {
        processor.Decode(std::vector{id}, &text).IgnoreError();
      } else if (processor.IsByte(id)) {
        text = std::string(1, static_cast<char>(std::stoi(text.substr(3, 2), nullptr, 16)));
      } else {
        for (std::size_t at = 0; (at = text.find(space, at)) != text.npos; ++at) {
          text.replace(at, space.size(), " ");
        }
      }
      return text;
    }

    sentencepiece::SentencePieceProcessor processor;
    std::vector<std::string> texts;  ///< of each id
    std::array<std::int32_t, 256> byte_ids{};
    std::optional<std::int32_t> mask_id;
    bool has_bytes = true;
    bool keeps_text = false;
    bool sees_lines = false;  ///< and no text at once
  };

  [[nodiscard]] static std::string_view text_in(const MappedFile& file) {
    return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
  }

  [[nodiscard]] static std::optional<std::int32_t> if_there(int id) {
    return id < 0 ? std::nullopt : std::optional<std::int32_t>(id);
  }

  /// Calls `take` with the ids of parts of a text, one vector after another. Threads share the
  /// work, and the ids do not depend on how many there are.
  template <class Take> void for_each_block(std::string_view text, const Take& take) const {
    if (!shared_->sees_lines) {
      std::vector<std::int32_t> all;
      append_ids_of_part(text, all);
      return take(all);
    }
    constexpr std::size_t parts_at_once = 64;  // that a thread encodes
    std::array<std::vector<std::int32_t>, 64> ids;
    std::vector<std::string_view> block;
    for (detail::TextParts parts(text); !parts.empty();) {
      block.clear();
      while (!parts.empty() && block.size() < ids.size() * parts_at_once) {
        block.push_back(parts.next());
      }
      parallel_ranges(block.size(), parts_at_once, [&](std::size_t begin, std::size_t end) {
        std::vector<std::int32_t>& to = ids.at(begin / parts_at_once);
        to.clear();
        for (std::size_t part = begin; part < end; ++part) append_ids_of_part(block[part], to);
      });
      for (std::size_t begin = 0; begin < block.size(); begin += parts_at_once) {
        take(ids.at(begin / parts_at_once));
      }
    }
  }

  /// What SentencePiece would not give back is spelt in bytes, if the model keeps texts.
  void append_ids_of_part(std::string_view part, std::vector<std::int32_t>& ids) const {
    if (!keeps_text()) return encode(part, ids);
    while (!part.empty()) {
      std::size_t plain = 0;
      std::size_t size = 0;
      while (plain < part.size()) {
        const std::string_view rest = part.substr(plain);
        size = unit_scaling::detail::utf8_size(rest);
        if (size == 0 || rest.starts_with(space)) break;
        plain += size;
      }
      encode(part.substr(0, plain), ids);
      part.remove_prefix(plain);
      if (part.empty()) return;
      const std::size_t spelt = size == 0 ? 1 : size;
      for (const char byte : part.substr(0, spelt)) {
        ids.push_back(shared_->byte_ids[static_cast<unsigned char>(byte)]);
      }
      part.remove_prefix(spelt);
    }
  }

  void encode(std::string_view text, std::vector<std::int32_t>& ids) const {
    std::vector<int> encoded;
    const auto status = shared_->processor.Encode(text, &encoded);
    if (!status.ok()) {
      throw std::runtime_error("SentencePieceTokeniser: " +
                               printable(status.error_message(), longest_message));
    }
    ids.insert(ids.end(), encoded.begin(), encoded.end());
  }

  std::shared_ptr<const Shared> shared_;
};

}  // namespace UNIT_SCALING_NAMESPACE::train

UNIT_SCALING_IEEE_END
