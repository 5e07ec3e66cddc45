// SPDX-License-Identifier: MIT
/// @file
/// Layer kernels: operands of a matrix product and its extents.
#pragma once

#include <algorithm>
#include <cstddef>
#include <type_traits>

#include "unit_scaling/core/target.hpp"
#include "unit_scaling/kernels/code_table.hpp"
#include "unit_scaling/kernels/element_kernels.hpp"
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

/// The same for elements of a kind that is known when the program runs.
struct OperandView {
  const void* data;
  const ElementKernels* kernels;
  const CodeTable* table;  ///< of the elements, if they are codes of a byte each
  std::size_t row_stride;
  std::size_t column_stride;
  std::size_t segment_stride = 0;

  /// The transpose, without moving anything.
  [[nodiscard]] constexpr OperandView transposed() const {
    return {data, kernels, table, column_stride, row_stride, segment_stride};
  }
  /// The rows from `row` on.
  [[nodiscard]] OperandView from_row(std::size_t row) const {
    OperandView rest = *this;
    rest.data = static_cast<const std::byte*>(data) + row * row_stride * kernels->bytes;
    return rest;
  }
  [[nodiscard]] OperandView from_column(std::size_t column) const {
    return transposed().from_row(column).transposed();
  }
  /// The first `count` elements from where it begins that follow each other in memory: where they
  /// are, if they are of type Compute, else written to `room`.
  template <class Compute>
  [[nodiscard]] const Compute* read(std::size_t count, Compute* room) const {
    if (std::is_same_v<Compute, double> || kernels->are_floats) {
      return static_cast<const Compute*>(data);
    }
    if constexpr (std::is_same_v<Compute, float>) kernels->decode(data, table, count, room);
    return room;
  }
};

template <class T> [[nodiscard]] OperandView operand_view(const MatrixView<T>& view) {
  return {view.data,       find_element_kernels<T>(), find_code_table<T>(),
          view.row_stride, view.column_stride,        view.segment_stride};
}

/// An operand of a product, as lanes of elements of any type: element (lane, p) of segment s is
/// `s * segment_stride + lane * lane_stride + p * depth_stride` elements from `data`.
///
/// A product is given its operands in this form, and so compiled once for all pairs of types.
struct LaneOperand {
  const void* data;
  const ElementKernels* kernels;
  std::size_t lane_stride;
  std::size_t depth_stride;
  std::size_t segment_stride;
  std::size_t lane_count;
  const CodeTable* table;  ///< of the elements, if they are codes of a byte each

  /// Elements [begin, begin + depth) of `count` lanes from `lane` on, or of those that there are.
  [[nodiscard]] PanelSource<void> part(std::size_t segment, std::size_t lane, std::size_t count,
                                       std::size_t begin, std::size_t depth) const {
    const std::size_t offset = segment * segment_stride + lane * lane_stride + begin * depth_stride;
    return {.data = static_cast<const std::byte*>(data) + offset * kernels->bytes,
            .lane_stride = lane_stride,
            .depth_stride = depth_stride,
            .lane_count = std::min(count, lane_count - lane),
            .depth = depth,
            .lanes_readable = lane_count - lane,
            .table = table};
  }
};

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
[[nodiscard]] inline LaneOperand lanes_of(const OperandView& view, std::size_t count) {
  return {.data = view.data,
          .kernels = view.kernels,
          .lane_stride = view.row_stride,
          .depth_stride = view.column_stride,
          .segment_stride = view.segment_stride,
          .lane_count = count,
          .table = view.table};
}

}  // namespace detail

}  // namespace UNIT_SCALING_NAMESPACE::kernels

UNIT_SCALING_IEEE_END
