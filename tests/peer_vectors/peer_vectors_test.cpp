// SPDX-License-Identifier: MIT
// Compares the library with every reference vector there is, and this comparison with faults
// planted into one.
#include "peer_vectors.hpp"

#include <gtest/gtest.h>

#include <bit>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <limits>
#include <string>
#include <vector>

#include "op_vectors.hpp"

namespace peer_vectors {
namespace peer_vectors_test {

const std::filesystem::path source_folder = UNIT_SCALING_SOURCE_DIR;
const std::filesystem::path own_vectors = source_folder / "tests/data/peer_vectors";

/// The folder named by UNIT_SCALING_PEER_VECTORS, by default our own. CTest runs tests in the build
/// folder, so a relative path that leads nowhere from there is taken from the project's root.
std::filesystem::path vectors_folder() {
  const char* variable = std::getenv("UNIT_SCALING_PEER_VECTORS");
  if (variable == nullptr || *variable == '\0') return own_vectors;
  const std::filesystem::path folder = variable;
  return is_directory(folder) ? folder : source_folder / folder;
}

TEST(PeerVectors, EveryCaseOfEveryFileAgrees) {
  const Report report = compare_folder(vectors_folder());
  for (const std::string& failure : report.failures) ADD_FAILURE() << failure;
  std::cout << "peer_vectors: compared " << report.cases << " cases in " << report.files
            << " files\n";
  EXPECT_GT(report.cases, 0U);
}

/// The vectors of one op, to plant a fault in.
Json vectors_of(const std::string& op) {
  std::ifstream stream(own_vectors / (op + ".json"));
  return Json::parse(stream);
}

Report compare(const Json& file) {
  Report report;
  compare_file(file, report);
  return report;
}

TEST(PeerVectorsSelfTest, AnUnknownOpIsAFailure) {
  Json file = vectors_of("embedding");
  file["op"] = "embeding";
  const Report report = compare(file);
  ASSERT_EQ(report.failures.size(), 1U);
  EXPECT_EQ(report.failures[0], "op 'embeding' is not known");
  EXPECT_EQ(report.cases, 0U);
}

TEST(PeerVectorsSelfTest, AWrongOutputIsAFailureInBothPrecisions) {
  Json file = vectors_of("gelu");
  Json& element = file["cases"][3]["outputs"][0]["data"][5];
  element = element.get<double>() + 1e-4;
  const Report report = compare(file);
  ASSERT_EQ(report.failures.size(), 2U);
  EXPECT_NE(report.failures[0].find("fp32, output 0: element 5"), std::string::npos);
  EXPECT_NE(report.failures[1].find("fp64, output 0: element 5"), std::string::npos);
  EXPECT_EQ(report.cases, file["cases"].size());
}

TEST(PeerVectorsSelfTest, AnErrorBelowSinglePrecisionIsAFailureInDouble) {
  Json file = vectors_of("linear");
  Json& element = file["cases"][0]["grads"]["weight"]["data"][0];
  element = element.get<double>() + 1e-7;
  const Report report = compare(file);
  ASSERT_EQ(report.failures.size(), 1U);
  EXPECT_NE(report.failures[0].find("fp64, gradient of weight: element 0"), std::string::npos);
}

TEST(PeerVectorsSelfTest, EveryGradientOfEveryOpIsCompared) {
  for (const auto& entry : std::filesystem::directory_iterator(own_vectors)) {
    std::ifstream stream(entry.path());
    const Json file = Json::parse(stream);
    if (!file["cases"][0].contains("grads")) continue;
    for (const auto& gradient : file["cases"][0]["grads"].items()) {
      Json changed = file;
      Json& element = changed["cases"][0]["grads"][gradient.key()]["data"][0];
      element = element.get<double>() + 1;
      EXPECT_EQ(compare(changed).failures.size(), 2U) << entry.path() << ", " << gradient.key();
    }
  }
}

TEST(PeerVectorsSelfTest, AWrongShapeOrAMissingOutputIsAFailure) {
  Json transposed = vectors_of("embedding");
  transposed["cases"][0]["outputs"][0]["shape"] = {8, 3, 7};
  EXPECT_EQ(compare(transposed).failures.size(), 2U);
  Json truncated = vectors_of("residual_split");
  truncated["cases"][0]["outputs"].erase(1);
  EXPECT_EQ(compare(truncated).failures.size(), 1U);
}

TEST(PeerVectorsSelfTest, AParameterOrInputThatTheOpDoesNotKnowIsAFailure) {
  Json file = vectors_of("residual_add");
  file["cases"][0]["params"]["alpha"] = 2;
  file["cases"][1]["inputs"]["third"] = file["cases"][1]["inputs"]["skip"];
  EXPECT_EQ(compare(file).failures.size(), 2U);
}

TEST(PeerVectorsSelfTest, AFieldThatIsNotKnownIsAFailureInEveryFile) {
  for (const auto& entry : std::filesystem::directory_iterator(own_vectors)) {
    std::ifstream stream(entry.path());
    Json file = Json::parse(stream);
    file["cases"] = {file["cases"][0]};
    file["cases"][0]["seed"] = 1;  // describes
    EXPECT_EQ(compare(file).failures.size(), 0U) << entry.path();
    Json changed = file;
    changed["cases"][0]["device"] = "other";
    EXPECT_EQ(compare(changed).failures.size(), 1U) << entry.path();
    file["dtype"] = "float32";
    EXPECT_THROW(static_cast<void>(compare(file)), std::runtime_error) << entry.path();
  }
  Json optimiser = vectors_of("optimiser_steps");
  optimiser["cases"][0]["inputs"]["param:5.weight"] = optimiser["cases"][0]["inputs"]["x"];
  EXPECT_EQ(compare(optimiser).failures.size(), 1U);
  Json formats = vectors_of("number_formats");
  formats["cases"][0]["encode"]["round"] = "toward_zero";
  EXPECT_EQ(compare(formats).failures.size(), 1U);
}

TEST(PeerVectorsSelfTest, AParameterOfAnOptimiserThatIsNotKnownIsAFailure) {
  Json file = vectors_of("optimiser_steps");
  file["cases"][2]["params"]["nesterov"] = nullptr;  // the default
  EXPECT_EQ(compare(file).failures.size(), 0U);
  file["cases"][2]["params"]["dampening"] = 0.5;
  const Report report = compare(file);
  ASSERT_EQ(report.failures.size(), 1U);
  EXPECT_NE(report.failures[0].find("dampening"), std::string::npos);
}

TEST(PeerVectorsSelfTest, DropoutIsAFailureUnlessItIsZero) {
  Json file = vectors_of("module_mhsa");
  file["cases"][0]["params"]["dropout_p"] = 0.0;
  EXPECT_EQ(compare(file).failures.size(), 0U);
  file["cases"][0]["params"]["dropout_p"] = 0.5;
  EXPECT_EQ(compare(file).failures.size(), 1U);
}

TEST(PeerVectorsSelfTest, AnErrorThatTheOpThrowsIsAFailureOfItsCaseOnly) {
  Json file = vectors_of("add");
  file["cases"][0]["params"]["constraint"] = "banana";
  const Report report = compare(file);
  ASSERT_EQ(report.failures.size(), 1U);
  EXPECT_NE(report.failures[0].find("banana"), std::string::npos);
  EXPECT_EQ(report.cases, file["cases"].size());
}

TEST(PeerVectorsSelfTest, AWrongCodeOrNumberOfAFormatIsAFailure) {
  Json file = vectors_of("number_formats");
  for (Json& one_case : file["cases"]) {
    if (one_case["format"] == "float8_e5m2") one_case["decode"][1] = "0x1.8p-16";
    if (one_case["format"] == "float8_e4m3fn") {
      one_case["encode"]["code"][0] = one_case["encode"]["code"][0].get<int>() + 1;
    }
    if (one_case["format"] == "float6_e2m3fn") one_case["format"] = "float6_e1m4fn";
  }
  const Report report = compare(file);
  // Each of the first two by its three conversions; the third is an unknown format.
  EXPECT_EQ(report.failures.size(), 7U);
}

TEST(PeerVectorsSelfTest, SignsThatThePeersLoseMayDifferAndNoOthers) {
  constexpr std::uint32_t negative_nan = 0xFFC0'0000U;
  constexpr std::uint32_t negative_zero = 0x8000'0000U;
  Json formats = vectors_of("number_formats");
  for (Json& one_case : formats["cases"]) {
    if (one_case["format"] != "float4_e2m1fn") continue;
    one_case["encode"]["x_float32_bits"] = {negative_nan, negative_zero};
    one_case["encode"]["code"] = {0, 8};
    EXPECT_EQ(compare({{"op", "number_formats"}, {"cases", {one_case}}}).failures.size(), 0U);
    one_case["encode"]["code"] = {1, 0};
    // Each number by its three conversions.
    EXPECT_EQ(compare({{"op", "number_formats"}, {"cases", {one_case}}}).failures.size(), 6U);
  }
  Json blocks = vectors_of("mx_quantize")["cases"][0];
  blocks["shape"] = {1, 3};
  blocks["x_float32_bits"] = {negative_zero, std::bit_cast<std::uint32_t>(1.0F),
                              std::bit_cast<std::uint32_t>(-0x1p-30F)};
  blocks["y_float32_bits"] = {0, std::bit_cast<std::uint32_t>(1.0F), negative_zero};
  EXPECT_EQ(compare({{"op", "mx_quantize"}, {"cases", {blocks}}}).failures.size(), 0U);
  blocks["y_float32_bits"][2] = 0;
  EXPECT_EQ(compare({{"op", "mx_quantize"}, {"cases", {blocks}}}).failures.size(), 1U);
}

TEST(PeerVectorsSelfTest, AFileWithoutCasesAndAFolderWithoutFilesFail) {
  EXPECT_EQ(compare({{"op", "gelu"}, {"cases", Json::array()}}).failures.size(), 1U);
  EXPECT_THROW(static_cast<void>(compare_folder(source_folder / "include")), std::runtime_error);
}

TEST(PeerVectorsSelfTest, ToleranceIsRelativeToTheRootMeanSquareOfTheTensor) {
  const Tensor expected{{2}, {100, 0}};  // root mean square 71
  const auto differs = [&](double first, double second) {
    const std::vector<double> actual{first, second};
    return !difference(expected, expected.shape, std::span<const double>(actual), {1e-3, 0})
                .empty();
  };
  EXPECT_FALSE(differs(100, 0.07));
  EXPECT_TRUE(differs(100, 0.08));
  EXPECT_FALSE(differs(100.07, 0));
  EXPECT_TRUE(differs(99.92, 0));
}

TEST(PeerVectorsSelfTest, NineDigitsOfAFloatStandForThatFloat) {
  EXPECT_EQ(exact_input(1.83420181), static_cast<double>(1.83420181F));
  EXPECT_EQ(exact_input(-0.25), -0.25);
  EXPECT_EQ(exact_input(0.1), 0.1);  // of the float nearest to it, nine digits are 0.100000001
  EXPECT_EQ(exact_input(1.0 / 3), 1.0 / 3);
}

TEST(PeerVectorsSelfTest, NonFiniteNumbersAgreeOnlyWithThemselves) {
  constexpr double nan = std::numeric_limits<double>::quiet_NaN();
  constexpr double infinity = std::numeric_limits<double>::infinity();
  const Tensor expected{{4}, {1, nan, infinity, -infinity}};
  const auto differs = [&](std::vector<double> actual) {
    return !difference(expected, expected.shape, std::span<const double>(actual), {1, 1}).empty();
  };
  EXPECT_FALSE(differs({1, nan, infinity, -infinity}));
  EXPECT_TRUE(differs({nan, nan, infinity, -infinity}));
  EXPECT_TRUE(differs({1, 0, infinity, -infinity}));
  EXPECT_TRUE(differs({1, nan, -infinity, -infinity}));
  EXPECT_TRUE(differs({1, nan, infinity, 1e300}));
}

}  // namespace peer_vectors_test
}  // namespace peer_vectors
