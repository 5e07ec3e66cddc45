// SPDX-License-Identifier: MIT
/// @file
/// Layer analysis: a line chart as an SVG picture, for training curves and sweeps.
#pragma once

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "unit_scaling/analysis/chart_axis.hpp"
#include "unit_scaling/analysis/chart_document.hpp"
#include "unit_scaling/analysis/chart_palette.hpp"
#include "unit_scaling/analysis/chart_path.hpp"
#include "unit_scaling/analysis/chart_text.hpp"
#include "unit_scaling/core/target.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::analysis {

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
  bool marks_points = true;  ///< Where there are few, each point has a dot.
  ChartTheme theme = ChartTheme::automatic;
  ChartStyle style = ChartStyle::own;
  std::vector<LineSeries> series;
};

namespace detail {

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
      svg_text(out_, (left_ + right_) / 2, (top_ + bottom_) / 2, "us-muted", 13, "middle",
               xml_text("no finite points"));
    }
    out_ += "</svg>\n";
    return std::move(out_);
  }

 private:
  /// A point in pixels.
  struct Pixel {
    double x;
    double y;
  };

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

  [[nodiscard]] static bool is_diverging(double y) { return !(std::abs(y) <= chart_largest); }

  [[nodiscard]] bool is_diverged(const std::pair<double, double>& point) const {
    return x_.shows(point.first) && is_diverging(point.second);
  }
  [[nodiscard]] bool is_shown(const std::pair<double, double>& point) const {
    return x_.shows(point.first) && y_.shows(point.second);
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

  /// Decides where everything goes.
  void lay_out() {
    const double text_width_limit = width_ - 2 * margin_;
    // They must leave room for the chart.
    title_ = first_lines(wrap_text(chart_.title, text_width_limit / title_size_), 3);
    subtitle_ = first_lines(wrap_text(chart_.subtitle, text_width_limit / subtitle_size_), 4);

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

  void begin_document() {
    const std::string description = chart_.description.empty() ? describe() : chart_.description;
    begin_chart(out_, {.title = chart_.title.empty() ? "Line chart" : chart_.title,
                       .identity = chart_.title + '\n' + chart_.subtitle + '\n' + description,
                       .description = description,
                       .theme = chart_.theme,
                       .style = chart_.style,
                       .width = width_,
                       .height = height_});
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

  void draw_texts() {
    svg_titles(out_, margin_, title_, title_size_, subtitle_, subtitle_size_);
    if (!chart_.y_label.empty()) {
      svg_text(out_, margin_, y_label_baseline_, "us-ink", label_size_, "start",
               xml_text(chart_.y_label));
    }
    if (!chart_.x_label.empty()) {
      svg_text(out_, (left_ + right_) / 2, height_ - 20, "us-ink", label_size_, "middle",
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
      svg_line(out_, left_, y, right_, y, "class=\"us-grid\"");
      if (!tick.text.empty()) {
        svg_text(out_, left_ - 8, y + 4, "us-muted", number_size_, "end", tick_body(tick));
      }
    }
    for (const ChartTick& tick : x_.ticks) {
      const double x = x_.pixel_of(tick.position);
      svg_line(out_, x, bottom_, x, bottom_ + 5, "class=\"us-axis\"");
      if (!tick.text.empty()) {
        svg_text(out_, x, bottom_ + 19, "us-muted", number_size_, "middle", tick_body(tick));
      }
    }
    svg_line(out_, left_, bottom_, right_, bottom_, "class=\"us-axis\"");
  }

  [[nodiscard]] double strip_y(std::size_t series) const {
    return strip_top_ + strip_pitch_ * (static_cast<double>(strip_row_[series].value()) + 0.5);
  }

  void draw_strip() {
    if (strip_rows_ == 0) return;
    const double height = strip_pitch_ * static_cast<double>(strip_rows_);
    svg_text(out_, left_ - 8, strip_top_ + height / 2 + 4, "us-muted", 11.5, "end",
             xml_text(chart_.diverged_label));
    svg_line(out_, left_, strip_top_ + height + 4, right_, strip_top_ + height + 4,
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
        series.dash.value_or(colour + colour / chart_dashes.size()) % chart_dashes.size();
    if (dash == 0) return "";
    return " stroke-dasharray=\"" + std::string(chart_dashes[dash]) + "\"";
  }
  void begin_group(const LineSeries& series, std::size_t index) {
    const std::size_t colour = series.colour.value_or(index) % light_palette.series.size();
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
    // Only lines that go beyond ends that were asked for are cut.
    const bool is_cut = chart_.x_min || chart_.x_max || chart_.y_min || chart_.y_max;
    if (is_cut) {
      out_ += "<svg x=\"" + svg_number(left_) + "\" y=\"" + svg_number(top_ - 2) + "\" width=\"" +
              svg_number(right_ - left_) + "\" height=\"" + svg_number(bottom_ - top_ + 3) +
              "\" viewBox=\"" + svg_number(left_) + " " + svg_number(top_ - 2) + " " +
              svg_number(right_ - left_) + " " + svg_number(bottom_ - top_ + 3) +
              "\" overflow=\"hidden\">\n";
    }
    for (const auto& run : runs) {
      if (run.size() < 2) continue;
      SvgPath path;
      for (const Pixel& pixel : thin_out(run)) {
        if (path.empty()) {
          path.move_to(pixel.x, pixel.y);
        } else {
          path.line_to(pixel.x, pixel.y);
        }
      }
      out_ += "<path class=\"us-line\"" + dash_attribute(series, index) + " d=\"" + path.text() +
              "\"/>\n";
    }
    if (is_cut) out_ += "</svg>\n";

    const bool sparse = chart_.marks_points && static_cast<double>(shown) <= (right_ - left_) / 11;
    for (const auto& run : runs) {
      if (sparse) {
        for (const Pixel& pixel : run) dot(pixel, 3.2);
      } else if (run.size() == 1) {
        dot(run.front(), 2.6);
      }
    }
    // A line that ends at the right is tied to its label there.
    if (!sparse && !runs.empty() && runs.back().back().x < x_.pixel_hi - 12)
      dot(runs.back().back(), 3.2);
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
      svg_line(
          out_, from.x, from.y, cross_x, y + arm + 1,
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
          svg_line(out_, run.front() + direction * (arm + 2), y, run.back(), y,
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

    std::vector<std::string> names;
    names.reserve(labels.size());
    for (const Label& label : labels) names.push_back(chart_.series[label.series].name);
    const auto shown = shortened_labels(names, label_limit_ / label_size_);
    for (std::size_t i = 0; i < labels.size(); ++i) {
      const LineSeries& series = chart_.series[labels[i].series];
      begin_group(series, labels[i].series);
      const double x = right_ + connector_;
      const double y = places[i];
      if (const auto& end = labels[i].end) {
        svg_line(out_, end->x + 5, end->y, x - 1, y, R"(class="us-tie")");
      }
      svg_line(out_, x, y, x + sample_, y,
               R"(class="us-sample")" + dash_attribute(series, labels[i].series));
      svg_text(out_, x + sample_ + label_gap_, y + 0.34 * label_size_, "us-ink us-name",
               std::min(label_size_, 0.85 * distance), "start", xml_text(shown[i]));
      out_ += "</g>\n";
    }
  }

  const LineChart& chart_;
  ChartAxis x_;
  ChartAxis y_;
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
/// Lines are labelled at their ends.
/// @throws std::invalid_argument if a fixed end of an axis is not finite, not above 0 on a
///         logarithmic axis, or the ends are in the wrong order. No series or point is refused.
[[nodiscard]] inline std::string to_svg(const LineChart& chart) {
  return detail::LineChartDrawing(chart).draw();
}

}  // namespace UNIT_SCALING_NAMESPACE::analysis

UNIT_SCALING_IEEE_END
