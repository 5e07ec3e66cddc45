// SPDX-License-Identifier: MIT
// Whole trainings of a small model by the reference library's optimisers.
#include <algorithm>
#include <cstdint>
#include <optional>
#include <set>
#include <span>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "op_vectors.hpp"
#include "unit_scaling/ops/cross_entropy.hpp"
#include "unit_scaling/ops/gelu.hpp"
#include "unit_scaling/ops/linear.hpp"
#include "unit_scaling/ops/linear_readout.hpp"
#include "unit_scaling/ops/silu.hpp"
#include "unit_scaling/optim/adam.hpp"
#include "unit_scaling/optim/sgd.hpp"

namespace peer_vectors {
namespace optimiser_steps_vectors_test {

using namespace unit_scaling;
using Fp32 = precision::fp32;

/// A layer as the file writes it: "linear 8->12 bias to_output_scale", "linear_readout 12->5 bias",
/// "gelu", "silu"; its parameters are `param:NUMBER.weight` and `.bias`.
struct Layer {
  std::string kind;
  Scaling scaling = scaling::umup;
  std::optional<Parameter> weight;
  std::optional<Parameter> bias;

  [[nodiscard]] Variable<Fp32> operator()(const Variable<Fp32>& x) const {
    if (kind == "gelu") return ops::gelu(x, {.scaling = scaling});
    if (kind == "silu") return ops::silu(x, {.scaling = scaling});
    const auto apply = [&](const auto& op, const auto& attributes) {
      Tape<Fp32>& tape = x.tape();
      return bias ? op(x, tape.parameter(*weight), tape.parameter(*bias), attributes)
                  : op(x, tape.parameter(*weight), attributes);
    };
    if (kind == "linear") return apply(ops::linear, ops::Linear{.scaling = scaling});
    return apply(ops::linear_readout, ops::LinearReadout{.scaling = scaling});
  }
};

Array<float> floats(const Json& json) {
  const Tensor values = tensor(json);
  Array<float> result(values.shape);
  std::transform(values.data.begin(), values.data.end(), result.mutable_data(),
                 [](double written) { return static_cast<float>(exact_input(written)); });
  return result;
}

Layer parse_layer(const std::string& text, const std::string& number, const Json& inputs) {
  std::istringstream words(text);
  Layer layer;
  words >> layer.kind;
  const bool is_readout = layer.kind == "linear_readout";
  if (layer.kind != "linear" && !is_readout && layer.kind != "gelu" && layer.kind != "silu") {
    throw std::runtime_error("layer '" + layer.kind + "' is not known");
  }
  for (std::string word; words >> word;) {
    if (word.find("->") != std::string::npos) {
      layer.weight = Parameter{number + ".weight", floats(inputs.at("param:" + number + ".weight")),
                               is_readout ? ParameterKind::output : ParameterKind::weight};
    } else if (word == "bias") {
      layer.bias = Parameter{number + ".bias", floats(inputs.at("param:" + number + ".bias")),
                             ParameterKind::bias};
    } else {
      layer.scaling.constraint = named_constraint(word);
    }
  }
  return layer;
}

/// @throws std::runtime_error naming an input that is neither data nor a parameter of a layer.
void require_known_inputs(const Json& inputs, const std::vector<Layer>& layers) {
  std::set<std::string> names{"x", "y"};
  for (const Layer& layer : layers) {
    for (const auto* parameter : {&layer.weight, &layer.bias}) {
      if (*parameter) names.insert("param:" + (*parameter)->name);
    }
  }
  require_known(inputs, {names.begin(), names.end()});
}

/// The parameters of a case but for those that are null, which stand for the default.
/// @throws std::runtime_error naming one that this comparison would ignore.
Json known_params(const Json& one_case) {
  const std::set<std::string> known{
      "lr",       "steps", "layers", "independent_weight_decay", "weight_decay", "momentum",
      "nesterov", "betas", "eps",    "readout_constraint"};
  Json result;
  for (const auto& [name, value] : one_case.at("params").items()) {
    if (!known.contains(name)) {
      throw std::runtime_error("'" + name + "' among the params is not known");
    }
    if (!value.is_null()) result[name] = value;
  }
  return result;
}

/// Whether SGD is told that the read-out's gradient is scaled as its output.
bool readout_is_constrained(const Json& params) {
  const std::string name = params.value("readout_constraint", "");
  if (name.empty() || name == "to_output_scale") return !name.empty();
  throw std::runtime_error("readout_constraint '" + name + "' is not known");
}

/// The peer's weight decay acts on every parameter; an independent one is divided by the
/// parameter's learning rate beforehand, and then is what its optimiser makes of a weight decay.
std::vector<optim::ParameterGroup> groups_of(std::vector<Layer>& layers, const Json& params,
                                             bool is_sgd) {
  const auto rate = params.at("lr").get<double>();
  const double decay = params.value("weight_decay", 0.0);
  std::vector<optim::ParameterGroup> groups;
  for (Layer& layer : layers) {
    for (auto* parameter : {&layer.weight, &layer.bias}) {
      if (!*parameter) continue;
      Parameter& each = **parameter;
      const double factor =
          is_sgd ? optim::sgd_learning_rate_factor(Rule::umup, each, readout_is_constrained(params))
                 : optim::learning_rate_factor(Rule::umup, each);
      const bool independent = params.value("independent_weight_decay", true);
      groups.push_back(
          {.parameters = {&each}, .weight_decay = independent ? decay / (rate * factor) : decay});
    }
  }
  return groups;
}

template <class Optimiser>
Failures train(std::vector<Layer>& layers, Optimiser optimiser, const Json& params,
               const Json& one_case) {
  const auto steps = params.at("steps").get<std::size_t>();
  const Json& inputs = one_case.at("inputs");
  const Array<float> x = floats(inputs.at("x"));
  const Tensor y = tensor(inputs.at("y"));
  const std::vector<std::int32_t> labels(y.data.begin(), y.data.end());
  Tape<Fp32> tape;
  Failures failures;
  const auto compare = [&](const std::string& what, const Tensor& expected, const Shape& shape,
                           std::span<const float> actual) {
    const std::string text = difference(expected, shape, actual, tolerance<Fp32>);
    if (!text.empty()) failures.push_back(what + ": " + text);
  };
  std::vector<float> losses;
  for (std::size_t step = 0; step < steps; ++step) {
    tape.clear();
    Variable<Fp32> value = tape.constant(x);
    for (const Layer& layer : layers) value = layer(value);
    const auto loss = ops::cross_entropy(
        value, Array<std::int32_t>({labels.size()}, std::span(labels)), {.scaling = scaling::umup});
    losses.push_back(*loss.value().data());
    tape.backward(loss);
    optimiser.step(tape, params.at("lr").get<double>());
  }
  compare("losses", {Shape{steps}, one_case.at("losses").get<std::vector<double>>()}, Shape{steps},
          losses);
  for (const auto& [name, expected] : one_case.at("outputs").items()) {
    bool found = false;
    for (const optim::ParameterSetting& each : optimiser.settings()) {
      if (each.parameter->name != name) continue;
      found = true;
      compare(name, tensor(expected), each.parameter->value.shape(), each.parameter->value.span());
    }
    if (!found) failures.push_back("the model has no parameter '" + name + "'");
  }
  return failures;
}

Failures run(const Json& one_case) {
  require_known(one_case, {"params", "inputs", "losses", "outputs"});
  const Json params = known_params(one_case);
  std::vector<Layer> layers;
  for (const Json& text : params.at("layers")) {
    layers.push_back(
        parse_layer(text.get<std::string>(), std::to_string(layers.size()), one_case.at("inputs")));
  }
  require_known_inputs(one_case.at("inputs"), layers);
  // The case says which optimiser in its name alone.
  const auto name = one_case.at("name").get<std::string>();
  const bool is_sgd = name.starts_with("sgd");
  const auto groups = groups_of(layers, params, is_sgd);
  if (is_sgd) {
    return train(layers,
                 optim::Sgd(groups, {.momentum = params.value("momentum", 0.0),
                                     .nesterov = params.value("nesterov", false),
                                     .rule = Rule::umup,
                                     .readout_is_constrained = readout_is_constrained(params)}),
                 params, one_case);
  }
  const auto betas = params.value("betas", std::vector<double>{0.9, 0.999});
  optim::Adam::Options options{.beta1 = betas.at(0),
                               .beta2 = betas.at(1),
                               .epsilon = params.value("eps", 1e-8),
                               .decay = optim::WeightDecay::coupled,
                               .rule = Rule::umup};
  if (name.starts_with("adamw")) {
    options.decay = optim::WeightDecay::decoupled;
    return train(layers, optim::AdamW(groups, options), params, one_case);
  }
  if (!name.starts_with("adam")) throw std::runtime_error("optimiser '" + name + "' is not known");
  return train(layers, optim::Adam(groups, options), params, one_case);
}

const bool registered = runners().emplace("optimiser_steps", run).second;

}  // namespace optimiser_steps_vectors_test
}  // namespace peer_vectors
