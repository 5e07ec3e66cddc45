// SPDX-License-Identifier: MIT
// Trains a BERT-style masked character model in FP8 with unit scaling on real text, and compares it
// with other precisions and with plain models. `bert_mlp --help` lists what can be asked of it.
#include <algorithm>
#include <cstddef>
#include <exception>
#include <iostream>
#include <optional>
#include <stdexcept>
#include <vector>

#include "bert_mlp/checkpoint.hpp"
#include "bert_mlp/corpus.hpp"
#include "bert_mlp/experiments.hpp"
#include "bert_mlp/format_sweep.hpp"
#include "bert_mlp/machine.hpp"
#include "bert_mlp/numerics_page.hpp"
#include "bert_mlp/options.hpp"
#include "bert_mlp/report.hpp"
#include "bert_mlp/run_folder.hpp"
#include "bert_mlp/training.hpp"
#include "unit_scaling/core/atomic_file.hpp"

namespace bert_mlp {

/// @returns the exit code.
int run(Options options) {
  us::set_thread_count(options.threads);
  const us::train::TextCorpus corpus(corpus_bytes(options.data), options.window);
  if (options.print_scales) {
    for (const Variant& variant : options.variants) {
      std::cout << scale_table(options, variant, corpus);
    }
    return 0;
  }

  // Whatever may be wrong with the arguments is told before the first measurement, and leaves no
  // folder behind.
  for (const Variant& variant : options.variants) check_simulation(options, variant, corpus);
  if (!options.resume.empty()) {
    open_checkpoint(options, checkpoint_fingerprint(options, options.variants.front(), corpus));
  }
  options.out = claim_run_folder(options);

  const Machine machine = measure_machine();
  std::vector<RunResult> runs;
  if (options.sweep_bits > 0) {
    runs = sweep_formats(options, corpus, machine);
    us::write_file(options.out / "formats.svg", sweep_svg(options, runs));
    us::write_file(options.out / "formats.md", sweep_table(options, runs));
    us::write_file(options.out / "formats.csv", sweep_csv(runs));
  } else if (options.loss_scale_window) {
    runs = loss_scale_window(options, corpus, machine);
    us::write_file(options.out / "window.svg", window_svg(options, runs));
    us::write_file(options.out / "window.md", window_table(runs));
  } else {
    for (std::size_t i = 0; i < options.variants.size(); ++i) {
      const Variant& variant = options.variants[i];
      runs.push_back(train(options, variant, corpus, machine, options.saves(variant)));
    }
    us::write_file(options.out / "loss.svg", loss_svg(options, runs));
  }
  const std::string json = summary(options, runs, machine).dump(2) + "\n";
  us::write_file(options.out / "summary.json", json);
  us::write_file(options.out / "metrics.csv", metrics_csv(runs));
  if (options.report) write_numerics_report(options, runs, machine);
  if (options.json) {
    std::cout << json;
  } else if (!options.quiet) {
    std::cout << "\n"
              << (options.sweep_bits > 0      ? sweep_table(options, runs)
                  : options.loss_scale_window ? window_table(runs)
                                              : comparison_table(options, runs, machine))
              << "\n"
              << where_results_are(options, runs);
  }
  const bool all_diverged = std::all_of(
      runs.begin(), runs.end(), [](const RunResult& result) { return !result.diverged.empty(); });
  return all_diverged ? 3 : 0;
}

}  // namespace bert_mlp

int main(int argc, char** argv) {
  try {
    const auto options = bert_mlp::parse_options(argc, argv);
    const int code = options ? bert_mlp::run(*options) : 0;
    // Only now may a full disk or a closed pipe show.
    if (!std::cout.flush()) throw std::runtime_error("cannot write to standard output");
    return code;
  } catch (const std::invalid_argument& error) {
    std::cerr << "bert_mlp: " << error.what() << "\n";
    return 2;
  } catch (const std::exception& error) {
    std::cerr << "bert_mlp: " << error.what() << "\n";
    return 1;
  }
}
