// SPDX-License-Identifier: MIT
#include "unit_scaling/analysis/scale_rules.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <regex>
#include <set>
#include <string>

#include "support/texts.hpp"

namespace scale_rules_test {

using namespace unit_scaling;

const std::filesystem::path source_folder = UNIT_SCALING_SOURCE_DIR;

TEST(ScaleRules, TheTableHasEveryOpOfTheLibrary) {
  std::set<std::string> listed;
  for (const auto& row : analysis::scale_rules()) listed.insert(std::string(row.op));
  std::set<std::string> existing;
  const std::regex object("inline constexpr Apply<[A-Za-z0-9]+> ([a-z0-9_]+)\\{\\};");
  for (const auto& entry :
       std::filesystem::directory_iterator(source_folder / "include/unit_scaling/ops")) {
    const std::string text = unit_scaling_test::content(entry.path());
    for (auto it = std::sregex_iterator(text.begin(), text.end(), object);
         it != std::sregex_iterator(); ++it) {
      existing.insert((*it)[1]);
    }
  }
  EXPECT_GT(existing.size(), 20U);
  EXPECT_EQ(listed, existing);
}

TEST(ScaleRules, FactorsAreFiniteAndRuleNoneScalesNothingButTheMeanOfALoss) {
  for (const auto& row : analysis::scale_rules()) {
    for (const Scaling& scaling : {scaling::paper, scaling::umup}) {
      for (const double factor : row.factors(scaling)) {
        EXPECT_TRUE(std::isfinite(factor) && factor > 0) << row.op;
      }
    }
    if (row.op.ends_with("_loss") || row.op == "cross_entropy" || row.op.starts_with("scale_")) {
      continue;
    }
    for (const double factor : row.factors(scaling::none)) EXPECT_EQ(factor, 1) << row.op;
  }
}

// Written with UNIT_SCALING_WRITE_DOCUMENTS=1 in the environment, compared without.
TEST(ScaleRules, TheDocumentHasTheTableThatFollowsFromTheCode) {
  const std::filesystem::path path = source_folder / "docs/scale_rules.md";
  std::string document = unit_scaling_test::content(path);
  const std::string begin = "<!-- begin of the tables -->\n";
  const std::size_t from = document.find(begin);
  const std::size_t to = document.find("<!-- end of the tables -->\n");
  ASSERT_NE(from, std::string::npos);
  ASSERT_NE(to, std::string::npos);
  const std::size_t first = from + begin.size();
  const std::string expected = "\n" + analysis::scale_rules_markdown() + "\n";
  if (std::getenv("UNIT_SCALING_WRITE_DOCUMENTS") != nullptr) {
    document.replace(first, to - first, expected);
    std::ofstream(path.string() + ".new") << document;
    ASSERT_EQ(std::rename((path.string() + ".new").c_str(), path.c_str()), 0);
    return;
  }
  EXPECT_EQ(document.substr(first, to - first), expected);
}

}  // namespace scale_rules_test
