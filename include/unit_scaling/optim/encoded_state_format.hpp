// SPDX-License-Identifier: MIT
/// @file
/// Layer optim: states of optimisers as codes of any format, with a scale for the tensor or for
/// each group of elements, and with the range of each group expanded.
///
/// It rounds to every format in every way, which takes time to compile.
// unit_scaling: optional
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <memory_resource>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "unit_scaling/autograd/parameter.hpp"
#include "unit_scaling/core/arithmetic.hpp"
#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/random.hpp"
#include "unit_scaling/core/shape.hpp"
#include "unit_scaling/core/simd.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/formats/block_scales.hpp"
#include "unit_scaling/formats/catalogue.hpp"
#include "unit_scaling/formats/encode.hpp"
#include "unit_scaling/formats/encoded_array.hpp"
#include "unit_scaling/formats/encoded_array_codec.hpp"
#include "unit_scaling/formats/format.hpp"
#include "unit_scaling/formats/scale_layout.hpp"
#include "unit_scaling/formats/stochastic_rounding.hpp"
#include "unit_scaling/kernels/lanes.hpp"
#include "unit_scaling/kernels/largest_magnitude.hpp"
#include "unit_scaling/optim/range_expansion.hpp"
#include "unit_scaling/optim/state_format.hpp"
#include "unit_scaling/optim/step_on_codes.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::optim {

/// Which elements of a state share a scale.
enum class StateScale {
  none,        ///< There is no scale.
  per_tensor,  ///< All do: a power of two, under which no element overflows.
  per_group,   ///< Those of a group, counted through the rows: its largest magnitude becomes the
               ///< largest number of the format.
};

/// A format of states: codes of a number format, scales and expansion.
///
/// With the largest number F of the format, an element x becomes
///
/// | scale | is stored as the code of | comes back as |
/// | --- | --- | --- |
/// | none | x | the number q of the code |
/// | per tensor | x / s, s = 2^-⌊log₂(F / b)⌋ for a bound b on abs(x) | q s |
/// | per group, of largest magnitude M | x (1 / s), s = M / F | q s |
/// | the same, expanded | F sign(x) (abs(x) / M)^k | M sign(q) (abs(q) / F)^(1/k) |
///
/// - The last row is COAT's f(x) = sign(x) abs(x)^k in FP8 under the scale max f(x) / F, written so
///   that M and 0 come back as they were, to the bit. The code of COAT divides by √(max · min) of
///   the group first, which cancels: its codes are these but for the rounding of the powers.
/// - Ranges are expanded in formats of at most 8 bits. k is at most 2^16: in a group whose
///   magnitudes are all the same, each is the largest.
/// - A scale s per group is at least 2^-126, and per tensor between 2^-127 and 2^127, so numbers
///   below F 2^-126 need not use all of the range. Nothing is scaled in a group of zeros, and a
///   tensor of zeros keeps the scale that it had.
/// - Finite numbers beyond F, which there are without scales, become F. What is not finite becomes
///   infinity, or NaN if the format has no infinity, and no scale depends on it.
///
/// Memory: codes, 8 bytes for the scale of the tensor and its largest magnitude, or 4 for the scale
/// of each group, and 4 bytes for the k of each group whose range is expanded.
/// @see Peng et al. 2023, arXiv:2310.18313, section 2.2, and MS-AMP's `adamw.cu`
///      (github.com/Azure/MS-AMP), for scales per tensor. Xi et al. 2024, arXiv:2410.19313,
///      and its kernel `fp8_adamw_expand` (github.com/NVlabs/COAT), for groups and expansion.
class EncodedStateFormat final : public StateFormat {
 public:
  struct Options {
    Format format = Format::of<float8_e4m3fn>();
    StateScale scale = StateScale::per_tensor;
    /// Elements of a group: a power of two from 16 to 256.
    std::size_t group = 128;
    RangeExpansion expansion = RangeExpansion::none;
    Rounding rounding = Rounding::nearest_even;
    /// Of the random bits of Rounding::stochastic.
    std::uint64_t seed = 0;
  };

  /// @throws DomainError for binary64, a format without sign or zero, or another size of a group;
  ///         for scales per group in a format whose largest number is below 1; and if ranges are to
  ///         be expanded that are not those of groups, or in more than 8 bits.
  explicit EncodedStateFormat(const Options& options)
      : options_(checked(options)), expander_(options.expansion, options.format.spec()) {
    if (options.format == Format::of<float8_e4m3fn>()) type_ = Type::e4m3;
    if (options.format == Format::of<float8_e5m2>()) type_ = Type::e5m2;
    if (options.format == Format::of<float16>()) type_ = Type::float16;
    if (options.format == Format::of<bfloat16>()) type_ = Type::bfloat16;
    largest_ = static_cast<float>(options.format.spec().max_finite());
  }

  [[nodiscard]] const Options& options() const& { return options_; }
  [[nodiscard]] Options options() const&& { return options_; }

  [[nodiscard]] OptimiserState zeros(const Shape& shape) const override {
    OptimiserState state{.is_encoded = true};
    state.codes =
        EncodedArray(shape, options_.format,
                     Array<std::uint8_t>::filled({options_.format.code_bytes(shape.size())}, 0));
    const std::size_t groups = (shape.size() + options_.group - 1) / options_.group;
    if (has_tensor_scale()) state.scales = Array<float>({2}, {1.0F, 0.0F});
    if (options_.scale == StateScale::per_group) {
      state.scales = Array<float>::filled({groups}, 1);
    }
    if (options_.expansion != RangeExpansion::none) {
      state.exponents = Array<float>::filled({groups}, 1);
    }
    return state;
  }

  [[nodiscard]] bool fits(const OptimiserState& state) const override {
    const std::size_t groups = (state.codes.size() + options_.group - 1) / options_.group;
    const bool is_in_groups = options_.scale == StateScale::per_group;
    const bool is_expanded = options_.expansion != RangeExpansion::none;
    return state.is_encoded && state.codes.format() == options_.format &&
           !state.codes.has_scales() &&
           state.scales.size() == (is_in_groups         ? groups
                                   : has_tensor_scale() ? 2
                                                        : 0) &&
           state.exponents.size() == (is_expanded ? groups : 0);
  }

  [[nodiscard]] EncodedMasterCopy master_copy(const Shape& shape) const override {
    require(options_.scale != StateScale::per_group, name,
            "expected master weights under one scale for a tensor, or none, got scales of groups");
    const EncodedArray codes = zeros(shape).codes;
    return {has_tensor_scale() ? codes.with_scale(ScaleFormat::binary32, 1) : codes,
            [](const EncodedArray& array, std::pmr::memory_resource* resource) {
              return array.decode(resource);
            }};
  }

  [[nodiscard]] bool is_master_copy_of(const Parameter& parameter) const override {
    if (!parameter.is_encoded() || options_.scale == StateScale::per_group) return false;
    const EncodedArray& codes = parameter.encoded->codes;
    return codes.format() == options_.format &&
           codes.scale_layout() == (has_tensor_scale()
                                        ? ScaleLayout::per_tensor(ScaleFormat::binary32)
                                        : ScaleLayout{});
  }

  void encode_master_copy(const Array<float>& numbers, float largest, const StateSite& site,
                          EncodedMasterCopy& to) const override {
    const DefaultArithmetic arithmetic;
    const float* const from = numbers.data();
    const float scale = has_tensor_scale() ? tensor_scale(largest, 1) : 1;
    const StateMemory memory{to.codes.mutable_codes().data(), nullptr, nullptr, scale};
    detail::for_each_chunk(numbers.size(), [&](std::size_t first, std::size_t count) {
      encode(from + first, first, count, scale, site, memory);
    });
    if (has_tensor_scale()) {
      std::memcpy(to.codes.mutable_scale_codes().data(), &scale, sizeof(scale));
    }
  }

  void encode_master_weights(std::span<Parameter* const> parameters) const override {
    static_cast<void>(master_copy({0}));  // throws if there are none such
    std::vector<EncodedMasterCopy> copies;
    for (std::size_t k = 0; k < parameters.size(); ++k) {
      const Parameter& parameter = *parameters[k];
      if (is_master_copy_of(parameter)) continue;
      copies.push_back(master_copy(parameter.shape()));
      const Array<float> numbers = parameter.floats();
      encode_master_copy(numbers, kernels::largest_finite_magnitude(numbers.data(), numbers.size()),
                         {0, static_cast<std::uint32_t>(3 * k + 2)}, copies.back());
    }
    auto copy = copies.begin();
    for (Parameter* const parameter : parameters) {
      if (is_master_copy_of(*parameter)) continue;
      parameter->encoded = std::move(*copy++);
      parameter->value = {};
    }
  }

  [[nodiscard]] bool has_tensor_scale() const override {
    return options_.scale == StateScale::per_tensor;
  }

  [[nodiscard]] float tensor_scale(float largest, float before) const override {
    return largest > 0 ? power_of_two_scale(largest, options_.format, ScaleRounding::round_up)
                       : before;
  }

  [[nodiscard]] float stored_bound(float largest, float tensor_scale) const override {
    // Rounding that depends on the sign or on a draw may round up any number.
    const bool is_symmetric = options_.rounding == Rounding::nearest_even ||
                              options_.rounding == Rounding::nearest_away ||
                              options_.rounding == Rounding::toward_zero;
    float number = largest / tensor_scale;
    options_.format.quantise(
        std::span(&number, 1), std::span(&number, 1),
        {.rounding = is_symmetric ? options_.rounding : Rounding::toward_positive});
    return number * tensor_scale;
  }

  void decode(const StateMemory& from, std::size_t first, std::size_t count,
              float* out) const override {
    if (options_.scale != StateScale::per_group) {
      const float scale = options_.scale == StateScale::none ? 1.0F : from.tensor_scale;
      return decode_codes(from.codes, first, count, scale, out);
    }
    for (std::size_t i = 0; i < count; i += options_.group) {
      const std::size_t group = (first + i) / options_.group;
      const std::size_t size = std::min(options_.group, count - i);
      const float scale = from.scales[group];
      if (options_.expansion == RangeExpansion::none) {
        decode_codes(from.codes, first + i, size, scale, out + i);
      } else if (type_ == Type::e4m3) {
        expander_.contract_e4m3(from.codes + first + i, size, scale, from.exponents[group],
                                out + i);
      } else {
        decode_codes(from.codes, first + i, size, 1, out + i);
        expander_.contract(out + i, size, scale, from.exponents[group]);
      }
    }
  }

  void encode(const float* in, std::size_t first, std::size_t count, float tensor_scale,
              const StateSite& site, const StateMemory& to) const override {
    if (options_.scale == StateScale::per_group) return encode_groups(in, first, count, site, to);
    // Exactly, for the scale is a power of two.
    const float factor = options_.scale == StateScale::none ? 1 : 1 / tensor_scale;
    encode_codes(first, count, site, to.codes, Scaled{in, factor});
  }

  void take_step(const EncodedNumbers& numbers, bool needs_largest_weight, const StateSite& site,
                 const StepOnCodes& step) const override {
    detail::take_step_on_codes(numbers, needs_largest_weight, site, step);
  }

 private:
  static constexpr std::string_view name = "EncodedStateFormat";
  static_assert(chunk <= detail::RangeExpander::largest_group);
  enum class Type { e4m3, e5m2, float16, bfloat16, other };

  /// @throws DomainError as the constructor says.
  [[nodiscard]] static const Options& checked(const Options& options) {
    require(!options.format.is_binary64() && options.format.spec().has_sign() &&
                options.format.spec().has_zero(),
            name, "expected a format of signed numbers within binary32, got ", options.format);
    require(std::has_single_bit(options.group) && options.group >= lanes && options.group <= chunk,
            name, "expected groups of a power of two from 16 to 256 elements, got ", options.group);
    require(options.expansion == RangeExpansion::none || options.scale == StateScale::per_group,
            name, "expected scales per group where ranges are expanded");
    const FormatSpec spec = options.format.spec();
    require(options.expansion == RangeExpansion::none || spec.bits() <= 8, name,
            "expected a format of at most 8 bits where ranges are expanded, got ", options.format);
    require(options.scale != StateScale::per_group || spec.max_finite() >= 1, name,
            "expected a format with numbers from 1 on for scales per group, got ", options.format);
    return options;
  }

  /// `encode` for groups that have a scale each.
  void encode_groups(const float* in, std::size_t first, std::size_t count, const StateSite& site,
                     const StateMemory& to) const {
    // Whole vectors, of which the last has the first element of its group again: that changes
    // neither the largest nor the smallest of the group.
    float whole[chunk];
    const std::size_t padded = (count + lanes - 1) / lanes * lanes;
    if (padded != count) {
      std::copy_n(in, count, whole);
      std::fill(whole + count, whole + padded, in[(count - 1) / options_.group * options_.group]);
      in = whole;
    }
    // One loop after the other, for the steps that lead to a scale each wait for the one before,
    // and so the processor takes those of several groups at a time.
    const std::size_t groups = (count + options_.group - 1) / options_.group;
    detail::MagnitudeRange ranges[chunk / lanes];
    for (std::size_t j = 0; j < groups; ++j) {
      const std::size_t i = j * options_.group;
      ranges[j] = expander_.range_of(in + i, std::min(options_.group, padded - i));
    }
    const std::size_t first_group = first / options_.group;
    float* const scales = to.scales + first_group;
    if (options_.expansion == RangeExpansion::none) {
      for (std::size_t j = 0; j < groups; ++j) {
        const float scale =
            std::max(ranges[j].largest / largest_, std::numeric_limits<float>::min());
        scales[j] = ranges[j].largest == 0 ? 1.0F : scale;
      }
    } else {
      for (std::size_t j = 0; j < groups; ++j) scales[j] = ranges[j].largest;
      expander_.find_exponents(ranges, groups, to.exponents + first_group);
    }
    const bool has_shortcut = options_.expansion != RangeExpansion::none && type_ == Type::e4m3 &&
                              is_rounded_to_nearest_of_type() &&
                              unit_scaling::detail::sums_name_their_mode;
    if (has_shortcut) {
      if (padded != count) ranges[groups - 1].are_normal = false;
      expander_.expand_e4m3({in, count}, options_.group, ranges, to.exponents + first_group,
                            to.codes + first);
    }
    for (std::size_t j = 0; j < groups; ++j) {
      if (has_shortcut && ranges[j].are_normal) continue;
      const std::size_t i = j * options_.group;
      const std::size_t size = std::min(options_.group, count - i);
      const auto encode = [&](const auto& number_at) {
        encode_codes(first + i, size, site, to.codes, number_at);
      };
      if (options_.expansion == RangeExpansion::none) {
        encode(Scaled{in + i, 1 / scales[j]});
      } else if (ranges[j].largest == 0) {  // There is nothing to be raised to a power.
        encode(Scaled{in + i, 1});
      } else if (ranges[j].are_normal) {
        encode(expander_.expanded<false>(in + i, scales[j], to.exponents[first_group + j]));
      } else {
        encode(expander_.expanded<true>(in + i, scales[j], to.exponents[first_group + j]));
      }
    }
  }

  /// Whether conversions of a type round as is asked for. Under a scale that follows from the
  /// numbers, those to be rounded exceed F by roundings at most, which are lost.
  [[nodiscard]] bool is_rounded_to_nearest_of_type() const {
    return options_.scale != StateScale::none && options_.rounding == Rounding::nearest_even;
  }

  /// Calls `body.template operator()<T>()` for the type of the codes, if they have one that is
  /// converted by fewer instructions than a format at run time; else returns false.
  template <class Body> bool with_type_of_codes(const Body& body) const {
    switch (type_) {
      case Type::e4m3:
        body.template operator()<float8_e4m3fn>();
        return true;
      case Type::e5m2:
        body.template operator()<float8_e5m2>();
        return true;
      case Type::float16:
        body.template operator()<unit_scaling::float16>();
        return true;
      case Type::bfloat16:
        body.template operator()<unit_scaling::bfloat16>();
        return true;
      case Type::other:
        break;
    }
    return false;
  }

  /// The numbers of codes times `scale`.
  void decode_codes(const std::uint8_t* codes, std::size_t first, std::size_t count, float scale,
                    float* out) const {
    const Format& format = options_.format;
    const std::uint8_t* const from = codes + format.code_bytes(first);
    const bool is_done = with_type_of_codes([&]<class T>() {
      const T* const typed = reinterpret_cast<const T*>(from);
      kernels::for_lanes<float>(count, [&](std::size_t i, auto some) {
        kernels::store<Overflow::infinity_or_nan, float>(
            kernels::load<float>(typed + i, some) * scale, out + i, some);
      });
    });
    if (is_done) return;
    format.decode({from, format.code_bytes(count)}, {out, count});
    for (std::size_t i = 0; i < count; ++i) out[i] *= scale;
  }

  /// The codes of the numbers of a state from element `first` on.
  /// @param number_at gives those from one of them on, some of 16.
  template <class NumberAt>
  void encode_codes(std::size_t first, std::size_t count, const StateSite& site,
                    std::uint8_t* codes, const NumberAt& number_at) const {
    const Format& format = options_.format;
    std::uint8_t* const to = codes + format.code_bytes(first);
    const bool is_done =
        is_rounded_to_nearest_of_type() && with_type_of_codes([&]<class T>() {
          T* const typed = reinterpret_cast<T*>(to);
          const NumberAt from = number_at;
          kernels::for_lanes<float>(count, [&](std::size_t i, auto some) {
            kernels::store<Overflow::infinity_or_nan, float>(from(i, some), typed + i, some);
          });
        });
    if (is_done) return;
    float numbers[chunk];
    kernels::for_lanes<float>(count, [&](std::size_t i, auto some) {
      kernels::store<Overflow::infinity_or_nan, float>(number_at(i, some), numbers + i, some);
    });
    for (std::size_t i = 0; i < count; ++i) {
      if (std::isfinite(numbers[i])) numbers[i] = std::clamp(numbers[i], -largest_, largest_);
    }
    EncodeOptions how{.overflow = Overflow::infinity_or_nan, .rounding = options_.rounding};
    if (options_.rounding == Rounding::stochastic) {
      how.random =
          StochasticRounding(Random(options_.seed, RandomStream::rounding, site.step, site.state));
      how.first_element = first;
    }
    format.encode({numbers, count}, {to, format.code_bytes(count)}, how);
  }

  /// Numbers times a factor.
  struct Scaled {
    template <class Count>
    [[nodiscard, gnu::always_inline]] float32x16 operator()(std::size_t i, Count some) const {
      return kernels::load<float>(numbers + i, some) * factor;
    }

    const float* numbers;
    float factor;
  };

  Options options_;
  detail::RangeExpander expander_;
  float largest_ = 0;  ///< F
  Type type_ = Type::other;
};

}  // namespace UNIT_SCALING_NAMESPACE::optim

UNIT_SCALING_IEEE_END
