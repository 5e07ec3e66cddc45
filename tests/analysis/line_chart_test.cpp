// SPDX-License-Identifier: MIT
/// @file
/// Layer: tests. Line charts: well-formed, with the right ticks, gaps and marks. That they look
/// good was seen by eye, in a browser in both colour schemes and in librsvg.

#include "unit_scaling/analysis/line_chart.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "support/svg_path.hpp"
#include "support/texts.hpp"

namespace unit_scaling_test {
namespace line_chart_test {

using unit_scaling::analysis::AxisScale;
using unit_scaling::analysis::ChartTheme;
using unit_scaling::analysis::LineChart;
using unit_scaling::analysis::LineSeries;
using unit_scaling::analysis::to_svg;
namespace detail = unit_scaling::analysis::detail;

constexpr double nan = std::numeric_limits<double>::quiet_NaN();
constexpr double infinity = std::numeric_limits<double>::infinity();

/// What is wrong with a document as XML, as far as we write it: no comments, CDATA, processing
/// instructions or namespaces. Empty if nothing is.
std::string xml_error(std::string_view text) {
  std::vector<std::string> open;
  bool had_root = false;
  const auto text_error = [](std::string_view part) -> std::string {
    for (std::size_t i = 0; i < part.size(); ++i) {
      const auto byte = static_cast<unsigned char>(part[i]);
      if (byte < 0x20 && byte != '\n') return "control character";
      if (part[i] == '<') return "bare <";
      if (part[i] != '&') continue;
      const std::string_view entity = part.substr(i, part.find(';', i) - i + 1);
      if (entity != "&amp;" && entity != "&lt;" && entity != "&gt;" && entity != "&quot;" &&
          entity != "&#39;") {
        return "unknown entity " + std::string(entity);
      }
    }
    return "";
  };
  while (!text.empty()) {
    const std::size_t tag = text.find('<');
    const std::string_view before = text.substr(0, tag);
    if (auto error = text_error(before); !error.empty()) return error;
    if (open.empty() && before.find_first_not_of('\n') != std::string_view::npos) {
      return "text outside of the root";
    }
    if (tag == std::string_view::npos) break;
    const std::size_t end = text.find('>', tag);
    if (end == std::string_view::npos) return "tag without end";
    std::string_view inside = text.substr(tag + 1, end - tag - 1);
    text.remove_prefix(end + 1);
    if (inside.starts_with('/')) {
      if (open.empty() || open.back() != inside.substr(1)) return "</" + std::string(inside);
      open.pop_back();
      continue;
    }
    if (open.empty() && std::exchange(had_root, true)) return "two roots";
    const bool closed = inside.ends_with('/');
    if (closed) inside.remove_suffix(1);
    const std::string name(inside.substr(0, inside.find(' ')));
    inside.remove_prefix(name.size());
    std::set<std::string> attributes;
    while (!inside.empty()) {
      const std::size_t quote = inside.find("=\"");
      if (inside.front() != ' ' || quote == std::string_view::npos) return "in <" + name;
      if (!attributes.insert(std::string(inside.substr(1, quote - 1))).second) {
        return "attribute twice in <" + name;
      }
      const std::size_t quote_end = inside.find('"', quote + 2);
      if (quote_end == std::string_view::npos) return "attribute without end in <" + name;
      const auto error = text_error(inside.substr(quote + 2, quote_end - quote - 2));
      if (!error.empty()) return std::string(error).append(" in <").append(name);
      inside.remove_prefix(quote_end + 1);
    }
    if (!closed) open.push_back(name);
  }
  if (!open.empty()) return "<" + open.back() + "> is not closed";
  return had_root ? "" : "no root";
}

/// Draws a chart in every theme and expects each to be well-formed and of numbers. Returns the one
/// of the chart's own theme.
std::string drawn(LineChart chart) {
  std::string result = to_svg(chart);
  for (const ChartTheme theme : {ChartTheme::automatic, ChartTheme::light, ChartTheme::dark}) {
    chart.theme = theme;
    const std::string svg = to_svg(chart);
    EXPECT_EQ(xml_error(svg), "") << svg;
    const std::string_view picture = std::string_view(svg).substr(svg.find("</style>"));
    for (const std::string_view attribute : {"=\"nan", "=\"-nan", "=\"inf", "=\"-inf", "Mnan"}) {
      EXPECT_EQ(picture.find(attribute), std::string_view::npos) << attribute;
    }
  }
  return result;
}

/// The texts of a picture whose elements have that attribute, without markup inside of them.
std::vector<std::string> texts_with(const std::string& svg, const std::string& attribute) {
  std::vector<std::string> result;
  for (std::size_t i = svg.find("<text "); i != std::string::npos; i = svg.find("<text ", i + 1)) {
    const std::size_t begin = svg.find('>', i) + 1;
    if (svg.substr(i, begin - i).find(attribute) == std::string::npos) continue;
    std::string text;
    bool is_tag = false;
    for (const char c : svg.substr(begin, svg.find("</text>", i) - begin)) {
      if (c == '<') {
        is_tag = true;
        text += text.empty() ? "" : "^";
      }
      if (!is_tag) text += c;
      if (c == '>') is_tag = false;
    }
    while (text.ends_with('^')) text.pop_back();
    result.push_back(text);
  }
  return result;
}
std::vector<std::string> y_numbers(const std::string& svg) {
  return texts_with(svg, R"(font-size="12" text-anchor="end")");
}
std::vector<std::string> x_numbers(const std::string& svg) {
  return texts_with(svg, R"(font-size="12" text-anchor="middle")");
}

/// The lines of data: the paths inside the nested pictures.
std::size_t line_count(const std::string& svg) { return count(svg, "class=\"us-line\""); }
std::size_t cross_count(const std::string& svg) { return count(svg, R"(stroke-width="1.6" d="M)"); }
std::size_t dot_count(const std::string& svg) { return count(svg, "<circle "); }

LineChart chart_of(std::vector<std::pair<double, double>> points) {
  LineChart chart;
  chart.series.push_back({"line", std::move(points)});
  return chart;
}

using Texts = std::vector<std::string>;
using Points = std::vector<std::pair<double, double>>;

/// The same number at each step.
Points steps(std::size_t count, double y) {
  Points result(count);
  for (std::size_t i = 0; i < count; ++i) result[i] = {static_cast<double>(i), y};
  return result;
}

TEST(XmlError, FindsWhatIsWrong) {
  EXPECT_EQ(xml_error("<a b=\"1\"><c/>x &amp; y</a>\n"), "");
  for (const std::string_view broken :
       {"", "x", "<a>", "</a>", "<a></b>", "<a/><b/>", "<a b></a>", R"(<a b="1" b="2"/>)",
        "<a>&nbsp;</a>", "<a>&</a>", "<a b=\"<\"/>", "<a>\x01</a>", "<a><b></a></b>"}) {
    EXPECT_NE(xml_error(broken), "") << broken;
  }
}

TEST(LineChart, IsOneSelfContainedPicture) {
  LineChart chart = chart_of({{0, 5}, {400, 2.9}});
  chart.title = "Training";
  chart.subtitle = "of a model";
  chart.x_label = "step";
  chart.y_label = "bits";
  const std::string svg = drawn(chart);
  EXPECT_TRUE(svg.starts_with("<svg xmlns=\"http://www.w3.org/2000/svg\" "));
  EXPECT_EQ(count(svg, "width=\"880\" height=\"480\" viewBox=\"0 0 880 480\""), 1U);
  EXPECT_EQ(count(svg, "role=\"img\""), 1U);
  EXPECT_EQ(count(svg, "http"), 1U) << "nothing is loaded";
  EXPECT_EQ(count(svg, "prefers-color-scheme:dark"), 1U);
  for (const std::string text : {"Training", "of a model", "step", "bits", "line"}) {
    EXPECT_EQ(count(svg, ">" + text + "</text>"), 1U) << text;
  }
}

TEST(LineChart, SpeaksToScreenReaders) {
  LineChart chart = chart_of({{0, 5}, {1, nan}, {2, 2.5}, {3, 3.25}});
  chart.x_label = "step";
  chart.y_label = "loss";
  const std::string svg = drawn(chart);
  EXPECT_EQ(count(svg,
                  "\">Line chart of loss against step. line: from 5 at 0 to 3.25 at 3, least "
                  "2.5 at 2, not finite at 1 points.</desc>"),
            1U);
  const std::size_t label = svg.find("aria-labelledby=\"") + 17;
  const std::string names = svg.substr(label, svg.find('"', label) - label);
  const std::string title = names.substr(0, names.find(' '));
  const std::string description = names.substr(names.find(' ') + 1);
  EXPECT_EQ(count(svg, "<title id=\"" + title + "\">Line chart</title>"), 1U);
  EXPECT_EQ(count(svg, "<desc id=\"" + description + "\">"), 1U);

  chart.description = "Falls.";
  EXPECT_EQ(count(drawn(chart), ">Falls.</desc>"), 1U);
  EXPECT_EQ(count(drawn(chart), title), 0U) << "another chart has other ids";
}

TEST(LineChart, EscapesTexts) {
  LineChart chart = chart_of({{0, 1}, {1, 2}});
  const std::string odd = "<b>\"R&D\"</b> 'x' \x01 \xff \xc3\xa9 ]]>";
  const std::string escaped =
      "&lt;b&gt;&quot;R&amp;D&quot;&lt;/b&gt; &#39;x&#39; \xef\xbf\xbd \xef\xbf\xbd \xc3\xa9 "
      "]]&gt;";
  chart.title = chart.subtitle = chart.x_label = chart.y_label = chart.description = odd;
  chart.diverged_label = chart.series[0].name = odd;
  chart.series[0].points.emplace_back(2, nan);
  const std::string svg = drawn(chart);
  // Title, its element, subtitle, axes, description, strip, name, the elements of line and label.
  EXPECT_EQ(count(svg, ">" + escaped + "</"), 10U);
}

TEST(LineChart, ReplacesWhatIsNotUtf8) {
  const auto sanitised = [](std::string_view text) { return detail::xml_text(text); };
  const std::string bad = "\xef\xbf\xbd";
  EXPECT_EQ(sanitised("µ 数 😀"), "µ 数 😀");
  EXPECT_EQ(sanitised("\x80"), bad) << "begins no character";
  EXPECT_EQ(sanitised("\xc3"), bad) << "cut off";
  EXPECT_EQ(sanitised("\xe6\x95!"), bad + "!");
  EXPECT_EQ(sanitised("\xc0\xaf"), bad + bad) << "overlong";
  EXPECT_EQ(sanitised("\xe0\x80\xaf"), bad) << "overlong";
  EXPECT_EQ(sanitised("\xed\xa0\x80"), bad) << "surrogate";
  EXPECT_EQ(sanitised("\xf4\x90\x80\x80"), bad) << "beyond Unicode";
  EXPECT_EQ(sanitised("\xef\xbf\xbf"), bad) << "not allowed in XML";
  EXPECT_EQ(sanitised(std::string(1, '\0')), bad);
}

TEST(LineChart, PutsLinearTicksAtRoundNumbers) {
  LineChart chart = chart_of({{0, 5}, {400, 2.9}});
  chart.series[0].name = "";
  EXPECT_EQ(x_numbers(drawn(chart)),
            (Texts{"0", "50", "100", "150", "200", "250", "300", "350", "400"}));
  EXPECT_EQ(y_numbers(drawn(chart)), (Texts{"3.0", "3.5", "4.0", "4.5", "5.0"}));
}

Texts linear(double lo, double hi, double target) {
  Texts result;
  for (const auto& tick : detail::linear_ticks(lo, hi, target)) {
    result.push_back(tick.text + (tick.power.empty() ? "" : "^" + tick.power));
  }
  return result;
}

TEST(LineChart, WritesNumbersAsReadersExpect) {
  EXPECT_EQ(linear(-1, 1, 4), (Texts{"−1.0", "−0.5", "0.0", "0.5", "1.0"}));
  EXPECT_EQ(linear(0, 30000, 3), (Texts{"0", "10\u2009000", "20\u2009000", "30\u2009000"}));
  EXPECT_EQ(linear(0, 9000, 3), (Texts{"0", "2000", "4000", "6000", "8000"}));
  EXPECT_EQ(linear(-20000, -10000, 1), (Texts{"−20\u2009000", "−10\u2009000"}));
  EXPECT_EQ(linear(0, 3e6, 3), (Texts{"0", "1×10^6", "2×10^6", "3×10^6"}));
  EXPECT_EQ(linear(9.5e7, 1.05e8, 2), (Texts{"0.95×10^8", "1.00×10^8", "1.05×10^8"}));
  EXPECT_EQ(linear(0, 3e-6, 3), (Texts{"0", "1×10^−6", "2×10^−6", "3×10^−6"}));
  EXPECT_EQ(linear(0.0001, 0.0003, 2), (Texts{"0.0001", "0.0002", "0.0003"}));
}

TEST(LineChart, PutsTicksOfLog2AtPowersOfTwo) {
  LineChart chart = chart_of({{1, 1}, {64, 2}});
  chart.x_scale = AxisScale::log2;
  EXPECT_EQ(x_numbers(drawn(chart)), (Texts{"1", "2", "4", "8", "16", "32", "64"}));
  chart.series[0].points = {{std::exp2(-24), 1}, {std::exp2(24), 2}};
  EXPECT_EQ(x_numbers(drawn(chart)), (Texts{"2^−24", "2^−20", "2^−16", "2^−12", "2^−8", "2^−4",
                                            "2^0", "2^4", "2^8", "2^12", "2^16", "2^20", "2^24"}));
  chart.series[0].points = {{4.5, 1}, {6, 2}};  // no power of two between them
  EXPECT_EQ(x_numbers(drawn(chart)),
            (Texts{"4.6", "4.8", "5.0", "5.2", "5.4", "5.6", "5.8", "6.0"}));
}

TEST(LineChart, PutsTicksOfLog10AtPowersOfTen) {
  LineChart chart = chart_of({{1, 1e-9}, {2, 1e-2}});
  chart.y_scale = AxisScale::log10;
  EXPECT_EQ(y_numbers(drawn(chart)), (Texts{"10^−8", "10^−6", "10^−4", "10^−2"}));
  chart.series[0].points = {{1, 0.1}, {2, 10}};
  EXPECT_EQ(y_numbers(drawn(chart)), (Texts{"0.1", "0.2", "0.5", "1", "2", "5", "10"}));
}

TEST(LineChart, BreaksTheLineWhereThereIsNoNumber) {
  Points points = steps(400, 3);
  EXPECT_EQ(line_count(drawn(chart_of(points))), 1U);
  EXPECT_EQ(cross_count(drawn(chart_of(points))), 0U);

  points[100].second = nan;
  points[200].second = infinity;
  points[300].second = -infinity;
  EXPECT_EQ(line_count(drawn(chart_of(points))), 4U);
  EXPECT_EQ(cross_count(drawn(chart_of(points))), 3U);

  LineChart without_strip = chart_of(points);
  without_strip.diverged_label = "";
  EXPECT_EQ(line_count(drawn(without_strip)), 4U);
  EXPECT_EQ(cross_count(drawn(without_strip)), 0U);

  points[350].first = nan;
  EXPECT_EQ(line_count(drawn(chart_of(points))), 5U) << "a gap, but where, is not known";
  EXPECT_EQ(cross_count(drawn(chart_of(points))), 3U);
}

TEST(LineChart, DrawsAPointBetweenGapsAsADot) {
  Points points = steps(400, 3);
  EXPECT_EQ(dot_count(drawn(chart_of(points))), 0U);
  points[100].second = points[102].second = nan;
  EXPECT_EQ(dot_count(drawn(chart_of(points))), 1U);
}

TEST(LineChart, MarksEveryPointOfASweepThatDiverged) {
  LineChart chart = chart_of({{-3, nan}, {-2, nan}, {-1, 4}, {0, 3}, {1, 4}, {2, infinity}});
  const std::string svg = drawn(chart);
  EXPECT_EQ(cross_count(svg), 3U);
  EXPECT_EQ(dot_count(svg), 3U);
  EXPECT_EQ(line_count(svg), 1U);
  EXPECT_EQ(count(svg, ">diverged</text>"), 1U);
  EXPECT_EQ(count(svg, "stroke-dasharray=\"1.5 2.5\""), 2U) << "ties from both ends of the line";
}

TEST(LineChart, MarksALongDivergenceOnce) {
  Points points = steps(400, 3);
  for (std::size_t i = 200; i < 400; ++i) points[i].second = nan;
  const std::string svg = drawn(chart_of(points));
  EXPECT_EQ(cross_count(svg), 1U);
  EXPECT_EQ(count(svg, "stroke-width=\"1.6\" opacity"), 1U) << "and a line for the rest";
  EXPECT_EQ(dot_count(svg), 1U) << "where the line ends early";
}

TEST(LineChart, LeavesGapsWhereALogarithmDoesNotExist) {
  LineChart chart = chart_of({{1, 1}, {2, 2}, {3, 0}, {4, -1}, {5, 5}, {6, 6}});
  chart.y_scale = AxisScale::log10;
  EXPECT_EQ(line_count(drawn(chart)), 2U);
  EXPECT_EQ(cross_count(drawn(chart)), 0U) << "not positive is not diverged";
  chart.x_scale = AxisScale::log2;
  chart.series[0].points.emplace_back(0, 1);
  chart.series[0].points.emplace_back(-1, nan);
  EXPECT_EQ(cross_count(drawn(chart)), 0U) << "of no known place";
}

TEST(LineChart, DrawsChartsWithLittleInThem) {
  EXPECT_EQ(count(drawn({}), ">no finite points</text>"), 1U);
  EXPECT_EQ(count(drawn(chart_of({})), ">no finite points</text>"), 1U);
  EXPECT_EQ(count(drawn(chart_of({{0, nan}, {1, nan}})), ">no finite points</text>"), 1U);

  const std::string one = drawn(chart_of({{3, 4}}));
  EXPECT_EQ(dot_count(one), 1U);
  EXPECT_EQ(count(one, ">4.0</text>") + count(one, ">4.00</text>"), 1U) << one;

  EXPECT_EQ(line_count(drawn(chart_of({{0, 7}, {1, 7}}))), 1U);
  EXPECT_EQ(line_count(drawn(chart_of({{1, 7}, {1, 8}}))), 1U);
  EXPECT_EQ(dot_count(drawn(chart_of({{0, 0}}))), 1U);
  for (const AxisScale scale : {AxisScale::log2, AxisScale::log10}) {
    LineChart chart = chart_of({{1, 1}, {1, 1}});
    chart.x_scale = chart.y_scale = scale;
    EXPECT_EQ(dot_count(drawn(chart)), 2U);
    EXPECT_FALSE(y_numbers(drawn(chart)).empty());
  }
}

TEST(LineChart, SurvivesNumbersAtTheEndsOfTheirRange) {
  constexpr double max = std::numeric_limits<double>::max();
  constexpr double tiny = std::numeric_limits<double>::denorm_min();
  const std::vector<double> extremes{-max, -1e300,   -1,    -tiny, 0,
                                     tiny, 1e-280,   1e-15, 1,     std::nextafter(1, 2),
                                     1e16, 1e16 + 2, 1e300, max};
  for (const AxisScale scale : {AxisScale::linear, AxisScale::log2, AxisScale::log10}) {
    for (const double a : extremes) {
      for (const double b : extremes) {
        LineChart chart = chart_of({{a, b}, {b, a}, {0.5, 1}});
        chart.x_scale = chart.y_scale = scale;
        EXPECT_LT(drawn(chart).size(), 30'000U) << a << " " << b;
        chart.series[0].points.pop_back();
        EXPECT_LT(drawn(chart).size(), 30'000U) << a << " " << b;
        if (a < b && std::abs(a) <= 1e300 && b <= 1e300 && (scale == AxisScale::linear || a > 0)) {
          chart.x_min = chart.y_min = a;
          chart.x_max = chart.y_max = b;
          chart.series[0].points = {{0, 0}, {1, 1}, {max, nan}};
          EXPECT_LT(drawn(chart).size(), 30'000U) << a << " " << b;
        }
      }
    }
  }
}

TEST(LineChart, KeepsToFixedEndsOfItsAxes) {
  LineChart chart = chart_of({{0, 1}, {1, 5}, {2, 100}});
  chart.y_min = 0;
  chart.y_max = 10;
  chart.x_min = -5;
  chart.x_max = 5;
  const std::string svg = drawn(chart);
  EXPECT_EQ(y_numbers(svg), (Texts{"0", "2", "4", "6", "8", "10"}));
  EXPECT_EQ(x_numbers(svg).front(), "−5");
  EXPECT_EQ(x_numbers(svg).back(), "5");
  EXPECT_EQ(dot_count(svg), 2U) << "the third lies outside";
  chart.y_max = std::nullopt;
  chart.y_min = 1000;
  EXPECT_EQ(dot_count(drawn(chart)), 0U) << "all lie outside";
}

TEST(LineChart, RefusesAxesThatCannotBe) {
  const auto complaint = [](const LineChart& chart) -> std::string {
    try {
      static_cast<void>(to_svg(chart));
    } catch (const std::invalid_argument& error) {
      return error.what();
    }
    return "";
  };
  LineChart chart = chart_of({{0, 1}});
  chart.y_min = 2;
  chart.y_max = 2;
  EXPECT_EQ(complaint(chart),
            "LineChart: the y axis goes from 2.000000 to 2.000000, expected a larger number at the "
            "end");
  chart.y_max = nan;
  EXPECT_EQ(complaint(chart), "LineChart: an end of the y axis is nan, expected a finite number");
  chart.y_max = std::nullopt;
  chart.x_scale = AxisScale::log2;
  chart.x_min = 0;
  EXPECT_EQ(complaint(chart),
            "LineChart: an end of the x axis is 0.000000, expected a finite number above 0");
}

TEST(LineChart, GivesEachLineItsColourAndDash) {
  LineChart chart;
  for (int i = 0; i < 8; ++i) {
    chart.series.push_back({"line " + std::to_string(i), {{0, i}, {1, i}}});
  }
  std::string svg = drawn(chart);
  // Two groups each: the line and its label. The eighth has the first colour and the second dash.
  EXPECT_EQ(count(svg, "<g class=\"us-s0\">"), 4U);
  EXPECT_EQ(count(svg, "<g class=\"us-s6\">"), 2U);
  EXPECT_EQ(count(svg, "stroke-dasharray=\"8 3.5\""), 4U);

  chart.series.resize(2);
  chart.series[0].colour = chart.series[1].colour = 3;
  chart.series[0].dash = 0;
  svg = drawn(chart);
  EXPECT_EQ(count(svg, "<g class=\"us-s3\">"), 4U);
  EXPECT_EQ(count(svg, "stroke-dasharray"), 2U) << "the dash follows the colour";
}

TEST(LineChart, ThinsOutMorePointsThanPixels) {
  Points points = steps(200'000, 0);
  for (auto& [x, y] : points) y = std::sin(x);
  EXPECT_LT(drawn(chart_of(points)).size(), 150'000U);
}

TEST(LineChart, KeepsTheOutlierWhenItThinsOut) {
  // One point of 200 000 stands out; its height in the picture must remain.
  Points points = steps(200'000, 0);
  for (auto& [x, y] : points) y = std::fmod(x, 2);
  LineChart chart = chart_of(points);
  chart.y_min = 0;
  chart.y_max = 4;
  chart.series[0].points[77'777].second = 4;
  LineChart small = chart_of({{0, 4}});  // the height of 4 on the same axis
  small.y_min = 0;
  small.y_max = 4;
  const std::string dot = drawn(small);
  const std::size_t begin = dot.find("cy=\"") + 4;
  const double height = std::stod(dot.substr(begin, dot.find('"', begin) - begin));
  const std::string svg = drawn(chart);
  const std::size_t line = svg.find("d=\"", svg.find("class=\"us-line\"")) + 3;
  double top = HUGE_VAL;
  for (const auto& command :
       path_commands(std::string_view(svg).substr(line, svg.find('"', line) - line))) {
    top = std::min(top, command.y);
  }
  EXPECT_NEAR(top, height, 0.0501);
}

TEST(LineChart, BreaksLongTextsIntoLines) {
  LineChart chart = chart_of({{0, 1}, {1, 2}});
  for (int i = 0; i < 60; ++i) chart.subtitle += "several words ";
  chart.series[0].name = std::string(200, 'm');
  const std::string svg = drawn(chart);
  EXPECT_EQ(texts_with(svg, "font-size=\"13\"").size(), 4U);
  EXPECT_EQ(count(svg, "mmm\u2026mmm"), 1U);
  EXPECT_EQ(count(svg, "<title>" + chart.series[0].name + "</title>"), 2U) << "shown on pointing";
}

TEST(Spread, MovesLabelsApartByAsLittleAsItCan) {
  using Places = std::vector<double>;
  EXPECT_EQ(detail::spread({10, 50, 90}, 10, 0, 100), (Places{10, 50, 90}));
  EXPECT_EQ(detail::spread({50, 50}, 10, 0, 100), (Places{45, 55}));
  EXPECT_EQ(detail::spread({50, 52, 54}, 10, 0, 100), (Places{42, 52, 62}));
  EXPECT_EQ(detail::spread({98, 99, 100}, 10, 0, 100), (Places{80, 90, 100}));
  EXPECT_EQ(detail::spread({0, 1, 60}, 10, 0, 100), (Places{0, 10, 60}));
  EXPECT_EQ(detail::spread({}, 10, 0, 100), Places{});
}

TEST(LineChart, DrawsInTheThemeAskedFor) {
  LineChart chart = chart_of({{0, 1}, {1, 2}});
  chart.theme = ChartTheme::light;
  EXPECT_EQ(count(drawn(chart), "--us-surface:#ffffff"), 1U);
  EXPECT_EQ(count(drawn(chart), "@media"), 0U);
  chart.theme = ChartTheme::dark;
  EXPECT_EQ(count(drawn(chart), "--us-surface:#14171c"), 1U);
  EXPECT_EQ(count(drawn(chart), "@media"), 0U);
  EXPECT_EQ(count(drawn(chart), "#ffffff"), 0U);
}

TEST(LineChart, DrawsLinesWithoutDotsIfAsked) {
  LineChart chart;
  chart.series = {{"few", {{1, 1}, {2, 3}, {3, 2}}}, {"none", {}}};
  EXPECT_EQ(dot_count(to_svg(chart)), 3U);
  chart.marks_points = false;
  EXPECT_EQ(dot_count(to_svg(chart)), 0U);
  EXPECT_EQ(line_count(to_svg(chart)), 1U);
}

}  // namespace line_chart_test

}  // namespace unit_scaling_test
