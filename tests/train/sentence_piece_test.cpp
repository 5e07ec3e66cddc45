// SPDX-License-Identifier: MIT
#include "unit_scaling/train/sentence_piece.hpp"

#include <gtest/gtest.h>
#include <sentencepiece_processor.h>
#include <sentencepiece_trainer.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <limits>
#include <locale>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "support/errors.hpp"
#include "support/temporary_folder.hpp"
#include "support/texts.hpp"
#include "unit_scaling/core/file_error.hpp"
#include "unit_scaling/core/parallel.hpp"
#include "unit_scaling/core/random.hpp"
#include "unit_scaling/train/causal_batch.hpp"
#include "unit_scaling/train/masked_batch.hpp"
#include "unit_scaling/train/subword_corpus.hpp"
#include "unit_scaling/train/token_file.hpp"

namespace sentence_piece_test {

namespace fs = std::filesystem;
using namespace unit_scaling;
using train::SentencePieceTokeniser;
using train::SubwordCorpus;
using unit_scaling_test::content;
using unit_scaling_test::expect_domain_error;
using unit_scaling_test::expect_error;

using Kind = SentencePieceTokeniser::Kind;
using Ids = std::vector<std::int32_t>;

/// Words of two parts, with empty lines, tabs and spaces that are not single.
std::string some_text() {
  const std::array<std::string, 8> parts{"the", "ma", "ster", "ship", "a", "sail", "ing", "said"};
  const std::array<std::string, 8> gaps{" ", " ", " ", " ", ", ", ".\n", "  ", "\n\n\t"};
  const Random random(1);
  std::string text;
  for (std::uint64_t i = 0; i < 4000; ++i) {
    text += parts[random.below(8, 3 * i)] + parts[random.below(8, 3 * i + 1)];
    text += gaps[random.below(8, 3 * i + 2)];
  }
  return text;
}

/// A folder of its own, with a model of each kind.
class SentencePiece : public testing::TestWithParam<Kind> {
 protected:
  fs::path train(std::string_view text, std::size_t vocabulary_size = 330,
                 std::string_view name = "subwords.model") {
    const fs::path model = path(name);
    SentencePieceTokeniser::train(std::array{text}, model,
                                  {.vocabulary_size = vocabulary_size, .kind = GetParam()});
    return model;
  }
  SentencePieceTokeniser tokeniser() { return SentencePieceTokeniser(train(some_text())); }

  fs::path write(std::string_view name, std::string_view bytes) {
    std::ofstream(path(name), std::ios::binary) << bytes;
    return path(name);
  }
  [[nodiscard]] fs::path path(std::string_view name) const { return folder_.path() / name; }

 private:
  unit_scaling_test::TemporaryFolder folder_;
};

INSTANTIATE_TEST_SUITE_P(OfKind, SentencePiece, testing::Values(Kind::unigram, Kind::bpe),
                         [](const auto& test) {
                           return test.param == Kind::bpe ? "bpe" : "unigram";
                         });

TEST_P(SentencePiece, KeepsEveryTextToTheByte) {
  const SentencePieceTokeniser subwords = tokeniser();
  EXPECT_TRUE(subwords.keeps_text());
  std::string long_line(10001, 'x');
  for (std::size_t i = 0; i < long_line.size(); i += 6) long_line[i] = ' ';
  std::string characters = "x";
  for (int i = 0; i < 5000; ++i) characters += "\xC3\xA9";  // é, without a space
  const std::array<std::string, 17> texts{
      "",
      "\n",
      " ",
      "the ship",
      "  two  spaces   at the end  ",
      "\n\n\ta\r\n\r\n",
      some_text(),
      "naïve Ünïcode – 日本語 🚀 ﬁ ① e\u0301 \u3000\u00A0\u200B",
      "<s> </s> <unk> <mask> <0x41>",
      "\xE2\x96\x81",
      "a \xE2\x96\x81 b\xE2\x96\x81",
      std::string("zero\0byte", 9),
      "\xFF\xFE not \xC0\x80 UTF-8 \xED\xA0\x80\xF4\x90\x80\x80",
      "cut \xE2\x96",
      "\uFFFD\uFEFF",
      long_line,
      characters};
  for (const std::string& text : texts) {
    EXPECT_EQ(subwords.text_of(subwords.ids_of(text)), text);
  }
  const Random random(2);
  for (std::uint64_t i = 0; i < 200; ++i) {
    std::string text;
    for (std::uint64_t k = 0; k < random.below(60, 100 * i); ++k) {
      text.push_back(static_cast<char>(random.word(100 * i + k + 1)));
    }
    ASSERT_EQ(subwords.text_of(subwords.ids_of(text)), text);
  }
}

// The library itself is the oracle, where it keeps a text: for UTF-8 without U+2581, line by line.
TEST_P(SentencePiece, HasTheIdsOfTheLibrary) {
  const fs::path model = train(some_text());
  const SentencePieceTokeniser subwords(model);
  sentencepiece::SentencePieceProcessor library;
  ASSERT_TRUE(library.Load(model.string()).ok());
  EXPECT_EQ(subwords.vocabulary_size(), static_cast<std::size_t>(library.GetPieceSize()));
  for (const std::string text : {"the master, a ship", "  said  ", "sailing\n", "naïve 日本語\t"}) {
    std::vector<int> ids;
    ASSERT_TRUE(library.Encode(text, &ids).ok());
    EXPECT_EQ(subwords.ids_of(text), ids);
    std::string decoded;
    ASSERT_TRUE(library.Decode(ids, &decoded).ok());
    EXPECT_EQ(subwords.text_of(ids), decoded);
  }
}

TEST_P(SentencePiece, MakesFewerIdsThanBytes) {
  const SentencePieceTokeniser subwords = tokeniser();
  const std::string text = some_text();
  EXPECT_LT(subwords.ids_of(text).size(), text.size() * 2 / 3);
}

TEST_P(SentencePiece, HasTheIdsOfATextLineByLineAndTheTextOfIdsOneByOne) {
  const SentencePieceTokeniser subwords = tokeniser();
  Ids ids = subwords.ids_of("the ship\n");
  const Ids second = subwords.ids_of("  and \xE2\x96\x81é\n");
  ids.insert(ids.end(), second.begin(), second.end());
  EXPECT_EQ(subwords.ids_of("the ship\n  and \xE2\x96\x81é\n"), ids);
  std::string text;
  for (const std::int32_t id : ids) text += subwords.text_of(std::array{id});
  EXPECT_EQ(text, "the ship\n  and \xE2\x96\x81é\n");
}

TEST_P(SentencePiece, HasTheSameIdsForAnyThreadCount) {
  const SentencePieceTokeniser subwords = tokeniser();
  std::string text;  // of more parts than threads take at once, several times
  for (int i = 0; i < 5; ++i) text += some_text();
  const Ids ids = subwords.ids_of(text);
  EXPECT_EQ(subwords.text_of(ids), text);
  set_thread_count(3);
  const Ids shared = subwords.ids_of(text);
  set_thread_count(1);
  EXPECT_EQ(shared, ids);
}

TEST_P(SentencePiece, BeginsWithTheSymbolsThatNoTextHas) {
  const SentencePieceTokeniser subwords = tokeniser();
  EXPECT_EQ(subwords.vocabulary_size(), 330U);
  EXPECT_EQ(subwords.unknown_id(), 0);
  EXPECT_EQ(subwords.begin_id(), 1);
  EXPECT_EQ(subwords.end_id(), 2);
  EXPECT_EQ(subwords.padding_id(), 3);
  EXPECT_EQ(subwords.mask_id(), 4);
  EXPECT_EQ(subwords.text_of(Ids{1, 2, 3, 4}), "");
  EXPECT_EQ(subwords.text_of(Ids{5, 5 + 'A', 5 + 255}), std::string("\0A\xFF", 3));
  for (const std::int32_t id : subwords.ids_of("<s></s><pad><mask><unk>")) EXPECT_GE(id, 5);
  for (const std::int32_t id : {-1, 330}) {
    expect_domain_error([&] { (void)subwords.text_of(Ids{id}); },
                        {"SentencePieceTokeniser::text_of", std::to_string(id)});
  }
}

TEST_P(SentencePiece, TrainsTheSameModelFromTheSameText) {
  const std::string text = some_text();
  const std::string model = content(train(text));
  EXPECT_EQ(content(train(text, 330, "again.model")), model);
  const std::array files{write("begin", text.substr(0, text.find('\n') + 1)),
                         write("end", text.substr(text.find('\n') + 1))};
  SentencePieceTokeniser::train(files, path("files.model"),
                                {.vocabulary_size = 330, .kind = GetParam()});
  EXPECT_EQ(content(path("files.model")), model);
}

// Of two kinds of lines in turn, every second one is of the first kind.
TEST_P(SentencePiece, TrainsOnEachNthLineOfATextThatIsTooLong) {
  std::string text;
  std::string first_lines;
  for (int i = 0; i < 300; ++i) {
    text += "aaab aaba abaa\nxyzz zyxx yzzx\n";
    first_lines += "aaab aaba abaa\n";
  }
  const std::array<std::string_view, 1> texts{text};
  SentencePieceTokeniser::train(
      texts, path("half.model"),
      {.vocabulary_size = 268, .kind = GetParam(), .most_bytes = text.size() / 2});
  const SentencePieceTokeniser half(path("half.model"));
  EXPECT_LT(half.ids_of("aaab").size(), 5U);
  EXPECT_EQ(half.ids_of("xyzz").size(), 4U);  // in bytes
  EXPECT_EQ(half.text_of(half.ids_of("xyzz")), "xyzz");
  EXPECT_GE(half.ids_of("xyzz")[0], 5);
  EXPECT_EQ(half.ids_of("x")[0], 5 + 'x');
}

TEST_P(SentencePiece, SaysNothingOnTheScreen) {
  testing::internal::CaptureStderr();
  testing::internal::CaptureStdout();
  const SentencePieceTokeniser subwords = tokeniser();
  (void)subwords.text_of(subwords.ids_of("the é\xFF"));
  expect_error<std::invalid_argument>([&] { train("a", 9000); }, {});
  expect_error<FileError>([&] { SentencePieceTokeniser(write("no", "model")); }, {});
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
  EXPECT_EQ(testing::internal::GetCapturedStdout(), "");
}

TEST_P(SentencePiece, RefusesToTrainWhatCannotBeTrained) {
  const fs::path model = path("subwords.model");
  const auto refuse = [&](std::string_view text, SentencePieceTokeniser::TrainOptions options,
                          std::string_view what) {
    options.kind = GetParam();
    expect_domain_error([&] { SentencePieceTokeniser::train(std::array{text}, model, options); },
                        {"SentencePieceTokeniser::train", what});
  };
  refuse("text", {.vocabulary_size = 261}, "vocabulary of 262 to 1000000 ids, got 261");
  refuse("text", {.vocabulary_size = 2000000000}, "got 2000000000");
  for (const double coverage : {0.97, 1.5, -1.0, std::numeric_limits<double>::quiet_NaN()}) {
    refuse("text", {.vocabulary_size = 270, .character_coverage = coverage}, "0.98 to 1, got");
  }
  refuse("text", {.vocabulary_size = 270, .most_bytes = 0}, "at least 1 byte");
  for (const std::string_view text : {std::string_view(), std::string_view("\0\t\0", 3)}) {
    refuse(text, {.vocabulary_size = 270}, "more than tabs and zero bytes");
  }
  expect_domain_error(
      [&] { SentencePieceTokeniser::train(std::span<const fs::path>(), model, {}); },
      {"more than tabs and zero bytes"});
  // In the words of the library.
  expect_error<std::invalid_argument>([&] { train("text", 8000); },
                                      {"SentencePieceTokeniser::train", "size too high (8000)"});
  expect_error<std::invalid_argument>([&] { train("abcdefghijk", 262); },
                                      {"Vocabulary size is smaller than required_chars"});
  expect_error<FileError>(
      [&] { SentencePieceTokeniser::train(std::array{path("not there")}, model, {}); },
      {"not there': there is no such file"});
  expect_error<FileError>([&] { train(some_text(), 330, "no/folder.model"); }, {"folder.model'"});
  EXPECT_FALSE(fs::exists(model));
}

// SentencePiece itself ends the process at these.
TEST_P(SentencePiece, TrainsOnTextsOfAlmostOneCharacter) {
  const auto times = [](int count, std::string_view part) {
    std::string text;
    for (int i = 0; i < count; ++i) text += part;
    return text;
  };
  for (const std::string& text :
       {times(50, "a"), times(50, "é"), times(50, "\uFFFD"), times(50, "\xFF"),
        times(50, "\xE2\x96\x81"), times(50, " "), times(50, "\r"), times(7, "éa"),
        times(22, " ") + times(21, "b"), times(9, "é") + times(9, "\xFF"),
        times(10, "a") + times(10, "b") + times(10, "c")}) {
    try {
      const SentencePieceTokeniser subwords(train(text, 264));
      EXPECT_EQ(subwords.text_of(subwords.ids_of(text)), text);
    } catch (const std::invalid_argument& error) {
      EXPECT_NE(std::string(error.what()).find("SentencePieceTokeniser::train: "),
                std::string::npos);
    }
  }
}

TEST_P(SentencePiece, TrainsTheSameModelWhateverTheGlobalLocale) {
  class DecimalComma final : public std::numpunct<char> {
    [[nodiscard]] char do_decimal_point() const override { return ','; }
    [[nodiscard]] char do_thousands_sep() const override { return '.'; }
    [[nodiscard]] std::string do_grouping() const override { return "\3"; }
  };
  const std::string model = content(train(some_text()));
  const std::locale before = std::locale::global(std::locale({}, new DecimalComma));
  EXPECT_NO_THROW(train(some_text(), 330, "comma.model"));
  std::locale::global(before);
  EXPECT_EQ(content(path("comma.model")), model);
}

TEST_P(SentencePiece, SaysThatAModelCannotBeWrittenBeforeItTrains) {
  // No model can be made of it, which only the training tells.
  expect_error<std::invalid_argument>([&] { train("text", 8000); }, {"size too high (8000)"});
  expect_error<FileError>([&] { train("text", 8000, "no/folder.model"); }, {"folder.model'"});
  write("there.model", "mine");
  expect_error<std::invalid_argument>([&] { train("text", 8000, "there.model"); }, {});
  EXPECT_EQ(content(path("there.model")), "mine");
}

TEST_P(SentencePiece, RefusesFilesThatAreNoModels) {
  const std::string model = content(train(some_text()));
  for (const std::size_t size :
       {std::size_t{0}, std::size_t{1}, model.size() / 2, model.size() - 1}) {
    expect_error<FileError>([&] { SentencePieceTokeniser(write("cut", model.substr(0, size))); },
                            {"cut': is no model of SentencePiece: "});
  }
  expect_error<FileError>([&] { SentencePieceTokeniser(path("not there")); }, {"no such file"});
  fs::resize_file(write("large", "model"), std::uintmax_t{1} << 40);
  expect_error<FileError>([&] { SentencePieceTokeniser(path("large")); }, {"too large"});
}

// As those of others: NFKC, a space in front, no spaces at the end, no bytes, no mask.
TEST_P(SentencePiece, GivesTheIdsOfTheLibraryForModelsOfOthers) {
  const std::string text = some_text();
  write("text", text);
  const std::unordered_map<std::string, std::string> settings{
      {"input", path("text").string()},
      {"model_prefix", path("other").string()},
      {"model_type", GetParam() == Kind::bpe ? "bpe" : "unigram"},
      {"vocab_size", "40"},
      {"minloglevel", "3"}};
  ASSERT_TRUE(sentencepiece::SentencePieceTrainer::Train(settings).ok());
  const SentencePieceTokeniser subwords(path("other.model"));
  EXPECT_FALSE(subwords.keeps_text());
  EXPECT_EQ(subwords.padding_id(), std::nullopt);
  EXPECT_EQ(subwords.mask_id(), std::nullopt);
  sentencepiece::SentencePieceProcessor library;
  ASSERT_TRUE(library.Load(path("other.model").string()).ok());
  for (const std::string& piece : {text, std::string("the  ﬁne\nship  "), std::string()}) {
    std::vector<int> ids;
    ASSERT_TRUE(library.Encode(piece, &ids).ok());
    EXPECT_EQ(subwords.ids_of(piece), ids);
  }
  EXPECT_EQ(subwords.text_of(subwords.ids_of("the  ship ")), " the ship");
  EXPECT_EQ(subwords.text_of(Ids{subwords.unknown_id()}), " \u2047 ");

  const std::array files{write("a", "the ship\n"), write("b", "said\n")};
  subwords.write_ids(files, path("ids.bin"));
  Ids ids = subwords.ids_of("the ship\n");
  for (const std::int32_t id : subwords.ids_of("said\n")) ids.push_back(id);
  const train::TokenFile file(path("ids.bin"), 40, train::TokenBytes::two);
  Ids written(file.size());
  file.read(0, written);
  EXPECT_EQ(written, ids);
}

// As those of Gemma, which has subwords of several line ends and of several spaces.
TEST_P(SentencePiece, GivesTheIdsOfTheLibraryWhereSubwordsGoOnAfterALine) {
  for (const std::string symbols : {"\n\n,\n\n\n", "y\xE2\x96\x81"}) {
    write("text", some_text());
    const std::unordered_map<std::string, std::string> settings{
        {"input", path("text").string()},
        {"model_prefix", path("other").string()},
        {"model_type", GetParam() == Kind::bpe ? "bpe" : "unigram"},
        {"vocab_size", "330"},
        {"byte_fallback", "true"},
        {"normalization_rule_name", "identity"},
        {"add_dummy_prefix", "false"},
        {"remove_extra_whitespaces", "false"},
        {"user_defined_symbols", symbols},
        {"minloglevel", "3"}};
    ASSERT_TRUE(sentencepiece::SentencePieceTrainer::Train(settings).ok());
    const SentencePieceTokeniser subwords(path("other.model"));
    EXPECT_TRUE(subwords.keeps_text());
    sentencepiece::SentencePieceProcessor library;
    ASSERT_TRUE(library.Load(path("other.model").string()).ok());
    std::string long_line;
    while (long_line.size() < 9000) long_line += "they say ";
    for (const std::string& text : {std::string("the ship\n\nsaid"),
                                    std::string("the\n\n\n\nship\n"), some_text(), long_line}) {
      std::vector<int> ids;
      ASSERT_TRUE(library.Encode(text, &ids).ok());
      EXPECT_EQ(subwords.ids_of(text), ids);
      EXPECT_EQ(subwords.text_of(ids), text);
      subwords.write_ids(std::array{write("one", text)}, path("ids.bin"));
      const train::TokenFile file(path("ids.bin"), 330, train::TokenBytes::two);
      Ids written(file.size());
      file.read(0, written);
      EXPECT_EQ(written, ids);
    }
    const std::string strange = "the\n\nship \xE2\x96\x81 \xFF\n\n";
    EXPECT_EQ(subwords.text_of(subwords.ids_of(strange)), strange);
  }
}

TEST_P(SentencePiece, MakesCorporaThatAreTheSameInMemoryAndInAFile) {
  const SentencePieceTokeniser subwords = tokeniser();
  const std::string text = some_text();
  const std::array files{write("text", text)};
  subwords.write_ids(files, path("ids.bin"));
  const SubwordCorpus loaded(subwords, text, 32);
  const SubwordCorpus mapped = SubwordCorpus::map_file(subwords, path("ids.bin"), 32);
  EXPECT_EQ(mapped.vocabulary_size(), 330U);
  EXPECT_EQ(mapped.mask_id(), 4);
  Ids ids(mapped.training().begin(), mapped.training().end());
  ids.insert(ids.end(), mapped.validation().begin(), mapped.validation().end());
  EXPECT_EQ(mapped.text_of(ids), text);
  EXPECT_EQ(mapped.ids_of(text), ids);
  EXPECT_EQ(train::CausalBatches(mapped, 32, 1).training(8, 3),
            train::CausalBatches(loaded, 32, 1).training(8, 3));
  const auto batch = train::MaskedBatches(mapped, 32, 1).training(8, 3);
  const auto other = train::MaskedBatches(loaded, 32, 1).training(8, 3);
  EXPECT_EQ(batch.ids, other.ids);
  EXPECT_EQ(batch.labels, other.labels);
  expect_error<std::invalid_argument>([&] { SubwordCorpus(subwords, "the ship", 32); },
                                      {"text too short", "at least 320"});
  expect_error<FileError>([&] { (void)SubwordCorpus::map_file(subwords, path("none"), 32); },
                          {"none': there is no such file"});
}

}  // namespace sentence_piece_test
