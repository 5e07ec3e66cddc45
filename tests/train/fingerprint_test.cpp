// SPDX-License-Identifier: MIT
#include "unit_scaling/train/fingerprint.hpp"

#include <gtest/gtest.h>

#include <limits>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

#include "support/errors.hpp"
#include "unit_scaling/train/token_id_corpus.hpp"

namespace fingerprint_test {

using unit_scaling::train::Fingerprint;
using unit_scaling::train::TokenIdCorpus;
using unit_scaling_test::expect_domain_error;
using unit_scaling_test::expect_error;

TEST(Fingerprint, WritesNumbersSoThatTheyAreToldFromEveryOther) {
  Fingerprint fingerprint;
  fingerprint.add("rate", 0.1)
      .add("as-float", 0.1F)
      .add("steps", 18446744073709551615U)
      .add("offset", -3)
      .add("least", std::numeric_limits<double>::denorm_min())
      .add("tied", true)
      .add("name", "fp8");
  EXPECT_EQ(fingerprint.to_string(),
            "rate=0.1 as-float=0.1 steps=18446744073709551615 offset=-3 least=5e-324 tied=true "
            "name=fp8");
  EXPECT_EQ(fingerprint.value("rate"), "0.1");
  EXPECT_EQ(fingerprint.value("width"), std::nullopt);
  EXPECT_FALSE(Fingerprint().add("rate", 0.1) == Fingerprint().add("rate", 0.1 + 0x1p-56));
}

TEST(Fingerprint, KeepsOfDataTheHashOfFnv1a) {
  // Of draft-eastlake-fnv, appendix C.
  EXPECT_EQ(Fingerprint().add_data("text", "").value("text"), "cbf29ce484222325");
  EXPECT_EQ(Fingerprint().add_data("text", "a").value("text"), "af63dc4c8601ec8c");
  EXPECT_EQ(Fingerprint().add_data("text", "foobar").value("text"), "85944171f73967e8");
  // Ids that are bytes, more than are read at once, have the hash of the bytes.
  std::string bytes;
  for (int i = 0; i < 50000; ++i) bytes += static_cast<char>('a' + i % 23 * (i % 23) % 25);
  const auto corpus_of = [](const std::string& text) {
    return TokenIdCorpus({text.begin(), text.end()}, {.size = 256}, /*shortest=*/0);
  };
  EXPECT_EQ(Fingerprint().add_data("ids", corpus_of(bytes)).value("ids"),
            Fingerprint().add_data("text", bytes).value("text"));
  std::swap(bytes.front(), bytes.back());
  EXPECT_NE(Fingerprint().add_data("ids", corpus_of(bytes + "b")).value("ids"),
            Fingerprint().add_data("ids", corpus_of(bytes)).value("ids"));
}

TEST(Fingerprint, IsParsedToWhatItWasWhateverBytesItHas) {
  std::string all;
  for (int byte = 0; byte < 256; ++byte) all += static_cast<char>(byte);
  Fingerprint fingerprint;
  fingerprint.add(all, all).add("empty", "").add("equals", "a=b").add("percent", "%20");
  const std::string text = fingerprint.to_string();
  for (const char each : text) EXPECT_TRUE(each >= ' ' && each < 0x7f);
  const Fingerprint parsed = Fingerprint::parse(text);
  EXPECT_TRUE(parsed == fingerprint);
  EXPECT_EQ(parsed.value(all), all);
  EXPECT_EQ(parsed.value("equals"), "a=b");
  EXPECT_EQ(parsed.value("percent"), "%20");
  EXPECT_TRUE(Fingerprint::parse("") == Fingerprint());
}

TEST(Fingerprint, RefusesTextsThatItDoesNotWrite) {
  for (const std::string_view text :
       {" ", "a", "=b", "a=b ", " a=b", "a=b  c=d", "a=b a=c", "a=\n", "a=\xff", "a=%", "a=%2",
        "a=%4", "a=%41", "a=%2G", "a=%0A", "%41=b", "a=%-1"}) {
    expect_error<std::invalid_argument>([&] { (void)Fingerprint::parse(text); },
                                        {"Fingerprint", "key=value"});
  }
}

TEST(Fingerprint, RefusesAKeyThatIsEmptyOrThereAlready) {
  Fingerprint fingerprint;
  expect_domain_error([&] { fingerprint.add("", 1); }, {"Fingerprint", "key"});
  fingerprint.add("a", 1);
  expect_domain_error([&] { fingerprint.add("a", 1); }, {"Fingerprint", "'a' twice"});
  EXPECT_EQ(fingerprint.to_string(), "a=1");
}

TEST(Fingerprint, NamesEachKeyThatDiffersWithBothValues) {
  Fingerprint there;
  there.add("steps", 12)
      .add("rate", 0.5)
      .add("seed", 1)
      .add("old", "yes")
      .add("note", "")
      .add_data("text", "a");
  Fingerprint here;
  here.add_data("text", "b").add("seed", 1).add("rate", 0.25).add("steps", 40).add("note", "x");
  const std::string want =
      "note is empty there and x here, old is yes there and not set here, rate is 0.5 there and "
      "0.25 here, steps is 12 there and "
      "40 here, the text is another";
  EXPECT_EQ(Fingerprint::difference(there, here), want);
  // What a file says of data is known by the key of who reads it.
  EXPECT_EQ(Fingerprint::difference(Fingerprint::parse(there.to_string()), here), want);
  EXPECT_FALSE(there == here);
  EXPECT_EQ(Fingerprint::difference(there, there), "");
}

TEST(Fingerprint, ShowsWhereLongValuesDiffer) {
  const std::string same(199, 'x');
  const auto difference = [&](const std::string& there, const std::string& here) {
    return Fingerprint::difference(Fingerprint().add("prompt", same + there),
                                   Fingerprint().add("prompt", same + here));
  };
  EXPECT_EQ(difference("a", "b"), "prompt is …a there and …b here, after 199 equal bytes");
  EXPECT_EQ(difference("é!", "è!"), "prompt is …é! there and …è! here, after 199 equal bytes");
  EXPECT_EQ(Fingerprint::difference(Fingerprint().add("a", "not set").add("b", "empty"),
                                    Fingerprint().add("b", "")),
            "a is not set there and not set here, b is empty there and empty here");
  // Their sizes tell them apart.
  const std::string size = "… (200 bytes) there";
  EXPECT_NE(difference("a", "").find(size), std::string::npos);
}

TEST(Fingerprint, IsTheSameInAnyOrder) {
  const Fingerprint a = Fingerprint().add("seed", 1).add("rate", 2);
  const Fingerprint b = Fingerprint().add("rate", 2).add("seed", 1);
  EXPECT_TRUE(a == b);
  EXPECT_EQ(Fingerprint::difference(a, b), "");
}

TEST(Fingerprint, NamesOnlyTheFirstOfManyDifferencesOnOneLine) {
  Fingerprint there;
  for (int i = 0; i < 10000; ++i) there.add("k\n" + std::to_string(i), std::string(500, 'v'));
  const std::string text = Fingerprint::difference(there, {});
  EXPECT_LT(text.size(), 1500U);
  EXPECT_EQ(text.find('\n'), std::string::npos);
  EXPECT_TRUE(text.ends_with(", and more")) << text;
}

}  // namespace fingerprint_test
