// SPDX-License-Identifier: MIT
/// @file
/// Layer train: plain weights in safetensors files, read into a unit-scaled model and written from
/// one.
///
/// Needs nlohmann/json, so it is not in the umbrella header.
// unit_scaling: optional
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <filesystem>
#include <functional>
#include <iterator>
#include <set>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "unit_scaling/autograd/parameter.hpp"
#include "unit_scaling/core/arithmetic.hpp"
#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/file_error.hpp"
#include "unit_scaling/core/printable.hpp"
#include "unit_scaling/core/shape.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/formats/catalogue.hpp"
#include "unit_scaling/train/safetensors.hpp"
#include "unit_scaling/train/safetensors_shards.hpp"
#include "unit_scaling/train/safetensors_types.hpp"
#include "unit_scaling/train/weight_folding.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::train {

/// The names of the arrays that are a parameter, stacked along its first extent and of equal size:
/// one, or three where a file has queries, keys and values apart. Empty: the parameter's own.
using TensorNames = std::function<std::vector<std::string>(const std::string& parameter)>;

/// What becomes of numbers of a file that are infinite or NaN.
enum class NotFinite { refuse, keep };

namespace detail {

/// The file that has an array.
[[nodiscard]] inline const std::string& path_of(const SafetensorsFile& file,
                                                const std::string& /*name*/) {
  return file.path();
}
[[nodiscard]] inline const std::string& path_of(SafetensorsShards& shards,
                                                const std::string& name) {
  return shards.shard_of(name).path();
}

/// The names of a parameter's arrays.
/// @throws std::invalid_argument unless its first extent can be divided among them.
[[nodiscard]] inline std::vector<std::string> part_names(const TensorNames& names,
                                                         const Parameter& parameter) {
  auto parts = names ? names(parameter.name) : std::vector{parameter.name};
  const Shape shape = parameter.shape();
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

/// Throws unless all numbers of a weight are finite.
inline void require_finite(const std::string& path, const std::string& name,
                           std::span<const float> weight) {
  const auto is_finite = [](float x) { return std::isfinite(x); };
  const auto first = std::find_if_not(weight.begin(), weight.end(), is_finite);
  if (first == weight.end()) return;
  const auto count = std::count_if(first, weight.end(), [&](float x) { return !is_finite(x); });
  throw FileError(path, "array " + in_quotes(name) + " has " + std::to_string(count) + " of its " +
                            std::to_string(weight.size()) +
                            " numbers infinite or NaN, the first is number " +
                            std::to_string(first - weight.begin()) + ", " +
                            (std::isnan(*first) ? "a NaN" : "an infinity") +
                            "; NotFinite::keep would take them");
}

/// Reads an array of any floating-point type, F64 rounded.
/// @throws FileError as `SafetensorsFile::tensor`, if the type is another, and if a finite number
///         of an F64 leaves the range of a float.
template <class File>
void read_weight(File& file, const std::string& name, const Shape& shape, NotFinite not_finite,
                 float* target) {
  const DefaultArithmetic arithmetic;
  const std::string& type = file.info(name).type;
  const std::string path = path_of(file, name);
  const bool is_number =
      any_safetensors_type([&]<class T>(std::type_identity<T> /*type*/, std::string_view candidate,
                                        std::size_t /*rank*/) {
        if constexpr (Storage<T>) {
          if (candidate != type) return false;
          const auto array = file.template tensor<T>(name, shape);
          std::transform(array.data(), array.data() + array.size(), target, [&](T element) {
            const auto rounded = static_cast<float>(element);
            if constexpr (std::is_same_v<T, double>) {
              if (std::isfinite(element) && !std::isfinite(rounded)) {
                throw FileError(
                    path, "array " + in_quotes(name) + " has a number beyond the range of a float");
              }
            }
            return rounded;
          });
          return true;
        } else {
          return false;
        }
      });
  if (!is_number) {
    throw FileError(path, "array " + in_quotes(name) + " is of type " + type +
                              ", expected floating-point numbers: F64, F32, F16, BF16, or F8, F6 "
                              "or F4 of any kind");
  }
  if (not_finite == NotFinite::refuse) require_finite(path, name, {target, shape.size()});
}

/// `import_plain_weights` from one file or from several.
template <class Unit, class File>
[[nodiscard]] std::vector<std::string> import_from(Unit& unit, File& file,
                                                   const WeightFolding& folding,
                                                   const TensorNames& names, NotFinite not_finite) {
  std::vector<std::pair<Parameter*, Array<float>>> weights;
  std::set<std::string> used;
  visit_parameters(unit, [&](Parameter& each) {
    const auto parts = part_names(names, each);
    const Shape shape = part_shape(each.shape(), parts.size());
    Parameter plain{each.name, Array<float>(each.shape())};
    float* target = plain.value.mutable_data();
    for (const std::string& part : parts) {
      read_weight(file, part, shape, not_finite, target);
      target += shape.size();
      used.insert(part);
    }
    weights.emplace_back(&each, folding.unit_weight(plain));
  });
  std::vector<std::string> unused;
  std::copy_if(file.names().begin(), file.names().end(), std::back_inserter(unused),
               [&](const std::string& name) { return !used.contains(name); });
  // From here on nothing fails.
  for (auto& [parameter, weight] : weights) parameter->set_floats(std::move(weight));
  return unused;
}

}  // namespace detail

/// Reads the weights of a plain model, such as PyTorch saves them, into a unit-scaled one: for each
/// parameter the array or arrays of its name and shape, of any floating-point type of the format,
/// divided by its factor and rounded once to float (F64 twice). Nothing is known of scales that a
/// file keeps apart, as some do with F8: they are among the arrays that no parameter asked for.
/// @param not_finite what becomes of infinities and NaN.
/// @returns the names of the arrays that no parameter asked for: best empty.
/// @throws FileError naming file and array, if one is missing, has another shape or type, or has
///         numbers that are infinite or NaN, or an F64 beyond the range of a float;
///         std::invalid_argument as `WeightFolding::unit_weight`, if two parameters have one name,
///         and if names are not such that the parameter can be divided among them. Nothing is
///         changed then.
template <class Unit>
[[nodiscard]] std::vector<std::string> import_plain_weights(
    Unit& unit, SafetensorsFile& file, const WeightFolding& folding, const TensorNames& names = {},
    NotFinite not_finite = NotFinite::refuse) {
  return detail::import_from(unit, file, folding, names, not_finite);
}
/// As above, of a model that is spread over several files.
template <class Unit>
[[nodiscard]] std::vector<std::string> import_plain_weights(
    Unit& unit, SafetensorsShards& shards, const WeightFolding& folding,
    const TensorNames& names = {}, NotFinite not_finite = NotFinite::refuse) {
  return detail::import_from(unit, shards, folding, names, not_finite);
}
/// As above, of either: a path that ends in ".index.json" is the index of several files.
/// @throws FileError if files cannot be opened or are not of their form.
template <class Unit>
[[nodiscard]] std::vector<std::string> import_plain_weights(
    Unit& unit, const std::filesystem::path& path, const WeightFolding& folding,
    const TensorNames& names = {}, NotFinite not_finite = NotFinite::refuse) {
  if (path.string().ends_with(".index.json")) {
    SafetensorsShards shards(path);
    return detail::import_from(unit, shards, folding, names, not_finite);
  }
  SafetensorsFile file(path);
  return detail::import_from(unit, file, folding, names, not_finite);
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
    const Shape shape = detail::part_shape(each.shape(), parts.size());
    const Array<float> plain = folding.plain_weight(each);
    for (std::size_t i = 0; i < parts.size(); ++i) {
      writer.add(parts[i],
                 Array<float>(shape, plain.span().subspan(i * shape.size(), shape.size())));
    }
  });
}

}  // namespace UNIT_SCALING_NAMESPACE::train

UNIT_SCALING_IEEE_END
