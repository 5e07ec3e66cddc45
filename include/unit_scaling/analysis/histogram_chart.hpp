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
#include "unit_scaling/analysis/chart_path.hpp"
#include "unit_scaling/analysis/chart_text.hpp"
#include "unit_scaling/analysis/exponent_histogram.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/formats/format_spec.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::analysis {

/// One row of a `HistogramChart`. All texts are plain UTF-8, without markup.
struct HistogramRow {
  std::string heading = {};  ///< In bold above the row; empty for a row of the same tensor.
  std::string label = {};    ///< To the left of the row.
  /// Whose ranges are drawn behind the row. Empty: none are.
  std::optional<FormatSpec> format = std::nullopt;
  /// One for each series of the chart, or fewer; one without elements is not drawn.
  std::vector<ExponentHistogram> histograms = {};
  std::vector<std::string> notes = {};  ///< To the right, one for each head of the chart, or fewer.
};

/// Rows of exponent histograms on one axis of magnitudes. A bar tells which share of a tensor's
/// elements lies in [2^e, 2^(e+1)); the highest bar of a row fills it, and no bar is too low to be
/// seen. Zeros, and NaN with infinities, have columns of their own at the ends, where a bar that
/// fills its row stands for all elements.
struct HistogramChart {
  std::string title = {};     ///< In bold above the chart, in up to 3 lines.
  std::string subtitle = {};  ///< In small print below the title, in up to 4 lines.
  /// Names of at most three: the first is filled, the others are outlined.
  std::vector<std::string> series = {};
  std::vector<std::string> note_heads = {};
  double row_height = 30;
  double width = 880;  ///< In pixels.
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
         ".us-chart .us-fill path{fill:currentColor;stroke:none}\n"
         ".us-chart .us-outline path{fill:none;stroke:currentColor;stroke-width:1.5;"
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
    if (!(chart.width >= 600 && chart.width <= 4000)) {
      throw std::invalid_argument("HistogramChart: expected a width from 600 to 4000 pixels, got " +
                                  std::to_string(chart.width));
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
    draw_backgrounds();
    for (std::size_t i = 0; i < chart_.series.size(); ++i) draw_series(i);
    draw_text_columns();
    draw_axis();
    out_ += "</svg>\n";
    return std::move(out_);
  }

 private:
  static constexpr double margin_ = 24;
  /// Of the width, what the axis has at least; labels are cut for it, though not below the latter.
  static constexpr double least_axis_ = 0.32;
  static constexpr double least_label_width_ = 120;
  static constexpr double most_label_width_ = 270;
  static constexpr double title_size_ = 17;
  static constexpr double subtitle_size_ = 13;
  static constexpr double number_size_ = 11.5;
  static constexpr double heading_height_ = 24;
  static constexpr double column_ = 22;    ///< Width of the columns of zeros and the like.
  static constexpr double gap_ = 5;        ///< Between these.
  static constexpr double axis_gap_ = 14;  ///< Between these and the axis.

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
    const double room = width_ - 2 * margin_;
    title_ = first_lines(wrap_text(chart_.title, room / title_size_), 3);
    // Longer lines are hard to read.
    subtitle_ = first_lines(wrap_text(chart_.subtitle, std::min(room, 832.0) / subtitle_size_), 4);

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
    double right = width_ - margin_;
    note_right_.assign(notes.size(), 0);
    for (std::size_t i = notes.size(); i-- > 0;) {
      note_width_.insert(note_width_.begin(), std::min(notes[i], 110.0));
      note_right_[i] = right;
      right -= note_width_.front() + 14;
    }
    for (std::size_t i = 0; i < notes.size(); ++i) {
      head_.push_back(wrap_text(chart_.note_heads[i], note_width_[i] / number_size_ + 0.01));
      head_lines_ = std::max(head_lines_, head_.back().size());
    }
    const double columns = 12 + column_ + (has_tiny_ ? gap_ + column_ : 0) + axis_gap_ +
                           (has_non_finite_ ? column_ + axis_gap_ : 0);
    const double for_labels = right - margin_ - columns - least_axis_ * width_;
    label_width_ = std::min(labels, std::clamp(for_labels, least_label_width_, most_label_width_));
    shorten_labels();
    zero_left_ = std::floor(margin_ + label_width_ + 12);
    axis_.lo = first_;
    axis_.hi = last_ + 1;
    axis_.pixel_lo = zero_left_ + column_ + (has_tiny_ ? gap_ + column_ : 0) + axis_gap_;
    axis_.pixel_hi = right - (has_non_finite_ ? column_ + axis_gap_ : 0);
    // However many notes there are, a chart is left. Bars of half pixels make short paths.
    const double bins = axis_.hi - axis_.lo;
    bar_ = std::max(std::floor(2 * (axis_.pixel_hi - axis_.pixel_lo) / bins) / 2, 1.0);
    axis_.pixel_lo = std::floor(axis_.pixel_lo);
    axis_.pixel_hi = axis_.pixel_lo + bar_ * bins;
    axis_.ticks = logarithmic_ticks(2, axis_.lo, axis_.hi, (axis_.pixel_hi - axis_.pixel_lo) / 46);

    double y =
        18 + 23 * static_cast<double>(title_.size()) + 18 * static_cast<double>(subtitle_.size());
    lay_out_legend(y);
    rows_top_ = y + 14 + 13 * static_cast<double>(head_lines_);
    rows_bottom_ = rows_top_;
    for (const HistogramRow& row : chart_.rows) {
      const bool is_first = row_top_.empty();
      if (!row.heading.empty()) rows_bottom_ += heading_height_ + (is_first ? 0 : 6);
      row_top_.push_back(rows_bottom_);
      rows_bottom_ += chart_.row_height;
    }
    height_ = rows_bottom_ + 54;
  }

  /// Shortens labels; those of one heading are told apart.
  void shorten_labels() {
    for (std::size_t begin = 0; begin < chart_.rows.size();) {
      std::vector<std::string> labels;
      std::size_t end = begin;
      do {
        labels.push_back(chart_.rows[end++].label);
      } while (end < chart_.rows.size() && chart_.rows[end].heading.empty());
      for (auto& label : shortened_labels(labels, label_width_ / row_size_ + 0.01)) {
        label_.push_back(std::move(label));
      }
      begin = end;
    }
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

  void draw_texts() { svg_titles(out_, margin_, title_, title_size_, subtitle_, subtitle_size_); }

  void draw_legend() {
    for (const LegendEntry& entry : legend_) {
      const double top = entry.y - 9;
      if (entry.what >= 0) {
        const auto series = static_cast<std::size_t>(entry.what);
        out_ += "<g class=\"us-s" + std::to_string(series) + " " + std::string(style_of(series)) +
                "\"" + std::string(dash_of(series)) + "><path d=\"M" + svg_number(entry.x) + " " +
                svg_number(top + 10) + "v-6h6v-4h6v7h6v3\"/></g>\n";
      } else {
        Zones zones;
        if (entry.what != normal_) {
          Zones::add(entry.what == lost_ ? zones.lost : zones.subnormal, entry.x, entry.x + 18, top,
                     top + 10);
        }
        draw_zones(zones);
        out_ += R"(<path class="us-axis" fill="none" d="M)" + svg_number(entry.x) + " " +
                svg_number(top) + "h18v10h-18z\"/>\n";
      }
      svg_text(out_, entry.x + 24, entry.y + 1, "us-ink", 12, "start", xml_text(entry.name));
    }
  }

  void draw_heads() {
    const double baseline = rows_top_ - 8;
    for (std::size_t i = 0; i < chart_.note_heads.size(); ++i) {
      double y = baseline - 13 * (static_cast<double>(head_[i].size()) - 1);
      std::string body;
      for (const auto& line : head_[i]) {
        body += "<tspan x=\"" + svg_number(note_right_[i]) + "\" y=\"" + svg_number(y) + "\">" +
                xml_text(line) + "</tspan>";
        y += 13;
      }
      svg_text(out_, note_right_[i], baseline, "us-muted us-head", number_size_, "end", body);
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
      svg_text(out_, axis_.pixel_hi + axis_gap_ + column_ / 2, baseline, "us-muted", number_size_,
               "middle", "NaN");
    }
  }

  void draw_axis() {
    const double y = rows_bottom_;
    svg_line(out_, axis_.pixel_lo, y + 2, axis_.pixel_hi, y + 2, "class=\"us-axis us-range\"");
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
    svg_line(out_, one, rows_top_ - 2, one, y + 2, R"(class="us-axis" stroke-dasharray="2 3")");
  }

  static constexpr int normal_ = -1;
  static constexpr int subnormal_ = -2;
  static constexpr int lost_ = -3;

  /// Ranges of formats behind the rows, each kind of which is one path.
  struct Zones {
    SvgPath lost;
    SvgPath subnormal;
    SvgPath edges;

    static void add(SvgPath& path, double left, double right, double top, double bottom) {
      if (right - left < 0.05) return;
      path.move_to(left, top);
      path.horizontal_to(right);
      path.vertical_to(bottom);
      path.horizontal_to(left);  // a fill closes it
    }
  };

  /// The ranges of a format behind rows from `top` to `bottom`.
  void add_zones(Zones& zones, const FormatSpec& format, double top, double bottom) const {
    const auto place = [&](double magnitude) {
      return std::clamp(axis_.pixel_of(std::log2(magnitude)), axis_.pixel_lo, axis_.pixel_hi);
    };
    const double lost = place(format.min_subnormal() / 2);
    const double subnormal = place(format.min_normal());
    const double largest = place(format.max_finite());
    Zones::add(zones.lost, axis_.pixel_lo, lost, top, bottom);
    Zones::add(zones.subnormal, lost, subnormal, top, bottom);
    Zones::add(zones.lost, largest, axis_.pixel_hi, top, bottom);
    for (const double x : {lost, subnormal, largest}) {
      if (x <= axis_.pixel_lo || x >= axis_.pixel_hi) continue;
      zones.edges.move_to(x, top);
      zones.edges.vertical_to(bottom);
    }
  }

  void draw_zones(const Zones& zones) {
    if (!zones.lost.empty()) {
      out_ += "<path fill=\"url(#" + hatch_ + ")\" opacity=\"0.55\" d=\"" + zones.lost.text() +
              "\"/>\n";
    }
    if (!zones.subnormal.empty()) {
      out_ += R"(<path class="us-subnormal" d=")" + zones.subnormal.text() + "\"/>\n";
    }
    if (!zones.edges.empty()) {
      out_ += R"(<path class="us-axis" d=")" + zones.edges.text() + "\"/>\n";
    }
  }

  /// The backgrounds of all rows: one for rows of one format that follow each other.
  void draw_backgrounds() {
    Zones zones;
    for (std::size_t i = 0; i < chart_.rows.size();) {
      std::size_t end = i + 1;
      while (end < chart_.rows.size() && chart_.rows[end].format == chart_.rows[i].format &&
             chart_.rows[end].heading.empty()) {
        ++end;
      }
      const double bottom = row_top_[end - 1] + chart_.row_height;
      if (chart_.rows[i].format) {
        add_zones(zones, *chart_.rows[i].format, row_top_[i], bottom);
      }
      i = end;
    }
    draw_zones(zones);
    SvgPath lines;
    const double right = axis_.pixel_hi + (has_non_finite_ ? axis_gap_ + column_ : 0);
    for (const double top : row_top_) {
      lines.move_to(zero_left_, top + chart_.row_height);
      lines.horizontal_to(right);
    }
    if (!lines.empty()) out_ += R"(<path class="us-grid" d=")" + lines.text() + "\"/>\n";
  }

  /// The texts of one column beside the rows, which share all but their place.
  /// @param text_of of a row's number, code points of at most the column's width.
  template <class Text>
  void draw_text_column(std::string_view style, double x, std::string_view anchor,
                        const Text& text_of) {
    out_ += "<g class=\"" + std::string(style) + "\" font-size=\"" + svg_number(row_size_) +
            "\" text-anchor=\"" + std::string(anchor) + "\" transform=\"translate(" +
            svg_number(x) + ")\">";
    for (std::size_t i = 0; i < chart_.rows.size(); ++i) {
      const std::vector<char32_t> text = text_of(i);
      if (text.empty()) continue;
      const double y = row_top_[i] + chart_.row_height / 2 + 0.36 * row_size_;
      out_ += "<text y=\"" + svg_number(y, 1) + "\">" + xml_text(text) + "</text>";
    }
    out_ += "</g>\n";
  }

  void draw_text_columns() {
    draw_text_column("us-ink us-labels", margin_, "start",
                     [this](std::size_t i) { return label_[i]; });
    for (std::size_t k = 0; k < note_right_.size(); ++k) {
      draw_text_column("us-ink", note_right_[k], "end", [&](std::size_t i) {
        const HistogramRow& row = chart_.rows[i];
        return shortened_text(k < row.notes.size() ? std::string_view(row.notes[k]) : "",
                              note_width_[k] / row_size_ + 0.01);
      });
    }
    for (std::size_t i = 0; i < chart_.rows.size(); ++i) {
      if (chart_.rows[i].heading.empty()) continue;
      svg_text(out_, margin_, row_top_[i] - 7, "us-ink us-heading", 12.5, "start",
               xml_text(shortened_text(chart_.rows[i].heading, (width_ - 2 * margin_) / 12.5)),
               " font-weight=\"600\"");
    }
  }

  /// A bar in pixels, and how much of the row it fills, from 0 to 1.
  struct Bar {
    double left;
    double right;
    double height;
  };

  /// The share of the highest bar on the axis, of all series of a row.
  [[nodiscard]] double highest_share(const HistogramRow& row) const {
    double highest = 0;
    for (const ExponentHistogram& histogram : row.histograms) {
      if (!has_elements(histogram)) continue;
      const auto elements = static_cast<double>(histogram.elements());
      for (int exponent = first_; exponent <= last_; ++exponent) {
        highest = std::max(highest, static_cast<double>(histogram.count(exponent)) / elements);
      }
    }
    return highest;
  }

  [[nodiscard]] std::vector<Bar> bars(const ExponentHistogram& histogram, double highest) const {
    std::vector<Bar> result;
    const auto elements = static_cast<double>(histogram.elements());
    const auto add = [&](double left, double right, std::uint64_t count, double whole) {
      if (count > 0) result.push_back({left, right, static_cast<double>(count) / elements / whole});
    };
    add(zero_left_, zero_left_ + column_, histogram.zeros, 1);
    add(zero_left_ + column_ + gap_, zero_left_ + 2 * column_ + gap_, tiny(histogram), 1);
    for (int exponent = first_; exponent <= last_; ++exponent) {
      add(axis_.pixel_of(exponent), axis_.pixel_of(exponent + 1), histogram.count(exponent),
          highest);
    }
    add(axis_.pixel_hi + axis_gap_, axis_.pixel_hi + axis_gap_ + column_, histogram.non_finite, 1);
    return result;
  }

  [[nodiscard]] static std::string_view style_of(std::size_t series) {
    return series == 0 ? "us-fill" : "us-outline";
  }
  [[nodiscard]] static std::string_view dash_of(std::size_t series) {
    return series == 2 ? " stroke-dasharray=\"3 2\"" : "";
  }

  /// All histograms of one series.
  void draw_series(std::size_t series) {
    out_ += "<g class=\"us-s" + std::to_string(series) + " " + std::string(style_of(series)) +
            "\"" + std::string(dash_of(series)) + ">\n";
    for (std::size_t i = 0; i < chart_.rows.size(); ++i) {
      const HistogramRow& row = chart_.rows[i];
      if (series >= row.histograms.size() || !has_elements(row.histograms[series])) continue;
      const double base = row_top_[i] + chart_.row_height;
      const double room = chart_.row_height - 3;
      SvgPath path;
      double at = -1;  // where the outline stands, on the base line or on a bar
      for (const Bar& bar : bars(row.histograms[series], highest_share(row))) {
        if (std::abs(bar.left - at) > 0.01) {
          if (at >= 0) path.vertical_to(base);
          path.move_to(bar.left, base);
        }
        path.vertical_to(base - std::max(1.0, bar.height * room));
        path.horizontal_to(bar.right);
        at = bar.right;
      }
      path.vertical_to(base);
      out_ += "<path d=\"" + path.text() + "\"/>\n";
    }
    out_ += "</g>\n";
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
  double width_ = chart_.width;
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
  double bar_ = 1;  ///< Width.
  double row_size_ = 12;
  double label_width_ = 0;
  std::vector<std::vector<char32_t>> label_;              ///< Of each row, as shown.
  std::vector<std::vector<std::vector<char32_t>>> head_;  ///< Lines of each head of notes.
  std::size_t head_lines_ = 2;
  double zero_left_ = 0;
  std::vector<double> row_top_;
  double rows_top_ = 0;
  double rows_bottom_ = 0;
  double height_ = 0;
  std::string hatch_;
  std::string out_;
};

}  // namespace detail

/// The chart as an SVG document, as high as its rows ask for. Labels that are too long lose their
/// middle, but two that differ never read alike. What to_svg of a
/// `LineChart` says of pages and colours holds for it too.
/// @throws std::invalid_argument for more than 3 series, more histograms in a row than series,
///         rows that are not from 8 to 400 pixels high, or a width not from 600 to 4000.
[[nodiscard]] inline std::string to_svg(const HistogramChart& chart) {
  return detail::HistogramChartDrawing(chart).draw();
}

}  // namespace UNIT_SCALING_NAMESPACE::analysis

UNIT_SCALING_IEEE_END
