// SPDX-License-Identifier: MIT
/// @file
/// Layer: benchmarks. Ids of tokens.
#pragma once

#include <cstddef>
#include <cstdint>

#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/random.hpp"

namespace unit_scaling_benchmarks {

/// Numbers from 0 to `bound` - 1, each as likely as any other.
[[nodiscard]] inline unit_scaling::Array<std::int32_t> random_ids(const unit_scaling::Shape& shape,
                                                                  std::uint32_t bound) {
  unit_scaling::Array<std::int32_t> ids(shape);
  const unit_scaling::Random random(1, unit_scaling::RandomStream::batch);
  for (std::size_t i = 0; i < ids.size(); ++i) {
    ids.mutable_data()[i] = static_cast<std::int32_t>(random.below(bound, i));
  }
  return ids;
}

}  // namespace unit_scaling_benchmarks
