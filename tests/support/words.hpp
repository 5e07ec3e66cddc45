// SPDX-License-Identifier: MIT
/// @file
/// Layer: tests. A small text to train on.
#pragma once

#include <iterator>
#include <random>
#include <string>

namespace unit_scaling_test {

/// 30000 bytes of words. The project's own text, the default, changes with every commit, and takes
/// longer to validate on than short trainings do.
[[nodiscard]] inline std::string words() {
  std::mt19937 random(1);
  constexpr const char* list[] = {"unit", "scale", "tensor", "of", "the", "a", "gradient", "\n"};
  std::string text;
  while (text.size() < 30000) text += std::string(list[random() % std::size(list)]) + " ";
  return text;
}

}  // namespace unit_scaling_test
