// SPDX-License-Identifier: MIT
/// @file
/// Layer kernels: loops over the rows of a matrix, and sums down its columns.
///
/// Sums along a row run in 16 lanes that are added up pairwise; sums down columns run over fixed
/// blocks of rows that are added up in order. Neither depends on the thread count.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <memory_resource>
#include <vector>

#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/memory.hpp"
#include "unit_scaling/core/parallel_for.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/kernels/lanes.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::kernels {

/// Calls `body(row)` for every row, sharing out pieces of about `piece_elements` elements.
template <class Body> void for_rows(std::size_t rows, std::size_t columns, const Body& body) {
  constexpr std::size_t piece_elements = std::size_t{1} << 14;
  const std::size_t grain =
      std::max<std::size_t>(1, piece_elements / std::max<std::size_t>(columns, 1));
  parallel_ranges(rows, grain, [&](std::size_t begin, std::size_t end) {
    for (std::size_t row = begin; row < end; ++row) body(row);
  });
}

/// Σ_i f(i-th lanes of the row), in Compute: `f(i, count)` returns `lane_t<Compute>` with zeros (or
/// whatever adds nothing) beyond `count`.
template <class Compute, class F> [[nodiscard]] Compute sum_lanes(std::size_t columns, const F& f) {
  auto sum = broadcast<Compute>(0);
  for_lanes<Compute>(columns, [&](std::size_t i, auto count) { sum += f(i, count); });
  return horizontal_sum(sum);
}

/// `sum`, or where that is not finite the sum of `term(i)` over [0, size) in double, which is
/// finite if the sum of finite terms left the range of Compute only on its way.
template <class Compute, class Term>
[[nodiscard]] double sum_in_range(Compute sum, std::size_t size, const Term& term) {
  if (std::isfinite(sum)) return static_cast<double>(sum);
  double total = 0;
  for (std::size_t i = 0; i < size; ++i) total += term(i);
  return total;
}

/// Σ_i a b of the i-th lanes of the row, each product fused with its sum: `f(i, count)` returns
/// `Factors{a, b}`, either with zeros beyond `count`.
template <class Lanes> struct Factors {
  Lanes a;
  Lanes b;
};
template <class Lanes> Factors(Lanes, Lanes) -> Factors<Lanes>;
template <class Compute, class F>
[[nodiscard]] Compute sum_products(std::size_t columns, const F& f) {
  auto sum = broadcast<Compute>(0);
  for_lanes<Compute>(columns, [&](std::size_t i, auto count) {
    const auto factors = f(i, count);
    sum = multiply_add(factors.a, factors.b, sum);
  });
  return horizontal_sum(sum);
}

/// Rows of a block whose sums down the columns are added up by one thread, in order; the sums of
/// the blocks are then added up in order.
inline constexpr std::size_t column_sum_rows = 64;

[[nodiscard]] constexpr std::size_t column_sum_blocks(std::size_t rows) {
  return std::max<std::size_t>(1, (rows + column_sum_rows - 1) / column_sum_rows);
}

/// Adds the sums of all blocks to those of the first.
template <class Compute>
void add_up_partial_sums(std::pmr::vector<Compute>& sums, std::size_t columns) {
  for (std::size_t begin = columns; begin < sums.size(); begin += columns) {
    for (std::size_t j = 0; j < columns; ++j) sums[j] += sums[begin + j];
  }
}

/// Sums down the columns of `rows` rows: `term(row, column, count)` returns lanes to add to the
/// columns from `column` on; the result, `columns` values of Compute, goes to `finish(sums)`.
template <class Compute, class Term, class Finish>
void sum_columns(std::size_t rows, std::size_t columns, const Term& term, const Finish& finish) {
  std::pmr::vector<Compute> sums(column_sum_blocks(rows) * columns, Compute{0}, &scratch_memory());
  parallel_for(column_sum_blocks(rows), [&](std::size_t block) {
    Compute* partial = sums.data() + block * columns;
    const std::size_t end = std::min(rows, (block + 1) * column_sum_rows);
    for (std::size_t row = block * column_sum_rows; row < end; ++row) {
      for_lanes<Compute>(columns, [&](std::size_t j, auto count) {
        store<Overflow::infinity_or_nan, Compute>(
            load<Compute>(partial + j, count) + term(row, j, count), partial + j, count);
      });
    }
  });
  if (columns != 0) add_up_partial_sums(sums, columns);
  finish(sums.data());
}

/// `scale` times the sums down the columns of (rows, columns) elements, as an array of Out.
template <class Compute, class Out, class T>
[[nodiscard]] Array<Out> column_sums(const T* elements, std::size_t rows, const Shape& out_shape,
                                     Compute scale, std::pmr::memory_resource* resource) {
  const std::size_t columns = out_shape.size();
  Array<Out> out(out_shape, resource);
  sum_columns<Compute>(
      rows, columns,
      [&](std::size_t row, std::size_t j, auto count) {
        return load<Compute>(elements + row * columns + j, count);
      },
      [&](const Compute* sums) {
        Out* target = out.mutable_data();
        for_lanes<Compute>(columns, [&](std::size_t j, auto count) {
          store<Overflow::infinity_or_nan, Compute>(load<Compute>(sums + j, count) * scale,
                                                    target + j, count);
        });
      });
  return out;
}

}  // namespace UNIT_SCALING_NAMESPACE::kernels

UNIT_SCALING_IEEE_END
