// SPDX-License-Identifier: MIT
/// @file
/// Layer core: counter-based random numbers, the same on every platform and for any thread count.
#pragma once

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numbers>
#include <stdexcept>

#include "unit_scaling/core/arithmetic.hpp"
#include "unit_scaling/core/philox.hpp"
#include "unit_scaling/core/simd.hpp"
#include "unit_scaling/core/target.hpp"

namespace UNIT_SCALING_NAMESPACE {

/// What a stream of random numbers is for; two purposes never share a word.
enum class RandomStream : std::uint32_t {
  general,
  initialisation,
  batch,
  masking,
  dropout,
  rounding,
  sampling
};

/// A stream of random words addressed by index, keyed by (seed, stream, step, tensor).
/// It has no state: `word(i)` is a pure function, so any thread may draw any element.
class Random {
 public:
  /// @throws std::invalid_argument if `tensor` is 2^28 or above, or `step` 2^32 or above: two
  ///         tensors or two steps would share numbers.
  constexpr explicit Random(std::uint64_t seed, RandomStream stream = RandomStream::general,
                            std::uint64_t step = 0, std::uint32_t tensor = 0)
      : key_{static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)},
        // Stream and tensor share a word of the counter: 2^4 streams, 2^28 tensors.
        label_{static_cast<std::uint32_t>(stream) << 28 | tensor,
               static_cast<std::uint32_t>(step)} {
    if (tensor >> 28 != 0) throw std::invalid_argument("Random: expected a tensor below 2^28");
    if (step >> 32 != 0) throw std::invalid_argument("Random: expected a step below 2^32");
  }

  /// Four words for block `index`.
  [[nodiscard]] constexpr std::array<std::uint32_t, 4> block(std::uint64_t index) const {
    return philox({static_cast<std::uint32_t>(index), static_cast<std::uint32_t>(index >> 32),
                   label_[0], label_[1]},
                  key_);
  }

  /// Sixteen blocks from block `first`, a multiple of sixteen: lane l of word j is
  /// `block(first + l)[j]`.
  [[nodiscard]] std::array<uint32x16, 4> blocks(std::uint64_t first) const {
    return philox_lanes(first, label_, key_);
  }

  /// The i-th 32-bit word.
  [[nodiscard]] constexpr std::uint32_t word(std::uint64_t index) const {
    return block(index / 4)[index % 4];
  }

  /// The i-th uniform number in [0, 1), a multiple of 2^-24.
  [[nodiscard]] constexpr float uniform(std::uint64_t index) const {
    return static_cast<float>(word(index) >> 8) * 0x1p-24f;
  }

  /// The i-th integer in [0, bound). Multiply-shift; its bias is below bound / 2^32.
  [[nodiscard]] constexpr std::uint32_t below(std::uint32_t bound, std::uint64_t index) const {
    return static_cast<std::uint32_t>(std::uint64_t{word(index)} * bound >> 32);
  }

  /// The same for bounds of more than 32 bits, from words 2i and 2i + 1; its bias is below
  /// bound / 2^64.
  [[nodiscard]] constexpr std::uint64_t below_long(std::uint64_t bound, std::uint64_t index) const {
    // The upper half of a product of 128 bits, from halves of its factors.
    constexpr std::uint64_t lower = 0xFFFFFFFF;
    const std::uint64_t high = word(2 * index);
    const std::uint64_t low = word(2 * index + 1);
    const std::uint64_t middle = high * (bound & lower) + ((low * (bound & lower)) >> 32);
    return high * (bound >> 32) + (middle >> 32) + ((low * (bound >> 32) + (middle & lower)) >> 32);
  }

  /// The i-th draw from N(0, 1), by Box and Muller in double precision.
  [[nodiscard]] double normal(std::uint64_t index) const {
    const std::array<std::uint32_t, 4> words = block(index / 2);
    double result = 0;
    in_default_arithmetic([&] {
      // (0, 1]: the logarithm stays finite.
      const double u = (static_cast<double>(words[0]) + 1) * 0x1p-32;
      const double angle = 2 * std::numbers::pi * static_cast<double>(words[1]) * 0x1p-32;
      const double radius = std::sqrt(-2 * std::log(u));
      result = radius * (index % 2 == 0 ? std::cos(angle) : std::sin(angle));
    });
    return result;
  }

 private:
  std::array<std::uint32_t, 2> key_;
  std::array<std::uint32_t, 2> label_;
};

}  // namespace UNIT_SCALING_NAMESPACE
