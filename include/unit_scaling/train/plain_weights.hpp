// SPDX-License-Identifier: MIT
/// @file
/// Layer train: plain weights in a safetensors file, read into a unit-scaled model and written from
/// one.
///
/// Needs nlohmann/json, so it is not in the umbrella header.
// unit_scaling: optional
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <functional>
#include <map>
#include <span>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "unit_scaling/autograd/parameter.hpp"
#include "unit_scaling/core/arithmetic.hpp"
#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/shape.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/formats/catalogue.hpp"
#include "unit_scaling/train/safetensors.hpp"
#include "unit_scaling/train/weight_folding.hpp"

namespace UNIT_SCALING_NAMESPACE::train {

/// The names of the arrays that are a parameter, stacked along its first extent and of equal size:
/// one, or three where a file has queries, keys and values apart. Empty: the parameter's own.
using TensorNames = std::function<std::vector<std::string>(const std::string& parameter)>;

namespace detail {

/// The names of a parameter's arrays.
/// @throws std::invalid_argument unless its first extent can be divided among them.
[[nodiscard]] inline std::vector<std::string> part_names(const TensorNames& names,
                                                         const Parameter& parameter) {
  auto parts = names ? names(parameter.name) : std::vector{parameter.name};
  const Shape& shape = parameter.value.shape();
  if (parts.empty() || (parts.size() > 1 && (shape.rank() == 0 || shape[0] % parts.size() != 0))) {
    throw std::invalid_argument("plain weights: expected names of arrays that " + parameter.name +
                                " " + to_string(shape) + " can be divided among, got " +
                                std::to_string(parts.size()));
  }
  return parts;
}

/// The shape of each of the arrays.
[[nodiscard]] inline Shape part_shape(const Shape& shape, std::size_t parts) {
  if (parts == 1) return shape;
  std::array<std::size_t, Shape::max_rank> extents{};
  std::copy(shape.begin(), shape.end(), extents.begin());
  extents[0] /= parts;
  return Shape(std::span<const std::size_t>(extents.data(), shape.rank()));
}

/// Reads an array of type F64 (rounded), F32, F16 or BF16.
/// @throws std::runtime_error as `SafetensorsFile::tensor`, and if a finite number of an F64 leaves
///         the range of a float.
inline void read_weight(SafetensorsFile& file, const std::string& name, const Shape& shape,
                        float* target) {
  const DefaultArithmetic arithmetic;
  const auto convert = [&]<class T>(T /*type*/) {
    const auto array = file.tensor<T>(name, shape);
    std::transform(array.data(), array.data() + array.size(), target, [&](T element) {
      const auto rounded = static_cast<float>(element);
      if constexpr (std::is_same_v<T, double>) {
        if (std::isfinite(element) && !std::isfinite(rounded)) {
          throw std::runtime_error("'" + file.path() + "': array '" + name +
                                   "' has a number beyond the range of a float");
        }
      }
      return rounded;
    });
  };
  const std::string& type = file.info(name).type;
  if (type == "F64") return convert(double{});
  if (type == "F16") return convert(float16{});
  if (type == "BF16") return convert(bfloat16{});
  if (type == "F32") return convert(float{});
  throw std::runtime_error("'" + file.path() + "': array '" + name + "' is of type " + type +
                           ", expected F64, F32, F16 or BF16");
}

}  // namespace detail

/// Reads the weights of a plain model, such as PyTorch saves them, into a unit-scaled one: for each
/// parameter the array or arrays of its name and shape, of type F64, F32, F16 or BF16, divided by
/// its factor and rounded once to float (F64 twice).
/// @returns the names of the arrays that no parameter asked for: best empty.
/// @throws std::runtime_error naming file and array, if one is missing or has another shape or
///         type, or an F64 beyond the range of a float; std::invalid_argument as
///         `WeightFolding::unit_weight`, if two parameters have one name, and if names are not such
///         that the parameter can be divided among them. Nothing is changed then.
template <class Unit>
[[nodiscard]] std::vector<std::string> import_plain_weights(Unit& unit, SafetensorsFile& file,
                                                            const WeightFolding& folding,
                                                            const TensorNames& names = {}) {
  std::map<std::string, Array<float>> weights;
  std::vector<std::string> unused = file.names();
  detail::visit_parameters(unit, [&](const Parameter& each) {
    const auto parts = detail::part_names(names, each);
    const Shape shape = detail::part_shape(each.value.shape(), parts.size());
    Parameter plain{each.name, Array<float>(each.value.shape())};
    float* target = plain.value.mutable_data();
    for (const std::string& part : parts) {
      detail::read_weight(file, part, shape, target);
      target += shape.size();
      unused.erase(std::remove(unused.begin(), unused.end(), part), unused.end());
    }
    weights[each.name] = folding.unit_weight(plain);
  });
  detail::visit_parameters(unit,
                           [&](Parameter& each) { each.value = std::move(weights.at(each.name)); });
  return unused;
}

/// Adds the weights of a unit-scaled model to a file as those of the plain model, each as F32 and
/// rounded once.
/// @throws std::invalid_argument as `WeightFolding::plain_weight`, as `SafetensorsWriter::add`, and
///         if names are not such that the parameter can be divided among them.
template <class Unit>
void export_plain_weights(Unit& unit, SafetensorsWriter& writer, const WeightFolding& folding,
                          const TensorNames& names = {}) {
  unit.for_each_parameter([&](const Parameter& each) {
    const auto parts = detail::part_names(names, each);
    const Shape shape = detail::part_shape(each.value.shape(), parts.size());
    const Array<float> plain = folding.plain_weight(each);
    for (std::size_t i = 0; i < parts.size(); ++i) {
      writer.add(parts[i],
                 Array<float>(shape, plain.span().subspan(i * shape.size(), shape.size())));
    }
  });
}

}  // namespace UNIT_SCALING_NAMESPACE::train
