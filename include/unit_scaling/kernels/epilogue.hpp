// SPDX-License-Identifier: MIT
/// @file
/// Layer kernels: what becomes of a finished sum of a matrix product.
#pragma once

#include <cstddef>

#include "unit_scaling/core/memory.hpp"
#include "unit_scaling/core/simd.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/kernels/lanes.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::kernels {

/// What happens to a finished sum before it is rounded to the output format:
/// `scale * (sum + bias[column])`, without the addition if `bias` is null.
template <class Compute> struct Epilogue {
  Compute scale = 1;
  const Compute* bias = nullptr;
};

/// Elements that finishing a sum reads or writes: that of row i and column j of the product is
/// `element_bytes` long and at `data + i * row_bytes + j * element_bytes`.
struct ElementsTouched {
  const char* data = nullptr;  ///< null: there are none
  std::size_t row_bytes = 0;
  std::size_t element_bytes = 0;

  /// Rows of an array of T are `stride` elements apart.
  template <class T>
  ElementsTouched(const T* from, std::size_t stride)
      : data(reinterpret_cast<const char*>(from)),
        row_bytes(stride * sizeof(T)),
        element_bytes(sizeof(T)) {}
  ElementsTouched() = default;

  /// Begins to fetch the lines of some elements, to be read (0) or written (1).
  template <int access>
  [[gnu::always_inline]] void prefetch(std::size_t row, std::size_t column, std::size_t height,
                                       std::size_t width) const {
    const char* at = data + row * row_bytes + column * element_bytes;
    const std::size_t bytes = width * element_bytes;
    for (std::size_t i = 0; i < height; ++i, at += row_bytes) {
      for (std::size_t k = 0; k < bytes; k += array_alignment) __builtin_prefetch(at + k, access);
    }
  }
};

/// The rounding of finished sums to a row-major array of Out: `epilogue` of each, stored at
/// `out[i * stride + j]`.
template <class Out> struct StoreRows {
  /// So short that it is worth inlining behind every register of a tile.
  static constexpr bool is_short = true;

  Out* out;
  std::size_t stride;
  Epilogue<float> epilogue = {};

  [[nodiscard]] ElementsTouched written() const { return {out, stride}; }

  /// Lanes of row i from column j on; `count` as in kernels/lanes.hpp.
  template <class Count>
  [[gnu::always_inline]] void operator()(std::size_t i, std::size_t j, float32x16 sums,
                                         Count count) const {
    if (epilogue.bias != nullptr) sums += load<float>(epilogue.bias + j, count);
    store<Overflow::infinity_or_nan, float>(sums * epilogue.scale, out + i * stride + j, count);
  }
};

}  // namespace UNIT_SCALING_NAMESPACE::kernels

UNIT_SCALING_IEEE_END
