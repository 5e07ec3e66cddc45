// SPDX-License-Identifier: MIT
/// @file
/// Layer: tests. Every rounding mode, to be gone through.
#pragma once

#include "unit_scaling/formats/rounding.hpp"

namespace unit_scaling_test {

/// The modes that need no random bits.
inline constexpr unit_scaling::Rounding deterministic_modes[] = {
    unit_scaling::Rounding::nearest_even, unit_scaling::Rounding::nearest_away,
    unit_scaling::Rounding::toward_zero, unit_scaling::Rounding::toward_positive,
    unit_scaling::Rounding::toward_negative};

/// All modes.
inline constexpr unit_scaling::Rounding all_modes[] = {
    unit_scaling::Rounding::nearest_even,    unit_scaling::Rounding::nearest_away,
    unit_scaling::Rounding::toward_zero,     unit_scaling::Rounding::toward_positive,
    unit_scaling::Rounding::toward_negative, unit_scaling::Rounding::stochastic};

}  // namespace unit_scaling_test
