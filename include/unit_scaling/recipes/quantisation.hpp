// SPDX-License-Identifier: MIT
/// @file
/// Layer recipes: a trained model in a narrow format, under scales that are fixed before it runs.
// unit_scaling: optional
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <map>
#include <memory_resource>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "unit_scaling/autograd/parameter.hpp"
#include "unit_scaling/autograd/recipe.hpp"
#include "unit_scaling/core/arithmetic.hpp"
#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/printable.hpp"
#include "unit_scaling/core/shape.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/formats/block_scales.hpp"
#include "unit_scaling/formats/catalogue.hpp"
#include "unit_scaling/formats/encode.hpp"
#include "unit_scaling/formats/encoded_array.hpp"
#include "unit_scaling/formats/encoded_array_codec.hpp"
#include "unit_scaling/formats/format.hpp"
#include "unit_scaling/formats/rounding.hpp"
#include "unit_scaling/formats/scale_layout.hpp"
#include "unit_scaling/ops/operand.hpp"
#include "unit_scaling/recipes/calibration.hpp"
#include "unit_scaling/recipes/tensor_scaling.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE {

/// How a model is quantised: E4M3 with a scale for each tensor, unless said otherwise.
struct QuantisationOptions {
  Format inputs = Format::of<float8_e4m3fn>();   ///< of what products read, but weights
  Format weights = Format::of<float8_e4m3fn>();  ///< or Format::parse("int8"), and any other
  /// A scale for each channel of an input, that is for its last index, of a calibration that has
  /// measured them; else one for each site. Products that sum over channels, as those of linear
  /// layers do, read such an input decoded, in float.
  bool per_input_channel = false;
  /// A scale for each row of a weight as a matrix, that is for each output of a linear layer; else
  /// one for each weight.
  bool per_weight_row = false;
  bool power_of_two_scales = false;  ///< else any floats
};

/// The scale under which `maximum` becomes the largest number of a format: their quotient, rounded
/// once to nearest, or the smallest power of two that is not below the quotient. So nothing up to
/// the maximum saturates, but by the rounding of the quotient, in its last place. It is 1 if the
/// maximum is 0, and never below 2^-126, where floats begin to have fewer bits, nor infinite.
/// @param maximum a finite magnitude.
[[nodiscard]] inline float scale_of_maximum(float maximum, const Format& format,
                                            bool power_of_two = false) {
  const DefaultArithmetic arithmetic;
  if (maximum == 0) return 1;
  const float scale = power_of_two ? power_of_two_scale(maximum, format, ScaleRounding::round_up)
                                   : maximum / static_cast<float>(format.spec().max_finite());
  return std::clamp(scale, std::numeric_limits<float>::min(), std::numeric_limits<float>::max());
}

/// A weight of a model as it was quantised.
struct QuantisedWeight {
  std::string parameter;        ///< name
  EncodedArray codes;           ///< with scales in binary32: one, or one for each row
  Array<float> value;           ///< of the parameter, whose elements the codes stand for
  bool has_other_uses = false;  ///< as `ParameterUses` has it
};

/// What a `Quantisation` does at one site.
struct QuantisedSite {
  Format format = {};
  /// One, or one for each channel of an input, or for each row of a weight.
  std::vector<float> scales = {};
};

/// A recipe for the inference of a trained model: matrix products read their inputs under scales
/// from a calibration, and their weights under scales from the weights' own maxima, all rounded to
/// nearest in a narrow format and saturating. What is no operand of a product, and so biases,
/// normalisations and softmax, is as the tape's policy has it; so are the weights within attention,
/// which no recipe sees, and gradients, if there is a backward pass.
///
///     const Calibration calibration = calibrate(tape, …);
///     const auto int8 = Format::parse("int8");
///     tape.use_recipe(std::make_shared<Quantisation>(
///         model, calibration, QuantisationOptions{.inputs = int8, .weights = int8}));
///
/// - Let x be an element under scale s. x/s is rounded to binary32, and then to a number q of the
///   format, as in `EncodedArray`. Products read q s.
/// - Weights that are parameters of the model are rounded when this is made. The model keeps its
///   own: the same one computes as before under no recipe. A parameter that is written to
///   afterwards is rounded anew when it is next read, under scales of what it has then; a weight
///   that is no parameter is rounded each time.
/// - Weights in a format of integers have no negative zero.
/// - An input beyond the calibrated maximum saturates. NaN stays NaN in a format that has it; in a
///   format of integers it is a zero, so look for it elsewhere.
/// - A recipe is for one tape at a time.
///
/// @see FP8-BERT (arXiv:2312.05725), whose scheme is E4M3 with a scale for each tensor, and its
///      INT8 baseline.
class Quantisation final : public Recipe {
 public:
  /// Quantises the weights that the calibration saw.
  /// @param model its parameters are not changed.
  /// @throws DomainError for a format without sign or zero, wider than 16 bits; for a weight with
  ///         infinities or NaN; if the calibration has not measured channels, and
  ///         `per_input_channel` asks for them; and if it saw a weight that the model has not.
  template <class Model>
  Quantisation(Model& model, const Calibration& calibration,
               const QuantisationOptions& options = {})
      : Quantisation(options, input_scales(calibration, options), {}) {
    std::map<std::string_view, ParameterUses> left;
    for (const auto& [name, uses] : calibration.parameters) {
      if (uses.is_weight) left[name] = uses;
    }
    model.for_each_parameter([&](const Parameter& each) {
      const auto found = left.find(each.name);
      if (found == left.end()) return;
      require(!each.is_encoded(), where, "expected the master copy of ", in_quotes(each.name),
              " as floats, got codes of ", each.encoded->codes.format(),
              "; Parameter::set_floats takes its floats()");
      add({.parameter = each.name,
           .codes = round_weight(each.name, EncodedArray::view(each.value), nullptr),
           .value = each.value,
           .has_other_uses = found->second.has_other_uses});
      left.erase(found);
    });
    require(left.empty(), where, "expected a model with the parameter ",
            left.empty() ? std::string() : in_quotes(left.begin()->first),
            ", which was a weight when the calibration was made");
  }

  /// Takes what was quantised before, as a file has it.
  /// @param input_scales for each site: one scale, or one for each channel.
  /// @throws DomainError for a format as above, a scale that is not positive and finite, and two
  ///         weights of one parameter.
  Quantisation(const QuantisationOptions& options,
               std::map<std::string, std::vector<float>, std::less<>> input_scales,
               std::vector<QuantisedWeight> weights)
      : options_(options), input_scales_(std::move(input_scales)) {
    require_format(options_.inputs);
    require_format(options_.weights);
    for (const auto& [site, scales] : input_scales_) {
      require(options_.per_input_channel || scales.size() == 1, where, "expected one scale for ",
              in_quotes(site), ", got ", std::to_string(scales.size()));
      for (const float scale : scales) require_scale(site, scale);
    }
    for (QuantisedWeight& each : weights) add(std::move(each));
  }

  [[nodiscard]] const QuantisationOptions& options() const& { return options_; }
  [[nodiscard]] QuantisationOptions options() const&& { return options_; }

  /// The scales of inputs by site.
  [[nodiscard]] const std::map<std::string, std::vector<float>, std::less<>>& input_scales()
      const& {
    return input_scales_;
  }
  const std::map<std::string, std::vector<float>, std::less<>>& input_scales() const&& = delete;

  [[nodiscard]] const std::vector<QuantisedWeight>& weights() const& { return weights_; }
  const std::vector<QuantisedWeight>& weights() const&& = delete;

  /// What was done at the sites that asked so far, by name: "ffn.up/linear.weight.1".
  [[nodiscard]] const std::map<std::string, QuantisedSite, std::less<>>& sites() const& {
    return sites_;
  }
  const std::map<std::string, QuantisedSite, std::less<>>& sites() const&& = delete;

  /// @throws DomainError naming the site, if an input was not calibrated, has another number of
  ///         channels, or a weight has infinities or NaN.
  [[nodiscard]] std::optional<OperandForms> operand(const OperandSite& site,
                                                    const EncodedArray& array) override {
    if (site.role == ops::OperandRole::gradient) return {};
    write_name(site, name_);
    if (site.role == ops::OperandRole::input) return OperandForms{round_input(site, array)};
    EncodedArray weight = find_or_round_weight(site, array);
    QuantisedSite& known = sites_[name_];
    known.format = weight.format();
    known.scales.resize(weight.scale_count());
    for (std::size_t i = 0; i < known.scales.size(); ++i) known.scales[i] = weight.scale(i);
    return OperandForms{std::move(weight)};
  }

 private:
  static constexpr std::string_view where = "quantisation";

  static void require_format(const Format& format) {
    require(format.storage_bits() <= 16 && format.spec().has_sign() && format.spec().has_zero() &&
                detail::has_finite_products(format),
            where,
            "expected a format with sign and zero, of at most 16 bits and numbers up to 2^48, "
            "got ",
            to_string(format));
  }
  static void require_scale(std::string_view of, float scale) {
    require(std::isfinite(scale) && scale > 0, where, "expected positive, finite scales of ",
            in_quotes(of), ", got ", std::to_string(scale));
  }

  [[nodiscard]] static std::map<std::string, std::vector<float>, std::less<>> input_scales(
      const Calibration& calibration, const QuantisationOptions& options) {
    require_format(options.inputs);
    std::map<std::string, std::vector<float>, std::less<>> scales;
    for (const auto& [site, input] : calibration.inputs) {
      const auto scale_of = [&](float maximum) {
        return scale_of_maximum(maximum, options.inputs, options.power_of_two_scales);
      };
      std::vector<float>& of_site = scales[site];
      if (!options.per_input_channel) {
        of_site = {scale_of(input.maximum)};
        continue;
      }
      require(!input.channel_maxima.empty(), where, "expected a calibration with the channels of ",
              in_quotes(site), "; CalibrationOptions::per_channel measures them");
      for (const float maximum : input.channel_maxima) of_site.push_back(scale_of(maximum));
    }
    return scales;
  }

  void add(QuantisedWeight weight) {
    for (std::size_t i = 0; i < weight.codes.scale_count(); ++i) {
      require_scale(weight.parameter, weight.codes.scale(i));
    }
    const void* const elements = weight.value.data();
    require(by_elements_.try_emplace(elements, weights_.size()).second || weight.value.empty(),
            where, "expected each weight once, got ", in_quotes(weight.parameter), " twice");
    weights_.push_back(std::move(weight));
  }

  [[nodiscard]] EncodedArray round_input(const OperandSite& site, const EncodedArray& array) {
    const auto found = input_scales_.find(name_);
    require(found != input_scales_.end(), where, "expected a scale for ", in_quotes(name_),
            ", which was not calibrated: the calibration must run the ops that inference runs");
    const std::vector<float>& scales = found->second;
    if (!sites_.contains(name_)) sites_[name_] = {options_.inputs, scales};
    const bool is_one = !options_.per_input_channel;
    if (!is_one && scales.size() != array.columns()) {
      throw_shape_error(where,
                        std::to_string(scales.size()) + " channels, which were calibrated, of " +
                            in_quotes(name_),
                        array.shape());
    }
    if (is_one && site.made_before != nullptr) {
      const EncodedArray& made = site.made_before->array;
      if (made.format() == options_.inputs && made.scale_count() == 1 &&
          made.scale(0) == scales[0]) {
        return made;
      }
    }
    const ScaleLayout layout = is_one ? ScaleLayout::per_tensor(ScaleFormat::binary32)
                                      : ScaleLayout::per_column(ScaleFormat::binary32);
    return EncodedArray::encode(array, options_.inputs, layout, scales, to_nearest, site.memory);
  }

  [[nodiscard]] EncodedArray find_or_round_weight(const OperandSite& site,
                                                  const EncodedArray& array) const {
    // The elements of a parameter are those that were quantised as long as both share them: whoever
    // writes to an array that is shared gets a copy.
    const auto found = by_elements_.find(array.codes().data());
    if (found != by_elements_.end()) {
      const QuantisedWeight& weight = weights_[found->second];
      if (weight.codes.shape() == array.shape()) return weight.codes;
    }
    return round_weight(name_, array, site.memory);
  }

  /// @param name for messages.
  [[nodiscard]] EncodedArray round_weight(std::string_view name, const EncodedArray& array,
                                          std::pmr::memory_resource* memory) const {
    const Format& format = options_.weights;
    const ScaleLayout layout = options_.per_weight_row
                                   ? ScaleLayout::per_row(ScaleFormat::binary32)
                                   : ScaleLayout::per_tensor(ScaleFormat::binary32);
    Array<float> scales = detail::finite_magnitudes(where, name, array, layout, memory);
    for (float& scale : scales.mutable_span()) {
      scale = scale_of_maximum(scale, format, options_.power_of_two_scales);
    }
    EncodedArray codes =
        EncodedArray::encode(array, format, layout, scales.span(), to_nearest, memory);
    if (format.spec().is_integer()) clear_negative_zeros(codes, memory);
    return codes;
  }

  /// Two's complement, in which files have integers, has no negative zero.
  static void clear_negative_zeros(EncodedArray& codes, std::pmr::memory_resource* memory) {
    const DefaultArithmetic arithmetic;
    Array<float> numbers = codes.without_scales().decode(memory);
    for (float& number : numbers.mutable_span()) number += 0.0F;
    codes.format().encode(numbers.span(), codes.mutable_codes(), to_nearest);
  }

  static constexpr EncodeOptions to_nearest{.overflow = Overflow::saturate};

  QuantisationOptions options_;
  std::map<std::string, std::vector<float>, std::less<>> input_scales_;
  std::vector<QuantisedWeight> weights_;
  std::unordered_map<const void*, std::size_t> by_elements_;  ///< index among the weights
  std::map<std::string, QuantisedSite, std::less<>> sites_;
  std::string name_;  ///< its memory is used again
};

}  // namespace UNIT_SCALING_NAMESPACE

UNIT_SCALING_IEEE_END
