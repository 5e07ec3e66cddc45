// SPDX-License-Identifier: MIT
// Trainings of one model at several widths, lengths and precisions.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "law.hpp"
#include "recipe_table/settings.hpp"
#include "recipe_table/sweep.hpp"
#include "recipe_table/task.hpp"
#include "unit_scaling/autograd/recipe.hpp"
#include "unit_scaling/core/atomic_file.hpp"
#include "unit_scaling/formats/tile_maxima_encoding.hpp"
#include "unit_scaling/unit_scaling.hpp"

namespace precision_law {

namespace us = unit_scaling;

/// Whether narrow numbers are integers, int3 to int8, or floating, float4_e2m1fn to float8_e4m3fn.
enum class Elements { integer, floating };

[[nodiscard]] inline std::vector<int> bits_of(Elements elements) {
  return elements == Elements::integer ? std::vector<int>{3, 4, 6, 8}
                                       : std::vector<int>{4, 5, 6, 8};
}

[[nodiscard]] inline us::Format format_of(Elements elements, int bits) {
  static const std::map<int, std::string> floating{
      {4, "float4_e2m1fn"}, {5, "e2m2fn"}, {6, "float6_e2m3fn"}, {8, "float8_e4m3fn"}};
  return us::Format::parse(elements == Elements::integer ? "int" + std::to_string(bits)
                                                         : floating.at(bits));
}

/// Rounds what products read in the forward pass: weights with a scale for each row, activations
/// with one for the tensor, each from the largest magnitude. Gradients stay as they are.
class NarrowForward final : public us::Recipe {
 public:
  NarrowForward(Elements elements, std::optional<int> weight_bits,
                std::optional<int> activation_bits) {
    if (weight_bits) weight_ = format_of(elements, *weight_bits);
    if (activation_bits) activation_ = format_of(elements, *activation_bits);
  }

  [[nodiscard]] std::optional<us::OperandForms> operand(const us::OperandSite& site,
                                                        const us::EncodedArray& array) override {
    const bool is_weight = site.role == us::ops::OperandRole::weight;
    const auto& format = is_weight ? weight_ : activation_;
    if (site.role == us::ops::OperandRole::gradient || !format) return {};
    const auto scales = us::ScaleFormat::binary32;
    return us::OperandForms{us::encode_by_tile_maxima(
        array, *format,
        is_weight ? us::ScaleLayout::per_row(scales) : us::ScaleLayout::per_tensor(scales),
        us::ScaleRounding::round_up, {}, site.memory)};
  }

 private:
  std::optional<us::Format> weight_;
  std::optional<us::Format> activation_;
};

/// One place of the grid.
struct Cell {
  std::size_t hidden_size = 0;
  std::size_t steps = 0;
  std::optional<int> weight_bits = std::nullopt;
  std::optional<int> activation_bits = std::nullopt;

  [[nodiscard]] std::string name() const {
    const auto text = [](std::optional<int> bits) { return bits ? std::to_string(*bits) : "32"; };
    return "hidden " + std::to_string(hidden_size) + ", steps " + std::to_string(steps) +
           ", weights " + text(weight_bits) + ", activations " + text(activation_bits);
  }
};

/// Every width and length, in binary32 and with narrow weights, activations, and both.
[[nodiscard]] inline std::vector<Cell> grid(const std::vector<std::size_t>& hidden_sizes,
                                            const std::vector<std::size_t>& steps,
                                            Elements elements) {
  std::vector<Cell> cells;
  for (const std::size_t hidden_size : hidden_sizes) {
    for (const std::size_t length : steps) {
      cells.push_back({hidden_size, length});
      for (const int bits : bits_of(elements)) {
        cells.push_back({hidden_size, length, bits});
        cells.push_back({hidden_size, length, std::nullopt, bits});
        cells.push_back({hidden_size, length, bits, bits});
      }
    }
  }
  return cells;
}

/// What a training gave.
struct Outcome {
  Training training;
  /// Losses of a model that was trained in binary32, with weights rounded to so many bits after it.
  std::map<int, double> rounded_after = {};
};

/// Trains a unit-scaled BertMlp, in binary32 but for what the cell says.
[[nodiscard]] inline Outcome train(const Cell& cell, Elements elements,
                                   recipe_table::Settings settings,
                                   const us::train::TextCorpus& corpus, std::uint64_t seed) {
  settings.hidden_size = cell.hidden_size;
  settings.steps = cell.steps;
  us::nn::Initialiser initialiser(seed, us::scaling::paper);
  recipe_table::BertMlpTask task(initialiser, corpus, settings, seed);
  us::optim::AdamW adam(
      us::optim::parameters_of(task.model()),
      {.weight_decay = 0.01, .decay = us::optim::WeightDecay::decoupled, .rule = us::Rule::paper});
  const us::train::Schedule schedule{.warmup_steps = settings.steps / 10 + 1,
                                     .total_steps = settings.steps,
                                     .decay = us::train::Schedule::Decay::linear};
  us::Tape<us::precision::fp32> tape;
  const bool is_narrow = cell.weight_bits || cell.activation_bits;
  if (is_narrow) tape.use_recipe(NarrowForward(elements, cell.weight_bits, cell.activation_bits));
  for (std::size_t step = 0; step < settings.steps; ++step) {
    tape.clear();
    const auto loss = task.training_loss(tape, step);
    tape.backward(loss);
    adam.step(tape, settings.unit_rate * schedule(step));
  }
  const auto validate = [&](const std::shared_ptr<NarrowForward>& recipe) {
    us::Tape<us::precision::fp32> inference(us::TapeMode::inference);
    inference.use_recipe(recipe);
    return task.validate(inference);
  };
  const auto recipe =
      is_narrow ? std::make_shared<NarrowForward>(elements, cell.weight_bits, cell.activation_bits)
                : nullptr;
  Outcome outcome{.training = {.tokens = static_cast<double>(settings.steps * settings.tokens),
                               .weight_bits = cell.weight_bits,
                               .activation_bits = cell.activation_bits,
                               .loss = validate(recipe)}};
  task.model().for_each_parameter([&](const us::Parameter& parameter) {
    outcome.training.parameters += static_cast<double>(parameter.shape().size());
  });
  if (is_narrow) return outcome;
  for (const int bits : bits_of(elements)) {
    outcome.rounded_after[bits] =
        validate(std::make_shared<NarrowForward>(elements, bits, std::nullopt));
  }
  return outcome;
}

/// The outcomes, in a file that a study which was stopped goes on with.
class Outcomes {
 public:
  /// @throws std::invalid_argument if the file has other settings, or is no file of outcomes.
  Outcomes(std::filesystem::path path, const std::string& settings)
      : path_(std::move(path)),
        document_(
            recipe_table::results_in(path_, settings, {{"cells", nlohmann::json::object()}})) {}

  [[nodiscard]] std::optional<Outcome> find(const Cell& cell) const {
    const auto found = document_["cells"].find(cell.name());
    if (found == document_["cells"].end()) return {};
    Outcome outcome{.training = {.parameters = found->at("parameters"),
                                 .tokens = found->at("tokens"),
                                 .weight_bits = cell.weight_bits,
                                 .activation_bits = cell.activation_bits,
                                 .loss = found->at("loss")}};
    for (const auto& [bits, loss] : found->at("rounded_after").items()) {
      outcome.rounded_after[std::stoi(bits)] = loss;
    }
    return outcome;
  }

  void add(const Cell& cell, const Outcome& outcome) {
    auto after = nlohmann::json::object();
    for (const auto& [bits, loss] : outcome.rounded_after) after[std::to_string(bits)] = loss;
    document_["cells"][cell.name()] = {{"parameters", outcome.training.parameters},
                                       {"tokens", outcome.training.tokens},
                                       {"loss", outcome.training.loss},
                                       {"rounded_after", after}};
    us::write_file(path_, document_.dump(1) + "\n");
  }

 private:
  std::filesystem::path path_;
  nlohmann::json document_;
};

}  // namespace precision_law
