// SPDX-License-Identifier: MIT
// unit_scaling: optional
/// @file
/// Layer analysis: an HTML page that needs nothing but itself, light or dark as its reader prefers.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "unit_scaling/analysis/chart_document.hpp"
#include "unit_scaling/analysis/chart_palette.hpp"
#include "unit_scaling/analysis/chart_text.hpp"
#include "unit_scaling/analysis/histogram_chart.hpp"
#include "unit_scaling/core/target.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::analysis {

/// A part of a page under a heading.
struct HtmlSection {
  std::string id;  ///< of the element, for links
  std::string heading;
  std::string html;
};

namespace detail {

/// The width of a wide chart: a page shows all of it on a desk, in a window of 1280 pixels.
inline constexpr double wide_chart_width = 1160;

inline constexpr std::string_view page_rules = R"(
:root{color-scheme:light dark}
*{box-sizing:border-box}
html{scroll-behavior:smooth}
body{margin:0;background:var(--us-surface);color:var(--us-ink);
  font:16px/1.55 system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue','Noto Sans',Arial,sans-serif}
header,main,footer{max-width:1240px;margin:0 auto;padding:0 16px}
h1{font-size:1.7rem;line-height:1.25;margin:1.6rem 0 .4rem}
h2{font-size:1.3rem;line-height:1.3;margin:2.6rem 0 .6rem;padding-top:.6rem;border-top:1px solid var(--us-grid)}
h3{font-size:1.05rem;margin:1.6rem 0 .5rem}
p{margin:.5rem 0;max-width:46rem}
.muted{color:var(--us-muted)}
a{color:var(--us-link)}
a:focus-visible,summary:focus-visible,.scroll:focus-visible{outline:3px solid var(--us-link);outline-offset:2px}
.skip{position:absolute;left:-999px;top:0;background:var(--us-surface);padding:.5rem 1rem;z-index:1}
.skip:focus{left:8px}
nav ul{display:flex;flex-wrap:wrap;gap:.3rem 1.1rem;list-style:none;margin:.8rem 0;padding:0}
.scroll{overflow-x:auto;margin:.7rem 0 1.2rem}
table{border-collapse:collapse;font-size:.84rem;line-height:1.4;font-variant-numeric:tabular-nums}
caption{text-align:left;color:var(--us-muted);padding:0 0 .35rem;caption-side:top}
th,td{padding:.22rem .45rem;border-bottom:1px solid var(--us-grid);text-align:right;vertical-align:top}
thead th{border-bottom:2px solid var(--us-axis);vertical-align:bottom}
tbody th,.t{text-align:left}
.prose{min-width:7rem;max-width:26rem}
tbody th{font-weight:600}
tbody tr:hover{background:var(--us-hover)}
.head{display:none}
.in{scroll-margin-top:4.5rem}
figure{margin:.8rem 0 1.4rem}
.us-chart{display:block;max-width:100%;min-width:760px;height:auto}
details{border:1px solid var(--us-grid);border-radius:6px;margin:.45rem 0;padding:0 .9rem}
details[open]{padding-bottom:.6rem}
summary{cursor:pointer;padding:.45rem 0;overflow-wrap:anywhere}
summary h3,summary h4{display:inline;font-size:.95rem;margin:0 .6rem 0 0}
summary span{color:var(--us-muted);font-size:.85rem}
pre{white-space:pre-wrap;overflow-wrap:anywhere;border-left:3px solid var(--us-1);padding:.2rem .8rem;
  font-size:.82rem;line-height:1.45;margin:.6rem 0}
dt{font-weight:600;margin-top:.5rem}
dd{margin:0 0 .3rem;max-width:46rem}
footer{margin-top:3rem;padding-bottom:2rem;font-size:.85rem;color:var(--us-muted)}
@media screen and (max-width:800px){
  figure::before{content:'Scroll sideways to see all of it.';font-size:.8rem;color:var(--us-muted)}
  td{white-space:nowrap}
  .t{white-space:normal;min-width:6rem}
  .stacks,.stacks caption,.stacks tbody,.stacks tr,.stacks tbody th,.stacks td{display:block}
  .stacks thead{position:absolute;left:-9999px}
  .stacks tbody th{padding:.6rem 0 .1rem;border:0;font-size:.95rem}
  .stacks td{display:flex;text-align:left;white-space:normal;max-width:none;padding:.15rem 0;overflow-wrap:anywhere}
  .stacks .head{display:block;flex:0 0 9rem;padding-right:.6rem;color:var(--us-muted)}
}
@media (prefers-reduced-motion:reduce){html{scroll-behavior:auto}}
@media print{
  header,main,footer{max-width:none}
  body{font-size:11pt}
  .skip,nav{display:none}
  .scroll{overflow:visible}
  table{font-size:7pt}
  th,td{padding:.1rem .3rem}
  .us-chart{min-width:0}
  figure,tr{break-inside:avoid}
  h2,h3{break-after:avoid}
  details::details-content{content-visibility:visible;block-size:auto}
}
)";

/// The colours of page and charts in one theme.
[[nodiscard]] inline std::string page_variables(const ChartPalette& palette,
                                                std::string_view hover) {
  std::string variables = chart_variables(palette);
  variables.resize(variables.find('}'));
  return variables + ";--us-link:" + std::string(palette.series[0]) +
         ";--us-hover:" + std::string(hover) + "}\n";
}

}  // namespace detail

/// The page: a heading, an introduction, links to the sections, and these. Its charts are drawn
/// with `ChartStyle::of_page`.
/// @param introduction, footer HTML.
[[nodiscard]] inline std::string html_page(const std::string& title,
                                           const std::string& introduction,
                                           const std::vector<HtmlSection>& sections,
                                           const std::string& footer) {
  using detail::xml_text;
  const std::string light = detail::page_variables(detail::light_palette, "#f4f6f8");
  const std::string dark = detail::page_variables(detail::dark_palette, "#1d2127");
  std::string html =
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n"
      // No icon of its own: without this a browser asks a server for one.
      "<link rel=\"icon\" href=\"data:,\"/>\n<title>" +
      xml_text(title) + "</title>\n<style>\n" +
      detail::chart_rules(ChartTheme::automatic, detail::histogram_rules(ChartTheme::automatic)) +
      ":root" + light + "@media (prefers-color-scheme:dark){:root" + dark + "}\n" +
      std::string(detail::page_rules) + "@media screen{.us-chart[width=\"" +
      detail::svg_number(detail::wide_chart_width) + "\"]{min-width:1000px}}\n" +
      // On paper, whatever the screen is like.
      "@media print{:root:root,:root .us-chart" + light +
      "}\n</style>\n</head>\n<body>\n"
      "<a class=\"skip\" href=\"#main\">Skip to the content</a>\n<header>\n<h1>" +
      xml_text(title) + "</h1>\n" + introduction + "<nav aria-label=\"Sections\"><ul>\n";
  for (const HtmlSection& section : sections) {
    html += "<li><a href=\"#" + xml_text(section.id) + "\">" + xml_text(section.heading) +
            "</a></li>\n";
  }
  html += "</ul></nav>\n</header>\n<main id=\"main\" tabindex=\"-1\">\n";
  for (const HtmlSection& section : sections) {
    const std::string id = xml_text(section.id);
    const std::string heading_id = xml_text(section.id + "-heading");
    html += "<section id=\"" + id + "\" aria-labelledby=\"";
    html += heading_id + "\">\n<h2 id=\"";
    html += heading_id + "\">" + xml_text(section.heading) + "</h2>\n";
    html += section.html;
    html += "</section>\n";
  }
  return html + "</main>\n<footer>\n" + footer + "</footer>\n</body>\n</html>\n";
}

/// A figure that scrolls sideways, by keys too, where the page is too narrow for it.
/// @param svg a chart drawn with `ChartStyle::of_page`.
[[nodiscard]] inline std::string html_figure(const std::string& svg, const std::string& label) {
  return R"(<figure><div class="scroll" role="region" tabindex="0" aria-label=")" +
         detail::xml_text("Picture: " + label) + "\">" + svg + "</div></figure>\n";
}

}  // namespace UNIT_SCALING_NAMESPACE::analysis

UNIT_SCALING_IEEE_END
