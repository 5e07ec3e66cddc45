// SPDX-License-Identifier: MIT
/// @file
/// Layer kernels: operands of a matrix product and its extents.
#pragma once

#include <cstddef>

#include "unit_scaling/core/target.hpp"
#include "unit_scaling/kernels/packing.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::kernels {

/// An operand of a matrix product: element (row, column) of segment s is at
/// `data[s * segment_stride + row * row_stride + column * column_stride]`.
template <class T> struct MatrixView {
  const T* data;
  std::size_t row_stride;
  std::size_t column_stride;
  std::size_t segment_stride = 0;

  /// The transpose, without moving anything.
  [[nodiscard]] constexpr MatrixView transposed() const {
    return {data, column_stride, row_stride, segment_stride};
  }
};

/// A row-major matrix of the given number of columns.
template <class T>
[[nodiscard]] constexpr MatrixView<T> row_major(const T* data, std::size_t columns,
                                                std::size_t segment_stride = 0) {
  return {data, columns, 1, segment_stride};
}

/// Extents of a product: (rows, inner) times (inner, columns), summed over `segments` pairs of
/// operands one `segment_stride` apart, as if their inner dimensions were laid end to end.
struct MatmulSize {
  std::size_t rows;
  std::size_t columns;
  std::size_t inner;
  std::size_t segments = 1;
};

namespace detail {

/// The lanes of an operand: `count` rows of it, along its columns.
template <class T>
[[nodiscard]] LaneOperand lanes_of(const MatrixView<T>& view, std::size_t count) {
  return {.data = view.data,
          .element_bytes = sizeof(T),
          .lane_stride = view.row_stride,
          .depth_stride = view.column_stride,
          .segment_stride = view.segment_stride,
          .lane_count = count};
}

}  // namespace detail

}  // namespace UNIT_SCALING_NAMESPACE::kernels

UNIT_SCALING_IEEE_END
