// SPDX-License-Identifier: MIT
// Opens the report of a short training in a headless Chromium, as its reader would.
#include <gtest/gtest.h>

#include <cstddef>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "support/command.hpp"
#include "support/temporary_folder.hpp"
#include "support/texts.hpp"
#include "support/words.hpp"

namespace numerics_report_test {

namespace fs = std::filesystem;

using unit_scaling_test::content;
using unit_scaling_test::count;
using unit_scaling_test::Outcome;
using unit_scaling_test::run_command;
using unit_scaling_test::TemporaryFolder;

/// Watches a page from its beginning: what goes wrong in it, and what it asks others for.
constexpr const char* watch = R"(<script>
const seen = {errors: [], requests: [], pictures: 0, texts: 0, clipped: [], overlapping: [],
              wide: [], links: 0, folded: [], sideways: [], cut_heads: [], alike: [],
              small_bars: [], first_histogram: -1};
addEventListener('error', e => seen.errors.push(e.message || 'cannot load ' + e.target.src), true);
for (const level of ['error', 'warn']) console[level] = (...what) => seen.errors.push(what.join());
</script>)";

/// Once it is loaded: finds the first histogram as the page opens, then opens every fold and
/// measures every text of every picture and every table. A text is clipped if it leaves its
/// picture, and overlaps another if they share more than the space around letters.
constexpr const char* probe = R"(<script>addEventListener('load', () => {
for (const picture of document.querySelectorAll('svg[role=img]')) {
  const row = picture.querySelector('.us-labels text');
  if (row && !row.closest('details:not([open])') && seen.first_histogram < 0)
    seen.first_histogram = row.getBoundingClientRect().bottom;
}
for (const fold of document.querySelectorAll('details')) fold.open = true;
for (const picture of document.querySelectorAll('svg[role=img]')) {
  ++seen.pictures;
  const frame = picture.getBoundingClientRect();
  const texts = [...picture.querySelectorAll('text')];
  const boxes = texts.map(text => text.getBoundingClientRect());
  seen.texts += texts.length;
  const name = i => picture.querySelector('title').textContent + ': ' + texts[i].textContent;
  for (let i = 0; i < boxes.length; ++i) {
    const a = boxes[i];
    if (a.left < frame.left || a.right > frame.right || a.top < frame.top ||
        a.bottom > frame.bottom) seen.clipped.push(name(i));
    for (let k = i + 1; k < boxes.length; ++k) {
      const b = boxes[k];
      if (Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1 &&
          Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 4)
        seen.overlapping.push(name(i) + ' and ' + texts[k].textContent);
    }
  }
}
const repeated = (what, texts) => texts.forEach((text, i) => {
  if (texts.indexOf(text) < i) seen.alike.push(what + ': ' + text);
});
const words = text => text.replace(/\\s+/g, ' ').trim();
for (const box of document.querySelectorAll('.scroll')) {
  const table = box.querySelector('table');
  if (box.scrollWidth > box.clientWidth)
    seen.sideways.push(box.getAttribute('aria-label') + ' ' + box.scrollWidth + ' > ' +
                       box.clientWidth);
  if (!table) continue;
  for (const cell of table.querySelectorAll('th'))
    if (cell.scrollWidth > cell.clientWidth) seen.cut_heads.push(words(cell.textContent));
  repeated(table.caption.textContent,
           [...table.tBodies[0].rows].map(row => [...row.cells].map(cell => cell.innerText).join('|')));
}
for (const picture of document.querySelectorAll('svg[role=img]')) {
  const title = picture.querySelector('title').textContent;
  const rows = [...picture.querySelectorAll('.us-labels text')];
  const headings = [...picture.querySelectorAll('.us-heading')];
  const heading = y => headings.filter(each => +each.getAttribute('y') < y).length;
  repeated(title, rows.map(row => heading(+row.getAttribute('y')) + ' ' + row.textContent));
  repeated(title, [...picture.querySelectorAll('.us-name')].map(name => name.textContent));
  const heads = ['rms', 'zero', 'lost', 'subnormal', 'rounds to zero', 'at the largest',
                 'rms, filled', 'rms, outlined', 'zero, filled', 'zero, outlined'];
  for (const head of picture.querySelectorAll('.us-head')) {
    const text = words([...head.querySelectorAll('tspan')].map(line => line.textContent).join(' '));
    if (!heads.includes(text)) seen.cut_heads.push(title + ': ' + text);
  }
  const axis = picture.querySelector('.us-range');
  if (!axis) continue;
  const share = axis.getBoundingClientRect().width / picture.closest('.scroll').clientWidth;
  if (share < 0.28) seen.small_bars.push(title + ' ' + share);
}
for (const table of document.querySelectorAll('.stacks')) {
  if (table.parentElement.scrollWidth > table.parentElement.clientWidth)
    seen.wide.push(table.querySelector('caption').textContent);
}
for (const link of document.querySelectorAll('#summary a[href^="#op-"]')) {
  for (const fold of document.querySelectorAll('details')) fold.open = false;
  location.hash = '#main';
  location.hash = link.getAttribute('href');
  const fold = document.querySelector(link.getAttribute('href'))?.closest('details');
  ++seen.links;
  if (!fold?.open) seen.folded.push(link.textContent);
}
seen.requests = performance.getEntriesByType('resource').map(entry => entry.name);
seen.width = document.documentElement.scrollWidth;
seen.window = innerWidth;
const answer = document.createElement('script');
answer.type = 'application/json';
answer.id = 'probe';
answer.textContent = JSON.stringify(seen);
document.body.append(answer);
});</script>)";

class Browser : public testing::Test {
 protected:
  /// The report of a short training of these variants.
  [[nodiscard]] std::string report(const std::string& variants = "fp8:none,fp8:unit",
                                   const std::string& layers = "1") const {
    TemporaryFolder run;
    const fs::path folder = run.path() / "run";
    const fs::path text = run.path() / "words.txt";
    std::ofstream(text) << unit_scaling_test::words();
    const Outcome outcome =
        run_command(UNIT_SCALING_BERT_MLP
                    " --report --steps 6 --hidden 32 --batch 8 --quiet --eval-every 2 --layers " +
                    layers + " --compare " + variants + " --data " + text.string() + " --out " +
                    folder.string() + " 2>&1");
    EXPECT_EQ(outcome.exit_code, 0) << outcome.output;
    return content(folder / "report.html");
  }

  /// Writes a page and opens it; no proxy listens, so that it gets nothing from elsewhere.
  /// @returns what the browser prints.
  [[nodiscard]] std::string open(const std::string& html, const std::string& options) const {
    std::ofstream(folder_ / "page.html") << html;
    // A browser of its own, with settings of its own.
    const Outcome outcome = run_command(
        UNIT_SCALING_CHROMIUM
        " --headless --no-sandbox --disable-gpu --disable-dev-shm-usage "
        "--disable-extensions --proxy-server=127.0.0.1:9 --hide-scrollbars --user-data-dir=" +
        (folder_ / "profile").string() + " " + options + " file://" +
        (folder_ / "page.html").string() + " 2>" + (folder_ / "log").string());
    EXPECT_EQ(outcome.exit_code, 0) << content(folder_ / "log");
    return outcome.output;
  }

  /// What the watch and the probe see of a page, and the page as it then is.
  [[nodiscard]] std::pair<nlohmann::json, std::string> look_at(std::string html,
                                                               const std::string& options) const {
    html.insert(html.find("<head>") + 6, watch);
    html.insert(html.rfind("</body>"), probe);
    const std::string page = open(html, "--dump-dom " + options);
    const std::string opening = "id=\"probe\">";
    const std::size_t begin = page.find(opening);
    if (begin == std::string::npos) {
      ADD_FAILURE() << content(folder_ / "log");
      return {};
    }
    const std::size_t json = begin + opening.size();
    return {nlohmann::json::parse(page.substr(json, page.find("</script>", json) - json)), page};
  }

  const TemporaryFolder temporary_;
  const fs::path& folder_ = temporary_.path();
};

// Without this, a test that finds no error could not fail.
TEST_F(Browser, TellsOfErrorsRequestsAndTextsThatLieBadly) {
  const auto of = [&](const std::string& body) {
    return look_at("<!DOCTYPE html><html><head></head><body>" + body + "</body></html>", "").first;
  };
  EXPECT_TRUE(of("well")["errors"].empty());
  EXPECT_TRUE(of("well")["requests"].empty());
  EXPECT_EQ(of("<script>nonsense();</script>")["errors"].size(), 1U);
  EXPECT_EQ(of("<script>console.error('so');</script>")["errors"].size(), 1U);
  EXPECT_EQ(of("<img src=\"http://example.org/picture.png\"/>")["requests"].size(), 1U);
  const auto texts =
      of("<svg role=\"img\" width=\"100\" height=\"60\"><title>a picture</title>"
         "<text x=\"10\" y=\"20\">one</text><text x=\"15\" y=\"22\">two</text>"
         "<text x=\"90\" y=\"50\">three</text></svg>");
  EXPECT_EQ(texts["overlapping"].size(), 1U) << texts;
  EXPECT_EQ(texts["clipped"].size(), 1U) << texts;
  const auto table =
      of("<div class=\"scroll\" style=\"width:100px;overflow:auto\" aria-label=\"a box\">"
         "<table style=\"width:200px;table-layout:fixed\"><caption>a table</caption><thead><tr>"
         "<th style=\"overflow:hidden\">0123456789012345678901234567890123456789</th><th>b</th>"
         "</tr></thead><tbody><tr><td>1</td><td>2</td></tr><tr><td>1</td><td>2</td></tr></tbody>"
         "</table></div>");
  for (const char* bad : {"sideways", "cut_heads", "alike"}) {
    EXPECT_EQ(table[bad].size(), 1U) << bad << table;
  }
  const auto picture =
      of("<div class=\"scroll\" style=\"width:400px\"><svg role=\"img\" width=\"400\" "
         "height=\"90\"><title>a picture</title><g class=\"us-labels\"><text y=\"20\">row</text>"
         "<text y=\"50\">row</text></g><text class=\"us-head\" y=\"80\"><tspan>rounds</tspan>"
         "<tspan>to</tspan></text><path class=\"us-range\" d=\"M0 60H110\"/></svg></div>");
  for (const char* bad : {"cut_heads", "alike", "small_bars"}) {
    EXPECT_EQ(picture[bad].size(), 1U) << bad << picture;
  }
}

TEST_F(Browser, LoadsTheReportWithoutErrorsRequestsOrClippedText) {
  const std::string html = report();
  const std::size_t pictures = count(html, "role=\"img\"");
  EXPECT_GT(pictures, 40U);
  // On a telephone, and on a desk.
  for (const std::string size : {"390,900", "1280,900"}) {
    const auto [seen, page] = look_at(html, "--window-size=" + size);
    for (const char* id : {"summary", "facts", "losses", "comparisons", "findings", "run-0",
                           "run-1", "ops", "parameters", "reading"}) {
      EXPECT_NE(page.find("<section id=\"" + std::string(id) + "\""), std::string::npos) << id;
    }
    for (const char* bad : {"errors", "requests", "clipped", "overlapping", "wide", "folded"}) {
      EXPECT_TRUE(seen[bad].empty()) << bad << ": " << seen[bad].dump(1);
    }
    EXPECT_EQ(seen["pictures"], pictures);
    EXPECT_GT(seen["links"], 0);
    EXPECT_GT(seen["texts"], 10 * pictures);
    EXPECT_LE(seen["width"], seen["window"]) << "the page itself does not scroll sideways";
  }
}

TEST_F(Browser, ShowsAllOfEveryTableAndTellsItsRowsApartOnADesk) {
  // More blocks have longer names that are alike; more runs have more rows.
  for (const auto& [variants, layers] : {std::pair{"fp8:unit", "2"},
                                         {"fp8:none,fp8:unit", "2"},
                                         {"fp32:unit,fp16:unit,fp8:unit,fp32:none,fp8:none", "1"},
                                         {"fp8:unit", "12"}}) {
    const auto [seen, page] = look_at(report(variants, layers), "--window-size=1280,900");
    for (const char* bad :
         {"sideways", "cut_heads", "alike", "small_bars", "overlapping", "clipped"}) {
      EXPECT_TRUE(seen[bad].empty()) << variants << ", " << bad << ": " << seen[bad].dump(1);
    }
  }
}

TEST_F(Browser, ShowsAHistogramOnTheFirstScreen) {
  for (const char* variants : {"fp8:unit", "fp16:unit", "fp32:none", "fp8:none,fp8:unit"}) {
    const auto [seen, page] = look_at(report(variants), "--window-size=1280,900");
    EXPECT_GT(seen["first_histogram"], 0) << variants;
    EXPECT_LT(seen["first_histogram"], 900) << variants;
  }
}

TEST_F(Browser, DrawsTheReportInLightAndInDark) {
  const std::string html = report();
  const auto screenshot = [&](const std::string& page, const std::string& options) {
    const fs::path file = folder_ / "page.png";
    fs::remove(file);
    static_cast<void>(
        open(page, "--window-size=1200,3000 --screenshot=" + file.string() + " " + options));
    return content(file);
  };
  const std::string blank = screenshot("<!DOCTYPE html><html><body></body></html>", "");
  ASSERT_TRUE(blank.starts_with("\x89PNG")) << content(folder_ / "log");
  const std::string light = screenshot(html, "");
  const std::string dark = screenshot(html, "--blink-settings=preferredColorScheme=0");
  // A picture of one colour takes a few kilobytes.
  EXPECT_GT(light.size(), 5 * blank.size());
  EXPECT_GT(dark.size(), 5 * blank.size());
  EXPECT_NE(light, dark);
}

}  // namespace numerics_report_test
