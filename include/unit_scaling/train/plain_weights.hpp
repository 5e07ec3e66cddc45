// SPDX-License-Identifier: MIT
/// @file
/// Layer train: plain weights in a safetensors file, read into a unit-scaled model and written from
/// one.
///
/// Needs nlohmann/json, so it is not in the umbrella header.
// unit_scaling: optional
#pragma once

#include <algorithm>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "unit_scaling/autograd/parameter.hpp"
#include "unit_scaling/core/array.hpp"
#include "unit_scaling/formats/catalogue.hpp"
#include "unit_scaling/train/safetensors.hpp"
#include "unit_scaling/train/weight_folding.hpp"

namespace unit_scaling::train {

/// What a parameter is called in a file. Empty: what it is called in the model.
using TensorName = std::function<std::string(const std::string& parameter)>;

namespace detail {

/// The array as float, if the file has it as F64 (rounded), F32, F16 or BF16.
[[nodiscard]] inline Array<float> read_weight(SafetensorsFile& file, const std::string& name,
                                              const Shape& shape) {
  const auto converted = [&]<class T>(T /*type*/) {
    const auto array = file.tensor<T>(name, shape);
    Array<float> result(shape);
    std::transform(array.data(), array.data() + array.size(), result.mutable_data(),
                   [](T element) { return static_cast<float>(element); });
    return result;
  };
  const std::string& type = file.info(name).type;
  if (type == "F64") return converted(double{});
  if (type == "F16") return converted(float16{});
  if (type == "BF16") return converted(bfloat16{});
  return file.tensor<float>(name, shape);  // which refuses all others
}

}  // namespace detail

/// Reads the weights of a plain model, such as PyTorch saves them, into a unit-scaled one: for each
/// parameter the array of its name and shape, of type F64, F32, F16 or BF16, divided by its factor
/// and rounded once to float (F64 twice).
/// @returns the names of the arrays that no parameter asked for: best empty.
/// @throws std::runtime_error naming file and array, if one is missing or has another shape or
///         type; std::invalid_argument as `WeightFolding::unit_weight`. Nothing is changed then.
template <class Unit>
[[nodiscard]] std::vector<std::string> import_plain_weights(Unit& unit, SafetensorsFile& file,
                                                            const WeightFolding& folding,
                                                            const TensorName& name = {}) {
  std::map<std::string, Array<float>> weights;
  std::vector<std::string> unused = file.names();
  unit.for_each_parameter([&](const Parameter& each) {
    const std::string in_file = name ? name(each.name) : each.name;
    const Parameter plain{each.name, detail::read_weight(file, in_file, each.value.shape())};
    weights[each.name] = folding.unit_weight(plain);
    unused.erase(std::remove(unused.begin(), unused.end(), in_file), unused.end());
  });
  unit.for_each_parameter([&](Parameter& each) { each.value = std::move(weights.at(each.name)); });
  return unused;
}

/// Adds the weights of a unit-scaled model to a file as those of the plain model, each as F32 and
/// rounded once.
/// @throws std::invalid_argument as `WeightFolding::plain_weight` and as `SafetensorsWriter::add`.
template <class Unit>
void export_plain_weights(Unit& unit, SafetensorsWriter& writer, const WeightFolding& folding,
                          const TensorName& name = {}) {
  unit.for_each_parameter([&](const Parameter& each) {
    writer.add(name ? name(each.name) : each.name, folding.plain_weight(each));
  });
}

}  // namespace unit_scaling::train
