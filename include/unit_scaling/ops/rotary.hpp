// SPDX-License-Identifier: MIT
/// @file
/// Layer ops: rotary position embedding.
#pragma once

#include <cmath>
#include <cstddef>
#include <memory_resource>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/memory.hpp"
#include "unit_scaling/core/multiply_add.hpp"
#include "unit_scaling/core/shape.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/kernels/rows.hpp"
#include "unit_scaling/ops/op.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::ops {

/// Which elements of a row are turned together.
enum class RotaryPairs {
  halves,    ///< i and i + head_dim/2, as in GPT-NeoX and LLaMA
  adjacent,  ///< 2i and 2i + 1, as published
};

/// Rotary position embedding: the i-th pair (a, b) of the row at position p becomes
/// (a cos θ − b sin θ, a sin θ + b cos θ) with θ = p base^(−2i/head_dim); the gradient is turned
/// back. The inner product of two such rows depends on the distance of their positions alone.
/// Shapes: x, y, dy and dx (…, positions, head_dim), head_dim even.
/// Units:  a rotation: whatever the scale of x, it is kept, and so is the gradient's.
/// Scales: α = β = 1 under all rules.
/// Values: angles in double, the rest in P::compute, rounded once on store.
/// @throws ShapeError if x has fewer than two extents, head_dim is odd, or dy and x differ in
///         shape; DomainError unless base is finite and at least 1.
/// @see Su et al. 2021, arXiv:2104.09864.
struct Rotary {
  static constexpr std::string_view name = "rotary";
  static constexpr bool accepts(std::size_t arguments) { return arguments == 1; }
  static constexpr OpTraits traits{
      .has_homogeneity = true, .has_item_counts = false, .has_tells_positions = true};

  [[nodiscard]] static constexpr bool tells_positions() { return true; }

  double base = 10000;
  RotaryPairs pairs = RotaryPairs::halves;
  std::size_t first_position = 0;  ///< of the first row of x

  /// @throws DomainError if an attribute is out of its range.
  void require_attributes() const { require_at_least(name, "base", 1, base); }

  template <class T> [[nodiscard]] Scales<1> scales(const Array<T>& x) const {
    require_shape(x.shape().rank() >= 2 && x.columns() % 2 == 0, name,
                  "x (..., positions, head_dim), head_dim even", x.shape());
    require_attributes();
    static_cast<void>(size_sum(name, {first_position, x.shape()[x.shape().rank() - 2]}));
    return {};
  }

  [[nodiscard]] static Homogeneity homogeneity(const Scales<1>& s) {
    return Homogeneity::linear(s.forward);
  }

  template <Precision P, class T>
  [[nodiscard]] auto forward(P /*precision*/, const Scales<1>& s, const Array<T>& x) const {
    return Forward{turn<P, typename P::storage>(x, 1, s.forward), std::tuple{x.shape()}};
  }

  template <Precision P, class T>
  [[nodiscard]] auto backward(P /*precision*/, const Scales<1>& s, const std::tuple<Shape>& saved,
                              const Array<T>& dy) const {
    require_same_shape(name, "dy and x", dy.shape(), std::get<0>(saved));
    return std::tuple{turn<P, T>(dy, -1, s.backward[0])};
  }

 private:
  template <Precision P, class Out, class T>
  [[nodiscard]] Array<Out> turn(const Array<T>& x, int direction, double factor) const {
    using Compute = typename P::compute;
    Array<Out> y(x.shape(), x.resource());
    if (x.empty()) return y;
    Out* target = y.mutable_data();
    const std::size_t half = x.columns() / 2;
    const std::size_t positions = x.shape()[x.shape().rank() - 2];
    const Array<Compute> turns =
        turns_of<Compute>(positions, half, direction, factor, x.resource());
    kernels::for_rows(x.rows(), 2 * half, [&](std::size_t row) {
      const T* from = x.row(row);
      Out* to = target + row * 2 * half;
      const Compute* cosine = turns.row(row % positions);
      const Compute* sine = cosine + half;
      if (pairs == RotaryPairs::halves) {
        kernels::for_lanes<Compute>(half, [&](std::size_t i, auto count) {
          const auto a = kernels::load<Compute>(from + i, count);
          const auto b = kernels::load<Compute>(from + half + i, count);
          const auto c = kernels::load<Compute>(cosine + i, count);
          const auto s = kernels::load<Compute>(sine + i, count);
          kernels::store<Overflow::infinity_or_nan, Compute>(sum_of_products(a, c, -b, s), to + i,
                                                             count);
          kernels::store<Overflow::infinity_or_nan, Compute>(sum_of_products(a, s, b, c),
                                                             to + half + i, count);
        });
        return;
      }
      for (std::size_t i = 0; i < half; ++i) {
        const auto a = static_cast<Compute>(from[2 * i]);
        const auto b = static_cast<Compute>(from[2 * i + 1]);
        to[2 * i] = static_cast<Out>(sum_of_products(a, cosine[i], -b, sine[i]));
        to[2 * i + 1] = static_cast<Out>(sum_of_products(a, sine[i], b, cosine[i]));
      }
    });
    return y;
  }

  /// `factor` times (cos, sin) of each position and pair: every sequence and head turns alike.
  template <class Compute>
  [[nodiscard]] Array<Compute> turns_of(std::size_t positions, std::size_t half, int direction,
                                        double factor, std::pmr::memory_resource* resource) const {
    std::pmr::vector<double> rates(half, &scratch_memory());
    for (std::size_t i = 0; i < half; ++i) {
      rates[i] = std::pow(base, -static_cast<double>(i) / static_cast<double>(half));
    }
    Array<Compute> turns(Shape{positions, 2 * half}, resource);
    Compute* target = turns.mutable_data();
    kernels::for_rows(positions, 2 * half, [&](std::size_t p) {
      for (std::size_t i = 0; i < half; ++i) {
        const double angle = static_cast<double>(first_position + p) * rates[i];
        target[p * 2 * half + i] = static_cast<Compute>(factor * std::cos(angle));
        target[p * 2 * half + half + i] =
            static_cast<Compute>(factor * direction * std::sin(angle));
      }
    });
    return turns;
  }
};
inline constexpr Apply<Rotary> rotary{};

}  // namespace UNIT_SCALING_NAMESPACE::ops

UNIT_SCALING_IEEE_END
