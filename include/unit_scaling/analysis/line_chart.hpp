// SPDX-License-Identifier: MIT
/// @file
/// Layer analysis: a line chart as an SVG picture, for training curves and sweeps.
#pragma once

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace unit_scaling::analysis {

/// How an axis of a chart runs. A number that is not positive leaves a gap on a logarithmic axis.
enum class AxisScale {
  linear,  ///< Ticks at 1, 2 or 5 times powers of ten.
  log2,    ///< Ticks at powers of two.
  log10,   ///< Ticks at powers of ten, and between them where there is room.
};

/// The colours of a chart.
enum class ChartTheme {
  automatic,  ///< Dark where the reader prefers dark, otherwise light.
  light,      ///< Dark lines on white.
  dark,       ///< Light lines on near black.
};

/// One line of a `LineChart`.
struct LineSeries {
  /// Written at the end of the line. Empty: the line has no label.
  std::string name;
  /// x and y, joined in this order. Where y is infinite, NaN or beyond 1e300 in magnitude, the line
  /// has a gap and the place is marked as diverged; where x is so, there is a gap only.
  std::vector<std::pair<double, double>> points;
  /// Index into the seven colours, from which it counts on from the beginning. Empty: the position
  /// of the series. Give lines that belong together one colour and several dashes, or the reverse.
  std::optional<std::size_t> colour = std::nullopt;
  /// Index into the seven dash patterns, the first of which is a solid line. Empty: the index of
  /// the colour, so that lines can be told apart without seeing colours; one further each time that
  /// the colours begin again.
  std::optional<std::size_t> dash = std::nullopt;
};

/// What a line chart shows. All texts are plain UTF-8, without markup.
struct LineChart {
  std::string title;     ///< In bold above the chart, in up to 3 lines.
  std::string subtitle;  ///< In small print below the title, in up to 4 lines.
  std::string x_label;   ///< Below the x axis, with its unit.
  std::string y_label;   ///< Above the y axis, with its unit.
  AxisScale x_scale = AxisScale::linear;
  AxisScale y_scale = AxisScale::linear;
  std::optional<double> x_min = std::nullopt;  ///< Left end of the x axis. Empty: as data ask.
  std::optional<double> x_max = std::nullopt;  ///< Right end of the x axis. Empty: as data ask.
  std::optional<double> y_min = std::nullopt;  ///< Lower end of the y axis. Empty: as data ask.
  std::optional<double> y_max = std::nullopt;  ///< Upper end of the y axis. Empty: as data ask.
  /// Names the strip above the lines in which y that is not finite is marked by crosses. Empty:
  /// there is no such strip, only the gaps.
  std::string diverged_label = "diverged";
  /// For readers who do not see the picture. Empty: tells where each line begins and ends.
  std::string description;
  ChartTheme theme = ChartTheme::automatic;
  std::vector<LineSeries> series;
};

namespace detail {

/// A number for an SVG attribute: at most two decimals.
[[nodiscard]] inline std::string svg_number(double value) {
  std::array<char, 400> buffer{};
  // Unlike printf, this writes a point in every locale.
  const auto result = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value,
                                    std::chars_format::fixed, 2);
  std::string text(buffer.data(), result.ptr);
  text.erase(text.find_last_not_of('0') + 1);
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

/// A place on an axis, and its label if it has one: `text`, and `power` raised behind it.
struct ChartTick {
  double position = 0;  ///< In axis coordinates: the number or its logarithm.
  std::string text;
  std::string power;

  [[nodiscard]] double width() const {
    return text_width(code_points(text)) + 0.75 * text_width(code_points(power));
  }
};

/// "−12", with the sign that is as wide as a digit.
[[nodiscard]] inline std::string minus_sign(std::string text) {
  if (text.starts_with('-')) text.replace(0, 1, "\u2212");
  return text;
}

/// A number with that many decimals, and thin spaces between thousands if it has five digits or
/// more.
[[nodiscard]] inline std::string tick_number(double value, int decimals) {
  std::array<char, 400> buffer{};
  const auto result = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value,
                                    std::chars_format::fixed, decimals);
  std::string text(buffer.data(), result.ptr);
  const std::size_t first = text.starts_with('-') ? 1 : 0;
  const std::size_t point = std::min(text.find('.'), text.size());
  if (point - first >= 5) {
    for (std::size_t i = point; i > first + 3;) text.insert(i -= 3, "\u2009");
  }
  return minus_sign(text);
}

/// Ticks at 1, 2 or 5 times a power of ten, about `target` of them. `lo` < `hi`, and both differ by
/// at least a billionth of their size.
[[nodiscard]] inline std::vector<ChartTick> linear_ticks(double lo, double hi, double target) {
  const double rough = (hi - lo) / target;
  if (!(rough > 1e-300)) return {};  // between subnormal numbers on a logarithmic axis
  int exponent = static_cast<int>(std::floor(std::log10(rough)));
  const double lead = rough / std::pow(10.0, exponent);
  // The nearest by ratio: between 1, 2, 5 and 10 lie the roots of 2, 10 and 50.
  int digit = 1;
  if (lead > 7.07) {
    ++exponent;
  } else if (lead > 3.16) {
    digit = 5;
  } else if (lead > 1.41) {
    digit = 2;
  }
  // Dividing by a power of ten is exact more often than multiplying by its reciprocal: 3 / 10 is
  // 0.3, but 3 * 0.1 is not.
  const double power = std::pow(10.0, std::abs(exponent));
  const auto multiple = [&](double count) {
    return exponent < 0 ? count * digit / power : count * digit * power;
  };
  const double largest = std::max(std::abs(lo), std::abs(hi));
  const int magnitude = static_cast<int>(std::floor(std::log10(largest)));
  const bool scientific = magnitude >= 6 || magnitude < -4;

  std::vector<ChartTick> ticks;
  const double step = multiple(1);
  const double last = std::floor(hi / step + 1e-9);
  for (double count = std::ceil(lo / step - 1e-9); count <= last; ++count) {
    const double value = multiple(count) + 0.0;  // ceil gives −0; adding 0 removes its sign
    ChartTick tick{value, "", ""};
    if (scientific && value != 0) {
      tick.text =
          tick_number(value / std::pow(10.0, magnitude), std::max(0, magnitude - exponent)) +
          "\u00d710";
      tick.power = minus_sign(std::to_string(magnitude));
    } else {
      tick.text = tick_number(value, scientific ? 0 : std::max(0, -exponent));
    }
    ticks.push_back(std::move(tick));
  }
  return ticks;
}

/// Ticks at powers of `base`, or, where less than two of these fall between the ends, at numbers
/// that are round otherwise. `lo` and `hi` are logarithms to that base.
[[nodiscard]] inline std::vector<ChartTick> logarithmic_ticks(int base, double lo, double hi,
                                                              double target) {
  const double first = std::ceil(lo - 1e-9);
  const double last = std::floor(hi + 1e-9);
  std::vector<ChartTick> ticks;
  if (last - first < 1) {
    for (ChartTick& tick : linear_ticks(std::pow(base, lo), std::pow(base, hi), 0.6 * target)) {
      tick.position = std::log(tick.position) / std::log(base);
      if (std::isfinite(tick.position)) ticks.push_back(std::move(tick));
    }
    return ticks;
  }
  double stride = 1;
  while ((last - first) / stride > target) stride *= 2;
  // 1024 reads better than a power, but 16777216 does not.
  const double largest_plain = base == 2 ? 14 : 5;
  const double smallest_plain = base == 2 ? 0 : -3;
  const bool plain = first >= smallest_plain && last <= largest_plain;
  for (double exponent = std::ceil(first / stride) * stride; exponent <= last; exponent += stride) {
    ChartTick tick{exponent, "", ""};
    if (plain) {
      tick.text = tick_number(std::pow(base, exponent), static_cast<int>(std::max(0.0, -exponent)));
    } else {
      tick.text = std::to_string(base);
      tick.power = tick_number(exponent, 0);
    }
    ticks.push_back(std::move(tick));
    if (base == 10 && stride == 1 && last - first <= 2) {
      for (const int digit : {2, 5}) {
        const double position = exponent + std::log10(digit);
        if (position > hi) break;
        ChartTick between{position, "", ""};
        if (plain) {
          between.text = tick_number(digit * std::pow(10.0, exponent),
                                     static_cast<int>(std::max(0.0, -exponent)));
        }
        ticks.push_back(std::move(between));
      }
    }
  }
  return ticks;
}

/// Where to put labels that want to be at `wanted`, which ascends, so that they are `distance`
/// apart and lie within [lo, hi], and are moved as little as can be (in squares).
[[nodiscard]] inline std::vector<double> spread(const std::vector<double>& wanted, double distance,
                                                double lo, double hi) {
  // Without the distances already spent, labels must only not descend; so pool those that do.
  struct Pool {
    double sum;
    double count;
  };
  std::vector<Pool> pools;
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    Pool pool{wanted[i] - static_cast<double>(i) * distance, 1};
    while (!pools.empty() && pools.back().sum / pools.back().count > pool.sum / pool.count) {
      pool.sum += pools.back().sum;
      pool.count += pools.back().count;
      pools.pop_back();
    }
    pools.push_back(pool);
  }
  const double last = hi - distance * (static_cast<double>(wanted.size()) - 1);
  std::vector<double> result;
  for (const Pool& pool : pools) {
    const double place = std::clamp(pool.sum / pool.count, lo, std::max(lo, last));
    for (double i = 0; i < pool.count; ++i) {
      result.push_back(place + static_cast<double>(result.size()) * distance);
    }
  }
  return result;
}

/// Draws one `LineChart`.
class LineChartDrawing {
 public:
  explicit LineChartDrawing(const LineChart& chart) : chart_(chart) {
    x_ = make_axis("x", chart.x_scale, chart.x_min, chart.x_max);
    y_ = make_axis("y", chart.y_scale, chart.y_min, chart.y_max);
    for (const LineSeries& series : chart.series) {
      const bool diverges = !chart.diverged_label.empty() &&
                            std::any_of(series.points.begin(), series.points.end(),
                                        [&](const auto& point) { return is_diverged(point); });
      strip_row_.push_back(diverges ? std::optional(strip_rows_++) : std::nullopt);
    }
    fit_range();
    lay_out();
  }

  [[nodiscard]] std::string draw() {
    begin_document();
    draw_texts();
    draw_grid();
    draw_strip();
    for (std::size_t i = 0; i < chart_.series.size(); ++i) draw_series(i);
    draw_labels();
    if (!has_points_) {
      text((left_ + right_) / 2, (top_ + bottom_) / 2, "us-muted", 13, "middle",
           xml_text("no finite points"));
    }
    out_ += "</svg>\n";
    return std::move(out_);
  }

 private:
  struct Axis {
    std::string_view name;
    AxisScale scale = AxisScale::linear;
    std::optional<double> fixed_lo;  ///< In axis coordinates, as the next three.
    std::optional<double> fixed_hi;
    double lo = 0;
    double hi = 1;
    double pixel_lo = 0;
    double pixel_hi = 1;
    std::vector<ChartTick> ticks;

    /// Whether the axis can show that number.
    [[nodiscard]] bool shows(double value) const {
      return std::abs(value) <= largest && (scale == AxisScale::linear || value > 0);
    }
    /// The number in axis coordinates.
    [[nodiscard]] double coordinate(double value) const {
      switch (scale) {
        case AxisScale::linear:
          return value;
        case AxisScale::log2:
          return std::log2(value);
        case AxisScale::log10:
          return std::log10(value);
      }
      return value;
    }
    [[nodiscard]] double pixel_of(double position) const {
      return pixel_lo + (position - lo) / (hi - lo) * (pixel_hi - pixel_lo);
    }
    [[nodiscard]] double pixel(double value) const { return pixel_of(coordinate(value)); }
    void make_ticks(double target) {
      ticks = scale == AxisScale::linear
                  ? linear_ticks(lo, hi, target)
                  : logarithmic_ticks(scale == AxisScale::log2 ? 2 : 10, lo, hi, target);
    }
  };

  /// A point in pixels.
  struct Pixel {
    double x;
    double y;
  };

  struct Palette {
    std::string_view surface;  ///< Behind everything.
    std::string_view ink;      ///< Title and labels.
    std::string_view muted;    ///< Subtitle and numbers.
    std::string_view grid;
    std::string_view axis;
    std::array<std::string_view, 7> series;
  };

  // After Okabe and Ito ("Color universal design", 2008): blue, vermilion, green, purple, orange,
  // black and sky blue. Lightness was changed until each has a contrast of 3:1 at least with the
  // surface, and any two differ for readers with protanopia, deuteranopia and tritanopia (by 0.08
  // at least in OKLab, as simulated by Machado et al. 2009).
  static constexpr Palette light_{
      "#ffffff", "#1f2328",
      "#59636e", "#e6e9ec",
      "#9aa3ad", {"#0554a5", "#c44300", "#02a780", "#951271", "#cf8300", "#37392f", "#4380b3"}};
  static constexpr Palette dark_{
      "#14171c", "#e9edf1",
      "#a3adb8", "#2a2f36",
      "#59626d", {"#1fa0ff", "#ef4402", "#02966a", "#f263b2", "#e6db48", "#e4f4f1", "#83d0ff"}};
  static constexpr std::array<std::string_view, 7> dashes_{
      "", "8 3.5", "2.5 2.5", "9 3 2.5 3", "15 4", "5 3 2 3 2 3", "1.5 4"};

  static constexpr double largest = 1e300;    ///< Differences of such numbers are finite.
  static constexpr double smallest = 1e-280;  ///< What is smaller is drawn as zero.
  static constexpr double width_ = 880;
  static constexpr double height_ = 480;
  static constexpr double margin_ = 24;
  static constexpr double title_size_ = 17;
  static constexpr double subtitle_size_ = 13;
  static constexpr double label_size_ = 12.5;
  static constexpr double number_size_ = 12;
  static constexpr double connector_ = 18;  ///< Width of the lines from line ends to labels.
  static constexpr double sample_ = 26;     ///< Width of the piece of line before a label.
  static constexpr double label_gap_ = 7;   ///< Between that piece and the label.
  static constexpr double padding_ = 8;     ///< Between the ends of the x axis and the lines.

  [[nodiscard]] static bool is_diverging(double y) { return !(std::abs(y) <= largest); }

  [[nodiscard]] bool is_diverged(const std::pair<double, double>& point) const {
    return x_.shows(point.first) && is_diverging(point.second);
  }
  [[nodiscard]] bool is_shown(const std::pair<double, double>& point) const {
    return x_.shows(point.first) && y_.shows(point.second);
  }

  [[nodiscard]] static Axis make_axis(std::string_view name, AxisScale scale,
                                      std::optional<double> lo, std::optional<double> hi) {
    Axis axis;
    axis.name = name;
    axis.scale = scale;
    const auto fix = [&](const std::optional<double>& end) -> std::optional<double> {
      if (!end) return std::nullopt;
      if (!axis.shows(*end)) {
        throw std::invalid_argument("LineChart: an end of the " + std::string(name) + " axis is " +
                                    std::to_string(*end) + ", expected a finite number" +
                                    (scale == AxisScale::linear ? "" : " above 0"));
      }
      return axis.coordinate(*end);
    };
    axis.fixed_lo = fix(lo);
    axis.fixed_hi = fix(hi);
    if (lo && hi && !(*lo < *hi)) {
      throw std::invalid_argument("LineChart: the " + std::string(name) + " axis goes from " +
                                  std::to_string(*lo) + " to " + std::to_string(*hi) +
                                  ", expected a larger number at the end");
    }
    return axis;
  }

  /// Makes the axes as long as their data.
  void fit_range() {
    constexpr double infinity = std::numeric_limits<double>::infinity();
    double x_lo = infinity;
    double x_hi = -infinity;
    double y_lo = infinity;
    double y_hi = -infinity;
    for (const LineSeries& series : chart_.series) {
      for (const auto& point : series.points) {
        if (is_shown(point) || is_diverged(point)) {
          x_lo = std::min(x_lo, x_.coordinate(point.first));
          x_hi = std::max(x_hi, x_.coordinate(point.first));
        }
        if (is_shown(point)) {
          has_points_ = true;
          y_lo = std::min(y_lo, y_.coordinate(point.second));
          y_hi = std::max(y_hi, y_.coordinate(point.second));
        }
      }
    }
    set_range(x_, x_lo, x_hi, 0);
    set_range(y_, y_lo, y_hi, 0.05);
  }

  static void set_range(Axis& axis, double lo, double hi, double margin) {
    if (lo > hi) {  // no data
      lo = axis.fixed_lo.value_or(axis.fixed_hi.value_or(1) - 1);
      hi = lo + 1;
    }
    lo = axis.fixed_lo.value_or(lo);
    hi = axis.fixed_hi.value_or(hi);
    // One point, one value, or a fixed end that leaves no data in between. Numbers closer than this
    // would need ticks of ten digits.
    const bool is_linear = axis.scale == AxisScale::linear;
    const double size = std::max({std::abs(lo), std::abs(hi), is_linear ? smallest : 1.0});
    if (!(hi - lo > 1e-9 * size)) {
      const double half = !is_linear || size == smallest ? 1 : 0.05 * size;
      const double centre = axis.fixed_lo ? lo + half : axis.fixed_hi ? hi - half : lo;
      lo = centre - half;
      hi = centre + half;
    }
    const double extra = margin * (hi - lo);
    axis.lo = axis.fixed_lo ? lo : lo - extra;
    axis.hi = axis.fixed_hi ? hi : hi + extra;
  }

  /// Decides where everything goes.
  void lay_out() {
    const double text_width_limit = width_ - 2 * margin_;
    title_ = wrap_text(chart_.title, text_width_limit / title_size_);
    subtitle_ = wrap_text(chart_.subtitle, text_width_limit / subtitle_size_);
    // They must leave room for the chart.
    title_.resize(std::min<std::size_t>(title_.size(), 3));
    subtitle_.resize(std::min<std::size_t>(subtitle_.size(), 4));

    top_ =
        18 + 23 * static_cast<double>(title_.size()) + 18 * static_cast<double>(subtitle_.size());
    if (!title_.empty() || !subtitle_.empty()) top_ += 12;
    if (!chart_.y_label.empty()) {
      top_ += 14;
      y_label_baseline_ = top_;
    }
    top_ += 12;
    if (strip_rows_ != 0) {
      strip_top_ = top_;
      strip_pitch_ = std::min(11.0, 66 / static_cast<double>(strip_rows_));
      top_ += strip_pitch_ * static_cast<double>(strip_rows_) + 10;
    }
    bottom_ = height_ - 20 - (chart_.x_label.empty() ? 0 : 22) - 18;

    y_.pixel_lo = bottom_;
    y_.pixel_hi = top_;
    y_.make_ticks((bottom_ - top_) / 64);
    double numbers = strip_rows_ == 0 ? 0 : text_width(code_points(chart_.diverged_label)) * 11.5;
    for (const ChartTick& tick : y_.ticks) numbers = std::max(numbers, tick.width() * number_size_);
    left_ = margin_ + std::min(numbers, 160.0) + 8;

    double labels = 0;
    for (const LineSeries& series : chart_.series) {
      if (!series.name.empty()) {
        labels = std::max(labels, text_width(code_points(series.name)) * label_size_);
      }
    }
    right_ = width_ - margin_;
    if (labels != 0) {
      label_limit_ = 230;
      right_ -= connector_ + sample_ + label_gap_ + std::min(labels, label_limit_);
    }
    x_.pixel_lo = left_ + padding_;
    x_.pixel_hi = right_ - padding_;
    x_.make_ticks((right_ - left_) / (x_.scale == AxisScale::linear ? 96 : 54));
  }

  static std::string variables(const Palette& palette) {
    std::string result = "{--us-surface:" + std::string(palette.surface);
    const auto add = [&](const std::string& name, std::string_view colour) {
      result += ";--us-" + name + ":" + std::string(colour);
    };
    add("ink", palette.ink);
    add("muted", palette.muted);
    add("grid", palette.grid);
    add("axis", palette.axis);
    for (std::size_t i = 0; i < palette.series.size(); ++i) {
      add(std::to_string(i), palette.series[i]);
    }
    return result + "}\n";
  }

  void begin_document() {
    const Palette& palette = chart_.theme == ChartTheme::dark ? dark_ : light_;
    std::string description = chart_.description.empty() ? describe() : chart_.description;
    // Several charts may stand in one page, where their names must differ.
    std::uint64_t hash = 0xcbf29ce484222325U;  // FNV-1a
    for (const char byte : chart_.title + '\n' + chart_.subtitle + '\n' + description) {
      hash = (hash ^ static_cast<unsigned char>(byte)) * 0x100000001b3U;
    }
    const std::string id = "us" + std::to_string(hash);

    out_ =
        "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"us-chart\" role=\"img\" "
        "aria-labelledby=\"" +
        id + "t " + id + "d\" width=\"" + svg_number(width_) + "\" height=\"" +
        svg_number(height_) + "\" viewBox=\"0 0 " + svg_number(width_) + " " + svg_number(height_) +
        "\" font-family=\"system-ui, -apple-system, 'Segoe UI', Roboto, "
        "'Helvetica Neue', 'Noto Sans', Arial, sans-serif\">\n";
    out_ += "<title id=\"" + id + "t\">" +
            xml_text(chart_.title.empty() ? "Line chart" : chart_.title) + "</title>\n";
    out_ += "<desc id=\"" + id + "d\">" + xml_text(description) + "</desc>\n";

    out_ += "<style>\n.us-chart" + variables(palette);
    if (chart_.theme == ChartTheme::automatic) {
      out_ += "@media (prefers-color-scheme:dark){.us-chart" + variables(dark_) + "}\n";
    }
    // Each colour stands twice: programs that do not know variables (librsvg, Inkscape) skip the
    // second.
    const auto rule = [&](const std::string& name, const std::string& property,
                          std::string_view colour, const std::string& variable) {
      out_ += ".us-chart ." + name + "{" + property + ":" + std::string(colour) + ";" + property +
              ":var(--us-" + variable + ")}\n";
    };
    rule("us-surface", "fill", palette.surface, "surface");
    rule("us-ink", "fill", palette.ink, "ink");
    rule("us-muted", "fill", palette.muted, "muted");
    rule("us-grid", "stroke", palette.grid, "grid");
    rule("us-axis", "stroke", palette.axis, "axis");
    rule("us-dot", "stroke", palette.surface, "surface");
    for (std::size_t i = 0; i < palette.series.size(); ++i) {
      rule("us-s" + std::to_string(i), "color", palette.series[i], std::to_string(i));
    }
    out_ += ".us-chart text{font-variant-numeric:tabular-nums}\n</style>\n";
    // A surface of our own rather than a transparent one: the page around the picture need not
    // follow the preference that the colours of the lines follow.
    out_ += "<rect class=\"us-surface\" width=\"100%\" height=\"100%\" rx=\"6\"/>\n";
  }

  [[nodiscard]] std::string describe() const {
    const auto value = [](double number) {
      std::array<char, 64> buffer{};
      const auto result = std::to_chars(buffer.data(), buffer.data() + buffer.size(), number,
                                        std::chars_format::general, 4);
      return std::string(buffer.data(), result.ptr);
    };
    std::string result = "Line chart";
    if (!chart_.y_label.empty()) result += " of " + chart_.y_label;
    if (!chart_.x_label.empty()) result += " against " + chart_.x_label;
    result += ".";
    for (const LineSeries& series : chart_.series) {
      result += " " + (series.name.empty() ? std::string("Unnamed line") : series.name) + ": ";
      const auto shown = [&](const auto& point) { return is_shown(point); };
      const auto first = std::find_if(series.points.begin(), series.points.end(), shown);
      const auto last = std::find_if(series.points.rbegin(), series.points.rend(), shown);
      if (first == series.points.end()) {
        result += "no finite points";
      } else {
        const auto least = std::min_element(series.points.begin(), series.points.end(),
                                            [&](const auto& a, const auto& b) {
                                              return shown(a) && (!shown(b) || a.second < b.second);
                                            });
        result += "from " + value(first->second) + " at " + value(first->first) + " to " +
                  value(last->second) + " at " + value(last->first) + ", least " +
                  value(least->second) + " at " + value(least->first);
      }
      const auto diverged = std::count_if(series.points.begin(), series.points.end(),
                                          [&](const auto& point) { return is_diverged(point); });
      if (diverged != 0) result += ", not finite at " + std::to_string(diverged) + " points";
      result += ".";
    }
    return result;
  }

  /// A text at a baseline. `body` is XML.
  void text(double x, double y, std::string_view style, double size, std::string_view anchor,
            const std::string& body, std::string_view more = "") {
    out_ += "<text class=\"" + std::string(style) + "\" x=\"" + svg_number(x) + "\" y=\"" +
            svg_number(y) + "\" font-size=\"" + svg_number(size) + "\"";
    if (anchor != "start") out_ += " text-anchor=\"" + std::string(anchor) + "\"";
    out_ += std::string(more) + ">" + body + "</text>\n";
  }

  void line(double x1, double y1, double x2, double y2, const std::string& attributes) {
    out_ += "<path d=\"M" + svg_number(x1) + " " + svg_number(y1) + "L" + svg_number(x2) + " " +
            svg_number(y2) + "\" " + attributes + "/>\n";
  }

  void draw_texts() {
    double baseline = 18;
    for (const auto& title_line : title_) {
      baseline += 23;
      text(margin_, baseline - 4, "us-ink", title_size_, "start", xml_text(title_line),
           " font-weight=\"600\"");
    }
    for (const auto& subtitle_line : subtitle_) {
      baseline += 18;
      text(margin_, baseline - 3, "us-muted", subtitle_size_, "start", xml_text(subtitle_line));
    }
    if (!chart_.y_label.empty()) {
      text(margin_, y_label_baseline_, "us-ink", label_size_, "start", xml_text(chart_.y_label));
    }
    if (!chart_.x_label.empty()) {
      text((left_ + right_) / 2, height_ - 20, "us-ink", label_size_, "middle",
           xml_text(chart_.x_label));
    }
  }

  [[nodiscard]] static std::string tick_body(const ChartTick& tick) {
    std::string body = xml_text(tick.text);
    if (!tick.power.empty()) {
      body += R"(<tspan dy="-4.5" font-size="9">)" + xml_text(tick.power) + "</tspan>";
    }
    return body;
  }

  void draw_grid() {
    for (const ChartTick& tick : y_.ticks) {
      const double y = y_.pixel_of(tick.position);
      line(left_, y, right_, y, "class=\"us-grid\"");
      if (!tick.text.empty()) {
        text(left_ - 8, y + 4, "us-muted", number_size_, "end", tick_body(tick));
      }
    }
    for (const ChartTick& tick : x_.ticks) {
      const double x = x_.pixel_of(tick.position);
      line(x, bottom_, x, bottom_ + 5, "class=\"us-axis\"");
      if (!tick.text.empty()) {
        text(x, bottom_ + 19, "us-muted", number_size_, "middle", tick_body(tick));
      }
    }
    line(left_, bottom_, right_, bottom_, "class=\"us-axis\"");
  }

  [[nodiscard]] double strip_y(std::size_t series) const {
    return strip_top_ + strip_pitch_ * (static_cast<double>(strip_row_[series].value()) + 0.5);
  }

  void draw_strip() {
    if (strip_rows_ == 0) return;
    const double height = strip_pitch_ * static_cast<double>(strip_rows_);
    text(left_ - 8, strip_top_ + height / 2 + 4, "us-muted", 11.5, "end",
         xml_text(chart_.diverged_label));
    line(left_, strip_top_ + height + 4, right_, strip_top_ + height + 4,
         R"(class="us-axis" stroke-dasharray="1 3")");
  }

  /// Thousands of points fall on one column of pixels; the first, lowest, highest and last of each
  /// give the same picture.
  [[nodiscard]] static std::vector<Pixel> thin_out(const std::vector<Pixel>& pixels) {
    std::vector<Pixel> result;
    const auto column = [](const Pixel& pixel) { return std::floor(pixel.x * 2); };
    for (std::size_t begin = 0; begin < pixels.size();) {
      std::size_t end = begin + 1;
      while (end < pixels.size() && column(pixels[end]) == column(pixels[begin])) ++end;
      const auto [low, high] =
          std::minmax_element(pixels.begin() + static_cast<std::ptrdiff_t>(begin),
                              pixels.begin() + static_cast<std::ptrdiff_t>(end),
                              [](const Pixel& a, const Pixel& b) { return a.y < b.y; });
      std::array<std::size_t, 4> kept{begin, static_cast<std::size_t>(low - pixels.begin()),
                                      static_cast<std::size_t>(high - pixels.begin()), end - 1};
      std::sort(kept.begin(), kept.end());
      const auto kept_end = std::unique(kept.begin(), kept.end());
      std::for_each(kept.begin(), kept_end, [&](std::size_t i) { result.push_back(pixels[i]); });
      begin = end;
    }
    return result;
  }

  [[nodiscard]] bool is_inside(const Pixel& pixel) const {
    return pixel.x >= left_ - 0.5 && pixel.x <= right_ + 0.5 && pixel.y >= top_ - 0.5 &&
           pixel.y <= bottom_ + 0.5;
  }

  [[nodiscard]] Pixel to_pixel(const std::pair<double, double>& point) const {
    // A point far beyond fixed ends of the axes would need more digits than pictures can have.
    return {std::clamp(x_.pixel(point.first), -1e5, 1e5),
            std::clamp(y_.pixel(point.second), -1e5, 1e5)};
  }

  [[nodiscard]] std::string dash_attribute(const LineSeries& series, std::size_t index) const {
    const std::size_t colour = series.colour.value_or(index);
    const std::size_t dash =
        series.dash.value_or(colour + colour / dashes_.size()) % dashes_.size();
    if (dash == 0) return "";
    return " stroke-dasharray=\"" + std::string(dashes_[dash]) + "\"";
  }
  void begin_group(const LineSeries& series, std::size_t index) {
    const std::size_t colour = series.colour.value_or(index) % light_.series.size();
    out_ += "<g class=\"us-s" + std::to_string(colour) + "\">";
    if (!series.name.empty()) out_ += "<title>" + xml_text(series.name) + "</title>";
    out_ += "\n";
  }

  void dot(const Pixel& pixel, double radius) {
    if (!is_inside(pixel)) return;
    out_ += R"(<circle class="us-dot" cx=")" + svg_number(pixel.x) + R"(" cy=")" +
            svg_number(pixel.y) + "\" r=\"" + svg_number(radius) + "\" fill=\"currentColor\"/>\n";
  }

  void draw_series(std::size_t index) {
    const LineSeries& series = chart_.series[index];
    std::vector<std::vector<Pixel>> runs(1);
    std::size_t shown = 0;
    for (const auto& point : series.points) {
      if (is_shown(point)) {
        runs.back().push_back(to_pixel(point));
        ++shown;
      } else if (!runs.back().empty()) {
        runs.emplace_back();
      }
    }
    if (runs.back().empty()) runs.pop_back();

    begin_group(series, index);
    // A nested picture cuts lines off at the ends of the axes without needing a name in the page.
    out_ += "<svg x=\"" + svg_number(left_) + "\" y=\"" + svg_number(top_ - 2) + "\" width=\"" +
            svg_number(right_ - left_) + "\" height=\"" + svg_number(bottom_ - top_ + 3) +
            "\" viewBox=\"" + svg_number(left_) + " " + svg_number(top_ - 2) + " " +
            svg_number(right_ - left_) + " " + svg_number(bottom_ - top_ + 3) +
            "\" overflow=\"hidden\">\n";
    for (const auto& run : runs) {
      if (run.size() < 2) continue;
      out_ +=
          "<path fill=\"none\" stroke=\"currentColor\" stroke-width=\"1.9\" "
          "stroke-linejoin=\"round\"" +
          dash_attribute(series, index) + " d=\"M";
      bool first = true;
      for (const Pixel& pixel : thin_out(run)) {
        if (!std::exchange(first, false)) out_ += "L";
        out_ += svg_number(pixel.x) + " " + svg_number(pixel.y);
      }
      out_ += "\"/>\n";
    }
    out_ += "</svg>\n";

    const bool sparse = static_cast<double>(shown) <= (right_ - left_) / 11;
    for (const auto& run : runs) {
      if (sparse) {
        for (const Pixel& pixel : run) dot(pixel, 3.2);
      } else if (run.size() == 1) {
        dot(run.front(), 2.6);
      }
    }
    // A line that ends at the right is tied to its label there.
    if (!sparse && runs.back().back().x < x_.pixel_hi - 12) dot(runs.back().back(), 3.2);
    if (strip_row_[index]) draw_divergence(index);
    out_ += "</g>\n";
  }

  /// Crosses where the series is not finite, tied to the ends of the lines beside.
  void draw_divergence(std::size_t index) {
    const LineSeries& series = chart_.series[index];
    const double y = strip_y(index);
    const double arm = std::min(3.2, strip_pitch_ / 2 - 0.5);
    const auto tie = [&](double cross_x, const Pixel& end) {
      const Pixel from{std::clamp(end.x, left_, right_), std::clamp(end.y, top_, bottom_)};
      line(
          from.x, from.y, cross_x, y + arm + 1,
          "fill=\"none\" stroke=\"currentColor\" stroke-width=\"1.1\" stroke-dasharray=\"1.5 2.5\" "
          "opacity=\"0.75\"");
    };
    const auto cross = [&](double x) {
      out_ += R"(<path fill="none" stroke="currentColor" stroke-width="1.6" d="M)" +
              svg_number(x - arm) + " " + svg_number(y - arm) + "l" + svg_number(2 * arm) + " " +
              svg_number(2 * arm) + "m0 " + svg_number(-2 * arm) + "l" + svg_number(-2 * arm) +
              " " + svg_number(2 * arm) + "\"/>\n";
    };
    std::optional<Pixel> last_shown;
    std::vector<double> run;  // pixels of the crosses since then
    const auto end_run = [&] {
      if (run.empty()) return;
      const double length = std::abs(run.back() - run.front());
      if (length >= 9 * static_cast<double>(run.size() - 1)) {
        for (const double x : run) cross(x);
      } else {
        // Steps right beside each other: one cross, and a line for as long as it lasts.
        cross(run.front());
        const double direction = run.back() < run.front() ? -1 : 1;
        if (length > arm + 2) {
          line(run.front() + direction * (arm + 2), y, run.back(), y,
               R"(stroke="currentColor" stroke-width="1.6" opacity="0.6")");
        }
      }
    };
    for (const auto& point : series.points) {
      if (is_diverged(point)) {
        const double x = x_.pixel(point.first);
        if (x < left_ - 0.5 || x > right_ + 0.5) continue;
        if (last_shown) tie(x, *last_shown);
        last_shown.reset();
        run.push_back(x);
        continue;
      }
      end_run();
      last_shown.reset();
      if (is_shown(point)) {
        last_shown = to_pixel(point);
        if (!run.empty()) tie(run.back(), *last_shown);
      }
      run.clear();
    }
    end_run();
  }

  /// The names of the lines, in the order in which these end, at the right.
  void draw_labels() {
    struct Label {
      std::size_t series;
      std::optional<Pixel>
          end;  ///< Of the line, if it ends at the right, where a tie can reach it.
      double wanted;
    };
    std::vector<Label> labels;
    for (std::size_t i = 0; i < chart_.series.size(); ++i) {
      const LineSeries& series = chart_.series[i];
      if (series.name.empty()) continue;
      Label label{i, std::nullopt, top_};
      const auto last = std::find_if(series.points.rbegin(), series.points.rend(),
                                     [&](const auto& point) { return is_shown(point); });
      if (last != series.points.rend()) {
        const Pixel end = to_pixel(*last);
        label.wanted = std::clamp(end.y, top_, bottom_);
        if (is_inside(end) && end.x >= x_.pixel_hi - 12) label.end = end;
      }
      labels.push_back(label);
    }
    if (labels.empty()) return;
    std::stable_sort(labels.begin(), labels.end(),
                     [](const Label& a, const Label& b) { return a.wanted < b.wanted; });
    std::vector<double> wanted;
    wanted.reserve(labels.size());
    for (const Label& label : labels) wanted.push_back(label.wanted);
    const double room = bottom_ - top_;
    const double distance = std::min(18.0, room / static_cast<double>(labels.size()));
    const std::vector<double> places = spread(wanted, distance, top_ + 4, bottom_ - 4);

    for (std::size_t i = 0; i < labels.size(); ++i) {
      const LineSeries& series = chart_.series[labels[i].series];
      begin_group(series, labels[i].series);
      const double x = right_ + connector_;
      const double y = places[i];
      if (const auto& end = labels[i].end) {
        line(end->x + 5, end->y, x - 1, y,
             R"(fill="none" stroke="currentColor" stroke-width="1" opacity="0.55")");
      }
      line(x, y, x + sample_, y,
           R"(fill="none" stroke="currentColor" stroke-width="2.2")" +
               dash_attribute(series, labels[i].series));
      text(x + sample_ + label_gap_, y + 0.34 * label_size_, "us-ink",
           std::min(label_size_, 0.85 * distance), "start", xml_text(shortened(series.name)));
      out_ += "</g>\n";
    }
  }

  [[nodiscard]] std::vector<char32_t> shortened(const std::string& name) const {
    std::vector<char32_t> points = code_points(name);
    if (text_width(points) * label_size_ <= label_limit_) return points;
    while (!points.empty() && (text_width(points) + 0.95) * label_size_ > label_limit_) {
      points.pop_back();
    }
    points.push_back(U'\u2026');
    return points;
  }

  const LineChart& chart_;
  Axis x_;
  Axis y_;
  bool has_points_ = false;
  std::vector<std::optional<std::size_t>> strip_row_;  ///< Of each series, if it diverges.
  std::size_t strip_rows_ = 0;
  std::vector<std::vector<char32_t>> title_;
  std::vector<std::vector<char32_t>> subtitle_;
  double y_label_baseline_ = 0;
  double strip_top_ = 0;
  double strip_pitch_ = 0;
  double left_ = 0;
  double right_ = 0;
  double top_ = 0;
  double bottom_ = 0;
  double label_limit_ = 0;
  std::string out_;
};

}  // namespace detail

/// The chart as a self-contained SVG document of 880 by 480 pixels.
///
/// It may stand in a file of its own or inside an HTML page, also beside others of its kind. Its
/// texts are read out by screen readers. A page may set colours of its own by the CSS variables
/// --us-surface, --us-ink, --us-muted, --us-grid, --us-axis and --us-0 to --us-6 of .us-chart.
/// Lines are labelled at their ends; a series with few points shows these as dots.
/// @throws std::invalid_argument if a fixed end of an axis is not finite, not above 0 on a
///         logarithmic axis, or the ends are in the wrong order. No series or point is refused.
[[nodiscard]] inline std::string to_svg(const LineChart& chart) {
  return detail::LineChartDrawing(chart).draw();
}

}  // namespace unit_scaling::analysis
