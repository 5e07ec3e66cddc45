// SPDX-License-Identifier: MIT
/// @file
/// Layer kernels: one way to write a loop over elements of any format.
///
/// Arithmetic runs on "lanes": 16 floats for every format but double, which runs one at a time.
/// Elements are decoded on load and rounded once on store. A tail shorter than 16 elements runs
/// through the same vector code with zeros beyond its end, so an element's bits do not depend on
/// its position, and 16 is the number on every instruction set, so sums do not depend on that.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "unit_scaling/core/simd.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/formats/convert.hpp"
#include "unit_scaling/kernels/ieee_arithmetic.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::kernels {

/// What a loop whose arithmetic is in `Compute` (float or double) holds in a register.
template <class Compute>
using lane_t = std::conditional_t<std::is_same_v<Compute, double>, double, float32x16>;

template <class Compute>
inline constexpr std::size_t lane_count = std::is_same_v<Compute, double> ? 1 : lanes;

/// A full register's worth of elements, as a compile-time constant.
template <class Compute> using FullLanes = std::integral_constant<std::size_t, lane_count<Compute>>;

/// Loads `count` elements from `p` as Compute; `count` is FullLanes or a shorter tail.
template <class Compute, class T, class Count>
[[nodiscard]] inline lane_t<Compute> load(const T* p, Count count) {
  if constexpr (std::is_same_v<Compute, double>) {
    return static_cast<double>(*p);
  } else if constexpr (std::is_same_v<Count, FullLanes<Compute>>) {
    return load_float(p);
  } else {
    return load_float_partial(p, count);
  }
}

/// Rounds `count` lanes to T and stores them at `p`.
template <Overflow overflow = Overflow::infinity_or_nan, class Compute, class T, class Count>
inline void store(const lane_t<Compute>& value, T* p, Count count) {
  if constexpr (std::is_same_v<Compute, double>) {
    if constexpr (std::is_floating_point_v<T>) {
      *p = static_cast<T>(value);
    } else {
      *p = T::from_double(value, overflow);
    }
  } else if constexpr (std::is_same_v<Count, FullLanes<Compute>>) {
    store_float<overflow>(value, p);
  } else {
    store_float_partial<overflow>(value, p, count);
  }
}

/// Lanes as they come back from an array of T.
template <class T, class Compute>
[[nodiscard]] inline lane_t<Compute> rounded_to(lane_t<Compute> value) {
  if constexpr (std::is_same_v<T, Compute>) {
    return value;
  } else {
    alignas(unit_scaling::detail::line_bytes) T stored[lane_count<Compute>];
    store<Overflow::infinity_or_nan, Compute>(value, stored, FullLanes<Compute>{});
    return load<Compute>(stored, FullLanes<Compute>{});
  }
}

/// Where an op writes a result that nobody reads again before it is whole: into the caches, or past
/// them if they would not keep it, so that a line that is written whole is not read first.
template <class T> class Destination {
 public:
  /// For rows of `columns` elements at `to`, of an op that reads and writes so many bytes in all.
  Destination(T* to, std::size_t columns, std::size_t bytes)
      : to_(to),
        streams_(bytes >= unit_scaling::detail::streaming_bytes && columns % lanes == 0 &&
                 reinterpret_cast<std::uintptr_t>(to) % (lanes * sizeof(T)) == 0) {}

  /// Rounds `count` lanes to T and writes them from element `index` on.
  template <Overflow overflow, class Compute, class Count>
  [[gnu::always_inline]] void put(lane_t<Compute> value, std::size_t index, Count count) const {
    if constexpr (std::is_same_v<Count, FullLanes<float>>) {
      if (streams_) {
        alignas(unit_scaling::detail::line_bytes) T rounded[lanes];
        store<overflow, Compute>(value, rounded, count);
        unit_scaling::detail::stream_sixteen(rounded, to_ + index);
        return;
      }
    }
    store<overflow, Compute>(value, to_ + index, count);
  }

  /// To be called by each thread when it has written its part.
  void finish() const {
    if (streams_) unit_scaling::detail::finish_streaming();
  }

 private:
  T* to_;
  bool streams_;
};

/// Calls `body(i, count)` over [0, size) in steps of the lane count; `count` is FullLanes but for
/// the last, shorter, step.
template <class Compute, class Body> inline void for_lanes(std::size_t size, const Body& body) {
  constexpr std::size_t step = lane_count<Compute>;
  std::size_t i = 0;
  for (; i + step <= size; i += step) body(i, FullLanes<Compute>{});
  if (i < size) body(i, size - i);
}

/// The value in every lane.
template <class Compute> [[nodiscard]] inline lane_t<Compute> broadcast(Compute value) {
  if constexpr (std::is_same_v<Compute, double>) {
    return value;
  } else {
    return splat<float32x16>(value);
  }
}

/// `value` with `addend` added in one lane.
[[nodiscard]] inline double add_to_lane(double value, std::size_t /*lane*/, double addend) {
  return value + addend;
}
[[nodiscard]] inline float32x16 add_to_lane(float32x16 value, std::size_t lane, float addend) {
  value[lane] += addend;
  return value;
}

/// The greater by lanes; `right` where either is a NaN.
[[nodiscard]] inline double greater_lane(double left, double right) {
  return left > right ? left : right;
}
[[nodiscard]] inline float32x16 greater_lane(float32x16 left, float32x16 right) {
  return greatest(left, right);
}

[[nodiscard]] inline double horizontal_sum(double value) { return value; }

/// Sum of the lanes, pairwise: always in the same order.
[[nodiscard]] inline float horizontal_sum(float32x16 value) {
  const auto eight = lower_half(value) + upper_half(value);
  const auto four = lower_half(eight) + upper_half(eight);
  return (four[0] + four[2]) + (four[1] + four[3]);
}

[[nodiscard]] inline double horizontal_max(double value) { return value; }

/// Largest lane; a NaN in any lane gives an unspecified lane, so callers look for NaN themselves.
[[nodiscard]] inline float horizontal_max(float32x16 value) {
  float result = value[0];
  for (std::size_t i = 1; i < lanes; ++i) result = value[i] > result ? value[i] : result;
  return result;
}

/// Lanes beyond `count` replaced by `filler`.
template <class Compute, class Count>
[[nodiscard]] inline lane_t<Compute> fill_beyond(lane_t<Compute> value, Count count,
                                                 [[maybe_unused]] Compute filler) {
  if constexpr (!std::is_same_v<Count, FullLanes<Compute>> && !std::is_same_v<Compute, double>) {
    for (std::size_t i = count; i < lanes; ++i) value[i] = filler;
  }
  return value;
}

}  // namespace UNIT_SCALING_NAMESPACE::kernels

UNIT_SCALING_IEEE_END
