// SPDX-License-Identifier: MIT
#include "unit_scaling/train/weight_names.hpp"

#include <gtest/gtest.h>

#include <cstddef>
#include <limits>
#include <string>
#include <vector>

#include "support/errors.hpp"

namespace weight_names_test {

using namespace unit_scaling;
using namespace unit_scaling_test;
using train::StoredAs;
using train::WeightEntry;
using train::WeightNames;

/// Entries for these parameters as text: "parameter = array share + array share".
std::vector<std::string> texts_of(const WeightNames& names,
                                  const std::vector<std::string>& parameters) {
  std::vector<std::string> result;
  for (const WeightEntry& entry : names.entries_of(parameters)) {
    std::string text = entry.parameter;
    const char* separator = " = ";
    for (const train::StoredArray& array : entry.arrays) {
      text += separator + array.name + " " + std::to_string(array.share);
      separator = " + ";
    }
    if (entry.stored_as == StoredAs::transposed) text += ", transposed";
    result.push_back(text);
  }
  return result;
}

using Texts = std::vector<std::string>;

TEST(WeightNames, AreThoseOfTheParametersWhereThereIsNoTable) {
  EXPECT_EQ(texts_of({}, {"b", "layers.{}.a", ""}),
            (Texts{"b = b 1", "layers.{}.a = layers.{}.a 1", " =  1"}));
  EXPECT_EQ(texts_of({}, {}), Texts{});
}

TEST(WeightNames, TakeNumbersOverInTheirOrder) {
  const WeightNames names{{"embedding", {"wte"}},
                          {"layers.{}.w", {{"h.{}.q", 4}, {"h.{}.k", 2}}, StoredAs::transposed},
                          {"blocks.{}.experts.{}.w", {"b.{}.{}.w"}}};
  EXPECT_EQ(texts_of(names, {"layers.10.w", "blocks.3.experts.007.w", "embedding", "layers.0.w"}),
            (Texts{"layers.10.w = h.10.q 4 + h.10.k 2, transposed",
                   "blocks.3.experts.007.w = b.3.007.w 1", "embedding = wte 1",
                   "layers.0.w = h.0.q 4 + h.0.k 2, transposed"}));
}

TEST(WeightNames, TakeAllDigitsOfANumber) {
  const WeightNames names{{"h{}1", {"a{}"}}};
  unit_scaling_test::expect_domain_error(
      [&] { (void)names.entries_of(std::vector<std::string>{"h11"}); },
      {"expected an entry for 'h11', got none"});
}

TEST(WeightNames, NeedOneEntryForEachParameter) {
  const WeightNames names{{"layers.{}.w", {"h.{}.w"}}};
  // Neither nothing, nor a sign, nor other letters are a number; and nothing may be left over.
  for (const std::string other :
       {"layers..w", "layers.-1.w", "layers.a.w", "layers.1.wb", "layers.1", "xlayers.1.w", ""}) {
    expect_domain_error(
        [&] {
          (void)names.entries_of(Texts{"layers.1.w", other});
        },
        {"WeightNames: expected an entry for '" + other + "', got none"});
  }
  const WeightNames doubled{{"layers.{}.w", {"h.{}.w"}}, {"layers.0.w", {"first"}}};
  expect_domain_error(
      [&] { (void)doubled.entries_of(Texts{"layers.0.w"}); },
      {"WeightNames: expected one entry for 'layers.0.w', got 'layers.{}.w' and 'layers.0.w'"});
}

TEST(WeightNames, NeedAParameterForEachEntry) {
  const WeightNames names{{"w", {"w"}}, {"layers.{}.w", {"h.{}.w"}}};
  const std::string text =
      "WeightNames: expected entries of the model's parameters, got one for 'layers.{}.w'";
  expect_domain_error([&] { (void)names.entries_of(Texts{"w"}); }, {text});
  expect_domain_error([&] { (void)names.entries_of(Texts{"w", "layers.w"}); }, {"'layers.w'"});
}

TEST(WeightNames, RefuseEntriesThatCannotBe) {
  expect_domain_error(
      [] {
        (void)WeightNames{{"w", {}}};
      },
      {"WeightNames: expected at least one array for 'w'"});
  expect_domain_error(
      [] {
        (void)WeightNames{{"w", {{"a", 1}, {"b", 0}}}};
      },
      {"WeightNames: expected a share of at least 1 for 'b' of 'w', got 0"});
  expect_domain_error(
      [] {
        (void)WeightNames{{"layers.{}.w", {"h.{}.w", "w"}}};
      },
      {"WeightNames: expected as many {} in 'w' as in 'layers.{}.w'"});
  expect_domain_error([] { (void)WeightNames{{"w", {"h.{}.w"}}}; }, {"'h.{}.w' as in 'w'"});
  constexpr std::size_t most = std::numeric_limits<std::size_t>::max();
  expect_shape_error([] { (void)WeightNames{{"w", {{"a", most}, {"b", 1}}}}; }, {"WeightNames"});
}

TEST(WeightNames, AreShownOnOneLineInErrors) {
  const WeightNames names{{"w", {"w"}}};
  expect_domain_error([&] { (void)names.entries_of(Texts{"a\nb"}); }, {R"('a\nb')"});
}

TEST(WeightNames, AreMadeOfEntriesOfOthers) {
  std::vector<WeightEntry> entries = WeightNames{{"w", {"a"}}}.entries();
  entries.push_back({"b", {"c"}});
  EXPECT_EQ(texts_of(WeightNames(entries), {"b", "w"}), (Texts{"b = c 1", "w = a 1"}));
}

}  // namespace weight_names_test
