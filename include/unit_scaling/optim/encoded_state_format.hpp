// SPDX-License-Identifier: MIT
/// @file
/// Layer optim: states of optimisers as codes of any format, with a scale for the tensor or for
/// each group of elements, and with the range of each group expanded.
///
/// It rounds to every format in every way, which takes time to compile.
// unit_scaling: optional
#pragma once

#include <algorithm>
#include <array>
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

#if defined(__AVX512F__)
#include <immintrin.h>  // the one vector instruction that no operator spells: a look-up
#endif

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
#include "unit_scaling/kernels/power.hpp"
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

/// COAT's dynamic range expansion: before they are rounded, the elements of a group are raised to
/// the power k, so that the range of the group becomes that of the format. k depends on the ratio R
/// of the largest magnitude of the group to its smallest one.
enum class RangeExpansion {
  none,  ///< k = 1
  /// The paper's: k = log(largest / smallest number of the format) / log R, where R counts no zero.
  /// For float8_e4m3fn the ratio of the format is 448 / 2^-9 = 229376.
  coat_paper,
  /// The code's: k = ⌊16 log(largest² / 2) / log R⌋ / 16, where 1e-30 is added to both magnitudes
  /// and a zero counts. For float8_e4m3fn the ratio of the format is 448² / 2 = 100352. In a group
  /// of magnitudes below 1e-30, those that are not near the largest become zero. One version of the
  /// kernel adds 1e-20.
  coat_code,
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
  explicit EncodedStateFormat(const Options& options) : options_(options) {
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
    if (options.format == Format::of<float8_e4m3fn>()) type_ = Type::e4m3;
    if (options.format == Format::of<float8_e5m2>()) type_ = Type::e5m2;
    if (options.format == Format::of<float16>()) type_ = Type::float16;
    if (options.format == Format::of<bfloat16>()) type_ = Type::bfloat16;
    for (std::size_t i = 1; i < lanes; ++i) {
      log2_of_significands_[i] = static_cast<float>(std::log2(static_cast<double>(i) / 8 / 1.75));
    }
    largest_ = static_cast<float>(spec.max_finite());
    log2_range_ =
        static_cast<float>(options.expansion == RangeExpansion::coat_code
                               ? 2 * std::log2(spec.max_finite()) - 1
                               : std::log2(spec.max_finite()) - spec.min_subnormal_exponent());
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
        contract_e4m3(from.codes + first + i, size, scale, from.exponents[group], out + i);
      } else {
        decode_codes(from.codes, first + i, size, 1, out + i);
        contract(out + i, size, scale, from.exponents[group]);
      }
    }
  }

  void encode(const float* in, std::size_t first, std::size_t count, float tensor_scale,
              const StateSite& site, const StateMemory& to) const override {
    encode_at(first, in, first, count, tensor_scale, site, to);
  }

  void take_step(const EncodedNumbers& numbers, bool needs_largest_weight, const StateSite& site,
                 const StepOnCodes& step) const override {
    detail::take_step_on_codes(numbers, needs_largest_weight, site, step);
  }

 private:
  static constexpr std::string_view name = "EncodedStateFormat";
  static constexpr float largest_exponent = 0x1p16F;
  enum class Type { e4m3, e5m2, float16, bfloat16, other };

  /// Encodes a chunk of a state, of which `first` is the number of the first element, to where
  /// element `at` has its place.
  void encode_at(std::size_t at, const float* in, std::size_t first, std::size_t count,
                 float tensor_scale, const StateSite& site, const StateMemory& to) const {
    if (options_.scale != StateScale::per_group) {
      // Exactly, for the scale is a power of two.
      const float factor = options_.scale == StateScale::none ? 1 : 1 / tensor_scale;
      return encode_codes(at, first, count, site, to.codes, Scaled{in, factor});
    }
    encode_groups(at, in, first, count, site, to);
  }

  /// The same for groups that have a scale each.
  void encode_groups(std::size_t at, const float* in, std::size_t first, std::size_t count,
                     const StateSite& site, const StateMemory& to) const {
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
    Range ranges[chunk / lanes];
    for (std::size_t j = 0; j < groups; ++j) {
      const std::size_t i = j * options_.group;
      ranges[j] = range_of(in + i, std::min(options_.group, padded - i));
    }
    const std::size_t first_group = at / options_.group;
    float* const scales = to.scales + first_group;
    if (options_.expansion == RangeExpansion::none) {
      for (std::size_t j = 0; j < groups; ++j) {
        const float scale =
            std::max(ranges[j].largest / largest_, std::numeric_limits<float>::min());
        scales[j] = ranges[j].largest == 0 ? 1.0F : scale;
      }
    } else {
      for (std::size_t j = 0; j < groups; ++j) scales[j] = ranges[j].largest;
      find_exponents(ranges, groups, to.exponents + first_group);
    }
    const bool has_shortcut = options_.expansion != RangeExpansion::none && type_ == Type::e4m3 &&
                              is_rounded_to_nearest_of_type() &&
                              unit_scaling::detail::sums_name_their_mode<uint32x16>;
    if (has_shortcut) {
      if (padded != count) ranges[groups - 1].are_normal = false;
      expand_e4m3(in, count, ranges, to.exponents + first_group, to.codes + at);
    }
    for (std::size_t j = 0; j < groups; ++j) {
      if (has_shortcut && ranges[j].are_normal) continue;
      const std::size_t i = j * options_.group;
      const std::size_t size = std::min(options_.group, count - i);
      const auto encode = [&](const auto& number_at) {
        encode_codes(at + i, first + i, size, site, to.codes, number_at);
      };
      if (options_.expansion == RangeExpansion::none) {
        encode(Scaled{in + i, 1 / scales[j]});
      } else if (ranges[j].largest == 0) {  // There is nothing to be raised to a power.
        encode(Scaled{in + i, 1});
      } else if (ranges[j].are_normal) {
        encode(Expanded<false>(in + i, scales[j], to.exponents[first_group + j], largest_));
      } else {
        encode(Expanded<true>(in + i, scales[j], to.exponents[first_group + j], largest_));
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

  /// The codes of numbers, at the place of element `at`. The first of them is element `first` of
  /// the state.
  /// @param number_at gives those from one of them on, some of 16.
  template <class NumberAt>
  void encode_codes(std::size_t at, std::size_t first, std::size_t count, const StateSite& site,
                    std::uint8_t* codes, const NumberAt& number_at) const {
    const Format& format = options_.format;
    std::uint8_t* const to = codes + format.code_bytes(at);
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

  /// Largest and smallest magnitude of a group, those of finite numbers; 0 if there is none.
  struct Range {
    float largest;
    float smallest;   ///< of those other than zero, unless zeros count
    bool are_normal;  ///< all of them: neither zero nor subnormal, and finite
  };

  [[nodiscard]] static int32x16 magnitude_bits(float32x16 x) {
    return bit_cast_to<int32x16>(bit_cast_to<uint32x16>(x) & 0x7fff'ffffU);
  }

  static constexpr std::int32_t infinity_bits = 0x7f80'0000;

  /// @pre size is a multiple of lanes
  [[nodiscard]] Range range_of(const float* numbers, std::size_t size) const {
    constexpr std::int32_t least_normal = 0x0080'0000;
    // The smallest are the greatest of the complements.
    int32x16 largest{};
    int32x16 smallest = splat<int32x16>(std::numeric_limits<std::int32_t>::min());
    for (std::size_t i = 0; i < size; i += lanes) {
      const int32x16 bits = magnitude_bits(load<float32x16>(numbers + i));
      largest = unit_scaling::detail::greater_lanes(largest, bits);
      smallest = unit_scaling::detail::greater_lanes(smallest, ~bits);
    }
    const auto ends = unit_scaling::detail::greatest_lanes({largest, smallest, largest, smallest});
    const std::int32_t of_largest = ends.of[0];
    const std::int32_t of_smallest = ~ends.of[1];
    const bool has_zeros_to_leave_out =
        of_smallest == 0 && options_.expansion == RangeExpansion::coat_paper;
    if (has_zeros_to_leave_out || of_largest >= infinity_bits) return range_of_some(numbers, size);
    return {std::bit_cast<float>(of_largest), std::bit_cast<float>(of_smallest),
            of_smallest >= least_normal};
  }

  /// The same where zeros, or numbers that are not finite, are to be left out.
  [[nodiscard, gnu::noinline]] Range range_of_some(const float* numbers, std::size_t size) const {
    const bool zeros_count = options_.expansion == RangeExpansion::coat_code;
    std::int32_t largest = 0;
    std::int32_t smallest = infinity_bits;
    for (std::size_t i = 0; i < size; ++i) {
      const auto bits = std::bit_cast<std::int32_t>(std::fabs(numbers[i]));
      if (bits >= infinity_bits) continue;
      largest = std::max(largest, bits);
      if (bits != 0 || zeros_count) smallest = std::min(smallest, bits);
    }
    if (largest == 0) return {0, 0, false};
    return {std::bit_cast<float>(largest), std::bit_cast<float>(smallest), false};
  }

  /// The k of each group; 1 for a group of zeros.
  void find_exponents(const Range* ranges, std::size_t groups, float* exponents) const {
    const bool is_of_code = options_.expansion == RangeExpansion::coat_code;
    const float addend = is_of_code ? 1e-30F : 0.0F;
    // Groups by eights: their largest magnitudes are in the first eight lanes, the smallest ones in
    // the others.
    constexpr std::size_t half = lanes / 2;
    for (std::size_t j = 0; j < groups; j += half) {
      const std::size_t count = std::min(half, groups - j);
      float ends[lanes];
      std::fill(ends, ends + lanes, 1.0F);
      for (std::size_t lane = 0; lane < count; ++lane) {
        if (ranges[j + lane].largest == 0) continue;
        ends[lane] = ranges[j + lane].largest + addend;
        ends[half + lane] = ranges[j + lane].smallest + addend;
      }
      kernels::Log2 log2 = kernels::log2_in_parts(load<float32x16>(ends));
      // A fraction is a product. Some compilers would fuse it with the difference, some would not.
      asm("" : "+m"(log2.fraction));
      const float32x16 log2_ratio = (log2.exponent - second_half(log2.exponent)) +
                                    (log2.fraction - second_half(log2.fraction));
      const float32x16 least_ratio = splat<float32x16>(log2_range_ / largest_exponent);
      float32x16 exponent = select(is_less(least_ratio, log2_ratio), log2_range_ / log2_ratio,
                                   splat<float32x16>(largest_exponent));
      if (is_of_code) {
        // Formats of less range than FP8 have would get 0 for groups of most range.
        const auto floor = convert_to<float32x16>(convert_to<int32x16>(16 * exponent));
        exponent = greatest(floor, splat<float32x16>(1)) / 16;
      }
      store(exponent, ends);
      for (std::size_t lane = 0; lane < count; ++lane) {
        exponents[j + lane] = ranges[j + lane].largest == 0 ? 1.0F : ends[lane];
      }
    }
  }

  [[nodiscard]] static float32x16 second_half(float32x16 x) {
    return __builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15, 8, 9, 10, 11, 12, 13, 14,
                                   15);
  }

  /// `result` with the sign of x; x itself where it is 0 or not finite.
  [[nodiscard, gnu::always_inline]] static float32x16 with_sign_of(float32x16 x,
                                                                   float32x16 result) {
    const int32x16 bits = magnitude_bits(x);
    const int32x16 is_number =
        is_less(int32x16{}, bits) & is_less(bits, splat<int32x16>(0x7f80'0000));
    const auto sign = bit_cast_to<uint32x16>(x) & 0x8000'0000U;
    return select(is_number, bit_cast_to<float32x16>(bit_cast_to<uint32x16>(result) | sign), x);
  }

  /// log₂(|x| / y) of numbers other than zero. No logarithm is lost to the exponents.
  template <bool has_subnormals>
  [[nodiscard, gnu::always_inline]] static float32x16 log2_of_ratio(float32x16 x,
                                                                    const kernels::Log2& of_y) {
    const kernels::Log2 of_x =
        kernels::log2_in_parts<has_subnormals>(bit_cast_to<float32x16>(magnitude_bits(x)));
    return (of_x.exponent - of_y.exponent) + (of_x.fraction - of_y.fraction);
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

  /// k log₂(|x| / M) of numbers other than zero. What is below the least one has no code but that
  /// of zero.
  template <bool has_subnormals>
  [[nodiscard, gnu::always_inline]] static float32x16 log2_of_power(float32x16 x,
                                                                    const kernels::Log2& of_largest,
                                                                    float exponent) {
    return greatest(splat<float32x16>(-125),
                    log2_of_ratio<has_subnormals>(x, of_largest) * exponent);
  }

  /// F sign(x) (|x| / M)^k.
  template <bool has_subnormals> class Expanded {
   public:
    Expanded(const float* numbers, float largest, float exponent, float largest_of_format)
        : numbers_(numbers),
          log2_of_largest_(kernels::log2_in_parts(splat<float32x16>(largest))),
          exponent_(exponent),
          largest_of_format_(largest_of_format) {}

    template <class Count>
    [[nodiscard, gnu::always_inline]] float32x16 operator()(std::size_t i, Count some) const {
      const auto x = kernels::load<float>(numbers_ + i, some);
      const float32x16 power = kernels::exp2_within_limits(
          log2_of_power<has_subnormals>(x, log2_of_largest_, exponent_));
      return with_sign_of(x, power * largest_of_format_);
    }

   private:
    const float* numbers_;
    kernels::Log2 log2_of_largest_;
    float exponent_;
    float largest_of_format_;
  };

  /// Encodes the groups of a chunk whose numbers are all normal in float8_e4m3fn. No power exceeds
  /// the largest number but by roundings, so neither zeros nor overflow need be looked for.
  void expand_e4m3(const float* in, std::size_t count, const Range* ranges, const float* exponents,
                   std::uint8_t* codes) const {
    const float to_largest = largest_;
    const std::size_t group = options_.group;
    for (std::size_t begin = 0; begin < count; begin += group, ++ranges, ++exponents) {
      if (!ranges->are_normal) continue;
      const std::size_t end = std::min(count, begin + group);
      const kernels::Log2 of_largest = kernels::log2_in_parts(splat<float32x16>(ranges->largest));
      const float exponent = *exponents;
      // Two loops, for the processor can keep more of the short chains of each under way than of
      // those of both together.
      float logarithms[chunk];
      for (std::size_t i = begin; i < end; i += lanes) {
        store(log2_of_power<false>(load<float32x16>(in + i), of_largest, exponent),
              logarithms + (i - begin));
      }
      for (std::size_t i = begin; i < end; i += lanes) {
        const float32x16 power =
            kernels::exp2_within_limits(load<float32x16>(logarithms + (i - begin)));
        const auto magnitude = unit_scaling::detail::encode_magnitude_by_sum(
            float8_e4m3fn::format, bit_cast_to<uint32x16>(power * to_largest));
        const auto sign = (bit_cast_to<uint32x16>(load<float32x16>(in + i)) >> 24) & 0x80U;
        const auto bytes = convert_to<uint8x16>(magnitude | sign);
        std::memcpy(codes + i, &bytes, sizeof(bytes));
      }
    }
  }

  /// 2^x M for x ≤ 0, which may underflow where 2^x alone would.
  [[nodiscard, gnu::always_inline]] static float32x16 power_times(float32x16 x, float largest) {
    constexpr float lowest = -125;
    const float32x16 root =
        kernels::exp2_within_limits(greatest(splat<float32x16>(lowest), x * 0.5F));
    return root * largest * root;
  }

  /// The reverse of `expand`, in place: M sign(q) (|q| / F)^(1/k).
  void contract(float* numbers, std::size_t size, float largest, float exponent) const {
    const kernels::Log2 of_format = kernels::log2_in_parts(splat<float32x16>(largest_));
    const float root = 1 / exponent;
    kernels::for_lanes<float>(size, [&](std::size_t i, auto some) {
      const auto q = kernels::load<float>(numbers + i, some);
      kernels::store<Overflow::infinity_or_nan, float>(
          with_sign_of(q, power_times(log2_of_ratio<false>(q, of_format) * root, largest)),
          numbers + i, some);
    });
  }

  /// The same for codes of float8_e4m3fn, as a product of a power of two and one of a significand,
  /// of which a group has sixteen each: two look-ups take the place of a logarithm and a power.
  void contract_e4m3(const std::uint8_t* codes, std::size_t size, float largest, float exponent,
                     float* out) const {
    constexpr std::array<float, lanes> of_exponents{-14, -14, -13, -12, -11, -10, -9, -8,
                                                    -7,  -6,  -5,  -4,  -3,  -2,  -1, 0};
    const float root = 1 / exponent;
    const float32x16 powers = power_times(load<float32x16>(of_exponents.data()) * root, largest);
    // At 15/8 a root below 1 exceeds 1 by little.
    float32x16 significands = power_times(load<float32x16>(log2_of_significands_.data()) * root, 1);
    significands[0] = 0;
    kernels::for_lanes<float>(size, [&](std::size_t i, auto some) {
      uint8x16 bytes{};
      std::memcpy(&bytes, codes + i, some);
      const auto code = convert_to<uint32x16>(bytes);
      const auto exponents = code >> 3;
      const int32x16 is_normal = is_less(splat<int32x16>(7), bit_cast_to<int32x16>(code & 0x7fU));
      const auto fractions = (code & 7U) | (bit_cast_to<uint32x16>(is_normal) & 8U);
      const float32x16 magnitude = look_up(powers, exponents) * look_up(significands, fractions);
      const int32x16 is_nan = is_less(splat<int32x16>(126), bit_cast_to<int32x16>(code & 0x7fU));
      const auto bits =
          select(is_nan, splat<uint32x16>(0x7fc0'0000U), bit_cast_to<uint32x16>(magnitude));
      kernels::store<Overflow::infinity_or_nan, float>(
          bit_cast_to<float32x16>(bits | ((code & 0x80U) << 24)), out + i, some);
    });
  }

  /// The elements of a table by the last four bits of their numbers.
  [[nodiscard, gnu::always_inline]] static float32x16 look_up(float32x16 table, uint32x16 numbers) {
#if defined(__AVX512F__)
    return reinterpret_cast<float32x16>(_mm512_maskz_permutexvar_ps(
        0xffff, reinterpret_cast<__m512i>(numbers), reinterpret_cast<__m512>(table)));
#else
    float32x16 result;
    for (std::size_t lane = 0; lane < lanes; ++lane) result[lane] = table[numbers[lane] & 15U];
    return result;
#endif
  }

  Options options_;
  float largest_ = 0;  ///< F
  float log2_range_ = 0;
  Type type_ = Type::other;
  /// log₂ of significand / 1.75 for those of subnormal and normal numbers of float8_e4m3fn, the
  /// largest of which is 1.75 · 2^8.
  std::array<float, lanes> log2_of_significands_{};
};

}  // namespace UNIT_SCALING_NAMESPACE::optim

UNIT_SCALING_IEEE_END
