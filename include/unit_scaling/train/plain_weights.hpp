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
#include <iterator>
#include <numeric>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "unit_scaling/autograd/parameter.hpp"
#include "unit_scaling/core/arithmetic.hpp"
#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/file_error.hpp"
#include "unit_scaling/core/printable.hpp"
#include "unit_scaling/core/shape.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/formats/catalogue.hpp"
#include "unit_scaling/train/safetensors.hpp"
#include "unit_scaling/train/safetensors_shards.hpp"
#include "unit_scaling/train/safetensors_types.hpp"
#include "unit_scaling/train/weight_folding.hpp"
#include "unit_scaling/train/weight_names.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::train {

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

/// An array of a file, and which part of a parameter it is.
struct ArrayPart {
  std::string name;
  std::size_t begin;  ///< its first element in the parameter
  Shape shape;        ///< of these rows of the parameter
  StoredAs stored_as;

  [[nodiscard]] Shape shape_in_file() const {
    return stored_as == StoredAs::transposed ? Shape{shape[1], shape[0]} : shape;
  }
};

/// The arrays of a parameter.
/// @throws DomainError unless it has rows that can be divided in these shares, or is a matrix where
///         it is to be transposed.
[[nodiscard]] inline std::vector<ArrayPart> parts_of(const WeightEntry& entry, const Shape& shape) {
  constexpr std::string_view name = "plain weights";
  const auto of_parameter = [&] { return entry.parameter + " " + to_string(shape); };
  require(entry.stored_as != StoredAs::transposed || shape.rank() == 2, name,
          "expected a matrix where an array is transposed, got ", of_parameter);
  if (entry.arrays.size() == 1) return {{entry.arrays.front().name, 0, shape, entry.stored_as}};
  std::size_t common = 0;
  std::size_t shares = 0;
  for (const StoredArray& array : entry.arrays) {
    common = std::gcd(common, array.share);
    shares += array.share;  // counted when the table was made
  }
  shares /= common;
  require(shape.rank() > 0 && shape[0] % shares == 0, name, "expected rows in multiples of ",
          shares, " for ", entry.arrays.size(), " arrays, got ", of_parameter);
  std::vector<ArrayPart> parts;
  std::size_t begin = 0;
  std::array<std::size_t, Shape::max_rank> extents{};
  std::copy(shape.begin(), shape.end(), extents.begin());
  for (const StoredArray& array : entry.arrays) {
    extents[0] = shape[0] / shares * (array.share / common);
    const Shape rows(std::span<const std::size_t>(extents.data(), shape.rank()));
    parts.push_back({array.name, begin, rows, entry.stored_as});
    begin += rows.size();
  }
  return parts;
}

/// A matrix (rows, columns) as one (columns, rows).
[[nodiscard]] inline Array<float> transpose(const Array<float>& matrix) {
  const std::size_t rows = matrix.rows();
  const std::size_t columns = matrix.columns();
  Array<float> result({columns, rows});
  float* const target = result.mutable_data();
  for (std::size_t row = 0; row < rows; ++row) {
    const float* const from = matrix.row(row);
    for (std::size_t column = 0; column < columns; ++column) {
      target[column * rows + row] = from[column];
    }
  }
  return result;
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

/// An array of any floating-point type, F64 rounded.
/// @throws FileError as `SafetensorsFile::tensor`, if the type is another, and if a finite number
///         of an F64 leaves the range of a float.
template <class File>
[[nodiscard]] Array<float> read_weight(File& file, const std::string& name, const Shape& shape,
                                       NotFinite not_finite) {
  const DefaultArithmetic arithmetic;
  const std::string& type = file.info(name).type;
  const std::string path = path_of(file, name);
  Array<float> weight;
  const bool is_number =
      any_safetensors_type([&]<class T>(std::type_identity<T> /*type*/, std::string_view candidate,
                                        std::size_t /*rank*/) {
        if constexpr (Storage<T>) {
          if (candidate != type) return false;
          const auto array = file.template tensor<T>(name, shape);
          weight = Array<float>(shape);
          float* const target = weight.mutable_data();
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
  if (not_finite == NotFinite::refuse) require_finite(path, name, weight.span());
  return weight;
}

/// The parameters of a model, each once, with their parts in a file.
/// @throws std::invalid_argument if two parameters have one name; DomainError as
///         `WeightNames::entries_of` and `parts_of`.
template <class Model>
[[nodiscard]] std::vector<std::pair<Parameter*, std::vector<ArrayPart>>> parameters_with_parts(
    Model& model, const WeightNames& names) {
  std::vector<Parameter*> parameters;
  std::vector<std::string> own_names;
  visit_parameters(model, [&](Parameter& each) {
    parameters.push_back(&each);
    own_names.push_back(each.name);
  });
  const std::vector<WeightEntry> entries = names.entries_of(own_names);
  std::vector<std::pair<Parameter*, std::vector<ArrayPart>>> result;
  for (std::size_t i = 0; i < entries.size(); ++i) {
    result.emplace_back(parameters[i], parts_of(entries[i], parameters[i]->shape()));
  }
  return result;
}

/// `import_plain_weights` from one file or from several.
template <class Unit, class File>
[[nodiscard]] std::vector<std::string> import_from(Unit& unit, File& file,
                                                   const WeightFolding& folding,
                                                   const WeightNames& names, NotFinite not_finite) {
  std::vector<std::pair<Parameter*, Array<float>>> weights;
  std::set<std::string> used;
  for (const auto& [parameter, parts] : parameters_with_parts(unit, names)) {
    Parameter plain{parameter->name, Array<float>(parameter->shape())};
    float* const target = plain.value.mutable_data();
    for (const ArrayPart& part : parts) {
      const Array<float> array = read_weight(file, part.name, part.shape_in_file(), not_finite);
      const Array<float> rows = part.stored_as == StoredAs::transposed ? transpose(array) : array;
      std::copy_n(rows.data(), rows.size(), target + part.begin);
      used.insert(part.name);
    }
    weights.emplace_back(parameter, folding.unit_weight(plain));
  }
  std::vector<std::string> unused;
  std::copy_if(file.names().begin(), file.names().end(), std::back_inserter(unused),
               [&](const std::string& name) { return !used.contains(name); });
  // From here on nothing fails.
  for (auto& [parameter, weight] : weights) parameter->set_floats(std::move(weight));
  return unused;
}

}  // namespace detail

/// Reads the weights of a plain model, such as PyTorch saves them, into a unit-scaled one: for each
/// parameter the array or arrays that `names` has for it, of its shape and of any floating-point
/// type of the format, divided by its factor and rounded once to float (F64 twice). Nothing is
/// known of scales that a file keeps apart, as some do with F8: they are among the arrays that no
/// parameter asked for.
/// @param folding `identity_folding(model)` for a model that is plain itself.
/// @param not_finite what becomes of infinities and NaN.
/// @returns the names of the arrays that no parameter asked for: best empty.
/// @throws FileError naming file and array, if one is missing, has another shape or type, or has
///         numbers that are infinite or NaN, or an F64 beyond the range of a float;
///         std::invalid_argument as `WeightFolding::unit_weight`, and if two parameters have one
///         name; DomainError as `WeightNames::entries_of`, if the rows of a parameter cannot be
///         divided among its arrays, and if one is to be transposed that is no matrix. Nothing is
///         changed then.
template <class Unit>
[[nodiscard]] std::vector<std::string> import_plain_weights(
    Unit& unit, SafetensorsFile& file, const WeightFolding& folding, const WeightNames& names = {},
    NotFinite not_finite = NotFinite::refuse) {
  return detail::import_from(unit, file, folding, names, not_finite);
}
/// As above, of a model that is spread over several files.
template <class Unit>
[[nodiscard]] std::vector<std::string> import_plain_weights(
    Unit& unit, SafetensorsShards& shards, const WeightFolding& folding,
    const WeightNames& names = {}, NotFinite not_finite = NotFinite::refuse) {
  return detail::import_from(unit, shards, folding, names, not_finite);
}
/// As above, of either: a path that ends in ".index.json" is the index of several files.
/// @throws FileError if files cannot be opened or are not of their form.
template <class Unit>
[[nodiscard]] std::vector<std::string> import_plain_weights(
    Unit& unit, const std::filesystem::path& path, const WeightFolding& folding,
    const WeightNames& names = {}, NotFinite not_finite = NotFinite::refuse) {
  if (path.string().ends_with(".index.json")) {
    SafetensorsShards shards(path);
    return detail::import_from(unit, shards, folding, names, not_finite);
  }
  SafetensorsFile file(path);
  return detail::import_from(unit, file, folding, names, not_finite);
}

/// Adds the weights of a unit-scaled model to a file as those of the plain model, each as F32 and
/// rounded once.
/// @throws std::invalid_argument as `WeightFolding::plain_weight` and `SafetensorsWriter::add`, and
///         as `import_plain_weights` does for parameters and names.
template <class Unit>
void export_plain_weights(Unit& unit, SafetensorsWriter& writer, const WeightFolding& folding,
                          const WeightNames& names = {}) {
  for (const auto& [parameter, parts] : detail::parameters_with_parts(unit, names)) {
    const Array<float> plain = folding.plain_weight(*parameter);
    for (const detail::ArrayPart& part : parts) {
      const Array<float> rows(part.shape, plain.span().subspan(part.begin, part.shape.size()));
      writer.add(part.name,
                 part.stored_as == StoredAs::transposed ? detail::transpose(rows) : rows);
    }
  }
}

}  // namespace UNIT_SCALING_NAMESPACE::train

UNIT_SCALING_IEEE_END
