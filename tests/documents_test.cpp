// SPDX-License-Identifier: MIT
// Keeps the documents true where a program can tell: their links, the files that they name, and
// what the README promises to be, one short page that leads to all others.
#include <gtest/gtest.h>

#include <algorithm>
#include <cctype>
#include <cstddef>
#include <filesystem>
#include <iterator>
#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "support/texts.hpp"

namespace documents_test {

namespace fs = std::filesystem;
using unit_scaling_test::content;

const fs::path source_folder = UNIT_SCALING_SOURCE_DIR;

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

/// Paths from the root, with '/'.
std::vector<std::string> documents() {
  std::vector<std::string> found{"README.md", "CONTRIBUTING.md", "CHANGELOG.md"};
  for (const auto& entry : fs::directory_iterator(source_folder / "docs")) {
    if (entry.path().extension() == ".md") {
      found.push_back("docs/" + entry.path().filename().string());
    }
  }
  std::sort(found.begin(), found.end());
  return found;
}

/// A document without its blocks of code, which have links and headings of their own kind.
std::string prose(const std::string& document) {
  std::string text;
  bool in_code = false;
  for (const std::string& line : lines_of(document)) {
    if (line.starts_with("```")) {
      in_code = !in_code;
    } else if (!in_code) {
      text += line + "\n";
    }
  }
  return text;
}

/// What `expression` captures first, everywhere in `text`.
std::vector<std::string> matches(const std::string& text, const std::regex& expression) {
  std::vector<std::string> found;
  for (std::sregex_iterator match(text.begin(), text.end(), expression), end; match != end;
       ++match) {
    found.push_back(match->str(1));
  }
  return found;
}

std::vector<std::string> code_spans(const std::string& document) {
  static const std::regex span("`([^`\n]+)`");
  return matches(prose(document), span);
}

/// The targets of Markdown's links and pictures, and of <img> and <a>.
std::vector<std::string> links(const std::string& document) {
  static const std::regex markdown(R"(\]\(([^)\s]+)\))");
  static const std::regex html(R"re((?:src|href)="([^"]+)")re");
  const std::string text = prose(document);
  std::vector<std::string> found = matches(text, markdown);
  std::ranges::copy(matches(text, html), std::back_inserter(found));
  return found;
}

/// The anchor that GitHub gives a heading: lower case, '-' for a space, punctuation dropped.
std::string anchor(std::string_view heading) {
  std::string result;
  for (const char c : heading) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == ' ') {
      result += '-';
    } else if (std::isalnum(byte) != 0 || c == '-' || c == '_' || byte >= 0x80) {
      result += static_cast<char>(std::tolower(byte));
    }
  }
  return result;
}

std::set<std::string> anchors(const std::string& document) {
  static const std::regex heading("(?:^|\n)#+ ([^\n]+)");
  std::set<std::string> found;
  for (const std::string& text : matches(prose(document), heading)) found.insert(anchor(text));
  return found;
}

/// One line for each link of the document at `path` that leads nowhere.
std::string broken_links(const std::string& path, const std::string& document) {
  std::string broken;
  for (const std::string& link : links(document)) {
    if (link.find("://") != std::string::npos) continue;
    const std::size_t hash = std::min(link.find('#'), link.size());
    const fs::path file = hash == 0 ? source_folder / path
                                    : (source_folder / path).parent_path() / link.substr(0, hash);
    const std::string target = hash == 0 ? document : content(file);
    if (!fs::exists(file)) {
      broken += path + ": " + link + ": no such file\n";
    } else if (hash < link.size() && !anchors(target).contains(link.substr(hash + 1))) {
      broken += path + ": " + link + ": no such heading\n";
    }
  }
  return broken;
}

/// One line for each code span that is the path of a file, and of none that exists. A path begins
/// with a folder of the project, or with a layer of include/unit_scaling/.
std::string missing_files(const std::string& path, const std::string& document) {
  static const std::regex file(
      R"((?:include|tests|docs|benchmarks|examples)/[\w/.-]+\.\w+|\w+/[\w/]+\.hpp)");
  std::string missing;
  for (const std::string& span : code_spans(document)) {
    if (!std::regex_match(span, file)) continue;
    // Two headers are written by CMake, into the build.
    if (span == "unit_scaling/unit_scaling.hpp" || span == "unit_scaling/analysis.hpp") continue;
    if (!fs::exists(source_folder / span) && !fs::exists(source_folder / "include" / span) &&
        !fs::exists(source_folder / "include/unit_scaling" / span)) {
      missing += path + ": " + span + "\n";
    }
  }
  return missing;
}

/// The headers that a table names in the first cell of its rows: `layer/file.hpp`, `other.hpp` of
/// the same layer, with `*` for any part of a name.
std::vector<std::string> headers_named(const std::string& document) {
  std::vector<std::string> patterns;
  for (const std::string& line : lines_of(document)) {
    if (!line.starts_with("| `")) continue;
    std::string layer;
    for (const std::string& span : code_spans(line.substr(0, line.find('|', 1)))) {
      const std::size_t slash = span.find('/');
      if (slash != std::string::npos) layer = span.substr(0, slash);
      const bool is_of_layer = slash == std::string::npos && !layer.empty();
      patterns.push_back(is_of_layer ? layer + "/" + span : span);
    }
  }
  return patterns;
}

bool matches_pattern(std::string_view name, std::string_view pattern) {
  const std::size_t star = pattern.find('*');
  if (star == std::string_view::npos) return name == pattern;
  const std::string_view front = pattern.substr(0, star);
  const std::string_view back = pattern.substr(star + 1);
  return name.size() >= front.size() + back.size() && name.starts_with(front) &&
         name.ends_with(back);
}

TEST(Documents, HaveLinksThatLeadToAFileAndAHeading) {
  for (const std::string& path : documents()) {
    EXPECT_EQ(broken_links(path, content(source_folder / path)), "");
  }
}

TEST(Documents, NameFilesThatExist) {
  for (const std::string& path : documents()) {
    if (path == "CHANGELOG.md") continue;  // tells of what was
    EXPECT_EQ(missing_files(path, content(source_folder / path)), "");
  }
}

TEST(ArchitectureDocument, NamesEveryHeaderOnce) {
  const auto patterns = headers_named(content(source_folder / "docs/architecture.md"));
  const std::set<std::string> distinct(patterns.begin(), patterns.end());
  EXPECT_EQ(distinct.size(), patterns.size()) << "a header has two rows";

  const fs::path include = source_folder / "include/unit_scaling";
  for (const auto& entry : fs::recursive_directory_iterator(include)) {
    if (!entry.is_regular_file()) continue;
    const std::string header = fs::relative(entry.path(), include).generic_string();
    EXPECT_TRUE(std::ranges::any_of(
        patterns, [&](const std::string& pattern) { return matches_pattern(header, pattern); }))
        << header << " has no row in docs/architecture.md";
  }
}

TEST(Readme, LeadsToEveryDocument) {
  const auto targets = links(content(source_folder / "README.md"));
  for (const std::string& path : documents()) {
    if (path == "README.md") continue;
    EXPECT_TRUE(std::ranges::any_of(targets, [&](const std::string& link) {
      return link == path || link.starts_with(path + "#");
    })) << path;
  }
}

TEST(Readme, IsAtMostNineHundredWordsWithOnePictureAndOneTable) {
  const std::string readme = content(source_folder / "README.md");
  std::istringstream words(readme);
  EXPECT_LE(std::distance(std::istream_iterator<std::string>(words), {}), 900);

  static const std::regex picture(R"((!\[|<img ))");
  static const std::regex table(R"((\n\|[-|: ]+\|\n))");
  EXPECT_EQ(matches(prose(readme), picture).size(), 1U);
  EXPECT_EQ(matches(prose(readme), table).size(), 1U);
}

// From here on: the checks themselves can fail.

TEST(DocumentsCheck, SeesLinksThatLeadNowhere) {
  EXPECT_EQ(broken_links("docs/a.md", "[x](b.md) and ![y](images/none.svg)"),
            "docs/a.md: b.md: no such file\ndocs/a.md: images/none.svg: no such file\n");
  EXPECT_EQ(broken_links("README.md", "<img src=\"docs/none.svg\" width=\"9\">"),
            "README.md: docs/none.svg: no such file\n");
  EXPECT_EQ(broken_links("README.md", "# A title\n[x](#a-title) [y](#another)"),
            "README.md: #another: no such heading\n");
  EXPECT_EQ(broken_links("CHANGELOG.md", "[x](README.md#none)"),
            "CHANGELOG.md: README.md#none: no such heading\n");
  EXPECT_EQ(broken_links("README.md", "[x](https://example.org/none)\n```\n[y](none.md)\n```\n"),
            "");
}

TEST(DocumentsCheck, MakesTheAnchorsOfGitHub) {
  EXPECT_EQ(anchor("Why is 449 → 448 here and NaN there?"), "why-is-449-→-448-here-and-nan-there");
  EXPECT_EQ(anchor("How `ops::gelu(x)` flows"), "how-opsgelux-flows");
}

TEST(DocumentsCheck, SeesFilesThatAreNamedAndMissing) {
  EXPECT_EQ(missing_files("a.md", "`core/none.hpp` `tests/none_test.cpp` `core/array.hpp`"),
            "a.md: core/none.hpp\na.md: tests/none_test.cpp\n");
  EXPECT_EQ(missing_files("a.md", "`optim/*.hpp`, `x / y` and `none.hpp`"), "");
}

TEST(DocumentsCheck, ReadsTheHeadersOfATable) {
  EXPECT_EQ(headers_named("| `core/a.hpp`, `b.hpp` | what `c.hpp` is |\n| `ops/*.hpp` | ops |\n"),
            (std::vector<std::string>{"core/a.hpp", "core/b.hpp", "ops/*.hpp"}));
  EXPECT_TRUE(matches_pattern("nn/transformer_layer.hpp", "nn/transformer_*.hpp"));
  EXPECT_FALSE(matches_pattern("nn/bert.hpp", "nn/transformer_*.hpp"));
}

}  // namespace documents_test
