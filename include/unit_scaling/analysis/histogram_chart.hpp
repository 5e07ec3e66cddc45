// SPDX-License-Identifier: MIT
// unit_scaling: optional
/// @file
/// Layer analysis: exponent histograms over the range of their number format, as an SVG picture.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "unit_scaling/analysis/chart_axis.hpp"
#include "unit_scaling/analysis/chart_document.hpp"
#include "unit_scaling/analysis/chart_palette.hpp"
#include "unit_scaling/analysis/chart_text.hpp"
#include "unit_scaling/analysis/exponent_histogram.hpp"
#include "unit_scaling/formats/format_spec.hpp"

namespace unit_scaling::analysis {

/// One row of a `HistogramChart`. All texts are plain UTF-8, without markup.
struct HistogramRow {
  std::string heading = {};  ///< In bold above the row; empty for a row of the same tensor.
  std::string label;         ///< To the left of the row.
  /// Whose ranges are drawn behind the row. Empty: none are.
  std::optional<FormatSpec> format = std::nullopt;
  /// One for each series of the chart, or fewer; one without elements is not drawn.
  std::vector<ExponentHistogram> histograms = {};
  std::vector<std::string> notes = {};  ///< To the right, one for each head of the chart, or fewer.
};

/// Rows of exponent histograms on one axis of magnitudes. A bar tells which share of a tensor's
/// elements lies in [2^e, 2^(e+1)); the highest bar of a row fills it, and no bar is too low to be
/// seen. Zeros, and NaN with infinities, have columns of their own at the ends.
struct HistogramChart {
  std::string title;     ///< In bold above the chart, in up to 3 lines.
  std::string subtitle;  ///< In small print below the title, in up to 4 lines.
  /// Names of at most three: the first is filled, the others are outlined.
  std::vector<std::string> series = {};
  std::vector<std::string> note_heads = {};
  double row_height = 30;
  /// For readers who do not see the picture. Empty: reads out the notes of the rows.
  std::string description = {};
  ChartTheme theme = ChartTheme::automatic;
  ChartStyle style = ChartStyle::own;
  std::vector<HistogramRow> rows = {};
};

namespace detail {

/// CSS that histograms need beyond that of all charts.
[[nodiscard]] inline std::string histogram_rules(ChartTheme theme) {
  const ChartPalette& palette = theme == ChartTheme::dark ? dark_palette : light_palette;
  return ".us-chart .us-subnormal{fill:" + std::string(palette.grid) +
         ";fill:var(--us-grid)}\n"
         ".us-chart .us-fill{fill:currentColor;stroke:none}\n"
         ".us-chart .us-outline{fill:none;stroke:currentColor;stroke-width:1.5;"
         "stroke-linejoin:round}\n";
}

/// Draws one `HistogramChart`.
class HistogramChartDrawing {
 public:
  explicit HistogramChartDrawing(const HistogramChart& chart) : chart_(chart) {
    if (chart.series.size() > 3) {
      throw std::invalid_argument("HistogramChart: expected at most 3 series, got " +
                                  std::to_string(chart.series.size()));
    }
    if (!(chart.row_height >= 8 && chart.row_height <= 400)) {
      throw std::invalid_argument("HistogramChart: expected rows from 8 to 400 pixels high, got " +
                                  std::to_string(chart.row_height));
    }
    for (const HistogramRow& row : chart.rows) {
      if (row.histograms.size() <= chart.series.size()) continue;
      throw std::invalid_argument("HistogramChart: row '" + row.label + "' has " +
                                  std::to_string(row.histograms.size()) +
                                  " histograms, expected at most one for each of " +
                                  std::to_string(chart.series.size()) + " series");
    }
    choose_range();
    lay_out();
  }

  [[nodiscard]] std::string draw() {
    const std::string description = chart_.description.empty() ? describe() : chart_.description;
    const std::string identity = chart_.title + '\n' + chart_.subtitle + '\n' + description;
    const std::string rules = histogram_rules(chart_.theme);
    begin_chart(out_, {.title = chart_.title.empty() ? "Exponent histograms" : chart_.title,
                       .identity = identity,
                       .description = description,
                       .theme = chart_.theme,
                       .style = chart_.style,
                       .more_rules = rules,
                       .width = width_,
                       .height = height_});
    hatch_ = chart_id(identity) + "h";
    out_ += "<defs><pattern id=\"" + hatch_ +
            "\" width=\"5\" height=\"5\" patternUnits=\"userSpaceOnUse\" "
            "patternTransform=\"rotate(45)\"><path class=\"us-axis\" d=\"M0 0V5\" "
            "stroke-width=\"1.3\"/></pattern></defs>\n";
    draw_texts();
    draw_legend();
    draw_heads();
    double y = rows_top_;
    for (const HistogramRow& row : chart_.rows) {
      y += space_above(row);
      if (!row.heading.empty()) {
        svg_text(out_, margin_, y + heading_height_ - 7, "us-ink", 12.5, "start",
                 xml_text(shortened_text(row.heading, (width_ - 2 * margin_) / 12.5)),
                 " font-weight=\"600\"");
        y += heading_height_;
      }
      draw_row(row, y);
      y += chart_.row_height;
    }
    draw_axis(y);
    out_ += "</svg>\n";
    return std::move(out_);
  }

 private:
  static constexpr double width_ = 880;
  static constexpr double margin_ = 24;
  static constexpr double title_size_ = 17;
  static constexpr double subtitle_size_ = 13;
  static constexpr double number_size_ = 11.5;
  static constexpr double heading_height_ = 24;
  static constexpr double column_ = 22;  ///< Width of the columns of zeros and the like.
  static constexpr double gap_ = 5;      ///< Beside these.

  [[nodiscard]] static bool has_elements(const ExponentHistogram& histogram) {
    return histogram.elements() > 0;
  }

  /// Makes the axis show all but the least thousandth of each tensor, which goes into a column of
  /// its own, and the ends of the formats that lie near.
  void choose_range() {
    bool any = false;
    const auto include = [&](int first, int last) {
      first_ = any ? std::min(first_, first) : first;
      last_ = any ? std::max(last_, last) : last;
      any = true;
    };
    for (const HistogramRow& row : chart_.rows) {
      for (const ExponentHistogram& histogram : row.histograms) {
        has_non_finite_ = has_non_finite_ || histogram.non_finite > 0;
        if (histogram.counts.empty()) continue;
        const std::uint64_t few = histogram.elements() / 1000;
        std::uint64_t below = 0;
        std::size_t first = 0;
        while (first + 1 < histogram.counts.size() && below + histogram.counts[first] <= few) {
          below += histogram.counts[first++];
        }
        include(histogram.first_exponent + static_cast<int>(first),
                histogram.first_exponent + static_cast<int>(histogram.counts.size()) - 1);
      }
    }
    if (!any) include(-8, 7);
    include(-1, 0);  // unit scale
    constexpr int near = 30;
    const int data_first = first_;
    const int data_last = last_;
    for (const HistogramRow& row : chart_.rows) {
      if (!row.format) continue;
      const int smallest = row.format->min_subnormal_exponent() - 2;
      const int largest = row.format->max_exponent() + 1;
      if (smallest >= data_first - near) include(smallest, smallest);
      if (largest <= data_last + near) include(largest, largest);
    }
    for (const HistogramRow& row : chart_.rows) {
      for (const ExponentHistogram& histogram : row.histograms) {
        has_tiny_ = has_tiny_ || tiny(histogram) > 0;
      }
    }
  }

  /// Elements below the axis, but for zeros.
  [[nodiscard]] std::uint64_t tiny(const ExponentHistogram& histogram) const {
    std::uint64_t sum = 0;
    for (std::size_t i = 0; i < histogram.counts.size(); ++i) {
      if (histogram.first_exponent + static_cast<int>(i) < first_) sum += histogram.counts[i];
    }
    return sum;
  }

  /// Decides where everything goes.
  void lay_out() {
    title_ = wrap_text(chart_.title, (width_ - 2 * margin_) / title_size_);
    subtitle_ = wrap_text(chart_.subtitle, (width_ - 2 * margin_) / subtitle_size_);
    title_.resize(std::min<std::size_t>(title_.size(), 3));
    subtitle_.resize(std::min<std::size_t>(subtitle_.size(), 4));

    row_size_ = std::clamp(chart_.row_height - 5, 6.0, 12.0);
    double labels = 0;
    std::vector<double> notes;  // widths
    for (const std::string& head : chart_.note_heads) {
      double widest = 0;
      for (const auto& word : wrap_text(head, 0)) widest = std::max(widest, text_width(word));
      notes.push_back(widest * number_size_);
    }
    for (const HistogramRow& row : chart_.rows) {
      labels = std::max(labels, text_width(code_points(row.label)) * row_size_);
      for (std::size_t i = 0; i < std::min(notes.size(), row.notes.size()); ++i) {
        notes[i] = std::max(notes[i], text_width(code_points(row.notes[i])) * row_size_);
      }
    }
    label_width_ = std::min(labels, 270.0);
    double right = width_ - margin_;
    note_right_.assign(notes.size(), 0);
    for (std::size_t i = notes.size(); i-- > 0;) {
      note_width_.insert(note_width_.begin(), std::min(notes[i], 110.0));
      note_right_[i] = right;
      right -= note_width_.front() + 12;
    }
    zero_left_ = margin_ + label_width_ + 12;
    axis_.lo = first_;
    axis_.hi = last_ + 1;
    axis_.pixel_lo = zero_left_ + (column_ + gap_) * (has_tiny_ ? 2 : 1);
    axis_.pixel_hi = right - (has_non_finite_ ? column_ + gap_ : 0);
    // However many notes there are, a chart is left.
    axis_.pixel_hi = std::max(axis_.pixel_hi, axis_.pixel_lo + 60);
    axis_.ticks = logarithmic_ticks(2, axis_.lo, axis_.hi, (axis_.pixel_hi - axis_.pixel_lo) / 46);

    double y =
        18 + 23 * static_cast<double>(title_.size()) + 18 * static_cast<double>(subtitle_.size());
    lay_out_legend(y);
    rows_top_ = y + 40;
    height_ = rows_top_;
    for (const HistogramRow& row : chart_.rows) {
      height_ += space_above(row) + chart_.row_height + (row.heading.empty() ? 0 : heading_height_);
    }
    height_ += 54;
  }

  [[nodiscard]] double space_above(const HistogramRow& row) const {
    return row.heading.empty() || &row == &chart_.rows.front() ? 0 : 6;
  }

  void lay_out_legend(double& y) {
    double x = margin_;
    y += 14;
    const auto add = [&](const std::string& name, int what) {
      const double length = 24 + text_width(code_points(name)) * 12 + 22;
      if (x > margin_ && x + length > width_ - margin_) {
        x = margin_;
        y += 20;
      }
      legend_.push_back({x, y, name, what});
      x += length;
    };
    for (std::size_t i = 0; i < chart_.series.size(); ++i) {
      if (!chart_.series[i].empty()) add(chart_.series[i], static_cast<int>(i));
    }
    const bool has_format = std::any_of(chart_.rows.begin(), chart_.rows.end(),
                                        [](const auto& row) { return row.format.has_value(); });
    if (has_format) {
      add("normal range of the row's format", normal_);
      add("subnormal", subnormal_);
      add("rounds to zero, or overflows", lost_);
    }
  }

  void draw_texts() {
    double baseline = 18;
    for (const auto& line : title_) {
      baseline += 23;
      svg_text(out_, margin_, baseline - 4, "us-ink", title_size_, "start", xml_text(line),
               " font-weight=\"600\"");
    }
    for (const auto& line : subtitle_) {
      baseline += 18;
      svg_text(out_, margin_, baseline - 3, "us-muted", subtitle_size_, "start", xml_text(line));
    }
  }

  void draw_legend() {
    for (const LegendEntry& entry : legend_) {
      const double top = entry.y - 9;
      if (entry.what >= 0) {
        out_ += "<g class=\"us-s" + std::to_string(entry.what) + "\"><path class=\"" +
                style_of(static_cast<std::size_t>(entry.what)) + "\" d=\"M" + svg_number(entry.x) +
                " " + svg_number(top + 10) +
                (entry.what == 0 ? "v-6h6v-4h6v7h6v3z" : "v-6h6v-4h6v7h6v3") + "\"" +
                dash_of(static_cast<std::size_t>(entry.what)) + "/></g>\n";
      } else {
        zone(entry.x, entry.x + 18, top, 10, entry.what);
        out_ += "<path class=\"us-axis\" fill=\"none\" d=\"M" + svg_number(entry.x) + " " +
                svg_number(top) + "h18v10h-18z\"/>\n";
      }
      svg_text(out_, entry.x + 24, entry.y + 1, "us-ink", 12, "start", xml_text(entry.name));
    }
  }

  void draw_heads() {
    const double baseline = rows_top_ - 8;
    for (std::size_t i = 0; i < chart_.note_heads.size(); ++i) {
      auto lines = wrap_text(chart_.note_heads[i], note_width_[i] / number_size_ + 0.01);
      lines.resize(std::min<std::size_t>(lines.size(), 2));
      double y = baseline - 13 * (static_cast<double>(lines.size()) - 1);
      for (const auto& line : lines) {
        svg_text(out_, note_right_[i], y, "us-muted", number_size_, "end", xml_text(line));
        y += 13;
      }
    }
    draw_columns(baseline);
  }

  /// The names of the columns at the ends of the axis.
  void draw_columns(double baseline) {
    svg_text(out_, zero_left_ + column_ / 2, baseline, "us-muted", number_size_, "middle", "0");
    if (has_tiny_) {
      svg_text(out_, zero_left_ + column_ * 1.5 + gap_, baseline, "us-muted", number_size_,
               "middle", "tiny");
    }
    if (has_non_finite_) {
      svg_text(out_, axis_.pixel_hi + gap_ + column_ / 2, baseline, "us-muted", number_size_,
               "middle", "NaN");
    }
  }

  void draw_axis(double y) {
    svg_line(out_, axis_.pixel_lo, y + 2, axis_.pixel_hi, y + 2, "class=\"us-axis\"");
    for (const ChartTick& tick : axis_.ticks) {
      const double x = axis_.pixel_of(tick.position);
      svg_line(out_, x, y + 2, x, y + 7, "class=\"us-axis\"");
      std::string body = xml_text(tick.text);
      if (!tick.power.empty()) {
        body += R"(<tspan dy="-4.5" font-size="9">)" + xml_text(tick.power) + "</tspan>";
      }
      svg_text(out_, x, y + 20, "us-muted", number_size_, "middle", body);
    }
    draw_columns(y + 20);
    svg_text(out_, (axis_.pixel_lo + axis_.pixel_hi) / 2, y + 40, "us-ink", 12, "middle",
             "magnitude");
    // Unit scale, through all rows.
    const double one = axis_.pixel_of(0);
    svg_line(out_, one, rows_top_ - 2, one, y + 2, "class=\"us-axis\" stroke-dasharray=\"2 3\"");
  }

  static constexpr int normal_ = -1;
  static constexpr int subnormal_ = -2;
  static constexpr int lost_ = -3;

  /// A part of a row's background: a range of its format.
  void zone(double left, double right, double top, double height, int what) {
    if (what == normal_ || right - left < 0.05) return;
    out_ += "<path " +
            (what == subnormal_ ? std::string("class=\"us-subnormal\"")
                                : "fill=\"url(#" + hatch_ + ")\" opacity=\"0.55\"") +
            " d=\"M" + svg_number(left) + " " + svg_number(top) + "H" + svg_number(right) + "v" +
            svg_number(height) + "H" + svg_number(left) + "z\"/>\n";
  }

  void draw_zones(const FormatSpec& format, double top, double height) {
    const auto place = [&](double magnitude) {
      return std::clamp(axis_.pixel_of(std::log2(magnitude)), axis_.pixel_lo, axis_.pixel_hi);
    };
    const double lost = place(format.min_subnormal() / 2);
    const double subnormal = place(format.min_normal());
    const double largest = place(format.max_finite());
    zone(axis_.pixel_lo, lost, top, height, lost_);
    zone(lost, subnormal, top, height, subnormal_);
    zone(largest, axis_.pixel_hi, top, height, lost_);
    std::string edges;
    for (const double x : {lost, subnormal, largest}) {
      if (x <= axis_.pixel_lo || x >= axis_.pixel_hi) continue;
      edges += "M" + svg_number(x) + " " + svg_number(top) + "v" + svg_number(height);
    }
    if (!edges.empty()) out_ += "<path class=\"us-axis\" d=\"" + edges + "\"/>\n";
  }

  void draw_row(const HistogramRow& row, double y) {
    const double base = y + chart_.row_height - 1;
    const double room = chart_.row_height - 3;
    if (row.format) draw_zones(*row.format, base - room, room);
    svg_line(out_, zero_left_, base, axis_.pixel_hi + (has_non_finite_ ? gap_ + column_ : 0), base,
             "class=\"us-grid\"");
    const double middle = base - room / 2 + 0.36 * row_size_;
    svg_text(out_, margin_, middle, "us-ink", row_size_, "start",
             xml_text(shortened_text(row.label, label_width_ / row_size_ + 0.01)));
    for (std::size_t i = 0; i < std::min(row.notes.size(), note_right_.size()); ++i) {
      if (row.notes[i].empty()) continue;
      svg_text(out_, note_right_[i], middle, "us-ink", row_size_, "end",
               xml_text(shortened_text(row.notes[i], note_width_[i] / row_size_ + 0.01)));
    }
    double highest = 0;  // share
    for (const ExponentHistogram& histogram : row.histograms) {
      for (const Bar& bar : bars(histogram)) highest = std::max(highest, bar.share);
    }
    for (std::size_t i = 0; i < row.histograms.size(); ++i) {
      if (has_elements(row.histograms[i]))
        draw_histogram(row.histograms[i], i, base, room, highest);
    }
  }

  /// A bar in pixels, and its share of the elements.
  struct Bar {
    double left;
    double right;
    double share;
  };

  [[nodiscard]] std::vector<Bar> bars(const ExponentHistogram& histogram) const {
    std::vector<Bar> result;
    const auto elements = static_cast<double>(histogram.elements());
    const auto add = [&](double left, double right, std::uint64_t count) {
      if (count > 0) result.push_back({left, right, static_cast<double>(count) / elements});
    };
    add(zero_left_, zero_left_ + column_, histogram.zeros);
    add(zero_left_ + column_ + gap_, zero_left_ + 2 * column_ + gap_, tiny(histogram));
    for (int exponent = first_; exponent <= last_; ++exponent) {
      add(axis_.pixel_of(exponent), axis_.pixel_of(exponent + 1), histogram.count(exponent));
    }
    add(axis_.pixel_hi + gap_, axis_.pixel_hi + gap_ + column_, histogram.non_finite);
    return result;
  }

  [[nodiscard]] static std::string style_of(std::size_t series) {
    return series == 0 ? "us-fill" : "us-outline";
  }
  [[nodiscard]] static std::string dash_of(std::size_t series) {
    return series == 2 ? " stroke-dasharray=\"3 2\"" : "";
  }

  void draw_histogram(const ExponentHistogram& histogram, std::size_t series, double base,
                      double room, double highest) {
    std::string path;
    double at = -1;  // where the outline stands, on the base line or on a bar
    for (const Bar& bar : bars(histogram)) {
      const std::string top = svg_number(base - std::max(1.0, bar.share / highest * (room - 1)));
      if (std::abs(bar.left - at) > 0.01) {
        if (at >= 0) path += "V" + svg_number(base);
        path += "M" + svg_number(bar.left) + " " + svg_number(base);
      }
      path += "V" + top + "H" + svg_number(bar.right);
      at = bar.right;
    }
    path += "V" + svg_number(base);
    out_ += "<g class=\"us-s" + std::to_string(series) + "\"><path class=\"" + style_of(series) +
            "\"" + dash_of(series) + " d=\"" + path + "\"/></g>\n";
  }

  [[nodiscard]] std::string describe() const {
    std::string text = "Histograms of binary exponents, a row for each tensor.";
    std::string heading;
    for (const HistogramRow& row : chart_.rows) {
      if (!row.heading.empty()) heading = row.heading + ", ";
      text += " " + heading + row.label + ":";
      for (std::size_t i = 0; i < std::min(row.notes.size(), chart_.note_heads.size()); ++i) {
        text += (i == 0 ? " " : ", ") + chart_.note_heads[i] + " " + row.notes[i];
      }
      text += ".";
    }
    return text;
  }

  struct LegendEntry {
    double x;
    double y;
    std::string name;
    int what;  ///< A series, or one of the ranges of a format.
  };

  const HistogramChart& chart_;
  int first_ = 0;  ///< The exponents on the axis.
  int last_ = 0;
  bool has_tiny_ = false;
  bool has_non_finite_ = false;
  ChartAxis axis_;
  std::vector<std::vector<char32_t>> title_;
  std::vector<std::vector<char32_t>> subtitle_;
  std::vector<LegendEntry> legend_;
  std::vector<double> note_right_;  ///< Where each column of notes ends.
  std::vector<double> note_width_;
  double row_size_ = 12;
  double label_width_ = 0;
  double zero_left_ = 0;
  double rows_top_ = 0;
  double height_ = 0;
  std::string hatch_;
  std::string out_;
};

}  // namespace detail

/// The chart as an SVG document, 880 pixels wide and as high as its rows ask for. What to_svg of a
/// `LineChart` says of pages and colours holds for it too.
/// @throws std::invalid_argument for more than 3 series, more histograms in a row than series, or
///         rows that are not from 8 to 400 pixels high.
[[nodiscard]] inline std::string to_svg(const HistogramChart& chart) {
  return detail::HistogramChartDrawing(chart).draw();
}

}  // namespace unit_scaling::analysis
