// SPDX-License-Identifier: MIT
/// @file
/// Layer ops: the squared error.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <memory_resource>
#include <tuple>
#include <vector>

#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/memory.hpp"
#include "unit_scaling/core/multiply_add.hpp"
#include "unit_scaling/core/parallel_for.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/kernels/elementary.hpp"
#include "unit_scaling/kernels/lanes.hpp"
#include "unit_scaling/kernels/map.hpp"
#include "unit_scaling/kernels/rows.hpp"
#include "unit_scaling/ops/op.hpp"
#include "unit_scaling/ops/reduction.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::ops {

/// Unit-scaled squared error: loss = α Σ_i (x_i − t_i)², dx = 2 β dloss (x − t), dt = −dx.
/// Shapes: x, t, dx and dt alike, any; the loss is one number of P::compute.
/// Units:  x, t ~ N(0,1), independent, and dloss = 1 give std(dx) = 1; the loss itself has its
///         usual value.
/// Scales: α = 1/size for a mean, 1 for a sum. β = 8^−½ whichever it is: the gradient is an
///         element's own, not divided by their number. Rule none: the true gradient, β = α.
/// Values: computed in P::compute; a NaN or infinity among x and t makes the loss NaN or infinite.
///         Squares that would leave its range are those of differences times a power of two, so
///         that tiny errors count. A loss or a gradient overflows only if it is itself beyond the
///         range.
/// Errors: the loss is within 1033 u of that of exact arithmetic, relatively, u = 2⁻²⁴ (with
///         P::compute double, 16391 u, u = 2⁻⁵³), and dx within 4 u.
/// @throws ShapeError if x and t differ in shape.
/// @see u-μP, arXiv:2407.17465; E[(2 (x − t))²] = 8.
struct MseLoss {
  static constexpr std::string_view name = "mse_loss";
  static constexpr bool accepts(std::size_t arguments) { return arguments == 2; }
  static constexpr OpTraits traits{.has_homogeneity = true,
                                   .has_item_counts = true,
                                   .is_loss = true,
                                   .ignores_constraint = true};

  Scaling scaling = scaling::inherited;
  Reduction reduction = Reduction::mean;

  template <class X, class T>
  [[nodiscard]] Scales<2> scales(const Array<X>& x, const Array<T>& target) const {
    require_same_shape(name, "x and target", x.shape(), target.shape());
    const auto size = static_cast<double>(std::max<std::size_t>(1, x.size()));
    const double forward = reduction == Reduction::mean ? 1 / size : 1;
    const double backward = scaling.rule == Rule::none ? forward : 1 / std::sqrt(8.0);
    return {.forward = forward, .backward = {backward, backward}};
  }

  /// Under rule none a mean's factor is of the elements.
  template <class X, class T>
  [[nodiscard]] std::array<ItemCount, 2> item_counts(const Array<X>& x,
                                                     const Array<T>& /*target*/) const {
    if (scaling.rule != Rule::none || reduction != Reduction::mean) return {};
    return {item_count(x.size(), 1), item_count(x.size(), 1)};
  }

  [[nodiscard]] static Homogeneity homogeneity(const Scales<2>& s) {
    return {.output = {s.forward, {2, 0}}, .fixed = {{1, {1, -1}}}};
  }

  template <Precision P, class X, class T>
  [[nodiscard]] auto forward(P /*precision*/, const Scales<2>& s, const Array<X>& x,
                             const Array<T>& target) const {
    using Compute = typename P::compute;
    require_same_shape(name, "x and target", x.shape(), target.shape());
    // Sums of a piece of fixed size, added up in order: the same for any thread count.
    constexpr std::size_t piece = std::size_t{1} << 14;
    const auto sum_of_squares = [&](double factor) {
      std::pmr::vector<double> sums((x.size() + piece - 1) / piece, &scratch_memory());
      parallel_ranges(x.size(), piece, [&](std::size_t begin, std::size_t end) {
        sums[begin / piece] = scaled_sum_of_squares<Compute>(factor, x.data() + begin,
                                                             target.data() + begin, end - begin);
      });
      double total = 0;
      for (const double piece_sum : sums) total += piece_sum;
      return total;
    };
    const double total = sum_of_squares(1);
    // Squares of doubles may be beyond the range of double where the loss is not.
    const double scaled =
        kernels::is_beyond_squares(total, 0.0) ? sum_of_squares(s.forward) : s.forward * total;
    auto loss = Array<Compute>::filled(Shape{}, static_cast<Compute>(scaled), x.resource());
    return Forward{std::move(loss), std::tuple{x, target}};
  }

  template <Precision P, class X, class T>
  [[nodiscard]] auto backward(P /*precision*/, const Scales<2>& s,
                              const std::tuple<Array<X>, Array<T>>& saved,
                              const Array<typename P::compute>& dloss) const {
    using Compute = typename P::compute;
    using Gradient = typename P::storage;
    const auto& [x, target] = saved;
    require_same_shape(name, "dloss and loss", dloss.shape(), Shape{});
    return std::tuple{gradient<Compute, Gradient>(s.backward[0], *dloss.data(), x, target),
                      gradient<Compute, Gradient>(-s.backward[1], *dloss.data(), x, target)};
  }

 private:
  /// 2 factor dloss (x − t).
  template <class Compute, class Gradient, class X, class T>
  [[nodiscard]] static Array<Gradient> gradient(double factor, Compute dloss, const Array<X>& x,
                                                const Array<T>& target) {
    const Compute scale = 2 * static_cast<Compute>(factor) * dloss;
    const auto upstream = static_cast<double>(dloss);
    // Differences may leave the range of Compute where their products do not: their halves do not.
    const auto far = [of_difference = kernels::WideFactor<Compute>(2 * factor, upstream),
                      of_half = kernels::WideFactor<Compute>(4 * factor, upstream)](auto a,
                                                                                    auto b) {
      const auto difference = a - b;
      return kernels::select_lane(difference * Compute{0} == 0, of_difference(difference),
                                  of_half(add_products(a, Compute{0.5}, b, Compute{-0.5})));
    };
    if (kernels::WideFactor<Compute>::is_needed(scale, factor, upstream)) {
      return kernels::map<Compute, Gradient>(far, x, target);
    }
    Array<Gradient> result(x.shape(), x.resource());
    const kernels::Destination<Gradient> destination(result.mutable_data(), lanes,
                                                     x.bytes() + target.bytes() + result.bytes());
    Gradient* const to = result.mutable_data();
    parallel_ranges(x.size(), kernels::map_grain, [&](std::size_t begin, std::size_t end) {
      const kernels::Destination<Gradient> put_to = destination;
      const X* const from_x = x.data() + begin;
      const T* const from_target = target.data() + begin;
      auto zeros = kernels::broadcast<Compute>(0);
      kernels::for_lanes<Compute>(end - begin, [&](std::size_t i, auto count) {
        const auto difference = kernels::load<Compute>(from_x + i, count) -
                                kernels::load<Compute>(from_target + i, count);
        zeros += difference * Compute{0};  // 0, or NaN for 0 · ∞ and 0 · NaN
        put_to.template put<Overflow::infinity_or_nan, Compute>(scale * difference, begin + i,
                                                                count);
      });
      put_to.finish();
      if (kernels::horizontal_sum(zeros) == 0) return;
      kernels::for_lanes<Compute>(end - begin, [&](std::size_t i, auto count) {
        kernels::store<Overflow::infinity_or_nan, Compute>(
            far(kernels::load<Compute>(from_x + i, count),
                kernels::load<Compute>(from_target + i, count)),
            to + begin + i, count);
      });
    });
    return result;
  }

  /// factor Σ (x − t)² of `size` numbers, in double.
  template <class Compute, class X, class T>
  [[nodiscard]] static double scaled_sum_of_squares(double factor, const X* x, const T* target,
                                                    std::size_t size) {
    const auto squares = kernels::sum_lanes<Compute>(size, [=](std::size_t i, auto count) {
      const auto difference =
          kernels::load<Compute>(x + i, count) - kernels::load<Compute>(target + i, count);
      return difference * difference;
    });
    if (!kernels::is_beyond_squares(squares, Compute{0})) {
      return factor * static_cast<double>(squares);
    }
    // Halves of huge numbers, for their differences may leave the range, too.
    const Compute share = std::isfinite(squares) ? Compute{1} : Compute{0.5};
    const auto difference = [=](std::size_t i, auto count) {
      return add_products(kernels::load<Compute>(x + i, count), share,
                          kernels::load<Compute>(target + i, count), -share);
    };
    const Compute greatest = kernels::greatest_magnitude<Compute>(size, difference);
    if (greatest == 0 || !std::isfinite(greatest)) return factor * static_cast<double>(squares);
    const Compute power = std::scalbn(Compute{1}, kernels::exponent_to_one(greatest));
    const auto scaled = kernels::sum_lanes<Compute>(size, [=](std::size_t i, auto count) {
      const auto near_one = difference(i, count) * power;
      return near_one * near_one;
    });
    const double unit = 1 / (static_cast<double>(share) * static_cast<double>(power));
    return factor * unit * static_cast<double>(scaled) * unit;
  }
};
inline constexpr Apply<MseLoss> mse_loss{};

}  // namespace UNIT_SCALING_NAMESPACE::ops

UNIT_SCALING_IEEE_END
