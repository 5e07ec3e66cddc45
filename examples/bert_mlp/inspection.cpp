// SPDX-License-Identifier: MIT
#include "inspection.hpp"

#include <string>
#include <variant>

#include "any_optimiser.hpp"
#include "any_tape.hpp"
#include "options.hpp"
#include "unit_scaling/analysis/constraint_check.hpp"
#include "unit_scaling/analysis/graph_trace.hpp"
#include "unit_scaling/analysis/lint.hpp"
#include "unit_scaling/analysis/numerics_run.hpp"
#include "unit_scaling/analysis/op_listing.hpp"
#include "unit_scaling/formats/format.hpp"
#include "unit_scaling/formats/precision.hpp"
#include "unit_scaling/optim/learning_rate_report.hpp"

namespace bert_mlp {

namespace {

/// "storage float16, matrix operands float8_e4m3fn, …"; of a simulation, whose numbers are of other
/// formats, what carries them.
template <us::Precision P> [[nodiscard]] std::string formats_of(const Variant& variant) {
  const std::string storage(us::storage_name<typename P::storage>);
  const std::string compute(us::storage_name<typename P::compute>);
  if (!variant.simulation.empty()) {
    return "those that are simulated, carried by " + storage + ", computed in " + compute;
  }
  if (!variant.recipe.empty()) {
    return "storage " + storage + ", matrix operands and gradients entering them as recipe " +
           variant.recipe + " has them, computed in " + compute;
  }
  return "storage " + storage + ", matrix operands " +
         std::string(us::storage_name<typename P::matmul_operand>) + ", gradients entering them " +
         std::string(us::storage_name<typename P::matmul_gradient>) + ", computed in " + compute;
}

}  // namespace

us::analysis::NumericsRun inspect(const Variant& variant, const Loss& loss,
                                  const AnyOptimiser& optimiser, double learning_rate) {
  us::analysis::NumericsRun run;
  const auto tape = make_tape(variant.precision);
  us::analysis::GraphTrace trace;
  tape->trace_with(trace.tracer());
  tape->record(loss);
  run.ops = us::analysis::list_ops(trace.ops());
  run.constraint_findings = us::analysis::check_constraints(trace.ops(), tape->loss_number());
  const auto rates = std::visit(
      [&](const auto& each) { return us::optim::learning_rate_report(each, learning_rate); },
      optimiser);
  run.lint_findings = us::analysis::lint(trace.ops(), {.learning_rates = rates});
  run.facts.emplace_back("formats", with_precision(variant.precision, [&]<us::Precision P>(P) {
                           return formats_of<P>(variant);
                         }));
  return run;
}

}  // namespace bert_mlp
