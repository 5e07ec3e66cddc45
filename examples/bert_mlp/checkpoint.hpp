// SPDX-License-Identifier: MIT
// Saves and takes up a training: master weights, optimiser state and the number of steps done.
// There is no other state; batches and masks are functions of the seed and the step.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <sstream>
#include <stdexcept>
#include <string>

#include "options.hpp"
#include "unit_scaling/autograd/parameter.hpp"
#include "unit_scaling/train/safetensors.hpp"
#include "unit_scaling/train/text_corpus.hpp"

namespace bert_mlp {

/// Everything that must be the same for a resumed run to be the run that was stopped.
inline std::string checkpoint_fingerprint(const Options& options, const Variant& variant,
                                          const us::train::TextCorpus& corpus) {
  std::uint64_t hash = 0xcbf29ce484222325;  // FNV-1a over the ids of the text
  for (const auto part : {corpus.training(), corpus.validation()}) {
    for (const std::int32_t id : part) {
      hash = (hash ^ static_cast<std::uint64_t>(id)) * 0x100000001b3;
    }
  }
  std::ostringstream text;
  text << std::hexfloat << "precision=" << variant.precision
       << " scaling=" << variant.scaling_name() << " hidden=" << options.hidden_size
       << " layers=" << options.layers << " window=" << options.window << " batch=" << options.batch
       << " norm=" << (options.norm == us::nn::NormPlacement::pre ? "pre" : "post")
       << " steps=" << options.steps << " lr=" << options.rate_of(variant)
       << " schedule=" << us::train::to_string(options.schedule)
       << " optimizer=" << options.optimizer << " weight-decay=" << options.weight_decay
       << " seed=" << options.seed << " text=" << std::hex << hash;
  return text.str();
}

template <class Model, class Optimiser>
void save_checkpoint(const std::filesystem::path& path, const std::string& fingerprint,
                     std::size_t step, Model& model, Optimiser& optimiser) {
  us::train::SafetensorsWriter writer;
  writer.set_metadata("training", fingerprint);
  writer.set_metadata("step", std::to_string(step));
  model.for_each_parameter([&](const us::Parameter& parameter) {
    writer.add("parameter." + parameter.name, parameter.value);
  });
  optimiser.for_each_state([&](const std::string& name, const us::Array<float>& state) {
    writer.add("optimiser." + name, state);
  });
  writer.write(path);
}

/// @returns the step to go on with.
/// @throws std::invalid_argument if the checkpoint is of another training, or none.
template <class Model, class Optimiser>
std::size_t load_checkpoint(const std::filesystem::path& path, const std::string& fingerprint,
                            Model& model, Optimiser& optimiser) {
  try {
    us::train::SafetensorsFile file(path);
    const auto& metadata = file.metadata();
    if (!metadata.contains("training") || !metadata.contains("step")) {
      throw std::runtime_error("'" + path.string() + "' is no checkpoint of bert_mlp");
    }
    if (metadata.at("training") != fingerprint) {
      throw std::runtime_error("'" + path.string() + "' is of another training: it has " +
                               metadata.at("training") + "; asked for was " + fingerprint);
    }
    model.for_each_parameter([&](us::Parameter& parameter) {
      parameter.value = file.tensor<float>("parameter." + parameter.name, parameter.value.shape());
    });
    optimiser.for_each_state([&](const std::string& name, us::Array<float>& state) {
      state = file.tensor<float>("optimiser." + name, state.shape());
    });
    const std::size_t step = std::stoull(metadata.at("step"));
    optimiser.set_steps(step);
    return step;
  } catch (const std::exception& error) {
    throw std::invalid_argument(std::string("--resume: ") + error.what());
  }
}

}  // namespace bert_mlp
