// SPDX-License-Identifier: MIT
/// @file
/// Layer core: the version of the library. CMake reads it from here.
///
/// Before 1.0, a new minor version may change what a program sees; a new patch version may not.
#pragma once

#include <string_view>

#include "unit_scaling/core/target.hpp"

#define UNIT_SCALING_VERSION_MAJOR 0
#define UNIT_SCALING_VERSION_MINOR 1
#define UNIT_SCALING_VERSION_PATCH 0

#define UNIT_SCALING_DOTTED(major, minor, patch) #major "." #minor "." #patch
#define UNIT_SCALING_DOTTED_EXPANDED(...) UNIT_SCALING_DOTTED(__VA_ARGS__)

namespace UNIT_SCALING_NAMESPACE {

/// The three numbers with dots between them, as CMake and `find_package` know the version.
inline constexpr std::string_view version = UNIT_SCALING_DOTTED_EXPANDED(
    UNIT_SCALING_VERSION_MAJOR, UNIT_SCALING_VERSION_MINOR, UNIT_SCALING_VERSION_PATCH);

}  // namespace UNIT_SCALING_NAMESPACE

#undef UNIT_SCALING_DOTTED
#undef UNIT_SCALING_DOTTED_EXPANDED
