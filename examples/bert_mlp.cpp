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
#include "bert_mlp/ranks.hpp"
#include "bert_mlp/report.hpp"
#include "bert_mlp/results.hpp"
#include "bert_mlp/run_as_rank.hpp"
#include "bert_mlp/run_folder.hpp"
#include "bert_mlp/run_result.hpp"
#include "bert_mlp/summary.hpp"
#include "bert_mlp/training.hpp"
#include "unit_scaling/core/parallel.hpp"
#include "unit_scaling/distributed/communicator.hpp"
#include "unit_scaling/train/fingerprint.hpp"
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
               const Ranks& ranks, std::vector<RunResult>& runs) {
  if (options.sweep_bits > 0) {
    sweep_formats(options, corpus, machine, ranks, runs);
  } else if (options.loss_scale_window) {
    loss_scale_window(options, corpus, machine, ranks, runs);
  } else {
    for (const Variant& variant : options.variants) {
      runs.push_back(train(options, variant, corpus, machine, ranks,
                           ranks.is_first() && options.saves(variant)));
    }
  }
}

/// What the first training is told, and what decides which others there are. What each of them is
/// told, `train` compares.
us::train::Fingerprint told(const Options& options, const us::train::TextCorpus& corpus) {
  std::string variants;
  for (const Variant& variant : options.variants) {
    variants += (variants.empty() ? "" : "; ") + variant.name();
  }
  us::train::Fingerprint fingerprint = fingerprint_of(options, options.variants.front(), corpus);
  fingerprint.add("variants", variants)
      .add("stop-at", options.stop_at.value_or(options.steps))
      .add("sweep-formats", options.sweep_bits)
      .add("loss-scale-window", options.loss_scale_window)
      .add("print-scales", options.print_scales)
      .add("resume", !options.resume.empty());
  return fingerprint;
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
int run(Options options, const Ranks& ranks) {
  std::optional<us::train::TextCorpus> text;
  ranks.together([&] {
    share_replicas(options, ranks.size());
    text.emplace(make_corpus(options));
    require_memory(options, text->vocabulary_size());
    set_threads(options.threads);
  });
  const us::train::TextCorpus& corpus = *text;
  ranks.require_agreement(told(options, corpus));
  if (!ranks.is_first()) {
    options.quiet = true;
    options.json = false;
    options.report = false;
  }
  if (options.print_scales) {
    for (const Variant& variant : options.variants) {
      if (ranks.is_first()) std::cout << scale_table(options, variant, corpus);
    }
    return 0;
  }

  using us::train::InterruptionScope;
  const InterruptionScope scope("bert_mlp", ranks.is_first() ? InterruptionScope::Answer::line
                                                             : InterruptionScope::Answer::none);
  // Whatever may be wrong with the arguments is told before the first measurement, and leaves no
  // folder behind.
  ranks.together([&] {
    for (const Variant& variant : options.variants) check_simulation(options, variant, corpus);
    if (!options.resume.empty()) check_checkpoint(options, options.variants.front(), corpus);
  });
  std::optional<us::train::RunFolder> folder;
  ranks.on_first([&] { folder.emplace(claim_run_folder(options)); });
  if (folder) options.out = folder->path();
  Results results(options.out);

  const Machine machine = measure_machine(ranks);
  std::vector<RunResult> runs;
  try {
    train_all(options, corpus, machine, ranks, runs);
  } catch (const Interrupted& stop) {
    ranks.on_first([&] {
      const bool writes = !runs.empty() && !has_results_of_all(options);
      if (writes) write_results(options, runs, machine, &stop.run, results);
      std::cerr << where_it_stopped(options, runs, stop, writes);
      results.require_written();
    });
    return 1;
  }
  ranks.on_first([&] {
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
  });
  const bool all_diverged = std::all_of(
      runs.begin(), runs.end(), [](const RunResult& result) { return !result.diverged.empty(); });
  return all_diverged ? 3 : 0;
}

/// As above; but memory that ends is a matter of the sizes that were asked for.
int run_in_memory(const Options& options, const Ranks& ranks) {
  try {
    return run(options, ranks);
  } catch (const std::bad_alloc&) {
  } catch (const std::length_error&) {  // of a container whose size exceeds all memory
  }
  throw std::invalid_argument(out_of_memory(options));
}

/// What the command line asks for; or what is wrong with it, which all ranks tell together.
struct ReadCommandLine {
  CommandLine line;
  std::exception_ptr mistake;
};

[[nodiscard]] ReadCommandLine read_command_line(int argc, char** argv) {
  try {
    return {parse_options(argc, argv), nullptr};
  } catch (const std::exception&) {
    return {{}, std::current_exception()};
  }
}

/// Does what the command line asks for, as one of the ranks.
int run_as_told(const ReadCommandLine& read, const Ranks& ranks) {
  ranks.together([&] {
    if (read.mistake) std::rethrow_exception(read.mistake);
  });
  us::train::Fingerprint asked;
  ranks.require_agreement(asked.add("whether there is a question", !read.line.options.has_value()));
  const int code = read.line.options ? run_in_memory(*read.line.options, ranks) : 0;
  if (ranks.is_first()) std::cout << read.line.answer;
  // Only now may a full disk or a closed pipe show.
  if (!std::cout.flush()) throw std::runtime_error("cannot write to standard output");
  return code;
}

}  // namespace bert_mlp

int main(int argc, char** argv) {
  using namespace bert_mlp;
  // A limit to the size of files is told as any other failure to write.
  std::signal(SIGXFSZ, SIG_IGN);
  const auto fail = [](const std::exception& error, int code) {
    // Written at once: several runs may share an error stream.
    std::cerr << "bert_mlp: " + one_line(error.what()) + "\n";
    return code;
  };
  const int code = [&] {
    try {
      const ReadCommandLine read = read_command_line(argc, argv);
      const auto deadline = read.line.options.value_or(Options{}).deadline;
      return run_as_rank(argc, argv, deadline, [&](us::distributed::Communicator& communicator) {
        const Ranks ranks(communicator);
        try {
          return run_as_told(read, ranks);
        } catch (const CommonError& error) {
          return ranks.is_first() ? fail(error, error.code) : error.code;
        }
      });
    } catch (const std::invalid_argument& error) {
      return fail(error, 2);
    } catch (const std::exception& error) {
      return fail(error, 1);
    }
  }();
  if (const int signal = us::train::interruption(); signal != 0) {
    // A shell ends its script only if the signal is seen to have ended the program.
    std::signal(signal, SIG_DFL);
    std::raise(signal);
  }
  return code;
}
