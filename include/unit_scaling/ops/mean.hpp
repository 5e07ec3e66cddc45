// SPDX-License-Identifier: MIT
/// @file
/// Layer ops: the mean along the last extent.
#pragma once

#include <array>
#include <cmath>
#include <string_view>
#include <tuple>

#include "unit_scaling/core/check.hpp"
#include "unit_scaling/core/target.hpp"
#include "unit_scaling/ops/op.hpp"
#include "unit_scaling/ops/sum.hpp"

UNIT_SCALING_IEEE_BEGIN

namespace UNIT_SCALING_NAMESPACE::ops {

/// Unit-scaled mean along the last extent: y = α/n Σ_j x_j, dx_j = β/n dy.
/// Shapes: x and dx (…, n), y and dy (…), n at least 1; a single number is its own mean.
/// Units:  x ~ N(0,1), dy ~ N(0,1) give unit std of y and dx (without a constraint).
/// Scales: α = n^½, β = n; the constraint binds both. u-μP, which does not list it, the same.
///         What is computed is that of `sum`, whose factors are these over n.
/// Values: as for `sum`: in P::compute, rounded once; the mean of finite numbers is finite.
/// Errors: as for `sum`, over n: with α = 1 and x constant, y is within 12 u of it,
///         relatively, u = 2⁻²⁴.
/// @throws DomainError if n is 0; ShapeError if dy does not have the shape of y.
/// @see Blake et al. 2023, arXiv:2303.11257, section 4.
struct Mean {
  static constexpr std::string_view name = "mean";
  static constexpr bool accepts(std::size_t arguments) { return arguments == 1; }
  static constexpr OpTraits traits{.has_homogeneity = true, .has_item_counts = true};

  Scaling scaling = scaling::inherited;

  template <class T> [[nodiscard]] Scales<1> scales(const Array<T>& x) const {
    require(x.columns() != 0, name, "expected a last extent of at least 1, got ", x.shape());
    return factors(static_cast<double>(x.columns()));
  }

  /// One number made of a batch's is taken for its loss, whose items are what the mean is over.
  template <class T> [[nodiscard]] std::array<ItemCount, 1> item_counts(const Array<T>& x) const {
    if (x.shape().rank() != 1 || x.empty()) return {};
    ItemCount count = item_count(x.columns(), 1);
    if (scaling.rule == Rule::none) return {count};
    const Constraint constraint = scaling.effective_constraint();
    if (constraint.combine == nullptr) return {};
    count.shared = {
        .constraint = constraint, .inputs = 1, .factors = {{{1, -0.5}, {1, -1}}}};  // α and β
    return {count};
  }

  [[nodiscard]] static Homogeneity homogeneity(const Scales<1>& s) {
    return Homogeneity::linear(s.forward);
  }

  template <Precision P, class T>
  [[nodiscard]] auto forward(P precision, const Scales<1>& s, const Array<T>& x) const {
    return Sum{}.forward(precision, per_term(s, x.shape()), x);
  }

  template <Precision P, class T>
  [[nodiscard]] auto backward(P precision, const Scales<1>& s, const std::tuple<Shape>& saved,
                              const Array<T>& dy) const {
    const Shape& shape = std::get<0>(saved);
    require_same_shape(name, "dy and y", dy.shape(), Sum::without_last(shape));
    return Sum{}.backward(precision, per_term(s, shape), saved, dy);
  }

 private:
  [[nodiscard]] Scales<1> factors(double n) const {
    if (scaling.rule == Rule::none) return {};
    return constrain<1>(scaling.effective_constraint(),
                        Scales<1>{.forward = std::sqrt(n), .backward = {n}});
  }

  static Scales<1> per_term(const Scales<1>& s, const Shape& shape) {
    const auto n = static_cast<double>(shape.columns());
    return {.forward = s.forward / n, .backward = {s.backward[0] / n}};
  }
};
inline constexpr Apply<Mean> mean{};

}  // namespace UNIT_SCALING_NAMESPACE::ops

UNIT_SCALING_IEEE_END
