// SPDX-License-Identifier: MIT
/// @file
/// Layer train: whether all that a training keeps is finite.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <type_traits>

#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/formats/encoded_array.hpp"
#include "unit_scaling/formats/encoded_array_codec.hpp"
#include "unit_scaling/train/training_state.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::train {

namespace detail {

[[nodiscard]] inline bool is_finite(const EncodedArray& array) {
  std::array<float, 1024> room{};
  const std::size_t size = array.shape().size();
  for (std::size_t first = 0; first < size; first += room.size()) {
    const std::span some(room.data(), std::min(room.size(), size - first));
    array.decode(first, some);
    if (!std::all_of(some.begin(), some.end(), [](float each) { return std::isfinite(each); })) {
      return false;
    }
  }
  return true;
}
template <class T> [[nodiscard]] bool is_finite(const Array<T>& array) {
  if constexpr (std::is_integral_v<T>) {
    return true;
  } else {
    const auto elements = array.span();
    return std::all_of(elements.begin(), elements.end(),
                       [](T each) { return std::isfinite(static_cast<double>(each)); });
  }
}
template <class T> [[nodiscard]] bool is_finite(const std::map<std::string, Array<T>>& arrays) {
  return std::all_of(arrays.begin(), arrays.end(),
                     [](const auto& entry) { return is_finite(entry.second); });
}

}  // namespace detail

/// The name of the first state of a part that is an array, an encoded one or a map of arrays, and
/// has an element that is infinite or NaN; empty if all are finite. Numbers are not looked at: the
/// best loss so far, say, may begin as infinity.
/// @throws as `for_each_state`.
template <class Part> [[nodiscard]] std::optional<std::string> first_non_finite_state(Part&& part) {
  std::optional<std::string> first;
  for_each_state(part, [&]<class T>(const std::string& name, const T& state) {
    if constexpr (requires { detail::is_finite(state); }) {
      if (!first && !detail::is_finite(state)) first = name;
    }
  });
  return first;
}

}  // namespace UNIT_SCALING_NAMESPACE::train

UNIT_SCALING_IEEE_END
