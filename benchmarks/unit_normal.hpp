// SPDX-License-Identifier: MIT
/// @file
/// Layer: benchmarks. Unit normal data.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory_resource>

#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/random.hpp"

namespace unit_scaling_benchmarks {

/// Writes `count` numbers of a tensor, rounded to T; 64 Ki of them, repeated: no kernel here
/// depends on what came before, and drawing more would take longer than what is measured.
template <class T> void fill_unit_normal(T* target, std::size_t count, std::uint32_t tensor) {
  const unit_scaling::Random random(1, unit_scaling::RandomStream::general, 0, tensor);
  constexpr std::size_t period = std::size_t{1} << 16;
  for (std::size_t i = 0; i < count; ++i) {
    target[i] = i < period ? T(random.normal(i)) : target[i - period];
  }
}

/// An array of them.
template <class T>
[[nodiscard]] unit_scaling::Array<T> unit_normal(
    const unit_scaling::Shape& shape, std::uint32_t tensor,
    std::pmr::memory_resource* memory = std::pmr::new_delete_resource()) {
  unit_scaling::Array<T> result(shape, memory);
  fill_unit_normal(result.mutable_data(), result.size(), tensor);
  return result;
}

}  // namespace unit_scaling_benchmarks
