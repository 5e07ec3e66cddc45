// SPDX-License-Identifier: MIT
// What the user asks bert_mlp to do.
#pragma once

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <stdexcept>
#include <string>
#include <system_error>
#include <vector>

#include "one_line.hpp"
#include "unit_scaling/core/printable.hpp"
#include "unit_scaling/formats/format.hpp"
#include "unit_scaling/formats/rounding.hpp"
#include "unit_scaling/scaling/rule.hpp"
#include "unit_scaling/train/schedule.hpp"

namespace bert_mlp {

namespace us = unit_scaling;

/// The shortest decimals that tell a number from every other.
[[nodiscard]] inline std::string exact_text(double value) {
  char digits[32];
  return {digits, std::to_chars(digits, digits + sizeof(digits), value).ptr};
}

/// One model to train: a precision, the scale rules, a factor on the loss, and what is simulated or
/// the recipe of its products.
struct Variant {
  std::string precision = "fp8";  // fp32, fp16, bf16 or fp8
  us::Scaling scaling = us::scaling::paper;
  double loss_scale = 1;
  std::string simulation = {};  // as us::Simulation::parse reads it; empty: none
  std::string recipe = {};      // as us::recipe_named reads it; empty: none

  /// Whether products read operands as the precision has them.
  [[nodiscard]] bool is_as_precision() const { return simulation.empty() && recipe.empty(); }

  [[nodiscard]] bool is_unit() const { return scaling.rule != us::Rule::none; }

  /// "unit", "none", "loss:1024"; the only way this is spelled.
  [[nodiscard]] std::string scaling_name() const {
    if (loss_scale == 1) return is_unit() ? "unit" : "none";
    return (is_unit() ? "unit+loss:" : "loss:") + exact_text(loss_scale);
  }
  [[nodiscard]] std::string name() const {
    return precision + " " + scaling_name() +
           (is_as_precision() ? "" : ", " + (recipe.empty() ? simulation : recipe));
  }
};

struct Options {
  std::vector<std::filesystem::path> data;
  std::vector<Variant> variants;  // to be trained, one after another
  std::size_t hidden_size = 128;
  std::size_t layers = 4;
  std::size_t window = 16;
  std::size_t batch = 64;
  std::size_t accumulate = 1;  // batches of each replica in a step
  std::size_t replicas = 1;    // of the model in a step, which the ranks share
  std::string norm = "pre";    // or post
  std::size_t steps = 700;
  std::optional<std::size_t> stop_at;
  std::optional<double> learning_rate;
  us::train::Schedule::Decay schedule = us::train::Schedule::Decay::linear;
  std::string optimizer = "adamw";
  double weight_decay = 0.01;
  std::uint64_t seed = 1;
  us::Format wire;                                           // in which ranks send gradients
  std::chrono::seconds deadline = std::chrono::minutes(10);  // of a rank that does not answer
  std::size_t threads = 1;
  std::size_t eval_every = 0;  // 0 until the steps are known
  std::filesystem::path out;   // empty: not given
  std::filesystem::path resume;
  bool overwrite = false;
  bool quiet = false;
  bool json = false;
  bool print_scales = false;
  bool loss_scale_window = false;
  bool report = false;
  std::optional<us::Rounding> simulated_rounding;  // empty: as the rules of a simulation say
  int sweep_bits = 0;                              // of the formats to sweep; 0: none
  bool batch_given = false;
  bool replicas_given = false;
  std::string command;  // as typed, for the summary
  // What is to be typed to go on with one variant, but for the variant, its checkpoint and where to
  // stop.
  std::string command_of_one;

  /// The learning rate of a variant: what was asked for, else for adamw the best of the sweep in
  /// docs/results.md, and for sgd one that trains but was not swept.
  [[nodiscard]] double rate_of(const Variant& variant) const {
    if (learning_rate) return *learning_rate;
    if (optimizer == "sgd") return variant.is_unit() ? 0x1p-8 : 0x1p-2;
    if (variant.is_unit()) return 0x1p-2;
    // Plain FP8 loses most gradients and trains best at a low rate; a window has one rate a row.
    const bool loses =
        variant.precision == "fp8" && variant.loss_scale == 1 && variant.recipe.empty();
    return loses && !loss_scale_window ? 0x1p-9 : 0x1p-7;
  }

  /// Whether the checkpoint is of this variant: of the only one, or of the one that a comparison is
  /// about, which is simulated or the unit-scaled one in FP8.
  [[nodiscard]] bool saves(const Variant& variant) const {
    const auto simulated_variants =
        std::count_if(variants.begin(), variants.end(),
                      [](const Variant& each) { return !each.simulation.empty(); });
    if (simulated_variants == 1) return !variant.simulation.empty();
    return variants.size() == 1 || variant.name() == "fp8 unit";
  }

  [[nodiscard]] std::size_t batches_per_step() const { return replicas * accumulate; }
  [[nodiscard]] std::size_t sequences_per_step() const { return batches_per_step() * batch; }
  [[nodiscard]] std::size_t tokens_per_step() const { return sequences_per_step() * window; }

  /// Sequences that are in memory together. To print scales takes few tokens, so that their
  /// dependence on each other does not drown the scales of the rules.
  [[nodiscard]] std::size_t sequences_at_once() const {
    return print_scales && !batch_given ? std::max<std::size_t>(1, 64 / window) : batch;
  }

  [[nodiscard]] us::train::Schedule rate_schedule() const {
    return {.warmup_steps = std::min<std::size_t>(steps / 10 + 1, steps),
            .total_steps = steps,
            .decay = schedule};
  }
};

/// The command that goes on from the checkpoint of a variant after `step`.
/// @param has_ended whether the training came to its end, as one that was interrupted in the
///        validation there did not.
[[nodiscard]] inline std::string command_to_go_on(const Options& options, const Variant& variant,
                                                  std::size_t step, bool has_ended) {
  const bool stops_again = options.stop_at && step < *options.stop_at + (has_ended ? 0 : 1);
  return options.command_of_one + " --precision " + variant.precision + " --scaling " +
         variant.scaling_name() + (variant.recipe.empty() ? "" : " --recipe " + variant.recipe) +
         (stops_again ? " --stop-at " + std::to_string(*options.stop_at) : "") + " --resume " +
         shell_word((options.out / "checkpoint.safetensors").string());
}

/// What `body()` returns. Its errors are told with the option that they are about in front.
template <class Body>
auto with_option(const std::string& option, const std::string& value, const Body& body) {
  try {
    return body();
  } catch (const std::invalid_argument& error) {
    throw std::invalid_argument(option + " " + us::in_quotes(value) + ": " + error.what());
  }
}

/// Whether all of `text` is a number, which is then in `value`.
template <class Number> [[nodiscard]] bool read_number(const std::string& text, Number& value) {
  const char* end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, value);
  return error == std::errc{} && rest == end;
}

/// What a command line asks for.
struct CommandLine {
  std::optional<Options> options;  // empty after --help and --version
  std::string answer;              // to these
};

/// Reads the command line.
/// @throws std::invalid_argument with one line on a mistake.
[[nodiscard]] CommandLine parse_options(int argc, char** argv);

/// Lets so many ranks share the replicas: one for each, if nobody said how many there are to be.
/// @throws std::invalid_argument if they cannot share them.
void share_replicas(Options& options, std::size_t ranks);

}  // namespace bert_mlp
