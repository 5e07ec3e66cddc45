// SPDX-License-Identifier: MIT
/// @file
/// Layer analysis: a path of a chart, in few characters.
#pragma once

#include <cmath>
#include <cstddef>
#include <string>

#include "unit_scaling/analysis/chart_text.hpp"
#include "unit_scaling/core/target.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::analysis::detail {

/// A path of an SVG picture: where it goes, to a tenth of a pixel. It is written relative to where
/// it stands, which takes fewer characters, and rounded so that no error adds up.
class SvgPath {
 public:
  void move_to(double x, double y) {
    x_ = tenths(x);
    y_ = tenths(y);
    text_ += 'M' + number(x_) + ' ' + number(y_);
    command_ = 'M';
  }
  void line_to(double x, double y) {
    const bool goes_on = command_ == 'l';
    if (!goes_on) text_ += 'l';
    append(tenths(x) - x_, goes_on);
    append(tenths(y) - y_, true);
    x_ = tenths(x);
    y_ = tenths(y);
    command_ = 'l';
  }
  void horizontal_to(double x) { straight_to('h', x_, tenths(x)); }
  void vertical_to(double y) { straight_to('v', y_, tenths(y)); }

  [[nodiscard]] bool empty() const { return text_.empty(); }
  [[nodiscard]] const std::string& text() const& { return text_; }
  [[nodiscard]] std::string text() const&& { return text_; }

 private:
  [[nodiscard]] static long long tenths(double value) { return std::llround(10 * value); }

  /// Pieces of one direction that follow each other are one, as over bars of one height.
  void straight_to(char command, long long& at, long long to) {
    if (to == at) return;
    const bool goes_on = command_ == command && (to > at) == (at > piece_from_);
    if (goes_on) {
      text_.resize(piece_begin_);
    } else {
      piece_begin_ = text_.size();
      piece_from_ = at;
    }
    text_ += command;
    append(to - piece_from_, false);
    at = to;
    command_ = command;
  }

  /// Without the zero before a point.
  [[nodiscard]] static std::string number(long long in_tenths) {
    std::string text = svg_number(static_cast<double>(in_tenths) / 10, 1);
    if (text.starts_with("0.")) text.erase(0, 1);
    if (text.starts_with("-0.")) text.erase(1, 1);
    return text;
  }

  /// A minus sign parts two numbers as well as a space does.
  void append(long long difference, bool is_parted) {
    if (is_parted && difference >= 0) text_ += ' ';
    text_ += number(difference);
  }

  std::string text_;
  long long x_ = 0;
  long long y_ = 0;
  char command_ = 0;             ///< The last one, which a line need not name again.
  std::size_t piece_begin_ = 0;  ///< Of the last straight piece, in the text.
  long long piece_from_ = 0;     ///< Where that began.
};

}  // namespace UNIT_SCALING_NAMESPACE::analysis::detail

UNIT_SCALING_IEEE_END
