// SPDX-License-Identifier: MIT
// What the format of the wire does to training: held-out bits of a small decoder on a text, by the
// format in which ranks send their gradients, over several seeds. For docs/distributed.md.
//
// A step is of four batches, which two ranks or four ranks share. With floats on the wire the
// weights are the same bits on any of them, so that training is run once, on one rank.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <functional>
#include <map>
#include <numbers>
#include <string>
#include <utility>
#include <vector>

#include "unit_scaling/autograd/tape.hpp"
#include "unit_scaling/distributed/gradient_exchange.hpp"
#include "unit_scaling/distributed/gradient_tree.hpp"
#include "unit_scaling/distributed/thread_ranks.hpp"
#include "unit_scaling/nn/transformer_decoder.hpp"
#include "unit_scaling/optim/adam.hpp"
#include "unit_scaling/optim/all_reduce.hpp"
#include "unit_scaling/train/causal_batch.hpp"
#include "unit_scaling/train/schedule.hpp"
#include "unit_scaling/train/text_corpus.hpp"

namespace us = unit_scaling;
using us::distributed::Communicator;
using us::distributed::GradientExchange;
using us::distributed::GradientTree;
using us::distributed::WireScaling;
using Precision = us::precision::fp8;

namespace {

struct Options {
  std::filesystem::path data;
  std::uint32_t first_seed = 1;
  std::uint32_t seeds = 5;
  std::vector<std::string> wires;  ///< parts of the names of wires beside float32; none: all
  std::uint32_t steps = 1200;
  std::size_t hidden_size = 64;
  std::size_t sequences = 4;  ///< of a batch
  double rate = 0.5;
};

constexpr std::size_t window = 65;  // 64 characters are predicted
constexpr std::size_t batches_of_step = 4;

/// A decoder and what trains it.
struct Training {
  Training(const us::train::TextCorpus& text, std::uint64_t seed_of_training, const Options& told)
      : corpus(&text),
        options(&told),
        seed(seed_of_training),
        model(initialiser, text.vocabulary_size(),
              {.hidden_size = told.hidden_size,
               .context_length = window - 1,
               .layers = 2,
               .heads = 2,
               .rotary_base = 10000}) {}

  const us::train::TextCorpus* corpus;
  const Options* options;
  std::uint64_t seed;
  us::train::CausalBatches batches{*corpus, window, seed};
  us::nn::Initialiser initialiser{seed, us::scaling::umup};
  us::nn::TransformerDecoder model;
  std::vector<us::Parameter*> parameters = us::optim::parameters_of(model);
  us::optim::AdamW adam{parameters, {.weight_decay = 0x1p-13, .rule = us::Rule::umup}};
  us::Tape<Precision> tape;

  /// Adds the gradients of some of the batches of a step to `tree`.
  void differentiate(std::uint32_t step, std::size_t first, std::size_t count, GradientTree& tree) {
    for (std::size_t k = first; k < first + count; ++k) {
      tape.clear();
      const auto number = static_cast<std::uint32_t>(step * batches_of_step + k);
      tape.backward(model.next_token_loss(tape, batches.training(options->sequences, number)));
      tree.add(tape);
    }
  }

  template <us::optim::GradientSource Gradients>
  void update(const Gradients& gradients, std::uint32_t step) {
    const us::train::Schedule schedule{.warmup_steps = 20,
                                       .total_steps = options->steps,
                                       .decay = us::train::Schedule::Decay::linear};
    adam.step(gradients, options->rate * schedule(step));
  }

  [[nodiscard]] double held_out_bits() {
    us::Tape<Precision> reading(us::TapeMode::inference);
    constexpr std::size_t at_once = 32;
    const std::size_t windows = batches.validation_windows();
    double sum = 0;
    for (std::size_t first = 0; first < windows; first += at_once) {
      const std::size_t count = std::min(at_once, windows - first);
      reading.clear();
      const auto loss = model.next_token_loss(reading, batches.validation(first, count));
      sum += static_cast<double>(*loss.value().data()) * static_cast<double>(count);
    }
    return sum / static_cast<double>(windows) / std::numbers::ln2;
  }
};

/// Ranks that are threads, with a format on the wire.
double train_on_ranks(const us::train::TextCorpus& corpus, std::uint64_t seed,
                      const Options& options, std::size_t rank_count,
                      const GradientExchange::Options& wire) {
  double bits = 0;
  us::distributed::run_thread_ranks(rank_count, [&](Communicator& ranks) {
    Training training(corpus, seed, options);
    GradientExchange exchange(ranks, training.parameters, wire);
    GradientTree tree(training.parameters);
    const std::size_t own = batches_of_step / ranks.size();
    for (std::uint32_t step = 0; step < options.steps; ++step) {
      tree.clear();
      training.differentiate(step, ranks.rank() * own, own, tree);
      exchange.exchange(tree);
      training.update(exchange, step);
    }
    if (ranks.rank() == 0) bits = training.held_out_bits();
  });
  return bits;
}

/// Gradients that were added up by an all-reduce of simulated workers.
struct ReducedGradients {
  std::map<const us::Parameter*, us::Array<float>> sums;

  [[nodiscard]] const us::Array<float>& gradient(const us::Parameter& parameter) const {
    return sums.at(&parameter);
  }
};

/// FP8-LM's all-reduce with automatic scaling, of workers that this process simulates.
double train_as_fp8_lm(const us::train::TextCorpus& corpus, std::uint64_t seed,
                       const Options& options, std::size_t workers) {
  Training training(corpus, seed, options);
  us::optim::AllReduce all_reduce;
  std::vector<GradientTree> trees(workers, GradientTree(training.parameters));
  const std::size_t own = batches_of_step / workers;
  // Of the mean over workers that of unit scaling, as Combination::unit_scaled.
  const auto factor = static_cast<float>(static_cast<double>(workers) /
                                         std::sqrt(static_cast<double>(batches_of_step)));
  for (std::uint32_t step = 0; step < options.steps; ++step) {
    for (std::size_t worker = 0; worker < workers; ++worker) {
      trees[worker].clear();
      training.differentiate(step, worker * own, own, trees[worker]);
    }
    ReducedGradients reduced;
    for (const us::Parameter* each : training.parameters) {
      std::vector<us::Array<float>> gradients;
      for (const GradientTree& tree : trees) gradients.push_back(tree.gradient(*each));
      us::Array<float> sum = all_reduce.reduce(gradients).mean.decode();
      for (float& number : sum.mutable_span()) number *= factor;
      reduced.sums.emplace(each, std::move(sum));
    }
    all_reduce.end_step();
    training.update(reduced, step);
  }
  return training.held_out_bits();
}

/// A mean and its standard error.
struct Mean {
  double value;
  double error;
};
Mean mean_of(const std::vector<double>& numbers) {
  const auto count = static_cast<double>(numbers.size());
  double sum = 0;
  for (const double each : numbers) sum += each;
  const double mean = sum / count;
  double squares = 0;
  for (const double each : numbers) squares += (each - mean) * (each - mean);
  return {mean, std::sqrt(squares / (count - 1) / count)};
}

/// A row of the table.
struct Way {
  std::string name;
  std::size_t ranks;
  std::function<double(std::uint64_t seed)> train;
  std::vector<double> bits = {};  ///< of each seed
};

void run(const Options& options) {
  const us::train::TextCorpus corpus(us::train::TextCorpus::read_files(std::array{options.data}),
                                     window);
  std::vector<Way> ways;
  const auto add = [&](const std::string& name, std::size_t ranks,
                       const GradientExchange::Options& wire) {
    ways.push_back({name, ranks, [&corpus, &options, ranks, wire](std::uint64_t seed) {
                      return train_on_ranks(corpus, seed, options, ranks, wire);
                    }});
  };
  add("float32", 1, {});
  for (const std::size_t ranks : {2U, 4U}) {
    const us::Format fp8 = us::Format::of<us::float8_e4m3fn>();
    add("float16", ranks, {.format = us::Format::of<us::float16>()});
    add("E4M3, `by_block`", ranks, {.format = fp8});
    add("E4M3, `fixed`", ranks, {.format = fp8, .scaling = WireScaling::fixed});
    ways.push_back({"E4M3, FP8-LM's automatic scaling, simulated", ranks,
                    [&corpus, &options, ranks](std::uint64_t seed) {
                      return train_as_fp8_lm(corpus, seed, options, ranks);
                    }});
  }
  if (!options.wires.empty()) {
    ways.erase(std::remove_if(ways.begin() + 1, ways.end(),
                              [&](const Way& way) {
                                return std::none_of(options.wires.begin(), options.wires.end(),
                                                    [&](const std::string& part) {
                                                      return way.name.find(part) !=
                                                             std::string::npos;
                                                    });
                              }),
               ways.end());
  }
  const std::uint64_t end = std::uint64_t{options.first_seed} + options.seeds;
  for (std::uint64_t seed = options.first_seed; seed < end; ++seed) {
    for (Way& way : ways) {
      way.bits.push_back(way.train(seed));
      std::fprintf(stderr, "seed %u, %s on %zu: %.4f\n", static_cast<unsigned>(seed),
                   way.name.c_str(), way.ranks, way.bits.back());
    }
  }
  std::printf(
      "| wire | ranks | held out, bits per character | minus float32 |\n|---|---|---|---|\n");
  for (const Way& way : ways) {
    std::vector<double> differences;
    for (std::size_t k = 0; k < way.bits.size(); ++k) {
      differences.push_back(way.bits[k] - ways[0].bits[k]);
    }
    const Mean bits = mean_of(way.bits);
    const Mean difference = mean_of(differences);
    std::printf("| %s | %zu | %.4f ± %.4f | %+.4f ± %.4f |\n", way.name.c_str(), way.ranks,
                bits.value, bits.error, difference.value, difference.error);
  }
}

}  // namespace

int main(int argc, char** argv) try {
  Options options;
  CLI::App app("Trains a small decoder with gradients in several formats on the wire.");
  app.add_option("--data", options.data, "a text")->required();
  app.add_option("--seeds", options.seeds)->check(CLI::Range(2, 1000));
  app.add_option("--first-seed", options.first_seed);
  app.add_option("--wires", options.wires,
                 "parts of names, such as by_block; float32 is always run")
      ->delimiter(',');
  app.add_option("--steps", options.steps)->check(CLI::Range(20, 1000000));
  app.add_option("--hidden", options.hidden_size)->check(CLI::Range(2, 4096));
  app.add_option("--sequences", options.sequences, "of 64 characters, in each of the four batches")
      ->check(CLI::Range(1, 4096));
  app.add_option("--rate", options.rate, "the largest learning rate");
  CLI11_PARSE(app, argc, argv);
  run(options);
} catch (const std::exception& error) {
  std::fprintf(stderr, "wire_quality: %s\n", error.what());
  return 1;
}
