// SPDX-License-Identifier: MIT
// unit_scaling: optional
/// @file
/// Layer analysis: what is known of the numbers of one training run.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "unit_scaling/analysis/constraint_check.hpp"
#include "unit_scaling/analysis/lint.hpp"
#include "unit_scaling/analysis/op_listing.hpp"
#include "unit_scaling/analysis/tracker.hpp"
#include "unit_scaling/core/target.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::analysis {

/// A loss by training step. What is not finite shows as diverged.
struct LossCurve {
  std::string name;                                    ///< "training", "validation"
  std::vector<std::pair<double, double>> points = {};  ///< step and loss
  std::string unit = "loss";                           ///< "bits per character"
};

/// What a `NumericsReport` tells of one run. All but the name may be left out. It refers to nothing
/// else: model, tape and tracker may be gone when the report is written.
struct NumericsRun {
  std::string name;
  /// What it is judged by, at its end: "valid_bpc 2.31". Empty: the last of each of its losses.
  std::string outcome = {};
  /// What to know of it: "precision" and "fp8", "learning rate" and "0.25".
  std::vector<std::pair<std::string, std::string>> facts = {};
  std::vector<TrackedTensor> tensors = {};                         ///< Tracker::tensors
  std::optional<NonFiniteTensor> first_non_finite = std::nullopt;  ///< Tracker::first_non_finite
  std::vector<ListedOp> ops = {};  ///< list_ops of a trace; empty: none was taken
  std::vector<LossCurve> losses = {};
  /// Of check_constraints. Without a value: the check was not made.
  std::optional<std::vector<ConstraintFinding>> constraint_findings = std::nullopt;
  /// Of lint. Without a value: nobody looked.
  std::optional<std::vector<LintFinding>> lint_findings = std::nullopt;
};

}  // namespace UNIT_SCALING_NAMESPACE::analysis

UNIT_SCALING_IEEE_END
