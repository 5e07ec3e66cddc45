// SPDX-License-Identifier: MIT
/// @file
/// Layer train: quantised models in safetensors files.
///
/// Needs nlohmann/json, so it is not in the umbrella header.
///
/// A file has, for each parameter called NAME that is a weight of matrix products:
///
/// - NAME.elements, the codes, in the shape of the parameter and of the type of their format:
///   F8_E4M3, say. Those of int8 are I8, integers of two's complement, which is never -128. Those
///   of a format that has no type are as those of an `EncodedArray` (train/safetensors.hpp);
/// - NAME.scales, F32, of shape (1, 1), or (rows, 1) with a scale for each row of the weight as a
///   matrix. The weight is the number of its code times its scale;
/// - NAME, F32, its numbers before they were quantised, but only if ops read it as something else
///   too, as a look-up reads a table that is tied to the last layer;
///
/// for any other parameter, NAME, F32; and for each input of matrix products, "SITE.scale", F32,
/// one scale without dimension, or (channels) of them: "ffn.up/linear.input.0.scale". The metadata
/// "unit_scaling.quantised.inputs" and "unit_scaling.quantised.weights" name the formats:
/// "float8_e4m3fn", "int8".
// unit_scaling: optional
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "unit_scaling/autograd/parameter.hpp"
#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/file_error.hpp"
#include "unit_scaling/core/printable.hpp"
#include "unit_scaling/core/shape.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/formats/encoded_array.hpp"
#include "unit_scaling/formats/encoded_array_codec.hpp"
#include "unit_scaling/formats/format.hpp"
#include "unit_scaling/formats/format_spec.hpp"
#include "unit_scaling/formats/scale_layout.hpp"
#include "unit_scaling/optim/parameter_groups.hpp"
#include "unit_scaling/recipes/quantisation.hpp"
#include "unit_scaling/train/safetensors.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::train {

namespace detail {

inline constexpr std::string_view quantised_inputs_key = "unit_scaling.quantised.inputs";
inline constexpr std::string_view quantised_weights_key = "unit_scaling.quantised.weights";

/// Whether codes of the format, which are sign and magnitude, are integers of two's complement in a
/// file.
[[nodiscard]] inline bool is_file_integer(const Format& format) {
  return !format.is_binary64() && format.spec() == FormatSpec::integer(8);
}

/// @pre no code is that of negative zero
[[nodiscard]] inline Array<std::int8_t> to_twos_complement(const EncodedArray& array) {
  Array<std::int8_t> integers(array.shape());
  const auto out = integers.mutable_span();
  std::transform(array.codes().begin(), array.codes().end(), out.begin(), [](std::uint8_t code) {
    const int magnitude = code & 0x7f;
    return static_cast<std::int8_t>((code & 0x80) != 0 ? -magnitude : magnitude);
  });
  return integers;
}
/// @pre no integer is -128
[[nodiscard]] inline Array<std::uint8_t> to_sign_and_magnitude(const Array<std::int8_t>& integers) {
  Array<std::uint8_t> codes(Shape{integers.size()});
  const auto out = codes.mutable_span();
  std::transform(integers.span().begin(), integers.span().end(), out.begin(),
                 [](std::int8_t i) { return static_cast<std::uint8_t>(i < 0 ? 0x80 | -i : i); });
  return codes;
}

/// Adds the codes and the scales of a weight to a file.
inline void add_quantised_weight(SafetensorsWriter& writer, const QuantisedWeight& weight) {
  if (!is_file_integer(weight.codes.format())) return writer.add(weight.parameter, weight.codes);
  writer.add(weight.parameter + ".elements", to_twos_complement(weight.codes));
  Array<float> scales(safetensors_scale_shape(weight.codes));
  for (std::size_t i = 0; i < scales.size(); ++i) scales.mutable_data()[i] = weight.codes.scale(i);
  writer.add(weight.parameter + ".scales", scales);
}

/// Reads a file of a quantised model, and checks it before it is used.
class QuantisedFileReader {
 public:
  explicit QuantisedFileReader(SafetensorsFile& file)
      : file_(file), left_(file.names().begin(), file.names().end()) {
    options_.inputs = format_of(quantised_inputs_key);
    options_.weights = format_of(quantised_weights_key);
  }

  /// Reads what a parameter is to have, and its codes if it is quantised.
  void read(Parameter& parameter) {
    const std::string& name = parameter.name;
    const Shape shape = parameter.shape();
    const bool has_codes = file_.contains(name + ".elements");
    const bool has_other_uses = file_.contains(name);
    Array<float> value;
    if (!has_codes || has_other_uses) {
      value = file_.tensor<float>(name, shape);
      left_.erase(name);
    }
    if (has_codes) {
      EncodedArray codes = read_codes(name, shape);
      const Array<float> numbers = codes.decode();
      const auto is_finite = [](float x) { return std::isfinite(x); };
      if (!std::all_of(numbers.span().begin(), numbers.span().end(), is_finite)) {
        fail("array " + in_quotes(name + ".elements") + " has numbers that are infinite or NaN");
      }
      if (!has_other_uses) value = numbers;
      weights_.push_back({.parameter = name,
                          .codes = std::move(codes),
                          .value = value,
                          .has_other_uses = has_other_uses});
    }
    values_.emplace_back(&parameter, std::move(value));
  }

  /// The scales of inputs, which are all arrays that no parameter has asked for.
  void read_input_scales() {
    constexpr std::string_view suffix = ".scale";
    for (const std::string& name : left_) {
      const bool is_site = name.ends_with(suffix) && name.find('/') != std::string::npos;
      if (!is_site) {
        fail("has an array " + in_quotes(name) +
             ", expected none but those of the model's parameters and the scales of inputs");
      }
      const auto scales = file_.tensor<float>(name);
      if (scales.shape().rank() > 1) {
        fail("array " + in_quotes(name) + " has shape " + to_string(scales.shape()) +
             ", expected one scale, or one dimension of them");
      }
      const bool is_of_channels = scales.shape().rank() == 1;
      if (!input_scales_.empty() && is_of_channels != options_.per_input_channel) {
        fail("array " + in_quotes(name) + " has shape " + to_string(scales.shape()) +
             ", expected scales of channels for all inputs or for none");
      }
      options_.per_input_channel = is_of_channels;
      require_scales(name, scales.span());
      input_scales_[name.substr(0, name.size() - suffix.size())] = {scales.span().begin(),
                                                                    scales.span().end()};
    }
  }

  /// Gives the parameters their values.
  [[nodiscard]] std::shared_ptr<Quantisation> finish() {
    auto result =
        std::make_shared<Quantisation>(options_, std::move(input_scales_), std::move(weights_));
    for (auto& [parameter, value] : values_) parameter->set_floats(std::move(value));
    return result;
  }

 private:
  [[noreturn]] void fail(const std::string& what) const { throw FileError(file_.path(), what); }

  [[nodiscard]] Format format_of(std::string_view key) const {
    const auto metadata = file_.metadata();
    const auto found = metadata.find(std::string(key));
    if (found == metadata.end()) {
      fail("has no metadata " + in_quotes(key) + ", expected a file of quantised weights");
    }
    return Format::parse(found->second);
  }

  [[nodiscard]] EncodedArray read_codes(const std::string& name, const Shape& shape) {
    const std::string scales_name = name + ".scales";
    // What is told of the array that is missing is its name.
    const std::vector<std::uint64_t> extents(file_.info(scales_name).shape.begin(),
                                             file_.info(scales_name).shape.end());
    const bool is_per_row = extents != std::vector<std::uint64_t>{1, 1};
    const ScaleLayout layout = is_per_row ? ScaleLayout::per_row(ScaleFormat::binary32)
                                          : ScaleLayout::per_tensor(ScaleFormat::binary32);
    if (is_per_row) options_.per_weight_row = true;
    const auto scales = file_.tensor<float>(
        scales_name, {layout.tiles_down(shape.rows()), layout.tiles_across(shape.columns())});
    require_scales(scales_name, scales.span());
    left_.erase(scales_name);
    left_.erase(name + ".elements");
    const Format& format = options_.weights;
    auto scale_codes = scales.reinterpreted<std::uint8_t>(Shape{scales.bytes()});
    if (!is_file_integer(format)) {
      const EncodedArray like(
          shape, format, Array<std::uint8_t>::filled(Shape{format.code_bytes(shape.size())}, 0),
          layout, scale_codes);
      return file_.encoded_array(name, like);
    }
    const auto integers = file_.tensor<std::int8_t>(name + ".elements", shape);
    if (std::find(integers.span().begin(), integers.span().end(), -128) != integers.span().end()) {
      fail("array " + in_quotes(name + ".elements") + " has a -128, expected -127 to 127");
    }
    return {shape, format, to_sign_and_magnitude(integers), layout, std::move(scale_codes)};
  }

  void require_scales(const std::string& name, std::span<const float> scales) const {
    const auto is_scale = [](float x) { return std::isfinite(x) && x > 0; };
    if (std::all_of(scales.begin(), scales.end(), is_scale)) return;
    fail("array " + in_quotes(name) + " has a scale that is not positive and finite");
  }

  SafetensorsFile& file_;
  std::set<std::string> left_;  ///< names of arrays that nobody has asked for
  QuantisationOptions options_;
  std::map<std::string, std::vector<float>, std::less<>> input_scales_;
  std::vector<QuantisedWeight> weights_;
  std::vector<std::pair<Parameter*, Array<float>>> values_;
};

}  // namespace detail

/// Saves a quantised model; see the head of this file. A file of that name is replaced as a whole
/// or not at all, as AtomicFile does.
/// @param quantisation of the model, whose parameters were not written to since.
/// @param metadata texts that the file has besides.
/// @throws DomainError if a parameter was written to; FileError if the file cannot be written;
///         std::invalid_argument for a name or text that is not UTF-8, and if two parameters have
///         one name. Nothing is written then.
template <class Model>
void save_quantised(const std::filesystem::path& path, Model& model,
                    const Quantisation& quantisation,
                    const std::map<std::string, std::string>& metadata = {}) {
  std::map<std::string_view, const QuantisedWeight*> weights;
  for (const QuantisedWeight& each : quantisation.weights()) weights[each.parameter] = &each;
  SafetensorsWriter writer;
  for (const Parameter* const parameter : optim::parameters_of(model)) {
    const Parameter& each = *parameter;
    const auto found = weights.find(each.name);
    if (found == weights.end()) {
      writer.add(each.name, each.floats());
      continue;
    }
    const QuantisedWeight& weight = *found->second;
    require(weight.value.data() == each.value.data(), "save_quantised", "expected ",
            in_quotes(each.name), " as it was when it was quantised, but it was written to");
    detail::add_quantised_weight(writer, weight);
    if (weight.has_other_uses) writer.add(each.name, each.value);
    weights.erase(found);
  }
  require(weights.empty(), "save_quantised", "expected the model that was quantised, which has ",
          weights.empty() ? std::string() : in_quotes(weights.begin()->first));
  for (const auto& [site, scales] : quantisation.input_scales()) {
    const bool is_one = !quantisation.options().per_input_channel;
    writer.add(site + ".scale",
               Array<float>(is_one ? Shape{} : Shape{scales.size()}, std::span(scales)));
  }
  for (const auto& [key, text] : metadata) writer.set_metadata(key, text);
  writer.set_metadata(std::string(detail::quantised_inputs_key),
                      to_string(quantisation.options().inputs));
  writer.set_metadata(std::string(detail::quantised_weights_key),
                      to_string(quantisation.options().weights));
  writer.write(path);
}

/// Loads a quantised model, and returns the recipe that computes with the codes of the file:
///
///     tape.use_recipe(train::load_quantised("model.safetensors", model));
///
/// Under it the model has the bits of the one that was saved under its recipe. Parameters that are
/// weights of products, and nothing else, get the numbers that their codes and scales stand for,
/// rounded to float; others get what they had. So without the recipe the model computes nearly the
/// same. A parameter that is written to afterwards is quantised anew, under scales of any floats.
/// @throws FileError naming the file, and the array in question: if it cannot be read, has not the
///         parameters of the model in their shapes, has codes without scales, scales that do not
///         fit or are not positive and finite, numbers of a weight that are not finite, or any
///         other array. Nothing is changed then.
template <class Model>
[[nodiscard]] std::shared_ptr<Quantisation> load_quantised(SafetensorsFile& file, Model& model) {
  return unit_scaling::detail::with_file_errors(file.path(), [&] {
    detail::QuantisedFileReader reader(file);
    for (Parameter* const each : optim::parameters_of(model)) reader.read(*each);
    reader.read_input_scales();
    return reader.finish();
  });
}
/// As above, from the file of that name.
template <class Model>
[[nodiscard]] std::shared_ptr<Quantisation> load_quantised(const std::filesystem::path& path,
                                                           Model& model) {
  SafetensorsFile file(path);
  return load_quantised(file, model);
}

}  // namespace UNIT_SCALING_NAMESPACE::train

UNIT_SCALING_IEEE_END
