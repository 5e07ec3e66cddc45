// SPDX-License-Identifier: MIT
/// @file
/// Layer core: the compiler of the file that includes this.
#pragma once

#include <string_view>

#include "unit_scaling/core/target.hpp"

namespace UNIT_SCALING_NAMESPACE {

/// Name and version, as the compiler gives it: "GCC 12.2.0".
#if defined(__clang__)
inline constexpr std::string_view compiler_name = "Clang " __clang_version__;
#elif defined(__GNUC__)
inline constexpr std::string_view compiler_name = "GCC " __VERSION__;
#else
inline constexpr std::string_view compiler_name = "unknown";
#endif

}  // namespace UNIT_SCALING_NAMESPACE
