// SPDX-License-Identifier: MIT
/// @file
/// Layer kernels: a tile of a matrix product in double.
#pragma once

#include <algorithm>
#include <cstddef>

#include "unit_scaling/core/multiply_add.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/kernels/packing.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::kernels {

namespace detail {

/// A tile of a product in double, for checking: the interface of RegisterTile.
struct DoubleTile {
  static constexpr std::size_t rows = 8;
  static constexpr std::size_t columns = 16;
  struct Session {};

  [[nodiscard]] static constexpr std::size_t left_words(std::size_t depth) { return depth * rows; }
  [[nodiscard]] static constexpr std::size_t right_words(std::size_t depth) {
    return depth * columns;
  }
  template <class T> static void pack_left(const PanelSource<T>& source, double* target) {
    pack<rows>(source, target);
  }
  template <class T> static void pack_right(const PanelSource<T>& source, double* target) {
    pack<columns>(source, target);
  }
  static void multiply(std::size_t depth, const double* left, const double* right,
                       std::size_t height, std::size_t width, double* sums, bool accumulate) {
    for (std::size_t i = 0; i < height; ++i) {
      for (std::size_t j = 0; j < width; ++j) {
        double sum = accumulate ? sums[i * columns + j] : 0;
        for (std::size_t p = 0; p < depth; ++p) {
          sum = multiply_add(left[p * rows + i], right[p * columns + j], sum);
        }
        sums[i * columns + j] = sum;
      }
    }
  }

 private:
  template <std::size_t width, class T>
  static void pack(const PanelSource<T>& source, double* target) {
    for (std::size_t p = 0; p < source.depth; ++p) {
      for (std::size_t i = 0; i < std::min(width, source.lane_count); ++i) {
        target[p * width + i] =
            static_cast<double>(source.data[i * source.lane_stride + p * source.depth_stride]);
      }
    }
  }
};

}  // namespace detail

}  // namespace UNIT_SCALING_NAMESPACE::kernels

UNIT_SCALING_IEEE_END
