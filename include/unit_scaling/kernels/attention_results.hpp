// SPDX-License-Identifier: MIT
/// @file
/// Layer kernels: finished sums of attention, rounded and stored in the rows of its results.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <type_traits>

#include "unit_scaling/core/simd.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/kernels/attention_layout.hpp"
#include "unit_scaling/kernels/lanes.hpp"
#include "unit_scaling/kernels/transpose.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::kernels {

namespace detail {

template <class Compute, class Out> inline void store_one(Compute value, Out* out) {
  store<Overflow::infinity_or_nan, Compute>(broadcast<Compute>(value), out, FullLanes<double>{});
}

/// out[row] = factors[row] · column `row` of sums, for `rows` rows of `columns` elements.
template <class Compute, class Out>
void store_transposed(const Compute* sums, const Compute* factors, std::size_t rows,
                      std::size_t columns, void* to) {
  constexpr std::size_t panel = AttentionExtents<Compute>::panel;
  auto* const out = static_cast<Out*>(to);
  if constexpr (std::is_same_v<Compute, double>) {
    for (std::size_t a = 0; a < rows; ++a) {
      for (std::size_t d = 0; d < columns; ++d) {
        store_one(sums[d * panel + a] * factors[a], out + a * columns + d);
      }
    }
  } else {
    for (std::size_t a = 0; a < rows; a += lanes) {
      const float32x16 factor = load_lanes(factors + a);
      for_lanes<float>(columns, [&](std::size_t d, auto count) {
        uint32x16 block[lanes] = {};
        for (std::size_t k = 0; k < count; ++k) {
          block[k] = bit_cast_to<uint32x16>(load_lanes(sums + (d + k) * panel + a) * factor);
        }
        transpose_16x16(block);
        for (std::size_t k = 0; k < std::min(lanes, rows - a); ++k) {
          store<Overflow::infinity_or_nan, float>(bit_cast_to<float32x16>(block[k]),
                                                  out + (a + k) * columns + d, count);
        }
      });
    }
  }
}

/// out = factor · sums of the keys' gradients, for `keys` rows of `columns` elements.
template <class Compute, class Out>
void store_rows(const Compute* sums, Compute factor, std::size_t keys, std::size_t columns,
                void* to) {
  constexpr std::size_t panel = AttentionExtents<Compute>::panel;
  auto* const out = static_cast<Out*>(to);
  for (std::size_t b = 0; b < keys; ++b) {
    for (std::size_t column = 0; column < columns; column += panel) {
      const Compute* from = sums + column / panel * AttentionExtents<Compute>::scores + b * panel;
      for_lanes<Compute>(std::min(panel, columns - column), [&](std::size_t d, auto count) {
        store<Overflow::infinity_or_nan, Compute>(
            load<Compute>(from + d, FullLanes<Compute>{}) * factor, out + b * columns + column + d,
            count);
      });
    }
  }
}

/// As above for a part of a row of so many elements, of which the sums follow each other.
template <class Compute, class Out>
void store_part(const Compute* sums, Compute factor, std::size_t columns, void* to) {
  for_lanes<Compute>(columns, [&](std::size_t d, auto count) {
    store<Overflow::infinity_or_nan, Compute>(load<Compute>(sums + d, count) * factor,
                                              static_cast<Out*>(to) + d, count);
  });
}

}  // namespace detail

/// Rows of a result of attention, of a type that is known when the program runs, or no result, if
/// it is not wanted.
template <class Compute> class AttentionResult {
 public:
  AttentionResult() = default;
  /// @param data may be null: no result
  template <class Out>
  explicit AttentionResult(Out* data)
      : data_(data),
        bytes_(sizeof(Out)),
        store_transposed_(&detail::store_transposed<Compute, Out>),
        store_rows_(&detail::store_rows<Compute, Out>),
        store_part_(&detail::store_part<Compute, Out>) {}

  [[nodiscard]] bool is_wanted() const { return data_ != nullptr; }

  /// Stores rows from element `index` on: row a is factors[a] · column a of a panel of sums.
  void store_transposed(const Compute* sums, const Compute* factors, std::size_t rows,
                        std::size_t columns, std::size_t index) const {
    store_transposed_(sums, factors, rows, columns, at(index));
  }
  /// Stores rows from element `index` on: factor · rows of panels of sums, which lie one after the
  /// other.
  void store_rows(const Compute* sums, Compute factor, std::size_t rows, std::size_t columns,
                  std::size_t index) const {
    store_rows_(sums, factor, rows, columns, at(index));
  }
  /// Stores factor · sums as elements from `index` on.
  void store_part(const Compute* sums, Compute factor, std::size_t count, std::size_t index) const {
    store_part_(sums, factor, count, at(index));
  }
  /// Stores zeros.
  void clear(std::size_t index, std::size_t count) const {
    // Without elements the data may be null.
    if (count != 0) std::memset(at(index), 0, count * bytes_);
  }

 private:
  [[nodiscard]] void* at(std::size_t index) const {
    return static_cast<std::byte*>(data_) + index * bytes_;
  }

  void* data_ = nullptr;
  std::size_t bytes_ = 0;
  void (*store_transposed_)(const Compute*, const Compute*, std::size_t, std::size_t,
                            void*) = nullptr;
  void (*store_rows_)(const Compute*, Compute, std::size_t, std::size_t, void*) = nullptr;
  void (*store_part_)(const Compute*, Compute, std::size_t, void*) = nullptr;
};

}  // namespace UNIT_SCALING_NAMESPACE::kernels

UNIT_SCALING_IEEE_END
