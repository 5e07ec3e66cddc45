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
#include "bert_mlp/interruption.hpp"
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

/// Trains everything that was asked for, and writes what is told of that kind of training.
std::vector<RunResult> train_all(const Options& options, const us::train::TextCorpus& corpus,
                                 const Machine& machine, Results& results) {
  std::vector<RunResult> runs;
  if (options.sweep_bits > 0) {
    runs = sweep_formats(options, corpus, machine);
    results.write("formats.svg", [&] { return sweep_svg(options, runs); });
    results.write("formats.md", [&] { return sweep_table(options, runs); });
    results.write("formats.csv", [&] { return sweep_csv(runs); });
  } else if (options.loss_scale_window) {
    runs = loss_scale_window(options, corpus, machine);
    results.write("window.svg", [&] { return window_svg(options, runs); });
    results.write("window.md", [&] { return window_table(runs); });
  } else {
    for (const Variant& variant : options.variants) {
      runs.push_back(train(options, variant, corpus, machine, options.saves(variant)));
      const std::string& unsaved = runs.back().unsaved;
      if (!unsaved.empty()) results.add_failure("checkpoint.safetensors", unsaved);
    }
    results.write("loss.svg", [&] { return loss_svg(options, runs); });
  }
  return runs;
}

/// Where a training stopped and, on a line of its own, the command that goes on from there.
std::string where_it_stopped(const Options& options, const Interrupted& stop) {
  std::string text =
      "bert_mlp: stopped after step " + std::to_string(stop.step) + " of " + stop.variant.name();
  if (!stop.unsaved.empty()) {
    text += "; no checkpoint was written: " + one_line(stop.unsaved) + "\n";
  } else if (!stop.checkpoint_step) {
    text += ", of which no checkpoint is kept\n";
  } else {
    text +=
        "; go on with\n" + command_to_go_on(options, stop.variant, *stop.checkpoint_step) + "\n";
  }
  return text;
}

/// @returns the exit code; of a run that a signal stopped, 128 and the signal.
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

  const InterruptionScope scope;
  // Whatever may be wrong with the arguments is told before the first measurement, and leaves no
  // folder behind.
  for (const Variant& variant : options.variants) check_simulation(options, variant, corpus);
  if (!options.resume.empty()) check_checkpoint(options, options.variants.front(), corpus);
  const RunFolder folder = claim_run_folder(options);
  options.out = folder.path();
  Results results(options.out);

  const Machine machine = measure_machine();
  std::vector<RunResult> runs;
  try {
    runs = train_all(options, corpus, machine, results);
  } catch (const Interrupted& stop) {
    std::cerr << where_it_stopped(options, stop);
    return 128 + interruption();
  }
  const std::string json = summary(options, runs, machine);
  results.write("summary.json", [&] { return json; });
  results.write("metrics.csv", [&] { return metrics_csv(runs); });
  if (options.report) write_numerics_report(options, runs, machine, results);
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
    std::cerr << "bert_mlp: " << bert_mlp::one_line(error.what()) << "\n";
    return code;
  };
  try {
    const auto options = bert_mlp::parse_options(argc, argv);
    const int code = options ? bert_mlp::run_in_memory(*options) : 0;
    // Only now may a full disk or a closed pipe show.
    if (!std::cout.flush()) throw std::runtime_error("cannot write to standard output");
    if (code > 128) {
      // A shell ends its script only if the signal is seen to have ended the program.
      std::signal(code - 128, SIG_DFL);
      std::raise(code - 128);
    }
    return code;
  } catch (const std::invalid_argument& error) {
    return fail(error, 2);
  } catch (const std::exception& error) {
    return fail(error, 1);
  }
}
