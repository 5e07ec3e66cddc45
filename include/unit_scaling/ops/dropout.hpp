// SPDX-License-Identifier: MIT
/// @file
/// Layer ops: dropout.
#pragma once

#include <cmath>

#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/parallel_for.hpp"
#include "unit_scaling/core/random.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/kernels/map.hpp"
#include "unit_scaling/ops/op.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::ops {

/// Unit-scaled dropout: y = α k x / (1−p), dx = β k dy / (1−p), with k_i = 1 with probability 1−p,
/// else 0.
/// Shapes: all alike, any.
/// Units:  x, dy ~ N(0,1) give unit std of y and dx.
/// Scales: α = β = (1−p)^½.
/// Values: k_i is a function of `random` and i alone, so backward draws it again and nothing is
///         saved. p = 0 returns x itself, rounded to P::storage. A dropped infinity or NaN becomes
///         zero.
/// @throws DomainError unless 0 ≤ p < 1; ShapeError if dy and x differ in shape.
/// @see Blake et al. 2023, arXiv:2303.11257; Srivastava et al. 2014.
struct Dropout {
  static constexpr std::string_view name = "dropout";
  static constexpr bool accepts(std::size_t arguments) { return arguments == 1; }
  static constexpr OpTraits traits{
      .has_homogeneity = true, .has_item_counts = false, .ignores_constraint = true};

  Scaling scaling = scaling::inherited;
  double probability = 0.5;                          ///< p
  Random random = Random(0, RandomStream::dropout);  ///< give each step and each layer its own

  /// @throws DomainError if an attribute is out of its range.
  void require_attributes() const { require_share(name, "probability", probability); }

  template <class T> [[nodiscard]] Scales<1> scales(const Array<T>& /*x*/) const {
    require_attributes();
    const double factor = scaling.rule == Rule::none ? 1 : std::sqrt(1 - probability);
    return {.forward = factor, .backward = {factor}};
  }

  [[nodiscard]] static Homogeneity homogeneity(const Scales<1>& s) {
    return Homogeneity::linear(s.forward);
  }

  template <Precision P, class T>
  [[nodiscard]] auto forward(P /*precision*/, const Scales<1>& s, const Array<T>& x) const {
    return Forward{drop<P, typename P::storage>(x, s.forward), std::tuple{x.shape()}};
  }

  template <Precision P, class T>
  [[nodiscard]] auto backward(P /*precision*/, const Scales<1>& s, const std::tuple<Shape>& saved,
                              const Array<T>& dy) const {
    require_same_shape(name, "dy and x", dy.shape(), std::get<0>(saved));
    return std::tuple{drop<P, T>(dy, s.backward[0])};
  }

 private:
  template <Precision P, class T, class X>
  [[nodiscard]] Array<T> drop(const Array<X>& x, double scale) const {
    using Compute = typename P::compute;
    if (probability == 0) return kernels::convert<T, Overflow::infinity_or_nan>(x);
    Array<T> y(x.shape(), x.resource());
    T* target = y.mutable_data();
    const auto factor = static_cast<Compute>(scale / (1 - probability));
    // The word of an element is below this with probability p, to 2^-32.
    const auto threshold = static_cast<std::uint64_t>(probability * 0x1p32);
    // Ranges begin at multiples of four: one block of random words serves four elements.
    parallel_ranges(x.size(), std::size_t{1} << 13, [&](std::size_t begin, std::size_t end) {
      for (std::size_t i = begin; i < end; i += 4) {
        const auto words = random.block(i / 4);
        for (std::size_t j = i; j < std::min(i + 4, end); ++j) {
          target[j] = words[j - i] < threshold
                          ? T{}
                          : static_cast<T>(factor * static_cast<Compute>(x.data()[j]));
        }
      }
    });
    return y;
  }
};
inline constexpr Apply<Dropout> dropout{};

}  // namespace UNIT_SCALING_NAMESPACE::ops

UNIT_SCALING_IEEE_END
