// SPDX-License-Identifier: MIT
#include "unit_scaling/analysis/numerics_report.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "support/errors.hpp"
#include "support/random_arrays.hpp"
#include "support/svg_path.hpp"
#include "support/texts.hpp"
#include "unit_scaling/analysis/graph_trace.hpp"
#include "unit_scaling/autograd/tape.hpp"
#include "unit_scaling/formats/catalogue.hpp"
#include "unit_scaling/nn/bert_mlp.hpp"
#include "unit_scaling/ops/cross_entropy.hpp"
#include "unit_scaling/optim/adam.hpp"

namespace numerics_report_test {

using namespace unit_scaling;
using analysis::NumericsReport;
using analysis::NumericsRun;
using analysis::TrackedRole;
using analysis::TrackedTensor;
using unit_scaling_test::count;
using unit_scaling_test::expect_error;
using unit_scaling_test::id_array;
using unit_scaling_test::path_commands;

constexpr double nan = std::numeric_limits<double>::quiet_NaN();

/// A tensor as an observer sees it, copied.
struct RawTensor {
  TensorRole role;
  std::string source;
  std::string module;
  std::size_t index;
  std::size_t argument;
  std::string format;
  std::vector<float> elements;
};

/// Three training steps of a small masked language model, always the same.
template <Precision P>
void train_a_model(const Scaling& rules, float loss_scale, auto&& prepare, auto&& end_step) {
  nn::Initialiser initialiser(1, rules);
  nn::BertMlp model(initialiser,
                    {.vocabulary_size = 23, .window = 16, .hidden_size = 32, .layers = 1});
  optim::Adam optimiser(optim::parameters_of(model),
                        {.rule = rules.rule, .allow_non_finite = true});
  Tape<P> tape;
  for (std::uint64_t step = 0; step < 3; ++step) {
    tape.clear();
    prepare(tape, step);
    const auto ids = id_array({8, 16}, 23, 3 * step);
    const auto selected = id_array({24}, 8 * 16, 3 * step + 1);
    const auto labels = id_array({24}, 23, 3 * step + 2);
    const auto loss = ops::cross_entropy(model(tape, ids, selected), labels, {.scaling = rules});
    tape.backward(loss, loss_scale);
    optimiser.step(tape, 0x1p-6, static_cast<double>(loss_scale));
    end_step(model, loss);
  }
}

/// What a user's own trainer would hand over.
template <Precision P>
NumericsRun tracked(const std::string& name, const Scaling& rules, float loss_scale = 1) {
  NumericsRun run{.name = name};
  analysis::Tracker tracker;
  analysis::GraphTrace trace;
  train_a_model<P>(
      rules, loss_scale,
      [&](Tape<P>& tape, std::uint64_t step) {
        tracker.attach(tape);
        if (step == 0) {
          tape.trace_with(trace.tracer());
        } else {
          tape.trace_with(nullptr);
        }
      },
      [&](nn::BertMlp& model, const auto& loss) {
        tracker.record_updates(optim::parameters_of(model));
        if (run.constraint_findings) return;
        run.constraint_findings = analysis::check_constraints(trace.ops(), loss);
        run.ops = analysis::list_ops(trace.ops());
      });
  run.tensors = tracker.tensors();
  run.first_non_finite = tracker.first_non_finite();
  return run;
}

/// The tensors of the last step, seen by another observer.
template <Precision P> std::vector<RawTensor> raw_tensors(const Scaling& rules, float loss_scale) {
  std::vector<RawTensor> all;
  train_a_model<P>(
      rules, loss_scale,
      [&](Tape<P>& tape, std::uint64_t step) {
        if (step != 2) return;
        tape.observe_with([&](const Observation& seen) {
          all.push_back({seen.role,
                         std::string(seen.name),
                         std::string(seen.module),
                         seen.index,
                         seen.argument,
                         std::string(seen.format),
                         {seen.elements.begin(), seen.elements.end()}});
        });
      },
      [](auto&&...) {});
  return all;
}

/// The element with that id, from its opening to its closing tag.
std::string element(const std::string& html, const std::string& tag, const std::string& id) {
  const std::size_t begin = html.find("<" + tag + " id=\"" + id + "\"");
  if (begin == std::string::npos) return "";
  return html.substr(begin, html.find("</" + tag + ">", begin) - begin);
}

nlohmann::json figures_of(const std::string& html) {
  const std::string opening = "<script type=\"application/json\" id=\"numerics\">";
  const std::size_t begin = html.find(opening) + opening.size();
  return nlohmann::json::parse(html.substr(begin, html.find("</script>", begin) - begin));
}

/// Fails unless every tag is closed in its order, every attribute is quoted, no id comes twice and
/// every link within the page leads somewhere: what a browser would mend without a word.
void expect_well_formed(const std::string& html) {
  std::vector<std::string> open;
  std::multiset<std::string> ids;
  std::set<std::string> targets;
  for (std::size_t at = 0; (at = html.find('<', at)) != std::string::npos;) {
    const std::size_t end = html.find('>', at);
    ASSERT_NE(end, std::string::npos);
    std::string tag = html.substr(at + 1, end - at - 1);
    at = end + 1;
    if (tag.starts_with("!DOCTYPE")) continue;
    if (tag.starts_with("/")) {
      ASSERT_FALSE(open.empty()) << tag;
      ASSERT_EQ(tag.substr(1), open.back());
      open.pop_back();
      continue;
    }
    const bool is_empty = tag.ends_with("/");
    if (is_empty) tag.pop_back();
    std::istringstream words(tag);
    std::string name;
    words >> name;
    EXPECT_EQ(count(tag, "\"") % 2, 0U) << tag;
    EXPECT_EQ(count(tag, "=\""), count(tag, "\"") / 2) << tag;
    for (const auto& [attribute, values] : {std::pair{std::string(" id=\""), &ids}}) {
      if (const std::size_t found = tag.find(attribute); found != std::string::npos) {
        const std::size_t begin = found + attribute.size();
        values->insert(tag.substr(begin, tag.find('"', begin) - begin));
      }
    }
    if (const std::size_t found = tag.find(" href=\"#"); found != std::string::npos) {
      targets.insert(tag.substr(found + 8, tag.find('"', found + 8) - found - 8));
    }
    if (is_empty) continue;
    open.push_back(name);
    if (name == "script" || name == "style") {  // no markup inside
      at = html.find("</" + name + ">", at);
      ASSERT_NE(at, std::string::npos);
    }
  }
  EXPECT_TRUE(open.empty()) << open.size() << " left open";
  for (const std::string& id : ids) EXPECT_EQ(ids.count(id), 1U) << id;
  for (const std::string& target : targets) EXPECT_EQ(ids.count(target), 1U) << target;
}

void expect_self_contained(const std::string& html) {
  std::string rest = html;
  // The only address is the name that SVG has.
  for (const std::string& name : {std::string("http://www.w3.org/2000/svg")}) {
    for (std::size_t at = 0; (at = rest.find(name)) != std::string::npos;)
      rest.erase(at, name.size());
  }
  for (const char* what : {"http:", "https:", "src=", "@import", "url(h", "<link rel=\"style"}) {
    EXPECT_EQ(rest.find(what), std::string::npos) << what;
  }
}

const char* role_text(TensorRole role) {
  switch (role) {
    case TensorRole::value:
      return "value";
    case TensorRole::operand:
      return "operand";
    case TensorRole::gradient:
      return "gradient";
    case TensorRole::parameter:
      return "parameter";
    case TensorRole::parameter_gradient:
      return "parameter_gradient";
  }
  return "?";
}

/// By the definition of each format, on one element at a time: 0 kept, 1 rounds to zero, 2 is
/// subnormal, 3 overflows.
int fate(const std::string& format, float element) {
  const double magnitude = std::abs(static_cast<double>(element));
  if (magnitude == 0) return 0;
  // Smallest subnormal, smallest normal and largest number, from the OCP specifications and IEEE.
  static const std::map<std::string, std::array<double, 3>> limits{
      {"float8_e4m3fn", {0x1p-9, 0x1p-6, 448}},
      {"float8_e5m2", {0x1p-16, 0x1p-14, 57344}},
      {"float16", {0x1p-24, 0x1p-14, 65504}},
      {"float6_e2m3fn", {0.125, 1, 7.5}},
      {"float6_e3m2fn", {0.0625, 0.25, 28}},
      {"float4_e2m1fn", {0.5, 1, 6}},
      {"float32", {0x1p-149, 0x1p-126, 0x1.fffffep127}}};
  const auto [smallest, normal, largest] = limits.at(format);
  if (magnitude <= smallest / 2) return 1;  // a tie goes to even, which zero is
  if (magnitude < normal - smallest / 2) return 2;
  // The last place at the largest number.
  const std::map<std::string, int> fraction{
      {"float8_e4m3fn", 3}, {"float8_e5m2", 2},   {"float16", 10}, {"float6_e2m3fn", 3},
      {"float6_e3m2fn", 2}, {"float4_e2m1fn", 1}, {"float32", 23}};
  const double place = std::ldexp(1, std::ilogb(largest) - fraction.at(format));
  return magnitude >= largest + place / 2 ? 3 : 0;
}

/// HTML without the places where a browser may break a word.
std::string without_breaks(std::string html) {
  const std::string mark = "<wbr/>";
  for (std::size_t at = 0; (at = html.find(mark, at)) != std::string::npos;) {
    html.erase(at, mark.size());
  }
  return html;
}

TEST(NumericsReport, FiguresAreThoseOfTheRawTensors) {
  // A loss scale that makes all three formats lose something.
  constexpr float loss_scale = 0x1p-10F;
  NumericsReport report("figures");
  report.add_run(tracked<precision::fp8>("fp8", scaling::paper, loss_scale));
  const auto json = figures_of(report.html());
  const auto raw = raw_tensors<precision::fp8>(scaling::paper, loss_scale);
  const auto& tensors = json["runs"][0]["tensors"];
  std::size_t compared = 0;
  std::uint64_t all_underflowed = 0;
  for (const RawTensor& seen : raw) {
    SCOPED_TRACE(seen.module + "/" + seen.source + " " + role_text(seen.role));
    std::string name = seen.module.empty() ? seen.source : seen.module + "/" + seen.source;
    if (seen.role == TensorRole::operand) {
      name = "operand " + std::to_string(seen.argument) + " of " + name;
    } else if (!is_forward(seen.role)) {
      name = "gradient of " + name;
    }
    if (seen.source == "residual_split") name += "[" + std::to_string(seen.argument) + "]";
    const auto found = std::find_if(tensors.begin(), tensors.end(), [&](const auto& tensor) {
      return tensor["name"] == name && tensor["role"] == role_text(seen.role);
    });
    ASSERT_NE(found, tensors.end()) << name;
    EXPECT_EQ((*found)["format"], seen.format);
    const auto& sample = (*found)["samples"].back();
    EXPECT_EQ(sample["step"], 3);
    EXPECT_EQ(sample["elements"], seen.elements.size());
    long double squares = 0;
    long double sum = 0;
    double largest = 0;
    std::map<int, std::uint64_t> exponents;
    std::array<std::uint64_t, 4> fates{};
    std::uint64_t zeros = 0;
    for (const float element : seen.elements) {
      const double value = element;
      squares += static_cast<long double>(value) * value;
      sum += value;
      largest = std::max(largest, std::abs(value));
      ++fates[static_cast<std::size_t>(fate(seen.format, element))];
      if (value == 0) {
        ++zeros;
      } else {
        ++exponents[std::ilogb(value)];
      }
    }
    const auto size = static_cast<long double>(seen.elements.size());
    const auto rms = static_cast<double>(std::sqrt(squares / size));
    EXPECT_NEAR(sample["rms"].get<double>(), rms, 1e-12 * rms);
    EXPECT_NEAR(sample["mean"].get<double>(), static_cast<double>(sum / size), 1e-12 * rms);
    EXPECT_EQ(sample["max_magnitude"].get<double>(), largest);
    EXPECT_EQ(sample["zeros"], zeros);
    EXPECT_EQ(sample["underflowed"], fates[1]);
    EXPECT_EQ(sample["subnormal"], fates[2]);
    EXPECT_EQ(sample["non_finite"], 0);
    all_underflowed += fates[1];
    if (!exponents.empty()) {
      EXPECT_EQ(sample["first_exponent"], exponents.begin()->first);
      const auto counts = sample["counts"].get<std::vector<std::uint64_t>>();
      ASSERT_EQ(static_cast<int>(counts.size()),
                exponents.rbegin()->first - exponents.begin()->first + 1);
      for (std::size_t i = 0; i < counts.size(); ++i) {
        EXPECT_EQ(counts[i], exponents[exponents.begin()->first + static_cast<int>(i)]);
      }
    }
    // What is computed from exponents errs by no more than the bin that a threshold divides.
    for (const char* format : {"float8_e4m3fn", "float8_e5m2", "float16", "float6_e2m3fn",
                               "float6_e3m2fn", "float4_e2m1fn"}) {
      std::array<double, 4> shares{};
      double ties = 0;  // numbers that are just half the smallest one count as kept
      for (const float element : seen.elements) {
        const int becomes = fate(format, element);
        const bool is_tie = becomes == 1 && fate(format, std::nextafter(element, 2 * element)) != 1;
        shares[static_cast<std::size_t>(becomes)] += 1 / static_cast<double>(size);
        ties += is_tie ? 1 / static_cast<double>(size) : 0;
      }
      double widest = 0;
      for (const auto& [exponent, number] : exponents) {
        widest = std::max(widest, static_cast<double>(number) / static_cast<double>(size));
      }
      const auto& would = (*found)["would_lose"];
      const auto told = would.contains(format) ? would[format].get<std::vector<double>>()
                                               : std::vector<double>(3, 0);
      // Six digits are told.
      EXPECT_NEAR(told[0], shares[1] - ties, 1e-5) << format;
      EXPECT_NEAR(told[1], shares[2] + ties, widest + 1e-5) << format;
      EXPECT_NEAR(told[2], shares[3], widest + 1e-5) << format;
    }
    ++compared;
  }
  EXPECT_GT(compared, 60U);
  EXPECT_GT(all_underflowed, 0U);
}

TEST(NumericsReport, TablesShowTheFiguresOfTheRawTensors) {
  NumericsReport report("tables");
  report.add_run(tracked<precision::fp8>("fp8", scaling::paper, 0x1p-10F));
  const std::string html = report.html();
  for (const RawTensor& seen : raw_tensors<precision::fp8>(scaling::paper, 0x1p-10F)) {
    if (seen.role != TensorRole::gradient || seen.source != "linear_readout") continue;
    double squares = 0;
    double zeros = 0;
    double underflowed = 0;
    for (const float element : seen.elements) {
      squares += static_cast<double>(element) * static_cast<double>(element);
      zeros += element == 0 ? 1 : 0;
      underflowed += fate(seen.format, element) == 1 ? 1 : 0;
    }
    const auto size = static_cast<double>(seen.elements.size());
    std::array<char, 64> rms{};
    std::snprintf(rms.data(), rms.size(), "<td>%.4g</td>", std::sqrt(squares / size));
    const auto cell = [&](double number) -> std::string {
      if (number == 0) return "<td>0</td>";
      std::array<char, 64> share{};
      std::snprintf(share.data(), share.size(), "<td>%.3g %%</td>", 100 * number / size);
      return share.data();
    };
    const std::string shares = cell(zeros + underflowed) + cell(zeros) + cell(underflowed);
    const std::size_t fold = html.find("readout/linear_readout, in figures</caption>");
    ASSERT_NE(fold, std::string::npos);
    const std::size_t row = html.find("<th scope=\"row\">gradient of output</th>", fold);
    const std::string text = html.substr(row, html.find("</tr>", row) - row);
    EXPECT_NE(text.find(rms.data()), std::string::npos) << rms.data() << " in " << text;
    EXPECT_NE(text.find(shares), std::string::npos) << shares << " in " << text;
    EXPECT_GT(underflowed, 0);
    return;
  }
  FAIL() << "no such tensor";
}

/// The bars of the first histogram of a chart: left end, width and height, in pixels.
std::vector<std::array<double, 3>> bars_of(const std::string& svg) {
  const std::size_t group = svg.find("us-fill\">\n<path d=\"");  // behind the legend's
  const std::size_t begin = svg.find("d=\"", group) + 3;
  std::vector<std::array<double, 3>> bars;
  double base = 0;
  double left = 0;
  for (const auto& [name, x, y] :
       path_commands(std::string_view(svg).substr(begin, svg.find('"', begin) - begin))) {
    if (name == 'M') base = y;
    if (name == 'h') bars.push_back({left, x - left, base - y});
    left = x;
  }
  return bars;
}

TEST(HistogramChart, BarsAreAsHighAsTheirShares) {
  analysis::HistogramChart chart{.title = "bars", .series = {"filled"}, .row_height = 43};
  // The exponents -3, -1 and 0, and a quarter of zeros.
  chart.rows.push_back(
      {.label = "row",
       .format = float8_e4m3fn::format,
       .histograms = {{.first_exponent = -3, .counts = {10, 0, 40, 25}, .zeros = 25}}});
  const auto bars = bars_of(to_svg(chart));
  ASSERT_EQ(bars.size(), 4U);
  constexpr double room = 40;  // the row but for three pixels
  EXPECT_NEAR(bars[0][2], 0.25 * room, 0.1) << "zeros, as a share of all";
  EXPECT_NEAR(bars[1][2], 10.0 / 40 * room, 0.1) << "of the highest bar";
  EXPECT_NEAR(bars[2][2], room, 0.1);
  EXPECT_NEAR(bars[3][2], 25.0 / 40 * room, 0.1);
  EXPECT_NEAR(bars[2][0] - bars[1][0], 2 * bars[1][1], 0.01) << "a bar's width is one exponent";
  EXPECT_NEAR(bars[3][0] - bars[2][0], bars[2][1], 0.01);
}

TEST(HistogramChart, BarsOfOneHeightAreOnePieceOfThePath) {
  analysis::HistogramChart chart{.series = {"filled"}};
  chart.rows.push_back(
      {.label = "row", .histograms = {{.first_exponent = 0, .counts = {9, 5, 5, 5, 9}}}});
  const auto pieces = bars_of(to_svg(chart));
  ASSERT_EQ(pieces.size(), 3U);
  EXPECT_NEAR(pieces[1][1], pieces[0][1] + pieces[2][1] + pieces[0][1], 1e-9) << "three bars wide";
}

TEST(HistogramChart, TakesTheFontOfAPageButHasOneOfItsOwnInAFile) {
  analysis::HistogramChart chart{.series = {"filled"}};
  chart.rows.push_back({.label = "row", .histograms = {{.first_exponent = 0, .counts = {1}}}});
  EXPECT_EQ(count(to_svg(chart), "font-family"), 1U);
  chart.style = analysis::ChartStyle::of_page;
  EXPECT_EQ(count(to_svg(chart), "font-family"), 0U);
}

TEST(HistogramChart, NoBarIsTooLowToBeSeen) {
  analysis::HistogramChart chart{.series = {"filled"}};
  chart.rows.push_back(
      {.label = "row", .histograms = {{.first_exponent = 0, .counts = {1000000, 3000}}}});
  const auto bars = bars_of(to_svg(chart));
  ASSERT_EQ(bars.size(), 2U);
  EXPECT_NEAR(bars[1][2], 1, 0.05);
}

TEST(HistogramChart, FewTinyElementsGetAColumnInsteadOfALongAxis) {
  analysis::HistogramChart chart{.series = {"filled"}};
  std::vector<std::uint64_t> counts(100, 0);
  counts.front() = 1;
  counts.back() = 5000;
  chart.rows.push_back({.label = "row", .histograms = {{.first_exponent = -99, .counts = counts}}});
  const std::string svg = to_svg(chart);
  EXPECT_EQ(count(svg, ">tiny</text>"), 2U) << "above and below";
  EXPECT_EQ(svg.find(">\u221299</tspan>"), std::string::npos);
  counts.front() = 6;  // more than a thousandth
  chart.rows[0].histograms = {{.first_exponent = -99, .counts = counts}};
  EXPECT_EQ(count(to_svg(chart), ">tiny</text>"), 0U);
}

/// The labels of a chart's rows, as they are shown.
std::vector<std::string> labels_of(const std::string& svg) {
  std::size_t at = svg.find("us-labels");
  const std::size_t end = svg.find("</g>", at);
  std::vector<std::string> labels;
  while ((at = svg.find("<text", at)) < end) {
    at = svg.find('>', at) + 1;
    labels.push_back(svg.substr(at, svg.find('<', at) - at));
  }
  return labels;
}

TEST(HistogramChart, TellsRowsApartWhoseNamesAreTooLong) {
  const std::string path = "transformer_encoder.layers.";
  const std::string inner = ".multi_head_attention.projection_of_the_";
  const std::string tail = ".weight_of_a_very_long_name_of_a_module/linear";
  // They differ at the end, in the middle, at the beginning; or in one character of many.
  const std::vector<std::vector<std::string>> lists{
      {path + "0" + inner + "queries/linear", path + "0" + inner + "keys/linear",
       path + "0" + inner + "values/linear", path + "1" + inner + "values/linear"},
      {path + "10" + inner + "keys" + tail, path + "11" + inner + "keys" + tail,
       path + "110" + inner + "keys" + tail, path + "111" + inner + "values" + tail},
      {"a" + path + path + tail, "b" + path + path + tail, path + path + tail},
      {std::string(200, 'x'), std::string(201, 'x'),
       std::string(100, 'x') + "y" + std::string(99, 'x')},
      {path + path + tail + " [0]", path + path + tail + " [1]"},
  };
  for (const double width : {600.0, 880.0, 1160.0}) {
    for (const auto& names : lists) {
      analysis::HistogramChart chart{
          .series = {"filled"}, .note_heads = {"rms", "zero", "rounds to zero"}, .width = width};
      for (const std::string& name : names) {
        chart.rows.push_back({.label = name, .histograms = {{.first_exponent = 0, .counts = {1}}}});
      }
      const auto shown = labels_of(to_svg(chart));
      ASSERT_EQ(shown.size(), names.size());
      EXPECT_EQ(std::set<std::string>(shown.begin(), shown.end()).size(), names.size())
          << testing::PrintToString(shown);
      for (std::size_t i = 0; i < names.size(); ++i) {
        EXPECT_LT(shown[i].size(), names[i].size());
        EXPECT_EQ(shown[i].back(), names[i].back()) << "the end of a path is its op";
      }
    }
  }
}

TEST(HistogramChart, ShowsEveryWordOfItsHeads) {
  analysis::HistogramChart chart{
      .series = {"filled"},
      .note_heads = {"rounds to zero", "rms", "one two three four five six", "zero, outlined"}};
  // Narrow notes, so that a head takes as many lines as it has words.
  chart.rows.push_back({.label = "row",
                        .histograms = {{.first_exponent = 0, .counts = {1}}},
                        .notes = {"0", "1", "0", "0"}});
  const std::string svg = to_svg(chart);
  for (const std::string& head : chart.note_heads) {
    std::string all;
    for (std::size_t at = 0; (at = svg.find("us-head\"", at)) != std::string::npos; ++at) {
      const std::string text = svg.substr(at, svg.find("</text>", at) - at);
      std::string words;
      for (std::size_t k = 0; (k = text.find("<tspan", k)) != std::string::npos;) {
        k = text.find('>', k) + 1;
        words += (words.empty() ? "" : " ") + text.substr(k, text.find('<', k) - k);
      }
      all += "|" + words + "|";
    }
    EXPECT_NE(all.find("|" + head + "|"), std::string::npos) << head << " in " << all;
  }
}

TEST(HistogramChart, RefusesWhatItCannotDraw) {
  analysis::HistogramChart chart{.series = {"a", "b", "c", "d"}};
  expect_error<std::invalid_argument>([&] { (void)to_svg(chart); }, {"3 series", "4"});
  chart.series = {"a"};
  chart.rows.push_back({.label = "two", .histograms = std::vector<analysis::ExponentHistogram>(2)});
  expect_error<std::invalid_argument>([&] { (void)to_svg(chart); }, {"'two'", "2", "1 series"});
  chart.rows.clear();
  chart.row_height = nan;
  expect_error<std::invalid_argument>([&] { (void)to_svg(chart); }, {"pixels"});
  chart.row_height = 20;
  chart.width = 100;
  expect_error<std::invalid_argument>([&] { (void)to_svg(chart); }, {"600", "100"});
  chart.width = 880;
  expect_well_formed(to_svg(chart));
}

TEST(HtmlTable, LetsLongWordsBreakButNoNumber) {
  const auto cell = [](const std::string& text, analysis::HtmlColumn::Kind kind) {
    const std::string html =
        to_html(analysis::HtmlTable{.caption = "c", .columns = {{"a", kind}}, .rows = {{{text}}}});
    const std::size_t begin = html.find('>', html.find("<td")) + 1;
    return html.substr(begin, html.find("</td>", begin) - begin);
  };
  using Kind = analysis::HtmlColumn::Kind;
  EXPECT_EQ(cell("0.0444, 12.25*", Kind::text), "0.0444, 12.25*");
  EXPECT_EQ(cell("float8_e4m3fn", Kind::text), "float8_e4m3fn");
  EXPECT_EQ(cell("layers.0.attention/linear", Kind::prose),
            "layers.0.<wbr/>attention/<wbr/>linear");
  EXPECT_EQ(cell("123456.789", Kind::number), "123456.789");
  // Whatever it is made of, nothing longer than 20 characters stays in one piece.
  const std::string html = cell(std::string(45, '<') + "\xc3\xa9", Kind::text);
  EXPECT_EQ(count(html, "<wbr/>"), 2U) << html;
  EXPECT_EQ(without_breaks(html).size(), 4 * 45U + 2);
}

TEST(NumericsReport, ShowsTheHistogramsOfOneRunBeforeAllElse) {
  NumericsReport report("One run");
  report.add_run(tracked<precision::fp8>("only", scaling::paper));
  const std::string html = report.html();
  const std::size_t section = html.find("<section id=\"histograms\"");
  ASSERT_NE(section, std::string::npos);
  EXPECT_LT(section, html.find("<section id=\"facts\""));
  const std::string histograms = element(html, "section", "histograms");
  EXPECT_EQ(count(histograms, " open=\"open\""), 1U) << "of the first";
  EXPECT_EQ(count(html, "only: Gradients that enter the matrix products</title>"), 1U) << "once";
  EXPECT_EQ(html.find("<section id=\"comparisons\""), std::string::npos);
  // Of two runs that nobody compares, both.
  report.add_run(tracked<precision::fp8>("other", scaling::none));
  const std::string both = element(report.html(), "section", "histograms");
  EXPECT_NE(both.find("<h3>only</h3>"), std::string::npos);
  EXPECT_NE(both.find("<h3>other</h3>"), std::string::npos);
  EXPECT_EQ(count(both, " open=\"open\""), 1U);
  expect_well_formed(report.html());
}

TEST(HtmlTable, RefusesARowOfAnotherLength) {
  const analysis::HtmlTable table{.caption = "c", .columns = {{"a"}}, .rows = {{{"1"}, {"2"}}}};
  expect_error<std::invalid_argument>([&] { (void)to_html(table); }, {"'c'", "1", "2"});
}

TEST(NumericsReport, ShowsAtWhichOpALossMultipliedByTooLittleUnderflows) {
  NumericsReport report("planted");
  report.add_run(tracked<precision::fp8>("good", scaling::paper));
  report.add_run(tracked<precision::fp8>("bad", scaling::paper, 0x1p-20F));
  const std::string html = report.html();
  const auto json = figures_of(html);
  const auto share = [](const auto& tensor) {
    const auto& sample = tensor["samples"].back();
    return sample["underflowed"].template get<double>() / sample["elements"].template get<double>();
  };
  for (const auto& tensor : json["runs"][0]["tensors"]) {
    if (tensor["role"] != "gradient") continue;
    EXPECT_LT(share(tensor), 0.01) << tensor["name"];
  }
  // Backwards, the first op with a matrix product loses them: what it passes on is zero already.
  const auto& bad = json["runs"][1]["tensors"];
  const auto first = std::find_if(bad.begin(), bad.end(), [&](const auto& tensor) {
    return tensor["role"] == "gradient" && share(tensor) > 0.5;
  });
  ASSERT_NE(first, bad.end());
  EXPECT_EQ((*first)["name"], "gradient of readout/linear_readout");

  // The page says so at the top, and leads there.
  const std::string summary = without_breaks(element(html, "section", "summary"));
  const std::size_t at = summary.find("% of gradient of readout/linear_readout");
  ASSERT_NE(at, std::string::npos) << summary;
  const std::size_t link = summary.rfind("href=\"#op-", at) + 7;
  const std::string id = summary.substr(link, summary.find('"', link) - link);
  ASSERT_TRUE(id.ends_with("-inside")) << id;
  ASSERT_NE(html.find("id=\"" + id + "\""), std::string::npos);
  const std::string fold = element(html, "details", id.substr(0, id.rfind("-inside")));
  EXPECT_NE(fold.find("readout/linear_readout"), std::string::npos);
  EXPECT_NE(fold.find("<span>bad loses "), std::string::npos) << fold.substr(0, 400);
}

TEST(NumericsReport, HasEverySectionAndIsWellFormed) {
  NumericsReport report("A report");
  report.add_fact("machine", "this one");
  NumericsRun plain = tracked<precision::fp8>("fp8 none", scaling::none);
  plain.losses = {{.name = "training", .points = {{1, 3.5}, {2, 3.25}}}};
  plain.lint_findings = {{.kind = analysis::LintFinding::Kind::untagged_parameter,
                          .subject = "the_parameter",
                          .message = "has no kind"}};
  report.add_run(std::move(plain));
  report.add_run(tracked<precision::fp8>("fp8 unit", scaling::paper));
  report.compare("fp8 none", "fp8 unit");
  const std::string html = report.html();
  expect_well_formed(html);
  expect_self_contained(html);
  for (const char* id : {"summary", "facts", "losses", "comparisons", "findings", "run-0", "run-1",
                         "ops", "parameters", "reading"}) {
    EXPECT_FALSE(element(html, "section", id).empty()) << id;
  }
  EXPECT_NE(element(html, "section", "findings").find("the_parameter has no kind"),
            std::string::npos);
  EXPECT_NE(element(html, "section", "losses").find("<svg"), std::string::npos);
  EXPECT_NE(element(html, "section", "facts").find("this one"), std::string::npos);
  EXPECT_NE(html.find("<a class=\"skip\" href=\"#main\">"), std::string::npos);
  EXPECT_EQ(count(html, "<h1>"), 1U);
  EXPECT_EQ(count(html, "<table"), count(html, "<caption>"));
  EXPECT_EQ(count(html, "role=\"img\""), count(html, "<desc "));
  // Ops are listed in order, with factors and cut-edges.
  const std::string ops = element(html, "details", "run-1-ops");
  EXPECT_LT(ops.find(">embedding<"), ops.find(">layer_norm<"));
  EXPECT_LT(ops.find(">layer_norm<"), ops.find(">cross_entropy<"));
  EXPECT_NE(ops.find("<td class=\"t\">no, yes"), std::string::npos)
      << "cut-edges of a linear layer";
  EXPECT_FALSE(element(html, "details", "compared-0-1-matrix-gradients").empty());
}

TEST(NumericsReport, PicturesAreFilesOfTheirOwn) {
  NumericsReport report("pictures");
  NumericsRun run = tracked<precision::fp8>("fp8/unit <1>", scaling::paper);
  run.losses = {{.name = "training", .points = {{1, 2}}}};
  report.add_run(run);
  std::set<std::string> names;
  for (const auto& picture : report.pictures()) {
    EXPECT_TRUE(names.insert(picture.file_name).second) << picture.file_name;
    EXPECT_EQ(picture.file_name.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUV"
                                                  "WXYZ0123456789._-"),
              std::string::npos)
        << picture.file_name;
    EXPECT_TRUE(picture.svg.starts_with("<svg "));
    EXPECT_NE(picture.svg.find("<style>"), std::string::npos) << picture.file_name;
    expect_well_formed(picture.svg);
  }
  EXPECT_TRUE(names.contains("loss-training.svg"));
  EXPECT_TRUE(names.contains("fp8-unit-1-matrix-gradients.svg"));
}

TEST(NumericsReport, NamesAreEscapedWhereverTheyStand) {
  const std::string evil = "</script><b>&\"'";
  NumericsReport report(evil);
  report.add_fact(evil, evil);
  NumericsRun run{.name = evil};
  run.facts = {{evil, evil}};
  run.losses = {{.name = evil, .points = {{1, 2}}, .unit = evil}};
  run.ops = {{.name = evil,
              .module = evil,
              .index = 0,
              .reads = evil,
              .makes = evil,
              .forward = evil,
              .backward = evil,
              .constraint = evil,
              .cut_edges = evil}};
  run.first_non_finite = {3, evil};
  run.lint_findings = {{.subject = evil, .message = evil}};
  run.constraint_findings = {{.value = evil, .fix = evil}};
  TrackedTensor tensor{.name = evil,
                       .source = evil,
                       .module = evil,
                       .format = "float16",
                       .shape = {2},
                       .samples = {}};
  tensor.samples.resize(1);
  tensor.samples[0].statistics.elements = 2;
  tensor.samples[0].statistics.histogram = {.first_exponent = 0, .counts = {2}};
  run.tensors = {tensor};
  report.add_run(run);
  const std::string html = report.html();
  expect_well_formed(html);
  EXPECT_EQ(html.find("<b>"), std::string::npos);
  EXPECT_EQ(figures_of(html)["runs"][0]["name"], evil);
}

TEST(NumericsReport, SaysWhatIsMissing) {
  const std::string nothing = NumericsReport("nothing").html();
  expect_well_formed(nothing);
  EXPECT_NE(nothing.find("No run was added"), std::string::npos);

  NumericsReport bare("bare");
  bare.add_run({.name = "bare"});
  NumericsRun run{.name = "no trace, and a loss that is not finite"};
  run.losses = {{.name = "training",
                 .points = {{nan, 1}, {1, nan}, {2, std::numeric_limits<double>::infinity()}}},
                {.name = "empty"}};
  run.tensors = tracked<precision::fp16>("", scaling::none, 0x1p40F).tensors;
  bare.add_run(run);
  const std::string html = bare.html();
  expect_well_formed(html);
  expect_self_contained(html);
  EXPECT_NE(html.find("No tensor of this run was tracked"), std::string::npos);
  EXPECT_NE(html.find("training not finite at step"), std::string::npos);
  EXPECT_EQ(html.find(">nan<"), std::string::npos);
  EXPECT_FALSE(element(html, "details", "run-1-ops").empty()) << "from what the tracker saw";
  for (const auto& picture : bare.pictures()) expect_well_formed(picture.svg);
}

TEST(NumericsReport, RefusesRunsThatItCannotTellApart) {
  NumericsReport report("runs");
  expect_error<std::invalid_argument>([&] { report.add_run({}); }, {"name"});
  report.add_run({.name = "one"});
  expect_error<std::invalid_argument>([&] { report.add_run({.name = "one"}); }, {"'one'", "twice"});
  expect_error<std::invalid_argument>([&] { report.compare("one", "two"); }, {"'two'"});
  expect_error<std::invalid_argument>([&] { report.compare("one", "one"); }, {"'one'", "twice"});
  NumericsRun run{.name = "format"};
  run.tensors.push_back(
      {.name = "x", .source = "x", .module = "", .format = "float9", .shape = {}, .samples = {}});
  expect_error<std::invalid_argument>([&] { report.add_run(run); }, {"float9"});
  expect_well_formed(report.html());
}

/// A tensor of 1000 elements in float8_e5m2, looked at once.
TrackedTensor tensor_of(const std::string& name, TrackedRole role, std::uint64_t zeros,
                        std::uint64_t underflowed) {
  TrackedTensor tensor{.name = name,
                       .source = name,
                       .module = "",
                       .role = role,
                       .format = "float8_e5m2",
                       .shape = {1000},
                       .samples = {}};
  analysis::TrackedSample sample{.step = 7};
  sample.statistics.elements = 1000;
  sample.statistics.underflowed = underflowed;
  sample.statistics.histogram = {.first_exponent = -18, .counts = {1000 - zeros}, .zeros = zeros};
  tensor.samples.push_back(sample);
  return tensor;
}

TEST(NumericsReport, CountsZerosThatWereThereAlreadyAsZeros) {
  NumericsReport report("zeros");
  report.add_run({.name = "run",
                  .tensors = {tensor_of("one", TrackedRole::gradient, 300, 100),
                              tensor_of("two", TrackedRole::gradient, 200, 0)}});
  report.add_run({.name = "other", .tensors = {tensor_of("one", TrackedRole::gradient, 500, 0)}});
  report.compare("run", "other");
  const std::string html = report.html();
  expect_well_formed(html);
  const std::string summary = element(html, "section", "summary");
  EXPECT_NE(summary.find("</span>30 %</td>"), std::string::npos) << "(400 + 200) / 2000" << summary;
  EXPECT_NE(summary.find("</span>5 %</td>"), std::string::npos) << "100 / 2000, newly" << summary;
  EXPECT_NE(summary.find("</span>50 %</td>"), std::string::npos) << "of the other run";
  // Of "one": a third and a quarter of what is zero in the end, apart and together.
  const std::string one = element(html, "details", "op-0");
  EXPECT_NE(one.find("<td>40 %</td><td>30 %</td><td>10 %</td>"), std::string::npos)
      << "zero, already, rounds to zero";
  EXPECT_NE(one.find(">40 %</text>"), std::string::npos) << "beside the histogram";
  EXPECT_NE(
      one.find("<span>run loses 10 % of one, float8_e5m2, at step 7, but other has 50 % zeros "
               "already in one</span>"),
      std::string::npos)
      << "more is gone already than is lost";
  EXPECT_NE(element(html, "details", "op-1")
                .find("<span>loses nothing, but run has 20 % zeros already in two</span>"),
            std::string::npos);
  const std::string compared = element(html, "section", "comparisons");
  EXPECT_NE(compared.find("<td>40 %</td><td>50 %</td><td>10 %</td><td>0</td>"), std::string::npos)
      << "zero in both, lost in both";
}

TEST(NumericsReport, JudgesARunByItsOutcomeIfItHasOne) {
  NumericsReport report("outcomes");
  const std::vector<analysis::LossCurve> losses{{.name = "sample", .points = {{1, 4.5}}}};
  report.add_run({.name = "run", .outcome = "valid_bpc 2.31", .losses = losses});
  report.add_run({.name = "other", .losses = losses});
  const std::string summary = element(report.html(), "section", "summary");
  EXPECT_NE(summary.find("valid_bpc 2.31"), std::string::npos);
  EXPECT_EQ(count(summary, "sample 4.5 at step 1"), 1U) << "of the run without one";
}

TEST(NumericsReport, AsksWhatNarrowFormatsOfTheRunsThemselvesWouldLose) {
  NumericsReport report("simulated");
  TrackedTensor narrow = tensor_of("narrow", TrackedRole::operand, 0, 0);
  narrow.format = "float8_e3m4";
  TrackedTensor wide = tensor_of("wide", TrackedRole::value, 0, 0);
  wide.format = "bfloat16";
  TrackedTensor without_zero = tensor_of("scales", TrackedRole::operand, 0, 0);
  without_zero.format = "e8m0fnu";  // which cannot say what it would lose
  report.add_run({.name = "run", .tensors = {narrow, wide, without_zero}});
  const std::string table = element(report.html(), "details", "run-0-formats");
  EXPECT_EQ(count(table, "<th scope=\"col\" class=\"t\">float8_e3m4</th>"), 1U) << table;
  EXPECT_EQ(count(table, ">bfloat16</th>"), 0U);
  EXPECT_EQ(count(table, ">e8m0fnu</th>"), 0U);
  // 2^-18 is far below half the smallest number of E3M4.
  EXPECT_NE(table.find("\u2193 100 %"), std::string::npos) << table;
}

TEST(NumericsReport, GivesNoRmsOfATensorOfWhichNothingIsFinite) {
  TrackedTensor tensor = tensor_of("op", TrackedRole::value, 0, 0);
  analysis::TrackedSample lost = tensor.samples.front();
  lost.step = 8;
  lost.statistics.rms = 0;
  lost.statistics.histogram = {.non_finite = lost.statistics.elements};
  tensor.samples.push_back(lost);
  NumericsReport report("lost");
  report.add_run({.name = "run", .tensors = {tensor}});
  EXPECT_NE(report.html().find("not finite</td>"), std::string::npos);
}

TEST(NumericsReport, ShowsTheStepThatItNames) {
  TrackedTensor tensor = tensor_of("op", TrackedRole::gradient, 0, 100);
  tensor.samples.push_back(tensor.samples.front());
  tensor.samples.front().statistics.underflowed = 101;
  tensor.samples.back().step = 8;
  NumericsReport report("named");
  report.add_run({.name = "run", .tensors = {tensor}});
  const std::string html = report.html();
  EXPECT_NE(html.find("run loses 10.1 % of op, float8_e5m2, at step 7"), std::string::npos);
  EXPECT_NE(html.find(">run, float8_e5m2, step 7<"), std::string::npos) << "a histogram of it";
  EXPECT_EQ(figures_of(html)["runs"][0]["tensors"][0]["samples"][0]["step"], 7);
}

TEST(NumericsReport, ShowsTheStepThatLostMost) {
  TrackedTensor tensor{.name = "op",
                       .source = "op",
                       .module = "",
                       .format = "float8_e5m2",
                       .shape = {1000},
                       .samples = {}};
  for (std::uint64_t step = 1; step <= 5; ++step) {
    analysis::TrackedSample sample{.step = step};
    sample.statistics.elements = 1000;
    sample.statistics.underflowed = step == 3 ? 400 : 100;
    sample.statistics.histogram = {.first_exponent = -18, .counts = {1000}};
    tensor.samples.push_back(sample);
  }
  NumericsReport report("worst");
  report.add_run({.name = "run", .tensors = {tensor}});
  const std::string html = report.html();
  const auto json = figures_of(html);
  const auto& samples = json["runs"][0]["tensors"][0]["samples"];
  ASSERT_EQ(samples.size(), 2U);
  EXPECT_EQ(samples[0]["step"], 3);
  EXPECT_EQ(samples[1]["step"], 5);
  EXPECT_NE(html.find("run loses 40 % of op, float8_e5m2, at step 3"), std::string::npos);
  EXPECT_NE(html.find(">run, float8_e5m2, step 3<"), std::string::npos) << "a row of its own";
}

}  // namespace numerics_report_test
