// SPDX-License-Identifier: MIT
/// @file
/// Layer analysis: an axis of a chart, and the numbers on it.
#pragma once

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <cstdlib>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "unit_scaling/analysis/chart_text.hpp"
#include "unit_scaling/core/target.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::analysis {

/// How an axis of a chart runs. A number that is not positive leaves a gap on a logarithmic axis.
enum class AxisScale {
  linear,  ///< Ticks at 1, 2 or 5 times powers of ten.
  log2,    ///< Ticks at powers of two.
  log10,   ///< Ticks at powers of ten, and between them where there is room.
};

namespace detail {

/// A place on an axis, and its label if it has one: `text`, and `power` raised behind it.
struct ChartTick {
  double position = 0;  ///< In axis coordinates: the number or its logarithm.
  std::string text;
  std::string power;

  [[nodiscard]] double width() const {
    return text_width(code_points(text)) + 0.75 * text_width(code_points(power));
  }
};

/// "−12", with the sign that is as wide as a digit.
[[nodiscard]] inline std::string minus_sign(std::string text) {
  if (text.starts_with('-')) text.replace(0, 1, "\u2212");
  return text;
}

/// A number with that many decimals, and thin spaces between thousands if it has five digits or
/// more.
[[nodiscard]] inline std::string tick_number(double value, int decimals) {
  std::array<char, 400> buffer{};
  const auto result = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value,
                                    std::chars_format::fixed, decimals);
  std::string text(buffer.data(), result.ptr);
  const std::size_t first = text.starts_with('-') ? 1 : 0;
  const std::size_t point = std::min(text.find('.'), text.size());
  if (point - first >= 5) {
    for (std::size_t i = point; i > first + 3;) text.insert(i -= 3, "\u2009");
  }
  return minus_sign(text);
}

/// Ticks at 1, 2 or 5 times a power of ten, about `target` of them. `lo` < `hi`, and both differ by
/// at least a billionth of their size.
[[nodiscard]] inline std::vector<ChartTick> linear_ticks(double lo, double hi, double target) {
  const double rough = (hi - lo) / target;
  if (!(rough > 1e-300)) return {};  // between subnormal numbers on a logarithmic axis
  int exponent = static_cast<int>(std::floor(std::log10(rough)));
  const double lead = rough / std::pow(10.0, exponent);
  // The nearest by ratio: between 1, 2, 5 and 10 lie the roots of 2, 10 and 50.
  int digit = 1;
  if (lead > 7.07) {
    ++exponent;
  } else if (lead > 3.16) {
    digit = 5;
  } else if (lead > 1.41) {
    digit = 2;
  }
  // Dividing by a power of ten is exact more often than multiplying by its reciprocal: 3 / 10 is
  // 0.3, but 3 * 0.1 is not.
  const double power = std::pow(10.0, std::abs(exponent));
  const auto multiple = [&](double count) {
    return exponent < 0 ? count * digit / power : count * digit * power;
  };
  const double largest = std::max(std::abs(lo), std::abs(hi));
  const int magnitude = static_cast<int>(std::floor(std::log10(largest)));
  const bool scientific = magnitude >= 6 || magnitude < -4;

  std::vector<ChartTick> ticks;
  const double step = multiple(1);
  const double last = std::floor(hi / step + 1e-9);
  for (double count = std::ceil(lo / step - 1e-9); count <= last; ++count) {
    const double value = multiple(count) + 0.0;  // ceil gives −0; adding 0 removes its sign
    ChartTick tick{value, "", ""};
    if (scientific && value != 0) {
      tick.text =
          tick_number(value / std::pow(10.0, magnitude), std::max(0, magnitude - exponent)) +
          "\u00d710";
      tick.power = minus_sign(std::to_string(magnitude));
    } else {
      tick.text = tick_number(value, scientific ? 0 : std::max(0, -exponent));
    }
    ticks.push_back(std::move(tick));
  }
  return ticks;
}

/// Ticks at powers of `base`, or, where less than two of these fall between the ends, at numbers
/// that are round otherwise. `lo` and `hi` are logarithms to that base.
[[nodiscard]] inline std::vector<ChartTick> logarithmic_ticks(int base, double lo, double hi,
                                                              double target) {
  const double first = std::ceil(lo - 1e-9);
  const double last = std::floor(hi + 1e-9);
  std::vector<ChartTick> ticks;
  if (last - first < 1) {
    for (ChartTick& tick : linear_ticks(std::pow(base, lo), std::pow(base, hi), 0.6 * target)) {
      tick.position = std::log(tick.position) / std::log(base);
      if (std::isfinite(tick.position)) ticks.push_back(std::move(tick));
    }
    return ticks;
  }
  double stride = 1;
  while ((last - first) / stride > target) stride *= 2;
  // 1024 reads better than a power, but 16777216 does not.
  const double largest_plain = base == 2 ? 14 : 5;
  const double smallest_plain = base == 2 ? 0 : -3;
  const bool plain = first >= smallest_plain && last <= largest_plain;
  for (double exponent = std::ceil(first / stride) * stride; exponent <= last; exponent += stride) {
    ChartTick tick{exponent, "", ""};
    if (plain) {
      tick.text = tick_number(std::pow(base, exponent), static_cast<int>(std::max(0.0, -exponent)));
    } else {
      tick.text = std::to_string(base);
      tick.power = tick_number(exponent, 0);
    }
    ticks.push_back(std::move(tick));
    if (base == 10 && stride == 1 && last - first <= 2) {
      for (const int digit : {2, 5}) {
        const double position = exponent + std::log10(digit);
        if (position > hi) break;
        ChartTick between{position, "", ""};
        if (plain) {
          between.text = tick_number(digit * std::pow(10.0, exponent),
                                     static_cast<int>(std::max(0.0, -exponent)));
        }
        ticks.push_back(std::move(between));
      }
    }
  }
  return ticks;
}

inline constexpr double chart_largest = 1e300;    ///< Differences of such numbers are finite.
inline constexpr double chart_smallest = 1e-280;  ///< What is smaller is drawn as zero.

/// One axis of a chart: its range, where that lies in the picture, and its ticks.
struct ChartAxis {
  std::string_view name;
  AxisScale scale = AxisScale::linear;
  std::optional<double> fixed_lo;  ///< In axis coordinates, as the next three.
  std::optional<double> fixed_hi;
  double lo = 0;
  double hi = 1;
  double pixel_lo = 0;
  double pixel_hi = 1;
  std::vector<ChartTick> ticks;

  /// Whether the axis can show that number.
  [[nodiscard]] bool shows(double value) const {
    return std::abs(value) <= chart_largest && (scale == AxisScale::linear || value > 0);
  }
  /// The number in axis coordinates.
  [[nodiscard]] double coordinate(double value) const {
    switch (scale) {
      case AxisScale::linear:
        return value;
      case AxisScale::log2:
        return std::log2(value);
      case AxisScale::log10:
        return std::log10(value);
    }
    return value;
  }
  [[nodiscard]] double pixel_of(double position) const {
    return pixel_lo + (position - lo) / (hi - lo) * (pixel_hi - pixel_lo);
  }
  [[nodiscard]] double pixel(double value) const { return pixel_of(coordinate(value)); }
  void make_ticks(double target) {
    ticks = scale == AxisScale::linear
                ? linear_ticks(lo, hi, target)
                : logarithmic_ticks(scale == AxisScale::log2 ? 2 : 10, lo, hi, target);
  }
};

/// An axis whose given ends are fixed.
/// @throws std::invalid_argument if it cannot show one of them, or they are in the wrong order.
[[nodiscard]] inline ChartAxis make_axis(std::string_view name, AxisScale scale,
                                         std::optional<double> lo, std::optional<double> hi) {
  ChartAxis axis;
  axis.name = name;
  axis.scale = scale;
  const auto fix = [&](const std::optional<double>& end) -> std::optional<double> {
    if (!end) return std::nullopt;
    if (!axis.shows(*end)) {
      throw std::invalid_argument("LineChart: an end of the " + std::string(name) + " axis is " +
                                  std::to_string(*end) + ", expected a finite number" +
                                  (scale == AxisScale::linear ? "" : " above 0"));
    }
    return axis.coordinate(*end);
  };
  axis.fixed_lo = fix(lo);
  axis.fixed_hi = fix(hi);
  if (lo && hi && !(*lo < *hi)) {
    throw std::invalid_argument("LineChart: the " + std::string(name) + " axis goes from " +
                                std::to_string(*lo) + " to " + std::to_string(*hi) +
                                ", expected a larger number at the end");
  }
  return axis;
}

/// Makes an axis so long that it shows all of [lo, hi], and more by `margin` times the range at
/// each end that is not fixed; lo > hi says that there are no data.
inline void set_range(ChartAxis& axis, double lo, double hi, double margin) {
  if (lo > hi) {  // no data
    lo = axis.fixed_lo.value_or(axis.fixed_hi.value_or(1) - 1);
    hi = lo + 1;
  }
  lo = axis.fixed_lo.value_or(lo);
  hi = axis.fixed_hi.value_or(hi);
  // One point, one value, or a fixed end that leaves no data in between. Numbers closer than this
  // would need ticks of ten digits.
  const bool is_linear = axis.scale == AxisScale::linear;
  const double size = std::max({std::abs(lo), std::abs(hi), is_linear ? chart_smallest : 1.0});
  if (!(hi - lo > 1e-9 * size)) {
    const double half = !is_linear || size == chart_smallest ? 1 : 0.05 * size;
    const double centre = axis.fixed_lo ? lo + half : axis.fixed_hi ? hi - half : lo;
    lo = centre - half;
    hi = centre + half;
  }
  const double extra = margin * (hi - lo);
  axis.lo = axis.fixed_lo ? lo : lo - extra;
  axis.hi = axis.fixed_hi ? hi : hi + extra;
}

}  // namespace detail

}  // namespace UNIT_SCALING_NAMESPACE::analysis

UNIT_SCALING_IEEE_END
