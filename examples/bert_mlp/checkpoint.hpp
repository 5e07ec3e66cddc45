// SPDX-License-Identifier: MIT
// Saves and takes up a training: master weights, optimiser state, the number of steps done and the
// curves so far. There is no other state; batches and masks are functions of the seed and the step.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <set>
#include <sstream>
#include <stdexcept>
#include <string>

#include "one_line.hpp"
#include "options.hpp"
#include "record.hpp"
#include "unit_scaling/autograd/parameter.hpp"
#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/file_error.hpp"
#include "unit_scaling/core/printable.hpp"
#include "unit_scaling/train/safetensors.hpp"
#include "unit_scaling/train/text_corpus.hpp"

namespace bert_mlp {

/// Everything that must be the same for a resumed run to be the run that was stopped: "key=value",
/// with spaces between.
inline std::string checkpoint_fingerprint(const Options& options, const Variant& variant,
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
       << " accumulate=" << options.accumulate
       << " norm=" << (options.norm == us::nn::NormPlacement::pre ? "pre" : "post")
       << " steps=" << options.steps << " lr=" << exact_text(options.rate_of(variant))
       << " schedule=" << us::train::to_string(options.schedule)
       << " optimizer=" << options.optimizer << " weight-decay=" << exact_text(options.weight_decay)
       << " seed=" << options.seed << " eval-every=" << options.eval_every << " text=" << std::hex
       << hash;
  if (!variant.simulation.empty()) text << " simulate=" << variant.simulation;
  return text.str();
}

/// What two fingerprints differ in: "steps is 12 there and 40 here, ...".
inline std::string fingerprint_difference(const std::string& there, const std::string& here) {
  const auto read = [](const std::string& fingerprint) {
    std::map<std::string, std::string> values;
    std::istringstream words(fingerprint);
    for (std::string word; words >> word;) {
      const std::size_t equals = std::min(word.find('='), word.size() - 1);
      values[word.substr(0, equals)] = word.substr(equals + 1);
    }
    return values;
  };
  auto there_values = read(there);
  auto here_values = read(here);
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

[[nodiscard]] inline bool is_finite(const us::Array<float>& array) {
  const auto elements = array.span();
  return std::all_of(elements.begin(), elements.end(),
                     [](float element) { return std::isfinite(element); });
}

/// Whether every parameter is finite.
template <class Model> [[nodiscard]] bool is_model_finite(Model& model) {
  bool finite = true;
  model.for_each_parameter(
      [&](const us::Parameter& parameter) { finite = finite && is_finite(parameter.value); });
  return finite;
}

/// Writes a checkpoint, unless the model is lost: one that can be gone on with is worth more.
/// @returns whether it did.
template <class Model, class Optimiser>
bool save_checkpoint(const std::filesystem::path& path, const std::string& fingerprint,
                     std::size_t step, const Record& record, Model& model, Optimiser& optimiser) {
  if (!is_model_finite(model)) return false;
  us::train::SafetensorsWriter writer;
  writer.set_metadata("training", fingerprint);
  writer.set_metadata("step", std::to_string(step));
  add_record(writer, record);
  model.for_each_parameter([&](const us::Parameter& parameter) {
    writer.add("parameter." + parameter.name, parameter.value);
  });
  optimiser.for_each_state([&](const std::string& name, const us::Array<float>& state) {
    writer.add("optimiser." + name, state);
  });
  writer.write(path);
  return true;
}

/// Opens the checkpoint that `options` goes on from.
/// @throws std::invalid_argument if it is none, of another training, or beyond where to stop.
inline us::train::SafetensorsFile open_checkpoint(const Options& options,
                                                  const std::string& fingerprint) {
  const std::string name = "--resume " + quoted_path(options.resume.string());
  auto file = [&] {
    try {
      return us::train::SafetensorsFile(options.resume);
    } catch (const us::FileError& error) {
      throw std::invalid_argument(std::string("--resume ") + error.what());
    }
  }();
  const auto& metadata = file.metadata();
  for (const char* key : {"training", "step"}) {
    if (!metadata.contains(key)) {
      throw std::invalid_argument(name + ": is no checkpoint of bert_mlp");
    }
  }
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

/// Takes up a training.
/// @param record set to the curves up to the checkpoint.
/// @returns the step to go on with.
/// @throws std::invalid_argument if the checkpoint is none of this model, or has other content than
///         a training leaves.
template <class Model, class Optimiser>
std::size_t load_checkpoint(const Options& options, us::train::SafetensorsFile file, Record& record,
                            Model& model, Optimiser& optimiser) {
  std::set<std::string> unknown(file.names().begin(), file.names().end());
  const auto load = [&](const std::string& name, us::Array<float>& array) {
    array = file.tensor<float>(name, array.shape());
    if (!is_finite(array)) {
      throw std::invalid_argument("array " + us::in_quotes(name) + " is not finite");
    }
    unknown.erase(name);
  };
  try {
    const std::size_t step = std::stoull(file.metadata().at("step"));
    record = record_of(file, step, options.eval_every);
    for (const char* name : {"record.points", "record.loss_sum"}) unknown.erase(name);
    model.for_each_parameter(
        [&](us::Parameter& parameter) { load("parameter." + parameter.name, parameter.value); });
    optimiser.for_each_state([&](const std::string& name, us::Array<float>& state) {
      load("optimiser." + name, state);
      const auto elements = state.span();
      if (name.starts_with("second_moment.") &&
          std::any_of(elements.begin(), elements.end(), [](float each) { return each < 0; })) {
        throw std::invalid_argument("array " + us::in_quotes("optimiser." + name) +
                                    " has negative squares");
      }
    });
    if (!unknown.empty()) {
      throw std::invalid_argument("has an array " + us::in_quotes(*unknown.begin()) +
                                  ", which this model does not");
    }
    optimiser.set_steps(step);
    return step;
  } catch (const us::FileError& error) {
    throw std::invalid_argument(std::string("--resume ") + error.what());
  } catch (const std::logic_error& error) {
    throw std::invalid_argument("--resume " + quoted_path(file.path()) + ": " + error.what());
  }
}

}  // namespace bert_mlp
