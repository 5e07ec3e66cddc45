// SPDX-License-Identifier: MIT
/// @file
/// Layer ops: how the losses of items become one number.
#pragma once

#include "unit_scaling/core/target.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::ops {

/// How the losses of the items become one number.
enum class Reduction { mean, sum };

}  // namespace UNIT_SCALING_NAMESPACE::ops

UNIT_SCALING_IEEE_END
