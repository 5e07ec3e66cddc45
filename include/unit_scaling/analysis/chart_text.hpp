// SPDX-License-Identifier: MIT
/// @file
/// Layer analysis: texts and numbers of a chart, as SVG wants them.
#pragma once

#include <algorithm>
#include <array>
#include <charconv>
#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "unit_scaling/core/target.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::analysis::detail {

/// A number for an SVG attribute, with at most so many decimals.
[[nodiscard]] inline std::string svg_number(double value, int decimals = 2) {
  std::array<char, 400> buffer{};
  // Unlike printf, this writes a point in every locale.
  const auto result = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value,
                                    std::chars_format::fixed, decimals);
  std::string text(buffer.data(), result.ptr);
  if (decimals > 0) text.erase(text.find_last_not_of('0') + 1);
  if (text.ends_with('.')) text.pop_back();
  return text == "-0" ? "0" : text;
}

/// The code points of a text; U+FFFD for what is not UTF-8 or must not stand in XML.
[[nodiscard]] inline std::vector<char32_t> code_points(std::string_view text) {
  constexpr char32_t replacement = 0xfffd;
  std::vector<char32_t> result;
  for (std::size_t i = 0; i < text.size();) {
    const auto first = static_cast<unsigned char>(text[i++]);
    int more = -1;  // bytes that belong to the first; −1: none can begin so
    if (first < 0x80) more = 0;
    if (first >= 0xc2 && first < 0xe0) more = 1;
    if (first >= 0xe0 && first < 0xf0) more = 2;
    if (first >= 0xf0 && first < 0xf5) more = 3;
    char32_t point = more <= 0 ? first : first & (0x3fU >> more);
    bool good = more >= 0;
    for (int k = 0; good && k < more; ++k) {
      good = i < text.size() && (static_cast<unsigned char>(text[i]) & 0xc0U) == 0x80U;
      if (good) point = (point << 6U) | (static_cast<unsigned char>(text[i++]) & 0x3fU);
    }
    constexpr std::array<char32_t, 4> smallest{0, 0x80, 0x800, 0x10000};
    good = good && point >= smallest[static_cast<std::size_t>(more)] && point <= 0x10ffff &&
           !(point >= 0xd800 && point < 0xe000) && point != 0xfffe && point != 0xffff &&
           (point >= 0x20 || point == '\t' || point == '\n' || point == '\r');
    result.push_back(good ? point : replacement);
  }
  return result;
}

/// A text for XML, in an element or between either kind of quotes.
[[nodiscard]] inline std::string xml_text(const std::vector<char32_t>& points) {
  std::string result;
  for (const char32_t point : points) {
    switch (point) {
      case U'&':
        result += "&amp;";
        continue;
      case U'<':
        result += "&lt;";
        continue;
      case U'>':
        result += "&gt;";
        continue;
      case U'"':
        result += "&quot;";
        continue;
      case U'\'':
        result += "&#39;";
        continue;
      default:
        break;
    }
    const auto append = [&](char32_t byte) { result += static_cast<char>(byte); };
    if (point < 0x80) {
      append(point);
    } else if (point < 0x800) {
      append(0xc0U | (point >> 6U));
      append(0x80U | (point & 0x3fU));
    } else if (point < 0x10000) {
      append(0xe0U | (point >> 12U));
      append(0x80U | ((point >> 6U) & 0x3fU));
      append(0x80U | (point & 0x3fU));
    } else {
      append(0xf0U | (point >> 18U));
      append(0x80U | ((point >> 12U) & 0x3fU));
      append(0x80U | ((point >> 6U) & 0x3fU));
      append(0x80U | (point & 0x3fU));
    }
  }
  return result;
}
[[nodiscard]] inline std::string xml_text(std::string_view text) {
  return xml_text(code_points(text));
}

/// About how wide a text is, for a font of size 1. The reader's font is not known, so this leans to
/// the wide side.
[[nodiscard]] inline double text_width(const std::vector<char32_t>& points) {
  constexpr std::u32string_view narrow = U" iljtfrI.,:;'|!()[]/\u2009";
  constexpr std::u32string_view wide = U"mwMW@%\u2014";
  double width = 0;
  for (const char32_t point : points) {
    if (narrow.find(point) != std::u32string_view::npos) {
      width += 0.34;
    } else if (wide.find(point) != std::u32string_view::npos || point >= 0x2e80) {
      width += 0.95;
    } else {
      width += point >= U'A' && point <= U'Z' ? 0.7 : 0.59;
    }
  }
  return width;
}

/// A text of at most that width, for a font of size 1: the rest of a longer one is three dots.
[[nodiscard]] inline std::vector<char32_t> shortened_text(std::string_view text, double max_width) {
  std::vector<char32_t> points = code_points(text);
  if (text_width(points) <= max_width) return points;
  while (!points.empty() && text_width(points) + 0.95 > max_width) points.pop_back();
  points.push_back(U'\u2026');
  return points;
}

/// The part of a text from `begin` on that is `head` of `max_width` wide, three dots, and as much
/// of its end as has room. Three dots stand before it too if it does not begin the text.
[[nodiscard]] inline std::vector<char32_t> middle_shortened_text(
    const std::vector<char32_t>& points, double max_width, double head, std::size_t begin = 0) {
  constexpr double dots = 0.95;
  std::vector<char32_t> result;
  if (begin > 0) result.push_back(U'\u2026');
  std::size_t at = begin;
  while (at < points.size()) {
    result.push_back(points[at]);
    if (text_width(result) + dots > head * max_width) {
      result.pop_back();
      break;
    }
    ++at;
  }
  result.push_back(U'\u2026');
  std::size_t end = points.size();
  std::vector<char32_t> with_end = result;
  while (end > at) {
    std::vector<char32_t> longer = result;
    longer.insert(longer.end(), points.begin() + static_cast<std::ptrdiff_t>(end) - 1,
                  points.end());
    if (text_width(longer) > max_width) break;
    with_end = std::move(longer);
    --end;
  }
  return with_end;
}

/// The labels of one list, each of at most that width, for a font of size 1. The middle of a longer
/// one is three dots, so that the op at the end of a path is seen. Labels that differ stay
/// different: if need be, what tells them apart is shown and their beginning is not, and at the
/// last they are numbered by their place in the list.
[[nodiscard]] inline std::vector<std::vector<char32_t>> shortened_labels(
    const std::vector<std::string>& labels, double max_width) {
  std::vector<std::vector<char32_t>> whole;
  std::vector<std::vector<char32_t>> shown;
  for (const std::string& label : labels) {
    whole.push_back(code_points(label));
    shown.push_back(text_width(whole.back()) <= max_width
                        ? whole.back()
                        : middle_shortened_text(whole.back(), max_width, 0.4));
  }
  // Which others read like a label but are not.
  const auto twins = [&](std::size_t i) {
    std::vector<std::size_t> result;
    for (std::size_t k = 0; k < shown.size(); ++k) {
      if (shown[k] == shown[i] && whole[k] != whole[i]) result.push_back(k);
    }
    return result;
  };
  std::vector<std::vector<char32_t>> told_apart = shown;
  for (std::size_t i = 0; i < shown.size(); ++i) {
    std::size_t first_difference = whole[i].size();
    for (const std::size_t k : twins(i)) {
      const auto differ =
          std::mismatch(whole[i].begin(), whole[i].end(), whole[k].begin(), whole[k].end());
      first_difference =
          std::min(first_difference, static_cast<std::size_t>(differ.first - whole[i].begin()));
    }
    if (first_difference == whole[i].size()) continue;
    constexpr std::size_t before = 4;  // characters in front of what differs
    const std::size_t begin = first_difference > before ? first_difference - before : 0;
    told_apart[i] = middle_shortened_text(whole[i], max_width, 0.6, begin);
  }
  shown = std::move(told_apart);
  std::vector<bool> is_ambiguous;
  for (std::size_t i = 0; i < shown.size(); ++i) is_ambiguous.push_back(!twins(i).empty());
  for (std::size_t i = 0; i < shown.size(); ++i) {
    if (!is_ambiguous[i]) continue;
    std::vector<char32_t> numbered = code_points(std::to_string(i + 1) + ": ");
    const double room = max_width - text_width(numbered);
    const std::vector<char32_t> rest = middle_shortened_text(whole[i], room, 0.4);
    numbered.insert(numbered.end(), rest.begin(), rest.end());
    shown[i] = std::move(numbered);
  }
  return shown;
}

/// At most so many lines of a text; where there are more, the last one ends in three dots.
[[nodiscard]] inline std::vector<std::vector<char32_t>> first_lines(
    std::vector<std::vector<char32_t>> lines, std::size_t most) {
  if (lines.size() <= most) return lines;
  lines.resize(most);
  if (!lines.empty()) lines.back().push_back(U'\u2026');
  return lines;
}

/// A text in lines of at most that width, broken at spaces. A longer word stays whole.
[[nodiscard]] inline std::vector<std::vector<char32_t>> wrap_text(std::string_view text,
                                                                  double max_width) {
  std::vector<std::vector<char32_t>> lines;
  std::vector<char32_t> line;
  std::vector<char32_t> word;
  const auto end_word = [&] {
    if (word.empty()) return;
    if (!line.empty() && text_width(line) + 0.34 + text_width(word) > max_width) {
      lines.push_back(std::exchange(line, {}));
    }
    if (!line.empty()) line.push_back(U' ');
    line.insert(line.end(), word.begin(), word.end());
    word.clear();
  };
  for (const char32_t point : code_points(text)) {
    if (point == U' ' || point == U'\t' || point == U'\n' || point == U'\r') {
      end_word();
    } else {
      word.push_back(point);
    }
  }
  end_word();
  if (!line.empty()) lines.push_back(std::move(line));
  return lines;
}

}  // namespace UNIT_SCALING_NAMESPACE::analysis::detail

UNIT_SCALING_IEEE_END
