// SPDX-License-Identifier: MIT
/// @file
/// Layer distributed: which gradients of a source are meant, where a source has those of many
/// steps.
// unit_scaling: optional
#pragma once

#include <cstdint>

#include "unit_scaling/core/target.hpp"
#include "unit_scaling/optim/gradient_source.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::distributed::detail {

/// The gradients that a source has now. Those of a Tape and of a GradientTree are others after
/// `clear`, of which `step()` tells; a source without it has one recording.
struct Recording {
  const void* source = nullptr;
  std::uint64_t step = 0;
  friend bool operator==(const Recording&, const Recording&) = default;
};

template <optim::GradientSource Gradients>
[[nodiscard]] Recording recording_of(const Gradients& source) {
  Recording result{.source = &source};
  if constexpr (requires { std::uint64_t{source.step()}; }) result.step = source.step();
  return result;
}

}  // namespace UNIT_SCALING_NAMESPACE::distributed::detail

UNIT_SCALING_IEEE_END
