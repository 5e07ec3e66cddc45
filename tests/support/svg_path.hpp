// SPDX-License-Identifier: MIT
// Reads the paths of an SVG picture, as SVG 2, section 9.3, has it.
#pragma once

#include <cctype>
#include <cstddef>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace unit_scaling_test {

/// A command of a path, and where it ends.
struct PathCommand {
  char name;  ///< 'M', 'l', 'h' or 'v'; an 'l' that goes on is one of its own
  double x;
  double y;
};

/// @throws std::invalid_argument for other commands, and what is not a number.
[[nodiscard]] inline std::vector<PathCommand> path_commands(std::string_view text) {
  std::vector<PathCommand> commands;
  std::size_t at = 0;
  const auto number = [&] {
    while (at < text.size() && text[at] == ' ') ++at;
    const std::size_t begin = at;
    if (at < text.size() && text[at] == '-') ++at;
    bool has_point = false;
    while (at < text.size() &&
           (std::isdigit(static_cast<unsigned char>(text[at])) != 0 || text[at] == '.')) {
      if (text[at] == '.' && has_point) break;  // the next number begins with it
      has_point = has_point || text[at] == '.';
      ++at;
    }
    return std::stod(std::string(text.substr(begin, at - begin)));
  };
  double x = 0;
  double y = 0;
  char name = 0;
  while (at < text.size()) {
    if (std::isalpha(static_cast<unsigned char>(text[at])) != 0) name = text[at++];
    if (name == 'M') {
      x = number();
      y = number();
    } else if (name == 'l') {
      x += number();
      y += number();
    } else if (name == 'h') {
      x += number();
    } else if (name == 'v') {
      y += number();
    } else {
      throw std::invalid_argument("path: unexpected " + std::string(text.substr(at)));
    }
    commands.push_back({name, x, y});
  }
  return commands;
}

}  // namespace unit_scaling_test
