// SPDX-License-Identifier: MIT
/// @file
/// Layer kernels: rows divided by a scale of their own, forward and backward.
///
/// An op hands in its normalised input as `x_hat(row)`, which returns a function from (column,
/// count) to lanes of Compute; whether that is centred, and by what it is divided, is the op's
/// business. Functions of one row hold what they need by value: what is reached through a reference
/// would be loaded again after every store.
///
/// Lanes that are products have a member `plus(addend, column, count)`, the fused sum: a compiler
/// fuses a product with the sum that takes it, or not, as its level of optimisation has it.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory_resource>
#include <vector>

#include "unit_scaling/core/array.hpp"
#include "unit_scaling/core/memory.hpp"
#include "unit_scaling/core/multiply_add.hpp"
#include "unit_scaling/core/parallel_for.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/kernels/map.hpp"
#include "unit_scaling/kernels/rows.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::kernels {

/// A row of T as lanes of Compute, times a power of two.
template <class Compute, class T> struct ScaledRow {
  const T* row;
  std::size_t columns;
  Compute power = 1;

  template <class Count>
  [[nodiscard]] lane_t<Compute> operator()(std::size_t j, Count count) const {
    return load<Compute>(row + j, count) * power;
  }

  template <class Addend, class Count>
  [[nodiscard]] lane_t<Compute> plus(Addend addend, std::size_t j, Count count) const {
    return multiply_add(load<Compute>(row + j, count), power, addend);
  }

  /// The same with a power that brings the largest magnitude to between 1 and 2, or as near as it
  /// may: the power is a normal number, and ε times its square is not above 1. A row of zeros, or
  /// with an infinity, stays.
  [[nodiscard]] ScaledRow near_one(Compute epsilon) const {
    const Compute magnitude = greatest_magnitude<Compute>(
        columns, [&](std::size_t j, auto count) { return load<Compute>(row + j, count); });
    if (magnitude == 0 || !std::isfinite(magnitude)) return *this;
    int exponent = exponent_to_one(magnitude);
    if (epsilon > 0) exponent = std::min(exponent, -(std::ilogb(epsilon) + 1) / 2);
    return {row, columns, std::scalbn(Compute{1}, exponent)};
  }
};

// In the last loop over a row the next one is fetched: the loops before it leave memory idle.

/// An array of the shape of x: `affine(column, count, x̂)` rounded once to Out, for each row after
/// `measure(row)`, which may note what x̂ is made of.
template <class Compute, class Out, class T, class Measure, class XHat, class Affine>
[[nodiscard]] Array<Out> normalise_rows(const Array<T>& x, const Measure& measure,
                                        const XHat& x_hat, const Affine& affine) {
  Array<Out> y(x.shape(), x.resource());
  if (x.empty()) return y;
  const std::size_t columns = x.columns();
  const Destination<Out> destination(y.mutable_data(), columns, x.bytes() + y.bytes());
  for_rows(x.rows(), columns, [&](std::size_t i) {
    measure(i);
    const Destination<Out> to = destination;
    const auto normalised = x_hat(i);
    const Affine own_affine = affine;
    const T* next_row = x.data() + (i + 1) * columns;
    for_lanes<Compute>(columns, [=](std::size_t j, auto count) {
      __builtin_prefetch(next_row + j);
      to.template put<Overflow::infinity_or_nan, Compute>(
          own_affine(j, count, normalised(j, count)), i * columns + j, count);
    });
    to.finish();
  });
  return y;
}

/// A row of T as lanes of Compute.
template <class Compute, class T> struct PlainRow {
  const T* row;

  template <class Count>
  [[nodiscard]] lane_t<Compute> operator()(std::size_t j, Count count) const {
    return load<Compute>(row + j, count);
  }
  template <class Addend, class Count>
  [[nodiscard]] lane_t<Compute> plus(Addend addend, std::size_t j, Count count) const {
    return load<Compute>(row + j, count) + addend;
  }
};

/// A row of T as lanes of Compute, times a gain for each column.
template <class Compute, class T, class G> struct GainedRow {
  const T* row;
  const G* gain;

  template <class Count>
  [[nodiscard]] lane_t<Compute> operator()(std::size_t j, Count count) const {
    return load<Compute>(row + j, count) * load<Compute>(gain + j, count);
  }
  template <class Addend, class Count>
  [[nodiscard]] lane_t<Compute> plus(Addend addend, std::size_t j, Count count) const {
    return multiply_add(load<Compute>(row + j, count), load<Compute>(gain + j, count), addend);
  }
};

/// The rows of an array, to be called as `x_hat_gradient`: the gradient where there is no gain.
template <class Compute, class T> [[nodiscard]] auto rows_of(const Array<T>& dy) {
  return [&dy](std::size_t i) { return PlainRow<Compute, T>{dy.row(i)}; };
}

/// The same, times a gain for each column.
template <class Compute, class T, class G>
[[nodiscard]] auto gained_rows_of(const Array<T>& dy, const Array<G>& gain) {
  return [&dy, &gain](std::size_t i) { return GainedRow<Compute, T, G>{dy.row(i), gain.data()}; };
}

/// The sum of a row of lanes that have `plus`.
template <class Compute, class Row>
[[nodiscard]] Compute sum_row(std::size_t columns, const Row& row) {
  auto total = broadcast<Compute>(0);
  for_lanes<Compute>(columns,
                     [&](std::size_t j, auto count) { total = row.plus(total, j, count); });
  return horizontal_sum(total);
}

/// What `also` is if nothing else is done with the rows.
[[nodiscard]] inline auto nothing_also() {
  return [](std::size_t, std::size_t) { return [](std::size_t, auto, auto) {}; };
}

/// Whether x̂ has its row's mean taken off.
enum class Centring { none, mean };

/// The two factors of a row: x̂ = (power x − mean) inverse. Each is in the range of Compute. Their
/// product may leave it.
template <class Compute> struct Divisor {
  Compute power;
  Compute inverse;
};

/// Lanes of a row of d, with a power of two that brings them near one.
template <class Compute, class D> struct NearOne {
  D lanes;
  Compute power;

  template <class Count>
  [[nodiscard]] lane_t<Compute> operator()(std::size_t j, Count count) const {
    return lanes(j, count) * power;
  }
  template <class Addend, class Count>
  [[nodiscard]] lane_t<Compute> plus(Addend addend, std::size_t j, Count count) const {
    return multiply_add(lanes(j, count), power, addend);
  }
};

/// Writes a row of what `normalise_rows_gradient` computes, where its sums or its factor leave the
/// range of Compute although dx may not. d is brought near one, and powers of two come last. It
/// calls x_hat and x_hat_gradient itself, for passing on what the caller has of a row would force
/// that into memory.
template <class Compute, Centring centring, class T, class XHat, class D>
[[gnu::noinline, gnu::cold]] void write_far_gradient(T* dx, std::size_t columns, std::size_t i,
                                                     Compute factor, Divisor<Compute> divisor,
                                                     XHat x_hat, D x_hat_gradient) {
  const auto normalised = x_hat(i);
  const auto size = static_cast<Compute>(columns);
  const auto gradient = x_hat_gradient(i);
  const Compute greatest = greatest_magnitude<Compute>(columns, gradient);
  const bool can_be_scaled = greatest != 0 && std::isfinite(greatest);
  const int exponent = can_be_scaled ? exponent_to_one(greatest) : 0;
  const NearOne<Compute, decltype(x_hat_gradient(i))> d{gradient,
                                                        std::scalbn(Compute{1}, exponent)};
  Compute average = 0;
  if constexpr (centring == Centring::mean) {
    average = sum_row<Compute>(columns, d) / size;
    average += sum_lanes<Compute>(columns,
                                  [&](std::size_t j, auto count) {
                                    return fill_beyond<Compute>(d.plus(-average, j, count), count,
                                                                Compute{0});
                                  }) /
               size;
  }
  const Compute average_x_hat =
      sum_products<Compute>(
          columns,
          [&](std::size_t j, auto count) {
            return Factors{fill_beyond<Compute>(d.plus(-average, j, count), count, Compute{0}),
                           fill_beyond<Compute>(normalised(j, count), count, Compute{0})};
          }) /
      size;
  // In two steps, either in range.
  const int power = (divisor.power == 0 ? 0 : std::ilogb(divisor.power)) - exponent;
  const Compute first = std::scalbn(Compute{1}, power / 2);
  const Compute second = std::scalbn(Compute{1}, power - power / 2);
  const Compute inverse = factor * divisor.inverse;
  for_lanes<Compute>(columns, [&](std::size_t j, auto count) {
    const auto value =
        multiply_add(normalised(j, count), -average_x_hat, d.plus(-average, j, count));
    store<Overflow::infinity_or_nan, Compute>(inverse * value * first * second, dx + j, count);
  });
}

/// dx = factor power inverse (d − mean(d) − x̂ mean(d x̂)) with `divisor(row)` and d =
/// `x_hat_gradient(row)(column, count)`, zero beyond the end of a row, and without the term mean(d)
/// if x̂ is not centred. `also(block, row)(column, count, x̂)` is called with lanes of every row in
/// turn; `block` is the number of the `column_sum_rows` rows that the row belongs to. The arrays
/// have the shape of x; callers check that.
template <class Compute, Centring centring, class T, class XHat, class D, class DivisorOf,
          class Also>
[[nodiscard]] Array<T> normalise_rows_gradient(const Array<T>& x, Compute factor,
                                               const DivisorOf& divisor, const XHat& x_hat,
                                               const D& x_hat_gradient, const Also& also) {
  Array<T> dx(x.shape(), x.resource());
  if (x.empty()) return dx;
  const std::size_t columns = x.columns();
  const auto size = static_cast<Compute>(columns);
  T* target = dx.mutable_data();
  const Destination<T> destination(target, columns, 3 * x.bytes());
  // A bit for each row, collected in a register: after a call in the loop the compiler would load
  // again what the functions of a row need.
  static_assert(column_sum_rows <= 64);
  std::pmr::vector<std::uint64_t> far_rows_of(column_sum_blocks(x.rows()), &scratch_memory());
  parallel_ranges(x.rows(), column_sum_rows, [&](std::size_t begin, std::size_t end) {
    const Destination<T> to = destination;
    std::uint64_t far_rows = 0;
    for (std::size_t i = begin; i < end; ++i) {
      const auto gradient = x_hat_gradient(i);
      const auto normalised = x_hat(i);
      const auto also_row = also(begin / column_sum_rows, i);
      auto total = broadcast<Compute>(0);
      auto total_x_hat = broadcast<Compute>(0);
      [[maybe_unused]] auto squares = broadcast<Compute>(0);
      for_lanes<Compute>(columns, [&](std::size_t j, auto count) {
        const auto d = gradient(j, count);
        if constexpr (centring == Centring::mean) {
          total = gradient.plus(total, j, count);
          squares = multiply_add(d, d, squares);
        }
        // Beyond the end of a row x̂ is no number of it, and may be infinite.
        total_x_hat = multiply_add(d, fill_beyond<Compute>(normalised(j, count), count, Compute{0}),
                                   total_x_hat);
      });
      Compute average = 0;
      if constexpr (centring == Centring::mean) average = horizontal_sum(total) / size;
      Compute sum_x_hat = horizontal_sum(total_x_hat);
      Compute mean_square = 1;
      if constexpr (centring == Centring::mean) {
        // Where the mean is most of the row, its rounding would be much of what is left without it.
        mean_square = horizontal_sum(squares) / size;
        if (average * average * 2 > mean_square) {
          total = broadcast<Compute>(0);
          total_x_hat = broadcast<Compute>(0);
          for_lanes<Compute>(columns, [&](std::size_t j, auto count) {
            const auto rest =
                fill_beyond<Compute>(gradient.plus(-average, j, count), count, Compute{0});
            total += rest;
            total_x_hat = multiply_add(
                rest, fill_beyond<Compute>(normalised(j, count), count, Compute{0}), total_x_hat);
          });
          average += horizontal_sum(total) / size;
          sum_x_hat = horizontal_sum(total_x_hat);
        }
      }
      const Compute average_x_hat = sum_x_hat / size;
      const auto [power, inverse] = divisor(i);
      const Compute scale = factor * (inverse * power);
      const T* next_row = x.data() + (i + 1) * columns;
      for_lanes<Compute>(columns, [=](std::size_t j, auto count) {
        __builtin_prefetch(next_row + j);
        lane_t<Compute> d;
        if constexpr (centring == Centring::mean) {
          d = gradient.plus(-average, j, count);
        } else {
          d = gradient(j, count);
        }
        const auto x_hat_lanes = normalised(j, count);
        also_row(j, count, x_hat_lanes);
        to.template put<Overflow::infinity_or_nan, Compute>(
            scale * multiply_add(x_hat_lanes, -average_x_hat, d), i * columns + j, count);
      });
      // Below the limit, what is subtracted from d cannot bring it out of range, whatever x̂ is.
      constexpr Compute limit = std::numeric_limits<Compute>::max() *
                                std::numeric_limits<Compute>::epsilon() / Compute{0x1p16};
      // Above it, products of d and x̂ are accurate: normal numbers, or small beside those.
      constexpr Compute least = std::numeric_limits<Compute>::min() * Compute{0x1p10};
      const bool is_far =
          !(std::abs(average) + std::abs(average_x_hat) < limit && std::isnormal(scale)) ||
          (average != 0 && is_beyond_squares(mean_square, Compute{0})) ||
          (sum_x_hat != 0 && std::abs(average_x_hat) < least);
      far_rows |= std::uint64_t{is_far} << (i - begin);
    }
    to.finish();
    far_rows_of[begin / column_sum_rows] = far_rows;
  });
  const bool has_far_rows = std::any_of(far_rows_of.begin(), far_rows_of.end(),
                                        [](std::uint64_t far_rows) { return far_rows != 0; });
  if (!has_far_rows) return dx;
  parallel_for(far_rows_of.size(), [&](std::size_t block) {
    for (std::uint64_t rest = far_rows_of[block]; rest != 0; rest &= rest - 1) {
      const std::size_t i =
          block * column_sum_rows + static_cast<std::size_t>(std::countr_zero(rest));
      write_far_gradient<Compute, centring>(target + i * columns, columns, i, factor, divisor(i),
                                            x_hat, x_hat_gradient);
    }
  });
  return dx;
}

/// The gradients that a gain and, if `has_bias`, a bias add to a backward pass over rows: sums down
/// the columns of dy x̂ and of dy, which `normalise_rows_gradient` adds up in passing. Lives in
/// scratch memory, so on the thread that made it.
template <class Compute, bool has_bias> class AffineGradients {
 public:
  AffineGradients(std::size_t rows, std::size_t columns)
      : columns_(columns),
        gain_(column_sum_blocks(rows) * columns, Compute{0}, &scratch_memory()),
        bias_(has_bias ? gain_.size() : 0, Compute{0}, &scratch_memory()) {}

  /// What adds lanes of a row of dy to the sums of a block: the result of `also`.
  template <class T> [[nodiscard]] auto adder(std::size_t block, const T* dy) {
    return [
      dy, columns = columns_, gain = gain_.data() + block * columns_,
      bias = has_bias ? bias_.data() + block * columns_ : nullptr
    ](std::size_t j, auto count, lane_t<Compute> x_hat) __attribute__((always_inline)) {
      __builtin_prefetch(dy + columns + j);
      const auto gradient = load<Compute>(dy + j, count);
      store<Overflow::infinity_or_nan, Compute>(
          multiply_add(gradient, x_hat, load<Compute>(gain + j, count)), gain + j, count);
      if constexpr (has_bias) {
        store<Overflow::infinity_or_nan, Compute>(load<Compute>(bias + j, count) + gradient,
                                                  bias + j, count);
      }
    };
  }

  /// `factor` times the sums, rounded once.
  template <class Out>
  [[nodiscard]] Array<Out> gain(Compute factor, std::pmr::memory_resource* resource) {
    return finished<Out>(gain_, factor, resource);
  }
  template <class Out>
  [[nodiscard]] Array<Out> bias(Compute factor,
                                std::pmr::memory_resource* resource) requires has_bias {
    return finished<Out>(bias_, factor, resource);
  }

 private:
  template <class Out>
  Array<Out> finished(std::pmr::vector<Compute>& partial, Compute factor,
                      std::pmr::memory_resource* resource) const {
    add_up_partial_sums(partial, columns_);
    Array<Out> out(Shape{columns_}, resource);
    map_into<Compute>(
        out.mutable_data(), columns_, [=](auto v) { return factor * v; },
        static_cast<const Compute*>(partial.data()));
    return out;
  }

  std::size_t columns_;
  std::pmr::vector<Compute> gain_;
  std::pmr::vector<Compute> bias_;
};

}  // namespace UNIT_SCALING_NAMESPACE::kernels

UNIT_SCALING_IEEE_END
