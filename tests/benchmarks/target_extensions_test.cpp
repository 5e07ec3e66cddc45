// SPDX-License-Identifier: MIT
#include "target_extensions.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cctype>
#include <fstream>
#include <iterator>
#include <set>
#include <sstream>
#include <string>
#include <vector>

namespace target_extensions_test {

using unit_scaling_benchmarks::target_extensions;

/// The flags of the first processor in /proc/cpuinfo.
std::set<std::string> flags_of_processor() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with("flags")) continue;
    std::istringstream words(line.substr(line.find(':') + 1));
    return {std::istream_iterator<std::string>(words), {}};
  }
  return {};
}

// A target with other instructions than the processor's would have ended the program before.
TEST(TargetExtensions, AreAmongWhatTheProcessorHas) {
  const std::set<std::string> flags = flags_of_processor();
  if (flags.empty()) GTEST_SKIP() << "/proc/cpuinfo tells no flags here";
  for (std::string name : target_extensions()) {
    std::ranges::transform(name, name.begin(),
                           [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    EXPECT_TRUE(flags.contains(name)) << name;
  }
}

TEST(TargetExtensions, ContainThoseThatOthersNeed) {
  const std::vector<std::string> names = target_extensions();
  const auto has = [&](const char* name) { return std::ranges::count(names, name) == 1; };
#if defined(__AVX2__)
  EXPECT_TRUE(has("AVX2"));
#endif
  EXPECT_TRUE(has("AVX512F") || !(has("AVX512BW") || has("AVX512VBMI")));
  EXPECT_TRUE((has("AVX2") && has("FMA") && has("F16C")) || !has("AVX512F"));
  EXPECT_TRUE((has("AVX") && has("SSE4_2")) || !has("AVX2"));
  EXPECT_TRUE(has("AMX_TILE") || !has("AMX_BF16"));
}

}  // namespace target_extensions_test
