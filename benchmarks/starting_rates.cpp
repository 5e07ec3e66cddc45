// SPDX-License-Identifier: MIT
// Trains a small decoder under one rule, with one optimiser, at one learning rate, and prints one
// line: what came of it, and the norms of its gradients on the way. docs/choosing.md has the tables
// that were made from many such lines.
#include <CLI/CLI.hpp>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <numbers>
#include <string>

#include "unit_scaling/unit_scaling.hpp"

namespace us = unit_scaling;

namespace {

struct Options {
  std::filesystem::path data;
  std::string precision = "fp8";
  us::Rule rule = us::Rule::umup;
  std::string optimiser = "adamw";
  std::size_t hidden_size = 128;
  double log2_rate = -1;
  std::uint32_t steps = 400;
  std::uint64_t seed = 1;
};

constexpr std::size_t context_length = 64;
constexpr std::size_t batch = 16;

/// Mean bits of a character over the first 400 windows of the held-out text.
template <class P>
double validate(const us::nn::TransformerDecoder& model, const us::train::CausalBatches& batches) {
  constexpr std::size_t windows = 400;
  constexpr std::size_t at_once = 50;
  us::Tape<P> tape(us::TapeMode::inference);
  double sum = 0;
  for (std::size_t first = 0; first < windows; first += at_once) {
    tape.clear();
    const auto loss = model.next_token_loss(tape, batches.validation(first, at_once));
    sum += static_cast<double>(*loss.value().data());
  }
  return sum * at_once / windows / std::numbers::ln2;
}

template <class P, class Optimiser>
void train(const Options& options, us::nn::TransformerDecoder& model, Optimiser optimiser,
           const us::train::CausalBatches& batches) {
  const us::train::Schedule schedule{.warmup_steps = options.steps / 10,
                                     .total_steps = options.steps,
                                     .decay = us::train::Schedule::Decay::cosine};
  const std::array<std::uint32_t, 3> looked_at{0, options.steps / 2, options.steps - 1};
  const auto parameters = us::optim::parameters_of(model);
  std::string norms;
  us::Tape<P> tape;
  try {
    for (std::uint32_t step = 0; step < options.steps; ++step) {
      tape.clear();
      tape.backward(model.next_token_loss(tape, batches.training(batch, step)));
      for (const std::uint32_t each : looked_at) {
        if (step != each) continue;
        std::array<char, 32> norm{};
        std::snprintf(norm.data(), norm.size(), " %.3g",
                      us::optim::gradient_norm(tape, parameters));
        norms += norm.data();
      }
      optimiser.step(tape, std::exp2(options.log2_rate) * schedule(step));
    }
  } catch (const std::exception&) {  // Such a rate makes gradients that are not finite.
    norms += " diverged";
  }
  std::size_t size = 0;
  for (const us::Parameter* each : parameters) size += each->shape().size();
  std::printf("%s %s %s hidden_size %zu rate 2^%g: %.4f bits, norms of %zu gradients%s\n",
              options.precision.c_str(), std::string(to_string(options.rule)).c_str(),
              options.optimiser.c_str(), options.hidden_size, options.log2_rate,
              validate<P>(model, batches), size, norms.c_str());
}

template <class P> void run(const Options& options) {
  us::set_thread_count(1);
  const us::train::TextCorpus corpus(us::train::TextCorpus::read_files(std::array{options.data}),
                                     context_length);
  const us::train::CausalBatches batches(corpus, context_length, options.seed);
  us::nn::Initialiser initialiser(options.seed, us::Scaling{options.rule});
  us::nn::TransformerDecoder model(initialiser, corpus.vocabulary_size(),
                                   {.hidden_size = options.hidden_size,
                                    .context_length = context_length,
                                    .layers = 2,
                                    .heads = options.hidden_size / 32,
                                    .rotary_base = 10000});
  const auto parameters = us::optim::parameters_of(model);
  if (options.optimiser == "adamw") {
    train<P>(options, model,
             us::optim::AdamW(parameters, {.weight_decay = 0x1p-13, .rule = options.rule}),
             batches);
  } else if (options.optimiser == "lamb") {
    train<P>(options, model, us::optim::Lamb(parameters, {.rule = options.rule}), batches);
  } else {
    train<P>(options, model, us::optim::Sgd(parameters, {.momentum = 0.9, .rule = options.rule}),
             batches);
  }
}

}  // namespace

int main(int argc, char** argv) try {
  Options options;
  CLI::App app("Trains a small decoder at one learning rate.");
  app.add_option("--data", options.data, "a text")->required();
  app.add_option("--precision", options.precision)->check(CLI::IsMember({"fp8", "fp32"}));
  std::string rule(to_string(options.rule));
  app.add_option("--rule", rule)->check(CLI::IsMember({"none", "paper", "umup"}));
  app.add_option("--optimiser", options.optimiser)->check(CLI::IsMember({"adamw", "lamb", "sgd"}));
  app.add_option("--hidden-size", options.hidden_size)->check(CLI::Range(32, 4096));
  app.add_option("--log2-rate", options.log2_rate, "of the largest learning rate");
  app.add_option("--steps", options.steps)->check(CLI::Range(1, 1000000));
  app.add_option("--seed", options.seed);
  CLI11_PARSE(app, argc, argv);
  for (const us::Rule each : {us::Rule::none, us::Rule::paper, us::Rule::umup}) {
    if (rule == to_string(each)) options.rule = each;
  }
  options.precision == "fp8" ? run<us::precision::fp8>(options) : run<us::precision::fp32>(options);
} catch (const std::exception& error) {
  std::fprintf(stderr, "starting_rates: %s\n", error.what());
  return 1;
}
