// SPDX-License-Identifier: MIT
// unit_scaling: optional
/// @file
/// Layer analysis: a report of what happened to the numbers of training runs, as one HTML file, and
/// its pictures as SVG files.
#pragma once

#include <algorithm>
#include <cstddef>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "unit_scaling/analysis/numerics_page.hpp"
#include "unit_scaling/analysis/numerics_pictures.hpp"
#include "unit_scaling/analysis/numerics_run.hpp"
#include "unit_scaling/analysis/tracker.hpp"
#include "unit_scaling/core/target.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::analysis {

/// A report of what happened to the numbers of training runs:
///
///     analysis::NumericsReport report("My model");
///     report.add_fact("machine", "two cores");
///     report.add_run({.name = "fp8",
///                     .tensors = tracker.tensors(),
///                     .first_non_finite = tracker.first_non_finite(),
///                     .ops = analysis::list_ops(trace.ops()),
///                     .losses = {{.name = "training", .points = points}}});
///     write_file("report.html", report.html());
///     for (const auto& picture : report.pictures()) {
///       write_file("figures/" + picture.file_name, picture.svg);
///     }
///
/// Ops of different runs are shown side by side where module and name agree.
class NumericsReport {
 public:
  explicit NumericsReport(std::string title) : title_(std::move(title)) {}

  /// Something that holds for all runs: "machine", "seed", "command".
  void add_fact(std::string what, std::string is) {
    facts_.emplace_back(std::move(what), std::move(is));
  }

  /// @throws std::invalid_argument if the run has no name or that of another one, or a tensor of a
  ///         format that does not exist.
  void add_run(NumericsRun run) {
    if (run.name.empty()) {
      throw std::invalid_argument("NumericsReport: expected a run with a name, got none");
    }
    if (std::any_of(runs_.begin(), runs_.end(),
                    [&](const NumericsRun& other) { return other.name == run.name; })) {
      throw std::invalid_argument("NumericsReport: expected runs of different names, got '" +
                                  run.name + "' twice");
    }
    for (const TrackedTensor& tensor : run.tensors) static_cast<void>(spec_of(tensor));
    runs_.push_back(std::move(run));
  }

  /// Two runs that the report is to show in pictures of their own: "fp8 none" and "fp8 unit".
  /// @throws std::invalid_argument if there are no two such runs.
  void compare(const std::string& first, const std::string& second) {
    const auto place = [&](const std::string& name) {
      const auto found = std::find_if(runs_.begin(), runs_.end(),
                                      [&](const NumericsRun& run) { return run.name == name; });
      if (found == runs_.end()) {
        throw std::invalid_argument("NumericsReport: expected the name of a run to compare, got '" +
                                    name + "'");
      }
      return static_cast<std::size_t>(found - runs_.begin());
    };
    const std::pair both{place(first), place(second)};
    if (both.first == both.second) {
      throw std::invalid_argument("NumericsReport: expected two runs to compare, got '" + first +
                                  "' twice");
    }
    comparisons_.push_back(both);
  }

  /// The page. It needs no other file and no network.
  [[nodiscard]] std::string html() const {
    return detail::NumericsPage(runs_, comparisons_).html(title_, facts_);
  }

  /// Every picture of the page as a file of its own.
  [[nodiscard]] std::vector<NumericsPicture> pictures() const {
    return detail::NumericsPage(runs_, comparisons_).pictures();
  }

 private:
  std::string title_;
  std::vector<std::pair<std::string, std::string>> facts_;
  std::vector<NumericsRun> runs_;
  std::vector<std::pair<std::size_t, std::size_t>> comparisons_;
};

}  // namespace UNIT_SCALING_NAMESPACE::analysis

UNIT_SCALING_IEEE_END
