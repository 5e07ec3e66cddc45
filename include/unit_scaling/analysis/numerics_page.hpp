// SPDX-License-Identifier: MIT
// unit_scaling: optional
/// @file
/// Layer analysis: the words, tables and pictures of a report of training runs, in their order.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "unit_scaling/analysis/chart_document.hpp"
#include "unit_scaling/analysis/chart_text.hpp"
#include "unit_scaling/analysis/constraint_check.hpp"
#include "unit_scaling/analysis/format_losses.hpp"
#include "unit_scaling/analysis/histogram_chart.hpp"
#include "unit_scaling/analysis/html_page.hpp"
#include "unit_scaling/analysis/html_table.hpp"
#include "unit_scaling/analysis/line_chart.hpp"
#include "unit_scaling/analysis/lint.hpp"
#include "unit_scaling/analysis/numerics_json.hpp"
#include "unit_scaling/analysis/numerics_pictures.hpp"
#include "unit_scaling/analysis/numerics_run.hpp"
#include "unit_scaling/analysis/op_listing.hpp"
#include "unit_scaling/analysis/short_number.hpp"
#include "unit_scaling/analysis/tensor_groups.hpp"
#include "unit_scaling/analysis/tracker.hpp"
#include "unit_scaling/core/shape.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/formats/format_spec.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::analysis {

/// A picture of a report as a file of its own.
struct NumericsPicture {
  std::string file_name;  ///< of letters, digits, '.', '_' and '-'
  std::string svg;
};

namespace detail {

/// What stands in a table for tensors and runs: "4.21 at step 700".
[[nodiscard]] inline std::string last_loss_text(const LossCurve& curve) {
  if (curve.points.empty()) return "-";
  const auto& [step, loss] = curve.points.back();
  const std::string at = " at step " + short_number(step, 12);
  return (std::isfinite(loss) ? short_number(loss, 5) : "not finite") + at;
}

/// "0.98 → 0.41", of the first and the last sample; once if there is one.
[[nodiscard]] inline std::string rms_change(const TrackedTensor* tensor) {
  if (tensor == nullptr) return "-";
  const std::string last = rms_text(tensor->samples.back());
  return tensor->samples.size() == 1 ? last : rms_text(tensor->samples.front()) + " \u2192 " + last;
}

/// What a format would do to a tensor, in few characters: "0", "↓ 12 %, s 3 %".
[[nodiscard]] inline std::string losses_text(const FormatLosses& losses) {
  std::string text;
  const auto add = [&](const char* sign, double share) {
    if (share > 0) text += (text.empty() ? "" : ", ") + std::string(sign) + percent_text(share, 2);
  };
  add("\u2193 ", losses.underflowed);
  add("\u2191 ", losses.overflowed);
  add("s ", losses.subnormal);
  return text.empty() ? "0" : text;
}

/// The words of a report about one set of runs.
class NumericsPage {
 public:
  using Comparison = std::pair<std::size_t, std::size_t>;
  using Facts = std::vector<std::pair<std::string, std::string>>;

  NumericsPage(std::span<const NumericsRun> runs, std::span<const Comparison> comparisons)
      : runs_(runs),
        comparisons_(comparisons),
        groups_(group_tensors(runs)),
        formats_(formats_asked_about(runs)) {}

  [[nodiscard]] std::string html(const std::string& title, const Facts& facts) const {
    // Histograms first: they are what a reader came for.
    std::vector<HtmlSection> sections{
        {"summary", "At a glance", summary()},
        comparisons_.empty() ? HtmlSection{"histograms", "Histograms", run_histograms()}
                             : HtmlSection{"comparisons", "Side by side", comparisons()},
        {"losses", "Loss", losses()},
        {"facts", "The runs", facts_section(facts)},
        {"findings", "Findings", findings()},
    };
    for (std::size_t r = 0; r < runs_.size(); ++r) {
      sections.push_back({"run-" + std::to_string(r), "Run " + runs_[r].name, run_section(r)});
    }
    sections.push_back({"ops", "Op by op", folds(false)});
    sections.push_back({"parameters", "Parameter by parameter", folds(true)});
    sections.push_back({"reading", "How to read this", std::string(reading)});
    std::string json = to_json(runs_);
    // Nothing in a script may look like the end of one.
    for (std::size_t at = 0; (at = json.find('<', at)) != std::string::npos;) {
      json.replace(at, 1, "\\u003c");
    }
    return html_page(
        title,
        "<p class=\"muted\">What happened to every number on the way. Nothing here is "
        "loaded from elsewhere.</p>\n",
        sections,
        "<p>Written by unit_scaling::analysis::NumericsReport. The figures of this page "
        "are also in it as JSON, in the element <code>numerics</code>.</p>\n"
        "<script type=\"application/json\" id=\"numerics\">\n" +
            json + "</script>\n");
  }

  [[nodiscard]] std::vector<NumericsPicture> pictures() const {
    std::vector<NumericsPicture> pictures;
    std::set<std::string> names;
    const auto add = [&](const std::string& name, const auto& chart) {
      std::string safe;
      for (const char c : name) {
        const bool is_safe = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                             (c >= '0' && c <= '9') || c == '.' || c == '_';
        if (is_safe || (!safe.empty() && safe.back() != '-')) safe += is_safe ? c : '-';
      }
      // File systems have limits.
      safe = safe.substr(0, 100);
      std::string unique = safe;
      for (int i = 2; !names.insert(unique).second; ++i) unique = safe + "-" + std::to_string(i);
      pictures.push_back({unique + ".svg", to_svg(chart)});
    };
    for (const std::string& name : curve_names()) add("loss " + name, loss_chart(runs_, name));
    for (const auto& [first, second] : comparisons_) {
      for (const TensorChoice choice : choices) {
        const HistogramChart chart = compared_histograms(runs_, groups_, first, second, choice);
        if (chart.rows.empty()) continue;
        add("compared " + runs_[first].name + " " + runs_[second].name + " " +
                std::string(to_string(choice)),
            chart);
      }
    }
    for (std::size_t r = 0; r < runs_.size(); ++r) {
      for (const TensorChoice choice : choices) {
        const HistogramChart chart = model_histograms(runs_, groups_, r, choice);
        if (chart.rows.empty()) continue;
        add(runs_[r].name + " " + std::string(to_string(choice)), chart);
      }
      for (const TrackedRole role : scale_roles) {
        const LineChart chart = role_scales(runs_[r], role);
        if (!chart.series.empty()) {
          add(runs_[r].name + " scale of each " + std::string(to_string(role)), chart);
        }
      }
    }
    for (std::size_t g = 0; g < groups_.size(); ++g) {
      const std::string name = group_id(g) + " " + groups_[g].label;
      add(name, group_histograms(runs_, groups_[g]));
      add(name + " scale", group_scales(runs_, groups_[g]));
    }
    return pictures;
  }

 private:
  static constexpr std::array choices{TensorChoice::matrix_gradients, TensorChoice::operands,
                                      TensorChoice::outputs, TensorChoice::gradients};
  static constexpr std::array scale_roles{TrackedRole::value, TrackedRole::gradient,
                                          TrackedRole::parameter, TrackedRole::parameter_gradient,
                                          TrackedRole::update};
  using Kind = HtmlColumn::Kind;
  struct NamedFormat {
    std::string name;
    FormatSpec spec;
  };

  static constexpr std::string_view reading = R"(<dl>
<dt>Histogram</dt><dd>Each bar is a power of two: the share of a tensor's elements with a magnitude in
[2^e, 2^(e+1)). The highest bar of a row fills it, and every bar is at least one pixel high. Elements
that are zero have a column at the left, those that are NaN or infinite one at the right, and up to a
thousandth of a tensor that lies below the axis one called tiny; there a bar that fills its row stands
for all elements. The dotted line is 1, unit scale.</dd>
<dt>Range</dt><dd>Behind a row stands the range of the format that its tensor is rounded to. In the
hatched parts numbers round to zero (left) or overflow (right); in the grey part they are subnormal and
keep fewer bits; in between they are normal.</dd>
<dt>Before or after rounding</dt><dd>Outputs, gradients between ops and parameters are as they are
stored. Operands of matrix products, and gradients that enter one, are seen before they are rounded for
it: what is lost is lost there.</dd>
<dt>Zero, rounds to zero, subnormal, at the largest</dt><dd>Shares of all elements. Zero: after
rounding. Some are zero already when they come: by nature, as the gradients of rows of a table that
nobody looked up, or because an op before lost them, of which this op is innocent but which are lost all
the same. Rounds to zero, newly: the others, not zero before. At the largest: rounded to the largest number of
the format, or beyond it.</dd>
<dt>Lost</dt><dd>Rounds to zero, at the largest, or not finite: what happens here, not before.</dd>
<dt>rms</dt><dd>Root of the mean square of the finite elements. Gradients are as they pass, a loss scale
included.</dd>
<dt>Would lose</dt><dd>What rounding to nearest in a format would do, computed from the exponents alone:
&#8595; rounds to zero, &#8593; overflows, s becomes subnormal.</dd>
<dt>α, β</dt><dd>Factors of an op: forwards, and backwards for each input. A β with a star is on a
cut-edge, where it may differ from α. A factor called gradient is what an op multiplies the true
gradient with where that is not β/α, as residual weights do.</dd>
</dl>
)";

  [[nodiscard]] static std::string paragraph(std::string_view text) {
    return "<p>" + xml_text(text) + "</p>\n";
  }
  [[nodiscard]] static std::string fold(const std::string& id, const std::string& heading,
                                        const std::string& remark, const std::string& html,
                                        bool is_open = false) {
    // Links lead to what is inside: browsers unfold that, but not what a link leads to itself.
    return "<details id=\"" + xml_text(id) + "\"" + (is_open ? " open=\"open\"" : "") +
           "><summary><h3>" + xml_text(heading) + "</h3> <span>" + xml_text(remark) +
           "</span></summary>\n<div class=\"in\" id=\"" + xml_text(inside(id)) + "\">\n" + html +
           "</div></details>\n";
  }
  [[nodiscard]] static std::string inside(const std::string& fold_id) {
    return fold_id + "-inside";
  }
  template <class Chart> [[nodiscard]] static std::string figure(Chart chart) {
    chart.style = ChartStyle::of_page;
    if constexpr (std::is_same_v<Chart, HistogramChart>) chart.width = wide_chart_width;
    // What a picture of its own has to read out is in a table here.
    if (chart.description.empty()) {
      chart.description = chart.title + ". The tables below it have the numbers.";
    }
    return html_figure(to_svg(chart), chart.title);
  }

  [[nodiscard]] std::string group_id(std::size_t group) const {
    const auto first_parameter = static_cast<std::size_t>(
        std::find_if(groups_.begin(), groups_.end(),
                     [](const TensorGroup& each) { return each.is_parameter; }) -
        groups_.begin());
    return groups_[group].is_parameter ? "parameter-" + std::to_string(group - first_parameter)
                                       : "op-" + std::to_string(group);
  }

  [[nodiscard]] std::optional<std::size_t> group_of(std::size_t run,
                                                    const TrackedTensor& tensor) const {
    for (std::size_t g = 0; g < groups_.size(); ++g) {
      const auto& tensors = groups_[g].tensors[run];
      if (std::find(tensors.begin(), tensors.end(), &tensor) != tensors.end()) return g;
    }
    return std::nullopt;
  }

  /// The group that a listed op's tensors are in.
  [[nodiscard]] std::optional<std::size_t> group_of(std::size_t run, const ListedOp& op) const {
    for (std::size_t g = 0; g < groups_.size(); ++g) {
      for (const TrackedTensor* tensor : groups_[g].tensors[run]) {
        if (!groups_[g].is_parameter && tensor->index == op.index && tensor->source == op.name &&
            tensor->module == op.module) {
          return g;
        }
      }
    }
    return std::nullopt;
  }

  [[nodiscard]] std::vector<std::string> curve_names() const {
    std::vector<std::string> names;
    for (const NumericsRun& run : runs_) {
      for (const LossCurve& curve : run.losses) {
        if (std::find(names.begin(), names.end(), curve.name) == names.end()) {
          names.push_back(curve.name);
        }
      }
    }
    return names;
  }

  /// Where a link to the group leads.
  [[nodiscard]] std::string group_link(std::size_t group) const { return inside(group_id(group)); }

  /// "12 % of gradient of readout/linear_readout, float8_e5m2, at step 700".
  [[nodiscard]] static std::string loss_text(const LargestLoss& loss) {
    if (loss.tensor == nullptr) return "nothing";
    return percent_text(loss.share, 3) + " of " + loss.tensor->name + ", " + loss.tensor->format +
           ", at step " + std::to_string(loss.sample->step);
  }

  [[nodiscard]] static std::string count_text(bool is_known, std::size_t count) {
    return is_known ? std::to_string(count) : "not checked";
  }

  [[nodiscard]] std::string summary() const {
    if (runs_.empty()) return paragraph("No run was added to this report.");
    HtmlTable table{
        .caption = "What became of the runs. Shares of gradients are of the last step looked at",
        .columns = {{"run", Kind::head},
                    {"at the end", Kind::prose},
                    {"gradients between ops that are zero"},
                    {"gradients that round to zero newly"},
                    {"loses most in its format", Kind::prose},
                    {"first tensor that is not finite", Kind::prose},
                    {"constraint check"},
                    {"linter"}},
        .stacks = true};
    for (std::size_t r = 0; r < runs_.size(); ++r) {
      const NumericsRun& run = runs_[r];
      std::string outcome = run.outcome;
      if (outcome.empty()) {
        for (const LossCurve& curve : run.losses) {
          outcome += (outcome.empty() ? "" : "; ") + curve.name + " " + last_loss_text(curve);
        }
      }
      std::vector<const TrackedTensor*> tensors;
      for (const TrackedTensor& tensor : run.tensors) tensors.push_back(&tensor);
      const LargestLoss largest = largest_loss(tensors);
      const auto group = largest.tensor == nullptr ? std::nullopt : group_of(r, *largest.tensor);
      table.rows.push_back(
          {{run.name, "run-" + std::to_string(r)},
           {outcome.empty() ? "-" : outcome},
           {gradients_text(run, zero_share)},
           {gradients_text(run, [](const auto& seen) { return seen.share(seen.underflowed); })},
           {run.tensors.empty() ? "not tracked" : loss_text(largest),
            group ? group_link(*group) : ""},
           {non_finite_text(run)},
           {count_text(run.constraint_findings.has_value(),
                       run.constraint_findings ? run.constraint_findings->size() : 0),
            "findings"},
           {count_text(run.lint_findings.has_value(),
                       run.lint_findings ? run.lint_findings->size() : 0),
            "findings"}});
    }
    return to_html(table);
  }

  /// A share of the elements of each gradient between ops, of all their elements together, at the
  /// last step looked at.
  template <class Share>
  [[nodiscard]] static std::string gradients_text(const NumericsRun& run, const Share& share_of) {
    double sum = 0;
    double elements = 0;
    for (const TrackedTensor& tensor : run.tensors) {
      if (tensor.role != TrackedRole::gradient || tensor.samples.empty()) continue;
      const TensorStatistics& seen = tensor.samples.back().statistics;
      sum += share_of(seen) * static_cast<double>(seen.elements);
      elements += static_cast<double>(seen.elements);
    }
    return elements == 0 ? "not tracked" : percent_text(sum / elements, 3);
  }

  [[nodiscard]] static std::string non_finite_text(const NumericsRun& run) {
    if (run.tensors.empty()) return "not tracked";
    if (!run.first_non_finite) return "none of those looked at";
    return run.first_non_finite->name + " at step " + std::to_string(run.first_non_finite->step);
  }

  [[nodiscard]] std::string facts_section(const Facts& facts) const {
    std::string html;
    if (!facts.empty()) {
      HtmlTable table{.caption = "All runs",
                      .columns = {{"what", Kind::head}, {"is", Kind::prose}}};
      for (const auto& [what, is] : facts) table.rows.push_back({{what}, {is}});
      html += to_html(table);
    }
    std::vector<std::string> names;
    for (const NumericsRun& run : runs_) {
      for (const auto& fact : run.facts) {
        if (std::find(names.begin(), names.end(), fact.first) == names.end()) {
          names.push_back(fact.first);
        }
      }
    }
    HtmlTable table{.caption = "Each run", .columns = {{"run", Kind::head}}, .stacks = true};
    for (const std::string& name : names) table.columns.push_back({name, Kind::text});
    for (std::size_t r = 0; r < runs_.size(); ++r) {
      auto& row = table.rows.emplace_back();
      row.push_back({runs_[r].name, "run-" + std::to_string(r)});
      for (const std::string& name : names) {
        const auto& all = runs_[r].facts;
        const auto found = std::find_if(all.begin(), all.end(),
                                        [&](const auto& fact) { return fact.first == name; });
        row.push_back({found == all.end() ? "-" : found->second});
        constexpr std::size_t longest_line = 20;
        if (row.back().text.size() > longest_line) {
          table.columns[row.size() - 1].kind = Kind::prose;
        }
      }
    }
    if (!names.empty()) html += to_html(table);
    return html.empty() ? paragraph("Nothing is known of the runs but their names.") : html;
  }

  [[nodiscard]] std::string losses() const {
    std::string html;
    for (const std::string& name : curve_names()) html += figure(loss_chart(runs_, name));
    return html.empty() ? paragraph("No loss was recorded.") : html;
  }

  [[nodiscard]] std::string comparisons() const {
    std::string html;
    for (const auto& [first, second] : comparisons_) {
      html += "<h3>" + xml_text(runs_[first].name + " and " + runs_[second].name) + "</h3>\n";
      bool any = false;
      for (const TensorChoice choice : choices) {
        const HistogramChart chart = compared_histograms(runs_, groups_, first, second, choice);
        if (chart.rows.empty()) continue;
        html += fold("compared-" + std::to_string(first) + "-" + std::to_string(second) + "-" +
                         std::string(to_string(choice)),
                     std::string(title_of(choice)), "histograms of both", figure(chart), !any);
        any = true;
      }
      html += fold("compared-" + std::to_string(first) + "-" + std::to_string(second) + "-scales",
                   "Scales", "a table of all tensors", to_html(compared_scales(first, second)));
    }
    return html;
  }

  /// A fold for each choice of tensors of a run, the first of which is open if asked.
  [[nodiscard]] std::string histogram_folds(std::size_t r, bool opens) const {
    std::string html;
    for (const TensorChoice choice : choices) {
      const HistogramChart chart = model_histograms(runs_, groups_, r, choice);
      if (chart.rows.empty()) continue;
      html += fold("run-" + std::to_string(r) + "-" + std::string(to_string(choice)),
                   std::string(title_of(choice)),
                   "histograms of " + std::to_string(chart.rows.size()) + " tensors", figure(chart),
                   opens && html.empty());
    }
    return html;
  }

  /// Where no runs are compared: the histograms of each, of the first one open.
  [[nodiscard]] std::string run_histograms() const {
    std::string html;
    bool is_open = false;
    for (std::size_t r = 0; r < runs_.size(); ++r) {
      const std::string folds = histogram_folds(r, !is_open);
      if (folds.empty()) continue;
      if (runs_.size() > 1) html += "<h3>" + xml_text(runs_[r].name) + "</h3>\n";
      html += folds;
      is_open = true;
    }
    return html.empty() ? paragraph("No tensor was tracked, so there are no histograms to show.")
                        : html;
  }

  [[nodiscard]] HtmlTable compared_scales(std::size_t first, std::size_t second) const {
    const std::string& a = runs_[first].name;
    const std::string& b = runs_[second].name;
    HtmlTable table{.caption = "Scale and losses at the last step looked at: " + a + " and " + b,
                    .columns = {{"op or parameter", Kind::head},
                                {"tensor", Kind::text},
                                {"rms, " + a},
                                {"rms, " + b},
                                {"zero, " + a},
                                {"zero, " + b},
                                {"lost, " + a},
                                {"lost, " + b},
                                {"subnormal, " + a},
                                {"subnormal, " + b}}};
    for (std::size_t g = 0; g < groups_.size(); ++g) {
      for (const TensorPlace& place : places_of(groups_[g])) {
        const TrackedTensor* of_first = tensor_at(groups_[g], first, place);
        const TrackedTensor* of_second = tensor_at(groups_[g], second, place);
        if (of_first == nullptr && of_second == nullptr) continue;
        const auto cell = [](const TrackedTensor* tensor, const auto& text) {
          return HtmlCell{tensor == nullptr ? "-" : text(tensor->samples.back())};
        };
        const auto rms = [](const TrackedSample& sample) { return rms_text(sample); };
        const auto zero = [](const TrackedSample& sample) {
          return percent_text(zero_share(sample.statistics));
        };
        const auto lost = [](const TrackedSample& sample) {
          return percent_text(lost_share(sample.statistics));
        };
        const auto subnormal = [](const TrackedSample& sample) {
          return percent_text(sample.statistics.share(sample.statistics.subnormal));
        };
        table.rows.push_back({{groups_[g].label, group_link(g)},
                              {place_text(groups_[g], place)},
                              cell(of_first, rms),
                              cell(of_second, rms),
                              cell(of_first, zero),
                              cell(of_second, zero),
                              cell(of_first, lost),
                              cell(of_second, lost),
                              cell(of_first, subnormal),
                              cell(of_second, subnormal)});
      }
    }
    return table;
  }

  [[nodiscard]] std::string findings() const {
    std::string html;
    for (const NumericsRun& run : runs_) {
      html += "<h3>" + xml_text(run.name) + "</h3>\n";
      html += paragraph("First tensor that is not finite: " + non_finite_text(run) + ".");
      if (!run.constraint_findings) {
        html += paragraph("Constraints were not checked.");
      } else if (run.constraint_findings->empty()) {
        html += paragraph(
            "Constraint check: every gradient is a positive constant times the true one.");
      } else {
        html += paragraph("Constraint check: " + std::to_string(run.constraint_findings->size()) +
                          " found.");
        for (const ConstraintFinding& finding : *run.constraint_findings) {
          html += "<pre>" + xml_text(to_string(finding)) + "</pre>\n";
        }
      }
      if (!run.lint_findings) {
        html += paragraph("The linter did not look.");
      } else if (run.lint_findings->empty()) {
        html += paragraph("Linter: nothing to complain about.");
      } else {
        html += paragraph("Linter: " + std::to_string(run.lint_findings->size()) + " found.");
        for (const LintFinding& finding : *run.lint_findings) {
          html += "<pre>" + xml_text(to_string(std::vector{finding})) + "</pre>\n";
        }
      }
    }
    return html.empty() ? paragraph("There is no run to find anything in.") : html;
  }

  [[nodiscard]] std::string run_section(std::size_t r) const {
    const NumericsRun& run = runs_[r];
    const std::string id = "run-" + std::to_string(r) + "-";
    std::string html;
    const HtmlTable ops = op_table(r);
    html += ops.rows.empty()
                ? paragraph("Its ops are not known: neither a trace nor a tracker told.")
                : fold(id + "ops", "The model", std::to_string(ops.rows.size()) + " ops in order",
                       to_html(ops));
    if (run.tensors.empty()) {
      return html + paragraph(
                        "No tensor of this run was tracked, so there are no histograms, scales "
                        "and losses to show.");
    }
    if (!comparisons_.empty()) html += histogram_folds(r, false);
    std::string scales;
    for (const TrackedRole role : scale_roles) {
      const LineChart chart = role_scales(run, role);
      if (!chart.series.empty()) scales += figure(chart);
    }
    html += fold(id + "scales", "Scale over the training",
                 "values, gradients, parameters and updates by step", scales);
    html += fold(id + "formats", "What narrower formats would lose",
                 "of all its tensors together, and the worst of them", to_html(format_table(r)));
    return html;
  }

  [[nodiscard]] HtmlTable op_table(std::size_t r) const {
    HtmlTable table{.caption = "The ops of " + runs_[r].name +
                               " in order, with the rms at the first and the last step looked at",
                    .columns = {{"no.", Kind::head},
                                {"op", Kind::text},
                                {"reads", Kind::prose},
                                {"makes", Kind::text},
                                {"α"},
                                {"β", Kind::text},
                                {"constraint", Kind::text},
                                {"cut-edge", Kind::text},
                                {"rms forward", Kind::text},
                                {"rms backward", Kind::text}}};
    const auto or_dash = [](const std::string& text) {
      return HtmlCell{text.empty() ? "-" : text};
    };
    const auto add = [&](const ListedOp& op, std::optional<std::size_t> group) {
      std::string forward;
      std::string backward;
      if (group) {
        for (const TensorPlace& place : places_of(groups_[*group])) {
          const TrackedTensor* tensor = tensor_at(groups_[*group], r, place);
          if (tensor == nullptr) continue;
          std::string* cell = place.role == TrackedRole::value      ? &forward
                              : place.role == TrackedRole::gradient ? &backward
                                                                    : nullptr;
          if (cell != nullptr) *cell += (cell->empty() ? "" : ", ") + rms_change(tensor);
        }
      }
      table.rows.push_back(
          {{std::to_string(table.rows.size())},
           {op.module + (op.module.empty() ? "" : "/") + op.name, group ? group_link(*group) : ""},
           or_dash(op.reads),
           or_dash(op.makes),
           or_dash(op.forward),
           or_dash(op.backward),
           or_dash(op.constraint),
           or_dash(op.cut_edges),
           or_dash(forward),
           or_dash(backward)});
    };
    for (const ListedOp& op : runs_[r].ops) add(op, group_of(r, op));
    if (!runs_[r].ops.empty()) return table;
    // Without a trace, what the tracker saw.
    for (std::size_t g = 0; g < groups_.size(); ++g) {
      if (groups_[g].is_parameter || groups_[g].tensors[r].empty()) continue;
      const TrackedTensor& tensor = *groups_[g].tensors[r].front();
      ListedOp op;
      op.name = tensor.source;
      op.module = tensor.module;
      for (const TrackedTensor* each : groups_[g].tensors[r]) {
        if (each->role != TrackedRole::value) continue;
        op.makes += (op.makes.empty() ? "" : ", ") + unit_scaling::to_string(each->shape);
      }
      add(op, g);
    }
    return table;
  }

  /// The formats that are usually asked about and, if any are narrow, the others of the runs: those
  /// that were simulated.
  [[nodiscard]] static std::vector<NamedFormat> formats_asked_about(
      std::span<const NumericsRun> runs) {
    std::vector<NamedFormat> formats;
    for (std::size_t i = 0; i < narrow_formats.size(); ++i) {
      formats.push_back({std::string(narrow_format_names[i]), narrow_formats[i]});
    }
    for (const NumericsRun& run : runs) {
      for (const TrackedTensor& tensor : run.tensors) {
        const FormatSpec spec = spec_of(tensor);
        const bool is_there =
            std::any_of(formats.begin(), formats.end(),
                        [&](const NamedFormat& other) { return other.spec == spec; });
        if (spec.bits() < 16 && spec.has_zero() && !is_there)
          formats.push_back({tensor.format, spec});
      }
    }
    return formats;
  }

  /// Columns for what those formats would lose, behind others.
  void add_format_columns(HtmlTable& table, Kind kind = Kind::number) const {
    for (const NamedFormat& format : formats_) table.columns.push_back({format.name, kind});
  }

  /// Of all tensors of a role together, and of the one that would lose most.
  [[nodiscard]] HtmlTable format_table(std::size_t r) const {
    HtmlTable table{
        .caption =
            "What rounding to these formats would lose at the last step looked "
            "at: ↓ rounds to zero, ↑ overflows, s becomes subnormal",
        .columns = {{"tensors of " + runs_[r].name, Kind::head}, {"which", Kind::text}}};
    add_format_columns(table, Kind::prose);
    for (const TrackedRole role :
         {TrackedRole::value, TrackedRole::operand, TrackedRole::gradient, TrackedRole::parameter,
          TrackedRole::parameter_gradient, TrackedRole::update}) {
      std::vector<FormatLosses> all(formats_.size());
      std::vector<std::string> worst(formats_.size());
      std::vector<double> most(formats_.size());
      double elements = 0;
      for (const TrackedTensor& tensor : runs_[r].tensors) {
        if (tensor.role != role || tensor.samples.empty()) continue;
        const TensorStatistics& seen = tensor.samples.back().statistics;
        const auto count = static_cast<double>(seen.elements);
        elements += count;
        for (std::size_t i = 0; i < formats_.size(); ++i) {
          const FormatLosses losses = format_losses(seen.histogram, formats_[i].spec);
          all[i].underflowed += losses.underflowed * count;
          all[i].subnormal += losses.subnormal * count;
          all[i].overflowed += losses.overflowed * count;
          const double lost = losses.underflowed + losses.overflowed;
          if (lost <= most[i]) continue;
          most[i] = lost;
          worst[i] = percent_text(lost, 2) + " of " + tensor.name;
        }
      }
      if (elements == 0) continue;
      std::vector<HtmlCell> together{{std::string(to_string(role))}, {"all together"}};
      std::vector<HtmlCell> single{{std::string(to_string(role))}, {"the worst one loses"}};
      for (std::size_t i = 0; i < formats_.size(); ++i) {
        together.push_back({losses_text({all[i].underflowed / elements, all[i].subnormal / elements,
                                         all[i].overflowed / elements})});
        single.push_back({worst[i].empty() ? "0" : worst[i]});
      }
      table.rows.push_back(std::move(together));
      table.rows.push_back(std::move(single));
    }
    return table;
  }

  /// The ops, or the parameters, each in a fold of its own.
  [[nodiscard]] std::string folds(bool parameters) const {
    std::string html;
    for (std::size_t g = 0; g < groups_.size(); ++g) {
      const TensorGroup& group = groups_[g];
      if (group.is_parameter != parameters) continue;
      LargestLoss largest;
      std::string of_run;
      for (std::size_t r = 0; r < runs_.size(); ++r) {
        const LargestLoss loss = largest_loss(group.tensors[r]);
        if (loss.share <= largest.share) continue;
        largest = loss;
        of_run = runs_[r].name;
      }
      std::string remark =
          largest.tensor == nullptr ? "loses nothing" : of_run + " loses " + loss_text(largest);
      const std::string zeros = zeros_text(group, largest.share);
      if (!zeros.empty()) remark += ", but " + zeros;
      const std::string number = group_id(g);
      html += fold(number, number.substr(number.find('-') + 1) + " " + group.label, remark,
                   figure(group_histograms(runs_, group)) + figure(group_scales(runs_, group)) +
                       to_html(figures_table(group)) + to_html(would_lose_table(group)));
    }
    if (html.empty()) {
      return paragraph(parameters ? "No parameter was tracked." : "No op was tracked.");
    }
    return paragraph(parameters
                         ? "All runs side by side: parameters as the forward pass reads them, "
                           "their gradients, and what the optimiser added."
                         : "All runs side by side, in the order of the ops.") +
           html;
  }

  /// "fp8 none has 40 % zeros already in gradient of x": of the tensor of which most were zero when
  /// they came, at the last step; empty if they were no more than `lost`, the share that is lost.
  [[nodiscard]] std::string zeros_text(const TensorGroup& group, double lost) const {
    double most = lost;
    std::string text;
    for (std::size_t r = 0; r < runs_.size(); ++r) {
      for (const TrackedTensor* tensor : group.tensors[r]) {
        if (tensor->role == TrackedRole::update || tensor->samples.empty()) continue;
        const TensorStatistics& seen = tensor->samples.back().statistics;
        const double share = seen.share(seen.histogram.zeros);
        if (share <= most) continue;
        most = share;
        text =
            runs_[r].name + " has " + percent_text(share, 3) + " zeros already in " + tensor->name;
      }
    }
    return text;
  }

  /// At the last step looked at, and at the worst one: moments, and shares lost in the tensor's own
  /// format.
  [[nodiscard]] HtmlTable figures_table(const TensorGroup& group) const {
    HtmlTable table{.caption = group.label + ", in figures",
                    .columns = {{"tensor", Kind::head},
                                {"run", Kind::text},
                                {"format", Kind::text},
                                {"step"},
                                {"rms"},
                                {"mean"},
                                {"std"},
                                {"least magnitude"},
                                {"largest magnitude"},
                                {"zero"},
                                {"zero already"},
                                {"rounds to zero"},
                                {"subnormal"},
                                {"at the largest"},
                                {"not finite"}}};
    for_shown_samples(group, [&](const TensorPlace& place, std::size_t r,
                                 const TrackedTensor& tensor, const TrackedSample& sample) {
      const TensorStatistics& seen = sample.statistics;
      table.rows.push_back({{place_text(group, place)},
                            {runs_[r].name},
                            {tensor.format},
                            {std::to_string(sample.step)},
                            {short_number(seen.rms)},
                            {short_number(seen.mean, 3)},
                            {short_number(seen.std)},
                            {short_number(seen.min_magnitude, 3)},
                            {short_number(seen.max_magnitude, 3)},
                            {percent_text(zero_share(seen))},
                            {percent_text(seen.share(seen.histogram.zeros))},
                            {percent_text(seen.share(seen.underflowed))},
                            {percent_text(seen.share(seen.subnormal))},
                            {percent_text(seen.share(seen.saturated))},
                            {percent_text(seen.share(seen.histogram.non_finite))}});
    });
    return table;
  }

  /// What rounding the same to other formats would lose.
  [[nodiscard]] HtmlTable would_lose_table(const TensorGroup& group) const {
    HtmlTable table{.caption = group.label +
                               ", what other formats would lose: ↓ rounds to zero, ↑ overflows, s "
                               "becomes subnormal",
                    .columns = {{"tensor", Kind::head}, {"run", Kind::text}, {"step"}}};
    add_format_columns(table, Kind::text);
    for_shown_samples(group, [&](const TensorPlace& place, std::size_t r, const TrackedTensor&,
                                 const TrackedSample& sample) {
      auto& row = table.rows.emplace_back(std::vector<HtmlCell>{
          {place_text(group, place)}, {runs_[r].name}, {std::to_string(sample.step)}});
      for (const NamedFormat& format : formats_) {
        row.push_back({losses_text(format_losses(sample.statistics.histogram, format.spec))});
      }
    });
    return table;
  }

  /// Calls `visit(place, run, tensor, sample)` for what the tables of a group show.
  template <class Visit>
  void for_shown_samples(const TensorGroup& group, const Visit& visit) const {
    for (const TensorPlace& place : places_of(group)) {
      for (std::size_t r = 0; r < runs_.size(); ++r) {
        const TrackedTensor* tensor = tensor_at(group, r, place);
        if (tensor == nullptr) continue;
        const ShownSamples shown = shown_samples(*tensor, largest_loss(group.tensors[r]));
        for (const TrackedSample* sample : {shown.last, shown.worst}) {
          if (sample != nullptr) visit(place, r, *tensor, *sample);
        }
      }
    }
  }

  std::span<const NumericsRun> runs_;
  std::span<const Comparison> comparisons_;
  std::vector<TensorGroup> groups_;
  std::vector<NamedFormat> formats_;  ///< that tables tell the losses of
};

}  // namespace detail

}  // namespace UNIT_SCALING_NAMESPACE::analysis

UNIT_SCALING_IEEE_END
