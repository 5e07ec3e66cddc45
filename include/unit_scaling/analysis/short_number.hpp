// SPDX-License-Identifier: MIT
/// @file
/// Layer analysis: numbers for people.
#pragma once

#include <array>
#include <cstdio>
#include <string>

namespace unit_scaling::analysis {

/// The least digits that show `digits` of them, at most 17: "0.04419", "1.701", "1".
[[nodiscard]] inline std::string short_number(double value, int digits = 4) {
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%.*g", digits, value);
  return text.data();
}

/// A share from 0 to 1 in percent, with that many digits: "0", "0.0123 %", "12 %".
[[nodiscard]] inline std::string percent_text(double share, int digits = 3) {
  return share == 0 ? "0" : short_number(100 * share, digits) + " %";
}

}  // namespace unit_scaling::analysis
