// SPDX-License-Identifier: MIT
// Keeps include/ in its layers: a header includes its own layer and lower ones only.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>
#include <regex>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

namespace layering_test {

constexpr std::array<std::string_view, 12> layers{"core",  "formats",  "scaling",     "kernels",
                                                  "ops",   "autograd", "recipes",     "nn",
                                                  "optim", "train",    "distributed", "analysis"};

std::optional<std::ptrdiff_t> rank_of(std::string_view layer) {
  const auto* found = std::find(layers.begin(), layers.end(), layer);
  return found == layers.end() ? std::nullopt : std::optional{found - layers.begin()};
}

/// `file` is relative to include/, such as "unit_scaling/ops/gelu.hpp". Returns one message for
/// each broken rule, empty if the header keeps them all.
std::vector<std::string> violations(const std::string& file, const std::string& text) {
  std::vector<std::string> found;
  const auto complain = [&](std::size_t line, const std::string& what) {
    found.push_back("include/" + file + ":" + std::to_string(line) + ": " + what);
  };

  static const std::regex own_path(R"(unit_scaling/(\w+)/.+)");
  static const std::regex include_line(R"(\s*#\s*include\s*([<"])([^>"]+)[>"].*)");
  std::smatch match;
  std::optional<std::ptrdiff_t> own_rank;
  std::string own_layer;
  if (std::regex_match(file, match, own_path)) {
    own_layer = match.str(1);
    own_rank = rank_of(own_layer);
  }
  // What is to be compiled of all layers stands above them.
  const bool is_list_of_all = file == "unit_scaling/compiled.hpp";
  if (is_list_of_all) own_rank = std::ssize(layers);
  if (!own_rank) {
    complain(1, "stands in no layer");
    return found;
  }

  // Their arithmetic keeps to IEEE 754 whatever the compiler's options say; see core/target.hpp.
  const bool is_arithmetic = own_layer != "core" && !is_list_of_all;
  bool keeps_to_ieee = false;
  bool has_pragma_once = false;
  std::istringstream lines(text);
  std::string line;
  for (std::size_t number = 1; std::getline(lines, line); ++number) {
    if (number == 1 && !line.starts_with("// SPDX-License-Identifier: ")) {
      complain(1, "the first line is not the SPDX licence line");
    }
    has_pragma_once = has_pragma_once || line == "#pragma once";
    // clang-format indents function bodies but not namespaces, so column 0 is namespace scope.
    if (line.starts_with("using namespace ")) complain(number, "'" + line + "' in a header");
    if (line == "UNIT_SCALING_IEEE_BEGIN") keeps_to_ieee = true;
    if (line == "UNIT_SCALING_IEEE_END") keeps_to_ieee = false;
    if (is_arithmetic && !keeps_to_ieee &&
        (line.starts_with("namespace ") || line.starts_with("}  // namespace "))) {
      complain(number, "a namespace outside of UNIT_SCALING_IEEE_BEGIN and UNIT_SCALING_IEEE_END");
    }

    if (!std::regex_match(line, match, include_line)) continue;
    const bool quoted = match.str(1) == "\"";
    const std::string included = match.str(2);
    const std::string shown = "includes \"" + included + "\"";
    if (included.starts_with("unit_scaling/")) {
      std::smatch other;
      const auto rank =
          std::regex_match(included, other, own_path) ? rank_of(other.str(1)) : std::nullopt;
      if (is_list_of_all && included == "unit_scaling/unit_scaling.hpp") continue;
      if (!rank) {
        complain(number, shown + ", which stands in no layer");
      } else if (*rank > *own_rank) {
        complain(number, own_layer + "/ " + shown + " of the higher layer " + other.str(1) + "/");
      }
      if (own_layer == "scaling" && included == "unit_scaling/core/array.hpp") {
        complain(number, "scaling/ " + shown + ", but touches no array");
      }
    } else if (quoted) {
      complain(number, shown + ": spell our headers \"unit_scaling/<layer>/<name>.hpp\"");
    }
    const bool is_eigen =
        included.starts_with("Eigen/") || included == "unit_scaling/core/eigen.hpp";
    if (own_layer == "formats" && is_eigen && !file.ends_with("/eigen_traits.hpp")) {
      complain(number, "formats/ " + shown + " outside eigen_traits.hpp");
    }
  }
  if (!has_pragma_once) complain(1, "has no #pragma once");
  return found;
}

std::string join(const std::vector<std::string>& messages) {
  std::string all;
  for (const auto& message : messages) all += message + "\n";
  return all;
}

TEST(Layering, EveryHeaderKeepsTheRules) {
  const std::filesystem::path include = std::filesystem::path(UNIT_SCALING_SOURCE_DIR) / "include";
  std::size_t headers = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(include)) {
    if (!entry.is_regular_file()) continue;
    ++headers;
    std::ifstream stream(entry.path());
    std::stringstream text;
    text << stream.rdbuf();
    const auto file = std::filesystem::relative(entry.path(), include).generic_string();
    const auto found = violations(file, text.str());
    EXPECT_TRUE(found.empty()) << join(found);
  }
  EXPECT_GT(headers, 0U) << "no header under " << include;
}

// From here on: the check itself can fail. Each test plants one violation in a good header.

std::string header_with(const std::string& line) {
  return "// SPDX-License-Identifier: MIT\n#pragma once\n" + line + "\n";
}

TEST(LayeringCheck, AcceptsOwnAndLowerLayers) {
  EXPECT_EQ(join(violations("unit_scaling/ops/gelu.hpp",
                            header_with("#include <cmath>\n"
                                        "#include \"unit_scaling/ops/op.hpp\"\n"
                                        "#include \"unit_scaling/core/array.hpp\""))),
            "");
}

TEST(LayeringCheck, NamesFileLineAndIncludeOfAHigherLayer) {
  EXPECT_EQ(join(violations("unit_scaling/ops/gelu.hpp",
                            header_with("#include \"unit_scaling/autograd/tape.hpp\""))),
            "include/unit_scaling/ops/gelu.hpp:3: ops/ includes "
            "\"unit_scaling/autograd/tape.hpp\" of the higher layer autograd/\n");
}

TEST(LayeringCheck, SeesAngleBracketsAndSpaces) {
  EXPECT_EQ(violations("unit_scaling/core/shape.hpp",
                       header_with("#  include <unit_scaling/formats/minifloat.hpp>"))
                .size(),
            1U);
}

TEST(LayeringCheck, RefusesTheUmbrellaAndRelativePaths) {
  for (const std::string include :
       {"unit_scaling/unit_scaling.hpp", "unit_scaling/analysis.hpp", "../core/array.hpp"}) {
    EXPECT_EQ(violations("unit_scaling/nn/linear.hpp", header_with("#include \"" + include + "\""))
                  .size(),
              1U)
        << include;
  }
}

TEST(LayeringCheck, RefusesAHeaderInNoLayer) {
  EXPECT_EQ(violations("unit_scaling/misc/thing.hpp", header_with("")).size(), 1U);
  EXPECT_EQ(violations("unit_scaling/thing.hpp", header_with("")).size(), 1U);
}

TEST(LayeringCheck, AllowsEigenInFormatsOnlyInItsAdapter) {
  const std::string text = header_with("#include <Eigen/Core>");
  EXPECT_EQ(violations("unit_scaling/formats/minifloat.hpp", text).size(), 1U);
  EXPECT_EQ(violations("unit_scaling/formats/eigen_traits.hpp", text).size(), 0U);
}

TEST(LayeringCheck, KeepsArraysOutOfScaling) {
  const std::string text = header_with("#include \"unit_scaling/core/array.hpp\"");
  EXPECT_EQ(violations("unit_scaling/scaling/moments.hpp", text).size(), 1U);
}

TEST(LayeringCheck, AsksThatArithmeticKeepsToIeee) {
  const std::string code = "namespace a {\n}  // namespace a\n";
  const std::string kept = "UNIT_SCALING_IEEE_BEGIN\n" + code + "UNIT_SCALING_IEEE_END\n";
  for (const char* layer : {"formats", "scaling", "kernels", "ops", "autograd", "recipes", "nn",
                            "optim", "train", "analysis"}) {
    const std::string file = "unit_scaling/" + std::string(layer) + "/thing.hpp";
    EXPECT_EQ(violations(file, header_with(code)).size(), 2U) << layer;
    EXPECT_EQ(violations(file, header_with(kept)).size(), 0U) << layer;
    EXPECT_EQ(violations(file, header_with(kept + code)).size(), 2U) << layer;
  }
  EXPECT_EQ(violations("unit_scaling/core/thing.hpp", header_with(code)).size(), 0U);
}

TEST(LayeringCheck, AsksForLicencePragmaAndNoUsingNamespace) {
  const std::string file = "unit_scaling/core/shape.hpp";
  EXPECT_EQ(violations(file, "#pragma once\n").size(), 1U);
  EXPECT_EQ(violations(file, "// SPDX-License-Identifier: MIT\n").size(), 1U);
  EXPECT_EQ(violations(file, header_with("using namespace std;")).size(), 1U);
  EXPECT_EQ(violations(file, header_with("  using namespace std::literals;")).size(), 0U);
}

}  // namespace layering_test
