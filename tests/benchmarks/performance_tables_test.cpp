// SPDX-License-Identifier: MIT
#include "performance_tables.hpp"

#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "support/errors.hpp"
#include "support/file_test.hpp"
#include "support/texts.hpp"

namespace performance_tables_test {

using nlohmann::json;
using unit_scaling::FileError;
using unit_scaling_benchmarks::ComparisonOutput;
using unit_scaling_benchmarks::performance_tables;
using unit_scaling_benchmarks::read_comparison_outputs;
using unit_scaling_benchmarks::with_tables;
using unit_scaling_test::expect_error;

// The document is what the program makes: ./dev tables writes it.
TEST(PerformanceDocument, HasTheTablesOfTheCommittedOutputs) {
  const std::filesystem::path docs = std::filesystem::path(UNIT_SCALING_SOURCE_DIR) / "docs";
  const std::string document = unit_scaling_test::content(docs / "performance.md");
  EXPECT_EQ(
      with_tables(document, performance_tables(read_comparison_outputs(docs / "performance"))),
      document)
      << "run ./dev tables";
}

json conditions(const std::string& target) {
  json result = json::parse(R"({
    "machine": {"processor": "A Processor", "identity": "Vendor, family 6", "logical_processors": 4,
                "caches": [{"level": 1, "bytes": 49152, "ways": 12, "sharers": 1},
                           {"level": 2, "bytes": 2097152, "ways": 0, "sharers": 2}]},
    "target": {"name": "", "flags": "-O3 -march=x", "extensions": ["AVX2", "FMA"]},
    "compiler": "GCC 12.2.0",
    "peers": {"Eigen": "3.4.0", "oneDNN": "2.6.3 with AVX2"},
    "date": "2026-11-30", "rounds": 11, "load_before": 0.5, "load_after": 1.25})");
  result["target"]["name"] = target;
  return result;
}

json entry(const std::string& name, double ours, double peer, const json& measured) {
  return {{"name", name},
          {"ours", ours},
          {"ours_quartiles", {ours, ours}},
          {"peer", peer},
          {"peer_quartiles", {peer, peer}},
          {"peer_name", "Eigen float"},
          {"unit", "GFLOP/s"},
          {"ratio", ours / peer},
          {"ratio_quartiles", {0.9 * ours / peer, 1.1 * ours / peer}},
          {"measured", measured}};
}

TEST(PerformanceTables, HaveOneTableForAMachineWithColumnsForEachTarget) {
  json noted = conditions("native");
  noted["note"] = "Idle";
  noted["commit"] = "0123abc";
  EXPECT_EQ(performance_tables(
                {{"a.json", {entry("gemv", 5, 4, conditions("haswell"))}},
                 {"b.json", {entry("matmul", 325.4, 1, noted), entry("gemv", 12.345, 10, noted)}}}),
            R"(### A Processor

Vendor, family 6; 4 logical processors; L1 48 KiB (12 ways), L2 2 MiB (shared by 2).

- **haswell**: GCC 12.2.0, `-O3 -march=x`: AVX2, FMA. Peers: Eigen 3.4.0, oneDNN 2.6.3 with AVX2. 11 rounds, 2026-11-30, load average 0.50 before and 1.25 after.
- **native**: GCC 12.2.0, `-O3 -march=x`: AVX2, FMA. Peers: Eigen 3.4.0, oneDNN 2.6.3 with AVX2. 11 rounds, 2026-11-30, commit 0123abc, load average 0.50 before and 1.25 after. Idle.

| entry | peer | unit | haswell: ours | peer | ratio | native: ours | peer | ratio |
|---|---|---|---|---|---|---|---|---|
| `gemv` | Eigen float | GFLOP/s | 5.00 | 4.00 | 1.25 (1.12–1.38) | 12.3 | 10.0 | 1.23 (1.11–1.36) |
| `matmul` | Eigen float | GFLOP/s | | | | 325 | 1.00 | 325 (293–358) |
)");
}

TEST(PerformanceTables, HaveASectionForEachMachine) {
  json other = conditions("native");
  other["machine"]["logical_processors"] = 8;
  const std::string tables =
      performance_tables({{"a.json", {entry("gemv", 5, 4, conditions("native"))}},
                          {"b.json", {entry("gemv", 5, 4, other)}}});
  EXPECT_EQ(unit_scaling_test::count(tables, "### A Processor\n"), 2U);
  EXPECT_EQ(unit_scaling_test::count(tables, "| `gemv` |"), 2U);
}

TEST(PerformanceTables, SayWhenLittleIsKnownOfAMachine) {
  json measured = conditions("default");
  measured["machine"] = {{"processor", "unknown"},
                         {"identity", ""},
                         {"logical_processors", 0},
                         {"caches", json::array()}};
  measured["target"]["extensions"] = json::array();
  measured["load_after"] = nullptr;
  const std::string tables = performance_tables({{"a.json", {entry("gemv", 5, 4, measured)}}});
  EXPECT_NE(tables.find("### unknown\n\ncaches not known.\n"), std::string::npos) << tables;
  EXPECT_NE(tables.find("`-O3 -march=x`: no extensions."), std::string::npos) << tables;
  EXPECT_NE(tables.find("2026-11-30.\n"), std::string::npos) << tables;
}

TEST(PerformanceTables, RefuseTwoRunsOfOneTargetOfAMachine) {
  json later = conditions("native");
  later["date"] = "2026-12-01";
  expect_error<FileError>(
      [&] {
        static_cast<void>(
            performance_tables({{"a.json", {entry("gemv", 5, 4, conditions("native"))}},
                                {"b.json", {entry("matmul", 5, 4, later)}}}));
      },
      {"'b.json'", "native", "expected one run for each target"});
  const json twice = entry("gemv", 5, 4, conditions("native"));
  expect_error<FileError>(
      [&] {
        static_cast<void>(performance_tables({{"a.json", {twice, twice}}}));
      },
      {"'a.json'", "gemv against Eigen float is there twice"});
}

TEST(PerformanceTables, RefuseWhatIsNoOutput) {
  json without_conditions = entry("gemv", 5, 4, conditions("native"));
  without_conditions.erase("measured");
  json of_text = entry("gemv", 5, 4, conditions("native"));
  of_text["ours"] = "5";
  json not_finite = entry("gemv", 5, 4, conditions("native"));
  not_finite["peer"] = nullptr;  // as JSON has infinity and NaN
  json not_positive = entry("gemv", 5, 4, conditions("native"));
  not_positive["peer"] = 0.0;
  json one_quartile = entry("gemv", 5, 4, conditions("native"));
  one_quartile["ratio_quartiles"] = {1.0};
  for (const json& entries :
       {json::object(), json::array(), json(nullptr), json({1}), json({without_conditions}),
        json({of_text}), json({not_finite}), json({not_positive}), json({one_quartile})}) {
    expect_error<FileError>(
        [&] {
          static_cast<void>(performance_tables({{"a.json", entries}}));
        },
        {"'a.json'"});
  }
}

class ComparisonOutputs : public unit_scaling_test::FileTest {};

TEST_F(ComparisonOutputs, AreReadInTheOrderOfTheirNames) {
  write("b.json", "[2]");
  write("a.json", "[1]");
  write("c.txt", "no JSON");
  const auto outputs = read_comparison_outputs(folder());
  ASSERT_EQ(outputs.size(), 2U);
  EXPECT_EQ(outputs[0].entries, json({1}));
  EXPECT_EQ(outputs[1].entries, json({2}));
  EXPECT_EQ(outputs[1].path, (folder() / "b.json").string());
}

TEST_F(ComparisonOutputs, MustBeThereAndJson) {
  const auto read = [&] { static_cast<void>(read_comparison_outputs(folder())); };
  expect_error<FileError>(read, {"expected a folder with files *.json"});
  write("a.json", "[1,");
  expect_error<FileError>(read, {"a.json", "expected JSON"});
  expect_error<FileError>([&] { static_cast<void>(read_comparison_outputs(folder() / "none")); },
                          {"none"});
}

TEST(WithTables, ReplacesWhatStandsBetweenTheTwoLines) {
  const std::string begin(unit_scaling_benchmarks::tables_begin);
  const std::string end(unit_scaling_benchmarks::tables_end);
  const std::string document = with_tables("a\n" + begin + "old\n" + end + "b\n", "new\n");
  EXPECT_EQ(document, "a\n" + begin + "\nnew\n\n" + end + "b\n");
  EXPECT_EQ(with_tables(document, "new\n"), document);
  for (const std::string& bad :
       {std::string(), begin, end, end + begin, begin + end + end, begin + begin + end}) {
    expect_error<std::invalid_argument>([&] { static_cast<void>(with_tables(bad, "new\n")); },
                                        {"Made by ./dev tables", "each once and in this order"});
  }
}

}  // namespace performance_tables_test
