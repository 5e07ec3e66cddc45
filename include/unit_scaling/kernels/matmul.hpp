// SPDX-License-Identifier: MIT
/// @file
/// Layer kernels: the packed, register-blocked matrix product over any pair of storage types.
///
/// Operands are decoded while they are packed, so a 1-byte operand costs a quarter of the memory
/// traffic of a float one. Every element of the result is one chain of fused multiply-adds over the
/// inner dimension in ascending order, started at zero; blocking, vector width and thread count
/// only change which chain runs when. So the bits of a result are those of the three-line loop in
/// the tests, for any thread count, and the same in any build for a target with FMA.
///
/// Where the target has the bfloat16 instructions of AVX-512, and they are fast
/// (`detail::has_fast_bfloat16_pairs`) or one operand has at most four rows or columns, operands
/// that bfloat16 holds exactly (those of FP8, FP6 and FP4) are multiplied by these, two elements in
/// an instruction. They make the same chain, to the bit; see `Bfloat16Pairs` and
/// `is_exact_in_bfloat16_pairs`.
///
/// Where the target has AMX, operands that bfloat16 holds are multiplied there, in an order of its
/// own: that of `AmxTile`. The thread count changes no bit there either.
#pragma once

#include <type_traits>

#include "unit_scaling/core/target.hpp"
#include "unit_scaling/kernels/amx_tile.hpp"
#include "unit_scaling/kernels/epilogue.hpp"
#include "unit_scaling/kernels/matmul_double.hpp"
#include "unit_scaling/kernels/matrix_view.hpp"
#include "unit_scaling/kernels/operand.hpp"
#include "unit_scaling/kernels/skinny.hpp"
#include "unit_scaling/kernels/skinny_product.hpp"
#include "unit_scaling/kernels/sum_scales.hpp"
#include "unit_scaling/kernels/tile.hpp"
#include "unit_scaling/kernels/tile_finish.hpp"
#include "unit_scaling/kernels/tiled_product.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::kernels {

/// Calls `finish(i, j, sums, count)` with the sums Σ_s Σ_p a_s(i, p) b_s(p, j) of row i and the
/// columns from j on, as many as `count` says, for every element of the product once; from several
/// threads, each for rows and columns of its own. An inner dimension of zero gives sums of zero.
///
/// Shapes: as in `size`. Runs on `available_thread_count()` threads.
/// @param scales what sums are multiplied with before.
template <class Finish>
void matmul(const MatmulSize& size, const OperandView& a, const OperandView& b,
            const Finish& finish, const SumScales& scales = {}) {
  if (size.rows == 0 || size.columns == 0) return;
  using detail::TiledProduct;
  const bool has_pairs = a.kernels->are_exact_in_pairs && b.kernels->are_exact_in_pairs;
  const bool is_for_amx = a.kernels->are_for_amx && b.kernels->are_for_amx && may_use_amx();
  if (detail::is_skinny(size, a, b, is_for_amx)) {
    const detail::SkinnyFinish store(finish, scales);
    const bool are_rows = size.rows <= most_skinny_vectors;
    // Decoding takes more time than multiplying here, and pairs are decoded faster than floats.
    return detail::multiply_skinny({.matrix = are_rows ? b.transposed() : a,
                                    .rows = are_rows ? size.columns : size.rows,
                                    .vectors = are_rows ? a : b.transposed(),
                                    .count = are_rows ? size.rows : size.columns,
                                    .depth = size.inner,
                                    .are_rows = are_rows},
                                   has_pairs, is_for_amx, store);
  }
#if defined(UNIT_SCALING_HAS_AMX)
  if (is_for_amx) {
    return TiledProduct<AmxTile>(size, a, b).run(detail::TileFinish<AmxTile>(finish, scales));
  }
#endif
  if constexpr (detail::has_fast_bfloat16_pairs) {
    using Tile = RegisterTile<Bfloat16Pairs>;
    if (has_pairs)
      return TiledProduct<Tile>(size, a, b).run(detail::TileFinish<Tile>(finish, scales));
  }
  using Tile = RegisterTile<FloatWords>;
  TiledProduct<Tile>(size, a, b).run(detail::TileFinish<Tile>(finish, scales));
}
/// The same for elements of storage types.
template <class A, class B, class Finish>
void matmul(const MatmulSize& size, const MatrixView<A>& a, const MatrixView<B>& b,
            const Finish& finish) {
  matmul(size, operand_view(a), operand_view(b), finish);
}

/// `out(i, j) = epilogue(Σ_s Σ_p a_s(i, p) b_s(p, j))`, rounded once to Out on store.
///
/// Shapes: as in `size`; `out` is row-major with rows `out_stride` apart. An inner dimension of
/// zero gives `epilogue(0)`. Threads as above.
template <class Compute, class A, class B, class Out>
void matmul(const MatmulSize& size, const MatrixView<A>& a, const MatrixView<B>& b, Out* out,
            std::size_t out_stride, const Epilogue<Compute>& epilogue = {}) {
  if constexpr (std::is_same_v<Compute, double>) {
    detail::matmul_double(size, a, b, out, out_stride, epilogue);
  } else {
    matmul(size, a, b, StoreRows<Out>{out, out_stride, epilogue});
  }
}

/// The same for operands in any format, with any scales: of Σ_p left(i, p) right(j, p). Where
/// scales are not summed over, their sums are multiplied with them before `finish`; else elements
/// are.
template <class Finish>
void matmul(const MatmulSize& size, const OperandPart& left, const OperandPart& right,
            const Finish& finish) {
  matmul(size, left.view, right.view.transposed(), finish,
         {.all = static_cast<double>(left.scale) * static_cast<double>(right.scale),
          .of_rows = left.scales,
          .of_columns = right.scales});
}

/// `out(i, j) = epilogue(Σ_p left(i, p) right(j, p))` of operands in any format, with any scales,
/// rounded once to Out on store. Shapes and threads as above.
template <class Compute, class Out>
void matmul(const MatmulSize& size, const OperandPart& left, const OperandPart& right, Out* out,
            std::size_t out_stride, const Epilogue<Compute>& epilogue = {}) {
  if constexpr (std::is_same_v<Compute, double>) {
    const auto of_doubles = [](const OperandPart& part) {
      const OperandView& view = part.view;
      require(view.kernels == &detail::double_kernels && part.scale == 1 && part.scales == nullptr,
              "matmul", "expected operands prepared for products in double");
      return MatrixView<double>{static_cast<const double*>(view.data), view.row_stride,
                                view.column_stride, view.segment_stride};
    };
    detail::matmul_double(size, of_doubles(left), of_doubles(right).transposed(), out, out_stride,
                          epilogue);
  } else {
    matmul(size, left, right, StoreRows<Out>{out, out_stride, epilogue});
  }
}

}  // namespace UNIT_SCALING_NAMESPACE::kernels

UNIT_SCALING_IEEE_END
