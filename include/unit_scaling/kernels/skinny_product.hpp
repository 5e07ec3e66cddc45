// SPDX-License-Identifier: MIT
/// @file
/// Layer kernels: products of a matrix with few vectors: which these are, and how threads share
/// their lanes.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "unit_scaling/core/parallel_for.hpp"
#include "unit_scaling/core/simd.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/kernels/lanes.hpp"
#include "unit_scaling/kernels/matrix_view.hpp"
#include "unit_scaling/kernels/packing.hpp"
#include "unit_scaling/kernels/packing_memory.hpp"
#include "unit_scaling/kernels/parts.hpp"
#include "unit_scaling/kernels/skinny.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::kernels {

namespace detail {

/// Whether a product has so few rows or columns that the other operand is better not packed.
template <class A, class B>
[[nodiscard]] bool is_skinny(const MatmulSize& size, const MatrixView<A>& a,
                             const MatrixView<B>& b) {
  const auto is_dense = [](const auto& view) {
    return view.row_stride == 1 || view.column_stride == 1;
  };
  if (size.segments != 1 || size.inner == 0) return false;
  return size.rows <= most_skinny_vectors ? is_dense(b)
                                          : size.columns <= most_skinny_vectors && is_dense(a);
}

/// A product of a matrix with `count` packed vectors: the rows of the result if `are_rows`, else
/// its columns. `multiply` is the `skinny_sums` of what the matrix holds.
struct SkinnyProduct {
  LaneOperand matrix;
  std::size_t depth;
  std::size_t count;
  const std::uint32_t* vectors;
  bool are_rows;
  void (*multiply)(const PanelSource<void>&, std::size_t, const std::uint32_t*, float*);

  template <class Finish> void run(const Finish& finish) const {
    constexpr std::size_t grain = 512;  // lanes of a piece of work
    static_assert(grain % lanes == 0);
    parallel_ranges(matrix.lane_count, grain, [&](std::size_t begin, std::size_t end) {
      auto* sums = packing_memory<2, float>(most_skinny_vectors * grain);
      multiply(matrix.part(0, begin, end - begin, 0, depth), count, vectors, sums);
      const std::size_t stride = round_up(end - begin, lanes);
      for (std::size_t lane = begin; lane < end; lane += lanes) {
        for (std::size_t vector = 0; vector < count; ++vector) {
          finish_lanes(vector, lane, std::min(lanes, end - lane),
                       unit_scaling::load<float32x16>(sums + vector * stride + lane - begin),
                       finish);
        }
      }
    });
  }

 private:
  template <class Finish>
  void finish_lanes(std::size_t vector, std::size_t lane, std::size_t lane_count, float32x16 sums,
                    const Finish& finish) const {
    if (!are_rows) {
      for (std::size_t k = 0; k < lane_count; ++k) {
        finish(lane + k, vector, splat<float32x16>(sums[k]), std::size_t{1});
      }
    } else if (lane_count == lanes) {
      finish(vector, lane, sums, FullLanes<float>{});
    } else {
      finish(vector, lane, sums, lane_count);
    }
  }
};

/// The product of a matrix, `count` rows of elements, with as many vectors, whose rows they are.
template <class Words, class Matrix, class Vector>
[[nodiscard]] SkinnyProduct skinny_product(const MatrixView<Matrix>& matrix, std::size_t rows,
                                           const MatrixView<Vector>& vectors, std::size_t count,
                                           std::size_t depth, bool are_rows) {
  auto* packed = packing_memory<0, std::uint32_t>(
      panel_words(ceil_divide(depth, Words::depth), most_skinny_vectors));
  pack_panel<Words>(
      as_packed(lanes_of(vectors, count).part(0, 0, count, 0, depth).template of_type<Vector>()),
      most_skinny_vectors, packed);
  return {.matrix = lanes_of(matrix, rows),
          .depth = depth,
          .count = count,
          .vectors = packed,
          .are_rows = are_rows,
          .multiply = &skinny_sums<Words, Matrix>};
}

}  // namespace detail

}  // namespace UNIT_SCALING_NAMESPACE::kernels

UNIT_SCALING_IEEE_END
