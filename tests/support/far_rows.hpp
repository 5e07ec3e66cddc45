// SPDX-License-Identifier: MIT
/// @file
/// Layer: tests. Rows that are not N(0, 1): large means, constants, outliers, huge and tiny
/// magnitudes.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "support/random_arrays.hpp"
#include "unit_scaling/core/array.hpp"
#include "unit_scaling/formats/catalogue.hpp"
#include "unit_scaling/formats/precision.hpp"

namespace unit_scaling_test {

struct Row {
  std::string name;
  std::vector<float> elements;
};

/// Columns of a row: few, about a multiple of 16, many.
inline constexpr std::array<std::size_t, 8> row_sizes{1, 2, 5, 16, 45, 768, 4096, 5000};

/// Rows of `size` elements, each of a kind of its own.
[[nodiscard]] inline std::vector<Row> far_rows(std::size_t size, std::uint64_t seed = 7) {
  const auto normal = normal_array<float>({size}, seed);
  const auto row = [&](std::string name, const std::function<float(std::size_t)>& element) {
    Row result{std::move(name), std::vector<float>(size)};
    for (std::size_t i = 0; i < size; ++i) result.elements[i] = element(i);
    return result;
  };
  const auto z = [&](std::size_t i) { return normal.data()[i]; };
  return {
      row("normal", z),
      row("constant 3.3", [](std::size_t) { return 3.3F; }),
      row("constant 100.1", [](std::size_t) { return 100.1F; }),
      row("constant -1000.1", [](std::size_t) { return -1000.1F; }),
      row("constant 1e20", [](std::size_t) { return 1e20F; }),
      row("constant 3e38", [](std::size_t) { return 3e38F; }),
      row("constant 1e-44", [](std::size_t) { return 1e-44F; }),
      row("one other number", [&](std::size_t i) { return i == size / 2 ? 1000.2F : 1000.1F; }),
      row("mean 100", [&](std::size_t i) { return 100 + z(i); }),
      row("mean -1e4", [&](std::size_t i) { return -1e4F + z(i); }),
      row("mean 1e7", [&](std::size_t i) { return 1e7F + std::round(4 * z(i)); }),
      row("mean 1e7, one unit", [](std::size_t i) { return 1e7F + static_cast<float>(i % 2); }),
      row("mean 1e-30", [&](std::size_t i) { return 1e-30F * (1 + 1e-6F * z(i)); }),
      row("outlier 1e6", [&](std::size_t i) { return i == size / 2 ? 1e6F : z(i); }),
      row("outlier 1e30", [&](std::size_t i) { return i == size / 2 ? 1e30F : z(i); }),
      row("outlier first in a constant", [](std::size_t i) { return i == 0 ? 3e38F : 100.1F; }),
      row("outlier last", [&](std::size_t i) { return i + 1 == size ? -3e4F : 1 + z(i) / 8; }),
      row("1e20", [&](std::size_t i) { return 1e20F * z(i); }),
      row("1e20 and a mean", [&](std::size_t i) { return 1e20F * (5 + z(i)); }),
      row("largest", [](std::size_t i) { return (i % 3 == 0 ? -1.0F : 1.0F) * 3.4e38F; }),
      row("1e-18", [&](std::size_t i) { return 1e-18F * z(i); }),
      row("1e-25", [&](std::size_t i) { return 1e-25F * z(i); }),
      row("1e-38", [&](std::size_t i) { return 1e-38F * (1 + z(i)); }),
      row("1e-43", [&](std::size_t i) { return 1e-43F * z(i); }),
      row("zeros", [](std::size_t) { return 0.0F; }),
  };
}

/// A row rounded to T, as an array of one row.
template <unit_scaling::Storage T> [[nodiscard]] unit_scaling::Array<T> as_row(const Row& row) {
  unit_scaling::Array<T> x(unit_scaling::Shape{1, row.elements.size()});
  T* target = x.mutable_data();
  for (std::size_t i = 0; i < x.size(); ++i) target[i] = static_cast<T>(row.elements[i]);
  return x;
}

/// Whether all elements are finite: some rows are beyond the range of some formats.
template <class T> [[nodiscard]] bool is_finite(const unit_scaling::Array<T>& array) {
  return std::all_of(array.span().begin(), array.span().end(),
                     [](T v) { return std::isfinite(static_cast<double>(v)); });
}

/// An element as no format rounds it.
template <class T>
[[nodiscard]] long double exact(const unit_scaling::Array<T>& array, std::size_t i) {
  return static_cast<long double>(static_cast<double>(array.data()[i]));
}

/// Half the distance of 1 to the next number of the arithmetic of P.
template <class P>
inline constexpr double compute_unit =
    static_cast<double>(std::numeric_limits<typename P::compute>::epsilon()) / 2;

/// How many additions may follow one another in a sum along a row: in sixteen lanes, or in one.
template <class P> [[nodiscard]] double additions(std::size_t columns) {
  const auto n = static_cast<double>(columns);
  return std::is_same_v<typename P::compute, double> ? n : n / 16 + 5;
}

}  // namespace unit_scaling_test
