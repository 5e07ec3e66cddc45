// SPDX-License-Identifier: MIT
#include "checkpoint.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <stdexcept>
#include <string>
#include <system_error>
#include <type_traits>
#include <utility>

#include "any_optimiser.hpp"
#include "one_line.hpp"
#include "options.hpp"
#include "record.hpp"
#include "unit_scaling/autograd/parameter.hpp"
#include "unit_scaling/autograd/recipe_of_tape.hpp"
#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/file_error.hpp"
#include "unit_scaling/core/printable.hpp"
#include "unit_scaling/core/shape.hpp"
#include "unit_scaling/nn/bert_mlp.hpp"
#include "unit_scaling/train/checkpoint.hpp"
#include "unit_scaling/train/checkpoints.hpp"
#include "unit_scaling/train/fingerprint.hpp"
#include "unit_scaling/train/non_finite_state.hpp"
#include "unit_scaling/train/safetensors.hpp"
#include "unit_scaling/train/schedule.hpp"
#include "unit_scaling/train/text_corpus.hpp"
#include "unit_scaling/train/training_state.hpp"

namespace bert_mlp {

namespace {

/// What no training leaves in its record; empty if there is nothing.
std::string fault_of(const Record& record) {
  // Of a cross-entropy of finite logits, far more than one that is about to be lost has.
  constexpr double most_bpc = 1e6;
  const auto is_bpc = [](double value) { return value >= 0 && value <= most_bpc; };  // not of NaN
  const auto is_possible = [&](const Point& point) {
    return is_bpc(point.training_bpc) && is_bpc(point.validation_sample_bpc);
  };
  const auto wrong = std::find_if_not(record.points.begin(), record.points.end(), is_possible);
  if (wrong != record.points.end()) {
    return "the point of step " + std::to_string(wrong->step) + " has " +
           exact_text(wrong->training_bpc) + " and " + exact_text(wrong->validation_sample_bpc) +
           " bits per character, expected 0 to 10^6";
  }
  // Negated, so that a NaN is one.
  const auto most = most_bpc * static_cast<double>(record.loss_count);
  if (!(record.loss_sum >= 0 && record.loss_sum <= most)) {
    return "the losses of the " + std::to_string(record.loss_count) +
           " steps since its last point add up to " + exact_text(record.loss_sum) +
           ", expected 0 to 10^6 for each";
  }
  return {};
}

[[nodiscard]] std::string named(const std::filesystem::path& checkpoint) {
  return "--resume " + quoted_path(checkpoint.string());
}

/// Opens the checkpoint that --resume names.
/// @throws std::invalid_argument if it is none.
us::train::Checkpoint open_checkpoint(const std::filesystem::path& path) {
  std::error_code error;
  if (std::filesystem::is_directory(path, error)) {
    const std::filesystem::path inside = path / "checkpoint.safetensors";
    throw std::invalid_argument(
        named(path) + (std::filesystem::exists(inside, error)
                           ? ": is a folder; give the checkpoint in it, " + shell_word(inside)
                           : ": is a folder, and has no checkpoint.safetensors; give the file of a "
                             "checkpoint"));
  }
  try {
    return us::train::Checkpoint(path);
  } catch (const us::FileError& file_error) {
    throw std::invalid_argument(std::string("--resume ") + file_error.what());
  }
}

/// @throws std::invalid_argument if the checkpoint that `options` goes on from is beyond where to
///         stop.
void require_step(const Options& options, std::uint64_t step) {
  if (step > options.steps) {
    throw std::invalid_argument(named(options.resume) + ": is of step " + std::to_string(step) +
                                ", expected a whole number from 0 to " +
                                std::to_string(options.steps));
  }
  if (options.stop_at && step > *options.stop_at) {
    throw std::invalid_argument("--stop-at " + std::to_string(*options.stop_at) +
                                ": the checkpoint is of step " + std::to_string(step));
  }
}

/// All that a checkpoint holds. There is a point of the record every so many steps, so neither the
/// steps of the points nor the steps since the last one need be kept. In binary, for the points are
/// written anew with each checkpoint.
struct State {
  us::nn::BertMlp& model;
  AnyOptimiser& optimiser;
  us::RecipeOfTape* recipe;  // null: none
  std::uint64_t step;
  us::Array<double> points;
  us::Array<double> loss_sum = us::Array<double>({1});

  template <class Visitor> void for_each_state(const Visitor& visit) {
    visit("record.points", points);
    visit("record.loss_sum", loss_sum);
    visit("parameter", model);
    if (recipe != nullptr) visit("recipe", *recipe);
    bert_mlp::for_each_state(optimiser, [&]<class T>(const std::string& name, T& state) {
      if constexpr (std::is_same_v<T, std::uint64_t>) {
        state = step;  // which is among the texts of the file
      } else {
        visit("optimiser." + name, state);
      }
    });
  }

  /// @param file that it was loaded from.
  /// @throws us::FileError for what no training leaves.
  void check(const std::string& file) {
    if (const auto name = us::train::first_non_finite_state(*this)) {
      throw us::FileError(file, "array " + us::in_quotes(*name) + " is not finite");
    }
    us::train::for_each_state(*this, [&]<class T>(const std::string& name, const T& state) {
      if constexpr (std::is_same_v<T, us::Array<float>>) {
        const auto elements = state.span();
        if (name.starts_with("optimiser.second_moment.") &&
            std::any_of(elements.begin(), elements.end(), [](float each) { return each < 0; })) {
          throw us::FileError(file, "array " + us::in_quotes(name) + " has negative squares");
        }
      }
    });
  }
};

}  // namespace

CheckpointVariant variant_of_checkpoint(const std::filesystem::path& path) {
  const us::train::Checkpoint checkpoint = open_checkpoint(path);
  const auto value = [&](const char* key) { return checkpoint.training().value(key); };
  if (!value("precision") || !value("scaling")) {
    throw std::invalid_argument(named(path) + ": is no checkpoint of bert_mlp");
  }
  return {*value("precision"), *value("scaling"), value("simulate").value_or(""),
          value("recipe").value_or("")};
}

us::train::Fingerprint fingerprint_of(const Options& options, const Variant& variant,
                                      const us::train::TextCorpus& corpus) {
  us::train::Fingerprint fingerprint;
  fingerprint.add("precision", variant.precision)
      .add("scaling", variant.scaling_name())
      .add("hidden", options.hidden_size)
      .add("layers", options.layers)
      .add("window", options.window)
      .add("batch", options.batch)
      .add("accumulate", options.accumulate)
      .add("norm", options.norm)
      .add("steps", options.steps)
      .add("lr", options.rate_of(variant))
      .add("schedule", us::train::to_string(options.schedule))
      .add("optimizer", options.optimizer)
      .add("weight-decay", options.weight_decay)
      .add("seed", options.seed)
      .add("eval-every", options.eval_every)
      .add_data("text", corpus);
  if (options.replicas > 1) fingerprint.add("replicas", options.replicas);
  if (!options.wire.is_binary32()) fingerprint.add("wire", to_string(options.wire));
  if (!variant.simulation.empty()) fingerprint.add("simulate", variant.simulation);
  if (!variant.recipe.empty()) fingerprint.add("recipe", variant.recipe);
  return fingerprint;
}

bool save_checkpoint(const std::filesystem::path& path, const us::train::Fingerprint& training,
                     std::size_t step, const Record& record, us::nn::BertMlp& model,
                     AnyOptimiser& optimiser, us::RecipeOfTape* recipe) {
  if (!fault_of(record).empty()) return false;
  State state{model, optimiser, recipe, step, us::Array<double>({record.points.size(), 2})};
  double* next = state.points.mutable_data();
  for (const Point& point : record.points) {
    *next++ = point.training_bpc;
    *next++ = point.validation_sample_bpc;
  }
  *state.loss_sum.mutable_data() = record.loss_sum;
  return us::train::Checkpoints::in_file(path, training).save(step, state);
}

std::optional<std::size_t> step_of_checkpoint(const std::filesystem::path& path,
                                              const us::train::Fingerprint& training) {
  const auto checkpoint = us::train::Checkpoints::in_file(path, training).latest();
  return checkpoint ? std::optional<std::size_t>(checkpoint->step()) : std::nullopt;
}

std::size_t load_checkpoint(const Options& options, const us::train::Fingerprint& training,
                            Record& record, us::nn::BertMlp& model, AnyOptimiser& optimiser,
                            us::RecipeOfTape* recipe) {
  us::train::Checkpoint checkpoint = open_checkpoint(options.resume);
  us::train::SafetensorsFile& file = checkpoint.file();
  const std::size_t step = checkpoint.step();
  try {
    checkpoint.require_training(training);
    require_step(options, step);
    const us::Shape shape{step / options.eval_every, 2};
    State state{model, optimiser, recipe, step, file.tensor<double>("record.points", shape)};
    us::train::load_state(file, state, [&] {
      state.check(file.path());
      Record loaded;
      loaded.loss_sum = *state.loss_sum.data();
      loaded.loss_count = step % options.eval_every;
      for (std::size_t i = 0; i < shape[0]; ++i) {
        const double* point = state.points.row(i);
        loaded.points.push_back({(i + 1) * options.eval_every, point[0], point[1]});
      }
      if (const std::string fault = fault_of(loaded); !fault.empty()) {
        throw us::FileError(file.path(), fault);
      }
      record = std::move(loaded);
    });
  } catch (const us::FileError& error) {
    throw std::invalid_argument(std::string("--resume ") + error.what());
  }
  return step;
}

}  // namespace bert_mlp
