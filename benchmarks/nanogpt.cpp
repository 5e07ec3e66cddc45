// SPDX-License-Identifier: MIT
// nanoGPT's recipe for characters (6 layers of width 384, 256 characters, dropout 0.2, AdamW with
// β₂ = 0.99 and a decay of 10^-4 a step, a tied read-out), trained here.
// benchmarks/peers/nanogpt.py trains it in PyTorch on the same batches, which this program writes
// for it. docs/results.md has the comparison. Unlike nanoGPT, no dropout follows the embedding,
// norms have shifts, and the feed-forward network has biases.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <numbers>
#include <string>
#include <vector>

#include "unit_scaling/analysis/quantile.hpp"
#include "unit_scaling/core/atomic_file.hpp"
#include "unit_scaling/unit_scaling.hpp"

namespace us = unit_scaling;

namespace {

struct Options {
  std::filesystem::path data;
  std::filesystem::path batches;
  std::string precision = "fp8";
  us::Rule rule = us::Rule::paper;
  double rate = 0x1p-5;
  std::uint32_t steps = 250;
  std::size_t batch = 16;
  std::size_t threads = 1;
};

constexpr std::size_t window = 257;  // 256 characters are predicted
constexpr std::size_t layers = 6;
constexpr std::size_t validation_windows = 128;
constexpr std::uint32_t warmup_steps = 100;

/// Writes the ids of every batch, and then those that are held out, in 32 bits each.
void write_batches(const Options& options, const us::train::CausalBatches& batches) {
  std::string bytes;
  const auto append = [&](const us::Array<std::int32_t>& ids) {
    bytes.append(reinterpret_cast<const char*>(ids.data()), ids.bytes());
  };
  for (std::uint32_t step = 0; step < options.steps; ++step) {
    append(batches.training(options.batch, step));
  }
  append(batches.validation(0, validation_windows));
  us::write_file(options.batches.string(), bytes);
}

/// Plain weights as nanoGPT begins with them: N(0, 0.02²), and less at the end of each branch.
void initialise_as_nanogpt(const std::vector<us::Parameter*>& parameters) {
  std::uint32_t number = 0;
  for (us::Parameter* const each : parameters) {
    if (each->shape().rank() < 2) continue;
    const bool ends_branch = each->name.find("linear_o") != std::string::npos ||
                             each->name.find("down") != std::string::npos;
    const double deviation = ends_branch ? 0.02 / std::sqrt(2.0 * layers) : 0.02;
    const us::Random random(7, us::RandomStream::initialisation, number++);
    float* const elements = each->value.mutable_data();
    for (std::size_t i = 0; i < each->shape().size(); ++i) {
      elements[i] = static_cast<float>(deviation * random.normal(i));
    }
  }
}

template <class P> void run(const Options& options) {
  const us::train::TextCorpus corpus(us::train::TextCorpus::read_files(std::array{options.data}),
                                     window);
  const us::train::CausalBatches batches(corpus, window, /*seed=*/1);
  if (!options.batches.empty()) return write_batches(options, batches);
  us::nn::Initialiser initialiser(/*seed=*/1, us::Scaling{options.rule});
  us::nn::TransformerDecoder model(
      initialiser, corpus.vocabulary_size(),
      {.hidden_size = 384,
       .context_length = window,
       .layers = layers,
       .heads = 6,
       .norm = us::nn::NormKind::layer_norm,
       .mlp = us::nn::MlpKind::gelu,
       .dropout = 0.2},
      {.positions = us::nn::PositionKind::learned, .max_positions = window}, {.tied = true});
  const auto parameters = us::optim::parameters_of(model);
  const bool is_plain = options.rule == us::Rule::none;
  if (is_plain) initialise_as_nanogpt(parameters);
  // A decay of 0.1 times nanoGPT's rate of 10^-3 removes 2^-13.3 of a weight in a step.
  us::optim::AdamW::Options adam_options{.beta2 = 0.99, .weight_decay = 0x1p-13};
  adam_options.rule = options.rule;
  if (is_plain) {
    adam_options.weight_decay = 0.1;
    adam_options.decay = us::optim::WeightDecay::decoupled;
    adam_options.max_norm = 1;
  }
  us::optim::AdamW adam(parameters, adam_options);
  us::Tape<P> tape;
  std::vector<double> seconds;
  for (std::uint32_t step = 1; step <= options.steps; ++step) {
    const auto ids = batches.training(options.batch, step - 1);
    const auto start = std::chrono::steady_clock::now();
    tape.clear();
    const auto loss = model.next_token_loss(tape, ids);
    tape.backward(loss);
    adam.step(tape, options.rate * std::min(1.0, static_cast<double>(step) / warmup_steps));
    seconds.push_back(
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
    if (step % 20 != 0 && step != options.steps) continue;
    std::printf("step %u: %.3f bits, %.0f tokens/s\n", step,
                static_cast<double>(*loss.value().data()) / std::numbers::ln2,
                static_cast<double>(options.batch * (window - 1)) / us::analysis::median(seconds));
    std::fflush(stdout);
  }
  us::Tape<P> reading(us::TapeMode::inference);
  constexpr std::size_t at_once = 16;
  double sum = 0;
  for (std::size_t first = 0; first < validation_windows; first += at_once) {
    reading.clear();
    const auto loss = model.next_token_loss(reading, batches.validation(first, at_once));
    sum += static_cast<double>(*loss.value().data());
  }
  std::printf("held out: %.3f bits\n", sum * at_once / validation_windows / std::numbers::ln2);
}

}  // namespace

int main(int argc, char** argv) try {
  Options options;
  CLI::App app("Trains nanoGPT's model for characters.");
  app.add_option("--data", options.data, "a text")->required();
  app.add_option("--batches", options.batches, "write the batches there, and do nothing else");
  app.add_option("--precision", options.precision)->check(CLI::IsMember({"fp8", "fp32"}));
  std::string rule(to_string(options.rule));
  app.add_option("--rule", rule)->check(CLI::IsMember({"none", "paper", "umup"}));
  app.add_option("--rate", options.rate, "the largest learning rate");
  app.add_option("--steps", options.steps)->check(CLI::Range(1, 1000000));
  app.add_option("--batch", options.batch)->check(CLI::Range(1, 4096));
  app.add_option("--threads", options.threads);
  CLI11_PARSE(app, argc, argv);
  for (const us::Rule each : {us::Rule::none, us::Rule::paper, us::Rule::umup}) {
    if (rule == to_string(each)) options.rule = each;
  }
  us::set_thread_count(options.threads);
  options.precision == "fp8" ? run<us::precision::fp8>(options) : run<us::precision::fp32>(options);
} catch (const std::exception& error) {
  std::fprintf(stderr, "nanogpt: %s\n", error.what());
  return 1;
}
