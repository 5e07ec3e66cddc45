// SPDX-License-Identifier: MIT
/// @file
/// Layer recipes: one scale for each operand of a matrix product, or one for all of them.
///
/// | recipe | scale of an operand | keeps |
/// |---|---|---|
/// | `TensorScaling` | from its own maximum, as FP8-AMAX has it | nothing |
/// | `DelayedScaling` | from the maxima of steps before, as TransformerEngine has it | those |
/// | `ConstantScaling` | a constant, the same for all operands, as FP8-CSCALE has it | nothing |
///
/// The *maximum* of an operand is the largest magnitude of its elements, the *factor* what they are
/// multiplied with before they are rounded. The `scale` that the `EncodedArray` then has is the
/// reciprocal of the factor. Sums of products are multiplied with the scales of both operands,
/// which is exact for powers of two (kernels/sum_scales.hpp).
///
/// It compiles the products of all formats, so it is not in the umbrella header.
/// @see Perez et al. 2023, arXiv:2309.17224, for FP8-AMAX and FP8-CSCALE.
/// @see Peng et al. 2023, arXiv:2310.18313, for FP8-LM, whose code is MS-AMP.
// unit_scaling: optional
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <memory_resource>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "unit_scaling/autograd/recipe.hpp"
#include "unit_scaling/autograd/recipe_of_tape.hpp"
#include "unit_scaling/core/arithmetic.hpp"
#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/printable.hpp"
#include "unit_scaling/core/shape.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/formats/catalogue.hpp"
#include "unit_scaling/formats/encode.hpp"
#include "unit_scaling/formats/encoded_array.hpp"
#include "unit_scaling/formats/encoded_array_codec.hpp"
#include "unit_scaling/formats/format.hpp"
#include "unit_scaling/formats/format_spec.hpp"
#include "unit_scaling/formats/rounding.hpp"
#include "unit_scaling/formats/scale_layout.hpp"
#include "unit_scaling/kernels/largest_magnitude.hpp"
#include "unit_scaling/ops/operand.hpp"
#include "unit_scaling/recipes/by_role.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE {

/// The formats of training in FP8: E4M3 for inputs and weights, E5M2 for gradients, as the paper,
/// MS-AMP and TransformerEngine have them.
inline constexpr ByRole<Format> fp8_formats{.input = Format::of<float8_e4m3fn>(),
                                            .weight = Format::of<float8_e4m3fn>(),
                                            .gradient = Format::of<float8_e5m2>()};

/// The largest magnitude of the elements: 0 if there are none, not finite if an element is not, and
/// NaN if one is. One pass over an array of binary32, FP16 or BF16 without scales, which allocates
/// nothing; others are decoded.
/// @param memory for the elements of an array that is decoded.
[[nodiscard]] inline float largest_magnitude(const EncodedArray& array,
                                             std::pmr::memory_resource* memory = nullptr) {
  const auto of_elements = [&]<class T>(const T* elements) {
    return std::bit_cast<float>(kernels::largest_magnitude_bits(elements, array.size()));
  };
  const auto* codes = array.codes().data();
  if (!array.has_scales() && array.format().is_binary32()) {
    return of_elements(reinterpret_cast<const float*>(codes));
  }
  if (!array.has_scales() && array.format() == Format::of<float16>()) {
    return of_elements(reinterpret_cast<const float16*>(codes));
  }
  if (!array.has_scales() && array.format() == Format::of<bfloat16>()) {
    return of_elements(reinterpret_cast<const bfloat16*>(codes));
  }
  const Array<float> numbers = array.decode(memory);
  return of_elements(numbers.data());
}

/// The factor for a tensor of this maximum, so that the product is at most the largest number M of
/// the format, divided by 2^margin:
///
/// - in a `ScaleFormat::power_of_two`, 2^b with b = floor(log2(M / maximum)) − margin, as the paper
///   and MS-AMP have it. It is exact: the sources take the logarithm in binary32, which rounds b up
///   where M / maximum is within about 2^-22 below a power of two. So 2^b · maximum > M there;
/// - in `ScaleFormat::binary32`, M / 2^margin / maximum, rounded to nearest, as TransformerEngine
///   and torchao have it. TransformerEngine's first releases have the power of two.
///
/// Tiny and huge maxima: b is in [−127, 127], so that a power of two of one byte holds 2^b and
/// 2^−b, and a factor in binary32 is in [2^-127, largest float]. 2^127 is also what remains of
/// TransformerEngine's largest float when it rounds it down to a power of two. MS-AMP has no such
/// bound; its factor of a maximum below M 2^-128 is infinite.
/// @pre maximum is finite and above 0
/// @see https://github.com/Azure/MS-AMP/blob/main/msamp/common/tensor/meta.py,
///      `compute_scaling_factor`.
/// @see https://github.com/NVIDIA/TransformerEngine/blob/main/transformer_engine/common/recipe/,
///      delayed_scaling.cu and recipe_common.cuh; `_default_sf_compute` of pytorch/fp8.py for the
///      power of two, in its first releases.
/// @see https://github.com/pytorch/ao/blob/main/torchao/float8/float8_utils.py, `amax_to_scale`.
[[nodiscard]] inline float tensor_scale_factor(double maximum, const FormatSpec& format, int margin,
                                               ScaleFormat scales) {
  constexpr int most = 127;
  float factor = 0;
  in_default_arithmetic([&] {
    if (scales == ScaleFormat::power_of_two) {
      int exponent_of_maximum = 0;
      int exponent_of_limit = 0;
      const double fraction = std::frexp(maximum, &exponent_of_maximum);
      const double limit = std::frexp(format.max_finite(), &exponent_of_limit);
      const int exponent =
          exponent_of_limit - exponent_of_maximum - (limit < fraction ? 1 : 0) - margin;
      factor = std::ldexp(1.0F, std::clamp(exponent, -most, most));
    } else {
      // A quotient of two floats, rounded to double and then to float, is as if rounded once. A
      // least maximum that is no float has the two roundings of torchao.
      const double quotient = std::ldexp(format.max_finite(), -margin) / maximum;
      factor = static_cast<float>(
          std::clamp(quotient, 0x1p-127, static_cast<double>(std::numeric_limits<float>::max())));
    }
  });
  return factor;
}

namespace detail {

/// The array times a factor, rounded to a format, under the reciprocal of the factor as its scale.
/// @pre the reciprocal is finite, and not 0
[[nodiscard]] inline EncodedArray encode_times_factor(const EncodedArray& array,
                                                      const Format& format, float factor,
                                                      ScaleFormat scales, Overflow overflow,
                                                      std::pmr::memory_resource* memory) {
  float scale = 0;
  in_default_arithmetic([&] { scale = 1 / factor; });
  return EncodedArray::encode(array, format, {.overflow = overflow, .scale = factor}, memory)
      .with_scale(scales, scale, memory);
}

/// The operand of a tensor of a known maximum. Numbers beyond the format saturate, as they do in
/// TransformerEngine and torchao. A tensor that is not finite stays so: its infinities, and finite
/// numbers beyond the format, become infinities, or NaNs in a format that has no infinity. So a
/// dynamic loss scale sees them in the gradients. Casts that saturate infinities, as those of the
/// sources do, would hide them.
[[nodiscard]] inline EncodedArray encode_of_maximum(const EncodedArray& array, float maximum,
                                                    const Format& format, float factor,
                                                    ScaleFormat scales,
                                                    std::pmr::memory_resource* memory) {
  const Overflow overflow = std::isfinite(maximum) ? Overflow::saturate : Overflow::infinity_or_nan;
  return encode_times_factor(array, format, factor, scales, overflow, memory);
}

/// Whether products of two operands whose maxima are scaled to the largest number of the format,
/// and sums of many of them, stay below the largest float. Those of bfloat16 do not.
[[nodiscard]] inline bool has_finite_products(const Format& format) {
  return !format.is_binary64() && format.spec().max_finite() <= 0x1p48;
}

/// @throws DomainError unless each format has a sign and is within binary32.
inline void require_signed_formats(std::string_view recipe, const ByRole<Format>& formats) {
  for (const Format* format : {&formats.input, &formats.weight, &formats.gradient}) {
    require(!format->is_binary64() && format->spec().has_sign(), recipe,
            "expected formats with a sign, within binary32, got ", to_string(*format));
  }
}
/// @throws DomainError unless also each `has_finite_products`.
inline void require_scalable_formats(std::string_view recipe, const ByRole<Format>& formats) {
  require_signed_formats(recipe, formats);
  for (const Format* format : {&formats.input, &formats.weight, &formats.gradient}) {
    require(
        has_finite_products(*format), recipe,
        "expected formats with numbers up to 2^48 at most, as products of the largest are summed "
        "up in float, got ",
        to_string(*format));
  }
}
/// @throws DomainError unless each margin is in [0, 127].
inline void require_margins(std::string_view recipe, const ByRole<int>& margins) {
  for (const int margin : {margins.input, margins.weight, margins.gradient}) {
    require(margin >= 0 && margin <= 127, recipe, "expected margins from 0 to 127, got ", margin);
  }
}
/// @throws DomainError unless a scale is stored in a way that these recipes know.
inline void require_scale_format(std::string_view recipe, ScaleFormat scales) {
  require(scales == ScaleFormat::power_of_two || scales == ScaleFormat::binary32, recipe,
          "expected scales in power_of_two or binary32, got ", to_string(scales));
}

/// What the op before was given of the same numbers, if a recipe that treats inputs and weights
/// alike may give it again; null: nothing.
[[nodiscard]] inline const EncodedArray* shared_operand(const OperandSite& site,
                                                        const Format& format, ScaleFormat scales) {
  if (site.made_before == nullptr) return nullptr;
  const EncodedArray& made = site.made_before->array;
  const bool is_alike =
      made.format() == format && made.scale_layout() == ScaleLayout::per_tensor(scales);
  return is_alike ? &made : nullptr;
}

}  // namespace detail

struct TensorScalingOptions {
  ByRole<Format> formats = fp8_formats;
  /// How far the maximum stays below the largest number of the format: by 2^margin at least.
  ByRole<int> margins = {.input = 0, .weight = 0, .gradient = 0};
  /// Smaller maxima, 0 among them, count as this. torchao has 1e-12; 0 is for none.
  double least_maximum = 0;
  /// How scales are stored, and so which factors there are: `power_of_two` or `binary32`.
  ScaleFormat scales = ScaleFormat::power_of_two;
};

/// Scales each operand by its own maximum (FP8-AMAX, "current scaling"): reads it once more than a
/// policy does, and keeps nothing.
///
/// A tensor that is not finite has the factor 1, and so has one of zeros or of no elements unless
/// `least_maximum` is above 0. TransformerEngine's current scaling does the same. MS-AMP keeps the
/// factor from before; to do so for tensors that are not finite, a recipe needs a state. Infinities
/// and NaNs are not saturated, and neither are numbers beyond the format beside them.
///
/// If an operand is multiplied with 2^j, its codes stay as they are, and so do the bits of results
/// but for their exponents, while these are in range.
///
///     tape.use_recipe(TensorScaling({.margins = {.input = 1, .weight = 1, .gradient = 1}}));
///
/// @see `tensor_scale_factor` for the rule and its sources.
class TensorScaling final : public Recipe {
 public:
  /// @throws DomainError for a format without a sign or with numbers beyond 2^48, a margin beyond 0
  /// to 127,
  ///         a least maximum that is neither 0 nor above 0 and finite as a float, or other scales.
  explicit TensorScaling(const TensorScalingOptions& options = {}) : options_(options) {
    detail::require_scalable_formats(name, options_.formats);
    detail::require_margins(name, options_.margins);
    detail::require_scale_format(name, options_.scales);
    require_not_negative(name, "a least maximum", options_.least_maximum);
  }

  [[nodiscard]] const TensorScalingOptions& options() const& { return options_; }
  [[nodiscard]] TensorScalingOptions options() const&& { return options_; }

  [[nodiscard]] std::optional<OperandForms> operand(const OperandSite& site,
                                                    const EncodedArray& array) override {
    const Format& format = options_.formats[site.role];
    if (options_.margins.input == options_.margins.weight) {
      if (const auto* shared = detail::shared_operand(site, format, options_.scales)) {
        return OperandForms{*shared};
      }
    }
    const float maximum = largest_magnitude(array, site.memory);
    return OperandForms{detail::encode_of_maximum(
        array, maximum, format, factor(maximum, site.role), options_.scales, site.memory)};
  }

 private:
  static constexpr std::string_view name = "TensorScaling";

  [[nodiscard]] float factor(float maximum, ops::OperandRole role) const {
    double counted = 0;
    in_default_arithmetic([&] { counted = static_cast<double>(maximum); });
    if (!std::isfinite(counted)) return 1;
    counted = std::max(counted, options_.least_maximum);
    if (counted == 0) return 1;
    return tensor_scale_factor(counted, options_.formats[role].spec(), options_.margins[role],
                               options_.scales);
  }

  TensorScalingOptions options_;
};

/// Which of the maxima that it has kept `DelayedScaling` takes, as TransformerEngine names them.
enum class AmaxRule {
  max,          ///< the largest of them
  most_recent,  ///< that of the last step
};

struct DelayedScalingOptions {
  ByRole<Format> formats = fp8_formats;
  /// As in `TensorScalingOptions`.
  ByRole<int> margins = {.input = 0, .weight = 0, .gradient = 0};
  /// How many steps the maxima of which are kept.
  std::size_t history_length = 1024;
  AmaxRule amax_rule = AmaxRule::max;
  /// As in `TensorScalingOptions`. `power_of_two` is the rule of MS-AMP and of TransformerEngine's
  /// first releases.
  ScaleFormat scales = ScaleFormat::binary32;
};

/// Scales each operand by the maxima that the operands of its site had in the steps before
/// ("delayed scaling"). So an operand is rounded at once, and its own maximum is for later steps.
///
/// - A site is what `write_name` names. Uses of it in one step have one factor, and their largest
///   maximum counts.
/// - The factor is 1 at first, and stays as it is if the maximum that counts is 0.
/// - Maxima of 0 and of tensors without elements are kept. A maximum that is not finite is not: the
///   maxima that there are decide. TransformerEngine keeps infinite ones, and the factor then stays
///   as it is until the last of them has left the history, after 1024 steps by default. So one
///   overflow under a dynamic loss scale would cost it the scales of gradients. MS-AMP, whose
///   history is one step, keeps the factor as this class does.
/// - A step that does not use a site leaves its history. TransformerEngine enters a maximum of 0.
///
/// It learns from every tape that uses it. Give a tape for validation a copy.
///
/// Numbers beyond the format saturate, except in a tensor that is not finite, as `TensorScaling`
/// has it. Operands of parameters are asked for at each use, so that a run which is resumed between
/// two batches of a step has the same bits.
///
/// The state is one array for each site by name, "history": the factor, the maximum of the step
/// that runs or −1 for none, and those of the last `history_length` steps, the last one first.
/// @see `tensor_scale_factor` for the rule and its sources.
class DelayedScaling final : public Recipe {
 public:
  /// @throws DomainError as `TensorScaling` does, and for a history of no step.
  explicit DelayedScaling(const DelayedScalingOptions& options = {}) : options_(options) {
    detail::require_scalable_formats(name, options_.formats);
    detail::require_margins(name, options_.margins);
    detail::require_scale_format(name, options_.scales);
    require_size(name, "a history length", options_.history_length);
  }

  [[nodiscard]] const DelayedScalingOptions& options() const& { return options_; }
  [[nodiscard]] DelayedScalingOptions options() const&& { return options_; }

  /// Takes the maxima of the step that has ended to those of the steps before.
  void begin_step() override {
    for (auto& [site, history] : histories_) {
      if (history.data()[running] < 0) continue;
      float* const numbers = history.mutable_data();
      std::copy_backward(numbers + running, numbers + history.size() - 1, numbers + history.size());
      numbers[running] = none;
    }
  }

  [[nodiscard]] std::optional<OperandForms> operand(const OperandSite& site,
                                                    const EncodedArray& array) override {
    write_name(site, name_);
    auto found = histories_.find(name_);
    if (found == histories_.end()) found = histories_.emplace(name_, new_history()).first;
    float* const numbers = found->second.mutable_data();
    const Format& format = options_.formats[site.role];
    if (const double counted = amax(numbers); counted > 0) {
      numbers[factor] =
          tensor_scale_factor(counted, format.spec(), options_.margins[site.role], options_.scales);
    }
    const float maximum = largest_magnitude(array, site.memory);
    if (std::isfinite(maximum)) {
      in_default_arithmetic([&] { numbers[running] = std::max(numbers[running], maximum); });
    }
    return OperandForms{.array = detail::encode_of_maximum(array, maximum, format, numbers[factor],
                                                           options_.scales, site.memory),
                        .is_lasting = false};
  }

  /// @throws DomainError if a visitor writes a history of another length, or a factor or a maximum
  ///         that no training has. Nothing is written then.
  void visit_state(const RecipeStateVisitor& visit) override {
    auto shown = histories_;
    visit("history", shown);
    for (const auto& [site, history] : shown) {
      require(history.shape() == Shape{length()}, name, "expected a history of ", length(),
              " numbers for ", in_quotes(site), ", got ", history.size());
      require_state(site, history.span());
    }
    histories_ = std::move(shown);
  }

 private:
  static constexpr std::string_view name = "DelayedScaling";
  // Places in the array of a site.
  static constexpr std::size_t factor = 0;
  static constexpr std::size_t running = 1;
  static constexpr std::size_t first_kept = 2;
  static constexpr float none = -1;

  [[nodiscard]] std::size_t length() const {
    return size_sum(name, {first_kept, options_.history_length});
  }

  /// What a history may hold.
  void require_state(std::string_view site, std::span<const float> history) const {
    const float of_site = history[factor];
    int exponent = 0;
    const bool is_stored =
        options_.scales != ScaleFormat::power_of_two || std::frexp(of_site, &exponent) == 0.5F;
    require(of_site >= 0x1p-127F && std::isfinite(of_site) && is_stored, name,
            "expected a finite factor of at least 2^-127 for ", in_quotes(site),
            is_stored ? "" : ", a power of two", ", got ", of_site);
    const auto is_maximum = [](float number) { return number >= 0 && std::isfinite(number); };
    for (std::size_t i = running; i < history.size(); ++i) {
      require(is_maximum(history[i]) || (i == running && history[i] == none), name,
              "expected finite maxima of at least 0 for ", in_quotes(site), ", got ", history[i]);
    }
  }

  [[nodiscard]] Array<float> new_history() const {
    Array<float> history = Array<float>::filled(Shape{length()}, 0.0F);
    history.mutable_data()[factor] = 1;
    history.mutable_data()[running] = none;
    return history;
  }

  /// The maximum that counts, of those of the steps before.
  [[nodiscard]] double amax(const float* numbers) const {
    const float* const kept = numbers + first_kept;
    const std::size_t count = options_.amax_rule == AmaxRule::max ? options_.history_length : 1;
    double result = 0;
    const auto largest = std::bit_cast<float>(kernels::largest_magnitude_bits(kept, count));
    in_default_arithmetic([&] { result = static_cast<double>(largest); });
    return result;
  }

  DelayedScalingOptions options_;
  std::map<std::string, Array<float>> histories_;
  std::string name_;  ///< its memory is used again
};

struct ConstantScalingOptions {
  /// Operands are multiplied with 2^bias.
  int bias = 0;
  ByRole<Format> formats = fp8_formats;
};

/// Multiplies every operand, whether input, weight or gradient, with one constant, 2^bias
/// (FP8-CSCALE): reads nothing more than a policy does, and keeps nothing. With a bias of 0 and
/// formats of a policy it has the bits of that policy.
///
/// Numbers beyond the format saturate, infinities as well, as they do under a policy.
///
///     tape.use_recipe(ConstantScaling({.bias = 4}));
///
/// @see Perez et al. 2023, arXiv:2309.17224.
class ConstantScaling final : public Recipe {
 public:
  /// @throws DomainError for a bias beyond −127 to 127, or a format without a sign or beyond
  ///         binary32.
  explicit ConstantScaling(const ConstantScalingOptions& options) : options_(options) {
    constexpr std::string_view name = "ConstantScaling";
    detail::require_signed_formats(name, options_.formats);
    require(options_.bias >= -127 && options_.bias <= 127, name,
            "expected a bias from -127 to 127, got ", options_.bias);
  }

  [[nodiscard]] const ConstantScalingOptions& options() const& { return options_; }
  [[nodiscard]] ConstantScalingOptions options() const&& { return options_; }

  [[nodiscard]] std::optional<OperandForms> operand(const OperandSite& site,
                                                    const EncodedArray& array) override {
    const Format& format = options_.formats[site.role];
    if (const auto* shared = detail::shared_operand(site, format, ScaleFormat::power_of_two)) {
      return OperandForms{*shared};
    }
    float factor = 0;
    in_default_arithmetic([&] { factor = std::ldexp(1.0F, options_.bias); });
    return OperandForms{detail::encode_times_factor(
        array, format, factor, ScaleFormat::power_of_two, Overflow::saturate, site.memory)};
  }

 private:
  ConstantScalingOptions options_;
};

}  // namespace UNIT_SCALING_NAMESPACE

UNIT_SCALING_IEEE_END
