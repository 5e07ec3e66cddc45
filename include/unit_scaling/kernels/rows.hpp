// SPDX-License-Identifier: MIT
/// @file
/// Layer kernels: loops over the rows of a matrix, and sums down its columns.
///
/// Sums along a row run in 16 lanes that are added up pairwise, or in lanes over short blocks that
/// are added up in double; sums down columns run over fixed blocks of rows that are added up in
/// order. None depends on the thread count.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <limits>
#include <memory_resource>
#include <type_traits>
#include <vector>

#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/memory.hpp"
#include "unit_scaling/core/multiply_add.hpp"
#include "unit_scaling/core/parallel_for.hpp"
#include "unit_scaling/core/simd.hpp"
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

/// Lanes added up in double, in one order on every target.
template <class Compute> class DoubleSum {
 public:
  /// Adds `term(lanes as doubles)`.
  template <class Term> void add(lane_t<Compute> value, const Term& term) {
    if constexpr (is_wide) {
      totals_[0] += term(value);
    } else {
      std::array<FloatsToWiden, parts> narrow;
      static_assert(sizeof(narrow) == sizeof(value));
      std::memcpy(&narrow, &value, sizeof(narrow));
      for (std::size_t part = 0; part < parts; ++part) totals_[part] += term(widen(narrow[part]));
    }
  }

  [[nodiscard]] double total() const {
    if constexpr (is_wide) return totals_[0];
    std::array<double, lane_count<Compute>> each;
    std::memcpy(&each, &totals_, sizeof(each));
    for (std::size_t width = each.size() / 2; width > 0; width /= 2) {
      for (std::size_t i = 0; i < width; ++i) each[i] += each[i + width];
    }
    return each[0];
  }

 private:
  static constexpr bool is_wide = std::is_same_v<Compute, double>;
  using Wide = std::conditional_t<is_wide, double, DoubleRegister>;
  static constexpr std::size_t parts = is_wide ? 1 : lanes / double_lanes;

  std::array<Wide, parts> totals_{};
};

/// The same as `sum_lanes`, but within 20 u Σ |f| of the exact sum, u = 2^-24, for any number of
/// columns. Blocks of 8 vectors are added up in lanes, then groups of 8 blocks in lanes as well,
/// and groups in double. If Compute is double it is `sum_lanes`, within n 2^-53 Σ |f| for n
/// columns.
template <class Compute, class F>
[[nodiscard]] Compute precise_sum_lanes(std::size_t columns, const F& f) {
  constexpr std::size_t block = 8 * lanes;
  if (std::is_same_v<Compute, double> || columns <= block) return sum_lanes<Compute>(columns, f);
  constexpr std::size_t group = 8 * block;
  const auto sum_of_block = [&](std::size_t begin) __attribute__((always_inline)) {
    auto sum = f(begin, FullLanes<Compute>{});
    for (std::size_t i = lanes; i < block; i += lanes) sum += f(begin + i, FullLanes<Compute>{});
    return sum;
  };
  const auto itself = [](auto value) { return value; };
  // The lanes of what remains from `begin` on, less than a group.
  const auto sum_of_rest = [&](std::size_t begin) __attribute__((always_inline)) {
    auto sum = broadcast<Compute>(0);
    for (; begin + block <= columns; begin += block) sum += sum_of_block(begin);
    auto rest = broadcast<Compute>(0);
    for_lanes<Compute>(columns - begin,
                       [&](std::size_t i, auto count) { rest += f(begin + i, count); });
    return sum + rest;
  };
  if (columns < group) return horizontal_sum(sum_of_rest(0));
  DoubleSum<Compute> total;
  std::size_t begin = 0;
  while (begin + group <= columns) {
    auto sum = broadcast<Compute>(0);
    for (const std::size_t end = begin + group; begin < end; begin += block) {
      sum += sum_of_block(begin);
    }
    total.add(sum, itself);
  }
  total.add(sum_of_rest(begin), itself);
  return static_cast<Compute>(total.total());
}

/// `factor` times the sum of `term(i)` over [0, size), which is finite if that product is, although
/// the sum of finite terms may leave the range of double.
template <class Term>
[[nodiscard]] double scaled_sum_in_range(double factor, std::size_t size, const Term& term) {
  constexpr double share = 0x1p-64;
  double total = 0;
  for (std::size_t i = 0; i < size; ++i) total += term(i) * share;
  return factor * total / share;
}

/// The product of two finite numbers as a factor of lanes, each result rounded once: for where that
/// product, or one on the way, is beyond the range of Compute although results are not.
template <class Compute> class WideFactor {
 public:
  WideFactor(double a, double b) {
    int of_a = 0;
    int of_b = 0;
    fraction_ = std::frexp(a, &of_a) * std::frexp(b, &of_b);
    exponent_ = of_a + of_b;
  }

  /// Whether `product`, the two numbers multiplied in Compute, may not be used in its place.
  [[nodiscard]] static bool is_needed(Compute product, double a, double b) {
    const bool is_accurate = std::isnormal(product) && std::isnormal(static_cast<Compute>(a)) &&
                             std::isnormal(static_cast<Compute>(b));
    return !is_accurate && a != 0 && b != 0 && std::isfinite(a) && std::isfinite(b);
  }

  [[nodiscard]] lane_t<Compute> operator()(lane_t<Compute> values) const {
    std::array<Compute, lane_count<Compute>> each;
    static_assert(sizeof(each) == sizeof(values));
    std::memcpy(&each, &values, sizeof(each));
    for (Compute& value : each) {
      int exponent = 0;
      const double fraction = std::frexp(static_cast<double>(value), &exponent);
      value = static_cast<Compute>(std::ldexp(fraction_ * fraction, exponent_ + exponent));
    }
    std::memcpy(&values, &each, sizeof(each));
    return values;
  }

 private:
  double fraction_;
  int exponent_;
};

/// The greatest |f(i-th lanes)| of a row, NaNs passed over; `f` as for `sum_lanes`.
template <class Compute, class F>
[[nodiscard]] Compute greatest_magnitude(std::size_t columns, const F& f) {
  auto greatest = broadcast<Compute>(0);
  for_lanes<Compute>(columns, [&](std::size_t i, auto count) {
    const auto value = f(i, count);
    greatest = greater_lane(greater_lane(value, -value), greatest);
  });
  return horizontal_max(greatest);
}

/// The exponent of the power of two that brings a magnitude to between 1 and 2, or as near as it
/// may: the power and its reciprocal are normal numbers. @pre the magnitude is finite and above 0
template <class Compute> [[nodiscard]] int exponent_to_one(Compute magnitude) {
  constexpr int most = 1 - std::numeric_limits<Compute>::min_exponent;
  return std::clamp(-std::ilogb(magnitude), -most, most);
}

/// Whether the mean or the sum of the squares of a row has left the range in which it is accurate,
/// and matters beside ε.
template <class Compute> [[nodiscard]] bool is_beyond_squares(Compute squares, Compute epsilon) {
  constexpr Compute least = std::numeric_limits<Compute>::min();
  // 2^36 above the least normal number, squares of what counts in a mean are accurate. Below that,
  // an ε that is 2^30 greater than the mean is all that is left of the sum.
  return !std::isfinite(squares) ||
         (squares < least * Compute{0x1p36} && epsilon < least * Compute{0x1p66});
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
