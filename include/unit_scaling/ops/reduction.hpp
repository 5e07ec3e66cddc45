// SPDX-License-Identifier: MIT
/// @file
/// Layer ops: how the losses of items become one number.
#pragma once

namespace unit_scaling::ops {

/// How the losses of the items become one number.
enum class Reduction { mean, sum };

}  // namespace unit_scaling::ops
