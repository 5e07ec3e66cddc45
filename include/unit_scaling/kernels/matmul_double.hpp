// SPDX-License-Identifier: MIT
/// @file
/// Layer kernels: the matrix product in double, for checking.
#pragma once

#include <cstddef>

#include "unit_scaling/core/multiply_add.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/kernels/epilogue.hpp"
#include "unit_scaling/kernels/lanes.hpp"
#include "unit_scaling/kernels/matrix_view.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::kernels {

namespace detail {

/// The product in double, for checking: one chain per element, in the same order.
template <class A, class B, class Out>
void matmul_double(const MatmulSize& size, const MatrixView<A>& a, const MatrixView<B>& b, Out* out,
                   std::size_t out_stride, const Epilogue<double>& epilogue) {
  for (std::size_t i = 0; i < size.rows; ++i) {
    for (std::size_t j = 0; j < size.columns; ++j) {
      double sum = 0;
      for (std::size_t s = 0; s < size.segments; ++s) {
        for (std::size_t p = 0; p < size.inner; ++p) {
          const auto left = static_cast<double>(
              a.data[s * a.segment_stride + i * a.row_stride + p * a.column_stride]);
          const auto right = static_cast<double>(
              b.data[s * b.segment_stride + p * b.row_stride + j * b.column_stride]);
          sum = multiply_add(left, right, sum);
        }
      }
      if (epilogue.bias != nullptr) sum += epilogue.bias[j];
      store<Overflow::infinity_or_nan, double>(sum * epilogue.scale, out + i * out_stride + j,
                                               FullLanes<double>{});
    }
  }
}

}  // namespace detail

}  // namespace UNIT_SCALING_NAMESPACE::kernels

UNIT_SCALING_IEEE_END
