// SPDX-License-Identifier: MIT
/// @file
/// Layer analysis: numbers for people.
#pragma once

#include <array>
#include <cmath>
#include <cstdio>
#include <string>

#include "unit_scaling/core/target.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::analysis {

/// The least digits that show `digits` of them, at most 17: "0.04419", "1.701", "1".
[[nodiscard]] inline std::string short_number(double value, int digits = 4) {
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%.*g", digits, value);
  return text.data();
}

/// A share from 0 to 1 in percent, with that many digits, or three where more of them stand before
/// the point: "0", "0.0123 %", "12 %", "100 %".
[[nodiscard]] inline std::string percent_text(double share, int digits = 3) {
  constexpr int most_before_point = 3;
  if (share == 0) return "0";
  const double percent = 100 * share;
  // 99.5 has three before the point once it is rounded to two digits.
  const bool is_long = percent >= std::pow(10.0, digits) - 0.5;
  return short_number(percent, is_long ? most_before_point : digits) + " %";
}

}  // namespace UNIT_SCALING_NAMESPACE::analysis

UNIT_SCALING_IEEE_END
