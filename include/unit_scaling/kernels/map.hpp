// SPDX-License-Identifier: MIT
/// @file
/// Layer kernels: element-by-element functions of whole arrays.
#pragma once

#include <cstddef>
#include <tuple>

#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/parallel_for.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/kernels/lanes.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::kernels {

/// Elements per piece of work: large enough to hide the hand-over to a thread.
inline constexpr std::size_t map_grain = std::size_t{1} << 14;
static_assert(map_grain % lanes == 0);

/// `out[i] = f(in[i]...)`, computed in Compute and rounded once to Out. `f` takes and returns
/// `lane_t<Compute>`, so it is written once with operators and kernels/elementary.hpp.
template <class Compute, Overflow overflow = Overflow::infinity_or_nan, class F, class Out,
          class... In>
void map_into(Out* out, std::size_t size, const F& f, const In*... in) {
  const Destination<Out> destination(out, lanes, size * (sizeof(Out) + ... + sizeof(In)));
  parallel_ranges(size, map_grain, [&](std::size_t begin, std::size_t end) {
    // Of its own: what is written might change what is captured, for all the compiler knows.
    const Destination<Out> to = destination;
    for_lanes<Compute>(end - begin, [&](std::size_t i, auto count) {
      to.template put<overflow, Compute>(f(load<Compute>(in + begin + i, count)...), begin + i,
                                         count);
    });
    to.finish();
  });
}

/// A new array of Out of the shape of the first argument, in its memory resource.
/// The arrays have one shape; callers check that.
template <class Compute, class Out, Overflow overflow = Overflow::infinity_or_nan, class F,
          class First, class... In>
[[nodiscard]] Array<Out> map(const F& f, const Array<First>& first, const Array<In>&... in) {
  Array<Out> out(first.shape(), first.resource());
  map_into<Compute, overflow>(out.mutable_data(), first.size(), f, first.data(), in.data()...);
  return out;
}

/// The array rounded to another format; the same array, shared, if it has that format already.
template <class Out, Overflow overflow, class In>
[[nodiscard]] Array<Out> convert(const Array<In>& array, std::pmr::memory_resource* resource) {
  if constexpr (std::is_same_v<Out, In>) {
    return array;
  } else {
    using Compute = std::conditional_t<std::is_same_v<In, double> || std::is_same_v<Out, double>,
                                       double, float>;
    Array<Out> out(array.shape(), resource);
    map_into<Compute, overflow>(
        out.mutable_data(), array.size(), [](auto v) { return v; }, array.data());
    return out;
  }
}

/// As above, in the array's own memory resource.
template <class Out, Overflow overflow, class In>
[[nodiscard]] Array<Out> convert(const Array<In>& array) {
  return convert<Out, overflow>(array, array.resource());
}

}  // namespace UNIT_SCALING_NAMESPACE::kernels

UNIT_SCALING_IEEE_END
