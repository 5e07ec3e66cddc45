// SPDX-License-Identifier: MIT
/// @file
/// Layer analysis: moments, range and exponents of a tensor, and what a format makes of it, in one
/// pass.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory_resource>
#include <span>
#include <vector>

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#include "unit_scaling/analysis/exponent_histogram.hpp"
#include "unit_scaling/core/arithmetic.hpp"
#include "unit_scaling/core/memory.hpp"
#include "unit_scaling/core/parallel_for.hpp"
#include "unit_scaling/core/simd.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/formats/codec.hpp"
#include "unit_scaling/formats/format.hpp"
#include "unit_scaling/formats/rounding.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::analysis {

/// Where rounding to nearest in a format changes what becomes of a magnitude. Each is the smallest
/// binary32 magnitude, by its bits, of which the format makes at least that.
struct RoundingThresholds {
  std::uint32_t nonzero;  ///< a number other than zero
  std::uint32_t normal;   ///< a normal number
  std::uint32_t largest;  ///< the largest number, to which rounding saturates

  explicit RoundingThresholds(const Format& format)
      : nonzero(first_that_rounds_to(format, 1U)),
        normal(first_that_rounds_to(format, bits_of(format.spec().min_normal()))),
        largest(first_that_rounds_to(format, bits_of(format.spec().max_finite()))) {}

 private:
  static std::uint32_t bits_of(double normal_number) {
    return std::bit_cast<std::uint32_t>(static_cast<float>(normal_number));
  }

  /// By bisection: rounding is monotonic, and so are the bits of magnitudes.
  static std::uint32_t first_that_rounds_to(const Format& format, std::uint32_t target) {
    std::uint32_t below = 0;
    std::uint32_t reached = unit_scaling::detail::float_infinity_bits;
    while (reached - below > 1) {
      const std::uint32_t middle = below + (reached - below) / 2;
      const float rounded = format.quantise(std::bit_cast<float>(middle), Overflow::saturate);
      (std::bit_cast<std::uint32_t>(rounded) < target ? below : reached) = middle;
    }
    return reached;
  }
};

/// What the elements of a tensor look like. Moments and magnitudes are over finite elements.
struct TensorStatistics {
  std::uint64_t elements = 0;
  double rms = 0;
  double mean = 0;
  double std = 0;            ///< of the elements, not of a population that they are drawn from
  double min_magnitude = 0;  ///< of the elements other than zero; 0 if there is none
  double max_magnitude = 0;
  // Finite elements, as the format rounds them to nearest:
  std::uint64_t underflowed = 0;  ///< not zero yet, but rounded to zero
  std::uint64_t subnormal = 0;    ///< rounded to a subnormal number
  std::uint64_t saturated = 0;    ///< rounded to the largest number, or beyond it
  ExponentHistogram histogram = {};

  /// A count of this tensor's elements as a share of them, from 0 to 1; 0 if there are none.
  [[nodiscard]] double share(std::uint64_t count) const {
    return elements == 0 ? 0 : static_cast<double>(count) / static_cast<double>(elements);
  }
};

namespace detail {

using unit_scaling::detail::float_hidden_bit;
using unit_scaling::detail::float_infinity_bits;
using unit_scaling::detail::float_magnitude_mask;
using unit_scaling::detail::float_mantissa_bits;

[[nodiscard]] inline std::uint32_t magnitude_bits(float element) {
  return std::bit_cast<std::uint32_t>(element) & float_magnitude_mask;
}

/// Elements that one thread adds up; the sums of the pieces are added in order.
inline constexpr std::size_t statistics_grain = std::size_t{1} << 16;

/// What is known of one piece of a tensor.
struct PieceStatistics {
  double sum = 0;                                      ///< of finite elements less the pivot
  double sum_of_squares = 0;                           ///< of the same
  std::uint32_t min_magnitude = float_magnitude_mask;  ///< bits; of elements other than zero
  std::uint32_t max_magnitude = 0;                     ///< bits; of finite elements
  std::uint64_t below_nonzero = 0;                     ///< magnitudes below RoundingThresholds
  std::uint64_t below_normal = 0;
  std::uint64_t below_largest = 0;
  std::array<std::uint32_t, 256> fields{};  ///< how often each exponent field occurs

  void add(float element, const RoundingThresholds& thresholds, float pivot) {
    const std::uint32_t magnitude = magnitude_bits(element);
    ++fields[magnitude >> float_mantissa_bits];
    below_nonzero += magnitude < thresholds.nonzero ? 1 : 0;
    below_normal += magnitude < thresholds.normal ? 1 : 0;
    below_largest += magnitude < thresholds.largest ? 1 : 0;
    if (magnitude != 0) min_magnitude = std::min(min_magnitude, magnitude);
    max_magnitude = std::max(max_magnitude, magnitude);
    const double difference = static_cast<double>(element) - static_cast<double>(pivot);
    sum += difference;
    sum_of_squares += difference * difference;
  }

  /// Takes the sums, about a pivot, and the largest magnitude again, of finite elements alone.
  void sum_finite(std::span<const float> elements, float pivot) {
    // Sums of sums: what is added up one by one is short, so that little is rounded away.
    constexpr std::size_t block = 256;
    sum = 0;
    sum_of_squares = 0;
    max_magnitude = 0;
    for (std::size_t begin = 0; begin < elements.size(); begin += block) {
      double block_sum = 0;
      double block_squares = 0;
      for (const float element :
           elements.subspan(begin, std::min(block, elements.size() - begin))) {
        const std::uint32_t magnitude = magnitude_bits(element);
        if (magnitude >= float_infinity_bits) continue;
        max_magnitude = std::max(max_magnitude, magnitude);
        const double difference = static_cast<double>(element) - static_cast<double>(pivot);
        block_sum += difference;
        block_squares += difference * difference;
      }
      sum += block_sum;
      sum_of_squares += block_squares;
    }
  }
};

/// The statistics of groups of 32 elements in the making. Sums run in sixteen lanes on every
/// instruction set.
///
/// Counting exponents one by one would take most of the time, as each count is a store. Elements
/// are therefore counted in pairs, in a table with a place for each pair of exponents in a window:
/// that of binary16 and as much again below. The smallest and largest magnitude tell if all
/// elements but zeros lay in it; if not, the piece is counted again without a window.
class StatisticsLanes {
 public:
  static constexpr std::size_t group = 2 * lanes;

  StatisticsLanes(const RoundingThresholds& thresholds, float pivot)
      : thresholds_(thresholds), pivot_(pivot) {}

  [[gnu::always_inline]] void add(const float* elements) {
    std::array<std::uint32_t, lanes> pairs;
    const uint32x16 first = add_half(elements);
    const uint32x16 second = add_half(elements + lanes);
    store(first | (second << window_bits), pairs.data());
    // Two tables, for a count that was just stored must be waited for.
    for (std::size_t i = 0; i < lanes; ++i) ++tables_[i % tables_.size()][pairs[i]];
  }

  /// @param elements all that were added.
  [[nodiscard]] PieceStatistics total(std::span<const float> elements) const {
    PieceStatistics result;
    for (std::size_t i = 0; i < sums_.size(); ++i) {
      for (std::size_t lane = 0; lane < double_lanes; ++lane) {
        result.sum += sums_[i][lane];
        result.sum_of_squares += squares_[i][lane];
      }
    }
    for (std::size_t lane = 0; lane < lanes; ++lane) {
      // A mask is -1.
      result.below_nonzero -= static_cast<std::uint64_t>(std::int64_t{below_nonzero_[lane]});
      result.below_normal -= static_cast<std::uint64_t>(std::int64_t{below_normal_[lane]});
      result.below_largest -= static_cast<std::uint64_t>(std::int64_t{below_largest_[lane]});
      const std::uint32_t least = static_cast<std::uint32_t>(min_key_[lane]) - key_offset;
      if (least != 0) result.min_magnitude = std::min(result.min_magnitude, least);
      result.max_magnitude =
          std::max(result.max_magnitude, static_cast<std::uint32_t>(max_magnitude_[lane]));
    }
    const bool is_in_window = result.min_magnitude >= (first_field + 1) << float_mantissa_bits &&
                              result.max_magnitude < (first_field + window - 1)
                                                         << float_mantissa_bits;
    if (is_in_window) {
      std::array<std::uint32_t, window> counts{};
      for (std::size_t second = 0; second < window; ++second) {
        std::uint32_t sum = 0;  // apart, or the compiler would take each count for any other
        for (std::size_t first = 0; first < window; ++first) {
          const std::size_t pair = second * window + first;
          const std::uint32_t count = std::uint32_t{tables_[0][pair]} + tables_[1][pair];
          counts[first] += count;
          sum += count;
        }
        counts[second] += sum;
      }
      result.fields[0] = counts[0];
      std::copy(counts.begin() + 1, counts.end(), result.fields.begin() + first_field + 1);
    } else {
      for (const float element : elements) {
        ++result.fields[magnitude_bits(element) >> float_mantissa_bits];
      }
    }
    return result;
  }

 private:
  static constexpr std::size_t window_bits = 6;
  static constexpr std::uint32_t window = 1U << window_bits;
  /// Fields up to this one share the first place, 2^16 and above the last one.
  static constexpr std::uint32_t first_field = 127 + 16 - (window - 1);
  /// Added to magnitudes, it makes zero the largest signed integer and 2^-149 the smallest.
  static constexpr std::uint32_t key_offset = float_magnitude_mask;

  /// Returns the elements' places in the window.
  [[gnu::always_inline]] uint32x16 add_half(const float* elements) {
    using unit_scaling::detail::is_below;
    const auto values = load<float32x16>(elements);
    const uint32x16 magnitude = bit_cast_to<uint32x16>(values) & float_magnitude_mask;
    below_nonzero_ += is_below(magnitude, thresholds_.nonzero);
    below_normal_ += is_below(magnitude, thresholds_.normal);
    below_largest_ += is_below(magnitude, thresholds_.largest);
    const auto key = bit_cast_to<int32x16>(magnitude + key_offset);
    min_key_ = least(key, min_key_);
    max_magnitude_ = greatest(bit_cast_to<int32x16>(magnitude), max_magnitude_);

    for (std::size_t i = 0; i < sums_.size(); ++i) {
      const auto narrow = load<FloatsToWiden>(elements + i * double_lanes);
      const DoubleRegister difference = widen(narrow) - static_cast<double>(pivot_);
      sums_[i] += difference;
      squares_[i] += difference * difference;
    }

    const uint32x16 field = magnitude >> float_mantissa_bits;
    return unit_scaling::detail::lesser(unit_scaling::detail::greater(field, first_field),
                                        first_field + window - 1) -
           first_field;
  }

  RoundingThresholds thresholds_;
  float pivot_;
  std::array<DoubleRegister, lanes / double_lanes> sums_{};
  std::array<DoubleRegister, lanes / double_lanes> squares_{};
  int32x16 below_nonzero_{};
  int32x16 below_normal_{};
  int32x16 below_largest_{};
  int32x16 min_key_ = splat<int32x16>(std::numeric_limits<std::int32_t>::max());
  int32x16 max_magnitude_{};
  /// A piece has fewer pairs than 16 bits count.
  std::array<std::array<std::uint16_t, std::size_t{window} * window>, 2> tables_{};
};
static_assert(statistics_grain / 2 <= std::numeric_limits<std::uint16_t>::max());

[[nodiscard]] inline PieceStatistics measure_piece(std::span<const float> elements,
                                                   const RoundingThresholds& thresholds,
                                                   float pivot) {
  // Below this, clearing the tables would take longer than counting.
  constexpr std::size_t fewest_in_lanes = 1024;
  PieceStatistics result;
  std::size_t done = 0;
  if (elements.size() >= fewest_in_lanes) {
    StatisticsLanes statistics(thresholds, pivot);
    for (; done + StatisticsLanes::group <= elements.size(); done += StatisticsLanes::group) {
      statistics.add(&elements[done]);
    }
    result = statistics.total(elements.first(done));
  }
  for (; done < elements.size(); ++done) result.add(elements[done], thresholds, pivot);
  if (result.fields.back() > 0) result.sum_finite(elements, pivot);
  return result;
}

/// Mean and variance of numbers, from the sums of their differences from a pivot.
struct Moments {
  double offset;  ///< mean less pivot
  double variance;

  Moments(std::span<const PieceStatistics> pieces, std::uint64_t numbers) {
    double sum = 0;
    double sum_of_squares = 0;
    for (const PieceStatistics& piece : pieces) {
      sum += piece.sum;
      sum_of_squares += piece.sum_of_squares;
    }
    const auto count = static_cast<double>(numbers);
    offset = sum / count;
    variance = std::max(0.0, sum_of_squares / count - offset * offset);
  }
};

/// The exponents of binary32, those of subnormal numbers included.
inline constexpr int min_binary32_exponent = -149;
inline constexpr std::size_t binary32_exponents = 127 + 149 + 1;

}  // namespace detail

/// Measures a tensor. Counts and magnitudes are exact. The moments are sums in double of the
/// differences from one of the elements or, if that is far from the mean, from the mean, so that a
/// large mean does not hide a small deviation. No bit depends on the thread count.
///
/// Counts under a format without negative numbers or without zero are those of the magnitudes.
[[nodiscard]] inline TensorStatistics tensor_statistics(std::span<const float> elements,
                                                        const RoundingThresholds& thresholds) {
  const DefaultArithmetic arithmetic;
  const auto first_finite = std::find_if(elements.begin(), elements.end(), [](float element) {
    return detail::magnitude_bits(element) < detail::float_infinity_bits;
  });
  float pivot = first_finite == elements.end() ? 0 : *first_finite;

  const std::size_t pieces =
      (elements.size() + detail::statistics_grain - 1) / detail::statistics_grain;
  std::pmr::vector<detail::PieceStatistics> parts(pieces, &scratch_memory());
  const auto for_each_piece = [&](const auto& measure) {
    parallel_ranges(
        elements.size(), detail::statistics_grain, [&](std::size_t begin, std::size_t end) {
          measure(parts[begin / detail::statistics_grain], elements.subspan(begin, end - begin));
        });
  };
  for_each_piece([&](detail::PieceStatistics& part, std::span<const float> piece) {
    part = detail::measure_piece(piece, thresholds, pivot);
  });

  detail::PieceStatistics all;
  std::array<std::uint64_t, 256> fields{};
  for (const detail::PieceStatistics& part : parts) {
    all.min_magnitude = std::min(all.min_magnitude, part.min_magnitude);
    all.max_magnitude = std::max(all.max_magnitude, part.max_magnitude);
    all.below_nonzero += part.below_nonzero;
    all.below_normal += part.below_normal;
    all.below_largest += part.below_largest;
    for (std::size_t field = 0; field < fields.size(); ++field) fields[field] += part.fields[field];
  }

  std::array<std::uint64_t, detail::binary32_exponents> counts{};
  constexpr std::size_t subnormal_exponents = 23;
  std::copy(fields.begin() + 1, fields.end() - 1, counts.begin() + subnormal_exponents);
  std::uint64_t zeros = fields.front();
  if (all.min_magnitude < detail::float_hidden_bit) {
    // Numbers that are subnormal in binary32 share a field with zero. They are rare.
    for (const float element : elements) {
      const std::uint32_t bits = detail::magnitude_bits(element);
      if (bits == 0 || bits >= detail::float_hidden_bit) continue;
      ++counts[static_cast<std::size_t>(std::bit_width(bits)) - 1];
      --zeros;
    }
  }
  const std::uint64_t finite = elements.size() - fields.back();

  TensorStatistics result{.elements = elements.size()};
  if (finite > 0) {
    detail::Moments moments(parts, finite);
    // A difference of two large squares has lost ten bits or more: the pivot was an outlier.
    if (moments.offset * moments.offset > 0x1p10 * moments.variance) {
      pivot = static_cast<float>(static_cast<double>(pivot) + moments.offset);
      for_each_piece([&](detail::PieceStatistics& part, std::span<const float> piece) {
        part.sum_finite(piece, pivot);
      });
      moments = detail::Moments(parts, finite);
    }
    result.mean = static_cast<double>(pivot) + moments.offset;
    result.std = std::sqrt(moments.variance);
    result.rms = std::sqrt(moments.variance + result.mean * result.mean);
    result.max_magnitude = static_cast<double>(std::bit_cast<float>(all.max_magnitude));
  }
  if (finite > zeros) {
    result.min_magnitude = static_cast<double>(std::bit_cast<float>(all.min_magnitude));
  }
  result.underflowed = all.below_nonzero - zeros;
  result.subnormal = all.below_normal - all.below_nonzero;
  result.saturated = finite - all.below_largest;
  result.histogram.zeros = zeros;
  result.histogram.non_finite = elements.size() - finite;

  const auto is_not_zero = [](std::uint64_t count) { return count != 0; };
  const auto* const first = std::find_if(counts.begin(), counts.end(), is_not_zero);
  if (first != counts.end()) {
    const auto last = std::find_if(counts.rbegin(), counts.rend(), is_not_zero).base();
    result.histogram.first_exponent =
        detail::min_binary32_exponent + static_cast<int>(first - counts.begin());
    result.histogram.counts.assign<const std::uint64_t*>(first, last);
  }
  return result;
}

}  // namespace UNIT_SCALING_NAMESPACE::analysis

UNIT_SCALING_IEEE_END
