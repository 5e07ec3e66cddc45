// SPDX-License-Identifier: MIT
// Trains a BERT-style masked character model in FP8 with unit scaling on real text, and compares it
// with other precisions and with plain models. `bert_mlp --help` lists what can be asked of it.
#include <algorithm>
#include <csignal>
#include <cstddef>
#include <exception>
#include <iostream>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <system_error>
#include <vector>

#include "bert_mlp/checkpoint.hpp"
#include "bert_mlp/corpus.hpp"
#include "bert_mlp/experiments.hpp"
#include "bert_mlp/format_sweep.hpp"
#include "bert_mlp/machine.hpp"
#include "bert_mlp/memory_need.hpp"
#include "bert_mlp/numerics_page.hpp"
#include "bert_mlp/one_line.hpp"
#include "bert_mlp/options.hpp"
#include "bert_mlp/report.hpp"
#include "bert_mlp/results.hpp"
#include "bert_mlp/run_folder.hpp"
#include "bert_mlp/run_result.hpp"
#include "bert_mlp/summary.hpp"
#include "bert_mlp/training.hpp"
#include "unit_scaling/core/parallel.hpp"
#include "unit_scaling/train/interruption.hpp"
#include "unit_scaling/train/run_folder.hpp"
#include "unit_scaling/train/text_corpus.hpp"

namespace bert_mlp {

void set_threads(std::size_t threads) {
  try {
    us::set_thread_count(threads);
  } catch (const std::system_error& error) {
    throw std::invalid_argument(
        "--threads " + std::to_string(threads) +
        ": expected as many as the system gives: " + error.code().message());
  }
}

/// Trains everything that was asked for.
/// @param runs to which each training is appended when it has ended.
void train_all(const Options& options, const us::train::TextCorpus& corpus, const Machine& machine,
               std::vector<RunResult>& runs) {
  if (options.sweep_bits > 0) {
    sweep_formats(options, corpus, machine, runs);
  } else if (options.loss_scale_window) {
    loss_scale_window(options, corpus, machine, runs);
  } else {
    for (const Variant& variant : options.variants) {
      runs.push_back(train(options, variant, corpus, machine, options.saves(variant)));
    }
  }
}

/// Writes what is told of the trainings that ended.
/// @param stopped the one that did not; null if all did.
void write_results(const Options& options, const std::vector<RunResult>& runs,
                   const Machine& machine, const RunResult* stopped, Results& results) {
  for (const RunResult& run : runs) {
    if (!run.unsaved.empty()) results.add_failure("checkpoint.safetensors", run.unsaved);
  }
  if (options.sweep_bits == 0 && !options.loss_scale_window) {
    results.write("loss.svg", [&] { return loss_svg(options, runs); });
  } else if (stopped != nullptr) {
    // The pictures and tables are of all formats and loss scales.
  } else if (options.sweep_bits > 0) {
    results.write("formats.svg", [&] { return sweep_svg(options, runs); });
    results.write("formats.md", [&] { return sweep_table(options, runs); });
    results.write("formats.csv", [&] { return sweep_csv(runs); });
  } else {
    results.write("window.svg", [&] { return window_svg(options, runs); });
    results.write("window.md", [&] { return window_table(runs); });
  }
  results.write("summary.json", [&] { return summary(options, runs, machine, stopped); });
  results.write("metrics.csv", [&] { return metrics_csv(runs); });
  if (options.report) write_numerics_report(options, runs, machine, results);
}

/// @returns the exit code, which a run that a signal stopped does not get to.
int run(Options options) {
  const us::train::TextCorpus corpus = make_corpus(options);
  require_memory(options, corpus.vocabulary_size());
  set_threads(options.threads);
  if (options.print_scales) {
    for (const Variant& variant : options.variants) {
      std::cout << scale_table(options, variant, corpus);
    }
    return 0;
  }

  const us::train::InterruptionScope scope("bert_mlp");
  // Whatever may be wrong with the arguments is told before the first measurement, and leaves no
  // folder behind.
  for (const Variant& variant : options.variants) check_simulation(options, variant, corpus);
  if (!options.resume.empty()) check_checkpoint(options, options.variants.front(), corpus);
  const us::train::RunFolder folder = claim_run_folder(options);
  options.out = folder.path();
  Results results(options.out);

  const Machine machine = measure_machine();
  std::vector<RunResult> runs;
  try {
    train_all(options, corpus, machine, runs);
  } catch (const Interrupted& stop) {
    const bool writes = !runs.empty() && !has_results_of_all(options);
    if (writes) write_results(options, runs, machine, &stop.run, results);
    std::cerr << where_it_stopped(options, runs, stop, writes);
    results.require_written();
    return 1;
  }
  write_results(options, runs, machine, nullptr, results);
  if (options.json) {
    std::cout << summary(options, runs, machine);
  } else if (!options.quiet) {
    std::cout << "\n"
              << (options.sweep_bits > 0      ? sweep_table(options, runs)
                  : options.loss_scale_window ? window_table(runs)
                                              : comparison_table(options, runs, machine))
              << "\n"
              << where_results_are(options, runs);
  }
  results.require_written();
  const bool all_diverged = std::all_of(
      runs.begin(), runs.end(), [](const RunResult& result) { return !result.diverged.empty(); });
  return all_diverged ? 3 : 0;
}

/// As above; but memory that ends is a matter of the sizes that were asked for.
int run_in_memory(const Options& options) {
  try {
    return run(options);
  } catch (const std::bad_alloc&) {
  } catch (const std::length_error&) {  // of a container whose size exceeds all memory
  }
  throw std::invalid_argument(out_of_memory(options));
}

}  // namespace bert_mlp

int main(int argc, char** argv) {
  // A limit to the size of files is told as any other failure to write.
  std::signal(SIGXFSZ, SIG_IGN);
  const auto fail = [](const std::exception& error, int code) {
    // Written at once: several runs may share an error stream.
    std::cerr << "bert_mlp: " + bert_mlp::one_line(error.what()) + "\n";
    return code;
  };
  const int code = [&] {
    try {
      const auto options = bert_mlp::parse_options(argc, argv);
      const int code_of_run = options ? bert_mlp::run_in_memory(*options) : 0;
      // Only now may a full disk or a closed pipe show.
      if (!std::cout.flush()) throw std::runtime_error("cannot write to standard output");
      return code_of_run;
    } catch (const std::invalid_argument& error) {
      return fail(error, 2);
    } catch (const std::exception& error) {
      return fail(error, 1);
    }
  }();
  if (const int signal = bert_mlp::us::train::interruption(); signal != 0) {
    // A shell ends its script only if the signal is seen to have ended the program.
    std::signal(signal, SIG_DFL);
    std::raise(signal);
  }
  return code;
}
