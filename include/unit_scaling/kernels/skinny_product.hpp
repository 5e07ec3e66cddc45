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
#include "unit_scaling/kernels/amx_vectors.hpp"
#include "unit_scaling/kernels/element_kernels.hpp"
#include "unit_scaling/kernels/lanes.hpp"
#include "unit_scaling/kernels/matrix_view.hpp"
#include "unit_scaling/kernels/packing.hpp"
#include "unit_scaling/kernels/packing_memory.hpp"
#include "unit_scaling/kernels/parts.hpp"
#include "unit_scaling/kernels/skinny.hpp"
#include "unit_scaling/kernels/sum_scales.hpp"
#include "unit_scaling/kernels/tile.hpp"
#include "unit_scaling/kernels/words.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::kernels {

namespace detail {

/// Whether a product has so few rows or columns that the other operand is better not packed. On AMX
/// it is better packed unless it is contiguous along the inner dimension.
[[nodiscard]] inline bool is_skinny(const MatmulSize& size, const OperandView& a,
                                    const OperandView& b, bool is_for_amx) {
  const auto is_better_unpacked = [&](std::size_t inner_stride, std::size_t other_stride) {
    return inner_stride == 1 || (other_stride == 1 && !is_for_amx);
  };
  if (size.segments != 1 || size.inner == 0) return false;
  return size.rows <= most_skinny_vectors ? is_better_unpacked(b.row_stride, b.column_stride)
                                          : size.columns <= most_skinny_vectors &&
                                                is_better_unpacked(a.column_stride, a.row_stride);
}

/// `finish(i, j, sums, count)` of a product (kernels/matmul.hpp) for sums with each of some
/// vectors.
class SkinnyFinish {
 public:
  /// @param finish lives as long as this does.
  template <class Finish>
  SkinnyFinish(const Finish& finish, const SumScales& scales)
      : finish_(&finish),
        rows_(&store_rows<Finish>),
        columns_(&store_columns<Finish>),
        scales_(scales) {}

  /// `sums` has `count` rows, `stride` apart, of the lanes [begin, end): columns of the result if
  /// the vectors are its rows, else rows. They are changed where they have scales.
  void store(bool are_rows, float* sums, std::size_t count, std::size_t stride, std::size_t begin,
             std::size_t end) const {
    if (!scales_.are_ones()) {
      if (are_rows) {
        scales_.apply(sums, 0, begin, count, end - begin, stride, 1);
      } else {
        scales_.apply(sums, begin, 0, end - begin, count, 1, stride);
      }
    }
    (are_rows ? rows_ : columns_)(finish_, sums, count, stride, begin, end);
  }

 private:
  template <class Finish>
  static void store_rows(const void* finish, const float* sums, std::size_t count,
                         std::size_t stride, std::size_t begin, std::size_t end) {
    const auto& put = *static_cast<const Finish*>(finish);
    for (std::size_t lane = begin; lane < end; lane += lanes) {
      for (std::size_t vector = 0; vector < count; ++vector) {
        const auto values = unit_scaling::load<float32x16>(sums + vector * stride + lane - begin);
        if (end - lane >= lanes) {
          put(vector, lane, values, FullLanes<float>{});
        } else {
          put(vector, lane, values, end - lane);
        }
      }
    }
  }
  template <class Finish>
  static void store_columns(const void* finish, const float* sums, std::size_t count,
                            std::size_t stride, std::size_t begin, std::size_t end) {
    const auto& put = *static_cast<const Finish*>(finish);
    for (std::size_t lane = begin; lane < end; ++lane) {
      for (std::size_t vector = 0; vector < count; ++vector) {
        put(lane, vector, splat<float32x16>(sums[vector * stride + lane - begin]), std::size_t{1});
      }
    }
  }

  using Store = void (*)(const void*, const float*, std::size_t, std::size_t, std::size_t,
                         std::size_t);
  const void* finish_;
  Store rows_;
  Store columns_;
  SumScales scales_;
};

/// The product of a matrix, `rows` rows of elements, with `count` vectors, whose rows they are: the
/// rows of the result if `are_rows`, else its columns.
struct SkinnyProduct {
  OperandView matrix;
  std::size_t rows;
  OperandView vectors;
  std::size_t count;
  std::size_t depth;
  bool are_rows;

  /// The panel of the vectors, in groups of `width` words.
  /// @param size of the memory for it, in words.
  template <class Words>
  [[nodiscard]] std::uint32_t* pack(std::size_t width, std::size_t size) const {
    auto* packed = packing_memory<0, std::uint32_t>(size);
    vectors.kernels->template pack<Words>(lanes_of(vectors, count).part(0, 0, count, 0, depth),
                                          width, packed);
    return packed;
  }

  /// Gives sums of lanes of the matrix with the packed vectors to `finish`.
  void run(const std::uint32_t* packed, ElementKernels::MultiplyVectors multiply,
           const SkinnyFinish& finish) const {
    const LaneOperand lanes_of_matrix = lanes_of(matrix, rows);
    constexpr std::size_t grain = 512;  // lanes of a piece of work
    static_assert(grain % lanes == 0);
    parallel_ranges(rows, grain, [&](std::size_t begin, std::size_t end) {
      auto* sums = packing_memory<2, float>(most_skinny_vectors * grain);
      multiply(lanes_of_matrix.part(0, begin, end - begin, 0, depth), count, packed, sums);
      finish.store(are_rows, sums, count, round_up(end - begin, lanes), begin, end);
    });
  }
};

/// @param has_pairs whether pairs of bfloat16 hold the products exactly.
/// @param is_for_amx whether AMX multiplies such operands.
inline void multiply_skinny(const SkinnyProduct& product, bool has_pairs,
                            [[maybe_unused]] bool is_for_amx, const SkinnyFinish& finish) {
  const ElementKernels& matrix = *product.matrix.kernels;
#if defined(UNIT_SCALING_HAS_AMX)
  if (is_for_amx) {
    std::uint32_t* const packed =
        product.pack<Bfloat16Pairs>(AmxVectors::width, AmxVectors::words(product.depth));
    AmxVectors::fill(product.depth, packed);
    return product.run(packed, matrix.multiply_on_amx, finish);
  }
#endif
  if constexpr (has_bfloat16_pairs) {
    if (has_pairs) {
      const std::size_t words = panel_words(ceil_divide(product.depth, 2), most_skinny_vectors);
      return product.run(product.pack<Bfloat16Pairs>(most_skinny_vectors, words),
                         matrix.multiply_pairs, finish);
    }
  }
  const std::size_t words = panel_words(product.depth, most_skinny_vectors);
  product.run(product.pack<FloatWords>(most_skinny_vectors, words), matrix.multiply_floats, finish);
}

}  // namespace detail

}  // namespace UNIT_SCALING_NAMESPACE::kernels

UNIT_SCALING_IEEE_END
