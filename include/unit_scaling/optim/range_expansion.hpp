// SPDX-License-Identifier: MIT
/// @file
/// Layer optim: COAT's dynamic range expansion of groups of numbers.
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
#include <span>

#if defined(__AVX512F__)
#include <immintrin.h>  // the one vector instruction that no operator spells: a look-up
#endif

#include "unit_scaling/core/simd.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/formats/block_scales.hpp"
#include "unit_scaling/formats/catalogue.hpp"
#include "unit_scaling/formats/encode.hpp"
#include "unit_scaling/formats/format_spec.hpp"
#include "unit_scaling/kernels/lanes.hpp"
#include "unit_scaling/kernels/power.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::optim {

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

namespace detail {

/// Largest and smallest magnitude of a group, those of finite numbers; 0 if there is none.
struct MagnitudeRange {
  float largest;
  float smallest;   ///< of those other than zero, unless zeros count
  bool are_normal;  ///< all of them: neither zero nor subnormal, and finite
};

/// Expands the ranges of groups of numbers to that of a format, whose largest number is F, and
/// back: with the largest magnitude M of a group, x becomes F sign(x) (|x| / M)^k.
class RangeExpander {
 public:
  static constexpr std::size_t largest_group = 256;

  RangeExpander(RangeExpansion expansion, const FormatSpec& spec)
      : expansion_(expansion),
        largest_(static_cast<float>(spec.max_finite())),
        log2_range_(static_cast<float>(expansion == RangeExpansion::coat_code
                                           ? 2 * std::log2(spec.max_finite()) - 1
                                           : std::log2(spec.max_finite()) -
                                                 spec.min_subnormal_exponent())) {
    for (std::size_t i = 1; i < lanes; ++i) {
      log2_of_significands_[i] = static_cast<float>(std::log2(static_cast<double>(i) / 8 / 1.75));
    }
  }

  /// Of the numbers of a group. @pre size is a multiple of lanes
  [[nodiscard]] MagnitudeRange range_of(const float* numbers, std::size_t size) const {
    constexpr std::int32_t least_normal = 0x0080'0000;
    // The smallest are the greatest of the complements.
    int32x16 largest{};
    int32x16 smallest = splat<int32x16>(std::numeric_limits<std::int32_t>::min());
    for (std::size_t i = 0; i < size; i += lanes) {
      const int32x16 bits = magnitude_bits(load<float32x16>(numbers + i));
      largest = greatest(largest, bits);
      smallest = greatest(smallest, ~bits);
    }
    const auto ends = unit_scaling::detail::greatest_lanes({largest, smallest, largest, smallest});
    const std::int32_t of_largest = ends.of[0];
    const std::int32_t of_smallest = ~ends.of[1];
    const bool has_zeros_to_leave_out =
        of_smallest == 0 && expansion_ == RangeExpansion::coat_paper;
    if (has_zeros_to_leave_out || of_largest >= infinity_bits) return range_of_some(numbers, size);
    return {std::bit_cast<float>(of_largest), std::bit_cast<float>(of_smallest),
            of_smallest >= least_normal};
  }

  /// The k of each group; 1 for a group of zeros.
  void find_exponents(const MagnitudeRange* ranges, std::size_t groups, float* exponents) const {
    const bool is_of_code = expansion_ == RangeExpansion::coat_code;
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

  /// The numbers of a group, expanded. @param largest M @param exponent k
  template <bool has_subnormals>
  [[nodiscard]] Expanded<has_subnormals> expanded(const float* numbers, float largest,
                                                  float exponent) const {
    return {numbers, largest, exponent, largest_};
  }

  /// Encodes those groups whose numbers are all normal in float8_e4m3fn. No power exceeds the
  /// largest number but by roundings, so neither zeros nor overflow need be looked for.
  /// @param in whole vectors. @param group their size, at most `largest_group`.
  /// @param ranges, exponents one for each group.
  void expand_e4m3(std::span<const float> in, std::size_t group, const MagnitudeRange* ranges,
                   const float* exponents, std::uint8_t* codes) const {
    const float to_largest = largest_;
    for (std::size_t begin = 0; begin < in.size(); begin += group, ++ranges, ++exponents) {
      if (!ranges->are_normal) continue;
      const std::size_t end = std::min(in.size(), begin + group);
      const kernels::Log2 of_largest = kernels::log2_in_parts(splat<float32x16>(ranges->largest));
      const float exponent = *exponents;
      // Two loops, for the processor can keep more of the short chains of each under way than of
      // those of both together.
      float logarithms[largest_group];
      for (std::size_t i = begin; i < end; i += lanes) {
        store(log2_of_power<false>(load<float32x16>(in.data() + i), of_largest, exponent),
              logarithms + (i - begin));
      }
      for (std::size_t i = begin; i < end; i += lanes) {
        const float32x16 power =
            kernels::exp2_within_limits(load<float32x16>(logarithms + (i - begin)));
        const auto magnitude = unit_scaling::detail::encode_magnitude_by_sum(
            float8_e4m3fn::format, bit_cast_to<uint32x16>(power * to_largest));
        const auto sign = (bit_cast_to<uint32x16>(load<float32x16>(in.data() + i)) >> 24) & 0x80U;
        const auto bytes = convert_to<uint8x16>(magnitude | sign);
        std::memcpy(codes + i, &bytes, sizeof(bytes));
      }
    }
  }

  /// The reverse of `expanded`, in place: M sign(q) (|q| / F)^(1/k).
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

 private:
  [[nodiscard]] static int32x16 magnitude_bits(float32x16 x) {
    return bit_cast_to<int32x16>(bit_cast_to<uint32x16>(x) & 0x7fff'ffffU);
  }

  static constexpr std::int32_t infinity_bits = 0x7f80'0000;

  /// The same where zeros, or numbers that are not finite, are to be left out.
  [[nodiscard, gnu::noinline]] MagnitudeRange range_of_some(const float* numbers,
                                                            std::size_t size) const {
    const bool zeros_count = expansion_ == RangeExpansion::coat_code;
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

  [[nodiscard]] static float32x16 second_half(float32x16 x) {
    return join(upper_half(x), upper_half(x));
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

  /// k log₂(|x| / M) of numbers other than zero. What is below the least one has no code but that
  /// of zero.
  template <bool has_subnormals>
  [[nodiscard, gnu::always_inline]] static float32x16 log2_of_power(float32x16 x,
                                                                    const kernels::Log2& of_largest,
                                                                    float exponent) {
    return greatest(splat<float32x16>(-125),
                    log2_of_ratio<has_subnormals>(x, of_largest) * exponent);
  }

  /// 2^x M for x ≤ 0, which may underflow where 2^x alone would.
  [[nodiscard, gnu::always_inline]] static float32x16 power_times(float32x16 x, float largest) {
    constexpr float lowest = -125;
    const float32x16 root =
        kernels::exp2_within_limits(greatest(splat<float32x16>(lowest), x * 0.5F));
    return root * largest * root;
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

  static constexpr float largest_exponent = 0x1p16F;

  RangeExpansion expansion_;
  float largest_;  ///< F
  float log2_range_;
  /// log₂ of significand / 1.75 for those of subnormal and normal numbers of float8_e4m3fn, the
  /// largest of which is 1.75 · 2^8.
  std::array<float, lanes> log2_of_significands_{};
};

}  // namespace detail

}  // namespace UNIT_SCALING_NAMESPACE::optim

UNIT_SCALING_IEEE_END
