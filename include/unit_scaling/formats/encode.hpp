// SPDX-License-Identifier: MIT
/// @file
/// Layer: formats. Conversions of whole spans with a choice of rounding, a factor, and an account
/// of what they did to the numbers.
#pragma once

#include <algorithm>
#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <optional>
#include <span>
#include <stdexcept>
#include <type_traits>

#include "unit_scaling/core/parallel_for.hpp"
#include "unit_scaling/core/simd.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/formats/catalogue.hpp"
#include "unit_scaling/formats/codec.hpp"
#include "unit_scaling/formats/convert.hpp"
#include "unit_scaling/formats/rounding.hpp"
#include "unit_scaling/formats/stochastic_rounding.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE {

/// How a span is encoded.
struct EncodeOptions {
  Overflow overflow = Overflow::saturate;
  Rounding rounding = Rounding::nearest_even;
  /// Multiplies each number before it is rounded: in binary32, to nearest even, so unless it is a
  /// power of two the product is a rounding of its own. At 1 nothing is multiplied.
  float scale = 1;
  /// The random bits of Rounding::stochastic, which cannot do without.
  std::optional<StochasticRounding> random = std::nullopt;
  /// Which element of its tensor the first of the span is, for the random bits.
  std::uint64_t first_element = 0;
};

/// What a conversion did to the numbers.
struct EncodeStatistics {
  std::uint64_t count = 0;       ///< Elements.
  std::uint64_t non_finite = 0;  ///< Infinities and NaNs among the inputs.
  /// Finite numbers that the scale or the rounding took beyond the range: saturated, or no longer
  /// finite. In a format without a sign, negative numbers too.
  std::uint64_t overflowed = 0;
  std::uint64_t underflowed = 0;  ///< Numbers other than zero that became zero.
  float max_magnitude = 0;        ///< Largest magnitude of a finite input, before the scale; amax.

  friend bool operator==(const EncodeStatistics&, const EncodeStatistics&) = default;

  /// Counts the elements of both.
  EncodeStatistics& operator+=(const EncodeStatistics& other) {
    count += other.count;
    non_finite += other.non_finite;
    overflowed += other.overflowed;
    underflowed += other.underflowed;
    // By their bits: the processor may take a subnormal number for zero.
    max_magnitude =
        std::bit_cast<float>(std::max(std::bit_cast<std::uint32_t>(max_magnitude),
                                      std::bit_cast<std::uint32_t>(other.max_magnitude)));
    return *this;
  }
};

namespace detail {

/// The modes of a conversion, for the compiler.
template <Overflow overflow_, Rounding rounding_> struct EncodeModes {
  static constexpr Overflow overflow = overflow_;
  static constexpr Rounding rounding = rounding_;
};

/// Calls `body` with the EncodeModes that are asked for at run time.
template <class Body>
void with_encode_modes(Overflow overflow, Rounding rounding, const Body& body) {
  const auto with = [&]<Rounding mode>(std::integral_constant<Rounding, mode>) {
    if (overflow == Overflow::saturate) {
      body(EncodeModes<Overflow::saturate, mode>{});
    } else {
      body(EncodeModes<Overflow::infinity_or_nan, mode>{});
    }
  };
  switch (rounding) {
    case Rounding::nearest_even:
      return with(std::integral_constant<Rounding, Rounding::nearest_even>{});
    case Rounding::nearest_away:
      return with(std::integral_constant<Rounding, Rounding::nearest_away>{});
    case Rounding::toward_zero:
      return with(std::integral_constant<Rounding, Rounding::toward_zero>{});
    case Rounding::toward_positive:
      return with(std::integral_constant<Rounding, Rounding::toward_positive>{});
    case Rounding::toward_negative:
      return with(std::integral_constant<Rounding, Rounding::toward_negative>{});
    case Rounding::stochastic:
      return with(std::integral_constant<Rounding, Rounding::stochastic>{});
  }
  throw std::invalid_argument("unit_scaling::encode: no such rounding mode");
}

/// Statistics of lanes in the making. The counts are held as lanes of 0 and -1 added up.
struct LaneStatistics {
  int32x16 non_finite{};
  int32x16 overflowed{};
  int32x16 underflowed{};
  int32x16 max_magnitude{};

  /// @param in the bits of the inputs.
  /// @param rounded the magnitude codes of their products with the scale, before the range is
  ///        looked at.
  [[gnu::always_inline]] void add(FormatSpec spec, uint32x16 in, uint32x16 rounded) {
    const uint32x16 magnitude = in & float_magnitude_mask;
    const int32x16 is_finite = is_below(magnitude, float_infinity_bits);
    const int32x16 finite_magnitude = is_finite & bit_cast_to<int32x16>(magnitude);
    const int32x16 is_not_zero = is_above(magnitude, 0U);
    non_finite += ~is_finite;
    int32x16 is_beyond = is_above(rounded, spec.max_finite_code());
    if (!spec.has_sign()) is_beyond |= is_negative(in) & is_not_zero;
    overflowed += is_finite & is_beyond;
    if (spec.has_zero()) underflowed += is_not_zero & is_below(rounded, 1U);
    max_magnitude = greatest(max_magnitude, finite_magnitude);
  }

  [[nodiscard]] EncodeStatistics total(std::size_t count) const {
    EncodeStatistics result{.count = count};
    std::int32_t largest = 0;
    for (std::size_t lane = 0; lane < lanes; ++lane) {
      result.non_finite -= static_cast<std::uint64_t>(std::int64_t{non_finite[lane]});
      result.overflowed -= static_cast<std::uint64_t>(std::int64_t{overflowed[lane]});
      result.underflowed -= static_cast<std::uint64_t>(std::int64_t{underflowed[lane]});
      largest = std::max(largest, static_cast<std::int32_t>(max_magnitude[lane]));
    }
    result.max_magnitude = std::bit_cast<float>(largest);
    return result;
  }
};

/// Calls `encode_sixteen(bits of in[i], bits of scale * in[i], random bits, out + i)` for every
/// sixteen elements; element `first` of the tensor comes first. What is missing from the last
/// sixteen is positive zeros.
template <bool is_stochastic, class T, class EncodeSixteen>
void for_encoded_vectors(const float* in, T* out, std::size_t size, const EncodeOptions& options,
                         std::uint64_t first, const EncodeSixteen& encode_sixteen) {
  const float scale = options.scale;
  // A product with 1 would still be flushed where it is subnormal, hence no product then. Under
  // -ffast-math Clang makes a product of any choice that it sees through, so the choice is hidden.
  auto is_unscaled = splat<uint32x16>(scale == 1.0F ? ~0U : 0U);
  asm("" : "+m"(is_unscaled));
  const auto encode_at = [&](const float* from, T* to, uint32x16 random)
      __attribute__((always_inline)) {
    const auto value = load<float32x16>(from);
    const auto bits = bit_cast_to<uint32x16>(value);
    const auto product = bit_cast_to<uint32x16>(value * scale);
    encode_sixteen(bits, (bits & is_unscaled) | (product & ~is_unscaled), random, to);
  };
  const auto encode_partial = [&](std::size_t i, std::size_t count, uint32x16 random) {
    float padded[lanes] = {};
    T codes[lanes];
    std::copy_n(in + i, count, padded);
    encode_at(padded, codes, random);
    std::copy_n(codes, count, out + i);
  };
  std::size_t i = 0;
  if constexpr (is_stochastic) {
    const StochasticRounding random = *options.random;
    const std::size_t group = random.group_size();
    while (i < size) {
      if ((first + i) % group == 0 && size - i >= group) {
        random.for_group(first + i, [&](std::size_t vector, uint32x16 words) {
          encode_at(in + i + vector * lanes, out + i + vector * lanes, words);
        });
        i += group;
      } else {
        encode_partial(i, 1, splat<uint32x16>(random.word(first + i)));
        ++i;
      }
    }
  } else {
    for (; i + lanes <= size; i += lanes) encode_at(in + i, out + i, uint32x16{});
    if (i < size) encode_partial(i, size - i, uint32x16{});
  }
}

/// Encodes at most `convert_grain` elements, of which the first is element `first` of the tensor.
template <class Modes, bool counts, AnyMinifloat T>
EncodeStatistics encode_range(const float* in, T* out, std::size_t size,
                              const EncodeOptions& options, std::uint64_t first) {
  LaneStatistics statistics;
  for_encoded_vectors<Modes::rounding == Rounding::stochastic>(
      in, out, size, options, first,
      [&](uint32x16 values, uint32x16 bits, uint32x16 random, T * to)
          __attribute__((always_inline)) {
            // In here: captured, Clang 14 would read it from memory.
            constexpr FormatSpec spec = T::format;
            if constexpr (!counts && Modes::rounding == Rounding::nearest_even) {
              encode_vector<Modes::overflow>(bits, to);
            } else if constexpr (!counts) {
              store_codes(encode_lanes(spec, Modes::overflow, Modes::rounding, bits, random), to);
            } else {
              const uint32x16 rounded = round_lanes(spec, Modes::rounding, bits, random);
              statistics.add(spec, values, rounded);
              store_codes(finish_lanes(spec, Modes::overflow, Modes::rounding, bits, rounded), to);
            }
          });
  return statistics.total(size);
}

inline void check_options(const EncodeOptions& options) {
  if (options.rounding == Rounding::stochastic && !options.random) {
    throw std::invalid_argument(
        "unit_scaling::encode: stochastic rounding, expected EncodeOptions::random");
  }
}

template <bool counts, AnyMinifloat T>
EncodeStatistics encode_with(std::span<const float> in, std::span<T> out,
                             const EncodeOptions& options) {
  check_sizes("unit_scaling::encode", in.size(), out.size());
  check_options(options);
  // One loop, so that only what is in it is compiled for each of the modes.
  EncodeStatistics (*encode_part)(const float*, T*, std::size_t, const EncodeOptions&,
                                  std::uint64_t) = nullptr;
  with_encode_modes(options.overflow, options.rounding,
                    [&]<class Modes>(Modes) { encode_part = &encode_range<Modes, counts, T>; });
  EncodeStatistics statistics;
  std::mutex mutex;
  parallel_ranges(in.size(), convert_grain, [&](std::size_t begin, std::size_t end) {
    const EncodeStatistics part =
        encode_part(&in[begin], &out[begin], end - begin, options, options.first_element + begin);
    if constexpr (counts) {
      // Sums and maxima: the order of the parts changes nothing.
      const std::lock_guard lock(mutex);
      statistics += part;
    }
  });
  return statistics;
}

}  // namespace detail

/// Rounds every element, times the scale, to the format. The spans must not overlap.
/// @throws std::invalid_argument if the sizes differ, or for stochastic rounding without its bits.
template <AnyMinifloat T>
void encode(std::span<const float> in, std::span<T> out, const EncodeOptions& options) {
  detail::encode_with<false>(in, out, options);
}

/// As encode(), and tells what became of the numbers, in the same pass.
/// @throws std::invalid_argument as encode() does.
template <AnyMinifloat T>
EncodeStatistics encode_with_statistics(std::span<const float> in, std::span<T> out,
                                        const EncodeOptions& options = {}) {
  return detail::encode_with<true>(in, out, options);
}

}  // namespace UNIT_SCALING_NAMESPACE

UNIT_SCALING_IEEE_END
