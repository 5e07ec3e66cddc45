// SPDX-License-Identifier: MIT
// unit_scaling: optional
/// @file
/// Layer analysis: a table as HTML that screen readers can read cell by cell.
#pragma once

#include <cstddef>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "unit_scaling/analysis/chart_text.hpp"
#include "unit_scaling/core/target.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::analysis {

/// A column of an `HtmlTable`.
struct HtmlColumn {
  enum class Kind {
    head,    ///< names its row
    text,    ///< begins at the left
    prose,   ///< the same, with more room in a narrow page
    number,  ///< ends at the right
  };
  std::string head = {};
  Kind kind = Kind::number;
};

/// A cell of an `HtmlTable`. All texts are plain UTF-8, without markup.
struct HtmlCell {
  std::string text = {};
  std::string anchor = {};  ///< Name of the element of the page that it leads to; empty: none.
};

/// A table with a caption.
struct HtmlTable {
  std::string caption = {};
  std::vector<HtmlColumn> columns = {};
  std::vector<std::vector<HtmlCell>> rows = {};
  /// Where the page is narrow each row becomes a list of its cells, each under its column's head.
  bool stacks = false;
};

namespace detail {

/// A text for a cell, which a browser may break behind the separators of paths, and within longer
/// words where it must, so that no name makes a table wider than its page.
[[nodiscard]] inline std::string breakable_text(std::string_view text) {
  constexpr std::u32string_view separators = U"./:=";
  constexpr std::size_t longest = 20;  // characters that stay together
  std::string html;
  std::vector<char32_t> together;
  std::size_t length = 0;
  bool may_end = false;  // behind a separator
  for (const char32_t point : code_points(text)) {
    // "blocks.0" stays together.
    const bool is_number =
        point >= U'0' && point <= U'9' && !together.empty() && together.back() == U'.';
    if (length == longest || (may_end && !is_number)) {
      html += xml_text(together) + "<wbr/>";
      together.clear();
      length = 0;
    }
    together.push_back(point);
    length = point == U' ' || point == U'\n' ? 0 : length + 1;
    may_end = separators.find(point) != std::u32string_view::npos;
  }
  return html + xml_text(together);
}

}  // namespace detail

/// The table in a box that scrolls sideways, by keys too, where the page is too narrow for it.
/// @throws std::invalid_argument if a row has not as many cells as there are columns.
[[nodiscard]] inline std::string to_html(const HtmlTable& table) {
  using detail::xml_text;
  std::string html = R"(<div class="scroll" role="region" tabindex="0" aria-label=")" +
                     xml_text(table.caption) + "\"><table" +
                     (table.stacks ? " class=\"stacks\"" : "") + ">\n<caption>" +
                     xml_text(table.caption) + "</caption>\n<thead><tr>";
  for (const HtmlColumn& column : table.columns) {
    html += column.kind == HtmlColumn::Kind::number ? "<th scope=\"col\">"
                                                    : R"(<th scope="col" class="t">)";
    html += detail::breakable_text(column.head) + "</th>";
  }
  html += "</tr></thead>\n<tbody>\n";
  for (const auto& row : table.rows) {
    if (row.size() != table.columns.size()) {
      throw std::invalid_argument("HtmlTable '" + table.caption + "': expected rows of " +
                                  std::to_string(table.columns.size()) + " cells, got one of " +
                                  std::to_string(row.size()));
    }
    html += "<tr>";
    for (std::size_t i = 0; i < row.size(); ++i) {
      const HtmlColumn::Kind kind = table.columns[i].kind;
      std::string text = kind == HtmlColumn::Kind::number ? xml_text(row[i].text)
                                                          : detail::breakable_text(row[i].text);
      if (!row[i].anchor.empty()) {
        text.insert(0, "<a href=\"#" + xml_text(row[i].anchor) + "\">");
        text += "</a>";
      }
      if (kind == HtmlColumn::Kind::head) {
        html += "<th scope=\"row\">";
        html += text;
        html += "</th>";
      } else {
        html += kind == HtmlColumn::Kind::text    ? "<td class=\"t\">"
                : kind == HtmlColumn::Kind::prose ? "<td class=\"t prose\">"
                                                  : "<td>";
        // Read out by its head in a table; written before it in a list.
        if (table.stacks) {
          html += R"(<span class="head" aria-hidden="true">)";
          html += xml_text(table.columns[i].head);
          html += "</span>";
        }
        html += text;
        html += "</td>";
      }
    }
    html += "</tr>\n";
  }
  return html + "</tbody></table></div>\n";
}

}  // namespace UNIT_SCALING_NAMESPACE::analysis

UNIT_SCALING_IEEE_END
