// SPDX-License-Identifier: MIT
/// @file
/// Layer core: the bridge to Eigen, both ways and without copying where the layout allows.
///
/// Eigen takes as long to compile as half of the library, so this is not in the umbrella header.
// unit_scaling: optional
#pragma once

#include <Eigen/Core>
#include <cstddef>
#include <span>

#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/target.hpp"

namespace UNIT_SCALING_NAMESPACE {

/// Row-major dynamic Eigen matrix: the layout that an Array has.
template <class T>
using RowMajorMatrix = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

/// The array as an Eigen map of `rows()` by `columns()`, for reading.
template <class T>
[[nodiscard]] Eigen::Map<const RowMajorMatrix<T>> as_matrix(const Array<T>& array) {
  return {array.data(), static_cast<Eigen::Index>(array.rows()),
          static_cast<Eigen::Index>(array.columns())};
}

/// What would be gone before it is read does not compile.
template <class T> void as_matrix(const Array<T>&& array) = delete;

/// The array as an Eigen map of `rows()` by `columns()`, for writing. Like `mutable_data()`, it
/// copies elements that are shared; the map must not be written to after the array is copied or
/// assigned to.
template <class T> [[nodiscard]] Eigen::Map<RowMajorMatrix<T>> as_mutable_matrix(Array<T>& array) {
  return {array.mutable_data(), static_cast<Eigen::Index>(array.rows()),
          static_cast<Eigen::Index>(array.columns())};
}

/// A row-major Eigen matrix as an array, without copying: it must outlive the result.
template <class T> [[nodiscard]] Array<T> as_array(const RowMajorMatrix<T>& matrix) {
  return Array<T>::borrow(
      std::span<const T>(matrix.data(), static_cast<std::size_t>(matrix.size())),
      Shape{static_cast<std::size_t>(matrix.rows()), static_cast<std::size_t>(matrix.cols())});
}

/// What would be gone before it is read does not compile: a temporary matrix, or an expression that
/// becomes one. `to_array` copies.
template <class T> void as_array(const RowMajorMatrix<T>&& matrix) = delete;

/// Any Eigen expression evaluated into a new array of shape (rows, columns).
template <class Derived>
[[nodiscard]] Array<typename Derived::Scalar> to_array(
    const Eigen::DenseBase<Derived>& expression) {
  Array<typename Derived::Scalar> result(Shape{static_cast<std::size_t>(expression.rows()),
                                               static_cast<std::size_t>(expression.cols())});
  as_mutable_matrix(result) = expression;
  return result;
}

}  // namespace UNIT_SCALING_NAMESPACE
