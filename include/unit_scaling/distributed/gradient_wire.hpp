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
#include <vector>

#include "unit_scaling/core/parallel_for.hpp"
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

/// What numbers are divided by before they are rounded to a narrow format.
///
/// The least signal-to-noise ratio, in dB, of the mean of normal gradients of 8, 64 and 256 ranks,
/// with no, half or all of their variance in common:
///
/// | format | scaling | at scales of 2^-2 to 2^2 | of 2^-8 to 2^8.7 |
/// | --- | --- | --- | --- |
/// | E4M3 | `by_block` | 28.0 | 28.0 |
/// | E4M3 | `fixed` | 28.0 | 2.8 |
/// | E5M2 | either | 22.1 | 22.1 |
/// | float16 | either | 70.3 | 70.2 |
///
/// Three bits of fraction give 28 dB after two roundings. E4M3 has three from 2^-6 to 2^8 only: so
/// no fixed factor gives 28 dB at all scales.
enum class WireScaling {
  /// A power of two that follows from the number of batches alone. Unit scaling gives the gradient
  /// of one batch the scale 1, the middle of each format: it is not divided. A sum of M such
  /// gradients has a scale between √M, if they have nothing in common, and M, if they are equal. It
  /// is divided by the power of two nearest to M^¾, the middle of these. Numbers beyond the largest
  /// of the format become that.
  fixed,
  /// For each block, the least power of two under which none of its numbers overflows. A block is
  /// at most 1024 numbers of one parameter (WireBlocks), so parameters of different scales have the
  /// same quality. The powers are in the message, a byte for each. A number of a block that is
  /// smaller than its largest by a factor of 2^19 or more becomes 0 in E4M3.
  by_block,
};

/// The numbers of a message in blocks: at most 1024 of one parameter, one behind the other.
class WireBlocks {
 public:
  static constexpr std::size_t largest = 1024;

  /// Adds numbers of one parameter at the end.
  void add(std::size_t numbers) {
    for (std::size_t rest = numbers; rest > 0; rest -= std::min(rest, largest)) {
      ends_.push_back(size() + std::min(rest, largest));
    }
  }
  /// Of blocks.
  [[nodiscard]] std::size_t count() const { return ends_.size(); }
  /// Of numbers.
  [[nodiscard]] std::size_t size() const { return begin(count()); }
  /// The first number of a block, or of one that would come next.
  [[nodiscard]] std::size_t begin(std::size_t block) const {
    return block == 0 ? 0 : ends_[block - 1];
  }

  /// Calls `body(block, begin, end)` for what each block has of numbers [first, last).
  template <class Body> void for_each(std::size_t first, std::size_t last, const Body& body) const {
    const auto at = std::upper_bound(ends_.begin(), ends_.end(), first);
    for (auto k = static_cast<std::size_t>(at - ends_.begin()); first < last; ++k) {
      const std::size_t end_of_part = std::min(last, ends_[k]);
      body(k, first, end_of_part);
      first = end_of_part;
    }
  }

 private:
  std::vector<std::size_t> ends_;
};

/// How the numbers of a message are written: in binary32, or in a narrower format under a
/// WireScaling. The exponents of the blocks, a byte for each, come before the codes.
class GradientWire {
 public:
  /// @throws DomainError as optim::require_gradient_format, in the name of GradientExchange.
  GradientWire(const Format& format, WireScaling scaling) : format_(format), scaling_(scaling) {
    optim::require_gradient_format("GradientExchange", format);
  }

  [[nodiscard]] const Format& format() const& { return format_; }
  [[nodiscard]] Format format() const&& { return format_; }
  [[nodiscard]] WireScaling scaling() const { return scaling_; }
  /// Of the numbers of a message.
  [[nodiscard]] std::size_t bytes(const WireBlocks& blocks) const {
    return bytes_of_exponents(blocks) + format_.code_bytes(blocks.size());
  }

  /// How many finite numbers `encode` makes the largest of the format.
  /// @param batches that the numbers are sums of.
  [[nodiscard]] std::uint64_t saturated(std::span<const float> numbers, std::size_t batches) const {
    if (format_.is_binary32() || scaling_ != WireScaling::fixed) return 0;
    const double largest = std::ldexp(format_.spec().max_finite(), fixed_exponent(batches));
    const float amax = kernels::largest_finite_magnitude(numbers.data(), numbers.size());
    if (static_cast<double>(amax) <= largest) return 0;
    return static_cast<std::uint64_t>(
        std::count_if(numbers.begin(), numbers.end(), [&](float each) {
          const double magnitude = std::abs(static_cast<double>(each));
          return magnitude > largest && magnitude < std::numeric_limits<double>::infinity();
        }));
  }

  /// Writes numbers, which are divided in place.
  /// @param to has room for `bytes(blocks)`.
  void encode(std::span<float> numbers, const WireBlocks& blocks, std::size_t batches,
              std::byte* to) const {
    if (has_exponents()) {
      constexpr std::size_t grain = 16;  // blocks
      parallel_ranges(blocks.count(), grain, [&](std::size_t first, std::size_t last) {
        for (std::size_t k = first; k < last; ++k) {
          const auto block =
              numbers.subspan(blocks.begin(k), blocks.begin(k + 1) - blocks.begin(k));
          const int exponent = exponent_of(block);
          to[k] = static_cast<std::byte>(exponent);
          const float factor = std::ldexp(1.0F, -exponent);
          for (float& each : block) each *= factor;
        }
      });
    }
    const int exponent = has_exponents() ? 0 : exponent_of_message(batches);
    format_.encode(numbers,
                   {reinterpret_cast<std::uint8_t*>(to + bytes_of_exponents(blocks)),
                    format_.code_bytes(numbers.size())},
                   {.scale = std::ldexp(1.0F, -exponent)});
  }

  /// Reads some numbers of a message, from number `first` on.
  /// @param from what `encode` has written for the whole message.
  /// @pre the codes of the numbers before end with a byte
  void decode(const std::byte* from, const WireBlocks& blocks, std::size_t batches,
              std::size_t first, std::span<float> to) const {
    const std::byte* const codes = from + bytes_of_exponents(blocks) + format_.code_bytes(first);
    format_.decode({reinterpret_cast<const std::uint8_t*>(codes), format_.code_bytes(to.size())},
                   to);
    if (!has_exponents()) {
      multiply(to, exponent_of_message(batches));
      return;
    }
    blocks.for_each(
        first, first + to.size(), [&](std::size_t k, std::size_t begin, std::size_t end) {
          multiply(to.subspan(begin - first, end - begin), static_cast<std::int8_t>(from[k]));
        });
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
  [[nodiscard]] bool has_exponents() const {
    return scaling_ == WireScaling::by_block && !format_.is_binary32();
  }
  [[nodiscard]] std::size_t bytes_of_exponents(const WireBlocks& blocks) const {
    return has_exponents() ? blocks.count() : 0;
  }

  /// The exponent of WireScaling::by_block, from -127 to 127.
  [[nodiscard]] int exponent_of(std::span<const float> block) const {
    const float amax = kernels::largest_finite_magnitude(block.data(), block.size());
    return amax == 0 ? 0 : std::ilogb(power_of_two_scale(amax, format_, ScaleRounding::round_up));
  }
  /// That of WireScaling::fixed for a sum of so many batches.
  [[nodiscard]] static int fixed_exponent(std::size_t batches) {
    return static_cast<int>(std::lround(0.75 * std::log2(static_cast<double>(batches))));
  }
  /// That of all numbers of a message without blocks.
  [[nodiscard]] int exponent_of_message(std::size_t batches) const {
    return format_.is_binary32() ? 0 : fixed_exponent(batches);
  }

  /// Multiplies by 2^exponent. A finite number stays so: the largest ones of binary32 may have been
  /// rounded up to 2^128.
  static void multiply(std::span<float> numbers, int exponent) {
    if (exponent == 0) return;
    constexpr float largest = std::numeric_limits<float>::max();
    const float factor = std::ldexp(1.0F, exponent);
    for (float& each : numbers) each = std::clamp(each * factor, -largest, largest);
  }

  Format format_;
  WireScaling scaling_;
};

}  // namespace UNIT_SCALING_NAMESPACE::distributed

UNIT_SCALING_IEEE_END
