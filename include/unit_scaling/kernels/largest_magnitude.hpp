// SPDX-License-Identifier: MIT
/// @file
/// Layer kernels: the largest magnitude of an array.
#pragma once

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "unit_scaling/core/parallel_for.hpp"
#include "unit_scaling/core/simd.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/kernels/lanes.hpp"
#include "unit_scaling/kernels/map.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::kernels {

/// Which magnitudes are compared.
enum class Magnitudes { all, finite };

namespace detail {

/// The greater of two integers in each lane, none of which is negative.
[[nodiscard]] inline uint32x16 greater_integer(uint32x16 left, uint32x16 right) {
  return bit_cast_to<uint32x16>(
      greatest(bit_cast_to<int32x16>(left), bit_cast_to<int32x16>(right)));
}

/// `largest_magnitude_bits` on one thread.
template <Magnitudes which = Magnitudes::all, class T>
[[nodiscard]] std::uint32_t largest_magnitude_bits_here(const T* elements, std::size_t size) {
  const auto magnitudes = [&](std::size_t i, auto count) {
    const uint32x16 bits = bit_cast_to<uint32x16>(load<float>(elements + i, count)) & 0x7fff'ffffU;
    if constexpr (which == Magnitudes::all) return bits;
    constexpr std::int32_t infinity = 0x7f80'0000;
    return select(is_less(bit_cast_to<int32x16>(bits), splat<int32x16>(infinity)), bits,
                  uint32x16{});
  };
  // Four maxima, as each waits for the one before.
  uint32x16 of_lanes[4] = {};
  constexpr std::size_t step = 4 * lanes;
  std::size_t i = 0;
  for (; i + step <= size; i += step) {
    for (std::size_t part = 0; part < 4; ++part) {
      of_lanes[part] =
          greater_integer(of_lanes[part], magnitudes(i + part * lanes, FullLanes<float>{}));
    }
  }
  for_lanes<float>(size - i, [&](std::size_t rest, auto count) {
    of_lanes[0] = greater_integer(of_lanes[0], magnitudes(i + rest, count));
  });
  const uint32x16 largest = greater_integer(greater_integer(of_lanes[0], of_lanes[1]),
                                            greater_integer(of_lanes[2], of_lanes[3]));
  std::uint32_t result = 0;
  for (std::size_t lane = 0; lane < lanes; ++lane) {
    result = std::max<std::uint32_t>(result, largest[lane]);
  }
  return result;
}

}  // namespace detail

/// The bits of the largest magnitude that several threads have told of.
class SharedLargestMagnitude {
 public:
  void raise_to(std::uint32_t bits) {
    std::uint32_t before = bits_.load(std::memory_order_relaxed);
    while (before < bits && !bits_.compare_exchange_weak(before, bits, std::memory_order_relaxed)) {
    }
  }
  [[nodiscard]] std::uint32_t bits() const { return bits_.load(std::memory_order_relaxed); }

 private:
  std::atomic<std::uint32_t> bits_ = 0;
};

/// The bits of the largest magnitude of the elements as floats: above those of infinity if one of
/// them is a NaN, and 0 if there are none. A comparison of integers, which neither misses a NaN nor
/// waits for one, nor takes a subnormal number for zero. One pass, which allocates nothing.
/// @tparam which `finite` passes over infinity and NaN.
template <Magnitudes which = Magnitudes::all, class T>
[[nodiscard]] std::uint32_t largest_magnitude_bits(const T* elements, std::size_t size) {
  SharedLargestMagnitude largest;
  parallel_ranges(size, map_grain, [&](std::size_t begin, std::size_t end) {
    largest.raise_to(detail::largest_magnitude_bits_here<which>(elements + begin, end - begin));
  });
  return largest.bits();
}

/// The largest finite magnitude of the elements as floats; 0 if there is none.
template <class T>
[[nodiscard]] float largest_finite_magnitude(const T* elements, std::size_t size) {
  return std::bit_cast<float>(largest_magnitude_bits<Magnitudes::finite>(elements, size));
}

}  // namespace UNIT_SCALING_NAMESPACE::kernels

UNIT_SCALING_IEEE_END
