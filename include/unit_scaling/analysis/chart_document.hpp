// SPDX-License-Identifier: MIT
/// @file
/// Layer analysis: what every chart begins with as an SVG document, and its texts and lines.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "unit_scaling/analysis/chart_palette.hpp"
#include "unit_scaling/analysis/chart_text.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/core/text_hash.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::analysis {

/// Where the colours of a chart are said.
enum class ChartStyle {
  own,      ///< In the chart, which may so stand alone.
  of_page,  ///< In the page around it, once for all its charts.
};

namespace detail {

/// What a chart is, as its document says it.
struct ChartHead {
  std::string title;     ///< For readers who do not see it.
  std::string identity;  ///< A text that no other chart of the page has.
  std::string description;
  ChartTheme theme = ChartTheme::automatic;
  ChartStyle style = ChartStyle::own;
  std::string_view more_rules = {};  ///< CSS of this kind of chart.
  double width = 0;
  double height = 0;
};

/// A name that no other chart of a page has.
[[nodiscard]] inline std::string chart_id(std::string_view identity) {
  return "us" + std::to_string(text_hash(identity));
}

/// The colours of a theme as CSS variables, in braces.
[[nodiscard]] inline std::string chart_variables(const ChartPalette& palette) {
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

/// The CSS of charts.
/// @param more_rules CSS of one kind of chart.
[[nodiscard]] inline std::string chart_rules(ChartTheme theme, std::string_view more_rules = {}) {
  const ChartPalette& palette = theme == ChartTheme::dark ? dark_palette : light_palette;
  std::string css = ".us-chart" + chart_variables(palette);
  if (theme == ChartTheme::automatic) {
    css += "@media (prefers-color-scheme:dark){.us-chart" + chart_variables(dark_palette) + "}\n";
  }
  // Each colour stands twice: programs that do not know variables (librsvg, Inkscape) skip the
  // second.
  const auto rule = [&](const std::string& name, const std::string& property,
                        std::string_view colour, const std::string& variable) {
    css += ".us-chart ." + name + "{" + property + ":" + std::string(colour) + ";" + property +
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
  return css + std::string(more_rules) +
         ".us-chart .us-line,.us-chart .us-tie,.us-chart "
         ".us-sample{fill:none;stroke:currentColor}\n"
         ".us-chart .us-line{stroke-width:1.9;stroke-linejoin:round}\n"
         ".us-chart .us-tie{opacity:.55}\n.us-chart .us-sample{stroke-width:2.2}\n"
         ".us-chart text{font-variant-numeric:tabular-nums}\n";
}

/// Opens the document: its names, its colours if it has its own, and its surface.
inline void begin_chart(std::string& out, const ChartHead& head) {
  // Several charts may stand in one page, where their names must differ.
  const std::string id = chart_id(head.identity);
  out =
      "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"us-chart\" role=\"img\" "
      "aria-labelledby=\"" +
      id + "t " + id + "d\" width=\"" + svg_number(head.width) + "\" height=\"" +
      svg_number(head.height) + "\" viewBox=\"0 0 " + svg_number(head.width) + " " +
      svg_number(head.height) + "\"";
  // Texts inherit the font of a page.
  if (head.style == ChartStyle::own) {
    out +=
        " font-family=\"system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', 'Noto "
        "Sans', "
        "Arial, sans-serif\"";
  }
  out += ">\n";
  out += "<title id=\"" + id + "t\">" + xml_text(head.title) + "</title>\n";
  out += "<desc id=\"" + id + "d\">" + xml_text(head.description) + "</desc>\n";
  if (head.style == ChartStyle::own) {
    out += "<style>\n" + chart_rules(head.theme, head.more_rules) + "</style>\n";
  }
  // A surface of our own rather than a transparent one: the page around the picture need not
  // follow the preference that the colours of the lines follow.
  out += "<rect class=\"us-surface\" width=\"100%\" height=\"100%\" rx=\"6\"/>\n";
}

/// A text at a baseline.
/// @param body XML.
/// @param more further attributes.
inline void svg_text(std::string& out, double x, double y, std::string_view style, double size,
                     std::string_view anchor, const std::string& body, std::string_view more = "") {
  out += "<text class=\"" + std::string(style) + "\" x=\"" + svg_number(x) + "\" y=\"" +
         svg_number(y) + "\" font-size=\"" + svg_number(size) + "\"";
  if (anchor != "start") out += " text-anchor=\"" + std::string(anchor) + "\"";
  out += std::string(more) + ">" + body + "</text>\n";
}

/// Title and subtitle at the top of a chart, line by line.
inline void svg_titles(std::string& out, double margin,
                       const std::vector<std::vector<char32_t>>& title, double title_size,
                       const std::vector<std::vector<char32_t>>& subtitle, double subtitle_size) {
  double baseline = 18;
  for (const auto& line : title) {
    baseline += 23;
    svg_text(out, margin, baseline - 4, "us-ink", title_size, "start", xml_text(line),
             " font-weight=\"600\"");
  }
  for (const auto& line : subtitle) {
    baseline += 18;
    svg_text(out, margin, baseline - 3, "us-muted", subtitle_size, "start", xml_text(line));
  }
}

/// A straight line.
inline void svg_line(std::string& out, double x1, double y1, double x2, double y2,
                     const std::string& attributes) {
  out += "<path d=\"M" + svg_number(x1) + " " + svg_number(y1) +
         (y1 == y2   ? "H" + svg_number(x2)
          : x1 == x2 ? "V" + svg_number(y2)
                     : "L" + svg_number(x2) + " " + svg_number(y2)) +
         "\" " + attributes + "/>\n";
}

}  // namespace detail

}  // namespace UNIT_SCALING_NAMESPACE::analysis

UNIT_SCALING_IEEE_END
