// SPDX-License-Identifier: MIT
/// @file
/// Layer analysis: the colours and dashes of a chart.
#pragma once

#include <array>
#include <string_view>

#include "unit_scaling/core/target.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::analysis {

/// The colours of a chart.
enum class ChartTheme {
  automatic,  ///< Dark where the reader prefers dark, otherwise light.
  light,      ///< Dark lines on white.
  dark,       ///< Light lines on near black.
};

namespace detail {

/// The colours of a chart in one theme.
struct ChartPalette {
  std::string_view surface;  ///< Behind everything.
  std::string_view ink;      ///< Title and labels.
  std::string_view muted;    ///< Subtitle and numbers.
  std::string_view grid;
  std::string_view axis;
  std::array<std::string_view, 7> series;
};

// After Okabe and Ito ("Color universal design", 2008): blue, vermilion, green, purple, orange,
// black and sky blue. Lightness was changed until each has a contrast of 3:1 at least with the
// surface, and any two differ for readers with protanopia, deuteranopia and tritanopia (by 0.08
// at least in OKLab, as simulated by Machado et al. 2009).
inline constexpr ChartPalette light_palette{
    "#ffffff", "#1f2328",
    "#59636e", "#e6e9ec",
    "#9aa3ad", {"#0554a5", "#c44300", "#02a780", "#951271", "#cf8300", "#37392f", "#4380b3"}};
inline constexpr ChartPalette dark_palette{
    "#14171c", "#e9edf1",
    "#a3adb8", "#2a2f36",
    "#59626d", {"#1fa0ff", "#ef4402", "#02966a", "#f263b2", "#e6db48", "#e4f4f1", "#83d0ff"}};
/// Patterns of lines, for `stroke-dasharray`; none for a solid line.
inline constexpr std::array<std::string_view, 7> chart_dashes{
    "", "8 3.5", "2.5 2.5", "9 3 2.5 3", "15 4", "5 3 2 3 2 3", "1.5 4"};

}  // namespace detail

}  // namespace UNIT_SCALING_NAMESPACE::analysis

UNIT_SCALING_IEEE_END
