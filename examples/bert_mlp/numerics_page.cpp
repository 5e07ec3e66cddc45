// SPDX-License-Identifier: MIT
#include "numerics_page.hpp"

#include <cmath>
#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include "machine.hpp"
#include "one_line.hpp"
#include "options.hpp"
#include "report.hpp"
#include "results.hpp"
#include "run_result.hpp"
#include "unit_scaling/analysis/numerics_report.hpp"
#include "unit_scaling/analysis/numerics_run.hpp"

namespace bert_mlp {

namespace {

/// What a training left for the report, with its result.
us::analysis::NumericsRun reported(const RunResult& result) {
  us::analysis::NumericsRun run = result.numerics.value();
  const Variant& variant = result.variant;
  run.name = variant.name();
  run.outcome = result.diverged.empty() ? format("valid_bpc %.4f", result.valid_bpc)
                                        : "diverged: " + result.diverged;
  std::string rule(us::to_string(variant.scaling.rule));
  if (variant.is_unit()) {
    rule += ", constraint " + std::string(variant.scaling.effective_constraint().name);
  }
  run.facts.emplace_back("rule", rule);
  if (!variant.simulation.empty()) run.facts.emplace_back("simulated", variant.simulation);
  if (!variant.recipe.empty()) run.facts.emplace_back("recipe", variant.recipe);
  if (variant.simulation.find('~') != std::string::npos) {
    run.facts.emplace_back("figures of rounding",
                           "as if to nearest; the run keeps some of what that loses");
  }
  run.facts.emplace_back("loss scale", exact_text(variant.loss_scale));
  run.facts.emplace_back("peak learning rate", exact_text(result.learning_rate));
  run.facts.emplace_back("steps", std::to_string(result.steps));
  run.facts.emplace_back("parameters", std::to_string(result.parameter_bytes / sizeof(float)));
  us::analysis::LossCurve training{.name = "training", .unit = "bits per character"};
  us::analysis::LossCurve validation{.name = "validation sample", .unit = "bits per character"};
  for (const Point& point : result.points) {
    const auto step = static_cast<double>(point.step);
    training.points.emplace_back(step, point.training_bpc);
    validation.points.emplace_back(step, point.validation_sample_bpc);
  }
  run.losses = {std::move(training), std::move(validation)};
  return run;
}

/// The report of all runs; of each precision, the unit-scaled run beside the plain one.
us::analysis::NumericsReport numerics_report(const Options& options,
                                             const std::vector<RunResult>& runs,
                                             const Machine& machine) {
  us::analysis::NumericsReport report("Numerics of a BERT-style masked character model");
  report.add_fact(
      "model", format("nn::BertMlp, hidden %zu, %zu layers, %s-norm, window %zu",
                      options.hidden_size, options.layers, options.norm.c_str(), options.window));
  report.add_fact("steps", format("%zu, of %zu sequences or %zu characters each", options.steps,
                                  options.sequences_per_step(), options.tokens_per_step()));
  report.add_fact("optimiser",
                  options.optimizer + ", weight decay " + exact_text(options.weight_decay));
  std::string data;
  for (const auto& file : options.data)
    data += (data.empty() ? "" : ", ") + one_line(file.string());
  report.add_fact("text", data.empty() ? "the project's own sources" : data);
  report.add_fact("seed", std::to_string(options.seed));
  report.add_fact("machine", machine_text(machine));
  report.add_fact("command", options.command);
  const std::string warning = few_steps_warning(options, runs);
  if (!warning.empty()) report.add_fact("note", warning.substr(0, warning.find('\n')));
  for (const RunResult& run : runs) report.add_run(reported(run));
  // The last first: variants go from wide formats to narrow ones, where more is lost.
  for (std::size_t unit = runs.size(); unit-- > 0;) {
    for (std::size_t plain = 0; plain < runs.size(); ++plain) {
      const Variant& a = runs[plain].variant;
      const Variant& b = runs[unit].variant;
      if (!a.is_unit() && b.is_unit() && precision_text(a) == precision_text(b)) {
        report.compare(a.name(), b.name());
      }
    }
  }
  return report;
}

}  // namespace

void write_numerics_report(const Options& options, const std::vector<RunResult>& runs,
                           const Machine& machine, Results& results) {
  const us::analysis::NumericsReport report = numerics_report(options, runs, machine);
  results.write("report.html", [&] { return report.html(); });
  if (!results.make_folder("figures")) return;
  for (const us::analysis::NumericsPicture& picture : report.pictures()) {
    results.write("figures/" + picture.file_name, [&] { return picture.svg; });
  }
}

}  // namespace bert_mlp
