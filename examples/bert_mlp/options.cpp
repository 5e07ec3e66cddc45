// SPDX-License-Identifier: MIT
#include "options.hpp"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <charconv>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "checkpoint.hpp"
#include "launcher.hpp"
#include "one_line.hpp"
#include "recipe.hpp"
#include "unit_scaling/core/printable.hpp"
#include "unit_scaling/core/version.hpp"
#include "unit_scaling/formats/format.hpp"
#include "unit_scaling/formats/rounding.hpp"
#include "unit_scaling/optim/gradient_format.hpp"
#include "unit_scaling/scaling/rule.hpp"
#include "unit_scaling/train/schedule.hpp"
#include "unknown_argument.hpp"

namespace bert_mlp {

namespace {

/// Part of the name of a variant.
struct VariantPart {
  std::string text;
  std::string source = "--";  ///< what messages have in front of "precision" or "scaling"
};

/// Reads a precision, and as scaling "unit", "none", "loss", "loss:FACTOR" or "unit+loss:FACTOR".
/// @throws std::invalid_argument for anything else.
Variant parse_variant(const VariantPart& precision_part, const VariantPart& scaling_part) {
  const std::string& precision = precision_part.text;
  const std::string& scaling = scaling_part.text;
  constexpr std::array precisions{"fp32", "fp16", "bf16", "fp8"};
  if (std::find(precisions.begin(), precisions.end(), precision) == precisions.end()) {
    throw std::invalid_argument(precision_part.source + "precision " + us::in_quotes(precision) +
                                ": expected fp32, fp16, bf16 or fp8");
  }
  if (scaling == "unit") return {precision, us::scaling::paper, 1};
  if (scaling == "none") return {precision, us::scaling::none, 1};
  if (scaling == "loss") return {precision, us::scaling::none, 1024};
  const std::size_t colon = scaling.find(':');
  const std::string rules = scaling.substr(0, colon);
  if (colon != std::string::npos && (rules == "loss" || rules == "unit+loss")) {
    double factor = 0;
    const char* end = scaling.data() + scaling.size();
    const auto [rest, error] = std::from_chars(scaling.data() + colon + 1, end, factor);
    // The factor and its reciprocal must be floats.
    if (error == std::errc{} && rest == end && factor >= 0x1p-64 && factor <= 0x1p64) {
      return {precision, rules == "loss" ? us::scaling::none : us::scaling::paper, factor};
    }
  }
  throw std::invalid_argument(scaling_part.source + "scaling " + us::in_quotes(scaling) +
                              ": expected unit, none, loss, loss:FACTOR or unit+loss:FACTOR, "
                              "with a factor from 2^-64 to 2^64");
}

/// Reads "nearest", "stochastic" or, for as the rules say, "".
/// @throws std::invalid_argument for anything else.
std::optional<us::Rounding> parse_simulated_rounding(const std::string& text) {
  if (text.empty()) return std::nullopt;
  if (text == "nearest") return us::Rounding::nearest_even;
  if (text == "stochastic") return us::Rounding::stochastic;
  throw std::invalid_argument("--simulate-rounding " + us::in_quotes(text) +
                              ": expected nearest or stochastic");
}

/// Puts in front what simulated runs are compared with: of each scaling that they have, the run in
/// fp32 without a simulation.
void add_baselines(std::vector<Variant>& variants) {
  std::vector<Variant> baselines;
  for (const Variant& variant : variants) {
    const bool is_there = std::any_of(
        baselines.begin(), baselines.end(),
        [&](const Variant& baseline) { return baseline.is_unit() == variant.is_unit(); });
    if (!is_there) baselines.push_back({"fp32", variant.scaling, 1});
  }
  variants.insert(variants.begin(), baselines.begin(), baselines.end());
}

/// Reads the bits of the formats to sweep: 8 if `text` is empty.
/// @throws std::invalid_argument unless they are 5 to 8.
int parse_sweep_bits(const std::string& text) {
  if (text.empty()) return 8;
  int bits = 0;
  if (read_number(text, bits) && bits >= 5 && bits <= 8) return bits;
  throw std::invalid_argument("--sweep-formats " + us::printable(text) +
                              ": expected a whole number from 5 to 8");
}

/// CLI11 reads -1 as 2^64 - 1 and answers a number out of range with up to 309 digits, so numbers
/// are checked as texts, before it sees them.
/// @param accepts `accepts(text)` tells whether the text is such a number.
template <class Accepts>
CLI::Option* require(CLI::Option* option, const std::string& expected, const Accepts& accepts) {
  const std::string name = option->get_name();
  // An error of another type than CLI11's own passes through it as it is.
  return option->check([=](const std::string& text) -> std::string {
    if (accepts(text)) return {};
    throw std::invalid_argument(name + " " + us::printable(text) + ": expected " + expected);
  });
}

CLI::Option* require_whole(CLI::Option* option, std::uint64_t lowest, std::uint64_t highest) {
  return require(option,
                 "a whole number from " + std::to_string(lowest) + " to " + std::to_string(highest),
                 [=](const std::string& text) {
                   std::uint64_t value = 0;
                   return read_number(text, value) && value >= lowest && value <= highest;
                 });
}

/// @param zero whether 0 will do.
CLI::Option* require_finite(CLI::Option* option, bool zero) {
  return require(option,
                 zero ? "a finite number of at least 0, in the range of float"
                      : "a finite number above 0, in the range of float",
                 [=](const std::string& text) {
                   double value = 0;
                   constexpr double smallest = std::numeric_limits<float>::min();
                   constexpr double largest = std::numeric_limits<float>::max();
                   return read_number(text, value) && value <= largest &&
                          (value >= smallest || (zero && value == 0));
                 });
}

/// No argument means anything if it is empty: mostly it is a variable of the shell that is not set.
/// @throws std::invalid_argument naming the option.
void require_no_empty_argument(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    const std::string_view text = argv[i];
    const bool ends_with_equals = text.starts_with("--") && text.find('=') == text.size() - 1;
    if (!text.empty() && !ends_with_equals) continue;
    const std::string_view before = i > 1 ? argv[i - 1] : "";
    const std::string option(ends_with_equals           ? text.substr(0, text.size() - 1)
                             : before.starts_with("--") ? before
                                                        : "an argument");
    throw std::invalid_argument(
        us::printable(option) +
        ": expected a value, got an empty text; is a variable of the shell not set?");
  }
}

/// One line about an option that has too many values or none.
std::string wrong_number_of_values(const CLI::App& app, const CLI::ArgumentMismatch& error) {
  for (const CLI::Option* option : app.get_options()) {
    // --data may be repeated, all others have one value.
    if (option->get_expected_max() > 1 || option->count() < 2) continue;
    std::string values;
    for (const std::string& value : option->results()) {
      values += (values.empty() ? "" : " and ") + us::printable(value);
    }
    return option->get_name() + ": expected once, got " + values;
  }
  const std::string text = error.what();
  return text.substr(0, text.find(':')) + ": expected a value";
}

/// What was typed, without what says which variants to train, how far and where the results are:
/// for the command that goes on with one of them.
std::string command_of_one(const std::string& program, const CLI::App& app) {
  constexpr std::array left_out{"--compare", "--precision", "--scaling", "--recipe",
                                "--stop-at", "--resume",    "--out",     "--overwrite"};
  std::string command = shell_word(program);
  for (const CLI::Option* option : app.get_options()) {
    const std::string name = option->get_name();
    if (std::find(left_out.begin(), left_out.end(), name) != left_out.end()) continue;
    const bool is_flag = option->get_items_expected_max() == 0;
    for (const std::string& value : option->results()) {
      command += " " + name;
      if (is_flag && value == "true") continue;
      command += (is_flag || value.starts_with('-') ? "=" : " ") + shell_word(value);
    }
  }
  return command;
}

/// The variants of --compare.
/// @throws std::invalid_argument if one of them is empty, unknown or there twice.
std::vector<Variant> parse_comparison(const std::string& text) {
  const std::string name = "--compare " + us::in_quotes(text);
  std::vector<Variant> variants;
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = std::min(text.find(',', begin), text.size());
    const std::string item = text.substr(begin, end - begin);
    begin = end + 1;
    const std::size_t colon = item.find(':');
    if (colon == std::string::npos) {
      throw std::invalid_argument(name + ": expected PRECISION:SCALING,..., got an entry " +
                                  us::in_quotes(item));
    }
    variants.push_back(with_option("--compare", text, [&] {
      const std::size_t at = std::min(item.find('@', colon), item.size());
      Variant variant =
          parse_variant({item.substr(0, colon), ""}, {item.substr(colon + 1, at - colon - 1), ""});
      return at == item.size() ? variant : under_recipe(std::move(variant), item.substr(at + 1));
    }));
    const std::string last = variants.back().name();
    if (std::count_if(variants.begin(), variants.end(),
                      [&](const Variant& each) { return each.name() == last; }) > 1) {
      throw std::invalid_argument(name + ": expected different variants, got " + last + " twice");
    }
  }
  return variants;
}

}  // namespace

CommandLine parse_options(int argc, char** argv) {
  Options options;
  const auto job = job_of_this_process();
  options.threads =
      std::max<std::size_t>(1, std::thread::hardware_concurrency() / (job ? job->on_this_host : 1));
  for (int i = 0; i < argc; ++i) {
    options.command += (i == 0 ? "" : " ") + one_line(argv[i]);
  }
  require_no_empty_argument(argc, argv);
  VariantPart precision{"fp8"};
  VariantPart scaling{"unit"};
  std::string compare = "fp32:unit,fp16:unit,fp8:unit,fp32:none,fp8:none";
  std::string schedule = "linear";
  std::string simulate;
  std::string simulated_rounding;
  std::string recipe;
  std::string wire = us::to_string(options.wire);
  std::uint64_t deadline = static_cast<std::uint64_t>(options.deadline.count());
  std::string sweep;

  CLI::App app{
      "Trains a BERT-style masked character model on text, in FP8 with unit scaling and in what\n"
      "else you name, and compares them. Without arguments: five variants on the project's own\n"
      "sources."};
  app.get_formatter()->column_width(34);
  app.footer(
      "bpc is bits per character: the loss on hidden characters, in bits. valid_bpc, in the\n"
      "table and in summary.json, is on all of the held-out text at the end. The curves,\n"
      "validation_sample_bpc of metrics.csv and loss.svg, are on a sample of it, which is the\n"
      "same at every point, the last one too. The progress line shows the mean training bpc\n"
      "of the last 50 steps.\n"
      "A checkpoint holds one model: the only one trained, the only one that --simulate rounds "
      "or,\n"
      "of several, fp8 unit. summary.json\n"
      "says which, and so does the metadata of the checkpoint, under \"training\".\n"
      "Results already there: runs/NAME gets a number appended, NAME-2, NAME-3. A folder that\n"
      "--out names is refused if it holds those of another command, unless --overwrite is given\n"
      "or --resume goes on from the checkpoint in it; the same command may replace its own. Two\n"
      "runs at once never write to one folder: the second is refused.\n"
      "Ctrl-C ends the step, saves the model if it is the one of the checkpoint, and prints the\n"
      "command that goes on with it, quoted for bash, zsh or ksh. Results of the models before it\n"
      "are written. One more, a fifth of a second later, ends the program at once.\n"
      "mpirun -n 4 bert_mlp ... trains on 4 ranks, each with a replica of the model unless\n"
      "--replicas says how many they share. Rank 0 writes files and shows progress; all read\n"
      "--data and --resume. With --replicas 4 and --wire float32, 1, 2 and 4 ranks give the same\n"
      "bits, as do all numbers of ranks that have a power of two of the replicas each; --resume\n"
      "takes any that divides the replicas. Open MPI needs --bind-to none for ranks of several\n"
      "threads. kill -INT of one rank stops all of them after the step, with the time to save\n"
      "that they need; Ctrl-C at mpirun of Open MPI leaves them a second, and exit code 1.\n"
      "A result that cannot be written is named at the end, with exit code 1; the others are "
      "kept.\n"
      "Tokens per second are those of the median training step, in brackets those of the\n"
      "quartiles. Variants train one after another, so what else the machine does makes their\n"
      "rates differ, too; ./dev compare --filter unit_over_plain measures in turns.\n"
      "Memory of a run, in summary.json: parameter_bytes (float master copies), optimiser_bytes\n"
      "(moments, and sums of gradients with --accumulate), saved_bytes (kept\n"
      "from the forward for the backward pass), workspace_bytes (what the tape holds beyond that,\n"
      "gradients included, validation not) and peak_rss_bytes (of the process, while training).\n"
      "Of several ranks they are those of rank 0.\n"
      "Exit codes: 0 done, 1 failed, 2 a mistake in the arguments or sizes beyond the memory,\n"
      "3 every variant diverged, 130 stopped by Ctrl-C, 143 by kill.");
  app.set_version_flag("--version",
                       "bert_mlp (unit_scaling) " + std::string(unit_scaling::version));
  app.add_option("--data", options.data,
                 "File to train on, any bytes; may be repeated with other files (default: the "
                 "project's sources)")
      ->allow_extra_args(false);
  auto* precision_option = app.add_option("--precision", precision.text, "fp32, fp16, bf16 or fp8")
                               ->capture_default_str();
  auto* scaling_option =
      app.add_option("--scaling", scaling.text,
                     "unit (the paper's rules), none (plain), loss[:FACTOR] (plain with a loss "
                     "scale, 1024 if not given), unit+loss:FACTOR")
          ->capture_default_str();
  auto* compare_option = app.add_option("--compare", compare,
                                        "PRECISION:SCALING,..., each once: train these one after "
                                        "another and compare; the default "
                                        "when neither --precision nor --scaling is given")
                             ->capture_default_str()
                             ->expected(0, 1);
  app.add_option("--norm", options.norm, "pre or post: where residual branches are normalised")
      ->capture_default_str();
  auto* hidden_option = app.add_option("--hidden", options.hidden_size, "Channels of the model")
                            ->capture_default_str();
  require_whole(hidden_option, 1, std::uint64_t{1} << 16);
  require_whole(
      app.add_option("--layers", options.layers, "Blocks of the model")->capture_default_str(), 1,
      std::uint64_t{1} << 10);
  require_whole(
      app.add_option("--window", options.window, "Characters in a sequence")->capture_default_str(),
      1, std::uint64_t{1} << 16);
  auto* batch_option =
      app.add_option("--batch", options.batch, "Sequences in a step")->capture_default_str();
  require_whole(batch_option, 1, std::uint64_t{1} << 20);
  require_whole(
      app.add_option(
             "--accumulate", options.accumulate,
             "Batches whose gradients a replica adds up in a step: a step of as many tokens "
             "in the memory, and the time per token, of one batch")
          ->capture_default_str(),
      1, std::uint64_t{1} << 20);
  auto* replicas_option = require_whole(
      app.add_option("--replicas", options.replicas,
                     "Replicas of the model, each with its own --accumulate batches in a step; "
                     "ranks share them (default: one for each rank)"),
      1, std::uint64_t{1} << 16);
  app.add_option("--wire", wire,
                 "Format in which ranks send gradients: float32, float16, float8_e4m3fn, ...")
      ->capture_default_str();
  require_whole(app.add_option("--deadline", deadline,
                               "Seconds after which a rank is given up that does not answer, "
                               "as rank 0 does not while it writes files")
                    ->capture_default_str(),
                1, std::uint64_t{1} << 31);
  auto* steps_option =
      app.add_option("--steps", options.steps, "Steps to train")->capture_default_str();
  require_whole(steps_option, 1, std::uint64_t{1} << 31);
  auto* stop_option =
      app.add_option("--stop-at", options.stop_at,
                     "Step at which to stop early; go on with --resume (default: do not)");
  require_whole(stop_option, 1, std::uint64_t{1} << 31);
  require_finite(
      app.add_option("--lr", options.learning_rate,
                     "Peak learning rate (default: 2^-2 unit, 2^-7 plain, 2^-9 plain fp8 without a "
                     "loss scale or recipe; with sgd 2^-8 unit, 2^-2 plain)"),
      false);
  app.add_option("--schedule", schedule,
                 "constant, linear or cosine: what the rate does after a warm-up over a tenth of "
                 "the steps")
      ->capture_default_str()
      ->check(CLI::IsMember({"constant", "linear", "cosine"}));
  app.add_option("--optimizer", options.optimizer, "adamw or sgd")
      ->capture_default_str()
      ->check(CLI::IsMember({"adamw", "sgd"}));
  require_finite(
      app.add_option("--weight-decay", options.weight_decay, "Decoupled for adamw, coupled for sgd")
          ->capture_default_str(),
      true);
  require_whole(app.add_option("--seed", options.seed, "Of weights, batches and masks")
                    ->capture_default_str(),
                0, std::numeric_limits<std::uint64_t>::max());
  require_whole(app.add_option("--threads", options.threads, "Changes the speed and nothing else")
                    ->capture_default_str(),
                1, 1024);
  require_whole(
      app.add_option("--eval-every", options.eval_every,
                     "Steps between checkpoints and validations on a sample of the held-out text, "
                     "small enough to take about a twentieth of the time "
                     "(default: a twentieth of the steps, at least 8)"),
      1, std::uint64_t{1} << 31);
  auto* out_option = app.add_option("--out", options.out,
                                    "Folder for results (default: a new runs/NAME in this folder; "
                                    "with --resume the checkpoint's own)");
  auto* overwrite_option = app.add_flag("--overwrite", options.overwrite,
                                        "Let --out replace results of another command");
  overwrite_option->needs(out_option);
  auto* resume_option = app.add_option(
      "--resume", options.resume,
      "Checkpoint to go on from, with the same other arguments; --precision, --scaling, "
      "--recipe and --simulate are those of the checkpoint if not given");
  app.add_flag("--quiet", options.quiet, "No progress line and no table");
  auto* json_option =
      app.add_flag("--json", options.json, "Print summary.json instead of the table");
  auto* scales_option =
      app.add_flag("--print-scales", options.print_scales,
                   "Print the scale of every weight, value and gradient at initialisation, and "
                   "stop. Takes 64 tokens unless --batch is given, and plain and unit-scaled fp32 "
                   "unless a variant is");
  auto* window_option = app.add_flag(
      "--loss-scale-window", options.loss_scale_window,
      "Train with loss scales from 2^-24 to 2^24 instead, plain and unit, in fp16 and fp8 "
      "(or in the --compare list), and draw which of them work. Takes --hidden 64 and "
      "--steps 300 unless they are given");
  auto* report_option = app.add_flag(
      "--report", options.report,
      "Also look at every tensor in some of the steps, and write report.html: exponents, scales, "
      "what is lost and where, op by op, with the variants side by side; its pictures go to "
      "figures/. Of several batches in a step it looks at the last of the first replica. Changes "
      "no "
      "bit of the training");
  auto* simulate_option = app.add_option(
      "--simulate", simulate,
      "Round numbers to formats that no precision has: RULE,... with RULE being "
      "[PATTERN:]FORWARD/BACKWARD for what enters matrix products, PATTERN=FORWARD/BACKWARD for "
      "what ops write; PATTERN is OP or MODULE/OP. So e3m4/e5m2, or "
      "readout/*:-/-,e4m3fn/e5m2,*=bfloat16/bfloat16. With --precision fp32 (then the default) or "
      "fp16. Trains the fp32 run without it first, to compare with, unless the run stops early or "
      "is resumed. See docs/simulation.md");
  auto* rounding_option =
      app.add_option("--simulate-rounding", simulated_rounding,
                     "nearest or stochastic: how simulated formats are rounded to (default: as "
                     "the rules say, which is to nearest but for formats followed by ~)");
  auto* sweep_option =
      app.add_option("--sweep-formats", sweep,
                     "Train with matrix products in every format of so many bits, 5 to 8 (default "
                     "8), from two exponent bits up to five and with a fraction, first forward, "
                     "then backward, and draw the loss. Plain and unit unless --scaling is given; "
                     "takes --hidden 64 and --steps 300 unless they are given")
          ->expected(0, 1);
  auto* recipe_option = app.add_option(
      "--recipe", recipe,
      "How operands of matrix products are scaled, in place of the formats of the "
      "precision: " +
          recipes_in_words() +
          ". All else is stored as --precision says. In --compare an entry may end in @NAME");
  for (CLI::Option* option : {scales_option, window_option, sweep_option}) {
    simulate_option->excludes(option);
    recipe_option->excludes(option);
  }
  recipe_option->excludes(simulate_option)->excludes(compare_option);
  for (CLI::Option* option : {scales_option, window_option, compare_option, precision_option,
                              resume_option, stop_option, report_option}) {
    sweep_option->excludes(option);
  }
  // Whatever one of a pair would drop without a word.
  compare_option->excludes(precision_option)->excludes(scaling_option);
  for (CLI::Option* option :
       {window_option, json_option, resume_option, stop_option, out_option, report_option}) {
    scales_option->excludes(option);
  }
  for (CLI::Option* option : {resume_option, stop_option, report_option}) {
    window_option->excludes(option);
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& answer) {
    std::ostringstream text;
    app.exit(answer, text, text);
    return {.options = std::nullopt, .answer = text.str()};
  } catch (const CLI::ExtrasError&) {
    throw std::invalid_argument(unknown_argument(app));
  } catch (const CLI::ArgumentMismatch& error) {
    throw std::invalid_argument(wrong_number_of_values(app, error));
  } catch (const CLI::Error& error) {
    throw std::invalid_argument(error.what());
  }
  options.command_of_one = command_of_one(argv[0], app);

  options.batch_given = batch_option->count() > 0;
  options.replicas_given = replicas_option->count() > 0;
  options.deadline = std::chrono::seconds(deadline);
  options.wire = with_option("--wire", wire, [&] {
    const us::Format format = us::Format::parse(wire);
    us::optim::require_gradient_format("gradients", format);
    return format;
  });
  if (options.loss_scale_window || sweep_option->count() > 0) {
    if (hidden_option->count() == 0) options.hidden_size = 64;
    if (steps_option->count() == 0) options.steps = 300;
  }
  if (options.norm != "pre" && options.norm != "post") {
    throw std::invalid_argument("--norm " + us::in_quotes(options.norm) + ": expected pre or post");
  }
  options.schedule = us::train::Schedule::decay_by_name(schedule);
  options.rate_schedule().check();
  if (options.stop_at && *options.stop_at > options.steps) {
    throw std::invalid_argument("--stop-at " + std::to_string(*options.stop_at) +
                                ": expected a step up to --steps " + std::to_string(options.steps));
  }
  const bool is_of_checkpoint = !options.resume.empty() && compare_option->count() == 0;
  if (is_of_checkpoint) {
    const CheckpointVariant there = variant_of_checkpoint(options.resume);
    const std::string file = "--resume " + quoted_path(options.resume.string()) + ": ";
    if (precision_option->count() == 0) precision = {there.precision, file};
    if (scaling_option->count() == 0) scaling = {there.scaling, file};
    if (simulate_option->count() + recipe_option->count() == 0) {
      simulate = there.simulation;
      recipe = there.recipe;
    }
  }
  if (sweep_option->count() > 0) {
    options.sweep_bits = parse_sweep_bits(sweep);
    std::vector<std::string> scalings{"unit", "none"};
    if (scaling_option->count() > 0) scalings = {scaling.text};
    for (const std::string& each : scalings) {
      options.variants.push_back(parse_variant({"fp32"}, {each}));
    }
  } else if (is_of_checkpoint ||
             precision_option->count() + scaling_option->count() + recipe_option->count() > 0 ||
             (simulate_option->count() > 0 && compare_option->count() == 0)) {
    const bool is_carrier =
        simulate_option->count() > 0 && precision_option->count() == 0 && !is_of_checkpoint;
    options.variants.push_back(
        parse_variant(is_carrier ? VariantPart{"fp32"} : precision, scaling));
    if (!recipe.empty()) {
      options.variants.back() = with_option(
          "--recipe", recipe, [&] { return under_recipe(options.variants.back(), recipe); });
    }
  } else if (options.print_scales && compare_option->count() == 0) {
    options.variants = {Variant{"fp32", us::scaling::paper, 1}, {"fp32", us::scaling::none, 1}};
  } else {
    if (options.loss_scale_window && compare_option->count() == 0) {
      compare = "fp16:none,fp16:unit,fp8:none,fp8:unit";
    }
    options.variants = parse_comparison(compare);
  }
  if (options.print_scales) {
    for (const Variant& variant : options.variants) {
      if (variant.recipe.empty()) continue;
      throw std::invalid_argument("--print-scales shows no recipe: '" + variant.name() +
                                  "' cannot be had with it");
    }
  }
  if (options.loss_scale_window) {
    for (const Variant& variant : options.variants) {
      if (variant.loss_scale == 1) continue;
      throw std::invalid_argument("--loss-scale-window sets the loss scale: '" +
                                  variant.scaling_name() + "' cannot be had with it");
    }
  }
  if (rounding_option->count() > 0 && simulate_option->count() + sweep_option->count() == 0) {
    throw std::invalid_argument(
        "--simulate-rounding goes with --simulate or --sweep-formats: nothing is simulated");
  }
  options.simulated_rounding = parse_simulated_rounding(simulated_rounding);
  if (!simulate.empty()) {
    for (Variant& variant : options.variants) {
      variant = simulated(options, std::move(variant), simulate);
    }
    // A run that is resumed, or will be, was compared or will be.
    if (options.resume.empty() && !options.stop_at) add_baselines(options.variants);
  }
  if (options.eval_every == 0) options.eval_every = std::max<std::size_t>(8, options.steps / 20);
  if (options.sequences_at_once() > std::numeric_limits<std::int32_t>::max() / options.window) {
    throw std::invalid_argument("--batch " + std::to_string(options.sequences_at_once()) +
                                ": expected fewer than 2^31 characters in a batch of --window " +
                                std::to_string(options.window));
  }
  if (!options.resume.empty() && options.variants.size() != 1) {
    throw std::invalid_argument(
        "--resume goes with one variant: leave out --compare, for the checkpoint says which");
  }
  return {.options = std::move(options), .answer = {}};
}

void share_replicas(Options& options, std::size_t ranks) {
  if (!options.replicas_given) {
    options.replicas = ranks;
    // So that any number of ranks may go on.
    if (ranks > 1) options.command_of_one += " --replicas " + std::to_string(ranks);
  }
  if (ranks > 1) {
    options.command_of_one = "mpirun -n " + std::to_string(ranks) + " " + options.command_of_one;
  }
  const std::string replicas = "--replicas " + std::to_string(options.replicas);
  if (options.replicas % ranks != 0) {
    throw std::invalid_argument(replicas + ": expected a multiple of the " + std::to_string(ranks) +
                                " ranks, which share them");
  }
  if (options.steps > (std::uint64_t{1} << 32) / options.accumulate / options.replicas) {
    throw std::invalid_argument(
        (options.replicas > 1 ? replicas : "--accumulate " + std::to_string(options.accumulate)) +
        ": expected at most 2^32 batches in all steps");
  }
  if (options.replicas == 1) return;
  for (const Variant& variant : options.variants) {
    if (!keeps_state(options, variant)) continue;
    throw std::invalid_argument(replicas +
                                ": expected a recipe that keeps nothing from batch to "
                                "batch, got " +
                                variant.recipe);
  }
}

}  // namespace bert_mlp
