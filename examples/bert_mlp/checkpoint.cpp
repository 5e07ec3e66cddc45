// SPDX-License-Identifier: MIT
#include "checkpoint.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <sstream>
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
#include "unit_scaling/train/safetensors.hpp"
#include "unit_scaling/train/text_corpus.hpp"
#include "unit_scaling/train/training_state.hpp"

namespace bert_mlp {

namespace {

/// What a fingerprint says, by key.
std::map<std::string, std::string> values_of(const std::string& fingerprint) {
  std::map<std::string, std::string> values;
  std::istringstream words(fingerprint);
  for (std::string word; words >> word;) {
    const std::size_t equals = std::min(word.find('='), word.size() - 1);
    values[word.substr(0, equals)] = word.substr(equals + 1);
  }
  return values;
}

/// What two fingerprints differ in: "steps is 12 there and 40 here, ...".
std::string fingerprint_difference(const std::string& there, const std::string& here) {
  auto there_values = values_of(there);
  auto here_values = values_of(here);
  for (const auto& [key, value] : there_values) here_values.try_emplace(key, "not set");
  std::string text;
  for (const auto& [key, value] : here_values) {
    const std::string& other = there_values.try_emplace(key, "not set").first->second;
    if (other == value) continue;
    text += text.empty() ? "" : ", ";
    text += key == "text" ? "the text is another"
                          : us::printable(key) + " is " + us::printable(other) + " there and " +
                                us::printable(value) + " here";
    constexpr std::size_t long_enough = 1000;  // what is there may be anything
    if (text.size() > long_enough) return text + ", and more";
  }
  return text.empty() ? "the same, but written in another way" : text;
}

[[nodiscard]] bool is_finite(const us::Array<float>& array) {
  const auto elements = array.span();
  return std::all_of(elements.begin(), elements.end(),
                     [](float element) { return std::isfinite(element); });
}

/// Whether every parameter is finite.
[[nodiscard]] bool is_model_finite(us::nn::BertMlp& model) {
  bool finite = true;
  model.for_each_parameter(
      [&](const us::Parameter& parameter) { finite = finite && is_finite(parameter.floats()); });
  return finite;
}

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

/// Opens the file that --resume names.
/// @throws std::invalid_argument if it is no checkpoint of this program.
us::train::SafetensorsFile open_file(const std::filesystem::path& path) {
  std::error_code error;
  if (std::filesystem::is_directory(path, error)) {
    const std::filesystem::path inside = path / "checkpoint.safetensors";
    throw std::invalid_argument(
        named(path) + (std::filesystem::exists(inside, error)
                           ? ": is a folder; give the checkpoint in it, " + shell_word(inside)
                           : ": is a folder, and has no checkpoint.safetensors; give the file of a "
                             "checkpoint"));
  }
  auto file = [&] {
    try {
      return us::train::SafetensorsFile(path);
    } catch (const us::FileError& file_error) {
      throw std::invalid_argument(std::string("--resume ") + file_error.what());
    }
  }();
  for (const char* key : {"training", "step"}) {
    if (!file.metadata().contains(key)) {
      throw std::invalid_argument(named(path) + ": is no checkpoint of bert_mlp");
    }
  }
  return file;
}

/// Opens the checkpoint that `options` goes on from.
/// @throws std::invalid_argument if it is none, of another training, or beyond where to stop.
us::train::SafetensorsFile open_checkpoint(const Options& options, const std::string& fingerprint) {
  const std::string name = named(options.resume);
  us::train::SafetensorsFile file = open_file(options.resume);
  const auto& metadata = file.metadata();
  if (metadata.at("training") != fingerprint) {
    throw std::invalid_argument(name + ": is of another training: " +
                                fingerprint_difference(metadata.at("training"), fingerprint));
  }
  std::size_t step = 0;
  if (!read_number(metadata.at("step"), step) || step > options.steps) {
    throw std::invalid_argument(name + ": is of step " + us::in_quotes(metadata.at("step")) +
                                ", expected a whole number from 0 to " +
                                std::to_string(options.steps));
  }
  if (options.stop_at && step > *options.stop_at) {
    throw std::invalid_argument("--stop-at " + std::to_string(*options.stop_at) +
                                ": the checkpoint is of step " + std::to_string(step));
  }
  return file;
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

  /// @throws std::invalid_argument for what no training leaves.
  void check() {
    us::train::for_each_state(*this, [&]<class T>(const std::string& name, const T& state) {
      if constexpr (std::is_same_v<T, us::Array<float>>) {
        const auto elements = state.span();
        if (!is_finite(state)) {
          throw std::invalid_argument("array " + us::in_quotes(name) + " is not finite");
        }
        if (name.starts_with("optimiser.second_moment.") &&
            std::any_of(elements.begin(), elements.end(), [](float each) { return each < 0; })) {
          throw std::invalid_argument("array " + us::in_quotes(name) + " has negative squares");
        }
      }
    });
  }
};

}  // namespace

CheckpointVariant variant_of_checkpoint(const std::filesystem::path& path) {
  const auto values = values_of(open_file(path).metadata().at("training"));
  if (!values.contains("precision") || !values.contains("scaling")) {
    throw std::invalid_argument(named(path) + ": is no checkpoint of bert_mlp");
  }
  const auto if_there = [&](const char* key) {
    const auto found = values.find(key);
    return found == values.end() ? std::string() : found->second;
  };
  return {values.at("precision"), values.at("scaling"), if_there("simulate"), if_there("recipe")};
}

std::string checkpoint_fingerprint(const Options& options, const Variant& variant,
                                   const us::train::TextCorpus& corpus) {
  std::uint64_t hash = 0xcbf29ce484222325;  // FNV-1a over the ids of the text
  for (const auto part : {corpus.training(), corpus.validation()}) {
    for (const std::int32_t id : part) {
      hash = (hash ^ static_cast<std::uint64_t>(id)) * 0x100000001b3;
    }
  }
  std::ostringstream text;
  text << "precision=" << variant.precision << " scaling=" << variant.scaling_name()
       << " hidden=" << options.hidden_size << " layers=" << options.layers
       << " window=" << options.window << " batch=" << options.batch
       << " accumulate=" << options.accumulate << " norm=" << options.norm
       << " steps=" << options.steps << " lr=" << exact_text(options.rate_of(variant))
       << " schedule=" << us::train::to_string(options.schedule)
       << " optimizer=" << options.optimizer << " weight-decay=" << exact_text(options.weight_decay)
       << " seed=" << options.seed << " eval-every=" << options.eval_every << " text=" << std::hex
       << hash;
  if (!variant.simulation.empty()) text << " simulate=" << variant.simulation;
  if (!variant.recipe.empty()) text << " recipe=" << variant.recipe;
  return text.str();
}

bool save_checkpoint(const std::filesystem::path& path, const std::string& fingerprint,
                     std::size_t step, const Record& record, us::nn::BertMlp& model,
                     AnyOptimiser& optimiser, us::RecipeOfTape* recipe) {
  if (!is_model_finite(model) || !fault_of(record).empty()) return false;
  State state{model, optimiser, recipe, step, us::Array<double>({record.points.size(), 2})};
  double* next = state.points.mutable_data();
  for (const Point& point : record.points) {
    *next++ = point.training_bpc;
    *next++ = point.validation_sample_bpc;
  }
  *state.loss_sum.mutable_data() = record.loss_sum;
  us::train::save_state(path, state, {{"training", fingerprint}, {"step", std::to_string(step)}});
  return true;
}

std::optional<std::size_t> step_of_checkpoint(const std::filesystem::path& path,
                                              const std::string& fingerprint) {
  try {
    const auto file = open_file(path);
    std::size_t step = 0;
    if (file.metadata().at("training") == fingerprint &&
        read_number(file.metadata().at("step"), step)) {
      return step;
    }
  } catch (const std::invalid_argument&) {  // there is none, or it is no checkpoint
  }
  return std::nullopt;
}

std::size_t load_checkpoint(const Options& options, const std::string& fingerprint, Record& record,
                            us::nn::BertMlp& model, AnyOptimiser& optimiser,
                            us::RecipeOfTape* recipe) {
  us::train::SafetensorsFile file = open_checkpoint(options, fingerprint);
  const std::size_t step = std::stoull(file.metadata().at("step"));
  try {
    const us::Shape shape{step / options.eval_every, 2};
    State state{model, optimiser, recipe, step, file.tensor<double>("record.points", shape)};
    us::train::load_state(file, state, [&] {
      state.check();
      Record loaded;
      loaded.loss_sum = *state.loss_sum.data();
      loaded.loss_count = step % options.eval_every;
      for (std::size_t i = 0; i < shape[0]; ++i) {
        const double* point = state.points.row(i);
        loaded.points.push_back({(i + 1) * options.eval_every, point[0], point[1]});
      }
      if (const std::string fault = fault_of(loaded); !fault.empty()) {
        throw std::invalid_argument(fault);
      }
      record = std::move(loaded);
    });
  } catch (const us::FileError& error) {
    throw std::invalid_argument(std::string("--resume ") + error.what());
  } catch (const std::logic_error& error) {
    throw std::invalid_argument("--resume " + quoted_path(file.path()) + ": " + error.what());
  }
  return step;
}

}  // namespace bert_mlp
