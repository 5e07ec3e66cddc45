// SPDX-License-Identifier: MIT
/// @file
/// Layer: tests. Matrix products in double, by the textbook, with bounds on the error of a float
/// product.
#pragma once

#include <cmath>
#include <cstddef>
#include <vector>

#include "support/rounding_check.hpp"
#include "unit_scaling/core/array.hpp"
#include "unit_scaling/formats/catalogue.hpp"

namespace unit_scaling_test {

struct Matrix {
  std::size_t rows;
  std::size_t columns;
  std::vector<double> elements;  ///< row by row

  [[nodiscard]] double operator()(std::size_t row, std::size_t column) const {
    return elements[row * columns + column];
  }
};

/// The value rounded to `Operand` by the scalar conversion, which the tests of formats check;
/// saturating.
template <unit_scaling::Storage Operand, unit_scaling::Storage T>
[[nodiscard]] double rounded_to(T value) {
  if constexpr (unit_scaling::AnyMinifloat<Operand>) {
    return static_cast<double>(
        Operand::from_float(static_cast<float>(value), unit_scaling::Overflow::saturate));
  } else {
    return static_cast<double>(static_cast<Operand>(value));
  }
}

/// An array, or (rows, columns) elements, as a matrix whose elements are rounded to `Operand`.
template <unit_scaling::Storage Operand, unit_scaling::Storage T>
[[nodiscard]] Matrix rounded_matrix(const T* elements, std::size_t rows, std::size_t columns) {
  Matrix result{rows, columns, std::vector<double>(rows * columns)};
  for (std::size_t i = 0; i < rows * columns; ++i) {
    result.elements[i] = rounded_to<Operand>(elements[i]);
  }
  return result;
}
template <unit_scaling::Storage Operand, unit_scaling::Storage T>
[[nodiscard]] Matrix rounded_matrix(const unit_scaling::Array<T>& array) {
  return rounded_matrix<Operand>(array.data(), array.rows(), array.columns());
}

[[nodiscard]] inline Matrix transposed(const Matrix& matrix) {
  Matrix result{matrix.columns, matrix.rows, std::vector<double>(matrix.elements.size())};
  for (std::size_t i = 0; i < result.rows; ++i) {
    for (std::size_t j = 0; j < result.columns; ++j) {
      result.elements[i * result.columns + j] = matrix(j, i);
    }
  }
  return result;
}

/// `scale · a b`. A float product that sums n terms in any order, fused or not, is within n + 1
/// units of Σ|a b|; the factor's own rounding and the product with it are two more units.
[[nodiscard]] inline std::vector<Reference> product_reference(const Matrix& a, const Matrix& b,
                                                              double scale) {
  std::vector<Reference> result(a.rows * b.columns);
  for (std::size_t i = 0; i < a.rows; ++i) {
    for (std::size_t j = 0; j < b.columns; ++j) {
      double sum = 0;
      double magnitude = 0;
      for (std::size_t p = 0; p < a.columns; ++p) {
        sum += a(i, p) * b(p, j);
        magnitude += std::abs(a(i, p) * b(p, j));
      }
      result[i * b.columns + j] = {
          scale * sum,
          std::abs(scale) * static_cast<double>(a.columns + 3) * float_unit * magnitude};
    }
  }
  return result;
}

}  // namespace unit_scaling_test
