// SPDX-License-Identifier: MIT
/// @file
/// Layer kernels: rows divided by a scale of their own, forward and backward.
///
/// An op hands in its normalised input as `x_hat(row, column, count)`, which returns lanes of
/// Compute; whether that is centred, and by what it is divided, is the op's business.
#pragma once

#include <cstddef>

#include "unit_scaling/core/array.hpp"
#include "unit_scaling/kernels/map.hpp"
#include "unit_scaling/kernels/rows.hpp"

namespace unit_scaling::kernels {

/// An array of the shape of x: `affine(column, count, x̂)` rounded once to Out.
template <class Compute, class Out, class T, class XHat, class Affine>
[[nodiscard]] Array<Out> normalise_rows(const Array<T>& x, const XHat& x_hat,
                                        const Affine& affine) {
  Array<Out> y(x.shape(), x.resource());
  if (x.empty()) return y;
  Out* target = y.mutable_data();
  const std::size_t columns = x.columns();
  for_rows(x.rows(), columns, [&](std::size_t i) {
    for_lanes<Compute>(columns, [&](std::size_t j, auto count) {
      store<Overflow::infinity_or_nan, Compute>(affine(j, count, x_hat(i, j, count)),
                                                target + i * columns + j, count);
    });
  });
  return y;
}

/// Whether x̂ has its row's mean taken off.
enum class Centring { none, mean };

/// dx = factor inverse(row) (d − mean(d) − x̂ mean(d x̂)) with d = `x_hat_gradient(row, column,
/// count)`, zero beyond the end of a row, and without the term mean(d) if x̂ is not centred.
/// The arrays have the shape of x; callers check that.
template <class Compute, Centring centring, class T, class XHat, class D, class Inverse>
[[nodiscard]] Array<T> normalise_rows_gradient(const Array<T>& x, Compute factor,
                                               const Inverse& inverse, const XHat& x_hat,
                                               const D& x_hat_gradient) {
  Array<T> dx(x.shape(), x.resource());
  if (x.empty()) return dx;
  T* target = dx.mutable_data();
  const std::size_t columns = x.columns();
  const auto size = static_cast<Compute>(columns);
  for_rows(x.rows(), columns, [&](std::size_t i) {
    auto total = broadcast<Compute>(0);
    auto total_x_hat = broadcast<Compute>(0);
    for_lanes<Compute>(columns, [&](std::size_t j, auto count) {
      const auto d = x_hat_gradient(i, j, count);
      if constexpr (centring == Centring::mean) total += d;
      total_x_hat += d * x_hat(i, j, count);
    });
    const Compute average = horizontal_sum(total) / size;
    const Compute average_x_hat = horizontal_sum(total_x_hat) / size;
    const Compute scale = factor * inverse(i);
    for_lanes<Compute>(columns, [&](std::size_t j, auto count) {
      auto d = x_hat_gradient(i, j, count);
      if constexpr (centring == Centring::mean) d -= average;
      store<Overflow::infinity_or_nan, Compute>(scale * (d - x_hat(i, j, count) * average_x_hat),
                                                target + i * columns + j, count);
    });
  });
  return dx;
}

/// factor Σ_rows dy x̂, an array of the given shape: that of one row.
template <class Compute, class T, class XHat>
[[nodiscard]] Array<T> gain_gradient(const Array<T>& dy, const Shape& shape, Compute factor,
                                     const XHat& x_hat) {
  Array<T> dg(shape, dy.resource());
  sum_columns<Compute>(
      dy.rows(), dy.columns(),
      [&](std::size_t i, std::size_t j, auto count) {
        return load<Compute>(dy.row(i) + j, count) * x_hat(i, j, count);
      },
      [&](const Compute* sums) {
        map_into<Compute>(
            dg.mutable_data(), dg.size(), [=](auto v) { return factor * v; }, sums);
      });
  return dg;
}

}  // namespace unit_scaling::kernels
