// SPDX-License-Identifier: MIT
/// @file
/// Layer distributed: how the numbers of a message become codes, and how they come back.
// unit_scaling: optional
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>

#include "unit_scaling/core/simd.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/formats/block_scales.hpp"
#include "unit_scaling/formats/format.hpp"
#include "unit_scaling/kernels/lanes.hpp"
#include "unit_scaling/kernels/largest_magnitude.hpp"
#include "unit_scaling/optim/gradient_format.hpp"
#include "unit_scaling/optim/optimiser.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::distributed {

/// What numbers are multiplied with before they are rounded to a narrow format.
///
/// The signal-to-noise ratio of a sum of normal gradients of 8, 64 and 256 ranks, which have no or
/// half of their variance in common, in dB, at worst:
///
/// | format | scaling | at scales of 2^-2 to 2^4 | of 2^-8 to 2^8 |
/// | --- | --- | --- | --- |
/// | E4M3 | `by_message` | 28.6 | 28.6 |
/// | E4M3 | `fixed` | 28.5 | 4.4 |
/// | E5M2 | either | 22.3 | 22.3 |
/// | float16 | either | 70.3 | 70.3 |
///
/// No fixed factor does for a byte: two roundings leave 28 dB to formats of three fraction bits, of
/// which E4M3 has no more than 2^-6 to 2^8 in full.
enum class WireScaling {
  /// A power of two that the number of batches alone decides. Unit scaling makes the gradient of a
  /// batch 1 in scale, which is in the middle of each format: so nothing is multiplied there. A sum
  /// of M of these has a scale from √M, if they have nothing in common, to M, if they are the same:
  /// it is divided by the power of two nearest to the middle of that, M^¾.
  fixed,
  /// The largest power of two under which no number of the message overflows. The header of the
  /// message has it, so no other message is sent. Numbers are read once more, just after they were
  /// collected.
  by_message,
};

/// The codes of the numbers of a message, in binary32 or a narrower format.
class GradientWire {
 public:
  /// @throws DomainError as optim::require_gradient_format, in the name of GradientExchange.
  GradientWire(const Format& format, WireScaling scaling) : format_(format), scaling_(scaling) {
    optim::require_gradient_format("GradientExchange", format);
  }

  [[nodiscard]] const Format& format() const& { return format_; }
  [[nodiscard]] Format format() const&& { return format_; }
  [[nodiscard]] WireScaling scaling() const { return scaling_; }
  /// Of the codes of so many numbers.
  [[nodiscard]] std::size_t bytes(std::size_t numbers) const { return format_.code_bytes(numbers); }

  /// What numbers are divided by before they are rounded: 2^exponent.
  struct Scale {
    int exponent = 0;
    std::uint64_t saturated = 0;  ///< finite numbers that become the largest of the format
  };

  /// The scale of the numbers of a piece. @param batches that the numbers are sums of.
  [[nodiscard]] Scale scale_of(std::span<const float> numbers, std::size_t batches) const {
    Scale result;
    if (format_.is_binary32()) return result;
    const float amax = kernels::largest_finite_magnitude(numbers.data(), numbers.size());
    if (scaling_ == WireScaling::fixed) {
      result.exponent = fixed_exponent(batches);
      result.saturated = beyond(numbers, amax, result.exponent);
    } else if (amax > 0) {
      result.exponent = std::ilogb(power_of_two_scale(amax, format_, ScaleRounding::round_up));
    }
    return result;
  }

  /// Rounds numbers to codes, for which there is room for `bytes(numbers.size())`.
  void encode(std::span<const float> numbers, int exponent, std::byte* codes) const {
    format_.encode(numbers, {reinterpret_cast<std::uint8_t*>(codes), bytes(numbers.size())},
                   {.scale = std::ldexp(1.0F, -exponent)});
  }

  /// What codes stand for, from number `first` of a message on.
  /// @param codes of the whole message. @pre those of the numbers before end with a byte
  void decode(const std::byte* codes, std::size_t first, int exponent, std::span<float> to) const {
    format_.decode({reinterpret_cast<const std::uint8_t*>(codes) + bytes(first), bytes(to.size())},
                   to);
    if (exponent == 0) return;
    const float factor = std::ldexp(1.0F, exponent);
    for (float& each : to) each *= factor;
  }

  /// `to[i] = from[i]`; NaN if that is not finite.
  template <class T> static void copy_finite(const T* from, std::size_t size, float* to) {
    optim::detail::for_each_lane(size, [=](std::size_t i, auto count) {
      constexpr std::int32_t infinity = 0x7f80'0000;
      const auto x = kernels::load<float>(from + i, count);
      const auto magnitude = bit_cast_to<int32x16>(bit_cast_to<uint32x16>(x) & 0x7fff'ffffU);
      const auto y = select(is_less(magnitude, splat<int32x16>(infinity)), x,
                            splat<float32x16>(std::numeric_limits<float>::quiet_NaN()));
      kernels::store<Overflow::infinity_or_nan, float>(y, to + i, count);
    });
  }

 private:
  /// The exponent of WireScaling::fixed for a sum of so many batches.
  [[nodiscard]] static int fixed_exponent(std::size_t batches) {
    return static_cast<int>(std::lround(0.75 * std::log2(static_cast<double>(batches))));
  }

  /// How many finite numbers are beyond the largest of the format.
  [[nodiscard]] std::uint64_t beyond(std::span<const float> numbers, float amax,
                                     int exponent) const {
    const double largest = std::ldexp(format_.spec().max_finite(), exponent);
    if (static_cast<double>(amax) <= largest) return 0;
    return static_cast<std::uint64_t>(
        std::count_if(numbers.begin(), numbers.end(), [&](float each) {
          const double magnitude = std::abs(static_cast<double>(each));
          return magnitude > largest && magnitude < std::numeric_limits<double>::infinity();
        }));
  }

  Format format_;
  WireScaling scaling_;
};

}  // namespace UNIT_SCALING_NAMESPACE::distributed

UNIT_SCALING_IEEE_END
