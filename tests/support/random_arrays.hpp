// SPDX-License-Identifier: MIT
/// @file
/// Layer: tests. Arrays of random data; the same on every platform.
#pragma once

#include <cstddef>
#include <cstdint>

#include "support/compiled.hpp"
#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/random.hpp"
#include "unit_scaling/formats/catalogue.hpp"

namespace unit_scaling_test {

/// Independent draws from N(0, 1), rounded to T.
template <unit_scaling::Storage T>
[[nodiscard]] unit_scaling::Array<T> normal_array(const unit_scaling::Shape& shape,
                                                  std::uint64_t seed) {
  const unit_scaling::Random random(seed);
  unit_scaling::Array<T> result(shape);
  T* target = result.mutable_data();
  for (std::size_t i = 0; i < result.size(); ++i) target[i] = static_cast<T>(random.normal(i));
  return result;
}

#ifdef UNIT_SCALING_TEST_SUPPORT_IS_COMPILED
UNIT_SCALING_TEST_SUPPORT_OF_ALL_FORMATS(UNIT_SCALING_TEST_RANDOM_ARRAYS, extern);
#endif

/// Independent integers, uniform in [0, bound): token ids and labels.
[[nodiscard]] inline unit_scaling::Array<std::int32_t> id_array(const unit_scaling::Shape& shape,
                                                                std::uint32_t bound,
                                                                std::uint64_t seed) {
  const unit_scaling::Random random(seed);
  unit_scaling::Array<std::int32_t> result(shape);
  std::int32_t* target = result.mutable_data();
  for (std::size_t i = 0; i < result.size(); ++i) {
    target[i] = static_cast<std::int32_t>(random.below(bound, i));
  }
  return result;
}

}  // namespace unit_scaling_test
