// SPDX-License-Identifier: MIT
/// @file
/// Layer ops: the product of two arrays, element by element.
#pragma once

#include <string_view>
#include <tuple>
#include <utility>

#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/kernels/map.hpp"
#include "unit_scaling/ops/op.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::ops {

/// Unit-scaled product: y = α a b, da = β_a dy b, db = β_b dy a, element by element.
/// Shapes: a, b, y, dy, da and db alike, any. Unlike `add`, it repeats nothing.
/// Units:  a, b, dy ~ N(0,1), independent, give unit std of y, da and db.
/// Scales: α = β_a = β_b = 1, as E[(a b)²] = E[a²] E[b²] = 1, under every rule; they are equal, so
///         no constraint changes them. For a = b it is the square, whose std is √2 about a mean of
///         one: not unit scale.
/// Values: as in IEEE arithmetic, 0 · ∞ = NaN. Computed in P::compute, rounded once on store.
/// @throws ShapeError if a, b and dy differ in shape.
/// @see Blake et al. 2023, arXiv:2303.11257, section 4.
struct Mul {
  static constexpr std::string_view name = "mul";
  static constexpr bool accepts(std::size_t arguments) { return arguments == 2; }
  static constexpr OpTraits traits{
      .has_homogeneity = true, .has_item_counts = false, .ignores_constraint = true};

  Scaling scaling = scaling::inherited;  ///< any: the factors are ones under all of them

  template <class A, class B>
  [[nodiscard]] Scales<2> scales(const Array<A>& a, const Array<B>& b) const {
    require_same_shape(name, "a and b", a.shape(), b.shape());
    return {};
  }

  [[nodiscard]] static Homogeneity homogeneity(const Scales<2>& s) {
    return Homogeneity::product(s.forward, 2);
  }

  template <Precision P, class A, class B>
  [[nodiscard]] auto forward(P /*precision*/, const Scales<2>& s, const Array<A>& a,
                             const Array<B>& b) const {
    require_same_shape(name, "a and b", a.shape(), b.shape());
    return Forward{product<P, typename P::storage>(s.forward, a, b), std::tuple{a, b}};
  }

  template <Precision P, class A, class B, class T>
  [[nodiscard]] auto backward(P /*precision*/, const Scales<2>& s,
                              const std::tuple<Array<A>, Array<B>>& saved,
                              const Array<T>& dy) const {
    const auto& [a, b] = saved;
    require_same_shape(name, "dy and a", dy.shape(), a.shape());
    auto da = product<P, T>(s.backward[0], dy, b);
    auto db = product<P, T>(s.backward[1], dy, a);
    return std::tuple{std::move(da), std::move(db)};
  }

 private:
  template <Precision P, class Out, class A, class B>
  static Array<Out> product(double scale, const Array<A>& a, const Array<B>& b) {
    using Compute = typename P::compute;
    const auto factor = static_cast<Compute>(scale);
    return kernels::map<Compute, Out>([=](auto v, auto w) { return factor * (v * w); }, a, b);
  }
};
inline constexpr Apply<Mul> mul{};

}  // namespace UNIT_SCALING_NAMESPACE::ops

UNIT_SCALING_IEEE_END
